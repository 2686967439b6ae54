"""The paper's own recipe, and the list of switches by which the default departs from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import thorough_but
from test_pruning import MODELS, Interrupted, interrupt, limits

from mcuprune import options, pruning
from mcuprune.channels.labelling import label
from mcuprune.costs import widths as allocation
from mcuprune.costs.resources import Budget, CostModel
from mcuprune.graph import network
from mcuprune.pruning import Request
from mcuprune.train.loop import Plateau
from mcuprune.train.methods.differentiable import Widths
from mcuprune.train.request import by_recipe, search_for
from mcuprune.train.schedules import schedule_for
from mcuprune.train.task import RECIPES, Search, Step

torch.set_num_threads(1)

MODEL = MODELS / "dscnn_digits.onnx"
PAPER = search_for(Request("m.onnx", {}, "o.onnx", recipe="paper"))


def outer(share: float = 0.3, **switches: Any) -> Widths:
    """The outer optimisation of a small network with a budget of MACs."""
    model = CostModel(label(network.load(MODEL)))
    return Widths(model, Budget({"macs": int(share * model.at(model.full)["macs"])}), search=replace(PAPER, **switches))


def request(output: Path, data: str, **wishes: Any) -> Request:
    return Request(str(MODEL), limits(macs="30%", sram="70%"), str(output), data=data, from_scratch=True, **wishes)


def test_alpha_comes_of_the_first_losses_and_stays() -> None:
    """Section 3.2: alpha = 2/3 P_RES / P_TSK as they are at first; appendix A: the first gradients are of the clip's order."""
    one = outer(0.3)
    task = np.full(len(one.v), -0.1)
    one.see_task(task, loss=2.3)
    resource, ratio = one.alpha[0], one.alpha[1] / one.alpha[0]
    assert ratio == pytest.approx(2 / 3 * (1 / 0.3 - 1) / 2.3, rel=1e-4)
    full, limit = one.model.full, one.budget.limits["macs"]
    assert max(resource * one.model.gradient("macs", full) * full / limit) == pytest.approx(0.025)
    one.update(0.5, full, np.random.default_rng(0))
    one.see_task(10 * task, loss=0.1)
    assert one.alpha == (resource, ratio * resource)


@pytest.mark.parametrize("rate", [0.5, 4.0])
def test_an_update_is_one_step_along_the_clipped_gradients_and_never_widens(rate: float) -> None:
    """Against the formula of appendix A, by hand: pi' = pi - rate * clip(a_RES g_RES + a_TSK g_TSK, 0, 0.025).

    No group falls below one channel.
    """
    one = outer(0.3, rate=rate)
    draw = np.random.default_rng(1)
    for _ in range(30):
        before, n = one.v.copy(), one.current()
        task = draw.normal(size=len(before))
        one.see_task(task, loss=1.0)
        of_resource = one.model.gradient("macs", n) * one.model.full / one.budget.limits["macs"]
        step = rate * np.clip(one.alpha[0] * of_resource + one.alpha[1] * task, 0, 0.025)
        over = one.model.at(n)["macs"] > one.budget.limits["macs"]
        one.update(0.5, one.model.full, draw)
        after = np.maximum(np.exp(before) - step, 1 / one.model.full)
        assert np.exp(one.v) == pytest.approx(after if over else np.exp(before))
        assert (one.v <= before).all()
        assert (one.widths == one.current()).all()


def test_multipliers_fall_by_the_clip_at_any_width_and_end_at_one_channel() -> None:
    by_one, at_once = outer(0.01), outer(0.01, rate=80.0)
    by_one.alpha = at_once.alpha = 1e9, 0.0
    draw = np.random.default_rng(0)
    for updates in range(1, 39):
        by_one.update(0.5, by_one.model.full, draw)
        assert np.exp(by_one.v) == pytest.approx(1 - 0.025 * updates)
    at_once.update(0.5, at_once.model.full, draw)
    assert np.exp(at_once.v) == pytest.approx(1 / at_once.model.full)
    assert (at_once.widths == 1).all()


def test_widths_stop_once_the_budget_holds_and_what_it_leaves_stays_unused() -> None:
    one = outer(0.5, rate=40.0)
    draw = np.random.default_rng(0)
    for _ in range(300):
        one.see_task(np.zeros(len(one.v)), loss=1.0)
        one.update(0.5, one.model.full, draw)
    assert allocation.holds(one.model, one.widths, one.budget)
    settled = one.v.copy()
    one.update(0.9, one.model.full, draw)
    assert (one.v == settled).all()
    grown = outer(0.5, rate=40.0, slack="grow")
    grown.v = settled
    grown.update(0.9, grown.model.full, draw)
    assert grown.model.at(grown.widths)["macs"] >= one.model.at(one.widths)["macs"]


@pytest.mark.parametrize("multiple", [1, 4])
def test_a_rate_that_does_not_get_there_ends_inside_the_budget_and_says_so(
    multiple: int, tmp_path: Path, few_digits: str
) -> None:
    result = pruning.prune(request(tmp_path / "o.onnx", few_digits, recipe="paper", epochs=2, int8=False, multiple_of=multiple))
    assert result.ok
    assert any("fixed rate of the widths ended above the budget" in note for note in result.notes)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "wish",
    [
        {"recipe": "paper", "gradients": "resource", "pi_lr": 20.0, "prune_every": 1},
        {"freeze_at_budget": False, "prune_stop": 0.2},
    ],
    ids=str,
)
def test_patience_counts_from_where_the_budget_holds_though_masks_change(
    wish: dict[str, Any], tmp_path: Path, few_digits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training that ends early is cut at that end, to a network that holds the budget, and resumes to the same file."""
    monkeypatch.setattr(Plateau, "reached", lambda plateau, figure: True)
    asked = request(tmp_path / "a.onnx", few_digits, epochs=12, int8=False, patience=1, **wish)
    through = pruning.prune(asked)
    assert through.ok
    assert any("ended early" in note for note in through.notes)
    assert not any("greedy cut" in note for note in through.notes)
    last = through.history[-1]
    assert last.epoch < 9
    assert last.costs["macs"] == through.after.total["macs"]

    def stop(line: Step) -> None:
        if line.step >= last.step:  # the state before it holds a training that winds down
            raise Interrupted

    with pytest.raises(Interrupted):
        pruning.prune(replace(asked, output=str(tmp_path / "b.onnx")), stop)
    pruning.prune(replace(asked, output=str(tmp_path / "b.onnx"), resume=True))
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.thorough
def test_masks_follow_salience_to_the_end_of_float_training(tmp_path: Path, few_digits: str) -> None:
    """Nothing is cut on the way, so every float step costs what the whole network does; fake-quant steps cost less."""
    result = pruning.prune(request(tmp_path / "o.onnx", few_digits, recipe="paper", epochs=6, batch=16, pi_lr=20.0))
    steps = result.history[-1].step
    quantized = sum(1 for step in result.history if step.phase == "quantize")
    assert quantized == 1
    per_epoch, full = steps // 6, result.before.total["macs"] * 16
    assert result.training_macs == 5 * per_epoch * full + per_epoch * result.after.total["macs"] * 16
    assert {step.step % 20 for step in result.history if step.phase == "prune" and step.accuracy is None} == {0}


def test_the_paper_is_the_default_with_every_switch_thrown() -> None:
    """Each field of the recipe is an option of its own, with another value than the default's, and one that is given wins."""
    recipe, default = RECIPES["paper"], Request("m.onnx", {}, "o.onnx")
    known = {option.name: option for option in options.of(Request)}
    assert recipe.keys() <= known.keys()
    assert all(known[name].default is None for name in recipe)
    for name in ("pace", "feedback", "floor", "slack", "cut"):
        assert getattr(search_for(default), name) == known[name].choices[0] != recipe[name]
        kept = replace(default, recipe="paper", **{name: known[name].choices[0]})
        assert getattr(search_for(kept), name) == known[name].choices[0]
        assert getattr(by_recipe(kept), name) == known[name].choices[0]
    assert search_for(default) == Search()
    schedule = schedule_for(replace(default, recipe="paper", epochs=10), 1000, warm=False)
    assert (schedule.freeze, schedule.prune_every, schedule.window(100)) == (False, 20, (0, 100))


@pytest.mark.parametrize("name", thorough_but(["pace", "feedback", "floor", "slack", "cut"], "pace", "slack"))
def test_each_switch_alone_holds_the_budget_and_resumes(name: str, tmp_path: Path, few_digits: str) -> None:
    wishes: dict[str, Any] = {"epochs": 3, name: RECIPES["paper"][name], "int8": False}
    through = pruning.prune(request(tmp_path / "a.onnx", few_digits, **wishes))
    assert through.ok
    with pytest.raises(Interrupted):
        pruning.prune(request(tmp_path / "b.onnx", few_digits, **wishes), interrupt)
    pruning.prune(request(tmp_path / "b.onnx", few_digits, resume=True, **wishes))
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
