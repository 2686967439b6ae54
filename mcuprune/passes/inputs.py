"""Inputs of integers, as images of bytes are, made to take floats: what trains and quantises a network feeds it these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from onnx import ModelProto, TensorProto, helper

from mcuprune.errors import UnsupportedOperator
from mcuprune.graph.network import Network, Node, is_float

_FLOAT = int(TensorProto.FLOAT)
#: Types that a quantiser stores, and what says their range; other integers have none.
_STORED = (int(TensorProto.UINT8), int(TensorProto.INT8))
#: What only moves the integers on their way to where they become floats.
_MOVING = ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Slice")


def with_float_inputs(net: Network) -> tuple[Network, tuple[str, ...]]:
    """The network with every input of integers that become floats first of all as one of floats, and notes that say so.

    Behind a DequantizeLinear they are the reals that the integers stand for; behind a Cast the same numbers. A quantiser keeps
    what a type of 8 bits says of their range. Integers that are used as such, as indices and truth values are, stay.
    Raises UnsupportedOperator for a DequantizeLinear of other types, or beside a Cast of the same integers.
    """
    notes = []
    for name in net.inputs:
        ends = None if is_float(net.dtypes[name]) else _ends(net, name)
        if not ends:
            continue
        net, how = _as_floats(net, name, {node.name: node for node in ends})
        notes.append(f"{net.path}: input '{name}' takes {how} as float32 from here on")
    return net, tuple(notes)


def _as_floats(net: Network, name: str, ends: Mapping[str, Node]) -> tuple[Network, str]:
    stored = net.dtypes[name] in _STORED
    readers = [node for node in ends.values() if node.op == "DequantizeLinear"]
    if readers and len(readers) < len(ends):
        cast = next(node for node in ends.values() if node.op == "Cast")
        _refuse(net, name, cast, "beside a DequantizeLinear of the same integers")
    if readers and not stored:
        _refuse(net, name, readers[0], f"of {helper.tensor_dtype_to_np_dtype(net.dtypes[name])}")
    names, constants, dtype = net.names(), dict(net.constants), helper.tensor_dtype_to_np_dtype(net.dtypes[name])
    if not stored:
        return _retyped(net, name, [_without(node, ends) for node in net.nodes], constants), f"the numbers of its {dtype}"
    if readers:
        parameters = tuple(readers[0].inputs[1:])
        how = f"the reals that its {dtype} stand for"
    else:
        parameters = (names.free(f"{name}/scale"), names.free(f"{name}/zero_point"))
        constants |= {parameters[0]: np.ones((), np.float32), parameters[1]: np.zeros((), dtype)}
        how = f"the numbers of its {dtype}"
    held = names.free(f"{name}/integers")
    nodes = [Node(held, "QuantizeLinear", (name, *parameters), (held,))]
    for node in net.nodes:
        inputs = tuple(held if tensor == name else tensor for tensor in node.inputs)
        if node.name in ends and node.op == "Cast":
            node = Node(node.name, "DequantizeLinear", (inputs[0], *parameters), node.outputs)
        else:
            node = replace(node, inputs=inputs)
        nodes.append(node)
    return _retyped(net, name, nodes, constants), how


def _ends(net: Network, name: str) -> list[Node] | None:
    """Where integers become floats; None where something else reads them."""
    ends: list[Node] = []
    for node in net.consumers.get(name, ()):
        parameters = [net.constants.get(parameter) for parameter in node.inputs[1:] if parameter]
        single = all(parameter is not None and parameter.size == 1 for parameter in parameters)
        if (node.op == "DequantizeLinear" and single) or (node.op == "Cast" and is_float(node.get("to"))):
            ends.append(node)
            continue
        moves = node.op in _MOVING and node.inputs[0] == name and not set(node.outputs) & set(net.outputs)
        further = _ends(net, node.outputs[0]) if moves else None
        if further is None:
            return None
        ends += further
    return ends


def _refuse(net: Network, name: str, node: Node, how: str) -> None:
    raise UnsupportedOperator(
        f"{net.path}: node '{node.name}' ({node.op}) reads input '{name}' {how}; prune takes integers that become floats by a "
        "Cast or a DequantizeLinear of 8 bits before anything else: export the model with a float input"
    )


def _without(node: Node, ends: Mapping[str, Node]) -> Node:
    """A node of the graph whose integers are floats now."""
    return Node(node.name, "Identity", node.inputs, node.outputs) if node.name in ends else node


def _retyped(net: Network, name: str, nodes: list[Node], constants: dict[str, np.ndarray]) -> Network:
    header = ModelProto()
    header.CopyFrom(net.header)
    for value in header.graph.input:
        if value.name == name:
            value.type.tensor_type.elem_type = _FLOAT
    return replace(net, header=header).rebuilt(nodes, constants)
