"""Row by row: sequences, rings and their places in memory, against machines that replay them and against brute force."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise, product

from hypothesis import given, settings
from hypothesis import strategies as st

from mcuprune.deploy.layout import Body, Part, laid_out, most_alive
from mcuprune.deploy.regions import Rows
from mcuprune.deploy.rings import Interval, RowOp, Tape, extent, tape
from mcuprune.schedule import search as memory

# --------------------------------------------------------------------------------------------------- random regions


def sliding(rows: int, kernel: int, stride: int, before: int, out: int) -> tuple[Interval, ...]:
    """The rows under each window of a convolution."""
    found = []
    for row in range(out):
        inside = [r for r in range(row * stride - before, row * stride - before + kernel) if 0 <= r < rows]
        found.append((inside[0], inside[-1] + 1) if inside else (0, 0))
    return tuple(found)


@st.composite
def regions(draw: st.DrawFn) -> tuple[list[RowOp], dict[int, int], set[int]]:
    """Operators over buffers, the first of which is made elsewhere; rows of each buffer; those that outlive the region."""
    rows = {0: draw(st.integers(1, 12))}
    ops: list[RowOp] = []
    for made in range(1, draw(st.integers(2, 8))):
        source = draw(st.integers(max(0, made - 3), made - 1))
        alike = [buffer for buffer in rows if rows[buffer] == rows[source] and buffer != source]
        kind = draw(st.sampled_from(["slide", "slide", "slide", "add", "table", "repeat", "whole"]))
        height = rows[source]
        same = tuple((row, row + 1) for row in range(height))
        if kind == "add" and alike:
            other = draw(st.sampled_from(alike))
            ops.append(RowOp((source, other), (same, same), made, (source, other)))
        elif kind == "table":
            ops.append(RowOp((source,), (same,), made, (source,)))
        elif kind == "repeat":
            ops.append(RowOp((source,), (tuple((row // 2, row // 2 + 1) for row in range(2 * height)),), made))
        elif kind == "whole":
            ops.append(RowOp((source,), (((0, height),) * draw(st.integers(1, 3)),), made))
        else:
            kernel, stride = draw(st.integers(1, 7)), draw(st.integers(1, 3))
            before = draw(st.integers(0, kernel - 1))
            out = draw(st.integers(1, max(1, (height + 2 * before - kernel) // stride + 1)))
            ops.append(RowOp((source,), (sliding(height, kernel, stride, before, out),), made))
        rows[made] = ops[-1].rows
    read = {buffer for op in ops for buffer in op.reads}
    outliving = {op.write for op in ops if op.write not in read}
    outliving |= {buffer for buffer in rows if draw(st.integers(0, 5)) == 0}
    return ops, rows, outliving


def replay(found: Tape, ops: Sequence[RowOp], rows: dict[int, int], outliving: set[int], less: int | None = None) -> bool:
    """Whether the sequence runs with these rings: each place holds the name of the row that lies in it.

    less: a ring with one row less than the tape says.
    """
    kept = {home: count - (home == less) for home, count in found.rings.items()}
    if 0 in kept.values():
        return False
    memory_: dict[tuple[int, int], tuple[int, int]] = {(0, row): (0, row) for row in range(rows[0])}
    at = [0] * len(ops)

    def slot(buffer: int, row: int) -> tuple[int, int]:
        home = found.home.get(buffer, buffer)
        return home, row % kept.get(home, rows[buffer])

    for index in found.sequence:
        op, row = ops[index], at[index]
        for buffer, needs in zip(op.reads, op.needs, strict=True):
            if any(memory_.get(slot(buffer, one)) != (buffer, one) for one in range(*needs[row])):
                return False
        memory_[slot(op.write, row)] = (op.write, row)
        at[index] += 1
    made = {op.write for op in ops}
    return all(memory_.get(slot(b, row)) == (b, row) for b in outliving & made for row in range(rows[b]))


def clobbers(found: Tape, ops: Sequence[RowOp]) -> bool:
    """Whether some row is written where a row lies that is read for it, other than the one it may be written over."""
    at = [0] * len(ops)
    for index in found.sequence:
        op, row = ops[index], at[index]
        home = found.home[op.write]
        for buffer, needs in zip(op.reads, op.needs, strict=True):
            if found.home.get(buffer, buffer) == home and buffer != op.write:
                size = found.rings.get(home)
                if any(one != row and (one - row) % (size or 10**9) == 0 for one in range(*needs[row])):
                    return True
        at[index] += 1
    return False


@settings(max_examples=400, deadline=None)
@given(regions(), st.sampled_from([None, None, 1, 2, 3]))
def test_a_region_runs_in_its_rings_and_in_nothing_less(case, bands):
    ops, rows, outliving = case
    found = tape(ops, rows, sorted(outliving), bands=bands)
    assert replay(found, ops, rows, outliving)
    assert not clobbers(found, ops)
    for ring in found.rings:
        assert not replay(found, ops, rows, outliving, less=ring) or clobbers(shrunk(found, ring), ops)


def shrunk(found: Tape, ring: int) -> Tape:
    rings = {home: rows - (home == ring) for home, rows in found.rings.items()}
    return Tape(found.sequence, found.home, rings, found.busy, found.born, found.dead)


@settings(max_examples=200, deadline=None)
@given(regions())
def test_no_row_is_made_twice_and_none_that_nobody_asks_for(case):
    ops, rows, outliving = case
    found = tape(ops, rows, sorted(outliving))
    needed = {buffer: rows[buffer] if buffer in outliving else 0 for buffer in rows}
    for op in reversed(ops):
        for buffer, needs in zip(op.reads, op.needs, strict=True):
            needed[buffer] = max([needed[buffer], *(end for _, end in needs[: needed[op.write]])])
    assert [found.sequence.count(index) for index in range(len(ops))] == [needed[op.write] for op in ops]


@settings(max_examples=200, deadline=None)
@given(regions(), st.booleans())
def test_the_times_of_a_tape_are_those_of_its_reads_and_writes(case, upwards):
    ops, rows, outliving = case
    if upwards:
        ops = [op.upside_down(rows) for op in ops]
    found = tape(ops, rows, sorted(outliving))
    at = [0] * len(ops)
    read: dict[tuple[int, int], int] = {}
    written: dict[tuple[int, int], int] = {}
    for time, index in enumerate(found.sequence):
        op, row = ops[index], at[index]
        home = found.home[op.write]
        written.setdefault((home, row), time)
        for buffer, needs in zip(op.reads, op.needs, strict=True):
            read.update(((buffer, one), time) for one in range(*needs[row]))
            spans = found.busy.get(found.home.get(buffer, buffer), ())
            inside = any(first <= time <= last for first, last in spans)
            assert inside or found.home.get(buffer, buffer) not in found.rings or needs[row][0] == needs[row][1]
        if home in found.rings:
            assert any(first <= time <= last for first, last in found.busy[home])
        at[index] += 1
    for buffer, times in found.born.items():
        assert list(times) == [written[buffer, row] for row in range(rows[buffer])]
    for buffer, times in found.dead.items():
        assert all(time >= read.get((buffer, row), 0) for row, time in enumerate(times))
        assert list(times) == sorted(times)


def test_a_chain_of_convolutions_keeps_the_rows_of_its_kernels():
    """By hand: a 3x3, a 5x5 of stride 2 and a pointwise convolution over 16 rows; the first tensor is elsewhere."""
    ops = [
        RowOp((0,), (sliding(16, 3, 1, 1, 16),), 1),
        RowOp((1,), (sliding(16, 5, 2, 2, 8),), 2),
        RowOp((2,), (sliding(8, 1, 1, 0, 8),), 3),
    ]
    found = tape(ops, {0: 16, 1: 16, 2: 8, 3: 8}, [3])
    assert dict(found.rings) == {1: 5, 2: 1}
    assert found.sequence[:5] == (0, 0, 0, 1, 2)
    assert len(found.sequence) == 16 + 8 + 8


# ------------------------------------------------------------------------------------------------------- sharing places


@given(st.integers(1, 4), st.integers(1, 4), st.lists(st.integers(0, 3), min_size=1, max_size=6), st.data())
def test_two_tensors_share_as_closely_as_any_offset_allows(before, after, steps, data):
    """Every offset of the second below, over and above the first is tried, byte by byte."""
    dead = [sum(steps[: i + 1]) for i in range(len(steps))]
    born = sorted(data.draw(st.lists(st.integers(0, 20), min_size=1, max_size=6, unique=True)))
    sizes = before * len(dead), after * len(born)

    def free(offset: int) -> bool:
        return all(
            not (dead[i // before] >= time and n * after <= i - offset < (n + 1) * after)
            for i in range(sizes[0])
            for n, time in enumerate(born)
        )

    below = [offset for offset in range(-sizes[1] - sizes[0], sizes[0] + 1) if free(offset)]
    best = min(max(sizes[0], offset + sizes[1]) - min(0, offset) for offset in below)
    assert best <= extent((before, dead), (after, born)) <= sum(sizes)
    lowest_dead = extent((before, [0] * len(dead)), (after, [time + 1 for time in born]))
    assert lowest_dead == max(sizes)  # all rows are done with before the first is written


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6))
def test_what_is_needed_at_one_time_never_shares_a_byte(seed):
    draw = random.Random(seed)
    bodies = {}
    for name in range(draw.randint(1, 9)):
        first = draw.randint(0, 20)
        if draw.random() < 0.4:
            times = sorted(draw.randint(first, first + 8) for _ in range(draw.randint(1, 5)))
            bodies[name] = Body.of_rows(draw.randint(1, 5), [(time, time + draw.randint(0, 6)) for time in times])
        else:
            spans = [(first, first + draw.randint(0, 3)), (first + 6, first + 6 + draw.randint(0, 5))]
            bodies[name] = Body.whole(draw.randint(1, 30), *spans[: draw.randint(1, 2)])
    least = most_alive(list(bodies.values()))
    top, offsets = laid_out(bodies, least, tries=50)
    used = {}
    for name, body in bodies.items():
        for part in body.parts:
            for first, last in part.spans:
                for time in range(first, last + 1):
                    for byte in range(offsets[name] + part.offset, offsets[name] + part.offset + part.size):
                        assert 0 <= byte < top
                        assert used.setdefault((time, byte), name) == name
    alive = [sum(time == t for t, _ in used) for time in {t for t, _ in used}]
    assert max(alive) == least <= top


def test_a_tensor_takes_the_rows_of_another_that_are_done_with():
    source = Body.of_rows(10, [(0, row) for row in range(1, 9)])
    target = Body.of_rows(10, [(row, 20) for row in range(1, 9)])
    assert laid_out({0: source, 1: target}, 0)[0] == 90  # one row more than each
    assert laid_out({0: Body((Part(0, 80, ((0, 8),)),)), 1: target}, 0)[0] == 160


# ---------------------------------------------------------------------------------------------------------- the plan


@st.composite
def programs(draw: st.DrawFn) -> tuple[memory.Graph, list[RowOp | None], dict[int, int]]:
    """A few operators, some of them without a row form."""
    ops, rows, _ = draw(regions())
    row = {buffer: draw(st.integers(1, 9)) for buffer in rows}
    sizes = tuple(rows[buffer] * row[buffer] for buffer in rows)
    read = {buffer for op in ops for buffer in op.reads}
    outputs = tuple(op.write for op in ops if op.write not in read)
    steps = tuple(memory.Op(op.reads, (op.write,), tuple(b for b in op.in_place if sizes[b] == sizes[op.write])) for op in ops)
    forms = [None if draw(st.integers(0, 6)) == 0 else op for op in ops]
    usable = [
        None
        if op is None
        else RowOp(op.reads, op.needs, op.write, tuple(b for b in op.in_place if sizes[b] == sizes[op.write]))
        for op in forms
    ]
    return memory.Graph(steps, sizes, (0,), outputs), usable, rows


@settings(max_examples=150, deadline=None)
@given(programs())
def test_no_other_choice_of_regions_needs_less_or_as_little_for_less(program):
    graph, ops, rows = program
    schedule = memory.schedule(graph)
    planner = Rows(graph, schedule, ops, rows)
    found = planner.plan()
    n, choices = len(ops), []
    for cuts in product((False, True), repeat=max(0, n - 1)):
        bounds = [0, *(place for place, cut in enumerate(cuts, 1) if cut), n]
        pieces = list(pairwise(bounds))
        for kinds in product((False, True), repeat=len(pieces)):
            if any(not banded and end - first > 1 for (first, end), banded in zip(pieces, kinds, strict=True)):
                continue
            chosen = [planner.region(*piece) for piece, banded in zip(pieces, kinds, strict=True) if banded]
            if all(region is not None for region in chosen):
                choices.append([region for region in chosen if region is not None])
    least = min(planner.needed(choice) for choice in choices)
    assert planner.needed(found) == least
    assert sum(r.cost for r in found) == min(
        sum(r.cost for r in choice) for choice in choices if planner.needed(choice) == least
    )


def test_where_rows_save_nothing_nothing_runs_row_by_row():
    graph = memory.Graph((memory.Op((0,), (1,)), memory.Op((1,), (2,))), (10, 100, 200), (0,), (2,))
    every = ((0, 10),) * 10
    ops = [RowOp((0,), (every,), 1), RowOp((1,), (every,), 2)]
    assert Rows(graph, memory.schedule(graph), ops, {0: 10, 1: 10, 2: 10}).plan() == ()


def test_a_region_of_more_operators_than_a_byte_counts_is_not_planned():
    n = 300
    same = tuple((row, row + 1) for row in range(4))
    graph = memory.Graph(tuple(memory.Op((i,), (i + 1,)) for i in range(n)), (4, *[400] * (n - 1), 4), (0,), (n,))
    ops = [RowOp((i,), (same,), i + 1) for i in range(n)]
    planner = Rows(graph, memory.schedule(graph), ops, dict.fromkeys(range(n + 1), 4))
    assert planner.region(0, n) is None
    assert all(region.end - region.first <= 256 for region in planner.plan())
