"""A region of a network in row bands: which operator runs on which rows, in what order, and what that costs.

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

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Literal

from mcuprune.bands.rowgraph import RowGraph, Stretch
from mcuprune.bands.rowlocal import Interval, Locality
from mcuprune.graph.network import Node
from mcuprune.immutable import immutable
from mcuprune.operators.table import OPS, Memory

Mode = Literal["cache", "recompute", "rim"]
MODES: tuple[Mode, ...] = ("cache", "recompute", "rim")
#: Tensors that one Concat may join: TensorFlow Lite Micro's takes no more.
MOST_JOINED = 10


@immutable
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


@immutable
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
        """Run a node for these rows of its outputs. read: of its inputs; by default those that it needs."""
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


@immutable
class Price:
    """What a region costs in bands. peak: bytes in the order of the tape. macs, operators: more than in one piece."""

    peak: int
    macs: int
    operators: int


def price(tape: Tape) -> Price:
    """What the steps of a tape need, by the operator table's rules: views are free, and what may work in place does."""
    region = tape.region
    kinds, written = region.graph.memory, region.graph.rewritten
    root = list(range(len(tape.tensors)))
    size = [region.row_size[name] * rows for name, rows in tape.tensors]
    last = [0] * len(root)
    for index, step in enumerate(tape.steps):
        if step.node is not None and (kinds[step.node.name] == "view" or (_moves_nothing(step) and not written(step.node))):
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
        kind: Memory = "new" if step.node is None else "in place" if _moves_nothing(step) else kinds[step.node.name]
        inputs = {root[tensor] for tensor in step.inputs}
        dying = [tensor for tensor in inputs if last[tensor] == index]
        new = sum(size[tensor] for tensor in step.outputs)
        free = kind == "in place" and len(step.outputs) == 1 and any(size[tensor] == new for tensor in dying)
        peak = max(peak, live + (0 if free else new))
        live += sum(size[tensor] for tensor in step.outputs if last[tensor] > index) - sum(size[tensor] for tensor in dying)
    operators = sum(1 if step.node is None else region.operators[step.node.name] for step in tape.steps)
    return Price(peak, macs, operators - sum(region.operators.values()))


def least_peak(region: Region, count: int, mode: Mode) -> int:
    """Bytes that a region in ``count`` bands needs at least, without its tape: its first tensor where later bands read it, the
    bands that are done, and rows that one operator of a band reads and makes.

    The first band makes all rows that it needs. A later one does too where it keeps none of another's.
    """
    bands = region.bands(count)
    band = 0 if mode == "cache" else len(bands) - 2
    if band < 0:
        return 0
    need, later = (region.needs(*rows, rim=mode == "rim") for rows in (bands[band], bands[-1]))
    if region.start not in later or region.start not in need:
        return 0
    read_again = mode != "cache" or later[region.start][1] > need[region.start][1]
    done = bands[band][0] * region.row_size[region.end]
    # None of these is a view of the first tensor. Where others need more rows, an operator gets those that it needs itself.
    parts = {name for name, (first, end) in need.items() if end - first < region.rows[name]}
    most = 0
    for node in region.nodes:
        makes = {name: need[name] for name in region.outputs[node.name] if name in need}
        if not makes or region.graph.memory[node.name] != "new" or node.op == "Slice":  # which may make nothing of its own
            continue
        first, end = region.local[node.name].reads(
            min(low for low, _ in makes.values()), max(high for _, high in makes.values())
        )
        read = (end - first) * sum(region.row_size[name] for name in dict.fromkeys(region.inputs[node.name]) if name in parts)
        most = max(most, read + sum((high - low) * region.row_size[name] for name, (low, high) in makes.items()))
    return read_again * region.row_size[region.start] * region.rows[region.start] + done + most


def _moves_nothing(step: Step) -> bool:
    """Whether a copy of a Slice of rows takes all that it gets."""
    if step.node is None or step.node.op != "Slice":
        return False
    return step.out_rows[1] - step.out_rows[0] == step.in_rows[1] - step.in_rows[0]


@immutable
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
