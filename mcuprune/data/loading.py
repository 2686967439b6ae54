"""Examples for a model: ``--data NAME|PATH|module:function`` -> a ``Data`` that fits it.

Whatever the source, what is read passes the same checks (``fitting``), so what ``load`` returns can be fed to the model as it
stands. Files are read without unpickling, so a data file can't run code; ``module:function`` does run code, the user's own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from mcuprune.data import calls, npz
from mcuprune.data.arrays import bounded, known
from mcuprune.data.fitting import Wanted, classifier, fitted
from mcuprune.data.named import DATASETS
from mcuprune.data.raw import PARTS, Part, Raw
from mcuprune.data.sets import IN_MEMORY, Data, Dataset, Given
from mcuprune.errors import DataError

#: The metadata key under which a model file may say which data set it was made for.
METADATA_KEY = "mcuprune.data"


def load(spec: Given, *, input_shape: tuple[int, ...], n_classes: int, seed: int) -> Data:
    """The data set that ``spec`` names, checked against a classifier of one input; ``opened`` takes any other model.

    spec: a name in DATASETS, the path of a file or folder, or ``module:function``; a name wins over a file of the same name
    (``./digits`` means the file). Or ``Arrays``, or a ``Dataset``.
    input_shape: the model's input without its batch axis, e.g. (1, 16, 16).
    n_classes: the number of the model's logits.
    seed: picks the validation examples where the data brings none; a ``module:function`` that takes ``seed`` gets it.

    Raises DataError on a set that can't be read or doesn't fit, MissingExtra where a set needs another package.
    """
    return opened(spec, classifier(input_shape, n_classes, seed))


def opened(spec: Given, wanted: Wanted) -> Data:
    """The data set that ``spec`` names, as ``load`` takes it, checked against what the model takes and answers."""
    if isinstance(spec, os.PathLike):
        spec = os.fspath(spec)
    for shape in wanted.inputs:
        if not shape or min(shape) < 1:
            where = spec if isinstance(spec, str) else IN_MEMORY
            raise DataError(f"--data {where}: the model's input shape is {shape}; fix every axis with --input-shape")
    if isinstance(spec, str) and spec in DATASETS:
        return DATASETS[spec](wanted.inputs[0], wanted.n_classes, wanted.seed)
    return fitted(read(spec, wanted), wanted)


def read(spec: Given, wanted: Wanted) -> Raw:
    """What ``spec`` names, as it is stored. Raises DataError where it can't be read."""
    if not isinstance(spec, (str, os.PathLike)):
        return of_arrays(IN_MEMORY, _in_memory(spec))
    spec = os.fspath(spec)
    if os.path.exists(spec) or spec.endswith(".npz"):
        if os.path.exists(spec) and not os.path.isfile(spec) and not os.path.isdir(spec):
            raise DataError(f"--data {spec}: no regular file, but a device or a pipe; give the path of an .npz archive")
        return of_arrays(spec, npz.read(spec))
    if re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", spec):
        return of_arrays(spec, calls.call(spec, wanted.seed))
    raise DataError(
        f"--data {spec!r}: no such file and no such data set; give a name ({', '.join(DATASETS)}), "
        "the path of an .npz archive, or module:function"
    )


def of_arrays(where: str, arrays: Mapping[str, Any]) -> Raw:
    """A data set of the arrays ``x_train``, ``y_train`` and so on."""
    held = {key: value for key, value in arrays.items() if isinstance(value, np.ndarray) and not isinstance(value, np.memmap)}
    bounded(where, {key: (value.shape, value.dtype) for key, value in held.items()})
    parts = {part: Part(*_of_part(arrays, part)) for part in PARTS if _of_part(arrays, part)[0]}
    return Raw(where, parts, reader="arrays")


def _of_part(arrays: Mapping[str, Any], part: str) -> tuple[tuple[Any, ...], tuple[Any, ...] | None]:
    """The inputs and the targets of a part: ``x_train``, or ``x0_train``, ``x1_train`` and so on."""
    inputs, targets = (
        tuple(arrays[key] for key in [f"{letter}_{part}", *(f"{letter}{index}_{part}" for index in range(100))] if key in arrays)
        for letter in "xy"
    )
    return inputs, targets or None


def named(metadata: Mapping[str, str]) -> str | None:
    """The embedded data set that a model's metadata names; None where it names none, or anything else.

    Metadata are a stranger's words: they may choose from DATASETS, and are never taken for a file or for code.
    """
    name = metadata.get(METADATA_KEY)
    return name if name in DATASETS else None


def not_embedded(metadata: Mapping[str, str]) -> str:
    """What to say where metadata name data that aren't embedded; empty where they don't."""
    name = metadata.get(METADATA_KEY)
    if name is None or name in DATASETS:
        return ""
    shown = name if len(name) <= 80 else f"{name[:77]}..."
    return f"the file's metadata name {shown!r}, which is no embedded data set ({', '.join(DATASETS)}) and so is not opened"


def files(spec: Given | None) -> list[str]:
    """The files that ``spec`` of ``load`` may read, for the sake of those who mustn't write there."""
    spec = os.fspath(spec) if isinstance(spec, os.PathLike) else spec
    if not isinstance(spec, str) or spec in DATASETS:
        return []
    module, colon, _ = spec.partition(":")
    path = module.replace(".", os.sep)
    return [spec, *([f"{path}.py", os.path.join(path, "__init__.py")] if colon else [])]


def _in_memory(given: Mapping[str, Any] | Dataset) -> dict[str, Any]:
    """The known arrays of a mapping, or of an object that has them as attributes."""
    keys = [f"{letter}_{part}" for part in PARTS for letter in "xy"]
    if not isinstance(given, Mapping):
        given = {key: getattr(given, key) for key in keys if getattr(given, key, None) is not None}
    return {key: given[key] for key in known(IN_MEMORY, [key for key in given if given[key] is not None])}
