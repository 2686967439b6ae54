"""Accuracy is what onnxruntime answers, whatever batch a file was written for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from graphs import Graph
from onnx import helper
from test_trainable import drawn, graph

from mcuprune.data.sets import Split
from mcuprune.errors import ModelError
from mcuprune.graph import network
from mcuprune.operators import table as ops
from mcuprune.train import evaluate
from mcuprune.train.evaluate import Model, accuracy, accuracy_of
from mcuprune.train.tasks.metrics import Metric
from mcuprune.train.tasks.objective import classification


def classifier(batch: int | str) -> onnx.ModelProto:
    """Six numbers to three classes, by an average over the batch's own row alone."""
    model = graph([helper.make_node("Gemm", ["x", "w"], ["y"])], {"w": drawn(6, 3)}, (6,))
    for value in (*model.graph.input, *model.graph.output):
        dim = value.type.tensor_type.shape.dim[0]
        dim.Clear()
        if isinstance(batch, int):
            dim.dim_value = batch
        else:
            dim.dim_param = batch
    return model


@pytest.mark.parametrize("count", [1, 4, 7, 600])
@pytest.mark.parametrize("batch", [1, 4, "n", "batch"])
def test_every_example_is_answered_once(batch: int | str, count: int) -> None:
    x = drawn(count, 6)
    found = Model(classifier(batch).SerializeToString())(x)
    np.testing.assert_allclose(found, x @ drawn(6, 3), rtol=1e-4, atol=1e-5)


def test_sizes_of_one_example_that_a_free_size_leads_to_are_run_one_by_one() -> None:
    """Of a free batch, height and width, an exporter asks how large another map is: with the batch in it, which is then 1."""
    g = Graph(1, 3, 8, 8)
    small = g.conv("x", 3, 4, strides=[2, 2])
    sizes = g.add(
        "Concat",
        g.add("Slice", g.add("Shape", small), g.value(np.int64([0])), g.value(np.int64([2]))),
        g.add("Slice", g.add("Shape", "x"), g.value(np.int64([2])), g.value(np.int64([4]))),
        axis=0,
    )
    y = g.add("GlobalAveragePool", g.add("Concat", "x", g.add("Resize", small, "", "", sizes), axis=1))
    model = g.model(y)
    for axis, name in ((0, "n"), (2, "h"), (3, "w")):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    net = network.from_proto(model, "net.onnx", input_shapes={"x": (1, 3, 8, 8)}, accept=ops.accept("net.onnx"))
    whole = drawn(5, 3, 8, 8)
    got = Model(net.to_proto().SerializeToString())(whole)
    alone = onnxruntime.InferenceSession(model.SerializeToString())
    np.testing.assert_allclose(got, np.concatenate([alone.run(None, {"x": x[None]})[0] for x in whole]), rtol=1e-5)


def test_accuracy_is_the_share_of_right_labels(tmp_path: Path) -> None:
    x = drawn(50, 6)
    best = (x @ drawn(6, 3)).argmax(1)
    wrong = (best + (np.arange(50) % 5 == 0)) % 3
    (tmp_path / "net.onnx").write_bytes(classifier(8).SerializeToString())
    assert accuracy_of(tmp_path / "net.onnx", Split(x, best.astype(np.int64))) == 1.0
    assert accuracy_of(str(tmp_path / "net.onnx"), Split(x, wrong.astype(np.int64))) == 0.8


def test_maps_of_one_pixel_are_classes_too() -> None:
    assert accuracy(np.array([[[[1.0]], [[2.0]]], [[[3.0]], [[0.0]]]]), np.array([1, 1])) == 0.5


def test_a_file_that_onnxruntime_refuses_is_named(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"net.onnx: onnxruntime can't load it"):
        Model(tmp_path / "net.onnx")


# ------------------------------------------------------------------------------------------------------------ int8 files

#: Eight inputs in [0, 1] as uint8 would hold them, and weights as large as int8 is: the sum of two products is 2 x 255 x 127.
_N_IN, _N_OUT = 8, 4


def extreme() -> tuple[onnx.ModelProto, np.ndarray]:
    """An int8 Gemm whose pairs of products don't fit 16 bits, and its int8 weights (inputs, outputs)."""
    draw = np.random.default_rng(0)
    weights = draw.choice(np.array([-127, 127], np.int8), (_N_IN, _N_OUT))
    weights[:4] = 127
    # the output's step is such that no sum lies in the middle between two of them
    one, zero = np.float32(1 / 255), np.int8(-128)
    constants = {"w": weights, "sx": one, "zx": zero, "sw": np.float32(1 / 127), "zw": np.int8(0)}
    constants |= {"sy": np.float32(17 / 255), "zy": np.int8(0)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "sx", "zx"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "sx", "zx"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["wd"]),
        helper.make_node("MatMul", ["xd", "wd"], ["a"]),
        helper.make_node("QuantizeLinear", ["a", "sy", "zy"], ["aq"]),
        helper.make_node("DequantizeLinear", ["aq", "sy", "zy"], ["y"]),
    ]
    return graph(nodes, constants, (_N_IN,)), weights


def test_exact_mode_computes_int8_as_onnx_defines_it() -> None:
    """Against integers in numpy, on whatever processor this runs."""
    model, weights = extreme()
    x = np.random.default_rng(1).random((50, _N_IN)).astype(np.float32)
    x[:10] = 1.0
    stored = np.clip(np.rint(x / np.float32(1 / 255)), 0, 255).astype(np.int64)
    sums = stored @ weights.astype(np.int64) / (255 * 127)
    expected = np.clip(np.rint(sums / (17 / 255)), -128, 127) * (17 / 255)
    np.testing.assert_allclose(Model(model.SerializeToString())(x), expected, atol=1e-5)


def test_default_mode_is_what_a_session_without_options_gives() -> None:
    from test_export import MODELS, digits, written

    model, images = written(MODELS[-1]).SerializeToString(), digits(MODELS[-1])[2]
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    assert np.array_equal(Model(model, "default")(images), session.run(None, {"image": images})[0])


class Saturating:
    """A session whose sums of products saturate: what is large comes out as one and the same number."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self.get_inputs = session.get_inputs

    def run(self, names: None, fed: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [np.minimum(x, np.quantile(x, 0.3)) for x in self._session.run(names, fed)]


def measured(monkeypatch: pytest.MonkeyPatch, cured_by: set[str]) -> evaluate.Int8Metric:
    """A model of ours in exact mode, and by default on a processor where sessions without one of these options saturate."""
    from test_export import MODELS, written

    from mcuprune.data import loading as data

    real = evaluate.session

    def session(source: bytes, mode: str = "exact", **entries: str) -> object:
        found = real(source, mode, **entries)
        return found if mode == "exact" or cured_by & set(entries) else Saturating(found)

    monkeypatch.setattr(evaluate, "session", session)
    test = data.load("digits", input_shape=(1, 16, 16), n_classes=10, seed=0).test
    objective = classification(network.load(MODELS[-1]))
    return evaluate.int8_metric(written(MODELS[-1]).SerializeToString(), Split(test.x[:256], test.y[:256]), objective)


def test_a_session_that_saturates_is_measured_and_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(monkeypatch, {"session.qdqisint8allowed", "session.x64quantprecision"})
    assert found.exact.value > 0.95
    assert found.default_session.value < 0.5
    assert found.warning is not None
    assert f"right on {found.default_session.value:.1%} of the test set" in found.warning
    assert f"{found.exact.value:.1%}" in found.warning
    assert "set the session option session.x64quantprecision = 1 or session.qdqisint8allowed = 1" in found.warning


def test_an_option_that_does_not_help_is_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(monkeypatch, {"session.qdqisint8allowed"})
    assert found.warning is not None
    assert "set the session option session.qdqisint8allowed = 1, or" in found.warning
    assert "x64quantprecision" not in found.warning


def test_where_no_option_helps_the_kernels_are_not_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(monkeypatch, set())
    assert found.warning is not None
    assert "enlarges differences of rounding" in found.warning
    assert "option" not in found.warning.partition(":")[2]


@pytest.mark.parametrize("key", evaluate.REMEDIES)
def test_every_remedy_is_an_option_that_brings_the_exact_answer(key: str) -> None:
    """On this processor as on one without VNNI."""
    from test_export import MODELS, digits, written

    for path in MODELS:
        model, images = written(path).SerializeToString(), digits(path)[2]
        cured = Model(model, "default", **{key: evaluate.REMEDIES[key]})(images)
        assert evaluate.is_rounding(cured, Model(model)(images)), path.stem


@pytest.mark.parametrize(
    ("change", "rounding"),
    [
        (lambda y: y, True),
        (lambda y: y + 0.05, True),  # a step or two of an output in [0, 10)
        (lambda y: np.where(y > 6, 6, y), False),  # saturated
        (lambda y: np.roll(y, 1, axis=1) * 0.01 + y * 0.99, True),
        (lambda y: y[:, ::-1], False),  # other classes
    ],
)
def test_what_counts_as_rounding(change: Callable[[np.ndarray], np.ndarray], rounding: bool) -> None:
    exact = np.random.default_rng(0).random((500, 10)) * 4
    exact[np.arange(500), np.arange(500) % 10] += 5
    assert evaluate.is_rounding(change(exact), exact) == rounding


@pytest.mark.parametrize(
    ("of_float", "of_int8", "examples", "said"),
    [
        (Metric("accuracy", "accuracy", 0.79), Metric("accuracy", "accuracy", 0.5), 1200, True),
        (Metric("accuracy", "accuracy", 0.79), Metric("accuracy", "accuracy", 0.765), 100_000, False),
        (Metric("accuracy", "accuracy", 0.79), Metric("accuracy", "accuracy", 0.7), 100, False),
        (Metric("accuracy", "accuracy", 0.79), Metric("accuracy", "accuracy", 0.9), 1200, False),
        (Metric("mae", "mean absolute error", 2.0, "value", "lower"), Metric("mae", "error", 2.3, "value", "lower"), 50, True),
        (Metric("mae", "mean absolute error", 2.0, "value", "lower"), Metric("mae", "error", 2.1, "value", "lower"), 50, False),
    ],
)
def test_an_int8_file_that_is_clearly_worse_than_its_float_network_is_spoken_of(
    of_float: Metric, of_int8: Metric, examples: int, said: bool
) -> None:
    note = evaluate.rounding_loss(of_float, of_int8, examples)
    assert (note is not None) == said
    if note is not None:
        assert of_float.shown() in note
        assert of_int8.shown() in note


@pytest.mark.skipif(os.name != "posix", reason="names of files are text here")
def test_a_file_whose_name_is_no_utf8_is_run(tmp_path: Path) -> None:
    g = Graph("batch", 4)  # type: ignore[arg-type]
    path = tmp_path / os.fsdecode(b"net\xff.onnx")
    onnx.save(g.model(g.dense("x", 4, 3)), path)
    assert Model(path)(np.ones((2, 4), np.float32)).shape == (2, 3)
