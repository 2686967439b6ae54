"""A folder of images: one subfolder a class, with or without train, val and test; a flat folder has no labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mcuprune.data import cache, decoding, pictures, trees
from mcuprune.data.raw import Asked, Part, Raw, Reader


def column(files: Sequence[Path], asked: Asked, where: str) -> np.ndarray:
    """uint8 (n, height, width, channels) of image files at the model's size, on disk where they are many."""
    height, width, channels = pictures.size_of(asked.shape, where)
    pictures.need_pillow(where)
    stamps = [trees.stamp(file) for file in files]
    size = (height, width, channels)
    return cache.stored(stamps, files, size, np.uint8, lambda files: decoding.stream(files, size))


def read(path: Path, asked: Asked) -> Raw:
    """The images of a folder. Raises DataError for one without any, and for files that are no images."""
    tree = trees.classified(path, pictures.SUFFIXES, asked.classes)
    parts = {
        part: Part((column(files, asked, str(path)),), None if labels is None else (np.array(labels, np.int64),))
        for part, (files, labels) in tree.parts.items()
    }
    return Raw(str(path), parts, tree.classes, "image", "NHWC", "images", notes=tree.notes)


READER = Reader(
    "images",
    "a folder of images (PNG, JPEG, BMP, WebP), one subfolder a class; flat: without labels",
    lambda path: path.is_dir() and trees.holds(path, pictures.SUFFIXES),
    read,
    form="with or without `train`, `val`, `test` above (also `training`, `valid`, `validation`, `dev`, `testing` and the like)",
)
