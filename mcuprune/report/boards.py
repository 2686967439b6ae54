"""The table of boards."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

from mcuprune import console
from mcuprune.deploy.boards import Board
from mcuprune.report.documents import dumped
from mcuprune.report.tables import align
from mcuprune.report.wording import kib


def boards_text(boards: Iterable[Board]) -> str:
    """The boards as a table for people, and what their limits mean."""
    rows = [["board", "chip", "core", "MHz", "SRAM", "largest block", "flash", "note", "source"]]
    for board in boards:
        source = board.source if board.verified else f"{board.source} (unverified)"
        sizes = [kib(size) for size in (board.sram, board.block, board.flash)]
        rows.append([board.name, board.chip, board.core, str(board.mhz), *sizes, board.note, source])
    lines = align(rows, ["<", "<", "<", ">", ">", ">", ">", "<", "<"])
    gate = "--board limits the arena of the runtime to the largest block of SRAM, and the image, file and code, to the flash."
    return "\n".join([*lines, "", gate]) + "\n"


def boards_json(boards: Iterable[Board]) -> str:
    """Sizes in bytes, clocks in megahertz."""
    rows = [asdict(board) for board in boards]
    return dumped(console.document("boards", ok=True, boards=rows))
