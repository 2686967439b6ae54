"""What a resource costs in every cut of a labelled network, as a function of the widths of its groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from math import ceil
from typing import Protocol

import numpy as np

from mcuprune.costs.polynomials import Compiled, Polynomial
from mcuprune.deploy import codesize
from mcuprune.deploy.codesize import Runtime
from mcuprune.deploy.flatbuffer import FileSize, file_size
from mcuprune.deploy.latency import CLASSES, macs_by_class
from mcuprune.deploy.lower import lower
from mcuprune.deploy.program import Program
from mcuprune.graph.network import Network
from mcuprune.immutable import immutable
from mcuprune.operators.fusion import buffers, elements
from mcuprune.operators.table import Dim
from mcuprune.schedule import search as memory

#: So many of the last memory plans are kept: a search tries the same widths for several limits.
_PLANS = 64
#: And of the last cuts whose C was counted.
_CUTS = 256


class Cuts(Protocol):
    """What a function needs of the cost model: what runs at given widths, in sizes that are functions of them."""

    least: np.ndarray

    @property
    def dim(self) -> Dim:
        """The size of an axis of a tensor."""

    def compiled(self, polynomials: Iterable[Polynomial | int]) -> Compiled:
        """Functions of widths, made of ``dim``, that are evaluated together."""

    def structure(self, widths: np.ndarray) -> Structure:
        """What runs, and in which buffers, at these widths."""

    def cut(self, widths: np.ndarray) -> Network:
        """The network at these widths, whichever channels go."""


class Structure:
    """What runs, and in which buffers, for all cuts that have the same views: sizes as functions of widths."""

    def __init__(self, model: Cuts, net: Network) -> None:
        self._model, self._network = model, net
        self.planned = lru_cache(_PLANS)(lambda quantities: self.program.planned(quantities))
        plan = buffers(net)
        self.graph = plan.graph
        self.sizes = model.compiled([elements(net, tensor, model.dim) for tensor in plan.tensors])

    @cached_property
    def planner(self) -> memory.Planner:
        """What finds the best order; made for those alone who ask for the peak."""
        return memory.Planner(self.graph)

    @cached_property
    def in_file_order(self) -> memory.InOrder:
        """What the order of the file needs, for those who run it as it is."""
        return memory.InOrder(self.graph)

    @cached_property
    def program(self) -> Program:
        """What TensorFlow Lite Micro runs; made for those alone who ask for its arena or its file."""
        return lower(self._network, dim=self._model.dim)

    @cached_property
    def quantities(self) -> Compiled:
        """What the arena is computed from, as functions of widths."""
        return self._model.compiled(self.program.quantities)

    @cached_property
    def classes(self) -> Compiled:
        """Multiply-accumulates of each class of operators that has a speed of its own."""
        counted = macs_by_class(self._network, self._model.dim)
        return self._model.compiled([counted[name] for name in CLASSES])

    @cached_property
    def c_arrays(self) -> Compiled:
        """Bytes of the arrays of generated C that grow with widths, by operator."""
        self.program.check()
        return self._model.compiled(codesize.c_arrays(self.program))

    def plan(self, widths: np.ndarray) -> tuple[int, ...]:
        """The memory plan that is written into the file; empty where there is none."""
        return self.planned(tuple(self.quantities.values(widths).tolist()))

    @cached_property
    def files(self) -> Mapping[bool, tuple[FileSize, Compiled]]:
        """With and without a memory plan in it: the size of the file, and the lengths that it depends on."""
        self.program.check()
        sizes = {planned: file_size(self.program, planned=planned) for planned in (False, True)}
        return {planned: (size, self._model.compiled(size.counts)) for planned, size in sizes.items()}


class CostFunction(Protocol):
    """What one resource costs in every cut of a labelled network, as a function of the widths of its groups.

    Widths are int64 (groups,), from ``CostModel.least`` to ``CostModel.full``.
    """

    @property
    def monotone(self) -> bool:
        """Whether a wider group never costs less, so that nothing is below the minimums of all groups together."""

    def value(self, widths: np.ndarray) -> int:
        """In base units."""

    def gradient(self, widths: np.ndarray) -> np.ndarray:
        """The derivative with respect to the widths: float64 (groups,)."""

    def least(self) -> int:
        """What no widths undercut."""


class Sum(CostFunction):
    """The sum over nodes of an ``Additive`` resource: a polynomial, which is evaluated together with those of the others."""

    monotone = True

    def __init__(self, model: Cuts, sums: Compiled, index: int) -> None:
        self._model, self._sums, self._weight = model, sums, np.eye(sums.count)[index]
        self._index = index

    def value(self, widths: np.ndarray) -> int:
        return int(self._sums.values(widths)[self._index])

    def gradient(self, widths: np.ndarray) -> np.ndarray:
        return self._sums.gradient(widths, self._weight)

    def least(self) -> int:
        return self.value(self._model.least)


class Time(CostFunction):
    """Multiply-accumulates by class, each class with its own weight, rounded up.

    weights: float64 (classes,), none below 0.
    """

    monotone = True

    def __init__(self, model: Cuts, weights: np.ndarray) -> None:
        self._model, self._weights = model, weights

    def value(self, widths: np.ndarray) -> int:
        return ceil(float(self._weights @ self._model.structure(widths).classes.values(widths)))

    def gradient(self, widths: np.ndarray) -> np.ndarray:
        return self._model.structure(widths).classes.gradient(widths, self._weights)

    def least(self) -> int:
        return self.value(self._model.least)


@immutable
class Regrouped(CostFunction):
    """A cost as a function of another network's widths. groups: for each of its own groups the other's; count: of these."""

    function: CostFunction
    groups: np.ndarray
    count: int

    @property
    def monotone(self) -> bool:
        return self.function.monotone

    def value(self, widths: np.ndarray) -> int:
        return self.function.value(widths[self.groups])

    def gradient(self, widths: np.ndarray) -> np.ndarray:
        return np.bincount(self.groups, self.function.gradient(widths[self.groups]), self.count)

    def least(self) -> int:
        return self.function.least()


class LargestStep(CostFunction):
    """The bytes of whichever step needs most: a sum of tensor sizes, another one for each structure and order.

    steps: those that need the most, at given widths; the gradient is the mean over all of them.
    """

    monotone = True

    def __init__(self, model: Cuts, steps: Callable[[Structure, np.ndarray], Sequence[memory.Step]]) -> None:
        self._model, self._steps = model, steps

    def value(self, widths: np.ndarray) -> int:
        return max((step.bytes for step in self._steps(self._model.structure(widths), widths)), default=0)

    def gradient(self, widths: np.ndarray) -> np.ndarray:
        structure = self._model.structure(widths)
        steps = self._steps(structure, widths)
        weight = np.zeros(structure.sizes.count)
        for step in steps:
            weight[list(step.buffers)] += 1 / len(steps)
        return structure.sizes.gradient(widths, weight)

    def least(self) -> int:
        return self.value(self._model.least)


class ArenaSize(CostFunction):
    """The arena of TensorFlow Lite Micro. Its buffers may lie better where a group is wider, so it isn't monotone."""

    monotone = False

    def __init__(self, model: Cuts) -> None:
        self._model = model

    def value(self, widths: np.ndarray) -> int:
        structure = self._model.structure(widths)
        quantities = structure.quantities.values(widths).tolist()
        return structure.program.arena(quantities, plan=structure.plan(widths)).total

    def gradient(self, widths: np.ndarray) -> np.ndarray:
        """Of the buffers that stand on each other up to the arena's head, and of its tail, before any rounding of sizes."""
        structure = self._model.structure(widths)
        weight = np.zeros(structure.quantities.count)
        quantities = structure.quantities.values(widths).tolist()
        for index, slope in structure.program.stacked(quantities, structure.plan(widths)).items():
            weight[index] = slope
        return structure.quantities.gradient(widths, weight)

    def least(self) -> int:
        """A bound for every layout of the buffers, each group at its minimum."""
        structure = self._model.structure(self._model.least)
        return structure.program.bound(structure.quantities.values(self._model.least).tolist())


class FileBytes(CostFunction):
    """The file that is written, and with ``runtime`` the code that runs it.

    Where a group is wider, vectors of zeros may become equal, and be stored once, or a memory plan may become needless: so it
    isn't monotone.
    """

    monotone = False

    def __init__(self, model: Cuts, runtime: Runtime | None = None) -> None:
        self._model, self._runtime = model, runtime

    def _code(self, structure: Structure) -> int:
        if self._runtime is None:
            return 0
        return codesize.of_program(structure.program, self._runtime)

    def value(self, widths: np.ndarray) -> int:
        structure = self._model.structure(widths)
        size, counts = structure.files[bool(structure.plan(widths))]
        return size.at(counts.values(widths).tolist()) + self._code(structure)

    def gradient(self, widths: np.ndarray) -> np.ndarray:
        """Before any rounding of sizes to an alignment."""
        structure = self._model.structure(widths)
        size, counts = structure.files[bool(structure.plan(widths))]
        weight = np.zeros(counts.count)
        for index, slope in size.slopes(counts.values(widths).tolist()).items():
            weight[index] = slope
        return counts.gradient(widths, weight)

    def least(self) -> int:
        """A bound: each group at its minimum, no plan, and no vector of zeros."""
        structure = self._model.structure(self._model.least)
        size, counts = structure.files[False]
        return size.without_zeros(counts.values(self._model.least).tolist()) + self._code(structure)


class CBytes(CostFunction):
    """The constants of generated C, and with ``runs`` the code.

    Every cut is counted as its profile counts it: which kernels and tables the C needs depends on widths in more ways than a
    polynomial says. Tables and moves that become equal are stored once, so it isn't monotone.
    """

    monotone = False

    def __init__(self, model: Cuts, *, runs: bool) -> None:
        self._model, self._runs = model, runs
        self._counted = lru_cache(_CUTS)(self._count)

    def _count(self, widths: tuple[int, ...]) -> int:
        program = lower(self._model.cut(np.array(widths, np.int64)))
        program.check()
        return codesize.of_c(program, known=False, runs=self._runs)

    def value(self, widths: np.ndarray) -> int:
        return self._counted(tuple(np.maximum(widths, self._model.least).tolist()))

    def gradient(self, widths: np.ndarray) -> np.ndarray:
        """Of the arrays that are read beside the data: weights, biases, factors."""
        arrays = self._model.structure(widths).c_arrays
        return arrays.gradient(widths, np.ones(arrays.count))

    def least(self) -> int:
        """A bound: what ``gradient`` is of, each group at its minimum."""
        return int(self._model.structure(self._model.least).c_arrays.values(self._model.least).sum())
