"""``module:function``: a function of the user's that returns a data set."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from typing import Any

from mcuprune.data.raw import Asked, Raw
from mcuprune.data.readers import objects
from mcuprune.errors import DataError
from mcuprune.usercode import from_here, named_function, one_line


def read(spec: str, asked: Asked) -> Raw:
    """What the user's function returns; what it prints goes to stderr, for stdout belongs to the answer."""
    with from_here("--data", spec, DataError):
        keywords = _keywords(spec, function := named_function("--data", spec, DataError), asked.seed)
        try:
            # an open .npz or a Dataset reads, and may fail, only when asked for its examples
            return objects.read(spec, function(**keywords), asked)
        except (DataError, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise DataError(f"--data {spec}: the function raised {one_line(error)}") from error


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
