"""A short way to write small ONNX networks node by node, and the public networks that tests count by hand."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mcuprune.graph import network
from mcuprune.graph.network import Network
from mcuprune.operators import table as ops


class Graph:
    """An ONNX model in the making. Methods add a node and return its first output's name."""

    def __init__(self, *shape: int, opset: int = 17, name: str = "x") -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape or (1, 3, 8, 8))]
        self.draw = np.random.default_rng(0)

    def input(self, name: str, *shape: int) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def constant(self, *shape: int, name: str | None = None) -> str:
        """A constant of random floats."""
        return self.value(self.draw.normal(size=shape).astype(np.float32), name)

    def value(self, value: np.ndarray, name: str | None = None) -> str:
        name = name or f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, op: str, *inputs: str, outputs: int = 1, **attrs: Any) -> str:
        name = f"{op.lower()}{len(self.nodes)}"
        made = [name if i == 0 else f"{name}.{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, made, name=name, **attrs))
        return name

    def conv(
        self,
        x: str,
        n_in: int,
        n_out: int,
        kernel: int | tuple[int, int] = 3,
        *,
        bias: bool = True,
        group: int = 1,
        **attrs: Any,
    ) -> str:
        k = (kernel, kernel) if isinstance(kernel, int) else kernel
        attrs.setdefault("pads", [k[0] // 2, k[1] // 2, k[0] // 2, k[1] // 2])
        weight = self.constant(n_out, n_in // group, *k)
        return self.add("Conv", x, weight, *([self.constant(n_out)] if bias else []), group=group, **attrs)

    def norm(self, x: str, channels: int) -> str:
        scale, shift, mean = (self.constant(channels) for _ in range(3))
        variance = self.value(np.ones(channels, np.float32))
        return self.add("BatchNormalization", x, scale, shift, mean, variance)

    def dense(self, x: str, n_in: int, n_out: int) -> str:
        return self.add("Gemm", x, self.constant(n_in, n_out), self.constant(n_out))

    def classifier(self, x: str, n_in: int, n_out: int) -> str:
        return self.dense(self.add("Flatten", self.add("GlobalAveragePool", x)), n_in, n_out)

    def model(self, *outputs: str) -> onnx.ModelProto:
        declared = [helper.make_empty_tensor_value_info(name) for name in outputs]
        graph = helper.make_graph(self.nodes, "g", self.inputs, declared, self.initializers)
        found = onnx.shape_inference.infer_shapes(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)]), strict_mode=True
        )
        del found.graph.value_info[:]
        return found

    def net(self, *outputs: str) -> Network:
        return network.from_proto(self.model(*outputs), "net.onnx", accept=ops.accept("net.onnx"))


def resnet8(*, norm: bool = False) -> Network:
    """The image classification network of MLPerf Tiny; ``norm``: with BatchNormalizations instead of biases."""
    g = Graph(1, 3, 32, 32)

    def conv(x: str, n_in: int, n_out: int, kernel: int = 3, stride: int = 1) -> str:
        pads = [0, 0, 1, 1] if stride == 2 and kernel == 3 else [kernel // 2] * 4
        y = g.conv(x, n_in, n_out, kernel, bias=not norm, strides=[stride, stride], pads=pads)
        return g.norm(y, n_out) if norm else y

    x = g.add("Relu", conv("x", 3, 16))
    for n_in, n_out in ((16, 16), (16, 32), (32, 64)):
        stride = 1 if n_in == n_out else 2
        y = g.add("Relu", conv(x, n_in, n_out, stride=stride))
        y = conv(y, n_out, n_out)
        shortcut = x if stride == 1 else conv(x, n_in, n_out, 1, stride)
        x = g.add("Relu", g.add("Add", shortcut, y))
    return g.net(g.add("Softmax", g.classifier(x, 64, 10)))


def dscnn() -> Network:
    """The keyword spotting network of MLPerf Tiny, for 49 x 10 MFCC features: TensorFlow's SAME padding."""
    g = Graph(1, 1, 49, 10)
    x = g.add("Relu", g.conv("x", 1, 64, (10, 4), strides=[2, 2], auto_pad="SAME_UPPER", pads=None))
    for _ in range(4):
        x = g.add("Relu", g.conv(x, 64, 64, group=64))
        x = g.add("Relu", g.conv(x, 64, 64, 1))
    return g.net(g.add("Softmax", g.classifier(x, 64, 12)))


def mobilenet() -> Network:
    """The person detection network of MLPerf Tiny: MobileNetV1 of a quarter width, 96 x 96 pixels."""
    g = Graph(1, 3, 96, 96)
    x = g.add("Relu", g.conv("x", 3, 8, strides=[2, 2], pads=[0, 0, 1, 1]))
    n_in = 8
    for n_out, stride in ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *[(128, 1)] * 5, (256, 2), (256, 1)):
        pads = [0, 0, 1, 1] if stride == 2 else [1, 1, 1, 1]
        x = g.add("Relu", g.conv(x, n_in, n_in, group=n_in, strides=[stride, stride], pads=pads))
        x = g.add("Relu", g.conv(x, n_in, n_out, 1))
        n_in = n_out
    return g.net(g.add("Softmax", g.classifier(x, 256, 2)))


def autoencoder() -> Network:
    """The anomaly detection network of MLPerf Tiny."""
    g = Graph(1, 640)
    x, widths = "x", (640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640)
    for index, (n_in, n_out) in enumerate(pairwise(widths)):
        x = g.dense(x, n_in, n_out)
        x = g.add("Relu", x) if index < 9 else x
    return g.net(x)
