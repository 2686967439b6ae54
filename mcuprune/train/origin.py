"""What a network knew before it was pruned: whether it comes trained, decides how it is trained on.

All accuracies here are shares of the test set, in onnxruntime.
"""

from __future__ import annotations

import numpy as np

from mcuprune.data.sets import Data
from mcuprune.errors import DataError
from mcuprune.graph.network import Network
from mcuprune.train import evaluate, feeding


def comes_trained(
    net: Network, data: Data, accuracy: float, *, from_scratch: bool, keep_weights: bool, train: bool, seed: int
) -> tuple[bool, tuple[str, ...]]:
    """Whether the network counts as trained, and what to say where it is right no oftener than chance.

    accuracy: its own. from_scratch, keep_weights: what the user says of it. train: whether it is to be trained at all.
    Raises DataError where it is at chance because the data reaches it wrongly, as far as that can be known, and nobody said to
    train all the same: a night of training on such data would be lost.
    """
    trained = _knows_classes(net, accuracy, data)
    if trained or from_scratch or keep_weights or feeding.looks_fresh(net):
        return (trained or keep_weights) and not from_scratch, ()
    said = (
        f"right on {accuracy:.1%} of the test set before any change, no more than chance can give: "
        "check scaling, axes and order of labels"
    )
    model = evaluate.Model(bytes(net.to_proto().SerializeToString()))
    causes = feeding.explanations(model, data.train, data.n_classes, seed)
    if causes and causes[0].clear:
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


def _knows_classes(net: Network, accuracy: float, data: Data) -> bool:
    """Whether a network of this accuracy knows the data's classes by their names (``feeding.Confusion.trained``)."""
    if not has_learned(accuracy, data):
        return False
    few = np.random.default_rng(0).permutation(len(data.test.y))[:2000]
    logits = evaluate.Model(bytes(net.to_proto().SerializeToString()))(data.test.x[few])
    return feeding.Confusion.of(logits, data.test.y[few], data.n_classes).trained


def has_learned(accuracy: float, data: Data) -> bool:
    """Whether an accuracy on the test set is more than chance gives (``feeding.learned``)."""
    n = len(data.test.y)
    return feeding.learned(round(accuracy * n), n, _frequent(data))


def learned_nothing(accuracy: float, data: Data) -> str | None:
    """A note for a network that training left at chance; None for one that has learned something."""
    if has_learned(accuracy, data):
        return None
    return (
        f"right on {accuracy:.1%} of the test set, where naming its most frequent class is on {_frequent(data):.1%}: "
        "it has learned next to nothing; try more --epochs, another --seed, a lower --lr or a larger budget"
    )


def _frequent(data: Data) -> float:
    """The share of the test set that its most frequent class is."""
    return float(np.bincount(data.test.y).max()) / len(data.test.y)
