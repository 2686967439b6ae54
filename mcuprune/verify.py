"""Whether a microcontroller's runtime computes what the exported file says.

The int8 file is written as .tflite (``tflite``), run in TensorFlow Lite Micro's own interpreter with its reference kernels, and
compared with onnxruntime, which computes the file's quantisers one by one as ONNX defines them. Outputs are compared as the
integers that the output's quantiser stores: differences are in its steps (LSB).

The runtime is the real one, compiled for this computer: kernels and memory planner are those of a device, pointers are 64
bits wide and there is no CMSIS-NN, so its arena is not a device's. Both numbers are reported, each with its name. It runs in a
process of its own: where one of its kernels aborts, that is an error message and no crash.

Why outputs differ at all: kernels multiply by fixed-point numbers and round twice, first to a whole number, then again when
they shift it. One QUANTIZE from fine to coarse steps is off by one in about an eighth of its values; a pool or a
RESIZE_BILINEAR rounds in its input's steps before it is brought to its output's. Each layer passes such differences on, and
some networks enlarge them: so much as onnxruntime's own outputs move when the inputs move by one step. ``Difference.allowed``
says what counts as equal.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from mcuprune import data as datasets
from mcuprune import network, ops, runtimes, tflite
from mcuprune.errors import DataError, MissingExtra, ModelError
from mcuprune.export import HIGH, LOW
from mcuprune.network import Network, Shape
from mcuprune.tflite import Converted, Port

Array = np.ndarray[Any, Any]

#: Outputs may always differ by this many steps: a layer or two that round the other way.
MAX_LSB = 2
#: And by this many times what one step at the inputs does to them: inputs move in one place, kernels round in every layer.
SENSITIVITY = 2
#: The share of real examples on which both must have the same largest output, for outputs of classes.
MIN_AGREEMENT = 0.99
#: The metadata key under which a file names its data set (``pruning`` reads the same).
_RUNTIME = "TensorFlow Lite Micro"
_PACKAGE = "tflite-micro"
_RANDOM = "random"


@dataclass(frozen=True)
class Difference:
    """How far one output is from onnxruntime's.

    max_lsb: the largest difference in steps of the output's quantiser. exact: the share of values without any.
    moved: by how many steps onnxruntime's output moves at most when every input value moves at random by one step or none.
    agreement: the share of examples whose largest value is the same, None for an output that isn't one row of classes.
    judged: whether the agreement counts. On random inputs it doesn't: the largest two are often a step apart.
    """

    output: str
    max_lsb: int
    exact: float
    moved: int
    agreement: float | None
    judged: bool

    @property
    def allowed(self) -> int:
        """The largest difference that counts as equal, in steps."""
        return max(MAX_LSB, SENSITIVITY * self.moved)

    @property
    def ok(self) -> bool:
        same = self.agreement is None or not self.judged or self.agreement >= MIN_AGREEMENT
        return self.max_lsb <= self.allowed and same


@dataclass(frozen=True)
class Verification:
    """What running the file in TensorFlow Lite Micro showed.

    examples: how many, by where they come from: "random", or the name of a data set.
    arena, arena_head: bytes that the runtime used on this computer (64-bit, reference kernels), and the activations' part.
    arena_predicted, arena_predicted_head: ``runtimes``' for a 32-bit core with CMSIS-NN.
    operators: TFLite operators, each with how often it occurs.
    """

    path: str
    differences: tuple[Difference, ...]
    examples: Mapping[str, int]
    runtime: str
    version: str
    tflite_bytes: int
    operators: Mapping[str, int]
    arena: int
    arena_head: int
    arena_predicted: int
    arena_predicted_head: int
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return all(difference.ok for difference in self.differences)


def verify(
    path: str | Path,
    *,
    examples: int = 200,
    seed: int = 0,
    input_shapes: Mapping[str, Shape] | None = None,
) -> Verification:
    """Run an int8 ONNX file in TensorFlow Lite Micro and compare it with onnxruntime.

    examples: how many random inputs, and how many test examples where the file's metadata names one of ``data.DATASETS``.
    Random inputs are drawn evenly from what the input's quantiser can store.

    Raises MissingExtra where the runtime isn't installed, ModelError for a file that isn't int8 or that the runtime refuses,
    UnsupportedOperator for a node that has no int8 operator there.
    """
    _check_installed()
    net = network.load(path, input_shapes=input_shapes, accept=ops.accept(str(path)))
    proto = onnx.load(str(path))
    converted = tflite.convert(net, net.stored)
    predicted = runtimes.arena_tflm(net)

    random = np.random.default_rng(seed)
    inputs = [_random_inputs(converted, random) for _ in range(examples)]
    counts, notes = {_RANDOM: examples}, []
    name = net.metadata.get(datasets.METADATA_KEY)
    if name in datasets.DATASETS and len(net.inputs) == 1:
        try:
            real = _real_inputs(net, name, examples, seed)
            inputs, counts = inputs + real, {**counts, name: len(real)}
        except (DataError, MissingExtra) as error:
            notes.append(f"only random inputs: {error}")

    reference = _Reference(proto, str(path))
    outputs, arena = _run(converted, inputs, str(path), limit=8 * predicted.total + 2**21)
    tallies = [_Tally(port) for port in converted.outputs]
    for index, example in enumerate(inputs):
        expected, moved = reference(example), reference(_moved(converted, example, random))
        judged = index >= examples  # real ones come after the random ones
        for tally in tallies:
            key = tally.port.name
            tally.add(outputs[key][index], expected[key], moved[key], judged=judged)
    differences = tuple(tally.difference() for tally in tallies)
    for found in differences:
        if found.moved > MAX_LSB:
            notes.append(
                f"output '{found.output}' moves by {found.moved} LSB when inputs move by one: differences of up to "
                f"{found.allowed} LSB are rounding"
            )
    operators = [operator for operator, _ in converted.operators]
    return Verification(
        path=str(path),
        differences=differences,
        examples=counts,
        runtime=_RUNTIME,
        version=importlib.metadata.version(_PACKAGE),
        tflite_bytes=len(converted.content),
        operators={name: operators.count(name) for name in sorted(set(operators))},
        arena=arena["total"],
        arena_head=arena["head"],
        arena_predicted=predicted.total,
        arena_predicted_head=predicted.head,
        notes=tuple(notes),
    )


def _random_inputs(converted: Converted, random: np.random.Generator) -> dict[str, Array]:
    found = {}
    for port in converted.inputs:
        steps = random.integers(LOW, HIGH + 1, port.shape) - port.quantizer.zero_point
        found[port.name] = steps.astype(np.float32) * np.float32(port.quantizer.scale)
    return found


def _moved(converted: Converted, inputs: Mapping[str, Array], random: np.random.Generator) -> dict[str, Array]:
    """The inputs, each value a step of its quantiser further, less, or where it was."""
    return {
        port.name: inputs[port.name] + np.float32(port.quantizer.scale) * random.integers(-1, 2, port.shape).astype(np.float32)
        for port in converted.inputs
    }


def _real_inputs(net: Network, name: str, examples: int, seed: int) -> list[dict[str, Array]]:
    """Test examples of a known data set. Raises DataError where it doesn't fit the file."""
    n_classes = int(np.prod(net.shapes[net.outputs[0]]))
    found = datasets.load(name, input_shape=net.shapes[net.inputs[0]][1:], n_classes=n_classes, seed=seed)
    return [{net.inputs[0]: x[None]} for x in found.test.x[:examples]]


class _Tally:
    """The differences of one output so far."""

    def __init__(self, port: Port) -> None:
        self.port = port
        self.max_lsb = self.moved = self.exact = self.values = 0
        self.agreeing = {True: 0, False: 0}
        self.examples = {True: 0, False: 0}

    def add(self, measured: Array, expected: Array, moved: Array, *, judged: bool) -> None:
        """measured: int8 as the runtime stores it; expected and moved: floats of onnxruntime, in the same shape."""
        wanted = _stored(expected, self.port)
        apart = np.abs(measured.astype(np.int64) - wanted)
        self.max_lsb = max(self.max_lsb, int(apart.max()))
        self.moved = max(self.moved, int(np.abs(_stored(moved, self.port) - wanted).max()))
        self.exact += int((apart == 0).sum())
        self.values += apart.size
        # where several share the largest value each is a right answer
        self.agreeing[judged] += bool(wanted.reshape(-1)[measured.argmax()] == wanted.max())
        self.examples[judged] += 1

    def difference(self) -> Difference:
        shape = self.port.shape
        classes = len(shape) >= 2 and max(shape) == int(np.prod(shape)) > 1
        judged = self.examples[True] > 0
        agreement = self.agreeing[judged] / max(1, self.examples[judged])
        return Difference(
            self.port.name,
            self.max_lsb,
            self.exact / max(1, self.values),
            self.moved,
            agreement if classes else None,
            judged,
        )


def _stored(x: Array, port: Port) -> Array:
    """What the port's quantiser stores for these reals, as QuantizeLinear computes it."""
    scaled = np.rint(x.astype(np.float32) / np.float32(port.quantizer.scale))
    stored: Array = np.clip(scaled + port.quantizer.zero_point, LOW, HIGH).astype(np.int64)
    return stored


# ------------------------------------------------------------------------------------------------------------- two runtimes


class _Reference:
    """The ONNX file in onnxruntime, without graph optimisation: each quantiser computed by itself, as ONNX defines it."""

    def __init__(self, proto: onnx.ModelProto, path: str) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtra("onnxruntime isn't installed; pip install 'mcuprune[verify]'") from None
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises its own kinds, none of them public
            raise ModelError(f"{path}: onnxruntime can't load it ({str(error).splitlines()[0]})") from None
        self._batch = {
            value.name: value.shape[0] if value.shape and isinstance(value.shape[0], int) else 1
            for value in self._session.get_inputs()
        }

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs of one example; a file with a fixed larger batch gets the example as often as it wants."""
        times = {name: max(1, self._batch[name] // len(x)) for name, x in inputs.items()}
        fed = {name: np.repeat(x, times[name], 0) for name, x in inputs.items()}
        names = [value.name for value in self._session.get_outputs()]
        outputs = self._session.run(None, fed)
        most = max(times.values())
        return {name: x[: len(x) // most] for name, x in zip(names, outputs, strict=True)}


def _check_installed() -> None:
    try:
        importlib.import_module("tflite_micro")
    except ImportError as error:
        raise MissingExtra(
            f"verify runs the model in {_RUNTIME}, and {error.name} isn't installed; pip install 'mcuprune[verify]'"
        ) from None


def _run(
    converted: Converted, inputs: Sequence[Mapping[str, Array]], path: str, *, limit: int
) -> tuple[dict[str, Array], dict[str, int]]:
    """Run a .tflite file in an interpreter of its own process.

    inputs: reals in ONNX's order for each example. limit: bytes of arena that it may use.
    Returns int8 (example, ...) of each output in ONNX's order, and the bytes of arena used, ``total`` and ``head``.
    Raises ModelError where the runtime refuses the file or breaks off.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / _MODEL).write_bytes(converted.content)
        for index, port in enumerate(converted.inputs):
            stored = [port.to_tflite(_stored(example[port.name], port).astype(np.int8)) for example in inputs]
            np.save(place / f"in{index}.npy", np.stack(stored))
        command = _command(folder, str(limit), str(len(converted.outputs)))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, check=False)
        if done.returncode:
            raise ModelError(f"{path}: {_RUNTIME} can't run it ({_reason(done)})")
        outputs = {
            port.name: np.stack([port.to_onnx(x) for x in np.load(place / f"out{index}.npy")])
            for index, port in enumerate(converted.outputs)
        }
    found = re.findall(r"Arena allocation (total|head) (\d+) bytes", done.stderr)
    return outputs, {key: int(value) for key, value in found}


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mcuprune.verify", *arguments]


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """What the runtime said before it failed; it writes its reasons to stderr, Python's traceback follows them."""
    said = " ".join(done.stderr.split("Traceback")[0].split())
    last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    return said or (f"its kernels broke off with signal {-done.returncode}" if done.returncode < 0 else last)


_MODEL = "model.tflite"


def _work(folder: str, limit: str, n_outputs: str) -> None:
    """The other process: every example in ``folder`` through the interpreter."""
    runtime: Any = importlib.import_module("tflite_micro").runtime
    place = Path(folder)
    interpreter = runtime.Interpreter.from_bytes((place / _MODEL).read_bytes(), arena_size=int(limit))
    inputs = [np.load(place / f"in{index}.npy") for index in range(len(list(place.glob("in*.npy"))))]
    outputs: list[list[Array]] = [[] for _ in range(int(n_outputs))]
    for example in zip(*inputs, strict=True):
        for index, x in enumerate(example):
            interpreter.set_input(x, index)
        interpreter.invoke()
        for index, found in enumerate(outputs):
            found.append(np.array(interpreter.get_output(index)))
    for index, found in enumerate(outputs):
        np.save(place / f"out{index}.npy", np.stack(found))
    interpreter.print_allocations()


# ---------------------------------------------------------------------------------------------------------------- report


def document(verification: Verification) -> dict[str, Any]:
    """The verification as JSON; sizes in bytes."""
    found = verification
    return {
        "format": 1,
        "command": "verify",
        "ok": found.ok,
        "path": found.path,
        "runtime": {"name": found.runtime, "version": found.version},
        "examples": dict(found.examples),
        "limits": {"agreement": MIN_AGREEMENT},
        "outputs": [
            {
                "name": output.output,
                "ok": output.ok,
                "max_lsb": output.max_lsb,
                "allowed_lsb": output.allowed,
                "exact": output.exact,
                "agreement": output.agreement,
            }
            for output in found.differences
        ],
        "tflite": {"bytes": found.tflite_bytes, "operators": dict(found.operators)},
        "arena": {
            "measured_64bit_reference": found.arena,
            "measured_64bit_reference_head": found.arena_head,
            "predicted_32bit_cmsis_nn": found.arena_predicted,
            "predicted_32bit_cmsis_nn_head": found.arena_predicted_head,
        },
        "notes": list(found.notes),
    }


def text(document: Mapping[str, Any]) -> str:
    """The document for people: one line for each output, then memory and the verdict."""
    runtime, arena = document["runtime"], document["arena"]
    counts = " + ".join(f"{count} {name}" for name, count in document["examples"].items())
    lines = [f"{document['path']} in {runtime['name']} {runtime['version']}, {counts} examples, against onnxruntime", ""]
    rows = [("max LSB", "allowed", "exact", "same class", "output")]
    for output in document["outputs"]:
        agreement = "-" if output["agreement"] is None else f"{output['agreement']:.1%}"
        rows.append((str(output["max_lsb"]), str(output["allowed_lsb"]), f"{output['exact']:.1%}", agreement, output["name"]))
    lines += [f"{lsb:>9}  {allowed:>7}  {exact:>6}  {same:>10}  {name}" for lsb, allowed, exact, same, name in rows]
    lines += [
        "",
        f"{arena['measured_64bit_reference']:>9,} bytes of arena measured here (64-bit, reference kernels), "
        f"{arena['measured_64bit_reference_head']:,} of them activations",
        f"{arena['predicted_32bit_cmsis_nn']:>9,} bytes of arena predicted on a device (32-bit, CMSIS-NN), "
        f"{arena['predicted_32bit_cmsis_nn_head']:,} of them activations",
        f"{document['tflite']['bytes']:>9,} bytes of .tflite, {sum(document['tflite']['operators'].values())} operators",
        *(f"note: {note}" for note in document["notes"]),
        "",
        "EQUAL: as onnxruntime computes it, but for rounding" if document["ok"] else "DIFFERS: not what onnxruntime computes",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    _work(*sys.argv[1:])
