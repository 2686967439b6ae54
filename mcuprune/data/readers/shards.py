"""WebDataset: shards of tar files, whose members of one stem are an example: 000017.jpg, 000017.cls or .json."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mcuprune.data import cache, pictures, trees
from mcuprune.data.raw import Asked, Part, Raw, Reader
from mcuprune.errors import DataError, short

#: What may hold the label, the first that an example has: a class counts more than what describes the image.
_LABELS = ("cls", "id", "json", "txt")
_KEYS = ("label", "cls", "class", "category", "target", "label_idx")
_MOST_CLASSES = 10**9
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)
_MOST_LABEL = 2**20
_WANTED = "write a class as a whole number from 0, or as a name"
#: (shard, offset, bytes, name of the member) of an image.
Place = tuple[Path, int, int, str]


def read(path: Path, asked: Asked) -> Raw:
    """Images and labels of all shards. Raises DataError for shards that can't be read, and examples without an image."""
    by_part: dict[str, tuple[list[Place], list[Any]]] = {}
    for shard in [path] if path.is_file() else sorted(trees.files_below(path, (".tar",))):
        places, labels = by_part.setdefault(_part(path, shard), ([], []))
        for place, label in _examples(shard):
            places.append(place)
            labels.append(label)
    if "train" not in by_part:
        raise DataError(
            f"{path}: shards of {', '.join(by_part)} and no train; name those to train on as in train-000.tar, or give one file"
        )
    every = [example for places, labels in by_part.values() for example in zip(places, labels, strict=True)]
    classes, number, notes = _classes(path, every, asked)
    size = pictures.size_of(asked.shape, str(path))
    pictures.need_pillow(str(path))
    parts = {}
    for part, (places, labels) in by_part.items():
        stamp = {shard: trees.stamp(shard) for shard in {place[0] for place in places}}
        stamps = [(*stamp[shard], offset, length) for shard, offset, length, _ in places]
        x = cache.cached(stamps, places, size, np.uint8, lambda place: _decoded(place, size))
        parts[part] = Part((x,), None if number is None else (np.array([number[label] for label in labels], np.int64),))
    return Raw(str(path), parts, classes, "image", "NHWC", "shards", notes=notes)


def _part(root: Path, shard: Path) -> str:
    """The part that a shard's name or folder tells; train without any, and where it is given alone."""
    if root == shard:
        return "train"
    names = [*re.split(r"[\-_.\d]+", shard.stem), *shard.relative_to(root).parts[:-1]]
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
                    example["image"] = (shard, member.offset_data, member.size, member.name)
                elif suffix.lower() in _LABELS and member.size <= _MOST_LABEL:
                    file = archive.extractfile(member)
                    assert file is not None
                    example[suffix.lower()] = (member.name, file.read())
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
        raise DataError(f"{shard}: not a readable tar shard ({error}); shards are plain .tar, without compression") from error
    if not by_name:
        raise DataError(f"{shard}: holds no examples; remove it, or write it again")
    for name, example in by_name.items():
        if "image" not in example:
            raise DataError(f"{shard}: {name.lstrip('/')} has no image ({', '.join(pictures.SUFFIXES)})")
        label = next((example[suffix] for suffix in _LABELS if suffix in example), None)
        yield example["image"], None if label is None else _label(f"{shard}: {label[0]}", *label)


def _label(where: str, name: str, content: bytes) -> int | str | None:
    """A class by number or by name; None where the metadata of an image have none. Raises DataError for what is neither."""
    try:
        text = content.decode().strip()
        value = json.loads(text) if name.lower().endswith(".json") and text else text
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is no readable label ({error})") from error
    if isinstance(value, list):
        raise DataError(f'{where} is a list; write an object with a label, such as {{"label": 3}}')
    if isinstance(value, Mapping):
        key = next((key for key in _KEYS if key in value), None)
        if key is None:
            return None
        value = value[key]
    elif isinstance(value, str) and re.fullmatch(r"\d{1,9}", value):
        value = int(value)
    elif isinstance(value, str) and _NUMBER.fullmatch(value):
        raise DataError(f"{where} holds {short(value)}; {_WANTED}")
    if value == "":
        raise DataError(f"{where} is empty; {_WANTED}")
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_CLASSES):
        return value
    raise DataError(f"{where} holds {short(json.dumps(value))}; {_WANTED}")


def _classes(
    path: Path, examples: Sequence[tuple[Place, Any]], asked: Asked
) -> tuple[tuple[str, ...], dict[Any, int] | None, tuple[str, ...]]:
    """Names of classes, the number of each label, and what to say of it; no numbers where no example has a label."""
    first = {type(label): (place, label) for place, label in reversed(examples)}
    if type(None) in first and len(first) > 1:
        shard, _, _, name = first[type(None)][0]
        raise DataError(f"{shard}: {name} has no label, as others have; add it, or remove the image")
    if len(first) > 1:
        (before, label), (behind, other) = sorted(first.values(), key=examples.index)
        raise DataError(
            f"{behind[0]}: {behind[3]} has the label {other!r}, and {before[3]} {label!r}; write numbers, or names, not both"
        )
    if type(None) in first:
        return (), None, ()
    labels = {label for _, label in examples}
    if int in first:
        return (), {label: label for label in labels}, ()
    classes, notes = trees.ordered(path if path.is_dir() else path.parent, labels, asked.classes)
    return classes, {name: index for index, name in enumerate(classes)}, notes


def _decoded(place: Place, size: tuple[int, int, int]) -> np.ndarray:
    shard, offset, length, name = place
    if length > 2**28:
        raise DataError(f"{shard}: {name}: an image of {length} bytes; make it smaller, or remove it")
    with shard.open("rb") as file:
        file.seek(offset)
        content = file.read(length)
    return pictures.decoded(content, *size, where=f"{shard}: {name}")


READER = Reader(
    "shards",
    "WebDataset: a folder of .tar shards of images with .cls or .json",
    lambda path: path.suffix == ".tar" if path.is_file() else path.is_dir() and trees.holds(path, (".tar",)),
    read,
)
