"""What follows from a graph of operators: without its sizes, along one order, and with sizes.

A set of operators, which is the state of a run that has run these, is an int with one bit for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

from mcuprune.schedule.graph import Graph, Step


def members(mask: int) -> Iterator[int]:
    """The operators of a set, the lowest first."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


class Structure:
    """What follows from a graph without its sizes. Raises ValueError for one that can't run in its own order."""

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
            for successor in members(self.successors[index]):
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
        self.successor_lists = [tuple(members(mask)) for mask in self.successors]
        self.predecessor_lists = [tuple(members(mask)) for mask in self.predecessors]
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
                for v in members(consumers):
                    until |= self.before[v]
                after &= until
            for v in members(after):
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


class Profile:
    """What an order keeps alive at each step, whatever the sizes."""

    def __init__(self, structure: Structure, order: Sequence[int]) -> None:
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
        """Bytes and buffers of every step, at these sizes of the buffers."""
        steps = []
        for v, buffers, reusable in self._rows:
            if reusable:
                (out,) = self._outputs[v]
                if any(sizes[b] == sizes[out] for b in reusable):
                    buffers = tuple(b for b in buffers if b != out)
            steps.append(Step(v, sum([sizes[b] for b in buffers]), buffers))
        return tuple(steps)


class Costs:
    """A structure with sizes: what running an operator needs and leaves alive, in bytes."""

    def __init__(self, structure: Structure, sizes: Sequence[int]) -> None:
        ops, lasting = structure.ops, structure.lasting
        self.structure = structure
        self.sizes = sizes
        self.produced = [sum(sizes[b] for b in op.outputs) for op in ops]
        self.kept = [sum(sizes[b] for b in op.outputs if b in lasting) for op in ops]
        self.dying = [tuple((others, sizes[b]) for b, others in rows) for rows in structure.dying]
        self.reusable = [
            tuple(others for b, others in rows if sizes[b] == self.produced[v]) for v, rows in enumerate(structure.reusable)
        ]

    def step(self, v: int, done: int, live: int) -> tuple[int, int]:
        """Bytes while ``v`` runs after ``done`` (with ``live`` bytes alive), and bytes alive once it has run."""
        need = live + self.produced[v]
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
