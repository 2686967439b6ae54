"""Train the example models and write them as ONNX: ``python models/make.py [NAME...]`` (``make models``).

Four small CNNs for scikit-learn's 8 x 8 digits, shown at 16 x 16, written here from the public descriptions of their
architectures and deliberately too large for their task, so that pruning has much to take away. Same machine and
packages, same files: seeds are fixed and one thread is used. ``README.md`` gets its table from the files as they lie.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from mcuprune.data.loading import load
from mcuprune.data.sets import Data, Split

HERE = Path(__file__).resolve().parent
INPUT_SHAPE = (1, 16, 16)
N_CLASSES = 10
SEED = 0


class ConvBN(nn.Module):
    """A convolution that keeps the size (but for the stride), and batch norm."""

    def __init__(self, n_in: int, n_out: int, kernel: int = 3, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(n_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.bn(self.conv(x))
        return y


class Classifier(nn.Module):
    """Average over the positions, then logits."""

    def __init__(self, n_in: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(n_in, N_CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(torch.flatten(self.pool(x), 1))
        return logits


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with a shortcut (He et al. 2016, section 3.3), projected where the shape changes."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvBN(n_in, n_out, stride=stride)
        self.relu1 = nn.ReLU()
        self.conv2 = ConvBN(n_out, n_out)
        self.shortcut = nn.Identity() if n_in == n_out and stride == 1 else ConvBN(n_in, n_out, 1, stride=stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.relu2(self.conv2(self.relu1(self.conv1(x))) + self.shortcut(x))
        return y


class ResNet8(nn.Sequential):
    """A stem and three residual stages of one block each, 16, 32 and 64 channels (as in MLPerf Tiny)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBN(1, 16)
        self.relu = nn.ReLU()
        self.stage1 = BasicBlock(16, 16, 1)
        self.stage2 = BasicBlock(16, 32, 2)
        self.stage3 = BasicBlock(32, 64, 2)
        self.classifier = Classifier(64)


class DepthwiseSeparable(nn.Sequential):
    """A 3 x 3 depthwise and a 1 x 1 convolution, each with batch norm and ReLU (Howard et al. 2017)."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.depthwise = ConvBN(n_channels, n_channels, groups=n_channels)
        self.relu1 = nn.ReLU()
        self.pointwise = ConvBN(n_channels, n_channels, 1)
        self.relu2 = nn.ReLU()


class DSCNN(nn.Sequential):
    """A strided stem and four depthwise-separable blocks of 64 channels (the small DS-CNN of Zhang et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBN(1, 64, 5, stride=2)
        self.relu = nn.ReLU()
        for index in range(1, 5):
            self.add_module(f"block{index}", DepthwiseSeparable(64))
        self.classifier = Classifier(64)


class SqueezeExcite(nn.Module):
    """Scale every channel by a gate computed from all channel means (Hu et al. 2018; hard gate of MobileNetV3)."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(n_channels, n_channels // 4, 1)
        self.relu = nn.ReLU()
        self.expand = nn.Conv2d(n_channels // 4, n_channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = x * self.gate(self.expand(self.relu(self.reduce(self.pool(x)))))
        return y


class InvertedResidual(nn.Module):
    """Expand, filter depthwise, squeeze-excite, project; a shortcut where shapes allow (Sandler et al. 2018)."""

    def __init__(self, n_in: int, n_out: int, stride: int, expansion: int = 4) -> None:
        super().__init__()
        hidden = n_in * expansion
        self.expand = ConvBN(n_in, hidden, 1)
        self.relu1 = nn.ReLU6()
        self.depthwise = ConvBN(hidden, hidden, stride=stride, groups=hidden)
        self.relu2 = nn.ReLU6()
        self.se = SqueezeExcite(hidden)
        self.project = ConvBN(hidden, n_out, 1)
        self.has_shortcut = n_in == n_out and stride == 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.project(self.se(self.relu2(self.depthwise(self.relu1(self.expand(x))))))
        return x + y if self.has_shortcut else y


class MobileNetV2SE(nn.Sequential):
    """A stem, five inverted residual blocks with squeeze-excite, and a 1 x 1 head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBN(1, 16)
        self.relu = nn.ReLU6()
        for index, (n_in, n_out, stride) in enumerate(
            ((16, 16, 1), (16, 24, 2), (24, 24, 1), (24, 32, 2), (32, 32, 1)), start=1
        ):
            self.add_module(f"block{index}", InvertedResidual(n_in, n_out, stride))
        self.head = ConvBN(32, 96, 1)
        self.relu_head = nn.ReLU6()
        self.classifier = Classifier(96)


class InceptionBlock(nn.Module):
    """Four parallel branches joined by Concat (Szegedy et al. 2015) around a shortcut, joined by Add.

    The branches start together and end together, so the file's order holds all their wide middles at once; finishing
    one branch before the next needs much less memory.
    """

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        out, wide = n_channels // 4, n_channels
        self.point = ConvBN(n_channels, out, 1)
        self.reduce3 = ConvBN(n_channels, wide, 1)
        self.relu3 = nn.ReLU()
        self.conv3 = ConvBN(wide, out)
        self.reduce5 = ConvBN(n_channels, wide // 2, 1)
        self.relu5 = nn.ReLU()
        self.conv5 = ConvBN(wide // 2, out, 5)
        self.pool = nn.MaxPool2d(3, stride=1, padding=1)
        self.pooled = ConvBN(n_channels, out, 1)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        point = self.point(x)
        pooled = self.pool(x)
        wide3 = self.relu3(self.reduce3(x))
        wide5 = self.relu5(self.reduce5(x))
        joined = torch.cat((point, self.conv3(wide3), self.conv5(wide5), self.pooled(pooled)), 1)
        y: torch.Tensor = self.relu(joined + x)
        return y


class Branchy(nn.Sequential):
    """Two inception blocks with shortcuts, the second at half the resolution and twice the width."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBN(1, 24)
        self.relu_stem = nn.ReLU()
        self.block1 = InceptionBlock(24)
        self.down = ConvBN(24, 48, stride=2)
        self.relu_down = nn.ReLU()
        self.block2 = InceptionBlock(48)
        self.classifier = Classifier(48)


@dataclass(frozen=True)
class Recipe:
    """One model of this folder. ``keeps_batchnorm``: the file has BatchNormalization nodes, else they are folded."""

    build: Callable[[], nn.Module]
    about: str
    epochs: int = 24
    keeps_batchnorm: bool = False


RECIPES: dict[str, Recipe] = {
    "resnet8_digits": Recipe(ResNet8, "residual net, three stages of 16, 32 and 64 channels"),
    "dscnn_digits": Recipe(DSCNN, "four depthwise-separable blocks of 64 channels"),
    "mbv2se_digits": Recipe(MobileNetV2SE, "inverted residuals with squeeze-excite, ReLU6 and HardSigmoid"),
    "branchy_digits": Recipe(
        Branchy, "parallel branches, Concat and Add; keeps its BatchNormalization nodes", keeps_batchnorm=True
    ),
}


README = """\
# Example models

Small CNNs for scikit-learn's handwritten digits (`--data digits`): input `image` (batch, 1, 16, 16), output `logits`
(batch, 10), opset 17. They are larger than the task needs, so there is much to prune. The architectures follow public
descriptions, named in `make.py`, which trains the weights on {n_train:,} images. `make models` makes the files
again and rewrites this page, so don't edit it.

| file | parameters | MACs | bytes | test accuracy | what it is |
|---|--:|--:|--:|--:|---|
{rows}

Accuracy: float, in onnxruntime, on {n_test} test images. Parameters and MACs: convolutions and linear layers, batch
norms folded. The metadata `mcuprune.data` of a file names its data set.
"""


def shifted(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """images: float32 (batch, channel, height, width), each moved by up to two pixels, edges repeated."""
    padded = nn.functional.pad(images, (2, 2, 2, 2), mode="replicate")
    height, width = images.shape[2:]
    offsets = torch.randint(0, 5, (len(images), 2), generator=generator).tolist()
    return torch.stack([image[:, y : y + height, x : x + width] for image, (y, x) in zip(padded, offsets, strict=True)])


def train(model: nn.Module, split: Split, *, epochs: int) -> None:
    """Fit ``model`` in place: Adam, one cycle of the learning rate, batches of 50."""
    generator = torch.Generator().manual_seed(SEED)
    x, y = torch.from_numpy(split.x), torch.from_numpy(split.y)
    batch = 50
    n_steps = epochs * (len(x) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=n_steps)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(x), generator=generator)
        for start in range(0, len(x) - batch + 1, batch):
            chosen = order[start : start + batch]
            optimizer.zero_grad()
            loss = loss_of(model(shifted(x[chosen], generator)), y[chosen])
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()


def export(model: nn.Module, path: Path, *, keeps_batchnorm: bool) -> None:
    """Write ``path`` whole or not at all, checked, with a free batch axis."""
    from torch.onnx import TrainingMode

    partial = path.with_suffix(".partial")
    try:
        with warnings.catch_warnings():
            # this exporter keeps the module names in the nodes' names; torch calls it the old one
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.onnx.export(
                model,
                (torch.zeros(1, *INPUT_SHAPE),),
                str(partial),
                dynamo=False,
                opset_version=17,
                input_names=["image"],
                output_names=["logits"],
                dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
                training=TrainingMode.PRESERVE if keeps_batchnorm else TrainingMode.EVAL,
                do_constant_folding=not keeps_batchnorm,
            )
        written = onnx.load(str(partial))
        onnx.helper.set_model_props(written, {"mcuprune.data": "digits"})
        onnx.checker.check_model(written, full_check=True)
        onnx.save(written, str(partial))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def logits_of(path: Path, x: np.ndarray) -> np.ndarray:
    """float32 (n, class) from onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": x})
    return np.asarray(logits)


def check_against_torch(model: nn.Module, path: Path, x: np.ndarray) -> None:
    """Raise where onnxruntime and torch differ by more than 1e-5 of the largest logit: at batch 1, 3 and len(x)."""
    for n in (1, 3, len(x)):
        with torch.no_grad():
            wanted = model(torch.from_numpy(x[:n])).numpy()
        difference = np.abs(logits_of(path, x[:n]) - wanted).max() / np.abs(wanted).max()
        if difference > 1e-5:
            raise RuntimeError(f"{path}: onnxruntime differs from torch by {difference:.1e} at batch {n}")


def cost(model: nn.Module) -> tuple[int, int]:
    """(parameters, MACs of one image) of the convolutions and linear layers, batch norms folded into them."""
    totals = [0, 0]

    def count(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        weight = layer.weight
        assert isinstance(weight, torch.Tensor)
        totals[0] += weight.numel() + len(weight)  # one bias for every output channel
        totals[1] += weight[0].numel() * output.numel()

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    model.eval()
    with torch.no_grad():
        model(torch.zeros(1, *INPUT_SHAPE))
    for hook in hooks:
        hook.remove()
    return totals[0], totals[1]


def accuracy(logits: np.ndarray, y: np.ndarray) -> float:
    return float((logits.argmax(axis=1) == y).mean())


def make(name: str, data: Data) -> None:
    """Train, export and check one model; one line on stdout."""
    recipe = RECIPES[name]
    started = time.monotonic()
    torch.manual_seed(SEED)
    model = recipe.build()
    train(model, data.train, epochs=recipe.epochs)
    path = HERE / f"{name}.onnx"
    export(model, path, keeps_batchnorm=recipe.keeps_batchnorm)
    check_against_torch(model, path, data.test.x)
    with torch.no_grad():
        in_torch = accuracy(model(torch.from_numpy(data.test.x)).numpy(), data.test.y)
    in_runtime = accuracy(logits_of(path, data.test.x), data.test.y)
    n_params, n_macs = cost(model)
    n_bytes, seconds = path.stat().st_size, time.monotonic() - started
    print(f"{n_params:>8} {n_macs:>9} {n_bytes:>8} {in_torch:>7.2%} {in_runtime:>7.2%} {seconds:>6.1f}  {name}")


def readme(data: Data) -> str:
    """README.md, measured on the files that lie here."""
    rows = []
    for name, recipe in RECIPES.items():
        path = HERE / f"{name}.onnx"
        if path.exists():
            n_params, n_macs = cost(recipe.build())
            measured = accuracy(logits_of(path, data.test.x), data.test.y)
            n_bytes = path.stat().st_size
            rows.append(f"| `{path.name}` | {n_params:,} | {n_macs:,} | {n_bytes:,} | {measured:.1%} | {recipe.about} |")
    return README.format(rows="\n".join(rows), n_train=len(data.train.y), n_test=len(data.test.y))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which to make (default all): {', '.join(RECIPES)}")
    parser.add_argument("--threads", type=int, default=1, help="torch threads; files are reproducible with 1 (default)")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in RECIPES]
    if unknown:
        parser.error(f"no recipe for {', '.join(unknown)}; there are {', '.join(RECIPES)}")
    torch.set_num_threads(arguments.threads)
    torch.use_deterministic_algorithms(True)
    data = load("digits", input_shape=INPUT_SHAPE, n_classes=N_CLASSES, seed=SEED)
    print(f"{'params':>8} {'MACs':>9} {'bytes':>8} {'torch':>7} {'ORT':>7} {'s':>6}  name")
    for name in arguments.names or RECIPES:
        make(name, data)
    partial = HERE / "README.md.partial"
    partial.write_text(readme(data), encoding="utf-8")
    os.replace(partial, HERE / "README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
