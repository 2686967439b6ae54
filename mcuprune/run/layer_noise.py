"""What int8 costs in each layer: the signal-to-noise ratio of what it makes, against the same network in floats.

The float network is the one that the file was made of, before anything was rounded, with the same weights. A layer is what lies
between two quantised tensors of the file, as in ``layerwise``. Each is measured twice: in the file as it runs, where the noise
of all layers before it comes in, and alone, on the inputs that it has in floats: then what is left is the rounding of its
weights and of what it makes, and the layer that spoils a network has a name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

from mcuprune.data.sets import Split
from mcuprune.graph.network import Network
from mcuprune.immutable import immutable
from mcuprune.run import layerwise
from mcuprune.train import evaluate
from mcuprune.train.tasks.metrics import Noise

Array = np.ndarray[Any, Any]
#: Examples that it is measured on: every one of them has as many numbers as the layer's output.
_EXAMPLES = 128
#: Examples are run together while all that the layers make of them takes no more bytes than this.
_BYTES, _MOST = 64 * 2**20, 64


@immutable
class LayerNoise:
    """node: the first of the layer. tensor: what it makes.

    snr_db: in the file as it runs. own_snr_db: of this layer alone. None where nothing varies, or nothing differs.
    """

    node: str
    tensor: str
    snr_db: float | None
    own_snr_db: float | None


@immutable
class Int8Layers:
    """The layers of an int8 file in its order, and how many examples they were measured on.

    Of a file in row bands, the layers whose output is whole.
    """

    examples: int
    layers: tuple[LayerNoise, ...]

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        return {"examples": self.examples, "layers": [asdict(layer) for layer in self.layers]}

    @classmethod
    def of_document(cls, stored: Mapping[str, Any]) -> Int8Layers:
        """What ``document`` gave."""
        return cls(stored["examples"], tuple(LayerNoise(**layer) for layer in stored["layers"]))


def layer_noise(path: str | Path, written: Network, floats: Network, split: Split) -> Int8Layers:
    """The noise of every layer of the file at ``path`` on up to 128 examples, spread evenly over the split.

    written: the file, read. floats: the network that it was made of; its tensors have the file's names.
    """
    model = onnx.load(str(path))
    nodes = {
        name: node
        for name, node in layerwise.quantised(model, written).items()
        if floats.shapes.get(name) == written.shapes[name] and written.shapes[name][:1] == (1,)
    }
    whole, alone = ({name: Noise() for name in nodes} for _ in range(2))
    chosen = np.unique(np.linspace(0, len(split) - 1, _EXAMPLES).astype(np.int64))
    for wanted, seen, own in _computed(model, written, floats, list(nodes), _batches(split, chosen, written, nodes)):
        for name in nodes:
            whole[name].add(seen[name], wanted[name])
            alone[name].add(own[name], wanted[name])
    layers = tuple(LayerNoise(node, name, _rounded(whole[name]), _rounded(alone[name])) for name, node in nodes.items())
    return Int8Layers(len(chosen), layers)


def _rounded(noise: Noise) -> float | None:
    return None if noise.snr_db is None else round(noise.snr_db, 2)


def _batches(split: Split, chosen: Array, net: Network, tensors: Mapping[str, str]) -> Iterator[list[Array]]:
    """The examples, so many at a time that three times all tensors of them fit in ``_BYTES``: one array for each input."""
    bytes_each = 4 * 3 * sum(prod(net.shapes[name]) for name in tensors)
    size = max(1, min(_MOST, _BYTES // max(1, bytes_each)))
    for start in range(0, len(chosen), size):
        yield [np.asarray(column[chosen[start : start + size]]) for column in split.inputs]


def _computed(
    model: ModelProto, net: Network, floats: Network, tensors: Sequence[str], batches: Iterator[list[Array]]
) -> Iterator[tuple[Mapping[str, Array], ...]]:
    """Of each batch: the tensors in floats, in the file as it runs, and of each layer alone."""
    read = {name for node in model.graph.node for name in node.input}
    given = [name for name in tensors if name in read]
    exact, cut = layerwise.watched(model, net, tensors), layerwise.watched(layerwise.severed(model, given), net, tensors)
    for value in cut.graph.input[-len(given) :] if given else ():
        sizes = net.shapes[value.name.removesuffix(layerwise.given(""))]
        value.type.tensor_type.shape.dim.add().dim_param = f"{value.name}/batch"
        for size in sizes[1:]:
            value.type.tensor_type.shape.dim.add().dim_value = size
    runs = [_Runner(proto, net.path) for proto in (layerwise.watched(floats.to_proto(), floats, tensors), exact, cut)]
    for inputs in batches:
        wanted = runs[0](inputs)
        yield wanted, runs[1](inputs), runs[2]([*inputs, *(wanted[name] for name in given)])


class _Runner:
    """A file in onnxruntime, without its graph optimisation: inputs in their order -> every output by its name."""

    def __init__(self, model: ModelProto, name: str) -> None:
        for value in model.graph.output:  # sizes are the batch's, whatever was declared
            value.type.tensor_type.ClearField("shape")
        self._names = [value.name for value in model.graph.output]
        self._model = evaluate.Model(model.SerializeToString(), name=name)

    def __call__(self, inputs: Sequence[Array]) -> dict[str, Array]:
        return dict(zip(self._names, self._model.outputs(inputs), strict=True))
