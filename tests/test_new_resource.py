"""A resource is one object in one place: added to RESOURCES, it is a flag, a key, a column, a field and a budget that holds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from conftest import random_selection

from mcuprune import pruning, units
from mcuprune.channels.labelling import label
from mcuprune.costs import resources
from mcuprune.costs.resources import PARAMS, RESOURCES, Additive, CostModel, Resource, SramModel, Terms, profile
from mcuprune.graph import network
from mcuprune.operators.fusion import elements
from mcuprune.operators.table import OPS
from mcuprune.report import profile as report
from mcuprune.report import prune as outcome

MODELS = Path(__file__).parents[1] / "models"
DSCNN = str(MODELS / "dscnn_digits.onnx")


def weight_bytes(terms: Terms) -> dict[str, Any]:
    """1 byte for each element of a weight, at the first node that reads it."""
    seen: set[str] = set()
    found: dict[str, Any] = {}
    for node in terms.network.nodes:
        for index, name in enumerate(node.inputs):
            if name in terms.network.constants and name not in seen and OPS[node.op].role(node, index) == "weight":
                seen.add(name)
                found[node.name] = found.get(node.name, 0) + elements(terms.network, name, terms.dim)
    return found


WEIGHTS = Additive(
    name="weights", unit="bytes", title="weights", meaning="weights alone, as int8 stores them", shares=weight_bytes
)


def stored_weights(path: str) -> int:
    """The elements of all weights of a float file, counted without this package."""
    graph = onnx.load(path).graph
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in graph.initializer}
    return sum(sizes[node.input[1]] for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul"))


@pytest.fixture
def two_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RESOURCES, WEIGHTS.name, WEIGHTS)
    monkeypatch.setitem(RESOURCES, PARAMS.name, PARAMS)


def command(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The command line in a process where both resources have been added before anything else was imported."""
    program = "import test_new_resource as t; t.RESOURCES.update(weights=t.WEIGHTS, params=t.PARAMS); " + (
        "import sys; from mcuprune.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    start = f"import sys; sys.path[:0] = {paths}; {program}"
    return subprocess.run([sys.executable, "-c", start, *words], capture_output=True, text=True, cwd=folder, check=False)


def test_it_is_a_flag_a_limit_in_json_and_a_key_of_the_configuration(tmp_path: Path) -> None:
    assert "--weights SIZE|%" in " ".join(command("check", "--help", folder=tmp_path).stdout.split())
    bytes_of = stored_weights(DSCNN)
    found = command("check", DSCNN, "--weights", str(bytes_of), "--params", "1k", "--format", "json", folder=tmp_path)
    (model,) = json.loads(found.stdout)["models"]
    assert found.returncode == 1
    assert model["limits"]["weights"] == {"used": bytes_of, "limit": bytes_of, "ok": True, "over": 0}
    assert model["limits"]["params"]["ok"] is False
    assert "--params 1k" in model["hint"]
    (tmp_path / "mcuprune.toml").write_text(f'budget = {{ weights = "{bytes_of - 1}" }}\n')
    assert command("check", DSCNN, folder=tmp_path).stdout.splitlines()[1].startswith("FAIL  weights")


def test_it_is_a_column_of_every_table(two_more: None) -> None:
    found = profile(network.load(DSCNN))
    for view in (report.View(rows=0), report.View(by="op", sort="weights"), report.View(by="group")):
        shown = report.Report("profile", (report.Answer(found),), view)
        assert "weights  params" in report.text(shown)
        assert "| weights | params |" in report.markdown(shown)
        table = json.loads(report.json(shown))["models"][0]["table"]
        assert sum(row["weights"] for row in table["rows"]) == table["total"]["weights"] == stored_weights(DSCNN)


def test_its_function_and_gradient_are_those_of_the_cut_networks(two_more: None) -> None:
    channels = label(network.load(str(MODELS / "resnet8_digits.onnx")))
    model = CostModel(channels)
    for seed in range(3):
        keep = random_selection(channels, 0.4, seed)
        widths, cut = channels.widths(keep), profile(channels.cut(keep))
        assert model.at(widths) == {name: cut.total[name] for name in model.functions}
        step = np.eye(len(widths), dtype=np.int64)[seed]
        slope = (model.at(widths + step)["weights"] - model.at(widths - step)["weights"]) / 2
        assert model.gradient("weights", widths)[seed] == pytest.approx(slope)  # at most quadratic in each width
    assert model.least_costs()["weights"] == model.at(model.least)["weights"]


def test_a_budget_of_it_is_held_by_training_and_stands_in_the_history_and_the_report(
    two_more: None, few_digits: str, tmp_path: Path
) -> None:
    limit = {"weights": units.parse("50%", "bytes")}
    request = pruning.Request(DSCNN, limit, str(tmp_path / "o.onnx"), data=few_digits, epochs=2, int8=False, from_scratch=True)
    result = pruning.prune(request)
    assert result.ok
    assert stored_weights(request.output) == result.after.total["weights"] <= stored_weights(DSCNN) // 2
    found = outcome.document(result)
    assert found["limits"]["weights"]["used"] == stored_weights(request.output)
    assert found["history"][-1]["weights"] == stored_weights(request.output)
    assert any(line.startswith("weights") and line.endswith("pass") for line in outcome.text(found).splitlines())


def test_a_budget_of_it_is_held_without_training(tmp_path: Path) -> None:
    words = ("prune", DSCNN, "--weights", "30%", "--no-train", "--float", "-o", "o.onnx", "--format", "json")
    found = command(*words, folder=tmp_path)
    assert found.returncode == 0, found.stderr
    assert stored_weights(str(tmp_path / "o.onnx")) <= 0.3 * stored_weights(DSCNN)
    assert json.loads(found.stdout)["after"]["total"]["weights"] == stored_weights(str(tmp_path / "o.onnx"))


def test_a_resource_without_shares_of_nodes_is_a_total_and_no_column(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an arena is, which belongs to no node."""
    arena = RESOURCES["sram"].models["tflm"]
    monkeypatch.setitem(RESOURCES, "arena", arena)
    net = network.load(DSCNN)
    found = profile(net)
    assert found.total["arena"] == found.memory.arena_tflm
    verdict = resources.Budget({"arena": found.arena - 1}).check(found.total)
    text = report.text(report.Report("check", (report.Answer(found, verdict),)))
    assert "FAIL  arena" in text
    head = next(line for line in report.text(report.Report("profile", (report.Answer(found),))).splitlines() if "shape" in line)
    assert "arena" not in head
    model = CostModel(label(net))
    assert model.at(model.full)["arena"] == found.memory.arena_tflm


def test_the_words_of_a_resource_s_model_are_those_of_its_flag() -> None:
    assert {"peak", *RESOURCES["sram"].models} == set(get_args(SramModel))
    found = profile(network.load(DSCNN))
    for word in get_args(SramModel):
        limited: Resource = RESOURCES["sram"].under(word)
        part, key = limited.place or ("total", limited.name)
        assert found.used(word)["sram"] == report.profile_document(found)[part][key]
