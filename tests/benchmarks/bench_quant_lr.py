"""How fast fake-quant training should learn: the last stage of a prune, from the same float network at several rates.

``python tests/benchmarks/bench_quant_lr.py --data DIR [--tasks T2 resnet8_digits ...] [--seeds 100 101 102]``

A prune trains and cuts in floats, then calibrates ranges and trains with fake quantisation. Here each seed of a task trains
its float network once, and only that last stage is done several times from it: with each of RATES as its peak learning rate,
and with none (calibration alone). So rates are compared in pairs that differ in nothing else. T2 is the one of
``bench_accuracy.py`` (DIR as there) at a third of its length, the other tasks are the demo models on the embedded digits, half
as long as by default. The seeds were used for no other choice. Finished runs are appended to ``quant_lr.jsonl`` and not run
again; ``quant_lr.md`` is drawn from it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from bench_accuracy import BUDGETS, TASKS, files
from rows import append, read, versions

from mcuprune import pruning, units
from mcuprune.costs.resources import RESOURCES
from mcuprune.graph.network import Network
from mcuprune.pruning import Request
from mcuprune.train import evaluate, quantizing
from mcuprune.train.quantizing import Quantization, Quantized
from mcuprune.train.task import Candidate, OnStep

HERE = Path(__file__).resolve().parent
MODELS = HERE.parents[1] / "models"
ROWS, PAGE = HERE / "quant_lr.jsonl", HERE / "quant_lr.md"
#: Peak learning rates of fake-quant training; 0 is calibration alone.
RATES = (0.0, 0.0005, 0.001, 0.002, 0.005)
DIGITS = ("dscnn_digits", "resnet8_digits", "mbv2se_digits")
SEEDS = {**dict.fromkeys(DIGITS, (100, 101, 102, 103, 104)), "T2": tuple(range(100, 110))}
_LIMITS = {"macs": "12%", "flash": "10%"}
#: Epochs of T2 and of digits, the last sixth of them with fake quantisation: 100 and 51 steps.
_EPOCHS = {"T2": 12, **dict.fromkeys(DIGITS, 18)}
_COMMAND = "python tests/benchmarks/bench_quant_lr.py --data DIR"


class _Stages:
    """Stands in for the last stage of ``pruning.prune``: does it at every rate, from one and the same float network."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._quantize = quantizing.quantize

    def __call__(self, candidate: Candidate, how: Quantization, on_step: OnStep) -> Quantized:
        data = how.data
        assert data is not None

        def shares(net: Network) -> dict[str, float]:
            proto = net.to_proto().SerializeToString()
            splits = {"val": data.val, "test": data.test}
            return {name: round(evaluate.accuracy_of(proto, split), 5) for name, split in splits.items()}

        usual = quantizing._LR
        before = {f"float_{name}": share for name, share in shares(candidate.channels.network).items()}
        for rate in RATES:
            began = time.process_time()
            quantizing._LR = rate or usual
            # without a checkpoint, so that no rate takes up what another left
            asked = replace(how, checkpoint=None, schedule=how.schedule if rate > 0 else None)
            result = self._quantize(candidate, asked, on_step)
            self.rows.append(
                {"rate": rate, **shares(result.network), **before, "cpu_seconds": round(time.process_time() - began, 1)}
            )
        return result


def run(task: str, seed: int, data: Path | None, work: Path) -> list[dict[str, Any]]:
    """The rows of one float network: one for each rate."""
    wishes: dict[str, Any] = {"epochs": _EPOCHS[task]}
    if task in TASKS:
        assert data is not None
        model, archive = files(task, seed, data, work)
        source, limits = str(archive), BUDGETS["B1"]
        wishes |= {"batch": TASKS[task].batch, "augment": TASKS[task].augment}
    else:
        model, source, limits = MODELS / f"{task}.onnx", "digits", _LIMITS
    wanted = {name: units.parse(text, RESOURCES[name].unit) for name, text in limits.items()}
    stages = _Stages()
    usual = quantizing.quantize, quantizing._LR, quantizing.FakeQuant.undo_if_worse
    try:
        quantizing.quantize = stages
        quantizing.FakeQuant.undo_if_worse = lambda *state: None
        pruning.prune(Request(str(model), wanted, str(work / "out.onnx"), data=source, seed=seed, **wishes))
    finally:
        quantizing.quantize, quantizing._LR, quantizing.FakeQuant.undo_if_worse = usual
    of = {"task": task, "seed": seed}
    of |= {"epochs": _EPOCHS[task]}
    return [{**of, **found, "limits": dict(limits), "command": _COMMAND, "versions": versions(torch)} for found in stages.rows]


def _points(rows: Sequence[dict[str, Any]], task: str, rate: float, split: str) -> dict[int, float]:
    """Seed -> how many points of accuracy lie between a rate's int8 network and the float one that it came from."""
    found = [row for row in rows if row["task"] == task and row["rate"] == rate]
    return {row["seed"]: 100 * (row[split] - row[f"float_{split}"]) for row in found}


def page(rows: list[dict[str, Any]]) -> str:
    """What was measured, as means over seeds of paired differences."""
    lines = [
        "# Learning rate of fake-quant training",
        "",
        "Made by `make bench-quant` (`tests/benchmarks/bench_quant_lr.py`, whose first lines say what is compared) from",
        "`quant_lr.jsonl`. Numbers are points of accuracy of the int8 file above the float network that it was made from: mean",
        "± sample standard deviation over seeds, and the worst seed. A rate of 0 is calibration without training.",
        "Training is measured as it ends here, also where a prune would undo it, validation having become worse.",
        "",
        "| task | seeds | rate | test | worst | validation | better than calibration, test |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for task in SEEDS:
        for rate in RATES:
            test, val = (_points(rows, task, rate, split) for split in ("test", "val"))
            if not test:
                continue
            base = _points(rows, task, 0.0, "test")
            better = sum(test[seed] > base[seed] for seed in test)
            worse = sum(test[seed] < base[seed] for seed in test)
            told = f"{better} of {len(test)}, worse {worse}" if rate else ""
            worst = f"{min(test.values()):+.2f}"
            lines.append(f"| {task} | {len(test)} | {rate:g} | {_spread(test)} | {worst} | {_spread(val)} | {told} |")
    lines += [
        "",
        "All tasks together: points of accuracy above calibration alone, the mean of validation and test, with the standard",
        "error of that mean.",
        "",
        "| rate | runs | above calibration | worst run |",
        "|--:|--:|--:|--:|",
    ]
    for rate in RATES[1:]:
        above = [_above(rows, task, rate, seed) for task in SEEDS for seed in _points(rows, task, rate, "test")]
        if len(above) > 1:
            error = stdev(above) / len(above) ** 0.5
            lines.append(f"| {rate:g} | {len(above)} | {mean(above):+.2f} ± {error:.2f} | {min(above):+.2f} |")
    return "\n".join(lines) + "\n"


def _above(rows: Sequence[dict[str, Any]], task: str, rate: float, seed: int) -> float:
    """Points of accuracy, the mean of validation and test, that a rate leaves a run above calibration alone."""
    splits = ("test", "val")
    return mean(_points(rows, task, rate, split)[seed] - _points(rows, task, 0.0, split)[seed] for split in splits)


def _spread(points: dict[int, float]) -> str:
    values = list(points.values())
    return f"{mean(values):+.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of kws12-mfcc.npz, for T2")
    parser.add_argument("--work", type=Path, default=Path("out/quant_lr"))
    parser.add_argument("--tasks", nargs="*", choices=tuple(SEEDS), default=tuple(SEEDS))
    parser.add_argument("--seeds", nargs="*", type=int)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    done = {(row["task"], row["seed"]) for row in read(ROWS)}
    todo = [(seed, task) for task in args.tasks for seed in args.seeds or SEEDS[task] if (task, seed) not in done]
    for seed, task in sorted(todo, key=lambda one: one[0]):
        if task == "T2" and args.data is None:
            sys.exit("T2 needs --data: a folder with kws12-mfcc.npz")
        rows = run(task, seed, args.data, args.work)
        append(ROWS, *rows, show=False)
        PAGE.write_text(page(read(ROWS)))
        print(task, seed, *(f"{row['rate']:g}: {row['test']:.4f}" for row in rows), flush=True)
    PAGE.write_text(page(read(ROWS)))


if __name__ == "__main__":
    main()
