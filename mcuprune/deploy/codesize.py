"""The code that a program needs on a microcontroller, from one measured table that names its toolchains.

``codesize.json`` has a row for each runtime that was measured: the bytes of its core, and those that each kernel adds. Kernels
of TensorFlow Lite Micro go by the names of operators and were linked alone; what they share is counted in each of them, so sums
are upper bounds. Those of generated C go by their own names, and are the most that they took in networks that were compiled:
less where a network calls a kernel but ``once``, for then the compiler knows its arguments. Each call takes ``call`` bytes.
``make code-size`` measures them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mcuprune.errors import UsageError

if TYPE_CHECKING:  # every command names a runtime, and only generated C needs what makes its calls
    from mcuprune.deploy.program import Program
    from mcuprune.deploy.steps.calls import Call, Constant
    from mcuprune.deploy.steps.selection import Selection

#: tflm: TensorFlow Lite Micro with CMSIS-NN. tflm-ref: with its reference kernels. cube-ai: ST's X-CUBE-AI. microtvm: TVM's,
#: with CMSIS-NN. c: the C that is generated here.
Runtime = Literal["tflm", "tflm-ref", "cube-ai", "microtvm", "c"]

#: Kernels of generated C whose arrays follow from shapes.
_OF_SHAPES = frozenset({"bilinear", "move"})
#: Operators whose second input is a weight, and the bytes of bias, factor and shift for each channel of their output.
_WEIGHTED, _PER_CHANNEL = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"}), 4 + 4 + 1


@cache
def table() -> Mapping[str, Any]:
    """Runtime -> toolchain, source, ``core`` in bytes, ``operators`` -> bytes, ``once`` -> bytes, ``call`` in bytes."""
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
    return _code(rows, c_kernels(program) if own else [o.name for o in program.operators], runtime)


def _code(rows: Mapping[str, Any], kernels: Sequence[str], runtime: Runtime) -> int:
    missing = sorted({*kernels} - rows["operators"].keys())
    if missing:
        raise UsageError(f"nobody measured the code of {', '.join(missing)} in runtime {runtime}; limit --flash-model file")
    once = rows.get("once", {})
    of_kernels = sum(
        once.get(name, rows["operators"][name]) if count == 1 else rows["operators"][name]
        for name, count in Counter(kernels).items()
    )
    return int(rows["core"] + rows.get("call", 0) * len(kernels) + of_kernels)


def of_c(program: Program, *, known: bool, runs: bool) -> int:
    """Bytes of the constants of generated C: weights, factors, descriptions of layers, tables. runs: of its code, too.

    known: whether the program has the numbers that are written, so that equal arrays are known for one; of a network that isn't
    int8 yet only what follows from shapes is compared.
    Raises UnsupportedOperator, naming the node, for what generated C has no kernel for.
    """
    from mcuprune.deploy.steps.calls import Constant, Window

    arrays: dict[Any, Constant] = {move: move for move in _moves(program)}
    windows: dict[Any, Window] = {}
    selection = _c_selection(program)
    for call in _c_calls(selection):
        compared = known or call.kernel in _OF_SHAPES
        for argument in call.arguments:
            if isinstance(argument, Window):
                windows[argument if compared else id(argument)] = argument
                parts = [part for part in (argument.weights, argument.bias_number, argument.shift) if part is not None]
            else:
                parts = [argument] if isinstance(argument, Constant) else []
            arrays |= {part if compared else id(part): part for part in parts}
    constants = sum(array.bytes for array in arrays.values()) + sum(window.bytes for window in windows.values())
    return constants + (_code(table()["c"], c_kernels(program, selection), "c") if runs else 0)


def c_arrays(program: Program) -> list[Any]:
    """Bytes of the arrays of generated C that grow with widths: weights, biases and factors, constant operands, by operator.

    Sizes of the program may be functions of widths, and so are these. No cut's constants are fewer.
    """
    sizes: list[Any] = []
    for operator in program.operators:
        constants = [program.tensors[i] for i in operator.inputs if i >= 0 and program.tensors[i].content is not None]
        if operator.name in _WEIGHTED:
            weights, output = program.tensors[operator.inputs[1]], program.tensors[operator.outputs[0]]
            sizes.append(weights.size + output.dims[-1] * _PER_CHANNEL)
        else:
            sizes += [t.size for t in constants if t.dtype == "int8" and not isinstance(t.size, int)]
    return sizes


def _c_selection(program: Program, *, least: bool = False) -> Selection:
    """The steps of generated C. least: in the forms that take least memory."""
    from mcuprune.deploy.steps.rules import select, thrifty

    with np.errstate(all="ignore"):  # a float network's scales stand in for others, and no number of it is used
        usual = select(program)
        return thrifty(usual) if least else usual


def _c_calls(selection: Selection) -> list[Call]:
    """The calls of all steps."""
    from mcuprune.deploy.steps.calls import Chain

    calls = [call for step in selection.steps for call in step.calls]
    return [each for call in calls for each in (call.calls if isinstance(call, Chain) else (call,))]


def _moves(program: Program) -> list[Constant]:
    """What brings inputs in and outputs out, where they lie in another order than the ONNX file's."""
    from mcuprune.deploy.c import moved_by

    sides = ((True, program.inputs), (False, program.outputs))
    moves = [moved_by(port, into=into) for into, side in sides for port in side]
    return [move for move in moves if move is not None]


def c_kernels(program: Program, usual: Selection | None = None) -> list[str]:
    """The kernels that generated C calls, in both forms that it may take: in which one it is depends on its memory plan.

    usual: the steps of its usual form, where they are known.
    """
    usual = _c_selection(program) if usual is None else usual
    kernels = ["move"] * len(_moves(program)) + [call.kernel for call in _c_calls(usual)]
    if usual.could_save:
        other = _c_selection(program, least=True)
        turns = {"turn"} if other.turned else set()
        kernels += sorted(({call.kernel for call in _c_calls(other)} | turns) - {*kernels})
    return kernels


def toolchain(runtime: Runtime) -> str:
    """What the runtime's rows were compiled with; "" for one without rows."""
    return str(table().get(runtime, {}).get("toolchain", ""))
