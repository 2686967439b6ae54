"""A program as the bytes of a .tflite file, and as their number.

The integers of the network are kept: int8 weights and int32 biases as they are stored, every tensor with the scale and zero
point of its QuantizeLinear. What may be shared follows from the program's structure alone, never from the content of constants:
so the file of a float network has its size before any range is measured, and that of every cut is a function of widths.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from mcuprune.deploy.kernels import KERNELS, OPTIONS
from mcuprune.deploy.pieces import Pieces, Reference
from mcuprune.deploy.program import Operator, Program, Tensor
from mcuprune.immutable import immutable

Array = np.ndarray[Any, Any]

SCHEMA_VERSION = 3
IDENTIFIER = b"TFL3"
#: Of the memory plan that TensorFlow Lite Micro reads from a file's metadata.
PLAN_VERSION = 1
PLAN_NAME = "OfflineMemoryAllocation"
#: Types of tensors: their codes in the schema.
TYPES = {"int8": 9, "int32": 2}
#: Kernels read constants in place and ask for this alignment.
_BUFFER_ALIGNMENT = 16
#: What stands for a number where the field is a reference.
_REFERENCE = ""
#: The first version of FULLY_CONNECTED that has a scale for each output.
_PER_CHANNEL = 12


def version_of(operator: Operator) -> int:
    """The lowest version of the operator that means what is written."""
    if operator.options.get("per_channel"):
        return _PER_CHANNEL
    return KERNELS[operator.name].version


@immutable
class FileSize:
    """The size of the file that a program is written as, as a function of what depends on widths.

    counts: lengths of vectors, integers or functions of widths.
    """

    counts: tuple[Any, ...]
    pieces: Pieces

    def at(self, counts: Sequence[int]) -> int:
        """Bytes, where ``counts`` have these values."""
        return self.pieces.size(counts)

    def without_zeros(self, counts: Sequence[int]) -> int:
        """A bound for all larger ``counts``: vectors of zeros may become equal, and be stored once."""
        return self.pieces.without_zeros(counts)

    def slopes(self, counts: Sequence[int]) -> dict[int, float]:
        """Bytes that one more of each of ``counts`` adds, but for rounding: index -> bytes."""
        return self.pieces.slopes(counts)


def file_size(program: Program, *, planned: bool) -> FileSize:
    """The size of the file, names left out. planned: whether there is a memory plan in it. The program has been checked."""
    writer = _Writer(program, names=False)
    writer.collect(np.zeros(len(program.tensors), np.int32) if planned else ())
    return FileSize(writer.pieces.counts, writer.pieces)


def serialised(program: Program, plan: Sequence[int] = (), *, names: bool = False) -> bytes:
    """The file.

    plan: where the runtime is to lay each tensor, in bytes, -1 for constants; empty to leave it to its planner.
    names: whether tensors get the names of the ONNX file; no runtime needs them.
    """
    writer = _Writer(program, names=names)
    return writer.pieces.written(writer.collect(plan), IDENTIFIER)


class _Writer:
    """The pieces of a program's file."""

    def __init__(self, program: Program, *, names: bool) -> None:
        self.program, self.names = program, names
        self.pieces = Pieces()
        self.empty = self.pieces.table([])
        self.buffers = [self.empty]  # by the format's rule the first is empty, and what computed tensors point to
        self.quantisations: dict[int, Reference] = {}

    def collect(self, plan: Any) -> Reference:
        """All pieces; the root is returned."""
        pieces, program = self.pieces, self.program
        shared = _sharing(program)
        tensors = [self.tensor(tensor, shared[index]) for index, tensor in enumerate(program.tensors)]
        used = sorted({(operator.name, version_of(operator)) for operator in program.operators})
        codes = []
        for name, version in used:
            code = KERNELS[name].code
            codes.append(pieces.table([(0, "int8", min(code, 127)), (2, "int32", version), (3, "int32", code)]))
        operators = [self.operator(operator, used) for operator in program.operators]
        graph = pieces.table(
            [
                (0, _REFERENCE, pieces.references(tensors)),
                (1, _REFERENCE, pieces.numbers("int32", [port.tensor for port in program.inputs])),
                (2, _REFERENCE, pieces.numbers("int32", [port.tensor for port in program.outputs])),
                (3, _REFERENCE, pieces.references(operators)),
            ]
        )
        metadata = []
        if len(plan):
            offsets = np.array([PLAN_VERSION, 0, len(plan), *plan], np.int32)
            metadata.append(
                pieces.table([(0, _REFERENCE, pieces.string(PLAN_NAME)), (1, "uint32", self.buffer(4 * len(offsets), offsets))])
            )
        return pieces.table(
            [
                (0, "uint32", SCHEMA_VERSION),
                (1, _REFERENCE, pieces.references(codes)),
                (2, _REFERENCE, pieces.references([graph])),
                (3, _REFERENCE, pieces.string("mcuprune")),
                (4, _REFERENCE, pieces.references(self.buffers)),
                *([(6, _REFERENCE, pieces.references(metadata))] if metadata else []),
            ]
        )

    def buffer(self, size: Any, data: Any) -> int:
        """The number of a new buffer of so many bytes. data: an array, or what makes one."""

        def content() -> bytes:
            array: Array = data() if callable(data) else data
            return array.tobytes()

        vector = self.pieces.vector("uint8", size, content, align=_BUFFER_ALIGNMENT)
        self.buffers.append(self.pieces.table([(0, _REFERENCE, vector)]))
        return len(self.buffers) - 1

    def tensor(self, tensor: Tensor, group: int) -> Reference:
        fields: list[tuple[int, str, Any]] = [
            (0, _REFERENCE, self.pieces.numbers("int32", tensor.shape)),
            (1, "int8", TYPES[tensor.dtype]),
        ]
        if tensor.content is None:
            if tensor.quantizer is not None:
                fields.append((4, _REFERENCE, self.shared_quantisation(tensor, group)))
        else:
            content = lru_cache(1)(tensor.content)
            width = np.dtype(tensor.dtype).itemsize
            fields.append((2, "uint32", self.buffer(tensor.size * width, lambda: content().data)))
            if tensor.stored.scales is not None:
                fields.append((4, _REFERENCE, self.quantisation(tensor, content)))
        if self.names:
            fields.append((3, _REFERENCE, self.pieces.string(tensor.name)))
        return self.pieces.table(fields)

    def shared_quantisation(self, tensor: Tensor, group: int) -> Reference:
        """The scale and zero point of a computed tensor, stored once for all of a group."""
        if group not in self.quantisations:
            assert tensor.quantizer is not None
            scale = self.pieces.numbers("float32", [tensor.quantizer.scale])
            zero = self.pieces.numbers("int64", [tensor.quantizer.zero_point])
            self.quantisations[group] = self.pieces.table([(2, _REFERENCE, scale), (3, _REFERENCE, zero)])
        return self.quantisations[group]

    def quantisation(self, tensor: Tensor, content: Any) -> Reference:
        """The scales and zero points of a constant."""
        stored = tensor.stored

        def scales() -> bytes:
            return np.asarray(content().scales, np.float32).tobytes()

        def zeros() -> bytes:
            return np.asarray(content().zero_points, np.int64).tobytes()

        zero = self.pieces.zeros(stored.scales) if stored.symmetric else self.pieces.vector("int64", stored.scales, zeros)
        fields = [(2, _REFERENCE, self.pieces.vector("float32", stored.scales, scales)), (3, _REFERENCE, zero)]
        return self.pieces.table([*fields, *([(6, "int32", stored.axis)] if stored.axis else [])])

    def operator(self, operator: Operator, used: Sequence[tuple[str, int]]) -> Reference:
        fields: list[tuple[int, str, Any]] = [
            (0, "uint32", used.index((operator.name, version_of(operator)))),
            (1, _REFERENCE, self.pieces.numbers("int32", operator.inputs)),
            (2, _REFERENCE, self.pieces.numbers("int32", operator.outputs)),
        ]
        if name := KERNELS[operator.name].table:
            union, slots = OPTIONS[name]
            values = [
                (*slots[key], self.pieces.numbers("int32", value) if slots[key][1] == _REFERENCE else value)
                for key, value in operator.options.items()
                if key in slots
            ]
            fields += [(3, "uint8", union), (4, _REFERENCE, self.pieces.table(values) if values else self.empty)]
        return self.pieces.table(fields)


def _sharing(program: Program) -> list[int]:
    """For each tensor, the first of those that have its quantiser because an operator can't change it on the way."""
    group = list(range(len(program.tensors)))
    for operator in program.operators:
        if KERNELS[operator.name].keeps and not operator.why:
            source = next((i for i in operator.inputs if program.tensors[i].content is None), None)
            for output in operator.outputs:
                if source is not None and program.tensors[output].quantizer == program.tensors[source].quantizer:
                    group[output] = group[source]
    return group
