"""How a training step turns gradients into new weights, by name.

Networks that fit a microcontroller are narrow and are trained for few steps; there the direction of an update matters more
than on wide ones. ``Muon`` levels all directions of each weight matrix and is the default; SGD and AdamW are torch's own.
Options name the optimisers, so the table imports torch where one is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mcuprune.immutable import immutable

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

#: The parameters of a network by the number of matrices that each consists of: 0 for biases, scales and slopes.
ByBlocks = Mapping[int, list["nn.Parameter"]]

MOMENTUM = 0.9


def _groups(parameters: ByBlocks, weight_decay: float) -> list[dict[str, Any]]:
    """Torch's parameter groups; weight decay is for matrices."""
    return [
        {"params": group, "weight_decay": weight_decay if blocks else 0.0, "blocks": blocks}
        for blocks, group in parameters.items()
    ]


def _sgd(parameters: ByBlocks, weight_decay: float, lr: float) -> Optimizer:
    from torch.optim import SGD

    return SGD(_groups(parameters, weight_decay), lr=lr, momentum=MOMENTUM, nesterov=True)


def _adamw(parameters: ByBlocks, weight_decay: float, lr: float) -> Optimizer:
    from torch.optim import AdamW

    return AdamW(_groups(parameters, weight_decay), lr=lr)


def _muon(parameters: ByBlocks, weight_decay: float, lr: float) -> Optimizer:
    from mcuprune.train.muon import Muon

    return Muon(_groups(parameters, weight_decay), lr, MOMENTUM)


@immutable
class Kind:
    """A way to train. lr: the peak learning rate that suits an untrained network."""

    make: Callable[[ByBlocks, float, float], Optimizer]
    lr: float


OPTIMIZERS = {"muon": Kind(_muon, 0.2), "sgd": Kind(_sgd, 0.2), "adamw": Kind(_adamw, 0.01)}
