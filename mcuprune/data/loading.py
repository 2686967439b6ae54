"""Examples for a model: ``--data NAME|PATH|module:function`` -> a ``Data`` that fits it.

Whatever the source, what is read passes the same checks (``fitting``), so what ``load`` returns can be fed to the model as it
stands. Files are read without unpickling, so a data file can't run code; ``module:function`` does run code, the user's own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from mcuprune import usercode
from mcuprune.data.fitting import Wanted, classifier, fitted
from mcuprune.data.named import DATASETS
from mcuprune.data.raw import Asked, Raw
from mcuprune.data.readers import calls, objects, table
from mcuprune.data.sets import IN_MEMORY, Data, Given
from mcuprune.errors import DataError
from mcuprune.places import Source

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
    asked = Asked(wanted.inputs[0], wanted.n_classes, wanted.classes, wanted.seed, wanted.frontend)
    if not isinstance(spec, (str, os.PathLike)):
        return objects.read(IN_MEMORY, spec, asked)
    spec = os.fspath(spec)
    if os.path.exists(spec) or spec.endswith((".npz", os.sep)):
        if os.path.exists(spec) and not os.path.isfile(spec) and not os.path.isdir(spec):
            raise DataError(f"--data {spec}: no regular file, but a device or a pipe; give the path of a file or a folder")
        return table.read(Path(spec), asked)
    if re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", spec):
        return calls.read(spec, asked)
    raise DataError(
        f"--data {spec!r}: no such file and no such data set; give a name ({', '.join(DATASETS)}), "
        "the path of a folder or a file such as an .npz archive, or module:function"
    )


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


def sources(spec: Given | None, classes: str | None = None) -> list[Source]:
    """What ``spec`` of ``load`` may read, for the sake of those who mustn't write there. classes: a file of their names."""
    named = [] if classes is None else [Source("the file of class names", classes)]
    spec = os.fspath(spec) if isinstance(spec, os.PathLike) else spec
    if not isinstance(spec, str) or spec in DATASETS:
        return named
    files = [spec, *usercode.files(spec)]
    with suppress(DataError):  # what a table can't be read for is said when it is read
        named += [Source("a file of the data", os.path.join(os.path.dirname(spec), name)) for name in beside(spec)]
    return [*(Source("the data" if not os.path.isdir(file) else "a file of the data", file) for file in files), *named]


def beside(spec: Given | None) -> list[str]:
    """What ``load`` reads beside the file that ``spec`` names: what a table tells of, by the paths that stand in it."""
    return table.beside(Path(spec)) if isinstance(spec, str) and spec not in DATASETS and os.path.isfile(spec) else []
