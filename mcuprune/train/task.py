"""What goes into a pruning method and what comes out of it. Plain data, no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mcuprune.channels.labelling import Channels
from mcuprune.costs.resources import Budget, CostModel
from mcuprune.costs.sensitivity import Sensitivity
from mcuprune.data.sets import Data
from mcuprune.immutable import immutable
from mcuprune.train.checkpoint import Checkpoint
from mcuprune.train.length import Length
from mcuprune.train.tasks.objective import Objective

if TYPE_CHECKING:
    from mcuprune.graph.network import Network
    from mcuprune.train.teacher import Teacher

#: What training goes through: the network as it is, where that is to teach; pruning; fake-quant training.
Stage = Literal["whole", "float", "quantize"]
#: A short run updates its widths oftener than it was asked to: at least so many times on the way to the budget.
UPDATES = 20


@immutable
class Schedule:
    """How long and how fast to train.

    epochs: of the float network, pruning included. quant_epochs: of fake-quant training after it. Both 0 where one of these
        says how long instead:
    train_compute: so many epochs of plain full-width training could be had for the multiply-accumulates of the whole run.
    milliseconds: of training, in the whole run.
    quant_share: of either, for fake-quant training.
    whole: this part of float training comes first, on the network as it is, which then teaches, beside the targets, what is
        pruned out of it in the rest, of which ``prune_start`` and ``prune_stop`` are parts. 0: there is no such part.
    patience: after so many evaluations in a row without improvement float training ends; None for never.
    small_images: for this first part of float training images are smaller (``smaller``); 0 for never.
    batch: examples a step. lr: the optimizer's peak learning rate. prune_every: steps between two updates of the widths.
    prune_start, prune_stop: between these parts of all float steps the network falls to its budget; where both are 0, it does
        before the first step.
    freeze: whether channels are chosen for good once the budget holds; if not, they follow salience for a while.
    label_smoothing: the part of each label that is spread over all classes.
    """

    epochs: int
    quant_epochs: int
    batch: int
    lr: float
    weight_decay: float = 5e-4
    optimizer: str = "muon"
    prune_every: int = 20
    prune_start: float = 0.05
    prune_stop: float = 0.3
    freeze: bool = True
    label_smoothing: float = 0.0
    train_compute: float | None = None
    milliseconds: int | None = None
    quant_share: float = 0.0
    whole: float = 0.0
    patience: int | None = None
    small_images: float = 0.0

    def length(self, per_epoch: int, full_epoch: int, stage: Stage = "float") -> Length:
        """How long a stage of the training lasts.

        per_epoch: steps of an epoch. full_epoch: multiply-accumulates of an epoch at full width.
        """
        parts = {"whole": self.whole, "float": 1 - self.whole, "quantize": 1.0}
        share = parts[stage] * (self.quant_share if stage == "quantize" else 1 - self.quant_share)
        if self.train_compute is not None:
            return Length("macs", round(share * self.train_compute * full_epoch))
        if self.milliseconds is not None:
            return Length("milliseconds", round(share * self.milliseconds))
        epochs = self.quant_epochs if stage == "quantize" else self.epochs
        return Length("steps", round(parts[stage] * epochs) * per_epoch)

    def window(self, total: int) -> tuple[int, int]:
        """Between which two of ``total`` float steps, or units of any length, the network falls to its budget."""
        first = int(self.prune_start * total)
        return first, max(first + 1, int(self.prune_stop * total))

    def updates(self, total: int) -> int:
        """Steps between two updates of the widths: ``prune_every``, or fewer where ``total`` float steps are few."""
        first, last = self.window(total)
        return max(1, min(self.prune_every, (last - first) // UPDATES))


#: What leads the widths, how several violated resources are taken, and where the method departs from the paper: its own way
#: first. What each means stands at ``Search``.
LOSSES = ("both", "task", "resource")
OBJECTIVES = ("random", "sum")
#: How channels are scored before any training; ``scores.RATINGS`` has what they mean.
SCORES = ("synflow", "snip", "grasp", "magnitude", "random")
PACES = ("schedule", "rate")
#: In which layers are computed in float training; the first without being asked.
PRECISIONS = ("float32", "bfloat16")
FEEDBACKS = ("mean", "each")
FLOORS = ("uniform", "one")
SLACKS = ("grow", "leave")
CUTS = ("on-the-way", "at-end")


@immutable
class Search:
    """What leads the widths.

    loss: those of the resources and of the task, or one kind alone. objectives: of several resources above their targets one
    by chance at a time (random scalarisation, Eq. 2), or the sum of all.
    score: of ``SCORES``, for what is cut before any training.
    pace: the gradients give the direction and a schedule the length of each update, or multipliers fall at a fixed learning
    rate, ``rate``, as in appendix A.
    feedback: the task gradient counts as a running mean over updates, or each time for itself.
    floor: no multiplier falls below half of what uniform scaling would leave it, or all may fall to one channel.
    slack: what whole widths leave of the budget is grown into, or left.
    cut: channels go physically on the way, or all at once when they are final; until then masks follow salience.
    """

    loss: str = "both"
    objectives: str = "random"
    score: str = SCORES[0]
    pace: str = PACES[0]
    rate: float = 1.0
    feedback: str = FEEDBACKS[0]
    floor: str = FLOORS[0]
    slack: str = SLACKS[0]
    cut: str = CUTS[0]


#: By name, what a recipe decides where the user doesn't: fields of a request.
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "paper": {
        "pace": "rate",
        "feedback": "each",
        "floor": "one",
        "slack": "leave",
        "cut": "at-end",
        "freeze_at_budget": False,
        "prune_start": 0.0,
        "prune_stop": 1.0,
    },
}


@immutable
class Step:
    """One line of a run's history. score, on the validation examples, is None between evaluations.

    score: the figure of the task (``tasks.metrics``). better: whether higher or lower ones are. accuracy: of a classifier the
    share of right classes.
    step, epoch: counted through the whole run. epochs: how many there are by the end of this phase.
    waited: the share of the time of this phase, so far, that training stood still for want of data.
    training_macs: forward multiply-accumulates of all training steps so far.
    share: how much of this phase is over, where it is not a number of epochs that was asked for.
    costs: by the names of ``resources.RESOURCES``, what the network costs at the widths of that step, in base units.
    widths: channels of each group at that step, in the order of the groups; None where they don't change any more.
    """

    step: int
    epoch: float
    loss: float
    costs: Mapping[str, int]
    accuracy: float | None = None
    phase: str = "train"
    epochs: float = 0.0
    score: float | None = None
    training_macs: int = 0
    share: float | None = None
    waited: float | None = field(default=None, compare=False)
    widths: Sequence[int] | None = None
    better: str = "higher"

    @property
    def merit(self) -> float:
        """The score so that higher is better, of a line that has one."""
        assert self.score is not None
        return self.score if self.better == "higher" else -self.score


OnStep = Callable[[Step], None]


@immutable
class Task:
    """All that a method may know.

    channels: the labelled network to prune, BatchNormalization restored. model: its costs as functions of widths.
    Feasible widths exist: whoever makes a Task has checked.
    multiple_of: widths are multiples of it, or full.
    search: what leads the widths: gradients, which only the differentiable method has, or scores.
    trained: whether the network comes trained.
    objective: what the network is trained towards; None: to name the class.
    answers: a teacher, or its answers to every training example, such as logits, float32 (examples, classes), which the network
    learns beside the targets for as long as the teacher knows more than it; None for targets alone.
    device: what torch calls the place to train on. precision: of PRECISIONS.
    checkpoint: where to keep the run's state after every epoch, and to look for that of an interrupted one.
    """

    channels: Channels
    model: CostModel
    budget: Budget
    data: Data
    schedule: Schedule
    seed: int
    multiple_of: int = 1
    search: Search = Search()
    trained: bool = False
    checkpoint: Checkpoint | None = None
    objective: Objective | None = None
    answers: np.ndarray | Teacher | None = None
    device: str = "cpu"
    precision: str = PRECISIONS[0]


@immutable
class Candidate:
    """A pruned and trained float network.

    keep: the selection it is, over the components of the task's channels. channels: the cut network, labelled.
    steps: that it was trained for; settled: those since its last cut. taught: whether to the end it learned from a teacher too.
    training_macs: forward multiply-accumulates of every training step, which a teacher's one look at the data is no part of,
        nor are the batches that the task gradient is taken on; full_training_macs: the same steps at full width and full size.
    notes: what the user should know about how it came about. sensitivity: of the groups, where it was measured.
    teacher: the network that was trained whole first and taught this one; None where none was.
    schedule: as it came to be followed, where that isn't quite as planned.
    """

    channels: Channels
    keep: np.ndarray
    training_macs: int
    full_training_macs: int
    settled: int
    notes: tuple[str, ...] = ()
    taught: bool = False
    sensitivity: Sensitivity | None = None
    steps: int = 0
    teacher: Network | None = None
    schedule: Schedule | None = None


class History:
    """Steps as they come, for whoever wants them later."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def __call__(self, step: Step) -> None:
        """One line a step: where an epoch ends with an update, the line that has the accuracy too."""
        if self.steps and self.steps[-1].step == step.step:
            self.steps.pop()
        self.steps.append(step)

    def document(self) -> list[dict[str, Any]]:
        """The steps as JSON values."""
        return [asdict(step) for step in self.steps]

    def take_up(self, document: list[dict[str, Any]]) -> None:
        """Start with the steps of an earlier ``document``."""
        self.steps = [Step(**step) for step in document]
