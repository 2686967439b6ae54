"""``module:function``: code of the user's, named on the command line. The current folder comes first on the import path."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from mcuprune.errors import McupruneError, cause


@contextlib.contextmanager
def from_here(flag: str, spec: str, error: type[McupruneError]) -> Iterator[str]:
    """Import from the current folder first; gives its path. What the user's code prints goes to stderr."""
    try:
        here = os.getcwd()
    except OSError as gone:
        raise error(f"{flag} {spec}: the current folder can't be entered ({cause(gone)}); change to another") from None
    sys.path.insert(0, here)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield here
    finally:
        with contextlib.suppress(ValueError):  # the user's code may have taken it out already
            sys.path.remove(here)


def named_function(flag: str, spec: str, error: type[McupruneError]) -> Callable[..., Any]:
    """The function that ``spec`` names; inside ``from_here``. Raises ``error`` where there is none."""
    module_name, _, function_name = spec.partition(":")
    if module_name.endswith(".py"):
        plain = module_name.removesuffix(".py").replace("/", ".").lstrip(".")
        raise error(f"{flag} {spec}: {module_name} is a file; name the module, without .py: {flag} {plain}:{function_name}")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as missing:
        if missing.name and (module_name == missing.name or module_name.startswith(f"{missing.name}.")):
            where = f"no module {missing.name!r} here ({os.getcwd()}) or among the installed packages"
            raise error(f"{flag} {spec}: {where}") from missing
        raise error(f"{flag} {spec}: importing {module_name!r} raised {one_line(missing)}") from missing
    except KeyboardInterrupt:
        raise
    except BaseException as raised:  # SystemExit, and kinds of their own
        raise error(f"{flag} {spec}: importing {module_name!r} raised {one_line(raised)}") from raised
    origin = getattr(module, "__file__", None) or "built in"
    if not hasattr(module, function_name):
        raise error(f"{flag} {spec}: module {module_name!r} ({origin}) has no {function_name!r}")
    function = getattr(module, function_name)
    if not callable(function):
        kind = type(function).__name__
        raise error(f"{flag} {spec}: {function_name!r} in {origin} is of type {kind}, not a function")
    named: Callable[..., Any] = function
    return named


def files(spec: str) -> list[str]:
    """Where the module that ``spec`` names may lie below the current folder; nowhere for what names none."""
    module, colon, _ = spec.partition(":")
    path = module.replace(".", os.sep)
    return [f"{path}.py", os.path.join(path, "__init__.py")] if colon else []


def one_line(error: BaseException) -> str:
    """An exception of somebody else's code on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
