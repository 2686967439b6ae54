"""BatchNormalization over the batch of all ranks: statistics and gradients are those of one process with the whole batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor

from mcuprune.train import ranks


def moments(x: Tensor) -> tuple[Tensor, Tensor, float]:
    """Mean and biased variance of each channel over the examples and places of all ranks, and how many values those are.

    x: this rank's examples (batch, channels, ...). Sums are in double precision, so that no variance cancels.
    """
    axes = [axis for axis in range(x.ndim) if axis != 1]
    spread, middle = torch.var_mean(x.detach().double(), axes, correction=0)
    own = x.numel() // x.shape[1]
    whole = ranks.summed(torch.cat([own * middle, own * (spread + middle**2), middle.new_tensor([own])]))
    count = float(whole[-1])
    mean, squares = (whole[:-1] / count).chunk(2)
    return mean, (squares - mean**2).clamp_min(0), count


class _Normalized(torch.autograd.Function):
    """Ioffe & Szegedy 2015, algorithm 1, and the gradients of section 3 there, whose sums go over all ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor, *more: float) -> Tensor:
        epsilon, count = more
        ctx.save_for_backward(x, scale, mean, (variance + epsilon).rsqrt())
        ctx.count = count
        return F.batch_norm(x, mean.to(scale.dtype), variance.to(scale.dtype), scale, shift, training=False, eps=epsilon)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, mean, inverse = ctx.saved_tensors
        (of_y,) = gradients
        axes = [axis for axis in range(x.ndim) if axis != 1]
        wide = [1, -1, *[1] * (x.ndim - 2)]
        level = (x - mean.to(scale.dtype).view(wide)) * inverse.to(scale.dtype).view(wide)
        of_y = of_y.to(scale.dtype)
        of_shift, of_scale = of_y.sum(axes), (of_y * level).sum(axes)
        whole_shift, whole_scale = (ranks.summed(torch.cat([of_shift, of_scale])) / ctx.count).chunk(2)
        factor = (scale * inverse.to(scale.dtype)).view(wide)
        of_x = factor * (of_y - whole_shift.view(wide) - level * whole_scale.view(wide))
        return of_x.to(x.dtype), of_scale, of_shift, None, None, None, None


def normalized(
    x: Tensor, mean: Tensor, variance: Tensor, scale: Tensor, shift: Tensor, momentum: float, epsilon: float
) -> Tensor:
    """What ``F.batch_norm`` gives in training mode for the batch of all ranks; ``mean`` and ``variance`` follow it.

    Its gradients of ``scale`` and ``shift`` are this rank's part, as those of all other weights are.
    """
    middle, spread, count = moments(x)
    with torch.no_grad():
        mean.lerp_(middle.to(mean.dtype), momentum)
        variance.lerp_((spread * count / max(count - 1, 1)).to(variance.dtype), momentum)
    result: Tensor = _Normalized.apply(x, scale, shift, middle, spread, epsilon, count)  # type: ignore[no-untyped-call]
    return result
