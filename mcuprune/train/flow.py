"""Synaptic flow (Tanaka et al., arXiv 2006.05467): what every channel carries of a network's signal, without any data.

The network is made linear and positive: weights by their absolute values, no biases, every activation passes its input on,
BatchNormalization is the factor that it is at inference. Its outputs for an input of ones sum to the *flow* R (Eq. 4 there). Then
w dR/dw of all weights of a layer sum to R (their Theorem 2), and R is one number in which all layers can be compared.

The scores of all weights of a slice of channels are read from the activations: for the slices that make a channel they sum to
y dR/dy over its output y, for those that read it to x dR/dx over the input x of that one reader. No gradient of a weight is
taken, which for wide layers is most of the work.

Two tensors that are multiplied, as by a squeeze-and-excitation block, give their geometric mean, so that R stays linear in
every layer; what is divided by something else passes on. Everything is in double precision: R grows with every layer, and
twenty layers overflow single precision.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mcuprune.channels.labelling import Channels
from mcuprune.costs.sensitivity import Curve, removed
from mcuprune.errors import UnsupportedOperator
from mcuprune.graph.network import Node
from mcuprune.operators.table import OPS, Along, Mixer
from mcuprune.train.module import Kernel, Trainable

#: Operators whose output is taken for their first computed input: activations, and what normalises by what it sees.
_STRAIGHT = frozenset(
    "Abs Cast Ceil Celu Clip Cos Dropout Elu Erf Exp Floor Gelu HardSigmoid HardSwish Hardmax Identity LRN LeakyRelu Log LogSoftmax "
    "LpNormalization Mish Neg PRelu Pow Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Softmax Softplus Softsign Sqrt Swish "
    "Tanh ThresholdedRelu".split()
)
#: Normalisations that have a scale for each channel.
_SCALED = frozenset(["GroupNormalization", "InstanceNormalization", "LayerNormalization"])
#: Operators that are as they are: linear in what they read, or at least homogeneous.
_KEPT = frozenset(
    "Add AveragePool Concat DepthToSpace Expand Flatten Gather GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool Max MaxPool "
    "Mean Min Pad ReduceL1 ReduceL2 ReduceMax ReduceMean ReduceMin ReduceSum Reshape Resize Slice SpaceToDepth Split Squeeze "
    "Sum Tile Transpose Unsqueeze Upsample".split()
)
#: Operators that add constants, which carry no flow.
_ADDING = frozenset(["Add", "Mean", "Sub", "Sum"])
_TINY = 1e-300


class Flow(Trainable):
    """A network as a linear, positive one, for inputs of ones.

    Raises UnsupportedOperator, on construction, for a node through which no flow is defined.
    """

    def __init__(self, channels: Channels) -> None:
        super().__init__(channels)
        self._ports: dict[tuple[str, str], Tensor] = {}
        self._mask: Tensor | None = None
        self._watched = False
        self.double().requires_grad_(requires_grad=False)
        for value in self.params.values():
            value.abs_()
        self._wanted = _wanted(channels)

    def bias(self, node: Node) -> Tensor | None:
        return None

    def data(self, node: Node, index: int) -> Tensor:
        value = super().data(node, index)
        if not value.is_floating_point():
            return value
        return torch.zeros_like(value) if node.op in _ADDING else value.abs()

    def scores(self, keep: np.ndarray | None = None) -> np.ndarray:
        """float64 (components + 1,): the sum of w dR/dw / R over all weights that a channel cuts.

        keep: bool (components + 1,); channels that are out already, whose scores are 0. Entry 0 is 0.
        """
        self._ports = {}
        with torch.enable_grad():
            values = self._values(keep, watched=True)
            flow = self._sum(values)
            ports = list(self._ports)
            gradients = torch.autograd.grad(flow, [self._ports[port] for port in ports], allow_unused=True)
        found = np.zeros(self.channels.n_components + 1)
        for port, gradient in zip(ports, gradients, strict=True):
            if gradient is None:
                continue
            along = self.channels.along[port[1]]
            axes = [axis for axis in range(gradient.ndim) if axis != along.axis]
            carried = (self._ports[port].detach() * gradient).sum(axes) if axes else self._ports[port].detach() * gradient
            times = self._wanted[port]
            np.add.at(found, along.labels, times * carried.numpy())
        self._ports = {}
        found[0] = 0.0
        return found / max(float(flow.detach()), _TINY)

    @torch.no_grad()
    def curves(self, scores: np.ndarray) -> tuple[Curve, ...]:
        """What share of the flow is lost when the lowest channels of one group go, measured anew at every point.

        scores: float64 (components + 1,), which say what is lowest.
        """
        whole = self._values(None)
        full = max(float(self._sum(whole)), _TINY)
        found = []
        for group in self.channels.groups:
            ids = np.array(group.components)
            order = ids[np.argsort(scores[ids], kind="stable")]
            known = self._untouched(whole, set(group.components))
            lost = []
            for count in removed(len(ids)):
                keep = self.channels.keep_all()
                keep[order[:count]] = False
                lost.append(1 - float(self._sum(self._values(keep, known=known))) / full)
            found.append(Curve(group.name, len(ids), tuple(min(1.0, max(0.0, share)) for share in lost)))
        return tuple(found)

    def _untouched(self, whole: Mapping[str, Tensor], components: set[int]) -> dict[str, Tensor]:
        """The tensors that don't depend on some channels: what comes before their first reader."""
        touched: set[str] = set()
        for node in self.source.nodes:
            along = self._read(node)
            if touched & set(node.inputs) or (along is not None and not components.isdisjoint(along.labels.tolist())):
                touched |= set(node.outputs)
        return {name: value for name, value in whole.items() if name not in touched}

    def _values(
        self, keep: np.ndarray | None, *, watched: bool = False, known: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Every tensor. keep: as in ``scores``. watched: whether ports are noted. known: tensors that needn't be computed."""
        self._mask = None if keep is None else torch.from_numpy(keep.astype(np.float64))
        self._watched = watched
        shapes = self.source.shapes
        values = {name: torch.ones(shapes[name], dtype=torch.float64, requires_grad=watched) for name in self.source.inputs}
        values |= known or {}
        for node, kernel in self._steps:
            if node.outputs[0] in values:
                continue
            results = kernel(values)
            for name, value in zip(node.outputs, (results,) if isinstance(results, Tensor) else results, strict=False):
                if name:
                    values[name] = value
        return values

    def _sum(self, values: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([values[name].sum() for name in self.source.outputs]).sum()

    def _port(self, node: Node, side: str, tensor: str, value: Tensor) -> Tensor:
        """Note a tensor as one reader or maker has it, if its flow is asked for."""
        key = (node.name + "\0" + side, tensor)
        if not (self._watched and key in self._wanted):
            return value
        self._ports[key] = value = value.view_as(value)
        return value

    def _read(self, node: Node) -> Along | None:
        """The channels that a node mixes; None for one that mixes none."""
        if not isinstance(OPS[node.op], Mixer) or not any(slot.mixes for slot in self._slots(node)):
            return None
        return self.channels.along.get(node.inputs[0])

    def _slots(self, node: Node) -> Iterable[Any]:
        return (slot for slot in self.channels.slots if slot.node == node.name and slot.index == 1)

    def _kernel(self, node: Node) -> Kernel:
        computed = [name for name in node.inputs if name and not self.source.is_constant(name)]
        if isinstance(OPS[node.op], Mixer) and self.source.is_constant(node.inputs[1]):
            return self._mixer(node)
        if node.op == "BatchNormalization" or node.op in _SCALED:
            return self._scaled(node)
        if node.op in ("Mul", "Div") or node.op in _KEPT or node.op in _STRAIGHT or node.op == "Sub":
            run = self._plain(node, computed)
            return lambda values: self._made(node, run(values))
        raise UnsupportedOperator(
            f"{self.source.path}: node '{node.name}': what a channel carries can't be followed through {node.op}; "
            "choose another method than at-init"
        )

    def _plain(self, node: Node, computed: Sequence[str]) -> Kernel:
        if node.op in _STRAIGHT or (node.op == "Div" and len(computed) > 1):
            return lambda values: values[computed[0]]
        if node.op == "Mul" and len(computed) > 1:
            return lambda values: (values[computed[0]] * values[computed[1]]).clamp_min(_TINY).sqrt()
        if node.op == "Sub":
            return lambda values: sum(values[name] for name in computed)
        return super()._kernel(node)

    def _made(self, node: Node, value: Any) -> Any:
        return self._port(node, "out", node.outputs[0], value) if isinstance(value, Tensor) else value

    def _mixer(self, node: Node) -> Kernel:
        run = super()._kernel(node)
        data, along = node.inputs[0], self._read(node)
        rank = len(self.source.shapes[data])

        def kernel(values: Mapping[str, Tensor]) -> Tensor:
            x = values[data]
            if self._mask is not None and along is not None:
                x = x * self._mask[torch.from_numpy(along.labels)].view([-1 if a == along.axis else 1 for a in range(rank)])
            x = self._port(node, "in", data, x)
            return self._made(node, run({data: x}))  # type: ignore[no-any-return]

        return kernel

    def _scaled(self, node: Node) -> Kernel:
        constants = self.source.constants
        factor = np.abs(constants[node.inputs[1]].astype(np.float64)) if len(node.inputs) > 1 else np.ones(1)
        if node.op == "BatchNormalization":
            factor = factor / np.sqrt(np.abs(constants[node.inputs[4]]) + float(node.attrs.get("epsilon", 1e-5)))
        rank = len(self.source.shapes[node.inputs[0]])
        size = self.source.shapes[node.outputs[0]][1] if node.op != "LayerNormalization" else 0
        if factor.ndim == 1 and size:
            factor = np.repeat(factor, size // len(factor)).reshape(-1, *[1] * (rank - 2))
        scale = torch.from_numpy(factor)
        return lambda values: self._made(node, values[node.inputs[0]] * scale)


def _wanted(channels: Channels) -> dict[tuple[str, str], int]:
    """The ports whose flow is a sum of scores of weights, and how many weights' slices it counts for.

    A port is (node and side, tensor): a reader has its input at side "in", a maker its output at "out".
    """
    found: dict[tuple[str, str], int] = {}
    nodes = {node.name: node for node in channels.network.nodes}
    for slot in channels.slots:
        node = nodes[slot.node]
        mixer = isinstance(OPS[node.op], Mixer)
        if node.op in _ADDING or (slot.index != 1 and (mixer or node.op.endswith("Normalization"))):
            continue  # what is added carries no flow
        side, tensor = ("in", node.inputs[0]) if mixer and slot.mixes else ("out", node.outputs[0])
        if tensor in channels.along:
            key = (node.name + "\0" + side, tensor)
            found[key] = found.get(key, 0) + 1
    return found
