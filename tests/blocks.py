"""Small networks of the blocks that CNNs for microcontrollers are made of, written in torch and exported to ONNX.

``BLOCKS`` maps a name to a function that makes the module; all take an image (batch, 3, 12, 12). Weights and batch norm
statistics are random, so that every channel matters to the output.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import warnings
from collections.abc import Callable

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

SHAPE = (3, 12, 12)


def conv(n_in: int, n_out: int, kernel: int = 3, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution and batch norm."""
    return nn.Sequential(nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(n_out))


def head(n_in: int, n_out: int = 5) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n_in, n_out))


class Residual(nn.Module):
    """``body(x) + shortcut(x)``."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


class Concat(nn.Module):
    """The outputs of several branches, and of the identity where a branch is one, side by side."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Gate(nn.Module):
    """Squeeze and excite, by 1 x 1 convolutions or by linear layers; the gate may be spread over the data by ``expand_as``."""

    def __init__(self, channels: int, squeezed: int, *, linear: bool = False, expanded: bool = False) -> None:
        super().__init__()
        self.linear, self.expanded = linear, expanded
        self.down = nn.Linear(channels, squeezed) if linear else nn.Conv2d(channels, squeezed, 1)
        self.up = nn.Linear(squeezed, channels) if linear else nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        s = x.mean((2, 3), keepdim=not self.linear)
        s = torch.sigmoid(self.up(torch.relu(self.down(s))))
        s = s[:, :, None, None] if self.linear else s
        return x * (s.expand_as(x) if self.expanded else s)


class Lambda(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Scale(nn.Module):
    """A learned factor for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.rand(channels, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class Shuffle(nn.Module):
    """Channel shuffle as every ShuffleNet writes it: reshape, transpose, reshape."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.reshape(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class Halves(nn.Module):
    """Splits the channels into parts of the given sizes, treats each by its own branch, joins them again."""

    def __init__(self, sizes: tuple[int, ...], branches: tuple[nn.Module, ...]) -> None:
        super().__init__()
        self.sizes, self.branches = sizes, nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(x, self.sizes, 1)
        return torch.cat([branch(part) for part, branch in zip(parts, self.branches, strict=True)], 1)


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 12), nn.ReLU(), conv(12, 16), nn.ReLU())
        self.classes, self.boxes = head(16), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        return self.classes(x), self.boxes(x)


def inverted(n: int, wide: int, *, gate: bool = False, activation: type[nn.Module] = nn.ReLU6) -> nn.Module:
    """MobileNetV2's block: wide 1 x 1, depthwise, narrow 1 x 1, shortcut."""
    return Residual(
        nn.Sequential(
            conv(n, wide, 1),
            activation(),
            conv(wide, wide, 3, groups=wide),
            activation(),
            *([Gate(wide, 4)] if gate else []),
            conv(wide, n, 1),
        )
    )


def stem(n: int) -> nn.Sequential:
    return nn.Sequential(conv(3, n), nn.ReLU())


def _shuffle_v2() -> nn.Module:
    branch = nn.Sequential(conv(8, 8, 1), nn.ReLU(), conv(8, 8, 3, groups=8), conv(8, 8, 1), nn.ReLU())
    units = [Halves((8, 8), (nn.Identity(), branch)), Shuffle(2), Halves((8, 8), (nn.Identity(), conv(8, 8, 1))), Shuffle(2)]
    return nn.Sequential(stem(16), *units, head(16))


def _shuffle_v1() -> nn.Module:
    body = nn.Sequential(
        conv(18, 12, 1, groups=3), nn.ReLU(), Shuffle(3), conv(12, 12, 3, groups=12), conv(12, 18, 1, groups=3)
    )
    return nn.Sequential(stem(18), Residual(body), nn.ReLU(), head(18))


BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "inverted residual": lambda: nn.Sequential(stem(8), inverted(8, 24), inverted(8, 16), head(8)),
    "squeeze-excite, hard-swish": lambda: nn.Sequential(
        stem(8), inverted(8, 24, gate=True, activation=nn.Hardswish), nn.Hardswish(), head(8)
    ),
    "efficientnet": lambda: nn.Sequential(stem(8), inverted(8, 16, gate=True, activation=nn.SiLU), conv(8, 24, 1), head(24)),
    "ds-cnn": lambda: nn.Sequential(
        stem(16), *[nn.Sequential(conv(16, 16, groups=16), nn.ReLU(), conv(16, 16, 1), nn.ReLU()) for _ in range(2)], head(16)
    ),
    "resnet": lambda: nn.Sequential(
        stem(8),
        Residual(nn.Sequential(conv(8, 8), nn.ReLU(), conv(8, 8))),
        nn.ReLU(),
        Residual(nn.Sequential(conv(8, 12, stride=2), nn.ReLU(), conv(12, 12)), conv(8, 12, 1, stride=2)),
        nn.ReLU(),
        head(12),
    ),
    "dense concat": lambda: nn.Sequential(
        stem(8),
        Concat(nn.Identity(), conv(8, 6)),
        nn.BatchNorm2d(14),
        nn.ReLU(),
        Concat(nn.Identity(), conv(14, 6)),
        nn.BatchNorm2d(20),
        nn.ReLU(),
        conv(20, 10, 1),
        head(10),
    ),
    "grouped convolution": lambda: nn.Sequential(stem(16), conv(16, 16, groups=4), nn.ReLU(), conv(16, 12, 1), head(12)),
    "grouped chain": lambda: nn.Sequential(stem(16), conv(16, 16, groups=4), nn.ReLU(), conv(16, 16, groups=2), head(16)),
    "flatten to linear": lambda: nn.Sequential(
        stem(8), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(72, 20), nn.ReLU(), nn.Linear(20, 5)
    ),
    "view to linear": lambda: nn.Sequential(
        stem(8), nn.AvgPool2d(4), Lambda(lambda x: x.view(-1, 72)), nn.Linear(72, 20), nn.ReLU(), nn.Linear(20, 5)
    ),
    "squeeze-excite, linear": lambda: nn.Sequential(stem(12), Gate(12, 6, linear=True), conv(12, 8), head(8)),
    "squeeze-excite, expanded": lambda: nn.Sequential(
        stem(12), Gate(12, 6, expanded=True), conv(12, 8), nn.ReLU(), Gate(8, 4, linear=True, expanded=True), head(8)
    ),
    "group norm": lambda: nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(8, 16), nn.ReLU(), nn.Conv2d(16, 12, 3), nn.GroupNorm(4, 12), head(12)
    ),
    "two heads": TwoHeads,
    "shufflenet v2 unit": _shuffle_v2,
    "shufflenet v1 unit": _shuffle_v1,
    "convolutions and shuffle": lambda: nn.Sequential(stem(12), Shuffle(3), conv(12, 12), nn.ReLU(), Shuffle(4), head(12)),
    "concat with the input": lambda: nn.Sequential(Concat(nn.Identity(), stem(10)), conv(13, 10), nn.ReLU(), head(10)),
    "padded channels": lambda: nn.Sequential(
        stem(8),
        Residual(nn.Sequential(conv(8, 14), nn.ReLU(), conv(14, 14)), Lambda(lambda x: functional.pad(x, (0, 0, 0, 0, 3, 3)))),
        head(14),
    ),
    "even split": lambda: nn.Sequential(stem(16), Halves((8, 8), (conv(8, 8), nn.Sequential(conv(8, 4), nn.ReLU()))), head(12)),
    "uneven split": lambda: nn.Sequential(stem(16), Halves((3, 5, 8), (nn.Identity(), conv(5, 5), nn.ReLU())), head(16)),
    "channel slice": lambda: nn.Sequential(
        stem(16), Lambda(lambda x: x[:, 2:12] + x[:, :10].tanh()), conv(10, 12), nn.ReLU(), head(12)
    ),
    "depthwise multiplier": lambda: nn.Sequential(stem(8), conv(8, 16, groups=8), nn.ReLU(), conv(16, 12, 1), head(12)),
    "prelu": lambda: nn.Sequential(conv(3, 12), nn.PReLU(12), conv(12, 10), nn.PReLU(10), head(10)),
    "learned scale": lambda: nn.Sequential(conv(3, 12), nn.ReLU(), Scale(12), nn.Tanh(), Scale(12), conv(12, 10), head(10)),
    "pixel shuffle": lambda: nn.Sequential(stem(8), conv(8, 24), nn.PixelShuffle(2), nn.ReLU(), conv(6, 8), head(8)),
}


def randomised(module: nn.Module, seed: int) -> nn.Module:
    """``module`` in evaluation mode, its batch norms and slopes drawn anew from ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor, low, high in (
                (part.weight, 0.5, 1.5),
                (part.bias, -0.3, 0.3),
                (part.running_mean, -0.2, 0.2),
                (part.running_var, 0.3, 1.0),
            ):
                tensor.data.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
        elif isinstance(part, nn.GroupNorm):
            for tensor in (part.weight, part.bias):
                tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + 0.2)
        elif isinstance(part, nn.PReLU):
            part.weight.data.copy_(torch.rand(part.weight.shape, generator=generator))
    return module.eval()


@functools.cache
def _register_once() -> None:
    """torch's new exporter reads the source of all its translations anew at each export, for half of the time of one.

    Where a version of torch has that elsewhere, exports only take longer.
    """
    with contextlib.suppress(ImportError, AttributeError):
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        ONNXRegistry.from_torchlib = staticmethod(functools.cache(ONNXRegistry.from_torchlib))


def export(module: nn.Module, *, dynamo: bool, opset: int = 17, dynamic: bool = False, batch: int = 1) -> onnx.ModelProto:
    """The module as ONNX, by torch's old exporter or its new one (which raises any opset below 18 to 18)."""
    example = torch.zeros(batch, *SHAPE)
    target = io.BytesIO()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        if dynamo:
            _register_once()
            shapes = ({0: torch.export.Dim("n")},) if dynamic else None
            program = torch.onnx.export(module, (example,), dynamo=True, dynamic_shapes=shapes, verbose=False)
            return program.model_proto  # type: ignore[union-attr]
        axes = {"x": {0: "n"}} if dynamic else None
        torch.onnx.export(module, (example,), target, dynamo=False, opset_version=opset, input_names=["x"], dynamic_axes=axes)
    return onnx.load_from_string(target.getvalue())


@functools.cache
def exported(name: str, exporter: str) -> bytes:
    """The block ``name`` as an ONNX file's content. exporter: ``torchscript``, ``dynamo`` or ``dynamic`` (free batch)."""
    torch.manual_seed(len(name))
    module = randomised(BLOCKS[name](), seed=len(name))
    model = export(module, dynamo=exporter == "dynamo", dynamic=exporter == "dynamic")
    content: bytes = model.SerializeToString()
    return content
