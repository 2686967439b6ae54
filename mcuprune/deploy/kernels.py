"""The table of TensorFlow Lite operators: what each is called in a file, and what its kernel in TFLM takes beside tensors.

Versions are the lowest that mean int8 as it is written here (and of DEPTH_TO_SPACE the only one that LiteRT's reference kernels
have). ``options`` and ``data`` are the sizes of TFLM's own structures
(commit 90b983c2), which live as long as the interpreter: the parsed options of an operator, and what its kernel keeps. Scratch
is memory that a kernel asks for while it runs; which and how much depends on the kernels that are linked (``Kernels``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, Literal, NamedTuple

from mcuprune.deploy.fixedpoint import MOST_QUOTIENT, quotient_factor
from mcuprune.deploy.qdq import FIXED, Quantizer
from mcuprune.graph.network import Shape
from mcuprune.immutable import immutable

#: Which kernels run. cmsis-nn: Arm's, on a 32-bit core with DSP instructions (Cortex-M4, M7, M33). reference: TFLM's own.
Kernels = Literal["cmsis-nn", "reference"]
#: Transposing kernels of CMSIS-NN take no more dimensions; what TFLM does with more is undefined.
MAX_TRANSPOSED = 4
#: The reference kernel of SOFTMAX can't divide by a sum of so many equal classes: it shifts by all 32 bits, and breaks off
#: where that is checked.
CLASSES_ALIKE = 512
#: CMSIS-NN runs a transposed convolution as one with a reversed kernel where it has more input channels than this.
REVERSED_ABOVE = 16
#: arm_convolve_s8 keeps so many bytes for each number of a window: two int16 columns, or four of int8 on a core with vectors,
#: which are a multiple of ``_VECTOR`` long there.
_COLUMNS, _VECTOR = 4, 16
#: arm_depthwise_conv_s8_opt keeps so many bytes for each number of a window: an int16 column. On a core with vectors it keeps
#: so many for each tap, whatever the channels: four int8 columns of a block of 124.
_COLUMN, _BLOCKS = 2, 4 * 124


class Scratch(NamedTuple):
    """Memory that a kernel asks for: ``slope * quantity`` bytes, alive while its operator runs. ``only``: by these kernels."""

    quantity: Any
    slope: int
    only: Kernels | None = None


@immutable
class Form:
    """What a scratch rule may look at.

    inputs, outputs: the sizes of each, integers or functions of widths. input_shapes, output_shapes: the same as numbers.
    """

    options: Mapping[str, Any]
    inputs: Sequence[tuple[Any, ...]]
    outputs: Sequence[tuple[Any, ...]]
    input_shapes: Sequence[Shape]
    output_shapes: Sequence[Shape]


Rule = Callable[[Form], Sequence[Scratch]]


def _no_scratch(form: Form) -> Sequence[Scratch]:
    return ()


class Integers(NamedTuple):
    """What a tensor has: a quantiser and, less its zero point, the least and the greatest integer."""

    quantizer: Quantizer
    least: int
    most: int


#: Given an operator's inputs and outputs, what its kernel can't compute of such numbers and what to do; "" if it can.
Limit = Callable[[Sequence[Integers]], str]


def _quotient(numbers: Sequence[Integers]) -> str:
    """DIV shifts to the right by the bits of the divisor and those that are free above the dividend, less the factor's.

    What C makes of a shift by more than 31 bits, or by less than none, depends on the compiler and the processor.
    """
    a, b, _ = numbers
    free = 31 if min(a.least, b.least) < 0 else 30  # above -1, which a sign of either gives, and above 1
    by = quotient_factor(*(each.quantizer.scale for each in numbers))
    if max(-b.least, b.most).bit_length() - 1 + free - by.shift <= 31 and by.shift <= MOST_QUOTIENT:
        return ""
    return (
        "of these ranges shifts by more bits than a number has in TensorFlow Lite Micro, and what comes out depends on the "
        "processor: export .c, or keep the divisor further from 0 (Clip, a larger epsilon)"
    )


def _size(dims: Sequence[Any]) -> Any:
    total: Any = 1
    for size in dims:
        total = total * size
    return total


def most_of_conv(numbers: int) -> int:
    """Bytes of scratch that are enough for arm_convolve_s8 on every core; numbers: of a window, taps times input channels."""
    return _COLUMNS * -(-numbers // _VECTOR) * _VECTOR


def most_of_depthwise(taps: int, channels: int) -> int:
    """Bytes of scratch that are enough for arm_depthwise_conv_s8_opt on every core."""
    return max(_COLUMN * channels, _BLOCKS) * taps


def _conv(form: Form) -> Sequence[Scratch]:
    """arm_convolve_s8: two int16 columns, each a multiple of 4 long, which the arena's alignment amounts to.

    A 1 x 1 convolution without padding reads its input in place.
    """
    kernel, padded = form.input_shapes[1][1:3], any(form.options["before"])
    grouped = form.input_shapes[1][3] != form.input_shapes[0][3]
    dilated = form.options["dilation_h"] > 1 or form.options["dilation_w"] > 1
    if prod(kernel) == 1 and not (padded or grouped or dilated):
        return ()
    return (Scratch(form.inputs[0][3], _COLUMNS * prod(kernel), "cmsis-nn"),)


def _depthwise(form: Form) -> Sequence[Scratch]:
    """arm_depthwise_conv_s8_opt: one int16 column; the kernel for 3 x 3 taps and a padding of at most 1 needs none.

    Neither runs for several images, or where channels have more than one output each.
    """
    kernel = form.input_shapes[1][1:3]
    dilated = form.options["dilation_h"] > 1 or form.options["dilation_w"] > 1
    fast = kernel == (3, 3) and all(pad <= 1 for pad in form.options["before"])
    if dilated or fast or form.options["multiplier"] != 1 or form.input_shapes[0][0] != 1:
        return ()
    return (Scratch(form.inputs[0][3], _COLUMN * prod(kernel), "cmsis-nn"),)


def _fully_connected(form: Form) -> Sequence[Scratch]:
    """Of more than two dimensions and a depth that 4 divides it runs as a 1 x 1 convolution, with factors for each channel.

    The lowering writes none such: this is about files that came from elsewhere, or before.
    """
    if len(form.output_shapes[0]) <= 2 or form.options["per_channel"] or form.input_shapes[1][-1] % 4:
        return ()
    return (Scratch(form.outputs[0][-1], 8, "cmsis-nn"),)


def _average_pool(form: Form) -> Sequence[Scratch]:
    """arm_avgpool_s8: an int32 accumulator for each channel."""
    return (Scratch(form.inputs[0][3], 4, "cmsis-nn"),)


def _sum(form: Form) -> Sequence[Scratch]:
    """An int32 accumulator for each output, and two short lists of axes."""
    return (Scratch(_size(form.outputs[0]), 4), *_extremum(form))


def _extremum(form: Form) -> Sequence[Scratch]:
    return Scratch(len(form.input_shapes[0]), 4), Scratch(prod(form.input_shapes[1]), 4)


def _mirror_pad(form: Form) -> Sequence[Scratch]:
    return (Scratch(len(form.input_shapes[0]), 4),) * 2


def _transpose_conv(form: Form) -> Sequence[Scratch]:
    """Reference: an int32 image of the output. CMSIS-NN: int32 rows of the output, or the columns and weights of a convolution.

    Which of CMSIS-NN's two ways runs depends on the strides and on the number of input channels.
    """
    kernel, sizes = form.input_shapes[1][1:3], form.input_shapes[2][1:3]
    strides = form.options["stride_h"], form.options["stride_w"]
    reference = Scratch(_size(form.outputs[0]), 4, "reference")
    if max(strides) <= 2 and form.input_shapes[2][3] > REVERSED_ABOVE:
        columns = Scratch(form.inputs[2][3], _COLUMNS * prod(kernel), "cmsis-nn")
        return reference, columns, Scratch(form.inputs[2][3] * form.outputs[0][3], prod(kernel), "cmsis-nn")
    rows = max(kernel[0], strides[0]) * ((sizes[1] - 1) * strides[1] + max(kernel[1], strides[0]))
    return reference, Scratch(form.outputs[0][3], 4 * rows, "cmsis-nn"), Scratch(1, 0, "cmsis-nn")  # asks for two, always


class OnVectors(NamedTuple):
    """Bytes that a kernel of CMSIS-NN takes at most on a core with vector units (Cortex-M55, M85), beside those without.

    scratch: while it runs. kept: from the start, for the sums of a kernel and for asking for scratch.
    """

    scratch: int
    kept: int


def _conv_on_vectors(form: Form) -> OnVectors:
    """arm_convolve_s8_get_buffer_size_mve, whichever way the convolution runs."""
    return OnVectors(most_of_conv(prod(form.input_shapes[1][1:])), _asked())


def _depthwise_on_vectors(form: Form) -> OnVectors:
    """arm_depthwise_conv_wrapper_s8_get_buffer_size_mve: of one input channel it is a convolution, with its weights turned."""
    taps, weights = prod(form.input_shapes[1][1:3]), prod(form.input_shapes[1])
    turned = most_of_conv(taps) + weights if form.options["multiplier"] != 1 else 0
    return OnVectors(max(most_of_depthwise(taps, form.input_shapes[0][3]), turned), _asked())


def _transpose_conv_on_vectors(form: Form) -> OnVectors:
    """arm_transpose_conv_s8_get_buffer_size_mve and the turned weights; rows of the output are in ``_transpose_conv``."""
    weights = form.input_shapes[1]
    return OnVectors(most_of_conv(prod(weights[1:])) + prod(weights), 2 * _asked())


def _fully_connected_on_vectors(form: Form) -> OnVectors:
    """arm_fully_connected_s8_get_buffer_size_mve: an int32 sum of each row of weights, kept."""
    return OnVectors(0, _WORD * form.output_shapes[0][-1] + _asked())


def _asked() -> int:
    """Bytes at most for asking for one scratch buffer."""
    return SCRATCH_HANDLE.narrow + REQUEST.narrow + KNOWN.narrow + PLACED


class Bytes(NamedTuple):
    """A structure of TFLM in bytes, where pointers have 4 bytes and where they have 8. whole: if it has one there."""

    narrow: int
    wide: int
    whole: bool = False

    def at(self, pointer: int) -> int:
        """The bytes where pointers have so many bytes, 4 or 8."""
        return self.narrow if pointer == 4 else self.wide

    def after(self, at: int, pointer: int) -> int:
        """Where it ends if it follows on ``at``: with a pointer or a number in it it is aligned as that, else not at all."""
        size = self.at(pointer)
        alignment = 1 if size % _WORD else 8 if self.whole and pointer == 8 else _WORD
        return -(-(at + size) // alignment) * alignment if size else at


_NOTHING = Bytes(0, 0)
#: A number in TFLM; a list of sizes is how many there are, and an int32 each.
_WORD = 4


@immutable
class Kernel:
    """A row of the table.

    code, version: in the file's schema. table: name of its options there, without or with fields; "" where it has none.
    keeps: whether its output has its input's quantiser, always. writes: the one quantiser that its output has, always.
    options: bytes of the options as TFLM parses them. data: bytes that the kernel keeps; ``optimised`` those of CMSIS-NN.
    prepared: what it asks for beside them, once all kernels have theirs: pieces that it keeps as well.
    lists: so many lists of a shape's sizes it keeps beside them, of the output's rank.
    scratch: what it asks for while it runs. on_vectors: what else, and what it keeps, on a core with vector units.
    rank: dimensions of its tensors that it takes at most in TFLM, CMSIS-NN's and its own; 0 where nothing that is lowered
        has more.
    limit: which numbers it takes in TFLM, if not all.
    """

    code: int
    version: int
    table: str = ""
    options: Bytes = _NOTHING
    data: Bytes = _NOTHING
    optimised: Bytes | None = None
    scratch: Rule = _no_scratch
    keeps: bool = False
    writes: Quantizer | None = None
    prepared: tuple[Bytes, ...] = ()
    lists: int = 0
    rank: int = 0
    limit: Limit | None = None
    on_vectors: Callable[[Form], OnVectors] | None = None

    def kept(self, kernels: Kernels, pointer: int) -> int:
        """Bytes that the kernel keeps for an operator from the start; 0 where nothing."""
        data = self.optimised if kernels == "cmsis-nn" and self.optimised is not None else self.data
        return data.at(pointer)

    def listed(self, rank: int, pointer: int) -> list[int]:
        """Bytes of each piece that it keeps once shapes are known, for an output of so many dimensions."""
        return [piece.at(pointer) for piece in self.prepared] + [_WORD * (1 + rank)] * self.lists


def _same(size: int) -> Bytes:
    return Bytes(size, size)


_REDUCED, _POOLED = _same(44), _same(32)
_CONVOLVED, _CONNECTED = Bytes(56, 80), Bytes(5, 32, whole=True)
#: TFLM's OpDataAbsRsqrt: four int32, a bool and two enums. There is no pointer in it, so every core has the same bytes.
_ELEMENTWISE = _same(28)

#: A handle of each tensor, weights included.
EVAL_TENSOR = Bytes(12, 24)

KERNELS: Mapping[str, Kernel] = {
    "ABS": Kernel(101, 1, "Abs", data=_ELEMENTWISE),
    "ADD": Kernel(0, 2, "Add", Bytes(2, 8), _same(60)),
    "AVERAGE_POOL_2D": Kernel(1, 2, "Pool2D", _same(40), _POOLED, _same(36), _average_pool, keeps=True),
    "BATCH_MATMUL": Kernel(
        126,
        2,
        "BatchMatMul",
        _same(3),
        Bytes(16, 32),
        Bytes(36, 56),
        prepared=(EVAL_TENSOR, _same(28)),
        lists=2,
        rank=4,
    ),
    "CONCATENATION": Kernel(2, 2, "Concatenation", _same(8), Bytes(24, 80), keeps=True),
    "CONV_2D": Kernel(3, 3, "Conv2D", _same(28), _CONVOLVED, Bytes(60, 88), _conv, on_vectors=_conv_on_vectors),
    "DEPTHWISE_CONV_2D": Kernel(
        4, 3, "DepthwiseConv2D", _same(28), _CONVOLVED, Bytes(60, 88), _depthwise, on_vectors=_depthwise_on_vectors
    ),
    "DEPTH_TO_SPACE": Kernel(5, 1, "DepthToSpace", _same(4), lists=1, keeps=True),
    "DIV": Kernel(42, 2, "Div", Bytes(1, 4), _same(28), limit=_quotient),
    "ELU": Kernel(111, 1, data=_same(256)),
    "FULLY_CONNECTED": Kernel(
        9,
        4,
        "FullyConnected",
        _CONNECTED,
        Bytes(48, 72),
        Bytes(72, 104),
        _fully_connected,
        on_vectors=_fully_connected_on_vectors,
    ),
    "GATHER": Kernel(36, 2, "Gather", _same(8), lists=1, keeps=True),
    "HARD_SWISH": Kernel(117, 1, "HardSwish", data=_same(20)),
    "LEAKY_RELU": Kernel(98, 2, "LeakyRelu", _same(4), _same(24)),
    "LOGISTIC": Kernel(14, 2, data=_same(16), writes=FIXED["unit"]),
    "LOG_SOFTMAX": Kernel(50, 2, "LogSoftmax", prepared=(Bytes(28, 40),), writes=FIXED["log"]),
    "MAXIMUM": Kernel(55, 2, "MaximumMinimum", keeps=True, rank=4),
    "MAX_POOL_2D": Kernel(17, 2, "Pool2D", _same(40), _POOLED, _same(36), keeps=True),
    "MEAN": Kernel(40, 2, "Reducer", _same(1), _REDUCED, scratch=_sum),
    "MINIMUM": Kernel(57, 2, "MaximumMinimum", keeps=True, rank=4),
    "MIRROR_PAD": Kernel(100, 2, "MirrorPad", Bytes(1, 4), _same(20), scratch=_mirror_pad, keeps=True),
    "MUL": Kernel(18, 2, "Mul", Bytes(1, 4), _same(36)),
    "PAD": Kernel(34, 2, "Pad", data=_same(56), keeps=True, rank=5),
    "PADV2": Kernel(60, 2, "PadV2", data=_same(56), keeps=True, rank=5),
    "PRELU": Kernel(54, 1, data=_same(28)),
    "QUANTIZE": Kernel(114, 2, "Quantize", data=_same(32)),
    "REDUCE_MAX": Kernel(82, 2, "Reducer", _same(1), _REDUCED, scratch=_extremum, keeps=True),
    "REDUCE_MIN": Kernel(89, 2, "Reducer", _same(1), _REDUCED, scratch=_extremum, keeps=True),
    "RELU": Kernel(19, 2, data=_same(28)),
    "RESHAPE": Kernel(22, 1, "Reshape", _same(36), keeps=True),
    "RESIZE_BILINEAR": Kernel(23, 3, "ResizeBilinear", _same(2), keeps=True),
    "RESIZE_NEAREST_NEIGHBOR": Kernel(97, 3, "ResizeNearestNeighbor", _same(2), keeps=True),
    "SLICE": Kernel(65, 2, "Slice", keeps=True, rank=5),
    "SOFTMAX": Kernel(25, 2, "Softmax", _same(4), Bytes(56, 80), Bytes(64, 88), writes=FIXED["unit"]),
    "SPACE_TO_DEPTH": Kernel(26, 2, "SpaceToDepth", _same(4), lists=1, keeps=True),
    "SPLIT": Kernel(49, 2, "Split", _same(4), keeps=True),
    "SPLIT_V": Kernel(102, 2, "SplitV", _same(4), keeps=True),
    "STRIDED_SLICE": Kernel(45, 2, "StridedSlice", _same(24), _same(84), keeps=True, rank=4),
    "SUB": Kernel(41, 2, "Sub", Bytes(2, 8), _same(52)),
    "SUM": Kernel(74, 2, "Reducer", _same(1), _REDUCED, scratch=_sum),
    "TANH": Kernel(28, 2, data=_same(16), writes=FIXED["signed unit"]),
    "TRANSPOSE": Kernel(39, 2, "Transpose", keeps=True),
    "TRANSPOSE_CONV": Kernel(
        67,
        3,
        "TransposeConv",
        Bytes(16, 20),
        Bytes(72, 88),
        Bytes(76, 96),
        _transpose_conv,
        on_vectors=_transpose_conv_on_vectors,
    ),
}
#: What an operator that isn't in the table is taken for: larger than the largest that is but ELU's own.
UNKNOWN = Kernel(-1, 0, options=_same(40), data=_same(96))

#: Node and registration of each operator; a handle of each scratch buffer.
NODE, SCRATCH_HANDLE = Bytes(32, 64), Bytes(4, 8)
#: The interpreter with its allocators and planner.
INTERPRETER = Bytes(132, 488)
#: On the way to a plan: a request for each scratch buffer, with room for those of one more operator; what is known of each
#: tensor and scratch buffer; what the planner notes of each that it places.
REQUEST, MOST_REQUESTS, KNOWN, PLACED = Bytes(12, 16), 12, Bytes(24, 32), 40
#: A tensor as kernels see it while they are prepared, twice at most, and its quantiser beside a list of zero points.
_TENSOR, _QUANTISED, TAKEN = Bytes(32, 64), Bytes(12, 24), 2
#: Multiplier and shift of each output channel of a convolution, an int32 array each.
PER_CHANNEL = 4


def handle(pointer: int, scales: int) -> int:
    """Bytes of a tensor with so many scales, none of plain numbers, as kernels see it and as inputs and outputs are kept."""
    if not scales:
        return _TENSOR.at(pointer)
    points = -(-_WORD * (1 + scales) // pointer) * pointer
    return _TENSOR.at(pointer) + _QUANTISED.at(pointer) + points


_FUSED = {"fused": (0, "int8")}
_POOL_FIELDS = {"padding": (0, "int8"), "stride_w": (1, "int32"), "stride_h": (2, "int32")}
#: Options -> their code in the schema's union, and field -> (id, type). Some readers want those without fields, too.
OPTIONS: Mapping[str, tuple[int, Mapping[str, tuple[int, str]]]] = {
    "Abs": (78, {}),
    "Add": (11, _FUSED),
    "BatchMatMul": (101, {"adj_x": (0, "bool"), "adj_y": (1, "bool")}),
    "Concatenation": (10, {"axis": (0, "int32")}),
    "Conv2D": (1, {**_POOL_FIELDS, "fused": (3, "int8"), "dilation_w": (4, "int32"), "dilation_h": (5, "int32")}),
    "DepthToSpace": (94, {"block": (0, "int32")}),
    "DepthwiseConv2D": (
        2,
        {
            **_POOL_FIELDS,
            "multiplier": (3, "int32"),
            "fused": (4, "int8"),
            "dilation_w": (5, "int32"),
            "dilation_h": (6, "int32"),
        },
    ),
    "Div": (29, _FUSED),
    "FullyConnected": (8, {"fused": (0, "int8"), "keep_num_dims": (2, "bool")}),
    "Gather": (23, {"axis": (0, "int32")}),
    "HardSwish": (91, {}),
    "LeakyRelu": (75, {"alpha": (0, "float32")}),
    "LogSoftmax": (36, {}),
    "MaximumMinimum": (39, {}),
    "MirrorPad": (77, {"mode": (0, "int8")}),
    "Mul": (21, _FUSED),
    "Pad": (22, {}),
    "PadV2": (43, {}),
    "Pool2D": (5, {**_POOL_FIELDS, "filter_w": (3, "int32"), "filter_h": (4, "int32"), "fused": (5, "int8")}),
    "Quantize": (89, {}),
    "Reducer": (27, {"keep_dims": (0, "bool")}),
    "Reshape": (17, {"new_shape": (0, "")}),
    "ResizeBilinear": (15, {"align_corners": (2, "bool"), "half_pixel_centers": (3, "bool")}),
    "ResizeNearestNeighbor": (74, {"align_corners": (0, "bool"), "half_pixel_centers": (1, "bool")}),
    "Slice": (48, {}),
    "Softmax": (9, {"beta": (0, "float32")}),
    "SpaceToDepth": (19, {"block": (0, "int32")}),
    "Split": (35, {"num_splits": (0, "int32")}),
    "SplitV": (79, {"num_splits": (0, "int32")}),
    "StridedSlice": (32, {"begin_mask": (0, "int32"), "end_mask": (1, "int32")}),
    "Sub": (28, _FUSED),
    "Transpose": (26, {}),
    "TransposeConv": (49, {**_POOL_FIELDS, "fused": (3, "int8")}),
}
