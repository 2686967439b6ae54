"""What an attribute is where a node doesn't say stands in one place, and is what ONNX says."""

from __future__ import annotations

import ast
from typing import Any

import onnx
import pytest
from onnx import helper
from test_floors import MODULES

from mcuprune.graph.node import _DEFAULTS, _DEFAULTS_OF_OPERATORS, Node, default
from mcuprune.graph.parameters import PARAMETERS
from mcuprune.graph.refusals import NEWEST_OPSET, OLDEST_OPSET
from mcuprune.operators.table import OPS

#: The opset that brought the newest attribute of our table.
_NEWEST_OF_TABLE = 28


def raw_reads(text: str) -> list[str]:
    """Reads of a node's attributes that have a default of their own; what only takes an attribute away is none."""
    tree = ast.parse(text)
    dropped = {statement.value for statement in ast.walk(tree) if isinstance(statement, ast.Expr)}
    reads = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_attrs(node.func.value):
            if node.func.attr in ("get", "setdefault") or (node.func.attr == "pop" and len(node.args) > 1):
                reads += [] if node in dropped else [ast.unparse(node)]
        elif isinstance(node, ast.IfExp) and isinstance(node.test, ast.Compare) and _is_attrs(node.test.comparators[0]):
            reads += [ast.unparse(node)] if isinstance(node.orelse, ast.Constant) else []
    return reads


def _is_attrs(value: ast.expr) -> bool:
    return ast.unparse(value).rpartition(".")[2] == "attrs"


def test_no_default_stands_beside_the_table() -> None:
    reads = {name: raw_reads(place.read_text()) for name, place in MODULES.items()}
    found = {name: of_module for name, of_module in reads.items() if of_module}
    assert not found, "ask Node.get, or operators.attributes for what follows from shapes"


def test_a_raw_read_is_found() -> None:
    for read in (
        "node.attrs.get('group', 1)",
        "attrs.get('mode')",
        "a.attrs.pop('axis', 0)",
        "attrs['p'] if 'p' in attrs else 2",
    ):
        assert raw_reads(f"x = {read}")
    for other in ("x = node.get('group')", "attrs.pop('axes', None)", "x = node.attrs['shape']", "x = other.get('mode', 1)"):
        assert not raw_reads(other)


#: What a file of an old opset says by a default of its own where ours is None.
OF_OPSETS = {("Hardmax", "axis"), ("LogSoftmax", "axis"), ("Softmax", "axis"), ("Clip", "min"), ("Clip", "max")}


def stated(op: str, opset: int) -> dict[str, Any]:
    """Attributes of an operator and their defaults as ONNX's schema has them; None for one that has none."""
    try:
        schema = onnx.defs.get_schema(op, opset)
    except onnx.defs.SchemaError:  # of another opset
        return {}
    values = {}
    for name, attribute in schema.attributes.items():
        value = helper.get_attribute_value(attribute.default_value) if attribute.default_value.name else None
        values[name] = value.decode() if isinstance(value, bytes) else value
    return values


def test_defaults_are_those_of_onnx() -> None:
    """For every operator of the table and every opset that is read; numbers as near as float32 has them."""
    met: set[str | tuple[str, str]] = {spelling.split("/")[0] for names in PARAMETERS.values() for spelling in names}
    for op in OPS:
        for opset in range(OLDEST_OPSET, NEWEST_OPSET + 1):
            for name, theirs in stated(op, opset).items():
                try:
                    ours = default(op, name)
                except KeyError:
                    continue
                met |= {name, (op, name)}
                if (op, name) in OF_OPSETS:
                    assert ours is None
                else:
                    assert ours == (pytest.approx(theirs, rel=1e-7) if isinstance(theirs, float) else theirs), (op, name, opset)
    if NEWEST_OPSET >= _NEWEST_OF_TABLE:  # an older onnx can't tell what came after it, and no file of these opsets is read
        assert {(op, name) for name, of in _DEFAULTS_OF_OPERATORS.items() for op in of} <= met
        assert set(_DEFAULTS) <= met


def test_what_a_node_says_comes_first() -> None:
    assert Node("a", "Conv", ("x", "w"), ("y",)).get("group") == 1
    assert Node("a", "Conv", ("x", "w"), ("y",), {"group": 4}).get("group") == 4
    assert Node("a", "LeakyRelu", ("x",), ("y",)).get("alpha") == 0.01
    with pytest.raises(KeyError):
        Node("a", "Conv", ("x", "w"), ("y",)).get("groups")
