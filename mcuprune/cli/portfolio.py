"""``mcuprune portfolio``: several networks from one training."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from mcuprune import console, face, options, rerun
from mcuprune.cli.flags import (
    ManyLimited,
    OneModel,
    Shaped,
    Spoken,
    TextOrJson,
    configuration,
    run_settings,
    several,
    wanted,
    words,
)
from mcuprune.cli.outputs import show
from mcuprune.cli.parser import command
from mcuprune.cli.progress import Progress
from mcuprune.console import NO, YES
from mcuprune.costs.resources import RESOURCES
from mcuprune.errors import UsageError
from mcuprune.immutable import immutable
from mcuprune.options import option
from mcuprune.places import Source
from mcuprune.train import ranks
from mcuprune.train.request import Request

#: What a portfolio settles by itself, and what leads the widths of one training to one budget.
_OWN = (
    *("output", "report", "method", "train", "int8", "resume", "bands", "max_drop", "minimise", "score", "patience"),
    "small_images",
    *("prune_every", "prune_start", "prune_stop", "freeze_at_budget", "recipe", "pace", "pi_lr", "feedback", "cut"),
)
RunOptions = options.without(Request, *_OWN)


@immutable(kw_only=True)
class Flags(Spoken, TextOrJson, Shaped, ManyLimited, OneModel):
    """Options of ``portfolio`` beside those of its training."""

    budgets: str | None = option(
        None, help="Variants by name, each a table of limits, in place of the flags.", group="Limits", metavar="FILE.toml"
    )
    independent: bool = option(False, help="Train every variant for itself, as prune does.", group="Portfolio")
    sparse: bool = option(
        False, help="Let weights vanish while one network trains, and cut what channels die, to compare.", group="Portfolio"
    )
    jobs: int | None = option(
        None, help="Runs at a time, with --independent; by default one a core.", group="Portfolio", metavar="N", least=1
    )
    export: Sequence[str] = option(
        (),
        help="Write every variant as tflite and as c, too, with commas.",
        group="Output",
        metavar="tflite,c",
        parse=several,
    )
    resume: bool = option(False, help="Go on with the portfolio in the folder.", group="Portfolio")
    output: str = option(help="The folder of the portfolio.", group="Output", short="-o", metavar="DIR")


@command(Flags, asks=RunOptions)
def portfolio(flags: Flags, asked: Mapping[str, Any]) -> int:
    """Make several networks of one model, each for a budget, by one training."""
    ranks.refuse_several("portfolio")
    if not flags.output:
        raise UsageError("-o: names no folder; name one for the networks")
    settings = configuration(flags)
    face.engine()
    from mcuprune.portfolio import making
    from mcuprune.portfolio import wanted as variants
    from mcuprune.report import portfolio as report

    if flags.budgets is not None and flags.limits:
        raise UsageError(f"--budgets, --{next(iter(flags.limits))}: each says what is wanted; give one of them")
    if flags.independent and flags.sparse:
        raise UsageError("--independent, --sparse: they contradict each other; give one of them")
    if flags.budgets is None and not flags.limits:
        raise UsageError(f"a portfolio needs limits: {', '.join(f'--{name}' for name in RESOURCES)} or --budgets")
    asked_for = variants.of_flags(flags.limits) if flags.budgets is None else variants.of_file(flags.budgets)
    of_flags = wanted(flags)
    asked_for = tuple(replace(variant, limits={**of_flags.limits, **variant.limits}) for variant in asked_for)
    held = of_flags.over(settings.wanted(flags.model))
    given = run_settings(settings, asked, _OWN)
    pruning = Request(
        model=flags.model,
        limits={},
        output=f"{flags.output}/training",
        input_shapes=held.input_shapes,
        outputs=held.outputs,
        basis=held.gate,
        resume=flags.resume,
        configuration=None if settings.source is None else str(settings.source),
        **given,
    )
    mode: Literal["nested", "sparse", "independent"] = (
        "independent" if flags.independent else "sparse" if flags.sparse else "nested"
    )
    sources = [Source("the budgets", flags.budgets)] if flags.budgets is not None else []
    shared = {name: value for name, value in given.items() if name not in ("seed", "track")}
    typed = (*rerun.NO_CONFIGURATION, *words(held), *options.words(Request, shared))
    request = making.Request(pruning, asked_for, flags.output, mode, flags.export, typed, _executor(flags), sources)
    return _answer(flags, request, making.make, report)


def _executor(flags: Flags) -> Any:
    if not flags.independent:
        if flags.jobs is not None:
            raise UsageError("--jobs goes with --independent: one training is one process")
        return None
    from mcuprune.sweep.executors import Processes

    return Processes(flags.jobs)


def _answer(flags: Flags, request: Any, make: Any, report: Any) -> int:
    """Do it, show what came out, and turn that into an exit code."""

    def said(run: Any, left: int) -> None:
        if not flags.quiet:
            console.remark(f"{run.run.name}: {'done' if run.report is not None else 'no answer'} ({left} to go)\n")

    finished = flags.resume and os.path.exists(os.path.join(flags.output, "portfolio.json"))
    with Progress(quiet=flags.quiet, no_color=flags.no_color) as progress:
        try:
            document = make(request, progress.show, said)
        except KeyboardInterrupt:
            console.say("the same command with --resume goes on from the last finished epoch")
            raise
    if flags.format == "json":
        show(report.PAGES["portfolio.json"](document))
    elif not (flags.quiet and document["ok"]):
        show(report.text(document))
        how = "was finished by the same command before; kept as it is" if finished else "written"
        console.say(f"{how}: {', '.join(f'{flags.output}/{name}' for name in report.PAGES)}")
    return YES if document["ok"] else NO
