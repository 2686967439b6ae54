"""A portfolio as C: the code of every variant, one arena for all of them, and a function that chooses which one runs.

Variants never run at once, so the arena is as large as the largest needs, not as all do together. Weights are another matter:
each variant has int8 weights of its own (its layers' scales are those of its own channels), so flash holds their sum.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

import numpy as np

from mcuprune import exporting, places
from mcuprune.deploy import c, tflite
from mcuprune.deploy.cplan import planned
from mcuprune.deploy.project import cmake_head, name_of
from mcuprune.deploy.tflite import Converted
from mcuprune.errors import MissingExtra
from mcuprune.graph import network
from mcuprune.immutable import immutable
from mcuprune.operators import table as ops
from mcuprune.run import runners
from mcuprune.train.request import Request

#: The folder in that of the portfolio, and the names that its C has in common.
FOLDER, _ARENA = "chip", "mcuprune_arena"
#: What the names of files, functions and macros begin with that all variants have in common.
_COMMON = ("mcuprune", "example")
#: Macros of mcuprune.h, after MCUPRUNE_, behind which it has the number of each variant by its identifier too.
_COUNTS = ("h", "variants", "arena_bytes", "inputs", "outputs")


@immutable
class _Member:
    """A variant as C. name: as the portfolio has it. inputs, outputs: the stored example and its answer, as text of C."""

    name: str
    identifier: str
    source: c.Source
    converted: Converted
    inputs: Sequence[str]
    outputs: Sequence[str]


def need_compiler() -> None:
    """Raise MissingExtra where no C compiler is there, to see what the generated C answers."""
    if runners.compiler() is None:
        raise MissingExtra("--export c stores what its C answers, and no C compiler was found here (cc, gcc or clang)")


def write(folder: Path, names: Sequence[str], request: Request) -> Mapping[str, Sequence[str]]:
    """Write the C of the variants ``NAME.onnx`` into ``folder``/chip; paths within ``folder`` by variant.

    request: where the example comes from.
    """
    members = [_member(folder, name, identifier, request) for name, identifier in zip(names, _identifiers(names), strict=True)]
    files: dict[str, str] = {"mcuprune.h": _header(members), "mcuprune.c": _selector(members), "example.h": _example(members)}
    files |= {"main.c": _MAIN, "CMakeLists.txt": _lists(members), "README.md": _readme(members)}
    for member in members:
        files |= {f"{member.identifier}.c": member.source.c, f"{member.identifier}.h": member.source.header}
    (folder / FOLDER).mkdir(exist_ok=True)
    for file, text in files.items():
        places.write_bytes(text.encode(), folder / FOLDER / file)
    return {m.name: [f"{FOLDER}/{m.identifier}.c", f"{FOLDER}/{m.identifier}.h"] for m in members}


def _identifiers(names: Sequence[str]) -> list[str]:
    """A C identifier for each variant, whose files, functions and macros nothing else in the folder has.

    Macros are in capitals, and some file systems know no case, so no two identifiers differ in that alone.
    """
    chosen: list[str] = []
    taken: set[str] = set()
    for name in names:
        own = name_of(name)
        if own.casefold().startswith(_COMMON) or own.casefold() in _COUNTS:
            own = f"net_{own}"
        counted = (f"{own}_{count}" for count in itertools.count(1))
        chosen.append(next(each for each in (own, *itertools.islice(counted, len(names))) if each.casefold() not in taken))
        taken.add(chosen[-1].casefold())
    return chosen


def _member(folder: Path, name: str, identifier: str, request: Request) -> _Member:
    path = str(folder / f"{name}.onnx")
    net = network.load(path, accept=ops.accept(path))
    converted = tflite.convert(net)
    asked = exporting.Request(path, data=request.data, seed=request.seed, task=request.task)
    example = exporting.example_of(net, asked, None)[0]
    ran = runners.run("c", converted, [example], path, limit=0)
    inputs = [runners.stored(example[port.name], port).astype(np.int8) for port in converted.inputs]
    outputs = [ran.outputs[port.name][0] for port in converted.outputs]
    source = c.written(*planned(converted.program, "off"), identifier, shared_arena=_ARENA)
    return _Member(name, identifier, source, converted, [_numbers(x) for x in inputs], [_numbers(x) for x in outputs])


def _numbers(array: np.ndarray) -> str:
    return ",".join(map(str, array.reshape(-1).tolist()))


def _header(members: Sequence[_Member]) -> str:
    first = members[0].converted
    lines = [
        "#ifndef MCUPRUNE_H",
        "#define MCUPRUNE_H",
        "#include <stdint.h>",
        "",
        f"#define MCUPRUNE_VARIANTS {len(members)}",
        f"#define MCUPRUNE_ARENA_BYTES {max(1, *(member.source.arena for member in members))}",
        f"#define MCUPRUNE_INPUTS {len(first.inputs)}",
        f"#define MCUPRUNE_OUTPUTS {len(first.outputs)}",
        *(f"#define MCUPRUNE_{m.identifier.upper()} {k}" for k, m in enumerate(members)),
        "",
        "/* A quantised tensor: real = scale * (stored - zero point). Every variant has quantisers of its own. */",
        "typedef struct { int32_t bytes; float scale; int zero_point; } mcuprune_tensor;",
        "typedef struct {",
        "  const char *name;",
        "  int32_t arena_bytes;",
        "  mcuprune_tensor inputs[MCUPRUNE_INPUTS], outputs[MCUPRUNE_OUTPUTS];",
        "  void (*invoke)(const int8_t *const *inputs, int8_t *const *outputs);",
        "} mcuprune_variant;",
        "",
        "#ifdef __cplusplus",
        'extern "C" {',
        "#endif",
        "extern const mcuprune_variant mcuprune_variants[MCUPRUNE_VARIANTS];",
        "/* Choose the variant that runs from now on. Returns 0, or -1, with nothing changed, where there is no variant k. */",
        "int mcuprune_select(int k);",
        "/* The variant that runs: until one is selected, the first. */",
        "int mcuprune_selected(void);",
        "/* Run the selected variant once. Not reentrant, nor may another be selected meanwhile: all share one arena. */",
        "void mcuprune_invoke(const int8_t *const inputs[MCUPRUNE_INPUTS], int8_t *const outputs[MCUPRUNE_OUTPUTS]);",
        "#ifdef __cplusplus",
        "}",
        "#endif",
        "#endif",
        "",
    ]
    return "\n".join(lines)


def _selector(members: Sequence[_Member]) -> str:
    def tensors(member: _Member, kind: str, count: int) -> str:
        prefix = f"{member.identifier.upper()}_{kind}"
        parts = (f"{{{prefix}_{i}_BYTES, {prefix}_{i}_SCALE, {prefix}_{i}_ZERO_POINT}}" for i in range(count))
        return f"{{{', '.join(parts)}}}"

    rows = []
    for member in members:
        inputs = tensors(member, "INPUT", len(member.converted.inputs))
        outputs = tensors(member, "OUTPUT", len(member.converted.outputs))
        arena = f"{member.identifier.upper()}_ARENA_BYTES"
        rows.append(f'  {{"{member.name}", {arena}, {inputs}, {outputs}, {member.identifier}_invoke}},')
    lines = [
        "/* Made by mcuprune: one arena for all variants, of which one runs at a time. */",
        '#include "mcuprune.h"',
        *(f'#include "{member.identifier}.h"' for member in members),
        "",
        f"int8_t {_ARENA}[MCUPRUNE_ARENA_BYTES];",
        "const mcuprune_variant mcuprune_variants[MCUPRUNE_VARIANTS] = {",
        *rows,
        "};",
        "static int selected = 0;",
        "",
        "int mcuprune_select(int k) {",
        "  if (k < 0 || k >= MCUPRUNE_VARIANTS) return -1;",
        "  selected = k;",
        "  return 0;",
        "}",
        "",
        "int mcuprune_selected(void) { return selected; }",
        "",
        "void mcuprune_invoke(const int8_t *const inputs[MCUPRUNE_INPUTS], int8_t *const outputs[MCUPRUNE_OUTPUTS]) {",
        "  mcuprune_variants[selected].invoke(inputs, outputs);",
        "}",
        "",
    ]
    return "\n".join(lines)


def _example(members: Sequence[_Member]) -> str:
    lines = [
        "#ifndef EXAMPLE_H",
        "#define EXAMPLE_H",
        "#include <stdint.h>",
        "/* One example as each variant takes it, and what it answers. */",
    ]
    for kind, arrays in (("input", [m.inputs for m in members]), ("output", [m.outputs for m in members])):
        for k, texts in enumerate(arrays):
            lines += [f"static const int8_t {kind}_{k}_{i}[] = {{{text}}};" for i, text in enumerate(texts)]
        rows = (f"  {{{', '.join(f'{kind}_{k}_{i}' for i in range(len(texts)))}}}," for k, texts in enumerate(arrays))
        size = f"[MCUPRUNE_VARIANTS][MCUPRUNE_{kind.upper()}S]"
        lines += [f"static const int8_t *const example_{kind}s{size} = {{", *rows, "};"]
    largest = max(sum(prod(port.shape) for port in m.converted.outputs) for m in members)
    return "\n".join([*lines, f"#define EXAMPLE_OUTPUT_BYTES {largest}", "#endif", ""])


_MAIN = """\
/* Runs the stored example on every variant, forth and back, and says whether each answers as it did when this was made. */
#include <stdio.h>
#include <string.h>
#include "mcuprune.h"
#include "example.h"

static int8_t answer[EXAMPLE_OUTPUT_BYTES];

static int run_one(int k) {
  int8_t *outputs[MCUPRUNE_OUTPUTS];
  int wrong = 0, at = 0;
  if (mcuprune_select(k) != 0) return 1;
  for (int i = 0; i < MCUPRUNE_OUTPUTS; i++) {
    outputs[i] = answer + at;
    at += mcuprune_variants[k].outputs[i].bytes;
  }
  mcuprune_invoke(example_inputs[k], outputs);
  for (int i = 0; i < MCUPRUNE_OUTPUTS; i++) {
    wrong |= memcmp(outputs[i], example_outputs[k][i], (size_t)mcuprune_variants[k].outputs[i].bytes) != 0;
  }
  printf("%s: %s\\n", mcuprune_variants[k].name, wrong ? "NOT the stored answer" : "as stored");
  return wrong;
}

int main(void) {
  int wrong = 0;
  for (int k = 0; k < MCUPRUNE_VARIANTS; k++) wrong |= run_one(k);
  for (int k = MCUPRUNE_VARIANTS - 1; k >= 0; k--) wrong |= run_one(k);
  return wrong;
}
"""


def _lists(members: Sequence[_Member]) -> str:
    sources = " ".join(["mcuprune.c", *(f"{member.identifier}.c" for member in members)])
    return f"""\
{cmake_head("portfolio")}add_library(portfolio STATIC {sources})
set_target_properties(portfolio PROPERTIES C_STANDARD 99 C_EXTENSIONS OFF)
add_executable(run_all main.c)
target_link_libraries(run_all portfolio)
"""


def _readme(members: Sequence[_Member]) -> str:
    arenas = [member.source.arena for member in members]
    rows = [f"| {k} | {m.name} | {m.source.constants} | {m.source.arena} |" for k, m in enumerate(members)]
    return "\n".join(
        [
            "# A portfolio of networks",
            "",
            "Made by mcuprune. `mcuprune_select(k)` chooses a variant, `mcuprune_invoke` runs it; all share one arena of "
            f"{max(arenas)} bytes, where arenas of their own would take {sum(arenas)}. Weights are in flash for each variant: "
            f"{sum(member.source.constants for member in members)} bytes of constants together.",
            "",
            "| k | variant | bytes of constants | bytes of arena |",
            "|--:|:--|--:|--:|",
            *rows,
            "",
            "On this computer: `cmake -B build && cmake --build build && build/run_all`.",
            "",
            "Each variant has quantisers of its own: quantise inputs by `mcuprune_variants[k].inputs`.",
            "",
        ]
    )
