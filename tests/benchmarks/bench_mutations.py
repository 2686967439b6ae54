"""Damaged files through profile, prune --no-train (float and int8) and verify: does a message or an answer come of each?

    python tests/benchmarks/bench_mutations.py [--only COMMAND ...] [--share PERCENT] [--table]

``tests/mutations.py`` damages the files and judges what comes of them; a case is made again from its command, seed and number.
A seed has 250 cases. Finished seeds are appended to ``mutations.jsonl`` and not run again; ``mutations.md`` is drawn from it.
The files that are damaged: one network of each block of ``tests/blocks.py``, exported by torch, and the int8 files of some.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rows import append, read, table_line

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import blocks
import mutations

from mcuprune import __version__, pruning, units

HERE = Path(__file__).resolve().parent
ROWS, PAGE = HERE / "mutations.jsonl", HERE / "mutations.md"
#: How many cases each command is to be given, and how many a seed has.
WANTED = {"profile": 20_000, "float": 3_000, "int8": 1_000, "verify": 1_000}
CASES = 250
TITLES = {
    "profile": "`profile`, all formats in turn",
    "float": "`prune --no-train --float`",
    "int8": "`prune --no-train`",
    "verify": "`verify`",
}
_INT8 = ("resnet", "shufflenet v2 unit", "squeeze-excite, hard-swish", "inverted residual", "even split")


def files(folder: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The undamaged files by name: those for ``profile`` and ``prune``, and the int8 files alone, for ``verify``."""
    floats = {name: blocks.exported(name, "torchscript") for name in sorted(blocks.BLOCKS)}
    stored = {}
    for name in _INT8:
        path, out = folder / "net.onnx", folder / "out.onnx"
        path.write_bytes(floats[name])
        pruning.prune(pruning.Request(str(path), {"macs": units.parse("60%", "count")}, str(out), train=False))
        stored[f"int8 {name}"] = out.read_bytes()
    return {**floats, **stored}, stored


def row(command: str, seed: int, contents: Mapping[str, bytes]) -> dict[str, Any]:
    tally = mutations.run(command, seed, range(CASES), contents)
    return {
        "command": command,
        "seed": seed,
        "cases": tally.cases,
        "outcomes": dict(sorted(tally.outcomes.items())),
        "faults": tally.faults,
        "most_cpu_seconds": round(tally.seconds, 2),
        "most_mb": round(tally.bytes / 2**20),
        "files": hashlib.sha256(b"".join(contents.values())).hexdigest()[:16],
        "versions": {"mcuprune": __version__, **{name: version(name) for name in ("onnx", "onnxruntime", "torch", "numpy")}},
        "python": platform.python_version(),
    }


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """``mutations.md``."""
    lines = ["# Damaged files", "", *(__doc__ or "").split("\n\n")[0].splitlines(), ""]
    lines += [
        "A fault is an exception, an exit code other than 0, 1 and 2, no single message with a 2, a refusal after the work"
    ]
    lines += [f"has begun, more than {mutations.SECONDS:g} CPU seconds or {mutations.MEMORY_BYTES / 2**30:g} GB.", ""]
    lines += ["| command | cases | of | seeds | answered (0, 1) | refused (2) | faults | most CPU s | most MB |"]
    lines += ["| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for command, title in TITLES.items():
        mine = [one for one in rows if one["command"] == command]
        outcomes: Counter[str] = Counter()
        for one in mine:
            outcomes.update(one["outcomes"])
        cells = [
            title,
            f"{sum(one['cases'] for one in mine):,}",
            f"{WANTED[command]:,}",
            f"0 to {max(one['seed'] for one in mine)}" if mine else "",
            f"{outcomes['0'] + outcomes['1']:,}",
            f"{outcomes['2']:,}",
            str(sum(len(one["faults"]) for one in mine)),
            f"{max((one['most_cpu_seconds'] for one in mine), default=0):.1f}",
            str(max((one["most_mb"] for one in mine), default=0)),
        ]
        lines.append(table_line(cells))
    if faults := [fault for one in rows for fault in one["faults"]]:
        lines += ["", "Faults:", "", *(f"* `{fault.replace('`', ' ').replace(chr(10), ' ')[:200]}`" for fault in faults)]
    if rows:
        found = {f"{name} {number}" for one in rows for name, number in one["versions"].items()}
        lines += ["", f"Run with {', '.join(sorted(found))}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", default=list(WANTED), choices=list(WANTED))
    parser.add_argument("--share", type=float, default=100.0, help="per cent of the cases of each command")
    parser.add_argument("--table", action="store_true", help="only draw the page")
    given = parser.parse_args()
    if not given.table:
        with tempfile.TemporaryDirectory() as folder:
            every, int8 = files(Path(folder))
        for command in given.only:
            done = {one["seed"] for one in read(ROWS) if one["command"] == command}
            for seed in range(round(WANTED[command] * given.share / 100) // CASES):
                if seed not in done:
                    found = row(command, seed, int8 if command == "verify" else every)
                    append(ROWS, found, show=False)
                    print(command, seed, found["outcomes"], found["faults"], flush=True)
    PAGE.write_text(page(read(ROWS)))


if __name__ == "__main__":
    main()
