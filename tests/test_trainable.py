"""The torch module computes what onnxruntime does, every weight of it trains, and gates are cuts."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import blocks
import numpy as np
import onnx
import pytest
import torch
from conftest import CORPUS_SHAPES, Once, corpus, difference, random_selection, run
from forked import Done, forked
from onnx import TensorProto, helper, numpy_helper

from mcuprune.channels.labelling import Channels, label
from mcuprune.errors import UnsupportedOperator
from mcuprune.graph import network
from mcuprune.graph.network import Network
from mcuprune.operators import table as ops
from mcuprune.operators.table import OPS
from mcuprune.train.kernels import OWN
from mcuprune.train.module import Trainable, as_inputs

torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]
MODELS = sorted((ROOT / "models").glob("*.onnx"))
TOLERANCE = 1e-4


def graph(
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, Any],
    shape: Sequence[int],
    *,
    opset: int = 17,
    outputs: Sequence[str] = ("y",),
    dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A model of one input ``x`` (batch, *shape); shapes of outputs are left to inference."""
    made = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", dtype, ["n", *shape])],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def drawn(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def channels_of(model: onnx.ModelProto, name: str = "net.onnx") -> Channels:
    return label(network.from_proto(model, name, accept=ops.accept(name)))


def inputs_of(net: Network, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {name: draw.normal(size=(batch, *net.shapes[name][1:])).astype(np.float32) for name in net.inputs}


def outputs_of(module: Trainable, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    return [value.detach().numpy() for value in module.eval()(*map(torch.from_numpy, inputs.values()))]


def by_example(model: onnx.ModelProto | Network, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """onnxruntime on one example at a time: what any file gives, whatever batch it was made for."""
    batch = len(next(iter(inputs.values())))
    runs = [run(model, {name: value[i : i + 1] for name, value in inputs.items()}) for i in range(batch)]
    return [np.concatenate(parts) for parts in zip(*runs, strict=True)]


def agree(got: list[np.ndarray], want: list[np.ndarray]) -> bool:
    """Equal but for rounding: onnxruntime's Sigmoid is good to 1.3e-7, which is much of an output of 1e-5."""
    return all(np.abs(a - b).max() <= TOLERANCE * np.abs(b).max() + 2e-7 for a, b in zip(got, want, strict=True))


def assert_same(model: onnx.ModelProto, *, batches: Sequence[int] = (1, 3)) -> None:
    channels = channels_of(model)
    module = Trainable(channels)
    for batch in batches:
        inputs = inputs_of(channels.network, batch)
        assert difference(outputs_of(module, inputs), run(model, inputs)) <= TOLERANCE


# ------------------------------------------------------------------------------------------------- one kernel at a time

IMAGE = (4, 9, 11)
KERNEL = drawn(6, 4, 3, 4)


def one(
    op: str, attrs: Mapping[str, Any], shape: Sequence[int] = IMAGE, constants: Sequence[Any] = (), opset: int = 17
) -> onnx.ModelProto:
    """A network of one node whose inputs are ``x`` and constants."""
    names = [f"c{i}" if value is not None else "" for i, value in enumerate(constants)]
    node = helper.make_node(op, ["x", *names], ["y"], name="node", **attrs)
    return graph([node], {f"c{i}": v for i, v in enumerate(constants) if v is not None}, shape, opset=opset)


def resize(
    opset: int = 17, *, scales: Sequence[float] = (), sizes: Sequence[int] = (), shape: Any = IMAGE, **attrs: Any
) -> Any:
    if opset < 11:
        return one("Resize" if opset == 10 else "Upsample", attrs, shape, [np.float32(scales)], opset)
    operands = [None, np.float32(scales)] if scales else [None, None, np.int64(sizes)]
    return one("Resize", attrs, shape, operands, opset)


_T = {"Add": (4, 1, 1), "Mul": (1, 4, 1, 1), "Sub": (4, 9, 11), "Div": (11,), "PRelu": (4, 1, 1), "Max": (1,), "Min": (4, 1, 1)}

_EINSUMS: dict[str, tuple[tuple[int, ...], ...]] = {
    "bchw,dc->bdhw": ((6, 4),),
    "kc,bchw->bkhw": (),
    "bchw,chwd->bd": ((4, 9, 11, 5),),
    "bchw,c->bhw": ((4,),),
    "bchw,hd,we->bcde": ((9, 3), (11, 2)),
    "bchw->bwc": (),
    "bchw,bchw->bh": (),
    "bchw,bdhw->bcd": (),
}


def _einsum(equation: str) -> Any:
    """Operands that ``_EINSUMS`` has no shape for are the data; a leading ``kc`` is a constant."""
    shapes = _EINSUMS[equation]
    names = equation.split("->")[0].split(",")
    constants = {f"c{i}": drawn(*shape) for i, shape in enumerate(shapes)} | {"k": drawn(3, 4)}
    rest = iter(constants)
    inputs = ["k" if term == "kc" else "x" if term[0] == "b" else next(rest) for term in names]
    used = {name: value for name, value in constants.items() if name in inputs}
    return graph([helper.make_node("Einsum", inputs, ["y"], name="node", equation=equation)], used, IMAGE)


CASES: dict[str, Any] = {
    **{f"Einsum {equation}": functools.partial(_einsum, equation) for equation in _EINSUMS},
    "GroupNormalization": lambda: one(
        "GroupNormalization", {"num_groups": 2, "epsilon": 0.1}, IMAGE, [drawn(4), drawn(4)], opset=21
    ),
    "GroupNormalization by group": lambda: one("GroupNormalization", {"num_groups": 2}, IMAGE, [drawn(2), drawn(2)], opset=18),
    "Conv": lambda: one("Conv", {"pads": [1, 2, 1, 2], "strides": [2, 1]}, IMAGE, [KERNEL, drawn(6)]),
    "Conv uneven pads": lambda: one("Conv", {"pads": [1, 0, 2, 3]}, IMAGE, [KERNEL]),
    "Conv dilated": lambda: one("Conv", {"dilations": [2, 3], "pads": [2, 3, 2, 3]}, IMAGE, [KERNEL]),
    "Conv grouped": lambda: one("Conv", {"group": 2}, IMAGE, [drawn(6, 2, 3, 3)]),
    "Conv 1-D": lambda: one("Conv", {"pads": [2, 1], "strides": [2]}, (4, 20), [drawn(6, 4, 5)]),
    "Conv 3-D": lambda: one("Conv", {"pads": [1, 0, 1, 0, 1, 1]}, (2, 5, 6, 7), [drawn(3, 2, 2, 2, 2)]),
    **{
        f"Conv {auto}, stride {stride}, dilation {dilation}": functools.partial(
            one, "Conv", {"auto_pad": auto, "strides": [stride] * 2, "dilations": [dilation] * 2}, IMAGE, [KERNEL, drawn(6)]
        )
        for auto in ("SAME_UPPER", "SAME_LOWER", "VALID")
        for stride, dilation in ((1, 1), (2, 1), (3, 1), (1, 2))
        if not (auto.startswith("SAME") and dilation > 1)  # onnxruntime refuses these
    },
    "ConvTranspose": lambda: one("ConvTranspose", {"strides": [2, 3]}, IMAGE, [drawn(4, 6, 3, 4), drawn(6)]),
    "ConvTranspose pads": lambda: one("ConvTranspose", {"strides": [2, 2], "pads": [1, 0, 2, 1]}, IMAGE, [drawn(4, 6, 3, 4)]),
    "ConvTranspose output_padding": lambda: one(
        "ConvTranspose",
        {"strides": [2, 3], "pads": [1, 1, 1, 1], "output_padding": [1, 2]},
        IMAGE,
        [drawn(4, 6, 3, 3), drawn(6)],
    ),
    "ConvTranspose output_padding beyond": lambda: one(
        "ConvTranspose", {"strides": [3, 3], "output_padding": [2, 2]}, IMAGE, [drawn(4, 6, 2, 2), drawn(6)]
    ),
    "ConvTranspose grouped": lambda: one(
        "ConvTranspose", {"strides": [2, 2], "group": 2, "dilations": [1, 2]}, IMAGE, [drawn(4, 3, 3, 3), drawn(6)]
    ),
    "ConvTranspose depthwise": lambda: one("ConvTranspose", {"group": 4}, IMAGE, [drawn(4, 1, 3, 3)]),
    "ConvTranspose 1-D": lambda: one("ConvTranspose", {"strides": [2], "pads": [1, 1]}, (4, 9), [drawn(4, 5, 4), drawn(5)]),
    **{
        f"ConvTranspose {auto}, kernel {taps}": functools.partial(
            one, "ConvTranspose", {"auto_pad": auto, "strides": [2, 2]}, IMAGE, [drawn(4, 6, taps, taps), drawn(6)]
        )
        for auto in ("SAME_UPPER", "SAME_LOWER", "VALID")
        for taps in (2, 3, 4)
    },
    **{
        f"ConvTranspose output_shape {auto}": functools.partial(
            one,
            "ConvTranspose",
            {"auto_pad": auto, "strides": [2, 2], "output_shape": [18, 22]},
            IMAGE,
            [drawn(4, 6, 3, 3), drawn(6)],
        )
        for auto in ("SAME_UPPER", "SAME_LOWER", "NOTSET")
    },
    "ConvTranspose output_shape, output_padding": lambda: one(
        "ConvTranspose",
        {"strides": [3, 3], "output_shape": [27, 33], "output_padding": [1, 1]},
        IMAGE,
        [drawn(4, 6, 3, 3), drawn(6)],
    ),
    "Gemm": lambda: one("Gemm", {}, (12,), [drawn(12, 5), drawn(5)]),
    "Gemm alpha, beta": lambda: one("Gemm", {"alpha": 0.3, "beta": -2.0, "transB": 1}, (12,), [drawn(5, 12), drawn(1, 5)]),
    "Gemm scalar bias": lambda: one("Gemm", {"beta": 0.5}, (12,), [drawn(12, 5), np.float32(3)]),
    "Gemm no bias": lambda: one("Gemm", {"alpha": 2.0}, (12,), [drawn(12, 5)]),
    "MatMul": lambda: one("MatMul", {}, (12,), [drawn(12, 5)]),
    "MatMul over the last axis": lambda: one("MatMul", {}, (3, 12), [drawn(12, 5)]),
    "MatMul vector": lambda: one("MatMul", {}, (3, 12), [drawn(12)]),
    "MatMul stacked": lambda: one("MatMul", {}, (3, 7, 12), [drawn(3, 12, 5)]),
    **{
        f"{op} {kernel} {name}": functools.partial(one, op, {"kernel_shape": list(kernel), **attrs}, IMAGE)
        for op in ("MaxPool", "AveragePool")
        for kernel in ((3, 3), (2, 4))
        for name, attrs in {
            "plain": {},
            "strided": {"strides": [2, 2]},
            "even pads": {"pads": [1, 1, 1, 1], "strides": [2, 2]},
            "uneven pads": {"pads": [0, 1, 1, 0], "strides": [2, 2]},
            "ceil": {"ceil_mode": 1, "strides": [2, 3]},
            "ceil, pads": {"ceil_mode": 1, "strides": [2, 2], "pads": [1, 1, 1, 1]},
            "ceil, uneven pads": {"ceil_mode": 1, "strides": [3, 2], "pads": [0, 1, 1, 0]},
            "ceil, pads, far apart": {"ceil_mode": 1, "strides": [4, 5], "pads": [1, 1, 1, 1]},
            "same upper": {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
            "same lower": {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
            "valid": {"auto_pad": "VALID", "strides": [2, 2]},
        }.items()
    },
    **{
        f"AveragePool counts pads, {name}": functools.partial(
            one, "AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "count_include_pad": 1, **attrs}, IMAGE
        )
        for name, attrs in {
            "even": {"pads": [1, 1, 1, 1]},
            "uneven": {"pads": [0, 1, 1, 0]},
            "same": {"auto_pad": "SAME_UPPER"},
        }.items()
    },
    "AveragePool counts pads, ceil": lambda: one(
        "AveragePool",
        {"kernel_shape": [3, 4], "strides": [2, 3], "count_include_pad": 1, "ceil_mode": 1, "pads": [1, 1, 1, 1]},
        IMAGE,
        opset=19,
    ),
    "AveragePool dilated": lambda: one("AveragePool", {"kernel_shape": [2, 3], "dilations": [2, 2]}, IMAGE, opset=19),
    "AveragePool 1-D": lambda: one("AveragePool", {"kernel_shape": [3], "strides": [2], "pads": [1, 0]}, (4, 12)),
    "MaxPool dilated": lambda: one("MaxPool", {"kernel_shape": [3, 2], "dilations": [2, 3], "ceil_mode": 1}, IMAGE),
    "MaxPool 1-D": lambda: one("MaxPool", {"kernel_shape": [3], "strides": [2], "pads": [0, 1]}, (4, 12)),
    "GlobalAveragePool": lambda: one("GlobalAveragePool", {}),
    "GlobalMaxPool": lambda: one("GlobalMaxPool", {}),
    "GlobalMaxPool 1-D": lambda: one("GlobalMaxPool", {}, (4, 12)),
    "BatchNormalization": lambda: one(
        "BatchNormalization", {"epsilon": 1e-3}, IMAGE, [drawn(4), drawn(4, seed=2), drawn(4, seed=3), drawn(4) ** 2]
    ),
    "BatchNormalization of vectors": lambda: one(
        "BatchNormalization", {}, (4,), [drawn(4), drawn(4, seed=2), drawn(4, seed=3), drawn(4) ** 2]
    ),
    "InstanceNormalization": lambda: one("InstanceNormalization", {"epsilon": 1e-3}, IMAGE, [drawn(4), drawn(4, seed=2)]),
    "LayerNormalization": lambda: one("LayerNormalization", {"axis": -1}, IMAGE, [drawn(11), drawn(11, seed=2)]),
    "LRN": lambda: one("LRN", {"size": 3, "alpha": 0.5, "beta": 0.6, "bias": 1.5}),
    "LpNormalization": lambda: one("LpNormalization", {"axis": 1, "p": 2}),
    **{
        f"{op}-{opset} axis {axis}": functools.partial(one, op, {} if axis is None else {"axis": axis}, IMAGE, opset=opset)
        for op in ("Softmax", "LogSoftmax")
        for opset in (11, 13)
        for axis in (None, 1, 2, 3, -1)
    },
    **{
        op: functools.partial(one, op, {})
        for op in ("Relu", "Sigmoid", "Tanh", "Abs", "Neg", "Exp", "Erf", "Sin", "Cos", "Floor")
    },
    **{
        op: functools.partial(one, op, {})
        for op in ("Ceil", "Round", "Sign", "Softplus", "Softsign", "Elu", "Selu", "LeakyRelu")
    },
    **{op: functools.partial(one, op, {}) for op in ("Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cosh", "Sinh", "Tan")},
    **{op: functools.partial(one, op, {}) for op in ("HardSigmoid", "HardSwish", "Celu", "ThresholdedRelu", "Identity")},
    "Mish": lambda: one("Mish", {}, opset=18),
    "Elu alpha": lambda: one("Elu", {"alpha": 0.3}),
    "Celu alpha": lambda: one("Celu", {"alpha": 0.3}),
    "Selu alpha, gamma": lambda: one("Selu", {"alpha": 0.3, "gamma": 2.0}),
    "LeakyRelu alpha": lambda: one("LeakyRelu", {"alpha": 0.3}),
    "HardSigmoid alpha, beta": lambda: one("HardSigmoid", {"alpha": 1 / 6, "beta": 0.4}),
    "ThresholdedRelu alpha": lambda: one("ThresholdedRelu", {"alpha": 0.4}),
    "Gelu": lambda: one("Gelu", {}, opset=20),
    "Gelu tanh": lambda: one("Gelu", {"approximate": "tanh"}, opset=20),
    "Clip-6": lambda: one("Clip", {"min": -0.5, "max": 0.7}, opset=6 + 1),
    "Clip": lambda: one("Clip", {}, IMAGE, [np.float32(-0.5), np.float32(0.7)]),
    "Clip below": lambda: one("Clip", {}, IMAGE, [np.float32(-0.5)]),
    "Clip above": lambda: one("Clip", {}, IMAGE, [None, np.float32(0.7)]),
    **{f"{op} {list(shape)}": functools.partial(one, op, {}, IMAGE, [drawn(*shape)]) for op, shape in _T.items()},
    "PRelu one slope": lambda: one("PRelu", {}, IMAGE, [drawn(1)]),
    "Pow": lambda: one("Pow", {}, IMAGE, [np.float32(2)]),
    **{f"{op} with itself": functools.partial(one, op, {}, IMAGE, [drawn(4, 1, 1)]) for op in ("Sum", "Mean")},
    "Flatten": lambda: one("Flatten", {}),
    "Flatten axis 2": lambda: one("Flatten", {"axis": 2}, (1, 9, 11)),
    "Reshape": lambda: one("Reshape", {}, IMAGE, [np.int64([0, 2, 2, -1])]),
    "Reshape batch baked in": lambda: one("Reshape", {}, IMAGE, [np.int64([1, -1])]),
    "Reshape batch free": lambda: one("Reshape", {}, IMAGE, [np.int64([-1, 396])]),
    "Reshape joins the batch": lambda: one("Reshape", {}, IMAGE, [np.int64([-1, 99])]),
    "Squeeze": lambda: one("Squeeze", {}, (4, 1, 1), [np.int64([2, 3])]),
    "Squeeze-11": lambda: one("Squeeze", {"axes": [2]}, (4, 1, 5), opset=11),
    "Unsqueeze": lambda: one("Unsqueeze", {}, IMAGE, [np.int64([2, -1])]),
    "Transpose": lambda: one("Transpose", {"perm": [0, 2, 3, 1]}),
    "Slice": lambda: one("Slice", {}, IMAGE, [np.int64([1, -3]), np.int64([3, 2**31]), np.int64([1, 3])]),
    "Slice steps": lambda: one("Slice", {}, IMAGE, [np.int64([0]), np.int64([100]), np.int64([2]), np.int64([2])]),
    "Slice backwards": lambda: one(
        "Slice", {}, IMAGE, [np.int64([-1, 8]), np.int64([-99, 2]), np.int64([3, 2]), np.int64([-2, -3])]
    ),
    "Slice-9": lambda: one("Slice", {"starts": [1], "ends": [3], "axes": [1]}, opset=9),
    "Gather": lambda: one("Gather", {"axis": 1}, IMAGE, [np.int64([3, 0, 1])]),
    "Gather one": lambda: one("Gather", {"axis": 2}, IMAGE, [np.int64(3)]),
    "Pad": lambda: one("Pad", {}, IMAGE, [np.int64([0, 1, 2, 0, 0, 0, 1, 3]), np.float32(0.5)]),
    "Pad-2": lambda: one("Pad", {"pads": [0, 0, 2, 0, 0, 0, 1, 3], "value": 1.5}, opset=10),
    "Pad axes": lambda: one("Pad", {}, IMAGE, [np.int64([2, 1, 0, 3]), None, np.int64([3, 2])], opset=18),
    "Pad reflect": lambda: one("Pad", {"mode": "reflect"}, IMAGE, [np.int64([0, 0, 2, 0, 0, 0, 1, 3])]),
    "Pad edge": lambda: one("Pad", {"mode": "edge"}, IMAGE, [np.int64([0, 0, 2, 0, 0, 0, 1, 3])]),
    "Expand": lambda: one("Expand", {}, (4, 1, 11), [np.int64([1, 4, 9, 11])]),
    "Tile": lambda: one("Tile", {}, IMAGE, [np.int64([1, 1, 2, 3])]),
    "DepthToSpace DCR": lambda: one("DepthToSpace", {"blocksize": 2}, (8, 3, 5)),
    "DepthToSpace CRD": lambda: one("DepthToSpace", {"blocksize": 2, "mode": "CRD"}, (8, 3, 5)),
    "SpaceToDepth": lambda: one("SpaceToDepth", {"blocksize": 2}, (3, 4, 6)),
    **{
        f"{op} keepdims {keep}": functools.partial(one, op, {"axes": [2, 3], "keepdims": keep}, IMAGE)
        for op in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceProd", "ReduceSumSquare")
        for keep in (0, 1)
    },
    "ReduceSum": lambda: one("ReduceSum", {"keepdims": 0}, IMAGE, [np.int64([-1])]),
    "ReduceMean-18": lambda: one("ReduceMean", {"keepdims": 1}, IMAGE, [np.int64([2, 3])], opset=18),
    "ReduceMax-18": lambda: one("ReduceMax", {"keepdims": 0}, IMAGE, [np.int64([1])], opset=18),
    "ReduceLogSumExp": lambda: one("ReduceLogSumExp", {"axes": [1]}),
    # spatial scales
    "Upsample-7": lambda: one("Upsample", {"scales": [1.0, 1.0, 2.0, 3.0]}, opset=7),
    "Upsample-9": lambda: resize(9, scales=[1, 1, 2, 2]),
    "Upsample-9 linear": lambda: resize(9, scales=[1, 1, 2, 2], mode="linear"),
    "Upsample-9 fraction": lambda: resize(9, scales=[1, 1, 1.5, 2.3]),
    "Resize-10": lambda: resize(10, scales=[1, 1, 2, 1.5]),
    "Resize-10 linear": lambda: resize(10, scales=[1, 1, 2, 1.5], mode="linear"),
    **{
        f"Resize nearest, {way}, {nearest}, {scale}": functools.partial(
            resize, scales=[1, 1, *scale], coordinate_transformation_mode=way, nearest_mode=nearest
        )
        for way in ("asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners")
        for nearest in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
        for scale in ((2.0, 2.0), (0.6, 1.7))
    },
    **{
        f"Resize {mode}, {way}, {scale}": functools.partial(
            resize, scales=[1, 1, *scale], mode=mode, coordinate_transformation_mode=way
        )
        for mode in ("linear", "cubic")
        for way in ("asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners")
        for scale in ((2.0, 2.0), (0.6, 1.7))
    },
    "Resize to sizes": lambda: resize(sizes=[1, 4, 18, 5], mode="linear"),
    "Resize cubic, other coefficient": lambda: resize(sizes=[1, 4, 18, 5], mode="cubic", cubic_coeff_a=-0.5, exclude_outside=1),
    "Resize 1-D": lambda: resize(scales=[1, 1, 2], mode="linear", shape=(4, 10)),
    "Resize two axes": lambda: one(
        "Resize", {"axes": [2, 3], "mode": "nearest"}, IMAGE, [None, None, np.int64([18, 22])], opset=18
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_node_computes_what_onnxruntime_computes(name: str) -> None:
    """In a network of its own; at batch 3 too, unless the file itself is for batch 1."""
    model = CASES[name]()
    net = network.from_proto(model, "net.onnx", accept=ops.accept("net.onnx"))
    module = Trainable(label(net))
    for batch in (1, 3):
        inputs = inputs_of(net, batch)
        got = outputs_of(module, inputs)
        want = run(model, inputs) if name == "Reshape joins the batch" else by_example(model, inputs)
        assert difference(got, want) <= TOLERANCE


_N = helper.make_node
SEVERAL: dict[str, list[onnx.NodeProto]] = {
    "Where": [_N("Greater", ["x", "zero"], ["m"]), _N("Where", ["m", "x", "four"], ["y"])],
    "Less, Not, Cast": [_N("Less", ["x", "four"], ["m"]), _N("Not", ["m"], ["k"]), _N("Cast", ["k"], ["y"], to=1)],
    "And, Or": [
        _N("LessOrEqual", ["x", "four"], ["m"]),
        _N("GreaterOrEqual", ["x", "zero"], ["k"]),
        _N("And", ["m", "k"], ["o"]),
        _N("Or", ["o", "m"], ["p"]),
        _N("Cast", ["p"], ["y"], to=1),
    ],
    "Equal": [_N("Relu", ["x"], ["r"]), _N("Equal", ["r", "x"], ["m"]), _N("Cast", ["m"], ["y"], to=1)],
    "ArgMax": [_N("ArgMax", ["x"], ["y"], axis=1)],
    "TopK": [_N("TopK", ["x", "two"], ["y", "i"], axis=1)],
    "Split, Concat": [_N("Split", ["x", "sizes"], ["a", "b"], axis=1), _N("Concat", ["b", "a"], ["y"], axis=1)],
    "Split evenly": [_N("Split", ["x"], ["a", "b"], axis=1), _N("Mul", ["b", "a"], ["y"])],
    "many operands": [
        _N("Abs", ["x"], ["a"]),
        _N("Sqrt", ["a"], ["b"]),
        _N("Log", ["b"], ["d"]),
        _N("Sum", ["d", "b", "a"], ["f"]),
        _N("Mean", ["f", "a", "x"], ["g"]),
        _N("Max", ["g", "x", "d"], ["h"]),
        _N("Min", ["h", "a"], ["y"]),
    ],
    "constant first": [_N("Sub", ["four", "x"], ["a"]), _N("Pow", ["base", "a"], ["b"]), _N("Div", ["four", "b"], ["y"])],
    "data by data": [_N("Transpose", ["x"], ["t"], perm=[0, 1, 3, 2]), _N("MatMul", ["x", "t"], ["y"])],
    "matrix on the left": [_N("MatMul", ["left", "x"], ["y"])],
    "twice the same": [_N("Mul", ["x", "x"], ["y"])],
}
OPERANDS = {"zero": np.float32(0), "four": drawn(4, 1, 1), "two": np.int64([2]), "sizes": np.int64([1, 3])}
OPERANDS |= {"base": np.float32(2), "left": drawn(5, 9)}


@pytest.mark.parametrize("name", SEVERAL)
def test_a_few_nodes_compute_what_onnxruntime_computes(name: str) -> None:
    used = {operand for node in SEVERAL[name] for operand in node.input}
    assert_same(graph(SEVERAL[name], {key: value for key, value in OPERANDS.items() if key in used}, IMAGE))


def test_resize_10_downwards_rounds_as_onnxruntime_does() -> None:
    assert_same(resize(10, scales=[1, 1, 0.6, 0.5]))


# --------------------------------------------------------------------------------------------------------- whole files


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_a_model_of_ours_computes_what_onnxruntime_computes(path: Path) -> None:
    model = onnx.load(path)
    channels = label(network.load(path))
    module = Trainable(channels)
    for batch in (1, 3):
        inputs = inputs_of(channels.network, batch)
        assert difference(outputs_of(module, inputs), run(model, inputs)) <= TOLERANCE


def load_real(path: Path) -> Channels:
    net = network.load(path, input_shapes=CORPUS_SHAPES.get(path.name), accept=ops.accept(path.name))
    if any(node.op in ("QuantizeLinear", "DequantizeLinear") for node in net.nodes):
        pytest.skip("a quantised file")
    return label(net)


@pytest.mark.parametrize("path", corpus(), ids=lambda path: path.stem)
def test_a_real_file_computes_what_onnxruntime_computes(path: Path) -> None:
    """Also at a batch that the file isn't made for, one example at a time in onnxruntime."""
    channels = load_real(path)
    module = Trainable(channels)
    inputs = inputs_of(channels.network, 3)
    assert agree(outputs_of(module, inputs), by_example(onnx.load(path), inputs))


@pytest.mark.parametrize("path", [*MODELS, *corpus()], ids=lambda path: path.stem)
def test_one_step_changes_every_weight(path: Path) -> None:
    channels = load_real(path)
    module = Trainable(channels).train()
    before = {name: weight.detach().clone() for name, weight in module.named_weights()}
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    inputs = inputs_of(channels.network, 2)
    outputs = module(*map(torch.from_numpy, inputs.values()))
    draw = torch.Generator().manual_seed(0)
    loss = sum((value * torch.randn(value.shape, generator=draw)).sum() for value in outputs if value.is_floating_point())
    loss.backward()
    optimizer.step()
    mixers = [node for node in channels.network.nodes if node.op in ("Conv", "ConvTranspose", "Gemm", "MatMul")]
    names = {node.inputs[1] for node in mixers if channels.network.is_constant(node.inputs[1])}
    assert names
    still = [name for name, weight in module.named_weights() if name in names and torch.equal(weight, before[name])]
    assert names <= set(before)
    assert not still


# ------------------------------------------------------------------------------------------------------ what is trained


def trained(model: onnx.ModelProto) -> set[str]:
    return {name for name, _ in Trainable(channels_of(model)).named_weights()}


def conv(out: str, data: str, weight: str, bias: str = "") -> onnx.NodeProto:
    return helper.make_node("Conv", [data, weight, *([bias] if bias else [])], [out], name=out)


def test_factors_and_shifts_of_channels_are_trained() -> None:
    nodes = [
        conv("a", "x", "w"),
        helper.make_node("Mul", ["a", "factor"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Add", ["shift", "c"], ["d"]),
        helper.make_node("PRelu", ["d", "slope"], ["e"]),
        helper.make_node("Mul", ["e", "two"], ["f"]),
        conv("y", "f", "v"),
    ]
    constants = {"w": drawn(5, 2, 3, 3), "v": drawn(3, 5, 1, 1), "factor": drawn(5, 1, 1), "shift": drawn(1, 5, 1, 1)}
    constants |= {"slope": drawn(1, 1, 1), "two": np.float32(2)}
    assert trained(graph(nodes, constants, (2, 6, 6))) == {"w", "v", "factor", "shift", "slope"}


def test_the_last_layers_bias_is_trained_also_where_it_is_an_add_on_frozen_channels() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Add", ["a", "b"], ["y"])]
    assert trained(graph(nodes, {"w": drawn(7, 3), "b": drawn(3)}, (7,))) == {"w", "b"}


def test_statistics_and_normalisation_of_the_input_are_not_trained() -> None:
    nodes = [
        helper.make_node("Sub", ["x", "pixel_mean"], ["a"]),
        conv("b", "a", "w"),
        helper.make_node("BatchNormalization", ["b", "scale", "shift", "mean", "var"], ["y"]),
    ]
    constants = {"pixel_mean": drawn(2, 1, 1), "w": drawn(5, 2, 3, 3), "var": drawn(5) ** 2}
    constants |= {name: drawn(5, seed=i) for i, name in enumerate(("scale", "shift", "mean"))}
    assert trained(graph(nodes, constants, (2, 6, 6))) == {"w", "scale", "shift"}


def shared() -> onnx.ModelProto:
    nodes = [
        conv("a", "x", "w", "b"),
        helper.make_node("Relu", ["a"], ["c"]),
        conv("d", "c", "w", "b"),
        helper.make_node("Relu", ["d"], ["e"]),
        conv("y", "e", "v"),
    ]
    constants = {"w": drawn(4, 4, 3, 3), "b": drawn(4), "v": drawn(3, 4, 1, 1)}
    return graph(nodes, constants, (4, 8, 8))


def test_a_weight_of_two_convolutions_is_one_parameter_with_both_gradients() -> None:
    channels = channels_of(shared())
    module = Trainable(channels)
    assert_same(shared())
    weights = dict(module.named_weights())
    assert sum(weight.ndim == 4 and weight.shape[2] == 3 for weight in weights.values()) == 1
    (x,) = as_inputs(channels.network, drawn(2, 4, 8, 8))
    module(x)[0].square().sum().backward()
    together = weights["w"].grad.clone()
    w, v = (torch.from_numpy(channels.network.constants[name].copy()) for name in ("w", "v"))
    b = torch.from_numpy(channels.network.constants["b"].copy())
    first, second = w.clone().requires_grad_(), w.clone().requires_grad_()
    f = torch.nn.functional
    f.conv2d(f.relu(f.conv2d(f.relu(f.conv2d(x, first, b)), second, b)), v).square().sum().backward()
    torch.testing.assert_close(together, first.grad + second.grad, rtol=1e-4, atol=1e-4)


def autoencoder() -> onnx.ModelProto:
    """One matrix, used as it is and transposed, so that both of its axes are read by somebody."""
    nodes = [
        helper.make_node("Gemm", ["x", "v"], ["a"], name="a"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Gemm", ["b", "w"], ["c"], name="c", transB=1),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Gemm", ["d", "w"], ["e"], name="e"),
        helper.make_node("Relu", ["e"], ["f"]),
        helper.make_node("Gemm", ["f", "u"], ["y"], name="g"),
    ]
    return graph(nodes, {"v": drawn(4, 6), "w": drawn(8, 6), "u": drawn(6, 3)}, (4,))


def test_network_gives_the_weights_back_under_their_names() -> None:
    channels = label(network.load(MODELS[0]))
    module = Trainable(channels)
    again = module.network()
    assert again.nodes == channels.network.nodes
    assert list(again.constants) == list(channels.network.constants)
    for name, value in channels.network.constants.items():
        assert again.constants[name].dtype == value.dtype
        assert np.array_equal(again.constants[name], value)
    with torch.no_grad():
        for _, weight in module.named_weights():
            weight += 0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    inputs = inputs_of(channels.network, 2)
    assert difference(outputs_of(module, inputs), run(module.network(), inputs)) <= TOLERANCE


def test_running_statistics_learn_and_reach_the_file() -> None:
    model = CASES["BatchNormalization"]()
    module = Trainable(channels_of(model)).train()
    mean = module.source.constants["c2"]
    x = drawn(8, *IMAGE) + 3
    module(torch.from_numpy(x))
    expected = 0.9 * mean + 0.1 * x.mean((0, 2, 3))
    np.testing.assert_allclose(module.network().constants["c2"], expected, rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------------- gates


def gated(channels: Channels, keep: np.ndarray) -> Trainable:
    module = Trainable(channels)
    module.gates = torch.from_numpy(keep.astype(np.float32))
    return module


@pytest.mark.parametrize("share", [0.4, 0.7])
@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_a_gated_model_is_the_cut_file(path: Path, share: float) -> None:
    channels = label(network.load(path))
    keep = random_selection(channels, share, seed=1)
    inputs = inputs_of(channels.network, 2)
    assert difference(outputs_of(gated(channels, keep), inputs), run(channels.cut(keep), inputs)) <= 1e-5


@pytest.mark.parametrize("name", blocks.BLOCKS)
def test_a_gated_block_is_the_cut_file(name: str) -> None:
    channels = channels_of(onnx.load_from_string(blocks.exported(name, "dynamic")))
    keep = random_selection(channels, 0.5, seed=1)
    inputs = inputs_of(channels.network, 2)
    assert difference(outputs_of(gated(channels, keep), inputs), run(channels.cut(keep), inputs)) <= 1e-5


def test_gates_reach_both_axes_of_a_matrix_that_is_read_both_ways() -> None:
    channels = channels_of(autoencoder())
    keep = random_selection(channels, 0.4, seed=1)
    inputs = inputs_of(channels.network, 2)
    assert difference(outputs_of(gated(channels, keep), inputs), run(channels.cut(keep), inputs)) <= 1e-5


def test_the_gradient_of_a_gate_is_what_the_loss_feels() -> None:
    channels = label(network.load(MODELS[-1]))
    module = Trainable(channels).double().eval()
    x = torch.from_numpy(inputs_of(channels.network, 4)[channels.network.inputs[0]]).double()

    def loss(gates: torch.Tensor) -> torch.Tensor:
        module.gates = gates
        return module(x)[0].square().sum()

    gates = torch.ones(channels.n_components + 1, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(gates), gates)
    step = 1e-6
    for component in (1, channels.n_components // 2, channels.n_components):
        up, down = (gates.detach().clone() for _ in range(2))
        up[component] += step
        down[component] -= step
        measured = float((loss(up) - loss(down)).detach()) / (2 * step)
        assert measured == pytest.approx(float(slope[component]), rel=1e-4, abs=1e-7)


# --------------------------------------------------------------------------------------------------------------- logits


@pytest.mark.parametrize("ending", ["Softmax", "LogSoftmax", "Sigmoid"])
@pytest.mark.parametrize("reshaped", [False, True])
def test_logits_are_what_a_last_softmax_reads(ending: str, reshaped: bool) -> None:
    nodes = [helper.make_node("Gemm", ["x", "w"], ["logits"]), helper.make_node(ending, ["logits"], ["p"])]
    nodes.append(helper.make_node("Reshape", ["p", "shape"], ["y"]) if reshaped else helper.make_node("Identity", ["p"], ["y"]))
    model = graph(nodes, {"w": drawn(6, 4), "shape": np.int64([-1, 4])}, (6,))
    module = Trainable(channels_of(model))
    inputs = inputs_of(module.source, 3)
    module.want_logits()
    logits = inputs["x"] @ module.source.constants["w"]
    np.testing.assert_allclose(outputs_of(module, inputs)[0], logits, rtol=1e-4, atol=1e-5)


def test_a_network_without_softmax_has_its_output_as_logits() -> None:
    module = Trainable(channels_of(shared()))
    inputs = inputs_of(module.source, 2)
    before = outputs_of(module, inputs)
    module.want_logits()
    assert np.array_equal(outputs_of(module, inputs)[0], before[0])


# ------------------------------------------------------------------------------------------------------------- refusals


def test_an_operator_that_cannot_be_trained_is_named_with_its_node(monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(model: onnx.ModelProto) -> torch.nn.Module:
        raise NotImplementedError("no converter")

    monkeypatch.setattr("mcuprune.train.converted.converter", lambda: convert)
    with pytest.raises(UnsupportedOperator, match=r"node 'node': Tanh can't be trained \(no converter\); .* --no-train"):
        Trainable(channels_of(one("Tanh", {})))


def test_a_constant_measured_in_another_unit_is_the_same_and_moves_in_that_unit() -> None:
    weight = np.random.default_rng(0).normal(size=(4, 3, 1, 1)).astype(np.float32)
    module = Trainable(channels_of(graph([helper.make_node("Conv", ["x", "w"], ["y"], name="c")], {"w": weight}, (3, 5, 5))))
    unit = np.array([1.0, 10.0, 100.0, 0.1]).reshape(4, 1, 1, 1)
    module.measure({"w": unit})
    np.testing.assert_allclose(module.network().constants["w"], weight, rtol=1e-6)
    (parameter,) = module.parameters()
    with torch.no_grad():
        parameter += 1
    np.testing.assert_allclose(module.network().constants["w"], weight + unit, rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_what_convolutions_make_of_images_lies_pixel_by_pixel(channels: int) -> None:
    """With planes a step takes up to a third longer; one channel counts as planes unless its strides say otherwise."""
    weight = np.ones((8, channels, 3, 3), np.float32)
    channels_ = channels_of(graph([helper.make_node("Conv", ["x", "w"], ["y"], name="c")], {"w": weight}, (channels, 9, 6)))
    images = np.random.default_rng(0).normal(size=(2, channels, 9, 6)).astype(np.float32)
    (x,) = as_inputs(channels_.network, images)
    assert np.array_equal(x.numpy(), images)
    (y,) = Trainable(channels_)(x)
    assert y.stride()[1] == 1


def test_a_pool_that_gives_indices_is_refused() -> None:
    nodes = [helper.make_node("MaxPool", ["x"], ["y", "i"], kernel_shape=[2, 2], name="pool")]
    with pytest.raises(UnsupportedOperator, match="node 'pool': MaxPool"):
        Trainable(channels_of(graph(nodes, {}, IMAGE, outputs=("y", "i"))))


@pytest.mark.parametrize("attrs", [{"coordinate_transformation_mode": "tf_crop_and_resize"}, {"antialias": 1}], ids=str)
def test_a_resize_that_would_be_wrong_is_refused(attrs: dict[str, Any]) -> None:
    model = resize(18, sizes=[1, 4, 18, 22], mode="linear", **attrs)
    with pytest.raises(UnsupportedOperator, match=r"node 'node': Resize.*; .* --no-train"):
        Trainable(channels_of(model))


def test_inputs_of_half_precision_are_computed_with_in_full() -> None:
    net = network.from_proto(graph([helper.make_node("Relu", ["x"], ["y"])], {}, (3,), dtype=TensorProto.FLOAT16), "net.onnx")
    (fed,) = as_inputs(net, drawn(1, 3))
    assert fed.dtype == torch.float32


# ----------------------------------------------------------------------------------------------- onnx2torch, torchvision

_IMPORT = """
import sys, types
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {hidden!r}:
            {action}
sys.meta_path.insert(0, Finder())
from mcuprune.train.converted import converter
convert = converter()
assert callable(convert)
print(all(module.__spec__ for name, module in sys.modules.items() if name.split(".")[0] == "torchvision"))
"""

ABSENT = "raise ModuleNotFoundError(f'No module named {name!r}', name=name)"
BROKEN = "raise RuntimeError('operator torchvision::nms does not exist')"


FINE = """
            module = types.ModuleType(name)
            module.__path__, module.roi_align, module.nms = [], None, None
            from importlib.machinery import ModuleSpec
            class Loader:
                def create_module(self, spec): return module
                def exec_module(self, module): pass
            return ModuleSpec(name, Loader())
"""


#: What happens to whoever imports a package.
HIDDEN = {
    "absent": ("torchvision", ABSENT),
    "broken": ("torchvision", BROKEN),
    "fine": ("torchvision", FINE),
    "as it is": ("torchvision", "pass"),
    "no onnx2torch": ("onnx2torch", ABSENT),
}


@pytest.fixture
def imports(once: Once) -> dict[str, Done]:
    def make(folder: Path) -> dict[str, Done]:
        source = textwrap.dedent(_IMPORT)
        programs = {name: source.format(hidden=hidden, action=action) for name, (hidden, action) in HIDDEN.items()}
        return forked("import torch", programs, folder, [ROOT])

    return once("imports", make)


@pytest.mark.parametrize("case", [name for name, (hidden, _) in HIDDEN.items() if hidden == "torchvision"])
def test_onnx2torch_imports_with_torchvision(case: str, imports: dict[str, Done]) -> None:
    """And no placeholder is left behind for others to trip over."""
    assert imports[case] == (0, "True\n")


def test_without_onnx2torch_the_extra_is_named(imports: dict[str, Done]) -> None:
    said = imports["no onnx2torch"].output
    assert "MissingExtra: training needs onnx2torch, which isn't installed; pip install 'mcuprune[prune]'" in said


@pytest.mark.parametrize("name", ["forward", "training", "_modules", ".", ".."])
def test_a_node_may_have_any_name(name: str) -> None:
    """Also one that no attribute of a torch module can have."""
    model = graph([helper.make_node("Relu", ["x"], ["y"], name=name)], {}, (3,))
    x = drawn(2, 3)
    (found,) = Trainable(label(network.from_proto(model, "net.onnx")))(torch.from_numpy(x))
    assert np.array_equal(found.numpy(), np.maximum(x, 0))


def test_kernels_of_ours_are_for_operators_of_the_table() -> None:
    assert set(OWN) <= set(OPS)
