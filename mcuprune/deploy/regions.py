"""Which parts of a schedule run row by row so that its peak of memory falls, and what each of them needs.

A plan is a path over the places between two steps of a schedule: each of its edges is one step as it is, or a *region*, a run
of steps that go row by row (``rings``). What an edge needs is known by itself, since the tensors that live on beside it are
those of its two ends. The path whose dearest edge is the cheapest is found as a shortest path; of those that need the same, the
one with the fewest rows in its sequences is taken, so that nothing runs row by row without need.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from itertools import count

from mcuprune.deploy.rings import RowOp, Tape, extent, tape
from mcuprune.immutable import immutable
from mcuprune.schedule import search as memory

#: Rows that may be simulated while one plan is looked for, some five microseconds each.
_WORK = 100_000
#: What a region costs beside the rows of its sequence, in the same unit: a loop and a case for each of its operators.
_LOOP, _CASE = 30, 15
#: Operators of one region: its sequence has a byte for each row.
MOST = 256


@immutable
class Region:
    """Steps ``first`` to before ``end`` of a schedule, row by row. bytes: of memory while it runs, an upper bound.

    upwards: whether the tape counts rows from the last one on, so that the last rows are made first.
    """

    first: int
    end: int
    tape: Tape
    bytes: int
    upwards: bool = False

    @property
    def cost(self) -> int:
        """Bytes of code for its loop and its cases, about."""
        return len(self.tape.sequence) + _LOOP + _CASE * (self.end - self.first)


class Rows:
    """A schedule whose steps may go row by row.

    ops: for each operator of the graph its row form; None where it has none. rows: of the buffers that have rows.
    bands: see ``rings.tape``.
    """

    def __init__(
        self,
        graph: memory.Graph,
        schedule: memory.Schedule,
        ops: Sequence[RowOp | None],
        rows: Mapping[int, int],
        *,
        bands: int | None = None,
    ) -> None:
        self.graph, self.schedule, self.rows, self.bands = graph, schedule, rows, bands
        self.ops = [ops[index] for index in schedule.order]
        self.plain = [step.bytes for step in schedule.steps]
        self._made, self._last = _lives(graph, schedule.order)
        self._across = [sum(self._alive(place)) for place in range(len(self.ops) + 1)]
        self._regions: dict[tuple[int, int, bool], Region | None] = {}
        self._work = 0

    def _alive(self, place: int) -> Iterator[int]:
        """Bytes of each buffer that lives from before a place to behind it."""
        return (self.graph.sizes[b] for b, first_written in self._made.items() if first_written < place <= self._last[b])

    def plan(self) -> tuple[Region, ...]:
        """The regions of the plan that needs least; none where no region lowers the peak."""
        limit = self._least()
        if limit >= max(self.plain, default=0):
            return ()
        regions = self._shortest(limit)
        self._look_for_cheaper(limit, sum(region.cost for region in regions))
        return self._shortest(limit)

    def _look_for_cheaper(self, limit: int, cost: int) -> None:
        """Simulate the regions, small ones first, that may be part of a path as good as one of this cost."""
        ends = [(place, end) for place in range(len(self.ops)) for end in self._ends_from(place, limit)]
        self._work = 0
        for place, end in sorted(ends, key=lambda edge: edge[1] - edge[0]):
            if self._bound(place, end) <= limit and _LOOP + _CASE * (end - place) < cost and self._work < _WORK:
                self.region(place, end)

    def region(self, first: int, end: int, *, upwards: bool = False) -> Region | None:
        """A run of steps as a region; None where one of them can't go row by row, or has nothing to do."""
        key = (first, end, upwards)
        if key not in self._regions:
            self._regions[key] = self._simulated(*key)
        return self._regions[key]

    def _simulated(self, first: int, end: int, upwards: bool) -> Region | None:
        ops = [op for op in self.ops[first:end] if op is not None]
        written = {op.write for op in ops}
        entering = {buffer for op in ops for buffer in op.reads} - written
        if len(ops) < end - first or len(ops) > MOST or len(written) < len(ops):
            return None
        outliving = [buffer for buffer in (*entering, *written) if self._last[buffer] >= end]
        if upwards:
            ops = [op.upside_down(self.rows) for op in ops]
        in_rows = tape(ops, self.rows, outliving, bands=self.bands)
        self._work += len(in_rows.sequence)
        if len(set(in_rows.sequence)) < len(ops):  # nobody needs a row of some step: all windows on it lie in the padding
            return None
        sizes = self.graph.sizes
        beside = sum(sizes[b] for b, born in self._made.items() if born < first and self._last[b] >= end)
        needed = beside + self._ends(in_rows) + _most_busy(in_rows, {b: sizes[b] // self.rows[b] for b in in_rows.rings})
        return Region(first, end, in_rows, needed, upwards)

    def _ends(self, in_rows: Tape) -> int:
        """Bytes of all that enters and leaves: the largest of each may share, where rows of the one end before the other's."""
        sizes = self.graph.sizes
        total = sum(sizes[b] for b in (*in_rows.dead, *in_rows.born))
        if not in_rows.dead or not in_rows.born:
            return total
        source, target = (max(side, key=lambda b: sizes[b]) for side in (in_rows.dead, in_rows.born))
        rows = [
            (sizes[b] // self.rows[b], times) for b, times in ((source, in_rows.dead[source]), (target, in_rows.born[target]))
        ]
        return total - sizes[source] - sizes[target] + extent(*rows)

    # ------------------------------------------------------------------------------------------------------ the path

    def _least(self) -> int:
        """The bytes of the path whose dearest edge needs least, as far as the effort reaches."""
        goal, order = len(self.ops), count()
        best = max(self.plain, default=0)
        self._work = 0
        done: set[int] = set()
        # bytes that a path needs at least, how long its last edge is, a tie-breaker, where it ends, that edge's start
        queue: list[tuple[int, int, int, int, int | None]] = [(0, 0, next(order), 0, None)]
        while queue:
            needed, _, _, place, since = heapq.heappop(queue)
            if needed >= best:
                return best
            if place in done:
                continue
            if since is not None:
                region = self.region(since, place) if self._work < _WORK else None
                if region is not None and region.bytes < best:
                    heapq.heappush(queue, (max(needed, region.bytes), 0, next(order), place, None))
                continue
            done.add(place)
            if place == goal:
                return needed
            if self.plain[place] < best:
                heapq.heappush(queue, (max(needed, self.plain[place]), 0, next(order), place + 1, None))
            for end in self._ends_from(place, needed):
                bound = max(needed, self._bound(place, end))
                if bound < best and end not in done:
                    heapq.heappush(queue, (bound, end - place, next(order), end, place))
        return best

    def _ends_from(self, place: int, needed: int) -> Iterator[int]:
        """Where a region may end: behind some step that needs more as it is, before the first that has no rows."""
        hot = False
        for end in range(place + 1, min(len(self.ops), place + MOST) + 1):
            if self.ops[end - 1] is None:
                return
            hot = hot or self.plain[end - 1] > needed
            if hot:
                yield end

    def _bound(self, first: int, end: int) -> int:
        """Bytes that no sequence of a region undercuts."""
        return max(self._across[first], self._across[end])

    def turned(self, regions: Sequence[Region], upwards: Sequence[bool]) -> tuple[Region, ...]:
        """The same regions, each from its first row to its last or the other way round."""
        turned = [self.region(region.first, region.end, upwards=up) for region, up in zip(regions, upwards, strict=True)]
        return tuple(region for region in turned if region is not None)

    def needed(self, regions: Sequence[Region]) -> int:
        """Bytes of the dearest edge of a plan."""
        inside = {place for region in regions for place in range(region.first, region.end)}
        plain = [needed for place, needed in enumerate(self.plain) if place not in inside]
        return max([0, *plain, *(region.bytes for region in regions)])

    def _shortest(self, limit: int) -> tuple[Region, ...]:
        """The path with the least cost whose edges need at most ``limit`` bytes, of the regions that were looked at."""
        goal = len(self.ops)
        best: list[tuple[int, tuple[Region, ...]] | None] = [None] * (goal + 1)
        best[0] = (0, ())
        ending: dict[int, list[Region]] = {}
        for region in self._regions.values():
            if region is not None and region.bytes <= limit and not region.upwards:
                ending.setdefault(region.end, []).append(region)
        for place in range(1, goal + 1):
            before = best[place - 1]
            paths = [before] if before is not None and self.plain[place - 1] <= limit else []
            for region in ending.get(place, ()):
                path = best[region.first]
                if path is not None:
                    paths.append((path[0] + region.cost, (*path[1], region)))
            best[place] = min(paths, key=lambda path: path[0], default=None)
        path = best[goal]
        assert path is not None, "the path that was found has gone"
        return path[1]


def _lives(graph: memory.Graph, order: Sequence[int]) -> tuple[dict[int, int], dict[int, int]]:
    """At which place of the order each buffer is made, -1 for inputs, and read last; its length for outputs."""
    written_at = dict.fromkeys(graph.inputs, -1)
    last = dict(written_at)
    for place, index in enumerate(order):
        op = graph.ops[index]
        written_at.update(dict.fromkeys(op.outputs, place))
        last.update(dict.fromkeys((*op.inputs, *op.outputs), place))
    last.update(dict.fromkeys(graph.outputs, len(order)))
    return written_at, last


def _most_busy(in_rows: Tape, row: Mapping[int, int]) -> int:
    """The most bytes of rings that hold something at one time. row: bytes of one row."""
    changes: dict[int, int] = {}
    for home, rows in in_rows.rings.items():
        for first, last in in_rows.busy[home]:
            changes[first] = changes.get(first, 0) + rows * row[home]
            changes[last + 1] = changes.get(last + 1, 0) - rows * row[home]
    most = alive = 0
    for time in sorted(changes):
        alive += changes[time]
        most = max(most, alive)
    return most
