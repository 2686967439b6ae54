"""Drawings for the page of a prune, as SVG without scripts: curves, memory over the schedule, the network as boxes.

Each is 360 wide, so that its letters are readable on a phone; what one hovers shows the numbers. Names are escaped here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mcuprune import escape
from mcuprune.immutable import immutable
from mcuprune.report.page import COLOURS, padded, ticks
from mcuprune.report.width import elided
from mcuprune.units import show

_WIDTH, _HEIGHT = 360, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 10, 10, 26
#: More points than these can't be told apart on a curve.
_POINTS = 150
_DASHES = ("", "5 3", "2 2", "8 3 2 3")
#: Of a name in a drawing.
_NAME = 26
#: Of a box of the network: what every layer gets, and what the largest has more.
_BOX, _TALLEST, _NARROWEST, _WIDEST = 13, 30, 10, 130


@immutable
class Curve:
    """A line of a chart. points: (x, y). tips: what hovering a point shows; empty for none. thin: one of many."""

    name: str
    points: Sequence[tuple[float, float]]
    tips: Sequence[str] = ()
    thin: bool = False


def curves(
    drawn: Sequence[Curve],
    show_x: Callable[[float], str],
    show_y: Callable[[float], str],
    *,
    limit: float | None = None,
    label: str,
) -> str:
    """Curves over one axis. limit: a dashed line. label: what the picture shows, for those who don't see it."""
    xs = [x for curve in drawn for x, _ in curve.points]
    ys = [y for curve in drawn for _, y in curve.points] + ([] if limit is None else [limit])
    low_x, high_x = min(xs), max(xs)
    high_x = high_x if high_x > low_x else low_x + 1
    low_y, high_y = padded(ys)
    low_y = max(low_y, 0.0) if min(ys) >= 0 else low_y

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            round(_LEFT + (x - low_x) / (high_x - low_x) * (_WIDTH - _LEFT - _RIGHT), 1),
            round(_HEIGHT - _BOTTOM - (y - low_y) / (high_y - low_y) * (_HEIGHT - _TOP - _BOTTOM), 1),
        )

    parts = [_open(_WIDTH, _HEIGHT, label)]
    for value in ticks(low_y, high_y):
        _, y = at(low_x, value)
        parts.append(f'<path class="axis" d="M{_LEFT} {y}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 4}" y="{y + 4}" text-anchor="end">{escape.markup(show_y(value))}</text>')
    for value in ticks(low_x, high_x)[:: 2 if len(ticks(low_x, high_x)) > 4 else 1]:
        x, _ = at(value, low_y)
        parts.append(f'<text x="{x}" y="{_HEIGHT - 8}" text-anchor="middle">{escape.markup(show_x(value))}</text>')
    if limit is not None:
        parts.append(f'<path class="limit" d="M{_LEFT} {at(low_x, limit)[1]}H{_WIDTH - _RIGHT}"/>')
    for index, curve in enumerate(drawn):
        parts.append(_line(curve, index, at))
    return "".join([*parts, "</svg>"])


def _line(curve: Curve, index: int, at: Callable[[float, float], tuple[float, float]]) -> str:
    stride = max(1, -(-len(curve.points) // _POINTS))
    kept = sorted({*range(0, len(curve.points), stride), len(curve.points) - 1})
    places = [at(*curve.points[i]) for i in kept]
    path = "M" + "L".join(f"{x} {y}" for x, y in places)
    colour, dash = COLOURS[index % len(COLOURS)], _DASHES[index // len(COLOURS) % len(_DASHES)]
    width = 1 if curve.thin else 2
    style = f'fill="none" stroke="{colour}" stroke-width="{width}"{f" stroke-dasharray={dash!r}" if dash else ""}'
    parts = [f'<g><path d="{path}" {style}/><title>{escape.markup(curve.name)}</title></g>']
    if curve.tips:
        for i, (x, y) in zip(kept, places, strict=True):
            tip = escape.markup(curve.tips[i])
            parts.append(f'<g><circle class="dot" cx="{x}" cy="{y}" r="2.5" fill="{colour}"/><title>{tip}</title></g>')
    return "".join(parts)


def memory(memory: Mapping[str, Any], ceiling: int, limit: int | None, label: str) -> str:
    """Memory over the schedule: a bar a step, made of the tensors alive; a triangle over the peak, a dashed line at the limit.

    memory: that of a profile's JSON. ceiling: what the top of the drawing stands for, in bytes.
    """
    steps, height, foot = memory["timeline"], 150, 4
    room = height - foot - 14
    pitch = _WIDTH / max(1, len(steps))
    wide = max(round(pitch * 0.9, 1), 0.4)
    colours: dict[str, int] = {}
    parts = [_open(_WIDTH, height, label)]
    for number, step in enumerate(steps):
        x, y = round(number * pitch, 1), float(height - foot)
        boxes = []
        for tensor in step["tensors"]:
            index = colours.setdefault(tensor["name"], len(colours))
            tall = tensor["bytes"] / ceiling * room
            y -= tall
            boxes.append(
                f'<rect x="{x}" y="{y:.1f}" width="{wide}" height="{tall:.1f}" fill="{COLOURS[index % len(COLOURS)]}"/>'
            )
        alive = ", ".join(f"{elided(tensor['name'], _NAME)} {show(tensor['bytes'], 'bytes')}" for tensor in step["tensors"])
        tip = f"{elided(step['node'])}: {show(step['bytes'], 'bytes')}; alive: {elided(alive, 400)}"
        if step["node"] == memory["peak_node"]:
            boxes.append(f'<path d="M{x + wide / 2:.1f} {y - 2:.1f}l-5 -9h10z" fill="var(--ink)"/>')
            tip = f"peak at {tip}"
        parts.append(f"<g>{''.join(boxes)}<title>{escape.markup(tip)}</title></g>")
    if limit is not None and limit <= ceiling:
        y = height - foot - limit / ceiling * room
        parts.append(f'<path class="limit" d="M0 {y:.1f}H{_WIDTH}"/>')
    return "".join([*parts, "</svg>"])


def graph(profile: Mapping[str, Any], largest: Mapping[str, int], label: str) -> str:
    """The layers of a network in their order, top to bottom: boxes as wide as their memory and as tall as their MACs.

    profile: its JSON. largest: ``live`` and ``macs`` of the largest box of all drawings that are compared. Lines lead
    from a layer to its readers; those that skip layers run on the left. Nodes that cost nothing are left out.
    """
    layers = [layer for layer in profile["layers"] if layer["live"] or layer["macs"] or layer["flash"]]
    place: dict[str, tuple[float, float]] = {}
    row: dict[str, int] = {}
    boxes, y, left = [], 4.0, 52
    for number, layer in enumerate(layers):
        tall = _BOX + round(_TALLEST * layer["macs"] / max(1, largest["macs"]))
        wide = _NARROWEST + round(_WIDEST * layer["live"] / max(1, largest["live"]))
        shape = "x".join(map(str, layer["shape"]))
        tip = (
            f"{elided(layer['node'])} ({layer['op']}, {shape}): {show(layer['live'], 'bytes')} of SRAM, "
            f"{show(layer['macs'], 'count')} MACs, {show(layer['flash'], 'bytes')} of flash"
        )
        colour = COLOURS[1] if layer["node"] == profile["memory"]["peak_node"] else COLOURS[0]
        name = escape.markup(elided(layer["node"], _NAME))
        boxes.append(
            f'<g><rect x="{left}" y="{y}" width="{wide}" height="{tall}" fill="{colour}"/>'
            f'<text class="name" x="{left + wide + 5}" y="{y + tall / 2 + 4}">{name}</text>'
            f"<title>{escape.markup(tip)}</title></g>"
        )
        place[layer["node"]], row[layer["node"]] = (y, y + tall), number
        y += tall + 5
    return "".join([_open(_WIDTH, round(y), label), *_edges(profile, place, row, left), *boxes, "</svg>"])


def _edges(
    profile: Mapping[str, Any], place: Mapping[str, tuple[float, float]], row: Mapping[str, int], left: int
) -> list[str]:
    """A line for each pair of layers of which one reads the other, straight or around those between them."""
    reads = {layer["node"]: layer.get("reads", ()) for layer in profile["layers"]}
    edges = []
    for node, (top, bottom) in place.items():
        for source in sorted(_sources(node, reads, place), key=lambda name: row[name]):
            begin, distance = place[source], row[node] - row[source]
            if distance == 1:
                edges.append(f'<path class="edge" d="M{left + 5} {begin[1]}V{top}"/>')
            else:
                out = left - min(48, 8 + 4 * abs(distance))
                start, end = (begin[0] + begin[1]) / 2, (top + bottom) / 2
                edges.append(f'<path class="edge" d="M{left} {start:g}C{out} {start:g} {out} {end:g} {left} {end:g}"/>')
    return edges


def _sources(node: str, reads: Mapping[str, Sequence[str]], place: Mapping[str, Any]) -> set[str]:
    """The layers drawn that a layer reads, through nodes that aren't drawn."""
    sources, waiting, seen = set(), [*reads.get(node, ())], {node}
    while waiting:
        source = waiting.pop()
        if source in seen:
            continue
        seen.add(source)
        if source in place:
            sources.add(source)
        else:
            waiting += reads.get(source, ())
    return sources


def _open(width: int, height: int, label: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width * 2}" height="{height * 2}" '
        f'role="img" aria-label="{escape.markup(label)}">'
    )


def key(index: int) -> str:
    """A short piece of the curve of this number, for a legend."""
    colour, dash = COLOURS[index % len(COLOURS)], _DASHES[index // len(COLOURS) % len(_DASHES)]
    style = f'stroke="{colour}" stroke-width="3"{f" stroke-dasharray={dash!r}" if dash else ""}'
    return f'<svg viewBox="0 0 28 8" width="28" height="8" aria-hidden="true"><path d="M0 4H28" {style}/></svg>'
