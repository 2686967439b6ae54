"""The road of one ``sweep``: its runs, those that are done already, the executor, and ``sweep.json`` after every run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mcuprune import places
from mcuprune.errors import UsageError
from mcuprune.places import Output, Source
from mcuprune.report import sweep as report
from mcuprune.sweep import outcome as outcomes
from mcuprune.sweep.executors import Ended, Executor, History
from mcuprune.sweep.follow import Halving
from mcuprune.sweep.grid import Grid, Run
from mcuprune.sweep.outcome import Finished, Outcome

#: Called with every run that has ended, and how many are left.
OnRun = Callable[[Finished, int], None]


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    grid: the runs. sources: files that they read. contents: digests of the ``model`` and the ``data``, as a run of the default
    seed reads them; None for data where none are read. halving: whether hopeless runs are stopped early. resume: whether to go
    on with the sweep that is in the folder.
    """

    grid: Grid
    sources: Sequence[Source]
    contents: Mapping[str, str | None]
    halving: bool = False
    resume: bool = False


def sweep(request: Request, executor: Executor, on_run: OnRun = lambda run, left: None) -> Outcome:
    """Do all runs that aren't done, and write what came out: ``sweep.json``, ``sweep.md`` and ``sweep.html`` in the folder.

    Interrupted at any moment, it can be gone on with. A run that is refused is a part of the outcome.
    Raises UsageError for a folder with anything else in it, OutputError for a place that can't be written.
    """
    runs = request.grid.runs()
    folder = Path(request.grid.folder)
    _settle(request, folder)
    done = _known(request, folder, runs)
    _write(request, runs, done)
    halving = Halving()

    def goes_on(run: Run, history: History) -> bool:
        return not request.halving or halving.goes_on(run, history)

    left = [run for run in runs if done[run.name].state == "waiting"]
    count = len(left)
    for ended in executor.run(left, goes_on):
        count -= 1
        done[ended.run.name] = _taken(ended)
        _write(request, runs, done)
        on_run(done[ended.run.name], count)
    return _outcome(request, runs, done)


def _taken(ended: Ended) -> Finished:
    finished = outcomes.finished(ended.run, ended)
    if finished.state == "waiting":  # it said that it has an answer, and left none
        return Finished(ended.run, "refused", error=("RunFailed", f"ended with code {ended.code} and left no report"))
    return finished


def _settle(request: Request, folder: Path) -> None:
    """Refuse a folder that a sweep would destroy something in."""
    outputs = [Output("-o", str(folder / name), make_folder=True) for name in report.PAGES]
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"-o {folder}: is no folder; name one for the files of the sweep")
    earlier = folder / report.DOCUMENT
    if not request.resume and folder.is_dir() and any(folder.iterdir()):
        hint = "--resume goes on with it" if earlier.exists() else "name an empty one, or a new one"
        raise UsageError(f"-o {folder}: holds {'a sweep' if earlier.exists() else 'files'} already; {hint}")
    places.settle(outputs, request.sources)


def _known(request: Request, folder: Path, runs: Sequence[Run]) -> dict[str, Finished]:
    """What is known of every run before the work. Raises UsageError where the folder has another sweep."""
    if not request.resume:
        return {run.name: Finished(run, "waiting") for run in runs}
    path = folder / report.DOCUMENT
    try:
        earlier = json.loads(path.read_bytes())
        commands = {entry["name"]: (entry["command"], entry["state"]) for entry in earlier["runs"]}
        contents = dict(earlier["contents"])
    except FileNotFoundError:
        return {run.name: Finished(run, "waiting") for run in runs}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: is no record of a sweep ({error}); name another -o") from None
    for run in runs:
        if run.name in commands and commands[run.name][0] != ["mcuprune", *run.words]:
            raise UsageError(
                f"{path}: run {run.name} was another command there; --resume needs the options that the sweep began with"
            )
    _refuse_changed(path, contents, request.contents)
    return {run.name: _before(run, commands.get(run.name, ([], "waiting"))[1]) for run in runs}


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


def _before(run: Run, state: str) -> Finished:
    """What is known of a run of an earlier sitting. One that was refused or killed is tried again."""
    return Finished(run, "stopped") if state == "stopped" else outcomes.finished(run, None)


def _outcome(request: Request, runs: Sequence[Run], done: dict[str, Finished]) -> Outcome:
    return Outcome(request.grid.model, request.grid.folder, tuple(done[run.name] for run in runs), request.contents)


def _write(request: Request, runs: Sequence[Run], done: dict[str, Finished]) -> None:
    outcome = _outcome(request, runs, done)
    for name, page in report.PAGES.items():
        places.write_bytes(page(outcome).encode(), Path(request.grid.folder) / name)
