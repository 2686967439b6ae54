"""A program as C99: straight-line calls of int8 kernels over one static arena of exactly the network's peak memory.

No interpreter, no heap, no libraries but ``<stdint.h>`` and ``<string.h>``. The order of calls is the one of least peak memory
(``memory.schedule``); a short search over placements brings the arena down to that peak. Weights, tables and descriptions of
layers are constants in flash. Kernels stand in ``ckernels/``; only those that a network uses go into its file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from math import prod
from pathlib import PurePath

import numpy as np

from mcuprune.deploy.cplan import Bands, Plan, Planner
from mcuprune.deploy.program import Port, Program
from mcuprune.deploy.regions import Region
from mcuprune.deploy.rowcalls import Ring, RingRows, RingTable, RowArgument, RowCall, RowNumber, RowPlace, rows_of
from mcuprune.deploy.rowreport import RowReport, row_report
from mcuprune.deploy.steps.calls import Call, Constant, Place, Step, Window
from mcuprune.deploy.steps.movement import merged_axes
from mcuprune.deploy.steps.rules import select
from mcuprune.deploy.steps.selection import Selection

#: Kernel -> the pieces of C that it stands on, in order.
_NEEDS: Mapping[str, tuple[str, ...]] = {
    "add": ("base",),
    "add_proven": ("prelude", "base"),
    "conv": ("prelude", "base", "window", "finished_pairs", "dot_less"),
    "conv_grouped": ("prelude", "base", "window", "dot"),
    "conv_short": ("prelude", "base", "window", "finished_pairs", "dot_pairs"),
    "conv_transpose": ("prelude", "base", "window", "dot"),
    "depthwise": ("prelude", "base", "window"),
    "matmul": ("base",),
    "mul": ("base",),
    "pointwise": ("prelude", "base", "window", "finished_pairs", "dot_pairs"),
    "pool": ("prelude", "base", "window"),
    "prelu": ("base",),
    "reduce": ("base",),
    "softmax": ("base",),
}
#: The order in which pieces stand in the file; all other kernels follow.
_FIRST = ("prelude", "base", "window", "dot", "finished_pairs", "dot_pairs", "dot_less")


@dataclass(frozen=True)
class Source:
    """Generated C.

    arena: bytes. peak: the least that any order of whole operators needs, proven where ``exact``. constants: bytes in flash.
    rows: what runs row by row.
    """

    c: str
    header: str
    arena: int
    peak: int
    exact: bool
    constants: int
    rows: RowReport


def generate(program: Program, stem: str, *, channels_last: bool = False, bands: Bands = "off") -> Source:
    """The C file and its header for a network called ``stem``.

    channels_last: data comes and goes as the kernels have it, not in the ONNX file's order. bands: what runs row by row.
    Raises UnsupportedOperator, naming the node, for what no kernel does, and what ``Program.check`` raises.
    """
    selection = select(program)
    return written(selection, Planner(selection).best(bands), stem, channels_last=channels_last)


def written(
    selection: Selection, plan: Plan, stem: str, *, channels_last: bool = False, shared_arena: str | None = None
) -> Source:
    """The files of a program that runs as ``plan`` says.

    shared_arena: the name of an int8_t array of another file, which lends its memory to networks that never run at once; by
    default the network has an arena of its own.
    """
    name, inputs, outputs = identifier(stem), selection.program.inputs, selection.program.outputs
    writer = _Writer(selection, plan, name)
    copies_in = [writer.copy(port, f"inputs[{i}]", channels_last, into=True) for i, port in enumerate(inputs)]
    body = list(writer.body())
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
    return Source(source, header, plan.arena, plan.peak, plan.exact, writer.bytes, row_report(selection, plan))


def moved_by(port: Port, *, into: bool) -> Constant | None:
    """What ``move`` takes to bring an input in, or an output out, in the ONNX file's order; None where it is the kernels'."""
    kept = [axis for axis in port.axes if axis is not None]
    own = [prod(port.shape[axis + 1 :]) for axis in kept]
    sizes = [port.shape[axis] for axis in kept]
    packed = [prod(sizes[i + 1 :]) for i in range(len(sizes))]
    axes = merged_axes(list(zip(sizes, *((own, packed) if into else (packed, own)), strict=True)))
    if len(axes) <= 1:
        return None
    padded = [(1, 0, 0)] * (5 - len(axes)) + axes
    return Constant("int32_t", tuple(number for axis in padded for number in axis))


def kernel_names() -> list[str]:
    """All kernels."""
    stems = sorted(PurePath(file.name).stem for file in (resources.files("mcuprune.deploy") / "ckernels").iterdir())
    return [name for name in stems if name not in _FIRST]


def pieces_of(kernels: Iterable[str]) -> list[str]:
    """The pieces of C that these kernels consist of, in the order in which they stand in a file."""
    pieces = {piece for kernel in kernels for piece in _NEEDS.get(kernel, ())}
    return [piece for piece in _FIRST if piece in pieces] + sorted(kernels)


def piece(name: str, upper: str) -> str:
    """A piece of C. upper: the network's name in capitals."""
    return (resources.files("mcuprune.deploy") / "ckernels" / f"{name}.c").read_text().replace("NAME_", f"{upper}_")


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


# --------------------------------------------------------------------------------------------------------------- text


@dataclass
class _Writer:
    """Collects what the calls need: kernels, constants, descriptions of layers."""

    selection: Selection
    plan: Plan
    name: str
    bytes: int = 0
    _used: set[str] = field(default_factory=set)
    _constants: dict[Constant, str] = field(default_factory=dict)
    _windows: dict[Window, str] = field(default_factory=dict)
    _sequences: list[str] = field(default_factory=list)

    def body(self) -> Iterator[list[str]]:
        """The lines of every step and region, in the order in which they run."""
        regions = {region.first: region for region in self.plan.regions}
        inside = {place for region in self.plan.regions for place in range(region.first, region.end)}
        for place, index in enumerate(self.plan.steps):
            if place in regions:
                yield self.region(regions[place])
            elif place not in inside:
                yield self.step(self.selection.steps[index])

    def region(self, region: Region) -> list[str]:
        """The loop that makes the next row of some step again and again."""
        steps = self.plan.steps[region.first : region.end]
        sequence, length = f"s{len(self._sequences)}", len(region.tape.sequence)
        numbers = ",".join(map(str, region.tape.sequence))
        self._sequences.append(f"static const uint8_t {sequence}[{length}] = {{{numbers}}};")
        self.bytes += length
        cases = []
        for case, index in enumerate(steps):
            form, title = self.plan.forms[index], self.title(self.selection.steps[index])
            turned = [f"r = {form.op.rows - 1} - r;"] if region.upwards else []
            calls = " ".join([*turned, *(self.call(call) for call in form.calls)])
            cases.append((f"  case {case}: {title}", f" {calls} break;"))
        asked = any(re.search(r"\br\b", calls) for _, calls in cases)  # where every operator has a single row, none asks
        return [
            f"/* {len(steps)} operators row by row: each time one of them makes its next row */",
            f"{{ uint16_t rows[{len(steps)}] = {{0}};",
            f"for (int i = 0; i < {length}; i++) {{",
            f"  int r = rows[{sequence}[i]]++;{'' if asked else ' (void)r;'}",
            f"  switch ({sequence}[i]) {{",
            *(title + calls for title, calls in cases),
            "  }",
            "} }",
        ]

    def row(self, place: RowPlace) -> str:
        """Where in its ring a row lies, from its beginning on."""
        rows, kept = rows_of(self.selection, place.tensor), self.plan.ring[place.tensor]
        if not place.repeats or kept == 1:
            return ""
        number = "r" if place.repeats == 1 else f"r / {place.repeats}"
        number = f"({number} + {place.first})" if place.first else number
        wrapped = number if kept == rows else f"{number} % {kept}"
        return f" + {wrapped} * {self.selection.size(place.tensor) // rows}"

    def at(self, tensor: int, offset: int = 0) -> str:
        """A byte of a tensor's place."""
        return f"arena + {self.plan.offsets[self.selection.root(tensor)] + offset}"

    def title(self, step: Step) -> str:
        """What a step does, as a comment."""
        shape = "x".join(map(str, self.selection.shape(step.writes[0])))
        return f"/* {step.operator} {shape} {_comment(step.node)} */"

    def step(self, step: Step) -> list[str]:
        """The lines of one step."""
        lines = [self.title(step)]
        return [*lines, *(self.call(call) for call in step.calls)]

    def call(self, call: Call | RowCall) -> str:
        """A call in the loops that repeat it."""
        self._used.add(call.kernel)
        places = max((len(loop.steps) for loop in call.loops), default=0)
        arguments = []
        for index, argument in enumerate(call.arguments):
            advances = [(depth, loop.steps[index]) for depth, loop in enumerate(call.loops) if index < places]
            moving = [f"i{depth}" if step == 1 else f"{step} * i{depth}" for depth, step in advances if step]
            arguments.append(" + ".join([self.argument(argument), *moving]))
        heads = [f"for (int i{depth} = 0; i{depth} < {loop.count}; i{depth}++)" for depth, loop in enumerate(call.loops)]
        return " ".join([*heads, f"{call.kernel}({', '.join(arguments)});"])

    def argument(self, argument: Place | RowArgument) -> str:
        """What stands for an argument in C; inside a region r is the row that is made."""
        match argument:
            case int():
                return str(argument)
            case Window():
                return f"&{self.window(argument)}"
            case Constant():
                return self.constant(argument)
            case RowNumber():
                return f"r + {argument.more}" if argument.more else "r"
            case RingRows():
                return str(self.plan.ring[self.selection.root(argument.tensor)])
            case RingTable():
                kept = self.plan.ring[self.selection.root(argument.tensor)]
                places = [n if at % 3 == 2 else n % kept for at, n in enumerate(argument.numbers)]
                return f"{self.constant(Constant('int16_t', tuple(places)))} + 3 * r"
            case Ring():
                return self.at(argument.tensor)
            case RowPlace():
                return self.at(argument.tensor, argument.offset) + self.row(argument)
            case Place():
                return self.at(argument.tensor, argument.offset)

    def constant(self, constant: Constant) -> str:
        if constant not in self._constants:
            self._constants[constant] = f"k{len(self._constants)}"
            self.bytes += constant.bytes
        return self._constants[constant]

    def window(self, window: Window) -> str:
        if window not in self._windows:
            self._windows[window] = f"w{len(self._windows)}"
            for constant in (window.weights, window.bias_number, window.shift):
                if constant is not None:
                    self.constant(constant)
            self.bytes += window.bytes
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
        return [*lines, *self._sequences, ""]

    def kernels(self) -> list[str]:
        """The C of the kernels in use and of what they stand on."""
        upper = self.name.upper()
        lines = []
        if self.selection.largest_window:
            lines.append(f"#define {upper}_WINDOW {self.selection.largest_window}")
        lines += [f"#define {upper}_{word} 1" for word in self.selection.arithmetic()]
        return lines + [piece(name, upper) for name in pieces_of(self._used)]

    def copy(self, port: Port, pointer: str, channels_last: bool, *, into: bool) -> list[str]:
        """The lines that bring an input in or an output out."""
        at = self.at(port.tensor)
        numbers = None if channels_last else moved_by(port, into=into)
        if numbers is None:
            target, source = (at, pointer) if into else (pointer, at)
            return [f"memcpy({target}, {source}, {prod(port.shape)});"]
        self._used.add("move")
        table = self.constant(numbers)
        source, target = (pointer, at) if into else (at, pointer)
        return [f"move({source}, {target}, {table});"]
