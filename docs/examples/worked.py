"""The network that docs/numbers.md counts by hand: two branches, each wide inside and thin at its end, then their sum.

``python docs/examples/worked.py`` writes ``worked.onnx`` beside this file. Weights are random, from a fixed seed.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def worked() -> onnx.ModelProto:
    """Input ``x`` (1, 2, 4, 4), output ``y`` (1, 3)."""
    draw = np.random.default_rng(0)
    shapes = {"fc.weight": (3, 2), "fc.bias": (3,)}
    for branch in "ab":
        shapes |= {f"{branch}1.weight": (8, 2, 3, 3), f"{branch}1.bias": (8,)}
        shapes |= {f"{branch}2.weight": (2, 8, 1, 1), f"{branch}2.bias": (2,)}
    weights = {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}

    def conv(name: str, data: str, pad: int) -> onnx.NodeProto:
        return helper.make_node("Conv", [data, f"{name}.weight", f"{name}.bias"], [f"{name}.out"], name, pads=[pad] * 4)

    nodes = [
        conv("a1", "x", 1),
        helper.make_node("Relu", ["a1.out"], ["a1.relu"], "a1relu"),
        conv("b1", "x", 1),
        helper.make_node("Relu", ["b1.out"], ["b1.relu"], "b1relu"),
        conv("a2", "a1.relu", 0),
        conv("b2", "b1.relu", 0),
        helper.make_node("Add", ["a2.out", "b2.out"], ["sum"], "add"),
        helper.make_node("GlobalAveragePool", ["sum"], ["mean"], "pool"),
        helper.make_node("Flatten", ["mean"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "fc.weight", "fc.bias"], ["y"], "fc", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "worked",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


if __name__ == "__main__":
    onnx.save(worked(), Path(__file__).with_suffix(".onnx"))
