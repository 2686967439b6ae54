"""What came out of a sweep, read from the reports that its runs have left: nothing is known of a run but by its files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

from mcuprune import console
from mcuprune.costs.resources import RESOURCES
from mcuprune.errors import UsageError
from mcuprune.sweep.executors import Ended
from mcuprune.sweep.grid import Cell, Run
from mcuprune.train.request import Request

State = Literal["waiting", "done", "stopped", "refused"]


@dataclass(frozen=True)
class Finished:
    """A run and what is known of it.

    report: what ``prune`` wrote of it, None where there is none. error: kind and message, where it has no answer.
    """

    run: Run
    state: State
    report: Mapping[str, Any] | None = None
    error: tuple[str, str] | None = None

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


@dataclass(frozen=True)
class Outcome:
    """All runs of a sweep, in the order of its grid.

    contents: digests of the ``model`` and the ``data`` that the sweep began with, as a run of the default seed reads them.
    """

    model: str
    folder: str
    runs: tuple[Finished, ...]
    contents: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every run that wasn't stopped as hopeless has a network that holds its budget."""
        return all(run.ok for run in self.runs if run.state != "stopped")

    @property
    def refused(self) -> bool:
        """Whether some run has no answer."""
        return any(run.state in ("refused", "waiting") for run in self.runs)

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
        found: dict[str, tuple[str, ...]] = {}
        for run in self.runs:
            if (read := run.contents) is None:
                continue
            before = first.setdefault(run.run.seed, read)
            for name in (name for name, digest in before.items() if read.get(name) != digest):
                found[name] = (*found.get(name, ()), run.run.name)
        return found

    def front(self, resource: str) -> tuple[Finished, ...]:
        """The Pareto front of accuracy against a resource, cheapest first: no run beats one of them in both."""
        known = [run for run in self.runs if run.accuracy is not None and run.used(resource) is not None]
        front: list[Finished] = []
        best = -math.inf
        for run in sorted(known, key=lambda run: (run.used(resource) or 0, -(run.accuracy or 0.0), run.run.name)):
            if (accuracy := run.accuracy or 0.0) > best:
                front.append(run)
                best = accuracy
        return tuple(front)


@dataclass(frozen=True)
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


def stored_report(run: Run) -> Mapping[str, Any] | None:
    """The report in a run's folder. None where there is none; UsageError where there is something else."""
    path = Path(run.file("report.json"))
    try:
        report = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: is no report of a run ({error}); move it away, or name another -o") from None
    if not isinstance(report, dict) or report.get("command") != "prune" or report.get("seed") != run.seed:
        raise UsageError(f"{path}: is no report of this run; move it away, or name another -o")
    if not isinstance(report.get("run"), dict) or not isinstance(report["run"].get("contents"), dict):
        raise UsageError(f"{path}: doesn't say which model and data it is about; move it away, or name another -o")
    return report


def finished(run: Run, ended: Ended | None) -> Finished:
    """What is known of a run. ended: how it ended; None where it was finished before, or hasn't been begun."""
    if ended is not None and ended.stopped:
        return Finished(run, "stopped")
    if ended is not None and ended.error is not None:
        return Finished(run, "refused", error=ended.error)
    report = stored_report(run)
    return Finished(run, "waiting") if report is None else Finished(run, "done", report)


def document(outcome: Outcome) -> dict[str, Any]:
    """The outcome as JSON values: ``sweep.json``."""
    return console.document(
        "sweep",
        ok=outcome.ok and not outcome.refused,
        model=outcome.model,
        contents=dict(outcome.contents),
        runs=[_run(run) for run in outcome.runs],
        cells=[_cell(cell, runs) for cell, runs in outcome.cells().items()],
        fronts={name: [run.run.name for run in outcome.front(name)] for name in RESOURCES},
    )


def _run(run: Finished) -> dict[str, Any]:
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
        "accuracy_float": None if report is None else report["after"]["accuracy_float"],
        "accuracy_int8": None if report is None else report["after"]["accuracy_int8"],
        "binding": list(run.binding),
        "cost": None if report is None else report["cost"],
    }


def _cell(cell: Cell, runs: Sequence[Finished]) -> dict[str, Any]:
    accuracy = spread([run.accuracy for run in runs])
    return {
        "asked": dict(cell.limits),
        "method": cell.method,
        "seeds": [run.run.seed for run in runs],
        "accuracy": None if accuracy is None else {"mean": accuracy.mean, "std": accuracy.deviation, "n": accuracy.n},
    }
