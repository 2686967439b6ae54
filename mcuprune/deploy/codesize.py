"""The code that a program needs on a microcontroller, from one measured table that names its toolchain.

``codesize.json`` has, for each runtime, the bytes that its core takes and those that each operator's kernel adds when it is
linked alone; what kernels share is counted in each of them, so sums are upper bounds. The rows of generated C are made by
``make code-size``, which compiles the kernels of this package.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, Literal

from mcuprune.deploy.program import Program
from mcuprune.errors import UsageError

#: tflm: TensorFlow Lite Micro with CMSIS-NN. tflm-ref: with its reference kernels. cube-ai: ST's X-CUBE-AI. microtvm: TVM's,
#: with CMSIS-NN. c: the C that is generated here.
Runtime = Literal["tflm", "tflm-ref", "cube-ai", "microtvm", "c"]


@cache
def table() -> Mapping[str, Any]:
    """Runtime -> toolchain, source, ``core`` in bytes, ``operators`` -> bytes."""
    found: Mapping[str, Any] = json.loads((resources.files("mcuprune.deploy") / "codesize.json").read_text())
    return found


def of_program(program: Program, runtime: Runtime) -> int:
    """Bytes of code of the runtime and of the kernels of a program's operators.

    Raises UsageError where the table has no figure for the runtime or for an operator.
    """
    rows = table().get(runtime)
    if rows is None:
        measured = ", ".join(table())
        raise UsageError(f"nobody measured the code of --runtime {runtime}; {measured} are known, or limit --flash-model file")
    used = {operator.name for operator in program.operators}
    missing = sorted(used - rows["operators"].keys())
    if missing:
        raise UsageError(f"nobody measured the code of {', '.join(missing)} in runtime {runtime}; limit --flash-model file")
    return int(rows["core"] + sum(rows["operators"][name] for name in used))


def toolchain(runtime: Runtime) -> str:
    """What the runtime's rows were compiled with; "" for one without rows."""
    return str(table().get(runtime, {}).get("toolchain", ""))
