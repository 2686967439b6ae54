"""Bounds and orders of one graph with sizes, improved until they meet or the effort is spent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mcuprune.schedule.cut import UNBOUNDED, Cut, Effort
from mcuprune.schedule.graph import Schedule
from mcuprune.schedule.greedy import list_schedules
from mcuprune.schedule.sides import Downward, Side, Upward
from mcuprune.schedule.structure import Costs, Profile, Structure, members

# Effort is counted in looks at an arc or at an operator, not in seconds, so that one graph always gives one answer.
# The rate makes `cpu_seconds` roughly true for CPython 3.11 on a 2020s laptop core.
_WORK_PER_CPU_SECOND = 2_000_000
# Sets are ints of one bit for each operator: with more operators than this a look takes longer, and a beam over all of them
# spends the effort without reaching the other end.
_MANY_OPS = 1000


class _Trail(NamedTuple):
    """A way to a state: its peak, bytes alive at its end, operators run by then, and those that can move there.

    last: operators of its last move. before: the way before that; None at the end of a span.
    """

    peak: int
    live: int
    done: int
    ready: int
    before: _Trail | None = None
    last: tuple[int, ...] = ()

    def ops(self) -> list[int]:
        """All operators moved, in their order."""
        pieces, trail = [self.last], self.before
        while trail is not None:
            pieces.append(trail.last)
            trail = trail.before
        return [v for ops in reversed(pieces) for v in ops]


@dataclass(slots=True)
class Span:
    """A stretch between two states that some optimal order passes through, with the best order known for it.

    stage: which of the solver's methods comes next. ends: a search that was interrupted. bounds: least needs of operators.
    """

    low: int
    high: int
    order: list[int]
    peak: int
    stage: int = 0
    ends: tuple[Upward, Downward] | None = None
    bounds: dict[int, int] = field(default_factory=dict)


class Solver:
    """Bounds and orders for one graph with sizes, improved until they meet or the effort is spent.

    The whole is a row of spans; its peak is the largest of theirs. Work always goes to the span that is worst.
    """

    def __init__(self, costs: Costs, order: Sequence[int], effort: Effort, lower: int, *, warm: bool) -> None:
        self.costs = costs
        self.structure = costs.structure
        self.effort = effort
        self.lower = lower
        # A warm start brings a good order: only the proof may be missing.
        whole = Span(0, self.structure.all_ops, list(order), 0, stage=1 if warm else 0)
        self.spans = self._part(whole, self.structure.series)

    def run(self) -> None:
        """Improve until the bounds meet or the effort is spent, keeping a fifth of it for better orders.

        Where there are many operators better orders come first, with half of it: a bound may take all that there is.
        """
        stages = (
            self._try_beams,
            self._split,
            self._cut_ops,
            self._search_briefly,
            self._cut_sets,
            self._try_wide_beam,
            self._search,
        )
        if len(self.structure.ops) > _MANY_OPS:
            half = self.effort.left // 2
            self.effort.left -= half
            self._improve_windows()
            self.effort.left += half
        reserve = self.effort.left // 5
        self.effort.left -= reserve
        while self.effort.left > 0:
            worst = self._worst()
            span = self.spans[worst]
            if span.peak <= self.lower:
                return
            self.spans[worst : worst + 1] = stages[span.stage](span)
        self.effort.left += reserve
        self._improve_windows()
        for width in (128, 512, 2048):
            neediest = self.spans[self._worst()]
            if len(neediest.order) <= _MANY_OPS:
                self._beam(neediest, width)
        for length, width in ((128, 64), (512, 8)):
            self._rebuild_windows(length, width)

    def _improve_windows(self) -> None:
        for length, width in ((32, 8), (128, 8), (32, 64)):
            self._rebuild_windows(length, width)

    def _worst(self) -> int:
        return max(range(len(self.spans)), key=lambda at: self.spans[at].peak)

    def _try_beams(self, span: Span) -> list[Span]:
        span.stage += 1
        if len(span.order) <= _MANY_OPS:
            for width in (1, 8):
                self._beam(span, width)
        return [span]

    def _try_wide_beam(self, span: Span) -> list[Span]:
        span.stage += 1
        self._beam(span, 64)
        return [span]

    def _beam(self, span: Span, width: int) -> None:
        """Replace the order of a span if keeping the ``width`` best states at a time, from either end, finds a better one."""
        for direction in (Upward, Downward):
            if span.peak <= self.lower:
                return
            side = direction(self.costs, self.effort, span.low, span.high, self.lower)
            front: list[_Trail] = [_Trail(self.lower, side.home_live, side.home, side.ready(side.home))]
            reached: set[int] = set()
            while front and self.effort.left > 0:
                following: dict[tuple[int, int], _Trail] = {}
                for trail in front:
                    move, moves = side.forced(trail.done, trail.live, trail.ready, trail.peak, span.peak)
                    choices = (move,) if move else (*moves, *(side.valley(first, span.peak) for first in moves))
                    for ops, need, after, state in choices:
                        highest = max(trail.peak, need)
                        # States that differ in neither number are mostly alike; keeping one leaves room for others.
                        if state in reached or (highest, after) in following:
                            continue
                        reached.add(state)
                        ready = side.after(ops, state, trail.ready)
                        following[highest, after] = _Trail(highest, after, state, ready, trail, ops)
                front = [following[key] for key in sorted(following)[:width]]
                for trail in front:
                    if trail.done == side.goal:
                        self._improve(span, trail.ops() if direction is Upward else trail.ops()[::-1])

    def _rebuild_windows(self, length: int, width: int) -> None:
        """Beams over the ``length`` operators around the neediest step of the worst span, time after time while that helps."""
        costs = self.costs
        while self.effort.left > 0:
            span = self.spans[self._worst()]
            if span.peak <= self.lower or len(span.order) <= length:
                return
            low, live = span.low, costs.live(span.low)
            needs, states = [], [(low, live)]
            for v in span.order:
                need, live = costs.step(v, low, live)
                low |= 1 << v
                needs.append(need)
                states.append((low, live))
            self.effort.left -= 3 * len(needs)
            at = needs.index(max(needs))
            first = min(max(0, at - length // 2), len(needs) - length)
            (low, live), (high, _) = states[first], states[first + length]
            piece = span.order[first : first + length]
            window = Span(low, high, piece, costs.run(piece, low, live)[0])
            self._beam(window, width)
            if window.order is piece:
                return
            span.order = [*span.order[:first], *window.order, *span.order[first + length :]]
            span.peak, _ = costs.run(span.order, span.low, states[0][1])

    def _improve(self, span: Span, order: list[int]) -> None:
        peak, _ = self.costs.run(order, span.low, self.costs.live(span.low))
        if peak < span.peak:
            span.order, span.peak = order, peak

    def _part(self, span: Span, states: Sequence[int]) -> list[Span]:
        """A span cut at states that an optimal order passes through. The order known gets no worse by running it so."""
        parts = []
        low, live = span.low, self.costs.live(span.low)
        left = span.order
        for high in (*states, span.high):
            if high == low:
                continue
            order = [v for v in left if high >> v & 1]
            left = [v for v in left if not high >> v & 1]
            peak, live = self.costs.run(order, low, live)
            parts.append(Span(low, high, order, peak, span.stage))
            if len(order) == 1:
                self.lower = max(self.lower, peak)
            low = high
        return parts

    def _split(self, span: Span) -> list[Span]:
        """Cut where the fewest bytes are alive: any order can be made to pass there without needing more."""
        cut = Cut(self.costs, self.effort, span.low, span.high)
        parts = self._part(span, (cut.smallest(), cut.largest()))
        for part in parts:
            part.stage = span.stage if len(parts) > 1 else span.stage + 1
        return parts

    def _least_need(self, v: int, low: int, high: int) -> int:
        """Least bytes while ``v`` runs over all states between ``low`` and ``high`` in which it can."""
        structure, costs = self.structure, self.costs
        low |= structure.before[v]
        high &= ~(structure.after[v] | 1 << v)
        reusable = costs.reusable[v]
        need = Cut(costs, self.effort, low, high).value
        if any(others & low == others for others in reusable):
            return need
        need += costs.produced[v]
        for others in reusable:
            if others & ~high == 0:
                above = low | others
                for w in members(others & ~low):
                    above |= structure.before[w]
                need = min(need, Cut(costs, self.effort, above, high).value)
        return need

    def _cut_ops(self, span: Span) -> list[Span]:
        """Bound the peak by the least need of each operator that is above the bound now, worst first."""
        live, done = self.costs.live(span.low), span.low
        needs = []
        for v in span.order:
            need, live = self.costs.step(v, done, live)
            done |= 1 << v
            needs.append((-need, v))
        span.stage += 1
        for need, v in sorted(needs):
            if -need <= self.lower or span.peak <= self.lower or self.effort.left <= 0:
                break
            span.bounds[v] = self._least_need(v, span.low, span.high)
            self.lower = max(self.lower, span.bounds[v])
        return [span]

    def _cut_sets(self, span: Span) -> list[Span]:
        """Bound the peak by sets: whichever operator of a set runs last, all others have run; and likewise for the first."""
        span.stage += 1
        bounds = span.bounds
        chosen, sets = 0, []
        for v in sorted(bounds, key=lambda v: (-bounds[v], v)):
            chosen |= 1 << v
            sets.append(chosen)
        inside = span.high & ~span.low
        rivals = [mask & inside for rows in (self.structure.consumers, self.structure.predecessors) for mask in rows]
        for chosen in dict.fromkeys((*rivals, *sets)):
            if chosen & (chosen - 1):
                for last in (True, False):
                    if span.peak <= self.lower or self.effort.left <= 0:
                        return [span]
                    self._cut_set(span, chosen, last=last)
        return [span]

    def _cut_set(self, span: Span, chosen: int, *, last: bool) -> None:
        structure = self.structure
        beyond, behind = (structure.after, structure.before) if last else (structure.before, structure.after)
        ends = [v for v in members(chosen) if not beyond[v] & chosen]
        least = span.peak
        for v in sorted(ends, key=lambda v: (span.bounds.get(v, 0), v)):
            others = chosen & ~(1 << v)
            for other in members(others):
                others |= behind[other]
            low, high = (span.low | others, span.high) if last else (span.low, span.high & ~others)
            least = min(least, self._least_need(v, low, high))
            if least <= self.lower or self.effort.left <= 0:
                return
        self.lower = least

    def _search_briefly(self, span: Span) -> list[Span]:
        return self._advance(span, 300)

    def _search(self, span: Span) -> list[Span]:
        return self._advance(span, UNBOUNDED)

    def _advance(self, span: Span, turns: int) -> list[Span]:
        """Search from both ends in turn until a side meets a state to commit to.

        One side always can: upwards if fewer bytes are alive within the span than where it starts, else downwards. Either
        side may end the search, too, by running out of states that need less than the order known.
        """
        costs = self.costs
        if span.ends is None:
            span.ends = (
                Upward(costs, self.effort, span.low, span.high, self.lower),
                Downward(costs, self.effort, span.low, span.high, self.lower),
            )
        up, down = span.ends
        turns += up.turns + down.turns
        while self.effort.left > 0:
            # By states met, not by turns: the side with fewer choices is nearer to its end.
            side: Side = up if len(up.peaks) <= len(down.peaks) else down
            other = down if side is up else up
            key = side.top()
            if key is None or key >= span.peak:
                self.lower = max(self.lower, span.peak)
                return [span]
            self.lower = max(self.lower, key)
            if span.peak <= self.lower:
                return [span]
            if up.turns + down.turns >= turns:
                span.stage += 1
                return [span]
            key, live, done, ready = side.pop()
            while True:
                if done == side.goal or (done != side.home and live <= side.home_live):
                    return self._commit(span, side, done, live)
                move, moves = side.forced(done, live, ready, key, span.peak)
                if move is None or not side.record(done, move, key):
                    break
                ops, _, live, done = move
                ready = side.after(ops, done, ready)
            if move is not None:
                continue
            for move in moves:
                ops, need, _, state = move
                peak = max(need, key)
                if not side.record(done, move, peak):
                    continue
                side.push(move, side.after(ops, state, ready), peak)
                if state in other.peaks and max(peak, other.peaks[state]) < span.peak:
                    self._improve(span, up.path(state) + down.path(state)[::-1])
        return [span]

    def _commit(self, span: Span, side: Side, state: int, live: int) -> list[Span]:
        """Cut a span at a state with no more alive than at the side's end, or at the state between with the least.

        Both searches start afresh in what remains: the other side left out moves because of the old end.
        """
        path = side.path(state)
        upward = isinstance(side, Upward)
        if state != side.goal and len(path) > 1:
            cut = Cut(self.costs, self.effort, *((span.low, state) if upward else (state, span.high)))
            if cut.value < live:
                state = cut.largest() if upward else cut.smallest()
        if upward:
            path = [v for v in path if state >> v & 1]
            span.order = path + [v for v in span.order if not state >> v & 1]
        else:
            path = [v for v in path[::-1] if not state >> v & 1]
            span.order = [v for v in span.order if state >> v & 1] + path
        return self._part(span, (state,))

    def order(self) -> tuple[int, ...]:
        """The best order known: those of the spans, one after the other."""
        return tuple(v for span in self.spans for v in span.order)


def _good_start(costs: Costs, order: tuple[int, ...], peak: int) -> tuple[int, ...]:
    """The best of an order with a known peak and the orders of simple rules: what a search that ends early falls back to."""
    structure = costs.structure
    reads, makes = [op.inputs for op in structure.ops], [op.outputs for op in structure.ops]
    live = costs.live(0)
    for candidate in list_schedules(reads, makes, costs.sizes, structure.pinned):
        highest, _ = costs.run(candidate, 0, live)
        if highest < peak:
            order, peak = candidate, highest
    return order


def solve(
    structure: Structure, sizes: Sequence[int], profile: Profile, cpu_seconds: float, *, warm: bool
) -> tuple[Schedule, Profile]:
    """The schedule at these sizes, and the profile of its order.

    profile: of an order to begin with. warm: whether that is a good one, so that only the proof may be missing.
    """
    start = sum(sizes[b] for b in structure.live_at_start)
    steps = profile.steps(sizes)
    peak = max((step.bytes for step in steps), default=start)
    lower = structure.lower_bound(sizes)
    if lower < peak:
        speed = _MANY_OPS / max(_MANY_OPS, len(structure.ops))
        effort = Effort(int(cpu_seconds * _WORK_PER_CPU_SECOND * speed), flow=speed)
        costs = Costs(structure, sizes)
        order = profile.order if warm else _good_start(costs, profile.order, peak)
        solver = Solver(costs, order, effort, lower, warm=warm)
        solver.run()
        better = Profile(structure, solver.order())
        better_steps = better.steps(sizes)
        better_peak = max(step.bytes for step in better_steps)
        if better_peak < peak:
            profile, steps, peak = better, better_steps, better_peak
        lower = min(solver.lower, peak)
    return Schedule(profile.order, peak, lower, lower == peak, steps), profile
