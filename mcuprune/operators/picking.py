"""Where elements go: operators that make nothing of the numbers they read, and only hand some of them on in another place."""

from __future__ import annotations

from typing import Any

import numpy as np

from mcuprune.graph.network import Network, Node, is_float
from mcuprune.operators import attributes

Array = np.ndarray[Any, Any]

#: Every element is where it was.
KEEP_PLACES = frozenset({"Identity", "Dropout", "QuantizeLinear", "DequantizeLinear"})
_VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
_PICKS = frozenset({"Transpose", "Slice", "Gather", "Split"})


def picks(node: Node, net: Network) -> bool:
    """Whether every number of a node's outputs is one number of its first input, and which one is fixed."""
    if node.op == "Cast":
        return all(is_float(net.dtypes[name]) for name in (node.inputs[0], node.outputs[0]))
    return node.op in KEEP_PLACES or node.op in _VIEWS or node.op in _PICKS


def picked(node: Node, net: Network, output: str, given: Array) -> Array:
    """What ``output`` of a node that ``picks`` holds where its first input holds ``given``, an array of that input's shape."""
    if node.op == "Transpose":
        return given.transpose(attributes.permutation(node, given.ndim))
    if node.op == "Slice":
        return given[np.ix_(*attributes.slice_ranges(node, given.shape))]
    if node.op == "Gather":
        return np.take(given, np.asarray(node.attrs["indices"]), attributes.axis(node, given.ndim))
    if node.op == "Split":
        axis = attributes.axis(node, given.ndim)
        start = sum(net.shapes[name][axis] for name in node.outputs[: node.outputs.index(output)])
        return given.take(range(start, start + net.shapes[output][axis]), axis)
    return given.reshape(net.shapes[output])
