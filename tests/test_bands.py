"""A network in row bands computes what it computed before: against onnxruntime, and in TensorFlow Lite Micro's interpreter."""

from __future__ import annotations

import importlib.util
import json
import time
from itertools import pairwise

import numpy as np
import onnx
import pytest
from conftest import CORPUS_SHAPES, corpus, difference, feed, run, runtimes_here, thorough_but
from graphs import Graph, resnet8
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from mcuprune import cli, units
from mcuprune.bands.integers import stored_again
from mcuprune.bands.plan import COUNTS, BandPlanner
from mcuprune.bands.rewrite import banded, without_pads
from mcuprune.bands.tape import MODES, MOST_JOINED, Choice, least_peak
from mcuprune.costs import resources
from mcuprune.costs.banding import Banding, in_bands, sram_of
from mcuprune.costs.embedding import sums
from mcuprune.deploy import qdq as export
from mcuprune.deploy import tflite
from mcuprune.errors import UnsupportedOperator
from mcuprune.graph import network
from mcuprune.graph.network import Network
from mcuprune.operators import table as ops
from mcuprune.operators.fusion import buffers
from mcuprune.passes import batchnorm as folding
from mcuprune.report import bands as banding
from mcuprune.run import runners


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
    quantizers = {name: plan.fixed.get(name) or export.quantizer(low[name], high[name]) for name in low}
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
        assert least_peak(choice.region, choice.bands, choice.mode) <= choice.price.peak
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
        converted = tflite.convert(loaded(model))
    except UnsupportedOperator:
        return None
    with runtimes_here():
        ran = runners.run("tflm", converted, [x], "bands.onnx", limit=1 << 22)
    return np.asarray(ran.outputs[converted.outputs[0].name][0])


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


@settings(QUICK, max_examples=40)
@given(stacks(("conv", "pool", "pool")), st.data())
def test_random_pools_in_bands_make_the_same_integers(model, data):
    check_int8(model, data.draw)


@pytest.mark.slow
@THOROUGH
@given(stacks(), st.data())
def test_many_random_stacks_in_bands_compute_the_same(model, data):
    check_float(model, data.draw)


@pytest.mark.slow
@THOROUGH
@given(stacks(LAYERS) | stacks(("conv", "pool", "pool")), st.data())
def test_many_random_stacks_in_bands_make_the_same_integers(model, data):
    check_int8(model, data.draw)


# ------------------------------------------------------------------------------------------------------ forms of networks


class Net:
    """A network of a few nodes, written by hand."""

    def __init__(self, *shape: int, dtype: int = TensorProto.FLOAT, opset: int = 17) -> None:
        self.random, self.opset = np.random.default_rng(0), opset
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs = [helper.make_tensor_value_info("x", dtype, shape)]

    def constant(self, value: object, dtype: type = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def weights(self, *shape: int) -> str:
        return self.constant(self.random.normal(size=shape))

    def add(self, op: str, *inputs: str, name: str | None = None, outputs: int = 1, **attrs: object) -> str:
        name = name or f"{op}{len(self.nodes)}"
        made = [name, *(f"{name}.{i}" for i in range(1, outputs))]
        self.nodes.append(helper.make_node(op, inputs, made, name=f"{name}/node", **attrs))
        return name

    def conv(self, x: str, n_in: int, n_out: int, kernel: int = 3, **attrs: object) -> str:
        pads = attrs.pop("pads", [kernel // 2] * 4)
        return self.add("Conv", x, self.weights(n_out, n_in, kernel, kernel), self.weights(n_out), pads=pads, **attrs)

    def quantized(self, x: str, scale: float = 0.05, zero: int = 3, dtype: type = np.int8) -> tuple[str, str]:
        parameters = self.constant(scale), self.constant(zero, dtype)
        stored = self.add("QuantizeLinear", x, *parameters)
        return stored, self.add("DequantizeLinear", stored, *parameters)

    def model(self, *outputs: str) -> onnx.ModelProto:
        values = [helper.make_empty_tensor_value_info(name) for name in outputs]
        graph = helper.make_graph(self.nodes, "net", self.inputs, values, self.constants)
        opset = [helper.make_opsetid("", self.opset)]
        return onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=opset, ir_version=8))


def channels_last() -> onnx.ModelProto:
    net = Net(1, 12, 10, 2)
    y = net.conv(net.add("Transpose", "x", perm=[0, 3, 1, 2]), 2, 4)
    y = net.add("Relu", net.conv(y, 4, 3, strides=[2, 2]))
    return net.model(net.add("Transpose", y, perm=[0, 2, 3, 1]))


def one_dimensional() -> onnx.ModelProto:
    net = Net(1, 3, 40)
    y = net.add("Conv", "x", net.weights(4, 3, 5), pads=[8, 8], dilations=[2])  # a causal convolution: padded, then cut off
    y = net.add("Slice", y, net.constant([0], np.int64), net.constant([-8], np.int64), net.constant([2], np.int64))
    return net.model(net.add("Conv", net.add("Relu", y), net.weights(2, 4, 3), pads=[1, 1]))


def pooled(op: str, **attrs: object) -> onnx.ModelProto:
    net = Net(1, 2, 12, 9)
    y = net.add(op, net.conv("x", 2, 3), kernel_shape=[3, 2], **attrs)
    return net.model(net.conv(y, 3, 2))


def integers_all_along() -> onnx.ModelProto:
    """int8 comes in, a pool works on integers, and a DequantizeLinear has no zero point."""
    net = Net(1, 2, 12, 8, dtype=TensorProto.INT8)
    scale = net.constant(0.1)
    y = net.conv(net.add("DequantizeLinear", "x", scale), 2, 4)
    stored, _ = net.quantized(net.add("Relu", y), 0.03, -128)
    pooled = net.add("MaxPool", stored, kernel_shape=[3, 3], strides=[2, 2])
    y = net.add("DequantizeLinear", pooled, net.constant(0.03), net.constant(-128, np.int8))
    return net.model(net.quantized(net.conv(y, 4, 2), 0.1)[1])


def quantized_twice() -> onnx.ModelProto:
    """A tensor in one scale and then in another; two DequantizeLinear of the same integers."""
    net = Net(1, 2, 12, 8)
    _, y = net.quantized(net.conv(net.quantized("x")[1], 2, 4), 0.04)
    stored, left = net.quantized(y, 0.11, -7)
    right = net.add("DequantizeLinear", stored, net.constant(0.11), net.constant(-7, np.int8))
    both = net.add("Add", net.conv(left, 4, 4), net.conv(right, 4, 4, 1))
    return net.model(net.quantized(net.conv(net.quantized(both, 0.2)[1], 4, 2), 0.2)[1])


def integers_going_out() -> onnx.ModelProto:
    net = Net(1, 2, 12, 8)
    y = net.quantized(net.add("Relu", net.conv(net.quantized("x")[1], 2, 4)), 0.04)[1]
    return net.model(net.quantized(net.conv(y, 4, 2), 0.2, 0, np.uint8)[0])


def padded_first(*, quantized: bool) -> onnx.ModelProto:
    """A zero Pad in front of a convolution that strides, with and without a quantiser between them."""
    net = Net(1, 2, 12, 8)
    x = net.quantized("x")[1] if quantized else "x"
    y = net.add("Pad", x, net.constant([0, 0, 0, 0, 0, 0, 1, 1], np.int64))
    y = net.conv(net.quantized(y)[1] if quantized else y, 2, 4, pads=[0] * 4, strides=[2, 2])
    y = net.quantized(y, 0.1)[1] if quantized else y
    return net.model(net.conv(y, 4, 3))


def split_and_shuffled() -> onnx.ModelProto:
    net = Net(1, 4, 12, 8)
    left = net.add("Split", net.conv("x", 4, 4), outputs=2, axis=1)
    y = net.add("Concat", left, net.conv(f"{left}.1", 2, 2), axis=1)
    y = net.add("Reshape", y, net.constant([1, 2, 2, 12, 8], np.int64))
    y = net.add("Reshape", net.add("Transpose", y, perm=[0, 2, 1, 3, 4]), net.constant([1, 4, -1, 8], np.int64))
    return net.model(net.conv(y, 4, 2))


def dense_blocks() -> onnx.ModelProto:
    """Skips that reach past one another."""
    net = Net(1, 2, 16, 8)
    x = net.conv("x", 2, 2)
    one = net.add("Concat", x, net.conv(x, 2, 2), axis=1)
    two = net.add("Concat", one, net.conv(one, 4, 2, 5), axis=1)
    return net.model(net.conv(net.add("Relu", two), 6, 3, strides=[2, 2]))


def read_by_twins() -> onnx.ModelProto:
    """Integers that each reader dequantises for itself, as in files of quantised operators: x * sigmoid(x)."""
    net = Net(1, 2, 12, 8)
    stored, first = net.quantized(net.conv("x", 2, 4))
    _, gate = net.quantized(net.add("Sigmoid", first), 1 / 256, -128)
    parameters = net.nodes[-4].input[1:]
    second = net.add("DequantizeLinear", stored, *parameters)
    _, y = net.quantized(net.add("Mul", second, gate))
    _, z = net.quantized(net.conv(y, 4, 3, strides=[2, 2]))
    return net.model(z)


def old_opset() -> onnx.ModelProto:
    net = Net(1, 2, 12, 8, opset=9)
    return net.model(net.conv(net.add("MaxPool", net.conv("x", 2, 3), kernel_shape=[2, 2], strides=[2, 2]), 3, 2))


def activated_view(*, sliced: bool = False) -> onnx.ModelProto:
    """An activation behind a view: in bands it may not write over what a later band reads again."""
    net = Net(1, 1, 4, 3)
    y = net.conv("x", 1, 3, 1)
    if sliced:  # of all rows, where a band needs all of them
        y = net.add("Slice", y, net.constant([0], np.int64), net.constant([4], np.int64), net.constant([2], np.int64))
        y = net.add("Slice", y, net.constant([0], np.int64), net.constant([4], np.int64), net.constant([2], np.int64))
    else:
        y = net.add("Reshape", y, net.constant([1, 1, 3, -1, 3], np.int64))
        y = net.add("Reshape", net.add("Transpose", y, perm=[0, 2, 1, 3, 4]), net.constant([1, 3, -1, 3], np.int64))
    return net.model(net.conv(net.add("Sigmoid", y), 3, 1, 7, pads=[3] * 4, strides=[2, 1]))


FORMS = {
    "channels last": channels_last,
    "one dimension": one_dimensional,
    "MaxPool ceil_mode": lambda: pooled("MaxPool", strides=[2, 2], ceil_mode=1),
    "AveragePool counting": lambda: pooled("AveragePool", pads=[1, 1, 2, 0], count_include_pad=1),
    "integers": integers_all_along,
    "quantised twice": quantized_twice,
    "integers out": integers_going_out,
    "Pad": lambda: padded_first(quantized=False),
    "Pad and quantiser": lambda: padded_first(quantized=True),
    "Split and shuffle": split_and_shuffled,
    "dense": dense_blocks,
    "opset 9": old_opset,
    "each dequantises for itself": read_by_twins,
    "activated view": activated_view,
    "activated Slice": lambda: activated_view(sliced=True),
}


def example(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """One input of the model's type: whole numbers, or numbers of about one."""
    tensor = model.graph.input[0].type.tensor_type
    whole = np.random.default_rng(0).integers(-100, 100, [dim.dim_value for dim in tensor.shape.dim])
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    return {"x": (whole / 50 if dtype == np.float32 else whole).astype(dtype)}


def alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two runs gave the same: integers exactly, floats but for the order in which a convolution adds up.

    onnxruntime may take another order for another height, on Arm more often than on x86. A step of a quantiser on the way would
    be a thousand times what is allowed.
    """
    if one.dtype.kind != "f":
        return np.array_equal(one, other)
    return bool(np.abs(one - other).max() <= 2e-6 * np.abs(other).max())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_in_bands_computes_the_same(form, mode):
    model = FORMS[form]()
    planner = BandPlanner(loaded(model))
    x = example(model)
    last = len(planner.graph.cuts) - 1
    assert planner.ends(0)[-1:] == [last], "one region holds it all"
    for end in planner.ends(0):
        for count in (2, 3, 5):
            choice = planner.choice(0, end, count, mode)
            made = stored_again(banded(planner.net, [choice]).to_proto(), model)
            onnx.checker.check_model(made, full_check=True)
            for one, other in zip(run(made, x), run(model, x), strict=True):
                assert one.shape == other.shape
                assert one.dtype == other.dtype
                assert alike(one, other)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", FORMS)
def test_every_region_of_every_form_takes_no_more_than_planned(form, mode):
    planner = BandPlanner(loaded(FORMS[form]()))
    for start in range(len(planner.graph.cuts) - 1):
        for end in planner.ends(start):
            choice = planner.choice(start, end, 2, mode)
            if choice is not None:
                assert resources.profile(banded(planner.net, [choice])).memory.peak <= planner.plan([choice]).peak


@pytest.mark.parametrize("quantized", [False, True])
def test_a_zero_pad_goes_into_the_convolution_behind_it(quantized):
    model = padded_first(quantized=quantized)
    net = loaded(model)
    folded = without_pads(net)
    assert not any(node.op == "Pad" for node in folded.nodes)
    assert len(folded.nodes) == len(net.nodes) - 1
    assert next(node for node in folded.nodes if node.op == "Conv").attrs["pads"] == (0, 0, 1, 1)
    x = example(model)
    assert alike(run(stored_again(folded.to_proto(), model), x)[0], run(model, x)[0])


@pytest.mark.parametrize("why", ["value", "channels", "reflect", "read twice", "SAME"])
def test_other_pads_stay(why):
    net = Net(1, 2, 12, 8)
    amounts = net.constant([0, 0, 1, 1, 0, int(why == "channels"), 1, 1], np.int64)
    mode = {"mode": "reflect"} if why == "reflect" else {}
    y = net.add("Pad", "x", amounts, *([net.constant(0.5)] if why == "value" else []), **mode)
    pads = {"auto_pad": "SAME_UPPER"} if why == "SAME" else {"pads": [0] * 4}
    z = net.add("Conv", y, net.weights(2, 3 if why == "channels" else 2, 3, 3), **pads)
    model = net.model(z, *([net.add("Relu", y)] if why == "read twice" else []))
    assert any(node.op == "Pad" for node in without_pads(loaded(model)).nodes)


# ------------------------------------------------------------------------------------------------------------------ plans


def wide_then_narrow() -> onnx.ModelProto:
    """Two wide places, a residual block, and a head that reads every row."""
    net = Net(1, 3, 32, 32)
    y = net.add("Relu", net.conv("x", 3, 16, strides=[2, 2]))
    y = net.add("Relu", net.conv(y, 16, 48, 1, pads=[0] * 4))
    y = net.conv(y, 48, 8, strides=[2, 2])
    y = net.add("Add", y, net.conv(net.add("Relu", net.conv(y, 8, 32, 1, pads=[0] * 4)), 32, 8))
    y = net.add("Relu", net.conv(y, 8, 12, strides=[2, 2]))
    y = net.add("Flatten", net.add("GlobalAveragePool", y, name="pool"))
    return net.model(net.add("Gemm", y, net.weights(12, 5), net.weights(5)))


@pytest.mark.parametrize("name", ["wide then narrow", "residual"])
def test_the_cheapest_plan_is_no_dearer_than_any_single_region(name):
    """What a region needs doesn't always fall with more bands: where rows are added, two may need less than three."""
    planner = BandPlanner(resnet8() if name == "residual" else loaded(wide_then_narrow()))
    every = [planner.plain]
    for start in range(len(planner.graph.cuts)):
        for end in planner.ends(start):
            for count in COUNTS:
                for mode in ("cache", "recompute"):
                    choice = planner.choice(start, end, count, mode)
                    every += [planner.plan([choice])] if choice is not None else []
    for limit in sorted({plan.peak for plan in every})[::10]:
        wanted = min(plan.cost for plan in every if plan.peak <= limit)
        found = planner.cheapest(limit)
        assert found is not None
        assert found.peak <= limit
        assert found.cost <= wanted


def test_plans_need_less_and_cost_more_from_one_to_the_next():
    plans = BandPlanner(loaded(wide_then_narrow())).pareto()
    assert len(plans) > 3
    assert not plans[0].choices
    for before, after in pairwise(plans):
        assert after.peak < before.peak
        assert after.cost > before.cost


def test_a_plan_promises_no_less_than_the_written_network_needs():
    planner = BandPlanner(loaded(wide_then_narrow()))
    for plan in planner.pareto():
        measured = resources.profile(planner.written(plan))
        assert measured.memory.peak <= plan.peak
        assert measured.memory.file_order == plan.peak
        assert measured.total["macs"] == resources.profile(planner.net).total["macs"] + plan.macs


def test_rows_that_nothing_reads_are_no_reason_for_more_operators():
    net = Net(1, 2, 24, 8)
    y = net.add("Relu", net.conv(net.conv("x", 2, 16), 16, 2))
    bounds = (net.constant([0], np.int64), net.constant([15], np.int64), net.constant([2], np.int64))
    planner = BandPlanner(loaded(net.model(net.conv(net.add("Slice", y, *bounds), 2, 2))))
    plans = planner.pareto()
    assert not plans[0].choices
    assert any(plan.macs < 0 for plan in plans[1:])
    assert planner.cheapest(plans[0].peak) == plans[0]


def test_nothing_is_found_below_what_the_input_needs():
    planner = BandPlanner(loaded(wide_then_narrow()))
    assert planner.cheapest(3 * 32 * 32 - 1) is None


def test_names_have_a_suffix_and_weights_are_shared():
    planner = BandPlanner(loaded(wide_then_narrow()))
    net = planner.written(planner.least())
    copies = [node for node in net.nodes if node.op == "Conv" and node.name.startswith("Conv0/node/band")]
    assert len(copies) > 1
    assert len({node.inputs[1:] for node in copies}) == 1
    assert [node.name for node in copies] == [f"Conv0/node/band{index}" for index in range(len(copies))]
    names = [node.name for node in net.nodes]
    assert len(set(names)) == len(names)


def test_names_that_are_taken_get_a_number():
    model = wide_then_narrow()
    model.graph.node[1].output[0] = model.graph.node[2].input[0] = "Conv0/band1"
    planner = BandPlanner(loaded(model))
    made = planner.written(planner.least())
    onnx.checker.check_model(made.to_proto(), full_check=True)
    assert difference(run(made, example(model)), run(model, example(model))) < 1e-5


def test_what_ends_a_region_is_named():
    (ending,) = BandPlanner(loaded(wide_then_narrow())).graph.endings()
    assert (ending.node, ending.op, ending.why) == ("pool/node", "GlobalAveragePool", "reads every row")
    assert ending.sram == 12 * 16 + 12


@pytest.mark.parametrize(
    "padding", [{"auto_pad": "SAME_UPPER"}, {"pads": [1, 0, 1, 0]}, {"pads": [0, 0, 0, 1]}, {"strides": [2, 2], "ceil_mode": 1}]
)
def test_an_average_that_leaves_its_padding_out_ends_a_region(padding):
    """TensorFlow Lite has no such average for some of the rows, and makes other integers without padding."""
    (ending,) = BandPlanner(loaded(pooled("AveragePool", **padding))).graph.endings()
    assert ending.op == "AveragePool"
    assert "without counting its padding" in ending.why


def squeeze_and_excite() -> onnx.ModelProto:
    net = Net(1, 3, 24, 24)
    y = net.conv("x", 3, 12)
    gate = net.add("GlobalAveragePool", y, name="squeeze")
    y = net.add("Mul", y, net.add("Sigmoid", net.conv(gate, 12, 12, 1, pads=[0] * 4)))
    return net.model(net.conv(net.conv(y, 12, 24), 24, 2, strides=[4, 4]))


def test_a_region_begins_again_behind_a_squeeze_and_excite_block():
    planner = BandPlanner(loaded(squeeze_and_excite()))
    assert [ending.op for ending in planner.graph.endings()] == ["GlobalAveragePool"]
    assert len(planner.graph.stretches) == 2
    plan = planner.pareto()[-1]
    assert plan.peak < planner.plain.peak
    x = example(squeeze_and_excite())
    assert difference(run(planner.written(plan), x), run(squeeze_and_excite(), x)) < 1e-5


# ------------------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def model_file(tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(wide_then_narrow(), path)
    return str(path)


def answer(capsys, *arguments: str) -> tuple[int, dict]:
    code = cli.main(["bands", *arguments, "--format", "json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_limit_that_bands_hold(model_file, tmp_path, capsys):
    code, found = answer(capsys, model_file, "--sram", "50%", "-o", str(tmp_path / "out.onnx"))
    assert code == 0
    assert found["ok"]
    assert found["after"]["peak"] <= found["limit"] == found["before"]["peak"] // 2
    assert found["after"]["macs"] == found["before"]["macs"]
    assert found["regions"]
    written = network.load(tmp_path / "out.onnx", accept=ops.accept("out.onnx"))
    measured = resources.profile(written)
    assert (measured.memory.peak, measured.memory.file_order) == (found["after"]["peak"], found["after"]["file_order"])
    assert found["after"]["file_order"] == found["after"]["peak"], "written in the best order"
    assert found["after"]["operators"] - found["before"]["operators"] == sum(r["operators_added"] for r in found["regions"])
    x = example(wide_then_narrow())
    assert difference(run(onnx.load(tmp_path / "out.onnx"), x), run(wide_then_narrow(), x)) < 1e-5


def dilated() -> onnx.ModelProto:
    """A network whose bands are so many steps that the search for their best order stops before it has proved any."""
    graph = Graph(1, 3, 30, 20)
    x = graph.add("Relu", graph.conv("x", 3, 6, 3, pads=[2] * 4, dilations=[2, 2]))
    x = graph.add("HardSwish", graph.conv(x, 6, 6, 3, pads=[4, 1, 4, 1], dilations=[4, 1]))
    x = graph.add("MaxPool", graph.conv(x, 6, 4, 5, pads=[2] * 4), kernel_shape=[2, 2], strides=[2, 2])
    return graph.model(graph.conv(x, 4, 4))


@pytest.mark.thorough
@pytest.mark.parametrize("limit", thorough_but(["4720", "4600"], "4600"))
def test_the_order_in_the_file_is_the_best_that_profile_finds_of_it(limit, tmp_path, capsys):
    path = str(tmp_path / "dilated.onnx")
    onnx.save(dilated(), path)
    _, found = answer(capsys, path, "--sram", limit, "-o", str(tmp_path / "out.onnx"))
    assert found["regions"]
    assert not found["after"]["exact"]
    assert found["after"]["file_order"] == found["after"]["peak"]


def test_a_configuration_says_how_the_model_is_read(tmp_path, capsys, monkeypatch):
    model = wide_then_narrow()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    shape = [1, *(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:])]
    for at in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[at].dim_param = f"free{at}"
    del model.graph.value_info[:]
    onnx.save(model, tmp_path / "free.onnx")
    (tmp_path / "mcuprune.toml").write_text(f'[[model]]\npath = "free.onnx"\ninput-shape = {{ x = {shape} }}\n')
    monkeypatch.chdir(tmp_path)
    assert cli.main(["profile", "free.onnx", "-q"]) == 0, "the configuration is right"
    assert cli.main(["bands", "free.onnx", "--bands", "2", "-o", "out.onnx"]) == 0


def test_a_limit_out_of_reach_writes_the_best_there_is(model_file, tmp_path, capsys):
    code, found = answer(capsys, model_file, "--sram", "3500", "-o", str(tmp_path / "out.onnx"))
    assert code == 1
    assert not found["ok"]
    assert found["limit"] < found["after"]["peak"] < found["before"]["peak"] / 2
    assert (tmp_path / "out.onnx").exists()


def test_a_limit_that_holds_already_changes_nothing(model_file, tmp_path, capsys):
    code, found = answer(capsys, model_file, "--sram", "100%", "-o", str(tmp_path / "out.onnx"))
    assert (code, found["regions"], found["after"]) == (0, [], found["before"])
    assert [node.name for node in onnx.load(tmp_path / "out.onnx").graph.node] == [
        node.name for node in wide_then_narrow().graph.node
    ]


def test_another_order_that_holds_the_limit_is_said_to(tmp_path, capsys):
    """The peak is that of the best order, and the file runs in another."""
    net = Net(1, 1, 12, 12)
    wide = [net.conv("x", 1, 8, 1, pads=[0] * 4, name=f"wide{index}") for index in range(3)]
    narrow = [net.conv(one, 8, 1, 12, pads=[0] * 4) for one in wide]
    onnx.save(net.model(net.add("Concat", *narrow, axis=1)), tmp_path / "net.onnx")
    assert cli.main(["bands", str(tmp_path / "net.onnx"), "--sram", "100%", "-o", str(tmp_path / "out.onnx")]) == 0
    assert "nothing runs in bands: the limit holds in another order of the operators" in capsys.readouterr().out


def test_so_many_bands_as_asked_for(model_file, tmp_path, capsys):
    code, found = answer(capsys, model_file, "--bands", "4", "-o", str(tmp_path / "out.onnx"))
    assert (code, found["limit"]) == (0, None)
    assert {region["bands"] for region in found["regions"]} == {4}
    assert found["after"]["peak"] < found["before"]["peak"]
    for region in found["regions"]:
        assert [first for first, _ in region["rows"][1:]] == [end for _, end in region["rows"][:-1]]


def test_the_arena_of_a_runtime_is_never_made_worse(model_file, tmp_path, capsys):
    code, found = answer(capsys, model_file, "--sram", "1000", "--sram-model", "tflm", "-o", str(tmp_path / "out.onnx"))
    assert code == 1
    assert found["after"]["arena_tflm"] <= found["before"]["arena_tflm"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--sram"),
        (["--sram", "10KB", "--bands", "4"], "either"),
        (["--bands", "1"], "--bands"),
        (["--sram", "10KB", "--sram-model", "guess"], "--sram-model"),
        (["--bands", "500"], "bands"),
    ],
)
def test_refusals(model_file, tmp_path, capsys, arguments, said):
    if arguments == ["--bands", "500"]:  # where nothing has two rows
        net = Net(1, 4, 1, 1)
        onnx.save(net.model(net.conv("x", 4, 4, 1, pads=[0] * 4)), model_file)
    out = tmp_path / "out.onnx"
    assert cli.main(["bands", model_file, *arguments, "-o", str(out)]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_the_model_is_not_written_over(model_file, capsys):
    before = onnx.load(model_file)
    assert cli.main(["bands", model_file, "--bands", "4", "-o", model_file]) == 2
    assert onnx.load(model_file) == before


@pytest.mark.parametrize("name", ["out.tflite", "out.c", "out.npz"])
def test_bands_are_written_as_onnx_and_under_no_other_name(name, model_file, tmp_path, capsys):
    assert cli.main(["bands", model_file, "--bands", "4", "-o", str(tmp_path / name)]) == 2
    assert "mcuprune export" in capsys.readouterr().err
    assert not (tmp_path / name).exists()


def test_integers_stay_integers_in_the_file(tmp_path, capsys):
    x = example(wide_then_narrow())
    as_int8(loaded(wide_then_narrow()), x).save(tmp_path / "int8.onnx")
    code, _ = answer(capsys, str(tmp_path / "int8.onnx"), "--sram", "60%", "-o", str(tmp_path / "out.onnx"))
    assert code == 0
    before, after = onnx.load(tmp_path / "int8.onnx"), onnx.load(tmp_path / "out.onnx")
    stored = [
        {t.name: t.raw_data for t in model.graph.initializer if t.data_type == TensorProto.INT8} for model in (before, after)
    ]
    assert stored[0].items() <= stored[1].items()
    assert len(after.SerializeToString()) < 2 * len(before.SerializeToString())
    assert np.array_equal(run(after, x)[0], run(before, x)[0])


def test_the_text_says_what_is_done_and_what_it_costs(model_file, tmp_path, capsys):
    assert cli.main(["bands", model_file, "--sram", "60%", "-o", str(tmp_path / "out.onnx")]) == 0
    text = capsys.readouterr().out
    for part in (
        "in bands of rows:",
        "of it the tail",
        "cache",
        "the limit of",
        "holds",
        "GlobalAveragePool",
        "reads every row",
    ):
        assert part in text


def test_a_profile_lists_the_plans(model_file, capsys):
    assert cli.main(["profile", model_file, "--bands", "--format", "json"]) == 0
    plans = json.loads(capsys.readouterr().out)["models"][0]["bands"]
    peaks = [plan["peak"] for plan in plans]
    assert len(plans) > 3
    assert peaks == sorted(peaks, reverse=True)
    assert plans[0] == {"peak": peaks[0], "macs_added": 0, "operators_added": 0, "regions": []}
    assert cli.main(["profile", model_file, "--bands"]) == 0
    assert "row bands" in capsys.readouterr().out


# --------------------------------------------------------------------------------------------------------------- real files

#: Bytes of peak that bands reach on public networks, with not one MAC more.
REACHED = {
    "mbv2_035_ts": 48_800,
    "resnet8_ts": 18_000,
    "vgg16_cifar_ts": 12_500,
    "shufflenetv2_ts": 21_504,
    "mlperf_vww_96_float": 43_700,
    "mcunet_like_dy": 58_000,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REACHED)
def test_real_networks_reach_their_limit(name, corpus_folder):
    path = str(corpus_folder / f"{name}.onnx")
    net = network.load(path, accept=ops.accept(path))
    found = banding.run(net, "out.onnx", limit=units.parse(str(REACHED[name]), "bytes"), bands=None)
    assert found.ok
    assert found.after.profile.total["macs"] <= found.before.profile.total["macs"]


@pytest.mark.slow
@pytest.mark.parametrize("path", corpus(), ids=lambda path: path.stem)
def test_real_networks_in_bands_compute_the_same(path):
    net = network.load(path, accept=ops.accept(str(path)), input_shapes=CORPUS_SHAPES.get(path.name))
    planner = BandPlanner(net)
    if not planner.graph.stretches or resources.profile(net).total["macs"] > 5e8:
        pytest.skip("no region, or too large to run")
    original = onnx.load(path)
    x = feed(net.to_proto(), shapes={name: net.shapes[name] for name in net.inputs})
    wanted = run(stored_again(net.to_proto(), original), x)
    plans = [planner.least(), planner.least(counts=(3,))]
    places = [(place, planner.ends(place)[-1]) for place in range(len(planner.graph.cuts)) if planner.ends(place)]
    longest = max(places, key=lambda ends: ends[1] - ends[0])
    rims = [planner.choice(*longest, count, "rim") for count in (2, 3)]
    plans += [planner.plan([choice]) for choice in rims if choice is not None]
    for plan in plans:
        got = run(stored_again(planner.written(plan).to_proto(), original), x)
        assert difference(got, wanted) < (1e-9 if path.stem.endswith("qdq") else 1e-4)


def two_hundred_operators() -> Network:
    net = Net(1, 3, 96, 96)
    y = net.conv("x", 3, 8, strides=[2, 2])
    for index in range(40):
        wide = net.add("Relu", net.conv(y, 8, 24, 1, pads=[0] * 4))
        wide = net.add("Relu", net.conv(wide, 24, 24, strides=[2, 2] if index in (3, 9) else [1, 1]))
        narrow = net.conv(wide, 24, 8, 1, pads=[0] * 4)
        y = narrow if index in (3, 9) else net.add("Add", y, narrow)
    return loaded(net.model(y))


@pytest.mark.slow
def test_two_hundred_operators_are_planned_in_a_second():
    loaded_net = two_hundred_operators()
    assert len(loaded_net.nodes) > 200
    start = time.process_time()
    planner = BandPlanner(loaded_net)
    plan = planner.cheapest(planner.plain.peak // 2)
    assert time.process_time() - start < 2  # a second on an idle machine
    assert plan is not None


@pytest.mark.slow
def test_two_hundred_operators_are_planned_for_an_arena_in_seconds():
    net = two_hundred_operators()
    limit = int(0.9 * sram_of(net, "tflm"))
    start = time.process_time()
    found = in_bands(net, Banding("tflm", {"sram": limit, "macs": 2 * sums(net)["macs"]}))
    assert time.process_time() - start < 4  # less than two on an idle machine
    assert found.sram <= limit


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", [9, 10, 11, 12, 19, 20, 24, 32])
def test_no_concat_joins_more_than_a_runtime_takes(count, mode):
    net = Net(1, 1, 2 * count, 4)
    model = net.model(net.conv(net.conv("x", 1, 2), 2, 2, strides=[2, 1]))
    planner = BandPlanner(loaded(model))
    choice = planner.choice(0, len(planner.graph.cuts) - 1, count, mode)
    assert len(choice.tape.bands) == count
    made = banded(planner.net, [choice])
    joined = [len(node.inputs) for node in made.nodes if node.op == "Concat"]
    assert max(joined) <= MOST_JOINED
    assert max(joined) == min(count, MOST_JOINED)
    x = example(model)
    assert difference(run(made, x), run(model, x)) < 1e-5
    assert max(step.bytes for step in buffers(made).file_steps()) == choice.price.peak


def two_inputs() -> onnx.ModelProto:
    net = Net(1, 2, 16, 8)
    net.inputs.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, (1, 2, 16, 8)))
    y = net.add("Relu", net.conv(net.add("Add", "x", "z", name="both"), 2, 12))
    return net.model(net.conv(y, 12, 2, strides=[4, 4]))


def an_output_on_the_way() -> onnx.ModelProto:
    net = Net(1, 2, 16, 8)
    early = net.conv("x", 2, 4, name="early")
    return net.model(net.conv(net.add("Relu", net.conv(early, 4, 12)), 12, 2, strides=[4, 4]), early)


def test_regions_begin_where_several_inputs_have_become_one_tensor():
    planner = BandPlanner(loaded(two_inputs()))
    assert planner.graph.cuts[0] == "both"
    choice = planner.choice(0, len(planner.graph.cuts) - 1, 4, "cache")
    x = {name: np.random.default_rng(i).normal(size=(1, 2, 16, 8)).astype(np.float32) for i, name in enumerate("xz")}
    made = banded(planner.net, [choice])
    assert difference(run(made, x), run(two_inputs(), x)) < 1e-5
    assert resources.profile(made).memory.peak < resources.profile(planner.net).memory.peak


def test_no_region_holds_an_output_of_the_network():
    planner = BandPlanner(loaded(an_output_on_the_way()))
    assert planner.graph.cuts == ["x", "early"]
    assert len(planner.pareto()) == 1
