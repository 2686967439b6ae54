"""Disjoint sets of labels that grow by uniting (Galler and Fisher 1964; path halving by van Leeuwen and van der Weide 1977)."""

from __future__ import annotations

import numpy as np


class DisjointSets:
    """Labels 0, 1, 2 and so on, parted into sets; the least label of a set is its root and names it.

    Where the least label of all means something, as ``operators.table.FIXED`` does, whatever joins it takes that meaning.
    """

    def __init__(self, count: int = 0) -> None:
        self._parent = list(range(count))

    def __len__(self) -> int:
        return len(self._parent)

    def add(self, count: int) -> np.ndarray:
        """New labels, each a set of its own: int64 (count,)."""
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return np.arange(first, first + count)

    def root(self, label: int) -> int:
        """The least label of the set that a label is in."""
        parent = self._parent
        while parent[label] != label:
            parent[label] = parent[parent[label]]
            label = parent[label]
        return label

    def roots(self, labels: np.ndarray) -> np.ndarray:
        """``root`` of each: int64, of the shape of ``labels``."""
        return np.array([self.root(label) for label in labels.ravel().tolist()], np.int64).reshape(labels.shape)

    def unite(self, first: int, other: int) -> tuple[int, int]:
        """Make the sets of two labels one. Returns the roots they had, the less one first: it is the root of both now."""
        low, high = sorted((self.root(first), self.root(other)))
        self._parent[high] = low
        return low, high
