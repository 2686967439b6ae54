"""The road of one ``prune``: load, label, train and cut, quantise, write, and measure what was written.

Numbers in a ``Result`` come from the file on disk: it is read again, profiled again, and run in onnxruntime.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from mcuprune import data as datasets
from mcuprune import evaluate, export, folding, network, ops, resources, widths
from mcuprune.channels import Channels, label
from mcuprune.data import Data
from mcuprune.errors import DataError, MissingExtra, ModelError, OutputError, UsageError
from mcuprune.network import Network, Shape
from mcuprune.resources import Budget, CostModel, Profile, SramModel, Verdict
from mcuprune.task import Candidate, History, OnStep, Schedule, Step, Task
from mcuprune.units import Limit

#: The metadata key under which a model may say what data set it was made for.
DATA_KEY = "mcuprune.data"
_CALIBRATION = 512


@dataclass(frozen=True)
class Request:
    """What the user asked for. Fields left None are derived from the data and the model."""

    model: str
    limits: Mapping[str, Limit]
    output: str
    report: str | None = None
    data: str | None = None
    method: str = "differentiable"
    epochs: int | None = None
    batch: int = 64
    lr: float | None = None
    prune_every: int = 20
    seed: int = 0
    train: bool = True
    int8: bool = True
    input_shapes: Mapping[str, Shape] = field(default_factory=dict)
    sram_model: SramModel = "peak"
    keep: Sequence[str] = ()
    min_channels: int = 1
    multiple_of: int = 1
    augment: str | None = None


@dataclass(frozen=True)
class GroupResult:
    """A group before and after: widths, and the indices of the channels that stayed."""

    name: str
    before: int
    after: int
    kept: tuple[int, ...]


@dataclass(frozen=True)
class Result:
    """A finished prune. Accuracies are shares of the test set in onnxruntime, None where there was no data for them."""

    request: Request
    budget: Budget
    before: Profile
    after: Profile
    verdict: Verdict
    accuracy: float | None
    accuracy_float: float | None
    accuracy_int8: float | None
    groups: tuple[GroupResult, ...]
    history: tuple[Step, ...]
    seconds: float
    training_macs: int
    full_training_macs: int
    notes: tuple[str, ...]
    data: str | None
    test_examples: int

    @property
    def ok(self) -> bool:
        return self.verdict.ok


def prune(request: Request, on_step: OnStep = lambda step: None) -> Result:
    """Do what ``request`` asks and measure the outcome. Writes ``request.output``; the report is the caller's.

    Raises a McupruneError, with nothing written, where no answer is possible: an unreadable or unsupported model, data that
    doesn't fit, a budget that can't be held, a place that can't be written, a missing package.
    """
    started = time.monotonic()
    _check_places(request)
    original = network.load(request.model, input_shapes=request.input_shapes, accept=ops.accept(request.model))
    before = resources.profile(original)
    budget = resources.budget(request.limits, before.used(request.sram_model))
    if not budget.limits:
        raise UsageError("prune needs a limit: --sram, --flash or --macs")
    data = _data(request, original)
    labelled = _bounded(label(original), request)
    if not labelled.groups:
        raise ModelError(f"{request.model}: no prunable channel: {_why_none(labelled)}")
    model = CostModel(labelled, request.sram_model)
    resources.refuse_infeasible(model, budget)
    accuracy = evaluate.accuracy_of(_bytes(original), data.test) if data else None

    history = History()

    def seen(step: Step) -> None:
        history(step)
        on_step(step)

    if request.train:
        assert data is not None
        trained = accuracy is not None and accuracy > 1.5 / data.n_classes
        candidate, quant_epochs, lr = _train(request, labelled, budget, data, warm=trained, on_step=seen)
    else:
        candidate = _magnitude(labelled, model, budget, request.multiple_of)
        quant_epochs, lr = 0, 0.0

    float_network = folding.folded(candidate.channels.network)
    accuracy_float = evaluate.accuracy_of(_bytes(float_network), data.test) if data else None
    notes = list(candidate.notes)
    training_macs, full_macs = candidate.training_macs, candidate.full_training_macs
    final = float_network
    if request.int8:
        final, quant_macs, quant_notes = _quantize(request, float_network, data, quant_epochs, lr, seen)
        notes += quant_notes
        if quant_macs:
            training_macs += quant_macs
            here = sum(layer.macs for layer in resources.profile(float_network).layers)
            full_macs += quant_macs // max(here, 1) * before.total["macs"]
    final.save(request.output)

    written = network.load(request.output, input_shapes=request.input_shapes, accept=ops.accept(request.output))
    after = resources.profile(written)
    accuracy_int8 = evaluate.accuracy_of(request.output, data.test) if data and request.int8 else None
    kept = labelled.kept(candidate.keep)
    return Result(
        request=request,
        budget=budget,
        before=before,
        after=after,
        verdict=budget.check(after.used(request.sram_model)),
        accuracy=accuracy,
        accuracy_float=accuracy_float,
        accuracy_int8=accuracy_int8,
        groups=tuple(GroupResult(g.name, len(g), len(kept[g.name]), kept[g.name]) for g in labelled.groups),
        history=tuple(history.steps),
        seconds=time.monotonic() - started,
        training_macs=training_macs,
        full_training_macs=full_macs,
        notes=tuple(notes),
        data=data.name if data else None,
        test_examples=len(data.test.y) if data else 0,
    )


def _bytes(net: Network) -> bytes:
    return net.to_proto().SerializeToString()


def _check_places(request: Request) -> None:
    """Fail before the work, not after it, where results can't be written."""
    for place in (request.output, request.report):
        if place is None:
            continue
        folder = Path(place).parent if place == request.output else Path(place)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / ".mcuprune.partial"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise OutputError(f"{place}: can't be written ({error.strerror}); choose another place") from None
    if Path(request.output).is_dir():
        raise OutputError(f"{request.output}: is a folder; name a file to write")


def _data(request: Request, net: Network) -> Data | None:
    """The data set, if there is one to use. Raises UsageError where training needs one and none is named."""
    spec = request.data or net.metadata.get(DATA_KEY)
    if spec is None or (not request.train and request.data is None):
        if request.train:
            raise UsageError(
                f"{request.model}: what data should it train on? add --data NAME, --data FILE.npz or --data module:function "
                f"(or cut without training: --no-train)"
            )
        return None
    shape = net.shapes[net.outputs[0]]
    n_classes = int(np.prod(shape[1:]))
    if len(net.inputs) != 1 or len(net.outputs) != 1 or n_classes < 2:
        raise DataError(
            f"{request.model}: training takes a classifier with one input and one output of at least two classes; this one has "
            f"inputs {', '.join(net.inputs)} and outputs {', '.join(f'{o} {list(net.shapes[o])}' for o in net.outputs)}"
        )
    found = datasets.load(spec, input_shape=net.shapes[net.inputs[0]][1:], n_classes=n_classes, seed=request.seed)
    return replace(found, augment=datasets.augmentation(request.augment)) if request.augment else found


def _why_none(channels: Channels) -> str:
    reasons = sorted({group.why for group in channels.frozen if group.why})
    return "; ".join(reasons[:3]) or "it has no convolution or fully connected layer"


def _bounded(channels: Channels, request: Request) -> Channels:
    return widths.bounded(channels, keep=request.keep, least=request.min_channels, multiple=request.multiple_of)


def _magnitude(channels: Channels, model: CostModel, budget: Budget, multiple: int) -> Candidate:
    """Cut by weight magnitude alone: the largest uniform scaling that fits, grown into the slack it leaves."""
    from mcuprune.methods.salience import salience

    chosen = widths.uniform(model, budget, multiple)
    chosen = widths.grow(model, chosen, budget, 1.0 / np.maximum(chosen, 1), multiple)
    keep = channels.top(chosen, salience(channels))
    return Candidate(channels.cut_channels(keep), keep, 0, 0)


def _train(
    request: Request, labelled: Channels, budget: Budget, data: Data, *, warm: bool, on_step: OnStep
) -> tuple[Candidate, int, float]:
    """Run the method. Returns its candidate, the epochs of fake-quant training to follow, and their learning rate."""
    try:
        from mcuprune.methods import METHODS
        from mcuprune.trainable import Trainable
        from mcuprune.training import output_moments
    except ImportError as error:
        raise MissingExtra(f"prune needs {error.name}, which isn't installed; pip install 'mcuprune[prune]'") from None
    schedule = _schedule(request, data, warm=warm)
    calibration = data.train.x[np.random.default_rng(request.seed).permutation(len(data.train.y))[:_CALIBRATION]]
    nodes = folding.candidates(labelled.network)
    moments = output_moments(Trainable(labelled), {node.outputs[0] for node in nodes}, calibration)
    normal = folding.restored(labelled.network, {node.name: moments[node.outputs[0]] for node in nodes})
    channels = _bounded(label(normal), request)
    model = CostModel(channels, request.sram_model)
    resources.refuse_infeasible(model, budget)  # a restored BatchNormalization gives its convolution a bias
    task = Task(channels, model, budget, data, schedule, request.seed, request.multiple_of)
    candidate = METHODS[request.method](task, on_step)[0]
    return candidate, schedule.quant_epochs, schedule.lr * 0.1


def _schedule(request: Request, data: Data, *, warm: bool) -> Schedule:
    """A schedule for this much data: about as many steps as plain training takes, the last sixth of them quantised."""
    per_epoch = max(1, len(data.train.y) // min(request.batch, len(data.train.y)))
    epochs = request.epochs or int(np.clip(np.ceil(700 / per_epoch), 6, 60))
    quant = max(1, epochs // 6) if request.int8 else 0
    lr = request.lr or (0.05 if warm else 0.1)
    return Schedule(max(1, epochs - quant), quant, request.batch, lr, prune_every=request.prune_every)


def _quantize(
    request: Request, net: Network, data: Data | None, epochs: int, lr: float, on_step: OnStep
) -> tuple[Network, int, list[str]]:
    """Calibrate, train with fake quantisation, write Q/DQ nodes. Returns the int8 network, MACs of training, and notes."""
    try:
        import torch

        from mcuprune.quantize import QuantTrainable
        from mcuprune.trainable import as_inputs
        from mcuprune.training import Trainer
    except ImportError as error:
        raise MissingExtra(
            f"int8 needs {error.name}, which isn't installed; pip install 'mcuprune[prune]' (or write floats: --float)"
        ) from None
    channels = label(net)
    notes = []
    if data is None:
        random = np.random.default_rng(request.seed)
        batches = [tuple(random.standard_normal((8, *net.shapes[name][1:]), np.float32) for name in net.inputs)]
        notes.append("no data: int8 ranges come from random inputs; give --data for ranges that can be trusted")
        module = QuantTrainable(channels)
        _calibrate(module, batches)
        return export.quantized(*module.quantized_network()), 0, notes
    trainer = Trainer(
        channels,
        data.train,
        total=1,
        batch=request.batch,
        lr=lr,
        weight_decay=0.0,
        seed=request.seed,
        make=QuantTrainable,
        warm_up=0.0,
        augment=data.augment,
    )
    quant = trainer.module
    assert isinstance(quant, QuantTrainable)
    with torch.no_grad():
        _calibrate(quant, [(data.train.x[i : i + 128],) for i in range(0, min(_CALIBRATION, len(data.train.x)), 128)])
    trainer.total = epochs * trainer.steps_per_epoch
    used = resources.profile(net).used(request.sram_model)
    at = {key: used[key] for key in resources.RESOURCES}
    while trainer.step < trainer.total:
        quant.observing = trainer.step < 0.7 * trainer.total
        loss = trainer.train_step()
        if trainer.step % trainer.steps_per_epoch == 0:
            on_step(Step(trainer.step, trainer.epoch, loss, **at, accuracy=trainer.accuracy(data.val), phase="quantize"))
    return export.quantized(*quant.quantized_network()), trainer.training_macs, notes


def _calibrate(module: object, batches: list[tuple[np.ndarray, ...]]) -> None:
    """Let the quantisers see float activations of some batches."""
    import torch

    from mcuprune.quantize import QuantTrainable

    assert isinstance(module, QuantTrainable)
    module.simulating = False
    module.train()
    with torch.no_grad():
        for batch in batches:
            module(*[torch.from_numpy(x) for x in batch])
    module.simulating = True
