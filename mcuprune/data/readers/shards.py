"""WebDataset: shards of tar files, whose members of one stem are an example: 000017.jpg, 000017.cls or .json."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mcuprune.data import cache, pictures, trees
from mcuprune.data.raw import Asked, Part, Raw, Reader
from mcuprune.errors import DataError

_LABELS = ("cls", "txt", "json", "id")
_MOST_LABEL = 2**20
#: (shard, offset, bytes) of an image.
Place = tuple[Path, int, int]


def read(path: Path, asked: Asked) -> Raw:
    """Images and labels of all shards. Raises DataError for shards that can't be read, and examples without an image."""
    by_part: dict[str, tuple[list[Place], list[Any]]] = {}
    for shard in [path] if path.is_file() else sorted(path.rglob("*.tar")):
        places, labels = by_part.setdefault(_part(path, shard), ([], []))
        for place, label in _examples(shard):
            places.append(place)
            labels.append(label)
    if "train" not in by_part:
        by_part = {"train": by_part.pop(next(iter(by_part))), **by_part}
    every = [label for _, labels in by_part.values() for label in labels]
    classes, number = _classes(path, every, asked)
    size = pictures.size_of(asked.shape, str(path))
    pictures.need_pillow(str(path))
    parts = {}
    for part, (places, labels) in by_part.items():
        stamps = [(str(p), o, n, p.stat().st_mtime_ns) for p, o, n in places]
        x = cache.cached(stamps, places, size, np.uint8, lambda place: _decoded(place, size))
        parts[part] = Part((x,), None if number is None else (np.array([number[label] for label in labels], np.int64),))
    return Raw(str(path), parts, classes, "image", "NHWC", "shards")


def _part(root: Path, shard: Path) -> str:
    """The part that a shard's name or folder tells; train without any."""
    names = [*re.split(r"[\-_.\d]+", shard.stem), *(shard.relative_to(root).parts[:-1] if root.is_dir() else ())]
    return next((part for name in names if (part := trees.part_named(name))), "train")


def _examples(shard: Path) -> Iterator[tuple[Place, Any]]:
    by_name: dict[str, dict[str, Any]] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                stem, _, suffix = member.name.rpartition("/")[2].partition(".")
                if not member.isreg() or not stem:
                    continue
                example = by_name.setdefault(f"{member.name.rpartition('/')[0]}/{stem}", {})
                if f".{suffix.lower()}" in pictures.SUFFIXES:
                    example["image"] = (shard, member.offset_data, member.size)
                elif suffix.lower() in _LABELS and member.size <= _MOST_LABEL:
                    file = archive.extractfile(member)
                    assert file is not None
                    example.setdefault("label", _label(shard, member.name, file.read()))
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
        raise DataError(f"{shard}: not a readable tar shard ({error}); shards are plain .tar, without compression") from error
    for name, example in by_name.items():
        if "image" not in example:
            raise DataError(f"{shard}: {name} has no image ({', '.join(pictures.SUFFIXES)})")
        yield example["image"], example.get("label")


def _label(shard: Path, name: str, content: bytes) -> int | str | None:
    try:
        text = content.decode().strip()
        if name.endswith(".json"):
            document = json.loads(text)
            keys = ("label", "cls", "class", "category", "target", "label_idx")
            label = (
                next((document[key] for key in keys if key in document), None) if isinstance(document, Mapping) else document
            )
            return label if isinstance(label, (int, str)) and not isinstance(label, bool) else None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{shard}: {name} is no readable label ({error})") from error
    return int(text) if re.fullmatch(r"\d{1,9}", text) else text


def _classes(path: Path, labels: list[Any], asked: Asked) -> tuple[tuple[str, ...], dict[Any, int] | None]:
    """Names of classes, and the number of each label; None where no example has one."""
    kinds = {type(label) for label in labels}
    if kinds == {type(None)}:
        return (), None
    if len(kinds) != 1:
        raise DataError(f"{path}: labels are of several kinds ({', '.join(sorted(kind.__name__ for kind in kinds))})")
    if kinds == {int}:
        return (), {label: label for label in set(labels)}
    classes, _ = trees.ordered(path if path.is_dir() else path.parent, set(labels), asked.classes)
    return classes, {name: index for index, name in enumerate(classes)}


def _decoded(place: Place, size: tuple[int, int, int]) -> np.ndarray:
    shard, offset, length = place
    if length > 2**28:
        raise DataError(f"{shard}: an image of {length} bytes")
    with shard.open("rb") as file:
        file.seek(offset)
        content = file.read(length)
    return pictures.decoded(content, *size, where=f"{shard} at {offset}")


READER = Reader(
    "shards",
    "WebDataset: a folder of .tar shards of images with .cls or .json",
    lambda path: path.suffix == ".tar" if path.is_file() else next(path.rglob("*.tar"), None) is not None,
    read,
)
