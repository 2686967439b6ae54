"""Flags that several commands have, as dataclasses to build a command's own from, and what becomes of their values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from mcuprune import config, console, options, units
from mcuprune.config import Wanted
from mcuprune.costs.resources import RESOURCES, FlashModel, SramModel
from mcuprune.deploy.boards import board_budget
from mcuprune.deploy.codesize import Runtime
from mcuprune.errors import UsageError, cause
from mcuprune.graph.network import Shape
from mcuprune.immutable import immutable
from mcuprune.options import argument, flags_of, option
from mcuprune.report import profile as report

_RUNTIME: Any = option(None, help="Whose code and speed are counted; tflm, with CMSIS-NN, by default.", group="Limits")


@immutable(kw_only=True)
class Run:
    """The runtime that a profile is made for."""

    runtime: Runtime | None = _RUNTIME


@immutable(kw_only=True)
class OneModel:
    """The argument of a command about one model."""

    model: str = argument("MODEL.onnx", help="The model.")


@immutable(kw_only=True)
class Models:
    """The arguments of a command about several models."""

    models: Sequence[str] = argument("MODEL.onnx", default=(), help="Models; else those of the configuration.")


@immutable(kw_only=True)
class Limited:
    """Limits: one flag for each resource, or a board."""

    limits: Mapping[str, units.Limit] = flags_of(
        {
            name: option(
                help=f"{resource.meaning[0].upper()}{resource.meaning[1:]}.",
                group="Limits",
                metavar=resource.metavar,
                parse=partial(units.parse, unit=resource.unit),
            )
            for name, resource in RESOURCES.items()
        }
    )
    board: str | None = option(
        None,
        help="A board's SRAM, for the runtime's arena, and flash, for the image, as limits; see `mcuprune boards`.",
        group="Limits",
        metavar="NAME",
    )
    sram_model: SramModel | None = option(
        None,
        help="What --sram limits: the peak of activations (without --board, or with --runtime c), TFLM's arena (on a board), "
        "or the largest operator's inputs and outputs.",
        group="Limits",
    )
    flash_model: FlashModel | None = option(
        None,
        help="What --flash limits: constants as the paper counts them (without --board), the file that export writes, or that "
        "and the runtime's code (with --board).",
        group="Limits",
    )
    runtime: Runtime | None = _RUNTIME


def several(text: str, read: Callable[[str], object] = str) -> tuple[str, ...]:
    """Values with commas between them, as they were typed; ``read`` refuses one that makes no sense."""
    values = tuple(part.strip() for part in text.split(","))
    if not any(values):
        raise UsageError(f"{text!r} names no value")
    if not all(values):
        raise UsageError(f"{text!r} has an empty value; write values with one comma between two")
    for value in values:
        read(value)
    return values


@immutable(kw_only=True)
class ManyLimited:
    """Several limits of each resource, with commas between them, or a board; kept as they were typed."""

    limits: Mapping[str, Sequence[str]] = flags_of(
        {
            name: option(
                help=f"{resource.meaning[0].upper()}{resource.meaning[1:]}; several, with commas.",
                group="Limits",
                metavar=f"{resource.metavar},...",
                parse=partial(several, read=partial(units.parse, unit=resource.unit)),
            )
            for name, resource in RESOURCES.items()
        }
    )
    board: str | None = option(None, help="A board's SRAM and flash as limits.", group="Limits", metavar="NAME")
    sram_model: SramModel | None = option(None, help="What --sram limits, as for prune.", group="Limits")
    flash_model: FlashModel | None = option(None, help="What --flash limits, as for prune.", group="Limits")
    runtime: Runtime | None = option(None, help="Whose code and speed are counted, as for prune.", group="Limits")


@immutable(kw_only=True)
class Compared:
    """What a model is compared with."""

    against: str | None = option(None, help="What the model was: show changes from it.", group="Model", metavar="OLD.onnx")


@immutable(kw_only=True)
class Shaped:
    """What of a file's network is read."""

    input_shape: Sequence[str] = option(
        (), help="Fix an input's free dimensions; repeatable.", group="Model", metavar="NAME=1,3,96,96"
    )
    outputs: Sequence[str] = option(
        (),
        help="End the network at these tensors: cuts a detector's tail off.",
        group="Model",
        metavar="NAME,...",
    )


@immutable(kw_only=True)
class Reported:
    """Where the report of ``profile`` and ``check`` goes."""

    rows: int = option(20, help="Rows to show, the rest folded; 0 for all.", group="Output", short="-n", metavar="N", least=0)
    format: Sequence[str] = option(
        (),
        help=f"{', '.join(report.FORMATS)}; repeatable with a FILE.",
        group="Output",
        metavar="FORMAT[=FILE]",
    )


@immutable(kw_only=True)
class TextOrJson:
    """The answer as a text or as JSON, on stdout."""

    format: Literal["text", "json"] = option("text", help="How the answer is written.", group="Output")


@immutable(kw_only=True)
class Spoken:
    """What a command reads and says besides."""

    config: str | None = option(None, help="Instead of the nearest mcuprune.toml or pyproject.toml.", metavar="FILE")
    quiet: bool = option(False, help="No text where all is well.", short="-q")
    verbose: bool = option(False, help="Say on stderr which configuration is read.", short="-v")
    no_color: bool | None = option(None, help="No colours, as with NO_COLOR in the environment.")


@contextmanager
def of_flag(flag: str) -> Iterator[None]:
    """Name the flag in whatever its value is refused for."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{flag}: {error}") from None


def board_limits(board: str | None) -> Mapping[str, units.Limit]:
    """The limits of a board by its name. Raises UsageError for one that nobody knows."""
    if board is None:
        return {}
    with of_flag("--board"):
        return board_budget(board)


def shapes(texts: Sequence[str]) -> dict[str, Shape]:
    """Shapes by the names of inputs. Raises UsageError for text that isn't like ``x=1,3,96,96``."""
    by_name: dict[str, Shape] = {}
    for text in texts:
        name, equals, shape = text.rpartition("=")
        with of_flag("--input-shape"):
            if not equals or not name:
                raise UsageError(f"{text!r} names no input; write it like NAME=1,3,96,96")
            by_name[name] = config.input_shape(shape)
    return by_name


def wanted(flags: Shaped, limits: Mapping[str, units.Limit] = MappingProxyType({})) -> Wanted:
    """What flags say of a model: how it is read, and what it is held against, in the fields that they share with ``Wanted``.

    limits: those that were given, which go before those of the board. Raises UsageError for a board that nobody knows.
    """
    shared = {member.name for member in fields(Wanted)} & {member.name for member in fields(flags)} - {"limits", "outputs"}
    said = {name: getattr(flags, name) for name in shared}
    return Wanted(
        limits={**board_limits(said.get("board")), **limits},
        input_shapes=shapes(flags.input_shape),
        outputs=tuple(flags.outputs),
        **said,
    )


def refuse_idle(said: Wanted, held: Sequence[Wanted], place: str = "") -> None:
    """Raise UsageError where ``said`` gives meanings to limits that no model has: who lost one would believe that it holds.

    held: all that models have to hold, what is said included. place: the configuration's table that says it; flags do else.
    """
    if not any(wanted.limits or wanted.max_growth is not None for wanted in held):
        return  # which is the greater mistake
    limited = {name for wanted in held for name in wanted.limits}
    mark = "" if place else "--"
    for name, word in (("sram", said.sram_model), ("flash", said.flash_model)):
        if word is not None and name not in limited:
            raise UsageError(
                f"{place}{mark}{name}-model {word}: says what a limit of {name} means, and there is none: add {mark}{name}, or "
                f"leave {mark}{name}-model out"
            )


def words(wanted: Wanted) -> list[str]:
    """The flags that ``wanted`` takes for the same reading of a model and the same meaning of its limits."""
    typed = [f"--input-shape={name}={','.join(map(str, shape))}" for name, shape in wanted.input_shapes.items()]
    typed += [f"--outputs={name}" for name in wanted.outputs]
    basis = wanted.gate
    typed += ["--sram-model", basis.sram, "--flash-model", basis.flash, "--runtime", basis.runtime]
    return typed if basis.board is None else [*typed, "--board", basis.board]  # time is counted on it


def run_settings(settings: config.Config, asked: Mapping[str, Any], own: Sequence[str]) -> dict[str, Any]:
    """Fields of a prune's ``Request`` that flags and ``[prune]`` of the configuration set.

    asked: those of flags. own: fields that the command settles by itself, which the configuration doesn't set.
    """
    from mcuprune.train.request import Request

    by_file = options.settings(Request, settings.prune, f"{settings.source}: prune")
    return options.over(Request, asked, {name: value for name, value in by_file.items() if name not in own})


def current_folder() -> Path:
    """The current folder. Raises UsageError where it has been deleted: no relative path means anything there."""
    try:
        return Path.cwd()
    except OSError as error:
        raise UsageError(f"the current folder can't be entered ({cause(error)}); change to one that exists") from None


def configuration(flags: Spoken) -> config.Config:
    """The configuration that is named, or that holds in the current folder. Raises UsageError for one of no sense."""
    keys = _prune_keys()
    settings = config.load(_named(flags.config), keys) if flags.config is not None else config.find(current_folder(), keys)
    if flags.verbose:
        console.say(f"configuration: {settings.source or 'none found'}")
    return settings


def _named(path: str) -> Path:
    if not path:
        raise UsageError("--config: names no file; name one, or leave it out")
    return Path(path)


def _prune_keys() -> Iterator[str]:
    """Keys of ``[prune]``. What has them is imported only for a configuration that has such a table."""
    from mcuprune.train.request import Request

    yield from options.keys(Request)
