"""Limits, and whether they hold."""

from __future__ import annotations

from collections.abc import Mapping

from mcuprune.costs.model import CostModel
from mcuprune.costs.rows import RESOURCES
from mcuprune.errors import BudgetError
from mcuprune.immutable import immutable
from mcuprune.notebook import Drawn
from mcuprune.units import Limit


@immutable
class Verdict(Drawn):
    """Used and limit of every limited resource, in base units. Limits are inclusive."""

    used: Mapping[str, int]
    limits: Mapping[str, int]

    def __repr__(self) -> str:
        sides = ", ".join(f"{name} {self.used[name]} of {limit}" for name, limit in self.limits.items())
        return f"<Verdict: {'fits' if self.ok else 'does not fit'}: {sides or 'no limits'}>"

    def __bool__(self) -> bool:
        """``ok``, so that ``if mcuprune.check(...)`` means what it says."""
        return self.ok

    @property
    def ok(self) -> bool:
        """Whether every limit holds."""
        return not self.excess

    @property
    def excess(self) -> dict[str, int]:
        """By how much each resource that is over its limit is over."""
        return {name: self.used[name] - limit for name, limit in self.limits.items() if self.used[name] > limit}


@immutable
class Budget:
    """Resource -> limit in base units. Resources that it doesn't name are free."""

    limits: Mapping[str, int]

    def check(self, used: Mapping[str, int]) -> Verdict:
        """The verdict on these costs. used: in base units, of every limited resource at least."""
        return Verdict({name: used[name] for name in self.limits}, self.limits)

    def ratios(self, used: Mapping[str, int]) -> dict[str, float]:
        """used / limit of every limited resource."""
        return {name: ratio(used[name], limit) for name, limit in self.limits.items()}

    def approached(self, start: Mapping[str, int], share: float) -> Budget:
        """The budget a part of the way there: each limit falls geometrically from what ``start`` costs to its own.

        share: from 0, nothing of the way, to 1, the budget itself. What holds its limit at the start has it all the way.
        """
        parts = {name: max(1.0, ratio(start[name], limit)) ** (1 - share) for name, limit in self.limits.items()}
        return Budget({name: int(limit * parts[name]) for name, limit in self.limits.items()})


def ratio(used: float, limit: int) -> float:
    """used / limit; of a limit of nothing 0 where nothing is used."""
    return used / limit if limit or used else 0.0


def budget(wanted: Mapping[str, Limit], own: Mapping[str, int]) -> Budget:
    """Limits in base units for a network that costs ``own``.

    Raises BudgetError where a limit comes to nothing, but for all of what is nothing.
    """
    limits = {name: limit.of(own[name]) for name, limit in wanted.items()}
    for name, value in limits.items():
        holds = own[name] == 0 and wanted[name].relative and wanted[name].value >= 1
        if value < 1 and not holds:
            raise BudgetError(f"the limit of {RESOURCES[name].title} comes to {value}; give a larger one")
    return Budget(limits)


def least(model: CostModel, limits: Budget) -> dict[str, int]:
    """What each limited resource costs at least, each group at its minimum: no selection costs less."""
    costs_at_least = model.least_costs()
    return {name: costs_at_least[name] for name in limits.limits}
