"""The road of one ``prune``: load, label, train and cut, quantise, write, and measure what was written.

Numbers in a ``Result`` come from the file on disk: it is read again, profiled again, and run in onnxruntime.
"""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from mcuprune import __version__, options, places
from mcuprune.channels.labelling import Channels, label
from mcuprune.channels.salience import salience
from mcuprune.costs import resources, widths
from mcuprune.costs.resources import Budget, CostModel, Profile, Verdict
from mcuprune.costs.sensitivity import Sensitivity
from mcuprune.errors import UsageError
from mcuprune.graph import external, network
from mcuprune.graph.network import Network
from mcuprune.notebook import Drawn
from mcuprune.operators import table as ops
from mcuprune.passes import batchnorm as folding
from mcuprune.passes.canonical import canonical
from mcuprune.places import Output, Source
from mcuprune.train import data as datasets
from mcuprune.train import engine, evaluate
from mcuprune.train.checkpoint import Checkpoint
from mcuprune.train.checkpoint import check as check_checkpoint
from mcuprune.train.data import Data
from mcuprune.train.feeding import looks_fresh
from mcuprune.train.origin import comes_trained, learned_nothing
from mcuprune.train.rehearsal import rehearse
from mcuprune.train.request import AT_INIT, Request, long_as_asked, search_for
from mcuprune.train.request import check as check_request
from mcuprune.train.schedules import WINDOWS, Narrow, schedule_for, window
from mcuprune.train.task import Candidate, History, OnStep, Schedule, Search, Step, Task
from mcuprune.train.training_data import training_data

#: Examples that BatchNormalization statistics are measured on.
_CALIBRATION = 512


@dataclass(frozen=True)
class GroupResult:
    """A group before and after: widths, and the indices of the channels that stayed."""

    name: str
    before: int
    after: int
    kept: tuple[int, ...]


@dataclass(frozen=True)
class Training:
    """How a network was trained, with all that the user left open filled in.

    trained: whether it came trained. taught: whether it learned from the network as it came. examples: of the training set.
    """

    schedule: Schedule
    search: Search
    trained: bool
    taught: bool
    examples: int
    augment: str | None
    device: str


@dataclass(frozen=True)
class Result(Drawn):
    """A finished prune. Accuracies are shares of the test set in onnxruntime, None where there was no data for them.

    accuracy_int8: of the written file as ONNX defines it, on every processor (``evaluate``).
    accuracy_int8_default_session: in a session without options on this processor, where integer kernels may saturate.
    """

    request: Request
    budget: Budget
    before: Profile
    after: Profile
    verdict: Verdict
    accuracy: float | None
    accuracy_float: float | None
    accuracy_int8: float | None
    accuracy_int8_default_session: float | None
    groups: tuple[GroupResult, ...]
    history: tuple[Step, ...]
    seconds: float
    training_macs: int
    full_training_macs: int
    notes: tuple[str, ...]
    data: str | None
    test_examples: int
    training: Training | None
    network: Network = field(repr=False, compare=False)
    sensitivity: Sensitivity | None = None

    @property
    def ok(self) -> bool:
        """Whether the written file holds the budget."""
        return self.verdict.ok


def prune(
    request: Request,
    on_step: OnStep = lambda step: None,
    *,
    net: Network | None = None,
    data_set: datasets.Given | None = None,
) -> Result:
    """Do what ``request`` asks and measure the outcome. Writes ``request.output``; the report is the caller's.

    net: a network in memory, in place of the file ``request.model``, which is then only what messages call it.
    data_set: data in memory, in place of ``request.data``.

    Interrupted at any moment, it leaves a checkpoint beside the output; ``request.resume`` goes on from there.
    Raises a McupruneError, with nothing written, where no answer is possible: an unreadable or unsupported model, data that
    doesn't fit, a budget that can't be held, a place that can't be written, a missing package.
    """
    started = time.monotonic()
    run = _prepared(request, net, request.data if data_set is None else data_set)
    record = _Record(run, _fingerprint(run.request, run.data, net), started, on_step)
    candidate = _float_candidate(run, record)
    small = folding.folded(candidate.channels.network)
    candidate = replace(
        candidate, channels=label(small), notes=tuple(dict.fromkeys((*run.notes, *record.notes, *candidate.notes)))
    )
    accuracy_float = None
    if run.data is not None:
        accuracy_float = evaluate.accuracy_of(_bytes(small), run.data.test, "default", name=f"{request.model} after cutting")
        if run.request.train and (note := learned_nothing(accuracy_float, run.data)):
            candidate = replace(candidate, notes=(*candidate.notes, note))
    final, candidate = _quantize(run, candidate, record) if request.int8 else (small, candidate)
    final.save(request.output)
    result = _measured(run, candidate, accuracy_float, record)
    record.checkpoint.remove()  # not before: what is measured here may take long, and be interrupted
    return result


@dataclass(frozen=True)
class _Run:
    """All that is known before the work begins; whatever can be refused has been.

    request: with the device chosen, and ``train`` off where training could only waste time.
    original: the network as it was read; labelled: as it is pruned. before: what the original costs.
    model: costs of its cuts. accuracy: the original's, on the test set. warm: whether it comes trained.
    answers: a teacher's logits for every training example; None where nobody teaches.
    schedule: of training, None where there is none.
    """

    request: Request
    original: Network
    labelled: Channels
    before: Profile
    budget: Budget
    model: CostModel
    data: Data | None
    accuracy: float | None
    warm: bool
    answers: np.ndarray | None
    schedule: Schedule | None
    notes: tuple[str, ...]


def _prepared(request: Request, net: Network | None, given: datasets.Given | None) -> _Run:
    """Read, check and measure everything that the work needs. Raises what ``prune`` raises."""
    _check_flags(request)
    outputs = _outputs(request)
    places.distinct(outputs, sources(request))
    original = net or network.load(
        request.model, input_shapes=request.input_shapes, outputs=request.outputs, accept=ops.accept(request.model)
    )
    before = resources.profile(original)
    budget = resources.budget(request.limits, before.used(request.sram_model))
    if not budget.limits:
        *others, last = (f"--{name}" for name in resources.RESOURCES)
        raise UsageError(f"prune needs a limit: {', '.join(others)} or {last}")
    prepared, notes = canonical(original)
    labelled = label(prepared)
    fits = _fits(labelled, request, budget)
    whole = labelled.network
    model = _cost_model(folding.as_restored(whole) if request.train and not fits else whole, request, budget)
    for output in outputs:
        places.probe(output)
    if not request.resume:
        check_checkpoint(f"{request.output}.checkpoint")
    request = _with_engine(request, before.total["macs"])
    rehearse(labelled, int8=request.int8, train=request.train)
    data = training_data(original, given, train=request.train, seed=request.seed, augment=request.augment)
    if request.train:
        _check_batch(labelled)
    if request.method == AT_INIT:
        _check_scores(request, labelled, data)
    accuracy = evaluate.accuracy_of(_bytes(original), data.test, "default", name=request.model) if data else None
    warm, unfit = _comes_trained(request, original, data, accuracy)
    notes = (*notes, *unfit, *_needless(request, labelled, fits=fits, warm=warm))
    if fits and _spares_training(request, warm=warm):
        request = replace(request, train=False)
    answers = None
    if request.train:
        from mcuprune.train import teacher

        assert data is not None
        answers = teacher.answers(request, labelled, data, accuracy or 0.0, warm=warm)
    schedule = None
    if request.train and data is not None:
        schedule = schedule_for(request, len(data.train.y), warm=warm, narrow=_narrow(request, model, budget))
    return _Run(request, original, labelled, before, budget, model, data, accuracy, warm, answers, schedule, notes)


def _narrow(request: Request, model: CostModel, budget: Budget) -> Narrow:
    """The largest uniform scaling that fits: most of what flash holds are its weights, a byte each."""
    fitting = model.sums(widths.uniform(model, budget, request.multiple_of))
    return Narrow(fitting["macs"] / max(1, model.sums(model.full)["macs"]), fitting["flash"])


def _with_engine(request: Request, macs: int) -> Request:
    """The request with its device chosen, torch ready for it. Raises MissingExtra where the run needs what isn't installed.

    macs: multiply-accumulates of one inference. What takes seconds to import comes after all that can be refused without it.
    """
    if request.train or request.int8 or request.method == AT_INIT:
        engine.need(request.method, request.optimizer)
        engine.choose_threads(macs)
        return replace(request, device=engine.device(request.device, train=request.train, macs=macs))
    if (request.method, request.optimizer) != (Request.method, Request.optimizer):
        with suppress(ImportError):  # this run needs neither: checked only where the packages that know the names are there
            engine.check_names(request.method, request.optimizer)
    return request


def _check_batch(channels: Channels) -> None:
    """Raise ModelError for a network that mixes the examples of a batch, or that is made for one at a time."""
    from mcuprune.train.batchproof import prove

    prove(channels)


def _check_scores(request: Request, channels: Channels, data: Data | None) -> None:
    """Raise UnsupportedOperator or UsageError for a network that can't be scored as was asked."""
    from mcuprune.train import at_init

    at_init.refuse(channels, request.score, data.train if data else None)


def _comes_trained(request: Request, net: Network, data: Data | None, accuracy: float | None) -> tuple[bool, tuple[str, ...]]:
    """Whether the network counts as trained, and notes; without data by what the user says, or by its numbers."""
    if data is None or accuracy is None:
        return request.keep_weights or not (request.from_scratch or looks_fresh(net)), ()
    return comes_trained(
        net,
        data,
        accuracy,
        from_scratch=request.from_scratch,
        keep_weights=request.keep_weights,
        train=request.train,
        seed=request.seed,
    )


class _Record:
    """What is kept of a run while it goes on: the history, the seconds of all its sittings, the state to go on from.

    notes: what the user should know about how the run was taken up.
    """

    def __init__(self, run: _Run, fingerprint: str, started: float, on_step: OnStep) -> None:
        request = run.request
        self.history = History()
        self.notes: tuple[str, ...] = ()
        self._started, self._earlier, self._on_step = started, 0.0, on_step
        self.checkpoint = Checkpoint(
            Path(f"{request.output}.checkpoint"),
            fingerprint,
            lambda: {"history": self.history.document(), "seconds": self.seconds},
        )
        if not request.resume:
            self.checkpoint.remove()
        elif (stored := self.checkpoint.load(None)) is not None:
            self.history.take_up(stored.also["history"])
            self._earlier = stored.also["seconds"]
        else:
            self.notes = ("--resume found no state of an interrupted run; this one started anew",)

    @property
    def seconds(self) -> float:
        """How long the run has taken, the sittings before this one included."""
        return self._earlier + time.monotonic() - self._started

    def __call__(self, step: Step) -> None:
        """Take in a step."""
        self.history(step)
        self._on_step(step)


def _float_candidate(run: _Run, record: _Record) -> Candidate:
    """The cut network in floats: trained by the method, taken from an interrupted run, or cut by magnitude alone."""
    if run.request.train or run.request.int8:
        from mcuprune.train import quantizing

        if (done := quantizing.stored(record.checkpoint, run.request.model)) is not None:
            return done
    if run.request.train:
        return _train(run, record.checkpoint, record)
    if run.request.method == AT_INIT:
        return _at_init(run)
    return _magnitude(run.labelled, run.model, run.budget, run.request.multiple_of)


def _quantize(run: _Run, candidate: Candidate, record: _Record) -> tuple[Network, Candidate]:
    """The int8 network, and the candidate with the account of fake-quant training added."""
    from mcuprune.train import quantizing

    request, data = run.request, run.data
    how = quantizing.Quantization(
        quantizing.calibration(run.labelled, run.original, data, request.seed),
        request.weight_bits,
        request.device,
        request.seed,
    )
    if request.train and data is not None:
        how = replace(
            how,
            data=data,
            schedule=run.schedule,
            answers=run.answers,
            sram_model=request.sram_model,
            full_macs=run.before.total["macs"],
            checkpoint=record.checkpoint,
        )
    return quantizing.quantize(candidate, how, record)


def _measured(run: _Run, candidate: Candidate, accuracy_float: float | None, record: _Record) -> Result:
    """The result, by what is on disk: the written file is read, profiled and run again."""
    request, data = run.request, run.data
    written = network.load(request.output, input_shapes=request.input_shapes, accept=ops.accept(request.output))
    after = resources.profile(written)
    kept = run.labelled.kept(candidate.keep)
    int8 = evaluate.int8_accuracy(request.output, data.test) if data and request.int8 else None
    return Result(
        request=request,
        budget=run.budget,
        before=run.before,
        after=after,
        verdict=run.budget.check(after.used(request.sram_model)),
        accuracy=run.accuracy,
        accuracy_float=accuracy_float,
        accuracy_int8=int8.exact if int8 else None,
        accuracy_int8_default_session=int8.default_session if int8 else None,
        groups=tuple(GroupResult(g.name, len(g), len(kept[g.name]), kept[g.name]) for g in run.labelled.groups),
        history=tuple(record.history.steps),
        seconds=record.seconds,
        training_macs=candidate.training_macs,
        full_training_macs=candidate.full_training_macs,
        notes=(*candidate.notes, *([int8.warning] if int8 and int8.warning else [])),
        data=data.name if data else None,
        test_examples=len(data.test.y) if data else 0,
        training=_training(run),
        network=written,
        sensitivity=candidate.sensitivity,
    )


def _training(run: _Run) -> Training | None:
    request, data = run.request, run.data
    if not request.train:
        return None
    assert data is not None
    assert run.schedule is not None
    search = search_for(request)
    return Training(run.schedule, search, run.warm, run.answers is not None, len(data.train.y), request.augment, request.device)


def _fingerprint(request: Request, data: Data | None, net: Network | None) -> str:
    """Changes with everything that a run's course depends on, and with nothing else. net: of a network in memory."""
    found = hashlib.sha256(repr((__version__, options.course_of(request))).encode())
    networks = [*([request.model] if net is None else []), *([request.teacher] if request.teacher else [])]
    for file in [file for path in networks for file in (path, *external.files(path))]:
        found.update(hashlib.sha256(Path(file).read_bytes()).digest())
    if net is not None:
        found.update(net.to_proto().SerializeToString(deterministic=True))
    for split in (data.train, data.val, data.test) if data else ():  # the test set tells whether a network comes trained
        for array in (split.x, split.y):
            found.update(repr((array.shape, array.dtype.str)).encode())
            found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def _bytes(net: Network) -> bytes:
    return bytes(net.to_proto().SerializeToString())


def _check_flags(request: Request) -> None:
    """Refuse what makes no sense for any model, as far as that is known without the packages that train."""
    check_request(request)
    for default in WINDOWS.values():
        window(request, default)


def _outputs(request: Request) -> list[Output]:
    """All that this run writes: the report is the caller's, but a place that it can't have is to be found before the work."""
    found = [
        Output("-o", request.output, make_folder=True),
        Output("the state for --resume", f"{request.output}.checkpoint", make_folder=True),
    ]
    if request.report is not None:
        found += [
            Output("--report", os.path.join(request.report, f"report.{kind}"), make_folder=True) for kind in ("json", "md")
        ]
    return found


def sources(request: Request) -> list[Source]:
    """All that this run reads."""
    found = [Source("the model to prune", request.model)]
    found += [Source("external data of the model", file) for file in external.files(request.model)]
    found += [Source("the data", file) for file in datasets.files(request.data)]
    for teacher in [request.teacher] if request.teacher else []:
        found += [Source("the teacher", file) for file in (teacher, *external.files(teacher))]
    return found + ([] if request.configuration is None else [Source("the configuration", request.configuration)])


def _cost_model(net: Network, request: Request, budget: Budget) -> CostModel:
    """The costs of a network's cuts within the bounds that were asked for. Raises BudgetError where no cut holds the budget."""
    return widths.feasible(
        label(net),
        budget,
        keep=request.keep,
        least=request.min_channels,
        multiple=request.multiple_of,
        sram_model=request.sram_model,
    )


def _fits(channels: Channels, request: Request, budget: Budget) -> bool:
    """Whether the network holds its budget with all its channels."""
    model = CostModel(channels, request.sram_model)
    return widths.holds(model, model.full, budget)


def _spares_training(request: Request, *, warm: bool) -> bool:
    """Whether training could only waste time for a network that fits: it comes trained, and nobody said how long to train."""
    return request.train and warm and not long_as_asked(request)


def _needless(request: Request, channels: Channels, *, fits: bool, warm: bool) -> list[str]:
    """What of a prune there was nothing to do for."""
    notes = []
    if fits:
        why = "" if channels.groups else f"; nothing could be: {widths.why_none(channels)}"
        notes.append(f"nothing had to be cut: the network holds its budget as it is{why}")
    spared = fits and _spares_training(request, warm=warm)
    if spared:
        notes.append("it comes trained, so it was not trained again; --epochs N trains it all the same")
    idle = options.without_effect(request, "training", "gradients")
    if request.method == AT_INIT:
        idle.remove("--method")
    if idle and (spared or not request.train):
        notes.append(f"no effect without training: {', '.join(idle)}")
    return notes


def _at_init(run: _Run) -> Candidate:
    """Cut by scores of the weights as they are, and let those of the cut layers fit their new widths."""
    from mcuprune.train import at_init
    from mcuprune.train.rectify import rectified

    request = run.request
    found = at_init.plan(
        run.model,
        run.budget,
        score=request.score,
        multiple=request.multiple_of,
        examples=run.data.train if run.data else None,
        seed=request.seed,
    )
    cut = rectified(run.labelled, found.keep, trained=run.warm, seed=request.seed)
    return Candidate(cut, found.keep, 0, 0, 0, sensitivity=found.sensitivity)


def _magnitude(channels: Channels, model: CostModel, budget: Budget, multiple: int) -> Candidate:
    """Cut by weight magnitude alone: the largest uniform scaling that fits, grown into the slack it leaves."""
    chosen = widths.uniform(model, budget, multiple)
    chosen = widths.grow(model, chosen, budget, 1.0 / np.maximum(chosen, 1), multiple)
    keep = channels.top(chosen, salience(channels))
    return Candidate(channels.cut_channels(keep), keep, 0, 0, 0)


def _train(run: _Run, checkpoint: Checkpoint, on_step: OnStep) -> Candidate:
    """Restore BatchNormalization, run the method, and return its candidate."""
    from mcuprune.train import narrowing
    from mcuprune.train.module import Trainable

    request, data, labelled = run.request, run.data, run.labelled
    assert data is not None
    assert run.schedule is not None
    calibration = calibration_examples(data, request.seed)
    normal = narrowing.normalized(labelled, calibration, request.device)
    model = _cost_model(normal, request, run.budget)
    task = Task(
        model.channels,
        model,
        run.budget,
        data,
        run.schedule,
        request.seed,
        multiple_of=request.multiple_of,
        search=search_for(request),
        trained=run.warm,
        checkpoint=checkpoint,
        answers=run.answers,
        device=request.device,
    )
    candidate = narrowing.narrowed(request.method, task, calibration, on_step)
    notes = list(candidate.notes)
    if idle := _idle(request):
        notes.append(f"no effect on method {request.method}: {', '.join(idle)}")
    return replace(candidate, notes=(*notes, *narrowing.untrained(Trainable(labelled))))


def _idle(request: Request) -> list[str]:
    """The flags that were given and lead the widths of a method that doesn't run."""
    gradients = [] if request.method == Request.method else options.without_effect(request, "gradients")
    return gradients + ([] if request.method == AT_INIT else options.without_effect(request, "scores"))


#: For another road that begins as a prune does, and trains otherwise.
Run: TypeAlias = _Run
Record: TypeAlias = _Record
prepared, fingerprint, cost_model = _prepared, _fingerprint, _cost_model


def calibration_examples(data: Data, seed: int) -> np.ndarray:
    """Training examples that BatchNormalization statistics are measured on: float32 (examples, ...)."""
    return data.train.x[np.random.default_rng(seed).permutation(len(data.train.y))[:_CALIBRATION]]
