"""Whether a network knows anything about the data that it is given, and if not, whether the data reaches it wrongly.

A trained network that is right no oftener than chance has most often been fed wrongly: pixels of 0...255 where it wants
0...1, axes or colours in another order, labels numbered otherwise. ``explanations`` tries the cheap ones of these on a few
hundred examples and says under which the network is right, how often, and what mends the data. Nothing is ever changed here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import field, replace
from typing import Any

import numpy as np

from mcuprune.data.sets import Split
from mcuprune.graph.network import Network
from mcuprune.graph.node import Node
from mcuprune.immutable import immutable

#: The level of the tests: one untrained network in a thousand is taken for one that has learned something.
LEVEL = 1e-3
#: From this distance on, times the square root of the sample, one of the distribution itself is that rare (Kolmogorov 1933).
_KOLMOGOROV = 1.9495
#: The share by which 16 bits round a number, and more than what folding of a BatchNormalization at its start does to it.
_ROUNDED = 2**-8
#: From this number of standard deviations on, a normal variable is that rare.
_RARE = 3.0902
#: A fifth of the way from the best constant answer to all is more than luck; below this many classes nothing less is.
FIFTH, NAMED = 0.2, 5
#: So many examples of other classes than the most frequent one must be right before these count as told apart.
_OF_OTHERS = 5
#: An explanation is clear if under it the network is at least half of the way from the best constant answer to all.
_CLEAR = 0.5
#: Times its even share, of this many classes: what the most frequent one has at most where classes are about even.
_ABOUT_EVEN = 1.5
#: Examples on which all explanations are tried, those on which the best are tried again, and how many are.
_FIRST, _SECOND, _BEST = 120, 400, 6
#: Examples of each class that it takes to find out how labels are numbered.
_PER_CLASS = 6
#: An explanation of one more part must be right on so much more: the simpler one is the likelier.
_PER_PART = 0.02
#: Channel means and deviations that networks for photographs are most often trained with, of pixels in 0...1.
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Array = np.ndarray[Any, Any]
#: float32 (batch, ...) -> (batch, classes), such as ``evaluate.Model``.
Answering = Callable[[Array], Array]


# -------------------------------------------------------------------------------------------------------------- chance


def tail(right: int, n: int, chance: float) -> float:
    """P(X >= right) of a binomial variable X of ``n`` trials of probability ``chance``: the exact one-sided test.

    The sum of C(n, k) p^k (1 - p)^(n - k) from k = right on; the first term by logarithms of the gamma function, each further
    one from the last (any textbook of statistics, such as Casella and Berger, section 8.3).
    """
    if right <= 0 or chance >= 1:
        return 1.0
    if chance <= 0:
        return 0.0
    log = math.lgamma(n + 1) - math.lgamma(right + 1) - math.lgamma(n - right + 1)
    log += right * math.log(chance) + (n - right) * math.log1p(-chance)
    if right <= n * chance:  # the sum's largest terms lie ahead: what is missing to 1 has the shorter sum
        return 1.0 - tail(n - right + 1, n, 1 - chance)
    term, total = 1.0, 1.0
    for k in range(right, n):
        term *= (n - k) / (k + 1) * chance / (1 - chance)
        total += term
        if term < 1e-12 * total:
            break
    return min(1.0, math.exp(log) * total)


def learned(right: int, n: int, frequent: float) -> bool:
    """Whether an answer that is right on ``right`` of ``n`` examples beats naming the most frequent class, beyond chance.

    frequent: the share of the examples that are of that class. The test is ``tail`` at LEVEL, so how far above ``frequent``
    an accuracy must be depends on how many examples there are: 1.4 points of 5,000 examples of 10 even classes, 11 of 100.
    """
    return tail(right, n, frequent) < LEVEL


def tells_apart(counts: Array) -> bool:
    """Whether classes are named where they are right, beyond chance, however uneven they are: by the sum of their recalls.

    counts: int64 (classes, classes), of each label (row) how often each answer (column). Where a rare class is to be found, a
    useful network is often right on fewer examples than one that never names it. The sum of recalls is 1 for every answer
    that doesn't look. Over random orders of the labels its mean is that, and its variance the sum of squares, over n - 1, of
    the matrix that has 1 / examples of the class where answer and label agree, with row and column means taken out (Hoeffding
    1951). It must lie 3.09 standard deviations above, and a few examples of other classes than the most frequent be right.
    """
    labels, answers = counts.sum(1).astype(np.float64), counts.sum(0).astype(np.float64)
    n, present = labels.sum(), labels > 0
    if present.sum() < 2:
        return False
    gain = np.diag(1 / np.maximum(labels, 1))[:, present]  # of an answer (row) to an example of a label (column)
    shares = labels[present] / n
    rows, columns = gain @ shares, (answers / n) @ gain
    centred = gain - rows[:, None] - columns[None, :] + rows @ (answers / n)
    variance = float((answers[:, None] * labels[None, present] * centred**2).sum()) / (n - 1)
    above = float((np.diag(counts)[present] / labels[present]).sum()) - 1
    others = int(np.trace(counts)) - int(counts[labels.argmax(), labels.argmax()])
    return others >= _OF_OTHERS and above > _RARE * math.sqrt(variance)


@immutable
class Confusion:
    """counts: int64 (classes, classes), how many examples of each label (row) got each answer (column)."""

    counts: Array

    @classmethod
    def of(cls, logits: Array, labels: Array, n_classes: int) -> Confusion:
        """From answers, float (examples, ...) with one number for each class, and labels, int (examples,)."""
        answers = logits.reshape(len(logits), -1).argmax(1)
        flat = np.bincount(labels * n_classes + answers, minlength=n_classes**2)
        return cls(flat.reshape(n_classes, n_classes))

    @property
    def n(self) -> int:
        """How many examples."""
        return int(self.counts.sum())

    @property
    def right(self) -> int:
        """How many right answers."""
        return int(np.trace(self.counts))

    @property
    def accuracy(self) -> float:
        """The share of right answers."""
        return self.right / self.n

    @property
    def frequent(self) -> float:
        """What naming the most frequent class every time is right on: the best answer without looking."""
        return float(self.counts.sum(1).max()) / self.n

    @property
    def trained(self) -> bool:
        """Whether it knows these classes by their names, which no untrained network can.

        To have ``learned`` is not enough: random weights tell some classes apart, and with many examples one of them beats a
        constant answer by luck. What they can't know is which number each class has. So the share of right answers, which is
        the trace of the matrix, is held against what it is when classes are renumbered at random: mean 1 / classes, variance
        the sum of squares of the matrix with row and column means taken out, over classes - 1 (Hoeffding 1951, "A combinatorial
        central limit theorem"). It must lie 3.09 standard deviations above, the level of LEVEL, or be a fifth of the way from
        the best constant answer to all, which is the only way where there are too few numberings to tell. Of uneven classes the
        mean of their recalls will do, if they are told apart (``tells_apart``).
        """
        tells = tells_apart(self.counts)
        if not (tells or learned(self.right, self.n, self.frequent)):
            return False
        if self.accuracy > self.frequent + FIFTH * (1 - self.frequent):
            return True
        labels = self.counts.sum(1)
        recall, even = np.diag(self.counts)[labels > 0] / labels[labels > 0], 1 / max(1, int((labels > 0).sum()))
        if tells and recall.mean() > even + FIFTH * (1 - even):
            return True
        classes = len(self.counts)
        c = self.counts / self.n
        centred = c - c.mean(0, keepdims=True) - c.mean(1, keepdims=True) + c.mean()
        deviation = math.sqrt(float((centred**2).sum()) / (classes - 1))
        return classes >= NAMED and self.accuracy - 1 / classes > _RARE * deviation


def looks_fresh(net: Network) -> bool:
    """Whether a network's numbers say that it was never trained.

    So they do where BatchNormalization stands at its start, and without it, where every layer's biases are zeros, as most
    libraries have them at first, or drawn together with its weights as PyTorch does it (``_drawn_by_torch``).
    """
    norms = [node for node in net.nodes if node.op == "BatchNormalization"]
    if norms:
        means, variances = ([net.constants[node.inputs[index]] for node in norms] for index in (3, 4))
        return not any(mean.any() for mean in means) and all((variance == 1).all() for variance in variances)
    biased = [
        node
        for node in net.nodes
        if node.op in ("Conv", "ConvTranspose", "Gemm") and len(node.inputs) > 2 and net.is_constant(node.inputs[2])
    ]
    drawn = [node for node in biased if net.constants[node.inputs[2]].any()]
    return bool(biased) and (not drawn or _drawn_by_torch(net, drawn))


def _drawn_by_torch(net: Network, layers: Sequence[Node]) -> bool:
    """Whether weights and biases are a uniform sample of +-1 / sqrt(fan-in), which PyTorch's layers start from.

    That is ``reset_parameters`` of its Linear and convolutions: Kaiming's uniform draw with a = sqrt(5). Training moves numbers
    over the bound, and any scaling moves all. Whether what lies within is uniform is asked by Kolmogorov's test at LEVEL.
    """
    if not all(net.is_constant(node.inputs[1]) for node in layers):
        return False
    samples = []
    for node in layers:
        weight, bias = (net.constants[name].astype(np.float64) for name in node.inputs[1:3])
        fan_in = weight.shape[0] if node.op == "Gemm" and not node.get("transB") else math.prod(weight.shape[1:])
        samples += [weight.ravel() * math.sqrt(fan_in), bias.ravel() * math.sqrt(fan_in)]
    sample = np.sort(np.concatenate(samples))
    if np.abs(sample).max() > 1 + _ROUNDED:
        return False
    places = np.arange(len(sample) + 1) / len(sample)
    below = (sample + 1) / 2
    distance = max((places[1:] - below).max(), (below - places[:-1]).max())
    return bool(distance * math.sqrt(len(sample)) < _KOLMOGOROV)


# -------------------------------------------------------------------------------------------------------- explanations


@immutable
class Change:
    """One thing that may be wrong with data. cause: in words. fix: the Python that mends an array. apply: does it to inputs.

    The same as numbers, where it is a part of preprocessing. affine: factor and offset, each one number or one a channel.
    order: the shape that elements lie in and the transposition, batch included. colours: whether they are turned round.
    """

    cause: str
    fix: str
    apply: Callable[[Array], Array] = field(compare=False)
    affine: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    order: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    colours: bool = False


@immutable
class Explanation:
    """Under these causes the network is right on a share ``accuracy`` of ``examples`` that were not used to find them.

    frequent: what the best constant answer is right on among them. Cause and fix are for people. changes: of the inputs.
    number: what labels are to the network, where they are numbered otherwise. as_given: the share as the data is.
    """

    cause: str
    fix: str
    accuracy: float
    examples: int
    frequent: float
    parts: int
    changes: tuple[Change, ...] = ()
    number: tuple[int, ...] = ()
    as_given: float = 0.0

    @property
    def clear(self) -> bool:
        """Whether it leaves no reasonable doubt: significant, so far on the way to always right, and much of what was wrong.

        Half of the way; of several classes whose numbers are right a fifth will do, which no random weights go.
        """
        far = FIFTH if not self.number and self.frequent * NAMED < _ABOUT_EVEN else _CLEAR
        way = (self.accuracy - self.frequent) / max(1e-9, 1 - self.frequent)
        right = round(self.accuracy * self.examples)
        mended = self.accuracy - self.as_given >= FIFTH * (1 - self.as_given) and learned(right, self.examples, self.as_given)
        return way >= far and mended and learned(right, self.examples, self.frequent)

    def applied(self, x: Array, labels: Array) -> tuple[Array, Array]:
        """Inputs, float32 (examples, ...), and their labels, int (examples,), mended of the causes."""
        return _applied(x, self.changes), np.array(self.number)[labels] if self.number else labels


def explanations(model: Answering, split: Split, n_classes: int, seed: int = 0, *, orders: bool = True) -> list[Explanation]:
    """What the data may have been fed wrongly by, best first: each scale, order of axes and colours, and labels renumbered.

    Everything is tried on a hundred examples; what does best, on a few hundred others. How labels are numbered is read off half
    of those and tried on the other half. orders: whether axes may lie in another order than they should.
    """
    chosen, few, more = _drawn(split, seed)
    if not len(more):
        few = more = chosen
    tried: list[tuple[float, float, tuple[Change, ...]]] = []
    for changes in _combinations(split.x[chosen[: _ranged(split)]], orders=orders):
        confusion = Confusion.of(model(_applied(split.x[few], changes)), split.y[few], n_classes)
        renamed = float(confusion.counts.max(0).sum()) / confusion.n
        cost = _PER_PART * len(changes)
        tried.append((confusion.accuracy - cost, renamed - cost, changes))
    ranked = [*sorted(tried, key=lambda row: -row[0])[:_BEST], *sorted(tried, key=lambda row: -row[1])[:_BEST]]
    best = dict.fromkeys(changes for _, _, changes in ranked)
    given = as_given(model, split, n_classes, seed).accuracy
    results = [
        replace(explanation, as_given=given)
        for changes in best
        for explanation in _measured(model, split, more, changes, n_classes)
    ]
    return sorted(results, key=lambda explanation: explanation.parts * _PER_PART - explanation.accuracy)


def _drawn(split: Split, seed: int) -> tuple[Array, Array, Array]:
    """All examples in an order by chance; those to try everything on; others to measure on, none where there are too few."""
    chosen = np.random.default_rng(seed).permutation(len(split.y))
    more = chosen[_FIRST : _FIRST + _SECOND]
    return chosen, chosen[:_FIRST], more if len(more) >= _FIRST // 2 else more[:0]


def as_given(model: Answering, split: Split, n_classes: int, seed: int) -> Confusion:
    """What the network answers to those examples that ``explanations`` measures on, as the data is."""
    chosen, _, more = _drawn(split, seed)
    more = more if len(more) else chosen
    return Confusion.of(model(split.x[more]), split.y[more], n_classes)


def better(model: Answering, split: Split, n_classes: int, seed: int, *, orders: bool) -> tuple[Explanation, float] | None:
    """For a network that knows the data as it is: how it would be right on clearly more, and on what share it is as it is.

    None where nothing makes it so, or examples are too few. One thing at a time is tried, and only where so much is wrong that
    it could tell: what does best on a hundred examples must mend a fifth of what is wrong among a few hundred others, beyond
    luck by the sign test of the examples that it changes. Only then all is tried (``explanations``, on the same examples).
    """
    chosen, few, more = _drawn(split, seed)
    if not len(more):
        return None
    labels = split.y[more]
    old = _right(model(split.x[more]), labels)
    wrong = int((~old).sum())
    if tail(wrong, wrong, 0.5) >= LEVEL:
        return None
    single = [changes for changes in _combinations(split.x[chosen[: _ranged(split)]], orders=orders) if len(changes) == 1]
    shares = [_right(model(_applied(split.x[few], changes)), split.y[few]).mean() for changes in single]
    if not shares:
        return None
    new = _right(model(_applied(split.x[more], single[int(np.argmax(shares))])), labels)
    lucky = tail(int((new & ~old).sum()), int((new != old).sum()), 0.5) >= LEVEL
    if lucky or new.mean() - old.mean() < FIFTH * (1 - old.mean()):
        return None
    return explanations(model, split, n_classes, seed, orders=orders)[0], float(old.mean())


def _right(logits: Array, labels: Array) -> Array:
    """bool (examples,): where the answer is the label."""
    return np.asarray(logits.reshape(len(labels), -1).argmax(1) == labels)


def ways(split: Split, *, orders: bool = True) -> int:
    """How many ways to feed the data ``explanations`` tries, that as it is among them."""
    return sum(1 for _ in _combinations(split.x[np.arange(min(len(split), 16))], orders=orders))


def _ranged(split: Split) -> int:
    """Of how many examples ranges are taken: many, but no more than 64 MB of them."""
    return max(_FIRST, min(2000, 2**24 // math.prod(split.x.shape[1:])))


@immutable
class Renumbered:
    """number: what each label is to the network. accuracy: with labels numbered so; as_given: as they are; frequent: of the
    commonest class, each on ``examples`` that were not used to find the numbers."""

    number: tuple[int, ...]
    accuracy: float
    as_given: float
    frequent: float
    examples: int

    def explanation(self) -> Explanation:
        """The same as a cause, for people."""
        moved = ", ".join(f"{label} is {answer}" for label, answer in enumerate(self.number) if label != answer)
        cause = f"labels are numbered otherwise (the data's {moved} to the network)"
        fix = f"y = numpy.array({list(self.number)})[y]"
        return Explanation(cause, fix, self.accuracy, self.examples, self.frequent, 1, number=self.number)


def renumbered(logits: Array, labels: Array, n_classes: int) -> Renumbered | None:
    """How labels are numbered to a network, by the assignment of its confusion matrix; None where they are as they should be.

    Found on half of the examples, and taken for true where on the other half it mends more than luck could: of the examples
    whose label it changes, the network is right on more than half under the new number, and that beats the old one at LEVEL.
    """
    half = len(labels) // 2
    if half < _PER_CLASS * n_classes:
        return None
    number = assignment(Confusion.of(logits[:half], labels[:half], n_classes).counts)
    moved = number[labels[half:]] != labels[half:]
    if not moved.any():
        return None
    answers = logits[half:].reshape(len(labels) - half, -1).argmax(1)
    new, old = answers == number[labels[half:]], answers == labels[half:]
    if new[moved].mean() <= 0.5 or tail(int((new & ~old).sum()), int((new != old).sum()), 0.5) >= LEVEL:
        return None
    frequent = float(np.bincount(labels[half:], minlength=n_classes).max()) / len(answers)
    return Renumbered(tuple(number.tolist()), float(new.mean()), float(old.mean()), frequent, len(answers))


def _measured(
    model: Answering, split: Split, more: Array, changes: tuple[Change, ...], n_classes: int
) -> Iterator[Explanation]:
    """The explanation of these changes on the examples ``more``, and with labels renumbered beside."""
    logits, labels = model(_applied(split.x[more], changes)), split.y[more]
    if changes:
        confusion = Confusion.of(logits, labels, n_classes)
        cause, fix = "; ".join(change.cause for change in changes), "; ".join(change.fix for change in changes)
        yield Explanation(cause, fix, confusion.accuracy, confusion.n, confusion.frequent, len(changes), changes)
    half = len(more) // 2
    if half < _PER_CLASS * n_classes:
        return
    number = assignment(Confusion.of(logits[:half], labels[:half], n_classes).counts)
    if (number == np.arange(n_classes)).all():
        return
    confusion = Confusion.of(logits[half:], number[labels[half:]], n_classes)
    moved = ", ".join(f"{label} is {answer}" for label, answer in enumerate(number) if label != answer)
    otherwise = f"labels are numbered otherwise (the data's {moved} to the network)"
    cause = "; ".join([*(change.cause for change in changes), otherwise])
    fix = "; ".join([*(change.fix for change in changes), f"y = numpy.array({number.tolist()})[y]"])
    numbered = tuple(number.tolist())
    yield Explanation(cause, fix, confusion.accuracy, confusion.n, confusion.frequent, len(changes) + 1, changes, numbered)


def _applied(x: Array, changes: Sequence[Change]) -> Array:
    for change in changes:
        x = change.apply(x)
    return np.ascontiguousarray(x, np.float32)


def _combinations(x: Array, *, orders: bool) -> Iterator[tuple[Change, ...]]:
    """Every scale, with every order of axes, with colours either way; unchanged data first."""
    layouts: list[tuple[Change, ...]] = [(), *((layout,) for layout in _orders(x) if orders)]
    colours: list[tuple[Change, ...]] = [(), *((recolouring,) for recolouring in _colours(x))]
    for order in layouts:
        moved = _applied(x, order)
        scales: list[tuple[Change, ...]] = [(), *((scale,) for scale in rescalings(moved))]
        for colour in colours:
            for scale in scales:
                yield (*order, *colour, *scale)


def _channel_axis(shape: tuple[int, ...]) -> int | None:
    """The axis of an array (batch, ...) that holds an image's channels: the smaller one of the first and last; None without."""
    if len(shape) != 4:
        return None
    return 1 if shape[1] <= shape[3] else 3


def _orders(x: Array) -> Iterator[Change]:
    """Arrays of the right shape whose elements were laid down in another order of axes."""
    shape = x.shape[1:]
    seen = [x[:4]]
    kinds: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []
    if len(shape) == 3:
        a, b, c = shape
        kinds = [
            ("height and width are exchanged", (a, c, b), (0, 1, 3, 2)),
            ("it is channels-last, reshaped instead of transposed", (b, c, a), (0, 3, 1, 2)),
            ("it is channels-first, reshaped instead of transposed", (c, a, b), (0, 2, 3, 1)),
        ]
        if _channel_axis(x.shape) == 3:
            kinds[0] = ("height and width are exchanged", (b, a, c), (0, 2, 1, 3))
    elif len(shape) == 2:
        kinds = [("its two axes are exchanged", shape[::-1], (0, 2, 1))]
    for cause, before, order in kinds:

        def apply(x: Array, before: tuple[int, ...] = before, order: tuple[int, ...] = order) -> Array:
            return x.reshape(len(x), *before).transpose(order)

        moved = apply(x[:4])
        if not any(np.array_equal(moved, other) for other in seen):
            seen.append(moved)
            yield Change(cause, f"x = x.reshape{(-1, *before)}.transpose{order}", apply, order=(tuple(before), order))


def _colours(x: Array) -> Iterator[Change]:
    axis = _channel_axis(x.shape)
    if axis is not None and x.shape[axis] == 3:
        cause = "its colours are in reverse order (BGR for RGB)"
        yield Change(cause, f"x = numpy.flip(x, {axis})", lambda x: np.flip(x, axis), colours=True)


def rescalings(x: Array) -> Iterator[Change]:
    """Other ranges of values that the network may want. What the data's own range is, its extremes tell."""
    low, high, given = _range(x)
    span = high - low
    if not span > 0:
        return
    axis = _channel_axis(x.shape)
    axes = tuple(a for a in range(x.ndim) if a != axis)
    mean = x.mean(axes, keepdims=True, dtype=np.float64)
    deviation = np.maximum(x.std(axes, keepdims=True, dtype=np.float64), 1e-9)
    wanted: list[tuple[str, Any, Any]] = [  # (name, factor, offset): x * factor + offset
        ("0...1", 1 / span, -low / span),
        ("0...255", 255 / span, -255 * low / span),
        ("-1...1", 2 / span, -2 * low / span - 1),
        ("-128...127", 255 / span, -255 * low / span - 128),
        ("mean 0 and deviation 1", 1 / deviation, -mean / deviation),
        ("0...1 with light and dark exchanged", -1 / span, high / span),
        ("mean 0 and deviation 1 with light and dark exchanged", -1 / deviation, mean / deviation),
    ]
    if axis is not None and x.shape[axis] == 3:
        shape = [3 if a == axis else 1 for a in range(x.ndim)]
        middle, spread = (np.reshape(numbers, shape) for numbers in _IMAGENET)
        wanted.append(("0...1, standardised by ImageNet's colours", 1 / span / spread, (-low / span - middle) / spread))
    if low == 0 and high not in (1, 255) and x.max() <= 255:
        wanted.append(("0...255 divided by 255", 1 / 255, 0.0))
    for name, factor, offset in wanted:
        if name == given or (np.allclose(factor, 1, rtol=0.02) and np.allclose(np.asarray(offset) / span, 0, atol=0.02)):
            continue

        def apply(x: Array, factor: Any = factor, offset: Any = offset) -> Array:
            return np.asarray(x * factor + offset, np.float32)

        cause = f"the network wants values of {name}, the data has {given}"
        affine = tuple(np.ravel(factor).tolist()), tuple(np.ravel(offset).tolist())
        yield Change(cause, f"x = x * {_code(factor)} + {_code(offset)}", apply, affine)


def _range(x: Array) -> tuple[float, float, str]:
    """The range that values were meant to have, and its name."""
    low, high = float(x.min()), float(x.max())
    if low >= 0 and high <= 1:
        return 0.0, 1.0, "0...1"
    if low >= 0 and 128 <= high <= 255:
        return 0.0, 255.0, "0...255"
    if -1 <= low < -0.5 and 0.5 < high <= 1:
        return -1.0, 1.0, "-1...1"
    if -128 <= low < -64 and 64 < high <= 127:
        return -128.0, 127.0, "-128...127"
    return (0.0, high, f"0...{high:.4g}") if low >= 0 else (low, high, f"{low:.3g}...{high:.3g}")


def _code(value: Any) -> str:
    """A number, or an array of few, as one writes it in Python."""
    array = np.asarray(value)
    if array.size == 1:
        return f"{float(array.reshape(())):.6g}" if array.ndim == 0 else f"{float(array.ravel()[0]):.6g}"
    if (array == array.ravel()[0]).all():
        return f"{float(array.ravel()[0]):.6g}"
    return f"numpy.array({[round(float(number), 6) for number in array.ravel()]}).reshape{array.shape[1:]}"


def assignment(counts: Array) -> np.ndarray[Any, np.dtype[np.int64]]:
    """For each row of (n, n) a column of its own, so that the sum of the chosen elements is largest.

    The Hungarian method by shortest augmenting paths (Jonker and Volgenant 1987), O(n^3).
    """
    cost = -np.asarray(counts, np.float64)
    n = len(cost)
    row_price, column_price = np.zeros(n), np.zeros(n)
    row_of = np.full(n, -1)
    for row in range(n):
        distance, came = np.full(n, np.inf), np.full(n, -1)
        done = np.zeros(n, bool)
        at, column = row, -1
        while True:
            reach = cost[at] - row_price[at] - column_price
            nearer = ~done & (reach < distance)
            distance[nearer], came[nearer] = reach[nearer], column
            nearest = int(np.argmin(np.where(done, np.inf, distance)))
            step = distance[nearest]
            row_price[row] += step
            row_price[row_of[done]] += step
            column_price[done] -= step
            distance[~done] -= step
            done[nearest], column = True, nearest
            if row_of[nearest] < 0:
                break
            at = int(row_of[nearest])
        while column >= 0:  # back along the path
            before = int(came[column])
            row_of[column] = row_of[before] if before >= 0 else row
            column = before
    chosen = np.empty(n, np.int64)
    chosen[row_of] = np.arange(n)
    return chosen
