"""The baseline that every method must beat: one width multiplier for all groups, the largest that fits, trained at that width."""

from __future__ import annotations

from mcuprune import widths
from mcuprune.methods.salience import salience
from mcuprune.task import Candidate, OnStep, Step, Task
from mcuprune.training import Trainer


def prune(task: Task, on_step: OnStep) -> tuple[Candidate, ...]:
    """Cut first, by salience, then train the small network for the whole schedule."""
    model, schedule = task.model, task.schedule
    chosen = widths.uniform(model, task.budget, task.multiple_of)
    keep = task.channels.top(chosen, salience(task.channels))
    trainer = Trainer(
        task.channels.cut_channels(keep),
        task.data.train,
        total=1,
        batch=schedule.batch,
        lr=schedule.lr,
        weight_decay=schedule.weight_decay,
        seed=task.seed,
        augment=task.data.augment,
    )
    trainer.total = schedule.epochs * trainer.steps_per_epoch
    at = model.at(chosen)
    full = 0
    for _ in range(trainer.total):
        loss = trainer.train_step()
        full += model.sums(model.full)["macs"] * trainer.batch
        if trainer.step % trainer.steps_per_epoch == 0:
            accuracy = trainer.accuracy(task.data.val)
            on_step(Step(trainer.step, trainer.epoch, loss, **at, accuracy=accuracy, phase="train"))
    channels = trainer.module.channels.with_network(trainer.module.network())
    return (Candidate(channels, keep, trainer.training_macs, full),)
