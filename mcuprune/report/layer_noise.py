"""What int8 costs in each layer, as a table and as curves, for the report of a prune."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcuprune import escape
from mcuprune.report import charts
from mcuprune.report.charts import Curve
from mcuprune.report.tables import html_table, markdown_table

_TITLE = "int8, layer by layer"
_HEAD, _SIDES = ["layer", "SNR so far", "SNR alone"], "<>>"


def markdown(report: Mapping[str, Any]) -> list[str]:
    """Lines of markdown; none where nothing was measured. report: what ``report.json`` holds."""
    noise = report.get("int8_layers")
    if not noise:
        return []
    rows = [[escape.code(layer["node"]), *_figures(layer)] for layer in noise["layers"]]
    return [f"## {_TITLE}", "", escape.inline(_said(report)), "", *markdown_table(_HEAD, _SIDES, rows)]


def html(report: Mapping[str, Any]) -> str:
    """The curves and, folded, the table; nothing where nothing was measured."""
    noise = report.get("int8_layers")
    if not noise:
        return ""
    rows = [[layer["node"], *_figures(layer)] for layer in noise["layers"]]
    listed = html_table(_HEAD, _SIDES, rows)
    return (
        f'<h2>{_TITLE}</h2>\n<p class="soft">{escape.markup(_said(report))}</p>\n{_drawing(noise)}'
        f"<details><summary>{len(rows)} layers</summary>{listed}</details>"
    )


def _said(report: Mapping[str, Any]) -> str:
    noise = report["int8_layers"]
    said = (
        f"Signal-to-noise ratio of what each layer makes, the int8 file against the same network before it was rounded, on "
        f"{noise['examples']} test examples: so far, with the noise of all layers before it, and of the layer alone, on the "
        f"inputs that it has in floats. 6 dB are one bit."
    )
    if (report.get("bands") or {}).get("regions"):
        said += " Layers in row bands count as one, where the bands end."
    known = [layer for layer in noise["layers"] if layer["own_snr_db"] is not None]
    if len(known) < 2:
        return said
    least = min(known, key=lambda layer: float(layer["own_snr_db"]))
    return f"{said} Least alone: {least['node']}, {_shown(least['own_snr_db'])}."


def _figures(layer: Mapping[str, Any]) -> list[str]:
    return [_shown(layer["snr_db"]), _shown(layer["own_snr_db"])]


def _shown(value: float | None) -> str:
    """A ratio for people; nothing where nothing varies or nothing differs."""
    return "" if value is None else f"{value:.1f} dB"


def _drawing(noise: Mapping[str, Any]) -> str:
    """Both ratios over the layers in the order of the file."""
    drawn = []
    for name, key in (("so far", "snr_db"), ("alone", "own_snr_db")):
        known = [(number, layer) for number, layer in enumerate(noise["layers"], 1) if layer[key] is not None]
        points = [(float(number), float(layer[key])) for number, layer in known]
        both = [f"so far {_shown(layer['snr_db'])}, alone {_shown(layer['own_snr_db'])}" for _, layer in known]
        tips = [f"{layer['node']}: SNR {figures}" for (_, layer), figures in zip(known, both, strict=True)]
        if points:
            drawn.append(Curve(name, points, tips))
    if not drawn or max(len(curve.points) for curve in drawn) < 2:
        return ""
    keys = ", ".join(f"{charts.key(index)} {curve.name}" for index, curve in enumerate(drawn))
    label = f"signal-to-noise ratio of {len(noise['layers'])} layers in the order of the file"
    drawing = charts.curves(drawn, lambda x: f"{x:g}", lambda y: f"{y:g} dB", label=label)
    caption = f"<figcaption>SNR over the layers: {keys}</figcaption>"
    return f'<figure style="max-width:34rem">{caption}{drawing}</figure>\n'
