"""Which rows of its inputs an operator needs for rows of its output.

An operator is *row-local* along an axis where a stretch of its output needs a stretch of its inputs and nothing else: a
convolution needs the rows under its kernel, an activation the same rows, a channel shuffle moves the rows along. A global pool
or a squeeze-and-excite block reads every row and isn't row-local. ``locality`` says so for one node, and why where it isn't.

"Rows" are slices along one axis, the *row axis*, of size ``rows``: the height of an image as a rule, time of a signal.
Intervals of rows are half open, (first, end).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

from mcuprune.graph.network import Network, Node
from mcuprune.immutable import immutable
from mcuprune.operators import attributes
from mcuprune.operators.table import (
    OPS,
    Barrier,
    BatchNormalization,
    Concat,
    Elementwise,
    Gather,
    InstanceNormalization,
    Passing,
    Quantization,
    Reshaping,
    Slice,
    Split,
    Transpose,
)

Interval = tuple[int, int]
#: Operators that read all of a channel.
_WHOLE = ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "GroupNormalization")


class NotLocal(Exception):
    """Why an operator isn't row-local, as the end of a sentence that begins with its name."""


@immutable
class Locality:
    """How rows of a node's outputs follow from rows of its inputs.

    axes: the row axis of each output. rows: the size of the row axis, in the inputs and in the outputs.
    Output row r needs input rows r * stride - before to r * stride - before + span; where ``up`` is above 1, row r // up.
    before, after: rows of padding on each side; negative where rows are cut off.
    pads: of a sliding operator, the padding of all its axes as ONNX writes it, automatic padding resolved.
    explicit: whether padding rows are written by an operator that can't make nothing but padding.
    """

    axes: Mapping[str, int]
    rows: Interval
    span: int = 1
    stride: int = 1
    before: int = 0
    after: int = 0
    up: int = 1
    pads: tuple[int, ...] = ()
    explicit: bool = False

    @property
    def same(self) -> bool:
        """Whether each row needs that row alone."""
        return (self.span, self.stride, self.before, self.up) == (1, 1, 0, 1) and self.rows[0] == self.rows[1]

    def needs(self, first: int, end: int) -> Interval:
        """The input rows under the output rows, rows of padding included: it may reach below 0 and above the last row."""
        if self.up > 1:
            return first // self.up, -(-end // self.up)
        return first * self.stride - self.before, (end - 1) * self.stride - self.before + self.span

    def reads(self, first: int, end: int) -> Interval:
        """The input rows that exist among those that ``needs`` names."""
        low, high = self.needs(first, end)
        return max(0, low), min(self.rows[0], high)

    def makes(self, first: int, end: int) -> Interval:
        """The least stretch of output rows around (first, end) that one run of the operator can make."""
        if self.up > 1:
            return first // self.up * self.up, -(-end // self.up) * self.up
        if self.explicit:  # rows of padding alone would read nothing: they are made together with the nearest row of data
            end = max(end, self.before + 1)
            return min(first, self.before + self.rows[0] - 1), self.rows[1] if end >= self.before + self.rows[0] else end
        return first, end


def locality(node: Node, net: Network, axes: Mapping[str, int]) -> Locality:
    """How ``node`` treats rows, where ``axes`` has the row axis of each tensor that carries rows.

    Raises NotLocal.
    """
    carried = [name for name in node.inputs if name in axes]
    sizes = {net.shapes[name][axes[name]] for name in carried}
    if len(sizes) != 1:
        raise NotLocal("combines tensors with different numbers of rows")
    rows = sizes.pop()
    foreign = [name for name in node.inputs if name and name not in axes and not net.is_constant(name)]
    if foreign and not all(_is_stored(name, net) for name in foreign):
        raise NotLocal(f"reads '{foreign[0]}', which isn't made of these rows")
    entry = OPS[node.op]
    if isinstance(entry, InstanceNormalization) or node.op in _WHOLE:
        raise NotLocal("reads every row")
    if node.op in ("Conv", "MaxPool", "AveragePool", "LpPool"):
        return _sliding(node, net, axes)
    if isinstance(entry, (Elementwise, Passing, Quantization)):
        return _elementwise(node, net, axes, rows)
    data = node.inputs[0]
    if data not in axes or (len(carried) > 1 and not isinstance(entry, Concat)):
        raise NotLocal("isn't row-local")
    axis, shape = axes[data], net.shapes[data]
    if node.op == "Pad":
        return _pad(node, net, axis)
    if node.op in ("Resize", "Upsample"):
        return _resize(node, net, axis)
    if node.op in ("DepthToSpace", "SpaceToDepth"):
        return _blocks(node, net, axis)
    if isinstance(entry, Transpose):
        return _moved(node, [attributes.permutation(node, len(shape)).index(axis)], rows)
    if isinstance(entry, Reshaping):
        return _moved(node, [_in_reshape(shape, net.shapes[node.outputs[0]], axis)], rows)
    if isinstance(entry, Slice):
        return _slice(node, net, axis)
    if isinstance(entry, Concat):
        return _concat(node, net, axes, rows)
    if isinstance(entry, (Split, Gather)):
        if attributes.axis(node, len(shape)) == axis:
            raise NotLocal("picks rows")
        wide = isinstance(entry, Gather) and len(net.shapes[node.outputs[0]]) != len(shape)
        if wide or (isinstance(entry, Gather) and len(carried) != 1):
            raise NotLocal("moves the axis of the rows")
        return _moved(node, [axis] * len(node.outputs), rows)
    if isinstance(entry, Barrier):
        return _barrier(node, net, axis, rows)
    if node.op == "MatMul" and net.is_constant(node.inputs[1]) and len(net.shapes[node.inputs[1]]) == 2:
        if axis == len(shape) - 1:
            raise NotLocal("sums over the rows")
        return _moved(node, [axis], rows)
    raise NotLocal("isn't row-local")


def _is_stored(name: str, net: Network) -> bool:
    """Whether a tensor is made of constants alone, as a dequantised weight is."""
    maker = net.producer.get(name)
    return maker is not None and all(not name or net.is_constant(name) or _is_stored(name, net) for name in maker.inputs)


def _moved(node: Node, axes: Sequence[int], rows: int) -> Locality:
    return Locality({name: axis for name, axis in zip(node.outputs, axes, strict=False) if name}, (rows, rows))


def _elementwise(node: Node, net: Network, axes: Mapping[str, int], rows: int) -> Locality:
    out = net.shapes[node.outputs[0]]
    aligned = {axes[name] + len(out) - len(net.shapes[name]) for name in node.inputs if name in axes}
    if len(aligned) != 1:
        raise NotLocal("combines rows of different axes")
    axis = aligned.pop()
    if out[axis] != rows:
        raise NotLocal("spreads one row over all")
    per_channel = isinstance(OPS[node.op], (BatchNormalization, Quantization))
    for name in node.inputs:
        if name and name not in axes and not per_channel:
            shape = (1,) * (len(out) - len(net.shapes[name])) + net.shapes[name]
            if shape[axis] != 1:
                raise NotLocal(f"has a constant of its own for each row ('{name}')")
    wide = any(net.shapes[name] not in ((), (1,)) for name in node.inputs[1:] if name and per_channel)
    own = attributes.axis(node, len(out)) if isinstance(OPS[node.op], Quantization) else 1
    if wide and own == axis:
        raise NotLocal("has a constant of its own for each row")
    return _moved(node, [axis], rows)


def padding(node: Node, net: Network) -> tuple[int, ...]:
    """The padding of a sliding operator as ONNX's explicit ``pads``: before each spatial axis, then after.

    What a pool with ``ceil_mode`` reads beyond its padding is padding too. Raises NotLocal where that can't be said so: an
    average that counts padding doesn't count what lies beyond.
    """
    sizes, outs = net.shapes[node.inputs[0]][2:], net.shapes[node.outputs[0]][2:]
    n, kernel = len(sizes), attributes.kernel(node, net)
    strides, dilations = attributes.strides(node, n), attributes.dilations(node, n)
    low, high = [], []
    for i, (before, after) in enumerate(attributes.pads(node, net)):
        beyond = (outs[i] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 - sizes[i] - before - after
        if beyond > 0 and node.get("count_include_pad"):
            raise NotLocal("counts its padding but not what lies beyond it (ceil_mode)")
        low.append(before)
        high.append(after + max(0, beyond))
    return (*low, *high)


def _sliding(node: Node, net: Network, axes: Mapping[str, int]) -> Locality:
    data = node.inputs[0]
    shape, out = net.shapes[data], net.shapes[node.outputs[0]]
    if data not in axes or any(name in axes for name in node.inputs[1:]):
        raise NotLocal("has weights that are computed")
    axis = axes[data]
    if axis < 2:
        raise NotLocal("mixes the rows as channels")
    n, i = len(shape) - 2, axis - 2
    pads = padding(node, net)
    stride = attributes.strides(node, n)[i]
    span = (attributes.kernel(node, net)[i] - 1) * attributes.dilations(node, n)[i] + 1
    if node.op == "AveragePool" and any(pads) and not node.get("count_include_pad"):
        # TensorFlow Lite leaves padding out only where it pads by itself, on both sides; then it rounds to the input's steps
        # before the output's, which the bands without padding wouldn't.
        raise NotLocal("averages without counting its padding, which can't be written for a part of the rows")
    after = max(0, (out[axis] - 1) * stride + span - shape[axis] - pads[i])
    if pads[i] >= span or after >= span:
        raise NotLocal("has rows made of padding alone")
    return Locality({node.outputs[0]: axis}, (shape[axis], out[axis]), span, stride, pads[i], after, pads=pads)


def _pad(node: Node, net: Network, axis: int) -> Locality:
    shape, out = net.shapes[node.inputs[0]], net.shapes[node.outputs[0]]
    pads = attributes.pads_of_all_axes(node, len(shape))
    before, after = pads[axis]
    if before < 0 or after < 0 or ((before or after) and node.get("mode") != "constant"):
        raise NotLocal("repeats rows or cuts them off")
    explicit = bool(before or after)
    rows, flat = (shape[axis], out[axis]), attributes.flat(pads)
    return Locality({node.outputs[0]: axis}, rows, 1, 1, before, after, pads=flat, explicit=explicit)


def _resize(node: Node, net: Network, axis: int) -> Locality:
    size, out = net.shapes[node.inputs[0]][axis], net.shapes[node.outputs[0]][axis]
    how, rounding = attributes.coordinates(node, net), attributes.rounding(node, net, out / size)
    if how == "tf_crop_and_resize":
        raise NotLocal("resizes and crops")
    if out == size:
        return _moved(node, [axis], size)
    # with whole factors the middle of an output pixel never lies between two input pixels
    middle = how in ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric") and rounding.startswith("round_prefer")
    corner = how == "asymmetric" and rounding == "floor"
    if node.get("mode") != "nearest" or out % size or not (middle or corner) or node.get("antialias"):
        raise NotLocal("mixes neighbouring rows or repeats them unevenly")
    return Locality({node.outputs[0]: axis}, (size, out), up=out // size)


def _blocks(node: Node, net: Network, axis: int) -> Locality:
    if axis != 2 and axis != 3:
        raise NotLocal("mixes the rows as channels")
    size, block = net.shapes[node.inputs[0]][axis], node.attrs["blocksize"]
    if node.op == "DepthToSpace":
        return Locality({node.outputs[0]: axis}, (size, size * block), up=block)
    return Locality({node.outputs[0]: axis}, (size, size // block), span=block, stride=block)


def _in_reshape(before: Sequence[int], after: Sequence[int], axis: int) -> int:
    """Where the row axis is after a reshape that leaves it whole."""
    start = prod(before[:axis])
    for place, size in enumerate(after):
        if size == before[axis] and prod(after[:place]) == start:
            return place
    raise NotLocal("reshapes across the rows")


def _slice(node: Node, net: Network, axis: int) -> Locality:
    shape, out = net.shapes[node.inputs[0]], net.shapes[node.outputs[0]]
    ranges = attributes.slices(node, net.shapes[node.inputs[0]])
    if axis not in ranges or (shape[axis] == out[axis] and ranges[axis].indices(shape[axis])[2] == 1):
        return _moved(node, [axis], shape[axis])
    first, _, step = ranges[axis].indices(shape[axis])
    others = [a for a in ranges if a != axis and shape[a] != out[a]]
    if step != 1 or others:
        raise NotLocal("picks rows")
    return Locality({node.outputs[0]: axis}, (shape[axis], out[axis]), 1, 1, -first)


def _concat(node: Node, net: Network, axes: Mapping[str, int], rows: int) -> Locality:
    joined_axes = {axes.get(name) for name in node.inputs}
    axis = joined_axes.pop()
    if joined_axes or axis is None:
        raise NotLocal("joins rows with something else")
    if attributes.axis(node, len(net.shapes[node.inputs[0]])) == axis:
        raise NotLocal("joins rows behind each other")
    return _moved(node, [axis], rows)


def _barrier(node: Node, net: Network, axis: int, rows: int) -> Locality:
    entry = OPS[node.op]
    assert isinstance(entry, Barrier)
    mixed = [a % len(net.shapes[node.inputs[0]]) for a in entry.mixes(node, net)]
    if axis in mixed or (node.op == "TopK" or len([name for name in node.outputs if name]) > 1):
        raise NotLocal("reads every row")
    dropped = 0
    if entry.reduces and not node.get("keepdims"):
        dropped = sum(a < axis for a in set(mixed))
    return _moved(node, [axis - dropped], rows)


def in_band(node: Node, net: Network, at: Locality, written: Interval, read: Interval) -> Node:
    """The node as it makes output rows ``made`` from input rows ``read``, names left as they are."""
    first, end = written
    low, high = at.needs(first, end)
    top, bottom = max(0, read[0] - low), max(0, high - read[1])
    axis = next(iter(at.axes.values()))
    if node.op in ("Conv", "MaxPool", "AveragePool", "LpPool"):
        n, i = len(at.pads) // 2, axis - 2
        pads = list(at.pads)
        pads[i], pads[n + i] = top, bottom
        attrs = {key: value for key, value in node.attrs.items() if key not in ("auto_pad", "ceil_mode")}
        return replace(node, attrs={**attrs, "pads": tuple(pads)})
    if node.op == "Pad":
        pads = list(at.pads)
        pads[axis], pads[len(pads) // 2 + axis] = top, bottom
        attrs = {key: value for key, value in node.attrs.items() if key != "axes"}
        return replace(node, attrs={**attrs, "pads": tuple(pads)}, origins={})
    if node.op == "Resize" and node.get("sizes"):
        sizes = list(net.shapes[node.outputs[0]])
        sizes[axis] = end - first
        return replace(node, attrs={**node.attrs, "sizes": tuple(sizes)}, origins={})
    if node.op == "Reshape":
        shape = list(net.shapes[node.outputs[0]])
        shape[axis] = end - first
        if node.attrs["shape"][:1] == (0,):
            shape[0] = 0  # as it was, at any batch size
        return replace(node, attrs={**node.attrs, "shape": tuple(shape)}, origins={})
    if node.op == "Slice" and at.rows[0] != at.rows[1]:  # the rows that it reads are those that it makes
        return replace(node, attrs={"starts": (0,), "ends": (end - first,), "axes": (axis,)}, origins={})
    return node
