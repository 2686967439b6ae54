"""Whether a microcontroller's runtime computes what the exported file says.

The int8 file is written as .tflite (``tflite``), run in every runtime that is installed (``runners``), and compared with
onnxruntime, which computes the file's quantisers one by one as ONNX defines them. Outputs are compared as the integers that the
output's quantiser stores: differences are in its steps (LSB).

Kernels multiply by fixed-point numbers and round once or twice more than ONNX does, so they differ, and deep networks enlarge
what an early layer differs by. No bound on the outputs tells such rounding from a mistake. What does:

* each layer alone, given the same inputs (``layerwise``): it may differ by two steps, whatever the network;
* the whole: the outputs are the same, to the bit, whether or not the runtime keeps the tensors between, so its memory plan
  overwrites nothing;
* the outputs: within two steps, or else, where there is data, the same class on as good as all examples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from mcuprune.bands.rewrite import is_banded
from mcuprune.costs import resources
from mcuprune.data import loading as datasets
from mcuprune.data.feed import flags_given
from mcuprune.data.sets import IN_MEMORY, Given, Split
from mcuprune.deploy import cplan, tflite
from mcuprune.deploy.lower import lower
from mcuprune.deploy.qdq import HIGH, LOW
from mcuprune.deploy.tflite import Converted, Port
from mcuprune.errors import DataError, MissingExtra, ModelError, UnsupportedOperator, UsageError
from mcuprune.graph import intake, network, qlinear, tails
from mcuprune.graph.network import Network, Shape
from mcuprune.immutable import immutable
from mcuprune.names import Names
from mcuprune.operators import table as ops
from mcuprune.run import layerwise, runners
from mcuprune.run.layerwise import Layer
from mcuprune.run.runners import Ran, stored
from mcuprune.run.trial import Trial, of_one_example
from mcuprune.run.verification import MAX_LSB, Compared, Difference, Memory, Taken, Verification
from mcuprune.train import evaluate, preprocess
from mcuprune.train.goal import goal
from mcuprune.train.tasks.heads import heads
from mcuprune.train.tasks.metrics import Metric
from mcuprune.train.tasks.objective import Objective
from mcuprune.train.training_data import wanted_of
from mcuprune.units import show

Array = np.ndarray[Any, Any]
#: How inputs that are integers already are stored: their type, and what lies between it and int8.
_INTEGER_INPUTS: Mapping[int, tuple[Callable[[int], Any], int]] = {
    onnx.TensorProto.INT8: (np.int8, 0),
    onnx.TensorProto.UINT8: (np.uint8, 128),
}
#: So many of the random and of the real examples go through each layer alone.
_LAYER_EXAMPLES = 16
_RANDOM = "random"
#: Arena that no microcontroller has, external memory included. Here every runtime would take many times as much for minutes.
_MOST_ARENA = 64 * 2**20


@immutable
class Instead:
    """A .tflite file that runs in place of the one that an ONNX file gives.

    Layers are those of the one that the ONNX file gives. banded: whether this one is the same network in row bands, which has
    to give the same outputs to the bit. Else it is damaged, or of another writer, whose outputs may be ``MAX_LSB`` steps away.
    """

    file: Converted
    banded: bool


def verify(path: str | Path, trial: Trial | None = None, *, instead: Instead | None = None) -> Verification:
    """Run an int8 ONNX file, as it is exported, in the runtimes that are installed and compare them with onnxruntime.

    trial: what it is run with; by default ``Trial()``. instead: the .tflite file that runs, where it isn't the one it gives.

    Raises MissingExtra where no runtime is installed, ModelError for a file that isn't int8 or that a runtime refuses,
    UnsupportedOperator for a node that has no int8 operator there, or for a network far above what any device has memory for,
    DataError for data that doesn't fit.
    """
    trial, keys, notes = trial or Trial(), runners.available(), list[str]()
    case = _case(str(path), trial, notes, instead)
    notes += [*runners.absent(keys), *case.converted.program.remarks]
    figures = None
    if case.real is not None and case.real.objective is not None:
        figures = evaluate.int8_metric(case.proto.SerializeToString(), case.real.split, case.real.objective)
        notes += [figures.warning] if figures.warning else []
    compared, memory = case.in_runtimes(keys, notes)
    if not memory.ok:
        notes.append(f"the arena measured is above the {memory.same_pointers:,} bytes predicted for pointers of this size")
    import onnxruntime

    return Verification(
        path=str(path),
        examples=case.counts,
        converted=case.written,
        runtimes=compared,
        onnxruntime=onnxruntime.__version__,
        metric=figures.exact if figures else None,
        default_session_metric=figures.default_session if figures else None,
        memory=memory,
        notes=tuple(dict.fromkeys(notes)),
    )


def measured(memory: Memory, ran: Ran) -> Memory:
    """The prediction with what a runtime told, the first one that tells."""
    if not ran.arena or memory.measured is not None:
        return memory
    return replace(memory, measured=ran.arena["total"], head_measured=ran.arena["head"])


def is_class(shape: Shape) -> bool:
    """Whether a tensor is one row of numbers, one for each class."""
    return len(shape) >= 2 and max(shape) == prod(shape) > 1


def with_ports_of(source: Converted, file: Converted) -> Converted:
    """A .tflite file that takes and gives data under the names and in the layouts of the ONNX network it came from."""
    inputs, outputs = (
        tuple(replace(named, tensor=port.tensor) for named, port in zip(*sides, strict=True))
        for sides in ((source.inputs, file.inputs), (source.outputs, file.outputs))
    )
    return replace(file, program=replace(file.program, inputs=inputs, outputs=outputs))


def predicted(converted: Converted) -> Memory:
    """What the arena should be, on a device and here."""
    program, plan = converted.program, converted.plan
    device, here = program.arena(plan=plan), program.arena(kernels="reference", pointer=runners.POINTER_BYTES, plan=plan)
    bits = runners.POINTER_BYTES
    return Memory(device.total, here.head, here.total, bits, head_on_device=device.head, start_on_device=device.start)


# -------------------------------------------------------------------------------------------------------------- examples


def _random_inputs(converted: Converted, random: np.random.Generator) -> dict[str, Array]:
    return {port.name: runners.real(random.integers(LOW, HIGH + 1, port.shape), port) for port in converted.inputs}


def data_name(data: Given) -> str:
    """What examples are called."""
    return str(data) if isinstance(data, (str, PathLike)) else IN_MEMORY


@immutable
class _Real:
    """Real examples, where they come from, and what their targets are held against; None without targets."""

    name: str
    split: Split
    objective: Objective | None


def _real(net: Network, trial: Trial, notes: list[str]) -> _Real | None:
    """Test examples of what was asked for; without that, of the data set that the file names, if it fits."""
    source = datasets.named(net.metadata) if trial.data is None else trial.data
    if trial.data is None and (other := datasets.not_embedded(net.metadata)):
        notes.append(f"only random inputs: {other}")
    if source is None and (idle := flags_given(trial)):
        raise UsageError(f"{net.path}: {', '.join(idle)}: is about data, and none are named: add --data, or leave it out")
    if source is None or not net.outputs:
        return None
    try:
        fed = preprocess.opened(net, source, wanted_of(net, seed=trial.seed, task=trial.task), trial, trial.seed)
        data = fed.data
        scored = trial.task != "distill" and not any(head.ending == "steps" for head in heads(net))
        labelled = data.test.targets is not None and scored
        aim = goal(net, data, task=trial.task, unlabelled=False) if labelled else None
    except (DataError, MissingExtra) as error:
        if trial.data is not None:
            raise
        notes.append(f"only random inputs: {error}")
        return None
    notes += fed.notes
    test = data.test if aim is None else aim.data.test
    some = trial.chosen(len(test))
    inputs = [np.asarray(column[some]) for column in test.inputs]
    targets = None if aim is None or test.targets is None else [np.asarray(column[some]) for column in test.targets]
    name = data_name(net.metadata[datasets.METADATA_KEY] if trial.data is None else trial.data)
    return _Real(name, Split(inputs, targets), None if aim is None else aim.objective)


# ------------------------------------------------------------------------------------------------------------ comparison


def _case(path: str, trial: Trial, notes: list[str], instead: Instead | None) -> _Case:
    """Read and convert a file, and collect its inputs."""
    net = network.load(path, input_shapes=trial.input_shapes, outputs=trial.outputs, accept=ops.accept(path))
    proto = onnx.load(path)
    intake.name_own_domain(proto)
    if trial.outputs:
        proto = tails.cut(proto, trial.outputs, path)
    converted = tflite.convert(net, net.stored, offline=True)
    proto = _with_float_inputs(proto, converted.inputs)
    written = converted if instead is None else with_ports_of(converted, instead.file)
    if (arena := predicted(written).predicted) > _MOST_ARENA:
        raise UnsupportedOperator(
            f"{path}: would need an arena of {show(arena, 'bytes')}, and no device has more than {show(_MOST_ARENA, 'bytes')}: "
            "nothing is run; check the sizes of its inputs (--input-shape)"
        )
    notes += of_one_example(net, trial.input_shapes or {})
    real = _real(net, trial, notes)
    random = np.random.default_rng(trial.seed)
    inputs = [_random_inputs(converted, random) for _ in range(trial.examples)]
    if real is not None:
        inputs += [
            dict(zip(net.inputs, (np.asarray(x[i : i + 1]) for x in real.split.inputs), strict=True))
            for i in range(len(real.split))
        ]
    return _Case(path, net, proto, converted, written, inputs, trial.examples, real, instead)


def _with_float_inputs(model: onnx.ModelProto, ports: Sequence[Port]) -> onnx.ModelProto:
    """The file with a quantiser before each input of integers, so that every input takes reals."""
    graph, quantisers = model.graph, {port.name: port.quantizer for port in ports}
    names = Names(name for node in graph.node for name in (node.name, *node.input, *node.output))
    for value in graph.input:
        kind = value.type.tensor_type.elem_type
        if kind not in _INTEGER_INPUTS or value.name not in quantisers:
            continue
        quantiser, (dtype, offset) = quantisers[value.name], _INTEGER_INPUTS[kind]
        scale, zero, integers = (names.free(f"{value.name}/{part}") for part in ("scale", "zero_point", "integers"))
        for node in graph.node:
            node.input[:] = [integers if name == value.name else name for name in node.input]
        graph.initializer.append(numpy_helper.from_array(np.float32(quantiser.scale), scale))
        graph.initializer.append(numpy_helper.from_array(dtype(quantiser.zero_point + offset), zero))
        graph.node.insert(0, onnx.helper.make_node("QuantizeLinear", [value.name, scale, zero], [integers], name=integers))
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return model


@immutable
class _Case:
    """A file, its converted form and its inputs: ``n_random`` random ones, then those of ``real``.

    written: what runtimes of .tflite files run: the converted form, or the file ``instead``.
    """

    path: str
    net: Network
    proto: onnx.ModelProto
    converted: Converted
    written: Converted
    inputs: Sequence[Mapping[str, Array]]
    n_random: int
    real: _Real | None
    instead: Instead | None

    @property
    def counts(self) -> dict[str, int]:
        """How many examples, by where they come from."""
        return {_RANDOM: self.n_random, **({} if self.real is None else {self.real.name: len(self.real.split)})}

    @property
    def limit(self) -> int:
        """Bytes of arena that suffice, also where every tensor is kept to the end; what TFLM uses all of."""
        most = max(lower(self.net).arena().total, predicted(self.written).predicted)
        return 8 * most + 2 * sum(prod(s) for s in self.net.shapes.values()) + 2**21

    def in_runtimes(self, keys: Sequence[str], notes: list[str]) -> tuple[tuple[Compared, ...], Memory]:
        """Each runtime against onnxruntime, and the arena. Raises UnsupportedOperator where the only one lacks a kernel."""
        comparisons: list[Compared] = []
        memory = predicted(self.written)
        for key in keys:
            try:
                compared, ran = self.compare(key, notes)
            except UnsupportedOperator as error:
                if len(keys) == 1:
                    raise
                notes.append(f"not run as {runners.RUNNERS[key].title}: {error}")
                continue
            comparisons.append(compared)
            memory = measured(memory, ran) if runners.RUNNERS[key].reads_tflite else memory
        return tuple(comparisons), memory

    def compare(self, key: str, notes: list[str]) -> tuple[Compared, Ran]:
        """One runtime against onnxruntime."""
        instead = self.instead if runners.RUNNERS[key].reads_tflite else None
        ran = runners.run(key, self.converted if instead is None else self.written, self.inputs, self.path, limit=self.limit)
        reference = _Reference(self.proto, self.path)
        tallies = [Tally(port) for port in self.converted.outputs]
        for index, example in enumerate(self.inputs):
            expected = reference(example)
            for tally in tallies:
                name = tally.port.name
                tally.add(ran.outputs[name][index], expected[name], judged=index >= self.n_random)
        given = ran if instead is None or instead.banded else self._given(key, ran, notes)
        layers, steady = ((), False) if given is None else self._layers(key, given, notes)
        compared = Compared(
            key,
            runners.RUNNERS[key].version() or "",
            tuple(tally.difference() for tally in tallies),
            layers,
            steady,
            self._metric(ran),
            self._taken(key, ran, notes),
        )
        notes += _remarks(compared, instead)
        return compared, ran

    def _given(self, key: str, ran: Ran, notes: list[str]) -> Ran | None:
        """What the file that the ONNX file gives computes; None, and a note, where another computes something else.

        Both run the same kernels, so that how far these are from onnxruntime doesn't matter.
        """
        given = runners.run(key, self.converted, self.inputs, self.path, limit=self.limit)
        apart = max(int(np.abs(x.astype(np.int64) - given.outputs[name]).max()) for name, x in ran.outputs.items())
        if apart <= MAX_LSB:
            return given
        said = f"outputs in {runners.RUNNERS[key].title} are up to {apart} steps from those of the file that {self.path} gives"
        notes.append(f"{said}: it is damaged, or of another network; export it again")
        return None

    def _taken(self, key: str, ran: Ran, notes: list[str]) -> Taken | None:
        """The arena of generated C and what it should be.

        None of other runtimes, whose arena is predicted otherwise, and where another file runs in these: C is the ONNX file's.
        """
        if runners.RUNNERS[key].reads_tflite or self.instead is not None or is_banded(self.net):
            return None
        taken = Taken(ran.arena["total"], resources.profile(self.net).memory.peak)
        if above := cplan.above_peak(self.converted.program, taken.arena, taken.peak):
            notes.append(above)
        return taken

    def _metric(self, ran: Ran) -> Metric | None:
        """The figure of a run's outputs on the real examples; None without targets."""
        if self.real is None or self.real.objective is None:
            return None
        objective, ports = self.real.objective, {port.name: port for port in self.converted.outputs}
        heads = [kind.head.output for kind in objective.kinds]
        outputs = [runners.real(np.asarray(ran.outputs[name][self.n_random :]), ports[name]) for name in heads]
        tallies = objective.tallies()
        objective.count(tallies, outputs, [np.asarray(column[:]) for column in self.real.split.targets or ()])
        return objective.metric(tallies)

    def _layers(self, key: str, ran: Ran, notes: list[str]) -> tuple[tuple[Layer, ...], bool | None]:
        """Every layer alone, and whether keeping their tensors leaves the outputs as they are."""
        # of a file with integer operators the network has the same layers with their quantisers written out
        integer = any(qlinear.is_known(node.domain, node.op_type) for node in self.proto.graph.node)
        proto = _with_float_inputs(self.net.to_proto(), self.converted.inputs) if integer else self.proto
        if not layerwise.quantised(proto, self.net):
            notes.append("no layer could be compared alone: no node's output goes through QuantizeLinear and DequantizeLinear")
            return (), None
        model = layerwise.watched(network.for_one_example(proto, self.net), self.net)
        chosen = [*range(min(_LAYER_EXAMPLES, self.n_random)), *range(self.n_random, len(self.inputs))[:_LAYER_EXAMPLES]]
        examples = [self.inputs[index] for index in chosen]
        try:
            shapes = {name: self.net.shapes[name] for name in self.net.inputs}
            net = network.from_proto(model, self.path, input_shapes=shapes, accept=ops.accept(self.path))
            converted = tflite.convert(net, tflite.stored_constants(model))
            watched = runners.run(key, converted, examples, self.path, limit=self.limit)
            ports = {port.name: port for port in converted.outputs}
            layers = layerwise.Layers(model, self.net, ports, converted.program.adrift)
        except (ModelError, UnsupportedOperator) as error:
            notes.append(f"layers weren't compared one by one: {error}")
            return (), None
        for index, example in enumerate(examples):
            layers.compare(example, {name: values[index] for name, values in watched.outputs.items()})
        steady = all(np.array_equal(watched.outputs[name], values[chosen]) for name, values in ran.outputs.items())
        return tuple(layers.differences()), steady


def _remarks(compared: Compared, instead: Instead | None) -> list[str]:
    """What needs saying about a comparison."""
    title = runners.RUNNERS[compared.key].title
    if compared.diverges_at is not None:
        worst = next(layer for layer in compared.layers if not layer.ok)
        said = f"node '{worst.node}' is off by {worst.max_lsb} steps in {title}, given the same inputs"
        own = f", {worst.drift} more the places that its kernel rounds" if worst.drift else ""
        return [f"{said}; {layerwise.MAX_LSB} are rounding{own}"]
    if compared.steady is False and instead is not None and not instead.banded:
        return []  # it was said how far it is from what the ONNX file gives
    if compared.steady is False and instead is not None:
        return [f"outputs in {title} aren't those of the network without row bands: a band computes something else"]
    if compared.steady is False:
        return [f"outputs in {title} change with the memory plan: a tensor is overwritten while it is needed"]
    most = max(difference.max_lsb for difference in compared.differences)
    layer = max((layer.max_lsb for layer in compared.layers), default=0)
    if most > max(MAX_LSB, layer) and compared.layers:
        said = f"outputs in {title} differ by up to {most} steps, no layer by more than {layer} given the same inputs: "
        unjudged = any(difference.ok is None for difference in compared.differences)
        then = "; see what it does to real examples: --data" if unjudged else ""
        small = "rounding" if layer <= layerwise.MAX_LSB else "rounding and of a Resize's places"
        return [f"{said}the network enlarges differences of {small}{then}"]
    return []


class Tally:
    """The differences of one output so far."""

    def __init__(self, port: Port) -> None:
        self.port = port
        self.max_lsb = self.exact = self.values = 0
        self.agreeing = {True: 0, False: 0}
        self.examples = {True: 0, False: 0}

    def add(self, measured: Array, expected: Array, *, judged: bool) -> None:
        """measured: int8 as the runtime stores it; expected: what onnxruntime returned, in the same shape."""
        wanted = _as_stored(expected, self.port)
        apart = np.abs(measured.astype(np.int64) - wanted)
        self.max_lsb = max(self.max_lsb, int(apart.max()))
        self.exact += int((apart == 0).sum())
        self.values += apart.size
        # where several share the largest value each is a right answer
        self.agreeing[judged] += bool(wanted.reshape(-1)[measured.argmax()] == wanted.max())
        self.examples[judged] += 1

    def difference(self) -> Difference:
        """What was added so far, judged by real examples where there are any."""
        judged = self.examples[True] > 0
        count = self.examples[judged]
        agreement = self.agreeing[judged] / count if is_class(self.port.shape) else None
        return Difference(self.port.name, self.max_lsb, self.exact / self.values, agreement, count, judged)


def _as_stored(expected: Array, port: Port) -> Array:
    """int64: what an output's quantiser stores. A graph that ends in QuantizeLinear returns these integers themselves."""
    if expected.dtype.kind in "iu":
        return expected.astype(np.int64) - (128 if expected.dtype == np.uint8 else 0)  # a uint8 is kept as an int8
    return stored(expected, port)


class _Reference:
    """The ONNX file in onnxruntime, each quantiser computed by itself."""

    def __init__(self, proto: onnx.ModelProto, path: str) -> None:
        self._session = evaluate.session(proto.SerializeToString(), name=path)
        self._names = [value.name for value in self._session.get_outputs()]
        self._path = path
        self._batch = {
            value.name: value.shape[0] if value.shape and isinstance(value.shape[0], int) else 1
            for value in self._session.get_inputs()
        }

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs of one example; a file with a fixed larger batch gets the example as often as it wants."""
        times = {name: max(1, self._batch[name] // len(x)) if x.ndim else 1 for name, x in inputs.items()}
        fed = {name: np.repeat(x, times[name], 0) if x.ndim else x for name, x in inputs.items()}
        try:
            outputs = evaluate.run(self._session, fed)
        except Exception as error:  # onnxruntime raises its own kinds, none of them public
            raise ModelError(
                f"{self._path}: onnxruntime can't run it ({str(error).splitlines()[0]}); export it again"
            ) from None
        most = max(times.values())
        return {name: x[: len(x) // most] if x.ndim else x for name, x in zip(self._names, outputs, strict=True)}
