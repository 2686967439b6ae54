"""The benchmark of the paper's networks, where there is no GPU: the networks are what they are called, and fit the budgets."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mcuprune import pruning
from mcuprune.costs import resources
from mcuprune.graph import network
from mcuprune.operators import table as ops

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
import bench_gpu as bench

torch.set_num_threads(1)


@pytest.fixture
def nothing_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The benchmark with a table of its own, which is empty."""
    monkeypatch.setattr(bench, "ROWS", tmp_path / "gpu.jsonl")
    monkeypatch.setattr(bench, "PAGE", tmp_path / "gpu.md")
    return tmp_path


def started(name: str, monkeypatch: pytest.MonkeyPatch, *flags: str) -> int:
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py", "--networks", name, *flags])
    return bench.main()


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # of the usual implementation for CIFAR-10, less the biases before BatchNormalization
        ("vgg16", 14_728_266 - 4_224),
        ("resnet18", 11_173_962),
        # of torchvision's for ImageNet, less what 990 classes more take
        ("mobilenet_v2", 3_504_872 - 990 * 1_281),
        ("efficientnet_b0", 5_288_548 - 990 * 1_281),
        # Tang & Lin 2018, in thousands: 110 and 238
        ("res8", 45 * 9 + 6 * 45 * 45 * 9 + 46 * 12),
        ("res15", 45 * 9 + 13 * 45 * 45 * 9 + 46 * 12),
    ],
)
def test_a_network_has_the_parameters_of_its_namesake(name: str, parameters: int) -> None:
    build, _ = bench.NETWORKS[name]
    assert sum(parameter.numel() for parameter in build().parameters()) == parameters


def test_vgg16_costs_what_the_paper_says(tmp_path: Path) -> None:
    """Table 3: 14.7 M weights, 131 KB, 313.3 M multiply-accumulates."""
    asked = bench.request("vgg16", "DSA", "uniform", 0, task=bench.TOY, data=tmp_path, work=tmp_path)
    total = resources.profile(network.load(asked.model, accept=ops.accept("vgg16"))).total
    assert total["sram"] == 131_072
    assert total["params"] == pytest.approx(14.7e6, rel=0.005)
    assert total["macs"] == pytest.approx(313.3e6, rel=0.001)


@pytest.mark.parametrize(
    ("name", "kilobytes"),
    # Zhang et al. 2017: weights, biases, and the two largest maps that are there at once, 8 bits each
    [("dscnn_s", 38.6), ("dscnn_m", 189.2), ("dscnn_l", 497.6)],
)
def test_a_keyword_network_takes_the_memory_of_its_paper(name: str, kilobytes: float, tmp_path: Path) -> None:
    asked = bench.request(
        name, "half" if name == "dscnn_s" else "KWS-S", "uniform", 0, task=bench.TOY_SOUND, data=tmp_path, work=tmp_path
    )
    total = resources.profile(network.load(asked.model, accept=ops.accept(name))).total
    weights = sum(p.numel() for n, p in bench.NETWORKS[name][0]().named_parameters() if p.ndim > 1)
    biases = (total["flash"] - weights) // 8  # which flash counts with a scale each, at eight bytes a channel
    assert (weights + biases + total["sram"]) / 1000 == pytest.approx(kilobytes, abs=0.05)


@pytest.mark.parametrize(
    ("name", "sram", "macs"),
    # Table 3: 23.7 KB and 4.162 M; 66.1 KB and 116.4 M
    [("res8", 23.7e3, 4.162e6), ("res15", 66.1e3, 116.4e6)],
)
def test_a_residual_keyword_network_costs_what_the_paper_says(name: str, sram: float, macs: float, tmp_path: Path) -> None:
    (budget,) = bench.NETWORKS[name][1]
    asked = bench.request(name, budget, "uniform", 0, task=bench.TOY_SOUND, data=tmp_path, work=tmp_path)
    total = resources.profile(network.load(asked.model, accept=ops.accept(name))).total
    assert total["sram"] == pytest.approx(sram, rel=0.002)
    assert total["macs"] == pytest.approx(macs, rel=0.01)


def test_etinynet_has_the_weights_of_its_paper() -> None:
    """979 K with a thousand classes, by table 3."""
    build, _ = bench.NETWORKS["etinynet"]
    assert sum(parameter.numel() for parameter in build().parameters()) + 990 * 513 == pytest.approx(979e3, rel=0.02)


@pytest.mark.parametrize(
    ("name", "budget"),
    [("vgg16", "A/C #1"), pytest.param("efficientnet_b0", "VWW-1", marks=pytest.mark.slow), ("dscnn_l", "KWS-S")],
)
def test_a_network_can_be_cut_to_its_budget(name: str, budget: str, tmp_path: Path) -> None:
    toy = bench.task_of(name, toy=True)
    asked = bench.request(name, budget, "differentiable", 0, task=toy, data=tmp_path, work=tmp_path)
    result = pruning.prune(replace(asked, train=False, int8=False, data=None, output=str(tmp_path / "o.onnx")))
    assert result.ok
    assert set(result.budget.limits) == {"sram", "flash", "macs"}


@pytest.mark.parametrize(
    ("name", "budget", "method"),
    [
        # the largest take seconds each
        pytest.param("resnet18", "MCU", "differentiable", marks=pytest.mark.slow),
        pytest.param("mobilenet_v2", "VWW-2", "uniform", marks=pytest.mark.slow),
        pytest.param("mcunet", "half", "differentiable", marks=pytest.mark.slow),
        pytest.param("etinynet", "x0.75", "uniform", marks=pytest.mark.slow),
        ("dscnn_s", "half", "differentiable"),
        ("dscnn_m", "KWS-S", "differentiable"),
        *(
            pytest.param(*each, marks=pytest.mark.thorough)
            for each in (("dscnn_l", "KWS-M", "uniform"), ("res15", "KWS-M", "uniform"))
        ),
        ("res8", "KWS-S", "differentiable"),
    ],
)
def test_a_toy_run_holds_the_budget_and_is_not_stored(
    name: str,
    budget: str,
    method: str,
    nothing_stored: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    build, targets = bench.NETWORKS[name]
    monkeypatch.setitem(bench.NETWORKS, name, (build, {budget: targets[budget]}))
    assert started(name, monkeypatch, "--methods", method, "--toy") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["held"]
    assert all(used <= found["limits"][resource] for resource, used in found["used"].items())
    assert (found["network"], found["trained_epochs"], found["device"]) == (name, 2.0, "CPU")
    assert list(nothing_stored.iterdir()) == []
    (line,) = [line for line in bench.page([found]).splitlines() if line.startswith(f"| {name}")]
    assert line.startswith(f"| {name} | {budget} | {method} | 2 | 1 | yes |")


def test_no_page_is_drawn_of_no_runs(nothing_stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert started("vgg16", monkeypatch, "--table") == 0
    assert list(nothing_stored.iterdir()) == []


def test_a_finished_run_is_not_run_again(nothing_stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, str]] = []

    def row(network: str, budget: str, asked: pruning.Request) -> dict[str, object]:
        ran.append((budget, asked.method))
        named = {"network": network, "budget": budget}
        return named | {name: getattr(asked, name) for name in ("method", "seed", "epochs", "precision")}

    monkeypatch.setattr(bench, "row", row)
    monkeypatch.setattr(bench, "page", lambda rows: f"{len(rows)} rows")
    monkeypatch.setattr(bench, "REAL", bench.TOY)
    work = str(nothing_stored / "work")
    assert started("vgg16", monkeypatch, "--methods", "uniform", "--work", work) == 0
    assert ran == [("A/C #1", "uniform"), ("A/C #2", "uniform"), ("DSA", "uniform")]
    assert started("vgg16", monkeypatch, "--methods", "uniform", "--work", work) == 0
    assert len(ran) == 3
    assert started("vgg16", monkeypatch, "--methods", "uniform", "--work", work, "--epochs", "9") == 0
    assert len(ran) == 6
    assert started("vgg16", monkeypatch, "--methods", "uniform", "--work", work, "--precision", "bfloat16") == 0
    assert len(ran) == 9
    assert (nothing_stored / "gpu.md").read_text() == "9 rows"


def test_runs_of_another_length_or_precision_have_states_of_their_own(
    nothing_stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was interrupted must not stand in the way of the next."""
    outputs: list[str] = []

    def row(network: str, budget: str, asked: pruning.Request) -> dict[str, object]:
        outputs.append(asked.output)
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "row", row)
    monkeypatch.setattr(bench, "REAL", bench.TOY)
    for flags in ([], ["--epochs", "9"], ["--epochs", "90"], ["--precision", "bfloat16"], ["--seeds", "1"]):
        with pytest.raises(KeyboardInterrupt):
            started("vgg16", monkeypatch, "--methods", "uniform", "--work", str(nothing_stored / "work"), *flags)
    assert len(set(outputs)) == 5
