"""Training examples varied at random, batch by batch."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from mcuprune.data.sets import Augment
from mcuprune.errors import UsageError


def augmentation(spec: str) -> Augment:
    """The variation that ``spec`` describes, such as ``flip,crop4``: its parts one after the other.

    ``flip`` mirrors the last axis of half of the examples; ``cropN`` shifts every example by up to N places along each of its
    axes after the first, ``shiftN`` along the second alone, both filling with zeros; ``noiseX`` adds Gaussian noise of standard
    deviation X. Raises UsageError for anything else.
    """
    steps: list[Augment] = []
    for part in map(str.strip, spec.split(",")):
        found = re.fullmatch(r"(flip)|(crop|shift)([1-9]\d{0,2})|(noise)(\d*\.?\d+)", part)
        if not found:
            raise UsageError(f"--augment: {part!r} is unknown; write flip, crop4, shift5 or noise0.1, or several: flip,crop4")
        if found[1]:
            steps.append(_flip)
        elif found[2]:
            steps.append(_moved(int(found[3]), every_axis=found[2] == "crop"))
        else:
            deviation = float(found[5])
            if not math.isfinite(deviation):
                raise UsageError(f"--augment: {part[:20]!r}... is no deviation that a number can have; write noise0.1")
            steps.append(_noisy(deviation))

    def vary(x: np.ndarray[Any, Any], random: np.random.Generator) -> np.ndarray[Any, Any]:
        for step in steps:
            x = step(x, random)
        return x

    return vary


def _flip(x: np.ndarray[Any, Any], random: np.random.Generator) -> np.ndarray[Any, Any]:
    chosen = random.random(len(x)) < 0.5
    found = x.copy()
    found[chosen] = found[chosen][..., ::-1]
    return found


def _noisy(deviation: float) -> Augment:
    return lambda x, random: x + deviation * random.standard_normal(x.shape, np.float32)


def _moved(reach: int, *, every_axis: bool) -> Augment:
    def vary(x: np.ndarray[Any, Any], random: np.random.Generator) -> np.ndarray[Any, Any]:
        axes = range(2, x.ndim if every_axis else min(3, x.ndim))
        padded = np.pad(x, [(0, 0), (0, 0), *((reach, reach) for _ in axes), *((0, 0) for _ in range(2 + len(axes), x.ndim))])
        starts = random.integers(0, 2 * reach + 1, (len(x), len(axes)))
        found = np.empty_like(x)
        for index, start in enumerate(starts):
            window = tuple(slice(int(s), int(s) + x.shape[axis]) for s, axis in zip(start, axes, strict=True))
            found[index] = padded[index][(slice(None), *window)]
        return found

    return vary
