"""Operators that work element by element, as TensorFlow Lite's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np

from mcuprune.deploy.lowering import (
    QUANTISE_AGAIN,
    Array,
    Literal,
    Lower,
    Lowering,
    Target,
    Value,
    channels_last,
    without_ones,
)
from mcuprune.deploy.program import Axes, Constant, Storage
from mcuprune.deploy.qdq import HIGH, LOW, UNIT, Quantizer
from mcuprune.deploy.windows import affine, small
from mcuprune.graph.network import Node, Shape, Stored
from mcuprune.operators import attributes

Operand = Value | Literal
#: How far from 0 the beta of a HardSigmoid may lie. Data that come near beta have steps of 8 and more there.
_FARTHEST_BETA = 1024.0


def _literal(w: Lowering, name: str, low: float = -np.inf, high: float = np.inf) -> Literal:
    return Literal(w.net.shapes[name], w.dims(name), small(w, name, low, high))


def _matters(operator: str, place: int, data: Quantizer, result: Quantizer) -> tuple[float, float]:
    """Between which numbers the constant of a sum changes what becomes of some data: beyond, the result is at its end.

    place: which operand is constant. No limits for other operators.
    """
    (low, high), (least, most) = data.range, result.range
    if operator == "Add":
        return least - high, most - low
    if operator == "Sub":
        return (low - most, high - least) if place else (least + low, most + high)
    return -np.inf, np.inf


def _number(value: int, scale: float) -> Literal:
    """One number, as an int8 of this scale."""
    stored = Stored(np.full((1,), value, np.int8), np.array([scale], np.float32), 0)
    return Literal((1,), (1,), lambda: stored)


def _per_channel_constant(w: Lowering, name: str, shape: Shape) -> Array | None:
    """A constant as (channels,) where it differs along axis 1 of ``shape`` alone."""
    value = np.asarray(w.net.constants[name], np.float64)
    if len(shape) not in (3, 4) or value.ndim > len(shape):
        return None
    wide = value.reshape((1,) * (len(shape) - value.ndim) + value.shape)
    if wide.shape[1] != shape[1] or wide.size != shape[1]:
        return None
    return wide.reshape(-1)


def _factor(w: Lowering, node: Node) -> Literal | None:
    """What to multiply by in place of dividing by one constant number; None where there is no such."""
    divisor = np.asarray(w.net.constants[node.inputs[1]], np.float64).reshape(-1)
    if divisor.size != 1 or not np.isfinite(divisor[0]) or w.net.shapes[node.inputs[0]] != w.net.shapes[node.outputs[0]]:
        return None
    scale = np.float32(1 / (127 * abs(divisor[0]))) if divisor[0] else np.float32(0)
    return _number(127 if divisor[0] > 0 else -127, float(scale)) if np.finfo(np.float32).tiny < scale < np.inf else None


def arithmetic(w: Lowering, node: Node) -> None:
    """Add, Sub, Mul, Div of two operands, at most one of them constant."""
    constant = next((i for i, name in enumerate(node.inputs) if w.net.is_constant(name)), None)
    if node.op == "Div" and constant == 1 and (inverse := _factor(w, node)) is not None:
        # DIV would round three times more, and its kernels are larger and slower
        _combine(w, "MUL", [w.data(node), inverse], w.target(node))
        return
    if constant is not None and (node.op == "Div" or node.inputs[constant] not in w.net.stored):
        value = w.data(node, 1 - constant)
        numbers = _per_channel_constant(w, node.inputs[constant], value.shape)
        fits = numbers is not None and value.shape == w.net.shapes[node.outputs[0]]
        if numbers is not None and fits and (node.op != "Div" or (constant == 1 and numbers.all())):
            ones, none = np.ones(numbers.size), np.zeros(numbers.size)
            factor, offset = {
                "Add": (ones, numbers),
                "Sub": (ones if constant else -ones, -numbers if constant else numbers),
                "Mul": (numbers, none),
                "Div": (1 / np.where(numbers == 0, 1.0, numbers), none),
            }[node.op]
            affine(w, node, value, factor, offset)
            return
    target = w.target(node)
    if node.op == "Div" and constant == 1 and not np.all(w.net.constants[node.inputs[1]]):
        w.refuse("divides by a constant that int8 rounds to zero", "multiply by its reciprocal instead")
    operands: list[Operand] = []
    for index, name in enumerate(node.inputs):
        if w.net.is_constant(name):
            limits = _matters(node.op, index, w.quantizer(w.data(node, 1 - index)), target.quantizer)
            operands.append(_literal(w, name, *limits))
        else:
            operands.append(w.data(node, index))
    _combine(w, node.op.upper(), operands, target)


def _combine(w: Lowering, operator: str, operands: Sequence[Operand], target: Target, *, fuses: bool = True) -> None:
    result = binary(w, operator, operands, target, target.quantizer, fused=target.fused if fuses else None)
    w.finish(target, result, fused=target.fused if fuses else 0)


def binary(
    w: Lowering,
    operator: str,
    operands: Sequence[Operand],
    target: Target,
    quantizer: Quantizer,
    *,
    fused: int | None,
    alike: bool = False,
    name: str = "",
) -> Value:
    """An operator of two operands that broadcasts. fused: the activation, None for operators without options.

    alike: whether it reads operands in the quantiser of what it makes; what is moved is moved before it gets that one.
    """
    values = [w.ordered(operand) for operand in operands if isinstance(operand, Value)]
    if not values:
        w.refuse("has no operand that is quantised", QUANTISE_AGAIN)
    shape = tuple(np.broadcast_shapes(*(operand.shape for operand in operands)))
    rank = len(shape)
    widest = max(values, key=lambda value: prod(value.shape))
    shift = rank - len(widest.shape)
    if prod(widest.shape) == prod(shape):
        axes: Axes = tuple(None if axis is None else axis + shift for axis in widest.axes)
    else:
        order = w.order(widest) if shift == 0 else channels_last(rank)
        axes = without_ones(order, shape)

    def read(operand: Value) -> int:
        moved = _broadcast(w, operand, axes, rank)
        return (w.requantized(moved, quantizer) if alike and w.quantizer(moved) != quantizer else moved).tensor

    inputs = [_constant(w, operand, axes, rank) if isinstance(operand, Literal) else read(operand) for operand in operands]
    dims = target.dims if shape == target.shape else shape
    result = w.computed(name or target.name, shape, dims, axes, quantizer)
    options = {} if fused is None else {"fused": fused}
    w.emit(operator, inputs, [result.tensor], **options)
    return result


def _broadcast(w: Lowering, operand: Value, axes: Axes, rank: int) -> Value:
    """An operand in the layout of an output of ``rank`` axes."""
    value = w.ordered(operand)
    own = rank - len(value.shape)
    wanted = tuple(None if axis is None or axis < own or value.shape[axis - own] == 1 else axis - own for axis in axes)
    if _stripped(value.axes) != _stripped(wanted) or len(value.axes) > len(wanted):
        value = w.arranged(value, wanted)
    return value


def _constant(w: Lowering, operand: Literal, axes: Axes, rank: int) -> int:
    """A constant operand in the layout of an output of ``rank`` axes."""
    missing = rank - len(operand.shape)
    wide, wide_dims = ((1,) * missing + sizes for sizes in (operand.shape, operand.dims))
    kept = [axis for axis in axes if axis is not None]
    rest = [axis for axis in range(rank) if axis not in kept]
    sizes, dims = ([1 if axis is None else known[axis] for axis in axes] for known in (wide, wide_dims))
    while len(sizes) > 1 and sizes[0] == 1:
        sizes.pop(0)
        dims[0:2] = [dims[0] * dims[1]]

    def content() -> Constant:
        stored = operand.stored()
        data = stored.integers.reshape(wide).transpose([*rest, *kept]).reshape(sizes)
        return Constant(data, stored.scale, np.zeros(1, np.int64))

    return w.constant("constant", tuple(sizes), tuple(dims), "int8", Storage(1), content)


def _stripped(axes: Axes) -> Axes:
    """Without leading axes of size 1, which broadcasting adds."""
    kept = list(axes)
    while kept and kept[0] is None:
        kept.pop(0)
    return tuple(kept)


def extremum(w: Lowering, node: Node) -> None:
    """Max and Min: all operands in the output's steps."""
    target = w.target(node)
    q = target.quantizer
    if any(w.net.is_constant(name) for name in node.inputs):
        w.refuse("has a constant operand", "use Clip")
    operands: list[Operand] = [w.data(node, index) for index in range(len(node.inputs))]
    largest = operands[0]
    for index, other in enumerate(operands[1:]):
        operator = "MAXIMUM" if node.op == "Max" else "MINIMUM"
        largest = binary(w, operator, [largest, other], target, q, fused=None, alike=True, name=f"{target.name}/{index}")
    assert isinstance(largest, Value)
    w.finish(target, largest if w.quantizer(largest) == q else w.requantized(largest, q))  # of a single operand


def sum_(w: Lowering, node: Node) -> None:
    """Sums of n terms are n - 1 operators; what stands between them has a range that no partial sum leaves."""
    target = w.target(node)
    total = w.data(node)
    if len(node.inputs) == 1:
        w.finish(target, total)
        return
    for index in range(1, len(node.inputs)):
        other = w.data(node, index)
        last = index == len(node.inputs) - 1
        q = target.quantizer if last else _wide(w.quantizer(total), w.quantizer(other))
        total = binary(w, "ADD", [total, other], target, q, fused=target.fused if last else 0, name=f"{target.name}/{index}")
    w.finish(target, total, fused=target.fused)


def _wide(first: Quantizer, other: Quantizer) -> Quantizer:
    """A quantiser whose range holds every sum of two."""
    low = sum((LOW - q.zero_point) * q.scale for q in (first, other))
    high = sum((HIGH - q.zero_point) * q.scale for q in (first, other))
    scale = float(np.float32((high - low) / (HIGH - LOW)))
    return Quantizer(scale, int(np.clip(np.round(LOW - low / scale), LOW, HIGH)))


def pow_(w: Lowering, node: Node) -> None:
    """A square, as a product; raises UnsupportedOperator for any other power."""
    exponent = w.net.constants.get(node.inputs[1])
    if exponent is None or exponent.size != 1 or float(exponent.reshape(())) != 2.0:
        w.refuse("other than a square has no int8 operator in TensorFlow Lite Micro", "write it as products (Mul)")
    target, value = w.target(node), w.data(node)
    _combine(w, "MUL", [value, value], target)


def neg(w: Lowering, node: Node) -> None:
    """A product with -1."""
    _combine(w, "MUL", [w.data(node), _number(-127, 1 / 127)], w.target(node))


def activation(operator: str) -> Lower:
    """An operator of one input without options, in the quantiser that its kernel writes."""

    def lower(w: Lowering, node: Node) -> None:
        value, target = w.data(node), w.target(node)
        w.finish(target, w.unary(operator, value, target))

    return lower


def leaky_relu(w: Lowering, node: Node) -> None:
    """LEAKY_RELU, which writes any quantiser."""
    value, target = w.data(node), w.target(node)
    alpha = float(node.get("alpha"))
    w.finish(target, w.unary("LEAKY_RELU", value, target, alpha=alpha))


def elu(w: Lowering, node: Node) -> None:
    """ELU with an alpha of 1; raises UnsupportedOperator for any other."""
    if float(node.get("alpha")) != 1.0:
        w.refuse("with an alpha other than 1 has no operator in TensorFlow Lite Micro", "export it with alpha 1")
    activation("ELU")(w, node)


def prelu(w: Lowering, node: Node) -> None:
    """PRELU with constant slopes; raises UnsupportedOperator for computed ones."""
    if not w.net.is_constant(node.inputs[1]):
        w.refuse("has a slope that is computed", "export it with constant slopes")
    target = w.target(node)
    _combine(w, "PRELU", [w.data(node), _literal(w, node.inputs[1])], target, fuses=False)


def softmax(w: Lowering, node: Node) -> None:
    """SOFTMAX or LOG_SOFTMAX over one axis, which is moved to the end."""
    value = w.ordered(w.data(node))
    axes = [axis for axis in attributes.softmax_axes(node, w.net) if value.shape[axis] > 1]
    if len(axes) > 1:
        w.refuse(f"over several axes (opset {w.net.opset})", "export with opset 13 or later")
    axis = axes[0] if axes else attributes.softmax_axes(node, w.net)[0]
    if value.axes[-1] != axis:  # the kernels work along the last dimension
        order = [a for a in w.order(value) if a != axis]
        value = w.arranged(value, without_ones((*order, axis), value.shape))
    target = w.target(node)
    if node.op == "Softmax":
        w.finish(target, w.unary("SOFTMAX", value, target, beta=1.0))
    else:
        w.finish(target, w.unary("LOG_SOFTMAX", value, target))


def hard_sigmoid(w: Lowering, node: Node) -> None:
    """MUL and ADD in steps of 1/256, where the product is rounded once and the sum is exact; int8's own bounds clamp it.

    The other way round, (x + beta / alpha) * alpha, where beta lies outside [0, 1]. Raises UnsupportedOperator where it lies so
    far outside that one step of the data takes it from 0 to 1.
    """
    value, target = w.data(node), w.target(node)
    alpha, beta = float(node.get("alpha")), float(node.get("beta"))
    size = abs(alpha)
    if not size:  # beta alone, whatever the data
        beta = min(max(beta, 0.0), 1.0)
    if abs(beta) > _FARTHEST_BETA:
        w.refuse(
            f"with a beta of {beta:g} has no form in int8: one step of its data takes it from 0 to 1",
            f"give it a beta within {_FARTHEST_BETA:g} of 0",
        )
    first = f"{target.name}/0"
    if 0 <= beta <= 1:
        between = Quantizer(UNIT.scale, int(np.clip(np.round(LOW + 256 * beta), LOW, HIGH)))
        slope = _number(127 if alpha >= 0 else -127, size / 127) if size else _number(0, 1.0)
        product = binary(w, "MUL", [value, slope], target, between, fused=0, name=first if beta else "")
        w.finish(target, binary(w, "ADD", [product, _number(64, beta / 64)], target, UNIT, fused=0) if beta else product)
        return
    # No zero point of int8 lets the product reach from -beta to 1 - beta. The sum has to reach from 0 to 1 / alpha.
    falls, shift = alpha < 0, _number(64 if beta > 0 else -64, abs(beta) / size / 64)
    sum_of: list[Operand] = [shift, value] if falls else [value, shift]
    total = binary(w, "SUB" if falls else "ADD", sum_of, target, Quantizer(UNIT.scale / size, LOW), fused=0, name=first)
    w.finish(target, binary(w, "MUL", [total, _number(127, size / 127)], target, UNIT, fused=0))


def swish(w: Lowering, node: Node) -> None:
    """The product of the data and its sigmoid."""
    if float(node.get("alpha")) != 1.0:
        w.refuse("with an alpha other than 1 has no operator in TensorFlow Lite Micro", "write it as Mul, Sigmoid and Mul")
    value, target = w.data(node), w.target(node)
    gate = w.unary("LOGISTIC", value, replace(target, name=f"{target.name}/gate"))
    _combine(w, "MUL", [value, gate], target)
