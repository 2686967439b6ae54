"""Integer operators of quantised files, written as float operators between quantisers.

``QLinearConv(x)`` is ``QuantizeLinear(Conv(DequantizeLinear(x)))`` with dequantised weights, and so on: what a node is, what it
costs and how channels flow through it is then known from the float operator, whose node keeps the integer one's name.
Covers ONNX's own integer operators and the ones that ONNX Runtime's quantiser adds in the domain ``com.microsoft``.
It works on protos, before anything is folded, and asks for constant scales and zero points.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from onnx import NodeProto, TensorProto, helper

from mcuprune.errors import UnsupportedOperator
from mcuprune.graph import branches
from mcuprune.names import Names

Array = np.ndarray
#: The first opsets with DequantizeLinear, and with its axis.
DEQUANTIZE_OPSET, AXIS_OPSET = 10, 13


class _Rewriter:
    """Collects the nodes and constants that take one integer node's place. scale: of its weights, where one was found."""

    def __init__(
        self, node: NodeProto, constants: Mapping[str, Array], where: str, opset: int, names: Names, scale: Array | None = None
    ) -> None:
        self.node, self.where, self.opset, self.names = node, where, opset, names
        self.known = constants
        self.scale = scale
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, Array] = {}
        self.name = node.name or node.output[0]

    def input(self, index: int) -> str:
        return str(self.node.input[index]) if index < len(self.node.input) else ""

    def parameter(self, index: int) -> Array:
        """A scale or zero point. Raises UnsupportedOperator where it isn't a constant."""
        name = self.input(index)
        if name not in self.known:
            raise self.refusal(f"computes its scale or zero point '{name}' at run time", "quantise again with fixed ranges")
        return self.known[name]

    def refusal(self, what: str, then: str) -> UnsupportedOperator:
        return UnsupportedOperator(f"{self.where} {what}; {then}", tensor=self.node.output[0])

    def constant(self, suffix: str, value: Array) -> str:
        name = self.names.free(f"{self.node.output[0]}/{suffix}")
        self.constants[name] = value
        return name

    def float(self, index: int, *, axis: int = 0) -> str:
        """The float tensor behind a quantised input whose scale and zero point follow it."""
        name = self.input(index)
        scale = self.parameter(index + 1)
        zero = self.parameter(index + 2) if self.input(index + 2) else np.zeros_like(scale)
        if name in self.known:
            names = [self.input(index + 1), *([self.input(index + 2)] if self.input(index + 2) else [])]
            return self.behind(name, names, scale, zero, axis, f"float_{index}", f"in_{index}")
        if scale.size > 1 or zero.size > 1:
            raise self.refusal(f"has several scales for its data '{name}'", "quantise activations per tensor")
        output = self.names.free(f"{self.node.output[0]}/float_{index}")
        self.nodes.append(
            helper.make_node(
                "DequantizeLinear",
                [name, self.input(index + 1), self.input(index + 2)],
                [output],
                name=f"{self.name}/in_{index}",
            )
        )
        return output

    def behind(self, integers: str, names: Sequence[str], scale: Array, zero: Array, axis: int, suffix: str, label: str) -> str:
        """The reals of a constant behind a DequantizeLinear, which leaves its integers known to who stores them.

        names: of the scale and, where there is one, the zero point. Written out where DequantizeLinear has no such form.
        """
        value = dequantized(self.known[integers], scale, zero, axis)
        along = scale.size > 1
        if (
            self.opset < (AXIS_OPSET if along else DEQUANTIZE_OPSET)
            or max(scale.ndim, zero.ndim) > 1
            or (zero.size > 1) != along
        ):
            return self.constant(suffix, value)
        output = self.names.free(f"{self.node.output[0]}/{suffix}")
        attrs = {"axis": axis} if along else {}
        node = helper.make_node("DequantizeLinear", [integers, *names], [output], name=f"{self.name}/{label}", **attrs)
        self.nodes.append(node)
        return output

    def bias(self, index: int, scale: Array, axis: int) -> str:
        """The reals of an int32 bias in steps of ``scale``."""
        name, zero = self.input(index), np.zeros_like(scale)
        if name not in self.known:
            raise self.refusal("computes its bias at run time", "export it with a constant bias")
        return self.behind(name, [self.constant("bias_scale", scale)], scale, zero, axis, "bias", "bias")

    def quantized(self, op: str, inputs: Sequence[str], scale: int, **attrs: object) -> None:
        """The float operator, and a quantiser with the scale and zero point at inputs ``scale`` and ``scale + 1``."""
        inner = self.names.free(f"{self.node.output[0]}/float") if self.input(scale) else self.node.output[0]
        if self.attribute("channels_last", 0):
            raise self.refusal("keeps channels last", "export again without graph optimisation")
        kept = [a for a in self.node.attribute if a.name not in ("channels_last", "opset", *attrs)]
        operator = helper.make_node(op, inputs, [inner], name=self.node.name, **attrs)
        operator.attribute.extend(kept)
        self.nodes.append(operator)
        if self.input(scale):
            self.parameter(scale)
            names = [inner, self.input(scale), self.input(scale + 1)]
            self.nodes.append(helper.make_node("QuantizeLinear", names, [self.node.output[0]], name=f"{self.name}/out"))

    def attribute(self, name: str, default: int) -> int:
        return next((int(a.i) for a in self.node.attribute if a.name == name), default)


def dequantized(value: Array, scale: Array, zero: Array, axis: int, block: int = 0) -> Array:
    """(value - zero) * scale, per tensor or along ``axis``, or per ``block`` of it; in the type of ``scale``.

    Raises ValueError or IndexError where the shapes don't fit.
    """
    if block:
        scale, zero = _unblocked(scale, value.shape, axis, block), _unblocked(zero, value.shape, axis, block)
        shape = list(value.shape)
    else:
        shape = [1] * value.ndim
        if scale.size > 1 and value.ndim:
            shape[axis] = -1
        else:
            shape = [1] * min(scale.ndim, value.ndim)
    zero = zero.astype(np.float32).reshape(shape)
    with np.errstate(over="ignore", invalid="ignore"):  # a scale may be anything in a damaged file; runtimes say nothing either
        return np.asarray(((value.astype(np.float32) - zero) * scale.reshape(shape)).astype(scale.dtype))


def _unblocked(value: Array, shape: Sequence[int], axis: int, block: int) -> Array:
    """Scales or zero points of blocks along ``axis``, one for each element of ``shape``; the last block may be shorter."""
    if block < 1 or not -len(shape) <= axis < len(shape):
        raise ValueError("no such blocks")
    axis %= len(shape)
    if value.shape != tuple(-(-size // block) if at == axis else size for at, size in enumerate(shape)):
        raise ValueError("scales of another shape")
    return np.repeat(value, block, axis=axis).take(range(shape[axis]), axis=axis)


def _conv(q: _Rewriter) -> None:
    inputs = [q.float(0), q.float(3)]
    if q.input(8):
        inputs.append(q.bias(8, q.parameter(1) * q.parameter(4), 0))
    q.quantized("Conv", inputs, 6)


def _gemm(q: _Rewriter) -> None:
    axis = 0 if q.attribute("transB", 0) else 1
    inputs = [q.float(0), q.float(3, axis=axis)]
    if q.input(6):
        # The kernel adds the bias to the integer product, and multiplies the sum: alpha scales the bias too.
        alpha = next((np.float32(a.f) for a in q.node.attribute if a.name == "alpha"), np.float32(1))
        inputs.append(q.bias(6, q.parameter(1) * q.parameter(4) * alpha, -1))
    q.quantized("Gemm", inputs, 7)


def _binary(op: str) -> Callable[[_Rewriter], None]:
    return lambda q: q.quantized(op, [q.float(0), q.float(3, axis=-1)], 6)


def _unary(op: str) -> Callable[[_Rewriter], None]:
    return lambda q: q.quantized(op, [q.float(0)], 3)


def _softmax(q: _Rewriter) -> None:
    """It says of which opset it is: from 13 on along one axis, before over all axes from that one on."""
    axis, flattens = q.attribute("axis", -1), q.attribute("opset", 13) < 13
    if axis != -1 and flattens != (q.opset < 13):
        raise q.refusal(
            f"of opset {q.attribute('opset', 13)} along axis {axis} means another thing in this file of opset {q.opset}",
            "quantise again in the file's own opset",
        )
    q.quantized("Softmax", [q.float(0)], 3, axis=axis)


def _where(q: _Rewriter) -> None:
    q.quantized("Where", [q.input(0), q.float(1), q.float(4)], 7)


def _concat(q: _Rewriter) -> None:
    q.quantized("Concat", [q.float(index) for index in range(2, len(q.node.input), 3)], 0)


def _integer(op: str) -> Callable[[_Rewriter], None]:
    """ConvInteger and MatMulInteger, mostly behind a DynamicQuantizeLinear, which hands on float data with a scale of 1."""

    def rewrite(q: _Rewriter) -> None:
        weight = q.input(1)
        if weight not in q.known:
            raise q.refusal("has weights that are computed at run time", "export it with constant weights")
        if q.input(2) and q.parameter(2).any():
            raise q.refusal("subtracts a zero point from its data", "use QLinearConv or QLinearMatMul, or Q/DQ nodes")
        zero = q.parameter(3) if q.input(3) else np.zeros(1, np.uint8)
        axis = 0 if op == "Conv" else -1
        value = dequantized(q.known[weight], np.ones(zero.shape or (1,), np.float32), zero, axis)
        weight = q.constant("weight", value if q.scale is None else value * q.scale.astype(np.float32))
        operator = helper.make_node(op, [q.input(0), weight], [q.node.output[0]], name=q.node.name)
        operator.attribute.extend(q.node.attribute)
        q.nodes.append(operator)

    return rewrite


def _dynamic(q: _Rewriter) -> None:
    outputs = [*q.node.output, "", ""]
    q.nodes.append(helper.make_node("Identity", [q.input(0)], [outputs[0]], name=q.node.name))
    for name, value in ((outputs[1], np.float32(1)), (outputs[2], np.uint8(0))):
        if name:
            q.constants[name] = np.asarray(value)


_REWRITES: Mapping[tuple[str, str], Callable[[_Rewriter], None]] = {
    ("", "QLinearConv"): _conv,
    ("", "QLinearMatMul"): _binary("MatMul"),
    ("", "ConvInteger"): _integer("Conv"),
    ("", "MatMulInteger"): _integer("MatMul"),
    ("", "DynamicQuantizeLinear"): _dynamic,
    ("com.microsoft", "QGemm"): _gemm,
    ("com.microsoft", "QLinearAdd"): _binary("Add"),
    ("com.microsoft", "QLinearMul"): _binary("Mul"),
    ("com.microsoft", "QLinearAveragePool"): _unary("AveragePool"),
    ("com.microsoft", "QLinearGlobalAveragePool"): _unary("GlobalAveragePool"),
    ("com.microsoft", "QLinearLeakyRelu"): _unary("LeakyRelu"),
    ("com.microsoft", "QLinearSigmoid"): _unary("Sigmoid"),
    ("com.microsoft", "QLinearSoftmax"): _softmax,
    ("com.microsoft", "QLinearWhere"): _where,
    ("com.microsoft", "QLinearConcat"): _concat,
}

#: What multiplies integers and leaves their scales to others.
_PRODUCTS = (("", "ConvInteger"), ("", "MatMulInteger"))
#: ``com.microsoft``'s copies of ONNX's own quantisers, which allow more types.
_SAME = ("QuantizeLinear", "DequantizeLinear")


def is_known(domain: str, op: str) -> bool:
    """Whether ``floated`` rewrites this operator."""
    return (domain, op) in _REWRITES or (domain == "com.microsoft" and op in _SAME)


def _scaled(
    nodes: Sequence[NodeProto], constants: Mapping[str, Array], held: Collection[str]
) -> tuple[list[NodeProto], dict[str, Array]]:
    """Integer products that give reals at once, and of these, by the name of what they give, the scale of their weights.

    In a file of ``quantize_dynamic`` a Cast makes floats of them and a Mul multiplies these by the scales of data and weights.
    The data's is 1 here, so that the weights can have theirs: a bias or BatchNormalization then stands right behind its layer.
    """
    products = [node for node in nodes if (node.domain, node.op_type) in _PRODUCTS and node.output]
    if not products:
        return [*nodes], {}
    makers = {name: node for node in nodes for name in node.output if name}
    readers: dict[str, list[NodeProto]] = {}
    for node in nodes:
        for name in branches.reads(node):
            readers.setdefault(name, []).append(node)

    def then(op: str, tensor: str) -> NodeProto | None:
        reading = readers.get(tensor, [])
        alone = len(reading) == 1 and tensor not in held and bool(reading[0].output)
        return reading[0] if alone and reading[0].op_type == op else None

    def scale_of(name: str) -> Array | None:
        maker = makers.get(name)
        if name in constants or maker is None or maker.op_type != "Mul":
            return constants.get(name)
        stored = [constants[part] for part in maker.input if part in constants]
        data = [makers[part] for part in maker.input if part in makers and [part] == [*makers[part].output[1:2]]]
        return stored[0] if len(stored) == 1 and [node.op_type for node in data] == ["DynamicQuantizeLinear"] else None

    scales: dict[str, Array] = {}
    gone: set[str] = set()
    renamed: dict[str, str] = {}
    for node in products:
        cast = then("Cast", node.output[0])
        product = then("Mul", cast.output[0]) if cast is not None else None
        if cast is None or product is None:
            continue
        others = [name for name in product.input if name != cast.output[0]]
        scale, to = scale_of(others[0]) if len(others) == 1 else None, next((a.i for a in cast.attribute if a.name == "to"), 0)
        weight = constants.get(node.input[1]) if len(node.input) > 1 else None
        if scale is None or weight is None or scale.dtype != np.float32 or to != TensorProto.FLOAT or scale.ndim > 1:
            continue
        columns = node.op_type == "MatMulInteger" and weight.ndim > 1 and scale.size == weight.shape[-1]
        if scale.size == 1 or columns:
            scales[product.output[0]] = scale if columns else scale.reshape(())
            renamed[node.output[0]] = product.output[0]
            gone |= {cast.output[0], product.output[0]}
    kept = [node for node in nodes if not gone & set(node.output)]
    return [_giving(node, renamed) for node in kept], scales


def _giving(node: NodeProto, renamed: Mapping[str, str]) -> NodeProto:
    if not any(name in renamed for name in node.output):
        return node
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.output[:] = [renamed.get(name, name) for name in node.output]
    return copy


def floated(
    nodes: Sequence[NodeProto],
    constants: Mapping[str, Array],
    opset: int,
    names: Names,
    path: str,
    held: Collection[str],
) -> tuple[list[NodeProto], dict[str, Array]]:
    """The nodes with every integer operator written as a float one, and the constants that this adds.

    constants: all that is known before folding. opset: the file's. names: all of the graph. held: tensors that stay.
    Raises UnsupportedOperator where a scale isn't constant.
    """
    rewritten: list[NodeProto] = []
    added: dict[str, Array] = {}
    known = ChainMap(added, {**constants})
    nodes, scales = _scaled(nodes, constants, held)
    for index, node in enumerate(nodes):
        rewrite = _REWRITES.get((node.domain, node.op_type))
        if rewrite is not None:
            where = f"{path}: node '{node.name or f'{node.op_type}_{index}'}': {node.op_type}"
            rewriter = _Rewriter(node, known, where, opset, names, scales.get(node.output[0]))
            try:
                rewrite(rewriter)
            except (ValueError, IndexError) as error:  # scales or weights whose shapes don't fit each other
                raise rewriter.refusal(f"is malformed ({error})", "quantise again") from None
            rewritten += rewriter.nodes
            added.update(rewriter.constants)
        elif node.domain == "com.microsoft" and node.op_type in _SAME:
            plain = NodeProto()
            plain.CopyFrom(node)
            plain.domain = ""
            rewritten.append(plain)
        else:
            rewritten.append(node)
    return rewritten, added
