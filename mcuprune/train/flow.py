"""Synaptic flow (Tanaka et al., arXiv 2006.05467): what every channel carries of a network's signal, without any data.

The network is made linear and positive: weights by their absolute values, no biases, every activation passes its input on,
BatchNormalization is the factor that it is at inference. Its outputs for an input of ones sum to the *flow* R (Eq. 4 there).
Then w dR/dw of all weights of a layer sum to R (their Theorem 2): a measure in which all layers can be compared.

The scores of all weights of a slice of channels are read from the activations: for the slices that make a channel they sum to
y dR/dy over its output y, for those that read it to x dR/dx over the input x of that one reader. No gradient of a weight is
taken, which for wide layers is most of the work.

Two tensors that are multiplied, as by a squeeze-and-excitation block, give their geometric mean, so that R stays linear in
every layer; what is divided by something else passes on.

Everything is in double precision, for R grows with every layer, and twenty layers overflow single precision. A network that is
large is computed in single precision all the same, in a third of the time: each layer is divided by the size of its outputs, as
one pass in double precision tells it. Between two layers all tensors share one divisor, so that branches stay in proportion,
and what is left of it cancels in w dR/dw / R.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor

from mcuprune.channels.labelling import Channels
from mcuprune.costs.resources import macs
from mcuprune.costs.sensitivity import Curve, removed
from mcuprune.errors import ModelError, UnsupportedOperator
from mcuprune.graph.network import Network, Node
from mcuprune.operators.table import OPS, Along, Barrier, Cast, Clamp, Elementwise, Mixer, Passing, Quantization, Unit
from mcuprune.train.kernels import Kernel
from mcuprune.train.module import Trainable

#: From so many multiply-accumulates on a network is computed in single precision.
LARGE = 20_000_000
#: Normalisations that have a scale for each channel.
_SCALED = frozenset(["GroupNormalization", "InstanceNormalization", "LayerNormalization"])
#: Operators on several tensors that are linear, or at least homogeneous of degree one; a product is made so.
_ARITHMETIC = frozenset(["Add", "Div", "Max", "Mean", "Min", "Mul", "Sub", "Sum"])
#: Reductions that are homogeneous of degree one.
_REDUCING = frozenset(["ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"])
#: Operators that add constants, which carry no flow.
_ADDING = frozenset(["Add", "Mean", "Sub", "Sum"])


class Flow(Trainable):
    """A network as a linear, positive one, for inputs of ones.

    Raises UnsupportedOperator, on construction, for a node through which no flow is defined; ModelError, when it is asked for
    something, where R is 0 or not finite.
    """

    def __init__(self, channels: Channels) -> None:
        super().__init__(channels)
        self._ports: dict[tuple[str, str], Tensor] = {}
        self._mask: Tensor | None = None
        self._watched = False
        self._type = torch.float64
        self._factors: dict[str, float] = {}
        self._portions = dict.fromkeys(self.source.outputs, 1.0)
        self.double().requires_grad_(requires_grad=False)
        for value in self.params.values():
            value.abs_()
        self._wanted = _wanted(channels)
        if macs(self.source) >= LARGE:
            self._take_out_scales()

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
        scores = np.zeros(self.channels.n_components + 1)
        for port, gradient in zip(ports, gradients, strict=True):
            if gradient is None:
                continue
            along = self.channels.along[port[1]]
            axes = [axis for axis in range(gradient.ndim) if axis != along.axis]
            carried = (self._ports[port].detach() * gradient).sum(axes) if axes else self._ports[port].detach() * gradient
            times = self._wanted[port]
            np.add.at(scores, along.labels, times * carried.double().numpy())
        self._ports = {}
        scores[0] = 0.0
        return scores / self._checked(float(flow.detach()))

    def of_weights(self, masks: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """w dR/dw / R of every single weight that layers multiply by, float64, by the name of the constant.

        masks: by name, arrays that weights are multiplied by first; for those who prune single weights.
        """
        names = list(dict.fromkeys(node.inputs[1] for node in self.source.nodes if _is_layer(node, self.source)))
        with torch.enable_grad():
            whole = {name: self.constant(name) for name in names}
            weights = [whole[name].detach().clone() for name in names]
            for name, weight in zip(names, weights, strict=True):
                if masks is not None:
                    weight *= torch.from_numpy(masks[name]).to(weight)
                self.params[self._key[name]] = torch.nn.Parameter(weight)
            flow = self._sum(self._values(None))
            leaves = [self.constant(name) for name in names]
            gradients = torch.autograd.grad(flow, leaves, allow_unused=True)
        scores = {}
        for name, leaf, gradient in zip(names, leaves, gradients, strict=True):
            score = torch.zeros_like(leaf) if gradient is None else leaf.detach() * gradient
            scores[name] = score.double().numpy() / self._checked(float(flow.detach()))
            self.params[self._key[name]] = torch.nn.Parameter(whole[name].detach(), requires_grad=False)
        return scores

    @torch.no_grad()
    def curves(self, scores: np.ndarray) -> tuple[Curve, ...]:
        """What share of the flow is lost when the lowest channels of one group go, measured anew at every point.

        scores: float64 (components + 1,), which say what is lowest.
        """
        whole = self._values(None)
        full = self._checked(float(self._sum(whole)))
        curves = []
        for group in self.channels.groups:
            ids = np.array(group.components)
            order = ids[np.argsort(scores[ids], kind="stable")]
            known = self._untouched(whole, set(group.components))
            lost = []
            for count in removed(len(ids)):
                keep = self.channels.keep_all()
                keep[order[:count]] = False
                lost.append(1 - float(self._sum(self._values(keep, known=known))) / full)
            curves.append(Curve(group.name, len(ids), tuple(min(1.0, max(0.0, share)) for share in lost)))
        return tuple(curves)

    @torch.no_grad()
    def _take_out_scales(self) -> None:
        """Go on in single precision, every layer divided by the size of its outputs; in double where that doesn't suffice."""
        sizes = {name: float(value.mean()) for name, value in self._values(None).items()}
        part = _parts(self.source)
        largest: dict[str, float] = {}
        for name, size in sizes.items():
            largest[part[name]] = max(largest.get(part[name], 0.0), size)
        if not all(0 < size < np.inf for size in largest.values()):
            return
        for node in self.source.nodes:
            if _is_layer(node, self.source):
                self._factors[node.name] = largest[part[node.inputs[0]]] / largest[part[node.outputs[0]]]
        top = max(largest[part[name]] for name in self.source.outputs)
        self._portions = {name: largest[part[name]] / top for name in self.source.outputs}
        self._type = torch.float32
        self.float()
        for weight in self.params.values():
            if weight.ndim == 4:  # as the kernels of convolutions read them, which takes half of the time
                weight.data = weight.contiguous(memory_format=torch.channels_last)

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
        self._mask = None if keep is None else torch.from_numpy(keep).to(self._type)
        self._watched = watched
        shapes = self.source.shapes
        values = {name: torch.ones(shapes[name], dtype=self._type, requires_grad=watched) for name in self.source.inputs}
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
        return torch.stack([values[name].double().sum() * portion for name, portion in self._portions.items()]).sum()

    def _checked(self, flow: float) -> float:
        """R itself. Raises ModelError where there is none to compare anything with."""
        if not 0 < flow < np.inf:
            why = "no signal reaches its outputs: a layer's weights are all 0" if flow == 0 else "its weights are too large"
            raise ModelError(f"{self.source.path}: what channels carry can't be measured: {why}; prune it by another method")
        return flow

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
        if _is_layer(node, self.source):
            return self._mixer(node)
        if node.op == "BatchNormalization" or node.op in _SCALED:
            return self._scaled(node)
        run = self._plain(node, computed)
        return lambda values: self._made(node, run(values))

    def _plain(self, node: Node, computed: Sequence[str]) -> Kernel:
        """What computes a node without weights."""
        entry, net = OPS[node.op], self.source
        if node.op == "Div" and len(computed) > 1:
            return lambda values: values[node.inputs[0]]
        if node.op == "Mul" and len(computed) > 1:
            return lambda values: (values[computed[0]] * values[computed[1]]).clamp_min(torch.finfo(self._type).tiny).sqrt()
        if node.op == "Sub":
            return lambda values: sum(values[name] for name in computed)
        if node.op in _ARITHMETIC | _REDUCING:
            return super()._kernel(node)
        same = computed and net.shapes[computed[0]] == net.shapes[node.outputs[0]]
        is_float = all(net.dtypes.get(name, TensorProto.FLOAT) == TensorProto.FLOAT for name in (*computed, *node.outputs))
        if isinstance(entry, (Barrier, Cast, Clamp, Elementwise, Passing, Unit)):
            if len(computed) == 1 and same and is_float:  # activations, and what normalises by what it sees
                return lambda values: values[computed[0]]
        elif is_float and not isinstance(entry, (Mixer, Quantization)):
            return super()._kernel(node)
        raise UnsupportedOperator(
            f"{net.path}: node '{node.name}': what a channel carries can't be followed through {node.op}; "
            "prune it by another method than at-init"
        )

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
            y = run({data: x})
            return self._made(node, y * self._factors[node.name] if self._factors else y)  # type: ignore[no-any-return]

        return kernel

    def _scaled(self, node: Node) -> Kernel:
        constants = self.source.constants
        factor = np.abs(constants[node.inputs[1]].astype(np.float64)) if len(node.inputs) > 1 else np.ones(1)
        if node.op == "BatchNormalization":
            factor = factor / np.sqrt(np.abs(constants[node.inputs[4]]) + float(node.get("epsilon")))
        rank = len(self.source.shapes[node.inputs[0]])
        size = self.source.shapes[node.outputs[0]][1] if node.op != "LayerNormalization" else 0
        if factor.ndim == 1 and size:
            factor = np.repeat(factor, size // len(factor)).reshape(-1, *[1] * (rank - 2))
        scale = torch.from_numpy(factor)
        return lambda values: self._made(node, values[node.inputs[0]] * scale.to(self._type))


def _is_layer(node: Node, net: Network) -> bool:
    return isinstance(OPS[node.op], Mixer) and net.is_constant(node.inputs[1])


def _parts(net: Network) -> dict[str, str]:
    """Computed tensor -> the name of the part of the network that it lies in; parts are what layers with weights divide."""
    parent: dict[str, str] = {name: name for name in net.inputs}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    for node in net.nodes:
        computed = [name for name in (*node.inputs, *node.outputs) if name and not net.is_constant(name)]
        for name in computed if not _is_layer(node, net) else ():
            parent[root(name)] = root(computed[0])
    return {name: root(name) for name in [*net.inputs, *(out for node in net.nodes for out in node.outputs if out)]}


def _wanted(channels: Channels) -> dict[tuple[str, str], int]:
    """The ports whose flow is a sum of scores of weights, and how many weights' slices it counts for.

    A port is (node and side, tensor): a reader has its input at side "in", a maker its output at "out".
    """
    wanted: dict[tuple[str, str], int] = {}
    nodes = {node.name: node for node in channels.network.nodes}
    for slot in channels.slots:
        node = nodes[slot.node]
        mixer = isinstance(OPS[node.op], Mixer)
        if node.op in _ADDING or (slot.index != 1 and (mixer or node.op.endswith("Normalization"))):
            continue  # constants that are added: flow passes through what data are multiplied by
        side, tensor = ("in", node.inputs[0]) if mixer and slot.mixes else ("out", node.outputs[0])
        if tensor in channels.along:
            key = (node.name + "\0" + side, tensor)
            wanted[key] = wanted.get(key, 0) + 1
    return wanted
