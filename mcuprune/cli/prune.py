"""``mcuprune prune``: make a model fit."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcuprune import console, face, options
from mcuprune.cli.flags import Limited, OneModel, Shaped, Spoken, TextOrJson, board_limits, configuration, shapes
from mcuprune.cli.outputs import show
from mcuprune.cli.parser import command
from mcuprune.cli.progress import Progress
from mcuprune.config import Wanted
from mcuprune.console import NO, YES
from mcuprune.errors import UsageError
from mcuprune.train.request import Request


@dataclass(frozen=True, kw_only=True)
class Flags(Spoken, TextOrJson, Shaped, Limited, OneModel):
    """Options of ``prune`` that no configuration sets, or in a place of its own; those of a run are ``Request``'s."""


@command(Flags, asks=Request)
def prune(flags: Flags, asked: Mapping[str, Any]) -> int:
    """Make a model fit: train it down to a budget, write int8 ONNX."""
    settings = configuration(flags)
    pruning = face.engine()
    wanted = Wanted(
        limits={**board_limits(flags.board), **flags.limits},
        board=flags.board,
        sram_model=flags.sram_model,
        input_shapes=shapes(flags.input_shape),
        outputs=tuple(flags.outputs),
    ).over(settings.wanted(flags.model))
    set_by_file = options.settings(Request, settings.prune, f"{settings.source}: prune")
    request = Request(
        model=flags.model,
        limits=wanted.limits,
        input_shapes=wanted.input_shapes,
        outputs=wanted.outputs,
        sram_model=wanted.gate,
        configuration=None if settings.source is None else str(settings.source),
        **{"output": _pruned(flags.model), **set_by_file, **asked},
    )
    _check_suffix(request.output)
    with Progress(quiet=flags.quiet, no_color=flags.no_color) as progress:
        try:
            result = pruning.prune(request, progress.show)
        except KeyboardInterrupt:
            if os.path.exists(f"{request.output}.checkpoint"):
                console.say("the same command with --resume goes on from the last finished epoch")
            raise
    return _emit(result, as_json=flags.format == "json", quiet=flags.quiet)


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
        show(outcome.text(found))
    return YES if result.ok else NO


def _check_suffix(output: str) -> None:
    """Raise UsageError for the suffix of a format that ``export`` writes: the file would hold ONNX all the same."""
    from mcuprune.exporting import EXPORTS

    suffix = Path(output).suffix
    if suffix in EXPORTS and suffix != ".onnx":
        pruned = Path(output).with_suffix(".onnx")
        raise UsageError(f"-o {output}: prune writes ONNX; name {pruned}, then mcuprune export {pruned} -o {output}")


def _pruned(model: str) -> str:
    """Where a pruned model goes if nobody says."""
    return f"{Path(model).with_suffix('') if Path(model).name else model}-pruned.onnx"
