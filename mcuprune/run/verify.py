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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod, sqrt
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from mcuprune import escape
from mcuprune.data import loading as datasets
from mcuprune.data.feed import Feed
from mcuprune.data.sets import IN_MEMORY, Given, Split
from mcuprune.deploy import boards as runtimes
from mcuprune.deploy import tflite
from mcuprune.deploy.qdq import HIGH, LOW
from mcuprune.deploy.tflite import Converted, Port
from mcuprune.errors import DataError, MissingExtra, ModelError, UnsupportedOperator
from mcuprune.graph import network, tails
from mcuprune.graph.network import Network, Shape
from mcuprune.operators import table as ops
from mcuprune.run import layerwise, runners
from mcuprune.run.layerwise import Layer
from mcuprune.run.runners import Ran, stored
from mcuprune.train import evaluate, preprocess
from mcuprune.train.goal import goal
from mcuprune.train.tasks.choice import AUTO
from mcuprune.train.tasks.metrics import Metric
from mcuprune.train.tasks.objective import Objective
from mcuprune.train.training_data import wanted_of

Array = np.ndarray[Any, Any]

#: Outputs that differ by no more than this many steps are equal: a layer or two that round the other way.
MAX_LSB = 2
#: Otherwise both must name the same class on this share of real examples. It is refuted where the whole interval lies below it.
MIN_AGREEMENT = 0.99
#: The two-sided 95 % quantile of a normal distribution, for Wilson's interval.
_Z = 1.96
#: So many of the random and of the real examples go through each layer alone.
_LAYER_EXAMPLES = 16
_RANDOM = "random"


@dataclass(frozen=True)
class Difference:
    """How far one output is from onnxruntime's.

    max_lsb: the largest difference in steps of the output's quantiser. exact: the share of values without any.
    agreement: the share of examples whose largest value is the same, None for an output that isn't one row of classes.
    examples: of how many that is a share. judged: whether it counts. On random inputs it doesn't: the largest two are often a
    step apart.
    """

    output: str
    max_lsb: int
    exact: float
    agreement: float | None
    examples: int
    judged: bool

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the agreement (Wilson, 1927): the shares that these examples don't refute."""
        return None if self.agreement is None else wilson(self.agreement, self.examples)

    @property
    def ok(self) -> bool | None:
        """Whether the outputs are equal; None where they differ by more steps and no real examples tell what that means."""
        if self.max_lsb <= MAX_LSB:
            return True
        if self.interval is None or not self.judged:
            return None
        return self.interval[1] >= MIN_AGREEMENT


@dataclass(frozen=True)
class Compared:
    """What one runtime computed, against onnxruntime.

    layers: each alone; empty where they couldn't be compared. steady: whether outputs stay the same to the bit when the tensors
    between are kept, and with the memory plan that is written; None where that wasn't tried. metric: on the data's examples.
    """

    key: str
    version: str
    differences: tuple[Difference, ...]
    layers: tuple[Layer, ...]
    steady: bool | None
    metric: Metric | None

    @property
    def accuracy(self) -> float | None:
        """The share of right classes, where there are any."""
        return None if self.metric is None else self.metric.accuracy

    @property
    def diverges_at(self) -> str | None:
        """The first node that computes something else than onnxruntime from the same inputs."""
        return next((layer.node for layer in self.layers if not layer.ok), None)

    @property
    def ok(self) -> bool:
        verdicts = [difference.ok for difference in self.differences]
        # without a look at the layers, outputs that nothing vouches for don't count as equal
        outputs = all(verdict is not False for verdict in verdicts) if self.layers else all(verdicts)
        return outputs and self.diverges_at is None and self.steady is not False


@dataclass(frozen=True)
class Memory:
    """Bytes of arena. predicted: on a 32-bit core with CMSIS-NN. measured: by the runtime here, None where it doesn't tell.

    same_pointers: predicted for the runtime here: reference kernels, pointers of ``pointer_bytes``. The heads are activations
    and scratch of kernels; the one predicted is that of the runtime here too, for a device's look at ``head_on_device``.
    """

    predicted: int
    head_predicted: int
    same_pointers: int
    pointer_bytes: int
    measured: int | None = None
    head_measured: int | None = None
    head_on_device: int = 0

    @property
    def ok(self) -> bool:
        return self.measured is None or self.measured <= self.same_pointers


@dataclass(frozen=True)
class Verification:
    """What running the file showed. examples: how many, by where they come from: "random", or the name of a data set."""

    path: str
    examples: Mapping[str, int]
    converted: Converted
    runtimes: tuple[Compared, ...]
    onnxruntime: str | None
    metric: Metric | None
    default_session_metric: Metric | None
    memory: Memory
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        sides = ", ".join(f"{one.key} {'as stored' if one.ok else 'DIFFERS'}" for one in self.runtimes)
        return f"<Verification of {self.path!r}: {'ok' if self.ok else 'not ok'}: {sides}, arena {self.memory.predicted}>"

    @property
    def ok(self) -> bool:
        return all(compared.ok for compared in self.runtimes) and self.memory.ok

    @property
    def accuracy(self) -> float | None:
        """The share of right classes in onnxruntime, where there are any."""
        return None if self.metric is None else self.metric.accuracy

    @property
    def default_session_accuracy(self) -> float | None:
        """The same in a session without options."""
        return None if self.default_session_metric is None else self.default_session_metric.accuracy

    @property
    def differences(self) -> tuple[Difference, ...]:
        """Those of the first runtime."""
        return self.runtimes[0].differences


def verify(
    path: str | Path,
    *,
    examples: int = 200,
    seed: int = 0,
    input_shapes: Mapping[str, Shape] | None = None,
    outputs: Sequence[str] = (),
    data: Given | None = None,
    task: str = AUTO,
) -> Verification:
    """Run an int8 ONNX file, as it is exported, in the runtimes that are installed and compare them with onnxruntime.

    outputs: as for ``network.load``: where the network ends.
    examples: how many random inputs, and how many test examples of the data. Random inputs are drawn evenly from what the
    input's quantiser can store.
    data: as ``data.load`` takes it; without it, what the file's metadata name, if that is one of ``data.DATASETS``.
    task: what the network is for, as ``--task`` of ``prune``; without targets nothing but equality is told.

    Raises MissingExtra where no runtime is installed, ModelError for a file that isn't int8 or that a runtime refuses,
    UnsupportedOperator for a node that has no int8 operator there, DataError for data that doesn't fit.
    """
    keys = runners.available()
    net = network.load(path, input_shapes=input_shapes, outputs=outputs, accept=ops.accept(str(path)))
    proto = onnx.load(str(path))
    if outputs:
        proto = tails.cut(proto, outputs, str(path))
    converted = tflite.convert(net, net.stored, offline=True)
    notes: list[str] = []
    known = _known(net, data, examples, seed, notes, task)
    random = np.random.default_rng(seed)
    inputs = [_random_inputs(converted, random) for _ in range(examples)]
    counts = {_RANDOM: examples}
    figures = None
    if known is not None:
        inputs += [
            dict(zip(net.inputs, (np.asarray(x[i : i + 1]) for x in known.split.inputs), strict=True))
            for i in range(len(known.split))
        ]
        counts[data_name(net.metadata[datasets.METADATA_KEY] if data is None else data)] = len(known.split)
        if known.objective is not None:
            figures = evaluate.int8_metric(proto.SerializeToString(), known.split, known.objective)
            notes += [figures.warning] if figures.warning else []
    case = _Case(str(path), net, proto, converted, inputs, examples)
    compared = []
    memory = predicted(converted)
    for key in keys:
        try:
            found, ran = case.compare(key, known, notes)
        except UnsupportedOperator as error:
            if len(keys) == 1:
                raise
            notes.append(f"not run as {runners.RUNNERS[key].title}: {error}")
            continue
        compared.append(found)
        memory = measured(memory, ran)
    if not memory.ok:
        notes.append(f"the arena measured is above the {memory.same_pointers:,} bytes predicted for pointers of this size")
    import onnxruntime

    return Verification(
        path=str(path),
        examples=counts,
        converted=converted,
        runtimes=tuple(compared),
        onnxruntime=onnxruntime.__version__,
        metric=figures.exact if figures else None,
        default_session_metric=figures.default_session if figures else None,
        memory=memory,
        notes=tuple(notes),
    )


def measured(memory: Memory, ran: Ran) -> Memory:
    """The prediction with what a runtime told, the first one that tells."""
    if not ran.arena or memory.measured is not None:
        return memory
    return replace(memory, measured=ran.arena["total"], head_measured=ran.arena["head"])


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95 % score interval of a share that was seen in ``n`` examples (Wilson 1927, J. Am. Stat. Assoc. 22, 209)."""
    middle = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def is_class(shape: Shape) -> bool:
    """Whether a tensor is one row of numbers, one for each class."""
    return len(shape) >= 2 and max(shape) == prod(shape) > 1


def predicted(converted: Converted) -> Memory:
    """What the arena should be, on a device and here."""
    program, plan = converted.program, converted.plan
    device, here = program.arena(plan=plan), program.arena(kernels="reference", pointer=runners.POINTER_BYTES, plan=plan)
    return Memory(device.total, here.head, here.total, runners.POINTER_BYTES, head_on_device=device.head)


# -------------------------------------------------------------------------------------------------------------- examples


def _random_inputs(converted: Converted, random: np.random.Generator) -> dict[str, Array]:
    return {port.name: runners.real(random.integers(LOW, HIGH + 1, port.shape), port) for port in converted.inputs}


def data_name(data: Given) -> str:
    """What examples are called."""
    return str(data) if isinstance(data, (str, PathLike)) else IN_MEMORY


@dataclass(frozen=True)
class _Known:
    """Real examples, and what their targets are held against; None without targets."""

    split: Split
    objective: Objective | None


def _known(net: Network, data: Given | None, examples: int, seed: int, notes: list[str], task: str) -> _Known | None:
    """Test examples of what was asked for; without that, of the data set that the file names, if it fits."""
    name = datasets.named(net.metadata) if data is None else data
    if data is None and (other := datasets.not_embedded(net.metadata)):
        notes.append(f"only random inputs: {other}")
    if name is None or not net.outputs:
        return None
    try:
        found = preprocess.opened(net, name, wanted_of(net, seed=seed, task=task), Feed(), seed).data
        labelled = found.test.targets is not None and task != "distill"
        aim = goal(net, found, task=task, unlabelled=False) if labelled else None
    except (DataError, MissingExtra) as error:
        if data is not None:
            raise
        notes.append(f"only random inputs: {error}")
        return None
    test = found.test if aim is None else aim.data.test
    inputs = [np.asarray(column[:examples]) for column in test.inputs]
    targets = None if aim is None or test.targets is None else [np.asarray(column[:examples]) for column in test.targets]
    return _Known(Split(inputs, targets), None if aim is None else aim.objective)


# ------------------------------------------------------------------------------------------------------------ comparison


@dataclass(frozen=True)
class _Case:
    """A file, its converted form and its inputs: ``n_random`` random ones, then real ones."""

    path: str
    net: Network
    proto: onnx.ModelProto
    converted: Converted
    inputs: Sequence[Mapping[str, Array]]
    n_random: int

    @property
    def limit(self) -> int:
        """Bytes of arena that suffice, also where every tensor is kept to the end."""
        return 8 * runtimes.arena_tflm(self.net).total + 2 * sum(prod(shape) for shape in self.net.shapes.values()) + 2**21

    def compare(self, key: str, known: _Known | None, notes: list[str]) -> tuple[Compared, Ran]:
        """One runtime against onnxruntime."""
        ran = runners.run(key, self.converted, self.inputs, self.path, limit=self.limit)
        reference = _Reference(self.proto, self.path)
        tallies = [Tally(port) for port in self.converted.outputs]
        for index, example in enumerate(self.inputs):
            expected = reference(example)
            for tally in tallies:
                name = tally.port.name
                tally.add(ran.outputs[name][index], expected[name], judged=index >= self.n_random)
        layers, steady = self._layers(key, ran, notes)
        metric = None
        if known is not None and known.objective is not None:
            ports = {port.name: port for port in self.converted.outputs}
            heads = [kind.head.output for kind in known.objective.kinds]
            outputs = [runners.real(np.asarray(ran.outputs[name][self.n_random :]), ports[name]) for name in heads]
            counted = known.objective.tallies()
            known.objective.count(counted, outputs, [np.asarray(column[:]) for column in known.split.targets or ()])
            metric = known.objective.metric(counted)
        found = Compared(
            key,
            runners.RUNNERS[key].version() or "",
            tuple(tally.difference() for tally in tallies),
            layers,
            steady,
            metric,
        )
        notes += _remarks(found)
        return found, ran

    def _layers(self, key: str, ran: Ran, notes: list[str]) -> tuple[tuple[Layer, ...], bool | None]:
        """Every layer alone, and whether keeping their tensors leaves the outputs as they are."""
        if not layerwise.quantised(self.proto, self.net):
            notes.append("no layer could be compared alone: no node's output goes through QuantizeLinear and DequantizeLinear")
            return (), None
        model = layerwise.watched(self.proto, self.net)
        chosen = [*range(min(_LAYER_EXAMPLES, self.n_random)), *range(self.n_random, len(self.inputs))[:_LAYER_EXAMPLES]]
        examples = [self.inputs[index] for index in chosen]
        try:
            shapes = {name: self.net.shapes[name] for name in self.net.inputs}
            net = network.from_proto(model, self.path, input_shapes=shapes, accept=ops.accept(self.path))
            converted = tflite.convert(net, tflite.stored_constants(model))
            watched = runners.run(key, converted, examples, self.path, limit=self.limit)
            layers = layerwise.Layers(model, self.net, {port.name: port for port in converted.outputs})
        except (ModelError, UnsupportedOperator) as error:
            notes.append(f"layers weren't compared one by one: {error}")
            return (), None
        for index, example in enumerate(examples):
            layers.compare(example, {name: found[index] for name, found in watched.outputs.items()})
        steady = all(np.array_equal(watched.outputs[name], found[chosen]) for name, found in ran.outputs.items())
        return tuple(layers.found()), steady


def _remarks(found: Compared) -> list[str]:
    """What needs saying about a comparison."""
    title = runners.RUNNERS[found.key].title
    if found.diverges_at is not None:
        worst = next(layer for layer in found.layers if not layer.ok)
        said = f"node '{worst.node}' is off by {worst.max_lsb} steps in {title}, given the same inputs"
        return [f"{said}; {layerwise.MAX_LSB} are rounding"]
    if found.steady is False:
        return [f"outputs in {title} change with the memory plan: a tensor is overwritten while it is needed"]
    most = max(difference.max_lsb for difference in found.differences)
    if most > MAX_LSB and found.layers:
        layer = max(layer.max_lsb for layer in found.layers)
        said = f"outputs in {title} differ by up to {most} steps, no layer by more than {layer} given the same inputs: "
        unjudged = any(difference.ok is None for difference in found.differences)
        then = "; see what it does to real examples: --data" if unjudged else ""
        return [f"{said}the network enlarges differences of rounding{then}"]
    return []


class Tally:
    """The differences of one output so far."""

    def __init__(self, port: Port) -> None:
        self.port = port
        self.max_lsb = self.exact = self.values = 0
        self.agreeing = {True: 0, False: 0}
        self.examples = {True: 0, False: 0}

    def add(self, measured: Array, expected: Array, *, judged: bool) -> None:
        """measured: int8 as the runtime stores it; expected: floats of onnxruntime, in the same shape."""
        wanted = stored(expected, self.port)
        apart = np.abs(measured.astype(np.int64) - wanted)
        self.max_lsb = max(self.max_lsb, int(apart.max()))
        self.exact += int((apart == 0).sum())
        self.values += apart.size
        # where several share the largest value each is a right answer
        self.agreeing[judged] += bool(wanted.reshape(-1)[measured.argmax()] == wanted.max())
        self.examples[judged] += 1

    def difference(self) -> Difference:
        judged = self.examples[True] > 0
        count = self.examples[judged]
        agreement = self.agreeing[judged] / count if is_class(self.port.shape) else None
        return Difference(self.port.name, self.max_lsb, self.exact / self.values, agreement, count, judged)


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
        times = {name: max(1, self._batch[name] // len(x)) for name, x in inputs.items()}
        fed = {name: np.repeat(x, times[name], 0) for name, x in inputs.items()}
        try:
            outputs = self._session.run(None, fed)
        except Exception as error:  # onnxruntime raises its own kinds, none of them public
            raise ModelError(
                f"{self._path}: onnxruntime can't run it ({str(error).splitlines()[0]}); export it again"
            ) from None
        most = max(times.values())
        return {name: x[: len(x) // most] for name, x in zip(self._names, outputs, strict=True)}


# ---------------------------------------------------------------------------------------------------------------- report


def document(found: Verification) -> dict[str, Any]:
    """The verification as JSON; sizes in bytes, shares of 1."""
    operators = [operator for operator, _ in found.converted.operators]
    memory = found.memory
    return {
        "format": 1,
        "command": "verify",
        "ok": found.ok,
        "path": found.path,
        "examples": dict(found.examples),
        "limits": {"max_lsb": MAX_LSB, "layer_max_lsb": layerwise.MAX_LSB, "agreement": MIN_AGREEMENT},
        "runtimes": {
            "onnxruntime": None
            if found.onnxruntime is None
            else {
                "version": found.onnxruntime,
                "accuracy": found.accuracy,
                "default_session_accuracy": found.default_session_accuracy,
                "metric": _metric(found.metric),
            },
            **{compared.key: _compared(compared) for compared in found.runtimes},
        },
        "arena": {
            "predicted": memory.predicted,
            "measured": memory.measured,
            "head_predicted": memory.head_predicted,
            "head_on_device": memory.head_on_device,
            "head_measured": memory.head_measured,
            "pointer_bytes": memory.pointer_bytes,
            "predicted_same_pointers": memory.same_pointers,
        },
        "tflite": {
            "bytes": len(found.converted.content),
            "operators": {name: operators.count(name) for name in sorted(set(operators))},
        },
        "inputs": [_port(port) for port in found.converted.inputs],
        "outputs": [_port(port) for port in found.converted.outputs],
        "diverges_at": next((c.diverges_at for c in found.runtimes if c.diverges_at is not None), None),
        "notes": list(found.notes),
    }


def _metric(found: Metric | None) -> dict[str, Any] | None:
    return None if found is None else {"name": found.name, "shown": f"{found.title} {found.shown()}", "value": found.value}


def _right(runtime: Mapping[str, Any]) -> str:
    """The figure of a runtime in brackets; empty without one."""
    metric = runtime.get("metric")  # a document that was stored before there were any but accuracies has none
    if metric is None:
        return "" if runtime["accuracy"] is None else f" ({runtime['accuracy']:.1%} right)"
    return f" ({runtime['accuracy']:.1%} right)" if metric["name"] == "accuracy" else f" ({metric['shown']})"


def _port(port: Port) -> dict[str, Any]:
    return {
        "name": port.name,
        "shape": list(port.shape),
        "scale": port.quantizer.scale,
        "zero_point": port.quantizer.zero_point,
    }


def _compared(found: Compared) -> dict[str, Any]:
    agreements = [difference.agreement for difference in found.differences if difference.agreement is not None]
    return {
        "name": runners.RUNNERS[found.key].title,
        "version": found.version,
        "ok": found.ok,
        "max_lsb": max((difference.max_lsb for difference in found.differences), default=None),
        "agreement": min(agreements, default=None),
        "accuracy": found.accuracy,
        "metric": _metric(found.metric),
        "layers": len(found.layers),
        "layer_max_lsb": max((layer.max_lsb for layer in found.layers), default=None),
        "diverges_at": found.diverges_at,
        "outputs": [
            {
                "name": difference.output,
                "ok": difference.ok,
                "max_lsb": difference.max_lsb,
                "exact": difference.exact,
                "agreement": difference.agreement,
                "interval": None if difference.interval is None else list(difference.interval),
            }
            for difference in found.differences
        ],
    }


def text(document: Mapping[str, Any]) -> str:
    """The document for people: a table for each runtime, then memory and the verdict."""
    counts = " + ".join(f"{count} {name}" for name, count in document["examples"].items())
    reference = document["runtimes"]["onnxruntime"]
    said = f"{document['path']}, {counts} examples"
    if reference is not None:
        said += f", against onnxruntime {reference['version']}{_right(reference)}"
    lines = [said]
    for runtime in [found for key, found in document["runtimes"].items() if key != "onnxruntime"]:
        lines += ["", f"{runtime['name']} {runtime['version']}{_right(runtime)}"]
        rows = [("max LSB", "exact", "same class", "95 % interval", "output")] if runtime["outputs"] else []
        for output in runtime["outputs"]:
            agreement = "-" if output["agreement"] is None else f"{output['agreement']:.1%}"
            interval = "-" if output["interval"] is None else "{:.1%} to {:.1%}".format(*output["interval"])
            rows.append((str(output["max_lsb"]), f"{output['exact']:.1%}", agreement, interval, output["name"]))
        lines += [f"{lsb:>9}  {exact:>6}  {same:>10}  {among:>15}  {name}" for lsb, exact, same, among, name in rows]
        if runtime["layers"]:
            lines.append(f"{runtime['layer_max_lsb']:>9}  in any of {runtime['layers']} layers, given the same inputs")
    lines += [
        "",
        *_memory_lines(document["arena"]),
        f"{document['tflite']['bytes']:>9,} bytes of .tflite, {sum(document['tflite']['operators'].values())} operators",
        *(f"note: {note}" for note in document["notes"]),
        "",
        _verdict(document),
    ]
    return "\n".join(map(escape.plain, lines)) + "\n"


def _verdict(document: Mapping[str, Any]) -> str:
    """The last line."""
    if document["runtimes"]["onnxruntime"] is not None:
        equal = "EQUAL: as onnxruntime computes it, but for rounding"
        return equal if document["ok"] else "DIFFERS: not what onnxruntime computes"
    if not document["ok"]:
        return "DIFFERS: runtimes don't agree, or its arena is larger than predicted"
    several = sum(found is not None for found in document["runtimes"].values()) > 1
    return f"RUNS: in the arena that is predicted{', equally in all runtimes' if several else ''}"


def _memory_lines(arena: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{arena['predicted']:>9,} bytes of arena predicted on a device (32-bit, CMSIS-NN), "
        f"{arena['head_on_device']:,} of them activations and scratch"
    ]
    if arena["measured"] is not None:
        lines.insert(
            0,
            f"{arena['measured']:>9,} bytes of arena measured here ({8 * arena['pointer_bytes']}-bit, reference kernels; "
            f"at most {arena['predicted_same_pointers']:,} predicted), {arena['head_measured']:,} of them activations",
        )
    return lines
