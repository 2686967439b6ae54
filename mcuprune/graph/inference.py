"""Graphs of ONNX's own nodes: their order, what an output needs of them, the static shapes of their tensors."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from mcuprune.errors import ModelError
from mcuprune.graph import branches
from mcuprune.graph.node import Shape

#: A constant of more elements than this is taken for a mistake or an attack, not for a weight.
MAX_ELEMENTS = 2**28
#: No shape is made of a longer list.
_MOST_PROPAGATED = 2**16
#: What slides a window over the data and may round the number of windows up.
_POOLS = ("MaxPool", "AveragePool", "LpPool")


def opset_of(model: ModelProto) -> int:
    """The version of ONNX's own operators that a model is written in."""
    return max(int(entry.version) for entry in model.opset_import if not entry.domain)


def array_of(tensor: TensorProto, path: str) -> np.ndarray:
    """A constant of a file as an array. path: what messages call the file. Raises ModelError for one that can't be read."""
    elements = int(np.prod([float(size) for size in tensor.dims]))
    if elements > MAX_ELEMENTS or any(size < 0 for size in tensor.dims):
        raise ModelError(f"{path}: initializer '{tensor.name}' has shape {list(tensor.dims)}; the file is damaged")
    try:
        return np.asarray(numpy_helper.to_array(tensor))
    except Exception as error:  # onnx raises many kinds for bytes that don't fit the declared shape and type
        raise ModelError(f"{path}: initializer '{tensor.name}' is damaged ({first_line(error)}); export it again") from None


def literals(nodes: Sequence[NodeProto], path: str) -> dict[str, np.ndarray]:
    """The tensors that Constant nodes hold."""
    constants = {}
    for node in nodes:
        if node.op_type == "Constant" and node.output and node.attribute and node.attribute[0].type == AttributeProto.TENSOR:
            constants[node.output[0]] = array_of(node.attribute[0].t, path)
    return constants


def first_line(error: BaseException) -> str:
    """What an error says, without the lines that follow."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def topological(nodes: Sequence[NodeProto], known: set[str], path: str) -> list[NodeProto]:
    """The nodes in a topological order, the given one where it is one already. Raises ModelError on cycles and loose ends."""
    computed: set[str] = set()
    for node in nodes:
        for output in filter(None, node.output):
            if output in computed or output in known:
                raise ModelError(f"{path}: tensor '{output}' is made more than once; the file is damaged, export it again")
            computed.add(output)
    waiting: dict[str, list[int]] = {}
    missing = []
    for index, node in enumerate(nodes):
        unmet = {name for name in branches.reads(node) if name not in known}
        for name in unmet:
            if name not in computed:
                raise ModelError(
                    f"{path}: node '{node.name or node.op_type}' reads '{name}', which nothing makes; the file is damaged, "
                    "export it again"
                )
            waiting.setdefault(name, []).append(index)
        missing.append(len(unmet))
    ready = [index for index, count in enumerate(missing) if count == 0]
    order: list[NodeProto] = []
    while ready:
        node = nodes[heapq.heappop(ready)]
        order.append(node)
        for name in node.output:
            for index in waiting.pop(name, ()):
                missing[index] -= 1
                if missing[index] == 0:
                    heapq.heappush(ready, index)
    if len(order) != len(nodes):
        raise ModelError(f"{path}: the graph has a cycle; the file is damaged, export it again")
    return order


def live(nodes: Sequence[Any], outputs: Sequence[str]) -> Any:
    """The nodes that some graph output needs, in their order; NodeProtos and Nodes alike."""
    needed = set(outputs)
    kept = []
    for node in reversed(nodes):
        node_outputs = node.output if isinstance(node, NodeProto) else node.outputs
        if needed.intersection(node_outputs):
            kept.append(node)
            needed.update(branches.reads(node) if isinstance(node, NodeProto) else node.inputs)
    kept.reverse()
    return kept if nodes and isinstance(nodes[0], NodeProto) else tuple(kept)


def infer(
    path: str,
    nodes: Sequence[NodeProto],
    constants: Mapping[str, np.ndarray],
    inputs: Mapping[str, tuple[Shape, int]],
    outputs: Sequence[str],
    header: ModelProto,
) -> tuple[dict[str, Shape], dict[str, int]]:
    """Shapes and types of all tensors whose shape is static. Large weights take part by their shape alone."""
    model = ModelProto()
    model.ir_version = max(header.ir_version, 8)
    model.opset_import.extend(header.opset_import)
    graph = model.graph
    graph.name = "shapes"
    graph.node.extend(map(_as_inferred, nodes))
    shapes = {name: shape for name, (shape, _) in inputs.items()}
    dtypes = {name: dtype for name, (_, dtype) in inputs.items()}
    for name, value in constants.items():
        shapes[name] = value.shape
        dtypes[name] = helper.np_dtype_to_tensor_dtype(value.dtype)
        if takes_part(value):
            graph.initializer.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        else:
            graph.input.append(declared(name, value))
    for name, (shape, dtype) in inputs.items():
        graph.input.append(helper.make_tensor_value_info(name, dtype, shape))
    for name in outputs:
        graph.output.append(helper.make_empty_tensor_value_info(name))
    for data_prop in (False, True):
        try:
            inferred = onnx.shape_inference.infer_shapes(model, data_prop=data_prop, strict_mode=True)
        except Exception as error:  # InferenceError, and what the C++ side lets through for damaged graphs
            raise ModelError(
                f"{path}: shapes don't fit together ({first_line(error)}); give another --input-shape, or export it again"
            ) from None
        for value in [*inferred.graph.value_info, *inferred.graph.output]:
            tensor = value.type.tensor_type
            dtypes[value.name] = tensor.elem_type
            if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
                shapes[value.name] = tuple(dim.dim_value for dim in tensor.shape.dim)
        whole = all(name in shapes for node in nodes for name in node.output if name)
        if whole or any(len(shape) == 1 and shape[0] > _MOST_PROPAGATED for shape in shapes.values()):
            break  # with data_prop it takes lists for shapes, and writes each of their numbers out in 72 bytes
    return shapes, dtypes


def _as_inferred(node: NodeProto) -> NodeProto:
    """The node as shape inference takes it: it knows no GroupNormalization, which changes neither shape nor type.

    Of a Range it would write every number out, in 72 bytes each. How many there are is known once it is computed.
    """
    if node.op_type == "Range" and node.input:
        return helper.make_node("Unique", node.input[:1], node.output[:1], name=node.name)
    if node.op_type == "GroupNormalization" and node.input:
        return helper.make_node("Identity", node.input[:1], node.output[:1], name=node.name)
    return _as_pooled(node) if node.op_type in _POOLS else node


def _as_pooled(node: NodeProto) -> NodeProto:
    """A pool that makes as many windows as runtimes do, by its padding alone; the node itself where it doesn't round up.

    With ``ceil_mode`` the last window may hang over the end, but none begins in the padding there. Shape inference of older
    opsets counts that one too. Rounding up is a stride less one more padding behind; a window begins at the last element where
    the padding behind is its span less one: the smaller of both is what runtimes do, whatever the size of the data.
    """
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    kernel, auto = given.get("kernel_shape"), given.get("auto_pad", b"NOTSET")
    if not given.get("ceil_mode") or not kernel or auto not in (b"NOTSET", b"", b"VALID"):
        return node
    ones = [1] * len(kernel)
    pads = [0] * (2 * len(kernel)) if auto == b"VALID" else list(given.get("pads") or [0] * (2 * len(kernel)))
    strides, dilations = given.get("strides") or ones, given.get("dilations") or ones
    if not len(pads) == 2 * len(kernel) == 2 * len(strides) == 2 * len(dilations):
        return node  # shape inference says what is wrong with it
    ends = zip(pads[len(kernel) :], kernel, strides, dilations, strict=True)
    pads[len(kernel) :] = [min(after + stride - 1, (taps - 1) * dilation) for after, taps, stride, dilation in ends]
    plain = NodeProto()
    plain.CopyFrom(node)
    del plain.attribute[:]
    kept = [attribute for attribute in node.attribute if attribute.name not in ("ceil_mode", "auto_pad", "pads")]
    plain.attribute.extend([*kept, helper.make_attribute("pads", pads)])
    return plain


def takes_part(value: np.ndarray) -> bool:
    """Whether shapes may depend on the value of a constant: weights take part by their shape alone."""
    return value.size <= 64 or value.dtype.kind in "iub"


def declared(name: str, value: np.ndarray) -> ValueInfoProto:
    """A value of this name, type and shape, as ONNX declares it."""
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
