"""Classes: one of several, yes or no, or several labels at once; of the example as a whole, or of every place (segment)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Literal, Self

import numpy as np

from mcuprune.errors import DataError
from mcuprune.train.tasks.heads import Head
from mcuprune.train.tasks.kind import Array, Kind, classes_apart, log_odds, log_shares, matches, scores_apart
from mcuprune.train.tasks.metrics import Classes, Labels, Overlap, Tally

if TYPE_CHECKING:
    from torch import Tensor

#: How classes are told: a number for each class of which the largest counts, one number for yes or no, one for each label.
Form = Literal["one", "binary", "labels"]
#: What stands for "no class is known here" in masks of other tools; -1 does in ours.
_VOID = 255
#: Endings that say along which axis classes lie.
_ALONG = ("softmax", "log_softmax", "shares")


class Classify(Kind):
    """Classes of an example as a whole.

    form: how the output tells them. axis: of the output without the batch, along which classes lie.
    """

    name = "classify"
    title = "classification"
    form: Form
    axis: int
    _smallest = 0

    def __init__(self, head: Head) -> None:
        if head.is_row:  # wherever axes of one number lie beside that of classes
            head = replace(head, shape=(prod(head.shape),), axis=0)
        super().__init__(head)
        self.axis = self._class_axis(head)
        self.form = "one" if head.shape and head.shape[self.axis] > 1 else "binary"

    @classmethod
    def _class_axis(cls, head: Head) -> int:
        return int(np.argmax(head.shape)) if head.shape else 0

    @classmethod
    def fits(cls, head: Head, targets: Array) -> str | None:
        if not (head.is_row or head.is_single):
            return f"output '{head.output}' {list(head.shape)} has more than one row of numbers for an example"
        if head.is_single:
            if not _zero_or_one(targets) or prod(targets.shape[1:]) != 1:
                return f"output '{head.output}' is a single number, and targets aren't all 0 or 1"
            return None
        if targets.ndim == 1 or prod(targets.shape[1:]) == 1:
            return None if _whole(targets) else "targets are fractions"
        wide = targets.shape[1:]
        return None if matches(wide, head.shape) and _zero_or_one(targets) else f"targets have shape {targets.shape}"

    @property
    def classes(self) -> int:
        """How many classes, or labels, there are."""
        return 2 if self.form == "binary" else self.head.shape[self.axis]

    @property
    def _places(self) -> tuple[int, ...]:
        """The shape of one example's targets."""
        return ()

    def taken(self, where: str, targets: Array) -> Array:
        wanted = f"whole-number labels from 0 to {self.classes - 1}"
        if targets.dtype.kind not in "fiub":
            raise DataError(f"{where} has dtype {targets.dtype}; it must hold {wanted}")
        if self.form != "binary" and prod(targets.shape[1:]) == prod(self.head.shape) and _zero_or_one(targets):
            return self._rows(targets.reshape(len(targets), *self.head.shape))
        return self._numbers(where, targets, wanted)

    def _rows(self, targets: Array) -> Array:
        """Targets of the output's own shape: one-hot, or several labels at once."""
        if self.form == "one" and (targets.sum(1 + self.axis, dtype=np.int64) == 1).all():
            return np.asarray(targets.argmax(1 + self.axis), np.int64).reshape(len(targets), *self._places)
        self.form, self.title = "labels", f"{type(self).title}, several labels at once"
        return np.ascontiguousarray(targets, np.float32)

    def _numbers(self, where: str, targets: Array, wanted: str) -> Array:
        if not matches(targets.shape[1:], self._places):
            shape = ", ".join(map(str, ("n", *self._places)))
            raise DataError(f"{where} has shape {targets.shape}; the model's {self.title} wants ({shape}): {wanted}")
        if not _whole(targets):
            raise DataError(
                f"{where} has fractions; {self.title} wants {wanted} (numbers to be learned as such: --task regress)"
            )
        labels = targets.reshape(len(targets), *self._places).astype(np.int64)
        if self._smallest < 0:
            labels = np.where(labels == _VOID, -1, labels) if self.classes <= _VOID else labels
        low, high = int(labels.min()), int(labels.max())
        if high < 0:
            raise DataError(f"{where} knows the class of no place: all are -1 or {_VOID}; give masks that name classes")
        if low < self._smallest or high >= self.classes:
            raise DataError(f"{where} has labels from {low} to {high}; the model has {self.classes} classes and wants {wanted}")
        return labels

    def loss(self, answer: Tensor, target: Tensor, smoothing: float) -> Tensor:
        import torch.nn.functional as F  # noqa: N812

        if self.form == "one":
            logits = log_shares(self.head, answer)
            if self.head.ending == "sigmoid":
                return (self._shared_out(logits, target, smoothing) + self._by_itself(logits, target, smoothing)) / 2
            return self._shared_out(logits, target, smoothing)
        logits = log_odds(self.head, answer)
        known = target.reshape(logits.shape).to(logits.dtype)
        weight = (known >= 0).to(logits.dtype)
        wanted = known.clamp_min(0) * (1 - smoothing) + smoothing / 2
        apart = F.binary_cross_entropy_with_logits(logits, wanted, weight=weight, reduction="sum")
        return apart / weight.sum().clamp_min(1)

    def _shared_out(self, logits: Tensor, target: Tensor, smoothing: float) -> Tensor:
        """The mean cross entropy of probabilities that are shared out among classes."""
        import torch.nn.functional as F  # noqa: N812

        if self._smallest == 0 and logits.ndim == 2:
            return F.cross_entropy(logits, target, label_smoothing=smoothing)
        # the divisor is at least 1: in a batch no place at all may have a known class
        scores, known = logits.movedim(1 + self.axis, 1), (target >= 0).sum().clamp_min(1)
        return F.cross_entropy(scores, target, ignore_index=-1, label_smoothing=smoothing, reduction="sum") / known

    def _by_itself(self, logits: Tensor, target: Tensor, smoothing: float) -> Tensor:
        """The binary cross entropies of classes, each by itself, summed over classes; the mean.

        A Sigmoid is no Softmax: it differs where all logits rise alike. Where only what is shared out counts, they rise until
        every class has a score of nearly 1, and int8 scores, in steps of 1/256, no longer say which is the largest.
        """
        import torch
        import torch.nn.functional as F  # noqa: N812

        scores, known = logits.movedim(1 + self.axis, -1), target.reshape(logits.select(1 + self.axis, 0).shape) >= 0
        numbers = torch.arange(scores.shape[-1], device=scores.device)
        hot = (target.reshape(known.shape).unsqueeze(-1) == numbers).to(scores.dtype)
        wanted = hot * (1 - smoothing) + smoothing / scores.shape[-1]
        apart = F.binary_cross_entropy_with_logits(scores, wanted, reduction="none").sum(-1)
        return (apart * known).sum() / known.sum().clamp_min(1)

    def teach(self, answer: Tensor, teacher: Tensor) -> Tensor:
        if self.form == "one":
            own, other = (log_shares(self.head, x) for x in (answer, teacher))
            return classes_apart(own, other, 1 + self.axis)
        own, other = (log_odds(self.head, x) for x in (answer, teacher))
        return scores_apart(own, other)

    def misses(self, answer: Tensor, target: Tensor) -> float:
        named = self._named(answer.detach())
        wrong = ((named != target.reshape(named.shape)) & (target.reshape(named.shape) >= 0)).sum()
        return float(wrong) / max(1, named[0].numel())

    def _named(self, answer: Tensor) -> Tensor:
        """The classes that logits name, by their numbers."""
        if self.form == "one":
            return answer.argmax(1 + self.axis)
        return (log_odds(self.head, answer) > 0).long()

    def output(self, answer: Tensor) -> Tensor:
        # the largest logit stays the largest: a Softmax has nothing to add
        return answer if self.form == "one" or self.head.ending != "sigmoid" else answer.sigmoid()

    def measured(self, outputs: Array) -> Array:
        outputs = outputs.reshape(len(outputs), *self.head.shape)
        if self.form == "one":
            return np.asarray(outputs.argmax(1 + self.axis))
        half = 0.0 if self.head.ending == "none" else 0.5  # a bare number is a logit
        named = (outputs > half).astype(np.int64)
        return named if self.form == "labels" else named.reshape(len(outputs), *self._places)

    def truth(self, target: Array) -> Array:
        return target.reshape(len(target), -1).astype(np.int64) if self.form == "labels" else target

    def tally(self) -> Tally:
        return _ByRow(self.classes) if self.form == "labels" else Classes(self.classes)


class _ByRow(Labels):
    """Labels of examples, or of places: whatever lies beside the labels is flattened away."""

    def add(self, outputs: Array, targets: Array) -> None:
        super().add(outputs.reshape(len(outputs), -1), targets.reshape(len(targets), -1))


class Segment(Classify):
    """Classes of every place: targets have the output's shape without the axis of classes; -1 and 255 are places unknown."""

    name = "segment"
    title = "segmentation"
    moves = True
    _smallest = -1

    def __init__(self, head: Head, axis: int | None = None) -> None:
        """axis: of the output without the batch, along which classes lie, where that is known."""
        super().__init__(head)
        if axis is not None:
            self.axis = axis
            self.form = "one" if head.shape[axis] > 1 else "binary"

    @classmethod
    def for_targets(cls, head: Head, targets: Sequence[Array]) -> Self:
        usual = cls._class_axis(head)
        if head.ending in _ALONG:
            return cls(head)
        axes = [axis for axis in range(len(head.shape)) if all(_lie_along(head.shape, axis, array) for array in targets)]
        return cls(head, usual if usual in axes or not axes else axes[0])

    @classmethod
    def _class_axis(cls, head: Head) -> int:
        if head.ending in _ALONG:
            return head.axis
        # as the field has it: channels lie first, unless the last axis alone is as small as channels are
        first, last = head.shape[0], head.shape[-1]
        return 0 if len(head.shape) < 3 or first <= last else len(head.shape) - 1

    @classmethod
    def fits(cls, head: Head, targets: Array) -> str | None:
        if head.is_row or head.is_single:
            return f"output '{head.output}' {list(head.shape)} is an answer for the example, not for every place"
        if len(head.shape) < 2:
            return f"output '{head.output}' {list(head.shape)} has no axis of classes"
        kind = cls.for_targets(head, [targets])
        places = matches(targets.shape[1:], kind._places)
        if not (places and _whole(targets)) and not (matches(targets.shape[1:], head.shape) and _zero_or_one(targets)):
            return f"targets of shape {targets.shape} and dtype {targets.dtype} aren't classes of places {list(kind._places)}"
        if kind.form == "binary" and not set(np.unique(targets).tolist()) <= {-1, 0, 1, _VOID}:
            return "a single channel tells two classes, 0 and 1"
        return None

    @property
    def _places(self) -> tuple[int, ...]:
        return _beside(self.head.shape, self.axis)

    def check(self, where: str, targets: Sequence[Array]) -> None:
        known = {int(value) for array in targets for value in np.unique(array)} if self.form != "labels" else {0, 1}
        if known == {-1, 0}:
            raise DataError(
                f"{where} know only the background: all other places are {_VOID} or -1, which are places that nobody knows; "
                f"number classes from 0 on (a mask of 0 and {_VOID} divided by {_VOID})"
            )

    def tally(self) -> Tally:
        return _Masks(self.head.shape[self.axis], self.axis) if self.form == "labels" else Overlap(self.classes)

    def truth(self, target: Array) -> Array:
        return target.astype(np.int64)


class _Masks(Labels):
    """Labels of places: each place is an example."""

    def __init__(self, labels: int, axis: int) -> None:
        super().__init__(labels)
        self._axis = axis

    def add(self, outputs: Array, targets: Array) -> None:
        n = len(self.true)
        super().add(*(np.moveaxis(x, 1 + self._axis, -1).reshape(-1, n) for x in (outputs, targets)))


def _beside(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """A shape without one axis."""
    return shape[:axis] + shape[axis + 1 :]


def _lie_along(shape: tuple[int, ...], axis: int, targets: Array) -> bool:
    """Whether targets may be classes along this axis of an output: numbers of the places beside it, or one-hot."""
    if prod(targets.shape[1:]) == prod(shape) and _zero_or_one(targets):
        return bool((targets.reshape(len(targets), *shape).sum(1 + axis, dtype=np.int64) == 1).all())
    if not matches(targets.shape[1:], _beside(shape, axis)) or not _whole(targets):
        return False
    return bool((targets < max(2, shape[axis])).all() or (targets[targets >= max(2, shape[axis])] == _VOID).all())


def _whole(targets: Array) -> bool:
    return targets.dtype.kind in "bui" or (targets.dtype.kind == "f" and bool(np.equal(targets, np.round(targets)).all()))


def _zero_or_one(targets: Array) -> bool:
    return bool(((targets == 0) | (targets == 1)).all())
