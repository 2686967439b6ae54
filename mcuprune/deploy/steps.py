"""A program as calls of C kernels: each operator is one or a few calls, or none.

What costs nothing here: a RESHAPE is another name for the same bytes; a PAD in front of a convolution is taps that the kernel
leaves out; a chain of operators of one tensor (activations, requantisation, arithmetic with one constant) is one table, and a
table in front of a CONCATENATION is applied while its input is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import floor, prod
from typing import Any

import numpy as np

from mcuprune.deploy import sums
from mcuprune.deploy.fixedpoint import HIGH, LOW, Factor, clamped, exp_of_negative, factor, high_product, scaled
from mcuprune.deploy.program import Constant as Content
from mcuprune.deploy.program import Operator, Program
from mcuprune.deploy.qdq import Quantizer
from mcuprune.deploy.sums import Sums
from mcuprune.deploy.tables import STORED, TABLES, Table, activation_range, table
from mcuprune.errors import UnsupportedOperator

Array = np.ndarray[Any, Any]
_SAME = 0


@dataclass(frozen=True)
class Constant:
    """An array that goes to flash. ctype: its element type in C."""

    ctype: str
    values: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return len(self.values) * {"int8_t": 1, "int16_t": 2, "int32_t": 4}[self.ctype]


@dataclass(frozen=True)
class Place:
    """A computed tensor's bytes from ``offset`` on."""

    tensor: int
    offset: int = 0


@dataclass(frozen=True)
class Window:
    """The description of a sliding operator, as the C struct ``window_t`` has it: three arrays and the numbers after them."""

    weights: Constant | None
    bias_number: Constant | None
    shift: Constant | None
    numbers: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Of the struct: three pointers and its numbers, without the arrays."""
        return 3 * 4 + 2 * len(self.numbers)


@dataclass(frozen=True)
class Loop:
    """How often a call is repeated, and by how many bytes each of its places advances from one to the next."""

    count: int
    steps: tuple[int, ...]


@dataclass(frozen=True)
class Call:
    """One call of a kernel. arguments: places first, in the order of ``Loop.steps``."""

    kernel: str
    arguments: tuple[Place | Constant | Window | int, ...]
    loops: tuple[Loop, ...] = ()


@dataclass(frozen=True)
class Step:
    """What one operator does.

    node: what the operator was written for. reads, writes: computed tensors. in_place: those of ``reads`` that ``writes``
    may lie on.
    """

    operator: str
    node: str
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    in_place: tuple[int, ...]
    calls: tuple[Call, ...]


@dataclass
class Selection:
    """One walk over the operators of a program.

    views: computed tensor -> the one whose bytes it shares. largest_window: bytes of the largest window that ``conv_short``
    copies. proven: whether the fast requantisation is exact for all sums. clamped: whether some output's range is narrower
    than a byte's.
    """

    program: Program
    steps: list[Step] = field(default_factory=list)
    views: dict[int, int] = field(default_factory=dict)
    largest_window: int = 0
    proven: bool = True
    clamped: bool = False
    _pads: dict[int, tuple[int, Array]] = field(default_factory=dict)
    _tables: dict[int, tuple[int, Table]] = field(default_factory=dict)
    _contents: dict[int, Content | None] = field(default_factory=dict)

    def run(self) -> Selection:
        """Fill in all of it. Raises UnsupportedOperator, naming the node, for what has no kernel."""
        self.program.check()
        self.outputs = tuple(port.tensor for port in self.program.outputs)
        self._readers: dict[int, list[Operator]] = {}
        for operator in self.program.operators:
            for tensor in dict.fromkeys(operator.inputs):
                self._readers.setdefault(tensor, []).append(operator)
        for operator in self.program.operators:
            if self._one_table(operator):
                continue
            if operator.name not in _RULES:
                self.refuse(operator, "has no kernel")
            _RULES[operator.name](self, operator)
        return self

    def arithmetic(self) -> list[str]:
        """What the kernels may rely on and must heed, as the C names it."""
        return [word for word, holds in (("PROVEN", self.proven), ("CLAMPED", self.clamped)) if holds]

    def refuse(self, operator: Operator, why: str) -> None:
        where = f"{self.program.path}: node '{operator.node}'"
        raise UnsupportedOperator(f"{where}: {operator.name} {why} in C; export .tflite, or write the node in another way")

    # ------------------------------------------------------------------------------------------------------- tensors

    def root(self, tensor: int) -> int:
        """The tensor whose bytes this one is."""
        while tensor in self.views:
            tensor = self.views[tensor]
        return tensor

    def content(self, tensor: int) -> Content | None:
        """Numbers and scales of a constant; None for a computed tensor."""
        if tensor not in self._contents:
            read = self.program.tensors[tensor].content
            self._contents[tensor] = None if read is None else read()
        return self._contents[tensor]

    def constant(self, tensor: int) -> Array | None:
        """The numbers of a constant; None for a computed tensor."""
        content = self.content(tensor)
        return None if content is None else content.data

    def scales(self, tensor: int) -> Array:
        """float64: one scale, or one for each channel of a weight."""
        content = self.content(tensor)
        own = self.program.tensors[tensor].quantizer
        found = content.scales if content is not None else [own.scale if own is not None else 0.0]
        return np.asarray(found, np.float64).reshape(-1)

    def quantizer(self, tensor: int) -> Quantizer:
        """Scale and zero point of a tensor that has one of each."""
        own, content = self.program.tensors[tensor].quantizer, self.content(tensor)
        if content is None:
            assert own is not None
            return own
        return Quantizer(float(content.scales.reshape(-1)[0]), int(content.zero_points.reshape(-1)[0]))

    def shape(self, tensor: int) -> tuple[int, ...]:
        """Sizes of a tensor, channels last."""
        return tuple(self.program.tensors[tensor].shape)

    def size(self, tensor: int) -> int:
        return prod(self.shape(tensor))

    def place(self, tensor: int) -> Place | Constant:
        """Where a tensor's bytes are: in the arena or, for a constant, in flash."""
        data = self.constant(tensor)
        return Place(self.root(tensor)) if data is None else bytes_of(data)

    def sole_reader(self, tensor: int) -> Operator | None:
        readers = self._readers.get(tensor, [])
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None

    def add(self, operator: Operator, calls: Sequence[Call], *, in_place: Sequence[int] = ()) -> None:
        """A step that makes the operator's outputs."""
        reads = [a.tensor for call in calls for a in call.arguments if isinstance(a, Place)]
        writes = tuple(operator.outputs)
        unique = tuple(dict.fromkeys(tensor for tensor in reads if tensor not in writes))
        over = tuple(dict.fromkeys(self.root(t) for t in in_place if self.constant(t) is None and self.root(t) in unique))
        self.steps.append(Step(operator.name, operator.node, unique, writes, over, tuple(calls)))

    # -------------------------------------------------------------------------------------------------------- tables

    def _one_table(self, operator: Operator) -> bool:
        """Take an operator of one computed tensor for a table, joined to the table before it. False where it isn't one."""
        found = self._table_of(operator)
        if found is None:
            return False
        source, values = found
        output = operator.outputs[0]
        if source in self._tables:  # the chain's beginning was put off to be joined here
            source, before = self._tables.pop(source)
            values = values[before.astype(int) + 128]
        reader = self.sole_reader(output)
        joins = reader is not None and (self._table_source(reader) == output or self._copied_by(reader, output))
        if np.array_equal(values, np.arange(LOW, HIGH + 1)):
            self.views[output] = self.root(source)
        elif joins:
            self._tables[output] = (source, values)
        else:
            call = Call("table", (self.place(source), self.place(output), self.size(output), bytes_of(values)))
            self.add(operator, [call], in_place=(source,))
        return True

    @staticmethod
    def _copied_by(reader: Operator, tensor: int) -> bool:
        return reader.name == "CONCATENATION" and reader.inputs.count(tensor) == 1

    def _table_source(self, operator: Operator) -> int | None:
        """The computed tensor of an operator that is a table."""
        if operator.name in TABLES:
            return operator.inputs[0]
        if operator.name not in _WITH_ONE_CONSTANT:
            return None
        computed = [tensor for tensor in operator.inputs if self.constant(tensor) is None]
        single = all(self.size(tensor) == 1 for tensor in operator.inputs if self.constant(tensor) is not None)
        return computed[0] if len(computed) == 1 and single and len(operator.inputs) == 2 else None

    def _table_of(self, operator: Operator) -> tuple[int, Table] | None:
        source = self._table_source(operator)
        if source is None:
            return None
        if operator.name in TABLES:
            return source, table(operator.name, self.quantizer(source), self.quantizer(operator.outputs[0]), operator.options)
        rule = _WITH_ONE_CONSTANT[operator.name](self, operator)
        known = [self.constant(tensor) for tensor in operator.inputs]
        numbers = [None if data is None else int(data.reshape(-1)[0]) for data in known]
        values = [rule(*(stored if number is None else number for number in numbers)) for stored in STORED]
        return source, np.array(values, np.int8)


def bytes_of(data: Array) -> Constant:
    """int8 numbers as a constant."""
    return Constant("int8_t", tuple(np.asarray(data).astype(np.int8).reshape(-1).tolist()))


def words_of(data: Sequence[int]) -> Constant:
    """32-bit numbers as a constant."""
    return Constant("int32_t", tuple(int(value) for value in data))


# --------------------------------------------------------------------------------------------------- sliding operators


def _padding(size: int, out: int, kernel: int, stride: int, dilation: int) -> int:
    """What TensorFlow Lite's SAME adds in front of an axis."""
    return max(0, (out - 1) * stride + (kernel - 1) * dilation + 1 - size) // 2


@dataclass(frozen=True)
class _Frame:
    """Sizes of a sliding operator: image and output (height, width, channels), and where it starts."""

    source: int
    image: tuple[int, int, int]
    out: tuple[int, int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


def _frame(s: Selection, operator: Operator, kernel: tuple[int, int]) -> _Frame:
    options, source, output = operator.options, operator.inputs[0], operator.outputs[0]
    stride = options["stride_h"], options["stride_w"]
    dilation = options.get("dilation_h", 1), options.get("dilation_w", 1)
    out = s.shape(output)[1:]
    pads = None
    if source in s._pads:
        source, pads = s._pads[source]
    image = s.shape(source)[1:]
    if pads is not None:
        pad = (int(pads[1][0]), int(pads[2][0]))
    elif options.get("padding") == _SAME:
        sizes = zip(image[:2], out[:2], kernel, stride, dilation, strict=True)
        high, wide = (_padding(*axis) for axis in sizes)
        pad = (high, wide)
    else:
        pad = (0, 0)
    return _Frame(source, (image[0], image[1], image[2]), (out[0], out[1], out[2]), kernel, stride, pad, dilation)


def _window(s: Selection, frame: _Frame, operator: Operator, added: Sums | None, *, folded: bool = False) -> Window:
    """added: weights in the kernel's order; None for a pool. folded: the kernel leaves the input's zero point to the bias."""
    source, output = operator.inputs[0], operator.outputs[0]
    bounds = activation_range(operator.options.get("fused", 0), s.quantizer(output))
    zeros = s.quantizer(source).zero_point, s.quantizer(output).zero_point
    numbers = (*frame.image, *frame.out, *frame.kernel, *frame.stride, *frame.pad, *frame.dilation, frame.groups)
    if added is None:
        return Window(None, None, None, (*numbers, *zeros, *bounds))
    s.proven, s.clamped = s.proven and added.proven, s.clamped or tuple(bounds) != (LOW, HIGH)
    stored = added.folded(zeros[0]) if folded else added
    pairs = [int(number) for bias, by in zip(stored.bias, stored.factors, strict=True) for number in (bias, by.number)]
    shifts = Constant("int8_t", tuple(by.shift for by in stored.factors))
    return Window(bytes_of(stored.weights), words_of(pairs), shifts, (*numbers, *zeros, *bounds))


def _sums(s: Selection, operator: Operator, weights: Array, axis: int = 0) -> Sums:
    """weights: in the kernel's order, output channels along ``axis``."""
    outs, output = weights.shape[axis], s.quantizer(operator.outputs[0])
    scales = s.quantizer(operator.inputs[0]).scale * np.broadcast_to(s.scales(operator.inputs[1]), (outs,))
    factors = tuple(factor(float(scale) / output.scale) for scale in scales)
    bounds = activation_range(operator.options.get("fused", 0), output)
    return Sums(weights, axis, _bias(s, operator, outs), factors).steadied(output.zero_point, bounds)


def _sliding(s: Selection, operator: Operator, kernel: str, frame: _Frame, window: Window, *more: int) -> Call:
    """A sliding kernel's call for all rows of the output: its input is a ring of as many rows as the image has."""
    rows = (0, frame.out[0], frame.image[0])
    return Call(kernel, (s.place(frame.source), s.place(operator.outputs[0]), window, *rows, *more))


def _bias(s: Selection, operator: Operator, outs: int) -> Array:
    place = 3 if operator.name == "TRANSPOSE_CONV" else 2
    found = s.constant(operator.inputs[place]) if len(operator.inputs) > place and operator.inputs[place] >= 0 else None
    return np.zeros(outs, np.int64) if found is None else np.broadcast_to(found.reshape(-1).astype(np.int64), (outs,))


#: Rows of a window shorter than this are copied to the stack first, up to this many bytes of window.
_SHORT_ROW, _SHORT_WINDOW = 16, 256


#: Kernels that read all taps of a window as they are, so that the input's zero point may be a part of the bias.
_FOLDING = ("conv_short", "pointwise")


def _conv(s: Selection, operator: Operator) -> None:
    weights = s.constant(operator.inputs[1])
    assert weights is not None
    frame = _frame(s, operator, (weights.shape[1], weights.shape[2]))
    _convolve(s, operator, replace(frame, groups=frame.image[2] // weights.shape[3]), weights)


def _convolve(s: Selection, operator: Operator, frame: _Frame, weights: Array) -> None:
    """weights: (out, kernel_h, kernel_w, in)"""
    added = _sums(s, operator, weights)
    kernel, frame = _conv_kernel(s, frame, foldable=added.foldable)
    window = _window(s, frame, operator, added, folded=kernel in _FOLDING)
    s.add(operator, [_sliding(s, operator, kernel, frame, window)])


def _conv_kernel(s: Selection, frame: _Frame, *, foldable: bool) -> tuple[str, _Frame]:
    """Which of the convolutions fits. Across a single column dilation means nothing."""
    if frame.kernel[1] == 1:
        frame = replace(frame, dilation=(frame.dilation[0], 1))
    row = frame.kernel[1] * frame.image[2]
    if frame.groups > 1 or frame.dilation[1] > 1:
        return "conv_grouped", frame
    if foldable and frame.kernel == frame.stride == (1, 1) and frame.image[:2] == frame.out[:2]:
        return "pointwise", frame
    if foldable and frame.kernel[0] > 1 and row < _SHORT_ROW and row * frame.kernel[0] <= _SHORT_WINDOW:
        s.largest_window = max(s.largest_window, row * frame.kernel[0])
        return "conv_short", frame
    return "conv", frame


def _depthwise(s: Selection, operator: Operator) -> None:
    weights = s.constant(operator.inputs[1])
    assert weights is not None
    _, kernel_h, kernel_w, outs = weights.shape
    frame = _frame(s, operator, (kernel_h, kernel_w))
    if frame.image[2] == 1 and outs > 1:  # of one channel: an ordinary convolution
        _convolve(s, operator, frame, weights.transpose(3, 1, 2, 0))
        return
    window = _window(s, frame, operator, _sums(s, operator, weights, 3))
    s.add(operator, [_sliding(s, operator, "depthwise", frame, window)])


def _fully_connected(s: Selection, operator: Operator) -> None:
    """A convolution of one tap over as many pixels as there are rows."""
    source = operator.inputs[0]
    weights = s.constant(operator.inputs[1])
    if weights is None:
        s.refuse(operator, "of computed weights has no kernel")
    assert weights is not None
    outs, ins = weights.shape
    rows = s.size(source) // ins
    frame = _Frame(source, (1, rows, ins), (1, rows, outs), (1, 1))
    _convolve(s, operator, frame, weights.reshape(outs, 1, 1, ins))


def _transpose_conv(s: Selection, operator: Operator) -> None:
    weights, source, output = s.constant(operator.inputs[1]), operator.inputs[2], operator.outputs[0]
    assert weights is not None
    _, kernel_h, kernel_w, _ = weights.shape
    image, out = s.shape(source)[1:], s.shape(output)[1:]
    stride = operator.options["stride_h"], operator.options["stride_w"]
    pad = (0, 0)
    if operator.options["padding"] == _SAME:
        sizes = zip(out[:2], image[:2], (kernel_h, kernel_w), stride, strict=True)
        high, wide = (_padding(o, i, k, n, 1) for o, i, k, n in sizes)
        pad = (high, wide)
    frame = _Frame(source, (image[0], image[1], image[2]), (out[0], out[1], out[2]), (kernel_h, kernel_w), stride, pad)
    of_image = replace(operator, inputs=(source, *operator.inputs[1:]))
    window = _window(s, frame, of_image, _sums(s, of_image, weights))
    s.add(operator, [_sliding(s, operator, "conv_transpose", frame, window)])


def _pool(s: Selection, operator: Operator) -> None:
    frame = _frame(s, operator, (operator.options["filter_h"], operator.options["filter_w"]))
    window = _window(s, frame, operator, None)
    largest = int(operator.name == "MAX_POOL_2D")
    s.add(operator, [_sliding(s, operator, "pool", frame, window, largest)])


def _pad(s: Selection, operator: Operator) -> None:
    """Left to the kernels that read it, where all of them leave padding out; else a copy into a filled image."""
    source, output = operator.inputs[0], operator.outputs[0]
    pads, zero = s.constant(operator.inputs[1]), s.quantizer(source).zero_point
    assert pads is not None
    fill = s.constant(operator.inputs[2]) if operator.name == "PADV2" else None
    number = zero if fill is None else int(fill.reshape(-1)[0])
    readers = s._readers.get(output, [])
    ignoring = {"CONV_2D": zero, "DEPTHWISE_CONV_2D": zero, "MAX_POOL_2D": LOW}
    spatial = len(pads) == 4 and not pads[0].any() and not pads[3].any() and output not in s.outputs
    if spatial and readers and all(ignoring.get(r.name) == number and r.options["padding"] != _SAME for r in readers):
        s._pads[output] = (source, pads)
        return
    shape, out = s.shape(source), s.shape(output)
    steps = _strides(out)
    start = sum(int(before) * step for before, step in zip(pads[:, 0], steps, strict=True))
    calls = [Call("fill", (s.place(output), s.size(output), number))]
    axes = list(zip(shape, _strides(shape), steps, strict=True))
    s.add(operator, [*calls, _move(s.place(source), Place(s.root(output), start), axes)])


# ----------------------------------------------------------------------------------------------------------- movements


def _strides(shape: Sequence[int]) -> list[int]:
    return [prod(shape[axis + 1 :]) for axis in range(len(shape))]


#: Size of an axis, and by how much source and target advance along it.
_Axis = tuple[int, int, int]
_MOVED_AXES = 5


def merged_axes(axes: Sequence[_Axis]) -> list[_Axis]:
    """The same movement in as few axes as possible."""
    found: list[_Axis] = []
    for size, x, y in axes:
        if size == 1:
            continue
        if found and found[-1][1] == size * x and found[-1][2] == size * y:
            found[-1] = (found[-1][0] * size, x, y)
        else:
            found.append((size, x, y))
    return found


def _move(source: Place | Constant, target: Place | Constant, axes: Sequence[_Axis]) -> Call:
    merged = merged_axes(axes)
    assert len(merged) <= _MOVED_AXES, "a movement of more axes than kernels have"
    padded = [(1, 0, 0)] * (_MOVED_AXES - len(merged)) + merged
    if not merged:
        padded[-1] = (1, 1, 1)
    return Call("move", (source, target, words_of([number for axis in padded for number in axis])))


def _view(s: Selection, operator: Operator) -> None:
    source, output = operator.inputs[0], operator.outputs[0]
    s.views[output] = s.root(source)


def _transpose(s: Selection, operator: Operator) -> None:
    source, output = operator.inputs[0], operator.outputs[0]
    perm = s.constant(operator.inputs[1])
    assert perm is not None
    steps, out = _strides(s.shape(source)), s.shape(output)
    axes = [(size, steps[int(axis)], step) for size, axis, step in zip(out, perm, _strides(out), strict=True)]
    s.add(operator, [_move(s.place(source), s.place(output), axes)])


def _slice(s: Selection, operator: Operator) -> None:
    begin = s.constant(operator.inputs[1])
    assert begin is not None
    step = np.ones(len(begin), int)
    if operator.name == "STRIDED_SLICE":
        found = s.constant(operator.inputs[3])
        assert found is not None
        step = found
    _taken(s, operator, operator.outputs[0], [int(b) for b in begin], [int(n) for n in step])


def _taken(s: Selection, operator: Operator, output: int, begin: Sequence[int], step: Sequence[int]) -> None:
    source = operator.inputs[1] if operator.name == "SPLIT" else operator.inputs[0]
    shape, out = s.shape(source), s.shape(output)
    steps = _strides(shape)
    start = sum((b % size) * n for b, size, n in zip(begin, shape, steps, strict=True))
    axes = [(size, n * by, to) for size, n, by, to in zip(out, steps, step, _strides(out), strict=True)]
    at = s.place(source)
    assert isinstance(at, Place)
    call = _move(Place(at.tensor, at.offset + start), s.place(output), axes)
    s.add(replace(operator, outputs=(output,)), [call])


def _split(s: Selection, operator: Operator) -> None:
    """Each part as an operator of its own: those that are read late take no memory before."""
    where = s.constant(operator.inputs[0 if operator.name == "SPLIT" else 2])
    source = operator.inputs[1] if operator.name == "SPLIT" else operator.inputs[0]
    assert where is not None
    shape = s.shape(source)
    axis, at = int(where) % len(shape), 0
    for output in operator.outputs:
        begin = [at if place == axis else 0 for place in range(len(shape))]
        _taken(s, operator, output, begin, [1] * len(shape))
        at += s.shape(output)[axis]


def _concatenation(s: Selection, operator: Operator) -> None:
    output = operator.outputs[0]
    out = s.shape(output)
    axis = operator.options["axis"] % len(out)
    outer, row, at = prod(out[:axis]), prod(out[axis:]), 0
    calls = []
    for tensor in operator.inputs:
        size = prod(s.shape(tensor)[axis:])
        target = Place(s.root(output), at)
        source, values = s._tables.pop(tensor, (tensor, None))
        if values is None:
            calls.append(_move(s.place(source), target, [(outer, size, row), (size, 1, 1)]))
        else:
            loops = (Loop(outer, (size, row)),) if outer > 1 else ()
            calls.append(Call("table", (s.place(source), target, size, bytes_of(values)), loops))
        at += size
    s.add(operator, calls)


def _gather(s: Selection, operator: Operator) -> None:
    indices = s.constant(operator.inputs[1])
    assert indices is not None
    _picked(s, operator, operator.options.get("axis", 0), indices.reshape(-1).tolist())


def _picked(s: Selection, operator: Operator, axis: int, indices: Sequence[int]) -> None:
    source, output = operator.inputs[0], operator.outputs[0]
    shape = s.shape(source)
    sizes = (prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :]))
    listed = Constant("int16_t", tuple(indices))
    s.add(operator, [Call("pick", (s.place(source), s.place(output), *sizes, listed, len(indices)))])


def _resize_nearest(s: Selection, operator: Operator) -> None:
    """Rows that repeat are picked whole; within a row pixels are."""
    align, half = operator.options["align_corners"], operator.options["half_pixel_centers"]
    source, output = operator.inputs[0], operator.outputs[0]
    _, height, width, channels = s.shape(source)
    _, out_height, out_width, _ = s.shape(output)
    rows, columns = nearest(align, half, height, out_height), nearest(align, half, width, out_width)
    at = s.place(source)
    assert isinstance(at, Place)
    listed = Constant("int16_t", tuple(columns))
    size, line = width * channels, out_width * channels
    calls = [
        Call(
            "pick",
            (Place(at.tensor, at.offset + row * size), Place(s.root(output), i * line), 1, width, channels, listed, out_width),
        )
        for i, row in enumerate(rows)
    ]
    ratio = out_height // height
    if list(rows) == [i // ratio for i in range(out_height)] and out_height == ratio * height:  # the usual whole factor
        first = (at, Place(s.root(output)), 1, width, channels, listed, out_width)
        calls = [Call("pick", first, (Loop(height, (size, ratio * line)), Loop(ratio, (0, line))))]
    s.add(operator, calls)


def nearest(align: bool, half: bool, size: int, out: int) -> list[int]:
    """The index that each output takes along an axis of RESIZE_NEAREST_NEIGHBOR."""
    scale = np.float32((size - 1) / (out - 1) if align and out > 1 else size / out)
    x = (np.arange(out, dtype=np.float32) + np.float32(0.5 if half else 0.0)) * scale
    picked = np.floor(x + np.float32(0.5)) if align else np.floor(x)
    return [int(i) for i in np.clip(picked, 0, size - 1)]


def _resize_bilinear(s: Selection, operator: Operator) -> None:
    align, half = operator.options["align_corners"], operator.options["half_pixel_centers"]
    source, output = operator.inputs[0], operator.outputs[0]
    _, height, width, channels = s.shape(source)
    _, out_height, out_width, _ = s.shape(output)
    rows, columns = (_between(align, half, *pair) for pair in ((height, out_height), (width, out_width)))
    arguments = (channels, width, rows, out_height, columns, out_width)
    s.add(operator, [Call("bilinear", (s.place(source), s.place(output), *arguments))])


def _between(align: bool, half: bool, size: int, out: int) -> Constant:
    """For each output index of RESIZE_BILINEAR the two inputs that it lies between, and where, in steps of 1/1024."""
    scale = (1024 * size + out // 2) // out
    if align and out > 1:
        scale = (1024 * (size - 1) + (out - 1) // 2) // (out - 1)
    numbers = []
    for index in range(out):
        place = index * scale + (scale // 2 - 512 if half else 0)
        low = max(0, _towards_zero(place))
        numbers += [low, min(_towards_zero(place + 1023), size - 1), place - 1024 * low]
    return Constant("int16_t", tuple(numbers))


def _towards_zero(value: int) -> int:
    return value // 1024 if value >= 0 else -(-value // 1024)


def _mirror_pad(s: Selection, operator: Operator) -> None:
    """Axis by axis is a chain of copies; of two axes of space, rows of picked columns."""
    source, output = operator.inputs[0], operator.outputs[0]
    pads = s.constant(operator.inputs[1])
    assert pads is not None
    shape, edge = s.shape(source), operator.options.get("mode", 0)
    if len(shape) != 4 or pads[0].any() or pads[3].any():
        s.refuse(operator, "of other axes than height and width has no kernel")
    rows, columns = (_mirrored(shape[axis], int(pads[axis][0]), int(pads[axis][1]), edge) for axis in (1, 2))
    size, line = shape[2] * shape[3], len(columns) * shape[3]
    at = s.place(source)
    assert isinstance(at, Place)
    listed = Constant("int16_t", tuple(columns))
    calls = [
        Call(
            "pick",
            (
                Place(at.tensor, at.offset + row * size),
                Place(s.root(output), i * line),
                1,
                shape[2],
                shape[3],
                listed,
                len(columns),
            ),
        )
        for i, row in enumerate(rows)
    ]
    s.add(operator, calls)


def _mirrored(size: int, before: int, after: int, edge: int) -> list[int]:
    front = [i + 1 - edge for i in range(before)][::-1]
    return [*front, *range(size), *(size - 2 + edge - i for i in range(after))]


def _blocks(s: Selection, operator: Operator) -> None:
    """DEPTH_TO_SPACE and SPACE_TO_DEPTH: the block's place is the outermost part of the channels."""
    source, output = operator.inputs[0], operator.outputs[0]
    block, opens = operator.options["block"], operator.name == "DEPTH_TO_SPACE"
    deep, wide = (s.shape(source), s.shape(output)) if opens else (s.shape(output), s.shape(source))
    _, height, width, _ = deep
    channels = wide[3]
    deep_steps = _strides((height, width, block, block, channels))
    wide_steps = _strides((height, block, width, block, channels))
    sizes = (height, width, block, block, channels)
    order = (0, 2, 1, 3, 4)  # the deep tensor's axes in the wide one
    pairs = [(size, deep_steps[i], wide_steps[order[i]]) for i, size in enumerate(sizes)]
    axes = pairs if opens else [(size, w, d) for size, d, w in pairs]
    s.add(operator, [_move(s.place(source), s.place(output), axes)])


# ----------------------------------------------------------------------------------------------------------- arithmetic


def _broadcast(s: Selection, operator: Operator, kernel: str, parameters: Sequence[int]) -> None:
    """A kernel of two operands: loops over axes along which one stands still, the innermost in the kernel."""
    a, b = operator.inputs[:2]
    output = operator.outputs[0]
    out = s.shape(output)
    strides = [_broadcast_strides(s.shape(tensor), out) for tensor in (a, b)]
    axes: list[list[int]] = []
    for size, *steps in zip(out, *strides, _strides(out), strict=True):
        if size == 1:
            continue
        if axes and all(outer == size * step for outer, step in zip(axes[-1][1:], steps, strict=True)):
            axes[-1] = [axes[-1][0] * size, *steps]
        else:
            axes.append([size, *steps])
    *loops, inner = axes or [[1, 1, 1, 1]]
    arguments = (s.place(a), s.place(b), s.place(output), inner[0], inner[1], inner[2], words_of(parameters))
    nested = tuple(Loop(size, tuple(steps)) for size, *steps in loops)
    full = [tensor for tensor in (a, b) if s.shape(tensor) == out]
    s.add(operator, [Call(kernel, arguments, nested)], in_place=full)


def _broadcast_strides(shape: Sequence[int], out: Sequence[int]) -> list[int]:
    wide = (1,) * (len(out) - len(shape)) + tuple(shape)
    return [0 if size == 1 else step for size, step in zip(wide, _strides(wide), strict=True)]


def _sum_parameters(s: Selection, operator: Operator) -> list[int]:
    """As TensorFlow Lite adds: both operands with 20 more bits, on the scale of twice the larger of the two."""
    a, b = (s.quantizer(tensor) for tensor in operator.inputs[:2])
    output = s.quantizer(operator.outputs[0])
    common = 2 * max(a.scale, b.scale)
    factors = [factor(scale / common) for scale in (a.scale, b.scale)] + [factor(common / (2**20 * output.scale))]
    sign = -1 if operator.name == "SUB" else 1
    bounds = activation_range(operator.options.get("fused", 0), output)
    return [a.zero_point, b.zero_point, output.zero_point, *(n for by in factors for n in by), *bounds, sign]


def _add(s: Selection, operator: Operator) -> None:
    kernel, parameters = sums.addition(_sum_parameters(s, operator))
    _broadcast(s, operator, kernel, parameters)


def _product_parameters(s: Selection, operator: Operator) -> list[int]:
    a, b = (s.quantizer(tensor) for tensor in operator.inputs[:2])
    output = s.quantizer(operator.outputs[0])
    bounds = activation_range(operator.options.get("fused", 0), output)
    return [a.zero_point, b.zero_point, output.zero_point, *factor(a.scale * b.scale / output.scale), *bounds]


def _prelu_parameters(s: Selection, operator: Operator) -> list[int]:
    a, b = (s.quantizer(tensor) for tensor in operator.inputs[:2])
    output = s.quantizer(operator.outputs[0])
    factors = factor(a.scale / output.scale), factor(a.scale * b.scale / output.scale)
    return [a.zero_point, b.zero_point, output.zero_point, *factors[0], *factors[1]]


def _extremum_parameters(s: Selection, operator: Operator) -> list[int]:
    return [int(operator.name == "MAXIMUM")]


_Number = Callable[..., int]


def _sum_of(s: Selection, operator: Operator) -> _Number:
    za, zb, zo, *rest, low, high, sign = _sum_parameters(s, operator)
    by_a, by_b, by_sum = Factor(*rest[:2]), Factor(*rest[2:4]), Factor(*rest[4:])

    def number(a: int, b: int) -> int:
        total = scaled((a - za) << 20, by_a) + sign * scaled((b - zb) << 20, by_b)
        return clamped(scaled(total, by_sum) + zo, low, high)

    return number


def _product_of(s: Selection, operator: Operator) -> _Number:
    za, zb, zo, number, shift, low, high = _product_parameters(s, operator)
    return lambda a, b: clamped(scaled((a - za) * (b - zb), Factor(number, shift)) + zo, low, high)


def _prelu_of(s: Selection, operator: Operator) -> _Number:
    za, zb, zo, *rest = _prelu_parameters(s, operator)
    above, below = Factor(*rest[:2]), Factor(*rest[2:])
    return lambda a, b: clamped((scaled(a - za, above) if a >= za else scaled((a - za) * (b - zb), below)) + zo)


#: Operators of two operands that are tables where one of them is a single constant: how they make a number of two.
_WITH_ONE_CONSTANT: Mapping[str, Callable[[Selection, Operator], _Number]] = {
    "ADD": _sum_of,
    "MAXIMUM": lambda s, operator: max,
    "MINIMUM": lambda s, operator: min,
    "MUL": _product_of,
    "PRELU": _prelu_of,
    "SUB": _sum_of,
}


def _two(kernel: str, parameters: Callable[[Selection, Operator], list[int]]) -> Callable[[Selection, Operator], None]:
    return lambda s, operator: _broadcast(s, operator, kernel, parameters(s, operator))


def _reduce(s: Selection, operator: Operator) -> None:
    source, output = operator.inputs[0], operator.outputs[0]
    listed = s.constant(operator.inputs[1])
    assert listed is not None
    shape = s.shape(source)
    axes = sorted({int(axis) % len(shape) for axis in listed.reshape(-1)})
    axes = [axis for axis in range(axes[0], axes[-1] + 1) if axis in axes or shape[axis] == 1]
    if len(axes) != axes[-1] - axes[0] + 1:
        s.refuse(operator, "over axes that don't stand side by side has no kernel")
    outer, inner = prod(shape[: axes[0]]), prod(shape[axes[-1] + 1 :])
    n = prod(shape[axes[0] : axes[-1] + 1])
    a, b = s.quantizer(source), s.quantizer(output)
    by, kind = factor(a.scale / b.scale), {"REDUCE_MAX": 1, "REDUCE_MIN": 2}.get(operator.name, 0)
    if operator.name == "MEAN":  # the division goes into the factor, as far as it fits into 32 bits
        bits = min(n.bit_length() - 1, 32, 31 + by.shift)
        by = Factor((by.number << bits) // n, by.shift - bits)
    parameters = words_of([a.zero_point, b.zero_point, *by])
    s.add(operator, [Call("reduce", (s.place(source), s.place(output), outer, n, inner, parameters, kind))])


#: The sum of a softmax has so many integer bits, and a class adds at most 1.
_MOST_CLASSES = 2**13 - 1


def _softmax(s: Selection, operator: Operator) -> None:
    source, output = operator.inputs[0], operator.outputs[0]
    n = s.shape(output)[-1]
    if n > _MOST_CLASSES:
        s.refuse(operator, f"over {n:,} classes has no kernel")
    beta = float(operator.options.get("beta", 1.0))
    by = factor(min(beta * s.quantizer(source).scale * 2**26, 2.0**31 - 1))
    radius = floor(31 * 2**26 / 2.0**by.shift)
    powers = [
        exp_of_negative(high_product(-steps * (1 << by.shift), by.number), 26) if steps <= radius else 0 for steps in range(256)
    ]
    arguments = (s.place(source), s.place(output), s.size(output) // n, n, words_of(powers))
    s.add(operator, [Call("softmax", arguments)], in_place=(source,))


def _batch_matmul(s: Selection, operator: Operator) -> None:
    a, b = operator.inputs[:2]
    output = operator.outputs[0]
    *batch, rows, inner = s.shape(a)
    columns = s.shape(b)[-1]
    if prod(batch) != prod(s.shape(b)[:-2]) or operator.options.get("adj_x") or operator.options.get("adj_y"):
        s.refuse(operator, "that broadcasts or transposes has no kernel")
    qa, qb, qo = (s.quantizer(tensor) for tensor in (a, b, output))
    parameters = [qa.zero_point, qb.zero_point, qo.zero_point, *factor(qa.scale * qb.scale / qo.scale)]
    sizes = (prod(batch), rows, inner, columns)
    s.add(operator, [Call("matmul", (s.place(a), s.place(b), s.place(output), *sizes, words_of(parameters)))])


#: TFLite operator -> what it becomes. Operators of one tensor (``tables.TABLES``) are tables.
_RULES: Mapping[str, Callable[[Selection, Operator], None]] = {
    "ADD": _add,
    "AVERAGE_POOL_2D": _pool,
    "BATCH_MATMUL": _batch_matmul,
    "CONCATENATION": _concatenation,
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "DEPTH_TO_SPACE": _blocks,
    "FULLY_CONNECTED": _fully_connected,
    "GATHER": _gather,
    "MAXIMUM": _two("extremum", _extremum_parameters),
    "MAX_POOL_2D": _pool,
    "MEAN": _reduce,
    "MINIMUM": _two("extremum", _extremum_parameters),
    "MIRROR_PAD": _mirror_pad,
    "MUL": _two("mul", _product_parameters),
    "PAD": _pad,
    "PADV2": _pad,
    "PRELU": _two("prelu", _prelu_parameters),
    "REDUCE_MAX": _reduce,
    "REDUCE_MIN": _reduce,
    "RESHAPE": _view,
    "RESIZE_BILINEAR": _resize_bilinear,
    "RESIZE_NEAREST_NEIGHBOR": _resize_nearest,
    "SLICE": _slice,
    "SOFTMAX": _softmax,
    "SPACE_TO_DEPTH": _blocks,
    "SPLIT": _split,
    "SPLIT_V": _split,
    "STRIDED_SLICE": _slice,
    "SUB": _add,
    "SUM": _reduce,
    "TRANSPOSE": _transpose,
    "TRANSPOSE_CONV": _transpose_conv,
}
