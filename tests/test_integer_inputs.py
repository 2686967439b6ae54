"""Networks that take integers, as images of bytes: prune and export take them as floats, which compute the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import difference, run
from graphs import Graph
from onnx import TensorProto, helper, numpy_helper

from mcuprune import inspecting, pruning, units
from mcuprune.data.feed import Feed
from mcuprune.errors import UnsupportedOperator
from mcuprune.graph import network
from mcuprune.graph.network import Network
from mcuprune.operators import table as ops
from mcuprune.passes.canonical import canonical
from mcuprune.passes.inputs import with_float_inputs

TYPES = {"uint8": TensorProto.UINT8, "int8": TensorProto.INT8, "int64": TensorProto.INT64}


def model(dtype: str, way: str) -> onnx.ModelProto:
    """A small network whose input of integers becomes floats in some way."""
    g = Graph(1, *((8, 8, 3) if "last" in way else (3, 8, 8)))
    y = "x"
    if "last" in way:
        y = g.add("Transpose", y, perm=[0, 3, 1, 2])
    if "dequantised" in way:
        y = g.add("DequantizeLinear", y, g.value(np.float32(1 / 64)), g.value(np.array(3, dtype)))
    elif "sum" in way:
        y = g.add("Cast", g.add("Add", y, y), to=1)
    else:
        y = g.add("Mul", g.add("Cast", y, to=1), g.value(np.float32(1 / 255)))
    y = g.add("Relu", g.conv(g.add("Relu", g.conv(y, 3, 8)), 8, 6))
    made = g.model(g.classifier(y, 6, 4))
    made.graph.input[0].type.tensor_type.elem_type = TYPES[dtype]
    return made


def loaded(made: onnx.ModelProto) -> Network:
    return network.from_proto(made, "net.onnx", accept=ops.accept("net.onnx"))


WAYS = [
    ("uint8", "cast"),
    ("uint8", "cast channels last"),
    ("int8", "dequantised"),
    ("uint8", "dequantised"),
    ("int64", "cast"),
]


@pytest.mark.parametrize(("dtype", "way"), WAYS)
def test_floats_in_place_of_integers_compute_the_same(dtype: str, way: str) -> None:
    made = model(dtype, way)
    net, notes = with_float_inputs(loaded(made))
    assert net.dtypes["x"] == TensorProto.FLOAT
    assert dtype in notes[0]
    low, high = (0, 256) if dtype != "int8" else (-128, 128)
    integers = np.random.default_rng(0).integers(low, high, net.shapes["x"]).astype(dtype)
    reals = (integers.astype(np.float32) - 3) / 64 if way == "dequantised" else integers.astype(np.float32)
    assert difference(run(net, {"x": reals}), run(made, {"x": integers})) < 1e-6
    fit, told = canonical(loaded(made))
    assert told == notes
    assert not {node.op for node in fit.nodes} & {"QuantizeLinear", "DequantizeLinear", "Cast"}
    assert difference(run(fit, {"x": reals}), run(made, {"x": integers})) < 1e-5
    assert with_float_inputs(net) == (net, ())


@pytest.mark.parametrize(("dtype", "way"), WAYS)
def test_a_network_of_integers_is_cut_and_quantised(dtype: str, way: str, tmp_path: Path) -> None:
    """Without data its int8 input has the range that 8 bits say: the pixels themselves."""
    onnx.save(model(dtype, way), tmp_path / "net.onnx")
    out = str(tmp_path / "out.onnx")
    limits = {"macs": units.parse("60%", "count")}
    result = pruning.prune(pruning.Request(str(tmp_path / "net.onnx"), limits, out, train=False))
    assert result.after.total["macs"] <= 0.6 * result.before.total["macs"]
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(out).graph.initializer}
    first = next(node for node in onnx.load(out).graph.node if node.op_type == "QuantizeLinear" and node.input[0] == "x")
    scale, zero = (float(arrays[name].item()) for name in first.input[1:])
    if dtype != "int64":
        lowest = 0 if dtype == "uint8" else -128
        reals = (1.0, 0) if way != "dequantised" else (1 / 64, 3)
        assert scale == pytest.approx(reals[0], rel=1e-3)
        assert zero == -128 - lowest + reals[1]


def test_a_network_of_bytes_is_trained_and_looked_at_with_data(tmp_path: Path) -> None:
    onnx.save(model("uint8", "cast"), tmp_path / "net.onnx")
    draw = np.random.default_rng(0)
    y = np.arange(160) % 4
    x = np.clip(draw.integers(0, 100, (160, 3, 8, 8)) + 45 * y.reshape(-1, 1, 1, 1), 0, 255).astype(np.uint8)
    parts = {"x_train": x[:120], "y_train": y[:120], "x_test": x[120:], "y_test": y[120:]}
    np.savez(tmp_path / "data.npz", **parts)
    seen = inspecting.inspect(network.load(tmp_path / "net.onnx"), str(tmp_path / "data.npz"), Feed())
    assert seen.fed.high == x.max()
    limits, out = {"macs": units.parse("60%", "count")}, str(tmp_path / "out.onnx")
    asked = pruning.Request(str(tmp_path / "net.onnx"), limits, out, data=str(tmp_path / "data.npz"), epochs=1)
    assert pruning.prune(asked).accuracy_int8 is not None


@pytest.mark.parametrize("way", ["sum", "dequantised"])
def test_other_integers_stay_and_are_pruned_or_refused_before_the_work(way: str, tmp_path: Path) -> None:
    made = model("int8", way)
    if way == "dequantised":  # by one scale for each channel
        for tensor in made.graph.initializer:
            if tensor.name in made.graph.node[0].input[1:]:
                array = numpy_helper.to_array(tensor)
                tensor.CopyFrom(numpy_helper.from_array(np.repeat(array.reshape(1), 3), tensor.name))
        made.graph.node[0].attribute.append(helper.make_attribute("axis", 1))
    net = loaded(made)
    assert with_float_inputs(net) == (net, ())
    onnx.save(made, tmp_path / "net.onnx")
    out = tmp_path / "out.onnx"
    asked = pruning.Request(str(tmp_path / "net.onnx"), {"macs": units.parse("60%", "count")}, str(out), train=False)
    if way == "sum":
        assert pruning.prune(asked).ok
        return
    with pytest.raises(UnsupportedOperator, match="DequantizeLinear"):
        pruning.prune(asked)
    assert not out.exists()


def test_an_embedding_of_tokens_is_refused_with_what_to_do_about_it() -> None:
    g = Graph(1, 12)
    made = g.model(g.add("ReduceMean", g.add("Gather", g.constant(50, 8), "x", axis=0), axes=[1], keepdims=0))
    made.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    with pytest.raises(UnsupportedOperator, match=r"look the rows of the table up in your own code"):
        loaded(made)
