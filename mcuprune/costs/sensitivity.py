"""How much of a network's signal each group of channels carries, and widths that spend a budget where it carries least.

A *curve* says of one group what share of the signal is lost when its lowest channels go and all other groups stay whole. What
is measured as signal is the caller's business (``train.flow``). Losses are added up as -log of what is left: of two layers one
behind the other, what is left is the product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mcuprune.costs import widths as allocation
from mcuprune.costs.budgets import ratio
from mcuprune.costs.resources import Budget, CostModel
from mcuprune.immutable import immutable

#: The shares of a group's channels that a curve has points for.
SHARES = tuple(k / 8 for k in range(1, 8))
#: A group is narrowed in at most so many steps, so that wide networks take no longer than narrow ones.
_STEPS = 128
#: What is left of a signal at least, so that its logarithm is finite.
_LEAST_LEFT = 1e-12


def removed(channels: int) -> list[int]:
    """How many channels each point of a curve lacks: rounded shares, and never all of them."""
    return [min(channels - 1, round(share * channels)) for share in SHARES]


@immutable
class Curve:
    """One group. lost: the share of the signal that is lost at each of ``SHARES``, from 0 to 1."""

    group: str
    channels: int
    lost: tuple[float, ...]

    def losses(self) -> np.ndarray:
        """-log of what is left of the signal at every width: float64 (channels + 1,), linear between points."""
        at = np.array([0, *removed(self.channels)], dtype=np.float64)
        points = -np.log(np.clip(1 - np.array([0.0, *self.lost]), _LEAST_LEFT, 1.0))
        gone = self.channels - np.arange(self.channels + 1)
        losses = np.interp(gone, at, points)
        # Beyond the last point every channel is taken to carry the same.
        least = self.channels - at[-1]
        beyond = gone > at[-1]
        losses[beyond] = points[-1] + np.log(max(least, 0.5) / np.maximum(self.channels - gone[beyond], 0.5))
        return np.asarray(losses)


@immutable
class Sensitivity:
    """The curves of all groups, in their order.

    threshold: what the most sensitive channel that had to go was worth: the loss for as much of the most violated resource as
    its limit allows. Channels above it stayed. None where nothing had to be cut.
    """

    curves: tuple[Curve, ...]
    threshold: float | None = None

    def document(self) -> dict[str, Any]:
        """As JSON values, which ``of_document`` takes."""
        groups = [{"name": c.group, "channels": c.channels, "lost": [round(x, 6) for x in c.lost]} for c in self.curves]
        return {"shares": list(SHARES), "groups": groups, "threshold": self.threshold}

    @staticmethod
    def of_document(document: Mapping[str, Any]) -> Sensitivity:
        """What ``document`` gave."""
        curves = tuple(Curve(group["name"], group["channels"], tuple(group["lost"])) for group in document["groups"])
        return Sensitivity(curves, document["threshold"])


def step_of(model: CostModel) -> np.ndarray:
    """How many channels of each group go at a time: int64 (groups,)."""
    return np.asarray(np.maximum(1, model.full // _STEPS))


class Descent:
    """Widths that fall from full to ever lower budgets, each step where it costs the least signal for what it saves.

    This is one threshold for all groups that rises until the budget holds: a group is narrowed as far as its channels cost
    less than the threshold, insensitive groups first.

    widths: int64 (groups,), as they are now. threshold: as in ``Sensitivity``.
    """

    def __init__(self, model: CostModel, curves: Sequence[Curve]) -> None:
        self._model, self._losses, self._step = model, [curve.losses() for curve in curves], step_of(model)
        self.widths = model.full.copy()
        self.threshold: float | None = None

    def to(self, goal: Budget) -> np.ndarray:
        """Narrow until ``goal`` holds, or nothing can be narrowed; int64 (groups,)."""
        model = self._model
        while not allocation.holds(model, self.widths, goal):
            name, saved = most_violated(model, self.widths, goal)
            fewer = np.maximum(self.widths - self._step, model.least)
            open_groups = (fewer < self.widths) & (saved > 0)
            if not open_groups.any():
                break
            price = np.full(len(fewer), np.inf)
            for g in np.flatnonzero(open_groups):
                cost = self._losses[g][fewer[g]] - self._losses[g][self.widths[g]]
                price[g] = cost / (saved[g] * (self.widths[g] - fewer[g])) * goal.limits[name]
            cheapest = int(price.argmin())
            self.threshold = max(self.threshold or 0.0, float(price[cheapest]))
            self.widths = self.widths.copy()
            self.widths[cheapest] = fewer[cheapest]
        return self.widths


def most_violated(model: CostModel, widths: np.ndarray, goal: Budget) -> tuple[str, np.ndarray]:
    """The resource that is furthest above its limit, and what a channel of each group takes of it: float64 (groups,).

    Resources that add up are asked first: others need a search, and only where all of these hold is it made.
    """
    sums = model.sums(widths)
    ratios = {name: ratio(sums[name], limit) for name, limit in goal.limits.items() if name in sums}
    if max(ratios.values(), default=0.0) <= 1:
        functions = model.functions
        others = {name: limit for name, limit in goal.limits.items() if name not in sums}
        ratios |= {name: ratio(functions[name].value(widths), limit) for name, limit in others.items()}
    worst = max(ratios, key=lambda name: ratios[name])
    return worst, model.gradient(worst, widths)
