"""The outer optimisation: what the loss says of a group (Eq. 9), and how it and the costs lead the widths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_training import MODELS, digits, normal, trainer

from mcuprune.channels.labelling import Channels
from mcuprune.channels.salience import salience
from mcuprune.costs import widths
from mcuprune.costs.resources import Budget, CostModel, profile
from mcuprune.data.sets import Data, Split
from mcuprune.graph.network import Network
from mcuprune.train.loop import Method
from mcuprune.train.methods import METHODS
from mcuprune.train.methods.differentiable import Widths, task_gradient
from mcuprune.train.task import Schedule, Search, Task
from mcuprune.train.trainer import Trainer, trainer_for

torch.set_num_threads(1)

RESIDUAL = next(path for path in MODELS if path.stem == "resnet8_digits")


# --------------------------------------------------------------------------------------------------------- task gradient


X, Y = digits().val.x[:128], digits().val.y[:128]


def measured(one: Trainer, channels: Channels, keep: np.ndarray) -> np.ndarray:
    return task_gradient(one, keep, salience(channels), X, Y)


def with_statistics(channels: Channels, factor: float, offset: float) -> Channels:
    """BatchNormalization with other running statistics than those that its inputs have."""
    net = channels.network
    values = {}
    for node in net.nodes:
        if node.op == "BatchNormalization":
            values[node.inputs[3]] = net.constants[node.inputs[3]] + np.float32(offset)
            values[node.inputs[4]] = net.constants[node.inputs[4]] * np.float32(factor)
    return channels.with_network(net.with_constants({**net.constants, **values}))


#: The larger two of the networks take their time.
_MARKS = {"mbv2se_digits": pytest.mark.slow, "branchy_digits": pytest.mark.thorough}


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=_MARKS.get(path.stem, ())) for path in MODELS],
    ids=lambda path: path.stem,
)
def test_the_task_gradient_is_the_slope_of_the_loss_along_masks_that_soften_by_equation_9(path: Path) -> None:
    channels = normal(path)
    scores = salience(channels)
    keep = channels.top(np.maximum(channels.widths(channels.keep_all()) * 3 // 4, 1), scores)
    found = task_gradient(trainer(channels), keep, scores, X, Y)
    module = trainer(channels).module.double().train()
    module.norm_momentum, module.gates = 1.0, torch.from_numpy(keep.astype(np.float64))
    module(torch.from_numpy(X).double())  # now its statistics are those of X
    module.eval()

    def loss(gates: np.ndarray) -> float:
        module.gates = torch.from_numpy(gates)
        with torch.no_grad():
            logits = module(torch.from_numpy(X).double())[0].flatten(1)
        return float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(Y)))

    for group, slope in zip(channels.groups, found, strict=True):
        ids = np.array(group.components)
        s, threshold = scores[ids].astype(np.float64), scores[ids][keep[ids]].min()
        weights = s / (s + threshold) ** 2
        step = np.zeros(len(keep))
        step[ids] = 1e-5 * len(ids) * weights / weights.sum()
        by_hand = (loss(keep + step) - loss(keep - step)) / 2e-5
        # a kept variance is an estimate from n - 1 values, that of a batch is its own
        assert slope == pytest.approx(by_hand, rel=0.02, abs=0.04 * np.abs(found).max()), group.name


def test_the_task_gradient_knows_the_weights_as_they_are_not_statistics_that_lag() -> None:
    channels = normal(RESIDUAL)
    keep = channels.keep_all()
    behind = with_statistics(channels, 0.2, 0.5)
    np.testing.assert_allclose(
        measured(trainer(behind), behind, keep), measured(trainer(channels), channels, keep), rtol=1e-4, atol=1e-5
    )


def test_measuring_the_task_gradient_leaves_training_as_it_was() -> None:
    channels = normal(RESIDUAL)
    alone, watched = trainer(channels), trainer(channels)
    for one in (alone, watched):
        one.train_step()
    measured(watched, channels, channels.keep_all())
    for one in (alone, watched):
        one.train_step()
    state = watched.state()
    for name, value in alone.state().items():
        np.testing.assert_array_equal(value, state[name], err_msg=name)


# ----------------------------------------------------------------------------------------------------------------- widths


def outer(budget: dict[str, float], *, loss: str = "both") -> Widths:
    """The state for a residual network and limits as shares of its costs."""
    channels = normal(RESIDUAL)
    model = CostModel(channels)
    whole = model.at(model.full)
    limits = Budget({name: int(share * whole[name]) for name, share in budget.items()})
    return Widths(widths.settled(model, limits), limits, search=Search(loss))


def run(one: Widths, gradient: np.ndarray, updates: int = 20) -> np.ndarray:
    for index in range(updates):
        one.see_task(gradient)
        one.update((index + 1) / updates, one.widths, np.random.default_rng(index))
    return one.widths


@pytest.mark.parametrize("group", range(len(normal(RESIDUAL).groups)))
def test_a_group_that_the_loss_shields_stays_wider_and_others_make_room(group: int) -> None:
    budget = {"flash": 0.3, "macs": 0.3}
    shielding = np.zeros(len(normal(RESIDUAL).groups))
    shielding[group] = -1.0
    led, blind = run(outer(budget), shielding), run(outer(budget, loss="resource"), shielding)
    assert led[group] > blind[group]
    assert (np.delete(led, group) < np.delete(blind, group)).any()


def test_a_loss_that_would_have_every_group_narrower_leads_nowhere() -> None:
    budget = {"flash": 0.3, "macs": 0.3}
    gradient = np.linspace(0.1, 1.0, len(normal(RESIDUAL).groups))
    assert np.array_equal(run(outer(budget), gradient), run(outer(budget, loss="resource"), gradient))


def test_noise_in_the_task_gradient_moves_widths_far_less_than_what_lasts() -> None:
    budget, groups = {"flash": 0.3, "macs": 0.3}, len(normal(RESIDUAL).groups)
    blind = run(outer(budget, loss="resource"), np.zeros(groups))
    lasting = np.zeros(groups)
    lasting[0] = -1.0
    moved = np.abs(run(outer(budget), lasting) - blind).sum()
    noisy = []
    for seed in range(10):
        one, random = outer(budget), np.random.default_rng(seed)
        for index in range(20):
            one.see_task(random.standard_normal(groups))
            one.update((index + 1) / 20, one.widths, np.random.default_rng(index))
        noisy.append(np.abs(one.widths - blind).sum())
    assert np.mean(noisy) < moved / 2


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.floats(0.15, 0.9), st.floats(0.15, 0.9), st.floats(0.5, 0.95), st.integers(0, 99))
def test_every_update_lands_inside_its_targets_whatever_the_loss_says(
    flash: float, macs: float, sram: float, seed: int
) -> None:
    one = outer({"flash": flash, "macs": macs, "sram": sram})
    random = np.random.default_rng(seed)
    for progress in (0.2, 0.5, 0.8, 1.0):
        one.see_task(random.standard_normal(len(one.widths)))
        one.update(progress, one.widths, random)
        assert widths.holds(one.model, one.widths, one.targets(progress))


def test_targets_fall_geometrically_from_full_cost_to_the_limit() -> None:
    one = outer({"flash": 0.25, "sram": 1.0})
    whole = one.model.at(one.model.full)
    assert one.targets(0.0).limits["flash"] == pytest.approx(whole["flash"], rel=0.01)
    assert one.targets(0.5).limits["flash"] == pytest.approx(whole["flash"] / 2, rel=0.01)
    assert one.targets(1.0).limits == one.budget.limits
    assert one.targets(0.5).limits["sram"] == one.budget.limits["sram"]


def test_a_limit_that_binds_nowhere_leaves_bystanders_whole() -> None:
    """Focus: only groups that lower what is over their target are narrowed."""
    one = outer({"sram": 0.7})
    found = run(one, np.zeros(len(one.widths)))
    assert one.budget.check(one.model.at(found)).ok
    untouched = found == one.model.full
    assert untouched.any()
    assert not untouched.all()


# ---------------------------------------------------------------------------------------------------------- narrow at once


def narrow_start(channels: Channels, budget: Budget, name: str = "differentiable") -> tuple[Method, Network]:
    """A method as it begins a training whose every step belongs to the narrow network, and what it trains."""
    schedule = Schedule(epochs=1, quant_epochs=0, batch=32, lr=0.01, prune_start=0.0, prune_stop=0.0)
    few = Data("few", Split(digits().train.x[:128], digits().train.y[:128]), digits().val, digits().test, 10)
    task = Task(channels, CostModel(channels), budget, few, schedule, seed=0)
    method, one = METHODS[name].make(task), trainer_for(task, channels)
    method.start(one)
    assert budget.check(profile(one.module.network()).total).ok
    return method, one.module.network()


@pytest.mark.parametrize("name", ["differentiable", "at-init", "uniform"])
def test_weights_that_are_narrow_from_the_first_step_fit_the_inputs_that_are_left(name: str) -> None:
    """Drawn at the gain that they had: as they were cut they would be too small for so few inputs."""
    channels = normal(RESIDUAL)
    model = CostModel(channels)
    method, found = narrow_start(channels, Budget({"macs": model.at(model.full)["macs"] // 5}), name)
    cut = channels.cut(method.keep)
    layers = [node for node in found.nodes if node.op == "Conv" and found.constants[node.inputs[1]].size >= 300]
    assert len(layers) >= 3
    for node in layers:
        before, after = channels.network.constants[node.inputs[1]], found.constants[node.inputs[1]]
        ratio = before.shape[1] / after.shape[1]
        assert after.std() == pytest.approx(before.std() * np.sqrt(ratio), rel=0.2)
        assert np.array_equal(after, cut.constants[node.inputs[1]]) == (ratio == 1)


def test_a_network_whose_last_layer_begins_at_zero_has_a_narrow_start_too() -> None:
    """No weight has a SynFlow score there, so that widths are uniform ones, grown."""
    whole = normal(RESIDUAL)
    last = next(node.inputs[1] for node in reversed(whole.network.nodes) if node.op in ("Gemm", "MatMul"))
    zeros = np.zeros_like(whole.network.constants[last])
    channels = whole.with_network(whole.network.with_constants({**whole.network.constants, last: zeros}))
    model = CostModel(channels)
    budget = Budget({"macs": model.at(model.full)["macs"] // 5})
    method, _ = narrow_start(channels, budget)
    assert np.array_equal(channels.widths(method.keep), widths.uniform_grown(model, budget))
    assert not np.array_equal(channels.widths(narrow_start(whole, budget)[0].keep), widths.uniform_grown(model, budget))
