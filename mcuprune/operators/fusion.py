"""What a deployed network doesn't run as written: merged operators, views, pads that a kernel does by itself.

A BatchNormalization or a constant bias right after a convolution or matrix product is folded into it; a reshape is another
name for the same bytes; a zero Pad in front of a convolution is that convolution's own padding. Costs, peak memory and the
models of runtimes all ask here, so that they agree. QuantizeLinear and DequantizeLinear are looked through everywhere: a
quantised file counts as the float file that it was made from.
"""

from __future__ import annotations

from math import prod
from typing import Any

from mcuprune.graph.network import Network, Node
from mcuprune.immutable import immutable
from mcuprune.operators.table import OPS, Dim, Mixer, Pad, Quantization
from mcuprune.schedule import search as memory

#: What pads its input by itself, so that a zero Pad in front of it costs nothing.
_PADDING_OPS = ("Conv", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")


def is_mixer(node: Node, net: Network) -> bool:
    """Whether a node is a convolution or a matrix product with constant weights."""
    return isinstance(OPS[node.op], Mixer) and any(map(net.is_constant, node.inputs[:2]))


def channel_axis(mixer: Node, net: Network) -> int:
    """The axis of a mixer's output that holds its output channels.

    Axis 1 of what a convolution or Gemm makes; of a matrix product the last axis, or the one before it where the weights
    stand on the left.
    """
    if mixer.op != "MatMul":
        return 1
    return len(net.shapes[mixer.outputs[0]]) - (1 if net.is_constant(mixer.inputs[1]) else 2)


def sole_reader(tensor: str, net: Network) -> tuple[Node, str] | None:
    """The one node that reads ``tensor``, and the name under which it does, looking through quantisation; None for several."""
    while (reader := net.sole_consumer(tensor)) is not None and isinstance(OPS[reader.op], Quantization):
        tensor = reader.outputs[0]
    return None if reader is None else (reader, tensor)


def is_bias(add: Node, data: str, mixer: Node, net: Network) -> bool:
    """Whether an Add's other operand is a constant vector over the output channels of ``mixer``."""
    other = [name for name in add.inputs if name != data]
    if len(other) != 1 or not net.is_constant(other[0]) or net.shapes[add.outputs[0]] != net.shapes[data]:
        return False
    rank = len(net.shapes[data])
    shape = (1,) * (rank - len(net.shapes[other[0]])) + net.shapes[other[0]]
    axis = channel_axis(mixer, net)
    return all(size == (net.shapes[data][axis] if i == axis else 1) for i, size in enumerate(shape))


def folded_into(net: Network) -> dict[str, str]:
    """Node -> the mixer that it is folded into: a BatchNormalization or constant bias that alone reads what the mixer gives.

    What alone reads such a node is folded likewise: behind a folded one it stands right behind the mixer.
    """
    folded: dict[str, str] = {}
    for mixer in net.nodes:
        if not is_mixer(mixer, net):
            continue
        tensor = mixer.outputs[0]
        while (reader := sole_reader(tensor, net)) is not None:
            tail, data = reader
            normalises = tail.op == "BatchNormalization" and data == tail.inputs[0] and channel_axis(mixer, net) == 1
            if not normalises and not (tail.op == "Add" and is_bias(tail, data, mixer, net)):
                break
            folded[tail.name] = mixer.name
            tensor = tail.outputs[0]
    return folded


def is_padding_of_reader(node: Node, net: Network) -> bool:
    """Whether a node is a zero Pad whose only consumer pads by itself, a convolution or a pool."""
    entry = OPS[node.op]
    if not isinstance(entry, Pad) or not entry.is_zero(node, net):
        return False
    reader = sole_reader(node.outputs[0], net)
    return reader is not None and reader[0].op in _PADDING_OPS and reader[1] == reader[0].inputs[0]


def elements(net: Network, tensor: str, dim: Dim) -> Any:
    """How many elements a tensor has, in terms of ``dim``."""
    total: Any = 1
    for axis in range(len(net.shapes[tensor])):
        total = total * dim(tensor, axis)
    return total


@immutable
class Buffers:
    """The network as the schedule search sees it.

    graph: operators and buffers; sizes in elements.
    tensors: for each buffer, the tensor that gives its size and name.
    nodes: for each operator of the graph, its node's index in the network. Views, and pads that their consumer does by
        itself, have none.
    """

    graph: memory.Graph
    tensors: tuple[str, ...]
    nodes: tuple[int, ...]

    def file_steps(self) -> tuple[memory.Step, ...]:
        """The steps of the file's own order."""
        return memory.walk(self.graph, range(len(self.graph.ops)))


def buffers(net: Network) -> Buffers:
    """Merge views, drop constants, and say which operators may write in place."""
    root: dict[str, int] = {}
    tensors: list[str] = []

    def new(tensor: str) -> int:
        root[tensor] = len(tensors)
        tensors.append(tensor)
        return root[tensor]

    inputs = tuple(new(name) for name in net.inputs)
    ops: list[memory.Op] = []
    nodes: list[int] = []
    for position, node in enumerate(net.nodes):
        data = [name for name in node.inputs if name and not net.is_constant(name)]
        kind = OPS[node.op].memory(node, net)
        if kind == "view" or is_padding_of_reader(node, net):
            root[node.outputs[0]] = root[data[0]]
            continue
        reads = tuple(dict.fromkeys(root[name] for name in data))
        new_buffers = tuple(new(name) for name in node.outputs if name)
        ops.append(memory.Op(reads, new_buffers, reads if kind == "in place" and len(new_buffers) == 1 else ()))
        nodes.append(position)
    sizes = tuple(prod(net.shapes[tensor]) for tensor in tensors)
    outputs = tuple(dict.fromkeys(root[name] for name in net.outputs))
    return Buffers(memory.Graph(tuple(ops), sizes, inputs, outputs), tuple(tensors), tuple(nodes))
