"""Boards as budgets: how much memory each has, and who says so. How fast it is: ``latency``."""

from __future__ import annotations

from difflib import get_close_matches
from fractions import Fraction

from mcuprune.errors import UsageError
from mcuprune.immutable import immutable
from mcuprune.units import Limit

_KB = 1024


@immutable
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


#: The boards by name; a new one is a row.
BOARDS: dict[str, Board] = {
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
    """The board of that name, in any case. Raises UsageError that lists the nearest names, and for an empty one."""
    if not name.strip():
        raise UsageError("the name of the board is empty; `mcuprune boards` lists those that there are")
    known = BOARDS.get(name.lower())
    if known is None:
        part = [known for known in BOARDS if name.lower() in known]
        near = part or get_close_matches(name.lower(), BOARDS, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"mcuprune knows {', '.join(BOARDS)}"
        raise UsageError(f"no board '{name}'; {hint}")
    return known


def board_budget(name: str) -> dict[str, Limit]:
    """The limits that a board sets: its largest block of SRAM, for the arena, and its flash, for the image: file and code."""
    on = board(name)
    return {"sram": Limit(Fraction(on.block), relative=False), "flash": Limit(Fraction(on.flash), relative=False)}
