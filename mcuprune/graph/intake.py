"""What an ONNX file must be before anyone reads its graph: text where text belongs, each tensor once.

It works on the ModelProto as it was parsed. What can be mended without a doubt is mended (a graph without a name gets one);
the rest is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import onnx
from onnx import ModelProto, TensorProto

from mcuprune.errors import ModelError

#: How deep messages in messages may lie: subgraphs in subgraphs, far beyond what exporters write.
_DEPTH = 40


def settled(model: ModelProto, path: str) -> None:
    """Mend ``model`` in place, or refuse it. Raises ModelError."""
    for where, text in _texts(model, "model", _DEPTH, path):
        if isinstance(text, bytes):
            raise ModelError(f"{path}: {where} is {text!r}, which is no UTF-8 text; the file is damaged, export it again")
    model.graph.name = model.graph.name or "graph"
    model.ir_version = min(model.ir_version, onnx.IR_VERSION)  # nothing newer than what this onnx knows is left in a Network
    model.ClearField("training_info")
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


def _texts(message: Any, where: str, depth: int, path: str) -> Iterator[tuple[str, str | bytes]]:
    """Every string field of a message and of those inside it, with its place; bytes where it isn't UTF-8."""
    if depth == 0:
        raise ModelError(f"{path}: {where[:80]}... lies too deep; no exporter nests graphs like this")
    for field in message.DESCRIPTOR.fields:
        if field.type not in (field.TYPE_STRING, field.TYPE_MESSAGE):
            continue  # what a tensor holds isn't looked at, and not copied either
        if field.type == field.TYPE_STRING:
            yield from ((f"{where}.{field.name}", text) for text in _strings(message, field.name))
        else:
            for part in _several(getattr(message, field.name), message, field.name):
                inner = f"{where}.{field.name}"
                if isinstance(part, TensorProto) and not part.external_data:
                    yield from ((f"{inner}.name", text) for text in _strings(part, "name"))
                else:
                    yield from _texts(part, inner, depth - 1, path)


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
