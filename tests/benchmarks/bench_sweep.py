"""A sweep of twelve runs on Ray: the same bytes as twelve single runs, workers killed on the way, and what Ray costs.

``python tests/benchmarks/bench_sweep.py [--kinds sweep ranks] [--seeds 0 1 2 3 4]``

sweep: ``models/dscnn_digits.onnx`` at three budgets, two methods and two seeds. Twelve ``mcuprune prune`` one after the other
are compared with ``mcuprune sweep --executor ray --jobs 1`` (processor time of all its processes, Ray's own among them) and
with the same on two workers, of which two are killed. Processor time is that of a control group (cpuacct, or version 2), so
this part needs Linux and the right to make one.

ranks: digits trained by two gloo ranks and by one process at the same batch; accuracies of the int8 files, whether both ranks
ended with the same widths.

Rows are appended to ``sweep.jsonl``; ``sweep.md`` is drawn from it.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rows import append, key, read

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from killing import kill_a_worker

from mcuprune import __version__

HERE = Path(__file__).resolve().parent
ROWS, PAGE = HERE / "sweep.jsonl", HERE / "sweep.md"
ROOT = HERE.parents[1]
MODEL = ROOT / "models" / "dscnn_digits.onnx"
_GRID: Mapping[str, str] = {"--macs": "40%,55%,70%", "--method": "differentiable,uniform", "--seeds": "2"}
_EPOCHS = 6
Row = dict[str, Any]


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "mcuprune", *words]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


@contextmanager
def counted() -> Iterator[Any]:
    """A control group for processes: gives (what puts a new process into it, the seconds it has taken)."""
    version_2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    base = (
        Path("/sys/fs/cgroup" if version_2 else "/sys/fs/cgroup/cpuacct")
        / f"mcuprune-bench-{os.getpid()}-{time.monotonic_ns()}"
    )
    base.mkdir()

    def enter() -> None:
        (base / "cgroup.procs").write_text("0")

    def seconds() -> float:
        if version_2:
            return int((base / "cpu.stat").read_text().split()[1]) / 1e6
        return int((base / "cpuacct.usage").read_text()) / 1e9

    try:
        yield enter, seconds
    finally:
        until = time.monotonic() + 60
        while (base / "cgroup.procs").read_text().strip() and time.monotonic() < until:
            time.sleep(0.2)
        base.rmdir()


def spent(words: Sequence[str], folder: Path) -> tuple[float, float]:
    """Run a command to its end; the processor seconds of all that it started, and seconds. Raises where it fails."""
    with counted() as (enter, seconds):
        began = time.monotonic()
        subprocess.run(words, cwd=folder, env=environment(), preexec_fn=enter, check=True, capture_output=True)
        lasted = time.monotonic() - began
        time.sleep(2)  # for what a command leaves to end by itself
        return float(seconds()), lasted


def _killed_twice(words: Sequence[str], folder: Path, out: Path) -> int:
    """Run a sweep and kill two workers once some state has come home; how many were killed."""
    going = subprocess.Popen(words, cwd=folder, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    killed: set[int] = set()
    while going.poll() is None:
        states = [path for path in out.glob("runs/*/*.checkpoint") if path.stat().st_mtime > time.time() - 5]
        if states and len(killed) < 2:
            killed |= kill_a_worker(going.pid, sparing=killed)
        time.sleep(0.3)
    assert going.returncode == 0, "the sweep has failed"
    return len(killed)


def _differing(one: Path, other: Path) -> list[str]:
    """The runs whose networks are not the same bytes."""
    names = sorted(path.parent.name for path in one.glob("runs/*/net.onnx"))
    return [n for n in names if (one / "runs" / n / "net.onnx").read_bytes() != (other / "runs" / n / "net.onnx").read_bytes()]


def sweep(seed: int, work: Path) -> Row:
    """seed: not used; a sweep has its own."""
    (work / "net.onnx").write_bytes(MODEL.read_bytes())
    words = ["net.onnx", "--data", "digits", "--epochs", str(_EPOCHS), *(word for pair in _GRID.items() for word in pair), "-q"]
    ray = ["--executor", "ray"]
    on_ray, lasted = spent(command("sweep", *words, *ray, "--jobs", "1", "-o", "ray"), work)
    runs = json.loads((work / "ray" / "sweep.json").read_text())["runs"]
    single = 0.0
    for run in runs:
        there = work / "single" / "runs" / str(run["name"])
        there.mkdir(parents=True)
        typed = [word.replace(f"ray/runs/{run['name']}", f"single/runs/{run['name']}") for word in run["command"]]
        single += spent(command(*typed[typed.index("prune") :]), work)[0]
    killed = _killed_twice(command("sweep", *words, *ray, "--jobs", "2", "-o", "killed"), work, work / "killed")
    return {
        "runs": len(runs),
        "cpu_seconds_single": round(single, 1),
        "cpu_seconds_ray": round(on_ray, 1),
        "seconds_ray": round(lasted, 1),
        "differing": _differing(work / "single", work / "ray"),
        "killed": killed,
        "differing_killed": _differing(work / "single", work / "killed"),
    }


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _prune(work: Path, name: str, size: int, seed: int) -> list[subprocess.Popen[bytes]]:
    words = ["prune", str(MODEL), "--macs", "50%", "--from-scratch", "--data", "digits", "--epochs", "16", "--seed", str(seed)]
    words += ["-o", f"{name}.onnx", "--report", name, "-q"]
    port = str(_free_port())
    found = []
    for rank in range(size):
        own = {} if size == 1 else {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
        own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} if size > 1 else {}
        found.append(subprocess.Popen(command(*words), cwd=work, env=environment(**own), stderr=subprocess.PIPE))
    return found


def ranks(seed: int, work: Path) -> Row:
    """Every rank compares widths at every evaluation, and a difference ends the run: that it ended well says they agree."""
    row: Row = {}
    for name, size in (("one", 1), ("two", 2)):
        for process in _prune(work, name, size, seed):
            _, said = process.communicate()
            assert process.returncode == 0, said.decode()
        found = json.loads((work / name / "report.json").read_text())
        row[f"{name}_int8"] = found["after"]["accuracy_int8"]
        row[f"{name}_widths"] = [group["after"] for group in found["groups"]]
    return row


KINDS = {"sweep": sweep, "ranks": ranks}


def page(rows: Sequence[Row]) -> str:
    """``sweep.md``."""
    lines = ["# Sweeps and ranks", "", *(__doc__ or "").rstrip().split("\n")[4:], ""]
    if swept := [row for row in rows if row["kind"] == "sweep"]:
        lines += ["Ray's own processes take time of the processor to start and while they wait, so *more* depends on"]
        lines += ["how long the sweep lasts: longer where the machine has other work.", ""]
        lines += [
            "| runs | processor, single runs | processor, on Ray | lasted | more | other bytes | killed | other bytes then |"
        ]
        lines += ["|--:|--:|--:|--:|--:|--:|--:|--:|"]
        for row in swept:
            one, other = row["cpu_seconds_single"], row["cpu_seconds_ray"]
            cells = [
                row["runs"],
                f"{one:.0f} s",
                f"{other:.0f} s",
                f"{row['seconds_ray']:.0f} s",
                f"{other / one - 1:+.1%}",
                len(row["differing"]),
            ]
            lines.append(f"| {' | '.join(map(str, [*cells, row['killed'], len(row['differing_killed'])]))} |")
        lines.append("")
    if ranked := [row for row in rows if row["kind"] == "ranks"]:
        lines += ["| seed | one process | two ranks |", "|--:|--:|--:|"]
        lines += [f"| {row['seed']} | {row['one_int8']:.1%} | {row['two_int8']:.1%} |" for row in ranked]
        means, spread = (
            [float(of([row[f"{name}_int8"] for row in ranked])) for name in ("one", "two")] for of in (np.mean, np.std)
        )
        lines += ["", f"Mean {means[0]:.1%} and {means[1]:.1%}; standard deviation {spread[0]:.1%} and {spread[1]:.1%}."]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    arguments.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    asked = arguments.parse_args()
    done = {key(row, ("kind", "seed")) for row in read(ROWS)}
    for kind in asked.kinds:
        for seed in asked.seeds if kind == "ranks" else [0]:
            if (kind, seed) not in done:
                with tempfile.TemporaryDirectory() as folder:
                    append(ROWS, {"kind": kind, "seed": seed, **KINDS[kind](seed, Path(folder)), "mcuprune": __version__})
    PAGE.write_text(page(read(ROWS)))


if __name__ == "__main__":
    main()
