"""Policies for ``Portfolio.follow``: a policy is any function that takes a portfolio and names one of its variants."""

from __future__ import annotations

from collections.abc import Callable

from mcuprune.errors import BudgetError
from mcuprune.portfolio.serving import Portfolio, Variant

Policy = Callable[[Portfolio], str]


def by_memory(free: Callable[[], int]) -> Policy:
    """The most accurate variant whose SRAM fits into what is free; the one of least SRAM where none does.

    free: asked at every look, bytes.
    """

    def policy(portfolio: Portfolio) -> str:
        try:
            return portfolio.pick(sram=max(1, int(free())))
        except BudgetError:
            return _least(portfolio, lambda variant: variant.used["sram"])

    return policy


def by_deadline(left: Callable[[], float]) -> Policy:
    """The most accurate variant that answers in time on this machine; the fastest where none does.

    left: asked at every look, seconds that an answer may take.
    """

    def policy(portfolio: Portfolio) -> str:
        seconds = left()
        in_time = [variant for variant in portfolio.variants.values() if portfolio.latency(variant.name) <= seconds]
        if in_time:
            return max(in_time, key=lambda variant: (variant.score, -variant.used["macs"])).name
        return _least(portfolio, lambda variant: portfolio.latency(variant.name))

    return policy


def by_battery(level: Callable[[], float]) -> Policy:
    """The dearer variants while the battery is full, the cheaper ones as it empties: energy goes with multiply-accumulates.

    level: asked at every look, from 0 for empty to 1 for full. Each of the n variants on the Pareto front has an n-th of it.
    """

    def policy(portfolio: Portfolio) -> str:
        front = [variant for variant in portfolio.variants.values() if variant.pareto] or [*portfolio.variants.values()]
        front.sort(key=lambda variant: (variant.used["macs"], variant.name))
        return front[min(len(front) - 1, max(0, int(level() * len(front))))].name

    return policy


def _least(portfolio: Portfolio, cost: Callable[[Variant], float]) -> str:
    return min(portfolio.variants.values(), key=lambda variant: (cost(variant), variant.name)).name
