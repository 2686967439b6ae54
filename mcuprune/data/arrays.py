"""The checks that every data set passes, whatever it was read from: names of arrays, shapes, types, finite values, labels."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mcuprune.data.columns import Lazy, chunks
from mcuprune.data.preprocessing import LAYOUTS
from mcuprune.data.sets import Column
from mcuprune.errors import DataError
from mcuprune.usercode import one_line

#: Of all arrays in memory together. No microcontroller's data set is larger; a damaged or hostile header easily says so.
MAX_BYTES = 8 * 1024**3
_REQUIRED = ("x_train", "y_train", "x_test", "y_test")
_OPTIONAL = ("x_val", "y_val")
_KEY = re.compile(r"[xy]\d{0,2}_(train|val|test)")
NEEDED = "it needs x_train, y_train, x_test, y_test, and may have x_val, y_val"


def known(where: str, names: Iterable[object]) -> list[str]:
    """Those of ``names`` that are arrays of a data set. Raises DataError where they aren't a whole one.

    Besides x_train, y_train and so on: ``x0_train``, ``x1_train`` for several inputs, ``y0_train`` for several outputs; and no
    y at all where there are no labels.
    """
    present = sorted(map(str, names))
    keys = [name for name in present if _KEY.fullmatch(name)]
    if any(key[1].isdigit() for key in keys) or (keys and not any(key[0] == "y" for key in keys)):
        if not any(key.startswith("x") and key.endswith("_train") for key in keys):
            raise DataError(f"{where}: no array 'x_train' (found: {', '.join(present[:10])}); {NEEDED}")
        return keys
    for key in _REQUIRED:
        if key not in present:
            raise DataError(f"{where}: no array {key!r} (found: {', '.join(present[:10]) or 'nothing'}); {NEEDED}")
    for alone, other in (_OPTIONAL, _OPTIONAL[::-1]):
        if alone in present and other not in present:
            raise DataError(f"{where}: {alone} without {other}; give both, or neither to hold out a part of x_train")
    return [key for key in (*_REQUIRED, *_OPTIONAL) if key in present]


def array_of(where: str, name: str, values: Any, *, kinds: str, wanted: str) -> np.ndarray[Any, Any]:
    """The values as an array (examples, ...), none of them copied where they are one already.

    kinds: the letters of numpy's ``dtype.kind`` that are taken. wanted: what messages say it must hold. where, name: what
    messages call the data and the array. Raises DataError for what is no array, for another dtype and for no examples.
    """
    try:
        array = values if isinstance(values, np.memmap) else np.asarray(values)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # unequal lengths, tensors elsewhere: whatever the user's objects raise
        raise DataError(f"{where}: {name} can't be turned into an array: {one_line(error)}") from error
    if array.dtype.kind not in kinds:
        raise DataError(f"{where}: {name} has dtype {array.dtype}; it must hold {wanted}")
    if array.ndim == 0 or len(array) == 0:
        raise DataError(f"{where}: {name} is empty (shape {array.shape}); every split needs at least one example")
    return array


def input_column(where: str, name: str, values: Any, shape: tuple[int, ...], stored: str) -> tuple[Column, str]:
    """A column of raw examples that can be fed to an input of this shape, and the layout that they are stored in.

    Missing axes of size 1 are added; channels may be last where the input has them first, and the other way round.
    """
    column: Column = values if isinstance(values, Lazy) else array_of(where, name, values, kinds="fiub", wanted="plain numbers")
    if not len(column):
        raise DataError(f"{where}: {name} is empty; every split needs at least one example")
    raw = tuple(column.shape[1:])
    if stored:
        return column, stored
    if raw == shape or (len(raw) < len(shape) and _without_ones(raw) == _without_ones(shape)):
        return column, ""
    wanted = ", ".join(map(str, ("n", *shape)))
    if len(raw) == len(shape) and len(shape) in (2, 3):
        if shape == (raw[-1], *raw[:-1]):
            return column, LAYOUTS[len(raw) + 1][1]
        if shape == (*raw[1:], raw[0]):
            return column, LAYOUTS[len(raw) + 1][0]
    hint = f"use {name}.reshape{(-1, *shape)}" if _without_ones(raw) == _without_ones(shape) else None
    hint = hint or f"bring every example to shape {shape}"
    raise DataError(f"{where}: {name} has shape {tuple(column.shape)}; the model wants ({wanted}): {hint}")


def refuse_infinite(where: str, name: str, column: Column) -> None:
    """Raise DataError for values that are no finite float32 numbers. Whole numbers are not looked at."""
    if isinstance(column, Lazy) or column.dtype.kind != "f":
        return
    start, bad, first = 0, 0, -1
    for part in chunks(column):
        with np.errstate(over="ignore"):
            finite = np.isfinite(part.astype(np.float32, copy=False)).reshape(len(part), -1).all(axis=1)
        if not finite.all():
            first = start + int(np.argmin(finite)) if first < 0 else first
            bad += int(np.count_nonzero(~finite))
        start += len(part)
    if bad:
        raise DataError(
            f"{where}: {name} has NaN or infinite values (as float32) in {bad} of {len(column)} "
            f"examples, the first at index {first}; remove or repair them"
        )


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def labels(where: str, name: str, values: Any, n_classes: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """int64 (n,). A column (n, 1) is flattened and one-hot rows (n, n_classes) are read as the index of their 1."""
    wanted = f"whole-number labels from 0 to {n_classes - 1}"
    array = array_of(where, name, values, kinds="fiub", wanted=wanted)
    if array.ndim == 2 and array.shape[1] == n_classes > 1:
        if not (np.isin(array, (0, 1)).all() and (array.sum(axis=1, dtype=np.int64) == 1).all()):
            raise DataError(
                f"{where}: {name} has shape {array.shape} but its rows aren't one-hot (a single 1, else 0); "
                f"give one-hot rows or {wanted}{f', e.g. {name}.argmax(1)' if name.isidentifier() else ''}"
            )
        return np.asarray(array.argmax(axis=1), dtype=np.int64)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise DataError(f"{where}: {name} has shape {array.shape}; it must be (n,) {wanted}, or one-hot rows (n, {n_classes})")
    if array.dtype.kind == "f" and not (finite := np.isfinite(array)).all():
        raise DataError(
            f"{where}: {name} has NaN or infinite values in {np.count_nonzero(~finite)} of {len(array)} examples, the first at "
            f"index {np.argmin(finite)}; it must hold {wanted}"
        )
    if array.dtype.kind == "f" and not np.equal(array, np.round(array)).all():
        raise DataError(
            f"{where}: {name} has fractions, as targets of a regression have; what is trained and measured are classifiers, "
            f"so it must hold {wanted}"
        )
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= n_classes:
        raise DataError(
            f"{where}: {name} has labels from {low} to {high}; the model has {n_classes} outputs and wants {wanted}"
        )
    if array.dtype.kind == "f":
        how = f"use {name}.astype('int64')" if name.isidentifier() else "write them as whole numbers, 3 and not 3.0"
        raise DataError(f"{where}: {name} has dtype {array.dtype}; it must hold {wanted}: {how}")
    return array.astype(np.int64)


def bounded(where: str, headers: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]) -> None:
    """Raise DataError for arrays that are too large, however small they are stored.

    headers: shape and type of each array by its key. Labels become int64, beside what they are made of.
    """
    total = 0
    for key, (shape, dtype) in headers.items():
        total += math.prod(shape) * (dtype.itemsize + (0 if key.startswith("x") else 8))
    if total > MAX_BYTES:
        raise DataError(
            f"{where}: its arrays would take {total} bytes, with what they become; at most {MAX_BYTES} are used: "
            "give fewer or smaller examples"
        )
