"""What one output of a network is trained towards and measured by: the face of a kind of task.

A kind is made for one output. It says which targets it takes, what loss they give, what a teacher's answer teaches, how wrong
an answer is, and by what the output is measured. Nothing here imports torch at once: what can be refused is refused without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from mcuprune.errors import DataError
from mcuprune.graph.network import Network
from mcuprune.train.tasks.heads import Head
from mcuprune.train.tasks.metrics import Metric, Tally

if TYPE_CHECKING:
    from torch import Tensor

Array = np.ndarray[Any, Any]

#: Of teachers' answers (Hinton et al. 2015, section 2).
TEMPERATURE = 2.0
#: No probability is taken for smaller than this: its logarithm would be all that a loss sees.
_LEAST = 1e-6


class Kind(ABC):
    """The task of one output.

    name: of ``--task``. title: what the report calls it. moves: whether an answer has places that move with those of the input,
    so that mirroring or shifting an input changes its answer.
    """

    name: ClassVar[str]
    title: str
    moves: bool = False

    def __init__(self, head: Head) -> None:
        self.head = head

    @classmethod
    @abstractmethod
    def fits(cls, head: Head, targets: Array) -> str | None:
        """Why these targets aren't of this kind for this output; None where they are. Decides what ``--task auto`` takes."""

    @classmethod
    def for_targets(cls, head: Head, targets: Sequence[Array]) -> Self:
        """The kind for this output, by what targets that fit say of it. targets: of every split."""
        return cls(head)

    @abstractmethod
    def taken(self, where: str, targets: Array) -> Array:
        """Targets (examples, ...) as the loss takes them. Raises DataError, beginning with ``where``, for what it can't."""

    def check(self, where: str, targets: Sequence[Array]) -> None:  # noqa: B027 (most kinds have nothing to doubt)
        """Raise DataError, beginning with ``where``, for targets of all splits, as taken, that can't be meant so."""

    def prepare(self, targets: Array) -> None:  # noqa: B027 (most kinds need not look)
        """See all targets to train on, once, before any loss is taken."""

    def begun(self, net: Network) -> Network:
        """An untrained network as training is to begin with it, once ``prepare`` has seen the targets."""
        return net

    def units(self, net: Network) -> dict[str, Array]:
        """By name of a constant what is 1 to its training, in a shape that meets the constant's; 1 for all others."""
        return {}

    @abstractmethod
    def loss(self, answer: Tensor, target: Tensor, smoothing: float) -> Tensor:
        """The mean loss of a batch. answer: of ``head.tensor``, as ``shaped`` gives it. target: of ``taken``."""

    @abstractmethod
    def teach(self, answer: Tensor, teacher: Tensor) -> Tensor:
        """The mean loss of a batch against a teacher's answers, of the same tensor and shape."""

    @abstractmethod
    def misses(self, answer: Tensor, target: Tensor) -> float:
        """How wrong a batch of answers is, summed over its examples: 0 for all right."""

    @abstractmethod
    def output(self, answer: Tensor) -> Tensor:
        """The output, up to what measuring doesn't need, from an answer of ``head.tensor``."""

    def truth(self, target: Array) -> Array:
        """What ``measured`` compares outputs with, from a target of ``taken``."""
        return target

    @abstractmethod
    def tally(self) -> Tally:
        """A new tally of outputs as the file gives them, against ``truth``."""

    def measured(self, outputs: Array) -> Array:
        """Outputs of a file (batch, ...) as the tally takes them."""
        return outputs

    def shaped(self, answer: Tensor) -> Tensor:
        """An answer of ``head.tensor`` in the output's own shape, (batch, ...)."""
        return answer.reshape(-1, *self.head.shape)

    def described(self, metric: Metric) -> Metric:
        """The metric with what only the kind knows."""
        return metric


def log_shares(head: Head, answer: Tensor) -> Tensor:
    """Logits of classes: what comes before a Softmax; of probabilities their logarithms, which a Softmax turns into them."""
    if head.ending == "shares":
        return answer.clamp_min(_LEAST).log()
    return log_odds(head, answer) if head.ending == "scores" else answer


def log_odds(head: Head, answer: Tensor) -> Tensor:
    """Logits of scores, each by itself; of numbers from 0 to 1 the logarithm of their odds."""
    if head.ending not in ("shares", "units", "scores"):
        return answer
    p = answer.clamp(_LEAST, 1 - _LEAST)
    return (p / (1 - p)).log()


def classes_apart(answer: Tensor, teacher: Tensor, axis: int) -> Tensor:
    """How far two sets of logits are apart along an axis of classes: the softened cross entropy's excess, batch mean.

    Hinton et al. 2015, section 2; the square of the temperature keeps the gradient of the size that a label's has.
    """
    import torch.nn.functional as F  # noqa: N812

    rows = (x.movedim(axis, -1).reshape(-1, x.shape[axis]) for x in (answer, teacher))
    own, other = rows
    soft = F.softmax(other / TEMPERATURE, 1)
    return F.kl_div(F.log_softmax(own / TEMPERATURE, 1), soft, reduction="batchmean") * TEMPERATURE**2


def scores_apart(answer: Tensor, teacher: Tensor) -> Tensor:
    """How far two sets of logits of scores are apart: the mean excess of binary cross entropy over its least value."""
    import torch.nn.functional as F  # noqa: N812

    soft = (teacher / TEMPERATURE).sigmoid()
    loss = F.binary_cross_entropy_with_logits(answer / TEMPERATURE, soft)
    least = F.binary_cross_entropy_with_logits(teacher / TEMPERATURE, soft)
    return (loss - least) * TEMPERATURE**2


def numbers(where: str, targets: Array, wanted: str) -> Array:
    """float32 targets, finite. Raises DataError."""
    if targets.dtype.kind not in "fiub":
        raise DataError(f"{where} has dtype {targets.dtype}; it must hold {wanted}")
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(targets, np.float32)
    finite = np.isfinite(values).reshape(len(values), -1).all(1)
    if not finite.all():
        raise DataError(
            f"{where} has NaN or infinite values in {np.count_nonzero(~finite)} of {len(values)} examples, the first at index "
            f"{int(np.argmin(finite))}; remove or repair them"
        )
    return values


def matches(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether two shapes are the same but for axes of size 1."""
    return [size for size in shape if size != 1] == [size for size in wanted if size != 1]
