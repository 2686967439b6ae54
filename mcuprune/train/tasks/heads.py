"""How a network ends: what each of its outputs is, and which tensor losses are taken of.

Losses of classes and scores are taken of logits: their gradient doesn't vanish where an answer is sure and wrong. Where an
output is what a last Softmax, LogSoftmax or Sigmoid gives, the logits are what that node reads. What stands behind it then
works on the logits (``tail``), so that they lie as the output's elements do. That must be the same as behind it: a Softmax
shares out among all that it reads, and where some of these are dropped or join others, the output has no logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any, Literal

import numpy as np

from mcuprune.graph.network import Network, Shape, is_float
from mcuprune.graph.node import Node
from mcuprune.immutable import immutable
from mcuprune.operators import attributes
from mcuprune.operators.picking import picked, picks
from mcuprune.operators.table import OPS, Mixer

Array = np.ndarray[Any, Any]

#: What the values of an output are. "shares": probabilities of classes by nodes that no rule here knows; "units": numbers from
#: 0 to 1, each by itself, by such nodes; "scores": numbers from 0 to 1 that a Softmax or Sigmoid has made, and others picked
#: from, averaged or padded; "steps": whole numbers, truth values and thresholds, which don't move with what they are made of.
Ending = Literal["softmax", "log_softmax", "sigmoid", "shares", "units", "scores", "steps", "none"]

_ENDINGS: dict[str, Ending] = {"Softmax": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid"}
#: The largest of what rises with x is what rises with the largest x.
_EXTREMA = frozenset({"MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMin"})
#: What makes steps of numbers that move, and floating-point numbers where no dtype says so.
_STEPS = frozenset({"ArgMax", "ArgMin", "Cast", "Ceil", "Floor", "Round", "Sign"})
#: Scaled and shifted by numbers that training may move anywhere.
_NORMALISED = frozenset({"BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization"})
#: They pass on that a number may be any, upwards at least.
_OPEN = frozenset(
    {
        *(
            "Abs",
            "Add",
            "Concat",
            "Div",
            "Elu",
            "Exp",
            "Gelu",
            "HardSwish",
            "LeakyRelu",
            "Mish",
            "Mul",
            "Neg",
            "PRelu",
            "Relu",
            "Selu",
        ),
        *("Pow", "ReduceL1", "ReduceL2", "ReduceSum", "ReduceSumSquare", "Softplus", "Sqrt", "Sub", "Sum", "Swish"),
    }
)
#: Outputs of no more numbers than this may be of a unit each; larger ones are images.
FEW = 64
#: By how much a sum of probabilities may miss 1.
_SUM = 1e-3


@immutable
class Head:
    """One output of a network.

    shape: of one example, without the batch. tensor: what the ending reads, the logits before ``tail``; the output itself where
    it has no ending that is known. axis: of ``shape``, along which a Softmax shares out; 0 without one.
    free: whether its numbers may be any, by the nodes that make them, whatever they are on some examples.
    alike: for every number of an output of up to ``FEW``, in its order, a number that those share which one channel of the last
        layer makes, as that of a convolution makes a map; () for more numbers, and where no such layer is found.
    """

    output: str
    shape: Shape
    tensor: str
    ending: Ending
    axis: int = 0
    free: bool = False
    alike: tuple[int, ...] = ()

    @property
    def is_row(self) -> bool:
        """Whether it is one row of several numbers for an example."""
        return prod(self.shape) == max(self.shape, default=1) > 1

    @property
    def is_single(self) -> bool:
        """Whether it is one number for an example."""
        return prod(self.shape) == 1


def answer_shape(net: Network, output: str) -> Shape:
    """The shape of an output for one example, without the batch; a file made for one example may leave that axis out."""
    shape = net.shapes[output]
    return shape[1:] if shape[:1] == (1,) else shape


def heads(net: Network) -> tuple[Head, ...]:
    """The outputs of a network, in its order, by its nodes alone (``recognised`` adds what their values tell)."""
    return tuple(replace(_head(net, name), alike=_alike(net, name)) for name in net.outputs)


def _alike(net: Network, name: str) -> tuple[int, ...]:
    """``Head.alike``."""
    layer = last_layer(net, name) if prod(net.shapes[name]) <= FEW else None
    return () if layer is None else tuple(int(channel) for channel in layer.of_weight)


def tail(net: Network, head: Head) -> tuple[tuple[Node, str], ...]:
    """What stands behind the ending of an output, with the tensor of each that goes on.

    Fed with ``head.tensor`` in place of what the ending gives, these nodes give the logits of the output.
    """
    behind, tensor = list[tuple[Node, str]](), head.output
    while tensor != head.tensor:
        behind.append((net.producer[tensor], tensor))
        tensor = behind[-1][0].inputs[0]
    return tuple(reversed(behind[:-1]))


def _head(net: Network, name: str) -> Head:
    shape = answer_shape(net, name)
    tensor, behind = name, list[tuple[Node, str]]()
    while (node := net.producer.get(tensor)) is not None and (picks(node, net) or node.op in _EXTREMA):
        behind.append((node, tensor))
        tensor = node.inputs[0]
    if node is not None and node.op == "Sigmoid":
        is_row = prod(shape) == max(shape, default=1)
        return Head(name, shape, node.inputs[0], "sigmoid", int(np.argmax(shape)) if is_row and shape else 0)
    if node is not None and node.op in _ENDINGS and (axis := _shared_out(net, node, behind[::-1], shape)) is not None:
        return Head(name, shape, node.inputs[0], _ENDINGS[node.op], axis)
    if _is_stepped(net, name):
        return Head(name, shape, name, "steps")
    return Head(name, shape, name, "scores" if _has_scores(net, name) else "none", free=_is_free(net, name))


def _shared_out(net: Network, node: Node, behind: Sequence[tuple[Node, str]], shape: Shape) -> int | None:
    """The axis of an output, without the batch, along which it has all that a Softmax shares out among, and nothing else.

    behind: what stands between, with the tensor of each that goes on. shape: of the output. None where there is no such axis.
    """
    before = net.shapes[node.outputs[0]]
    mixed = attributes.softmax_axes(node, net)
    groups = np.arange(prod(size for axis, size in enumerate(before) if axis not in mixed))
    groups = np.broadcast_to(groups.reshape([1 if axis in mixed else size for axis, size in enumerate(before)]), before)
    members, places = prod(before[axis] for axis in mixed), np.arange(prod(before)).reshape(before)
    for each, output in behind:
        if each.op in _EXTREMA:
            return None
        groups, places = (picked(each, net, output, array) for array in (groups, places))
    for axis, size in enumerate(shape):
        lines, ids = (np.moveaxis(array.reshape(shape), axis, -1).reshape(-1, size) for array in (groups, places))
        if size == members and (lines == lines[:, :1]).all() and (np.diff(np.sort(ids, 1), axis=1) > 0).all():
            return axis
    return None


def _has_scores(net: Network, name: str) -> bool:
    """Whether every number of a tensor is one that a Softmax or Sigmoid has made, or lies between some, or 0 and 1."""
    while (node := net.producer.get(name)) is not None:
        if node.op in ("Softmax", "Sigmoid"):
            return True
        padded = node.op == "Pad" and node.get("mode") == "constant" and not 0 <= float(node.get("value") or 0) <= 1
        if padded or (OPS[node.op].scale(node, net) != "same" and OPS[node.op].numbers(node) != "between"):
            return False
        name = node.inputs[0]
    return False


def _is_stepped(net: Network, tensor: str) -> bool:
    """Whether a tensor's numbers go in steps, so that nothing can be learned through them."""
    while (node := net.producer.get(tensor)) is not None and picks(node, net):
        tensor = node.inputs[0]
    if node is None:
        return False
    chosen = node.op == "Where" and all(map(net.is_constant, node.inputs[1:]))
    return chosen or node.op in _STEPS or not is_float(net.dtypes[tensor])


def before_steps(net: Network, output: str) -> str | None:
    """The last tensor on the way to an output whose numbers don't go in steps; None where that is an input."""
    while _is_stepped(net, output):
        node = net.producer[output]
        output = next((name for name in node.inputs if not net.is_constant(name)), node.inputs[0])
    return output if output in net.producer else None


def _is_free(net: Network, tensor: str) -> bool:
    """Whether a tensor's numbers may be any: weighted sums, and what passes them on. What other nodes make, values tell."""
    todo, seen = [tensor], set[str]()
    while todo:
        name = todo.pop()
        node = net.producer.get(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        if isinstance(OPS[node.op], Mixer) or node.op in _NORMALISED:
            return True
        if picks(node, net) or OPS[node.op].scale(node, net) == "same" or OPS[node.op].numbers(node) == "between":
            todo.append(node.inputs[0])
        elif node.op in _OPEN and not (node.op == "Div" and not net.is_constant(node.inputs[1])):
            todo += [other for other in node.inputs if other and not net.is_constant(other)]
    return False


def recognised(heads: tuple[Head, ...], outputs: list[Array]) -> tuple[Head, ...]:
    """The same heads; one whose values are probabilities, by whatever nodes, says so.

    outputs: what the network answers to some examples: of each output one array (examples, ...).
    """
    return tuple(_by_values(head, values) for head, values in zip(heads, outputs, strict=True))


def _by_values(head: Head, values: Array) -> Head:
    if head.free or head.ending not in ("none", "scores") or not values.size or values.min() < 0 or values.max() > 1 + _SUM:
        return head
    for axis, size in enumerate(head.shape):
        if size > 1 and np.abs(values.sum(axis + 1) - 1).max() < _SUM:
            return replace(head, ending="shares", axis=axis)
    return head if head.ending == "scores" else replace(head, ending="units")


@immutable
class LastLayer:
    """The convolution or matrix product that gives an output, places and fixed scales aside.

    weight, bias: constants of its own.
    axis: of the weight, along which its numbers at a place lie. of_weight, of_bias: for every element of the output, in its
    order, which of these numbers, and of the bias's, it is made with. gain, offset: what constants behind it make of each: the
    output is ``gain`` times the layer's number, and ``offset``.
    """

    weight: str
    bias: str | None
    axis: int
    of_weight: Array
    of_bias: Array
    gain: Array
    offset: Array


def last_layer(net: Network, output: str) -> LastLayer | None:
    """The layer that gives an output; None where something else does, or something makes new numbers of its numbers."""
    node, behind, gain, offset = _scaled(net, output)
    if not np.isfinite(gain).all() or not gain.all():
        return None
    bias, of_bias, between = None, None, list[tuple[Node, str]]()
    if node is not None and node.op == "Add":
        stored = [name for name in node.inputs if net.is_constant(name)]
        computed = [name for name in node.inputs if not net.is_constant(name)]
        if len(stored) != 1 or len(computed) != 1:
            return None
        bias, joined = stored[0], node.outputs[0]
        numbered = np.arange(net.constants[bias].size).reshape(net.shapes[bias])
        of_bias = _moved(net, behind, np.broadcast_to(numbered, net.shapes[joined]))
        node, between = _maker(net, computed[0])
        if net.shapes[computed[0]] != net.shapes[joined]:
            return None
    if node is None or node.op not in ("Conv", "Gemm", "MatMul") or not net.is_constant(node.inputs[1]):
        return None
    weight, axis = node.inputs[1], 0 if node.op == "Conv" or node.get("transB") else 1
    if bias is None and len(node.inputs) > 2 and node.inputs[2]:
        bias = node.inputs[2]
    own = all(len(net.consumers[name]) == 1 for name in (weight, bias) if name is not None)
    if not own or net.constants[weight].ndim < 2:
        return None
    outs = net.shapes[weight][axis]
    if bias is not None and not (net.is_constant(bias) and net.constants[bias].size == outs):
        return None
    shape = net.shapes[node.outputs[0]]
    along = [-1 if at == (1 if node.op == "Conv" else len(shape) - 1) else 1 for at in range(len(shape))]
    of_weight = _moved(net, [*between, *behind], np.broadcast_to(np.arange(outs).reshape(along), shape))
    return LastLayer(weight, bias, axis, of_weight, of_weight if of_bias is None else of_bias, gain, offset)


def _scaled(net: Network, output: str) -> tuple[Node | None, list[tuple[Node, str]], Array, Array]:
    """What makes an output but for scales and offsets by constants: the node, what picks behind it, and both for each element.

    A sum with a constant right behind a layer is that layer's bias, and no offset.
    """
    size = prod(net.shapes[output])
    gain, offset = np.ones(size), np.zeros(size)
    node, behind = _maker(net, output)
    while node is not None and node.op in ("Mul", "Div", "Add", "Sub") and len(node.inputs) == 2:
        left, right = node.inputs
        by, of = (left, right) if net.is_constant(left) else (right, left)
        source, more = _maker(net, of)
        layer = source is not None and isinstance(OPS[source.op], Mixer)
        joined = node.outputs[0]
        if not net.is_constant(by) or net.shapes[of] != net.shapes[joined] or (node.op == "Add" and layer):
            break
        if node.op == "Div" and by == left:
            break
        number = _moved(net, behind, np.broadcast_to(net.constants[by].astype(np.float64), net.shapes[joined]))
        if node.op in ("Mul", "Div"):
            with np.errstate(divide="ignore"):  # whoever asked refuses a gain that is no number
                gain = gain * number if node.op == "Mul" else gain / number
        else:
            offset = offset + gain * number * (-1 if node.op == "Sub" and by == right else 1)
            gain = -gain if node.op == "Sub" and by == left else gain
        node, behind = source, [*more, *behind]
    return node, behind, gain, offset


def _maker(net: Network, tensor: str) -> tuple[Node | None, list[tuple[Node, str]]]:
    """The node that makes a tensor's numbers, and what stands behind it and only picks, with the tensor of each that goes on.

    No node for an input of the network.
    """
    behind = list[tuple[Node, str]]()
    while (node := net.producer.get(tensor)) is not None and picks(node, net):
        behind.append((node, tensor))
        tensor = node.inputs[0]
    return node, behind[::-1]


def _moved(net: Network, behind: Sequence[tuple[Node, str]], given: Array) -> Array:
    """The elements of an array as nodes that pick leave them, flat."""
    for node, output in behind:
        given = picked(node, net, output, given)
    return given.ravel()
