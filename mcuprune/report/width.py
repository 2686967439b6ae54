"""Text as wide as a terminal: long names lose their middle, prose is wrapped, tables keep their columns."""

from __future__ import annotations

import re
from collections.abc import Sequence

#: No name is cut to less: two ends of so many characters still tell most names apart.
_LEAST = 12
#: A name of more characters says nothing that its ends don't, on a line of any width.
LONGEST = 100


def elided(name: str, most: int = LONGEST) -> str:
    """A name of ``most`` characters at most: what is too much goes out of the middle, where exporters put what repeats."""
    if len(name) <= most:
        return name
    head = (most - 3 + 1) // 2
    return f"{name[:head]}...{name[len(name) - (most - 3 - head) :]}"


def told_apart(names: Sequence[str], most: int = LONGEST) -> list[str]:
    """The same names, shortened as by ``elided`` where they are long, and different where they are.

    Folders that all of them lie in go first; then each may be up to twice as long; then a number ends those that look alike.
    """
    if max(map(len, names), default=0) <= most:
        return [*names]
    first, last = min(names), max(names)  # what these two begin with, all begin with
    same = next((at for at, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), 0)
    inner = [name[first.rfind("/", 0, same) + 1 :] for name in names]
    for width in range(most, 2 * most):
        short = [elided(name, width) for name in inner]
        if len(set(short)) == len(set(names)):
            return short
    number = {name: index for index, name in enumerate(dict.fromkeys(inner), 1)}
    return [f"{elided(name, most)} #{number[name]}" for name in inner]


def fitted(text: str, width: int) -> str:
    """The text with no line wider than ``width``, as far as the numbers of a table leave room."""
    return "\n".join(part for line in text.split("\n") for part in _line(line, width))


def _line(line: str, width: int) -> Sequence[str]:
    if len(line) <= width:
        return [line]
    words = re.split(r"(\s+)", line)
    for index in sorted(range(len(words)), key=lambda index: -len(words[index])):
        over = sum(map(len, words)) - width
        if over > 0 and len(words[index]) > _LEAST and not words[index].isspace() and _is_name(words[index]):
            words[index] = elided(words[index], max(_LEAST, len(words[index]) - over))
    line = "".join(words)
    if len(line) <= width or not re.search(r"\w", line):  # without a letter or digit it is a drawing, which isn't broken
        return [line]
    gaps = [*re.finditer(r"\S( {2,})(?=\S)", line)]
    if len(gaps) < 2:
        return _wrapped(line, width, len(line) - len(line.lstrip()) + 2)
    start = gaps[-1].end()  # a sentence in the last column goes on below its beginning; other columns can't be narrower
    return _wrapped(line, width, start) if start + _LEAST <= width and " " in line[start:] else [line]


def _is_name(word: str) -> bool:
    """Whether a word is one of a file's names, not of a sentence or a picture."""
    return bool(re.search(r"[\w/]{3}", word)) and (len(word) > 20 or bool(re.search(r"[/_.:\d]", word)))


def _wrapped(line: str, width: int, indent: int) -> list[str]:
    """The line broken between words; what goes on below begins at ``indent``."""
    lines = []
    while len(line) > width:
        at = line.rfind(" ", indent + 1, width + 1)
        if at < 0:
            at = line.find(" ", max(width, indent + 1))  # never in the indent itself: the line would not get shorter
            if at < 0:
                break
        lines.append(line[:at].rstrip())
        line = " " * indent + line[at:].lstrip()
    return [*lines, line]
