"""What each output channel of a convolution adds up, and what can be proven of it before any input is known.

The fast kernels' arithmetic is exact only within bounds. Inputs are bytes, so the bounds follow from weights, biases and
factors alone; a channel outside of them that gives the same output for all inputs is written in another way that gives it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mcuprune.deploy.fixedpoint import Factor, clamped, scaled
from mcuprune.immutable import immutable

Array = np.ndarray[Any, Any]
#: A byte less any zero point is at most this far from 0; so is the sum of the largest byte and the largest zero point.
_STEPS = 256
#: Kernels multiply sums twice as large, in 32 bits.
_LARGEST_SUM = 2**30
#: Shifts with which the rounding term and the output's zero point, at most 257 * 2^(bits - 1), can be added without overflow.
_SHIFTS = range(-22, 0)
#: A factor of exactly 1/4: number / 2^31 * 2^shift.
_QUARTER = Factor(2**30, -1)


@immutable
class Sums:
    """weights: int8, output channels along ``axis``. bias: int64 (channels,), in steps of the sum.

    factors: from a sum's steps to the output's.
    """

    weights: Array
    axis: int
    bias: Array
    factors: tuple[Factor, ...]

    def _magnitudes(self) -> Array:
        """int64 (channels,): the sum of each channel's weights without their signs."""
        others = tuple(axis for axis in range(self.weights.ndim) if axis != self.axis % self.weights.ndim)
        return np.asarray(np.abs(self.weights.astype(np.int64)).sum(axis=others))

    def _largest(self) -> Array:
        """int64 (channels,): no sum, whole or in parts, with the zero point taken off before or after, lies further from 0."""
        return np.asarray(self._magnitudes() * _STEPS + np.abs(self.bias))

    @property
    def foldable(self) -> bool:
        """Whether the zero point's share may go into the bias: no part of a sum leaves 32 bits."""
        return bool((self._largest() < 2**31).all())

    @property
    def fits_shifted(self) -> bool:
        """Whether every sum, brought to the left as its factor says, stays within 32 bits."""
        left = np.array([max(0, by.shift) for by in self.factors], np.int64)
        return bool((self._largest() < 2**31 >> left).all())

    def _provable(self) -> Array:
        """bool (channels,)"""
        shifts = np.array([by.shift in _SHIFTS for by in self.factors], bool)
        return np.asarray((self._largest() < _LARGEST_SUM) & shifts)

    @property
    def proven(self) -> bool:
        """Whether the kernels' fast requantisation is exact for every input."""
        return bool(self._provable().all())

    def folded(self, zero: int) -> Sums:
        """The same sums of inputs whose zero point isn't subtracted: its products with all weights are in the bias."""
        others = tuple(axis for axis in range(self.weights.ndim) if axis != self.axis % self.weights.ndim)
        return replace(self, bias=self.bias - zero * self.weights.astype(np.int64).sum(axis=others))

    def steadied(self, zero: int, bounds: Sequence[int]) -> Sums:
        """Channels that nothing can be proven of, but whose output never changes, as ones of weights 0.

        zero: the output's zero point. bounds: the least and the largest output.
        """
        weights, bias, factors = self.weights.copy(), self.bias.copy(), list(self.factors)
        channels, most = np.moveaxis(weights, self.axis, 0), self._magnitudes() * _STEPS
        for channel in np.flatnonzero(~self._provable()):
            by, ends = factors[channel], (int(bias[channel] - most[channel]), int(bias[channel] + most[channel]))
            if max(map(abs, ends)) << max(0, by.shift) >= 2**31:
                continue  # the reference kernel itself overflows: what it gives has no rule
            outputs = {clamped(scaled(end, by) + zero, *bounds) for end in ends}
            if len(outputs) == 1:  # it never falls while the sum grows
                channels[channel] = 0
                bias[channel], factors[channel] = 4 * (outputs.pop() - zero), _QUARTER
        return replace(self, weights=weights, bias=bias, factors=tuple(factors))


def addition(parameters: Sequence[int]) -> tuple[str, tuple[int, ...]]:
    """The kernel that adds two tensors, and its parameters.

    parameters: of ``add``: zero points of both and of the output; number and shift of three factors; bounds; the second's sign.
    Operands come in 20 bits to the left, so their scaled sum stays below 2^29. A factor of exactly 1/2 doesn't shift right:
    then its operand comes in twice as large.
    """
    *zeros, zero = parameters[:3]
    factors = [Factor(*parameters[place : place + 2]) for place in (3, 5, 7)]
    halves = [by == Factor(2**30, 0) for by in factors[:2]]
    shifting = all(half or by.shift in _SHIFTS for by, half in zip(factors, (*halves, False), strict=True))
    if not shifting:
        return "add", tuple(parameters)
    operands = [n for by, half in zip(factors, halves, strict=False) for n in (21 + half, by.number, max(1, -by.shift))]
    return "add_proven", (*zeros, *operands, factors[2].number, -factors[2].shift, 2 * zero + 1, *parameters[9:])
