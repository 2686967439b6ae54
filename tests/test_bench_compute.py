"""The page and the picture of accuracy at equal compute, from rows that a hand can count."""

from __future__ import annotations

import importlib
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

import rows

bench_compute = pytest.importorskip("bench_compute")
MAKEFILE = (Path(__file__).parent.parent / "Makefile").read_text()


def row(method: str, seed: int, accuracy: float, budget: str = "B2", cpu: int = 50, machine: str = "here") -> dict[str, Any]:
    of = {
        "machine": machine,
        "task": "T2",
        "budget": budget,
        "compute": 0.5 if budget == "B2" else 1.0,
        "method": method,
        "seed": seed,
        "trained": False,
    }
    return {**of, "pooled_int8": accuracy, "cpu_seconds": cpu, "wide": [0.1, 0.6], "curve": [[0.1, 0.2], [0.5, accuracy]]}


ROWS = [
    row("differentiable", 0, 0.85),
    row("uniform", 0, 0.84),
    row("differentiable", 1, 0.86, cpu=900, machine="there"),  # whose seconds are compared with nobody's
    row("uniform", 1, 0.83),
    row("uniform", 2, 0.10),  # has no counterpart: counts in its mean alone
    row("uniform", 0, 0.89, budget="full", cpu=100),
    row("at-init", 1, 0.85),
]


def test_differences_are_of_the_seeds_that_both_have() -> None:
    (line,) = [line for line in bench_compute.page(ROWS).splitlines() if line.startswith("| T2 |")]
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        *("T2", "B2", "0.5", "85.5 ± 0.7", "59.0 ± 42.4", "+2.0 ± 1.0", "2", "0.60", "0.50", "0.50", "85.0", "+1.0"),
    ]


def test_runs_from_trained_files_stand_in_a_table_of_their_own() -> None:
    assert "From a trained network" not in bench_compute.page(ROWS)
    others = [row("differentiable", 0, 0.91), row("differentiable", 1, 0.93), row("tp-bn-local", 1, 0.89)]
    written = bench_compute.page([*ROWS, *({**found, "trained": True} for found in others)])
    head, section = written.split("## From a trained network\n")
    assert head.rstrip() == bench_compute.page(ROWS).split("## Choosing")[0].rstrip()
    (line,) = [line for line in section.split("## ")[0].splitlines() if line.startswith("| T2 |")]
    assert [cell.strip() for cell in line.strip("|").split("|")] == ["T2", "B2", "0.5", "92.0 ± 1.4", "89.0", "+4.0", "1"]


def test_the_summary_counts_cells_and_names_the_least_and_the_most() -> None:
    """A single cell of a compute stands in the table alone."""
    more = [row("differentiable", 3, 0.80, "B1"), row("uniform", 3, 0.81, "B1")]
    more += [row("differentiable", 4, 0.80, "B1"), row("uniform", 4, 0.80, "B1")]
    assert bench_compute.summary([*ROWS, *more]) == ""
    others = [
        {**found, "task": "T3", "pooled_int8": found["pooled_int8"] + 0.03 * (found["method"] != "uniform")} for found in more
    ]
    said = bench_compute.summary([*ROWS, *more, *others])
    assert said.startswith("with 1 of a run at full width a point or more in 1 of 2 cells of task and budget, from -0.5 ± 0.5")
    assert "to +2.5 ± 0.5" in said
    assert "0.5 of a run" not in said


def test_the_picture_has_a_line_for_each_run_and_colours_for_light_and_dark() -> None:
    drawn = bench_compute.picture(ROWS)
    tree = ElementTree.fromstring(drawn)
    assert len(tree.findall(".//{http://www.w3.org/2000/svg}path")) == 6
    assert "prefers-color-scheme:dark" in drawn
    assert bench_compute.picture([]).startswith("<svg")


@pytest.mark.parametrize("name", ["compute", "studies"])
def test_make_asks_for_every_run_of_a_page(name: str) -> None:
    """The recipe as make would run it; what has been run is not run again."""
    bench = importlib.import_module(f"bench_{name}")
    (recipe,) = re.findall(rf"^bench-{name}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    named = dict(re.findall(r"^(\w+) [:?]?= (.*)$", MAKEFILE, re.MULTILINE))
    asked: set[tuple[Any, ...]] = set()
    for line in recipe.splitlines():
        called = re.sub(r"\$\((COMPUTE|NARROW)\)", lambda match: named[match[1]], line)
        _, script, words = called.partition(f"bench_{name}.py")
        assert script, line
        asked |= set(bench.wanted(bench.asked(words.split())))
    stored = {rows.key(found, bench.KEY) for found in rows.read(bench.ROWS)}
    assert stored - asked == set()
