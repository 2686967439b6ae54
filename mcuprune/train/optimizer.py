"""How a training step turns gradients into new weights.

Networks that fit a microcontroller are narrow and are trained for few steps; there the direction of an update matters more
than on wide ones. ``Muon`` levels all directions of each weight matrix and is the default; SGD and AdamW are torch's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

#: The parameters of a network by the number of matrices that each consists of: 0 for biases, scales and slopes.
ByBlocks = Mapping[int, list[nn.Parameter]]

_MOMENTUM = 0.9
#: How far a weight matrix moves along each of its directions, relative to the learning rate.
_STRIDE = 0.25
#: Newton-Schulz iteration (Jordan et al. 2024, "Muon"): these coefficients bring singular values near 1 in five steps.
_COEFFICIENTS, _ITERATIONS = (3.4445, -4.7750, 2.0315), 5


def levelled(matrices: Tensor) -> Tensor:
    """Each matrix with its singular vectors kept and its singular values brought to about 1: (..., rows, columns).

    A matrix of zeros stays zero.
    """
    a, b, c = _COEFFICIENTS
    flat = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if flat else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-12)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    matrix: Tensor = x.mT if flat else x
    return matrix


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose updates to weight matrices are orthogonalised (Jordan et al. 2024).

    Parameter groups take ``lr``, ``weight_decay`` and ``blocks``: into how many matrices each parameter splits along its
    first axis (a grouped convolution is one matrix a group, a depthwise one has a row each); 0 for what is no matrix and
    moves as by SGD.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0, "blocks": 0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of all weights; returns the closure's loss, if there is a closure."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, group["lr"], group["weight_decay"], group["blocks"])
        return loss

    def _move(self, weight: nn.Parameter, lr: float, weight_decay: float, blocks: int) -> None:
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        momentum = state["momentum_buffer"]
        assert weight.grad is not None
        momentum.mul_(_MOMENTUM).add_(weight.grad)
        update = weight.grad + _MOMENTUM * momentum
        if blocks:
            matrices = update.reshape(blocks, weight.shape[0] // blocks, -1)
            tall = max(1.0, matrices.shape[1] / matrices.shape[2]) ** 0.5
            update = (levelled(matrices) * (_STRIDE * tall)).reshape(weight.shape)
        weight.mul_(1 - lr * weight_decay).sub_(lr * update)


def _groups(parameters: ByBlocks, weight_decay: float) -> list[dict[str, Any]]:
    """Torch's parameter groups; weight decay is for matrices."""
    return [
        {"params": group, "weight_decay": weight_decay if blocks else 0.0, "blocks": blocks}
        for blocks, group in parameters.items()
    ]


def _sgd(parameters: ByBlocks, weight_decay: float, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(_groups(parameters, weight_decay), lr=lr, momentum=_MOMENTUM, nesterov=True)


def _adamw(parameters: ByBlocks, weight_decay: float, lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(_groups(parameters, weight_decay), lr=lr)


def _muon(parameters: ByBlocks, weight_decay: float, lr: float) -> torch.optim.Optimizer:
    return Muon(_groups(parameters, weight_decay), lr)


@dataclass(frozen=True)
class Kind:
    """A way to train. lr: the peak learning rate that suits an untrained network."""

    make: Callable[[ByBlocks, float, float], torch.optim.Optimizer]
    lr: float


OPTIMIZERS = {"muon": Kind(_muon, 0.2), "sgd": Kind(_sgd, 0.2), "adamw": Kind(_adamw, 0.01)}
