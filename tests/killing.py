"""Ending a worker of a cluster of Ray by force, as losing its machine would. Linux only: it reads /proc."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def kill_a_worker(of: int, *, sparing: set[int]) -> set[int]:
    """Kill one process of Ray that is at work on a run and descends from process ``of``, but none of some; its number.

    Other clusters on the machine are left alone.
    """
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in sparing:
            try:
                title = (entry / "cmdline").read_bytes()
                if title.startswith(b"ray::_on_worker") and _descends(int(entry.name), of):
                    os.kill(int(entry.name), signal.SIGKILL)
                    return {int(entry.name)}
            except OSError:  # it has just ended
                continue
    return set()


def _descends(process: int, of: int) -> bool:
    while process > 1:
        if process == of:
            return True
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return False
