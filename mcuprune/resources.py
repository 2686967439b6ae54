"""What a network costs on a microcontroller: flash, MACs and peak SRAM, as numbers and as functions of widths.

A cost is written once, as arithmetic over the sizes of tensor axes. With integers it is the report (``profile``); with
polynomials in group widths (``CostModel``) it is the budget, its value exact and its gradient at hand. Peak memory is a sum
of tensor sizes that an exact schedule search picks; its gradient is the gradient of that sum.

Semantics (batch 1, int8): multiply-accumulates count convolutions and products with constant matrices, nothing else. Flash is
1 byte a weight, 4 a bias, 4 of scale for each output channel of a weight, 1 for each element of any other constant that
is data at run time; foldable BatchNormalizations are folded. SRAM is 1 byte for each element of each live tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from mcuprune import memory, runtimes
from mcuprune.channels import Channels, Group, label
from mcuprune.deploy.kernels import REVERSED_ABOVE
from mcuprune.deploy.program import Copy
from mcuprune.errors import BudgetError
from mcuprune.fusion import Buffers, buffers, channel_axis, elements, folded_into, is_bias
from mcuprune.network import Network, Node, Shape
from mcuprune.ops import OPS, Dim, Quantization
from mcuprune.units import Limit, Unit

__all__ = [
    "RESOURCES",
    "Budget",
    "Buffers",
    "CostModel",
    "Layer",
    "Memory",
    "Moment",
    "NodeCost",
    "Polynomial",
    "Profile",
    "Resource",
    "SramModel",
    "Verdict",
    "budget",
    "buffers",
    "costs",
    "is_bias",
    "least",
    "profile",
]

WEIGHT_BYTES, BIAS_BYTES, SCALE_BYTES, DATA_BYTES = 1, 4, 4, 1


@dataclass(frozen=True)
class Resource:
    """Something a budget can limit: flag, config key, column and JSON field follow from its row in RESOURCES."""

    unit: Unit
    title: str
    meaning: str


RESOURCES: Mapping[str, Resource] = {
    "sram": Resource("bytes", "SRAM", "peak memory of activations, over the best execution order"),
    "flash": Resource("bytes", "flash", "weights, biases, scales and other constants, as int8 stores them"),
    "macs": Resource("count", "MACs", "multiply-accumulates of one inference"),
}


#: What a limit on SRAM means: the peak of the best schedule, or the arena of TensorFlow Lite Micro in the file's order.
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
        if node.op == "BatchNormalization" and node.name not in mixer_of:  # its four vectors come to a scale and a shift
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


# ----------------------------------------------------------------------------------------------------------- the report


@dataclass(frozen=True)
class Layer:
    """One node's row of a profile. live: bytes alive while it runs; 0 for a node that does nothing at run time."""

    node: str
    op: str
    shape: Shape
    macs: int
    flash: int
    params: int
    live: int


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


@dataclass(frozen=True)
class Profile:
    """What a network costs and where. ``total`` has sram, flash, macs and params; rows sum to it (sram: their maximum)."""

    path: str
    opset: int
    inputs: tuple[tuple[str, Shape], ...]
    outputs: tuple[tuple[str, Shape], ...]
    total: Mapping[str, int]
    memory: Memory
    groups: tuple[Group, ...]
    layers: tuple[Layer, ...]

    def used(self, sram_model: SramModel = "peak") -> dict[str, int]:
        """What a budget is checked against: ``total``, with ``sram`` as ``sram_model`` wants it."""
        sram = {"peak": self.total["sram"], "tflm": self.memory.arena_tflm, "max-in-out": self.memory.max_in_out}
        return {**self.total, "sram": sram[sram_model]}


def profile(net: Network) -> Profile:
    """Measure a network. Raises UnsupportedOperator for a node whose cost or channels are unknown."""
    found = label(net)  # first: it refuses nodes whose shapes don't fit together
    per_node = costs(net, lambda tensor, axis: net.shapes[tensor][axis])
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
    live = {moment.node: moment.bytes for moment in timeline}
    layers = tuple(
        Layer(
            node.name,
            node.op,
            net.shapes[node.outputs[0]],
            int(per_node[node.name].macs),
            int(per_node[node.name].flash),
            int(per_node[node.name].params),
            live.get(node.name, 0),
        )
        for node in net.nodes
    )
    worst = next((moment for moment in timeline if moment.bytes == schedule.peak), None)
    position = {node.name: index for index, node in enumerate(net.nodes)}
    program = runtimes.program(net)
    total = {
        "sram": schedule.peak,
        **{key: sum(getattr(layer, key) for layer in layers) for key in ("flash", "macs", "params")},
    }
    return Profile(
        path=net.path,
        opset=net.opset,
        inputs=tuple((name, net.shapes[name]) for name in net.inputs),
        outputs=tuple((name, net.shapes[name]) for name in net.outputs),
        total=total,
        memory=Memory(
            peak=schedule.peak,
            exact=schedule.exact,
            lower_bound=schedule.lower_bound,
            file_order=max((step.bytes for step in plan.file_steps()), default=schedule.peak),
            max_in_out=memory.max_in_out(plan.graph),
            order=_full_order(net, plan, schedule.order),
            peak_node=worst.node if worst else None,
            peak_tensors=worst.tensors if worst else (),
            timeline=timeline,
            arena_tflm=program.arena().total,
            copies=program.copies,
            unsupported=tuple(operator.why for operator in program.operators if operator.why),
        ),
        groups=tuple(
            sorted((*found.groups, *found.frozen), key=lambda group: min((position[node] for node in group.nodes), default=0))
        ),
        layers=layers,
    )


def _full_order(net: Network, plan: Buffers, order: Iterable[int]) -> tuple[str, ...]:
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
        plan = buffers(net)
        self.graph = plan.graph
        self.planner = memory.Planner(plan.graph)
        self.sizes = model.compiled([elements(net, tensor, model.dim) for tensor in plan.tensors])
        self.program = runtimes.program(net, dim=model.dim) if model.sram_model == "tflm" else None
        self.quantities = model.compiled(self.program.quantities) if self.program else None


class CostModel:
    """Flash, MACs and SRAM of every cut of a labelled network, as functions of its groups' widths.

    Exact: at the widths of a selection it gives what ``profile`` gives for the cut network (where both searches of the
    schedule prove theirs).
    sram_model: what ``sram`` means.
    """

    def __init__(self, channels: Channels, sram_model: SramModel = "peak") -> None:
        self.channels, self.sram_model = channels, sram_model
        net = channels.network
        self._extents: dict[tuple[int, tuple[tuple[int, int], ...]], int] = {}
        owner = np.full(channels.n_components + 1, -1, dtype=np.int64)
        for index, group in enumerate(channels.groups):
            owner[list(group.components)] = index
        self._owner = owner
        per_node = costs(net, self.dim)
        self._sums = self.compiled([sum(getattr(cost, key) for cost in per_node.values()) for key in ("flash", "macs")])
        self.full = np.array([len(group) for group in channels.groups], dtype=np.int64)
        self.least = np.array([group.minimum for group in channels.groups], dtype=np.int64)
        self._switches = self.compiled(self._what_makes_views())
        self._structures = {self._key(self.full): _Structure(self, net)}

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
        """sram and flash in bytes, macs, at int64 widths (groups,)."""
        structure = self._structure(widths)
        if structure.program is not None and structure.quantities is not None:
            sram = structure.program.arena(structure.quantities.values(widths).tolist()).total
        else:
            sram = max((step.bytes for step in self._peak_steps(structure, widths)), default=0)
        return {"sram": sram, **self.sums(widths)}

    def least_costs(self) -> dict[str, int]:
        """What no selection undercuts: each group at its minimum; of an arena a bound for every layout."""
        structure = self._structure(self.least)
        if structure.program is None or structure.quantities is None:
            return self.at(self.least)
        bound = structure.program.bound(structure.quantities.values(self.least).tolist())
        return {"sram": bound, **self.sums(self.least)}

    def sums(self, widths: np.ndarray) -> dict[str, int]:
        """flash and macs alone: no schedule is searched."""
        flash, macs = self._sums.values(widths)
        return {"flash": int(flash), "macs": int(macs)}

    def schedule(self, widths: np.ndarray) -> memory.Schedule:
        """The best schedule found at these widths."""
        structure = self._structure(widths)
        return structure.planner.plan(tuple(structure.sizes.values(widths).tolist()))

    def _peak_steps(self, structure: _Structure, widths: np.ndarray) -> tuple[memory.Step, ...]:
        """Every step that needs what ``sram`` is."""
        if self.sram_model == "max-in-out":
            return memory.widest(structure.graph, structure.sizes.values(widths).tolist())
        return self.schedule(widths).peak_steps

    def gradient(self, resource: str, widths: np.ndarray) -> np.ndarray:
        """d resource / d widths: float64 (groups,). For sram the mean over all steps that tie at the peak.

        Of an arena it is the gradient of the buffers that stand on each other up to its head, and of its tail, but for the
        rounding of every buffer to the alignment.
        """
        if resource != "sram":
            return self._sums.gradient(widths, np.array([resource == "flash", resource == "macs"], dtype=np.float64))
        structure = self._structure(widths)
        if structure.program is not None and structure.quantities is not None:
            weight = np.zeros(structure.quantities.count)
            for index, slope in structure.program.stacked(structure.quantities.values(widths).tolist()).items():
                weight[index] = slope
            return structure.quantities.gradient(widths, weight)
        steps = self._peak_steps(structure, widths)
        weight = np.zeros(structure.sizes.count)
        for step in steps:
            weight[list(step.buffers)] += 1 / len(steps)
        return structure.sizes.gradient(widths, weight)

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

    def _structure(self, widths: np.ndarray) -> _Structure:
        widths = np.maximum(widths, self.least)
        key = self._key(widths)
        if key not in self._structures:
            any_cut = self.channels.top(widths.tolist(), np.zeros(self.channels.n_components + 1))
            self._structures[key] = _Structure(self, self.channels.cut(any_cut))
        return self._structures[key]


# --------------------------------------------------------------------------------------------------------------- budgets


@dataclass(frozen=True)
class Verdict:
    """Used and limit of every limited resource, in base units. Limits are inclusive."""

    used: Mapping[str, int]
    limits: Mapping[str, int]

    @property
    def ok(self) -> bool:
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
