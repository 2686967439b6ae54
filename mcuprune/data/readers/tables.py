"""A table of files and their labels: CSV or JSON lines, one row an example; several columns of labels for several outputs."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from math import isfinite, isnan
from pathlib import Path
from typing import Any

import numpy as np

from mcuprune.data import pictures, trees
from mcuprune.data.raw import Asked, Part, Raw, Reader
from mcuprune.data.readers import images, sounds
from mcuprune.errors import DataError, short

_FILES = ("file", "filename", "file_name", "path", "filepath", "file_path", "image", "image_path", "img", "wav", "audio")
_SPLITS = ("split", "set", "subset", "part", "partition")
_CSV, _JSON = (".csv", ".tsv"), (".jsonl", ".ndjson")
_MOST_ROWS = 10**7
_EXACT = 2.0**53


def read(path: Path, asked: Asked) -> Raw:
    """The examples that a table lists. Raises DataError, naming the row, for what it doesn't say."""
    rows, file_key = _rows(path)
    split_key = next((key for key in rows[0] if key.lower() in _SPLITS), None)
    label_keys = [key for key in rows[0] if key not in (file_key, split_key)]
    by_part: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for number, row in enumerate(rows, 1):
        if row.keys() != rows[0].keys():
            raise DataError(
                f"{path}: row {number} has columns {', '.join(row)}; the first has {', '.join(rows[0])}; give all the same"
            )
        named = "train" if split_key is None else str(row[split_key])
        part = trees.part_named(named)
        if part is None:
            raise DataError(f"{path}: row {number}: {split_key} is {named!r}; write train, val or test")
        by_part.setdefault(part, []).append((number, row))
    if "train" not in by_part:
        raise DataError(f"{path}: no row is of split train; write train into column {split_key} of the rows to learn from")
    alone = len(label_keys) == 1
    columns = [_targets(path, key, rows, asked.classes if index == 0 else (), alone) for index, key in enumerate(label_keys)]
    parts = {}
    for part, some in by_part.items():
        files = [_file(path, number, str(row[file_key])) for number, row in some]
        targets = tuple(column([row[key] for _, row in some]) for key, (column, _, _) in zip(label_keys, columns, strict=True))
        parts[part] = Part((_inputs(path, files, asked),), targets or None)
    sound = str(rows[0][file_key]).lower().endswith(".wav")
    names = columns[0][1] if columns else ()
    notes = tuple(note for _, _, notes in columns for note in notes)
    front = sounds.settings_for(asked, str(path)).document() if sound else {}
    kind, stored = ("audio", "") if sound else ("image", "NHWC")
    return Raw(str(path), parts, names, kind, stored, "table", front, notes, columns=tuple(label_keys))


def named(path: Path) -> list[str]:
    """The files that a table names, as it names them. Raises DataError for what is no table."""
    rows, key = _rows(path)
    return [str(row[key]) for row in rows if key in row]


def _rows(path: Path) -> tuple[list[dict[str, Any]], str]:
    """The rows of a table, and which column names files. Raises DataError for what is no table, or an empty one."""
    rows = _json_rows(path) if path.suffix.lower() in _JSON else _csv_rows(path)
    if not rows:
        raise DataError(f"{path}: no rows; give one for each example: a file and its label")
    return rows, _column(path, rows[0], _FILES)


def _inputs(path: Path, files: Sequence[Path], asked: Asked) -> Any:
    if all(file.suffix.lower() == ".wav" for file in files):
        return sounds.column(files, asked, str(path))
    return images.column(files, asked, str(path))


def _file(table: Path, row: int, name: str) -> Path:
    """A file of the table, by its path from the table's folder."""
    place = table.parent / name
    if not os.path.isfile(place) or place.suffix.lower() not in (*pictures.SUFFIXES, ".wav"):
        raise DataError(
            f"{table}: row {row}: {short(name)!r} is no image or WAV file beside the table; paths start from its folder"
        )
    return place


def _column(path: Path, row: dict[str, Any], names: Sequence[str]) -> str:
    for key in row:
        if key.lower() in names:
            return key
    raise DataError(f"{path}: no column of files (its columns: {', '.join(row)[:200]}); call it file")


def _targets(
    path: Path, key: str, rows: Sequence[dict[str, Any]], known: Sequence[str], alone: bool
) -> tuple[Any, tuple[str, ...], tuple[str, ...]]:
    """(What turns values of a column into an array, the names of its classes, notes): numbers stay, words are classes.

    alone: whether there is no other column of labels.
    """
    values = [row[key] for row in rows]
    if any(value is None or value == "" for value in values):
        row = next(index for index, value in enumerate(values, 1) if value is None or value == "")
        raise DataError(f"{path}: row {row} has no {key}; write a class or a number there, or leave the row out")
    _refuse_missing(path, key, values)
    if any(isinstance(value, (list, dict)) for value in values):
        return (lambda some: _lists(path, key, some)), (), ()
    try:
        numbers = [float(value) for value in values]
    except OverflowError as error:
        raise DataError(f"{path}: {key} has a number that no float can hold; write numbers below 1e308") from error
    except (TypeError, ValueError):
        names = {str(value) for value in values}
        classes, notes = trees.ordered(path.parent, names, known, whole=alone)
        notes = notes if alone else tuple(f"{key}: {note}" for note in notes)
        number = {name: index for index, name in enumerate(classes)}
        return (lambda some: np.array([number[str(value)] for value in some], np.int64)), classes, notes
    written_whole = not any("." in str(value) for value in values)
    kind = np.int64 if written_whole and _are_whole(np.array(numbers)) else np.float64
    return (lambda some: np.array([float(value) for value in some]).astype(kind)), (), ()


def _refuse_missing(path: Path, key: str, values: Sequence[Any]) -> None:
    """Raise DataError for NaN and what is infinite, alone or in a list, as a number or as text."""
    for row, value in enumerate(values, 1):
        if isinstance(value, list):
            with suppress(TypeError, ValueError, OverflowError):  # of other kinds, which are refused together
                if not np.isfinite(np.array(value, np.float64)).all():
                    raise DataError(f"{path}: row {row}: {key} holds a null or NaN, or an infinite number; write numbers alone")
        elif isinstance(value, (float, str)):
            with suppress(ValueError):
                if not isfinite(float(value)):
                    missing = ", as missing values are written" if isnan(float(value)) else ""
                    raise DataError(f"{path}: row {row}: {key} is {short(repr(value))}{missing}; write a class or a number")


def _lists(path: Path, key: str, values: Sequence[Any]) -> np.ndarray[Any, Any]:
    """Lists of numbers, of one shape all. Raises DataError for others."""
    try:
        numbers = np.array(values, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"{path}: {key} holds lists of several lengths, or not of numbers alone; give every row as many numbers"
        ) from error
    return numbers.astype(np.int64) if _are_whole(numbers) else numbers


def _are_whole(numbers: np.ndarray[Any, Any]) -> bool:
    """Whether all are whole and so small that a double has no gaps among them: then they may be labels."""
    return bool((np.abs(numbers) < _EXACT).all() and (numbers == np.round(numbers)).all())


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            separator = max("\t;,", key=first.count)
            file.seek(0)
            lines = list(islice(csv.reader(file, delimiter=separator), _MOST_ROWS + 1))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a readable table ({error}); write it as CSV in UTF-8") from error
    lines = [line for line in lines if line]
    if len(lines) > _MOST_ROWS:
        raise DataError(f"{path}: more than {_MOST_ROWS} rows; give fewer")
    if not lines:
        return []
    head = [name.strip() for name in lines[0]]
    if not any(name.lower() in _FILES for name in head) and os.path.isfile(path.parent / lines[0][0]):
        head = ["file", *(f"label{index}" if index else "label" for index in range(len(head) - 1))]
    else:
        lines = lines[1:]
    if len(set(head)) < len(head):
        raise DataError(
            f"{path}: two columns of one name among {', '.join(head)[:200]}; give each column of the head a name of its own"
        )
    for number, line in enumerate(lines, 1):
        if len(line) != len(head):
            raise DataError(
                f"{path}: row {number} has {len(line)} columns, the head {len(head)}; give every row one value for each of "
                f"{', '.join(head)[:200]}"
            )
    return [dict(zip(head, line, strict=True)) for line in lines]


def _json_rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    try:
        with path.open(encoding="utf-8") as file:
            for line in islice(file, _MOST_ROWS + 1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise ValueError(f"line {len(rows) + 1} is no object")
                    rows.append(row)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable as JSON lines ({error}); write one object a line") from error
    return rows


READER = Reader(
    "table",
    "a .csv, .tsv or .jsonl of files and labels, with a column split where wanted; several columns for several outputs",
    lambda path: path.is_file() and path.suffix.lower() in (*_CSV, *_JSON),
    read,
    form="a column `file` (or `filename`, `path`, `image`, `wav`), one column of labels for each output, and `split` where "
    "wanted; paths start from the table's folder",
    names=named,
)
