"""Tables in the ways of each format: rows of cells -> lines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mcuprune import escape


def align(rows: Sequence[Sequence[str]], sides: Sequence[str]) -> list[str]:
    """Lines of a table of plain text; ``sides`` has ``<`` or ``>`` for each column."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(sides))] if rows else []
    return [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)).rstrip()
        for row in rows
    ]


def markdown_table(head: Sequence[str], sides: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table of markdown; ``sides`` has ``<`` or ``>`` for each column, cells are escaped already."""
    rule = ["---:" if side == ">" else "---" for side in sides]
    return ["| " + " | ".join(cells) + " |" for cells in (head, rule, *rows)]


def html_table(head: Sequence[str], sides: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of HTML; ``sides`` has ``<`` or ``>`` for each column, cells are escaped here."""

    def line(cells: Sequence[str], tag: str) -> str:
        kinds = [f'{tag} class="n"' if side == ">" else tag for side in sides]
        return "<tr>" + "".join(f"<{kind}>{escape.markup(c)}</{tag}>" for kind, c in zip(kinds, cells, strict=True)) + "</tr>"

    return "<table>\n" + "\n".join([line(head, "th"), *(line(row, "td") for row in rows)]) + "\n</table>"


def plain_page(table: Sequence[Sequence[str]], sides: Sequence[str], remarks: Iterable[str]) -> str:
    """A table and remarks below it as plain text. table: its head first; all is escaped here, as in the following."""
    return "\n".join(map(escape.plain, [*align(table, sides), "", *remarks])) + "\n"


def markdown_page(title: str, table: Sequence[Sequence[str]], sides: Sequence[str], remarks: Iterable[str]) -> str:
    """A title, a table and a list of remarks as markdown."""
    head, *rows = table
    lines = markdown_table(head, sides, [[escape.inline(cell) for cell in row] for row in rows])
    return "\n".join([f"# {escape.inline(title)}", "", *lines, "", *(f"* {escape.inline(line)}" for line in remarks)]) + "\n"
