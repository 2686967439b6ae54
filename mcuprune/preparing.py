"""What a prune needs before the work begins: all of it is read, measured and checked, and whatever can be refused is.

Other roads that begin as a prune does, and train otherwise (``portfolio.nested``), begin here too.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mcuprune import console, options, places, usercode
from mcuprune.channels.labelling import Channels, label
from mcuprune.costs import banding, resources, widths
from mcuprune.costs.banded import BandedCosts
from mcuprune.costs.banding import Banding, Recipe
from mcuprune.costs.embedding import sums
from mcuprune.costs.resources import Budget, CostModel, Profile
from mcuprune.data import loading as datasets
from mcuprune.data.sets import Data, Given
from mcuprune.data.spelling import refuse_unknown
from mcuprune.errors import BudgetError, ModelError, UsageError
from mcuprune.graph import external, network
from mcuprune.graph.network import Network
from mcuprune.immutable import immutable
from mcuprune.operators import table as ops
from mcuprune.passes import batchnorm as folding
from mcuprune.passes.canonical import canonical
from mcuprune.passes.inputs import with_float_inputs
from mcuprune.places import Output, Source
from mcuprune.result import GroupResult, Start
from mcuprune.train import engine, evaluate
from mcuprune.train.checkpoint import Checkpoint
from mcuprune.train.checkpoint import check as check_checkpoint
from mcuprune.train.course import refuse_changed
from mcuprune.train.feeding import looks_fresh
from mcuprune.train.goal import Goal, goal, is_class_or_none, try_loss
from mcuprune.train.methods import METHODS
from mcuprune.train.origin import comes_trained
from mcuprune.train.rehearsal import rehearse
from mcuprune.train.request import Request, long_as_asked, search_for, without_effect
from mcuprune.train.request import check as check_request
from mcuprune.train.schedules import WINDOWS, Narrow, schedule_for, window
from mcuprune.train.task import Schedule, Task
from mcuprune.train.tasks.metrics import Metric
from mcuprune.train.tasks.own import own_loss
from mcuprune.train.training_data import training_data

if TYPE_CHECKING:
    pass

#: What states call the seconds of a step that the schedule of a run hangs on.
STEP_SECONDS = "step_seconds"
#: Examples that BatchNormalization statistics are measured on.
_CALIBRATION = 512


@immutable
class Run:
    """All that is known before the work begins; whatever can be refused has been.

    request: with the device chosen, and ``train`` off where training could only waste time.
    original: the network as it was read; labelled: as it is pruned. before: what the original costs.
    banding: how the file may run in bands; None where it is to run as it is. model: costs of its cuts.
    goal: data and task. metric: the original's, on the test set. warm: whether it comes trained.
    teacher: of the training; None where nobody teaches. schedule: of training, None where there is none.
    step_seconds: of a training step of the whole network, where the schedule hangs on it. earlier: what was cut before.
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
    step_seconds: float | None = None
    earlier: tuple[GroupResult, ...] = ()

    @property
    def data(self) -> Data | None:
        """The data set, with targets as the task takes them."""
        return None if self.goal is None else self.goal.data

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """The row bands that widths were chosen for."""
        return self.model.recipes if isinstance(self.model, BandedCosts) else ()


def prepared(request: Request, net: Network | None, given: Given | None, start: Start | None) -> Run:
    """Read, check and measure everything that the work needs. Raises what ``pruning.prune`` raises."""
    _check_flags(request)
    refuse_unknown(request.data)
    outputs = planned(request)
    places.distinct(outputs, sources(request))
    console.doing("reading the model")
    original = net or network.load(
        request.model, input_shapes=request.input_shapes, outputs=request.outputs, accept=ops.accept(request.model)
    )
    original, retyped = with_float_inputs(original)
    before = resources.profile(original, request.basis)
    budget = resources.budget(request.limits, before.used(request.basis))
    if not budget.limits:
        *others, last = (f"--{name}" for name in resources.RESOURCES)
        raise UsageError(f"prune needs a limit: {', '.join(others)} or {last}")
    wanted = banding.banding_of(request.bands, request.basis, budget.limits)
    fit_for_pruning, notes = canonical(original)
    whole_labelled = label(fit_for_pruning)
    labelled = whole_labelled if start is None else label(start.network)
    fits = _fits(labelled, request, budget, wanted)
    whole = labelled.network
    model = cost_model(folding.as_restored(whole) if request.train and not fits else whole, request, budget, wanted)
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
    metric, learned = (None, False) if aim is None else figure(original, aim, request.model)
    warm, unfit = _comes_trained(request, original, aim, metric, learned=learned)
    needless = _needless(request, labelled, fits=fits, warm=warm, has_data=data is not None)
    notes = (*retyped, *notes, *(data.notes if data else ()), *unfit, *needless)
    if fits and _spares_training(request, warm=warm):
        request = replace(request, train=False)
    if request.train and aim is not None:
        try_loss(aim)
        if not warm:
            labelled = label(aim.objective.begun(labelled.network))
    console.doing("asking the model as it came, for what it teaches")
    teacher = _teacher(request, whole_labelled, aim, metric, warm=warm)
    schedule, step_seconds = None, None
    if request.train and aim is not None:
        teachable = teacher is None and start is None and _teachable(request, aim)
        schedule, step_seconds = _schedule(
            request, labelled, aim, _narrow(request, model, budget), warm=warm, teachable=teachable
        )
    earlier = () if start is None else start.groups
    costs = (before, budget, wanted, model)
    return Run(request, original, labelled, *costs, aim, metric, warm, teacher, schedule, notes, step_seconds, earlier)


def _schedule(
    request: Request, labelled: Channels, aim: Goal, narrow: Narrow, *, warm: bool, teachable: bool
) -> tuple[Schedule, float | None]:
    """The schedule, and the seconds of a step that it hangs on. See ``schedule_for``."""
    examples, shrinkable = len(aim.data.train), _shrinkable(request, labelled)
    seconds = None if warm else _step_seconds(request, labelled, examples)
    schedule = schedule_for(
        request, examples, warm=warm, narrow=narrow, teachable=teachable, shrinkable=shrinkable, step_seconds=seconds
    )
    return schedule, seconds


def _step_seconds(request: Request, channels: Channels, examples: int) -> float | None:
    """How long a step of the whole network takes, if the schedule hangs on it; a run that goes on keeps what it took."""
    if request.time is None:
        return None
    stored = Checkpoint(Path(f"{request.output}.checkpoint"), {}).read() if request.resume else None
    if stored is not None and stored[1]["also"].get(STEP_SECONDS) is not None:
        return float(stored[1]["also"][STEP_SECONDS])
    from mcuprune.train.speed import seconds_of_step

    return seconds_of_step(channels, min(request.batch, examples), request.device)


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
        from_scratch=request.from_scratch,
        unlabelled=request.unlabelled,
    )
    if request.train:
        _check_trainable(labelled)
    if METHODS[request.method].led_by == "scores":
        _check_scores(request, labelled, data)
    if data is None:
        return None, None
    return data, goal(
        original,
        data,
        task=request.task,
        unlabelled=request.unlabelled,
        training=request.train,
        augment=request.augment,
        own=own,
    )


def _narrow(request: Request, model: CostModel, budget: Budget) -> Narrow:
    """The largest uniform scaling that fits: most of what flash holds are its weights, a byte each."""
    fitting = sums(model.cut(widths.uniform(model, budget, request.multiple_of)))
    whole = model.sums(model.full)["macs"]
    return Narrow(fitting["macs"] / whole if whole else 1.0, fitting["flash"])


def _with_engine(request: Request, macs: int) -> Request:
    """The request with its device chosen, torch ready for it. Raises MissingExtra where the run needs what isn't installed.

    macs: multiply-accumulates of one inference. What takes seconds to import comes after all that can be refused without it.
    """
    if request.train or request.int8 or METHODS[request.method].before_training:
        engine.need()
        engine.choose_threads(macs)
        engine.keep_memory()
        return replace(request, device=engine.device(request.device, train=request.train, macs=macs))
    return request


def _check_trainable(channels: Channels) -> None:
    """Raise ModelError for a network that mixes the examples of a batch, that is made for one at a time, or has no weights."""
    from mcuprune.train.batchproof import prove
    from mcuprune.train.module import Trainable

    prove(channels, several_inputs=len(channels.network.inputs) > 1)
    if next(iter(Trainable(channels).named_weights()), None) is None:
        raise ModelError(f"{channels.network.path}: has no weights, so there is nothing to train; add --no-train")


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


def _teachable(request: Request, aim: Goal) -> bool:
    """Whether an untrained network may be trained whole first, to teach: where it was measured to help, and costs one look."""
    default = request.method == Request.method and request.distill is not False
    return default and aim.labelled and is_class_or_none(aim.objective)


def _shrinkable(request: Request, channels: Channels) -> bool:
    """Whether training may begin on smaller images: the default method's of colours, or as was asked, if the network takes any.

    Raises UsageError where the user wants that of a network that doesn't.
    """
    shapes = [channels.network.shapes[name][1:] for name in channels.network.inputs]
    by_default = request.method == Request.method and any(3 in (*shape[:1], *shape[-1:]) for shape in shapes)
    if request.small_images == 0 or not (by_default or request.small_images):
        return False  # and nothing has to be proved
    from mcuprune.train.smaller import LEAST, proven

    if proven(channels) is None:
        if request.small_images:
            raise UsageError(
                f"{request.model}: --small-images {request.small_images}: this network, which takes "
                f"{', '.join(str(list(shape)) for shape in shapes)}, can't learn from smaller images: its only input must be "
                f"an image of at least {LEAST} x {LEAST}, and its answers to smaller ones of the same shapes; leave the option "
                "out"
            )
        return False
    return True


def _check_flags(request: Request) -> None:
    """Refuse what makes no sense for any model, as far as that is known without the packages that train."""
    check_request(request)
    if request.teacher is not None and not os.path.isfile(request.teacher):
        raise UsageError(f"--teacher {request.teacher}: is no file; name a trained network that is there")
    for default in WINDOWS.values():
        window(request, default)


def _fits(channels: Channels, request: Request, budget: Budget, wanted: Banding | None) -> bool:
    """Whether the network holds its budget with all its channels. Raises UsageError where no bands of a given number help."""
    model = CostModel(channels, request.basis) if wanted is None else BandedCosts(channels, wanted)
    if isinstance(model, BandedCosts):
        model.refuse_idle()
    return widths.holds(model, model.full, budget)


def _spares_training(request: Request, *, warm: bool) -> bool:
    """Whether training could only waste time for a network that fits: it comes trained, and nobody said how long to train."""
    return request.train and warm and not long_as_asked(request)


def _needless(request: Request, channels: Channels, *, fits: bool, warm: bool, has_data: bool) -> list[str]:
    """What of a prune there was nothing to do for. has_data: whether data was read."""
    notes = []
    if fits:
        why = "" if channels.groups else f"; nothing could be: {widths.why_none(channels)}"
        notes.append(f"nothing had to be cut: the network holds its budget as it is{why}")
    spared = fits and _spares_training(request, warm=warm)
    if spared:
        notes.append("it comes trained, so it was not trained again; --epochs N trains it all the same")
    for name, word in request.basis.models.items():
        if name not in (*request.limits, request.minimise) and word != resources.Basis().models[name]:
            notes.append(f"no effect on what is cut, for {name} isn't limited: --{name}-model {word}")
    idle = without_effect(replace(request, train=request.train and not spared), has_data=has_data)
    for need in dict.fromkeys(idle.values()):
        notes.append(f"no effect without {need}: {', '.join(flag for flag, lacks in idle.items() if lacks == need)}")
    return notes


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
    listed += datasets.sources(request.data, request.classes)
    listed += [Source("the loss", file) for file in usercode.files(request.loss_function or "")]
    for teacher in [request.teacher] if request.teacher else []:
        listed += [Source("the teacher", file) for file in (teacher, *external.files(teacher))]
    listed += [] if request.configuration is None else [Source("the configuration", request.configuration)]
    return listed + ([] if request.repeats is None else [Source("the report to repeat", request.repeats.report)])


def cost_model(net: Network, request: Request, budget: Budget, wanted: Banding | None) -> CostModel:
    """The costs of a network's cuts within the bounds that were asked for.

    wanted: the row bands that the file may run in.
    Raises BudgetError where no cut holds the budget, with the flags that are the reason where it is theirs.
    """
    free = replace(request, keep=(), min_channels=1, multiple_of=1)
    bounds = [name for name in ("keep", "min_channels", "multiple_of") if getattr(request, name) != getattr(free, name)]
    try:
        return _within_bounds(net, request, budget, wanted)
    except BudgetError as error:
        if not bounds:
            raise
        try:
            _within_bounds(net, free, budget, wanted)
        except BudgetError:
            raise error from None
        flags = " and ".join(options.of_name(Request, name).flag for name in bounds)
        them = "it" if len(bounds) == 1 else "them"
        raise BudgetError(f"{error}, or ask for less by {flags}: without {them} it holds") from None


def _within_bounds(net: Network, request: Request, budget: Budget, wanted: Banding | None) -> CostModel:
    """``cost_model``. Raises BudgetError where no cut holds the budget, with bands where these do."""
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


def figure(net: Network, goal: Goal, name: str) -> tuple[Metric, bool]:
    """A network's figure on the test set, in onnxruntime, and whether it is more than a constant answer gives."""
    tallies = evaluate.tallied(bytes_of(net), goal.data.test, goal.objective, "default", name=name)
    return goal.objective.metric(tallies), all(tally.learned() for tally in tallies)


def bytes_of(net: Network) -> bytes:
    """The network as the content of an ONNX file."""
    return bytes(net.to_proto().SerializeToString())


def task_of(run: Run, model: CostModel, checkpoint: Checkpoint) -> Task:
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


def calibration_examples(data: Data, seed: int) -> list[np.ndarray]:
    """Training examples that BatchNormalization statistics are measured on: one array (examples, ...) for each input."""
    chosen = np.random.default_rng(seed).permutation(len(data.train))[:_CALIBRATION]
    return [np.asarray(array[chosen]) for array in data.train.inputs]
