"""Inputs for a network without data: what int8 ranges are measured on where nothing better is given.

Random examples of several kinds, no two alike: noise, and blocks of it, which filters that look for edges and areas answer as
they answer images; both around zero, as standardised data lies, and between 0 and 1, as pixels often do. What the real data's
scale is, noise can't tell, but BatchNormalization can: its statistics are those of the training data, so the inputs are
multiplied by the power of two with which the network's tensors come nearest to them. An input of whole numbers of 8 bits, or of
truth values, says itself what it takes: all of its type's.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor

from mcuprune.channels.labelling import Channels
from mcuprune.graph.network import Shape, is_float
from mcuprune.immutable import immutable
from mcuprune.train.module import Trainable

#: How many examples there are at most.
COUNT = 48
#: Elements that all examples of an input may have together: large inputs get fewer.
_ELEMENTS = 2**24
#: Side of a block of equal noise: a part of the axis.
_BLOCKS = 4
#: Scales that are tried: 2 to these powers, from 1/256 (pixels that the network takes for bytes) up to 1024.
_POWERS = range(-8, 11, 2)
#: The least and the most number of types whose numbers are all meant.
_WHOLE = {TensorProto.UINT8: (0, 255), TensorProto.INT8: (-128, 127), TensorProto.BOOL: (0, 1)}
#: Examples that scales are tried on.
_TRIED = 8


@immutable
class Synthetic:
    """batches: of each, one float32 array (1, ...) for every input: a file may have its batch of one written into shapes.

    note: what they are worth, for the report.
    """

    batches: tuple[tuple[np.ndarray, ...], ...]
    note: str


def synthetic(channels: Channels, seed: int, known: Mapping[str, tuple[float, float]] | None = None) -> Synthetic:
    """Examples for a network as it came: labelled, its BatchNormalizations in place, not yet cut.

    known: the range (low, high) of inputs of which the file says it, as it does of images of bytes.
    """
    random = np.random.default_rng(seed)
    net = channels.network
    shapes = [net.shapes[name] for name in net.inputs]
    own = [shape[1:] if shape[:1] == (1,) else shape for shape in shapes]
    count = int(np.clip(_ELEMENTS // max(map(prod, own)), 4, COUNT))
    examples = [np.stack([_example(random, shape, turn % 4) for turn in range(count)]) for shape in own]
    spans = [(known or {}).get(name) or _WHOLE.get(net.dtypes[name]) for name in net.inputs]
    examples = [x if span is None else _within(x, *span) for x, span in zip(examples, spans, strict=True)]
    examples = [x if is_float(net.dtypes[name]) else np.round(x) for name, x in zip(net.inputs, examples, strict=True)]
    real = [span is None for span in spans]
    if not any(real):
        how = f"in the range that the file says, {_span(examples)}"
    elif any(node.op == "BatchNormalization" for node in net.nodes):
        scale, offset = _fitting(channels, [x[:_TRIED] for x in examples], real)
        examples = _moved(examples, real, scale, offset * scale)
        how = f"of the scale that fits its BatchNormalizations best, {_span(examples)}"
    else:
        how = f"{_span(examples)}, a guess: the file doesn't tell what its inputs are like"
    note = f"no data: int8 ranges come from random inputs, {count} examples {how}; give --data for ranges to be trusted"
    return Synthetic(tuple(_single(examples, i, shapes) for i in range(count)), note)


def _within(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """Noise in a range, as float32: what lies two deviations from its mean is an end of it."""
    share = 0.5 + (x - x.mean()) / (4 * x.std() + 1e-9)
    return np.asarray(low + (high - low) * np.clip(share, 0, 1), np.float32)


def _moved(examples: list[np.ndarray], real: list[bool], factor: np.float32, offset: np.float32) -> list[np.ndarray]:
    """Examples of another scale and offset, where an input takes reals."""
    return [x * factor + offset if moves else x for x, moves in zip(examples, real, strict=True)]


def _single(examples: list[np.ndarray], i: int, shapes: list[Shape]) -> tuple[np.ndarray, ...]:
    """The i-th example of every input, in the input's own shape."""
    return tuple(np.asarray(x[i]).reshape(shape) for x, shape in zip(examples, shapes, strict=True))


def _span(examples: list[np.ndarray]) -> str:
    low, high = (np.quantile(np.concatenate([x.ravel() for x in examples]), share) for share in (0.005, 0.995))
    return f"from about {low:.2g} to {high:.2g}"


def _example(random: np.random.Generator, shape: Shape, kind: int) -> np.ndarray:
    """float32 (*shape), channels first: noise, blocks of it, and both between 0 and 1."""
    example = random.uniform(0, 1, shape) if kind == 2 else random.standard_normal(shape)
    if kind in (1, 3):
        for axis in range(1, len(shape)):
            side = max(1, shape[axis] // _BLOCKS)
            example = np.take(example, np.arange(shape[axis]) // side * side, axis=axis)
    if kind == 3:
        example = np.clip(0.5 + example / 4, 0, 1)
    return example.astype(np.float32)


@torch.no_grad()
def _fitting(channels: Channels, examples: list[np.ndarray], real: list[bool]) -> tuple[np.float32, np.float32]:
    """Scale and offset (of inputs before they are scaled) under which BatchNormalizations see what their statistics say."""
    module = Trainable(channels).eval()
    misfits: dict[tuple[int, float], float] = {}

    def attempt(power: int, offset: float) -> None:
        factor = np.float32(2.0**power)
        misfits.setdefault((power, offset), _misfit(module, _moved(examples, real, factor, np.float32(offset) * factor)))

    for power in _POWERS:
        for offset in (0.0, 0.5):
            attempt(power, offset)
    power, offset = min(misfits, key=lambda key: misfits[key])
    for neighbour in (power - 1, power + 1):
        attempt(neighbour, offset)
    power, offset = min(misfits, key=lambda key: misfits[key])
    return np.float32(2.0**power), np.float32(offset)


def _misfit(module: Trainable, inputs: list[np.ndarray]) -> float:
    """How far the means and variances of what BatchNormalizations read are from their statistics, over all channels.

    A mean counts by the square of its distance in standard deviations, a variance by the square of its ratio's logarithm.
    """
    norms = {node.inputs[0]: node for node in module.source.nodes if node.op == "BatchNormalization"}
    sums: dict[str, tuple[Tensor, Tensor]] = {}

    def watch(tensor: str, value: Tensor) -> Tensor:
        if tensor in norms:
            axes = [axis for axis in range(value.ndim) if axis != 1]
            total, squares = sums.get(tensor, (torch.zeros(()), torch.zeros(())))
            sums[tensor] = (total + value.mean(axes), squares + (value**2).mean(axes))
        return value

    count, shapes = len(inputs[0]), [module.source.shapes[name] for name in module.source.inputs]
    previous, module.computed = module.computed, watch  # type: ignore[method-assign]
    try:
        for i in range(count):
            module(*map(torch.from_numpy, _single(inputs, i, shapes)))
    finally:
        module.computed = previous  # type: ignore[method-assign]
    misfits = []
    for tensor, (total, squares) in sums.items():
        mean, variance = (module.constant(name) for name in norms[tensor].inputs[3:5])
        variance = variance + float(norms[tensor].get("epsilon"))
        middle = total / count
        spread = (squares / count - middle**2).clamp(min=1e-12)
        misfits.append(float(((middle - mean) ** 2 / variance + torch.log(spread / variance) ** 2).clamp(max=1e4).mean()))
    return float(np.mean(misfits))
