"""The road of one ``prune``: load, label, train and cut, quantise, write, and measure what was written.

Numbers in a ``Result`` come from the file on disk: it is read again, profiled again, and run in onnxruntime.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcuprune import console, options
from mcuprune.channels.labelling import Channels, label
from mcuprune.channels.salience import salience
from mcuprune.costs import banding, resources, widths
from mcuprune.costs.resources import Budget, CostModel
from mcuprune.data import preprocessing
from mcuprune.data.sets import Data, Given
from mcuprune.errors import UsageError
from mcuprune.graph import network
from mcuprune.graph.network import Network
from mcuprune.operators import table as ops
from mcuprune.passes import batchnorm as folding
from mcuprune.preparing import STEP_SECONDS, Run, calibration_examples, cost_model, figure, prepared, task_of
from mcuprune.result import Bands, Figures, GroupResult, Result, Start, Training
from mcuprune.run.layer_noise import Int8Layers, layer_noise
from mcuprune.train import evaluate, ranks
from mcuprune.train.checkpoint import Checkpoint
from mcuprune.train.course import contents, course
from mcuprune.train.methods import METHODS
from mcuprune.train.origin import learned_nothing
from mcuprune.train.request import Request, search_for
from mcuprune.train.task import Candidate, History, OnStep, Step
from mcuprune.train.tasks.metrics import Metric

if TYPE_CHECKING:
    from mcuprune.train.quantizing import Quantized


STARTED_ANEW = "--resume found no state of an interrupted run; this one started anew"

#: What is told before the work: the budget, and what the network as it came uses of each resource.
OnStart = Callable[[Budget, Mapping[str, int]], None]


def prune(
    request: Request,
    on_step: OnStep = lambda step: None,
    *,
    net: Network | None = None,
    data_set: Given | None = None,
    start: Start | None = None,
    on_start: OnStart = lambda budget, used: None,
) -> Result:
    """Do what ``request`` asks and measure the outcome. Writes ``request.output``; the report is the caller's.

    net: a network in memory, in place of the file ``request.model``, which is then only what messages call it.
    data_set: data in memory, in place of ``request.data``.
    start: what is cut and trained, in place of the network itself, which stays what it is compared with and taught by.
    on_start: called once before the work with the budget and with what the network as it came uses.

    Interrupted at any moment, it leaves a checkpoint beside the output; ``request.resume`` goes on from there.
    Raises a McupruneError, with nothing written, where no answer is possible: an unreadable or unsupported model, data that
    doesn't fit, a budget that can't be held, a place that can't be written, a missing package.
    """
    started = time.monotonic()
    run = prepared(request, net, request.data if data_set is None else data_set, start)
    on_start(run.budget, run.before.used(request.basis))
    of = course(run.request, net, run.data)
    if not ranks.all_have(repr(sorted(of.items())).encode()):
        raise UsageError("the ranks have other options, models, data or versions of mcuprune; give all of them the same")
    record = Record(run, of, started, on_step)
    candidate = _float_candidate(run, record)
    console.doing("measuring the cut network")
    small = folding.folded(candidate.channels.network)
    candidate = replace(
        candidate, channels=label(small), notes=tuple(dict.fromkeys((*run.notes, *record.notes, *candidate.notes)))
    )
    of_float = None
    if run.goal is not None:
        of_float, learned = figure(small, run.goal, f"{request.model} after cutting")
        if run.request.train and (note := learned_nothing(run.goal, of_float, learned, run.metric if run.warm else None)):
            candidate = replace(candidate, notes=(*candidate.notes, note))
    final, rounded = small, None
    if request.int8:
        done = _quantize(run, candidate, record)
        final, rounded, candidate = done.network, done.floats, done.candidate
    final = with_preprocessing(final, run.data)
    in_bands = None if run.banding is None else banding.in_bands(final, run.banding, run.recipes)
    (final if in_bands is None else in_bands.network).save(request.output)
    console.doing("measuring the file that was written")
    result = replace(_measured(run, candidate, of_float, small, record), asked=request)
    if rounded is not None and run.data is not None:
        result = replace(result, int8_layers=layer_noise(request.output, result.network, rounded, run.data.test))
    if in_bands is not None:
        result = replace(result, bands=_bands(in_bands, final, result))
    record.checkpoint.remove()  # not before: what is measured here may take long, and be interrupted
    return result


def remeasured(
    request: Request,
    *,
    net: Network | None,
    data_set: Given | None,
    start: Start,
    history: Sequence[Mapping[str, Any]],
    notes: Sequence[str],
    int8_layers: Int8Layers | None,
) -> Result:
    """The result of a prune that was finished before, by the file at ``request.output`` that it wrote. Nothing is trained.

    start: the float network that became that file. history, notes, int8_layers: of that prune.
    """
    began = time.monotonic()
    run = prepared(replace(request, resume=False), net, request.data if data_set is None else data_set, start)
    record = Record(run, course(run.request, net, run.data), began, lambda step: None)
    record.history.take_up([dict(step) for step in history])
    of_float = None if run.goal is None else figure(start.network, run.goal, request.model)[0]
    candidate = Candidate(run.labelled, run.labelled.keep_all(), 0, 0, 0, tuple(notes))
    return replace(_measured(run, candidate, of_float, start.network, record), int8_layers=int8_layers)


class Record:
    """What is kept of a run while it goes on: the history, the seconds of all its sittings, the state to go on from.

    notes: what the user should know about how the run was taken up.
    """

    def __init__(self, run: Run, of: Mapping[str, str], started: float, on_step: OnStep) -> None:
        request = run.request
        self.history = History()
        self.notes: tuple[str, ...] = ()
        self._started, self._earlier, self._on_step = started, 0.0, on_step
        self.checkpoint = Checkpoint(
            Path(f"{request.output}.checkpoint"),
            of,
            lambda: {
                "history": self.history.document(),
                "seconds": self.seconds,
                "devices": self._devices,
                STEP_SECONDS: run.step_seconds,
            },
        )
        self._devices = [request.device]
        if not request.resume:
            self.checkpoint.remove()
        elif (stored := self.checkpoint.load(None)) is not None:
            self.history.take_up(stored.also["history"])
            self._earlier = stored.also["seconds"]
            before = list(stored.also["devices"])
            self._devices = before if before[-1] == request.device else [*before, request.device]
            if len(self._devices) > 1:
                self.notes = (f"this run moved from {self.device}: the same command on one device writes another file",)
        else:
            self.notes = (STARTED_ANEW,)

    @property
    def device(self) -> str:
        """Where it trains; of a run that was moved, from where to where."""
        return " to ".join(self._devices)

    @property
    def seconds(self) -> float:
        """How long the run has taken, the sittings before this one included."""
        return self._earlier + time.monotonic() - self._started

    def __call__(self, step: Step) -> None:
        """Take in a step."""
        self.history(step)
        self._on_step(step)


def _float_candidate(run: Run, record: Record) -> Candidate:
    """The cut network in floats: trained by the method, taken from an interrupted run, or cut by magnitude alone."""
    if run.request.train or run.request.int8:
        from mcuprune.train import quantizing

        if (done := quantizing.stored(record.checkpoint, run.request.model)) is not None:
            return done
    if run.request.train:
        return _train(run, record.checkpoint, record)
    if METHODS[run.request.method].before_training:
        return _at_init(run)
    return _magnitude(run.labelled, run.model, run.budget, run.request.multiple_of)


def _quantize(run: Run, candidate: Candidate, record: Record) -> Quantized:
    """The int8 network of a candidate."""
    from mcuprune.train import quantizing

    request, data, answers = run.request, run.data, run.teacher
    how = quantizing.Quantization(
        quantizing.calibration(run.labelled, run.original, data, request.seed),
        request.weight_bits,
        request.device,
        request.seed,
    )
    if request.train and data is not None:
        if candidate.teacher is not None and run.goal is not None:
            from mcuprune.train import schooling

            answers = schooling.teacher(label(candidate.teacher), data, run.goal.objective, request.device)
        how = replace(
            how,
            data=data,
            schedule=run.schedule,
            objective=None if run.goal is None else run.goal.objective,
            answers=answers,
            basis=request.basis,
            costs=None if run.banding is None else run.model.at(run.labelled.widths(candidate.keep)),
            full_macs=run.before.total["macs"],
            checkpoint=record.checkpoint,
        )
    return quantizing.quantize(candidate, how, record)


def _measured(run: Run, candidate: Candidate, of_float: Metric | None, small: Network, record: Record) -> Result:
    """The result, by what is on disk: the written file is read, profiled and run again."""
    request, data = run.request, run.data
    written = network.load(request.output, input_shapes=request.input_shapes, accept=ops.accept(request.output))
    after = resources.profile(written, request.basis)
    kept = run.labelled.kept(candidate.keep)
    int8 = evaluate.int8_metric(request.output, run.goal.data.test, run.goal.objective) if run.goal and request.int8 else None
    told = list(candidate.notes) + ([int8.warning] if int8 and int8.warning else [])
    figures = None
    if run.goal is not None and run.metric is not None and of_float is not None:
        exact, default = (int8.exact, int8.default_session) if int8 else (None, None)
        objective = run.goal.objective
        loss = evaluate.rounding_loss(of_float, exact, len(run.data.test)) if exact and run.data else None
        told += [loss] if loss else []
        figures = Figures(objective.task, objective.title, run.goal.labelled, run.metric, of_float, exact, default)
    groups = tuple(GroupResult(g.name, len(g), len(kept[g.name]), kept[g.name]) for g in run.labelled.groups)
    return Result(
        request=request,
        budget=run.budget,
        before=run.before,
        after=after,
        verdict=run.budget.check(after.used(request.basis)),
        figures=figures,
        groups=_since(run.earlier, groups) if run.earlier else groups,
        history=tuple(record.history.steps),
        seconds=record.seconds,
        training_macs=candidate.training_macs,
        full_training_macs=candidate.full_training_macs,
        notes=tuple(told),
        data=data.name if data else None,
        preprocessing=data.preprocessing if data else None,
        test_examples=len(data.test) if data else 0,
        training=_training(run, candidate, record.device),
        bands=None,
        network=written,
        float_network=small,
        contents=contents(record.checkpoint.of, data),
        classes=data.classes if data else (),
        sensitivity=candidate.sensitivity,
    )


def _since(earlier: tuple[GroupResult, ...], now: tuple[GroupResult, ...]) -> tuple[GroupResult, ...]:
    """What two prunes, one after the other, left of the first one's groups; one that is no group any more counts as whole."""
    later = {group.name: group for group in now}
    composed = []
    for group in earlier:
        then = later.get(group.name)
        kept = group.kept if then is None or then.before != group.after else tuple(group.kept[i] for i in then.kept)
        composed.append(GroupResult(group.name, group.before, len(kept), kept))
    return tuple(composed)


def _bands(run: banding.Run, plain: Network, result: Result) -> Bands:
    """What bands were written, measured beside the same network without. plain: that network."""
    written = banding.measured(result.network, result.after)
    before = written if run.network is plain else banding.measured(plain)
    return Bands(run.choices, run.embedded, run.planner.graph.endings(), before, written, plain)


def _training(run: Run, candidate: Candidate, device: str) -> Training | None:
    request, data = run.request, run.data
    if not request.train:
        return None
    assert data is not None
    assert run.schedule is not None
    varied, search = data.varied or None, search_for(request)
    taught = run.teacher is not None or candidate.teacher is not None
    return Training(candidate.schedule or run.schedule, search, run.warm, taught, len(data.train), varied, device)


def with_preprocessing(net: Network, data: Data | None) -> Network:
    """The network with a note, in its metadata, of how raw values are to reach it."""
    if data is None or data.preprocessing is None:
        return net
    return net.with_metadata(preprocessing.KEY, data.preprocessing.text())


def _at_init(run: Run) -> Candidate:
    """Cut by scores of the weights as they are, and let those of the cut layers fit their new widths."""
    from mcuprune.train import at_init
    from mcuprune.train.rectify import rectified

    request = run.request
    plan = at_init.plan(
        run.model,
        run.budget,
        score=request.score,
        multiple=request.multiple_of,
        examples=run.data.train if run.data else None,
        seed=request.seed,
    )
    cut = rectified(run.labelled, plan.keep, trained=run.warm, seed=request.seed)
    return Candidate(cut, plan.keep, 0, 0, 0, sensitivity=plan.sensitivity)


def _magnitude(channels: Channels, model: CostModel, budget: Budget, multiple: int) -> Candidate:
    """Cut by weight magnitude alone: the largest uniform scaling that fits, grown into the slack it leaves."""
    keep = channels.top(widths.uniform_grown(model, budget, multiple), salience(channels))
    return Candidate(channels.cut_channels(keep), keep, 0, 0, 0)


def _train(run: Run, checkpoint: Checkpoint, on_step: OnStep) -> Candidate:
    """Restore BatchNormalization, run the method, and return its candidate."""
    from mcuprune.train import narrowing
    from mcuprune.train.module import Trainable

    request, labelled = run.request, run.labelled
    assert run.data is not None
    calibration = calibration_examples(run.data, request.seed)
    normal = narrowing.normalized(labelled, calibration, request.device)
    task = task_of(run, cost_model(normal, request, run.budget, run.banding), checkpoint)
    candidate = narrowing.narrowed(request.method, task, calibration, on_step)
    notes = list(candidate.notes)
    if idle := _idle(request):
        notes.append(f"no effect on method {request.method}: {', '.join(idle)}")
    return replace(candidate, notes=(*notes, *narrowing.untrained(Trainable(labelled))))


def _idle(request: Request) -> list[str]:
    """The flags that were given and lead the widths of a method that doesn't run."""
    led_by = METHODS[request.method].led_by
    idle = [option for need in ("gradients", "scores") if need != led_by for option in options.without_effect(request, need)]
    return [option.typed(getattr(request, option.name)) for option in idle]
