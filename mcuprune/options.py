"""Options: one field of a dataclass says all that is known about one of them.

    @immutable
    class Request:
        epochs: int | None = option(None, least=1, metavar="N", group="Training", help="Passes over the data.")

Everybody who deals with options asks ``of`` for those of a dataclass: the command line for its flags and their help, the
configuration for its keys and the types of their values, a run for its fingerprint, the report for what was asked. So a new
option is a new field and nothing else.

A *flag* is an option as one types it, ``--epochs``; a *key* is its name in the configuration, the flag without its dashes. The
type of the field is one of str, int, float, bool, any of them with ``| None``, or a sequence of str, whose flag is repeatable.
Where a script may give another type as well, the flag's stands first: ``str | int``.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import numbers
import os
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, field, replace
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mcuprune.errors import UsageError
from mcuprune.immutable import immutable

#: What an option says that leaves the choice to the network and the data.
AUTO = "auto"
_KEY = "option"
#: How a message names what an option takes.
_TAKES: Mapping[tuple[type, bool], str] = {
    (bool, False): "true or false",
    (str, False): "a string",
    (int, False): "a whole number",
    (float, False): "a number",
    (str, True): "a list of strings",
}
#: Numbers of other libraries count as well.
_NUMBERS: Mapping[type, type] = {int: numbers.Integral, float: numbers.Real}


@immutable
class Option:
    """One option: what is said where its field is declared, and what the field says itself.

    help: one line for the person who types it. group: the heading that it stands under. metavar: what stands for its value.
    key: its name in the configuration, and the flag with two dashes before it; by default the field's name with - for _.
    short: another flag of one letter, such as ``-o``.
    positional: an argument, which is typed without a flag.
    least, most: the first and the last number that is taken. below: the first one that isn't. choices: the only values.
    parse: turns the text of the flag into the value; raises UsageError, which gets the flag's name.
    check: raises UsageError, naming the flag, for a value of which range and choices don't say enough.
    needs: what has to be there for it to have an effect: "training", the "gradients" that lead the widths, "scores" of
        channels, "data" that is read, or a "start" that depends on whether the model counts as trained.
    displaces: names of options that contradict it, or answer the same question: where it is typed, what a configuration or a
        repeated run says of those is not heard.
    in_config: whether ``[prune]`` of the configuration may set it. changes_run: whether another value may give other results.
    entries: of a field that is a mapping: one option for each key that it may have.

    name: of the field. kind: str, int, float or bool. repeated: whether the value is a sequence of them. default: of the field;
    required: whether it has none.
    """

    help: str
    group: str = "Options"
    metavar: str | None = None
    key: str = ""
    short: str | None = None
    positional: bool = False
    least: float | None = None
    most: float | None = None
    below: float | None = None
    choices: tuple[Any, ...] = ()
    parse: Callable[[str], Any] | None = None
    check: Callable[[Any], object] | None = None
    needs: Literal["", "training", "gradients", "scores", "data", "start"] = ""
    displaces: tuple[str, ...] = ()
    in_config: bool = True
    changes_run: bool = True
    entries: Mapping[str, Option] = field(default_factory=dict)
    name: str = ""
    kind: type = str
    repeated: bool = False
    default: Any = None
    required: bool = False

    @property
    def flag(self) -> str:
        """The option as one types it."""
        return f"--{self.key}"

    @property
    def switches_off(self) -> bool:
        """Whether giving the flag makes a bool false: it is true by default (``--no-train`` for ``train``)."""
        return self.kind is bool and self.default is True

    @property
    def opposite(self) -> str:
        """The flag that takes a bool back, whatever a configuration or a repeated run says: ``--no-float``, ``--train``."""
        return f"--{self.key.removeprefix('no-')}" if self.key.startswith("no-") else f"--no-{self.key}"

    def typed(self, value: Any) -> str:
        """The flag that one types for a value: of a bool, itself or its opposite."""
        return self.opposite if self.kind is bool and value == self.switches_off else self.flag

    @property
    def spellings(self) -> list[str]:
        """Its flags: the long one, with its opposite after a stroke where it has one, and the short one."""
        long = f"{self.flag}/{self.opposite}" if self.kind is bool else self.flag
        return [long] if self.short is None else [long, self.short]

    @property
    def placeholder(self) -> str:
        """What stands for its value after the flag."""
        return self.metavar or "|".join(map(str, self.choices))

    def range(self, shown: float = math.inf) -> str:
        """The numbers that it takes, in words: bounds that lie below ``shown``."""
        bounds = (("from", self.least), ("to", self.most), ("to below", self.below))
        return " ".join(f"{word} {at}" for word, at in bounds if at is not None and at < shown)

    @property
    def takes(self) -> str:
        """What values it takes, as the end of a sentence."""
        return f"{_TAKES[self.kind, self.repeated]} {self.range()}".rstrip()

    def of_words(self, words: Any) -> Any:
        """The value of what was typed: a str, of a bool whether it was the flag or its opposite, of a repeatable one a list.

        Raises UsageError, naming the flag.
        """
        if self.parse is not None:
            return self._parsed(words, self.flag)
        if self.kind is bool:
            return bool(words) != self.switches_off
        value = tuple(words) if self.repeated else _number(self.kind, words)
        self.refuse(value)
        return value

    def of_setting(self, value: Any, source: str) -> Any:
        """The value of a setting in a file, as TOML gives it. Raises UsageError, naming ``source`` and the key."""
        if refusal := self._refusal(value):
            raise UsageError(f"{source}: {self.key} = {value!r} {refusal}")
        if self.parse is not None:
            return self._parsed(value, f"{source}: {self.key}")
        if self.repeated:
            return tuple(value)
        return value != self.switches_off if self.kind is bool else self.kind(value)

    def _parsed(self, text: str, place: str) -> Any:
        assert self.parse is not None
        try:
            return self.parse(text)
        except UsageError as error:
            raise UsageError(f"{place}: {error}") from None

    def refuse(self, value: Any) -> None:
        """Raise UsageError, naming the flag, for a value that the option doesn't take."""
        if not (refusal := self._refusal(value)):
            return
        if not self.choices or self._is_quoted(value):
            raise UsageError(f"invalid value for '{self.flag}': {value!r} {refusal}")
        if self.kind is str:
            raise UsageError(f"{self.flag}: {value!r} {refusal}")
        raise UsageError(f"{self.flag} {value}: choose one of {', '.join(map(str, self.choices))}")

    def _refusal(self, value: Any) -> str | None:
        """What follows on the value in a message about one that isn't taken, None for one that is."""
        if self._is_quoted(value):
            return f"is a string, where {self.takes} is wanted; write it without quotes"
        if self.choices and self.kind in _NUMBERS and isinstance(value, str):
            return f"is a string, where {self.takes} is wanted; there are {', '.join(map(str, self.choices))}"
        if self.choices and value not in self.choices:
            return f"is not known; {nearest(str(value), map(str, self.choices))}"
        if self.repeated:
            fits = isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)
        elif isinstance(value, bool):
            fits = self.kind is bool
        else:
            fits = isinstance(value, _NUMBERS.get(self.kind, self.kind)) and self._in_range(value)
        return None if fits else f"is not {self.takes}"

    def _is_quoted(self, value: Any) -> bool:
        """Whether a text is a number that would be taken if it weren't a text."""
        if not isinstance(value, str) or self.kind not in _NUMBERS or self.repeated:
            return False
        return not isinstance(number := _number(self.kind, value), str) and self._refusal(number) is None

    def _in_range(self, value: Any) -> bool:
        return (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )


def _number(kind: type, text: str) -> Any:
    """A typed number in ASCII as a value of its kind; the text itself where it is none, which no number's range holds."""
    if kind is int and re.fullmatch(r"[+-]?[0-9]{1,20}", text, re.ASCII):
        return int(text)
    if kind is float and text.isascii() and "_" not in text:
        try:
            return float(text)
        except ValueError:
            return text
    return text


# ------------------------------------------------------------------------------------------------------------ declaring one


def option(default: Any = MISSING, *, help: str, **facts: Any) -> Any:
    """A field of a dataclass that is an option. facts: attributes of ``Option``.

    default: of the field. A field without one has to be given by whoever makes the object, yet never on the command line.
    """
    return field(default=default, metadata={_KEY: Option(help, **facts)})


def argument(metavar: str, *, default: Any = MISSING, help: str = "") -> Any:
    """A field of a dataclass that is an argument: what is typed without a flag. Without a default it has to be there."""
    return field(default=default, metadata={_KEY: Option(help=help, metavar=metavar, positional=True, in_config=False)})


def flags_of(entries: Mapping[str, Any]) -> Any:
    """A field that is a mapping with one option for each entry, of those that were given. entries: what ``option`` made."""
    options = {
        name: replace(declared.metadata[_KEY], name=name, key=name, in_config=False) for name, declared in entries.items()
    }
    whole = Option(help="", in_config=False, entries=options)
    return field(default_factory=dict, metadata={_KEY: whole})


def unasked(default: Any, *, changes_run: bool) -> Any:
    """A field that no flag sets. changes_run: whether another value may give other results."""
    return field(default=default, metadata={"changes_run": changes_run})


def without(kind: type, *names: str) -> type:
    """A dataclass with the options of another but those of some names, for a command that settles these itself."""
    hints = get_type_hints(kind)
    kept = [member for member in _declared(kind) if member.name not in names]
    members = [(member.name, hints[member.name], field(default=member.default, metadata=member.metadata)) for member in kept]
    return dataclasses.make_dataclass(f"{kind.__name__}Without", members, frozen=True, kw_only=True)


# ----------------------------------------------------------------------------------------------------------- reading them


def of(kind: type) -> tuple[Option, ...]:
    """The options of a dataclass in the order of its fields, with what each field says itself: name, type and default."""
    hints = get_type_hints(kind)
    return tuple(_named(member, hints[member.name]) for member in _declared(kind))


def _declared(kind: type) -> list[dataclasses.Field[Any]]:
    """The fields of a dataclass that are options."""
    return [member for member in dataclasses.fields(kind) if isinstance(member.metadata.get(_KEY), Option)]


def of_name(kind: type, name: str) -> Option:
    """The option of a dataclass whose field has this name."""
    return next(option for option in of(kind) if option.name == name)


def each(kind: type) -> Iterator[Option]:
    """The options of a dataclass that have flags, or are arguments: a field that is a mapping has one for each entry."""
    for option in of(kind):
        yield from option.entries.values() or [option]


def _named(member: dataclasses.Field[Any], hint: Any) -> Option:
    declared: Option = member.metadata[_KEY]
    key = declared.key or member.name.replace("_", "-")
    required = member.default is MISSING and member.default_factory is MISSING
    default = None if member.default is MISSING else member.default
    known = replace(declared, name=member.name, key=key, default=default, required=required)
    if declared.entries or declared.parse:
        return known
    is_union = get_origin(hint) in (Union, types.UnionType)
    kind, *_ = (kind for kind in get_args(hint) if kind is not types.NoneType) if is_union else (hint,)
    if get_origin(kind) is Literal:
        return replace(known, choices=declared.choices or get_args(kind))
    origin = get_origin(kind)
    repeated = isinstance(origin, type) and issubclass(origin, Sequence)
    plain = get_args(kind)[0] if repeated else kind
    if (plain, repeated) not in _TAKES:
        raise TypeError(f"'{member.name}' is no option: nothing turns text into {hint}; give it a parse")
    return replace(known, kind=plain, repeated=repeated)


def keys(kind: type) -> dict[str, Option]:
    """The options of a dataclass that a configuration may set, by their keys."""
    return {option.key: option for option in of(kind) if option.in_config}


def settings(kind: type, table: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Fields of a dataclass from a table of a configuration. Raises UsageError for a value that an option wouldn't take.

    table: its keys are known to be among ``keys``, with _ for - or without.
    """
    known = {key.replace("-", "_"): option for key, option in keys(kind).items()}
    options = {key: known[key.replace("-", "_")] for key in table}
    return {options[key].name: options[key].of_setting(value, source) for key, value in table.items()}


def over(kind: type, typed: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a dataclass as they were typed, and what was ``said`` elsewhere of those about which nothing was.

    A switch that is typed as it is by default contradicts nothing: ``--train`` leaves what was said of the training.
    """
    switched = (option for option in of(kind) if option.name in typed)
    heard = (option for option in switched if option.kind is not bool or typed[option.name] != option.default)
    displaced = {name for option in heard for name in option.displaces}
    return {**{name: value for name, value in said.items() if name not in displaced}, **typed}


def check(asked: Any) -> None:
    """Raise UsageError, naming the flag, where an object's options have values that they don't take."""
    for option in of(type(asked)):
        value = getattr(asked, option.name)
        if value is None:
            continue
        if option.choices or option.kind in _NUMBERS or option.repeated or option.kind in (bool, str):
            option.refuse(value)
        if option.check is not None:
            option.check(value)


def plain(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a dataclass as the command line would have them: numbers of other libraries are Python's, paths are text.

    values: as a script gave them, by the names of fields. A value that an option doesn't take stays as it is.
    """
    as_typed = {}
    for option in of(kind):
        value = values.get(option.name)
        if isinstance(value, os.PathLike):
            as_typed[option.name] = os.fspath(value)
        elif option.kind in _NUMBERS and isinstance(value, _NUMBERS[option.kind]) and not isinstance(value, bool):
            as_typed[option.name] = option.kind(value)
    return as_typed


def course_of(asked: Any) -> tuple[tuple[str, Any], ...]:
    """Names and values of all fields on which the course of a run depends: options, and what no flag sets."""
    return tuple((member.name, getattr(asked, member.name)) for member in dataclasses.fields(asked) if _changes_run(member))


def _changes_run(member: dataclasses.Field[Any]) -> bool:
    option = member.metadata.get(_KEY)
    return bool(option.changes_run if option else member.metadata.get("changes_run", True))


def document(asked: Any) -> dict[str, Any]:
    """The options on which the course of a run depends, by the names of their fields, as JSON values."""
    values = {option.name: getattr(asked, option.name) for option in of(type(asked)) if option.changes_run}
    return {name: list(value) if isinstance(value, (tuple, list)) else value for name, value in values.items()}


def without_effect(asked: Any, *needs: str) -> list[Option]:
    """Those options that need what isn't there and were set to something else than by default."""
    return [option for option in of(type(asked)) if option.needs in needs and getattr(asked, option.name) != option.default]


def words(kind: type, values: Mapping[str, Any]) -> list[str]:
    """What to type for these values of a dataclass's options. values: by the names of fields; of others nothing is said."""
    typed: list[str] = []
    for option in of(kind):
        value = values.get(option.name)
        if value is None:
            continue
        if option.kind is bool:
            typed += [option.typed(value)]
        else:
            for item in value if option.repeated else [value]:
                typed += [option.flag, f"{item}"]
    return typed


def nearest(word: str, known: Iterable[str]) -> str:
    """A closing for messages about an unknown word: the word that may have been meant, or all of them."""
    known = list(known)
    close = difflib.get_close_matches(word, known, 1)
    return f"did you mean '{close[0]}'?" if close else f"there are {', '.join(known)}"
