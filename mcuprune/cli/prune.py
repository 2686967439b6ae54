"""``mcuprune prune``: make a model fit."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcuprune import __version__, console, exporting, face, options, places, rerun
from mcuprune.cli.flags import Limited, Shaped, Spoken, TextOrJson, configuration, run_settings, wanted
from mcuprune.cli.outputs import show
from mcuprune.cli.parser import command
from mcuprune.cli.progress import Progress
from mcuprune.config import Wanted
from mcuprune.console import NO, YES
from mcuprune.data.spelling import refuse_unknown
from mcuprune.errors import McupruneError, UsageError
from mcuprune.immutable import immutable
from mcuprune.options import argument, option
from mcuprune.places import Output
from mcuprune.train import ranks
from mcuprune.train.request import Repeats, Request
from mcuprune.units import show as show_size

if TYPE_CHECKING:  # what makes one imports torch
    from mcuprune.result import Result


@immutable(kw_only=True)
class Flags(Spoken, TextOrJson, Shaped, Limited):
    """Options of ``prune`` that no configuration sets, or in a place of its own; those of a run are ``Request``'s."""

    model: str | None = argument("MODEL.onnx", default=None, help="The model.")
    repeat: str | None = option(
        None,
        help="Repeat the run of this report; what else is given counts before what it says.",
        group="Model",
        metavar="report.json",
        key="from",
    )


@command(Flags, asks=Request)
def prune(flags: Flags, asked: Mapping[str, Any]) -> int:
    """Make a model fit: train it down to a budget, write int8 ONNX."""
    with ranks.joined():
        request = _configured(flags, asked) if flags.repeat is None else _repeated(flags, flags.repeat, asked)
        with ranks.own_place(request.output) as place:
            own = request if ranks.first() else replace(request, output=place, report=None, track=())
            return ranks.of_first(_run(flags, own))


def _run(flags: Flags, request: Request) -> int:
    """Prune, export, report; the exit code. Of several ranks the first alone shows anything."""
    quiet = flags.quiet or not ranks.first()
    with Progress(quiet=quiet, no_color=flags.no_color) as progress:
        console.doing(f"reading {request.model}")  # before anything is imported that takes its time
        refuse_unknown(request.data)
        face.engine()
        from mcuprune import dropping

        request, to_export = _in_its_format(request)
        try:
            result = dropping.prune(request, progress.show, on_stage=progress.stage, on_start=progress.start)
        except KeyboardInterrupt:
            if os.path.exists(f"{request.output}.checkpoint") or os.path.exists(f"{request.output}.stages"):
                console.say("the same command with --resume goes on from the last state that was stored")
            raise
    if to_export is not None:
        result = _exported(result, to_export, quiet=quiet)
    return _emit(result, as_json=flags.format == "json", quiet=quiet)


def _exported(result: Result, to_export: exporting.Request, *, quiet: bool) -> Result:
    """Write the other format; the result with what that has come to. Where it fails, the report is stored all the same."""
    without_bands = None if to_export.bands == "off" or result.bands is None else result.bands.network
    try:
        written = exporting.export(to_export, net=without_bands, refuse_idle=False)
    except McupruneError:
        from mcuprune.report import prune as outcome

        _save(outcome.document(result), result, quiet=quiet)
        raise
    console.say(f"written: {', '.join(written.files)}, from {to_export.model}{_memory_of(written)}")
    if result.bands is not None:
        result = replace(result, bands=replace(result.bands, rows=written.rows))
    result = replace(result, c_arena=written.arena.get("c"))
    above: tuple[str, ...] = ()
    if result.above_in_c:
        limit = show_size(result.budget.limits["sram"], "bytes")
        above = (f"{written.files[0]} needs more RAM than the limit of {limit}, which {to_export.model} holds",)
    return replace(result, notes=(*result.notes, *written.notes, *above))


def _memory_of(written: exporting.Exported) -> str:
    """What generated C that runs row by row takes, which the report on the ONNX file doesn't say."""
    return "" if written.rows is None else f"; in C, row by row: {show_size(written.rows.arena, 'bytes')} of RAM"


def _configured(flags: Flags, asked: Mapping[str, Any]) -> Request:
    """What flags and the configuration ask for. Raises UsageError where no model is named."""
    if flags.model is None:
        raise UsageError("missing argument 'MODEL.onnx'; see mcuprune prune --help")
    settings = configuration(flags)
    held = wanted(flags, flags.limits).over(settings.wanted(flags.model))
    return Request(
        model=flags.model,
        limits=held.limits,
        input_shapes=held.input_shapes,
        outputs=held.outputs,
        basis=held.gate,
        configuration=None if settings.source is None else str(settings.source),
        **{"output": _pruned(flags.model), **run_settings(settings, asked, own=())},
    )


def _repeated(flags: Flags, report: str, asked: Mapping[str, Any]) -> Request:
    """What a report's run asked for, and before that what flags do. The configuration has no say: the report has all of it."""
    stored = rerun.read(report)
    stored.refuse_code(asked)
    if "output" not in asked:
        stored.refuse_overwriting()
    anew = [options.of_name(Request, name).flag for name in asked if name not in ("output", "report")]
    anew += [*(["MODEL.onnx"] if flags.model else []), *(f"--{name}" for name in flags.limits)]
    if not flags.quiet and ranks.first():
        console.say(f"repeating the run of {report}{_but(anew)}")
        if stored.version != __version__:
            console.say(f"that was mcuprune {stored.version}, this is {__version__}: the same files are not promised")
    expected = stored.contents_expected(asked, same_model=flags.model is None)
    base = Wanted(stored.limits, stored.basis.board, stored.basis.sram, stored.basis.flash, stored.basis.runtime)
    shaped = replace(base, input_shapes=stored.input_shapes, outputs=stored.outputs)
    held = wanted(flags, flags.limits).over(shaped)
    return Request(
        model=flags.model or stored.model,
        limits=held.limits,
        input_shapes=held.input_shapes,
        outputs=held.outputs,
        basis=held.gate,
        repeats=Repeats(report, expected),
        **options.over(Request, asked, stored.asked),
    )


def _but(anew: Sequence[str]) -> str:
    return f", with another {', '.join(anew)}" if anew else ""


def _save(document: Mapping[str, Any], result: Result, *, quiet: bool) -> None:
    """Write the report of a prune, where one is wanted."""
    from mcuprune.report import prune as outcome

    if result.request.report is not None:
        written = outcome.save(document, result.request.report)
        if not (quiet and result.ok):
            *others, last = map(str, written)
            console.say(f"report in {', '.join(others)} and {last}")


def _emit(result: Result, *, as_json: bool, quiet: bool) -> int:
    """Write the report of a prune, print its table, and turn the answer into an exit code."""
    from mcuprune.report import prune as outcome

    document = outcome.document(result)
    _save(document, result, quiet=quiet)
    if as_json:
        show(outcome.write(document))
    elif not (quiet and result.ok):
        show(outcome.text(document), fit=True)
    return YES if result.ok else NO


def _in_its_format(request: Request) -> tuple[Request, exporting.Request | None]:
    """What to prune, and how to export it where ``-o`` has the suffix of another format than ONNX.

    The ONNX file is written beside, for all that a report is measured on; its bands are those of runtimes that run graphs, and
    those of generated C are loops. Refuses before the work: raises UsageError for floats and for bands that gain nothing,
    OutputError for places, UnsupportedOperator for a node without an int8 kernel.
    """
    place = Path(request.output)
    if place.suffix in ("", ".onnx"):
        return request, None
    if place.suffix not in exporting.EXPORTS:
        face.engine()
        from mcuprune.preparing import planned, sources

        places.distinct(planned(request), sources(request))  # what lies there is the greater mistake
        raise UsageError(f"-o {place}: the suffix says the format; it is one of {', '.join(exporting.EXPORTS)}")
    exporting.check_name(place)
    if not request.int8:
        raise UsageError(f"-o {place}: this format holds int8; say --no-float, or name a file that ends in .onnx")
    beside = place.with_suffix(".onnx")
    if beside.resolve() == Path(request.model).resolve():  # m.onnx to m.tflite
        beside = place.with_name(Path(_pruned(place.name)).name)
    exporting.refuse_loss(str(place), beside)
    to_prune = replace(request, output=str(beside))
    own = place.suffix in exporting.ROWS_OF_THEIR_OWN
    to_export = exporting.Request(to_prune.output, str(place), bands=str(request.bands) if own else "off")
    face.engine()
    from mcuprune.preparing import planned, sources

    exported = exporting.planned(to_export)
    places.distinct([*planned(to_prune), *exported], sources(to_prune))
    for output in (Output("-o", to_prune.output, make_folder=True), *exported):
        places.probe(output)
    net = face.load(request.model, input_shapes=request.input_shapes, outputs=request.outputs)
    exporting.refuse_early(replace(to_export, model=request.model), net)
    return to_prune, to_export


def _pruned(model: str) -> str:
    """Where a pruned model goes if nobody says."""
    return f"{Path(model).with_suffix('') if Path(model).name else model}-pruned.onnx"
