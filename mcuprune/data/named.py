"""Data sets that come with a package and are known by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from mcuprune.data.arrays import MAX_BYTES
from mcuprune.data.sets import Data, Split
from mcuprune.data.splitting import stratified
from mcuprune.errors import DataError, MissingExtra

_DIGITS_SPLIT_SEED = 0
_DIGITS_VAL, _DIGITS_TEST = 200, 497


def _digits(input_shape: tuple[int, ...], n_classes: int, seed: int) -> Data:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, resized to the model's input: 1,100 / 200 / 497.

    Pixels are divided by 16, resized bilinearly, standardised with the mean and deviation of the 8 x 8 training pixels,
    and repeated over the channels. The split is the same for every ``seed``, so that accuracies compare.
    """
    if n_classes != 10:
        raise DataError(f"--data digits: ten classes, but the model has {n_classes} outputs; use a model with 10")
    if len(input_shape) != 3:
        raise DataError(
            f"--data digits: images, but the model's input without its batch axis is {input_shape}; "
            "use a model with (channel, height, width)"
        )
    if 2 * 4 * 1797 * math.prod(input_shape) > MAX_BYTES:  # bytes: resized images of float32, twice while they are split
        raise DataError(f"--data digits: too large for memory at the model's input {input_shape}; use a smaller input")
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise MissingExtra("--data digits needs scikit-learn: pip install 'mcuprune[prune]'") from error
    bunch = load_digits()
    pixels, y = bunch.images.astype(np.float32) / 16, bunch.target.astype(np.int64)

    rng = np.random.default_rng(_DIGITS_SPLIT_SEED)
    test = stratified(y, _DIGITS_TEST, rng)
    rest = np.flatnonzero(~test)
    val = np.zeros_like(test)
    val[rest[stratified(y[rest], _DIGITS_VAL, rng)]] = True
    train = ~(test | val)

    channels_last = input_shape[0] not in (1, 3) and input_shape[2] in (1, 3)
    height, width, n_channels = input_shape if channels_last else (*input_shape[1:], input_shape[0])
    mean, deviation = pixels[train].mean(), pixels[train].std()
    images = (_bilinear(8, height) @ pixels @ _bilinear(8, width).T - mean) / deviation
    x = np.repeat(np.expand_dims(images, -1 if channels_last else 1), n_channels, axis=-1 if channels_last else 1)
    return Data("digits", Split(x[train], y[train]), Split(x[val], y[val]), Split(x[test], y[test]), n_classes, kind="image")


def _bilinear(old: int, new: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """float32 (new, old): the matrix that resizes one axis linearly; pixel centres at half coordinates."""
    centre = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    left = np.minimum(centre.astype(np.int64), old - 2)
    matrix = np.zeros((new, old), dtype=np.float32)
    matrix[np.arange(new), left] = 1 - (centre - left)
    matrix[np.arange(new), left + 1] = centre - left
    return matrix


DATASETS: dict[str, Callable[[tuple[int, ...], int, int], Data]] = {"digits": _digits}
