"""Folders of detectors' data, COCO and YOLO: images without labels, and the boxes beside them for whoever measures boxes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mcuprune.data import pictures, trees
from mcuprune.data.raw import Asked, Part, Raw, Reader
from mcuprune.data.readers import images
from mcuprune.data.sets import Boxes
from mcuprune.errors import DataError

_MOST_JSON = 2**30
#: (number of image, class, left, top, right, bottom), the last four as shares of the image.
Row = tuple[int, int, float, float, float, float]


def read_coco(path: Path, asked: Asked) -> Raw:
    """The images that annotation files list, and their boxes."""
    parts: dict[str, Part] = {}
    boxes: dict[str, Boxes] = {}
    classes: tuple[str, ...] = ()
    for part, file in _annotations(path).items():
        try:
            if file.stat().st_size > _MOST_JSON:
                raise DataError(f"{file}: {file.stat().st_size} bytes; at most {_MOST_JSON} are read")
            document = json.loads(file.read_text(encoding="utf-8"))
            listed = document["images"]
            names = {int(category["id"]): str(category["name"]) for category in document.get("categories", [])}
            number = {identity: index for index, identity in enumerate(sorted(names))}
            place = {entry["id"]: index for index, entry in enumerate(listed)}
            sizes = [(float(entry["width"]), float(entry["height"])) for entry in listed]
            rows: list[Row] = []
            for annotation in document.get("annotations", []):
                image = place[annotation["image_id"]]
                (left, top, width, height), (whole, high) = map(float, annotation["bbox"]), sizes[image]
                right, bottom = (left + width) / whole, (top + height) / high
                rows.append((image, number[int(annotation["category_id"])], left / whole, top / high, right, bottom))
            files = [_beside(path, file, part, str(entry["file_name"])) for entry in listed]
        except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError, RecursionError) as error:
            raise DataError(f"{file}: not COCO's annotations ({type(error).__name__}: {error})") from error
        classes = classes or tuple(names[identity] for identity in sorted(names))
        parts[part], boxes[part] = Part((images.column(files, asked, str(path)),)), _boxes(rows)
    return Raw(str(path), parts, classes, "image", "NHWC", "coco", boxes=boxes)


def _annotations(path: Path) -> dict[str, Path]:
    files = [file for file in sorted(path.rglob("*.json")) if file.parent.name == "annotations" or "coco" in file.name]
    by_part: dict[str, Path] = {}
    for file in files:
        words = [*re.split(r"[_\-.\d]+", file.stem), file.parent.name]
        by_part.setdefault(next((part for word in words if (part := trees.part_named(word))), "train"), file)
    return by_part if "train" in by_part or not by_part else {"train": next(iter(by_part.values()))}


def _beside(root: Path, annotations: Path, part: str, name: str) -> Path:
    """The image that annotations name, wherever people put it. Only files inside the data set are opened."""
    folders = [annotations.parent, annotations.parent.parent, root, root / "images"]
    folders += [child for folder in (root, root / "images") if folder.is_dir() for child in folder.iterdir() if child.is_dir()]
    inside = root.resolve()
    for folder in folders:
        file = folder / name
        if file.is_file() and file.resolve().is_relative_to(inside):
            return file
    raise DataError(f"{annotations}: no image {name!r} in {root}")


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
    for line in text.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            kind, x, y, width, height = line.split()[:5]
            half_x, half_y, cx, cy = float(width) / 2, float(height) / 2, float(x), float(y)
            yield index, int(kind), cx - half_x, cy - half_y, cx + half_x, cy + half_y
        except ValueError as error:
            raise DataError(f"{text}: {line[:80]!r} is not class, centre and size as YOLO writes them") from error


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
