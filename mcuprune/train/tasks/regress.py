"""Numbers: the loss is the mean square error in units of the targets' own spread, the figure the mean absolute error."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from mcuprune.errors import DataError
from mcuprune.graph.network import Network
from mcuprune.train.tasks.heads import FEW, Head, last_layer
from mcuprune.train.tasks.kind import Array, Kind, matches, numbers
from mcuprune.train.tasks.metrics import Errors, Tally

if TYPE_CHECKING:
    from torch import Tensor


class Regress(Kind):
    """Numbers as they are, of any shape that the output has."""

    name = "regress"
    title = "regression"

    def __init__(self, head: Head) -> None:
        super().__init__(replace(head, tensor=head.output, ending="none"))  # an error is one of the output, not of logits
        self.moves = not (head.is_row or head.is_single)
        self._middle: Array = np.zeros(1, np.float32)
        self._mean: Array = np.zeros(1, np.float32)
        self._spread: Array = np.ones(1, np.float32)
        self._units: Array | None = None

    @classmethod
    def fits(cls, head: Head, targets: Array) -> str | None:
        if targets.dtype.kind not in "fiub" or not matches(targets.shape[1:], head.shape):
            return f"targets have shape {targets.shape} and dtype {targets.dtype}, output '{head.output}' {list(head.shape)}"
        return None

    def taken(self, where: str, targets: Array) -> Array:
        shape = ", ".join(map(str, ("n", *self.head.shape)))
        if not matches(targets.shape[1:], self.head.shape):
            raise DataError(f"{where} has shape {targets.shape}; the model's regression wants numbers of shape ({shape})")
        values = numbers(where, targets, f"numbers of shape ({shape})")
        return values.reshape(len(values), *self.head.shape)

    def prepare(self, targets: Array) -> None:
        """Measure the targets' spread and middle: of each number that has weights of its own, of a map and of images as one.

        Places of a map share their weights. With a spread each, those that hardly change, as corners do, would rule the rest.
        """
        rows = targets.reshape(len(targets), -1).astype(np.float64)
        which = self._shared()
        sparse = rows if prod(self.head.shape) <= FEW else rows[:: max(1, len(rows) // 256)]
        spread, mean, middle = (np.empty(which.max() + 1) for _ in range(3))
        for group in range(len(spread)):
            own = rows[:, which == group]
            spread[group], mean[group], middle[group] = own.std(), own.mean(), np.median(sparse[:, which == group])
        self._units = which if len(spread) > 1 else None
        shape = self.head.shape if len(spread) > 1 else [1] * len(self.head.shape)
        which = which if len(spread) > 1 else which[:1]
        self._spread = np.where(spread > 0, spread, 1.0).astype(np.float32)[which].reshape(shape)
        self._middle = middle.astype(np.float32)[which].reshape(shape)
        self._mean = mean.astype(np.float32)[which].reshape(shape)

    def _shared(self) -> Array:
        """For every number of the output, which of several spreads it has, counted from 0."""
        size = prod(self.head.shape)
        if self.head.alike:
            return np.unique(self.head.alike, return_inverse=True)[1].reshape(-1)
        row = self.head.is_row or self.head.is_single
        return np.arange(size) if row and size <= FEW else np.zeros(size, np.int64)

    def begun(self, net: Network) -> Network:
        """The network with its last layer in units of the targets, from their middle on: fresh weights answer with about 1."""
        layer, units = last_layer(net, self.head.output), self.units(net)
        values = {name: net.constants[name] * unit for name, unit in units.items()}
        if layer is not None and layer.bias is not None:
            bias = values[layer.bias]
            middle = (np.broadcast_to(self._middle, self.head.shape).ravel() - layer.offset) / layer.gain
            values[layer.bias] = bias + _of_layer(middle, layer.of_bias, bias.size, 0.0).reshape(bias.shape)
        return net.with_constants({name: value.astype(net.constants[name].dtype) for name, value in values.items()})

    def units(self, net: Network) -> dict[str, Array]:
        """The targets' spread, for the layer that gives the output as it is.

        A step moves weights by what suits fresh ones. In any other unit targets in the hundreds would never be reached, and
        those of thousandths be missed by every step.
        """
        layer = last_layer(net, self.head.output)
        if layer is None:
            return {}
        outs, rank = net.shapes[layer.weight][layer.axis], len(net.shapes[layer.weight])
        along = [-1 if axis == layer.axis else 1 for axis in range(rank)]
        spread = np.broadcast_to(self._spread, self.head.shape).ravel() / np.abs(layer.gain)
        units = {layer.weight: _of_layer(spread, layer.of_weight, outs, 1.0).reshape(along)}
        if layer.bias is not None:
            units[layer.bias] = _of_layer(spread, layer.of_bias, outs, 1.0).reshape(net.shapes[layer.bias])
        return units

    def loss(self, answer: Tensor, target: Tensor, smoothing: float) -> Tensor:
        return ((answer - target) / answer.new_tensor(self._spread)).square().mean()

    def teach(self, answer: Tensor, teacher: Tensor) -> Tensor:
        return self.loss(answer, teacher, 0.0)

    def misses(self, answer: Tensor, target: Tensor) -> float:
        return float((answer.detach() - target).abs().sum()) / max(1, prod(self.head.shape))

    def output(self, answer: Tensor) -> Tensor:
        return answer

    def measured(self, outputs: Array) -> Array:
        return outputs.reshape(len(outputs), *self.head.shape)

    def tally(self) -> Tally:
        return Errors(self._middle, self._mean, self._units)


def _of_layer(of_targets: Array, which: Array, outs: int, others: float) -> Array:
    """Numbers of the targets as those of a layer, float32 (outs,): the mean of the elements that each is in.

    of_targets: of every element of the output. which: of ``LastLayer``. others: for what is in none.
    """
    count, total = np.bincount(which, minlength=outs), np.bincount(which, of_targets, outs)
    return np.where(count > 0, total / np.maximum(count, 1), others).astype(np.float32)
