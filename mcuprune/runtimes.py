"""What a network takes on real devices: the arena of TensorFlow Lite Micro, boards, ranges of latency and energy.

``program`` writes a network as the TensorFlow Lite operators that a converter emits for it; ``Program.arena`` lays their
tensors out as TensorFlow Lite Micro (TFLM) with CMSIS-NN does on a 32-bit core with DSP instructions (Cortex-M4, M7, M33):

* the *head*: activations and kernel scratch, placed by TFLM's greedy planner, whose steps are repeated exactly. It places
  buffers by descending size into the first gap and may leave gaps: up to a third over the peak of the same schedule;
* the *tail*: what lives as long as the interpreter. Sizes are those of TFLM's own structures on a 32-bit core, rounded up
  to an upper bound; a few hundred bytes for small networks, kilobytes for many channels (8 bytes each).

Nothing was measured on silicon: heads are checked against the TFLM interpreter, totals against Cortex-M4 code in an
emulator. Latency and energy are ranges over published measurements of several software stacks, never a single number, and
None where there are no measurements.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fractions import Fraction
from math import prod
from typing import Any, NamedTuple

from mcuprune.errors import UsageError
from mcuprune.fusion import elements, folded_into, is_mixer, sole_reader
from mcuprune.network import Network, Node
from mcuprune.ops import OPS, Conv, Dim, MatMul, Mixer, Quantization
from mcuprune.units import Limit

# ------------------------------------------------------------------------------------------- the planner of the head

#: Every buffer of the arena starts at, and its size is rounded up to, a multiple of this (MicroArenaBufferAlignment).
ALIGNMENT = 16


def aligned(size: int) -> int:
    """``size`` rounded up to the alignment of arena buffers, in bytes."""
    return -(-size // ALIGNMENT) * ALIGNMENT


class Lifetime(NamedTuple):
    """The first and last operator, both included, during which a buffer is alive. Graph inputs start at 0, operators at 1."""

    first: int
    last: int


def overlaps(lifetimes: Sequence[Lifetime]) -> tuple[tuple[int, ...], ...]:
    """For each buffer, the others that are alive at some time together with it."""
    found: list[list[int]] = [[] for _ in lifetimes]
    alive: list[int] = []
    for i in sorted(range(len(lifetimes)), key=lambda i: lifetimes[i].first):
        alive = [j for j in alive if lifetimes[j].last >= lifetimes[i].first]
        found[i] += alive
        for j in alive:
            found[j].append(i)
        alive.append(i)
    return tuple(tuple(sorted(others)) for others in found)


def greedy_layout(
    sizes: Sequence[int], neighbours: Sequence[Sequence[int]], fixed: Mapping[int, int] | None = None
) -> list[int]:
    """Offsets in bytes of TFLM's GreedyMemoryPlanner for buffers of ``sizes`` bytes, in the order that they are added in.

    Large buffers come first; of equal ones the one added last, since the planner fills its list from the end and sorts it
    stably. Each goes into the lowest gap between the placed buffers that are alive with it.
    fixed: buffers that an offline plan has placed; they come before all others.
    """
    fixed = fixed or {}
    order = sorted((i for i in range(len(sizes)) if i not in fixed), key=lambda i: (-sizes[i], -i))
    return first_fit(sizes, neighbours, order, fixed)


def first_fit(
    sizes: Sequence[int], neighbours: Sequence[Sequence[int]], order: Sequence[int], fixed: Mapping[int, int]
) -> list[int]:
    """Offsets in bytes when buffers are put one after the other into the lowest gap that is wide enough."""
    offsets = [-1] * len(sizes)
    for buffer, offset in fixed.items():
        offsets[buffer] = offset
    for buffer in order:
        size, offset = sizes[buffer], 0
        for start, end in sorted((offsets[j], offsets[j] + sizes[j]) for j in neighbours[buffer] if offsets[j] >= 0):
            if start - offset >= size:
                break
            offset = max(offset, end)
        offsets[buffer] = offset
    return offsets


# ----------------------------------------------------------------------------------------- a network as TFLite operators


@dataclass(frozen=True)
class Scratch:
    """Memory that a kernel asks for: ``slope * quantity`` bytes, alive while operator ``op`` (from 1) runs."""

    op: int
    quantity: Any
    slope: int


@dataclass(frozen=True)
class Buffer:
    """A buffer of the head as it was laid out, all in bytes; ``name`` is the tensor, or the node for scratch."""

    name: str
    offset: int
    bytes: int
    first: int
    last: int


@dataclass(frozen=True)
class Arena:
    """The arena of TFLM on a 32-bit core, in bytes. total = head + tail.

    head: activations and scratch, exactly as the planner lays them out. tail: an upper bound.
    busiest: what is alive at the worst operator, which no layout can undercut.
    stack: the buffers on top of each other that make up the head.
    """

    head: int
    tail: int
    busiest: int
    buffers: tuple[Buffer, ...]
    stack: tuple[int, ...]

    @property
    def total(self) -> int:
        return self.head + self.tail


@dataclass(frozen=True)
class Program:
    """A network as TensorFlow Lite operators, in the order in which they run.

    operators: (TFLite operator, ONNX node).
    tensors: names; sizes: their elements, integers or functions of widths (``Dim``); lifetimes in operators.
    persistent: (quantity, slope): slope * quantity bytes in the tail, aligned.
    fixed_tail: the rest of the tail, in bytes.
    missing: nodes without an int8 kernel in TFLM. They count as one operator, but this network won't run there as it is.
    """

    operators: tuple[tuple[str, str], ...]
    tensors: tuple[str, ...]
    sizes: tuple[Any, ...]
    lifetimes: tuple[Lifetime, ...]
    scratch: tuple[Scratch, ...]
    persistent: tuple[tuple[Any, int], ...]
    fixed_tail: int
    missing: tuple[str, ...]
    neighbours: tuple[tuple[int, ...], ...]

    @property
    def quantities(self) -> tuple[Any, ...]:
        """All that may depend on widths: sizes of tensors, then of scratch, then of persistent buffers."""
        return (*self.sizes, *(s.quantity for s in self.scratch), *(quantity for quantity, _ in self.persistent))

    def arena(self, quantities: Sequence[int] | None = None, *, offline: bool = False) -> Arena:
        """The arena where ``quantities`` have these values; without them they must be integers.

        offline: with a memory plan in the file (TFLM's OfflineMemoryAllocation) that a search has found: its head comes
        close to ``busiest``. Scratch stays with the greedy planner, which is what TFLM does.
        """
        bytes_of, tail = self._bytes(self.quantities if quantities is None else quantities)
        offsets = self._planned(bytes_of) if offline else greedy_layout(bytes_of, self.neighbours)
        names = (*self.tensors, *(self.operators[s.op - 1][1] for s in self.scratch))
        spans = self._spans()
        buffers = tuple(
            Buffer(name, offset, size, *span) for name, offset, size, span in zip(names, offsets, bytes_of, spans, strict=True)
        )
        head = max((b.offset + b.bytes for b in buffers), default=0)
        return Arena(head, tail, self._busiest(bytes_of), buffers, self._stack(buffers, head))

    def bound(self, quantities: Sequence[int]) -> int:
        """Bytes that no layout of these tensors can undercut, tail included; grows with every quantity."""
        bytes_of, tail = self._bytes(quantities)
        return self._busiest(bytes_of) + tail

    def stacked(self, quantities: Sequence[int]) -> dict[int, int]:
        """Which quantities make up the arena now, and how many bytes each unit of them adds: index -> slope.

        The head is a sum of buffers that stand on each other, so while no buffer moves this is the arena's gradient but
        for rounding.
        """
        found = {index: self._slope(index) for index in self.arena(quantities).stack}
        start = len(self.sizes) + len(self.scratch)
        return found | {start + i: slope for i, (_, slope) in enumerate(self.persistent)}

    def _slope(self, buffer: int) -> int:
        return 1 if buffer < len(self.sizes) else self.scratch[buffer - len(self.sizes)].slope

    def _spans(self) -> list[Lifetime]:
        return [*self.lifetimes, *(Lifetime(s.op, s.op) for s in self.scratch)]

    def _bytes(self, quantities: Sequence[int]) -> tuple[list[int], int]:
        """Aligned bytes of every buffer of the head, and of the tail."""
        n, m = len(self.sizes), len(self.sizes) + len(self.scratch)
        bytes_of = [aligned(int(size)) for size in quantities[:n]]
        bytes_of += [aligned(s.slope * int(q)) for s, q in zip(self.scratch, quantities[n:m], strict=True)]
        persistent = zip(self.persistent, quantities[m:], strict=True)
        return bytes_of, self.fixed_tail + sum(aligned(slope * int(quantity)) for (_, slope), quantity in persistent)

    def _busiest(self, bytes_of: Sequence[int]) -> int:
        change = [0] * (len(self.operators) + 2)
        for size, span in zip(bytes_of, self._spans(), strict=True):
            change[span.first] += size
            change[span.last + 1] -= size
        most = now = 0
        for step in change:
            now += step
            most = max(most, now)
        return most

    def _stack(self, buffers: Sequence[Buffer], head: int) -> tuple[int, ...]:
        """From the buffer that ends at the head down: each stands on one that ends where it starts."""
        top = next((i for i, b in enumerate(buffers) if b.bytes and b.offset + b.bytes == head), None)
        found: list[int] = []
        while top is not None:
            found.append(top)
            start = buffers[top].offset
            below = (j for j in self.neighbours[top] if buffers[j].bytes and buffers[j].offset + buffers[j].bytes == start)
            top = next(below, None) if start else None
        return tuple(found)

    def _planned(self, bytes_of: Sequence[int], tries: int = 200) -> list[int]:
        """The best layout of a short local search over orders of placement; deterministic.

        A buffer that sticks out on top is placed first in the next try; where that goes round in circles, two swap.
        """
        wanted, n = self._busiest(bytes_of), len(self.sizes)
        shuffle = random.Random(0)
        order = sorted(range(len(bytes_of)), key=lambda i: (-bytes_of[i], -i))
        best: list[int] = greedy_layout(bytes_of, self.neighbours)
        least = max((o + b for o, b in zip(best, bytes_of, strict=True)), default=0)
        for _ in range(tries):
            if least == wanted:
                break
            offsets = first_fit(bytes_of, self.neighbours, order, {})
            ends = [o + b for o, b in zip(offsets, bytes_of, strict=True)]
            actual = greedy_layout(bytes_of, self.neighbours, dict(enumerate(offsets[:n])))
            head = max(o + b for o, b in zip(actual, bytes_of, strict=True))
            if head < least:
                best, least = actual, head
            top = max(range(len(ends)), key=lambda i: ends[i])
            order.remove(top)
            order.insert(0, top)
            if shuffle.random() < 0.5:
                i, j = shuffle.randrange(len(order)), shuffle.randrange(len(order))
                order[i], order[j] = order[j], order[i]
        return best


#: TFLM's int8 kernels for element-wise operators: the TFLite operators that stand for one of ONNX.
_ELEMENTWISE: Mapping[str, tuple[str, ...]] = {
    "Abs": ("ABS",),
    "Add": ("ADD",),
    "And": ("LOGICAL_AND",),
    "BatchNormalization": ("MUL", "ADD"),
    "Cast": ("CAST",),
    "Clip": ("RELU",),
    "Div": ("DIV",),
    "Elu": ("ELU",),
    "Equal": ("EQUAL",),
    "Greater": ("GREATER",),
    "GreaterOrEqual": ("GREATER_EQUAL",),
    "HardSigmoid": ("MUL", "ADD"),
    "HardSwish": ("HARD_SWISH",),
    "LeakyRelu": ("LEAKY_RELU",),
    "Less": ("LESS",),
    "LessOrEqual": ("LESS_EQUAL",),
    "Max": ("MAXIMUM",),
    "Min": ("MINIMUM",),
    "Mul": ("MUL",),
    "Neg": ("NEG",),
    "Not": ("LOGICAL_NOT",),
    "Or": ("LOGICAL_OR",),
    "PRelu": ("PRELU",),
    "Relu": ("RELU",),
    "Sigmoid": ("LOGISTIC",),
    "Sub": ("SUB",),
    "Sum": ("ADD",),
    "Swish": ("LOGISTIC", "MUL"),
    "Tanh": ("TANH",),
    "Where": ("SELECT_V2",),
}
#: The other operators that become one TFLite operator, and how many constant tensors that one reads.
_SINGLE: Mapping[str, tuple[str, int]] = {
    "ArgMax": ("ARG_MAX", 1),
    "ArgMin": ("ARG_MIN", 1),
    "DepthToSpace": ("DEPTH_TO_SPACE", 0),
    "Expand": ("BROADCAST_TO", 1),
    "Gather": ("GATHER", 1),
    "LogSoftmax": ("LOG_SOFTMAX", 0),
    "LpNormalization": ("L2_NORMALIZATION", 0),
    "ReduceMax": ("REDUCE_MAX", 1),
    "ReduceMean": ("MEAN", 1),
    "ReduceMin": ("REDUCE_MIN", 1),
    "ReduceSum": ("SUM", 1),
    "Resize": ("RESIZE", 1),
    "Softmax": ("SOFTMAX", 0),
    "SpaceToDepth": ("SPACE_TO_DEPTH", 0),
    "Split": ("SPLIT", 1),
    "Transpose": ("TRANSPOSE", 1),
    "Upsample": ("RESIZE", 1),
}
#: Operators that take a following Relu or Clip into themselves.
_FUSING = {"Add", "Sub", "Mul", "Div", "Sum", "BatchNormalization", "HardSigmoid", "MaxPool", "AveragePool"} | {
    "GlobalAveragePool",
    "GlobalMaxPool",
}

# The tail, in bytes on a 32-bit core: a TfLiteEvalTensor for every tensor, weights included; node and registration of every
# operator; a handle for every scratch buffer; and the interpreter with its allocators and planner, which is what measured
# arenas of four networks leave (262), rounded up.
_EVAL_TENSOR, _NODE, _SCRATCH_HANDLE, _INTERPRETER = 12, 32, 4, 284
# The parsed options and the kernel's own data of an operator: TFLM's structures, each padded to the alignment. Operators that
# aren't here are taken for larger than any that was looked up but those that are.
_KERNEL_DATA_OF = {
    "ADD": 72,
    "AVERAGE_POOL_2D": 88,
    "BATCH_MATMUL": 200,
    "CONCATENATION": 48,
    "CONV_2D": 92,
    "DEPTHWISE_CONV_2D": 92,
    "FULLY_CONNECTED": 88,
    "MAX_POOL_2D": 88,
    "MEAN": 56,
    "MUL": 64,
    "PAD": 72,
    "QUANTIZE": 56,
    "RESHAPE": 40,
    "SOFTMAX": 72,
    "STRIDED_SLICE": 120,
    "TRANSPOSE_CONV": 112,
}
_KERNEL_DATA = 88
#: Multiplier and shift of each output channel of a convolution, an int32 array each.
_PER_CHANNEL = 4


def program(net: Network, *, order: Sequence[str] | None = None, dim: Dim | None = None) -> Program:
    """The TensorFlow Lite operators that a converter emits for a network, batch 1, int8, channels last.

    order: node names in the order to run in; the file's order without it.
    dim: sizes of axes, integers by default; with functions of widths the program is one for every cut of the network.

    What conversion adds or leaves out: a BatchNormalization, bias or activation behind a convolution, product, sum or pool
    goes into it; reshapes that only move axes of size 1 and transposes between channels-first and channels-last vanish,
    others become operators that copy. TensorFlow Lite pads only symmetrically up to the last row ("SAME") or not at all
    ("VALID"); other padding, such as PyTorch's pad=1 with stride 2 on an even size, becomes a PAD operator with a tensor
    of its own. A Concat needs one scale for all inputs: unless all come from a Relu or Clip, a QUANTIZE operator copies
    each. A convolution is quantised per channel, a fully connected layer per tensor. Sums of n terms are n - 1 operators.
    """
    return _Lowering(net, dim or (lambda tensor, axis: net.shapes[tensor][axis])).run(order)


def arena_tflm(net: Network, *, order: Sequence[str] | None = None, offline: bool = False) -> Arena:
    """The arena that TFLM with CMSIS-NN needs on a 32-bit core, without or with an offline memory plan in the file."""
    return program(net, order=order).arena(offline=offline)


class _Window(NamedTuple):
    """How a sliding operator pads: (before, after) of each spatial axis.

    explicit: what a PAD operator in front must add; None where TensorFlow Lite's own SAME or VALID does it.
    """

    before: tuple[int, ...]
    explicit: tuple[tuple[int, int], ...] | None


def window_of(node: Node, net: Network, kernel: Sequence[int]) -> _Window:
    sizes, outs = net.shapes[node.inputs[0]][2:], net.shapes[node.outputs[0]][2:]
    n = len(sizes)
    strides, dilations = node.attrs.get("strides") or (1,) * n, node.attrs.get("dilations") or (1,) * n
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    same = [max(0, (-(-i // s) - 1) * s + k - i) for i, s, k in zip(sizes, strides, spans, strict=True)]
    auto = node.attrs.get("auto_pad", "NOTSET")
    pads = node.attrs.get("pads") or (0,) * (2 * n)
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        low = [total // 2 if auto == "SAME_UPPER" else total - total // 2 for total in same]
        pads = (*low, *(total - one for total, one in zip(same, low, strict=True)))
    elif auto == "VALID":
        pads = (0,) * (2 * n)
    before = tuple(pads[:n])
    reached = [(o - 1) * s + k - i - b for o, s, k, i, b in zip(outs, strides, spans, sizes, before, strict=True)]
    is_valid = not any(before) and all(over <= 0 for over in reached)
    is_same = all(o == -(-i // s) for o, i, s in zip(outs, sizes, strides, strict=True)) and all(
        b == total // 2 for b, total in zip(before, same, strict=True)
    )
    if is_valid or is_same:
        return _Window(before, None)
    return _Window((0,) * n, tuple((b, max(a, over)) for b, a, over in zip(before, pads[n:], reached, strict=True)))


class _Lowering:
    """One walk over the nodes, each of which emits operators."""

    def __init__(self, net: Network, dim: Dim) -> None:
        self.net, self.dim = net, dim
        self.operators: list[tuple[str, str]] = []
        self.tensors: list[str] = []
        self.sizes: list[Any] = []
        self.spans: list[list[int]] = []
        self.scratch: list[Scratch] = []
        self.persistent: list[tuple[Any, int]] = []
        self.constants = 0
        self.missing: list[str] = []
        self.place: dict[str, int] = {}
        self.folded = folded_into(net)
        self.fused = self._fused_activations()

    def run(self, order: Sequence[str] | None) -> Program:
        for name in self.net.inputs:
            self.place[name] = self.tensor(name, elements(self.net, name, self.dim), 0)
        by_name = {node.name: node for node in self.net.nodes}
        for node in [by_name[name] for name in order] if order is not None else self.net.nodes:
            self.node(node)
        for name in self.net.outputs:
            self.spans[self.place[name]][1] = len(self.operators)
        lifetimes = tuple(Lifetime(first, last) for first, last in self.spans)
        kernels = sum(_KERNEL_DATA_OF.get(operator, _KERNEL_DATA) for operator, _ in self.operators)
        fixed = _EVAL_TENSOR * (len(self.tensors) + self.constants) + _NODE * len(self.operators) + kernels
        return Program(
            tuple(self.operators),
            tuple(self.tensors),
            tuple(self.sizes),
            lifetimes,
            tuple(self.scratch),
            tuple(self.persistent),
            fixed + _INTERPRETER + _SCRATCH_HANDLE * len(self.scratch),
            tuple(self.missing),
            overlaps([*lifetimes, *(Lifetime(s.op, s.op) for s in self.scratch)]),
        )

    # -------------------------------------------------------------------------------------------------- what they emit

    def tensor(self, name: str, size: Any, start: int) -> int:
        self.tensors.append(name)
        self.sizes.append(size)
        self.spans.append([start, start])
        return len(self.tensors) - 1

    def operator(self, operator: str, node: Node, inputs: Sequence[int], outputs: Mapping[str, Any], constants: int = 0) -> int:
        """Emit one; returns its first output. outputs: name -> size."""
        self.operators.append((operator, node.name))
        now = len(self.operators)
        for buffer in inputs:
            self.spans[buffer][1] = now
        made = [self.tensor(name, size, now) for name, size in outputs.items()]
        self.constants += constants
        return made[0]

    def ask(self, quantity: Any, slope: int) -> None:
        """Scratch of the operator emitted last."""
        self.scratch.append(Scratch(len(self.operators), quantity, slope))

    def size(self, name: str) -> Any:
        return elements(self.net, name, self.dim)

    def data(self, node: Node) -> list[int]:
        """Buffers of the node's inputs that aren't constant."""
        return [self.place[name] for name in node.inputs if name and not self.net.is_constant(name)]

    def emit(self, operator: str, node: Node, constants: int = 0) -> None:
        """One operator with the node's own inputs and outputs."""
        outputs = [name for name in node.outputs if name]
        first = self.operator(operator, node, self.data(node), {name: self.size(name) for name in outputs}, constants)
        self.place.update({name: first + i for i, name in enumerate(outputs)})

    # --------------------------------------------------------------------------------------------------- node by node

    def node(self, node: Node) -> None:
        entry = OPS[node.op]
        source = next((name for name in node.inputs if name in self.place), "")
        if node.name in self.folded or node.name in self.fused or self._vanishes(node):
            self.place[node.outputs[0]] = self.place[source]
        elif isinstance(entry, Mixer):
            self.mixer(node)
        elif node.op in ("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool"):
            self.pool(node)
        elif node.op in ("Reshape", "Flatten", "Squeeze", "Unsqueeze"):
            self.emit("RESHAPE", node, 1)
        elif node.op == "Pad":
            self.emit("PAD" if node.attrs.get("mode", "constant") == "constant" else "MIRROR_PAD", node, 2)
        elif node.op == "Slice":
            stepped = any(step != 1 for step in node.attrs.get("steps") or ())
            self.emit("STRIDED_SLICE" if stepped else "SLICE", node, 3 if stepped else 2)
        elif node.op == "Concat":
            self.concat(node)
        elif node.op in _ELEMENTWISE:
            self.elementwise(node)
        elif node.op in _SINGLE:
            operator, constants = _SINGLE[node.op]
            self.emit(operator, node, constants)
            if operator in ("MEAN", "SUM"):  # an int32 accumulator, and two lists of axes
                self.ask(self.size(node.outputs[0]), 4)
            if operator in ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"):
                self.ask(1, 16)
                self.ask(1, 16)
        else:
            self.missing.append(node.name)
            self.emit(node.op, node, sum(map(self.net.is_constant, node.inputs)))

    def _vanishes(self, node: Node) -> bool:
        """Whether a view needs no operator: another dress, layout, or axes of size 1 alone."""
        entry, net = OPS[node.op], self.net
        if isinstance(entry, Quantization) or node.op in ("Identity", "Dropout", "Cast"):
            return entry.memory(node, net) == "view"
        if entry.memory(node, net) != "view":
            return False
        before, after = net.shapes[node.inputs[0]], net.shapes[node.outputs[0]]
        if node.op in ("Reshape", "Flatten", "Squeeze", "Unsqueeze"):
            return [d for d in before if d > 1] == [d for d in after if d > 1] and (len(after) > 2 or len(before) <= 2)
        return True

    def mixer(self, node: Node) -> None:
        net, dim = self.net, self.dim
        if node.op == "Conv":
            self.conv(node)
        elif node.op == "ConvTranspose":
            self.conv_transpose(node)
        elif node.op == "Gemm" or (isinstance(entry := OPS[node.op], MatMul) and entry.is_layer(node, net)):
            self.emit("FULLY_CONNECTED", node, 2)
            rank = len(net.shapes[node.outputs[0]])
            if (
                rank > 2
            ):  # where the depth is a multiple of 4 it runs as a 1x1 convolution, with per-channel factors written out
                self.ask(dim(node.outputs[0], rank - 1), 8)
        else:
            self.emit("BATCH_MATMUL", node, sum(map(net.is_constant, node.inputs)))
            right = node.inputs[1]
            self.persistent.append((prod(net.shapes[right]) if net.is_constant(right) else self.size(right), 1))

    def padded(self, node: Node, window: _Window) -> int:
        """The buffer that a sliding operator reads: its input, or the output of a PAD in front."""
        source = self.place[node.inputs[0]]
        if window.explicit is None:
            return source
        shape = self.net.shapes[node.inputs[0]]
        space = prod(size + sum(pads) for size, pads in zip(shape[2:], window.explicit, strict=True))
        wider = {f"{node.inputs[0]}/padded": shape[0] * space * self.dim(node.inputs[0], 1)}
        return self.operator("PAD", node, [source], wider, 1)

    def conv(self, node: Node) -> None:
        """CONV_2D or DEPTHWISE_CONV_2D; one axis of space is a second one of size 1."""
        net, dim = self.net, self.dim
        kernel = net.shapes[node.inputs[1]][2:]
        taps, group = prod(kernel), node.attrs.get("group", 1)
        window = window_of(node, net, kernel)
        source, output = self.padded(node, window), node.outputs[0]
        channels, outs = net.shapes[node.inputs[0]][1], net.shapes[output][1]
        dilated = any(d > 1 for d in node.attrs.get("dilations") or ())
        depthwise = group == channels and group > 1
        if len(kernel) > 2:
            self.missing.append(node.name)
        operator = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
        self.place[output] = self.operator(operator, node, [source], {output: self.size(output)}, 2)
        self.persistent += [(dim(output, 1), _PER_CHANNEL)] * 2
        if depthwise:
            fast = tuple(kernel) == (3, 3) and all(pad <= 1 for pad in window.before)
            if channels == outs and not dilated and not fast:
                self.ask(dim(node.inputs[0], 1), 2 * taps)  # arm_depthwise_conv_s8_opt: one int16 column
        elif taps > 1 or any(window.before) or dilated or group > 1:
            # arm_convolve_s8: two int16 columns, each a multiple of 4 long, which the arena's alignment amounts to
            self.ask(dim(node.inputs[0], 1), 4 * taps)

    def conv_transpose(self, node: Node) -> None:
        """TRANSPOSE_CONV, which crops nothing by itself: what ONNX crops is a SLICE behind it."""
        net, dim = self.net, self.dim
        data, weight, output = node.inputs[0], node.inputs[1], node.outputs[0]
        kernel, sizes, outs = net.shapes[weight][2:], net.shapes[data][2:], net.shapes[output][2:]
        n = len(kernel)
        strides = node.attrs.get("strides") or (1,) * n
        if node.attrs.get("group", 1) > 1 or n > 2 or any(d > 1 for d in node.attrs.get("dilations") or ()):
            self.missing.append(node.name)
        whole = tuple((i - 1) * s + k for i, s, k in zip(sizes, strides, kernel, strict=True))
        total = [max(0, (i - 1) * s + k - o) for i, s, k, o in zip(sizes, strides, kernel, outs, strict=True)]
        pads = node.attrs.get("pads") or (0,) * (2 * n)
        same = all(o == i * s for o, i, s in zip(outs, sizes, strides, strict=True)) and all(
            b == t // 2 for b, t in zip(pads[:n], total, strict=True)
        )
        direct = same or tuple(outs) == whole
        grown = {output: self.size(output)} if direct else {f"{output}/whole": prod(whole) * dim(output, 1)}
        made = self.operator("TRANSPOSE_CONV", node, [self.place[data]], grown, 3)
        self.persistent += [(dim(output, 1), _PER_CHANNEL)] * 2
        # CMSIS-NN runs it as a convolution with a reversed kernel, or into an int32 image of the output's rows: the larger.
        rows = max(kernel[0], strides[0]) * ((sizes[-1] - 1) * strides[-1] + max(kernel[-1], strides[0]))
        self.ask(dim(output, 1), 4 * rows)
        if all(stride <= 2 for stride in strides):
            self.ask(dim(data, 1), 4 * prod(kernel))
            self.ask(dim(data, 1) * dim(output, 1), prod(kernel))
        self.place[output] = made if direct else self.operator("SLICE", node, [made], {output: self.size(output)}, 2)

    def pool(self, node: Node) -> None:
        net, average = self.net, node.op.endswith("AveragePool")
        operator = "AVERAGE_POOL_2D" if average else "MAX_POOL_2D"
        if node.op.startswith("Global"):
            window = _Window((0, 0), None)
        else:
            window = window_of(node, net, node.attrs["kernel_shape"])
            if average and node.attrs.get("count_include_pad") and any(window.before):  # TensorFlow Lite never counts pads
                pads = node.attrs.get("pads") or ()
                window = _Window(window.before, tuple(zip(pads[: len(pads) // 2], pads[len(pads) // 2 :], strict=True)))
        if (
            len(net.shapes[node.inputs[0]]) > 4
            or any(node.outputs[1:])
            or any(d > 1 for d in node.attrs.get("dilations") or ())
        ):
            self.missing.append(node.name)
        source, outputs = self.padded(node, window), [name for name in node.outputs if name]
        first = self.operator(operator, node, [source], {name: self.size(name) for name in outputs})
        self.place.update({name: first + i for i, name in enumerate(outputs)})
        if average:
            self.ask(self.dim(node.inputs[0], 1), 4)  # arm_avgpool_s8: an int32 accumulator for each channel

    def concat(self, node: Node) -> None:
        """CONCATENATION, with a QUANTIZE in front of each input where their scales differ."""
        names = [name for name in node.inputs if not self.net.is_constant(name)]
        sources = [self.place[name] for name in names]
        if not all(self._is_clamped(name) for name in node.inputs):
            sources = [
                self.operator("QUANTIZE", node, [source], {f"{name}/requantized": self.size(name)})
                for name, source in zip(names, sources, strict=True)
            ]
        output = node.outputs[0]
        constants = len(node.inputs) - len(names)
        self.place[output] = self.operator("CONCATENATION", node, sources, {output: self.size(output)}, constants)

    def elementwise(self, node: Node) -> None:
        """A chain of operators: several for what TFLM has no kernel for, n - 1 for n inputs."""
        output, data = node.outputs[0], self.data(node)
        operands = [name for name in node.inputs if name]
        chain = list(_ELEMENTWISE[node.op])
        if node.op in ("Max", "Min", "Sum"):
            chain *= max(1, len(operands) - 1)
        constants = sum(map(self.net.is_constant, operands)) + (2 if node.op == "HardSigmoid" else 0)
        last = data[0]
        for position, operator in enumerate(chain):
            final = position == len(chain) - 1
            others = data if len(chain) == 1 else data[: 2 if position == 0 else 1]
            if len(chain) > 1 and position:
                others = [last, *(data[position + 1 : position + 2] if node.op != "Swish" else data[:1])]
            name = output if final else f"{output}/{position}"
            last = self.operator(operator, node, others, {name: self.size(output)}, constants if position == 0 else 0)
        self.place[output] = last

    # ------------------------------------------------------------------------------------------------- who goes where

    def _fused_activations(self) -> set[str]:
        """Relu and Clip that the operator before them does by itself."""
        net = self.net
        ends = {node.name: node.outputs[0] for node in net.nodes if node.op in _FUSING or is_mixer(node, net)}
        by_name = {node.name: node for node in net.nodes}
        for tail, mixer in self.folded.items():
            ends[mixer] = by_name[tail].outputs[0]
            ends.pop(tail, None)
        readers = [sole_reader(tensor, net) for tensor in ends.values()]
        return {found[0].name for found in readers if found is not None and OPS[found[0].op].int8 == "clamp"}

    def _is_clamped(self, tensor: str) -> bool:
        """Whether a tensor comes from a Relu or Clip, directly or through operators that keep its scale."""
        node = self.net.producer.get(tensor)
        while node is not None and OPS[node.op].int8 == "same":
            node = self.net.producer.get(node.inputs[0])
        return node is not None and OPS[node.op].int8 == "clamp"


# ---------------------------------------------------------------------------------------------------------------- boards

_KB = 1024


@dataclass(frozen=True)
class Board:
    """A development board. Memory in bytes.

    sram: all of it. block: the largest block that one arena can lie in, less what the board's usual firmware keeps.
    flash: external where ``note`` says so. source: where the row comes from.
    verified: whether somebody read the row in that source; other rows have parts written from memory, to be checked
        against the data sheet.
    """

    name: str
    chip: str
    core: str
    mhz: int
    sram: int
    block: int
    flash: int
    source: str
    verified: bool
    note: str = ""


_MCUFIT, _MLPERF, _MANUAL = "mcufit board table", "MLPerf Tiny v1.1 system description", "ST reference manual"


def _board(
    name: str, chip: str, core: str, mhz: int, memory: tuple[int, int, int], source: str, verified: bool, note: str = ""
) -> Board:
    """A row of the table; memory: SRAM, its largest block and flash in KB."""
    sram, block, flash = (size * _KB for size in memory)
    return Board(name, chip, core, mhz, sram, block, flash, source, verified, note)


BOARDS: Mapping[str, Board] = {
    row.name: row
    for row in (
        _board("arduino-nano-33-ble", "nRF52840", "Cortex-M4", 64, (256, 208, 1024), _MCUFIT, True, "Bluetooth keeps 48 KB"),
        _board("blackpill-f411ce", "STM32F411CE", "Cortex-M4", 100, (128, 128, 512), _MCUFIT, True),
        _board(
            "disco-f746ng",
            "STM32F746NG",
            "Cortex-M7",
            216,
            (320, 240, 1024),
            f"{_MCUFIT}; {_MLPERF}; blocks from memory",
            False,
        ),
        _board(
            "esp32-s3", "ESP32-S3", "Xtensa LX7", 240, (512, 362, 8192), _MCUFIT, True, "firmware keeps 150 KB; external flash"
        ),
        _board("nrf5340-dk", "nRF5340", "Cortex-M33", 128, (512, 512, 1024), f"{_MLPERF}; memory sizes from memory", False),
        _board(
            "nucleo-f446re", "STM32F446RE", "Cortex-M4", 180, (128, 112, 512), f"{_MANUAL}; clock and flash from memory", False
        ),
        _board("nucleo-f767zi", "STM32F767ZI", "Cortex-M7", 216, (512, 368, 2048), _MANUAL, True, "128 KB of it are DTCM"),
        _board(
            "nucleo-g0b1re", "STM32G0B1RE", "Cortex-M0+", 64, (144, 144, 512), f"{_MLPERF}; memory sizes from memory", False
        ),
        _board("nucleo-h743zi2", "STM32H743ZI", "Cortex-M7", 480, (1024, 512, 2048), _MCUFIT, True),
        _board(
            "nucleo-h7a3zi-q",
            "STM32H7A3ZI",
            "Cortex-M7",
            280,
            (1376, 1024, 2048),
            f"{_MLPERF}; memory sizes from memory",
            False,
        ),
        _board(
            "nucleo-l4r5zi", "STM32L4R5ZI", "Cortex-M4", 120, (640, 384, 2048), f"{_MLPERF}; memory sizes from memory", False
        ),
        _board(
            "nucleo-u575zi-q", "STM32U575ZI", "Cortex-M33", 160, (786, 512, 2048), f"{_MLPERF}; memory sizes from memory", False
        ),
        _board("raspberry-pi-pico", "RP2040", "Cortex-M0+", 133, (264, 256, 2048), _MCUFIT, True, "external flash"),
        _board("raspberry-pi-pico-2", "RP2350", "Cortex-M33", 150, (520, 512, 4096), _MCUFIT, True, "external flash"),
        _board("teensy-4.1", "i.MX RT1062", "Cortex-M7", 600, (1024, 512, 7936), _MCUFIT, True, "external flash"),
    )
}


def board(name: str) -> Board:
    """The board of that name, in any case. Raises UsageError that lists the nearest names."""
    found = BOARDS.get(name.lower())
    if found is None:
        part = [known for known in BOARDS if name.lower() in known]
        near = part or get_close_matches(name.lower(), BOARDS, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"mcuprune knows {', '.join(BOARDS)}"
        raise UsageError(f"no board '{name}'; {hint}")
    return found


def board_budget(name: str) -> dict[str, Limit]:
    """The limits that a board sets: its largest block of SRAM, for the arena, and its flash; program code isn't deducted."""
    found = board(name)
    return {"sram": Limit(Fraction(found.block), relative=False), "flash": Limit(Fraction(found.flash), relative=False)}


# ----------------------------------------------------------------------------------------------------- latency and energy


@dataclass(frozen=True)
class Range:
    """An estimate, not a measurement: between ``low`` and ``high``, for the reasons in ``sources``."""

    low: float
    high: float
    sources: tuple[str, ...]


def _range(low: float, high: float, source: str) -> Range:
    return Range(low, high, (source,))


_TINY = "MLPerf Tiny v1.0 and v1.1, closed division"
_M4_CYCLES = {
    "conv": _range(
        1.4,
        5.6,
        f"{_TINY}, image classification: Plumerai 1.61, X-CUBE-AI 2.05, microTVM with CMSIS-NN 3.74 on an STM32L4R5, "
        "TFLM 5.55 on an nRF52840 (mcufit); low: person detection, 1.53 to 1.58 with its depthwise layers",
    ),
    "depthwise": _range(
        2.0, 16.0, "high: mcufit's fit of an nRF52840 (15.9); low: what whole MobileNets leave for their depthwise layers"
    ),
    "dense": _range(
        1.8,
        5.4,
        f"{_TINY}, anomaly detection: Plumerai 1.84, X-CUBE-AI 3.12, microTVM with CMSIS-NN 3.91 on an STM32L4R5, "
        "TFLM 5.38 on an nRF52840 (mcufit)",
    ),
}
_M33 = f"{_TINY}: whole models 1.53 to 3.99 on an STM32U575 and an nRF5340; spread between stacks as on Cortex-M4"

#: Core -> operator class -> cycles for one multiply-accumulate. A core that isn't here has no data.
CYCLES_PER_MAC: Mapping[str, Mapping[str, Range]] = {
    "Cortex-M4": _M4_CYCLES,
    "Cortex-M33": {name: _range(found.low, found.high, _M33) for name, found in _M4_CYCLES.items()},
    "Cortex-M7": {
        "conv": _range(
            0.9,
            2.0,
            f"{_TINY}: image classification 1.06 to 1.16 (Plumerai, Bosch, X-CUBE-AI), person detection 0.98 to 1.65; "
            "CMSIS-NN takes 1.5 times X-CUBE-AI in TinyEngine's comparison",
        ),
        "depthwise": _range(
            0.9, 9.0, f"derived from {_TINY}, keyword spotting 1.44 to 1.62 less its other layers, times 1.5 for CMSIS-NN"
        ),
        "dense": _range(1.3, 2.9, f"{_TINY}, anomaly detection: 1.39 to 1.93, times 1.5 for CMSIS-NN"),
    },
    "Cortex-M0+": {
        "conv": _range(8.5, 16.5, f"{_TINY}: whole models 8.55 to 16.4 (Bosch HALE on an STM32G0B1)"),
        "depthwise": _range(8.5, 81.0, f"derived from {_TINY}, keyword spotting 16.4 less its other layers at 8.55"),
        "dense": _range(8.5, 16.5, f"{_TINY}: whole models 8.55 to 16.4 (Bosch HALE on an STM32G0B1)"),
    },
}

#: Board -> nanojoules for one multiply-accumulate of a whole inference. A board that isn't here has no data.
ENERGY_PER_MAC: Mapping[str, Range] = {
    "nucleo-l4r5zi": _range(0.56, 2.2, f"{_TINY}: 0.56 to 1.07 (X-CUBE-AI), 1.4 to 2.2 (microTVM, other supply voltage)"),
    "nucleo-h7a3zi-q": _range(0.49, 0.70, f"{_TINY}: X-CUBE-AI"),
    "nucleo-u575zi-q": _range(0.26, 0.38, f"{_TINY}: X-CUBE-AI"),
}


def macs_by_class(net: Network) -> dict[str, int]:
    """Multiply-accumulates of convolutions (pointwise included), depthwise convolutions and matrix products."""
    totals = {"conv": 0, "depthwise": 0, "dense": 0}
    for node in net.nodes:
        macs = int(OPS[node.op].macs(node, net, lambda tensor, axis: net.shapes[tensor][axis]))
        if macs and isinstance(OPS[node.op], Conv):
            group = node.attrs.get("group", 1)
            totals["depthwise" if group == net.shapes[node.inputs[0]][1] and group > 1 else "conv"] += macs
        elif macs:
            totals["dense"] += macs
    return totals


def latency(macs: Mapping[str, int], on: Board) -> Range | None:
    """Milliseconds of one inference, from multiply-accumulates by class; None where a class has no data for this core.

    It covers int8 kernels of good software stacks, which differ up to threefold on one chip; TFLM without CMSIS-NN is
    four to eleven times slower. Operators without multiply-accumulates are only in it as far as they were in what was measured.
    """
    cycles = CYCLES_PER_MAC.get(on.core)
    used = [name for name, count in macs.items() if count]
    if cycles is None or any(name not in cycles for name in used):
        return None
    scale = on.mhz * 1000
    return Range(
        sum(macs[name] * cycles[name].low for name in used) / scale,
        sum(macs[name] * cycles[name].high for name in used) / scale,
        tuple(dict.fromkeys(source for name in used for source in cycles[name].sources)),
    )


def energy(macs: Mapping[str, int], on: Board) -> Range | None:
    """Microjoules of one inference; None for a board that has no data."""
    each = ENERGY_PER_MAC.get(on.name)
    total = sum(macs.values())
    return None if each is None else Range(total * each.low / 1000, total * each.high / 1000, each.sources)
