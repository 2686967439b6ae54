"""What a network is measured by: figures on outputs as a file computes them, taken in batch by batch."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal

import numpy as np

from mcuprune import units
from mcuprune.immutable import immutable

Array = np.ndarray[Any, Any]

#: A variance of less than this part of the mean square is none.
_ROUNDED = 1e-9
#: The most frequent class of uneven data has more than this many times its even share of the examples.
_UNEVEN = 1.5


@immutable
class Answers:
    """What a classifier answered.

    counts: int64 (classes, classes), of each target (row) how often each answer (column).
    named, targets: int64 (examples,), the class that was named and the target of each example in their order; None where an
    answer is not one class for an example.
    """

    counts: Array
    named: Array | None = None
    targets: Array | None = None


@immutable
class Metric:
    """A figure, and others beside it.

    name: as in JSON. title: for people. unit: a "share" of 1, or "value" in the unit of the targets. better: which are.
    more: other figures by their names, None where one has no value. answers: of a classifier, what it was counted from.
    """

    name: str
    title: str
    value: float
    unit: Literal["share", "value"] = "share"
    better: Literal["higher", "lower"] = "higher"
    more: Mapping[str, float | None] = field(default_factory=dict)
    answers: Answers | None = field(default=None, repr=False, compare=False)

    @property
    def score(self) -> float:
        """The figure so that higher is better."""
        return self.value if self.better == "higher" else -self.value

    @property
    def accuracy(self) -> float | None:
        """The share of right classes of a classifier, None for anything else."""
        return self.value if self.name == "accuracy" else self.more.get("accuracy")

    def floor(self, drop: float) -> float:
        """The score that a network may fall to which loses ``drop``: points of a share (0.01 is one), or a part of an error."""
        return self.score - (drop if self.unit == "share" else drop * abs(self.value))

    def shown(self) -> str:
        """The figure for people."""
        return units.figure(self.value, self.unit)


class Tally(ABC):
    """Takes in outputs and targets, arrays (batch, ...), as often as there are batches."""

    @abstractmethod
    def add(self, outputs: Array, targets: Array) -> None:
        """Take in a batch."""

    @abstractmethod
    def metric(self) -> Metric:
        """The figure on all that was taken in."""

    def learned(self) -> bool:
        """Whether it is above what the best constant answer gives, by more than chance."""
        return True


class Classes(Tally):
    """A confusion matrix: outputs and targets are numbers of classes; targets below 0 don't count.

    counts: int64 (classes, classes), of each target (row) how often each answer (column).
    """

    def __init__(self, classes: int) -> None:
        self.counts = np.zeros((classes, classes), np.int64)
        self._batches: list[tuple[Array, Array]] = []

    def add(self, outputs: Array, targets: Array) -> None:
        n = len(self.counts)
        known = targets >= 0
        flat = np.bincount(targets[known].astype(np.int64) * n + outputs[known].astype(np.int64), minlength=n * n)
        self.counts += flat.reshape(n, n)
        if targets.ndim == 1:
            self._batches.append((outputs.astype(np.int64), targets.astype(np.int64)))

    @property
    def answers(self) -> Answers:
        """All that was counted, example by example where an answer is one class."""
        if not self._batches:
            return Answers(self.counts)
        named, targets = (np.concatenate(each) for each in zip(*self._batches, strict=True))
        return Answers(self.counts, named, targets)

    @property
    def accuracy(self) -> float:
        """The share of right answers."""
        return int(np.trace(self.counts)) / max(1, int(self.counts.sum()))

    def f1(self) -> Array:
        """Of each class 2 hits / (2 hits + false alarms + misses), NaN for a class that neither is nor is named."""
        hits = np.diag(self.counts)
        total = self.counts.sum(0) + self.counts.sum(1)
        return np.where(total > 0, 2 * hits / np.maximum(total, 1), np.nan)

    def iou(self) -> Array:
        """Of each class hits / (hits + false alarms + misses): float (classes,), NaN as for ``f1``."""
        hits = np.diag(self.counts)
        union = self.counts.sum(0) + self.counts.sum(1) - hits
        return np.where(union > 0, hits / np.maximum(union, 1), np.nan)

    @property
    def uneven(self) -> bool:
        """Whether one class has so many examples that naming it every time passes for an answer."""
        rows = self.counts.sum(1)
        return bool(rows.max() * len(rows) > _UNEVEN * rows.sum())

    def metric(self) -> Metric:
        f1 = float(np.nanmean(self.f1()))
        if self.uneven:
            return Metric("f1", "F1, mean of classes", f1, more={"accuracy": self.accuracy}, answers=self.answers)
        return Metric("accuracy", "accuracy", self.accuracy, more={"f1": f1}, answers=self.answers)

    def learned(self) -> bool:
        from mcuprune.train.feeding import tells_apart

        return self._beats_the_most_frequent() or tells_apart(self.counts)

    def _beats_the_most_frequent(self) -> bool:
        n = int(self.counts.sum())
        return _beats(self.accuracy, float(self.counts.sum(1).max()) / max(1, n), n)


class Overlap(Classes):
    """Classes of places: the mean over classes of intersection over union."""

    def learned(self) -> bool:
        """By its places, or by its figure: of a class that is rare a useful network names more than there is."""
        if self._beats_the_most_frequent():
            return True
        rows = self.counts.sum(1)
        constant = float(rows.max()) / max(1, int(rows.sum())) / max(1, int((rows > 0).sum()))
        return _is_far(float(np.nanmean(self.iou())), constant)

    def metric(self) -> Metric:
        more = {"pixel_accuracy": self.accuracy}
        return Metric("miou", "mIoU", float(np.nanmean(self.iou())), more=more, answers=self.answers)


class Labels(Tally):
    """Several labels at once: outputs and targets are 0 or 1, (batch, labels); targets below 0 don't count."""

    def __init__(self, labels: int) -> None:
        self.hits, self.named, self.true = (np.zeros(labels, np.int64) for _ in range(3))
        self.right = self.known = 0

    def add(self, outputs: Array, targets: Array) -> None:
        known = targets >= 0
        named, true = (outputs > 0) & known, (targets > 0) & known
        self.hits += (named & true).sum(0)
        self.named += named.sum(0)
        self.true += true.sum(0)
        self.right += int((named == true)[known].sum())
        self.known += int(known.sum())

    def metric(self) -> Metric:
        total = self.named + self.true
        f1 = np.where(total > 0, 2 * self.hits / np.maximum(total, 1), np.nan)
        mean = float(np.nanmean(f1)) if (total > 0).any() else 0.0
        return Metric("f1", "F1, mean of labels", mean, more={"label_accuracy": self.right / max(1, self.known)})

    def learned(self) -> bool:
        per_label = self.known / max(1, len(self.true))
        constant = float(np.maximum(self.true, per_label - self.true).sum()) / max(1, self.known)
        if _beats(self.right / max(1, self.known), constant, self.known):
            return True
        all_named = 2 * self.true / np.maximum(self.true + per_label, 1)  # F1 of naming a label every time
        return bool(self.true.any()) and _is_far(self.metric().value, float(all_named[self.true > 0].mean()))


class Errors(Tally):
    """Numbers: the mean absolute error, with R2 (the share of the targets' variance that is explained).

    R2 is the mean over those numbers of an output that have a unit of their own: large numbers don't hide small ones.
    """

    def __init__(self, middle: Array | float = 0.0, mean: Array | float = 0.0, which: Array | None = None) -> None:
        """middle, mean: the best constant answers to absolute and square errors, as far as training examples tell.

        which: int (numbers of an output,), those that share a unit have the same; None where all do.
        """
        self._middle, self._mean, self._which = middle, mean, which
        self._absolute, self._count = 0.0, 0
        self._square, self._sum, self._squares, self._of_unit = (np.zeros(1) for _ in range(4))
        self._gain: list[tuple[Array, Array]] = []

    def add(self, outputs: Array, targets: Array) -> None:
        outputs, targets = outputs.astype(np.float64), targets.astype(np.float64)
        apart, square = np.abs(outputs - targets), (outputs - targets) ** 2
        self._absolute += float(apart.sum())
        self._count += targets.size
        sums = [self._by_unit(each) for each in (square, targets, targets**2, np.ones_like(targets))]
        self._square, self._sum, self._squares, self._of_unit = (
            old + new for old, new in zip((self._square, self._sum, self._squares, self._of_unit), sums, strict=True)
        )
        gains = np.abs(self._middle - targets) - apart, (self._mean - targets) ** 2 - square
        absolute, of_squares = (each.reshape(len(targets), -1) for each in gains)
        self._gain.append((absolute.mean(1), of_squares.mean(1)))

    def _by_unit(self, values: Array) -> Array:
        """The sums over those numbers that share a unit: (units,)."""
        rows = values.reshape(len(values), -1)
        return np.array([rows.sum()]) if self._which is None else np.bincount(self._which, rows.sum(0))

    def metric(self) -> Metric:
        count = np.maximum(1, self._of_unit)
        variance = self._squares / count - (self._sum / count) ** 2
        varied = variance > _ROUNDED * self._squares / count  # of equal numbers it is what rounding leaves
        r2 = float((1 - self._square[varied] / count[varied] / variance[varied]).mean()) if varied.any() else None
        more = {"r2": r2, "rmse": math.sqrt(float(self._square.sum()) / max(1, self._count))}
        return Metric("mae", "mean absolute error", self._absolute / max(1, self._count), "value", "lower", more)

    def learned(self) -> bool:
        """By absolute errors or by squares: what is mostly zero has a middle that is hard to beat."""
        gains = (np.concatenate(each) for each in zip(*self._gain, strict=True))
        return any(bool(gain.mean() > 3 * gain.std() / math.sqrt(len(gain))) for gain in gains)


class Noise:
    """How far values are from those that were wanted: signal is what varies in the wanted ones, noise the difference."""

    def __init__(self) -> None:
        self._noise = self._sum = self._squares = 0.0
        self._count = 0

    def add(self, values: Array, wanted: Array) -> None:
        """Take in two arrays of one shape."""
        wide = wanted.astype(np.float64)
        self._noise += float(((values - wide) ** 2).sum())
        self._sum += float(wide.sum())
        self._squares += float((wide**2).sum())
        self._count += wide.size

    @property
    def _signal(self) -> float:
        return self._squares - self._sum**2 / max(1, self._count)

    @property
    def explained(self) -> float:
        """The share of the wanted values' variance that is met, from 0 to 1."""
        if self._noise == 0:
            return 1.0
        return max(0.0, 1 - self._noise / self._signal) if self._signal > 0 else 0.0

    @property
    def snr_db(self) -> float | None:
        """10 log10(variance of the wanted values / mean square difference); None where either is 0."""
        return 10 * math.log10(self._signal / self._noise) if self._noise > 0 and self._signal > 0 else None


class Agreement(Tally):
    """Outputs against those of the network as it came: signal-to-noise ratio, and what the task makes of both.

    The figure is the share of equal classes where the output has classes, and of equal values where these go in steps; else
    the explained share of its variance, which is 1 - 10^(-SNR/10). Of scores the F1 of what reaches one half goes along.
    classes: the axis, the batch's included, of classes; None without. scores: whether values are scores from 0 to 1.
    steps: whether they are whole numbers or truth values.
    """

    def __init__(self, classes: int | None, *, scores: bool, steps: bool = False) -> None:
        self._classes, self._scores, self._steps = classes, scores, steps
        self._same = self._places = self._hits = self._named = 0
        self._noise = Noise()

    def add(self, outputs: Array, targets: Array) -> None:
        if self._classes is not None:
            same = outputs.argmax(self._classes) == targets.argmax(self._classes)
            self._same += int(same.sum())
            self._places += same.size
        if self._steps:
            self._same += int((outputs == targets).sum())
            self._places += outputs.size
        if self._scores:
            named, other = outputs >= 0.5, targets >= 0.5
            self._hits += int((named & other).sum())
            self._named += int(named.sum()) + int(other.sum())
        self._noise.add(outputs, targets)

    def metric(self) -> Metric:
        explained = self._noise.explained
        more: dict[str, float | None] = {"explained": explained, "snr_db": self._noise.snr_db}
        if self._scores:
            more["f1"] = 2 * self._hits / self._named if self._named else None
        if self._classes is not None or self._steps:
            same = self._same / max(1, self._places)
            return Metric("agreement", f"same {'value' if self._steps else 'class'} as the original", same, more=more)
        return Metric("agreement", "agreement with the original", explained, more=more)


def several(metrics: Mapping[str, Metric]) -> Metric:
    """One figure of several outputs: the mean of theirs, as shares of 1; of a number its R2 counts. metrics: by output."""
    if len(metrics) == 1:
        return next(iter(metrics.values()))
    shares = [metric.value if metric.unit == "share" else max(0.0, metric.more.get("r2") or 0.0) for metric in metrics.values()]
    more: dict[str, float | None] = {}
    for output, metric in metrics.items():
        more[f"{output}/{metric.name}"] = metric.value
        more |= {f"{output}/{name}": value for name, value in metric.more.items()}
    names = {metric.name for metric in metrics.values()}
    name, title = ("agreement", "agreement with the original") if names == {"agreement"} else ("mean", "mean of outputs")
    return Metric(name, f"{title}, {len(metrics)} outputs" if name == "agreement" else title, float(np.mean(shares)), more=more)


def _is_far(figure: float, constant: float) -> bool:
    """Whether a figure of at most 1 is further above that of a constant answer than random weights take it."""
    from mcuprune.train.feeding import FIFTH

    return figure > constant + FIFTH * (1 - constant)


def _beats(accuracy: float, constant: float, n: int) -> bool:
    from mcuprune.train.feeding import learned

    return n > 0 and learned(round(accuracy * n), n, constant)
