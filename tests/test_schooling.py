"""An untrained network that is trained whole first, and teaches what is pruned out of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tasks_data
import torch
from conftest import Once, thorough_but
from hypothesis import given
from hypothesis import strategies as st
from test_pruning import MODELS, Interrupted, epoch_macs, limits

from mcuprune import pruning
from mcuprune.graph.network import Network
from mcuprune.preparing import prepared
from mcuprune.pruning import Request, Result
from mcuprune.report import prune as outcome
from mcuprune.train.schedules import WINDOWS, Narrow, schedule_for, wide_phase
from mcuprune.train.task import Step

torch.set_num_threads(1)

SPLITS = ("train", "val", "test")
COMPUTE = 10.0  # enough of it for most to be spent wide, where a tenth of the network stays


def asked_for(output: Path, data: str, **wishes: Any) -> Request:
    model = str(MODELS / "dscnn_digits.onnx")
    return Request(model, limits(macs="10%"), str(output), data=data, train_compute=COMPUTE, from_scratch=True, **wishes)


def finished(folder: Path, data: str) -> tuple[Result, bytes]:
    """A run to its end, and the file that it wrote."""
    result = pruning.prune(asked_for(folder / "o.onnx", data))
    return result, (folder / "o.onnx").read_bytes()


@pytest.fixture(scope="module")
def schooled(few_digits: str, once: Once) -> tuple[Result, bytes]:
    """In its course the network is trained whole, pruned, and quantised."""
    return once("schooled", lambda folder: finished(folder, few_digits))


@pytest.fixture(scope="module")
def unlearnable(few_digits: str, once: Once) -> str:
    """The same images, each called by a number that has nothing to do with it."""

    def make(folder: Path) -> str:
        arrays = dict(np.load(few_digits))
        draw = np.random.default_rng(0)
        np.savez(folder / "noise.npz", **(arrays | {f"y_{split}": draw.permutation(arrays[f"y_{split}"]) for split in SPLITS}))
        return str(folder / "noise.npz")

    return once("unlearnable", make)


@pytest.fixture(scope="module")
def given_up(unlearnable: str, once: Once) -> tuple[Result, bytes]:
    """It stops training the network whole, for that learns nothing."""
    return once("given up", lambda folder: finished(folder, unlearnable))


def whole_lines(result: Result) -> list[Step]:
    """The lines of history at which no channel had gone."""
    return [line for line in result.history if line.costs["macs"] == result.before.total["macs"]]


@pytest.mark.thorough
def test_the_whole_network_is_trained_first_and_counted(schooled: tuple[Result, bytes]) -> None:
    result, _ = schooled
    assert result.ok
    assert result.training is not None
    schedule = result.training.schedule
    assert schedule.whole == pytest.approx(0.3)
    full, step = epoch_macs(result), result.before.total["macs"] * 64
    whole = schedule.whole * 0.9 * COMPUTE * full
    assert whole <= max(line.training_macs for line in whole_lines(result)) < whole + step
    assert COMPUTE * full <= result.training_macs < COMPUTE * full + 3 * step
    counted = [(line.step, line.epoch, line.training_macs) for line in result.history]
    assert counted == sorted(counted)
    assert counted[-1][2] == result.training_macs
    assert result.full_training_macs == result.history[-1].step * step
    assert [line.phase for line in result.history if line.epoch == line.epochs] == ["train", "train", "quantize"]


def test_the_report_says_who_taught(schooled: tuple[Result, bytes]) -> None:
    document = outcome.document(schooled[0])
    assert document["training"]["from"] == "scratch"
    assert document["training"]["distill"] is True
    assert document["training"]["whole"] == pytest.approx(0.3)
    (note,) = [note for note in document["notes"] if "trained whole" in note]
    assert "for the first 30% of float training" in note


@pytest.mark.thorough
def test_a_network_that_learns_slowly_does_not_become_a_teacher(given_up: tuple[Result, bytes]) -> None:
    """From half of its training on it is known; what is left of it belongs to the network that stays."""
    result, _ = given_up
    assert result.ok
    assert result.training is not None
    schedule = result.training.schedule
    full, step = epoch_macs(result), result.before.total["macs"] * 64
    spent = max(line.training_macs for line in whole_lines(result))
    assert 0.5 * 0.3 <= schedule.whole < 0.5 * 0.3 + 1 / (0.9 * COMPUTE)  # it is evaluated at an epoch's end
    assert abs(spent - schedule.whole * 0.9 * COMPUTE * full) <= step
    assert COMPUTE * full <= result.training_macs < COMPUTE * full + 3 * step
    small = next(line for line in result.history if line.costs["macs"] == result.history[-1].costs["macs"])
    assert small.training_macs < spent + 0.1 * 0.9 * COMPUTE * full
    document = outcome.document(result)
    assert document["training"]["distill"] is False
    assert document["training"]["whole"] == pytest.approx(schedule.whole)
    (note,) = [note for note in document["notes"] if "trained whole" in note]
    assert "learned too slowly" in note


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["schooled", "given_up"])
@pytest.mark.parametrize("stage", ["pruned", "whole", "quantised"])
def test_it_resumes_to_the_same_file(stage: str, kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    result, content = request.getfixturevalue(kind)
    data = request.getfixturevalue("few_digits" if kind == "schooled" else "unlearnable")
    whole, last = whole_lines(result)[-1].step, result.history[-1].step
    floats = max(line.step for line in result.history if line.phase != "quantize")
    at = {"whole": whole // 2, "pruned": (whole + floats) // 2, "quantised": (floats + last) // 2}[stage]

    def interrupt(line: Step) -> None:
        if line.step > at:
            raise Interrupted

    with pytest.raises(Interrupted):
        pruning.prune(asked_for(tmp_path / "o.onnx", data), interrupt)
    first: list[Step] = []
    resumed = pruning.prune(asked_for(tmp_path / "o.onnx", data, resume=True), first.append)
    assert (tmp_path / "o.onnx").read_bytes() == content
    assert first[0].step > at // 2
    assert [replace(line, waited=None) for line in resumed.history] == [replace(line, waited=None) for line in result.history]
    assert resumed.notes == result.notes
    assert (resumed.training_macs, resumed.full_training_macs) == (result.training_macs, result.full_training_macs)


@pytest.mark.parametrize("changes", [{"distill": False}, {"method": "magnitude"}, {"limits": limits(macs="90%")}], ids=str)
def test_nothing_is_trained_whole_for_nothing(changes: dict[str, Any], tmp_path: Path, few_digits: str) -> None:
    asked = replace(asked_for(tmp_path / "o.onnx", few_digits), **changes)
    run = prepared(asked, None, asked.data, None)
    assert run.schedule is not None
    assert (run.teacher, run.schedule.whole) == (None, 0)


def two_outputs() -> tuple[Network, dict[str, np.ndarray]]:
    """A network that names two classes of each row, and rows of noise."""
    layers, draw = tasks_data.Layers(), np.random.default_rng(0)
    hidden = layers.dense(layers.dense("x", 8, 24, relu=True), 24, 16, relu=True)
    net = layers.net({"x": [8]}, {name: (layers.dense(hidden, 16, 3), [3]) for name in ("a", "b")})
    arrays = {f"x_{part}": tasks_data.rows(32, seed) for seed, part in enumerate(SPLITS)}
    return net, arrays | {f"y{output}_{part}": draw.permutation(np.arange(32) % 3) for output in (0, 1) for part in SPLITS}


@pytest.mark.parametrize("kind", thorough_but(["yes or no", "several labels", "two outputs"], "several labels"))
def test_only_what_accuracy_measures_is_trained_whole_to_teach(kind: str, tmp_path: Path) -> None:
    net, arrays = {
        "yes or no": lambda: (tasks_data.vector_net(1, "Sigmoid"), tasks_data.split(tasks_data.yes_or_no, 32, 16)),
        "several labels": lambda: (tasks_data.vector_net(4, "Sigmoid"), tasks_data.split(tasks_data.several_labels, 32, 16)),
        "two outputs": two_outputs,
    }[kind]()
    wishes: dict[str, Any] = {"train_compute": 100.0, "from_scratch": True, "int8": False}
    asked = Request("net.onnx", limits(macs="20%"), str(tmp_path / "o.onnx"), **wishes)
    result = pruning.prune(asked, net=net, data_set=arrays)
    assert result.ok
    assert result.training is not None
    assert (result.training.schedule.whole > 0) == (kind == "yes or no")


@pytest.mark.thorough
def test_patience_is_for_the_network_that_stays(tmp_path: Path, few_digits: str) -> None:
    result = pruning.prune(asked_for(tmp_path / "o.onnx", few_digits, patience=1, int8=False))
    whole = 0.3 * COMPUTE * epoch_macs(result)
    assert max(line.training_macs for line in whole_lines(result)) >= whole
    assert result.training_macs < COMPUTE * epoch_macs(result)
    (note,) = [note for note in result.notes if "ended early" in note]
    assert f"after epoch {result.history[-1].epoch:.1f}:" in note  # counted through the whole run, as the history is


Asked = Callable[[Request], Request]


@given(st.floats(0.1, 100), st.integers(64, 10**5), st.floats(0.01, 1), st.integers(100, 10**5))
def test_half_of_a_long_wide_phase_is_spent_on_a_teacher(compute: float, examples: int, macs: float, weights: int) -> None:
    asked = Request("m.onnx", {}, "o.onnx", train_compute=compute)
    narrow = Narrow(macs, weights)
    found = schedule_for(asked, examples, warm=False, narrow=narrow, teachable=True)
    wide = wide_phase(compute, examples, narrow)
    if wide[1] >= 0.5 and macs <= 0.5:
        assert (found.whole, found.prune_start, found.prune_stop) == (0.5 * wide[1], *WINDOWS["trained"])
    else:
        assert (found.whole, found.prune_start, found.prune_stop) == (0.0, *wide)


@pytest.mark.parametrize(
    "changes",
    [{}, {"epochs": 100}, {"train_compute": None, "time": "1h"}, {"prune_stop": 0.5}, {"recipe": "paper"}],
    ids=str,
)
def test_nobody_teaches_unasked_where_the_way_is_the_users_own(changes: dict[str, Any]) -> None:
    asked = replace(Request("m.onnx", {}, "o.onnx", train_compute=100.0), **changes)
    assert schedule_for(asked, 640, warm=True, narrow=Narrow(0.1, 1000), teachable=True).whole == 0
    assert schedule_for(asked, 640, warm=False, narrow=Narrow(0.1, 1000), teachable=False).whole == 0
    assert (schedule_for(asked, 640, warm=False, narrow=Narrow(0.1, 1000), teachable=True).whole > 0) == (not changes)


def test_states_keep_the_teacher_as_it_is() -> None:
    from mcuprune.graph import network
    from mcuprune.train import schooling

    net = network.load(MODELS / "dscnn_digits.onnx")
    stored = schooling.stored(net)
    again = schooling.of_state(stored, "state")
    assert again is not None
    assert all(np.array_equal(again.constants[name], value) for name, value in net.constants.items())
    assert schooling.stored(None) == {}
    assert schooling.of_state({}, "state") is None
