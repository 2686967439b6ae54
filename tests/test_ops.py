"""Every operator of the table by one example at least: runs in onnxruntime as the file says, and cuts as its mask says.

An example stands between a convolution of 8 channels, (1, 8, 6, 6), whose output it reads as ``a``, and a matrix product over
all elements of what it calls ``b``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import difference, feed, random_selection, run
from onnx import TensorProto, helper, numpy_helper

from mcuprune.channels.labelling import Channels, label
from mcuprune.costs.resources import CostModel, profile
from mcuprune.deploy.lower import LOWERINGS
from mcuprune.errors import UnsupportedOperator
from mcuprune.graph import network
from mcuprune.operators import table as ops
from mcuprune.operators.table import OPS

CHANNELS, SIDE = 8, 6
DRAW = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return DRAW.normal(size=shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@dataclass
class Example:
    """nodes: as (op, inputs, outputs, attributes). removable: whether the first convolution's channels can go."""

    nodes: list[tuple[str, str, str, dict]]
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    removable: bool = True
    opset: int = 17
    positive: bool = False

    def model(self) -> onnx.ModelProto:
        nodes = [helper.make_node("Conv", ["x", "w0", "b0"], ["c"], pads=[1, 1, 1, 1])]
        nodes.append(helper.make_node("Softplus" if self.positive else "Tanh", ["c"], ["a"]))
        for op, inputs, outputs, attrs in self.nodes:
            nodes.append(helper.make_node(op, inputs.split(","), outputs.split(","), **attrs))
        constants = {"w0": floats(CHANNELS, 3, 3, 3), "b0": floats(CHANNELS), **self.constants}
        size = int(np.prod(self._shape(nodes, constants)))
        nodes += [helper.make_node("Reshape", ["b", "flat"], ["f"]), helper.make_node("MatMul", ["f", "last"], ["y"])]
        return self._proto(nodes, {**constants, "flat": ints(1, -1), "last": floats(size, 3)}, "y")

    def _shape(self, nodes: list, constants: dict) -> list[int]:
        model = self._proto(nodes, constants, "b")
        for node in model.graph.node:
            if node.op_type == "GroupNormalization":  # shape inference knows none, and it changes no shape
                node.CopyFrom(helper.make_node("Identity", node.input[:1], node.output))
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True, strict_mode=True)
        return [dim.dim_value for dim in inferred.graph.output[0].type.tensor_type.shape.dim]

    def _proto(self, nodes: list, constants: dict, output: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            nodes,
            "example",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
            [helper.make_empty_tensor_value_info(output)],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


def one(
    op: str,
    inputs: str = "a",
    *,
    constants: dict | None = None,
    removable: bool = True,
    opset: int = 17,
    positive: bool = False,
    **attrs: object,
) -> Example:
    return Example([(op, inputs, "b", attrs)], constants or {}, removable, opset, positive)


def compared(op: str) -> Example:
    return Example([(op, "a,k", "t", {}), ("Cast", "t", "b", {"to": 1})], {"k": floats(8, 1, 1)})


def logical(op: str) -> Example:
    nodes = [("Greater", "a,k", "t", {}), (op, "t,t" if op != "Not" else "t", "u", {}), ("Cast", "u", "b", {"to": 1})]
    return Example(nodes, {"k": floats(8, 1, 1)})


def reduced(op: str, *axes: int, keepdims: int = 1, removable: bool = True) -> Example:
    if op == "ReduceSum":
        return one(op, "a,axes", constants={"axes": ints(*axes)}, removable=removable, keepdims=keepdims)
    return one(op, removable=removable, axes=list(axes), keepdims=keepdims, positive=op == "ReduceLogSum")


def layer(op: str, inputs: str, constants: dict, **attrs: object) -> Example:
    """Something with weights that reads the convolution."""
    return Example([(op, inputs, "b", attrs)], constants)


def grouped(groups: int, *, removable: bool = True, to: tuple[int, ...] = (), axes: tuple[int, ...] = ()) -> Example:
    """GroupNorm in smaller operators: by InstanceNormalization as PyTorch exports it, or by means over ``axes`` of ``to``."""
    constants = {"d": ints(*(to or (1, groups, -1))), "e": ints(1, 8, 6, 6), "k": floats(8, 1, 1), "h": floats(8, 1, 1)}
    constants |= {"one": floats(groups), "zero": floats(groups), "axes": ints(*axes)}
    nodes: list[tuple[str, str, str, dict]] = [("Reshape", "a,d", "t", {})]
    if axes:
        nodes += [("ReduceMean", "t", "m", {"axes": list(axes)}), ("Sub", "t,m", "u", {})]
    else:
        nodes += [("InstanceNormalization", "t,one,zero", "u", {})]
    nodes += [("Reshape", "u,e", "v", {}), ("Mul", "v,k", "w", {}), ("Add", "w,h", "b", {})]
    used = {name for _, inputs, _, _ in nodes for name in inputs.split(",")}
    return Example(nodes, {name: value for name, value in constants.items() if name in used}, removable)


QUANTIZED = {"s": np.float32(0.02), "z": np.int8(0)}
NORMAL = {"s": floats(8), "h": floats(8), "m": floats(8), "v": np.abs(floats(8)) + 0.5}

EXAMPLES: dict[str, list[Example]] = {
    **{op: [one(op)] for op in ("Abs", "Ceil", "Cos", "Elu", "Erf", "Exp", "Floor", "HardSigmoid", "HardSwish", "Identity")},
    **{op: [one(op)] for op in ("LeakyRelu", "Neg", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign")},
    **{op: [one(op)] for op in ("Tanh", "ThresholdedRelu", "Celu", "Asinh", "Atan", "Cosh", "Sinh", "Tan")},
    **{op: [one(op)] for op in ("Acos", "Acosh", "Asin", "Atanh")},
    **{op: [one(op, positive=True)] for op in ("Log", "Reciprocal", "Sqrt")},
    **{
        op: [one(op, "a,k", constants={"k": floats(8, 1, 1)}), one(op, "a,k", constants={"k": np.float32(2)})]
        for op in ("Add", "Mul", "Sub", "Div")
    },
    **{op: [one(op, "a,k,a", constants={"k": floats(1, 8, 1, 1)})] for op in ("Max", "Min", "Mean", "Sum")},
    **{op: [compared(op)] for op in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")},
    **{op: [logical(op)] for op in ("And", "Or", "Not", "Xor")},
    **{
        op: [reduced(op, 2, 3), reduced(op, 2, 3, keepdims=0), reduced(op, 2, keepdims=0), reduced(op, 1, removable=False)]
        for op in (
            "ReduceL1",
            "ReduceL2",
            "ReduceLogSumExp",
            "ReduceMax",
            "ReduceMean",
            "ReduceMin",
            "ReduceProd",
            "ReduceSum",
            "ReduceSumSquare",
        )
    },
    "ArgMax": [
        Example([("ArgMax", "a", "t", {"axis": 3}), ("Cast", "t", "b", {"to": 1})]),
        Example([("ArgMax", "a", "t", {"axis": 1, "keepdims": 0}), ("Cast", "t", "b", {"to": 1})], removable=False),
    ],
    "ArgMin": [Example([("ArgMin", "a", "t", {"axis": 2, "keepdims": 0}), ("Cast", "t", "b", {"to": 1})])],
    "AveragePool": [
        one("AveragePool", kernel_shape=[2, 2], strides=[2, 2]),
        one("AveragePool", kernel_shape=[3, 3], pads=[0, 0, 1, 1]),
    ],
    "BatchNormalization": [one("BatchNormalization", "a,s,h,m,v", constants=NORMAL)],
    "Cast": [Example([("Cast", "a", "t", {"to": 11}), ("Cast", "t", "b", {"to": 1})])],
    "Clip": [
        one("Clip", "a,l,u", constants={"l": np.float32(-0.3), "u": np.float32(0.4)}),
        one("Clip", opset=9, min=-0.3, max=0.4),
    ],
    "Concat": [
        Example([("Sigmoid", "a", "t", {}), ("Concat", "a,t,x", "b", {"axis": 1})]),
        Example([("Sigmoid", "a", "t", {}), ("Concat", "a,t", "b", {"axis": 2})]),
        one("Concat", "a,k", constants={"k": floats(1, 8, 2, 6)}, axis=2),
        one("Concat", "a,k", constants={"k": floats(1, 2, 6, 6)}, axis=1),
    ],
    "Conv": [
        layer("Conv", "a,w", {"w": floats(6, 8, 3, 3)}),
        layer("Conv", "a,w,k", {"w": floats(8, 4, 3, 3), "k": floats(8)}, group=2, strides=[2, 2]),
        layer("Conv", "a,w", {"w": floats(16, 1, 3, 3)}, group=8),
        layer("Conv", "a,w", {"w": floats(4, 2, 1, 1)}, group=4),
        Example([("Reshape", "a,d", "t", {}), ("Conv", "t,w", "b", {})], {"d": ints(1, 8, 36), "w": floats(5, 8, 3)}),
    ],
    "ConvTranspose": [
        layer("ConvTranspose", "a,w,k", {"w": floats(8, 6, 2, 2), "k": floats(6)}, strides=[2, 2]),
        layer("ConvTranspose", "a,w", {"w": floats(8, 3, 2, 2)}, group=2),
        layer("ConvTranspose", "a,w", {"w": floats(8, 2, 2, 2)}, group=8),
    ],
    "DepthToSpace": [one("DepthToSpace", blocksize=2), one("DepthToSpace", blocksize=2, mode="CRD")],
    "DequantizeLinear": [Example([("QuantizeLinear", "a,s,z", "q", {}), ("DequantizeLinear", "q,s,z", "b", {})], QUANTIZED)],
    "Dropout": [one("Dropout")],
    "Expand": [
        one("Expand", "a,d", constants={"d": ints(2, 1, 8, 1, 1)}),
        Example([("ReduceMean", "a", "t", {"axes": [2, 3]}), ("Expand", "t,d", "b", {})], {"d": ints(1, 8, 4, 4)}),
        Example(
            [("Slice", "a,o,p,o", "t", {}), ("Expand", "t,d", "b", {})], {"o": ints(1), "p": ints(2), "d": ints(1, 5, 1, 1)}
        ),
    ],
    "Flatten": [one("Flatten"), one("Flatten", axis=2)],
    "Gather": [
        one("Gather", "a,i", constants={"i": ints(3, 1, 1, 7)}, axis=1),
        one("Gather", "a,i", constants={"i": np.int64(2)}, axis=3),
        one("Gather", "a,i", constants={"i": np.array([[0, 1], [2, 3]])}, axis=2),
        one("Gather", "a,i", constants={"i": np.int64(2)}, axis=1, removable=False),
    ],
    "Gelu": [one("Gelu", opset=20)],
    "Gemm": [
        Example([("Flatten", "a", "t", {}), ("Gemm", "t,w,k", "b", {"transB": 1})], {"w": floats(5, 288), "k": floats(5)}),
        Example([("Flatten", "a", "t", {}), ("Gemm", "t,w,k", "b", {"alpha": 0.5})], {"w": floats(288, 5), "k": floats(1)}),
    ],
    "GroupNormalization": [
        one("GroupNormalization", "a,s,h", constants=NORMAL, opset=21, num_groups=4, epsilon=0.1),
        one("GroupNormalization", "a,s,h", constants=NORMAL, opset=22, num_groups=8),
        one("GroupNormalization", "a,s,h", constants=NORMAL, opset=21, num_groups=1, removable=False),
    ],
    "Hardmax": [one("Hardmax", axis=3), one("Hardmax", axis=1, removable=False)],
    "LpPool": [one("LpPool", kernel_shape=[2, 2])],
    "GlobalLpPool": [one("GlobalLpPool")],
    "Mod": [one("Mod", "a,k", constants={"k": np.float32(0.3)}, fmod=1)],
    "ReduceLogSum": [reduced("ReduceLogSum", 2, 3), reduced("ReduceLogSum", 1, removable=False)],
    "Shrink": [one("Shrink", lambd=0.2)],
    "GlobalAveragePool": [one("GlobalAveragePool")],
    "GlobalMaxPool": [one("GlobalMaxPool")],
    "InstanceNormalization": [
        one("InstanceNormalization", "a,s,h", constants=NORMAL),
        grouped(4),
        grouped(2),
        grouped(8),
        grouped(1, removable=False),
        grouped(2, to=(1, 2, 4, 6, 6), axes=(2, 3, 4)),
    ],
    "LRN": [one("LRN", size=3, removable=False)],
    "LayerNormalization": [
        one("LayerNormalization", "a,k", constants={"k": floats(6)}, axis=-1),
        one("LayerNormalization", "a,k", constants={"k": floats(8, 6, 6)}, axis=1, removable=False),
    ],
    "LogSoftmax": [one("LogSoftmax", axis=3), one("LogSoftmax", axis=1, removable=False)],
    "LpNormalization": [one("LpNormalization", axis=2), one("LpNormalization", axis=1, removable=False)],
    "MatMul": [
        Example([("Transpose", "a", "t", {"perm": [0, 2, 3, 1]}), ("MatMul", "t,w", "b", {})], {"w": floats(8, 5)}),
        one("MatMul", "a,w", constants={"w": floats(6, 5)}),
        Example([("Transpose", "a", "t", {"perm": [0, 1, 3, 2]}), ("MatMul", "a,t", "b", {})], removable=False),
    ],
    "MaxPool": [one("MaxPool", kernel_shape=[2, 2]), one("MaxPool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)],
    "Mish": [one("Mish", opset=18)],
    "PRelu": [one("PRelu", "a,k", constants={"k": floats(8, 1, 1)}), one("PRelu", "a,k", constants={"k": floats(1)})],
    "Pad": [
        one("Pad", "a,p", constants={"p": ints(0, 0, 1, 1, 0, 0, 1, 1)}),
        one("Pad", "a,p,k", constants={"p": ints(0, 2, 0, 0, 0, 3, 0, 0), "k": np.float32(0.5)}),
        one("Pad", "a,p", constants={"p": ints(0, 0, 1, 1, 0, 0, 1, 1)}, mode="reflect"),
        one("Pad", "a,p,k", constants={"p": ints(0, 0, 1, 1, 0, 0, 1, 1), "k": np.float32(0.5)}, mode="edge"),
        one("Pad", opset=9, pads=[0, 1, 0, 0, 0, 0, 0, 1]),
        one("Pad", "a,p,,k", constants={"p": ints(1, 2), "k": ints(1)}, opset=18),
    ],
    "Pow": [one("Pow", "a,k", constants={"k": np.float32(2)})],
    "QuantizeLinear": [Example([("QuantizeLinear", "a,s,z", "q", {}), ("DequantizeLinear", "q,s,z", "b", {})], QUANTIZED)],
    "Reshape": [
        one("Reshape", "a,d", constants={"d": ints(1, 8, 36)}),
        one("Reshape", "a,d", constants={"d": ints(0, 2, 4, -1)}),
        one("Reshape", "a,d", constants={"d": ints(1, 288)}),
        one("Reshape", "a,d", constants={"d": ints(1, 8, 2, 3, 6)}, opset=14, allowzero=1),
    ],
    "Resize": [
        one("Resize", "a,,k", constants={"k": np.float32([1, 1, 2, 2])}, mode="nearest"),
        one("Resize", "a,,,k", constants={"k": ints(1, 8, 9, 9)}, mode="linear"),
        one("Resize", "a,k", constants={"k": np.float32([1, 1, 2, 2])}, opset=10, mode="nearest"),
        one("Resize", "a,,,k", constants={"k": ints(9, 9)}, opset=18, mode="nearest", axes=[2, 3]),
    ],
    "Slice": [
        one("Slice", "a,l,u,e", constants={"l": ints(1), "u": ints(6), "e": ints(1)}),
        one("Slice", "a,l,u,e", constants={"l": ints(-3), "u": ints(2**62), "e": ints(1)}),
        one("Slice", "a,l,u,e,s", constants={"l": ints(0, 5), "u": ints(8, -(2**62)), "e": ints(1, 2), "s": ints(1, -2)}),
        one("Slice", "a,l,u,e,s", constants={"l": ints(0), "u": ints(8), "e": ints(1), "s": ints(2)}, removable=False),
        one("Slice", opset=9, starts=[2, 0], ends=[8, 5], axes=[1, 2]),
    ],
    "Softmax": [one("Softmax", axis=-1), one("Softmax", axis=1, removable=False), one("Softmax", axis=3, opset=11)],
    "SpaceToDepth": [one("SpaceToDepth", blocksize=2)],
    "Split": [
        Example([("Split", "a,p", "t,u", {"axis": 1}), ("Concat", "u,t", "b", {"axis": 1})], {"p": ints(3, 5)}),
        Example([("Split", "a", "t,b", {"axis": 1})]),
        Example([("Split", "a", "t,b", {"axis": 1, "num_outputs": 2})], opset=18),
        Example([("Split", "a", "b,t", {"axis": 1, "split": [6, 2]})], opset=9),
        Example([("Split", "a", "b,t", {"axis": 2})]),
    ],
    "Squeeze": [Example([("GlobalMaxPool", "a", "t", {}), ("Squeeze", "t,k", "b", {})], {"k": ints(2, 3)})],
    "Swish": [one("Swish", opset=24)],
    "Tile": [one("Tile", "a,k", constants={"k": ints(1, 2, 1, 3)})],
    "TopK": [
        Example([("TopK", "a,k", "b,i", {"axis": 3})], {"k": ints(2)}),
        Example([("TopK", "a,k", "b,i", {"axis": 1})], {"k": ints(2)}, removable=False),
    ],
    "Transpose": [one("Transpose", perm=[0, 2, 3, 1]), one("Transpose"), one("Transpose", perm=[1, 0, 2, 3])],
    "Unsqueeze": [one("Unsqueeze", "a,k", constants={"k": ints(1, 5)}), one("Unsqueeze", opset=11, axes=[0])],
    "Upsample": [one("Upsample", "a,k", constants={"k": np.float32([1, 1, 2, 2])}, opset=9)],
    "Where": [Example([("Greater", "a,z", "t", {}), ("Where", "t,a,k", "b", {})], {"z": np.float32(0), "k": floats(8, 1, 1)})],
}
CASES = [
    pytest.param(example, id=f"{op}-{index}") for op, examples in EXAMPLES.items() for index, example in enumerate(examples)
]


def labelled(example: Example) -> tuple[onnx.ModelProto, Channels]:
    model = example.model()
    return model, label(network.from_proto(model, "net.onnx", accept=ops.accept("net.onnx")))


def test_every_operator_of_the_table_has_an_example() -> None:
    assert set(EXAMPLES) == set(OPS)


@pytest.mark.parametrize("example", CASES)
def test_loading_changes_nothing_and_a_cut_equals_its_mask(example: Example) -> None:
    model, channels = labelled(example)
    inputs = feed(model)
    try:
        expected = run(model, inputs)
    except Exception as error:
        if "NOT_IMPLEMENTED" in str(error) or "opset" in str(error).lower():
            pytest.skip("this onnxruntime has no kernel for it")
        raise
    assert difference(run(channels.network, inputs), expected) == 0
    conv = channels.network.nodes[0].name
    assert any(group.removable and conv in group.nodes for group in channels.groups) == example.removable
    for seed in range(3 if channels.groups else 0):
        keep = random_selection(channels, 0.4, seed)
        assert difference(run(channels.cut(keep), inputs), run(channels.masked(keep), inputs)) <= 1e-5


@pytest.mark.parametrize("example", CASES)
def test_costs_at_widths_are_those_of_the_cut_network(example: Example) -> None:
    _, channels = labelled(example)
    keep = random_selection(channels, 0.4, 0)
    measured = profile(channels.cut(keep)).total
    predicted = CostModel(channels).at(channels.widths(keep))
    assert predicted == {key: measured[key] for key in predicted}


@pytest.mark.parametrize("example", CASES)
def test_frozen_channels_say_why(example: Example) -> None:
    _, channels = labelled(example)
    assert all(group.why for group in channels.frozen)
    assert channels.frozen or example.removable


def test_transposed_data_of_a_gemm_is_refused() -> None:
    example = Example([("Flatten", "a", "t", {}), ("Gemm", "t,w", "b", {"transA": 1})], {"w": floats(1, 5)})
    with pytest.raises(UnsupportedOperator, match="transA"):
        labelled(example)


def test_the_list_in_the_docs_is_that_of_the_table() -> None:
    page = Path(__file__).parents[1] / "docs" / "operators.md"
    assert page.read_text().startswith(ops.table(LOWERINGS)), "stale: run `make docs`"
