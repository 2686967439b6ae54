"""A network as row bands see it: rows that flow from one cut tensor to another.

A *value* is what one operator makes together with what only rewrites it in place: activations that nothing else reads, and
quantisers. A *cut* is a value at which nothing else is alive. A *stretch* is a run of row-local operators from one cut to a
later one; any two of its cuts bound a region that can run in bands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from mcuprune.bands.rowlocal import Locality, NotLocal, locality
from mcuprune.graph.network import Network, Node
from mcuprune.immutable import immutable
from mcuprune.operators.fusion import Buffers, buffers
from mcuprune.operators.table import OPS, Memory, Quantization
from mcuprune.schedule import search as memory


@dataclass
class Value:
    """A tensor with what rewrites it in place.

    maker: the operator that makes it; None for a graph input. output: the maker's output.
    chain: the nodes behind the maker that only rewrite the tensor, in order: activations, then quantisers.
    body: the tensor before the last quantisers. read: the one that other operators read.
    quantizers: the QuantizeLinear and DequantizeLinear between the two, the latter alone where ``body`` is integers.
    twins: further DequantizeLinear of the same integers. readers: the operators that read it. size: elements.
    """

    name: str
    maker: Node | None
    output: str
    size: int
    chain: list[Node] = field(default_factory=list)
    body: str = ""
    read: str = ""
    quantizers: tuple[Node, ...] = ()
    readers: list[Node] = field(default_factory=list)
    twins: list[Node] = field(default_factory=list)


@immutable
class Stretch:
    """A run of row-local operators. cuts: the values at which it may be entered and left, in order, names of ``Value``.

    nodes: the operators between the first and the last of them. local: how each treats rows. axes: the row axis of each value.
    """

    cuts: tuple[str, ...]
    nodes: tuple[Node, ...]
    local: Mapping[str, Locality]
    axes: Mapping[str, int]


@immutable
class Ending:
    """An operator that no region can contain, why, and the SRAM in bytes that it and its surroundings need as they are."""

    node: str
    op: str
    why: str
    sram: int


class RowGraph:
    """The values, cuts and stretches of a network.

    values: by name; of: the value that each tensor belongs to. operators: the nodes that make a value, in order.
    cuts: values at which nothing else is alive, in order. segments: what lies between each cut and the next, in bytes of peak
    over the best order.
    """

    def __init__(self, net: Network) -> None:
        self.net = net
        self.values: dict[str, Value] = {}
        self.of: dict[str, str] = {}
        self.operators: list[Node] = []
        self.stored: set[str] = set()  # tensors made of constants alone
        self._find_values()
        self.cuts, self.between = self._find_cuts()
        self.plan: Buffers = buffers(net)
        self.segments = self._peaks()
        self.memory: dict[str, Memory] = {node.name: self._memory(node) for node in self.operators}
        self.stretches, self._breaks = self._find_stretches()

    # ------------------------------------------------------------------------------------------------------- values

    def _find_values(self) -> None:
        net = self.net
        for name in net.inputs:
            self._new(name, None, name)
        for node in net.nodes:
            data = [name for name in node.inputs if name and not net.is_constant(name) and name not in self.stored]
            if not data:
                self.stored.update(node.outputs)
                continue
            held = self._rewrites(node, data)
            if held is not None:
                held.chain.append(node)
                if self._is_twin(node, held):
                    held.twins.append(node)
                    held.chain.pop()
                elif node.op == "QuantizeLinear":
                    held.quantizers, held.body = (node,), held.read
                    held.read = node.outputs[0]
                elif node.op == "DequantizeLinear":
                    held.quantizers = (*held.quantizers, node)
                    held.read = node.outputs[0]
                else:
                    held.quantizers = ()
                    held.body = held.read = node.outputs[0]
                self.of[node.outputs[0]] = held.name
                continue
            self.operators.append(node)
            for name in dict.fromkeys(data):
                self.values[self.of[name]].readers.append(node)
            for name in self._used(node):
                self._new(name, node, name)
        for value in self.values.values():
            if value.quantizers and value.quantizers[-1].op == "QuantizeLinear":  # read as integers
                value.quantizers, value.body = (), value.read

    def _memory(self, node: Node) -> Memory:
        """How an operator makes its outputs, with what rewrites them: a view that is written to needs memory of its own, unless
        what it is a view of dies."""
        kind = OPS[node.op].memory(node, self.net)
        return "in place" if kind == "view" and self.rewritten(node) else kind

    def rewritten(self, node: Node) -> bool:
        """Whether an activation behind an operator writes in place over its output."""
        chains = (self.values[name].chain for name in self._used(node))
        return any(OPS[other.op].memory(other, self.net) == "in place" for chain in chains for other in chain)

    def _used(self, node: Node) -> list[str]:
        """The outputs of a node that something reads; a mask or indices that nothing reads are no values."""
        return [name for name in node.outputs if name and (name in self.net.consumers or name in self.net.outputs)]

    def _new(self, name: str, maker: Node | None, output: str) -> None:
        self.values[name] = Value(name, maker, output, prod(self.net.shapes[name]), body=name, read=name)
        self.of[name] = name

    def _rewrites(self, node: Node, data: Sequence[str]) -> Value | None:
        """The value that a node only rewrites: nothing else reads what it reads, and it needs no memory of its own."""
        net, source = self.net, data[0]
        held = self.values[self.of[source]]
        if self._is_twin(node, held):
            return held
        outputs = self._used(node)
        if len(set(data)) != 1 or len(outputs) != 1 or source != held.read or source in net.outputs:
            return None
        readers = net.consumers[source]
        if len(readers) > 1 and not (node.op == "DequantizeLinear" and self._alike(readers)):
            return None
        if held.quantizers and len(net.consumers[held.quantizers[-1].inputs[0]]) > 1:  # twins read what this would rewrite
            return None
        if net.shapes[source] != net.shapes[outputs[0]] or OPS[node.op].memory(node, net) == "new":
            return None
        if not self._everywhere(node, source, len(net.shapes[source])):
            return None
        return held

    def _everywhere(self, node: Node, source: str, rank: int) -> bool:
        """Whether a node treats all rows alike along every spatial axis."""
        for axis in range(2, rank) if rank > 2 else range(1, rank):
            if self.net.shapes[source][axis] == 1:
                continue
            try:
                if not locality(node, self.net, {source: axis}).same:
                    return False
            except NotLocal:
                return False
        return True

    def _alike(self, readers: Sequence[Node]) -> bool:
        """Whether all that read integers dequantise them alike."""
        return all(
            reader.op == "DequantizeLinear" and self._constants(reader) == self._constants(readers[0]) for reader in readers
        )

    def _constants(self, node: Node) -> tuple[object, ...]:
        values = [self.net.constants[name] for name in node.inputs[1:] if name in self.net.constants]
        return (*((value.dtype.str, value.tobytes()) for value in values), node.get("axis"))

    def _is_twin(self, node: Node, held: Value) -> bool:
        """Whether a DequantizeLinear makes what another has made of the same integers."""
        last = held.quantizers[-1] if held.quantizers else None
        return (
            last is not None
            and last.op == node.op == "DequantizeLinear"
            and node is not last
            and node.inputs[0] == last.inputs[0]
            and self._constants(node) == self._constants(last)
        )

    # --------------------------------------------------------------------------------------------------------- cuts

    def _find_cuts(self) -> tuple[list[str], list[list[Node]]]:
        """The cuts in order, and the operators between each and the next; before the first there may be some too."""
        outputs = {self.of[name] for name in self.net.outputs}
        left = {name: len(value.readers) for name, value in self.values.items()}
        alive = {name for name in (self.of[n] for n in self.net.inputs) if left[name] or name in outputs}
        cuts, between, here = [], [], list[Node]()
        if len(alive) == 1:
            cuts.append(next(iter(alive)))
            between.append(here)
            here = []
        for node in self.operators:
            here.append(node)
            for name in dict.fromkeys(self.of[n] for n in node.inputs if n in self.of):
                left[name] -= 1
                if not left[name] and name not in outputs:
                    alive.discard(name)
            used = self._used(node)
            alive.update(used)
            if alive == set(used[:1]):
                cuts.append(used[0])
                between.append(here)
                here = []
        between.append(here)
        return cuts, between

    def _peaks(self) -> list[int]:
        """The least peak of what lies before the first cut, between each cut and the next, and behind the last."""
        position = {node.name: index for index, node in enumerate(self.net.nodes)}
        segment_of: dict[int, int] = {}
        for index, nodes in enumerate(self.between):
            for node in nodes:
                segment_of[position[node.name]] = index
                for name in self._used(node):
                    for tail in self.values[name].chain:
                        segment_of[position[tail.name]] = index
        ops: list[list[int]] = [[] for _ in self.between]
        for op, place in enumerate(self.plan.nodes):
            ops[segment_of.get(place, 0)].append(op)
        return [self._peak(group) for group in ops]

    def _peak(self, ops: Sequence[int]) -> int:
        """The least peak of some operators of the graph, where what others read stays alive to the end."""
        graph = self.plan.graph
        mine = set(ops)
        written = {b for op in ops for b in graph.ops[op].outputs}
        used = {b for op in ops for b in graph.ops[op].inputs} - written
        later = {b for i, op in enumerate(graph.ops) if i not in mine for b in op.inputs} | set(graph.outputs)
        names = {b: i for i, b in enumerate(sorted(written | used))}

        def renamed(buffers: Sequence[int]) -> tuple[int, ...]:
            return tuple(names[b] for b in buffers)

        small = memory.Graph(
            tuple(
                memory.Op(renamed(op.inputs), renamed(op.outputs), renamed(op.in_place)) for op in (graph.ops[i] for i in ops)
            ),
            tuple(graph.sizes[b] for b in sorted(names)),
            renamed(sorted(used)),
            renamed(sorted(written & later)),
        )
        return memory.schedule(small, cpu_seconds=0.2).peak if ops else 0

    # ---------------------------------------------------------------------------------------------------- stretches

    def operators_of(self, node: Node) -> int:
        """How many operators run with a node: itself and what only rewrites its outputs, without quantisers."""
        chains = (self.values[name].chain for name in self._used(node))
        return 1 + sum(not isinstance(OPS[node.op], Quantization) for chain in chains for node in chain)

    def _find_stretches(self) -> tuple[list[Stretch], list[tuple[int, Node, str]]]:
        stretches: list[Stretch] = []
        breaks: list[tuple[int, Node, str]] = []
        index = 0
        while index < len(self.cuts):
            tries = [self._walk(index, axis) for axis in self._candidates(self.cuts[index])]
            best = max(tries, key=lambda attempt: len(attempt[0].nodes), default=None)
            if best is None:
                index += 1
                continue
            stretch, broken = best
            if len(stretch.cuts) > 1:
                stretches.append(stretch)
            index += max(1, len(stretch.cuts) - 1)
            if broken is not None and (not breaks or breaks[-1][1] is not broken[0]):
                breaks.append((index + (len(stretch.cuts) < 2) - 1, *broken))
        return stretches, breaks

    def _candidates(self, name: str) -> list[int]:
        """Axes that may be cut in bands: the height, or the longer side of an oblong image first."""
        shape = self.net.shapes[self.values[name].read]
        axes = {4: [2, 3, 1], 3: [2, 1]}.get(len(shape), [])
        axes = [axis for axis in axes if shape[axis] > 1 and (axis > 1 or shape[2] > 1)]
        return sorted(axes, key=lambda axis: 2 * shape[axis] < max(shape[a] for a in axes if a >= 2 or a == axis))

    def _walk(self, index: int, axis: int) -> tuple[Stretch, tuple[Node, str] | None]:
        """How far rows along ``axis`` of a cut can be followed, and what ends them."""
        cuts = [self.cuts[index]]
        axes, tensors = {cuts[0]: axis}, dict.fromkeys(self._tensors(cuts[0]), axis)
        nodes: list[Node] = []
        whole = 0
        local: dict[str, Locality] = {}
        for place in range(index + 1, len(self.between)):
            for node in self.between[place]:
                try:
                    at = locality(node, self.net, tensors)
                    for name in self._used(node):
                        if name not in at.axes:
                            raise NotLocal("hands on more than rows")
                        axes[name] = at.axes[name]
                        tensors |= dict.fromkeys(self._tensors(name), at.axes[name])
                except NotLocal as why:
                    return Stretch(tuple(cuts), tuple(nodes[:whole]), local, axes), (node, str(why))
                local[node.name] = at
                nodes.append(node)
            if place < len(self.cuts):
                cuts.append(self.cuts[place])
                whole = len(nodes)
        return Stretch(tuple(cuts), tuple(nodes[:whole]), local, axes), None

    def _tensors(self, name: str) -> list[str]:
        value = self.values[name]
        return [value.output, *(n.outputs[0] for n in value.chain), *(n.outputs[0] for n in value.twins)]

    def endings(self) -> tuple[Ending, ...]:
        """The operators that end a stretch, once each."""
        endings = []
        for index, node, why in self._breaks:
            place = next((i for i, nodes in enumerate(self.between) if node in nodes), index)
            endings.append(Ending(node.name, node.op, why, self.segments[place]))
        return tuple(endings)
