"""A graph made for one example, computed on many: where the batch is, in tensors that an exporter has written for batch 1.

Files name the batch in constants and sizes: ``reshape(1, -1)``, ``reshape(b * groups, ...)``, a grid of coordinates of shape
(1, 2, height, width). Here every tensor gets a ``Place``, the axis that the batch multiplies; with it, views and constant
operands follow the batch that comes in. ``batchproof`` tells whether the result is right for the whole network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

from torch import Tensor

from mcuprune.graph.network import Network, Node, Shape
from mcuprune.immutable import immutable
from mcuprune.operators import attributes
from mcuprune.operators.table import OPS, Elementwise

#: Operators that give the elements of their input, in the same order, another shape.
VIEWS = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})


@immutable
class Place:
    """Which axis of a tensor the batch multiplies. Its parts, outermost first: ``outer``, the batch, the rest."""

    axis: int
    outer: int = 1


def places(net: Network) -> dict[str, Place]:
    """The place of the batch in every tensor where it is known. It is the first axis of every input."""
    places = {name: Place(0) for name in net.inputs if net.shapes[name]}
    for node in net.nodes:
        sources = [name for name in node.inputs if name in places]
        for output in node.outputs:
            after = net.shapes.get(output, ())
            if sources and after and (place := _carried(node, net, sources[0], places[sources[0]], after)) is not None:
                places[output] = place
    return places


def _carried(node: Node, net: Network, source: str, place: Place, after: Shape) -> Place | None:
    """Where the batch is after a node. ``after``: its output's shape at batch 1."""
    before = net.shapes[source]
    if node.op in VIEWS or drops_axis(node, net):
        return _in_view(before, after, place)
    axis: int | None = place.axis + len(after) - len(before)  # broadcasting puts axes in front
    if node.op == "Transpose":
        axis = attributes.permutation(node, len(before)).index(place.axis)
    elif node.op in ("ArgMax", "ArgMin") or node.op.startswith("Reduce"):
        axis = _after_reduction(node, len(before), place.axis)
    elif node.op == "Gather":
        gathered = attributes.axis(node, len(before))
        axis = None if gathered == place.axis else place.axis + (len(after) - len(before) if gathered < place.axis else 0)
    if axis is None or not 0 <= axis < len(after):
        return None
    return Place(axis, place.outer if after[axis] == before[place.axis] else 1)


def _after_reduction(node: Node, rank: int, axis: int) -> int | None:
    reduced = attributes.reduced_axes(node, rank) if node.op.startswith("Reduce") else (attributes.axis(node, rank),)
    if node.get("keepdims"):
        return axis
    return None if axis in reduced else axis - sum(each < axis for each in reduced)


def drops_axis(node: Node, net: Network) -> bool:
    """Whether a node is a Gather of the only element along an axis, which takes that axis away: x[0] at batch 1."""
    if node.op != "Gather" or not isinstance(node.attrs["indices"], int):
        return False
    before = net.shapes[node.inputs[0]]
    return bool(before[attributes.axis(node, len(before))] == 1)


def _in_view(before: Shape, after: Shape, place: Place) -> Place | None:
    """The place in the same elements of another shape: the axis that starts where the batch does, or contains it.

    Several axes can be meant, since a batch of rows is the same elements as rows of a batch. The last axis holds features and
    is the batch's only where no other can be; an axis of size 1 is the batch's own, best at the index that it had.
    """
    first = prod(before[: place.axis]) * place.outer
    candidates = []
    for axis, size in enumerate(after):
        start = prod(after[:axis])
        if start and first % start == 0 and size % (first // start) == 0:
            candidates.append(Place(axis, first // start))

    def less_likely(at: Place) -> tuple[bool | int, ...]:
        return at.axis == len(after) - 1, at.outer, after[at.axis] != 1, at.axis != place.axis, at.axis

    return min(candidates, key=less_likely, default=None)


def _grown(x: Tensor, alone: Shape, place: Place | None) -> tuple[Place, int] | None:
    """Where a tensor is larger than at batch 1, and how many times; None where it is not. Raises ValueError for a puzzle."""
    if tuple(x.shape) == tuple(alone):
        return None
    axes = [axis for axis, (now, then) in enumerate(zip(x.shape, alone, strict=False)) if now != then]
    if x.ndim != len(alone) or len(axes) != 1 or not alone[axes[0]] or x.shape[axes[0]] % alone[axes[0]]:
        raise ValueError(f"the batch can't be told in {list(x.shape)}, which is {list(alone)} for one example")
    axis = axes[0]
    return place if place and place.axis == axis else Place(axis), x.shape[axis] // alone[axis]


def view(node: Node, net: Network, known: Mapping[str, Place]) -> Callable[..., Tensor]:
    """The kernel of one of VIEWS: the output's shape at batch 1, with the batch in its place."""
    source = node.inputs[0]
    before, after = net.shapes[source], net.shapes[node.outputs[0]]

    def run(x: Tensor, *_: Tensor) -> Tensor:
        grown = _grown(x, before, known.get(source))
        if grown is None:
            return x.reshape(after)
        place, times = grown
        there = _in_view(before, after, place)
        if there is None:
            raise ValueError(f"a batch in axis {place.axis} of {list(before)} has no place in {list(after)}")
        return x.reshape([size * times if axis == there.axis else size for axis, size in enumerate(after)])

    return run


def spreader(node: Node, net: Network, known: Mapping[str, Place]) -> Callable[[list[Tensor]], list[Tensor]] | None:
    """What makes the constant operands of a node as large as its batch; None where no operand could be too small for one.

    Concat wants operands of one size; elementwise operators and matrix products repeat an axis of size 1 by themselves.
    """
    names = [name for name in node.inputs if name]
    data = next((index for index, name in enumerate(names) if not net.is_constant(name)), None)
    constants = [index for index, name in enumerate(names) if net.is_constant(name)]
    if data is None or not constants or not (node.op in ("Concat", "MatMul") or type(OPS[node.op]) is Elementwise):
        return None
    alone = net.shapes[names[data]]
    joined = attributes.axis(node, len(alone)) if node.op == "Concat" else None

    def run(operands: list[Tensor]) -> list[Tensor]:
        grown = _grown(operands[data], alone, known.get(names[data]))
        if grown is None or grown[0].axis == joined:
            return operands
        place, times = grown
        spread = list(operands)
        for index in constants:
            axis = place.axis + operands[index].ndim - len(alone)  # shapes are aligned at their ends
            size = operands[index].shape[axis] if axis >= 0 else 1
            if size == alone[place.axis] and (size > 1 or joined is not None):
                spread[index] = _repeated(operands[index], axis, place.outer, times)
        return spread

    return run


def _repeated(x: Tensor, axis: int, outer: int, times: int) -> Tensor:
    """``x`` for a batch: an axis of ``outer`` parts becomes ``outer`` parts of ``times`` copies each."""
    before: Sequence[int] = x.shape[:axis]
    after: Sequence[int] = x.shape[axis + 1 :]
    parts = x.reshape(*before, outer, 1, x.shape[axis] // outer, *after)
    return parts.expand(*before, outer, times, x.shape[axis] // outer, *after).reshape(*before, times * x.shape[axis], *after)
