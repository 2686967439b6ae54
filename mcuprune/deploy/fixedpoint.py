"""The integer arithmetic of TensorFlow Lite's int8 kernels, in Python.

A real factor is stored as a 32-bit integer and a binary exponent: factor = number / 2^31 * 2^shift. Applying it rounds twice:
once to the upper half of the product, and once more when that is shifted right. Generated C agrees with TensorFlow Lite Micro
byte for byte because both use these definitions.

Sources: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
section 2.2 (factors) and appendix B (rounding); for the exponential, the logistic function and the hyperbolic tangent the
published fixed-point scheme of gemmlowp: a polynomial of degree 4 on [-1/4, 0), powers of e by bits, Newton's division.
"""

from __future__ import annotations

from math import floor, frexp
from typing import NamedTuple

LOW, HIGH = -128, 127
INT32_MAX = 2**31 - 1
#: By how many bits a factor shifts to the left at most.
MOST_SHIFT = 31

#: e^(-2^k) for k = -2 ... 4, with 31 fractional bits.
_POWERS_OF_E = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)
#: e^(-1/8) and 1/3 with 31 fractional bits; 48/17 and -32/17, where Newton's division starts, with 29.
_E_TO_MINUS_EIGHTH, _THIRD = 1895147668, 715827883
_START, _SLOPE = 1515870810, -1010580540


class Factor(NamedTuple):
    """A real factor: number / 2^31 * 2^shift."""

    number: int
    shift: int


def factor(real: float) -> Factor:
    """A real number >= 0 as a ``Factor``; one below 2^-32 is 0, one of 2^31 or more just below that."""
    if real == 0:
        return Factor(0, 0)
    mantissa, shift = frexp(real)
    number = round_half_away(mantissa * 2**31)
    if number == 2**31:
        number, shift = number // 2, shift + 1
    if shift > MOST_SHIFT:  # no kernel shifts further
        return Factor(INT32_MAX, MOST_SHIFT)
    return Factor(0, 0) if shift < -31 else Factor(number, shift)


def round_half_away(value: float) -> int:
    """The nearest integer; halves go away from zero."""
    return floor(value + 0.5) if value >= 0 else -floor(-value + 0.5)


def high_product(a: int, b: int) -> int:
    """The upper 32 bits of 2ab, rounded; a and b are 32-bit integers."""
    return min((a * b + 2**30) >> 31, INT32_MAX)


def shift_right(value: int, bits: int) -> int:
    """value / 2^bits to the nearest integer; halves go away from zero."""
    return (value + (1 << (bits - 1)) - (value < 0)) >> bits if bits else value


def scaled(value: int, by: Factor) -> int:
    """``value`` times a factor, rounded as the kernels round; of a shift to the left bits that don't fit are lost."""
    shifted = ((value << max(by.shift, 0)) + 2**31) % 2**32 - 2**31
    return shift_right(high_product(shifted, by.number), max(-by.shift, 0))


def clamped(value: int, low: int = LOW, high: int = HIGH) -> int:
    """``value`` held in [low, high]."""
    return max(low, min(high, value))


def saturated(value: int, bits: int = 32) -> int:
    """``value`` held in the range of a signed integer of this many bits."""
    return clamped(value, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def exp_of_negative(value: int, fraction: int) -> int:
    """e^x for x <= 0 with ``fraction`` fractional bits; the result has 31."""
    if value == 0:
        return INT32_MAX
    quarter = 1 << (fraction - 2)
    rest = (value & (quarter - 1)) - quarter  # in [-1/4, 0)
    x = saturated(rest << (31 - fraction)) + (1 << 28)  # the polynomial is around -1/8
    x2 = high_product(x, x)
    x3, x4 = high_product(x2, x), high_product(x2, x2)
    tail = shift_right(high_product(shift_right(x4, 2) + x3, _THIRD) + x2, 1)
    result = saturated(_E_TO_MINUS_EIGHTH + high_product(_E_TO_MINUS_EIGHTH, x + tail))
    quarters = rest - value
    for exponent, power in enumerate(_POWERS_OF_E, -2):
        if 31 - fraction > exponent and quarters & (1 << (fraction + exponent)):
            result = high_product(result, power)
    return result


def logistic(value: int) -> int:
    """1 / (1 + e^-x) for x with 27 fractional bits; the result has 31."""
    if value == 0:
        return 1 << 30
    _, inverse = _inverse_of_half_sum(exp_of_negative(-abs(value), 27))
    positive = saturated(inverse << 1)
    return positive if value > 0 else INT32_MAX - positive


def tanh(value: int) -> int:
    """The hyperbolic tangent of x with 27 fractional bits; the result has 31."""
    if value == 0:
        return 0
    # with one fractional bit less the same bits are 2x
    _, inverse = _inverse_of_half_sum(exp_of_negative(-abs(value), 26))
    positive = saturated((inverse - (1 << 29)) << 2)
    return positive if value > 0 else -positive


def _inverse_of_half_sum(value: int) -> tuple[int, int]:
    """d = (1 + x) / 2 for x in [0, 1], both with 31 fractional bits, and 1 / d with 29, by three of Newton's steps."""
    half = (value + INT32_MAX + 1) >> 1
    inverse = saturated(_START + high_product(half, _SLOPE))
    for _ in range(3):
        error = (1 << 29) - high_product(half, inverse)
        inverse = saturated(inverse + saturated(high_product(inverse, error) << 2))
    return half, inverse
