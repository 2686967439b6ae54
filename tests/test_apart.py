"""A file whose inputs have a fixed leading size is one example where that is a batch, else what it is: onnxruntime decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import session
from graphs import Graph
from onnx import numpy_helper
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException
from test_ops import CASES, Example

from mcuprune import exporting
from mcuprune.errors import DataError
from mcuprune.graph import network
from mcuprune.operators import table as ops

#: How many examples the files are made for: no size of theirs.
COUNT = 3


def are_apart(model: onnx.ModelProto) -> bool:
    """Whether each row of a file's input makes its row of every output, all in the same way, in onnxruntime."""
    draw = np.random.default_rng(0)
    (value,) = model.graph.input
    shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    x, other = draw.normal(size=(2, *shape)).astype(np.float32)
    runs = session(model)

    def of(rows: np.ndarray) -> list[np.ndarray]:
        return [np.asarray(y, np.float64) for y in runs.run(None, {value.name: rows})]

    plain, turned = of(x), of(x[[1, 2, 0]])
    changed = [of(np.concatenate([x[:at], other[at : at + 1], x[at + 1 :]])) for at in range(COUNT)]
    for index, y in enumerate(plain):
        if not y.ndim or len(y) % COUNT:
            return False
        rows, others = (v.reshape(COUNT, -1) for v in (y, turned[index]))
        if not np.allclose(rows[[1, 2, 0]], others, rtol=1e-3, atol=1e-4, equal_nan=True):
            return False
        for at, ys in enumerate(changed):
            kept = np.delete(np.arange(COUNT), at)
            if not np.allclose(ys[index].reshape(COUNT, -1)[kept], rows[kept], rtol=1e-3, atol=1e-4, equal_nan=True):
                return False
    return True


def taken_for_one(model: onnx.ModelProto) -> bool:
    net = network.from_proto(model, "net.onnx", accept=ops.accept("net.onnx"))
    return all(net.shapes[name][0] == 1 for name in net.inputs)


def shaped(graph: Graph, *target: int) -> str:
    return graph.value(np.array(target, np.int64))


def joined(graph: Graph, x: str, axes: Sequence[int]) -> str:
    return graph.add("Unsqueeze", x, shaped(graph, *axes))


def convolved(graph: Graph) -> str:
    x = graph.add("Relu", graph.conv("x", 4, 8, strides=[2, 2]))
    return graph.add("Flatten", graph.add("GlobalAveragePool", x))


def attention(graph: Graph, x: str, width: int) -> str:
    q, k, v = (graph.add("MatMul", x, graph.constant(width, width)) for _ in range(3))
    axes = [0, 2, 1] if width == 5 else [1, 0]
    scores = graph.add("Softmax", graph.add("MatMul", q, graph.add("Transpose", k, perm=axes)), axis=-1)
    return graph.add("MatMul", scores, v)


def shuffled(g: Graph) -> str:
    apart = g.add("Transpose", g.add("Reshape", "x", shaped(g, COUNT, 2, 2, 6, 6)), perm=[0, 2, 1, 3, 4])
    return g.conv(g.add("Reshape", apart, shaped(g, COUNT, 4, 6, 6)), 4, 4)


def over_time(g: Graph) -> str:
    x = joined(g, g.add("Transpose", "x", perm=[1, 0]), [0])
    return g.add("Transpose", g.add("Squeeze", g.conv(joined(g, x, [2]), 8, 4, (1, 3)), shaped(g, 0, 2)), perm=[1, 0])


def over_pixels(g: Graph) -> str:
    return g.add("Squeeze", g.conv(joined(g, "x", [0, 1]), 1, 1), shaped(g, 0, 1))


def by_pairs(g: Graph) -> str:
    return g.add("Abs", g.add("Sub", "x", joined(g, "x", [1])))


IMAGES, ROWS, TOKENS = (COUNT, 4, 6, 6), (COUNT, 8), (COUNT, 4, 5)
Make = Callable[[Graph], str]
CASES_OF: dict[str, tuple[Sequence[int], Make]] = {
    "classifier": (IMAGES, lambda g: g.classifier("x", 4, 2)),
    "convolution": (IMAGES, lambda g: g.conv("x", 4, 8)),
    "channels shuffled": (IMAGES, shuffled),
    "rows of pixels through a dense layer": (
        IMAGES,
        lambda g: g.add(
            "Reshape",
            g.dense(g.add("Reshape", g.add("Transpose", "x", perm=[0, 2, 3, 1]), shaped(g, COUNT * 36, 4)), 4, 2),
            shaped(g, COUNT, -1),
        ),
    ),
    "tokens of each": (TOKENS, lambda g: attention(g, "x", 5)),
    "a place for each token": (TOKENS, lambda g: g.add("Add", "x", g.constant(1, 4, 5))),
    "concat of channels": (IMAGES, lambda g: g.add("Concat", "x", g.conv("x", 4, 4), axis=1)),
    "softmax of channels": (IMAGES, lambda g: g.add("Softmax", "x", axis=1)),
    "mean of space": (IMAGES, lambda g: g.add("ReduceMean", "x", axes=[2, 3], keepdims=0)),
    "another axis in front and back": (
        ROWS,
        lambda g: g.add("Squeeze", g.add("Relu", joined(g, "x", [0])), shaped(g, 0)),
    ),
    "columns of a matrix on the left": (
        ROWS,
        lambda g: g.add("Transpose", g.add("MatMul", g.constant(2, 8), g.add("Transpose", "x", perm=[1, 0])), perm=[1, 0]),
    ),
    "no batch: one dense layer over all": (IMAGES, lambda g: g.dense(g.add("Reshape", convolved(g), shaped(g, 1, 24)), 24, 2)),
    "no batch: tokens": (ROWS, lambda g: g.add("Add", attention(g, "x", 8), "x")),
    "no batch: pairs": (ROWS, by_pairs),
    "no batch: softmax over the first axis": (ROWS, lambda g: g.add("Softmax", g.dense("x", 8, 1), axis=0)),
    "no batch: softmax of old opsets": (TOKENS, lambda g: g.add("Softmax", "x", axis=0)),
    "no batch: time": (ROWS, over_time),
    "no batch: a picture": ((COUNT, 9), over_pixels),
    "no batch: rows turned": (
        ROWS,
        lambda g: g.add("Slice", "x", shaped(g, -1), shaped(g, -100), shaped(g, 0), shaped(g, -1)),
    ),
    "no batch: rows picked": (ROWS, lambda g: g.add("Gather", "x", shaped(g, 2, 0, 1), axis=0)),
    "no batch: a constant of each row": (ROWS, lambda g: g.add("Add", "x", g.constant(COUNT, 8))),
    "no batch: a bias of each row": (ROWS, lambda g: g.add("Gemm", "x", g.constant(8, 2), g.constant(COUNT, 2))),
    "no batch: mean of all": (
        ROWS,
        lambda g: g.add("Sub", "x", g.add("ReduceMean", "x", axes=[0], keepdims=1)),
    ),
    "no batch: rows mixed by weights": (ROWS, lambda g: g.add("MatMul", g.constant(COUNT, COUNT), "x")),
    "no batch: split and put together otherwise": (
        ROWS,
        lambda g: g.add(
            "Concat", *[g.add("Slice", "x", shaped(g, a), shaped(g, b), shaped(g, 0)) for a, b in ((2, 3), (0, 2))], axis=0
        ),
    ),
    "no batch: neighbours' channels": (
        ROWS,
        lambda g: g.add("Reshape", g.add("Transpose", "x", perm=[1, 0]), shaped(g, COUNT, 8)),
    ),
    "zeros of the batch's size": (
        IMAGES,
        lambda g: g.add("Add", "x", g.add("ConstantOfShape", g.add("Shape", g.conv("x", 4, 4)))),
    ),
    "no batch: a scale for each row": (
        (COUNT, 4, 5),
        lambda g: g.add("LayerNormalization", "x", g.constant(COUNT, 1, 5), axis=-1),
    ),
    "no batch: steps of each row": (
        ROWS,
        lambda g: g.add(
            "DequantizeLinear",
            g.add(
                "QuantizeLinear", "x", *(steps := (g.value(np.float32([0.1, 0.2, 0.3])), g.value(np.zeros(3, np.int8)))), axis=0
            ),
            *steps,
            axis=0,
        ),
    ),
    "no batch: normalised across": (
        (COUNT, 4, 6, 5),
        lambda g: g.add(
            "Transpose", g.add("LRN", g.add("Transpose", "x", perm=[1, 0, 2, 3]), size=3, alpha=3.0), perm=[1, 0, 2, 3]
        ),
    ),
}


@pytest.mark.parametrize("name", CASES_OF)
def test_a_fixed_leading_size_is_a_batch_where_rows_make_their_own_rows(name: str) -> None:
    shape, make = CASES_OF[name]
    graph = Graph(*shape, opset=12 if "old opsets" in name else 13 if "mean" in name else 17)
    model = graph.model(make(graph))
    assert are_apart(model) == (not name.startswith("no batch")), "the case isn't what it says"
    assert taken_for_one(model) == are_apart(model)


SIZED: dict[str, Make] = {
    "divided by it": lambda g: g.add(
        "Div", "x", g.add("Cast", g.add("Gather", g.add("Shape", "x"), g.value(np.array(0)), axis=0), to=1)
    ),
    "times the size of all": lambda g: g.add("Mul", "x", g.add("Cast", g.add("Size", "x"), to=1)),
}


@pytest.mark.parametrize("name", SIZED)
def test_a_network_that_computes_with_the_size_of_its_batch_stays_as_it_is(name: str) -> None:
    """Its rows are apart, and yet one example alone would be another network's."""
    graph = Graph(*IMAGES)
    model = graph.model(SIZED[name](graph))
    assert are_apart(model)
    assert not taken_for_one(model)


def test_a_batch_that_is_too_large_to_be_held_is_one() -> None:
    """Only few examples of it are looked at."""
    graph = Graph(1025, 3, 512, 512)
    assert taken_for_one(graph.model(graph.conv("x", 3, 64)))


@pytest.mark.parametrize(("end", "one"), [(3, False), (4, False), (2**63 - 1, True)])
def test_the_first_few_of_a_batch_are_no_batch(end: int, one: bool) -> None:
    """Of fewer examples than that the same nodes would take all."""
    graph = Graph(6, 8)
    model = graph.model(graph.add("Slice", graph.dense("x", 8, 2), shaped(graph, 0), shaped(graph, end), shaped(graph, 0)))
    assert taken_for_one(model) == one


def test_data_are_not_fed_to_a_network_without_a_batch_axis(tmp_path: Path) -> None:
    graph = Graph(6, 8)
    onnx.save(graph.model(graph.dense(attention(graph, "x", 8), 8, 3)), tmp_path / "net.onnx")
    np.savez(tmp_path / "d.npz", x_train=np.zeros((16, 6, 8), np.float32), x_test=np.zeros((16, 6, 8), np.float32))
    request = exporting.Request(str(tmp_path / "net.onnx"), str(tmp_path / "o.onnx"), data=str(tmp_path / "d.npz"))
    with pytest.raises(DataError, match=r"input 'x' \[6, 8\] has no batch axis: its 6 rows are parts of one example"):
        exporting.export(request)


def at_batch(example: Example) -> onnx.ModelProto:
    """The example's network made for several."""
    model = example.model()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = COUNT
    for constant in model.graph.initializer:
        if constant.name == "flat":
            constant.CopyFrom(numpy_helper.from_array(np.array([COUNT, -1], np.int64), "flat"))
    return model


@pytest.mark.thorough
@pytest.mark.parametrize("example", CASES)
def test_no_operator_is_taken_for_one_that_keeps_examples_apart(example: Example) -> None:
    model = at_batch(example)
    if len(model.graph.input) != 1:
        pytest.skip("has several inputs")
    try:
        apart = are_apart(model)
    except (Fail, InvalidArgument, RuntimeException):
        pytest.skip("onnxruntime takes it for one example alone")
    assert taken_for_one(model) == apart
