"""Which examples are held out: by chance that a seed fixes, each class by its share."""

from __future__ import annotations

from typing import Any

import numpy as np


def stratified(
    y: np.ndarray[Any, np.dtype[np.int64]], size: int, rng: np.random.Generator
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Mask (n,) of ``size`` examples, each class by its share. The last example of a class is never taken.

    Fewer than ``size`` where the classes are too small for it.
    """
    counts = np.bincount(y)
    spare = np.maximum(counts - 1, 0)
    share = size * counts / len(y)
    quota = np.minimum(share.astype(np.int64), spare)
    for label in np.argsort(quota - share, kind="stable"):  # those that rounding cut most come first
        if quota.sum() < size and quota[label] < spare[label]:
            quota[label] += 1
    mask = np.zeros(len(y), dtype=np.bool_)
    for label, n in enumerate(quota):
        mask[rng.permutation(np.flatnonzero(y == label))[:n]] = True
    return mask
