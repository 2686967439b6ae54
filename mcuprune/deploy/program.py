"""What runs on the chip, as one object: operators of TensorFlow Lite over tensors, and what reads them as memory.

``Program.arena`` lays the tensors out as TensorFlow Lite Micro (TFLM) does:

* the *head*: activations and kernel scratch, placed by TFLM's greedy planner or by a plan in the file;
* the *tail*: what lives as long as the interpreter, by cause: handles of tensors, nodes of operators, what kernels keep,
  two factors for each channel of a convolution, and the interpreter itself.

On the way there it needs memory of other kinds, which is free again once tensors are placed: ``Arena.start``.

Kernels are those of CMSIS-NN on a 32-bit core with DSP instructions (Cortex-M4, M7, M33) unless others are asked for. The
planner may leave gaps: up to a third over the peak of the same schedule. Nothing was measured on silicon: heads are checked
against the TFLM interpreter, totals against Cortex-M4 code in an emulator.

Sizes may be integers, or functions of widths (``ops.Dim``): then one program stands for every cut of a network, and
``quantities`` is what a cost model has to evaluate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from math import ceil, prod
from typing import Any, Literal

import numpy as np

from mcuprune.deploy import kernels as table
from mcuprune.deploy import sampling
from mcuprune.deploy.kernels import KERNELS, Form, Integers, Kernel, Kernels, Scratch
from mcuprune.deploy.planner import (
    ALIGNMENT,
    Lifetime,
    aligned,
    greedy_layout,
    head_of,
    most_alive,
    overlaps,
    searched_layout,
)
from mcuprune.deploy.qdq import HIGH, LOW, Quantizer, lost
from mcuprune.errors import McupruneError, UnsupportedOperator
from mcuprune.graph.network import Shape
from mcuprune.immutable import immutable

Array = np.ndarray[Any, Any]
#: More tensors at once are no network for a microcontroller, whose runtime keeps a record of each; a plan takes their square.
_MOST_TOGETHER = 4096
#: For each dimension of a TFLite tensor the ONNX axis that it is; None for those of size 1.
Axes = tuple[int | None, ...]
#: Bytes of a pointer: 4 on a microcontroller, 8 where the interpreter runs on a computer.
Pointer = Literal[4, 8]


@immutable
class Constant:
    """The content of a constant tensor.

    scales, zero_points: one, or one for each index along ``axis``; none for plain numbers.
    """

    data: Array
    scales: Array
    zero_points: Array
    axis: int = 0

    def quantizer(self) -> Quantizer:
        """The first of its quantisers."""
        return Quantizer(float(self.scales.reshape(-1)[0]), int(self.zero_points.reshape(-1)[0]))


@immutable
class Storage:
    """How a constant is quantised, as far as that is known without its numbers.

    scales: how many there are, an integer or a function of widths; None for plain numbers. symmetric: whether all zero points
    are 0. axis: along which scales differ, 0 for a single one.
    """

    scales: Any = None
    symmetric: bool = True
    axis: int = 0


@immutable
class Tensor:
    """A tensor of the program.

    dims: its sizes, integers or functions of widths; shape: the same at the widths that the network has.
    quantizer: of computed int8 tensors. content, stored: of constants; content is computed only when a file is written.
    """

    name: str
    dims: tuple[Any, ...]
    shape: Shape
    dtype: str = "int8"
    quantizer: Quantizer | None = None
    content: Callable[[], Constant] | None = None
    stored: Storage = Storage()

    @property
    def size(self) -> Any:
        """Elements, which are bytes for all that is computed."""
        total: Any = 1
        for size in self.dims:
            total = total * size
        return total

    def only_quantizer(self) -> Quantizer:
        """The quantiser of a tensor that has one; of a constant with several, its first."""
        if self.content is None:
            assert self.quantizer is not None
            return self.quantizer
        return self.content().quantizer()

    def integers(self) -> Integers:
        """What it may have: of a computed tensor all of int8, of a constant what it has."""
        own = self.only_quantizer()
        least, most = (LOW, HIGH) if self.content is None else ((data := self.content().data).min(), data.max())
        return Integers(own, int(least) - own.zero_point, int(most) - own.zero_point)


@immutable
class Operator:
    """One operator. inputs, outputs: indices of tensors. node: the ONNX node that it is written for.

    why: where the operator stands for a node that TFLM has no int8 kernel for, the reason; "" otherwise.
    """

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any]
    node: str
    why: str = ""


@immutable
class Port:
    """An input or output of the program: an ONNX tensor, and how TFLite holds it.

    shape: ONNX's, batch 1. axes: see ``Axes``. tensor: its index in the program.
    """

    name: str
    shape: Shape
    axes: Axes
    quantizer: Quantizer
    tensor: int = -1

    def to_tflite(self, x: Array) -> Array:
        """Data in ONNX's order -> in TFLite's order and shape."""
        kept = [axis for axis in self.axes if axis is not None]
        order = [sorted(kept).index(axis) for axis in kept]
        sizes = [self.shape[axis] for axis in sorted(kept)]
        own = tuple(1 if axis is None else self.shape[axis] for axis in self.axes)
        return np.ascontiguousarray(x.reshape(sizes).transpose(order).reshape(own))

    def to_onnx(self, x: Array) -> Array:
        """Data in TFLite's order -> in ONNX's order and shape."""
        kept = [axis for axis in self.axes if axis is not None]
        return x.reshape([self.shape[axis] for axis in kept]).transpose(np.argsort(kept)).reshape(self.shape)


@immutable
class Buffer:
    """A buffer of the head as it was laid out, all in bytes; ``name`` is the tensor, or the node for scratch."""

    name: str
    offset: int
    bytes: int
    first: int
    last: int


@immutable
class Tail:
    """What lives as long as the interpreter, in bytes by cause.

    operators: their nodes, options, and what kernels keep. tensors: a handle of each, of constants too. channels: factors of
    convolutions and what else grows with widths. ports: inputs and outputs of the graph. interpreter: itself, its allocators,
    and what is missing to a multiple of the alignment.
    Variables, which outlive an inference, have no place here: no file that is written has any.
    """

    operators: int
    tensors: int
    channels: int
    ports: int
    interpreter: int

    @property
    def total(self) -> int:
        """Bytes of all causes together."""
        return self.operators + self.tensors + self.channels + self.ports + self.interpreter


@immutable
class Arena:
    """The arena of TFLM, in bytes. total = head + tail.

    head: activations and scratch, exactly as the planner lays them out. tail: see ``Program.tail``.
    start: what AllocateTensors needs on its way, more than the total where activations are few; an upper bound.
    busiest: what is alive at the worst operator, which no layout can undercut.
    stack: the buffers on top of each other that make up the head.
    """

    head: int
    tail: int
    start: int
    busiest: int
    buffers: tuple[Buffer, ...]
    stack: tuple[int, ...]

    @property
    def total(self) -> int:
        """Bytes of the arena: head and tail. What the interpreter says that it uses once tensors are allocated."""
        return self.head + self.tail

    @property
    def enough(self) -> int:
        """Bytes with which the interpreter starts and runs, a multiple of the alignment."""
        return max(self.total, self.start)


@immutable
class Copy:
    """A tensor that the written file makes and that the peak of the network counts as free, with the reason."""

    node: str
    operator: str
    tensor: str
    bytes: Any
    reason: str


@immutable
class _Scratch:
    op: int
    wanted: Scratch


@immutable
class Program:
    """A network as TensorFlow Lite operators, in the order in which they run.

    tensors: computed ones and constants, in the order of the file; planners break ties by it.
    problems: what keeps this program from being written as a file, in order. It is priced all the same.
    measured: whether its quantisers are those of the file, not what stands in for them until ranges are measured.
    """

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    problems: tuple[McupruneError, ...] = ()
    path: str = ""
    measured: bool = True

    # ------------------------------------------------------------------------------------------------ what it consists of

    @property
    def missing(self) -> tuple[str, ...]:
        """Nodes without an int8 kernel in TFLM. They count as one operator, but this network won't run there as it is."""
        return tuple(dict.fromkeys(operator.node for operator in self.operators if operator.why))

    def check(self) -> None:
        """Raise the first of ``problems``, which names a node or tensor: this program can't be written as a file."""
        for problem in self.problems:
            raise problem

    def check_forms(self) -> None:
        """Raise UnsupportedOperator where no .tflite can be written for the form of an operator."""
        if reason := self.only_c():
            raise UnsupportedOperator(reason)

    def only_c(self) -> str:
        """The first operator that the kernel of TensorFlow Lite Micro can't compute as it is, and what to do; "" without one.

        That is for want of dimensions or for its ranges, as far as these are known. Generated C computes both.
        """
        for operator in self.operators:
            kernel = KERNELS.get(operator.name)
            if kernel is None:
                continue
            seen = [self.tensors[tensor] for tensor in (*operator.inputs, *operator.outputs) if tensor >= 0]
            rank = max(len(tensor.shape) for tensor in seen)
            reason = ""
            if kernel.rank and rank > kernel.rank:
                reason = (
                    f"of {rank} dimensions; the one of TensorFlow Lite Micro takes {kernel.rank} at most: export .c, or write "
                    "the node with fewer"
                )
            elif kernel.limit is not None and self.measured and not self.problems:
                reason = kernel.limit([tensor.integers() for tensor in seen])
            if reason:
                return f"{self.path}: node '{operator.node}': {operator.name} {reason}"
        return ""

    @cached_property
    def lost(self) -> tuple[str, ...]:
        """What kernels with a quantiser of their own can't store of what the network gives: for each, and what to do."""
        makers = {
            operator.outputs[0]: operator
            for operator in self.operators
            if operator.name in KERNELS and KERNELS[operator.name].writes is not None
        }
        sentences = []
        for operator in self.operators:
            if operator.name != "QUANTIZE" or operator.inputs[0] not in makers:
                continue
            maker = makers[operator.inputs[0]]
            kernel, network = (self.tensors[index].quantizer for index in (operator.inputs[0], operator.outputs[0]))
            if kernel is None or network is None:
                continue
            sentences.append(lost(f"node '{maker.node}': {maker.name}", kernel, network))
        return tuple(filter(None, sentences))

    @cached_property
    def adrift(self) -> Mapping[int, float]:
        """Tensors that RESIZE_BILINEAR makes -> by how many of their steps they can be off, as the kernel rounds places.

        What the same node makes of such a tensor, with another scale or clamped, is in it too. What doesn't drift is not.
        """
        steps: dict[int, float] = {}
        makers: dict[int, str] = {}
        for operator in self.operators:
            if operator.why:
                continue
            source, output = operator.inputs[0], operator.outputs[0]
            if operator.name == "RESIZE_BILINEAR":
                options = operator.options["align_corners"], operator.options["half_pixel_centers"]
                pairs = zip(self.tensors[source].shape[1:3], self.tensors[output].shape[1:3], strict=True)
                right = prod(1 - sampling.astray(*options, *pair) for pair in pairs)
                if right < 1:
                    steps[output], makers[output] = (HIGH - LOW) * (1 - right), operator.node
            elif makers.get(source) == operator.node:
                before, after = (self.tensors[tensor].only_quantizer().scale for tensor in (source, output))
                steps[output], makers[output] = steps[source] * before / after, operator.node
        return steps

    @cached_property
    def drifts(self) -> tuple[str, ...]:
        """For each Resize that can be off by more than a step for the places that its kernel rounds: that, and what to do."""
        sentences = []
        for operator in self.operators:
            if operator.name == "RESIZE_BILINEAR" and (steps := self.adrift.get(operator.outputs[0], 0.0)) > 1:
                before, after = (
                    " x ".join(map(str, self.tensors[index].shape[1:3])) for index in (operator.inputs[0], operator.outputs[0])
                )
                sentences.append(
                    f"node '{operator.node}': from {before} to {after} pixels RESIZE_BILINEAR is off by up to {ceil(steps)} "
                    "of 255 steps where neighbours lie far apart: it counts places in 1/1024 of a pixel, and what it rounds "
                    "adds up. Nothing adds up with coordinates half_pixel or asymmetric and a factor of 2, 4 or 8"
                )
        return tuple(sentences)

    @cached_property
    def remarks(self) -> tuple[str, ...]:
        """What the written file doesn't compute as the network does, by the nature of its kernels; for the user."""
        return self.lost + self.drifts

    @cached_property
    def computed(self) -> tuple[int, ...]:
        """The tensors that lie in the arena, as indices."""
        return tuple(index for index, tensor in enumerate(self.tensors) if tensor.content is None)

    @cached_property
    def lifetimes(self) -> tuple[Lifetime, ...]:
        """Of the computed tensors."""
        first = {port.tensor: 0 for port in self.inputs}
        last = dict(first)
        for time, operator in enumerate(self.operators, 1):
            for tensor in operator.outputs:
                first[tensor] = last[tensor] = time
            last.update((tensor, time) for tensor in operator.inputs if tensor in first)
        last.update((port.tensor, len(self.operators)) for port in self.outputs if port.tensor in first)
        return tuple(Lifetime(first[tensor], last[tensor]) for tensor in self.computed)

    @cached_property
    def scratch(self) -> tuple[_Scratch, ...]:
        """What kernels ask for while they run; ``op`` counts from 1."""
        return tuple(_Scratch(time, wanted) for time, kernel, form in self._forms() for wanted in kernel.scratch(form))

    def _forms(self) -> Iterator[tuple[int, Kernel, Form]]:
        """Each operator that has a kernel, by when it runs, counted from 1, and what a rule may look at."""
        for time, operator in enumerate(self.operators, 1):
            kernel = KERNELS.get(operator.name)
            if kernel is None or operator.why:
                continue
            ins, outs = ([self.tensors[index] for index in part] for part in (operator.inputs, operator.outputs))
            yield (
                time,
                kernel,
                Form(
                    operator.options,
                    *(([t.dims for t in part]) for part in (ins, outs)),
                    *([t.shape for t in part] for part in (ins, outs)),
                ),
            )

    @cached_property
    def persistent(self) -> tuple[tuple[Any, int], ...]:
        """(quantity, slope): arrays of slope * quantity bytes that kernels keep, beside their structures."""
        sizes: list[tuple[Any, int]] = []
        for operator in self.operators:
            if operator.why:
                continue
            output = self.tensors[operator.outputs[0]]
            if operator.name in ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV") or operator.options.get("per_channel"):
                sizes += [(output.dims[-1], table.PER_CHANNEL)] * 2
            elif operator.name == "BATCH_MATMUL":  # the right operand, transposed
                sizes.append((self.tensors[operator.inputs[1]].size, 1))
        return tuple(sizes)

    @cached_property
    def quantities(self) -> tuple[Any, ...]:
        """All that may depend on widths: sizes of computed tensors, then of scratch, then of persistent arrays."""
        return (
            *(self.tensors[index].size for index in self.computed),
            *(scratch.wanted.quantity for scratch in self.scratch),
            *(quantity for quantity, _ in self.persistent),
        )

    # -------------------------------------------------------------------------------------------------------- the arena

    def arena(
        self,
        quantities: Sequence[int] | None = None,
        *,
        offline: bool = False,
        kernels: Kernels = "cmsis-nn",
        pointer: Pointer = 4,
        plan: Sequence[int] = (),
    ) -> Arena:
        """The arena where ``quantities`` have these values; without them they must be integers.

        offline: with the memory plan that ``planned`` finds. plan: with this one. Scratch stays with the greedy planner,
        which is what TFLM does.
        """
        values = self.quantities if quantities is None else quantities
        sizes = self._sizes(values, kernels)
        offsets_of = plan or (self.planned(values, kernels=kernels) if offline else ())
        offsets = greedy_layout(sizes, self._neighbours, self._fixed(offsets_of))
        names = (
            *(self.tensors[index].name for index in self.computed),
            *(self.operators[scratch.op - 1].node for scratch in self.scratch),
        )
        buffers = tuple(
            Buffer(name, offset, size, *span)
            for name, offset, size, span in zip(names, offsets, sizes, self._spans, strict=True)
        )
        head = head_of(sizes, offsets)
        tail = self.tail_by_cause(values, kernels=kernels, pointer=pointer)
        start = aligned(tail.total - tail.ports) + self._passing(kernels, pointer)
        return Arena(head, tail.total, start, most_alive(sizes, self._spans), buffers, self._stack(buffers, head))

    def enough_on_vectors(self, plan: Sequence[int] = ()) -> int:
        """Bytes of arena that are enough where CMSIS-NN uses vector units, with this plan in the file: an upper bound."""
        arena, sizes = self.arena(plan=plan), self._sizes(self.quantities, "cmsis-nn")
        asked = {time: kernel.on_vectors(form) for time, kernel, form in self._forms() if kernel.on_vectors is not None}
        most = {time: aligned(each.scratch) for time, each in asked.items()}
        for index, scratch in enumerate(self.scratch, len(self.computed)):
            if scratch.op in most:
                most[scratch.op] = max(most[scratch.op], sizes[index])
                sizes[index] = 0
        spans = (*self._spans, *(Lifetime(time, time) for time in most))
        sizes += most.values()
        offsets = greedy_layout(sizes, overlaps(spans), self._fixed(plan))
        # every piece that is kept begins and ends at a whole alignment
        kept = sum(aligned(each.kept) + 2 * ALIGNMENT for each in asked.values())
        return aligned(max(arena.enough, arena.total - arena.head + head_of(sizes, offsets))) + kept

    def _fixed(self, plan: Sequence[int]) -> dict[int, int]:
        """Buffer -> where a plan places it; the rest is left to the runtime."""
        return {i: plan[tensor] for i, tensor in enumerate(self.computed) if plan[tensor] >= 0} if plan else {}

    def planned(self, quantities: Sequence[int] | None = None, *, kernels: Kernels = "cmsis-nn") -> tuple[int, ...]:
        """A memory plan for the file (TFLM's OfflineMemoryAllocation): an offset in bytes for every tensor, -1 for constants.

        Kernel scratch is taken into account: the runtime places it around what the plan places. Empty where the search finds
        nothing that takes less than the runtime's own planner.
        """
        sizes = self._sizes(self.quantities if quantities is None else quantities, kernels)
        offsets = searched_layout(tuple(sizes), self._spans, self._neighbours, len(self.computed))
        if head_of(sizes, offsets) >= head_of(sizes, greedy_layout(sizes, self._neighbours)):
            return ()
        place = dict(zip(self.computed, offsets, strict=False))
        return tuple(place.get(index, -1) for index in range(len(self.tensors)))

    def tail(self, quantities: Sequence[int] | None = None, *, kernels: Kernels = "cmsis-nn", pointer: Pointer = 4) -> int:
        """What lives as long as the interpreter, in bytes: piece by piece as TFLM takes it, from the end of an aligned arena.

        Structures are those of a compiler for bare Arm, whose enumerations have a byte.
        """
        return self.tail_by_cause(quantities, kernels=kernels, pointer=pointer).total

    def tail_by_cause(
        self, quantities: Sequence[int] | None = None, *, kernels: Kernels = "cmsis-nn", pointer: Pointer = 4
    ) -> Tail:
        """``tail``, split by what it is taken up by."""
        values = self.quantities if quantities is None else quantities
        rest = values[len(self.computed) + len(self.scratch) :]
        arrays = sum(aligned(slope * int(quantity)) for (_, slope), quantity in zip(self.persistent, rest, strict=True))
        key = (kernels, pointer)
        if key not in self._fixed_tails:
            self._fixed_tails[key] = self._fixed_tail(kernels, pointer)
        return replace(self._fixed_tails[key], channels=arrays)

    @cached_property
    def _fixed_tails(self) -> dict[tuple[Kernels, Pointer], Tail]:
        return {}

    def _fixed_tail(self, kernels: Kernels, pointer: Pointer) -> Tail:
        """All but the arrays of channels, which have whole alignments and shift nothing."""
        rows = [
            (table.UNKNOWN if operator.why else KERNELS[operator.name], self.tensors[operator.outputs[0]])
            for operator in self.operators
        ]
        interpreter, handles = table.INTERPRETER.at(pointer), table.EVAL_TENSOR.at(pointer) * len(self.tensors)
        at = interpreter + handles + table.NODE.at(pointer) * len(rows)
        for kernel, _ in rows:
            at = kernel.options.after(at, pointer)
        kept = [kernel.kept(kernels, pointer) for kernel, _ in rows]
        kept += [size for kernel, output in rows for size in kernel.listed(len(output.shape), pointer)]
        for size in filter(None, kept):
            at = aligned(at + size)
        at += table.SCRATCH_HANDLE.at(pointer) * self._asked(kernels)
        operators = at - interpreter - handles
        for side in (self.inputs, self.outputs):
            at = aligned(at + pointer * len(side)) + table.handle(pointer, 1) * len(side)
        ports = at - interpreter - handles - operators
        return Tail(operators, handles, 0, ports, interpreter + aligned(at) - at)

    def _asked(self, kernels: Kernels) -> int:
        """How many scratch buffers these kernels ask for."""
        return sum(scratch.wanted.only in (None, kernels) for scratch in self.scratch)

    @cached_property
    def _passings(self) -> dict[tuple[Kernels, Pointer], int]:
        return {}

    def _passing(self, kernels: Kernels, pointer: Pointer) -> int:
        """Bytes that pass: what AllocateTensors needs beside the tail while it prepares kernels or makes its plan."""
        key = (kernels, pointer)
        if key not in self._passings:
            asked = self._asked(kernels)
            requests = table.REQUEST.at(pointer) * (asked + table.MOST_REQUESTS)
            known = table.KNOWN.at(pointer) * (len(self.tensors) + asked) + pointer
            planning = aligned(requests + known) + table.PLACED * (len(self.computed) + asked)
            self._passings[key] = aligned(max(planning, requests + self._prepared(pointer)))
        return self._passings[key]

    def _prepared(self, pointer: Pointer) -> int:
        """Bytes of handles that the greediest kernel takes while it is prepared."""

        def handle(tensor: Tensor) -> int:
            scales = 1 if tensor.content is None else tensor.stored.scales
            if scales is not None and not isinstance(scales, int):
                scales = tensor.shape[tensor.stored.axis]  # fewer once channels are cut
            return table.handle(pointer, scales or 0)

        seen = ([*operator.inputs, *operator.outputs] for operator in self.operators)
        sizes = (sum(handle(self.tensors[tensor]) for tensor in each if tensor >= 0) for each in seen)
        return table.TAKEN * max(sizes, default=0)

    def bound(self, quantities: Sequence[int]) -> int:
        """Bytes that no layout of these tensors can undercut, tail included; grows with every quantity."""
        return most_alive(self._sizes(quantities, "cmsis-nn"), self._spans) + self.tail(quantities)

    def stacked(self, quantities: Sequence[int], plan: Sequence[int] = ()) -> dict[int, int]:
        """Which quantities make up the arena now, and how many bytes each unit of them adds: index -> slope.

        The head is a sum of buffers that stand on each other, so while no buffer moves this is the arena's gradient but
        for rounding.
        """
        n = len(self.computed)
        slopes = {i: 1 if i < n else self.scratch[i - n].wanted.slope for i in self.arena(quantities, plan=plan).stack}
        start = n + len(self.scratch)
        return slopes | {start + i: slope for i, (_, slope) in enumerate(self.persistent)}

    def _sizes(self, quantities: Sequence[int], kernels: Kernels) -> list[int]:
        """Aligned bytes of every buffer of the head; scratch that these kernels don't ask for has none."""
        n, m = len(self.computed), len(self.computed) + len(self.scratch)
        sizes = [aligned(int(size)) for size in quantities[:n]]
        for scratch, quantity in zip(self.scratch, quantities[n:m], strict=True):
            asked = scratch.wanted.only in (None, kernels)
            sizes.append(aligned(scratch.wanted.slope * int(quantity)) if asked else 0)
        return sizes

    @cached_property
    def _spans(self) -> tuple[Lifetime, ...]:
        return (*self.lifetimes, *(Lifetime(scratch.op, scratch.op) for scratch in self.scratch))

    @cached_property
    def _neighbours(self) -> tuple[tuple[int, ...], ...]:
        """The buffers that are alive together with each. Raises UnsupportedOperator where they are too many at once."""
        together = most_alive([1] * len(self._spans), self._spans)
        if together > _MOST_TOGETHER:
            raise UnsupportedOperator(
                f"{self.path}: {together:,} tensors are needed at once; an arena is planned for {_MOST_TOGETHER:,} at most: "
                "write the network with fewer parts side by side, or cut them off (--outputs)"
            )
        return overlaps(self._spans)

    def _stack(self, buffers: Sequence[Buffer], head: int) -> tuple[int, ...]:
        """From the buffer that ends at the head down: each stands on one that ends where it starts."""
        top = next((i for i, b in enumerate(buffers) if b.bytes and b.offset + b.bytes == head), None)
        stack: list[int] = []
        while top is not None:
            stack.append(top)
            start = buffers[top].offset
            below = (j for j in self._neighbours[top] if buffers[j].bytes and buffers[j].offset + buffers[j].bytes == start)
            top = next(below, None) if start else None
        return tuple(stack)

    # -------------------------------------------------------------------------------------------- against the exact peak

    @cached_property
    def copies(self) -> tuple[Copy, ...]:
        """Where the file makes a tensor for something that the peak of the network counts as free.

        Padding that TFLite's kernels don't do by themselves, another scale in front of an operator that needs one for all its
        inputs, another order of axes, another shape.
        """
        copies = []
        for operator in self.operators:
            if "copy" in operator.options:
                output = self.tensors[operator.outputs[0]]
                copies.append(Copy(operator.node, operator.name, output.name, output.size, operator.options["copy"]))
        return tuple(copies)
