"""Training examples varied at random, batch by batch."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mcuprune.data.preprocessing import layout_of
from mcuprune.data.sets import Augment
from mcuprune.errors import UsageError
from mcuprune.immutable import immutable

Array = np.ndarray[Any, Any]


def augmentation(spec: str) -> Augment:
    """The variation that ``spec`` describes, such as ``flip,crop4``: its parts one after the other. ``KINDS`` has them all.

    What mixes examples is no part of it: ``mixup`` says how strong that is.
    Raises UsageError for anything else; ``auto`` and ``none`` are for ``default_for`` to settle.
    """
    steps = [kind.make(amount) for kind, amount in _parts(spec) if kind.make is not None]

    def vary(x: Array, random: np.random.Generator) -> Array:
        for step in steps:
            x = step(x, random)
        return x

    return vary


def mixup(spec: str) -> float:
    """How strongly ``spec`` mixes examples, the parameter of ``mixed``; 0 where it doesn't. Raises as ``augmentation``."""
    return max((amount for kind, amount in _parts(spec) if kind.make is None), default=0.0)


def _parts(spec: str) -> list[tuple[Kind, float]]:
    parts: list[tuple[Kind, float]] = []
    for part in map(str.strip, spec.split(",")):
        match = re.fullmatch(r"([a-z]+)(\d*\.?\d*)", part)
        if part in _ALONE:
            if spec.strip() != part:
                raise UsageError(f"--augment: {spec[:40]!r}: {part!r} stands alone; leave it out, or the others")
            continue
        kind = KINDS.get(match[1]) if match else None
        if match is None or kind is None or bool(match[2].strip(".")) != bool(kind.takes):
            known = ", ".join(f"{name}{each.takes}" for name, each in KINDS.items())
            raise UsageError(f"--augment: {part[:40]!r} is unknown; write auto, none, or several of {known}: flip,crop4")
        amount = float(match[2]) if kind.takes else 0.0
        if kind.takes and not (
            math.isfinite(amount) and 0 < amount <= kind.most and (amount.is_integer() or kind.takes == "X")
        ):
            raise UsageError(f"--augment: {part[:40]!r}: {kind.takes} is above 0 and at most {kind.most:g}; {kind.what}")
        parts.append((kind, amount))
    return parts


def refuse_beyond(spec: str, shape: tuple[int, ...]) -> None:
    """Raise UsageError for a variation that leaves nothing of an example. shape: of one, as it is fed."""
    longest = max(shape, default=1)
    for kind, amount in _parts(spec):
        if kind.in_places and amount >= longest:
            raise UsageError(
                f"--augment: {spec[:40]!r}: {amount:g} places, and examples of {list(shape)} have no more than {longest} in a "
                f"row; write a number below {longest}"
            )


def mixed(x: Array, alpha: float, random: np.random.Generator) -> tuple[Array, Array, float]:
    """A batch of which each example has a part of another one in it (Zhang et al. 2018, "mixup", equation 1).

    Returns the mixed examples, of each the index of the other one, and the share that is the example's own: one number for
    the batch, of the distribution Beta(alpha, alpha), as the paper's authors draw it.
    """
    share = float(random.beta(alpha, alpha))
    partners = random.permutation(len(x))
    return np.asarray(share * x + (1 - share) * x[partners], np.float32), partners, share


def default_for(kind: str, shape: tuple[int, ...]) -> str:
    """What examples are varied by where nobody says, as ``augmentation`` takes it; "" for examples that nobody knows.

    kind: of the data set. shape: of an example as it is fed. Photographs may be mirrored and shifted by an eighth; grey images,
    often of signs and letters, are shifted a little; of sound, time is shifted and bands are masked.
    """
    if kind == "image" and len(shape) == 3:
        side = min(sorted(shape)[1:])
        return f"flip,crop{max(1, side // 8)}" if 3 in (shape[0], shape[-1]) else f"crop{max(1, side // 16)}"
    if kind == "audio" and len(shape) >= 2:
        time, features = sorted((shape[axis - 1] for axis in _plane((1, *shape))), reverse=True)
        shift = f"shift{min(max(1, time // 10), _MOST)}"
        return shift if features == 1 else f"{shift},mask{max(1, features // 8)}"  # a raw wave has no bands
    return ""


def _flip(x: np.ndarray[Any, Any], random: np.random.Generator) -> np.ndarray[Any, Any]:
    chosen = random.random(len(x)) < 0.5
    flipped = x.copy()
    turned = np.flip(flipped[chosen], _axes(x)[1])
    flipped[chosen] = turned
    return flipped


def _noisy(deviation: float) -> Augment:
    return lambda x, random: x + deviation * random.standard_normal(x.shape, np.float32)


def _moved(reach: int, *, every_axis: bool) -> Augment:
    """Shifted along both axes of an image, or along the longer one, which is time; channels stay where they are."""

    def vary(x: np.ndarray[Any, Any], random: np.random.Generator) -> np.ndarray[Any, Any]:
        axes = list(_plane(x.shape))
        if not every_axis or x.ndim < 4:
            axes = sorted(axes, key=lambda axis: -x.shape[axis])[:1]
        padded = np.pad(x, [(reach, reach) if axis in axes else (0, 0) for axis in range(x.ndim)])
        starts = random.integers(0, 2 * reach + 1, (len(x), len(axes)))
        shifted = np.empty_like(x)
        for index, start in enumerate(starts):
            window = [slice(None)] * (x.ndim - 1)
            for first, axis in zip(start, axes, strict=True):
                window[axis - 1] = slice(int(first), int(first) + x.shape[axis])
            shifted[index] = padded[index][tuple(window)]
        return shifted

    return vary


def _plane(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes of height and width, or of time and features in either order, of a batch of this shape."""
    if len(shape) == 4:
        return (1, 2) if layout_of(shape[1:]) == "NHWC" else (2, 3)
    return tuple(range(max(1, len(shape) - 2), len(shape)))


def _axes(x: Array) -> tuple[int, int, int | None]:
    """The axes of height, width and channels of images (batch, ...): by the layout that their shape tells."""
    if x.ndim == 4:
        down, right = _plane(x.shape)
        return down, right, 3 if down == 1 else 1
    return x.ndim - 2, x.ndim - 1, None


def _rotated(degrees: float) -> Augment:
    """Every image turned about its middle by an angle of up to so many degrees; the nearest pixel, its border repeated."""

    def vary(x: Array, random: np.random.Generator) -> Array:
        if x.ndim < 3:
            return x
        down, right, _ = _axes(x)
        height, width = x.shape[down], x.shape[right]
        row, column = np.mgrid[:height, :width] - np.array([(height - 1) / 2, (width - 1) / 2])[:, None, None]
        moved = np.moveaxis(x, (down, right), (1, 2))
        rotated = np.empty_like(moved)
        for index, angle in enumerate(np.deg2rad(random.uniform(-degrees, degrees, len(x)))):
            cosine, sine = np.cos(angle), np.sin(angle)
            rows = np.clip(np.round(cosine * row - sine * column + (height - 1) / 2), 0, height - 1).astype(np.int64)
            columns = np.clip(np.round(sine * row + cosine * column + (width - 1) / 2), 0, width - 1).astype(np.int64)
            rotated[index] = moved[index][rows, columns]
        return np.ascontiguousarray(np.moveaxis(rotated, (1, 2), (down, right)))

    return vary


def _coloured(amount: float) -> Augment:
    """Contrast of each image and gain of each channel times up to 1 + amount, its mean moved by up to that of its deviation."""

    def vary(x: Array, random: np.random.Generator) -> Array:
        channels = _axes(x)[2]
        whole = tuple(range(1, x.ndim))
        mean, std = x.mean(whole, keepdims=True), x.std(whole, keepdims=True)
        size = [len(x), *(x.shape[axis] if axis == channels else 1 for axis in range(1, x.ndim))]
        gain = 1 + amount * random.uniform(-1, 1, size).astype(np.float32)
        contrast, moved = (amount * random.uniform(-1, 1, mean.shape).astype(np.float32) for _ in range(2))
        return np.asarray((x - mean) * gain * (1 + contrast) + mean + moved * std, np.float32)

    return vary


def _cut_out(side: float) -> Augment:
    """A square of so many places of each image at its mean (DeVries and Taylor 2017, "Cutout")."""

    def vary(x: Array, random: np.random.Generator) -> Array:
        if x.ndim < 3:
            return x
        down, right, _ = _axes(x)
        cut, half = x.copy(), int(side) / 2
        middle = x.mean(tuple(range(1, x.ndim)))
        tops, lefts = (random.integers(0, x.shape[axis], len(x)) for axis in (down, right))
        for index, (top, left) in enumerate(zip(tops, lefts, strict=True)):
            window: list[slice] = [slice(None)] * (x.ndim - 1)
            window[down - 1] = slice(max(0, math.ceil(top - half)), math.ceil(top + half))
            window[right - 1] = slice(max(0, math.ceil(left - half)), math.ceil(left + half))
            cut[index][tuple(window)] = middle[index]
        return cut

    return vary


def _masked(most: float) -> Augment:
    """One band of up to so many places of time and one of features at the mean (Park et al. 2019, "SpecAugment"); never all."""

    def vary(x: Array, random: np.random.Generator) -> Array:
        masked = x.copy()
        middle = x.mean(tuple(range(1, x.ndim)))
        for axis in _plane(x.shape):
            widths = random.integers(0, min(int(most), x.shape[axis] - 1) + 1, len(x))
            for index, width in enumerate(widths):
                start = random.integers(0, x.shape[axis] - width + 1)
                window: list[slice] = [slice(None)] * (x.ndim - 1)
                window[axis - 1] = slice(start, start + width)
                masked[index][tuple(window)] = middle[index]
        return masked

    return vary


#: As many places as an example may be moved, or covered, by; ``refuse_beyond`` knows how many it has.
_MOST = 99_999


@immutable
class Kind:
    """One kind of variation. takes: "" for none, "N" for a whole number after the name, "X" for any; most: the largest.

    what: in words. make: the variation of that number; None for what mixes examples with each other, and so their targets.
    """

    takes: str
    most: float
    what: str
    make: Callable[[float], Augment] | None

    @property
    def in_places(self) -> bool:
        """Whether its number counts places of an example."""
        return self.most == _MOST


#: What is written in place of variations.
_ALONE = ("auto", "none")
KINDS: Mapping[str, Kind] = {
    "flip": Kind("", 0, "mirrors the last axis of half of the examples", lambda _: _flip),
    "crop": Kind(
        "N", _MOST, "shifts each example by up to N places along each axis", lambda n: _moved(int(n), every_axis=True)
    ),
    "shift": Kind(
        "N",
        _MOST,
        "shifts along the longer axis, of sound the time",
        lambda n: _moved(int(n), every_axis=False),
    ),
    "rotate": Kind("N", 180, "turns images by up to N degrees", _rotated),
    "colour": Kind("X", 1, "changes contrast, brightness and colours by a share of up to X", _coloured),
    "cutout": Kind("N", _MOST, "covers a square of N places", _cut_out),
    "noise": Kind("X", 1e6, "adds Gaussian noise of deviation X", _noisy),
    "mask": Kind("N", _MOST, "covers a band of up to N places of time and one of frequency (SpecAugment)", _masked),
    "mixup": Kind("X", 100, "mixes pairs of examples, and their labels alike, by a share of Beta(X, X) (0.2 is usual)", None),
}
