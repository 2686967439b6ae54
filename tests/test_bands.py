"""A network in row bands computes what it computed before: against onnxruntime, and in TensorFlow Lite Micro's interpreter."""

from __future__ import annotations

import importlib.util

import numpy as np
import onnx
import pytest
from conftest import difference, feed, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from mcuprune import export, folding, network, ops, resources, runners, tflite
from mcuprune.bandplan import BandPlanner
from mcuprune.bands import MODES, Choice, banded
from mcuprune.errors import UnsupportedOperator
from mcuprune.integers import stored_again
from mcuprune.network import Network


class Stack:
    """A random network, written node by node. shape: of the last tensor, known from onnx's own inference."""

    def __init__(self, draw: st.DrawFn, rows: int, columns: int, channels: int) -> None:
        self.draw, self.random = draw, np.random.default_rng(draw(st.integers(0, 2**16)))
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.input = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, channels, rows, columns))
        self.shapes: dict[str, tuple[int, ...]] = {"x": (1, channels, rows, columns)}

    def constant(self, value: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), f"c{len(self.constants)}"))
        return self.constants[-1].name

    def add(self, op: str, *inputs: str, outputs: int = 1, **attrs: object) -> str:
        name = f"t{len(self.nodes)}"
        made = [name, *(f"{name}.{i}" for i in range(1, outputs))]
        self.nodes.append(helper.make_node(op, inputs, made, name=f"n{len(self.nodes)}", **attrs))
        self.shapes.update(self.inferred(*made))
        return name

    def inferred(self, *names: str) -> dict[str, tuple[int, ...]]:
        model = onnx.shape_inference.infer_shapes(self.model(*names), strict_mode=True, data_prop=True)
        found = [*model.graph.value_info, *model.graph.output]
        return {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in found if v.name in names}

    def model(self, *outputs: str) -> onnx.ModelProto:
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, self.shapes.get(name)) for name in outputs]
        graph = helper.make_graph(self.nodes, "stack", [self.input], values, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    # ----------------------------------------------------------------------------------------------------- the layers

    def padding(self, kernel: list[int], strides: list[int], dilations: list[int], shape: tuple[int, ...]) -> dict[str, object]:
        """One of ONNX's ways to pad, with windows that fit the image."""
        spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        plain = dilations == [1, 1] and all(s <= k for s, k in zip(strides, kernel, strict=True))
        ways = ["SAME_UPPER", "SAME_LOWER", "explicit"] if plain else ["explicit"]
        way = self.draw(st.sampled_from(ways))
        if way != "explicit":
            return {"auto_pad": way}
        pads = [self.draw(st.integers(0, span - 1)) for span in (*spans, *spans)]
        for axis in range(2):  # at least one window
            lacking = spans[axis] - shape[2 + axis] - pads[axis] - pads[2 + axis]
            for side in (axis, 2 + axis):
                more = min(max(0, lacking), spans[axis] - 1 - pads[side])
                pads[side] += more
                lacking -= more
        return {"pads": pads}

    def conv(self, x: str, n_out: int | None = None, *, same: bool = False) -> str:
        shape = self.shapes[x]
        kernel = [self.draw(st.integers(1, 7)), self.draw(st.integers(1, 3))]
        depthwise = n_out is None and self.draw(st.booleans())
        n_out = shape[1] if depthwise else n_out or self.draw(st.integers(1, 4))
        strides, dilations = [1, 1], [1, 1]
        if not same:
            strides = [self.draw(st.integers(1, 3)), self.draw(st.integers(1, 2))]
            if strides == [1, 1]:
                dilations = [self.draw(st.integers(1, 2)), self.draw(st.integers(1, 2))]
        pads: dict[str, object] = {"auto_pad": self.draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER"]))}
        if not same:
            pads = self.padding(kernel, strides, dilations, shape)
        groups = shape[1] if depthwise else 1
        weight = self.constant(self.random.normal(size=(n_out, shape[1] // groups, *kernel)).astype(np.float32))
        bias = self.constant(self.random.normal(size=n_out).astype(np.float32))
        y = self.add("Conv", x, weight, bias, kernel_shape=kernel, strides=strides, dilations=dilations, group=groups, **pads)
        return self.add("Relu", y) if self.draw(st.booleans()) else y

    def pool(self, x: str) -> str:
        op = self.draw(st.sampled_from(["MaxPool", "AveragePool"]))
        kernel = [self.draw(st.integers(1, 4)), self.draw(st.integers(1, 3))]
        strides = [self.draw(st.integers(1, 3)), self.draw(st.integers(1, 2))]
        attrs = self.padding(kernel, strides, [1, 1], self.shapes[x])
        if "pads" in attrs and op == "AveragePool":
            attrs["count_include_pad"] = self.draw(st.integers(0, 1))
        return self.add(op, x, kernel_shape=kernel, strides=strides, **attrs)

    def residual(self, x: str) -> str:
        return self.add("Add", x, self.conv(x, self.shapes[x][1], same=True))

    def joined(self, x: str) -> str:
        parts = [self.conv(x, self.draw(st.integers(1, 3)), same=True) for _ in range(2)]
        return self.add("Concat", *parts, *([x] if self.draw(st.booleans()) else []), axis=1)

    def padded(self, x: str) -> str:
        pads = [0, 0, *(self.draw(st.integers(0, 2)) for _ in range(2))] * 2
        y = self.add("Pad", x, self.constant(np.array(pads, np.int64)))
        return self.conv(y) if self.draw(st.booleans()) else y

    def shuffled(self, x: str) -> str:
        n, c, h, w = self.shapes[x]
        y = self.add("Reshape", x, self.constant(np.array([n, 1, c, h, w], np.int64)))
        y = self.add("Transpose", y, perm=[0, 2, 1, 3, 4])
        return self.add("Reshape", y, self.constant(np.array([n, c, h, w], np.int64)))

    def enlarged(self, x: str) -> str:
        scales = self.constant(np.array([1, 1, 2, 2], np.float32))
        how = self.draw(st.sampled_from([("half_pixel", "round_prefer_floor"), ("asymmetric", "floor")]))
        attrs = dict(zip(("coordinate_transformation_mode", "nearest_mode"), how, strict=True))
        return self.add("Resize", x, "", scales, mode="nearest", **attrs)

    def activation(self, x: str) -> str:
        return self.add(self.draw(st.sampled_from(["Sigmoid", "Relu", "HardSwish"])), x)

    def normalised(self, x: str) -> str:
        n = self.shapes[x][1]
        scale, shift, mean = (self.constant(self.random.normal(size=n).astype(np.float32)) for _ in range(3))
        return self.add("BatchNormalization", x, scale, shift, mean, self.constant(np.full(n, 1.5, np.float32)))

    def cut_off(self, x: str) -> str:
        rows = self.shapes[x][2]
        first = self.draw(st.integers(0, rows // 4))
        bounds = ([first], [rows - self.draw(st.integers(0, rows // 4))], [2])
        return self.add("Slice", x, *(self.constant(np.array(one, np.int64)) for one in bounds))


LAYERS = ["conv", "conv", "conv", "pool", "residual", "residual", "joined", "padded", "shuffled", "enlarged", "activation"]


@st.composite
def stacks(draw: st.DrawFn, layers: tuple[str, ...] = (*LAYERS, "normalised", "cut_off")) -> onnx.ModelProto:
    stack = Stack(draw, draw(st.integers(5, 21)), draw(st.integers(3, 8)), draw(st.integers(1, 3)))
    x = stack.conv("x") if draw(st.booleans()) else "x"
    for _ in range(draw(st.integers(1, 5))):
        if min(stack.shapes[x][2:]) < 3 or max(stack.shapes[x][2:]) > 40:
            break
        x = getattr(stack, draw(st.sampled_from(layers)))(x)
    return stack.model(stack.conv(x))


def loaded(model: onnx.ModelProto) -> Network:
    return network.from_proto(model, "net.onnx", accept=ops.accept("net.onnx"))


def some_choices(planner: BandPlanner, draw: st.DrawFn) -> list[Choice]:
    """One region in bands or several, one behind the other."""
    found: list[Choice] = []
    place, last = 0, len(planner.graph.cuts) - 1
    while place < last:
        ends = planner.ends(place)
        if not ends:
            place += 1
            continue
        end = draw(st.sampled_from(ends))
        choice = planner.choice(place, end, draw(st.integers(2, 8)), draw(st.sampled_from(MODES)))
        if choice is not None:
            found.append(choice)
        place = end
    return found


def as_int8(net: Network, x: dict[str, np.ndarray]) -> Network:
    """The network quantised by the ranges of one example."""
    net = folding.folded(net)
    plan = export.scheme(net)
    names = [name for name in plan.quantizer if name not in net.inputs]
    model = net.to_proto()
    del model.graph.output[:]
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    model = onnx.shape_inference.infer_shapes(model)
    seen = {**x, **dict(zip(names, run(model, x), strict=True))}
    low: dict[str, float] = {}
    high: dict[str, float] = {}
    for tensor, quantizer in plan.quantizer.items():
        low[quantizer] = min(low.get(quantizer, 0.0), float(seen[tensor].min()))
        high[quantizer] = max(high.get(quantizer, 0.0), float(seen[tensor].max()))
    quantizers = {
        name: export.Quantizer(export.UNIT_SCALE, export.LOW) if name in plan.unit else export.quantizer(low[name], high[name])
        for name in low
    }
    return export.quantized(net, plan, quantizers)


def check_float(model: onnx.ModelProto, draw: st.DrawFn) -> None:
    planner = BandPlanner(loaded(model))
    choices = some_choices(planner, draw)
    x = feed(model, seed=1)
    made = banded(planner.net, choices)
    onnx.checker.check_model(made.to_proto(), full_check=True)
    assert difference(run(made, x), run(model, x)) < 1e-5
    before, after = resources.profile(planner.net), resources.profile(made)
    assert after.total["macs"] - before.total["macs"] == sum(choice.price.macs for choice in choices)
    assert after.total["flash"] == before.total["flash"]
    for choice in choices:
        assert choice.mode != "cache" or choice.price.macs <= 0  # rows that nothing reads aren't made
    plan = planner.plan(choices)
    assert after.memory.peak <= plan.peak
    assert after.memory.file_order <= max(plan.peak, before.memory.file_order)


def check_int8(model: onnx.ModelProto, draw: st.DrawFn) -> None:
    x = feed(model, seed=1)
    plain = as_int8(loaded(model), x).to_proto()
    planner = BandPlanner(loaded(plain))
    made = stored_again(banded(planner.net, some_choices(planner, draw)).to_proto(), plain)
    onnx.checker.check_model(made, full_check=True)
    for one, other in zip(run(made, x), run(plain, x), strict=True):
        assert np.array_equal(one, other)
    in_tflm = [answers(proto, x) for proto in (plain, made)]
    assert in_tflm[0] is None or np.array_equal(in_tflm[0], in_tflm[1])


def answers(model: onnx.ModelProto, x: dict[str, np.ndarray]) -> np.ndarray | None:
    """The integers that TensorFlow Lite Micro makes; None where it isn't installed or lacks an operator."""
    if importlib.util.find_spec("tflite_micro") is None:
        return None
    try:
        converted = tflite.convert(loaded(model), tflite.stored_constants(model))
    except UnsupportedOperator:
        return None
    (port,) = converted.inputs
    integers = port.to_tflite(runners.stored(x[port.name], port).astype(np.int8))
    (found,) = runners.RUNNERS["tflm"].interpret(converted.content, [[integers]], 1, 1 << 22)
    return np.asarray(found[0])


QUICK = settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
THOROUGH = settings(max_examples=500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@QUICK
@given(stacks(), st.data())
def test_random_stacks_in_bands_compute_the_same(model, data):
    check_float(model, data.draw)


@QUICK
@given(stacks(LAYERS), st.data())
def test_random_stacks_in_bands_make_the_same_integers(model, data):
    check_int8(model, data.draw)


@pytest.mark.slow
@THOROUGH
@given(stacks(), st.data())
def test_many_random_stacks_in_bands_compute_the_same(model, data):
    check_float(model, data.draw)


@pytest.mark.slow
@THOROUGH
@given(stacks(LAYERS), st.data())
def test_many_random_stacks_in_bands_make_the_same_integers(model, data):
    check_int8(model, data.draw)
