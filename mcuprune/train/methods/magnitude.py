"""Iterative magnitude pruning with fine-tuning, as most people do it by hand, held to the same budget and schedule.

The whole network trains for a quarter of the steps; then, in ten events up to half of them, the channels of least magnitude
anywhere are cut out for good, one after the other until every resource is at its share of the way; where a bottleneck alone is
over, the weakest of those that take part in it. Magnitudes are compared across groups relative to their group's mean, and no
group falls below half of what uniform scaling would leave it.
"""

from __future__ import annotations

import numpy as np

from mcuprune.channels.labelling import Channels
from mcuprune.channels.salience import salience
from mcuprune.costs import widths as allocation
from mcuprune.costs.resources import Budget
from mcuprune.train.loop import Method
from mcuprune.train.task import Task
from mcuprune.train.trainer import Trainer

_START, _STOP, _EVENTS = 0.25, 0.5, 10


class Magnitude(Method):
    """Cut in events while training."""

    def start(self, trainer: Trainer) -> None:
        start, stop = trainer.length.at(_START), max(1, trainer.length.at(_STOP))
        self._events = [start + round((stop - start) * k / _EVENTS) for k in range(1, _EVENTS + 1)]
        self._passed = 0
        self._full = self.task.model.at(self.task.model.full)

    @property
    def settled(self) -> bool:
        return self._passed == _EVENTS

    def before_step(self, trainer: Trainer) -> None:
        self._passed = sum(event <= trainer.position for event in self._events)

    def after_step(self, trainer: Trainer) -> bool:
        passed = sum(event <= trainer.position for event in self._events)
        if passed == self._passed:
            return False
        self.last_cut = trainer.step
        goal = self.task.budget.approached(self._full, passed / _EVENTS)
        now = trainer.module.channels.with_network(trainer.module.network())
        fewer = _without_weakest(self.task, now, self.keep, goal)
        trainer.shrink(fewer[self.keep])
        self.keep = fewer
        return True


def _without_weakest(task: Task, now: Channels, keep: np.ndarray, goal: Budget) -> np.ndarray:
    """``keep`` without the fewest of its weakest components that brings the network to ``goal``.

    now: the network as it stands, cut to ``keep``.
    """
    channels, model = task.channels, task.model
    scores = np.full(channels.n_components + 1, np.inf)
    scores[keep] = salience(now)
    floor = np.maximum(model.least, (allocation.uniform(model, task.budget, task.multiple_of) + 1) // 2)
    spared = channels.keep_all()
    relative = scores.copy()
    for group, least in zip(channels.groups, floor, strict=True):
        ids = np.array(group.components)[keep[list(group.components)]]
        relative[ids] = scores[ids] / max(float(scores[ids].mean()), 1e-12)
        spared[ids] = False
        spared[ids[np.argsort(-relative[ids], kind="stable")[: int(least)]]] = True
    owner = np.full(channels.n_components + 1, -1)
    for index, group in enumerate(channels.groups):
        owner[list(group.components)] = index

    kept = keep.copy()
    order = np.argsort(relative, kind="stable")
    order = order[~spared[order] & keep[order]]
    while over := goal.check(model.at(channels.widths(kept))).excess:
        # A bottleneck is relieved where it is: cutting elsewhere would cost channels and save nothing.
        helps = np.sum([model.gradient(name, channels.widths(kept)) for name in over], axis=0) > 0
        weakest = next((c for c in order if kept[c] and helps[owner[c]]), None)
        if weakest is None:
            break
        kept[weakest] = False
    if task.multiple_of > 1 or not allocation.holds(model, channels.widths(kept), goal):
        n = allocation.cut_into(model, channels.widths(kept), goal, np.ones(len(model.full)), task.multiple_of)
        if task.multiple_of > 1:  # rounding down leaves room in the budget, for channels not yet sliced off
            n = allocation.grow(model, n, goal, 1.0 / np.maximum(n, 1), task.multiple_of, most=channels.widths(keep))
        kept = channels.top(n, np.where(keep, scores, -np.inf))
    return kept
