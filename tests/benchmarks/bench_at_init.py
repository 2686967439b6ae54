"""Pruning at initialisation: how long it takes, how well its networks learn, and how fast they run, with controls beside it.

``python tests/benchmarks/bench_at_init.py --data DIR [--parts seconds accuracy masks latency] [--tasks T2 T1] [--seeds 0 1 2]``

*seconds*: ``prune --no-train --float --method at-init`` of untrained networks, in CPU seconds, with and without the start of
the process. *accuracy*: whole prunes of the tasks of ``bench_accuracy.py`` (DIR as there): ``at-init``, and its controls:
``at-init-random``, other channels at the same widths; ``at-init-plain``, its channels with their weights as they are;
``precrop``, widths by layers' densities that PreCrop's convex problem has for an optimum (arXiv 2203.02549);
``at-init-curves``, widths by the curves of sensitivity alone. Uniform widths and the differentiable method stand beside them
with the rows that ``bench_accuracy.py`` has stored of the same seeds.
*masks*: a VGG-16 of 289 k parameters at a sixteenth of them, cut by at-init, against itself with single weights masked by
SynFlow before training and trained so: of equal non-zeros, and of equal bytes where a stored non-zero takes the bits of its
index too. *cuts*: trained demo models cut without any training, at-init against the magnitude of weights. *latency*: the
written VGG-16 against the whole one, which masks are stored as, in onnxruntime on one thread: widths as they come, and in
multiples of 4.

Finished runs are appended to ``at_init.jsonl`` and not run again; ``at_init.md`` is drawn from it. Run it with ``nice -n 15``:
it takes hours, and can be interrupted at any time.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import subprocess
import sys
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import bench_accuracy
import numpy as np
import onnxruntime
import paper_networks
import torch
from bench_accuracy import TASKS, untrained
from rows import append, arguments, grouped, read, spread, table_line, versions
from torch import nn

from mcuprune.costs import widths as allocation
from mcuprune.costs.sensitivity import Descent
from mcuprune.graph import network
from mcuprune.operators import table as ops
from mcuprune.train import at_init, methods
from mcuprune.train.flow import Flow
from mcuprune.train.loop import Method
from mcuprune.train.methods.at_init import AtInit
from mcuprune.train.rectify import rectified
from mcuprune.train.task import Task
from mcuprune.train.trainer import Trainer

HERE = Path(__file__).resolve().parent
MODELS = HERE.parents[1] / "models"
ROWS, PAGE = HERE / "at_init.jsonl", HERE / "at_init.md"
#: A sixteenth of the parameters: flash is a byte each, and five to nine more for each channel.
_SIXTEENTH = "6.25%"
_TURNS, _WARM_UP = 200, 20
#: Trained models that are cut without training, and to how much of their flash.
DEMOS, _CUTS = ("resnet8_digits", "dscnn_digits", "branchy_digits", "mbv2se_digits"), ("80%", "60%")
#: SynFlow's iterations on single weights.
_ITERATIONS = 100
_MASK_TASK = "T1"


def thin_vgg16() -> nn.Module:
    """VGG-16 at a quarter of its width and less in the middle: 289,000 parameters."""
    layers: list[nn.Module] = []
    channels = 3
    for width, depth in ((16, 2), (32, 2), (48, 3), (64, 3), (64, 3)):
        for _ in range(depth):
            layers += paper_networks.convolution(channels, width, 3)
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


_CIFAR = replace(TASKS["T1"], title="")
#: What is timed: the network, the limit, and the CPU seconds that it is to take.
TIMED: Mapping[str, tuple[Callable[[], nn.Module], str, str, float]] = {
    "VGG-16": (paper_networks.vgg16, "T1", "9.9%", 10.0),
    "ResNet-18": (paper_networks.resnet18, "T1", "9.9%", 10.0),
    "ResNet-8": (TASKS["T1"].build, "T1", "12%", 1.0),
    "DS-CNN": (TASKS["T2"].build, "T2", "12%", 1.0),
}


# ------------------------------------------------------------------------------------------------------------- controls


class OtherChannels(AtInit):
    """The widths of at-init, with channels that chance takes, and other weights."""

    def start(self, trainer: Trainer) -> None:
        super().start(trainer)
        channels, seed = self.task.channels, self.task.seed + 1000
        widths = channels.widths(self.keep)
        self.keep = channels.top(widths, np.random.default_rng(seed).random(channels.n_components + 1))
        trainer.begin(rectified(channels, self.keep, trained=self.task.trained, seed=seed))


class Plain(AtInit):
    """The channels of at-init with their weights as they are: what new ones are worth."""

    def start(self, trainer: Trainer) -> None:
        super().start(trainer)
        trainer.begin(self.task.channels.cut_channels(self.keep))


class _Widths(Method):
    """Cut to widths that are known before training, weights as at-init gives them."""

    @abstractmethod
    def widths(self) -> np.ndarray:
        """Of each group: int64 (groups,)."""

    def start(self, trainer: Trainer) -> None:
        task = self.task
        n = self.widths()
        n = allocation.grow(task.model, n, task.budget, 1.0 / np.maximum(n, 1), task.multiple_of)
        self.keep = task.channels.top(n, np.random.default_rng(task.seed).random(task.channels.n_components + 1))
        trainer.begin(rectified(task.channels, self.keep, trained=task.trained, seed=task.seed))


class Curves(_Widths):
    """Widths by the curves of sensitivity, without scores of channels."""

    def widths(self) -> np.ndarray:
        descent = Descent(self.task.model, at_init.sensitivity(self.task.channels).curves)
        return descent.to(self.task.budget)


class PreCrop(_Widths):
    """Equal parameters in every layer as far as it has them: the densities min(1, c / size) maximise the sum of their logs.

    A layer keeps the root of its density of channels, for both its sides shrink; a group that several layers bear the root of
    their mean. c is the largest that holds the budget.
    """

    def widths(self) -> np.ndarray:
        task = self.task
        net, groups = task.channels.network, task.channels.groups
        nodes = {node.name: node for node in net.nodes}
        sizes = [np.array([net.constants[nodes[name].inputs[1]].size for name in group.nodes]) for group in groups]

        def at(size: float) -> np.ndarray:
            shares = np.array([math.sqrt(np.minimum(1.0, size / of).mean()) for of in sizes])
            return np.maximum(allocation.floor(task.model, shares, task.multiple_of), task.model.least)

        low, high = 0.0, float(max(of.max() for of in sizes))
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if allocation.holds(task.model, at(middle), task.budget) else (low, middle)
        return at(low)


class Masked(Method):
    """Single weights masked before training by SynFlow, and kept at zero by every step. The network keeps its shape.

    density: the share of the weights of layers that stays.
    """

    density = 1.0

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._masks: dict[str, np.ndarray] = {}

    def start(self, trainer: Trainer) -> None:
        self._masks = synflow_masks(Flow(self.task.channels), self.density)
        self._apply(trainer)

    def after_step(self, trainer: Trainer) -> bool:
        self._apply(trainer)
        return False

    @torch.no_grad()
    def _apply(self, trainer: Trainer) -> None:
        for name, weight in trainer.module.named_weights():
            if name in self._masks:
                weight.mul_(torch.from_numpy(self._masks[name]))


def synflow_masks(flow: Flow, density: float) -> dict[str, np.ndarray]:
    """Masks of 0 and 1, float32, by the names of constants: the share ``density`` of all weights of layers stays."""
    masks = {name: np.ones(value.shape, np.float32) for name, value in flow.of_weights().items()}
    for iteration in range(1, _ITERATIONS + 1):
        scores = flow.of_weights(masks)
        merged = np.concatenate([scores[name].ravel() for name in masks])
        stay = max(1, round(merged.size * density ** (iteration / _ITERATIONS)))
        threshold = np.partition(merged, merged.size - stay)[merged.size - stay]
        masks = {name: (scores[name] >= max(threshold, 1e-300)).astype(np.float32) for name in masks}
    return masks


CONTROLS: Mapping[str, Callable[[Task], Method]] = {
    "at-init-random": OtherChannels,
    "at-init-plain": Plain,
    "at-init-curves": Curves,
    "precrop": PreCrop,
}
METHODS = ("at-init", *CONTROLS)
#: What is taken from the rows of ``bench_accuracy.py``.
_KNOWN = ("uniform", "differentiable")


# ----------------------------------------------------------------------------------------------------------------- parts


_RUN = """
import resource, sys, time
import torch, mcuprune.train.at_init, mcuprune.train.rectify, mcuprune.train.evaluate
from mcuprune import pruning, units
began = time.process_time()
wanted = {"flash": units.parse(sys.argv[3], "bytes")}
pruning.prune(pruning.Request(sys.argv[1], wanted, sys.argv[2], train=False, int8=False, method="at-init"))
print(time.process_time() - began)
"""


def seconds(name: str, work: Path) -> dict[str, Any]:
    """CPU seconds of a cut in a process of its own: from its start, and from when its packages are imported."""
    build, task, limit, target = TIMED[name]
    source, out = work / f"{name}.onnx", work / "timed.onnx"
    untrained(replace(TASKS[task], build=build), 0, source)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _RUN, str(source), str(out), limit]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    whole = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    params = [sum(layer.size for layer in weights(path)) for path in (source, out)]
    return {
        "limit": limit,
        "cpu_seconds": round(float(done.stdout), 2),
        "with_start": round(whole, 2),
        "target": target,
        "weights": params,
        "load": round(os.getloadavg()[0], 1),
    }


def weights(path: Path) -> Iterator[np.ndarray]:
    """The weights of all layers of a file."""
    net = network.load(path, accept=ops.accept(str(path)))
    seen = {node.inputs[1] for node in net.nodes if node.op in ("Conv", "Gemm", "MatMul")}
    return (net.constants[name] for name in sorted(seen))


def accuracy(task: str, budget: str, method: str, seed: int, data: Path, work: Path) -> dict[str, Any]:
    """A whole prune, as ``bench_accuracy.py`` does it."""
    return bench_accuracy.row(task, budget, method, seed, False, "muon", data, work)


def masks(variant: str, seed: int, data: Path, work: Path) -> dict[str, Any]:
    """Train the thin VGG-16 at a sixteenth: cut, or masked. variant: cut, equal-nonzeros, equal-bytes, or whole."""
    task = TASKS[_MASK_TASK]
    start = work / f"vgg-{seed}.onnx"
    untrained(replace(task, build=thin_vgg16), seed, start)
    archive = work / f"{_MASK_TASK}.npz"
    if not archive.exists():
        np.savez(archive, **task.arrays(data))
    wishes: dict[str, Any] = {"epochs": task.epochs, "batch": task.batch, "augment": task.augment, "int8": False}
    density = cut_density(start, work)
    if variant == "equal-bytes":  # int8 and an index within its layer for each non-zero
        bits = 8 + math.log2(max(value.size for value in weights(start)))
        density = density * 8 / bits
    Masked.density = 1.0 if variant in ("cut", "whole") else density
    limits = {"flash": _SIXTEENTH} if variant == "cut" else {"macs": "100%"}
    method = {"cut": "at-init", "whole": "uniform"}.get(variant, "masked")
    found = bench_accuracy.measured(start, archive, work, limits, seed, method=method, **wishes)
    nonzeros = sum(int(np.count_nonzero(value)) for value in weights(work / "out.onnx"))
    return {**found, "density": round(density, 5), "nonzeros": nonzeros}


def cut_density(start: Path, work: Path) -> float:
    """The share of the weights of layers that at-init leaves of a network at a sixteenth."""
    cut = cut_to_sixteenth(start, work)
    return sum(value.size for value in weights(cut)) / sum(value.size for value in weights(start))


def cut_to_sixteenth(start: Path, work: Path, multiple: int = 1) -> Path:
    """The network cut without training, its widths multiples of a number."""
    from mcuprune import pruning, units

    out = work / "sixteenth.onnx"
    wanted = {"flash": units.parse(_SIXTEENTH, "bytes")}
    asked = pruning.Request(str(start), wanted, str(out), train=False, int8=False, method="at-init", multiple_of=multiple)
    pruning.prune(asked)
    return out


def cuts(name: str, limit: str, method: str, work: Path) -> dict[str, Any]:
    """Test accuracy of a trained demo model right after a cut. method: at-init, at-init-plain or magnitude."""
    from mcuprune import pruning, units
    from mcuprune.train import rectify

    model, drawn = MODELS / f"{name}.onnx", rectify.rectified
    if method == "at-init-plain":
        rectify.rectified = lambda channels, keep, **how: channels.cut_channels(keep)  # type: ignore[assignment]
    asked = pruning.Request(
        str(model), {"flash": units.parse(limit, "bytes")}, str(work / "as-is.onnx"), train=False, int8=False
    )
    try:
        chosen = pruning.Request.method if method == "magnitude" else "at-init"
        result = pruning.prune(replace(asked, data="digits", method=chosen))
    finally:
        rectify.rectified = drawn
    return {"before": result.accuracy, "after": result.accuracy_float, "widths": [group.after for group in result.groups]}


def latency(multiple: int, work: Path) -> dict[str, Any]:
    """Median milliseconds of one inference of the whole and the cut thin VGG-16, by turns, and their ratio."""
    start = work / "vgg-latency.onnx"
    untrained(replace(TASKS[_MASK_TASK], build=thin_vgg16), 0, start)
    cut = cut_to_sixteenth(start, work, multiple)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    sessions = [onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]) for path in (start, cut)]
    x = np.random.default_rng(0).normal(size=(1, *TASKS[_MASK_TASK].shape)).astype(np.float32)
    times: list[list[float]] = [[], []]
    for turn in range(_WARM_UP + _TURNS):
        for session, taken in zip(sessions, times, strict=True):
            began = time.perf_counter()
            session.run(None, {"x": x})
            if turn >= _WARM_UP:
                taken.append(1000 * (time.perf_counter() - began))
    whole, small = median(times[0]), median(times[1])
    sizes = [sum(value.size for value in weights(path)) for path in (start, cut)]
    return {"ms": [round(whole, 4), round(small, 4)], "ratio": round(whole / small, 2), "weights": sizes}


# ------------------------------------------------------------------------------------------------------- rows and the page


def page(rows: list[dict[str, Any]]) -> str:
    """All stored rows, means over seeds with the sample standard deviation."""
    lines = [
        "# Pruning at initialisation",
        "",
        "Made by `make bench-at-init` (`tests/benchmarks/bench_at_init.py`, whose first lines say what everything is) from",
        "`at_init.jsonl`, which has every run with its seed, widths and versions.",
    ]
    of = {part: [row for row in rows if row["part"] == part] for part in ("seconds", "cuts", "accuracy", "masks", "latency")}
    if of["seconds"]:
        lines += [
            "",
            "## Seconds",
            "",
            "CPU seconds from file to file on one thread; load is that of the machine, which was shared.",
            "",
            "| network | flash | weights | CPU s | wanted | with the process's start | load |",
            "|---|--:|--:|--:|--:|--:|--:|",
        ]
        for row in of["seconds"]:
            before, after = row["weights"]
            cells = [row["network"], row["limit"], f"{before:,} -> {after:,}", f"{row['cpu_seconds']:.1f}"]
            cells += [f"{row['target']:.0f}", f"{row['with_start']:.1f}", f"{row['load']}"]
            lines.append(table_line(cells))
    if of["cuts"]:
        lines += [
            "",
            "## Trained models, cut and not trained again",
            "",
            "Float test accuracy on the digits that are built in; `magnitude` is what `--no-train` does by default.",
            "",
            "| network | flash | method | before | after |",
            "|---|--:|---|--:|--:|",
        ]
        for row in of["cuts"]:
            cells = [row["network"], row["limit"], row["method"], f"{100 * row['before']:.1f}", f"{100 * row['after']:.1f}"]
            lines.append(table_line(cells))
    if of["accuracy"]:
        lines += [
            "",
            "## Accuracy",
            "",
            "Whole prunes from untrained files, trained and quantised as all methods are. `at-init-random` has the widths of",
            "`at-init` with other channels and other weights: the same within noise is the known result. `uniform` and",
            "`differentiable` are those of [Accuracy](accuracy.md): uniform widths with weights that were not drawn anew.",
            "",
            "| task | budget | method | seeds | held | int8 test | int8 val + test | training MACs | CPU s | widths of one |",
            "|---|---|---|--:|---|--:|--:|--:|--:|---|",
        ]
        rows = [*of["accuracy"], *_known(of["accuracy"])]
        lines += [_accuracy_line(key, found) for key, found in sorted(grouped(rows, "task", "budget", "method").items())]
    if of["masks"]:
        lines += [
            "",
            "## Against masks of single weights",
            "",
            "VGG-16 of 289 k parameters on 20,000 images of CIFAR-10, float test accuracy.",
            "",
            "| network | seeds | non-zeros | float test | training MACs |",
            "|---|--:|--:|--:|--:|",
        ]
        for (variant,), found in sorted(grouped(of["masks"], "variant").items()):
            accuracies = spread([100 * row["accuracy_float"] for row in found])
            share = mean(row["training_macs"] / row["full_training_macs"] for row in found)
            nonzeros = f"{mean(row['nonzeros'] for row in found):,.0f}"
            lines.append(f"| {variant} | {len(found)} | {nonzeros} | {accuracies} | {share:.2f} |")
    if of["latency"]:
        lines += [
            "",
            "## Latency",
            "",
            f"One inference in onnxruntime on one thread, median of {_TURNS} by turns; whole is what masks are stored as.",
            "onnxruntime computes blocks of channels, and copies tensors whose channels are no whole blocks for their readers.",
            "",
            "| `--multiple-of` | weights | whole | cut | times faster |",
            "|--:|--:|--:|--:|--:|",
        ]
        for row in of["latency"]:
            before, after = row["weights"]
            cells = [
                row["multiple_of"],
                f"{before:,} -> {after:,}",
                *(f"{ms:.3f} ms" for ms in row["ms"]),
                f"{row['ratio']:.2f}",
            ]
            lines.append(table_line(cells))
    return "\n".join(lines) + "\n"


def _known(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What ``bench_accuracy.py`` has stored of the tasks, budgets and seeds of some rows."""
    asked = {tuple(row[name] for name in ("task", "budget", "seed")) for row in rows if row["method"] == "at-init"}
    return [
        row
        for row in read(bench_accuracy.ROWS)
        if tuple(row[name] for name in ("task", "budget", "seed")) in asked
        and row["method"] in _KNOWN
        and (row["optimizer"], row["trained"]) == ("muon", False)
    ]


def _accuracy_line(key: tuple[Any, ...], found: list[dict[str, Any]]) -> str:
    cells = [*key, str(len(found)), "yes" if all(row["held"] for row in found) else "NO"]
    cells += [spread([100 * row[name] for row in found]) for name in ("accuracy_int8", "pooled_int8")]
    cells.append(f"{mean(row['training_macs'] / row['full_training_macs'] for row in found):.2f}")
    cells += [f"{mean(row['cpu_seconds'] for row in found):.0f}", str(found[0]["widths"])]
    return table_line(cells)


def wanted(given: argparse.Namespace) -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """What is to be run: what identifies the row, and what makes it."""
    data, work = given.data, given.work
    for multiple in (1, 4) if "latency" in given.parts else ():
        yield {"part": "latency", "multiple_of": multiple}, lambda multiple=multiple: latency(multiple, work)  # type: ignore[misc]
    for name in TIMED if "seconds" in given.parts else ():
        yield {"part": "seconds", "network": name}, lambda name=name: seconds(name, work)  # type: ignore[misc]
    for name in DEMOS if "cuts" in given.parts else ():
        for limit in _CUTS:
            for method in ("at-init", "at-init-plain", "magnitude"):
                key = {"part": "cuts", "network": name, "limit": limit, "method": method}
                yield key, lambda at=(name, limit, method): cuts(*at, work)  # type: ignore[misc]
    for seed in given.seeds:
        for task in given.tasks if "accuracy" in given.parts else ():
            for budget in given.budgets:
                for method in given.methods:
                    key = {"part": "accuracy", "task": task, "budget": budget, "method": method, "seed": seed}
                    yield key, lambda at=(task, budget, method, seed): accuracy(*at, data, work)  # type: ignore[misc]
        for variant in ("cut", "equal-nonzeros", "equal-bytes", "whole") if "masks" in given.parts else ():
            key = {"part": "masks", "variant": variant, "seed": seed}
            yield key, lambda at=(variant, seed): masks(*at, data, work)  # type: ignore[misc]


def main() -> int:
    parser = arguments(__doc__, "bench-at-init", PAGE)
    parts = ["latency", "seconds", "cuts", "accuracy", "masks"]
    parser.add_argument("--parts", nargs="+", default=parts, choices=parts)
    parser.add_argument("--tasks", nargs="+", default=["T2", "T1"], choices=list(TASKS))
    parser.add_argument("--budgets", nargs="+", default=["B2", "B1"], choices=list(bench_accuracy.BUDGETS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", type=Path, default=ROWS, help="where finished runs are kept")
    given = parser.parse_args()
    globals()["ROWS"] = given.rows
    methods.METHODS |= {name: methods.Kind("a control", make) for name, make in {**CONTROLS, "masked": Masked}.items()}
    torch.set_num_threads(1)
    given.work.mkdir(parents=True, exist_ok=True)
    for key, run in wanted(given) if not given.table else ():
        if any(all(row.get(name) == value for name, value in key.items()) for row in read(ROWS)):
            continue
        found = {"versions": versions(torch), **run(), **key}
        append(given.rows, found)
    if read(ROWS):
        PAGE.write_text(page(read(ROWS)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
