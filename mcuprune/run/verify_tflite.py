"""Whether a .tflite file, as it lies on disk, runs: in the arena that is predicted for it, and alike in all runtimes.

The file says what it computes and where its inputs are, so no ONNX file is needed. Where the one that it was exported from lies
beside it, under the same stem, and gives the same bytes, or the same network without row bands, the verdict is that of
``verify`` on it: a comparison with onnxruntime. One that takes and gives the same integers but has other bytes is damaged,
older or somebody else's: its outputs are compared too. Where there is no such file, a note says why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from mcuprune import options
from mcuprune.data.feed import Feed, class_names, flags_given, only_layout, preprocessing, said
from mcuprune.data.fitting import classifier
from mcuprune.data.sets import Split
from mcuprune.deploy import tflite_reader
from mcuprune.deploy.program import Program
from mcuprune.deploy.qdq import HIGH, LOW
from mcuprune.deploy.tflite import Converted, Port, convert
from mcuprune.errors import DataError, McupruneError, ModelError, UsageError
from mcuprune.graph import network
from mcuprune.immutable import immutable
from mcuprune.operators import table as ops
from mcuprune.options import AUTO
from mcuprune.run import runners
from mcuprune.run.trial import Draw, Trial
from mcuprune.run.verification import Compared, Verification
from mcuprune.run.verify import Instead, Tally, data_name, is_class, measured, predicted, verify
from mcuprune.train import preprocess
from mcuprune.train.tasks.metrics import Classes, Metric

Array = np.ndarray[Any, Any]
#: The runtime that others are compared with: its reference kernels define what an operator computes.
_DEFINES = "litert"
#: Which input is the kernel of operators that have one.
_KERNEL = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "FULLY_CONNECTED": 1, "TRANSPOSE_CONV": 1}
#: Dimensions of a kernel that slides over rows, its second one.
_IMAGES = 4
#: Data of which a larger share is beyond what an input stores are fed wrongly.
_MOST = 0.5


def verify_file(path: str | Path, trial: Trial | None = None) -> Verification:
    """``verify`` of whichever file it is, .onnx or .tflite. Arguments and errors are those of ``verify``.

    Also raises UsageError for shapes and outputs of a .tflite file without an ONNX file beside it, as both are about that one.
    """
    trial = trial or Trial()
    options.check(Draw(examples=trial.examples, seed=trial.seed))
    options.check(Feed(**said(trial)))
    if Path(path).suffix != ".tflite":
        return verify(path, trial)
    read = tflite_reader.read(path)
    source = _source(Path(path), read, trial)
    if not isinstance(source, str):
        verified = verify(source.file, trial, instead=source.instead)
        return replace(verified, path=str(path), notes=(source.note, *verified.notes))
    if trial.data is None and (idle := flags_given(trial)):
        raise UsageError(f"{path}: {', '.join(idle)}: is about data, and none are named: add --data, or leave it out")
    if trial.data is not None and trial.task not in (AUTO, "classify"):
        needed = f"--task {trial.task} needs the ONNX file that it was exported from beside it"
        raise DataError(f"{path}: {needed}; or leave --data out")
    return _alone(str(path), read, trial, source)


@immutable
class _Source:
    """The ONNX file that a .tflite is compared with. instead: the .tflite, where that one gives another. note: about both."""

    file: Path
    instead: Instead | None
    note: str


def _source(path: Path, read: Converted, trial: Trial) -> _Source | str:
    """The ONNX file beside it that it was, or may have been, exported from; where there is none, why.

    Raises UsageError and what loading raises for shapes and outputs that the file beside it doesn't have.
    """
    beside = path.with_suffix(".onnx")
    flags = [flag for flag, given in (("--input-shape", trial.input_shapes), ("--outputs", trial.outputs)) if given]
    if not beside.is_file():
        if flags:
            both = " and ".join(flags)
            raise UsageError(
                f"{path}: {both} would be about the ONNX file that it was exported from, and no {beside.name} lies beside it: "
                f"put it there, or leave {both} out"
            )
        return f"no {beside.name} lies beside it"
    try:
        net = network.load(beside, input_shapes=trial.input_shapes, outputs=trial.outputs, accept=ops.accept(str(beside)))
    except McupruneError as error:
        if flags:  # they are about this file, so it can't be another model that lies there by chance
            raise
        return f"the file beside it can't be read: {error}"
    try:
        written = [convert(net, offline=True, names=names) for names in (False, True)]
    except McupruneError as error:  # a float model, for one
        return f"the file beside it can't be what it was exported from: {error}"
    if any(converted.content == read.content for converted in written):
        return _Source(beside, None, f"exported from {beside}, which gives the same bytes")
    if _in_bands(written[0], read):
        note = f"exported from {beside}, which has the same network without row bands"
        return _Source(beside, Instead(read, banded=True), note)
    if _is_fed_alike(written[0], read):
        note = f"{beside} beside it gives other bytes for the same inputs and outputs: what both compute is compared"
        return _Source(beside, Instead(read, banded=False), note)
    _refuse_other_steps(path, beside, written[0], read)
    return f"{beside.name} beside it gives other bytes{' with ' if flags else ''}{' and '.join(flags)}"


def _in_bands(plain: Converted, read: Converted) -> bool:
    """Whether a file is this network in row bands: its inputs, outputs and kernels, and more operators for some of these."""
    if not _is_fed_alike(plain, read):
        return False
    own, written = _kernels(plain.program), _kernels(read.program)
    return own.keys() == written.keys() and own <= written and len(plain.operators) < len(read.operators)


def _refuse_other_steps(path: Path, beside: Path, plain: Converted, read: Converted) -> None:
    """Raise ModelError where both have the same inputs and outputs, but for the numbers that their integers stand for.

    Nothing that runs the file alone could tell that these are wrong.
    """
    ports, theirs = ([*converted.inputs, *converted.outputs] for converted in (plain, read))
    if len(plain.inputs) != len(read.inputs) or [_held(port)[0] for port in ports] != [_held(port)[0] for port in theirs]:
        return
    own, other = next(pair for pair in zip(ports, theirs, strict=True) if _held(pair[0]) != _held(pair[1]))
    said = [f"scale {port.quantizer.scale:.6g}, zero point {port.quantizer.zero_point}" for port in (other, own)]
    raise ModelError(
        f"{path}: stores '{own.name}' with {said[0]}, and {beside} beside it gives {said[1]}: export it again, or, if it is of "
        f"another model, move {beside.name} away"
    )


def _is_fed_alike(plain: Converted, read: Converted) -> bool:
    """Whether both take and give the same integers: as many inputs and outputs, of the same shapes, scales and zero points."""
    ports, theirs = ([*converted.inputs, *converted.outputs] for converted in (plain, read))
    return len(plain.inputs) == len(read.inputs) and list(map(_held, ports)) == list(map(_held, theirs))


def _held(port: Port) -> tuple[Any, ...]:
    """How a file holds an input or output: its shape there, scale and zero point."""
    shape = tuple(1 if axis is None else port.shape[axis] for axis in port.axes)
    return shape, np.float32(port.quantizer.scale), port.quantizer.zero_point


def _kernels(program: Program) -> Counter[bytes]:
    """How many operators run each kernel, without the rows of zeros that bands put around some."""
    kernels = Counter[bytes]()
    for operator in program.operators:
        if operator.name in _KERNEL and (content := program.tensors[operator.inputs[_KERNEL[operator.name]]].content):
            kernel = content()
            rows = np.flatnonzero(kernel.data.any(axis=tuple(axis for axis in range(kernel.data.ndim) if axis != 1)))
            kept = kernel.data[:, rows[0] : rows[-1] + 1] if kernel.data.ndim == _IMAGES and rows.size else kernel.data
            kernels[kept.tobytes() + np.float32(kernel.scales).tobytes()] += 1
    return kernels


def _alone(path: str, read: Converted, trial: Trial, why: str) -> Verification:
    """The file in the runtimes that read it, against each other. why: it isn't compared with onnxruntime."""
    keys = runners.available(of_tflite=True)
    split, read = _split(path, read, trial)
    random = np.random.default_rng(trial.seed)
    inputs: list[dict[str, Array]] = [
        {port.name: runners.real(random.integers(LOW, HIGH + 1, port.shape), port) for port in read.inputs}
        for _ in range(trial.examples)
    ]
    counts = {"random": trial.examples}
    if split is not None and trial.data is not None:
        inputs += [{read.inputs[0].name: x[None]} for x in split.x[:]]
        counts[data_name(trial.data)] = len(split.y)
    memory = predicted(read)
    limit = 8 * memory.predicted + 2 * sum(prod(tensor.shape) for tensor in read.program.tensors) + 2**21
    ran = {}
    for key in keys:
        ran[key] = runners.run(key, read, inputs, path, limit=limit)
        memory = measured(memory, ran[key])
    compared = []
    for key, ran_in in ran.items():
        tallies = [Tally(port) for port in read.outputs]
        for tally in tallies if key != _DEFINES and _DEFINES in ran else ():
            for index, (mine, defined) in enumerate(
                zip(ran_in.outputs[tally.port.name], ran[_DEFINES].outputs[tally.port.name], strict=True)
            ):
                tally.add(mine, runners.real(defined, tally.port), judged=index >= trial.examples)
        metric = None
        if split is not None and is_class(read.outputs[0].shape):
            metric = _of_classes(ran_in.outputs[read.outputs[0].name][trial.examples :], split.y)
        differences = tuple(tally.difference() for tally in tallies if tally.values)
        compared.append(Compared(key, runners.RUNNERS[key].version() or "", differences, (), None, metric))
    return Verification(
        path=path,
        examples=counts,
        converted=read,
        runtimes=tuple(compared),
        onnxruntime=None,
        metric=None,
        default_session_metric=None,
        memory=memory,
        notes=(*_notes(why, keys, memory.ok), *_fed_as_stored(path, trial)),
    )


def _of_classes(outputs: Array, labels: Array) -> Metric:
    """How many answers are right. outputs: (examples, ...), one number for each class."""
    rows = outputs.reshape(len(labels), -1)
    tally = Classes(rows.shape[1])
    tally.add(rows.argmax(1), labels)
    return tally.metric()


def _notes(why: str, keys: Sequence[str], arena_ok: bool) -> tuple[str, ...]:
    notes = [f"not compared with onnxruntime: {why}"]
    if len(keys) == 1:
        notes.append(f"{runners.RUNNERS[keys[0]].title} is the only runtime here that reads it: nothing to compare it with")
    notes += runners.absent(keys, of_tflite=True)
    return (*notes, *([] if arena_ok else ["the arena measured is above what is predicted for pointers of this size"]))


def _fed_as_stored(path: str, trial: Trial) -> tuple[str, ...]:
    """What to say where nothing says how real examples are scaled."""
    if trial.data is None or not only_layout(trial):
        return ()
    said = f"{data_name(trial.data)} is fed as it is stored: scale, mean and std stand in the ONNX file"
    return (f"{said}: put the {Path(path).with_suffix('.onnx').name} beside it, or give --scale, or --mean and --std",)


def _refuse_beyond(path: str, port: Port, split: Split, name: str) -> None:
    """Raise DataError where most values are beyond all that the input's quantiser stores; 0 is itself at any scale."""
    step, zero = port.quantizer.scale, port.quantizer.zero_point
    low, high = (LOW - zero - 0.5) * step, (HIGH - zero + 0.5) * step
    values = np.asarray(split.x[:])
    values = values[values != 0]
    share = float(((values < low) | (values > high)).mean()) if values.size else 0.0
    if share > _MOST:
        beside = Path(path).with_suffix(".onnx").name
        raise DataError(
            f"{path}: {share:.0%} of the values of {name} that aren't 0 are beyond {low:.4g} to {high:.4g}, all that its "
            f"input stores: it takes them scaled otherwise. Put the {beside} that it was exported from beside it, which says "
            "how, or say it with --scale, or --mean and --std"
        )


def _split(path: str, read: Converted, trial: Trial) -> tuple[Split | None, Converted]:
    """Test examples, and the file with its input in the layout that they have: channels first, or last as in the file."""
    if trial.data is None:
        return None, read
    if len(read.inputs) != 1:
        raise DataError(f"{path}: --data feeds one input, and this file has {len(read.inputs)}; leave it out")
    n_classes, refused = prod(read.outputs[0].shape[1:]), None
    for port in dict.fromkeys((tflite_reader.channels_first(read.inputs[0]), read.inputs[0])):
        try:
            known = preprocessing(trial, {}, port.shape[1:])
            wanted = classifier(port.shape[1:], n_classes, trial.seed)
            data = preprocess.as_said(trial.data, wanted, trial, known, class_names(trial, {}))
        except DataError as error:
            refused = refused or error
            continue
        some = trial.chosen(len(data.test))
        split = Split(data.test.x[some], data.test.y[some])
        _refuse_beyond(path, port, split, data_name(trial.data))
        return split, _with_input(read, port)
    beside = Path(path).with_suffix(".onnx").name
    raise DataError(
        f"{refused}; a .tflite alone is taken for a classifier: put the {beside} that it was exported from beside it, or leave "
        "--data out"
    )


def _with_input(read: Converted, port: Port) -> Converted:
    return replace(read, program=replace(read.program, inputs=(port,)))
