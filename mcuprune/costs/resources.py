"""What a network costs on a microcontroller: flash, MACs and peak SRAM, as numbers and as functions of widths.

A cost is written once, as arithmetic over the sizes of tensor axes. With integers it is the report (``profile``); with
polynomials in group widths (``CostModel``) it is the budget, its value exact and its gradient at hand. Peak memory is a sum
of tensor sizes that an exact schedule search picks; its gradient is the gradient of that sum.

Semantics (batch 1, int8): multiply-accumulates count convolutions and products with constant matrices, nothing else. Flash is
1 byte a weight, 4 a bias, 4 of scale for each output channel of a weight, 1 for each element of any other constant that
is data at run time; foldable BatchNormalizations are folded. SRAM is 1 byte for each element of each live tensor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np

from mcuprune.channels.labelling import Channels, Group, label
from mcuprune.deploy import boards as runtimes
from mcuprune.deploy.kernels import REVERSED_ABOVE
from mcuprune.deploy.program import Copy
from mcuprune.errors import BudgetError
from mcuprune.graph.network import Network, Node, Shape
from mcuprune.notebook import Drawn
from mcuprune.operators.fusion import Buffers, buffers, channel_axis, elements, folded_into, is_bias
from mcuprune.operators.table import OPS, Dim, Quantization
from mcuprune.schedule import search as memory
from mcuprune.units import Limit, Unit

__all__ = [
    "PARAMS",
    "RESOURCES",
    "Additive",
    "Budget",
    "Buffers",
    "CostFunction",
    "CostModel",
    "Layer",
    "Measured",
    "Memory",
    "Moment",
    "NodeCost",
    "Polynomial",
    "Profile",
    "Resource",
    "SramModel",
    "Terms",
    "Verdict",
    "budget",
    "buffers",
    "columns",
    "costs",
    "in_order",
    "is_bias",
    "least",
    "profile",
    "totals",
]

WEIGHT_BYTES, BIAS_BYTES, SCALE_BYTES, DATA_BYTES = 1, 4, 4, 1


#: What ``sram`` may mean: the peak of the best schedule, the arena of TensorFlow Lite Micro, or, to see what exactness is
#: worth, the largest inputs and outputs of one operator.
SramModel = Literal["peak", "tflm", "max-in-out"]


# ------------------------------------------------------------------------------------------------- the cost of each node


@dataclass(frozen=True)
class NodeCost:
    """What one node costs, in integers or polynomials. Constants count at the first node that reads them."""

    macs: Any
    flash: Any
    params: Any


def costs(net: Network, dim: Dim) -> dict[str, NodeCost]:
    """Cost of every node: its multiply-accumulates, bytes of constants, and weights plus biases."""
    mixer_of = folded_into(net)
    tails: dict[str, list[Node]] = {}
    for node in net.nodes:
        if node.name in mixer_of:
            tails.setdefault(mixer_of[node.name], []).append(node)
    counted: set[str] = set()
    found: dict[str, NodeCost] = {}
    for node in net.nodes:
        entry = OPS[node.op]
        flash: Any = 0
        params: Any = 0
        has_bias = False
        for index, name in enumerate(node.inputs):
            if not net.is_constant(name) or isinstance(entry, Quantization) or node.name in mixer_of:
                continue
            role = entry.role(node, index)
            has_bias = has_bias or role == "bias"
            if name in counted or node.op == "BatchNormalization":
                continue
            counted.add(name)
            size = elements(net, name, dim)
            if role == "weight":
                channels = dim(node.outputs[0], channel_axis(node, net))
                flash, params = flash + WEIGHT_BYTES * size + SCALE_BYTES * channels, params + size
            elif role == "bias":
                flash, params = flash + BIAS_BYTES * size, params + size
            else:
                flash = flash + DATA_BYTES * size
        if node.op == "BatchNormalization" and node.name not in mixer_of and not counted.issuperset(node.inputs[1:]):
            counted.update(node.inputs[1:])  # its four vectors come to a scale and a shift
            flash = flash + 2 * DATA_BYTES * dim(node.outputs[0], 1)
        if node.name in tails and not has_bias and _gains_bias(tails[node.name], counted, net):
            channels = dim(node.outputs[0], channel_axis(node, net))
            flash, params = flash + BIAS_BYTES * channels, params + channels
        found[node.name] = NodeCost(entry.macs(node, net, dim), flash, params)
    return found


def _gains_bias(tails: Sequence[Node], counted: set[str], net: Network) -> bool:
    """Whether what a mixer without a bias swallows gives it one that isn't counted yet; marks it as counted."""
    if any(tail.op == "BatchNormalization" for tail in tails):
        return True
    stored = {name for tail in tails for name in tail.inputs if net.is_constant(name)}
    fresh = not stored <= counted
    counted |= stored
    return fresh


class Terms:
    """What the cost of a node is written in: a network, and the sizes of its axes as integers or as polynomials of widths.

    dim: the size of an axis of a tensor, ``dim(tensor, axis)``.
    """

    def __init__(self, net: Network, dim: Dim) -> None:
        self.network, self.dim = net, dim

    @cached_property
    def costs(self) -> Mapping[str, NodeCost]:
        """The costs of every node, by its name."""
        return costs(self.network, self.dim)


# ----------------------------------------------------------------------------------------------------------- the report


@dataclass(frozen=True)
class Layer:
    """One node's row of a profile. costs: its share of each resource that has shares, by the resource's name.

    Of ``sram`` the share is the bytes alive while the node runs, 0 for a node that does nothing at run time.
    """

    node: str
    op: str
    shape: Shape
    costs: Mapping[str, int]

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return self.costs["macs"]

    @property
    def flash(self) -> int:
        """Bytes of constants."""
        return self.costs["flash"]

    @property
    def params(self) -> int:
        """Weights and biases."""
        return self.costs["params"]

    @property
    def live(self) -> int:
        """Bytes alive while the node runs."""
        return self.costs["sram"]


class Moment(NamedTuple):
    """What is alive, in bytes, while one node runs. An output written in place isn't listed, the tensor under it is."""

    node: str
    bytes: int
    tensors: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Memory:
    """Peak SRAM in bytes. ``peak`` is achieved by ``order``; ``lower_bound`` holds for every order; equal where ``exact``.

    file_order: the peak of the file's own order. max_in_out: the largest inputs plus outputs of one operator, which
    under-estimates. peak_tensors: what is alive at the first step that needs the peak.
    timeline: for each step of ``order`` that runs at all its node, the bytes alive, and the tensors that they belong to.
    arena_tflm: what TensorFlow Lite Micro with CMSIS-NN needs on a 32-bit core for the file's order (``runtimes``).
    copies: tensors that the file for it makes for what the peak counts as free, each with its node and the reason.
    unsupported: why the network can't run there as it is: nodes without an int8 kernel.
    """

    peak: int
    exact: bool
    lower_bound: int
    file_order: int
    max_in_out: int
    order: tuple[str, ...]
    peak_node: str | None
    peak_tensors: tuple[tuple[str, int], ...]
    timeline: tuple[Moment, ...]
    arena_tflm: int
    copies: tuple[Copy, ...] = ()
    unsupported: tuple[str, ...] = ()


class Measured(NamedTuple):
    """What the resources of one network are measured on. program: what TensorFlow Lite Micro would run of it."""

    network: Network
    layers: tuple[Layer, ...]
    program: runtimes.Program
    memory: Memory


@dataclass(frozen=True)
class Profile(Drawn):
    """What a network costs and where. ``total`` has sram, flash, macs and params; rows sum to it (sram: their maximum).

    alternatives: by name, the resources that a limit may be held against instead (``Resource.models``).
    """

    path: str
    opset: int
    inputs: tuple[tuple[str, Shape], ...]
    outputs: tuple[tuple[str, Shape], ...]
    total: Mapping[str, int]
    memory: Memory
    groups: tuple[Group, ...]
    layers: tuple[Layer, ...]
    alternatives: Mapping[str, int]

    @property
    def sram(self) -> int:
        """Bytes: the peak memory of activations, over the best execution order."""
        return self.total["sram"]

    @property
    def flash(self) -> int:
        """Bytes: weights, biases, scales and other constants, as int8 stores them."""
        return self.total["flash"]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return self.total["macs"]

    @property
    def params(self) -> int:
        """Weights and biases."""
        return self.total["params"]

    @property
    def arena(self) -> int:
        """Bytes of arena that TensorFlow Lite Micro with CMSIS-NN needs on a 32-bit core."""
        return self.memory.arena_tflm

    def used(self, sram_model: SramModel = "peak") -> dict[str, int]:
        """What a budget is checked against: ``total``, with ``sram`` as ``sram_model`` wants it."""
        models = {"sram": sram_model}
        limited = {name: resource.under(models.get(name)) for name, resource in RESOURCES.items()}
        others = {name: self.alternatives[under.name] for name, under in limited.items() if under is not RESOURCES[name]}
        return {**self.total, **others}


def profile(net: Network) -> Profile:
    """Measure a network. Raises UnsupportedOperator for a node whose cost or channels are unknown."""
    found = label(net)  # first: it refuses nodes whose shapes don't fit together
    plan = buffers(net)
    schedule = memory.schedule(plan.graph)
    timeline = tuple(
        Moment(
            net.nodes[plan.nodes[step.op]].name,
            step.bytes,
            tuple((plan.tensors[b], plan.graph.sizes[b]) for b in step.buffers),
        )
        for step in schedule.steps
    )
    layers = _layers(net, {moment.node: moment.bytes for moment in timeline})
    worst = next((moment for moment in timeline if moment.bytes == schedule.peak), None)
    program = runtimes.program(net)
    measured = Measured(
        network=net,
        layers=layers,
        program=program,
        memory=Memory(
            peak=schedule.peak,
            exact=schedule.exact,
            lower_bound=schedule.lower_bound,
            file_order=max((step.bytes for step in plan.file_steps()), default=schedule.peak),
            max_in_out=memory.max_in_out(plan.graph),
            order=full_order(net, plan, schedule.order),
            peak_node=worst.node if worst else None,
            peak_tensors=worst.tensors if worst else (),
            timeline=timeline,
            arena_tflm=program.arena().total,
            copies=program.copies,
            unsupported=tuple(operator.why for operator in program.operators if operator.why),
        ),
    )
    others = {other.name: other for resource in RESOURCES.values() for other in resource.models.values()}
    return Profile(
        path=net.path,
        opset=net.opset,
        inputs=tuple((name, net.shapes[name]) for name in net.inputs),
        outputs=tuple((name, net.shapes[name]) for name in net.outputs),
        total={name: resource.measure(measured) for name, resource in totals().items()},
        memory=measured.memory,
        groups=in_order(found),
        layers=layers,
        alternatives={name: resource.measure(measured) for name, resource in others.items()},
    )


def in_order(channels: Channels) -> tuple[Group, ...]:
    """All groups, those that can't be cut too, in the order of the nodes that bear their channels."""
    position = {node.name: index for index, node in enumerate(channels.network.nodes)}
    found = (*channels.groups, *channels.frozen)
    return tuple(sorted(found, key=lambda group: min((position[node] for node in group.nodes), default=0)))


def _layers(net: Network, live: Mapping[str, int]) -> tuple[Layer, ...]:
    """A row for each node. live: bytes alive while a node runs, by its name."""
    terms = Terms(net, lambda tensor, axis: net.shapes[tensor][axis])
    shares = {name: resource.shares(terms) for name, resource in totals().items() if isinstance(resource, Additive)}

    def of_node(node: Node) -> dict[str, int]:
        return {"sram": live.get(node.name, 0), **{name: int(share.get(node.name, 0)) for name, share in shares.items()}}

    return tuple(Layer(node.name, node.op, net.shapes[node.outputs[0]], of_node(node)) for node in net.nodes)


def full_order(net: Network, plan: Buffers, order: Iterable[int]) -> tuple[str, ...]:
    """All nodes in the order of the schedule, those that it leaves out right before their first reader."""
    scheduled = [plan.nodes[op] for op in order]
    position = {output: index for index, node in enumerate(net.nodes) for output in node.outputs if output}
    done: set[int] = set()
    names: list[str] = []
    for index in [*scheduled, *range(len(net.nodes))]:
        stack = [index]
        while stack:
            top = stack[-1]
            unmet = [position[name] for name in net.nodes[top].inputs if name in position and position[name] not in done]
            if top in done:
                stack.pop()
            elif unmet:
                stack.extend(unmet)
            else:
                done.add(stack.pop())
                names.append(net.nodes[top].name)
    return tuple(names)


# ------------------------------------------------------------------------------------------------- costs as functions


class Polynomial:
    """A sum of integer coefficients times products of extents; an extent is the size of an axis as a function of widths."""

    __slots__ = ("terms",)

    def __init__(self, terms: Mapping[tuple[int, ...], int]) -> None:
        self.terms = terms

    def __add__(self, other: Polynomial | int) -> Polynomial:
        terms = dict(self.terms)
        for extents, factor in (other.terms if isinstance(other, Polynomial) else {(): other}).items():
            terms[extents] = terms.get(extents, 0) + factor
        return Polynomial(terms)

    def __mul__(self, other: Polynomial | int) -> Polynomial:
        terms: dict[tuple[int, ...], int] = {}
        for extents, factor in self.terms.items():
            for more, times in (other.terms if isinstance(other, Polynomial) else {(): other}).items():
                key = tuple(sorted(extents + more))
                terms[key] = terms.get(key, 0) + factor * times
        return Polynomial(terms)

    __radd__, __rmul__ = __add__, __mul__


class _Compiled:
    """Polynomials of degree two at most, ready to be evaluated together at many widths.

    An extent is a fixed size plus a sum of counts times widths; extent 0 is the constant 1. The counts are listed, not kept
    in a matrix of extents by groups, which would grow as the square of the network.
    """

    def __init__(
        self, polynomials: Sequence[Polynomial], extents: Sequence[tuple[int, Mapping[int, int]]], groups: int
    ) -> None:
        self.fixed = np.array([1, *(fixed for fixed, _ in extents)], dtype=np.int64)
        listed = [(row, group, count) for row, (_, counts) in enumerate(extents, 1) for group, count in counts.items()]
        self.n_groups = groups
        self.extent_of, self.group_of, self.times = np.array(listed, dtype=np.int64).reshape(-1, 3).T
        flat = [(row, (0, 0, *key)[-2:], factor) for row, p in enumerate(polynomials) for key, factor in p.terms.items()]
        assert all(len(key) <= 2 for p in polynomials for key in p.terms), "a cost of degree three"
        self.rows = np.array([row for row, _, _ in flat], dtype=np.int64)
        self.left = np.array([key[0] for _, key, _ in flat], dtype=np.int64)
        self.right = np.array([key[1] for _, key, _ in flat], dtype=np.int64)
        self.factor = np.array([factor for _, _, factor in flat], dtype=np.int64)
        self.count = len(polynomials)

    def extents(self, widths: np.ndarray) -> np.ndarray:
        """int64 (extents,) at widths int64 (groups,)."""
        found = self.fixed.copy()
        np.add.at(found, self.extent_of, self.times * widths[self.group_of])
        return found

    def values(self, widths: np.ndarray) -> np.ndarray:
        """int64 (polynomials,) at widths int64 (groups,)."""
        extents = self.extents(widths)
        terms = self.factor * extents[self.left] * extents[self.right]
        return np.bincount(self.rows, terms, self.count).astype(np.int64) if terms.size else np.zeros(self.count, np.int64)

    def gradient(self, widths: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """d (weight @ values) / d widths: float64 (groups,)."""
        extents = self.extents(widths)
        scale = self.factor * weight[self.rows]
        by_extent = np.bincount(self.left, scale * extents[self.right], len(extents))
        by_extent += np.bincount(self.right, scale * extents[self.left], len(extents))
        return np.bincount(self.group_of, by_extent[self.extent_of] * self.times, self.n_groups)


class _Structure:
    """What runs, and in which buffers, for all cuts that have the same views: sizes as functions of widths."""

    def __init__(self, model: CostModel, net: Network) -> None:
        self._model, self._network = model, net
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
    def program(self) -> runtimes.Program:
        """What TensorFlow Lite Micro runs; made for those alone who ask for its arena."""
        return runtimes.program(self._network, dim=self._model.dim)

    @cached_property
    def quantities(self) -> _Compiled:
        """What the arena is computed from, as functions of widths."""
        return self._model.compiled(self.program.quantities)


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


class _Sum:
    """The sum over nodes of an ``Additive`` resource: a polynomial, which is evaluated together with those of the others."""

    monotone = True

    def __init__(self, model: CostModel, sums: _Compiled, index: int) -> None:
        self._model, self._sums, self._weight = model, sums, np.eye(sums.count)[index]
        self._index = index

    def value(self, widths: np.ndarray) -> int:
        return int(self._sums.values(widths)[self._index])

    def gradient(self, widths: np.ndarray) -> np.ndarray:
        return self._sums.gradient(widths, self._weight)

    def least(self) -> int:
        return self.value(self._model.least)


class _LargestStep:
    """The bytes of whichever step needs most: a sum of tensor sizes, another one for each structure and order.

    steps: those that need the most, at given widths; the gradient is the mean over all of them.
    """

    monotone = True

    def __init__(self, model: CostModel, steps: Callable[[_Structure, np.ndarray], Sequence[memory.Step]]) -> None:
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


class _ArenaSize:
    """The arena of TensorFlow Lite Micro. Its buffers may lie better where a group is wider, so it isn't monotone."""

    monotone = False

    def __init__(self, model: CostModel) -> None:
        self._model = model

    def value(self, widths: np.ndarray) -> int:
        structure = self._model.structure(widths)
        return structure.program.arena(structure.quantities.values(widths).tolist()).total

    def gradient(self, widths: np.ndarray) -> np.ndarray:
        """Of the buffers that stand on each other up to the arena's head, and of its tail, before any rounding of sizes."""
        structure = self._model.structure(widths)
        weight = np.zeros(structure.quantities.count)
        for index, slope in structure.program.stacked(structure.quantities.values(widths).tolist()).items():
            weight[index] = slope
        return structure.quantities.gradient(widths, weight)

    def least(self) -> int:
        """A bound for every layout of the buffers, each group at its minimum."""
        structure = self._model.structure(self._model.least)
        return structure.program.bound(structure.quantities.values(self._model.least).tolist())


class CostModel:
    """The resources of every cut of a labelled network, as functions of its groups' widths.

    Exact: at the widths of a selection it gives what ``profile`` gives for the cut network (where both searches of the
    schedule prove theirs).
    sram_model: what ``sram`` means.
    functions: for each resource, by its name, what a limit on it is held against.
    """

    def __init__(self, channels: Channels, sram_model: SramModel = "peak") -> None:
        self.channels, self.sram_model = channels, sram_model
        net = channels.network
        self._extents: dict[tuple[int, tuple[tuple[int, int], ...]], int] = {}
        owner = np.full(channels.n_components + 1, -1, dtype=np.int64)
        for index, group in enumerate(channels.groups):
            owner[list(group.components)] = index
        self._owner = owner
        models = {"sram": sram_model}
        resources = {name: resource.under(models.get(name)) for name, resource in RESOURCES.items()}
        self._additive = {name: resource for name, resource in resources.items() if isinstance(resource, Additive)}
        terms = Terms(net, self.dim)
        self._sums = self.compiled([sum(resource.shares(terms).values()) for resource in self._additive.values()])
        self.functions = {name: resource.function(self) for name, resource in resources.items()}
        self.full = np.array([len(group) for group in channels.groups], dtype=np.int64)
        self.least = np.array([group.minimum for group in channels.groups], dtype=np.int64)
        self._switches = self.compiled(self._what_makes_views())
        self._structures = {self._key(self.full): _Structure(self, net)}

    def of(self, channels: Channels) -> CostModel:
        """The same model of a network whose groups have other bounds."""
        return CostModel(channels, self.sram_model)

    def dim(self, tensor: str, axis: int) -> Polynomial | int:
        """The size of an axis: an integer, or an extent where channels cut it."""
        along = self.channels.along.get(tensor)
        labels = along.labels if along is not None and along.axis == axis else None
        for slot in self.channels.slots_of.get(tensor, ()):
            if slot.axis == axis:
                labels = slot.components
        if labels is None:
            return self.channels.network.shapes[tensor][axis]
        counts: dict[int, float] = {}
        for group, slices in zip(*np.unique(self._owner[labels], return_counts=True), strict=True):
            # every component of a group has as many slices here as any other of it
            size = len(self.channels.groups[group]) if group >= 0 else 1
            counts[int(group)] = slices / size
        key = (int(counts.pop(-1, 0)), tuple((group, int(count)) for group, count in counts.items()))
        return Polynomial({(1 + self._extents.setdefault(key, len(self._extents)),): 1})

    def compiled(self, polynomials: Iterable[Polynomial | int]) -> _Compiled:
        """Functions of widths, made of ``dim``, that are evaluated together."""
        extents = [(fixed, dict(counts)) for fixed, counts in self._extents]
        return _Compiled([Polynomial({}) + p for p in polynomials], extents, len(self.channels.groups))

    def at(self, widths: np.ndarray) -> dict[str, int]:
        """What each resource costs, in base units, at int64 widths (groups,)."""
        sums = self.sums(widths)
        return {name: sums[name] if name in sums else of.value(widths) for name, of in self.functions.items()}

    def least_costs(self) -> dict[str, int]:
        """What no selection undercuts: each group at its minimum; of an arena a bound for every layout."""
        return {name: function.least() for name, function in self.functions.items()}

    def sums(self, widths: np.ndarray) -> dict[str, int]:
        """The resources that add up over nodes, such as flash and macs, alone: no schedule is searched."""
        return dict(zip(self._additive, map(int, self._sums.values(widths)), strict=True))

    def additive(self) -> Mapping[str, Additive]:
        """The resources that add up over nodes, by name."""
        return dict(self._additive)

    def sum_of(self, resource: Additive) -> CostFunction:
        """The function of one of the resources that add up."""
        return _Sum(self, self._sums, [other.name for other in self._additive.values()].index(resource.name))

    def schedule(self, widths: np.ndarray) -> memory.Schedule:
        """The best schedule found at these widths."""
        structure = self.structure(widths)
        return structure.planner.plan(tuple(structure.sizes.values(widths).tolist()))

    def gradient(self, resource: str, widths: np.ndarray) -> np.ndarray:
        """d resource / d widths: float64 (groups,). For sram the mean over all steps that tie at the peak.

        Of an arena it is the gradient of the buffers that stand on each other up to its head, and of its tail, but for the
        rounding of every buffer to the alignment.
        """
        return self.functions[resource].gradient(widths)

    def _what_makes_views(self) -> list[Polynomial | int]:
        """Functions of widths that decide, by being above 0 or not, whether some operator runs at all.

        A Transpose or Reshape is a view where the channels that it moves are down to one, a Slice where all that it drops
        is gone, a Pad where all that it adds is. A depthwise convolution of one channel is an
        ordinary one, a grouped one with one channel in each group a depthwise one. Kernels run a transposed convolution in
        one of two ways, by the number of its input channels.
        """
        net = self.channels.network
        found: list[Polynomial | int] = []
        for node in net.nodes:
            data, output = node.inputs[0], node.outputs[0]
            along = self.channels.along.get(output)
            if along is None:
                continue
            width = self.dim(output, along.axis)
            if node.op in ("Transpose", "Reshape"):
                found.append(width + -1)
                before = self.channels.along.get(data)
                if before is not None:
                    found.append(self.dim(data, before.axis) + -1)
            elif node.op == "Conv" and node.attrs.get("group", 1) > 1:
                found += [width + -1, self.dim(node.inputs[1], 1) + -1]
            elif node.op == "ConvTranspose":
                found.append(self.dim(data, 1) + -REVERSED_ABOVE)
            elif node.op in ("Slice", "Pad"):
                change = self.dim(data, along.axis) + width * -1
                found.append(change if node.op == "Slice" else change * -1)
        return found

    def _key(self, widths: np.ndarray) -> bytes:
        return bytes((self._switches.values(widths) > 0).tolist())

    def structure(self, widths: np.ndarray) -> _Structure:
        """What runs, and in which buffers, at these widths."""
        widths = np.maximum(widths, self.least)
        key = self._key(widths)
        if key not in self._structures:
            any_cut = self.channels.top(widths.tolist(), np.zeros(self.channels.n_components + 1))
            self._structures[key] = _Structure(self, self.channels.cut(any_cut))
        return self._structures[key]


# ------------------------------------------------------------------------------------------------------------- resources


@dataclass(frozen=True, kw_only=True)
class Resource(ABC):
    """Something that a network costs: what it is called, how it is measured, and how it follows from the widths.

    An object in RESOURCES is all that a limit takes: the flag, the key of a configuration's budget, the columns of reports, the
    fields of JSON and of the history, and the gradient that pruning follows come from it.

    name: as in the flag ``--NAME``. title: as in a table. meaning: a phrase that says what is counted.
    models: what a limit on it may be held against instead, by the words that ``--NAME-model`` takes for that.
    place: where the JSON of a profile has it; None for ``total.NAME``.
    share: how the shares of nodes make the whole, their sum or their maximum; None where single nodes have none.
    """

    name: str
    unit: Unit
    title: str
    meaning: str
    models: Mapping[str, Resource] = field(default_factory=dict, compare=False)
    place: tuple[str, str] | None = None
    share: ClassVar[Literal["sum", "max"] | None] = None

    @property
    def metavar(self) -> str:
        """What the help of its flag writes for a value."""
        return {"bytes": "SIZE|%", "count": "COUNT|%"}[self.unit]

    def under(self, model: str | None) -> Resource:
        """What a limit is held against where ``--NAME-model`` is ``model``: one of ``models``, or else the resource itself."""
        return self if model is None else self.models.get(model, self)

    @abstractmethod
    def measure(self, measured: Measured) -> int:
        """What a network costs, in base units."""

    @abstractmethod
    def function(self, model: CostModel) -> CostFunction:
        """What the cuts of a network cost."""


@dataclass(frozen=True, kw_only=True)
class Additive(Resource):
    """A resource that adds up over nodes.

    shares: what each node has of it, by the node's name, of ``Terms`` in integers or in polynomials; nodes without any may be
    left out. It multiplies and adds sizes and integers, at most two sizes in a product, and compares nothing.
    """

    shares: Callable[[Terms], Mapping[str, Any]] = field(compare=False)
    share = "sum"

    def measure(self, measured: Measured) -> int:
        return sum(layer.costs[self.name] for layer in measured.layers)

    def function(self, model: CostModel) -> CostFunction:
        return model.sum_of(self)


@dataclass(frozen=True, kw_only=True)
class _Peak(Resource):
    """The peak of the best schedule."""

    share = "max"

    def measure(self, measured: Measured) -> int:
        return measured.memory.peak

    def function(self, model: CostModel) -> CostFunction:
        return _LargestStep(model, lambda structure, widths: model.schedule(widths).peak_steps)


@dataclass(frozen=True, kw_only=True)
class _Arena(Resource):
    """The arena of TensorFlow Lite Micro in the file's order."""

    def measure(self, measured: Measured) -> int:
        return measured.memory.arena_tflm

    def function(self, model: CostModel) -> CostFunction:
        return _ArenaSize(model)


@dataclass(frozen=True, kw_only=True)
class _MaxInOut(Resource):
    """The largest inputs and outputs of one operator."""

    def measure(self, measured: Measured) -> int:
        return measured.memory.max_in_out

    def function(self, model: CostModel) -> CostFunction:
        return _LargestStep(model, lambda at, widths: memory.widest(at.graph, at.sizes.values(widths).tolist()))


_ARENA = _Arena(
    name="arena",
    unit="bytes",
    title="arena",
    meaning="arena of TensorFlow Lite Micro with CMSIS-NN on a 32-bit core",
    place=("memory", "arena_tflm"),
)
_MAX_IN_OUT = _MaxInOut(
    name="max_in_out",
    unit="bytes",
    title="largest operator",
    meaning="inputs and outputs of the largest operator",
    place=("memory", "max_in_out"),
)
#: What every profile counts, and no budget limits.
PARAMS = Additive(
    name="params",
    unit="count",
    title="params",
    meaning="weights and biases",
    shares=lambda terms: {node: cost.params for node, cost in terms.costs.items()},
)
#: What a budget can limit, by name.
RESOURCES: dict[str, Resource] = {
    resource.name: resource
    for resource in (
        _Peak(
            name="sram",
            unit="bytes",
            title="SRAM",
            meaning="peak memory of activations, over the best execution order",
            models={"tflm": _ARENA, "max-in-out": _MAX_IN_OUT},
        ),
        Additive(
            name="flash",
            unit="bytes",
            title="flash",
            meaning="weights, biases, scales and other constants, as int8 stores them",
            shares=lambda terms: {node: cost.flash for node, cost in terms.costs.items()},
        ),
        Additive(
            name="macs",
            unit="count",
            title="MACs",
            meaning="multiply-accumulates of one inference",
            shares=lambda terms: {node: cost.macs for node, cost in terms.costs.items()},
        ),
    )
}


def totals() -> dict[str, Resource]:
    """All that a profile counts of a whole network, by name: RESOURCES and PARAMS."""
    return {**RESOURCES, PARAMS.name: PARAMS}


def columns() -> dict[str, Resource]:
    """The resources that nodes have a share of, by name."""
    return {name: resource for name, resource in RESOURCES.items() if resource.share is not None}


# --------------------------------------------------------------------------------------------------------------- budgets


@dataclass(frozen=True)
class Verdict(Drawn):
    """Used and limit of every limited resource, in base units. Limits are inclusive."""

    used: Mapping[str, int]
    limits: Mapping[str, int]

    @property
    def ok(self) -> bool:
        """Whether every limit holds."""
        return not self.excess

    @property
    def excess(self) -> dict[str, int]:
        """By how much each resource that is over its limit is over."""
        return {name: self.used[name] - limit for name, limit in self.limits.items() if self.used[name] > limit}


@dataclass(frozen=True)
class Budget:
    """Resource -> limit in base units. Resources that it doesn't name are free."""

    limits: Mapping[str, int]

    def check(self, used: Mapping[str, int]) -> Verdict:
        return Verdict({name: used[name] for name in self.limits}, self.limits)

    def ratios(self, used: Mapping[str, int]) -> dict[str, float]:
        """used / limit of every limited resource."""
        return {name: used[name] / limit for name, limit in self.limits.items()}

    def approached(self, start: Mapping[str, int], share: float) -> Budget:
        """The budget a part of the way there: each limit falls geometrically from what ``start`` costs to its own.

        share: from 0, nothing of the way, to 1, the budget itself. What holds its limit at the start has it all the way.
        """
        return Budget({name: int(limit * max(1.0, start[name] / limit) ** (1 - share)) for name, limit in self.limits.items()})


def budget(wanted: Mapping[str, Limit], own: Mapping[str, int]) -> Budget:
    """Limits in base units for a network that costs ``own``. Raises BudgetError where a share comes to nothing."""
    limits = {name: limit.of(own[name]) for name, limit in wanted.items()}
    for name, value in limits.items():
        if value < 1:
            raise BudgetError(f"the limit of {RESOURCES[name].title} comes to {value}; give a larger one")
    return Budget(limits)


def least(model: CostModel, limits: Budget) -> dict[str, int]:
    """What each limited resource costs at least, each group at its minimum: no selection costs less."""
    costs_at_least = model.least_costs()
    return {name: costs_at_least[name] for name in limits.limits}
