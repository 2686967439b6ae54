"""``mcuprune boards``: boards as budgets."""

from __future__ import annotations

from mcuprune.cli.flags import TextOrJson
from mcuprune.cli.outputs import show
from mcuprune.cli.parser import command
from mcuprune.console import YES
from mcuprune.deploy.boards import BOARDS
from mcuprune.report.boards import boards_json, boards_text


@command(TextOrJson)
def boards(flags: TextOrJson) -> int:
    """The boards that --board knows."""
    written = boards_json if flags.format == "json" else boards_text
    show(written(BOARDS.values()))
    return YES
