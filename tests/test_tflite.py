"""The .tflite writer against onnxruntime, operator by operator, in TensorFlow Lite Micro's own interpreter."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import blocks
import numpy as np
import onnx
import pytest
from conftest import Once, thorough_but
from graphs import Graph
from onnx import helper

from mcuprune import cli, exporting
from mcuprune.channels.labelling import label
from mcuprune.costs import resources
from mcuprune.deploy import kernels, qdq, tflite
from mcuprune.deploy.lower import lower
from mcuprune.deploy.tflite import Port
from mcuprune.errors import ModelError, UnsupportedOperator
from mcuprune.graph import network
from mcuprune.operators import table as ops
from mcuprune.passes import batchnorm as folding
from mcuprune.passes.canonical import canonical
from mcuprune.report.wording import without_kernels
from mcuprune.run import runners
from mcuprune.run.trial import Trial
from mcuprune.run.verification import Difference

# by their full names: the package has functions of the same names
export = import_module("mcuprune.deploy.qdq")
verify = import_module("mcuprune.run.verify")

pytest.importorskip("tflite_micro")

IMAGE = (1, 4, 9, 8)


def int8(model: onnx.ModelProto, path: Path) -> str:
    """The model quantised by mcuprune's own export, with ranges from random inputs."""
    from mcuprune.train.fake_quant import QuantTrainable, calibrate

    net = folding.folded(canonical(network.from_proto(model, "net.onnx", accept=ops.accept("net.onnx")))[0])
    module = QuantTrainable(label(net))
    draw = np.random.default_rng(0)
    shapes = [(1, *net.shapes[name][1:]) for name in net.inputs]
    calibrate(module, [tuple(draw.standard_normal(shape, np.float32) for shape in shapes) for _ in range(8)])
    export.quantized(*module.quantized_network()).save(path)
    return str(path)


def model_of(graph: Graph, *outputs: str) -> onnx.ModelProto:
    values = [helper.make_empty_tensor_value_info(name) for name in outputs]
    proto = helper.make_graph(graph.nodes, "net", graph.inputs, values, graph.initializers)
    opset = [helper.make_opsetid("", graph.opset)]
    return onnx.shape_inference.infer_shapes(helper.make_model(proto, opset_imports=opset, ir_version=8))


def converted(path: str) -> tflite.Converted:
    net = network.load(path, accept=ops.accept(path))
    return tflite.convert(net, tflite.stored_constants(onnx.load(path)))


def case(once: Once, name: str) -> tuple[str, tflite.Converted]:
    """The int8 file of a case, which nobody writes to, and what is converted from it: quantised for all tests of the case."""
    path = once(("case", name), lambda folder: int8(CASES[name](), folder / "net.onnx"))
    return path, _converted_once(path)


#: A few at a time: tests of one case come one after the other.
_converted_once = functools.lru_cache(maxsize=8)(converted)


def operators(path: str) -> list[str]:
    return [operator for operator, _ in converted(path).operators]


@pytest.fixture
def in_process(in_process: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all runtimes, in this process, the one that reads the file."""
    monkeypatch.setattr(runners, "available", lambda: ("tflm",))


def differences(path: str, examples: int = 20) -> tuple[Difference, ...]:
    return verify.verify(path, Trial(examples=examples)).differences


# ------------------------------------------------------------------------------------------------------- one operator each


def single(op: str, *constants: Any, shape: tuple[int, ...] = IMAGE, **attrs: Any) -> Callable[[], onnx.ModelProto]:
    """A network of one operator; attributes that aren't None."""

    def build() -> onnx.ModelProto:
        graph = Graph(*shape)
        inputs = ["" if value is None else graph.value(np.asarray(value)) for value in constants]
        return model_of(graph, graph.add(op, "x", *inputs, **attrs))

    return build


def convolution(n_out: int, kernel: int, *, then: str | None = None, **attrs: Any) -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        graph = Graph(*IMAGE)
        y = graph.conv("x", 4, n_out, kernel, **attrs)
        return model_of(graph, graph.add(then, y) if then else y)

    return build


def transposed(kernel: int, **attrs: Any) -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        graph = Graph(*IMAGE)
        return model_of(
            graph, graph.add("ConvTranspose", "x", graph.constant(4, 6, kernel, kernel), graph.constant(6), **attrs)
        )

    return build


def joined(op: str, shape: tuple[int, ...], **attrs: Any) -> Callable[[], onnx.ModelProto]:
    """An operator of a convolution's output and a second input."""

    def build() -> onnx.ModelProto:
        graph = Graph(*IMAGE)
        y = graph.conv("x", 4, 4, 3)
        return model_of(graph, graph.add(op, y, graph.input("z", *shape), **attrs))

    return build


def with_constant(op: str, *shape: int, first: bool = False) -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        graph = Graph(*IMAGE)
        constant = graph.value(np.asarray(graph.draw.uniform(0.5, 2, shape), np.float32))
        return model_of(graph, graph.add(op, *((constant, "x") if first else ("x", constant))))

    return build


def quotient(*shape: int, above: float = 1.0) -> onnx.ModelProto:
    """A convolution over what another, or the second input, makes between ``above`` and 1 more."""
    graph = Graph(*IMAGE)
    gate = graph.add("Sigmoid", graph.input("z", *shape) if shape else graph.conv("x", 4, 4))
    return model_of(graph, graph.add("Div", graph.conv("x", 4, 4, 3), graph.add("Add", gate, graph.value(np.float32([above])))))


def gemm(**attrs: Any) -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        graph = Graph(1, 20)
        weight = graph.constant(*((7, 20) if attrs.get("transB") else (20, 7)))
        return model_of(graph, graph.add("Gemm", "x", weight, graph.constant(7), **attrs))

    return build


def split(*sizes: int) -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        graph = Graph(*IMAGE)
        y = graph.add("Split", "x", graph.value(np.array(sizes)), outputs=len(sizes), axis=1)
        return model_of(graph, y, *(f"{y}.{i}" for i in range(1, len(sizes))))

    return build


def concat(axis: int, *, relu: bool = False, outputs: bool = False) -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        graph = Graph(*IMAGE)
        parts = [graph.conv("x", 4, 4, 3), graph.conv("x", 4, 5 if axis == 1 else 4, 1)]
        parts = [graph.add("Relu", part) for part in parts] if relu else parts
        return model_of(graph, graph.add("Concat", *parts, axis=axis), *(parts[1:] if outputs else ()))

    return build


def resize(
    mode: str, coordinates: str, nearest: str = "floor", scale: float = 2, shape: tuple[int, ...] = IMAGE
) -> Callable[[], onnx.ModelProto]:
    scales, way = np.array([1, 1, scale, scale], np.float32), {"coordinate_transformation_mode": coordinates}
    return single("Resize", None, scales, shape=shape, mode=mode, nearest_mode=nearest, **way)


def batch_norm() -> onnx.ModelProto:
    graph = Graph(*IMAGE)
    variance = graph.value(graph.draw.uniform(0.3, 1, 4).astype(np.float32))
    return model_of(
        graph, graph.add("BatchNormalization", "x", graph.constant(4), graph.constant(4), graph.constant(4), variance)
    )


def one_dimensional() -> onnx.ModelProto:
    graph = Graph(1, 4, 12)
    y = graph.add("Conv", "x", graph.constant(6, 4, 3), graph.constant(6), pads=[1, 1])
    y = graph.add("Relu", y)
    y = graph.add("Conv", y, graph.constant(5, 6, 5), pads=[2, 2], strides=[2])
    y = graph.add("MaxPool", y, kernel_shape=[2], strides=[2])
    return model_of(graph, graph.add("Gemm", graph.add("Flatten", y), graph.constant(15, 3)))


def shared_flatten() -> onnx.ModelProto:
    """A flattened image that a fully connected layer reads, and the output, which wants ONNX's order."""
    graph = Graph(*IMAGE)
    image = graph.conv("x", 4, 5, 3)
    dense = graph.add("Gemm", graph.add("Flatten", image), graph.constant(360, 6))
    return model_of(graph, dense, graph.add("Flatten", image))


def shared_matrix(first: dict[str, Any], second: dict[str, Any], shape: tuple[int, int] = (16, 16)) -> onnx.ModelProto:
    """Two fully connected layers that read one matrix, each in its own way."""
    graph = Graph(1, 16)
    weight = graph.constant(*shape)
    return model_of(graph, graph.add("Gemm", graph.add("Relu", graph.add("Gemm", "x", weight, **first)), weight, **second))


def nothing_left() -> onnx.ModelProto:
    """What is always 0, and a layer that reads it."""
    graph = Graph(*IMAGE)
    y = graph.conv("x", 4, 4, 3)
    nothing = graph.add("Sub", y, y)
    return model_of(graph, nothing, graph.conv(nothing, 4, 3, 3))


def clamped_flatten() -> onnx.ModelProto:
    graph = Graph(*IMAGE)
    flat = graph.add("Flatten", graph.conv("x", 4, 5, 3))
    dense = [graph.add("Gemm", tensor, graph.constant(360, 6)) for tensor in (flat, graph.add("Relu", flat))]
    return model_of(graph, *dense)


def matrices() -> onnx.ModelProto:
    graph = Graph(1, 5, 20)
    return model_of(graph, graph.add("MatMul", "x", graph.add("Transpose", "x", perm=[0, 2, 1])))


def square() -> onnx.ModelProto:
    """Two views of one tensor that differ in nothing but what their axes are."""
    graph = Graph(1, 8, 8)
    return model_of(graph, graph.add("MatMul", "x", graph.add("Transpose", "x", perm=[0, 2, 1])))


def turned() -> onnx.ModelProto:
    graph = Graph(1, 6, 6, 6)
    orders = [graph.add("Transpose", "x", perm=[0, *order]) for order in ((3, 1, 2), (2, 3, 1), (1, 3, 2))]
    return model_of(graph, graph.add("Concat", *orders, axis=1))


def rows() -> onnx.ModelProto:
    """A matrix product over the last axis, then a convolution over what ONNX transposed."""
    graph = Graph(1, 4, 8)
    y = graph.add("Transpose", graph.add("MatMul", "x", graph.constant(8, 6)), perm=[0, 2, 1])
    return model_of(graph, graph.add("Conv", y, graph.constant(3, 6, 3)))


def squared(shape: tuple[int, ...]) -> Callable[[], onnx.ModelProto]:
    """Matrices of many axes times themselves transposed."""

    def build() -> onnx.ModelProto:
        graph, rank = Graph(*shape), len(shape)
        return model_of(
            graph, graph.add("MatMul", "x", graph.add("Transpose", "x", perm=[*range(rank - 2), rank - 1, rank - 2]))
        )

    return build


def both(op: str) -> Callable[[], onnx.ModelProto]:
    """The larger or the smaller of two tensors of five axes, neither a constant."""

    def build() -> onnx.ModelProto:
        graph = Graph(*FIVE)
        return model_of(graph, graph.add(op, "x", graph.add("HardSwish", "x")))

    return build


def products(*shape: int) -> onnx.ModelProto:
    """Two matrix products over the last axis with a residual sum, as transformers have them, and what moves their result."""
    graph, last = Graph(*shape), shape[-1]
    wide = graph.add("Add", graph.add("MatMul", "x", graph.constant(last, 12)), graph.constant(12))
    y = graph.add("Add", "x", graph.add("MatMul", graph.add("HardSwish", wide), graph.constant(12, last)))
    turned = graph.add("Transpose", y, perm=[0, len(shape) - 1, *range(1, len(shape) - 1)])
    return model_of(graph, y, graph.add("Relu", turned))


def channels_last() -> onnx.ModelProto:
    graph = Graph(1, 9, 8, 4)
    return model_of(graph, graph.conv(graph.add("Transpose", "x", perm=[0, 3, 1, 2]), 4, 6))


def summed() -> onnx.ModelProto:
    graph = Graph(*IMAGE)
    return model_of(graph, graph.add("Sum", "x", graph.conv("x", 4, 4, 3), graph.conv("x", 4, 4, 1)))


HALF = {"kernel_shape": [2, 2], "strides": [2, 2]}
WIDE = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
APART = {"kernel_shape": [2, 2], "strides": [3, 3], "pads": [1, 1, 1, 1], "ceil_mode": 1}
CASES: dict[str, Callable[[], onnx.ModelProto]] = {
    "conv": convolution(6, 3),
    "conv, relu": convolution(6, 3, then="Relu"),
    "conv, stride 2": convolution(6, 3, strides=[2, 2]),
    "conv 1x1": convolution(6, 1),
    "conv, no padding": convolution(6, 3, pads=[0] * 4),
    "conv, dilated": convolution(6, 3, dilations=[2, 2], pads=[2] * 4),
    "conv, uneven padding": convolution(6, 3, pads=[0, 1, 2, 1]),
    "conv, padding wider than the kernel": convolution(6, 2, pads=[5, 4, 3, 6]),
    "conv, two groups": convolution(6, 3, group=2),
    "depthwise": convolution(4, 3, group=4),
    "depthwise, multiplier 2": convolution(8, 3, group=4, strides=[2, 2], then="Relu"),
    "one-dimensional": one_dimensional,
    "transposed conv": transposed(2, strides=[2, 2]),
    "transposed conv, cropped": transposed(4, strides=[2, 2], pads=[1] * 4),
    "transposed conv, output padding": transposed(3, strides=[2, 2], pads=[1] * 4, output_padding=[1, 1]),
    "transposed conv, padded beyond its windows": transposed(3, strides=[2, 2], output_padding=[1, 1]),
    "transposed conv, cropped by more than windows share": transposed(2, strides=[2, 2], pads=[1] * 4),
    "transposed conv, narrower than its stride": transposed(1, strides=[1, 3]),
    "gemm": gemm(),
    "gemm, by rows": gemm(transB=1),
    "gemm, alpha and beta": gemm(transB=1, alpha=0.5, beta=2.0),
    "matmul": single("MatMul", np.random.default_rng(0).normal(size=(20, 7)).astype(np.float32), shape=(1, 5, 20)),
    "matmul of data": matrices,
    "matmul of a square and its transpose": square,
    "Concat of three orders of a cube": turned,
    "matmul, transpose, conv": rows,
    "transpose, conv": channels_last,
    **{
        f"{op}, {len(shape)} axes": joined(op, shape)
        for op in ("Add", "Sub", "Mul", "Max", "Min")
        for shape in (IMAGE, (4, 1, 1))
    },
    "Mul by one channel": joined("Mul", (1, 1, 9, 8)),
    "Mul by a row": joined("Mul", (8,)),
    **{f"{op}, constant": with_constant(op) for op in ("Add", "Sub", "Mul", "Div")},
    **{f"{op}, constant channels": with_constant(op, 4, 1, 1) for op in ("Add", "Sub", "Mul", "Div")},
    **{f"{op}, constant image": with_constant(op, 4, 9, 8) for op in ("Add", "Sub", "Mul", "Div")},
    "Div of two": quotient,
    "Div by channels": lambda: quotient(1, 4, 1, 1),
    "Sub from constant channels": with_constant("Sub", 4, 1, 1, first=True),
    "batch norm": batch_norm,
    "Relu": single("Relu"),
    "Clip": single("Clip", np.float32(-0.3), np.float32(0.8)),
    "Sigmoid": single("Sigmoid"),
    "Tanh": single("Tanh"),
    "HardSigmoid": single("HardSigmoid"),
    "HardSigmoid, 1/6": single("HardSigmoid", alpha=1 / 6),
    "HardSigmoid from 0": single("HardSigmoid", alpha=0.5, beta=0.0),
    "HardSigmoid from below 0": single("HardSigmoid", alpha=1.0, beta=-0.5),
    "HardSigmoid from above 1": single("HardSigmoid", alpha=1.0, beta=2.0),
    "HardSigmoid falling from above 1": single("HardSigmoid", alpha=-0.7, beta=1.5),
    "HardSigmoid, flat": single("HardSigmoid", alpha=0.0, beta=0.7),
    "HardSwish": single("HardSwish"),
    "LeakyRelu": single("LeakyRelu", alpha=0.1),
    "Elu": single("Elu"),
    "PRelu": single("PRelu", np.float32([0.1, 0.4, 0.2, 0.3]).reshape(4, 1, 1)),
    "Abs": single("Abs"),
    "Neg": single("Neg"),
    "square": single("Pow", np.float32(2)),
    "Softmax over channels": single("Softmax", axis=1),
    "Softmax over width": single("Softmax", axis=3),
    "LogSoftmax": single("LogSoftmax", shape=(1, 10)),
    "MaxPool": single("MaxPool", **HALF),
    "MaxPool, padded": single("MaxPool", **WIDE, strides=[2, 2]),
    "MaxPool, rounded up": single("MaxPool", **HALF, ceil_mode=1),
    "MaxPool, rounded up, none in the padding": single("MaxPool", **APART, shape=(1, 4, 8, 8)),
    "AveragePool": single("AveragePool", **HALF),
    "AveragePool, padded": single("AveragePool", **WIDE),
    "AveragePool, padded widely": single("AveragePool", kernel_shape=[7, 7], pads=[3] * 4),
    "AveragePool, padding counted": single("AveragePool", **WIDE, count_include_pad=1),
    "AveragePool, padding counted, rounded up": single(
        "AveragePool", **WIDE, strides=[2, 2], ceil_mode=1, count_include_pad=1, shape=(1, 4, 8, 10)
    ),
    "AveragePool, rounded up, padding counted": single("AveragePool", **APART, count_include_pad=1, shape=(1, 4, 8, 8)),
    "GlobalAveragePool": single("GlobalAveragePool"),
    "GlobalMaxPool": single("GlobalMaxPool"),
    "ReduceMean of space": single("ReduceMean", axes=[2, 3], keepdims=0),
    "ReduceMean of channels": single("ReduceMean", axes=[1]),
    "ReduceMax": single("ReduceMax", axes=[2]),
    "ReduceSum": single("ReduceSum", np.array([2, 3])),
    "Sum": summed,
    "Sub of itself": nothing_left,
    "Concat of channels": concat(1),
    "Concat of clamped channels": concat(1, relu=True),
    "Concat of rows": concat(2),
    "Concat of what goes elsewhere too": concat(2, outputs=True),
    "Pad": single("Pad", np.array([0, 0, 1, 2, 0, 0, 0, 1])),
    "Pad of channels": single("Pad", np.array([0, 2, 0, 0, 0, 1, 0, 0])),
    "Pad of one channel": single("Pad", np.array([0, 1, 0, 0, 0, 1, 0, 0]), shape=(1, 1, 6, 6)),
    "Pad by a number": single("Pad", np.array([0, 0, 1, 1, 0, 0, 1, 1]), np.float32(0.5)),
    "Pad by reflection": single("Pad", np.array([0, 0, 1, 1, 0, 0, 1, 1]), mode="reflect"),
    "Resize, asymmetric": resize("nearest", "asymmetric"),
    "Resize, half pixel": resize("nearest", "half_pixel", "round_prefer_floor"),
    "Resize, lower": resize("nearest", "asymmetric", scale=0.5, shape=(1, 4, 8, 6)),
    "Resize, linear, lower": resize("linear", "asymmetric", scale=0.5, shape=(1, 4, 8, 6)),
    "Resize, aligned": resize("nearest", "align_corners", "round_prefer_floor"),
    **{f"Resize, linear, {mode}": resize("linear", mode) for mode in ("asymmetric", "half_pixel", "align_corners")},
    "Transpose": single("Transpose", perm=[0, 3, 1, 2]),
    "Slice": single("Slice", np.array([1, 1]), np.array([3, 8]), np.array([1, 2])),
    "Slice of every second": single("Slice", np.array([0, 0]), np.array([9, 8]), np.array([2, 3]), np.array([2, 2])),
    "Slice backwards": single("Slice", np.array([-1]), np.array([-100]), np.array([3]), np.array([-1])),
    "Split": split(2, 2),
    "Split, uneven": split(1, 3),
    "Gather": single("Gather", np.array([3, 0, 1]), axis=1),
    "Gather of one": single("Gather", np.array(2), axis=1),
    "Gather the only channel again": single("Gather", np.array([0, 0]), shape=(1, 1, 9, 8), axis=1),
    "DepthToSpace": single("DepthToSpace", shape=(1, 12, 3, 4), blocksize=2),
    "DepthToSpace, CRD": single("DepthToSpace", shape=(1, 12, 3, 4), blocksize=2, mode="CRD"),
    "SpaceToDepth": single("SpaceToDepth", shape=(1, 3, 4, 6), blocksize=2),
    "Reshape to a row": single("Reshape", np.array([1, -1])),
    "Reshape of space": single("Reshape", np.array([1, 4, -1])),
    "Reshape of channels": single("Reshape", np.array([1, 2, 2, 9, 8])),
    "Flatten for two readers": shared_flatten,
    "Flatten, clamp, two layers": clamped_flatten,
    "Gemm, a matrix of two": lambda: shared_matrix({}, {}),
    "Gemm, a matrix of two, once by rows": lambda: shared_matrix({}, {"transB": 1}),
    "Gemm, a matrix of two, first by rows": lambda: shared_matrix({"transB": 1}, {}),
    "Gemm, a matrix of two, tied": lambda: shared_matrix({}, {"transB": 1}, (16, 8)),
    "Gemm, a matrix of two, once scaled": lambda: shared_matrix({}, {"alpha": 0.25}),
    "Squeeze": single("Squeeze", np.array([2]), shape=(1, 4, 1, 8)),
    "Unsqueeze": single("Unsqueeze", np.array([2]), shape=(1, 4, 8)),
}
#: Where a convolution's step is wider than the output's, its differences count several; LogSoftmax is an approximation.
TWO_STEPS = {"LogSoftmax", "Resize, linear, align_corners"} | {
    name for name in CASES if name.startswith(("Max,", "Min,", "Mul"))
}
#: What is rounded once, or not at all, and so hardly differs.
EXACT = {
    name for name in CASES if name.startswith(("conv", "Pad", "Slice", "Split", "Gather", "Reshape", "MaxPool", "Sub,"))
} | {
    "Relu",
    "Sigmoid",
    "Softmax over channels",
    "Transpose",
    "DepthToSpace, CRD",
    "AveragePool",
    "batch norm",
}


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("name", CASES)
def test_an_operator_computes_what_onnxruntime_computes(name: str, once: Once) -> None:
    for found in differences(case(once, name)[0]):
        assert found.max_lsb <= (2 if name in TWO_STEPS else 1), found
        assert found.exact >= (0.98 if name in EXACT else 0.3), found


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("name", [name for name in blocks.BLOCKS if name != "group norm"])  # the runtime has no kernel for it
def test_a_block_computes_what_onnxruntime_computes(name: str, tmp_path: Path) -> None:
    model = onnx.load_from_string(blocks.exported(name, "torchscript"))
    for found in differences(int8(model, tmp_path / "net.onnx")):
        assert found.max_lsb <= 2, found
        assert found.exact >= 0.6, found


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("op", sorted(name for name, entry in ops.OPS.items() if entry.int8 in qdq.FIXED))
def test_steps_that_a_kernel_fixes_are_those_of_the_onnx_file(op: str, tmp_path: Path) -> None:
    """Small numbers in, so that their own range would have finer steps: the file on the chip would be less exact than ours."""
    graph = Graph(1, 10)
    y = graph.add(op, graph.add("Mul", "x", graph.value(np.float32(0.01))))
    path = int8(model_of(graph, y), tmp_path / "net.onnx")
    (output,) = converted(path).outputs
    assert output.quantizer == qdq.FIXED[ops.OPS[op].int8]
    assert "QUANTIZE" not in operators(path)
    (found,) = differences(path)
    assert found.max_lsb <= 1


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("shape", [(8,), (8, 1, 1)], ids=["row", "channels"])
@pytest.mark.parametrize(
    ("op", "place", "large"), [("Add", 1, 300.0), ("Sub", 1, -300.0), ("Sub", 0, 300.0), ("Add", 1, -1e9), ("Add", 1, -np.inf)]
)
def test_a_float_constant_that_saturates_the_output_leaves_small_ones_their_steps(
    op: str, place: int, large: float, shape: tuple[int, ...], tmp_path: Path
) -> None:
    """In a file that another tool has quantised: the constant is a float there, and a mask may be a part of it."""
    graph = Graph(1, 8, 6, 8)

    def rounded(x: str, scale: float, zero: int) -> str:
        parameters = graph.value(np.array(scale, np.float32)), graph.value(np.array(zero, np.int8))
        return graph.add("DequantizeLinear", graph.add("QuantizeLinear", x, *parameters), *parameters)

    numbers = np.array([large, 0.1, 0.2, -0.3, 0.5, 1, 0.01, 0.7], np.float32).reshape(shape)
    operands = [rounded("x", 0.02, 5)]
    operands.insert(place, graph.value(numbers))
    path = str(tmp_path / "net.onnx")
    onnx.save(model_of(graph, rounded(graph.add(op, *operands), 0.02, -20)), path)
    for found in differences(path, 5):
        assert found.max_lsb <= 2, found


# ----------------------------------------------------------------------------------------------------- what is written


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("conv", ["CONV_2D"]),
        ("conv, stride 2", ["PAD", "CONV_2D"]),
        ("conv, uneven padding", ["PAD", "CONV_2D"]),
        ("conv, two groups", ["CONV_2D"]),
        ("conv, relu", ["CONV_2D"]),
        ("depthwise", ["DEPTHWISE_CONV_2D"]),
        ("transposed conv, cropped", ["TRANSPOSE_CONV"]),
        ("transposed conv, output padding", ["TRANSPOSE_CONV", "SLICE"]),
        ("transpose, conv", ["CONV_2D"]),
        ("Transpose", []),
        ("MaxPool, padded", ["PADV2", "MAX_POOL_2D"]),
        ("batch norm", ["DEPTHWISE_CONV_2D"]),
        ("HardSigmoid", ["MUL", "ADD"]),
        ("HardSigmoid from 0", ["MUL"]),
        ("Concat of rows", ["CONV_2D", "CONV_2D", "CONCATENATION"]),
        ("Concat of what goes elsewhere too", ["CONV_2D", "CONV_2D", "QUANTIZE", "CONCATENATION"]),
        ("Tanh", ["TANH"]),
        ("Sigmoid", ["LOGISTIC"]),
        ("LogSoftmax", ["LOG_SOFTMAX"]),
    ],
)
def test_operators_written(name: str, wanted: list[str], once: Once) -> None:
    assert [operator for operator, _ in case(once, name)[1].operators] == wanted


def test_the_format_agrees_with_the_schema() -> None:
    schema = pytest.importorskip("tflite_micro.tensorflow.lite.micro.python.schema_py_generated")
    for name, kernel in kernels.KERNELS.items():
        options = kernel.table
        assert getattr(schema.BuiltinOperator, name) == kernel.code
        assert not options or getattr(schema.BuiltinOptions, f"{options}Options") == kernels.OPTIONS[options][0]
        for field, (slot, _) in kernels.OPTIONS[options][1].items() if options else ():
            camel = {
                "stride": "Stride",
                "fused": "FusedActivationFunction",
                "block": "BlockSize",
                "multiplier": "DepthMultiplier",
            }
            written = camel.get(field) or "".join(part.capitalize() for part in field.split("_"))
            written = {"FilterW": "FilterWidth", "FilterH": "FilterHeight"}.get(written, written)
            written = {"DilationW": "DilationWFactor", "DilationH": "DilationHFactor"}.get(written, written)
            assert slot_of(schema, f"{options}Options", written) == slot, (options, field)


@pytest.mark.parametrize("name", CASES)
def test_every_operator_has_its_table_of_options_even_an_empty_one(name: str, once: Once) -> None:
    """Where the schema has a table for it, of whatever name."""
    schema = pytest.importorskip("tflite_micro.tensorflow.lite.micro.python.schema_py_generated")
    content = case(once, name)[1].content
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(bytearray(content), 0))
    words = {value: word for word, value in vars(schema.BuiltinOperator).items() if not word.startswith("_")}
    own = {"MAXIMUM": "MaximumMinimum", "MINIMUM": "MaximumMinimum", "AVERAGE_POOL_2D": "Pool2D", "MAX_POOL_2D": "Pool2D"}
    for operator in model.subgraphs[0].operators:
        word = words[model.operatorCodes[operator.opcodeIndex].builtinCode]
        reduces = word in ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN")
        wanted = "Reducer" if reduces else own.get(word, word.replace("_", ""))
        known = {options.removesuffix("Options").lower() for options in vars(schema.BuiltinOptions)}
        found = type(operator.builtinOptions).__name__.removesuffix("OptionsT")
        assert found.lower() == (wanted.lower() if wanted.lower() in known else "nonetype"), word


def slot_of(schema: Any, table: str, field: str) -> int:
    """The id that the generated code writes a field under."""
    seen: list[int] = []

    class Builder:
        def __getattr__(self, name: str) -> Any:
            return lambda slot, *rest: seen.append(slot)

    getattr(schema, f"{table}Add{field}")(Builder(), 0)
    return seen[0]


def test_stored_integers_are_written_as_they_are(tmp_path: Path) -> None:
    schema = pytest.importorskip("tflite_micro.tensorflow.lite.micro.python.schema_py_generated")
    path = int8(CASES["conv, relu"](), tmp_path / "net.onnx")
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(bytearray(converted(path).content), 0))
    graph = model.subgraphs[0]
    weight, bias = (graph.tensors[index] for index in graph.operators[0].inputs[1:])
    stored = tflite.stored_constants(onnx.load(path)).values()
    wanted = next(value for value in stored if value.integers.ndim == 4)
    written = np.frombuffer(bytes(model.buffers[weight.buffer].data), np.int8).reshape(weight.shape)
    assert np.array_equal(written.transpose(0, 3, 1, 2), wanted.integers)
    assert np.array_equal(weight.quantization.scale, wanted.scale)
    wanted = next(value for value in stored if value.integers.dtype == np.int32)
    assert np.array_equal(np.frombuffer(bytes(model.buffers[bias.buffer].data), np.int32), wanted.integers)
    assert graph.operators[0].builtinOptions.fusedActivationFunction == schema.ActivationFunctionType.RELU
    assert model.buffers[0].data is None


def test_the_same_file_twice_is_the_same_bytes(tmp_path: Path) -> None:
    path = int8(CASES["conv, stride 2"](), tmp_path / "net.onnx")
    assert converted(path).content == converted(path).content


def test_a_port_brings_data_there_and_back() -> None:
    port = Port("x", (1, 3, 1, 5), (None, None, 3, 1), export.Quantizer(1.0, 0))
    x = np.arange(15).reshape(1, 3, 1, 5)
    assert port.to_tflite(x).shape == (1, 1, 5, 3)
    assert np.array_equal(port.to_tflite(x)[0, 0, 2], x[0, :, 0, 2])
    assert np.array_equal(port.to_onnx(port.to_tflite(x)), x)


# ------------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (single("Exp"), "node 'exp0': Exp has no int8 operator"),
        (single("LpNormalization", axis=1), "no int8 operator.*BatchNormalization"),
        (single("AveragePool", **WIDE, strides=[2, 2], shape=(1, 4, 8, 8)), "without counting its padding"),
        (single("AveragePool", **WIDE, strides=[2, 2], ceil_mode=1, count_include_pad=1), "counts its padding.*ceil_mode"),
        (resize("nearest", "half_pixel", "floor"), "other pixels"),
        # samples are 1 / 1.3 apart; TensorFlow Lite has them as far apart as the two sizes say
        (resize("linear", "asymmetric", scale=1.3), "other pixels"),
        (transposed(3, dilations=[2, 2]), "dilated"),
        (single("Pow", np.float32(3)), "other than a square"),
        (single("HardSigmoid", beta=5000.0), "one step of its data takes it from 0 to 1"),
        (single("MaxPool", kernel_shape=[2, 2], dilations=[2, 2]), "dilated"),
    ],
)
def test_what_tflite_cannot_say_names_its_node(build: Callable[[], onnx.ModelProto], message: str, tmp_path: Path) -> None:
    path = int8(build(), tmp_path / "net.onnx")
    with pytest.raises(UnsupportedOperator, match=message) as raised:
        converted(path)
    assert str(path) in str(raised.value)
    assert re.search(r"': .*; .", str(raised.value)), "what to do"


FIVE, SIX = (1, 2, 3, 4, 3), (1, 2, 3, 2, 2, 3)


def averaged(finer: float) -> onnx.ModelProto:
    """Somebody else's file: an average that leaves its padding out, whose output has so much finer steps than its input."""
    graph, zero = Graph(1, 4, 7, 9), np.int8(0)
    x = "x"
    for scale in (0.1, 0.1 / finer):
        stored = graph.add("QuantizeLinear", x, graph.value(np.float32(scale)), graph.value(zero))
        x = graph.add("DequantizeLinear", stored, graph.value(np.float32(scale)), graph.value(zero))
        x = graph.add("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1]) if scale == 0.1 else x
    return model_of(graph, x)


@pytest.mark.thorough
@pytest.mark.parametrize("finer", [1.5, 4, 4.5, 30])
def test_an_average_that_a_kernel_rounds_too_coarsely_is_refused(finer: float, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(averaged(finer), path)
    if finer > 4:
        with pytest.raises(UnsupportedOperator, match=rf"node 'averagepool2': .* that are {finer} times those of the output"):
            tflite.from_file(path)
    else:
        assert verify.verify(path, Trial(examples=30)).ok


@pytest.mark.parametrize(
    ("build", "most", "node"),
    [
        (single("Slice", np.array([0]), np.array([9]), np.array([4]), np.array([2]), shape=FIVE), 4, "slice0"),
        (single("Slice", np.array([1]), np.array([3]), np.array([2]), shape=SIX), 5, "slice0"),
        (single("Pad", np.array([0, 1, 0, 0, 0, 0] + [0] * 6), shape=SIX), 5, "pad0"),
        (single("Pad", np.array([0, 1, 0, 0, 0, 0] + [0] * 6), np.float32(0.5), shape=SIX), 5, "pad0"),
        (squared(FIVE), 4, "matmul1"),
        (both("Max"), 4, "max1"),
        (both("Min"), 4, "min1"),
    ],
)
def test_more_dimensions_than_a_kernel_takes_are_for_c_alone(build: Any, most: int, node: str, tmp_path: Path) -> None:
    path = int8(build(), tmp_path / "net.onnx")
    with pytest.raises(UnsupportedOperator, match=f"node '{node}'.* dimensions; .* takes {most} at most: export .c"):
        tflite.from_file(path)
    found = verify.verify(path, Trial(examples=3))
    assert found.ok
    assert [compared.key for compared in found.runtimes] == ["c"]
    assert any("not run as TensorFlow Lite Micro" in note for note in found.notes)
    said = without_kernels(resources.profile(network.from_proto(build(), "net.onnx", accept=ops.accept("net.onnx"))))
    assert re.match(rf"no .tflite can be written: node '{node}'.* takes {most} at most: export .c", said)
    assert list(exporting.export(exporting.Request(path, str(tmp_path / "net.c"))).arena) == ["c"]


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("op", ["Tanh", "LogSoftmax", "Sigmoid"])
@pytest.mark.parametrize("value", [5.0, 0.0])
def test_a_pad_beyond_fixed_steps_is_no_part_of_them(op: str, value: float, tmp_path: Path) -> None:
    graph = Graph(1, 3, 6, 6)
    made = graph.add(op, graph.conv("x", 3, 4), **({"axis": 1} if op == "LogSoftmax" else {}))
    padded = graph.add("Pad", made, graph.value(np.array([0, 0, 1, 1, 0, 0, 1, 1])), graph.value(np.float32(value)))
    path = int8(model_of(graph, graph.conv(padded, 4, 3)), tmp_path / "net.onnx")
    assert ("QUANTIZE" in operators(path)) == (value == 5)
    for found in differences(path) if op != "LogSoftmax" else ():  # whose coarse steps add up in the convolution behind it
        assert found.max_lsb <= 2


@pytest.mark.usefixtures("in_process")
def test_a_flattened_column_is_no_row_of_a_matrix(tmp_path: Path) -> None:
    graph = Graph(1, 3, 4, 4)
    column = graph.add("Reshape", graph.conv("x", 3, 4), graph.value(np.array([1, 64, 1])))
    path = int8(model_of(graph, graph.add("MatMul", column, graph.constant(1, 5))), tmp_path / "net.onnx")
    for found in differences(path):
        assert found.max_lsb <= 1


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("depth", thorough_but([8, 6], 8))
@pytest.mark.parametrize("axes", thorough_but(["", "7", "3 5", "2 1", "2 3 4", "1 3 4", "2 1 3 2"], "7", "3 5", "2 3 4"))
def test_a_product_of_rows_has_two_dimensions_or_is_a_convolution(axes: str, depth: int, tmp_path: Path) -> None:
    """CMSIS-NN breaks off at more where 4 divides the depth and assertions are compiled in, and at five in any build."""
    path = int8(products(1, *map(int, axes.split()), depth), tmp_path / "net.onnx")
    program = converted(path).program
    if len(axes.split()) == 1:  # none between the products; one for the sum, whose other operand has three dimensions
        assert [operator.name for operator in program.operators].count("RESHAPE") <= 2
    for operator in program.operators:
        shapes = [program.tensors[tensor].shape for tensor in operator.outputs]
        assert operator.name != "FULLY_CONNECTED" or all(len(shape) == 2 for shape in shapes)
    found = verify.verify(path, Trial(examples=10))
    assert found.ok
    assert all(layer.max_lsb <= 1 for compared in found.runtimes for layer in compared.layers)


def test_quotients_that_reach_far_are_for_c_alone(tmp_path: Path) -> None:
    """Which is known as soon as their ranges are measured, and no sooner: nothing is said of the float network."""
    path = int8(quotient(above=0.01), tmp_path / "net.onnx")
    with pytest.raises(UnsupportedOperator, match=r"node 'div\d': DIV of these ranges shifts .*: export \.c, or keep"):
        tflite.from_file(path)
    found = verify.verify(path, Trial(examples=3))
    assert [compared.key for compared in found.runtimes] == ["c"]
    assert all(layer.max_lsb <= 1 for compared in found.runtimes for layer in compared.layers)
    asked = exporting.Request(path, str(tmp_path / "net.tflite"))
    with pytest.raises(UnsupportedOperator, match="DIV of these ranges"):
        exporting.export(asked)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.onnx"]
    assert list(exporting.export(replace(asked, output=str(tmp_path / "net.c"))).arena) == ["c"]
    for model, known in ((quotient(above=0.01), False), (onnx.load(path), True)):
        said = without_kernels(resources.profile(network.from_proto(model, "net.onnx", accept=ops.accept("net.onnx"))))
        assert ("no .tflite can be written" in said) == known
    file = ["--flash-model", "file", "--flash", "1MB"]
    assert cli.main(["check", path, "--sram-model", "tflm", "--sram", "1MB"]) == cli.main(["check", path, *file]) == 2
    assert cli.main(["check", path, *file, "--runtime", "c"]) == 0


@pytest.mark.parametrize(
    "build",
    [
        single("Slice", np.array([1]), np.array([3]), np.array([2]), shape=FIVE),
        pytest.param(single("Pad", np.array([0, 1, 0, 0, 0] + [0] * 5), shape=FIVE), marks=pytest.mark.thorough),
        pytest.param(squared(FIVE[:3] + FIVE[4:]), marks=pytest.mark.thorough),
    ],
)
def test_as_many_dimensions_as_a_kernel_takes_are_written(build: Any, tmp_path: Path) -> None:
    assert verify.verify(int8(build(), tmp_path / "net.onnx"), Trial(examples=3)).runtimes[0].key == "tflm"


def _image(front: Callable[[Graph], str], *shape: int) -> Callable[[], onnx.ModelProto]:
    """Something in front of a convolution that wants its image the other way."""

    def build() -> onnx.ModelProto:
        g = Graph(*shape)
        y = g.add("Relu", g.conv(g.add("Transpose", front(g), perm=[0, 3, 1, 2]), 3, 4))
        return model_of(g, g.add("Gemm", g.add("Flatten", g.add("GlobalAveragePool", y)), g.constant(4, 5), g.constant(5)))

    return build


def _of_both() -> onnx.ModelProto:
    g = Graph(1, 10, 7, 3)
    y = g.add("Relu", g.conv(g.add("Transpose", "x", perm=[0, 3, 1, 2]), 3, 4))
    means = g.add("ReduceMean", "x", axes=[1, 2], keepdims=0)
    return model_of(g, g.add("Concat", g.add("Flatten", g.add("GlobalAveragePool", y)), means, axis=1))


def _of_rows() -> onnx.ModelProto:
    g = Graph(1, 8, 16)
    y = g.add("Add", g.add("MatMul", "x", g.constant(16, 12)), g.constant(12))
    return model_of(g, g.add("Softmax", g.add("MatMul", g.add("Relu", y), g.constant(12, 4)), axis=2))


def _rescaled(g: Graph) -> str:
    return g.add("Sub", g.add("Mul", "x", g.value(np.float32(2 / 255))), g.value(np.array([1, 0.5, 2], np.float32)))


#: Networks whose input is read as it lies in ONNX's order.
AS_FED: dict[str, Callable[[], onnx.ModelProto]] = {
    "rescaled": _image(_rescaled, 1, 10, 7, 3),
    "clipped": _image(lambda g: g.add("Clip", "x", g.value(np.float32(-1)), g.value(np.float32(1))), 1, 10, 7, 3),
    "padded": _image(lambda g: g.add("Pad", "x", g.value(np.array([0, 1, 1, 0, 0, 1, 1, 0]))), 1, 10, 7, 3),
    "cut": _image(
        lambda g: g.add("Slice", "x", g.value(np.array([2])), g.value(np.array([9])), g.value(np.array([1]))), 1, 10, 7, 3
    ),
    "two readers": _of_both,
    "rows": _of_rows,
}


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("name", thorough_but(AS_FED, "rescaled", "two readers", "rows"))
def test_an_input_stays_as_it_is_fed(name: str, tmp_path: Path) -> None:
    """What stands in front of a Transpose and works number by number says nothing of where channels lie."""
    path = int8(AS_FED[name](), tmp_path / "net.onnx")
    net = converted(path)
    (port,) = net.inputs
    ordered = [axis for axis in port.axes if axis is not None]
    assert ordered == sorted(ordered)
    assert "TRANSPOSE" not in operators(path)
    assert verify.verify(path, Trial(examples=30)).ok


def test_a_long_way_to_the_first_layer_is_looked_along_once() -> None:
    """Each of the sums reads the one before twice: by ways there are 2 to the power of 1,500."""
    g = Graph(1, 8, 8, 3)
    y = "x"
    for _ in range(1500):
        y = g.add("Add", y, y)
    net = network.from_proto(model_of(g, g.conv(g.add("Transpose", y, perm=[0, 3, 1, 2]), 3, 4)), "net.onnx")
    assert [axis for axis in lower(net).inputs[0].axes if axis is not None] == [1, 2, 3]


def test_a_float_model_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "net.onnx")
    onnx.save(CASES["conv"](), path)
    with pytest.raises(ModelError, match="prune without --float"):
        converted(path)


def test_dividing_by_one_number_is_a_product_which_every_runtime_has(once: Once) -> None:
    assert [operator for operator, _ in case(once, "Div, constant")[1].operators] == ["MUL"]
