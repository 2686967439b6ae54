"""Proof, before any training, that the torch module gives every example of a batch what it gives that example alone.

A file may be made for one example in ways that no rule of ``batching`` covers: a first example picked, a mean over the batch,
sizes of the batch hidden in a product. Training on it would fail after minutes, or learn from mixed examples in silence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from onnx import helper
from torch import Tensor

from mcuprune.channels.labelling import Channels
from mcuprune.errors import ModelError
from mcuprune.graph.network import Network, Node
from mcuprune.train.kernels import untrainable
from mcuprune.train.module import Trainable, as_inputs

#: Examples in the batch that is tried: no power of two, so that it isn't taken for a size of the network.
_BATCH = 3
#: Rounding of float32 through a deep network, with room; mixed examples differ by their own size.
_TOLERANCE = 1e-2


def drawn(net: Network, name: str, draw: np.random.Generator) -> np.ndarray:
    """A random example for an input, in its shape and type; of integers, ones."""
    dtype = helper.tensor_dtype_to_np_dtype(net.dtypes[name])
    return np.asarray(
        draw.standard_normal(net.shapes[name]) if np.dtype(dtype).kind == "f" else np.ones(net.shapes[name]), dtype
    )


class _Watched(Trainable):
    """A ``Trainable`` that keeps every tensor it computes."""

    def __init__(self, channels: Channels) -> None:
        super().__init__(channels)
        self.seen: dict[str, Tensor] = {}

    def computed(self, tensor: str, value: Tensor) -> Tensor:
        self.seen[tensor] = value
        return value

    def all_tensors(self, *inputs: Tensor) -> dict[str, Tensor]:
        self.seen = {}
        self(*inputs)
        return self.seen


@torch.no_grad()
def prove(channels: Channels, *, several_inputs: bool = False) -> None:
    """Raises ModelError, with the node's name, where a batch doesn't give what its examples give one by one.

    UnsupportedOperator where torch can't compute a node for one example either, or where the inputs aren't those that
    training takes: one float input, unless ``several_inputs`` of any type will do. Inputs are random, from a seed.
    """
    net = channels.network
    draw = np.random.default_rng(0)
    if several_inputs:
        each = [tuple(torch.from_numpy(drawn(net, name, draw)) for name in net.inputs) for _ in range(_BATCH)]
        examples, together = each, tuple(torch.cat(parts) for parts in zip(*each, strict=True))
    else:
        single = [draw.standard_normal(net.shapes[net.inputs[0]], np.float32) for _ in range(_BATCH)]
        examples, together = [as_inputs(net, x) for x in single], as_inputs(net, np.concatenate(single))
    module = Trainable(channels).eval()
    try:
        alone = [torch.cat(parts) for parts in zip(*(module(*example) for example in examples), strict=True)]
        if all(_same(together_output, want) for together_output, want in zip(module(*together), alone, strict=True)):
            return
    except Exception:  # torch raises its own kinds for shapes that don't fit; the second run finds out where
        pass
    _explain(_Watched(channels).eval(), examples, together)


def _explain(module: _Watched, examples: Sequence[tuple[Tensor, ...]], together: tuple[Tensor, ...]) -> None:
    """Raise the error that names the first node which goes wrong."""
    net = module.source
    try:
        runs = [module.all_tensors(*example) for example in examples]
    except Exception as error:
        node = _unfinished(net, module.seen)
        raise untrainable(node, net, why=f"({_first_line(error)})") from None
    try:
        batch = module.all_tensors(*together)
    except Exception as error:
        raise _refusal(net, _unfinished(net, module.seen), _first_line(error)) from None
    for node in net.nodes:
        for name in node.outputs:
            if name in batch and not _joined(batch[name], [run[name] for run in runs]):
                raise _refusal(net, node, "examples of one batch change each other's results")
    node = net.producer[net.outputs[0]]
    raise _refusal(net, node, f"its output {list(batch[node.outputs[0]].shape)} isn't one row for each of {_BATCH} examples")


def _refusal(net: Network, node: Node, reason: str) -> ModelError:
    return ModelError(
        f"{net.path}: node '{node.name}' ({node.op}) is made for one example at a time, so the network can't be trained: "
        f"{reason}; export it with a free batch axis, or cut it without training: --no-train, and no --data"
    )


def _unfinished(net: Network, seen: Mapping[str, Tensor]) -> Node:
    """The node at which a run stopped."""
    return next(node for node in net.nodes if not any(name in seen for name in node.outputs))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _joined(together: Tensor, alone: list[Tensor]) -> bool:
    """Whether a tensor holds the examples' elements along some axis: one example after the other, or their elements in turn."""
    if together.ndim != alone[0].ndim:
        return False
    grown = [axis for axis in range(together.ndim) if together.shape[axis] == _BATCH * alone[0].shape[axis]]
    return any(
        _same(together, torch.cat(alone, axis)) or _same(together, torch.stack(alone, axis + 1).flatten(axis, axis + 1))
        for axis in grown
    )


def _same(output: Tensor, want: Tensor) -> bool:
    if output.shape != want.shape:
        return False
    output, want = output.double(), want.double()
    finite = torch.isfinite(want)
    apart, size = (output - want)[finite].abs(), want[finite].abs()
    return not apart.numel() or bool(apart.max() <= _TOLERANCE * max(1e-3, float(size.max())))
