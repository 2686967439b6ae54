"""``report.html``: the page of one prune, drawn from its document alone. One file, no scripts, no network."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

from mcuprune import escape, units
from mcuprune.costs.resources import RESOURCES
from mcuprune.data.firmware import how_fed
from mcuprune.report import charts, layer_noise, page
from mcuprune.report import sensitivity as sensitive
from mcuprune.report.charts import Curve
from mcuprune.report.page import named
from mcuprune.report.pruned import remarks, score, shown, stages, table, task_of
from mcuprune.report.tables import html_table
from mcuprune.report.width import elided

Document = Mapping[str, Any]
#: A confusion matrix of more classes is wider than a screen; its most frequent mistakes are listed in its place.
_MATRIX = 20
_MISTAKES, _EXAMPLES = 12, 60


def html(document: Document) -> str:
    """The whole page. document: what ``report.json`` holds."""
    parts = [
        _verdict(document),
        _budget(document),
        outcome(document),
        _training(document),
        _memory(document),
        _network(document),
    ]
    parts += [
        _classes(document),
        _changed(document),
        _preprocessing(document),
        layer_noise.html(document),
        _groups(document),
        _repeat(document),
    ]
    return page.html(f"{document['before']['path']} → {document['after']['path']}", "\n".join(part for part in parts if part))


def _verdict(document: Document) -> str:
    over = [name for name, limit in document["limits"].items() if not limit["ok"]]
    lost = document.get("bisection") is not None and document["bisection"]["best"] is None
    if document["ok"]:
        said = "Fits: every limit holds"
    else:
        why = [f"{RESOURCES[name].title} is over by {_amount(name, _excess(document, name))}" for name in over]
        said = f"Does not fit: {', '.join([*why, *(['no network that was tried is above the floor'] if lost else [])])}"
    metric = task_of(document)
    if metric is not None:
        after = metric["after_int8"] or metric["after_float"]
        said += f"; {metric['shown_as']} {shown(metric, metric['before']['value'])} → {shown(metric, after['value'])}"
    return page.told(bool(document["ok"]), said)


def _excess(document: Document, name: str) -> int:
    return int(document["limits"][name]["used"] - document["limits"][name]["limit"])


def _amount(name: str, value: float) -> str:
    return units.show(round(value), RESOURCES[name].unit)


def _own(document: Document, name: str) -> int | None:
    """What the network as it came costs by the measure that a limit is held against; None where that isn't known."""
    limited = RESOURCES[name].under(document.get(f"{name}_model"))
    part, key = limited.place or ("total", limited.name)
    value = document["before"][part].get(key)
    return None if value is None else int(value)


def _budget(document: Document) -> str:
    """A bar for each limit: what the network takes, what it took before, a mark at the limit."""
    bars = []
    for name, limit in document["limits"].items():
        before, used, most = _own(document, name), limit["used"], limit["limit"]
        scale = 1.02 * max(before or 0, used, most, 1)
        was = "" if before is None else f", was {_amount(name, before)}"
        said = f"{RESOURCES[name].title}: {_amount(name, used)} of {_amount(name, most)}{was}"
        if not limit["ok"]:
            said += f"; over by {_amount(name, used - most)}"
        old = "" if before is None else f'<span class="was" style="width:{100 * before / scale:.1f}%"></span>'
        bars.append(
            f'<div class="bar"><div>{escape.markup(said)}</div>'
            f'<div class="track" role="img" aria-label="{escape.markup(said)}">'
            f'<span class="now{"" if limit["ok"] else " over"}" style="width:{100 * used / scale:.1f}%"></span>{old}'
            f'<span class="limit" style="left:{100 * most / scale:.1f}%"></span></div></div>'
        )
    key = '<p class="soft">Upper bar: the network that was written. Lower bar: as it came. Mark: the limit.</p>'
    return f"<h2>Budget</h2>\n{''.join(bars)}\n{key}" if bars else ""


def outcome(document: Document) -> str:
    """The table that ends a run, budgets that were tried, and remarks."""
    head, *rows = table(document)
    parts = ["<h2>What came out</h2>", html_table(head, "<>>>>>", rows)]
    if document.get("bisection"):
        head, *rows = stages(document)
        parts += ["<h3>Budgets that were tried</h3>", html_table(head, "<>>>>", rows)]
    parts.append("<ul>" + "".join(f"<li>{escape.markup(line)}</li>" for line in remarks(document)) + "</ul>")
    return "\n".join(parts)


# -------------------------------------------------------------------------------------------------------------- training


def _training(document: Document) -> str:
    """Curves over the multiply-accumulates of training: loss, the task's figure, each resource, widths."""
    history = document["history"]
    if len(history) < 2:
        return ""
    figures = [_figure("loss", [Curve("loss", _points(history, lambda step: step["loss"]))], lambda y: f"{y:.3g}")]
    metric = task_of(document)
    if metric is not None and sum(score(step) is not None for step in history) > 1:
        evaluated = [step for step in history if score(step) is not None]
        curve = Curve(metric["shown_as"], _points(evaluated, lambda step: score(step) or 0.0), _tips(evaluated, metric))
        figures.append(_figure(f"{metric['shown_as']} on validation examples", [curve], lambda y: shown(metric, y)))
    for name, limit in document["limits"].items():
        known = [step for step in history if step.get(name) is not None]
        if len(known) > 1:
            curve = Curve(RESOURCES[name].title, _points(known, itemgetter(name)))
            figures.append(_figure(f"{RESOURCES[name].title} and its limit", [curve], partial(_amount, name), limit["limit"]))
    figures += _widths(document)
    axis = '<p class="soft">Over multiply-accumulates of training. Points show step and epoch where one hovers.</p>'
    return f'<h2>Training</h2>\n{axis}<div class="grid">{"".join(figures)}</div>'


def _widths(document: Document) -> list[str]:
    """Channels of each group as a share of its own, one thin line each."""
    known = [step for step in document["history"] if step.get("widths")]
    groups = document["groups"]
    if len(known) < 2 or not groups or any(len(step["widths"]) != len(groups) for step in known):
        return []  # a later stage of a search began with fewer groups, and no line goes through both
    drawn = []
    for index, group in enumerate(groups):
        whole = max(1, group["before"])
        points = [(float(step.get("training_macs", step["step"])), step["widths"][index] / whole) for step in known]
        drawn.append(Curve(f"{group['name']}: {group['before']} → {group['after']}", points, thin=True))
    return [_figure("channels of each group that are left", drawn, lambda y: f"{y:.0%}")]


def _points(history: Sequence[Document], value: Callable[[Any], float]) -> list[tuple[float, float]]:
    return [(float(step.get("training_macs", step["step"])), float(value(step))) for step in history]


def _tips(history: Sequence[Document], metric: Document) -> list[str]:
    return [
        f"{step['phase']}, step {step['step']}, epoch {step['epoch']:g}: {shown(metric, score(step))}, loss {step['loss']:.4g}"
        for step in history
    ]


def _figure(title: str, drawn: Sequence[Curve], show: Callable[[float], str], limit: float | None = None) -> str:
    last = ", ".join(f"{curve.name} ends at {show(curve.points[-1][1])}" for curve in drawn[:3])
    drawing = charts.curves(drawn, lambda x: units.show(round(x), "count"), show, limit=limit, label=f"{title}: {last}")
    return f"<figure><figcaption>{escape.markup(title)}</figcaption>{drawing}</figure>"


# ------------------------------------------------------------------------------------------------------ memory and layers


def _memory(document: Document) -> str:
    """Memory over the schedule before and after at one scale, each peak named, and the limit as a line."""
    limited = document["limits"].get("sram")
    of_peak = limited is not None and document.get("sram_model", "peak") == "peak"
    limit = limited["limit"] if of_peak else None
    ceiling = max([1, *(document[when]["memory"]["peak"] for when in ("before", "after"))])
    figures = []
    for when in ("before", "after"):
        memory = document[when]["memory"]
        if not memory["timeline"]:
            continue
        peak = units.show(memory["peak"], "bytes")
        label = f"memory over the schedule {when}, {len(memory['timeline'])} steps, peak {peak}"
        alive = ", ".join(
            f"{named(tensor['name'])} {units.show(tensor['bytes'], 'bytes')}" for tensor in memory["peak_tensors"]
        )
        at = "" if memory["peak_node"] is None else f" at {named(memory['peak_node'])}, with {alive} alive"
        drawing = charts.memory(memory, ceiling, limit, label)
        figures.append(f"<figure><figcaption>{when}: peak of {peak}{at}</figcaption>{drawing}</figure>")
    if not figures:
        return ""
    line = f"; the dashed line is the limit, {units.show(limit, 'bytes')}" if limit is not None and limit <= ceiling else ""
    key = f'<p class="soft">A bar a step, made of the tensors alive; the triangle is at the peak{line}. One scale for both.</p>'
    return f'<h2>Memory over the schedule</h2>\n{key}<div class="grid">{"".join(figures)}</div>'


def _network(document: Document) -> str:
    """The layers before and after, drawn to one scale."""
    layers = [layer for when in ("before", "after") for layer in document[when]["layers"]]
    if not layers:
        return ""
    largest = {key: max(layer[key] for layer in layers) for key in ("live", "macs")}
    figures = []
    for when in ("before", "after"):
        total = document[when]["total"]
        said = f"{when}: {units.show(total['macs'], 'count')} MACs, {units.show(total['sram'], 'bytes')} of SRAM"
        drawing = charts.graph(document[when], largest, f"the network {said}")
        figures.append(
            f'<figure><figcaption>{escape.markup(said)}</figcaption><div class="scroll" tabindex="0">{drawing}</div></figure>'
        )
    key = (
        '<p class="soft">A box a layer, in order: as wide as the memory alive while it runs, as tall as its '
        "multiply-accumulates; the layer at the peak is orange. Hovering shows the numbers.</p>"
    )
    return f'<h2>The network</h2>\n{key}<div class="grid">{"".join(figures)}</div>'


# --------------------------------------------------------------------------------------------------------------- classes


def _class(document: Document, number: int) -> str:
    names = document.get("classes") or []
    return f"{names[number]}" if 0 <= number < len(names) else f"{number}"


def _class_cell(document: Document, number: int) -> str:
    """The name of a class for the cell of a table, which is as wide as what stands in it."""
    return elided(_class(document, number), 40)


def _classes(document: Document) -> str:
    """Of each class how many examples are right, before and after; the matrices, or the most frequent mistakes."""
    confusion = document.get("confusion")
    if confusion is None:
        return ""
    before, after = confusion["before"], confusion["after"]
    rows = []
    for number in range(confusion["classes"]):
        count, was, now = before["targets"][number], before["right"][number], after["right"][number]
        if count or after["named"][number]:
            shares = [f"{was / count:.1%}", f"{now / count:.1%}", f"{now - was:+d}"] if count else ["", "", ""]
            precision = f"{now / after['named'][number]:.1%}" if after["named"][number] else ""
            rows.append([_class_cell(document, number), str(count), *shares, precision])
    head = ["class", "examples", "found before", "found after", "change", "right where named"]
    parts = ["<h2>Classes</h2>", html_table(head, "<>>>>>", rows)]
    if confusion["classes"] <= _MATRIX and "counts" in after:
        both = [(when, confusion[when]["counts"]) for when in ("before", "after")]
        parts.append(f'<div class="grid">{"".join(_matrix(document, when, counts) for when, counts in both)}</div>')
    else:
        mistakes = _mistakes(after)[:_MISTAKES]
        listed = [
            [_class_cell(document, target), _class_cell(document, answer), str(count)] for target, answer, count in mistakes
        ]
        parts += ["<h3>Most frequent mistakes after</h3>", html_table(["class", "taken for", "examples"], "<<>", listed)]
    return "\n".join(parts)


def _mistakes(counted: Document) -> list[tuple[int, int, int]]:
    if "mistakes" in counted:
        return [(target, answer, count) for target, answer, count in counted["mistakes"]]
    pairs = [
        (target, answer, count)
        for target, row in enumerate(counted["counts"])
        for answer, count in enumerate(row)
        if count and target != answer
    ]
    return sorted(pairs, key=lambda pair: -pair[2])


def _matrix(document: Document, when: str, counts: Sequence[Sequence[int]]) -> str:
    """A row a class, a column an answer; the darker, the larger the share of the row."""
    head = "".join(f"<th>{named(_class(document, number), 8)}</th>" for number in range(len(counts)))
    rows = []
    for number, row in enumerate(counts):
        whole = max(1, sum(row))
        cells = "".join(
            f'<td style="background:rgb({"0 114 178" if column == number else "213 94 0"}/{0.35 * count / whole:.2f})">'
            f"{count or ''}</td>"
            for column, count in enumerate(row)
        )
        rows.append(f"<tr><th>{named(_class(document, number), 14)}</th>{cells}</tr>")
    caption = f"{when}: a row a class, a column an answer"
    drawn = f'<table class="matrix"><tr><th></th>{head}</tr>{"".join(rows)}</table>'
    return f"<figure><figcaption>{caption}</figcaption>{drawn}</figure>"


def _changed(document: Document) -> str:
    """Examples that the written file names another class for."""
    changed = document.get("changed")
    if changed is None:
        return ""
    said = (
        f"{changed['count']} of {changed['of']} test examples have another class than before: {changed['became_wrong']} became "
        f"wrong, {changed['became_right']} became right."
    )
    rows = [
        [str(example["index"]), *(_class_cell(document, example[key]) for key in ("target", "before", "after"))]
        for example in changed["examples"][:_EXAMPLES]
    ]
    more = changed["count"] - len(rows)
    parts = ["<h2>Examples that changed their class</h2>", f"<p>{said}</p>"]
    if rows:
        listed = html_table(["index in the test set", "class", "before", "after"], "><<<", rows)
        rest = f"<p>{more} more; report.json has up to a thousand.</p>" if more > 0 else ""
        parts.append(f"<details><summary>Which ones</summary>{listed}{rest}</details>")
    return "\n".join(parts)


# ------------------------------------------------------------------------------------------------------------------- rest


def _preprocessing(document: Document) -> str:
    how = document.get("preprocessing")
    if not how:
        return ""
    said = f"<p>{escape.markup(how_fed(how))}.</p>"
    rows = [[name.replace("_", " "), _short(value)] for name, value in how.items() if value not in (None, [], "")]
    return f"<h2>Preprocessing</h2>\n{said}\n{html_table(['', ''], '<<', rows)}"


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return text if len(text) <= 120 else f"{text[:110]} ... ({len(text)} characters)"


def _groups(document: Document) -> str:
    rows = [[group["name"], str(group["before"]), str(group["after"])] for group in document["groups"]]
    listed = html_table(["group", "before", "after"], "<>>", rows)
    parts = [f"<h2>Groups of channels</h2>\n<details><summary>{len(rows)} groups</summary>{listed}</details>"]
    if document.get("sensitivity"):
        parts += ["<h2>Sensitivity</h2>", sensitive.html(document["sensitivity"])]
    return "\n".join(parts)


def _repeat(document: Document) -> str:
    """The command, what it read, and on what it ran."""
    run = document.get("run")
    if run is None:
        return ""
    options = [[name, _short(value)] for name, value in run["options"].items() if value not in (None, [])]
    facts = [
        ["model", f"{run['model']['path']}, SHA-256 {run['model']['sha256']}"],
        *([f"content of the {name}", str(digest)] for name, digest in run["contents"].items() if digest),
        *([name, str(version)] for name, version in run["versions"].items() if version),
        *([name, str(value)] for name, value in run["machine"].items() if value),
        ["time", f"{document['cost']['seconds']:g} s"],
    ]
    return (
        "<h2>To repeat this run</h2>\n"
        f"<pre>{escape.markup(shlex.join(run['command']))}</pre>\n<p>or, from the file beside this page:</p>\n"
        "<pre>mcuprune prune --from report.json</pre>\n"
        f"<details><summary>What it ran on</summary>{html_table(['', ''], '<<', facts)}</details>\n"
        f"<details><summary>All options</summary>{html_table(['option', 'value'], '<<', options)}</details>"
    )
