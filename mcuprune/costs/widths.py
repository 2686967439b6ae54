"""Widths that hold a budget: the narrowest, the largest uniform scaling, greedy cuts into it, growth up to it.

Widths are int64 (groups,), between ``model.least`` and ``model.full``; with ``multiple`` they are multiples of it, or a group's
full width. ``uniform``, ``uniform_grown``, ``between``, ``cut_into`` and ``grow`` return widths that hold the budget if
``model.least`` does, whatever they were given; ``settled`` gives a model whose ``least`` does, or raises BudgetError.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np

from mcuprune.channels.labelling import Channels
from mcuprune.costs.resources import RESOURCES, Basis, Budget, CostModel, SramModel
from mcuprune.costs.resources import least as least_costs
from mcuprune.errors import BudgetError, UsageError

#: How many steps wider than its minimum a group is tried in search of a smaller arena.
_STEPS = 4


def bounded(channels: Channels, *, keep: Sequence[str] = (), least: int = 1, multiple: int = 1) -> Channels:
    """The same groups with higher minimums: whole where a pattern of ``keep`` matches, ``least`` and ``multiple`` elsewhere.

    keep: shell patterns over group and node names, with or without the slash that exporters begin these with. Raises UsageError
    for one that matches nothing.
    least: a group that could go as a whole can't if this is above 1.
    """
    for pattern in keep:
        if not any(_matches(pattern, (group.name, *group.nodes)) for group in channels.groups):
            known = ", ".join(group.name for group in channels.groups[:8])
            raise UsageError(f"--keep {pattern}: no removable group or node of that name; groups are {known}, ...")

    def minimum(size: int, names: Sequence[str], own: int) -> int:
        if any(_matches(pattern, names) for pattern in keep):
            return size
        wanted = max(own, least if own or least > 1 else 0)
        return min(size, -(-wanted // multiple) * multiple)

    groups = [replace(g, minimum=minimum(len(g), (g.name, *g.nodes), g.minimum)) for g in channels.groups]
    return replace(channels, groups=tuple(groups))


def _matches(pattern: str, names: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) or fnmatchcase(name.removeprefix("/"), pattern) for name in names)


def feasible(
    channels: Channels,
    budget: Budget,
    *,
    keep: Sequence[str] = (),
    least: int = 1,
    multiple: int = 1,
    basis: Basis | SramModel = "peak",
    make: Callable[[Channels], CostModel] | None = None,
) -> CostModel:
    """The costs of a network's cuts within bounds: ``bounded``, then ``settled``.

    make: the costs of labelled channels, where they aren't those of the network as it is.
    Raises BudgetError where no cut holds the budget, with the reasons where no channel can be cut at all.
    """
    if channels.groups:
        channels = bounded(channels, keep=keep, least=least, multiple=multiple)
    try:
        return settled(CostModel(channels, basis) if make is None else make(channels), budget, multiple)
    except BudgetError as error:
        if channels.groups:
            raise
        raise BudgetError(f"{error}; no prunable channel: {why_none(channels)}") from None


def why_none(channels: Channels) -> str:
    """Why a network without groups has none."""
    reasons = sorted({group.why for group in channels.frozen if group.why})
    return "; ".join(reasons[:3]) or "it has no convolution or fully connected layer"


def settled(model: CostModel, budget: Budget, multiple: int = 1) -> CostModel:
    """The same costs with minimums that hold the budget. Raises BudgetError, with the least that is possible, if none do."""
    narrow = narrowest(model, budget, multiple)
    reached, bounds = model.at(narrow), least_costs(model, budget)
    over = []
    for name, limit in budget.limits.items():
        title, bound, used = RESOURCES[name].title, bounds[name], reached[name]
        if bound > limit:
            further = f", and no cut was found below {used}" if used > bound else ""
            over.append(f"{title} can't go below {bound}{further} (limit {limit})")
        elif used > limit:
            over.append(f"no cut was found with {title} below {used} (limit {limit})")
    channels = model.channels
    if over:
        others = [f"{RESOURCES[name].title} {bounds[name]}" for name, limit in budget.limits.items() if reached[name] <= limit]
        rest = f" (least of the others: {', '.join(others)})" if others else ""
        raise BudgetError(f"{channels.network.path}: the budget can't be held: {'; '.join(over)}; raise these limits{rest}")
    if np.array_equal(narrow, model.least):
        return model
    groups = tuple(replace(group, minimum=int(width)) for group, width in zip(channels.groups, narrow, strict=True))
    return model.of(replace(channels, groups=groups))


def narrowest(model: CostModel, budget: Budget, multiple: int = 1) -> np.ndarray:
    """Every group at its minimum: there flash, MACs and the peak are least. Not so an arena.

    Its buffers may lie better where some group is wider, so where the minimums don't hold its limit, the group and the few
    steps that lower it most within the other limits are taken, again and again, until it holds or nothing lowers it.
    """
    widths = model.least.copy()
    uneven = [name for name in budget.limits if not model.functions[name].monotone]
    others = Budget({name: limit for name, limit in budget.limits.items() if name not in uneven})
    for name in uneven:
        widths = _lowered(model, widths, name, budget.limits[name], others, multiple)
    return widths


def _lowered(model: CostModel, widths: np.ndarray, resource: str, limit: int, others: Budget, multiple: int) -> np.ndarray:
    """Widths where a resource that isn't monotone is at its limit, within ``others``, or as near as steps from here come."""
    function = model.functions[resource]
    reached, enough = function.value(widths), max(limit, function.least())
    while reached > enough:
        best = widths
        for group in range(len(widths)):
            for steps in range(1, _STEPS + 1):
                wider = widths.copy()
                wider[group] = min((widths[group] // multiple + steps) * multiple, model.full[group])
                if holds(model, wider, others) and (size := function.value(wider)) < reached:
                    best, reached = wider, size
        if best is widths:
            break
        widths = best
    return widths


def holds(model: CostModel, widths: np.ndarray, budget: Budget) -> bool:
    """Whether the budget holds at ``widths``. What adds up, as flash and MACs do, comes first: it needs no schedule."""
    sums = model.sums(widths)
    if any(sums[name] > limit for name, limit in budget.limits.items() if name in sums):
        return False
    others = [(model.functions[name], limit) for name, limit in budget.limits.items() if name not in sums]
    return all(function.value(widths) <= limit for function, limit in others)


def floor(model: CostModel, fractions: np.ndarray, multiple: int = 1) -> np.ndarray:
    """Widths of the groups at ``fractions`` of their full width: float (groups,) or one number -> int64 (groups,)."""
    return rounded(model, np.floor(np.asarray(fractions) * model.full + 1e-9).astype(np.int64), multiple)


def rounded(model: CostModel, widths: np.ndarray, multiple: int = 1) -> np.ndarray:
    """The widest legal widths that are no wider, but for minimums: int64 (groups,)."""
    down = np.where(widths >= model.full, model.full, widths // multiple * multiple)
    return np.clip(down, model.least, model.full)


def uniform(model: CostModel, budget: Budget, multiple: int = 1) -> np.ndarray:
    """The largest common fraction of all widths that holds the budget, to one channel of the widest group."""
    if holds(model, model.full, budget):
        return model.full.copy()
    low, high = 0.0, 1.0
    while high - low > 0.25 / max(1, int(model.full.max(initial=1))):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(model, floor(model, np.array(middle), multiple), budget) else (low, middle)
    return floor(model, np.array(low), multiple)


def cut_into(model: CostModel, widths: np.ndarray, budget: Budget, value: np.ndarray, multiple: int = 1) -> np.ndarray:
    """Narrow groups one channel (or ``multiple``) at a time until the budget holds.

    Always where it costs least value for the excess it saves.

    value: float (groups,), what a channel of each group is worth.
    """
    widths = rounded(model, widths, multiple)
    while not holds(model, widths, budget):
        ratios = budget.ratios(model.at(widths))
        worst = max(ratios, key=lambda name: ratios[name])
        saved = model.gradient(worst, widths)
        score = np.where((widths > model.least) & (saved > 0), saved / np.maximum(value, 1e-12), -1.0)
        if score.max(initial=-1.0) < 0:  # no channel lowers the worst resource: narrow whatever still can be
            score = np.where(widths > model.least, 1.0, -1.0)
        if score.max(initial=-1.0) < 0:
            return model.least.copy()
        narrowed = int(score.argmax())
        widths[narrowed] = max((widths[narrowed] - 1) // multiple * multiple, model.least[narrowed])
    return widths


def grow(
    model: CostModel,
    widths: np.ndarray,
    budget: Budget,
    value: np.ndarray,
    multiple: int = 1,
    most: np.ndarray | None = None,
) -> np.ndarray:
    """Widen groups one channel (or ``multiple``) at a time while the budget holds, until no single channel fits any more.

    value: float (groups,), what one more channel of each group is worth; relative to how much of the budget it takes.
    most: int64 (groups,), how far groups may grow; to their full width where it is None.
    """
    most = model.full if most is None else rounded(model, most, multiple)
    widths = cut_into(model, widths, budget, value, multiple)
    open_groups, grown = widths < most, False
    while open_groups.any():
        price = np.zeros(len(widths))
        used = model.at(widths)
        for name, limit in budget.limits.items():
            room = max(limit - used[name], 0) + 1
            price = np.maximum(price, model.gradient(name, widths) / room)
        score = np.where(open_groups, value / np.maximum(price, 1e-12), -np.inf)
        best = int(score.argmax())
        before = int(widths[best])
        widths[best] = min((before // multiple + 1) * multiple, most[best])
        if not holds(model, widths, budget):
            widths[best] = before
            open_groups[best] = False
        else:
            grown = True
            open_groups[best] = widths[best] < most[best]
        # An arena may become smaller where a group grows, so that a group with no room before has some now: try all once more.
        if grown and not open_groups.any():
            open_groups, grown = widths < most, False
    return widths


def uniform_grown(model: CostModel, budget: Budget, multiple: int = 1) -> np.ndarray:
    """``uniform``, grown into what it leaves of the budget.

    That is much where one resource binds that some groups hardly take: SRAM is used up by the first layers of a network, and
    the last ones could be whole. A channel counts by what it adds to its group's width.
    """
    scaled = uniform(model, budget, multiple)
    return grow(model, scaled, budget, 1.0 / np.maximum(scaled, 1), multiple)


def between(model: CostModel, first: np.ndarray, second: np.ndarray, budget: Budget, multiple: int = 1) -> np.ndarray:
    """The geometric means of two allocations, brought into the budget and grown up to it."""
    middle = np.rint(np.sqrt(first * second)).astype(np.int64)
    middle = cut_into(model, middle, budget, np.ones(len(middle)), multiple)
    return grow(model, middle, budget, 1.0 / np.maximum(middle, 1), multiple)


def affordable(model: CostModel, budget: Budget, macs: int, multiple: int = 1) -> Budget:
    """The budget with no more MACs than ``macs``, or than ``uniform`` takes where that is more."""
    most = max(macs, model.sums(uniform(model, budget, multiple))["macs"])
    return Budget({**budget.limits, "macs": min(most, budget.limits.get("macs", most))})


def could_grow(model: CostModel, widths: np.ndarray, budget: Budget, multiple: int = 1) -> list[int]:
    """The groups that one channel more (or ``multiple``) would leave within the budget, each on its own."""
    growing = []
    for group in np.flatnonzero(widths < model.full):
        wider = widths.copy()
        wider[group] = min((widths[group] // multiple + 1) * multiple, model.full[group])
        if holds(model, wider, budget):
            growing.append(int(group))
    return growing
