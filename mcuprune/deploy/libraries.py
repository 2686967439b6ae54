"""Kernels of a chip maker's library that may compute in place of ours, where they give the same bytes.

Generated C calls them where the program that includes it defines the library's macro; without it nothing is called, included or
reserved. What a library computes is decided here, call by call, from what its kernels do with a shape; the rest stays ours.
In any library:

* rows in a ring (row bands): a library takes whole images. CMSIS-NN's pointwise convolution gets one row, which is whole.
* channels of which it can't be proven that no sum leaves 32 bits: what overflows has no rule.
* transposed convolutions, pools, products of computed matrices, softmax, element-wise operators but a plain sum: a small share.

CMSIS-NN besides: dilated depthwise convolutions and those of several outputs a channel, which it has no code of vectors for;
windows that reach further over the right edge than its 3 x 3 depthwise kernel looks.

ESP-NN besides: dilation and groups, which its fast code leaves out; numbers of channels, and places in memory, that its vectors
don't divide; windows that hang further over the lower and right edge than over the others, where it pads both alike; a matrix
product of few rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from mcuprune.deploy import kernels
from mcuprune.deploy.fixedpoint import Factor
from mcuprune.deploy.rowcalls import Ring, RowArgument, RowCall, RowPlace
from mcuprune.deploy.steps.calls import Call, Constant, Place, Window, upright, words_of
from mcuprune.deploy.sums import Sums
from mcuprune.immutable import immutable

_Argument = Place | RowArgument
#: Kernels of ours whose bias has the input's zero point in it.
_FOLDED = ("conv_short", "pointwise")
_CONVOLUTIONS = ("conv", "conv_grouped", *_FOLDED)
#: Where a scratch buffer may begin: multiples of so many bytes from the arena's start, which is aligned so where one is needed.
ALIGNMENT = 16
#: Shifts of a factor that need no care in a library's code: none by all bits of a number.
_SHIFTS = range(-30, 31)


class LibraryCall(NamedTuple):
    """kernel: of ``clibraries``. scratch: bytes that it is to have while it runs; they and their place follow as arguments.

    aligned: whether all that it reads and writes must lie at multiples of ``ALIGNMENT``; else ours stays.
    """

    kernel: str
    arguments: tuple[_Argument, ...]
    scratch: int = 0
    aligned: bool = False


@immutable
class Library:
    """macro: what is defined to have it. head: the piece of C that all of its kernels stand on.

    instead: what computes the same as a call of ours; None where ours stays.
    stack: bytes of stack that a network with the library's kernels took at most of those measured; None where none was.
    """

    name: str
    macro: str
    head: str
    instead: Callable[[Call | RowCall], LibraryCall | None]
    stack: int | None = None


class _Numbers(NamedTuple):
    """The numbers of a ``Window``, as the C struct has them."""

    height: int
    width: int
    channels: int
    out_height: int
    out_width: int
    outs: int
    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    pad_h: int
    pad_w: int
    dilation_h: int
    dilation_w: int
    groups: int
    zero_in: int
    zero_out: int
    low: int
    high: int


def _cmsis_nn(call: Call | RowCall) -> LibraryCall | None:
    if call.loops:
        return None
    if call.kernel == "add_proven":
        return _sum(call.arguments)
    if call.kernel not in (*_CONVOLUTIONS, "depthwise"):
        return None
    source, target, window = call.arguments[:3]
    assert isinstance(window, Window)
    if isinstance(call, RowCall):
        if call.kernel != "pointwise" or not isinstance(source, Ring):
            return None
        source = RowPlace(source.tensor)
        window = replace(window, numbers=_Numbers(*window.numbers)._replace(height=1, out_height=1))
    numbers = _Numbers(*window.numbers)
    layer = _layer(call.kernel, window)
    if layer is None:
        return None
    if call.kernel == "depthwise":
        return _depthwise(source, target, layer, numbers)
    return _convolution(source, target, layer, numbers)


def _convolution(source: _Argument, target: _Argument, layer: Window, n: _Numbers) -> LibraryCall:
    inside = all(
        (out - 1) * stride < size
        for out, stride, size in ((n.out_height, n.stride_h, n.height), (n.out_width, n.stride_w, n.width))
    )
    if (n.kernel_h, n.kernel_w, n.pad_h, n.pad_w, n.groups) == (1, 1, 0, 0, 1) and inside:
        layer = replace(layer, numbers=n._replace(dilation_h=1, dilation_w=1))  # of one tap it means nothing
        return LibraryCall("cmsis_nn_pointwise", (source, target, layer))
    if n.height == n.kernel_h == 1:  # its kernel for signals that lie has conditions of its own; of one that stands it has none
        layer = upright(layer)
    scratch = kernels.most_of_conv(n.kernel_h * n.kernel_w * n.channels)
    return LibraryCall("cmsis_nn_conv", (source, target, layer), scratch)


def _depthwise(source: _Argument, target: _Argument, layer: Window, n: _Numbers) -> LibraryCall | None:
    if n.outs != n.channels or (n.dilation_h, n.dilation_w) != (1, 1):
        return None
    if (n.kernel_h, n.kernel_w) == (3, 3) and (n.out_width - 1) * n.stride_w - n.pad_w + 1 >= n.width:
        return None  # without vectors its kernel of 3 x 3 taps reads the middle column of every window
    return LibraryCall(
        "cmsis_nn_depthwise", (source, target, layer), kernels.most_of_depthwise(n.kernel_h * n.kernel_w, n.outs)
    )


def _layer(kernel: str, window: Window) -> Window | None:
    """The window with all biases, then all numbers, then all shifts in place of its pairs; None where a sum may overflow."""
    n = _Numbers(*window.numbers)
    assert window.weights is not None
    assert window.bias_number is not None
    assert window.shift is not None
    flat = np.array(window.weights.values, np.int8)
    weights, axis = (flat.reshape(-1, n.outs), 1) if kernel == "depthwise" else (flat.reshape(n.outs, -1), 0)
    pairs, shifts = np.array(window.bias_number.values, np.int64).reshape(-1, 2), window.shift.values
    factors = tuple(Factor(int(number), shift) for (_, number), shift in zip(pairs, shifts, strict=True))
    sums = Sums(weights, axis, pairs[:, 0], factors)
    if kernel in _FOLDED:
        sums = sums.folded(-n.zero_in)
    if not sums.fits_shifted or not all(by.shift in _SHIFTS for by in factors):
        return None
    channels = words_of([*map(int, sums.bias), *(by.number for by in factors), *shifts])
    return Window(window.weights, channels, None, window.numbers)


def _sum(arguments: Sequence[_Argument]) -> LibraryCall | None:
    """A sum of two tensors of one shape."""
    a, b, target, count, step_a, step_b, parameters = arguments
    assert isinstance(parameters, Constant)
    zero_a, zero_b, *operands, number, shift, twice_zero, low, high, sign = parameters.values
    if (step_a, step_b, sign) != (1, 1, 1):
        return None
    left_a, number_a, right_a, left_b, number_b, right_b = operands
    # an operand that comes in twice as large has a factor that doesn't shift
    shifts = [-right if left == 21 else 0 for left, right in ((left_a, right_a), (left_b, right_b))]
    factors = (number_a, shifts[0], number_b, shifts[1], number, -shift)
    told = words_of([zero_a, zero_b, (twice_zero - 1) // 2, *factors, low, high])
    return LibraryCall("cmsis_nn_add", (a, b, target, count, told))


def _esp_nn(call: Call | RowCall) -> LibraryCall | None:
    if isinstance(call, RowCall) or call.kernel not in (*_CONVOLUTIONS, "depthwise"):
        return None
    source, target, window = call.arguments[:3]
    assert isinstance(window, Window)
    n = _Numbers(*window.numbers)
    layer = _layer(call.kernel, window)
    if layer is None or (n.dilation_h, n.dilation_w, n.groups) != (1, 1, 1) or n.outs % 4:
        return None
    scratch = _esp_nn_depthwise(n) if call.kernel == "depthwise" else _esp_nn_convolution(n)
    if scratch is None:
        return None
    kernel = "esp_nn_depthwise" if call.kernel == "depthwise" else "esp_nn_conv"
    return LibraryCall(kernel, (source, target, layer), scratch, aligned=True)


def _over(n: _Numbers) -> tuple[int, int]:
    """By how many rows and columns the last windows hang over the lower and the right edge."""
    down = (n.out_height - 1) * n.stride_h + n.kernel_h - n.pad_h - n.height
    across = (n.out_width - 1) * n.stride_w + n.kernel_w - n.pad_w - n.width
    return max(0, down), max(0, across)


def _esp_nn_convolution(n: _Numbers) -> int | None:
    """Scratch of a convolution on an ESP32-S3: copies of the weights, in whole vectors, and of the image with its padding."""
    margin, over = 64, _over(n)
    if n.kernel_h == n.kernel_w == n.stride_h == n.stride_w == 1 and not (n.pad_h or n.pad_w or any(over)):
        if n.channels % 8 or n.height * n.width < 8:
            return None
        return n.channels * n.outs + 16 * n.channels + margin
    row = n.kernel_w * n.channels
    if row < 16 <= row * n.kernel_h:  # window by window: sums of weights, weights, one window
        return 4 * n.outs + (n.outs + 1) * _up(row * n.kernel_h, 16) + 32 + margin
    if (n.pad_h or n.pad_w) and (over[0] > n.pad_h or over[1] > n.pad_w):
        return None
    padded = (n.height + 2 * n.pad_h) * (n.width + 2 * n.pad_w) * n.channels if n.pad_h or n.pad_w else 0
    down, across = (max(0, n.out_height * n.stride_h + n.kernel_h - 1 - n.height), _right(n))
    ended = (n.height + down) * (n.width + across) * n.channels if down or across else 0
    weights = n.outs * n.kernel_h * (n.kernel_w * _up(n.channels, 16) + _up(row, 16))
    return padded + ended + weights + 4 * n.outs + margin


def _right(n: _Numbers) -> int:
    return max(0, n.out_width * n.stride_w + n.kernel_w - 1 - n.width)


def _esp_nn_depthwise(n: _Numbers) -> int | None:
    """Scratch of its 3 x 3 kernel for multiples of 16 channels: a copy of the weights, and of the image with its padding."""
    over = _over(n)
    if n.outs != n.channels or (n.kernel_h, n.kernel_w) != (3, 3) or n.channels % 16:
        return None
    if (n.pad_h, n.pad_w) == (1, 1) and max(over) <= 1:
        down, across = 2, 2
    elif (n.pad_h, n.pad_w) == (0, 0):
        down, across = n.out_height * n.stride_h + 2 - n.height, _right(n)
    else:
        return None
    image = (n.height + down) * (n.width + across) * n.channels
    return None if image > _ESP_NN_WHOLE or down < 0 else 9 * n.channels + image + 16


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


#: ESP-NN's depthwise kernel takes a padded image of so many bytes as a whole.
_ESP_NN_WHOLE = 40 * 1024
CMSIS_NN = Library("CMSIS-NN", "MCUPRUNE_CMSIS_NN", "cmsis_nn", _cmsis_nn, stack=952)
ESP_NN = Library("ESP-NN", "MCUPRUNE_ESP_NN", "esp_nn", _esp_nn)
#: All libraries that generated C can call.
LIBRARIES = (CMSIS_NN, ESP_NN)
