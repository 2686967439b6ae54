"""What each node costs, written once, as arithmetic over the sizes of tensor axes.

Multiply-accumulates count convolutions and products with constant matrices, nothing else. Flash is 1 byte a weight, 4 a bias, 4
of scale for each output channel of a weight, 1 for each element of any other constant that is data at run time; foldable
BatchNormalizations are folded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from mcuprune.graph.network import Network, Node
from mcuprune.immutable import immutable
from mcuprune.operators.fusion import channel_axis, elements, folded_into
from mcuprune.operators.table import OPS, Dim, Quantization

WEIGHT_BYTES, BIAS_BYTES, SCALE_BYTES, DATA_BYTES = 1, 4, 4, 1


@immutable
class NodeCost:
    """What one node costs, in integers or polynomials. Constants count at the first node that reads them."""

    macs: Any
    flash: Any
    params: Any


def macs(net: Network) -> int:
    """Multiply-accumulates of one inference of the network as it is."""
    return sum(int(cost.macs) for cost in costs(net, lambda tensor, axis: net.shapes[tensor][axis]).values())


def costs(net: Network, dim: Dim) -> dict[str, NodeCost]:
    """Cost of every node: its multiply-accumulates, bytes of constants, and weights plus biases."""
    mixer_of = folded_into(net)
    tails: dict[str, list[Node]] = {}
    for node in net.nodes:
        if node.name in mixer_of:
            tails.setdefault(mixer_of[node.name], []).append(node)
    counted: set[str] = set()
    cost_of_node: dict[str, NodeCost] = {}
    for node in net.nodes:
        entry = OPS[node.op]
        flash: Any = 0
        params: Any = 0
        has_bias = False
        for index, name in enumerate(node.inputs):
            if not net.is_constant(name) or isinstance(entry, Quantization) or node.name in mixer_of:
                continue
            role = entry.role(node, index)
            has_bias = has_bias or role == "bias"
            if name in counted or node.op == "BatchNormalization":
                continue
            counted.add(name)
            size = elements(net, name, dim)
            if role == "weight":
                channels = dim(node.outputs[0], channel_axis(node, net))
                flash, params = flash + WEIGHT_BYTES * size + SCALE_BYTES * channels, params + size
            elif role == "bias":
                flash, params = flash + BIAS_BYTES * size, params + size
            else:
                flash = flash + DATA_BYTES * size
        if node.op == "BatchNormalization" and node.name not in mixer_of and not counted.issuperset(node.inputs[1:]):
            counted.update(node.inputs[1:])  # its four vectors come to a scale and a shift
            flash = flash + 2 * DATA_BYTES * dim(node.outputs[0], 1)
        if node.name in tails and not has_bias and _gains_bias(tails[node.name], counted, net):
            channels = dim(node.outputs[0], channel_axis(node, net))
            flash, params = flash + BIAS_BYTES * channels, params + channels
        cost_of_node[node.name] = NodeCost(entry.macs(node, net, dim), flash, params)
    return cost_of_node


def _gains_bias(tails: Sequence[Node], counted: set[str], net: Network) -> bool:
    """Whether the nodes that are folded into a mixer give it a bias that isn't counted yet. ``counted`` gets its constants."""
    if any(tail.op == "BatchNormalization" for tail in tails):
        return True
    stored = {name for tail in tails for name in tail.inputs if net.is_constant(name)}
    fresh = not stored <= counted
    counted |= stored
    return fresh


class Terms:
    """What the cost of a node is written in: a network, and the sizes of its axes as integers or as polynomials of widths.

    dim: the size of an axis of a tensor, ``dim(tensor, axis)``.
    """

    def __init__(self, net: Network, dim: Dim) -> None:
        self.network, self.dim = net, dim

    @cached_property
    def costs(self) -> Mapping[str, NodeCost]:
        """The costs of every node, by its name."""
        return costs(self.network, self.dim)
