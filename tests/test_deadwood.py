"""Channels that only constants depend on: removed exactly, or left where that can't be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from mcuprune.channels.labelling import Channels, label
from mcuprune.graph import network
from mcuprune.graph.network import Network
from mcuprune.operators.table import OPS, Mixer
from mcuprune.passes import batchnorm as folding
from mcuprune.train import evaluate
from mcuprune.train.sparse import cut_dead

torch.set_num_threads(1)

MODELS = sorted((Path(__file__).parents[1] / "models").glob("*.onnx"))


def answers(net: Network, x: np.ndarray) -> np.ndarray:
    return evaluate.Model(bytes(net.to_proto().SerializeToString()))(x)


def emptied(channels: Channels, dead: np.ndarray, biases: np.random.Generator | None = None) -> Channels:
    """The network with the weights that bear some components at zero. biases: draws biases, so that constants are left."""
    net = channels.network
    constants, nodes = dict(net.constants), {node.name: node for node in net.nodes}
    for slot in channels.slots:
        entry = OPS[nodes[slot.node].op]
        if isinstance(entry, Mixer) and slot.index == 1 and slot.axis == entry.weight_axes(nodes[slot.node])[1]:
            weight = np.moveaxis(constants[slot.constant].copy(), slot.axis, 0)
            weight[dead[slot.components]] = 0
            constants[slot.constant] = np.moveaxis(weight, 0, slot.axis)
        elif biases is not None and isinstance(entry, Mixer) and slot.index == 2:
            constants[slot.constant] = constants[slot.constant] + biases.normal(0.3, 0.3, slot.components.shape).astype(
                np.float32
            )
    return channels.with_network(net.with_constants(constants))


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 1000))
def test_removing_dead_channels_changes_no_answer(path, seed):
    draw = np.random.default_rng(seed)
    channels = label(folding.folded(network.load(path)))
    dead = draw.random(channels.n_components + 1) < 0.4
    dead[0] = False
    sparse = emptied(channels, dead, draw)
    x = draw.normal(size=(64, 1, 16, 16)).astype(np.float32)
    cut, kept = cut_dead(sparse, [x], 32)
    right = answers(sparse.network, x)
    assert sum(map(len, kept.values())) < sum(map(len, channels.groups))
    np.testing.assert_allclose(answers(cut, x), right, atol=2e-4 * np.abs(right).max())


def two_convolutions(pads: list[int], bias: float) -> Network:
    """Conv of 4 channels, the last of zero weights and this bias, Relu, and a 3 x 3 Conv with these pads."""
    draw = np.random.default_rng(0)
    first = draw.normal(size=(4, 1, 1, 1)).astype(np.float32)
    first[3] = 0
    constants = {
        "first": first,
        "bias": np.array([0.1, 0.2, 0.3, bias], np.float32),
        "second": draw.normal(size=(5, 4, 3, 3)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "first", "bias"], ["a"], name="one"),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", "second"], ["y"], name="two", pads=pads),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return network.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "g.onnx")


@pytest.mark.parametrize(
    ("pads", "bias", "stay"),
    [
        ([0, 0, 0, 0], 0.7, 3),  # seen at all taps: its constant goes into the bias of the reader, which had none
        ([1, 1, 1, 1], 0.7, 4),  # at the border the reader sees zeros: it has to stay
        ([1, 1, 1, 1], -0.7, 3),  # zero behind the Relu: nothing is seen anywhere
    ],
)
def test_zero_padding_keeps_a_channel_whose_constant_it_would_change(pads, bias, stay):
    net = two_convolutions(pads, bias)
    x = np.random.default_rng(1).normal(size=(8, 1, 8, 8)).astype(np.float32)
    cut, kept = cut_dead(label(net), [x], 8)
    assert len(kept["one"]) == stay
    np.testing.assert_allclose(answers(cut, x), answers(net, x), atol=1e-5)


def test_a_channel_that_nobody_reads_goes_whatever_it_holds():
    net = two_convolutions([1, 1, 1, 1], 0.7)
    second = net.constants["second"].copy()
    second[:, 1] = 0
    net = net.with_constants({"second": second})
    x = np.random.default_rng(1).normal(size=(8, 1, 8, 8)).astype(np.float32)
    cut, kept = cut_dead(label(net), [x], 8)
    assert kept["one"] == (0, 2, 3)
    np.testing.assert_allclose(answers(cut, x), answers(net, x), atol=1e-5)
