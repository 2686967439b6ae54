"""Best-first search over states, from the start of a stretch upwards and from its end downwards."""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from typing import TypeAlias

from mcuprune.schedule.cut import UNBOUNDED, Effort
from mcuprune.schedule.structure import Costs, members

#: Operators moved, most bytes needed on the way, bytes alive after it, operators run after it: a tuple without names, for a
#: search makes so many of them that names would cost a fifth of its time. Read it by unpacking.
Move: TypeAlias = tuple[tuple[int, ...], int, int, int]


class Side(ABC):
    """Best-first search from one end of a span. Subclasses say in which direction.

    Peaks below ``floor`` don't matter. States are met in the order of the peak on the way to them, then of the bytes alive.
    """

    def __init__(self, costs: Costs, effort: Effort, low: int, high: int, floor: int) -> None:
        self.costs, self.effort = costs, effort
        self.low, self.high = low, high
        self.home, self.goal = self._ends()
        self.home_live = costs.live(self.home)
        self.peaks = {self.home: floor}
        self._origin: dict[int, tuple[int, tuple[int, ...]]] = {}
        self._heap = [(floor, self.home_live, 0, self.home, self.ready(self.home))]
        self.turns = 0

    @abstractmethod
    def _ends(self) -> tuple[int, int]:
        """The state that the search starts from, and the one that it looks for."""

    @abstractmethod
    def ready(self, done: int) -> int:
        """The operators that can be run (or taken back) at a state."""

    @abstractmethod
    def move(self, v: int, done: int, live: int) -> Move:
        """One operator run (or taken back)."""

    @abstractmethod
    def opened(self, v: int, done: int) -> int:
        """The operators that can move at ``done`` only because ``v`` just did."""

    def top(self) -> int | None:
        """A lower bound on the peak of the span: the least peak among the states that wait. None if none does."""
        while self._heap:
            key, _, _, done, _ = self._heap[0]
            if self.peaks[done] == key:
                return key
            heapq.heappop(self._heap)
        return None

    def path(self, done: int) -> list[int]:
        """The operators on the way from home to a state, in the order in which the search met them."""
        pieces = []
        while done != self.home:
            done, ops = self._origin[done]
            pieces.append(ops)
        return [v for ops in reversed(pieces) for v in ops]

    def record(self, origin: int, move: Move, key: int) -> bool:
        """Note a way to a state. False if one as good was known."""
        ops, _, _, done = move
        if self.peaks.get(done, UNBOUNDED) <= key:
            return False
        self.peaks[done] = key
        self._origin[done] = (origin, ops)
        return True

    def push(self, move: Move, ready: int, key: int) -> None:
        """Let the state that a move leads to wait for its turn. ready: what can move there. key: the peak on the way."""
        _, _, live, done = move
        heapq.heappush(self._heap, (key, live, -len(self._origin), done, ready))

    def pop(self) -> tuple[int, int, int, int]:
        """The next state: its peak, bytes alive, operators run, and operators that can move."""
        key, live, _, done, ready = heapq.heappop(self._heap)
        self.turns += 1
        return key, live, done, ready

    def after(self, ops: tuple[int, ...], done: int, ready: int) -> int:
        """The operators that can move at ``done``, which ``ops`` led to from a state with ``ready``."""
        for v in ops:
            # Also right for all but the last: what they open beside the next operator needs nothing else.
            ready = ready & ~(1 << v) | self.opened(v, done)
        return ready

    def forced(self, done: int, live: int, ready: int, key: int, ceiling: int) -> tuple[Move | None, list[Move]]:
        """A move that loses nothing, or else every move that needs less than ``ceiling``.

        Operators of which each needs the one before it, that never need more than ``key`` and that end with no more
        alive than there is now, lead to a state with the least bytes of all between here and there.
        """
        moves, chains = [], []
        looks = 0
        while ready:
            bit = ready & -ready
            ready ^= bit
            looks += 3
            move = self.move(bit.bit_length() - 1, done, live)
            _, need, after, _ = move
            if need >= ceiling:
                continue
            moves.append(move)
            if need <= key:
                if after <= live:
                    self.effort.left -= looks
                    return move, []
                chains.append(move)
        self.effort.left -= looks
        for move in chains:
            lowest = self.valley(move, key + 1, live)
            _, _, least, _ = lowest
            if least <= live:
                return lowest, []
        return None, moves

    def valley(self, first: Move, ceiling: int, enough: int = -1) -> Move:
        """A move drawn out, each operator needing the one before it, to where the fewest (or ``enough``) bytes are alive."""
        ops, highest, live, done = lowest = first
        least = live
        while live > enough:
            following: Move | None = None
            fewest = UNBOUNDED
            for v in members(self.opened(ops[-1], done)):
                self.effort.left -= 3
                moved = self.move(v, done, live)
                _, need, after, _ = moved
                if need < ceiling and after < fewest:
                    following, fewest = moved, after
            if following is None:
                break
            last, need, live, done = following
            ops, highest = ops + last, max(highest, need)
            if live <= least:
                lowest, least = (ops, highest, live, done), live
        return lowest


class Upward(Side):
    """From the state where a span starts, running operators."""

    def _ends(self) -> tuple[int, int]:
        return self.low, self.high

    def ready(self, done: int) -> int:
        predecessors = self.costs.structure.predecessors
        return sum(1 << v for v in members(self.high & ~done) if not predecessors[v] & ~done)

    def move(self, v: int, done: int, live: int) -> Move:
        need, after = self.costs.step(v, done, live)
        return (v,), need, after, done | 1 << v

    def opened(self, v: int, done: int) -> int:
        structure = self.costs.structure
        predecessors, opened = structure.predecessors, 0
        for w in structure.successor_lists[v]:
            if predecessors[w] & done == predecessors[w]:
                opened |= 1 << w
        return opened & self.high


class Downward(Side):
    """From the state where a span ends, taking operators back."""

    def _ends(self) -> tuple[int, int]:
        return self.high, self.low

    def ready(self, done: int) -> int:
        successors = self.costs.structure.successors
        return sum(1 << v for v in members(done & ~self.low) if not successors[v] & done)

    def move(self, v: int, done: int, live: int) -> Move:
        done ^= 1 << v
        need, gain = self.costs.step(v, done, 0)
        return (v,), live - gain + need, live - gain, done

    def opened(self, v: int, done: int) -> int:
        structure = self.costs.structure
        successors, opened = structure.successors, 0
        for w in structure.predecessor_lists[v]:
            if not successors[w] & done:
                opened |= 1 << w
        return opened & ~self.low
