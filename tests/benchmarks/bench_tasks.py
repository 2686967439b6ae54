"""Tasks other than naming a class, and learning without labels: what is left of a network at its budget.

``python tests/benchmarks/bench_tasks.py --data DIR --models DIR [--cases kws12 digits yunet ...] [--seeds 0 1 2]``

DIR of data holds those of ``bench_accuracy.py``, DIR of models ``yunet_n_320.onnx`` and ``ssd_heads_ts.onnx``.
Every run is a whole ``mcuprune prune``; finished ones are appended to ``tasks.jsonl`` and not run again; ``tasks.md`` is drawn
from it.

kws12, cifar: DS-CNN and ResNet-8, trained at full width, then pruned to the same budget with labels and without; digits: the
same of the trained networks in ``models/``, at half of their MACs. yunet, ssd: detectors, by distillation on photographs
without labels (four of people on one canvas); of the faces that the original finds in test pictures, how many the pruned one
finds too, and the other way round; yunet-longer takes three times the epochs. unet, fusion, sigmoid: small networks of the
tests, from scratch.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from rows import append, read

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import tasks_data
from bench_accuracy import BUDGETS, TASKS, _rgb, files

from mcuprune import __version__, pruning, units
from mcuprune.costs.resources import RESOURCES
from mcuprune.data import loading as datasets
from mcuprune.graph.network import Network
from mcuprune.report import prune as outcome
from mcuprune.train import evaluate

HERE = Path(__file__).resolve().parent
ROWS, PAGE = HERE / "tasks.jsonl", HERE / "tasks.md"
#: Scores from here on are faces, boxes that overlap by so much the same one (non-maximum suppression: by less).
_SCORE, _SAME, _SUPPRESS = 0.5, 0.5, 0.3

Row = dict[str, Any]


def pruned(
    model: str, limits: Mapping[str, str], out: Path, *, net: Network | None = None, data: Any = None, **wishes: Any
) -> tuple[pruning.Result, Row]:
    """One whole prune, and what is stored of every one."""
    wanted = {name: units.parse(text, RESOURCES[name].unit) for name, text in limits.items()}
    began = time.process_time()
    result = pruning.prune(pruning.Request(model, wanted, str(out), **wishes), net=net, data_set=data)
    found = outcome.document(result)
    return result, {
        "limits": dict(limits),
        "held": result.ok,
        "metric": found["metric"],
        "macs": [result.before.total["macs"], result.after.total["macs"]],
        "training": found["training"],
        "cpu_seconds": round(time.process_time() - began),
        "notes": list(result.notes),
        "mcuprune": __version__,
    }


# ----------------------------------------------------------------------------------------------- with labels and without


def labels_or_teacher(task_name: str, epochs: int, seed: int, data: Path, models: Path, work: Path) -> list[Row]:
    """A task of ``bench_accuracy.py`` at budget B1, from the same trained file: labels and teacher, and the teacher alone."""
    task = TASKS[task_name]
    start, archive = files(task_name, seed, data, work)
    wishes: dict[str, Any] = {"epochs": epochs, "batch": task.batch, "augment": task.augment, "seed": seed}
    full = work / f"full-{task_name}-{seed}.onnx"
    if not full.exists():
        pruned(str(start), {"macs": "100%"}, full, data=str(archive), method="uniform", int8=False, **wishes)
    stored = np.load(archive)
    rows = []
    for labelled in (True, False):
        out = work / "out.onnx"
        _, row = pruned(str(full), BUDGETS["B1"], out, data=str(archive), unlabelled=not labelled, **wishes)
        right = {
            part: evaluate.accuracy(evaluate.Model(out)(stored[f"x_{part}"]), stored[f"y_{part}"]) for part in ("val", "test")
        }
        many = [len(stored[f"y_{part}"]) for part in ("val", "test")]
        pooled = float(np.average([right["val"], right["test"]], weights=many))
        original = evaluate.accuracy(evaluate.Model(full)(stored["x_test"]), stored["y_test"])
        rows.append({**row, "labelled": labelled, "accuracy": right["test"], "pooled": pooled, "original": original})
    return rows


def digits(seed: int, data: Path, models: Path, work: Path) -> list[Row]:
    """The trained networks of ``models/`` at half of their MACs: labels and teacher, and the teacher alone."""
    test = datasets.load("digits", input_shape=(1, 16, 16), n_classes=10, seed=seed).test
    rows = []
    for name in ("dscnn_digits", "resnet8_digits"):
        start, out = HERE.parents[1] / "models" / f"{name}.onnx", work / "digits.onnx"
        for labelled in (True, False):
            _, row = pruned(str(start), {"macs": "50%"}, out, data="digits", unlabelled=not labelled, epochs=8, seed=seed)
            right, original = (evaluate.accuracy_of(path, test) for path in (out, start))
            rows.append({**row, "model": name, "labelled": labelled, "accuracy": right, "original": original})
    return rows


# ------------------------------------------------------------------------------------------------------------- detectors


def canvases(images: np.ndarray, size: int, count: int, seed: int) -> np.ndarray:
    """uint8 (n, 3, 32, 32) -> float32 (count, 3, size, size) of 0 to 255, blue first: four pictures by chance on each."""
    chosen = np.random.default_rng(seed).integers(0, len(images), (count, 4))
    side = size // 2
    found = np.empty((count, 3, size, size), np.float32)
    for index, four in enumerate(chosen):
        large = F.interpolate(torch.from_numpy(images[four].astype(np.float32)), (side, side), mode="bicubic").clamp(0, 255)
        rows = [torch.cat([large[2 * i], large[2 * i + 1]], 2) for i in range(2)]
        found[index] = torch.cat(rows, 1).flip(0).numpy()
    return found


def photographs(data: Path, size: int, counts: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Pictures without labels; people in three of four."""
    stored = np.load(data / "person32.npz")
    arrays = {}
    for seed, (part, count) in enumerate(counts.items()):
        images, person = _rgb(stored[f"x_{part}_delta"]), stored[f"y_{part}"] == 1
        some = np.concatenate([images[person], images[~person][: person.sum() // 3]])
        arrays[f"x_{part}"] = canvases(some, size, count, seed)
    return arrays


def faces(outputs: Mapping[str, np.ndarray], size: int) -> list[np.ndarray]:
    """YuNet's boxes above ``_SCORE`` of each picture: float (faces, 5), corners and score, after non-maximum suppression."""
    boxes, scores = [], []
    for stride in (8, 16, 32):
        side = size // stride
        row, column = (x.reshape(-1) for x in np.mgrid[:side, :side])
        dx, dy, dw, dh = np.moveaxis(outputs[f"bbox_{stride}"], -1, 0)
        x, y = (column + dx) * stride, (row + dy) * stride
        w, h = np.exp(dw) * stride, np.exp(dh) * stride
        boxes.append(np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1))
        scores.append(np.sqrt(outputs[f"cls_{stride}"] * outputs[f"obj_{stride}"])[..., 0])
    every = np.concatenate([np.concatenate(boxes, 1), np.concatenate(scores, 1)[..., None]], -1)
    return [suppressed(one[one[:, 4] >= _SCORE]) for one in every]


def overlap(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of a box (4,) with boxes (n, 4)."""
    low, high = np.maximum(one[:2], others[:, :2]), np.minimum(one[2:4], others[:, 2:4])
    inside = np.clip(high - low, 0, None).prod(1)
    return np.asarray(inside / ((one[2:4] - one[:2]).prod() + (others[:, 2:4] - others[:, :2]).prod(1) - inside))


def suppressed(boxes: np.ndarray) -> np.ndarray:
    kept: list[np.ndarray] = []
    for box in boxes[np.argsort(-boxes[:, 4])]:
        if not kept or overlap(box[:4], np.stack(kept)[:, :4]).max() < _SUPPRESS:
            kept.append(box)
    return np.stack(kept) if kept else np.zeros((0, 5))


def agreeing(ours: list[np.ndarray], theirs: list[np.ndarray]) -> tuple[int, int]:
    """How many of ``ours`` have one of ``theirs`` that overlaps by ``_SAME``, and how many there are."""
    hits = sum(len(b) > 0 and overlap(box[:4], b[:, :4]).max() >= _SAME for a, b in zip(ours, theirs, strict=True) for box in a)
    return int(hits), sum(map(len, ours))


def yunet(seed: int, data: Path, models: Path, work: Path, epochs: int = 8) -> list[Row]:
    """YuNet at 60 % of its MACs, in floats and as int8."""
    model, arrays = models / "yunet_n_320.onnx", photographs(data, 320, {"train": 320, "val": 48, "test": 100})
    out = work / "yunet.onnx"
    result, row = pruned(str(model), {"macs": "60%"}, out, data=arrays, epochs=epochs, batch=16, seed=seed)
    small = work / "yunet-float.onnx"
    result.float_network.save(small)
    wanted = faces(named(model, arrays["x_test"]), 320)
    for name, path in (("float", small), ("int8", out)):
        found = faces(named(path, arrays["x_test"]), 320)
        row |= {f"found_again_{name}": agreeing(wanted, found), f"found_before_{name}": agreeing(found, wanted)}
    return [row]


def named(model: Path, x: np.ndarray) -> dict[str, np.ndarray]:
    """Every output of a model by its name."""
    runner = evaluate.Model(model)
    return dict(zip([value.name for value in runner._session.get_outputs()], runner.outputs([x]), strict=True))


def ssd(seed: int, data: Path, models: Path, work: Path) -> list[Row]:
    """Two heads of boxes and classes at 60 % of the MACs; of anchors that the original takes for something, the same class."""
    model, arrays = models / "ssd_heads_ts.onnx", photographs(data, 96, {"train": 768, "val": 96, "test": 256})
    arrays = {key: (x / 255).astype(np.float32) for key, x in arrays.items()}
    out = work / "ssd.onnx"
    _, row = pruned(str(model), {"macs": "60%"}, out, data=arrays, epochs=10, batch=32, seed=seed)
    before, after = (evaluate.Model(path).outputs([arrays["x_test"]])[1].argmax(-1) for path in (model, out))
    return [
        {**row, "same_class": float((before == after).mean()), "classes": np.bincount(before.ravel(), minlength=3).tolist()}
    ]


# -------------------------------------------------------------------------------------------------------- small networks


def unet(seed: int, data: Path, models: Path, work: Path) -> list[Row]:
    arrays = tasks_data.split(lambda count, part: tasks_data.shapes(count, 32, seed=part), 1024, 256)
    net = tasks_data.unet(32, width=12)
    return [pruned("unet.onnx", {"macs": "40%"}, work / "unet.onnx", net=net, data=arrays, epochs=12, seed=seed)[1]]


def fusion(seed: int, data: Path, models: Path, work: Path) -> list[Row]:
    arrays = tasks_data.fused(1024, 512)
    return [pruned("fusion.onnx", {"macs": "50%"}, work / "f.onnx", net=tasks_data.fusion(), data=arrays, seed=seed)[1]]


def sigmoid(seed: int, data: Path, models: Path, work: Path) -> list[Row]:
    arrays, net = tasks_data.split(tasks_data.yes_or_no, 1024, 512), tasks_data.vector_net(1, "Sigmoid")
    return [pruned("sigmoid.onnx", {"macs": "50%"}, work / "s.onnx", net=net, data=arrays, seed=seed)[1]]


CASES: Mapping[str, Callable[[int, Path, Path, Path], list[Row]]] = {
    "unet": unet,
    "fusion": fusion,
    "sigmoid": sigmoid,
    "digits": digits,
    "kws12": partial(labels_or_teacher, "T2", 16),
    "cifar": partial(labels_or_teacher, "T1", 10),
    "ssd": ssd,
    "yunet": yunet,
    "yunet-longer": partial(yunet, epochs=24),
}


def page(rows: list[Row]) -> str:
    """``tasks.md``."""
    lines = ["# Tasks", "", *(__doc__ or "").split("\n")[4:], "Figures are of the test set; int8 as ONNX defines the file.", ""]
    lines += [
        "| case | seed | MACs | task | figure | before | float | int8 | besides |",
        "|---|--:|--:|---|---|--:|--:|--:|---|",
    ]
    for row in rows:
        metric, (before, after) = row["metric"], row["macs"]
        shown = [metric[when] and _shown(metric, when) for when in ("before", "after_float", "after_int8")]
        besides = [f"SNR {metric['after_int8']['snr_db']:.1f} dB"] if metric["after_int8"].get("snr_db") else []
        if "labelled" in row:
            besides.append(
                f"{'labels' if row['labelled'] else 'no labels'}: {row['accuracy']:.1%} right, {row['original']:.1%} before"
            )
        for name in ("float", "int8"):
            if f"found_again_{name}" in row:
                (hits, of), (back, found) = row[f"found_again_{name}"], row[f"found_before_{name}"]
                besides.append(
                    f"{name}: {hits} of {of} faces found again ({hits / of:.1%}), {back} of {found} were there before"
                )
        if "same_class" in row:
            besides.append(f"{row['same_class']:.1%} of anchors in the same class")
        cells = [
            " ".join([row["case"], *([row["model"]] if "model" in row else [])]),
            str(row["seed"]),
            f"{after / before:.0%}",
            metric["task"],
            metric["shown_as"],
            *shown,
        ]
        lines.append(f"| {' | '.join([*cells, '; '.join(besides)])} |")
    for case in ("kws12", "cifar", "digits"):
        said = _summary(case, [row for row in rows if row["case"] == case])
        lines += ["", *said] if said else []
    return "\n".join(lines).rstrip() + "\n"


def _shown(metric: Mapping[str, Any], when: str) -> str:
    value = metric[when]["value"]
    return f"{value:.1%}" if metric["unit"] == "share" else f"{value:.4g}"


def _summary(case: str, rows: list[Row]) -> list[str]:
    with_labels, without = ([row for row in rows if row["labelled"] is labelled] for labelled in (True, False))
    if not with_labels or not without:
        return []

    def means(key: str) -> list[float]:
        return [float(np.mean([row[key] for row in side])) for side in (with_labels, without)]

    a, b = means("accuracy")
    runs = f"{len({row['seed'] for row in rows})} seeds"
    said = f"{case}, mean of {runs}: {a:.1%} with labels, {b:.1%} without ({(b - a) * 100:+.1f} points)"
    if "pooled" not in rows[0]:
        return [f"{said}."]
    c, d = means("pooled")
    return [f"{said}; on validation and test examples together {c:.1%} and {d:.1%} ({(d - c) * 100:+.1f})."]


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--data", type=Path)
    arguments.add_argument("--models", type=Path)
    arguments.add_argument("--cases", nargs="+", default=list(CASES))
    arguments.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    asked = arguments.parse_args()
    rows = read(ROWS)
    with tempfile.TemporaryDirectory() as folder:
        for case in asked.cases if asked.data else []:
            for seed in asked.seeds:
                if any((row["case"], row["seed"]) == (case, seed) for row in rows):
                    continue
                fresh = [
                    {"case": case, "seed": seed, **row} for row in CASES[case](seed, asked.data, asked.models, Path(folder))
                ]
                rows += fresh
                append(ROWS, *fresh, show=False)
                for row in fresh:
                    print(case, seed, row["metric"]["after_int8"], row["cpu_seconds"], flush=True)
    PAGE.write_text(page(rows))


if __name__ == "__main__":
    main()
