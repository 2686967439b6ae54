"""The command line: arguments and configuration -> one call -> a report -> an exit code.

``main`` is the only place that catches what ends a command. Answers go to stdout, everything else to stderr. 0: the answer
is yes. 1: the answer is no. 2: there is no answer. 130: interrupted. Flags of budgets come from the table of resources; a flag
goes before the configuration file, that before what is built in.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import OptionInfo

from mcuprune import (
    __version__,
    branches,
    config,
    console,
    external,
    face,
    network,
    places,
    report,
    resources,
    runtimes,
    tails,
    units,
)
from mcuprune.config import Wanted
from mcuprune.console import INTERRUPTED, NO, NO_ANSWER, YES
from mcuprune.errors import McupruneError, UsageError
from mcuprune.network import Shape
from mcuprune.places import Output, Source
from mcuprune.report import Answer, Device, Refused, Report, View
from mcuprune.resources import RESOURCES, SramModel

_EXITS = "Exit codes: 0 the answer is yes, 1 it is no, 2 there is no answer, 130 interrupted."


class _Strings:
    """What typer asks to turn an argument's words into a value. Strings need no turning; the rest is left to typer."""

    def __init__(self, parameter: Any) -> None:
        self._kind = parameter.type_descriptor.annotation

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        if self._kind in (str, list[str]) or not isinstance(value, str):
            return value
        param._runtime_param = None
        return param.get_runtime_param().coerce(value, param=param, ctx=ctx)


class _QuickStart:
    """Spares the import of pydantic, a fifth of the start, which newer typers do for the first value they turn."""

    def get_params(self, ctx: Any) -> list[Any]:
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            if getattr(parameter, "_runtime_param", self) is None:
                parameter._runtime_param = _Strings(parameter)
        return parameters


class _Group(_QuickStart, TyperGroup):
    pass


class _Command(_QuickStart, TyperCommand):
    pass


app = typer.Typer(
    cls=_Group,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EXITS,
)

#: What typer raises for arguments that it can't understand, whichever click it stands on.
_ClickException: type[Exception] = typer.BadParameter.__mro__[2]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. A user's mistake is one message; a bug is NO_ANSWER with its traceback."""
    console.reserve_streams()
    args = [*(sys.argv[1:] if argv is None else argv)]
    with console.interruptible():
        try:
            code = _run(args)
        except McupruneError as error:
            code = _no_answer(type(error).__name__, str(error), args)
        except _ClickException as error:
            code = _no_answer("UsageError", _one_line(error), args)
        except (KeyboardInterrupt, typer.Abort):
            console.say("interrupted")
            code = INTERRUPTED
        except BaseException as error:  # SystemExit too: nothing but a return may say yes or no
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
        with suppress(McupruneError):  # perhaps this place is the very mistake
            if file in ("", "-"):
                console.answer(console.json_error(kind, message))
            elif _may_hold_an_error(file, args):
                _write(console.json_error(kind, message).encode(), file)
    if ("github", "") in formats or ("github", "-") in formats:
        with suppress(McupruneError):
            console.answer(report.annotation("error", message, title="mcuprune") + "\n")
    if not said:
        console.say(message)
    return NO_ANSWER


def _may_hold_an_error(file: str, args: Sequence[str]) -> bool:
    """Whether an error may take the place of this file: of an earlier answer, but never of anything that the command reads.

    The command may have failed before it settled its places; so whatever might be read counts.
    """
    others = [arg for arg in args if arg.removeprefix("--format=").partition("=")[0] not in report.FORMATS]
    named = [value for arg in others for value in (arg, arg.partition("=")[2]) if value]
    files = [Source("an argument", one) for value in named for one in (value, *external.files(value))]
    try:
        here = _here()
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


def _one_line(error: Exception) -> str:
    """A message of the argument parser, as ours are."""
    message = " ".join(error.format_message().split()).rstrip(".")  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    return f"{message[:1].lower()}{message[1:]}; see {context.command_path if context else 'mcuprune'} --help"


# ------------------------------------------------------------------------------------------------------------- arguments

Models = Annotated[list[str] | None, typer.Argument(metavar="MODEL.onnx", help="Models; else those of the configuration.")]
Model = Annotated[str, typer.Argument(metavar="MODEL.onnx")]
Formats = Annotated[
    list[str] | None,
    typer.Option("--format", metavar="FORMAT[=FILE]", help=f"{', '.join(report.FORMATS)}; repeatable with a FILE."),
]
InputShapes = Annotated[
    list[str] | None,
    typer.Option("--input-shape", metavar="NAME=1,3,96,96", help="Fix an input's free dimensions; repeatable."),
]
Ends = Annotated[
    list[str] | None,
    typer.Option("--outputs", metavar="NAME,...", help="End the network at these tensors: cuts a detector's tail off."),
]
Board = Annotated[
    str | None,
    typer.Option(
        "--board", metavar="NAME", help="A board's SRAM, for TFLM's arena, and flash as limits; see `mcuprune boards`."
    ),
]
SramModelFlag = Annotated[
    str | None,
    typer.Option(
        "--sram-model",
        metavar="|".join(config.SRAM_MODELS),
        help="What --sram limits: the peak of activations (without --board), TFLM's arena (with it), or the largest operator's "
        "inputs and outputs.",
    ),
]
ConfigFile = Annotated[
    str | None, typer.Option("--config", metavar="FILE", help="Instead of the nearest mcuprune.toml or pyproject.toml.")
]
Against = Annotated[str | None, typer.Option("--against", metavar="OLD.onnx", help="What the model was: show changes from it.")]
Rows = Annotated[int, typer.Option("--rows", "-n", metavar="N", min=0, help="Rows to show, the rest folded; 0 for all.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No text where all is well.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say on stderr which configuration is read.")]
NoColor = Annotated[bool, typer.Option("--no-color", help="No colours, as with NO_COLOR in the environment.")]


_Word = TypeVar("_Word", bound=str)
#: What ``--sort`` takes.
_ORDERS = ("graph", *resources.columns())


def _with_limits(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command one flag for each resource; it gets them together, as ``limits``."""

    @wraps(command)
    def parsed(**given: Any) -> int:
        texts = {name: given.pop(name) for name in RESOURCES}
        limits = {name: _limit(name, text) for name, text in texts.items() if text is not None}
        return command(**given, limits=limits)

    signature = inspect.signature(command, eval_str=True)
    first, *others = (p for p in signature.parameters.values() if p.name != "limits")
    flags = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[str | None, typer.Option(f"--{name}", metavar=r.metavar, help=f"Limit: {r.meaning}.")],
        )
        for name, r in RESOURCES.items()
    ]
    keyword = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in others]
    parameters = [first.replace(kind=inspect.Parameter.KEYWORD_ONLY), *flags, *keyword]
    parsed.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    parsed.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del parsed.__wrapped__
    return parsed


def _limit(name: str, text: str) -> units.Limit:
    with _of(f"--{name}"):
        return units.parse(text, RESOURCES[name].unit)


@contextmanager
def _of(flag: str) -> Iterator[None]:
    """Name the flag in whatever its value is refused for."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{flag}: {error}") from None


def _shapes(given: Sequence[str] | None) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for text in given or ():
        name, equals, shape = text.rpartition("=")
        with _of("--input-shape"):
            if not equals or not name:
                raise UsageError(f"{text!r} names no input; write it like NAME=1,3,96,96")
            shapes[name] = config.input_shape(shape)
    return shapes


def _known(flag: str, given: str, words: Sequence[_Word]) -> _Word:
    """The value of a flag that takes one of several words."""
    for word in words:
        if word == given:
            return word
    raise UsageError(f"{flag}: {given!r} is not known; {config.nearest(given, words)}")


def _sram_model(given: str | None) -> SramModel | None:
    return None if given is None else _known("--sram-model", given, config.SRAM_MODELS)


def _here() -> Path:
    """The current folder. Raises UsageError where it has been deleted: no relative path means anything there."""
    try:
        return Path.cwd()
    except OSError as error:
        raise UsageError(f"the current folder can't be entered ({error.strerror}); change to one that exists") from None


def _configuration(given: str | None, verbose: bool) -> config.Config:
    keys = list(_settable())
    found = config.load(Path(given), keys) if given else config.find(_here(), keys)
    if verbose:
        console.say(f"configuration: {found.source or 'none found'}")
    return found


#: Long flags of ``prune`` that belong to one run or have a place of their own in the configuration.
_NOT_IN_CONFIG = (
    *RESOURCES,
    "board",
    "sram-model",
    "input-shape",
    "outputs",
    "config",
    "resume",
    "format",
    "quiet",
    "verbose",
    "no-color",
)
#: The type of a flag's value, and how a message names what it takes.
_TAKES: Mapping[Any, str] = {
    bool: "true or false",
    str: "a string",
    int: "a whole number",
    float: "a number",
    list[str]: "a list of strings",
}


def _settable() -> dict[str, tuple[Any, float | None]]:
    """Flags of ``prune`` that a configuration may set, without their dashes: the type of the value, and the least one."""
    found: dict[str, tuple[Any, float | None]] = {}
    for parameter in inspect.signature(prune).parameters.values():
        option = next(iter(getattr(parameter.annotation, "__metadata__", ())), None)
        # In an Annotated, typer takes the first of the flags, with its negation if it has one, for the default.
        flag = str(getattr(option, "default", "")).partition("/")[0].removeprefix("--")
        if isinstance(option, OptionInfo) and flag not in _NOT_IN_CONFIG:
            kind = parameter.annotation.__origin__
            found[flag] = next((one for one in get_args(kind) if one is not type(None)), kind), option.min
    return found


def _defaults(settings: config.Config) -> dict[str, Any]:
    """``[prune]`` by its flags. Raises UsageError for a value that the flag would not take."""
    found = {}
    for key, value in settings.prune.items():
        flag = key.replace("_", "-")
        kind, least = _settable()[flag]
        if kind == list[str]:
            fits = isinstance(value, list) and all(isinstance(one, str) for one in value)
        elif isinstance(value, bool):
            fits = kind is bool
        else:
            fits = isinstance(value, (int, float) if kind is float else kind) and (least is None or value >= least)
        if not fits:
            wanted = _TAKES[kind] + ("" if least is None else f" from {least}")
            raise UsageError(f"{settings.source}: prune: {flag} = {value!r} is not {wanted}")
        found[flag] = value
    return found


# --------------------------------------------------------------------------------------------------------------- outputs


@dataclass(frozen=True)
class _Outputs:
    """Where each format goes; a path of None is stdout."""

    places: tuple[tuple[str, str | None], ...]
    color: bool

    def files(self) -> list[Output]:
        return [Output(f"--format {name}", file, stream=True) for name, file in self.places if file is not None]


def _outputs(formats: Sequence[str] | None, *, no_color: bool) -> _Outputs:
    asked: list[tuple[str, str | None]] = []
    for one in formats or ():
        name, _, file = one.partition("=")
        if name not in report.FORMATS:
            raise UsageError(f"--format: unknown format '{name}'; {config.nearest(name, report.FORMATS)}")
        asked.append((name, file if file not in ("", "-") else None))
    if sum(file is None for _, file in asked) > 1:
        raise UsageError("--format: stdout takes one format; give the others a file, as in --format json=FILE")
    if all(file is not None for _, file in asked):
        asked.append(("text", None))
    return _Outputs(tuple(asked), color=not no_color and not os.environ.get("NO_COLOR"))


def _emit(result: Report, outputs: _Outputs, *, quiet: bool = False) -> int:
    """Write every output, files first, and turn the answer into an exit code."""
    result = replace(result, view=replace(result.view, ascii=not console.can_encode(sys.stdout, "│└─▁█")))
    for name, file in sorted(outputs.places, key=lambda place: place[1] is None):
        if name == "text" and quiet and result.ok and file is None:
            continue
        written = report.FORMATS[name](result)
        if file is not None:
            _write(written.encode("utf-8", "backslashreplace"), file)
        else:
            _print(written, color=outputs.color and name == "text")
    if result.refused:
        return NO_ANSWER
    return YES if result.ok else NO


def _write(content: bytes, file: str) -> None:
    """A file whole or not at all; a device or pipe, such as /dev/stderr, is written to and not replaced."""
    if places.replaceable(file):
        places.write_bytes(content, file)
    else:
        places.append(content, file)


def _print(written: str, *, color: bool = False) -> None:
    """An answer to stdout, in colours if it is a terminal that shows them."""
    if color and console.is_terminal(sys.stdout):
        try:
            _print_colored(written)
        except (OSError, ValueError) as error:
            console.unwritable(error)
    else:
        console.answer(written)


def _print_colored(written: str) -> None:
    from rich.console import Console
    from rich.text import Text

    text = Text(console.encodable(written, sys.stdout))
    text.highlight_regex(r"(?m)^FAIL .*$", "bold red")
    text.highlight_regex(r"(?m)^pass ", "green")
    text.highlight_regex(r"(?m)^> .*$", "bold")
    text.highlight_regex(r"(?m)^hint ", "cyan")
    Console(soft_wrap=True).print(text, end="")


# --------------------------------------------------------------------------------------------------- profile and check


def _load(path: str, wanted: Wanted) -> network.Network:
    return face.load(path, input_shapes=wanted.input_shapes, outputs=wanted.outputs)


def _measure(path: str, wanted: Wanted) -> resources.Profile:
    return face.profile(_load(path, wanted))


def _paths(models: Sequence[str] | None, settings: config.Config) -> list[str]:
    found = list(models or (path for path, _ in settings.models))
    if not found:
        where = f"; {settings.source} names none" if settings.source else ""
        raise UsageError(f"name a model, as in mcuprune check MODEL.onnx{where}")
    return found


def _device(net: network.Network, board: str | None) -> Device | None:
    if board is None:
        return None
    with _of("--board"):
        found, macs = runtimes.board(board), runtimes.macs_by_class(net)
    return Device(found, runtimes.latency(macs, found), runtimes.energy(macs, found))


def _refuse_several(flag: str, value: object, paths: Sequence[str]) -> None:
    if value is not None and len(paths) != 1:
        raise UsageError(f"{flag} goes with one model, not with {len(paths)}")


@app.command("profile", cls=_Command)
def profile(
    models: Models = None,
    by: Annotated[str, typer.Option("--by", metavar="|".join(report.BY), help="What a row of the table stands for.")] = "node",
    sort: Annotated[
        str, typer.Option("--sort", metavar="|".join(_ORDERS), help="Order of rows: the graph's, or worst first.")
    ] = "graph",
    rows: Rows = 20,
    groups: Annotated[bool, typer.Option("--groups", help="List the groups of channels, and why some can't be cut.")] = False,
    against: Against = None,
    board: Annotated[
        str | None, typer.Option("--board", metavar="NAME", help="Estimate latency and energy on it; see `mcuprune boards`.")
    ] = None,
    write_order: Annotated[
        str | None, typer.Option("--write-order", metavar="OUT.onnx", help="Write the model with its nodes in the best order.")
    ] = None,
    formats: Formats = None,
    input_shape: InputShapes = None,
    ends: Ends = None,
    config_file: ConfigFile = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_color: NoColor = False,
) -> int:
    """What a model costs, and where: SRAM, flash, MACs."""
    outputs = _outputs(formats, no_color=no_color)
    settings = _configuration(config_file, verbose)
    paths = _paths(models, settings)
    _refuse_several("--against", against, paths)
    _refuse_several("--write-order", write_order, paths)
    flags = Wanted(input_shapes=_shapes(input_shape), outputs=tuple(ends or ()), against=against, board=board)
    view = View(by=_known("--by", by, report.BY), sort=_known("--sort", sort, _ORDERS), rows=rows, groups=groups)
    wanted = {path: flags.over(settings.wanted(path)) for path in paths}
    written = [] if write_order is None else [Output("--write-order", write_order)]
    _settle([*written, *outputs.files()], wanted, settings)
    _board_limits(board)

    def measured(path: str) -> Answer:
        net = _load(path, wanted[path])
        before = wanted[path].against
        old = _measure(before, wanted[path]) if before else None
        found = face.profile(net)
        if write_order is not None:
            places.write_bytes(_reordered(net, wanted[path].outputs, found.memory.order), write_order)
        return Answer(found, old=old, device=_device(net, wanted[path].board))

    return _emit(_report("profile", paths, measured, view), outputs, quiet=quiet)


def _report(command: Literal["profile", "check"], paths: Sequence[str], answer: Callable[[str], Answer], view: View) -> Report:
    """The answers of all models. Of several, one that is refused doesn't keep the others from theirs."""
    if len(paths) == 1:
        return Report(command, (answer(paths[0]),), view)
    found: list[Answer | Refused] = []
    for path in paths:
        try:
            found.append(answer(path))
        except McupruneError as error:
            found.append(Refused(path, type(error).__name__, str(error)))
            console.say(str(error))
        except Exception as error:  # a bug, which may be this model's alone
            found.append(Refused(path, *console.bug(error)))
    return Report(command, tuple(found), view)


def _settle(outputs: Sequence[Output], wanted: Mapping[str, Wanted], settings: config.Config) -> None:
    """Refuse outputs that would destroy a model, what it is compared with, or the configuration. Raises OutputError."""
    if outputs:
        _here()
        old = [Source("the model to compare with", one.against) for one in wanted.values() if one.against is not None]
        models = [Source("a model of this command", path) for path in wanted] + old
        beside = [Source("external data of a model", file) for model in models for file in external.files(model.path)]
        places.settle(outputs, [*models, *beside, *_configured(settings)])


def _configured(settings: config.Config) -> list[Source]:
    """The configuration, and the models in it, whichever of them this command is about."""
    if settings.source is None:
        return []
    files = [path for path, _ in settings.models]
    return [
        Source("the configuration", str(settings.source)),
        *(Source("a model of the configuration", file) for file in files),
    ]


@app.command("check", cls=_Command)
@_with_limits
def check(
    models: Models = None,
    board: Board = None,
    sram_model: SramModelFlag = None,
    against: Against = None,
    max_growth: Annotated[
        str | None, typer.Option("--max-growth", metavar="%", help="With --against: no resource may grow by more.")
    ] = None,
    rows: Rows = 20,
    formats: Formats = None,
    input_shape: InputShapes = None,
    ends: Ends = None,
    config_file: ConfigFile = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_color: NoColor = False,
    limits: Mapping[str, units.Limit] = {},
) -> int:
    """Does a model fit? 0 if all limits hold, 1 if not."""
    outputs = _outputs(formats, no_color=no_color)
    settings = _configuration(config_file, verbose)
    paths = _paths(models, settings)
    _refuse_several("--against", against, paths)
    flags = Wanted(
        limits={**_board_limits(board), **limits},
        board=board,
        sram_model=_sram_model(sram_model),
        against=against,
        max_growth=_growth(max_growth),
        input_shapes=_shapes(input_shape),
        outputs=tuple(ends or ()),
    )
    repeated = (("--input-shape", input_shape), ("--outputs", ends))
    same_flags = tuple(word for flag, texts in repeated for text in texts or () for word in (flag, text))
    wanted = {path: flags.over(settings.wanted(path)) for path in paths}
    _settle(outputs.files(), wanted, settings)
    found = _report("check", paths, lambda path: _checked(path, wanted[path], same_flags), View(rows=rows))
    return _emit(found, outputs, quiet=quiet)


def _board_limits(board: str | None) -> Mapping[str, units.Limit]:
    if board is None:
        return {}
    with _of("--board"):
        return runtimes.board_budget(board)


def _growth(given: str | None) -> Any:
    if given is None:
        return None
    with _of("--max-growth"):
        return config.growth(given)


def _checked(path: str, wanted: Wanted, flags: tuple[str, ...]) -> Answer:
    """One model against what it has to hold. Raises UsageError where that is nothing."""
    if wanted.max_growth is not None and wanted.against is None:
        raise UsageError(f"{path}: a largest growth needs the model to compare with; give --against OLD.onnx")
    if not wanted.limits and wanted.max_growth is None:
        raise UsageError(f"{path}: nothing to check; give a limit such as --sram 64KB, or a budget in mcuprune.toml")
    measured = _measure(path, wanted)
    sram_model = wanted.gate
    verdict = face.check(measured, wanted.limits, sram_model=sram_model) if wanted.limits else None
    old = growth = None
    if wanted.against is not None:
        old = _measure(wanted.against, wanted)
        if wanted.max_growth is not None:
            most = {name: int(old.total[name] * (1 + wanted.max_growth)) for name in RESOURCES}
            growth = resources.Budget(most).check(measured.total)
    if wanted.board and sram_model == "peak":  # a hint without it would be held against the arena, as a board is
        flags = (*flags, "--sram-model", sram_model)
    return Answer(measured, verdict, sram_model, old, growth, flags)


def _reordered(net: network.Network, outputs: Sequence[str], order: Sequence[str]) -> bytes:
    """The network's file with its nodes in ``order``; all else, weights and quantisation included, stays as it is.

    Nodes that are gone from ``net``, since constants or simpler nodes make what they made, come as soon as they are needed,
    unused ones last. outputs: as for ``network.load``.
    """
    import onnx

    model = onnx.load(net.path)
    if outputs:
        model = tails.cut(model, outputs, net.path)
    nodes = list(model.graph.node)
    maker = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    first = {node.name: maker[node.outputs[0]] for node in net.nodes if node.outputs[0] in maker}
    done: set[int] = set()
    ordered = []
    for start in [*(first[name] for name in order if name in first), *range(len(nodes))]:
        stack = [start]
        while stack:
            index = stack[-1]
            unmet = [maker[name] for name in branches.reads(nodes[index]) if name in maker and maker[name] not in done]
            if index not in done and unmet:
                stack.extend(unmet)
                continue
            stack.pop()
            if index not in done:
                done.add(index)
                ordered.append(nodes[index])
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    return bytes(model.SerializeToString(deterministic=True))


# ------------------------------------------------------------------------------------------- boards, prune and verify


@app.command("boards", cls=_Command)
def boards(
    formats: Annotated[str, typer.Option("--format", metavar="text|json")] = "text",
) -> int:
    """The boards that --board knows."""
    written = report.boards_json if _known("--format", formats, ("text", "json")) == "json" else report.boards_text
    _print(written(runtimes.BOARDS.values()))
    return YES


@app.command("prune", cls=_Command)
@_with_limits
def prune(
    model: Model,
    board: Board = None,
    sram_model: SramModelFlag = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="NAME|PATH|module:function", help="What to train and test with.")
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="OUT.onnx", help="Where the pruned model goes.")
    ] = None,
    report_dir: Annotated[
        str | None, typer.Option("--report", metavar="DIR", help="Where report.json and report.md go.")
    ] = None,
    no_train: Annotated[bool, typer.Option("--no-train", help="Cut by weight magnitude, without data.")] = False,
    float_: Annotated[bool, typer.Option("--float", help="Write float ONNX, not int8.")] = False,
    weight_bits: Annotated[
        int | None,
        typer.Option("--weight-bits", metavar="7|8", help="Of int8 weights; with 7 no x86 processor's kernels saturate."),
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option("--keep", metavar="GROUP", help="Leave this group whole; repeatable.")
    ] = None,
    min_channels: Annotated[
        int | None, typer.Option("--min-channels", metavar="N", min=1, help="The least width of a group.")
    ] = None,
    multiple_of: Annotated[
        int | None, typer.Option("--multiple-of", metavar="N", min=1, help="Widths are multiples of this.")
    ] = None,
    method: Annotated[
        str | None, typer.Option("--method", metavar="NAME", help="differentiable, or a baseline: magnitude, uniform.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", metavar="N", min=0, max=2**63 - 1, help="Fixes every random choice: same seed, same files."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an interrupted run of the same command stopped.")
    ] = False,
    epochs: Annotated[
        int | None,
        typer.Option(
            "--epochs",
            metavar="N",
            min=1,
            help="Passes over the data; by default some 700 steps, or none if a trained model fits.",
        ),
    ] = None,
    batch: Annotated[int | None, typer.Option("--batch", metavar="N", min=1, help="Examples of a training step.")] = None,
    augment: Annotated[
        str | None, typer.Option("--augment", metavar="flip,cropN", help="Vary training images: mirror them, shift them.")
    ] = None,
    distill: Annotated[
        bool | None,
        typer.Option("--distill/--no-distill", help="Learn from the model as it came, too; trained models do by default."),
    ] = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Train the model as an untrained one, whatever it knows.")
    ] = False,
    keep_weights: Annotated[
        bool, typer.Option("--keep-weights", help="Train the model as a trained one, even if it is right by chance only.")
    ] = False,
    lr: Annotated[float | None, typer.Option("--lr", metavar="RATE", help="Peak learning rate.")] = None,
    optimizer: Annotated[str | None, typer.Option("--optimizer", metavar="muon|sgd|adamw", help="How weights train.")] = None,
    weight_decay: Annotated[float | None, typer.Option("--weight-decay", metavar="RATE", help="Of weight matrices.")] = None,
    label_smoothing: Annotated[
        float | None, typer.Option("--label-smoothing", metavar="SHARE", help="Part of a label spread over all classes.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            metavar="auto|cpu|cuda[:N]",
            help="Where to train; auto is a GPU, if any, for large models. On a GPU the same seed may give other files.",
        ),
    ] = None,
    prune_start: Annotated[
        float | None, typer.Option("--prune-start", metavar="SHARE", help="When pruning starts, as a share of the training.")
    ] = None,
    prune_stop: Annotated[
        float | None, typer.Option("--prune-stop", metavar="SHARE", help="When the budget is to hold.")
    ] = None,
    prune_every: Annotated[
        int | None, typer.Option("--prune-every", metavar="N", min=1, help="Most steps between two updates of the widths.")
    ] = None,
    freeze_at_budget: Annotated[
        bool | None,
        typer.Option("--freeze-at-budget/--no-freeze-at-budget", help="Whether channels are final once the budget holds."),
    ] = None,
    loss: Annotated[
        str | None, typer.Option("--loss", metavar="both|task|resource", help="Ablation: the gradients that lead widths.")
    ] = None,
    objectives: Annotated[
        str | None,
        typer.Option("--objectives", metavar="random|sum", help="Ablation: one violated resource at a time, or their sum."),
    ] = None,
    formats: Annotated[str, typer.Option("--format", metavar="text|json")] = "text",
    input_shape: InputShapes = None,
    ends: Ends = None,
    config_file: ConfigFile = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_color: NoColor = False,
    limits: Mapping[str, units.Limit] = {},
) -> int:
    """Make a model fit: train it down to a budget, write int8 ONNX."""
    as_json = _known("--format", formats, ("text", "json")) == "json"
    settings = _configuration(config_file, verbose)
    pruning = _pruning()
    wanted = Wanted(
        limits={**_board_limits(board), **limits},
        board=board,
        sram_model=_sram_model(sram_model),
        input_shapes=_shapes(input_shape),
        outputs=tuple(ends or ()),
    ).over(settings.wanted(model))
    flags = {
        "data": data,
        "output": output,
        "report": report_dir,
        "method": method,
        "epochs": epochs,
        "batch": batch,
        "lr": lr,
        "optimizer": optimizer,
        "seed": seed,
        "weight-decay": weight_decay,
        "label-smoothing": label_smoothing,
        "device": device,
        "prune-every": prune_every,
        "prune-start": prune_start,
        "prune-stop": prune_stop,
        "freeze-at-budget": freeze_at_budget,
        "loss": loss,
        "objectives": objectives,
        "weight-bits": weight_bits,
        "keep": keep or None,
        "min-channels": min_channels,
        "multiple-of": multiple_of,
        "augment": augment,
        "distill": distill,
        "from-scratch": from_scratch or None,
        "keep-weights": keep_weights or None,
        "resume": resume,
        "no-train": no_train or None,
        "float": float_ or None,
        "sram-model": wanted.gate,
    }
    stated = {**_defaults(settings), **{flag: value for flag, value in flags.items() if value is not None}}
    wishes = {flag.replace("-", "_"): value for flag, value in stated.items() if flag not in ("no-train", "float")}
    given = {"output": _pruned(model), **wishes, "train": not stated.get("no-train"), "int8": not stated.get("float")}
    configuration = None if settings.source is None else str(settings.source)
    request = pruning.Request(
        model=model,
        limits=wanted.limits,
        input_shapes=wanted.input_shapes,
        outputs=wanted.outputs,
        configuration=configuration,
        **given,
    )
    with _Progress(quiet=quiet, no_color=no_color) as progress:
        try:
            result = pruning.prune(request, progress.show)
        except KeyboardInterrupt:
            if os.path.exists(f"{request.output}.checkpoint"):
                console.say("the same command with --resume goes on from the last finished epoch")
            raise
    return _emit_outcome(result, as_json=as_json, quiet=quiet)


def _emit_outcome(result: Any, *, as_json: bool, quiet: bool) -> int:
    """Write the report of a prune, print its table, and turn the answer into an exit code."""
    from mcuprune import outcome

    found = outcome.document(result)
    if result.request.report is not None:
        written = outcome.save(found, result.request.report)
        if not (quiet and result.ok):
            console.say(f"report in {written[0]} and {written[1]}")
    if as_json:
        _print(outcome.write(found))
    elif not (quiet and result.ok):
        _print(outcome.text(found))
    return YES if result.ok else NO


class _Progress:
    """Training on stderr: a bar with the latest numbers on a terminal, a line an epoch anywhere else."""

    def __init__(self, *, quiet: bool, no_color: bool) -> None:
        self._quiet, self._no_color = quiet, no_color
        self._bar: Any = None
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> _Progress:
        if not self._quiet and console.is_terminal(sys.stderr):
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            terminal = Console(stderr=True, no_color=self._no_color or None)
            what, numbers = TextColumn("{task.description:8}"), TextColumn("{task.fields[shown]}")
            epoch = TextColumn("{task.completed:.1f}/{task.total:.0f}")
            # The numbers take most of an ordinary terminal; what is cut off says nothing.
            columns = (
                (what, BarColumn(), epoch, numbers, TimeElapsedColumn()) if terminal.width > 130 else (what, epoch, numbers)
            )
            self._bar = Progress(*columns, console=terminal)
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, step: Any) -> None:
        """Take in one step of the history."""
        if self._quiet:
            return
        costs = {name: units.show(step.costs[name], resource.unit) for name, resource in RESOURCES.items()}
        if self._bar is not None:
            shown = " ".join([f"loss {step.loss:.3f}", *(f"{name} {cost}" for name, cost in costs.items())])
            if step.phase not in self._tasks:
                self._tasks[step.phase] = self._bar.add_task(step.phase, total=step.epochs, shown=shown)
            accuracy = "" if step.accuracy is None else f" val {step.accuracy:.1%}"
            self._bar.update(self._tasks[step.phase], completed=step.epoch, shown=shown + accuracy)
        elif step.accuracy is not None:
            shown = "  ".join([f"loss {step.loss:6.3f}", *(f"{name} {cost:>9}" for name, cost in costs.items())])
            epoch = f"epoch {step.epoch:5.1f} of {step.epochs:.0f}"
            console.remark(f"{step.phase:<9} {epoch}  {shown}  val {step.accuracy:6.1%}\n")


def _pruned(model: str) -> str:
    """Where a pruned model goes if nobody says."""
    return f"{Path(model).with_suffix('') if Path(model).name else model}-pruned.onnx"


@app.command("verify", cls=_Command)
def verify(
    model: Model,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="NAME|PATH|module:function",
            help="Real examples: accuracy in each runtime, equal classes.",
        ),
    ] = None,
    examples: Annotated[
        int, typer.Option("--examples", metavar="N", min=1, help="How many random inputs and how many test examples.")
    ] = 200,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, max=2**63 - 1, help="Fixes the random inputs.")] = 0,
    tflite: Annotated[
        str | None, typer.Option("--tflite", metavar="OUT.tflite", help="Also write the model as TensorFlow Lite.")
    ] = None,
    formats: Annotated[str, typer.Option("--format", metavar="text|json")] = "text",
    input_shape: InputShapes = None,
    ends: Ends = None,
) -> int:
    """Run an exported int8 model in a microcontroller's runtimes and compare them with onnxruntime."""
    as_json = _known("--format", formats, ("text", "json")) == "json"
    _here()
    from mcuprune import tflite as lite
    from mcuprune.verify import document, text
    from mcuprune.verify import verify as run

    shapes, outputs = _shapes(input_shape), tuple(ends or ())
    if tflite is not None:
        _settle([Output("--tflite", tflite)], {model: Wanted()}, config.Config())
    written = lite.from_file(model, input_shapes=shapes, outputs=outputs) if tflite is not None else None
    verified = run(model, examples=examples, seed=seed, input_shapes=shapes, outputs=outputs, data=data, written=written)
    if tflite is not None and written is not None:  # also where outputs differ: to look at what differs one needs it
        places.write_bytes(written, tflite)
    found = document(verified)
    _print(report.dumped(found) if as_json else text(found))
    return YES if verified.ok else NO


def _pruning() -> Any:
    """The part that needs torch. Raises MissingExtra where its packages are not installed."""
    return face.engine()


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> int:
    """Make ONNX CNNs fit microcontrollers: see what they cost, check limits in CI, prune them while they train."""
    if version:
        _print(f"mcuprune {__version__}\n")
        raise typer.Exit()
    if context.invoked_subcommand is None:
        raise UsageError("name a command: profile, check, prune, verify or boards; see mcuprune --help")
    return YES


if __name__ == "__main__":
    sys.exit(main())
