"""The command line: arguments and configuration -> one call -> a report -> an exit code.

``main`` is the only place that catches what ends a command. Answers go to stdout, everything else to stderr. 0: the answer
is yes. 1: the answer is no. 2: there is no answer. 130: interrupted. A command is the function of its name in the module of its
name; its flags are the fields of a dataclass there (``parser``). A flag goes before the configuration file, that before what is
built in.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from mcuprune import __version__, console, places
from mcuprune.cli.flags import current_folder
from mcuprune.cli.outputs import show, write
from mcuprune.cli.parser import PlainHelp, build
from mcuprune.console import INTERRUPTED, NO_ANSWER, YES
from mcuprune.errors import McupruneError, UsageError
from mcuprune.graph import external
from mcuprune.options import nearest
from mcuprune.places import Output, Source
from mcuprune.report import profile as answers  # not as `report`: a command has that name in this package

#: In the order of the help. The module of a command is imported when somebody asks for that command.
COMMANDS = (
    *("profile", "check", "prune", "report", "export", "verify", "bands", "data", "portfolio", "sweep"),
    *("boards", "completion"),
)
_EXITS = "Exit codes: 0 the answer is yes, 1 it is no, 2 there is no answer, 130 interrupted."


class _Commands(MutableMapping[str, TyperCommand]):
    """The commands by their names, each built when it is asked for."""

    def __init__(self) -> None:
        self._built: dict[str, TyperCommand] = {}

    def __getitem__(self, name: str) -> TyperCommand:
        if name not in self._built:
            if name not in COMMANDS:
                raise KeyError(name)
            self._built[name] = build(getattr(import_module(f"mcuprune.cli.{name}"), name))
        return self._built[name]

    def __setitem__(self, name: str, command: TyperCommand) -> None:
        self._built[name] = command

    def __delitem__(self, name: str) -> None:
        del self._built[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class _Group(PlainHelp, TyperGroup):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands: MutableMapping[str, Any] = _Commands()

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the commands in the order of the help."""
        return [*COMMANDS]


app = typer.Typer(
    cls=_Group,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EXITS,
)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", "-V", help="Print the version.")] = False,
) -> int:
    """Make ONNX CNNs fit microcontrollers: see what they cost, check limits in CI, prune them while they train."""
    if version:
        show(f"mcuprune {__version__}\n")
        raise typer.Exit()
    if context.invoked_subcommand is None:
        raise UsageError(f"name a command: {', '.join(COMMANDS[:-1])} or {COMMANDS[-1]}; see mcuprune --help")
    return YES


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. A user's mistake is one message; a bug is NO_ANSWER with its traceback."""
    console.reserve_streams()
    args = [*(sys.argv[1:] if argv is None else argv)]
    with console.interruptible():
        try:
            code = _run(args)
        except McupruneError as error:
            code = _no_answer(type(error).__name__, str(error), args)
        except (KeyboardInterrupt, typer.Abort):
            console.say("interrupted")
            code = INTERRUPTED
        except BaseException as error:  # SystemExit too: nothing but a return may say yes or no
            if hasattr(error, "format_message"):  # of arguments that the parser can't understand; nothing else has that
                code = _no_answer("UsageError", _one_line(error), args)
            else:
                code = _no_answer(*console.bug(error), args, said=True)
        lost = console.finish()
    return code if lost is None else lost


def _run(args: list[str]) -> int:
    """Run what the arguments name. The parser's own ``main`` is not used: it makes a broken pipe a 1, which means no."""
    command = typer.main.get_command(app)
    try:
        with command.make_context("mcuprune", [*args]) as context:  # which empties the list
            code: object = command.invoke(context)
    except typer.Exit as ended:  # of --help and --version
        console.answer("")  # the parser has written help by itself, and nothing to a stream that is closed
        return int(ended.exit_code)
    except (OSError, ValueError) as error:
        if not {"-h", "--help"} & set(args):
            raise
        console.unwritable(error)
        return YES
    if not isinstance(code, int):
        raise TypeError(f"a command ended with {code!r}, which is no exit code")
    return code


def _no_answer(kind: str, message: str, args: Sequence[str], *, said: bool = False) -> int:
    """Say in every format that was asked for that there is no answer. said: whether stderr has it already."""
    formats = console.asked_formats(args)
    for file in sorted({file for name, file in formats if name == "json"}):
        with suppress(McupruneError):  # the file for the JSON may itself be what was wrong
            if file in ("", "-"):
                console.answer(console.json_error(kind, message))
            elif _may_hold_an_error(file, args):
                write(console.json_error(kind, message).encode(), file)
    if ("github", "") in formats or ("github", "-") in formats:
        with suppress(McupruneError):
            console.answer(answers.annotation("error", message, title="mcuprune") + "\n")
    if not said:
        console.say(message)
    return NO_ANSWER


def _may_hold_an_error(file: str, args: Sequence[str]) -> bool:
    """Whether an error may take the place of this file: of an earlier answer, but never of anything that the command reads.

    The command may have failed before it settled its places; so whatever might be read counts.
    """
    others = [arg for arg in args if arg.removeprefix("--format=").partition("=")[0] not in answers.FORMATS]
    named = [value for arg in others for value in (arg, arg.partition("=")[2]) if value]
    files = [Source("an argument", path) for value in named for path in (value, *external.files(value))]
    try:
        here = current_folder()
        names = ("mcuprune.toml", "pyproject.toml")
        files += [Source("a configuration", str(at / name)) for at in (here, *here.parents) for name in names]
        places.distinct([Output("--format", file, stream=True)], files)
        if not os.path.isfile(file):
            return True
        with open(file, encoding="utf-8") as earlier:
            content = earlier.read(2**16)
    except (McupruneError, OSError, ValueError):  # a file that is no text is no answer either
        return False
    return "\0" not in content and not file.lower().endswith((".toml", ".py", ".onnx", ".npz"))


def _one_line(error: Any) -> str:
    """A message of the argument parser, as ours are."""
    message = " ".join(error.format_message().split()).rstrip(".")
    option, close = getattr(error, "option_name", None), getattr(error, "possibilities", None)
    if option and close:  # each release of the parser has other words for what may have been meant
        message = f"no such option: {option}; {nearest(option, close)}"
    context = getattr(error, "ctx", None)
    return f"{message[:1].lower()}{message[1:]}; see {context.command_path if context else 'mcuprune'} --help"
