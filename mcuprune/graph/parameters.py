"""Nodes in and out of ONNX: where each opset keeps the parameters of an operator.

A parameter (axes, pads, a target shape, clip limits) is an attribute in one opset and a constant input in another. In
``Node.attrs`` it always stands under one name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from mcuprune.errors import ModelError, UnsupportedOperator
from mcuprune.graph.inference import first_line
from mcuprune.graph.node import Node, Shape
from mcuprune.names import Names

#: For each operator, the inputs that are parameters, by the name under which ``Node.attrs`` has them. Where an opset's
#: schema calls one differently (Pad's ``constant_value``, once ``value``), the other spelling follows after a slash.
PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "Clip": ("min", "max"),
    "Dropout": ("ratio", "training_mode"),
    "Expand": ("shape",),
    "Gather": ("indices",),
    "Pad": ("pads", "value/constant_value", "axes"),
    "ReduceL1": ("axes",),
    "ReduceL2": ("axes",),
    "ReduceLogSum": ("axes",),
    "ReduceLogSumExp": ("axes",),
    "ReduceMax": ("axes",),
    "ReduceMean": ("axes",),
    "ReduceMin": ("axes",),
    "ReduceProd": ("axes",),
    "ReduceSum": ("axes",),
    "ReduceSumSquare": ("axes",),
    "Reshape": ("shape",),
    "Resize": ("roi", "scales", "sizes"),
    "Slice": ("starts", "ends", "axes", "steps"),
    "Split": ("split",),
    "Squeeze": ("axes",),
    "Tile": ("repeats",),
    "TopK": ("k/K",),
    "Unsqueeze": ("axes",),
    "Upsample": ("scales",),
}

#: Operators whose outputs after the first may be left out, and mean nothing else by being there.
_GIVING_MORE = ("Dropout", "LayerNormalization", "MaxPool")


def nodes_of(protos: Sequence[NodeProto], constants: Mapping[str, np.ndarray], opset: int, path: str) -> tuple[Node, ...]:
    """Nodes with what is constant of their inputs as attributes. Raises ModelError or UnsupportedOperator, naming the node."""
    taken: set[str] = set()
    nodes = []
    for index, proto in enumerate(protos):
        name = proto.name or f"{proto.op_type}_{index}"
        while name in taken:
            name += "_"
        taken.add(name)
        try:
            attrs: dict[str, Any] = {a.name: _plain(helper.get_attribute_value(a)) for a in proto.attribute}
        except Exception as error:
            raise ModelError(f"{path}: node '{name}' has a damaged attribute ({first_line(error)}); export it again") from None
        inputs = list(proto.input)
        origins = {}
        for parameter, index_in in _parameter_inputs(proto.op_type, opset).items():
            if index_in >= len(inputs) or not inputs[index_in]:
                continue
            origin = inputs[index_in]
            if origin not in constants:
                then = "export with static shapes, or with a constant in its place"
                if proto.op_type == "Gather" and inputs[0] in constants:  # an embedding of tokens
                    then = "look the rows of the table up in your own code, and export the network that takes them as its input"
                raise UnsupportedOperator(
                    f"{path}: node '{name}' ({proto.op_type}) computes its {parameter} from the data; mcuprune takes fixed "
                    f"ones: {then}",
                    tensor=proto.output[0],
                )
            attrs[parameter] = _plain(constants[origin])
            if isinstance(attrs[parameter], np.ndarray) and parameter != "indices":
                shape = list(constants[origin].shape)
                raise ModelError(f"{path}: node '{name}' ({proto.op_type}) has {parameter} of shape {shape}, not a list")
            origins[parameter] = origin
            inputs[index_in] = ""
        while inputs and not inputs[-1]:
            inputs.pop()
        node = Node(name, proto.op_type, tuple(inputs), tuple(proto.output), attrs, origins)
        if node.op == "Pad" and node.get("mode") != "constant":  # then its value has no say
            attrs, origins = ({key: known[key] for key in known if key != "value"} for known in (attrs, origins))
            node = replace(node, attrs=attrs, origins=origins)
        nodes.append(node)
    return tuple(nodes)


def _parameter_inputs(op: str, opset: int) -> dict[str, int]:
    """Where this opset keeps an operator's parameters among its inputs: name in ``attrs`` -> index."""
    if op not in PARAMETERS:
        return {}
    schema = onnx.defs.get_schema(op, opset, "")
    index = {formal.name: position for position, formal in enumerate(schema.inputs)}
    places = {spec.split("/")[0]: [index[n] for n in spec.split("/") if n in index] for spec in PARAMETERS[op]}
    return {name: tensors[0] for name, tensors in places.items() if tensors}


def _plain(value: Any) -> Any:
    """An attribute as Python: bytes to str, lists to tuples, 0-d arrays to numbers, 1-d arrays to tuples."""
    if isinstance(value, TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if isinstance(value, np.ndarray):
        return value.item() if value.ndim == 0 else tuple(value.tolist()) if value.ndim == 1 else value
    if isinstance(value, (list, tuple)) or type(value).__name__.startswith("Repeated"):
        return tuple(_plain(item) for item in value)
    return value


def node_protos(
    nodes: Sequence[Node],
    constants: Mapping[str, np.ndarray],
    opset: int,
    dtypes: Mapping[str, int],
    graph_inputs: Sequence[str] = (),
) -> tuple[list[NodeProto], dict[str, np.ndarray]]:
    """The nodes as this opset writes them, and the constants that hold their parameters."""
    taken = {*graph_inputs, *constants}
    for node in nodes:
        taken.update(node.inputs, node.outputs)
    protos = []
    parameters: dict[str, np.ndarray] = {}
    for node in nodes:
        attrs = dict(node.attrs)
        inputs = list(node.inputs)
        for parameter, index in _parameter_inputs(node.op, opset).items():
            if parameter not in attrs:
                continue
            value = _typed(node, parameter, attrs.pop(parameter), dtypes)
            inputs.extend([""] * (index + 1 - len(inputs)))
            inputs[index] = _place(node, parameter, value, taken, parameters)
        proto = helper.make_node(node.op, inputs, node.outputs, name=node.name)
        proto.attribute.extend(helper.make_attribute(key, value) for key, value in sorted(attrs.items()) if _writable(value))
        protos.append(proto)
    return protos, parameters


def _writable(value: Any) -> bool:
    return not (isinstance(value, tuple) and not value)  # an empty list has no type to write


def _typed(node: Node, parameter: str, value: Any, dtypes: Mapping[str, int]) -> np.ndarray:
    if parameter in ("min", "max", "value"):
        return np.asarray(value, helper.tensor_dtype_to_np_dtype(dtypes.get(node.inputs[0], TensorProto.FLOAT)))
    if parameter in ("scales", "roi", "ratio"):
        return np.asarray(value, np.float32)
    if parameter == "training_mode":
        return np.asarray(value, np.bool_)
    array = np.asarray(value, np.int64)
    return array.reshape(1) if parameter == "k" else array


def _place(node: Node, parameter: str, value: np.ndarray, taken: set[str], parameters: dict[str, np.ndarray]) -> str:
    """The name of the constant that holds a parameter: its own of old, unless a tensor or another value has that name.

    taken: names of tensors.
    """
    wanted = f"{node.name}/{parameter}"
    for name in (node.origins.get(parameter), wanted):
        if name and name not in taken and (name not in parameters or _same(parameters[name], value)):
            parameters[name] = value
            return name
    name = Names([*taken, *parameters]).free(wanted)
    parameters[name] = value
    return name


def _same(first: np.ndarray, other: np.ndarray) -> bool:
    return first.dtype == other.dtype and np.array_equal(first, other)


def batch_free(node: Node, shapes: Mapping[str, Shape]) -> Node:
    """A Reshape that writes the batch's size 1 out says "as it was" (0) instead, so that it works at any batch size."""
    if node.op != "Reshape":
        return node
    if node.get("allowzero"):
        if 0 in node.attrs["shape"]:
            return node
        node = node.with_attrs(allowzero=0)  # without a zero in the shape it says nothing
    target, before = node.attrs["shape"], shapes.get(node.inputs[0], ())
    if target and before and target[0] == 1 and before[0] == 1:
        return node.with_attrs(shape=(0, *target[1:]))
    return node


def read_alone(node: Node, read: Collection[str]) -> Node:
    """A node without the mask, indices or statistics that it may give, where nothing reads them: they are no values then."""
    if node.op not in _GIVING_MORE or any(name in read for name in node.outputs[1:]):
        return node
    return replace(node, outputs=node.outputs[:1])


def of_all_axes(node: Node, shapes: Mapping[str, Shape]) -> Node:
    """A Resize of some axes says what becomes of every axis: the form that runtimes have, and older opsets too."""
    axes = node.get("axes") if node.op == "Resize" else None
    if not axes or node.get("keep_aspect_ratio_policy") != "stretch":
        return node
    before = shapes[node.inputs[0]]
    rank = len(before)
    places = [axis % rank for axis in axes]
    attrs = {key: value for key, value in node.attrs.items() if key != "axes"}
    for key, neutral in (("scales", [1.0] * rank), ("sizes", list(before))):
        if given := node.get(key):
            for place, value in zip(places, given, strict=True):
                neutral[place] = value
            attrs[key] = tuple(neutral)
    if given := node.get("roi"):
        ends = [0.0] * rank + [1.0] * rank
        for index, place in enumerate(places):
            ends[place], ends[rank + place] = given[index], given[len(places) + index]
        attrs["roi"] = tuple(ends)
    return replace(node, attrs=attrs, origins={})
