"""One table that says all we know about an operator.

An entry of ``OPS`` tells how channels flow through the operator (``label``), what it costs in multiply-accumulates
(``macs``) and in constants (``role``), whether its output is a view or written in place (``memory``), how its output is
quantised (``int8``), and which of its attributes name a channel count and must follow a cut (``cut``). An operator without
an entry is an error that names the node: nothing is free, kept or skipped because nobody thought of it.

A channel is a label, an integer. Labels are born at the outputs of operators that mix channels by weights; every other
operator moves them exactly as it moves data. ``FIXED`` is the label of what can't be removed. A tensor has labels along at
most one axis (``Along``); a rule whose labels spread over several axes (a Reshape that splits channels) ties them until
one axis is left, so that a cut is always whole slices of one axis.

Three families keep entries short: elementwise operators tie the labels that they meet, movements move them, mixers end
them and bear new ones. Operators that mix channels without weights freeze what reaches them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from math import prod
from typing import Any, Literal, Protocol

import numpy as np

from mcuprune.errors import UnsupportedOperator
from mcuprune.graph.network import Network, Node, Shape, is_float
from mcuprune.graph.refusals import OLDEST_OPSET
from mcuprune.immutable import immutable
from mcuprune.operators import attributes

FIXED = 0

Memory = Literal["new", "in place", "view"]
Role = Literal["weight", "bias", "data"]
#: How an output is quantised. own: by its own range; same: with its input's scale; clamp: it bounds its input, which then
#: needs no quantiser of its own. The others are TensorFlow Lite's fixed steps, which its kernels know no others than:
#: unit: of what lies in [0, 1]; signed unit: in [-1, 1]; log: the logarithm of what lies in [0, 1].
Int8 = Literal["own", "same", "clamp", "unit", "signed unit", "log"]
#: Where the numbers of an output come from. picked: each is a number of an input; between: it lies between some of these, or
#: between these and a padded zero; new: nothing is known.
Answers = Literal["picked", "between", "new"]


@immutable
class Along:
    """The labels of a tensor's channels: ``labels[i]`` names the i-th slice along ``axis``."""

    axis: int
    labels: np.ndarray


class Flow(Protocol):
    """What a label rule may ask and say. ``channels`` implements it."""

    net: Network

    def labels(self, tensor: str) -> Along | None:
        """The labels of a tensor's channels; None where none are known."""

    def put(self, tensor: str, along: Along | None) -> None:
        """Say which labels an output's channels have; None for none."""

    def fresh(self, count: int) -> np.ndarray:
        """So many labels that nothing else has: int64 (count,)."""

    def tie(self, first: np.ndarray, other: np.ndarray) -> None:
        """Labels that live and die together from here on, one by one: two arrays of one size."""

    def freeze(self, labels: np.ndarray, why: str) -> None:
        """Labels that can't go. why: for the person, after the group's name."""

    def slot(self, node: Node, index: int, axis: int, labels: np.ndarray, *, mixes: bool = False) -> None:
        """Constant ``index`` of ``node`` is cut along ``axis`` by ``labels``: (slices,), or (groups, slices) where each group
        of a convolution, along axis 0 of the constant, has its own.
        """

    def balance(self, node: Node, rows: np.ndarray) -> None:
        """The groups of a convolution, labels (groups, channels), must lose equally many channels."""


class Cut(Protocol):
    """What a cut rule may ask: labels and shapes before the cut, and what stays."""

    net: Network

    def labels(self, tensor: str) -> Along | None:
        """The labels of a tensor's channels before the cut; None where it has none."""

    def kept(self, labels: np.ndarray) -> np.ndarray:
        """Which of these labels stay: bool, in the shape of ``labels``."""

    def shape(self, tensor: str) -> Shape:
        """The shape of a tensor after the cut."""


#: The size of a tensor along an axis: an integer for a report, a polynomial in widths for a budget.
Dim = Callable[[str, int], Any]


class Op:
    """One entry. The defaults fit an operator that makes a new tensor and has no weights."""

    memory_kind: Memory = "new"
    int8: Int8 = "own"
    answers: Answers = "new"
    channels: str = "move"  # what it does to them, for the docs

    def check(self, node: Node, net: Network) -> None:
        """Raise UnsupportedOperator for a form of the operator that mcuprune refuses."""

    def label(self, node: Node, flow: Flow) -> None:
        """Carry the labels of the inputs' channels to the outputs, and say which are tied, frozen or cut with constants."""
        raise NotImplementedError

    def mixes(self, node: Node, net: Network) -> Sequence[int]:
        """Axes of input 0 that it computes across without weights: labels that come to lie there are frozen."""
        return ()

    def batch(self, node: Node, net: Network, axes: Mapping[str, int], count: int) -> int | None:
        """The axis of the outputs along which examples lie, where they lie along these axes of inputs; None where they meet.

        axes: input -> axis, of those that depend on examples. count: how many there are; along an axis each has its slices one
        after another. Here: they stay apart along axis 0.
        """
        return 0 if {*axes.values()} == {0} else None

    def macs(self, node: Node, net: Network, dim: Dim) -> Any:
        """Multiply-accumulates at batch 1, in terms of ``dim(tensor, axis)``."""
        return 0

    def role(self, node: Node, index: int) -> Role:
        """What a constant at this input is: a weight matrix (int8), a bias (int32), or other data (int8)."""
        return "data"

    def memory(self, node: Node, net: Network) -> Memory:
        """Whether the output is a new tensor, may overwrite an input that dies, or is a view of input 0."""
        return self.memory_kind

    def scale(self, node: Node, net: Network) -> Int8:
        """What the operator does to scales in this form."""
        return self.int8

    def numbers(self, node: Node) -> Answers:
        """Where the numbers of the output come from."""
        return self.answers

    def cut(self, node: Node, cut: Cut) -> Node:
        """The node with its attributes fitted to the shapes after a cut."""
        return node


# --------------------------------------------------------------------------------------------------------- elementwise


class Elementwise(Op):
    """Output i from input i, numpy broadcasting. What meets is tied: it lives and dies together."""

    channels = "are tied to those that they meet"
    memory_kind: Memory = "in place"

    def check(self, node: Node, net: Network) -> None:
        shapes = [net.shapes[name] for name in node.inputs if name]
        try:
            fits = np.broadcast_shapes(*shapes) == net.shapes[node.outputs[0]]
        except ValueError:
            fits = False
        if not fits:
            _refuse(net, node, f"has operands {', '.join(str(list(shape)) for shape in shapes)} that don't fit together")

    def batch(self, node: Node, net: Network, axes: Mapping[str, int], count: int) -> int | None:
        rank = len(net.shapes[node.outputs[0]])
        return _meeting(node, net, {name: axis + rank - len(net.shapes[name]) for name, axis in axes.items()}, rank)

    def label(self, node: Node, flow: Flow) -> None:
        out = flow.net.shapes[node.outputs[0]]
        rank = len(out)
        operands = [(i, name) for i, name in enumerate(node.inputs) if name]
        carried = {}
        for index, name in operands:
            along = flow.labels(name)
            if along is None:
                continue
            axis = along.axis + rank - len(flow.net.shapes[name])
            if len(along.labels) == out[axis]:
                carried[index] = Along(axis, along.labels)
            else:
                flow.freeze(along.labels, f"{node.op} '{node.name}' spreads it over {out[axis]} channels")
        for tensor in node.outputs[1:]:
            flow.put(tensor, None)
        axes = {along.axis for along in carried.values()}
        if len(axes) > 1:
            for along in carried.values():
                flow.freeze(along.labels, f"{node.op} '{node.name}' combines channels of different axes")
            carried = {}
        if not carried:
            flow.put(node.outputs[0], None)
            return
        axis = axes.pop()
        labels = next(iter(carried.values())).labels
        for index, name in operands:
            shape = flow.net.shapes[name]
            own = axis - rank + len(shape)
            spans = own >= 0 and shape[own] == out[axis] > 1
            if index in carried:
                flow.tie(labels, carried[index].labels)
            elif flow.net.is_constant(name):
                if spans:
                    flow.slot(node, index, own, labels)
            elif spans:
                flow.freeze(labels, f"{node.op} '{node.name}' combines it with '{name}', whose channels can't go")
        flow.put(node.outputs[0], Along(axis, labels))


class Clamp(Elementwise):
    """An activation that only bounds its input: fused into whatever made it."""

    int8: Int8 = "clamp"


class Unit(Elementwise):
    """An activation whose output lies in [0, 1]."""

    int8: Int8 = "unit"


class SignedUnit(Elementwise):
    """An activation whose output lies in [-1, 1]."""

    int8: Int8 = "signed unit"


class BatchNormalization(Elementwise):
    """(batch, channel, ...) with scale, shift, mean and variance (channel,)."""

    channels = "pass, its statistics with them"

    def check(self, node: Node, net: Network) -> None:
        shapes = [net.shapes[name] for name in node.inputs]
        if len(shapes[0]) < 2 or any(shape != shapes[0][1:2] for shape in shapes[1:]):
            _refuse(net, node, f"has statistics {[list(shape) for shape in shapes[1:]]} for data {list(shapes[0])}")
        if node.get("training_mode") or any(node.outputs[1:]):
            _refuse(net, node, "is in training mode", "export with model.eval()")
        if not all(net.is_constant(name) for name in node.inputs[1:5]):
            _refuse(net, node, "has statistics that are computed at run time", "export with constant ones")

    def batch(self, node: Node, net: Network, axes: Mapping[str, int], count: int) -> int | None:
        return Op.batch(self, node, net, axes, count)

    def label(self, node: Node, flow: Flow) -> None:
        along = flow.labels(node.inputs[0])
        along = _only_axis(flow, node, along, 1)
        if along is not None:
            for index in range(1, 5):
                flow.slot(node, index, 0, along.labels)
        flow.put(node.outputs[0], along)


class InstanceNormalization(BatchNormalization):
    """Normalises each channel over its own space."""

    channels = "pass, its scales with them"
    memory_kind: Memory = "new"

    def check(self, node: Node, net: Network) -> None:
        shapes = [net.shapes[name] for name in node.inputs]
        if any(shape != shapes[0][1:2] for shape in shapes[1:]):
            _refuse(net, node, f"has scales {[list(shape) for shape in shapes[1:]]} for data {list(shapes[0])}")

    def mixes(self, node: Node, net: Network) -> Sequence[int]:
        return range(2, len(net.shapes[node.inputs[0]]))

    def label(self, node: Node, flow: Flow) -> None:
        along = _only_axis(flow, node, flow.labels(node.inputs[0]), 1)
        if along is not None:
            for index in (1, 2):
                flow.slot(node, index, 0, along.labels)
        flow.put(node.outputs[0], along)


class GroupNormalization(Op):
    """Normalises (batch, channel, ...) over each of ``num_groups`` runs of channels, with scale and shift (channel,).

    Every channel of a group has its part in the group's mean and variance, so that a group goes as a whole or not at all.
    """

    channels = "of one group are tied; frozen where there is but one group"

    def check(self, node: Node, net: Network) -> None:
        data, *shapes = [net.shapes[name] for name in node.inputs]
        groups = node.attrs["num_groups"]
        if len(data) < 2 or groups < 1 or data[1] % groups:
            _refuse(net, node, f"of {groups} groups doesn't fit data {list(data)}")
        if any(shape != data[1:2] for shape in shapes):
            _refuse(net, node, f"has scales {[list(shape) for shape in shapes]} for data {list(data)}")
        if node.get("stash_type") != 1:
            _refuse(net, node, "computes in another type than float32 (stash_type)", "export it with stash_type 1")

    def label(self, node: Node, flow: Flow) -> None:
        along = _only_axis(flow, node, flow.labels(node.inputs[0]), 1)
        if along is not None:
            rows = self._rows(node, along)
            if len(rows) == 1:
                flow.freeze(along.labels, f"{node.op} '{node.name}' normalises over all channels at once")
            for row in rows:
                flow.tie(np.broadcast_to(row[:1], row.shape), row)
            for index in (1, 2):
                flow.slot(node, index, 0, along.labels)
        flow.put(node.outputs[0], along)

    def cut(self, node: Node, cut: Cut) -> Node:
        along = cut.labels(node.inputs[0])
        if along is None:
            return node
        return node.with_attrs(num_groups=int(cut.kept(self._rows(node, along)[:, 0]).sum()))

    @staticmethod
    def _rows(node: Node, along: Along) -> np.ndarray:
        """The labels of each group, (groups, channels)."""
        return along.labels.reshape(node.attrs["num_groups"], -1)


class Cast(Elementwise):
    """Another type of the same numbers."""

    channels = "pass"

    def memory(self, node: Node, net: Network) -> Memory:
        both = net.dtypes[node.inputs[0]], net.dtypes[node.outputs[0]]
        return "view" if all(map(is_float, both)) else "new"


class Quantization(Op):
    """QuantizeLinear and DequantizeLinear: the same data as integers, and as reals again."""

    channels = "pass"
    memory_kind: Memory = "view"
    int8: Int8 = "same"

    def check(self, node: Node, net: Network) -> None:
        if node.get("block_size"):
            _refuse(net, node, "quantises data in blocks", "quantise activations per tensor, and weights alone in blocks")

    def batch(self, node: Node, net: Network, axes: Mapping[str, int], count: int) -> int | None:
        axis = axes.get(node.inputs[0])
        rank = len(net.shapes[node.inputs[0]])
        several = any(prod(net.shapes[name]) > 1 for name in node.inputs[1:] if name)
        return None if several and attributes.axis(node, rank) == axis else axis

    def label(self, node: Node, flow: Flow) -> None:
        along = flow.labels(node.inputs[0])
        if along is not None:
            for index, name in enumerate(node.inputs[1:], 1):
                if name and flow.net.shapes[name] not in ((), (1,)):
                    flow.slot(node, index, 0, along.labels)
        flow.put(node.outputs[0], along)


# ----------------------------------------------------------------------------------------------------- channels pass


class Extremum(Elementwise):
    """The largest or the smallest of what meets."""

    answers: Answers = "picked"


class Sum(Elementwise):
    """All that meets, added up; one term is that term."""

    def numbers(self, node: Node) -> Answers:
        return "picked" if len(node.inputs) == 1 else "new"


class PerChannel(Op):
    """Acts on each channel's space alone: the labels of axis 1 pass, others would lose their place."""

    channels = "pass"

    def label(self, node: Node, flow: Flow) -> None:
        along = _only_axis(flow, node, flow.labels(node.inputs[0]), 1)
        for output in node.outputs:
            if output:
                flow.put(output, along)


class MaxPool(PerChannel):
    """The largest of each window: it adds nothing up, so the input's scale stays."""

    int8: Int8 = "same"

    def check(self, node: Node, net: Network) -> None:
        if any(name in net.consumers or name in net.outputs for name in node.outputs[1:]):
            _refuse(net, node, "hands on the indices of what it picked", "upsample by Resize instead of unpooling")


class AveragePool(PerChannel):
    """The mean of each window.

    Where windows have different numbers of cells that count, kernels round it in the input's scale. A finer one of its own
    behind that would only show how coarse it is. Windows of one cell hand it on.
    """

    answers: Answers = "between"

    def scale(self, node: Node, net: Network) -> Int8:
        if prod(attributes.kernel(node, net)) == 1:
            return "same"
        kernel, counted = attributes.kernel(node, net), node.get("count_include_pad")
        sizes, outs = (net.shapes[name][2:] for name in (node.inputs[0], node.outputs[0]))
        strides, dilations = attributes.strides(node, len(kernel)), attributes.dilations(node, len(kernel))
        for axis, (before, after) in enumerate(attributes.pads(node, net)):
            span = (kernel[axis] - 1) * dilations[axis] + 1
            beyond = (outs[axis] - 1) * strides[axis] + span - sizes[axis] - before
            if beyond > (after if counted else 0) or (before and not counted):
                return "same"
        return self.int8


class GlobalAveragePool(PerChannel):
    """The mean of each channel; of one cell, that cell."""

    answers: Answers = "between"

    def scale(self, node: Node, net: Network) -> Int8:
        return "same" if prod(net.shapes[node.inputs[0]][2:]) == 1 else self.int8


class Barrier(Op):
    """Mixes the channels of some axes without weights: what it mixes must stay whole."""

    channels = "pass, or are frozen on an axis that it mixes"

    def __init__(self, mixed: Callable[[Node, Network], Sequence[int]], *, int8: Int8 = "own", reduces: bool = False) -> None:
        self.mixed, self.int8, self.reduces = mixed, int8, reduces

    def mixes(self, node: Node, net: Network) -> Sequence[int]:
        return self.mixed(node, net)

    def batch(self, node: Node, net: Network, axes: Mapping[str, int], count: int) -> int | None:
        axis, mixed = _meeting(node, net, axes, len(net.shapes[node.inputs[0]])), self.mixed(node, net)
        if axis is None or axis in mixed or len(axes) > 1:
            return None
        return axis - (sum(other < axis for other in mixed) if self.reduces and not node.get("keepdims") else 0)

    def label(self, node: Node, flow: Flow) -> None:
        along = flow.labels(node.inputs[0])
        axes = sorted(self.mixed(node, flow.net))
        if along is not None and along.axis in axes:
            flow.freeze(along.labels, f"{node.op} '{node.name}' mixes channels without weights")
            along = None
        if along is not None and self.reduces and not node.get("keepdims"):
            along = Along(along.axis - sum(axis < along.axis for axis in axes), along.labels)
        for output in node.outputs:
            if output:
                flow.put(output, along)


class Total(Barrier):
    """A sum, mean or product over axes; over axes of size 1 it hands its input on."""

    def scale(self, node: Node, net: Network) -> Int8:
        sizes = net.shapes[node.inputs[0]]
        return "same" if all(sizes[axis] == 1 for axis in self.mixed(node, net)) else self.int8


class Mean(Total):
    """The mean over axes."""

    answers: Answers = "between"


def _axis(node: Node, net: Network) -> Sequence[int]:
    return (attributes.axis(node, len(net.shapes[node.inputs[0]])),)


def _from_axis(node: Node, net: Network) -> Sequence[int]:
    rank = len(net.shapes[node.inputs[0]])
    return range(attributes.axis(node, rank), rank)


def _reduced_axes(node: Node, net: Network) -> Sequence[int]:
    return attributes.reduced_axes(node, len(net.shapes[node.inputs[0]]))


# ----------------------------------------------------------------------------------------------------------- movement


class Reshaping(Op):
    """Reshape, Flatten, Squeeze, Unsqueeze: the same elements in the same order."""

    memory_kind: Memory = "view"
    int8: Int8 = "same"

    def batch(self, node: Node, net: Network, axes: Mapping[str, int], count: int) -> int | None:
        before, after = net.shapes[node.inputs[0]], net.shapes[node.outputs[0]]
        axis = axes.get(node.inputs[0])
        if axis is None:
            return None
        to = next((at for at, size in enumerate(after) if size > 1 and prod(after[:at]) == prod(before[:axis])), None)
        return to if to is not None and after[to] % count == 0 else None

    def label(self, node: Node, flow: Flow) -> None:
        before, after = flow.net.shapes[node.inputs[0]], flow.net.shapes[node.outputs[0]]
        mixed = {
            axis for reader in flow.net.consumers.get(node.outputs[0], ()) for axis in OPS[reader.op].mixes(reader, flow.net)
        }
        flow.put(node.outputs[0], _reshaped(flow, flow.labels(node.inputs[0]), before, after, mixed))

    def cut(self, node: Node, cut: Cut) -> Node:
        if "shape" not in node.attrs:
            return node
        after = cut.shape(node.outputs[0])
        copied = not node.get("allowzero")
        target = [
            old if old == -1 or (old == 0 and copied) else new for old, new in zip(node.attrs["shape"], after, strict=True)
        ]
        return node.with_attrs(shape=tuple(target))


class Passing(Reshaping):
    """Identity and Dropout."""

    channels = "pass"

    def check(self, node: Node, net: Network) -> None:
        if node.get("training_mode"):
            _refuse(net, node, "is in training mode", "export with model.eval()")
        if any(node.outputs[1:]):  # only what is read is left of these
            _refuse(net, node, "hands on its mask, of which nothing is left when it rests", "export the network without it")


class Transpose(Op):
    """The axes in another order; labels go with theirs."""

    int8: Int8 = "same"

    def batch(self, node: Node, net: Network, axes: Mapping[str, int], count: int) -> int | None:
        axis = axes.get(node.inputs[0])
        return None if axis is None else attributes.permutation(node, len(net.shapes[node.inputs[0]])).index(axis)

    def label(self, node: Node, flow: Flow) -> None:
        along = flow.labels(node.inputs[0])
        perm = attributes.permutation(node, len(flow.net.shapes[node.inputs[0]]))
        flow.put(node.outputs[0], along and Along(perm.index(along.axis), along.labels))

    def memory(self, node: Node, net: Network) -> Memory:
        perm = attributes.permutation(node, len(net.shapes[node.inputs[0]]))
        if perm in ((0, 2, 3, 1), (0, 3, 1, 2), (0, 2, 1)):
            return "view"  # channels-first to channels-last or back: a matter of how kernels are written
        moved = [axis for axis in perm if net.shapes[node.inputs[0]][axis] > 1]
        return "view" if moved == sorted(moved) else "new"


class Concat(Op):
    """Inputs one after the other along an axis; so are their labels."""

    answers: Answers = "picked"

    def batch(self, node: Node, net: Network, axes: Mapping[str, int], count: int) -> int | None:
        rank = len(net.shapes[node.outputs[0]])
        axis = _meeting(node, net, axes, rank)
        return None if axis == attributes.axis(node, rank) else axis

    def label(self, node: Node, flow: Flow) -> None:
        shapes = [flow.net.shapes[name] for name in node.inputs]
        axis = attributes.axis(node, len(shapes[0]))
        flows = [flow.labels(name) for name in node.inputs]
        along = [a for a in flows if a is not None]
        if not along:
            flow.put(node.outputs[0], None)
        elif all(a.axis == axis for a in along):
            parts = [_fixed(s[axis]) if a is None else a.labels for a, s in zip(flows, shapes, strict=True)]
            flow.put(node.outputs[0], Along(axis, np.concatenate(parts)))
        elif len({a.axis for a in along}) == 1:
            labels, own = along[0].labels, along[0].axis
            for index, (name, a) in enumerate(zip(node.inputs, flows, strict=True)):
                if a is not None:
                    flow.tie(labels, a.labels)
                elif flow.net.is_constant(name):
                    flow.slot(node, index, own, labels)
                else:
                    flow.freeze(labels, f"Concat '{node.name}' joins it with '{name}', whose channels can't go")
            flow.put(node.outputs[0], Along(own, labels))
        else:
            for a in along:
                flow.freeze(a.labels, f"Concat '{node.name}' joins channels of different axes")
            flow.put(node.outputs[0], None)


class Split(Op):
    """Parts of one axis; each takes its labels along."""

    int8: Int8 = "same"

    def batch(self, node: Node, net: Network, axes: Mapping[str, int], count: int) -> int | None:
        axis = axes.get(node.inputs[0])
        return None if axis == self._axis(node, net) else axis

    def label(self, node: Node, flow: Flow) -> None:
        along = flow.labels(node.inputs[0])
        start = 0
        for output in node.outputs:
            size = flow.net.shapes[output][self._axis(node, flow.net)] if output else 0
            if along is not None and along.axis == self._axis(node, flow.net):
                flow.put(output, Along(along.axis, along.labels[start : start + size]))
            elif output:
                flow.put(output, along)
            start += size

    def cut(self, node: Node, cut: Cut) -> Node:
        axis = self._axis(node, cut.net)
        attrs = {key: value for key, value in node.attrs.items() if key != "num_outputs"}
        attrs["split"] = tuple(cut.shape(output)[axis] for output in node.outputs)
        return Node(node.name, node.op, node.inputs, node.outputs, attrs, node.origins)

    @staticmethod
    def _axis(node: Node, net: Network) -> int:
        return attributes.axis(node, len(net.shapes[node.inputs[0]]))


#: An end from here on is how exporters write that a Slice goes to the end, whatever the size.
_TO_THE_END = 2**31 - 1


class Slice(Op):
    """A range of each axis; where it is the channels' axis, of their labels too."""

    int8: Int8 = "same"

    def batch(self, node: Node, net: Network, axes: Mapping[str, int], count: int) -> int | None:
        shape, axis = net.shapes[node.inputs[0]], axes.get(node.inputs[0])
        if axis is None or attributes.slice_ranges(node, shape)[axis] != range(shape[axis]):
            return None
        part = attributes.slices(node, shape).get(axis)
        return axis if part is None or part.stop is None or part.stop >= _TO_THE_END else None  # first ones may be all of a few

    def label(self, node: Node, flow: Flow) -> None:
        along = flow.labels(node.inputs[0])
        ranges = attributes.slices(node, flow.net.shapes[node.inputs[0]])
        if along is not None and along.axis in ranges:
            start, stop, step = ranges[along.axis].indices(len(along.labels))
            if step != 1:
                flow.freeze(along.labels, f"Slice '{node.name}' takes every {step}th channel")
            along = Along(along.axis, along.labels[start:stop:step])
        flow.put(node.outputs[0], along)

    def memory(self, node: Node, net: Network) -> Memory:
        shape = net.shapes[node.inputs[0]]
        unchanged = shape == net.shapes[node.outputs[0]]
        return "view" if unchanged and all(part.step > 0 for part in attributes.slices(node, shape).values()) else "new"

    def cut(self, node: Node, cut: Cut) -> Node:
        along = cut.labels(node.inputs[0])
        ranges = attributes.slices(node, cut.net.shapes[node.inputs[0]])
        if along is None or along.axis not in ranges or ranges[along.axis].step != 1:
            return node
        start, stop, _ = ranges[along.axis].indices(len(along.labels))
        kept = np.concatenate([[0], np.cumsum(cut.kept(along.labels))])
        where = list(ranges).index(along.axis)
        starts, ends = list(node.attrs["starts"]), list(node.attrs["ends"])
        starts[where], ends[where] = int(kept[start]), int(kept[stop])
        return node.with_attrs(starts=tuple(starts), ends=tuple(ends))


class Gather(Op):
    """With constant indices: picks slices of one axis."""

    int8: Int8 = "same"

    def batch(self, node: Node, net: Network, axes: Mapping[str, int], count: int) -> int | None:
        axis, along = axes.get(node.inputs[0]), attributes.axis(node, len(net.shapes[node.inputs[0]]))
        if axis is None or axis == along:
            return None
        return axis + np.ndim(node.attrs["indices"]) - 1 if axis > along else axis

    def label(self, node: Node, flow: Flow) -> None:
        along = flow.labels(node.inputs[0])
        rank = len(flow.net.shapes[node.inputs[0]])
        axis = attributes.axis(node, rank)
        indices = np.asarray(node.attrs["indices"])
        if along is not None and along.axis == axis:
            if indices.ndim != 1:
                flow.freeze(along.labels, f"Gather '{node.name}' picks single channels")
                along = None
            else:
                along = Along(axis, along.labels[indices])
        elif along is not None and along.axis > axis:
            along = Along(along.axis + indices.ndim - 1, along.labels)
        flow.put(node.outputs[0], along)

    def cut(self, node: Node, cut: Cut) -> Node:
        along = cut.labels(node.inputs[0])
        if along is None or along.axis != attributes.axis(node, len(cut.net.shapes[node.inputs[0]])):
            return node
        kept = cut.kept(along.labels)
        place = np.cumsum(kept) - 1
        indices = np.asarray(node.attrs["indices"])
        if indices.ndim != 1:
            return node.with_attrs(indices=_plain_index(place[indices]))
        return node.with_attrs(indices=tuple(int(place[i]) for i in indices if kept[i]))


def _plain_index(place: np.ndarray) -> Any:
    return int(place) if place.ndim == 0 else place


class Pad(Op):
    """Channels that it adds are born here: they are constants that a cut may take away again."""

    channels = "move; added ones can go again"
    int8: Int8 = "same"

    def batch(self, node: Node, net: Network, axes: Mapping[str, int], count: int) -> int | None:
        axis, pads = axes.get(node.inputs[0]), attributes.pads_of_all_axes(node, len(net.shapes[node.inputs[0]]))
        return None if axis is None or any(pads[axis]) else axis

    def label(self, node: Node, flow: Flow) -> None:
        along = flow.labels(node.inputs[0])
        pads = attributes.pads_of_all_axes(node, len(flow.net.shapes[node.inputs[0]]))
        if along is not None and pads[along.axis] != (0, 0):
            before, after = pads[along.axis]
            if node.get("mode") != "constant" or before < 0 or after < 0:
                flow.freeze(along.labels, f"Pad '{node.name}' repeats or crops channels")
                along = None
            else:
                parts = [flow.fresh(before), along.labels, flow.fresh(after)]
                along = Along(along.axis, np.concatenate(parts))
        flow.put(node.outputs[0], along)

    def memory(self, node: Node, net: Network) -> Memory:
        pads = attributes.pads_of_all_axes(node, len(net.shapes[node.inputs[0]]))
        return "new" if any(map(any, pads)) else "view"

    def cut(self, node: Node, cut: Cut) -> Node:
        along = cut.labels(node.outputs[0])
        pads = attributes.pads_of_all_axes(node, len(cut.net.shapes[node.inputs[0]]))
        if along is None or pads[along.axis] == (0, 0):
            return node
        before, after = pads[along.axis]
        kept = cut.kept(along.labels)
        pads[along.axis] = int(kept[:before].sum()), int(kept[len(kept) - after :].sum())
        flat = tuple(pair[0] for pair in pads) + tuple(pair[1] for pair in pads)
        attrs = {key: value for key, value in node.attrs.items() if key != "axes"}
        return Node(node.name, node.op, node.inputs, node.outputs, {**attrs, "pads": flat}, node.origins)

    def is_zero(self, node: Node, net: Network) -> bool:
        """Whether it pads with zeros and crops nothing, as a convolution's own padding would."""
        pads = attributes.pads_of_all_axes(node, len(net.shapes[node.inputs[0]]))
        return node.get("mode") == "constant" and not node.get("value") and all(min(pair) >= 0 for pair in pads)


class Expand(Op):
    """Numpy broadcasting to a constant shape."""

    int8: Int8 = "same"

    def batch(self, node: Node, net: Network, axes: Mapping[str, int], count: int) -> int | None:
        before, out, axis = net.shapes[node.inputs[0]], net.shapes[node.outputs[0]], axes.get(node.inputs[0])
        if axis is None or before[axis] != out[axis + len(out) - len(before)]:
            return None
        return axis + len(out) - len(before)

    def label(self, node: Node, flow: Flow) -> None:
        along = flow.labels(node.inputs[0])
        out = flow.net.shapes[node.outputs[0]]
        shift = len(out) - len(flow.net.shapes[node.inputs[0]])
        if along is not None and len(along.labels) != out[along.axis + shift]:
            flow.freeze(along.labels, f"Expand '{node.name}' spreads it over {out[along.axis + shift]} channels")
            along = None
        flow.put(node.outputs[0], along and Along(along.axis + shift, along.labels))

    def memory(self, node: Node, net: Network) -> Memory:
        return "view" if prod(net.shapes[node.inputs[0]]) == prod(net.shapes[node.outputs[0]]) else "new"

    def cut(self, node: Node, cut: Cut) -> Node:
        along = cut.labels(node.outputs[0])
        target = list(node.attrs["shape"])
        own = along.axis - len(cut.shape(node.outputs[0])) + len(target) if along is not None else -1
        if along is None or own < 0 or target[own] == 1:
            return node
        target[own] = cut.shape(node.outputs[0])[along.axis]
        return node.with_attrs(shape=tuple(target))


class Tile(Op):
    """Copies side by side."""

    int8: Int8 = "same"

    def batch(self, node: Node, net: Network, axes: Mapping[str, int], count: int) -> int | None:
        axis = axes.get(node.inputs[0])
        return None if axis is None or node.attrs["repeats"][axis] != 1 else axis

    def label(self, node: Node, flow: Flow) -> None:
        along = flow.labels(node.inputs[0])
        flow.put(node.outputs[0], along and Along(along.axis, np.tile(along.labels, node.attrs["repeats"][along.axis])))


#: How far from a place of the input a sample may lie and be meant to lie there: scales are float32.
_NO_DISTANCE = 1e-4


class Resize(Op):
    """Resize and Upsample: changes space, never channels. Picking the nearest place makes no new numbers.

    Linear interpolation makes numbers between others, but where all numbers of its input are among those that it makes, their
    range is its own. Elsewhere it has another: in its input's scale it would meet half a step all the time, which torch and
    onnxruntime round differently.
    """

    channels = "pass"
    int8: Int8 = "same"

    def scale(self, node: Node, net: Network) -> Int8:
        if node.get("mode") == "nearest" or self._hands_on_all(node, net):
            return self.int8
        return "own"

    @staticmethod
    def _hands_on_all(node: Node, net: Network) -> bool:
        """Whether every number of the input is in the output of a linear interpolation, as it is."""
        if node.get("mode") != "linear" or node.get("antialias"):
            return False
        way, (before, after) = attributes.coordinates(node, net), map(net.shapes.__getitem__, (node.inputs[0], node.outputs[0]))
        for size, out, scale in zip(before, after, attributes.scales(node, net), strict=True):
            places = attributes.places(way, scale, size, out)
            if places is None:
                return False
            at = places.clip(0, size - 1)
            met = at.round()[abs(at - at.round()) < _NO_DISTANCE]
            if len(np.unique(met)) < size:
                return False
        return True

    def batch(self, node: Node, net: Network, axes: Mapping[str, int], count: int) -> int | None:
        before, after, axis = net.shapes[node.inputs[0]], net.shapes[node.outputs[0]], axes.get(node.inputs[0])
        return None if axis is None or before[axis] != after[axis] else axis

    def label(self, node: Node, flow: Flow) -> None:
        along = flow.labels(node.inputs[0])
        before, after = flow.net.shapes[node.inputs[0]], flow.net.shapes[node.outputs[0]]
        if along is not None and before[along.axis] != after[along.axis]:
            flow.freeze(along.labels, f"{node.op} '{node.name}' resizes the channel axis")
            along = None
        flow.put(node.outputs[0], along)

    def memory(self, node: Node, net: Network) -> Memory:
        return "view" if net.shapes[node.inputs[0]] == net.shapes[node.outputs[0]] else "new"

    def cut(self, node: Node, cut: Cut) -> Node:
        after = cut.shape(node.outputs[0])
        if not node.get("sizes"):
            return node
        return node.with_attrs(sizes=tuple(after[axis] for axis in attributes.axes(node, len(after))))


class DepthToSpace(Op):
    """(batch, b*b*channel, h, w) -> (batch, channel, b*h, b*w); the b*b channels of one output channel go together."""

    int8: Int8 = "same"

    def check(self, node: Node, net: Network) -> None:
        if net.shapes[node.inputs[0]][1] % node.attrs["blocksize"] ** 2:
            _refuse(net, node, f"of blocks of {node.attrs['blocksize']} doesn't fit data {list(net.shapes[node.inputs[0]])}")

    def label(self, node: Node, flow: Flow) -> None:
        along = _only_axis(flow, node, flow.labels(node.inputs[0]), 1)
        if along is None:
            flow.put(node.outputs[0], None)
            return
        block = node.attrs["blocksize"] ** 2
        grid = along.labels.reshape(block, -1) if node.get("mode") == "DCR" else along.labels.reshape(-1, block).T
        for row in grid[1:]:
            flow.tie(grid[0], row)
        flow.put(node.outputs[0], Along(1, grid[0]))


class SpaceToDepth(Op):
    """Blocks of pixels become channels; the inverse of ``DepthToSpace``."""

    int8: Int8 = "same"

    def check(self, node: Node, net: Network) -> None:
        if node.get("mode") != "DCR":
            _refuse(net, node, f"has mode {node.get('mode')}", "export it with mode DCR, or with an opset below 28")

    def label(self, node: Node, flow: Flow) -> None:
        along = _only_axis(flow, node, flow.labels(node.inputs[0]), 1)
        flow.put(node.outputs[0], along and Along(1, np.tile(along.labels, node.attrs["blocksize"] ** 2)))


# ------------------------------------------------------------------------------------------------------------- mixers


class Mixer(Op):
    """Channels end here and new ones are born: convolutions and matrix products with constant weights."""

    channels = "end here; new ones are born"

    def role(self, node: Node, index: int) -> Role:
        return ("data", "weight", "bias")[index] if index < 3 else "data"

    def weight_axes(self, node: Node) -> tuple[int, int]:
        """(in, out): the axes of the weight (input 1) that input and output channels cut."""
        raise NotImplementedError

    def check(self, node: Node, net: Network) -> None:
        if not net.is_constant(node.inputs[1]):
            _refuse(net, node, "has weights that are computed at run time", "export it with constant weights, or as a MatMul")

    def macs(self, node: Node, net: Network, dim: Dim) -> Any:
        """Output elements x taps of the kernel x input channels per group (contract of ``macs``)."""
        weight, output = node.inputs[1], node.outputs[0]
        taps = prod(net.shapes[weight][2:])
        rows = prod(net.shapes[output]) // net.shapes[output][1]
        return taps * rows * dim(weight, self.weight_axes(node)[0]) * dim(output, 1)


class Conv(Mixer):
    """x (batch, in, ...), weight (out, in / group, ...), bias (out,)."""

    def weight_axes(self, node: Node) -> tuple[int, int]:
        return 1, 0

    def check(self, node: Node, net: Network) -> None:
        super().check(node, net)
        data, weight, group = net.shapes[node.inputs[0]], net.shapes[node.inputs[1]], node.get("group")
        if not len(data) == len(weight) >= 3:
            _refuse(net, node, f"has weights {list(weight)} for data {list(data)}", "it takes 1-D, 2-D or 3-D convolutions")
        ins, outs = (weight[1] * group, weight[0]) if type(self) is Conv else (weight[0], weight[1] * group)
        fits = group >= 1 and data[1] == ins and ins % group == outs % group == 0
        if not fits or net.shapes[node.outputs[0]][1] != outs:
            _refuse(net, node, f"of {group} groups has weights {list(weight)} that don't fit data {list(data)}")
        if len(node.inputs) > 2 and node.inputs[2]:
            if not net.is_constant(node.inputs[2]):
                _refuse(net, node, "has a bias that is computed at run time", "add it by an Add of its own")
            if net.shapes[node.inputs[2]] != (outs,):
                _refuse(net, node, f"has a bias of shape {list(net.shapes[node.inputs[2]])} for {outs} channels")

    def label(self, node: Node, flow: Flow) -> None:
        labels = _incoming(flow, node, 1)
        group = node.get("group")
        outs = flow.net.shapes[node.inputs[1]][0]
        if group == 1:
            flow.slot(node, 1, 1, labels, mixes=True)
            out = _born(flow, outs)
        elif group == len(labels):
            out = np.repeat(labels, outs // group)  # depthwise: an output lives and dies with its input
        else:
            rows = labels.reshape(group, -1)
            flow.balance(node, rows)
            flow.slot(node, 1, 1, rows, mixes=True)
            out = _born(flow, outs) if outs > group else _fixed(outs)  # an only channel of a group can't go
            flow.balance(node, out.reshape(group, -1))
        flow.slot(node, 1, 0, out)
        if len(node.inputs) > 2:
            flow.slot(node, 2, 0, out)
        flow.put(node.outputs[0], Along(1, out))

    def cut(self, node: Node, cut: Cut) -> Node:
        if node.get("group") in (1, cut.net.shapes[node.inputs[0]][1]):
            return node if node.get("group") == 1 else node.with_attrs(group=cut.shape(node.inputs[0])[1])
        return node  # groups lose equally many: fewer channels in each, the same number of groups


class ConvTranspose(Conv):
    """x (batch, in, ...), weight (in, out / group, ...), bias (out,)."""

    def weight_axes(self, node: Node) -> tuple[int, int]:
        return 0, 1

    def macs(self, node: Node, net: Network, dim: Dim) -> Any:
        """Input elements x taps of the kernel x output channels per group: each input element is spread once."""
        data, weight = node.inputs[:2]
        return prod(net.shapes[weight][2:]) * prod(net.shapes[data][2:]) * dim(data, 1) * dim(weight, 1)

    def label(self, node: Node, flow: Flow) -> None:
        labels = _incoming(flow, node, 1)
        group = node.get("group")
        per_group = flow.net.shapes[node.inputs[1]][1]
        if group == 1:
            out = _born(flow, per_group)
            flow.slot(node, 1, 1, out)
        elif group == len(labels):
            out = np.repeat(labels, per_group)
        else:
            flow.balance(node, labels.reshape(group, -1))
            out = _born(flow, per_group * group) if per_group > 1 else _fixed(group)
            flow.balance(node, out.reshape(group, -1))
            flow.slot(node, 1, 1, out.reshape(group, -1))
        flow.slot(node, 1, 0, labels, mixes=group != len(labels))
        if len(node.inputs) > 2:
            flow.slot(node, 2, 0, out)
        flow.put(node.outputs[0], Along(1, out))


class Gemm(Mixer):
    """x (rows, in), weight (in, out) or, with transB, (out, in), bias broadcast to (rows, out)."""

    def weight_axes(self, node: Node) -> tuple[int, int]:
        return (1, 0) if node.get("transB") else (0, 1)

    def check(self, node: Node, net: Network) -> None:
        super().check(node, net)
        data, weight = net.shapes[node.inputs[0]], net.shapes[node.inputs[1]]
        if len(data) != 2 or len(weight) != 2 or (data[1] != weight[self.weight_axes(node)[0]] and not node.get("transA")):
            _refuse(net, node, f"has weights {list(weight)} that don't fit data {list(data)}")
        if node.get("transA"):
            _refuse(net, node, "transposes its data (transA=1)", "put a Transpose before it")

    def batch(self, node: Node, net: Network, axes: Mapping[str, int], count: int) -> int | None:
        bias = node.inputs[2:]
        shape = net.shapes[bias[0]] if bias and bias[0] else ()
        rows = len(shape) == 2 and shape[0] != 1  # one for each example, or for all
        return Op.batch(self, node, net, axes, count) if all(name in axes for name in bias if rows) else None

    def label(self, node: Node, flow: Flow) -> None:
        labels = _incoming(flow, node, 1)
        axis_in, axis_out = self.weight_axes(node)
        out = _born(flow, flow.net.shapes[node.inputs[1]][axis_out])
        flow.slot(node, 1, axis_in, labels, mixes=True)
        flow.slot(node, 1, axis_out, out)
        if len(node.inputs) > 2 and node.inputs[2]:
            shape = flow.net.shapes[node.inputs[2]]
            if not flow.net.is_constant(node.inputs[2]):
                flow.freeze(out, f"Gemm '{node.name}' adds data to it")
            elif shape and shape[-1] == len(out):
                flow.slot(node, 2, len(shape) - 1, out)
        flow.put(node.outputs[0], Along(1, out))


class MatMul(Mixer):
    """With a constant matrix on the right a fully connected layer over the last axis; other products only pass costs on."""

    channels = "end at a constant matrix on the right, new ones are born; frozen by other products"

    def check(self, node: Node, net: Network) -> None:
        pass

    def role(self, node: Node, index: int) -> Role:
        return "weight"

    def weight_axes(self, node: Node) -> tuple[int, int]:
        return 0, 1

    def is_layer(self, node: Node, net: Network) -> bool:
        """Whether it multiplies data with a constant matrix, as a dense layer does."""
        return net.is_constant(node.inputs[1]) and len(net.shapes[node.inputs[1]]) == 2

    def macs(self, node: Node, net: Network, dim: Dim) -> Any:
        """K x output elements where one side is constant; products of data with data aren't counted (contract of ``macs``)."""
        output = net.shapes[node.outputs[0]]
        if self.is_layer(node, net):
            last = len(output) - 1
            rows = 1
            for axis in range(last):
                rows = rows * dim(node.outputs[0], axis)
            return rows * dim(node.inputs[1], 0) * dim(node.outputs[0], last)
        if any(map(net.is_constant, node.inputs)):
            return prod(output) * net.shapes[node.inputs[0]][-1]
        return 0

    def batch(self, node: Node, net: Network, axes: Mapping[str, int], count: int) -> int | None:
        (left, right), rank = node.inputs, len(net.shapes[node.outputs[0]])
        ranks = {name: len(net.shapes[name]) for name in node.inputs}
        summed = (left in axes and axes[left] == ranks[left] - 1) or (right in axes and axes[right] == max(0, ranks[right] - 2))
        if summed or (ranks[left] == 1 and right in axes):
            return None
        aligned = {name: axis + rank - ranks[name] + (ranks[right] == 1) for name, axis in axes.items()}
        if {*aligned.values()} <= {rank - 2, rank - 1}:  # rows or columns of one matrix, which the other operand doesn't have
            return aligned.popitem()[1] if len(aligned) == 1 and left != right else None
        return _meeting(node, net, aligned, rank)

    def label(self, node: Node, flow: Flow) -> None:
        along = flow.labels(node.inputs[0])
        last = len(flow.net.shapes[node.inputs[0]]) - 1
        if not self.is_layer(node, flow.net):
            for name in node.inputs:
                labelled = flow.labels(name)
                if labelled is not None:
                    flow.freeze(labelled.labels, f"MatMul '{node.name}' multiplies data with data")
            flow.put(node.outputs[0], None)
        elif along is not None and along.axis != last:
            flow.put(node.outputs[0], along)  # rows of a matrix product pass; its columns stay whole
        else:
            ins, outs = flow.net.shapes[node.inputs[1]]
            out = _born(flow, outs)
            flow.slot(node, 1, 0, _fixed(ins) if along is None else along.labels, mixes=True)
            flow.slot(node, 1, 1, out)
            flow.put(node.outputs[0], Along(len(flow.net.shapes[node.outputs[0]]) - 1, out))


# -------------------------------------------------------------------------------------------------- shared label rules


def _refuse(net: Network, node: Node, what: str, then: str = "the file is damaged, export it again") -> None:
    raise UnsupportedOperator(f"{net.path}: node '{node.name}': {node.op} {what}; {then}")


def _meeting(node: Node, net: Network, axes: Mapping[str, int], rank: int) -> int | None:
    """The axis of an output of this rank on which the examples of all operands lie; None where they lie on several, or where an
    operand that no example decides has other numbers for one than for another.

    axes: operand -> axis of the output.
    """
    axis = next(iter(axes.values()))
    if {*axes.values()} != {axis}:
        return None
    for name in filter(None, node.inputs):
        own = axis - rank + len(net.shapes[name])
        if name in axes or own < 0 or net.shapes[name][own] == 1:
            continue
        value = net.constants.get(name)
        if value is None or not (value == value.take([0], own)).all():
            return None
    return axis


def _fixed(count: int) -> np.ndarray:
    return np.broadcast_to(np.int64(FIXED), (count,))  # one number in memory, whatever the count


def _born(flow: Flow, count: int) -> np.ndarray:
    """Labels for a mixer's new channels. An only channel can't go."""
    return flow.fresh(count) if count > 1 else _fixed(count)


def _only_axis(flow: Flow, node: Node, along: Along | None, axis: int) -> Along | None:
    """``along`` if it lies on ``axis``; labels of another axis are frozen."""
    if along is not None and along.axis != axis:
        flow.freeze(along.labels, f"{node.op} '{node.name}' works across it")
        return None
    return along


def _incoming(flow: Flow, node: Node, axis: int) -> np.ndarray:
    """Labels of a mixer's input channels; FIXED where it has none."""
    along = _only_axis(flow, node, flow.labels(node.inputs[0]), axis)
    return _fixed(flow.net.shapes[node.inputs[0]][axis]) if along is None else along.labels


#: A reshape that spreads labels over more places than this is taken for a mistake or an attack.
_MAX_GRID = 2**25


def _reshaped(flow: Flow, along: Along | None, before: Shape, after: Shape, mixed: Collection[int] = ()) -> Along | None:
    """Labels after a reshape. Where they spread over several axes, ties leave the one with most slices.

    mixed: axes of the result that its readers mix. Labels are tied along these where that leaves another axis, as in the
    groups of a normalisation: it has a statistic for each group, and so a group goes as a whole.
    """
    if along is None:
        return None
    start = prod(before[: along.axis])
    size = before[along.axis]
    rest = prod(before[along.axis + 1 :])
    # The labelled axis is the middle of (start, size, rest). Take the output axes that cover it, and nothing else in full.
    first, covered = 0, 1
    while first < len(after) and covered * after[first] <= start and start % (covered * after[first]) == 0:
        covered *= after[first]
        first += 1
    last, tail = len(after), 1
    while last > first and tail * after[last - 1] <= rest and rest % (tail * after[last - 1]) == 0:
        tail *= after[last - 1]
        last -= 1
    if size * (start // covered) * (rest // tail) > _MAX_GRID:
        flow.freeze(along.labels, "a reshape spreads it over too many places to follow")
        return None
    grid = np.broadcast_to(along.labels[None, :, None], (start // covered, size, rest // tail)).reshape(after[first:last])
    axes = [axis for axis in range(grid.ndim) if grid.shape[axis] > 1 and (grid != grid.take([0], axis)).any()]
    if not axes:  # one label all over: only an axis of size 1 can carry it
        if size == 1 and 1 in after:
            return Along(after.index(1), along.labels)
        flow.freeze(along.labels, "a reshape spreads it over a whole tensor")
        return None
    best = max(axes, key=lambda axis: (first + axis not in mixed, grid.shape[axis], -axis))
    lines = np.moveaxis(grid, best, -1).reshape(-1, grid.shape[best])
    for line in lines[1:]:
        flow.tie(lines[0], line)
    return Along(first + best, lines[0])


# ---------------------------------------------------------------------------------------------------------- the table

_elementwise, _clamp, _unit, _per_channel, _reshaping = Elementwise(), Clamp(), Unit(), PerChannel(), Reshaping()
_resize, _quantization, _passing = Resize(), Quantization(), Passing()
_reduction = Barrier(_reduced_axes, reduces=True)
_total = Total(_reduced_axes, reduces=True)
_extremum = Barrier(_reduced_axes, int8="same", reduces=True)  # it picks among its input's numbers, and adds nothing up

OPS: dict[str, Op] = {
    "Abs": _elementwise,
    "Acos": _elementwise,
    "Acosh": _elementwise,
    "Add": _elementwise,
    "And": _elementwise,
    "ArgMax": Barrier(_axis, reduces=True),
    "ArgMin": Barrier(_axis, reduces=True),
    "Asin": _elementwise,
    "Asinh": _elementwise,
    "Atan": _elementwise,
    "Atanh": _elementwise,
    "AveragePool": AveragePool(),
    "BatchNormalization": BatchNormalization(),
    "Cast": Cast(),
    "Ceil": _elementwise,
    "Celu": _elementwise,
    "Clip": _clamp,
    "Concat": Concat(),
    "Conv": Conv(),
    "ConvTranspose": ConvTranspose(),
    "Cos": _elementwise,
    "Cosh": _elementwise,
    "DepthToSpace": DepthToSpace(),
    "DequantizeLinear": _quantization,
    "Div": _elementwise,
    "Dropout": _passing,
    "Elu": _elementwise,
    "Equal": _elementwise,
    "Erf": _elementwise,
    "Exp": _elementwise,
    "Expand": Expand(),
    "Flatten": _reshaping,
    "Floor": _elementwise,
    "Gather": Gather(),
    "Gelu": _elementwise,
    "Gemm": Gemm(),
    "GlobalAveragePool": GlobalAveragePool(),
    "GlobalLpPool": _per_channel,
    "GlobalMaxPool": MaxPool(),
    "Greater": _elementwise,
    "GreaterOrEqual": _elementwise,
    "HardSigmoid": _unit,
    "HardSwish": _elementwise,
    "Identity": _passing,
    "GroupNormalization": GroupNormalization(),
    "Hardmax": Barrier(attributes.softmax_axes),
    "InstanceNormalization": InstanceNormalization(),
    "LRN": Barrier(lambda node, net: (1,)),
    "LayerNormalization": Barrier(_from_axis),
    "LeakyRelu": _elementwise,
    "Less": _elementwise,
    "LessOrEqual": _elementwise,
    "Log": _elementwise,
    "LogSoftmax": Barrier(attributes.softmax_axes, int8="log"),
    "LpNormalization": Barrier(_axis),
    "LpPool": _per_channel,
    "MatMul": MatMul(),
    "Max": Extremum(),
    "MaxPool": MaxPool(),
    "Mean": _elementwise,
    "Min": Extremum(),
    "Mish": _elementwise,
    "Mod": _elementwise,
    "Mul": _elementwise,
    "Neg": _elementwise,
    "Not": _elementwise,
    "Or": _elementwise,
    "PRelu": _elementwise,
    "Pad": Pad(),
    "Pow": _elementwise,
    "QuantizeLinear": _quantization,
    "Reciprocal": _elementwise,
    "ReduceL1": _reduction,
    "ReduceL2": _reduction,
    "ReduceLogSum": _reduction,
    "ReduceLogSumExp": _reduction,
    "ReduceMax": _extremum,
    "ReduceMean": Mean(_reduced_axes, reduces=True),
    "ReduceMin": _extremum,
    "ReduceProd": _total,
    "ReduceSum": _total,
    "ReduceSumSquare": _reduction,
    "Relu": _clamp,
    "Reshape": _reshaping,
    "Resize": _resize,
    "Round": _elementwise,
    "Selu": _elementwise,
    "Shrink": _elementwise,
    "Sigmoid": _unit,
    "Sign": _elementwise,
    "Sin": _elementwise,
    "Sinh": _elementwise,
    "Slice": Slice(),
    "Softmax": Barrier(attributes.softmax_axes, int8="unit"),
    "Softplus": _elementwise,
    "Softsign": _elementwise,
    "SpaceToDepth": SpaceToDepth(),
    "Split": Split(),
    "Sqrt": _elementwise,
    "Squeeze": _reshaping,
    "Sub": _elementwise,
    "Sum": Sum(),
    "Swish": _elementwise,
    "Tan": _elementwise,
    "Tanh": SignedUnit(),
    "ThresholdedRelu": _elementwise,
    "Tile": Tile(),
    "TopK": Barrier(_axis),
    "Transpose": Transpose(),
    "Unsqueeze": _reshaping,
    "Upsample": _resize,
    "Where": _elementwise,
    "Xor": _elementwise,
}

#: What ``table`` says about how outputs are quantised.
_INT8_TEXT: dict[Int8, str] = {
    "own": "by its own range",
    "same": "as its input",
    "clamp": "bounds its input, no quantiser between",
    "unit": "1/256",
    "signed unit": "1/128",
    "log": "1/16",
}


def table(kernels: Collection[str] = ()) -> str:
    """The operators that mcuprune knows, as a page of markdown. kernels: those that TensorFlow Lite Micro runs in int8."""
    lines = [
        "# Operators",
        "",
        f"mcuprune reads ONNX opsets from {OLDEST_OPSET} to the newest that the installed `onnx` knows, "
        f"and has {len(OPS)} operators.",
        "What depends on constants and shapes alone is computed when a file is read, so operators that only do that (Constant,",
        "Shape, ConstantOfShape, Range and others) need no entry. Integer operators (QLinearConv, QLinearMatMul, ConvInteger,",
        "QGemm and others) are read as float ones between quantisers. Weights may be quantised in blocks.",
        "",
        "Some are read as simpler ones: Einsum as MatMul, Mul, ReduceSum and Transpose, unless an operand repeats an index;",
        "GatherND and GatherElements with constant indices that pick whole slices of axes as Gather; GroupNormalization of",
        "opset 18 as InstanceNormalization; an Expand, or a Tile of axes of size 1, as nothing where all its readers broadcast",
        "anyway; an If whose condition constants or static shapes decide as the branch that it takes.",
        "",
        "A group normalisation, the operator or Reshape, InstanceNormalization and Reshape, loses whole groups: every channel",
        "has its part in the mean and variance of its group. With a single group its channels are frozen.",
        "",
        "Refused, with a message that names the node: other control flow (Loop, Scan, an If that the data decide), recurrent",
        "operators (RNN, LSTM, GRU), custom domains, graphs that ONNX Runtime optimised, parameters and convolution weights",
        "that are computed at run time, BatchNormalization and Dropout in training mode. Where such a node begins the tail of",
        "a detector (NonMaxSuppression, NonZero and the like), the message proposes the tensors for `--outputs`, which ends",
        "the network there.",
        "",
        "Channels: what becomes of them in the operator. Memory: whether the output is a new tensor, may overwrite an input",
        "that dies, or is a view. MACs: whether it counts. int8: the scale of its output. Kernel: whether it runs in int8 in",
        "TensorFlow Lite Micro; what doesn't is pruned and written as .onnx, float or int8.",
        "",
        "| Operator | Channels | Memory | MACs | int8 | Kernel |",
        "|---|---|---|---|---|---|",
    ]
    for name, entry in sorted(OPS.items()):
        kind = entry.memory_kind if type(entry).memory is Op.memory else "new, or a view where nothing moves"
        counted = "yes" if isinstance(entry, Mixer) else ""
        runs = "yes" if name in kernels else ""
        lines.append(f"| {name} | {entry.channels} | {kind} | {counted} | {_INT8_TEXT[entry.int8]} | {runs} |")
    return "\n".join(lines) + "\n"


_RECURRENT = ("RNN", "LSTM", "GRU")


class Accepting:
    """What ``network.load`` asks about operators; path: what messages call the file."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __call__(self, node: Node) -> None:
        """Raises UnsupportedOperator, naming file and node, for operators that aren't in the table."""
        where, tensor = f"{self._path}: node '{node.name}'", next(filter(None, node.outputs), None)
        if node.op in _RECURRENT:
            raise UnsupportedOperator(
                f"{where}: {node.op} is recurrent; mcuprune handles feed-forward CNNs: replace it by convolutions over time, "
                "or export the part before it",
                tensor=tensor,
            )
        if node.op not in OPS:
            raise UnsupportedOperator(
                f"{where}: no entry for operator {node.op}; mcuprune knows {len(OPS)}, see docs/operators.md: "
                "write it with these, and export again",
                tensor=tensor,
            )

    def apart(self, net: Network, count: int) -> Mapping[str, int] | None:
        """Tensor -> axis along which the examples lie, ``count`` along axis 0 of inputs and outputs; None where they meet."""
        axes = dict.fromkeys(net.inputs, 0)
        for node in net.nodes:
            own = {name: axes[name] for name in node.inputs if name in axes}
            if not own:
                continue
            axis = OPS[node.op].batch(node, net, own, count)
            if axis is None:
                return None
            axes |= dict.fromkeys(filter(None, node.outputs), axis)
        return axes if all(axes.get(name) == 0 for name in net.outputs) else None


def accept(path: str) -> Accepting:
    """A check for ``network.load`` of the file at ``path``."""
    return Accepting(path)
