"""Operators of one int8 tensor as tables, and chains of them as one table.

A table is put off where the only operator that reads its output can take it over: the next table of the chain, or a
CONCATENATION, which applies it while it copies.
"""

from __future__ import annotations

import numpy as np

from mcuprune.deploy.fixedpoint import HIGH, LOW
from mcuprune.deploy.program import Operator
from mcuprune.deploy.steps.arithmetic import WITH_ONE_CONSTANT
from mcuprune.deploy.steps.calls import Call, bytes_of
from mcuprune.deploy.steps.selection import Selection
from mcuprune.deploy.tables import STORED, TABLES, Table, table


def take_as_table(s: Selection, operator: Operator) -> bool:
    """Take an operator of one computed tensor for a table, joined to the table before it. False where it isn't one."""
    source = _table_source(s, operator)
    if source is None:
        return False
    values = _table_of(s, operator, source)
    output = operator.outputs[0]
    if source in s.tables:  # the chain's beginning was put off to be joined here
        source, before = s.tables.pop(source)
        values = values[before.astype(int) + 128]
    reader = s.sole_reader(output)
    if np.array_equal(values, np.arange(LOW, HIGH + 1)):
        s.views[output] = source
    elif reader is not None and (_table_source(s, reader) == output or _copies(reader, output)):
        s.tables[output] = (source, values)
    else:
        call = Call("table", (s.place(source), s.place(output), s.size(output), bytes_of(values)))
        s.add(operator, [call], in_place=(source,))
    return True


def _copies(reader: Operator, tensor: int) -> bool:
    return reader.name == "CONCATENATION" and reader.inputs.count(tensor) == 1


def _table_source(s: Selection, operator: Operator) -> int | None:
    """The computed tensor of an operator that is a table; None for any other operator."""
    if operator.name in TABLES:
        return operator.inputs[0]
    if operator.name not in WITH_ONE_CONSTANT:
        return None
    computed = [tensor for tensor in operator.inputs if s.constant(tensor) is None]
    single = all(s.size(tensor) == 1 for tensor in operator.inputs if s.constant(tensor) is not None)
    return computed[0] if len(computed) == 1 and single and len(operator.inputs) == 2 else None


def _table_of(s: Selection, operator: Operator, source: int) -> Table:
    if operator.name in TABLES:
        return table(operator.name, s.quantizer(source), s.quantizer(operator.outputs[0]), operator.options)
    rule = WITH_ONE_CONSTANT[operator.name](s, operator)
    known = [s.constant(tensor) for tensor in operator.inputs]
    numbers = [None if data is None else int(data.reshape(-1)[0]) for data in known]
    values = [rule(*(stored if number is None else number for number in numbers)) for stored in STORED]
    return np.array(values, np.int8)
