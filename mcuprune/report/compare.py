"""Runs side by side: what ``mcuprune report`` shows, from the reports that they have left.

Reports are strangers' files: each value is checked when it is read, and what is not what it must be is refused by its key.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mcuprune import console, escape, foreign, rerun, units
from mcuprune.costs.resources import RESOURCES
from mcuprune.errors import UsageError
from mcuprune.immutable import immutable
from mcuprune.report import charts, page
from mcuprune.report.charts import Curve
from mcuprune.report.documents import dumped
from mcuprune.report.tables import align, html_table, markdown_table
from mcuprune.report.width import elided, told_apart

#: What a folder has its report under.
_NAME = "report.json"
#: More runs than this are taken for a slip of the pen.
_MOST = 1000
#: Of a value that differs, in a table.
_SHORT = 40


@immutable
class Compared:
    """What is compared of one run.

    path: of its report. total, limits: base units by resource. figure: of the written file on the test set, with its name,
    before: of the network as it came; unit: "share" or "value". validation: (training MACs, figure) of evaluated steps.
    options: all that were in force, as JSON values; None for a report that was stored without.
    """

    path: str
    model: str
    written: str
    ok: bool
    method: str
    seed: int
    total: Mapping[str, int]
    limits: Mapping[str, int]
    figure_name: str | None
    unit: str
    before: float | None
    figure: float | None
    seconds: float
    training_macs: int
    validation: tuple[tuple[float, float], ...]
    options: Mapping[str, Any] | None

    @property
    def name(self) -> str:
        """What a column is called: the folder of the report."""
        folder = Path(self.path).parent.as_posix() if Path(self.path).name == _NAME else self.path
        return folder if folder != "." else self.path


def read(paths: Sequence[str]) -> tuple[Compared, ...]:
    """The runs that files and folders name; a folder may hold runs, as that of a sweep does. Raises UsageError."""
    if not paths:
        raise UsageError("missing argument 'RUN'; name folders with a report.json, or such files; see mcuprune report --help")
    files = [file for path in paths for file in _files(path)]
    if len(files) > _MOST:
        raise UsageError(f"these are {len(files)} runs; name {_MOST} at most")
    return tuple(_read(file) for file in files)


def _files(path: str) -> list[str]:
    if not os.path.isdir(path):
        return [path]
    if os.path.isfile(os.path.join(path, _NAME)):
        return [os.path.join(path, _NAME)]
    files = sorted(str(file) for file in Path(path).glob(f"runs/*/{_NAME}"))
    if not files:
        raise UsageError(f"{path}: holds no {_NAME} and no runs/*/{_NAME}; name a run's folder, or that of a sweep")
    return files


def _read(path: str) -> Compared:
    document = rerun.stored(path, "prune")
    check = foreign.Values(path)
    parts = ("before", "after", "cost", "limits")
    before, after, cost, limits = (check.table(document.get(part), part) for part in parts)
    metric = check.unless_none(check.table, document.get("metric"), "metric")
    named = metric or {}
    figures: Sequence[Any] = [named.get("before"), named.get("after_int8") or named.get("after_float")]
    was, now = (
        None if figure is None else check.unless_none(check.number, check.table(figure, "metric").get("value"), "metric.value")
        for figure in figures
    )
    run = check.unless_none(check.table, document.get(rerun.KEY), rerun.KEY)
    options = None if run is None else check.table(run.get("options"), f"{rerun.KEY}.options")
    total = check.table(after.get("total"), "after.total")
    held = {name: check.table(limits[name], f"limits.{name}") for name in RESOURCES if name in limits}
    return Compared(
        path=path,
        model=check.text(before.get("path"), "before.path"),
        written=check.text(after.get("path"), "after.path"),
        ok=document.get("ok") is True,
        method=check.text(document.get("method"), "method"),
        seed=check.whole(document.get("seed"), "seed"),
        total={name: check.whole(total[name], f"after.total.{name}") for name in RESOURCES if total.get(name) is not None},
        limits={name: check.whole(limit.get("limit"), f"limits.{name}.limit") for name, limit in held.items()},
        figure_name=None if metric is None else check.text(metric.get("shown_as"), "metric.shown_as"),
        unit="value" if metric is None else check.text(metric.get("unit"), "metric.unit"),
        before=was,
        figure=now,
        seconds=check.number(cost.get("seconds"), "cost.seconds"),
        training_macs=check.whole(cost.get("training_macs"), "cost.training_macs"),
        validation=tuple(_validation(check, document.get("history"))),
        options=options,
    )


def _validation(check: foreign.Values, history: Any) -> list[tuple[float, float]]:
    """(training MACs, figure) of evaluated steps."""
    steps = [check.table(step, "history") for step in check.items(history, "history")]
    named = [(step, "metric" if step.get("metric") is not None else "accuracy") for step in steps]
    return [
        (check.number(step.get("training_macs"), "history.training_macs"), check.number(step[key], f"history.{key}"))
        for step, key in named
        if step.get(key) is not None
    ]


def differences(runs: Sequence[Compared]) -> dict[str, list[Any]]:
    """Options that are not the same in all runs: a value for each run, None where a run has none or its report hasn't."""
    names = dict.fromkeys(name for run in runs for name in run.options or ())
    own = ("output", "report", "resume")
    values = {name: [_given(run, name) for run in runs] for name in names if name not in own}
    return {name: each for name, each in values.items() if any(value != each[0] for value in each)}


def _given(run: Compared, name: str) -> Any:
    """The value of an option; an empty list is none."""
    value = (run.options or {}).get(name)
    return None if value == [] else value


# ---------------------------------------------------------------------------------------------------------------- formats


def text(runs: Sequence[Compared]) -> str:
    """A column a run."""
    rows = [[escape.plain(cell) for cell in row] for row in _table(runs)]
    return "\n".join(align(rows, "<" + ">" * len(runs))) + "\n"


def markdown(runs: Sequence[Compared]) -> str:
    """A column a run, as markdown."""
    head, *rows = [[escape.inline(cell) for cell in row] for row in _table(runs)]
    return "\n".join(["# Runs side by side", "", *markdown_table(head, "<" + ">" * len(runs), rows)]) + "\n"


def html(runs: Sequence[Compared]) -> str:
    """A column a run, and how the figure on validation examples went in each."""
    head, *rows = _table(runs)
    parts = [html_table(head, "<" + ">" * len(runs), rows)]
    names = told_apart([run.name for run in runs], _SHORT)
    drawn = [Curve(name, run.validation) for name, run in zip(names, runs, strict=True) if len(run.validation) > 1]
    if drawn and len({run.figure_name for run in runs}) == 1:
        figure = runs[0].figure_name or "figure"
        picture = charts.curves(
            drawn, lambda x: units.show(round(x), "count"), lambda y: _figure(runs[0], y), label=f"{figure} of each run"
        )
        key = "".join(f"<li>{charts.key(index)} {escape.markup(curve.name)}</li>" for index, curve in enumerate(drawn))
        caption = f"{figure} on validation examples, over multiply-accumulates of training"
        parts.append(f"<figure><figcaption>{escape.markup(caption)}</figcaption>{picture}<ul>{key}</ul></figure>")
    return page.html("Runs side by side", "\n".join(parts))


def json(runs: Sequence[Compared]) -> str:
    """One document, integers in base units."""
    each = [
        {
            "name": run.name,
            "path": run.path,
            "model": run.model,
            "written": run.written,
            "ok": run.ok,
            "method": run.method,
            "seed": run.seed,
            "total": dict(run.total),
            "limits": dict(run.limits),
            "metric": {"shown_as": run.figure_name, "before": run.before, "after": run.figure},
            "cost": {"seconds": run.seconds, "training_macs": run.training_macs},
        }
        for run in runs
    ]
    return dumped(console.document("report", ok=all(run.ok for run in runs), runs=each, differences=differences(runs)))


def _table(runs: Sequence[Compared]) -> list[list[str]]:
    """Head and rows: a name, and a cell for each run."""
    rows = [["", *told_apart([run.name for run in runs], _SHORT)]]

    def row(name: str, cell: Callable[[Compared], str]) -> None:
        cells = [cell(run) for run in runs]
        if any(cells):
            rows.append([name, *cells])

    row("model", lambda run: elided(run.model, _SHORT))
    row("verdict", lambda run: "fits" if run.ok else "DOES NOT FIT")
    row("method", lambda run: elided(run.method, _SHORT))
    row("seed", lambda run: f"{run.seed}")
    for name, resource in RESOURCES.items():
        row(resource.title, lambda run, name=name: _used(run, name))  # type: ignore[misc]
    for figure in dict.fromkeys(run.figure_name for run in runs if run.figure_name is not None):
        of = {run.path for run in runs if run.figure_name == figure}
        row(f"{figure} before", lambda run, of=of: _figure(run, run.before) if run.path in of else "")  # type: ignore[misc]
        row(figure, lambda run, of=of: _figure(run, run.figure) if run.path in of else "")  # type: ignore[misc]
    row("training MACs", lambda run: units.show(run.training_macs, "count"))
    row("seconds", lambda run: f"{run.seconds:.1f}")
    for name, values in differences(runs).items():
        if name not in ("method", "seed"):
            rows.append([f"--{name.replace('_', '-')}", *(_value(value) for value in values)])
    return rows


def _used(run: Compared, name: str) -> str:
    if name not in run.total:
        return ""
    unit = RESOURCES[name].unit
    limit = f" of {units.show(run.limits[name], unit)}" if name in run.limits else ""
    return f"{units.show(run.total[name], unit)}{limit}"


def _figure(run: Compared, value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else units.figure(value, run.unit)


def _value(value: Any) -> str:
    return "" if value is None else elided(f"{value}", _SHORT)


#: What ``--format`` takes.
FORMATS: Mapping[str, Callable[[Sequence[Compared]], str]] = {"text": text, "markdown": markdown, "json": json, "html": html}
