"""The report of a portfolio, drawn from its document alone: a table of variants, and accuracy against every resource."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mcuprune import escape, units
from mcuprune.costs.resources import RESOURCES, Resource
from mcuprune.report import page
from mcuprune.report import profile as report

Document = Mapping[str, Any]


def text(document: Document) -> str:
    """What ends a run."""
    head, *rows = _table(document)
    return "\n".join(escape.plain(line) for line in [*report.align([head, *rows], _SIDES), "", *_remarks(document)]) + "\n"


def markdown(document: Document) -> str:
    """``portfolio.md``."""
    head, *rows = _table(document)
    lines = [f"# Portfolio of {escape.inline(document['model'])}", ""]
    lines += report.markdown_table(head, list(_SIDES), [[escape.inline(cell) for cell in row] for row in rows])
    return "\n".join([*lines, "", *(f"* {escape.inline(line)}" for line in _remarks(document))]) + "\n"


def html(document: Document) -> str:
    """``portfolio.html``: one page that needs nothing else."""
    head, *rows = _table(document)
    pictures = "".join(_figure(document, name, resource) for name, resource in RESOURCES.items())
    remarks = "".join(f"<li>{escape.markup(line)}</li>" for line in _remarks(document))
    body = f"{report.html_table(head, _SIDES, rows)}\n{pictures}<ul>{remarks}</ul>\n"
    return page.html(f"Portfolio of {document['model']}", body)


_SIDES = "<" + ">" * (1 + len(RESOURCES)) + "<<"


def _table(document: Document) -> list[list[str]]:
    """Head, a row for each variant, and what all take together."""
    titles = [resource.title for resource in RESOURCES.values()]
    rows = [["variant", "accuracy (int8)", *titles, "Pareto", ""]]
    for entry in document["variants"]:
        share = entry["accuracy_int8"]
        costs = [units.show(entry["total"][name], resource.unit) for name, resource in RESOURCES.items()]
        over = [f"{RESOURCES[name].title} over" for name, limit in entry["limits"].items() if not limit["ok"]]
        rows.append(
            [
                entry["name"],
                "" if share is None else f"{share:.1%}",
                *costs,
                "yes" if entry["pareto"] else "",
                "fits" if entry["ok"] else f"DOES NOT FIT: {', '.join(over)}",
            ]
        )
    return rows


def _remarks(document: Document) -> list[str]:
    lines = [f"accuracy: on {document['test_examples']} test examples of {document['data']}, in onnxruntime"]
    flash, largest = document["flash"]["sum"], document["sram"]["largest"]
    lines.append(
        f"on a chip together: {units.show(flash, 'bytes')} of flash, the sum, since each has int8 weights of its own, and "
        f"{units.show(largest, 'bytes')} of SRAM, the largest"
    )
    cost = document["cost"]
    if one := cost["one_training_macs"]:
        lines.append(f"training: {cost['training_macs'] / one:.2f} times what one training of the whole network takes")
    return [*lines, *(f"note: {note}" for note in document["notes"])]


def _figure(document: Document, name: str, resource: Resource) -> str:
    """Accuracy against one resource as a drawing; nothing where no accuracy is known."""
    known = [entry for entry in document["variants"] if entry["accuracy_int8"] is not None]
    if not known:
        return ""
    points = [
        page.Point(float(entry["total"][name]), entry["accuracy_int8"], document["mode"], entry["name"]) for entry in known
    ]
    front = sorted((float(entry["total"][name]), float(entry["accuracy_int8"])) for entry in known if entry["pareto"])
    drawing = page.scatter(points, front, lambda value: units.show(round(value), resource.unit))
    return f"<figure><figcaption>accuracy against {escape.markup(resource.title)}</figcaption>{drawing}</figure>\n"


#: What a portfolio has in its folder beside its networks.
PAGES: Mapping[str, Callable[[Document], str]] = {
    "portfolio.json": report.dumped,
    "portfolio.md": markdown,
    "portfolio.html": html,
}
