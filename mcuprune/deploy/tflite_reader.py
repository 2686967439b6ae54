"""A .tflite file, anybody's, as a program: so that its arena is predicted, and its inputs and outputs are known, without ONNX.

The file is hostile until it is parsed: every offset is held against the file's size, every reference against what it refers to,
and how much is read in all against the file's length. Whatever doesn't hold is a ModelError that names the file.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from math import prod
from pathlib import Path
from stat import S_ISREG
from typing import Any, NoReturn

import numpy as np

from mcuprune.deploy.flatbuffer import IDENTIFIER, PLAN_NAME, PLAN_VERSION, SCHEMA_VERSION, TYPES
from mcuprune.deploy.kernels import KERNELS, OPTIONS
from mcuprune.deploy.lowering import SAME
from mcuprune.deploy.pieces import NUMBERS
from mcuprune.deploy.program import Axes, Constant, Operator, Port, Program, Tensor
from mcuprune.deploy.qdq import HIGH, LOW, Quantizer
from mcuprune.deploy.tflite import Converted
from mcuprune.errors import ModelError, UnsupportedOperator, cause
from mcuprune.graph.network import Shape

#: The largest file that is read: no microcontroller holds a tenth of it.
_MOST_BYTES = 2**28
#: Tensors of kernels have no more dimensions.
_MOST_DIMENSIONS = 8
_TYPE_NAMES = {code: name for name, code in TYPES.items()}
#: Of int8 files some numbers are int64, such as axes: they are read past.
_WIDTHS = {"int8": 1, "int32": 4, "int64": 8, "other": 0}
_OTHER_TYPES = {4: "int64"}
_NAMES = {kernel.code: name for name, kernel in KERNELS.items()}


def read(path: str | Path) -> Converted:
    """The program of a .tflite file, its bytes, and the memory plan in it.

    Raises ModelError for a file that can't be read, that is damaged, or that isn't int8 with one input and output at least;
    UnsupportedOperator for an operator without an int8 kernel in the table.
    """
    try:
        if not S_ISREG(os.stat(path).st_mode):  # of a pipe nobody knows whether it ends
            raise ModelError(f"{path}: can't be read (no regular file, but a device or a pipe); name a file")
        with open(path, "rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ModelError(f"{path}: can't be read ({cause(error)}); name a file that is there and may be read") from None
    if len(content) > _MOST_BYTES:
        raise ModelError(f"{path}: has more than {_MOST_BYTES:,} bytes, which no microcontroller holds; name another file")
    return parsed(content, str(path))


def parsed(content: bytes, path: str) -> Converted:
    """``read`` of bytes. path: what messages call them."""
    if content[4:8] != IDENTIFIER:
        raise ModelError(f"{path}: is no .tflite file; its bytes 4 to 8 are not {IDENTIFIER.decode()}")
    return _File(content, path).converted()


class _Table:
    """A table of the file. place: where it begins."""

    def __init__(self, file: _File, place: int) -> None:
        self._file, self._place = file, place
        layout = place - file.number("int32", place)
        size = file.number("uint16", layout)
        if size < 4 or size % 2:
            file.damaged("a table's layout has no even size")
        self._offsets = [file.number("uint16", layout + at) for at in range(4, size, 2)]

    def _at(self, slot: int) -> int:
        """Where a field lies; 0 where it has its default."""
        offset = self._offsets[slot] if slot < len(self._offsets) else 0
        return self._place + offset if offset else 0

    def number(self, slot: int, kind: str, default: Any = 0) -> Any:
        """A number of the table."""
        at = self._at(slot)
        return self._file.number(kind, at) if at else default

    def table(self, slot: int) -> _Table | None:
        """A table that a field refers to."""
        at = self._at(slot)
        return _Table(self._file, self._file.referred(at)) if at else None

    def tables(self, slot: int) -> list[_Table]:
        """The tables of a vector."""
        at = self._at(slot)
        if not at:
            return []
        start, count = self._file.vector(self._file.referred(at), 4)
        return [_Table(self._file, self._file.referred(start + 4 * index)) for index in range(count)]

    def numbers(self, slot: int, kind: str) -> list[Any]:
        """The numbers of a vector."""
        at = self._at(slot)
        if not at:
            return []
        width = struct.calcsize(f"<{NUMBERS[kind]}")
        start, count = self._file.vector(self._file.referred(at), width)
        return list(struct.unpack_from(f"<{count}{NUMBERS[kind]}", self._file.content, start))

    def bytes(self, slot: int) -> bytes:
        """The bytes of a vector, or of a string."""
        at = self._at(slot)
        if not at:
            return b""
        start, count = self._file.vector(self._file.referred(at), 1)
        return self._file.content[start : start + count]


class _File:
    """A file while it is read. left: how many more elements of vectors are read before it is too much for its length."""

    def __init__(self, content: bytes, path: str) -> None:
        self.content, self.path = content, path
        self.left = 16 * len(content) + 4096

    def damaged(self, what: str) -> Any:
        raise ModelError(f"{self.path}: is damaged: {what}; write it again")

    def foreign(self, what: str, kind: type[ModelError] = ModelError) -> NoReturn:
        """Raise ``kind``: the file is sound, but not one that mcuprune reads."""
        raise kind(f"{self.path}: {what}; write it from the .onnx file: mcuprune export MODEL.onnx -o OUT.tflite")

    def number(self, kind: str, at: int) -> Any:
        letter = "H" if kind == "uint16" else NUMBERS[kind]
        if at < 0 or at + struct.calcsize(f"<{letter}") > len(self.content):
            self.damaged("it refers beyond its end")
        return struct.unpack_from(f"<{letter}", self.content, at)[0]

    def referred(self, at: int) -> int:
        """Where the reference that lies here leads."""
        return at + int(self.number("uint32", at))

    def vector(self, at: int, width: int) -> tuple[int, int]:
        """Where the elements of a vector begin, and their number."""
        count = int(self.number("uint32", at))
        if at + 4 + width * count > len(self.content):
            self.damaged("it refers beyond its end")
        self.left -= count if width > 1 else 1
        if self.left < 0:
            self.damaged("it says the same again and again")
        return at + 4, count

    # ---------------------------------------------------------------------------------------------------------- the model

    def converted(self) -> Converted:
        model = _Table(self, self.referred(0))
        if (version := model.number(0, "uint32")) != SCHEMA_VERSION:
            self.foreign(f"has version {version} of the schema, not {SCHEMA_VERSION}")
        graphs = model.tables(2)
        if len(graphs) != 1:
            self.foreign(f"has {len(graphs)} graphs, not one")
        codes, buffers = [self.code(table) for table in model.tables(1)], model.tables(4)
        tensors = tuple(self.tensor(table, buffers, index) for index, table in enumerate(graphs[0].tables(0)))
        operators = tuple(self.operator(table, codes, tensors, index) for index, table in enumerate(graphs[0].tables(3)))
        inputs, outputs = (
            self.ports(graphs[0].numbers(slot, "int32"), tensors, kind) for slot, kind in ((1, "input"), (2, "output"))
        )
        computed = {port.tensor for port in inputs}
        for operator in operators:
            unmade = [i for i in operator.inputs if tensors[i].content is None and i not in computed]
            if unmade:
                self.damaged(f"operator {operator.node} reads tensor {unmade[0]} before it is computed")
            computed.update(operator.outputs)
        if not all(port.tensor in computed for port in outputs):
            self.damaged("an output is never computed")
        program = Program(tensors, operators, inputs, outputs, (), self.path)
        return Converted(self.content, program, self.plan(model, buffers, len(tensors)))

    def code(self, table: _Table) -> str:
        code = max(table.number(3, "int32"), table.number(0, "int8"))
        if code not in _NAMES:
            custom = table.bytes(1).decode(errors="replace")
            which = f"'{custom}'" if custom else f"number {code} of the schema"
            self.foreign(f"operator {which} has no int8 kernel that mcuprune knows", UnsupportedOperator)
        return _NAMES[code]

    def tensor(self, table: _Table, buffers: Sequence[_Table], index: int) -> Tensor:
        shape = tuple(table.numbers(0, "int32"))
        if len(shape) > _MOST_DIMENSIONS or min(shape, default=1) < 1:
            self.damaged(f"tensor {index} has the shape {shape[:_MOST_DIMENSIONS]}")
        if prod(shape) > _MOST_BYTES:
            self.foreign(f"tensor {index} has {prod(shape):,} elements, which no microcontroller holds")
        code = table.number(1, "int8")
        dtype = _TYPE_NAMES.get(code) or _OTHER_TYPES.get(code, "other")
        name = table.bytes(3).decode(errors="replace") or f"tensor {index}"
        buffer = table.number(2, "uint32")
        if buffer >= len(buffers):
            self.damaged(f"tensor {index} lies in buffer {buffer} of {len(buffers)}")
        data = buffers[buffer].bytes(0)
        quantizers = self.quantizers(table.table(4), index)
        if data:
            if len(data) != prod(shape) * _WIDTHS[dtype] and dtype != "other":
                self.damaged(f"tensor {index} of {prod(shape)} {dtype} has {len(data)} bytes")
            scales, zeros = np.array(quantizers[0], np.float32), np.array(quantizers[1])
            array = np.frombuffer(data, dtype if dtype != "other" else np.uint8)
            kept = Constant(array.reshape(shape) if dtype != "other" else array, scales, zeros)
            return Tensor(name, shape, shape, dtype, content=lambda: kept)
        if dtype != "int8":
            self.foreign(f"'{name}' is computed and not int8")
        if len(quantizers[0]) != 1:
            self.foreign(f"'{name}' is computed and has {len(quantizers[0])} scales, not one")
        return Tensor(name, shape, shape, dtype, Quantizer(float(quantizers[0][0]), int(quantizers[1][0])))

    def quantizers(self, table: _Table | None, index: int) -> tuple[list[float], list[int]]:
        """Scales and zero points."""
        scales, zeros = (table.numbers(2, "float32"), table.numbers(3, "int64")) if table else ([], [])
        if len(scales) != len(zeros) or not all(0 < scale < np.inf for scale in scales):
            self.damaged(f"tensor {index} has {len(scales)} scales, not all above 0, and {len(zeros)} zero points")
        if len(zeros) == 1 and not LOW <= zeros[0] <= HIGH:
            self.damaged(f"tensor {index} has the zero point {zeros[0]}")
        return scales, zeros

    def operator(self, table: _Table, codes: Sequence[str], tensors: Sequence[Tensor], index: int) -> Operator:
        which, inputs, outputs = table.number(0, "uint32"), table.numbers(1, "int32"), table.numbers(2, "int32")
        if which >= len(codes):
            self.damaged(f"operator {index} has code {which} of {len(codes)}")
        inputs = [tensor for tensor in inputs if tensor != -1]  # an input that may be left out
        if not inputs or not outputs or not all(0 <= tensor < len(tensors) for tensor in (*inputs, *outputs)):
            self.damaged(f"operator {index} has tensors that aren't there")
        if any(tensors[tensor].content is not None for tensor in outputs):
            self.damaged(f"operator {index} makes a constant")
        name = codes[which]
        options: dict[str, Any] = {}
        if kind := KERNELS[name].table:
            union, slots = OPTIONS[kind]
            given = table.table(4) if table.number(3, "uint8") == union else None
            options = {key: given.number(slot, number) if given and number else 0 for key, (slot, number) in slots.items()}
        operator = Operator(name, tuple(inputs), tuple(outputs), options, f"{index} ({name})")
        return self.completed(operator, tensors)

    def completed(self, operator: Operator, tensors: Sequence[Tensor]) -> Operator:
        """The operator with the options that a rule of scratch looks at and the file doesn't have."""
        options = dict(operator.options)
        ins, outs = ([tensors[i].shape for i in side] for side in (operator.inputs, operator.outputs))
        if operator.name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            if [len(shape) for shape in (*ins[:2], *outs)] != [4, 4, 4]:
                self.damaged(f"operator {operator.node} has tensors of other than 4 dimensions")
            options = {**options, **{key: max(1, options[key]) for key in ("dilation_w", "dilation_h")}}
            before = []
            for axis, way in ((1, "h"), (2, "w")):
                stride, dilation = max(1, options[f"stride_{way}"]), options[f"dilation_{way}"]
                reach = (outs[0][axis] - 1) * stride + (ins[1][axis] - 1) * dilation + 1
                before.append(max(0, reach - ins[0][axis]) // 2 if options["padding"] == SAME else 0)
            options["before"] = tuple(before)
        elif operator.name == "FULLY_CONNECTED":
            content = tensors[operator.inputs[1]].content if len(operator.inputs) > 1 else None
            options["per_channel"] = content is not None and content().scales.size > 1
        least = {"AVERAGE_POOL_2D": (1, 4), "TRANSPOSE_CONV": (3, 4), "MEAN": (2, 0), "SUM": (2, 0), "MIRROR_PAD": (2, 0)}
        wanted, rank = least.get(operator.name, (0, 0))
        if len(ins) < wanted or (rank and len(ins[wanted - 1]) != rank):
            self.damaged(f"operator {operator.node} lacks inputs")
        return Operator(operator.name, operator.inputs, operator.outputs, options, operator.node)

    def ports(self, numbers: Sequence[int], tensors: Sequence[Tensor], kind: str) -> tuple[Port, ...]:
        if not numbers or not all(0 <= tensor < len(tensors) for tensor in numbers):
            self.damaged(f"it has no {kind}, or one that isn't there")
        ports = []
        for number in numbers:
            tensor = tensors[number]
            if tensor.quantizer is None:
                self.foreign(f"{kind} '{tensor.name}' is a constant")
            axes: Axes = tuple(range(len(tensor.shape)))
            ports.append(Port(tensor.name, tensor.shape, axes, tensor.quantizer, number))
        return tuple(ports)

    def plan(self, model: _Table, buffers: Sequence[_Table], tensors: int) -> tuple[int, ...]:
        """The memory plan in the file's metadata; empty where there is none."""
        for entry in model.tables(6):
            buffer = entry.number(1, "uint32")
            if entry.bytes(0).decode(errors="replace") == PLAN_NAME and buffer < len(buffers):
                data = buffers[buffer].bytes(0)
                numbers = struct.unpack(f"<{len(data) // 4}i", data[: len(data) // 4 * 4])
                if len(numbers) != 3 + tensors or numbers[0] != PLAN_VERSION or numbers[2] != tensors:
                    self.damaged("its memory plan isn't one of its tensors")
                return tuple(numbers[3:])
        return ()


def channels_first(port: Port) -> Port:
    """The port as ONNX would have it: (batch, channels, height, width) of an image with channels last."""
    if len(port.shape) != 4:
        return port
    batch, height, width, channels = port.shape
    shape: Shape = (batch, channels, height, width)
    return Port(port.name, shape, (0, 2, 3, 1), port.quantizer, port.tensor)
