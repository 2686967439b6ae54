"""Cross-layer equalisation: channels of very unequal size brought to one size before a network is quantised.

An int8 tensor has one scale for all its channels, so a channel whose values are a hundred times smaller than those of its
neighbours is left with two or three steps. Where nothing but positively homogeneous operators (f(s x) = s f(x) for s > 0: Relu,
pools, Add of tensors scaled alike, every movement) lies between what makes a channel and what reads it, its maker's weights can
be multiplied by any s > 0 and its readers' divided by it, and the network computes the same (Nagel et al. 2019, "Data-Free
Quantization Through Weight Equalization and Bias Correction", section 4.1; there s makes ranges of weights equal, here of
activations, since weights have a scale for every channel already).

Which channels can be scaled, and which only together, is a labelling like the one that cuts follow, by the same rules of the
operator table: ``_Scaling`` takes those rules for homogeneous operators and freezes what reaches any other. It differs where
scaling is freer than cutting (a depthwise convolution reads one scale and makes another) or less free (a gate that is
multiplied with its channel must not be scaled too).

Every factor is a power of two: multiplying a float by it changes no digit, so that the equalised network is the same to the
last bit unless a number leaves the range of floats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor

from mcuprune.channels.disjoint import DisjointSets
from mcuprune.channels.labelling import Channels
from mcuprune.graph.network import Network, Node
from mcuprune.immutable import immutable
from mcuprune.operators import attributes
from mcuprune.operators.table import FIXED, OPS, Along, Mixer, Pad
from mcuprune.train.fake_quant import QuantTrainable, calibrate
from mcuprune.train.module import Trainable

#: Operators of one input that are positively homogeneous in it, channel by channel; their rules move or tie labels.
_HOMOGENEOUS = (
    *("Relu", "LeakyRelu", "PRelu", "Abs", "Neg", "Identity", "Dropout", "Resize", "Upsample", "DepthToSpace", "SpaceToDepth"),
    *("MaxPool", "AveragePool", "LpPool", "GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool"),
    *("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2"),
    *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Concat", "Split", "Slice", "Gather", "Expand", "Tile"),
)
#: Homogeneous in all operands together: what meets must be scaled alike.
_TOGETHER = ("Add", "Sub", "Sum", "Mean", "Max", "Min")
#: How far towards equal ranges channels are brought: 1 makes them equal.
_STRENGTHS = (1.0, 0.5)
#: A network is changed only where that makes its int8 error, the mean square difference of its outputs, this much smaller.
_WORTHWHILE = 0.5
#: An int8 network whose error is below this share of its outputs' own mean square has nothing to gain.
_GOOD_ENOUGH = 1e-3
#: Examples that decide on it.
_JUDGES = 128
#: No channel is scaled by more than 2 to this power: what looks dead in the examples may wake up.
_LARGEST = 12
#: The largest difference, relative to the largest output, that counts as none.
_SAME = 1e-5


@immutable
class _Slot:
    """An axis of a constant that scales go into: the label of each element, broadcastable to it, and the scale's power."""

    labels: np.ndarray
    power: int


class _Scaling:
    """``ops.Flow`` for scales: labels of slices that must be scaled alike; FIXED is the label of what keeps its scale."""

    def __init__(self, net: Network) -> None:
        self.net = net
        self.slots: dict[tuple[str, str], _Slot] = {}
        self._uses: dict[str, int] = {}
        self._sets = DisjointSets(1)  # of FIXED alone: the least label, so what joins it keeps its scale
        self.along: dict[str, Along] = {}

    def labels(self, tensor: str) -> Along | None:
        return self.along.get(tensor)

    def put(self, tensor: str, along: Along | None) -> None:
        if along is not None and along.labels.any():
            self.along[tensor] = along

    def fresh(self, count: int) -> np.ndarray:
        return self._sets.add(count)

    def tie(self, first: np.ndarray, other: np.ndarray) -> None:
        for a, b in zip(first.ravel().tolist(), other.ravel().tolist(), strict=True):
            self._sets.unite(a, b)

    def freeze(self, labels: np.ndarray, why: str) -> None:
        for label in set(labels.ravel().tolist()):
            self._sets.unite(label, FIXED)

    def slot(self, node: Node, index: int, axis: int, labels: np.ndarray, *, mixes: bool = False) -> None:
        """What a rule of the operator table says of a constant operand: added ones are scaled, factors and slopes are not."""
        name = node.inputs[index]
        if not name or node.op not in (*_TOGETHER, "Concat"):
            return
        if self.net.is_constant(name):
            rank = len(self.net.shapes[name])
            self._scale(name, "made", labels.reshape(-1, *(1,) * (rank - axis - 1)), 1)
        else:
            self.freeze(labels, "computed")

    def balance(self, node: Node, rows: np.ndarray) -> None:
        """Groups of a convolution may be scaled as they like."""

    def roots(self, labels: np.ndarray) -> np.ndarray:
        return self._sets.roots(labels)

    def _scale(self, name: str, role: str, labels: np.ndarray, power: int) -> None:
        """Scales go into a constant. Users of one constant must agree on them."""
        self._uses[name] = self._uses.get(name, 0) + (role != "read")
        known = self.slots.setdefault((name, role), _Slot(labels, power))
        if known.labels.shape != labels.shape:
            self.freeze(known.labels, "shared by nodes of different forms")
            self.freeze(labels, "shared by nodes of different forms")
        elif known.labels is not labels:
            self.tie(known.labels, labels)

    def run(self) -> None:
        """Label the whole network."""
        for node in self.net.nodes:
            self._node(node)
        for tensor in self.net.outputs:
            self._freeze_tensor(tensor)
        for (name, _), slot in self.slots.items():
            if len(self.net.consumers[name]) != self._uses[name] or self.net.constants[name].dtype.kind != "f":
                self.freeze(slot.labels, "also read by what can't be scaled")

    def _freeze_tensor(self, tensor: str) -> None:
        if (along := self.along.get(tensor)) is not None:
            self.freeze(along.labels, "read by what can't be scaled")

    def _node(self, node: Node) -> None:
        entry = OPS[node.op]
        if isinstance(entry, Mixer) and len(node.inputs) > 1 and self.net.is_constant(node.inputs[1]):
            if self._mixer(node, entry):
                return
        elif self._is_homogeneous(node):
            entry.label(node, self)
            return
        elif node.op in ("Mul", "Div") and self._gated(node):
            return
        for name in node.inputs:
            self._freeze_tensor(name)

    def _is_homogeneous(self, node: Node) -> bool:
        if node.op == "Clip":  # with one bound at zero and none on the other side it is a Relu
            low, high = _bound(node, "min", -np.inf), _bound(node, "max", np.inf)
            return (low, high) in ((0.0, np.inf), (-np.inf, 0.0), (-np.inf, np.inf))
        if node.op == "Cast":
            return all(self.net.dtypes[name] == TensorProto.FLOAT for name in (node.inputs[0], node.outputs[0]))
        entry = OPS[node.op]
        if isinstance(entry, Pad):
            along = self.along.get(node.inputs[0])
            pads = attributes.pads_of_all_axes(node, len(self.net.shapes[node.inputs[0]]))
            repeats = node.get("mode") != "constant"
            return (repeats or entry.is_zero(node, self.net)) and (along is None or pads[along.axis] == (0, 0))
        if node.op in _TOGETHER:
            return self._can_meet(node)
        return node.op in _HOMOGENEOUS

    def _can_meet(self, node: Node) -> bool:
        """Whether the operands have one scale in every place: each spans the channels, or is zero."""
        shape = self.net.shapes[node.outputs[0]]
        inputs = [(name, self.along.get(name)) for name in node.inputs]
        axes = {along.axis - len(self.net.shapes[name]) for name, along in inputs if along is not None}
        if len(axes) != 1:
            return False
        axis = axes.pop()
        for name, along in inputs:
            if along is None and self.net.is_constant(name):
                own = self.net.shapes[name]
                spans = len(own) >= -axis and own[axis] == shape[axis]
                if not spans and self.net.constants[name].any():
                    return False
            elif along is None or len(along.labels) != shape[axis]:
                return False
        return True

    def _gated(self, node: Node) -> bool:
        """A product or quotient of labelled data and something of fixed scale: the data's labels go on."""
        shape = self.net.shapes[node.outputs[0]]
        inputs = [(name, self.along.get(name)) for name in node.inputs]
        labelled = [(name, along) for name, along in inputs if along is not None]
        if len(labelled) != 1 or (node.op == "Div" and labelled[0][0] != node.inputs[0]):
            return False
        name, along = labelled[0]
        axis = along.axis + len(shape) - len(self.net.shapes[name])
        if len(along.labels) != shape[axis]:
            return False
        self.put(node.outputs[0], Along(axis, along.labels))
        return True

    def _mixer(self, node: Node, entry: Mixer) -> bool:
        """A convolution or matrix product: its input's scale goes out of the weight, its output's scale into it."""
        data, weight = node.inputs[:2]
        shape, out_shape = self.net.shapes[weight], self.net.shapes[node.outputs[0]]
        matrix = node.op in ("MatMul", "Gemm")
        if node.op not in ("Conv", "ConvTranspose", "Gemm", "MatMul") or (matrix and len(shape) != 2):
            return False
        along, axis = self.along.get(data), len(self.net.shapes[data]) - 1 if matrix else 1
        if along is not None and along.axis != axis:
            return False
        groups = int(node.get("group"))
        read = np.zeros(self.net.shapes[data][axis], np.int64) if along is None else along.labels
        labels_made = self.fresh(out_shape[-1] if matrix else out_shape[1])
        ones = (1,) * (len(shape) - 2)
        if matrix:
            across, down = entry.weight_axes(node)
            self._scale(weight, "read", _laid(read, across, 2), -1)
            self._scale(weight, "made", _laid(labels_made, down, 2), 1)
        elif node.op == "Conv":  # (out, in / group, ...): each group's rows read that group's channels
            rows = np.repeat(read.reshape(groups, -1), shape[0] // groups, axis=0)
            self._scale(weight, "read", rows.reshape(*rows.shape, *ones), -1)
            self._scale(weight, "made", labels_made.reshape(-1, 1, *ones), 1)
        else:  # (in, out / group, ...)
            rows = np.repeat(labels_made.reshape(groups, -1), shape[0] // groups, axis=0)
            self._scale(weight, "read", read.reshape(-1, 1, *ones), -1)
            self._scale(weight, "made", rows.reshape(*rows.shape, *ones), 1)
        self._bias(node, labels_made)
        self.put(node.outputs[0], Along(len(out_shape) - 1 if matrix else 1, labels_made))
        return True

    def _bias(self, node: Node, labels_made: np.ndarray) -> None:
        if len(node.inputs) < 3 or not node.inputs[2]:
            return
        name = node.inputs[2]
        shape = self.net.shapes[name]
        if self.net.is_constant(name) and shape and shape[-1] == len(labels_made):
            self._scale(name, "made", labels_made, 1)
        else:
            self.freeze(labels_made, "its bias is one number, or computed")


def _bound(node: Node, name: str, default: float) -> float:
    bound = node.get(name)
    return default if bound is None else float(bound)


def _laid(labels: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """Labels as an array that broadcasts along ``axis`` of a constant of this rank."""
    return labels.reshape([-1 if a == axis else 1 for a in range(rank)])


def scaled(net: Network, flow: _Scaling, factor: Mapping[int, float]) -> Network:
    """The network with every label's channels multiplied by its factor; labels that aren't there keep theirs."""
    constants = dict(net.constants)
    for (name, _), slot in flow.slots.items():
        factors = np.array([factor.get(int(label), 1.0) for label in flow.roots(slot.labels).ravel()])
        factors = (factors**slot.power).reshape(slot.labels.shape)
        constants[name] = (constants[name] * factors).astype(constants[name].dtype)
    return net.with_constants(constants)


@torch.no_grad()
def _sizes(
    channels: Channels, tensors: Mapping[str, Along], batches: Sequence[tuple[np.ndarray, ...]], device: str
) -> dict[str, np.ndarray]:
    """The largest magnitude of each slice of each tensor over the batches."""
    sizes: dict[str, Tensor] = {}
    module = Trainable(channels).to(device).eval()

    def watch(tensor: str, value: Tensor) -> Tensor:
        if (along := tensors.get(tensor)) is not None:
            size = value.abs().amax([axis for axis in range(value.ndim) if axis != along.axis])
            sizes[tensor] = torch.maximum(size, sizes[tensor]) if tensor in sizes else size
        return value

    module.computed = watch  # type: ignore[method-assign]
    for batch in batches:
        module(*(torch.from_numpy(x).to(device) for x in batch))
    return {tensor: size.cpu().numpy() for tensor, size in sizes.items()}


def _factors(
    flow: _Scaling, quantizer: Mapping[str, str], sizes: Mapping[str, np.ndarray], strength: float
) -> dict[int, float]:
    """Label -> the power of two that brings its channels, of all its tensors the largest, near the size of their neighbours."""
    whole: dict[str, float] = {}  # of the tensors that share a quantiser the largest counts
    for tensor, size in sizes.items():
        whole[quantizer[tensor]] = max(whole.get(quantizer[tensor], 0.0), float(size.max()))
    share: dict[int, float] = {}
    for tensor, size in sizes.items():
        largest = whole[quantizer[tensor]]
        for root, own in zip(flow.roots(flow.along[tensor].labels).tolist(), size.tolist(), strict=True):
            if root != FIXED and largest > 0:
                share[root] = max(share.get(root, 0.0), own / largest)
    return {
        root: 2.0 ** min(_LARGEST, int(strength * -np.log2(own) + 1e-6)) for root, own in share.items() if own > 0
    }  # rounded down: no channel outgrows its tensor


def equalized(
    channels: Channels, batches: Sequence[tuple[np.ndarray, ...]], device: str = "cpu"
) -> tuple[Channels, str | None]:
    """The network with channels of one size, where that is worth it, and a note that says so.

    channels: BatchNormalizations folded. batches: examples, one float32 array (batch, ...) for each input.

    Factors bring each channel near the largest of its tensor, wholly or half-way: whole factors make activations exact at the
    cost of weights (a row of a weight matrix has one scale for columns that grow apart), so both are tried, and the int8
    network that comes nearest to the float one on the first batches is taken. The network as it is wins if it is good enough,
    and unless its error falls to _WORTHWHILE. A result that differs from the original by more than 1e-5 of the largest
    output is thrown away, and noted.
    """
    net = channels.network
    flow = _Scaling(net)
    flow.run()
    quantizer = QuantTrainable(channels).scheme.quantizer
    free = {tensor: along for tensor, along in flow.along.items() if tensor in quantizer and flow.roots(along.labels).any()}
    if not free:
        return channels, None
    judges = _judges(batches)
    exact = _outputs(Trainable(channels).to(device), judges)
    errors = {0.0: _error(QuantTrainable(channels).to(device), batches, exact)}
    if errors[0.0] < _GOOD_ENOUGH:
        return channels, None
    sizes = _sizes(channels, free, batches, device)
    candidates = {0.0: channels}
    for strength in _STRENGTHS:
        factors = _factors(flow, quantizer, sizes, strength)
        if all(factor == 1.0 for factor in factors.values()):
            continue
        candidate = channels.with_network(scaled(net, flow, factors))
        again = _outputs(Trainable(candidate).to(device), judges)
        apart = max(_difference(a, b) for a, b in zip(again, exact, strict=True))
        if not apart < _SAME:
            note = f"channels were left as unequal as they are: to scale them would change an output by {apart:.1e} of its size"
            return channels, note
        candidates[strength] = candidate
        errors[strength] = _error(QuantTrainable(candidate).to(device), batches, exact)
    best = min(errors, key=lambda strength: errors[strength])
    if not errors[best] <= _WORTHWHILE * errors[0.0]:
        return channels, None
    note = (
        "channels of unequal size were scaled alike before quantisation (cross-layer equalisation); the float network computes "
        f"the same, the int8 one errs {np.sqrt(errors[best] / errors[0.0]):.0%} as much"
    )
    return candidates[best], note


def _judges(batches: Sequence[tuple[np.ndarray, ...]]) -> Sequence[tuple[np.ndarray, ...]]:
    """The first batches, as many as have _JUDGES examples."""
    return batches[: -(-_JUDGES // len(batches[0][0]))]


@torch.no_grad()
def _outputs(module: Trainable, batches: Sequence[tuple[np.ndarray, ...]]) -> list[np.ndarray]:
    """Each output over all batches; logits where the network ends in a Softmax."""
    module.want_logits()
    module.eval()
    outputs = [module(*(torch.from_numpy(x).to(module.device) for x in batch)) for batch in batches]
    parts = zip(*outputs, strict=True)
    return [np.concatenate([value.float().cpu().numpy().ravel() for value in values]) for values in parts]  # truth values, too


def _error(module: QuantTrainable, batches: Sequence[tuple[np.ndarray, ...]], exact: Sequence[np.ndarray]) -> float:
    """Mean square difference between the outputs of the int8 network and the float one, each output by its own size.

    exact: what the float network answers to the first of the batches.
    """
    calibrate(module, batches)
    outputs = _outputs(module, _judges(batches))
    pairs = zip(outputs, exact, strict=True)
    return float(np.mean([np.mean((a - b) ** 2) / max(float(np.mean(b**2)), 1e-12) for a, b in pairs]))


def _difference(first: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(first - other).max(initial=0.0) / max(1e-12, float(np.abs(other).max(initial=0.0))))
