"""JSON that a stranger may have written, or that was cut short: read whole, or refused for a reason; no value is believed.

``read`` and ``parsed`` give what stands there, ``Values`` checks it piece by piece. ``dumped`` writes what they take.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from mcuprune.errors import UsageError

#: Of a report: one of a network of some thousand nodes is a hundredth of it.
MOST_BYTES = 2**28
#: Lists and tables inside each other: whatever shows or copies a deeper value would recurse as deeply. None of ours has ten.
_DEEPEST = 100
#: Characters; nobody reads more of them.
_READABLE = 2**22

_Value = TypeVar("_Value")


def dumped(value: Any) -> str:
    """A JSON value as a text, on one line where it is too long for people.

    JSON has no word for infinity, nor for what is no number at all: each becomes null.
    """
    try:
        text = json.dumps(value, allow_nan=False)
    except ValueError:
        value = json.loads(json.dumps(value), parse_constant=lambda word: None)
        text = json.dumps(value)
    if len(text) < _READABLE:  # spread over lines it takes ten times as long, for that isn't done in C
        text = json.dumps(value, indent=1)
    return text + "\n"


def read(path: str | Path) -> Any:
    """The value in a file. Raises FileNotFoundError where there is none, and ValueError, which says why, for anything else."""
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(error.strerror or type(error).__name__) from None
    if len(content) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES} bytes")
    return parsed(content)


def parsed(content: bytes | str) -> Any:
    """The value of a text. Raises ValueError, which says why, for one that is no JSON, and for one that is nested absurdly."""

    def refuse(word: str) -> NoReturn:
        raise ValueError(f"{word} is no number of JSON")

    try:
        value = json.loads(content, parse_constant=refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level = [value]
    for _ in range(_DEEPEST):
        level = [part for held in level if isinstance(held, (dict, list)) for part in _inside(held)]
        if not level:
            return value
    raise ValueError("nested too deeply")


def _inside(held: dict[str, Any] | list[Any]) -> Collection[Any]:
    return held.values() if isinstance(held, dict) else held


class Values:
    """Values of one document, checked when they are taken, with messages that name the file and the key. within: its prefix.

    hint: ends each message: what to do about such a file.
    """

    def __init__(self, path: str | Path, within: str = "", hint: str = "") -> None:
        self._path, self._within, self._hint = path, within, hint

    def refuse(self, key: str, value: Any, wanted: str) -> NoReturn:
        """Raise UsageError for a value that isn't what it must be."""
        shown = f"{value!r}"
        said = f"{self._within}{key} is {shown[:80]}{'...' if len(shown) > 80 else ''}, not {wanted}"
        raise UsageError(f"{self._path}: {said}{f'; {self._hint}' if self._hint else ''}")

    def table(self, value: Any, key: str, needs: Iterable[str] = ()) -> dict[str, Any]:
        """The value, where it is a table. needs: keys that it must have, whatever their values."""
        if lacking := [name for name in needs if isinstance(value, dict) and name not in value]:
            self.refuse(key, value, f"a table with {lacking[0]}")
        return value if isinstance(value, dict) else self.refuse(key, value, "a table")

    def items(self, value: Any, key: str) -> list[Any]:
        """The value, where it is a list."""
        return value if isinstance(value, list) else self.refuse(key, value, "a list")

    def text(self, value: Any, key: str) -> str:
        """The value, where it is a text that may stand for a path or a name: not empty, without a zero byte."""
        return value if isinstance(value, str) and value and "\0" not in value else self.refuse(key, value, "a text")

    def texts(self, value: Any, key: str) -> tuple[str, ...]:
        """The values of a list of such texts."""
        return tuple(self.text(text, key) for text in self.items(value, key))

    def text_by_name(self, value: Any, key: str) -> dict[str, str]:
        """The values of a table of such texts."""
        return {name: self.text(text, f"{key}.{name}") for name, text in self.table(value, key).items()}

    def one_of(self, value: Any, known: Collection[str] | Mapping[str, Any], key: str) -> str:
        """The value, where it is one of those that are known."""
        if not isinstance(value, str) or value not in known:
            self.refuse(key, value, f"one of {', '.join(known)}")
        return value

    def unless_none(self, check: Callable[[Any, str], _Value], value: Any, key: str) -> _Value | None:
        """What a check gives back for a value, None for None."""
        return None if value is None else check(value, key)

    def truth(self, value: Any, key: str) -> bool:
        """The value, where it is true or false."""
        return value if isinstance(value, bool) else self.refuse(key, value, "true or false")

    def whole(self, value: Any, key: str) -> int:
        """The value, where it is a whole number from 0 on that fits 64 bits."""
        return value if type(value) is int and 0 <= value < 2**63 else self.refuse(key, value, "a whole number")

    def number(self, value: Any, key: str) -> float:
        """The value, where it is a finite number, and not so large that its square wouldn't be."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 2.0**500:
            self.refuse(key, value, "a number")
        return float(value)
