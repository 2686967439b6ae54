"""Whether a network was trained for some classes, by the weights of its last layer; to be right on examples isn't proof of it.

A network with random weights gives one answer to all examples of a class that are much alike. With few classes, many ways to
feed the data and several ways to number the classes, some way makes it right on all of them: then not each example but each
class is one throw of the dice, and more examples prove nothing.

The weights of the last layer are many throws, and they are independent of everything before them as long as nobody trained
them. Training moves the weights of each class towards the mean of what that layer is given for the class: the gradient of the
cross-entropy is made of these means. Adam, which divides by the gradient's size, moves them towards means in units of each
feature's spread. So weights and means are compared as vectors, each with its mean over the classes taken out. Weights that were
drawn at random point anywhere, and how seldom they come near a given direction is known.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import ModelProto, helper

from mcuprune.graph.network import Network
from mcuprune.graph.node import Node
from mcuprune.immutable import immutable
from mcuprune.operators.picking import picked, picks
from mcuprune.train import evaluate
from mcuprune.train.feeding import LEVEL, NAMED
from mcuprune.train.tasks.heads import heads, last_layer, tail

Array = np.ndarray[Any, Any]
#: With fewer numbers than these, those of the classes' mean taken out, a trained layer often looks like a random one.
_FEW = 16
#: Examples that the means of classes are taken of.
EXAMPLES = 200
#: The least spread of a feature, as a share of what features have, that means are divided by.
_SPREAD = 0.03


def lucky(right: float, n_classes: int) -> float:
    """The chance that random answers, one for each class as a whole, are right on such a share of the classes or more."""
    least = math.floor(right * n_classes + 0.5)
    several = (math.comb(n_classes, k) * (n_classes - 1) ** (n_classes - k) for k in range(least, n_classes + 1))
    return float(sum(several) / n_classes**n_classes)


def shows(
    net: Network,
    x: Array,
    labels: Array,
    n_classes: int,
    *,
    right: float = 0.0,
    ways: int = 1,
    numbered: bool = False,
) -> bool:
    """Whether the weights of the last layer, and not luck alone, know these labels of these examples.

    x: float32 (examples, ...) as they reach the network, ``EXAMPLES`` are enough. labels: int (examples,), as the network
    numbers its ``n_classes`` classes. ways: how many ways of feeding this one was chosen from by the network's answers.
    numbered: whether the numbering was chosen by them, too. right: the share of right answers where neither was chosen; with
    many classes it can be more than luck by itself.
    Where the last layer is too small to tell, or of no kind that can be read so, the answers decide by themselves if the data
    is fed and numbered as it came. If that was chosen, they are proof only of a layer that can't be read, with many classes.
    """
    chosen = ways > 1 or numbered
    if not chosen and lucky(right, n_classes) < LEVEL:
        return True
    head = _head(net, n_classes)
    compared = None if head is None else head.compared(net, x)
    if compared is None:
        return n_classes >= NAMED or not chosen
    weights, features = compared
    present = np.unique(labels)
    if len(present) < 2:
        return False
    own = _centred(weights[present])
    means = _centred(np.stack([features[labels == label].mean(0) for label in present]))
    spread = features.std(0)
    directions = (means, means / np.maximum(spread, _SPREAD * np.sqrt((spread**2).mean()) + 1e-30))
    size = (len(present) - 1) * own.shape[1]
    chance = min(log_chance(_cosine(own, direction), size) for direction in directions)
    tries = math.log(len(directions) * ways) + (math.lgamma(n_classes + 1) if numbered else 0.0)  # n! numberings
    return chance + tries < math.log(LEVEL) or (size < _FEW and not chosen)


def _centred(rows: Array) -> Array:
    return np.asarray(rows - rows.mean(0), np.float64)


def _cosine(weights: Array, means: Array) -> float:
    """Of the angle between two arrays as vectors; 0 where either is nothing."""
    sizes = float(np.linalg.norm(weights) * np.linalg.norm(means))
    return float((weights * means).sum()) / sizes if sizes > 0 else 0.0


def log_chance(cosine: float, dimensions: int) -> float:
    """A bound on the logarithm of the probability that the angle of a random vector with a given one has such a cosine or more.

    Of a vector whose direction is uniform, the bound of Brieden, Gritzmann, Kannan, Klee, Lovasz and Simonovits 2001,
    "Deterministic and randomized polynomial-time approximation of radii", Lemma 2.1: it is at most three times the probability.
    0, which says nothing, where the lemma says nothing.
    """
    if cosine <= 0 or cosine**2 < 2 / dimensions:
        return 0.0
    left = max(1e-300, 1 - min(1.0, cosine) ** 2)
    return (dimensions - 1) / 2 * math.log(left) - math.log(2 * cosine * math.sqrt(dimensions))


@immutable
class _Head:
    """The last layer with weights. tensor: what it reads. weights: float64 (classes, inputs, *kernel)."""

    tensor: str
    weights: Array

    def compared(self, net: Network, x: Array) -> tuple[Array, Array] | None:
        """Weights, float64 (classes, features), and what they are multiplied by for examples, float64 (examples, features).

        Where the layer looks at many places these are means over places. None where the tensor's layout doesn't tell.
        """
        given = np.asarray(x if self.tensor in net.inputs else _values(net, self.tensor, x), np.float64)
        classes, inputs, *kernel = self.weights.shape
        if given.ndim < 2 or len(given) != len(x):
            return None
        if not kernel:
            features = given.reshape(len(given), -1, given.shape[-1]).mean(1)
        elif given.shape[2:] == tuple(kernel):  # one place, all of the picture
            features = given.reshape(len(given), -1)
        else:
            features = given.reshape(*given.shape[:2], -1).mean(2)
        weights = self.weights.reshape(classes, inputs, -1).sum(2)
        if kernel and features.shape[1] != inputs:
            weights = self.weights.reshape(classes, -1)
        return (weights, features) if features.shape[1] == weights.shape[1] and np.isfinite(features).all() else None


def _head(net: Network, n_classes: int) -> _Head | None:
    """None where the last layer with weights isn't one that gives a number for each class."""
    layers = [
        node for node in net.nodes if node.op in ("Conv", "Gemm", "MatMul") and any(map(net.is_constant, node.inputs[:2]))
    ]
    if not layers or not net.is_constant(layers[-1].inputs[1]) or net.is_constant(layers[-1].inputs[0]):
        return None
    weights = _by_row(layers[-1], np.asarray(net.constants[layers[-1].inputs[1]], np.float64))
    if weights is not None and (rows := _rows(net, layers[-1], n_classes)) is not None:
        weights = weights[rows]
    return None if weights is None or len(weights) != n_classes else _Head(layers[-1].inputs[0], weights)


def _rows(net: Network, node: Node, n_classes: int) -> Array | None:
    """Of each class, the row of the last layer's weights that makes its number, where nodes behind it put them in an order.

    None where each class has no number of its own there, as where classes are means over places: rows are classes then.
    """
    first = heads(net)[0]
    layer = last_layer(net, first.tensor)
    behind = tail(net, first)
    if layer is None or layer.weight != node.inputs[1] or not all(picks(each, net) for each, _ in behind):
        return None
    rows = layer.of_weight.reshape(net.shapes[first.tensor])
    for each, output in behind:
        rows = picked(each, net, output, rows)
    return rows.ravel() if rows.size == n_classes else None


def _by_row(node: Node, weights: Array) -> Array | None:
    """Weights with the axis of the numbers that the layer makes first; None where there is none."""
    if node.op == "Conv":
        return weights if node.get("group") == 1 else None
    if weights.ndim != 2 or node.get("transA"):
        return None
    return weights if node.get("transB") else weights.T


def _values(net: Network, tensor: str, x: Array) -> Array:
    """A tensor of the network for examples, in onnxruntime, which gives it as one more output."""
    header, names = ModelProto(), net.outputs
    header.CopyFrom(net.header)
    if tensor not in names:
        names = (*names, tensor)
        header.graph.output.append(helper.make_tensor_value_info(tensor, net.dtypes[tensor], [None] * len(net.shapes[tensor])))
    model = evaluate.Model(bytes(replace(net, header=header).to_proto().SerializeToString()), name=net.path)
    return model.outputs([x])[names.index(tensor)]
