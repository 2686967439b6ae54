"""Pruning at initialisation: widths before the first step, in seconds; then the narrow network trains for the whole schedule.

What Reconvene (Eccles, Wong & Varghese, arXiv 2404.16877) is about: find the layers that are insensitive to losing channels,
prune those, and give the layers that it affects new weights. How they are found is ``train.at_init``'s.
"""

from __future__ import annotations

from mcuprune.train import at_init
from mcuprune.train.loop import Method
from mcuprune.train.trainer import Trainer


class AtInit(Method):
    """Cut first, by scores of the untrained weights, then train the small network for the whole schedule."""

    def start(self, trainer: Trainer) -> None:
        task = self.task
        plan = at_init.plan(
            task.model,
            task.budget,
            score=task.search.score,
            multiple=task.multiple_of,
            examples=task.data.train,
            seed=task.seed,
        )
        self.keep, self.sensitivity = plan.keep, plan.sensitivity
        self.begin_cut(trainer)
