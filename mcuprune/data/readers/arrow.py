"""Hugging Face ``datasets`` as ``save_to_disk`` writes them, and folders of Parquet files, mapped from the disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mcuprune.data import cache, pictures, trees
from mcuprune.data.raw import Asked, Part, Raw, Reader
from mcuprune.errors import DataError, MissingExtra

_INPUTS = ("image", "img", "pixel_values", "x", "input", "inputs", "features")
_LABELS = ("label", "labels", "fine_label", "y", "target", "targets", "class")


def read(path: Path, asked: Asked) -> Raw:
    """Images, or lists of numbers, and labels. Raises MissingExtra without pyarrow, DataError for tables of another kind."""
    try:
        import pyarrow as pa
    except ModuleNotFoundError as error:
        raise MissingExtra(f"{path}: Arrow files need pyarrow: pip install 'mcuprune[arrow]'") from error
    parts: dict[str, Part] = {}
    names: tuple[str, ...] = ()
    image = False
    labels: str | None = None
    try:
        for part, files in _parts(path).items():
            table = pa.concat_tables([_table(pa, file) for file in files])
            inputs, labels = (_key(table.column_names, known) for known in (_INPUTS, _LABELS))
            if inputs is None:
                raise DataError(f"{path}: no column of inputs among {', '.join(table.column_names)[:200]}; call it image or x")
            column, image = _inputs(pa, table.column(inputs), files, asked, str(path), part)
            y = None if labels is None else (_labels(table.column(labels), f"{path}: example {{}} of {part}"),)
            names = names or (_names(files[0].parent, labels) if labels else ())
            parts[part] = Part((column,), y)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Arrow data set ({' '.join(str(error).split())[:200]})") from error
    if "train" not in parts:
        raise DataError(f"{path}: no split train among {', '.join(parts) or 'nothing'}")
    columns = (labels,) if labels else ()
    return Raw(str(path), parts, names, "image" if image else "", "NHWC" if image else "", "arrow", columns=columns)


def _parts(path: Path) -> dict[str, list[Path]]:
    """The files of each part: by folders' names, else by the first word of files' names, else all are to train on."""
    by_part: dict[str, list[Path]] = {}
    for file in sorted(trees.files_below(path, (".arrow", ".parquet"))):
        if file.name.startswith("cache-"):
            continue
        names = [*file.relative_to(path).parts[:-1], file.name.split("-")[0].split(".")[0]]
        by_part.setdefault(next((part for name in names if (part := trees.part_named(name))), "train"), []).append(file)
    return by_part


def _table(pa: Any, file: Path) -> Any:
    if file.suffix == ".parquet":
        import pyarrow.parquet

        return pyarrow.parquet.read_table(file, memory_map=True)
    with pa.memory_map(str(file)) as source:
        try:
            return pa.ipc.open_stream(source).read_all()
        except pa.ArrowInvalid:
            return pa.ipc.open_file(source).read_all()


def _key(columns: Sequence[str], known: Sequence[str]) -> str | None:
    by_name = {name.lower(): name for name in columns}
    return next((by_name[name] for name in known if name in by_name), None)


def _inputs(pa: Any, column: Any, files: Sequence[Path], asked: Asked, where: str, part: str) -> tuple[Any, bool]:
    kind = column.type
    if pa.types.is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        size = pictures.size_of(asked.shape, where)
        pictures.need_pillow(where)

        def decoded(index: int) -> np.ndarray:
            cell = column[index].as_py()
            content = cell.get("bytes") if isinstance(cell, dict) else cell
            if not isinstance(content, bytes):
                raise DataError(f"{where}: example {index} of {part} holds no image; save it with its images embedded")
            return pictures.decoded(content, *size, where=f"{where}: example {index} of {part}")

        stamps = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        return cache.cached(stamps, range(len(column)), size, np.uint8, decoded), True
    values, shape = column.combine_chunks(), []
    while pa.types.is_list(values.type) or pa.types.is_large_list(values.type) or pa.types.is_fixed_size_list(values.type):
        outer, values = len(values), values.flatten()
        if not outer or len(values) % outer:
            raise DataError(f"{where}: its examples have lists of different lengths")
        shape.append(len(values) // outer)
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        raise DataError(f"{where}: inputs are {kind}; images or lists of numbers are read")
    inputs = np.asarray(values.to_numpy(zero_copy_only=False)).reshape(len(column), *shape)
    return inputs, False


def _labels(column: Any, where: str) -> np.ndarray[Any, Any]:
    if column.null_count:
        index = int(np.argmax(column.is_null().to_numpy()))
        raise DataError(f"{where.format(index)} has no label, but a null; give it one, or leave the example out")
    return np.asarray(column.to_numpy())


def _names(folder: Path, label: str) -> tuple[str, ...]:
    """Class names that stand beside a table, in the order of labels."""
    try:
        with (folder / "dataset_info.json").open(encoding="utf-8") as file:
            names = json.loads(file.read(2**24))["features"][label]["names"]
        return tuple(str(name) for name in names)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ()


def _is(path: Path) -> bool:
    return path.is_dir() and trees.holds(path, (".arrow", ".parquet"))


READER = Reader(
    "arrow", "Hugging Face datasets on disk (Arrow or Parquet)", _is, read, "after `save_to_disk`; needs the extra `arrow`"
)
