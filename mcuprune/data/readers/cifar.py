"""CIFAR-10 and CIFAR-100 in their binary version (Krizhevsky 2009): a record is one or two bytes of labels and 3,072 pixels."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from mcuprune.data import trees
from mcuprune.data.columns import Joined
from mcuprune.data.raw import Asked, Part, Raw, Reader
from mcuprune.data.readers.views import Pixels
from mcuprune.errors import DataError

_PIXELS = 3072


def read(path: Path, asked: Asked) -> Raw:
    """Images and labels; of CIFAR-100 the fine labels, or the coarse ones for a model of twenty classes."""
    hundred = (path / "train.bin").is_file()
    names = {"train": ["train.bin"], "test": ["test.bin"]} if hundred else None
    names = names or {"train": sorted(file.name for file in path.glob("data_batch_*.bin")), "test": ["test_batch.bin"]}
    parts = {}
    for part, files in names.items():
        present = [path / name for name in files if os.path.lexists(path / name)]
        if present:
            records = [_records(file, 2 if hundred else 1) for file in present]
            column = 0 if not hundred or asked.n_classes == 20 else 1
            labels = np.concatenate([np.asarray(each[:, column]) for each in records]).astype(np.int64)
            images = [Pixels(each, (3, 32, 32), start=2 if hundred else 1) for each in records]
            parts[part] = Part((Joined(images),), (labels,))
    lists = ("batches.meta.txt", "coarse_label_names.txt" if asked.n_classes == 20 else "fine_label_names.txt")
    listed = next((path / name for name in lists if (path / name).is_file()), None)
    return Raw(str(path), parts, trees.read_list(listed) if listed else (), "image", "NCHW", "cifar")


def _records(file: Path, labels: int) -> np.ndarray:
    _, size, _ = trees.stamp(file)
    each = _PIXELS + labels
    if not size or size % each:
        raise DataError(f"{file}: {size} bytes are no whole number of records of {each}; get the binary version again")
    return np.memmap(file, np.uint8, "r", shape=(size // each, each))


READER = Reader(
    "cifar",
    "a folder of CIFAR-10 or CIFAR-100, binary version",
    lambda path: path.is_dir() and ((path / "data_batch_1.bin").is_file() or (path / "train.bin").is_file()),
    read,
)
