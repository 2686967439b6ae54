"""What a network as a whole is trained towards and measured by: the kinds of its outputs, and a loss of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mcuprune.data.sets import Column
from mcuprune.errors import UsageError
from mcuprune.graph.network import Network
from mcuprune.immutable import immutable
from mcuprune.train.tasks.classify import Classify
from mcuprune.train.tasks.heads import Head, heads
from mcuprune.train.tasks.kind import Array, Kind
from mcuprune.train.tasks.metrics import Metric, Tally, several
from mcuprune.train.tasks.own import OwnLoss

if TYPE_CHECKING:
    from torch import Tensor


@immutable
class Objective:
    """kinds: one for each output of the network. own: a loss of the user's in place of the kinds'."""

    kinds: tuple[Kind, ...]
    own: OwnLoss | None = None

    @property
    def task(self) -> str:
        """The name of the task, as of ``--task``: that of all outputs, or "several"."""
        names = {kind.name for kind in self.kinds}
        return names.pop() if len(names) == 1 else "several"

    @property
    def title(self) -> str:
        """What the report calls the task."""
        return ", ".join(dict.fromkeys(kind.title for kind in self.kinds))

    @property
    def moves(self) -> bool:
        """Whether an answer has places that move with those of the input."""
        return any(kind.moves for kind in self.kinds)

    @property
    def taught_only(self) -> bool:
        """Whether there is nothing to learn from but a teacher."""
        return any(kind.name == "distill" for kind in self.kinds)

    def begun(self, net: Network) -> Network:
        """An untrained network as training is to begin with it."""
        for kind in self.kinds:
            net = kind.begun(net)
        return net

    def units(self, net: Network) -> dict[str, Array]:
        """By name of a constant what is 1 to its training; 1 for all others."""
        units = dict[str, Array]()
        for kind in self.kinds:  # of several outputs of one layer each has the units of its own
            units |= {name: unit * units.get(name, 1) for name, unit in kind.units(net).items()}
        return units

    def answers(self, outputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What a module that wants the answers of ``heads`` gave, each in the shape that losses take."""
        return tuple(kind.shaped(output) for kind, output in zip(self.kinds, outputs, strict=True))

    @property
    def heads(self) -> tuple[Head, ...]:
        """The outputs, as losses are taken of them."""
        return tuple(kind.head for kind in self.kinds)

    def loss(self, answers: Sequence[Tensor], targets: Sequence[Tensor], smoothing: float = 0.0) -> Tensor:
        """The mean loss of a batch over outputs."""
        if self.own is not None:
            return self.own(answers, targets)
        each = [kind.loss(a, t, smoothing) for kind, a, t in zip(self.kinds, answers, targets, strict=True)]
        return _mean(each)

    def teach(self, answers: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """The mean loss of a batch against a teacher's answers, over outputs."""
        return _mean([kind.teach(a, t) for kind, a, t in zip(self.kinds, answers, teacher, strict=True)])

    def misses(self, answers: Sequence[Tensor], targets: Sequence[Tensor]) -> float:
        """How wrong a batch is, summed over examples and outputs."""
        return sum(kind.misses(a, t) for kind, a, t in zip(self.kinds, answers, targets, strict=True))

    def tallies(self) -> list[Tally]:
        """New tallies, one for each output."""
        return [kind.tally() for kind in self.kinds]

    def count(self, tallies: Sequence[Tally], outputs: Sequence[Array], targets: Sequence[Array]) -> None:
        """Take a batch into tallies. outputs: as the file gives them. targets: as of ``taken``."""
        for kind, tally, output, target in zip(self.kinds, tallies, outputs, targets, strict=True):
            tally.add(kind.measured(output), kind.truth(target))

    def metric(self, tallies: Sequence[Tally]) -> Metric:
        """The figure of all that was counted."""
        return several({kind.head.output: tally.metric() for kind, tally in zip(self.kinds, tallies, strict=True)})


def _mean(losses: Sequence[Tensor]) -> Tensor:
    return losses[0] if len(losses) == 1 else sum(losses[1:], losses[0]) / len(losses)


def classification(net: Network) -> Objective:
    """The objective of a classifier: its first output names one class."""
    return Objective((Classify(heads(net)[0]),))


def refuse_moving(objective: Objective, augment: str | None) -> None:
    """Raise UsageError for varied inputs whose targets would have to be varied alike."""
    geometric = [part for part in (augment or "").split(",") if part.strip().startswith(("flip", "crop", "shift"))]
    if objective.moves and not objective.taught_only and geometric:
        raise UsageError(
            f"--augment {','.join(geometric)}: moves what is in an input, but not the targets of {objective.title}; leave it "
            "out (noise0.1 goes), vary data and targets before they come here, or distil: --unlabelled"
        )


def first(arrays: Sequence[Column], count: int) -> list[np.ndarray]:
    """The first examples of arrays that are indexed by an array of integers."""
    return [np.asarray(array[np.arange(min(count, len(array)))]) for array in arrays]
