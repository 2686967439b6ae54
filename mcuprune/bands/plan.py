"""Which parts of a network run in row bands, in how many, and how: the cheapest plan under a limit on memory.

Between two cuts of a network only the part between them is in memory, so a plan is a path over the cuts: each step runs what
lies between a cut and the next as it is, or a region in bands. A path holds a limit if each of its steps does. The cheapest is
found as a shortest path, by multiply-accumulates first, then by operators; what a region needs is read off its tape
(``bands.price``), which is an upper bound: the best order of the written network may need less.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from mcuprune.bands.rewrite import Choice, Mode, Region, banded, without_pads
from mcuprune.bands.rowgraph import RowGraph
from mcuprune.graph.network import Network

#: How many bands a region may have.
COUNTS = (2, 3, 4, 6, 8, 12, 16, 24, 32)
#: How a region may run, where memory is what is alive and nothing else; rims only cost there.
_EXACT: tuple[Mode, ...] = ("cache", "recompute")
#: Regions looked at for one plan. Each is worth about a millisecond.
_LOOKS = 300
#: By which factor each plan of ``pareto`` needs less than the one before.
_STEP = 0.9


@dataclass(frozen=True)
class Plan:
    """A way to run a network. peak: bytes at most; macs, operators: more than as it is. No choices: as it is."""

    choices: tuple[Choice, ...]
    peak: int
    macs: int
    operators: int

    @property
    def cost(self) -> tuple[int, int]:
        """What plans are compared by."""
        return self.macs, self.operators


class BandPlanner:
    """Plans for one network.

    net: whose zero Pads are the padding of the convolutions behind them already (``bands.without_pads``).
    """

    def __init__(self, net: Network) -> None:
        self.net = without_pads(net)
        self.graph = RowGraph(self.net)
        self._index = {name: index for index, name in enumerate(self.graph.cuts)}
        self._stretch_of = {}
        for stretch in self.graph.stretches:
            places = [self._index[name] for name in stretch.cuts]
            for place in places[:-1]:
                self._stretch_of[place] = (stretch, places[0], places[-1])
        self._choices: dict[tuple[int, int, int, Mode], Choice | None] = {}
        self._regions: dict[tuple[int, int], Region] = {}

    @property
    def plain(self) -> Plan:
        """The network as it is."""
        return Plan((), max(self.graph.segments), 0, 0)

    def cheapest(self, limit: int, *, counts: Sequence[int] = COUNTS, modes: Sequence[Mode] = _EXACT) -> Plan | None:
        """The plan with the fewest MACs, then operators, that needs at most ``limit`` bytes; None where none was found."""
        segments = self.graph.segments
        goal = len(self.graph.cuts) - 1
        if not self.graph.cuts or segments[0] > limit or segments[-1] > limit:
            return None
        order, looks = count(), _LOOKS
        done: set[int] = set()
        queue: list[tuple[int, int, int, int, Callable[[], Choice | None] | None, tuple[Choice, ...]]] = []
        heapq.heappush(queue, (0, 0, next(order), 0, None, ()))
        while queue:
            macs, operators, _, place, look, path = heapq.heappop(queue)
            if place in done:
                continue
            if look is not None:
                if looks <= 0:
                    continue
                looks -= 1
                choice = look()
                if choice is not None:
                    price = choice.price
                    total = (macs + price.macs, path_operators(path) + price.operators)
                    heapq.heappush(queue, (*total, next(order), place, None, (*path, choice)))
                continue
            done.add(place)
            if place == goal:
                return self.plan(path)
            if segments[place + 1] <= limit:
                heapq.heappush(queue, (macs, operators, next(order), place + 1, None, path))
            for end, nodes in self._ends(place, limit):
                if end not in done:
                    task = self._task(place, end, limit, counts, modes)
                    heapq.heappush(queue, (macs, operators + nodes, next(order), end, task, path))
        return None

    def _ends(self, place: int, limit: int) -> Iterator[tuple[int, int]]:
        """The cuts at which a region from a cut may end, with the least number of operators that it adds."""
        if place not in self._stretch_of:
            return
        _, _, last = self._stretch_of[place]
        size = [self.graph.values[name].size for name in self.graph.cuts]
        hot, nodes = False, 0
        for end in range(place + 1, last + 1):
            hot = hot or self.graph.segments[end] > limit
            nodes += len(self.graph.between[end])
            if hot and max(2 * size[end], size[place] + size[end] // 2) <= limit:
                yield end, nodes

    def _task(
        self, start: int, end: int, limit: int, counts: Sequence[int], modes: Sequence[Mode]
    ) -> Callable[[], Choice | None]:
        return lambda: self._fitting(start, end, limit, counts, modes)

    def _fitting(self, start: int, end: int, limit: int, counts: Sequence[int], modes: Sequence[Mode]) -> Choice | None:
        """The cheapest way to run a region within the limit."""
        found: list[Choice] = []
        for mode in modes:
            low, high = 0, len(counts)
            tried = [self.choice(start, end, counts[-1], mode)]
            if tried[0] is None:
                continue
            if tried[0].price.peak > limit:
                # more bands than rows are worth may need more than fewer
                middle = self.choice(start, end, counts[len(counts) // 2], mode)
                if middle is None or middle.price.peak > limit:
                    continue
                high = len(counts) // 2 + 1
            while low < high - 1:  # of those that fit, the fewest bands
                middle_place = (low + high - 1) // 2
                choice = self.choice(start, end, counts[middle_place], mode)
                if choice is not None and choice.price.peak <= limit:
                    high = middle_place + 1
                else:
                    low = middle_place + 1
            best = self.choice(start, end, counts[high - 1], mode)
            if best is not None and best.price.peak <= limit:
                found.append(best)
                if mode == "cache" and best.price.macs == 0:
                    break
        return min(found, key=lambda choice: (choice.price.macs, choice.price.operators), default=None)

    def ends(self, place: int) -> list[int]:
        """The cuts at which a region from this one may end, numbers of cuts."""
        return list(range(place + 1, self._stretch_of[place][2] + 1)) if place in self._stretch_of else []

    def choice(self, start: int, end: int, bands: int, mode: Mode) -> Choice | None:
        """The region between two cuts in bands; None where it hasn't enough rows for two."""
        end_rows = self._rows_of(start, end)
        key = (start, end, min(bands, end_rows), mode)
        if key not in self._choices:
            stretch, first, _ = self._stretch_of[start]
            if (start, end) not in self._regions:
                self._regions[start, end] = Region(self.graph, stretch, start - first, end - first)
            made = Choice(self._regions[start, end], key[2], mode)
            try:
                _ = made.price
                self._choices[key] = made
            except ValueError:
                self._choices[key] = None
        return self._choices[key]

    def _rows_of(self, start: int, end: int) -> int:
        """The rows of a region's last tensor."""
        stretch, _, _ = self._stretch_of[start]
        name = self.graph.cuts[end]
        return self.net.shapes[name][stretch.axes[name]]

    def plan(self, choices: Sequence[Choice]) -> Plan:
        """What the network needs with these regions in bands."""
        covered: set[int] = set()
        for choice in choices:
            first, last = self._index[choice.region.start], self._index[choice.region.end]
            covered.update(range(first + 1, last + 1))
        rest = [peak for index, peak in enumerate(self.graph.segments) if index not in covered]
        peak = max([*rest, *(choice.price.peak for choice in choices)])
        return Plan(tuple(choices), peak, sum(c.price.macs for c in choices), path_operators(choices))

    def pareto(self, *, counts: Sequence[int] = COUNTS, modes: Sequence[Mode] = _EXACT) -> list[Plan]:
        """Plans from the network as it is to the least memory found, each of which needs less and costs more than the last."""
        found = [self.plain]
        low, limit = self.least_conceivable(), int(found[-1].peak * _STEP)
        while limit >= low:
            plan = self.cheapest(limit, counts=counts, modes=modes)
            if plan is None:
                if found[-1].peak - limit <= max(64, found[-1].peak // 100):
                    break
                low, limit = limit, (limit + found[-1].peak) // 2
                continue
            found.append(plan)
            limit = max(int(plan.peak * _STEP), (low + plan.peak) // 2 if low > plan.peak * _STEP else 0)
            if limit >= plan.peak:
                break
        return [plan for index, plan in enumerate(found) if all(later.cost > plan.cost for later in found[index + 1 :])]

    def least_conceivable(self) -> int:
        """Bytes that no plan undercuts: every graph input and every part that can't run in bands."""
        inside = {place for at, (_, _, last) in self._stretch_of.items() for place in range(at + 1, last + 1)}
        sizes = [self.graph.values[self.graph.of[name]].size for name in self.net.inputs]
        return max([0, *sizes, *(peak for index, peak in enumerate(self.graph.segments) if index not in inside)])

    def least(self, *, counts: Sequence[int] = COUNTS, modes: Sequence[Mode] = _EXACT) -> Plan:
        """The plan with the least memory found."""
        return self.pareto(counts=counts, modes=modes)[-1]

    def written(self, plan: Plan) -> Network:
        """The network as the plan runs it."""
        return banded(self.net, plan.choices)


def path_operators(path: Sequence[Choice]) -> int:
    return sum(choice.price.operators for choice in path)
