"""Polynomials of degree two in the widths of groups: what costs are as functions, with their gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


class Polynomial:
    """A sum of integer coefficients times products of extents; an extent is the size of an axis as a function of widths."""

    __slots__ = ("terms",)

    def __init__(self, terms: Mapping[tuple[int, ...], int]) -> None:
        self.terms = terms

    def __add__(self, other: Polynomial | int) -> Polynomial:
        terms = dict(self.terms)
        for extents, factor in (other.terms if isinstance(other, Polynomial) else {(): other}).items():
            terms[extents] = terms.get(extents, 0) + factor
        return Polynomial(terms)

    def __mul__(self, other: Polynomial | int) -> Polynomial:
        terms: dict[tuple[int, ...], int] = {}
        for extents, factor in self.terms.items():
            for more, times in (other.terms if isinstance(other, Polynomial) else {(): other}).items():
                key = tuple(sorted(extents + more))
                terms[key] = terms.get(key, 0) + factor * times
        return Polynomial(terms)

    __radd__, __rmul__ = __add__, __mul__


class Compiled:
    """Polynomials of degree two at most, ready to be evaluated together at many widths.

    An extent is a fixed size plus a sum of counts times widths; extent 0 is the constant 1. The counts are listed, not kept
    in a matrix of extents by groups, which would grow as the square of the network.
    """

    def __init__(
        self, polynomials: Sequence[Polynomial], extents: Sequence[tuple[int, Mapping[int, int]]], groups: int
    ) -> None:
        self.fixed = np.array([1, *(fixed for fixed, _ in extents)], dtype=np.int64)
        listed = [(row, group, count) for row, (_, counts) in enumerate(extents, 1) for group, count in counts.items()]
        self.n_groups = groups
        self.extent_of, self.group_of, self.times = np.array(listed, dtype=np.int64).reshape(-1, 3).T
        flat = [(row, (0, 0, *key)[-2:], factor) for row, p in enumerate(polynomials) for key, factor in p.terms.items()]
        assert all(len(key) <= 2 for p in polynomials for key in p.terms), "a cost of degree three"
        self.rows = np.array([row for row, _, _ in flat], dtype=np.int64)
        self.left = np.array([key[0] for _, key, _ in flat], dtype=np.int64)
        self.right = np.array([key[1] for _, key, _ in flat], dtype=np.int64)
        self.factor = np.array([factor for _, _, factor in flat], dtype=np.int64)
        self.count = len(polynomials)

    def extents(self, widths: np.ndarray) -> np.ndarray:
        """int64 (extents,) at widths int64 (groups,)."""
        extents = self.fixed.copy()
        np.add.at(extents, self.extent_of, self.times * widths[self.group_of])
        return extents

    def values(self, widths: np.ndarray) -> np.ndarray:
        """int64 (polynomials,) at widths int64 (groups,)."""
        extents = self.extents(widths)
        terms = self.factor * extents[self.left] * extents[self.right]
        return np.bincount(self.rows, terms, self.count).astype(np.int64) if terms.size else np.zeros(self.count, np.int64)

    def gradient(self, widths: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """d (weight @ values) / d widths: float64 (groups,)."""
        extents = self.extents(widths)
        scale = self.factor * weight[self.rows]
        by_extent = np.bincount(self.left, scale * extents[self.right], len(extents))
        by_extent += np.bincount(self.right, scale * extents[self.left], len(extents))
        return np.bincount(self.group_of, by_extent[self.extent_of] * self.times, self.n_groups)
