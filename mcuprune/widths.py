"""Widths that hold a budget: the largest uniform scaling, greedy cuts into it, growth up to it.

Widths are int64 (groups,), between ``model.least`` and ``model.full``. Every function returns widths that hold the budget if
``model.least`` does, whatever it was given.
"""

from __future__ import annotations

import numpy as np

from mcuprune.resources import Budget, CostModel


def holds(model: CostModel, widths: np.ndarray, budget: Budget) -> bool:
    """Whether the budget holds at ``widths``. Flash and MACs are looked at first; they need no schedule."""
    sums = model.sums(widths)
    if any(sums[name] > limit for name, limit in budget.limits.items() if name in sums):
        return False
    return "sram" not in budget.limits or model.at(widths)["sram"] <= budget.limits["sram"]


def floor(model: CostModel, fractions: np.ndarray) -> np.ndarray:
    """Widths of the groups at ``fractions`` of their full width: float (groups,) or one number -> int64 (groups,)."""
    wanted = np.floor(np.asarray(fractions) * model.full + 1e-9).astype(np.int64)
    return np.clip(wanted, model.least, model.full)


def uniform(model: CostModel, budget: Budget) -> np.ndarray:
    """The largest common fraction of all widths that holds the budget, to one channel of the widest group."""
    if holds(model, model.full, budget):
        return model.full.copy()
    low, high = 0.0, 1.0
    while high - low > 0.25 / max(1, int(model.full.max(initial=1))):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(model, floor(model, np.array(middle)), budget) else (low, middle)
    return floor(model, np.array(low))


def cut_into(model: CostModel, widths: np.ndarray, budget: Budget, value: np.ndarray) -> np.ndarray:
    """Narrow groups one channel at a time until the budget holds: always where it costs least value for the excess it saves.

    value: float (groups,), what a channel of each group is worth.
    """
    widths = widths.copy()
    while not holds(model, widths, budget):
        ratios = budget.ratios(model.at(widths))
        worst = max(ratios, key=lambda name: ratios[name])
        saved = model.gradient(worst, widths)
        score = np.where((widths > model.least) & (saved > 0), saved / np.maximum(value, 1e-12), -1.0)
        if score.max(initial=-1.0) < 0:  # no channel lowers the worst resource: narrow whatever still can be
            score = np.where(widths > model.least, 1.0, -1.0)
        if score.max(initial=-1.0) < 0:
            return model.least.copy()
        widths[int(score.argmax())] -= 1
    return widths


def grow(model: CostModel, widths: np.ndarray, budget: Budget, value: np.ndarray) -> np.ndarray:
    """Widen groups one channel at a time while the budget holds, until no single channel fits any more.

    value: float (groups,), what one more channel of each group is worth; relative to how much of the budget it takes.
    """
    widths = widths.copy()
    open_groups = widths < model.full
    while open_groups.any():
        price = np.zeros(len(widths))
        used = model.at(widths)
        for name, limit in budget.limits.items():
            room = max(limit - used[name], 0) + 1
            price = np.maximum(price, model.gradient(name, widths) / room)
        score = np.where(open_groups, value / np.maximum(price, 1e-12), -np.inf)
        best = int(score.argmax())
        widths[best] += 1
        if not holds(model, widths, budget):
            widths[best] -= 1
            open_groups[best] = False
        elif widths[best] >= model.full[best]:
            open_groups[best] = False
    return widths
