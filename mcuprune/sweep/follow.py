"""What is known of a run while it goes on, and whether it is worth going on with.

Runs store their state after every epoch, and the history goes with it. Successive halving (Jamieson and Talwalkar, 2016) in the
asynchronous form that stops runs instead of pausing them (Li et al., "A system for massively parallel hyperparameter tuning",
2020, section 3.1 with eta = 2): a run that reaches a quarter or a half of its epochs is compared with all runs under the same
budget that have been there before, and ends where it isn't in the better half.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mcuprune.sweep.grid import Run

#: Of all epochs, where runs are compared.
RUNGS = (0.25, 0.5)
#: One of so many goes on.
ETA = 2


class Halving:
    """Decides at every rung; the order in which runs get there may matter, as the first one has nothing to be compared with."""

    def __init__(self) -> None:
        self._seen: dict[tuple[Any, float], dict[str, float]] = {}

    def goes_on(self, run: Run, history: Sequence[Mapping[str, Any]]) -> bool:
        """Whether a run with this history is in the better half at every rung that it has reached.

        history: lines with ``epoch``, ``epochs`` and ``score``, the figure of the task, which is None where nothing was
        evaluated; ``better`` says which figures are.
        """
        for rung, score in _reached(history):
            others = self._at(run, rung)
            if run.name in others:
                continue  # it was compared when it came here
            others[run.name] = score
            better = sum(other > score for other in others.values())
            if better >= max(1, len(others) // ETA):
                return False
        return True

    def remember(self, run: Run, scores: Mapping[float, float]) -> None:
        """Take in a run that was compared in an earlier sitting, by its ``scores`` of then: others are compared with it."""
        for rung, score in scores.items():
            self._at(run, rung)[run.name] = score

    def scores(self, run: Run) -> dict[float, float]:
        """By the rungs at which a run was compared, its figure there, so that higher is better."""
        return {rung: self._at(run, rung)[run.name] for rung in RUNGS if run.name in self._at(run, rung)}

    def _at(self, run: Run, rung: float) -> dict[str, float]:
        """The scores of runs of the same budget that came to a rung, by their names."""
        return self._seen.setdefault((run.cell.limits, rung), {})


def _reached(history: Sequence[Mapping[str, Any]]) -> Iterator[tuple[float, float]]:
    """The rungs that a run has come to, in their order, and its score there, so that higher is better."""
    evaluated = [line for line in history if line["score"] is not None and line["epochs"]]
    for rung in RUNGS:
        reached = next((line for line in evaluated if line["epoch"] >= rung * line["epochs"]), None)
        if reached is None:
            return
        figure = float(reached["score"]) if reached["better"] == "higher" else -float(reached["score"])
        yield rung, -math.inf if math.isnan(figure) else figure
