"""BatchNormalization in and out of a network: the outputs stay, and so do names and costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import blocks
import numpy as np
import onnx
import pytest
import torch
from conftest import CORPUS_SHAPES, corpus, difference, random_selection, run
from graphs import Graph
from onnx import helper
from test_trainable import drawn, graph, inputs_of, outputs_of

from mcuprune.channels.labelling import label
from mcuprune.costs.resources import CostModel, profile
from mcuprune.graph import network
from mcuprune.graph.network import Network
from mcuprune.operators import table as ops
from mcuprune.passes.batchnorm import candidates, folded, restored
from mcuprune.train.module import Trainable
from mcuprune.train.trainer import output_moments

torch.set_num_threads(1)

MODELS = sorted((Path(__file__).parents[1] / "models").glob("*.onnx"))
TOLERANCE = 1e-5
_N = helper.make_node


def norm(out: str, data: str, channels: int, tag: str = "") -> tuple[onnx.NodeProto, dict[str, np.ndarray]]:
    names = [f"{key}{tag}" for key in ("scale", "shift", "mean", "var")]
    values = {name: drawn(channels, seed=i) for i, name in enumerate(names)}
    values[names[-1]] = values[names[-1]] ** 2 + 0.1
    return _N("BatchNormalization", [data, *names], [out], name=f"bn{tag}", epsilon=1e-3), values


def net_of(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], shape: tuple[int, ...]) -> Network:
    return network.from_proto(graph(nodes, constants, shape), "net.onnx", accept=ops.accept("net.onnx"))


def with_norm(
    op: str, weight: np.ndarray, channels: int, shape: tuple[int, ...], *, bias: bool = False, **attrs: object
) -> Network:
    """``op``, BatchNormalization, Relu and a last layer."""
    bn, constants = norm("b", "a", channels)
    constants["w"] = weight
    if bias:
        constants["c"] = drawn(channels, seed=9)
    nodes = [
        _N(op, ["x", "w", *(["c"] if bias else [])], ["a"], name="mixer", **attrs),
        bn,
        _N("Relu", ["b"], ["y"], name="act"),
    ]
    return net_of(nodes, constants, shape)


def conv_add_norm() -> Network:
    bn, constants = norm("c", "b", 6)
    nodes = [_N("Conv", ["x", "w"], ["a"], name="mixer"), _N("Add", ["bias", "a"], ["b"], name="add"), bn]
    nodes.append(_N("Relu", ["c"], ["y"], name="act"))
    return net_of(nodes, {**constants, "w": drawn(6, 4, 3, 3), "bias": drawn(6, 1, 1)}, (4, 8, 8))


def with_norms(op: str, weight: np.ndarray, channels: int, shape: tuple[int, ...], **attrs: object) -> Network:
    """``op``, three BatchNormalizations with an Add of channels between the last two, and Relu."""
    pairs = [norm(out, data, channels, tag) for out, data, tag in (("b", "a", "1"), ("c", "b", "2"), ("e", "d", "3"))]
    constants = {"w": weight, "bias": drawn(channels, *[1] * (len(shape) - 1), seed=9)}
    for _, values in pairs:
        constants |= values
    first, second, third = (node for node, _ in pairs)
    add = _N("Add", ["c", "bias"], ["d"], name="add")
    nodes = [_N(op, ["x", "w"], ["a"], name="mixer", **attrs), first, second, add, third, _N("Relu", ["e"], ["y"], name="act")]
    return net_of(nodes, constants, shape)


def product_add(shape: tuple[int, ...]) -> Network:
    nodes = [
        _N("MatMul", ["x", "w"], ["a"], name="mixer"),
        _N("Add", ["a", "bias"], ["b"], name="add"),
        _N("Tanh", ["b"], ["y"]),
    ]
    return net_of(nodes, {"w": drawn(7, 5), "bias": drawn(5)}, shape)


#: name -> network, operators after folding
FOLDABLE: dict[str, tuple[Callable[[], Network], list[str]]] = {
    "Conv": (lambda: with_norm("Conv", drawn(6, 4, 3, 3), 6, (4, 8, 8)), ["Conv", "Relu"]),
    "Conv with bias": (lambda: with_norm("Conv", drawn(6, 4, 3, 3), 6, (4, 8, 8), bias=True), ["Conv", "Relu"]),
    "Conv grouped": (lambda: with_norm("Conv", drawn(6, 2, 3, 3), 6, (4, 8, 8), group=2), ["Conv", "Relu"]),
    "Conv depthwise": (lambda: with_norm("Conv", drawn(8, 1, 3, 3), 8, (4, 8, 8), group=4, bias=True), ["Conv", "Relu"]),
    "Conv 1-D": (lambda: with_norm("Conv", drawn(6, 4, 3), 6, (4, 8)), ["Conv", "Relu"]),
    "Conv, Add, norm": (conv_add_norm, ["Conv", "Relu"]),
    "ConvTranspose": (
        lambda: with_norm("ConvTranspose", drawn(4, 6, 3, 3), 6, (4, 8, 8), bias=True, strides=[2, 2]),
        ["ConvTranspose", "Relu"],
    ),
    "ConvTranspose grouped": (
        lambda: with_norm("ConvTranspose", drawn(4, 3, 3, 3), 6, (4, 8, 8), group=2, bias=True),
        ["ConvTranspose", "Relu"],
    ),
    "ConvTranspose depthwise": (
        lambda: with_norm("ConvTranspose", drawn(4, 1, 3, 3), 4, (4, 8, 8), group=4),
        ["ConvTranspose", "Relu"],
    ),
    "Gemm": (lambda: with_norm("Gemm", drawn(7, 5), 5, (7,), bias=True), ["Gemm", "Relu"]),
    "Gemm alpha, beta": (
        lambda: with_norm("Gemm", drawn(5, 7), 5, (7,), bias=True, alpha=0.5, beta=-3.0, transB=1),
        ["Gemm", "Relu"],
    ),
    "MatMul": (lambda: with_norm("MatMul", drawn(7, 5), 5, (7,)), ["Gemm", "Relu"]),
    "Conv, norms": (lambda: with_norms("Conv", drawn(6, 4, 3, 3), 6, (4, 8, 8)), ["Conv", "Relu"]),
    "ConvTranspose, norms": (
        lambda: with_norms("ConvTranspose", drawn(4, 3, 3, 3), 6, (4, 8, 8), group=2),
        ["ConvTranspose", "Relu"],
    ),
    "Gemm, norms": (lambda: with_norms("Gemm", drawn(7, 5), 5, (7,), alpha=0.5), ["Gemm", "Relu"]),
    "MatMul, norms": (lambda: with_norms("MatMul", drawn(7, 5), 5, (7,)), ["Gemm", "Relu"]),
    "MatMul, Add": (lambda: product_add((7,)), ["Gemm", "Tanh"]),
    "MatMul over the last axis, Add": (lambda: product_add((3, 7)), ["MatMul", "Add", "Tanh"]),
}


@pytest.mark.parametrize("name", FOLDABLE)
def test_folding_changes_nothing_but_the_nodes(name: str) -> None:
    make, operators = FOLDABLE[name]
    net = make()
    after = folded(net)
    assert [node.op for node in after.nodes] == operators
    inputs = inputs_of(net, 3)
    assert difference(run(after, inputs), run(net, inputs)) <= TOLERANCE
    onnx.checker.check_model(after.to_proto(), full_check=True)


@pytest.mark.parametrize("name", FOLDABLE)
def test_folding_keeps_the_costs(name: str) -> None:
    net = FOLDABLE[name][0]()
    assert profile(folded(net)).total == profile(net).total


@pytest.mark.parametrize("name", FOLDABLE)
def test_folding_keeps_names(name: str) -> None:
    net = FOLDABLE[name][0]()
    after = folded(net)
    assert {node.name for node in after.nodes} <= {node.name for node in net.nodes}
    assert {name for node in after.nodes for name in node.outputs} <= set(net.producer)
    assert after.inputs == net.inputs
    assert after.outputs == net.outputs


@pytest.mark.parametrize("path", corpus(), ids=lambda path: path.stem)
def test_real_files_fold_without_a_change(path: Path) -> None:
    net = network.load(path, input_shapes=CORPUS_SHAPES.get(path.name), accept=ops.accept(path.name))
    after = folded(net)
    if len(after.nodes) == len(net.nodes):
        pytest.skip("nothing to fold in it")
    inputs = inputs_of(net, 1)
    assert difference(run(after, inputs), run(net, inputs)) <= TOLERANCE
    assert profile(after).total == profile(net).total


def test_a_gemm_without_a_norm_gets_rid_of_alpha_and_beta() -> None:
    net = net_of([_N("Gemm", ["x", "w", "c"], ["y"], alpha=0.5, beta=3.0)], {"w": drawn(7, 5), "c": drawn(5)}, (7,))
    after = folded(net)
    assert (after.nodes[0].attrs["alpha"], after.nodes[0].attrs["beta"]) == (1.0, 1.0)
    inputs = inputs_of(net, 3)
    assert difference(run(after, inputs), run(net, inputs)) <= TOLERANCE


def test_weights_that_two_convolutions_share_are_not_folded() -> None:
    first, constants = norm("b", "a", 4, "1")
    second, more = norm("d", "c", 4, "2")
    nodes = [_N("Conv", ["x", "w"], ["a"]), first, _N("Conv", ["b", "w"], ["c"]), second, _N("Relu", ["d"], ["y"])]
    net = net_of(nodes, {**constants, **more, "w": drawn(4, 4, 3, 3)}, (4, 8, 8))
    assert folded(net).nodes == net.nodes
    assert candidates(net) == ()


def test_a_norm_whose_input_somebody_else_reads_is_not_folded() -> None:
    bn, constants = norm("b", "a", 6)
    nodes = [_N("Conv", ["x", "w"], ["a"]), bn, _N("Add", ["a", "b"], ["y"])]
    net = net_of(nodes, {**constants, "w": drawn(6, 4, 3, 3)}, (4, 8, 8))
    assert folded(net).nodes == net.nodes


def test_a_constant_added_after_a_norm_is_a_bias_too() -> None:
    bn, constants = norm("b", "a", 6)
    nodes = [_N("Conv", ["x", "w"], ["a"]), bn, _N("Add", ["b", "c"], ["d"]), _N("Relu", ["d"], ["y"])]
    net = net_of(nodes, {**constants, "w": drawn(6, 4, 3, 3), "c": drawn(6, 1, 1)}, (4, 8, 8))
    after = folded(net)
    assert [node.op for node in after.nodes] == ["Conv", "Relu"]
    inputs = inputs_of(net, 2)
    assert difference(run(after, inputs), run(net, inputs)) <= TOLERANCE


def test_a_gemm_whose_bias_another_shares_keeps_alpha_until_a_norm_takes_it() -> None:
    bn, constants = norm("b", "a", 5)
    nodes = [_N("Gemm", ["x", "w", "c"], ["a"], alpha=0.5, beta=3.0), bn, _N("Gemm", ["b", "v", "c"], ["y"], beta=2.0)]
    plain = net_of(nodes, {**constants, "w": drawn(7, 5), "v": drawn(5, 5), "c": drawn(5)}, (7,))
    shared = [replace(node, inputs=(*node.inputs[:2], "c")) if node.op == "Gemm" else node for node in plain.nodes]
    net = plain.rebuilt(shared, {**plain.constants, "c": drawn(5)})  # loading may have stored the two apart
    after = folded(net)
    assert [node.op for node in after.nodes] == ["Gemm", "Gemm"]
    inputs = inputs_of(net, 2)
    assert difference(run(after, inputs), run(net, inputs)) <= TOLERANCE


def test_a_bias_that_two_convolutions_share_is_folded_into_both_apart() -> None:
    first, constants = norm("b", "a", 4, "1")
    second, more = norm("d", "c", 4, "2")
    nodes = [_N("Conv", ["x", "w", "z"], ["a"]), first, _N("Conv", ["b", "v", "z"], ["c"]), second, _N("Relu", ["d"], ["y"])]
    constants |= {**more, "w": drawn(4, 4, 3, 3), "v": drawn(4, 4, 3, 3, seed=5), "z": drawn(4)}
    plain = net_of(nodes, constants, (4, 8, 8))
    shared = [replace(node, inputs=(*node.inputs[:2], "z")) if node.op == "Conv" else node for node in plain.nodes]
    net = plain.rebuilt(shared, {**plain.constants, "z": constants["z"]})  # loading may have stored the two apart
    after = folded(net)
    assert [node.op for node in after.nodes] == ["Conv", "Conv", "Relu"]
    inputs = inputs_of(net, 2)
    assert difference(run(after, inputs), run(net, inputs)) <= TOLERANCE


def test_cuts_of_chains_of_norms_are_priced_as_they_are_folded() -> None:
    g = Graph(1, 3, 8, 8)
    x = g.add("Relu", g.norm(g.norm(g.conv("x", 3, 12, bias=False), 12), 12))
    x = g.norm(g.add("Add", g.norm(g.conv(x, 12, 8), 8), g.constant(8, 1, 1)), 8)
    y = g.norm(g.conv(x, 8, 8, bias=False), 8)
    channels = label(g.net(g.classifier(g.add("Relu", g.add("Add", g.norm(y, 8), y)), 8, 4)))
    peak, arena = CostModel(channels), CostModel(channels, "tflm")
    for seed, share in enumerate((0.0, 0.3, 0.6, 0.9)):
        keep = random_selection(channels, share, seed)
        written, widths = profile(folded(channels.cut(keep))), channels.widths(keep)
        assert peak.at(widths) == {name: written.total[name] for name in ("sram", "flash", "macs")}
        assert arena.at(widths)["sram"] == written.memory.arena_tflm


# ------------------------------------------------------------------------------------------------------------- restoring


def normalised(net: Network, x: np.ndarray) -> Network:
    nodes = candidates(net)
    moments = output_moments(Trainable(label(net)), {node.outputs[0] for node in nodes}, x)
    return restored(net, {node.name: moments[node.outputs[0]] for node in nodes})


@pytest.mark.parametrize("name", blocks.BLOCKS)
def test_restored_norms_leave_the_outputs_alone(name: str) -> None:
    """The exporter folded them; those that it couldn't are still there."""
    net = network.from_proto(onnx.load_from_string(blocks.exported(name, "dynamic")), "net.onnx")
    after = normalised(net, drawn(32, *blocks.SHAPE))
    count = sum(node.op == "BatchNormalization" for node in after.nodes)
    assert count == sum(node.op == "BatchNormalization" for node in net.nodes) + len(candidates(net))
    inputs = inputs_of(net, 4)
    assert difference(run(after, inputs), run(net, inputs)) <= TOLERANCE
    assert difference(outputs_of(Trainable(label(after)), inputs), run(net, inputs)) <= TOLERANCE
    assert set(net.producer) <= set(after.producer)
    assert {node.name for node in net.nodes} <= {node.name for node in after.nodes}


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_there_and_back_is_the_same_network(path: Path) -> None:
    net = folded(network.load(path))
    back = folded(normalised(net, drawn(64, *net.shapes[net.inputs[0]][1:])))
    assert [node.name for node in back.nodes] == [node.name for node in net.nodes]
    assert list(back.producer) == list(net.producer)
    assert candidates(folded(net)) == candidates(net)
    inputs = inputs_of(net, 3)
    assert difference(run(back, inputs), run(net, inputs)) <= TOLERANCE


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_restored_norms_see_normal_data_in_training(path: Path) -> None:
    """Batch statistics of the data that the moments come from are those moments: training starts where the network stood."""
    net = folded(network.load(path))
    x = np.abs(drawn(128, *net.shapes[net.inputs[0]][1:]))
    module = Trainable(label(normalised(net, x)))
    with torch.no_grad():
        module.train()
        trained = module(torch.from_numpy(x))[0].numpy()
    assert difference([trained], run(net, {net.inputs[0]: x})) <= 1e-3


def test_a_convolution_whose_bias_is_an_add_gets_its_norm_behind_the_add() -> None:
    nodes = [_N("Conv", ["x", "w"], ["a"]), _N("Add", ["a", "c"], ["b"]), _N("Relu", ["b"], ["y"])]
    net = net_of(nodes, {"w": drawn(6, 4, 3, 3), "c": drawn(6, 1, 1)}, (4, 8, 8))
    after = normalised(net, drawn(16, 4, 8, 8))
    assert [node.op for node in after.nodes] == ["Conv", "Add", "BatchNormalization", "Relu"]
    assert [node.op for node in folded(after).nodes] == ["Conv", "Relu"]
    assert profile(after).total == profile(net).total


def test_a_dead_channel_survives_the_round_trip() -> None:
    weight = drawn(6, 4, 3, 3)
    weight[2] = 0
    net = net_of([_N("Conv", ["x", "w", "c"], ["a"]), _N("Relu", ["a"], ["y"])], {"w": weight, "c": drawn(6)}, (4, 8, 8))
    after = normalised(net, drawn(16, 4, 8, 8))
    inputs = inputs_of(net, 3)
    assert difference(run(after, inputs), run(net, inputs)) <= TOLERANCE
    assert difference(run(folded(after), inputs), run(net, inputs)) <= TOLERANCE


def test_moments_are_those_of_all_examples() -> None:
    net = net_of([_N("Conv", ["x", "w"], ["a"]), _N("Relu", ["a"], ["y"])], {"w": drawn(6, 4, 3, 3)}, (4, 8, 8))
    x = drawn(300, 4, 8, 8)  # more than one batch of the measurement, and a smaller last one
    mean, variance = output_moments(Trainable(label(net)), {"a"}, x)["a"]
    weight = torch.from_numpy(net.constants["w"].copy())
    expected = torch.nn.functional.conv2d(torch.from_numpy(x), weight).double().numpy()
    np.testing.assert_allclose(mean, expected.mean((0, 2, 3)), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(variance, expected.var((0, 2, 3)), rtol=1e-5, atol=1e-7)
