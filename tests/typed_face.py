"""The public face as a type checker sees it: ``make types`` checks this file beside the package.

Under ``strict`` an ignored error that doesn't exist is an error too, so the lines with one prove that wrong uses are found.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

import mcuprune


class MyData:
    """A data set of the user's own."""

    def __init__(self) -> None:
        self.x_train = self.x_test = np.zeros((20, 1, 16, 16), np.float32)
        self.y_train = self.y_test = np.arange(20) % 10


class Log(mcuprune.Callback):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_epoch(self, step: mcuprune.Step) -> None:
        self.losses.append(step.loss)


def use(path: str) -> tuple[int, float | None]:
    """All of the face."""
    net: mcuprune.Network = mcuprune.load(path, input_shapes={"x": [1, 3, 32, 32]}, outputs=["y"])
    cost: mcuprune.Profile = mcuprune.profile(net)
    sizes: list[int] = [cost.sram, cost.flash, cost.macs, cost.params, cost.arena]
    verdict: mcuprune.Verdict = mcuprune.check(net, mcuprune.Budget(sram="64KB", macs=10_000_000), sram_model="tflm")
    excess: Mapping[str, int] = verdict.excess
    removable: list[str] = [group.name for group in mcuprune.groups(path).removable]
    images = np.zeros((20, 1, 16, 16), np.float32)
    arrays = mcuprune.Arrays(x_train=images, y_train=[0] * 20, x_test=images, y_test=[0] * 20)
    budget = mcuprune.Budget(board="nucleo-f767zi", macs="50%")
    for data in ("digits", arrays, MyData()):
        result: mcuprune.Result = mcuprune.prune(net, budget, data=data, callbacks=[Log(), print], epochs=1)
    in_bands = mcuprune.prune(path, budget={"sram": "64KB"}, bands=2, output=Path("o.onnx"), train=False, keep=["a*"]).network
    written = mcuprune.export(result.network, "net.tflite", data="digits", scale="0-1", classes=Path("names.txt"))
    verified: bool = mcuprune.verify(written).ok
    return sum(sizes) + len(excess) + len(removable) + len(in_bands.nodes) + verified, result.accuracy_int8


def misuse(net: mcuprune.Network) -> None:
    """Mistakes that a type checker finds."""
    mcuprune.profile(3)  # type: ignore[arg-type]
    mcuprune.check(net, "64KB")  # type: ignore[arg-type]
    mcuprune.check(net, {"sram": "64KB"}, sram_model="stack")  # type: ignore[arg-type]
    mcuprune.Budget(sram=0.5)  # type: ignore[arg-type]
    mcuprune.prune(net, {"sram": "64KB"}, epoch=3)  # type: ignore[call-arg]
    mcuprune.prune(net, {"sram": "64KB"}, epochs="3")  # type: ignore[arg-type]
    mcuprune.prune(net, {"sram": "64KB"}, keep=3)  # type: ignore[arg-type]
    mcuprune.prune(net, {"sram": "64KB"}, configuration="mcuprune.toml")  # type: ignore[call-arg]
    mcuprune.prune(net)  # type: ignore[call-arg]
    mcuprune.export(net)  # type: ignore[call-arg]
    mcuprune.nothing  # type: ignore[attr-defined]  # noqa: B018
