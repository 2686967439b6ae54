"""Runtimes in which a converted file can be run on this computer, each in a process of its own.

``RUNNERS`` is the table: another runtime is another row. A kernel that aborts ends the other process and is an error message
here. Inputs and outputs are the integers that the file's quantisers store.

TensorFlow Lite Micro is the real one, compiled for this computer: kernels and memory planner are those of a device, pointers
have 8 bytes and there is no CMSIS-NN. LiteRT (TensorFlow Lite) runs its reference kernels, which define what an operator
computes.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mcuprune.errors import MissingExtra, ModelError
from mcuprune.export import HIGH, LOW
from mcuprune.tflite import Converted, Port

Array = np.ndarray[Any, Any]
#: A model and its inputs, one list of arrays for each example -> the outputs of each example, in the order of the model.
_Interpreted = Iterator[list[Array]]
_MODEL = "model.tflite"
#: Bytes of a pointer of this computer's programs.
POINTER_BYTES: Literal[4, 8] = 8 if struct.calcsize("P") == 8 else 4


@dataclass(frozen=True)
class Runner:
    """A runtime. package: what pip installs. module: what Python imports.

    interpret: (the .tflite file, inputs of every example, number of outputs, bytes of arena) -> outputs of every example.
    """

    title: str
    package: str
    module: str
    interpret: Callable[[bytes, Sequence[Sequence[Array]], int, int], _Interpreted]

    @property
    def installed(self) -> bool:
        try:
            importlib.import_module(self.module)
        except ImportError:
            return False
        return True

    @property
    def version(self) -> str:
        return importlib.metadata.version(self.package)


@dataclass(frozen=True)
class Ran:
    """What a run gave.

    outputs: int8 (example, ...) of each output in ONNX's order. arena: bytes used, ``total`` and ``head``, where it tells.
    """

    outputs: Mapping[str, Array]
    arena: Mapping[str, int] = field(default_factory=dict)


def available() -> tuple[str, ...]:
    """The keys of the runtimes that are installed. Raises MissingExtra where there is none."""
    found = tuple(key for key, runner in RUNNERS.items() if runner.installed)
    if not found:
        needed = " or ".join(f"{runner.package} ({runner.title})" for runner in RUNNERS.values())
        raise MissingExtra(
            f"verify runs the model in a runtime, and none is installed: {needed}; pip install 'mcuprune[verify]'"
        )
    return found


def stored(x: Array, port: Port) -> Array:
    """int64: what the port's quantiser stores for these reals, as QuantizeLinear computes it."""
    scaled = np.rint(x.astype(np.float32) / np.float32(port.quantizer.scale))
    found: Array = np.clip(scaled + port.quantizer.zero_point, LOW, HIGH).astype(np.int64)
    return found


def real(x: Array, port: Port) -> Array:
    """float32: the reals that stored integers stand for, as DequantizeLinear computes them."""
    steps = x.astype(np.int64) - port.quantizer.zero_point
    return steps.astype(np.float32) * np.float32(port.quantizer.scale)


def run(key: str, converted: Converted, inputs: Sequence[Mapping[str, Array]], path: str, *, limit: int) -> Ran:
    """Run a .tflite file on examples.

    key: of ``RUNNERS``. inputs: reals in ONNX's order for each example. path: what messages call the model.
    limit: bytes of arena that it may use.
    Raises ModelError where the runtime refuses the file or breaks off.
    """
    runner = RUNNERS[key]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / _MODEL).write_bytes(converted.content)
        for index, port in enumerate(converted.inputs):
            integers = [port.to_tflite(stored(example[port.name], port).astype(np.int8)) for example in inputs]
            np.save(place / f"in{index}.npy", np.stack(integers))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
        command = _command(key, folder, str(len(converted.outputs)), str(limit))
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, check=False)
        if done.returncode:
            raise ModelError(f"{path}: {runner.title} can't run it ({_reason(done)})")
        outputs = {
            port.name: np.stack([port.to_onnx(x) for x in np.load(place / f"out{index}.npy")])
            for index, port in enumerate(converted.outputs)
        }
    found = re.findall(r"Arena allocation (total|head) (\d+) bytes", done.stderr)
    return Ran(outputs, {name: int(value) for name, value in found})


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mcuprune.runners", *arguments]


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """What the runtime said before it failed; it writes its reasons to stderr, Python's traceback follows them."""
    said = " ".join(done.stderr.split("Traceback")[0].split())
    last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    return said or (f"its kernels broke off with signal {-done.returncode}" if done.returncode < 0 else last)


# --------------------------------------------------------------------------------------------------------- the other process


def work(key: str, folder: str, outputs: str, limit: str) -> None:
    """In the other process: every example in ``folder`` through the runtime, its outputs beside them."""
    place = Path(folder)
    inputs = [np.load(place / f"in{index}.npy") for index in range(len(list(place.glob("in*.npy"))))]
    content = (place / _MODEL).read_bytes()
    answers = list(RUNNERS[key].interpret(content, list(zip(*inputs, strict=True)), int(outputs), int(limit)))
    for index, found in enumerate(zip(*answers, strict=True)):
        np.save(place / f"out{index}.npy", np.stack(found))


def _tflm(content: bytes, inputs: Sequence[Sequence[Array]], outputs: int, limit: int) -> _Interpreted:
    runtime: Any = importlib.import_module("tflite_micro").runtime
    interpreter = runtime.Interpreter.from_bytes(content, arena_size=limit)
    for example in inputs:
        for index, x in enumerate(example):
            interpreter.set_input(x, index)
        interpreter.invoke()
        yield [np.array(interpreter.get_output(index)) for index in range(outputs)]
    interpreter.print_allocations()


def _litert(content: bytes, inputs: Sequence[Sequence[Array]], outputs: int, limit: int) -> _Interpreted:
    runtime: Any = importlib.import_module("ai_edge_litert.interpreter")
    reference = runtime.OpResolverType.BUILTIN_REF
    interpreter = runtime.Interpreter(model_content=content, experimental_op_resolver_type=reference, num_threads=1)
    interpreter.allocate_tensors()
    for example in inputs:
        for place, x in zip(interpreter.get_input_details(), example, strict=True):
            interpreter.set_tensor(place["index"], x)
        interpreter.invoke()
        yield [np.array(interpreter.get_tensor(place["index"])) for place in interpreter.get_output_details()]


#: The runtimes by their keys in ``verify``'s document.
RUNNERS: Mapping[str, Runner] = {
    "tflm": Runner("TensorFlow Lite Micro", "tflite-micro", "tflite_micro", _tflm),
    "litert": Runner("LiteRT", "ai-edge-litert", "ai_edge_litert.interpreter", _litert),
}

if __name__ == "__main__":
    work(*sys.argv[1:])
