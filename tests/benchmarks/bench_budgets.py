"""Random budgets over 18 networks: is each held in the written int8 file, is no room left, are impossible ones refused?

    python tests/benchmarks/bench_budgets.py [--runs N] [--refusals N] [--corpus DIR] [--only SEED ...] [--table]

A seed makes a network, limits (one to three; sizes, counts, per cent; from the least that is possible to just under the whole),
flags and a short training on random examples, as arguments of ``mcuprune prune``. What comes out is judged here anew:

* *held*: the command ends with 0, and the written file, loaded and profiled again, is within every limit;
* *slack*: no group could be wider by one channel (or ``--multiple-of``) within the budget, by the costs as functions of widths
  and, for two groups, by a profile of the cut that has it; where one could, a note of the report has to say so;
* *bounds*: widths keep to ``--multiple-of``, ``--min-channels`` and ``--keep``;
* *refusals*: limits below the least are refused with exit code 2, nothing is written, the message names the least of each
  resource that is over, and those limits, asked for in turn, are held.

Finished runs are appended to ``budgets.jsonl`` and not run again; ``budgets.md`` is drawn from it. The networks: those of
``models/``, the two of ``bench_accuracy.py``, and twelve files made by others, which aren't part of the repository (--corpus).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from rows import append, grouped, read, table_line

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import bench_accuracy

from mcuprune import __version__, units
from mcuprune.channels.labelling import Channels, label
from mcuprune.cli import main as mcuprune
from mcuprune.costs import resources, widths
from mcuprune.costs.resources import Budget, CostModel, SramModel
from mcuprune.graph import network
from mcuprune.graph.network import Network, Shape
from mcuprune.operators import table as ops
from mcuprune.passes import batchnorm as folding
from mcuprune.passes.canonical import canonical

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ROWS, PAGE = HERE / "budgets.jsonl", HERE / "budgets.md"
#: Seeds of refusals start here.
REFUSALS = 1_000_000
NAMES = tuple(name for name, resource in resources.RESOURCES.items() if not resource.lacks(resources.Basis()))
METHODS = ("differentiable", "magnitude", "uniform")


@dataclass(frozen=True)
class Net:
    """A network to prune.

    place: the folder that it lies in: ``models``, ``bench`` (made on the fly) or ``corpus``.
    examples: how many to train on at most; 0 for one that is no classifier or takes too long.
    """

    name: str
    place: str
    examples: int
    what: str
    shapes: Mapping[str, Shape] = field(default_factory=dict)


NETS = (
    Net("resnet8_digits", "models", 512, "residual"),
    Net("dscnn_digits", "models", 512, "depthwise separable"),
    Net("mbv2se_digits", "models", 384, "inverted residual, squeeze-and-excitation"),
    Net("branchy_digits", "models", 512, "branches, concatenation"),
    Net("resnet8", "bench", 128, "residual, BatchNormalization kept"),
    Net("dscnn", "bench", 192, "depthwise separable, BatchNormalization kept"),
    Net("mlperf_pretrainedResnet", "corpus", 96, "residual, channels last"),
    Net("densenet_bc_ts", "corpus", 24, "dense concatenation, BatchNormalization that can't be folded"),
    Net("inception_dy", "corpus", 48, "branches, concatenation"),
    Net("pulsevad_2k", "corpus", 512, "one-dimensional, depthwise, residual"),
    Net("st_mbv2_035_128", "corpus", 16, "inverted residual"),
    Net("shufflenetv1_g3_ts", "corpus", 64, "grouped convolutions, channel shuffle"),
    Net("shufflenetv2_ts", "corpus", 64, "split, channel shuffle"),
    Net("effnet_b0_thin_ts", "corpus", 16, "inverted residual, squeeze-and-excitation, SiLU"),
    Net("lcnet_050_dy", "corpus", 24, "depthwise, squeeze-and-excitation, HardSwish"),
    Net("mcunet_like_ts_qdq", "corpus", 16, "inverted residual, quantised (Q/DQ)"),
    Net("yolo_c2f_ts", "corpus", 0, "split, concatenation; a detector"),
    Net("light_inception_v1", "corpus", 0, "branches, 224 x 224, 1,000 classes"),
)


# ------------------------------------------------------------------------------------------------- what a seed stands for


@dataclass(frozen=True)
class Run:
    """One command, and what its outcome is judged by.

    arguments: between ``prune MODEL`` and ``-o OUT``. limits: in base units. least: what it takes at least, with these flags.
    """

    net: Net
    path: Path
    arguments: tuple[str, ...]
    limits: Mapping[str, int]
    least: Mapping[str, int]
    sram_model: SramModel
    train: bool
    keep: tuple[str, ...]
    multiple: int
    channels: Channels


def place(net: Net, work: Path, corpus: Path) -> Path:
    """The network's file."""
    if net.place == "models":
        return ROOT / "models" / f"{net.name}.onnx"
    if net.place == "corpus":
        return corpus / f"{net.name}.onnx"
    path = work / f"{net.name}.onnx"
    if not path.exists():
        bench_accuracy.untrained(bench_accuracy.TASKS["T1" if net.name == "resnet8" else "T2"], 0, path)
    return path


def examples(net: Net, loaded: Network, n: int, work: Path) -> Path:
    """An archive of ``n`` random examples to train on, as many to validate and to test with."""
    path = work / f"{net.name}-{n}.npz"
    if not path.exists():
        draw = np.random.default_rng(n)
        classes = int(np.prod(loaded.shapes[loaded.outputs[0]][1:]))
        shape = loaded.shapes[loaded.inputs[0]][1:]
        arrays = {}
        for part in ("train", "val", "test"):
            arrays[f"x_{part}"] = draw.standard_normal((n, *shape), np.float32)
            arrays[f"y_{part}"] = np.arange(n) % classes
        np.savez(path, **arrays)
    return path


def trained(prepared: Network) -> Network:
    """The network as training has it: with a BatchNormalization wherever one can be, whatever its statistics."""
    shapes = {node.name: prepared.shapes[node.outputs[0]][1] for node in folding.candidates(prepared)}
    return folding.restored(prepared, {name: (np.zeros(n), np.ones(n)) for name, n in shapes.items()})


def drawn(seed: int, work: Path, corpus: Path) -> Run:
    """The command that ``seed`` stands for."""
    draw = np.random.default_rng(seed)
    refusal = seed >= REFUSALS
    net = NETS[seed % len(NETS)]
    path = place(net, work, corpus)
    loaded = network.load(path, input_shapes=net.shapes, accept=ops.accept(path))

    train = net.examples > 0 and (refusal or draw.random() < 0.8)
    arguments = ["--seed", str(seed % 1000)]
    if train:
        n = int(draw.integers(net.examples // 2, net.examples + 1))
        batch = int(draw.integers(max(4, n // 16), n // 2 + 1))
        method = str(draw.choice(METHODS, p=[0.6, 0.2, 0.2]))
        arguments += ["--data", str(examples(net, loaded, n, work)), "--epochs", str(draw.integers(1, 4))]
        arguments += ["--batch", str(batch), "--method", method, *_ablations(draw)]
    else:
        arguments += ["--no-train"]
    arguments += [f"--input-shape={name}={','.join(map(str, shape))}" for name, shape in net.shapes.items()]

    names = sorted(draw.choice(NAMES, draw.choice([1, 2, 3]), replace=False), key=NAMES.index)
    sram_model: SramModel = "peak"
    if "sram" in names and draw.random() < 0.4:
        sram_model = "tflm" if draw.random() < 0.8 else "max-in-out"
        arguments += ["--sram-model", sram_model]

    prepared, _ = canonical(loaded)
    plain = label(trained(prepared) if train else prepared)
    keep: tuple[str, ...] = ()
    min_channels = multiple = 1
    if draw.random() < 0.2:
        multiple = int(draw.choice([2, 4, 8]))
        arguments += ["--multiple-of", str(multiple)]
    if draw.random() < 0.2:
        min_channels = int(draw.choice([2, 3, 6]))
        arguments += ["--min-channels", str(min_channels)]
    if draw.random() < 0.2:
        name = str(draw.choice([group.name for group in plain.groups]))
        if not set(name) & set("*?["):
            keep = (name,)
            arguments += ["--keep", name]
    channels = widths.bounded(plain, keep=keep, least=min_channels, multiple=multiple)

    model = CostModel(channels, sram_model)
    own = resources.profile(loaded).used(sram_model)
    full, bound, low = model.at(model.full), model.least_costs(), model.at(model.least)
    wanted = {name: _refused(bound[name], draw) if refusal else _limit(low[name], full[name], draw) for name in names}
    if refusal and draw.random() < 0.5:  # one is over, the others aren't
        over = str(draw.choice(names))
        wanted = {name: value if name == over else full[name] for name, value in wanted.items()}
    texts = {name: _written(name, value, own[name], draw, exact=refusal) for name, value in wanted.items()}
    for name, text in texts.items():
        arguments += [f"--{name}", text]
    parsed = {name: units.parse(text, resources.RESOURCES[name].unit).of(own[name]) for name, text in texts.items()}
    return Run(net, path, tuple(arguments), parsed, bound, sram_model, train, keep, multiple, channels)


def _ablations(draw: np.random.Generator) -> list[str]:
    """What else may lead the pruning, now and then. Methods that don't know a flag leave it be."""
    choices = (["--prune-stop", f"{draw.uniform(0.1, 1):.2f}"], ["--no-freeze-at-budget"], ["--objectives", "sum"])
    choices += (["--gradients", str(draw.choice(["task", "resource"]))], ["--optimizer", "sgd"])
    return [word for words in choices if draw.random() < 0.08 for word in words]


def _limit(least: int, most: int, draw: np.random.Generator) -> int:
    """A limit that can be held: just so, nearly not, somewhere between, or nearly the whole."""
    kind = draw.choice(["least", "tight", "geometric", "linear", "loose"], p=[0.1, 0.15, 0.35, 0.25, 0.15])
    if kind == "least" or most <= least:
        return least
    if kind == "geometric":
        return int(least * (most / least) ** draw.random())
    share = {"tight": 0.03 * draw.random(), "linear": draw.random(), "loose": 1 - 0.02 * draw.random()}[str(kind)]
    return min(max(least, int(least + share * (most - least))), max(least, most - 1))


def _refused(bound: int, draw: np.random.Generator) -> int:
    return max(1, bound - 1 if draw.random() < 0.5 else int(bound * draw.uniform(0.1, 1)) - 1)


def _written(name: str, value: int, own: int, draw: np.random.Generator, *, exact: bool) -> str:
    """The limit as a user would write it: never less than ``value``."""
    kind = "bare" if exact else draw.choice(["bare", "unit", "share"])
    if kind == "share":
        return f"{-(-value * 10_000 // own) / 100:.2f}%"
    if kind == "unit" and value >= 1024:
        size, unit = (1024, "KB") if name != "macs" else (1000, "k")
        return f"{-(-value * 100 // size) / 100:.2f}{unit}"
    return str(value)


# -------------------------------------------------------------------------------------------------------------- judgement


def shown(arguments: Sequence[str]) -> str:
    """A command without the folders of the machine that it ran on."""
    bare = [Path(part).name if Path(part).suffix in (".onnx", ".npz") else part for part in arguments]
    return shlex.join(["mcuprune", *bare])


def judged(seed: int, run: Run, work: Path) -> dict[str, Any]:
    """Do what a seed stands for, and hold the outcome against what was asked for."""
    out, report = work / "out.onnx", work / "report"
    out.unlink(missing_ok=True)
    argv = ["prune", str(run.path), *run.arguments, "-o", str(out), "--report", str(report), "-q"]
    said = io.StringIO()
    started = time.process_time()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        code = mcuprune(argv)
    row: dict[str, Any] = {
        "seed": seed,
        "model": run.net.name,
        "command": shown([*argv[:-4], "-q"]),
        "road": run.arguments[run.arguments.index("--method") + 1] if run.train else "no-train",
        "sram_model": run.sram_model,
        "limits": dict(run.limits),
        "least": {name: run.least[name] for name in run.limits},
        "exit": code,
        "seconds": round(time.process_time() - started, 2),
        "version": __version__,
    }
    if code not in (0, 1):
        return row | {"held": False, "said": said.getvalue().strip()[-400:]}
    document = json.loads((report / "report.json").read_text())
    written = network.load(out, input_shapes=run.net.shapes, accept=ops.accept(out))
    used = resources.profile(written).used(run.sram_model)
    at = np.array([group["after"] for group in document["groups"]])
    model = CostModel(run.channels, run.sram_model)
    promised = model.at(at)
    wider = opened(model, at, Budget(run.limits), run.multiple)
    return row | {
        "used": {name: used[name] for name in run.limits},
        "held": code == 0 and all(used[name] <= limit for name, limit in run.limits.items()) and runs(written, out),
        "reported": all(document["limits"][name]["used"] == used[name] for name in run.limits),
        "predicted": all(promised[name] == used[name] for name in run.limits),
        "groups": len(at),
        "wider": [run.channels.groups[index].name for index in wider],
        "slack": "none" if not wider else "noted" if any("slack" in note for note in document["notes"]) else "LEFT",
        "profiled": full_indeed(run, model, at, wider, seed),
        "bounds": within_bounds(run, at),
        "channels": [int(at.sum()), int(model.full.sum())],
        "notes": [note.replace(str(run.path), run.path.name) for note in document["notes"] if "random inputs" not in note],
    }


def runs(written: Network, out: Path) -> bool:
    """Whether onnxruntime gives finite answers."""
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    draw = np.random.default_rng(0)
    answers = session.run(None, {name: draw.standard_normal(written.shapes[name], np.float32) for name in written.inputs})
    return all(np.isfinite(answer).all() for answer in answers)


def opened(model: CostModel, at: np.ndarray, budget: Budget, multiple: int) -> list[int]:
    """Groups that could be wider by one step within the budget."""
    found = []
    for group in np.flatnonzero(at < model.full):
        wider = at.copy()
        wider[group] = min((at[group] // multiple + 1) * multiple, model.full[group])
        if budget.check(model.at(wider)).ok:
            found.append(int(group))
    return found


def full_indeed(run: Run, model: CostModel, at: np.ndarray, wider: Sequence[int], seed: int) -> bool:
    """Whether two groups that can't be wider, by costs as functions of widths, can't be by a profile of such a cut either."""
    draw = np.random.default_rng(seed)
    closed = [int(group) for group in np.flatnonzero(at < model.full) if group not in wider]
    for group in draw.permutation(closed)[:2]:
        more = at.copy()
        more[group] = min((at[group] // run.multiple + 1) * run.multiple, model.full[group])
        keep = run.channels.top(more, draw.random(run.channels.n_components + 1))
        costs = resources.profile(folding.folded(run.channels.cut(keep))).used(run.sram_model)
        if Budget(run.limits).check(costs).ok:
            return False
    return True


def within_bounds(run: Run, at: np.ndarray) -> bool:
    groups = run.channels.groups
    return all(
        (width == len(group) or width % run.multiple == 0)
        and width >= group.minimum
        and (width == len(group) or not {group.name, *group.nodes} & set(run.keep))
        for group, width in zip(groups, at.tolist(), strict=True)
    )


def refused(seed: int, run: Run, work: Path) -> dict[str, Any]:
    """A budget that can't be held, in a process of its own, and then with the limits that the refusal names."""
    out = work / "refused.onnx"
    argv = ["prune", str(run.path), *run.arguments, "-o", str(out)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-m", "mcuprune.cli", *argv], capture_output=True, text=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    titles = {resources.RESOURCES[name].title: name for name in NAMES}
    said = ended.stderr.strip().replace(str(run.path), run.path.name)
    named = {titles[title]: int(least) for title, least in re.findall(r"(\w+) can't go below (\d+)", said)}
    further = re.search(r"no cut was found below (\d+)", said)  # of an arena
    over = {name: run.least[name] for name, limit in run.limits.items() if limit < run.least[name]}
    row: dict[str, Any] = {
        "seed": seed,
        "model": run.net.name,
        "command": shown(argv[:-2]),
        "sram_model": run.sram_model,
        "limits": dict(run.limits),
        "exit": ended.returncode,
        "said": said,
        "named": named,
        "right": named == over and not ended.stdout and ended.stderr.count("\n") == 1 and not out.exists(),
        "seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2),
        "version": __version__,
    }
    again = list(run.arguments)
    for name, least in (named | ({"sram": int(further[1])} if further else {})).items():
        again[again.index(f"--{name}") + 1] = str(least)
    with contextlib.redirect_stderr(io.StringIO()) as at_least, contextlib.redirect_stdout(io.StringIO()):
        row["at_least"] = mcuprune(["prune", str(run.path), *again, "-o", str(work / "out.onnx"), "-q"])
    return row | ({"at_least_said": at_least.getvalue().replace(str(run.path), run.path.name)} if row["at_least"] else {})


# -------------------------------------------------------------------------------------------------------------- the table


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of all stored runs."""
    ran = [row for row in rows if row["seed"] < REFUSALS]
    no = [row for row in rows if row["seed"] >= REFUSALS]
    what = {net.name: f"{net.what} (`{net.place}`)" for net in NETS}

    def count(found: Sequence[Mapping[str, Any]], name: str) -> str:
        return f"{sum(bool(row.get(name)) for row in found)} of {len(found)}"

    lines = [
        "# Random budgets",
        "",
        "Made by `make bench-budgets` (`tests/benchmarks/bench_budgets.py`, whose first lines say what is judged and how) from",
        "`budgets.jsonl`, which has every run with its seed, command, limits and use. CPU seconds on one thread.",
        "",
        f"* budgets held in the written file: {count(ran, 'held')}",
        f"* no slack: {sum(row.get('slack') == 'none' for row in ran)}; slack that a note of the report speaks of: "
        f"{sum(row.get('slack') == 'noted' for row in ran)}; slack passed over in silence: "
        f"{sum(row.get('slack') == 'LEFT' for row in ran)}; of {len(ran)}",
        f"* widths within their bounds: {count(ran, 'bounds')}; costs as predicted: {count(ran, 'predicted')}; reported as"
        f" profiled: {count(ran, 'reported')}",
        f"* impossible budgets refused with the least of each resource, nothing written: {count(no, 'right')}, in at most"
        f" {max((row['seconds'] for row in no), default=0):.1f} CPU seconds; the least that was named held:"
        f" {sum(row['at_least'] == 0 for row in no)} of {len(no)}",
        "",
        "The last columns: the least that any run used of the limit it came nearest to, and CPU seconds of runs and refusals.",
        "",
        "| network | | runs | held | no slack | noted | tflm | least use | CPU s | refused | most CPU s |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name in what:
        mine, turned = [row for row in ran if row["model"] == name], [row for row in no if row["model"] == name]
        if not mine:
            continue
        # the tightest limit of each run: how near the budget the file ends
        near = [max(row["used"][key] / limit for key, limit in row["limits"].items()) for row in mine if "used" in row]
        cells = [name, what[name], str(len(mine)), str(sum(row["held"] for row in mine))]
        cells += [str(sum(row.get("slack") == kind for row in mine)) for kind in ("none", "noted")]
        cells += [str(sum(row["sram_model"] == "tflm" for row in mine)), f"{min(near, default=0):.3f}"]
        cells += [f"{sum(row['seconds'] for row in mine):.0f}", str(sum(row["right"] for row in turned))]
        cells += [f"{max((row['seconds'] for row in turned), default=0):.1f}"]
        lines.append(table_line(cells))
    lines += ["", "| method | runs | held | no slack | noted |", "|---|--:|--:|--:|--:|"]
    for (road,), mine in sorted(grouped(ran, "road").items()):
        cells = [road, str(len(mine)), str(sum(row["held"] for row in mine))]
        cells += [str(sum(row.get("slack") == kind for row in mine)) for kind in ("none", "noted")]
        lines.append(table_line(cells))
    return "\n".join(lines) + "\n"


def good(row: Mapping[str, Any]) -> bool:
    if row["seed"] >= REFUSALS:
        return row["exit"] == 2 and row["right"] and row["seconds"] < 5 and row["at_least"] == 0
    return bool(row["held"]) and row["slack"] != "LEFT" and all(row[n] for n in ("bounds", "profiled", "reported", "predicted"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--refusals", type=int, default=2 * len(NETS))
    parser.add_argument("--corpus", type=Path, default=ROOT.parent / "shared" / "models")
    parser.add_argument("--work", type=Path, default=None, help="where networks and examples are made; forgotten by default")
    parser.add_argument("--only", type=int, nargs="+", metavar="SEED", help="run these again and store nothing")
    parser.add_argument("--table", action="store_true", help="draw budgets.md anew and run nothing")
    given = parser.parse_args()
    bench_accuracy.torch.set_num_threads(1)
    done = {row["seed"] for row in read(ROWS)}
    wanted = [*range(given.runs), *range(REFUSALS, REFUSALS + given.refusals)]
    wanted = given.only or [seed for seed in wanted if seed not in done and not given.table]
    if not given.corpus.is_dir():
        print(f"{given.corpus}: no such folder; the networks of others are left out", file=sys.stderr)
        wanted = [seed for seed in wanted if NETS[seed % len(NETS)].place != "corpus"]
    fine = True
    with tempfile.TemporaryDirectory() as folder:
        work = given.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        for seed in wanted:
            run = drawn(seed, work, given.corpus)
            row = (refused if seed >= REFUSALS else judged)(seed, run, work)
            fine = fine and good(row)
            if not given.only:
                append(ROWS, row, show=False)
            print("good" if good(row) else "BAD ", json.dumps(row), flush=True)
    if read(ROWS) and not given.only:
        PAGE.write_text(page(read(ROWS)))
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
