"""``mcuprune report``: runs side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

from mcuprune import places
from mcuprune.cli.outputs import show, write
from mcuprune.cli.parser import command
from mcuprune.console import YES
from mcuprune.immutable import immutable
from mcuprune.options import argument, option
from mcuprune.places import Output, Source


@immutable(kw_only=True)
class Flags:
    """Options of ``report``."""

    runs: Sequence[str] = argument("RUN", default=(), help="Folders of --report, their report.json, or the folder of a sweep.")
    format: Literal["text", "markdown", "json", "html"] = option("text", help="How the answer is written.", group="Output")
    output: str | None = option(None, help="A file instead of stdout.", group="Output", short="-o", metavar="FILE")


@command(Flags)
def report(flags: Flags) -> int:
    """Compare runs of prune side by side, by their reports."""
    from mcuprune.report import compare
    from mcuprune.report.sweep import DOCUMENT

    runs = compare.read(flags.runs)
    written = compare.FORMATS[flags.format](runs)
    if flags.output is None:
        show(written, fit=flags.format == "text")
    else:
        kept = [Source("a report to compare", run.path) for run in runs]
        kept += [Source("a network that is compared", path) for run in runs for path in (run.model, run.written)]
        kept += [Source("the record of a sweep", os.path.join(path, DOCUMENT)) for path in flags.runs if os.path.isdir(path)]
        places.settle([Output("-o", flags.output, stream=True)], kept)
        write(written.encode("utf-8", "backslashreplace"), flags.output)
    return YES
