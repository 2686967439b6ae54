"""Names and messages as each kind of output may show them: they come from strangers' files and hold anything.

One function for each kind: ``plain`` for terminals and pipes, ``code`` and ``inline`` for markdown, ``markup`` for XML and
HTML, ``command`` for the workflow commands of GitHub. JSON needs none: it keeps names as they are.
"""

from __future__ import annotations


def plain(text: str) -> str:
    """One line of printable characters: what would move the cursor, colour, break or turn the line is spelled out.

    Neither does it begin a workflow command of GitHub, which reads them off any line that a step prints.
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
    shown = shown.replace("##[", "\\x23#[")
    start = len(shown) - len(shown.lstrip())
    return f"{shown[:start]}\\x3a{shown[start + 1 :]}" if shown.startswith("::", start) else shown


def lines(text: str) -> str:
    """Several lines, each as ``plain`` shows it."""
    return "\n".join(map(plain, text.split("\n")))


#: What ends a code span or a cell, or means something in HTML, which markdown passes on.
_OUT_OF_CODE = frozenset("`|\\<>&[]")
#: What markdown gives a meaning in running text, at the begin of a line or inside; ``@`` calls people on GitHub.
_MARKS = frozenset("\\`*_|<>[]()#!~&@$")


def code(name: str) -> str:
    """A name in a code span of markdown, inside a table too."""
    name = plain(name) or " "
    if _OUT_OF_CODE.isdisjoint(name):
        return f"`{name}`"
    return f"<code>{_entities(name, _MARKS | {':', '-', '+', '.'})}</code>"


def inline(said: str) -> str:
    """Running text of markdown, inside a table too: no character of it is markup, and no address becomes a link."""
    return _entities(plain(said), _MARKS).replace("://", "&#58;//").replace("www.", "www&#46;")


def _entities(text: str, marks: frozenset[str]) -> str:
    return "".join(f"&#{ord(c)};" if c in marks else c for c in text)


_IN_MARKUP = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"})


def markup(said: str) -> str:
    """Text and attribute values of XML and HTML. XML forbids control characters even as references; they are spelled out."""
    return plain(said).translate(_IN_MARKUP)


def command(said: str, more: str = "") -> str:
    """A part of a workflow command; ``more`` has what ends a property. GitHub turns %0A back into a line break."""
    return "".join(f"%{ord(c):02X}" if c in "%\r\n" + more else c if c.isprintable() else plain(c) for c in said)
