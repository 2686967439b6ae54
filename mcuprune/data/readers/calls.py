"""``module:function``: a function of the user's that returns a data set."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from mcuprune.data.arrays import one_line
from mcuprune.data.raw import Asked, Raw
from mcuprune.data.readers import objects
from mcuprune.errors import DataError


def read(spec: str, asked: Asked) -> Raw:
    """What the user's function returns. The current directory comes first on the import path while it runs.

    What it prints goes to stderr: stdout belongs to the answer.
    """
    module_name, function_name = spec.split(":")
    module_name = module_name.removesuffix(".py")
    try:
        here = os.getcwd()
    except OSError as error:
        raise DataError(f"--data {spec}: the current folder can't be entered ({error.strerror}); change to another") from None
    with _first_on_the_import_path(here), contextlib.redirect_stdout(sys.stderr):
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
                raise DataError(
                    f"--data {spec}: no module {error.name!r} here ({here}) or among the installed packages"
                ) from error
            raise DataError(f"--data {spec}: importing {module_name!r} raised {one_line(error)}") from error
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit, and kinds of their own
            raise DataError(f"--data {spec}: importing {module_name!r} raised {one_line(error)}") from error
        origin = getattr(module, "__file__", None) or "built in"
        if not hasattr(module, function_name):
            raise DataError(f"--data {spec}: module {module_name!r} ({origin}) has no {function_name!r}")
        function = getattr(module, function_name)
        if not callable(function):
            kind = type(function).__name__
            raise DataError(f"--data {spec}: {function_name!r} in {origin} is of type {kind}, not a function")
        keywords = _keywords(spec, function, asked.seed)
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


@contextlib.contextmanager
def _first_on_the_import_path(here: str) -> Iterator[None]:
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the user's code may have taken it out already
            sys.path.remove(here)
