"""Fake-quant training: the network computes as the int8 file will, and its ranges are learned by watching.

``QuantTrainable`` is a ``Trainable`` whose weights, biases and tensors go through the quantisers of ``export.scheme``. The
int32 rounding of biases is simulated too: without it a tenth of all logits differ from the file by a step or more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from mcuprune.channels.labelling import Channels
from mcuprune.deploy.qdq import (
    FIXED,
    HIGH,
    LOW,
    Quantizer,
    Scheme,
    held,
    lost,
    mixer_scale,
    quantizer,
    scheme,
    stores_bias,
    weight_axis,
    weight_scale,
)
from mcuprune.errors import UsageError
from mcuprune.graph.network import Network, Node
from mcuprune.operators.table import OPS
from mcuprune.train import ranks
from mcuprune.train.module import Trainable


class QuantTrainable(Trainable):
    """A network whose forward pass is that of its int8 file.

    observing: while true, calls in training mode move the ranges (a running average of each batch's minimum and maximum).
    simulating: while false, the network computes in floats and only observes, in either mode, as calibration wants it.
    weight_bits: of ``export.WEIGHT_BITS``.
    """

    momentum = 0.02

    def __init__(self, channels: Channels, weight_bits: int = 8) -> None:
        super().__init__(channels)
        self.scheme: Scheme = scheme(channels.network, weight_bits=weight_bits)
        self.observing = True
        self.simulating = True
        self._ranges: dict[str, tuple[float, float]] = {name: q.range for name, q in self.scheme.fixed.items()}
        #: What kernels with fixed steps make -> how far it reached in calibration.
        self._reached: dict[str, tuple[float, float]] = {}
        self._makers = {
            node.outputs[0]: node
            for node in self.source.nodes
            if OPS[node.op].scale(node, self.source) in FIXED
            if self.scheme.quantizer.get(node.outputs[0]) in self.scheme.fixed
        }
        self._before: dict[str, tuple[float, float]] = {}  # the ranges at the start of this batch
        self._seen: dict[str, tuple[float, float]] = {}  # what this batch has shown so far
        self._quantizers: dict[str, Quantizer] = dict(self.scheme.fixed)

    def quantizers(self) -> dict[str, Quantizer]:
        """Every quantiser of the scheme as it stands."""
        return dict(self._quantizers)

    def quantized_network(self) -> tuple[Network, Scheme, dict[str, Quantizer]]:
        """What ``export.quantized`` needs to write the int8 file of this network."""
        return self.network(), self.scheme, self.quantizers()

    def extra_state_arrays(self) -> dict[str, np.ndarray]:
        return {name: np.array(bounds) for name, bounds in self._ranges.items()}

    def load_extra_state_arrays(self, state: Mapping[str, np.ndarray]) -> None:
        for name, bounds in state.items():
            if name not in self.scheme.fixed:
                self._ranges[name] = (float(bounds[0]), float(bounds[1]))
                self._quantizers[name] = quantizer(*self._ranges[name])
                self._quantizers[name] = held(self.scheme, name, self._quantizers)

    def computed(self, tensor: str, value: Tensor) -> Tensor:
        name = self.scheme.quantizer.get(tensor)
        if name is None:
            return value
        if self.observing and (self.training or not self.simulating) and name not in self.scheme.fixed:
            self._observe(name, value)
        if not self.simulating:
            if tensor in self._makers:
                self._reach(tensor, value)
            return value
        quantizer = self._quantizers[name]
        return torch.fake_quantize_per_tensor_affine(value, quantizer.scale, quantizer.zero_point, LOW, HIGH)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Outputs through fake quantisers; while they watch, their ranges follow the batch."""
        self._before, self._seen = dict(self._ranges), {}
        return super().forward(*inputs)

    def lost(self) -> tuple[str, ...]:
        """What kernels with fixed steps can't store of what calibration saw, and what to do: a sentence for each node."""
        sentences = []
        for tensor, reached in self._reached.items():
            maker, kernel = self._makers[tensor], self.scheme.fixed[self.scheme.quantizer[tensor]]
            sentences.append(lost(f"node '{maker.name}': {maker.op}", kernel, quantizer(*reached)))
        return tuple(filter(None, sentences))

    def _reach(self, tensor: str, value: Tensor) -> None:
        low, high = (float(x) for x in torch.aminmax(value.detach()))
        old_low, old_high = self._reached.get(tensor, (low, high))
        if math.isfinite(low) and math.isfinite(high):
            self._reached[tensor] = min(low, old_low), max(high, old_high)

    def _observe(self, name: str, value: Tensor) -> None:
        low, high = (float(x) for x in self._extremes(value.detach()))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise UsageError(
                f"{self.source.path}: tensor '{name}' has values that are no finite numbers, so int8 has no range for them; "
                "training diverged, or the weights overflow: give a lower --lr, or scale weights and data"
            )
        if name in self._seen:  # of the tensors that share a quantiser, the widest of a batch counts
            low, high = min(low, self._seen[name][0]), max(high, self._seen[name][1])
        self._seen[name] = (low, high)
        if name in self._before:
            old_low, old_high = self._before[name]
            if self.simulating:
                low = old_low + self.momentum * (low - old_low)
                high = old_high + self.momentum * (high - old_high)
            else:  # calibration: everything seen fits
                low, high = min(low, old_low), max(high, old_high)
        self._ranges[name] = (low, high)
        self._quantizers[name] = quantizer(low, high)
        self._quantizers[name] = held(self.scheme, name, self._quantizers)

    def _extremes(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """The smallest and the largest number of a tensor, in training those of all ranks' parts of the batch."""
        low, high = torch.aminmax(value)
        if not (self.over_ranks and self.training and ranks.size() > 1):
            return low, high
        lowest, highest = ranks.highest(torch.stack([-low, high]))
        return -lowest, highest

    def _scale(self, node: Node) -> np.ndarray:
        def bias(user: Node) -> np.ndarray | None:
            value = super(QuantTrainable, self).bias(user)
            return None if value is None else value.detach().cpu().numpy()

        weight = super().weight(node).detach().cpu().numpy()
        return mixer_scale(node, self.source, self.scheme, self._quantizers, weight, bias)

    def weight(self, node: Node) -> Tensor:
        value = super().weight(node)
        if not self.simulating:
            return value
        scale = torch.from_numpy(np.atleast_1d(self._scale(node))).to(value.device)
        axis, most = weight_axis(node, self.source), self.scheme.largest
        if axis is None:
            return torch.fake_quantize_per_tensor_affine(value, float(scale[0]), 0, -most, most)
        return torch.fake_quantize_per_channel_affine(
            value, scale, torch.zeros_like(scale, dtype=torch.int32), axis, -most, most
        )

    def bias(self, node: Node) -> Tensor | None:
        value = super().bias(node)
        if value is None or not self.simulating:
            return value
        input_scale = self._quantizers[self.scheme.quantizer[node.inputs[0]]].scale
        step = torch.from_numpy(np.asarray(np.float32(input_scale) * self._scale(node), np.float32)).to(value.device)
        if not stores_bias(value.numel(), step.numel()):
            return value
        rounded = torch.round(value.detach().double() / step).to(value.dtype) * step
        return value + (rounded - value).detach()

    def data(self, node: Node, index: int) -> Tensor:
        value = super().data(node, index)
        if not self.simulating or (node.name, index) not in self.scheme.data:
            return value
        scale = float(weight_scale(value.detach().cpu().numpy(), None, None, 1.0))
        return torch.fake_quantize_per_tensor_affine(value, scale, 0, -HIGH, HIGH)


@torch.no_grad()
def calibrate(module: QuantTrainable, batches: Sequence[tuple[np.ndarray, ...]]) -> None:
    """Fit the ranges to what the float network computes on ``batches``, one float32 array (batch, ...) for each input.

    It computes as the written file will, in evaluation mode: BatchNormalization uses the statistics that it has and keeps them.
    """
    module.simulating = False
    module.eval()
    for batch in batches:
        module(*[torch.from_numpy(x).to(module.device) for x in batch])
    module.simulating = True
