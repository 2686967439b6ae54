"""Which parts of a network run in row bands, in how many, and how: the cheapest plan under a limit on memory.

Between two cuts of a network only the part between them is in memory, so a plan is a path over the cuts: each step runs what
lies between a cut and the next as it is, or a region in bands. A path holds a limit if each of its steps does. The cheapest is
found as a shortest path, by multiply-accumulates first, then by operators; what a region needs is read off its tape
(``tape.price``), which is an upper bound: the best order of the written network may need less.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from mcuprune.bands.rewrite import banded, without_pads
from mcuprune.bands.rowgraph import RowGraph
from mcuprune.bands.tape import Choice, Mode, Region, least_peak
from mcuprune.graph.network import Network
from mcuprune.immutable import immutable
from mcuprune.units import show

#: How many bands a region may have.
COUNTS = (2, 3, 4, 6, 8, 12, 16, 24, 32)
#: How a region may run, where memory is what is alive and nothing else. There ``rim`` has no advantage over ``recompute``.
_EXACT: tuple[Mode, ...] = ("cache", "recompute")
#: Steps of tapes that may be written while one plan is looked for, some 20 microseconds each.
WORK = 50_000
#: MACs and operators more than as it is; plans are compared by it.
Cost = tuple[int, int]
#: By which factor each plan of ``pareto`` needs less than the one before.
_STEP = 0.9


@immutable
class Plan:
    """A way to run a network. peak: bytes at most; macs, operators: more than as it is. No choices: as it is."""

    choices: tuple[Choice, ...]
    peak: int
    macs: int
    operators: int

    @property
    def cost(self) -> Cost:
        """What plans are compared by. MACs that are saved, where nothing reads some rows, weigh up no operator."""
        return max(0, self.macs), self.operators


@immutable
class _Look:
    """A region that is still to be looked at. start, end: its cuts. place: of the number of bands among all numbers."""

    start: int
    end: int
    mode: Mode
    place: int


class BandPlanner:
    """Plans for one network.

    net: whose zero Pads are the padding of the convolutions behind them already (``rewrite.without_pads``).
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
        self._bounds: dict[tuple[int, int, int, Mode], int] = {}
        self._regions: dict[tuple[int, int], Region] = {}
        self._effort = 0

    @property
    def plain(self) -> Plan:
        """The network as it is."""
        return Plan((), max(self.graph.segments), 0, 0)

    def cheapest(self, limit: int, *, counts: Sequence[int] = COUNTS, modes: Sequence[Mode] = _EXACT) -> Plan | None:
        """The plan with the fewest MACs, then operators, that needs at most ``limit`` bytes; None where none was found.

        counts: numbers of bands, ascending. The effort is bounded: of very deep networks some long regions aren't looked at.
        """
        return next((plan for plan in self._search(limit, counts, modes, WORK) if isinstance(plan, Plan)), None)

    def _search(self, limit: int, counts: Sequence[int], modes: Sequence[Mode], work: int) -> Iterator[Plan | Cost]:
        """What ``cheapest`` looks for, at last; before it, again and again, what it costs at least by what is known so far."""
        segments = self.graph.segments
        goal = len(self.graph.cuts) - 1
        if not self.graph.cuts or segments[0] > limit or segments[-1] > limit:
            return
        order = count()
        least = (0, 0)
        done: set[int] = set()
        # what a path costs at least, a tie-breaker, where it ends, a region still to be looked at, the regions before it
        queue: list[tuple[int, int, int, int, _Look | None, tuple[Choice, ...]]] = []
        heapq.heappush(queue, (0, 0, next(order), 0, None, ()))
        while queue:
            macs, operators, _, place, look, path = heapq.heappop(queue)
            if place in done:
                continue
            if (macs, operators) > least:
                least = macs, operators
                yield least
            if look is not None:
                before = self._effort
                further = self._looked(look, path, limit, counts) if work > 0 else None
                work -= self._effort - before
                if further is not None:
                    heapq.heappush(queue, (*further[0], next(order), place, *further[1:]))
                continue
            done.add(place)
            if place == goal:
                yield self.plan(path)
                return
            if segments[place + 1] <= limit:
                heapq.heappush(queue, (macs, operators, next(order), place + 1, None, path))
            for end, mode, more, nodes in self._promising(place, limit, modes):
                if end not in done:
                    first = _Look(place, end, mode, 0)
                    heapq.heappush(queue, (macs + more, operators + nodes, next(order), end, first, path))

    def _looked(
        self, look: _Look, path: tuple[Choice, ...], limit: int, counts: Sequence[int]
    ) -> tuple[tuple[int, int], _Look | None, tuple[Choice, ...]] | None:
        """A path with a region in bands that hold the limit, or what of the region is to be looked at next; None for neither.

        With what the path costs at least. What a region needs doesn't always fall as bands get more, but its operators grow:
        so the numbers are tried one after the other, the fewest first.
        """
        place = look.place
        while place < len(counts) and self._at_least(look, counts[place]) > limit:
            place += 1
        choice = self.choice(look.start, look.end, counts[place], look.mode) if place < len(counts) else None
        if choice is None:
            return None
        longer = (*path, choice)
        cost = (sum(max(0, c.price.macs) for c in longer), sum(c.price.operators for c in longer))
        if choice.price.peak <= limit:
            return cost, None, longer
        more = choice.bands == counts[place] and place + 1 < len(counts)  # it hasn't rows for more where it hasn't for these
        return (cost, replace(look, place=place + 1), path) if more else None

    def _at_least(self, look: _Look, bands: int) -> int:
        """Bytes that a region in so many bands needs at least."""
        key = (look.start, look.end, min(bands, self._rows_of(look.start, look.end)), look.mode)
        if key not in self._bounds:
            self._bounds[key] = least_peak(self._region(look.start, look.end), key[2], look.mode)
            self._effort += 1
        return self._bounds[key]

    def _promising(self, start: int, limit: int, modes: Sequence[Mode]) -> Iterator[tuple[int, Mode, int, int]]:
        """Regions from a cut that may hold a limit: their last cut, how they run, and the least MACs and operators they add.

        Before the last band the whole first tensor is alive, half of the last one at least, and all rows that are kept.
        """
        if start not in self._stretch_of:
            return
        stretch, _, last = self._stretch_of[start]
        values, cuts = self.graph.values, self.graph.cuts
        hot, operators, kept, works, again = False, 0, dict[str, int](), False, 0
        for end in range(start + 1, last + 1):
            hot = hot or self.graph.segments[end] > limit
            for node in self.graph.between[end]:
                at = stretch.local[node.name]
                operators += self.graph.operators_of(node)
                for name in {self.graph.of[name] for name in node.inputs if name in self.graph.of} - {cuts[start]}:
                    rows = max(0, at.span - at.stride) * values[name].size // max(1, at.rows[0])
                    kept[name] = max(kept.get(name, 0), rows)
                    again = again or int(rows > 0 and works)
                works = works or node.op in ("Conv", "MatMul")
            first, final = values[cuts[start]].size, values[cuts[end]].size
            if not hot or max(2 * final, first + final // 2) > limit:
                continue
            for mode in modes:
                if mode != "cache":
                    yield end, mode, again, operators
                elif first + final // 2 + sum(kept.values()) <= limit:  # each is sliced and joined once at least
                    yield end, mode, 0, operators + 2 * sum(rows > 0 for rows in kept.values())

    def ends(self, place: int) -> list[int]:
        """The cuts at which a region from this one may end, numbers of cuts."""
        return list(range(place + 1, self._stretch_of[place][2] + 1)) if place in self._stretch_of else []

    def choice(self, start: int, end: int, bands: int, mode: Mode) -> Choice | None:
        """The region between two cuts in bands; None where it hasn't enough rows for two."""
        end_rows = self._rows_of(start, end)
        key = (start, end, min(bands, end_rows), mode)
        if key not in self._choices:
            choice = Choice(self._region(start, end), key[2], mode)
            try:
                _ = choice.price
                self._choices[key] = choice
                self._effort += len(choice.tape.steps)
            except ValueError:
                self._choices[key] = None
        return self._choices[key]

    def _region(self, start: int, end: int) -> Region:
        if (start, end) not in self._regions:
            stretch, first, _ = self._stretch_of[start]
            self._regions[start, end] = Region(self.graph, stretch, start - first, end - first)
        return self._regions[start, end]

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
        operators = sum(choice.price.operators for choice in choices)
        return Plan(tuple(choices), peak, sum(choice.price.macs for choice in choices), operators)

    def pareto(self, *, counts: Sequence[int] = COUNTS, modes: Sequence[Mode] = _EXACT, work: int = WORK) -> list[Plan]:
        """Plans from the network as it is to the least memory found, each of which needs less and costs more than the last."""
        peak = self.plain.peak
        steps = self.descending(peak, int(peak * _STEP), counts=counts, modes=modes, work=work)
        plans = [self.plain, *(plan for plan in steps if isinstance(plan, Plan))]
        return [plan for index, plan in enumerate(plans) if all(later.cost > plan.cost for later in plans[index + 1 :])]

    def descending(
        self,
        above: int,
        limit: int,
        *,
        counts: Sequence[int] = COUNTS,
        modes: Sequence[Mode] = _EXACT,
        work: int = WORK,
        factor: float = _STEP,
    ) -> Iterator[Plan | Cost]:
        """The cheapest plan of at most ``limit`` bytes, then others, each of which needs less than the last, on demand.

        Before a plan comes, again and again, what it costs at least by what is known so far.
        above: bytes. Where nothing holds the first limit, higher ones up to here are tried.
        work: steps of tapes that may be written for each of the plans. factor: by which a plan needs less than the last.
        """
        low = self.least_conceivable()
        while limit >= low:
            plan = None
            for step in self._search(limit, counts, modes, work):
                yield step
                plan = step if isinstance(step, Plan) else None
            if plan is None:
                if above - limit <= max(64, above // 100):
                    return
                low, limit = limit, (limit + above) // 2
                continue
            above = plan.peak
            limit = max(int(plan.peak * factor), (low + plan.peak) // 2 if low > plan.peak * factor else 0)
            if limit >= plan.peak:
                return

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


def region_document(choice: Choice) -> dict[str, Any]:
    """A region in bands, as JSON values. rows: of its last tensor, first and end of each band."""
    return {
        "from": choice.region.start,
        "to": choice.region.end,
        "mode": choice.mode,
        "bands": len(choice.tape.bands),
        "rows": [list(band) for band in choice.tape.bands],
        "peak": choice.price.peak,
        "macs_added": choice.price.macs,
        "operators_added": choice.price.operators,
    }


def embedded_line(names: Sequence[str]) -> str:
    """Convolutions whose kernels lie among zeros (``bands.kernels``), for people."""
    return f"kernels among zeros, so that TensorFlow Lite needs no PAD operator for them: {', '.join(names)}"


def region_line(region: Mapping[str, Any]) -> str:
    """A region's ``region_document`` for people."""
    more = show(abs(region["macs_added"]), "count")
    return (
        f"{region['bands']} ({region['mode']}) from {region['from']} to {region['to']}: "
        f"{'-' if region['macs_added'] < 0 else '+'}{more} MACs, {region['operators_added']:+d} operators"
    )
