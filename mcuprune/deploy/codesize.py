"""The code that a program needs on a microcontroller, from one measured table that names its toolchains.

``codesize.json`` has a row for each runtime that was measured: the bytes of its core, and those that each kernel adds when it
is linked alone. What kernels share is counted in each of them, so sums are upper bounds. Kernels of TensorFlow Lite Micro go by
the names of operators. Those of generated C go by their own names, and each call takes ``call`` bytes; ``make code-size``
measures them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mcuprune.errors import UsageError

if TYPE_CHECKING:  # every command names a runtime, and only generated C needs what makes its calls
    from mcuprune.deploy.program import Program
    from mcuprune.deploy.steps.calls import Call

#: tflm: TensorFlow Lite Micro with CMSIS-NN. tflm-ref: with its reference kernels. cube-ai: ST's X-CUBE-AI. microtvm: TVM's,
#: with CMSIS-NN. c: the C that is generated here.
Runtime = Literal["tflm", "tflm-ref", "cube-ai", "microtvm", "c"]


@cache
def table() -> Mapping[str, Any]:
    """Runtime -> toolchain, source, ``core`` in bytes, ``operators`` -> bytes, ``call`` in bytes."""
    sizes: Mapping[str, Any] = json.loads(Path(__file__).with_name("codesize.json").read_text())
    return sizes


def of_program(program: Program, runtime: Runtime) -> int:
    """Bytes of code of the runtime and of the kernels of a program.

    Raises UsageError where the table has no figure for the runtime or for a kernel, UnsupportedOperator, naming the node, for
    what generated C has no kernel for.
    """
    rows = table().get(runtime)
    if rows is None:
        measured = ", ".join(table())
        raise UsageError(f"nobody measured the code of --runtime {runtime}; {measured} are known, or limit --flash-model file")
    own = runtime == "c"
    calls = [call.kernel for call in _c_calls(program)] if own else [operator.name for operator in program.operators]
    missing = sorted({*calls} - rows["operators"].keys())
    if missing:
        raise UsageError(f"nobody measured the code of {', '.join(missing)} in runtime {runtime}; limit --flash-model file")
    code = rows["core"] + rows.get("call", 0) * len(calls) + sum(rows["operators"][name] for name in {*calls})
    return int(code)


def c_constants(program: Program) -> int:
    """Bytes of the constants of generated C: weights, factors, descriptions of layers, tables."""
    from mcuprune.deploy.steps.calls import Constant, Window

    arrays: dict[int, Constant] = {}
    windows: dict[int, Window] = {}
    for argument in (argument for call in _c_calls(program) for argument in call.arguments):
        if isinstance(argument, Window):
            windows[id(argument)] = argument
        elif isinstance(argument, Constant):
            arrays[id(argument)] = argument
    for window in windows.values():
        arrays |= {id(part): part for part in (window.weights, window.bias_number, window.shift) if part is not None}
    return sum(array.bytes for array in arrays.values()) + sum(window.bytes for window in windows.values())


def _c_calls(program: Program) -> list[Call]:
    """The calls of generated C."""
    from mcuprune.deploy.steps.rules import select

    with np.errstate(all="ignore"):  # a float network's scales stand in for others, and no number of it is used
        return [call for step in select(program).steps for call in step.calls]


def toolchain(runtime: Runtime) -> str:
    """What the runtime's rows were compiled with; "" for one without rows."""
    return str(table().get(runtime, {}).get("toolchain", ""))
