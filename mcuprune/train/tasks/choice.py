"""Which task it is: what was asked for, or what outputs and targets say together. Refuses before the work what doesn't fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from mcuprune.errors import DataError
from mcuprune.graph.network import Network
from mcuprune.options import AUTO
from mcuprune.train.tasks import TASKS
from mcuprune.train.tasks.distill import Distill
from mcuprune.train.tasks.heads import Head
from mcuprune.train.tasks.kind import Array, Kind
from mcuprune.train.tasks.objective import Objective
from mcuprune.train.tasks.own import OwnLoss

#: By how much the shares of all classes may miss 1.
_SHARES = 1e-3
#: Of ``--task``.
NAMES = (AUTO, *TASKS)


def distilled(heads: Sequence[Head], task: str = AUTO, own: OwnLoss | None = None) -> Objective:
    """The objective without targets: the network's own answers. task: what the user says its outputs are."""
    return Objective(tuple(Distill(head, alone=len(heads) == 1, task=task) for head in heads), own)


def chosen(
    net: Network,
    heads: Sequence[Head],
    task: str,
    where: str,
    targets: Mapping[str, Sequence[Array]],
    own: OwnLoss | None = None,
) -> tuple[Objective, dict[str, list[Array]]]:
    """The objective of these targets, and the targets as its losses take them.

    heads: the network's, with what their values tell. where: what messages call the data. targets: of each split, such as
    "train", one array (examples, ...) for each output. Raises DataError for targets that don't go with the outputs.
    """
    for split, arrays in targets.items():
        if len(arrays) != len(heads):
            raise DataError(
                f"{where}: {split} has targets for {len(arrays)} output(s), the model has {len(heads)} "
                f"({', '.join(head.output for head in heads[:8])}); give one array for each in this order, or let the model "
                "teach itself without them: --unlabelled"
            )
    kinds, taken = [], {split: list[Array]() for split in targets}
    for index, head in enumerate(heads):
        of_output = {split: np.asarray(arrays[index]) for split, arrays in targets.items()}
        label = "" if len(heads) == 1 else f" of output '{head.output}'"
        kind = _kind(net, head, task, f"{where}: the targets{label}", of_output)
        every = _taken(kind, where, label, of_output)
        kind.check(f"{where}: the targets{label}", list(every.values()))
        for split, array in every.items():
            taken[split].append(array)
        kind.prepare(taken["train"][-1] if "train" in taken else next(iter(taken.values()))[-1])
        kinds.append(kind)
    return Objective(tuple(kinds), own), taken


def _taken(kind: Kind, where: str, label: str, targets: Mapping[str, Array]) -> dict[str, Array]:
    """Targets of every split as the loss takes them, in one form: what one of them shows, holds for all."""

    def every() -> dict[str, Array]:
        return {split: kind.taken(f"{where}: y_{split}{label}", array) for split, array in targets.items()}

    before = kind.title
    taken = every()
    return taken if kind.title == before else every()


def _refuse_unclear(head: Head, where: str, targets: Sequence[Array]) -> None:
    """Refuse targets that could be numbers, and are more likely classes in a form that no loss here takes."""
    numbers = [array.reshape(len(array), -1) for array in targets if array.dtype.kind in "fiu" and array.size]
    if len(numbers) < len(targets) or head.ending not in ("none", "softmax"):
        return
    if head.is_single and all(np.array_equal(np.unique(array), (-1, 1)) for array in numbers):
        raise DataError(
            f"{where} are -1 and 1; a yes or no is 0 or 1 here: y = (y + 1) // 2, or give --task regress to fit the numbers"
        )
    shares = all(
        array.shape[1:] == (prod(head.shape),) and array.min() >= 0 and np.abs(array.sum(1) - 1).max() < _SHARES
        for array in numbers
    )
    if head.is_row and shares and not all(np.isin(array, (0, 1)).all() for array in numbers):
        raise DataError(
            f"{where} are shares of classes, rows that sum to 1; a loss here takes one class: y = y.argmax(1), or give "
            "--task regress to fit the shares themselves, of a network that ends in Softmax"
        )


def _kind(net: Network, head: Head, task: str, where: str, targets: Mapping[str, Array]) -> Kind:
    """The kind of one output. Raises DataError where what was asked for, or anything, doesn't fit."""
    everything = list(targets.values())
    if task != AUTO:
        reasons = [reason for array in everything if (reason := TASKS[task].fits(head, array)) is not None]
        if reasons and task == "segment":
            raise DataError(f"{where}: --task {task} doesn't fit {net.path}: {reasons[0]}")
        if reasons and not (head.is_row or head.is_single) and task == "classify":
            raise DataError(f"{where}: --task {task} doesn't fit {net.path}: {reasons[0]}; --task segment, perhaps")
        return TASKS[task].for_targets(head, everything)
    _refuse_unclear(head, where, everything)
    reasons = []
    for name, kind in TASKS.items():
        why = next((reason for array in everything if (reason := kind.fits(head, array)) is not None), None)
        if why is None and name != "distill":
            return kind.for_targets(head, everything)
        if name != "distill":
            reasons.append(f"{name}: {why}")
    if head.is_row and all(np.asarray(array).ndim <= 2 for array in everything):
        return TASKS["classify"](head)  # which says best what is wrong with labels
    raise DataError(
        f"{where} fit no task that the model's output '{head.output}' {list(head.shape)} has ({'; '.join(reasons)}); "
        "mend them, or leave them out: --unlabelled"
    )
