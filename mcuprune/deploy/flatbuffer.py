"""A program as the bytes of a .tflite file.

The flatbuffer is written by itself, with nothing but the package ``flatbuffers``. The integers of the network are kept: int8
weights and int32 biases as they are stored, every tensor with the scale and zero point of its QuantizeLinear.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from mcuprune.deploy.kernels import KERNELS, OPTIONS
from mcuprune.deploy.program import Constant, Operator, Program, Tensor
from mcuprune.errors import MissingExtra

Array = np.ndarray[Any, Any]

_SCHEMA_VERSION = 3
#: Of the memory plan that TensorFlow Lite Micro reads from a file's metadata.
_PLAN_VERSION = 1
_TYPES = {"int8": 9, "int32": 2}
#: Kernels read constants in place and ask for this alignment.
_BUFFER_ALIGNMENT = 16
_OFFSET = "UOffsetTRelative"
#: The first versions of FULLY_CONNECTED that keep more than two dimensions, and that have a scale for each output.
_KEEPS_DIMENSIONS, _PER_CHANNEL = 5, 12


def version_of(operator: Operator) -> int:
    """The lowest version of the operator that means what is written."""
    if operator.options.get("per_channel"):
        return _PER_CHANNEL
    if operator.options.get("keep_num_dims"):
        return _KEEPS_DIMENSIONS
    return KERNELS[operator.name].version


def serialised(program: Program, plan: Sequence[int] = ()) -> bytes:
    """The file. Raises MissingExtra where the package ``flatbuffers`` isn't installed.

    plan: where the runtime is to lay each tensor, in bytes, -1 for constants; empty to leave it to its planner.
    """
    try:
        flatbuffers = importlib.import_module("flatbuffers")
    except ImportError:
        raise MissingExtra("flatbuffers isn't installed; pip install 'mcuprune[verify]'") from None
    contents = [tensor.content() if tensor.content is not None else None for tensor in program.tensors]
    room = sum(content.data.nbytes for content in contents if content is not None)
    return _File(flatbuffers.Builder(room + 4096)).written(program, contents, plan)


class _File:
    """The flatbuffer while it is built, from the leaves to the root."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder
        self.buffers = [self.table([])]  # by the format's rule the first is empty, and what computed tensors point to
        self.known: dict[bytes, int] = {}

    def written(self, program: Program, contents: Sequence[Constant | None], plan: Sequence[int]) -> bytes:
        tensors = [self.tensor(tensor, content) for tensor, content in zip(program.tensors, contents, strict=True)]
        used = sorted({(operator.name, version_of(operator)) for operator in program.operators})
        codes = []
        for name, version in used:
            code = KERNELS[name].code
            codes.append(self.table([(0, "Int8", min(code, 127)), (2, "Int32", version), (3, "Int32", code)]))
        operators = [self.operator(operator, used) for operator in program.operators]
        graph = self.table(
            [
                (0, _OFFSET, self.offsets(tensors)),
                (1, _OFFSET, self.numbers([port.tensor for port in program.inputs], "int32")),
                (2, _OFFSET, self.numbers([port.tensor for port in program.outputs], "int32")),
                (3, _OFFSET, self.offsets(operators)),
                (4, _OFFSET, self.builder.CreateString("main")),
            ]
        )
        metadata = []
        if plan:
            offsets = np.array([_PLAN_VERSION, 0, len(plan), *plan], np.int32)
            name = self.builder.CreateString("OfflineMemoryAllocation")
            metadata.append(self.table([(0, _OFFSET, name), (1, "Uint32", len(self.buffers))]))
            self.buffers.append(self.table([(0, _OFFSET, self.aligned_bytes(offsets))]))
        model = self.table(
            [
                (0, "Uint32", _SCHEMA_VERSION),
                (1, _OFFSET, self.offsets(codes)),
                (2, _OFFSET, self.offsets([graph])),
                (3, _OFFSET, self.builder.CreateString("mcuprune")),
                (4, _OFFSET, self.offsets(self.buffers)),
                *([(6, _OFFSET, self.offsets(metadata))] if metadata else []),
            ]
        )
        self.builder.Finish(model, file_identifier=b"TFL3")
        return bytes(self.builder.Output())

    def table(self, fields: Sequence[tuple[int, str, Any]]) -> Any:
        self.builder.StartObject(1 + max((slot for slot, _, _ in fields), default=-1))
        for slot, kind, value in fields:
            getattr(self.builder, f"Prepend{kind}Slot")(slot, value, None)  # None: written even where it is the default
        return self.builder.EndObject()

    def offsets(self, items: Sequence[Any]) -> Any:
        self.builder.StartVector(4, len(items), 4)
        for item in reversed(items):
            self.builder.PrependUOffsetTRelative(item)
        return self.builder.EndVector()

    def numbers(self, values: Any, dtype: str) -> Any:
        return self.builder.CreateNumpyVector(np.asarray(values, dtype).reshape(-1))

    def aligned_bytes(self, data: Array) -> Any:
        content = data.tobytes()
        self.builder.StartVector(1, len(content), _BUFFER_ALIGNMENT)
        self.builder.head -= len(content)
        self.builder.Bytes[self.builder.head : self.builder.head + len(content)] = content
        return self.builder.EndVector()

    def buffer(self, data: Array) -> int:
        """The buffer with these bytes; equal ones are stored once."""
        content = data.tobytes()
        if content not in self.known:
            self.known[content] = len(self.buffers)
            self.buffers.append(self.table([(0, _OFFSET, self.aligned_bytes(data))]))
        return self.known[content]

    def tensor(self, tensor: Tensor, content: Constant | None) -> Any:
        fields = [
            (0, _OFFSET, self.numbers(tensor.shape, "int32")),
            (1, "Int8", _TYPES[tensor.dtype]),
            (2, "Uint32", 0 if content is None else self.buffer(content.data)),
            (3, _OFFSET, self.builder.CreateString(tensor.name)),
        ]
        scales, zeros, axis = np.zeros(0), np.zeros(0), 0
        if content is not None:
            scales, zeros, axis = content.scales, content.zero_points, content.axis
        elif tensor.quantizer is not None:
            scales, zeros = np.array([tensor.quantizer.scale]), np.array([tensor.quantizer.zero_point])
        if scales.size:
            vectors = self.numbers(scales, "float32"), self.numbers(zeros, "int64")
            fields.append((4, _OFFSET, self.table([(2, _OFFSET, vectors[0]), (3, _OFFSET, vectors[1]), (6, "Int32", axis)])))
        return self.table(fields)

    def operator(self, operator: Operator, used: Sequence[tuple[str, int]]) -> Any:
        fields = [
            (0, "Uint32", used.index((operator.name, version_of(operator)))),
            (1, _OFFSET, self.numbers(operator.inputs, "int32")),
            (2, _OFFSET, self.numbers(operator.outputs, "int32")),
        ]
        if name := KERNELS[operator.name].table:
            union, slots = OPTIONS[name]
            values = [
                (*slots[key], self.numbers(value, "int32") if slots[key][1] == _OFFSET else value)
                for key, value in operator.options.items()
                if key in slots
            ]
            fields += [(3, "Uint8", union), (4, _OFFSET, self.table(values))]
        return self.table(fields)
