"""How long a training step takes here: for what must be decided before the first one, where training is given a time."""

from __future__ import annotations

import time
from statistics import median

import numpy as np
import torch

from mcuprune.channels.labelling import Channels
from mcuprune.train import ranks
from mcuprune.train.batchproof import drawn
from mcuprune.train.module import Trainable, as_inputs

#: Steps that are timed; the first one, in which memory is taken and kernels are chosen, doesn't count.
_STEPS = 4


def seconds_of_step(channels: Channels, batch: int, device: str) -> float:
    """Of the whole network: its answers to random examples and its weights' gradients, on the first rank's part of a batch."""
    net, draw, part = channels.network, np.random.default_rng(0), -(-batch // ranks.size())
    module = Trainable(channels).to(device).train()
    inputs = as_inputs(net, [np.concatenate([drawn(net, name, draw)] * part) for name in net.inputs], device)
    taken = []
    for _ in range(_STEPS):
        began = time.perf_counter()
        torch.stack([output.float().square().mean() for output in module(*inputs)]).sum().backward()  # type: ignore[no-untyped-call]
        if device != "cpu":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - began)
    return ranks.of_first(max(1, round(1e6 * median(taken[1:])))) / 1e6
