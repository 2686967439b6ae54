"""What an ONNX file must be before anyone reads its graph: text where text belongs, each tensor once.

It works on the ModelProto as it was parsed. What can be mended without a doubt is mended (a graph without a name gets one);
the rest is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import onnx
from onnx import ModelProto, TensorProto, helper

from mcuprune.errors import ModelError

#: How deep messages in messages may lie: subgraphs in subgraphs, far beyond what exporters write.
_DEPTH = 40
_OWN_DOMAIN = ("", "ai.onnx")


def settled(model: ModelProto, path: str) -> None:
    """Mend ``model`` in place, or refuse it. Raises ModelError."""
    _refuse_bytes(model, "model", _DEPTH, path)
    model.graph.name = model.graph.name or "graph"
    model.ir_version = min(model.ir_version, onnx.IR_VERSION)  # nothing newer than what this onnx knows is left in a Network
    model.ClearField("training_info")
    name_own_domain(model)
    for what, names in (
        ("initializers", [tensor.name for tensor in model.graph.initializer]),
        ("inputs", [value.name for value in model.graph.input]),
        ("outputs", [value.name for value in model.graph.output]),
    ):
        if "" in names:
            raise ModelError(f"{path}: one of the {what} has no name; export the model again")
        if twice := sorted({name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else ()):
            raise ModelError(f"{path}: '{twice[0]}' is twice among the {what}; export the model again")
    inputs = {value.name for value in model.graph.input}
    for value in model.graph.output:
        if value.name in inputs:
            raise ModelError(f"{path}: output '{value.name}' is an input too, so nothing computes it; remove that output")


def name_own_domain(model: ModelProto) -> None:
    """Call the domain of ONNX's own operators by one of its two names, "" and "ai.onnx"; the checker knows the first alone."""
    versions = [entry.version for entry in model.opset_import if entry.domain in _OWN_DOMAIN]
    others = [entry for entry in model.opset_import if entry.domain not in _OWN_DOMAIN]
    if len(others) + 1 < len(model.opset_import) or "ai.onnx" in (entry.domain for entry in model.opset_import):
        del model.opset_import[:]
        model.opset_import.extend([helper.make_opsetid("", max(versions)), *others])
    waiting = [model.graph.node, *(function.node for function in model.functions)]
    while waiting:
        for node in waiting.pop():
            if node.domain == "ai.onnx":
                node.domain = ""
            for attribute in node.attribute:
                waiting += [graph.node for graph in (attribute.g, *attribute.graphs) if graph.node]


def _refuse_bytes(message: Any, where: str, depth: int, path: str) -> None:
    """Refuse a string field, of a message or of those inside it, whose content is no UTF-8."""
    if depth == 0:
        raise ModelError(f"{path}: {where[:80]}... lies too deep; no exporter nests graphs like this")
    for name, is_text in _fields(message.DESCRIPTOR):
        inner = f"{where}.{name}"
        if is_text:
            _refuse_text(_strings(message, name), inner, path)
            continue
        for part in _several(getattr(message, name), message, name):
            if isinstance(part, TensorProto) and not part.external_data:
                _refuse_text(_strings(part, "name"), f"{inner}.name", path)
            else:
                _refuse_bytes(part, inner, depth - 1, path)


def _refuse_text(texts: Sequence[str | bytes], where: str, path: str) -> None:
    for text in texts:
        if isinstance(text, bytes):
            raise ModelError(f"{path}: {where} is {text!r}, which is no UTF-8 text; the file is damaged, export it again")


@cache
def _fields(kind: Any) -> tuple[tuple[str, bool], ...]:
    """The fields of a kind of message that hold texts (True) or messages. What a tensor holds isn't looked at, nor copied."""
    return tuple(
        (field.name, field.type == field.TYPE_STRING)
        for field in kind.fields
        if field.type in (field.TYPE_STRING, field.TYPE_MESSAGE)
    )


def _several(value: Any, message: Any, name: str) -> Sequence[Any]:
    """The values of a field: those of a repeated one, the one that is set, or none."""
    if hasattr(value, "__len__") and not isinstance(value, (str, bytes)):
        return value  # type: ignore[no-any-return]
    return [value] if message.HasField(name) else []


def _strings(message: Any, name: str) -> Sequence[str | bytes]:
    """The texts of a field. Some versions of protobuf give bytes for what is no UTF-8, others raise."""
    try:
        return _several(getattr(message, name), message, name)
    except UnicodeDecodeError as error:
        return [error.object]
