"""Layer by layer: does a runtime compute each layer of an int8 file as ONNX defines it, given the same inputs?

A layer is what lies between two quantised tensors. ``watched`` makes every quantised tensor an output of the file, so that a
runtime tells them all; ``Layers`` cuts the ONNX file there, so that onnxruntime computes every layer anew from the integers
that the runtime had in front of it. Differences of earlier layers are in both and cancel: what is left is this layer's own
rounding. It doesn't grow with depth, as differences at the outputs of a network do, and the first layer that is wrong has a
name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

from mcuprune.deploy.tflite import Port
from mcuprune.graph.network import Network
from mcuprune.immutable import immutable
from mcuprune.run import runners
from mcuprune.train import evaluate

Array = np.ndarray[Any, Any]
#: One layer rounds: once into its output's steps, and kernels of pools, logarithms and resizes once before that. No operator's
#: kernel was further from ONNX than this.
MAX_LSB = 2


@immutable
class Layer:
    """How far one layer is from onnxruntime's, given the same inputs.

    node: its first. tensor: what it makes. max_lsb: the largest difference in steps of the tensor's quantiser. drift: as many
    steps more are what a Resize's kernel is off for the places that it rounds.
    """

    node: str
    tensor: str
    max_lsb: int
    drift: int = 0

    @property
    def ok(self) -> bool:
        """Whether it differs by no more than rounding, of numbers and of places."""
        return self.max_lsb <= MAX_LSB + self.drift


def quantised(model: ModelProto, net: Network) -> dict[str, str]:
    """Tensors that nodes compute and QuantizeLinear and DequantizeLinear pass through -> the node, in the order of the file.

    Of several nodes that make up a layer, such as a convolution and its activation, the first stands for it.
    """
    maker = {name: node for node in model.graph.node for name in node.output}

    def first(node: NodeProto) -> NodeProto:
        while (before := maker.get(node.input[0]) if node.input else None) is not None and before.op_type != "DequantizeLinear":
            node = before
        return node

    nodes_of: dict[str, str] = {}
    for node in model.graph.node:
        stored = maker.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        source = maker.get(stored.input[0]) if stored is not None and stored.op_type == "QuantizeLinear" else None
        if source is not None and node.output[0] in net.shapes:
            layer = first(source)
            nodes_of[node.output[0]] = layer.name or layer.output[0]
    return nodes_of


def watched(model: ModelProto, net: Network, tensors: Iterable[str] | None = None) -> ModelProto:
    """The file with tensors as outputs, after those that it has: every quantised one where none are named."""
    copy = ModelProto()
    copy.CopyFrom(model)
    there = {value.name for value in copy.graph.output}
    for name in quantised(model, net) if tensors is None else tensors:
        if name not in there:
            copy.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, net.shapes[name]))
    return copy


def severed(model: ModelProto, tensors: Collection[str]) -> ModelProto:
    """The file cut at tensors: what reads one reads an input of the name ``given`` in its place. Sizes are left open."""
    cut = ModelProto()
    cut.CopyFrom(model)
    for value in cut.graph.output:  # sizes are this file's batch's, whatever was declared
        value.type.tensor_type.ClearField("shape")
    for node in cut.graph.node:
        node.input[:] = [given(name) if name in tensors else name for name in node.input]
    for name in tensors:
        cut.graph.input.append(helper.make_tensor_value_info(given(name), TensorProto.FLOAT, None))
    del cut.graph.value_info[:]
    return cut


def given(tensor: str) -> str:
    """What a severed file calls the input for a tensor's readers."""
    return f"{tensor}/given"


class Layers:
    """The layers of an int8 file, each computed by onnxruntime from given inputs.

    model: as ``watched`` returns it. ports: of its outputs, by their names. adrift: what ``Program.adrift`` says of the program
    that they belong to.
    """

    def __init__(self, model: ModelProto, net: Network, ports: Mapping[str, Port], adrift: Mapping[int, float]) -> None:
        self._nodes = {name: node for name, node in quantised(model, net).items() if name in ports}
        self._ports = ports
        self._session = evaluate.session(severed(model, self._nodes).SerializeToString(), name=net.path)
        self._outputs = [value.name for value in self._session.get_outputs()]
        self._used = {value.name for value in self._session.get_inputs()}
        leading = {
            value.name: value.shape[0] for value in self._session.get_inputs() if value.name in net.inputs and value.shape
        }
        fixed = [size // net.shapes[name][0] for name, size in leading.items() if isinstance(size, int)]
        self._times = max(1, *fixed) if fixed else 1  # a larger batch that the file fixes; a leading axis may be no batch, too
        self._most = dict.fromkeys(self._nodes, 0)
        self._drift = {name: ceil(adrift.get(ports[name].tensor, 0.0)) for name in self._nodes}

    def compare(self, inputs: Mapping[str, Array], computed: Mapping[str, Array]) -> None:
        """Take in one example. inputs: reals, as the file takes them. computed: the integers that the runtime made of it."""
        reals = {given(name): runners.real(computed[name], self._ports[name]) for name in self._nodes}
        used = {name: x for name, x in {**inputs, **reals}.items() if name in self._used}
        fed = {name: np.concatenate([x] * self._times) if x.ndim else np.asarray(x) for name, x in used.items()}
        for name, value in zip(self._outputs, evaluate.run(self._session, fed), strict=True):
            if name in self._nodes:
                example_value = value.reshape(self._times, *computed[name].shape)[0]
                apart = np.abs(runners.stored(example_value, self._ports[name]) - computed[name].astype(np.int64))
                self._most[name] = max(self._most[name], int(apart.max(initial=0)))

    def differences(self) -> Sequence[Layer]:
        """The layers in the order of the file, with the largest differences of all examples so far."""
        return [Layer(node, name, self._most[name], self._drift[name]) for name, node in self._nodes.items()]
