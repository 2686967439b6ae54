"""An If that is decided before the network runs is the branch that it takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import difference, feed, random_selection, run
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from mcuprune.channels.labelling import label
from mcuprune.cli import main
from mcuprune.errors import ModelError, UnsupportedOperator
from mcuprune.graph import network
from mcuprune.graph.network import Network
from mcuprune.operators import table as ops

CHANNELS = 8
DRAW = np.random.default_rng(0)


def value(name: str, array: object) -> TensorProto:
    return numpy_helper.from_array(np.asarray(array), name)


def floats(name: str, *shape: int) -> TensorProto:
    return value(name, DRAW.normal(size=shape).astype(np.float32))


def branch(nodes: list[onnx.NodeProto], *outputs: str, stored: tuple[TensorProto, ...] = ()) -> onnx.GraphProto:
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    return helper.make_graph(nodes, "branch", [], results, stored)


def passing(source: str) -> onnx.GraphProto:
    """A branch that hands on what lies around it."""
    return branch([helper.make_node("Identity", [source], [f"{source}_"])], f"{source}_")


def chosen(condition: str, then: onnx.GraphProto, other: onnx.GraphProto, *outputs: str, name: str = "choice"):
    return helper.make_node("If", [condition], outputs, name, then_branch=then, else_branch=other)


def between(nodes: list[onnx.NodeProto], stored: list[TensorProto], *, opset: int = 17, rank: int = 4) -> onnx.ModelProto:
    """``nodes`` between a convolution's activation ``a`` (1, 8, 6, 6) and a layer that reads ``b``, of this rank."""
    around = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Tanh", ["c"], ["a"], "tanh"),
        *nodes,
        helper.make_node("Flatten", ["b"], ["f"], "flatten"),
        helper.make_node("MatMul", ["f", "last"], ["y"], "last"),
    ]
    weights = [floats("w", CHANNELS, 3, 3, 3), floats("last", CHANNELS * (36 if rank == 4 else 1), 3)]
    graph = helper.make_graph(
        around,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
        [*weights, *stored],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def loaded(model: onnx.ModelProto) -> Network:
    return network.from_proto(model, "net.onnx", accept=ops.accept("net.onnx"))


def unary(op: str, source: str, target: str, **attrs: object) -> onnx.NodeProto:
    return helper.make_node(op, [source], [target], **attrs)


def squeezes(axis: int) -> onnx.ModelProto:
    """What torch exports of ``squeeze(axis)``: whether that axis of a pooled tensor, or of one that isn't, has size 1."""
    nodes = [
        unary("GlobalAveragePool", "a", "p"),
        unary("Shape", "p", "s"),
        helper.make_node("Gather", ["s", "axis"], ["size"]),
        helper.make_node("Equal", ["size", "one"], ["is_one"]),
        chosen(
            "is_one",
            branch([helper.make_node("Squeeze", ["p", "axes"], ["squeezed"])], "squeezed"),
            branch([unary("Identity", "p", "kept")], "kept"),
            "b",
        ),
    ]
    return between(nodes, [value("axis", np.int64(axis)), value("one", np.int64(1)), value("axes", np.int64([axis]))], rank=2)


def by_constant(taken: bool, opset: int = 17) -> onnx.ModelProto:
    """A branch with constants of both sorts and with names that the graph around it has, too."""
    then = branch(
        [
            helper.make_node("Constant", [], ["k"], value=floats("", CHANNELS, 1, 1)),
            helper.make_node("Mul", ["a", "k"], ["t"], "tanh"),
            helper.make_node("Add", ["t", "w2"], ["u"]),
        ],
        "u",
        stored=(floats("w2", CHANNELS, 1, 1),),
    )
    other = branch([unary("Sigmoid", "a", "t"), unary("Neg", "t", "u")], "u")
    return between([chosen("go", then, other, "b")], [value("go", np.array([taken]))], opset=opset)


def nested(outer: bool, inner: bool) -> onnx.ModelProto:
    """An If in an If that reads what the outer branch makes, an initializer of it, and what lies around both."""
    deep = [
        branch([helper.make_node("Add", ["t", "k"], ["m"]), helper.make_node("Mul", ["m", "a"], ["n"])], "n"),
        passing("t"),
    ]
    then = branch(
        [unary("Exp", "a", "t"), chosen("go2", *deep, "r", name="deep"), unary("Neg", "r", "u")],
        "u",
        stored=(floats("k", CHANNELS, 1, 1),),
    )
    other = passing("a")
    return between([chosen("go1", then, other, "b")], [value("go1", np.array(outer)), value("go2", np.array(inner))])


def twice() -> onnx.ModelProto:
    """A branch that hands one tensor on twice, and a constant; two Ifs of the same form one after the other."""
    forms = [branch([unary("Abs", source, "t")], "t", "t", "k", stored=(floats("k", CHANNELS, 1, 1),)) for source in ("a", "d")]
    empty = branch([unary("Neg", "a", "t")], "t", "t", "t")
    nodes = [
        chosen("go", forms[0], empty, "p", "q", "r", name=""),
        helper.make_node("Add", ["p", "q"], ["pq"]),
        helper.make_node("Mul", ["pq", "r"], ["d"]),
        chosen("go", forms[1], empty, "b", "z1", "z2", name=""),
    ]
    return between(nodes, [value("go", np.array(True))])


MODELS = {
    "squeeze": squeezes(2),
    "by constant, then": by_constant(True),
    "by constant, else": by_constant(False),
    "old opset": by_constant(True, 11),
    "nested, then then": nested(True, True),
    "nested, then else": nested(True, False),
    "nested, else": nested(False, True),
    "twice": twice(),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_decided_if_is_its_branch(name: str) -> None:
    model = MODELS[name]
    net, inputs = loaded(model), feed(model)
    assert "If" not in [node.op for node in net.nodes]
    assert len({node.name for node in net.nodes}) == len(net.nodes)
    # onnxruntime gets a branch wrong that hands one tensor on twice, so the oracle is ONNX's reference
    assert difference(run(net, inputs), ReferenceEvaluator(model).run(None, inputs)) <= 1e-5
    channels = label(net)
    assert [len(group) for group in channels.groups] == [CHANNELS]
    keep = random_selection(channels, 0.5, 0)
    assert difference(run(channels.cut(keep), inputs), run(channels.masked(keep), inputs)) <= 1e-5


def test_a_branch_may_hold_what_is_read_as_simpler_operators() -> None:
    then = branch([helper.make_node("Einsum", ["a", "k"], ["t"], equation="bchw,dc->bdhw")], "t", stored=(floats("k", 8, 8),))
    model = between([chosen("go", then, passing("a"), "b")], [value("go", np.array(True))])
    assert "MatMul" in [node.op for node in loaded(model).nodes[:-1]]
    assert difference(run(loaded(model), feed(model)), run(model, feed(model))) <= 1e-6


def test_a_branch_that_is_not_taken_may_hold_anything() -> None:
    other = branch([helper.make_node("NonZero", ["a"], ["t"])], "t")
    net = loaded(between([chosen("go", branch([], "a"), other, "b")], [value("go", np.array(True))]))
    assert [node.op for node in net.nodes] == ["Conv", "Tanh", "Identity", "Flatten", "MatMul"]
    with pytest.raises(UnsupportedOperator, match="NonZero"):
        loaded(between([chosen("go", branch([], "a"), other, "b")], [value("go", np.array(False))]))


def test_an_if_that_the_data_decide_is_refused_with_advice() -> None:
    nodes = [
        unary("ReduceMax", "a", "m", keepdims=0),
        helper.make_node("Greater", ["m", "zero"], ["go"]),
        chosen("go", branch([], "a"), branch([unary("Neg", "a", "t")], "t"), "b"),
    ]
    with pytest.raises(UnsupportedOperator, match=r"'choice': If is control flow that 'go' decides .*onnxsim, onnxslim"):
        loaded(between(nodes, [value("zero", np.float32(0))]))


def test_other_control_flow_within_a_branch_is_refused_by_name() -> None:
    body = helper.make_graph([], "body", [], [])
    then = branch([helper.make_node("Loop", ["n", ""], ["t"], "turns", body=body)], "t")
    with pytest.raises(UnsupportedOperator, match=r"'choice/turns': Loop is control flow"):
        loaded(between([chosen("go", then, branch([], "a"), "b")], [value("go", np.array(True)), value("n", np.int64(3))]))


@pytest.mark.parametrize("condition", [np.array([True, False]), np.zeros(0, bool)])
def test_a_condition_of_several_values_is_refused(condition: np.ndarray) -> None:
    with pytest.raises(ModelError, match=r"'choice' .* condition of shape"):
        loaded(between([chosen("go", branch([], "a"), branch([], "a"), "b")], [value("go", condition)]))


def test_nodes_in_the_best_order_keep_what_a_branch_reads_before_it(tmp_path: Path) -> None:
    for name, model in MODELS.items():
        onnx.save(model, tmp_path / "net.onnx")
        assert main(["profile", str(tmp_path / "net.onnx"), "-q", "--write-order", str(tmp_path / "out.onnx")]) == 0, name
        again = onnx.load(tmp_path / "out.onnx")
        assert difference(run(again, feed(model)), run(model, feed(model))) == 0
