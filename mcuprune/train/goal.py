"""Data and task of a run together: which targets there are, what the network is to do with them, and what they are made of.

Without targets the network as it came gives them: what it answers to the examples that validate and test, in onnxruntime.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from mcuprune.data.arrays import array_of, labels
from mcuprune.data.fitting import TargetCheck
from mcuprune.data.sets import Data, Split
from mcuprune.errors import DataError, UsageError
from mcuprune.graph.network import Network
from mcuprune.immutable import immutable
from mcuprune.options import AUTO
from mcuprune.train import evaluate
from mcuprune.train.tasks.choice import chosen, distilled
from mcuprune.train.tasks.classify import Classify
from mcuprune.train.tasks.heads import Head, before_steps, heads, recognised
from mcuprune.train.tasks.objective import Objective, first, refuse_moving
from mcuprune.train.tasks.own import OwnLoss

#: Examples on which it is looked at what an output's values are.
_LOOKED_AT = 32


@immutable
class Goal:
    """data: with the targets that losses and figures take; those to train on are missing where the network teaches itself.

    labelled: whether the targets are the data's own.
    """

    data: Data
    objective: Objective
    labelled: bool


def target_checks(net: Network, task: str) -> tuple[TargetCheck, ...]:
    """The first check of each output's targets, as they are read: labels of a classifier by its classes, others as they are."""
    return tuple(_check(head, task) for head in heads(net))


def _check(head: Head, task: str) -> TargetCheck:
    def check(where: str, name: str, values: Any) -> np.ndarray[Any, Any]:
        array = array_of(where, name, values, kinds="fiub", wanted="plain numbers")
        if head.is_row and task in (AUTO, "classify") and not _several_or_numbers(head, array, task):
            return labels(where, name, values, prod(head.shape))
        return array

    return check


def _several_or_numbers(head: Head, targets: np.ndarray[Any, Any], task: str) -> bool:
    """Whether targets of a row are several labels at once, or numbers, which have the row's own shape."""
    if prod(targets.shape[1:]) != prod(head.shape):
        return False
    ones = bool(((targets == 0) | (targets == 1)).all())
    if ones:
        return not (targets.reshape(len(targets), -1).sum(1, dtype=np.int64) == 1).all()
    return task == AUTO


def goal(
    net: Network,
    data: Data,
    *,
    task: str,
    unlabelled: bool,
    training: bool = True,
    augment: str | None = None,
    own: OwnLoss | None = None,
) -> Goal:
    """What a network is to do with a data set. Raises DataError where its targets don't go with the outputs.

    training: whether it is to be trained, so that its outputs must move with what they are made of.
    """
    model = evaluate.Model(bytes(net.to_proto().SerializeToString()), "default", name=net.path)
    few = model.outputs(first(data.val.inputs, _LOOKED_AT))
    kinds = recognised(heads(net), few)
    splits = {"train": data.train, "val": data.val, "test": data.test}
    bare = [name for name, split in splits.items() if split.targets is None]
    if training or not (unlabelled or task == "distill" or len(bare) == len(splits)):
        _refuse_steps(net, kinds, training=training)
    if not (unlabelled or task == "distill"):
        _refuse_missing(data.name, bare, [name for name in splits if name not in bare], task)
    if bare or unlabelled or task == "distill":
        if own is not None:
            raise UsageError(f"--loss-function {own.spec}: needs targets, and here the network teaches itself")
        if data.mixup:
            raise UsageError("--augment mixup: mixes labels, and here the network teaches itself; leave it out")
        objective = distilled(kinds, task, own)
        val, test = (Split(split.inputs, model.outputs(split.inputs)) for split in (data.val, data.test))
        return Goal(replace(data, train=Split(data.train.inputs), val=val, test=test), objective, False)
    targets = {name: [np.asarray(column) for column in split.targets or ()] for name, split in splits.items()}
    objective, taken = chosen(net, kinds, task, data.name, targets, own)
    refuse_moving(objective, augment)
    _refuse_miscounted(data, _classes(objective))
    train, val, test = (Split(split.inputs, taken[name]) for name, split in splits.items())
    return Goal(replace(data, train=train, val=val, test=test, n_classes=_classes(objective)), objective, True)


def _refuse_steps(net: Network, kinds: Sequence[Head], *, training: bool) -> None:
    """Raise DataError for outputs of whole numbers or truth values: no loss of them has a gradient."""
    stepped = [head.output for head in kinds if head.ending == "steps"]
    if not stepped:
        return
    before = dict.fromkeys(before_steps(net, head.output) for head in kinds)
    names = ",".join(name for name in before if name is not None)
    others = "" if training else ", or leave the targets aside with --unlabelled"
    raise DataError(
        f"{net.path}: output '{stepped[0]}' goes in steps (whole numbers, truth values or a threshold), so that nothing can be "
        f"learned through it and no score is measured by it; end the network before it: --outputs {names or 'NAME,...'}{others}"
    )


def _refuse_missing(where: str, bare: Sequence[str], others: Sequence[str], task: str) -> None:
    """Raise DataError where labels are missing by a slip, it seems, and nobody said that the network is to teach itself.

    bare: parts without labels; others: parts with them.
    """
    teach = "or let the model teach itself by its own answers: --unlabelled"
    if bare and others:
        raise DataError(
            f"{where}: {' and '.join(bare)} without labels, {' and '.join(others)} with them; give all labels, {teach}"
        )
    if bare and task != AUTO:
        raise DataError(f"{where}: has no labels, and --task {task} is asked for; give labels, {teach}")


def _refuse_miscounted(data: Data, count: int) -> None:
    """Raise DataError for names of classes that aren't as many as the classes: firmware would read beyond the last."""
    if data.classes and count and len(data.classes) != count:
        listed = ", ".join(data.classes[:5]) + (", ..." if len(data.classes) > 5 else "")
        raise DataError(
            f"{data.name}: {len(data.classes)} classes have names ({listed}), and the model tells {count} apart; give one name "
            "for each, in their order, in a file with --classes, or a model with as many outputs"
        )


def _classes(objective: Objective) -> int:
    kind = objective.kinds[0]
    return kind.classes if isinstance(kind, Classify) else 0


def try_loss(aim: Goal) -> None:
    """Call a loss of the user's once, on answers by chance, before the work. Raises UsageError for what it does wrong."""
    objective, split = aim.objective, aim.data.val
    if objective.own is None or split.targets is None:
        return
    import torch

    count = min(8, len(split))
    draw = torch.Generator().manual_seed(0)
    answers = [torch.randn((count, *kind.head.shape), generator=draw).requires_grad_() for kind in objective.kinds]
    targets = [torch.from_numpy(array) for array in first(split.targets, count)]
    shaped = [kind.shaped(answer) for kind, answer in zip(objective.kinds, answers, strict=True)]
    value = objective.own(shaped, targets)
    if not torch.isfinite(value):
        raise UsageError(f"--loss-function {objective.own.spec}: gives {value.item()} on the first examples; it must be finite")


def is_one_class(objective: Objective) -> bool:
    """Whether the task is to name one class for an example, which confusion matrices and causes of wrong feeding are about."""
    return len(objective.kinds) == 1 and type(objective.kinds[0]) is Classify and objective.kinds[0].form == "one"


def is_class_or_none(objective: Objective) -> bool:
    """Whether the task is to name one class for an example, or to say whether it is of one: what accuracy measures."""
    (kind, *others) = objective.kinds
    return not others and type(kind) is Classify and kind.form != "labels"


def varied_by_default(net: Network) -> bool:
    """Whether examples may be varied where nobody says how: what moves in them moves in no answer, and there is one input."""
    return len(net.inputs) == 1 and all(head.is_row or head.is_single for head in heads(net))


def refuse_augmenting_several(net: Network, augment: str | None) -> None:
    """Raise DataError for varied examples of several inputs: nobody knows which of them have to move together."""
    if augment and len(net.inputs) > 1:
        raise DataError(f"{net.path}: --augment varies one input, and this network has {', '.join(net.inputs)}; leave it out")
