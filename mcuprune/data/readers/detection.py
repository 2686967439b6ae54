"""Folders of detectors' data, COCO and YOLO: images without labels, and the boxes beside them for whoever measures boxes."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mcuprune.data import pictures, trees
from mcuprune.data.raw import Asked, Part, Raw, Reader
from mcuprune.data.readers import images
from mcuprune.data.sets import Boxes
from mcuprune.errors import DataError, cause, short

_MOST_JSON = 2**30
#: Corners of a box that are so many images away are a mistake; boxes that reach over the edge are none.
_FARTHEST = 100.0
#: Shares that rounding made larger than 1 are taken.
_ROUNDED = 1.01
_MOST_CLASSES = 10**6
#: (number of image, class, left, top, right, bottom), the last four as shares of the image.
Row = tuple[int, int, float, float, float, float]


def read_coco(path: Path, asked: Asked) -> Raw:
    """The images that annotation files list, and their boxes."""
    parts: dict[str, Part] = {}
    boxes: dict[str, Boxes] = {}
    classes: tuple[str, ...] = ()
    annotations = _annotations(path)
    if "train" not in annotations:
        raise DataError(f"{path}: annotations of {', '.join(annotations)} and no train; call a file of them train.json")
    for part, file in annotations.items():
        document = _document(file)
        listed, categories = (_entries(file, document, key) for key in ("images", "categories"))
        numbered = {_whole(*entry, "id"): str(entry[1].get("name")) for entry in categories}
        number = {identity: index for index, identity in enumerate(sorted(numbered))}
        place = {_known(*entry, "id"): index for index, entry in enumerate(listed)}
        for entries, identities in ((categories, numbered), (listed, place)):
            _refuse_twins(entries, identities)
        sizes = [(_size(*entry, "width"), _size(*entry, "height")) for entry in listed]
        rows: list[Row] = []
        for where, entry in _entries(file, document, "annotations"):
            image = _looked_up(where, place, _known(where, entry, "image_id"), "image_id", "images")
            kind = _looked_up(where, number, _whole(where, entry, "category_id"), "category_id", "categories")
            rows.append((image, kind, *_shares(where, entry.get("bbox"), *sizes[image])))
        files = [_beside(path, file, *entry) for entry in listed]
        classes = classes or tuple(numbered[identity] for identity in sorted(numbered))
        parts[part], boxes[part] = Part((images.column(files, asked, str(path)),)), _boxes(rows)
    return Raw(str(path), parts, classes, "image", "NHWC", "coco", boxes=boxes)


def _document(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > _MOST_JSON:
            raise DataError(f"{file}: {file.stat().st_size} bytes; at most {_MOST_JSON} are read")
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: no readable JSON ({error}); write COCO's annotations again") from error
    if not isinstance(document, dict) or "images" not in document:
        reason = f"no images among {', '.join(document)[:200] or 'nothing'}" if isinstance(document, dict) else _kind(document)
        raise DataError(f"{file}: not COCO's annotations ({reason}); write an object with images, annotations and categories")
    return document


def _kind(value: Any) -> str:
    """What JSON calls a value."""
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def _entries(file: Path, document: Mapping[str, Any], key: str) -> list[tuple[str, dict[str, Any]]]:
    """(what messages call it, the object) for each entry of a list; none where there is no such list."""
    entries = document.get(key, [])
    if not isinstance(entries, list):
        raise DataError(f"{file}: {key} is {_kind(entries)}, where a list of objects belongs; write it as COCO has it")
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise DataError(f"{file}: {key}[{index}] is {_kind(entry)}, where an object belongs; write it as COCO has it")
    return [(f"{file}: {key}[{index}]", entry) for index, entry in enumerate(entries)]


def _shown(value: Any) -> str:
    try:
        return short(repr(value))
    except ValueError:  # Python writes no number of thousands of digits
        return "a number of thousands of digits"


def _known(where: str, entry: Mapping[str, Any], key: str) -> int | float | str:
    """What identifies an image: a finite number, or text."""
    value = entry.get(key)
    if isinstance(value, (int, str)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise DataError(f"{where}: {key} is {_shown(value)}; write the number of an image")


def _whole(where: str, entry: Mapping[str, Any], key: str) -> int:
    value = entry.get(key)
    try:
        if isinstance(value, (int, float, str)) and float(value) == int(value):
            return int(value)
    except (ValueError, OverflowError):  # no number at all, none that is finite, or one that no float can hold
        pass
    raise DataError(f"{where}: {key} is {_shown(value)}; write a whole number")


def _size(where: str, entry: Mapping[str, Any], key: str) -> float:
    value = entry.get(key)
    try:
        size = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        size = math.nan
    if not 0 < size < math.inf:
        raise DataError(f"{where}: {key} is {_shown(value)}; write a number above 0, the image's {key} in pixels")
    return size


def _refuse_twins(entries: Sequence[tuple[str, Mapping[str, Any]]], identities: Collection[Any]) -> None:
    """Raise DataError for the second entry of one id."""
    if len(identities) < len(entries):
        seen: set[Any] = set()
        for where, entry in entries:
            if entry["id"] in seen:
                raise DataError(f"{where}: id {_shown(entry['id'])} is given twice; give each entry its own")
            seen.add(entry["id"])


def _looked_up(where: str, numbers: Mapping[Any, int], identity: Any, key: str, among: str) -> int:
    if identity not in numbers:
        raise DataError(f"{where}: {key} {_shown(identity)} is the id of none of the {among}; add it, or remove the annotation")
    return numbers[identity]


def _shares(where: str, box: Any, whole: float, high: float) -> tuple[float, float, float, float]:
    """Left, top, right and bottom as shares of the image, of left, top, width and height in pixels."""
    try:
        left, top, width, height = map(float, box)
        shares = (left / whole, top / high, (left + width) / whole, (top + height) / high)
    except (TypeError, ValueError, OverflowError):
        shares, width, height = (math.nan,) * 4, 0, 0
    if width < 0 or height < 0 or not all(abs(share) < _FARTHEST for share in shares):
        raise DataError(
            f"{where}: bbox is {_shown(box)}; write [left, top, width, height] in pixels, the last two 0 or more, in its image"
        )
    return shares


def _annotations(path: Path) -> dict[str, Path]:
    documents = trees.files_below(path, (".json",))
    files = [file for file in documents if file.parent.name == "annotations" or "coco" in file.name]
    files.sort(key=lambda file: ("instances" not in file.name, file))  # before those of captions and keypoints
    by_part: dict[str, Path] = {}
    for file in files:
        words = [*re.split(r"[_\-.\d]+", file.stem), file.parent.name]
        by_part.setdefault(next((part for word in words if (part := trees.part_named(word))), "train"), file)
    return by_part


def _beside(root: Path, annotations: Path, where: str, entry: Mapping[str, Any]) -> Path:
    """The image that annotations name, wherever people put it. Only files inside the data set are opened."""
    name = entry.get("file_name")
    if not isinstance(name, str):
        raise DataError(f"{where}: file_name is {_shown(name)}; write the name of a file")
    folders = [annotations.parent, annotations.parent.parent, root, root / "images"]
    folders += [child for folder in (root, root / "images") if folder.is_dir() for child in folder.iterdir() if child.is_dir()]
    inside = root.resolve()
    for folder in folders:
        file = folder / name
        if os.path.isfile(file) and file.resolve().is_relative_to(inside):
            return file
    raise DataError(f"{annotations}: no image {short(name)!r} in {root}; paths start from there or from one of its folders")


def read_yolo(path: Path, asked: Asked) -> Raw:
    """Images in images/ and, beside them in labels/, text files of class, centre and size; by part where there are parts."""
    parts, boxes = {}, {}
    for part, root in _yolo_parts(path).items():
        files = list(trees.files_below(root, pictures.SUFFIXES))
        parts[part] = Part((images.column(files, asked, str(path)),))
        boxes[part] = _boxes(row for index, file in enumerate(files) for row in _yolo_rows(index, file))
    return Raw(str(path), parts, _yolo_names(path), "image", "NHWC", "yolo", boxes=boxes)


def _yolo_parts(path: Path) -> dict[str, Path]:
    inner = trees.parts_of(path / "images", pictures.SUFFIXES) if (path / "images").is_dir() else {}
    if inner and inner != {"train": path / "images"}:
        return inner
    outer = trees.parts_of(path, pictures.SUFFIXES)
    return {part: root / "images" for part, root in outer.items()} if outer != {"train": path} else {"train": path / "images"}


def _yolo_rows(index: int, image: Path) -> Iterable[Row]:
    parts = [*image.parts]
    place = len(parts) - 1 - parts[::-1].index("images")
    text = Path(*parts[:place], "labels", *parts[place + 1 :]).with_suffix(".txt")
    if not text.is_file():
        return
    try:
        lines = text.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise DataError(f"{text}: can't be read ({cause(error)}); repair or remove it") from error
    for number, line in enumerate(lines, 1):
        try:
            kind, (x, y, width, height) = int(line.split()[0]), map(float, line.split()[1:5])
        except (ValueError, IndexError):
            kind, x, y, width, height = -1, 0.0, 0.0, 0.0, 0.0
        if not 0 <= kind < _MOST_CLASSES or not all(0 <= share <= _ROUNDED for share in (x, y, width, height)):
            raise DataError(
                f"{text}: line {number}: {short(line)!r} is not class, centre and size as YOLO writes them: "
                "a whole number from 0, and four shares of the image from 0 to 1"
            )
        yield index, kind, x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _yolo_names(path: Path) -> tuple[str, ...]:
    """Class names of data.yaml, in the forms that people write: a list in brackets, one of dashes, or numbers and names."""
    file = next((path / name for name in ("data.yaml", "dataset.yaml", "data.yml") if (path / name).is_file()), None)
    if file is None:
        listed = path / "classes.txt"
        return trees.read_list(listed) if listed.is_file() else ()
    text = file.read_text(encoding="utf-8", errors="replace")[: 2**20]
    listing = re.search(r"^names:\s*(?:\[(.*?)\]|\{(.*?)\}|((?:\n[ \t]*(?:-|\d+:)[^\n]*)+))", text, re.M | re.S)
    if not listing:
        return ()
    items = (listing[1] or listing[2] or "").split(",") if listing[1] or listing[2] else (listing[3] or "").splitlines()
    return tuple(name for item in items if (name := re.sub(r"^\s*(?:-|\d+\s*:)?\s*", "", item).strip(" '\"")))


def _boxes(rows: Iterable[Row]) -> Boxes:
    table = np.array([*rows], np.float64).reshape(-1, 6)
    return Boxes(table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), table[:, 2:].astype(np.float32))


def _is_yolo(path: Path) -> bool:
    """Whether images and labels lie side by side as YOLO has them."""
    return path.is_dir() and any(
        (folder / "images").is_dir() and (folder / "labels").is_dir() for folder in (path, *filter(Path.is_dir, path.iterdir()))
    )


COCO = Reader("coco", "COCO: images and annotations/*.json", lambda path: path.is_dir() and bool(_annotations(path)), read_coco)
YOLO = Reader("yolo", "YOLO: images/ and labels/", _is_yolo, read_yolo)
