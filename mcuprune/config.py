"""``mcuprune.toml``, or the same keys under ``[tool.mcuprune]`` in ``pyproject.toml``: what ``check`` has to hold.

    budget = { sram = "64KB", flash = "256KB" }     # of every model
    max-growth = "2%"

    [[model]]
    path = "models/*.onnx"                          # relative to this file
    budget = { sram = "16KB" }                      # of this model; its flash is held to the limit above

    [prune]
    data = "digits"                                 # long flags of `mcuprune prune`, without the dashes

The nearest file upwards from the current folder counts, no other is read. Its values are defaults: a model's own keys go
before those at the top, and a flag goes before both. A key that nothing reads is an error, never ignored.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import field, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args

from mcuprune.costs.resources import RESOURCES, Basis, FlashModel, SramModel
from mcuprune.deploy.boards import board, board_budget
from mcuprune.deploy.codesize import Runtime
from mcuprune.errors import UsageError, cause
from mcuprune.graph.network import Shape
from mcuprune.immutable import immutable
from mcuprune.options import nearest
from mcuprune.units import Limit, parse

SRAM_MODELS: tuple[SramModel, ...] = get_args(SramModel)
FLASH_MODELS: tuple[FlashModel, ...] = get_args(FlashModel)
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
#: Of a configuration file: a pyproject.toml is a hundredth of it.
_MAX_BYTES = 2**22
_DEEPEST = 100


@immutable
class Wanted:
    """What one model has to hold; None and empty mean that nobody said.

    limits: by resource, those of the ``board`` included. max_growth: a share of what the model ``against`` costs.
    outputs: tensors at which the network ends, instead of the file's outputs.
    """

    limits: Mapping[str, Limit] = field(default_factory=dict)
    board: str | None = None
    sram_model: SramModel | None = None
    flash_model: FlashModel | None = None
    runtime: Runtime | None = None
    against: str | None = None
    max_growth: Fraction | None = None
    input_shapes: Mapping[str, Shape] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()

    @property
    def gate(self) -> Basis:
        """What limits are held against: what was asked for; on a board, what its runtime needs; else the peak and constants.

        Generated C needs the peak and no more.
        """
        runtime = self.runtime or "tflm"
        on_board: SramModel = "peak" if runtime == "c" else "tflm"
        return Basis(
            self.sram_model or (on_board if self.board else "peak"),
            self.flash_model or ("image" if self.board else "paper"),
            runtime,
            self.board,
        )

    def over(self, base: Wanted) -> Wanted:
        """These wishes, and those of ``base`` where there are none; of limits and of shapes, one by one."""
        own = {member.name: getattr(self, member.name) for member in fields(self)}
        said = {name: value for name, value in own.items() if value not in (None, ())}
        both = {name: {**getattr(base, name), **value} for name, value in said.items() if isinstance(value, Mapping)}
        return replace(base, **{**said, **both})


@immutable
class Config:
    """A configuration file as it was read, or the empty one.

    source: the file. models: (path, what it wants over ``common``), globs resolved, in the file's order; each file once, with
    what all tables that match it say, later ones before earlier.
    prune: defaults of ``mcuprune prune``, by the names of its flags.
    """

    source: Path | None = None
    common: Wanted = field(default_factory=Wanted)
    models: tuple[tuple[str, Wanted], ...] = ()
    prune: Mapping[str, Any] = field(default_factory=dict)

    def wanted(self, path: str) -> Wanted:
        """What the file says about a model that is named on the command line."""
        return self.own(path).over(self.common)

    def own(self, path: str) -> Wanted:
        """What tables of this model say, without what holds for every model."""
        return next((own for other, own in self.models if os.path.abspath(other) == os.path.abspath(path)), Wanted())


def find(start: Path, prune_keys: Iterable[str]) -> Config:
    """The configuration that holds in folder ``start``. Raises UsageError for one that can't be understood."""
    for folder in (start, *start.parents):
        own, project = folder / "mcuprune.toml", folder / "pyproject.toml"
        if os.path.isfile(own):
            return load(own, prune_keys)
        if os.path.isfile(project) and b"mcuprune" in _content(project) and _section(project) is not None:
            return load(project, prune_keys)
    return Config()


def load(source: Path, prune_keys: Iterable[str]) -> Config:
    """Read one file. ``prune_keys`` are those of ``[prune]``. Raises UsageError, naming the file and the key."""
    document = _section(source) or {} if source.name == "pyproject.toml" else _toml(source)
    read = _Reader(source)
    read.known(document, "", [*_COMMON, "model", "prune"])
    common = read.wanted({key: value for key, value in document.items() if key in _COMMON}, "")
    models: dict[str, tuple[str, Wanted]] = {}
    entries = document.get("model", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UsageError(f"{source}: 'model' must be a list of tables; write [[model]]")
    for number, entry in enumerate(entries, 1):
        place = f"model {number}: "
        read.known(entry, place, ["path", *_COMMON])
        wanted = read.wanted({key: value for key, value in entry.items() if key != "path"}, place)
        for path in read.paths(entry.get("path"), place):
            first, earlier = models.get(os.path.abspath(path), (path, Wanted()))
            models[os.path.abspath(path)] = first, wanted.over(earlier)
    prune = read.table(document.get("prune", {}), "prune")
    if prune:
        read.known(prune, "prune: ", prune_keys)
    return Config(source, common, tuple(models.values()), {key.replace("-", "_"): value for key, value in prune.items()})


def _section(project: Path) -> dict[str, Any] | None:
    """``[tool.mcuprune]`` of a pyproject.toml, None where there is none."""
    read = _Reader(project)
    section = read.table(_toml(project).get("tool", {}), "tool").get("mcuprune")
    return None if section is None else read.table(section, "tool.mcuprune")


def _content(source: Path) -> bytes:
    try:
        with open(source, "rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UsageError(f"{source}: can't be read ({cause(error)}); name a file that is there and may be read") from None
    if len(content) > _MAX_BYTES:
        raise UsageError(f"{source}: more than {_MAX_BYTES} bytes; no configuration is as long")
    return content


def _toml(source: Path) -> dict[str, Any]:
    """A TOML document, with whole numbers of 64 bits at most, as the format has them."""
    import tomllib  # only those who have a configuration file pay for it

    try:
        document = tomllib.loads(_content(source).decode())
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
        raise UsageError(f"{source}: not valid TOML ({error})") from None
    except RecursionError:
        raise UsageError(f"{source}: not valid TOML (nested too deeply)") from None
    waiting: list[tuple[int, Any]] = [(0, document)]
    while waiting:
        depth, value = waiting.pop()
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise UsageError(f"{source}: not valid TOML (a whole number of more than 64 bits)")
        if depth > _DEEPEST:  # whatever shows such a value would recurse as deeply
            raise UsageError(f"{source}: nested more than {_DEEPEST} deep; no key of a configuration is")
        inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        waiting += [(depth + 1, part) for part in inside]
    return document


def growth(text: str) -> Fraction:
    """``"2%"`` as a share; 0 is a share too."""
    share = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,18})?)\s*%\s*", text, re.ASCII)
    if not share:
        raise UsageError(f"{text!r} is not a share; write it like 2% or 0%")
    return Fraction(share[1]) / 100


def input_shape(text: str) -> Shape:
    """``"1,3,96,96"`` as a shape."""
    if not re.fullmatch(r"\s*\d{1,18}\s*(,\s*\d{1,18}\s*)*", text, re.ASCII) or any(int(size) < 1 for size in text.split(",")):
        raise UsageError(f"{text!r} is not a shape; write it like 1,3,96,96")
    return tuple(int(size) for size in text.split(","))


class _Reader:
    """Values of one file, with messages that name the file and the key."""

    def __init__(self, source: Path) -> None:
        self._source = source

    def known(self, table: Mapping[str, Any], place: str, keys: Iterable[str]) -> None:
        keys = list(keys)
        for key in table:
            if key not in keys:
                raise UsageError(f"{self._source}: {place}unknown key '{key}'; {nearest(key, keys)}")

    def table(self, value: Any, key: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise UsageError(f"{self._source}: '{key}' must be a table")
        return value

    def wanted(self, table: Mapping[str, Any], place: str) -> Wanted:
        wanted = Wanted()
        for key, value in table.items():
            try:
                wanted = replace(wanted, **_COMMON[key](self, value))
            except UsageError as error:
                message = str(error)
                mine = message.startswith(f"{self._source}: ")
                raise UsageError(message if mine else f"{self._source}: {place}{key}: {message}") from None
        return replace(wanted, limits={**board_budget(wanted.board), **wanted.limits}) if wanted.board else wanted

    def text(self, value: Any) -> str:
        if not isinstance(value, str):
            raise UsageError(f"{value!r} is not a string")
        return value

    def limits(self, value: Any) -> dict[str, Any]:
        table = self.table(value, "budget")
        self.known(table, "budget: ", RESOURCES)
        for name, limit in table.items():
            if isinstance(limit, bool) or not isinstance(limit, (str, int)):
                raise UsageError(f"{name} = {limit!r} is neither a string nor a whole number")
        return {"limits": {name: self._limit(name, str(limit)) for name, limit in table.items()}}

    def _limit(self, name: str, text: str) -> Limit:
        try:
            return parse(text, RESOURCES[name].unit)
        except UsageError as error:
            raise UsageError(f"{name}: {error}") from None

    def one_of(self, value: Any, known: Iterable[str]) -> str:
        if value not in known:
            raise UsageError(f"{value!r} is not known; {nearest(str(value), known)}")
        return str(value)

    def against(self, value: Any) -> dict[str, Any]:
        return {"against": _shown(self._source.parent / self.text(value))}

    def input_shapes(self, value: Any) -> dict[str, Any]:
        table = self.table(value, "input-shape")
        shapes = {}
        for name, shape in table.items():
            written = ",".join(map(str, shape)) if isinstance(shape, list) else self.text(shape)
            shapes[name] = input_shape(written)
        return {"input_shapes": shapes}

    def outputs(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise UsageError(f'{value!r} is not a list of names; write outputs = ["boxes", "scores"]')
        return {"outputs": tuple(value)}

    def paths(self, value: Any, place: str) -> list[str]:
        """The files that a ``path`` names. Raises UsageError where there are none: a lost model must not pass a check."""
        if not isinstance(value, str):
            raise UsageError(f'{self._source}: {place}needs a path, such as path = "models/*.onnx"')
        import glob

        pattern = str(self._source.parent / value)
        try:
            paths = [pattern] if os.path.isfile(pattern) else sorted(glob.glob(pattern, recursive=True))
        except (OSError, ValueError, RecursionError):  # a zero byte, or far too long
            paths = []
        if not paths:
            raise UsageError(f"{self._source}: {place}no file matches path '{value}'")
        return [_shown(Path(path)) for path in paths]


def _shown(path: Path) -> str:
    """A path as one would type it from the current folder."""
    here = os.path.relpath(path)
    return str(path) if here.startswith("..") else here


#: Keys at the top and of a model, and what reads them.
_COMMON: Mapping[str, Any] = {
    "budget": _Reader.limits,
    "board": lambda read, value: {"board": board(read.text(value)).name},
    "sram-model": lambda read, value: {"sram_model": read.one_of(value, SRAM_MODELS)},
    "flash-model": lambda read, value: {"flash_model": read.one_of(value, FLASH_MODELS)},
    "runtime": lambda read, value: {"runtime": read.one_of(value, RUNTIMES)},
    "against": _Reader.against,
    "max-growth": lambda read, value: {"max_growth": growth(read.text(value))},
    "input-shape": _Reader.input_shapes,
    "outputs": _Reader.outputs,
}
