"""From a float network to its int8 file: equalise, calibrate, train with fake quantisation, write Q/DQ nodes.

Fake-quant training is hooks on the one training loop, as pruning methods are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, field, replace
from functools import partial

import numpy as np
from onnx import ModelProto

from mcuprune.channels.labelling import Channels, label
from mcuprune.costs import resources
from mcuprune.costs.resources import Basis
from mcuprune.costs.sensitivity import Sensitivity
from mcuprune.data.sets import Data
from mcuprune.deploy.qdq import Scheme, quantized
from mcuprune.errors import ModelError
from mcuprune.graph import network
from mcuprune.graph.network import Network
from mcuprune.immutable import immutable
from mcuprune.passes.canonical import stored_ranges
from mcuprune.train import schooling
from mcuprune.train.batchproof import prove
from mcuprune.train.checkpoint import Checkpoint, Saved
from mcuprune.train.equalize import equalized
from mcuprune.train.fake_quant import QuantTrainable, calibrate
from mcuprune.train.loop import Hooks, State, counted_on, train
from mcuprune.train.optimizers import OPTIMIZERS
from mcuprune.train.synthetic import synthetic
from mcuprune.train.task import Candidate, OnStep, Schedule
from mcuprune.train.tasks.objective import Objective, first
from mcuprune.train.teacher import Teacher
from mcuprune.train.trainer import Trainer

#: Examples that ranges are measured on, and how many of them at a time.
_EXAMPLES, _BATCH = 512, 128
#: Fake-quant training is by SGD: its learning rate where nobody asked for another, and for how much of it ranges still move.
#: Networks that quantise well lose less by a low rate (tests/benchmarks/quant_lr.md).
_LR = 0.001
#: Folded networks are no longer indifferent to the size of their weights: what suits one drives another away in a few steps.
#: Where the mean loss of so many steps is so many times that of the first, training begins anew at so much of the rate.
_WATCHED, _DRIVEN_AWAY, _SLOWER = 8, 4.0, 0.1
#: Lower losses are no sign: those of a network that is nearly always right differ as much between two batches.
_LARGE = 0.2
_OBSERVING = 0.7
_OWN_RANGES = "no data: int8 ranges are those of the file's own quantisers; where it has none, they come from random inputs"


@immutable
class Calibration:
    """What int8 ranges are measured on.

    batches: examples, one float32 array (batch, ...) for each input.
    known: ranges (low, high) by tensor that the file came with; they count before those of the batches.
    note: what the ranges are worth where there is no data.
    """

    batches: Sequence[tuple[np.ndarray, ...]]
    known: Mapping[str, tuple[float, float]]
    note: str | None


def calibration(whole: Channels, original: Network, data: Data | None, seed: int) -> Calibration:
    """What to calibrate on: training examples where there is data, else what the network as it came tells of its inputs.

    whole: it, labelled. original: it, as it was read.
    """
    if data is not None:
        examples = first(data.train.inputs, _EXAMPLES)
        size = _BATCH if _takes_batches(whole) else 1
        starts = range(0, len(examples[0]), size)
        return Calibration([tuple(x[start : start + size] for x in examples) for start in starts], {}, None)
    known = stored_ranges(original)
    inputs = synthetic(whole, seed, known)
    return Calibration(inputs.batches, known, _OWN_RANGES if known else inputs.note)


def _takes_batches(channels: Channels) -> bool:
    """Whether examples may be run together; a network that isn't trained need not let them."""
    try:
        prove(channels, several_inputs=True)
    except ModelError:
        return False
    return True


@immutable
class Quantization:
    """All that quantisation may know of the run that it ends.

    weight_bits: of ``export.WEIGHT_BITS``. device: what torch calls the place to compute on.
    data, schedule: what to train on, and how; None for calibration alone. A learning rate that was asked for counts here by how
        far it is from the one that float training takes without being asked.
    objective, answers: as in ``task.Task``.
    basis: what costs in the history mean. costs: what the history has instead, where the file runs otherwise than the network
        that is trained. full_macs: multiply-accumulates of one inference of the network as it came.
    checkpoint: where to keep the run's state after every epoch.
    """

    calibration: Calibration
    weight_bits: int
    device: str
    seed: int
    data: Data | None = None
    schedule: Schedule | None = None
    objective: Objective | None = None
    answers: np.ndarray | Teacher | None = None
    basis: Basis = field(default_factory=Basis)
    costs: Mapping[str, int] | None = None
    full_macs: int = 0
    checkpoint: Checkpoint | None = None


@immutable
class Quantized:
    """network: int8. floats: the same before anything was rounded: equalised, with the weights that fake-quant training left.

    candidate: with the account of fake-quant training added.
    """

    network: Network
    floats: Network
    candidate: Candidate


def quantize(candidate: Candidate, how: Quantization, on_step: OnStep) -> Quantized:
    """The int8 network of a float one."""
    channels, equal = candidate.channels, None
    if not how.calibration.known:  # known ranges fit the channels as they are
        channels, equal = equalized(channels, how.calibration.batches, how.device)
    told = [note for note in (how.calibration.note, equal) if note is not None]
    candidate = _told(candidate, *told)  # a run that goes on has told it before
    if how.data is None or how.schedule is None:
        module = _calibrated(channels, how)
        return _written(module, _told(candidate, *(module.lost() if how.calibration.note is None else ())))
    return _trained(candidate, channels, how, how.data, how.schedule, on_step)


def _told(candidate: Candidate, *notes: str) -> Candidate:
    """A candidate with more to tell the user, each thing once."""
    return replace(candidate, notes=tuple(dict.fromkeys((*candidate.notes, *notes))))


def _written(module: QuantTrainable, candidate: Candidate) -> Quantized:
    floats, plan, quantizers = module.quantized_network()
    return Quantized(quantized(floats, plan, quantizers), floats, candidate)


def _calibrated(channels: Channels, how: Quantization) -> QuantTrainable:
    """The network with ranges by calibration alone."""
    module = QuantTrainable(channels, how.weight_bits).to(how.device)
    calibrate(module, how.calibration.batches)
    module.load_extra_state_arrays(_stored(module.scheme, how.calibration.known))
    return module


def _stored(plan: Scheme, ranges: Mapping[str, tuple[float, float]]) -> dict[str, np.ndarray]:
    """The ranges that a quantised file came with, by the quantisers of the new scheme; the widest of those that share one."""
    widest: dict[str, np.ndarray] = {}
    for tensor, name in plan.quantizer.items():
        if tensor in ranges:
            low, high = ranges[tensor]
            old = widest.get(name, np.array([low, high]))
            widest[name] = np.array([min(low, old[0]), max(high, old[1])])
    return widest


# --------------------------------------------------------------------------------------------------- fake-quant training


class FakeQuant(Hooks):
    """Training on the forward pass of the int8 file, from calibrated ranges that move for a part of it."""

    stage = phase = "quantize"

    def __init__(self, candidate: Candidate, channels: Channels, how: Quantization, data: Data) -> None:
        self.candidate, self._channels, self._how, self._data = candidate, channels, how, data
        self._slower, self._first = 1.0, 0.0  # of the usual rate; the loss of the first step, on weights as calibrated
        self._losses: list[float] = []  # since training last began

    def costs(self) -> Mapping[str, int]:
        if self._how.costs is not None:
            return self._how.costs
        used = resources.profile(self.candidate.channels.network, self._how.basis).used(self._how.basis)
        return {name: used[name] for name in resources.RESOURCES if name in used}

    def start(self, trainer: Trainer) -> None:
        calibrate(_module(trainer), self._how.calibration.batches)
        self.candidate = _told(self.candidate, *_module(trainer).lost())
        self._calibrated, self._known = trainer.state(), trainer.measure(self._data.val)

    def before_step(self, trainer: Trainer) -> None:
        _module(trainer).observing = trainer.position < _OBSERVING * trainer.length.amount

    def after_step(self, trainer: Trainer) -> bool:
        self._losses.append(trainer.loss)
        self._first = self._first or trainer.loss
        lately = self._losses[-_WATCHED:]
        if len(lately) == _WATCHED and sum(lately) / _WATCHED > max(_LARGE, _DRIVEN_AWAY * self._first):
            trainer.restore({**self._calibrated, **trainer.counters()}, self._channels)
            trainer.lr *= _SLOWER
            self._slower, self._losses = self._slower * _SLOWER, []
        return False

    def state(self) -> State:
        proto = self.candidate.channels.network.to_proto().SerializeToString()
        macs = self.candidate.training_macs, self.candidate.full_training_macs
        curves = self.candidate.sensitivity
        return (
            {
                "float": np.frombuffer(proto, np.uint8),
                "keep": self.candidate.keep,
                **schooling.stored(self.candidate.teacher),
            },
            {
                "macs": macs,
                "notes": self.candidate.notes,
                "taught": self.candidate.taught,
                "sensitivity": None if curves is None else curves.document(),
                "steps": self.candidate.steps,
                "schedule": None if self.candidate.schedule is None else asdict(self.candidate.schedule),
                "rate": [self._slower, self._first, self._losses[-_WATCHED:]],
            },
        )

    def restore(self, trainer: Trainer, saved: Saved) -> None:
        trainer.restore(saved.arrays, self._channels)
        self._slower, self._first, self._losses = saved.values["rate"]
        trainer.lr *= self._slower

    def undo_if_worse(self, trainer: Trainer) -> str | None:
        """Go back to the network as calibrated where training left it right on fewer validation examples; a note of it."""
        after = trainer.measure(self._data.val) if trainer.length.amount else self._known
        if after.score >= self._known.score:
            return None
        trainer.restore(self._calibrated, self._channels)
        if after.name == "accuracy":
            return (
                f"fake-quant training was undone: right on {after.value:.1%} of the validation examples after it, "
                f"on {self._known.value:.1%} by calibration alone"
            )
        return (
            f"fake-quant training was undone: {after.title} on the validation examples {after.shown()} after it, "
            f"{self._known.shown()} by calibration alone"
        )


def _module(trainer: Trainer) -> QuantTrainable:
    assert isinstance(trainer.module, QuantTrainable)
    return trainer.module


def stored(checkpoint: Checkpoint, path: str) -> Candidate | None:
    """The float network that an interrupted run had trained when it began to quantise; None where it had not.

    path: what messages call it. Raises UsageError as ``Checkpoint.load`` does.
    """
    saved = checkpoint.load(FakeQuant.stage)
    if saved is None:
        return None
    proto = ModelProto()
    proto.ParseFromString(saved.arrays["float"].tobytes())
    macs, full = saved.values["macs"]
    notes, taught, steps = tuple(saved.values["notes"]), saved.values["taught"], saved.values["steps"]
    told = saved.values["sensitivity"]
    return Candidate(
        label(network.from_proto(proto, path)),
        saved.arrays["keep"],
        macs,
        full,
        0,
        notes,
        taught,
        sensitivity=None if told is None else Sensitivity.of_document(told),
        steps=steps,
        teacher=schooling.of_state(saved.arrays, path),
        schedule=None if saved.values["schedule"] is None else Schedule(**saved.values["schedule"]),
    )


def _trained(
    candidate: Candidate, channels: Channels, how: Quantization, data: Data, schedule: Schedule, on_step: OnStep
) -> Quantized:
    """The int8 network after fake-quant training, or as calibrated where training made validation worse."""
    trainer = Trainer(
        channels,
        data.train,
        total=1,
        batch=schedule.batch,
        lr=_LR * schedule.lr / OPTIMIZERS[schedule.optimizer].lr,
        weight_decay=0.0,
        optimizer="sgd",
        label_smoothing=schedule.label_smoothing,
        seed=how.seed,
        make=partial(QuantTrainable, weight_bits=how.weight_bits),
        warm_up=0.0,
        augment=data.augment,
        mixup=data.mixup,
        answers=how.answers if candidate.taught else None,
        objective=how.objective,
        device=how.device,
    )
    per_epoch, trainer.before = trainer.steps_per_epoch, candidate.steps
    trainer.length = schedule.length(per_epoch, how.full_macs * trainer.batch * per_epoch, "quantize")
    hooks = FakeQuant(candidate, channels, how, data)
    on_step = counted_on(on_step, candidate.steps, candidate.training_macs, per_epoch)
    train(trainer, hooks, data.val, on_step, how.checkpoint)
    macs, steps = trainer.training_macs, trainer.step
    undone = hooks.undo_if_worse(trainer)
    account = replace(
        _told(hooks.candidate, *([undone] if undone else [])),
        training_macs=candidate.training_macs + macs,
        full_training_macs=candidate.full_training_macs + how.full_macs * trainer.batch * steps,
    )
    return _written(_module(trainer), account)
