"""The report of a portfolio, drawn from its document alone: a table of variants, and accuracy against every resource."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mcuprune import escape, units
from mcuprune.costs.resources import RESOURCES, Resource
from mcuprune.report import page
from mcuprune.report import profile as report

Document = Mapping[str, Any]


def text(document: Document) -> str:
    """What ends a run."""
    table = _table(document)
    return report.plain_page(table, _sides(table[0]), _remarks(document))


def markdown(document: Document) -> str:
    """``portfolio.md``."""
    table = _table(document)
    return report.markdown_page(f"Portfolio of {document['model']}", table, _sides(table[0]), _remarks(document))


def html(document: Document) -> str:
    """``portfolio.html``: one page that needs nothing else."""
    table = _table(document)
    pictures = "".join(_figure(document, name, resource) for name, resource in _known(document).items())
    return page.of_table(f"Portfolio of {document['model']}", table, _sides(table[0]), _remarks(document), pictures)


def _known(document: Document) -> dict[str, Resource]:
    """The resources that are known of every variant; time is where a board is."""
    return {
        name: resource for name, resource in RESOURCES.items() if all(name in entry["used"] for entry in document["variants"])
    }


def _sides(head: Sequence[str]) -> str:
    """``<`` or ``>`` for every column of the table."""
    return "<" + ">" * (len(head) - 3) + "<<"


def _table(document: Document) -> list[list[str]]:
    """Head, a row for each variant, and what all take together."""
    resources = _known(document)
    titles = [resource.title for resource in resources.values()]
    figure = document["variants"][0]["metric"]
    rows = [["variant", f"{figure['title']} (int8)", *titles, "Pareto", ""]]
    for entry in document["variants"]:
        costs = [units.show(entry["used"][name], resource.unit) for name, resource in resources.items()]
        over = [f"{RESOURCES[name].title} over" for name, limit in entry["limits"].items() if not limit["ok"]]
        rows.append(
            [
                entry["name"],
                units.figure(entry["metric"]["int8"], figure["unit"]),
                *costs,
                "yes" if entry["pareto"] else "",
                "fits" if entry["ok"] else f"DOES NOT FIT: {', '.join(over)}",
            ]
        )
    return rows


def _remarks(document: Document) -> list[str]:
    title = document["variants"][0]["metric"]["title"]
    lines = [f"{title}: on {document['test_examples']} test examples of {document['data']}, in onnxruntime"]
    flash, largest = document["flash"]["sum"], document["sram"]["largest"]
    lines.append(
        f"on a chip together: {units.show(flash, 'bytes')} of flash, the sum, since each has int8 weights of its own, and "
        f"{units.show(largest, 'bytes')} of SRAM, the largest"
    )
    cost = document["cost"]
    if macs_of_one := cost["one_training_macs"]:
        lines.append(f"training: {cost['training_macs'] / macs_of_one:.2f} times what one training of the whole network takes")
    return [*lines, *(f"note: {note}" for note in document["notes"])]


def _figure(document: Document, name: str, resource: Resource) -> str:
    """The figure of the task against one resource as a drawing."""
    known = document["variants"]
    figure = known[0]["metric"]
    points = [
        page.Point(float(entry["used"][name]), entry["metric"]["int8"], document["mode"], entry["name"]) for entry in known
    ]
    front = sorted((float(entry["used"][name]), float(entry["metric"]["int8"])) for entry in known if entry["pareto"])
    drawing = page.scatter(points, front, lambda value: units.show(round(value), resource.unit), figure["unit"])
    caption = escape.markup(f"{figure['title']} against {resource.title}")
    return f"<figure><figcaption>{caption}</figcaption>{drawing}</figure>\n"


#: What a portfolio has in its folder beside its networks.
PAGES: Mapping[str, Callable[[Document], str]] = {
    "portfolio.json": report.dumped,
    "portfolio.md": markdown,
    "portfolio.html": html,
}
