"""Constants as their file stores them: integers behind a DequantizeLinear, put back into a rewritten network.

A network is loaded with its constants as the numbers that it computes with. Where a rewrite leaves such a constant as it was,
the file that is written should store it as the file that was read did; where it made another of it, as the integers of that.
A network keeps symmetric integers itself (``Network.stored``) and writes them; here are all others: with zero points, of other
types, behind several nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from mcuprune.graph import qlinear
from mcuprune.graph.folding import Folding
from mcuprune.names import Names


def stored_again(model: ModelProto, original: ModelProto) -> ModelProto:
    """``model`` with each initializer that ``original`` dequantises from others of its own stored as integers again.

    model: a rewrite of ``original``. What it computes stays: a constant that has its name from there and other values gets
    integers of its own in the same scale, and stays as it is where it has none.
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
            if not inside & produced:  # else another tensor has one of these names by now
                wanted[tensor.name] = dequantizing
    known = _computed(wanted.values(), arrays, original)
    names = Names(_names(model, original))
    added: list[TensorProto] = []
    for tensor in model.graph.initializer:
        if tensor.name in wanted and not np.array_equal(value := numpy_helper.to_array(tensor), known[tensor.name]):
            last = wanted.pop(tensor.name)[-1]
            if (own := _integers(last, value, known, names)) is not None:
                wanted[tensor.name] = [own[0]]
                added += own[1]
    return _written(model, wanted, {**arrays, **{tensor.name: tensor for tensor in added}})


def _written(model: ModelProto, wanted: Mapping[str, list[NodeProto]], arrays: Mapping[str, TensorProto]) -> ModelProto:
    """``model`` with initializers made by nodes instead. wanted: these nodes, by initializer. arrays: what they read."""
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


def _computed(
    chains: Iterable[list[NodeProto]], arrays: Mapping[str, TensorProto], original: ModelProto
) -> dict[str, np.ndarray]:
    """What nodes of ``original`` make of its initializers, and these, by tensor."""
    nodes = list({node.output[0]: node for chain in chains for node in chain}.values())
    reads = {name for node in nodes for name in node.input if name in arrays}
    header = ModelProto()
    header.ir_version = original.ir_version
    header.opset_import.extend(original.opset_import)
    folding = Folding("", header, {}, [], {name: numpy_helper.to_array(arrays[name]) for name in reads})
    folding.fold(nodes)
    return folding.constants


def _integers(
    node: NodeProto, value: np.ndarray, known: Mapping[str, np.ndarray], names: Names
) -> tuple[NodeProto, list[TensorProto]] | None:
    """A constant in the scale of a DequantizeLinear, with the arrays that it then reads; None where that isn't exact."""
    given = {attribute.name: attribute.i for attribute in node.attribute}
    if node.op_type != "DequantizeLinear" or given.get("block_size", 0):
        return None
    was, scale = known[node.input[0]], known[node.input[1]]
    zero = known[node.input[2]] if len(node.input) > 2 and node.input[2] else np.zeros(scale.shape, was.dtype)
    axis = given.get("axis", 1) % max(1, value.ndim)
    if was.dtype.kind not in "iu" or not scale.all() or (scale.size > 1 and value.shape[axis] != scale.size):
        return None
    around = [-1 if scale.size > 1 and place == axis else 1 for place in range(value.ndim)]
    bounds = np.iinfo(was.dtype)
    with np.errstate(all="ignore"):  # what is no number isn't exact either
        steps = np.round(value / scale.astype(np.float64).reshape(around)) + zero.astype(np.float64).reshape(around)
        integers = np.clip(steps, bounds.min, bounds.max).astype(was.dtype)
    if not np.array_equal(qlinear.dequantized(integers, scale, zero, axis, 0), value):
        return None
    inputs = [names.free(f"{node.output[0]}/{part}") for part in (was.dtype, "scale", "zero_point")]
    dequantizer = helper.make_node(
        "DequantizeLinear", inputs, node.output, name=names.free(f"{node.output[0]}/DequantizeLinear")
    )
    dequantizer.attribute.extend(node.attribute)
    arrays = (integers, scale, zero)
    return dequantizer, [numpy_helper.from_array(array, name) for array, name in zip(arrays, inputs, strict=True)]


def _names(*models: ModelProto) -> Iterable[str]:
    """The names of all tensors and nodes of some graphs."""
    for model in models:
        for part in (model.graph.input, model.graph.output, model.graph.initializer):
            yield from (item.name for item in part)
        for node in model.graph.node:
            yield from (node.name, *node.input, *node.output)


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
