"""Where answers go: files and stdout, in each format that was asked for; and what the exit code says of them."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace

from mcuprune import console, places
from mcuprune.console import NO, NO_ANSWER, YES
from mcuprune.errors import UsageError
from mcuprune.immutable import immutable
from mcuprune.options import nearest
from mcuprune.places import Output
from mcuprune.report import profile as report
from mcuprune.report.profile import Report
from mcuprune.report.width import fitted


@immutable
class Outputs:
    """Where each format goes; a path of None is stdout."""

    places: tuple[tuple[str, str | None], ...]
    color: bool

    def files(self) -> list[Output]:
        """The outputs that are files."""
        return [Output(f"--format {name}", file, stream=True) for name, file in self.places if file is not None]


def asked(formats: Sequence[str], *, no_color: bool | None) -> Outputs:
    """The outputs that ``--format`` names. Raises UsageError for an unknown format, or two for stdout."""
    named: list[tuple[str, str | None]] = []
    for text in formats:
        name, equals, file = text.partition("=")
        if name not in report.FORMATS:
            raise UsageError(f"--format: unknown format '{name}'; {nearest(name, report.FORMATS)}")
        if equals and not file:
            raise UsageError(f"--format {text}: names no file; write --format {name}=FILE, or --format {name} for stdout")
        named.append((name, file if file not in ("", "-") else None))
    if sum(file is None for _, file in named) > 1:
        raise UsageError("--format: stdout takes one format; give the others a file, as in --format json=FILE")
    if all(file is not None for _, file in named):
        named.append(("text", None))
    return Outputs(tuple(named), color=not (os.environ.get("NO_COLOR") if no_color is None else no_color))


def emit(result: Report, outputs: Outputs, *, quiet: bool = False) -> int:
    """Write every output, files first, and turn the answer into an exit code."""
    result = replace(result, view=replace(result.view, ascii=not console.can_encode(sys.stdout, "│└─▁█")))
    narrow = replace(result, view=replace(result.view, width=width()))
    for name, file in sorted(outputs.places, key=lambda place: place[1] is None):
        if name == "text" and file is None and (result.refusal is not None or (quiet and result.ok)):
            continue  # why there is no answer stands on stderr
        written = report.FORMATS[name](narrow if name == "text" and file is None else result)
        if file is not None:
            write(written.encode("utf-8", "backslashreplace"), file)
        else:
            show(written, color=outputs.color and name == "text", fit=name == "text")
    if result.refused:
        return NO_ANSWER
    return YES if result.ok else NO


def write(content: bytes, file: str) -> None:
    """A file whole or not at all; a device or pipe, such as /dev/stderr, is written to and not replaced."""
    if places.replaceable(file):
        places.write_bytes(content, file)
    else:
        places.append(content, file)


def width() -> int | None:
    """Of the terminal that an answer goes to, in characters; None where it goes elsewhere."""
    return shutil.get_terminal_size().columns if console.is_terminal(sys.stdout) else None


def show(written: str, *, color: bool = False, fit: bool = False) -> None:
    """An answer to stdout, in colours if it is a terminal that shows them. fit: make it no wider than that."""
    if fit and (columns := width()) is not None:
        written = fitted(written, columns)
    if color and console.is_terminal(sys.stdout):
        try:
            _show_colored(written)
        except (OSError, ValueError) as error:
            console.unwritable(error)
    else:
        console.answer(written)


def _show_colored(written: str) -> None:
    from rich.console import Console
    from rich.text import Text

    text = Text(console.encodable(written, sys.stdout))
    text.highlight_regex(r"(?m)^FAIL .*$", "bold red")
    text.highlight_regex(r"(?m)^pass ", "green")
    text.highlight_regex(r"(?m)^> .*$", "bold")
    text.highlight_regex(r"(?m)^hint ", "cyan")
    Console(soft_wrap=True).print(text, end="")
