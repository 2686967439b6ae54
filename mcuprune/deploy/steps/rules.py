"""A program as calls of C kernels: each operator is one or a few calls, or none.

What costs nothing here: a RESHAPE is another name for the same bytes; a PAD in front of a convolution is taps that the kernel
leaves out, in front of a pool or a sum so many zeros, and where it adds channels those are set around what the kernel makes; a
SLICE of a transposed convolution is padding of that; a chain of operators of one tensor (activations, requantisation,
arithmetic with one constant) is one table, and a table in front of a CONCATENATION is applied while its input is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mcuprune.deploy.program import Operator, Program
from mcuprune.deploy.steps import arithmetic, movement, sliding
from mcuprune.deploy.steps.chains import take_as_table
from mcuprune.deploy.steps.selection import Selection

#: TFLite operator -> what it becomes. Operators of one tensor (``tables.TABLES``) are tables.
_RULES: Mapping[str, Callable[[Selection, Operator], None]] = {
    "ADD": arithmetic.add,
    "AVERAGE_POOL_2D": sliding.pool,
    "BATCH_MATMUL": arithmetic.batch_matmul,
    "CONCATENATION": movement.concatenation,
    "CONV_2D": sliding.conv,
    "DEPTHWISE_CONV_2D": sliding.depthwise,
    "DEPTH_TO_SPACE": movement.blocks,
    "DIV": arithmetic.divide,
    "FULLY_CONNECTED": sliding.fully_connected,
    "GATHER": movement.gather,
    "LOG_SOFTMAX": arithmetic.softmax,
    "MAXIMUM": arithmetic.extremum,
    "MAX_POOL_2D": sliding.pool,
    "MEAN": arithmetic.reduce,
    "MINIMUM": arithmetic.extremum,
    "MIRROR_PAD": movement.mirror_pad,
    "MUL": arithmetic.mul,
    "PAD": sliding.pad,
    "PADV2": sliding.pad,
    "PRELU": arithmetic.prelu,
    "REDUCE_MAX": arithmetic.reduce,
    "REDUCE_MIN": arithmetic.reduce,
    "RESHAPE": movement.view,
    "RESIZE_BILINEAR": movement.resize_bilinear,
    "RESIZE_NEAREST_NEIGHBOR": movement.resize_nearest,
    "SLICE": movement.take_slice,
    "SOFTMAX": arithmetic.softmax,
    "SPACE_TO_DEPTH": movement.blocks,
    "SPLIT": movement.split,
    "SPLIT_V": movement.split,
    "STRIDED_SLICE": movement.take_slice,
    "SUB": arithmetic.add,
    "SUM": arithmetic.reduce,
    "TRANSPOSE": movement.transpose,
    "TRANSPOSE_CONV": sliding.transpose_conv,
}


def select(program: Program, saved: frozenset[int] = frozenset()) -> Selection:
    """The steps of a program. saved: tensors to do without a place in the arena, of those that ``Selection.could_save`` lists.

    Raises UnsupportedOperator, naming the node, for an operator that has no kernel.
    """
    program.check()
    selection = Selection(program, saved)
    for operator in program.operators:
        if selection.taken.intersection(operator.outputs) or take_as_table(selection, operator):
            continue
        if operator.name not in _RULES:
            selection.refuse(operator, "has no kernel")
        _RULES[operator.name](selection, operator)
    return select(program, saved - selection.clashing) if selection.clashing else selection


def thrifty(usual: Selection) -> Selection:
    """The steps of the same program in the forms that take least memory, at the cost of time."""
    return select(usual.program, frozenset(usual.could_save))
