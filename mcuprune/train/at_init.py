"""Widths at initialisation: what to cut before any training, in seconds.

Every group's sensitivity is measured first (``Flow.curves``), and a threshold that rises until the budget holds says how far
the curves let each group be narrowed (``sensitivity.Descent``). Then channels go one after the other, on the way of a budget
that falls geometrically: always those whose score is least for what they take of the most violated resource, among the groups
that the threshold has reached so far, scored anew at every part of the way. No group falls below half of what the curves
leave it: by scores alone a layer would close in the end, for a channel between narrow layers is cheap to keep elsewhere.

What is left of the budget in the end is grown back.
"""

from __future__ import annotations

import numpy as np

from mcuprune.channels.labelling import Channels
from mcuprune.costs import widths as allocation
from mcuprune.costs.resources import Budget, CostModel
from mcuprune.costs.sensitivity import Curve, Descent, Sensitivity, most_violated, step_of
from mcuprune.data.sets import Split
from mcuprune.immutable import immutable
from mcuprune.train.flow import Flow
from mcuprune.train.scores import RATINGS, refuse_without_examples

#: The part of what the curves leave a group that no score can take.
_FIRM = 1 / 2
#: A network that is scored is cut down in fact, not by a mask, once it has this share of the operations it had.
_REBUILT_AT = 0.8


def refuse(channels: Channels, score: str, examples: Split | None) -> None:
    """Raise what ``plan`` raises, at once."""
    refuse_without_examples(score, examples)
    if channels.groups:
        Flow(channels).scores()


@immutable
class Plan:
    """What to cut. keep: bool (components + 1,)."""

    keep: np.ndarray
    sensitivity: Sensitivity


def sensitivity(channels: Channels) -> Sensitivity:
    """The curves of a network's groups alone. Raises UnsupportedOperator where flow can't be followed."""
    if not channels.groups:
        return Sensitivity(())
    flow = Flow(channels)
    return Sensitivity(flow.curves(flow.scores()))


def plan(
    model: CostModel,
    budget: Budget,
    *,
    score: str = "synflow",
    multiple: int = 1,
    examples: Split | None = None,
    seed: int = 0,
) -> Plan:
    """What to cut of ``model.channels`` to hold a budget that its minimums hold.

    score: of ``task.SCORES``. examples: labelled ones, for scores that need them. seed: of what is left to chance.
    Raises UnsupportedOperator where flow can't be followed.
    """
    if not model.channels.groups:
        return Plan(model.channels.keep_all(), Sensitivity(()))
    scorer = _Scorer(model, score, examples, seed)
    curves = scorer.curves(scorer(model.channels.keep_all()))
    whole = Descent(model, curves)
    floor = np.maximum(model.least, np.ceil(_FIRM * whole.to(budget)).astype(np.int64))
    removal = _Removal(model, floor)
    descent, start = Descent(model, curves), model.at(model.full)
    for iteration in range(1, scorer.rating.iterations + 1):
        goal = budget.approached(start, iteration / scorer.rating.iterations)
        if not allocation.holds(model, removal.widths, goal):
            removal.to(goal, scorer(removal.keep), descent.to(goal) < model.full)
    n = allocation.cut_into(model, removal.widths, budget, np.ones(len(model.full)), multiple)
    n = allocation.grow(model, n, budget, 1.0 / np.maximum(n, 1), multiple)
    return Plan(model.channels.top(n, removal.rank), Sensitivity(curves, whole.threshold))


class _Scorer:
    """Scores of the channels that are left, float64 (components + 1,), of the whole network's components."""

    def __init__(self, model: CostModel, score: str, examples: Split | None, seed: int) -> None:
        self.rating = RATINGS[score]
        self._model, self._examples, self._seed = model, examples, seed
        self._flow: Flow | None = None if score != "synflow" else Flow(model.channels)
        self._whole = model.channels.keep_all()  # what the module has
        self._macs = model.sums(model.full)["macs"]

    def __call__(self, keep: np.ndarray) -> np.ndarray:
        channels = self._model.channels
        scores = np.full(len(keep), np.inf)
        if self._flow is None:
            scores[keep] = self.rating.score(channels.cut_channels(keep), self._examples, self._seed)
            return scores
        macs = self._model.sums(channels.widths(keep))["macs"]
        if macs < _REBUILT_AT * self._macs:
            self._flow, self._whole, self._macs = Flow(channels.cut_channels(keep)), keep.copy(), macs
        scores[self._whole] = self._flow.scores(keep[self._whole])
        return scores

    def curves(self, scores: np.ndarray) -> tuple[Curve, ...]:
        """Of the whole network, the channels in the order of their scores."""
        return (self._flow or Flow(self._model.channels)).curves(scores)


class _Removal:
    """Channels on their way out.

    floor: int64 (groups,), widths that no group falls below. keep, widths: what is left.
    rank: float64 (components + 1,): the later a channel went, the more; those that are left have more than all others.
    """

    def __init__(self, model: CostModel, floor: np.ndarray) -> None:
        self._model, self._floor, self._step = model, floor, step_of(model)
        self.keep, self.widths = model.channels.keep_all(), model.full.copy()
        self.rank = np.full(len(self.keep), np.inf)
        self._gone = 0

    def to(self, goal: Budget, scores: np.ndarray, reached: np.ndarray) -> None:
        """Remove channels until ``goal`` holds, or every group is at its floor.

        scores: float64 (components + 1,). reached: bool (groups,), those that may be cut while that is enough.
        """
        model = self._model
        orders = [self._order(group.components, scores) for group in model.channels.groups]
        self.rank[self.keep] = scores[self.keep] + max(0.0, -scores[self.keep].min()) + self._gone + 1
        while not allocation.holds(model, self.widths, goal):
            _, saved = most_violated(model, self.widths, goal)
            open_groups = (self.widths > self._floor) & (saved > 0)
            if not open_groups.any():
                return
            if (open_groups & reached).any():
                open_groups &= reached
            price = np.full(len(saved), np.inf)
            for g in np.flatnonzero(open_groups):
                lowest = scores[orders[g][0]]
                price[g] = lowest / saved[g] if lowest > 0 else lowest * saved[g]
            cheapest = int(price.argmin())
            count = int(min(self._step[cheapest], self.widths[cheapest] - self._floor[cheapest]))
            for component in orders[cheapest][:count]:
                self._gone += 1
                self.keep[component], self.rank[component] = False, self._gone
            del orders[cheapest][:count]
            self.widths[cheapest] -= count

    def _order(self, components: tuple[int, ...], scores: np.ndarray) -> list[int]:
        """What is left of a group, lowest first."""
        ids = np.array([c for c in components if self.keep[c]], dtype=np.int64)
        return [int(c) for c in ids[np.argsort(scores[ids], kind="stable")]]
