"""A file with its nodes in another order: all else, weights and quantisation included, stays as it is."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from mcuprune.graph import branches, tails
from mcuprune.graph.network import Network


def reordered(net: Network, outputs: Sequence[str], order: Sequence[str]) -> bytes:
    """The network's file with its nodes in ``order``, which names nodes of ``net``.

    Nodes that are gone from ``net``, since constants or simpler nodes make what they made, come as soon as they are needed,
    unused ones last. outputs: as for ``network.load``.
    """
    model = onnx.load(net.path)
    if outputs:
        model = tails.cut(model, outputs, net.path)
    nodes = list(model.graph.node)
    maker = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    first = {node.name: maker[node.outputs[0]] for node in net.nodes if node.outputs[0] in maker}
    done: set[int] = set()
    ordered = []
    for start in [*(first[name] for name in order if name in first), *range(len(nodes))]:
        stack = [start]
        while stack:
            index = stack[-1]
            unmet = [maker[name] for name in branches.reads(nodes[index]) if name in maker and maker[name] not in done]
            if index not in done and unmet:
                stack.extend(unmet)
                continue
            stack.pop()
            if index not in done:
                done.add(index)
                ordered.append(nodes[index])
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    return bytes(model.SerializeToString(deterministic=True))
