"""Immutable classes against the frozen dataclasses of the standard library."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcuprune.immutable import immutable

VALUES = st.one_of(st.integers(-2, 2), st.sampled_from(["a", None, (1, 2)]))
#: What a field may say of itself: whether it is shown, compared and hashed, and what it is where nothing is given.
FIELDS = st.fixed_dictionaries(
    {"repr": st.booleans(), "compare": st.booleans(), "hash": st.sampled_from([None, True, False]), "default": VALUES}
)


def both(members: list[dict[str, Any]], own: dict[str, Any], **wishes: Any) -> tuple[type, type]:
    """One class body as a frozen dataclass and as an immutable class."""
    names = [f"field_{i}" for i in range(len(members))]

    def body() -> dict[str, Any]:
        fields = {name: field(**member) for name, member in zip(names, members, strict=True)}
        return {"__annotations__": dict.fromkeys(names, Any), "__qualname__": "Kind", **fields, **own}

    return dataclass(frozen=True, **wishes)(type("Kind", (), body())), immutable(**wishes)(type("Kind", (), body()))


@given(st.lists(FIELDS, max_size=4), st.data(), st.booleans())
def test_they_compare_hash_and_show_as_frozen_dataclasses_do(members, data, kw_only):
    of_library, ours = both(members, {}, kw_only=kw_only)
    names = [member.name for member in dataclasses.fields(ours)]
    given_values = [data.draw(st.dictionaries(st.sampled_from(names), VALUES)) if names else {} for _ in range(2)]
    a, b = (of_library(**values) for values in given_values)
    x, y = (ours(**values) for values in given_values)
    assert (repr(x), hash(x), x == y, hash(x) == hash(y)) == (repr(a), hash(a), a == b, hash(a) == hash(b))
    assert dataclasses.asdict(x) == dataclasses.asdict(a)
    assert x != a
    assert x != 1
    for again in (copy.copy(x), copy.deepcopy(x), dataclasses.replace(x)):
        assert again == x
        assert vars(again) == vars(x)


@pytest.mark.parametrize("own", ["__eq__", "__hash__", "__repr__"])
def test_a_method_of_the_class_stays(own):
    methods = {"__eq__": lambda self, other: True, "__hash__": lambda self: 7, "__repr__": lambda self: "mine"}
    a, x = (kind(field_0=1) for kind in both([{}], {own: methods[own]}))
    assert (a == 1, hash(a), repr(a)) == (x == 1, hash(x), repr(x))


@immutable
class Point:
    """At module level, where pickle finds it."""

    x: int
    others: list[int] = field(default_factory=list)
    y: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "y", self.x + 1)

    @cached_property
    def sum(self) -> int:
        """Of both."""
        return self.x + self.y


@immutable(kw_only=True)
class Named(Point):
    """With a field more."""

    name: str = "b"


def test_they_stay_as_they_were_made():
    point = Point(1)
    for name in ("x", "y", "others", "unknown"):
        with pytest.raises(dataclasses.FrozenInstanceError, match=f"cannot assign to field '{name}'"):
            setattr(point, name, 3)
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot delete field 'x'"):
        del point.x
    assert (point.x, point.y, point.sum, point.others) == (1, 2, 3, [])
    assert point.others is not Point(1).others


def test_they_inherit_are_pickled_and_matched():
    named = Named(4, name="c")
    assert named != Point(4)
    assert pickle.loads(pickle.dumps(named)) == named
    assert repr(named) == "Named(x=4, others=[], y=5, name='c')"
    match named:
        case Point(x):
            assert x == 4
    with pytest.raises(TypeError, match="unhashable"):  # as of a frozen dataclass with a list
        hash(named)


def test_a_value_that_holds_itself_is_shown():
    point = Point(1, [])
    point.others.append(point)  # type: ignore[arg-type]
    assert repr(point) == "Point(x=1, others=[...], y=2)"


def test_what_is_not_equal_to_itself_is_the_same_value():
    """As in tuples: arrays have no single answer, and NaN says no."""
    _, one = both([{}], {})
    for value in (np.arange(3), float("nan")):
        assert one(value) == one(value)


def test_a_class_may_not_say_itself_what_may_be_assigned():
    with pytest.raises(TypeError, match="Kind has __setattr__"):
        immutable(type("Kind", (), {"__setattr__": object.__setattr__}))
