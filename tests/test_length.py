"""How long a training lasts: as many multiply-accumulates or as much time as was asked for, whatever the widths on the way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import small_nets
import torch
from conftest import thorough_but
from hypothesis import given
from hypothesis import strategies as st
from test_pruning import MODELS, Interrupted, blank, epoch_macs, interrupt, limits
from test_training import digits, normal, trainer

from mcuprune import preparing, pruning, units
from mcuprune.data.sets import Split
from mcuprune.errors import DataError, McupruneError, UsageError
from mcuprune.pruning import Request
from mcuprune.report import prune as outcome
from mcuprune.train import speed
from mcuprune.train import trainer as training
from mcuprune.train.checkpoint import Checkpoint, Saved
from mcuprune.train.length import Length
from mcuprune.train.loop import Hooks, Plateau, train
from mcuprune.train.methods import METHODS, differentiable
from mcuprune.train.schedules import Narrow, schedule_for, wide_phase
from mcuprune.train.task import Step
from mcuprune.train.tasks.metrics import Metric
from mcuprune.train.trainer import Trainer

torch.set_num_threads(1)

MODEL = MODELS / "dscnn_digits.onnx"


def request(output: Path, **wishes: Any) -> Request:
    return Request(str(MODEL), limits(macs="25%", sram="70%"), str(output), **wishes)


@pytest.mark.parametrize("method", thorough_but(METHODS, "differentiable"))
def test_every_method_trains_for_the_compute_that_was_asked_for(method: str, tmp_path: Path, few_digits: str) -> None:
    """Never less, and more by at most the last step of each phase. The history counts it too."""
    result = pruning.prune(request(tmp_path / "o.onnx", data=few_digits, method=method, train_compute=3.7))
    full_step = result.before.total["macs"] * 64
    wanted = 3.7 * epoch_macs(result)
    assert result.ok
    assert wanted - 1 <= result.training_macs < wanted + 2 * full_step
    counted = [step.training_macs for step in result.history]
    assert counted == sorted(counted)
    assert counted[-1] == result.training_macs
    assert result.full_training_macs == result.history[-1].step * full_step
    assert result.history[-1].share == 1.0


@pytest.mark.thorough
def test_a_run_by_compute_resumes_to_the_same_file(tmp_path: Path, few_digits: str) -> None:
    wishes: dict[str, Any] = {"data": few_digits, "train_compute": 3.0, "from_scratch": True}
    through = pruning.prune(request(tmp_path / "a.onnx", **wishes))
    with pytest.raises(Interrupted):
        pruning.prune(request(tmp_path / "b.onnx", **wishes), interrupt)
    resumed = pruning.prune(request(tmp_path / "b.onnx", resume=True, **wishes))
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    lines = [[replace(line, waited=0.0) for line in result.history] for result in (through, resumed)]
    assert lines[0] == lines[1]
    assert resumed.training_macs == through.training_macs


def test_the_learning_rate_follows_what_steps_cost() -> None:
    """Of two networks that train for the same compute, the narrower one takes more steps, each at the rate of its position."""
    wide, narrow = trainer(normal(MODEL), total=1), trainer(normal(MODEL), total=1)
    keep = np.ones(narrow.module.channels.n_components + 1, bool)
    for group in narrow.module.channels.groups:
        keep[list(group.components)[1:]] = False
    narrow.shrink(keep)
    amount = 6 * wide._macs * wide.batch
    steps = []
    for one in (wide, narrow):
        one.length = Length("macs", amount)
        rates = []
        while not one.finished and one.step < 30:
            before = one.position
            one.train_step()
            rate = one._optimizer.param_groups[0]["lr"]
            rates.append(rate)
            first = max(1, int(0.1 * amount))
            if before >= first:
                expected = one.lr * (1 + math.cos(math.pi * (before - first) / (amount - first))) / 2
            else:
                expected = one.lr * min(1.0, one.position / first)
            assert rate == pytest.approx(expected, rel=1e-9)
        steps.append(len(rates))
    assert steps[0] == 6
    assert steps[1] == 30


def test_time_ends_training_when_it_is_over_and_sittings_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]

    def tick() -> float:
        now[0] += 0.1
        return now[0]

    monkeypatch.setattr(training.time, "monotonic", tick)
    one = trainer(normal(MODEL), total=1)
    one.length = Length("milliseconds", 2000)
    while not one.finished and one.step < 4:
        one.train_step()
    assert not one.finished
    other = trainer(normal(MODEL), total=1)
    other.length = one.length
    other.restore(one.state(), one.module.channels)
    now[0] += 10_000  # a night between the two sittings
    while not other.finished:
        other.train_step()
        assert other.step < 100
    assert one.position < 2000 <= other.position < 2600


def test_time_is_asked_for_as_people_write_it(tmp_path: Path, few_digits: str) -> None:
    result = pruning.prune(request(tmp_path / "o.onnx", data=few_digits, time="0.2s", int8=False))
    assert result.ok
    spent = result.training_macs / epoch_macs(result)
    assert f"as many multiply-accumulates as {spent:.3g} epochs of the whole model" in outcome.text(outcome.document(result))
    with pytest.raises(UsageError, match="--time: 'soon' is not a time"):
        pruning.prune(request(tmp_path / "o.onnx", time="soon"))


@given(st.tuples(*[st.integers(0, 99)] * 4))
def test_times_add_up(parts: tuple[int, int, int, int]) -> None:
    text = "".join(f"{number}{unit}" for number, unit in zip(parts, "dhms", strict=True) if number)
    seconds = sum(number * size for number, size in zip(parts, (86400, 3600, 60, 1), strict=True))
    if seconds:
        assert units.milliseconds(text) == 1000 * seconds
    else:
        with pytest.raises(UsageError):
            units.milliseconds(text)


@pytest.mark.parametrize("text", ["", "5", "-3m", "30 m", "m", "1m1h", "1e3s", "٣m", "0s", "nan"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a time"):
        units.milliseconds(text)


@pytest.mark.parametrize(
    "given_twice", [{"epochs": 2, "train_compute": 1.0}, {"epochs": 2, "time": "1m"}, {"train_compute": 1.0, "time": "1m"}]
)
def test_only_one_thing_says_how_long(given_twice: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="each says how long to train"):
        pruning.prune(request(tmp_path / "o.onnx", **given_twice))


@pytest.mark.parametrize("compute", [0.0, -1.0, math.nan, math.inf])
def test_no_training_is_no_compute(compute: float, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--train-compute"):
        pruning.prune(request(tmp_path / "o.onnx", train_compute=compute))


def test_a_trained_network_that_fits_is_trained_again_where_compute_is_asked_for(tmp_path: Path, few_digits: str) -> None:
    fitting = Request(str(MODEL), limits(macs="100%"), str(tmp_path / "o.onnx"), data=few_digits, method="uniform")
    assert pruning.prune(fitting).history == ()
    assert pruning.prune(replace(fitting, train_compute=1.0)).history


# --------------------------------------------------------------------------------------------------------- the schedule


@given(st.integers(64, 10**6), st.floats(0.01, 1.0))
def test_the_default_takes_no_longer_than_plain_training(examples: int, narrow: float) -> None:
    """By the model of a step's time: 0.4 of it stays whatever the width. Plain training: 700 steps, in 6 to 60 epochs."""
    request = Request("m.onnx", {}, "o.onnx")
    found = schedule_for(request, examples, warm=False, narrow=Narrow(narrow, 1000))
    assert found.train_compute is not None
    plain = min(60, max(6, math.ceil(700 / (examples // 64))))
    steps = found.train_compute / narrow
    assert steps * (0.4 + 0.6 * narrow) == pytest.approx(plain)
    assert found.train_compute <= plain * (1 + 1e-9)


@given(st.floats(0.1, 100), st.integers(100, 10**6), st.floats(0.01, 1), st.integers(100, 10**6))
def test_the_wide_phase_grows_with_compute_and_with_the_network_and_shrinks_with_data(
    compute: float, examples: int, macs: float, weights: int
) -> None:
    def stop(compute: float = compute, examples: int = examples, weights: int = weights) -> float:
        start, end = wide_phase(compute, examples, Narrow(macs, weights))
        assert 0 < start < end <= 0.6 or start == end == 0
        return end

    assert stop(compute=2 * compute) >= stop() >= stop(examples=2 * examples)
    assert stop(weights=2 * weights) >= stop()


@given(st.floats(0.5, 500), st.integers(64, 10**5), st.floats(0.02, 1.0), st.integers(1, 10**6), st.booleans())
def test_a_time_is_spent_as_the_compute_that_it_is_good_for(
    epochs: float, examples: int, macs: float, weights: int, teachable: bool
) -> None:
    """The same phases. Wide layers take less time for a MAC, so that their share of the time is smaller."""
    narrow, seconds = Narrow(macs, weights), 0.01
    whole_epochs = epochs * (0.4 + 0.6 * macs) / macs  # in the time of so many, narrow layers do the compute of ``epochs``
    took = max(1, round(1000 * whole_epochs * seconds * (examples // 64)))
    asked = {"warm": False, "narrow": narrow, "teachable": teachable}
    by_time = schedule_for(request(Path("o.onnx"), time=f"{took / 1000}s"), examples, step_seconds=seconds, **asked)
    compute = took / 1000 / (seconds * (examples // 64)) * macs / (0.4 + 0.6 * macs)
    by_compute = schedule_for(request(Path("o.onnx"), train_compute=compute), examples, **asked)
    for spent, planned in ((by_time.prune_stop, by_compute.prune_stop), (by_time.whole, by_compute.whole)):
        assert (spent > 0) == (planned > 0)
        assert spent <= planned * (1 + 1e-9)
        slow = planned + (1 - planned) * (0.4 + 0.6 * macs) / macs  # the time of all, in that of the same compute spent wide
        assert spent * slow == pytest.approx(planned)


def test_a_run_that_goes_on_keeps_the_speed_that_its_phases_were_chosen_by(
    tmp_path: Path, few_digits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = request(tmp_path / "o.onnx", data=few_digits, time="4s", int8=False, from_scratch=True)
    monkeypatch.setattr(speed, "seconds_of_step", lambda *_: 1e-4)

    def stop(step: Step) -> None:
        if Path(f"{asked.output}.checkpoint").exists():
            raise Interrupted

    with pytest.raises(Interrupted):
        pruning.prune(asked, stop)
    monkeypatch.setattr(speed, "seconds_of_step", lambda *_: 10.0)
    run = preparing.prepared(replace(asked, resume=True), None, None, None)
    assert run.step_seconds == 1e-4


@pytest.mark.thorough
def test_where_compute_is_scarce_beside_the_data_no_step_is_spent_wide(tmp_path: Path) -> None:
    """Then widths lie between uniform ones and those of at-init from the first step, unless the user wants a way."""
    wishes: dict[str, Any] = {"train_compute": 0.4, "from_scratch": True}
    made = {
        name: pruning.prune(request(tmp_path / f"{name}.onnx", method=name, **wishes))
        for name in ("differentiable", "uniform", "at-init")
    }
    assert any("from the first step on" in note for note in made["differentiable"].notes)
    assert len(_widths_on_the_way(made["differentiable"])) == 1
    total = {name: math.prod(group.after for group in result.groups) for name, result in made.items()}
    assert min(total["uniform"], total["at-init"]) < total["differentiable"]
    assert made["differentiable"].ok
    on_the_way = pruning.prune(request(tmp_path / "narrowed.onnx", prune_stop=0.5, **wishes))
    assert on_the_way.ok
    assert len(_widths_on_the_way(on_the_way)) > 1


def _widths_on_the_way(result: pruning.Result) -> set[tuple[int, ...]]:
    return {tuple(step.widths) for step in result.history if step.widths is not None}


@pytest.mark.thorough
def test_where_one_resource_binds_the_narrow_start_leaves_no_other_unused(
    tmp_path: Path, few_digits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SRAM is taken by the first layers alone: uniform widths leave most of the flash, and here no channel more would fit.

    Unless a wider network would get too few steps to learn in.
    """

    def pruned(name: str, method: str) -> pruning.Result:
        wishes: dict[str, Any] = {"method": method, "train_compute": 0.5, "from_scratch": True, "int8": False}
        asked = request(tmp_path / f"{name}.onnx", data=few_digits, **wishes)
        return pruning.prune(replace(asked, model=str(MODELS / "resnet8_digits.onnx"), limits=limits(sram="30%", flash="60%")))

    uniform, few_steps = pruned("uniform", "uniform"), pruned("few", "differentiable")
    assert few_steps.after.total["macs"] <= uniform.after.total["macs"]
    monkeypatch.setattr(differentiable, "_STEPS_TO_LEARN", 1)
    grown = pruned("grown", "differentiable")
    assert not any("slack" in note for note in grown.notes)
    assert grown.after.total["flash"] > 2 * uniform.after.total["flash"]


@pytest.mark.parametrize("wish", [{"pace": "rate"}, {"cut": "at-end"}, {"freeze_at_budget": False}, {"prune_every": 5}, {}])
def test_who_says_how_widths_are_found_gets_a_way_on_which_they_are(wish: dict[str, Any]) -> None:
    """Few passes over many examples: widths are uniform before the first step, unless something was asked of the search."""
    found = schedule_for(request(Path("o.onnx"), train_compute=3, **wish), 1000, warm=False, narrow=Narrow(0.3, 2000))
    assert (found.prune_stop > 0) == bool(wish)


# ---------------------------------------------------------------------------------------------------------- ended early


def test_a_plateau_is_reached_after_so_many_evaluations_that_are_no_better() -> None:
    seen = Plateau(2)
    assert [seen.reached(share) for share in (0.5, 0.6, 0.6, 0.61, 0.4, 0.61)] == [False, False, False, False, False, True]


@pytest.mark.parametrize("name", ["mae", "miou"])
def test_patience_watches_the_figure_of_the_task_through_an_interruption(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every evaluation but the third is better than all before it: errors fall, or shares rise."""
    better: Literal["higher", "lower"] = "lower" if name == "mae" else "higher"
    figures = [9.0, 8.0, 8.5, 7.0, 6.0] if better == "lower" else [0.1, 0.2, 0.15, 0.3, 0.4]
    checkpoint = Checkpoint(tmp_path / "state", {"run": "this"})

    def trained(patience: int, *, until: int = 20) -> Trainer:
        watched = trainer(normal(MODEL), total=20)

        def measured(split: Split) -> Metric:
            if watched.step > until:
                raise Interrupted
            return Metric(name, name, figures[watched.step // 4 - 1], "value", better)

        monkeypatch.setattr(watched, "measure", measured)
        train(watched, Free(), digits().val, lambda line: None, checkpoint, Plateau(patience))
        return watched

    with pytest.raises(Interrupted):
        trained(2, until=12)
    assert not trained(2).winds_down
    checkpoint.remove()
    assert trained(1).step == 13  # at the third it has not improved, and winds down for a tenth of its 12 steps


class Free(Hooks):
    """A network that just trains, and costs nothing."""

    stage = "free"

    def costs(self) -> Mapping[str, int]:
        return {}

    def restore(self, trainer: Trainer, saved: Saved) -> None:
        trainer.restore(saved.arrays, trainer.module.channels)


@pytest.mark.parametrize("method", thorough_but(METHODS, "uniform"))
def test_patience_ends_training_early_within_the_budget(method: str, tmp_path: Path, few_digits: str) -> None:
    """An impatient run stops at its first evaluation that is no better, once its widths are final, and says so."""
    wishes: dict[str, Any] = {"data": few_digits, "method": method, "epochs": 20, "int8": False}
    early = pruning.prune(request(tmp_path / "b.onnx", patience=1, **wishes))
    assert early.ok
    assert early.full_training_macs < 20 * epoch_macs(early)
    (note,) = [note for note in early.notes if "ended early" in note]
    assert f"after epoch {early.full_training_macs / epoch_macs(early):.1f}" in note
    if method == "uniform":
        whole = pruning.prune(request(tmp_path / "a.onnx", **wishes))
        assert early.training_macs < whole.training_macs
        assert whole.full_training_macs == 20 * epoch_macs(whole)
        assert not any("ended early" in note for note in whole.notes)


@pytest.mark.parametrize("last", [2, 3])
def test_a_training_that_spends_all_it_was_given_is_not_said_to_end_early(
    last: int, tmp_path: Path, few_digits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three evaluations the third comes at the end; after the second a tenth of two epochs is left to train."""
    seen: list[float] = []

    def reached(plateau: Plateau, figure: float) -> bool:
        seen.append(figure)
        return len(seen) == last

    monkeypatch.setattr(Plateau, "reached", reached)
    wishes: dict[str, Any] = {"data": few_digits, "method": "uniform", "epochs": 3, "int8": False, "patience": 1}
    result = pruning.prune(request(tmp_path / "o.onnx", **wishes))
    assert len(seen) == last
    spent = result.full_training_macs == 3 * epoch_macs(result)
    assert spent == (last == 3)
    assert any("ended early" in note for note in result.notes) == (not spent)


def test_a_training_that_winds_down_lowers_its_rate_to_nothing_and_goes_on_where_it_stopped() -> None:
    one, other = (trainer(normal(MODEL), total=100) for _ in range(2))
    for _ in range(40):
        one.step, one.position = one.step + 1, one.position + 1
    one.wind_down()
    other.restore(one.state(), one.module.channels)
    rates = []
    while not other.finished:
        other.train_step()
        rates.append(other._optimizer.param_groups[0]["lr"])
    steps = [one._rate(one.batch) * (1 - k / 4) for k in range(4)]
    assert rates == pytest.approx(steps)


# ------------------------------------------------------------------------------------------------------------- teachers


@pytest.mark.thorough
def test_a_network_from_a_file_teaches(tmp_path: Path, few_digits: str) -> None:
    """The network as it came, named as a teacher, teaches what it teaches without being named."""
    wishes: dict[str, Any] = {"data": few_digits, "epochs": 2, "method": "uniform"}
    own = pruning.prune(request(tmp_path / "a.onnx", **wishes))
    named = pruning.prune(request(tmp_path / "b.onnx", teacher=str(MODEL), **wishes))
    alone = pruning.prune(request(tmp_path / "c.onnx", distill=False, **wishes))
    losses = [[step.loss for step in result.history] for result in (own, named, alone)]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)  # two engines, one file with its BatchNormalization folded
    assert losses[1] != pytest.approx(losses[2], rel=0.1)


def test_a_teacher_that_does_not_go_with_the_data_or_knows_nothing_is_refused(tmp_path: Path, few_digits: str) -> None:
    wishes: dict[str, Any] = {"data": few_digits, "epochs": 1, "method": "uniform"}
    with pytest.raises(UsageError, match="no more than naming the most frequent class"):
        pruning.prune(request(tmp_path / "o.onnx", teacher=blank(tmp_path / "blank.onnx"), **wishes))
    with pytest.raises(UsageError, match="--teacher, --no-distill"):
        pruning.prune(request(tmp_path / "o.onnx", teacher=str(MODEL), distill=False, **wishes))
    small_nets.save(small_nets.residual(), tmp_path / "other.onnx")
    with pytest.raises(DataError, match="name a network for the same data"):
        pruning.prune(request(tmp_path / "o.onnx", teacher=str(tmp_path / "other.onnx"), **wishes))
    with pytest.raises(McupruneError, match=r"nowhere\.onnx"):
        pruning.prune(request(tmp_path / "o.onnx", teacher=str(tmp_path / "nowhere.onnx"), **wishes))
