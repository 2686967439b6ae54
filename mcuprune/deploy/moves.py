"""Operators that move data, as TensorFlow Lite's: views, slices, pads, concatenations, resizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np

from mcuprune.deploy import sampling
from mcuprune.deploy.kernels import MAX_TRANSPOSED
from mcuprune.deploy.lowering import (
    Array,
    Lowering,
    Value,
    bounds,
    channels_last,
    image,
    is_dense,
    stored_number,
    without_ones,
)
from mcuprune.deploy.program import Constant, Storage
from mcuprune.deploy.qdq import HIGH, LOW, Quantizer
from mcuprune.graph.network import Network, Node, Shape
from mcuprune.operators import attributes
from mcuprune.operators.fusion import is_padding_of_reader
from mcuprune.operators.table import OPS


def quantize(w: Lowering, node: Node) -> None:
    """QuantizeLinear of what is quantised already: the same integers, or a QUANTIZE to another scale."""
    value, wanted = w.data(node), w.parameters(node)
    w.values[node.outputs[0]] = value if w.quantizer(value) == wanted else w.requantized(value, wanted)


def dequantize(w: Lowering, node: Node) -> None:
    """The same integers, read with the node's own scale."""
    value, meant = w.data(node), w.parameters(node)
    same = w.quantizer(value) == meant
    w.values[node.outputs[0]] = value if same else w.reinterpreted(w.padding_done(value), meant)


def passing(w: Lowering, node: Node) -> None:
    """An operator that hands its data on, such as Identity; raises UnsupportedOperator where it changes their type."""
    if OPS[node.op].memory(node, w.net) != "view":
        w.refuse("changes its data's type", "export the network with an input of floats, and without it")
    value = w.data(node)
    w.finish(w.target(node, same=value), value)


def clamp(w: Lowering, node: Node) -> None:
    """A Relu or Clip that reads a quantised tensor."""
    value = w.data(node)
    low, high = bounds(node)
    target = replace(w.target(node, same=value), low=low, high=high)
    if (low, high) == (0.0, np.inf):
        w.finish(target, w.unary("RELU", value, target), fused=target.fused)
    else:
        w.finish(target, value)


def _blocks(before: Shape, after: Shape) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of axes of a reshape that turn into each other; axes of size 1 left out."""
    old, new = ([axis for axis, size in enumerate(shape) if size > 1] for shape in (before, after))
    blocks: list[tuple[list[int], list[int]]] = []
    while old:
        left, right = [old.pop(0)], [new.pop(0)]
        while (p := prod(before[a] for a in left)) != (q := prod(after[a] for a in right)):
            if p < q:
                left.append(old.pop(0))
            else:
                right.append(new.pop(0))
        blocks.append((left, right))
    return blocks


def reshape(w: Lowering, node: Node) -> None:
    """Another name for the same bytes, after a TRANSPOSE where an axis that is merged isn't in one piece."""
    value = w.data(node)
    target = w.target(node, same=value)
    before, after = value.shape, target.shape
    blocks = _blocks(before, after)
    if value.shuffle is not None and [size for size in after if size > 1] != [size for size in before if size > 1]:
        value = w.ordered(value)
    renamed = {old[0]: new[0] for old, new in blocks if len(old) == len(new) == 1}
    if len(renamed) == len(blocks):  # only axes of size 1 come and go
        axes = tuple(None if axis is None else renamed[axis] for axis in value.axes)
        w.finish(target, replace(value, shape=after, dims=target.dims, axes=axes))
        return
    reads = w.readers(target.name)
    flat = len(blocks) == 1 and blocks[0][1] == [len(after) - 1]
    if flat and reads and all(is_dense(reader, w.net) and reader.inputs[0] not in w.net.constants for reader in reads):
        axes = without_ones(range(len(after)), after)
        w.finish(target, w.reshaped(value, after, target.dims, axes, _shuffle(value)))
        return
    kept = [axis for axis in value.axes if axis is not None]
    first = [old[0] for old, _ in blocks]
    runs = sorted(range(len(blocks)), key=lambda i: kept.index(first[i]))
    if kept != [axis for i in runs for axis in blocks[i][0]]:  # an axis to be merged isn't in one piece
        wanted = [axis for axis in channels_last(len(after)) if after[axis] > 1]
        runs = sorted(range(len(blocks)), key=lambda i: wanted.index(blocks[i][1][0]))
        order = tuple(axis for i in runs for axis in blocks[i][0])
        ones = (None,) * (len(before) - len(order))
        value = w.arranged(value, (*ones, *order) if len(ones) + len(order) <= MAX_TRANSPOSED else order)
    axes = tuple(axis for i in runs for axis in blocks[i][1])
    w.finish(target, w.reshaped(value, after, target.dims, (*(None,) * (len(after) - len(axes)), *axes)))


def _shuffle(value: Value) -> Array | None:
    """TFLite position -> ONNX position of a flattened tensor; None where they are the same."""
    kept = [axis for axis in value.axes if axis is not None]
    places = np.arange(prod(value.shape)).reshape([value.shape[axis] for axis in sorted(kept)])
    places = places.transpose([sorted(kept).index(axis) for axis in kept]).reshape(-1)
    return None if kept == sorted(kept) else places


def transpose(w: Lowering, node: Node) -> None:
    """No operator: the axes of the same bytes are called otherwise."""
    value = w.ordered(w.data(node))
    target = w.target(node, same=value)
    perm = attributes.permutation(node, len(value.shape))
    axes = tuple(None if axis is None else perm.index(axis) for axis in value.axes)
    w.finish(target, replace(value, shape=target.shape, dims=target.dims, axes=axes))


def concat(w: Lowering, node: Node) -> None:
    """CONCATENATION of inputs that are brought into one layout and one quantiser."""
    target = w.target(node)
    axis = attributes.axis(node, len(target.shape))
    computed = [w.data(node, i) for i, name in enumerate(node.inputs) if not w.net.is_constant(name)]
    order = w.order(max(computed, key=lambda value: sum(a is not None for a in value.axes)))
    inputs = []
    for index, name in enumerate(node.inputs):
        if w.net.is_constant(name):
            inputs.append(_constant_part(w, name, order, target.quantizer))
            continue
        value = w.data(node, index)
        value = w.arranged(value, without_ones(order, value.shape))
        if w.quantizer(value) != target.quantizer:
            value = w.requantized(value, target.quantizer, "another scale than what it is joined with")
        inputs.append(value.tensor)
    result = w.make(target, without_ones(order, target.shape))
    w.emit("CONCATENATION", inputs, [result.tensor], axis=order.index(axis))
    w.finish(target, result)


def _constant_part(w: Lowering, name: str, order: Sequence[int], q: Quantizer) -> int:
    real = w.net.constants[name]

    def content() -> Constant:
        stored = np.clip(np.round(real / q.scale) + q.zero_point, LOW, HIGH).astype(np.int8)
        return Constant(stored.transpose(order), np.array([q.scale], np.float32), np.array([q.zero_point]))

    shape, dims = ([sizes[axis] for axis in order] for sizes in (real.shape, w.dims(name)))
    return w.constant(name, tuple(shape), tuple(dims), "int8", Storage(1, symmetric=False), content)


def _place(w: Lowering, value: Value, axis: int) -> tuple[Value, int]:
    """The value with all its axes, and the dimension that ``axis`` is."""
    order = w.order(value)
    if axis in value.axes:
        return value, value.axes.index(axis)
    value = w.arranged(value, without_ones(order, value.shape))
    return value, order.index(axis)


def split(w: Lowering, node: Node) -> None:
    """SPLIT_V along one axis."""
    axis = attributes.axis(node, len(w.net.shapes[node.inputs[0]]))
    value, place = _place(w, w.ordered(w.data(node)), axis)
    targets = [w.target(node, index=i, same=value) for i, name in enumerate(node.outputs) if name]
    if len(targets) != len(node.outputs):
        w.refuse("has parts that nothing names", "name all of them, or Slice those that are used")
    sizes = [target.shape[axis] for target in targets]
    parts = [w.make(t, without_ones(value.axes, t.shape), w.quantizer(value)) for t in targets]
    outputs = [part.tensor for part in parts]
    # SPLIT would do for equal parts, but which form is written must not depend on widths: costs are functions of them
    where = w.numbers(np.array(place, np.int32))
    w.emit("SPLIT_V", [value.tensor, w.integers(*sizes), where], outputs, num_splits=len(sizes))
    for target, part in zip(targets, parts, strict=True):
        w.finish(target, part)


def slice_(w: Lowering, node: Node) -> None:
    """SLICE, or with steps STRIDED_SLICE; nothing where all is kept."""
    value = w.ordered(w.data(node))
    target = w.target(node, same=value)
    taken = attributes.slice_ranges(node, value.shape)
    if all(part == range(size) for part, size in zip(taken, value.shape, strict=True)):
        w.finish(target, value)
        return
    parts = [range(1) if axis is None else taken[axis] for axis in value.axes]
    result = w.make(target, without_ones(value.axes, target.shape), w.quantizer(value))
    if all(part.step == 1 or len(part) == 1 for part in parts):
        begin, sizes = w.integers(*(part.start for part in parts)), w.integers(*map(len, parts))
        w.emit("SLICE", [value.tensor, begin, sizes], [result.tensor])
    else:
        limits = [w.integers(*values) for values in zip(*((p.start, p.stop, p.step) for p in parts), strict=True)]
        open_ends = sum(1 << i for i, part in enumerate(parts) if part.stop < 0)  # -1 would mean the last one
        w.emit("STRIDED_SLICE", [value.tensor, *limits], [result.tensor], begin_mask=0, end_mask=open_ends)
    w.finish(target, result)


def gather(w: Lowering, node: Node) -> None:
    """GATHER of constant indices along one axis; raises UnsupportedOperator for a table of indices."""
    axis = attributes.axis(node, len(w.net.shapes[node.inputs[0]]))
    value, place = _place(w, w.ordered(w.data(node)), axis)
    target = w.target(node, same=value)
    indices = np.asarray(node.attrs["indices"])
    if indices.ndim > 1:
        w.refuse("picks by a table of indices", "pick by a list, which TensorFlow Lite Micro takes, and Reshape behind it")
    picked = (indices.reshape(-1) % value.shape[axis]).astype(np.int32)
    shape = (*value.shape[:axis], len(picked), *value.shape[axis + 1 :])
    along = target.dims[axis] if indices.ndim else 1
    dims = (*value.dims[:axis], along, *value.dims[axis + 1 :])
    # an axis of size 1 has no name in the tensor; where several elements are picked of it, it needs one
    axes = (*value.axes[:place], axis, *value.axes[place + 1 :])
    result = w.computed(target.name, shape, dims, without_ones(axes, shape), w.quantizer(value))
    w.emit("GATHER", [value.tensor, w.numbers(picked, along)], [result.tensor], axis=place)
    if indices.ndim == 0:
        result = replace(result, axes=tuple(None if a is None else a - (a > axis) for a in result.axes))
    w.finish(target, replace(result, shape=target.shape, dims=target.dims))


def pad(w: Lowering, node: Node) -> None:
    """PAD, PADV2 or MIRROR_PAD; nothing where the operator that reads it pads by itself."""
    value = w.ordered(w.data(node))
    target = w.target(node, same=value)
    rank, mode = len(value.shape), node.get("mode")
    added = attributes.pads_of_all_axes(node, rank)
    if not any(map(any, added)):
        w.finish(target, value)
        return
    if mode not in ("constant", "reflect") or any(min(pair) < 0 for pair in added):
        w.refuse("crops, or pads by what it finds at edges", "crop by a Slice, pad by a constant or by reflection")
    if rank in (3, 4) and not any(map(any, added[:2])) and is_padding_of_reader(node, w.net) and target.name == node.outputs[0]:
        # the only reader slides over it and pads by itself: the tensor stays as it is, with its zeros noted
        w.values[target.name] = replace(value, pads=tuple(added[2:]))
        return
    if rank in (3, 4) and is_padding_of_reader(node, w.net):  # what it reads is moved before the zeros are there, not after
        value = w.spatial(value)
    missing = [axis for axis, pair in enumerate(added) if any(pair) and axis not in value.axes]
    if missing:
        value = w.arranged(value, without_ones(w.order(value), value.shape))
    # after the arrangement, an axis of size 1 lies where the channels-last order has it
    order = w.order(value) if missing else value.axes
    table = w.numbers(np.array([(0, 0) if axis is None else added[axis] for axis in order], np.int32))
    result = w.make(target, without_ones(order, target.shape), w.quantizer(value))
    if mode == "reflect":
        w.emit("MIRROR_PAD", [value.tensor, table], [result.tensor], mode=0)
    else:
        number = float(node.get("value") or 0)
        w.pad(value, table, result, stored_number(number, w.quantizer(value)) if number else None)
    w.finish(target, result)


#: Places that lie this near to each other, in pixels, are the same: scales are float32.
_NO_PIXEL = 1e-3


def resize(w: Lowering, node: Node) -> None:
    """RESIZE_NEAREST_NEIGHBOR or RESIZE_BILINEAR; raises UnsupportedOperator for a form that has no kernel."""
    value = w.data(node)
    target = w.target(node, same=value)
    if value.shape == target.shape:  # onnxruntime hands it on then, whatever the scales
        w.finish(target, value)
        return
    value = w.spatial(value)
    if value.shape[:2] != target.shape[:2]:
        w.refuse("resizes channels", "resize height and width alone, and repeat channels by a Concat or a Gather")
    mode, way = node.get("mode"), attributes.coordinates(node, w.net)
    pairs = list(zip(value.shape, target.shape, strict=True))
    taken = _taken(node, w.net, value.shape, target.shape)
    forms = [] if taken is None else _forms(node, way, taken, pairs)
    if not forms:
        w.refuse(
            f"in mode {mode} ({way}) picks other pixels than TensorFlow Lite's",
            "export it in mode nearest (asymmetric, rounded down) or linear (half_pixel), without antialiasing",
        )
        return
    operator, form = ("RESIZE_NEAREST_NEIGHBOR" if mode == "nearest" else "RESIZE_BILINEAR"), forms[0]
    if mode == "linear":
        inside = [form for form in forms if all(sampling.stays_inside(*form, *pair) for pair in pairs[2:])]
        if not inside:
            w.refuse(
                "reads beyond the last pixel in TensorFlow Lite: it counts places in 1/1024 of one, and what it rounds adds up",
                "resize by a factor of 2, 4 or 8, which needs no rounding, once or several times",
            )
        form = inside[0]
    outs = (1, *target.shape[2:])[-2:] if len(target.shape) == 3 else target.shape[2:]
    result = w.make(target, image(target.shape), w.quantizer(value))
    options = {"align_corners": form[0], "half_pixel_centers": form[1]}
    w.emit(operator, [value.tensor, w.integers(*outs)], [result.tensor], **options)
    w.finish(target, result)


def _taken(node: Node, net: Network, before: Shape, after: Shape) -> list[Array] | None:
    """Where along each axis a Resize takes its samples: indices of the nearest, or places. None where that isn't sure."""
    way, taken = attributes.coordinates(node, net), []
    if way == "half_pixel_symmetric":  # onnxruntime rounds these places in an order of its own
        return None
    for size, out, scale in zip(before, after, attributes.scales(node, net), strict=True):
        places = attributes.places(way, scale, size, out)
        if places is None:
            return None
        if node.get("mode") == "nearest":
            taken.append(attributes.nearest(attributes.rounding(node, net, scale), places, size))
        else:
            taken.append(np.clip(places, 0, size - 1))
    return taken


def _forms(node: Node, way: str, taken: Sequence[Array], pairs: Sequence[tuple[int, int]]) -> list[tuple[bool, bool]]:
    """The options (align_corners, half_pixel_centers) with which a kernel takes the same samples, the first choice first.

    way: the coordinates by their name. taken: as ``_taken`` returns it. pairs: sizes of each axis before and after.
    """
    axes = list(zip(taken, pairs, strict=True))
    if node.get("mode") == "nearest":
        return [form for form in sampling.FORMS if all(list(x) == sampling.nearest(*form, *pair) for x, pair in axes)]
    if node.get("mode") != "linear" or node.get("antialias"):
        return []
    meant = (way == "align_corners", "half_pixel" in way)
    return [
        form
        for form in sorted(sampling.FORMS, key=lambda form: form != meant)
        if all(np.abs(x - sampling.exact(*form, *pair)).max() < _NO_PIXEL for x, pair in axes)
    ]


def depth_to_space(w: Lowering, node: Node) -> None:
    """DEPTH_TO_SPACE or SPACE_TO_DEPTH, after a GATHER that brings channels into the kernel's order."""
    value = w.spatial(w.data(node))
    target = w.target(node, same=value)
    block, opens = node.attrs["blocksize"], node.op == "DepthToSpace"
    if len(target.shape) != 4:
        w.refuse("works on images alone", "give it a tensor of 4 dimensions")
    if opens and node.get("mode") == "CRD":  # TensorFlow Lite has the block's place outermost
        order = np.arange(value.shape[1]).reshape(-1, block * block).T.reshape(-1).astype(np.int32)
        sorted_ = w.like(value, f"{target.name}/ordered")
        w.emit("GATHER", [value.tensor, w.numbers(order, value.dims[1])], [sorted_.tensor], axis=3)
        value = sorted_
    result = w.make(target, without_ones((0, 2, 3, 1), target.shape), w.quantizer(value))
    w.emit("DEPTH_TO_SPACE" if opens else "SPACE_TO_DEPTH", [value.tensor], [result.tensor], block=block)
    w.finish(target, result)
