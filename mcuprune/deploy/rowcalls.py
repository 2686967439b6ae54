"""Steps of generated C that can make one row of their output at a time, and the calls that do so.

A *row* is what a tensor (1, rows, width, channels) has at one place of its second axis. In a network of signals, whose tensors
are (1, 1, steps, channels), each step is a row. A sliding kernel makes any rows of its output from rows in a ring. Any other
kernel makes a row by being called for a part of its work, which is found by dividing the outermost of its repetitions: where
that moves every place on by just a row, and a constant by nothing, the step is row-local.
Nothing is assumed of what an operator means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from mcuprune.deploy.rings import Interval, RowOp
from mcuprune.deploy.steps.calls import (
    ONE_BY_ONE,
    Between,
    Call,
    Chain,
    Constant,
    Few,
    Loop,
    Place,
    Step,
    Window,
    upright,
)
from mcuprune.deploy.steps.selection import Selection
from mcuprune.immutable import immutable

#: Kernels that make any rows of their output from rows in a ring.
_SLIDING = ("conv", "conv_grouped", "conv_short", "conv_transpose", "depthwise", "pointwise", "pool", "pool_counting", "scale")


@immutable
class RowPlace:
    """A row of a tensor, from ``offset`` of its bytes on. repeats: to make row r it is row r // repeats; 0: the only row.

    first: so many rows further on.
    """

    tensor: int
    offset: int = 0
    repeats: int = 1
    first: int = 0


@immutable
class Ring:
    """The place of a computed tensor's rows."""

    tensor: int


@immutable
class RingRows:
    """How many rows of a computed tensor are in memory."""

    tensor: int


@immutable
class RowNumber:
    """The number of the row that is made, ``more`` rows on."""

    more: int = 0


@immutable
class RingTable:
    """Three numbers for each row that is made: two rows of a computed tensor, by their places in its ring, and one more."""

    tensor: int
    numbers: tuple[int, ...]


RowArgument = RowPlace | Ring | RingRows | RingTable | RowNumber | Constant | Window | Between | Few | int


@immutable
class RowForm:
    """How a step makes row r. The buffers of ``op`` are tensors that have bytes of their own."""

    op: RowOp
    calls: tuple[RowCall | RowChain, ...]


@immutable
class RowCall:
    """A call of a kernel for one row."""

    kernel: str
    arguments: tuple[RowArgument, ...]
    loops: tuple[Loop, ...] = ()


@immutable
class RowChain:
    """A chain for the numbers of one row."""

    count: int
    calls: tuple[RowCall, ...]


class _NotLocal(Exception):
    """The step can't make one row at a time."""


def row_form(selection: Selection, step: Step) -> RowForm | None:
    """None where the step can't make one row at a time."""
    try:
        return _Maker(selection, step).form()
    except _NotLocal:
        return None


def rows_of(selection: Selection, tensor: int) -> int:
    """How many rows a computed tensor has, by its shape or that of a view of it: what is no image and no signal is one row."""
    axis = 2 if selection.of_signals else 1
    shapes = (selection.shape(sharing) for sharing in (tensor, *selection.views_of(tensor)))
    return next((shape[axis] for shape in shapes if len(shape) == _IMAGES and shape[0] == 1 and shape[axis] > 1), 1)


#: Axes of what holds images: which one, rows, columns, channels.
_IMAGES = 4

#: Kernel -> the argument that counts its repetitions, and by how much each place advances from one to the next.
_Advances = Callable[[Sequence[int]], tuple[int, ...]]
_REPEATED: Mapping[str, tuple[int, _Advances]] = {
    "add": (3, lambda a: (a[4], a[5], 1)),
    "add_proven": (3, lambda a: (a[4], a[5], 1)),
    "extremum": (3, lambda a: (a[4], a[5], 1)),
    "fill": (1, lambda a: (1,)),
    "log_softmax": (2, lambda a: (a[3], a[3])),
    "divide": (3, lambda a: (a[4], a[5], 1)),
    "mul": (3, lambda a: (a[4], a[5], 1)),
    "pick": (2, lambda a: (a[3] * a[4], a[6] * a[4])),
    "prelu": (3, lambda a: (a[4], a[5], 1)),
    "reduce": (2, lambda a: (a[3] * a[4], a[4])),
    "softmax": (2, lambda a: (a[3], a[3])),
    "table": (2, lambda a: (1, 1)),
}


class _Maker:
    """Finds the row form of one step."""

    def __init__(self, selection: Selection, step: Step) -> None:
        if len(step.writes) != 1 or any(selection.root(tensor) != tensor for tensor in (*step.writes, *step.reads)):
            raise _NotLocal  # also of bytes in another order than they were made in: their rows lie elsewhere
        shapes = map(selection.shape, (*step.writes, *step.reads))
        if any(len(shape) == _IMAGES and shape[0] > 1 for shape in shapes):
            raise _NotLocal  # rows are those of one image
        self._selection, self._step = selection, step
        self._output = step.writes[0]
        self._rows = rows_of(selection, self._output)
        self._needs: dict[int, list[Interval]] = {}

    def form(self) -> RowForm:
        calls = tuple(map(self._row, self._step.calls))
        if set(self._needs) != set(self._step.reads) or not self._needs:
            raise _NotLocal
        same = [(row, row + 1) for row in range(self._rows)]
        over = tuple(tensor for tensor in self._step.in_place if self._needs[tensor] == same)
        needs = tuple(tuple(self._needs[tensor]) for tensor in self._step.reads)
        return RowForm(RowOp(self._step.reads, needs, self._output, over), calls)

    def _row(self, call: Call | Chain) -> RowCall | RowChain:
        if isinstance(call, Chain):
            count = self._share(call.count)
            advances = [count] * max(ONE_BY_ONE.values())
            return RowChain(count, tuple(RowCall(each.kernel, self._advanced(each, advances)) for each in call.calls))
        return self._sliding(call) if call.kernel in _SLIDING else self._part(call)

    def _row_bytes(self, tensor: int) -> int:
        return self._selection.size(tensor) // rows_of(self._selection, tensor)

    def _need(self, tensor: int, needs: Sequence[Interval]) -> None:
        """Note rows that are read of a tensor; of several calls the union."""
        before = self._needs.get(tensor)
        if before is None:
            self._needs[tensor] = list(needs)
        else:
            self._needs[tensor] = [_around(first, other) for first, other in zip(before, needs, strict=True)]

    # ------------------------------------------------------------------------------------------------ sliding kernels

    def _sliding(self, call: Call) -> RowCall:
        source, target, window, _, _, _, *more = call.arguments
        if not (isinstance(source, Place) and isinstance(target, Place) and isinstance(window, Window)) or call.loops:
            raise _NotLocal
        if self._selection.of_signals and window.numbers[0] == 1:
            window = upright(window)
            more = [*more[:1], *more[3:], *more[1:3]]  # zeros that count, above and below and then on either side
        height, width, channels, out_height, out_width, outs = window.numbers[:6]
        if (height, width * channels) != (rows_of(self._selection, source.tensor), self._row_bytes(source.tensor)):
            raise _NotLocal  # a product of matrices, or another shape of the same bytes
        if (out_height, out_width * outs) != (self._rows, self._row_bytes(self._output)) or source.offset or target.offset:
            raise _NotLocal
        kernel, stride, before, dilation = (window.numbers[place] for place in (6, 8, 10, 12))
        if call.kernel == "conv_transpose":
            needs = [_through(row + before, kernel, stride, height) for row in range(out_height)]
        else:
            needs = [_under(row * stride - before, kernel, dilation, height) for row in range(out_height)]
        self._need(source.tensor, needs)
        ring = (RowNumber(), RowNumber(1), RingRows(source.tensor))
        rest = (argument for argument in more if isinstance(argument, int))
        return RowCall(call.kernel, (Ring(source.tensor), RowPlace(target.tensor), window, *ring, *rest))

    # -------------------------------------------------------------------------------------------------- other kernels

    def _part(self, call: Call) -> RowCall:
        """The part of a call that makes one row."""
        if call.kernel == "move":
            return self._moved(call)
        if call.kernel == "bilinear":
            return self._interpolated(call)
        if call.kernel == "pick" and len(call.loops) == 2 and call.loops[1].count > 1:
            return self._repeated(call)
        if call.kernel not in _REPEATED:
            raise _NotLocal
        if call.loops:
            outer, *inner = call.loops
            count = self._share(outer.count)
            arguments = self._advanced(call, [step * count for step in outer.steps])
            loops = (Loop(count, outer.steps), *inner) if count > 1 else tuple(inner)
            return RowCall(call.kernel, arguments, loops)
        at, advances = _REPEATED[call.kernel]
        numbers = [argument if isinstance(argument, int) else 0 for argument in call.arguments]
        count = self._share(numbers[at])
        arguments = self._advanced(call, [step * count for step in advances(numbers)])
        return RowCall(call.kernel, (*arguments[:at], count, *arguments[at + 1 :]))

    def _share(self, count: int) -> int:
        if count % self._rows:
            raise _NotLocal
        return count // self._rows

    def _advanced(self, call: Call, advances: Sequence[int]) -> tuple[RowArgument, ...]:
        """The arguments for a row, where each place moves on by ``advances`` bytes from one row to the next."""
        advanced: list[RowArgument] = []
        for index, argument in enumerate(call.arguments):
            if isinstance(argument, Place):
                advanced.append(self._place(argument, advances[index]))
            elif isinstance(argument, Constant) and index < len(advances) and advances[index]:
                raise _NotLocal  # a constant with numbers of its own for each row
            else:
                advanced.append(argument)
        return tuple(advanced)

    def _place(self, place: Place, advance: int) -> RowPlace:
        tensor, rows = place.tensor, rows_of(self._selection, place.tensor)
        first, offset = divmod(place.offset, self._row_bytes(tensor))
        if rows == 1 and advance == first == 0 and tensor != self._output:
            self._need(tensor, [(0, 1)] * self._rows)
            return RowPlace(tensor, offset, 0)
        if rows < first + self._rows or advance != self._row_bytes(tensor) or (tensor == self._output and first):
            raise _NotLocal
        if tensor != self._output:
            self._need(tensor, [(row, row + 1) for row in range(first, first + self._rows)])
        return RowPlace(tensor, offset, first=first)

    def _moved(self, call: Call) -> RowCall:
        """A part of the outermost axis of a copy."""
        source, target, described = call.arguments
        assert isinstance(described, Constant)
        axes = [described.values[at : at + 3] for at in range(0, len(described.values), 3)]
        outer = next((index for index, axis in enumerate(axes) if axis[0] > 1), len(axes) - 1)
        size, *steps = axes[outer]
        count = self._share(size)
        axes[outer] = (count, steps[0], steps[1])
        for side, place in enumerate((source, target), 1):
            if isinstance(place, Place) and not self._within(place, [(axis[0], axis[side]) for axis in axes]):
                raise _NotLocal  # inner axes go on to other rows, which the way from one part to the next doesn't show
        places = self._advanced(replace(call, arguments=(source, target)), [step * count for step in steps])
        return RowCall("move", (*places, Constant(described.ctype, tuple(number for axis in axes for number in axis))))

    def _within(self, place: Place, axes: Sequence[tuple[int, int]]) -> bool:
        """Whether bytes from a place on, along axes of (size, step), lie in the row in which they begin."""
        row = self._row_bytes(place.tensor)
        first = place.offset % row
        ways = [(size - 1) * step for size, step in axes]
        return first + sum(min(way, 0) for way in ways) >= 0 and first + sum(max(way, 0) for way in ways) < row

    def _repeated(self, call: Call) -> RowCall:
        """Rows that are written several times, as a resize to the nearest pixel does."""
        source, target = call.arguments[:2]
        (height, (down, wide)), (ratio, (still, line)) = ((loop.count, loop.steps) for loop in call.loops)
        assert isinstance(source, Place)
        assert isinstance(target, Place)
        rows = rows_of(self._selection, source.tensor)
        steps = (self._row_bytes(source.tensor), ratio * self._row_bytes(self._output), 0, self._row_bytes(self._output))
        if (rows, rows * ratio, down, wide, still, line) != (height, self._rows, *steps) or source.offset or target.offset:
            raise _NotLocal
        self._need(source.tensor, [(row // ratio, row // ratio + 1) for row in range(self._rows)])
        places = (RowPlace(source.tensor, 0, ratio), RowPlace(target.tensor))
        return RowCall(
            call.kernel, (*places, *(argument for argument in call.arguments[2:] if not isinstance(argument, Place)))
        )

    def _interpolated(self, call: Call) -> RowCall:
        """Rows between two rows of the input each."""
        source, target, channels, width, rows, count, columns, across = call.arguments
        assert isinstance(source, Place)
        assert isinstance(target, Place)
        assert isinstance(rows, Constant)
        if count != self._rows or source.offset or target.offset:
            raise _NotLocal
        pairs = [rows.values[at : at + 2] for at in range(0, len(rows.values), 3)]
        self._need(source.tensor, [(min(pair), max(pair) + 1) for pair in pairs])
        table = RingTable(source.tensor, rows.values)
        sizes = [number for number in (channels, width) if isinstance(number, int)]
        rest = [number for number in (columns, across) if isinstance(number, Constant | int)]
        return RowCall(call.kernel, (Ring(source.tensor), RowPlace(target.tensor), *sizes, table, 1, *rest))


def _under(top: int, kernel: int, dilation: int, height: int) -> Interval:
    """The rows of an image that taps from row ``top`` on fall on."""
    inside = [row for row in range(top, top + kernel * dilation, dilation) if 0 <= row < height]
    return (inside[0], inside[-1] + 1) if inside else (0, 0)


def _through(place: int, kernel: int, stride: int, height: int) -> Interval:
    """The rows of an image that some tap of a transposed convolution brings to a row of its output."""
    reached = [(place - tap) // stride for tap in range(kernel) if (place - tap) % stride == 0]
    inside = [row for row in reached if 0 <= row < height]
    return (min(inside), max(inside) + 1) if inside else (0, 0)


def _around(first: Interval, other: Interval) -> Interval:
    if first[0] == first[1] or other[0] == other[1]:
        return other if first[0] == first[1] else first
    return min(first[0], other[0]), max(first[1], other[1])
