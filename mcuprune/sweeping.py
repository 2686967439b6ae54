"""The road of one ``sweep``: its runs, those that are done already, the executor, and ``sweep.json`` after every run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mcuprune import places, rerun
from mcuprune.errors import UsageError
from mcuprune.immutable import immutable
from mcuprune.places import Output, Source
from mcuprune.report import sweep as report
from mcuprune.sweep import outcome as outcomes
from mcuprune.sweep.executors import Executor, History
from mcuprune.sweep.follow import Halving
from mcuprune.sweep.grid import Grid, Run
from mcuprune.sweep.outcome import Finished, OnRun, Outcome, Recorded
from mcuprune.train import request as prunes


@immutable
class Request:
    """What the user asked for.

    grid: the runs. asked: what the command of one asks for. sources: files that they read. contents: digests of the ``model``
    and the ``data``, as a run of the default seed reads them; None for data where none are read. halving: whether hopeless
    runs are stopped early. resume: whether to go on with the sweep that is in the folder.
    """

    grid: Grid
    asked: Callable[[Run], prunes.Request]
    sources: Sequence[Source]
    contents: Mapping[str, str | None]
    halving: bool = False
    resume: bool = False


def sweep(
    request: Request,
    executor: Executor,
    on_run: OnRun = lambda run, left: None,
    on_anew: Callable[[], None] = lambda: None,
) -> Outcome:
    """Do all runs that aren't done, and write what came out: ``sweep.json``, ``sweep.md`` and ``sweep.html`` in the folder.

    Interrupted at any moment, it can be gone on with. A run that is refused is a part of the outcome.
    on_anew: called before the work where there is nothing to go on with, though that was asked for.
    Raises UsageError for a folder with anything else in it, OutputError for a place that can't be written.
    """
    runs = request.grid.runs()
    folder = Path(request.grid.folder)
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise UsageError(f"-o {folder}: is no folder; name one for the files of the sweep")
    with places.alone_in(folder):
        _refuse_folder(request, folder)
        halving = Halving()
        done = _known(request, folder, runs, halving)
        left = [run for run in runs if done[run.name].state == "waiting"]

        def goes_on(run: Run, history: History) -> bool:
            return not request.halving or halving.goes_on(run, history)

        going = executor.run(left, goes_on)
        places.settle(_outputs(folder), request.sources)
        if request.resume and not os.path.lexists(folder / report.DOCUMENT):
            on_anew()
        _write(request, runs, done, halving)
        for count, ended in enumerate(going, 1):
            done[ended.run.name] = outcomes.finished(ended.run, ended)
            _write(request, runs, done, halving)
            on_run(done[ended.run.name], len(left) - count)
    return _outcome(request, runs, done, halving)


def _outputs(folder: Path) -> list[Output]:
    return [Output("-o", str(folder / name), make_folder=True) for name in report.PAGES]


def _refuse_folder(request: Request, folder: Path) -> None:
    """Refuse a folder that a sweep would destroy something in, or that has no sweep to go on with."""
    earlier = os.path.lexists(folder / report.DOCUMENT)
    if any(folder.iterdir()) and not (request.resume and earlier):
        hint = "--resume goes on with it" if earlier else "name an empty one, or a new one"
        held = "a sweep" if earlier else f"files, but no {report.DOCUMENT} of a sweep," if request.resume else "files"
        raise UsageError(f"-o {folder}: holds {held} already; {hint}")
    places.distinct(_outputs(folder), request.sources)


def _known(request: Request, folder: Path, runs: Sequence[Run], halving: Halving) -> dict[str, Finished]:
    """What is known of every run before the work, to ``halving`` as well.

    Raises UsageError where the folder has another sweep.
    """
    path = folder / report.DOCUMENT
    if not os.path.lexists(path):
        return {run.name: Finished(run, "waiting") for run in runs}
    earlier, contents = outcomes.recorded(path)
    _refuse_other(path, earlier, request.grid)
    asked = {run.name for run in runs}
    lost = [run.name for run in earlier if run.name not in asked]
    if lost:
        others = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise UsageError(
            f"{path}: has runs that this command doesn't ask for, {lost[0]}{others}; give the values that the sweep "
            "began with, and more if you like, or name another -o"
        )
    _refuse_changed(path, contents, request.contents)
    for run in earlier:
        halving.remember(request.grid.run(run.cell, run.seed), run.rungs)
    states = {run.name: run.state for run in earlier}
    return {run.name: _before(request, run, states.get(run.name, "waiting")) for run in runs}


def _refuse_other(path: Path, earlier: Sequence[Recorded], grid: Grid) -> None:
    """Raise UsageError where a run of the sweep that ``path`` is about isn't what the same run is with the options of now."""
    for run in earlier:
        now = grid.run(run.cell, run.seed).words
        if run.words != now:
            then, here = (_flags(words) for words in (run.words, now))
            was, is_now = [flag for flag in then if flag not in here], [flag for flag in here if flag not in then]
            said = [*(["with " + " ".join(was)] if was else []), *(["without " + " ".join(is_now)] if is_now else [])]
            raise UsageError(
                f"{path}: run {run.name} was another command there, {' and '.join(said) or 'in another order'}; --resume needs "
                "the options that the sweep began with; name another -o"
            )


def _flags(words: Sequence[str]) -> list[str]:
    """Words of a command line, each flag with its value."""
    said: list[str] = []
    for word in words:
        if said and said[-1].startswith("-") and not word.startswith("-"):
            said[-1] += f" {word}"
        else:
            said.append(word)
    return said


def _refuse_changed(path: Path, then: Mapping[str, str | None], now: Mapping[str, str | None]) -> None:
    """Raise UsageError where the sweep that ``path`` is about has read another model or other data than are there now."""
    # no digest of data: nothing was read, as no budget could be held
    changed = [name for name, digest in then.items() if None not in (digest, now.get(name)) and digest != now.get(name)]
    if changed:
        said = " and ".join(f"content of the {name}" for name in changed)
        raise UsageError(
            f"{path}: another {said} than the sweep began with; --resume needs the same, since the runs would not be "
            "comparable; name another -o"
        )


def _before(request: Request, run: Run, state: str) -> Finished:
    """What is known of a run of an earlier sitting. One that was refused or killed is tried again."""
    known = Finished(run, "stopped") if state == "stopped" else outcomes.finished(run, None)
    if known.report is not None:
        rerun.refuse_other(run.file("report.json"), known.report, request.asked(run))
    return known


def _outcome(request: Request, runs: Sequence[Run], done: Mapping[str, Finished], halving: Halving) -> Outcome:
    finished = tuple(replace(done[run.name], rungs=halving.scores(run)) for run in runs)
    return Outcome(request.grid.model, request.grid.folder, finished, request.contents, request.grid.command())


def _write(request: Request, runs: Sequence[Run], done: Mapping[str, Finished], halving: Halving) -> None:
    outcome = _outcome(request, runs, done, halving)
    for name, page in report.PAGES.items():
        places.write_bytes(page(outcome).encode(), Path(request.grid.folder) / name)
