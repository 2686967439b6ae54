"""Integer operators, each attribute set to what isn't its default, compute what onnxruntime computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import difference, feed, run
from graphs import Graph
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnxruntime.quantization import QuantType, quantize_dynamic

from mcuprune.costs.resources import profile
from mcuprune.errors import ModelError, UnsupportedOperator
from mcuprune.graph import network
from mcuprune.graph.network import Network
from mcuprune.operators import table as ops

DRAW = np.random.default_rng(0)
MICROSOFT = "com.microsoft"


def value(name: str, array: object) -> TensorProto:
    return numpy_helper.from_array(np.asarray(array), name)


def integers(*shape: int, kind: type = np.int8) -> np.ndarray:
    return DRAW.integers(-100, 100, shape).astype(kind)


#: Scale and zero point of the data, of the weights (s per tensor, c per channel) and of the result.
SCALES = {
    "xs": np.float32(0.02),
    "xz": np.uint8(120),
    "ws": np.float32(0.01),
    "wz": np.int8(3),
    "us": np.float32(0.03),
    "uz": np.uint8(100),
    "ys": np.float32(0.05),
    "yz": np.uint8(128),
}
X, W, U, Y = "xs,xz", "ws,wz", "us,uz", "ys,yz"


def quantised(op: str, inputs: str, shape: tuple[int, ...], domain: str = "", opset: int = 17, **attrs: Any) -> onnx.ModelProto:
    """x quantised, ``op`` on it as q, its result dequantised. Weights are w and bias b; v is a second, quantised operand."""
    constants: dict[str, np.ndarray] = {name: np.asarray(array) for name, array in SCALES.items()}
    constants |= {name: array for name, array in attrs.items() if isinstance(array, np.ndarray)}
    attrs = {name: given for name, given in attrs.items() if name not in constants}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"], "in"),
        helper.make_node(op, inputs.split(","), ["r"], "integer", domain=domain, **attrs),
        helper.make_node("DequantizeLinear", ["r", "ys", "yz"], ["y"], "out"),
    ]
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [value(name, array) for name, array in constants.items() if name in used],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def loaded(model: onnx.ModelProto) -> Network:
    return network.from_proto(model, "net.onnx", accept=ops.accept("net.onnx"))


V = DRAW.integers(0, 255, (1, 4, 1, 1)).astype(np.uint8)
CASES = {
    "conv": quantised(
        "QLinearConv",
        f"q,{X},w,{W},{Y},b",
        (1, 4, 9, 9),
        w=integers(6, 2, 3, 3),
        b=integers(6, kind=np.int32),
        group=2,
        strides=[2, 1],
        auto_pad="SAME_UPPER",
    ),
    "conv, pads": quantised(
        "QLinearConv", f"q,{X},w,{W},{Y}", (1, 4, 9, 9), w=integers(6, 4, 3, 3), pads=[0, 1, 2, 1], dilations=[1, 2]
    ),
    "matmul": quantised("QLinearMatMul", f"q,{X},w,{W},{Y}", (1, 3, 8), w=integers(8, 5)),
    "gemm": quantised("QGemm", f"q,{X},w,{W},b,{Y}", (1, 8), MICROSOFT, w=integers(8, 5), b=integers(5, kind=np.int32)),
    "gemm, alpha": quantised(
        "QGemm",
        f"q,{X},w,{W},b,{Y}",
        (1, 8),
        MICROSOFT,
        w=integers(5, 8),
        b=1000 * integers(5, kind=np.int32),
        alpha=-0.5,
        transB=1,
    ),
    "add": quantised("QLinearAdd", f"q,{X},v,{U},{Y}", (1, 4, 5, 5), MICROSOFT, v=V),
    "mul": quantised("QLinearMul", f"q,{X},v,{U},{Y}", (1, 4, 5, 5), MICROSOFT, v=V),
    "average pool": quantised(
        "QLinearAveragePool",
        f"q,{X},{Y}",
        (1, 4, 8, 8),
        MICROSOFT,
        kernel_shape=[3, 3],
        strides=[2, 2],
        pads=[1, 1, 1, 1],
        count_include_pad=1,
    ),
    "average pool, ceil": quantised(
        "QLinearAveragePool", f"q,{X},{Y}", (1, 4, 8, 8), MICROSOFT, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1
    ),
    "global average pool": quantised("QLinearGlobalAveragePool", f"q,{X},{Y}", (1, 64, 3, 3), MICROSOFT),
    "leaky relu": quantised("QLinearLeakyRelu", f"q,{X},{Y}", (1, 4, 5, 5), MICROSOFT, alpha=0.4),
    "sigmoid": quantised("QLinearSigmoid", f"q,{X},{Y}", (1, 4, 5, 5), MICROSOFT),
    "softmax": quantised("QLinearSoftmax", f"q,{X},{Y}", (1, 4, 5), MICROSOFT, axis=1, opset=17),
    "softmax, last axis": quantised("QLinearSoftmax", f"q,{X},{Y}", (1, 4, 5), MICROSOFT, opset=17),
    "concat": quantised("QLinearConcat", f"{Y},q,{X},v,{U}", (1, 4, 1, 1), MICROSOFT, v=V, axis=1),
    "where": quantised(
        "QLinearWhere", f"c,q,{X},v,{U},{Y}", (1, 4, 5, 5), MICROSOFT, v=V, c=np.array([[[[True]], [[False]]] * 2])
    ),
}
for softmax in ("softmax", "softmax, last axis"):  # the operator has an attribute of this name, too
    CASES[softmax].graph.node[1].attribute.append(helper.make_attribute("opset", 17))


@pytest.mark.parametrize("name", CASES)
def test_an_integer_operator_computes_as_onnxruntime_says(name: str) -> None:
    model = CASES[name]
    net, inputs = loaded(model), feed(model, seed=1)
    (found,), (expected,) = run(net, inputs), run(model, inputs)
    assert found.shape == expected.shape
    assert len(np.unique(expected)) > 3  # or the equality would prove nothing
    assert np.abs(found - expected).max() <= SCALES["ys"] * 1.001  # a step: integer kernels round a half another way
    assert np.mean(found == expected) > 0.9
    assert "integer" in [node.name for node in net.nodes]


@pytest.mark.parametrize("opset", [12, 17])
@pytest.mark.parametrize("scales", [1, 6])
def test_a_convolution_keeps_the_integers_of_its_file(scales: int, opset: int) -> None:
    weight, bias = integers(6, 4, 3, 3), integers(6, kind=np.int32)
    of = {"s": np.full(scales, 0.01, np.float32).reshape(-1 if scales > 1 else ()), "z": np.zeros(scales, np.int8).squeeze()}
    model = quantised("QLinearConv", f"q,{X},w,s,z,{Y},b", (1, 4, 9, 9), opset=opset, w=weight, b=bias, **of)
    net, inputs = loaded(model), feed(model)
    assert np.abs(run(net, inputs)[0] - run(model, inputs)[0]).max() <= SCALES["ys"] * 1.001
    node = next(node for node in net.nodes if node.name == "integer")
    stored = [net.stored[name].integers for name in node.inputs[1:] if name in net.stored]
    if scales == 1 or opset > 12:  # an older DequantizeLinear has one scale
        np.testing.assert_array_equal(stored[0], weight)
        np.testing.assert_array_equal(stored[1], bias)


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_a_matrix_keeps_the_integers_of_its_file(alpha: float) -> None:
    weight, bias, of = integers(8, 5), integers(5, kind=np.int32), {"z": np.array(0, np.int8)}
    model = quantised("QGemm", f"q,{X},w,ws,z,b,{Y}", (1, 8), MICROSOFT, w=weight, b=bias, alpha=alpha, **of)
    net = loaded(model)
    node = next(node for node in net.nodes if node.name == "integer")
    np.testing.assert_array_equal(net.stored[node.inputs[1]].integers, weight)
    np.testing.assert_array_equal(net.stored[node.inputs[2]].integers, bias)
    assert np.abs(run(net, feed(model))[0] - run(model, feed(model))[0]).max() <= SCALES["ys"] * 1.001


@pytest.mark.parametrize(
    ("op", "inputs", "attrs", "said"),
    [
        ("QLinearGlobalAveragePool", f"q,{X},{Y}", {"channels_last": 1}, "keeps channels last; export again"),
        ("QLinearSoftmax", f"q,{X},{Y}", {"axis": 1}, "means another thing in this file of opset 17; quantise again"),
        ("QLinearAdd", f"q,{X},v,{U},{Y}", {"v": V, "unheard_of": 3}, "no valid Add .*unheard_of"),
        ("QLinearSigmoid", f"q,several,xz,{Y}", {"several": np.float32([0.1, 0.2])}, "several scales for its data"),
        ("QLinearSigmoid", f"q,x,xz,{Y}", {}, "computes its scale or zero point 'x' at run time; quantise again"),
    ],
)
def test_a_form_that_would_compute_otherwise_is_refused_by_name(op: str, inputs: str, attrs: dict, said: str) -> None:
    model = quantised(op, inputs, (1, 4, 5), MICROSOFT, **attrs)
    if op == "QLinearSoftmax":
        model.graph.node[1].attribute.append(helper.make_attribute("opset", 12))
    with pytest.raises(ModelError, match=rf"'integer'.*{said}"):
        loaded(model)


@pytest.mark.parametrize("kind", [QuantType.QInt8, QuantType.QUInt8], ids=["int8", "uint8"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_a_dynamically_quantised_file_is_its_float_model_but_for_rounding(
    per_channel: bool, kind: QuantType, tmp_path: Path
) -> None:
    """Scales stood between layers and their biases and norms, so that neither was folded in any price or file."""
    g = Graph(1, 3, 8, 8)
    x = g.add("Relu", g.conv("x", 3, 6))
    x = g.add("Relu", g.norm(g.conv(x, 6, 8, bias=False), 8))
    x = g.add("Flatten", g.add("GlobalAveragePool", x))
    model = g.model(g.add("Add", g.add("MatMul", x, g.constant(8, 5)), g.constant(5)))
    onnx.save(model, tmp_path / "float.onnx")
    quantize_dynamic(tmp_path / "float.onnx", tmp_path / "dynamic.onnx", per_channel=per_channel, weight_type=kind)
    dynamic = onnx.load(tmp_path / "dynamic.onnx")
    assert {"ConvInteger", "MatMulInteger"} <= {node.op_type for node in dynamic.graph.node}
    net, plain = loaded(dynamic), loaded(model)
    one, other = profile(net), profile(plain)
    assert (one.total, one.arena) == (other.total, other.arena)
    (found,), (wanted,) = (run(each, feed(model, seed=1)) for each in (net, plain))
    assert np.abs(found - wanted).max() <= 0.03 * np.abs(wanted).max()


def integer_product(scale: np.ndarray, *outputs: str, to: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """y = float(x times integers) * (x's scale * ``scale``) in MatMulInteger; c is what is cast."""
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "xs", "zero"]),
        helper.make_node("MatMulInteger", ["q", "w", "zero"], ["r"], "integer"),
        helper.make_node("Cast", ["r"], ["c"], to=to),
        helper.make_node("Mul", ["xs", "s"], ["both"]),
        helper.make_node("Mul", ["c", "both"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])]
    declared = [helper.make_tensor_value_info(name, to, None) for name in outputs]
    stored = [value("w", np.arange(-20, 20).astype(np.int8).reshape(8, 5)), value("s", scale)]
    graph = helper.make_graph(nodes, "g", inputs, declared, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("scale", "outputs", "gone"),
    [
        (np.float32(0.25), ["y"], True),
        (np.full(1, 0.25, np.float32), ["y"], True),
        (np.arange(1, 6).astype(np.float32), ["y"], True),
        (np.arange(1, 6).astype(np.float32).reshape(1, 5), ["y"], False),
        (np.float32(0.25), ["c", "y"], False),
        (np.float32(0.25), ["r", "y"], False),
    ],
    ids=["number", "one", "columns", "two axes", "the cast is asked for", "the product is asked for"],
)
def test_a_scale_goes_into_the_weights_where_nothing_else_sees_what_it_scales(
    scale: np.ndarray, outputs: list[str], gone: bool
) -> None:
    net = loaded(integer_product(scale, *outputs))
    assert ("Mul" not in [node.op for node in net.nodes]) is gone
    x = DRAW.normal(size=(1, 8)).astype(np.float32)
    product = x @ np.arange(-20, 20).astype(np.float32).reshape(8, 5)
    for name, found in zip(outputs, run(net, {"x": x}), strict=True):
        wanted = product * scale if name == "y" else product
        assert np.allclose(found, wanted, rtol=1e-5, atol=1e-4)


def test_a_zero_point_of_integer_products_is_refused_where_it_counts() -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["r"], "integer"),
        helper.make_node("Cast", ["r"], ["y"], to=TensorProto.FLOAT),
    ]
    for zero, refused in ((0, False), (7, True)):
        stored = [value("w", integers(8, 5)), value("z", np.uint8(zero))]
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])]
        outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])]
        graph = helper.make_graph(nodes, "g", inputs, outputs, stored)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        if refused:
            with pytest.raises(UnsupportedOperator, match=r"'integer'.*subtracts a zero point"):
                loaded(model)
        else:
            loaded(model)


# ------------------------------------------------------------------------------------------------------ blocks of weights


def blocked(kind: str, shape: tuple[int, ...], axis: int, block: int, *, zeros: bool) -> tuple[onnx.ModelProto, np.ndarray]:
    """x + dequantised constant, and what ONNX's definition says the constant is."""
    code = getattr(TensorProto, kind)
    low, high = {"INT4": (-8, 7), "UINT4": (0, 15), "INT8": (-128, 127), "UINT8": (0, 255)}[kind]
    stored = DRAW.integers(low, high + 1, shape)
    sizes = list(shape)
    sizes[axis] = -(-shape[axis] // block)
    scale = DRAW.uniform(0.01, 0.1, sizes).astype(np.float32)
    zero = DRAW.integers(low, high + 1, sizes)
    tensors = [helper.make_tensor("w", code, shape, stored.ravel()), value("s", scale)]
    if zeros:
        tensors.append(helper.make_tensor("z", code, sizes, zero.ravel()))
    nodes = [
        helper.make_node(
            "DequantizeLinear", ["w", "s", *(["z"] if zeros else [])], ["d"], "blocks", axis=axis, block_size=block
        ),
        helper.make_node("Add", ["x", "d"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        tensors,
    )
    expected = np.empty(shape, np.float32)
    for place in np.ndindex(*shape):
        at = tuple(index // block if dim == axis % len(shape) else index for dim, index in enumerate(place))
        expected[place] = np.float32(stored[place] - (zero[at] if zeros else 0)) * scale[at]
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), expected


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize(
    ("kind", "shape", "axis", "block"),
    [
        ("INT4", (6, 5), 0, 2),
        ("UINT4", (5, 8), -1, 4),
        ("INT8", (6, 4, 3), 1, 2),
        ("UINT8", (7, 3), 0, 3),
        ("INT8", (5, 6), 1, 6),
        ("INT4", (4, 4), 0, 1),
    ],
)
def test_weights_quantised_in_blocks_are_read_as_onnx_defines_them(kind: str, shape: tuple, axis: int, block: int, zeros: bool):
    model, expected = blocked(kind, shape, axis, block, zeros=zeros)
    assert np.array_equal(loaded(model).constants["d"], expected)
    if shape[axis] % block == 0:
        inputs = feed(model)
        assert difference([inputs["x"] + expected], ReferenceEvaluator(model).run(None, inputs)) == 0
        assert difference(run(loaded(model), inputs), run(model, inputs)) == 0


@pytest.mark.parametrize("block", [3, -2, 100])
def test_scales_that_do_not_fit_the_blocks_are_one_message(block: int) -> None:
    model, _ = blocked("INT8", (8, 5), 0, 2, zeros=True)
    for attribute in model.graph.node[0].attribute:
        if attribute.name == "block_size":
            attribute.i = block
    with pytest.raises(ModelError, match=rf"'blocks' has scales \[4, 5\] that don't fit \[8, 5\] in blocks of {block}"):
        loaded(model)
