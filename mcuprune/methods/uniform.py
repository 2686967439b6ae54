"""The baseline that every method must beat: one width multiplier for all groups, the largest that fits, trained so."""

from __future__ import annotations

from mcuprune import widths
from mcuprune.salience import salience
from mcuprune.task import Candidate, OnStep, Task
from mcuprune.training import candidate, trainer_for

_PHASE = "float"


def prune(task: Task, on_step: OnStep) -> tuple[Candidate, ...]:
    """Cut first, by salience, then train the small network for the whole schedule."""
    model = task.model
    chosen = widths.uniform(model, task.budget, task.multiple_of)
    keep = task.channels.top(chosen, salience(task.channels))
    channels = task.channels.cut_channels(keep)
    trainer = trainer_for(task, channels)
    if task.checkpoint and (saved := task.checkpoint.load(_PHASE)):
        trainer.restore(saved.arrays, channels)
    at = model.at(chosen)
    while trainer.step < trainer.total:
        loss = trainer.train_step()
        if trainer.step % trainer.steps_per_epoch == 0:
            on_step(trainer.line(loss, at, "train", task.data.val))
            if task.checkpoint:
                task.checkpoint.save(_PHASE, trainer.state(), {})
    return (candidate(trainer, task, keep, 0),)
