"""A page of HTML that needs nothing else: its style, and drawings that follow it.

Light and dark as the reader's system has it, readable on a phone and in print. Colours are those of Okabe and Ito (2008), which
people with any kind of colour blindness tell apart; every kind has a shape of its own as well.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from math import floor, log10

from mcuprune import escape, units
from mcuprune.immutable import immutable
from mcuprune.report.tables import html_table
from mcuprune.report.width import LONGEST, elided

_STYLE = """
:root{color-scheme:light dark;--ink:#1a1a1a;--paper:#fff;--line:#c8c8c8;--soft:#5c5c5c;--shade:#f2f2f2;
 --good:#009e73;--bad:#d55e00}
@media(prefers-color-scheme:dark){:root{--ink:#e8e8e8;--paper:#161616;--line:#4a4a4a;--soft:#a8a8a8;--shade:#242424}}
@media print{:root{color-scheme:light;--ink:#000;--paper:#fff;--line:#999;--soft:#444;--shade:#eee}
 body{font-size:11px}.wide,.scroll{overflow:visible;max-height:none}
 *{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:64rem;margin:2rem auto;
 padding:0 1rem;overflow-wrap:anywhere}
h1{font-size:1.4rem}h2{font-size:1.15rem;margin-top:2.2rem}h3{font-size:1rem}
.wide{overflow-x:auto}.scroll{max-height:40rem;overflow:auto}
.wide:focus-visible,.scroll:focus-visible{outline:2px solid var(--soft)}
table{border-collapse:collapse;margin:1rem 0;overflow-wrap:normal}
td,th{padding:.15rem .7rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
pre{white-space:pre-wrap;background:var(--shade);padding:.7rem}
figure{margin:1rem 0;break-inside:avoid}
figcaption{font-weight:600}
.soft{color:var(--soft)}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,19rem),1fr));gap:0 1.5rem}
.verdict{font-size:1.15rem;font-weight:600;border-left:.4rem solid var(--bad);padding:.3rem .8rem;background:var(--shade)}
.verdict.ok{border-color:var(--good)}
.bar{margin:.8rem 0;break-inside:avoid}
.track{position:relative;height:1.5rem;background:var(--shade)}
.track .was{position:absolute;left:0;height:.45rem;top:.95rem;background:var(--soft)}
.track .now{position:absolute;left:0;height:.7rem;top:.15rem;background:#0072b2}
.track .over{background:repeating-linear-gradient(45deg,#d55e00 0 6px,#8f3f00 6px 9px)}
.track .limit{position:absolute;top:-.15rem;bottom:-.15rem;border-left:3px solid var(--ink)}
.matrix td{text-align:right;padding:.1rem .35rem;border:1px solid var(--line)}
svg,img{max-width:100%;height:auto}
svg text{fill:var(--ink);font:12px system-ui,sans-serif}
svg .axis{stroke:var(--line);fill:none}
svg .front{stroke:var(--soft);fill:none;stroke-width:1.5;stroke-dasharray:4 3}
svg .edge{stroke:var(--soft);fill:none}
svg .limit{stroke:var(--ink);fill:none;stroke-width:1.5;stroke-dasharray:6 4}
svg .name{font-size:11px}
svg g:hover>rect,svg g:hover>.dot{stroke:var(--ink);stroke-width:2}
"""
#: Okabe and Ito's, those that show on white and on black.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 320, 60, 24, 28, 40


def html(title: str, body: str) -> str:
    """The whole page. body: HTML, its text escaped."""
    wide = re.sub(r"<table(?: [^>]*)?>", lambda tag: f'<div class="wide" tabindex="0">{tag[0]}', body)
    wide = wide.replace("</table>", "</table></div>")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"/>'
        f"<title>{escape.markup(title)}</title><style>{_STYLE.replace(chr(10), '')}</style></head><body>\n"
        f"<h1>{named(title, LONGEST)}</h1>\n{wide}</body></html>\n"
    )


def of_table(
    title: str,
    table: Sequence[Sequence[str]],
    sides: Sequence[str],
    remarks: Iterable[str],
    pictures: str = "",
    *,
    verdict: tuple[bool, str] | None = None,
    end: str = "",
) -> str:
    """A page of one table, its head first, pictures and a list of remarks. pictures, end: HTML; the rest is escaped here.

    verdict: what the page begins with: whether the answer is yes, and in words.
    """
    head, *rows = table
    items = "".join(f"<li>{escape.markup(line)}</li>" for line in remarks)
    first = "" if verdict is None else f"{told(*verdict)}\n"
    return html(title, f"{first}{html_table(head, sides, rows)}\n{pictures}<ul>{items}</ul>\n{end}")


def told(ok: bool, said: str) -> str:
    """The verdict of a page as HTML, with a mark of its own beside the colour."""
    return f'<p class="verdict{" ok" if ok else ""}">{"✓" if ok else "✗"} {escape.markup(said)}</p>'


def named(name: str, most: int = 40) -> str:
    """A stranger's name as HTML: its middle left out where it is long, whole where one hovers."""
    short = elided(name, most)
    return escape.markup(name) if short == name else f'<span title="{escape.markup(name)}">{escape.markup(short)}</span>'


@immutable
class Point:
    """A point of a drawing. y: a figure of a task. kind: what has a colour and a shape of its own. label: for who hovers."""

    x: float
    y: float
    kind: str
    label: str


def scatter(
    points: Sequence[Point], front: Sequence[tuple[float, float]], show: Callable[[float], str], unit: str = "share"
) -> str:
    """Points over two axes as SVG, the front as a stepped line. show: a value of x in words. unit: of y, as of a figure."""
    low_x, high_x = padded([point.x for point in points])
    low_y, high_y = padded([point.y for point in points])

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            round(_LEFT + (x - low_x) / (high_x - low_x) * (_WIDTH - _LEFT - _RIGHT), 1),
            round(_HEIGHT - _BOTTOM - (y - low_y) / (high_y - low_y) * (_HEIGHT - _TOP - _BOTTOM), 1),
        )

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" width="{_WIDTH}" height="{_HEIGHT}">']
    for value in ticks(low_y, high_y):
        (left, y), (right, _) = at(low_x, value), at(high_x, value)
        parts.append(f'<path class="axis" d="M{left} {y}H{right}"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{_tick(value, unit)}</text>')
    for value in ticks(low_x, high_x):
        x, y = at(value, low_y)
        parts.append(f'<text x="{x}" y="{y + 18}" text-anchor="middle">{escape.markup(show(value))}</text>')
    if len(front) > 1:
        steps = [f"M{at(*front[0])[0]} {at(*front[0])[1]}"]
        steps += [f"H{at(x, y)[0]}V{at(x, y)[1]}" for x, y in front[1:]]
        parts.append(f'<path class="front" d="{"".join(steps)}"/>')
    kinds = list(dict.fromkeys(point.kind for point in points))
    for point in points:
        x, y = at(point.x, point.y)
        mark = _mark(x, y, kinds.index(point.kind))
        tip = f"{point.label}: {units.figure(point.y, unit)}, {show(point.x)}"
        parts.append(f"<g>{mark}<title>{escape.markup(tip)}</title></g>")
    for index, kind in enumerate(kinds):
        x = _LEFT + index * 140
        parts.append(f'{_mark(x + 6, 12, index)}<text x="{x + 16}" y="16">{escape.markup(kind)}</text>')
    return "".join([*parts, "</svg>"])


def _tick(value: float, unit: str) -> str:
    """A round number of the axis of figures."""
    return f"{100 * value:.4g} %" if unit == "share" else f"{value:.4g}"


def _mark(x: float, y: float, kind: int) -> str:
    """A small shape in the colour of its kind."""
    colour = COLOURS[kind % len(COLOURS)]
    shapes = (
        f'<circle cx="{x}" cy="{y}" r="5" fill="{colour}"/>',
        f'<path d="M{x} {y - 6}l6 11h-12z" fill="{colour}"/>',
        f'<rect x="{x - 5}" y="{y - 5}" width="10" height="10" fill="{colour}"/>',
        f'<path d="M{x} {y - 7}l6 7l-6 7l-6-7z" fill="{colour}"/>',
    )
    return shapes[kind % len(shapes)]


def padded(values: Sequence[float]) -> tuple[float, float]:
    """A range around values that none of them is at the end of."""
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


#: Of a scale: below it floats lose digits, and no power of ten is left.
_LEAST_STEP = sys.float_info.min


def ticks(low: float, high: float) -> list[float]:
    """Some four round numbers within a range."""
    rough = (high - low) / 4
    if rough < _LEAST_STEP:
        return [low]
    size = 10 ** floor(log10(rough))
    step = next(factor * size for factor in (1, 2, 5, 10) if factor * size >= rough)
    first = int(-(-low // step))
    return [index * step for index in range(first, int(high // step) + 1)]
