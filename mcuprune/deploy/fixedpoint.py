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
#: A factor of a quotient of this power of 2 takes all but 0 to the end of int8: the least quotient of integers is 1 / 255.
MOST_QUOTIENT = 20

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


def quotient_factor(dividend: float, divisor: float, quotient: float) -> Factor:
    """What a quotient of integers of these scales is multiplied by."""
    most, both = 2.0**MOST_QUOTIENT, divisor * quotient  # 0 of a constant that isn't known yet, and of scales of almost nothing
    return factor(min(dividend / both, most) if both else most)


def quotient(dividend: int, divisor: int, by: Factor) -> int:
    """dividend / divisor times a factor, for a divisor other than 0 and integers of 9 bits.

    Where the kernel would shift to the right by more than 31 bits, which C leaves undefined, less than half a step is left: 0.
    """
    if divisor < 0:
        dividend, divisor = -dividend, -divisor
    whole, room = divisor.bit_length() - 1, 31 - (dividend ^ (dividend >> 31)).bit_length()
    share = high_product(dividend << room, inverse((divisor << (31 - whole)) - 2**31))
    bits = whole + room - by.shift
    return shift_right(high_product(share, by.number), bits) if bits <= MOST_SHIFT else 0


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
    positive = inverse(exp_of_negative(-abs(value), 27))
    return positive if value > 0 else INT32_MAX - positive


def tanh(value: int) -> int:
    """The hyperbolic tangent of x with 27 fractional bits; the result has 31."""
    if value == 0:
        return 0
    # with one fractional bit less the same bits are 2x
    positive = saturated((_inverse_of_half_sum(exp_of_negative(-abs(value), 26)) - (1 << 29)) << 2)
    return positive if value > 0 else -positive


def inverse(value: int) -> int:
    """1 / (1 + x) for x in [0, 1], both with 31 fractional bits."""
    return saturated(_inverse_of_half_sum(value) << 1)


def _inverse_of_half_sum(value: int) -> int:
    """2 / (1 + x) for x in [0, 1] with 31 fractional bits; the result has 29. By three of Newton's steps."""
    half = (value + INT32_MAX + 1) >> 1
    inverse_of_half = saturated(_START + high_product(half, _SLOPE))
    for _ in range(3):
        error = (1 << 29) - high_product(half, inverse_of_half)
        inverse_of_half = saturated(inverse_of_half + saturated(high_product(inverse_of_half, error) << 2))
    return inverse_of_half
