"""Least peak memory over all execution orders of a graph of operators, with a proof or with bounds.

The idea: what is alive depends only on the set D of operators already run, and the bytes alive, m(D), are a submodular
function of D (a sum over buffers of ``size * [maker in D] - size * [all consumers in D]``). Two things follow. A lower
bound on what one operator needs is a minimum cut. And if m is nowhere lower than at E between D and E, and E can be
reached from D without exceeding the optimum, then some optimal order passes through E; the same holds downwards. So the
search walks from both ends towards the middle and never has to take back a state that it has committed to.

Nothing here knows ONNX. Whoever builds a ``Graph`` merges views into one buffer, leaves out constants and dead
operators, and says which operators may write over an input. Where in memory a buffer lies is not decided here either.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

from mcuprune.schedule.greedy import list_schedules

__all__ = ["Graph", "InOrder", "Op", "Planner", "Schedule", "Step", "max_in_out", "schedule", "walk", "widest"]

# Effort is counted in looks at an arc or at an operator, not in seconds, so that one graph always gives one answer.
# The rate makes `cpu_seconds` roughly true for CPython 3.11 on a 2020s laptop core.
_WORK_PER_CPU_SECOND = 2_000_000
_UNBOUNDED = 1 << 80
# Sets are ints of one bit for each operator: with more operators than this a look takes longer, and a beam over all of them
# spends the effort without reaching the other end.
_MANY_OPS = 1000


@dataclass(frozen=True, slots=True)
class Op:
    """One operator: the distinct buffers it reads, those it makes, and the inputs that its only output may overwrite.

    An output overwrites a candidate of ``in_place`` where the sizes are equal, the candidate is no graph output and
    every other consumer of the candidate has run. A graph input may be overwritten too.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    in_place: tuple[int, ...] = ()


@dataclass(frozen=True)
class Graph:
    """Operators over numbered buffers.

    ops: in an executable order. Every buffer is made by one operator or is a graph input.
    sizes: bytes of each buffer.
    inputs: alive from the start to their last use; one that nobody uses costs nothing.
    outputs: alive from their making to the end. A graph input may be an output as well.
    """

    ops: tuple[Op, ...]
    sizes: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """What is alive while one operator of an order runs. An output written in place isn't listed, its partner is."""

    op: int
    bytes: int
    buffers: tuple[int, ...]


@dataclass(frozen=True)
class Schedule:
    """An order, the peak it really has, and a proven lower bound on the peak of every order, all in bytes."""

    order: tuple[int, ...]
    peak: int
    lower_bound: int
    exact: bool
    steps: tuple[Step, ...]

    @property
    def peak_steps(self) -> tuple[Step, ...]:
        """Every step that needs the peak: the peak only falls if all of them do."""
        return tuple(step for step in self.steps if step.bytes == self.peak)


def walk(graph: Graph, order: Sequence[int]) -> tuple[Step, ...]:
    """What each operator needs when the graph runs in ``order``. Raises ValueError if it can't run so."""
    return _Profile(_Structure(graph), order).steps(graph.sizes)


def widest(graph: Graph, sizes: Sequence[int]) -> tuple[Step, ...]:
    """Every operator whose inputs and outputs need most, at ``sizes`` of the graph's buffers.

    This is what ignoring everything else alive gives, and so no bound on any peak but the lowest. The output of an operator
    that may work in place counts nothing where a candidate has its size.
    """
    steps = []
    for index, op in enumerate(graph.ops):
        buffers = (*op.inputs, *op.outputs)
        if len(op.outputs) == 1 and any(sizes[buffer] == sizes[op.outputs[0]] for buffer in op.in_place):
            buffers = op.inputs
        steps.append(Step(index, sum(sizes[buffer] for buffer in buffers), buffers))
    most = max((step.bytes for step in steps), default=0)
    return tuple(step for step in steps if step.bytes == most)


def max_in_out(graph: Graph) -> int:
    """Largest sum of the inputs and outputs of one operator, in bytes."""
    return max((step.bytes for step in widest(graph, graph.sizes)), default=0)


def schedule(graph: Graph, *, cpu_seconds: float = 2.0) -> Schedule:
    """The order with the least peak, or the best order and bound found within the effort.

    cpu_seconds: effort, converted to a fixed count of elementary steps. The answer for a graph is therefore always the
    same, while the time it takes is only about this long.
    """
    structure = _Structure(graph)
    best, _ = _solve(structure, graph.sizes, _Profile(structure, range(len(graph.ops))), cpu_seconds, warm=False)
    return best


class InOrder:
    """What one order of a graph needs while only the sizes of its buffers change.

    order: of the graph's operators; by default the graph's own. Raises ValueError if the graph can't run so.
    """

    def __init__(self, graph: Graph, order: Sequence[int] | None = None) -> None:
        self._profile = _Profile(_Structure(graph), range(len(graph.ops)) if order is None else order)

    def peak_steps(self, sizes: Sequence[int]) -> tuple[Step, ...]:
        """Every step that needs most at these sizes, bytes of each buffer."""
        steps = self._profile.steps(sizes)
        most = max((step.bytes for step in steps), default=0)
        return tuple(step for step in steps if step.bytes == most)


class Planner:
    """Schedules of one graph while only the sizes of its buffers change.

    Keeps the last order: where its peak meets the bound that follows from the structure alone, no search is needed.
    An inexact answer may depend on the sizes asked for before, since the search starts from the order kept.
    """

    def __init__(self, graph: Graph, *, cpu_seconds: float = 2.0) -> None:
        self._structure = _Structure(graph)
        in_file_order = _Profile(self._structure, range(len(graph.ops)))
        _, self._profile = _solve(self._structure, graph.sizes, in_file_order, cpu_seconds, warm=False)

    def plan(self, sizes: Sequence[int], *, cpu_seconds: float = 0.2) -> Schedule:
        """The schedule for these sizes (bytes of each buffer), with the effort of ``schedule``.

        Raises ValueError unless there is one size for each buffer.
        """
        if len(sizes) != len(self._structure.maker):
            raise ValueError(f"{len(sizes)} sizes for {len(self._structure.maker)} buffers")
        best, self._profile = _solve(self._structure, sizes, self._profile, cpu_seconds, warm=True)
        return best


def _members(mask: int) -> Iterator[int]:
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


class _Structure:
    """What follows from a graph without its sizes. A set of operators is an int with one bit for each."""

    def __init__(self, graph: Graph) -> None:
        ops, n_buffers = graph.ops, len(graph.sizes)
        self.ops = ops
        self.inputs = frozenset(graph.inputs)
        self.pinned = frozenset(graph.outputs)
        self.all_ops = (1 << len(ops)) - 1
        self.maker = [-1] * n_buffers
        self.consumers = [0] * n_buffers
        self.predecessors = [0] * len(ops)
        self.successors = [0] * len(ops)
        self.before = [0] * len(ops)
        self.after = [0] * len(ops)
        for index, op in enumerate(ops):
            if len(set(op.inputs)) < len(op.inputs) or not set(op.in_place).issubset(op.inputs):
                raise ValueError(f"op {index} names a buffer twice, or may overwrite one that it doesn't read")
            for buffer in op.inputs:
                maker = self.maker[buffer]
                if maker >= 0:
                    self.predecessors[index] |= 1 << maker
                    self.before[index] |= 1 << maker | self.before[maker]
                    self.successors[maker] |= 1 << index
                elif buffer not in self.inputs:
                    raise ValueError(f"op {index} reads buffer {buffer}, which nothing before it makes")
                self.consumers[buffer] |= 1 << index
            for buffer in op.outputs:
                if self.maker[buffer] >= 0 or buffer in self.inputs:
                    raise ValueError(f"buffer {buffer} has two makers")
                self.maker[buffer] = index
        for buffer in self.pinned:
            if self.maker[buffer] < 0 and buffer not in self.inputs:
                raise ValueError(f"nothing makes buffer {buffer}, a graph output")
        for index in range(len(ops) - 1, -1, -1):
            for successor in _members(self.successors[index]):
                self.after[index] |= 1 << successor | self.after[successor]
        # Buffers that outlive the operator making them; every other one only counts while it is being made.
        self.lasting = frozenset(b for b in range(n_buffers) if b in self.pinned or self.consumers[b])
        # For each operator the inputs that may die there, with the consumers that must have run for it.
        self.dying = [
            tuple((b, self.consumers[b] & ~(1 << v)) for b in op.inputs if b not in self.pinned) for v, op in enumerate(ops)
        ]
        self.reusable = [
            tuple((b, self.consumers[b] & ~(1 << v)) for b in op.in_place if b not in self.pinned)
            if len(op.outputs) == 1
            else ()
            for v, op in enumerate(ops)
        ]
        self.successor_lists = [tuple(_members(mask)) for mask in self.successors]
        self.predecessor_lists = [tuple(_members(mask)) for mask in self.predecessors]
        # Buffer, its maker's bit (0: a graph input) and its consumers (-1: a graph output, used to the end).
        self.lifetimes = [
            (b, 0 if self.maker[b] < 0 else 1 << self.maker[b], -1 if b in self.pinned else self.consumers[b])
            for b in sorted(self.lasting)
        ]
        self.live_at_start = tuple(b for b, maker, _ in self.lifetimes if not maker)
        self.live_at_end = tuple(sorted(self.pinned))
        self.series = self._series()

    def _series(self) -> list[int]:
        """The states that every order passes through: each operator outside needs every operator inside."""
        order = sorted(range(len(self.ops)), key=lambda v: self.before[v].bit_count())
        needed = self.all_ops
        done = self.all_ops
        states = []
        for v in reversed(order):
            if needed & done == done:
                states.append(done)
            needed &= self.before[v]
            done ^= 1 << v
        return states[::-1]

    @cached_property
    def _unavoidable(self) -> list[tuple[tuple[int, ...], int, tuple[int, ...]]]:
        """For each operator what is alive with it in every order, its output, and the inputs that it may overwrite."""
        alive: list[list[int]] = [list(op.outputs) for op in self.ops]
        for b, maker, consumers in self.lifetimes:
            after = self.all_ops if not maker else self.after[self.maker[b]]
            if consumers >= 0:
                until = consumers
                for v in _members(consumers):
                    until |= self.before[v]
                after &= until
            for v in _members(after):
                alive[v].append(b)
        return [
            (
                tuple(alive[v]),
                op.outputs[0] if op.outputs else -1,
                tuple(b for b, others in self.reusable[v] if not others & self.after[v]),
            )
            for v, op in enumerate(self.ops)
        ]

    def lower_bound(self, sizes: Sequence[int]) -> int:
        """Bytes that the neediest operator needs in every order: itself and what lies between its ancestors and others.

        Not below what is alive before the first operator or after the last.
        """
        highest = max(sum([sizes[b] for b in buffers]) for buffers in (self.live_at_start, self.live_at_end))
        for alive, out, reusable in self._unavoidable:
            need = sum([sizes[b] for b in alive])
            if need > highest:
                if any(sizes[b] == sizes[out] for b in reusable):
                    need -= sizes[out]
                highest = max(highest, need)
        return highest


class _Profile:
    """What an order keeps alive at each step, whatever the sizes."""

    def __init__(self, structure: _Structure, order: Sequence[int]) -> None:
        if sorted(order) != list(range(len(structure.ops))):
            raise ValueError("an order names every op once")
        self.order = tuple(order)
        self._rows = []
        alive = set(structure.live_at_start)
        done = 0
        for v in order:
            if structure.predecessors[v] & ~done:
                raise ValueError(f"op {v} runs before its inputs are made")
            outputs = structure.ops[v].outputs
            reusable = tuple(b for b, others in structure.reusable[v] if others & done == others)
            self._rows.append((v, tuple(sorted(alive.union(outputs))), reusable))
            alive.update(b for b in outputs if b in structure.lasting)
            alive.difference_update(b for b, others in structure.dying[v] if others & done == others)
            done |= 1 << v
        self._outputs = [op.outputs for op in structure.ops]

    def steps(self, sizes: Sequence[int]) -> tuple[Step, ...]:
        steps = []
        for v, buffers, reusable in self._rows:
            if reusable:
                (out,) = self._outputs[v]
                if any(sizes[b] == sizes[out] for b in reusable):
                    buffers = tuple(b for b in buffers if b != out)
            steps.append(Step(v, sum([sizes[b] for b in buffers]), buffers))
        return tuple(steps)


class _Costs:
    """A structure with sizes: what running an operator needs and leaves alive, in bytes."""

    def __init__(self, structure: _Structure, sizes: Sequence[int]) -> None:
        ops, lasting = structure.ops, structure.lasting
        self.structure = structure
        self.sizes = sizes
        self.made = [sum(sizes[b] for b in op.outputs) for op in ops]
        self.kept = [sum(sizes[b] for b in op.outputs if b in lasting) for op in ops]
        self.dying = [tuple((others, sizes[b]) for b, others in rows) for rows in structure.dying]
        self.reusable = [
            tuple(others for b, others in rows if sizes[b] == self.made[v]) for v, rows in enumerate(structure.reusable)
        ]

    def step(self, v: int, done: int, live: int) -> tuple[int, int]:
        """Bytes while ``v`` runs after ``done`` (with ``live`` bytes alive), and bytes alive once it has run."""
        need = live + self.made[v]
        for others in self.reusable[v]:
            if others & done == others:
                need = live
                break
        after = live + self.kept[v]
        for others, size in self.dying[v]:
            if others & done == others:
                after -= size
        return need, after

    def live(self, done: int) -> int:
        """Bytes alive between two operators, once ``done`` has run."""
        return sum(
            self.sizes[b]
            for b, maker, consumers in self.structure.lifetimes
            if maker & done == maker and (consumers < 0 or consumers & ~done)
        )

    def run(self, order: Sequence[int], done: int, live: int) -> tuple[int, int]:
        """Largest need along ``order``, run after ``done``, and bytes alive at its end."""
        highest = live
        for v in order:
            need, live = self.step(v, done, live)
            highest = max(highest, need)
            done |= 1 << v
        return highest, live


@dataclass(slots=True)
class _Budget:
    """Looks at arcs and operators that are still allowed. One at an arc of a flow counts ``flow``: it handles no sets."""

    left: int
    flow: float = 1.0

    def flow_looks(self, count: int) -> None:
        self.left -= int(count * self.flow)


class _Cut:
    """Least bytes alive over the states between two states, by maximum flow (Dinic 1970).

    A node for each operator between them (on the source's side: has run) and one for each buffer with several
    consumers. A buffer is cut, and costs its size, where its maker has run and some consumer has not.
    """

    def __init__(self, costs: _Costs, budget: _Budget, low: int, high: int) -> None:
        structure, sizes = costs.structure, costs.sizes
        inside = high & ~low
        self._ops = list(_members(inside))
        node = {v: at for at, v in enumerate(self._ops)}
        self._source, self._sink = len(self._ops), len(self._ops) + 1
        self._head: list[int] = []
        self._room: list[int] = []
        self._arcs: list[list[int]] = [[] for _ in range(len(self._ops) + 2)]
        self._low = low
        self.value = costs.live(low)
        entering: set[int] = set()
        for v in self._ops:
            here = node[v]
            joined = 0
            for b in structure.ops[v].outputs:
                if b not in structure.lasting or not sizes[b]:
                    continue
                consumers = structure.consumers[b]
                if b in structure.pinned or consumers & ~high:
                    self._join(here, self._sink, sizes[b], 0)
                elif consumers & (consumers - 1) == 0:
                    # The consumer can't have run without the maker: the way back is unbounded.
                    self._join(here, node[consumers.bit_length() - 1], sizes[b], _UNBOUNDED)
                    joined |= consumers
                else:
                    self._fan(here, sizes[b], (node[c] for c in _members(consumers)))
            for w in _members(structure.successors[v] & inside & ~joined):
                self._join(node[w], here, _UNBOUNDED, 0)
            entering.update(
                b for b, _ in structure.dying[v] if structure.maker[b] not in node and not structure.consumers[b] & ~high
            )
        for b in sorted(entering):
            waiting = structure.consumers[b] & inside
            if not sizes[b]:
                continue
            # Alive at `low`, so already counted; only what the flow can save of it matters.
            self.value -= sizes[b]
            if waiting & (waiting - 1) == 0:
                self._join(self._source, node[waiting.bit_length() - 1], sizes[b], 0)
            else:
                self._fan(self._source, sizes[b], (node[c] for c in _members(waiting)))
        budget.flow_looks(len(self._head) + len(structure.lifetimes) // 4)
        self._distance = self._run(budget)

    def _join(self, tail: int, head: int, room: int, back: int) -> None:
        self._arcs[tail].append(len(self._head))
        self._arcs[head].append(len(self._head) + 1)
        self._head += (head, tail)
        self._room += (room, back)

    def _fan(self, tail: int, room: int, heads: Iterator[int]) -> None:
        middle = len(self._arcs)
        self._arcs.append([])
        self._join(tail, middle, room, 0)
        for head in heads:
            self._join(middle, head, _UNBOUNDED, 0)

    def _run(self, budget: _Budget) -> list[int]:
        heads, room, arcs, source, sink = self._head, self._room, self._arcs, self._source, self._sink
        looks = 0
        while True:
            distance = [-1] * len(arcs)
            distance[sink] = 0
            reached = [sink]
            for at in reached:
                if at == source:
                    break
                further = distance[at] + 1
                looks += len(arcs[at])
                for arc in arcs[at]:
                    tail = heads[arc]
                    if distance[tail] < 0 and room[arc ^ 1]:
                        distance[tail] = further
                        reached.append(tail)
            if distance[source] < 0:
                budget.flow_looks(looks)
                return distance
            cursor = [0] * len(arcs)
            path: list[int] = []
            at = source
            while True:
                if at == sink:
                    pushed = min(room[arc] for arc in path)
                    self.value += pushed
                    saturated = 0
                    for place in range(len(path) - 1, -1, -1):
                        arc = path[place]
                        room[arc] -= pushed
                        room[arc ^ 1] += pushed
                        if not room[arc]:
                            saturated = place
                    at = heads[path[saturated] ^ 1]
                    looks += len(path)
                    del path[saturated:]
                    continue
                nearer = distance[at] - 1
                for place in range(cursor[at], len(arcs[at])):
                    arc = arcs[at][place]
                    if room[arc] and distance[heads[arc]] == nearer:
                        looks += place - cursor[at] + 1
                        cursor[at] = place
                        path.append(arc)
                        at = heads[arc]
                        break
                else:
                    if at == source:
                        break
                    distance[at] = -1
                    at = heads[path.pop() ^ 1]

    def largest(self) -> int:
        """The largest of the states with the least bytes alive."""
        return self._low | sum(1 << v for at, v in enumerate(self._ops) if self._distance[at] < 0)

    def smallest(self) -> int:
        """The smallest of the states with the least bytes alive."""
        seen = [False] * len(self._arcs)
        seen[self._source] = True
        reached = [self._source]
        for at in reached:
            for arc in self._arcs[at]:
                if self._room[arc] and not seen[self._head[arc]]:
                    seen[self._head[arc]] = True
                    reached.append(self._head[arc])
        return self._low | sum(1 << v for at, v in enumerate(self._ops) if seen[at])


@dataclass(slots=True)
class _Span:
    """A stretch between two states that some optimal order passes through, with the best order known for it.

    stage: which of the solver's methods comes next. ends: a search that was interrupted. bounds: least needs of operators.
    """

    low: int
    high: int
    order: list[int]
    peak: int
    stage: int = 0
    ends: tuple[_Upward, _Downward] | None = None
    bounds: dict[int, int] = field(default_factory=dict)


# Operators moved, most bytes needed on the way, bytes alive after it, operators run after it.
_Move: TypeAlias = tuple[tuple[int, ...], int, int, int]
# Peak so far, bytes alive, operators run, operators that can move, what came before, operators moved last.
_Trail: TypeAlias = "tuple[int, int, int, int, _Trail | None, tuple[int, ...]]"


class _Side:
    """Best-first search from one end of a span. Subclasses say in which direction.

    Peaks below ``floor`` don't matter. States are met in the order of the peak on the way to them, then of the bytes alive.
    """

    def __init__(self, costs: _Costs, budget: _Budget, low: int, high: int, floor: int) -> None:
        self.costs, self.budget = costs, budget
        self.low, self.high = low, high
        self.home, self.goal = self._ends()
        self.home_live = costs.live(self.home)
        self.peaks = {self.home: floor}
        self._origin: dict[int, tuple[int, tuple[int, ...]]] = {}
        self._heap = [(floor, self.home_live, 0, self.home, self.ready(self.home))]
        self.turns = 0

    def _ends(self) -> tuple[int, int]:
        raise NotImplementedError

    def ready(self, done: int) -> int:
        """The operators that can be run (or taken back) at a state."""
        raise NotImplementedError

    def move(self, v: int, done: int, live: int) -> _Move:
        """One operator run (or taken back)."""
        raise NotImplementedError

    def opened(self, v: int, done: int) -> int:
        """The operators that can move at ``done`` only because ``v`` just did."""
        raise NotImplementedError

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

    def record(self, origin: int, move: _Move, key: int) -> bool:
        """Note a way to a state. False if one as good was known."""
        ops, _, _, done = move
        if self.peaks.get(done, _UNBOUNDED) <= key:
            return False
        self.peaks[done] = key
        self._origin[done] = (origin, ops)
        return True

    def push(self, move: _Move, ready: int, key: int) -> None:
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

    def forced(self, done: int, live: int, ready: int, key: int, ceiling: int) -> tuple[_Move | None, list[_Move]]:
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
                    self.budget.left -= looks
                    return move, []
                chains.append(move)
        self.budget.left -= looks
        for move in chains:
            lowest = self.valley(move, key + 1, live)
            if lowest[2] <= live:
                return lowest, []
        return None, moves

    def valley(self, first: _Move, ceiling: int, enough: int = -1) -> _Move:
        """A move drawn out, each operator needing the one before it, to where the fewest (or ``enough``) bytes are alive."""
        ops, highest, live, done = lowest = first
        while live > enough:
            following: _Move | None = None
            for v in _members(self.opened(ops[-1], done)):
                self.budget.left -= 3
                moved = self.move(v, done, live)
                if moved[1] < ceiling and (following is None or moved[2] < following[2]):
                    following = moved
            if following is None:
                break
            last, need, live, done = following
            ops, highest = ops + last, max(highest, need)
            if live <= lowest[2]:
                lowest = (ops, highest, live, done)
        return lowest


class _Upward(_Side):
    """From the state where a span starts, running operators."""

    def _ends(self) -> tuple[int, int]:
        return self.low, self.high

    def ready(self, done: int) -> int:
        predecessors = self.costs.structure.predecessors
        return sum(1 << v for v in _members(self.high & ~done) if not predecessors[v] & ~done)

    def move(self, v: int, done: int, live: int) -> _Move:
        need, after = self.costs.step(v, done, live)
        return (v,), need, after, done | 1 << v

    def opened(self, v: int, done: int) -> int:
        structure = self.costs.structure
        predecessors, opened = structure.predecessors, 0
        for w in structure.successor_lists[v]:
            if predecessors[w] & done == predecessors[w]:
                opened |= 1 << w
        return opened & self.high


class _Downward(_Side):
    """From the state where a span ends, taking operators back."""

    def _ends(self) -> tuple[int, int]:
        return self.high, self.low

    def ready(self, done: int) -> int:
        successors = self.costs.structure.successors
        return sum(1 << v for v in _members(done & ~self.low) if not successors[v] & done)

    def move(self, v: int, done: int, live: int) -> _Move:
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


class _Solver:
    """Bounds and orders for one graph with sizes, improved until they meet or the budget is spent.

    The whole is a row of spans; its peak is the largest of theirs. Work always goes to the span that is worst.
    """

    def __init__(self, costs: _Costs, order: Sequence[int], budget: _Budget, lower: int, *, warm: bool) -> None:
        self.costs = costs
        self.structure = costs.structure
        self.budget = budget
        self.lower = lower
        # A warm start brings a good order: only the proof may be missing.
        whole = _Span(0, self.structure.all_ops, list(order), 0, stage=1 if warm else 0)
        self.spans = self._part(whole, self.structure.series)

    def run(self) -> None:
        """Improve until the bounds meet or the budget is spent, keeping a fifth of it for better orders.

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
            half = self.budget.left // 2
            self.budget.left -= half
            self._improve_windows()
            self.budget.left += half
        reserve = self.budget.left // 5
        self.budget.left -= reserve
        while self.budget.left > 0:
            worst = self._worst()
            span = self.spans[worst]
            if span.peak <= self.lower:
                return
            self.spans[worst : worst + 1] = stages[span.stage](span)
        self.budget.left += reserve
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

    def _try_beams(self, span: _Span) -> list[_Span]:
        span.stage += 1
        if len(span.order) <= _MANY_OPS:
            for width in (1, 8):
                self._beam(span, width)
        return [span]

    def _try_wide_beam(self, span: _Span) -> list[_Span]:
        span.stage += 1
        self._beam(span, 64)
        return [span]

    def _beam(self, span: _Span, width: int) -> None:
        """Replace the order of a span if keeping the ``width`` best states at a time, from either end, finds a better one."""
        for direction in (_Upward, _Downward):
            if span.peak <= self.lower:
                return
            side = direction(self.costs, self.budget, span.low, span.high, self.lower)
            front: list[_Trail] = [(self.lower, side.home_live, side.home, side.ready(side.home), None, ())]
            reached: set[int] = set()
            while front and self.budget.left > 0:
                following: dict[tuple[int, int], _Trail] = {}
                for trail in front:
                    peak, live, done, ready, _, _ = trail
                    move, moves = side.forced(done, live, ready, peak, span.peak)
                    choices = (move,) if move else (*moves, *(side.valley(first, span.peak) for first in moves))
                    for ops, need, after, state in choices:
                        highest = max(peak, need)
                        # States that differ in neither number are mostly alike; keeping one leaves room for others.
                        if state in reached or (highest, after) in following:
                            continue
                        reached.add(state)
                        following[highest, after] = (highest, after, state, side.after(ops, state, ready), trail, ops)
                front = [following[key] for key in sorted(following)[:width]]
                for trail in front:
                    if trail[2] == side.goal:
                        pieces = []
                        last: _Trail | None = trail
                        while last is not None:
                            pieces.append(last[5])
                            last = last[4]
                        order = [v for ops in reversed(pieces) for v in ops]
                        self._improve(span, order if direction is _Upward else order[::-1])

    def _rebuild_windows(self, length: int, width: int) -> None:
        """Beams over the ``length`` operators around the neediest step of the worst span, time after time while that helps."""
        costs = self.costs
        while self.budget.left > 0:
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
            self.budget.left -= 3 * len(needs)
            at = needs.index(max(needs))
            first = min(max(0, at - length // 2), len(needs) - length)
            (low, live), (high, _) = states[first], states[first + length]
            piece = span.order[first : first + length]
            window = _Span(low, high, piece, costs.run(piece, low, live)[0])
            self._beam(window, width)
            if window.order is piece:
                return
            span.order = [*span.order[:first], *window.order, *span.order[first + length :]]
            span.peak, _ = costs.run(span.order, span.low, states[0][1])

    def _improve(self, span: _Span, order: list[int]) -> None:
        peak, _ = self.costs.run(order, span.low, self.costs.live(span.low))
        if peak < span.peak:
            span.order, span.peak = order, peak

    def _part(self, span: _Span, states: Sequence[int]) -> list[_Span]:
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
            parts.append(_Span(low, high, order, peak, span.stage))
            if len(order) == 1:
                self.lower = max(self.lower, peak)
            low = high
        return parts

    def _split(self, span: _Span) -> list[_Span]:
        """Cut where the fewest bytes are alive: any order can be made to pass there without needing more."""
        cut = _Cut(self.costs, self.budget, span.low, span.high)
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
        need = _Cut(costs, self.budget, low, high).value
        if any(others & low == others for others in reusable):
            return need
        need += costs.made[v]
        for others in reusable:
            if others & ~high == 0:
                above = low | others
                for w in _members(others & ~low):
                    above |= structure.before[w]
                need = min(need, _Cut(costs, self.budget, above, high).value)
        return need

    def _cut_ops(self, span: _Span) -> list[_Span]:
        """Bound the peak by the least need of each operator that is above the bound now, worst first."""
        live, done = self.costs.live(span.low), span.low
        needs = []
        for v in span.order:
            need, live = self.costs.step(v, done, live)
            done |= 1 << v
            needs.append((-need, v))
        span.stage += 1
        for need, v in sorted(needs):
            if -need <= self.lower or span.peak <= self.lower or self.budget.left <= 0:
                break
            span.bounds[v] = self._least_need(v, span.low, span.high)
            self.lower = max(self.lower, span.bounds[v])
        return [span]

    def _cut_sets(self, span: _Span) -> list[_Span]:
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
                    if span.peak <= self.lower or self.budget.left <= 0:
                        return [span]
                    self._cut_set(span, chosen, last=last)
        return [span]

    def _cut_set(self, span: _Span, chosen: int, *, last: bool) -> None:
        structure = self.structure
        beyond, behind = (structure.after, structure.before) if last else (structure.before, structure.after)
        ends = [v for v in _members(chosen) if not beyond[v] & chosen]
        least = span.peak
        for v in sorted(ends, key=lambda v: (span.bounds.get(v, 0), v)):
            others = chosen & ~(1 << v)
            for other in _members(others):
                others |= behind[other]
            low, high = (span.low | others, span.high) if last else (span.low, span.high & ~others)
            least = min(least, self._least_need(v, low, high))
            if least <= self.lower or self.budget.left <= 0:
                return
        self.lower = least

    def _search_briefly(self, span: _Span) -> list[_Span]:
        return self._advance(span, 300)

    def _search(self, span: _Span) -> list[_Span]:
        return self._advance(span, _UNBOUNDED)

    def _advance(self, span: _Span, turns: int) -> list[_Span]:
        """Search from both ends in turn until a side meets a state to commit to.

        One side always can: upwards if fewer bytes are alive within the span than where it starts, else downwards. Either
        side may end the search, too, by running out of states that need less than the order known.
        """
        costs = self.costs
        if span.ends is None:
            span.ends = (
                _Upward(costs, self.budget, span.low, span.high, self.lower),
                _Downward(costs, self.budget, span.low, span.high, self.lower),
            )
        up, down = span.ends
        turns += up.turns + down.turns
        while self.budget.left > 0:
            # By states met, not by turns: the side with fewer choices is nearer to its end.
            side: _Side = up if len(up.peaks) <= len(down.peaks) else down
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
                ready = side.after(move[0], move[3], ready)
                _, _, live, done = move
            if move is not None:
                continue
            for move in moves:
                peak = max(move[1], key)
                if not side.record(done, move, peak):
                    continue
                side.push(move, side.after(move[0], move[3], ready), peak)
                if move[3] in other.peaks and max(peak, other.peaks[move[3]]) < span.peak:
                    self._improve(span, up.path(move[3]) + down.path(move[3])[::-1])
        return [span]

    def _commit(self, span: _Span, side: _Side, state: int, live: int) -> list[_Span]:
        """Cut a span at a state with no more alive than at the side's end, or at the state between with the least.

        Both searches start afresh in what remains: the other side left out moves because of the old end.
        """
        path = side.path(state)
        upward = isinstance(side, _Upward)
        if state != side.goal and len(path) > 1:
            cut = _Cut(self.costs, self.budget, *((span.low, state) if upward else (state, span.high)))
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
        return tuple(v for span in self.spans for v in span.order)


def _good_start(costs: _Costs, order: tuple[int, ...], peak: int) -> tuple[int, ...]:
    """The best of an order with a known peak and the orders of simple rules: what a search that ends early falls back to."""
    structure = costs.structure
    reads, makes = [op.inputs for op in structure.ops], [op.outputs for op in structure.ops]
    live = costs.live(0)
    for candidate in list_schedules(reads, makes, costs.sizes, structure.pinned):
        highest, _ = costs.run(candidate, 0, live)
        if highest < peak:
            order, peak = candidate, highest
    return order


def _solve(
    structure: _Structure, sizes: Sequence[int], profile: _Profile, cpu_seconds: float, *, warm: bool
) -> tuple[Schedule, _Profile]:
    start = sum(sizes[b] for b in structure.live_at_start)
    steps = profile.steps(sizes)
    peak = max((step.bytes for step in steps), default=start)
    lower = structure.lower_bound(sizes)
    if lower < peak:
        speed = _MANY_OPS / max(_MANY_OPS, len(structure.ops))
        budget = _Budget(int(cpu_seconds * _WORK_PER_CPU_SECOND * speed), flow=speed)
        costs = _Costs(structure, sizes)
        order = profile.order if warm else _good_start(costs, profile.order, peak)
        solver = _Solver(costs, order, budget, lower, warm=warm)
        solver.run()
        better = _Profile(structure, solver.order())
        better_steps = better.steps(sizes)
        better_peak = max(step.bytes for step in better_steps)
        if better_peak < peak:
            profile, steps, peak = better, better_steps, better_peak
        lower = min(solver.lower, peak)
    return Schedule(profile.order, peak, lower, lower == peak, steps), profile
