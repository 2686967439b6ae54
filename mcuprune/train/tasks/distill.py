"""Anything, from the network itself: the pruned network learns to answer what the one that came answers.

Nobody has to say what an output means. Each has a loss that is 0 where both answer the same, by how it ends: classes (Softmax)
and scores (Sigmoid) by cross entropy, numbers by the square error. Losses of scores and numbers are divided by what the best
constant answer would have, so that of several outputs none drowns the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from mcuprune.train.tasks.classify import Segment
from mcuprune.train.tasks.heads import Head
from mcuprune.train.tasks.kind import Array, Kind, classes_apart, log_odds, log_shares
from mcuprune.train.tasks.metrics import Agreement, Tally

if TYPE_CHECKING:
    from torch import Tensor

#: No answer is held for more constant than this: its loss would be divided by nothing.
_LEAST = 1e-9


class Distill(Kind):
    """The answers of the network as it came; targets are its outputs.

    form: what a loss takes the output for. "row" is one row of bare numbers, which may be logits or not: it gets the losses of
    both, which are both least where the answers are the same. "steps" have no loss, and are only compared.
    """

    name = "distill"
    title = "distillation from the network as it came"
    form: Literal["classes", "row", "scores", "numbers", "steps"]

    def __init__(self, head: Head, *, alone: bool = True, task: str = "distill") -> None:
        """alone: whether the network has no other output. task: what the user says the output is, if anything."""
        super().__init__(head)
        self.moves = not (head.is_row or head.is_single)
        self.axis = head.axis
        self._unit = 1.0
        if head.ending == "steps":
            self.form = "steps"
        elif head.ending in ("softmax", "log_softmax", "shares"):
            self.form = "classes"
        elif head.ending in ("sigmoid", "units", "scores"):
            self.form = "scores"
        elif task == "segment" and len(head.shape) > 1:
            self.axis = Segment(head).axis
            self.form = "classes" if head.shape[self.axis] > 1 else "numbers"
        elif task == "classify" and head.is_row:
            self.form, self.axis = "classes", int(np.argmax(head.shape))
        elif head.is_row and alone and task != "regress":
            self.form, self.axis = "row", int(np.argmax(head.shape))
        else:
            self.form = "numbers"

    @classmethod
    def fits(cls, head: Head, targets: Array) -> str | None:
        return None

    def taken(self, where: str, targets: Array) -> Array:
        return targets

    def prepare(self, targets: Array) -> None:
        """targets: answers of the teacher, of ``head.tensor``."""
        wide = targets.astype(np.float64)
        if self.form == "scores":
            p = wide if self.head.ending in ("units", "scores") else 1 / (1 + np.exp(-np.clip(wide, -60, 60)))
            self._unit = max(_LEAST, float(_entropy(p.mean(keepdims=True)).mean() - _entropy(p).mean()))
        else:
            self._unit = max(_LEAST, float(wide.var()))

    def loss(self, answer: Tensor, target: Tensor, smoothing: float) -> Tensor:
        return self._apart(answer, self._logits_of(target.reshape(answer.shape)))

    def teach(self, answer: Tensor, teacher: Tensor) -> Tensor:
        return self._apart(answer, teacher)

    def _logits_of(self, output: Tensor) -> Tensor:
        """The answer of ``head.tensor`` that gives an output, up to a constant that a Softmax doesn't see."""
        if self.head.ending == "softmax":
            return output.clamp_min(1e-12).log()
        if self.head.ending == "sigmoid":
            p = output.clamp(1e-7, 1 - 1e-7)
            return (p / (1 - p)).log()
        return output

    def _apart(self, answer: Tensor, teacher: Tensor) -> Tensor:
        import torch.nn.functional as F  # noqa: N812

        if self.form == "classes":
            return classes_apart(log_shares(self.head, answer), log_shares(self.head, teacher), 1 + self.axis)
        if self.form == "scores":
            own, other = (log_odds(self.head, x) for x in (answer, teacher))
            soft = other.sigmoid()
            excess = F.binary_cross_entropy_with_logits(own, soft) - F.binary_cross_entropy_with_logits(other, soft)
            return excess / self._unit
        square = (answer - teacher).square().mean() / self._unit
        if self.form == "numbers":
            return square
        return square + classes_apart(answer, teacher, 1 + self.axis)

    def misses(self, answer: Tensor, target: Tensor) -> float:
        return 0.0

    def output(self, answer: Tensor) -> Tensor:
        if self.head.ending in ("softmax", "log_softmax"):
            return answer.softmax(1 + self.axis) if self.head.ending == "softmax" else answer.log_softmax(1 + self.axis)
        return answer.sigmoid() if self.head.ending == "sigmoid" else answer

    def measured(self, outputs: Array) -> Array:
        values = outputs.reshape(len(outputs), *self.head.shape)
        return values.astype(np.float64) if self.form == "steps" else values

    def truth(self, target: Array) -> Array:
        return self.measured(target)

    def tally(self) -> Tally:
        axis = 1 + self.axis if self.form in ("classes", "row") else None
        return Agreement(axis, scores=self.form == "scores", steps=self.form == "steps")


def _entropy(p: Array) -> Array:
    """Binary entropy, in nats."""
    q = np.clip(p, 1e-12, 1 - 1e-12)
    return np.asarray(-q * np.log(q) - (1 - q) * np.log(1 - q))
