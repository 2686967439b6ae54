"""A data set that can't be there, told before anything is imported that reads or trains."""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
import sys

from mcuprune.data.named import DATASETS
from mcuprune.data.sets import Given
from mcuprune.errors import DataError


def refuse_unknown(spec: Given | None) -> None:
    """Raise DataError for a name of nothing: no data set, no file, no module. What is there is read later."""
    if not isinstance(spec, str) or spec in DATASETS or os.path.lexists(spec):
        return
    module, colon, function = spec.partition(":")
    if not colon:
        raise DataError(
            f"--data {spec!r}: no such file and no such data set; {_nearest(spec)}give a name "
            f"({', '.join(DATASETS)}), the path of a file or folder, or module:function"
        )
    if module.endswith(".py") and re.fullmatch(r"[^\W\d]\w*", function):
        plain = module.removesuffix(".py").replace("/", ".").lstrip(".")
        raise DataError(f"--data {spec}: {module} is a file; name the module, without .py: --data {plain}:{function}")
    first = module.partition(".")[0]
    if re.fullmatch(r"[^\W\d]\w*", first) and not os.path.exists(module) and not _is_module(first):
        raise DataError(
            f"--data {spec}: no module {first!r} here ({os.getcwd()}) or among the installed packages; "
            f"{_nearest(f'{first}.py')}is the current folder the right one?"
        )


def _is_module(name: str) -> bool:
    """Whether a module of this name is there, here or installed; it is not run."""
    if name in sys.modules:
        return True
    sys.path.insert(0, os.getcwd())
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
    finally:
        sys.path.pop(0)


def _nearest(spec: str) -> str:
    """What may have been meant: a data set's name, or a neighbour of the file that isn't there."""
    folder, name = os.path.split(spec)
    try:
        neighbours = os.listdir(folder or ".")[:10_000]
    except OSError:
        neighbours = []
    close = difflib.get_close_matches(name, [*([] if folder else DATASETS), *neighbours], 1, 0.75)
    return f"did you mean {os.path.join(folder, close[0])!r}? Or " if close else ""
