"""Networks of layers drawn by chance: the kinds of layers that generated C has, in shapes and orders that nobody would write.

A network is drawn from a seed, layer by layer; each reads what some layer before made. What nobody reads is an output of the
network, mostly, and now and then what others read, too.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Shape = tuple[int, ...]
_ACTIVATIONS = ("Relu", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "LeakyRelu", "Elu", "Neg", "Abs", "Softmax", "Identity")


class Layers:
    """A network in the making. shapes: of all tensors that a layer may read, in the order in which they were made."""

    def __init__(self, seed: int) -> None:
        self.chance, self.numbers = random.Random(seed), np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        size = self.chance.randint
        self.inputs: dict[str, Shape] = {"x0": (1, size(1, 9), size(1, 12), size(1, 12))}
        if self.chance.random() < 0.3:
            self.inputs["x1"] = self.inputs["x0"] if size(0, 1) else (1, size(1, 9), size(1, 12), size(1, 12))
        self.shapes = dict(self.inputs)

    # ------------------------------------------------------------------------------------------------------- parts

    def constant(self, value: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), f"c{len(self.constants)}"))
        return str(self.constants[-1].name)

    def weight(self, *shape: int) -> str:
        return self.constant((self.numbers.normal(size=shape) / np.sqrt(max(1, np.prod(shape[1:])))).astype(np.float32))

    def add(self, op: str, inputs: Sequence[str], *shapes: Sequence[int], **attrs: Any) -> str:
        name = f"{op.lower()}{len(self.nodes)}"
        outputs = [f"{name}.{i}" if i else name for i in range(max(1, len(shapes)))]
        self.nodes.append(helper.make_node(op, inputs, outputs, name=name, **attrs))
        self.shapes.update({output: tuple(shape) for output, shape in zip(outputs, shapes, strict=False)})
        return name

    def image(self) -> str:
        """The last tensor, mostly, or another of the last few."""
        images = [name for name, shape in self.shapes.items() if len(shape) == 4]
        return images[-1] if self.chance.random() < 0.65 else self.chance.choice(images[-5:])

    def like(self, x: str, axis: int | None = None) -> str:
        """A tensor of the shape of ``x``, but for one axis: another, or a convolution of ``x``."""
        shape = self.shapes[x]
        rest = [i for i in range(4) if i != axis]
        images = [name for name, other in self.shapes.items() if len(other) == 4 and name != x]
        others = [name for name in images if all(self.shapes[name][i] == shape[i] for i in rest)]
        return self.chance.choice(others[-5:]) if others else self.conv(x, shape[1], [3, 3], pads=[1, 1, 1, 1])

    def conv(self, x: str, outs: int, kernel: Sequence[int], group: int = 1, **attrs: Any) -> str:
        """A convolution whose window fits; x itself where it doesn't."""
        _, channels, *sizes = self.shapes[x]
        strides, dilations = attrs.get("strides", [1, 1]), attrs.get("dilations", [1, 1])
        pads = attrs.setdefault("pads", [0] * 4)
        rest = [sizes[i] + pads[i] + pads[i + 2] - (kernel[i] - 1) * dilations[i] - 1 for i in (0, 1)]
        if min(rest) < 0:
            return x
        inputs = [
            x,
            self.weight(outs, channels // group, *kernel),
            *([self.weight(outs)] if self.chance.random() < 0.6 else []),
        ]
        shape = (1, outs, *(r // s + 1 for r, s in zip(rest, strides, strict=True)))
        return self.add("Conv", inputs, shape, kernel_shape=list(kernel), group=group, **attrs)

    def window(self) -> tuple[list[int], dict[str, Any]]:
        """A kernel, and strides, pads and dilations."""
        draw = self.chance.randint
        kernel = [draw(1, 4), draw(1, 4)]
        pads = [draw(0, size) for size in kernel * 2] if draw(0, 1) else [kernel[0] // 2, kernel[1] // 2] * 2
        strides = [draw(1, 3), draw(1, 3)] if draw(0, 1) else [1, 1]
        return kernel, {"pads": pads, "strides": strides, "dilations": [draw(1, 2), draw(1, 2)]}

    def padded(self, x: str, channels: int = 0) -> str:
        """A Pad: of zeros as a rule, of another number, or a reflection."""
        shape, draw = self.shapes[x], self.chance.randint
        pads = [0, draw(0, channels), draw(0, 3), draw(0, 3), 0, draw(0, channels), draw(0, 3), draw(0, 3)]
        mode = self.chance.choice(("constant",) * 5 + ("reflect",)) if not channels else "constant"
        number = [self.constant(np.float32(0.5))] if mode == "constant" and not channels and draw(0, 4) == 0 else []
        if mode == "reflect":
            pads = [min(pad, size - 1) for pad, size in zip(pads, shape * 2, strict=True)]
        larger = [size + pads[axis] + pads[axis + 4] for axis, size in enumerate(shape)]
        return self.add("Pad", [x, self.constant(pads), *number], larger, mode=mode)

    def pooled(self, x: str) -> str:
        """A pool whose window fits; x itself where it doesn't."""
        draw, sizes = self.chance.randint, self.shapes[x][2:]
        kernel, strides = [draw(1, 4), draw(1, 4)], [draw(1, 3), draw(1, 3)]
        pads = [draw(0, size - 1) for size in kernel * 2] if draw(0, 1) else [0] * 4
        rest = [size + pads[i] + pads[i + 2] - kernel[i] for i, size in enumerate(sizes)]
        if min(rest) < 0:
            return x
        op = self.chance.choice(("MaxPool", "AveragePool"))
        counted = {"count_include_pad": 1} if op == "AveragePool" else {}
        shape = (*self.shapes[x][:2], *(r // s + 1 for r, s in zip(rest, strides, strict=True)))
        return self.add(op, [x], shape, kernel_shape=kernel, strides=strides, pads=pads, **counted)

    # ------------------------------------------------------------------------------------------------------ layers

    def convolution(self, x: str) -> None:
        channels, (kernel, attrs) = self.shapes[x][1], self.window()
        groups = [group for group in range(1, channels + 1) if channels % group == 0]
        group = self.chance.choice((1, channels, self.chance.choice(groups)))
        self.activation(self.conv(x, group * self.chance.randint(1, 3), kernel, group, **attrs))

    def padded_convolution(self, x: str) -> None:
        channels, kernel = self.shapes[x][1], [self.chance.randint(1, 3), self.chance.randint(1, 3)]
        if self.chance.random() < 0.5:
            self.conv(self.padded(x), channels, kernel, channels, pads=[self.chance.randint(0, 1) for _ in range(4)])
        else:
            y = self.padded(x, 2)
            self.conv(y, 3, kernel, pads=[self.chance.randint(0, 1) for _ in range(4)])
            del self.shapes[y]  # not to be read by others, too

    def padded_channels(self, x: str) -> None:
        """Channels of zeros in front of what works on each channel by itself."""
        y, draw = self.padded(x, 2), self.chance.randint
        kind = self.chance.choice(("depthwise", "pool", "global pool"))
        if kind == "depthwise":
            channels = self.shapes[y][1]
            pads = [draw(0, 1) for _ in range(4)]
            z = self.conv(y, channels * draw(1, 3), [draw(1, 3), draw(1, 3)], channels, pads=pads)
        elif kind == "pool":
            z = self.pooled(y)
        else:
            z = self.add(self.chance.choice(("GlobalAveragePool", "GlobalMaxPool")), [y], (*self.shapes[y][:2], 1, 1))
        if z != y:
            del self.shapes[y]

    def transposed_convolution(self, x: str) -> None:
        _, channels, *sizes = self.shapes[x]
        draw = self.chance.randint
        outs, kernel, strides = draw(1, 6), [draw(1, 4), draw(1, 4)], [draw(1, 3), draw(1, 3)]
        pads = [draw(0, size - 1) for size in kernel * 2]
        shape = [(size - 1) * strides[i] + kernel[i] - pads[i] - pads[i + 2] for i, size in enumerate(sizes)]
        if min(shape) > 0:
            inputs = [x, self.weight(channels, outs, *kernel), self.weight(outs)]
            self.add("ConvTranspose", inputs, (1, outs, *shape), kernel_shape=kernel, strides=strides, pads=pads)

    def pool(self, x: str) -> None:
        self.pooled(x)

    def padded_pool(self, x: str) -> None:
        self.pooled(self.padded(x))

    def global_pool(self, x: str) -> None:
        y = self.padded(x) if self.chance.random() < 0.5 else x
        self.add(self.chance.choice(("GlobalAveragePool", "GlobalMaxPool")), [y], (*self.shapes[y][:2], 1, 1))

    def pad(self, x: str) -> None:
        self.activation(self.padded(x))

    def slice(self, x: str) -> None:
        axis, shape = self.chance.choice((1, 2, 3)), list(self.shapes[x])
        first = self.chance.randint(0, shape[axis] - 1)
        last, step = self.chance.randint(first + 1, shape[axis]), self.chance.randint(1, 2)
        shape[axis] = len(range(first, last, step))
        self.add("Slice", [x, *(self.constant([n]) for n in (first, last, axis, step))], shape)

    def split(self, x: str) -> None:
        axis, shape = self.chance.choice((1, 1, 2, 3)), self.shapes[x]
        if shape[axis] > 1:
            sizes = [first := self.chance.randint(1, shape[axis] - 1), shape[axis] - first]
            self.add("Split", [x, self.constant(sizes)], *((*shape[:axis], n, *shape[axis + 1 :]) for n in sizes), axis=axis)

    def concat(self, x: str) -> None:
        axis = self.chance.choice((1, 1, 2, 3))
        parts = [x, *(self.like(x, axis) for _ in range(self.chance.randint(1, 3)))]
        parts = [part for part in parts if len(self.shapes[part]) == 4]
        shape = list(self.shapes[x])
        shape[axis] = sum(self.shapes[part][axis] for part in parts)
        self.add("Concat", parts, shape, axis=axis)

    def together(self, x: str) -> None:
        """Two tensors of one shape, or several."""
        op = self.chance.choice(("Add", "Add", "Sub", "Mul", "Sum", "Max", "Min"))
        count = self.chance.randint(2, 4) if op in ("Sum", "Max", "Min") else 2
        parts = [x, *(self.like(x) for _ in range(count - 1))]
        self.chance.shuffle(parts)
        self.activation(self.add(op, parts, self.shapes[x]))

    def with_constant(self, x: str) -> None:
        _, channels, height, width = self.shapes[x]
        shapes = ((1, channels, 1, 1), (1, 1, height, width), (1, channels, height, width), (1, 1, 1, 1))
        self.add(self.chance.choice(("Add", "Mul", "Sub")), [x, self.weight(*self.chance.choice(shapes))], self.shapes[x])

    def gate(self, x: str) -> None:
        channels = self.shapes[x][1]
        y = self.add("GlobalAveragePool", [x], (1, channels, 1, 1))
        y = self.conv(y, channels, [1, 1])
        y = self.add(self.chance.choice(("Sigmoid", "HardSigmoid")), [y], self.shapes[y])
        self.add("Mul", [x, y], self.shapes[x])

    def activation(self, x: str) -> None:
        op, shape = self.chance.choice((*_ACTIVATIONS, "Clip", "PRelu", "Swish")), self.shapes[x]
        if op == "Clip":
            bounds = self.chance.choice(((0, 6), (-1, 1), (-0.5, 0.7)))
            self.add(op, [x, *(self.constant(np.float32(bound)) for bound in bounds)], shape)
        elif op == "PRelu":
            self.add(op, [x, self.weight(shape[1], 1, 1)], shape)
        elif op == "Swish":
            self.add("Mul", [x, self.add("Sigmoid", [x], shape)], shape)
        else:
            self.add(op, [x], shape, **({"axis": 1} if op == "Softmax" else {}))

    def norm(self, x: str) -> None:
        parts = [self.constant(self.numbers.uniform(0.5, 1.5, self.shapes[x][1]).astype(np.float32)) for _ in range(4)]
        self.add("BatchNormalization", [x, *parts], self.shapes[x])

    def resize(self, x: str) -> None:
        _, channels, height, width = self.shapes[x]
        if max(height, width) < 16:
            scale = [self.chance.randint(1, 3), self.chance.randint(1, 2)]
            scales = self.constant(np.array([1, 1, *scale], np.float32))
            mode: dict[str, Any] = {"mode": self.chance.choice(("nearest", "linear"))}
            if mode["mode"] == "nearest":
                mode |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            self.add("Resize", [x, "", scales], (1, channels, height * scale[0], width * scale[1]), **mode)

    def gather(self, x: str) -> None:
        axis, shape = self.chance.choice((1, 2, 3)), list(self.shapes[x])
        picked = self.numbers.integers(0, shape[axis], self.chance.randint(1, shape[axis] + 1))
        shape[axis] = len(picked)
        self.add("Gather", [x, self.constant(picked)], shape, axis=axis)

    def blocks(self, x: str) -> None:
        _, channels, height, width = self.shapes[x]
        if channels % 4 == 0:
            mode = self.chance.choice(("DCR", "CRD"))
            self.add("DepthToSpace", [x], (1, channels // 4, height * 2, width * 2), blocksize=2, mode=mode)
        elif height % 2 == width % 2 == 0:
            self.add("SpaceToDepth", [x], (1, channels * 4, height // 2, width // 2), blocksize=2)

    def reduction(self, x: str) -> None:
        axes = self.chance.choice(([2, 3], [1], [3], [2]))
        shape = [1 if axis in axes else size for axis, size in enumerate(self.shapes[x])]
        self.add(self.chance.choice(("ReduceMean", "ReduceMax", "ReduceMin")), [x], shape, axes=axes, keepdims=1)

    def reshaped(self, x: str) -> None:
        """Another image of as many numbers, which kernels want in another order of its axes."""
        left, sizes = int(np.prod(self.shapes[x])), []
        for _ in range(2):
            sizes.append(self.chance.choice([size for size in range(1, left + 1) if left % size == 0]))
            left //= sizes[-1]
        sizes.append(left)
        self.chance.shuffle(sizes)
        self.add("Reshape", [x, self.constant([1, *sizes])], (1, *sizes))

    def transposed(self, x: str) -> None:
        order = [1, 2, 3]
        self.chance.shuffle(order)
        self.add("Transpose", [x], [1, *(self.shapes[x][axis] for axis in order)], perm=[0, *order])

    def bands_of_rows(self, x: str) -> None:
        """A layer that takes each band of rows of a channel for a channel, as SubSpectralNorm does."""
        shape = _, channels, height, width = self.shapes[x]
        parts = self.chance.choice([part for part in range(1, height + 1) if height % part == 0])
        banded = (1, channels * parts, height // parts, width)
        y = self.add("Reshape", [x, self.constant(banded)], banded)
        if self.chance.random() < 0.5:
            self.norm(y)
        else:
            self.conv(y, banded[1], [1, 3], banded[1], pads=[0, 1, 0, 1])
        if self.chance.random() < 0.7:
            self.add("Reshape", [next(reversed(self.shapes)), self.constant(shape)], shape)

    def dense(self, x: str) -> None:
        count, outs = int(np.prod(self.shapes[x])), self.chance.randint(1, 10)
        y = self.add("Flatten", [x], (1, count))
        y = self.add("Gemm", [y, self.weight(count, outs), self.weight(outs)], (1, outs))
        self.add("Reshape", [y, self.constant([1, outs, 1, 1])], (1, outs, 1, 1))

    # ----------------------------------------------------------------------------------------------------- the whole

    def model(self, kinds: Sequence[str]) -> onnx.ModelProto:
        """The network of these kinds of layers, in this order."""
        for kind in kinds:
            layer: Callable[[str], None] = getattr(self, kind)
            layer(self.image())
        if self.shapes.keys() <= self.inputs.keys():
            self.activation("x0")
        read = {name for node in self.nodes for name in node.input}
        made = [name for name in self.shapes if name not in self.inputs]
        ends = [name for name in made if name not in read]
        outputs = dict.fromkeys([*(ends or made)[-1:], *(name for name in ends[:-1] if self.chance.random() < 0.5)])
        if self.chance.random() < 0.15:
            outputs[self.chance.choice(made)] = None
        needed, nodes = {*outputs}, []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                nodes.append(node)
                needed |= {*node.input}
        graph = helper.make_graph(
            nodes[::-1],
            "layers",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in self.inputs.items() if n in needed],
            [helper.make_empty_tensor_value_info(name) for name in outputs],
            [constant for constant in self.constants if constant.name in needed],
        )
        made_of = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return onnx.shape_inference.infer_shapes(made_of, strict_mode=True)


#: The kinds of layers.
KINDS = (
    *("convolution", "padded_convolution", "transposed_convolution", "pool", "padded_pool", "global_pool", "pad", "slice"),
    *("split", "concat", "together", "with_constant", "gate", "activation", "norm", "resize", "gather", "blocks"),
    *("reduction", "dense", "reshaped", "transposed", "bands_of_rows", "padded_channels"),
)


def layers_of(seed: int, kind: str, count: int) -> onnx.ModelProto:
    """A network of layers of which every other one is of a kind."""
    chance = random.Random(seed)
    return Layers(seed).model([kind if at % 2 == seed % 2 else chance.choice(KINDS) for at in range(count)])
