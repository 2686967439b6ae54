"""BatchNormalization in training: the statistics of a batch, of this process or of all ranks, and the gradients through them.

Torch's own kernels need a batch in one process. On a CPU, where pixels lie one after the other, they take as long for a pixel
of 4 channels as for one of 15. Here several pixels are taken together as one long row, so that rows are long whatever the
channels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor

from mcuprune.train import ranks

#: Where torch's kernel takes longer: fewer channels than this, but for multiples of what fills its vectors, and more pixels.
_CHANNELS, _VECTOR, _PIXELS = 16, 8, 8192
#: Numbers of a row: from about here on its length makes no difference any more.
_ROW = 128


class _Rows:
    """How sums over each channel are taken, and numbers of each channel spread, in the memory layout of a tensor.

    flat: a tensor (batch, channels, ...) as (rows, pixels of a row * channels) where pixels lie one after the other, and as
    (batch, channels, pixels) else.
    """

    def __init__(self, x: Tensor) -> None:
        self.channels = x.shape[1]
        self.count = x.numel() // self.channels
        self._shape = x.shape
        self.by_pixel = x.ndim == 2 or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last))
        self._pixels = 1
        while self.by_pixel and self._pixels * self.channels < _ROW and self.count % (2 * self._pixels) == 0:
            self._pixels *= 2

    def flat(self, x: Tensor) -> Tensor:
        """A tensor of the same shape; no copy where its layout is the same too."""
        if self.by_pixel:
            return x.movedim(1, -1).reshape(-1, self._pixels * self.channels)
        return x.reshape(x.shape[0], self.channels, -1)

    def restored(self, flat: Tensor) -> Tensor:
        """The opposite of ``flat``."""
        if self.by_pixel:
            return flat.view(self._shape[0], *self._shape[2:], self.channels).movedim(-1, 1)
        return flat.view(self._shape)

    def sums(self, flat: Tensor) -> Tensor:
        """Over all examples and pixels: (channels,)."""
        if self.by_pixel:
            return flat.sum(0).view(self._pixels, self.channels).sum(0)
        return flat.sum((0, 2))

    def spread(self, values: Tensor) -> Tensor:
        """Numbers (channels,) such that they meet their channels in a flat tensor."""
        return values.repeat(self._pixels) if self.by_pixel else values.view(-1, 1)


class _Normalized(torch.autograd.Function):
    """Ioffe & Szegedy 2015, algorithm 1, and the gradients of section 3 there. Gives mean and biased variance as well."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, epsilon: float, over_ranks: bool
    ) -> tuple[Tensor, Tensor, Tensor, float]:
        rows = _Rows(x)
        flat = rows.flat(x)
        mean = rows.sums(flat) / rows.count
        centred = flat - rows.spread(mean)
        variance = rows.sums(centred * centred) / rows.count
        count = float(rows.count)
        if over_ranks:
            whole, variance, count = _over_ranks(mean, variance, count)
            centred += rows.spread(mean - whole)
            mean = whole
        inverse = (variance + epsilon).rsqrt()
        ctx.save_for_backward(centred, scale, inverse)
        ctx.rows, ctx.count, ctx.over_ranks = rows, count, over_ranks
        ctx.mark_non_differentiable(mean, variance)
        y = torch.addcmul(rows.spread(shift), centred, rows.spread(scale * inverse))
        return rows.restored(y), mean, variance, count

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        centred, scale, inverse = ctx.saved_tensors
        rows: _Rows = ctx.rows
        of_y = rows.flat(gradients[0])
        of_shift, of_scale = rows.sums(of_y), rows.sums(of_y * centred) * inverse
        whole_shift, whole_scale = of_shift, of_scale
        if ctx.over_ranks:
            whole_shift, whole_scale = ranks.summed(torch.cat([of_shift, of_scale])).chunk(2)
        factor = scale * inverse
        of_x = torch.addcmul(
            rows.spread(-factor * whole_shift / ctx.count),
            centred,
            rows.spread(-factor * inverse * whole_scale / ctx.count),
        )
        of_x.addcmul_(of_y, rows.spread(factor))
        return rows.restored(of_x), of_scale, of_shift, None, None


def _over_ranks(mean: Tensor, variance: Tensor, count: float) -> tuple[Tensor, Tensor, float]:
    """Mean, biased variance and number of values of the batch of all ranks, from those of this rank's part.

    In double precision, so that no variance cancels.
    """
    middle, spread = mean.double(), variance.double()
    sums = ranks.summed(torch.cat([count * middle, count * (spread + middle**2), middle.new_tensor([count])]))
    whole = float(sums[-1])
    middle, squares = (sums[:-1] / whole).chunk(2)
    return middle.to(mean), (squares - middle**2).clamp_min(0).to(variance), whole


def moments(x: Tensor, *, over_ranks: bool) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel over the examples and pixels of a batch (batch, channels, ...), as constants.

    over_ranks: whether the batch is that of all ranks, of which ``x`` is this rank's part.
    """
    count = x.numel() // x.shape[1]
    mean, variance = torch.zeros(2, x.shape[1], dtype=x.dtype, device=x.device)
    F.batch_norm(x.detach(), mean, variance, training=True, momentum=1.0)  # takes a third of what torch.var_mean takes
    variance *= (count - 1) / count
    if over_ranks:
        mean, variance, _ = _over_ranks(mean, variance, count)
    return mean, variance


def normalized(
    x: Tensor,
    statistics: tuple[Tensor, Tensor],
    learned: tuple[Tensor, Tensor],
    *,
    momentum: float,
    epsilon: float,
    over_ranks: bool,
) -> Tensor:
    """A batch (batch, channels, ...) normalised by its own statistics, which move those that are kept by ``momentum``.

    statistics: mean and variance that are kept, (channels,) each. learned: scale and shift; gradients of these are, over ranks,
    this rank's part, as those of all other weights are. over_ranks: as for ``moments``.
    """
    scale, shift = learned
    if not over_ranks and not _faster_here(x):
        return F.batch_norm(x, *statistics, scale, shift, training=True, momentum=momentum, eps=epsilon)
    y, mean, variance, count = _Normalized.apply(x.to(scale.dtype), scale, shift, epsilon, over_ranks)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        statistics[0].lerp_(mean.to(statistics[0]), momentum)
        statistics[1].lerp_((variance * (count / max(count - 1, 1))).to(statistics[1]), momentum)
    result: Tensor = y.to(x.dtype)
    return result


def _faster_here(x: Tensor) -> bool:
    """Whether torch's kernel takes longer, as measured with and without AVX-512: up to three times at 4 channels."""
    narrow = x.shape[1] < _CHANNELS and x.shape[1] % _VECTOR != 0 and x.numel() >= _PIXELS * x.shape[1]
    by_pixel = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return narrow and by_pixel and x.device.type == "cpu" and x.dtype == torch.float32
