"""``mcuprune prune``: make a model fit."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mcuprune import console, exporting, face, options, places
from mcuprune.cli.flags import Limited, OneModel, Shaped, Spoken, TextOrJson, board_limits, configuration, shapes
from mcuprune.cli.outputs import show
from mcuprune.cli.parser import command
from mcuprune.cli.progress import Progress
from mcuprune.config import Wanted
from mcuprune.console import NO, YES
from mcuprune.data.spelling import refuse_unknown
from mcuprune.errors import UnsupportedOperator, UsageError
from mcuprune.places import Output
from mcuprune.train import ranks
from mcuprune.train.request import Request


@dataclass(frozen=True, kw_only=True)
class Flags(Spoken, TextOrJson, Shaped, Limited, OneModel):
    """Options of ``prune`` that no configuration sets, or in a place of its own; those of a run are ``Request``'s."""


@command(Flags, asks=Request)
def prune(flags: Flags, asked: Mapping[str, Any]) -> int:
    """Make a model fit: train it down to a budget, write int8 ONNX."""
    with ranks.joined():
        request = _request(flags, asked)
        with ranks.own_place(request.output) as place:
            own = request if ranks.first() else replace(request, output=place, report=None)
            return ranks.of_first(_run(flags, own))


def _request(flags: Flags, asked: Mapping[str, Any]) -> Request:
    """What is asked for, by flags and configuration."""
    settings = configuration(flags)
    wanted = Wanted(
        limits={**board_limits(flags.board), **flags.limits},
        board=flags.board,
        sram_model=flags.sram_model,
        flash_model=flags.flash_model,
        runtime=flags.runtime,
        input_shapes=shapes(flags.input_shape),
        outputs=tuple(flags.outputs),
    ).over(settings.wanted(flags.model))
    set_by_file = options.settings(Request, settings.prune, f"{settings.source}: prune")
    return Request(
        model=flags.model,
        limits=wanted.limits,
        input_shapes=wanted.input_shapes,
        outputs=wanted.outputs,
        basis=wanted.gate,
        configuration=None if settings.source is None else str(settings.source),
        **{"output": _pruned(flags.model), **set_by_file, **asked},
    )


def _run(flags: Flags, request: Request) -> int:
    """Prune, export, report; the exit code. Of several ranks the first alone shows anything."""
    quiet = flags.quiet or not ranks.first()
    with Progress(quiet=quiet, no_color=flags.no_color) as progress:
        console.doing(f"reading {flags.model}")  # before anything is imported that takes its time
        refuse_unknown(request.data)
        face.engine()
        from mcuprune import dropping

        request, to_export = _in_its_format(request)
        try:
            result = dropping.prune(request, progress.show, on_stage=progress.stage)
        except KeyboardInterrupt:
            if os.path.exists(f"{request.output}.checkpoint") or os.path.exists(f"{request.output}.stages"):
                console.say("the same command with --resume goes on from the last state that was stored")
            raise
    if to_export is not None:
        written = exporting.export(to_export)
        console.say(f"written: {', '.join(written.files)}, from {request.output}")
    return _emit(result, as_json=flags.format == "json", quiet=quiet)


def _emit(result: Any, *, as_json: bool, quiet: bool) -> int:
    """Write the report of a prune, print its table, and turn the answer into an exit code."""
    from mcuprune.report import prune as outcome

    found = outcome.document(result)
    if result.request.report is not None:
        written = outcome.save(found, result.request.report)
        if not (quiet and result.ok):
            console.say(f"report in {written[0]} and {written[1]}")
    if as_json:
        show(outcome.write(found))
    elif not (quiet and result.ok):
        show(outcome.text(found), fit=True)
    return YES if result.ok else NO


def _in_its_format(request: Request) -> tuple[Request, exporting.Request | None]:
    """What to prune, and how to export it where ``-o`` has the suffix of another format than ONNX.

    The ONNX file is written beside, for all that a report is measured on. Refuses before the work: raises UsageError for
    floats, OutputError for places, UnsupportedOperator for a node without an int8 kernel.
    """
    place = Path(request.output)
    if place.suffix not in exporting.EXPORTS or place.suffix == ".onnx":
        return request, None
    if not request.int8:
        raise UsageError(f"-o {place}: this format holds int8; leave --float out, or name a file that ends in .onnx")
    beside = place.with_suffix(".onnx")
    if beside.resolve() == Path(request.model).resolve():  # m.onnx to m.tflite
        beside = place.with_name(Path(_pruned(place.name)).name)
    to_prune = replace(request, output=str(beside))
    to_export = exporting.Request(to_prune.output, str(place))
    outputs = [Output("-o", to_prune.output, make_folder=True), *exporting.planned(to_export)]
    places.settle(outputs, face.engine().sources(to_prune))
    net = face.load(request.model, input_shapes=request.input_shapes, outputs=request.outputs)
    if lacking := face.profile(net).memory.unsupported:
        raise UnsupportedOperator(f"{request.model}: -o {place}: {lacking[0]}; name a file that ends in .onnx")
    return to_prune, to_export


def _pruned(model: str) -> str:
    """Where a pruned model goes if nobody says."""
    return f"{Path(model).with_suffix('') if Path(model).name else model}-pruned.onnx"
