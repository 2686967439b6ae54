"""A network as a torch module that trains: same nodes, same tensors, weights kept under their ONNX names.

The graph is not rebuilt: ``Trainable`` walks the network's nodes. What has weights (convolutions, matrix products,
BatchNormalization, constants tied to channels) runs on parameters of this module, so a weight that several nodes share stays
one parameter, and nothing trainable hides in a buffer. Every other node runs on the module that onnx2torch makes of it, or
on one of our kernels where onnx2torch has none. ``network`` puts the weights back into the ONNX graph.

Channels are masked where they are read: ``gates`` multiply the slices of mixing weights. That is exact for every activation
function (a removed channel has no other reader), costs next to nothing, and its gradient is dLoss/dMask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial, reduce
from itertools import chain
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from onnx import helper
from torch import Tensor, nn

from mcuprune.channels.labelling import Channels
from mcuprune.graph.network import Network, Node, is_float
from mcuprune.operators.fusion import is_bias, is_mixer
from mcuprune.operators.picking import KEEP_PLACES
from mcuprune.operators.table import OPS, Mixer
from mcuprune.train import batch_norm, ranks
from mcuprune.train.batching import VIEWS, drops_axis, places, spreader, view
from mcuprune.train.converted import converted
from mcuprune.train.kernels import MIXERS, OWN, Kernel
from mcuprune.train.tasks.heads import Head, heads, tail


class Trainable(nn.Module):
    """The network, callable on its inputs: float32 (batch, ...) each, any batch size; returns its outputs as a tuple.

    gates: float (n_components + 1,), 1 where a component is kept; None computes the whole network. Set it before a call;
        let it require grad to get dLoss/dMask.
    norm_momentum: how far a call in training mode moves BatchNormalization's statistics towards those of its batch.
    over_ranks: whether what a call is given is this rank's part of a batch: statistics of the batch are then those of all.
    norm_of_batch: whether a call in evaluation mode normalises by the statistics of its batch, as constants: no gradient flows
        through them, and those that the network keeps stay as they are.
    Raises UnsupportedOperator, on construction, for a node that neither onnx2torch nor a kernel of ours can run.
    """

    norm_momentum = 0.1
    over_ranks = False
    norm_of_batch = False

    def __init__(self, channels: Channels) -> None:
        super().__init__()
        self.channels = channels
        self.source = channels.network
        self.gates: Tensor | None = None
        self.params = nn.ParameterDict()
        self._key: dict[str, str] = {}  # ONNX names may hold dots, which parameter names may not
        trained = set(_trained(channels))
        for index, (name, value) in enumerate(self.source.constants.items()):
            self._key[name] = key = f"c{index}"
            tensor = torch.from_numpy(np.array(value))
            if name in trained:
                self.params[key] = nn.Parameter(tensor.float())
            else:
                self.register_buffer(key, tensor.float() if tensor.is_floating_point() else tensor)
        self._units: dict[str, str] = {}  # constant -> the buffer that has what its parameter is measured in
        self._mixing: dict[str, dict[int, str]] = {}  # constant -> axis -> the buffer that has its components
        for index, slot in enumerate(channels.slots):
            mixing = self._mixing.setdefault(slot.constant, {}) if slot.mixes else {}
            if slot.mixes and slot.axis not in mixing:  # users of a shared weight have tied channels: one mask serves them all
                spread = slot.spread(self.source.shapes[slot.constant])
                self.register_buffer(f"slot{index}", torch.from_numpy(np.array(spread)), persistent=False)
                mixing[slot.axis] = f"slot{index}"
        whole = {name: helper.tensor_dtype_to_np_dtype(self.source.dtypes[name]) for name in self.source.inputs}
        self._whole = {name: dtype for name, dtype in whole.items() if dtype.kind in "biu"}
        self._places = places(self.source)
        self._steps = [(node, self._kernel(node)) for node in self.source.nodes]
        self.want(self.source.outputs)

    @property
    def device(self) -> torch.device:
        """Where its weights are and its inputs must be: the CPU, until ``to`` moves it."""
        return next(chain(self.parameters(), self.buffers()), torch.empty(0)).device

    def constant(self, name: str) -> Tensor:
        """The tensor of a constant, by its ONNX name."""
        key = self._key[name]
        tensor: Tensor = self.params[key] if key in self.params else getattr(self, key)
        return tensor * getattr(self, self._units[name]) if name in self._units else tensor

    def measure(self, units: Mapping[str, np.ndarray]) -> None:
        """Train constants as multiples of these, by name: the parameter of one is the constant divided by its unit."""
        for name, unit in units.items():
            key = self._key[name]
            if key in self.params:
                self._units[name] = f"unit_{key}"
                self.register_buffer(self._units[name], torch.from_numpy(np.array(unit, np.float32)), persistent=False)
                with torch.no_grad():
                    self.params[key] /= getattr(self, self._units[name])

    def key(self, name: str) -> str:
        """What a constant is called among the parameters and buffers of this module, by its ONNX name."""
        return self._key[name]

    def named_weights(self) -> Iterable[tuple[str, nn.Parameter]]:
        """Every trained constant under its ONNX name."""
        return ((name, self.params[key]) for name, key in self._key.items() if key in self.params)

    def untrained(self) -> tuple[str, ...]:
        """Constants that could hold something learned, but that training leaves as they are: they meet no removable channel."""
        names = [
            name
            for node in self.source.nodes
            for index, name in enumerate(node.inputs)
            if name in self._key
            and self._key[name] not in self.params
            and self.source.constants[name].dtype.kind == "f"
            and self.source.constants[name].size > 1
            and not (node.op == "BatchNormalization" and index in (3, 4))
        ]
        return tuple(dict.fromkeys(names))

    def weight(self, node: Node) -> Tensor:
        """A mixer's weight as it is used: gated. Shape as in the ONNX file."""
        name = node.inputs[1]
        value = self.constant(name)
        if self.gates is not None:
            for buffer in self._mixing.get(name, {}).values():
                value = value * self.gates[getattr(self, buffer)]
        return value

    def bias(self, node: Node) -> Tensor | None:
        """A mixer's bias as it is used, or None."""
        return self.constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None

    def data(self, node: Node, index: int) -> Tensor:
        """A constant operand of any other node as it is used."""
        return self.constant(node.inputs[index])

    def computed(self, tensor: str, value: Tensor) -> Tensor:
        """Called with every tensor that is computed, inputs included; what it returns goes on."""
        return value

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Outputs in the order of ``wanted``, from inputs (batch, ...) in the file's order."""
        given = zip(self.source.inputs, inputs, strict=True)
        values = {name: self.computed(name, self._typed(name, value)) for name, value in given}
        for position, (node, kernel) in enumerate(self._steps):
            results = kernel(values)
            for name, value in zip(node.outputs, (results,) if isinstance(results, Tensor) else results, strict=False):
                if name:
                    values[name] = self.computed(name, value)
            for name in self._last_use.get(position, ()):
                values.pop(name, None)  # a mask or running mean that older opsets declare is never made
        return tuple(
            reduce(lambda value, hand_on: hand_on(value), tail, values[name])
            for name, tail in zip(self.wanted, self._tails, strict=True)
        )

    def _typed(self, name: str, value: Tensor) -> Tensor:
        """Reals as what an input of truth values or whole numbers holds, as ``evaluate.run`` makes them."""
        dtype = self._whole.get(name)
        if dtype is None or not value.is_floating_point():
            return value
        return value != 0 if dtype.kind == "b" else value.round().clamp(np.iinfo(dtype).min, np.iinfo(dtype).max)

    def want(self, tensors: Sequence[str]) -> None:
        """Return these tensors instead of the outputs; several may be the same."""
        self.wanted = tuple(tensors)
        self._tails: tuple[tuple[Callable[[Tensor], Tensor], ...], ...] = ((),) * len(self.wanted)
        self._last_use = {
            position: [name for name in names if name not in self.wanted] for position, names in _last_uses(self.source).items()
        }

    def want_answers(self, heads: Sequence[Head]) -> None:
        """Return, instead of each output, what losses are taken of, in the output's own shape."""
        self.want([head.tensor for head in heads])
        kernels = {node.name: kernel for node, kernel in self._steps}
        self._tails = tuple(
            tuple(
                partial(_handed_on, node, node.outputs.index(output), kernels[node.name])
                for node, output in tail(self.source, head)
                if node.op not in KEEP_PLACES
            )
            for head in heads
        )

    def want_as(self, other: Trainable) -> None:
        """Return what another module of the same network returns."""
        self.wanted, self._last_use, self._tails = other.wanted, other._last_use, other._tails

    def want_logits(self) -> None:
        """Return, instead of an output, the logits it is made of: what a last Softmax, LogSoftmax or Sigmoid reads."""
        self.want_answers(heads(self.source))

    def extra_state_arrays(self) -> dict[str, np.ndarray]:
        """State beyond weights that training changes; a plain network has none."""
        return {}

    def load_extra_state_arrays(self, state: Mapping[str, np.ndarray]) -> None:
        """Take up what ``extra_state_arrays`` gave."""

    def network(self) -> Network:
        """The ONNX network with this module's weights."""
        values = {
            name: self.constant(name).detach().cpu().numpy().astype(self.source.constants[name].dtype) for name in self._key
        }
        return self.source.with_constants(values)

    def _kernel(self, node: Node) -> Kernel:
        """What computes one node from the tensors made so far."""
        net = self.source
        if isinstance(OPS[node.op], Mixer) and net.is_constant(node.inputs[1]):
            make = MIXERS[node.op](node, net)
            data = node.inputs[0]
            return lambda values: make(values[data], self.weight(node), self.bias(node))
        if node.op == "BatchNormalization":
            return self._batch_norm(node)
        if node.op in VIEWS or drops_axis(node, net):
            run: Kernel = view(node, net, self._places)
        else:
            run = OWN[node.op](node, net) if node.op in OWN else converted(node, net)
        if isinstance(run, nn.Module) and next(run.buffers(), None) is not None:
            self.add_module(f"node{len(self._modules)}", run)  # so that its buffers go to the device where this module goes

        spread = spreader(node, net, self._places)

        def kernel(values: Mapping[str, Tensor]) -> Any:
            operands = [
                self.data(node, index) if name in self._key else values[name] for index, name in enumerate(node.inputs) if name
            ]
            return run(*(spread(operands) if spread else operands))

        return kernel

    def _batch_norm(self, node: Node) -> Kernel:
        scale, shift, mean, variance = node.inputs[1:5]
        epsilon = float(node.get("epsilon"))

        def kernel(values: Mapping[str, Tensor]) -> Tensor:
            x = values[node.inputs[0]]
            over_ranks = self.over_ranks and ranks.size() > 1
            known, learned = (self.constant(mean), self.constant(variance)), (self.constant(scale), self.constant(shift))
            if self.training and (over_ranks or x.numel() > x.shape[1]):
                momentum = self.norm_momentum
                return batch_norm.normalized(x, known, learned, momentum=momentum, epsilon=epsilon, over_ranks=over_ranks)
            if self.norm_of_batch and not self.training and x.numel() > x.shape[1]:
                known = batch_norm.moments(x, over_ranks=over_ranks)
            return F.batch_norm(x, *known, *learned, eps=epsilon)

        return kernel


def _handed_on(node: Node, index: int, kernel: Kernel, value: Tensor) -> Tensor:
    """An output of a node that reads this value alone."""
    results = kernel({node.inputs[0]: value})
    return results if isinstance(results, Tensor) else results[index]


def _last_uses(net: Network) -> dict[int, list[str]]:
    """Node position -> tensors that nobody needs after it."""
    last: dict[str, int] = {}
    for position, node in enumerate(net.nodes):
        for name in (*node.inputs, *node.outputs):
            if name and not net.is_constant(name):
                last[name] = position
    names_at: dict[int, list[str]] = {}
    for name, position in last.items():
        if name not in net.outputs:
            names_at.setdefault(position, []).append(name)
    return names_at


def _trained(channels: Channels) -> Iterable[str]:
    """Constants that training changes: weights and biases, normalisation's scale and shift, what is tied to channels."""
    net = channels.network
    for node in net.nodes:
        for index, name in enumerate(node.inputs):
            if not net.is_constant(name) or net.constants[name].dtype.kind != "f":
                continue
            role = OPS[node.op].role(node, index)
            statistics = node.op == "BatchNormalization" and index in (3, 4)
            learns = node.op.endswith("Normalization") or node.op == "PRelu"
            learns = learns or name in channels.slots_of or _adds_bias(node, net)
            if role != "data" or (learns and not statistics):
                yield name


def _adds_bias(node: Node, net: Network) -> bool:
    """Whether a node is the bias of the convolution or matrix product before it, frozen channels or not."""
    makers = [(name, net.producer[name]) for name in node.inputs if name in net.producer]
    return node.op == "Add" and any(is_mixer(maker, net) and is_bias(node, name, maker, net) for name, maker in makers)


def as_inputs(net: Network, x: np.ndarray | Sequence[np.ndarray], device: torch.device | str = "cpu") -> tuple[Tensor, ...]:
    """A batch of data, one array (batch, ...) for each input, as the network's inputs: float32 where it takes floats."""
    arrays = [x] if isinstance(x, np.ndarray) else [*x]
    fed = []
    for name, array in zip(net.inputs, arrays, strict=True):
        dtype = np.float32 if is_float(net.dtypes[name]) else helper.tensor_dtype_to_np_dtype(net.dtypes[name])
        fed.append(np.ascontiguousarray(array, dtype))
    return as_tensors(fed, device)


def as_tensors(arrays: Sequence[np.ndarray], device: torch.device | str = "cpu") -> tuple[Tensor, ...]:
    """Arrays (batch, ...), one for each input, as tensors.

    Images lie in memory pixel by pixel, and what convolutions make of them follows: on a CPU a step then takes seven to nine
    tenths of the time. Values and shapes are the same.
    """
    tensors = [_moved(torch.from_numpy(array), torch.device(device)) for array in arrays]
    return tuple(by_pixel(x) if x.ndim == 4 else x for x in tensors)


def by_pixel(images: Tensor) -> Tensor:
    """Images (batch, channels, height, width) laid out pixel by pixel, and known to be."""
    _, channels, height, width = images.shape
    if channels > 1:
        return images.contiguous(memory_format=torch.channels_last)
    # of one channel both layouts are the same memory, and torch takes it for planes unless the strides say otherwise
    return images.contiguous().as_strided(images.shape, (height * width, 1, width, 1))


def _moved(x: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; to a GPU by way of pinned memory, so that nobody waits for the copy."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)
