"""``module:function``: a function of the user's that returns a data set."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from mcuprune.data.arrays import NEEDED, known, one_line
from mcuprune.errors import DataError
from mcuprune.usercode import from_here, named_function


def call(spec: str, seed: int) -> Mapping[str, Any]:
    """What the user's function returns. The current directory comes first on the import path while it runs.

    What it prints goes to stderr: stdout belongs to the answer.
    """
    with from_here("--data", spec, DataError):
        function = named_function("--data", spec, DataError)
        keywords = _keywords(spec, function, seed)
        try:
            arrays = function(**keywords)
            if isinstance(arrays, Mapping):
                # an open .npz reads, and may fail, only when asked for its arrays
                return {key: arrays[key] for key in known(spec, arrays)}
        except (DataError, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise DataError(f"--data {spec}: the function raised {one_line(error)}") from error
    kind = type(arrays).__name__
    raise DataError(f"--data {spec}: the function returned an object of type {kind}, not a mapping; {NEEDED}")


def _keywords(spec: str, function: Callable[..., Any], seed: int) -> dict[str, int]:
    """``{"seed": seed}`` where the function takes it, else nothing."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # some compiled functions don't tell
        return {}
    for keywords in ({"seed": seed}, {}):
        with contextlib.suppress(TypeError):
            signature.bind(**keywords)
            return keywords
    raise DataError(f"--data {spec}: the function takes {signature}; it is called without arguments, or with seed=...")
