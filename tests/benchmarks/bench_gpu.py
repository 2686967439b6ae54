"""The paper's networks at its scale, on CIFAR-10 and on keywords, made for a GPU.

``python tests/benchmarks/bench_gpu.py --data DIR [--networks vgg16 ...] [--budgets ...] [--epochs N] [--seeds 0 1 2]``

DIR holds ``cifar10-train.npz`` and ``cifar10-test.npz``: 48,000 images train, 2,000 are for validation, 10,000 test; and, for
DS-CNN (S, M, L), RES-8 and RES-15, ``kws12-mfcc.npz`` with keywords as 49 rows of ten coefficients. Every run is a whole
``mcuprune prune`` from an untrained file with the tool's defaults, but for batches of 128, flips and shifts, and --epochs.
Finished runs are appended to ``gpu.jsonl`` and not run again, one that was interrupted goes on from its last epoch; ``gpu.md``
is drawn from the finished ones. --toy runs a few steps on made-up examples, anywhere, and stores nothing.

Budgets are those of table 3 of the paper (Liberis & Lane, arXiv 2110.08350): what its own pruned models use, with its KB of
1,000 bytes (its 131 KB for VGG-16 are the 131,072 bytes of two maps of 64 x 32 x 32). Its size is a byte a weight, while flash
here counts eight bytes a channel more for bias and scale: the same number is a little stricter. The paper trains MobileNet-v2
and EfficientNet-B0 on Visual Wake Words, at 50 x 50 and 160 x 160. Here they train on CIFAR-10 at its own 32 x 32, for larger
images would cost more and show no more, under the same shares of what they cost unpruned; there is no accuracy to compare.
EfficientNet-B0's row at 50 x 50 is left out: the unpruned size that it gives is a tenth of what it gives at 160 x 160.
EtinyNet's row is that of its ImageNet model, as shares. The paper's DS-CNN rows begin with wider networks, of MicroNets; here
those of Zhang et al. are cut to the budgets that lie below them. Where table 3 has no row, all limits are a half. The keywords
are a part of Speech Commands, so that there, too, no accuracy of the paper can be compared.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from bench_accuracy import Task, cifar10, kws12, untrained
from paper_networks import (
    CLASSES,
    KEYWORDS,
    dscnn_l,
    dscnn_m,
    dscnn_s,
    efficientnet_b0,
    etinynet,
    mcunet,
    mobilenet_v2,
    res8,
    res15,
    resnet18,
    vgg16,
)
from rows import append, arguments, grouped, key, read, spread, table_line, versions
from torch import nn

from mcuprune import pruning, units
from mcuprune.costs.resources import RESOURCES
from mcuprune.train.task import PRECISIONS

HERE = Path(__file__).resolve().parent
ROWS, PAGE = HERE / "gpu.jsonl", HERE / "gpu.md"
METHODS = ("differentiable", "magnitude", "uniform")
SHAPE = (3, 32, 32)
#: What table 3 tells of a network.
LIMITED = ("flash", "sram", "macs")
#: What marks runs that began narrow with the weights that their channels had, as they once did.
_EARLIER = " †"
KEY = ("network", "budget", "method", "seed", "epochs", "precision")


@dataclass(frozen=True)
class Target:
    """Limits as on the command line. paper: the int8 accuracy that table 3 has for them, in percent, if on CIFAR-10."""

    flash: str
    sram: str
    macs: str
    paper: float | None = None


#: Network -> how to build it, and the rows of table 3, by the work whose costs each is to match.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], dict[str, Target]]] = {
    "vgg16": (
        vgg16,
        {
            "A/C #1": Target("309kB", "52.2kB", "22.38M", 91.15),
            "A/C #2": Target("184kB", "62.5kB", "22.15M", 90.38),
            "DSA": Target("834kB", "34.8kB", "15.28M", 90.36),
        },
    ),
    "resnet18": (
        resnet18,
        {
            "DSA": Target("2440kB", "88.0kB", "97.20M", 94.49),
            "MCU": Target("256kB", "81.9kB", "29.58M", 91.98),
        },
    ),
    "mobilenet_v2": (
        mobilenet_v2,
        {
            # 606 K of 2.32 M, 198 of 768 KB, 58.33 of 164.8 M; 101 K of 2.32 M, 27.8 of 76.2 KB, 3.342 of 22.58 M
            "VWW-1": Target("26.1%", "25.8%", "35.4%"),
            "VWW-2": Target("4.35%", "36.5%", "14.8%"),
        },
    ),
    # 601 K of 3.66 M, 199 of 768 KB, 52.13 of 187.6 M
    "efficientnet_b0": (efficientnet_b0, {"VWW-1": Target("16.4%", "25.9%", "27.8%")}),
    "mcunet": (mcunet, {"half": Target("50%", "50%", "50%")}),
    # 638 of 979 K, 149 of 201 KB, 63.32 of 105.9 M
    "etinynet": (etinynet, {"x0.75": Target("65.2%", "74.1%", "59.8%")}),
    "dscnn_s": (dscnn_s, {"half": Target("50%", "50%", "50%")}),
    "dscnn_m": (dscnn_m, {"KWS-S": Target("61.9kB", "49.8kB", "8.342M")}),
    "dscnn_l": (
        dscnn_l,
        {"KWS-M": Target("115kB", "83.0kB", "15.56M"), "KWS-S": Target("61.9kB", "49.8kB", "8.342M")},
    ),
    "res8": (res8, {"KWS-S": Target("63.2kB", "13.7kB", "2.354M")}),
    "res15": (res15, {"KWS-M": Target("32.4kB", "27.4kB", "14.96M")}),
}


#: The networks that listen.
SOUND = frozenset({"dscnn_s", "dscnn_m", "dscnn_l", "res8", "res15"})


def made_up(
    folder: Path, *, train: int = 24, rest: int = 16, shape: Sequence[int] = SHAPE, classes: int = CLASSES
) -> dict[str, np.ndarray]:
    """A few examples of noise, for runs whose numbers nobody reads."""
    draw = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for split, count in (("train", train), ("val", rest), ("test", rest)):
        arrays[f"x_{split}"] = draw.standard_normal((count, *shape), np.float32)
        arrays[f"y_{split}"] = np.arange(count) % classes
    return arrays


REAL = Task(vgg16, SHAPE, CLASSES, 0, 128, "flip,crop4", partial(cifar10, train=48000, val=2000, lossless=False))
TOY = Task(vgg16, SHAPE, CLASSES, 0, 8, "flip,crop4", made_up)
MFCC = (1, 49, 10)
REAL_SOUND = Task(dscnn_s, MFCC, KEYWORDS, 0, 128, "shift1", kws12)
TOY_SOUND = Task(dscnn_s, MFCC, KEYWORDS, 0, 8, "shift1", partial(made_up, shape=MFCC, classes=KEYWORDS))


def task_of(network: str, *, toy: bool = False) -> Task:
    """What a network is trained for."""
    if network in SOUND:
        return TOY_SOUND if toy else REAL_SOUND
    return TOY if toy else REAL


def request(
    network: str,
    budget: str,
    method: str,
    seed: int,
    epochs: int | None = None,
    precision: str = PRECISIONS[0],
    *,
    task: Task,
    data: Path,
    work: Path,
) -> pruning.Request:
    """What to ask of the tool. Writes the data and the untrained network into ``work`` where they aren't there yet.

    Runs of another ``KEY`` have another output, and beside it a state of their own to go on from.
    """
    build, targets = NETWORKS[network]
    archive, start = work / ("sounds.npz" if network in SOUND else "data.npz"), work / f"{network}-{seed}.onnx"
    if not archive.exists():
        np.savez(archive, **task.arrays(data))
    if not start.exists():
        untrained(replace(task, build=build), seed, start)
    asked = vars(targets[budget])
    limits = {name: units.parse(asked[name], resource.unit) for name, resource in RESOURCES.items() if name in asked}
    length = "default" if epochs is None else f"{epochs}epochs"
    name = f"{network}-{''.join(filter(str.isalnum, budget))}-{method}-{seed}-{length}-{precision}.onnx"
    return pruning.Request(
        str(start),
        limits,
        str(work / "out" / name),
        data=str(archive),
        method=method,
        batch=task.batch,
        augment=task.augment,
        seed=seed,
        epochs=epochs,
        precision=precision,
        resume=True,
    )


def row(network: str, budget: str, asked: pruning.Request) -> dict[str, Any]:
    """One run, from a file to a file. drawn: what is narrow from the first step on has weights drawn for its widths."""
    result = pruning.prune(asked)
    assert result.accuracy_float is not None
    assert result.accuracy_int8 is not None
    assert result.training is not None
    device = result.training.device.replace("cpu", "CPU")  # of a run that was moved, from where to where
    if torch.cuda.is_available():
        device = device.replace("cuda", torch.cuda.get_device_name())
    return {
        "network": network,
        "budget": budget,
        "method": asked.method,
        "seed": asked.seed,
        "epochs": asked.epochs,
        "precision": asked.precision,
        "trained_epochs": result.history[-1].epochs,
        "batch": asked.batch,
        "held": result.ok,
        "accuracy_float": round(result.accuracy_float, 5),
        "accuracy_int8": round(result.accuracy_int8, 5),
        "full": {name: result.before.total[name] for name in LIMITED},
        "used": {name: result.verdict.used[name] for name in result.budget.limits},
        "limits": dict(result.budget.limits),
        "widths": [group.after for group in result.groups],
        "training_macs": result.training_macs,
        "full_training_macs": result.full_training_macs,
        "seconds": round(result.seconds),
        "device": device,
        "drawn": True,
        "versions": versions(torch),
    }


def page(rows: Sequence[dict[str, Any]]) -> str:
    """The table of all stored runs: means over seeds, with the sample standard deviation."""
    lines = [
        "# The paper's networks at its scale",
        "",
        "Made by `make bench-gpu` (`tests/benchmarks/bench_gpu.py`, whose first lines say where the budgets come from) from",
        "`gpu.jsonl`, which has every run with its seed, widths and versions. Images: CIFAR-10; sounds: keywords.",
        "Training starts from random weights; the paper's accuracies are after a training whose length it doesn't give.",
        "Minutes are of whole runs, several of which shared the machine. The keywords have few test examples, so that a point",
        "between methods says little.",
        "",
        "| network | budget | method | epochs | seeds | held | int8 test | float test | paper, int8 "
        "| flash of limit | SRAM of limit | MACs of limit | training MACs | minutes | on |",
        "|---|---|---|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for (network, budget, method, device, precision, _), found in sorted(
        grouped(rows, "network", "budget", "method", "device", "precision", "epochs").items(), key=lambda group: str(group[0])
    ):
        paper = NETWORKS[network][1][budget].paper
        cells = [network, budget, method, f"{mean(one['trained_epochs'] for one in found):.0f}", str(len(found))]
        cells[2] += "" if all(one.get("drawn") for one in found) else _EARLIER
        cells.append("yes" if all(one["held"] for one in found) else "NO")
        cells += [spread([100 * one[name] for one in found]) for name in ("accuracy_int8", "accuracy_float")]
        cells.append("" if paper is None else f"{paper:.1f}")
        for name in LIMITED:
            cells.append(f"{mean(one['used'][name] / one['limits'][name] for one in found):.1%}")
        cells.append(f"{mean(one['training_macs'] / one['full_training_macs'] for one in found):.2f}")
        cells += [
            f"{mean(one['seconds'] for one in found) / 60:.1f}",
            device if precision == PRECISIONS[0] else f"{device}, {precision}",
        ]
        lines.append(table_line(cells))
    if any(_EARLIER in line for line in lines):
        lines += [
            "",
            f"{_EARLIER.strip()} some runs are from before weights were drawn anew for the widths they begin with.",
        ]
    return "\n".join(lines) + "\n"


def toy(networks: Sequence[str], methods: Sequence[str]) -> bool:
    """Run every network for a few steps on noise. Returns whether all budgets held."""
    held = True
    with tempfile.TemporaryDirectory() as folder:
        for network in networks:
            for budget in NETWORKS[network][1]:
                for method in methods:
                    asked = request(network, budget, method, 0, task=task_of(network, toy=True), data=Path(), work=Path(folder))
                    found = row(network, budget, replace(asked, epochs=2, device="cpu"))
                    held &= found["held"]
                    print(json.dumps(found), flush=True)
    return held


def main() -> int:
    parser = arguments(__doc__, "bench-gpu", PAGE)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--budgets", nargs="+", help="of those that the networks have; all by default")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, help="instead of the tool's own number, which is meant for a CPU")
    parser.add_argument("--device", default="auto", help="as of mcuprune prune")
    parser.add_argument("--precision", default=PRECISIONS[0], choices=PRECISIONS, help="as of mcuprune prune")
    parser.add_argument("--toy", action="store_true", help="a few steps on noise, on the CPU; nothing is stored")
    given = parser.parse_args()
    if given.toy:
        return 0 if toy(given.networks, given.methods) else 1
    done = {key(found, KEY) for found in read(ROWS)}
    wanted = [
        (network, budget, method, seed, given.epochs, given.precision)
        for seed in given.seeds
        for network in given.networks
        for budget in NETWORKS[network][1]
        if given.budgets is None or budget in given.budgets
        for method in given.methods
    ]
    for one in wanted if not given.table else ():
        if one in done:
            continue
        given.work.mkdir(parents=True, exist_ok=True)
        asked = request(*one, task=task_of(one[0]), data=given.data, work=given.work)
        found = row(*one[:2], replace(asked, device=given.device))
        append(ROWS, found)
    if rows := read(ROWS):
        PAGE.write_text(page(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
