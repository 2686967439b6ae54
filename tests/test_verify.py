"""``verify``: an exported file runs in TensorFlow Lite Micro, equals onnxruntime, and a broken one doesn't."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import blocks
import numpy as np
import onnx
import pytest
import small_nets
from conftest import Once, run, thorough_but
from graphs import Graph
from onnx import TensorProto, helper, numpy_helper
from test_network import quantized
from test_tflite import CASES, converted, int8, model_of

import mcuprune
from mcuprune import Budget, exporting, prune, pruning, units
from mcuprune.cli import main
from mcuprune.costs import resources
from mcuprune.data import loading as data
from mcuprune.deploy import tflite
from mcuprune.deploy.qdq import quantizer
from mcuprune.errors import DataError, MissingExtra, ModelError, UnsupportedOperator, UsageError
from mcuprune.graph import network
from mcuprune.graph.network import Network
from mcuprune.report import verified
from mcuprune.run import layerwise, runners, verification, verify_tflite
from mcuprune.run.layerwise import Layer
from mcuprune.run.trial import Trial
from mcuprune.run.verification import Compared, Difference, Memory

# by their full names: the package has functions of the same names
export = import_module("mcuprune.deploy.qdq")
verify = import_module("mcuprune.run.verify")

pytest.importorskip("tflite_micro")

MODELS = Path(__file__).parents[1] / "models"


def pruned(name: str, folder: Path) -> str:
    """One of the repository's models, cut to half its MACs and quantised, without training."""
    path = str(folder / f"{name}.onnx")
    limits = {"macs": units.parse("50%", "count")}
    pruning.prune(pruning.Request(str(MODELS / f"{name}.onnx"), limits, path, train=False, data="digits"))
    return path


@pytest.fixture(scope="module")
def dscnn(once: Once) -> str:
    return once("dscnn_digits, cut for verify", lambda folder: pruned("dscnn_digits", folder))


@pytest.mark.thorough
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
    assert found.runtimes[0].key == "tflm"
    assert found.runtimes[0].version
    assert len(found.converted.content) > 10_000


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("name", thorough_but(["resnet8_digits", "branchy_digits", "mbv2se_digits"], "branchy_digits"))
def test_every_model_of_the_repository_runs_so(name: str, tmp_path: Path) -> None:
    found = verify.verify(pruned(name, tmp_path))
    assert found.ok, found
    assert found.differences[0].max_lsb <= 2


def test_an_output_that_is_one_number_without_axes_is_compared(tmp_path: Path) -> None:
    graph = Graph(1, 3, 8, 8)
    path = int8(model_of(graph, graph.add("ReduceMean", graph.conv("x", 3, 6), keepdims=0)), tmp_path / "net.onnx")
    found = verify.verify(path)
    assert found.ok
    assert found.differences[0].max_lsb <= 2


def test_the_arena_measured_is_the_arena_predicted(dscnn: str) -> None:
    """The head to the byte, where CMSIS-NN needs no scratch; the 64-bit tail is longer than a device's."""
    memory = verify.verify(dscnn, Trial(examples=2)).memory
    assert memory.head_measured == memory.head_predicted
    assert memory.measured is not None
    assert memory.pointer_bytes == 8
    assert memory.predicted < memory.measured <= memory.same_pointers


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("rank", [3, 4])
@pytest.mark.parametrize("products", [1, 3])
def test_the_arena_of_products_of_matrices_is_predicted(rank: int, products: int, tmp_path: Path) -> None:
    """Their kernel keeps the shapes of what it transposes, which grow with the number of dimensions."""
    lead, draw = (1, 3)[: rank - 2], np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(draw.standard_normal((*lead, 16, 16)).astype(np.float32), f"w{i}") for i in range(products)
    ]
    names = ["x", *(f"t{i}" for i in range(1, products)), "y"]
    nodes = [helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]], f"product {i}") for i in range(products)]
    ports = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, (*lead, 5, 16))] for name in "xy"]
    graph = helper.make_graph(nodes, "products", *ports, weights)
    float_file, written = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), float_file)
    prune(float_file, Budget(flash="100%"), train=False, output=written)
    memory = verify.verify(str(written), Trial(examples=2)).memory
    assert memory.measured is not None
    assert memory.measured <= memory.same_pointers <= memory.measured + 32


@pytest.mark.usefixtures("in_process")
def test_a_network_whose_first_axis_is_no_batch_is_compared_too(tmp_path: Path) -> None:
    weights = [numpy_helper.from_array(np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32), "w")]
    ports = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name, shape in (("x", (7, 4)), ("y", (5, 4)))]
    graph = helper.make_graph([helper.make_node("MatMul", ["w", "x"], ["y"], "product")], "rows", *ports, weights)
    float_file, written = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), float_file)
    prune(float_file, Budget(flash="100%"), train=False, output=written)
    found = verify.verify(str(written), Trial(examples=2))
    assert found.ok
    assert found.runtimes[0].layers


@pytest.mark.usefixtures("in_process")
def test_an_arena_of_the_size_that_is_predicted_is_enough(dscnn: str) -> None:
    """Of an array TFLM uses whole multiples of 16 bytes alone, so the number is one."""
    net = network.load(dscnn)
    converted = tflite.convert(net, net.stored)
    memory = verify.predicted(converted)
    assert memory.predicted % 16 == memory.same_pointers % 16 == 0
    inputs = [{"image": np.zeros((1, 1, 16, 16), np.float32)}]
    assert runners.run("tflm", converted, inputs, dscnn, limit=memory.same_pointers).arena["total"] <= memory.same_pointers


@pytest.mark.parametrize(("measured", "ok"), [(None, True), (120, True), (121, False)])
def test_an_arena_above_its_prediction_for_the_same_pointers_is_no(measured: int | None, ok: bool) -> None:
    assert Memory(100, 60, 120, 8, measured, 60).ok == ok


@pytest.mark.usefixtures("in_process")
def test_a_memory_plan_in_the_file_takes_less_arena_and_changes_no_output(tmp_path: Path) -> None:
    path = pruned("branchy_digits", tmp_path)
    net = network.load(path)
    stored = net.stored
    inputs = [{"image": np.random.default_rng(0).random((1, 1, 16, 16), np.float32)}]
    greedy, planned = (
        runners.run("tflm", tflite.convert(net, stored, offline=offline), inputs, path, limit=2**20)
        for offline in (False, True)
    )
    assert np.array_equal(greedy.outputs["logits"], planned.outputs["logits"])
    assert planned.arena["head"] < greedy.arena["head"]
    assert planned.arena["total"] < greedy.arena["total"]


@pytest.mark.thorough
@pytest.mark.usefixtures("in_process")
def test_the_same_seed_gives_the_same_answer(dscnn: str) -> None:
    first, second = (verified.document(verify.verify(dscnn, Trial(examples=20, seed=3))) for _ in range(2))
    assert first == second


def broken(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Let the writer see other weights than the file has."""
    real = tflite.convert

    def convert(net: Network, stored: Any, **more: Any) -> tflite.Converted:
        return real(net, {name: change(value) for name, value in stored.items()}, **more)

    monkeypatch.setattr(tflite, "convert", convert)


def flipped(stored: tflite.Stored) -> tflite.Stored:
    """Kernels upside down: what a mistake in their layout would do."""
    return replace(stored, integers=stored.integers[:, :, ::-1]) if stored.integers.ndim == 4 else stored


def scaled(stored: tflite.Stored) -> tflite.Stored:
    return replace(stored, scale=stored.scale * np.float32(1.1)) if stored.integers.dtype == np.int8 else stored


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("change", [flipped, scaled])
def test_another_computation_is_found(change: Any, dscnn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch, change)
    found = verify.verify(dscnn, Trial(examples=20))
    assert not found.ok
    assert found.differences[0].max_lsb > 4
    document = verified.document(found)
    assert document["diverges_at"] == onnx.load(MODELS / "dscnn_digits.onnx").graph.node[0].name  # the first convolution
    assert "DIFFERS" in verified.text(document)


@pytest.mark.usefixtures("in_process")
def test_the_first_layer_that_differs_is_named_and_no_later_one(dscnn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All others get the integers that the wrong one made, and compute them rightly."""
    weight = next(node.input[1] for node in onnx.load(dscnn).graph.node if node.name == "/block2/pointwise/conv/Conv")
    real = tflite.convert

    def convert(net: Network, stored: Any, **more: Any) -> tflite.Converted:
        return real(net, {**stored, weight: replace(stored[weight], integers=stored[weight].integers[::-1])}, **more)

    monkeypatch.setattr(tflite, "convert", convert)
    (compared,) = [found for found in verify.verify(dscnn, Trial(examples=20)).runtimes if found.key == "tflm"]
    assert [layer.tensor for layer in compared.layers if not layer.ok] == ["/block2/relu2/Relu_output_0"]
    assert compared.diverges_at == "/block2/pointwise/conv/Conv"
    assert not compared.ok


@pytest.mark.usefixtures("in_process")
def test_a_plan_that_overwrites_a_tensor_is_found(dscnn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each layer is right when its tensors are kept; without that the outputs are others."""
    real = runners.run

    def run(key: str, converted: tflite.Converted, *arguments: Any, **more: Any) -> runners.Ran:
        ran = real(key, converted, *arguments, **more)
        return ran if len(converted.outputs) > 1 else replace(ran, outputs={name: x ^ 1 for name, x in ran.outputs.items()})

    monkeypatch.setattr(runners, "run", run)
    found = verify.verify(dscnn, Trial(examples=4))
    assert found.differences[0].max_lsb <= 4
    assert found.runtimes[0].diverges_at is None
    assert not found.ok
    assert "overwritten" in verified.text(verified.document(found))


def folding_map(rounds: int) -> onnx.ModelProto:
    """y -> |1.98 y - 0.99|, again and again: what two points of [0, 1] differ by doubles every time."""
    graph = Graph(1, 8)
    y = graph.add("Sigmoid", "x")
    for _ in range(rounds):
        wide = graph.add("Mul", y, graph.value(np.full((1, 8), 1.98, np.float32)))
        y = graph.add("Abs", graph.add("Add", wide, graph.value(np.full((1, 8), -0.99, np.float32))))
    return model_of(graph, y)


@pytest.mark.usefixtures("in_process")
def test_rounding_that_a_network_enlarges_is_no_difference_of_its_layers(tmp_path: Path) -> None:
    found = verify.verify(int8(folding_map(9), tmp_path / "net.onnx"), Trial(examples=100))
    compared = found.runtimes[0]
    assert found.differences[0].max_lsb > 10
    assert max(layer.max_lsb for layer in compared.layers) <= layerwise.MAX_LSB
    assert found.ok
    assert "enlarges differences of rounding" in verified.text(verified.document(found))


@pytest.mark.usefixtures("in_process")
def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    graph = Graph(1, 4, 6, 5)
    y = graph.add("Add", graph.conv("x", 4, 4), graph.input("z", 1, 4, 6, 5))
    pooled = graph.add("Flatten", graph.add("GlobalAveragePool", y))
    found = verify.verify(int8(model_of(graph, y, pooled), tmp_path / "net.onnx"), Trial(examples=20))
    assert found.ok
    assert [difference.output for difference in found.differences] == [y, pooled]
    assert found.differences[0].agreement is None  # an image has no class
    assert found.differences[1].agreement is not None


@pytest.mark.usefixtures("in_process")
def test_a_file_with_a_fixed_batch(tmp_path: Path) -> None:
    path = int8(small_nets.residual(batch=4), tmp_path / "net.onnx")
    assert onnx.load(path).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 4
    found = verify.verify(path, Trial(examples=5))
    assert found.ok
    alone = verify.verify(int8(small_nets.residual(), tmp_path / "one.onnx"), Trial(examples=5))
    assert [len(side.layers) for side in found.runtimes] == [len(side.layers) for side in alone.runtimes]
    assert found.notes == alone.notes


def by_integers(kind: type) -> onnx.ModelProto:
    """A convolution between quantisers to ``kind``, the last of which is where the graph ends."""
    graph = Graph(1, 3, 6, 6)
    weight = graph.value(np.random.default_rng(0).integers(-127, 128, (4, 3, 3, 3)).astype(np.int8))
    zero = kind(5) if kind == np.int8 else kind(133)
    x = graph.add("QuantizeLinear", "x", graph.value(np.float32(0.02)), graph.value(zero))
    x = graph.add("DequantizeLinear", x, graph.value(np.float32(0.02)), graph.value(zero))
    y = graph.add("Conv", x, graph.add("DequantizeLinear", weight, graph.value(np.float32(0.01))))
    y = graph.add("QuantizeLinear", y, graph.value(np.float32(0.15)), graph.value(zero))
    return model_of(graph, y)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_a_graph_that_ends_in_a_quantiser_is_compared_by_its_integers(kind: type, tmp_path: Path) -> None:
    onnx.save(by_integers(kind), tmp_path / "net.onnx")
    found = verify.verify(tmp_path / "net.onnx", Trial(examples=10))
    assert found.ok
    assert max(difference.max_lsb for difference in found.differences) <= 2


def given_integers(model: onnx.ModelProto) -> onnx.ModelProto:
    """The file without the quantiser of its input, which are integers then."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    (x,) = copy.graph.input
    (first,) = (node for node in copy.graph.node if x.name in node.input)
    assert first.op_type == "QuantizeLinear"
    x.type.tensor_type.elem_type = next(value.data_type for value in copy.graph.initializer if value.name == first.input[2])
    copy.graph.node.remove(first)
    for node in copy.graph.node:
        node.input[:] = [x.name if name == first.output[0] else name for name in node.input]
    return copy


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("form", ["int8", "uint8", "integer operators"])
def test_an_input_of_integers_is_what_a_quantised_float_would_be(form: str, tmp_path: Path) -> None:
    real = by_integers(np.uint8)
    if form == "int8":
        real = onnx.load(int8(small_nets.residual(), tmp_path / "int8.onnx"))
    if form == "integer operators":
        real = quantized(onnx.load_from_string(blocks.exported("inverted residual", "torchscript")), tmp_path, "qoperator")
    onnx.save(real, tmp_path / "real.onnx")
    onnx.save(given_integers(real), tmp_path / "integers.onnx")
    assert tflite.from_file(tmp_path / "integers.onnx") == tflite.from_file(tmp_path / "real.onnx")
    found, expected = (verify.verify(tmp_path / f"{name}.onnx", Trial(examples=10)) for name in ("integers", "real"))
    assert found.ok
    assert [side.differences for side in found.runtimes] == [side.differences for side in expected.runtimes]
    assert [side.layers for side in found.runtimes] == [side.layers for side in expected.runtimes]


def test_an_input_of_integers_that_are_read_with_two_scales_is_refused(tmp_path: Path) -> None:
    model = given_integers(onnx.load(int8(small_nets.residual(), tmp_path / "net.onnx")))
    other = helper.make_node("DequantizeLinear", ["x", "other"], ["also"], "also")
    model.graph.node.insert(0, other)
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "other"))
    model.graph.output.append(helper.make_tensor_value_info("also", TensorProto.FLOAT, None))
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(ModelError, match=r"input 'x' must be .* that DequantizeLinear reads with one scale; quantise"):
        tflite.from_file(tmp_path / "net.onnx")


@pytest.mark.usefixtures("in_process")
def test_a_file_of_integer_operators_runs_by_its_own_integers(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(
        quantized(onnx.load_from_string(blocks.exported("inverted residual", "torchscript")), tmp_path, "qoperator"), path
    )
    assert "QLinearConv" in {node.op_type for node in onnx.load(path).graph.node}
    found = verify.verify(path, Trial(examples=10))
    assert found.ok
    assert all(len(compared.layers) > 3 for compared in found.runtimes)


@pytest.mark.parametrize(
    ("max_lsb", "agreement", "examples", "judged", "ok"),
    [
        (2, 0.5, 200, True, True),  # equal integers name equal classes, but for ties
        (3, None, 200, False, None),  # no row of classes: the layers decide
        (155, 0.9, 200, False, None),  # random inputs
        (155, 1.0, 200, True, True),
        (155, 0.985, 200, True, True),  # 99 % may still be the truth
        (155, 0.97, 200, True, False),  # it isn't
        (155, 0.985, 2000, True, False),  # nor here: more examples see more
    ],
)
def test_what_counts_as_equal(max_lsb: int, agreement: float | None, examples: int, judged: bool, ok: bool | None) -> None:
    difference = Difference("y", max_lsb, 0.9, agreement, examples, judged)
    assert difference.ok == ok
    layer = Layer("node", "y", 1)
    assert Compared("tflm", "1", (difference,), (layer,), True, None).ok == (ok is not False)
    assert Compared("tflm", "1", (difference,), (), None, None).ok == (ok is True)  # nothing else vouches for it
    assert not Compared("tflm", "1", (difference,), (replace(layer, max_lsb=3),), True, None).ok
    assert not Compared("tflm", "1", (difference,), (layer,), False, None).ok


def test_the_interval_is_wilsons() -> None:
    """Worked examples of the literature: 81 of 263 and 0 of 20 (Newcombe 1998, Statistics in Medicine 17, table I)."""
    assert verification.wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert verification.wilson(0.0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


@pytest.mark.usefixtures("in_process")
def test_every_layer_of_a_file_is_compared(dscnn: str) -> None:
    """By hand: seven convolutions, two of them to a block, a pool, a reshape and a product; the file's input is no layer."""
    quantised = [node for node in onnx.load(dscnn).graph.node if node.op_type == "QuantizeLinear"]
    assert len(verify.verify(dscnn, Trial(examples=1)).runtimes[0].layers) == len(quantised) - 1


@pytest.mark.usefixtures("in_process")
def test_data_gives_an_accuracy_in_each_runtime(dscnn: str, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    x, y = draw.random((40, 1, 16, 16)).astype(np.float32), np.arange(40) % 10
    np.savez(tmp_path / "set.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    document = verified.document(verify.verify(dscnn, Trial(examples=30, data=str(tmp_path / "set.npz"))))
    assert document["examples"] == {"random": 30, str(tmp_path / "set.npz"): 30}
    right = [runtime["accuracy"] for runtime in document["runtimes"].values()]
    assert all(abs(share - right[0]) <= 2 / 30 for share in right)
    digits = verified.document(verify.verify(dscnn, Trial(examples=60, data="digits")))["runtimes"]
    test = data.load("digits", input_shape=(1, 16, 16), n_classes=10, seed=0).test
    some = Trial(examples=60).chosen(len(test))
    (logits,) = run(onnx.load(dscnn), {"image": test.x[some]})
    assert digits["onnxruntime"]["accuracy"] == (logits.argmax(1) == test.y[some]).mean() > 0.15
    assert abs(digits["tflm"]["accuracy"] - digits["onnxruntime"]["accuracy"]) <= 1 / 60
    assert digits["onnxruntime"]["default_session_accuracy"] is not None


def test_examples_are_drawn_where_classes_lie_one_behind_the_other() -> None:
    """As in a folder of images: the first ones would all be of one class."""
    classes = np.arange(1000) // 100
    some = Trial(examples=200, seed=3).chosen(1000)
    assert len(set(some.tolist())) == 200
    assert np.bincount(classes[some], minlength=10).min() >= 8
    assert np.array_equal(some, Trial(examples=200, seed=3).chosen(1000))
    assert Trial(examples=200).chosen(7).tolist() == [*range(7)]


@pytest.mark.usefixtures("in_process")
def test_data_that_does_not_fit_is_an_error_where_it_was_asked_for(dscnn: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", **{f"x_{part}": np.zeros((4, 3, 5), np.float32) for part in ("train", "test")})
    with pytest.raises(DataError):
        verify.verify(dscnn, Trial(examples=2, data=str(tmp_path / "set.npz")))
    graph = Graph(1, 4, 6, 5)
    y = graph.add("Add", "x", graph.input("z", 1, 4, 6, 5))
    with pytest.raises(DataError, match="--data digits: ten classes, but the model has 120 outputs"):
        verify.verify(int8(model_of(graph, y), tmp_path / "net.onnx"), Trial(data="digits"))


@pytest.mark.usefixtures("in_process")
def test_another_runtime_is_another_row(dscnn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row = replace(runners.RUNNERS["tflm"], title="Another")
    monkeypatch.setattr(runners, "RUNNERS", {"tflm": runners.RUNNERS["tflm"], "litert": row})
    monkeypatch.setattr(runners, "_command", lambda key, *more: [sys.executable, "-m", "mcuprune.run.runners", "tflm", *more])
    document = verified.document(verify.verify(dscnn, Trial(examples=2)))
    assert list(document["runtimes"]) == ["onnxruntime", "tflm", "litert"]
    assert document["runtimes"]["litert"]["max_lsb"] == document["runtimes"]["tflm"]["max_lsb"]
    assert "Another" in verified.text(document)


@pytest.mark.usefixtures("in_process")
def test_runtimes_that_are_not_installed_are_named(dscnn: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gone = {key: replace(runner, version=lambda: None) for key, runner in runners.RUNNERS.items() if key != "tflm"}
    monkeypatch.setattr(runners, "RUNNERS", {"tflm": runners.RUNNERS["tflm"], **gone})
    named = "not run, for it isn't installed: LiteRT (needs ai-edge-litert)"
    assert f"{named}, generated C (needs a C compiler)" in verify.verify(dscnn, Trial(examples=2)).notes
    exporting.export(exporting.Request(dscnn, str(tmp_path / "alone.tflite")))
    assert named in verify_tflite.verify_file(tmp_path / "alone.tflite", Trial(examples=2)).notes


def test_litert_computes_it_too(dscnn: str) -> None:
    pytest.importorskip("ai_edge_litert")
    found = {compared.key: compared for compared in verify.verify(dscnn, Trial(examples=10)).runtimes}
    assert found["litert"].ok
    assert max(layer.max_lsb for layer in found["litert"].layers) <= layerwise.MAX_LSB


def test_litert_computes_what_its_reference_kernels_lack(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    graph = Graph(1, 3, 6, 6)
    path = int8(model_of(graph, graph.add("Elu", graph.conv("x", 3, 4))), tmp_path / "net.onnx")
    found = {compared.key: compared for compared in verify.verify(path, Trial(examples=5)).runtimes}
    assert found["litert"].ok


@pytest.mark.parametrize(("axes", "keepdims"), [([2, 3], 0), ([2, 3], 1), ([1], 1), ([2], 1)])
def test_litert_computes_what_its_reference_kernel_gets_wrong(axes: list[int], keepdims: int, tmp_path: Path) -> None:
    """Its reference kernel of SUM answers -1 for whatever comes."""
    pytest.importorskip("ai_edge_litert")
    graph = Graph(1, 1, 12, 12)
    y = graph.add("ReduceSum", graph.conv("x", 1, 8), graph.value(np.array(axes, np.int64)), keepdims=keepdims)
    path = int8(model_of(graph, y), tmp_path / "net.onnx")
    compared = {side.key: side for side in verify.verify(path, Trial(examples=5)).runtimes}
    assert compared["litert"].ok
    assert compared["litert"].differences[0].max_lsb <= 1


@pytest.mark.usefixtures("in_process")
def test_the_last_line_tells_a_large_arena_from_another_answer(dscnn: str) -> None:
    found = verify.verify(dscnn, Trial(examples=2))
    larger = replace(found, memory=replace(found.memory, measured=found.memory.same_pointers + 1))
    assert not larger.ok
    assert verified.text(verified.document(larger)).rstrip().endswith("though what it computes is what onnxruntime does")
    other = replace(larger, runtimes=(replace(larger.runtimes[0], steady=False),))
    assert verified.text(verified.document(other)).rstrip().endswith("DIFFERS: not what onnxruntime computes")


def test_document_is_json_and_text_names_both_arenas(dscnn: str) -> None:
    found = verify.verify(dscnn, Trial(examples=2))
    document = verified.document(found)
    assert json.loads(json.dumps(document)) == document
    assert document["ok"] is True
    (image,), (logits,) = document["inputs"], document["outputs"]
    assert (image["name"], image["shape"]) == ("image", [1, 1, 16, 16])
    assert logits["name"] == "logits"
    net = network.load(dscnn)
    assert logits["scale"] == pytest.approx(float(net.constants["logits/scale"]))
    assert export.LOW <= logits["zero_point"] <= export.HIGH
    assert document["diverges_at"] is None
    assert set(document["arena"]) >= {"predicted", "measured", "head_predicted", "head_measured", "pointer_bytes"}
    text = verified.text(document)
    assert f"{found.memory.measured:,} bytes of arena measured here (64-bit, reference kernels" in text
    assert f"{found.memory.predicted:,} bytes of arena predicted on a device (32-bit, CMSIS-NN)" in text
    assert "EQUAL" in text


def test_a_float_model_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "net.onnx")
    onnx.save(CASES["conv"](), path)
    with pytest.raises(ModelError, match="prune without --float"):
        verify.verify(path)


@pytest.mark.parametrize("command", ["verify", "export"])
def test_a_node_of_a_form_that_profile_refuses_is_refused_by_name_too(
    command: str, dscnn: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wherever a bias stands for the weights, or a vector for an image: nothing is lowered from what has another form."""
    model = onnx.load(dscnn)
    damaged = str(tmp_path / "damaged.onnx")
    for node in model.graph.node:
        if node.op_type == "Conv":
            whole = list(node.input)
            node.input[1] = node.input[2]
            onnx.save(model, damaged)
            words = [command, damaged, *(["-o", str(tmp_path / "net.tflite")] if command == "export" else [])]
            assert main(words) == 2
            message = capsys.readouterr().err
            assert f"{damaged}: node '{node.name}': Conv has weights" in message
            assert "Traceback" not in message
            node.input[:] = whole


@pytest.mark.thorough
def test_what_no_device_has_memory_for_is_not_run(dscnn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arena = verify.verify(dscnn, Trial(examples=1)).memory.predicted
    monkeypatch.setattr(verify, "_MOST_ARENA", arena)
    assert verify.verify(dscnn, Trial(examples=1)).ok
    monkeypatch.setattr(verify, "_MOST_ARENA", arena - 1)
    monkeypatch.setattr(runners, "run", None)
    with pytest.raises(UnsupportedOperator, match=rf"{dscnn}: would need an arena of .*nothing is run; check the sizes"):
        verify.verify(dscnn)


def test_a_missing_runtime_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tflite_micro", "ai_edge_litert.interpreter"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(runners, "compiler", lambda: None)
    with pytest.raises(MissingExtra, match=r"pip install 'mcuprune\[verify\]'"):
        verify.verify(tmp_path / "net.onnx")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [0.0, -0.5, float("inf"), float("nan")])
def test_scales_that_are_no_scales_are_refused_by_name(scale: float, tmp_path: Path) -> None:
    """Of data and of weights: nothing is divided by them."""
    model = onnx.load(int8(CASES["conv"](), tmp_path / "net.onnx"))
    names = [node.input[1] for node in model.graph.node if node.op_type == "DequantizeLinear"]
    for at in sorted(set(names)):
        damaged = onnx.ModelProto()
        damaged.CopyFrom(model)
        (scales,) = (tensor for tensor in damaged.graph.initializer if tensor.name == at)
        wrong = np.full_like(onnx.numpy_helper.to_array(scales), scale)
        scales.CopyFrom(onnx.numpy_helper.from_array(wrong, at))
        onnx.save(damaged, tmp_path / "damaged.onnx")
        with pytest.raises((ModelError, UnsupportedOperator), match=r"damaged.onnx: .*above 0; quantise again"):
            converted(tmp_path / "damaged.onnx")


def test_what_the_runtime_refuses_is_an_error_with_its_reason(tmp_path: Path) -> None:
    path = int8(CASES["conv"](), tmp_path / "net.onnx")
    inputs = [{"x": np.zeros((1, 4, 9, 8), np.float32)}]
    with pytest.raises(ModelError, match=r"TensorFlow Lite Micro can't run it .*Failed to"):
        runners.run("tflm", converted(path), inputs, path, limit=1500)


def test_a_kernel_that_breaks_off_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = int8(CASES["conv"](), tmp_path / "net.onnx")
    command = [sys.executable, "-c", "import os; os.abort()"]
    monkeypatch.setattr(runners, "_command", lambda *arguments: command)
    with pytest.raises(ModelError, match="broke off with signal 6"):
        verify.verify(path, Trial(examples=2))


@pytest.mark.thorough
@pytest.mark.usefixtures("in_process")
def test_metadata_choose_from_the_embedded_data_and_are_never_run_or_opened(
    dscnn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("evil.py").write_text("open('run', 'w')\n\ndef go():\n    return {}\n")
    for named in ("evil:go", "evil.npz", "/dev/zero"):
        model = onnx.load(dscnn)
        del model.metadata_props[:]
        model.metadata_props.add(key="mcuprune.data", value=named)
        onnx.save(model, "net.onnx")
        found = verify.verify("net.onnx", Trial(examples=2))
        assert found.examples == {"random": 2}
        assert [note for note in found.notes if f"{named!r}, which is no embedded data set" in note]
    assert not Path("run").exists()


@pytest.mark.thorough
def test_the_command_answers_by_exit_code_and_keeps_the_file_where_there_is_an_answer(
    dscnn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, good = tmp_path / "kept.tflite", tmp_path / "good.tflite"
    places = ["--tflite", str(kept), "--keep", str(good)]
    command = ["verify", dscnn, "--examples", "4", "--data", "digits", *places, "--format", "json"]
    assert main(command) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["runtimes"]["tflm"]["accuracy"] is not None
    assert kept.read_bytes() == good.read_bytes() == tflite.from_file(dscnn)
    kept.unlink()
    good.unlink()
    assert main([*command, "--data", "no such set"]) == 2
    assert not kept.exists()
    broken(monkeypatch, flipped)
    assert main(["verify", dscnn, "--examples", "4", *places]) == 1
    out = capsys.readouterr().out
    assert "note: node '/stem/conv/Conv' is off by" in out
    assert (kept.exists(), good.exists()) == (True, False)
    assert out.endswith("DIFFERS: not what onnxruntime computes\n")


@pytest.mark.thorough
@pytest.mark.usefixtures("in_process")
def test_a_file_of_half_floats_runs_on_examples_and_as_int8(tmp_path: Path) -> None:
    """Its inputs and outputs stay what they are; examples are float32 here and what is stored are integers."""
    model = onnx.load(MODELS / "dscnn_digits.onnx")
    for initializer in model.graph.initializer:
        if initializer.data_type == TensorProto.FLOAT:
            halved = numpy_helper.to_array(initializer).astype(np.float16)
            initializer.CopyFrom(numpy_helper.from_array(halved, initializer.name))
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    del model.graph.value_info[:]
    half, written = tmp_path / "half.onnx", tmp_path / "int8.onnx"
    onnx.save(model, half)
    result = prune(half, Budget(macs="50%"), data="digits", train_compute=0.5, output=written)
    whole = prune(
        MODELS / "dscnn_digits.onnx", Budget(macs="50%"), data="digits", train_compute=0.5, output=tmp_path / "o.onnx"
    )
    assert result.before == replace(whole.before, path=result.before.path)
    assert result.accuracy_int8 is not None
    assert result.accuracy_int8 > 0.8
    assert onnx.load(written).graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT16
    assert verify.verify(str(written), Trial(examples=20)).ok


def foreign(path: str, low: float, high: float) -> str:
    """The int8 file, with the quantiser that another tool would give its output: that of the output's own range."""
    model = onnx.load(path)
    own = quantizer(low, high)
    model.graph.initializer.append(numpy_helper.from_array(np.array(own.scale, np.float32), "own scale"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(own.zero_point, np.int8), "own zero point"))
    for node in model.graph.node[-2:]:
        assert node.op_type in ("QuantizeLinear", "DequantizeLinear")
        node.input[1:] = ["own scale", "own zero point"]
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(("factor", "below"), [pytest.param(1, False, marks=pytest.mark.thorough), (40, True)])
def test_logarithms_below_what_their_kernel_stores_are_told(factor: int, below: bool, tmp_path: Path, capsys: Any) -> None:
    """LOG_SOFTMAX has one scale of TensorFlow Lite, which ends at -15.9; export was silent about what is cut off there."""
    graph = Graph(1, 10)
    logits = graph.add("Mul", "x", graph.value(np.float32(factor)))
    path = int8(model_of(graph, graph.add("LogSoftmax", logits, axis=1)), tmp_path / "net.onnx")
    foreign(path, -7.0 * factor, 0.0)
    said = "node 'logsoftmax1': LOG_SOFTMAX stores nothing below -15.94, and the network gives down to -"
    for suffix, cut_off in ((".tflite", below), (".h", below), (".onnx", False)):
        notes = exporting.export(exporting.Request(path, str(tmp_path / f"out{suffix}"))).notes
        assert any(note.startswith(said) for note in notes) is cut_off
    assert main(["verify", path, "--examples", "2"]) == below
    assert (said in " ".join(capsys.readouterr().out.split())) is below


@pytest.mark.parametrize(("factor", "coarse"), [pytest.param(1, False, marks=pytest.mark.thorough), (0.02, True)])
def test_steps_that_a_kernel_of_fixed_scale_loses_are_told(factor: float, coarse: bool, tmp_path: Path) -> None:
    """TANH has steps of 1/128 whatever comes out; verify named the node, and export said nothing of it."""
    graph = Graph(1, 10)
    path = int8(
        model_of(graph, graph.add("Tanh", graph.add("Mul", "x", graph.value(np.float32(factor))))), tmp_path / "net.onnx"
    )
    foreign(path, -5.0 * factor if coarse else -1.0, 5.0 * factor if coarse else 1.0)
    said = "node 'tanh1': TANH stores steps of 0.007812"
    for suffix in (".tflite", ".c"):
        notes = exporting.export(exporting.Request(path, str(tmp_path / f"out{suffix}"))).notes
        assert any(note.startswith(said) for note in notes) is coarse
    assert main(["verify", path, "--examples", "2"]) == coarse


@pytest.mark.parametrize(
    ("op", "factor", "said"),
    [
        ("Tanh", 0.02, "node 'tanh2': Tanh stores steps of 0.007812"),
        ("Tanh", 1, ""),
        ("LogSoftmax", 40, "node 'logsoftmax2': LogSoftmax stores nothing below -15.94"),
        ("LogSoftmax", 3, ""),
        ("Softmax", 1, ""),
    ],
)
def test_numbers_that_fixed_steps_lose_are_told_where_a_float_network_is_quantised(
    op: str, factor: float, said: str, tmp_path: Path
) -> None:
    """The written file has the kernel's own steps, so that nothing behind it could tell what the float network gave."""
    graph = Graph(1, 4)
    logits = graph.add("Mul", graph.add("MatMul", "x", graph.constant(4, 4)), graph.value(np.float32(factor)))
    onnx.save(model_of(graph, graph.add(op, logits)), tmp_path / "net.onnx")
    x, y = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32), np.arange(40) % 4
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x + 1, y_test=y)
    asked = exporting.Request(str(tmp_path / "net.onnx"), str(tmp_path / "net.tflite"), data=str(tmp_path / "data.npz"))
    notes = exporting.export(asked).notes
    told = [note for note in notes if "stores" in note]
    assert len(told) == bool(said)
    assert all(note.startswith(said) for note in told)


@pytest.mark.thorough
@pytest.mark.skipif(runners.compiler() is None, reason="no C compiler here")
def test_an_arena_of_generated_c_above_the_peak_is_no_and_its_cause_is_named(dscnn: str, tmp_path: Path) -> None:
    fits = verify.verify(dscnn, Trial(examples=1))
    (own,) = (compared for compared in fits.runtimes if compared.key == "c")
    assert own.taken is not None
    assert own.taken.arena == own.taken.peak == resources.profile(network.load(dscnn)).memory.peak
    document = verified.document(fits)
    assert document["runtimes"]["c"]["arena"] == {"predicted": own.taken.peak, "measured": own.taken.arena, "ok": True}
    assert document["runtimes"]["tflm"]["arena"] is None
    line = f"{own.taken.arena:,} bytes of arena in generated C; the peak of the network is {own.taken.peak:,}"
    assert line in verified.text(document)
    graph = Graph(1, 7, 7, 7)  # one step reads the same bytes in two orders of their axes: that takes a copy
    x = graph.add("Relu", "x")
    path = int8(model_of(graph, graph.add("Add", x, graph.add("Transpose", x, perm=[0, 2, 3, 1]))), tmp_path / "net.onnx")
    assert main(["verify", path, "--examples", "2"]) == 1
    found = verify.verify(path, Trial(examples=2))
    assert not found.ok
    assert all(compared.ok for compared in found.runtimes)
    said = "the arena of generated C, 686 bytes, is above the peak of the network, 343 bytes: most is alive at node '"
    assert any(note.startswith(said) for note in found.notes)
    assert verified.text(verified.document(found)).rstrip().endswith("though what it computes is what onnxruntime does")
    assert any(note.startswith(said) for note in exporting.export(exporting.Request(path, str(tmp_path / "net.c"))).notes)
    prune_it = ["prune", path, "--no-train", "-o", str(tmp_path / "cut.c"), "--report", str(tmp_path)]
    assert [main([*prune_it, "--sram", str(limit)]) for limit in (686, 685)] == [0, 1]
    said = "needs more RAM than the limit of 685 B, which"
    assert any(said in note for note in json.loads((tmp_path / "report.json").read_text())["notes"])


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("CC", "no-compiler-of-that-name", "CC=no-compiler-of-that-name: no such compiler is here"),
        ("CC", "gcc -DX='", "CC=gcc -DX=': no words as a shell has them"),
        ("CC", "false", "the compiler of CC and CFLAGS, `false .*` *, *ended with 1"),
        ("CFLAGS", "'", "CFLAGS=': no words as a shell has them"),
    ],
)
@pytest.mark.skipif(runners.compiler() is None, reason="no C compiler here")
def test_what_the_environment_says_of_the_compiler_is_used_or_refused(
    variable: str, value: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = Graph(1, 4)
    path = int8(model_of(graph, graph.add("Relu", "x")), tmp_path / "net.onnx")
    monkeypatch.setenv(variable, value)
    with pytest.raises((UsageError, ModelError), match=said):
        verify.verify(path, Trial(examples=1))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders here")
def test_a_pipe_is_no_file_to_verify(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "net.tflite")
    with pytest.raises(ModelError, match="no regular file, but a device or a pipe"):
        mcuprune.verify(tmp_path / "net.tflite")
