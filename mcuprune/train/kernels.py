"""The kernels that training runs nodes on where onnx2torch has none, or gets one wrong on some opset.

A kernel is made of a node once and called on its operands at every step: tensors (batch, ...), constants among them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from onnx import TensorProto
from torch import Tensor

from mcuprune.errors import UnsupportedOperator
from mcuprune.graph.network import Network, Node
from mcuprune.graph.node import default
from mcuprune.operators import attributes

Kernel = Callable[..., Any]

#: Attributes that opset 17 lacks, whose defaults mean the same as what it has.
NEWER_ATTRIBUTES: Mapping[str, Sequence[str]] = {
    "Cast": ("saturate", "round_mode"),
    "ReduceMax": ("noop_with_empty_axes",),
    "ReduceMean": ("noop_with_empty_axes",),
    "ReduceMin": ("noop_with_empty_axes",),
    "ReduceL1": ("noop_with_empty_axes",),
    "ReduceL2": ("noop_with_empty_axes",),
    "ReduceProd": ("noop_with_empty_axes",),
    "Resize": ("antialias", "keep_aspect_ratio_policy"),
}


def refuse_newer(node: Node, net: Network) -> None:
    """Raise UnsupportedOperator for a node that says something which opset 17 has no word for."""
    for name in NEWER_ATTRIBUTES.get(node.op, ()):
        if node.get(name) != default(node.op, name):
            raise untrainable(node, net, f"with {name} set")


def untrainable(node: Node, net: Network, how: str = "", why: str = "") -> UnsupportedOperator:
    """That a node can't be trained, and what can be done with the network. how: of which form it is."""
    what = " ".join(part for part in (node.op, how, "can't be trained", why) if part)
    return UnsupportedOperator(
        f"{net.path}: node '{node.name}': {what}; profile, check and prune --no-train --float work on it"
    )


def _torch_pads(pads: Sequence[tuple[int, int]]) -> list[int]:
    """torch's order: last axis first."""
    return [size for pair in reversed(pads) for size in pair]


def _conv(node: Node, net: Network) -> Kernel:
    kernel = attributes.kernel(node, net)
    pads = attributes.pads(node, net)
    convolve = (F.conv1d, F.conv2d, F.conv3d)[len(kernel) - 1]
    strides, dilations = attributes.strides(node, len(kernel)), attributes.dilations(node, len(kernel))
    even = all(before == after for before, after in pads)
    inner = tuple(before for before, _ in pads) if even else 0
    group = node.get("group")
    if set(kernel) == {1} and set(strides) != {1}:
        return _pointwise_strided(convolve, strides, pads, group)

    def run(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not even:
            x = F.pad(x, _torch_pads(pads))
        return convolve(x, weight, bias, strides, inner, dilations, group)

    return run


def _pointwise_strided(convolve: Kernel, strides: Sequence[int], pads: Sequence[tuple[int, int]], group: int) -> Kernel:
    """A convolution of kernel 1 with a stride: pick the elements that it reads, and convolve those with stride 1.

    The same sums. oneDNN's own kernel for processors without AVX-512 writes past its buffers in the gradient of the weights,
    where the input is channels-last and has fewer than 8 channels. An average over windows of one element picks; indexing
    would give its gradient in another memory layout, which makes a residual block a third slower.
    """
    pick: Kernel = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(strides) - 1]
    around = _torch_pads(pads)

    def run(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x = F.pad(x, around) if any(around) else x
        result: Tensor = convolve(pick(x, (1,) * len(strides), strides), weight, bias, groups=group)
        return result

    return run


def _conv_transpose(node: Node, net: Network) -> Kernel:
    kernel = attributes.kernel(node, net)
    rank = len(kernel)
    spread = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
    strides, dilations = attributes.strides(node, rank), attributes.dilations(node, rank)
    group = node.get("group")
    after, whole = net.shapes[node.outputs[0]][2:], attributes.transposed_whole(node, net)
    first = [pad for pad, _ in attributes.transposed_pads(node, net)]
    # What lies beyond the whole result (output_padding) has no input under it: zero, and then the bias.
    crop = [(-start, start + out - size) for start, out, size in zip(first, after, whole, strict=True)]

    def run(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y = F.pad(spread(x, weight, None, strides, 0, 0, group, dilations), _torch_pads(crop))
        return y if bias is None else y + bias.view(1, -1, *[1] * rank)

    return run


def _gemm(node: Node, net: Network) -> Kernel:
    alpha, beta = attributes.factors(node)
    transposed = bool(node.get("transB"))

    def run(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y = x @ (weight.T if transposed else weight)
        y = y if alpha == 1.0 else alpha * y
        return y if bias is None else y + (bias if beta == 1.0 else beta * bias)

    return run


def _matmul(node: Node, net: Network) -> Kernel:
    return lambda x, weight, bias: x @ weight


MIXERS: Mapping[str, Callable[[Node, Network], Kernel]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
}


def _identity(node: Node, net: Network) -> Kernel:
    return lambda x: x


def _gelu(node: Node, net: Network) -> Kernel:
    approximate = node.get("approximate")
    return lambda x: F.gelu(x, approximate=approximate)


def _average_pool(node: Node, net: Network) -> Kernel:
    """onnx2torch refuses asymmetric pads: average the padded sum, over the elements that count."""
    kernel = attributes.kernel(node, net)
    pads = attributes.pads(node, net)
    strides, dilations = attributes.strides(node, len(kernel)), attributes.dilations(node, len(kernel))
    average = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(kernel) - 1]
    convolve = (F.conv1d, F.conv2d, F.conv3d)[len(kernel) - 1]

    def pool(x: Tensor) -> Tensor:
        if all(taps == 1 or dilation == 1 for taps, dilation in zip(kernel, dilations, strict=True)):
            return average(x, tuple(kernel), strides)
        taps = torch.full((1, 1, *kernel), 1 / prod(kernel)).to(x)  # torch has no dilated average pool
        y = convolve(x.flatten(0, 1).unsqueeze(1), taps, None, strides, 0, dilations)
        return y.view(*x.shape[:2], *y.shape[2:])

    size, out = net.shapes[node.inputs[0]][2:], net.shapes[node.outputs[0]][2:]
    # ceil_mode lets the last window hang over the end; those elements never count
    reach = [(taps - 1) * dilation + 1 for taps, dilation in zip(kernel, dilations, strict=True)]
    over = [max(0, (o - 1) * s + r - (n + b + a)) for o, s, r, n, (b, a) in zip(out, strides, reach, size, pads, strict=True)]
    counts_pads = bool(node.get("count_include_pad"))
    hang = _torch_pads([(0, more) for more in over])
    inner = _torch_pads(pads)
    ones = torch.ones(1, 1, *size)
    weight = pool(F.pad(F.pad(ones, inner, value=float(counts_pads)), hang))
    plain = torch.allclose(weight, torch.ones(()), rtol=0, atol=1e-6)

    def run(x: Tensor) -> Tensor:
        y = pool(F.pad(F.pad(x, inner), hang) if any(inner) or any(hang) else x)
        return y if plain else y / weight.to(y)

    return run


def _max_pool(node: Node, net: Network) -> Kernel:
    """onnx2torch refuses auto_pad and asymmetric pads: pad with what never is a maximum."""
    kernel = attributes.kernel(node, net)
    pads = attributes.pads(node, net)
    strides, dilations = attributes.strides(node, len(kernel)), attributes.dilations(node, len(kernel))
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(kernel) - 1]
    size, out = net.shapes[node.inputs[0]][2:], net.shapes[node.outputs[0]][2:]
    sizes = zip(out, size, kernel, strides, dilations, pads, strict=True)
    # ceil_mode lets the last window hang over the end
    around = [(b, max(a, (o - 1) * s + (k - 1) * d + 1 - n - b)) for o, n, k, s, d, (b, a) in sizes]
    inner = _torch_pads(around)

    def run(x: Tensor) -> Tensor:
        padded = F.pad(x, inner, value=float("-inf")) if any(inner) else x
        return pool(padded, tuple(kernel), strides, 0, dilations)

    return run


def _softmax(node: Node, net: Network) -> Kernel:
    function = F.softmax if node.op == "Softmax" else F.log_softmax
    axes = attributes.softmax_axes(node, net)
    first, rank = axes[0], len(net.shapes[node.inputs[0]])
    if len(axes) == 1:
        return lambda x: function(x, first - rank)
    return lambda x: function(x.flatten(first), -1).view_as(x)  # over all axes from the first on


def _resize(node: Node, net: Network) -> Kernel:
    """Resize and Upsample. onnx2torch's only looks like the operator: it knows one way to place samples, and warns."""
    data = node.inputs[0]
    steps = []
    refuse_newer(node, net)
    for axis, scale in enumerate(attributes.scales(node, net)):
        before, after = net.shapes[data][axis], net.shapes[node.outputs[0]][axis]
        if axis and (before != after or scale != 1):
            steps.append((axis, _samples(node, net, scale, before, after)))

    def run(x: Tensor) -> Tensor:
        for axis, how in steps:
            if how.is_floating_point():
                x = (x.movedim(axis, -1) @ how.to(x).T).movedim(-1, axis)
            else:
                x = x.index_select(axis, how.to(x.device))
        return x

    return run


def _samples(node: Node, net: Network, scale: float, before: int, after: int) -> Tensor:
    """Where the ``after`` samples of an axis come from: their indices, int64 (after,), or weights, float32 (after, before)."""
    mode, way = node.get("mode"), attributes.coordinates(node, net)
    x = attributes.places(way, scale, before, after)
    if x is None:
        raise untrainable(node, net, f"by {way}")
    if mode == "nearest":
        return torch.from_numpy(attributes.nearest(attributes.rounding(node, net, scale), x, before))
    first = np.floor(x)
    part = (x - first).astype(np.float64)
    if mode == "linear":
        taps = [(0, 1 - part), (1, part)]
    else:
        # Keys' cubic convolution, as ONNX's Resize writes it
        a = node.get("cubic_coeff_a")
        near = [((a + 2) * d - (a + 3)) * d * d + 1 for d in (part, 1 - part)]
        far = [a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a for d in (part + 1, 2 - part)]
        taps = [(-1, far[0]), (0, near[0]), (1, near[1]), (2, far[1])]
    weights = np.zeros((after, before))
    for offset, weight in taps:
        place = first.astype(np.int64) + offset
        inside = (place >= 0) & (place < before)
        counted = weight * inside if mode == "cubic" and node.get("exclude_outside") else weight
        np.add.at(weights, (np.arange(after), np.clip(place, 0, before - 1)), counted)
    return torch.from_numpy((weights / weights.sum(1, keepdims=True)).astype(np.float32))


def _clip(node: Node, net: Network) -> Kernel:
    low, high = node.get("min"), node.get("max")
    if low is None and high is None:
        return _identity(node, net)
    if low is not None and high is not None and low < high and net.dtypes[node.inputs[0]] == TensorProto.FLOAT:
        return lambda x: F.hardtanh(x, low, high)  # the gradient of clamp is four times slower
    return lambda x: x.clamp(low, high)


def _selu(node: Node, net: Network) -> Kernel:
    alpha, gamma = (
        float(node.get("alpha")),
        float(node.get("gamma")),
    )
    return lambda x: gamma * F.elu(x, alpha)


def _lp_normalization(node: Node, net: Network) -> Kernel:
    axis = attributes.axis(node, len(net.shapes[node.inputs[0]]))
    return lambda x: F.normalize(x, node.get("p"), axis)


def _thresholded_relu(node: Node, net: Network) -> Kernel:
    alpha = float(node.get("alpha"))
    return lambda x: torch.where(x > alpha, x, torch.zeros_like(x))


def _global_max_pool(node: Node, net: Network) -> Kernel:
    return lambda x: x.amax(tuple(range(2, x.ndim)), keepdim=True)


def _slice(node: Node, net: Network) -> Kernel:
    """onnx2torch indexes by a list, which torch is about to read otherwise."""
    sizes = net.shapes[node.inputs[0]]
    picked = [slice(None)] * len(sizes)
    backwards = []
    for axis, wanted in attributes.slices(node, sizes).items():
        if range(sizes[axis])[wanted] == range(sizes[axis]):
            continue  # all of an axis, which for the batch is more than the file says
        if wanted.step > 0:
            picked[axis] = wanted
        else:
            backwards.append((axis, torch.arange(sizes[axis])[list(range(sizes[axis]))[wanted]]))

    def run(x: Tensor) -> Tensor:
        x = x[tuple(picked)]
        for axis, indices in backwards:
            x = x.index_select(axis, indices.to(x.device))
        return x

    return run


def _space_to_depth(node: Node, net: Network) -> Kernel:
    block = node.attrs["blocksize"]

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.view(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
        return x.reshape(n, c * block * block, h // block, w // block)

    return run


def _depth_to_space(node: Node, net: Network) -> Kernel:
    block = node.attrs["blocksize"]
    if node.get("mode") == "CRD":
        return lambda x: F.pixel_shuffle(x, block)

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.view(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
        return x.reshape(n, c // block**2, h * block, w * block)

    return run


def _group_norm(node: Node, net: Network) -> Kernel:
    groups, epsilon = int(node.attrs["num_groups"]), float(node.get("epsilon"))
    return lambda x, scale, shift: F.group_norm(x, groups, scale, shift, epsilon)


def _fake_int8(node: Node, net: Network) -> Kernel:
    raise UnsupportedOperator(
        f"{net.path}: node '{node.name}' ({node.op}): a quantised network can't be trained; prune the float one"
    )


#: Kernels for what onnx2torch lacks, or gets wrong on some opset.
OWN: Mapping[str, Callable[[Node, Network], Kernel]] = {
    "Acosh": lambda node, net: torch.acosh,
    "Asinh": lambda node, net: torch.asinh,
    "Atanh": lambda node, net: torch.atanh,
    "AveragePool": _average_pool,
    "Clip": _clip,
    "Cosh": lambda node, net: torch.cosh,
    "DepthToSpace": _depth_to_space,
    "DequantizeLinear": _fake_int8,
    "Dropout": _identity,
    "Gelu": _gelu,
    "GlobalMaxPool": _global_max_pool,
    "GroupNormalization": _group_norm,
    "GreaterOrEqual": lambda node, net: torch.ge,
    "Identity": _identity,
    "LessOrEqual": lambda node, net: torch.le,
    "LogSoftmax": _softmax,
    "LpNormalization": _lp_normalization,
    "MaxPool": _max_pool,
    "Mish": lambda node, net: F.mish,
    "QuantizeLinear": _fake_int8,
    "Resize": _resize,
    "Selu": _selu,
    "Sinh": lambda node, net: torch.sinh,
    "Slice": _slice,
    "Softmax": _softmax,
    "SpaceToDepth": _space_to_depth,
    "Swish": lambda node, net: lambda x: x * torch.sigmoid(float(node.get("alpha")) * x),
    "ThresholdedRelu": _thresholded_relu,
    "Upsample": _resize,
}
