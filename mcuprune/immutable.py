"""Values with named fields that stay as they were made, by which they are compared, hashed and shown.

In all that shows, an immutable class is a frozen dataclass. The standard library writes six methods of each of these as text
and compiles that: half of the CPU time that a command took to start, with its hundred classes. Here each class has but its
``__init__`` made for it; they share the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from operator import attrgetter
from reprlib import recursive_repr
from typing import Any, TypeVar, dataclass_transform, overload

T = TypeVar("T")


@overload
def immutable(cls: type[T], /) -> type[T]: ...
@overload
def immutable(*, init: bool = True, repr: bool = True, kw_only: bool = False) -> Callable[[type[T]], type[T]]: ...
@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def immutable(cls: type | None = None, /, *, init: bool = True, repr: bool = True, kw_only: bool = False) -> Any:
    """``dataclasses.dataclass(frozen=True)``, with the parameters of it that are used, for classes without ``__slots__``.

    As there, a method that the class has in its body stays, but for those that keep it frozen. A field that its ``__init__``
    leaves out may be assigned once.
    """

    def finished(cls: type) -> type:
        for name in ("__setattr__", "__delattr__"):
            if name in vars(cls):
                raise TypeError(f"{cls.__name__} has {name}: an immutable class decides itself what may be assigned")
        hashed = vars(cls).get("__hash__") is not None
        if repr and "__repr__" not in vars(cls):
            cls.__repr__ = _repr  # type: ignore[assignment]
        if "__eq__" not in vars(cls):
            cls.__eq__ = _eq  # type: ignore[assignment]
        if not hashed:
            cls.__hash__ = _hash  # type: ignore[assignment]
        kind: type = dataclasses.dataclass(init=init, repr=False, eq=False, kw_only=kw_only)(cls)
        kind.__setattr__, kind.__delattr__ = _assign, _delete  # type: ignore[assignment]
        return kind

    return finished if cls is None else finished(cls)


def _assign(self: Any, name: str, value: Any) -> None:
    values = self.__dict__
    if name in values or name not in self.__dataclass_fields__:
        raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")
    values[name] = value


def _delete(self: Any, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


@recursive_repr()
def _repr(self: Any) -> str:
    shown = (f"{member.name}={getattr(self, member.name)!r}" for member in dataclasses.fields(self) if member.repr)
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _eq(self: Any, other: Any) -> Any:
    kind: Any = self.__class__
    if other.__class__ is not kind:
        return NotImplemented
    values = _compared(kind)
    return values(self) == values(other)


def _hash(self: Any) -> int:
    return hash(_hashed(self.__class__)(self))


@cache
def _compared(kind: Any) -> Callable[[Any], tuple[Any, ...]]:
    return _values([member.name for member in dataclasses.fields(kind) if member.compare])


@cache
def _hashed(kind: Any) -> Callable[[Any], tuple[Any, ...]]:
    hashed = (member for member in dataclasses.fields(kind) if (member.compare if member.hash is None else member.hash))
    return _values([member.name for member in hashed])


def _values(names: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    """What reads the fields of these names as a tuple: so that a value that isn't equal to itself still is the same one."""
    if len(names) > 1:
        return attrgetter(*names)
    return lambda instance: tuple(getattr(instance, name) for name in names)
