"""Salience: a channel counts for what its normalisation or its weights say, and its strongest member speaks for all."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from test_folding import norm
from test_trainable import drawn, graph

from mcuprune.channels.labelling import Channels, label
from mcuprune.channels.salience import salience
from mcuprune.graph import network

_N = helper.make_node


def channels_of(nodes: list[onnx.NodeProto], constants: dict[str, Any], shape: tuple[int, ...]) -> Channels:
    return label(network.from_proto(graph(nodes, constants, shape), "net.onnx"))


def of_group(channels: Channels, index: int = 0) -> np.ndarray:
    return salience(channels)[list(channels.groups[index].components)]


@pytest.mark.parametrize("between", [False, True], ids=["alone", "bias between"])
def test_a_normalised_channel_counts_by_its_scale(between: bool) -> None:
    bn, constants = norm("c", "b" if between else "a", 5)
    bias = [_N("Add", ["a", "bias"], ["b"])] if between else []
    nodes = [_N("Conv", ["x", "w"], ["a"]), *bias, bn, _N("Relu", ["c"], ["d"]), _N("Conv", ["d", "v"], ["y"])]
    constants |= {"w": 100 * drawn(5, 3, 3, 3), "bias": drawn(5, 1, 1), "v": drawn(2, 5, 1, 1)}
    channels = channels_of(nodes, {k: v for k, v in constants.items() if k != "bias" or between}, (3, 6, 6))
    np.testing.assert_allclose(of_group(channels), np.abs(constants["scale"]), rtol=1e-6)


@pytest.mark.parametrize(
    ("op", "weight", "last", "shape", "axis"),
    [
        ("Conv", drawn(5, 3, 3, 3), drawn(2, 5, 1, 1), (3, 6, 6), 0),
        ("ConvTranspose", drawn(3, 5, 3, 3), drawn(5, 2, 1, 1), (3, 6, 6), 1),
        ("Gemm", drawn(3, 5), drawn(5, 2), (3,), 1),
        ("MatMul", drawn(3, 5), drawn(5, 2), (4, 3), 1),
    ],
)
def test_other_channels_count_by_the_norm_of_their_weights(
    op: str, weight: np.ndarray, last: np.ndarray, shape: tuple[int, ...], axis: int
) -> None:
    nodes = [_N(op, ["x", "w"], ["a"]), _N("Relu", ["a"], ["b"]), _N(op, ["b", "v"], ["y"])]
    channels = channels_of(nodes, {"w": weight, "v": last}, shape)
    expected = np.sqrt((weight.astype(np.float64) ** 2).sum(tuple(a for a in range(weight.ndim) if a != axis)))
    np.testing.assert_allclose(of_group(channels), expected, rtol=1e-6)


def test_the_strongest_member_of_a_component_speaks_for_it() -> None:
    nodes = [
        _N("Conv", ["x", "w"], ["a"]),
        _N("Conv", ["x", "u"], ["b"]),
        _N("Add", ["a", "b"], ["c"]),
        _N("Relu", ["c"], ["d"]),
        _N("Conv", ["d", "v"], ["y"]),
    ]
    w, u = drawn(5, 3, 1, 1), drawn(5, 3, 1, 1, seed=2)
    channels = channels_of(nodes, {"w": w, "u": u, "v": drawn(2, 5, 1, 1)}, (3, 6, 6))
    one, other = (np.linalg.norm(weight.reshape(5, -1).astype(np.float64), axis=1) for weight in (w, u))
    np.testing.assert_allclose(of_group(channels), np.maximum(one, other), rtol=1e-6)


def test_what_cannot_go_counts_infinitely() -> None:
    nodes = [_N("Conv", ["x", "w"], ["a"]), _N("Relu", ["a"], ["b"]), _N("Conv", ["b", "v"], ["y"])]
    channels = channels_of(nodes, {"w": drawn(5, 3, 3, 3), "v": drawn(2, 5, 1, 1)}, (3, 6, 6))
    assert salience(channels)[0] == np.inf
    assert np.isfinite(salience(channels)[1:]).all()


def test_weights_of_another_moment_can_be_asked_about() -> None:
    nodes = [_N("Conv", ["x", "w"], ["a"]), _N("Relu", ["a"], ["b"]), _N("Conv", ["b", "v"], ["y"])]
    channels = channels_of(nodes, {"w": drawn(5, 3, 3, 3), "v": drawn(2, 5, 1, 1)}, (3, 6, 6))
    later = channels.network.with_constants({"w": 2 * channels.network.constants["w"]})
    np.testing.assert_allclose(salience(channels, later)[1:], 2 * salience(channels)[1:])
