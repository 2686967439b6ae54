"""What is no network for a microcontroller, or no valid ONNX: refused with the node's name and the next thing to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import onnx
from onnx import AttributeProto, ModelProto, NodeProto

from mcuprune.errors import ModelError, UnsupportedOperator
from mcuprune.graph import branches, qlinear
from mcuprune.graph import rewrite as lowering
from mcuprune.graph.inference import MAX_ELEMENTS, first_line
from mcuprune.graph.node import Node, Shape

#: The most elements that a file may store in all.
MAX_STORED = 2**30
#: The most elements of a tensor that is computed.
MAX_ACTIVATIONS = 2**34
OLDEST_OPSET, NEWEST_OPSET = 7, onnx.defs.onnx_opset_version()


def refuse_foreign(model: ModelProto, path: str) -> None:
    """Refuse what the graph's form alone rules out: opsets, custom operators, control flow, sparse weights."""
    opset = max((entry.version for entry in model.opset_import if not entry.domain), default=0)
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise ModelError(
            f"{path}: opset {opset}; mcuprune reads {OLDEST_OPSET} to {NEWEST_OPSET}, export again with one of these"
        )
    refuse_foreign_nodes(model.graph.node, path)
    if model.graph.sparse_initializer:
        raise ModelError(f"{path}: has sparse initializers; store the weights densely")


def refuse_foreign_nodes(nodes: Sequence[NodeProto], path: str) -> None:
    """Refuse custom operators, and control flow other than an If, which may be decided already."""
    for index, node in enumerate(nodes):
        where = f"{path}: node '{node.name or f'{node.op_type}_{index}'}'"
        tensor = node.output[0] if node.output else None
        if qlinear.is_known(node.domain, node.op_type) or branches.is_if(node):
            continue
        if node.domain == "com.microsoft":
            raise UnsupportedOperator(
                f"{where}: {node.op_type} is ONNX Runtime's own operator (com.microsoft); "
                "export again without graph optimisation",
                tensor=tensor,
            )
        if node.domain:
            raise UnsupportedOperator(
                f"{where}: {node.op_type} is a custom operator of domain '{node.domain}'; "
                "export with ONNX's own operators in its place",
                tensor=tensor,
            )
        if any(attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for attribute in node.attribute):
            raise UnsupportedOperator(
                f"{where}: {node.op_type} is control flow; mcuprune handles feed-forward CNNs: "
                "export with the loop unrolled, or without it",
                tensor=tensor,
            )


def refuse_heavy(model: ModelProto, path: str) -> None:
    """Refuse what all stored tensors together become, at up to 4 bytes an element, however few bits of it are stored."""
    literals = (attribute.t for node in model.graph.node if node.op_type == "Constant" for attribute in node.attribute)
    # one that is too large by itself is refused by name when it is read
    elements = sum(min(max(0, prod(tensor.dims)), MAX_ELEMENTS) for tensor in (*model.graph.initializer, *literals))
    if elements > MAX_STORED:
        raise ModelError(f"{path}: its weights are {elements} elements; at most {MAX_STORED} are read")


def refuse_malformed(protos: Sequence[NodeProto], opset: int, ir_version: int, path: str) -> None:
    """Refuse nodes with more, fewer or other inputs and attributes than their operator has in this opset."""
    context = onnx.checker.C.CheckerContext()
    context.ir_version = max(ir_version, 3)
    context.opset_imports = {"": opset}
    for index, proto in enumerate(protos):
        if branches.is_if(proto) or (proto.op_type == "GroupNormalization" and opset < lowering.PER_CHANNEL):
            continue  # the checker can't see the tensors around a branch, and calls this form of the other one deprecated
        try:
            onnx.checker.check_node(proto, context)
        except onnx.checker.ValidationError as error:
            name = proto.name or f"{proto.op_type}_{index}"
            raise ModelError(
                f"{path}: node '{name}' is no valid {proto.op_type} of opset {opset} ({first_line(error)}); export it again"
            ) from None


def refuse_unsound(node: Node, shapes: Mapping[str, Shape], path: str) -> None:
    """Refuse what shape inference lets through: absurd sizes, parameters and views of another number of elements."""
    counts = [prod(shapes[name]) for name in (*node.inputs, *node.outputs) if name in shapes]
    if any(count > MAX_ACTIVATIONS for count in counts):
        raise ModelError(
            f"{path}: node '{node.name}' ({node.op}) handles a tensor of {max(counts)} elements, more than {MAX_ACTIVATIONS}; "
            "give a smaller --input-shape, or export the file again if it is damaged"
        )
    perm = node.get("perm") if node.op == "Transpose" else None
    if perm and sorted(perm) != list(range(len(shapes[node.inputs[0]]))):
        shape = list(shapes[node.inputs[0]])
        raise ModelError(
            f"{path}: node '{node.name}' (Transpose) has perm {list(perm)} for shape {shape}; export the file again"
        )
    for bound in ("min", "max") if node.op == "Clip" else ():
        if not isinstance(node.get(bound), int | float | None):
            raise ModelError(f"{path}: node '{node.name}' (Clip) has several numbers as its {bound}; export the file again")
    if node.op in ("Conv", "ConvTranspose") and len(node.inputs) > 2 and node.inputs[2]:
        bias, channels = shapes[node.inputs[2]], shapes[node.outputs[0]][1]
        if bias != (channels,):
            raise ModelError(
                f"{path}: node '{node.name}' ({node.op}) has a bias of shape {list(bias)} for {channels} channels; export the "
                "file again"
            )
    if node.op in ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"):
        before, after = shapes[node.inputs[0]], shapes[node.outputs[0]]
        if prod(before) != prod(after):
            raise ModelError(
                f"{path}: node '{node.name}' ({node.op}) can't make shape {list(after)} of {list(before)}; export again with "
                "static shapes, or give another --input-shape"
            )
