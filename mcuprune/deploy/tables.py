"""Operators of one int8 tensor as tables: for each of the 256 stored inputs the stored output.

Every table equals what TensorFlow Lite Micro's reference kernel computes for these quantisers, bit for bit. A chain of such
operators is one table, so activations cost 256 bytes of flash and a look-up for each element, whatever they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import floor
from typing import Any

import numpy as np

from mcuprune.deploy.fixedpoint import (
    HIGH,
    LOW,
    Factor,
    clamped,
    factor,
    logistic,
    round_half_away,
    saturated,
    scaled,
    shift_right,
    tanh,
)
from mcuprune.deploy.qdq import Quantizer

Table = np.ndarray[Any, np.dtype[np.int8]]
#: What a table maps: every stored number.
STORED = range(LOW, HIGH + 1)


def table(operator: str, source: Quantizer, target: Quantizer, options: Mapping[str, Any]) -> Table:
    """int8 (256,): what an operator of TABLES makes of -128 ... 127."""
    outputs = [TABLES[operator](stored, source, target, options) for stored in STORED]
    return np.array(outputs, np.int8)


def activation_range(fused: int, target: Quantizer) -> tuple[int, int]:
    """The stored numbers in which a fused activation (its number in the TFLite schema) holds an output."""

    def stored(real: float) -> int:
        return target.zero_point + round_half_away(float(np.float32(real) / np.float32(target.scale)))

    low, high = {0: (None, None), 1: (0.0, None), 2: (-1.0, 1.0), 3: (0.0, 6.0)}[fused]
    return LOW if low is None else max(LOW, stored(low)), HIGH if high is None else min(HIGH, stored(high))


_Rule = Callable[[int, Quantizer, Quantizer, Mapping[str, Any]], int]


def _quantize(stored: int, source: Quantizer, target: Quantizer, options: Mapping[str, Any]) -> int:
    ratio = factor(source.scale / target.scale)
    return clamped(scaled(stored - source.zero_point, ratio) + target.zero_point)


def _bounded(fused: int) -> _Rule:
    """A Relu by itself: requantised, and held in the activation's range."""

    def rule(stored: int, source: Quantizer, target: Quantizer, options: Mapping[str, Any]) -> int:
        ratio = factor(float(np.float32(source.scale) / np.float32(target.scale)))
        return clamped(scaled(stored - source.zero_point, ratio) + target.zero_point, *activation_range(fused, target))

    return rule


def _radius(shift: int) -> int:
    """Inputs beyond it have 4 integer bits or more once they are scaled: their outputs are the limits."""
    return floor(((1 << 4) - 1) * (1 << (31 - 4)) / (1 << shift)) if shift >= 0 else 2**31


def _saturating(function: Callable[[int], int], output_shift: int, limits: tuple[int, int], zero: int) -> _Rule:
    """The logistic function and the hyperbolic tangent: the input with 27 fractional bits, the output scaled down."""

    def rule(stored: int, source: Quantizer, target: Quantizer, options: Mapping[str, Any]) -> int:
        by = factor(source.scale * 2**27)
        centred = stored - source.zero_point
        if abs(centred) >= _radius(by.shift) and centred != 0:
            return limits[centred > 0]
        return clamped(shift_right(function(scaled(centred, by)), output_shift) + zero)

    return rule


def _hard_swish(stored: int, source: Quantizer, target: Quantizer, options: Mapping[str, Any]) -> int:
    """x * relu6(x + 3) / 6 in 16-bit arithmetic: x with 7 more bits, times its gate on [-1, 1) shifted to [0, 1)."""
    fine = np.float32(1 / 128) * np.float32(source.scale)
    out = _short(factor(float(np.float32(fine / np.float32(target.scale)))))
    gate = _short(factor(float(np.float32(fine / np.float32(3 / 32768)))))
    x = (stored - source.zero_point) * 128
    on_output = _short_product(x, out.number)
    value = x
    if gate.shift > 0:
        value = saturated(value << (gate.shift - 1), 16)
    value = _short_product(value, gate.number)
    if gate.shift > 0:
        value = saturated(value << 1, 16)
    elif gate.shift < 0:
        value = shift_right(value, -gate.shift)
    value = (value + (1 << 15)) >> 1
    product = saturated(_truncated(value * on_output, 15), 16)
    # an output whose range is almost nothing has a factor above one: what that gives is clamped, and nothing stays nothing
    shifted = shift_right(product, -out.shift) if out.shift <= 0 else product << out.shift
    return clamped(shifted + target.zero_point)


def _short(by: Factor) -> Factor:
    """A factor whose number has 16 bits."""
    number = 2**15 - 1 if by.number >= 2**31 - 2**15 else (by.number + 2**15) >> 16
    return Factor(number, by.shift)


def _short_product(a: int, b: int) -> int:
    """The upper 16 bits of 2ab, rounded; a and b are 16-bit integers."""
    return min(_truncated(a * b + (2**14 if a * b >= 0 else 1 - 2**14), 15), 2**15 - 1)


def _truncated(value: int, bits: int) -> int:
    """value / 2^bits, towards zero."""
    return value >> bits if value >= 0 else -(-value >> bits)


def _leaky_relu(stored: int, source: Quantizer, target: Quantizer, options: Mapping[str, Any]) -> int:
    centred = stored - source.zero_point
    slope = 1.0 if centred >= 0 else float(np.float32(options["alpha"]))
    value = scaled(centred, factor(source.scale * abs(slope) / target.scale))
    return clamped((value if slope >= 0 else -value) + target.zero_point)


def _elu(stored: int, source: Quantizer, target: Quantizer, options: Mapping[str, Any]) -> int:
    """In 32-bit floats, which is how the kernel fills its own table."""
    x = np.float32(source.scale) * np.float32(stored - source.zero_point)
    y = x if x >= 0 else np.float32(np.expm1(x, dtype=np.float32))
    stored_real = float(y * np.float32(1 / np.float32(target.scale)))
    return clamped(round_half_away(stored_real) + target.zero_point)


def _absolute(stored: int, source: Quantizer, target: Quantizer, options: Mapping[str, Any]) -> int:
    ratio = factor(source.scale / target.scale)
    return clamped(scaled(abs(stored - source.zero_point), ratio) + target.zero_point)


#: TFLite operator -> stored input, both quantisers and the operator's options -> stored output.
TABLES: Mapping[str, _Rule] = {
    "ABS": _absolute,
    "ELU": _elu,
    "HARD_SWISH": _hard_swish,
    "LEAKY_RELU": _leaky_relu,
    "LOGISTIC": _saturating(logistic, 23, (LOW, HIGH), LOW),
    "QUANTIZE": _quantize,
    "RELU": _bounded(1),
    "RELU6": _bounded(3),
    "RELU_N1_TO_1": _bounded(2),
    "TANH": _saturating(tanh, 24, (LOW, HIGH), 0),
}
