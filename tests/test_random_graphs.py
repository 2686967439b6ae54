"""Random small networks of all blocks at once, random legal selections: masked = sliced = measured again."""

from __future__ import annotations

import random

import numpy as np
import onnx
from conftest import difference, feed, random_selection, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from mcuprune.channels.labelling import label
from mcuprune.costs.resources import CostModel, profile
from mcuprune.graph import network
from mcuprune.operators import table as ops


class Builder:
    """Adds random nodes to a graph; ``tensors`` maps what there is to its (channels, side)."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.tensors: dict[str, tuple[int, int]] = {"x": (3, 8)}

    def add(self, op: str, inputs: list[str], channels: int, side: int, n_outputs: int = 1, **attrs: object) -> str:
        outputs = [f"t{len(self.nodes)}_{i}" for i in range(n_outputs)]
        self.nodes.append(helper.make_node(op, inputs, outputs, name=f"{op}_{len(self.nodes)}", **attrs))
        self.tensors[outputs[0]] = (channels, side)
        return outputs[0]

    def constant(self, value: np.ndarray) -> str:
        name = f"k{len(self.constants)}"
        self.constants[name] = value
        return name

    def weight(self, *shape: int) -> str:
        scale = np.sqrt(max(1, np.prod(shape[1:])))
        return self.constant((self.random.normal(size=shape) / scale).astype(np.float32))

    def any(self) -> str:
        return self.draw.choice(list(self.tensors)[-4:])

    def conv(self, x: str, out: int, kernel: int = 1, group: int = 1, stride: int = 1) -> str:
        channels, side = self.tensors[x]
        inputs = [x, self.weight(out, channels // group, kernel, kernel)]
        if self.draw.random() < 0.5:
            inputs.append(self.weight(out))
        pads = [kernel // 2] * 4
        made = self.add("Conv", inputs, out, -(-side // stride), pads=pads, strides=[stride, stride], group=group)
        return self.add(self.draw.choice(("Relu", "Tanh", "Sigmoid", "HardSwish")), [made], *self.tensors[made])

    def step(self) -> None:
        x = self.any()
        channels, side = self.tensors[x]
        kinds = ("conv", "grouped", "depthwise", "add", "concat", "slice", "split", "shuffle", "gather", "pad", "gate", "norm")
        kind = self.draw.choice((*kinds, "pool", "prelu", "pixel", "up", "scale"))
        divisors = [g for g in range(2, channels) if channels % g == 0]
        if kind == "conv":
            self.conv(x, self.draw.randint(2, 12), self.draw.choice((1, 3)))
        elif kind == "grouped" and divisors:
            group = self.draw.choice(divisors)
            self.conv(x, group * self.draw.randint(1, 4), self.draw.choice((1, 3)), group)
        elif kind == "depthwise":
            self.conv(x, channels * self.draw.choice((1, 1, 2)), 3, channels)
        elif kind == "add":
            other = self.any()
            if self.tensors[other] == self.tensors[x]:
                self.add(self.draw.choice(("Add", "Mul", "Max")), [x, other], channels, side)
            elif self.tensors[other][1] == side:
                self.add("Add", [x, self.conv(other, channels)], channels, side)
        elif kind == "concat":
            others = [name for name, (_, s) in self.tensors.items() if s == side][-3:]
            self.add("Concat", [x, *others], channels + sum(self.tensors[name][0] for name in others), side, axis=1)
        elif kind == "slice" and channels > 2:
            first = self.draw.randint(0, channels - 2)
            last = self.draw.randint(first + 1, channels)
            bounds = [self.constant(np.array([value])) for value in (first, last, 1)]
            self.add("Slice", [x, *bounds], last - first, side)
        elif kind == "split" and channels > 2:
            first = self.draw.randint(1, channels - 1)
            sizes = self.constant(np.array([first, channels - first]))
            made = self.add("Split", [x, sizes], first, side, 2, axis=1)
            self.tensors[made[:-1] + "1"] = (channels - first, side)
        elif kind == "shuffle" and divisors:
            group = self.draw.choice(divisors)
            shape = self.constant(np.array([0, group, channels // group, side, side]))
            back = self.constant(np.array([0, channels, side, side]))
            spread = self.add("Reshape", [x, shape], 0, 0)
            turned = self.add("Transpose", [spread], 0, 0, perm=[0, 2, 1, 3, 4])
            del self.tensors[spread], self.tensors[turned]
            self.add("Reshape", [turned, back], channels, side)
        elif kind == "gather":
            indices = self.random.integers(0, channels, self.draw.randint(1, channels + 2))
            self.add("Gather", [x, self.constant(indices)], len(indices), side, axis=1)
        elif kind == "pad":
            before, after = self.draw.randint(0, 2), self.draw.randint(0, 2)
            pads = self.constant(np.array([0, before, 0, 0, 0, after, 0, 0]))
            self.add("Pad", [x, pads], channels + before + after, side)
        elif kind == "gate":
            pooled = self.add("GlobalAveragePool", [x], channels, 1)
            self.add("Mul", [x, self.conv(self.conv(pooled, 4), channels)], channels, side)
        elif kind == "norm":
            parts = [self.constant(self.random.uniform(0.5, 1.5, channels).astype(np.float32)) for _ in range(4)]
            self.add("BatchNormalization", [x, *parts], channels, side)
        elif kind == "pool" and side > 2:
            op = self.draw.choice(("MaxPool", "AveragePool"))
            self.add(op, [x], channels, side // 2, kernel_shape=[2, 2], strides=[2, 2])
        elif kind == "prelu":
            self.add("PRelu", [x, self.weight(channels, 1, 1)], channels, side)
        elif kind == "pixel" and channels % 4 == 0 and side < 16:
            self.add("DepthToSpace", [x], channels // 4, side * 2, blocksize=2, mode=self.draw.choice(("DCR", "CRD")))
        elif kind == "up" and side < 16:
            scales = self.constant(np.float32([1, 1, 2, 2]))
            self.add("Resize", [x, "", scales], channels, side * 2, mode="nearest")
        elif kind == "scale":
            self.add("Mul", [x, self.weight(1, channels, 1, 1)], channels, side)

    def model(self, steps: int) -> onnx.ModelProto:
        self.conv("x", 8, 3)
        for _ in range(steps):
            self.step()
        side_output = self.any()
        heads = [self.add("GlobalAveragePool", [name], self.tensors[name][0], 1) for name in list(self.tensors)[-3:]]
        total = sum(self.tensors[name][0] for name in heads)
        joined = self.add("Concat", heads, total, 1, axis=1)
        flat = self.add("Flatten", [joined], total, 1)
        last = self.add("Gemm", [flat, self.weight(4, total), self.weight(4)], 4, 1, transB=1)
        outputs = [last] + ([side_output] if side_output != "x" and self.draw.random() < 0.3 else [])
        graph = helper.make_graph(
            self.nodes,
            "random",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
            [
                helper.make_tensor_value_info(n, TensorProto.FLOAT, list("nchw" if n != last else "nc"))
                for n in dict.fromkeys(outputs)
            ],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(seed=st.integers(0, 2**31), steps=st.integers(2, 14), share=st.floats(0.1, 0.9))
def test_masked_is_sliced_is_measured_again(seed: int, steps: int, share: float) -> None:
    model = Builder(seed).model(steps)
    net = network.from_proto(model, "net.onnx", accept=ops.accept("net.onnx"))
    channels = label(net)
    inputs = feed(model, seed=seed, batch=2)
    assert difference(run(channels.network, inputs), run(model, inputs)) <= 1e-5
    keep = random_selection(channels, share, seed)
    cut = channels.cut(keep)
    assert difference(run(cut, inputs), run(channels.masked(keep), inputs)) <= 1e-5
    onnx.checker.check_model(cut.to_proto(), full_check=True)
    measured = profile(cut).total
    predicted = CostModel(channels).at(channels.widths(keep))
    assert predicted == {key: measured[key] for key in predicted}
