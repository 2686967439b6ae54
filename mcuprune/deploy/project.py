"""A folder that builds: the generated C of a network, one stored example with its answer, and a main program that checks it.

Each kind of project is one entry of PROJECTS, a function that gives the text of its files. All of them share ``net.c``,
``net.h``, ``net_example.h`` and what ``main`` does, so that adding a kind is adding its build files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from mcuprune.data.firmware import c_string
from mcuprune.deploy.c import STANDARD_HEADERS, Source, identifier
from mcuprune.deploy.libraries import CMSIS_NN, ESP_NN
from mcuprune.deploy.program import Port
from mcuprune.deploy.qdq import Quantizer
from mcuprune.deploy.rowreport import RowReport
from mcuprune.immutable import immutable

Array = np.ndarray[Any, Any]
Files = dict[str, str]


@immutable
class Example:
    """One input and what the network answers: int8 arrays in the order in which the generated C takes and gives them.

    label: the right class where it is known. source: where the example comes from, for the reader.
    """

    inputs: Sequence[Array]
    outputs: Sequence[Array]
    source: str
    label: int | None = None


@immutable
class Contents:
    """What goes into a project.

    name: a C identifier, the stem of the generated files. classes: names of the first output's numbers, where they are known.
    channels_last: whether the source takes and gives its data so, and the example's arrays are so.
    """

    name: str
    source: Source
    inputs: Sequence[Port]
    outputs: Sequence[Port]
    example: Example
    classes: Sequence[str] = ()
    channels_last: bool = False


#: What the files and targets of a project are called already, what CMake keeps for itself, and headers of C's library, which an
#: include path with a header of the same name would hide.
_TAKEN = frozenset(
    (
        *("main", "example", "run_one", "arm", "app", "project", "all", "clean", "help", "install", "package", "test"),
        *("arm_acle", "arduino", "freertos", "sdkconfig"),
        *STANDARD_HEADERS,
    )
)


def name_of(model: str) -> str:
    """The stem of a model's file as the name of a project: a C identifier that starts with a letter and hides nothing."""
    name = identifier(model).strip("_")
    taken = name.casefold() in _TAKEN or name.casefold().startswith("arduino")
    return f"net_{name}" if taken or not name[:1].isalpha() else name


def project(kind: str, contents: Contents) -> Files:
    """Relative path -> text of every file of a project of this kind, one of PROJECTS."""
    return PROJECTS[kind](contents)


def paths(kind: str, name: str) -> list[str]:
    """The files that a project of this kind has, whatever its network computes."""
    source = Source("", "", 0, 0, exact=True, constants=0, rows=RowReport(0, 0, ()))
    port = Port("", (1,), (0,), Quantizer(1.0, 0))
    return list(project(kind, Contents(name, source, [port], [port], Example((), (), ""))))


def _sources(contents: Contents, folder: str) -> Files:
    name = contents.name
    return {
        f"{folder}{name}.c": contents.source.c,
        f"{folder}{name}.h": contents.source.header,
        f"{folder}{contents.name}_example.h": _example(contents),  # two networks may lie in one include path
    }


def _example(contents: Contents) -> str:
    """The stored example, its answer, and class names."""
    lines = [
        "#ifndef EXAMPLE_H",
        "#define EXAMPLE_H",
        "#include <stdint.h>",
        f"/* An example from {_plain(contents.example.source)}, quantised as the network takes it, and the answer. */",
    ]
    for kind, arrays in (("input", contents.example.inputs), ("output", contents.example.outputs)):
        for index, array in enumerate(arrays):
            numbers = ",".join(map(str, array.reshape(-1).tolist()))
            lines.append(f"static const int8_t example_{kind}_{index}[{array.size}] = {{{numbers}}};")
    if contents.example.label is not None:
        lines.append(f"#define EXAMPLE_LABEL {contents.example.label}")
    if _is_classes(contents):
        count = prod(contents.outputs[0].shape)
        names = contents.classes if len(contents.classes) == count else [f"class {index}" for index in range(count)]
        lines.append(f"static const char *const example_classes[] = {{{', '.join(map(c_string, names))}}};")
    return "\n".join([*lines, "#endif", ""])


def _is_classes(contents: Contents) -> bool:
    """Whether the first output is one row of numbers, one for each class. Names for maps and boxes would fill the flash."""
    shape = contents.outputs[0].shape
    return prod(shape) == max(shape, default=1) > 1


def _plain(text: str) -> str:
    """Text that is safe inside a C string or comment."""
    return "".join(c if c.isascii() and (c.isalnum() or c in " _.,:;()+-") else "_" for c in text)[:100]


def _printf(pieces: Sequence[str]) -> str:
    """A statement that prints strings, which are literals or other expressions of C. No literal holds a percent sign."""
    line = "".join(piece[1:-1] if piece.startswith('"') else "%s" for piece in pieces)
    others = ", ".join(piece for piece in pieces if not piece.startswith('"'))
    return f'printf("{line}", {others});'


def _serial(pieces: Sequence[str]) -> str:
    """The same for Arduino's port, one string after the other: names of classes are of any length, and no line is cut."""
    return "\n  ".join(f"Serial.print({piece});" for piece in pieces)


def _check(contents: Contents, say: Callable[[Sequence[str]], str]) -> str:
    """The body of a function that runs the example. say: expressions of C -> how this platform prints these strings."""
    name, upper = contents.name, contents.name.upper()
    outputs = range(len(contents.outputs))
    declared, best, told = "wrong = 0", list[str](), list[str]()
    if _is_classes(contents):
        declared = "best = 0, wrong = 0"
        best = [f"  for (int i = 1; i < {upper}_OUTPUT_0_BYTES; i++) if (output_0[i] > output_0[best]) best = i;"]
        told = ["example_classes[best]", '", "']
    said = say([f'"{name}: "', *told, 'wrong ? "NOT the stored answer" : "as stored"', '"\\n"'])
    lines = [
        *(f"static int8_t output_{index}[{upper}_OUTPUT_{index}_BYTES];" for index in outputs),
        "",
        "/* Runs the stored example. Returns 0 where the network answers as it did when this project was made. */",
        "static int run_example(void) {",
        f"  const int8_t *const inputs[] = {{{', '.join(f'example_input_{i}' for i in range(len(contents.inputs)))}}};",
        f"  int8_t *const outputs[] = {{{', '.join(f'output_{i}' for i in outputs)}}};",
        f"  int {declared};",
        f"  {name}_invoke(inputs, outputs);",
        *best,
        *(f"  wrong |= memcmp(output_{i}, example_output_{i}, sizeof output_{i}) != 0;" for i in outputs),
        f"  {said}",
        "  return wrong;",
        "}",
    ]
    return "\n".join(lines)


def _main(contents: Contents, *, includes: Sequence[str] = ("stdio.h",), signature: str = "int main(void)") -> str:
    heads = [
        *(f"#include <{header}>" for header in (*includes, "string.h")),
        f'#include "{contents.name}_example.h"',
        f'#include "{contents.name}.h"',
    ]
    ending = "return run_example();" if signature.startswith("int") else "(void)run_example();"
    return "\n".join([*heads, "", _check(contents, _printf), "", f"{signature} {{ {ending} }}", ""])


def _readme(contents: Contents, build: str) -> str:
    return (
        f"# {contents.name}\n\nMade by mcuprune. `{contents.name}_invoke` runs the network once; it needs "
        f"{contents.source.arena} bytes of static RAM, some 400 bytes of stack, and no heap."
        f"{' Its inputs and outputs have their channels last.' if contents.channels_last else ''}\n\n{build}\n\n"
        "The program runs one stored example and says whether the answer is the one that it had when this folder was made.\n"
    )


# ------------------------------------------------------------------------------------------------------------- the kinds

_START = """\
/* Vectors for a Cortex-M; newlib's start-up code does the rest. */
#include <stdint.h>
extern uint32_t stack_top;
void _start(void);
static void stop(void) { for (;;) {} }
__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    &stack_top, _start, stop, stop, stop, stop, stop, 0, 0, 0, 0, stop, stop, 0, stop, stop};
"""
_LINKER = """\
ENTRY(_start)
MEMORY {
  flash (rx) : ORIGIN = 0x00000000, LENGTH = 4M
  ram (rwx) : ORIGIN = 0x20000000, LENGTH = 4M
}
stack_top = ORIGIN(ram) + LENGTH(ram);
__stack = stack_top;
SECTIONS {
  .text : { KEEP(*(.vectors)) *(.text*) KEEP(*(.init)) KEEP(*(.fini)) *(.rodata*) . = ALIGN(4); } > flash
  .ARM.exidx : { __exidx_start = .; *(.ARM.exidx*) __exidx_end = .; } > flash
  .data : { *(.data*) . = ALIGN(4); } > ram
  .bss : { __bss_start__ = .; *(.bss*) *(COMMON) . = ALIGN(4); __bss_end__ = .; __end__ = .; end = .; } > ram
}
"""
_TOOLCHAIN = """\
set(CMAKE_SYSTEM_NAME Generic)
set(CMAKE_SYSTEM_PROCESSOR arm)
set(CMAKE_C_COMPILER arm-none-eabi-gcc)
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
set(CMAKE_C_FLAGS_INIT "-mcpu=cortex-m4 -mthumb")
"""


def _with_cmsis_nn(contents: Contents) -> str:
    """What builds the network with CMSIS-NN where CMake is told where that is; nothing where it would compute nothing."""
    if CMSIS_NN.macro not in contents.source.with_library:
        return ""
    return f"""\
set({CMSIS_NN.macro} "" CACHE PATH "a checkout of CMSIS-NN, which pays on cores with vector units (Cortex-M55, M85)")
if({CMSIS_NN.macro})
  add_subdirectory(${{{CMSIS_NN.macro}}} cmsis-nn EXCLUDE_FROM_ALL)
  target_link_libraries({contents.name} cmsis-nn)
  target_compile_definitions({contents.name} PUBLIC {CMSIS_NN.macro})
endif()
"""


def _on_vector_units(contents: Contents, how: str) -> str:
    """A sentence for the reader: how to build with CMSIS-NN, and what the arena is then."""
    arena = contents.source.with_library.get(CMSIS_NN.macro)
    if arena is None:
        return ""
    return (
        f"\n\nFor a core with vector units (Cortex-M55, M85) {how}: CMSIS-NN then computes most layers, to the same bytes, in "
        f"{arena} bytes of static RAM. In the networks that were measured it took up to {CMSIS_NN.stack} bytes of stack."
    )


def cmake_head(name: str) -> str:
    """How a CMakeLists.txt of C begins: code is built as its flash is predicted, unless the user says otherwise."""
    return f"""\
cmake_minimum_required(VERSION 3.13)
project({name} C)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE RelWithDebInfo) # -O2, whose code takes the flash that is predicted
endif()
"""


def _cmake(contents: Contents) -> Files:
    name = contents.name
    lists = f"""\
{cmake_head(name)}add_library({name} STATIC {name}.c)
set_target_properties({name} PROPERTIES C_STANDARD 99 C_EXTENSIONS OFF)
target_compile_options({name} PRIVATE -Wall -Wextra)
{_with_cmsis_nn(contents)}add_executable(run_one main.c)
target_link_libraries(run_one {name})
if(CMAKE_SYSTEM_PROCESSOR STREQUAL "arm" AND CMAKE_SYSTEM_NAME STREQUAL "Generic")
  target_sources(run_one PRIVATE arm/vectors.c)
  target_link_options(run_one PRIVATE --specs=rdimon.specs -T${{CMAKE_SOURCE_DIR}}/arm/board.ld)
endif()
"""
    build = (
        "On this computer: `cmake -B build && cmake --build build && build/run_one`. For a Cortex-M4: "
        "`cmake -B build-arm -DCMAKE_TOOLCHAIN_FILE=arm/toolchain.cmake && cmake --build build-arm`, then in an emulator "
        "`qemu-system-arm -M mps2-an386 -nographic -semihosting -kernel build-arm/run_one`."
        + _on_vector_units(contents, f"set its flags in `arm/toolchain.cmake` and add `-D{CMSIS_NN.macro}=FOLDER`, a checkout")
    )
    return {
        **_sources(contents, ""),
        "main.c": _main(contents),
        "CMakeLists.txt": lists,
        "arm/toolchain.cmake": _TOOLCHAIN,
        "arm/vectors.c": _START,
        "arm/board.ld": _LINKER,
        "README.md": _readme(contents, build),
    }


def _arduino(contents: Contents) -> Files:
    name = contents.name
    properties = f"""\
name={name[:63]}
version=1.0.0
author=mcuprune
maintainer=mcuprune
sentence=An int8 neural network as plain C.
paragraph=Generated for this network: {contents.source.arena} bytes of static RAM, no heap.
category=Data Processing
url=https://arduino.cc
architectures=*
includes={name}.h
"""
    sketch = "\n".join(
        ["#include <string.h>", f'#include "{name}.h"', f'#include "{name}_example.h"', "", _check(contents, _serial), ""]
    )
    ends = (
        "\nvoid setup() {\n  Serial.begin(115200);\n  while (!Serial) {}\n}\n"
        "\nvoid loop() {\n  run_example();\n  delay(1000);\n}\n"
    )
    build = "Copy this folder into your sketchbook's `libraries` folder and open the example `run_one`."
    return {
        **_sources(contents, "src/"),
        "library.properties": properties,
        "examples/run_one/run_one.ino": sketch + ends,
        "README.md": _readme(contents, build),
    }


def _zephyr(contents: Contents) -> Files:
    name = contents.name
    lists = f"""\
cmake_minimum_required(VERSION 3.20.0)
find_package(Zephyr REQUIRED HINTS $ENV{{ZEPHYR_BASE}})
project({name})
target_sources(app PRIVATE src/main.c src/{name}.c)
"""
    if CMSIS_NN.macro in contents.source.with_library:
        lists += f"if(CONFIG_CMSIS_NN)\n  target_compile_definitions(app PRIVATE {CMSIS_NN.macro})\nendif()\n"
    options = " ".join(f"-DCONFIG_CMSIS_NN{part}=y" for part in ("", "_CONVOLUTION", "_BASICMATH", "_TRANSPOSE"))
    kconfig = 'mainmenu "mcuprune network"\n\nsource "Kconfig.zephyr"\n'
    sample = (
        f"sample:\n  name: {name}\ntests:\n  mcuprune.{name}:\n    tags: ml\n    integration_platforms:\n      - mps2/an385\n"
    )
    return {
        **_sources(contents, "src/"),
        "src/main.c": _main(contents),
        "CMakeLists.txt": lists,
        "Kconfig": kconfig,
        "prj.conf": "CONFIG_PRINTK=y\nCONFIG_STDOUT_CONSOLE=y\nCONFIG_MAIN_STACK_SIZE=2048\n",
        "sample.yaml": sample,
        "README.md": _readme(
            contents, "Build with `west build -b YOUR_BOARD`." + _on_vector_units(contents, f"add `-- {options}`")
        ),
    }


def _with_esp_nn(contents: Contents) -> Files:
    """What files end with, and menuconfig's own, so that it has ESP-NN; nothing to choose where that computes nothing."""
    macro, arena = ESP_NN.macro, contents.source.with_library.get(ESP_NN.macro)
    if arena is None:
        return {"main/Kconfig.projbuild": "# nothing to choose: ESP-NN has no kernel for any layer of this network\n"}
    switch = f'config {macro}\n    bool "Layers of the network by ESP-NN"\n    depends on IDF_TARGET_ESP32S3\n    default n\n'
    told = f"    help\n        Takes {arena} bytes of static RAM in place of {contents.source.arena}.\n"
    return {
        "main/Kconfig.projbuild": switch + told,
        "main/CMakeLists.txt": (
            f"if(CONFIG_{macro})\n  target_compile_definitions(${{COMPONENT_LIB}} PUBLIC {macro})\nendif()\n"
        ),
        "README.md": (
            "\n\nOn an ESP32-S3, `idf.py add-dependency espressif/esp-nn`, and *Layers of the network by ESP-NN* in "
            f"`idf.py menuconfig`: it then computes most layers with vector units, in {arena} bytes of static RAM."
        ),
    }


def _esp_idf(contents: Contents) -> Files:
    name = contents.name
    component = f'idf_component_register(SRCS "main.c" "{name}.c" INCLUDE_DIRS ".")\n'
    build, optional = "Build with `idf.py build flash monitor`.", _with_esp_nn(contents)
    component += optional.get("main/CMakeLists.txt", "")
    build += optional.get("README.md", "")
    manifest = f'version: "1.0.0"\ndescription: "An int8 neural network as plain C: {name}"\ndependencies:\n  idf: ">=5.0"\n'
    lists = f"cmake_minimum_required(VERSION 3.16)\ninclude($ENV{{IDF_PATH}}/tools/cmake/project.cmake)\nproject({name})\n"
    return {
        **_sources(contents, "main/"),
        "main/main.c": _main(contents, signature="void app_main(void)"),
        "main/CMakeLists.txt": component,
        "main/idf_component.yml": manifest,
        "main/Kconfig.projbuild": optional["main/Kconfig.projbuild"],
        "CMakeLists.txt": lists,
        "README.md": _readme(contents, build),
    }


#: What ``--project`` takes: a kind of project -> the files of one.
PROJECTS: Mapping[str, Callable[[Contents], Files]] = {
    "arduino": _arduino,
    "cmake": _cmake,
    "esp-idf": _esp_idf,
    "zephyr": _zephyr,
}
