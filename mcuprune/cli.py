"""The command line: arguments and configuration -> one call -> a report -> an exit code.

This is the only module that prints, and ``main`` the only place that catches. Answers go to stdout, everything else to
stderr. 0: the answer is yes. 1: the answer is no. 2: there is no answer. 130: interrupted. Flags of budgets come from the
table of resources; a flag goes before the configuration file, that before what is built in.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import wraps
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TextIO, TypeVar, get_args

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import OptionInfo

from mcuprune import __version__, config, network, report, resources, runtimes, units
from mcuprune.config import Wanted
from mcuprune.errors import McupruneError, MissingExtra, OutputError, UsageError
from mcuprune.network import Shape
from mcuprune.ops import accept
from mcuprune.report import Answer, Device, Report, View
from mcuprune.resources import RESOURCES, SramModel

YES, NO, NO_ANSWER, INTERRUPTED = 0, 1, 2, 130

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
    """Run one command and return its exit code. A user's mistake is one message; a bug keeps its traceback."""
    args = [*(sys.argv[1:] if argv is None else argv)]
    try:
        code: object = typer.main.get_command(app).main(args, prog_name="mcuprune", standalone_mode=False)
        sys.stdout.flush()
    except McupruneError as error:
        return _no_answer(type(error).__name__, str(error), args)
    except _ClickException as error:
        return _no_answer("UsageError", _one_line(error), args)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        _to_nowhere(sys.stdout)
        code = YES
    if code == INTERRUPTED:
        _say("interrupted")
    return code if isinstance(code, int) else YES


def _no_answer(kind: str, message: str, args: Sequence[str]) -> int:
    formats = _asked_formats(args)
    for file in {file for name, file in formats if name == "json"}:
        if file in ("", "-"):
            _print(report.json_error(kind, message))
        else:
            with suppress(McupruneError):  # perhaps this place is the very mistake
                _write(report.json_error(kind, message).encode(), file)
    if ("github", "") in formats or ("github", "-") in formats:
        _print(report.annotation("error", message, title="mcuprune") + "\n")
    _say(message)
    return NO_ANSWER


def _asked_formats(args: Sequence[str]) -> set[tuple[str, str]]:
    """The formats that were asked for and their files, read off arguments that may be no good otherwise."""
    given = [value for flag, value in pairwise(args) if flag == "--format"]
    given += [arg.removeprefix("--format=") for arg in args if arg.startswith("--format=")]
    return {(name, file) for name, _, file in (value.partition("=") for value in given)}


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
Board = Annotated[
    str | None, typer.Option("--board", metavar="NAME", help="A board's SRAM and flash as limits; see `mcuprune boards`.")
]
SramModelFlag = Annotated[
    str | None,
    typer.Option(
        "--sram-model",
        metavar="|".join(config.SRAM_MODELS),
        help="What --sram limits: the peak of activations, TFLM's arena, or the largest operator's inputs and outputs.",
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
_ORDERS = ("graph", *RESOURCES)


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
            annotation=Annotated[str | None, typer.Option(f"--{name}", metavar=_METAVAR[r.unit], help=f"Limit: {r.meaning}.")],
        )
        for name, r in RESOURCES.items()
    ]
    keyword = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in others]
    parameters = [first.replace(kind=inspect.Parameter.KEYWORD_ONLY), *flags, *keyword]
    parsed.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    parsed.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del parsed.__wrapped__
    return parsed


_METAVAR = {"bytes": "SIZE|%", "count": "COUNT|%"}


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


def _configuration(given: str | None, verbose: bool) -> config.Config:
    keys = list(_settable())
    found = config.load(Path(given), keys) if given else config.find(Path.cwd(), keys)
    if verbose:
        _say(f"configuration: {found.source or 'none found'}")
    return found


#: Long flags of ``prune`` that belong to one run or have a place of their own in the configuration.
_NOT_IN_CONFIG = (
    *RESOURCES,
    "board",
    "sram-model",
    "input-shape",
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


def _outputs(formats: Sequence[str] | None, *, no_color: bool) -> _Outputs:
    places: list[tuple[str, str | None]] = []
    for one in formats or ():
        name, _, file = one.partition("=")
        if name not in report.FORMATS:
            raise UsageError(f"--format: unknown format '{name}'; {config.nearest(name, report.FORMATS)}")
        places.append((name, file if file not in ("", "-") else None))
    if sum(file is None for _, file in places) > 1:
        raise UsageError("--format: stdout takes one format; give the others a file, as in --format json=FILE")
    if all(file is not None for _, file in places):
        places.append(("text", None))
    return _Outputs(tuple(places), color=not no_color and not os.environ.get("NO_COLOR"))


def _emit(result: Report, outputs: _Outputs, *, quiet: bool = False) -> int:
    """Write every output, files first, and turn the answer into an exit code."""
    result = replace(result, view=replace(result.view, ascii=not _can_encode(sys.stdout, "│└─▁█")))
    for name, file in sorted(outputs.places, key=lambda place: place[1] is None):
        if name == "text" and quiet and result.ok and file is None:
            continue
        written = report.FORMATS[name](result)
        if file is not None:
            _write(written.encode("utf-8", "backslashreplace"), file)
        else:
            _print(written, color=outputs.color and name == "text")
    return YES if result.ok else NO


def _write(content: bytes, file: str) -> None:
    """A file whole or not at all; a device or pipe, such as /dev/stderr, is written to and not replaced."""
    if network.replaceable(file):
        network.write_bytes(content, file)
        return
    try:
        with open(file, "ab") as stream:
            stream.write(content)
    except OSError as error:
        raise OutputError(f"{file}: can't be written ({error.strerror}); choose another place") from None


def _print(written: str, *, color: bool = False) -> None:
    """An answer to stdout. A reader that has gone away, as ``head`` does, is no error."""
    try:
        if color and sys.stdout.isatty():
            _print_colored(written)
        else:
            sys.stdout.write(_encodable(written, sys.stdout))
        sys.stdout.flush()
    except BrokenPipeError:
        _to_nowhere(sys.stdout)
    except OSError as error:
        _to_nowhere(sys.stdout)
        raise OutputError(f"stdout can't be written ({error.strerror})") from None


def _print_colored(written: str) -> None:
    from rich.console import Console
    from rich.text import Text

    text = Text(_encodable(written, sys.stdout))
    text.highlight_regex(r"(?m)^FAIL .*$", "bold red")
    text.highlight_regex(r"(?m)^pass ", "green")
    text.highlight_regex(r"(?m)^> .*$", "bold")
    text.highlight_regex(r"(?m)^hint ", "cyan")
    Console(soft_wrap=True).print(text, end="")


def _say(message: str) -> None:
    """One message for the person, on stderr."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)
    try:
        sys.stderr.write(_encodable(f"mcuprune: {shown}\n", sys.stderr))
        sys.stderr.flush()
    except BrokenPipeError:
        _to_nowhere(sys.stderr)


def _encodable(written: str, stream: TextIO) -> str:
    """The same text, with characters that the stream doesn't know spelled out."""
    if _can_encode(stream, written):
        return written
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return written.encode(encoding, "backslashreplace").decode(encoding)


def _can_encode(stream: TextIO, written: str) -> bool:
    try:
        written.encode(getattr(stream, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _to_nowhere(stream: TextIO) -> None:
    """Let the interpreter's last flush of a broken stream succeed."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


# --------------------------------------------------------------------------------------------------- profile and check


def _load(path: str, shapes: Mapping[str, Shape]) -> network.Network:
    return network.load(path, input_shapes=shapes, accept=accept(path))


def _measure(path: str, shapes: Mapping[str, Shape]) -> resources.Profile:
    return resources.profile(_load(path, shapes))


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
    flags = Wanted(input_shapes=_shapes(input_shape), against=against, board=board)
    answers = []
    for path in paths:
        wanted = flags.over(settings.wanted(path))
        net = _load(path, wanted.input_shapes)
        old = _measure(wanted.against, wanted.input_shapes) if wanted.against else None
        answers.append(Answer(resources.profile(net), old=old, device=_device(net, wanted.board)))
    if write_order is not None:
        network.write_bytes(_reordered(net, answers[0].profile.memory.order), write_order)
    view = View(by=_known("--by", by, report.BY), sort=_known("--sort", sort, _ORDERS), rows=rows, groups=groups)
    return _emit(Report("profile", tuple(answers), view), outputs, quiet=quiet)


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
    )
    shape_flags = tuple(word for text in input_shape or () for word in ("--input-shape", text))
    answers = tuple(_checked(path, flags.over(settings.wanted(path)), shape_flags) for path in paths)
    return _emit(Report("check", answers, View(rows=rows)), outputs, quiet=quiet)


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
    measured = _measure(path, wanted.input_shapes)
    sram_model = wanted.sram_model or "peak"
    used = measured.used(sram_model)
    verdict = resources.budget(wanted.limits, used).check(used) if wanted.limits else None
    old = growth = None
    if wanted.against is not None:
        old = _measure(wanted.against, wanted.input_shapes)
        if wanted.max_growth is not None:
            most = {name: int(old.total[name] * (1 + wanted.max_growth)) for name in RESOURCES}
            growth = resources.Budget(most).check(measured.total)
    return Answer(measured, verdict, sram_model, old, growth, flags)


def _reordered(net: network.Network, order: Sequence[str]) -> bytes:
    """The network's file with its nodes in ``order``; all else, weights and quantisation included, stays as it is.

    Nodes that are gone from ``net``, since constants make them, come as soon as they are needed, unused ones last.
    """
    import onnx

    model = onnx.load(net.path)
    nodes = list(model.graph.node)
    maker = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    first = {node.name: maker[node.outputs[0]] for node in net.nodes}
    done: set[int] = set()
    ordered = []
    for start in [*(first[name] for name in order), *range(len(nodes))]:
        stack = [start]
        while stack:
            index = stack[-1]
            unmet = [maker[name] for name in nodes[index].input if name in maker and maker[name] not in done]
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
        int | None, typer.Option("--epochs", metavar="N", min=1, help="Passes over the data; by default some 700 steps.")
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
    config_file: ConfigFile = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_color: NoColor = False,
    limits: Mapping[str, units.Limit] = {},
) -> int:
    """Make a model fit: train it down to a budget, write int8 ONNX."""
    as_json = _known("--format", formats, ("text", "json")) == "json"
    pruning = _pruning()
    settings = _configuration(config_file, verbose)
    wanted = Wanted(
        limits={**_board_limits(board), **limits},
        board=board,
        sram_model=_sram_model(sram_model),
        input_shapes=_shapes(input_shape),
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
        "sram-model": wanted.sram_model,
    }
    stated = {**_defaults(settings), **{flag: value for flag, value in flags.items() if value is not None}}
    wishes = {flag.replace("-", "_"): value for flag, value in stated.items() if flag not in ("no-train", "float")}
    given = {"output": _pruned(model), **wishes, "train": not stated.get("no-train"), "int8": not stated.get("float")}
    request = pruning.Request(model=model, limits=wanted.limits, input_shapes=wanted.input_shapes, **given)
    with _Progress(quiet=quiet, no_color=no_color) as progress:
        try:
            result = pruning.prune(request, progress.show)
        except KeyboardInterrupt:
            if os.path.exists(f"{request.output}.checkpoint"):
                _say("the same command with --resume goes on from the last finished epoch")
            raise
    return _emit_outcome(result, as_json=as_json, quiet=quiet)


def _emit_outcome(result: Any, *, as_json: bool, quiet: bool) -> int:
    """Write the report of a prune, print its table, and turn the answer into an exit code."""
    from mcuprune import outcome

    found = outcome.document(result)
    if result.request.report is not None:
        folder = Path(result.request.report)
        network.write_bytes(outcome.write(found).encode(), folder / "report.json")
        network.write_bytes(outcome.markdown(found).encode(), folder / "report.md")
        if not (quiet and result.ok):
            _say(f"report in {folder / 'report.json'} and {folder / 'report.md'}")
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
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            console = Console(stderr=True, no_color=self._no_color or None)
            what, numbers = TextColumn("{task.description:8}"), TextColumn("{task.fields[shown]}")
            epoch = TextColumn("{task.completed:.1f}/{task.total:.0f}")
            # The numbers take most of an ordinary terminal; what is cut off says nothing.
            columns = (
                (what, BarColumn(), epoch, numbers, TimeElapsedColumn()) if console.width > 130 else (what, epoch, numbers)
            )
            self._bar = Progress(*columns, console=console)
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, step: Any) -> None:
        """Take in one step of the history."""
        if self._quiet:
            return
        costs = {name: units.show(getattr(step, name), resource.unit) for name, resource in RESOURCES.items()}
        if self._bar is not None:
            shown = " ".join([f"loss {step.loss:.3f}", *(f"{name} {cost}" for name, cost in costs.items())])
            if step.phase not in self._tasks:
                self._tasks[step.phase] = self._bar.add_task(step.phase, total=step.epochs, shown=shown)
            accuracy = "" if step.accuracy is None else f" val {step.accuracy:.1%}"
            self._bar.update(self._tasks[step.phase], completed=step.epoch, shown=shown + accuracy)
        elif step.accuracy is not None:
            shown = "  ".join([f"loss {step.loss:6.3f}", *(f"{name} {cost:>9}" for name, cost in costs.items())])
            line = f"{step.phase:<9} epoch {step.epoch:5.1f} of {step.epochs:.0f}  {shown}  val {step.accuracy:6.1%}\n"
            try:
                sys.stderr.write(line)
                sys.stderr.flush()
            except BrokenPipeError:  # nobody reads on; the training goes on
                _to_nowhere(sys.stderr)


def _pruned(model: str) -> str:
    """Where a pruned model goes if nobody says."""
    return str(Path(model).with_suffix("")) + "-pruned.onnx"


@app.command("verify", cls=_Command)
def verify(
    model: Model,
    examples: Annotated[int, typer.Option("--examples", metavar="N", min=1, help="How many inputs to compare on.")] = 200,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, max=2**63 - 1, help="Fixes the random inputs.")] = 0,
    tflite: Annotated[
        str | None, typer.Option("--tflite", metavar="OUT.tflite", help="Also write the model as TensorFlow Lite.")
    ] = None,
    formats: Annotated[str, typer.Option("--format", metavar="text|json")] = "text",
    input_shape: InputShapes = None,
) -> int:
    """Run an exported int8 model in TensorFlow Lite Micro and compare it with onnxruntime."""
    as_json = _known("--format", formats, ("text", "json")) == "json"
    from mcuprune import tflite as lite
    from mcuprune import verify as runtime

    shapes = _shapes(input_shape)
    if tflite is not None:
        network.write_bytes(lite.from_file(model, input_shapes=shapes), tflite)
    verified = runtime.verify(model, examples=examples, seed=seed, input_shapes=shapes)
    found = runtime.document(verified)
    _print(report.dumped(found) if as_json else runtime.text(found))
    return YES if verified.ok else NO


def _pruning() -> Any:
    """The part that needs torch. Raises MissingExtra where its packages are not installed."""
    try:
        from mcuprune import pruning
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in _EXTRA:
            raise
        raise MissingExtra(f"this command needs {error.name}; install it with pip install 'mcuprune[prune]'") from None
    return pruning


_EXTRA = ("torch", "torchvision", "onnx2torch", "onnxruntime", "sklearn")


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
