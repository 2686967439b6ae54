"""What an operator's attributes mean, resolved once for all opsets.

Plain defaults, such as one group, are ``Node.get``'s. Here is what follows from shapes, other attributes or the opset:
pads with ``auto_pad``, strides and dilations with their defaults, slices as ranges, permutations, the axes of a Softmax, of
reductions and of what joins or picks, where the samples of a Resize lie. Costs, training and the lowering to a chip all ask
here, so that they agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mcuprune.graph.network import Network, Node, Shape

Array = np.ndarray[Any, Any]
Pads = list[tuple[int, int]]
#: A place this near to the middle of two samples lies in the middle: places are float32, and onnxruntime takes them so.
_MIDDLE = 1e-6


def kernel(node: Node, net: Network) -> Shape:
    """Taps of a convolution or pool along each axis of space."""
    return net.shapes[node.inputs[1]][2:] if len(node.inputs) > 1 else tuple(node.attrs["kernel_shape"])


def strides(node: Node, rank: int) -> tuple[int, ...]:
    """Strides of a sliding operator over ``rank`` axes of space."""
    return tuple(node.get("strides") or (1,) * rank)


def dilations(node: Node, rank: int) -> tuple[int, ...]:
    """Dilations of a sliding operator over ``rank`` axes of space."""
    return tuple(node.get("dilations") or (1,) * rank)


def is_dilated(node: Node) -> bool:
    """Whether a window leaves out pixels between its taps."""
    return any(dilation > 1 for dilation in node.get("dilations") or ())


def is_depthwise(node: Node, net: Network) -> bool:
    """Whether every input channel of a convolution is a group of its own, and there are several."""
    return bool(1 < node.get("group") == net.shapes[node.inputs[0]][1])


def factors(node: Node) -> tuple[float, float]:
    """What a Gemm multiplies its product and its bias by (alpha, beta); other layers multiply by 1."""
    return (float(node.get("alpha")), float(node.get("beta"))) if node.op == "Gemm" else (1.0, 1.0)


def pads(node: Node, net: Network) -> Pads:
    """(before, after) of each axis of space that a convolution or pool pads, ``auto_pad`` resolved at the network's sizes."""
    window = kernel(node, net)
    rank = len(window)
    auto = node.get("auto_pad")
    if auto in ("NOTSET", ""):
        return _pairs(node.get("pads") or (0,) * (2 * rank))
    if auto == "VALID":
        return [(0, 0)] * rank
    before, after = net.shapes[node.inputs[0]][2:], net.shapes[node.outputs[0]][2:]
    sizes = zip(before, after, window, strides(node, rank), dilations(node, rank), strict=True)
    totals = [max(0, (out - 1) * stride + (taps - 1) * dilation + 1 - size) for size, out, taps, stride, dilation in sizes]
    return [_halves(total, auto == "SAME_UPPER") for total in totals]


def pads_by_size(node: Node) -> bool:
    """Whether what a convolution or pool pads follows from the size of its data, so that it is another at another size."""
    return node.get("auto_pad") not in ("NOTSET", "", "VALID")


def transposed_pads(node: Node, net: Network) -> Pads:
    """(before, after) of each axis of space that a ConvTranspose cuts off what its kernel spreads.

    ``output_shape`` decides before ``pads`` does; it and ``auto_pad`` give the total, of which ``output_padding`` is no part.
    """
    rank = len(kernel(node, net))
    auto = node.get("auto_pad")
    if auto in ("NOTSET", "") and not node.get("output_shape"):
        return _pairs(node.get("pads") or (0,) * (2 * rank))
    extra = node.get("output_padding") or (0,) * rank
    after = net.shapes[node.outputs[0]][2:]
    totals = [max(0, size + more - out) for size, out, more in zip(transposed_whole(node, net), after, extra, strict=True)]
    return [_halves(total, auto == "SAME_UPPER") for total in totals]


def transposed_whole(node: Node, net: Network) -> tuple[int, ...]:
    """Sizes of space that the kernel of a ConvTranspose spreads its input over, before anything is cut off."""
    window, before = kernel(node, net), net.shapes[node.inputs[0]][2:]
    rank = len(window)
    sizes = zip(before, strides(node, rank), window, dilations(node, rank), strict=True)
    return tuple((size - 1) * stride + (taps - 1) * dilation + 1 for size, stride, taps, dilation in sizes)


def _pairs(flat: Sequence[int]) -> Pads:
    return list(zip(flat[: len(flat) // 2], flat[len(flat) // 2 :], strict=True))


def _halves(total: int, more_after: bool) -> tuple[int, int]:
    small = total // 2
    return (small, total - small) if more_after else (total - small, small)


def pads_of_all_axes(node: Node, rank: int) -> Pads:
    """(before, after) of every axis of a Pad's data, which has ``rank`` axes."""
    pads = dict(zip(axes(node, rank), _pairs(node.attrs["pads"]), strict=True))
    return [pads.get(axis, (0, 0)) for axis in range(rank)]


def slices(node: Node, shape: Shape) -> dict[int, slice]:
    """axis -> the Python slice that a Slice takes of data of this shape, in the order of the attributes."""
    rank = len(shape)
    starts, ends = node.attrs["starts"], node.attrs["ends"]
    axes = node.get("axes") or range(len(starts))
    steps = node.get("steps") or (1,) * len(starts)
    ranges = {}
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        before_first = step < 0 and end < -shape[axis % rank]  # "down to and including 0", which Python writes as None
        ranges[axis % rank] = slice(start, None if before_first else end, step)
    return ranges


def slice_ranges(node: Node, shape: Shape) -> tuple[range, ...]:
    """The indices that a Slice takes of every axis of data of this shape."""
    taken = slices(node, shape)
    return tuple(range(*taken.get(axis, slice(None)).indices(size)) for axis, size in enumerate(shape))


def axis(node: Node, rank: int) -> int:
    """The axis, from the front, along which a Concat, Split, Gather, TopK and the like works on data with ``rank`` axes."""
    return int(node.get("axis")) % rank


def axes(node: Node, rank: int) -> tuple[int, ...]:
    """The axes, from the front, that a Pad or Resize is about, of data with ``rank`` axes: all where it names none."""
    return tuple(axis % rank for axis in node.get("axes") or range(rank))


def permutation(node: Node, rank: int) -> tuple[int, ...]:
    """A Transpose's order of axes; without one they are reversed."""
    return tuple(node.get("perm") or range(rank - 1, -1, -1))


def softmax_axes(node: Node, net: Network) -> range:
    """The axes that a Softmax, LogSoftmax or Hardmax works over: one since opset 13, all from the axis on before."""
    rank, given = len(net.shapes[node.inputs[0]]), node.get("axis")
    if net.opset >= 13:
        axis = (-1 if given is None else given) % rank
        return range(axis, axis + 1)
    return range((1 if given is None else given) % rank, rank)


def reduced_axes(node: Node, rank: int) -> tuple[int, ...]:
    """The axes that a reduction of data with ``rank`` axes works over."""
    axes = node.get("axes") or ()
    if not axes:
        return () if node.get("noop_with_empty_axes") else tuple(range(rank))
    return tuple(axis % rank for axis in axes)


def scales(node: Node, net: Network) -> list[float]:
    """The scale of every axis of a Resize or Upsample: as it is given, else as the sizes of input and output have it."""
    before, after = net.shapes[node.inputs[0]], net.shapes[node.outputs[0]]
    given = node.get("scales") or [new / old for old, new in zip(before, after, strict=True)]
    return [float(scale) for scale in given]


def coordinates(node: Node, net: Network) -> str:
    """How a Resize or Upsample places its samples."""
    return str(node.get("coordinate_transformation_mode")) if net.opset >= 11 else "asymmetric"


def rounding(node: Node, net: Network, scale: float) -> str:
    """How a Resize or Upsample of one axis by ``scale`` picks the nearest sample.

    Before opset 11 the operator's text leaves it open; what onnxruntime does counts.
    """
    if net.opset < 11:
        return "ceil" if scale < 1 else "floor"
    return str(node.get("nearest_mode"))


def places(way: str, scale: float, before: int, after: int) -> Array | None:
    """float32: where along an axis of ``before`` samples a Resize by ``scale`` takes its ``after`` ones, outside of it too.

    To the bit what onnxruntime computes, but for ``half_pixel_symmetric``: ties between two samples hang on it. None for
    ``tf_crop_and_resize``, which looks at a part of the axis.
    """
    index, size, middle = np.arange(after, dtype=np.float32), np.float32(scale), np.float32(0.5)
    if way == "align_corners":
        return index * np.float32(before - 1) / np.float32(max(after - 1, 1))
    if size == 1 and way != "tf_crop_and_resize":
        return index
    centre = (index + middle) / size
    if way == "half_pixel":
        return centre - middle
    if way == "pytorch_half_pixel":
        return centre - middle if after > 1 else 0 * index
    if way == "half_pixel_symmetric":
        kept = np.float32(after) / (size * np.float32(before))
        return np.float32(before) / np.float32(2) * (1 - kept) + centre - middle
    if way == "tf_half_pixel_for_nn":
        return centre
    return index / size if way == "asymmetric" else None


def nearest(rounding: str, where: Array, before: int) -> Array:
    """int64: the samples, of ``before``, that a Resize picks at places; ``rounding`` as ``nearest_mode`` has it."""
    exact = where.astype(np.float64)
    low = np.floor(exact)
    tie = np.abs(exact - low - 0.5) <= _MIDDLE
    if rounding == "ceil":
        picked = np.ceil(exact)
    elif rounding == "floor":
        picked = low
    else:
        picked = np.where(tie, low + (rounding == "round_prefer_ceil"), np.floor(exact + 0.5))
    return np.clip(picked, 0, before - 1).astype(np.int64)


def flat(pads: Pads) -> tuple[int, ...]:
    """Pads of axes as the attribute ``pads`` has them: all those before, then all those after."""
    return (*(before for before, _ in pads), *(after for _, after in pads))
