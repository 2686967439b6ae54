"""bakenn (PyPI, a compiler of .tflite files to C) beside generated C: the same integers on the same emulated core.

``measure`` is called by bench_device.py; run as a program, this file is what a Python that has ``bakenn[tflite]`` executes.
bakenn refuses a PAD without options, MEAN, and SOFTMAX: its file has PAD's empty options, a mean over the whole map as
AVERAGE_POOL_2D (which the format wants on its input's scale), and ends before a last SOFTMAX.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np

if TYPE_CHECKING:
    from bench_device import Core, Emulated

    from mcuprune.deploy.program import Operator, Program, Tensor
    from mcuprune.deploy.tflite import Converted

#: How bakenn may compile: its portable kernels, or Arm's CMSIS-NN, which it brings along.
KERNELS = ("portable", "cmsis-nn")
_WRAPPER = """#include "net.h"
#include "bknn_net.h"
static {align} uint8_t arena[{arena}];
void net_invoke(const int8_t *const inputs[], int8_t *const outputs[]) {{ bknn_net_infer(arena, inputs[0], outputs[0]); }}
"""


def adapted(program: Program) -> Program:
    """The program in the operators that bakenn takes."""
    tensors, operators, outputs = list(program.tensors), list[Any](), program.outputs
    moved: set[int] = set()  # tensors whose scale is no longer the program's
    for operator in program.operators:
        x, y = operator.inputs[0], operator.outputs[0]
        if operator.name == "SOFTMAX":
            quantizer = tensors[x].quantizer
            assert quantizer is not None
            outputs = (replace(outputs[0], tensor=x, quantizer=quantizer),)
            break
        operators.append(_averaged(operator, tensors[x].shape) if operator.name == "MEAN" else operator)
        if operator.name == "MEAN" or (x in moved and operator.name == "RESHAPE"):
            tensors[y] = replace(tensors[y], quantizer=tensors[x].quantizer)
            moved.add(y)
        elif x in moved and len(operator.inputs) == 3:
            tensors[operator.inputs[2]] = _rescaled(tensors[operator.inputs[2]], tensors[operator.inputs[1]], tensors[x])
        elif operator.name == "ADD":
            for place in operator.inputs:
                shape = tensors[place].shape
                tensors[place] = replace(tensors[place], shape=(1,) * (2 - len(shape)) + tuple(shape))
    return replace(program, tensors=tuple(tensors), operators=tuple(operators), outputs=outputs)


def _rescaled(bias: Tensor, weights: Tensor, data: Tensor) -> Tensor:
    """A bias on the scale that its operator's input has now."""
    assert bias.content is not None
    assert weights.content is not None
    assert data.quantizer is not None
    numbers, scales = bias.content(), weights.content().scales * data.quantizer.scale
    return replace(bias, content=lambda: replace(numbers, scales=scales.astype(np.float32)))


def _averaged(operator: Operator, shape: tuple[int, ...]) -> Operator:
    options = {"padding": 1, "stride_h": 1, "stride_w": 1, "filter_h": shape[1], "filter_w": shape[2], "fused": 0}
    return replace(operator, name="AVERAGE_POOL_2D", inputs=operator.inputs[:1], options=options)


def content(program: Program) -> bytes:
    """The file, with the options of PAD, which have no fields."""
    from mcuprune.deploy import flatbuffer, kernels

    table = {**kernels.KERNELS, "PAD": replace(kernels.KERNELS["PAD"], table="Pad")}
    options = {**kernels.OPTIONS, "Pad": (22, {})}
    with mock.patch.object(flatbuffer, "KERNELS", table), mock.patch.object(flatbuffer, "OPTIONS", options):
        return flatbuffer.serialised(program)


def measure(
    python: str,
    name: str,
    converted: Converted,
    examples: np.ndarray[Any, Any],
    core: Core,
    rows: Path,
    emulated: Callable[..., Emulated],
) -> None:
    """Add a network's rows, one for each of KERNELS, to a result file. python: one that has bakenn."""
    program = adapted(converted.program)
    port = program.inputs[0]
    inputs = np.stack([port.to_tflite(x).reshape(-1) for x in examples[:4]])
    outputs = int(np.prod(program.outputs[0].shape))
    from rows import read, replace_all

    known = [row for row in read(rows) if row["network"] != name]
    for kernels in KERNELS:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            (place / "net.tflite").write_bytes(content(program))
            ran = subprocess.run([python, __file__, folder, kernels], capture_output=True, text=True, check=True)
            about = json.loads(ran.stdout.splitlines()[-1])
            row = {"network": name, "kernels": kernels, "bakenn": about["bakenn"]}
            if "refused" in about:
                known.append({**row, "refused": about["refused"]})
                print(known[-1], flush=True)
                continue
            found = emulated(place, _compiled(place, about, core), inputs, outputs, core)
            memory, io = found.sections[".bss"] + found.sections[".data"], inputs.shape[1] + outputs
            flash = found.sections[".text"] + found.sections[".rodata"]
            numbers = {"ram": memory, "io": io, "flash": flash, "stack": found.stack}
            known.append({**row, **numbers, "instructions": found.instructions})
        print(known[-1], flush=True)
    replace_all(rows, sorted(known, key=lambda row: (row["network"], row["kernels"])))


def _compiled(place: Path, about: dict[str, Any], core: Core) -> list[str]:
    """Object files of bakenn's C and of the wrapper that makes it look like ours."""
    from bench_device import COMPILER, FLAGS

    (place / "net.h").write_text(
        "#include <stdint.h>\n#define NET_INPUTS 1\n#define NET_OUTPUTS 1\n"
        "void net_invoke(const int8_t *const inputs[], int8_t *const outputs[]);\n"
    )
    align = f"__attribute__((aligned({about['alignment']})))"
    (place / "wrapper.c").write_text(_WRAPPER.format(align=align, arena=about["arena"]))
    command = [COMPILER, *core.flags, *FLAGS, "-std=gnu11", "-O2", "-w", "-I", "."]
    command += [*(f"-I{include}" for include in about["includes"]), *(f"-D{name}" for name in about["definitions"])]
    objects = []
    for index, source in enumerate(["wrapper.c", *about["sources"]]):
        objects.append(f"part{index}.o")
        subprocess.run([*command, "-c", source, "-o", objects[-1]], cwd=place, check=True)
    return objects


def main(folder: str, kernels: str) -> None:
    """Compile ``net.tflite`` in a folder with bakenn; what a C compiler needs to know goes to standard output as JSON."""
    import re

    import bakenn  # type: ignore[import-not-found]

    about: dict[str, Any] = {"bakenn": bakenn.__version__}
    options: dict[str, Any] = {}
    if kernels == "cmsis-nn":
        policy = bakenn.KernelPolicy.STATIC_PRIORITY
        chosen = bakenn.CBackendOptions(kernel_policy=policy, enable_cmsis_nn=True, target=bakenn.CORTEX_M4)
        options = {"target": bakenn.CORTEX_M4, "backend_options": chosen}
    place = Path(folder) / "bakenn"
    try:
        bakenn.compile_tflite((Path(folder) / "net.tflite").read_bytes(), place, name="net", **options)
    except bakenn.CompileError as refusal:
        print(json.dumps({**about, "refused": str(refusal)}))
        return
    header, listed = (place / "bknn_net.h").read_text(), (place / "bakenn_sources.cmake").read_text()
    for word in ("SIZE", "ALIGNMENT"):
        match = re.search(rf"BKNN_NET_ARENA_{word} (\d+)u", header)
        assert match is not None
        about["arena" if word == "SIZE" else "alignment"] = int(match[1])
    for key, variable in (("sources", "SOURCES"), ("includes", "INCLUDE_DIRS"), ("definitions", "COMPILE_DEFINITIONS")):
        block = re.search(rf"set\(BAKENN_MODEL_{variable}\n(.*?)\n\)", listed, re.DOTALL)
        lines = block[1].split() if block is not None else []
        about[key] = [line.strip('"').replace("${CMAKE_CURRENT_LIST_DIR}", str(place)) for line in lines]
    print(json.dumps(about))


if __name__ == "__main__":
    main(*sys.argv[1:3])
