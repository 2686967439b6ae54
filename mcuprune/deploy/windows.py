"""Convolutions, matrix products and pools, as TensorFlow Lite's.

TensorFlow Lite pads evenly up to the last row (SAME) or not at all (VALID); other padding becomes a PAD in front. A zero Pad
that the network has in front of a convolution is part of that convolution's padding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np

from mcuprune.deploy.kernels import KERNELS
from mcuprune.deploy.lowering import (
    QUANTISE_AGAIN,
    SAME,
    VALID,
    Array,
    Dims,
    Lowering,
    Target,
    Value,
    image,
    is_dense,
    without_ones,
)
from mcuprune.deploy.program import Constant, Storage
from mcuprune.deploy.qdq import FINER, LOW, Quantizer, weight_axis
from mcuprune.graph.network import Network, Node, Shape, Stored
from mcuprune.operators import attributes

#: The last axis of an image with channels at the end.
_PIXELS = 3


class Window(NamedTuple):
    """How a sliding operator pads. padding: SAME or VALID, what TFLite's kernel is to do.

    before: rows and columns that the kernel then adds in front. explicit: what a PAD must add instead; None where it needn't.
    """

    padding: int
    before: tuple[int, ...]
    explicit: tuple[tuple[int, int], ...] | None


def window_of(node: Node, net: Network, size: Sequence[int], extra: Sequence[tuple[int, int]]) -> Window:
    """The window of a convolution or pool over data of this size of space, ``extra`` zeros of a Pad in front included."""
    outs = net.shapes[node.outputs[0]][2:]
    n = len(size)
    strides, dilations = attributes.strides(node, n), attributes.dilations(node, n)
    pads = [(b + x, a + y) for (b, a), (x, y) in zip(attributes.pads(node, net), extra or [(0, 0)] * n, strict=True)]
    spans = [(k - 1) * d + 1 for k, d in zip(attributes.kernel(node, net), dilations, strict=True)]
    same = [max(0, (-(-i // s) - 1) * s + k - i) for i, s, k in zip(size, strides, spans, strict=True)]
    before = tuple(b for b, _ in pads)
    # how far the last window reaches over the end; ceil_mode lets it reach over the padding too
    over = [(o - 1) * s + k - i - b for o, s, k, i, b in zip(outs, strides, spans, size, before, strict=True)]
    if not any(before) and all(reach <= 0 for reach in over):
        return Window(VALID, before, None)
    fits = all(o == -(-i // s) for o, i, s in zip(outs, size, strides, strict=True))
    if fits and all(b == total // 2 for b, total in zip(before, same, strict=True)):
        return Window(SAME, before, None)
    return Window(VALID, (0,) * n, tuple((b, max(a, reach)) for (b, a), reach in zip(pads, over, strict=True)))


def _two(values: Sequence[int], default: int = 1) -> tuple[int, int]:
    """Height and width; one-dimensional operators have height 1."""
    return (default, values[0]) if len(values) == 1 else (values[0], values[1])


def _windowed(w: Lowering, node: Node, fill: int | None = None) -> tuple[Value, Window]:
    """The input of a sliding operator, padded where TFLite doesn't pad so by itself, and the padding that it is to do."""
    value = w.data(node)
    extra = value.pads
    value = w.spatial(replace(value, pads=()))
    window = window_of(node, w.net, value.shape[2:], extra)
    if window.explicit is None:
        return value, window
    pads = window.explicit if len(window.explicit) == 2 else ((0, 0), *window.explicit)
    return w.padded(value, pads, fill), window


# ------------------------------------------------------------------------------------------------------------- weights


def _weights(w: Lowering, node: Node) -> Stored:
    """The integers of a mixer's weight. Floats are priced as export would store them, and noted as a problem."""
    stored = w.net.stored.get(node.inputs[1])
    if stored is not None and stored.integers.dtype == np.int8:
        return stored
    if not w.net.is_constant(node.inputs[1]):
        w.refuse("has weights that are computed at run time", "export it with constant weights")
    w.problem(f"node '{node.name}': {node.op} has weights that aren't stored as symmetric int8", QUANTISE_AGAIN)
    return blank_weight(node, w.net)


def blank_weight(node: Node, net: Network) -> Stored:
    """How export would store a mixer's weight, without its numbers."""
    axis = weight_axis(node, net)
    value = net.constants[node.inputs[1]]
    return blank(value, np.int8, 1 if axis is None else value.shape[axis], axis or 0)


def blank(value: Array, dtype: type, scales: int, axis: int) -> Stored:
    """A stored constant that takes no memory."""
    return Stored(_zeros(value.shape, dtype), _zeros((scales,), np.float32), axis, value)


@lru_cache(maxsize=4096)
def _zeros(shape: Shape, dtype: type) -> Array:
    return np.broadcast_to(dtype(0), shape)


def _per_channel(stored: Stored, channels: int) -> Array:
    return np.broadcast_to(stored.scale, (channels,)).astype(np.float32)


def _weight(
    w: Lowering,
    name: str,
    form: str,
    stored: Stored,
    sizes: Sequence[tuple[int, Any]],
    order: Callable[[Array], Array],
    axis: int,
) -> int:
    """The weight of a convolution. sizes: TFLite's, as numbers and as functions of widths. order: ONNX's order -> TFLite's."""
    shape, dims = zip(*sizes, strict=True)

    def content() -> Constant:
        scales = _per_channel(stored, shape[axis])
        return Constant(np.ascontiguousarray(order(stored.integers)), scales, np.zeros(scales.size, np.int64), axis)

    return w.weight(name, form, shape, dims, Storage(dims[axis], axis=axis), content)


def _bias(
    w: Lowering,
    node: Node,
    value: Value,
    scales: Callable[[], Array],
    size: tuple[int, Any],
    *,
    per_channel: bool = True,
    factor: float = 1.0,
) -> int:
    """The int32 bias, (channels,), with scale = input scale x weight scale; zeros where there is none.

    size: the channels, as a number and as a function of widths. per_channel: whether there is a scale for each.
    """
    channels, wide_as = size
    name = node.inputs[2] if len(node.inputs) > 2 else ""
    input_scale = np.float32(w.quantizer(value).scale)
    stored = w.net.stored.get(name)
    real = w.net.constants.get(name)

    def content() -> Constant:
        factors = scales()
        step = input_scale * factors
        wide = np.broadcast_to(step, (channels,))
        known = stored is not None and stored.integers.size == channels and np.allclose(stored.scale, wide, rtol=1e-5)
        if stored is not None and known and factor == 1:
            integers = stored.integers.reshape(-1).astype(np.int32)
        else:
            floats = np.zeros(channels) if real is None else np.broadcast_to(real.reshape(-1), (channels,))
            integers = np.clip(np.round(factor * floats / wide), -(2**31) + 1, 2**31 - 1).astype(np.int32)
        return Constant(integers, step, np.zeros(step.size, np.int64))

    storage = Storage(wide_as if per_channel else 1)
    return w.constant(name or f"{node.name}/bias", (channels,), (wide_as,), "int32", storage, content)


# -------------------------------------------------------------------------------------------------------- convolutions


def conv(w: Lowering, node: Node) -> None:
    """CONV_2D, with groups too; DEPTHWISE_CONV_2D where each input channel is a group."""
    stored = _weights(w, node)
    rank = stored.integers.ndim
    channels, outs = w.net.shapes[node.inputs[0]][1], stored.integers.shape[0]
    value, window = _windowed(w, node)
    target = w.target(node)
    strides, dilations = (_two(attribute(node, rank - 2)) for attribute in (attributes.strides, attributes.dilations))
    two = _two(stored.integers.shape[2:])
    options = {
        "padding": window.padding,
        "before": window.before,
        "stride_h": strides[0],
        "stride_w": strides[1],
        "dilation_h": dilations[0],
        "dilation_w": dilations[1],
        "fused": target.fused,
    }
    depthwise = attributes.is_depthwise(node, w.net)
    per_group = stored.integers.shape[1]

    def order(integers: Array) -> Array:
        wide = integers if rank == 4 else integers[:, :, None, :]
        return wide.transpose(1, 2, 3, 0) if depthwise else wide.transpose(0, 2, 3, 1)

    size_of, outs_of = w.dims(node.inputs[1]), (outs, target.dims[1])
    taps = [(size, size) for size in two]
    if depthwise:
        operator, sizes, axis = "DEPTHWISE_CONV_2D", [(1, 1), *taps, outs_of], 3
        options["multiplier"] = outs // channels
    else:
        operator, sizes, axis = "CONV_2D", [outs_of, *taps, (per_group, size_of[1])], 0
    weights = _weight(w, node.inputs[1], operator, stored, sizes, order, axis)
    bias = _bias(w, node, value, lambda: _per_channel(stored, outs), outs_of)
    result = w.make(target, image(target.shape))
    w.emit(operator, [value.tensor, weights, bias], [result.tensor], **options)
    w.finish(target, result, fused=target.fused)


class Transposed(NamedTuple):
    """How TRANSPOSE_CONV computes a ConvTranspose, rows and columns each. kernel: with zeros behind it. whole: what it makes.

    same: whether it makes the picture as TFLite's padding SAME has it; else the whole, without padding.
    """

    kernel: tuple[int, int]
    whole: tuple[int, int]
    same: bool


def transposed(
    kernel: tuple[int, int], strides: tuple[int, int], sizes: tuple[int, int], picture: tuple[int, int], before: tuple[int, int]
) -> Transposed:
    """The form that every runtime computes. sizes: of its input; before: cropped in front.

    The kernel of CMSIS-NN writes a stride of rows for each row that it reads, so that the output has to have these. It makes
    nothing beyond the last window, so that this has to reach as far as the output. And it makes room for a row by the kernel
    and the stride of the other axis, so that the stride along the row must not be above both. LiteRT wants whole windows.
    """
    high, wide = (o + b for o, b in zip(picture, before, strict=True))
    rows, columns = (o - (i - 1) * s for o, i, s in zip((high, wide), sizes, strides, strict=True))
    taps = (
        rows if rows > max(kernel[0], strides[0]) else kernel[0],
        columns if columns > max(kernel[1], strides[1]) else kernel[1],
    )
    if strides[1] > max(taps[1], strides[0]):
        taps = taps[0], strides[1]
    same = sizes[0] * strides[0] <= high and all(
        -(-o // s) == i and max(0, (i - 1) * s + k - o) // 2 == b
        for i, s, k, o, b in zip(sizes, strides, taps, picture, before, strict=True)
    )
    if same:
        return Transposed(taps, picture, same)
    ends = ((i - 1) * s + k for i, s, k in zip(sizes, strides, taps, strict=True))
    high, wide = (max(o, end) for o, end in zip((high, wide), ends, strict=True))
    return Transposed(taps, (max(high, sizes[0] * strides[0]), wide), same)


def conv_transpose(w: Lowering, node: Node) -> None:
    """TRANSPOSE_CONV, which crops nothing in front by itself: what ONNX crops there is a SLICE behind it."""
    stored = _weights(w, node)
    rank = stored.integers.ndim
    if node.get("group") > 1 or attributes.is_dilated(node):
        w.refuse("in groups or dilated has no operator in TensorFlow Lite Micro", "write it as a Resize and a Conv")
    value, target = w.spatial(w.padding_done(w.data(node))), w.target(node)
    outs = stored.integers.shape[1]
    taps, strides = _two(stored.integers.shape[2:]), _two(attributes.strides(node, rank - 2))
    picture = _two(target.shape[2:])
    before = _two([pair[0] for pair in attributes.transposed_pads(node, w.net)], 0)
    kernel, whole, same = transposed(taps, strides, _two(value.shape[2:]), picture, before)

    def order(integers: Array) -> Array:
        zeros = [(0, 0), (0, 0), *((0, k - known) for k, known in zip(kernel, taps, strict=True))]
        return np.pad(integers if rank == 4 else integers[:, :, None, :], zeros).transpose(1, 2, 3, 0)

    outs_of, ins_of = (outs, target.dims[1]), (stored.integers.shape[0], value.dims[1])
    weights = _weight(w, node.inputs[1], "TRANSPOSE_CONV", stored, [outs_of, *((k, k) for k in kernel), ins_of], order, 0)
    inputs = [weights, value.tensor, _bias(w, node, value, lambda: _per_channel(stored, outs), outs_of)]
    options = {"stride_h": strides[0], "stride_w": strides[1], "fused": target.fused}
    if whole == picture:
        result = w.make(target, image(target.shape))
        options["padding"] = SAME if same else VALID
        w.emit("TRANSPOSE_CONV", [w.integers(1, *picture, outs), *inputs], [result.tensor], **options)
    else:  # without padding of its own it makes the whole; what ONNX cuts off in front is cut off behind it
        space = whole[4 - rank :]
        full = (1, outs, *space)
        uncut = w.computed(f"{target.name}/whole", full, (1, target.dims[1], *space), image(full), target.quantizer)
        w.emit("TRANSPOSE_CONV", [w.integers(1, *whole, outs), *inputs], [uncut.tensor], padding=VALID, **options)
        result = w.make(target, image(target.shape))
        cut = [w.integers(0, *before, 0), w.integers(1, *picture, outs)]
        w.emit("SLICE", [uncut.tensor, *cut], [result.tensor], copy="rows that the kernel makes and ONNX crops")
    w.finish(target, result, fused=target.fused)


def depthwise(
    w: Lowering,
    value: Value,
    target: Target,
    content: Callable[[], tuple[Array, Array, Array]],
    kernel: tuple[int, int] = (1, 1),
    strides: tuple[int, int] = (1, 1),
) -> None:
    """A depthwise convolution of constants that are made up here.

    content: weights (channels,) the same for every tap, their scales and the bias in reals, (channels,) each.
    """
    channels, input_scale = value.shape[1], np.float32(w.quantizer(value).scale)

    def weights() -> Constant:
        taps, scales, _ = content()
        wide = np.broadcast_to(taps.astype(np.int8), (1, *kernel, channels))
        return Constant(np.ascontiguousarray(wide), scales, np.zeros(channels, np.int64), 3)

    def bias() -> Constant:
        _, scales, real = content()
        step = input_scale * scales
        return Constant(np.round(real / step).astype(np.int32), step, np.zeros(channels, np.int64))

    wide = value.dims[1]
    constants = [
        w.constant(f"{target.name}/weight", (1, *kernel, channels), (1, *kernel, wide), "int8", Storage(wide, axis=3), weights),
        w.constant(f"{target.name}/bias", (channels,), (wide,), "int32", Storage(wide), bias),
    ]
    result = w.make(target, image(target.shape))
    options = {"padding": VALID, "before": (0, 0), "stride_h": strides[0], "stride_w": strides[1], "multiplier": 1}
    options |= {"dilation_h": 1, "dilation_w": 1, "fused": target.fused}
    w.emit("DEPTHWISE_CONV_2D", [value.tensor, *constants], [result.tensor], **options)
    w.finish(target, result, fused=target.fused)


def affine(w: Lowering, node: Node, value: Value, factor: Array, offset: Array) -> None:
    """factor * x + offset for each channel, (channels,) each, rounded once."""
    value, target = w.spatial(value), w.target(node)
    input_scale = w.quantizer(value).scale
    (least_x, most_x), (least_y, most_y) = w.quantizer(value).range, target.quantizer.range

    def content() -> tuple[Array, Array, Array]:
        ends = factor * least_x, factor * most_x
        # Beyond these every x takes the output to its end, and kernels' products of such an offset overflow.
        held = np.clip(offset, least_y - np.maximum(*ends), most_y - np.minimum(*ends))
        least = np.abs(held) / (input_scale * 2.0**30)  # so that the offset fits into an int32
        scales = np.maximum(np.maximum(np.abs(factor) / 127, least), 1e-12).astype(np.float32)
        return np.round(factor / scales), scales, held

    depthwise(w, value, target, content)


def batch_normalization(w: Lowering, node: Node) -> None:
    """A product and a sum for each channel."""
    scale, shift, mean, variance = (w.net.constants[name].astype(np.float64) for name in node.inputs[1:5])
    with np.errstate(divide="ignore", invalid="ignore"):  # a variance below 0 is refused by whoever computes with it
        factor = scale / np.sqrt(variance + node.get("epsilon"))
    affine(w, node, w.padding_done(w.data(node)), factor, shift - mean * factor)


# ----------------------------------------------------------------------------------------------------- matrix products


def dense(w: Lowering, node: Node) -> None:
    """Gemm, and MatMul with a constant matrix on the right."""
    if node.op == "MatMul" and not is_dense(node, w.net):
        _batch_matmul(w, node)
        return
    stored = _weights(w, node)
    value, target = w.data(node), w.target(node)
    by_rows = bool(node.get("transB"))
    ins, outs = stored.integers.shape[::-1] if by_rows else stored.integers.shape
    last = len(value.shape) - 1
    shuffle = value.shuffle
    pixels = last == _PIXELS and len(_leading(target)) > 1
    if shuffle is None:
        wanted = without_ones(range(len(value.shape)), value.shape)
        ordered = [axis for axis in value.axes if axis is not None] == [axis for axis in wanted if axis is not None]
        if pixels or not ordered:  # else FULLY_CONNECTED reads rows as they are: it counts by the depth alone
            value = w.arranged(value, wanted)
    alpha, beta = attributes.factors(node)
    if alpha <= 0:
        w.refuse(f"has alpha {alpha:g}", "multiply its weights by it, and export it with alpha 1")
    if len(node.inputs) > 2 and node.inputs[2] and not w.net.is_constant(node.inputs[2]):
        w.refuse("adds computed data", "add it by an Add of its own")

    def content() -> Constant:
        integers = stored.integers if by_rows else stored.integers.T
        integers = integers if shuffle is None else integers[:, shuffle]
        scales = stored.scale * np.float32(alpha)
        return Constant(np.ascontiguousarray(integers), scales, np.zeros(scales.size, np.int64))

    form = f"by {'rows' if by_rows else 'columns'}, times {alpha}"  # of a weight that several may read
    form = form if shuffle is None else f"{form}, for {node.name}"
    known = w.dims(node.inputs[1])
    matrix = _Matrix(form, (outs, ins), known if by_rows else known[::-1], stored.scale.size, content, beta)
    (_of_pixels if pixels else _of_rows)(w, node, value, target, matrix)


class _Matrix(NamedTuple):
    """A constant matrix. shape, dims: (outputs, inputs), as numbers and as functions of widths. scales: how many it has.

    form: how it follows from the weight. content: its integers, in that shape. beta: by what its bias is to be multiplied.
    """

    form: str
    shape: tuple[int, int]
    dims: Dims
    scales: int
    content: Callable[[], Constant]
    beta: float


def _leading(target: Target) -> list[int]:
    """The axes of more than one element in front of the last one."""
    return [axis for axis in range(len(target.shape) - 1) if target.shape[axis] > 1]


def _of_rows(w: Lowering, node: Node, value: Value, target: Target, matrix: _Matrix) -> None:
    """FULLY_CONNECTED, whose output has two dimensions.

    With more, CMSIS-NN's kernel runs a convolution where 4 divides the inputs, and breaks off where assertions are compiled in.
    """
    (outs, _), per_channel = matrix.shape, matrix.scales > 1
    storage = Storage(matrix.dims[0] if per_channel else 1)
    weights = w.weight(node.inputs[1], f"FULLY_CONNECTED, {matrix.form}", matrix.shape, matrix.dims, storage, matrix.content)
    width = outs, matrix.dims[0]
    bias = _bias(w, node, value, lambda: matrix.content().scales, width, per_channel=per_channel, factor=matrix.beta)
    last, leading = len(target.shape) - 1, _leading(target)
    if len(leading) <= 1:
        axes: Sequence[int | None] = range(last + 1) if last < 2 else (leading[0] if leading else None, last)
        result = rows = w.make(target, without_ones(axes, target.shape))
    else:
        result = w.make(target, without_ones(range(last + 1), target.shape))
        sizes, dims = ((prod(known[:-1]), known[-1]) for known in (target.shape, target.dims))
        rows = w.computed(f"{target.name}/rows", sizes, dims, (0, 1), target.quantizer)
    w.emit("FULLY_CONNECTED", [value.tensor, weights, bias], [rows.tensor], fused=target.fused, per_channel=per_channel)
    if rows is not result:
        w.reshape(rows.tensor, result.tensor)
    w.finish(target, result, fused=target.fused)


def _of_pixels(w: Lowering, node: Node, value: Value, target: Target, matrix: _Matrix) -> None:
    """A product of each pixel of a tensor (batch, height, width, channels): a convolution of one tap."""
    (outs, ins), wide = matrix.shape, matrix.dims[0]

    def scales() -> Array:
        return np.broadcast_to(matrix.content().scales, (outs,)).astype(np.float32)

    def content() -> Constant:
        return Constant(matrix.content().data.reshape(outs, 1, 1, ins), scales(), np.zeros(outs, np.int64))

    dims = (wide, 1, 1, matrix.dims[1])
    weights = w.weight(node.inputs[1], f"CONV_2D, {matrix.form}", (outs, 1, 1, ins), dims, Storage(wide), content)
    bias = _bias(w, node, value, scales, (outs, wide), factor=matrix.beta)
    result = w.make(target, without_ones(range(_PIXELS + 1), target.shape))
    options = {"padding": VALID, "before": (0, 0), "stride_h": 1, "stride_w": 1, "dilation_h": 1, "dilation_w": 1}
    w.emit("CONV_2D", [value.tensor, weights, bias], [result.tensor], **options, fused=target.fused)
    w.finish(target, result, fused=target.fused)


def _batch_matmul(w: Lowering, node: Node) -> None:
    target = w.target(node)
    inputs = []
    for index, name in enumerate(node.inputs):
        if w.net.is_constant(name):
            inputs.append(constant_operand(w, name))
        else:
            value = w.data(node, index)
            inputs.append(w.arranged(value, without_ones(range(len(value.shape)), value.shape)).tensor)
    result = w.make(target, without_ones(range(len(target.shape)), target.shape))
    w.emit("BATCH_MATMUL", inputs, [result.tensor], adj_x=False, adj_y=False)
    w.finish(target, result)


def small(w: Lowering, name: str, low: float = -np.inf, high: float = np.inf) -> Callable[[], Stored]:
    """A constant operand as symmetric int8 with one scale: as the file stores it, or rounded here.

    low, high: what is rounded here is held in these first, so that what lies beyond makes no step larger.
    """
    stored = w.net.stored.get(name)
    if stored is not None and stored.integers.dtype == np.int8 and stored.scale.size == 1:
        return lambda: stored
    value = w.net.constants[name]

    def rounded() -> Stored:
        real = np.clip(np.asarray(value, np.float64), low, high)
        scale = np.abs(real).max() / 127 or 1.0
        return Stored(np.round(real / scale).astype(np.int8), np.array([scale], np.float32), 0)

    return rounded


def constant_operand(w: Lowering, name: str) -> int:
    """A constant in ONNX's own order."""
    stored = small(w, name)

    def content() -> Constant:
        operand = stored()
        return Constant(operand.integers, operand.scale, np.zeros(1, np.int64))

    return w.constant(name, w.net.shapes[name], w.dims(name), "int8", Storage(1), content)


# --------------------------------------------------------------------------------------------------------------- pools


def pool(w: Lowering, node: Node) -> None:
    """MAX_POOL_2D, or an average; with a PAD in front where it can't pad so. Raises UnsupportedOperator for dilation."""
    if any(node.outputs[1:]) or attributes.is_dilated(node):
        w.refuse("dilated, or with indices, has no operator in TensorFlow Lite Micro", "export it without them")
    rank = len(w.net.shapes[node.inputs[0]])
    kernel = _two(attributes.kernel(node, w.net))
    strides = _two(attributes.strides(node, rank - 2))
    if node.op == "MaxPool":
        _max_pool(w, node, kernel, strides)
        return
    value = w.spatial(w.padding_done(w.data(node)))  # zeros that a Pad adds count
    counted = bool(node.get("count_include_pad"))
    window = window_of(node, w.net, value.shape[2:], ())
    pads = attributes.pads(node, w.net)
    if counted and any(map(any, pads)):  # TensorFlow Lite never counts what it pads: let a PAD write the zeros
        value = w.padded(value, ((0, 0), *pads)[-2:])
        # What a window rounded up reads behind them doesn't count: that is left to the kernel.
        unpadded = node.with_attrs(auto_pad="NOTSET", pads=(0,) * (2 * len(pads)))
        window = window_of(unpadded, w.net, value.shape[2:], ())
        if window.explicit is not None:
            w.refuse(
                "counts its padding but not what lies behind it (ceil_mode), in a form that TensorFlow Lite doesn't pad by "
                "itself",
                "export it without ceil_mode",
            )
    elif window.explicit is not None:
        w.refuse(
            "averages without counting its padding, in a form that TensorFlow Lite doesn't pad by itself",
            "export it with count_include_pad, or without padding",
        )
    average(w, node, value, kernel, strides, window.padding)


def _max_pool(w: Lowering, node: Node, kernel: tuple[int, int], strides: tuple[int, int]) -> None:
    """Padding never is a maximum: TFLite's own leaves it out, a PAD writes the lowest number.

    The zeros of a Pad in front count; they are the lowest number themselves where the data has none below zero, and a PAD
    then takes one constant less.
    """
    value = w.data(node)
    lowest_is_zero = w.quantizer(value).zero_point == LOW
    if any(map(any, value.pads)) and not lowest_is_zero:
        w.values[node.inputs[0]] = w.padding_done(value)
    value, window = _windowed(w, node, None if lowest_is_zero else LOW)
    slide(w, "MAX_POOL_2D", value, w.target(node, same=value), kernel, strides, window.padding)


def average(w: Lowering, node: Node, value: Value, kernel: tuple[int, int], strides: tuple[int, int], padding: int) -> None:
    """An average in its input's steps where the output has the same; else rounded once, to the output's.

    A GlobalAveragePool is a MEAN either way: which steps its output has, the data decide, and the price is told before.
    """
    target = w.target(node, same=value)
    q = w.quantizer(value)
    if padding == SAME and q.scale > FINER * target.quantizer.scale:
        w.refuse(
            "averages without counting its padding, which its kernel rounds to steps of the input that are "
            f"{q.scale / target.quantizer.scale:.3g} times those of the output",
            "quantise both with one scale",
        )
    if (q == target.quantizer and node.op != "GlobalAveragePool") or padding == SAME:
        slide(w, "AVERAGE_POOL_2D", value, target, kernel, strides, padding)
    elif kernel == _two(value.shape[2:]):  # over all of space: MEAN writes any quantiser
        result = w.make(target, image(target.shape))
        w.emit("MEAN", [value.tensor, w.integers(1, 2)], [result.tensor], keep_dims=True)
        w.finish(target, result)
    else:  # the pool would round in its input's steps first; a convolution by 1/n rounds once
        taps = prod(kernel)
        channels = value.shape[1]

        def content() -> tuple[Array, Array, Array]:
            return np.full(channels, 127), np.full(channels, 1 / (127 * taps), np.float32), np.zeros(channels)

        depthwise(w, value, target, content, kernel, strides)


def slide(
    w: Lowering, operator: str, value: Value, target: Target, kernel: tuple[int, int], strides: tuple[int, int], padding: int
) -> None:
    """A pool, which keeps its input's quantiser."""
    q: Quantizer = w.quantizer(value)
    fused = target.fused if q == target.quantizer else 0
    result = w.make(target, image(target.shape), q)
    options: dict[str, Any] = {"padding": padding, "stride_h": strides[0], "stride_w": strides[1], "fused": fused}
    w.emit(operator, [value.tensor], [result.tensor], filter_h=kernel[0], filter_w=kernel[1], **options)
    w.finish(target, result, fused=fused)


def global_pool(w: Lowering, node: Node) -> None:
    """The mean or the largest over all that lies behind the channels."""
    value = w.spatial(w.padding_done(w.data(node)))
    sizes = _two(value.shape[2:])
    if sizes == (1, 1):
        w.finish(w.target(node, same=value), value)
    elif node.op == "GlobalMaxPool":
        slide(w, "MAX_POOL_2D", value, w.target(node, same=value), sizes, (1, 1), VALID)
    else:
        average(w, node, value, sizes, (1, 1), VALID)


_REDUCTIONS = {"ReduceMean": "MEAN", "ReduceSum": "SUM", "ReduceMax": "REDUCE_MAX", "ReduceMin": "REDUCE_MIN"}


def reduce(w: Lowering, node: Node) -> None:
    """MEAN, SUM, REDUCE_MAX or REDUCE_MIN over the node's axes."""
    value = w.ordered(w.data(node))
    rank = len(value.shape)
    axes = attributes.reduced_axes(node, rank)
    operator = _REDUCTIONS[node.op]
    keeps = KERNELS[operator].keeps
    target = w.target(node, same=value if keeps else None)
    places = [place for place, axis in enumerate(value.axes) if axis in axes]
    left = [a for a in range(rank) if a not in axes]
    renamed = {a: a if node.get("keepdims") else left.index(a) for a in left}
    after = tuple(None if axis is None or axis in axes else renamed[axis] for axis in value.axes)
    if not places:
        w.finish(target, replace(value, shape=target.shape, dims=target.dims, axes=after))
        return
    result = w.make(target, after, w.quantizer(value) if keeps else None)
    w.emit(operator, [value.tensor, w.integers(*places)], [result.tensor], keep_dims=True)
    w.finish(target, result)
