"""What a network takes on real devices: the arena of TensorFlow Lite Micro, boards, ranges of latency and energy.

The arena is that of the program which the network becomes (``deploy``) with CMSIS-NN on a 32-bit core with DSP instructions
(Cortex-M4, M7, M33): the head, activations and kernel scratch, as the runtime's planner lays it out; the tail, what lives as
long as the interpreter, as an upper bound. The planner may leave gaps: up to a third over the peak of the same schedule.

Nothing was measured on silicon: heads are checked against the TFLM interpreter, totals against Cortex-M4 code in an
emulator. Latency and energy are ranges over published measurements of several software stacks, never a single number, and
None where there are no measurements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fractions import Fraction

from mcuprune.deploy.lower import lower
from mcuprune.deploy.planner import Lifetime, aligned, greedy_layout, overlaps
from mcuprune.deploy.program import Arena, Program
from mcuprune.errors import UsageError
from mcuprune.graph.network import Network
from mcuprune.operators.table import OPS, Conv
from mcuprune.units import Limit

__all__ = [
    "BOARDS",
    "CYCLES_PER_MAC",
    "ENERGY_PER_MAC",
    "Arena",
    "Board",
    "Lifetime",
    "Program",
    "Range",
    "aligned",
    "arena_tflm",
    "board",
    "board_budget",
    "energy",
    "greedy_layout",
    "latency",
    "macs_by_class",
    "overlaps",
    "program",
]

#: The program that a network becomes, and what lays it out (``deploy``).
program = lower


def arena_tflm(net: Network, *, order: Sequence[str] | None = None, offline: bool = False) -> Arena:
    """The arena that TFLM with CMSIS-NN needs on a 32-bit core, without or with an offline memory plan in the file."""
    return lower(net, order=order).arena(offline=offline)


# ---------------------------------------------------------------------------------------------------------------- boards

_KB = 1024


@dataclass(frozen=True)
class Board:
    """A development board. Memory in bytes.

    sram: all of it. block: the largest block that one arena can lie in, less what the board's usual firmware keeps.
    flash: external where ``note`` says so. source: where the row comes from.
    verified: whether somebody read the row in that source; other rows have parts written from memory, to be checked
        against the data sheet.
    """

    name: str
    chip: str
    core: str
    mhz: int
    sram: int
    block: int
    flash: int
    source: str
    verified: bool
    note: str = ""


_MCUFIT, _MLPERF, _MANUAL = "mcufit board table", "MLPerf Tiny v1.1 system description", "ST reference manual"


def _board(
    name: str, chip: str, core: str, mhz: int, memory: tuple[int, int, int], source: str, verified: bool, note: str = ""
) -> Board:
    """A row of the table; memory: SRAM, its largest block and flash in KB."""
    sram, block, flash = (size * _KB for size in memory)
    return Board(name, chip, core, mhz, sram, block, flash, source, verified, note)


BOARDS: Mapping[str, Board] = {
    row.name: row
    for row in (
        _board("arduino-nano-33-ble", "nRF52840", "Cortex-M4", 64, (256, 208, 1024), _MCUFIT, True, "Bluetooth keeps 48 KB"),
        _board("blackpill-f411ce", "STM32F411CE", "Cortex-M4", 100, (128, 128, 512), _MCUFIT, True),
        _board(
            "disco-f746ng",
            "STM32F746NG",
            "Cortex-M7",
            216,
            (320, 240, 1024),
            f"{_MCUFIT}; {_MLPERF}; blocks from memory",
            False,
        ),
        _board(
            "esp32-s3", "ESP32-S3", "Xtensa LX7", 240, (512, 362, 8192), _MCUFIT, True, "firmware keeps 150 KB; external flash"
        ),
        _board("nrf5340-dk", "nRF5340", "Cortex-M33", 128, (512, 512, 1024), f"{_MLPERF}; memory sizes from memory", False),
        _board(
            "nucleo-f446re", "STM32F446RE", "Cortex-M4", 180, (128, 112, 512), f"{_MANUAL}; clock and flash from memory", False
        ),
        _board("nucleo-f767zi", "STM32F767ZI", "Cortex-M7", 216, (512, 368, 2048), _MANUAL, True, "128 KB of it are DTCM"),
        _board(
            "nucleo-g0b1re", "STM32G0B1RE", "Cortex-M0+", 64, (144, 144, 512), f"{_MLPERF}; memory sizes from memory", False
        ),
        _board("nucleo-h743zi2", "STM32H743ZI", "Cortex-M7", 480, (1024, 512, 2048), _MCUFIT, True),
        _board(
            "nucleo-h7a3zi-q",
            "STM32H7A3ZI",
            "Cortex-M7",
            280,
            (1376, 1024, 2048),
            f"{_MLPERF}; memory sizes from memory",
            False,
        ),
        _board(
            "nucleo-l4r5zi", "STM32L4R5ZI", "Cortex-M4", 120, (640, 384, 2048), f"{_MLPERF}; memory sizes from memory", False
        ),
        _board(
            "nucleo-u575zi-q", "STM32U575ZI", "Cortex-M33", 160, (786, 512, 2048), f"{_MLPERF}; memory sizes from memory", False
        ),
        _board("raspberry-pi-pico", "RP2040", "Cortex-M0+", 133, (264, 256, 2048), _MCUFIT, True, "external flash"),
        _board("raspberry-pi-pico-2", "RP2350", "Cortex-M33", 150, (520, 512, 4096), _MCUFIT, True, "external flash"),
        _board("teensy-4.1", "i.MX RT1062", "Cortex-M7", 600, (1024, 512, 7936), _MCUFIT, True, "external flash"),
    )
}


def board(name: str) -> Board:
    """The board of that name, in any case. Raises UsageError that lists the nearest names."""
    found = BOARDS.get(name.lower())
    if found is None:
        part = [known for known in BOARDS if name.lower() in known]
        near = part or get_close_matches(name.lower(), BOARDS, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"mcuprune knows {', '.join(BOARDS)}"
        raise UsageError(f"no board '{name}'; {hint}")
    return found


def board_budget(name: str) -> dict[str, Limit]:
    """The limits that a board sets: its largest block of SRAM, for the arena, and its flash; program code isn't deducted."""
    found = board(name)
    return {"sram": Limit(Fraction(found.block), relative=False), "flash": Limit(Fraction(found.flash), relative=False)}


# ----------------------------------------------------------------------------------------------------- latency and energy


@dataclass(frozen=True)
class Range:
    """An estimate, not a measurement: between ``low`` and ``high``, for the reasons in ``sources``."""

    low: float
    high: float
    sources: tuple[str, ...]


def _range(low: float, high: float, source: str) -> Range:
    return Range(low, high, (source,))


_TINY = "MLPerf Tiny v1.0 and v1.1, closed division"
_M4_CYCLES = {
    "conv": _range(
        1.4,
        5.6,
        f"{_TINY}, image classification: Plumerai 1.61, X-CUBE-AI 2.05, microTVM with CMSIS-NN 3.74 on an STM32L4R5, "
        "TFLM 5.55 on an nRF52840 (mcufit); low: person detection, 1.53 to 1.58 with its depthwise layers",
    ),
    "depthwise": _range(
        2.0, 16.0, "high: mcufit's fit of an nRF52840 (15.9); low: what whole MobileNets leave for their depthwise layers"
    ),
    "dense": _range(
        1.8,
        5.4,
        f"{_TINY}, anomaly detection: Plumerai 1.84, X-CUBE-AI 3.12, microTVM with CMSIS-NN 3.91 on an STM32L4R5, "
        "TFLM 5.38 on an nRF52840 (mcufit)",
    ),
}
_M33 = f"{_TINY}: whole models 1.53 to 3.99 on an STM32U575 and an nRF5340; spread between stacks as on Cortex-M4"

#: Core -> operator class -> cycles for one multiply-accumulate. A core that isn't here has no data.
CYCLES_PER_MAC: Mapping[str, Mapping[str, Range]] = {
    "Cortex-M4": _M4_CYCLES,
    "Cortex-M33": {name: _range(found.low, found.high, _M33) for name, found in _M4_CYCLES.items()},
    "Cortex-M7": {
        "conv": _range(
            0.9,
            2.0,
            f"{_TINY}: image classification 1.06 to 1.16 (Plumerai, Bosch, X-CUBE-AI), person detection 0.98 to 1.65; "
            "CMSIS-NN takes 1.5 times X-CUBE-AI in TinyEngine's comparison",
        ),
        "depthwise": _range(
            0.9, 9.0, f"derived from {_TINY}, keyword spotting 1.44 to 1.62 less its other layers, times 1.5 for CMSIS-NN"
        ),
        "dense": _range(1.3, 2.9, f"{_TINY}, anomaly detection: 1.39 to 1.93, times 1.5 for CMSIS-NN"),
    },
    "Cortex-M0+": {
        "conv": _range(8.5, 16.5, f"{_TINY}: whole models 8.55 to 16.4 (Bosch HALE on an STM32G0B1)"),
        "depthwise": _range(8.5, 81.0, f"derived from {_TINY}, keyword spotting 16.4 less its other layers at 8.55"),
        "dense": _range(8.5, 16.5, f"{_TINY}: whole models 8.55 to 16.4 (Bosch HALE on an STM32G0B1)"),
    },
}

#: Board -> nanojoules for one multiply-accumulate of a whole inference. A board that isn't here has no data.
ENERGY_PER_MAC: Mapping[str, Range] = {
    "nucleo-l4r5zi": _range(0.56, 2.2, f"{_TINY}: 0.56 to 1.07 (X-CUBE-AI), 1.4 to 2.2 (microTVM, other supply voltage)"),
    "nucleo-h7a3zi-q": _range(0.49, 0.70, f"{_TINY}: X-CUBE-AI"),
    "nucleo-u575zi-q": _range(0.26, 0.38, f"{_TINY}: X-CUBE-AI"),
}


def macs_by_class(net: Network) -> dict[str, int]:
    """Multiply-accumulates of convolutions (pointwise included), depthwise convolutions and matrix products."""
    totals = {"conv": 0, "depthwise": 0, "dense": 0}
    for node in net.nodes:
        macs = int(OPS[node.op].macs(node, net, lambda tensor, axis: net.shapes[tensor][axis]))
        if macs and isinstance(OPS[node.op], Conv):
            group = node.attrs.get("group", 1)
            totals["depthwise" if group == net.shapes[node.inputs[0]][1] and group > 1 else "conv"] += macs
        elif macs:
            totals["dense"] += macs
    return totals


def latency(macs: Mapping[str, int], on: Board) -> Range | None:
    """Milliseconds of one inference, from multiply-accumulates by class; None where a class has no data for this core.

    It covers int8 kernels of good software stacks, which differ up to threefold on one chip; TFLM without CMSIS-NN is
    four to eleven times slower. Operators without multiply-accumulates are only in it as far as they were in what was measured.
    """
    cycles = CYCLES_PER_MAC.get(on.core)
    used = [name for name, count in macs.items() if count]
    if cycles is None or any(name not in cycles for name in used):
        return None
    scale = on.mhz * 1000
    return Range(
        sum(macs[name] * cycles[name].low for name in used) / scale,
        sum(macs[name] * cycles[name].high for name in used) / scale,
        tuple(dict.fromkeys(source for name in used for source in cycles[name].sources)),
    )


def energy(macs: Mapping[str, int], on: Board) -> Range | None:
    """Microjoules of one inference; None for a board that has no data."""
    each = ENERGY_PER_MAC.get(on.name)
    total = sum(macs.values())
    return None if each is None else Range(total * each.low / 1000, total * each.high / 1000, each.sources)
