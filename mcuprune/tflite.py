"""An int8 QDQ network as a .tflite file, for TensorFlow Lite Micro and what else reads that format.

``convert`` writes the flatbuffer itself. The file's own integers are kept: int8 weights and int32 biases as they are stored,
every tensor with the scale and zero point of its QuantizeLinear. So runtimes differ by the rounding of their kernels alone.

ONNX keeps channels first, TFLite last. Each TFLite tensor is a ``Value`` that knows which ONNX axis each of its dimensions
is; an ONNX Transpose only renames axes, and a TRANSPOSE is written where an operator needs its data in another order than it
has. Axes of size 1 have no place of their own: a RESHAPE is written where an operator insists on one.

What TFLite can't say is refused by the node's name. Nothing is computed in floats, nothing is quantised anew but small
constants that the file has as floats.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper

from mcuprune import network, ops
from mcuprune.errors import MissingExtra, ModelError, UnsupportedOperator
from mcuprune.export import HIGH, LOW, UNIT_SCALE, Quantizer
from mcuprune.network import Network, Node, Shape
from mcuprune.ops import OPS, MatMul
from mcuprune.runtimes import Lifetime, Program, overlaps, window_of

Array = np.ndarray[Any, Any]
#: For each dimension of a TFLite tensor the ONNX axis that it is; None for those of size 1.
Axes = tuple[int | None, ...]

# ---------------------------------------------------------------------------------------------------- the file's format

#: Operator -> its code in the schema, the first version that takes int8 as it is written here, and its options.
_OPERATORS: Mapping[str, tuple[int, int, str]] = {
    "ABS": (101, 1, ""),
    "ADD": (0, 2, "Add"),
    "AVERAGE_POOL_2D": (1, 2, "Pool2D"),
    "BATCH_MATMUL": (126, 2, "BatchMatMul"),
    "CONCATENATION": (2, 2, "Concatenation"),
    "CONV_2D": (3, 3, "Conv2D"),
    "DEPTHWISE_CONV_2D": (4, 3, "DepthwiseConv2D"),
    "DEPTH_TO_SPACE": (5, 2, "DepthToSpace"),
    "DIV": (42, 2, "Div"),
    "ELU": (111, 1, ""),
    "FULLY_CONNECTED": (9, 5, "FullyConnected"),
    "GATHER": (36, 2, "Gather"),
    "HARD_SWISH": (117, 1, ""),
    "LEAKY_RELU": (98, 2, "LeakyRelu"),
    "LOGISTIC": (14, 2, ""),
    "LOG_SOFTMAX": (50, 2, ""),
    "MAXIMUM": (55, 2, ""),
    "MAX_POOL_2D": (17, 2, "Pool2D"),
    "MEAN": (40, 2, "Reducer"),
    "MINIMUM": (57, 2, ""),
    "MIRROR_PAD": (100, 2, "MirrorPad"),
    "MUL": (18, 2, "Mul"),
    "PAD": (34, 2, ""),
    "PADV2": (60, 2, ""),
    "PRELU": (54, 1, ""),
    "QUANTIZE": (114, 2, ""),
    "REDUCE_MAX": (82, 2, "Reducer"),
    "REDUCE_MIN": (89, 2, "Reducer"),
    "RELU": (19, 2, ""),
    "RESHAPE": (22, 1, "Reshape"),
    "RESIZE_BILINEAR": (23, 3, "ResizeBilinear"),
    "RESIZE_NEAREST_NEIGHBOR": (97, 3, "ResizeNearestNeighbor"),
    "SLICE": (65, 2, ""),
    "SOFTMAX": (25, 2, "Softmax"),
    "SPACE_TO_DEPTH": (26, 2, "SpaceToDepth"),
    "SPLIT_V": (102, 2, "SplitV"),
    "SPLIT": (49, 2, "Split"),
    "STRIDED_SLICE": (45, 2, "StridedSlice"),
    "SUB": (41, 2, "Sub"),
    "SUM": (74, 2, "Reducer"),
    "TANH": (28, 2, ""),
    "TRANSPOSE": (39, 2, ""),
    "TRANSPOSE_CONV": (67, 3, "TransposeConv"),
}
_ACTIVATION = {"fused": (0, "Int8")}
_POOL_FIELDS = {"padding": (0, "Int8"), "stride_w": (1, "Int32"), "stride_h": (2, "Int32")}
#: Options -> their code in the schema's union, and field -> (id, type).
_OPTIONS: Mapping[str, tuple[int, Mapping[str, tuple[int, str]]]] = {
    "Add": (11, _ACTIVATION),
    "BatchMatMul": (101, {"adj_x": (0, "Bool"), "adj_y": (1, "Bool")}),
    "Concatenation": (10, {"axis": (0, "Int32")}),
    "Conv2D": (1, {**_POOL_FIELDS, "fused": (3, "Int8"), "dilation_w": (4, "Int32"), "dilation_h": (5, "Int32")}),
    "DepthToSpace": (94, {"block": (0, "Int32")}),
    "DepthwiseConv2D": (
        2,
        {
            **_POOL_FIELDS,
            "multiplier": (3, "Int32"),
            "fused": (4, "Int8"),
            "dilation_w": (5, "Int32"),
            "dilation_h": (6, "Int32"),
        },
    ),
    "Div": (29, _ACTIVATION),
    "FullyConnected": (8, {"fused": (0, "Int8"), "keep_num_dims": (2, "Bool")}),
    "Gather": (23, {"axis": (0, "Int32")}),
    "LeakyRelu": (75, {"alpha": (0, "Float32")}),
    "MirrorPad": (77, {"mode": (0, "Int8")}),
    "Mul": (21, _ACTIVATION),
    "Pool2D": (5, {**_POOL_FIELDS, "filter_w": (3, "Int32"), "filter_h": (4, "Int32"), "fused": (5, "Int8")}),
    "Reducer": (27, {"keep_dims": (0, "Bool")}),
    "Reshape": (17, {"new_shape": (0, "UOffsetTRelative")}),
    "ResizeBilinear": (15, {"align_corners": (2, "Bool"), "half_pixel_centers": (3, "Bool")}),
    "ResizeNearestNeighbor": (74, {"align_corners": (0, "Bool"), "half_pixel_centers": (1, "Bool")}),
    "Softmax": (9, {"beta": (0, "Float32")}),
    "SpaceToDepth": (19, {"block": (0, "Int32")}),
    "Split": (35, {"num_splits": (0, "Int32")}),
    "SplitV": (79, {"num_splits": (0, "Int32")}),
    "StridedSlice": (32, {"begin_mask": (0, "Int32"), "end_mask": (1, "Int32")}),
    "Sub": (28, _ACTIVATION),
    "TransposeConv": (49, {**_POOL_FIELDS, "fused": (3, "Int8")}),
}
_SCHEMA_VERSION = 3
#: Of the memory plan that TensorFlow Lite Micro reads from a file's metadata.
_PLAN_VERSION = 1
_TYPES = {"int8": 9, "int32": 2}
_SAME, _VALID = 0, 1
#: Fused activations, by the bounds that they hold.
_FUSED: Mapping[tuple[float, float], int] = {(-np.inf, np.inf): 0, (0.0, np.inf): 1, (-1.0, 1.0): 2, (0.0, 6.0): 3}
#: Kernels read constants in place and ask for this alignment.
_BUFFER_ALIGNMENT = 16
#: Transposing kernels take no more dimensions.
_MAX_RANK = 5


@dataclass(frozen=True)
class _Tensor:
    """A tensor of the file. scales, zero_points: one, or one for each index along ``axis``; none where it isn't quantised."""

    name: str
    shape: Shape
    dtype: str
    scales: Array
    zero_points: Array
    axis: int = 0
    data: Array | None = None


@dataclass(frozen=True)
class _Operator:
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any]


def _serialised(
    tensors: Sequence[_Tensor],
    operators: Sequence[_Operator],
    inputs: Sequence[int],
    outputs: Sequence[int],
    offsets_in_arena: Sequence[int],
) -> bytes:
    """The flatbuffer. Raises MissingExtra where the package ``flatbuffers`` isn't installed.

    offsets_in_arena: where the runtime is to lay each tensor, in bytes, -1 for constants; empty to leave it to its planner.
    """
    try:
        flatbuffers = importlib.import_module("flatbuffers")
    except ImportError:
        raise MissingExtra("flatbuffers isn't installed; pip install 'mcuprune[verify]'") from None
    builder = flatbuffers.Builder(sum(t.data.nbytes for t in tensors if t.data is not None) + 4096)

    def table(fields: Sequence[tuple[int, str, Any]]) -> Any:
        builder.StartObject(1 + max((slot for slot, _, _ in fields), default=-1))
        for slot, kind, value in fields:
            getattr(builder, f"Prepend{kind}Slot")(slot, value, None)  # None: written even where it is the default
        return builder.EndObject()

    def offsets(items: Sequence[Any]) -> Any:
        builder.StartVector(4, len(items), 4)
        for item in reversed(items):
            builder.PrependUOffsetTRelative(item)
        return builder.EndVector()

    def numbers(values: Any, dtype: str) -> Any:
        return builder.CreateNumpyVector(np.asarray(values, dtype).reshape(-1))

    def aligned_bytes(data: Array) -> Any:
        content = data.tobytes()
        builder.StartVector(1, len(content), _BUFFER_ALIGNMENT)
        builder.head -= len(content)
        builder.Bytes[builder.head : builder.head + len(content)] = content
        return builder.EndVector()

    offset = "UOffsetTRelative"
    buffers = [table([])]  # by the format's rule the first is empty, and what computed tensors point to
    made_tensors = []
    for tensor in tensors:
        buffer = 0
        if tensor.data is not None:
            buffer = len(buffers)
            buffers.append(table([(0, offset, aligned_bytes(tensor.data))]))
        fields = [
            (0, offset, numbers(tensor.shape, "int32")),
            (1, "Int8", _TYPES[tensor.dtype]),
            (2, "Uint32", buffer),
            (3, offset, builder.CreateString(tensor.name)),
        ]
        if tensor.scales.size:
            scales, zeros = numbers(tensor.scales, "float32"), numbers(tensor.zero_points, "int64")
            fields.append((4, offset, table([(2, offset, scales), (3, offset, zeros), (6, "Int32", tensor.axis)])))
        made_tensors.append(table(fields))
    used = sorted({operator.name for operator in operators})
    codes = []
    for name in used:
        code, version, _ = _OPERATORS[name]
        codes.append(table([(0, "Int8", min(code, 127)), (2, "Int32", version), (3, "Int32", code)]))
    made_operators = []
    for operator in operators:
        options = _OPERATORS[operator.name][2]
        fields = [
            (0, "Uint32", used.index(operator.name)),
            (1, offset, numbers(operator.inputs, "int32")),
            (2, offset, numbers(operator.outputs, "int32")),
        ]
        if options:
            union, slots = _OPTIONS[options]
            values = {
                key: numbers(value, "int32") if slots[key][1] == offset else value for key, value in operator.options.items()
            }
            fields += [(3, "Uint8", union), (4, offset, table([(*slots[key], value) for key, value in values.items()]))]
        made_operators.append(table(fields))
    graph = table(
        [
            (0, offset, offsets(made_tensors)),
            (1, offset, numbers(inputs, "int32")),
            (2, offset, numbers(outputs, "int32")),
            (3, offset, offsets(made_operators)),
            (4, offset, builder.CreateString("main")),
        ]
    )
    metadata = []
    if offsets_in_arena:
        plan = np.array([_PLAN_VERSION, 0, len(offsets_in_arena), *offsets_in_arena], np.int32)
        name = builder.CreateString("OfflineMemoryAllocation")
        metadata.append(table([(0, offset, name), (1, "Uint32", len(buffers))]))
        buffers.append(table([(0, offset, aligned_bytes(plan))]))
    model = table(
        [
            (0, "Uint32", _SCHEMA_VERSION),
            (1, offset, offsets(codes)),
            (2, offset, offsets([graph])),
            (3, offset, builder.CreateString("mcuprune")),
            (4, offset, offsets(buffers)),
            *([(6, offset, offsets(metadata))] if metadata else []),
        ]
    )
    builder.Finish(model, file_identifier=b"TFL3")
    return bytes(builder.Output())


def _plan(
    tensors: Sequence[_Tensor], operators: Sequence[_Operator], inputs: Sequence[int], outputs: Sequence[int]
) -> list[int]:
    """Offsets in the arena for every tensor, -1 for constants; empty where the runtime's planner does as well by itself."""
    first, last = dict.fromkeys(inputs, 0), dict.fromkeys(inputs, 0)
    for time, operator in enumerate(operators, 1):
        for tensor in operator.outputs:
            first[tensor] = last[tensor] = time
        last.update((tensor, time) for tensor in operator.inputs if tensor in first)
    last.update(dict.fromkeys(outputs, len(operators)))
    order = sorted(first)
    lifetimes = tuple(Lifetime(first[tensor], last[tensor]) for tensor in order)
    program = Program(
        operators=tuple((operator.name, "") for operator in operators),
        tensors=tuple(tensors[tensor].name for tensor in order),
        sizes=tuple(prod(tensors[tensor].shape) for tensor in order),
        lifetimes=lifetimes,
        scratch=(),
        persistent=(),
        fixed_tail=0,
        missing=(),
        neighbours=overlaps(lifetimes),
    )
    planned = program.arena(offline=True)
    if planned.head >= program.arena().head:
        return []
    offset = dict(zip(order, (buffer.offset for buffer in planned.buffers), strict=True))
    return [offset.get(tensor, -1) for tensor in range(len(tensors))]


# ---------------------------------------------------------------------------------------------------- what comes and goes


@dataclass(frozen=True)
class Port:
    """An input or output of the converted model: an ONNX tensor, and how TFLite holds it.

    shape: ONNX's, batch 1. axes: see ``Axes``.
    """

    name: str
    shape: Shape
    axes: Axes
    quantizer: Quantizer

    def to_tflite(self, x: Array) -> Array:
        """Data in ONNX's order -> in TFLite's order and shape."""
        kept = [axis for axis in self.axes if axis is not None]
        order = [sorted(kept).index(axis) for axis in kept]
        sizes = [self.shape[axis] for axis in sorted(kept)]
        return np.ascontiguousarray(x.reshape(sizes).transpose(order).reshape(_sizes(self.axes, self.shape)))

    def to_onnx(self, x: Array) -> Array:
        """Data in TFLite's order -> in ONNX's order and shape."""
        kept = [axis for axis in self.axes if axis is not None]
        return x.reshape([self.shape[axis] for axis in kept]).transpose(np.argsort(kept)).reshape(self.shape)


@dataclass(frozen=True)
class Converted:
    """A .tflite file. operators: TFLite operators with the ONNX node that each is written for, in the order they run."""

    content: bytes
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    operators: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Stored:
    """A constant as the file stores it: value = scale * (integers - zero point), one scale or one along ``axis``."""

    integers: Array
    scale: Array
    axis: int


def stored_constants(model: ModelProto) -> dict[str, Stored]:
    """The name of each dequantised constant of an ONNX file -> its integers, where their zero point is 0."""
    arrays = {tensor.name: tensor for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        names = [name for name in node.input if name]
        if node.op_type != "DequantizeLinear" or any(name not in arrays for name in names):
            continue
        if any(attribute.name == "block_size" and attribute.i for attribute in node.attribute):
            continue  # no integer kernel has a scale for a part of a channel
        integers, scale, *zero = (numpy_helper.to_array(arrays[name]) for name in names)
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        if integers.dtype in (np.int8, np.int32) and not any(part.any() for part in zero):
            found[node.output[0]] = Stored(integers, np.asarray(scale, np.float32).reshape(-1), axis % max(1, integers.ndim))
    return found


def from_file(path: str | Path, *, input_shapes: Mapping[str, Shape] | None = None, outputs: Sequence[str] = ()) -> bytes:
    """An int8 ONNX file as a TensorFlow Lite file, with a plan of its memory where that beats the runtime's own.

    Raises what ``convert`` raises, and what ``network.load`` does.
    """
    net = network.load(path, input_shapes=input_shapes, outputs=outputs, accept=ops.accept(str(path)))
    return convert(net, stored_constants(onnx.load(str(path))), offline=True).content


def convert(net: Network, stored: Mapping[str, Stored], *, offline: bool = False) -> Converted:
    """The .tflite of an int8 network as ``export.quantized`` writes it.

    stored: the integers behind the network's constants (``stored_constants`` of the same file).
    offline: with a memory plan in the file, where a search finds one that takes less arena than the runtime's own planner.
    Raises UnsupportedOperator, naming the node, for what has no int8 operator in TensorFlow Lite Micro, ModelError for a
    network that isn't int8, and MissingExtra where ``flatbuffers`` isn't installed.
    """
    if not any(node.op == "QuantizeLinear" for node in net.nodes):
        raise ModelError(f"{net.path}: is a float model; a microcontroller's runtime takes int8: prune without --float")
    return _Writer(net, stored, offline).run()


# ------------------------------------------------------------------------------------------------------------ layouts


def _sizes(axes: Axes, shape: Shape) -> Shape:
    return tuple(1 if axis is None else shape[axis] for axis in axes)


def _without_ones(axes: Sequence[int | None], shape: Shape) -> Axes:
    return tuple(None if axis is None or shape[axis] == 1 else axis for axis in axes)


def _channels_last(rank: int) -> tuple[int, ...]:
    return (0, *range(2, rank), 1) if rank > 2 else tuple(range(rank))


def _image(shape: Shape) -> Axes:
    """The axes of a tensor (batch, channel, [height,] width) as kernels of images want them; without a height it is 1."""
    order: Sequence[int | None] = (0, 2, 3, 1) if len(shape) == 4 else (0, None, 2, 1)
    return _without_ones(order, shape)


def _blocks(before: Shape, after: Shape) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of axes of a reshape that turn into each other; axes of size 1 left out."""
    old, new = ([axis for axis, size in enumerate(shape) if size > 1] for shape in (before, after))
    found: list[tuple[list[int], list[int]]] = []
    while old:
        left, right = [old.pop(0)], [new.pop(0)]
        while (p := prod(before[a] for a in left)) != (q := prod(after[a] for a in right)):
            if p < q:
                left.append(old.pop(0))
            else:
                right.append(new.pop(0))
        found.append((left, right))
    return found


@dataclass(frozen=True)
class Value:
    """A computed ONNX tensor in the TFLite graph.

    shape: ONNX's. axes: what the dimensions of TFLite's tensor are.
    shuffle: for a flattened tensor whose elements stand in another order than ONNX's: TFLite position -> ONNX position.
    """

    tensor: int
    shape: Shape
    axes: Axes
    shuffle: Array | None = None


@dataclass(frozen=True)
class _Target:
    """What an operator must make: a tensor of this name and quantiser, clamped to [low, high]."""

    name: str
    shape: Shape
    quantizer: Quantizer
    low: float = -np.inf
    high: float = np.inf

    @property
    def fused(self) -> int:
        """The activation that the operator can do by itself; 0 where there is none for these bounds."""
        return _FUSED.get((self.low, self.high), 0)


_UNIT = Quantizer(UNIT_SCALE, LOW)


# ----------------------------------------------------------------------------------------------------------- the writer


@dataclass
class _Writer:
    """One walk over the nodes. ``values`` has what was made under ONNX's names, quantised and dequantised names alike."""

    net: Network
    stored: Mapping[str, Stored]
    offline: bool = False
    tensors: list[_Tensor] = field(default_factory=list)
    operators: list[_Operator] = field(default_factory=list)
    makers: list[str] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    rearranged: dict[tuple[int, Axes, Shape], Value] = field(default_factory=dict)
    node: Node | None = None

    def run(self) -> Converted:
        inputs = [self.graph_input(name) for name in self.net.inputs]
        for node in self.net.nodes:
            self.node = node
            if node.name in self.done:
                continue
            if node.op not in _LOWERINGS:
                self.refuse(f"has no int8 operator in TensorFlow Lite Micro; the {len(_LOWERINGS)} that do are in the table")
            _LOWERINGS[node.op](self, node)
        outputs = []
        for name in self.net.outputs:
            if name not in self.values:
                raise ModelError(f"{self.net.path}: output '{name}' isn't quantised")
            value = self.ordered(self.values[name])
            flat = len(value.shape) <= 2
            outputs.append(self.arranged(value, _without_ones(range(len(value.shape)), value.shape)) if flat else value)
        read, made = [value.tensor for value in inputs], [value.tensor for value in outputs]
        plan = _plan(self.tensors, self.operators, read, made) if self.offline else ()
        content = _serialised(self.tensors, self.operators, read, made, plan)
        return Converted(
            content,
            tuple(self.port(name, value) for name, value in zip(self.net.inputs, inputs, strict=True)),
            tuple(self.port(name, value) for name, value in zip(self.net.outputs, outputs, strict=True)),
            tuple(zip((operator.name for operator in self.operators), self.makers, strict=True)),
        )

    def port(self, name: str, value: Value) -> Port:
        return Port(name, value.shape, value.axes, self.quantizer(value))

    def refuse(self, what: str) -> Any:
        node = self.node
        assert node is not None
        raise UnsupportedOperator(f"{self.net.path}: node '{node.name}': {node.op} {what}")

    def graph_input(self, name: str) -> Value:
        """The input in the order in which its readers want it: channels last, also where ONNX transposes it first."""
        shape = self.net.shapes[name]
        readers = self.net.consumers.get(name, ())
        if len(readers) != 1 or readers[0].op != "QuantizeLinear":
            raise ModelError(f"{self.net.path}: input '{name}' must be a float that one QuantizeLinear reads")
        order: Sequence[int] = _channels_last(len(shape))
        later = self.readers(name)
        if len(later) == 1 and later[0].op == "Transpose":
            perm = later[0].attrs.get("perm") or range(len(shape) - 1, -1, -1)
            order = [perm[axis] for axis in order]
        axes = _without_ones(order, shape)
        if len(shape) == 3:  # one-dimensional convolutions are two-dimensional ones of height 1
            axes = (axes[0], None, *axes[1:])
        value = self.computed(name, shape, axes, self.parameters(readers[0]))
        self.values[name] = value
        return value

    def readers(self, tensor: str) -> list[Node]:
        """Who reads a tensor, looking through quantisation."""
        found = []
        for node in self.net.consumers.get(tensor, ()):
            found += self.readers(node.outputs[0]) if node.op in ("QuantizeLinear", "DequantizeLinear") else [node]
        return found

    # ------------------------------------------------------------------------------------------- tensors and operators

    def computed(self, name: str, shape: Shape, axes: Axes, quantizer: Quantizer) -> Value:
        scale, zero = np.array([quantizer.scale], np.float32), np.array([quantizer.zero_point])
        self.tensors.append(_Tensor(name, _sizes(axes, shape), "int8", scale, zero))
        return Value(len(self.tensors) - 1, shape, axes)

    def constant(self, name: str, data: Array, scales: Any = (), *, zero_point: int = 0, axis: int = 0) -> int:
        """A constant tensor, int8 or int32; the same integers with the same scales are stored once."""
        scales = np.atleast_1d(np.asarray(scales, np.float32))
        zeros = np.full(scales.size, zero_point)
        for index, known in enumerate(self.tensors):
            if known.data is not None and known.dtype == str(data.dtype) and known.shape == data.shape and known.axis == axis:
                same = (known.data, data), (known.scales, scales), (known.zero_points, zeros)
                if all(np.array_equal(a, b) for a, b in same):
                    return index
        self.tensors.append(_Tensor(name, data.shape, str(data.dtype), scales, zeros, axis, data))
        return len(self.tensors) - 1

    def integers(self, *values: int) -> int:
        """A constant list of numbers, such as a shape."""
        return self.constant("/".join(map(str, values)), np.array(values, np.int32))

    def emit(self, operator: str, inputs: Sequence[int], outputs: Sequence[int], **options: Any) -> None:
        self.operators.append(_Operator(operator, tuple(inputs), tuple(outputs), options))
        self.makers.append(self.node.name if self.node else "")

    def name(self, value: Value) -> str:
        return self.tensors[value.tensor].name

    def quantizer(self, value: Value) -> Quantizer:
        tensor = self.tensors[value.tensor]
        return Quantizer(float(tensor.scales[0]), int(tensor.zero_points[0]))

    def parameters(self, node: Node) -> Quantizer:
        """The quantiser of a QuantizeLinear or DequantizeLinear, for int8; unsigned integers are the same numbers less 128."""
        constants = [self.net.constants.get(name) for name in node.inputs[1:3]]
        if any(value is None or value.size != 1 for value in constants):
            raise UnsupportedOperator(
                f"{self.net.path}: node '{node.name}': {node.op} of data must have one constant scale and zero point"
            )
        scale, zero = np.asarray(constants[0]), np.asarray(constants[1] if len(constants) > 1 else np.uint8(0))
        if zero.dtype not in (np.int8, np.uint8):
            raise UnsupportedOperator(f"{self.net.path}: node '{node.name}': {node.op} to {zero.dtype}; mcuprune takes int8")
        return Quantizer(float(np.float32(scale.item())), int(zero.item()) - (128 if zero.dtype == np.uint8 else 0))

    def target(self, node: Node, *, index: int = 0, same: Value | None = None) -> _Target:
        """What the node's output must be: a clamp right behind it included, with the quantiser behind that.

        same: where nothing quantises the output, it keeps this value's quantiser.
        """
        name, low, high = node.outputs[index], -np.inf, np.inf
        reader = self.net.sole_consumer(name)
        if reader is not None and OPS[reader.op].int8 == "clamp":
            low, high = _bounds(reader)
            self.done.add(reader.name)
            name = reader.outputs[0]
        readers = self.net.consumers.get(name, ())
        if readers and all(r.op == "QuantizeLinear" for r in readers) and name not in self.net.outputs:
            quantizer = self.parameters(readers[0])
        elif same is not None:
            quantizer = self.quantizer(same)
        else:
            self.refuse("makes a tensor that isn't quantised; int8 needs a QuantizeLinear behind it")
        return _Target(name, self.net.shapes[name], quantizer, low, high)

    def finish(self, target: _Target, value: Value, *, fused: int = 0) -> None:
        """Take ``value`` for the target: requantised where it must be, clamped where the operator didn't do it (``fused``)."""
        if self.quantizer(value) != target.quantizer:
            value = self.requantized(value, target.quantizer)
        clamped = fused and fused == target.fused
        for operator, bound in (("MAXIMUM", target.low), ("MINIMUM", target.high)):
            quantized = _stored_number(bound, target.quantizer)
            if clamped or np.isinf(bound) or quantized == (LOW if operator == "MAXIMUM" else HIGH):
                continue
            q = target.quantizer
            limit = self.constant(f"{bound:g}", np.full((1,), quantized, np.int8), q.scale, zero_point=q.zero_point)
            made = self.computed(f"{target.name}/{operator.lower()}", value.shape, value.axes, q)
            self.emit(operator, [value.tensor, limit], [made.tensor])
            value = made
        self.values[target.name] = replace(value, shape=target.shape)

    def requantized(self, value: Value, quantizer: Quantizer) -> Value:
        name = f"{self.name(value)}/requantized"
        made = replace(self.computed(name, value.shape, value.axes, quantizer), shuffle=value.shuffle)
        self.emit("QUANTIZE", [value.tensor], [made.tensor])
        return made

    def unary(self, operator: str, value: Value, target: _Target, quantizer: Quantizer, **options: Any) -> Value:
        """An operator that works element by element and makes ``quantizer``."""
        made = replace(self.computed(target.name, value.shape, value.axes, quantizer), shuffle=value.shuffle)
        self.emit(operator, [value.tensor], [made.tensor], **options)
        return made

    # ------------------------------------------------------------------------------------------------- bringing in order

    def data(self, node: Node, index: int = 0) -> Value:
        """An input that is computed."""
        name = node.inputs[index]
        if name not in self.values:
            self.refuse(f"reads '{name}', which isn't quantised")
        return self.values[name]

    def arranged(self, value: Value, axes: Axes) -> Value:
        """The value with these dimensions, axes of size 1 as None: transposed and reshaped where it isn't so already."""
        value = self.ordered(value)
        if value.axes == axes:
            return value
        key = (value.tensor, axes, value.shape)
        if key not in self.rearranged:
            self.rearranged[key] = self._arrange(value, axes)
        return self.rearranged[key]

    def _arrange(self, value: Value, axes: Axes) -> Value:
        wanted = [axis for axis in axes if axis is not None]
        kept = tuple(axis for axis in value.axes if axis is not None)
        assert sorted(kept) == sorted(wanted), f"{axes} of {value}"
        if list(kept) != wanted:
            if len(value.axes) > _MAX_RANK:
                value = self.reshaped(value, value.shape, kept)
            ones = [place for place, axis in enumerate(value.axes) if axis is None]
            perm = [*ones, *(value.axes.index(axis) for axis in wanted)]
            if len(perm) > _MAX_RANK:
                self.refuse(f"needs a transposition of {len(perm)} axes; the runtime transposes {_MAX_RANK}")
            name = f"{self.name(value)}/transposed"
            made = self.computed(name, value.shape, (*(None,) * len(ones), *wanted), self.quantizer(value))
            self.emit("TRANSPOSE", [value.tensor, self.integers(*perm)], [made.tensor])
            value = made
        return value if value.axes == axes else self.reshaped(value, value.shape, axes)

    def ordered(self, value: Value) -> Value:
        """The value with its elements in ONNX's order; a fully connected layer needs that not, others do."""
        if value.shuffle is None:
            return value
        place = self.constant("order", np.argsort(value.shuffle).astype(np.int32))
        made = self.computed(f"{self.name(value)}/ordered", value.shape, value.axes, self.quantizer(value))
        axis = next(i for i, a in enumerate(value.axes) if a is not None)
        self.emit("GATHER", [value.tensor, place], [made.tensor], axis=axis)
        return made

    def reshaped(self, value: Value, shape: Shape, axes: Axes, shuffle: Array | None = None) -> Value:
        """A RESHAPE: the same bytes under another shape and other axes."""
        made = self.computed(f"{self.name(value)}/reshaped", shape, axes, self.quantizer(value))
        sizes = _sizes(axes, shape)
        self.emit("RESHAPE", [value.tensor, self.integers(*sizes)], [made.tensor], new_shape=sizes)
        return replace(made, shuffle=shuffle)

    def spatial(self, value: Value) -> Value:
        """A tensor (batch, channel, [height,] width) as (batch, height, width, channel)."""
        rank = len(value.shape)
        if rank not in (3, 4):
            self.refuse(f"works on {rank - 2} axes of space; TensorFlow Lite Micro has 1 and 2")
        return self.arranged(value, _image(value.shape))

    def order(self, value: Value) -> tuple[int, ...]:
        """All ONNX axes in the order in which the value has them; those of size 1 where channels last has them."""
        usual = _channels_last(len(value.shape))
        kept = [axis for axis in value.axes if axis is not None]
        if [axis for axis in usual if axis in kept] == kept:
            return usual
        return (*(axis for axis in usual if axis not in kept), *kept)

    def padded(self, value: Value, pads: Sequence[tuple[int, int]], fill: int | None = None) -> Value:
        """A PAD of height and width in front of an operator; fill: an int8 number instead of the zero point."""
        rank = len(value.shape)
        shape = list(value.shape)
        for axis, pair in zip(range(2, rank), pads[4 - rank :], strict=True):
            shape[axis] += sum(pair)
        wider = tuple(shape)
        made = self.computed(f"{self.name(value)}/padded", wider, _image(wider), self.quantizer(value))
        table = self.constant("pads", np.array([(0, 0), *pads, (0, 0)], np.int32))
        self.pad(value, table, made, fill)
        return made

    def pad(self, value: Value, table: int, made: Value, fill: int | None) -> None:
        if fill is None or fill == self.quantizer(value).zero_point:
            self.emit("PAD", [value.tensor, table], [made.tensor])
        else:
            q = self.quantizer(value)
            number = self.constant("fill", np.full((1,), fill, np.int8), q.scale, zero_point=q.zero_point)
            self.emit("PADV2", [value.tensor, table, number], [made.tensor])


def _stored_number(value: float, quantizer: Quantizer) -> int:
    return int(np.clip(np.round(value / quantizer.scale) + quantizer.zero_point, LOW, HIGH)) if np.isfinite(value) else LOW


def _bounds(clamp: Node) -> tuple[float, float]:
    """What a Relu or Clip holds its input in."""
    if clamp.op == "Relu":
        return 0.0, np.inf
    low, high = clamp.attrs.get("min"), clamp.attrs.get("max")
    largest = float(np.finfo(np.float32).max)  # old exporters write "no limit" so
    low = -np.inf if low is None or low <= -largest else float(low)
    return low, np.inf if high is None or high >= largest else float(high)


# ------------------------------------------------------------------------------------------------- quantisers and movements


def _quantize(w: _Writer, node: Node) -> None:
    value = w.data(node)
    wanted = w.parameters(node)
    w.values[node.outputs[0]] = value if w.quantizer(value) == wanted else w.requantized(value, wanted)


def _alias(w: _Writer, node: Node) -> None:
    """DequantizeLinear, and what hands its input on."""
    w.values[node.outputs[0]] = w.data(node)


def _passing(w: _Writer, node: Node) -> None:
    if OPS[node.op].memory(node, w.net) != "view":
        w.refuse("changes its data's type")
    value = w.data(node)
    w.finish(w.target(node, same=value), value)


def _clamp(w: _Writer, node: Node) -> None:
    """A Relu or Clip that reads a quantised tensor."""
    value = w.data(node)
    low, high = _bounds(node)
    target = replace(w.target(node, same=value), low=low, high=high)
    if (low, high) == (0.0, np.inf):
        w.finish(target, w.unary("RELU", value, target, target.quantizer), fused=target.fused)
    else:
        w.finish(target, value)


def _reshape(w: _Writer, node: Node) -> None:
    value = w.data(node)
    target = w.target(node, same=value)
    before, after = value.shape, target.shape
    blocks = _blocks(before, after)
    kept = [axis for axis in value.axes if axis is not None]
    if value.shuffle is not None and [axis for axis in after if axis > 1] != [axis for axis in before if axis > 1]:
        value = w.ordered(value)
    renamed = {old[0]: new[0] for old, new in blocks if len(old) == len(new) == 1}
    if len(renamed) == len(blocks):  # only axes of size 1 come and go
        axes = tuple(None if axis is None else renamed[axis] for axis in value.axes)
        w.finish(target, replace(value, shape=after, axes=axes))
        return
    reads = w.readers(target.name)
    flat = len(blocks) == 1 and len(blocks[0][1]) == 1
    if flat and reads and all(_is_dense(reader, w.net) and reader.inputs[0] not in w.net.constants for reader in reads):
        shuffle = np.arange(prod(before)).reshape([before[a] for a in sorted(kept)])
        shuffle = shuffle.transpose([sorted(kept).index(axis) for axis in kept]).reshape(-1)
        unchanged = np.array_equal(shuffle, np.arange(shuffle.size))
        axes = _without_ones(range(len(after)), after)
        w.finish(target, w.reshaped(value, after, axes, None if unchanged else shuffle))
        return
    first = [old[0] for old, _ in blocks]
    runs = sorted(range(len(blocks)), key=lambda i: kept.index(first[i]))
    if kept != [axis for i in runs for axis in blocks[i][0]]:  # an axis to be merged isn't in one piece
        wanted = [axis for axis in _channels_last(len(after)) if after[axis] > 1]
        runs = sorted(range(len(blocks)), key=lambda i: wanted.index(blocks[i][1][0]))
        order = tuple(axis for i in runs for axis in blocks[i][0])
        ones = (None,) * (len(before) - len(order))
        value = w.arranged(value, (*ones, *order) if len(ones) + len(order) <= _MAX_RANK else order)
    axes = tuple(axis for i in runs for axis in blocks[i][1])
    w.finish(target, w.reshaped(value, after, (*(None,) * (len(after) - len(axes)), *axes)))


def _is_dense(node: Node, net: Network) -> bool:
    entry = OPS[node.op]
    return node.op == "Gemm" or (isinstance(entry, MatMul) and entry.is_layer(node, net))


def _transpose(w: _Writer, node: Node) -> None:
    value = w.ordered(w.data(node))
    target = w.target(node, same=value)
    perm = list(node.attrs.get("perm") or range(len(value.shape) - 1, -1, -1))
    axes = tuple(None if axis is None else perm.index(axis) for axis in value.axes)
    w.finish(target, replace(value, shape=target.shape, axes=axes))


def _concat(w: _Writer, node: Node) -> None:
    target = w.target(node)
    axis = node.attrs["axis"] % len(target.shape)
    computed = [w.data(node, i) for i, name in enumerate(node.inputs) if not w.net.is_constant(name)]
    order = w.order(max(computed, key=lambda value: sum(a is not None for a in value.axes)))
    inputs = []
    for index, name in enumerate(node.inputs):
        if w.net.is_constant(name):
            q = target.quantizer
            stored = np.clip(np.round(w.net.constants[name] / q.scale) + q.zero_point, LOW, HIGH).astype(np.int8)
            inputs.append(w.constant(name, stored.transpose(order), q.scale, zero_point=q.zero_point))
            continue
        value = w.data(node, index)
        if w.quantizer(value) != target.quantizer:
            value = w.requantized(w.ordered(value), target.quantizer)
        inputs.append(w.arranged(value, _without_ones(order, value.shape)).tensor)
    made = w.computed(target.name, target.shape, _without_ones(order, target.shape), target.quantizer)
    w.emit("CONCATENATION", inputs, [made.tensor], axis=order.index(axis))
    w.finish(target, made)


def _place(w: _Writer, value: Value, axis: int) -> tuple[Value, int]:
    """The value with all its axes, and the dimension that ``axis`` is."""
    order = w.order(value)
    if axis in value.axes:
        return value, value.axes.index(axis)
    value = w.arranged(value, _without_ones(order, value.shape))
    return value, order.index(axis)


def _split(w: _Writer, node: Node) -> None:
    axis = node.attrs.get("axis", 0) % len(w.net.shapes[node.inputs[0]])
    value, place = _place(w, w.ordered(w.data(node)), axis)
    targets = [w.target(node, index=i, same=value) for i, name in enumerate(node.outputs) if name]
    if len(targets) != len(node.outputs):
        w.refuse("has parts that nothing names")
    sizes = [target.shape[axis] for target in targets]
    made = [w.computed(t.name, t.shape, _without_ones(value.axes, t.shape), w.quantizer(value)) for t in targets]
    outputs = [part.tensor for part in made]
    if len(set(sizes)) == 1:
        w.emit("SPLIT", [w.constant("axis", np.array(place, np.int32)), value.tensor], outputs, num_splits=len(sizes))
    else:
        where = w.constant("axis", np.array(place, np.int32))
        w.emit("SPLIT_V", [value.tensor, w.integers(*sizes), where], outputs, num_splits=len(sizes))
    for target, part in zip(targets, made, strict=True):
        w.finish(target, part)


def _slice(w: _Writer, node: Node) -> None:
    value = w.ordered(w.data(node))
    target = w.target(node, same=value)
    rank = len(value.shape)
    starts, ends = node.attrs["starts"], node.attrs["ends"]
    axes = node.attrs.get("axes") or range(len(starts))
    steps = node.attrs.get("steps") or (1,) * len(starts)
    taken = {axis: range(size) for axis, size in enumerate(value.shape)}
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size = value.shape[axis % rank]
        stop = None if step < 0 and end < -size else end
        taken[axis % rank] = range(*slice(start, stop, step).indices(size))
    if all(taken[axis] == range(size) for axis, size in enumerate(value.shape)):
        w.finish(target, value)
        return
    parts = [range(1) if axis is None else taken[axis] for axis in value.axes]
    made = w.computed(target.name, target.shape, _without_ones(value.axes, target.shape), w.quantizer(value))
    if all(part.step == 1 or len(part) == 1 for part in parts):
        begin, sizes = w.integers(*(part.start for part in parts)), w.integers(*map(len, parts))
        w.emit("SLICE", [value.tensor, begin, sizes], [made.tensor])
    else:
        bounds = [w.integers(*values) for values in zip(*((p.start, p.stop, p.step) for p in parts), strict=True)]
        open_ends = sum(1 << i for i, part in enumerate(parts) if part.stop < 0)  # -1 would mean the last one
        w.emit("STRIDED_SLICE", [value.tensor, *bounds], [made.tensor], begin_mask=0, end_mask=open_ends)
    w.finish(target, made)


def _gather(w: _Writer, node: Node) -> None:
    axis = node.attrs.get("axis", 0) % len(w.net.shapes[node.inputs[0]])
    value, place = _place(w, w.ordered(w.data(node)), axis)
    target = w.target(node, same=value)
    indices = np.asarray(node.attrs["indices"])
    if indices.ndim > 1:
        w.refuse("picks by a table of indices; TensorFlow Lite Micro's takes a list")
    picked = (indices.reshape(-1) % value.shape[axis]).astype(np.int32)
    shape = (*value.shape[:axis], len(picked), *value.shape[axis + 1 :])
    made = w.computed(target.name, shape, _without_ones(value.axes, shape), w.quantizer(value))
    w.emit("GATHER", [value.tensor, w.constant("indices", picked)], [made.tensor], axis=place)
    if indices.ndim == 0:
        made = replace(made, axes=tuple(None if a is None else a - (a > axis) for a in made.axes))
    w.finish(target, replace(made, shape=target.shape))


def _pad(w: _Writer, node: Node) -> None:
    value = w.ordered(w.data(node))
    target = w.target(node, same=value)
    rank, mode = len(value.shape), node.attrs.get("mode", "constant")
    axes = [axis % rank for axis in node.attrs.get("axes") or range(rank)]
    pads = node.attrs["pads"]
    added = dict(zip(axes, zip(pads[: len(axes)], pads[len(axes) :], strict=True), strict=True))
    if not any(map(any, added.values())):
        w.finish(target, value)
        return
    if mode not in ("constant", "reflect") or any(min(pair) < 0 for pair in added.values()):
        w.refuse("crops, or pads in a way other than by a constant or reflection")
    missing = [axis for axis, pair in added.items() if any(pair) and axis not in value.axes]
    if missing:
        value = w.arranged(value, _without_ones(w.order(value), value.shape))
    # after the arrangement, an axis of size 1 lies where the channels-last order has it
    order = w.order(value) if missing else value.axes
    table = w.constant("pads", np.array([(0, 0) if axis is None else added.get(axis, (0, 0)) for axis in order], np.int32))
    made = w.computed(target.name, target.shape, _without_ones(order, target.shape), w.quantizer(value))
    if mode == "reflect":
        w.emit("MIRROR_PAD", [value.tensor, table], [made.tensor], mode=0)
    else:
        w.pad(value, table, made, _stored_number(float(node.attrs.get("value", 0) or 0), w.quantizer(value)))
    w.finish(target, made)


def _resize(w: _Writer, node: Node) -> None:
    value = w.data(node)
    target = w.target(node, same=value)
    if value.shape == target.shape:
        w.finish(target, value)
        return
    value = w.spatial(value)
    if value.shape[:2] != target.shape[:2]:
        w.refuse("resizes channels")
    mode = node.attrs.get("mode", "nearest")
    coordinates = node.attrs.get("coordinate_transformation_mode", "half_pixel")
    outs = (1, *target.shape[2:])[-2:] if len(target.shape) == 3 else target.shape[2:]
    options: dict[str, Any] | None = None
    if mode == "nearest":
        operator = "RESIZE_NEAREST_NEIGHBOR"
        for align, half in ((False, False), (False, True), (True, False)):
            pairs = list(zip(value.shape[2:], target.shape[2:], strict=True))
            if all(_nearest_onnx(node, axis, i, o) == _nearest_tflite(align, half, i, o) for axis, (i, o) in enumerate(pairs)):
                options = {"align_corners": align, "half_pixel_centers": half}
                break
    elif mode == "linear" and not node.attrs.get("antialias"):
        operator = "RESIZE_BILINEAR"
        if coordinates in ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"):
            options = {"align_corners": coordinates == "align_corners", "half_pixel_centers": "half_pixel" in coordinates}
    if options is None:
        w.refuse(f"in mode {mode} ({coordinates}) picks other pixels than TensorFlow Lite's")
        return
    made = w.computed(target.name, target.shape, _image(target.shape), w.quantizer(value))
    w.emit(operator, [value.tensor, w.integers(*outs)], [made.tensor], **options)
    w.finish(target, made)


def _nearest_onnx(node: Node, axis: int, size: int, out: int) -> list[int]:
    """The index that each output takes along an axis of space, by ONNX's definition of Resize."""
    scales = node.attrs.get("scales") or ()
    scale = float(np.float32(scales[-len(scales) + axis + 2])) if len(scales) > 2 else out / size
    mode = node.attrs.get("coordinate_transformation_mode", "half_pixel")
    x = np.arange(out, dtype=np.float64)
    if mode == "asymmetric":
        x = x / scale
    elif mode == "align_corners":
        x = x * (size - 1) / max(1, out - 1)
    elif mode == "tf_half_pixel_for_nn":
        x = (x + 0.5) / scale
    else:
        x = (x + 0.5) / scale - 0.5 if mode == "half_pixel" or out > 1 else x * 0
    rounding: Mapping[str, Callable[[Array], Array]] = {
        "floor": np.floor,
        "ceil": np.ceil,
        "round_prefer_ceil": lambda value: np.floor(value + 0.5),
        "round_prefer_floor": lambda value: np.ceil(value - 0.5),
    }
    picked = rounding[node.attrs.get("nearest_mode", "round_prefer_floor")](x)
    return [int(i) for i in np.clip(picked, 0, size - 1)]


def _nearest_tflite(align: bool, half: bool, size: int, out: int) -> list[int]:
    scale = np.float32((size - 1) / (out - 1) if align and out > 1 else size / out)
    x = (np.arange(out, dtype=np.float32) + np.float32(0.5 if half else 0.0)) * scale
    picked = np.floor(x + 0.5) if align else np.floor(x)
    return [int(i) for i in np.clip(picked, 0, size - 1)]


def _depth_to_space(w: _Writer, node: Node) -> None:
    value = w.spatial(w.data(node))
    target = w.target(node, same=value)
    block, opens = node.attrs["blocksize"], node.op == "DepthToSpace"
    if len(target.shape) != 4:
        w.refuse("works on images alone")
    if opens and node.attrs.get("mode", "DCR") == "CRD":  # TensorFlow Lite has the block's place outermost
        order = np.arange(value.shape[1]).reshape(-1, block * block).T.reshape(-1).astype(np.int32)
        sorted_ = w.computed(f"{target.name}/ordered", value.shape, value.axes, w.quantizer(value))
        w.emit("GATHER", [value.tensor, w.constant("order", order)], [sorted_.tensor], axis=3)
        value = sorted_
    made = w.computed(target.name, target.shape, _without_ones((0, 2, 3, 1), target.shape), w.quantizer(value))
    w.emit("DEPTH_TO_SPACE" if opens else "SPACE_TO_DEPTH", [value.tensor], [made.tensor], block=block)
    w.finish(target, made)


# -------------------------------------------------------------------------------------------------- weights and windows


def _weights(w: _Writer, node: Node) -> Stored:
    found = w.stored.get(node.inputs[1])
    if found is None or found.integers.dtype != np.int8:
        w.refuse("has weights that aren't stored as symmetric int8")
    assert found is not None
    return found


def _bias(w: _Writer, node: Node, value: Value, scales: Array, factor: float = 1.0) -> int:
    """The int32 bias, (channels,), with scale = input scale x weight scale; zeros where there is none."""
    name = node.inputs[2] if len(node.inputs) > 2 else ""
    step = np.float32(w.quantizer(value).scale) * scales
    stored = w.stored.get(name)
    known = stored is not None and stored.integers.size == scales.size and np.allclose(stored.scale, step, rtol=1e-5)
    if stored is not None and known and factor == 1:
        integers = stored.integers.reshape(-1).astype(np.int32)
    else:
        real = np.broadcast_to(w.net.constants[name].reshape(-1), scales.shape) if name else np.zeros(scales.shape)
        integers = np.clip(np.round(factor * real / step), -(2**31) + 1, 2**31 - 1).astype(np.int32)
    return w.constant(name or f"{node.name}/bias", integers, step)


def _per_channel(stored: Stored, channels: int) -> Array:
    return np.broadcast_to(stored.scale, (channels,)).astype(np.float32)


def _two(values: Sequence[int] | None, rank: int, default: int = 1) -> tuple[int, int]:
    """Height and width of an attribute; one-dimensional operators have height 1."""
    found = tuple(values or (default,) * (rank - 2))
    return (default, found[0]) if len(found) == 1 else (found[0], found[1])


def _windowed(w: _Writer, node: Node, kernel: Sequence[int], fill: int | None = None) -> tuple[Value, int]:
    """The input of a sliding operator, padded where TFLite doesn't pad so by itself, and the padding that it is to do."""
    value = w.spatial(w.data(node))
    window = window_of(node, w.net, kernel)
    if window.explicit is not None:
        pads = window.explicit if len(window.explicit) == 2 else ((0, 0), *window.explicit)
        return w.padded(value, pads, fill), _VALID
    sizes, outs = w.net.shapes[node.inputs[0]][2:], w.net.shapes[node.outputs[0]][2:]
    strides, dilations = (node.attrs.get(key) or (1,) * len(sizes) for key in ("strides", "dilations"))
    whole = zip(sizes, outs, strides, dilations, kernel, strict=True)
    fits = all((o - 1) * s + (k - 1) * d + 1 <= i for i, o, s, d, k in whole)
    return value, _VALID if fits and not any(window.before) else _SAME


def _conv(w: _Writer, node: Node) -> None:
    stored = _weights(w, node)
    kernel, rank = stored.integers.shape[2:], stored.integers.ndim
    channels, outs = w.net.shapes[node.inputs[0]][1], stored.integers.shape[0]
    value, padding = _windowed(w, node, kernel)
    target = w.target(node)
    integers = stored.integers if rank == 4 else stored.integers[:, :, None, :]
    scales = _per_channel(stored, outs)
    strides, dilations = _two(node.attrs.get("strides"), rank), _two(node.attrs.get("dilations"), rank)
    options = {
        "padding": padding,
        "stride_h": strides[0],
        "stride_w": strides[1],
        "dilation_h": dilations[0],
        "dilation_w": dilations[1],
        "fused": target.fused,
    }
    if node.attrs.get("group", 1) == channels > 1:
        operator = "DEPTHWISE_CONV_2D"
        weights = w.constant(node.inputs[1], integers.transpose(1, 2, 3, 0), scales, axis=3)
        options["multiplier"] = outs // channels
    else:
        operator = "CONV_2D"
        weights = w.constant(node.inputs[1], integers.transpose(0, 2, 3, 1), scales)
    made = w.computed(target.name, target.shape, _image(target.shape), target.quantizer)
    w.emit(operator, [value.tensor, weights, _bias(w, node, value, scales)], [made.tensor], **options)
    w.finish(target, made, fused=target.fused)


def _conv_transpose(w: _Writer, node: Node) -> None:
    stored = _weights(w, node)
    rank = stored.integers.ndim
    if node.attrs.get("group", 1) > 1 or any(d > 1 for d in node.attrs.get("dilations") or ()):
        w.refuse("in groups or dilated has no operator in TensorFlow Lite Micro")
    value, target = w.spatial(w.data(node)), w.target(node)
    integers = stored.integers if rank == 4 else stored.integers[:, :, None, :]
    outs = integers.shape[1]
    scales = _per_channel(stored, outs)
    kernel, strides = integers.shape[2:], _two(node.attrs.get("strides"), rank)
    image = ((1, *target.shape[2:]) if rank == 3 else target.shape[2:])[-2:]
    sizes = ((1, *value.shape[2:]) if rank == 3 else value.shape[2:])[-2:]
    before = _two((node.attrs.get("pads") or (0,) * (2 * rank - 4))[: rank - 2], rank, 0)
    automatic = node.attrs.get("auto_pad", "NOTSET")
    if automatic.startswith("SAME") or node.attrs.get("output_shape"):
        extra = _two(node.attrs.get("output_padding"), rank, 0)
        total = [max(0, (i - 1) * s + k + e - o) for i, s, k, e, o in zip(sizes, strides, kernel, extra, image, strict=True)]
        low = [t // 2 if automatic == "SAME_UPPER" else t - t // 2 for t in total]
        before = (low[0], low[1])
    same = all(-(-o // s) == i for o, s, i in zip(image, strides, sizes, strict=True)) and all(
        max(0, (i - 1) * s + k - o) // 2 == b for i, s, k, o, b in zip(sizes, strides, kernel, image, before, strict=True)
    )
    weights = w.constant(node.inputs[1], integers.transpose(1, 2, 3, 0), scales)
    inputs = [weights, value.tensor, _bias(w, node, value, scales)]
    options = {"stride_h": strides[0], "stride_w": strides[1], "fused": target.fused}
    if same or not any(before):
        made = w.computed(target.name, target.shape, _image(target.shape), target.quantizer)
        options["padding"] = _SAME if same else _VALID
        w.emit("TRANSPOSE_CONV", [w.integers(1, *image, outs), *inputs], [made.tensor], **options)
    else:  # without padding of its own it makes the whole; what ONNX cuts off in front is cut off behind it
        larger = tuple(o + b for o, b in zip(image, before, strict=True))
        shape = (1, outs, *larger[4 - rank :])
        whole = w.computed(f"{target.name}/whole", shape, _image(shape), target.quantizer)
        w.emit("TRANSPOSE_CONV", [w.integers(1, *larger, outs), *inputs], [whole.tensor], padding=_VALID, **options)
        made = w.computed(target.name, target.shape, _image(target.shape), target.quantizer)
        w.emit("SLICE", [whole.tensor, w.integers(0, *before, 0), w.integers(1, *image, outs)], [made.tensor])
    w.finish(target, made, fused=target.fused)


def _dense(w: _Writer, node: Node) -> None:
    """Gemm, and MatMul with a constant matrix on the right."""
    if node.op == "MatMul" and not _is_dense(node, w.net):
        _batch_matmul(w, node)
        return
    stored = _weights(w, node)
    value, target = w.data(node), w.target(node)
    by_rows = bool(node.attrs.get("transB"))
    integers = stored.integers if by_rows else stored.integers.T
    last = len(value.shape) - 1
    if value.shuffle is not None:
        integers = integers[:, value.shuffle]
    else:
        value = w.arranged(value, _without_ones(range(len(value.shape)), value.shape))
    alpha, beta = float(node.attrs.get("alpha", 1.0)), float(node.attrs.get("beta", 1.0))
    scales = stored.scale * np.float32(alpha)
    if alpha <= 0:
        w.refuse(f"has alpha {alpha:g}")
    weights = w.constant(node.inputs[1], np.ascontiguousarray(integers), scales)
    bias_scales = np.broadcast_to(scales, (integers.shape[0],))
    name = node.inputs[2] if len(node.inputs) > 2 else ""
    if name and not w.net.is_constant(name):
        w.refuse("adds computed data")
    bias = _bias(w, node, value, bias_scales, beta)
    if scales.size == 1:  # the kernel reads one scale for all
        bias = w.constant(w.tensors[bias].name, np.asarray(w.tensors[bias].data), w.tensors[bias].scales[:1])
    made = w.computed(target.name, target.shape, _without_ones(range(last + 1), target.shape), target.quantizer)
    w.emit("FULLY_CONNECTED", [value.tensor, weights, bias], [made.tensor], fused=target.fused, keep_num_dims=last > 1)
    w.finish(target, made, fused=target.fused)


def _batch_matmul(w: _Writer, node: Node) -> None:
    target = w.target(node)
    inputs = []
    for index, name in enumerate(node.inputs):
        if w.net.is_constant(name):
            stored = _small_constant(w, node, index)
            inputs.append(w.constant(name, stored.integers, stored.scale))
        else:
            value = w.data(node, index)
            inputs.append(w.arranged(value, _without_ones(range(len(value.shape)), value.shape)).tensor)
    made = w.computed(target.name, target.shape, _without_ones(range(len(target.shape)), target.shape), target.quantizer)
    w.emit("BATCH_MATMUL", inputs, [made.tensor], adj_x=False, adj_y=False)
    w.finish(target, made)


def _pool(w: _Writer, node: Node) -> None:
    if any(node.outputs[1:]) or any(d > 1 for d in node.attrs.get("dilations") or ()):
        w.refuse("dilated, or with indices, has no operator in TensorFlow Lite Micro")
    rank = len(w.net.shapes[node.inputs[0]])
    kernel = tuple(node.attrs["kernel_shape"])
    pads = node.attrs.get("pads") or ()
    strides = _two(node.attrs.get("strides"), rank)
    if node.op == "MaxPool":
        value, padding = _windowed(w, node, kernel, LOW)
        target = w.target(node, same=value)
        _slide(w, "MAX_POOL_2D", value, target, _two(kernel, rank), strides, padding)
        return
    counted = bool(node.attrs.get("count_include_pad")) and any(pads)
    value, padding = _windowed(w, node, kernel)
    if counted and padding == _SAME:  # TensorFlow Lite never counts what it pads: let a PAD write the zeros
        n = len(kernel)
        value = w.padded(w.spatial(w.data(node)), ((0, 0), *zip(pads[:n], pads[n:], strict=True))[-2:])
        padding = _VALID
    elif value.tensor != w.spatial(w.data(node)).tensor and not counted:
        w.refuse("averages without counting its padding, in a form that TensorFlow Lite doesn't pad by itself")
    target = w.target(node, same=value)
    if padding == _SAME or w.quantizer(value) == target.quantizer:
        _slide(w, "AVERAGE_POOL_2D", value, target, _two(kernel, rank), strides, padding)
    else:  # the pool would round in its input's steps first; a convolution by 1/n rounds once
        _average_by_convolution(w, value, target, _two(kernel, rank), strides)


def _slide(
    w: _Writer, operator: str, value: Value, target: _Target, kernel: tuple[int, int], strides: tuple[int, int], padding: int
) -> None:
    """A pool, which keeps its input's quantiser."""
    fused = target.fused if w.quantizer(value) == target.quantizer else 0
    made = w.computed(target.name, target.shape, _image(target.shape), w.quantizer(value))
    options = {"padding": padding, "stride_h": strides[0], "stride_w": strides[1], "fused": fused}
    w.emit(operator, [value.tensor], [made.tensor], filter_h=kernel[0], filter_w=kernel[1], **options)
    w.finish(target, made, fused=fused)


def _average_by_convolution(
    w: _Writer, value: Value, target: _Target, kernel: tuple[int, int], strides: tuple[int, int]
) -> None:
    channels = value.shape[1]
    weights = np.full((1, *kernel, channels), 127, np.int8)
    scales = np.full(channels, 1 / (127 * prod(kernel)), np.float32)
    _depthwise(w, value, target, weights, scales, np.zeros(channels), strides)


def _depthwise(
    w: _Writer, value: Value, target: _Target, weights: Array, scales: Array, bias: Array, strides: tuple[int, int] = (1, 1)
) -> None:
    """A depthwise convolution of constants that are made up here. bias: reals, (channels,)."""
    step = np.float32(w.quantizer(value).scale) * scales
    integers = np.round(bias / step).astype(np.int32)
    constants = [
        w.constant(f"{target.name}/weight", weights, scales, axis=3),
        w.constant(f"{target.name}/bias", integers, step),
    ]
    made = w.computed(target.name, target.shape, _image(target.shape), target.quantizer)
    options = {"padding": _VALID, "stride_h": strides[0], "stride_w": strides[1], "multiplier": 1, "fused": target.fused}
    w.emit("DEPTHWISE_CONV_2D", [value.tensor, *constants], [made.tensor], dilation_h=1, dilation_w=1, **options)
    w.finish(target, made, fused=target.fused)


def _affine(w: _Writer, node: Node, value: Value, factor: Array, offset: Array) -> None:
    """factor * x + offset for each channel, (channels,) each, rounded once."""
    value, target = w.spatial(value), w.target(node)
    least = np.abs(offset) / (w.quantizer(value).scale * 2.0**30)  # so that the offset fits into an int32
    scales = np.maximum(np.maximum(np.abs(factor) / 127, least), 1e-12).astype(np.float32)
    weights = np.round(factor / scales).astype(np.int8).reshape(1, 1, 1, -1)
    _depthwise(w, value, target, weights, scales, offset)


def _batch_normalization(w: _Writer, node: Node) -> None:
    scale, shift, mean, variance = (w.net.constants[name].astype(np.float64) for name in node.inputs[1:5])
    factor = scale / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
    _affine(w, node, w.data(node), factor, shift - mean * factor)


def _global_pool(w: _Writer, node: Node) -> None:
    value = w.spatial(w.data(node))
    sizes = tuple(w.tensors[value.tensor].shape[1:3])
    if node.op == "GlobalMaxPool" or sizes == (1, 1):
        target = w.target(node, same=value)
        if sizes == (1, 1):
            w.finish(target, value)
        else:
            _slide(w, "MAX_POOL_2D", value, target, (sizes[0], sizes[1]), (1, 1), _VALID)
        return
    target = w.target(node)
    if w.quantizer(value) == target.quantizer:
        _slide(w, "AVERAGE_POOL_2D", value, target, (sizes[0], sizes[1]), (1, 1), _VALID)
        return
    made = w.computed(target.name, target.shape, _image(target.shape), target.quantizer)
    w.emit("MEAN", [value.tensor, w.integers(1, 2)], [made.tensor], keep_dims=True)
    w.finish(target, made)


_REDUCTIONS = {"ReduceMean": "MEAN", "ReduceSum": "SUM", "ReduceMax": "REDUCE_MAX", "ReduceMin": "REDUCE_MIN"}


def _reduce(w: _Writer, node: Node) -> None:
    value = w.ordered(w.data(node))
    rank = len(value.shape)
    axes = node.attrs.get("axes") or (() if node.attrs.get("noop_with_empty_axes") else range(rank))
    axes = [axis % rank for axis in axes]
    target = w.target(node)
    places = [place for place, axis in enumerate(value.axes) if axis in axes]
    left = [a for a in range(rank) if a not in axes]
    renamed = {a: a if node.attrs.get("keepdims", 1) else left.index(a) for a in left}
    after = tuple(None if axis is None or axis in axes else renamed[axis] for axis in value.axes)
    if not places:
        w.finish(target, replace(value, shape=target.shape, axes=after))
        return
    operator = _REDUCTIONS[node.op]
    keeps = operator.startswith("REDUCE")
    made = w.computed(target.name, target.shape, after, w.quantizer(value) if keeps else target.quantizer)
    w.emit(operator, [value.tensor, w.integers(*places)], [made.tensor], keep_dims=True)
    w.finish(target, made)


# --------------------------------------------------------------------------------------------------------- elementwise


def _small_constant(w: _Writer, node: Node, index: int) -> Stored:
    """A constant operand as symmetric int8 with one scale: as the file stores it, or rounded here."""
    name = node.inputs[index]
    stored = w.stored.get(name)
    if stored is not None and stored.integers.dtype == np.int8 and stored.scale.size == 1:
        return stored
    value = np.asarray(w.net.constants[name], np.float64)
    scale = np.abs(value).max() / 127 or 1.0
    return Stored(np.round(value / scale).astype(np.int8), np.array([scale], np.float32), 0)


def _per_channel_constant(w: _Writer, name: str, shape: Shape) -> Array | None:
    """A constant as (channels,) where it differs along axis 1 of ``shape`` alone."""
    value = np.asarray(w.net.constants[name], np.float64)
    if len(shape) not in (3, 4) or value.ndim > len(shape):
        return None
    wide = value.reshape((1,) * (len(shape) - value.ndim) + value.shape)
    if wide.shape[1] != shape[1] or wide.size != shape[1]:
        return None
    return wide.reshape(-1)


def _arithmetic(w: _Writer, node: Node) -> None:
    """Add, Sub, Mul, Div of two operands, at most one of them constant."""
    constant = next((i for i, name in enumerate(node.inputs) if w.net.is_constant(name)), None)
    if constant is not None and (node.op == "Div" or node.inputs[constant] not in w.stored):
        value = w.data(node, 1 - constant)
        numbers = _per_channel_constant(w, node.inputs[constant], value.shape)
        fits = numbers is not None and value.shape == w.net.shapes[node.outputs[0]]
        if numbers is not None and fits and (node.op != "Div" or (constant == 1 and numbers.all())):
            one, none = np.ones(numbers.size), np.zeros(numbers.size)
            factor, offset = {
                "Add": (one, numbers),
                "Sub": (one if constant else -one, -numbers if constant else numbers),
                "Mul": (numbers, none),
                "Div": (1 / np.where(numbers == 0, 1.0, numbers), none),
            }[node.op]
            _affine(w, node, value, factor, offset)
            return
    target = w.target(node)
    if node.op == "Div" and constant == 1 and not np.all(w.net.constants[node.inputs[1]]):
        w.refuse("divides by a constant that int8 rounds to zero")
    operands = [
        _small_constant(w, node, i) if w.net.is_constant(name) else w.data(node, i) for i, name in enumerate(node.inputs)
    ]
    _combine(w, node.op.upper(), node, operands, target)


def _combine(
    w: _Writer, operator: str, node: Node, operands: Sequence[Value | Stored], target: _Target, *, fuses: bool = True
) -> None:
    made = _binary(w, operator, operands, target, target.quantizer, fused=target.fused if fuses else None)
    w.finish(target, made, fused=target.fused if fuses else 0)


def _binary(
    w: _Writer,
    operator: str,
    operands: Sequence[Value | Stored],
    target: _Target,
    quantizer: Quantizer,
    *,
    fused: int | None,
    name: str = "",
) -> Value:
    """An operator of two operands that broadcasts. fused: the activation, None for operators without options."""
    values = [w.ordered(operand) for operand in operands if isinstance(operand, Value)]
    sized = [operand.shape if isinstance(operand, Value) else operand.integers.shape for operand in operands]
    shape = tuple(np.broadcast_shapes(*sized))
    rank = len(shape)
    widest = max(values, key=lambda value: prod(value.shape))
    shift = rank - len(widest.shape)
    if prod(widest.shape) == prod(shape):
        axes: Axes = tuple(None if axis is None else axis + shift for axis in widest.axes)
    else:
        order = w.order(widest) if shift == 0 else _channels_last(rank)
        axes = _without_ones(order, shape)
    inputs = []
    for operand in operands:
        if isinstance(operand, Stored):
            wide = operand.integers.reshape((1,) * (rank - operand.integers.ndim) + operand.integers.shape)
            kept = [axis for axis in axes if axis is not None]
            rest = [axis for axis in range(rank) if axis not in kept]
            sizes = [1 if axis is None else wide.shape[axis] for axis in axes]
            while len(sizes) > 1 and sizes[0] == 1:
                sizes.pop(0)
            inputs.append(w.constant("constant", wide.transpose([*rest, *kept]).reshape(sizes), operand.scale))
            continue
        value = w.ordered(operand)
        own = rank - len(value.shape)
        wanted = tuple(None if axis is None or axis < own or value.shape[axis - own] == 1 else axis - own for axis in axes)
        if _stripped(value.axes) != _stripped(wanted) or len(value.axes) > len(wanted):
            value = w.arranged(value, wanted)
        inputs.append(value.tensor)
    made = w.computed(name or target.name, shape, axes, quantizer)
    options = {} if fused is None else {"fused": fused}
    w.emit(operator, inputs, [made.tensor], **options)
    return made


def _stripped(axes: Axes) -> Axes:
    """Without leading axes of size 1, which broadcasting adds."""
    found = list(axes)
    while found and found[0] is None:
        found.pop(0)
    return tuple(found)


def _extremum(w: _Writer, node: Node) -> None:
    """Max and Min: all operands in the output's steps."""
    target = w.target(node)
    q = target.quantizer
    operands: list[Value | Stored] = []
    for index, name in enumerate(node.inputs):
        if w.net.is_constant(name):
            w.refuse("has a constant operand; use Clip")
        value = w.data(node, index)
        operands.append(value if w.quantizer(value) == q else w.requantized(value, q))
    made = operands[0]
    for index, other in enumerate(operands[1:]):
        operator = "MAXIMUM" if node.op == "Max" else "MINIMUM"
        made = _binary(w, operator, [made, other], target, q, fused=None, name=f"{target.name}/{index}")
    assert isinstance(made, Value)
    w.finish(target, made)


def _sum(w: _Writer, node: Node) -> None:
    """Sums of n terms are n - 1 operators; what stands between them has a range that no partial sum leaves."""
    target = w.target(node)
    made = w.data(node)
    if len(node.inputs) == 1:
        w.finish(target, made)
        return
    for index in range(1, len(node.inputs)):
        other = w.data(node, index)
        last = index == len(node.inputs) - 1
        q = target.quantizer if last else _wide(w.quantizer(made), w.quantizer(other))
        fused = target.fused if last else 0
        made = _binary(w, "ADD", [made, other], target, q, fused=fused, name=f"{target.name}/{index}")
    w.finish(target, made, fused=target.fused)


def _wide(one: Quantizer, other: Quantizer) -> Quantizer:
    """A quantiser whose range holds every sum of two."""
    low = sum((LOW - q.zero_point) * q.scale for q in (one, other))
    high = sum((HIGH - q.zero_point) * q.scale for q in (one, other))
    scale = float(np.float32((high - low) / (HIGH - LOW)))
    return Quantizer(scale, int(np.clip(np.round(LOW - low / scale), LOW, HIGH)))


def _pow(w: _Writer, node: Node) -> None:
    exponent = w.net.constants.get(node.inputs[1])
    if exponent is None or exponent.size != 1 or float(exponent.reshape(())) != 2.0:
        w.refuse("other than a square has no int8 operator in TensorFlow Lite Micro")
    target, value = w.target(node), w.data(node)
    _combine(w, "MUL", node, [value, value], target)


def _neg(w: _Writer, node: Node) -> None:
    minus = Stored(np.full((1,), -127, np.int8), np.array([1 / 127], np.float32), 0)
    _combine(w, "MUL", node, [w.data(node), minus], w.target(node))


def _fixed(operator: str, quantizer: Quantizer) -> Callable[[_Writer, Node], None]:
    """An activation whose kernel writes one quantiser alone."""

    def lower(w: _Writer, node: Node) -> None:
        value, target = w.data(node), w.target(node)
        w.finish(target, w.unary(operator, value, target, quantizer))

    return lower


def _free(operator: str) -> Callable[[_Writer, Node], None]:
    """An activation whose kernel writes any quantiser."""

    def lower(w: _Writer, node: Node) -> None:
        value, target = w.data(node), w.target(node)
        w.finish(target, w.unary(operator, value, target, target.quantizer))

    return lower


def _leaky_relu(w: _Writer, node: Node) -> None:
    value, target = w.data(node), w.target(node)
    alpha = float(node.attrs.get("alpha", 0.01))
    w.finish(target, w.unary("LEAKY_RELU", value, target, target.quantizer, alpha=alpha))


def _elu(w: _Writer, node: Node) -> None:
    if float(node.attrs.get("alpha", 1.0)) != 1.0:
        w.refuse("with an alpha other than 1 has no operator in TensorFlow Lite Micro")
    _free("ELU")(w, node)


def _prelu(w: _Writer, node: Node) -> None:
    if not w.net.is_constant(node.inputs[1]):
        w.refuse("has a slope that is computed")
    target = w.target(node)
    _combine(w, "PRELU", node, [w.data(node), _small_constant(w, node, 1)], target, fuses=False)


def _softmax(w: _Writer, node: Node) -> None:
    value = w.ordered(w.data(node))
    rank = len(value.shape)
    axis = node.attrs.get("axis", -1) % rank
    if w.net.opset < 13 and any(size > 1 for size in value.shape[node.attrs.get("axis", 1) % rank + 1 :]):
        w.refuse(f"over several axes (opset {w.net.opset})")
    if value.axes[-1] != axis:  # the kernels work along the last dimension
        order = [a for a in w.order(value) if a != axis]
        value = w.arranged(value, _without_ones((*order, axis), value.shape))
    target = w.target(node)
    if node.op == "Softmax":
        w.finish(target, w.unary("SOFTMAX", value, target, _UNIT, beta=1.0))
    else:
        w.finish(target, w.unary("LOG_SOFTMAX", value, target, Quantizer(16 / 256, HIGH)))


def _hard_sigmoid(w: _Writer, node: Node) -> None:
    """MUL and ADD in steps of 1/256, where the product is rounded once and the sum is exact; int8's own bounds clamp it."""
    value, target = w.data(node), w.target(node)
    alpha, beta = float(node.attrs.get("alpha", 0.2)), float(node.attrs.get("beta", 0.5))
    between = Quantizer(UNIT_SCALE, int(np.clip(np.round(LOW + 256 * beta), LOW, HIGH)))
    slope = Stored(np.full((1,), 127 if alpha >= 0 else -127, np.int8), np.array([abs(alpha) / 127 or 1.0], np.float32), 0)
    product = _binary(w, "MUL", [value, slope], target, between, fused=0, name=f"{target.name}/0")
    shift = Stored(np.full((1,), 64, np.int8), np.array([beta / 64 or 1.0], np.float32), 0)
    w.finish(target, _binary(w, "ADD", [product, shift], target, _UNIT, fused=0))


def _swish(w: _Writer, node: Node) -> None:
    if float(node.attrs.get("alpha", 1.0)) != 1.0:
        w.refuse("with an alpha other than 1 has no operator in TensorFlow Lite Micro")
    value, target = w.data(node), w.target(node)
    gate = w.unary("LOGISTIC", value, replace(target, name=f"{target.name}/gate"), _UNIT)
    _combine(w, "MUL", node, [value, gate], target)


_LOWERINGS: Mapping[str, Callable[[_Writer, Node], None]] = {
    "Abs": _free("ABS"),
    "Add": _arithmetic,
    "AveragePool": _pool,
    "BatchNormalization": _batch_normalization,
    "Cast": _passing,
    "Clip": _clamp,
    "Concat": _concat,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DepthToSpace": _depth_to_space,
    "DequantizeLinear": _alias,
    "Div": _arithmetic,
    "Dropout": _passing,
    "Elu": _elu,
    "Flatten": _reshape,
    "Gather": _gather,
    "Gemm": _dense,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _free("HARD_SWISH"),
    "Identity": _passing,
    "LeakyRelu": _leaky_relu,
    "LogSoftmax": _softmax,
    "MatMul": _dense,
    "Max": _extremum,
    "MaxPool": _pool,
    "Min": _extremum,
    "Mul": _arithmetic,
    "Neg": _neg,
    "PRelu": _prelu,
    "Pad": _pad,
    "Pow": _pow,
    "QuantizeLinear": _quantize,
    "ReduceMax": _reduce,
    "ReduceMean": _reduce,
    "ReduceMin": _reduce,
    "ReduceSum": _reduce,
    "Relu": _clamp,
    "Reshape": _reshape,
    "Resize": _resize,
    "Sigmoid": _fixed("LOGISTIC", _UNIT),
    "Slice": _slice,
    "Softmax": _softmax,
    "SpaceToDepth": _depth_to_space,
    "Split": _split,
    "Squeeze": _reshape,
    "Sub": _arithmetic,
    "Sum": _sum,
    "Swish": _swish,
    "Tanh": _fixed("TANH", Quantizer(1 / 128, 0)),
    "Transpose": _transpose,
    "Unsqueeze": _reshape,
}
