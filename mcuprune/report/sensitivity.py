"""How sensitive groups of channels are, as a table and a picture, for ``profile --sensitivity`` and the report of a prune."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from mcuprune import escape
from mcuprune.errors import lacking
from mcuprune.graph.network import Network
from mcuprune.passes.canonical import canonical
from mcuprune.report.answers import Section
from mcuprune.report.tables import align, html_table, markdown_table

BARS = "▁▂▃▄▅▆▇█"
_ASCII_BARS = "_.:-=+*#"
#: The picture: a square for each group, so many beside each other.
_SIDE, _GAP, _ROW = 84, 8, 8
_NOTHING = "No channel can be removed: there is no sensitivity to measure."
_MEANING = "Share of the signal that is lost when so many of a group's lowest channels go, all other groups whole:"


def section(net: Network, *, ascii: bool = False) -> Section:
    """What ``profile --sensitivity`` adds. ascii: draw with ASCII alone.

    Raises MissingExtra without torch, UnsupportedOperator for a network through which no signal can be followed.
    """
    try:
        from mcuprune.train import at_init
    except (ImportError, OSError) as error:
        raise lacking("--sensitivity", error, "pip install 'mcuprune[prune]'") from None
    from mcuprune.channels.labelling import label

    document = at_init.sensitivity(label(canonical(net)[0])).document()
    return Section("sensitivity", document, text(document, ascii=ascii), markdown(document), html(document))


def text(document: Mapping[str, Any], *, ascii: bool = False) -> list[str]:
    """Lines of plain text. document: what ``Sensitivity.document`` gives."""
    if not document["groups"]:
        return [_NOTHING]
    rows = _rows(document, _ASCII_BARS if ascii else BARS)
    rows = [[row[0], escape.plain(row[1]), *row[2:]] for row in rows]
    return [_MEANING, *align([_head(document), *rows], [">", "<", *[">"] * len(document["shares"]), "<"])]


def markdown(document: Mapping[str, Any]) -> list[str]:
    """Lines of markdown: the table, and the picture as inline SVG."""
    if not document["groups"]:
        return [_NOTHING]
    rows = [[row[0], escape.code(row[1]), *row[2:]] for row in _rows(document, BARS)]
    return [
        _MEANING,
        "",
        *markdown_table(_head(document), [">", "<", *[">"] * len(document["shares"]), "<"], rows),
        "",
        svg(document),
    ]


def html(document: Mapping[str, Any]) -> str:
    """The table and the picture."""
    if not document["groups"]:
        return f"<p>{_NOTHING}</p>"
    table = html_table(_head(document), [">", "<", *[">"] * len(document["shares"]), "<"], _rows(document, BARS))
    return f"<p>{_MEANING}</p>\n{table}\n<figure>{svg(document)}</figure>"


def _head(document: Mapping[str, Any]) -> list[str]:
    return ["channels", "group", *(f"-{Fraction(share)}" for share in document["shares"]), ""]


def _rows(document: Mapping[str, Any], bars: str) -> list[list[str]]:
    return [
        [
            str(group["channels"]),
            group["name"],
            *(f"{lost:.0%}" for lost in group["lost"]),
            "".join(bars[min(len(bars) - 1, int(lost * len(bars)))] for lost in group["lost"]),
        ]
        for group in document["groups"]
    ]


def svg(document: Mapping[str, Any]) -> str:
    """A square for each group, in order: what is lost (up) over what has gone (to the right), in one line of SVG.

    On the dashed diagonal all channels carry the same; the further a curve hangs below it, the less its lowest channels matter.
    It holds no text, so that nothing is left behind where SVG is stripped.
    """
    groups, marks = document["groups"], []
    for index, group in enumerate(groups):
        left, top = index % _ROW * (_SIDE + _GAP), index // _ROW * (_SIDE + _GAP)
        low, right = top + _SIDE, left + _SIDE
        points = [(0.0, 0.0), *zip(document["shares"], group["lost"], strict=True), (1.0, 1.0)]
        line = "L".join(f"{left + x * _SIDE:.1f} {low - y * _SIDE:.1f}" for x, y in points)
        marks.append(f'<rect x="{left}" y="{top}" width="{_SIDE}" height="{_SIDE}" fill="none" stroke="#ccc"/>')
        marks.append(f'<path d="M{line}L{right} {low}Z" fill="#4f8fba" fill-opacity="0.35" stroke="#4f8fba"/>')
        marks.append(f'<path d="M{left} {low}L{right} {top}" stroke="#888" stroke-dasharray="4 4"/>')
    wide = max(1, min(_ROW, len(groups))) * (_SIDE + _GAP)
    tall = max(1, -(-len(groups) // _ROW)) * (_SIDE + _GAP)
    label = f"signal lost over channels gone, of {len(groups)} groups in the order of the table"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {tall}" width="{wide}" height="{tall}" '
        f'role="img" aria-label="{label}">{"".join(marks)}</svg>'
    )
