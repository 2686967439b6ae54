"""Which pixels TensorFlow Lite's kernels take along one axis of a resized image, and how far that is from linear interpolation.

RESIZE_BILINEAR counts places in 1/1024 of a pixel and takes as many from one output to the next. Where the true distance is no
whole number of these, what it lacks adds up along the axis.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
#: Ways to place samples, as (align_corners, half_pixel_centers).
FORMS = ((False, False), (False, True), (True, False))


def nearest(align: bool, half: bool, size: int, out: int) -> list[int]:
    """The index that each output takes along an axis of RESIZE_NEAREST_NEIGHBOR."""
    scale = np.float32((size - 1) / (out - 1) if align and out > 1 else size / out)
    x = (np.arange(out, dtype=np.float32) + np.float32(0.5 if half else 0.0)) * scale
    picked = np.floor(x + np.float32(0.5)) if align else np.floor(x)
    return [int(i) for i in np.clip(picked, 0, size - 1)]


def between(align: bool, half: bool, size: int, out: int) -> list[int]:
    """For each output index of RESIZE_BILINEAR the two inputs that it lies between, and where, in steps of 1/1024."""
    scale = (1024 * size + out // 2) // out
    if align and out > 1:
        scale = (1024 * (size - 1) + (out - 1) // 2) // (out - 1)
    numbers = []
    for index in range(out):
        place = index * scale + (scale // 2 - 512 if half else 0)
        low = max(0, _towards_zero(place))
        numbers += [low, min(_towards_zero(place + 1023), size - 1), place - 1024 * low]
    return numbers


def _towards_zero(value: int) -> int:
    return value // 1024 if value >= 0 else -(-value // 1024)


def stays_inside(align: bool, half: bool, size: int, out: int) -> bool:
    """Whether RESIZE_BILINEAR reads no pixel behind the last one, where its places have gone too far."""
    return between(align, half, size, out)[-3] < size


def exact(align: bool, half: bool, size: int, out: int) -> Array:
    """float64: the places that RESIZE_BILINEAR means, those outside of the image moved to its edge."""
    index = np.arange(out, dtype=np.float64)
    if align and out > 1:
        return index * (size - 1) / (out - 1)
    return np.clip((index + 0.5) * size / out - 0.5 if half else index * size / out, 0, size - 1)


def astray(align: bool, half: bool, size: int, out: int) -> float:
    """The largest share of an answer along an axis of RESIZE_BILINEAR that comes from another pixel than it should.

    Two pixels lie up to 255 steps apart, so an answer is off by up to 255 times this.
    """
    if not stays_inside(align, half, size, out):
        return 1.0
    low, high, place = np.array(between(align, half, size, out)).reshape(out, 3).T
    true = exact(align, half, size, out)
    before = np.floor(true).astype(np.int64)
    apart, rows = np.zeros((out, size)), np.arange(out)
    for column, share in (
        (low, 1 - place / 1024),
        (high, place / 1024),
        (before, true - before - 1),
        (np.minimum(before + 1, size - 1), before - true),
    ):
        np.add.at(apart, (rows, column), share)
    return float(np.abs(apart).sum(axis=1).max() / 2)
