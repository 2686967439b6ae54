"""What training takes of memory, and how long it waits for data.

``python tests/benchmarks/bench_data.py [--cases arrays images32 images96]``

Pictures are made here: rectangles in noise, two classes by their brightness, ten by their place. arrays: 20,224 images of 96x96
in three colours, 559 MB of bytes in ``.npy`` files. images32: 4,000 PNG files of 32x32, a folder a class. images96: 2,000 JPEG
files of 128x128. The networks are MLPerf Tiny's: MobileNetV1 of a quarter width for 96x96, ResNet-8 for 32x32. Each is a whole
``mcuprune prune``, from decoding to the report.

Memory is the largest resident set of the process; waiting the share of the time of training at which no batch was ready. Rows
are appended to ``data.jsonl``; ``data.md`` is drawn from it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rows import append, read

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import graphs

from mcuprune import __version__
from mcuprune.graph.network import Network

HERE = Path(__file__).resolve().parent
ROWS, PAGE = HERE / "data.jsonl", HERE / "data.md"
Row = dict[str, Any]


def pictures(count: int, side: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (count, side, side, 3) and labels (count,)."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, count)
    images = draw.integers(0, 90, (count, side, side, 3), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 4) if classes > 2 else (1, 1)
        top, left = (row * side // 4, column * side // 4)
        image[top : top + side // 3, left : left + side // 3] += np.uint8(90 if classes > 2 else 30 + 90 * label)
    return images, labels


def arrays(folder: Path) -> None:
    for seed, (part, count) in enumerate({"train": 18000, "val": 500, "test": 1724}.items()):
        stored = np.lib.format.open_memmap(folder / f"x_{part}.npy", "w+", np.uint8, (count, 96, 96, 3))
        labels = np.empty(count, np.int64)
        for start in range(0, count, 500):
            images, labels[start : start + 500] = pictures(min(500, count - start), 96, 2, 1000 * seed + start)
            stored[start : start + 500] = images
        stored.flush()
        np.save(folder / f"y_{part}.npy", labels)


def _files(folder: Path, count: int, side: int, classes: int, suffix: str) -> None:
    for index, (image, label) in enumerate(zip(*pictures(count, side, classes, 0), strict=True)):
        place = folder / f"class{label}"
        place.mkdir(exist_ok=True)
        Image.fromarray(image).save(place / f"{index}.{suffix}")


def images32(folder: Path) -> None:
    _files(folder, 4000, 32, 10, "png")


def images96(folder: Path) -> None:
    _files(folder, 2000, 128, 2, "jpg")


#: By name: what makes the data, the network, and how many epochs.
CASES: Mapping[str, tuple[Callable[[Path], None], Callable[[], Network], int]] = {
    "arrays": (arrays, graphs.mobilenet, 2),
    "images32": (images32, graphs.resnet8, 3),
    "images96": (images96, graphs.mobilenet, 3),
}


def fresh(net: Network) -> Network:
    """The network with weights by the rule of He et al. (2015): deep ones of unit weights overflow."""
    scaled = {}
    for node in net.nodes:
        if node.op in ("Conv", "Gemm"):
            weight = net.constants[node.inputs[1]]
            fan_in = weight[0].size if node.op == "Conv" or node.attrs.get("transB") else weight.shape[0]
            scaled[node.inputs[1]] = np.asarray(weight * np.sqrt(2 / fan_in), np.float32)
    return net.with_constants(scaled)


def run(case: str, work: Path) -> Row:
    make, network, epochs = CASES[case]
    data = work / "data"
    data.mkdir()
    make(data)
    fresh(network()).save(work / "net.onnx")
    words = ["prune", "net.onnx", "--macs", "60%", "--data", "data", "--from-scratch", "--epochs", str(epochs)]
    words += ["-o", "out.onnx", "--report", "report", "-q"]
    known = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1", "MCUPRUNE_CACHE": str(work / "cache")}
    process = subprocess.Popen([sys.executable, "-m", "mcuprune", *words], cwd=work, env=known)
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, "the run has failed"
    report = json.loads((work / "report" / "report.json").read_text())
    return {
        "case": case,
        "peak_rss": used.ru_maxrss * 1024,
        "data_wait": report["cost"]["data_wait"],
        "seconds": report["cost"]["seconds"],
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "batch": report["training"]["batch"],
        "epochs": epochs,
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[1], 1),
        "mcuprune": __version__,
    }


def page(rows: Sequence[Row]) -> str:
    """``data.md``."""
    lines = ["# Data", "", *(__doc__ or "").rstrip().split("\n")[4:], ""]
    lines += [
        "| case | largest resident set | waited for data | batch | cores | load of the machine |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        cells = [
            row["case"],
            f"{row['peak_rss'] / 1e9:.2f} GB",
            f"{row['data_wait']:.1%}",
            row["batch"],
            row["cores"],
            row["load"],
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    asked = arguments.parse_args()
    done = {row["case"] for row in read(ROWS)}
    for case in asked.cases:
        if case not in done:
            with tempfile.TemporaryDirectory() as folder:
                append(ROWS, run(case, Path(folder)))
    PAGE.write_text(page(read(ROWS)))


if __name__ == "__main__":
    main()
