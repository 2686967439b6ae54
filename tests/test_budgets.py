"""Budgets from end to end: a few random ones of ``benchmarks/bench_budgets.py``, and refusals of what nothing can hold."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import CORPUS_SHAPES
from graphs import Graph

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

import bench_budgets

from mcuprune.channels.labelling import label
from mcuprune.cli import main
from mcuprune.costs.resources import RESOURCES, CostModel, profile
from mcuprune.graph import network
from mcuprune.operators import table as ops

MODELS = sorted((Path(__file__).parents[1] / "models").glob("*.onnx"))
#: Of the corpus, by multiply-accumulates, weights and nodes.
LARGEST = ("light_inception_v1", "sedgen_unet", "yunet_n_320", "ultraface_slim320", "st_mbv2_035_128", "effnet_b0_thin_ts")
#: Of every kind, and of each kind those that train least.
SEEDS = (55, 72, 90, 200, 345, 415)
MORE_SEEDS = (20, 39, 109, 144)
RARE_SEEDS = (0, 2, 3, 21, 37, 73, 92, 162)


@pytest.mark.parametrize(
    "seed",
    [
        *SEEDS,
        *(pytest.param(seed, marks=pytest.mark.thorough) for seed in MORE_SEEDS),
        *(pytest.param(seed, marks=pytest.mark.slow) for seed in RARE_SEEDS),
    ],
)
def test_a_random_budget_is_held_and_used_up_or_the_notes_say_why_not(seed: int, tmp_path: Path) -> None:
    run = bench_budgets.drawn(seed, tmp_path, tmp_path)
    assert run.net.place == "models"
    row = bench_budgets.judged(seed, run, tmp_path)
    assert bench_budgets.good(row), row


def test_the_few_are_of_every_kind(tmp_path: Path) -> None:
    """Should the dice of the benchmark be changed: networks, methods, arenas and multiples are still all among them."""
    runs = [bench_budgets.drawn(seed, tmp_path, tmp_path) for seed in SEEDS]
    flags = {flag for run in runs for flag in run.arguments}
    assert {*bench_budgets.METHODS, "--no-train", "--multiple-of", "--min-channels", "--keep", "tflm", "max-in-out"} <= flags
    assert {run.path for run in runs} == set(MODELS)
    assert {len(run.limits) for run in runs} == {1, 2, 3}


def refusal(path: Path, flags: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each resource a little under its least: refused within five CPU seconds, with all that is over, and nothing written."""
    original = network.load(path, input_shapes=CORPUS_SHAPES.get(path.name, {}), accept=ops.accept(path))
    model = CostModel(label(original))
    least = model.least_costs()
    limits = [part for name in least for part in (f"--{name}", str(least[name] - 1))]
    started = time.process_time()
    assert main(["prune", str(path), *limits, *flags, "-o", str(folder / "o.onnx")]) == 2
    assert time.process_time() - started < 5
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    for name in least:
        assert f"{RESOURCES[name].title} can't go below {least[name]} (limit {least[name] - 1})" in said.err
        assert least[name] <= profile(original).total[name]
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_an_impossible_budget_is_refused_in_seconds_with_the_least_of_each_resource(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refusal(path, [], tmp_path, capsys)


@pytest.mark.parametrize("name", LARGEST)
def test_large_networks_are_refused_in_seconds_too(
    name: str, corpus_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refusal(corpus_folder / f"{name}.onnx", ["--no-train"], tmp_path, capsys)


@pytest.fixture
def weightless(tmp_path: Path) -> Path:
    """A network without weights, and so without multiply-accumulates."""
    graph = Graph(1, 3, 8, 8)
    path = tmp_path / "m.onnx"
    path.write_bytes(graph.net(graph.add("GlobalAveragePool", graph.add("Relu", "x"))).to_proto().SerializeToString())
    return path


@pytest.mark.parametrize("name", ["macs", "flash"])
@pytest.mark.parametrize("share", ["100%", "250%"])
def test_all_of_nothing_holds(weightless: Path, share: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(weightless), f"--{name}", share, "--format", "json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)["models"]
    assert answer["limits"][name] == {"used": 0, "limit": 0, "over": 0, "ok": True}
    for method in ("differentiable", "uniform", "magnitude", "at-init"):
        written = ["-o", str(weightless.parent / "o.onnx"), "--report", str(weightless.parent / "r")]
        flags = ["--method", method, "--no-train", *written]
        assert main(["prune", str(weightless), f"--{name}", share, "--sram", "100%", *flags]) == 0


@pytest.mark.parametrize("command", ["check", "prune"])
@pytest.mark.parametrize("name", ["macs", "flash"])
def test_a_part_of_nothing_is_no_limit(weightless: Path, name: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--no-train", "-o", str(weightless.parent / "o.onnx")] if command == "prune" else []
    assert main([command, str(weightless), f"--{name}", "99%", *flags]) == 2
    assert "comes to 0; give a larger one" in capsys.readouterr().err


def test_a_network_without_weights_is_not_trained(weightless: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = np.random.default_rng(0)
    np.savez(weightless.parent / "d.npz", **{f"x_{part}": draw.random((20, 3, 8, 8), np.float32) for part in ("train", "test")})
    flags = ["--data", str(weightless.parent / "d.npz"), "-o", str(weightless.parent / "o.onnx")]
    assert main(["prune", str(weightless), "--sram", "100%", *flags]) == 2
    assert "has no weights, so there is nothing to train; add --no-train" in capsys.readouterr().err
    assert not (weightless.parent / "o.onnx").exists()
