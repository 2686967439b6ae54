"""Operators that slide a window over an image, as calls: convolutions, pools, and the padding in front of them."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from mcuprune.deploy.fixedpoint import HIGH, LOW, clamped, factor, scaled
from mcuprune.deploy.program import Operator
from mcuprune.deploy.steps.calls import Array, Call, Constant, Loop, Place, Window, bytes_of, words_of
from mcuprune.deploy.steps.movement import between, move, strides
from mcuprune.deploy.steps.selection import Padded, Selection
from mcuprune.deploy.sums import Sums
from mcuprune.deploy.tables import activation_range
from mcuprune.immutable import immutable

#: TensorFlow Lite's number for this padding.
_SAME = 0
#: Rows of a window shorter than this are copied to the stack first, up to this many bytes of window.
_SHORT_ROW, _SHORT_WINDOW = 16, 256
#: Operators whose kernels look at no more of a window than lies inside the image.
_PADDING = ("AVERAGE_POOL_2D", "CONV_2D", "DEPTHWISE_CONV_2D", "MAX_POOL_2D")
#: Kernels that read all taps of a window as they are, so that the input's zero point may be a part of the bias.
_FOLDING = ("conv_short", "pointwise")


def _padding(size: int, out: int, kernel: int, stride: int, dilation: int) -> int:
    """What TensorFlow Lite's SAME adds in front of an axis."""
    return max(0, (out - 1) * stride + (kernel - 1) * dilation + 1 - size) // 2


@immutable
class _Frame:
    """Sizes of a sliding operator: image and output (height, width, channels), and where it starts."""

    source: int
    image: tuple[int, int, int]
    out: tuple[int, int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


def _frame(s: Selection, operator: Operator, kernel: tuple[int, int]) -> _Frame:
    options, source, output = operator.options, operator.inputs[0], operator.outputs[0]
    stride = options["stride_h"], options["stride_w"]
    dilation = options.get("dilation_h", 1), options.get("dilation_w", 1)
    out = s.shape(output)[1:]
    pad, before = (0, 0), s.pads.get(source)
    if options.get("padding") == _SAME:
        sizes = zip(s.shape(source)[1:3], out[:2], kernel, stride, dilation, strict=True)
        high, wide = (_padding(*axis) for axis in sizes)
        pad = (high, wide)
    if before is not None:
        source, added = before.source, before.pads + before.left_out
        pad = (pad[0] + int(added[1][0]), pad[1] + int(added[2][0]))
    image = s.shape(source)[1:]
    return _Frame(source, (image[0], image[1], image[2]), (out[0], out[1], out[2]), kernel, stride, pad, dilation)


def _window(s: Selection, frame: _Frame, operator: Operator, added: Sums | None, *, folded: bool = False) -> Window:
    """added: weights in the kernel's order; None for a pool. folded: the kernel leaves the input's zero point to the bias."""
    source, output = operator.inputs[0], operator.outputs[0]
    bounds = activation_range(operator.options.get("fused", 0), s.quantizer(output))
    zeros = s.quantizer(source).zero_point, s.quantizer(output).zero_point
    sizes = (*frame.image, *frame.out, *frame.kernel, *frame.stride, *frame.pad, *frame.dilation, frame.groups)
    numbers = s.short(operator, sizes)
    if added is None:
        return Window(None, None, None, (*numbers, *zeros, *bounds))
    s.proven, s.clamped = s.proven and added.proven, s.clamped or tuple(bounds) != (LOW, HIGH)
    stored = added.folded(zeros[0]) if folded else added
    pairs = [int(number) for bias, by in zip(stored.bias, stored.factors, strict=True) for number in (bias, by.number)]
    shifts = Constant("int8_t", tuple(by.shift for by in stored.factors))
    return Window(bytes_of(stored.weights), words_of(pairs), shifts, (*numbers, *zeros, *bounds))


def _sums(s: Selection, operator: Operator, weights: Array, axis: int = 0) -> Sums:
    """weights: in the kernel's order, output channels along ``axis``."""
    outs, output = weights.shape[axis], s.quantizer(operator.outputs[0])
    scales = s.quantizer(operator.inputs[0]).scale * np.broadcast_to(s.scales(operator.inputs[1]), (outs,))
    factors = tuple(factor(float(scale) / output.scale) for scale in scales)
    bounds = activation_range(operator.options.get("fused", 0), output)
    return Sums(weights, axis, _bias(s, operator, outs), factors).steadied(output.zero_point, bounds)


def _sliding(s: Selection, operator: Operator, kernel: str, frame: _Frame, window: Window, *more: int) -> Call:
    """A sliding kernel's call for all rows of the output: its input is a ring of as many rows as the image has.

    Kernels know one image: of several, such as a Reshape makes of groups of channels, it is called for each.
    """
    rows = (0, frame.out[0], frame.image[0])
    images = s.size(frame.source) // prod(frame.image)
    loops = (Loop(images, (prod(frame.image), prod(frame.out))),) if images > 1 else ()
    return Call(kernel, (s.place(frame.source), s.place(operator.outputs[0]), window, *rows, *more), loops)


def _bias(s: Selection, operator: Operator, outs: int) -> Array:
    place = 3 if operator.name == "TRANSPOSE_CONV" else 2
    bias = s.constant(operator.inputs[place]) if len(operator.inputs) > place and operator.inputs[place] >= 0 else None
    return np.zeros(outs, np.int64) if bias is None else np.broadcast_to(bias.reshape(-1).astype(np.int64), (outs,))


def conv(s: Selection, operator: Operator) -> None:
    """The kernel that fits the convolution's window, stride and groups."""
    weights = s.known(operator.inputs[1])
    frame = _frame(s, operator, (weights.shape[1], weights.shape[2]))
    before, behind = _added(s, operator)
    if _is_plain(s, operator):  # weights of channels that are zeros everywhere add nothing
        weights, before, behind = weights[..., before : before + frame.image[2]], 0, 0
    outs_of = weights.shape[0] * weights.shape[3] // s.shape(operator.inputs[0])[3]  # outputs of a group
    outs = (count // weights.shape[3] * outs_of for count in (before, behind))
    _convolve(s, operator, replace(frame, groups=frame.image[2] // weights.shape[3]), weights, *outs)


def _added(s: Selection, operator: Operator) -> tuple[int, int]:
    """How many channels a PAD that was put off adds in front of an operator's others and behind them."""
    padded = s.pads.get(operator.inputs[0])
    return (0, 0) if padded is None else (int(padded.pads[3][0]), int(padded.pads[3][1]))


def _between(s: Selection, operator: Operator, added: Sums, before: int, behind: int) -> tuple[Sums, list[int], list[int]]:
    """The sums of some outputs, and what the ones before and behind them are, which see nothing but zeros."""
    if not before and not behind:
        return added, [], []
    output = s.quantizer(operator.outputs[0])
    bounds = activation_range(operator.options.get("fused", 0), output)
    ends = [clamped(scaled(int(b), by) + output.zero_point, *bounds) for b, by in zip(added.bias, added.factors, strict=True)]
    some = slice(before, len(ends) - behind)
    weights = np.moveaxis(np.moveaxis(added.weights, added.axis, 0)[some], 0, added.axis)
    kept = replace(added, weights=weights, bias=added.bias[some], factors=added.factors[some])
    return kept, ends[:before], ends[len(ends) - behind :]


def _convolve(s: Selection, operator: Operator, frame: _Frame, weights: Array, before: int = 0, behind: int = 0) -> None:
    """weights: (out, kernel_h, kernel_w, in). before, behind: how many outputs at either end see nothing but zeros."""
    added, *ends = _between(s, operator, _sums(s, operator, weights), before, behind)
    frame = replace(frame, out=(*frame.out[:2], len(added.bias)))
    kernel, frame = _conv_kernel(s, frame, foldable=added.foldable)
    window = _window(s, frame, operator, added, folded=kernel in _FOLDING)
    s.add(operator, between(s, operator, _sliding(s, operator, kernel, frame, window), *ends))


def _conv_kernel(s: Selection, frame: _Frame, *, foldable: bool) -> tuple[str, _Frame]:
    """Which of the convolutions fits. Across a single column dilation means nothing."""
    if frame.kernel[1] == 1:
        frame = replace(frame, dilation=(frame.dilation[0], 1))
    row = frame.kernel[1] * frame.image[2]
    if frame.groups > 1 or frame.dilation[1] > 1:
        return "conv_grouped", frame
    if foldable and frame.kernel == frame.stride == (1, 1) and frame.image[:2] == frame.out[:2]:
        return "pointwise", frame
    if foldable and frame.kernel[0] > 1 and row < _SHORT_ROW and row * frame.kernel[0] <= _SHORT_WINDOW:
        s.largest_window = max(s.largest_window, row * frame.kernel[0])
        return "conv_short", frame
    return "conv", frame


def depthwise(s: Selection, operator: Operator) -> None:
    """A kernel of its own; of an image of one channel an ordinary convolution; of a single tap a product in place."""
    weights = s.known(operator.inputs[1])
    _, kernel_h, kernel_w, outs = weights.shape
    frame = _frame(s, operator, (kernel_h, kernel_w))
    multiplier = outs // s.shape(operator.inputs[0])[3]
    before, behind = (count * multiplier for count in _added(s, operator))
    if frame.image[2] == 1 and outs - before - behind > 1:  # of one channel: an ordinary convolution
        _convolve(s, operator, frame, weights.transpose(3, 1, 2, 0), before, behind)
        return
    added, *ends = _between(s, operator, _sums(s, operator, weights, 3), before, behind)
    frame = replace(frame, out=(*frame.out[:2], len(added.bias)))
    window = _window(s, frame, operator, added)
    if frame.kernel == (1, 1) and frame.image == frame.out and operator.inputs[0] == frame.source:
        s.add(operator, [_sliding(s, operator, "scale", frame, window)], in_place=(frame.source,))
        return
    s.add(operator, between(s, operator, _sliding(s, operator, "depthwise", frame, window), *ends))


def fully_connected(s: Selection, operator: Operator) -> None:
    """A convolution of one tap over as many pixels as there are rows."""
    source = operator.inputs[0]
    weights = s.constant(operator.inputs[1])
    if weights is None:
        s.refuse(operator, "of computed weights has no kernel")
    outs, ins = weights.shape
    rows = s.size(source) // ins
    frame = _Frame(source, (1, rows, ins), (1, rows, outs), (1, 1))
    _convolve(s, operator, frame, weights.reshape(outs, 1, 1, ins))


def _cut_off(s: Selection, tensor: int) -> Operator | None:
    """The SLICE that alone reads a tensor and takes all channels of a part of the image."""
    reader = s.sole_reader(tensor)
    if reader is None or reader.name != "SLICE":
        return None
    whole, part = s.shape(tensor), s.shape(reader.outputs[0])
    return reader if len(whole) == 4 and (whole[0], whole[3]) == (part[0], part[3]) else None


def transpose_conv(s: Selection, operator: Operator) -> None:
    """Each output adds up the taps that reach it; padding is cut off the output."""
    weights, source, output = s.known(operator.inputs[1]), operator.inputs[2], operator.outputs[0]
    _, kernel_h, kernel_w, _ = weights.shape
    image, out = s.shape(source)[1:], s.shape(output)[1:]
    stride = operator.options["stride_h"], operator.options["stride_w"]
    pad = (0, 0)
    if operator.options["padding"] == _SAME:
        sizes = zip(out[:2], image[:2], (kernel_h, kernel_w), stride, strict=True)
        high, wide = (_padding(o, i, k, n, 1) for o, i, k, n in sizes)
        pad = (high, wide)
    cut = _cut_off(s, output)
    if cut is not None:
        operator, out = replace(operator, outputs=tuple(cut.outputs)), s.shape(cut.outputs[0])[1:]
        begin = s.known(cut.inputs[1])
        pad = (pad[0] + int(begin[1]), pad[1] + int(begin[2]))
        s.taken.update(cut.outputs)
    frame = _Frame(source, (image[0], image[1], image[2]), (out[0], out[1], out[2]), (kernel_h, kernel_w), stride, pad)
    of_image = replace(operator, inputs=(source, *operator.inputs[1:]))
    window = _window(s, frame, of_image, _sums(s, of_image, weights))
    s.add(operator, [_sliding(s, operator, "conv_transpose", frame, window)])


def pool(s: Selection, operator: Operator) -> None:
    """The mean or the largest of each window, by a flag of the kernel. Padding of its own a pool leaves out, a PAD's counts."""
    frame = _frame(s, operator, (operator.options["filter_h"], operator.options["filter_w"]))
    frame = replace(frame, out=(*frame.out[:2], frame.image[2]))
    window = _window(s, frame, operator, None)
    largest, before = int(operator.name == "MAX_POOL_2D"), s.pads.get(operator.inputs[0])
    if before is None or not before.pads[1:3].any() or (largest and before.number == LOW):
        call = _sliding(s, operator, "pool", frame, window, largest)
    else:
        zeros = [int(number) for number in before.pads[1:3].reshape(-1)]
        call = _sliding(s, operator, "pool_counting", frame, window, largest, *zeros)
    number = 0 if before is None else clamped(before.number, *window.numbers[-2:])
    s.add(operator, between(s, operator, call, *([number] * count for count in _added(s, operator))))


def _pads(s: Selection, reader: Operator, padded: Padded) -> bool:
    """Whether an operator that reads padded data can do without the padding in memory."""
    zero = s.quantizer(padded.source).zero_point
    if reader.name in ("PAD", "PADV2"):  # two in a row are one
        return _around(s, reader, padded) is not None
    if len(padded.pads) != 4 or padded.pads[0].any() or (padded.pads[3].any() and _splits_a_group(s, reader, padded)):
        return False
    if reader.name in ("MEAN", "SUM"):  # zeros add nothing to a sum, where it goes over all of them or over nothing else
        summed = {int(axis) % len(padded.pads) for axis in s.known(reader.inputs[1]).reshape(-1)}
        return padded.number == zero and summed.issuperset(np.flatnonzero(padded.pads[:3].any(axis=1)).tolist())
    if reader.name not in _PADDING or (padded.left_out.any() and reader.name != "MAX_POOL_2D"):
        return False
    return padded.number in {"MAX_POOL_2D": (zero, LOW)}.get(reader.name, (zero,))


def _splits_a_group(s: Selection, reader: Operator, padded: Padded) -> bool:
    """Whether some group of a grouped convolution has both channels that a PAD adds and others."""
    if reader.name != "CONV_2D" or _is_plain(s, reader):
        return False
    return bool((padded.pads[3] % s.shape(reader.inputs[1])[3]).any())


def _is_plain(s: Selection, operator: Operator) -> bool:
    """Whether an operator is a convolution whose outputs see all channels."""
    return operator.name == "CONV_2D" and s.shape(operator.inputs[0])[3] == s.shape(operator.inputs[1])[3]


def _number(s: Selection, operator: Operator) -> int:
    """What a PAD or PADV2 writes."""
    fill = s.constant(operator.inputs[2]) if operator.name == "PADV2" else None
    return s.quantizer(operator.inputs[0]).zero_point if fill is None else int(fill.reshape(-1)[0])


def _around(s: Selection, operator: Operator, inner: Padded) -> Padded | None:
    """What a PAD of what ``inner`` would write comes to as one; None where the two write different numbers.

    Zeros may be followed by the lowest number, where only maxima read that.
    """
    pads, number = s.known(operator.inputs[1]), _number(s, operator)
    if number == inner.number and not inner.left_out.any():
        return inner._replace(pads=inner.pads + pads)
    zero = s.quantizer(inner.source).zero_point
    outer = inner._replace(left_out=inner.left_out + pads)
    readers = s.readers.get(operator.outputs[0], [])
    of_maxima = bool(readers) and operator.outputs[0] not in s.outputs and all(_leaves_out(reader, outer) for reader in readers)
    return outer if (inner.number, number) == (zero, LOW) and of_maxima else None


def _leaves_out(reader: Operator, padded: Padded) -> bool:
    """Whether an operator is a maximum of which what is left out lies around the image.

    Where channels are added, none of its windows may lie there as a whole: in these it would be another number.
    """
    if reader.name != "MAX_POOL_2D" or len(padded.pads) != 4:
        return False
    window = np.array([[reader.options["filter_h"]], [reader.options["filter_w"]]])
    reaches = not padded.pads[3].any() or bool((padded.left_out[1:3] < window).all())
    return reaches and not padded.pads[0].any() and not padded.left_out[[0, 3]].any()


def pad(s: Selection, operator: Operator) -> None:
    """Left to the kernels that read it, where all of them can; else a copy into a filled image."""
    source, output = operator.inputs[0], operator.outputs[0]
    pads = s.known(operator.inputs[1])
    padded: Padded | None = Padded(source, pads, _number(s, operator), 0 * pads)
    if source in s.pads:
        padded = _around(s, operator, s.pads[source])
    assert padded is not None, "padding was put off that this one can't take over"
    readers = s.readers.get(output, [])
    if readers and output not in s.outputs and all(_pads(s, reader, padded) for reader in readers):
        s.pads[output] = padded
        return
    shape, out = s.shape(padded.source), s.shape(output)
    steps = strides(out)
    start = sum(int(before) * step for before, step in zip(padded.pads[:, 0], steps, strict=True))
    calls = [Call("fill", (s.place(output), s.size(output), padded.number))]
    axes = list(zip(shape, strides(shape), steps, strict=True))
    s.add(operator, [*calls, move(s.place(padded.source), Place(s.root(output), start), axes)])
