"""The road of one ``prune``: load, label, train and cut, quantise, write, and measure what was written.

Numbers in a ``Result`` come from the file on disk: it is read again, profiled again, and run in onnxruntime.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mcuprune import console, options, places
from mcuprune.channels.labelling import Channels, label
from mcuprune.channels.salience import salience
from mcuprune.costs import banding, resources, widths
from mcuprune.costs.banding import BandedCosts, Banding, Recipe
from mcuprune.costs.resources import Budget, CostModel, Profile
from mcuprune.data import loading as datasets
from mcuprune.data import preprocessing
from mcuprune.data.sets import Data, Given
from mcuprune.data.spelling import refuse_unknown
from mcuprune.errors import BudgetError, UsageError
from mcuprune.graph import external, network
from mcuprune.graph.network import Network
from mcuprune.operators import table as ops
from mcuprune.passes import batchnorm as folding
from mcuprune.passes.canonical import canonical
from mcuprune.places import Output, Source
from mcuprune.result import Bands, Figures, GroupResult, Result, Start, Training
from mcuprune.run.layer_noise import Int8Layers, layer_noise
from mcuprune.train import engine, evaluate, ranks
from mcuprune.train.checkpoint import Checkpoint
from mcuprune.train.checkpoint import check as check_checkpoint
from mcuprune.train.course import DATA, MODEL, course, refuse_changed
from mcuprune.train.feeding import looks_fresh
from mcuprune.train.goal import Goal, goal, try_loss
from mcuprune.train.origin import comes_trained, learned_nothing
from mcuprune.train.rehearsal import rehearse
from mcuprune.train.request import AT_INIT, Request, long_as_asked, search_for
from mcuprune.train.request import check as check_request
from mcuprune.train.schedules import WINDOWS, Narrow, schedule_for, window
from mcuprune.train.task import Candidate, History, OnStep, Schedule, Step, Task
from mcuprune.train.tasks.metrics import Metric
from mcuprune.train.tasks.own import own_loss
from mcuprune.train.training_data import training_data

if TYPE_CHECKING:
    from mcuprune.train.quantizing import Quantized

#: Examples that BatchNormalization statistics are measured on.
_CALIBRATION = 512

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
    run = _prepared(request, net, request.data if data_set is None else data_set, start)
    on_start(run.budget, run.before.used(request.basis))
    of = course(run.request, net, run.data)
    if not ranks.all_have(repr(sorted(of.items())).encode()):
        raise UsageError("the ranks have other options, models, data or versions of mcuprune; give all of them the same")
    record = _Record(run, of, started, on_step)
    candidate = _float_candidate(run, record)
    console.doing("measuring the cut network")
    small = folding.folded(candidate.channels.network)
    candidate = replace(
        candidate, channels=label(small), notes=tuple(dict.fromkeys((*run.notes, *record.notes, *candidate.notes)))
    )
    of_float = None
    if run.goal is not None:
        of_float, learned = _figure(small, run.goal, f"{request.model} after cutting")
        if run.request.train and (note := learned_nothing(run.goal, of_float, learned)):
            candidate = replace(candidate, notes=(*candidate.notes, note))
    final, rounded = small, None
    if request.int8:
        done = _quantize(run, candidate, record)
        final, rounded, candidate = done.network, done.floats, done.candidate
    final = _with_preprocessing(final, run.data)
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


def _figure(net: Network, goal: Goal, name: str) -> tuple[Metric, bool]:
    """A network's figure on the test set, in onnxruntime, and whether it is more than a constant answer gives."""
    tallies = evaluate.tallied(_bytes(net), goal.data.test, goal.objective, "default", name=name)
    return goal.objective.metric(tallies), all(tally.learned() for tally in tallies)


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
    run = _prepared(replace(request, resume=False), net, request.data if data_set is None else data_set, start)
    record = _Record(run, course(run.request, net, run.data), began, lambda step: None)
    record.history.take_up([dict(step) for step in history])
    of_float = None if run.goal is None else _figure(start.network, run.goal, request.model)[0]
    candidate = Candidate(run.labelled, run.labelled.keep_all(), 0, 0, 0, tuple(notes))
    return replace(_measured(run, candidate, of_float, start.network, record), int8_layers=int8_layers)


@dataclass(frozen=True)
class _Run:
    """All that is known before the work begins; whatever can be refused has been.

    request: with the device chosen, and ``train`` off where training could only waste time.
    original: the network as it was read; labelled: as it is pruned. before: what the original costs.
    banding: how the file may run in bands; None where it is to run as it is. model: costs of its cuts.
    goal: data and task. metric: the original's, on the test set. warm: whether it comes trained.
    teacher: of the training; None where nobody teaches. schedule: of training, None where there is none.
    earlier: what was cut before this run.
    """

    request: Request
    original: Network
    labelled: Channels
    before: Profile
    budget: Budget
    banding: Banding | None
    model: CostModel
    goal: Goal | None
    metric: Metric | None
    warm: bool
    teacher: Any
    schedule: Schedule | None
    notes: tuple[str, ...]
    earlier: tuple[GroupResult, ...] = ()

    @property
    def data(self) -> Data | None:
        """The data set, with targets as the task takes them."""
        return None if self.goal is None else self.goal.data

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """The row bands that widths were chosen for."""
        return self.model.recipes if isinstance(self.model, BandedCosts) else ()


def _prepared(request: Request, net: Network | None, given: Given | None, start: Start | None) -> _Run:
    """Read, check and measure everything that the work needs. Raises what ``prune`` raises."""
    _check_flags(request)
    refuse_unknown(request.data)
    outputs = planned(request)
    places.distinct(outputs, sources(request))
    console.doing("reading the model")
    original = net or network.load(
        request.model, input_shapes=request.input_shapes, outputs=request.outputs, accept=ops.accept(request.model)
    )
    before = resources.profile(original, request.basis)
    budget = resources.budget(request.limits, before.used(request.basis))
    if not budget.limits:
        *others, last = (f"--{name}" for name in resources.RESOURCES)
        raise UsageError(f"prune needs a limit: {', '.join(others)} or {last}")
    wanted = banding.banding_of(request.bands, request.basis, budget.limits)
    prepared, notes = canonical(original)
    whole_labelled = label(prepared)
    labelled = whole_labelled if start is None else label(start.network)
    fits = _fits(labelled, request, budget, wanted)
    whole = labelled.network
    model = _cost_model(folding.as_restored(whole) if request.train and not fits else whole, request, budget, wanted)
    for output in outputs:
        places.probe(output)
    if not request.resume:
        check_checkpoint(f"{request.output}.checkpoint")
    console.doing("starting torch" if request.train or request.int8 else "cutting the model")
    request = _with_engine(request, before.total["macs"])
    console.doing("walking the whole road once")
    rehearse(labelled, int8=request.int8, train=request.train, precision=request.precision)
    data, aim = _data_and_goal(request, original, labelled, given)
    console.doing("measuring the model as it came")
    refuse_changed(request, net, None if aim is None else aim.data)
    metric, learned = (None, False) if aim is None else _figure(original, aim, request.model)
    warm, unfit = _comes_trained(request, original, aim, metric, learned=learned)
    notes = (*notes, *(data.notes if data else ()), *unfit, *_needless(request, labelled, fits=fits, warm=warm))
    if fits and _spares_training(request, warm=warm):
        request = replace(request, train=False)
    if request.train and aim is not None:
        try_loss(aim)
    console.doing("asking the model as it came, for what it teaches")
    teacher = _teacher(request, whole_labelled, aim, metric, warm=warm)
    schedule = None
    if request.train and aim is not None:
        schedule = schedule_for(request, len(aim.data.train), warm=warm, narrow=_narrow(request, model, budget))
    earlier = () if start is None else start.groups
    return _Run(
        request, original, labelled, before, budget, wanted, model, aim, metric, warm, teacher, schedule, notes, earlier
    )


def _data_and_goal(
    request: Request, original: Network, labelled: Channels, given: Given | None
) -> tuple[Data | None, Goal | None]:
    """The data as it was read, and what is to be learned from it; None where there is none.

    Refuses on the way networks that can't be trained in batches, or scored, on such data.
    """
    own = None if request.loss_function is None else own_loss(request.loss_function)
    console.doing("reading the data")
    data = training_data(
        original,
        given,
        train=request.train,
        seed=request.seed,
        augment=request.augment,
        feed=request,
        task=request.task,
    )
    if request.train:
        _check_batch(labelled)
    if request.method == AT_INIT:
        _check_scores(request, labelled, data)
    if data is None:
        return None, None
    return data, goal(original, data, task=request.task, unlabelled=request.unlabelled, augment=request.augment, own=own)


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

    prove(channels, several_inputs=len(channels.network.inputs) > 1)


def _check_scores(request: Request, channels: Channels, data: Data | None) -> None:
    """Raise UnsupportedOperator or UsageError for a network that can't be scored as was asked."""
    from mcuprune.train import at_init

    at_init.refuse(channels, request.score, data.train if data else None)


def _comes_trained(
    request: Request, net: Network, aim: Goal | None, metric: Metric | None, *, learned: bool
) -> tuple[bool, tuple[str, ...]]:
    """Whether the network counts as trained, and notes; without data by what the user says, or by its numbers."""
    if aim is None or metric is None:
        return request.keep_weights or not (request.from_scratch or looks_fresh(net)), ()
    return comes_trained(
        net,
        aim,
        metric,
        learned,
        from_scratch=request.from_scratch,
        keep_weights=request.keep_weights,
        train=request.train,
        seed=request.seed,
    )


class _Record:
    """What is kept of a run while it goes on: the history, the seconds of all its sittings, the state to go on from.

    notes: what the user should know about how the run was taken up.
    """

    def __init__(self, run: _Run, of: Mapping[str, str], started: float, on_step: OnStep) -> None:
        request = run.request
        self.history = History()
        self.notes: tuple[str, ...] = ()
        self._started, self._earlier, self._on_step = started, 0.0, on_step
        self.checkpoint = Checkpoint(
            Path(f"{request.output}.checkpoint"),
            of,
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


def _quantize(run: _Run, candidate: Candidate, record: _Record) -> Quantized:
    """The int8 network of a candidate."""
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
            objective=None if run.goal is None else run.goal.objective,
            answers=run.teacher,
            basis=request.basis,
            costs=None if run.banding is None else run.model.at(run.labelled.widths(candidate.keep)),
            full_macs=run.before.total["macs"],
            checkpoint=record.checkpoint,
        )
    return quantizing.quantize(candidate, how, record)


def _measured(run: _Run, candidate: Candidate, of_float: Metric | None, small: Network, record: _Record) -> Result:
    """The result, by what is on disk: the written file is read, profiled and run again."""
    request, data = run.request, run.data
    written = network.load(request.output, input_shapes=request.input_shapes, accept=ops.accept(request.output))
    after = resources.profile(written, request.basis)
    kept = run.labelled.kept(candidate.keep)
    int8 = evaluate.int8_metric(request.output, run.goal.data.test, run.goal.objective) if run.goal and request.int8 else None
    figures = None
    if run.goal is not None and run.metric is not None and of_float is not None:
        exact, default = (int8.exact, int8.default_session) if int8 else (None, None)
        objective = run.goal.objective
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
        notes=(*candidate.notes, *([int8.warning] if int8 and int8.warning else [])),
        data=data.name if data else None,
        preprocessing=data.preprocessing if data else None,
        test_examples=len(data.test) if data else 0,
        training=_training(run),
        bands=None,
        network=written,
        float_network=small,
        contents={"model": record.checkpoint.of[MODEL], "data": record.checkpoint.of[DATA] if data else None},
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


def _training(run: _Run) -> Training | None:
    request, data = run.request, run.data
    if not request.train:
        return None
    assert data is not None
    assert run.schedule is not None
    varied, taught, search = data.varied or None, run.teacher is not None, search_for(request)
    return Training(run.schedule, search, run.warm, taught, len(data.train), varied, request.device)


def _with_preprocessing(net: Network, data: Data | None) -> Network:
    """The network with a note, in its metadata, of how raw values are to reach it."""
    if data is None or data.preprocessing is None:
        return net
    return net.with_metadata(preprocessing.KEY, data.preprocessing.text())


def _bytes(net: Network) -> bytes:
    return bytes(net.to_proto().SerializeToString())


def _check_flags(request: Request) -> None:
    """Refuse what makes no sense for any model, as far as that is known without the packages that train."""
    check_request(request)
    for default in WINDOWS.values():
        window(request, default)


def planned(request: Request) -> list[Output]:
    """All that this run writes: the report is the caller's, but a place that it can't have is to be found before the work."""
    outputs = [
        Output("-o", request.output, make_folder=True),
        Output("the state for --resume", f"{request.output}.checkpoint", make_folder=True),
    ]
    if request.report is not None:
        kinds = ("json", "md", "html")
        outputs += [Output("--report", os.path.join(request.report, f"report.{kind}"), make_folder=True) for kind in kinds]
    return outputs


def sources(request: Request) -> list[Source]:
    """All that this run reads."""
    listed = [Source("the model to prune", request.model)]
    listed += [Source("external data of the model", file) for file in external.files(request.model)]
    listed += [Source("the data", file) for file in datasets.files(request.data)]
    for teacher in [request.teacher] if request.teacher else []:
        listed += [Source("the teacher", file) for file in (teacher, *external.files(teacher))]
    listed += [] if request.configuration is None else [Source("the configuration", request.configuration)]
    return listed + ([] if request.repeats is None else [Source("the report to repeat", request.repeats.report)])


def _cost_model(net: Network, request: Request, budget: Budget, wanted: Banding | None) -> CostModel:
    """The costs of a network's cuts within the bounds that were asked for. Raises BudgetError where no cut holds the budget.

    wanted: the row bands that the file may run in.
    """
    feasible = partial(widths.feasible, label(net), keep=request.keep, least=request.min_channels, multiple=request.multiple_of)
    if wanted is not None:
        return feasible(budget, make=partial(BandedCosts, banding=wanted))
    try:
        return feasible(budget, basis=request.basis)
    except BudgetError as error:
        if "sram" not in budget.limits or not _bands_would_hold(feasible, request, budget):
            raise
        raise BudgetError(f"{error}; or run its first layers in row bands: --bands auto holds it") from None


def _bands_would_hold(feasible: Callable[..., CostModel], request: Request, budget: Budget) -> bool:
    """Whether a budget that can't be held otherwise can be in row bands. They lower SRAM alone: the rest first."""
    rest = Budget({name: limit for name, limit in budget.limits.items() if name != "sram"})
    try:
        feasible(rest, basis=request.basis)
        wanted = banding.banding_of("auto", request.basis, budget.limits)
        if wanted is not None:
            feasible(budget, make=partial(BandedCosts, banding=wanted))
    except (BudgetError, UsageError):
        return False
    return wanted is not None


def _fits(channels: Channels, request: Request, budget: Budget, wanted: Banding | None) -> bool:
    """Whether the network holds its budget with all its channels. Raises UsageError where no bands of a given number help."""
    model = CostModel(channels, request.basis) if wanted is None else BandedCosts(channels, wanted)
    if isinstance(model, BandedCosts):
        model.refuse_idle()
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
    chosen = widths.uniform(model, budget, multiple)
    chosen = widths.grow(model, chosen, budget, 1.0 / np.maximum(chosen, 1), multiple)
    keep = channels.top(chosen, salience(channels))
    return Candidate(channels.cut_channels(keep), keep, 0, 0, 0)


def _teacher(request: Request, whole: Channels, aim: Goal | None, metric: Metric | None, *, warm: bool) -> Any:
    """Who teaches: the network before any channel went, where it is trained, or another from a file; None for nobody.

    whole: the network, labelled. Raises UsageError where the user wants it of one that isn't trained.
    """
    if request.distill and not warm and request.teacher is None:
        said = f"this one is right on {(metric.accuracy if metric else None) or 0:.1%} of the test set"
        if metric is not None and metric.accuracy is None:
            said = f"{metric.title} of this one on the test set: {metric.shown()}"
        raise UsageError(f"{request.model}: --distill needs a trained network to learn from; {said}")
    if aim is None or not request.train:
        return None
    if request.distill is False and not aim.labelled:
        raise UsageError(f"{request.model}: --no-distill leaves nothing to learn from: the examples have no targets")
    if request.teacher is None and aim.labelled and (not warm or request.distill is False):
        return None
    from mcuprune.train.teacher import Teacher, of_file

    if request.teacher is not None:
        return of_file(request.teacher, aim)
    teacher = Teacher(whole, aim.data.train, aim.objective, varied=aim.data.augment is not None, device=request.device)
    if not aim.labelled:
        for kind, answers in zip(aim.objective.kinds, teacher.sample(aim.data.train, _CALIBRATION), strict=True):
            kind.prepare(answers)
    return teacher


def _train(run: _Run, checkpoint: Checkpoint, on_step: OnStep) -> Candidate:
    """Restore BatchNormalization, run the method, and return its candidate."""
    from mcuprune.train import narrowing
    from mcuprune.train.module import Trainable

    request, labelled = run.request, run.labelled
    assert run.data is not None
    calibration = calibration_examples(run.data, request.seed)
    normal = narrowing.normalized(labelled, calibration, request.device)
    task = _task(run, _cost_model(normal, request, run.budget, run.banding), checkpoint)
    candidate = narrowing.narrowed(request.method, task, calibration, on_step)
    notes = list(candidate.notes)
    if idle := _idle(request):
        notes.append(f"no effect on method {request.method}: {', '.join(idle)}")
    return replace(candidate, notes=(*notes, *narrowing.untrained(Trainable(labelled))))


def _task(run: _Run, model: CostModel, checkpoint: Checkpoint) -> Task:
    """What a run's training has to do. model: of its network with BatchNormalizations."""
    request = run.request
    assert run.data is not None
    assert run.schedule is not None
    return Task(
        model.channels,
        model,
        run.budget,
        run.data,
        run.schedule,
        request.seed,
        multiple_of=request.multiple_of,
        search=search_for(request),
        trained=run.warm,
        checkpoint=checkpoint,
        objective=None if run.goal is None else run.goal.objective,
        answers=run.teacher,
        device=request.device,
        precision=request.precision,
    )


def _idle(request: Request) -> list[str]:
    """The flags that were given and lead the widths of a method that doesn't run."""
    gradients = [] if request.method == Request.method else options.without_effect(request, "gradients")
    return gradients + ([] if request.method == AT_INIT else options.without_effect(request, "scores"))


def calibration_examples(data: Data, seed: int) -> list[np.ndarray]:
    """Training examples that BatchNormalization statistics are measured on: one array (examples, ...) for each input."""
    chosen = np.random.default_rng(seed).permutation(len(data.train))[:_CALIBRATION]
    return [np.asarray(array[chosen]) for array in data.train.inputs]


#: For another road that begins and ends as a prune does, and trains otherwise.
Run: TypeAlias = _Run
Record: TypeAlias = _Record
prepared, cost_model, task, figure, with_preprocessing = _prepared, _cost_model, _task, _figure, _with_preprocessing
