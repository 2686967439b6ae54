"""Accuracy at equal training compute: every method may spend the same multiply-accumulates, at whatever widths it likes.

``python tests/benchmarks/bench_compute.py --data DIR [--tasks T1 T2 T3] [--budgets B1 B2 B3] [--compute 0.3 1.0]``

Tasks, budgets and data are those of ``bench_accuracy.py``. A compute of 1.0 is what its epochs take at full width, fake-quant
training included; runs are ``mcuprune prune --train-compute`` with all else as it is by default, from an untrained file or,
with --trained, from one that was trained at full width for a compute of 1.0, which is in no number. ``--budgets full`` is the
whole network, trained: what the others' time is a share of. Magnitude pruning and Torch-Pruning, in its setting that did best
at equal epochs, run with a compute of 1.0 alone from untrained files. ``bands`` is the default with ``--bands auto``, at B3
alone, where SRAM binds, and runs where it is named. ``make bench-compute`` makes the calls that all rows of the page come from.
Finished runs are appended to ``compute.jsonl`` and not run again; ``compute.md``, ``docs/images/compute.svg`` and
``docs/images/compute-cpu.svg`` are drawn from it.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from bench_accuracy import BUDGETS, PEER, TASKS, UNTAUGHT, WHOLE, add_peers, files, measured, trained_file
from rows import append, arguments, grouped, key, machine, read, spread, table_line

from mcuprune.pruning import Result

HERE = Path(__file__).resolve().parent
ROWS, PAGE = HERE / "compute.jsonl", HERE / "compute.md"
IMAGES = HERE.parents[1] / "docs" / "images"
METHODS = ("differentiable", "uniform", "at-init")
#: What starts wide and ends narrow, by the names in the table: run where there is compute for both.
WIDE = {"magnitude": "magnitude", "tp-bn-local": "Torch-Pruning"}
#: The default with the first layers in bands of rows, by its name in the rows, and the budget where SRAM binds.
BANDED, SRAM_BINDS = "bands", "B3"
KEY = ("task", "budget", "compute", "method", "seed", "trained")
#: What runs from trained files by default, and the optimizer that these were trained with: the tool's own.
FROM_TRAINED, OPTIMIZER = ("differentiable", "tp-bn-local"), "muon"
#: Widths that both train from the first step on, and the parts of a run after which a look could choose between them.
RIVALS, LOOKS = ("uniform", "at-init"), (1 / 5, 1 / 3, 1 / 2, 2 / 3)


def row(
    task_name: str, budget: str, compute: float, method: str, seed: int, trained: bool, data: Path, work: Path
) -> dict[str, Any]:
    """One run of the benchmark."""
    task = TASKS[task_name]
    start, archive = files(task_name, seed, data, work)
    limits = BUDGETS.get(budget, WHOLE)
    wishes: dict[str, Any] = {"batch": task.batch, "augment": task.augment, "train_compute": compute * task.epochs}
    if trained:
        start = trained_file(task_name, seed, data, work, OPTIMIZER)
        if method.startswith(PEER):
            wishes |= UNTAUGHT

    if method == BANDED:
        wishes["bands"] = "auto"

    def also(result: Result) -> dict[str, Any]:
        """The share of a full run that it was, when it narrowed, and validation on the way: [share, accuracy]."""
        assert result.training is not None
        whole = task.epochs * max(1, result.training.examples // task.batch) * task.batch * result.before.total["macs"]
        seen = [(line.training_macs / whole, line.accuracy) for line in result.history if line.accuracy is not None]
        schedule = result.training.schedule
        return {
            "machine": machine(),
            "spent": round(result.training_macs / whole, 4),
            "wide": [
                round(schedule.whole + (1 - schedule.whole) * end, 4) for end in (schedule.prune_start, schedule.prune_stop)
            ],
            "curve": [[round(share, 4), round(accuracy, 4)] for share, accuracy in seen],
        }

    own = "differentiable" if method == BANDED else method
    found = measured(start, archive, work, limits, seed, also, method=own, **wishes)
    return {**dict(zip(KEY, (task_name, budget, compute, method, seed, trained), strict=True)), **found}


def _cells(
    rows: Sequence[dict[str, Any]], *, trained: bool = False
) -> Iterator[tuple[tuple[str, str, float], dict[str, list[dict[str, Any]]]]]:
    """Rows from untrained or from trained files by task, budget and compute, and in each of these by method, in order."""
    rows = [found for found in rows if found["trained"] == trained and found["budget"] in BUDGETS]
    for of in sorted({(found["task"], found["budget"], found["compute"]) for found in rows}):
        here = [found for found in rows if (found["task"], found["budget"], found["compute"]) == of]
        yield of, {method: [found for found in here if found["method"] == method] for method in (*METHODS, *WIDE, BANDED)}


def _paired(first: Sequence[dict[str, Any]], second: Sequence[dict[str, Any]]) -> str:
    """Mean and standard error of the difference on the seeds that both have."""
    other = {found["seed"]: found["pooled_int8"] for found in second}
    apart = [100 * (found["pooled_int8"] - other[found["seed"]]) for found in first if found["seed"] in other]
    if not apart:
        return ""
    return f"{mean(apart):+.1f}" + (f" ± {stdev(apart) / len(apart) ** 0.5:.1f}" if len(apart) > 1 else "")


def summary(rows: list[dict[str, Any]]) -> str:
    """A sentence for the front page: by how much the default is ahead of uniform scaling, wherever several seeds were run."""
    by_compute: dict[float, list[str]] = {}
    for (task, budget, compute), by in _cells(rows):
        apart = _paired(by["differentiable"], by["uniform"])
        if "±" in apart:
            by_compute.setdefault(compute, []).append(f"{apart} ({TASKS[task].title}, {budget})")
    parts = []
    for compute, cells in by_compute.items():
        if len(cells) == 1:  # which stands in the table
            continue
        ranked = sorted(cells, key=lambda cell: float(cell.split()[0]))
        ahead = sum(float(cell.split()[0]) >= 1 for cell in cells)
        parts.append(
            f"with {compute:g} of a run at full width a point or more in {ahead} of {len(cells)} cells of task and budget, "
            f"from {ranked[0]} to {ranked[-1]}"
        )
    return "; ".join(parts)


def page(rows: list[dict[str, Any]]) -> str:
    """The table of all stored runs."""
    lines = [
        "# Accuracy at equal training compute",
        "",
        "Made by `make bench-compute` (`tests/benchmarks/bench_compute.py`) from `compute.jsonl`, which has every run with",
        "its seed, widths, versions and validation on the way. Tasks and budgets are those of [Accuracy](accuracy.md). A",
        "compute of 1.0 is the multiply-accumulates that the epochs of that page take at full width. Accuracies are those of",
        "the int8 file, validation and test examples together, in per cent: mean and standard deviation over seeds; the",
        "difference is of the same seeds, with its standard error. *Wide until* is the share of the compute by which the",
        "network has its final widths; where that is 0.00 the default spends no step wide: its widths lie between uniform",
        "ones, grown into what they leave, and those of at-init, its weights are drawn anew for the inputs that are left, and",
        "it learns from smaller images first where they have colours (T1, T3). Weights of uniform scaling are drawn anew as",
        "well; its images stay as they are, and what it would gain by smaller ones stands in the [Trials](studies.md). CPU is",
        "that of the whole run, evaluation included, as a share of a run at full width on the same machine, which others used",
        "too: a rough figure. *at-init* chooses widths in seconds by SynFlow, and trains at them from the first step.",
        "",
        "| task | budget | compute | differentiable | uniform | difference | seeds | wide until | CPU | CPU, uniform "
        "| at-init | default - at-init |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    whole = _whole(rows)
    for (task, budget, compute), by in _cells(rows):
        if not by["differentiable"]:
            continue
        means = {method: _spread(by[method]) for method in METHODS}
        seeds = sorted({found["seed"] for found in by["differentiable"]} & {found["seed"] for found in by["uniform"]})
        wide = sorted({found["wide"][1] for found in by["differentiable"]})
        cpu = []
        for method in ("differentiable", "uniform"):
            timed = [found for found in by[method] if (task, found.get("machine")) in whole]
            shares = [found["cpu_seconds"] / whole[task, found["machine"]] for found in timed]
            cpu.append(f"{mean(shares):.2f}" if shares else "")
        cells = [task, budget, f"{compute:g}", means["differentiable"], means["uniform"]]
        cells += [_paired(by["differentiable"], by["uniform"]), str(len(seeds)), ", ".join(f"{share:.2f}" for share in wide)]
        lines.append(table_line([*cells, *cpu, means["at-init"], _paired(by["differentiable"], by["at-init"])]))
    return "\n".join([*lines, *_wide_table(rows), *_bands_table(rows), *_trained_table(rows), *_early_table(rows)]) + "\n"


def _wide_table(rows: list[dict[str, Any]]) -> list[str]:
    """A section on the methods of ``WIDE``, where they were run."""
    heads = [head for name in WIDE.values() for head in (name, "seeds", f"default - {name}")]
    lines = [
        "",
        "## Methods that start wide",
        "",
        "Magnitude pruning, a method of this tool, and Torch-Pruning (importance by BatchNormalization, one ratio for all",
        "groups: `torch_pruning_peer.py`) train the whole network first and narrow it on the way, by the same trainer and with",
        "the same compute. Differences are of the seeds that both have.",
        "",
        table_line(["task", "budget", "compute", "differentiable", *heads]),
        "|---|---|--:|--:|" + "--:|--:|--:|" * len(WIDE),
    ]
    for (task, budget, compute), by in _cells(rows):
        if not any(by[method] for method in WIDE):
            continue
        cells = [task, budget, f"{compute:g}", _spread(by["differentiable"])]
        for method in WIDE:
            cells += [_spread(by[method]), str(len(by[method]) or ""), _paired(by["differentiable"], by[method])]
        lines.append(table_line(cells))
    return lines


def _bands_table(rows: list[dict[str, Any]]) -> list[str]:
    """A section on row bands where SRAM binds, where they were run."""
    lines = []
    for (task, budget, compute), by in _cells(rows):
        banded, plain, uniform = (by[method] for method in (BANDED, "differentiable", "uniform"))
        if banded:
            cells = [task, budget, f"{compute:g}", _spread(banded), _paired(banded, plain), _paired(banded, uniform)]
            lines.append(table_line([*cells, str(len(banded))]))
    head = [
        "",
        "## In bands of rows",
        "",
        "The default with `--bands auto`, at the budget where SRAM binds: what the first layers' tensors no longer need leaves",
        "them wide, and rows that are computed twice count as MACs. Uniform scaling is that of the first table, without bands.",
        "",
        "| task | budget | compute | in bands | in bands - default | in bands - uniform | seeds |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    return [*head, *lines] if lines else []


def _trained_table(rows: list[dict[str, Any]]) -> list[str]:
    """A section on runs from trained files, where there are some."""
    lines = []
    for (task, budget, compute), by in _cells(rows, trained=True):
        ours, theirs = (by[method] for method in FROM_TRAINED)
        both = {found["seed"] for found in ours} & {found["seed"] for found in theirs}
        cells = [task, budget, f"{compute:g}", _spread(ours), _spread(theirs), _paired(ours, theirs), str(len(both))]
        lines.append(table_line(cells))
    head = [
        "",
        "## From a trained network",
        "",
        "The network comes trained, at full width with a compute of 1.0, which is in no number here. Both may then spend the",
        "compute of the table. The default learns from the network that came as well, which Torch-Pruning doesn't.",
        "",
        "| task | budget | compute | differentiable | Torch-Pruning | difference | seeds |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    return [*head, *lines] if lines else []


def _early_table(rows: list[dict[str, Any]]) -> list[str]:
    """A section on successive halving: how well an early look would choose between the widths of ``RIVALS``, cell by cell."""
    lines = [
        "",
        "## Choosing widths by an early look",
        "",
        "Successive halving would train several allocations for a while and go on with the one that is ahead. What that",
        "could give is read off the runs above: uniform widths and those of at-init, of the same seed with a compute of 0.3,",
        "both narrow from the first step on. A look takes the better of the last two validations. *Gain* is the final accuracy",
        "of the run that is ahead at that moment, less that of uniform scaling, in points, with its standard error; the last",
        "line always goes on with what turns out better. It leaves out what the look costs: the run that is given up has spent",
        "that share of the compute, and the other one has so much less.",
        "",
        "| look after this share of a run | pairs of runs | the better one was ahead | gain |",
        "|--:|--:|--:|--:|",
    ]
    pairs = [
        tuple(next((one for one in by[method] if one["seed"] == seed), None) for method in RIVALS)
        for (_, _, compute), by in _cells(rows)
        for seed in sorted({one["seed"] for one in by[RIVALS[0]]})
        if compute == 0.3
    ]
    both = [(first, second) for first, second in pairs if first is not None and second is not None]
    for share in (*LOOKS, 1.0):
        chosen = [max(pair, key=lambda one: _seen_by(one, share)) for pair in both]
        better = [max(pair, key=lambda one: float(one["pooled_int8"])) for pair in both]
        kept = better if share == 1.0 else chosen
        gains = [100 * (one["pooled_int8"] - pair[0]["pooled_int8"]) for one, pair in zip(kept, both, strict=True)]
        right = sum(one is best for one, best in zip(kept, better, strict=True))
        gain = f"{mean(gains):+.1f} ± {stdev(gains) / len(gains) ** 0.5:.1f}" if len(gains) > 1 else ""
        lines.append(table_line([f"{share:.2f}" if share < 1 else "the end", str(len(both)), str(right), gain]))
    return lines


def _seen_by(one: Mapping[str, Any], share: float) -> float:
    """The better of a run's last two validations until a share of it was over."""
    seen = [accuracy for spent, accuracy in one["curve"] if spent <= share * one["spent"]]
    return max(seen[-2:], default=0.0)


def _spread(rows: Sequence[dict[str, Any]]) -> str:
    return spread([100 * found["pooled_int8"] for found in rows]) if rows else ""


# ---------------------------------------------------------------------------------------------------------- the pictures

_SIZE, _MARGIN = (340, 220), (44, 30)
_STYLES = {
    "differentiable": "#2f7ed8",
    "uniform": "#d8762f",
    "at-init": "#8a8a8a",
}
#: Lines of fewer points show each of them.
_FEW = 4
#: Lines of a panel by method: points of a share of something and an accuracy, both of 1.
Lines = Mapping[str, Sequence[Sequence[Sequence[float]]]]


def pictures(rows: list[dict[str, Any]]) -> dict[Path, str]:
    """All pictures, by where they belong."""
    return {IMAGES / "compute.svg": picture(rows), IMAGES / "compute-cpu.svg": picture_by_cpu(rows)}


def picture(rows: list[dict[str, Any]]) -> str:
    """Validation accuracy against training compute, a line for each run."""
    curves: dict[tuple[str, str], dict[str, list[list[list[float]]]]] = {}
    for (task, budget, _), by in _cells(rows):
        for method in _STYLES:
            curves.setdefault((task, budget), {}).setdefault(method, []).extend(one["curve"] for one in by[method])
    return _panels(curves, "compute", "validation accuracy against training compute")


def picture_by_cpu(rows: list[dict[str, Any]]) -> str:
    """Accuracy of the int8 files against the CPU time of whole runs: means over seeds, a line from one compute to the next.

    Only runs on machines on which a run at full width was timed as well, which their time is a share of.
    """
    whole, lines = _whole(rows), dict[tuple[str, str], dict[str, list[list[list[float]]]]]()
    for (task, budget, _), by in _cells(rows):
        for method in _STYLES:
            timed = [found for found in by[method] if (task, found.get("machine")) in whole]
            if timed:
                share = mean(found["cpu_seconds"] / whole[task, found["machine"]] for found in timed)
                line = lines.setdefault((task, budget), {}).setdefault(method, [[]])[0]
                line.append([share, mean(found["pooled_int8"] for found in timed)])
    return _panels(lines, "CPU time", "accuracy against CPU time")


def _whole(rows: list[dict[str, Any]]) -> dict[tuple[Any, ...], float]:
    """CPU seconds of a run at full width with a compute of 1.0, by task and machine."""
    full = grouped([found for found in rows if found["budget"] == "full"], "task", "machine")
    return {of: mean(found["cpu_seconds"] / found["compute"] for found in alike) for of, alike in full.items()}


def _panels(curves: Mapping[tuple[str, str], Lines], what: str, about: str) -> str:
    """A panel for each task and budget, readable on light and on dark. what: of which points have a share."""
    width, height = _SIZE
    panels = [_panel(f"{TASKS[task].title}, {budget}", what, of) for (task, budget), of in sorted(curves.items())]
    columns = min(2, max(1, len(panels)))
    placed = "".join(
        f'<g transform="translate({(i % columns) * width} {i // columns * height})">{one}</g>' for i, one in enumerate(panels)
    )
    total = (width * columns, height * -(-len(panels) // columns) + 24)
    legend = "".join(
        f'<text x="{_MARGIN[0] + 130 * i}" y="{total[1] - 8}" style="fill:{colour}">{method}</text>'
        for i, (method, colour) in enumerate(_STYLES.items())
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total[0]} {total[1]}" width="{total[0]}" height="{total[1]}" '
        f'role="img" aria-label="{about}"><style>text{{font:12px system-ui,sans-serif;'
        "fill:#404040}path{fill:none;stroke-width:1.5;opacity:.8}circle{opacity:.8}line{stroke:#b0b0b0}"
        "@media(prefers-color-scheme:dark){text{fill:#d0d0d0}line{stroke:#606060}}</style>"
        f"{placed}{legend}</svg>\n"
    )


def _panel(title: str, what: str, curves: Lines) -> str:
    """One diagram: a line for each run. The lower end of the accuracies is cut off where nothing is decided."""
    (width, height), (left, below) = _SIZE, _MARGIN
    every = [point for lines in curves.values() for line in lines for point in line]
    most = max(share for share, _ in every)
    high = max(accuracy for _, accuracy in every)
    low = max(high - 0.25, min(accuracy for _, accuracy in every))

    def at(share: float, accuracy: float) -> str:
        x = left + share / most * (width - left - 12)
        y = 24 + (high - max(accuracy, low)) / (high - low) * (height - 24 - below)
        return f"{x:.1f} {y:.1f}"

    base = height - below
    parts = [
        f'<text x="{left}" y="14">{title}</text>',
        f'<line x1="{left}" y1="{base}" x2="{width - 12}" y2="{base}"/><line x1="{left}" y1="24" x2="{left}" y2="{base}"/>',
        f'<text x="{width - 12}" y="{base + 16}" text-anchor="end">{what}, {most:.2g} of a full run</text>',
        *(
            f'<text x="{left - 5}" y="{float(at(0, share).split()[1]) + 4:.0f}" text-anchor="end">{100 * share:.1f}</text>'
            for share in (high, low)
        ),
    ]
    for method, lines in curves.items():
        for line in lines:
            path = "L".join(at(share, accuracy) for share, accuracy in line)
            parts.append(f'<path d="M{path}" style="stroke:{_STYLES[method]}"/>')
            if len(line) < _FEW:
                ends = (at(share, accuracy).split() for share, accuracy in line)
                parts += [f'<circle cx="{x}" cy="{y}" r="3" style="fill:{_STYLES[method]}"/>' for x, y in ends]
    return "".join(parts)


def asked(words: Sequence[str] | None = None) -> Namespace:
    """What a command line asks for; the one that this process was started with by default."""
    parser = arguments(__doc__, "bench-compute", PAGE)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--budgets", nargs="+", default=list(BUDGETS), choices=[*BUDGETS, "full"])
    parser.add_argument("--compute", nargs="+", type=float, default=[0.3, 1.0])
    parser.add_argument("--methods", nargs="+", choices=[*METHODS, *WIDE, BANDED])
    parser.add_argument("--trained", action="store_true", help="prune a network that was trained at full width")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    given = parser.parse_args(words)
    if given.methods is None:
        given.methods = FROM_TRAINED if given.trained else (*METHODS, *WIDE)
    return given


def wanted(given: Namespace) -> list[tuple[Any, ...]]:
    """The runs that are asked for, each by what its row has under ``KEY``."""
    return [
        (task, budget, compute, method, seed, given.trained)
        for seed in given.seeds
        for task in given.tasks
        for compute in given.compute
        for budget in given.budgets
        for method in given.methods
        if (budget in BUDGETS or method == "uniform") and (method not in WIDE or given.trained or compute >= 1)
        if method != BANDED or budget == SRAM_BINDS
    ]


def main() -> int:
    given = asked()
    torch.set_num_threads(1)
    if not given.table and any(method.startswith(PEER) for method in given.methods):
        add_peers(trained=given.trained)
    given.work.mkdir(parents=True, exist_ok=True)
    done = {key(found, KEY) for found in read(ROWS)}
    for one in wanted(given) if not given.table else ():
        if one not in done:
            append(ROWS, row(*one, given.data, given.work))
    PAGE.write_text(page(read(ROWS)))
    for place, drawn in pictures(read(ROWS)).items():
        place.write_text(drawn)
    return 0


if __name__ == "__main__":
    sys.exit(main())
