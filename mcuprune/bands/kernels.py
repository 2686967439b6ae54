"""Convolutions whose kernels get rows and columns of zeros, so that TensorFlow Lite pads them by itself.

TensorFlow Lite's kernels pad SAME or not at all. A convolution with stride 2 that pads evenly on both sides, as PyTorch's do,
is neither on an image of even size: an operator of its own has to write the padded image first, which is as large as the image
once more. The same kernel with a row and a column of zeros behind it pads SAME, and computes the same numbers: an integer times
zero is nothing. It takes more multiply-accumulates and more weights.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from mcuprune.graph.network import Network, Node, Stored
from mcuprune.operators import attributes


def rows_to_add(node: Node, net: Network) -> tuple[int, ...]:
    """How many rows of zeros a convolution's kernel needs behind each axis of space; none where they wouldn't help.

    For SAME, TensorFlow Lite puts half of all padding in front, rounded down, where the output has ceil(size / stride) rows.
    """
    if node.op != "Conv" or not net.is_constant(node.inputs[1]) or net.sole_consumer(node.inputs[1]) is None:
        return ()
    sizes, outs = net.shapes[node.inputs[0]][2:], net.shapes[node.outputs[0]][2:]
    kernel, rank = attributes.kernel(node, net), len(sizes)
    strides, dilations = attributes.strides(node, rank), attributes.dilations(node, rank)
    added = []
    for axis, (before, _) in enumerate(attributes.pads(node, net)):
        if outs[axis] != -(-sizes[axis] // strides[axis]):
            return ()
        total = (outs[axis] - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1 - sizes[axis]
        more = [e for e in range(kernel[axis]) if max(0, total + e * dilations[axis]) // 2 == before]
        if not more:
            return ()
        added.append(more[0])
    return tuple(added) if any(added) else ()


def embedded(net: Network, names: Collection[str]) -> Network:
    """The network with the kernels of these convolutions among zeros; names of nodes and constants stay.

    names: of nodes for which ``rows_to_add`` finds some.
    """
    nodes, constants, stored = [], dict(net.constants), dict(net.stored)
    for node in net.nodes:
        more = rows_to_add(node, net) if node.name in names else ()
        if not more:
            nodes.append(node)
            continue
        weight = node.inputs[1]
        wider = [(0, 0), (0, 0), *((0, rows) for rows in more)]
        constants[weight] = np.pad(net.constants[weight], wider)
        if (behind := net.stored.get(weight)) is not None:
            stored[weight] = Stored(np.pad(behind.integers, wider), behind.scale, behind.axis, constants[weight])
        pads = attributes.pads(node, net)
        dilations = attributes.dilations(node, len(more))
        after = [pad + rows * step for (_, pad), rows, step in zip(pads, more, dilations, strict=True)]
        attrs = {name: value for name, value in node.attrs.items() if name not in ("auto_pad", "kernel_shape")}
        attrs["pads"] = (*(pad for pad, _ in pads), *after)
        nodes.append(replace(node, attrs=attrs))
    return net.rewired(nodes, constants, stored=stored)
