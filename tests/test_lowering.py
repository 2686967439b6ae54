"""What is read as simpler operators computes the same, in onnxruntime, and costs what these cost."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from conftest import difference, feed, random_selection, run
from graphs import Graph
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from mcuprune.channels.labelling import label
from mcuprune.costs.resources import profile
from mcuprune.errors import UnsupportedOperator
from mcuprune.graph import network
from mcuprune.graph.network import Network
from mcuprune.operators import table as ops
from mcuprune.train.batchproof import prove

SIZES = dict(zip("abcdefgh", (2, 3, 4, 5, 1, 2, 3, 2), strict=True))


def small(nodes: list[onnx.NodeProto], inputs: dict[str, tuple[int, ...]], constants: dict[str, np.ndarray], opset: int = 17):
    """A model of float inputs whose output is ``y``, of any shape."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def loaded(model: onnx.ModelProto) -> Network:
    return network.from_proto(model, "net.onnx", accept=ops.accept("net.onnx"))


def einsum(equation: str, shapes: list[tuple[int, ...]], fixed: set[int], opset: int) -> tuple[Network, list[np.ndarray], dict]:
    """The Einsum as a network, its operands, and those among them that are inputs. fixed: positions of constant operands."""
    draw = np.random.default_rng(len(equation))
    values = [draw.normal(size=shape).astype(np.float32) for shape in shapes]
    names = [f"x{index}" for index in range(len(values))]
    data = {name: value for index, (name, value) in enumerate(zip(names, values, strict=True)) if index not in fixed}
    constants = {name: value for name, value in zip(names, values, strict=True) if name not in data}
    node = helper.make_node("Einsum", names, ["y"], "product", equation=equation)
    model = small([node], {name: value.shape for name, value in data.items()}, constants, opset)
    return loaded(model), values, data


@st.composite
def equations(draw: Any) -> tuple[str, list[tuple[int, ...]], set[int], int]:
    count = draw(st.integers(1, 3))
    terms = ["".join(draw(st.lists(st.sampled_from("abcdefgh"), max_size=4, unique=True))) for _ in range(count)]
    letters = sorted(set("".join(terms)))
    output = "".join(draw(st.permutations(draw(st.lists(st.sampled_from(letters), unique=True))))) if letters else ""
    shapes = [[SIZES[letter] for letter in term] for term in terms]
    if draw(st.booleans()):  # leading axes under an ellipsis, which broadcast
        dots = draw(st.lists(st.integers(1, 3), min_size=1, max_size=2))
        for index in range(count):
            shapes[index] = [draw(st.sampled_from((1, size))) for size in dots] + shapes[index]
            terms[index] = "..." + terms[index]
        output = "..." + output
    fixed = draw(st.sets(st.integers(0, count - 1), max_size=count - 1))
    equation = ",".join(terms) + ("->" + output if draw(st.integers(0, 9)) else "")
    return equation, [tuple(shape) for shape in shapes], fixed, draw(st.sampled_from((12, 13, 17, 21)))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(equations())
def test_an_einsum_is_what_numpy_makes_of_it(case: tuple[str, list[tuple[int, ...]], set[int], int]) -> None:
    equation, shapes, fixed, opset = case
    net, values, data = einsum(equation, shapes, fixed, opset)
    assert not any(node.op == "Einsum" for node in net.nodes)
    expected = np.einsum(equation, *[value.astype(np.float64) for value in values])
    (found,) = run(net, data)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-4 * max(1, np.abs(expected).max())


@pytest.mark.parametrize(
    ("equation", "shapes", "made", "macs"),
    [
        ("bcn,bcm->bnm", [(1, 4, 5), (1, 4, 6)], {"Transpose": 1, "MatMul": 1}, 0),
        ("kc,bcn->bkn", [(3, 4), (1, 4, 5)], {"Transpose": 2, "MatMul": 1}, 3 * 4 * 5),
        ("bchw,oc->bohw", [(1, 4, 5, 6), (3, 4)], {"Transpose": 2, "MatMul": 1}, 4 * 5 * 6 * 3),
        ("bshk,hkd->bsd", [(1, 5, 2, 3), (2, 3, 4)], {"Reshape": 1, "MatMul": 1}, 5 * 6 * 4),
        ("bsd,dhk->bshk", [(1, 5, 4), (4, 2, 3)], {"Reshape": 1, "MatMul": 1}, 5 * 4 * 6),
        ("bchw,bc->bchw", [(1, 4, 5, 6), (1, 4)], {"Reshape": 1, "Mul": 1}, 0),
        ("bi,bj->bij", [(1, 4), (1, 5)], {"Reshape": 2, "Mul": 1}, 0),
        ("bchw->bc", [(1, 4, 5, 6)], {"ReduceSum": 1}, 0),
        ("bhwc->bchw", [(1, 4, 5, 6)], {"Transpose": 1}, 0),
    ],
)
def test_an_einsum_becomes_the_product_that_one_would_write(equation, shapes, made, macs) -> None:
    constant = {index for index, shape in enumerate(shapes) if shape[0] != 1}
    net, *_ = einsum(equation, shapes, constant, 17)
    counted = [node.op for node in net.nodes]
    assert {op: counted.count(op) for op in counted} == made
    assert profile(net).total["macs"] == macs
    assert "product" in [node.name for node in net.nodes]


@pytest.mark.parametrize("equation", ["bii->bi", "bii->b", "bi,bjj->b"])
def test_an_einsum_of_a_diagonal_is_refused_by_name(equation: str) -> None:
    shapes = {"bii": (1, 3, 3), "bi": (1, 3), "bjj": (1, 4, 4)}
    with pytest.raises(UnsupportedOperator, match=rf"'product': Einsum '{equation}' .*write it as MatMul"):
        einsum(equation, [shapes[term] for term in equation.split("->")[0].split(",")], set(), 17)


def test_channels_go_through_a_pointwise_convolution_that_is_an_einsum() -> None:
    g = Graph(1, 3, 8, 8)
    x = g.add("Tanh", g.conv("x", 3, 8))
    x = g.add("Einsum", x, g.constant(6, 8), equation="bchw,oc->bohw")
    net = g.net(g.classifier(g.add("Relu", x), 6, 5))
    channels = label(net)
    assert sorted(len(group) for group in channels.groups) == [6, 8]
    inputs = feed(net.to_proto())
    for seed in range(3):
        keep = random_selection(channels, 0.5, seed)
        assert difference(run(channels.cut(keep), inputs), run(channels.masked(keep), inputs)) <= 1e-5


# ----------------------------------------------------------------------------------------------------------- gathering

DATA = np.random.default_rng(0).normal(size=(1, 4, 5, 6)).astype(np.float32)


def grid(*lines: list[int]) -> np.ndarray:
    return np.stack(np.meshgrid(*lines, indexing="ij"), -1).astype(np.int64)


@pytest.mark.parametrize(
    ("indices", "batch"),
    [
        (np.array([[0]]), 0),
        (np.array([[0, 2], [0, -1]]), 0),
        (np.array([0, 3, 1]), 0),
        (grid([0], [2, 0], [4, -5, 1]), 0),
        (grid([0], [2, 0], [4, 3], [1])[:, :, :, 0], 0),
        (np.array([[[3], [1]]]), 1),
        (grid([3, 1], [2, 0])[None], 1),
    ],
)
def test_a_pick_along_axes_by_gather_nd_is_a_gather(indices: np.ndarray, batch: int) -> None:
    node = helper.make_node("GatherND", ["x", "i"], ["y"], "pick", batch_dims=batch)
    model = small([node], {"x": DATA.shape}, {"i": indices.astype(np.int64)})
    net = loaded(model)
    assert {node.op for node in net.nodes} <= {"Gather", "Reshape"}
    assert difference(run(net, {"x": DATA}), run(model, {"x": DATA})) == 0


@pytest.mark.parametrize("indices", [[[0, 0, 0], [0, 1, 1]], [[0, 1, 2], [0, 1, 3], [0, 2, 1]]])
def test_other_picks_by_gather_nd_are_refused_by_name(indices: list) -> None:
    node = helper.make_node("GatherND", ["x", "i"], ["y"], "pick")
    with pytest.raises(UnsupportedOperator, match=r"'pick': GatherND picks .*write it as Slice"):
        loaded(small([node], {"x": DATA.shape}, {"i": np.array(indices, np.int64)}))


def test_the_same_pick_in_every_row_by_gather_elements_is_a_gather() -> None:
    same = np.broadcast_to(np.array([2, -1, 0]).reshape(1, 1, 3, 1), (1, 4, 3, 6)).astype(np.int64)
    node = helper.make_node("GatherElements", ["x", "i"], ["y"], "pick", axis=2)
    model = small([node], {"x": DATA.shape}, {"i": same})
    assert difference(run(loaded(model), {"x": DATA}), run(model, {"x": DATA})) == 0
    other = np.array(same)
    other[0, 1, 0, 0] = 1
    with pytest.raises(UnsupportedOperator, match=r"'pick': GatherElements picks other elements in every row"):
        loaded(small([node], {"x": DATA.shape}, {"i": other}))


def test_a_pool_to_one_pixel_as_torch_writes_it_works_for_any_batch() -> None:
    """A mean, a row of the numbers of all examples, and each example's own out of it, by places that hang on the batch."""
    g = Graph(1, 3, 8, 8)
    rows = g.add("Reshape", g.add("GlobalAveragePool", g.conv("x", 3, 16)), g.value(np.array([-1])))
    count = g.add("Gather", g.add("Shape", "x"), g.value(np.array(0)), axis=0)
    starts = g.add("Mul", g.add("Range", g.value(np.array(0)), count, g.value(np.array(1))), g.value(np.array(16)))
    places = g.add("Add", g.add("Unsqueeze", starts, g.value(np.array([1, 2, 3]))), g.value(np.arange(16).reshape(1, 16, 1, 1)))
    y = g.dense(g.add("Reshape", g.add("Gather", rows, places, axis=0), g.value(np.array([-1, 16]))), 16, 4)
    model = g.model(y)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    net = loaded(model)
    assert "Gather" not in {node.op for node in net.nodes}
    channels = label(net)
    keep = random_selection(channels, 0.5, 0)
    several = feed(model, batch=3)
    assert difference(run(net, several), run(model, several)) == 0
    assert difference(run(channels.cut(keep), several), run(channels.masked(keep), several)) <= 1e-5
    prove(channels)


def test_the_first_of_several_is_no_shape() -> None:
    model = small([helper.make_node("Gather", ["x", "i"], ["y"], axis=0)], {"x": (1, 4)}, {"i": np.array([0])})
    assert [node.op for node in loaded(model).nodes] == ["Gather"]


def test_picks_out_of_constants_are_constants() -> None:
    nodes = [helper.make_node("GatherND", ["c", "i"], ["p"]), helper.make_node("Add", ["x", "p"], ["y"])]
    net = loaded(small(nodes, {"x": (1, 3)}, {"c": DATA[0, 0], "i": np.array([[0, 1], [2, 2], [4, 5]])}))
    assert np.array_equal(net.constants["p"], DATA[0, 0][[0, 2, 4], [1, 2, 5]])


# ------------------------------------------------------------------------------------------------------------- groups


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
def test_a_group_normalization_of_opset_18_loses_whole_groups(groups: int) -> None:
    draw = np.random.default_rng(0)
    constants = {"w": draw.normal(size=(8, 3, 3, 3)), "s": draw.normal(size=groups), "b": draw.normal(size=groups)}
    constants |= {"v": draw.normal(size=(5, 8, 3, 3))}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("GroupNormalization", ["c", "s", "b"], ["n"], "norm", num_groups=groups, epsilon=0.01),
        helper.make_node("Conv", ["n", "v"], ["y"]),
    ]
    model = small(nodes, {"x": (1, 3, 8, 8)}, {name: value.astype(np.float32) for name, value in constants.items()}, 18)
    net, inputs = loaded(model), feed(model)
    assert difference(run(net, inputs), run(model, inputs)) <= 1e-5
    assert "norm" in [node.name for node in net.nodes]
    assert profile(net).total["sram"] == 2 * 8 * 6 * 6
    channels = label(net)
    assert [len(group) for group in channels.groups] == ([groups] if groups > 1 else [])
    for seed in range(3):
        keep = random_selection(channels, 0.5, seed)
        assert difference(run(channels.cut(keep), inputs), run(channels.masked(keep), inputs)) <= 1e-5


# ------------------------------------------------------------------------------------------------------------- Expand


def gated(op: str, shape: str, *, quantised: bool = False, reader: str = "") -> onnx.ModelProto:
    """x * gate(x) with the gate spread over x first, by a constant shape or that of x; ``reader`` reads the spread gate too."""
    g = Graph(1, 3, 8, 8)
    x = g.add("Relu", g.conv("x", 3, 8))
    gate = g.add("Sigmoid", g.conv(g.add("GlobalAveragePool", x), 8, 8, 1))
    if op == "Tile":
        spread = g.add("Tile", gate, g.value(np.array([1, 1, 8, 8])))
    else:
        spread = g.add("Expand", gate, g.add("Shape", x) if shape == "computed" else g.value(np.array([1, 8, 8, 8])))
    ends = []
    if reader:
        ends.append(g.add(reader, spread, spread, axis=1) if reader == "Concat" else g.add(reader, spread))
    if quantised:
        scale, zero = g.value(np.float32(1 / 256)), g.value(np.uint8(0))
        spread = g.add("DequantizeLinear", g.add("QuantizeLinear", spread, scale, zero), scale, zero)
    ends.append(g.classifier(g.add("Mul", x, spread), 8, 5))
    return g.model(*ends)


@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize(("op", "shape"), [("Expand", "constant"), ("Expand", "computed"), ("Tile", "constant")])
def test_spreading_a_gate_before_a_product_costs_nothing(op: str, shape: str, quantised: bool) -> None:
    model = gated(op, shape, quantised=quantised)
    net, inputs = loaded(model), feed(model)
    assert op not in [node.op for node in net.nodes]
    assert difference(run(net, inputs), run(model, inputs)) == 0
    assert profile(net).total["sram"] == 3 * 8 * 8 + 8 * 8 * 8
    channels = label(net)
    assert [len(group) for group in channels.groups] == [8]
    keep = random_selection(channels, 0.5, 0)
    assert difference(run(channels.cut(keep), inputs), run(channels.masked(keep), inputs)) <= 1e-5


@pytest.mark.parametrize("reader", ["Concat", "Sigmoid", "Softmax"])
def test_a_gate_that_something_else_reads_stays_spread(reader: str) -> None:
    net = loaded(gated("Expand", "constant", reader=reader))
    assert "Expand" in [node.op for node in net.nodes]


def test_an_expand_that_makes_the_full_shape_itself_stays() -> None:
    nodes = [helper.make_node("Expand", ["x", "d"], ["e"]), helper.make_node("Add", ["e", "k"], ["y"])]
    net = loaded(small(nodes, {"x": (1, 4, 1)}, {"d": np.array([1, 4, 6]), "k": np.ones((4, 1), np.float32)}))
    assert [node.op for node in net.nodes] == ["Expand", "Add"]


def test_an_output_of_the_graph_stays_spread() -> None:
    net = loaded(small([helper.make_node("Expand", ["x", "d"], ["y"])], {"x": (1, 4, 1)}, {"d": np.array([1, 4, 6])}))
    assert [node.op for node in net.nodes] == ["Expand"]
