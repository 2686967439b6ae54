"""Constants as their file stores them: integers behind a DequantizeLinear, put back into a rewritten network.

A network is loaded with its constants as the numbers that it computes with. Where a rewrite leaves such a constant as it was,
the file that is written should store it as the file that was read did. A network keeps symmetric integers itself
(``Network.stored``) and writes them; here are all others: with zero points, of other types, behind several nodes.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnx import ModelProto, NodeProto, TensorProto


def stored_again(model: ModelProto, original: ModelProto) -> ModelProto:
    """``model`` with each initializer that ``original`` dequantises from others of its own stored as there.

    model: a rewrite of ``original`` whose constants keep their names and values where they have these names.
    """
    makers = {name: node for node in original.graph.node for name in node.output if name}
    arrays = {tensor.name: tensor for tensor in original.graph.initializer}
    produced = {name for node in model.graph.node for name in node.output}
    produced |= {value.name for value in model.graph.input}
    produced |= {t.name for t in model.graph.initializer if t.name in arrays and t.raw_data != arrays[t.name].raw_data}
    wanted: dict[str, list[NodeProto]] = {}
    for tensor in model.graph.initializer:
        dequantizing = _constant(tensor.name, makers, arrays)
        if dequantizing and any(node.op_type == "DequantizeLinear" for node in dequantizing):
            inside = {name for node in dequantizing for name in (*node.input, *node.output) if name} - {tensor.name}
            if not inside & produced:  # else a name means something else by now
                wanted[tensor.name] = dequantizing
    result = ModelProto()
    result.CopyFrom(model)
    kept = [tensor for tensor in result.graph.initializer if tensor.name not in wanted]
    names = {tensor.name for tensor in kept}
    needed = [name for nodes in wanted.values() for node in nodes for name in node.input if name in arrays]
    kept += [arrays[name] for name in dict.fromkeys(needed) if name not in names]
    first: dict[str, NodeProto] = {}
    for dequantizing in wanted.values():
        first |= {node.output[0]: node for node in dequantizing}
    nodes = [*first.values(), *result.graph.node]
    del result.graph.initializer[:], result.graph.node[:]
    result.graph.initializer.extend(kept)
    result.graph.node.extend(nodes)
    return result


def _constant(name: str, makers: Mapping[str, NodeProto], arrays: Mapping[str, TensorProto]) -> list[NodeProto]:
    """The nodes that make a tensor of initializers alone, in order; none where it isn't made so."""
    needed_nodes: dict[str, NodeProto] = {}
    todo = [name]
    order: list[str] = []
    while todo:
        tensor = todo.pop()
        if tensor in arrays or not tensor or tensor in needed_nodes:
            continue
        node = makers.get(tensor)
        if node is None:
            return []
        needed_nodes[tensor] = node
        order.append(tensor)
        todo.extend(node.input)
    return [needed_nodes[tensor] for tensor in reversed(order)]
