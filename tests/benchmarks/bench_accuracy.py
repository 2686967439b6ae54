"""Accuracy at equal budget, data, epochs and batch: the tool's methods and Torch-Pruning on networks of MLPerf Tiny.

``python tests/benchmarks/bench_accuracy.py --data DIR [--tasks T1 T2 T3] [--budgets B1 B2 B3] [--methods ...] [--seeds 0 1 2]``

T1 is ResNet-8 on the first 20,000 images of CIFAR-10, T2 is DS-CNN on twelve keywords (MFCC). T3, MobileNetV1 on persons among
the images of CIFAR-100, was kept back: no setting was ever chosen by it. DIR holds ``cifar10-train.npz``, ``cifar10-test.npz``,
``kws12-mfcc.npz`` and ``person32.npz``. Every run is a whole ``mcuprune prune`` with its defaults, from an untrained file or,
with --trained, from one that was trained for as many epochs at full width. Finished runs are appended to ``accuracy.jsonl`` and
not run again; ``accuracy.md`` is drawn from it.

Methods named ``tp-...`` are Torch-Pruning in the settings of ``torch_pruning_peer.py``; they need ``pip install
'mcuprune[bench]'``, the tool's own don't.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import onnx
import torch
from rows import append, arguments, grouped, key, read, spread, table_line, versions
from torch import nn

from mcuprune import pruning, units
from mcuprune.costs.resources import RESOURCES
from mcuprune.data.loading import load as load_data
from mcuprune.data.sets import Split
from mcuprune.graph import network
from mcuprune.operators import table as ops
from mcuprune.train import evaluate, methods
from mcuprune.train.optimizers import OPTIMIZERS

HERE = Path(__file__).resolve().parent
ROWS, PAGE = HERE / "accuracy.jsonl", HERE / "accuracy.md"
KEY = ("task", "budget", "method", "seed", "trained", "optimizer")
BUDGETS = {
    "B1": {"macs": "40%", "flash": "35%", "sram": "60%"},
    "B2": {"macs": "15%", "flash": "12%", "sram": "40%"},
    "B3": {"macs": "60%", "flash": "60%", "sram": "35%"},
}
#: What runs by default: the tool's methods, and the settings of Torch-Pruning that did best on one task or the other.
METHODS = ("differentiable", "magnitude", "uniform", "tp-bn-local", "tp-bn-mix", "tp-mag-mix")
PEER = "tp-"
#: How a network is trained at full width.
WHOLE = {"macs": "100%"}
#: What the peer does without where a trained network could teach: that is the tool's idea, not Torch-Pruning's.
UNTAUGHT = {"distill": False}
#: From how many seeds on a mean is shown without their number.
_SEEDS = 3


class Residual(nn.Module):
    """Two 3 x 3 convolutions and a shortcut, a 1 x 1 convolution where the stride is 2 (MLPerf Tiny's ResNet-8)."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.shortcut = nn.Conv2d(n_in, n_out, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


def resnet8() -> nn.Module:
    stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    blocks = [Residual(16, 16, 1), Residual(16, 32, 2), Residual(32, 64, 2)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def dscnn() -> nn.Module:
    layers: list[nn.Module] = [nn.ZeroPad2d((1, 1, 4, 5)), nn.Conv2d(1, 64, (10, 4), 2, bias=False)]
    layers += [nn.BatchNorm2d(64), nn.ReLU()]
    for _ in range(4):
        layers += [nn.Conv2d(64, 64, 3, 1, 1, groups=64, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
        layers += [nn.Conv2d(64, 64, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 12))


def mobilenet() -> nn.Module:
    """MobileNetV1 at a quarter of its width, as in MLPerf Tiny's person detection; its stem keeps the resolution here."""

    def convolution(n_in: int, n_out: int, size: int, stride: int, groups: int = 1) -> list[nn.Module]:
        found = nn.Conv2d(n_in, n_out, size, stride, size // 2, groups=groups, bias=False)
        return [found, nn.BatchNorm2d(n_out), nn.ReLU()]

    layers, width = convolution(3, 8, 3, 1), 8
    for wider, stride in ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *[(128, 1)] * 5, (256, 2), (256, 1)):
        layers += convolution(width, width, 3, stride, width) + convolution(width, wider, 1, 1)
        width = wider
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 2))


@dataclass(frozen=True)
class Task:
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    classes: int
    epochs: int
    batch: int
    augment: str
    arrays: Callable[[Path], dict[str, np.ndarray]]
    title: str = ""


def _rgb(planes: np.ndarray) -> np.ndarray:
    """uint8 (3, n, h, w) of planes R-G, G, B-G as two-dimensional differences -> uint8 (n, 3, h, w)."""
    found = np.cumsum(np.cumsum(planes, -2, dtype=np.uint8), -1, dtype=np.uint8)
    found[0] += found[1]
    found[2] += found[1]
    return np.ascontiguousarray(found.transpose(1, 0, 2, 3))


def _standardised(x: np.ndarray) -> np.ndarray:
    """uint8 (n, 3, h, w) -> float32, by the channel means and deviations of CIFAR-10's training images."""
    mean_rgb = np.array([0.4914, 0.4822, 0.4465], np.float32).reshape(1, 3, 1, 1)
    std_rgb = np.array([0.2470, 0.2435, 0.2616], np.float32).reshape(1, 3, 1, 1)
    return np.asarray((x.astype(np.float32) / 255 - mean_rgb) / std_rgb)


def cifar10(folder: Path, *, train: int = 20000, val: int = 2000, lossless: bool = True) -> dict[str, np.ndarray]:
    """Standardised images by split. lossless: leave out the 2 % that the archives have from JPEG files."""
    arrays = {}
    for part, name in (("train", "cifar10-train.npz"), ("test", "cifar10-test.npz")):
        stored = np.load(folder / name)
        clean = stored["lossless"] if lossless else slice(None)
        x, y = _rgb(stored["x_delta"])[clean], stored["y"][clean].astype(np.int64)
        # validation examples steer the tool's task gradient: they come from behind the training images
        cuts = {"train": slice(0, train), "val": slice(train, train + val)} if part == "train" else {"test": slice(None)}
        for split, cut in cuts.items():
            arrays[f"x_{split}"] = _standardised(x[cut])
            arrays[f"y_{split}"] = y[cut]
    return arrays


def kws12(folder: Path) -> dict[str, np.ndarray]:
    stored = np.load(folder / "kws12-mfcc.npz")
    train = stored["x_train"].astype(np.float32)
    centre, spread = train.mean((0, 1), keepdims=True), train.std((0, 1), keepdims=True)
    arrays = {}
    for split in ("train", "val", "test"):
        arrays[f"x_{split}"] = ((stored[f"x_{split}"].astype(np.float32) - centre) / spread)[:, None]
        arrays[f"y_{split}"] = stored[f"y_{split}"].astype(np.int64)
    return arrays


def person32(folder: Path) -> dict[str, np.ndarray]:
    stored = np.load(folder / "person32.npz")
    arrays = {}
    for split in ("train", "val", "test"):
        arrays[f"x_{split}"] = _standardised(_rgb(stored[f"x_{split}_delta"]))
        arrays[f"y_{split}"] = stored[f"y_{split}"].astype(np.int64)
    return arrays


TASKS = {
    "T1": Task(resnet8, (3, 32, 32), 10, 10, 128, "flip,crop4", cifar10, "ResNet-8, CIFAR-10"),
    "T2": Task(dscnn, (1, 49, 10), 12, 36, 64, "shift5,noise0.2", kws12, "DS-CNN, 12 keywords"),
    "T3": Task(mobilenet, (3, 32, 32), 2, 20, 64, "flip,crop4", person32, "MobileNetV1, persons"),
}


def untrained(task: Task, seed: int, path: Path) -> None:
    """The task's network with fresh weights as ONNX, BatchNormalization kept and in inference mode."""
    torch.manual_seed(seed)
    network = task.build()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    network.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            torch.zeros(1, *task.shape),
            path,
            dynamo=False,
            opset_version=17,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            input_names=["x"],
            output_names=["logits"],
            dynamic_axes={"x": {0: "batch"}, "logits": {0: "batch"}},
        )
    onnx.checker.check_model(onnx.load(path))


def add_peers(*, trained: bool) -> None:
    """Make Torch-Pruning's settings methods of the tool, in this process. Raises ImportError where it isn't installed."""
    import torch_pruning_peer

    methods.METHODS |= torch_pruning_peer.methods(trained=trained)


def measured(
    model: Path,
    data: Path,
    work: Path,
    limits: dict[str, str],
    seed: int,
    also: Callable[[pruning.Result], dict[str, Any]] = lambda result: {},
    **wishes: Any,
) -> dict[str, Any]:
    """One whole ``mcuprune prune`` of a file, and what is stored of it. also: more of that. wishes: fields of its Request."""
    out = work / "out.onnx"
    wanted = {name: units.parse(text, RESOURCES[name].unit) for name, text in limits.items()}
    began = time.process_time()
    result = pruning.prune(pruning.Request(str(model), wanted, str(out), data=str(data), seed=seed, **wishes))
    seconds = time.process_time() - began
    net = network.load(out, accept=ops.accept(str(out)))
    shape, classes = net.shapes[net.inputs[0]][1:], net.shapes[net.outputs[0]][-1]
    splits = load_data(str(data), input_shape=shape, n_classes=classes, seed=seed)
    pooled = Split(np.concatenate([splits.val.x, splits.test.x]), np.concatenate([splits.val.y, splits.test.y]))
    assert result.accuracy_float is not None
    return {
        "held": result.ok,
        "accuracy_float": round(result.accuracy_float, 5),
        "accuracy_int8": None if result.accuracy_int8 is None else round(result.accuracy_int8, 5),
        "pooled_int8": round(evaluate.accuracy_of(out, pooled), 5),
        "used": {name: result.after.total[name] for name in BUDGETS["B1"]},
        "limits": dict(result.budget.limits),
        "widths": [group.after for group in result.groups],
        "training_macs": result.training_macs,
        "full_training_macs": result.full_training_macs,
        "cpu_seconds": round(seconds),
        "notes": list(result.notes),
        "versions": versions(torch),
        **also(result),
    }


def files(task_name: str, seed: int, data: Path, work: Path) -> tuple[Path, Path]:
    """The task's untrained network and its data, as files under ``work``."""
    archive, start = work / f"{task_name}.npz", work / f"{task_name}-{seed}.onnx"
    if not archive.exists():
        np.savez(archive, **TASKS[task_name].arrays(data))
    untrained(TASKS[task_name], seed, start)
    return start, archive


def trained_file(task_name: str, seed: int, data: Path, work: Path, optimizer: str) -> Path:
    """The task's network, trained at full width for all its epochs, as a file under ``work``."""
    start, archive = files(task_name, seed, data, work)
    full = work / f"{task_name}-{seed}-{optimizer}.onnx"
    if not full.exists():
        measured(start, archive, work, WHOLE, seed, method="uniform", int8=False, **wishes_of(task_name, optimizer))
        (work / "out.onnx").rename(full)
    return full


def wishes_of(task_name: str, optimizer: str) -> dict[str, Any]:
    """How a task is trained."""
    task = TASKS[task_name]
    return {"epochs": task.epochs, "batch": task.batch, "augment": task.augment, "optimizer": optimizer}


def row(
    task_name: str, budget: str, method: str, seed: int, trained: bool, optimizer: str, data: Path, work: Path
) -> dict[str, Any]:
    """One run of the benchmark."""
    start, archive = files(task_name, seed, data, work)
    wishes = wishes_of(task_name, optimizer)
    if trained:
        start = trained_file(task_name, seed, data, work, optimizer)
        if method.startswith(PEER):
            wishes |= UNTAUGHT
    found = measured(start, archive, work, BUDGETS.get(budget, WHOLE), seed, method=method, **wishes)
    if method.startswith(PEER):
        found["versions"]["torch-pruning"] = version("torch-pruning")
    of = {"task": task_name, "budget": budget, "method": method, "seed": seed, "trained": trained, "optimizer": optimizer}
    return {**of, **found}


def page(rows: list[dict[str, Any]]) -> str:
    """The table of all stored runs: means over seeds, with the sample standard deviation."""
    lines = [
        "# Accuracy at equal budget, data, epochs and batch",
        "",
        "Made by `make bench` (`tests/benchmarks/bench_accuracy.py`, whose first lines say what T1, T2 and T3 are) from",
        "`accuracy.jsonl`, which has every run with its seed, widths and versions. Budgets: "
        + "; ".join(f"{name} = {', '.join(f'{k} {v}' for k, v in limits.items())}" for name, limits in BUDGETS.items())
        + ".",
        "Methods named `tp-` are Torch-Pruning, trained, budgeted and quantised as the others are; the first lines of",
        "`tests/benchmarks/torch_pruning_peer.py` give the setting. From a trained network the tool's methods learn from its",
        "answers too, as they do by default; Torch-Pruning has no teacher. Uniform scaling kept the weights that its channels",
        "had among more inputs: its runs are from before it drew them anew. Training MACs are those of the training steps,",
        "as a share of the same steps at full width; seconds are CPU time of the whole run, evaluation included.",
        "",
        "| task | from | budget | optimizer | method | seeds | held | int8 test | float test | int8 val + test "
        "| training MACs | CPU s |",
        "|---|---|---|---|---|--:|---|--:|--:|--:|--:|--:|",
    ]
    groups = grouped(rows, "task", "trained", "budget", "optimizer", "method")
    for (task, trained, budget, optimizer, method), found in sorted(groups.items()):
        cells = [task, "trained" if trained else "scratch", budget, optimizer, method, str(len(found))]
        cells.append("yes" if all(one["held"] for one in found) else "NO")
        cells += [spread([100 * one[name] for one in found]) for name in ("accuracy_int8", "accuracy_float", "pooled_int8")]
        cells.append(f"{mean(one['training_macs'] / one['full_training_macs'] for one in found):.2f}")
        cells.append(f"{mean(one['cpu_seconds'] for one in found):.0f}")
        lines.append(table_line(cells))
    return "\n".join(lines) + "\n"


def summary(rows: list[dict[str, Any]]) -> str:
    """What the README says of the rows: the default method beside uniform scaling and the best setting of Torch-Pruning.

    A line for each task, start and budget with at least three seeds of the default method; its rivals with the optimiser of the
    tool, and with SGD, which is what they are used with elsewhere.
    """
    accuracies: dict[tuple[Any, ...], list[float]] = {}
    macs: dict[tuple[Any, ...], list[float]] = {}
    seconds: dict[tuple[Any, ...], list[float]] = {}
    for found in rows:
        of = key(found, ("task", "trained", "budget", "optimizer", "method"))
        accuracies.setdefault(of, []).append(100 * found["pooled_int8"])
        macs.setdefault(of, []).append(found["training_macs"] / found["full_training_macs"])
        seconds.setdefault(of, []).append(found["cpu_seconds"])

    def cell(*of: Any, rival: str) -> str:
        """Mean, spread and, if not three or more, number of seeds of the best method whose name starts with ``rival``."""
        found = [values for have, values in accuracies.items() if have[:4] == of and have[4].startswith(rival)]
        if not found:
            return ""
        best = max(found, key=lambda values: (len(values) >= _SEEDS, mean(values)))
        return spread(best) if len(best) >= _SEEDS else f"{spread(best)} ({len(best)})"

    lines = [
        "| | from | budget | mcuprune | Torch-Pruning | uniform | Torch-Pruning, SGD | uniform, SGD | training MACs | CPU |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for of in sorted(accuracies):
        task, trained, budget, optimizer, method = of
        if (optimizer, method) != ("muon", "differentiable") or len(accuracies[of]) < _SEEDS or budget not in BUDGETS:
            continue
        cells = [cell(task, trained, budget, "muon", rival=rival) for rival in ("differentiable", PEER, "uniform")]
        cells += [cell(task, trained, budget, "sgd", rival=rival) for rival in (PEER, "uniform")]
        start, whole = "trained" if trained else "scratch", seconds.get((task, False, "full", "muon", "uniform"))
        cells += [f"{mean(macs[of]):.2f}", f"{mean(seconds[of]) / mean(whole):.2f}" if whole else ""]
        lines.append(table_line([TASKS[task].title, start, budget, *cells]))
    return "\n".join(lines)


def main() -> int:
    parser = arguments(__doc__, "bench", PAGE)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--budgets", nargs="+", default=["B1", "B2", "B3"], choices=[*BUDGETS, "full"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--optimizer", default="muon", choices=list(OPTIMIZERS))
    parser.add_argument("--trained", action="store_true", help="start from a network trained at full width")
    given = parser.parse_args()
    if any(method.startswith(PEER) for method in given.methods) and not given.table:
        try:
            add_peers(trained=given.trained)
        except ImportError as error:
            parser.error(
                f"methods named {PEER}* need {error.name}: pip install 'mcuprune[bench]', or leave them out with --methods"
            )
    if unknown := [method for method in given.methods if method not in methods.METHODS and not given.table]:
        parser.error(f"--methods {unknown[0]}: unknown; the methods are {', '.join(methods.METHODS)}")
    torch.set_num_threads(1)
    given.work.mkdir(parents=True, exist_ok=True)
    wanted = [
        (task, budget, method, seed, given.trained, given.optimizer)
        for seed in given.seeds
        for task in given.tasks
        for budget in given.budgets
        for method in given.methods
    ]
    done = {key(found, KEY) for found in read(ROWS)}
    for one in wanted if not given.table else ():
        if one in done:
            continue
        found = row(*one, given.data, given.work)
        append(ROWS, found)
    if read(ROWS):
        PAGE.write_text(page(read(ROWS)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
