"""``mcuprune sweep``: many prunes of one model, compared."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from mcuprune import console, face, options, places, rerun, units
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
from mcuprune.console import NO, NO_ANSWER, YES
from mcuprune.costs.resources import RESOURCES
from mcuprune.errors import BudgetError, UsageError
from mcuprune.immutable import immutable
from mcuprune.options import option
from mcuprune.places import Source
from mcuprune.sweep import grid
from mcuprune.sweep.executors import Executor, Processes
from mcuprune.sweep.outcome import Finished
from mcuprune.train import ranks, tracking
from mcuprune.train.request import Request

#: What a sweep says of every run by itself.
_OWN = ("output", "report", "method", "seed", "resume")
RunOptions = options.without(Request, *_OWN)


@immutable(kw_only=True)
class Flags(Spoken, TextOrJson, Shaped, ManyLimited, OneModel):
    """Options of ``sweep`` beside those that every run gets."""

    method: Sequence[str] = option(
        (Request.method,),
        help="Methods, with commas.",
        group="Sweep",
        metavar="NAME,...",
        parse=several,
    )
    seeds: Sequence[int] = option((0,), help="How many, or which ones.", group="Sweep", metavar="N|0,4,7", parse=grid.seeds)
    executor: Literal["local", "ray"] = option("local", help="Who runs them: processes here, or Ray.", group="Sweep")
    address: str | None = option(None, help="A cluster of Ray that is there; else one is started.", group="Sweep")
    jobs: int | None = option(None, help="Runs at a time; by default one a core.", group="Sweep", metavar="N", least=1)
    halving: bool = option(False, help="Stop runs that are hopeless at a quarter or half of their epochs.", group="Sweep")
    resume: bool = option(False, help="Go on with the sweep in the folder.", group="Sweep")
    output: str = option(help="The folder of the sweep.", group="Output", short="-o", metavar="DIR")


@command(Flags, asks=RunOptions)
def sweep(flags: Flags, asked: Mapping[str, Any]) -> int:
    """Prune a model to many budgets, by several methods and seeds, and compare."""
    ranks.refuse_several("sweep")
    if not flags.output:
        raise UsageError("-o: names no folder; name one for the files of the sweep")
    settings = configuration(flags)
    # What is asked of the model needs one limit of each resource: of several, the first.
    firsts = {name: units.parse(texts[0], RESOURCES[name].unit) for name, texts in flags.limits.items()}
    held = wanted(flags, firsts).over(settings.wanted(flags.model))
    given = run_settings(settings, asked, _OWN)
    shared = {name: value for name, value in given.items() if name != "track"}
    runs = grid.Grid(
        model=flags.model,
        folder=flags.output,
        options=(*rerun.NO_CONFIGURATION, *words(held), *options.words(Request, shared)),
        limits={name: flags.limits.get(name, (units.write(limit),)) for name, limit in held.limits.items()},
        methods=flags.method,
        seeds=flags.seeds,
        track=given.get("track", ()),
    )
    if not runs.limits:
        raise UsageError(f"a sweep needs a limit: {', '.join(f'--{name}' for name in RESOURCES)}")
    face.engine()
    from mcuprune.preparing import sources as sources_of

    first = Request(
        flags.model,
        {},
        output=f"{flags.output}/net.onnx",
        basis=held.gate,
        input_shapes=held.input_shapes,
        outputs=held.outputs,
        **given,
    )
    sources = [*sources_of(first), *([Source("the configuration", str(settings.source))] if settings.source else [])]
    executor = _executor(flags, first, [source.path for source in sources if source.path != str(settings.source)])

    from mcuprune import sweeping
    from mcuprune.report import sweep as report

    contents = _try_first(first, runs)
    _say_idle(first, runs, halving=flags.halving)
    request = sweeping.Request(runs, partial(_asked, first), sources, contents, flags.halving, flags.resume)
    try:
        anew = f"-o {flags.output}: --resume found no sweep there; this one begins anew"
        outcome = sweeping.sweep(request, executor, partial(_say, quiet=flags.quiet), partial(console.say, anew))
    except KeyboardInterrupt:
        console.say("the same command with --resume goes on with the sweep")
        raise
    if flags.format == "json":
        show(report.PAGES[report.DOCUMENT](outcome))
    elif not (flags.quiet and outcome.ok):
        show(report.text(outcome))
        console.say(f"written: {', '.join(f'{flags.output}/{name}' for name in report.PAGES)}")
    return NO_ANSWER if outcome.refused else YES if outcome.ok else NO


def _asked(first: Request, run: grid.Run) -> Request:
    """What a run asks for. first: what all of them share."""
    limits = {name: units.parse(text, RESOURCES[name].unit) for name, text in run.cell.limits}
    return replace(
        first,
        limits=limits,
        method=run.cell.method,
        seed=run.seed,
        output=run.file(grid.NETWORK),
        report=run.folder,
    )


def _say_idle(first: Request, runs: grid.Grid, *, halving: bool) -> None:
    """Say what of a sweep that trains nothing has no effect: each run's report does for the rest."""
    from mcuprune.train.request import alike_untrained

    alike = alike_untrained(runs.methods)
    if first.train or not (halving or len(alike) > 1):
        return
    idle = ["--halving"] * halving + [f"--method, as {' and '.join(alike)} cut alike"] * (len(alike) > 1)
    console.say(f"no effect without training: {', '.join(idle)}")


def _try_first(first: Request, runs: grid.Grid) -> dict[str, str | None]:
    """Raise, before there is anything of the sweep, what every run of it would be refused for. first: what they share.

    Returns digests of the ``model`` and the ``data`` as such a run reads them, None for data where no run reads any.
    """
    from mcuprune import preparing
    from mcuprune.train import course
    from mcuprune.train.request import refuse_unknown_method

    for method in runs.methods:
        refuse_unknown_method(method)
    folder = Path(runs.folder)
    if os.path.lexists(folder) and not os.path.isdir(folder):
        return {}  # the sweep refuses what is no folder, and says more
    with places.leaving_none_empty(folder):
        for budget in runs.budgets():
            run_of = runs.run(grid.Cell(budget, runs.methods[0]), first.seed)
            asked = replace(_asked(first, run_of), output=first.output, report=None)
            with suppress(BudgetError):  # of several budgets some may hold
                run = preparing.prepared(asked, None, first.data, None)
                return course.contents(course.course(run.request, None, run.data), run.data)
        return {"model": course.model_digest(first, None), "data": None}


def _executor(flags: Flags, asked: Request, inputs: Sequence[str]) -> Executor:
    """Who does the runs. asked: what they share. inputs: files and folders that they read."""
    if flags.executor == "local":
        if flags.address is not None:
            raise UsageError("--address goes with --executor ray")
        return Processes(flags.jobs)
    tracking.refuse_forgetful(asked.track, "--executor ray")
    from mcuprune.data.loading import beside
    from mcuprune.report.prune import pages
    from mcuprune.sweep.cluster import Cluster

    named = beside(asked.data)
    if at_root := [name for name in named if os.path.isabs(name)]:
        raise UsageError(
            f"--executor ray: {asked.data} names {at_root[0]!r} by a path from the root, where workers don't have it; "
            "write paths from the folder of the table, whose files are sent along"
        )
    files = [os.path.join(os.path.dirname(asked.data or ""), name) for name in named]
    return Cluster([*inputs, *files], pages, address=flags.address, jobs=flags.jobs)


def _say(run: Finished, left: int, *, quiet: bool) -> None:
    """One line for every run that has ended."""
    if quiet:
        return
    what = run.error[1] if run.error else "stopped early" if run.state == "stopped" else "fits" if run.ok else "does not fit"
    told = ""
    if (figure := run.figure) is not None and (value := run.value(figure.name)) is not None:
        told = f", {figure.title} {figure.shown(value)}"
    console.remark(f"{run.run.name}: {what}{told} ({left} to go)\n")
