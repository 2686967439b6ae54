"""Operators that compute element by element or along axes, as calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import floor, prod

from mcuprune.deploy import sums
from mcuprune.deploy.fixedpoint import Factor, clamped, exp_of_negative, factor, quotient, quotient_factor, scaled
from mcuprune.deploy.program import Operator
from mcuprune.deploy.steps.calls import Call, Loop, words_of
from mcuprune.deploy.steps.movement import between, strides
from mcuprune.deploy.steps.selection import Selection
from mcuprune.deploy.tables import activation_range

#: A class adds at most 1 to the sum of a softmax, which has 13 integer bits, and 12 where its logarithm is taken.
_MOST_CLASSES = {"SOFTMAX": 2**13 - 1, "LOG_SOFTMAX": 2**12 - 1}
#: Differences between classes are computed with so many fractional bits, and 5 integer ones.
_FRACTION = 26


def _broadcast(s: Selection, operator: Operator, kernel: str, parameters: Sequence[int]) -> None:
    """A kernel of two operands: loops over axes along which one stands still, the innermost in the kernel."""
    a, b = operator.inputs[:2]
    output = operator.outputs[0]
    out = s.shape(output)
    steps_of = [_broadcast_strides(s.shape(tensor), out) for tensor in (a, b)]
    axes: list[list[int]] = []
    for size, *steps in zip(out, *steps_of, strides(out), strict=True):
        if size == 1:
            continue
        if axes and all(outer == size * step for outer, step in zip(axes[-1][1:], steps, strict=True)):
            axes[-1] = [axes[-1][0] * size, *steps]
        else:
            axes.append([size, *steps])
    *loops, inner = axes or [[1, 1, 1, 1]]
    arguments = (s.place(a), s.place(b), s.place(output), inner[0], inner[1], inner[2], words_of(parameters))
    nested = tuple(Loop(size, tuple(steps)) for size, *steps in loops)
    full = [tensor for tensor in (a, b) if s.shape(tensor) == out]
    s.add(operator, [Call(kernel, arguments, nested)], in_place=full)


def _broadcast_strides(shape: Sequence[int], out: Sequence[int]) -> list[int]:
    wide = (1,) * (len(out) - len(shape)) + tuple(shape)
    return [0 if size == 1 else step for size, step in zip(wide, strides(wide), strict=True)]


def _sum_parameters(s: Selection, operator: Operator) -> list[int]:
    """As TensorFlow Lite adds: both operands with 20 more bits, on the scale of twice the larger of the two."""
    a, b = (s.quantizer(tensor) for tensor in operator.inputs[:2])
    output = s.quantizer(operator.outputs[0])
    common = 2 * max(a.scale, b.scale)
    factors = [factor(scale / common) for scale in (a.scale, b.scale)] + [factor(common / (2**20 * output.scale))]
    sign = -1 if operator.name == "SUB" else 1
    bounds = activation_range(operator.options.get("fused", 0), output)
    return [a.zero_point, b.zero_point, output.zero_point, *(n for by in factors for n in by), *bounds, sign]


def add(s: Selection, operator: Operator) -> None:
    """ADD and SUB, broadcast."""
    kernel, parameters = sums.addition(_sum_parameters(s, operator))
    _broadcast(s, operator, kernel, parameters)


def _product_parameters(s: Selection, operator: Operator) -> list[int]:
    a, b = (s.quantizer(tensor) for tensor in operator.inputs[:2])
    output = s.quantizer(operator.outputs[0])
    bounds = activation_range(operator.options.get("fused", 0), output)
    return [a.zero_point, b.zero_point, output.zero_point, *factor(a.scale * b.scale / output.scale), *bounds]


def _quotient_parameters(s: Selection, operator: Operator) -> list[int]:
    a, b = (s.quantizer(tensor) for tensor in operator.inputs[:2])
    output = s.quantizer(operator.outputs[0])
    bounds = activation_range(operator.options.get("fused", 0), output)
    return [a.zero_point, b.zero_point, output.zero_point, *quotient_factor(a.scale, b.scale, output.scale), *bounds]


def _prelu_parameters(s: Selection, operator: Operator) -> list[int]:
    a, b = (s.quantizer(tensor) for tensor in operator.inputs[:2])
    output = s.quantizer(operator.outputs[0])
    factors = factor(a.scale / output.scale), factor(a.scale * b.scale / output.scale)
    return [a.zero_point, b.zero_point, output.zero_point, *factors[0], *factors[1]]


_Number = Callable[..., int]


def _sum_of(s: Selection, operator: Operator) -> _Number:
    za, zb, zo, *rest, low, high, sign = _sum_parameters(s, operator)
    by_a, by_b, by_sum = Factor(*rest[:2]), Factor(*rest[2:4]), Factor(*rest[4:])

    def number(a: int, b: int) -> int:
        total = scaled((a - za) << 20, by_a) + sign * scaled((b - zb) << 20, by_b)
        return clamped(scaled(total, by_sum) + zo, low, high)

    return number


def _product_of(s: Selection, operator: Operator) -> _Number:
    za, zb, zo, number, shift, low, high = _product_parameters(s, operator)
    return lambda a, b: clamped(scaled((a - za) * (b - zb), Factor(number, shift)) + zo, low, high)


def _quotient_of(s: Selection, operator: Operator) -> _Number:
    za, zb, zo, *by, low, high = _quotient_parameters(s, operator)

    def number(a: int, b: int) -> int:
        if a == za:
            return clamped(zo, low, high)
        if b == zb:
            return high if a > za else low
        return clamped(quotient(a - za, b - zb, Factor(*by)) + zo, low, high)

    return number


def _prelu_of(s: Selection, operator: Operator) -> _Number:
    za, zb, zo, *rest = _prelu_parameters(s, operator)
    above, below = Factor(*rest[:2]), Factor(*rest[2:])
    return lambda a, b: clamped((scaled(a - za, above) if a >= za else scaled((a - za) * (b - zb), below)) + zo)


#: Operators of two operands that are tables where one of them is a single constant: how they make a number of two.
WITH_ONE_CONSTANT: Mapping[str, Callable[[Selection, Operator], _Number]] = {
    "ADD": _sum_of,
    "DIV": _quotient_of,
    "MAXIMUM": lambda s, operator: max,
    "MINIMUM": lambda s, operator: min,
    "MUL": _product_of,
    "PRELU": _prelu_of,
    "SUB": _sum_of,
}


def mul(s: Selection, operator: Operator) -> None:
    """MUL, broadcast."""
    _broadcast(s, operator, "mul", _product_parameters(s, operator))


def divide(s: Selection, operator: Operator) -> None:
    """DIV, broadcast."""
    _broadcast(s, operator, "divide", _quotient_parameters(s, operator))


def prelu(s: Selection, operator: Operator) -> None:
    """PRELU, with slopes that are broadcast."""
    _broadcast(s, operator, "prelu", _prelu_parameters(s, operator))


def extremum(s: Selection, operator: Operator) -> None:
    """MAXIMUM and MINIMUM, broadcast: their operands and output have one quantiser."""
    _broadcast(s, operator, "extremum", [int(operator.name == "MAXIMUM")])


def reduce(s: Selection, operator: Operator) -> None:
    """MEAN, SUM, REDUCE_MAX and REDUCE_MIN over axes that stand side by side; zeros of a PAD in front count in a mean."""
    source, output = operator.inputs[0], operator.outputs[0]
    listed, whole, padded = s.known(operator.inputs[1]), s.shape(source), s.pads.get(source)
    source = source if padded is None else padded.source
    shape = s.shape(source)
    axes = sorted({int(axis) % len(shape) for axis in listed.reshape(-1)})
    axes = [axis for axis in range(axes[0], axes[-1] + 1) if axis in axes or shape[axis] == 1]
    if len(axes) != axes[-1] - axes[0] + 1:
        s.refuse(operator, "over axes that don't stand side by side has no kernel")
    outer, inner = prod(shape[: axes[0]]), prod(shape[axes[-1] + 1 :])
    n, counted = (prod(sizes[axes[0] : axes[-1] + 1]) for sizes in (shape, whole))
    a, b = s.quantizer(source), s.quantizer(output)
    by, kind = factor(a.scale / b.scale), {"REDUCE_MAX": 1, "REDUCE_MIN": 2}.get(operator.name, 0)
    if operator.name == "MEAN":  # the division goes into the factor, as far as it fits into 32 bits
        bits = min(counted.bit_length() - 1, 32, 31 + by.shift)
        by = Factor((by.number << bits) // counted, by.shift - bits)
    parameters = words_of([a.zero_point, b.zero_point, *by])
    call = Call("reduce", (s.place(source), s.place(output), outer, n, inner, parameters, kind))
    added = (0, 0) if padded is None or len(shape) - 1 in axes else padded.pads[-1]
    s.add(operator, between(s, operator, call, *([b.zero_point] * int(count) for count in added)))


def softmax(s: Selection, operator: Operator) -> None:
    """SOFTMAX and LOG_SOFTMAX along the last axis, with a table of the powers that steps of the input make."""
    source, output = operator.inputs[0], operator.outputs[0]
    n = s.shape(output)[-1]
    if n > _MOST_CLASSES[operator.name]:
        s.refuse(operator, f"over {n:,} classes has no kernel")
    beta = float(operator.options.get("beta", 1.0))
    by = factor(min(beta * s.quantizer(source).scale * 2**_FRACTION, 2.0**31 - 1))
    radius = min(255, floor(31 * 2**_FRACTION / 2.0**by.shift))
    powers = [exp_of_negative(scaled(-steps, by), _FRACTION) if steps <= radius else 0 for steps in range(256)]
    arguments = [s.place(source), s.place(output), s.size(output) // n, n, words_of(powers)]
    if operator.name == "LOG_SOFTMAX":
        below_one = 1 - 2.0**-31  # which it is but for steps of almost nothing, of which all count
        back = factor(min(below_one, 2.0 ** (31 - by.shift) / by.number) if by.number else below_one)
        arguments.append(words_of([*by, *back, -radius - 1]))
    s.add(operator, [Call(operator.name.lower(), tuple(arguments))], in_place=(source,))


def batch_matmul(s: Selection, operator: Operator) -> None:
    """Products of computed matrices, one for each of the outer axes."""
    a, b = operator.inputs[:2]
    output = operator.outputs[0]
    *batch, rows, inner = s.shape(a)
    columns = s.shape(b)[-1]
    if prod(batch) != prod(s.shape(b)[:-2]) or operator.options.get("adj_x") or operator.options.get("adj_y"):
        s.refuse(operator, "that broadcasts or transposes has no kernel")
    qa, qb, qo = (s.quantizer(tensor) for tensor in (a, b, output))
    parameters = [qa.zero_point, qb.zero_point, qo.zero_point, *factor(qa.scale * qb.scale / qo.scale)]
    sizes = (prod(batch), rows, inner, columns)
    s.add(operator, [Call("matmul", (s.place(a), s.place(b), s.place(output), *sizes, words_of(parameters)))])
