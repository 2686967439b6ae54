"""Weights of a network that was cut before it was trained: drawn anew, or scaled, where their inputs have become fewer.

A layer that sums over fewer channels gives smaller outputs than its weights were drawn for. An untrained one is drawn anew for
its new fan-in, at the gain that it had: the standard deviation times the root of the fan-in stays as it was, whatever rule of
initialisation that came from. Nothing is lost, for of what is pruned at initialisation only the widths matter (Frankle et al.,
arXiv 2009.08576, section 4: weights may be drawn anew, and masks shuffled within a layer). A trained one keeps what it has
learned: its weights grow by the root of old over new fan-in, so that sums of independent inputs keep their variance.
"""

from __future__ import annotations

import numpy as np

from mcuprune.channels.labelling import Channels
from mcuprune.graph.network import Network, Node
from mcuprune.operators import attributes
from mcuprune.operators.fusion import folded_into
from mcuprune.operators.table import OPS, Mixer


def rectified(channels: Channels, keep: np.ndarray, *, trained: bool, seed: int) -> Channels:
    """The network cut to a selection, with the weights of layers whose inputs shrank made to fit their new fan-in.

    keep: bool (components + 1,). trained: whether the weights are to be scaled; if not they are drawn anew, their biases are 0
    and their BatchNormalization is as before any training. seed: of what is drawn.
    """
    cut = channels.cut_channels(keep)
    shrunk = _shrunk(channels.network, cut.network)
    values = dict(cut.network.constants)
    followers = _followers(cut.network)
    for index, (node, ratio) in enumerate(shrunk):
        name = node.inputs[1]
        weight = values[name]
        if trained:
            values[name] = (weight * np.sqrt(ratio)).astype(weight.dtype)
            continue
        spread = float(np.sqrt((channels.network.constants[name].astype(np.float64) ** 2).mean() * ratio))
        drawn = np.random.default_rng((seed, index)).normal(0.0, spread, weight.shape)
        values[name] = drawn.astype(weight.dtype)
        for follower in (node, *followers.get(node.name, ())):
            values |= _as_new(follower, cut.network)
    return cut.with_network(cut.network.with_constants(values))


def _shrunk(before: Network, after: Network) -> list[tuple[Node, float]]:
    """Layers whose fan-in has become smaller, with old over new; of a weight that several share, the first."""
    shrunk = []
    seen: set[str] = set()
    for node in after.nodes:
        entry = OPS[node.op]
        if not isinstance(entry, Mixer) or not after.is_constant(node.inputs[1]) or node.inputs[1] in seen:
            continue
        seen.add(node.inputs[1])
        axis, _ = entry.weight_axes(node)
        old, new = before.shapes[node.inputs[1]][axis], after.shapes[node.inputs[1]][axis]
        if new < old and not attributes.is_depthwise(node, before):  # there the axis of inputs is no fan-in
            shrunk.append((node, old / new))
    return shrunk


def _followers(net: Network) -> dict[str, list[Node]]:
    """The bias Adds and BatchNormalizations behind each layer, by its name."""
    nodes = {node.name: node for node in net.nodes}
    followers: dict[str, list[Node]] = {}
    for tail, mixer in folded_into(net).items():
        followers.setdefault(mixer, []).append(nodes[tail])
    return followers


def _as_new(node: Node, net: Network) -> dict[str, np.ndarray]:
    """Constants of a layer's bias or BatchNormalization as they are before any training."""
    if node.op == "BatchNormalization":
        starts = {1: 1.0, 2: 0.0, 3: 0.0, 4: 1.0}
    else:
        starts = {
            index: 0.0 for index in range(len(node.inputs)) if OPS[node.op].role(node, index) == "bias" or node.op == "Add"
        }
    names = {node.inputs[index]: value for index, value in starts.items() if node.inputs[index]}
    return {
        name: np.full_like(net.constants[name], value)
        for name, value in names.items()
        if net.is_constant(name) and len(net.consumers[name]) == 1
    }
