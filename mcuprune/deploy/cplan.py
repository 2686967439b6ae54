"""When the steps of generated C run and where each tensor lies: whole tensors, or rings of rows.

The order of steps is the one of least peak memory. Where bands are wanted, regions of it go row by row (``regions``), as far as
that makes the arena smaller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from mcuprune.deploy.layout import TRIES, Body, laid_out, most_alive
from mcuprune.deploy.program import Program
from mcuprune.deploy.regions import Region, Rows
from mcuprune.deploy.rings import RowOp
from mcuprune.deploy.rowcalls import RowForm, row_form, rows_of
from mcuprune.deploy.steps.calls import Step
from mcuprune.deploy.steps.rules import select, thrifty
from mcuprune.deploy.steps.selection import Selection
from mcuprune.immutable import immutable
from mcuprune.schedule import search as memory

#: Whether parts of a network run row by row: where that needs least, nowhere, or in this many bands.
Bands = Literal["auto", "off"] | int

#: Bytes that the arena of generated C may take above the peak of the network.
MAX_ABOVE_PEAK = 16


@immutable
class Plan:
    """How a program runs.

    steps: of the selection, in order. regions: those of them that go row by row, by place in ``steps``. arena: bytes; whole:
    of the arena were there no regions. peak: the least that any order of whole steps needs, proven where ``exact``.
    offsets: root tensor -> bytes from the arena's start. ring: root tensor -> how many of its rows are in memory.
    forms: how a step of a region makes a row.
    """

    steps: tuple[int, ...]
    regions: tuple[Region, ...]
    arena: int
    whole: int
    peak: int
    exact: bool
    offsets: Mapping[int, int]
    ring: Mapping[int, int]
    forms: Mapping[int, RowForm]


def spare(selection: Selection, plan: Plan, place: int, size: int, alignment: int) -> int:
    """Where ``size`` bytes begin that nothing is kept in while a step runs: the lowest such offset, in the arena or beyond it.

    place: of the step in ``plan.steps``; it is in no region.
    """
    first = {selection.root(port.tensor): -1 for port in selection.program.inputs}
    last = dict.fromkeys(first, -1)
    for time, index in enumerate(plan.steps):
        step = selection.steps[index]
        for tensor in map(selection.root, (*step.reads, *step.writes)):
            first.setdefault(tensor, time)
            last[tensor] = time
    last.update((selection.root(port.tensor), len(plan.steps)) for port in selection.program.outputs)
    kept = [tensor for tensor in first if first[tensor] <= place <= last[tensor]]
    at = 0
    for start, end in sorted((plan.offsets[tensor], plan.offsets[tensor] + selection.size(tensor)) for tensor in kept):
        if start - at >= size:
            break
        at = max(at, end + -end % alignment)
    return at


#: How often a region is turned in search of a smaller arena, and placements that are tried each time.
_TURNS, _TRIES = 24, 60


def planned(program: Program, bands: Bands) -> tuple[Selection, Plan]:
    """The steps of a program and the plan with the smallest arena.

    Forms of steps that save memory at the cost of time are taken where the arena would be larger without, and no more of them
    than that takes.
    Raises UnsupportedOperator, naming the node, for an operator that has no kernel.
    """
    usual = select(program)
    planner = Planner(usual)
    best = usual, planner.best(bands)
    if not usual.could_save:
        return best
    selection = thrifty(usual)
    least = selection, Planner(selection).best(bands)
    saved = frozenset[int]()
    while best[1].arena > least[1].arena:
        more = saved | (best[0].could_save & planner.at_the_peak())
        if more == saved:
            return least
        saved, selection = more, select(program, more)
        planner = Planner(selection)
        best = selection, planner.best(bands)
    return best


def above_peak(program: Program, arena: int, peak: int) -> str:
    """What to say of an arena of generated C without row bands that is above the peak of its network; empty where it isn't."""
    if arena <= peak + MAX_ABOVE_PEAK:
        return ""
    said = f"the arena of generated C, {arena:,} bytes, is above the peak of the network, {peak:,} bytes"
    return f"{said}: {most_needed(*planned(program, 'off'))}; give these a look"


def most_needed(selection: Selection, plan: Plan) -> str:
    """What makes the arena of a plan as large as it is, for people: the steps at which most is alive, and gaps."""
    steps = [selection.steps[step.op] for step in Planner(selection).schedule.peak_steps]
    at = ", ".join(dict.fromkeys(f"node '{step.node}' ({step.operator})" for step in steps))
    gaps = f", and {plan.arena - plan.peak:,} bytes are gaps between tensors" if plan.arena > plan.peak else ""
    return f"most is alive at {at}{gaps}"


class Planner:
    """Plans of one program. Its tensors that have bytes of their own are numbered buffers here."""

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._number: dict[int, int] = {}
        ins = [self._buffer(port.tensor) for port in selection.program.inputs]
        ops = [self._op(step) for step in selection.steps]
        outs = tuple(dict.fromkeys(self._buffer(port.tensor) for port in selection.program.outputs))
        self._tensors = list(self._number)
        sizes = tuple(selection.size(tensor) for tensor in self._tensors)
        self.graph = memory.Graph(tuple(ops), sizes, tuple(dict.fromkeys(ins)), outs)
        self.schedule = memory.known(self.graph)
        self._forms: dict[int, RowForm] = {}
        self.rows = {buffer: rows_of(selection, tensor) for buffer, tensor in enumerate(self._tensors)}

    def _buffer(self, tensor: int) -> int:
        return self._number.setdefault(self._selection.root(tensor), len(self._number))

    def _op(self, step: Step) -> memory.Op:
        reads = tuple(dict.fromkeys(self._buffer(tensor) for tensor in step.reads))
        writes = tuple(self._buffer(tensor) for tensor in step.writes)
        return memory.Op(reads, writes, tuple(self._buffer(tensor) for tensor in step.in_place))

    def at_the_peak(self) -> set[int]:
        """The tensors that have a place of their own while most is alive."""
        return {self._tensors[buffer] for step in self.schedule.peak_steps for buffer in step.buffers}

    def best(self, bands: Bands) -> Plan:
        """The plan with the smallest arena. Where no region makes it smaller than without, there is none."""
        whole = self.plan(())
        if bands == "off":
            return whole
        rows = self.rows_in(bands)
        regions = rows.plan()
        if not regions:
            return whole
        banded = self.plan(self._turned(rows, regions))
        return replace(banded, whole=whole.arena) if banded.arena < whole.arena else whole

    def _turned(self, rows: Rows, regions: Sequence[Region]) -> tuple[Region, ...]:
        """These regions in the directions that make the arena smallest.

        A region's last tensor may take rows of its first one that are done with; it then lies below it, or above it where the
        last rows are made first. In one direction alone a chain of regions would wander out of the arena.
        """
        needed, count = rows.needed(regions), len(regions)
        arenas: dict[tuple[bool, ...], int] = {}
        alternating = [tuple((place + start) % 2 == 1 for place in range(count)) for start in (0, 1)]
        ways = [(False,) * count, *alternating, (True,) * count]
        while ways:
            for way in ways:
                if way not in arenas and len(arenas) < _TURNS and min(arenas.values(), default=needed + 1) > needed:
                    arenas[way] = self.plan(rows.turned(regions, way), tries=_TRIES).arena
            best = min(arenas, key=lambda way: arenas[way])
            turned = [tuple(up != (place == changed) for place, up in enumerate(best)) for changed in range(count)]
            ways = turned if any(best == way for way in ways) else []
        return rows.turned(regions, best)

    def rows_in(self, bands: Literal["auto"] | int) -> Rows:
        """The schedule with the row forms of its steps."""
        if not self._forms:
            forms = {index: row_form(self._selection, step) for index, step in enumerate(self._selection.steps)}
            self._forms = {index: form for index, form in forms.items() if form is not None}
        ops = [self._numbered(self._forms.get(index)) for index in range(len(self._selection.steps))]
        return Rows(self.graph, self.schedule, ops, self.rows, bands=None if bands == "auto" else bands)

    def _numbered(self, form: RowForm | None) -> RowOp | None:
        """A row form over buffers in place of tensors."""
        if form is None:
            return None
        reads, over = (tuple(self._number[tensor] for tensor in part) for part in (form.op.reads, form.op.in_place))
        return RowOp(reads, form.op.needs, self._number[form.op.write], over)

    def plan(self, regions: Sequence[Region], *, tries: int = TRIES) -> Plan:
        """The plan in which these regions go row by row. tries: placements that are looked at for a small arena."""
        lives = _Lives(self.graph, self.schedule.order, regions, self.rows)
        arena, offsets = laid_out(lives.bodies, most_alive(list(lives.bodies.values())), tries=tries)
        places = {tensor: offsets[lives.place(buffer)] for buffer, tensor in enumerate(self._tensors)}
        ring = {tensor: lives.rings.get(buffer, self.rows[buffer]) for buffer, tensor in enumerate(self._tensors)}
        schedule = self.schedule
        return Plan(schedule.order, tuple(regions), arena, arena, schedule.peak, schedule.exact, places, ring, self._forms)


class _Lives:
    """What is in memory when, where some regions go row by row.

    bodies: by buffer, of those that have a place of their own. rings: rows that are kept of a buffer.
    """

    def __init__(self, graph: memory.Graph, order: Sequence[int], regions: Sequence[Region], rows: Mapping[int, int]) -> None:
        self._graph, self._order, self._rows = graph, order, rows
        self._region_at = {place: region for region in regions for place in range(region.first, region.end)}
        self._starts, self._end = self._clock()
        self.bodies: dict[int, Body] = {}
        self.rings: dict[int, int] = {}
        self._partner: dict[int, int] = {}
        self._last = dict.fromkeys(graph.inputs, -1)
        for place, index in enumerate(order):
            op = graph.ops[index]
            self._last.update(dict.fromkeys((*op.inputs, *op.outputs), place))
        self._last.update(dict.fromkeys(graph.outputs, len(order)))
        for buffer in graph.inputs:
            self._add(buffer, [0] * rows[buffer])
        for place, index in enumerate(order):
            region = self._region_at.get(place)
            if region is None:
                self._step(place, graph.ops[index])
            elif region.first == place:
                self._region(region)

    def _clock(self) -> tuple[list[int], int]:
        """When each step begins, and the time of the end: a region takes a tick for each row, anything else one."""
        starts, now = [], 1
        for place in range(len(self._order)):
            region = self._region_at.get(place)
            if region is None or region.first == place:
                start = now
                now += 1 if region is None else len(region.tape.sequence)
            starts.append(start)
        return starts, now

    def place(self, buffer: int) -> int:
        """The buffer in whose place this one lies."""
        while buffer in self._partner:
            buffer = self._partner[buffer]
        return buffer

    def _add(self, buffer: int, born: Sequence[int]) -> None:
        """A buffer whose rows are in memory from these times on, to its end."""
        row = self._graph.sizes[buffer] // self._rows[buffer]
        spans = list(zip(born, self._dead(buffer, born), strict=True))
        self.bodies[buffer] = Body.of_rows(row, spans)

    def _dead(self, buffer: int, born: Sequence[int]) -> list[int]:
        """The last time at which each row is needed."""
        last = self._last[buffer]
        if last < 0:
            return list(born)
        if last >= len(self._order):
            return [self._end] * len(born)
        region, start = self._region_at.get(last), self._starts[last]
        if region is None:
            return [max(start, time) for time in born]
        inside = _from_the_top(region, region.tape.dead[buffer])
        return [max(start + time, first) for time, first in zip(inside, born, strict=True)]

    def _step(self, place: int, op: memory.Op) -> None:
        time = self._starts[place]
        for written in op.outputs:
            sizes = self._graph.sizes
            over = [buffer for buffer in op.in_place if sizes[buffer] == sizes[written] and self._last[buffer] == place]
            if over and len(op.outputs) == 1:
                self._add(written, [time + 1] * self._rows[written])  # it lies over the input, whose rows count until then
                self._partner[written] = over[0]
                home = self.place(written)
                self.bodies[home] = self.bodies[home].with_parts_of(self.bodies.pop(written))
            else:
                self._add(written, [time] * self._rows[written])

    def _region(self, region: Region) -> None:
        start, tape = self._starts[region.first], region.tape
        for buffer, born in tape.born.items():
            self._add(buffer, [start + time for time in _from_the_top(region, born)])
        for buffer, rows in tape.rings.items():
            size = rows * (self._graph.sizes[buffer] // self._rows[buffer])
            spans = [(start + first, start + last) for first, last in tape.busy[buffer]]
            self.bodies[buffer] = Body.whole(size, *spans)
        for buffer, home in tape.home.items():
            if home in tape.rings:
                self.rings[buffer] = tape.rings[home]
            if buffer != home:
                self._partner[buffer] = home


def _from_the_top(region: Region, times: Sequence[int]) -> Sequence[int]:
    """Times of rows, the first row first."""
    return times[::-1] if region.upwards else times
