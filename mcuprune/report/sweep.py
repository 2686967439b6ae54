"""The report of a sweep: a table of budgets and methods, and the task's figure against every resource with its Pareto front."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence

from mcuprune import escape, units
from mcuprune.costs.resources import RESOURCES, Basis, Resource
from mcuprune.report import page
from mcuprune.report import profile as report
from mcuprune.sweep.outcome import Finished, Outcome, document, spread

#: The file that a sweep can be gone on from.
DOCUMENT = "sweep.json"


def text(outcome: Outcome) -> str:
    """What ends a sweep."""
    table = _table(outcome)
    return report.plain_page(table, _sides(table[0]), _remarks(outcome))


def markdown(outcome: Outcome) -> str:
    """``sweep.md``."""
    table = _table(outcome)
    return report.markdown_page(f"Sweep of {outcome.model}", table, _sides(table[0]), _remarks(outcome))


def html(outcome: Outcome) -> str:
    """``sweep.html``: one page that needs nothing else."""
    table = _table(outcome)
    pictures = "".join(_figure(outcome, name, resource) for name, resource in _known(outcome).items())
    again = (
        f"<h2>To repeat this sweep</h2>\n<pre>{escape.markup(shlex.join(outcome.command))}</pre>\n" if outcome.command else ""
    )
    return page.of_table(
        f"Sweep of {outcome.model}", table, _sides(table[0]), _remarks(outcome), pictures, verdict=_verdict(outcome), end=again
    )


def _verdict(outcome: Outcome) -> tuple[bool, str]:
    """Whether all is well, and in words."""
    fitting, count = sum(run.ok for run in outcome.runs), len(outcome.runs)
    ok, others = outcome.ok and not outcome.refused, _state(outcome.runs)
    return ok, f"{fitting} of {count} networks {'fits' if fitting == 1 else 'fit'}{f'; {others}' if others else ''}"


def _table(outcome: Outcome) -> list[list[str]]:
    """Head and a row for each budget and method."""
    limited = list(dict.fromkeys(name for cell in outcome.cells() for name, _ in cell.limits))
    used = [resource.title for resource in _known(outcome).values()]
    figure = outcome.figure
    rows = [[*(f"--{name}" for name in limited), "method", "runs", figure.title if figure else "accuracy", *used, "binds", ""]]
    for cell, runs in outcome.cells().items():
        asked = dict(cell.limits)
        done = [run for run in runs if run.state == "done"]
        binds = dict.fromkeys(name for run in done for name in run.binding)
        costs = [_range([run.used(name) or 0 for run in done], resource) for name, resource in _known(outcome).items()]
        asked_for = [asked.get(name, "") for name in limited]
        rows.append([*asked_for, cell.method, f"{len(done)}", _spread(outcome, runs), *costs, ", ".join(binds), _state(runs)])
    return rows


def _spread(outcome: Outcome, runs: Sequence[Finished]) -> str:
    """Mean and standard deviation of the task's figure over runs."""
    known = spread([outcome.value(run) for run in runs])
    if outcome.figure is None or known is None:
        return ""
    mean = outcome.figure.shown(known.mean)
    if known.deviation is None:
        return mean
    return f"{mean} ± " + (f"{100 * known.deviation:.1f}" if outcome.figure.unit == "share" else f"{known.deviation:.2g}")


def _known(outcome: Outcome) -> dict[str, Resource]:
    """The resources that are known of some run, or of none where no run has ended: all that need no board."""
    ended = [run for run in outcome.runs if run.report is not None]
    return {
        name: r
        for name, r in RESOURCES.items()
        if any(run.used(name) is not None for run in ended) or not (ended or r.lacks(Basis()))
    }


def _sides(head: Sequence[str]) -> str:
    """``<`` or ``>`` for every column of the table."""
    left = ("method", "binds", "")
    return "".join("<" if title in left else ">" for title in head)


def _range(values: Sequence[int], resource: Resource) -> str:
    if not values:
        return ""
    low, high = units.show(min(values), resource.unit), units.show(max(values), resource.unit)
    return low if low == high else f"{low} to {high}"


def _state(runs: Sequence[Finished]) -> str:
    """What is to say of runs beyond their numbers."""
    over = sum(run.state == "done" and not run.ok for run in runs)
    counts = {
        "over the budget": over,
        **{state: sum(run.state == state for run in runs) for state in ("refused", "killed", "stopped", "waiting")},
    }
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


def _remarks(outcome: Outcome) -> list[str]:
    lines = []
    for name, resource in _known(outcome).items():
        if (figure := outcome.figure) is not None and (front := outcome.front(name)):
            points = (f"{_shown(outcome, run)} at {units.show(run.used(name) or 0, resource.unit)}" for run in front)
            lines.append(f"front of {figure.title} against {resource.title}: {', '.join(points)}")
    for what, changed in outcome.changed().items():
        others = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        lines.append(f"note: the {what} changed while the sweep went on: {changed[0]}{others} read another than the first run")
    messages: dict[str, list[str]] = {}
    for run in outcome.runs:
        if run.error is not None:
            messages.setdefault(run.error[1], []).append(run.run.name)
    for message, names in messages.items():
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        lines.append(f"no answer for {names[0]}{others}: {message}")
    return lines


def _shown(outcome: Outcome, run: Finished) -> str:
    """A run's figure for people; empty where it has none."""
    value = outcome.value(run)
    return "" if value is None or outcome.figure is None else outcome.figure.shown(value)


def _figure(outcome: Outcome, name: str, resource: Resource) -> str:
    """The figure of the task against one resource as a drawing; nothing where no run has one."""
    points = [
        page.Point(float(run.used(name) or 0), value, run.run.cell.method, run.run.name)
        for run in outcome.runs
        if (value := outcome.value(run)) is not None
    ]
    if not points or (figure := outcome.figure) is None:
        return ""
    front = [(float(run.used(name) or 0), outcome.value(run) or 0.0) for run in outcome.front(name)]
    drawing = page.scatter(points, front, lambda value: units.show(round(value), resource.unit), figure.unit)
    caption = escape.markup(f"{figure.title} against {resource.title}")
    return f"<figure><figcaption>{caption}</figcaption>{drawing}</figure>\n"


#: What a sweep writes into its folder.
PAGES: Mapping[str, Callable[[Outcome], str]] = {
    DOCUMENT: lambda outcome: report.dumped(document(outcome)),
    "sweep.md": markdown,
    "sweep.html": html,
}
