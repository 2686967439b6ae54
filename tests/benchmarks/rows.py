"""The rows of the benchmarks: a line of JSON for each finished run, with what was asked and what came of it, in a .jsonl file.

A benchmark appends a row as soon as a run has ended, so it can be interrupted at any time; its page is drawn from the rows.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from types import ModuleType
from typing import Any, TypeVar

from mcuprune import __version__

Row = dict[str, Any]
R = TypeVar("R", bound=Mapping[str, Any])


def read(file: Path) -> list[Row]:
    """All rows in the order in which runs ended; none where there is no file yet."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def append(file: Path, *rows: Mapping[str, Any], show: bool = True) -> None:
    """Add rows to a file, and print them."""
    lines = [json.dumps(row) for row in rows]
    with file.open("a") as end:
        end.writelines(f"{line}\n" for line in lines)
    for line in lines if show else ():
        print(line, flush=True)


def replace_all(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Make these the rows of a file."""
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def arguments(about: str | None, folder: str, page: Path) -> argparse.ArgumentParser:
    """Those that a benchmark of runs has: where its data are, where it works and, to run nothing, ``--table``.

    about: the benchmark's first lines. folder: its name in ``out``. page: what is drawn from the rows.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--work", type=Path, default=Path(__file__).parents[2] / "out" / folder)
    parser.add_argument("--table", action="store_true", help=f"draw {page.name} anew and run nothing")
    return parser


def key(row: Mapping[str, Any], names: Sequence[str]) -> tuple[Any, ...]:
    """What a row has under these names."""
    return tuple(row[name] for name in names)


def grouped(rows: Iterable[R], *names: str) -> dict[tuple[Any, ...], list[R]]:
    """Rows by what they have under these names; groups in the order of their first rows."""
    groups: dict[tuple[Any, ...], list[R]] = {}
    for row in rows:
        groups.setdefault(key(row, names), []).append(row)
    return groups


def table_line(cells: Iterable[object]) -> str:
    """A line of a table in Markdown."""
    return f"| {' | '.join(map(str, cells))} |"


def spread(values: Sequence[float]) -> str:
    """Mean and, of more than one, sample standard deviation."""
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def machine() -> str:
    """The processor and how many cores this process sees: seconds compare on one machine alone."""
    cpuinfo = Path("/proc/cpuinfo")
    named = [
        line.partition(":")[2].strip()
        for line in (cpuinfo.read_text().splitlines() if cpuinfo.exists() else ())
        if line.startswith("model name")
    ]
    return f"{(named or [platform.processor() or platform.machine()])[0]}, {os.cpu_count()} cores"


def versions(*packages: ModuleType) -> dict[str, str]:
    """What ran: mcuprune, these packages and Python."""
    return {"mcuprune": __version__, **{p.__name__: p.__version__ for p in packages}, "python": platform.python_version()}
