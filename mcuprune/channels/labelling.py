"""Labels -> groups of channels that live and die together; a selection of them; the network cut down to a selection.

``label`` runs every node's label rule from the operator table. Labels that the rules tie are one *component*: it is removed
as a whole or not at all. Components with the same footprint (the same slices of the same tensors) are interchangeable but
for their weights and form a *group*, which has one width. Costs, masks, salience and cuts read the same label vectors:

* ``Slot``: an axis of a constant that channels cut, with the component of each of its slices;
* ``Channels.along``: the same for a computed tensor.

Component 0 stands for all that can't be removed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from mcuprune.channels.disjoint import DisjointSets
from mcuprune.errors import ModelError
from mcuprune.graph.network import Network, Node, Shape, Stored
from mcuprune.immutable import immutable
from mcuprune.operators.table import FIXED, OPS, Along, Mixer

#: More channels than this along one axis is taken for a mistake or an attack.
MAX_CHANNELS = 2**20


@immutable
class Slot:
    """An axis of a constant that channels cut.

    node, index: the use of the constant: that input of that node.
    components: for each slice along ``axis``, its component.
    by_group: int64 (groups, slices) for a grouped convolution, whose k-th slice is another channel in every group: the
        component of each; its groups lie along axis 0 of the constant, and ``components`` is the first group's row.
    mixes: whether the slices are what a mixer reads its input channels with: a component whose slices of all mixing slots
        are zero has no effect on the network's outputs.
    """

    node: str
    index: int
    constant: str
    axis: int
    components: np.ndarray
    mixes: bool
    by_group: np.ndarray | None = None

    def spread(self, shape: Shape) -> np.ndarray:
        """The component of every element of the constant, as int64 that broadcast to its ``shape``."""
        rest = (1,) * (len(shape) - self.axis - 1)
        if self.by_group is None:
            return self.components.reshape((1,) * self.axis + (-1, *rest))
        assert self.axis == 1
        return np.repeat(self.by_group, shape[0] // len(self.by_group), axis=0).reshape(shape[0], -1, *rest)

    def cut(self, value: np.ndarray, keep: np.ndarray) -> np.ndarray:
        """``value``, an array like the constant, without the slices of the components that ``keep`` drops."""
        if self.by_group is None:
            return np.take(value, np.flatnonzero(keep[self.components]), axis=self.axis)
        groups = len(self.by_group)
        parts = np.split(value, groups, axis=0)
        kept = [np.flatnonzero(row) for row in keep[self.by_group]]
        return np.concatenate([part.take(where, axis=1) for part, where in zip(parts, kept, strict=True)], axis=0)


@immutable
class Group:
    """Interchangeable components: one width.

    name: the first node that bears its channels.
    components: ids, in the order of the channels; ``len(group)`` is its width before any cut.
    nodes: all nodes whose weights bear its channels.
    minimum: the least width a cut may leave.
    why: for a group that can't be cut, the reason; None for a removable one.
    """

    name: str
    components: tuple[int, ...]
    nodes: tuple[str, ...]
    minimum: int
    why: str | None

    def __len__(self) -> int:
        return len(self.components)

    @property
    def removable(self) -> bool:
        """Whether channels of it may go."""
        return self.why is None


@immutable
class Channels:
    """The labelled network.

    network: as it was given, but constants that unrelated nodes shared by accident are stored apart.
    along: tensor name -> axis and component of each slice; tensors without removable channels are absent.
    groups: the removable ones; ``frozen`` has the others, for reports.
    n_components: components are numbered 1 .. n_components.
    """

    network: Network
    along: Mapping[str, Along]
    slots: tuple[Slot, ...]
    groups: tuple[Group, ...]
    frozen: tuple[Group, ...]
    n_components: int

    @cached_property
    def slots_of(self) -> Mapping[str, tuple[Slot, ...]]:
        """Constant name -> its slots, one an axis."""
        slots_by_constant: dict[str, dict[int, Slot]] = {}
        for slot in self.slots:
            known = slots_by_constant.setdefault(slot.constant, {})
            if slot.axis not in known or slot.mixes:
                known[slot.axis] = slot
        return {name: tuple(slots.values()) for name, slots in slots_by_constant.items()}

    def keep_all(self) -> np.ndarray:
        """The selection that removes nothing: bool (n_components + 1,), the shape of every selection."""
        return np.ones(self.n_components + 1, dtype=bool)

    def widths(self, keep: np.ndarray) -> np.ndarray:
        """int64 (groups,): how many components of each group a selection keeps."""
        return np.array([int(keep[list(group.components)].sum()) for group in self.groups], dtype=np.int64)

    def kept(self, keep: np.ndarray) -> dict[str, tuple[int, ...]]:
        """Group name -> indices of its kept channels, for reports."""
        return {group.name: tuple(int(i) for i in np.flatnonzero(keep[list(group.components)])) for group in self.groups}

    def top(self, widths: Sequence[int] | np.ndarray, salience: np.ndarray) -> np.ndarray:
        """The selection that keeps the ``widths[g]`` most salient components of each group g.

        salience: float (n_components + 1,). Ties go to the earlier channel.
        """
        keep = self.keep_all()
        for group, width in zip(self.groups, widths, strict=True):
            ids = np.array(group.components)
            order = np.argsort(-salience[ids], kind="stable")
            keep[ids[order[int(width) :]]] = False
        return keep

    def cut_constant(self, name: str, value: np.ndarray, keep: np.ndarray) -> np.ndarray:
        """``value``, of the shape of constant ``name``, without the slices of removed components.

        Takes arrays that go along with a constant too, such as an optimiser's momentum.
        """
        for slot in sorted(self.slots_of.get(name, ()), key=lambda slot: slot.by_group is None):
            value = slot.cut(value, keep)  # slots by group first: they find their groups by places on the whole axis 0
        return value

    def cut(self, keep: np.ndarray) -> Network:
        """The network without the components that ``keep`` drops: weights, attributes and shapes cut, names kept.

        Equal, on every input, to the whole network with the mixing slices of the removed components set to zero.
        Raises ModelError if that leaves some axis without channels.
        """
        if keep.all():
            return self.network
        context = _Cut(self, keep)
        for tensor, along in self.along.items():
            if not keep[along.labels].any():
                raise ModelError(f"{self.network.path}: the selection leaves tensor '{tensor}' without channels")
        nodes = [OPS[node.op].cut(node, context) for node in self.network.nodes]
        constants = {name: self.cut_constant(name, value, keep) for name, value in self.network.constants.items()}
        stored = {
            name: self._cut_stored(name, quantised, constants[name], keep) for name, quantised in self.network.stored.items()
        }
        return replace(self.network.rebuilt(nodes, constants), stored=stored)

    def _cut_stored(self, name: str, quantised: Stored, value: np.ndarray, keep: np.ndarray) -> Stored:
        """The integers behind a constant, cut as it is. value: the constant after the cut."""
        integers, scale = self.cut_constant(name, quantised.integers, keep), quantised.scale
        if scale.size > 1:
            shape = [1] * quantised.integers.ndim
            shape[quantised.axis] = -1
            wide = self.cut_constant(name, np.broadcast_to(scale.reshape(shape), quantised.integers.shape), keep)
            scale = np.moveaxis(wide, quantised.axis, 0).reshape(wide.shape[quantised.axis], -1)[:, 0]
        return Stored(integers, scale, quantised.axis, value)

    def with_network(self, network: Network) -> Channels:
        """The same labels on the same graph with other weights."""
        return replace(self, network=network)

    def cut_channels(self, keep: np.ndarray) -> Channels:
        """The cut network, labelled as its parent: the same groups under the same names, with the components that stay.

        Component c of this labelling is component ``keep[:c].sum()`` of the new one.
        """
        if keep.all():
            return self
        number = np.cumsum(keep) - 1

        def stay(labels: np.ndarray) -> np.ndarray:
            return np.asarray(number[labels[keep[labels]]])

        return Channels(
            network=self.cut(keep),
            along={tensor: Along(along.axis, stay(along.labels)) for tensor, along in self.along.items()},
            slots=tuple(
                replace(
                    slot,
                    components=stay(slot.components),
                    by_group=None if slot.by_group is None else np.stack([stay(row) for row in slot.by_group]),
                )
                for slot in self.slots
            ),
            groups=tuple(
                replace(group, components=tuple(int(number[c]) for c in group.components if keep[c])) for group in self.groups
            ),
            frozen=self.frozen,
            n_components=int(number[-1]),
        )

    def masked(self, keep: np.ndarray) -> Network:
        """The whole network with the mixing slices of removed components set to zero: what ``cut`` must equal."""
        constants = dict(self.network.constants)
        for slot in self.slots:
            value = constants[slot.constant]
            if slot.mixes:
                constants[slot.constant] = value * keep[slot.spread(value.shape)].astype(value.dtype)
        return self.network.with_constants(constants)


class _Cut:
    """What cut rules ask (``ops.Cut``)."""

    def __init__(self, channels: Channels, keep: np.ndarray) -> None:
        self.net, self._channels, self._keep = channels.network, channels, keep

    def labels(self, tensor: str) -> Along | None:
        return self._channels.along.get(tensor)

    def kept(self, labels: np.ndarray) -> np.ndarray:
        return np.asarray(self._keep[labels])

    def shape(self, tensor: str) -> Shape:
        shape = self.net.shapes[tensor]
        along = self._channels.along.get(tensor)
        if along is None:
            return shape
        return (*shape[: along.axis], int(self._keep[along.labels].sum()), *shape[along.axis + 1 :])


# ------------------------------------------------------------------------------------------------------------ labelling


def label(network: Network) -> Channels:
    """Find the groups of channels that can be removed together. Raises UnsupportedOperator for nodes it can't follow."""
    network = _unshared(network)
    flow = _Flow(network)
    for node in network.nodes:
        entry = OPS[node.op]
        entry.check(node, network)
        entry.label(node, flow)
    for output in network.outputs:
        along = flow.labels(output)
        if along is not None:
            flow.freeze(along.labels, f"it reaches graph output '{output}'")
    return flow.channels()


def _unshared(network: Network) -> Network:
    """Store apart what several nodes read from one constant by accident.

    Exporters and optimisers merge equal biases of unrelated layers. Weights that several mixers share stay shared: that
    is part of the architecture.
    """
    uses: dict[str, list[tuple[int, int]]] = {}
    for position, node in enumerate(network.nodes):
        for index, name in enumerate(node.inputs):
            if network.is_constant(name):
                uses.setdefault(name, []).append((position, index))
    nodes = list(network.nodes)
    constants, shapes, dtypes = dict(network.constants), dict(network.shapes), dict(network.dtypes)
    names = network.names()
    for name, places in uses.items():
        for position, index in places[1:]:
            node = nodes[position]
            if OPS[node.op].role(node, index) == "weight":
                continue
            apart = names.free(f"{name}/{node.name}/{index}")
            constants[apart], shapes[apart], dtypes[apart] = constants[name], shapes[name], dtypes[name]
            nodes[position] = replace(node, inputs=(*node.inputs[:index], apart, *node.inputs[index + 1 :]))
    return replace(network, nodes=tuple(nodes), constants=constants, shapes=shapes, dtypes=dtypes)


#: Where a component lies: (tensor, _COMPUTED, axis, slices) or, for a constant, (node, input index, axis, slices).
_Place = tuple[str, int, int, int]
_COMPUTED = -1


class _Flow:
    """The state of one labelling: disjoint sets of labels (``ops.Flow``)."""

    def __init__(self, net: Network) -> None:
        self.net = net
        self._sets = DisjointSets(1)  # of FIXED alone
        self._why: dict[int, str] = {FIXED: "it belongs to a graph input or a constant"}
        self._along: dict[str, Along] = {}
        self._slots: list[tuple[Node, int, int, np.ndarray, bool]] = []
        self._balanced: list[tuple[Node, np.ndarray]] = []
        self._weights: dict[tuple[str, int], np.ndarray] = {}

    def labels(self, tensor: str) -> Along | None:
        return self._along.get(tensor)

    def put(self, tensor: str, along: Along | None) -> None:
        if along is not None and along.labels.any():
            self._fits(self.net.shapes[tensor], along.axis, along.labels, tensor)
            self._along[tensor] = along

    def fresh(self, count: int) -> np.ndarray:
        if count > MAX_CHANNELS:
            raise ModelError(
                f"{self.net.path}: a tensor has {count} channels; mcuprune handles up to {MAX_CHANNELS}; is it damaged?"
            )
        return self._sets.add(count)

    def tie(self, first: np.ndarray, other: np.ndarray) -> None:
        for a, b in zip(first.ravel().tolist(), other.ravel().tolist(), strict=True):
            low, high = sorted((self._sets.root(a), self._sets.root(b)))
            if low == high:
                continue
            if low == FIXED:
                self._freeze(high, "it meets channels of a graph input or a constant")
                continue
            self._sets.unite(low, high)
            if high in self._why:
                self._why.setdefault(low, self._why.pop(high))

    def freeze(self, labels: np.ndarray, why: str) -> None:
        for label in set(labels.ravel().tolist()):
            self._freeze(self._sets.root(label), why)

    def _freeze(self, root: int, why: str) -> None:
        self._why.setdefault(root, why)

    def slot(self, node: Node, index: int, axis: int, labels: np.ndarray, *, mixes: bool = False) -> None:
        name = node.inputs[index]
        if not name:
            return
        if not self.net.is_constant(name):
            self.freeze(labels, f"{node.op} '{node.name}' computes its input {index}")
            return
        self._fits(self.net.shapes[name], axis, labels, name)
        known = self._weights.setdefault((name, axis), labels)
        if known.shape != labels.shape:
            for tied in (known, labels):
                self.freeze(tied, f"{node.op} '{node.name}' shares '{name}' with a convolution of another form")
        elif known is not labels:
            self.tie(known, labels)  # one stored weight, several users: a cut must suit them all
        self._slots.append((node, index, axis, labels, mixes))

    def _fits(self, shape: Shape, axis: int, labels: np.ndarray, tensor: str) -> None:
        """Shape inference trusts much of what a file says; what it lets through ends here."""
        if axis >= len(shape) or shape[axis] != labels.shape[-1]:
            raise ModelError(
                f"{self.net.path}: tensor '{tensor}' of shape {list(shape)} doesn't fit {labels.shape[-1]} channels; "
                "export it again"
            )

    def balance(self, node: Node, rows: np.ndarray) -> None:
        self._balanced.append((node, rows))

    def _settle_balance(self) -> None:
        """Tie channels of grouped convolutions into components that take equally many from every group.

        Which channels go together is free, so the components are made as small as a short search finds them.
        """
        deviation: dict[int, dict[tuple[int, int], int]] = {}
        for constraint, (_, rows) in enumerate(self._balanced):
            for group, row in enumerate(rows):
                for root in map(self._sets.root, row.tolist()):
                    if root not in self._why:
                        of_root = deviation.setdefault(root, {})
                        of_root[constraint, group] = of_root.get((constraint, group), 0) + len(rows)
                        for every in range(len(rows)):
                            of_root[constraint, every] = of_root.get((constraint, every), 0) - 1
        for roots in _connected(deviation):
            where = sorted({place for root in roots for place, value in deviation[root].items() if value})
            column = {place: index for index, place in enumerate(where)}
            vectors = np.zeros((len(roots), len(where)), dtype=np.int64)
            for row, root in enumerate(roots):
                for place, value in deviation[root].items():
                    if value:
                        vectors[row, column[place]] = value
            blocks, rest = balanced_blocks(vectors)
            for block in blocks:
                self.tie(np.full(len(block) - 1, roots[block[0]]), np.array([roots[row] for row in block[1:]]))
            if rest:
                node = self._balanced[where[0][0]][0]
                self.freeze(
                    np.array([roots[row] for row in rest]),
                    f"{node.op} '{node.name}' has groups, which can't lose equally many channels otherwise",
                )

    def channels(self) -> Channels:
        """Number the components, find their footprints, gather groups."""
        self._settle_balance()
        roots = self._sets.roots(np.arange(len(self._sets)))
        # Sets and counters, since the first np.unique imports numpy.ma, which a profile has no other use for.
        live = sorted({0}.union(*(along.labels.tolist() for along in self._along.values())))
        ids = sorted({*roots[live].tolist()})
        places: dict[int, list[_Place]] = {root: [] for root in ids}
        vectors = [(node.name, index, axis, np.atleast_2d(labels)[0]) for node, index, axis, labels, _ in self._slots]
        vectors += [(tensor, _COMPUTED, along.axis, along.labels) for tensor, along in self._along.items()]
        for where, index, axis, labels in vectors:
            for root, count in sorted(Counter(roots[labels].tolist()).items()):
                if root in places:
                    places[root].append((where, index, axis, count))
        alike: dict[tuple[_Place, ...], list[int]] = {}
        for root in ids:
            if root != FIXED:
                alike.setdefault(tuple(places[root]), []).append(root)

        number = np.zeros(len(self._sets), dtype=np.int64)
        n_components = 0
        for members in alike.values():
            for root in members:
                if root not in self._why:
                    n_components += 1
                    number[root] = n_components
        component = number[roots]
        along = {tensor: Along(a.axis, component[a.labels]) for tensor, a in self._along.items() if component[a.labels].any()}
        slots = tuple(
            Slot(
                node.name,
                index,
                node.inputs[index],
                axis,
                component[np.atleast_2d(labels)[0]],
                mixes,
                component[labels] if labels.ndim == 2 else None,
            )
            for node, index, axis, labels, mixes in self._slots
            if component[labels].any()
        )
        groups, frozen = self._groups(alike, number, along)
        return Channels(self.net, along, slots, groups, frozen, n_components)

    def _groups(
        self, alike: Mapping[tuple[_Place, ...], list[int]], number: np.ndarray, along: Mapping[str, Along]
    ) -> tuple[tuple[Group, ...], tuple[Group, ...]]:
        bearers = {}  # tensor -> the node that bears its channels with weights
        for node in self.net.nodes:
            if isinstance(OPS[node.op], Mixer):
                bearers[node.outputs[0]] = node.name
        position = {node.name: index for index, node in enumerate(self.net.nodes)}
        parts: list[tuple[int, str, tuple[str, ...], list[int], str | None]] = []
        for footprint, members in alike.items():
            tensors = [where for where, index, _, _ in footprint if index == _COMPUTED and where in self.net.producer]
            nodes = tuple(bearers[tensor] for tensor in tensors if tensor in bearers)
            first = min((position[self.net.producer[tensor].name] for tensor in tensors), default=0)
            why = {self._why.get(root) for root in members}
            for reason in sorted(why, key=str):
                part = [root for root in members if self._why.get(root) == reason]
                name = nodes[0] if nodes else self.net.nodes[first].name
                parts.append((first, name, nodes, part, reason))
        parts.sort(key=lambda item: (item[0], item[3][0]))

        ids_of = [tuple(int(number[root]) for root in part) for _, _, _, part, _ in parts]
        owner = {component: index for index, ids in enumerate(ids_of) for component in ids if component}
        anchored = _anchors(along, owner, [len(ids) for ids in ids_of])
        taken: dict[str, int] = {}
        groups, frozen = [], []
        for index, (_, name, nodes, part, reason) in enumerate(parts):
            taken[name] = taken.get(name, 0) + 1
            unique = name if taken[name] == 1 else f"{name}.{taken[name]}"
            if reason is None:
                groups.append(Group(unique, ids_of[index], nodes, int(index in anchored), None))
            else:
                frozen.append(Group(unique, tuple([FIXED] * len(part)), nodes, len(part), reason))
        return tuple(groups), tuple(frozen)


def _connected(deviation: Mapping[int, Mapping[tuple[int, int], int]]) -> list[list[int]]:
    """Roots that must be balanced together, those that are balanced alone left out; in ascending order."""
    touched = {root: {constraint for (constraint, _), value in deviation[root].items() if value} for root in sorted(deviation)}
    unbalanced = [root for root, constraints in touched.items() if constraints]
    sets = DisjointSets(len(unbalanced))
    first: dict[int, int] = {}
    for index, root in enumerate(unbalanced):
        for constraint in touched[root]:
            sets.unite(index, first.setdefault(constraint, index))
    together: dict[int, list[int]] = {}
    for index, root in enumerate(unbalanced):
        together.setdefault(sets.root(index), []).append(root)
    return list(together.values())


#: How many partial blocks the search for a balanced one follows at a time, and how many members it tries at most.
_BEAM, _LONGEST_BLOCK = 12, 96


def balanced_blocks(vectors: np.ndarray) -> tuple[list[list[int]], list[int]]:
    """Part rows of int64 (rows, coordinates) into small sets that each sum to zero; rows that fit in none come second."""
    kinds, kind_of = np.unique(vectors, axis=0, return_inverse=True)
    stock: list[list[int]] = [[] for _ in kinds]
    for row, kind in enumerate(kind_of.ravel().tolist()):
        stock[kind].append(row)
    blocks: list[list[int]] = []
    while any(stock):
        start = min((rows[0], kind) for kind, rows in enumerate(stock) if rows)[1]
        need = _balanced_block(kinds, np.array([len(rows) for rows in stock]), start)
        if need is None:
            rest = sorted(row for rows in stock for row in rows)
            return ([*blocks, rest], []) if not vectors[rest].sum(axis=0).any() else (blocks, rest)
        for _ in range(min(len(stock[kind]) // int(need[kind]) for kind in np.flatnonzero(need))):
            blocks.append(sorted(stock[kind].pop(0) for kind in np.flatnonzero(need) for _ in range(int(need[kind]))))
    return blocks, []


def _balanced_block(kinds: np.ndarray, stock: np.ndarray, start: int) -> np.ndarray | None:
    """How many of each kind make a small set with ``start`` that sums to zero: a beam search; None where it finds none."""
    used = np.zeros((1, len(kinds)), dtype=np.int64)
    used[0, start] = 1
    sums = kinds[start][None]
    for _ in range(_LONGEST_BLOCK):
        done = np.flatnonzero(~sums.any(axis=1))
        if done.size:
            return np.asarray(used[done[0]])
        states, added = np.nonzero(used < stock)
        if not states.size:
            return None
        grown = sums[states] + kinds[added]
        scarce = (used[states, added] + 1) / stock[added]
        order = np.lexsort((scarce, (grown**2).sum(axis=1)))
        chosen: list[int] = []
        seen: set[bytes] = set()
        for candidate in order.tolist():
            key = grown[candidate].tobytes()
            if key not in seen:
                seen.add(key)
                chosen.append(candidate)
                if len(chosen) == _BEAM:
                    break
        used = used[states[chosen]]
        used[np.arange(len(chosen)), added[chosen]] += 1
        sums = grown[chosen]
    return None


def _anchors(along: Mapping[str, Along], owner: Mapping[int, int], sizes: Sequence[int]) -> set[int]:
    """Groups that must keep a channel so that no tensor loses all: for each tensor without fixed channels, its largest."""
    anchored: set[int] = set()
    seen: set[bytes] = set()
    for carried in along.values():
        key = carried.labels.tobytes()
        if key in seen or not carried.labels.all():
            continue
        seen.add(key)
        owners = {owner[component] for component in {*carried.labels.tolist()}}
        if not owners & anchored:
            anchored.add(max(owners, key=lambda index: (sizes[index], -index)))
    return anchored
