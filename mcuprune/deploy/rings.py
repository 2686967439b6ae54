"""Part of a network run row by row: which operator makes its next row when, and how many rows of each tensor are in memory.

The operators of a *region* are not run one after the other. A row of a tensor is made when the rows behind it ask for it, so
that of every tensor inside the region only the last few rows are in memory, in a *ring*: row r lies at place r modulo the
number of rows that it holds. Every row is made once. The sequence depends on shapes alone and is a constant of the program.

Nothing here knows a kernel: an operator says which rows of its inputs each of its rows needs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mcuprune.immutable import immutable

#: Rows from the first to the one before the end; empty where both are the same.
Interval = tuple[int, int]


@immutable
class RowOp:
    """An operator that makes one row of its output at a time.

    reads: buffers; needs: for each of them and every row of the output, the rows of it that are read. write: the output.
    in_place: those of ``reads`` of which row r is read for row r alone, which may then be written over it.
    """

    reads: tuple[int, ...]
    needs: tuple[tuple[Interval, ...], ...]
    write: int
    in_place: tuple[int, ...] = ()

    @property
    def rows(self) -> int:
        """How many rows the output has."""
        return len(self.needs[0])

    def upside_down(self, rows: Mapping[int, int]) -> RowOp:
        """The same with rows counted from the last one. rows: of every buffer."""
        needs = tuple(
            tuple((rows[buffer] - end, rows[buffer] - first) for first, end in reversed(each))
            for buffer, each in zip(self.reads, self.needs, strict=True)
        )
        return RowOp(self.reads, needs, self.write, self.in_place)


@immutable
class Tape:
    """How a region runs. Times count from 0, one for each row that is made.

    sequence: which operator makes its next row, by time. home: buffer -> the one whose place it shares, often its own.
    rings: rows that are held of a buffer that lives inside the region alone. busy: the spans of time (both ends included) in
    which a ring holds rows that are still needed. born: of a buffer that outlives the region, when the place of each row is
    first written. dead: of a buffer that ends in the region and was made before it, when each row is last read.
    """

    sequence: tuple[int, ...]
    home: Mapping[int, int]
    rings: Mapping[int, int]
    busy: Mapping[int, tuple[Interval, ...]]
    born: Mapping[int, tuple[int, ...]]
    dead: Mapping[int, tuple[int, ...]]


def tape(ops: Sequence[RowOp], rows: Mapping[int, int], outliving: Sequence[int], *, bands: int | None = None) -> Tape:
    """The sequence of a region and the rings that it needs.

    ops: in an executable order. rows: of every buffer. outliving: buffers that something behind the region reads, all rows of
    which are made and kept; at least one is made by ``ops``. bands: in how many parts the last buffer is made, each layer by
    layer; without it every layer goes row by row, which needs least.
    """
    run = _Run(ops, rows, frozenset(outliving))
    last = [op.write for op in reversed(ops) if op.write in run.outliving]
    for buffer in last:
        height = rows[buffer]
        step = 1 if bands is None else -(-height // bands)
        for end in range(step, height + step, step):
            run.make(buffer, min(end, height), whole=bands is not None)
    return run.tape()


def extent(source: tuple[int, Sequence[int]], target: tuple[int, Sequence[int]]) -> int:
    """Bytes that two buffers take together where rows of the second lie on rows of the first that nobody reads any more.

    source: bytes of a row, and when each is last read. target: bytes of a row, and when each is first written.
    """
    (before, dead), (after, born) = source, target
    sizes = before * len(dead), after * len(born)
    # the target starts so far below the source that the end of each new row is not above the first row that is still read
    below = max((n + 1) * after - bisect_left(dead, time) * before for n, time in enumerate(born))
    together = max(sizes[0], sizes[1] - below) - min(0, -below)
    return min(together, sum(sizes))


@dataclass
class _Run:
    """The state of a region while its sequence is found."""

    ops: Sequence[RowOp]
    rows: Mapping[int, int]
    outliving: frozenset[int]
    sequence: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._maker = {op.write: index for index, op in enumerate(self.ops)}
        self._readers: dict[int, list[tuple[int, list[int]]]] = {}
        asked = self._asked()
        for index, op in enumerate(self.ops):
            for buffer, needs in zip(op.reads, op.needs, strict=True):
                later = _still_needed(needs[: asked[op.write]], self.rows[buffer])
                self._readers.setdefault(buffer, []).append((index, later))
        entering = [buffer for buffer in self._readers if buffer not in self._maker]
        #: Buffer -> how many of its rows are made so far.
        self._made = {**dict.fromkeys(self._maker, 0), **{buffer: self.rows[buffer] for buffer in entering}}
        self.home = self._homes()
        self._family: dict[int, list[int]] = {}
        for buffer in self._maker:
            self._family.setdefault(self.home[buffer], []).append(buffer)
        self._rings = dict.fromkeys((home for home in self._family if home not in self.outliving), 0)
        self._opened: dict[int, int] = {}
        self._busy: dict[int, list[Interval]] = {home: [] for home in self._rings}
        self._born: dict[int, list[int]] = {home: [] for home in self._family if home in self.outliving}
        self._dead: dict[int, list[int]] = {buffer: [] for buffer in entering if buffer not in self.outliving}

    def _asked(self) -> dict[int, int]:
        """How many rows of each buffer are ever asked for."""
        asked = {op.write: op.rows if op.write in self.outliving else 0 for op in self.ops}
        for op in reversed(self.ops):
            for buffer, needs in zip(op.reads, op.needs, strict=True):
                if buffer in asked:
                    asked[buffer] = max([asked[buffer], *(end for _, end in needs[: asked[op.write]])])
        return asked

    def _homes(self) -> dict[int, int]:
        """For each buffer the one whose rows it is written over, or that is written over its rows."""
        home: dict[int, int] = {}

        def of(buffer: int) -> int:
            while buffer in home:
                buffer = home[buffer]
            return buffer

        for index, op in enumerate(self.ops):
            for buffer in op.in_place:
                inside = buffer in self._maker and buffer not in self.outliving and len(self._readers[buffer]) == 1
                if inside and self.rows[buffer] == op.rows and self._readers[buffer][0][0] == index:
                    home[of(buffer)] = op.write
                    break
        return {buffer: of(buffer) for buffer in self._made}

    def make(self, buffer: int, end: int, *, whole: bool) -> None:
        """Make the rows of a buffer up to ``end``, and before them what they need.

        whole: every operator makes all the rows that are asked of it before the next one goes on.
        """
        stack = [(self._maker[buffer], end)]
        while stack:
            index, end = stack[-1]
            op = self.ops[index]
            first = self._made[op.write]
            if first >= end:
                stack.pop()
                continue
            until = end if whole else first + 1
            missing = self._missing(op, first, until)
            if missing is not None:
                stack.append(missing)
                continue
            for _ in range(first, until):
                self._row(index)

    def _missing(self, op: RowOp, first: int, end: int) -> tuple[int, int] | None:
        """An operator, and up to where it must have made rows before these can be made."""
        for buffer, needs in zip(op.reads, op.needs, strict=True):
            wanted = max(last for _, last in needs[first:end])
            if self._made[buffer] < wanted:
                return self._maker[buffer], wanted
        return None

    def _row(self, index: int) -> None:
        op, time = self.ops[index], len(self.sequence)
        home, row = self.home[op.write], self._made[op.write]
        low = self._low(home)  # before this operator goes on: what it reads is needed until its row is there
        touched = [buffer for buffer in dict.fromkeys(op.reads) if buffer in self._dead]
        before = {buffer: self._lowest(buffer) for buffer in touched}
        self._made[op.write] += 1
        self.sequence.append(index)
        if home in self._rings:
            head = max(self._made[buffer] for buffer in self._family[home])
            self._rings[home] = max(self._rings[home], head - low)
            self._opened.setdefault(home, time)
        elif row == len(self._born[home]):
            self._born[home].append(time)
        for buffer in touched:
            self._dead[buffer] += [time] * (self._lowest(buffer) - before[buffer])
        for ring in dict.fromkeys((home, *(self.home[buffer] for buffer in op.reads))):
            if ring in self._opened and self._low(ring) >= max(self._made[buffer] for buffer in self._family[ring]):
                self._busy[ring].append((self._opened.pop(ring), time))

    def _low(self, home: int) -> int:
        """The lowest row of a place that holds something which is still needed."""
        return min(self._lowest(buffer) for buffer in self._family[home])

    def _lowest(self, buffer: int) -> int:
        """The lowest row of a buffer that is still needed; where none is, the number of those made."""
        if buffer in self.outliving:
            return 0
        written_at = self._made[buffer]
        return min(
            [written_at, *(needed[self._made[self.ops[index].write]] for index, needed in self._readers.get(buffer, ()))]
        )

    def tape(self) -> Tape:
        end = len(self.sequence) - 1
        for home, since in self._opened.items():
            self._busy[home].append((since, end))
        for buffer, times in self._dead.items():  # rows behind the last one that is read
            times += [times[-1] if times else 0] * (self.rows[buffer] - len(times))
        return Tape(
            tuple(self.sequence),
            self.home,
            {home: rows for home, rows in self._rings.items() if rows},
            {home: tuple(spans) for home, spans in self._busy.items() if spans},
            {buffer: tuple(times) for buffer, times in self._born.items()},
            {buffer: tuple(times) for buffer, times in self._dead.items()},
        )


def _still_needed(needs: Sequence[Interval], rows: int) -> list[int]:
    """For each number of output rows that are made, the lowest row that a later one reads; ``rows`` where none does."""
    needed = [rows]
    for first, end in reversed(needs):
        needed.append(min(needed[-1], first) if end > first else needed[-1])
    return needed[::-1]


def spans_of(times: Sequence[Interval]) -> Iterator[tuple[int, int]]:
    """Where intervals of time begin and what they change there, +1, or -1 behind their end."""
    for first, last in times:
        yield first, 1
        yield last + 1, -1
