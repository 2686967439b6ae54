"""A program as C99: straight-line calls of int8 kernels over one static arena of exactly the network's peak memory.

No interpreter, no heap, no libraries but ``<stdint.h>`` and ``<string.h>``. The order of calls is the one of least peak memory
(``memory.schedule``); a short search over placements brings the arena down to that peak. Weights, tables and descriptions of
layers are constants in flash. Kernels stand in ``ckernels/``; only those that a network uses go into its file.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from math import prod
from pathlib import PurePath

import numpy as np

from mcuprune.deploy.program import Port, Program
from mcuprune.deploy.steps import Call, Constant, Place, Selection, Step, Window, merged_axes
from mcuprune.schedule import search as memory

#: Kernel -> the pieces of C that it stands on, in order.
_NEEDS: Mapping[str, tuple[str, ...]] = {
    "add": ("base",),
    "conv": ("prelude", "base", "window", "dot", "dot_pairs"),
    "conv_grouped": ("prelude", "base", "window", "dot"),
    "conv_short": ("prelude", "base", "window", "dot", "dot_pairs"),
    "conv_transpose": ("prelude", "base", "window", "dot"),
    "depthwise": ("prelude", "base", "window"),
    "matmul": ("base",),
    "mul": ("base",),
    "pool": ("prelude", "base", "window"),
    "prelu": ("base",),
    "reduce": ("base",),
    "softmax": ("base",),
}
#: The order in which pieces stand in the file; all other kernels follow.
_FIRST = ("prelude", "base", "window", "dot", "dot_pairs")
#: How many placements are tried for an arena of the peak's size.
_TRIES = 2000


@dataclass(frozen=True)
class Source:
    """Generated C. arena: bytes; peak: the least that any order of calls needs, proven where ``exact``."""

    c: str
    header: str
    arena: int
    peak: int
    exact: bool
    constants: int


def generate(program: Program, stem: str, *, channels_last: bool = False, shared_arena: str | None = None) -> Source:
    """The C file and its header for a network called ``stem``.

    channels_last: data comes and goes as the kernels have it, not in the ONNX file's order.
    shared_arena: the name of an int8_t array of another file, which lends its memory to networks that never run at once; by
    default the network has an arena of its own.
    Raises UnsupportedOperator, naming the node, for what no kernel does, and what ``Program.check`` raises.
    """
    name = identifier(stem)
    selection, inputs, outputs = Selection(program).run(), program.inputs, program.outputs
    plan = _Plan(selection, [port.tensor for port in inputs], [port.tensor for port in outputs])
    writer = _Writer(selection, plan, name)
    copies_in = [writer.copy(port, f"inputs[{i}]", channels_last, into=True) for i, port in enumerate(inputs)]
    body = [writer.step(selection.steps[index]) for index in plan.order]
    copies_out = [writer.copy(port, f"outputs[{i}]", channels_last, into=False) for i, port in enumerate(outputs)]
    lines = [line for part in (*copies_in, *body, *copies_out) for line in part]
    header = _header(name, plan.arena, inputs, outputs, channels_last=channels_last)
    source = "\n".join(
        [
            f"/* {name}: made by mcuprune; an arena of {plan.arena} bytes is all its memory beside the stack. */",
            f'#include "{name}.h"',
            "#include <string.h>",
            "#ifdef __GNUC__ /* inlined into one function, the kernels' stacks would add up */",
            "#define KERNEL static __attribute__((noinline))",
            "#else",
            "#define KERNEL static",
            "#endif",
            *writer.kernels(),
            *writer.constants(),
            _arena(name, shared_arena),
            "",
            _signature(name) + " {",
            *(f"  {line}" for line in lines),
            "}",
            "",
        ]
    )
    return Source(source, header, plan.arena, plan.peak, plan.exact, writer.bytes)


def _arena(name: str, shared: str | None) -> str:
    if shared is None:
        return f"static int8_t arena[{name.upper()}_ARENA_BYTES];"
    return f"extern int8_t {shared}[]; /* of {name.upper()}_ARENA_BYTES or more */\n#define arena {shared}"


def identifier(stem: str) -> str:
    """A file's stem as a C identifier."""
    cleaned = re.sub(r"\W", "_", PurePath(stem).name, flags=re.ASCII)
    return cleaned if re.match(r"[A-Za-z_]", cleaned) else f"net_{cleaned}"


def _signature(name: str) -> str:
    upper = name.upper()
    return f"void {name}_invoke(const int8_t *const inputs[{upper}_INPUTS], int8_t *const outputs[{upper}_OUTPUTS])"


def _header(name: str, arena: int, inputs: Sequence[Port], outputs: Sequence[Port], *, channels_last: bool) -> str:
    upper = name.upper()
    lines = [
        f"#ifndef {upper}_H",
        f"#define {upper}_H",
        "#include <stdint.h>",
        "",
        f"#define {upper}_ARENA_BYTES {arena}",
        f"#define {upper}_INPUTS {len(inputs)}",
        f"#define {upper}_OUTPUTS {len(outputs)}",
    ]
    for kind, ports in (("INPUT", inputs), ("OUTPUT", outputs)):
        for index, port in enumerate(ports):
            prefix = f"{upper}_{kind}_{index}"
            shape = [port.shape[axis] if axis is not None else 1 for axis in port.axes] if channels_last else port.shape
            lines += [
                f"/* {_comment(port.name)}: {' x '.join(map(str, shape))}; real = scale * (stored - zero point) */",
                f"#define {prefix}_BYTES {prod(port.shape)}",
                f"#define {prefix}_SCALE {_real(port.quantizer.scale)}",
                f"#define {prefix}_ZERO_POINT ({port.quantizer.zero_point})",
            ]
    opening = ["#ifdef __cplusplus", 'extern "C" {', "#endif"]
    closing = ["#ifdef __cplusplus", "}", "#endif"]
    lines += ["", *opening, f"/* Runs the network once. Not reentrant: the arena is shared. */\n{_signature(name)};", *closing]
    return "\n".join([*lines, "#endif", ""])


def _real(value: float) -> str:
    text = repr(float(np.float32(value)))
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def _comment(text: str) -> str:
    """A name that can't end a comment or hold anything but plain characters."""
    return re.sub(r"[^A-Za-z0-9_./:-]", "_", text).replace("*/", "__").replace("/*", "__")[:80]


# ------------------------------------------------------------------------------------------------------------ the plan


class _Plan:
    """The order of the steps and where each tensor lies.

    order: indices of steps. arena: bytes. offset: root tensor -> bytes from the arena's start.
    """

    def __init__(self, selection: Selection, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        self._selection = selection
        self._number: dict[int, int] = {}
        ins = [self._buffer(tensor) for tensor in inputs]
        ops = [self._op(step) for step in selection.steps]
        outs = tuple(dict.fromkeys(self._buffer(tensor) for tensor in outputs))
        sizes = tuple(selection.size(tensor) for tensor in self._number)
        graph = memory.Graph(tuple(ops), sizes, tuple(dict.fromkeys(ins)), outs)
        schedule = memory.schedule(graph)
        self.order, self.peak, self.exact = schedule.order, schedule.peak, schedule.exact
        spans, self._partner = _lifetimes(graph, schedule.order)
        self.arena, self._offsets = _placed(graph.sizes, spans, schedule.peak)

    def _buffer(self, tensor: int) -> int:
        return self._number.setdefault(self._selection.root(tensor), len(self._number))

    def _op(self, step: Step) -> memory.Op:
        reads = tuple(dict.fromkeys(self._buffer(tensor) for tensor in step.reads))
        writes = tuple(self._buffer(tensor) for tensor in step.writes)
        return memory.Op(reads, writes, tuple(self._buffer(tensor) for tensor in step.in_place))

    def offset(self, tensor: int) -> int:
        """Where a tensor's bytes begin."""
        buffer = self._number[self._selection.root(tensor)]
        while buffer in self._partner:
            buffer = self._partner[buffer]
        return self._offsets[buffer]


def _lifetimes(graph: memory.Graph, order: Sequence[int]) -> tuple[dict[int, tuple[int, int]], dict[int, int]]:
    """First and last step of every place in memory, and for an output written over an input that input."""
    last = dict.fromkeys(graph.inputs, 0)
    for time, index in enumerate(order, 1):
        last.update(dict.fromkeys(graph.ops[index].inputs, time))
    last.update(dict.fromkeys(graph.outputs, len(order) + 1))
    partner: dict[int, int] = {}

    def place(buffer: int) -> int:
        while buffer in partner:
            buffer = partner[buffer]
        return buffer

    spans = {buffer: (0, last[buffer]) for buffer in graph.inputs}
    for time, index in enumerate(order, 1):
        op = graph.ops[index]
        for made in op.outputs:
            fits = [b for b in op.in_place if graph.sizes[b] == graph.sizes[made] and last[b] == time]
            until = max(time, last.get(made, time))
            if fits and len(op.outputs) == 1:
                partner[made] = fits[0]
                first, end = spans[place(made)]
                spans[place(made)] = (first, max(end, until))
            else:
                spans[made] = (time, until)
    return spans, partner


def _placed(sizes: Sequence[int], spans: Mapping[int, tuple[int, int]], wanted: int) -> tuple[int, dict[int, int]]:
    """Offsets of all places: by first fit in an order that a search varies until all fit into ``wanted`` bytes."""
    chance = random.Random(0)
    order = sorted(spans, key=lambda buffer: (-sizes[buffer], buffer))
    best: tuple[int, dict[int, int]] | None = None
    for attempt in range(_TRIES):
        offsets = _first_fit(sizes, spans, order)
        top = max((offsets[b] + sizes[b] for b in spans), default=0)
        if best is None or top < best[0]:
            best = top, offsets
        if best[0] <= wanted:
            break
        if attempt % 2:
            order = chance.sample(list(spans), len(spans))
        else:
            order = sorted(spans, key=lambda buffer: -sizes[buffer] * chance.uniform(0.5, 1))
    assert best is not None
    return best


def _first_fit(sizes: Sequence[int], spans: Mapping[int, tuple[int, int]], order: Sequence[int]) -> dict[int, int]:
    offsets: dict[int, int] = {}
    for buffer in order:
        first, last = spans[buffer]
        taken = sorted((at, at + sizes[b]) for b, at in offsets.items() if spans[b][0] <= last and first <= spans[b][1])
        at = 0
        for start, end in taken:
            if start - at >= sizes[buffer]:
                break
            at = max(at, end)
        offsets[buffer] = at
    return offsets


# --------------------------------------------------------------------------------------------------------------- text


@dataclass
class _Writer:
    """Collects what the calls need: kernels, constants, descriptions of layers."""

    selection: Selection
    plan: _Plan
    name: str
    bytes: int = 0
    _used: set[str] = field(default_factory=set)
    _constants: dict[Constant, str] = field(default_factory=dict)
    _windows: dict[Window, str] = field(default_factory=dict)

    def step(self, step: Step) -> list[str]:
        """The lines of one step."""
        shape = "x".join(map(str, self.selection.shape(step.writes[0])))
        lines = [f"/* {step.operator} {shape} {_comment(step.node)} */"]
        for call in step.calls:
            lines += self.call(call)
        return lines

    def call(self, call: Call) -> list[str]:
        self._used.add(call.kernel)
        places = max((len(loop.steps) for loop in call.loops), default=0)
        arguments = [
            self.argument(argument, [(depth, loop.steps[index]) for depth, loop in enumerate(call.loops) if index < places])
            for index, argument in enumerate(call.arguments)
        ]
        heads = [f"for (int i{depth} = 0; i{depth} < {loop.count}; i{depth}++)" for depth, loop in enumerate(call.loops)]
        return [" ".join([*heads, f"{call.kernel}({', '.join(arguments)});"])]

    def argument(self, argument: Place | Constant | Window | int, advances: Sequence[tuple[int, int]]) -> str:
        if isinstance(argument, int):
            return str(argument)
        if isinstance(argument, Window):
            return f"&{self.window(argument)}"
        if isinstance(argument, Constant):
            base = self.constant(argument)
        else:
            base = f"arena + {self.plan.offset(argument.tensor) + argument.offset}"
        moving = [f"i{depth}" if step == 1 else f"{step} * i{depth}" for depth, step in advances if step]
        return " + ".join([base, *moving])

    def constant(self, constant: Constant) -> str:
        if constant not in self._constants:
            self._constants[constant] = f"k{len(self._constants)}"
            self.bytes += len(constant.values) * {"int8_t": 1, "int16_t": 2, "int32_t": 4}[constant.ctype]
        return self._constants[constant]

    def window(self, window: Window) -> str:
        if window not in self._windows:
            self._windows[window] = f"w{len(self._windows)}"
            for constant in (window.weights, window.bias_number, window.shift):
                if constant is not None:
                    self.constant(constant)
            self.bytes += 3 * 4 + 2 * len(window.numbers)
        return self._windows[window]

    def constants(self) -> list[str]:
        """Declarations of all that goes to flash."""
        lines = [
            f"static const {constant.ctype} {name}[{len(constant.values)}] = {{{','.join(map(str, constant.values))}}};"
            for constant, name in self._constants.items()
        ]
        for window, name in self._windows.items():
            arrays = [
                "0" if part is None else self._constants[part] for part in (window.weights, window.bias_number, window.shift)
            ]
            lines.append(f"static const window_t {name} = {{{', '.join([*arrays, *map(str, window.numbers)])}}};")
        return [*lines, ""]

    def kernels(self) -> list[str]:
        """The C of the kernels in use and of what they stand on."""
        pieces = {piece for kernel in self._used for piece in _NEEDS.get(kernel, ())}
        order = [piece for piece in _FIRST if piece in pieces]
        order += sorted(self._used)
        upper = self.name.upper()
        lines = []
        if self.selection.largest_window:
            lines.append(f"#define {upper}_WINDOW {self.selection.largest_window}")
        if self.selection.wide:
            lines.append(f"#define {upper}_WIDE 1")
        folder = resources.files("mcuprune.deploy") / "ckernels"
        for piece in order:
            lines.append((folder / f"{piece}.c").read_text().replace("NAME_", f"{upper}_"))
        return lines

    def copy(self, port: Port, pointer: str, channels_last: bool, *, into: bool) -> list[str]:
        """The lines that bring an input in or an output out."""
        kept = [axis for axis in port.axes if axis is not None]
        own = [prod(port.shape[axis + 1 :]) for axis in kept]
        sizes = [port.shape[axis] for axis in kept]
        packed = [prod(sizes[i + 1 :]) for i in range(len(sizes))]
        axes = merged_axes(list(zip(sizes, *((own, packed) if into else (packed, own)), strict=True)))
        at = f"arena + {self.plan.offset(port.tensor)}"
        if channels_last or len(axes) <= 1:
            target, source = (at, pointer) if into else (pointer, at)
            return [f"memcpy({target}, {source}, {prod(port.shape)});"]
        self._used.add("move")
        padded = [(1, 0, 0)] * (5 - len(axes)) + axes
        table = self.constant(Constant("int32_t", tuple(number for axis in padded for number in axis)))
        source, target = (pointer, at) if into else (at, pointer)
        return [f"move({source}, {target}, {table});"]
