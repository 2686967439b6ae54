"""All readers of files and folders. The first one that a path matches reads it."""

from __future__ import annotations

from pathlib import Path

from mcuprune.data import trees
from mcuprune.data.raw import Asked, Raw, Reader
from mcuprune.data.readers import archives, arrow, cifar, detection, idx, images, npy, shards, sounds, tables
from mcuprune.errors import DataError, cause, short

_PACKED = (".zip", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
#: A format of files is a row.
READERS: list[Reader] = [
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
]


def read(path: Path, asked: Asked) -> Raw:
    """What a path holds. Raises DataError where no reader knows it."""
    reader = _reader_of(path)
    if reader is not None:
        return reader.read(path, asked)
    known = "; ".join(reader.what for reader in READERS)
    if path.is_dir():
        raise DataError(f"{path}: a folder that holds no data of a known form; these are read: {known}")
    ending = path.suffix.lower()
    if ending == ".py":
        raise DataError(f"{path}: a file of Python; name the module and a function in it: --data {path.stem}:FUNCTION")
    if ending in _PACKED:
        raise DataError(f"{path}: packed; unpack it, and give the folder or the file that was in it")
    how = "write a table as JSON, one object a line, and call it .jsonl; " if ending == ".json" else ""
    what = f"a file {short(ending)}" if ending else "a file without a known ending"
    raise DataError(f"{path}: {what} is not read; {how}these are read: {known}")


def beside(path: Path) -> list[str]:
    """Files that are read because of a file: those that it names, as it names them, and lists of classes in its folder."""
    reader = _reader_of(path)
    return [] if reader is None or path.is_dir() else [*reader.names(path), *trees.lists(path.parent)]


def _reader_of(path: Path) -> Reader | None:
    """The first reader that a path matches; None where none does. Raises DataError for a path that can't be looked at."""
    try:
        return next((reader for reader in READERS if reader.matches(path)), None)
    except OSError as error:
        raise DataError(f"{path}: can't be read ({cause(error)}); change its permissions, or move it elsewhere") from error
