"""The road of networks that are left when weights vanish, to compare with nested ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mcuprune import preparing, pruning
from mcuprune.channels.labelling import Channels, label
from mcuprune.costs import resources
from mcuprune.portfolio.nested import Family, task_of
from mcuprune.train.task import Candidate


def sparse(family: Family, record: pruning.Record) -> tuple[Sequence[Candidate], Mapping[str, int]]:
    """Train one network whose weights vanish, and take from it what first holds each budget; where nothing did, the last."""
    from mcuprune.train import loop, narrowing
    from mcuprune.train.sparse import Sparse
    from mcuprune.train.trainer import trainer_for

    run, request, data = family.run, family.request, family.data
    examples = preparing.calibration_examples(data, request.seed)
    normal = narrowing.normalized(run.labelled, examples, request.device)
    task = task_of(family, preparing.cost_model(normal, request, family.budgets[0], None), record.checkpoint)
    trainer = trainer_for(task, task.channels)
    hooks = Sparse(task, family.budgets, examples)
    loop.train(trainer, hooks, data.val, record, record.checkpoint)
    last = hooks.snapshot(trainer)
    macs, full = trainer.training_macs, run.before.total["macs"] * trainer.batch * trainer.step
    candidates = []
    for variant, caught in zip(family.variants, hooks.caught, strict=True):
        taken = caught or last
        left = resources.profile(taken.network).total["params"]
        note = (
            f"{variant.name}: at a sparsity of {taken.sparsity:.1%}, {left} parameters are physically left of "
            f"{run.before.total['params']}"
            + ("" if caught else "; no sparsity on the way emptied enough channels for its budget")
        )
        keep = _selection(run.labelled, taken.kept)
        candidates.append(
            Candidate(label(taken.network), keep, macs, full, 0, (*trainer.notes, note), trainer.taught, steps=trainer.step)
        )
    return candidates, {"training_macs": macs, "full_training_macs": full}


def _selection(channels: Channels, kept: Mapping[str, Sequence[int]]) -> np.ndarray:
    """The selection that keeps these channels: bool (components + 1,). kept: indices by the names of groups."""
    keep = channels.keep_all()
    for group in channels.groups:
        stay = set(kept.get(group.name, range(len(group))))
        keep[[component for index, component in enumerate(group.components) if index not in stay]] = False
    return keep
