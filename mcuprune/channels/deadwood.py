"""Channels that nothing depends on but a constant: found in a network with many zero weights, and removed exactly.

A channel is *unread* where all that reads it has zero weights for it, and *dead* where all weights that bear it are zero: what
it holds is then its biases alone, carried through activations, and the same at every place and for every example. A dead
channel goes, and what its constant gave to each reader goes into that reader's bias. That is exact where every reader sees the
constant at all of its taps; not so at the border of a convolution with zero padding, where it sees zeros. Such a channel
stays, unless its constant is zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from mcuprune.channels.labelling import Channels, Slot
from mcuprune.graph.network import Network, Node
from mcuprune.operators import attributes
from mcuprune.operators.table import OPS, Mixer

#: Values of a channel that differ by less than this, relative to it, are one constant: a mean of equal values may round.
_EQUAL = 1e-5


def readings(channels: Channels) -> set[str]:
    """The tensors that mixing weights read: what ``removable`` wants to know the range of."""
    nodes = {node.name: node for node in channels.network.nodes}
    return {nodes[slot.node].inputs[0] for slot in channels.slots if slot.mixes}


def removable(channels: Channels, ranges: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, Network]:
    """The selection without removable channels, bool (components + 1,), and the whole network with biases that allow the cut.

    channels: a labelled network without BatchNormalization. ranges: of each tensor of ``readings``, the least and the largest
    value of every channel over examples and places: float (channels,) each, channels as ``channels.along`` has them.
    The network's ``channels.with_network(network).cut(keep)`` computes what the network did.
    """
    borne = _without_weights(channels)
    unread = _unread(channels)
    allowed = unread.copy()
    allowed[borne] = True
    allowed[0] = False
    for slot in channels.slots:
        if slot.mixes:
            for component in _refused(channels, slot, ranges, allowed & ~unread):
                allowed[component] = False
    keep = ~allowed
    for group in channels.groups:
        ids = np.array(group.components)
        missing = group.minimum - int(keep[ids].sum())
        keep[ids[~keep[ids]][: max(0, missing)]] = True
    return keep, _with_constants(channels, ranges, ~keep & ~unread)


def _without_weights(channels: Channels) -> np.ndarray:
    """bool (components + 1,): components all of whose bearing weights are zero."""
    idle, nodes = np.ones(channels.n_components + 1, dtype=bool), {node.name: node for node in channels.network.nodes}
    borne = np.zeros(channels.n_components + 1, dtype=bool)
    for slot in channels.slots:
        entry = OPS[nodes[slot.node].op]
        if isinstance(entry, Mixer) and slot.index == 1 and slot.axis == entry.weight_axes(nodes[slot.node])[1]:
            weight = np.moveaxis(channels.network.constants[slot.constant], slot.axis, 0)
            alive = slot.components[np.abs(weight.reshape(len(weight), -1)).max(axis=1) > 0]
            idle[alive] = False
            borne[slot.components] = True
    return idle & borne


def _unread(channels: Channels) -> np.ndarray:
    """bool (components + 1,): components that every reader has zero weights for."""
    unread = np.ones(channels.n_components + 1, dtype=bool)
    for slot in channels.slots:
        if slot.mixes:
            weight = channels.network.constants[slot.constant]
            spread = np.broadcast_to(slot.spread(weight.shape), weight.shape)
            unread[np.unique(spread[weight != 0])] = False
    unread[0] = False
    return unread


def _refused(
    channels: Channels, slot: Slot, ranges: Mapping[str, tuple[np.ndarray, np.ndarray]], asked: np.ndarray
) -> set[int]:
    """Components, of those that are asked for, whose constant can't be carried into the bias of a reader."""
    node = next(node for node in channels.network.nodes if node.name == slot.node)
    low, high = ranges[node.inputs[0]]
    labels = channels.along[node.inputs[0]].labels
    everywhere = _sees_all(node, channels.network) and slot.by_group is None and len(labels) == len(slot.components)
    refused = set()
    for position in np.flatnonzero(asked[labels]):
        constant = high[position] - low[position] <= _EQUAL * max(1.0, abs(high[position]))
        zero = max(abs(low[position]), abs(high[position])) == 0
        if not (zero or (constant and everywhere)):
            refused.add(int(labels[position]))
    return refused


def _sees_all(node: Node, net: Network) -> bool:
    """Whether a constant channel gives a mixer the same at all places of its output, and it has, or can have, a bias."""
    if node.op == "Conv":
        return not any(map(any, attributes.pads(node, net)))
    return node.op == "Gemm" and attributes.factors(node) == (1.0, 1.0)


def _with_constants(channels: Channels, ranges: Mapping[str, tuple[np.ndarray, np.ndarray]], gone: np.ndarray) -> Network:
    """The network whose readers have the constants of removed channels in their biases."""
    net, names = channels.network, channels.network.names()
    constants, nodes = dict(net.constants), {node.name: node for node in net.nodes}
    for slot in channels.slots:
        node = nodes[slot.node]
        if not slot.mixes or slot.by_group is not None or not gone[slot.components].any() or not _sees_all(node, net):
            continue
        value = ((ranges[node.inputs[0]][0] + ranges[node.inputs[0]][1]) / 2).astype(np.float64)
        weight = np.moveaxis(net.constants[slot.constant].astype(np.float64), slot.axis, 0)
        mixer = OPS[node.op]
        assert isinstance(mixer, Mixer)
        out = mixer.weight_axes(node)[1]
        rest = tuple(axis for axis in range(weight.ndim) if axis not in (0, out if out > slot.axis else out + 1))
        matrix = weight.sum(axis=rest)  # (inputs, outputs)
        added = (np.where(gone[slot.components], value, 0.0) @ matrix).astype(np.float32)
        if len(node.inputs) > 2 and node.inputs[2]:
            old = constants[node.inputs[2]]
            constants[node.inputs[2]] = (old + added.reshape((1,) * (old.ndim - 1) + (-1,))).astype(old.dtype)
        else:
            name = names.free(f"{node.name}/bias")
            constants[name] = added
            nodes[slot.node] = replace(node, inputs=(*node.inputs[:2], name))
    return net.rebuilt([nodes[node.name] for node in net.nodes], constants)
