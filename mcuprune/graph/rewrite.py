"""Operators that are another way to write simpler ones, written as those.

An Einsum is matrix products, products, sums and transpositions; GatherND and GatherElements with fixed indices mostly pick
slices of axes; GroupNormalization before opset 21 is an InstanceNormalization of reshaped data; an Expand whose readers
broadcast anyway is nothing. It works on protos while a file is read, when constants and static shapes are known.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from string import ascii_letters

import numpy as np
from onnx import NodeProto, helper

from mcuprune.errors import UnsupportedOperator
from mcuprune.immutable import immutable

Shape = tuple[int, ...]

#: The first opset whose GroupNormalization has a scale for every channel, and not one for every group.
PER_CHANNEL = 21
#: Elementwise operators that broadcast every operand.
_BROADCASTING = frozenset(
    ("Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or")
) | {"PRelu", "Pow", "Sub", "Sum", "Where", "Xor"}
#: Operators of one tensor that an Expand may pass without a difference, since they cost nothing themselves.
_PASSING = frozenset(("QuantizeLinear", "DequantizeLinear", "Identity"))


@immutable
class Known:
    """What is known of a graph: constants, the shapes of tensors, all names that are taken, the opset."""

    constants: Mapping[str, np.ndarray]
    shapes: Mapping[str, Shape]
    taken: Collection[str]
    opset: int
    path: str


def lowered(
    nodes: Sequence[NodeProto], known: Known, held: Collection[str]
) -> tuple[list[NodeProto], dict[str, np.ndarray]] | None:
    """The nodes with every such operator replaced, and the constants that this adds; None where there is none.

    held: tensors that must keep their names. Raises UnsupportedOperator for a form that has no simpler one.
    """
    rewritten: list[NodeProto] = []
    constants: dict[str, np.ndarray] = {}
    taken = set(known.taken)
    changed = False
    for node in nodes:
        rewrite = _REWRITES.get(node.op_type)
        if rewrite is None or any(name not in known.shapes for name in node.input if name):
            rewritten.append(node)
            continue
        steps = _Steps(node, known, taken)
        try:
            done = rewrite(steps)
        except (ValueError, IndexError, KeyError) as error:  # attributes or shapes that don't fit each other
            raise steps.refusal(f"is malformed ({error})", "export it again") from None
        changed |= done
        rewritten += steps.nodes if done else [node]
        constants |= steps.constants
    fewer = without_needless_expands(rewritten, known, held)
    return (fewer, constants) if changed or len(fewer) < len(rewritten) else None


@dataclass
class _Steps:
    """Collects the nodes and constants that take one node's place."""

    node: NodeProto
    known: Known
    taken: set[str]
    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    fixed: set[str] = field(default_factory=set)  # tensors of these steps that follow from constants alone

    def is_constant(self, name: str) -> bool:
        return name in self.known.constants or name in self.constants or name in self.fixed

    def shape(self, name: str) -> Shape:
        return self.shapes[name] if name in self.shapes else self.known.shapes[name]

    def attribute(self, name: str, default: int) -> int:
        return next((int(a.i) for a in self.node.attribute if a.name == name), default)

    def refusal(self, what: str, then: str) -> UnsupportedOperator:
        name = self.node.name or self.node.op_type
        message = f"{self.known.path}: node '{name}': {self.node.op_type} {what}; {then}"
        return UnsupportedOperator(message, tensor=self.node.output[0])

    def _unique(self, what: str) -> str:
        name = f"{self.node.output[0]}/{what}"
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name

    def constant(self, what: str, value: np.ndarray) -> str:
        name = self._unique(what)
        self.constants[name], self.shapes[name] = value, value.shape
        return name

    def add(self, op: str, inputs: Sequence[str], shape: Shape, **attrs: object) -> str:
        """A node that makes a tensor of this shape."""
        output = self._unique(op)
        label = f"{self.node.name or self.node.output[0]}/{output.removeprefix(f'{self.node.output[0]}/')}"
        self.nodes.append(helper.make_node(op, inputs, [output], name=label, **attrs))
        self.shapes[output] = shape
        if all(map(self.is_constant, inputs)):
            self.fixed.add(output)
        return output

    def transposed(self, x: str, perm: Sequence[int]) -> str:
        if list(perm) == sorted(perm):
            return x
        return self.add("Transpose", [x], tuple(self.shape(x)[axis] for axis in perm), perm=list(perm))

    def reshaped(self, x: str, shape: Shape) -> str:
        if self.shape(x) == tuple(shape):
            return x
        return self.add("Reshape", [x, self.constant("shape", np.array(shape, np.int64))], tuple(shape))

    def summed(self, x: str, axes: Sequence[int]) -> str:
        if not axes:
            return x
        left = tuple(size for axis, size in enumerate(self.shape(x)) if axis not in axes)
        if self.known.opset < 13:
            return self.add("ReduceSum", [x], left, axes=list(axes), keepdims=0)
        return self.add("ReduceSum", [x, self.constant("axes", np.array(axes, np.int64))], left, keepdims=0)

    def gathered(self, x: str, indices: np.ndarray, axis: int) -> str:
        shape = self.shape(x)
        after = (*shape[:axis], *indices.shape, *shape[axis + 1 :])
        return self.add("Gather", [x, self.constant("indices", indices.astype(np.int64))], after, axis=axis)

    def finish(self, x: str, main: str) -> bool:
        """``x`` is the node's output. The last step of operator ``main`` takes over the node's name."""
        output = self.node.output[0]
        if self.nodes and self.nodes[-1].output[0] == x:
            self.nodes[-1].output[0] = output
        else:
            self.nodes.append(helper.make_node("Identity", [x], [output], name=f"{self.node.name or output}/Identity"))
        steps = [step for step in self.nodes if step.op_type == main] or self.nodes
        steps[-1].name = self.node.name
        return True


# ------------------------------------------------------------------------------------------------------------- Einsum


@immutable
class _Term:
    """A tensor and the index of each of its axes, one letter each."""

    name: str
    indices: str


def _einsum(steps: _Steps) -> bool:
    equation = next((a.s.decode() for a in steps.node.attribute if a.name == "equation"), "")
    parsed = _parsed(equation, [len(steps.shape(name)) for name in steps.node.input])
    if parsed is None:
        raise steps.refusal(
            f"'{equation}' is no sum of products of whole axes (a repeated index, or operands that don't fit)",
            "write it as MatMul, Mul and ReduceSum in the model, and export again",
        )
    indices, output = parsed
    sizes: dict[str, int] = {}
    for name, letters in zip(steps.node.input, indices, strict=True):
        for letter, size in zip(letters, steps.shape(name), strict=True):
            if size != 1 and sizes.get(letter, 1) not in (1, size):
                raise ValueError(f"'{equation}' has sizes {sizes[letter]} and {size} for index {letter}")
            sizes[letter] = max(size, sizes.get(letter, 1))
    terms = [_whole(steps, _Term(*pair), sizes) for pair in zip(steps.node.input, indices, strict=True)]
    result = terms[0]
    for position, term in enumerate(terms[1:], 2):
        later = {letter for other in terms[position:] for letter in other.indices}
        order = output + "".join(dict.fromkeys(result.indices + term.indices))
        here = set(result.indices) | set(term.indices)
        kept = "".join(letter for letter in dict.fromkeys(order) if letter in here and (letter in output or letter in later))
        result = _contracted(steps, result, term, kept)
    result = _without(steps, result, [letter for letter in result.indices if letter not in output])
    return steps.finish(_laid_out(steps, result, output), "MatMul")


def _parsed(equation: str, ranks: Sequence[int]) -> tuple[list[str], str] | None:
    """The indices of each operand and of the output, with every ellipsis spelled out; None for what isn't lowered."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        return None
    free = [letter for letter in ascii_letters if letter not in equation]
    hidden = [rank - len(term.replace("...", "")) if "..." in term else 0 for term, rank in zip(terms, ranks, strict=True)]
    rest = "".join(free[: max(hidden)])
    if not 0 <= max(hidden) == len(rest):
        return None
    spelled_out = []
    for term, rank, several in zip(terms, ranks, hidden, strict=True):
        spelled = term.replace("...", rest[len(rest) - several :])
        if len(spelled) != rank or len(set(spelled)) != rank or not set(spelled) <= set(ascii_letters):
            return None
        spelled_out.append(spelled)
    if not arrow:
        once = [letter for letter in sorted(set(left) - set(".,")) if left.count(letter) == 1]
        right = ("..." if "..." in left else "") + "".join(once)
    output = right.replace("...", rest)
    known = set("".join(spelled_out))
    if len(set(output)) != len(output) or not set(output) <= known:
        return None
    return spelled_out, output


def _whole(steps: _Steps, term: _Term, sizes: Mapping[str, int]) -> _Term:
    """The term without axes of size 1 whose index is longer elsewhere: those broadcast."""
    shape = steps.shape(term.name)
    kept = [axis for axis, letter in enumerate(term.indices) if shape[axis] == sizes[letter]]
    if len(kept) == len(shape):
        return term
    name = steps.reshaped(term.name, tuple(shape[axis] for axis in kept))
    return _Term(name, "".join(term.indices[axis] for axis in kept))


def _without(steps: _Steps, term: _Term, letters: Collection[str]) -> _Term:
    """The term summed over some of its indices."""
    axes = [axis for axis, letter in enumerate(term.indices) if letter in letters]
    left = "".join(letter for letter in term.indices if letter not in letters)
    return _Term(steps.summed(term.name, axes), left)


def _laid_out(steps: _Steps, term: _Term, order: str, merged: Sequence[str] = ()) -> str:
    """The tensor with its axes in the order of ``order``; an index that it lacks is an axis of size 1, unless it leads.

    merged: groups of neighbours in ``order`` that become one axis each.
    """
    name = steps.transposed(term.name, [term.indices.index(letter) for letter in order if letter in term.indices])
    sizes = dict(zip((letter for letter in order if letter in term.indices), steps.shape(name), strict=True))
    first = next((place for place, letter in enumerate(order) if letter in sizes), len(order))
    shape: list[int] = []
    groups = {group[0]: group for group in merged if group}
    skipped = {letter for group in merged for letter in group[1:]}
    for place, letter in enumerate(order):
        if letter in groups:
            shape.append(prod(sizes[index] for index in groups[letter]))
        elif letter not in skipped and place >= first:
            shape.append(sizes.get(letter, 1))
    return steps.reshaped(name, tuple(shape))


def _contracted(steps: _Steps, x: _Term, y: _Term, kept: str) -> _Term:
    """The product of two terms, summed over every index that isn't kept."""
    x = _without(steps, x, set(x.indices) - set(y.indices) - set(kept))
    y = _without(steps, y, set(y.indices) - set(x.indices) - set(kept))
    shared = "".join(letter for letter in x.indices if letter in y.indices and letter not in kept)
    if not shared:
        operands = [_laid_out(steps, term, kept) for term in (x, y)]
        return _Term(steps.add("Mul", operands, _broadcast(steps, operands)), kept)
    alone = [[letter for letter in kept if letter in a.indices and letter not in b.indices] for a, b in ((x, y), (y, x))]
    both = [letter for letter in kept if letter in x.indices and letter in y.indices]
    if steps.is_constant(x.name):
        x, y, alone = y, x, alone[::-1]
    if steps.is_constant(y.name) and not both:
        return _layer(steps, x, y, shared, "".join(alone[1]))
    if not alone[0] and not alone[1]:
        operands = [x.name, _laid_out(steps, y, x.indices)]
        product = _Term(steps.add("Mul", operands, _broadcast(steps, operands)), x.indices)
        return _without(steps, product, shared)
    return _product(steps, x, y, kept, shared, alone)


def _layer(steps: _Steps, x: _Term, weight: _Term, shared: str, free: str) -> _Term:
    """Data times a constant matrix: (..., shared) by (shared, free)."""
    rows = "".join(letter for letter in x.indices if letter not in shared)
    shared = "".join(letter for letter in x.indices if letter in shared)
    data = _laid_out(steps, x, rows + shared, [shared])
    shape = steps.shape(weight.name)
    sizes = [shape[weight.indices.index(letter)] for letter in free]
    ordered = steps.transposed(weight.name, [weight.indices.index(letter) for letter in shared + free])
    matrix = steps.reshaped(ordered, (steps.shape(data)[-1], prod(sizes)))
    before = steps.shape(data)[:-1]
    product = steps.add("MatMul", [data, matrix], (*before, prod(sizes)))
    return _Term(steps.reshaped(product, (*before, *sizes)), rows + free)


def _product(steps: _Steps, x: _Term, y: _Term, kept: str, shared: str, alone: Sequence[Sequence[str]]) -> _Term:
    """A matrix product of the last index that each operand has alone; all others are batches, which broadcast."""
    (row, column) = (own[-1] if own else "" for own in alone)
    if row and column and kept.index(row) > kept.index(column):
        x, y, row, column = y, x, column, row
    batch = "".join(letter for letter in kept if letter not in (row, column))
    single = "?"  # the index of an axis of size 1
    left = _laid_out(steps, x, batch + (row or single) + shared, [shared])
    right = _laid_out(steps, y, batch + shared + (column or single), [shared])
    left, right = (_of_rank(steps, operand, 2) for operand in (left, right))
    ends = steps.shape(left)[-2], steps.shape(right)[-1]
    around = np.broadcast_shapes(steps.shape(left)[:-2], steps.shape(right)[:-2])
    product = steps.add("MatMul", [left, right], (*around, *ends))
    sizes = [*around, *([ends[0]] if row else []), *([ends[1]] if column else [])]
    return _Term(steps.reshaped(product, tuple(sizes)), batch + row + column)


def _of_rank(steps: _Steps, x: str, rank: int) -> str:
    shape = steps.shape(x)
    return steps.reshaped(x, (1,) * (rank - len(shape)) + shape)


def _broadcast(steps: _Steps, operands: Sequence[str]) -> Shape:
    return tuple(np.broadcast_shapes(*(steps.shape(operand) for operand in operands)))


# ----------------------------------------------------------------------------------------------------------- gathering

_PICKED = "write it as Slice, Gather or Split of whole axes in the model, and export again"


def _gather_nd(steps: _Steps) -> bool:
    """A pick of whole slices along axes, such as x[:, 3] or x[i][:, j], as one Gather for each axis."""
    data, name = steps.node.input[:2]
    indices = steps.known.constants.get(name)
    if indices is None:
        return False
    batches = steps.attribute("batch_dims", 0)
    shape = steps.shape(data)
    after = (*indices.shape[:-1], *shape[batches + indices.shape[-1] :])
    if any(size != 1 for size in (*shape[:batches], *indices.shape[:batches])):
        raise steps.refusal("picks other elements of every example", _PICKED)
    picked = indices.reshape(indices.shape[batches:])
    grid, columns = picked.shape[:-1], np.moveaxis(picked, -1, 0)
    varying = [[axis for axis in range(len(grid)) if (column != column.take([0], axis)).any()] for column in columns]
    used = [axis for axes in varying for axis in axes]
    if any(len(axes) > 1 for axes in varying) or used != sorted(set(used)):
        raise steps.refusal("picks single elements that lie along no axis", _PICKED)
    if prod(grid) != prod(grid[axis] for axis in used):
        raise steps.refusal("repeats what it picks", _PICKED)
    result = data
    for place in reversed(range(len(columns))):  # from the last axis on, so that the axes before it keep their place
        line = columns[place]
        for axis in reversed(range(len(grid))):
            line = line if axis in varying[place] else line.take(0, axis)
        size = shape[batches + place]
        result = steps.gathered(result, np.where(line < 0, line + size, line), batches + place)
    return steps.finish(steps.reshaped(result, after), "Gather")


def _gather(steps: _Steps) -> bool:
    """A pick of all slices of an axis in their order, which only gives it another shape.

    torch writes a pool to one pixel so: a row of the numbers of all examples, from which each takes its own.
    """
    data, name = steps.node.input[:2]
    indices, shape = steps.known.constants.get(name), steps.shape(data)
    if indices is None or not shape:
        return False
    axis = steps.attribute("axis", 0) % len(shape)
    if indices.size < 2 or not np.array_equal(
        indices.reshape(-1) % shape[axis], np.arange(shape[axis])
    ):  # of one it may be x[0]
        return False
    after = (*shape[:axis], *indices.shape, *shape[axis + 1 :])
    target = np.array((-1, *after[1:]) if axis == 0 else (0, *after[1:]), np.int64)  # whatever the batch
    return steps.finish(steps.add("Reshape", [data, steps.constant("shape", target)], after), "Reshape")


def _gather_elements(steps: _Steps) -> bool:
    """A pick of the same slices everywhere, as a Gather."""
    data, name = steps.node.input[:2]
    indices = steps.known.constants.get(name)
    if indices is None:
        return False
    shape = steps.shape(data)
    axis = steps.attribute("axis", 0) % len(shape)
    others = [place for place in range(len(shape)) if place != axis]
    line = np.moveaxis(indices, axis, -1).reshape(-1, indices.shape[axis])
    if any(indices.shape[place] != shape[place] for place in others) or (line != line[:1]).any():
        raise steps.refusal("picks other elements in every row", _PICKED)
    picked = np.where(line[0] < 0, line[0] + shape[axis], line[0])
    return steps.finish(steps.gathered(data, picked, axis), "Gather")


# ------------------------------------------------------------------------------------------- normalisation by groups


def _group_normalization(steps: _Steps) -> bool:
    """Before opset 21 scale and bias belong to groups: an InstanceNormalization of groups that are reshaped to channels."""
    if steps.known.opset >= PER_CHANNEL:
        return False
    data, scale, bias = steps.node.input
    shape = steps.shape(data)
    groups = steps.attribute("num_groups", 0)
    if groups < 1 or len(shape) < 3 or shape[1] % groups:
        raise steps.refusal(f"of {groups} groups doesn't fit data {list(shape)}", "export it again")
    epsilon = next((float(a.f) for a in steps.node.attribute if a.name == "epsilon"), 1e-5)
    grouped = steps.reshaped(data, (shape[0], groups, prod(shape[1:]) // groups))
    normal = steps.add("InstanceNormalization", [grouped, scale, bias], steps.shape(grouped), epsilon=epsilon)
    return steps.finish(steps.reshaped(normal, shape), "InstanceNormalization")


_REWRITES: Mapping[str, Callable[[_Steps], bool]] = {
    "Einsum": _einsum,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "GatherElements": _gather_elements,
    "GroupNormalization": _group_normalization,
}


# ------------------------------------------------------------------------------------------------------------ Expand


def without_needless_expands(nodes: Sequence[NodeProto], known: Known, held: Collection[str]) -> list[NodeProto]:
    """The nodes without any Expand, or Tile of axes of size 1, whose readers would broadcast its input to the same effect."""
    if not any(node.op_type in ("Expand", "Tile") for node in nodes):
        return list(nodes)
    shapes = dict(known.shapes)
    readers: dict[str, list[NodeProto]] = {}
    for node in nodes:
        for name in dict.fromkeys(node.input):
            readers.setdefault(name, []).append(node)
    same: dict[str, str] = {}
    for node in nodes:
        if node.op_type not in ("Expand", "Tile") or node.input[0] in known.constants:
            continue
        source, target = node.input[0], node.output[0]
        before, after = shapes.get(source), shapes.get(target)
        if before is None or after is None or before == after or target in held or not _only_spreads(before, after):
            continue
        smaller = _smaller(target, before, readers, {**shapes, target: before}, known, held)
        if smaller is not None:
            shapes = smaller
            same[target] = source
    kept = []
    for node in nodes:
        if node.output and node.output[0] in same:
            continue
        if any(name in same for name in node.input):
            renamed = NodeProto()
            renamed.CopyFrom(node)
            renamed.input[:] = [_source(name, same) for name in node.input]
            node = renamed
        kept.append(node)
    return kept


def _source(name: str, same: Mapping[str, str]) -> str:
    while name in same:
        name = same[name]
    return name


def _only_spreads(before: Shape, after: Shape) -> bool:
    """Whether ``after`` is ``before`` with axes of size 1 repeated, which a Tile isn't always."""
    return np.broadcast_shapes(before, after) == after if _fits(before, after) else False


def _fits(before: Shape, after: Shape) -> bool:
    pairs = zip(before[::-1], after[::-1], strict=False)
    return len(before) <= len(after) and all(old in (1, new) for old, new in pairs)


def _smaller(
    tensor: str,
    size: Shape,
    readers: Mapping[str, Sequence[NodeProto]],
    shapes: dict[str, Shape],
    known: Known,
    held: Collection[str],
) -> dict[str, Shape] | None:
    """All shapes with ``tensor`` of shape ``size``, if every reader still makes what it made; None if not."""
    if tensor in held or not readers.get(tensor):
        return None
    for reader in readers[tensor]:
        if reader.op_type in _PASSING:
            scales = [shapes.get(name) for name in reader.input[1:] if name]
            if any(scale is None or prod(scale) != 1 for scale in scales):
                return None
            output = reader.output[0]
            changed = _smaller(output, size, readers, {**shapes, output: size}, known, held)
            if changed is None:
                return None
            shapes = changed
            continue
        operands = [shapes.get(name) for name in reader.input if name]
        after = shapes.get(reader.output[0])
        if reader.op_type not in _BROADCASTING or after is None or None in operands:
            return None
        try:
            if np.broadcast_shapes(*(operand for operand in operands if operand is not None)) != after:
                return None
        except ValueError:  # operands that don't fit: the operator's own check names it
            return None
        if reader.op_type == "PRelu" and operands[0] != after:  # it broadcasts its slope alone
            return None
    return shapes
