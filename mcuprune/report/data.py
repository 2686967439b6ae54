"""The report of ``data``: one document, and what is drawn from it alone."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from mcuprune import console, escape
from mcuprune.data import pictures
from mcuprune.data.firmware import few, how_fed
from mcuprune.inspecting import Inspection, Range, sheet
from mcuprune.report import page
from mcuprune.report import profile as report

#: The table of classes ends here.
_MOST_CLASSES = 60
_SIDES = "<>>>>"


def document(seen: Inspection) -> dict[str, Any]:
    """What was found, as JSON values; accuracies are shares of 1."""
    data = seen.opened.data
    best = seen.opened.labels
    return console.document(
        "data",
        ok=seen.ok,
        path=seen.path,
        input={"name": seen.input, "shape": [1, *seen.shape]},
        data=data.name,
        kind=data.kind or None,
        classes=list(data.classes),
        splits={
            part: {"examples": count, "per_class": None if classes is None else list(classes)}
            for part, (count, classes) in seen.counts.items()
        },
        boxes={part: len(boxes.kind) for part, boxes in data.boxes.items()} or None,
        stored={"dtype": seen.dtype, **_range(seen.stored)},
        fed=_range(seen.fed),
        task=seen.task,
        preprocessing=seen.opened.preprocessing.document(),
        tried=[
            {
                "cause": way.cause,
                "accuracy": round(way.accuracy, 5),
                "examples": way.examples,
                "preprocessing": way.preprocessing.document(),
            }
            for way in seen.opened.tried
        ],
        model={
            "accuracy": seen.accuracy,
            "examples": seen.asked,
            "trained": seen.trained,
            "fresh": seen.fresh,
            "confusion": None if seen.confusion is None else seen.confusion.tolist(),
        },
        labels=None
        if best is None
        else {"cause": best.cause, "fix": best.fix, "number": list(best.number), "accuracy": round(best.accuracy, 5)},
        notes=list(seen.notes),
    )


def _range(span: Range) -> dict[str, Any]:
    return {
        key: [round(number, 6) for number in value] if isinstance(value, tuple) else value
        for key, value in asdict(span).items()
    }


def _lines(content: Mapping[str, Any]) -> list[str]:
    """What there is to say besides the table of classes."""
    stored, fed, how = content["stored"], content["fed"], content["preprocessing"]
    lines = [
        f"stored: {stored['dtype']}, {stored['low']:g}...{stored['high']:g}, "
        f"mean {few(stored['mean'])}, std {few(stored['std'])}",
        f"fed to {content['input']['name']} {content['input']['shape']}: {fed['low']:.4g}...{fed['high']:.4g}, "
        f"mean {few(fed['mean'])}, std {few(fed['std'])}",
        f"how: {how_fed(how)}",
    ]
    if how.get("frontend"):
        lines.append("front end: " + ", ".join(f"{key} {value}" for key, value in how["frontend"].items()))
    if content["boxes"]:
        lines.append("boxes: " + ", ".join(f"{count} in {part}" for part, count in content["boxes"].items()))
    model = content["model"]
    if model["accuracy"] is not None:
        knows = "knows these classes" if model["trained"] else "was never trained" if model["fresh"] else "knows nothing of it"
        lines.append(f"the model {knows}: right on {model['accuracy']:.1%} of {model['examples']} test examples")
    if content["tried"]:
        lines.append("tried:")
        lines += [f"  {way['accuracy']:6.1%} of {way['examples']}: {way['cause']}" for way in content["tried"][:6]]
    if content["labels"]:
        labels = content["labels"]
        lines.append(f"LABELS: {labels['cause']}: then right on {labels['accuracy']:.1%}; to mend an array: {labels['fix']}")
    return lines + [f"note: {note}" for note in content["notes"]]


def _table(content: Mapping[str, Any]) -> list[list[str]]:
    """Head and one row a class, and the sum."""
    splits = content["splits"]
    rows = [["class", *splits, "right"]]
    per_class = splits["train"]["per_class"]
    confusion = content["model"]["confusion"]
    for label in range(min(_MOST_CLASSES, len(per_class or ()))):
        name = content["classes"][label] if label < len(content["classes"]) else ""
        asked = sum(confusion[label]) if confusion else 0
        right = f"{confusion[label][label] / asked:.0%}" if asked else ""
        counts = [str((split["per_class"] or per_class)[label]) for split in splits.values()]
        rows.append([f"{label} {name}".rstrip(), *counts, right])
    model = content["model"]
    share = "" if model["accuracy"] is None else f"{model['accuracy']:.1%}"
    every = "all" if per_class else content["task"] or "no labels"
    return [*rows, [every, *(str(split["examples"]) for split in splits.values()), share]]


def text(content: Mapping[str, Any]) -> str:
    """For a terminal."""
    kind = f" ({content['kind']})" if content["kind"] else ""
    lines = [f"{escape.plain(content['data'])}{kind} for {escape.plain(content['path'])}", ""]
    table = [[escape.plain(cell) for cell in row] for row in _table(content)]
    return "\n".join([*lines, *report.align(table, _SIDES), "", *map(escape.plain, _lines(content))]) + "\n"


def markdown(content: Mapping[str, Any]) -> str:
    """For a page."""
    title = f"{content['data']} for {content['path']}"
    return report.markdown_page(title, _table(content), _SIDES, map(str.strip, _lines(content)))


def html(content: Mapping[str, Any], picture: bytes) -> str:
    """A page of its own, with the contact sheet in it."""
    image = base64.b64encode(picture).decode()
    drawn = f'<figure><img alt="training examples, one row a class" src="data:image/png;base64,{image}"></figure>'
    title = f"{content['data']} for {content['path']}"
    return page.of_table(title, _table(content), _SIDES, map(str.strip, _lines(content)), drawn)


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
