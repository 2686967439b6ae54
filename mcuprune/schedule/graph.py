"""What is scheduled: operators over buffers with sizes, and what a schedule of them is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mcuprune.immutable import immutable


@dataclass(frozen=True, slots=True)
class Op:
    """One operator: the distinct buffers it reads, those it makes, and the inputs that its only output may overwrite.

    An output overwrites a candidate of ``in_place`` where the sizes are equal, the candidate is no graph output and
    every other consumer of the candidate has run. A graph input may be overwritten too.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    in_place: tuple[int, ...] = ()


@immutable
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


@immutable
class Step:
    """What is alive while one operator of an order runs. An output written in place isn't listed, its partner is."""

    op: int
    bytes: int
    buffers: tuple[int, ...]


@immutable
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
        return neediest(self.steps)


def neediest(steps: Sequence[Step]) -> tuple[Step, ...]:
    """All of these steps that need most bytes."""
    most = max((step.bytes for step in steps), default=0)
    return tuple(step for step in steps if step.bytes == most)


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
    return neediest(steps)


def max_in_out(graph: Graph) -> int:
    """Largest sum of the inputs and outputs of one operator, in bytes."""
    return max((step.bytes for step in widest(graph, graph.sizes)), default=0)
