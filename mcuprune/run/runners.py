"""Runtimes in which a converted file can be run on this computer, each in a process of its own.

``RUNNERS`` is the table: another runtime is another row. A kernel that aborts ends the other process and is an error message
here. Inputs and outputs are the integers that the file's quantisers store.

TensorFlow Lite Micro is the real one, compiled for this computer: kernels and memory planner are those of a device, pointers
have 8 bytes and there is no CMSIS-NN. LiteRT (TensorFlow Lite) runs its reference kernels, which define what an operator
computes. The generated C is compiled by this computer's compiler: it is the source that a microcontroller gets.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mcuprune import __version__
from mcuprune.deploy import c
from mcuprune.deploy.kernels import CLASSES_ALIKE
from mcuprune.deploy.planner import aligned
from mcuprune.deploy.qdq import HIGH, LOW
from mcuprune.deploy.tflite import Converted, Port
from mcuprune.errors import MissingExtra, ModelError, UsageError
from mcuprune.immutable import immutable

Array = np.ndarray[Any, Any]
#: The outputs of each example, in the order of the model.
_Interpreted = Iterator[list[Array]]
_MODEL, _SOURCE, _HEADER, _NAME = "model.tflite", "net.c", "net.h", "net"
#: A file beside the model that tells LiteRT to take its optimised kernels, and the operators whose reference kernel is wrong:
#: LiteRT 2.3.0 adds int8 numbers up to nonsense there, where its optimised kernel gives what TensorFlow Lite Micro does.
_OPTIMISED, _UNFIT_REFERENCE = "optimised", ("SUM",)
#: Bytes of a pointer of this computer's programs.
POINTER_BYTES: Literal[4, 8] = 8 if struct.calcsize("P") == 8 else 4


@immutable
class Runner:
    """A runtime. needs: what makes it available, for the person. version: None where it isn't.

    files: what it reads, by name; raises UnsupportedOperator for a node that it has no kernel for.
    interpret: (the folder of these files, inputs of every example, elements of each output, bytes of arena) -> outputs.
    """

    title: str
    needs: str
    version: Callable[[], str | None]
    files: Callable[[Converted], Mapping[str, bytes]]
    interpret: Callable[[Path, Sequence[Sequence[Array]], Sequence[int], int], _Interpreted]

    @property
    def reads_tflite(self) -> bool:
        """Whether it runs the .tflite file, with the memory plan in it."""
        return self.files in (_tflite_file, _litert_files)


@immutable
class Ran:
    """What a run gave.

    outputs: int8 (example, ...) of each output in ONNX's order. arena: bytes used, ``total`` and ``head``, where the runtime
    tells; of generated C, ``total`` as its header has it.
    """

    outputs: Mapping[str, Array]
    arena: Mapping[str, int] = field(default_factory=dict)


def available(*, of_tflite: bool = False) -> tuple[str, ...]:
    """The keys of the runtimes that are installed; ``of_tflite``: of those that read the file alone.

    Raises MissingExtra where there is none.
    """
    wanted = _wanted(of_tflite)
    installed = tuple(key for key, runner in wanted.items() if runner.version() is not None)
    if not installed:
        needed = " or ".join(f"{runner.needs} ({runner.title})" for runner in wanted.values())
        raise MissingExtra(
            f"verify runs the model in a runtime, and none is installed: {needed}; pip install 'mcuprune[verify]'"
        )
    return installed


def _wanted(of_tflite: bool) -> Mapping[str, Runner]:
    return {key: runner for key, runner in RUNNERS.items() if runner.reads_tflite or not of_tflite}


def absent(keys: Sequence[str], *, of_tflite: bool = False) -> list[str]:
    """A note of the runtimes that would run the file and aren't among ``keys``, the installed ones; none where all are."""
    missing = [f"{runner.title} (needs {runner.needs})" for key, runner in _wanted(of_tflite).items() if key not in keys]
    return [f"not run, for it isn't installed: {', '.join(missing)}"] if missing else []


def stored(x: Array, port: Port) -> Array:
    """int64: what the port's quantiser stores for these reals, as QuantizeLinear computes it."""
    scaled = np.rint(x.astype(np.float32) / np.float32(port.quantizer.scale))
    integers: Array = np.clip(scaled + port.quantizer.zero_point, LOW, HIGH).astype(np.int64)
    return integers


def real(x: Array, port: Port) -> Array:
    """float32: the reals that stored integers stand for, as DequantizeLinear computes them."""
    steps = x.astype(np.int64) - port.quantizer.zero_point
    return steps.astype(np.float32) * np.float32(port.quantizer.scale)


def run(key: str, converted: Converted, inputs: Sequence[Mapping[str, Array]], path: str, *, limit: int) -> Ran:
    """Run a .tflite file on examples.

    key: of ``RUNNERS``. inputs: reals in ONNX's order for each example. path: what messages call the model.
    limit: bytes of arena that it may use. It gets the next whole multiple of its alignment: what is left behind that counts as
        taken in TFLM.
    Raises ModelError where the runtime refuses the file or breaks off.
    """
    runner = RUNNERS[key]
    with tempfile.TemporaryDirectory() as folder:
        place, files = Path(folder), runner.files(converted)
        for name, content in files.items():
            (place / name).write_bytes(content)
        for index, port in enumerate(converted.inputs):
            integers = [port.to_tflite(stored(example[port.name], port).astype(np.int8)) for example in inputs]
            np.save(place / f"in{index}.npy", np.stack(integers))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
        sizes = ",".join(str(prod(port.shape)) for port in converted.outputs)
        command = _command(key, folder, sizes, str(aligned(limit)))
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, check=False)
        if done.returncode:
            suspected = _suspected(converted) if done.returncode < 0 and runner.reads_tflite else ""
            raise ModelError(f"{path}: {runner.title} can't run it ({_reason(done)}){suspected}")
        outputs = {
            port.name: np.stack([port.to_onnx(x) for x in np.load(place / f"out{index}.npy")])
            for index, port in enumerate(converted.outputs)
        }
    allocations = re.findall(r"Arena allocation (total|head) (\d+) bytes", done.stderr)
    if _HEADER in files:  # the first of several is that of our own kernels
        allocations = [("total", size) for size in re.findall(r"ARENA_BYTES (\d+)", files[_HEADER].decode())[:1]]
    return Ran(outputs, {name: int(value) for name, value in allocations})


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mcuprune.run.runners", *arguments]


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """What the runtime said before it failed; it writes its reasons to stderr, Python's traceback follows them."""
    said = " ".join(done.stderr.split("Traceback")[0].split())
    last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    return said or (f"its kernels broke off with signal {-done.returncode}" if done.returncode < 0 else last)


def _suspected(converted: Converted) -> str:
    """What is known to make reference kernels break off, where the program has it."""
    tensors = converted.program.tensors
    for operator in converted.program.operators:
        if operator.name == "SOFTMAX" and (classes := tensors[operator.outputs[0]].shape[-1]) >= CLASSES_ALIKE:
            return (
                f"; maybe at node '{operator.node}': its kernel can't divide by the sum of {CLASSES_ALIKE} or more classes "
                f"that are alike, and SOFTMAX has {classes:,} here"
            )
    return ""


# --------------------------------------------------------------------------------------------------------- the other process


def work(key: str, folder: str, outputs: str, limit: str) -> None:
    """In the other process: every example in ``folder`` through the runtime, its outputs beside them."""
    place = Path(folder)
    inputs = [np.load(place / f"in{index}.npy") for index in range(len(list(place.glob("in*.npy"))))]
    sizes = [int(size) for size in outputs.split(",")]
    answers = list(RUNNERS[key].interpret(place, list(zip(*inputs, strict=True)), sizes, int(limit)))
    for index, outputs_of_examples in enumerate(zip(*answers, strict=True)):
        np.save(place / f"out{index}.npy", np.stack(outputs_of_examples))


def _packaged(package: str, module: str) -> Callable[[], str | None]:
    """The version of a runtime that Python imports."""

    def version() -> str | None:
        try:
            importlib.import_module(module)
        except ImportError:
            return None
        return importlib.metadata.version(package)

    return version


def _tflite_file(converted: Converted) -> Mapping[str, bytes]:
    return {_MODEL: converted.file}


def _litert_files(converted: Converted) -> Mapping[str, bytes]:
    unfit = any(operator.name in _UNFIT_REFERENCE for operator in converted.program.operators)
    return {**_tflite_file(converted), **({_OPTIMISED: b""} if unfit else {})}


def _tflm(place: Path, inputs: Sequence[Sequence[Array]], outputs: Sequence[int], limit: int) -> _Interpreted:
    runtime: Any = importlib.import_module("tflite_micro").runtime
    interpreter = runtime.Interpreter.from_bytes((place / _MODEL).read_bytes(), arena_size=limit)
    for example in inputs:
        for index, x in enumerate(example):
            interpreter.set_input(x, index)
        interpreter.invoke()
        yield [np.array(interpreter.get_output(index)) for index in range(len(outputs))]
    interpreter.print_allocations()


def _litert(place: Path, inputs: Sequence[Sequence[Array]], outputs: Sequence[int], limit: int) -> _Interpreted:
    runtime: Any = importlib.import_module("ai_edge_litert.interpreter")

    def allocated(kernels: Any) -> Any:
        content = (place / _MODEL).read_bytes()
        interpreter = runtime.Interpreter(model_content=content, experimental_op_resolver_type=kernels, num_threads=1)
        interpreter.allocate_tensors()
        return interpreter

    kernels = runtime.OpResolverType
    try:
        interpreter = allocated(
            kernels.BUILTIN_WITHOUT_DEFAULT_DELEGATES if (place / _OPTIMISED).exists() else kernels.BUILTIN_REF
        )
    except ValueError:  # the reference kernels are no full set: ELU isn't among them
        interpreter = allocated(kernels.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    for example in inputs:
        for detail, x in zip(interpreter.get_input_details(), example, strict=True):
            interpreter.set_tensor(detail["index"], x)
        interpreter.invoke()
        yield [np.array(interpreter.get_tensor(detail["index"])) for detail in interpreter.get_output_details()]


def compiler() -> list[str] | None:
    """The command of this computer's C compiler: what CC names, or the first of cc, gcc and clang; None where there is none.

    Raises UsageError where CC names none that is there.
    """
    named = _words_of("CC")
    if named and not shutil.which(named[0]):
        raise UsageError(f"CC={os.environ['CC']}: no such compiler is here; name one that is, or unset CC")
    candidates = [named] if named else [["cc"], ["gcc"], ["clang"]]
    return next((candidate for candidate in candidates if shutil.which(candidate[0])), None)


def _words_of(variable: str) -> list[str]:
    """The words of an environment variable, as a shell has them. Raises UsageError where a quote isn't closed."""
    said = os.environ.get(variable, "")
    try:
        return shlex.split(said)
    except ValueError as error:
        raise UsageError(f"{variable}={said}: no words as a shell has them ({error}); close the quotes") from None


def _compiles() -> str | None:
    return __version__ if compiler() is not None else None


def _source(converted: Converted) -> Mapping[str, bytes]:
    written = c.generate(converted.program, _NAME, channels_last=True)
    return {_SOURCE: written.c.encode(), _HEADER: written.header.encode()}


def _compiled(place: Path, inputs: Sequence[Sequence[Array]], outputs: Sequence[int], limit: int) -> _Interpreted:
    library = place / f"{_NAME}.so"
    extra = _words_of("CFLAGS")
    build = [*(compiler() or ["cc"]), "-std=c99", "-O1", "-shared", "-fPIC", *extra, _SOURCE, "-o", library.name]
    ended = subprocess.run(build, cwd=place, check=False).returncode
    if ended or not library.exists():
        raise RuntimeError(f"the compiler of CC and CFLAGS, `{shlex.join(build)}`, ended with {ended} and made no library")
    invoke = getattr(ctypes.CDLL(str(library)), f"{_NAME}_invoke")
    invoke.restype = None
    for example in inputs:
        given = [np.ascontiguousarray(x, np.int8) for x in example]
        results = [np.zeros(size, np.int8) for size in outputs]
        invoke(*((ctypes.c_void_p * len(side))(*(x.ctypes.data for x in side)) for side in (given, results)))
        yield results


#: The runtimes by their keys in ``verify``'s document.
RUNNERS: Mapping[str, Runner] = {
    "tflm": Runner("TensorFlow Lite Micro", "tflite-micro", _packaged("tflite-micro", "tflite_micro"), _tflite_file, _tflm),
    "litert": Runner(
        "LiteRT", "ai-edge-litert", _packaged("ai-edge-litert", "ai_edge_litert.interpreter"), _litert_files, _litert
    ),
    "c": Runner("generated C", "a C compiler", _compiles, _source, _compiled),
}

if __name__ == "__main__":
    work(*sys.argv[1:])
