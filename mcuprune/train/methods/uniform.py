"""The baseline that every method must beat: one width multiplier for all groups, the largest that fits, trained so."""

from __future__ import annotations

from mcuprune.channels.salience import salience
from mcuprune.costs import widths
from mcuprune.train.loop import Method
from mcuprune.train.trainer import Trainer


class Uniform(Method):
    """Cut first, by salience, then train the small network for the whole schedule.

    Untrained weights are drawn for the widths that are left: a baseline is the small network as one would have built it.
    """

    def start(self, trainer: Trainer) -> None:
        task = self.task
        chosen = widths.uniform(task.model, task.budget, task.multiple_of)
        self.keep = task.channels.top(chosen, salience(task.channels))
        self.begin_cut(trainer)
