"""What row bands are worth in accuracy where SRAM binds: one budget, the same training, with and without ``--bands auto``.

``python tests/benchmarks/bench_bands.py --data DIR [--tasks T1 V2] [--bands off auto] [--seeds 0 1 2]``

T1 is that of ``bench_accuracy.py``, ResNet-8 on CIFAR-10; V2 is a MobileNetV2 at 0.35 of its width with fewer strides, on
persons among the images of CIFAR-100. The budget is B3: SRAM 35 %, flash and MACs 60 %. Every run is a whole ``mcuprune prune``
from an untrained file. Finished runs are appended to ``bands.jsonl`` and not run again, so that the benchmark goes on where it
was interrupted; ``bands.md`` is drawn from it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import mean
from typing import Any

import bench_accuracy
import numpy as np
import torch
from bench_accuracy import BUDGETS, Task, measured, person32, untrained
from rows import append, arguments, grouped, key, read, spread, table_line
from torch import nn

HERE = Path(__file__).resolve().parent
ROWS, PAGE = HERE / "bands.jsonl", HERE / "bands.md"
KEY = ("task", "budget", "bands", "seed")
BUDGET = "B3"


class Inverted(nn.Module):
    """MobileNetV2's block: wide by 1 x 1, depthwise 3 x 3, narrow by 1 x 1; added to its input where they are alike."""

    def __init__(self, n_in: int, n_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = n_in * expansion
        layers: list[nn.Module] = []
        if expansion > 1:
            layers += [nn.Conv2d(n_in, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()]
        layers += [nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()]
        layers += [nn.Conv2d(wide, n_out, 1, bias=False), nn.BatchNorm2d(n_out)]
        self.layers, self.adds = nn.Sequential(*layers), stride == 1 and n_in == n_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layers(x)
        return x + y if self.adds else y


def mobilenet_v2() -> nn.Module:
    """MobileNetV2-0.35 up to its 48 channels, which are enough for two classes; three of its five strides, for small images."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()]
    width = 16
    for expansion, wider, times, stride in ((1, 8, 1, 1), (6, 8, 2, 2), (6, 16, 3, 2), (6, 24, 3, 2), (6, 32, 2, 1)):
        for index in range(times):
            layers.append(Inverted(width, wider, stride if index == 0 else 1, expansion))
            width = wider
    layers += [nn.Conv2d(width, 160, 1, bias=False), nn.BatchNorm2d(160), nn.ReLU6()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(160, 2))


TASKS = {
    "T1": bench_accuracy.TASKS["T1"],
    "V2": Task(mobilenet_v2, (3, 32, 32), 2, 20, 64, "flip,crop4", person32, "MobileNetV2, persons"),
}


def row(task_name: str, bands: str, seed: int, data: Path, work: Path) -> dict[str, Any]:
    """One run of the benchmark."""
    task = TASKS[task_name]
    archive, start = work / f"{task_name}.npz", work / f"{task_name}-{seed}.onnx"
    if not archive.exists():
        np.savez(archive, **task.arrays(data))
    untrained(task, seed, start)
    wishes: dict[str, Any] = {"epochs": task.epochs, "batch": task.batch, "augment": task.augment}
    found = measured(start, archive, work, BUDGETS[BUDGET], seed, bands=bands, **wishes)
    return {"task": task_name, "budget": BUDGET, "bands": bands, "seed": seed, **found}


def table(rows: Iterable[dict[str, Any]]) -> list[str]:
    """Means over seeds with the sample standard deviation: one line for each task, without bands and with."""
    groups = grouped(rows, "task", "bands")
    lines = [
        "| | `--bands` | seeds | held | int8 test | int8 val + test | SRAM of its limit | MACs of their limit "
        "| flash of its limit | CPU s |",
        "|---|---|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    for (task, bands), found in sorted(groups.items(), key=lambda item: (item[0][0], item[0][1] != "off")):
        cells = [TASKS[task].title, bands, str(len(found)), "yes" if all(one["held"] for one in found) else "NO"]
        cells += [spread([100 * one[name] for one in found]) for name in ("accuracy_int8", "pooled_int8")]
        for name in ("sram", "macs", "flash"):
            cells.append(f"{mean(one['used'][name] / one['limits'][name] for one in found):.0%}")
        cells.append(f"{mean(one['cpu_seconds'] for one in found):.0f}")
        lines.append(table_line(cells))
    return lines


def page(rows: Iterable[dict[str, Any]]) -> str:
    limits = ", ".join(f"{name} {limit}" for name, limit in BUDGETS[BUDGET].items())
    lines = [
        "# What row bands are worth where SRAM binds",
        "",
        "Made by `tests/benchmarks/bench_bands.py`, whose first lines say what the tasks are, from `bands.jsonl`, which has",
        f"every run with its seed, widths and versions. One budget ({limits}), the same training, from untrained networks.",
        "Without bands the first layers have to be narrow to hold the limit of SRAM; in bands they don't. Means over seeds,",
        "with the sample standard deviation; seconds are CPU time of the whole run, evaluation included.",
        "",
        *table(rows),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = arguments(__doc__, "bench-bands", PAGE)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--bands", nargs="+", default=["off", "auto"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", type=Path, help="append to this file instead of bands.jsonl, and draw no page")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.work.mkdir(parents=True, exist_ok=True)
    done = {key(found, KEY) for found in read(ROWS)}
    for seed in given.seeds if not given.table else ():
        for task in given.tasks:
            for bands in given.bands:
                if (task, BUDGET, bands, seed) in done:
                    continue
                found = row(task, bands, seed, given.data, given.work)
                append(given.rows or ROWS, found)
    if read(ROWS) and given.rows is None:
        PAGE.write_text(page(read(ROWS)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
