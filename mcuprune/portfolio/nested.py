"""The road of nested networks: one training, then each is measured, quantised and written by itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mcuprune import preparing, pruning
from mcuprune.channels.labelling import Channels, label
from mcuprune.costs import resources
from mcuprune.costs.resources import Budget, CostModel
from mcuprune.data.sets import Data
from mcuprune.errors import BudgetError, UsageError
from mcuprune.graph import network
from mcuprune.immutable import immutable
from mcuprune.operators import table as ops
from mcuprune.passes import batchnorm as folding
from mcuprune.passes.canonical import canonical
from mcuprune.portfolio import manifest
from mcuprune.portfolio.manifest import Networks
from mcuprune.portfolio.wanted import Variant
from mcuprune.report.prune import step_document
from mcuprune.train import course
from mcuprune.train.checkpoint import Checkpoint
from mcuprune.train.goal import Goal
from mcuprune.train.origin import learned_nothing
from mcuprune.train.request import Request, long_as_asked
from mcuprune.train.schedules import schedule_for
from mcuprune.train.task import Candidate, OnStep, Schedule, Task

#: What the training of a family may cost, where nobody says: so many times as much as one training of the whole network.
_COST = 1.4
#: What the training of all is called in the folder; its state is beside it while it goes on.
TRAINING = "training"


@immutable
class Family:
    """All that is known before the work begins; whatever can be refused has been.

    run: the prune to the tightest budget, not begun. budgets: of the variants. macs_of_one: multiply-accumulates of one
    training of the whole network, as long as this is to be; None where only time is known.
    """

    run: preparing.Run
    goal: Goal
    variants: Sequence[Variant]
    budgets: Sequence[Budget]
    schedule: Schedule
    macs_of_one: int | None
    folder: Path

    @property
    def data(self) -> Data:
        """The data set, with targets as the task takes them."""
        return self.goal.data

    @property
    def request(self) -> Request:
        """What all variants have in common."""
        return self.run.request


#: Trains a family: the candidate of each variant, and the training's own account of multiply-accumulates and steps.
Train = Callable[[Family, pruning.Record], tuple[Sequence[Candidate], Mapping[str, int]]]


def make(request: Request, variants: Sequence[Variant], folder: Path, on_step: OnStep, train: Train) -> Networks:
    """Train once, and write ``NAME.onnx`` of every variant into ``folder``.

    request: what all have in common; its limits and output don't count. train: ``nested``, or ``sparse.sparse``.
    It leaves states in the folder, from which ``request.resume`` goes on; whoever writes the document removes them.
    Raises what ``pruning.prune`` raises.
    """
    started = time.monotonic()
    family = _family(request, variants, folder)
    run = family.run
    own = course_of(run, variants, family.budgets, train.__name__)
    record = pruning.Record(run, own, started, on_step)
    states = [Checkpoint(folder / f"{v.name}.onnx.checkpoint", {**own, "variant": v.name}) for v in variants]
    if not request.resume:
        for state in states:
            state.remove()
    candidates, account = train(family, record)
    steps = _quantization_steps(family, candidates)
    entries = [
        _written(family, index, candidate, state, steps[index], record)
        for index, (candidate, state) in enumerate(zip(candidates, states, strict=True))
    ]
    return Networks(
        variants=[entry for entry, _ in entries],
        course=own,
        before=run.before,
        metric=run.metric,
        data=family.data.name,
        test_examples=len(family.data.test),
        seconds=record.seconds,
        training_macs=account["training_macs"] + sum(cost["training_macs"] for _, cost in entries),
        full_training_macs=account["full_training_macs"] + max(cost["full_training_macs"] for _, cost in entries),
        one_training_macs=family.macs_of_one,
        history=[step_document(step) for step in record.history.steps],
        notes=tuple(dict.fromkeys((*run.notes, *record.notes, *(note for c in candidates for note in c.notes)))),
    )


def course_of(run: preparing.Run, variants: Sequence[Variant], budgets: Sequence[Budget], road: str) -> dict[str, str]:
    """What the course of a portfolio depends on: whoever has the same may go on with it. road: how its networks are made."""
    told = dict(course.course(run.request, None, run.data))
    for variant, budget in zip(variants, budgets, strict=True):
        told[f"variant {variant.name}"] = ", ".join(f"{name} {limit}" for name, limit in sorted(budget.limits.items()))
    return {**told, "road": road}


def prepared(request: Request, variants: Sequence[Variant], folder: Path) -> tuple[preparing.Run, list[Budget]]:
    """The prune to the tightest budget, not begun, and the budgets of all variants.

    Raises what ``pruning.prune`` raises; BudgetError names the variant.
    """
    original = network.load(
        request.model, input_shapes=request.input_shapes, outputs=request.outputs, accept=ops.accept(request.model)
    )
    own = resources.profile(original, request.basis).used(request.basis)
    budgets = [resources.budget(variant.limits, own) for variant in variants]
    tightness = [sum(np.log(min(1.0, limit / max(1, own[name]))) for name, limit in b.limits.items()) for b in budgets]
    tightest = int(np.argmin(tightness))
    channels = label(folding.as_restored(canonical(original)[0]))
    for variant, budget in zip(variants, budgets, strict=True):
        try:
            preparing.cost_model(channels.network, request, budget, None)
        except BudgetError as error:
            raise BudgetError(f"variant {variant.name}: {error}") from None
    asked = replace(request, limits=variants[tightest].limits, output=str(folder / TRAINING), report=None)
    return preparing.prepared(asked, None, request.data, None), budgets


def _family(request: Request, variants: Sequence[Variant], folder: Path) -> Family:
    """Read, check and measure everything that the work needs."""
    run, budgets = prepared(request, variants, folder)
    if not run.request.train or run.goal is None:
        raise UsageError(
            f"{request.model}: holds every budget as it is, and comes trained: there is nothing to make; give smaller "
            "limits, or --epochs to train it all the same"
        )
    schedule, macs_of_one = _schedule(run)
    return Family(run, run.goal, variants, budgets, schedule, macs_of_one, folder)


def _schedule(run: preparing.Run) -> tuple[Schedule, int | None]:
    """How long to train the family, and the cost of one training of the whole network that is as long."""
    assert run.data is not None
    request, n = run.request, len(run.data.train)
    schedule = schedule_for(request, n, warm=run.warm)
    epoch = max(1, n // schedule.batch) * schedule.batch * run.before.total["macs"]
    if schedule.train_compute is not None:
        plain = schedule.train_compute
        if not long_as_asked(request):
            schedule = replace(schedule, train_compute=_COST * plain)
        return schedule, round(plain * epoch)
    if schedule.milliseconds is not None:
        return schedule, None
    return schedule, (schedule.epochs + schedule.quant_epochs) * epoch


def nested(family: Family, record: pruning.Record) -> tuple[Sequence[Candidate], Mapping[str, int]]:
    """Train nested networks."""
    from mcuprune.train import loop, narrowing
    from mcuprune.train.module import Trainable
    from mcuprune.train.nested import FamilyTrainer, Nested, Plan
    from mcuprune.train.trainer import reestimated, trainer_for

    run, request, data = family.run, family.request, family.data
    examples = preparing.calibration_examples(data, request.seed)
    normal = narrowing.normalized(run.labelled, examples, request.device)
    models = [preparing.cost_model(normal, request, budget, None) for budget in family.budgets]
    task = task_of(family, models[0], record.checkpoint)
    trainer = trainer_for(task, task.channels, FamilyTrainer)
    hooks = Nested(task, Plan(models, family.budgets))
    loop.train(trainer, hooks, data.val, record, record.checkpoint)
    macs, full = trainer.training_macs, run.before.total["macs"] * trainer.batch * trainer.step
    notes = (*trainer.notes, *narrowing.untrained(Trainable(run.labelled)))
    candidates = [
        Candidate(
            reestimated(part, examples, family.schedule.batch, request.device),
            keep,
            macs,
            full,
            0,
            notes,
            trainer.taught,
            steps=trainer.step,
        )
        for part, keep in zip(hooks.networks(trainer), hooks.keeps, strict=True)
    ]
    return candidates, {"training_macs": macs, "full_training_macs": full}


def task_of(family: Family, model: CostModel, checkpoint: Checkpoint) -> Task:
    """What the training of a family has to do with its networks, whichever way they come about."""
    task = preparing.task_of(family.run, model, checkpoint)
    return replace(task, budget=family.budgets[0], data=family.data, schedule=family.schedule)


def _quantization_steps(family: Family, candidates: Sequence[Candidate]) -> list[Schedule]:
    """The schedule of each variant's fake-quant training: the same number of steps, within the family's share of the whole."""
    macs = [sum(layer.macs for layer in resources.profile(c.channels.network).layers) for c in candidates]
    whole = max(1, sum(macs))
    return [replace(family.schedule, quant_share=family.schedule.quant_share * own / whole) for own in macs]


def _written(
    family: Family, index: int, candidate: Candidate, state: Checkpoint, schedule: Schedule, record: pruning.Record
) -> tuple[dict[str, Any], Mapping[str, int]]:
    """Quantise a variant, write it, and measure the file: its entry, and what its fake-quant training cost."""
    variant, path = family.variants[index], family.folder / f"{family.variants[index].name}.onnx"
    if (done := state.load("done")) is not None and path.is_file():
        entry, cost = done.values["entry"], done.values["cost"]
        if entry["files"][path.name] == manifest.digest(path):
            return entry, cost
    small = folding.folded(candidate.channels.network)
    of_float, learned = preparing.figure(small, family.goal, f"{variant.name} after cutting")
    candidate = replace(candidate, channels=label(small))
    final, after = _quantized(
        family, candidate, state, schedule, lambda step: record(replace(step, phase=f"int8 {variant.name}"))
    )
    pruning.with_preprocessing(final, family.data).save(str(path))
    entry = manifest.measured(path, variant.name, family.budgets[index], family.request.basis, family.goal, of_float)
    entry["groups"] = _groups(family.run.labelled, candidate.keep)
    entry["notes"] += [note for note in after.notes if note not in candidate.notes]
    if note := learned_nothing(family.goal, of_float, learned):
        entry["notes"].append(note)
    cost = {name: getattr(after, name) - getattr(candidate, name) for name in ("training_macs", "full_training_macs")}
    state.save("done", {}, {"entry": entry, "cost": cost})
    return entry, cost


def _quantized(
    family: Family, candidate: Candidate, state: Checkpoint, schedule: Schedule, on_step: OnStep
) -> tuple[network.Network, Candidate]:
    from mcuprune.train import quantizing

    run, request = family.run, family.request
    how = quantizing.Quantization(
        quantizing.calibration(run.labelled, run.original, family.data, request.seed),
        request.weight_bits,
        request.device,
        request.seed,
        data=family.data,
        schedule=schedule,
        objective=family.goal.objective,
        answers=run.teacher,
        basis=request.basis,
        full_macs=run.before.total["macs"],
        checkpoint=state,
    )
    done = quantizing.quantize(candidate, how, on_step)
    return done.network, done.candidate


def _groups(channels: Channels, keep: np.ndarray) -> list[dict[str, Any]]:
    """Widths of all groups before and after, and the channels that stayed. keep: over the components of ``channels``."""
    kept = channels.kept(keep)
    return [{"name": g.name, "before": len(g), "after": len(kept[g.name]), "kept": list(kept[g.name])} for g in channels.groups]
