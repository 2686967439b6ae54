"""How much a channel matters, as its weights tell (Liberis & Lane, section 3.3, "Channel importance").

The scale of its BatchNormalization where it has one, else the norm of the weights that bear it; over all members of a tied
component the maximum counts.
"""

from __future__ import annotations

import numpy as np

from mcuprune.channels.labelling import Channels
from mcuprune.graph.network import Network
from mcuprune.operators.fusion import folded_into
from mcuprune.operators.table import OPS, Mixer


def salience(channels: Channels, network: Network | None = None) -> np.ndarray:
    """float64 (n_components + 1,): the salience of every component; entry 0 stands for what can't be removed.

    network: the weights to look at, where they are not those of ``channels.network``.
    """
    net = network or channels.network
    scores = np.zeros(channels.n_components + 1)
    nodes = {node.name: node for node in net.nodes}
    normalized = {node.inputs[0] for node in net.nodes if node.op == "BatchNormalization"}
    for tail, mixer in folded_into(net).items():  # a bias may stand between the two
        if nodes[tail].op == "BatchNormalization":
            normalized.add(nodes[mixer].outputs[0])
    for slot in channels.slots:
        node = nodes[slot.node]
        entry = OPS[node.op]
        if node.op == "BatchNormalization":
            if slot.index != 1:
                continue
            strength = np.abs(net.constants[slot.constant].astype(np.float64))
        elif isinstance(entry, Mixer) and slot.index == 1 and slot.axis == entry.weight_axes(node)[1]:
            if node.outputs[0] in normalized:
                continue  # the scale of its BatchNormalization counts instead
            weight = np.moveaxis(net.constants[slot.constant].astype(np.float64), slot.axis, 0)
            strength = np.linalg.norm(weight.reshape(len(weight), -1), axis=1)
        else:
            continue
        np.maximum.at(scores, slot.components, strength)
    scores[0] = np.inf
    return scores
