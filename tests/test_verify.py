"""``verify``: an exported file runs in TensorFlow Lite Micro, equals onnxruntime, and a broken one doesn't."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import small_nets
from graphs import Graph
from test_tflite import CASES, converted, int8, model_of

from mcuprune import network, pruning, tflite, units, verify
from mcuprune.errors import MissingExtra, ModelError
from mcuprune.network import Network
from mcuprune.verify import Difference

pytest.importorskip("tflite_micro")

MODELS = Path(__file__).parents[1] / "models"


def pruned(name: str, folder: Path) -> str:
    """One of the repository's models, cut to half its MACs and quantised, without training."""
    path = str(folder / f"{name}.onnx")
    limits = {"macs": units.parse("50%", "count")}
    pruning.prune(pruning.Request(str(MODELS / f"{name}.onnx"), limits, path, train=False, data="digits"))
    return path


@pytest.fixture(scope="module")
def dscnn(tmp_path_factory: pytest.TempPathFactory) -> str:
    return pruned("dscnn_digits", tmp_path_factory.mktemp("dscnn"))


def test_a_pruned_model_runs_as_onnxruntime_computes_it(dscnn: str) -> None:
    found = verify.verify(dscnn)
    assert found.ok
    assert found.examples == {"random": 200, "digits": 200}
    (logits,) = found.differences
    assert logits.max_lsb <= 2
    assert logits.exact > 0.7
    assert logits.judged
    assert logits.agreement is not None
    assert logits.agreement >= 0.99
    assert found.runtime == "TensorFlow Lite Micro"
    assert found.version
    assert found.tflite_bytes > 10_000


@pytest.mark.parametrize("name", ["resnet8_digits", "branchy_digits", "mbv2se_digits"])
def test_every_model_of_the_repository_runs_so(name: str, tmp_path: Path) -> None:
    found = verify.verify(pruned(name, tmp_path))
    assert found.ok, found
    assert found.differences[0].max_lsb <= 2


def test_the_arena_measured_is_the_arena_predicted(dscnn: str) -> None:
    """The head to the byte, where CMSIS-NN needs no scratch; the 64-bit tail is longer than a device's."""
    found = verify.verify(dscnn, examples=2)
    assert found.arena_head == found.arena_predicted_head
    assert found.arena > found.arena_predicted > found.arena_head


def test_a_memory_plan_in_the_file_takes_less_arena_and_changes_no_output(tmp_path: Path) -> None:
    path = pruned("branchy_digits", tmp_path)
    net = network.load(path)
    stored = net.stored
    inputs = [{"image": np.random.default_rng(0).random((1, 1, 16, 16), np.float32)}]
    greedy, planned = (
        verify._run(tflite.convert(net, stored, offline=offline), inputs, path, limit=2**20) for offline in (False, True)
    )
    assert np.array_equal(greedy[0]["logits"], planned[0]["logits"])
    assert planned[1]["head"] < greedy[1]["head"]
    assert planned[1]["total"] < greedy[1]["total"]


def test_the_same_seed_gives_the_same_answer(dscnn: str) -> None:
    first, second = (verify.document(verify.verify(dscnn, examples=20, seed=3)) for _ in range(2))
    assert first == second


def broken(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Let the writer see other weights than the file has."""
    real = tflite.convert

    def convert(net: Network, stored: Any) -> tflite.Converted:
        return real(net, {name: change(value) for name, value in stored.items()})

    monkeypatch.setattr(tflite, "convert", convert)


def flipped(stored: tflite.Stored) -> tflite.Stored:
    """Kernels upside down: what a mistake in their layout would do."""
    return replace(stored, integers=stored.integers[:, :, ::-1]) if stored.integers.ndim == 4 else stored


def scaled(stored: tflite.Stored) -> tflite.Stored:
    return replace(stored, scale=stored.scale * np.float32(1.1)) if stored.integers.dtype == np.int8 else stored


@pytest.mark.parametrize("change", [flipped, scaled])
def test_another_computation_is_found(change: Any, dscnn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch, change)
    found = verify.verify(dscnn, examples=20)
    assert not found.ok
    assert found.differences[0].max_lsb > 4
    assert "DIFFERS" in verify.text(verify.document(found))


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    graph = Graph(1, 4, 6, 5)
    y = graph.add("Add", graph.conv("x", 4, 4), graph.input("z", 1, 4, 6, 5))
    pooled = graph.add("Flatten", graph.add("GlobalAveragePool", y))
    found = verify.verify(int8(model_of(graph, y, pooled), tmp_path / "net.onnx"), examples=20)
    assert found.ok
    assert [difference.output for difference in found.differences] == [y, pooled]
    assert found.differences[0].agreement is None  # an image has no class
    assert found.differences[1].agreement is not None


def test_a_file_with_a_fixed_batch(tmp_path: Path) -> None:
    path = int8(small_nets.residual(batch=4), tmp_path / "net.onnx")
    assert onnx.load(path).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 4
    assert verify.verify(path, examples=5).ok


@pytest.mark.parametrize(
    ("max_lsb", "moved", "agreement", "judged", "ok"),
    [
        (2, 0, 1.0, True, True),
        (3, 0, 1.0, True, False),
        (3, 1, None, False, False),
        (6, 3, None, False, True),
        (7, 3, None, False, False),
        (0, 0, 0.99, True, True),
        (0, 0, 0.98, True, False),
        (0, 0, 0.5, False, True),
    ],
)
def test_what_counts_as_equal(max_lsb: int, moved: int, agreement: float | None, judged: bool, ok: bool) -> None:
    assert Difference("y", max_lsb, 0.9, moved, agreement, judged).ok == ok


def test_document_is_json_and_text_names_both_arenas(dscnn: str) -> None:
    found = verify.verify(dscnn, examples=2)
    document = verify.document(found)
    assert json.loads(json.dumps(document)) == document
    assert document["ok"] is True
    assert document["outputs"][0]["name"] == "logits"
    text = verify.text(document)
    assert f"{found.arena:,} bytes of arena measured here (64-bit, reference kernels)" in text
    assert f"{found.arena_predicted:,} bytes of arena predicted on a device (32-bit, CMSIS-NN)" in text
    assert "EQUAL" in text


def test_a_float_model_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "net.onnx")
    onnx.save(CASES["conv"](), path)
    with pytest.raises(ModelError, match="prune without --float"):
        verify.verify(path)


def test_a_missing_runtime_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tflite_micro", None)
    with pytest.raises(MissingExtra, match=r"pip install 'mcuprune\[verify\]'"):
        verify.verify(tmp_path / "net.onnx")


def test_what_the_runtime_refuses_is_an_error_with_its_reason(tmp_path: Path) -> None:
    path = int8(CASES["conv"](), tmp_path / "net.onnx")
    inputs = [{"x": np.zeros((1, 4, 9, 8), np.float32)}]
    with pytest.raises(ModelError, match=r"TensorFlow Lite Micro can't run it .*Failed to"):
        verify._run(converted(path), inputs, path, limit=1500)


def test_a_kernel_that_breaks_off_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = int8(CASES["conv"](), tmp_path / "net.onnx")
    command = [sys.executable, "-c", "import os; os.abort()"]
    monkeypatch.setattr(verify, "_command", lambda *arguments: command)
    with pytest.raises(ModelError, match="broke off with signal 6"):
        verify.verify(path, examples=2)
