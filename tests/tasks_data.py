"""Small networks and data of each kind of task, made in code: tests of tasks train on them."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from mcuprune.graph import network
from mcuprune.graph.network import Network


class Layers:
    """Nodes of a network as they are added; weights by He's rule, from a seed."""

    def __init__(self, seed: int = 0) -> None:
        self.draw = np.random.default_rng(seed)
        self.nodes: list[object] = []
        self.weights: dict[str, np.ndarray] = {}

    def add(self, op: str, inputs: list[str], **attrs: object) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], f"{op}{len(self.nodes)}", **attrs))
        return name

    def constant(self, value: np.ndarray) -> str:
        name = f"c{len(self.weights)}"
        self.weights[name] = value
        return name

    def conv(self, x: str, into: int, out: int, kernel: int = 3, stride: int = 1, *, relu: bool = True) -> str:
        scale = np.sqrt(2 / (into * kernel**2))
        w = self.constant((self.draw.standard_normal((out, into, kernel, kernel)) * scale).astype(np.float32))
        b = self.constant((self.draw.standard_normal(out) * 0.01).astype(np.float32))
        y = self.add("Conv", [x, w, b], strides=[stride] * 2, pads=[kernel // 2] * 4, kernel_shape=[kernel] * 2)
        return self.add("Relu", [y]) if relu else y

    def dense(self, x: str, into: int, out: int, *, relu: bool = False) -> str:
        w = self.constant((self.draw.standard_normal((into, out)) * np.sqrt(2 / into)).astype(np.float32))
        b = self.constant((self.draw.standard_normal(out) * 0.01).astype(np.float32))
        y = self.add("Gemm", [x, w, b])
        return self.add("Relu", [y]) if relu else y

    def up(self, x: str) -> str:
        scales = self.constant(np.array([1, 1, 2, 2], np.float32))
        return self.add("Resize", [x, "", scales], mode="nearest")

    def net(
        self, inputs: dict[str, list[int]], outputs: dict[str, tuple[str, list[int]]], dtype: int = TensorProto.FLOAT
    ) -> Network:
        """outputs: name -> the tensor that it is, and its shape without the batch. dtype: of all outputs."""
        for name, (tensor, _) in outputs.items():
            self.nodes.append(helper.make_node("Identity", [tensor], [name], f"to_{name}"))
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *shape]) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(name, dtype, ["n", *shape]) for name, (_, shape) in outputs.items()],
            [numpy_helper.from_array(value, name) for name, value in self.weights.items()],
        )
        proto: ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return network.from_proto(proto, "net.onnx")


def vector_net(outputs: int, ending: str | None = None, *, inputs: int = 8) -> Network:
    """A row of numbers -> 24 and 16 hidden units -> a row."""
    layers = Layers()
    y = layers.dense(layers.dense(layers.dense("x", inputs, 24, relu=True), 24, 16, relu=True), 16, outputs)
    if ending:
        y = layers.add(ending, [y])
    return layers.net({"x": [inputs]}, {"y": (y, [outputs])})


def unet(size: int = 16, classes: int = 3, width: int = 8, *, ending: str | None = None) -> Network:
    """Two levels with a skip connection: (1, size, size) -> (classes, size, size)."""
    layers = Layers()
    top = layers.conv("x", 1, width)
    low = layers.conv(layers.conv(top, width, 2 * width, stride=2), 2 * width, 2 * width)
    joined = layers.add("Concat", [layers.up(low), top], axis=1)
    y = layers.conv(layers.conv(joined, 3 * width, width), width, classes, 1, relu=False)
    if ending:
        y = layers.add(ending, [y], **({"axis": 1} if ending == "Softmax" else {}))
    return layers.net({"x": [1, size, size]}, {"y": (y, [classes, size, size])})


def fusion(outputs: int = 3) -> Network:
    """Two inputs, an image (1, 8, 8) and a row of 6 numbers, that meet before the last layers."""
    layers = Layers()
    seen = layers.add("Flatten", [layers.add("GlobalAveragePool", [layers.conv(layers.conv("image", 1, 8, stride=2), 8, 16)])])
    felt = layers.dense("row", 6, 12, relu=True)
    y = layers.dense(layers.dense(layers.add("Concat", [seen, felt], axis=1), 28, 16, relu=True), 16, outputs)
    return layers.net({"image": [1, 8, 8], "row": [6]}, {"y": (y, [outputs])})


def shapes(count: int, size: int = 16, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Grey images (n, 1, size, size) of a bright disc and a dark square in noise, and masks: 0 ground, 1 disc, 2 square."""
    draw = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    at = draw.uniform(0.2, 0.8, (count, 2, 2)) * size
    disc = np.hypot(rows - at[:, 0, 0, None, None], columns - at[:, 0, 1, None, None]) < size / 5
    square = np.maximum(abs(rows - at[:, 1, 0, None, None]), abs(columns - at[:, 1, 1, None, None])) < size / 6
    masks = np.where(square, 2, np.where(disc, 1, 0))
    x = np.select([masks == 1, masks == 2], [1.0, -1.0], 0.0) + draw.normal(0, 0.4, masks.shape)
    return x[:, None].astype(np.float32), masks.astype(np.int64)


def rows(count: int, seed: int = 0, width: int = 8) -> np.ndarray:
    """Numbers (n, width)."""
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


def split(make: object, train: int = 512, test: int = 256) -> dict[str, np.ndarray]:
    """Six arrays from a function (count, seed) -> (x, y)."""
    arrays: dict[str, np.ndarray] = {}
    for part, count, seed in (("train", train, 1), ("val", test, 2), ("test", test, 3)):
        arrays[f"x_{part}"], arrays[f"y_{part}"] = make(count, seed)  # type: ignore[operator]
    return arrays


#: What targets of rows are made with.
_MIX = np.random.default_rng(9).standard_normal((8, 4)).astype(np.float32)


def curves(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows, and two numbers that are a bent function of them."""
    x = rows(count, seed)
    return x, np.tanh(x @ _MIX[:, :2]) + 0.5 * x[:, :2]


def yes_or_no(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows, and on which side of a bent border they lie: 0 or 1."""
    x = rows(count, seed)
    return x, ((x @ _MIX[:, 0] + x[:, 1] ** 2 - 1) > 0).astype(np.int64)


def several_labels(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows, and four labels that each may have or not."""
    x = rows(count, seed)
    return x, ((x @ _MIX) > 0).astype(np.int64)


def of_each_task() -> dict[str, tuple[Network, dict[str, np.ndarray]]]:
    """A small network and few examples of each task that isn't classification, by the name of its figure."""
    nobody = {f"x_{part}": rows(32, seed) for seed, part in enumerate(("train", "val", "test"))}
    return {
        "mae": (vector_net(2), split(curves, 64, 32)),
        "f1": (vector_net(4, "Sigmoid"), split(several_labels, 64, 32)),
        "miou": (unet(8, width=4), split(lambda count, seed: shapes(count, 8, seed), 32, 16)),
        "agreement": (vector_net(3), nobody),
    }


def fused(train: int = 512, test: int = 256) -> dict[str, np.ndarray]:
    """Images and rows for ``fusion``: the class is the brightness of one, moved by a number of the other."""
    arrays = {}
    for part, count, seed in (("train", train, 1), ("val", test, 2), ("test", test, 3)):
        draw = np.random.default_rng(seed)
        bright = draw.integers(0, 3, count)
        arrays[f"x0_{part}"] = (draw.standard_normal((count, 1, 8, 8)) + bright[:, None, None, None]).astype(np.float32)
        arrays[f"x1_{part}"] = rows(count, seed + 50, 6)
        arrays[f"y_{part}"] = (bright + (arrays[f"x1_{part}"][:, 0] > 0)) % 3
    return arrays
