"""A program as C99: straight-line calls of int8 kernels over one static arena of exactly the network's peak memory.

No interpreter, no heap, no libraries but ``<stdint.h>`` and ``<string.h>``. The order of calls is the one of least peak memory
(``memory.schedule``); a short search over placements brings the arena down to that peak. Weights, tables and descriptions of
layers are constants in flash. Kernels stand in ``ckernels/``; only those that a network uses go into its file.

One file is several builds: where the macro of a library (``libraries``) is defined, calls that this can take are its own. What
some builds alone need, calls, kernels and constants, stands between preprocessor lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from itertools import groupby
from math import prod
from pathlib import PurePath
from typing import Generic, TypeVar

import numpy as np

from mcuprune.deploy.builds import OWN, Builds, Names, Placed
from mcuprune.deploy.cplan import Bands, Plan, planned
from mcuprune.deploy.libraries import ALIGNMENT, LIBRARIES
from mcuprune.deploy.program import Port, Program
from mcuprune.deploy.regions import Region
from mcuprune.deploy.rowcalls import (
    Ring,
    RingRows,
    RingTable,
    RowArgument,
    RowCall,
    RowChain,
    RowNumber,
    RowPlace,
    rows_of,
)
from mcuprune.deploy.rowreport import RowReport, row_report
from mcuprune.deploy.steps.calls import Between, Call, Chain, Constant, Few, Place, Step, Window
from mcuprune.deploy.steps.movement import merged_axes
from mcuprune.deploy.steps.selection import Selection
from mcuprune.immutable import immutable

#: Kernel -> the pieces of C that it stands on, in order.
_NEEDS: Mapping[str, tuple[str, ...]] = {
    "add": ("base",),
    "add_proven": ("prelude", "base"),
    "conv": ("prelude", "base", "window", "finished_pairs", "dot_less"),
    "conv_grouped": ("prelude", "base", "window", "dot"),
    "conv_short": ("prelude", "base", "window", "finished_pairs", "dot_pairs"),
    "conv_transpose": ("prelude", "base", "window", "dot"),
    "depthwise": ("prelude", "base", "window"),
    "divide": ("base", "inverse"),
    "log_softmax": ("base", "inverse"),
    "matmul": ("base",),
    "mul": ("base",),
    "pointwise": ("prelude", "base", "window", "finished_pairs", "dot_pairs"),
    "pool": ("prelude", "base", "window"),
    "pool_counting": ("prelude", "base", "window"),
    "prelu": ("base",),
    "reduce": ("base",),
    "scale": ("prelude", "base", "window"),
    "softmax": ("base", "inverse"),
}
#: How many numbers the calls of a chain compute at a time.
_FEW = 32
#: The order in which pieces stand in the file; all other kernels follow.
_FIRST = ("prelude", "base", "inverse", "window", "dot", "finished_pairs", "dot_pairs", "dot_less")


@immutable
class Source:
    """Generated C.

    arena: bytes. peak: the least that any order of whole operators needs, proven where ``exact``. constants: bytes in flash.
    rows: what runs row by row. with_library: the arena where a library's macro is defined, its scratch included, by macro; of
    libraries that compute anything of this network.
    """

    c: str
    header: str
    arena: int
    peak: int
    exact: bool
    constants: int
    rows: RowReport
    with_library: Mapping[str, int] = field(default_factory=dict)


def generate(program: Program, stem: str, *, channels_last: bool = False, bands: Bands = "off") -> Source:
    """The C file and its header for a network called ``stem``.

    channels_last: data comes and goes as the kernels have it, not in the ONNX file's order. bands: what runs row by row.
    Raises UnsupportedOperator, naming the node, for what no kernel does, and what ``Program.check`` raises.
    """
    return written(*planned(program, bands), stem, channels_last=channels_last)


def written(
    selection: Selection, plan: Plan, stem: str, *, channels_last: bool = False, shared_arena: str | None = None
) -> Source:
    """The files of a program that runs as ``plan`` says.

    shared_arena: the name of an int8_t array of another file, which lends its memory to networks that never run at once; by
    default the network has an arena of its own. Libraries want one that is aligned and has room for their scratch, so none of
    them is called where it is shared.
    """
    name, inputs, outputs = identifier(stem), selection.program.inputs, selection.program.outputs
    builds = Builds(selection, plan, () if shared_arena else LIBRARIES)
    writer = _Writer(selection, plan, builds, name)
    copies_in = [writer.copy(port, f"inputs[{i}]", channels_last, into=True) for i, port in enumerate(inputs)]
    body = list(writer.body())
    copies_out = [
        [*writer.brought((port.tensor,)), *writer.copy(port, f"outputs[{i}]", channels_last, into=False)]
        for i, port in enumerate(outputs)
    ]
    lines = [line for part in (*copies_in, *body, *copies_out) for line in part]
    header = _header(name, builds, inputs, outputs, channels_last=channels_last)
    source = "\n".join(
        [
            f"/* {name}: made by mcuprune; an arena of {plan.arena} bytes is all its memory beside the stack. */",
            *builds.told(),
            f'#include "{name}.h"',
            "#include <string.h>",
            "typedef char needs_int_of_32_bits[sizeof(int) >= 4 ? 1 : -1]; /* in 16, as on AVR, products would overflow */",
            "#ifdef __cplusplus",
            "#define restrict",
            "#endif",
            "#ifdef __GNUC__ /* inlined into one function, the kernels' stacks would add up */",
            "#define KERNEL static __attribute__((noinline))",
            "/* Of constant arguments GCC 12 takes some kernels for functions without effects, and leaves their calls out. */",
            '#define EFFECT __asm__ volatile("" ::: "memory")',
            "#else",
            "#define KERNEL static",
            "#define EFFECT (void)0",
            "#endif",
            *writer.kernels(),
            *writer.constants(),
            *builds.guarded(builds.libraries_only, [f"__attribute__((aligned({ALIGNMENT})))"]),
            _arena(name, shared_arena),
            "",
            _signature(name) + " {",
            *(line if line.startswith("#") else f"  {line}" for line in lines),
            "}",
            "",
        ]
    )
    with_library = {build: arena for build, arena in builds.arenas.items() if build != OWN}
    return Source(source, header, plan.arena, plan.peak, plan.exact, writer.bytes, row_report(selection, plan), with_library)


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


def piece(name: str, upper: str, folder: str = "ckernels") -> str:
    """A piece of C. upper: the network's name in capitals."""
    return (resources.files("mcuprune.deploy") / folder / f"{name}.c").read_text().replace("NAME_", f"{upper}_")


def _arena(name: str, shared: str | None) -> str:
    if shared is None:
        return f"static int8_t arena[{name.upper()}_ARENA_BYTES];"
    return f"extern int8_t {shared}[]; /* of {name.upper()}_ARENA_BYTES or more */\n#define arena {shared}"


#: The headers of C's library, which one of the same name would hide from what includes them by an include path.
STANDARD_HEADERS = frozenset(
    (
        *("assert", "complex", "ctype", "errno", "fenv", "float", "inttypes", "iso646", "limits", "locale", "math", "setjmp"),
        *("signal", "stdalign", "stdarg", "stdatomic", "stdbool", "stddef", "stdint", "stdio", "stdlib", "stdnoreturn"),
        *("string", "tgmath", "threads", "time", "uchar", "wchar", "wctype"),
    )
)


def identifier(stem: str) -> str:
    """A file's stem as a C identifier; ``net`` where none of its letters may stand in one.

    It begins with a letter: most names that begin with an underscore are the compiler's (C99, 7.1.3).
    """
    cleaned = re.sub(r"\W", "_", PurePath(stem).name, flags=re.ASCII).lstrip("_")
    return cleaned if cleaned[:1].isalpha() else f"net_{cleaned}".rstrip("_")


def _signature(name: str) -> str:
    upper = name.upper()
    return f"void {name}_invoke(const int8_t *const inputs[{upper}_INPUTS], int8_t *const outputs[{upper}_OUTPUTS])"


def _header(name: str, builds: Builds, inputs: Sequence[Port], outputs: Sequence[Port], *, channels_last: bool) -> str:
    upper = name.upper()
    lines = [
        f"#ifndef {name}_H",
        f"#define {name}_H",
        f"#ifdef {upper}_INPUTS",
        f'#error "{name}.h: another header has the same macros; call one of the two networks otherwise"',
        "#endif",
        "#include <stdint.h>",
        "",
        *_arena_bytes(upper, builds),
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


def _arena_bytes(upper: str, builds: Builds) -> list[str]:
    """The size of the arena, ours first, and of the builds in which it is another."""
    lines = {build: f"#define {upper}_ARENA_BYTES {arena}" for build, arena in builds.arenas.items()}
    own = lines.pop(OWN)
    larger = {build: line for build, line in lines.items() if line != own}
    if not larger:
        return [own]
    others = [part for build, line in larger.items() for part in (f"#elif defined({build})", line)]
    return [f"#if {' && '.join(f'!defined({build})' for build in larger)}", own, *others, "#endif"]


def _real(value: float) -> str:
    text = repr(float(np.float32(value)))
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def _comment(text: str) -> str:
    """A name that can't end a comment or hold anything but plain characters."""
    return re.sub(r"[^A-Za-z0-9_./:-]", "_", text).replace("*/", "__").replace("/*", "__")[:80]


# --------------------------------------------------------------------------------------------------------------- text


_T = TypeVar("_T", bound=Constant | Window)


class _Needed(Generic[_T]):
    """Constants of one kind that have names in the file, with the builds that need them.

    What libraries alone need is named by another letter: all others are called the same whether or not there are libraries.
    """

    def __init__(self, letter: str, of_libraries: str) -> None:
        self._letter, self._of_libraries = letter, of_libraries
        self._ours: dict[_T, str] = {}
        self._theirs: dict[_T, str] = {}
        self._builds: dict[str, Names] = {}

    def name(self, constant: _T, builds: Names) -> str:
        """What a constant is called that these builds need."""
        ours = OWN in builds or constant in self._ours
        names, letter = (self._ours, self._letter) if ours else (self._theirs, self._of_libraries)
        name = names.setdefault(constant, f"{letter}{len(names)}")
        self._builds[name] = self._builds.get(name, frozenset()) | builds
        return name

    def of(self, build: str) -> list[_T]:
        """All that a build needs."""
        return [constant for constant, _, builds in self.named() if build in builds]

    def named(self) -> Iterator[tuple[_T, str, Names]]:
        """All with their names and the builds that need them, in the order in which they were first needed."""
        by_name = {name: constant for names in (self._ours, self._theirs) for constant, name in names.items()}
        for name, builds in self._builds.items():
            yield by_name[name], name, builds


@dataclass
class _Writer:
    """Collects what the calls need: kernels, constants, descriptions of layers, and the builds that need each."""

    selection: Selection
    plan: Plan
    builds: Builds
    name: str
    _kernels: dict[str, Names] = field(default_factory=dict)
    _constants: _Needed[Constant] = field(default_factory=lambda: _Needed("k", "c"))
    _windows: _Needed[Window] = field(default_factory=lambda: _Needed("w", "v"))
    _aligned: dict[str, dict[Constant, None]] = field(default_factory=dict)
    _sequences: list[tuple[str, int]] = field(default_factory=list)
    _orders: dict[int, int] = field(default_factory=dict)
    _now: Names = frozenset()

    def __post_init__(self) -> None:
        self._now = self.builds.every

    @property
    def bytes(self) -> int:
        """Of constants in flash, in our build."""
        arrays = sum(constant.bytes for constant in self._constants.of(OWN))
        return arrays + sum(window.bytes for window in self._windows.of(OWN)) + sum(length for _, length in self._sequences)

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
        self._sequences.append((f"static const uint8_t {sequence}[{length}] = {{{numbers}}};", length))
        cases = []
        for case, index in enumerate(steps):
            form, title = self.plan.forms[index], self.title(self.selection.steps[index])
            turned = [f"r = {form.op.rows - 1} - r;"] if region.upwards else []
            calls = [*turned, *self.calls(form.calls), "break;"]
            apart = any(line.startswith("#") for line in calls)  # preprocessor lines stand by themselves
            cases.append((f"  case {case}: {title}", calls if apart else [" ".join(calls)]))
        asked = any(re.search(r"\br\b", line) for _, calls in cases for line in calls)  # where all have a single row, none asks
        return [
            f"/* {len(steps)} operators row by row: each time one of them makes its next row */",
            *self.brought(tensor for index in steps for tensor in self.selection.steps[index].reads),
            f"{{ uint16_t rows[{len(steps)}] = {{0}};",
            f"for (int i = 0; i < {length}; i++) {{",
            f"  int r = rows[{sequence}[i]]++;{'' if asked else ' (void)r;'}",
            f"  switch ({sequence}[i]) {{",
            *(line for title, calls in cases for line in ([title, *calls] if len(calls) > 1 else [f"{title} {calls[0]}"])),
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
        return [self.title(step), *self.brought(step.reads), *self.calls(step.calls)]

    def brought(self, tensors: Iterable[int]) -> list[str]:
        """What brings the bytes of tensors into the order in which these are read."""
        lines = []
        for tensor in tensors:
            root = self.selection.root(tensor)
            lines += [self.call(turn) for turn in self.selection.turns(self._orders.get(root, root), tensor)]
            self._orders[root] = tensor
        return lines

    def calls(self, calls: Sequence[Call | Chain | RowCall | RowChain]) -> list[str]:
        """The lines of calls, each by the kernel that makes it in each build."""
        lines = []
        for call in calls:
            if isinstance(call, Chain | RowChain):
                lines.append(self.chain(call))
                continue
            forms = self.builds.instead(call)
            self._now = self.builds.every - frozenset(forms)
            own, others = [self.call(call)], {}
            for build, placed in forms.items():
                self._now = frozenset((build,))
                others[build] = [self.library_call(placed, build)]
            lines += self.builds.chosen(own, others)
        self._now = self.builds.every
        return lines

    def library_call(self, placed: Placed, build: str) -> str:
        """What a library's kernel is called with, a place for its scratch among it."""
        kernel, arguments, scratch, aligned = placed.call
        self._use(kernel)
        for window in (argument for argument in arguments if isinstance(argument, Window) and aligned):
            arrays = [array for array in (window.weights, window.bias_number) if array is not None]
            self._aligned.setdefault(build, {}).update(dict.fromkeys(arrays))
        written = [self.argument(argument) for argument in arguments]
        if scratch:
            written += [f"arena + {placed.at}", str(scratch)]
        return f"{kernel}({', '.join(written)});"

    def _use(self, kernel: str) -> None:
        self._kernels[kernel] = self._kernels.get(kernel, frozenset()) | self._now

    def chain(self, chain: Chain | RowChain) -> str:
        """A loop over calls that compute a few numbers at a time."""
        stack = {a.number for call in chain.calls for a in call.arguments if isinstance(a, Between)}
        kept = "".join(f" int8_t t{number}[{_FEW}];" for number in sorted(stack))
        calls = " ".join(self.call(call) for call in chain.calls)
        head = f"for (int at = 0, n; at < {chain.count}; at += n)"
        return f"{head} {{{kept} n = {chain.count} - at < {_FEW} ? {chain.count} - at : {_FEW}; {calls} }}"

    def call(self, call: Call | RowCall) -> str:
        """A call in the loops that repeat it."""
        self._use(call.kernel)
        places = max((len(loop.steps) for loop in call.loops), default=0)
        arguments = []
        for index, argument in enumerate(call.arguments):
            advances = [(depth, loop.steps[index]) for depth, loop in enumerate(call.loops) if index < places]
            moving = [f"i{depth}" if step == 1 else f"{step} * i{depth}" for depth, step in advances if step]
            few = ["at"] if Few() in call.arguments and isinstance(argument, Place | RowPlace) else []
            arguments.append(" + ".join([self.argument(argument), *moving, *few]))
        heads = [f"for (int i{depth} = 0; i{depth} < {loop.count}; i{depth}++)" for depth, loop in enumerate(call.loops)]
        return " ".join([*heads, f"{call.kernel}({', '.join(arguments)});"])

    def argument(self, argument: Place | RowArgument | Between | Few) -> str:
        """What stands for an argument in C; inside a region r is the row that is made."""
        match argument:
            case int():
                return str(argument)
            case Few():
                return "n"
            case Between():
                return f"t{argument.number}"
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
        return self._constants.name(constant, self._now)

    def window(self, window: Window) -> str:
        for constant in (window.weights, window.bias_number, window.shift):
            if constant is not None:
                self.constant(constant)
        return self._windows.name(window, self._now)

    def constants(self) -> list[str]:
        """Declarations of all that goes to flash, what libraries alone need last."""
        lines = [
            (builds, f"static const {each.ctype} {name}[{len(each.values)}] = {{{','.join(map(str, each.values))}}};")
            for each, name, builds in self._constants.named()
        ]
        for window, name, builds in self._windows.named():
            parts = (window.weights, window.bias_number, window.shift)
            arrays = ["0" if part is None else self._constants.name(part, builds) for part in parts]
            lines.append((builds, f"static const window_t {name} = {{{', '.join([*arrays, *map(str, window.numbers)])}}};"))
        lines.sort(key=lambda line: OWN not in line[0])
        together = [(builds, [text for _, text in group]) for builds, group in groupby(lines, lambda line: line[0])]
        guarded = [line for builds, group in together for line in self.builds.guarded(builds, group)]
        return [*self.alignments(), *guarded, *(line for line, _ in self._sequences), ""]

    def alignments(self) -> list[str]:
        """Declarations in front of the arrays that a library wants aligned."""
        lines = []
        for build, arrays in self._aligned.items():
            only = frozenset((build,))
            named = [f"{each.ctype} {self._constants.name(each, only)}[{len(each.values)}]" for each in arrays]
            declared = [f"static const {each} __attribute__((aligned({ALIGNMENT})));" for each in named]
            lines += self.builds.guarded(only, declared)
        return lines

    def kernels(self) -> list[str]:
        """The C of the kernels in use and of what they stand on."""
        upper = self.name.upper()
        lines = []
        if self.selection.largest_window:
            lines.append(f"#define {upper}_WINDOW {self.selection.largest_window}")
        lines += [f"#define {upper}_{word} 1" for word in self.selection.arithmetic()]
        ours = [name for name, builds in self._kernels.items() if OWN in builds]
        for name in pieces_of(ours):
            lines += self.builds.guarded(self._kernels.get(name, self.builds.every), [piece(name, upper)])
        for library in self.builds.libraries:
            only = frozenset((library.macro,))
            theirs = [library.head, *sorted(name for name, builds in self._kernels.items() if builds == only)]
            lines += self.builds.guarded(only, [piece(name, upper, "clibraries") for name in theirs])
        return lines

    def copy(self, port: Port, pointer: str, channels_last: bool, *, into: bool) -> list[str]:
        """The lines that bring an input in or an output out."""
        at = self.at(port.tensor)
        numbers = None if channels_last else moved_by(port, into=into)
        if numbers is None:
            target, source = (at, pointer) if into else (pointer, at)
            return [f"memcpy({target}, {source}, {prod(port.shape)});"]
        self._use("move")
        table = self.constant(numbers)
        source, target = (pointer, at) if into else (at, pointer)
        return [f"move({source}, {target}, {table});"]
