"""A section of ``docs/commands.md`` for every command with its arguments and options, drawn from the fields that they are."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib import import_module

from mcuprune import escape, options
from mcuprune.cli import COMMANDS
from mcuprune.cli.parser import GROUPS
from mcuprune.options import Option
from mcuprune.report import profile as report
from mcuprune.train.request import Request


def reference() -> str:
    """The sections as markdown."""
    lines: list[str] = []
    for name in COMMANDS:
        function = getattr(import_module(f"mcuprune.cli.{name}"), name)
        lines += ["", f"## {name}", "", escape.inline(inspect.cleandoc(function.__doc__ or ""))]
        for group, rows in _grouped(function.reads):
            lines += ["", f"### {group}", ""]
            lines += report.markdown_table(["option", "default", "takes", "key", "meaning"], ["<"] * 5, rows)
    return "\n".join(lines).strip("\n")


def _grouped(classes: tuple[type, ...]) -> Iterator[tuple[str, list[list[str]]]]:
    """Headings in the order of the help, and a row for each option under them."""
    rows: dict[str, list[list[str]]] = {name: [] for name in ("Arguments", *GROUPS)}
    for kind in classes:
        settable = options.keys(kind) if kind is Request else {}
        for option in options.each(kind):
            heading = "Arguments" if option.positional else option.group
            rows.setdefault(heading, []).append(_row(option, option.key in settable))
    rows["Options"] = rows.pop("Options", [])
    yield from ((heading, options_of) for heading, options_of in rows.items() if options_of)


def _row(option: Option, is_key: bool) -> list[str]:
    typed = [option.placeholder] if option.positional else option.spellings
    takes = [] if option.positional or not option.placeholder else [escape.code(option.placeholder)]
    return [
        ", ".join(escape.code(flag) for flag in typed),
        "" if option.default in (None, ()) or option.kind is bool else escape.code(f"{option.default}"),
        " ".join([*takes, option.range()]).rstrip(),
        escape.code(option.key) if is_key else "",
        escape.inline(option.help),
    ]
