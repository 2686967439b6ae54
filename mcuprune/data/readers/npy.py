"""A folder of ``.npy`` pairs, x_train.npy and y_train.npy and so on, or one file of inputs; they stay on disk."""

from __future__ import annotations

import os
import re
import tokenize
from pathlib import Path

import numpy as np

from mcuprune.data import trees
from mcuprune.data.arrays import known
from mcuprune.data.raw import Asked, Part, Raw, Reader
from mcuprune.data.readers.archives import header, of_arrays
from mcuprune.errors import DataError

_LETTERS = {"images": "x", "data": "x", "x": "x", "inputs": "x", "labels": "y", "targets": "y", "y": "y"}


def read(path: Path, asked: Asked) -> Raw:
    """The arrays, mapped into memory. Raises DataError for files that hold no plain numbers, or too few."""
    if path.is_file():
        return Raw(str(path), {"train": Part((mapped(path),))}, reader="npy")
    files = {key: file for file in sorted(path.glob("*.npy")) if (key := _key(file.stem))}
    arrays = {key: mapped(files[key]) for key in known(str(path), files)}
    return of_arrays(str(path), arrays, "npy")


def mapped(path: Path) -> np.ndarray:
    """An array of a ``.npy`` file, which is not read before it is used. Raises DataError for pickled and damaged ones."""
    trees.stamp(path)
    try:
        with path.open("rb") as file:
            header(f"{path}: the array", file, os.fstat(file.fileno()).st_size)
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, RuntimeError, SyntaxError, TypeError, OverflowError, tokenize.TokenError) as error:
        said = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: not a readable .npy of plain numbers ({said}); write it with numpy.save") from error
    return array


def _key(stem: str) -> str | None:
    """The key of an array by its file's name: x_train, X0_train, train_images, labels-test."""
    words = re.split(r"[_\-.]", stem.lower())
    if len(words) != 2:
        return None
    for name, part in (words, words[::-1]):
        kind = re.fullmatch(r"([a-z]+)(\d{0,2})", name)
        if kind and kind[1] in _LETTERS and trees.part_named(part):
            return f"{_LETTERS[kind[1]]}{kind[2]}_{trees.part_named(part)}"
    return None


READER = Reader(
    "npy",
    "a folder of x_train.npy, y_train.npy, x_test.npy, y_test.npy; or one .npy without labels",
    lambda path: path.suffix == ".npy" if path.is_file() else any(_key(file.stem) for file in path.glob("*.npy")),
    read,
    form="or `train_images.npy` and the like; they stay on disk",
)
