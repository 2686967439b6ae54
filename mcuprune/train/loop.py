"""The only training loop, and what hangs on it.

``train`` takes a trainer through its steps: history lines, validation and a checkpoint after every epoch, and going on from a
checkpoint, are written here once. What differs between pruning methods, their baselines and fake-quant training is said by
*hooks*: an object that the loop calls before training, around every step, and for its own part of the stored state.

A pruning method is a class of hooks, ``Method``, which makes a network narrower on the way; ``prune`` runs one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from mcuprune.costs.sensitivity import Sensitivity
from mcuprune.data.sets import Split
from mcuprune.train import ranks
from mcuprune.train.checkpoint import Checkpoint, Saved
from mcuprune.train.rectify import rectified
from mcuprune.train.task import Candidate, OnStep, Step, Task
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

    @property
    def settled(self) -> bool:
        """Whether training could end now: nothing is left for the hooks to change."""
        return True

    @property
    def over(self) -> bool:
        """Whether training ends here, whatever is left of its schedule. Asked before every step."""
        return False

    @abstractmethod
    def costs(self) -> Mapping[str, int]:
        """What the network costs now, by resource, in base units. Asked for at the start and whenever widths have changed."""

    def widths_now(self) -> Sequence[int] | None:
        """Channels of each group now; None for hooks that change none."""
        return None

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

    def evaluated(self, trainer: Trainer, line: Step) -> None:  # noqa: B027
        """Called with every line that has an evaluation, before the state is stored."""

    def state(self) -> State:
        """What the next step depends on beyond the trainer's own state. Asked for at the end of an epoch."""
        return {}, {}


class Method(Hooks):
    """A pruning method: hooks that bring the task's network into its budget while it trains.

    keep: bool (components + 1,), the selection that the network is at this moment, over the components of the task's channels.
    last_cut: the step after which widths and channels stay as they are.
    notes: what the user should know about how it went. sensitivity: of the groups, where the method has measured it.
    A method that is given enough steps leaves a network that holds the task's budget.
    """

    stage = "float"

    def __init__(self, task: Task) -> None:
        self.task = task
        self.keep = task.channels.keep_all()
        self.last_cut = 0
        self.notes: list[str] = []
        self.sensitivity: Sensitivity | None = None

    @property
    def settled(self) -> bool:
        return self.task.budget.check(self.costs()).ok

    def costs(self) -> Mapping[str, int]:
        return self.task.model.at(self.task.channels.widths(self.keep))

    def widths_now(self) -> Sequence[int] | None:
        return [int(width) for width in self.task.channels.widths(self.keep)]

    def begin_cut(self, trainer: Trainer) -> None:
        """Train what ``keep`` selects, before the first step: weights made to fit their fewer inputs (``rectify``)."""
        task = self.task
        trainer.begin(rectified(task.channels, self.keep, trained=task.trained, seed=task.seed))

    def state(self) -> State:
        return {"keep": self.keep}, {"last_cut": self.last_cut, "notes": self.notes}

    def restore(self, trainer: Trainer, saved: Saved) -> None:
        self._take_up(saved)
        trainer.restore(saved.arrays, self.task.channels.cut_channels(self.keep))

    def _take_up(self, saved: Saved) -> None:
        """What ``state`` gave, for a method whose network is not just the one that ``keep`` selects."""
        self.keep = saved.arrays["keep"]
        self.last_cut, self.notes = saved.values["last_cut"], list(saved.values["notes"])


class Plateau:
    """Watches validation, for a training that may end early.

    patience: after so many evaluations in a row that were no better than the best before, it has stopped improving.
    """

    def __init__(self, patience: int) -> None:
        self.patience, self.since = patience, 0
        self.best: float | None = None

    def reached(self, figure: float) -> bool:
        """Take in one more evaluation. figure: higher is better. Returns whether validation has stopped improving."""
        better = self.best is None or figure > self.best
        self.best, self.since = (figure, 0) if better else (self.best, self.since + 1)
        return self.since >= self.patience

    def state(self) -> dict[str, Any]:
        """What ``restore`` takes up."""
        return {"plateau": [self.best, self.since]}

    def restore(self, values: Mapping[str, Any]) -> None:
        """Go on from a stored ``state``."""
        self.best, self.since = values["plateau"]


def train(
    trainer: Trainer,
    hooks: Hooks,
    val: Split,
    on_step: OnStep,
    checkpoint: Checkpoint | None = None,
    plateau: Plateau | None = None,
) -> None:
    """Train from the checkpoint of an interrupted run, or from the start, to the end of the trainer's schedule.

    val: examples that the network is evaluated on after every epoch, or seldomer where epochs are short beside the schedule.
    on_step: called with a line after every change of widths, and with every evaluated one.
    plateau: ends training early, once the hooks have settled; None for the whole schedule.
    Raises UsageError where training diverges, or where the checkpoint is damaged or another request's.
    """
    hooks.start(trainer)
    if checkpoint is not None and (saved := checkpoint.load(hooks.stage)) is not None:
        hooks.restore(trainer, saved)
        if plateau is not None:
            plateau.restore(saved.values)
    costs, evaluated = hooks.costs(), trainer.length.evaluations(trainer.position)
    while not (trainer.finished or hooks.over):
        hooks.before_step(trainer)
        loss = trainer.train_step()
        if hooks.after_step(trainer):
            costs = hooks.costs()
            on_step(replace(trainer.line(loss, costs, "prune"), widths=hooks.widths_now()))
        due = trainer.length.evaluations(trainer.position)
        if _evaluates(trainer, due > evaluated):
            evaluated = due
            ranks.refuse_drift(trainer.before + trainer.step, trainer.learned)
            line = replace(trainer.line(loss, costs, hooks.phase, val), widths=hooks.widths_now())
            on_step(line)
            hooks.evaluated(trainer, line)
            undecided = trainer.images is not None or trainer.winds_down
            if plateau is not None and hooks.settled and not undecided and plateau.reached(line.merit):
                trainer.wind_down()
            if checkpoint is not None:
                arrays, values = hooks.state()
                checkpoint.save(
                    hooks.stage, {**trainer.state(), **arrays}, {**values, **(plateau.state() if plateau is not None else {})}
                )


def _evaluates(trainer: Trainer, due: bool) -> bool:
    """Whether the network is evaluated and stored after this step: at an epoch's end, from which a run can go on.

    due: whether so much of a length is over that it should be where epochs are short. Such a length may end within an epoch.
    """
    if trainer.length.fixed:
        return trainer.step % trainer.steps_per_epoch == 0
    return trainer.finished or (due and trainer.step % trainer.steps_per_epoch == 0)


def counted_on(on_step: OnStep, steps: int, training_macs: int, per_epoch: int) -> OnStep:
    """``on_step`` for a stage that follows another one: all that is counted counts through the whole run.

    steps, training_macs: of the stages before. per_epoch: steps of an epoch.
    """
    before = steps / per_epoch

    def counted(line: Step) -> None:
        on_step(
            replace(
                line,
                step=steps + line.step,
                epoch=before + line.epoch,
                epochs=before + line.epochs,
                training_macs=training_macs + line.training_macs,
            )
        )

    return counted


def prune(make: Callable[[Task], Method], task: Task, on_step: OnStep, before: int = 0) -> Candidate:
    """Run a pruning method on a task, from its checkpoint where it has one of an interrupted run.

    make: the method, of ``methods.METHODS``. before: steps of the stages before, which count in what notes say.
    """
    trainer = trainer_for(task, task.channels)
    trainer.before = before
    trainer.begin_small(task.schedule.small_images)
    method = make(task)
    patience = task.schedule.patience
    train(trainer, method, task.data.val, on_step, task.checkpoint, None if patience is None else Plateau(patience))
    epoch = before / trainer.steps_per_epoch + trainer.epoch
    early = f"training ended early, after epoch {epoch:.1f}: validation had stopped improving (--patience {patience})"
    return Candidate(
        channels=trainer.module.channels.with_network(trainer.module.network()),
        keep=method.keep,
        training_macs=trainer.training_macs,
        full_training_macs=task.model.sums(task.model.full)["macs"] * trainer.batch * trainer.step,
        settled=trainer.step - method.last_cut,
        notes=(*method.notes, *trainer.notes, *([early] if trainer.ends_early else [])),
        taught=trainer.taught,
        sensitivity=method.sensitivity,
        steps=trainer.step,
    )
