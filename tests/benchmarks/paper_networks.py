"""The networks of the paper's table 3, in torch: those that CIFAR-10 can train, and those for keywords.

The former take images (3, 32, 32) and have ten classes, the latter take 49 rows of ten coefficients, (1, 49, 10), and have
twelve. VGG-16 and ResNet-18 are what the literature on CIFAR-10 means by them:
BatchNormalization and one fully connected layer in the former, a 3 x 3 stem without pooling in the latter. MobileNet-v2 and
EfficientNet-B0 are those of their papers at width 1, but for a stem of stride 1: from 32 x 32 images, their feature maps then
are about as large as the paper's are from 50 x 50 (32 against 25 pixels at the widest, 2 at the narrowest in both).

EtinyNet likewise has neither its stem's stride nor the pooling behind it. MCUNet's networks were found by a search and are
published as files; ``mcunet`` is a network of the space that was searched, of their kind, and none of them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

CLASSES = 10
#: Ten words, silence, and any other word.
KEYWORDS = 12


def convolution(
    n_in: int, n_out: int, kernel: int, stride: int = 1, groups: int = 1, act: Callable[[], nn.Module] | None = nn.ReLU
) -> list[nn.Module]:
    """A convolution, its BatchNormalization, and an activation if there is one."""
    layers = [nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(n_out)]
    return layers if act is None else [*layers, act()]


def classifier(n_in: int, classes: int = CLASSES) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n_in, classes)]


def vgg16() -> nn.Module:
    """Simonyan & Zisserman 2015, configuration D."""
    layers: list[nn.Module] = []
    channels = 3
    for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(depth):
            layers += convolution(channels, width, 3)
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, *classifier(channels))


class Basic(nn.Module):
    """Two 3 x 3 convolutions and a shortcut, projected where the shape changes."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*convolution(n_in, n_out, 3, stride), *convolution(n_out, n_out, 3, act=None))
        same = stride == 1 and n_in == n_out
        self.shortcut = nn.Identity() if same else nn.Sequential(*convolution(n_in, n_out, 1, stride, act=None))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet18() -> nn.Module:
    """He et al. 2016."""
    layers = convolution(3, 64, 3)
    channels = 64
    for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [Basic(channels, width, stride), Basic(width, width, 1)]
        channels = width
    return nn.Sequential(*layers, *classifier(channels))


class Squeeze(nn.Module):
    """Squeeze and excitation: each channel by a factor that all channels' means give."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        ends = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)
        self.factor = nn.Sequential(nn.AdaptiveAvgPool2d(1), ends[0], nn.SiLU(), ends[1], nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor(x)


class Inverted(nn.Module):
    """Expand, filter each channel, project; a shortcut where the shape stays. ``squeeze``: whether channels are weighted."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        stride: int,
        expand: int,
        kernel: int = 3,
        *,
        squeeze: bool = False,
        act: Callable[[], nn.Module] = nn.ReLU6,
    ) -> None:
        super().__init__()
        wide = n_in * expand
        layers = convolution(n_in, wide, 1, act=act) if expand > 1 else []
        layers += convolution(wide, wide, kernel, stride, wide, act)
        layers += [Squeeze(wide, n_in // 4)] if squeeze else []
        self.body = nn.Sequential(*layers, *convolution(wide, n_out, 1, act=None))
        self.shortcut = stride == 1 and n_in == n_out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.shortcut else self.body(x)


def mobilenet_v2() -> nn.Module:
    """Sandler et al. 2018, table 2."""
    layers = convolution(3, 32, 3, act=nn.ReLU6)
    channels = 32
    table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expand, width, depth, stride in table:
        for index in range(depth):
            layers.append(Inverted(channels, width, 1 if index else stride, expand))
            channels = width
    return nn.Sequential(*layers, *convolution(channels, 1280, 1, act=nn.ReLU6), *classifier(1280))


def efficientnet_b0() -> nn.Module:
    """Tan & Le 2019, table 1, without stochastic depth and dropout, which no file holds."""
    layers = convolution(3, 32, 3, act=nn.SiLU)
    channels = 32
    table = (
        (1, 3, 16, 1, 1),
        (6, 3, 24, 2, 2),
        (6, 5, 40, 2, 2),
        (6, 3, 80, 3, 2),
        (6, 5, 112, 3, 1),
        (6, 5, 192, 4, 2),
        (6, 3, 320, 1, 1),
    )
    for expand, kernel, width, depth, stride in table:
        for index in range(depth):
            step = 1 if index else stride
            layers.append(Inverted(channels, width, step, expand, kernel, squeeze=True, act=nn.SiLU))
            channels = width
    return nn.Sequential(*layers, *convolution(channels, 1280, 1, act=nn.SiLU), *classifier(1280))


def mcunet() -> nn.Module:
    """Inverted residuals with kernels of 3, 5 and 7 and mixed expansions, as in the space of Lin et al. 2020."""
    layers = [*convolution(3, 16, 3, act=nn.ReLU6), Inverted(16, 8, 1, 1)]
    channels = 8
    stages = (  # width, stride of the first block, (expansion, kernel) of each block
        (16, 2, ((3, 7), (5, 3), (5, 7), (4, 5))),
        (24, 2, ((5, 5), (5, 5), (4, 5))),
        (40, 2, ((5, 7), (5, 7))),
        (48, 1, ((4, 7), (4, 3))),
        (96, 2, ((6, 3), (5, 7), (4, 3))),
        (160, 1, ((5, 7),)),
    )
    for width, stride, blocks in stages:
        for index, (expand, kernel) in enumerate(blocks):
            layers.append(Inverted(channels, width, 1 if index else stride, expand, kernel))
            channels = width
    return nn.Sequential(*layers, *classifier(channels))


class LinearDepthwise(nn.Module):
    """Filter each channel, mix, filter each again; ``dense``: shortcuts around both halves (Xu et al. 2022)."""

    def __init__(self, n_in: int, n_out: int, stride: int, *, dense: bool) -> None:
        super().__init__()
        self.mixed = nn.Sequential(*convolution(n_in, n_in, 3, stride, n_in, None), *convolution(n_in, n_out, 1))
        self.filtered = nn.Sequential(*convolution(n_out, n_out, 3, 1, n_out))
        self.around_mixed, self.around_filtered = dense and stride == 1 and n_in == n_out, dense

    def forward(self, x: Tensor) -> Tensor:
        y = x + self.mixed(x) if self.around_mixed else self.mixed(x)
        return y + self.filtered(y) if self.around_filtered else self.filtered(y)


def etinynet() -> nn.Module:
    """Xu et al. 2022, at width 1."""
    layers = convolution(3, 32, 3)
    channels = 32
    table = ((32, 4, 1, False), (128, 4, 2, False), (192, 3, 2, True), (256, 2, 2, True), (512, 1, 1, True))
    for width, depth, stride, dense in table:
        for index in range(depth):
            layers.append(LinearDepthwise(channels, width, 1 if index else stride, dense=dense))
            channels = width
    return nn.Sequential(*layers, *classifier(channels))


def dscnn(width: int, blocks: int, strides: tuple[int, int], second: int) -> nn.Module:
    """Zhang et al. 2017 (Hello Edge): 10 x 4, then depthwise separable. second: the stride of the first of these."""
    rows, columns = strides
    pad = nn.ZeroPad2d((1, 4 - columns - 1, 4, 5))  # as TensorFlow pads 49 x 10
    layers: list[nn.Module] = [pad, nn.Conv2d(1, width, (10, 4), (rows, columns), bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    for index in range(blocks):
        layers += convolution(width, width, 3, 1 if index else second, width) + convolution(width, width, 1)
    return nn.Sequential(*layers, *classifier(width, KEYWORDS))


def dscnn_s() -> nn.Module:
    return dscnn(64, 4, (2, 2), 1)


def dscnn_m() -> nn.Module:
    return dscnn(172, 4, (2, 1), 2)


def dscnn_l() -> nn.Module:
    return dscnn(276, 5, (2, 1), 2)


class Res(nn.Module):
    """Tang & Lin 2018: 45 channels throughout, a shortcut around every two convolutions, BatchNormalization after each sum.

    convolutions: after the stem. dilations: of each. pool: of what the stem gives.
    """

    def __init__(self, dilations: tuple[int, ...], pool: tuple[int, int] | None) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 45, 3, padding=1, bias=False), nn.ReLU())
        self.pool = nn.Identity() if pool is None else nn.AvgPool2d(pool)
        self.layers = nn.ModuleList(nn.Conv2d(45, 45, 3, padding=d, dilation=d, bias=False) for d in dilations)
        self.norms = nn.ModuleList(nn.BatchNorm2d(45, affine=False) for _ in dilations)
        self.head = nn.Sequential(*classifier(45, KEYWORDS))

    def forward(self, x: Tensor) -> Tensor:
        x = shortcut = self.pool(self.stem(x))
        for index, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            x = torch.relu(layer(x))
            if index % 2:
                x = shortcut = x + shortcut
            x = norm(x)
        out: Tensor = self.head(x)
        return out


def res8() -> nn.Module:
    return Res((1,) * 6, (4, 3))


def res15() -> nn.Module:
    return Res(tuple(2 ** (index // 3) for index in range(13)), None)
