"""Costs against hand counts and against an oracle that reads the definition of peak memory word by word."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import CORPUS_SHAPES, corpus, random_selection
from graphs import Graph, autoencoder, dscnn, mobilenet, resnet8
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from mcuprune.channels.labelling import label
from mcuprune.costs.resources import Basis, Budget, CostModel, Profile, budget, profile
from mcuprune.deploy.lower import lower
from mcuprune.graph import network
from mcuprune.graph.network import Network
from mcuprune.operators import table as ops
from mcuprune.units import parse

MODELS = sorted((Path(__file__).parents[1] / "models").glob("*.onnx"))

#: What is known of every network, without a board.
CORE = ("sram", "flash", "macs")


def load(path: Path) -> Network:
    return network.load(path, accept=ops.accept(str(path)), input_shapes=CORPUS_SHAPES.get(path.name))


# ---------------------------------------------------------------------------------------------------------- hand counts


@pytest.mark.parametrize(
    ("make", "macs", "flash", "params", "sram"),
    [
        (resnet8, 12_501_632, 80_128, 77_706, 49_152),
        (lambda: resnet8(norm=True), 12_501_632, 80_128, 77_706, 49_152),
        (dscnn, 2_656_768, 26_720, 22_604, 16_000),
        (mobilenet, 7_489_664, 230_016, 210_850, 55_296),
        (autoencoder, 264_192, 264_192 + 8 * 1_672, 265_864, 768),
    ],
    ids=["resnet8", "resnet8 with batch norm", "ds-cnn", "mobilenet", "autoencoder"],
)
def test_public_networks_cost_what_people_count_by_hand(make, macs, flash, params, sram):
    total = profile(make()).total
    counted = {"sram": sram, "flash": flash, "macs": macs, "params": params}
    assert {name: total[name] for name in counted} == counted


def one_conv(then: Callable[[Graph, str], str], *, bias: bool = False, channels: int = 8) -> dict[str, int]:
    """Cost of a 3 x 3 convolution from 3 to ``channels`` channels, 8 x 8 pixels, with something behind it."""
    g = Graph(1, 3, 8, 8)
    return dict(profile(g.net(then(g, g.conv("x", 3, channels, bias=bias)))).total)


def between(g: Graph, y: str, channels: int) -> str:
    """A batch norm of what something else reads too."""
    return g.add("Add", g.norm(y, channels), y)


WEIGHTS, SCALES, BIAS = 3 * 9 * 8, 4 * 8, 4 * 8


@pytest.mark.parametrize(
    ("then", "extra_flash", "params"),
    [
        pytest.param(lambda g, y: y, 0, 0, id="nothing"),
        pytest.param(lambda g, y: g.norm(y, 8), BIAS, 8, id="a folded batch norm gives a bias"),
        pytest.param(lambda g, y: g.add("Relu", g.norm(y, 8)), BIAS, 8, id="batch norm and activation"),
        pytest.param(lambda g, y: g.add("Add", y, g.constant(1, 8, 1, 1)), BIAS, 8, id="an Add of channels is a bias"),
        pytest.param(lambda g, y: g.add("Add", g.constant(8, 1, 1), y), BIAS, 8, id="on either side"),
        pytest.param(lambda g, y: g.norm(g.add("Add", y, g.constant(8, 1, 1)), 8), BIAS, 8, id="bias then batch norm"),
        pytest.param(lambda g, y: g.norm(g.add("Relu", y), 8), 2 * 8, 0, id="batch norm behind an activation stays"),
        pytest.param(lambda g, y: g.norm(g.norm(y, 8), 8), BIAS, 8, id="a second batch norm is folded too"),
        pytest.param(lambda g, y: g.norm(g.norm(g.norm(y, 8), 8), 8), BIAS, 8, id="and a third"),
        pytest.param(lambda g, y: g.add("Add", g.norm(y, 8), g.constant(8, 1, 1)), BIAS, 8, id="an Add behind it as well"),
        pytest.param(lambda g, y: between(g, g.norm(y, 8), 8), BIAS + 2 * 8, 8, id="a branch between two keeps the second"),
        pytest.param(
            lambda g, y: g.norm(g.add("Relu", g.norm(y, 8)), 8), BIAS + 2 * 8, 8, id="an activation between two keeps it"
        ),
        pytest.param(lambda g, y: g.add("Add", g.norm(y, 8), y), 2 * 8, 0, id="a second reader keeps the batch norm"),
        pytest.param(lambda g, y: g.add("Mul", y, g.constant(8, 1, 1)), 8, 0, id="a Mul of channels is data"),
        pytest.param(lambda g, y: g.add("Add", y, g.constant(1, 8, 8, 8)), 8 * 64, 0, id="an Add of an image is data"),
        pytest.param(lambda g, y: g.add("Add", y, g.constant(8)), 8, 0, id="an Add along another axis is data"),
        pytest.param(lambda g, y: g.add("Add", g.add("Relu", y), g.constant(8, 1, 1)), 8, 0, id="an Add further on is data"),
        pytest.param(lambda g, y: g.add("PRelu", y, g.constant(8, 1, 1)), 8, 0, id="slopes are data"),
        pytest.param(lambda g, y: g.add("Clip", y, g.value(np.float32(0)), g.value(np.float32(6))), 0, 0, id="limits are not"),
    ],
)
def test_flash_of_what_follows_a_convolution(then, extra_flash, params):
    found = one_conv(then)
    assert found["flash"] == WEIGHTS + SCALES + extra_flash
    assert found["params"] == WEIGHTS + params


def test_a_folded_batch_norm_uses_the_bias_that_is_there():
    assert one_conv(lambda g, y: g.norm(y, 8), bias=True) == one_conv(lambda g, y: y, bias=True)


def test_a_constant_that_is_stored_once_counts_once():
    g = Graph(1, 4, 8, 8)
    weight, bias, image = g.constant(4, 4, 3, 3), g.constant(4), g.constant(1, 4, 8, 8)
    y = g.add("Conv", g.add("Conv", "x", weight, bias, pads=[1] * 4), weight, bias, pads=[1] * 4)
    y = g.add("Add", g.add("Relu", g.add("Add", y, image)), image)
    found = profile(g.net(y)).total
    assert found["flash"] == 4 * 4 * 9 + 4 * 4 + 4 * 4 + 4 * 64
    assert found["params"] == 4 * 4 * 9 + 4
    assert found["macs"] == 2 * 4 * 4 * 9 * 64


@pytest.mark.parametrize(
    ("make", "macs", "flash"),
    [
        pytest.param(lambda g: g.conv("x", 4, 6, 1, strides=[2, 2]), 4 * 6 * 16, 24 + 8 * 6, id="strided"),
        pytest.param(lambda g: g.conv("x", 4, 8, group=2), 2 * 9 * 8 * 64, 2 * 9 * 8 + 8 * 8, id="grouped"),
        pytest.param(lambda g: g.conv("x", 4, 8, group=4), 9 * 8 * 64, 9 * 8 + 8 * 8, id="depthwise, two each"),
        pytest.param(
            lambda g: g.add("ConvTranspose", "x", g.constant(4, 6, 2, 2), g.constant(6), strides=[2, 2]),
            4 * 6 * 4 * 64,
            4 * 6 * 4 + 8 * 6,
            id="transposed",
        ),
        pytest.param(lambda g: g.add("MatMul", "x", g.constant(8, 5)), 4 * 8 * 8 * 5, 8 * 5 + 4 * 5, id="matrix on the right"),
        pytest.param(lambda g: g.add("MatMul", g.constant(5, 8), "x"), 4 * 8 * 8 * 5, 8 * 5 + 4 * 5, id="matrix on the left"),
        pytest.param(
            lambda g: g.add("Add", g.add("MatMul", "x", g.constant(8, 5)), g.constant(5)),
            4 * 8 * 8 * 5,
            40 + 8 * 5,
            id="and bias",
        ),
        pytest.param(lambda g: g.add("MatMul", "x", "x"), 0, 0, id="data with data"),
        pytest.param(lambda g: g.add("Softmax", g.add("MaxPool", "x", kernel_shape=[2, 2])), 0, 0, id="nothing else"),
    ],
)
def test_macs_and_flash_of_single_operators(make, macs, flash):
    g = Graph(1, 4, 8, 8)
    found = profile(g.net(make(g))).total
    assert (found["macs"], found["flash"]) == (macs, flash)


def quantised(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every float tensor of the graph behind a QuantizeLinear and DequantizeLinear pair, weights as int8."""
    helper = onnx.helper
    nodes, extra = [], []
    kept = {}

    def constant(name: str, value: np.ndarray) -> str:
        extra.append(numpy_helper.from_array(value, name))
        return name

    for initializer in model.graph.initializer:
        value = numpy_helper.to_array(initializer)
        name = initializer.name
        scale = constant(f"{name}/scale", np.float32(0.01))
        quantised_value = constant(f"{name}/int8", np.clip(value * 100, -128, 127).astype(np.int8))
        nodes.append(helper.make_node("DequantizeLinear", [quantised_value, scale], [f"{name}/dq"], name=f"{name}/dequantize"))
        kept[name] = f"{name}/dq"

    def pair(source: str, name: str, target: str) -> list[onnx.NodeProto]:
        scale, zero = constant(f"{name}/s", np.float32(0.1)), constant(f"{name}/z", np.int8(0))
        return [
            helper.make_node("QuantizeLinear", [source, scale, zero], [f"{name}/q"], name=f"{name}/quantize"),
            helper.make_node("DequantizeLinear", [f"{name}/q", scale, zero], [target], name=f"{name}/dequantize"),
        ]

    for value in model.graph.input:
        nodes += pair(value.name, value.name, f"{value.name}/dq")
        kept[value.name] = f"{value.name}/dq"
    outputs = {value.name for value in model.graph.output}
    for node in model.graph.node:
        changed = onnx.NodeProto()
        changed.CopyFrom(node)
        changed.input[:] = [kept.get(name, name) for name in node.input]
        changed.output[:] = [f"{name}/raw" for name in node.output]
        nodes.append(changed)
        for name in node.output:
            target = name if name in outputs else f"{name}/dq"
            nodes += pair(f"{name}/raw", name, target)
            kept[name] = target
    found = onnx.ModelProto()
    found.CopyFrom(model)
    del found.graph.node[:], found.graph.initializer[:]
    found.graph.node.extend(nodes)
    found.graph.initializer.extend(extra)
    return found


def as_the_paper_counts(found: Profile) -> dict[str, int]:
    """All totals but those of the written file, which depend on which tensors somebody has quantised."""
    return {name: value for name, value in found.total.items() if name not in ("file", "image")}


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_a_quantised_file_counts_as_the_float_one(path):
    plain = network.from_proto(load(path).to_proto(opset=17), "float.onnx")
    quantised_net = network.from_proto(quantised(plain.to_proto()), "int8.onnx", accept=ops.accept("int8.onnx"))
    one, other = profile(plain), profile(quantised_net)
    assert as_the_paper_counts(one) == as_the_paper_counts(other)
    assert [(m.bytes, m.node) for m in one.memory.timeline] == [(m.bytes, m.node) for m in other.memory.timeline]


def test_a_bias_and_a_pad_are_found_through_quantisation():
    g = Graph(1, 4, 8, 8)
    padded = g.add("Pad", "x", g.value(np.array([0, 0, 1, 1, 0, 0, 1, 1])))
    net = g.net(g.add("Add", g.conv(padded, 4, 4, bias=False, pads=[0] * 4), g.constant(4, 1, 1)))
    int8 = network.from_proto(quantised_except_shapes(net.to_proto()), "int8.onnx")
    assert as_the_paper_counts(profile(int8)) == as_the_paper_counts(profile(net))
    assert profile(net).total["flash"] == 4 * 4 * 9 + 8 * 4
    assert profile(net).total["sram"] == 2 * 4 * 64


def quantised_except_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """As ``quantised``, but integers stay constants."""
    integers = [i for i in model.graph.initializer if numpy_helper.to_array(i).dtype == np.int64]
    floats = [i for i in model.graph.initializer if numpy_helper.to_array(i).dtype != np.int64]
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    del plain.graph.initializer[:]
    plain.graph.initializer.extend(floats)
    found = quantised(plain)
    found.graph.initializer.extend(integers)
    return found


# --------------------------------------------------------------------------------------------------------- peak memory

IMAGE = 4 * 64  # bytes of (1, 4, 8, 8)


@pytest.mark.parametrize(
    ("make", "peak"),
    [
        pytest.param(lambda g: g.conv("x", 4, 4), 2 * IMAGE, id="input and output"),
        pytest.param(lambda g: g.add("Relu", g.norm(g.conv("x", 4, 4), 4)), 2 * IMAGE, id="conv, norm, relu cost the conv"),
        pytest.param(lambda g: g.add("Relu", "x"), IMAGE, id="over the graph input"),
        pytest.param(lambda g: g.add("Add", "x", "x"), IMAGE, id="twice the same input"),
        pytest.param(lambda g: g.add("Mul", "x", g.constant(1, 4, 8, 8)), IMAGE, id="weights cost nothing"),
        pytest.param(lambda g: g.add("Mul", g.add("GlobalAveragePool", "x"), "x"), IMAGE + 4, id="a scale for each channel"),
        pytest.param(lambda g: g.add("Softmax", "x"), 2 * IMAGE, id="softmax makes a new tensor"),
        pytest.param(lambda g: g.add("Concat", "x", "x", axis=1), 3 * IMAGE, id="an input read twice counts once"),
        pytest.param(lambda g: g.add("Add", g.conv("x", 4, 4), "x"), 2 * IMAGE, id="a shortcut lives on"),
        pytest.param(
            lambda g: g.add("Add", g.conv(g.conv("x", 4, 4), 4, 4), "x"), 3 * IMAGE, id="a shortcut over two convolutions"
        ),
        pytest.param(lambda g: g.add("Mul", g.add("Sigmoid", "x"), "x"), 2 * IMAGE, id="a sigmoid over what lives on"),
        pytest.param(lambda g: g.conv(g.add("Transpose", "x", perm=[0, 2, 3, 1]), 8, 4), IMAGE + 4 * 32, id="layout is a view"),
        pytest.param(lambda g: g.add("Transpose", "x", perm=[0, 1, 3, 2]), 2 * IMAGE, id="other transposes copy"),
        pytest.param(
            lambda g: g.add("Pad", "x", g.value(np.array([0, 0, 1, 1, 0, 0, 1, 1]))), IMAGE + 400, id="a pad that stays copies"
        ),
        pytest.param(lambda g: g.add("Pad", "x", g.value(np.zeros(8, np.int64))), IMAGE, id="a pad of nothing is a view"),
        pytest.param(
            lambda g: g.conv(
                g.add("Pad", "x", g.value(np.array([0, 0, 1, 1, 0, 0, 1, 1])), g.value(np.float32(1))), 4, 4, pads=[0] * 4
            ),
            400 + IMAGE,
            id="a pad with ones stays",
        ),
        pytest.param(
            lambda g: g.add(
                "MaxPool", g.add("Pad", "x", g.value(np.array([0, 0, 0, 0, 0, 0, 2, 2]))), kernel_shape=[2, 2], strides=[2, 2]
            ),
            IMAGE + 100,
            id="a zero pad is part of its pool",
        ),
        pytest.param(
            lambda g: g.conv(g.add("Pad", "x", g.value(np.array([0, 0, -1, 0, 0, 0, 0, 1]))), 4, 4, pads=[0] * 4),
            IMAGE + 4 * 7 * 9,
            id="a pad that crops is no part of a convolution",
        ),
        pytest.param(
            lambda g: g.add("Slice", "x", *map(g.value, (np.array([0]), np.array([9]), np.array([2])))), IMAGE, id="slice"
        ),
        pytest.param(
            lambda g: g.add("Slice", "x", *map(g.value, (np.array([1]), np.array([9]), np.array([1])))), 448, id="cut"
        ),
        pytest.param(lambda g: g.add("Dropout", g.add("Identity", "x")), IMAGE, id="identity and dropout"),
        pytest.param(lambda g: g.add("Reshape", "x", g.value(np.array([1, -1]))), IMAGE, id="reshape"),
        pytest.param(lambda g: g.add("Expand", "x", g.value(np.array([1, 4, 8, 8]))), IMAGE, id="expand of nothing"),
        pytest.param(lambda g: g.add("Resize", "x", "", g.value(np.array([1, 1, 2, 2], np.float32))), 5 * IMAGE, id="resize"),
        pytest.param(lambda g: g.add("Cast", "x", to=onnx.TensorProto.FLOAT16), IMAGE, id="cast between floats"),
    ],
)
def test_peak_of_small_graphs(make, peak):
    g = Graph(1, 4, 8, 8)
    assert profile(g.net(make(g))).memory.peak == peak


def test_outputs_live_to_the_end():
    g = Graph(1, 4, 8, 8)
    early = g.conv("x", 4, 1)
    late = g.conv(g.conv(g.conv("x", 4, 4), 4, 4), 4, 4)
    assert profile(g.net(early, late)).memory.peak == 2 * IMAGE + 64
    assert profile(g.net(early, late)).memory.file_order == 2 * IMAGE + 64


def test_the_files_order_may_need_more():
    g = Graph(1, 4, 8, 8)
    branches = [g.conv("x", 4, 16) for _ in range(3)]
    small = [g.conv(branch, 16, 1) for branch in branches]
    found = profile(g.net(g.add("Concat", *small, axis=1))).memory
    assert found.file_order == 4 * 64 + 3 * 16 * 64
    assert found.peak == 4 * 64 + 16 * 64 + 2 * 64
    assert found.exact
    assert found.lower_bound == found.peak
    assert found.max_in_out == 20 * 64


def test_nodes_that_no_output_needs_cost_nothing():
    g = Graph(1, 4, 8, 8)
    g.conv("x", 4, 64)
    found = profile(g.net(g.conv("x", 4, 4)))
    assert found.total["sram"] == 2 * IMAGE
    assert found.total["flash"] == 4 * 4 * 9 + 8 * 4


def random_graph(seed: int, *, classified: bool = False) -> Network:
    """A small random directed acyclic graph of all kinds of memory behaviour.

    classified: every output goes through a classifier, so that channels may go.
    """
    draw = np.random.default_rng(seed)
    g = Graph(1, int(draw.integers(1, 4)), 4, 4)
    shapes = {"x": (1, g.inputs[0].type.tensor_type.shape.dim[1].dim_value, 4, 4)}
    if draw.random() < 0.3:
        shapes[g.input("z", 1, 2, 4, 4)] = (1, 2, 4, 4)
    used: set[str] = set()
    for _ in range(int(draw.integers(2, 8))):
        fresh = [name for name in shapes if name not in used]
        pool = fresh if fresh and draw.random() < 0.6 else list(shapes)
        x = pool[int(draw.integers(len(pool)))]
        n, c, h, w = shapes[x]
        alike = [name for name, shape in shapes.items() if shape == shapes[x]]
        other = alike[int(draw.integers(len(alike)))]
        joinable = [name for name, shape in shapes.items() if shape[2:] == (h, w)]
        kind = str(
            draw.choice(
                [
                    "conv",
                    "relu",
                    "norm",
                    "add",
                    "add",
                    "concat",
                    "reshape",
                    "layout",
                    "turn",
                    "pad",
                    "softmax",
                    "split",
                    "identity",
                ]
            )
        )
        made = {}
        used.add(x)
        if kind == "conv":
            y, out = g.conv(x, c, int(draw.integers(1, 5)), 1), None
            made[y] = (n, int(g.initializers[-1].dims[0]), h, w)
        elif kind == "relu":
            made[g.add(str(draw.choice(["Relu", "Sigmoid", "Abs", "HardSwish"])), x)] = shapes[x]
        elif kind == "norm":
            made[g.norm(x, c)] = shapes[x]
        elif kind == "add":
            used.add(other)
            made[g.add(str(draw.choice(["Add", "Mul", "Max"])), x, other)] = shapes[x]
        elif kind == "concat":
            out = [x, joinable[int(draw.integers(len(joinable)))]]
            used.update(out)
            made[g.add("Concat", *out, axis=1)] = (n, sum(shapes[name][1] for name in out), h, w)
        elif kind == "reshape":
            made[g.add("Reshape", x, g.value(np.array([1, c * h, w, 1])))] = (n, c * h, w, 1)
        elif kind == "layout":
            made[g.add("Transpose", x, perm=[0, 2, 3, 1])] = (n, h, w, c)
        elif kind == "turn":
            made[g.add("Transpose", x, perm=[0, 1, 3, 2])] = (n, c, w, h)
        elif kind == "pad":
            y = g.add("Pad", x, g.value(np.array([0, 0, 0, 1, 0, 0, 0, 0])), g.value(np.float32(draw.integers(2))))
            made[y] = (n, c, h, w + 1)
        elif kind == "softmax":
            made[g.add("Softmax", x, axis=1)] = shapes[x]
        elif kind == "split" and c > 1:
            y = g.add("Split", x, g.value(np.array([1, c - 1])), outputs=2, axis=1)
            made[y], made[f"{y}.1"] = (n, 1, h, w), (n, c - 1, h, w)
        else:
            made[g.add("Identity", x)] = shapes[x]
        shapes.update(made)
    ends = [name for name in shapes if name not in used and name not in ("x", "z")]
    extra = [name for name in shapes if name in used and name not in ("x", "z") and draw.random() < 0.1]
    outputs = [*(ends or [list(shapes)[-1]]), *extra]
    return g.net(*([g.classifier(name, shapes[name][1], 2) for name in outputs] if classified else outputs))


ELEMENTWISE = {"Relu", "Sigmoid", "Abs", "HardSwish", "BatchNormalization", "Add", "Mul", "Max"}


def memory_by_the_definition(net: Network) -> tuple[int, int, int]:
    """Least peak over all orders, the file order's peak and the largest inputs plus outputs, by trying everything.

    Written from the definition alone: it walks over tensors, not over a graph of buffers.
    """
    size = {name: int(np.prod(shape)) for name, shape in net.shapes.items()}
    readers = {name: [node.name for node in net.nodes if name in node.inputs] for name in size}
    storage = {name: name for name in net.inputs}
    runs = []
    for node in net.nodes:
        source = node.inputs[0]
        view = node.op in ("Identity", "Reshape")
        if node.op == "Transpose":
            moved = [axis for axis in node.attrs["perm"] if net.shapes[source][axis] > 1]
            view = tuple(node.attrs["perm"]) == (0, 2, 3, 1) or moved == sorted(moved)
        if node.op == "Pad" and not node.attrs.get("value"):
            only = readers[node.outputs[0]]
            reader = next((n for n in net.nodes if only == [n.name]), None)
            view = reader is not None and reader.op == "Conv" and node.outputs[0] not in net.outputs
        if view:
            storage[node.outputs[0]] = storage[source]
        else:
            storage.update({name: name for name in node.outputs})
            runs.append(node)
    reads = {node.name: {storage[name] for name in node.inputs if name in storage} for node in runs}
    writes = {node.name: {storage[name] for name in node.outputs} for node in runs}
    kept = {storage[name] for name in net.outputs}
    by_name = {node.name: node for node in runs}
    makers = {place: name for name, places in writes.items() for place in places}

    def alive(done: frozenset[str]) -> set[str]:
        made = {place for place in size if place in net.inputs or makers.get(place) in done}
        return {p for p in made if p in kept or any(p in reads[name] for name in reads if name not in done)}

    def need(name: str, done: frozenset[str]) -> int:
        before, after = alive(done), alive(done | {name})
        total = sum(size[place] for place in before | writes[name])
        dying = [place for place in reads[name] if place not in after]
        if by_name[name].op in ELEMENTWISE:
            (output,) = writes[name]
            if any(size[place] == size[output] for place in dying):
                total -= size[output]
        return total

    @cache
    def best(done: frozenset[str]) -> int:
        ready = [n for n in reads if n not in done and all(p in net.inputs or makers[p] in done for p in reads[n])]
        return min((max(need(n, done), best(done | {n})) for n in ready), default=0)

    done: frozenset[str] = frozenset()
    in_file_order = 0
    largest = 0
    for name in reads:
        in_file_order = max(in_file_order, need(name, done))
        done |= {name}
        total = sum(size[place] for place in reads[name] | writes[name])
        if by_name[name].op in ELEMENTWISE and any(size[p] == size[q] for p in reads[name] for q in writes[name]):
            total -= sum(size[place] for place in writes[name])
        largest = max(largest, total)
    return best(frozenset()), in_file_order, largest


@pytest.mark.parametrize("block", range(20))
def test_memory_agrees_with_trying_every_order(block):
    for seed in range(block * 50, block * 50 + 50):
        net = random_graph(seed)
        found = profile(net).memory
        if not found.timeline:  # views alone: nothing runs
            continue
        assert (found.peak, found.file_order, found.max_in_out) == memory_by_the_definition(net), seed
        assert found.exact


# ----------------------------------------------------------------------------------------------------------- the report


@pytest.mark.parametrize("path", [*MODELS, *corpus()], ids=lambda path: path.stem)
def test_totals_are_sums_of_rows_and_the_peak_is_their_maximum(path):
    found = profile(load(path))
    for key in ("flash", "macs", "params"):
        assert found.total[key] == sum(getattr(layer, key) for layer in found.layers)
    memory = found.memory
    assert found.total["sram"] == memory.peak == max(layer.live for layer in found.layers)
    assert memory.lower_bound <= memory.peak <= memory.file_order
    assert memory.peak <= memory.arena_tflm
    assert sum(size for _, size in memory.peak_tensors) == memory.peak
    assert [moment.bytes for moment in memory.timeline] == [sum(size for _, size in m.tensors) for m in memory.timeline]
    assert max(memory.timeline, key=lambda moment: moment.bytes).bytes == memory.peak
    assert sorted(memory.order) == sorted(layer.node for layer in found.layers)
    assert [name for name in memory.order if name in {m.node for m in memory.timeline}] == [m.node for m in memory.timeline]


def test_the_order_can_be_run():
    for seed in range(100):
        net = random_graph(seed)
        made = {*net.inputs}
        nodes = {node.name: node for node in net.nodes}
        for name in profile(net).memory.order:
            assert all(source in made or net.is_constant(source) for source in nodes[name].inputs if source)
            made.update(nodes[name].outputs)


# ------------------------------------------------------------------------------------------------------ costs of cuts


FILE_ON_A_BOARD = Basis(flash="file", board="nucleo-f767zi")


QUICKLY_SLOWLY_OR_THOROUGHLY = ((), pytest.mark.slow, pytest.mark.thorough, pytest.mark.slow)


@lru_cache(1)
def costs_of(path):
    """The channels of a file, and its costs as functions of their widths, of all kinds that it has."""
    channels = label(load(path))
    bases = ["peak", "tflm", "max-in-out", *([FILE_ON_A_BOARD] if "file" in profile(channels.network).total else [])]
    return channels, {basis: CostModel(channels, basis) for basis in bases}


@pytest.mark.parametrize(
    ("path", "share"),
    [
        # each file at one share, and each share of a quarter of the files; the other three take three times as long
        pytest.param(path, share, id=f"{path.stem}-{share}", marks=QUICKLY_SLOWLY_OR_THOROUGHLY[(index + turn) % 4])
        for index, path in enumerate([*MODELS, *corpus()])
        for turn, share in enumerate((0.0, 0.4, 0.8, 1.0))
    ],
)
def test_the_cost_of_a_cut_is_the_profile_of_the_cut_network(path, share):
    channels, costs = costs_of(path)
    keep = random_selection(channels, share, seed=1)
    cut, widths = channels.cut(keep), channels.widths(keep)
    measured = profile(cut)
    for basis, model in costs.items():
        on_board = basis is FILE_ON_A_BOARD
        used = (profile(cut, basis) if on_board else measured).used(basis)
        found = model.at(widths)
        assert [*found] == [*CORE, *(["latency"] if on_board else [])]
        assert {name for name in found if name not in used} <= {"sram"}  # of an arena that no runtime takes
        assert {name: found[name] for name in used if name in found} == {name: used[name] for name in used if name in found}


def shuffles() -> Network:
    """Channels through transposes, slices, splits and pads, which become views as channels go."""
    g = Graph(1, 3, 8, 8)
    x = g.add("Relu", g.conv("x", 3, 8))
    y = g.add("Reshape", x, g.value(np.array([1, 2, 4, 8, 8])))
    y = g.add("Reshape", g.add("Transpose", y, perm=[0, 2, 1, 3, 4]), g.value(np.array([1, 8, 8, 8])))
    y = g.conv(y, 8, 8, group=8)
    low = g.add("Slice", y, *map(g.value, (np.array([0]), np.array([4]), np.array([1]))))
    wide = g.add("Pad", g.conv(low, 4, 4), g.value(np.array([0, 0, 0, 0, 0, 2, 0, 0])))
    z = g.add("Relu", g.conv(wide, 6, 6, group=3))
    return g.net(g.classifier(g.add("Concat", z, y, axis=1), 14, 5))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.0, 0.3, 0.6, 0.8, 0.9, 1.0]))
@pytest.mark.parametrize("make", [resnet8, dscnn, shuffles])
def test_any_selection_costs_what_its_cut_costs(make, seed, share):
    channels, peak, arena = models_of(make)
    draw = np.random.default_rng(seed)
    keep = channels.keep_all()
    for group in channels.groups:
        ids = np.array(group.components)
        low = max(group.minimum, round(len(ids) * (1 - share)))
        keep[draw.permutation(ids)[int(draw.integers(low, len(ids) + 1)) :]] = False
    measured, widths = profile(channels.cut(keep)), channels.widths(keep)
    assert peak.at(widths) == {name: measured.total[name] for name in CORE}
    assert arena.at(widths)["sram"] == measured.memory.arena_tflm
    assert peak.sums(widths) == {name: measured.total[name] for name in ("flash", "macs")}


@pytest.mark.parametrize("block", range(5))
def test_cuts_of_random_graphs_cost_what_they_are_said_to(block):
    for seed in range(block * 40, block * 40 + 40):
        channels = label(random_graph(seed, classified=True))
        keep = random_selection(channels, 0.7, seed)
        measured, widths = profile(channels.cut(keep)), channels.widths(keep)
        assert CostModel(channels).at(widths) == {name: measured.total[name] for name in CORE}, seed
        assert CostModel(channels, "tflm").at(widths)["sram"] == measured.memory.arena_tflm, seed


@cache
def models_of(make):
    channels = label(make())
    return channels, CostModel(channels), CostModel(channels, "tflm")


@pytest.mark.parametrize("make", [resnet8, dscnn, mobilenet, shuffles])
@pytest.mark.parametrize("resource", CORE)
def test_gradients_are_slopes(make, resource):
    """Flash and MACs are quadratic, where a central difference is exact; the peak is linear while no other step takes over."""
    _, model, _ = models_of(make)
    draw = np.random.default_rng(0)
    for _ in range(20):
        widths = np.array(
            [draw.integers(min(max(3, low), high), high + 1) for low, high in zip(model.least, model.full, strict=True)]
        )
        if resource == "sram" and (len(model.schedule(widths).peak_steps) > 1 or peak_moves(model, widths)):
            continue
        found = model.gradient(resource, widths)
        for group in range(len(widths)):
            one = np.eye(len(widths), dtype=np.int64)[group]
            assert found[group] == (model.at(widths + one)[resource] - model.at(widths - one)[resource]) / 2


def peak_moves(model: CostModel, widths: np.ndarray) -> bool:
    """Whether one channel more or less makes another step the peak."""
    here = [(step.op, step.buffers) for step in model.schedule(widths).peak_steps]
    eye = np.eye(len(widths), dtype=np.int64)
    return any(
        [(step.op, step.buffers) for step in model.schedule(widths + sign * one).peak_steps] != here
        for one in eye
        for sign in (1, -1)
    )


def test_the_gradient_of_a_tied_peak_is_the_mean_over_its_steps():
    g = Graph(1, 4, 8, 8)
    y = g.conv(g.conv(g.conv("x", 4, 8), 8, 4), 4, 8)
    model = CostModel(label(g.net(g.classifier(y, 8, 2))))
    assert len(model.schedule(model.full).peak_steps) == 3
    assert model.gradient("sram", model.full).tolist() == [64 * 2 / 3, 64 * 2 / 3, 64 / 3]


def test_the_gradient_of_the_widest_operator_sees_nothing_else_alive():
    """In a residual block the shortcut is alive beside the inner convolutions: the exact peak counts it, max in + out not."""
    g = Graph(1, 4, 8, 8)
    x = g.conv("x", 4, 8)
    y = g.add("Add", x, g.conv(g.conv(x, 8, 16), 16, 8))
    channels = label(g.net(g.classifier(y, 8, 2)))
    exact, imprecise = CostModel(channels), CostModel(channels, "max-in-out")
    assert exact.at(exact.full)["sram"] == 64 * (8 + 16 + 8)
    assert imprecise.at(imprecise.full)["sram"] == 64 * (8 + 16)
    assert exact.gradient("sram", exact.full).tolist() == [64 * 2, 64]
    assert imprecise.gradient("sram", imprecise.full).tolist() == [64, 64]


@pytest.mark.parametrize("make", [resnet8, dscnn, mobilenet])
def test_the_gradient_of_the_arena_is_its_slope_while_no_buffer_moves(make):
    """In steps of 16 channels nothing is rounded: every buffer stays a whole number of alignments."""
    channels, _, model = models_of(make)
    program = lower(channels.network, dim=model.dim)
    draw = np.random.default_rng(0)
    checked = 0
    for _ in range(100):
        widths = np.array([16 * draw.integers(1, 1 + max(1, high // 16)) for high in model.full])
        step = 16 * np.eye(len(widths), dtype=np.int64)[draw.integers(len(widths))]
        quantities = [model.compiled(program.quantities).values(w).tolist() for w in (widths, widths + step)]
        if program.stacked(quantities[0]).keys() == program.stacked(quantities[1]).keys():
            checked += 1
            change = model.at(widths + step)["sram"] - model.at(widths)["sram"]
            assert model.gradient("sram", widths) @ step == change
    assert checked > 20


# --------------------------------------------------------------------------------------------------------------- budgets


def test_limits_are_inclusive():
    used = {"sram": 100, "flash": 200, "macs": 300}
    assert Budget({"sram": 100, "macs": 300}).check(used).ok
    assert Budget({"sram": 99, "macs": 300}).check(used).excess == {"sram": 1}


def test_a_share_is_of_ones_own_cost():
    own = {"sram": 101, "flash": 200, "macs": 300}
    assert budget({"sram": parse("50%", "bytes"), "macs": parse("0.1k", "count")}, own).limits == {"sram": 50, "macs": 100}


def test_costs_fall_with_widths():
    model = CostModel(label(resnet8()))
    costs = [model.at(np.maximum(model.full * i // 8, model.least)) for i in range(9)]
    assert all(a[name] <= b[name] for a, b in pairwise(costs) for name in CORE)
