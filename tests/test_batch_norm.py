"""BatchNormalization in training gives what torch's gives, in every memory layout."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mcuprune.train import batch_norm

SHAPES = st.one_of(
    st.tuples(st.integers(2, 9), st.integers(1, 40)),
    st.tuples(st.integers(1, 5), st.integers(1, 24), st.integers(2, 9)),
    st.tuples(st.integers(1, 5), st.integers(1, 24), st.integers(1, 9), st.integers(2, 9)),
    st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 3), st.integers(1, 4), st.integers(2, 4)),
)
LAYOUTS = {"planes": torch.contiguous_format, "pixels": torch.channels_last}


def laid_out(x: Tensor, layout: str) -> Tensor:
    return x.contiguous(memory_format=LAYOUTS[layout]) if x.ndim == 4 else x


def results(x: Tensor, of_y: Tensor, kept: tuple[Tensor, Tensor], learned: tuple[Tensor, Tensor], *, own: bool) -> list[Tensor]:
    """What a step sees: the output, what moved, and three gradients."""
    inputs = [t.detach().clone(memory_format=torch.preserve_format).requires_grad_() for t in (x, *learned)]
    statistics = (kept[0].clone(), kept[1].clone())
    if own:
        y = batch_norm.normalized(inputs[0], statistics, (inputs[1], inputs[2]), momentum=0.3, epsilon=1e-3, over_ranks=False)
    else:
        y = F.batch_norm(inputs[0], *statistics, inputs[1], inputs[2], training=True, momentum=0.3, eps=1e-3)
    return [y.detach(), *statistics, *torch.autograd.grad(y, inputs, of_y)]


LAYOUT = st.sampled_from(list(LAYOUTS))


@settings(deadline=None)  # the first call loads torch's kernels
@given(SHAPES, LAYOUT, LAYOUT, st.sampled_from([0.0, 100.0]), st.integers(0, 99))
def test_it_is_torchs_in_every_layout(shape: tuple[int, ...], layout: str, of_gradient: str, offset: float, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)

    def numbers(*size: int) -> Tensor:
        return torch.randn(size, generator=draw, dtype=torch.float64)

    x, of_y = laid_out(numbers(*shape) + offset, layout), laid_out(numbers(*shape), of_gradient)
    kept, learned = (numbers(shape[1]), numbers(shape[1]) ** 2), (numbers(shape[1]), numbers(shape[1]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_norm, "_faster_here", lambda x: True)
        own = results(x, of_y, kept, learned, own=True)
    for ours, theirs in zip(own, results(x, of_y, kept, learned, own=False), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("channels", [3, 5, 9, 15])
def test_single_precision_loses_no_more_than_torchs(channels: int) -> None:
    # A mean a hundred times the deviation: squares that are summed before the mean is taken off would leave nothing.
    draw = torch.Generator().manual_seed(channels)
    x = torch.randn(32, channels, 16, 16, generator=draw) + 100
    x = laid_out(x, "pixels")
    zeros, ones = torch.zeros(channels), torch.ones(channels)
    given_ = (x, torch.randn(x.shape, generator=draw), (zeros, ones), (ones, zeros))
    exact = results(*(t.double() for t in given_[:2]), *((a.double(), b.double()) for a, b in given_[2:]), own=False)
    apart = [
        max(float((part.double() - whole).abs().max()) for part, whole in zip(results(*given_, own=own), exact, strict=True))
        for own in (True, False)
    ]
    assert batch_norm._faster_here(x)
    assert apart[0] <= 2 * apart[1]


def test_the_layout_stays() -> None:
    x = laid_out(torch.randn(32, 9, 16, 16), "pixels").requires_grad_()
    kept, learned = (torch.zeros(9), torch.ones(9)), (torch.ones(9), torch.zeros(9))
    y = batch_norm.normalized(x, kept, learned, momentum=0.1, epsilon=1e-5, over_ranks=False)
    (of_x,) = torch.autograd.grad(y.square().sum(), x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert of_x.is_contiguous(memory_format=torch.channels_last)


def test_constant_channels_have_no_variance() -> None:
    x = laid_out(torch.full((32, 5, 16, 16), 7.0), "pixels")
    kept = (torch.zeros(5), torch.ones(5))
    y = batch_norm.normalized(x, kept, (torch.ones(5), torch.full((5,), 0.5)), momentum=1.0, epsilon=1e-5, over_ranks=False)
    assert torch.equal(y, torch.full_like(y, 0.5))
    assert torch.equal(kept[0], torch.full((5,), 7.0))
    assert not kept[1].any()
