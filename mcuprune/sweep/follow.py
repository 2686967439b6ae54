"""What is known of a run while it goes on, and whether it is worth going on with.

Runs store their state after every epoch, and the history goes with it. Successive halving (Jamieson and Talwalkar, 2016) in the
asynchronous form that stops runs instead of pausing them (Li et al., "A system for massively parallel hyperparameter tuning",
2020, section 3.1 with eta = 2): a run that reaches a quarter or a half of its epochs is compared with all runs under the same
budget that have been there before, and ends where it isn't in the better half.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
        evaluated = [line for line in history if line["score"] is not None and line["epochs"]]
        for rung in RUNGS:
            reached = next((line for line in evaluated if line["epoch"] >= rung * line["epochs"]), None)
            if reached is None:
                return True
            others = self._seen.setdefault((run.cell.limits, rung), {})
            if run.name in others:
                continue  # it was compared when it came here
            figure = float(reached["score"])
            others[run.name] = figure if reached["better"] == "higher" else -figure
            better = sum(other > others[run.name] for other in others.values())
            if better >= max(1, len(others) // ETA):
                return False
        return True
