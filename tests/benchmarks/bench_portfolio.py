"""Portfolios: five networks from one training against five trainings, and switching between them while they answer.

``python tests/benchmarks/bench_portfolio.py --data DIR [--tasks T2 digits] [--modes nested independent ...] [--seeds 0 1 2]``
``python tests/benchmarks/bench_portfolio.py --switching FOLDER [--seconds 60]``

T2 is the one of ``bench_accuracy.py`` (DIR as there), ``digits`` the ResNet-8 of models/ on the embedded digits, from scratch.
Every run is a whole ``mcuprune portfolio`` with its defaults. ``VGG``, run only where it is named, is the VGG-16 of 289 k
parameters of ``bench_at_init.py`` on CIFAR-10, five epochs, with limits on flash: at what sparsity whole channels are empty.
The second form measures the portfolio in a folder: time to switch, memory, and answers under load. Finished runs are appended
to ``portfolio.jsonl`` and not run again; ``portfolio.md`` is drawn from it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
from rows import append, arguments, read, spread, table_line, versions

from mcuprune import __version__
from mcuprune.cli import main as mcuprune
from mcuprune.data.loading import load as load_data
from mcuprune.data.sets import Split
from mcuprune.graph import network
from mcuprune.operators import table as ops
from mcuprune.portfolio.serving import Portfolio
from mcuprune.train import evaluate

HERE = Path(__file__).resolve().parent
ROWS, PAGE = HERE / "portfolio.jsonl", HERE / "portfolio.md"
SHARES, LEFT = "10%,17%,28%,42%,60%", "10%,25%,50%,75%,95%"
MODES = ("nested", "independent", "sparse")
TASKS = ("T2", "digits", "VGG")
#: What memory is measured of, as ``memory`` says.
_MEMORY = ("one", "active", "middle", "all")
_TITLES = {"T2": "DS-CNN, 12 keywords", "digits": "ResNet-8, digits", "VGG": "VGG-16 of 289 k parameters, CIFAR-10, 5 epochs"}


def _files(task: str, seed: int, data: Path, work: Path) -> tuple[Path, str, list[str]]:
    """The network of a task, its data, and further words of the command."""
    if task == "digits":
        return HERE.parents[1] / "models" / "resnet8_digits.onnx", "digits", ["--from-scratch", "--macs", SHARES]
    from bench_accuracy import TASKS as ACCURACY
    from bench_accuracy import files, untrained

    if task == "VGG":
        from bench_at_init import thin_vgg16

        start, (_, archive) = work / f"vgg-{seed}.onnx", files("T1", seed, data, work)
        untrained(replace(ACCURACY["T1"], build=thin_vgg16), seed, start)
        return start, str(archive), ["--augment", ACCURACY["T1"].augment, "--batch", "128", "--epochs", "5", "--flash", LEFT]
    start, archive = files(task, seed, data, work)
    return start, str(archive), ["--augment", "shift5,noise0.2", "--macs", SHARES]


def made(task: str, mode: str, seed: int, data: Path, work: Path) -> dict[str, Any]:
    """One portfolio, and what is stored of it."""
    model, spec, more = _files(task, seed, data, work)
    folder = work / f"{task}-{mode}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    words = ["portfolio", str(model), "--data", spec, *more, "--seed", str(seed), "-q", "-o", str(folder)]
    words += {"independent": ["--independent", "--jobs", "1"], "sparse": ["--sparse"]}.get(mode, [])
    began = sum(os.times()[:4])
    code = mcuprune(words)
    seconds = sum(os.times()[:4]) - began
    document = json.loads((folder / "portfolio.json").read_bytes())
    variants = []
    for entry in document["variants"]:
        path = folder / entry["path"]
        net = network.load(str(path), accept=ops.accept(str(path)))
        splits = load_data(spec, input_shape=net.shapes[net.inputs[0]][1:], n_classes=net.shapes[net.outputs[0]][-1], seed=seed)
        pooled = Split(np.concatenate([splits.val.x[:], splits.test.x[:]]), np.concatenate([splits.val.y, splits.test.y]))
        known = {name: entry[name] for name in ("name", "ok", "accuracy_int8", "accuracy_float", "total")}
        known |= {"pooled_int8": round(evaluate.accuracy_of(path, pooled), 5), "params": entry["total"]["params"]}
        variants.append({**known, "pooled_examples": len(pooled.y)})
    return {
        "kind": "making",
        "task": task,
        "mode": mode,
        "seed": seed,
        "code": code,
        "cost": document["cost"],
        "cpu_seconds": round(seconds),
        "variants": variants,
        "notes": document["notes"],
        "versions": versions(),
    }


# ------------------------------------------------------------------------------------------------------------ switching


def _example(family: Portfolio) -> dict[str, np.ndarray]:
    ports = family._active.inputs.values()
    draw = np.random.default_rng(0)
    shapes = {port.name: [size if isinstance(size, int) else 1 for size in port.shape] for port in ports}
    return {name: draw.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def _switch_times(folder: Path, resident: Any) -> dict[str, float]:
    """Medians, in milliseconds: of the time from a switch to the first answer, and of an answer without one."""
    family = Portfolio(folder, resident=resident)
    inputs, names, times, steady = _example(family), [*family.variants], [], []
    for index in range(40):
        began = time.perf_counter()
        family.switch(names[index % len(names)])
        family.run(inputs)
        times.append(time.perf_counter() - began)
        began = time.perf_counter()
        family.run(inputs)
        steady.append(time.perf_counter() - began)
    return {"to_first_answer": 1e3 * median(times), "steady": 1e3 * median(steady)}


def _load_times(folder: Path) -> float:
    """The median, in milliseconds, of the time from opening the file of a variant to its first answer."""
    family, times = Portfolio(folder, resident="active"), []
    inputs = _example(family)
    for index in range(20):
        path = folder / f"{[*family.variants][index % len(family.variants)]}.onnx"
        began = time.perf_counter()
        evaluate.session(path, "default").run(None, inputs)
        times.append(time.perf_counter() - began)
    return 1e3 * median(times)


def _pss() -> int:
    """Bytes of memory of this process, shared pages by their part."""
    with open("/proc/self/smaps_rollup") as file:
        return 1024 * next(int(line.split()[1]) for line in file if line.startswith("Pss:"))


def memory(folder: Path, how: str) -> int:
    """Bytes that this process grows by when it serves.

    how: ``one``, the file of the largest variant; a portfolio that has its ``active`` one ready, the largest, or the
    ``middle`` one, or ``all`` of them.
    """
    import onnxruntime  # noqa: F401 (what a service has imported before it loads anything doesn't count)

    by_size = sorted(folder.glob("*.onnx"), key=lambda path: path.stat().st_size)
    largest, middle = by_size[-1], by_size[len(by_size) // 2]
    before = _pss()
    if how == "one":
        session = evaluate.session(largest, "default")
        shape = [size if isinstance(size, int) else 1 for size in session.get_inputs()[0].shape]
        for _ in range(5):
            session.run(None, {session.get_inputs()[0].name: np.zeros(shape, np.float32)})
    else:
        answering = middle if how == "middle" else largest
        family = Portfolio(folder, resident="all" if how == "all" else "active", active=answering.stem)
        inputs = _example(family)
        for served in [*family._ready.values(), family._active]:
            for _ in range(5):
                served.answer(inputs)
    return _pss() - before


def _memory_of(folder: Path, how: str) -> int:
    """``memory`` in a process of its own: the median of five."""
    words = [sys.executable, __file__, "--memory", how, "--switching", str(folder)]
    return int(median(int(subprocess.run(words, check=True, capture_output=True, text=True).stdout) for _ in range(5)))


def under_load(folder: Path, seconds: float, resident: Any) -> dict[str, int]:
    """Eight threads ask, a switch in random order every 100 ms: how many answers, and how many were wrong or lost."""
    family = Portfolio(folder, resident=resident)
    inputs = _example(family)
    right = {}
    for name in family.variants:
        family.switch(name)
        right[name] = {key: value.copy() for key, value in family.run(inputs).items()}
    done, lock = threading.Event(), threading.Lock()
    total = {"asked": 0, "answered": 0, "wrong": 0, "switches": 0}

    def ask() -> None:
        own = dict.fromkeys(total, 0)
        while not done.is_set():
            own["asked"] += 1
            answer = family.run(inputs)
            own["answered"] += 1
            own["wrong"] += any(not np.array_equal(value, right[answer.variant][key]) for key, value in answer.items())
        with lock:
            for name, count in own.items():
                total[name] += count

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    draw, until = random.Random(0), time.monotonic() + seconds
    while time.monotonic() < until:
        family.switch(draw.choice([*family.variants]))
        total["switches"] += 1
        time.sleep(0.1)
    done.set()
    for thread in threads:
        thread.join()
    return total


def switching(folder: Path, seconds: float) -> dict[str, Any]:
    """What is stored of a portfolio's switching. Sizes in bytes, times in milliseconds."""
    import onnxruntime

    return {
        "kind": "switching",
        "portfolio": folder.name,
        "files": sorted(path.stat().st_size for path in folder.glob("*.onnx")),
        "load": _load_times(folder),
        "all": _switch_times(folder, "all"),
        "active": _switch_times(folder, "active"),
        "memory": {how: _memory_of(folder, how) for how in _MEMORY},
        "seconds": seconds,
        "load_test": {resident: under_load(folder, seconds, resident) for resident in ("all", "active")},
        "versions": {
            "mcuprune": __version__,
            "onnxruntime": onnxruntime.__version__,
            "python": platform.python_version(),
            "cores": os.cpu_count(),
        },
    }


# ----------------------------------------------------------------------------------------------------------------- page


def page(rows: list[dict[str, Any]]) -> str:
    """``portfolio.md``."""
    return "\n".join([*_making_page([row for row in rows if row["kind"] == "making"]), *_switching_page(rows)]) + "\n"


def _making_page(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "# Portfolios",
        "",
        "Made by `make bench-portfolio` (`tests/benchmarks/bench_portfolio.py`, whose first lines say what the tasks are) from",
        "`portfolio.jsonl`. Five budgets of one resource; accuracies are of the int8 files, in percent, on the",
        "validation and the test examples together: means over seeds, with the sample standard deviation. *Cost* is that of",
        "training, in multiply-accumulates, relative to one training of the whole network; five separate ones are added up.",
        "*Nested* are networks from one training, *independent* ones from five, *sparse* ones are left when weights vanish.",
        "",
    ]
    for task in dict.fromkeys(row["task"] for row in rows):
        names = [variant["name"] for variant in next(row for row in rows if row["task"] == task)["variants"]]
        lines += [f"## {_TITLES[task]}", "", f"| | seeds | {' | '.join(names)} | cost | CPU s |"]
        lines += ["|---|--:|" + "--:|" * (len(names) + 2)]
        one = {row["seed"]: row["cost"]["one_training_macs"] for row in rows if row["task"] == task and row["mode"] == "nested"}
        for mode in MODES:
            of = [row for row in rows if (row["task"], row["mode"]) == (task, mode)]
            if not of:
                continue
            cells = [spread([100 * row["variants"][k]["pooled_int8"] for row in of]) for k in range(len(names))]
            costs = [row["cost"]["training_macs"] / one[row["seed"]] for row in of if row["seed"] in one]
            cells += [f"{mean(costs):.2f}" if costs else "", f"{mean(row['cpu_seconds'] for row in of):.0f}"]
            lines.append(f"| {mode} | {len(of)} | {' | '.join(cells)} |")
        lines += _left([row for row in rows if (row["task"], row["mode"]) == (task, "sparse")])
        lines.append("")
    return lines


def _left(rows: list[dict[str, Any]]) -> list[str]:
    """At what sparsity channels had died, of the first seed."""
    return ["", f"Sparse, seed {rows[0]['seed']}: {'. '.join(rows[0]['notes'])}."] if rows else []


def _switching_page(rows: list[dict[str, Any]]) -> list[str]:
    every = [row for row in rows if row["kind"] == "switching"]
    if not every:
        return []
    lines = [
        "## Switching",
        "",
        "Medians in ms, in onnxruntime on one thread: from opening a file to its first answer (*load*), from `switch` to the",
        "first answer with all sessions ready (*all*) and with one built at each switch (*active*), and of an answer without a",
        "switch (*steady*). Memory, in KiB, is what a process grows by that has imported onnxruntime already: with the file of",
        "the largest variant alone (*one*), with the portfolio and one session, of the *largest* or the *middle* variant, and",
        "with *all* of them. Under load eight threads ask while a variant is chosen by chance every 100 ms. mbv2_035: a",
        "MobileNetV2 of 402 k parameters; vgg16: the one of 14.7 M; what they answer doesn't matter here.",
        "",
        "| portfolio | files KiB | load | all | active | steady | memory: one | largest | middle | all | largest / all "
        "| answers | switches | wrong | lost |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in every:
        tests = row["load_test"].values()
        cells = [row["portfolio"], f"{sum(row['files']) / 1024:.0f}", f"{row['load']:.2f}"]
        cells += [f"{row[how]['to_first_answer']:.3f}" for how in ("all", "active")] + [f"{row['all']['steady']:.3f}"]
        cells += [f"{row['memory'][how] / 1024:.0f}" for how in _MEMORY]
        cells.append(f"{row['memory']['active'] / row['memory']['all']:.2f}")
        cells += [f"{sum(test['answered'] for test in tests):,}", f"{sum(test['switches'] for test in tests)}"]
        cells += [str(sum(test["wrong"] for test in tests)), str(sum(test["asked"] - test["answered"] for test in tests))]
        lines.append(table_line(cells))
    return lines


def main() -> int:
    parser = arguments(__doc__, "portfolio", PAGE)
    parser.add_argument("--tasks", nargs="+", default=[*TASKS[:2]], choices=TASKS)
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--switching", type=Path, help="measure the portfolio in this folder and make none")
    parser.add_argument("--seconds", type=float, default=60.0, help="of load")
    parser.add_argument("--memory", choices=_MEMORY, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.memory:
        print(memory(given.switching, given.memory))
        return 0
    given.work.mkdir(parents=True, exist_ok=True)
    if given.switching:
        append(ROWS, switching(given.switching, given.seconds))
    elif not given.table:
        done = {(row["task"], row["mode"], row["seed"]) for row in read(ROWS) if row["kind"] == "making"}
        for task, seed, mode in ((t, s, m) for t in given.tasks for s in given.seeds for m in given.modes):
            if (task, mode, seed) not in done:
                append(ROWS, made(task, mode, seed, given.data, given.work))
    PAGE.write_text(page(read(ROWS)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
