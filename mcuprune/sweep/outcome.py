"""What came out of a sweep, read from the reports that its runs have left: nothing is known of a run but by its files."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, field
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal, get_args

from mcuprune import __version__, console, foreign, units
from mcuprune.costs.resources import RESOURCES
from mcuprune.errors import UsageError, cause
from mcuprune.immutable import immutable
from mcuprune.sweep.executors import KILLED, Ended
from mcuprune.sweep.follow import RUNGS
from mcuprune.sweep.grid import NETWORK, Cell, Run
from mcuprune.train.request import Request

State = Literal["waiting", "done", "stopped", "refused", "killed"]


@immutable
class Figure:
    """What runs of a sweep are compared by. name: as in JSON. title, unit: for people. better: higher or lower figures."""

    name: str
    title: str
    unit: str
    better: str

    def shown(self, value: float) -> str:
        """A value for people."""
        return units.figure(value, self.unit)

    def score(self, value: float) -> float:
        """A value so that higher is better."""
        return value if self.better == "higher" else -value


@immutable
class Finished:
    """A run and what is known of it.

    report: what ``prune`` wrote of it, None where there is none. error: kind and message, where it has no answer.
    rungs: where it was compared with others on the way, as shares of its epochs, and by which figure, higher ones better.
    """

    run: Run
    state: State
    report: Mapping[str, Any] | None = None
    error: tuple[str, str] | None = None
    rungs: Mapping[float, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether its network holds its budget; False where there is none."""
        return self.report is not None and bool(self.report["ok"])

    @property
    def accuracy(self) -> float | None:
        """On the test set, of the network that was written: int8, or float where it is that."""
        if self.report is None:
            return None
        after = self.report["after"]
        value = after["accuracy_int8"] if after["accuracy_int8"] is not None else after["accuracy_float"]
        return None if value is None else float(value)

    @property
    def figure(self) -> Figure | None:
        """The figure of the task that its report has; None where there is none."""
        if self.report is None or (metric := self.report["metric"]) is None:
            return None
        return Figure(metric["name"], metric["shown_as"], metric["unit"], metric["better"])

    def value(self, name: str) -> float | None:
        """A figure by its name, on the test set, of the network that was written: int8, or float where it is that."""
        if self.report is None or (metric := self.report["metric"]) is None:
            return None
        values = metric["after_int8"] or metric["after_float"]
        value = values["value"] if metric["name"] == name else values.get(name)
        return None if value is None else float(value)

    @property
    def contents(self) -> Mapping[str, str | None] | None:
        """Digests of the ``model`` and the ``data`` that it read; None where there is no report."""
        return None if self.report is None else dict(self.report["run"]["contents"])

    def used(self, resource: str) -> int | None:
        """What its network costs, in base units; None where that isn't known."""
        known = None if self.report is None else self.report["after"]["total"].get(resource)
        return None if known is None else int(known)

    @property
    def binding(self) -> tuple[str, ...]:
        """The resource that its network comes nearest to the limit of, and any that are as near to a hundredth."""
        if self.report is None:
            return ()
        shares = {name: limit["used"] / limit["limit"] for name, limit in self.report["limits"].items() if limit["limit"]}
        nearest = max(shares.values(), default=0.0)
        return tuple(name for name, share in shares.items() if share > nearest - 0.01)


#: Called with every run that has ended, and how many are left.
OnRun = Callable[[Finished, int], None]


@immutable
class Outcome:
    """All runs of a sweep, in the order of its grid.

    contents: digests of the ``model`` and the ``data`` that the sweep began with, as a run of the default seed reads them.
    command: what to type for the same sweep.
    """

    model: str
    folder: str
    runs: tuple[Finished, ...]
    contents: Mapping[str, str | None] = field(default_factory=dict)
    command: Sequence[str] = ()

    @property
    def figure(self) -> Figure | None:
        """The figure of the task, from the first report that has one; of the others the figure of this name counts."""
        return next((run.figure for run in self.runs if run.figure is not None), None)

    def value(self, run: Finished) -> float | None:
        """What a run is compared by with others; None where it has no such figure."""
        return None if self.figure is None else run.value(self.figure.name)

    @property
    def ok(self) -> bool:
        """Whether every run that wasn't stopped as hopeless has a network that holds its budget."""
        return all(run.ok for run in self.runs if run.state != "stopped")

    @property
    def refused(self) -> bool:
        """Whether some run has no answer."""
        return any(run.state in ("refused", "killed", "waiting") for run in self.runs)

    def cells(self) -> dict[Cell, list[Finished]]:
        """The runs that differ in their seed alone, by what they have in common."""
        cells: dict[Cell, list[Finished]] = {}
        for finished in self.runs:
            cells.setdefault(finished.run.cell, []).append(finished)
        return cells

    def changed(self) -> dict[str, tuple[str, ...]]:
        """Of what (``model``, ``data``) runs have read another content than the first of their seed, and the names of the runs.

        Of another seed the same data are split in another way, so their digest is another.
        """
        first: dict[int, Mapping[str, str | None]] = {}
        if self.contents.get("data") is not None:
            first[Request.seed] = self.contents
        names_of: dict[str, tuple[str, ...]] = {}
        for run in self.runs:
            if (read := run.contents) is None:
                continue
            before = first.setdefault(run.run.seed, read)
            for name in (name for name, digest in before.items() if read.get(name) != digest):
                names_of[name] = (*names_of.get(name, ()), run.run.name)
        return names_of

    def front(self, resource: str) -> tuple[Finished, ...]:
        """The Pareto front of the task's figure against a resource, cheapest first: no run beats one of them in both."""
        if (figure := self.figure) is None:
            return ()
        known = [
            (used, -figure.score(value), run.run.name, run)
            for run in self.runs
            if (value := self.value(run)) is not None and (used := run.used(resource)) is not None
        ]
        front: list[Finished] = []
        least = math.inf
        for _, worse, _, run in sorted(known, key=lambda each: each[:3]):
            if worse < least:
                front.append(run)
                least = worse
        return tuple(front)


@immutable
class Spread:
    """Mean and standard deviation of a number over ``n`` seeds; the deviation is None where one seed alone has it."""

    mean: float
    deviation: float | None
    n: int


def spread(values: Sequence[float | None]) -> Spread | None:
    """The spread of the values that are there; None where none is."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Spread(fmean(known), stdev(known) if len(known) > 1 else None, len(known))


def stored_report(path: str | Path, run: Run) -> Mapping[str, Any] | None:
    """The report of a run, with all that is asked of it here. None where there is none; UsageError for anything else."""
    hint = "move it away, or name another -o"
    try:
        report = foreign.read(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UsageError(f"{path}: is no report of a run ({error}); {hint}") from None
    if not isinstance(report, dict) or report.get("command") != "prune" or report.get("seed") != run.seed:
        raise UsageError(f"{path}: is no report of this run; {hint}")
    check = foreign.Values(path, hint=hint)
    check.table(report, "its content", ("ok", "run", "limits", "after", "budget", "cost", "metric"))
    check.truth(report["ok"], "ok")
    _check_contents(check, check.table(report["run"], "run", ("contents",))["contents"], "run.contents")
    for name, limit in check.table(report["limits"], "limits").items():
        held = check.table(limit, f"limits.{name}", ("used", "limit"))
        for part in ("used", "limit"):
            check.whole(held[part], f"limits.{name}.{part}")
    after = check.table(report["after"], "after", ("total", "accuracy_float", "accuracy_int8"))
    total = check.table(after["total"], "after.total")
    for name in RESOURCES:
        check.unless_none(check.whole, total.get(name), f"after.total.{name}")
    for name in ("accuracy_float", "accuracy_int8"):
        check.unless_none(check.number, after[name], f"after.{name}")
    for name in ("budget", "cost"):
        check.table(report[name], name)
    check.unless_none(partial(_check_metric, check), report["metric"], "metric")
    return report


def _check_contents(check: foreign.Values, contents: Any, key: str) -> None:
    """Raise UsageError where digests by the names of what was read are none."""
    for name, digest in check.table(contents, key).items():
        check.unless_none(check.text, digest, f"{key}.{name}")


def _check_metric(check: foreign.Values, value: Any, key: str) -> None:
    """Raise UsageError where a report's figure is none."""
    metric = check.table(value, key, ("name", "shown_as", "unit", "better", "after_float", "after_int8"))
    for name in ("name", "shown_as", "unit"):
        check.text(metric[name], f"{key}.{name}")
    check.one_of(metric["better"], ("higher", "lower"), f"{key}.better")
    for when in ("after_float", *(["after_int8"] if metric["after_int8"] else [])):
        for name, figure in check.table(metric[when], f"{key}.{when}", ("value",)).items():
            check.unless_none(check.number, figure, f"{key}.{when}.{name}")


@immutable
class Recorded:
    """A run as ``sweep.json`` has it. words: of its command line. rungs: as ``Finished`` has them."""

    name: str
    cell: Cell
    seed: int
    words: tuple[str, ...]
    state: State
    rungs: Mapping[float, float]


def recorded(path: str | Path) -> tuple[tuple[Recorded, ...], Mapping[str, str | None]]:
    """The runs that a ``sweep.json`` has, and the digests that it began with. UsageError where it is none of this version."""
    hint = "move it away, or name another -o"
    try:
        stored = foreign.read(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: is no record of a sweep ({cause(error)}); {hint}") from None
    if not isinstance(stored, dict) or stored.get("command") != "sweep":
        raise UsageError(f"{path}: is no record of a sweep; {hint}")
    check = foreign.Values(path, hint=hint)
    if (version := check.text(stored.get("mcuprune"), "mcuprune")) != __version__:
        raise UsageError(
            f"{path}: was begun by mcuprune {version}, and this is {__version__}, whose runs may come out otherwise; "
            "go on with that version, or name another -o"
        )
    _check_contents(check, stored.get("contents"), "contents")
    runs = [
        _recorded(check, check.table(entry, f"runs[{index}]"), f"runs[{index}]")
        for index, entry in enumerate(check.items(stored.get("runs"), "runs"))
    ]
    return tuple(runs), stored["contents"]


def _recorded(check: foreign.Values, entry: Mapping[str, Any], key: str) -> Recorded:
    state: Any = check.one_of(entry.get("state"), get_args(State), f"{key}.state")
    asked = check.text_by_name(entry.get("asked"), f"{key}.asked")
    scores = check.table(entry.get("rungs", {}), f"{key}.rungs")
    return Recorded(
        check.text(entry.get("name"), f"{key}.name"),
        Cell(tuple(asked.items()), check.text(entry.get("method"), f"{key}.method")),
        check.whole(entry.get("seed"), f"{key}.seed"),
        check.texts(entry.get("command"), f"{key}.command")[1:],
        state,
        {rung: _score(check, scores[f"{rung}"], f"{key}.rungs.{rung}") for rung in RUNGS if f"{rung}" in scores},
    )


def _score(check: foreign.Values, value: Any, key: str) -> float:
    """A figure by which a run was compared; null is that of a network whose answers are no numbers any more: the worst."""
    number = check.unless_none(check.number, value, key)
    return -math.inf if number is None else number


def finished(run: Run, ended: Ended | None) -> Finished:
    """What is known of a run. ended: how it ended; None where it was finished before, or hasn't been begun."""
    if ended is not None and ended.stopped:
        return Finished(run, "stopped")
    if ended is not None and ended.error is not None:
        return Finished(run, "killed" if ended.error[0] == KILLED else "refused", error=ended.error)
    report = stored_report(run.file("report.json"), run)
    lacking = "report" if report is None else "network" if not os.path.isfile(run.file(NETWORK)) else None
    if lacking is None:
        return Finished(run, "done", report)
    if ended is None:
        return Finished(run, "waiting")
    return Finished(run, "refused", error=("RunFailed", f"ended with code {ended.code} and left no {lacking}"))


def document(outcome: Outcome) -> dict[str, Any]:
    """The outcome as JSON values: ``sweep.json``."""
    return console.document(
        "sweep",
        ok=outcome.ok and not outcome.refused,
        model=outcome.model,
        contents=dict(outcome.contents),
        repeat=list(outcome.command),
        runs=[_run(outcome, run) for run in outcome.runs],
        cells=[_cell(outcome, cell, runs) for cell, runs in outcome.cells().items()],
        fronts={name: [run.run.name for run in outcome.front(name)] for name in RESOURCES},
    )


def _run(outcome: Outcome, run: Finished) -> dict[str, Any]:
    report = run.report
    return {
        "name": run.run.name,
        "folder": run.run.folder,
        "command": ["mcuprune", *run.run.words],
        "method": run.run.cell.method,
        "seed": run.run.seed,
        "asked": dict(run.run.cell.limits),
        "state": run.state,
        "ok": run.ok,
        "error": None if run.error is None else {"kind": run.error[0], "message": run.error[1]},
        "budget": None if report is None else report["budget"],
        "total": None if report is None else report["after"]["total"],
        "metric": _metric(outcome, {"value": value}) if (value := outcome.value(run)) is not None else None,
        "accuracy_float": None if report is None else report["after"]["accuracy_float"],
        "accuracy_int8": None if report is None else report["after"]["accuracy_int8"],
        "binding": list(run.binding),
        "cost": None if report is None else report["cost"],
        "rungs": {f"{rung}": score for rung, score in run.rungs.items()},
    }


def _metric(outcome: Outcome, values: Mapping[str, Any]) -> dict[str, Any]:
    """The figure that runs are compared by, as ``portfolio.json`` describes it, with values of it."""
    assert outcome.figure is not None
    return {**asdict(outcome.figure), **values}


def _spread(values: Sequence[float | None]) -> dict[str, Any] | None:
    known = spread(values)
    return None if known is None else {"mean": known.mean, "std": known.deviation, "n": known.n}


def _cell(outcome: Outcome, cell: Cell, runs: Sequence[Finished]) -> dict[str, Any]:
    figures = _spread([outcome.value(run) for run in runs])
    return {
        "asked": dict(cell.limits),
        "method": cell.method,
        "seeds": [run.run.seed for run in runs],
        "metric": None if figures is None else _metric(outcome, figures),
        "accuracy": _spread([run.accuracy for run in runs]),
    }
