"""All readers of files and folders. The first one that a path matches reads it."""

from __future__ import annotations

from pathlib import Path

from mcuprune.data.raw import Asked, Raw, Reader
from mcuprune.data.readers import archives, arrow, cifar, detection, idx, images, npy, shards, sounds, tables
from mcuprune.errors import DataError

READERS: tuple[Reader, ...] = (
    tables.READER,
    npy.READER,
    idx.READER,
    cifar.READER,
    arrow.READER,
    shards.READER,
    detection.COCO,
    detection.YOLO,
    sounds.READER,
    images.READER,
    archives.READER,
)


def read(path: Path, asked: Asked) -> Raw:
    """What a path holds. Raises DataError where no reader knows it."""
    for reader in READERS:
        try:
            matched = reader.matches(path)
        except OSError as error:
            raise DataError(f"{path}: can't be read ({error.strerror})") from error
        if matched:
            return reader.read(path, asked)
    known = "; ".join(reader.what for reader in READERS)
    raise DataError(f"{path}: a folder that holds no data of a known form; these are read: {known}")
