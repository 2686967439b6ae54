"""The road of separate runs: one ``mcuprune prune`` for each variant, on an executor of sweeps."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mcuprune import rerun, units
from mcuprune.costs import resources
from mcuprune.costs.resources import Budget
from mcuprune.errors import UsageError
from mcuprune.graph import network
from mcuprune.operators import table as ops
from mcuprune.portfolio import manifest, nested
from mcuprune.portfolio.manifest import Networks
from mcuprune.portfolio.wanted import Variant
from mcuprune.pruning import STARTED_ANEW
from mcuprune.sweep.executors import Executor
from mcuprune.sweep.grid import NETWORK, Cell, Run, run_of
from mcuprune.sweep.outcome import Finished, OnRun, finished
from mcuprune.train.checkpoint import Checkpoint
from mcuprune.train.request import Request


def make(
    request: Request, variants: Sequence[Variant], folder: Path, words: Sequence[str], executor: Executor, on_run: OnRun
) -> Networks:
    """Prune for each variant, and write ``NAME.onnx`` of every one into ``folder``; the runs' own files are in ``runs/``.

    words: of ``mcuprune prune``, that every run gets. With ``request.resume`` finished runs are kept, and interrupted ones go
    on. Raises what ``nested.prepared`` raises, and UsageError where a run has no answer, with what it said, or where
    the runs that are there had other options, another model or other data.
    """
    started = time.monotonic()
    begun, budgets = nested.prepared(request, variants, folder)
    course = nested.course_of(begun, variants, budgets, "independent")
    state = Checkpoint(folder / f"{nested.TRAINING}.checkpoint", course)
    anew = request.resume and state.load(None) is None  # raises where the runs that are there had other options or data
    folder.mkdir(parents=True, exist_ok=True)
    state.save("runs", {}, {})
    runs = [_run(request, variant, folder, words) for variant in variants]
    done: dict[str, Finished] = {}
    if request.resume:
        for run, variant in zip(runs, variants, strict=True):
            known = finished(run, None)
            if known.report is not None:
                asked = replace(request, limits=variant.limits, output=run.file(NETWORK), report=run.folder)
                rerun.refuse_other(run.file("report.json"), known.report, asked)
                done[run.name] = known
    elif (folder / "runs").exists():
        shutil.rmtree(folder / "runs")
    left = [run for run in runs if run.name not in done]
    for count, ended in enumerate(executor.run(left, lambda run, history: True), 1):
        done[ended.run.name] = finished(ended.run, ended)
        on_run(done[ended.run.name], len(left) - count)
    for run in runs:
        if (error := done[run.name].error) is not None:
            raise UsageError(f"variant {run.name}: {error[1]}")
    networks = _networks(request, [done[run.name] for run in runs], folder, started, course)
    return replace(networks, notes=(STARTED_ANEW,)) if anew else networks


def _run(request: Request, variant: Variant, folder: Path, words: Sequence[str]) -> Run:
    limits = tuple((name, units.write(limit)) for name, limit in variant.limits.items())
    place = f"{folder.as_posix()}/runs/{variant.name}"
    cell = Cell(limits, request.method)
    return run_of(variant.name, cell, request.seed, place, ("prune", request.model, *words), request.track)


def _networks(request: Request, runs: Sequence[Finished], folder: Path, started: float, course: Mapping[str, str]) -> Networks:
    reports: list[Mapping[str, Any]] = [run.report for run in runs if run.report is not None]
    entries = []
    for run, report in zip(runs, reports, strict=True):
        path = folder / f"{run.run.name}.onnx"
        network.load(run.run.file(NETWORK), accept=ops.accept(run.run.file(NETWORK))).save(str(path))
        entry = manifest.measured(path, run.run.name, Budget(report["budget"]), request.basis, None, None)
        same = ("accuracy_float", "accuracy_int8", "accuracy_int8_default_session")
        entry |= {name: report["after"][name] for name in same}
        entry |= {"metric": _figure(report["metric"])}
        entry |= {"test_examples": report["test_examples"], "groups": report["groups"], "notes": report["notes"]}
        entries.append(entry)
    original = network.load(
        request.model, input_shapes=request.input_shapes, outputs=request.outputs, accept=ops.accept(request.model)
    )
    return Networks(
        variants=entries,
        course=course,
        before=resources.profile(original, request.basis),
        metric=None,
        data=reports[0]["data"],
        test_examples=reports[0]["test_examples"],
        seconds=time.monotonic() - started,
        training_macs=sum(report["cost"]["training_macs"] for report in reports),
        full_training_macs=sum(report["cost"]["full_training_macs"] for report in reports),
        one_training_macs=None,
    )


def _figure(metric: Mapping[str, Any]) -> dict[str, Any]:
    """The figure of the task, from a report of ``prune``, as ``manifest.figure`` has it."""
    values = {"float": metric["after_float"]["value"], "int8": metric["after_int8"]["value"]}
    return {"name": metric["name"], "title": metric["shown_as"], "unit": metric["unit"], "better": metric["better"], **values}
