"""A network in row bands: the same integers with less SRAM, as a rewrite of the graph.

A *region* reaches from one cut of the network, where a single tensor is alive, to a later one, and has row-local operators
alone. Its last tensor is made in bands of rows, one after the other, each by a copy of the region that reads only the rows it
needs; all copies share weights. Three ways to do so:

* ``recompute``: bands are independent, and rows near their borders are computed twice;
* ``cache``: each tensor keeps the last rows that the next band needs, and joins new ones to them: no row is computed twice;
* ``rim``: as recompute, but convolutions keep their own padding and what it spoils at the rims of a band is sliced off. For
  TensorFlow Lite, where padding on three sides would be an operator of its own.

Slices and joins take rows as they are, behind the same quantiser: an int8 network computes the same integers, a float one the
same numbers but for the order in which a runtime may add.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
from onnx import helper

from mcuprune.bands.rowgraph import RowGraph, Stretch, Value
from mcuprune.bands.rowlocal import Interval, Locality, in_band, pad_amounts
from mcuprune.graph.network import Network, Node
from mcuprune.operators.fusion import sole_reader
from mcuprune.operators.table import OPS, Memory, Pad

Mode = Literal["cache", "recompute", "rim"]
MODES: tuple[Mode, ...] = ("cache", "recompute", "rim")
#: Tensors that one Concat may join: TensorFlow Lite Micro's takes no more.
MOST_JOINED = 10


@dataclass(frozen=True)
class Step:
    """One operator of a region in bands. Tensors are numbered from 0, which is the region's first tensor.

    node: the operator that it is a copy of; None for a Slice (one input) or a Concat of rows.
    value: what it makes rows of. inputs, outputs: numbers of tensors.
    out_rows, in_rows: the rows that it makes and reads. band: from 0.
    first: of a Slice, the first row within its input. spoiled: whether the node keeps its padding (``rim``).
    """

    node: Node | None
    value: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    out_rows: Interval
    in_rows: Interval
    band: int
    first: int = 0
    spoiled: bool = False


@dataclass(frozen=True)
class _Piece:
    """Rows of a value in one tensor."""

    tensor: int
    first: int
    end: int


class Region:
    """What lies between two cuts of a stretch.

    graph: the network it belongs to. start, end: names of values. nodes: its operators, in order.
    inputs, outputs: by node, the values that it reads and makes. rows, row_size: by value, how many rows, and bytes of each.
    """

    def __init__(self, graph: RowGraph, stretch: Stretch, first: int, last: int) -> None:
        self.graph, self.stretch = graph, stretch
        self.start, self.end = stretch.cuts[first], stretch.cuts[last]
        places = {node.name: index for index, node in enumerate(stretch.nodes)}
        low = -1 if graph.values[self.start].maker is None else places.get(self._maker(self.start), -1)
        self.nodes = stretch.nodes[low + 1 : places[self._maker(self.end)] + 1]
        self.local = stretch.local
        self.axes = stretch.axes
        inside = {node.name for node in self.nodes}
        self.inputs = {node.name: self._inputs(node) for node in self.nodes}
        self.outputs = {node.name: tuple(name for name in node.outputs if name in graph.values) for node in self.nodes}
        names = [self.start, *(name for tensors in self.outputs.values() for name in tensors)]
        self.rows = {name: self._shape(name)[self.axes[name]] for name in names}
        self.row_size = {name: graph.values[name].size // self.rows[name] for name in names}
        self.readers = {
            name: tuple(node for node in graph.values[name].readers if node.name in inside and name != self.end)
            for name in names
        }

    def _maker(self, name: str) -> str:
        maker = self.graph.values[name].maker
        return maker.name if maker is not None else ""

    def _shape(self, name: str) -> tuple[int, ...]:
        return self.graph.net.shapes[name]

    def _inputs(self, node: Node) -> tuple[str, ...]:
        """The value behind each input of a node that carries rows, in order, repeated where it is read twice."""
        return tuple(self.graph.of[name] for name in node.inputs if name in self.graph.of)

    @cached_property
    def macs(self) -> dict[str, int]:
        """Multiply-accumulates of one output row of each operator."""
        net = self.graph.net
        return {
            node.name: int(OPS[node.op].macs(node, net, lambda tensor, axis: net.shapes[tensor][axis]))
            // self.rows[self.outputs[node.name][0]]
            for node in self.nodes
        }

    @cached_property
    def operators(self) -> dict[str, int]:
        """How many operators each node counts for: itself and what only rewrites its outputs, without quantisers."""
        return {node.name: self.graph.operators_of(node) for node in self.nodes}

    def bands(self, count: int) -> list[Interval]:
        """The rows of the last tensor in up to ``count`` bands, as even as its operator can make them."""
        node = self.nodes[-1]
        total, last = self.rows[self.end], 0
        bands = []
        for index in range(1, count + 1):
            end = min(total, self.local[node.name].makes(last, max(last + 1, total * index // count))[1])
            if end > last:
                bands.append((last, end))
                last = end
        return bands

    def needs(self, first: int, end: int, *, rim: bool = False) -> dict[str, Interval]:
        """The rows of each value that rows (first, end) of the last tensor need; values that they don't need are left out."""
        need = {self.end: (first, end)}
        for node in reversed(self.nodes):
            wanted = [need[name] for name in self.outputs[node.name] if name in need]
            if not wanted:
                continue
            at = self.local[node.name]
            rows = at.makes(min(a for a, _ in wanted), max(b for _, b in wanted))
            for name in self.outputs[node.name]:
                need[name] = rows
            low, high = self.rimmed(at, rows) if rim else at.reads(*rows)
            for name in self.inputs[node.name]:
                a, b = need.get(name, (low, high))
                need[name] = (min(a, low), max(b, high))
        return need

    def rimmed(self, at: Locality, rows: Interval) -> Interval:
        """The input rows of an operator that keeps its padding: whole strides around those that it needs."""
        low, high = at.reads(*rows)
        if at.pads and not at.explicit and at.span > at.stride:
            low, high = low // at.stride * at.stride, min(at.rows[0], -(-high // at.stride) * at.stride)
        return low, high


class Tape:
    """The steps of a region in bands, in the order in which they are to run, and the rows of each tensor that they make.

    Raises ValueError where the region can't be cut in ``count`` bands.
    """

    def __init__(self, region: Region, count: int, mode: Mode) -> None:
        self.region, self.mode = region, mode
        self.bands = region.bands(count)
        if len(self.bands) < 2:
            raise ValueError("no two bands")
        self.steps: list[Step] = []
        self.tensors: list[tuple[str, int]] = [(region.start, region.rows[region.start])]
        self.band = 0
        self.finished: list[_Piece] = []
        self.joined: list[_Piece] = []
        self.have: dict[str, list[_Piece]] = {region.start: [_Piece(0, 0, region.rows[region.start])]}
        if mode == "cache":
            self._cached()
        else:
            self._apart()
        all_rows = (0, region.rows[region.end])
        self.result = self._emit(None, region.end, tuple(piece.tensor for piece in self.finished), all_rows, all_rows)

    # ------------------------------------------------------------------------------------------------------ the modes

    def _apart(self) -> None:
        region = self.region
        for band, (first, end) in enumerate(self.bands):
            self.band = band
            self.have = {region.start: [_Piece(0, 0, region.rows[region.start])]}
            need = region.needs(first, end, rim=self.mode == "rim")
            for node in region.nodes:
                rows = need.get(region.outputs[node.name][0])
                if rows is None:
                    continue
                if self.mode == "rim":
                    self._run_spoiled(node, rows)
                else:
                    self._run(node, rows)
            self._finish(first, end)

    def _cached(self) -> None:
        region = self.region
        needs = [region.needs(*band) for band in self.bands]
        ends: list[dict[str, int]] = []
        for need in needs:
            before = ends[-1] if ends else {}
            ends.append({name: max(before.get(name, 0), need.get(name, (0, 0))[1]) for name in region.rows})
        starts = {name: min(need[name][0] for need in needs if name in need) for name in needs[-1]}
        self._order = {name: tuple(dict.fromkeys(region.inputs[name])) for name in region.inputs}
        for band, reached in enumerate(ends):
            self.band = band
            self.have[region.start] = [_Piece(0, 0, region.rows[region.start])]
            before = ends[band - 1] if band else starts
            moving = [n for n in region.nodes if reached[region.outputs[n.name][0]] > before.get(region.outputs[n.name][0], 0)]
            waiting: dict[str, int] = {}
            for node in moving:
                for name in self._order[node.name]:
                    waiting[name] = waiting.get(name, 0) + 1
            for node in moving:
                name = region.outputs[node.name][0]
                self._run(node, (before.get(name, 0), reached[name]))
                for source in self._order[node.name]:
                    waiting[source] -= 1
                    if not waiting[source]:
                        self._trim(source, reached, ends[-1])
            self._finish(*self.bands[band])
            self.have[region.end] = []

    def _finish(self, first: int, end: int) -> None:
        """Put a band of the last tensor aside. Early bands are joined where in the end there would be too many to join."""
        name = self.region.end
        self.finished.append(_Piece(self._get(name, first, end), first, end))
        left = len(self.bands) - 1 - self.band
        excess = len(self.finished) + left - MOST_JOINED
        whole = sum(piece in self.joined for piece in self.finished)
        loose = self.finished[whole:]
        if excess > 0 and len(loose) == min(MOST_JOINED, excess + 1):
            joined = self._join(name, [piece.tensor for piece in loose], (loose[0].first, end))
            self.finished[whole:] = [_Piece(joined, loose[0].first, end)]
            self.joined.append(self.finished[-1])

    def _join(self, name: str, tensors: Sequence[int], rows: Interval) -> int:
        return self._emit(None, name, tuple(tensors), rows, rows)

    def _trim(self, name: str, reached: Mapping[str, int], last: Mapping[str, int]) -> None:
        """Keep only those rows of a value that later bands read."""
        region = self.region
        if name == region.start:
            return
        low, end = reached[name], reached[name]
        for node in region.readers[name]:
            start, final = (rows_of[region.outputs[node.name][0]] for rows_of in (reached, last))
            if start < final:
                low = min(low, region.local[node.name].reads(start, final)[0])
        if low >= end:
            self.have[name] = []
            return
        kept, position = [], low
        while position < end:
            piece = self._best(name, position, end)
            kept.append(_Piece(self._slice(name, piece, position, piece.end), position, piece.end))
            position = piece.end
        self.have[name] = kept

    # ------------------------------------------------------------------------------------------------ rows of a value

    def _best(self, name: str, first: int, end: int) -> _Piece:
        """The piece from which to take rows from ``first`` on: one that has all up to ``end``, the smallest such, else the
        one that reaches furthest."""
        around = [piece for piece in self.have[name] if piece.first <= first < piece.end]
        return min(around, key=lambda p: (-min(p.end, end), p.end - p.first))

    def _get(self, name: str, first: int, end: int) -> int:
        """A tensor of exactly these rows."""
        for piece in self.have[name]:
            if (piece.first, piece.end) == (first, end):
                return piece.tensor
        parts, position = list[int](), first
        while position < end:
            piece = self._best(name, position, end)
            stop = min(end, piece.end)
            if len(parts) == MOST_JOINED:
                parts = [self._join(name, parts, (first, position))]
            parts.append(self._slice(name, piece, position, stop))
            position = stop
        joined = parts[0] if len(parts) == 1 else self._join(name, parts, (first, end))
        self.have[name].append(_Piece(joined, first, end))
        return joined

    def _slice(self, name: str, piece: _Piece, first: int, end: int) -> int:
        if (first, end) == (piece.first, piece.end):
            return piece.tensor
        return self._emit(None, name, (piece.tensor,), (first, end), (first, end), first=first - piece.first)

    def _emit(
        self, node: Node | None, name: str, inputs: tuple[int, ...], rows: Interval, read: Interval, *, first: int = 0
    ) -> int:
        self.tensors.append((name, rows[1] - rows[0]))
        tensor = len(self.tensors) - 1
        self.steps.append(Step(node, name, inputs, (tensor,), rows, read, self.band, first))
        return tensor

    def _run(self, node: Node, rows: Interval, read: Interval | None = None, *, spoiled: bool = False) -> None:
        """Run a node for the output rows ``made``."""
        region = self.region
        needed = region.local[node.name].reads(*rows) if read is None else read
        inputs = tuple(self._get(name, *needed) for name in region.inputs[node.name])
        outputs = []
        for name in region.outputs[node.name]:
            self.tensors.append((name, rows[1] - rows[0]))
            outputs.append(len(self.tensors) - 1)
            self.have.setdefault(name, []).append(_Piece(outputs[-1], *rows))
        step = Step(node, region.outputs[node.name][0], inputs, tuple(outputs), rows, needed, self.band, spoiled=spoiled)
        self.steps.append(step)

    def _run_spoiled(self, node: Node, rows: Interval) -> None:
        """Run a node so that it keeps its padding, and what makes rows of rows on all that is there."""
        region, at = self.region, self.region.local[node.name]
        if at.same and len(region.inputs[node.name]) == 1:
            piece = max(self.have[region.inputs[node.name][0]], key=lambda p: p.end - p.first)
            if region.inputs[node.name][0] != region.start and piece.first <= rows[0] and rows[1] <= piece.end:
                rows = (piece.first, piece.end)
        elif at.pads and not at.explicit and at.span > at.stride:
            low, high = region.rimmed(at, rows)
            count = (high - low + at.before + at.after - at.span) // at.stride + 1
            whole = (low // at.stride, low // at.stride + count)
            if low % at.stride == 0 and whole[0] <= rows[0] and rows[1] <= whole[1] <= at.rows[1]:
                self._run(node, whole, (low, high), spoiled=True)
                return
        self._run(node, rows)


# --------------------------------------------------------------------------------------------------------------- costs


@dataclass(frozen=True)
class Price:
    """What a region costs in bands. peak: bytes in the order of the tape. macs, operators: more than in one piece."""

    peak: int
    macs: int
    operators: int


def price(tape: Tape) -> Price:
    """What the steps of a tape need, by the rules of ``memory``: views are free, and what rewrites its input may do so."""
    region = tape.region
    kinds = region.graph.memory
    root = list(range(len(tape.tensors)))
    size = [region.row_size[name] * rows for name, rows in tape.tensors]
    last = [0] * len(root)
    for index, step in enumerate(tape.steps):
        if step.node is not None and (kinds[step.node.name] == "view" or _moves_nothing(step)):
            root[step.outputs[0]] = root[step.inputs[0]]
        for tensor in step.inputs:
            last[root[tensor]] = index
    last[root[tape.result]] = len(tape.steps)
    live = peak = size[0]
    macs = -sum(region.macs[node.name] * region.rows[region.outputs[node.name][0]] for node in region.nodes)
    for index, step in enumerate(tape.steps):
        if step.node is not None:
            macs += region.macs[step.node.name] * (step.out_rows[1] - step.out_rows[0])
        if root[step.outputs[0]] != step.outputs[0]:
            continue
        kind: Memory = "new" if step.node is None else kinds[step.node.name]
        inputs = {root[tensor] for tensor in step.inputs}
        dying = [tensor for tensor in inputs if last[tensor] == index]
        new = sum(size[tensor] for tensor in step.outputs)
        free = kind == "in place" and len(step.outputs) == 1 and any(size[tensor] == new for tensor in dying)
        peak = max(peak, live + (0 if free else new))
        live += sum(size[tensor] for tensor in step.outputs if last[tensor] > index) - sum(size[tensor] for tensor in dying)
    operators = sum(1 if step.node is None else region.operators[step.node.name] for step in tape.steps)
    return Price(peak, macs, operators - sum(region.operators.values()))


def _moves_nothing(step: Step) -> bool:
    """Whether a copy of a Slice of rows takes all that it gets."""
    if step.node is None or step.node.op != "Slice":
        return False
    return step.out_rows[1] - step.out_rows[0] == step.in_rows[1] - step.in_rows[0]


# ------------------------------------------------------------------------------------------------------------- writing


@dataclass(frozen=True)
class Choice:
    """A region of a plan, with how it is to run."""

    region: Region
    bands: int
    mode: Mode

    @cached_property
    def tape(self) -> Tape:
        """Its steps in the order in which they run."""
        return Tape(self.region, self.bands, self.mode)

    @cached_property
    def price(self) -> Price:
        """What the region costs so."""
        return price(self.tape)


def banded(net: Network, choices: Sequence[Choice]) -> Network:
    """The network with regions in bands. ``net`` is the network that the regions are of.

    Original nodes are copied under their names with a suffix, /band0 and so on; weights are shared. Outside the regions nothing
    changes, names of tensors included.
    """
    writers = {choice.region.nodes[-1].name: _Writer(net, choice) for choice in choices}
    dropped = {name for writer in writers.values() for name in writer.replaced}
    names = net.names()
    constants = dict(net.constants)
    nodes: list[Node] = []
    for node in net.nodes:
        if node.name in writers:
            writer = writers[node.name]
            writer.names, writer.constants = names, constants
            nodes += writer.run()
        elif node.name not in dropped:
            nodes.append(node)
    return net.rebuilt(nodes, constants)


@dataclass
class _Writer:
    """Turns the tape of one region into nodes."""

    net: Network
    choice: Choice
    nodes: list[Node] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.names = self.net.names()
        self.constants: dict[str, np.ndarray] = {}
        region = self.choice.region
        self.values = region.graph.values
        self.replaced = {node.name for node in region.nodes}
        for tensors in region.outputs.values():
            for name in tensors:
                value = self.values[name]
                kept = value.quantizers if name == region.end else ()
                self.replaced |= {node.name for node in (*value.chain, *value.twins)} - {node.name for node in kept}
                if name == region.end:
                    self.replaced -= {node.name for node in value.twins}

    def run(self) -> list[Node]:
        region, tape = self.choice.region, self.choice.tape
        self.tensor: dict[int, str] = {0: self.values[region.start].read}
        for step in tape.steps[:-1]:
            suffix = f"/band{step.band}"
            if step.node is not None:
                self._copy(step, suffix)
            else:
                self._move(step, suffix)
        self._join(tape.steps[-1])
        return self.nodes

    def _copy(self, step: Step, suffix: str) -> None:
        node, region = step.node, self.choice.region
        assert node is not None
        at = region.local[node.name]
        fitted = in_band(node, self.net, at, step.out_rows, step.in_rows)
        if step.spoiled:
            pads, i = list(at.pads), region.axes[step.value] - 2
            pads[i], pads[len(pads) // 2 + i] = at.before, at.after
            fitted = replace(fitted, attrs={**fitted.attrs, "pads": tuple(pads)})
        sources = iter(step.inputs)
        inputs = tuple(self.tensor[next(sources)] if name in region.graph.of else name for name in node.inputs)
        outputs = iter(step.outputs)
        copies = []
        tails = []
        for name in node.outputs:
            if name not in self.values:  # nothing reads it
                copies.append("")
                continue
            copies.append(self.names.free(name + suffix))
            tails.append((next(outputs), self.values[name], copies[-1]))
        while not copies[-1]:
            copies.pop()
        self.nodes.append(replace(fitted, name=self.names.free(node.name + suffix), inputs=inputs, outputs=tuple(copies)))
        for tensor, value, name in tails:
            self.tensor[tensor] = self._rewritten(value.chain, value, name, suffix)

    def _rewritten(self, chain: Iterable[Node], value: Value, tensor: str, suffix: str) -> str:
        """Copies of the nodes behind an operator, from ``tensor`` on; returns what the last makes."""
        for node in chain:
            output = self.names.free(node.outputs[0] + suffix)
            inputs = tuple(tensor if name in self.choice.region.graph.of else name for name in node.inputs)
            self.nodes.append(replace(node, name=self.names.free(node.name + suffix), inputs=inputs, outputs=(output,)))
            tensor = output
        return tensor

    def _move(self, step: Step, suffix: str) -> None:
        """A Slice or a Concat of rows, behind the quantiser of the value."""
        region = self.choice.region
        value = self.values[step.value]
        axis = region.axes[step.value]
        inputs = tuple(self.tensor[tensor] for tensor in step.inputs)
        what = "rows" if len(inputs) == 1 else "joined"
        moved = self.names.free(f"{value.read}{suffix}/{what}")
        name = self.names.free(f"{value.read}{suffix}/{'Slice' if len(inputs) == 1 else 'Concat'}")
        if len(inputs) == 1:
            end = step.first + step.out_rows[1] - step.out_rows[0]
            attrs = {"starts": (step.first,), "ends": (end,), "axes": (axis,)}
            self.nodes.append(Node(name, "Slice", inputs, (moved,), attrs))
        else:
            self.nodes.append(Node(name, "Concat", inputs, (moved,), {"axis": axis}))
        self.tensor[step.outputs[0]] = self._requantized(value, moved, f"{suffix}/{what}")

    def _requantized(self, value: Value, tensor: str, suffix: str) -> str:
        """``tensor``, rows of what ``value`` is read as, behind that value's quantiser again."""
        for node in self._quantizers(value):
            output = self.names.free(node.outputs[0] + suffix)
            name = self.names.free(node.name + suffix)
            self.nodes.append(replace(node, name=name, inputs=(tensor, *node.inputs[1:]), outputs=(output,)))
            tensor = output
        return tensor

    def _quantizers(self, value: Value) -> tuple[Node, ...]:
        """The quantiser of a value as a pair of nodes, nothing for a tensor that is read as it is made."""
        if len(value.quantizers) != 1:
            return value.quantizers
        (last,) = value.quantizers  # integers come in, or an operator makes them
        parameters = list(last.inputs[1:])
        if len(parameters) == 1:  # without a zero point QuantizeLinear makes unsigned integers
            parameters.append(self.names.free(f"{last.name}/zero_point"))
            dtype = helper.tensor_dtype_to_np_dtype(self.net.dtypes[last.inputs[0]])
            self.constants[parameters[1]] = np.zeros(self.net.shapes[parameters[0]], dtype)
        name = f"{last.name}/QuantizeLinear"
        attrs = {"axis": last.attrs["axis"]} if "axis" in last.attrs else {}
        return Node(name, "QuantizeLinear", (last.inputs[0], *parameters), (last.inputs[0],), attrs), last

    def _join(self, step: Step) -> None:
        """All rows of the region's last tensor, under its own name and in front of its own quantiser."""
        region = self.choice.region
        value = self.values[region.end]
        inputs = tuple(self.tensor[tensor] for tensor in step.inputs)
        name = self.names.free(f"{value.read}/bands")
        attrs = {"axis": region.axes[region.end]}
        if len(value.quantizers) != 1:
            self.nodes.append(Node(name, "Concat", inputs, (value.body,), attrs))
            return
        joined = self.names.free(f"{value.body}/bands")
        first = self._quantizers(value)[0]
        quantizer = replace(first, name=self.names.free(first.name), inputs=(joined, *first.inputs[1:]), outputs=(value.body,))
        self.nodes += [Node(name, "Concat", inputs, (joined,), attrs), quantizer]


# --------------------------------------------------------------------------------------------------------- preparation


def without_pads(net: Network) -> Network:
    """The network with zero Pads as the padding of the convolutions behind them, through quantisers: the same numbers.

    Zero is always represented exactly, so that a quantiser between the two changes nothing.
    """
    while True:
        match = next((pair for node in net.nodes if (pair := _padded_conv(node, net)) is not None), None)
        if match is None:
            return net
        pad, conv, pads = match
        data = pad.inputs[0]
        tensor = pad.outputs[0]
        dropped = {pad.name}
        while (reader := net.sole_consumer(tensor)) is not None and reader.name != conv.name:
            dropped.add(reader.name)  # its quantiser: what was padded is what it made
            tensor = reader.outputs[0]
        quantised = len(dropped) > 1
        nodes = []
        for node in net.nodes:
            if node.name == pad.name:
                continue
            if node.name in dropped and quantised:
                nodes.append(replace(node, inputs=(data, *node.inputs[1:])) if pad.outputs[0] in node.inputs else node)
            elif node.name == conv.name:
                source = tensor if quantised else data
                attrs = {key: value for key, value in node.attrs.items() if key != "auto_pad"}
                nodes.append(replace(node, inputs=(source, *node.inputs[1:]), attrs={**attrs, "pads": pads}))
            else:
                nodes.append(node)
        net = net.rebuilt(nodes, net.constants)


def _padded_conv(node: Node, net: Network) -> tuple[Node, Node, tuple[int, ...]] | None:
    """A zero Pad, the convolution that alone reads it, and the padding of both together."""
    entry = OPS[node.op]
    if not isinstance(entry, Pad) or not entry.is_zero(node, net):
        return None
    reader = sole_reader(node.outputs[0], net)
    if reader is None or reader[0].op != "Conv" or reader[1] != reader[0].inputs[0]:
        return None
    conv = reader[0]
    if conv.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    amounts = pad_amounts(node, net)
    rank = len(amounts) // 2
    if any(amounts[:2]) or any(amounts[rank : rank + 2]) or min(amounts) < 0:
        return None
    own = conv.attrs.get("pads") or (0,) * (2 * (rank - 2))
    if conv.attrs.get("auto_pad") == "VALID":
        own = (0,) * (2 * (rank - 2))
    outer = [*amounts[2:rank], *amounts[rank + 2 :]]
    return node, conv, tuple(int(a) + int(b) for a, b in zip(own, outer, strict=True))
