"""How a network ends: what each of its outputs is, and which tensor losses are taken of.

Losses of classes and scores are taken of logits: their gradient doesn't vanish where an answer is sure and wrong. Where an
output is what a last Softmax, LogSoftmax or Sigmoid gives, the logits are what that node reads.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any, Literal

import numpy as np

from mcuprune.graph.network import Network, Shape
from mcuprune.graph.node import Node
from mcuprune.immutable import immutable
from mcuprune.operators import attributes
from mcuprune.operators.table import OPS

#: What the values of an output are. "shares": probabilities of classes by nodes that no rule here knows; "units": numbers from
#: 0 to 1, each by itself, by such nodes.
Ending = Literal["softmax", "log_softmax", "sigmoid", "shares", "units", "none"]

_ENDINGS: dict[str, Ending] = {"Softmax": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid"}
#: Operators after which every element is where it was.
_KEEP_PLACES = frozenset({"Identity", "Dropout", "QuantizeLinear", "DequantizeLinear"})
#: By how much a sum of probabilities may miss 1.
_SUM = 1e-3


@immutable
class Head:
    """One output of a network.

    shape: of one example, without the batch. tensor: what the ending reads, the logits; the output itself where it has no
    ending that is known. axis: of ``shape``, along which a Softmax shares out; 0 without one.
    """

    output: str
    shape: Shape
    tensor: str
    ending: Ending
    axis: int = 0

    @property
    def is_row(self) -> bool:
        """Whether it is one row of several numbers for an example."""
        return prod(self.shape) == max(self.shape, default=1) > 1

    @property
    def is_single(self) -> bool:
        """Whether it is one number for an example."""
        return prod(self.shape) == 1


def heads(net: Network) -> tuple[Head, ...]:
    """The outputs of a network, in its order, by its nodes alone (``recognised`` adds what their values tell)."""
    return tuple(_head(net, name) for name in net.outputs)


def logits(net: Network) -> tuple[str, ...]:
    """For each output the tensor that losses are taken of."""
    return tuple(head.tensor for head in heads(net))


def _head(net: Network, name: str) -> Head:
    shape = net.shapes[name][1:]
    is_row = prod(shape) == max(shape, default=1)
    tensor = name
    while (node := net.producer.get(tensor)) is not None and _moves(node, net):
        if not is_row and node.op not in _KEEP_PLACES:
            break  # logits would lie in another order than the answers of the data
        tensor = node.inputs[0]
    if node is None or node.op not in _ENDINGS:
        return Head(name, shape, name, "none")
    axis = 0
    if is_row:
        axis = int(np.argmax(shape)) if shape else 0
    elif node.op != "Sigmoid":
        axis = max(0, attributes.softmax_axes(node, net)[0] - 1)
    return Head(name, shape, node.inputs[0], _ENDINGS[node.op], axis)


def recognised(heads: tuple[Head, ...], outputs: list[np.ndarray[Any, Any]]) -> tuple[Head, ...]:
    """The same heads; one whose values are probabilities, by whatever nodes, says so.

    outputs: what the network answers to some examples: of each output one array (examples, ...).
    """
    return tuple(_by_values(head, values) for head, values in zip(heads, outputs, strict=True))


def _by_values(head: Head, values: np.ndarray[Any, Any]) -> Head:
    if head.ending != "none" or not values.size or values.min() < 0 or values.max() > 1 + _SUM:
        return head
    for axis, size in enumerate(head.shape):
        if size > 1 and np.abs(values.sum(axis + 1) - 1).max() < _SUM:
            return replace(head, ending="shares", axis=axis)
    return replace(head, ending="units")


@immutable
class LastLayer:
    """The convolution or matrix product that gives an output as it is. weight, bias: constants that nothing else reads.

    outs: how many numbers it gives at a place. axis: of the weight, along which these lie.
    """

    weight: str
    bias: str | None
    outs: int
    axis: int


def last_layer(net: Network, output: str) -> LastLayer | None:
    """The layer that gives an output, moves of its elements aside; None where something else does."""
    node, bias = _maker(net, output), None
    if node is not None and node.op == "Add":
        stored = [name for name in node.inputs if net.is_constant(name)]
        computed = [name for name in node.inputs if not net.is_constant(name)]
        if len(stored) != 1 or len(computed) != 1:
            return None
        node, bias = _maker(net, computed[0]), stored[0]
    if node is None or node.op not in ("Conv", "Gemm", "MatMul") or not net.is_constant(node.inputs[1]):
        return None
    if bias is None and len(node.inputs) > 2 and node.inputs[2]:
        bias = node.inputs[2]
    axis = 0 if node.op == "Conv" or node.get("transB") else 1
    weight, outs = node.inputs[1], net.shapes[node.inputs[1]][axis]
    own = all(len(net.consumers[name]) == 1 for name in (weight, bias) if name is not None)
    fits = bias is None or (net.is_constant(bias) and net.constants[bias].size == outs)
    return LastLayer(weight, bias, outs, axis) if own and fits and net.constants[weight].ndim > 1 else None


def _maker(net: Network, tensor: str) -> Node | None:
    """The node that makes a tensor's numbers, moves of its elements aside; None for an input of the network."""
    while (node := net.producer.get(tensor)) is not None and _moves(node, net):
        tensor = node.inputs[0]
    return node


def _moves(node: Node, net: Network) -> bool:
    """Whether a node hands numbers on one by one; the extremum over an axis keeps their scale and is none of them by itself."""
    return OPS[node.op].scale(node, net) == "same" and not OPS[node.op].mixes(node, net)
