"""The paper's studies at the scale of a microcontroller: what each part of the method is worth.

``python tests/benchmarks/bench_studies.py --data DIR [--studies losses memory front settings] [--seeds 0 1 2]``

Each study changes one thing at a time and leaves all else at the tool's defaults; tables and figures are those of Liberis and
Lane, arXiv 2110.08350. Networks and data are T2 of ``bench_accuracy.py`` (DIR as there) and two of the demo models on the
embedded digits. Finished runs are appended to ``studies.jsonl`` and not run again; ``studies.md`` is drawn from it.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from bench_accuracy import BUDGETS, TASKS, files, measured
from rows import append, arguments, key, read, spread, table_line

from mcuprune.costs.resources import RESOURCES

HERE = Path(__file__).resolve().parent
MODELS = HERE.parents[1] / "models"
ROWS, PAGE, TRIALS = HERE / "studies.jsonl", HERE / "studies.md", HERE / "trials.jsonl"
KEY = ("study", "case", "seed")
#: Columns of the trials' table that aren't settings.
_RESULTS = ("float", "train", "int8", "pooled", "cost")


@dataclass(frozen=True)
class Case:
    """One row of a study. wishes: fields of the Request that differ from the defaults. exact: the true limit of SRAM in bytes,
    where the case itself is given another or none."""

    name: str
    network: str
    limits: Mapping[str, str]
    wishes: Mapping[str, Any] = field(default_factory=dict)
    exact: int | None = None


@dataclass(frozen=True)
class Study:
    title: str
    question: str
    cases: tuple[Case, ...]


def _losses() -> Iterator[Case]:
    for loss in ("both", "resource", "task"):
        for budget in ("B1", "B2"):
            yield Case(f"{budget}, {loss}", "T2", BUDGETS[budget], {"gradients": loss})
    yield Case("B2, both, sum of objectives", "T2", BUDGETS["B2"], {"objectives": "sum"})


def _memory() -> Iterator[Case]:
    for network, sram in (("branchy_digits", 6144), ("resnet8_digits", 5120)):
        others = {"flash": "30%", "macs": "60%"}
        for name, limits, model in (
            ("exact peak", {"sram": str(sram), **others}, "peak"),
            ("max in + out", {"sram": str(sram), **others}, "max-in-out"),
            ("no limit of SRAM", others, "peak"),
        ):
            yield Case(f"{network}, {name}", network, limits, {"sram_model": model}, sram)


def _front() -> Iterator[Case]:
    for share in (60, 40, 20, 12, 8, 5):
        for method in ("differentiable", "uniform"):
            yield Case(f"flash {share}%, {method}", "T2", {"flash": f"{share}%"}, {"method": method})


def _settings() -> Iterator[Case]:
    yield Case("defaults", "T2", BUDGETS["B2"])
    for name, wishes in (
        ("prune every 5 steps", {"prune_every": 5}),
        ("from the first step to 15 %", {"prune_start": 0.0, "prune_stop": 0.15}),
        ("from 10 % to 45 %", {"prune_start": 0.1, "prune_stop": 0.45}),
        ("from 30 % to 70 %", {"prune_start": 0.3, "prune_stop": 0.7}),
        ("channels chosen until 80 %", {"freeze_at_budget": False}),
        ("SGD", {"optimizer": "sgd"}),
        ("AdamW", {"optimizer": "adamw"}),
        ("label smoothing 0.1", {"label_smoothing": 0.1}),
        ("half the learning rate", {"lr": 0.1}),
        ("twice the learning rate", {"lr": 0.4}),
    ):
        yield Case(name, "T2", BUDGETS["B2"], wishes)


STUDIES = {
    "losses": Study(
        "Losses (the paper's table 2)",
        "Do both gradients together choose better widths than either alone? The lead that the task gradient has at B1 was "
        "within its error on ten seeds that were fresh (10 to 19, Trials and `accuracy.md`), and absent on ResNet-8.",
        tuple(_losses()),
    ),
    "memory": Study(
        "Memory objective (figure 4)",
        "Does a budget of SRAM hold if the search sees the largest operator instead of the exact peak, or nothing?",
        tuple(_memory()),
    ),
    "front": Study("Front against uniform scaling (figure 5)", "From which budget on is pruning worth it?", tuple(_front())),
    "settings": Study(
        "Sensitivity (figures 9 and 10)", "How much do the settings matter that users are not asked for?", tuple(_settings())
    ),
}


def run(case: Case, seed: int, data: Path, work: Path) -> dict[str, Any]:
    """One run of a case, as a row."""
    work.mkdir(parents=True, exist_ok=True)
    wishes = dict(case.wishes)
    if case.network in TASKS:
        task = TASKS[case.network]
        model, source = files(case.network, seed, data, work)
        wishes = {"epochs": task.epochs, "batch": task.batch, "augment": task.augment, **wishes}
    else:
        model, source = MODELS / f"{case.network}.onnx", Path("digits")
    found = measured(model, source, work, dict(case.limits), seed, **wishes)
    if case.exact is not None:
        found["limits"]["sram"] = case.exact
    return found


def page(rows: list[dict[str, Any]]) -> str:
    """One table for each study that has rows: means over seeds, with the sample standard deviation."""
    lines = [
        "# What each part of the method is worth",
        "",
        "Made by `make bench-studies` (`tests/benchmarks/bench_studies.py`, whose first lines say on what) from",
        "`studies.jsonl`. Resources are shares of their limits, the largest over seeds; above 100 % a limit is broken.",
        "Training MACs count the batches here that the task gradient is taken on, some 0.01, which `accuracy.md` does not.",
    ]
    limited = [resource for name, resource in RESOURCES.items() if any(name in row["limits"] for row in rows)]
    for name, study in STUDIES.items():
        if not any(row["study"] == name for row in rows):
            continue
        lines += ["", f"## {study.title}", "", study.question, ""]
        lines += [
            table_line(["", "seeds", "int8 test", "int8 val + test", *(each.title for each in limited), "training MACs"]),
            "|---|" + "--:|" * (4 + len(limited)),
        ]
        for case in study.cases:
            found = [row for row in rows if (row["study"], row["case"]) == (name, case.name)]
            if found:
                shares = [
                    f"{max(row['used'][r.name] / row['limits'][r.name] for row in found):.1%}"
                    if r.name in found[0]["limits"]
                    else ""
                    for r in limited
                ]
                cost = mean(row["training_macs"] / row["full_training_macs"] for row in found)
                accuracies = [spread([100 * row[key] for row in found]) for key in ("accuracy_int8", "pooled_int8")]
                lines.append(table_line([case.name, len(found), *accuracies, *shares, f"{cost:.2f}"]))
    return "\n".join([*lines, *_trials()]) + "\n"


def _trials() -> list[str]:
    """The runs of ``trials.jsonl``, a row each."""
    lines = ["", "## Trials", "", "Single runs from which the defaults were chosen; differences within a point are noise.", ""]
    lines += ["| run | float test | train | int8 test | int8 val + test | training MACs |", "|---|--:|--:|--:|--:|--:|"]
    for trial in read(TRIALS):
        settings = {k: v for k, v in trial.items() if k not in (*_RESULTS, "cpu_seconds", "widths", "task", "budget", "method")}
        settings = {k: v for k, v in settings.items() if v is not False}
        named = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items())
        what = f"{trial['task']} {trial['budget']} {trial['method']}: {named}"
        lines.append(table_line([what.replace(" trained True", " trained"), *(trial.get(r, "") for r in _RESULTS)]))
    return lines


def asked(words: Sequence[str] | None = None) -> Namespace:
    """What a command line asks for; the one that this process was started with by default."""
    parser = arguments(__doc__, "studies", PAGE)
    parser.add_argument("--studies", nargs="+", default=list(STUDIES), choices=list(STUDIES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    return parser.parse_args(words)


def wanted(given: Namespace) -> list[tuple[Any, ...]]:
    """The runs that are asked for, each by what its row has under ``KEY``."""
    return [(name, case.name, seed) for seed in given.seeds for name in given.studies for case in STUDIES[name].cases]


def main() -> int:
    given = asked()
    torch.set_num_threads(1)
    done = {key(found, KEY) for found in read(ROWS)}
    for one in wanted(given) if not given.table else ():
        if one not in done:
            study, name, seed = one
            (case,) = (case for case in STUDIES[study].cases if case.name == name)
            append(ROWS, {**dict(zip(KEY, one, strict=True)), **run(case, seed, given.data, given.work)})
    if read(ROWS):
        PAGE.write_text(page(read(ROWS)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
