"""How long a training lasts, counted in what is paid for: steps, multiply-accumulates, or time.

A schedule (learning rate, pruning window, validation) is a function of the share that is over. Steps of wide and of narrow
layers count alike where steps are counted; where multiply-accumulates are, a step counts for what it costs.
"""

from __future__ import annotations

from typing import Literal

from mcuprune.immutable import immutable

Unit = Literal["steps", "macs", "milliseconds"]

#: Where an epoch is short beside the whole training, the network is evaluated and stored this often on the way.
_EVALUATIONS = 20


@immutable
class Length:
    """So much of a unit; "macs" are forward multiply-accumulates of training steps, at the widths that each step had."""

    unit: Unit
    amount: int

    @property
    def fixed(self) -> bool:
        """Whether the number of steps is known before the first: then every epoch ends with an evaluation."""
        return self.unit == "steps"

    def at(self, share: float) -> int:
        """The position where ``share`` of the length is over."""
        return int(share * self.amount)

    def share(self, position: int) -> float:
        """How much of the length is over at a position, from 0 to 1."""
        return min(1.0, position / max(1, self.amount))

    def evaluations(self, position: int) -> int:
        """How many evaluations are due by a position where epochs don't say it."""
        return int(self.share(position) * _EVALUATIONS)
