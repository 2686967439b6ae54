"""The cost model: all resources of every cut of a labelled network, by its widths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from mcuprune.channels.labelling import Channels
from mcuprune.costs.basis import Basis, SramModel
from mcuprune.costs.functions import CostFunction, Structure, Sum
from mcuprune.costs.nodes import Terms
from mcuprune.costs.polynomials import Compiled, Polynomial
from mcuprune.costs.rows import RESOURCES, Additive
from mcuprune.deploy.kernels import REVERSED_ABOVE
from mcuprune.graph.network import Network
from mcuprune.schedule import search as memory


class CostModel:
    """The resources of every cut of a labelled network, as functions of its groups' widths.

    Exact: at the widths of a selection it gives what ``profile`` gives for the cut network (where both searches of the
    schedule prove theirs).
    basis: what limits are held against; a word for what ``sram`` means will do.
    functions: for each resource, by its name, what a limit on it is held against.
    """

    def __init__(self, channels: Channels, basis: Basis | SramModel = "peak") -> None:
        self.channels, self.basis = channels, Basis.of(basis)
        net = channels.network
        self._extents: dict[tuple[int, tuple[tuple[int, int], ...]], int] = {}
        self._dims: dict[tuple[str, int], Polynomial | int] = {}
        owner = np.full(channels.n_components + 1, -1, dtype=np.int64)
        for index, group in enumerate(channels.groups):
            owner[list(group.components)] = index
        self._owner = owner
        known = {name: resource for name, resource in RESOURCES.items() if not resource.lacks(self.basis)}
        resources = {name: resource.under(self.basis.models.get(name)) for name, resource in known.items()}
        self._additive = {name: resource for name, resource in resources.items() if isinstance(resource, Additive)}
        terms = Terms(net, self.dim)
        self._sums = self.compiled([sum(resource.shares(terms).values()) for resource in self._additive.values()])
        self.functions = {name: resource.function(self) for name, resource in resources.items()}
        self.full = np.array([len(group) for group in channels.groups], dtype=np.int64)
        self.least = np.array([group.minimum for group in channels.groups], dtype=np.int64)
        self._switches = self.compiled(self._what_makes_views())
        self._structures = {self._key(self.full): Structure(self, net)}

    def of(self, channels: Channels) -> CostModel:
        """The same model of a network whose groups have other bounds."""
        return CostModel(channels, self.basis)

    def additive(self) -> Mapping[str, Additive]:
        """The resources that add up over nodes, by name."""
        return dict(self._additive)

    def dim(self, tensor: str, axis: int) -> Polynomial | int:
        """The size of an axis: an integer, or an extent where channels cut it. Asked for by every operator that sees it."""
        size = self._dims.get((tensor, axis))
        if size is None:
            size = self._dims[tensor, axis] = self._dim(tensor, axis)
        return size

    def _dim(self, tensor: str, axis: int) -> Polynomial | int:
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

    def compiled(self, polynomials: Iterable[Polynomial | int]) -> Compiled:
        """Functions of widths, made of ``dim``, that are evaluated together."""
        extents = [(fixed, dict(counts)) for fixed, counts in self._extents]
        return Compiled([Polynomial({}) + p for p in polynomials], extents, len(self.channels.groups))

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

    def sum_of(self, resource: Additive) -> CostFunction:
        """The function of one of the resources that add up."""
        return Sum(self, self._sums, [other.name for other in self._additive.values()].index(resource.name))

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
        zeros: list[Polynomial | int] = []
        for node in net.nodes:
            data, output = node.inputs[0], node.outputs[0]
            along = self.channels.along.get(output)
            if along is None:
                continue
            width = self.dim(output, along.axis)
            if node.op in ("Transpose", "Reshape"):
                zeros.append(width + -1)
                before = self.channels.along.get(data)
                if before is not None:
                    zeros.append(self.dim(data, before.axis) + -1)
            elif node.op == "Conv" and node.get("group") > 1:
                zeros += [width + -1, self.dim(node.inputs[1], 1) + -1]
            elif node.op == "ConvTranspose":
                zeros.append(self.dim(data, 1) + -REVERSED_ABOVE)
            elif node.op in ("Slice", "Pad"):
                change = self.dim(data, along.axis) + width * -1
                zeros.append(change if node.op == "Slice" else change * -1)
        return zeros

    def _key(self, widths: np.ndarray) -> bytes:
        return bytes((self._switches.values(widths) > 0).tolist())

    def structure(self, widths: np.ndarray) -> Structure:
        """What runs, and in which buffers, at these widths."""
        widths = np.maximum(widths, self.least)
        key = self._key(widths)
        if key not in self._structures:
            self._structures[key] = Structure(self, self.cut(widths))
        return self._structures[key]

    def cut(self, widths: np.ndarray) -> Network:
        """The network at these widths, whichever channels go."""
        return self.channels.cut(self.channels.top(widths.tolist(), np.zeros(self.channels.n_components + 1)))
