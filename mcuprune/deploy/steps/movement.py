"""Operators that move numbers as they are, as calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np

from mcuprune.deploy import sampling
from mcuprune.deploy.program import Operator
from mcuprune.deploy.steps.calls import Array, Call, Constant, Loop, Place, bytes_of, words_of
from mcuprune.deploy.steps.selection import Selection


def strides(shape: Sequence[int]) -> list[int]:
    """How far apart two neighbours along each axis are, in numbers, where the last axis is dense."""
    return [prod(shape[axis + 1 :]) for axis in range(len(shape))]


#: Size of an axis, and by how much source and target advance along it.
Axis = tuple[int, int, int]
_MOVED_AXES = 5
#: The kernel that picks lists its indices in 16 bits.
_LAST_PICKED = 2**15 - 1


def merged_axes(axes: Sequence[Axis]) -> list[Axis]:
    """The same movement in as few axes as possible."""
    merged: list[Axis] = []
    for size, x, y in axes:
        if size == 1:
            continue
        if merged and merged[-1][1] == size * x and merged[-1][2] == size * y:
            merged[-1] = (merged[-1][0] * size, x, y)
        else:
            merged.append((size, x, y))
    return merged


def move(source: Place | Constant, target: Place | Constant, axes: Sequence[Axis]) -> Call:
    """The call that copies along these axes."""
    return Call("move", (source, target, _described(merged_axes(axes))))


def _described(axes: Sequence[Axis]) -> Constant:
    """Axes as the kernels take them."""
    assert len(axes) <= _MOVED_AXES, "a movement of more axes than kernels have"
    padded = [(1, 0, 0)] * (_MOVED_AXES - len(axes)) + list(axes)
    if not axes:
        padded[-1] = (1, 1, 1)
    return words_of([number for axis in padded for number in axis])


def between(s: Selection, operator: Operator, call: Call, before: Sequence[int], behind: Sequence[int]) -> list[Call]:
    """A call that makes some channels of the output, between others that are the same numbers in every pixel.

    It fills the output's end with pixels that then are moved apart: so they take no memory of their own.
    """
    if not before and not behind:
        return [call]
    source, target, *rest = call.arguments
    assert isinstance(target, Place)
    channels, added = s.shape(operator.outputs[0])[-1], len(before) + len(behind)
    pixels, around = s.size(operator.outputs[0]) // channels, Constant("int8_t", (*before, *behind))
    moved = replace(call, arguments=(source, Place(target.tensor, pixels * added), *rest))
    return [moved, Call("spread", (target, pixels, channels - added, around, len(before), len(behind)))]


def view(s: Selection, operator: Operator) -> None:
    """No call: the output is another name for the input's bytes."""
    source, output = operator.inputs[0], operator.outputs[0]
    s.views[output] = source


def transpose(s: Selection, operator: Operator) -> None:
    """One movement, whose axes are the output's in order, each with the input's step."""
    source, output = operator.inputs[0], operator.outputs[0]
    perm = s.known(operator.inputs[1])
    steps, out = strides(s.shape(source)), s.shape(output)
    axes = [(size, steps[int(axis)], step) for size, axis, step in zip(out, perm, strides(out), strict=True)]
    _permuted(s, operator, axes)


def _permuted(s: Selection, operator: Operator, axes: Sequence[Axis]) -> None:
    """A movement of all bytes of a tensor to another place each, which can be done where they lie, if that is to be.

    Then no step does it: whichever step reads the bytes in one of their orders finds them brought into that one.
    """
    source, output = operator.inputs[0], operator.outputs[0]
    forth = merged_axes(axes)
    back = sorted(((size, y, x) for size, x, y in forth), key=lambda axis: -axis[2])
    same = s.permuted.setdefault((s.ordered_as(source), tuple(forth)), output)
    if same != output:  # what another operator has made, or moves back
        s.views[output] = same
        return
    s.permuted[output, tuple(back)] = source
    s.could_save.add(output)
    if output in s.saved:
        s.views[output] = source
        s.turned[output] = (_described(forth), _described(back))
    else:
        s.add(operator, [move(s.place(source), s.place(output), axes)])


def take_slice(s: Selection, operator: Operator) -> None:
    """SLICE and STRIDED_SLICE: a movement that begins within the input."""
    begin = s.known(operator.inputs[1])
    step = np.ones(len(begin), int)
    if operator.name == "STRIDED_SLICE":
        step = s.known(operator.inputs[3])
    _taken(s, operator, operator.outputs[0], [int(b) for b in begin], [int(n) for n in step])


def _taken(s: Selection, operator: Operator, output: int, begin: Sequence[int], step: Sequence[int]) -> None:
    source = operator.inputs[1] if operator.name == "SPLIT" else operator.inputs[0]
    shape, out = s.shape(source), s.shape(output)
    steps = strides(shape)
    start = sum((b % size) * n for b, size, n in zip(begin, shape, steps, strict=True))
    axes = [(size, n * by, to) for size, n, by, to in zip(out, steps, step, strides(out), strict=True)]
    call = move(s.arena_place(source, start), s.place(output), axes)
    s.add(replace(operator, outputs=(output,)), [call])


def split(s: Selection, operator: Operator) -> None:
    """Each part as an operator of its own: those that are read late take no memory before."""
    where = s.known(operator.inputs[0 if operator.name == "SPLIT" else 2])
    source = operator.inputs[1] if operator.name == "SPLIT" else operator.inputs[0]
    shape = s.shape(source)
    axis, at = int(where) % len(shape), 0
    for output in operator.outputs:
        begin = [at if place == axis else 0 for place in range(len(shape))]
        _taken(s, operator, output, begin, [1] * len(shape))
        at += s.shape(output)[axis]


def concatenation(s: Selection, operator: Operator) -> None:
    """One copy for each input; a table that was put off is applied on the way."""
    output = operator.outputs[0]
    out = s.shape(output)
    axis = operator.options["axis"] % len(out)
    outer, row, at = prod(out[:axis]), prod(out[axis:]), 0
    calls = []
    for tensor in operator.inputs:
        size = prod(s.shape(tensor)[axis:])
        target = Place(s.root(output), at)
        source, values = s.tables.pop(tensor, (tensor, None))
        if values is None:
            calls.append(move(s.place(source), target, [(outer, size, row), (size, 1, 1)]))
        else:
            loops = (Loop(outer, (size, row)),) if outer > 1 else ()
            calls.append(Call("table", (s.place(source), target, size, bytes_of(values)), loops))
        at += size
    s.add(operator, calls)


def gather(s: Selection, operator: Operator) -> None:
    """Slices of one axis, picked by constant indices."""
    indices, axis = s.known(operator.inputs[1]).reshape(-1), operator.options.get("axis", 0)
    columns, shape = _columns(indices), s.shape(operator.inputs[0])
    if np.array_equal(indices, np.arange(shape[axis])):
        view(s, operator)
        return
    if columns and len(indices) == shape[axis]:
        outer, inner, rows = prod(shape[:axis]), prod(shape[axis + 1 :]), len(indices) // columns
        sizes = ((outer, rows, columns, inner), (outer, columns, rows, inner))
        by, to = (strides(each) for each in sizes)
        axes = [(outer, by[0], to[0]), (columns, by[2], to[1]), (rows, by[1], to[2]), (inner, 1, 1)]
        _permuted(s, operator, axes)
        return
    _picked(s, operator, axis, indices.tolist())


def _columns(indices: Array) -> int:
    """Where the indices read a matrix of so many columns column by column; 0 where they don't."""
    columns = int(indices[1]) if len(indices) > 2 else 0
    if columns < 2 or len(indices) % columns:
        return 0
    return columns if np.array_equal(indices, np.arange(len(indices)).reshape(-1, columns).T.reshape(-1)) else 0


def _picked_rows(s: Selection, operator: Operator, rows: Sequence[int], columns: Constant) -> list[Call]:
    """Of an image, these rows, and of each of them the pixels in these columns: one call for each row of the output.

    Several images, one behind the other, are one of more rows.
    """
    source, output = operator.inputs[0], operator.outputs[0]
    _, _, width, channels = s.shape(source)
    size, line, count = width * channels, len(columns.values) * channels, len(columns.values)
    return [
        Call("pick", (s.arena_place(source, row * size), Place(s.root(output), i * line), 1, width, channels, columns, count))
        for i, row in enumerate(rows)
    ]


def _picked(s: Selection, operator: Operator, axis: int, indices: Sequence[int]) -> None:
    source, output = operator.inputs[0], operator.outputs[0]
    shape = s.shape(source)
    sizes = (prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :]))
    if max(indices, default=0) > _LAST_PICKED:
        s.refuse(operator, f"picks entries beyond the first {_LAST_PICKED + 1:,} of an axis")
    listed = Constant("int16_t", tuple(indices))
    s.add(operator, [Call("pick", (s.place(source), s.place(output), *sizes, listed, len(indices)))])


def resize_nearest(s: Selection, operator: Operator) -> None:
    """Rows that repeat are picked whole; within a row pixels are."""
    align, half = operator.options["align_corners"], operator.options["half_pixel_centers"]
    source, output = operator.inputs[0], operator.outputs[0]
    images, height, width, channels = s.shape(source)
    _, out_height, out_width, _ = s.shape(output)
    rows, columns = sampling.nearest(align, half, height, out_height), sampling.nearest(align, half, width, out_width)
    rows = [image * height + row for image in range(images) for row in rows]
    height, out_height = images * height, images * out_height
    listed = Constant("int16_t", s.short(operator, columns))
    calls = _picked_rows(s, operator, rows, listed)
    ratio = out_height // height  # 0 where the image gets lower
    if ratio and out_height == ratio * height and list(rows) == [i // ratio for i in range(out_height)]:  # a whole factor
        size, line = width * channels, out_width * channels
        first = calls[0].arguments
        calls = [Call("pick", first, (Loop(height, (size, ratio * line)), Loop(ratio, (0, line))))]
    s.add(operator, calls)


def resize_bilinear(s: Selection, operator: Operator) -> None:
    """Each output lies between two rows and two columns; where is listed for rows and for columns."""
    align, half = operator.options["align_corners"], operator.options["half_pixel_centers"]
    source, output = operator.inputs[0], operator.outputs[0]
    images, height, width, channels = s.shape(source)
    _, out_height, out_width, _ = s.shape(output)
    between = (sampling.between(align, half, *pair) for pair in ((height, out_height), (width, out_width)))
    rows, columns = (Constant("int16_t", s.short(operator, numbers)) for numbers in between)
    arguments = (channels, width, rows, out_height, columns, out_width)
    loops = (Loop(images, (height * width * channels, out_height * out_width * channels)),) if images > 1 else ()
    s.add(operator, [Call("bilinear", (s.place(source), s.place(output), *arguments), loops)])


def mirror_pad(s: Selection, operator: Operator) -> None:
    """Axis by axis is a chain of copies; of two axes of space, rows of picked columns."""
    source = operator.inputs[0]
    pads = s.known(operator.inputs[1])
    shape, edge = s.shape(source), operator.options.get("mode", 0)
    if len(shape) != 4 or pads[0].any() or pads[3].any():
        s.refuse(operator, "of other axes than height and width has no kernel")
    rows, columns = (_mirrored(shape[axis], int(pads[axis][0]), int(pads[axis][1]), edge) for axis in (1, 2))
    rows = [image * shape[1] + row for image in range(shape[0]) for row in rows]
    s.add(operator, _picked_rows(s, operator, rows, Constant("int16_t", s.short(operator, columns))))


def _mirrored(size: int, before: int, after: int, edge: int) -> list[int]:
    front = [i + 1 - edge for i in range(before)][::-1]
    return [*front, *range(size), *(size - 2 + edge - i for i in range(after))]


def blocks(s: Selection, operator: Operator) -> None:
    """DEPTH_TO_SPACE and SPACE_TO_DEPTH: the block's place is the outermost part of the channels."""
    source, output = operator.inputs[0], operator.outputs[0]
    block, opens = operator.options["block"], operator.name == "DEPTH_TO_SPACE"
    deep, wide = (s.shape(source), s.shape(output)) if opens else (s.shape(output), s.shape(source))
    height, width, channels = deep[0] * deep[1], deep[2], wide[3]  # images, one behind the other, are one of more rows
    deep_steps = strides((height, width, block, block, channels))
    wide_steps = strides((height, block, width, block, channels))
    sizes = (height, width, block, block, channels)
    order = (0, 2, 1, 3, 4)  # the deep tensor's axes in the wide one
    pairs = [(size, deep_steps[i], wide_steps[order[i]]) for i, size in enumerate(sizes)]
    axes = pairs if opens else [(size, w, d) for size, d, w in pairs]
    s.add(operator, [move(s.place(source), s.place(output), axes)])
