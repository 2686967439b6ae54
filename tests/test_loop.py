"""The training loop: when hooks are called, a method added in one place, and every method taken up where it stopped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import thorough_but
from test_pruning import MODELS, Interrupted, interrupt, limits
from test_revival import stack
from test_training import digits, normal, trainer

from mcuprune import pruning
from mcuprune.costs import resources, widths
from mcuprune.errors import UsageError
from mcuprune.pruning import Request
from mcuprune.train import methods, revival
from mcuprune.train.checkpoint import Checkpoint, Saved
from mcuprune.train.loop import Hooks, Method, State, train
from mcuprune.train.methods import METHODS
from mcuprune.train.task import Step
from mcuprune.train.trainer import Trainer

torch.set_num_threads(1)

MODEL = MODELS / "dscnn_digits.onnx"


class Watched(Hooks):
    """Hooks that note when they are called, at which step of the trainer, and say that widths change after each third step."""

    stage = "watched"

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.number = 0

    def costs(self) -> Mapping[str, int]:
        self.number += 1
        return {"sram": self.number, "flash": 0, "macs": 0}

    def start(self, trainer: Trainer) -> None:
        self.calls.append(("start", trainer.step))

    def restore(self, trainer: Trainer, saved: Saved) -> None:
        trainer.restore(saved.arrays, trainer.module.channels)
        self.number = int(saved.values["number"])
        self.calls.append(("restore", trainer.step))

    def before_step(self, trainer: Trainer) -> None:
        self.calls.append(("before", trainer.step))

    def after_step(self, trainer: Trainer) -> bool:
        self.calls.append(("after", trainer.step))
        return trainer.step % 3 == 0

    def state(self) -> State:
        return {}, {"number": self.number}


def test_hooks_are_called_around_every_step_and_lines_come_with_every_change_and_epoch() -> None:
    hooks, lines = Watched(), list[Step]()
    train(trainer(normal(MODEL), total=8), hooks, digits().val, lines.append)
    assert hooks.calls == [("start", 0), *(call for step in range(8) for call in (("before", step), ("after", step + 1)))]
    assert [(line.step, line.phase, line.accuracy is not None) for line in lines] == [
        (3, "prune", False),
        (4, "train", True),
        (6, "prune", False),
        (8, "train", True),
    ]


def test_a_run_goes_on_from_the_last_epoch_that_was_stored(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "state", {"run": "this"})
    through, stopped, resumed = (trainer(normal(MODEL), total=8) for _ in range(3))
    train(through, Watched(), digits().val, lambda line: None)

    def stop(line: Step) -> None:
        if line.step == 6:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(stopped, Watched(), digits().val, stop, checkpoint)
    hooks, lines = Watched(), list[Step]()
    train(resumed, hooks, digits().val, lines.append, checkpoint)
    assert hooks.calls[:3] == [("start", 0), ("restore", 4), ("before", 4)]
    assert [line.step for line in lines] == [6, 8]
    expected, found = (dict(one.module.named_weights()) for one in (through, resumed))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_what_is_told_of_a_later_stage_counts_the_steps_of_those_before() -> None:
    later = trainer(stack(-9.0), total=200, lr=0.05, answers=np.zeros((128, 10), np.float32))
    later.before = 1000
    for _ in range(revival.EVERY):
        later.train_step()
    later._alone_since = 8  # when the network became better than its teacher
    taught, died = later.notes
    assert f"after epoch {1008 // 4};" in taught
    assert f"the last in step {1000 + revival.EVERY - 1};" in died
    later.lr = math.nan
    with pytest.raises(UsageError, match=f"diverged at step {1000 + revival.EVERY + 1}:"):
        later.train_step(), later.train_step()


class Chance(Method):
    """A method of a user: after the first epoch, channels that chance picks, at uniform widths."""

    def after_step(self, trainer: Trainer) -> bool:
        if trainer.step != trainer.steps_per_epoch:
            return False
        task = self.task
        scores = np.random.default_rng(task.seed).uniform(size=task.channels.n_components + 1)
        self.keep = task.channels.top(widths.uniform(task.model, task.budget), scores)
        self.last_cut = trainer.step
        trainer.shrink(self.keep)
        return True


def request(output: Path, data: str, **wishes: Any) -> Request:
    return Request(str(MODEL), limits(macs="40%", sram="70%"), str(output), data=data, epochs=3, **wishes)


def test_a_method_is_a_class_and_a_line(tmp_path: Path, few_digits: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named in one place, it is run by its name, held to the budget, reported, interrupted and resumed as any other."""
    monkeypatch.setitem(methods.METHODS, "chance", methods.Kind("by chance", Chance))
    lines: list[Step] = []
    through = pruning.prune(request(tmp_path / "a.onnx", few_digits, method="chance", int8=False), lines.append)
    assert through.ok
    assert [line.epoch for line in lines if line.phase == "prune"] == [1.0]
    with pytest.raises(Interrupted):
        pruning.prune(request(tmp_path / "b.onnx", few_digits, method="chance", int8=False), interrupt)
    resumed = pruning.prune(request(tmp_path / "b.onnx", few_digits, method="chance", int8=False, resume=True))
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert [replace(step) for step in resumed.history] == list(through.history)
    profile = resources.profile(pruning.network.load(tmp_path / "b.onnx"))
    assert profile.total["macs"] == resumed.after.total["macs"] <= through.before.total["macs"] * 0.4


#: Each method without quantisation, the default with it; quick are one that searches on the way and one that doesn't.
RESUMED = [("differentiable", True), *((method, False) for method in METHODS)]


@pytest.mark.parametrize(("method", "int8"), thorough_but(RESUMED, RESUMED[0]))
def test_every_method_resumes_to_the_same_file(method: str, int8: bool, tmp_path: Path, few_digits: str) -> None:
    wishes = {"method": method, "int8": int8}
    through = pruning.prune(request(tmp_path / "a.onnx", few_digits, **wishes))
    with pytest.raises(Interrupted):
        pruning.prune(request(tmp_path / "b.onnx", few_digits, **wishes), interrupt)
    resumed = pruning.prune(request(tmp_path / "b.onnx", few_digits, **wishes, resume=True))
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert resumed.history == through.history
    assert resumed.notes == through.notes
