"""The only training loop, and what hangs on it.

``train`` takes a trainer through its steps: history lines, validation and a checkpoint after every epoch, and going on from a
checkpoint, are written here once. What differs between pruning methods, their baselines and fake-quant training is said by
*hooks*: an object that the loop calls before training, around every step, and for its own part of the stored state.

A pruning method is a class of hooks, ``Method``, which makes a network narrower on the way; ``prune`` runs one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from mcuprune.data.sets import Split
from mcuprune.train.checkpoint import Checkpoint, Saved
from mcuprune.train.task import Candidate, OnStep, Task
from mcuprune.train.trainer import Trainer, trainer_for

#: Arrays by name, and JSON values by name: what a checkpoint keeps of hooks.
State = tuple[Mapping[str, np.ndarray], Mapping[str, Any]]


class Hooks(ABC):
    """What a training does besides its steps. The hooks as they are here do nothing: the network just trains.

    stage: the name that its states are stored under: a checkpoint of another stage is not taken up.
    """

    stage: ClassVar[str]

    @property
    def phase(self) -> str:
        """What the history calls an epoch that ends now."""
        return "train"

    @abstractmethod
    def costs(self) -> Mapping[str, int]:
        """What the network costs now, by resource, in base units. Asked for at the start and whenever widths have changed."""

    def start(self, trainer: Trainer) -> None:  # noqa: B027 (most hooks have nothing to do here)
        """Called once, before the first step and before ``restore``."""

    @abstractmethod
    def restore(self, trainer: Trainer, saved: Saved) -> None:
        """Go on from ``saved``, which holds what ``state`` gave and what ``trainer.restore`` takes."""

    def before_step(self, trainer: Trainer) -> None:  # noqa: B027
        """Called before every training step."""

    def after_step(self, trainer: Trainer) -> bool:
        """Called after every training step. Returns whether the widths were changed, which the history is to tell."""
        return False

    def state(self) -> State:
        """What the next step depends on beyond the trainer's own state. Asked for at the end of an epoch."""
        return {}, {}


class Method(Hooks):
    """A pruning method: hooks that bring the task's network into its budget while it trains.

    keep: bool (components + 1,), the selection that the network is at this moment, over the components of the task's channels.
    last_cut: the step after which widths and channels stay as they are.
    notes: what the user should know about how it went.
    A method that is given enough steps leaves a network that holds the task's budget.
    """

    stage = "float"

    def __init__(self, task: Task) -> None:
        self.task = task
        self.keep = task.channels.keep_all()
        self.last_cut = 0
        self.notes: list[str] = []

    def costs(self) -> Mapping[str, int]:
        return self.task.model.at(self.task.channels.widths(self.keep))

    def state(self) -> State:
        return {"keep": self.keep}, {"last_cut": self.last_cut, "notes": self.notes}

    def restore(self, trainer: Trainer, saved: Saved) -> None:
        self._take_up(saved)
        trainer.restore(saved.arrays, self.task.channels.cut_channels(self.keep))

    def _take_up(self, saved: Saved) -> None:
        """What ``state`` gave, for a method whose network is not just the one that ``keep`` selects."""
        self.keep = saved.arrays["keep"]
        self.last_cut, self.notes = saved.values["last_cut"], list(saved.values["notes"])


def train(trainer: Trainer, hooks: Hooks, val: Split, on_step: OnStep, checkpoint: Checkpoint | None = None) -> None:
    """Train from the checkpoint of an interrupted run, or from the start, to the end of the trainer's schedule.

    val: examples that the network is evaluated on after every epoch.
    on_step: called with a line after every change of widths, and with an evaluated one after every epoch.
    Raises UsageError where training diverges, or where the checkpoint is damaged or another request's.
    """
    hooks.start(trainer)
    if checkpoint is not None and (saved := checkpoint.load(hooks.stage)) is not None:
        hooks.restore(trainer, saved)
    costs = hooks.costs()
    while trainer.step < trainer.total:
        hooks.before_step(trainer)
        loss = trainer.train_step()
        if hooks.after_step(trainer):
            costs = hooks.costs()
            on_step(trainer.line(loss, costs, "prune"))
        if trainer.step % trainer.steps_per_epoch == 0:
            on_step(trainer.line(loss, costs, hooks.phase, val))
            if checkpoint is not None:
                arrays, values = hooks.state()
                checkpoint.save(hooks.stage, {**trainer.state(), **arrays}, values)


def prune(make: Callable[[Task], Method], task: Task, on_step: OnStep) -> Candidate:
    """Run a pruning method on a task, from its checkpoint where it has one of an interrupted run.

    make: the method, as it stands in ``methods.METHODS``.
    """
    trainer = trainer_for(task, task.channels)
    method = make(task)
    train(trainer, method, task.data.val, on_step, task.checkpoint)
    return Candidate(
        channels=trainer.module.channels.with_network(trainer.module.network()),
        keep=method.keep,
        training_macs=trainer.training_macs,
        full_training_macs=task.model.sums(task.model.full)["macs"] * trainer.batch * trainer.total,
        settled=trainer.total - method.last_cut,
        notes=(*method.notes, *trainer.notes),
        taught=trainer.taught,
    )
