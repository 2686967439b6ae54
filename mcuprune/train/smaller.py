"""Smaller images first: the network that trains at first sees images of three quarters of their height and width.

A step on them takes 9/16 of the multiply-accumulates, so that equal compute has more steps, and what a network learns of small
images it knows of larger ones ("progressive learning": Tan and Le, EfficientNetV2, arXiv 2104.00298, section 4; there
regularisation grows with the images, here nothing else changes). Convolutions take an image of any size; whether the whole
network does is found by inferring its shapes anew and by running it once.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor

from mcuprune.channels.labelling import Channels
from mcuprune.costs.resources import macs
from mcuprune.errors import McupruneError
from mcuprune.graph.network import Network, is_float
from mcuprune.immutable import immutable
from mcuprune.train.module import Trainable

#: Sides that images shrink to are the largest multiples of this within three quarters: most strides still divide them.
_STEP = 4
#: Smaller ones have no size to spare: what three layers of stride 2 leave of them is 3 x 3.
LEAST = 24
#: Where images of one example may lie in an input of four axes: channels first, channels last.
_PLACES = ((2, 3), (1, 2))


@immutable
class Smaller:
    """Images that a network answers for less. axes: of the input, batch included, which are resized to ``size``.

    macs: forward multiply-accumulates of one such example.
    """

    axes: tuple[int, int]
    size: tuple[int, int]
    macs: int

    def __call__(self, images: Tensor) -> Tensor:
        """Images (batch, ...) in that size, every pixel a weighted mean of those it covers."""
        first = self.axes == _PLACES[0]
        planes = images if first else images.permute(0, 3, 1, 2)
        shrunk = F.interpolate(planes, self.size, mode="bilinear", antialias=True)
        return shrunk if first else shrunk.permute(0, 2, 3, 1)


def smaller(net: Network) -> Smaller | None:
    """Smaller images that give outputs of the same shapes, by inference of all shapes; None where there are none.

    Only the axes of an image may shrink: with other ones weights no longer fit.
    """
    if len(net.inputs) != 1 or not is_float(net.dtypes[net.inputs[0]]):
        return None
    (name,) = net.inputs
    shape = net.shapes[name]
    for axes in _PLACES if len(shape) == 4 else ():
        size = [_STEP * (3 * shape[axis] // (4 * _STEP)) for axis in axes]
        if min(shape[axis] for axis in axes) < LEAST:
            continue
        shrunk = list(shape)
        shrunk[axes[0]], shrunk[axes[1]] = size
        try:
            fed = replace(net, shapes={**net.shapes, name: tuple(shrunk)})
            answered = fed.rebuilt(net.nodes, net.constants)
        except McupruneError:
            continue
        if all(answered.shapes.get(output) == net.shapes[output] for output in net.outputs):
            return Smaller(axes, (size[0], size[1]), macs(answered))
    return None


@torch.no_grad()
def proven(channels: Channels) -> Smaller | None:
    """``smaller`` of a network that torch computes at that size too: what a file says of sizes may hide where shapes don't."""
    net = channels.network
    images = smaller(net)
    if images is None:
        return None
    module = Trainable(channels).eval()
    try:
        answers = module(images(torch.zeros(2, *net.shapes[net.inputs[0]][1:])))
    except Exception:  # torch and onnx2torch raise whatever their kernels do
        return None
    fits = all(tuple(answer.shape[1:]) == net.shapes[name][1:] for answer, name in zip(answers, net.outputs, strict=True))
    return images if fits else None
