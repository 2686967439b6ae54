"""Commands out of dataclasses: fields that are options (``mcuprune.options``) -> flags -> values.

    @immutable(kw_only=True)
    class Flags(OneModel):
        rows: int = option(20, short="-n", metavar="N", least=0, help="Rows to show.")

    @command(Flags)
    def count(flags: Flags) -> int:
        "What the help says of the command."

typer finds the words of each flag, writes the help and picks the command. What the words mean is settled by the fields alone,
the same way for a flag, for a key of the configuration and for Python; so typer's own conversion is not used, for which it
would import pydantic, a fifth of the start.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand

from mcuprune import options
from mcuprune.errors import UsageError
from mcuprune.options import Option

#: Headings of the help in their order; others come after them, and what belongs to every command last.
GROUPS = ("Limits", "Model", "Data", "Training", "Pruning", "Output", "Ablations")
#: No bound from here on is worth a word in the help: who meets one reads it in a message.
_BEYOND_HELP = 2**31 - 1

_Function = TypeVar("_Function", bound=Callable[..., int])


def command(flags: type, asks: type | None = None) -> Callable[[_Function], _Function]:
    """Make a function the command of its name.

    flags: the dataclass of its options; the function gets an object of it. asks: another dataclass whose options are flags of
    the command too; of these the function gets, as ``asked``, only what was given, by the names of the fields.
    """

    def declared(function: _Function) -> _Function:
        function.reads = (flags, *([] if asks is None else [asks]))  # type: ignore[attr-defined]
        return function

    return declared


def build(function: Callable[..., int]) -> TyperCommand:
    """What typer calls the command: of a function that ``command`` has made one."""
    classes: tuple[type, ...] = function.reads  # type: ignore[attr-defined]
    every = [option for kind in classes for option in options.each(kind)]

    def run(**words: Any) -> int:
        _need(function.__name__, every, {option.name for option in options.each(classes[0])}, words)
        values = [_values(options.of(kind), words) for kind in classes]
        given = {"asked": values[1]} if len(values) > 1 else {}
        return function(classes[0](**values[0]), **given)

    run.__doc__ = function.__doc__
    parameters = [
        inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=_absent(option), annotation=_annotation(option))
        for option in sorted(every, key=lambda option: not option.positional)
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(function.__name__, cls=_Command)(run)
    built = typer.main.get_command(app)
    assert isinstance(built, _Command)
    built.options = every
    return built


class PlainHelp:
    """Of a command or group: its --help is false where it isn't given. typer would import pydantic to make None false."""

    def get_help_option(self, ctx: Any) -> Any:
        """The option of typer that shows the help."""
        option = super().get_help_option(ctx)  # type: ignore[misc]
        if option is not None:
            option.default = False
        return option


class _Command(PlainHelp, TyperCommand):
    """A command that leaves words as they were typed, and whose help has headings. options: those it was built of."""

    options: Sequence[Option] = ()

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Store the words of each option, as ``_typed`` has them; only --help, which ends the command, is typer's."""
        words, rest, _ = self.make_parser(ctx).parse_args(args=[*args])
        own = {option.name: option for option in self.options}
        for parameter in self.get_params(ctx):
            if option := own.get(parameter.name or ""):
                ctx.params[option.name] = _typed(option, words.get(option.name))
            else:
                parameter.handle_parse_result(ctx, words, rest)
        if rest:
            ctx.fail(f"Got unexpected extra argument(s) ({' '.join(rest)})")
        ctx.args = rest
        return rest

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, and then options under the headings of their groups."""
        if arguments := [(option.metavar, option.help) for option in self.options if option.positional]:
            with formatter.section("Arguments"):
                formatter.write_dl(arguments)
        grouped: dict[str, list[Any]] = {name: [] for name in GROUPS}
        last: list[Any] = []
        for parameter in self.get_params(ctx):
            if parameter.param_type_name == "option" and (record := parameter.get_help_record(ctx)):
                group = getattr(parameter, "rich_help_panel", None)
                (last if group in (None, "Options") else grouped.setdefault(group, [])).append(record)
        for name, records in [*grouped.items(), ("Options", last)]:
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)


def _typed(option: Option, words: Any) -> Any:
    """What was typed for an option; None or no words where nothing was, which each release of the parser says in its way."""
    if option.repeated:
        return [*words] if isinstance(words, (list, tuple)) else []
    return words if isinstance(words, (str, bool)) else None


def _values(kinds: Sequence[Option], words: Mapping[str, Any]) -> dict[str, Any]:
    """Values of what was typed, by the names of fields. Raises UsageError for words that an option doesn't take."""
    values: dict[str, Any] = {}
    for option in kinds:
        if option.entries:
            values[option.name] = _values([*option.entries.values()], words)
        elif words[option.name] not in (None, []):
            values[option.name] = option.of_words(words[option.name])
    return values


def _need(name: str, every: Sequence[Option], own: Set[str], words: Mapping[str, Any]) -> None:
    """Raise UsageError for an argument, or an option of the command's own, that has no default and isn't there."""
    for option in every:
        if not option.required or option.entries or words[option.name] not in (None, []):
            continue
        if option.positional:
            raise UsageError(f"missing argument '{option.metavar}'; see mcuprune {name} --help")
        if option.name in own:  # of options that a command only hands on, what takes them knows better
            wanted = f"{option.spellings[0]} {option.placeholder}".rstrip()
            raise UsageError(f"missing option '{wanted}': {option.help} See mcuprune {name} --help")


def _absent(option: Option) -> Any:
    """What tells typer that a parameter need not be given; an argument without a default has to be."""
    if option.positional:
        return None if option.repeated or not option.required else inspect.Parameter.empty
    return None


def _annotation(option: Option) -> Any:
    """The type of an option as typer wants it, and what it is to show."""
    if option.positional:
        kind: Any = list[str] | None if option.repeated else str if option.required else str | None
        return Annotated[kind, typer.Argument(metavar=option.metavar, help=option.help, show_default=False)]
    kind = bool | None if option.kind is bool else list[str] | None if option.repeated else str | None
    shown = {"metavar": option.placeholder or None, "help": _help(option), "rich_help_panel": option.group}
    return Annotated[kind, typer.Option(*option.spellings, show_default=False, **shown)]  # type: ignore[arg-type]


def _help(option: Option) -> str:
    """The option's help, with its default and its range where they say something."""
    notes = []
    if option.default not in (None, ()) and option.kind is not bool:
        notes.append(f"default: {option.default}")
    notes += [option.range(_BEYOND_HELP)] if option.range(_BEYOND_HELP) else []
    return f"{option.help}  [{'; '.join(notes)}]" if notes else option.help
