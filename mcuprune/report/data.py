"""The report of ``data``: one document, and what is drawn from it alone."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from mcuprune import __version__, escape
from mcuprune.data import pictures
from mcuprune.data.firmware import few, formula
from mcuprune.inspecting import Inspection, Range, sheet
from mcuprune.report import profile as report

FORMAT = 1
_MOST_CLASSES = 60


def document(seen: Inspection) -> dict[str, Any]:
    """What was found, as JSON values; accuracies are shares of 1."""
    data = seen.opened.data
    best = seen.opened.labels
    return {
        "format": FORMAT,
        "mcuprune": __version__,
        "command": "data",
        "ok": seen.ok,
        "path": seen.path,
        "input": {"name": seen.input, "shape": [1, *seen.shape]},
        "data": data.name,
        "kind": data.kind or None,
        "classes": list(data.classes),
        "splits": {
            part: {"examples": count, "per_class": None if classes is None else list(classes)}
            for part, (count, classes) in seen.counts.items()
        },
        "boxes": {part: len(boxes.kind) for part, boxes in data.boxes.items()} or None,
        "stored": {"dtype": seen.dtype, **_range(seen.stored)},
        "fed": _range(seen.fed),
        "preprocessing": seen.opened.preprocessing.document(),
        "tried": [
            {
                "cause": way.cause,
                "accuracy": round(way.accuracy, 5),
                "examples": way.examples,
                "preprocessing": way.preprocessing.document(),
            }
            for way in seen.opened.tried
        ],
        "model": {
            "accuracy": seen.accuracy,
            "examples": seen.asked,
            "trained": seen.trained,
            "fresh": seen.fresh,
            "confusion": None if seen.confusion is None else seen.confusion.tolist(),
        },
        "labels": None
        if best is None
        else {"cause": best.cause, "fix": best.fix, "number": list(best.number), "accuracy": round(best.accuracy, 5)},
        "notes": list(seen.notes),
    }


def _range(span: Range) -> dict[str, Any]:
    return {
        key: [round(number, 6) for number in value] if isinstance(value, tuple) else value
        for key, value in asdict(span).items()
    }


def _lines(document: Mapping[str, Any]) -> list[str]:
    """What there is to say besides the table of classes."""
    stored, fed, how = document["stored"], document["fed"], document["preprocessing"]
    lines = [
        f"stored: {stored['dtype']}, {stored['low']:g}...{stored['high']:g}, "
        f"mean {few(stored['mean'])}, std {few(stored['std'])}",
        f"fed to {document['input']['name']} {document['input']['shape']}: {fed['low']:.4g}...{fed['high']:.4g}, "
        f"mean {few(fed['mean'])}, std {few(fed['std'])}",
        f"how: {formula(how)}; found by {how['found_by']}",
    ]
    if how.get("frontend"):
        lines.append("front end: " + ", ".join(f"{key} {value}" for key, value in how["frontend"].items()))
    if document["boxes"]:
        lines.append("boxes: " + ", ".join(f"{count} in {part}" for part, count in document["boxes"].items()))
    model = document["model"]
    if model["accuracy"] is not None:
        knows = "knows these classes" if model["trained"] else "was never trained" if model["fresh"] else "knows nothing of it"
        lines.append(f"the model {knows}: right on {model['accuracy']:.1%} of {model['examples']} test examples")
    if document["tried"]:
        lines.append("tried:")
        lines += [f"  {way['accuracy']:6.1%} of {way['examples']}: {way['cause']}" for way in document["tried"][:6]]
    if document["labels"]:
        labels = document["labels"]
        lines.append(f"LABELS: {labels['cause']}: then right on {labels['accuracy']:.1%}; to mend an array: {labels['fix']}")
    return lines + [f"note: {note}" for note in document["notes"]]


def _table(document: Mapping[str, Any]) -> list[list[str]]:
    """Head and one row a class, and the sum."""
    splits = document["splits"]
    rows = [["class", *splits, "right"]]
    per_class = splits["train"]["per_class"]
    confusion = document["model"]["confusion"]
    for label in range(min(_MOST_CLASSES, len(per_class or ()))):
        name = document["classes"][label] if label < len(document["classes"]) else ""
        asked = sum(confusion[label]) if confusion else 0
        right = f"{confusion[label][label] / asked:.0%}" if asked else ""
        counts = [str((split["per_class"] or per_class)[label]) for split in splits.values()]
        rows.append([f"{label} {name}".rstrip(), *counts, right])
    model = document["model"]
    share = "" if model["accuracy"] is None else f"{model['accuracy']:.1%}"
    return [*rows, ["all" if per_class else "no labels", *(str(split["examples"]) for split in splits.values()), share]]


def text(document: Mapping[str, Any]) -> str:
    """For a terminal."""
    kind = f" ({document['kind']})" if document["kind"] else ""
    lines = [f"{escape.plain(document['data'])}{kind} for {escape.plain(document['path'])}", ""]
    table = [[escape.plain(cell) for cell in row] for row in _table(document)]
    return "\n".join([*lines, *report.align(table, "<>>>>"), "", *map(escape.plain, _lines(document))]) + "\n"


def markdown(document: Mapping[str, Any]) -> str:
    """For a page."""
    head, *rows = _table(document)
    table = report.markdown_table(head, ["<", ">", ">", ">", ">"], [[escape.inline(cell) for cell in row] for row in rows])
    lines = [f"# {escape.inline(document['data'])} for {escape.inline(document['path'])}", "", *table, ""]
    return "\n".join([*lines, *(f"* {escape.inline(line.strip())}" for line in _lines(document))]) + "\n"


def html(document: Mapping[str, Any], picture: bytes) -> str:
    """A page of its own, with the contact sheet in it."""
    head, *rows = _table(document)
    image = base64.b64encode(picture).decode()
    items = "".join(f"<li>{escape.markup(line.strip())}</li>" for line in _lines(document))
    title = f"{escape.markup(document['data'])} for {escape.markup(document['path'])}"
    return (
        f"<!doctype html>\n<meta charset='utf-8'>\n<title>{title}</title>\n<h1>{title}</h1>\n"
        f"{report.html_table(head, '<>>>>', rows)}\n<ul>{items}</ul>\n"
        f"<img alt='training examples, one row a class' src='data:image/png;base64,{image}'>\n"
    )


def png(seen: Inspection) -> bytes:
    """The contact sheet as a PNG file."""
    return pictures.png(sheet(seen))


#: How ``--format`` is written.
FORMATS: Mapping[str, Callable[[Mapping[str, Any], Inspection], str]] = {
    "text": lambda document, seen: text(document),
    "markdown": lambda document, seen: markdown(document),
    "json": lambda document, seen: report.dumped(document),
    "html": lambda document, seen: html(document, png(seen)),
}
