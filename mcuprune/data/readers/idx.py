"""MNIST's format IDX, plain or gzipped (LeCun, Cortes and Burges, "The MNIST database", file formats)."""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from math import prod
from pathlib import Path

import numpy as np

from mcuprune.data import trees
from mcuprune.data.raw import Asked, Part, Raw, Reader
from mcuprune.errors import DataError

_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_MOST = 4 * 1024**3
_NAME = re.compile(r"(.+?)[-_.](images|labels)[-_.]?(?:idx(\d))?.*", re.IGNORECASE)


def array(path: Path) -> np.ndarray:
    """The array of a file. Raises DataError for a damaged one, and where it claims another size than it has."""
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if zipped else path.open("rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _TYPES or not 1 <= head[3] <= 6:
                raise DataError(f"{path}: not an IDX file: it begins with {head!r}")
            shape = struct.unpack(f">{head[3]}I", file.read(4 * head[3]))
            dtype = np.dtype(_TYPES[head[2]])
            size = prod(shape) * dtype.itemsize
            if size > _MOST or (not zipped and 4 + 4 * head[3] + size > path.stat().st_size):
                raise DataError(f"{path}: claims shape {shape}, {size} bytes; it has {path.stat().st_size}")
            if not zipped:
                return np.memmap(path, dtype, "r", 4 + 4 * head[3], shape)
            if size > 1100 * path.stat().st_size:  # deflate can't do better
                raise DataError(f"{path}: claims shape {shape}, {size} bytes, more than {path.stat().st_size} can become")
            content = file.read(size + 1)
    except (OSError, EOFError, struct.error, zlib.error) as error:
        raise DataError(f"{path}: not a readable IDX file ({error})") from error
    if len(content) != size:
        raise DataError(f"{path}: claims shape {shape}, {size} bytes; it has {'more' if len(content) > size else len(content)}")
    return np.frombuffer(content, dtype).reshape(shape)


def read(path: Path, asked: Asked) -> Raw:
    """Images and labels of each part."""
    parts = {}
    for part, kinds in _files(path).items():
        if "images" not in kinds:
            raise DataError(f"{path}: {kinds['labels'].name} without its images")
        targets = (array(kinds["labels"]).astype(np.int64),) if "labels" in kinds else None
        parts[part] = Part((array(kinds["images"]),), targets)
    if "train" not in parts:
        raise DataError(f"{path}: no training images, such as train-images-idx3-ubyte")
    return Raw(str(path), parts, kind="image", reader="idx")


def _files(path: Path) -> dict[str, dict[str, Path]]:
    by_part: dict[str, dict[str, Path]] = {}
    for file in sorted(path.iterdir()):
        name = _NAME.fullmatch(file.name)
        part = trees.part_named({"t10k": "test"}.get(name[1].lower(), name[1]).split("-")[-1]) if name else None
        if name and part and (name[3] or "idx" in file.name.lower() or "ubyte" in file.name.lower()):
            by_part.setdefault(part, {}).setdefault(name[2].lower(), file)
    return by_part


READER = Reader("idx", "a folder of MNIST's IDX files, gzipped or not", lambda path: path.is_dir() and bool(_files(path)), read)
