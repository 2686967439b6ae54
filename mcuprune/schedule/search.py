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

from collections.abc import Sequence
from functools import lru_cache

from mcuprune.schedule.graph import Graph, Op, Schedule, Step, max_in_out, neediest, widest
from mcuprune.schedule.solver import solve
from mcuprune.schedule.structure import Profile, Structure

__all__ = ["Graph", "InOrder", "Op", "Planner", "Schedule", "Step", "known", "max_in_out", "schedule", "walk", "widest"]


def walk(graph: Graph, order: Sequence[int]) -> tuple[Step, ...]:
    """What each operator needs when the graph runs in ``order``. Raises ValueError if it can't run so."""
    return Profile(Structure(graph), order).steps(graph.sizes)


def schedule(graph: Graph, *, cpu_seconds: float = 2.0) -> Schedule:
    """The order with the least peak, or the best order and bound found within the effort.

    cpu_seconds: effort, converted to a fixed count of elementary steps. The answer for a graph is therefore always the
    same, while the time it takes is only about this long.
    """
    structure = Structure(graph)
    best, _ = solve(structure, graph.sizes, Profile(structure, range(len(graph.ops))), cpu_seconds, warm=False)
    return best


@lru_cache(maxsize=128)
def known(graph: Graph, cpu_seconds: float = 2.0) -> Schedule:
    """``schedule``, kept: one command asks for the same network as it was, as it is written and as it is read again."""
    return schedule(graph, cpu_seconds=cpu_seconds)


class InOrder:
    """What one order of a graph needs while only the sizes of its buffers change.

    order: of the graph's operators; by default the graph's own. Raises ValueError if the graph can't run so.
    """

    def __init__(self, graph: Graph, order: Sequence[int] | None = None) -> None:
        self._profile = Profile(Structure(graph), range(len(graph.ops)) if order is None else order)

    def peak_steps(self, sizes: Sequence[int]) -> tuple[Step, ...]:
        """Every step that needs most at these sizes, bytes of each buffer."""
        return neediest(self._profile.steps(sizes))


class Planner:
    """Schedules of one graph while only the sizes of its buffers change.

    Keeps the last order: where its peak meets the bound that follows from the structure alone, no search is needed.
    An inexact answer may depend on the sizes asked for before, since the search starts from the order kept.
    """

    def __init__(self, graph: Graph, *, cpu_seconds: float = 2.0) -> None:
        self._structure = Structure(graph)
        in_file_order = Profile(self._structure, range(len(graph.ops)))
        _, self._profile = solve(self._structure, graph.sizes, in_file_order, cpu_seconds, warm=False)

    def plan(self, sizes: Sequence[int], *, cpu_seconds: float = 0.2) -> Schedule:
        """The schedule for these sizes (bytes of each buffer), with the effort of ``schedule``.

        Raises ValueError unless there is one size for each buffer.
        """
        if len(sizes) != len(self._structure.maker):
            raise ValueError(f"{len(sizes)} sizes for {len(self._structure.maker)} buffers")
        best, self._profile = solve(self._structure, sizes, self._profile, cpu_seconds, warm=True)
        return best
