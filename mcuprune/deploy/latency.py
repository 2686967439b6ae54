"""Time and energy of one inference: estimates from published measurements, by runtime and core.

Coefficients, cycles for one multiply-accumulate of each class of operators, are fitted to the anchors of a runtime on a core
by least squares of relative errors. Few networks were measured on each core, too few to tell how far the next one lies from
its fit, so the range around an estimate is as wide as the farthest of all anchors, of any runtime and core, lies from its own.
Where a runtime has no anchors on a core, another's range is scaled by what is known of the two. Energy is time times the power
that a board drew in the anchors that tell it: power hardly changes within an inference.

Nothing of it was measured here. Operators without multiply-accumulates are in it only as far as they were in the anchors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations
from math import ceil, floor
from typing import Any

import numpy as np

from mcuprune.deploy.boards import Board
from mcuprune.deploy.codesize import Runtime
from mcuprune.graph.network import Network
from mcuprune.immutable import immutable
from mcuprune.operators import attributes
from mcuprune.operators.table import OPS, Conv, Dim

CLASSES = ("conv", "depthwise", "dense")
#: Multiply-accumulates of the networks of MLPerf Tiny, in the order of CLASSES.
_KWS, _IC = (2_368_000, 288_000, 768), (12_500_992, 0, 640)
_VWW, _AD = (6_690_816, 798_336, 512), (0, 0, 264_192)
#: Of the two that the paper on differentiable pruning deployed, 22.38 M and 3.342 M in all; the second is split as MobileNetV2
#: of a third of its width is.
_PAPER_VGG, _PAPER_MOBILENET = (22_380_000, 0, 0), (2_843_000, 495_000, 4_000)


@immutable
class Anchor:
    """A published measurement. macs: by class. cycles: of one inference. nanojoules: of one inference, where they are told.

    spread: between which shares of ``cycles`` it lies where it is itself a fit.
    """

    runtime: Runtime
    core: str
    board: str
    mhz: int
    macs: tuple[int, int, int]
    cycles: float
    source: str
    nanojoules: float | None = None
    spread: tuple[float, float] = (1.0, 1.0)


def _tiny(
    runtime: Runtime,
    core: str,
    board: str,
    mhz: int,
    cycles: Sequence[float],
    source: str,
    energy: Sequence[float | None] = (None,) * 4,
    spread: tuple[float, float] = (1.0, 1.0),
) -> list[Anchor]:
    """Results of MLPerf Tiny. cycles, energy: for each multiply-accumulate of kws, ic, vww and ad, energy in nanojoules."""
    return [
        Anchor(
            runtime,
            core,
            board,
            mhz,
            macs,
            each * sum(macs),
            f"{source}, {name}",
            None if joules is None else joules * sum(macs),
            spread,
        )
        for name, macs, each, joules in zip(
            ("keyword spotting", "image classification", "person detection", "anomaly detection"),
            (_KWS, _IC, _VWW, _AD),
            cycles,
            energy,
            strict=True,
        )
    ]


def _paper(board: str, mhz: int, milliseconds: tuple[float, float], millijoules: tuple[float, float]) -> list[Anchor]:
    """Table 4 of the paper: MobileNetV2 and VGG-16 in TensorFlow Lite Micro."""
    source = "Liberis and Lane, Differentiable network pruning, table 4"
    return [
        Anchor("tflm", "Cortex-M7", board, mhz, macs, ms * mhz * 1000, f"{source}, {name}", mj * 1e6)
        for name, macs, ms, mj in zip(
            ("MobileNetV2", "VGG-16"), (_PAPER_MOBILENET, _PAPER_VGG), milliseconds, millijoules, strict=True
        )
    ]


_TINY = "MLPerf Tiny v1.0 and v1.1, closed division"
ANCHORS: tuple[Anchor, ...] = (
    *_tiny(
        "tflm",
        "Cortex-M4",
        "arduino-nano-33-ble",
        64,
        (6.44, 5.55, 6.41, 5.38),
        "mcufit's fit of TensorFlow Lite Micro on an nRF52840",
        spread=(0.89, 1.20),
    ),
    *_paper("nucleo-f767zi", 216, (83.99, 324.02), (75.8, 287.5)),
    *_paper("nucleo-h743zi2", 480, (38.72, 152.22), (45.6, 169.7)),
    *_tiny(
        "cube-ai",
        "Cortex-M4",
        "nucleo-l4r5zi",
        120,
        (2.84, 2.05, 1.90, 3.12),
        f"{_TINY}, X-CUBE-AI 8.1 on an STM32L4R5",
        (1.07, 0.56, 0.75, None),
    ),
    *_tiny(
        "cube-ai",
        "Cortex-M7",
        "nucleo-h7a3zi-q",
        280,
        (1.62, 1.16, 1.11, 1.93),
        f"{_TINY}, X-CUBE-AI 8.1 on an STM32H7A3",
        (0.70, 0.49, 0.50, None),
    ),
    *_tiny(
        "cube-ai",
        "Cortex-M33",
        "nucleo-u575zi-q",
        160,
        (2.32, 1.64, 1.53, 2.94),
        f"{_TINY}, X-CUBE-AI 8.1 on an STM32U575",
        (0.38, 0.27, 0.26, None),
    ),
    *_tiny(
        "microtvm",
        "Cortex-M4",
        "nucleo-l4r5zi",
        120,
        (4.51, 3.74, 4.82, 3.91),
        f"{_TINY}, microTVM with CMSIS-NN on an STM32L4R5",
        (2.1, 1.4, 2.2, None),
    ),
    *_tiny(
        "microtvm",
        "Cortex-M33",
        "nrf5340-dk",
        128,
        (3.69, 3.25, 3.99, 3.05),
        f"{_TINY}, microTVM with CMSIS-NN on an nRF5340",
    ),
)


@immutable
class _Scaled:
    """A runtime on a core, as far as it is known from another: its range times what lies between two factors."""

    runtime: Runtime
    core: str
    low: float
    high: float
    source: str


_REFERENCE = (
    "3.35 to 5.59 times the instructions of CMSIS-NN for the networks of MLPerf Tiny on an emulated Cortex-M4; "
    "467 against 43 ms in TinyEngine's comparison on an STM32H743"
)
_OWN = "0.69 to 1.10 times the instructions of TensorFlow Lite Micro with CMSIS-NN for six networks on an emulated Cortex-M4"
_M33 = "0.78 to 0.94 times the cycles of a Cortex-M4, as X-CUBE-AI and microTVM take for the networks of MLPerf Tiny"
#: What stands in where a runtime has no anchors on a core.
SCALED: Mapping[tuple[Runtime, str], _Scaled] = {
    ("tflm", "Cortex-M33"): _Scaled("tflm", "Cortex-M4", 0.78, 0.94, _M33),
    **{
        ("tflm-ref", core): _Scaled("tflm", core, 3.35, 467 / 43, _REFERENCE)
        for core in ("Cortex-M4", "Cortex-M7", "Cortex-M33")
    },
    **{("c", core): _Scaled("tflm", core, 0.69, 1.10, _OWN) for core in ("Cortex-M4", "Cortex-M7", "Cortex-M33")},
}


@immutable
class Range:
    """An estimate, not a measurement: ``likely``, and between ``low`` and ``high``, for the reasons in ``sources``.

    error: how far the farther end lies from ``likely``, as a share of it.
    """

    low: float
    high: float
    sources: tuple[str, ...]
    likely: float = 0.0

    @property
    def error(self) -> float:
        """How far the farther end lies from ``likely``, as a share of it."""
        return max(self.high / self.likely - 1, 1 - self.low / self.likely) if self.likely else 0.0

    def times(self, low: float, high: float, likely: float) -> Range:
        """The range with each of its ends scaled."""
        return Range(self.low * low, self.high * high, self.sources, self.likely * likely)


@immutable
class Coefficients:
    """Cycles for one multiply-accumulate of each of CLASSES; None for one that no anchor has any of.

    low, high: the range around an estimate, as shares of it.
    """

    cycles: tuple[float | None, ...]
    low: float
    high: float
    sources: tuple[str, ...]

    def cover(self, macs: Mapping[str, int]) -> bool:
        """Whether there is a coefficient for every class that a network has."""
        return all(cycles is not None for name, cycles in zip(CLASSES, self.cycles, strict=True) if macs.get(name))

    def of(self, macs: Mapping[str, int]) -> Range:
        """Cycles of one inference."""
        likely = sum((cycles or 0.0) * macs.get(name, 0) for name, cycles in zip(CLASSES, self.cycles, strict=True))
        return Range(likely * self.low, likely * self.high, self.sources, likely)


@cache
def coefficients(runtime: Runtime, core: str) -> Coefficients | None:
    """The fit to the anchors of a runtime on a core, or what stands in for it; None where nothing is known."""
    anchors = [anchor for anchor in ANCHORS if (anchor.runtime, anchor.core) == (runtime, core)]
    if anchors:
        low, high = _spread()
        return replace(_fitted(anchors), low=low, high=high)
    scaled = SCALED.get((runtime, core))
    base = coefficients(scaled.runtime, scaled.core) if scaled else None
    if scaled is None or base is None:
        return None
    middle = float(np.sqrt(scaled.low * scaled.high))
    cycles = tuple(None if each is None else each * middle for each in base.cycles)
    low, high = base.low * scaled.low / middle, base.high * scaled.high / middle
    return Coefficients(cycles, low, high, (scaled.source, *base.sources))


@cache
def _spread() -> tuple[float, float]:
    """Between which shares of its fit every anchor lies."""
    keys = {(anchor.runtime, anchor.core) for anchor in ANCHORS}
    fits = [_fitted([a for a in ANCHORS if (a.runtime, a.core) == key]) for key in keys]
    return min(fit.low for fit in fits), max(fit.high for fit in fits)


def _fitted(anchors: Sequence[Anchor]) -> Coefficients:
    """Least squares of relative errors, no coefficient below 0."""
    macs = np.array([anchor.macs for anchor in anchors], dtype=float)
    cycles = np.array([anchor.cycles for anchor in anchors])
    shares = macs / cycles[:, None]
    # a class that makes up less than a hundredth of every anchor tells nothing of its coefficient: it counts as a convolution
    told = [i for i in range(len(CLASSES)) if (macs[:, i] / macs.sum(axis=1)).max() >= 0.01]
    best, error = np.zeros(len(CLASSES)), np.inf
    for size in range(1, len(told) + 1):
        for chosen in combinations(told, size):
            columns = list(chosen)
            solved = np.linalg.lstsq(shares[:, columns], np.ones(len(anchors)), rcond=None)[0]
            off = float(((shares[:, columns] @ solved - 1) ** 2).sum())
            if (solved >= 0).all() and off < error:
                best, error = np.zeros(len(CLASSES)), off
                best[columns] = solved
    for index in range(len(CLASSES)):
        if index not in told:
            best[index] = best[0]
    ratios = cycles / (macs @ best)
    low = min(float(ratio) * anchor.spread[0] for ratio, anchor in zip(ratios, anchors, strict=True))
    high = max(float(ratio) * anchor.spread[1] for ratio, anchor in zip(ratios, anchors, strict=True))
    low, high = floor(min(low, 1.0) * 100) / 100, ceil(max(high, 1.0) * 100) / 100  # two digits, outwards
    return Coefficients(tuple(map(float, best)), low, high, tuple(anchor.source for anchor in anchors))


def macs_by_class(net: Network, dim: Dim | None = None) -> dict[str, Any]:
    """Multiply-accumulates by CLASSES: convolutions (pointwise included), depthwise convolutions and matrix products.

    dim: sizes of axes, integers by default; with functions of widths the counts are functions of them.
    """
    totals: dict[str, Any] = dict.fromkeys(CLASSES, 0)
    for node in net.nodes:
        macs = OPS[node.op].macs(node, net, dim or (lambda tensor, axis: net.shapes[tensor][axis]))
        if isinstance(macs, int) and not macs:
            continue
        if isinstance(OPS[node.op], Conv):
            kind = "depthwise" if attributes.is_depthwise(node, net) else "conv"
            totals[kind] = totals[kind] + macs
        else:
            totals["dense"] = totals["dense"] + macs
    return totals


def latency(macs: Mapping[str, int], on: Board, runtime: Runtime = "tflm") -> Range | None:
    """Milliseconds of one inference, from multiply-accumulates by class; None where there is no data for this core."""
    speed = coefficients(runtime, on.core)
    if speed is None or not speed.cover(macs):
        return None
    each = 1 / (on.mhz * 1000)
    return speed.of(macs).times(each, each, each)


def power(on: Board) -> tuple[float, float, tuple[str, ...]] | None:
    """The least and the most milliwatts that a board drew in the anchors that tell it, and these; None for none."""
    told = [a for a in ANCHORS if a.board == on.name and a.nanojoules is not None]
    drawn = [(a.nanojoules or 0.0) * a.mhz / a.cycles for a in told]
    return (min(drawn), max(drawn), tuple(a.source for a in told)) if drawn else None


def energy(macs: Mapping[str, int], on: Board, runtime: Runtime = "tflm") -> Range | None:
    """Microjoules of one inference: time times power; None for a board that has no data."""
    time, drawn = latency(macs, on, runtime), power(on)
    if time is None or drawn is None:
        return None
    drawn_energy = time.times(drawn[0], drawn[1], (drawn[0] + drawn[1]) / 2)
    return replace(drawn_energy, sources=(*drawn[2], *time.sources))
