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
    return [line] if len(line) <= width or _is_row(line) else _wrapped(line, width)


def _is_name(word: str) -> bool:
    """Whether a word is one of a file's names, not of a sentence or a picture."""
    return bool(re.search(r"[\w/]{3}", word)) and (len(word) > 20 or bool(re.search(r"[/_.:\d]", word)))


def _is_row(line: str) -> bool:
    """Whether a line has columns, which wrapping would tear apart, or is drawn."""
    return len(re.findall(r"\S {2,}(?=\S)", line)) >= 2 or not re.search(r"\w", line)


def _wrapped(line: str, width: int) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    lines, now = [], ""
    for word in line.split(" "):
        joined = f"{now} {word}" if now.strip() or (now and not word) else f"{now}{word}"
        if len(joined) > width and now.strip():
            lines.append(now)
            now = f"{indent}{word}"
        else:
            now = joined
    return [*lines, now]
