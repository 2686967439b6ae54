"""Objects that draw themselves in a notebook, for those that stand on lower floors than what draws them.

A notebook asks an object for ``_repr_html_``. The class of the object is ``Drawn``; the module that knows how it looks
registers a function for it, and until that module is imported a notebook shows the object as text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_DRAWINGS: dict[type, Callable[[Any], str]] = {}


class Drawn:
    """An object that a notebook shows as HTML, once something draws its class (``draws``)."""

    def _repr_html_(self) -> str | None:
        draw = next((_DRAWINGS[kind] for kind in type(self).__mro__ if kind in _DRAWINGS), None)
        return None if draw is None else draw(self)


def draws(kind: type[T]) -> Callable[[Callable[[T], str]], Callable[[T], str]]:
    """Register a function that writes objects of a class as HTML: self-contained, with every name escaped."""

    def register(draw: Callable[[T], str]) -> Callable[[T], str]:
        _DRAWINGS[kind] = draw
        return draw

    return register
