"""What a network knew before it was pruned: whether it comes trained, decides how it is trained on.

All accuracies here are shares of the test set, in onnxruntime.
"""

from __future__ import annotations

import numpy as np

from mcuprune.data.columns import taken
from mcuprune.data.sets import Data
from mcuprune.errors import DataError
from mcuprune.graph.network import Network
from mcuprune.train import evaluate, feeding, head
from mcuprune.train.goal import Goal, is_one_class
from mcuprune.train.tasks.metrics import Metric


def comes_trained(
    net: Network, goal: Goal, metric: Metric, learned: bool, *, from_scratch: bool, keep_weights: bool, train: bool, seed: int
) -> tuple[bool, tuple[str, ...]]:
    """Whether the network counts as trained, and what to say where it is right no oftener than chance.

    metric: its own on the test set; learned: whether that is more than a constant answer gives (``Tally.learned``).
    from_scratch, keep_weights: what the user says of it. train: whether it is to be trained at all.
    Raises DataError where it is at chance because the data reaches it wrongly, as far as that can be known, and nobody said to
    train all the same: a night of training on such data would be lost.
    """
    if not is_one_class(goal.objective) or len(net.inputs) > 1:
        return _knows(net, goal, metric, learned, from_scratch=from_scratch, keep_weights=keep_weights, train=train)
    data, accuracy = goal.data, metric.accuracy or 0.0
    trained = _knows_classes(net, metric, learned, data)
    if trained or from_scratch or keep_weights or feeding.looks_fresh(net):
        return (trained or keep_weights) and not from_scratch, ()
    said = f"right on {accuracy:.1%} of the test set before any change, "
    if learned:
        said += "but the weights of its last layer are like random ones, so that can be luck: "
    else:
        said += "no more than chance can give: "
    said += "check scaling, axes and order of labels"
    model = evaluate.Model(bytes(net.to_proto().SerializeToString()))
    known = feeding.as_given(model, data.train, data.n_classes, seed)
    if known.trained and not learned:
        return True, (
            f"right on {accuracy:.1%} of the test set before any change, no more than chance can give, but on "
            f"{known.accuracy:.1%} of {known.n} training examples: the test set is of another kind, its labels don't go with "
            "its examples, or the network has learned the others by heart; check the test set",
        )
    causes = feeding.explanations(model, data.train, data.n_classes, seed)
    if causes and causes[0].clear and _shows(net, data, causes[0], seed):
        best = causes[0]
        said += (
            f". It is right on {best.accuracy:.1%} of {best.examples} other examples if {best.cause}; to mend that: {best.fix}"
        )
        if train:
            raise DataError(
                f"{net.path}: {said}. To train on the data as it is give --from-scratch, or --keep-weights to start from "
                "what the model knows"
            )
        return False, (said,)
    if not train:
        return False, (said,)
    return False, (f"{said}; nothing simple explains it, so it was trained from scratch (--keep-weights treats it as trained)",)


def _knows(
    net: Network, goal: Goal, metric: Metric, learned: bool, *, from_scratch: bool, keep_weights: bool, train: bool
) -> tuple[bool, tuple[str, ...]]:
    """``comes_trained`` of a network that does something else than name one class."""
    if not goal.labelled:
        fresh = feeding.looks_fresh(net)
        if train and (from_scratch or (fresh and not keep_weights)):
            why = (
                "--from-scratch leaves nothing"
                if from_scratch
                else "its weights look as if nobody had trained them, so there is nothing"
            )
            raise DataError(
                f"{net.path}: {why} to learn from examples without targets: a network teaches itself only what it knows; give "
                "targets, or --keep-weights if it is trained"
            )
        return True, ()
    if learned or from_scratch or keep_weights or feeding.looks_fresh(net):
        return (learned or keep_weights) and not from_scratch, ()
    said = (
        f"its {metric.title} on the test set is {metric.shown()} before any change, no better than a constant answer: check "
        "scaling and axes of the data, and the unit of the targets"
    )
    return False, (f"{said}; it was trained from scratch (--keep-weights treats it as trained)" if train else said,)


def _knows_classes(net: Network, metric: Metric, learned: bool, data: Data) -> bool:
    """Whether a network of this figure on the test set knows the data's classes by their names, and not by luck.

    By its answers (``feeding.Confusion.trained``) and by its weights (``head.shows``).
    """
    if not learned:
        return False
    few = np.random.default_rng(0).permutation(len(data.test.y))[:2000]
    logits = evaluate.Model(bytes(net.to_proto().SerializeToString()))(taken(data.test.x, few))
    if not feeding.Confusion.of(logits, data.test.y[few], data.n_classes).trained:
        return False
    few = few[: head.EXAMPLES]
    return head.shows(net, taken(data.test.x, few)[:], data.test.y[few], data.n_classes, right=metric.accuracy or 0.0)


def _shows(net: Network, data: Data, explanation: feeding.Explanation, seed: int) -> bool:
    """Whether the network's weights, too, say that this is how the data reaches it wrongly (``head.shows``)."""
    some = np.random.default_rng(seed).permutation(len(data.train))[: head.EXAMPLES]
    x, labels = explanation.applied(np.asarray(taken(data.train.x, some)[:]), data.train.y[some])
    return head.shows(net, x, labels, data.n_classes, ways=feeding.ways(data.train), numbered=bool(explanation.number))


def learned_nothing(goal: Goal, metric: Metric, learned: bool, came: Metric | None = None) -> str | None:
    """A note for a network that training left at chance; None for one that has learned something.

    came: of the network as it came, where it came trained: what it knew then was lost, which more training won't bring back.
    """
    if learned or not goal.labelled:
        return None
    advice = "it has learned next to nothing; try more --epochs, another --seed, a lower --lr or a larger budget"
    if came is not None:
        advice = (
            f"it came trained, with {came.shown()}, and training lost that; try less of it (--epochs, --train-compute, "
            "--patience 5), a lower --lr, --optimizer adamw or a larger budget"
        )
    if not is_one_class(goal.objective):
        return f"its {metric.title} on the test set is {metric.shown()}, not clearly better than a constant answer: {advice}"
    data, accuracy, frequent = goal.data, metric.accuracy or 0.0, _frequent(goal.data)
    if frequent == 1:
        return "all labels of the test set are of one class, so nothing tells what was learned; give examples of the others"
    if accuracy > frequent + feeding.FIFTH * (1 - frequent):
        return (
            f"right on {accuracy:.1%} of the test set, where naming its most frequent class is on {frequent:.1%}: "
            f"{len(data.test.y)} examples are too few to tell whether that is more than chance"
        )
    return f"right on {accuracy:.1%} of the test set, where naming its most frequent class is on {frequent:.1%}: {advice}"


def _frequent(data: Data) -> float:
    """The share of the test set that its most frequent class is."""
    return float(np.bincount(data.test.y).max()) / len(data.test.y)
