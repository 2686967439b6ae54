"""Write generated text into README.md, docs/ and the pages of benchmarks, or check (--check) that it is what stands behind it.

docs/operators.md is the operator table, docs/options.md the commands with their options. README.md shows commands with their
output, and a table of measured accuracies; that

A shown command is a fenced ``console`` block whose first line is ``$ mcuprune ...``. Commands that answer at once are run again
each time. ``prune`` trains, which other processors round differently, so its block is drawn from the report of the run that
``python tests/readme.py`` made last (``tests/golden/demo.json``); --check draws it again from there and holds the report
against the model file that it is about.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import sys
import tempfile
from pathlib import Path

from mcuprune import network, ops, outcome, resources
from mcuprune.cli import main
from mcuprune.cli.reference import reference

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "benchmarks"))
import bench_accuracy  # noqa: E402
import bench_budgets  # noqa: E402
import bench_device  # noqa: E402
import bench_mutations  # noqa: E402
import bench_quant_lr  # noqa: E402
import bench_studies  # noqa: E402
import bench_weight_bits  # noqa: E402

README = ROOT / "README.md"
OPERATORS = ROOT / "docs" / "operators.md"
OPTIONS = ROOT / "docs" / "options.md"
STORED = ROOT / "tests" / "golden" / "demo.json"
_BLOCK = re.compile(r"```console\n\$ mcuprune ([^\n]*(?:\\\n[^\n]*)*)\n(.*?)```", re.DOTALL)
BENCHES = (bench_accuracy, bench_budgets, bench_device, bench_mutations, bench_quant_lr, bench_studies, bench_weight_bits)
_ACCURACIES = re.compile(r"(?<=<!-- accuracy -->\n).*?(?=\n<!-- end -->)", re.DOTALL)
_WIDTH = 128


def shown(command: str, *, check: bool) -> str:
    """What ``mcuprune command`` prints on stdout."""
    words = shlex.split(command.replace("\\\n", " "))
    if words[0] == "prune":
        return _pruned(words, check=check)
    captured = io.StringIO()
    with contextlib.redirect_stdout(captured):
        code = main(words)
    if code not in (0, 1):
        raise SystemExit(f"`mcuprune {command}` ended with {code}")
    return captured.getvalue()


def _pruned(words: list[str], *, check: bool) -> str:
    if not check:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            main([*words, "--report", folder])
            STORED.parent.mkdir(exist_ok=True)
            STORED.write_text((Path(folder) / "report.json").read_text())
    found = json.loads(STORED.read_text())
    profile = resources.profile(network.load(words[1], accept=ops.accept(words[1])))
    if found["before"]["total"] != dict(profile.total):
        raise SystemExit(f"{STORED} is about another {words[1]}; run `make readme`")
    return outcome.text(found)


def rendered(text: str, *, check: bool) -> str:
    """``text`` with the output of every shown command, and the measured accuracies, as they are now."""

    def block(match: re.Match[str]) -> str:
        return f"```console\n$ mcuprune {match[1]}\n{shown(match[1], check=check).rstrip()}\n```"

    measured = bench_accuracy.summary(bench_accuracy.stored())
    return _BLOCK.sub(block, _ACCURACIES.sub(lambda _: measured, text))


def operators() -> str:
    """docs/operators.md: what the operator table knows."""
    return ops.table()


if __name__ == "__main__":
    import os

    os.chdir(ROOT)
    os.environ.update(COLUMNS=str(_WIDTH), NO_COLOR="1")
    check = "--check" in sys.argv
    pages = {OPERATORS: operators(), OPTIONS: reference()}
    pages |= {bench.PAGE: bench.page(bench.stored()) for bench in BENCHES}
    if "--docs" not in sys.argv:
        pages[README] = rendered(README.read_text(), check=check)
    for page, now in pages.items():
        if not check:
            page.parent.mkdir(exist_ok=True)
            page.write_text(now)
        elif not page.exists() or now != page.read_text():
            raise SystemExit(f"{page.relative_to(ROOT)} is stale; run `make readme docs` and look at the difference")
