"""What an optimiser's step does to weights, held against linear algebra and torch's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mcuprune.train.muon import Muon, levelled, levelled_together
from mcuprune.train.optimizers import MOMENTUM, OPTIMIZERS


@given(st.integers(1, 12), st.integers(1, 40), st.integers(0, 10_000), st.floats(1e-6, 1e6))
def test_levelling_keeps_singular_vectors_and_brings_singular_values_near_one(
    rows: int, columns: int, seed: int, scale: float
) -> None:
    random = np.random.default_rng(seed)
    matrix = random.standard_normal((rows, columns))
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    s = np.linspace(1.0, 2.0, len(s))  # far enough from zero for five iterations
    found = levelled(torch.from_numpy((u * s) @ v * scale)).numpy()
    inner = u.T @ found @ v.T
    assert np.abs(inner - np.diag(np.diag(inner))).max() < 1e-6
    assert 0.6 < np.diag(inner).min() <= np.diag(inner).max() < 1.3


def test_levelling_takes_a_stack_of_matrices_one_by_one_and_leaves_zeros() -> None:
    random = np.random.default_rng(0)
    stack = torch.from_numpy(random.standard_normal((3, 4, 7)))
    stack[1] = 0
    found = levelled(stack)
    np.testing.assert_allclose(found[2], levelled(stack[2]), atol=1e-12)
    assert not found[1].any()


def test_rows_and_columns_of_zeros_change_nothing_for_the_others() -> None:
    """So a cut leaves the course of what stays as it is, once the optimiser has forgotten what went."""
    random = np.random.default_rng(1)
    wide = torch.from_numpy(random.standard_normal((6, 9)))
    rows, columns = torch.tensor([0, 2, 5]), torch.tensor([1, 2, 4, 8])
    gated = torch.zeros(6, 9, dtype=wide.dtype)
    gated[np.ix_(rows, columns)] = wide[np.ix_(rows, columns)]
    torch.testing.assert_close(levelled(gated)[np.ix_(rows, columns)], levelled(wide[np.ix_(rows, columns)]))


def test_matrices_levelled_together_are_those_levelled_alone() -> None:
    random = np.random.default_rng(2)
    sizes = [(1, 9, 7), (3, 5, 5), (1, 7, 9), (12, 1, 9), (4, 9, 1), (1, 200, 300), (1, 8, 6), (2, 1, 1), (1, 130, 120)]
    stacks = [torch.from_numpy(random.standard_normal(size)) for size in sizes]
    for stack, together in zip(stacks, levelled_together(stacks), strict=True):
        torch.testing.assert_close(together, levelled(stack))


def moved(weight: torch.Tensor, gradient: torch.Tensor, blocks: int, lr: float = 0.1, decay: float = 0.0) -> torch.Tensor:
    """How far one step of Muon takes ``weight``."""
    parameter = nn.Parameter(weight.clone())
    parameter.grad = gradient
    Muon([{"params": [parameter], "blocks": blocks, "weight_decay": decay}], lr, MOMENTUM).step()
    return (weight - parameter).detach()


def test_muon_moves_a_weight_as_far_whatever_the_size_of_its_gradient() -> None:
    torch.manual_seed(0)
    weight, gradient = torch.randn(8, 4, 3, 3), torch.randn(8, 4, 3, 3)
    one, thousand = moved(weight, gradient, 1), moved(weight, 1000 * gradient, 1)
    torch.testing.assert_close(one, thousand, rtol=1e-3, atol=1e-5)
    assert 0.6 < torch.linalg.matrix_norm(one.reshape(8, -1), 2) / (0.1 * 0.25) < 1.3


def test_muon_gives_every_filter_of_a_depthwise_convolution_the_same_stride() -> None:
    torch.manual_seed(0)
    gradient = torch.randn(6, 1, 3, 3) * torch.logspace(-2, 2, 6).reshape(6, 1, 1, 1)
    norms = moved(torch.randn(6, 1, 3, 3), gradient, 6).reshape(6, -1).norm(dim=1)
    assert norms.max() / norms.min() < 1.05


def test_muon_decays_in_proportion_to_the_learning_rate() -> None:
    weight = torch.ones(2, 2)
    assert torch.allclose(moved(weight, torch.zeros(2, 2), 1, lr=0.5, decay=0.1), 0.05 * weight)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_without_gradients_moves_nothing(name: str) -> None:
    matrix = nn.Parameter(torch.ones(2, 2))
    OPTIMIZERS[name].make({1: [matrix]}, 0.3, 0.1).step()
    assert torch.equal(matrix, torch.ones(2, 2))


def test_what_is_no_matrix_moves_as_by_nesterov_momentum() -> None:
    torch.manual_seed(0)
    pair = [nn.Parameter(torch.ones(5)) for _ in range(2)]
    ours = OPTIMIZERS["muon"].make({0: [pair[0]]}, 0.5, 0.1)
    torchs = OPTIMIZERS["sgd"].make({0: [pair[1]]}, 0.5, 0.1)
    for _ in range(4):
        gradient = torch.randn(5)
        for parameter, optimizer in zip(pair, (ours, torchs), strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(*pair)
    assert not torch.equal(pair[0], torch.ones(5))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_spares_vectors_from_weight_decay_and_descends(name: str) -> None:
    torch.manual_seed(0)
    matrix, vector = nn.Parameter(torch.randn(6, 6)), nn.Parameter(torch.randn(6))
    optimizer = OPTIMIZERS[name].make({1: [matrix], 0: [vector]}, 0.3, OPTIMIZERS[name].lr)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    x, y = torch.randn(64, 6), torch.randn(64, 6)
    losses = []
    for _ in range(150):
        loss = ((x @ matrix + vector - y) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_steps_that_a_gpu_replays_are_those_of_a_cpu_whatever_was_forgotten_on_the_way() -> None:
    torch.manual_seed(0)
    start = [torch.randn(24, 8, 3, 3), torch.randn(16, 24), torch.randn(24, 1, 3, 3), torch.randn(24)]
    pair = [[nn.Parameter(weight.to(where)) for weight in start] for where in ("cpu", "cuda")]
    here, there = (OPTIMIZERS["muon"].make({1: few[:2], 24: [few[2]], 0: [few[3]]}, 5e-4, 0.1) for few in pair)
    for step in range(9):
        if step == 5:  # as where layers begin anew
            here.state.pop(pair[0][1])
            there.state.pop(pair[1][1])
        for one, other in zip(*pair, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.cuda()
        for optimizer in (here, there):
            for group in optimizer.param_groups:
                group["lr"] = 0.1 / (step + 1)
            optimizer.step()
        for one, other in zip(*pair, strict=True):
            torch.testing.assert_close(other.detach().cpu(), one.detach(), rtol=2e-3, atol=2e-3)
