"""Layers that no gradient reaches begin anew, and only those."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import helper
from test_trainable import channels_of, drawn, graph
from test_training import trainer

from mcuprune.channels.labelling import Channels
from mcuprune.train import revival


def stack(shift: float) -> Channels:
    """Two normalised convolutions and a classifier of digits; the first normalisation has this shift."""
    norms = {f"{kind}{i}": np.full(width, value, np.float32) for i, width in ((1, 2), (2, 6)) for kind, value in NORM.items()}
    norms["shift1"][:] = shift
    weights = {"w1": drawn(2, 1, 3, 3), "w2": drawn(6, 2, 3, 3), "v": drawn(10, 6), "u": np.zeros(10, np.float32)}
    nodes = []
    for i, data in ((1, "x"), (2, "r1")):
        nodes += [
            helper.make_node("Conv", [data, f"w{i}"], [f"c{i}"], strides=[2, 2], name=f"conv{i}"),
            helper.make_node(
                "BatchNormalization", [f"c{i}", f"scale{i}", f"shift{i}", f"mean{i}", f"var{i}"], [f"n{i}"], name=f"norm{i}"
            ),
            helper.make_node("Relu", [f"n{i}"], [f"r{i}"], name=f"relu{i}"),
        ]
    nodes += [
        helper.make_node("GlobalAveragePool", ["r2"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "v", "u"], ["y"], transB=1),
    ]
    return channels_of(graph(nodes, {**weights, **norms}, (1, 16, 16)))


NORM = {"scale": 1.0, "shift": 0.0, "mean": 0.0, "var": 1.0}


def first_shift(channels: Channels, steps: int) -> np.ndarray:
    training = trainer(channels, total=4 * steps, lr=0.01)
    for _ in range(steps):
        training.train_step()
    return training.module.constant("shift1").detach().numpy()


def test_a_dead_layer_begins_anew_and_learns() -> None:
    training = trainer(stack(-9.0), total=200, lr=0.05)
    losses = [training.train_step() for _ in range(2 * revival.EVERY)]
    weight = training.module.constant("w1")
    assert weight.grad is not None
    assert weight.grad.any()
    assert np.mean(losses[-8:]) < np.mean(losses[:8])
    (note,) = training.notes
    assert f"the last in step {revival.EVERY - 1};" in note


def test_before_it_is_looked_for_death_is_what_it_is() -> None:
    np.testing.assert_array_equal(first_shift(stack(-9.0), 3), np.full(2, -9.0, np.float32))


def test_a_living_network_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = revival.EVERY + 2
    looked = first_shift(stack(0.0), steps)
    monkeypatch.setattr(revival, "EVERY", 10**9)
    np.testing.assert_array_equal(looked, first_shift(stack(0.0), steps))


def test_a_dead_branch_beside_a_living_one_rests() -> None:
    training = trainer(stack(-9.0), total=200)
    training.train_step()
    first = training.module.constant("w1")
    first.grad = torch.ones_like(first)
    assert revival.revive(training.module, training._optimizer) == ()


def test_where_the_first_weights_are_not_trained_nothing_begins_anew() -> None:
    """Nobody can tell then whether the network hears of its inputs."""
    training = trainer(stack(-9.0), total=200)
    training.train_step()
    training.module.constant("w1").grad = None
    assert revival.revive(training.module, training._optimizer) == ()


def test_late_in_a_training_nothing_begins_anew() -> None:
    """What begins anew needs time to learn."""
    training = trainer(stack(-9.0), total=revival.EVERY + 1)
    for _ in range(revival.EVERY + 1):
        training.train_step()
    assert training.notes == ()


def test_where_no_gradient_is_left_at_all_nothing_begins_anew() -> None:
    """A loss that is flat everywhere says nothing of any layer."""
    training = trainer(stack(-9.0), total=20)
    training.train_step()
    for weight in training.module.parameters():
        weight.grad = torch.zeros_like(weight)
    assert revival.revive(training.module, training._optimizer) == ()


def test_how_often_layers_began_anew_is_taken_up_with_the_rest() -> None:
    channels = stack(-9.0)
    training, other = trainer(channels, total=200), trainer(channels, total=200)
    for _ in range(revival.EVERY):
        training.train_step()
    other.restore(training.state(), channels)
    assert other.notes == training.notes != ()
