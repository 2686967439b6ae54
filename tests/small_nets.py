"""Small networks for tests of reports and commands: built in code, with numbers that a hand can count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def conv(
    name: str, data: str, out: str, into: int, outof: int, weights: dict[str, np.ndarray], kernel: int = 3
) -> onnx.NodeProto:
    weights[f"{name}.w"] = np.full((outof, into, kernel, kernel), 0.1, np.float32)
    weights[f"{name}.b"] = np.zeros(outof, np.float32)
    pads = [kernel // 2] * 4
    return helper.make_node("Conv", [data, f"{name}.w", f"{name}.b"], [out], name, kernel_shape=[kernel, kernel], pads=pads)


def model(
    nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], inputs: dict, outputs: dict, opset: int = 17
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def residual(width: int = 8, *, batch: int | str = 1) -> onnx.ModelProto:
    """Input 1x3x8x8, a convolution to ``width`` channels, a residual block, global pooling, ten classes."""
    weights: dict[str, np.ndarray] = {"fc.w": np.full((10, width), 0.1, np.float32), "fc.b": np.zeros(10, np.float32)}
    nodes = [
        conv("stem", "x", "s", 3, width, weights),
        helper.make_node("Relu", ["s"], ["r"], "relu"),
        conv("c1", "r", "a", width, width, weights),
        helper.make_node("Relu", ["a"], ["ar"], "relu1"),
        conv("c2", "ar", "b", width, width, weights),
        helper.make_node("Add", ["b", "r"], ["sum"], "add"),
        helper.make_node("GlobalAveragePool", ["sum"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "fc.w", "fc.b"], ["y"], "fc", transB=1),
    ]
    return model(nodes, weights, {"x": [batch, 3, 8, 8]}, {"y": [batch, 10]})


def branches() -> onnx.ModelProto:
    """Two branches from the input: the file's order computes both wide tensors first, the best order one after the other."""
    weights: dict[str, np.ndarray] = {}
    nodes = []
    for side in "ab":
        nodes.append(conv(f"{side}1", "x", f"{side}wide", 2, 16, weights))
    for side in "ab":
        nodes.append(conv(f"{side}2", f"{side}wide", f"{side}thin", 16, 2, weights))
    nodes.append(helper.make_node("Add", ["athin", "bthin"], ["y"], "join"))
    return model(nodes, weights, {"x": [1, 2, 8, 8]}, {"y": [1, 2, 8, 8]})


def save(proto: onnx.ModelProto, path: Path) -> str:
    onnx.save(proto, path)
    return str(path)
