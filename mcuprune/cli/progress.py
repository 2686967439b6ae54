"""Training on stderr: a bar with the latest numbers on a terminal, a line an epoch anywhere else."""

from __future__ import annotations

import sys
from typing import Any

from mcuprune import console, units
from mcuprune.costs.resources import RESOURCES
from mcuprune.train.task import Step

#: Of a terminal, in characters: a narrower one has room for the numbers alone, and numbers that are cut off say nothing.
_ROOM_FOR_A_BAR = 130


class Progress:
    """Shows the steps of a history as they come; nothing where ``quiet``."""

    def __init__(self, *, quiet: bool, no_color: bool) -> None:
        self._quiet, self._no_color = quiet, no_color
        self._bar: Any = None
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Progress:
        if not self._quiet and console.is_terminal(sys.stderr):
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            terminal = Console(stderr=True, no_color=self._no_color or None)
            what, numbers = TextColumn("{task.description:8}"), TextColumn("{task.fields[shown]}")
            epoch = TextColumn("{task.completed:.1f}/{task.total:.0f}")
            wide = terminal.width > _ROOM_FOR_A_BAR
            columns = (what, BarColumn(), epoch, numbers, TimeElapsedColumn()) if wide else (what, epoch, numbers)
            self._bar = Progress(*columns, console=terminal)
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, step: Step) -> None:
        """Take in one step of the history."""
        if self._quiet:
            return
        costs = {
            name: units.show(step.costs[name], resource.unit) for name, resource in RESOURCES.items() if name in step.costs
        }
        if self._bar is not None:
            shown = " ".join([f"loss {step.loss:.3f}", *(f"{name} {cost}" for name, cost in costs.items())])
            if step.phase not in self._tasks:
                total = step.epochs if step.share is None else 100
                self._tasks[step.phase] = self._bar.add_task(step.phase, total=total, shown=shown)
            accuracy = "" if step.accuracy is None else f" val {step.accuracy:.1%}"
            completed = step.epoch if step.share is None else 100 * step.share
            self._bar.update(self._tasks[step.phase], completed=completed, shown=shown + accuracy)
        elif step.accuracy is not None:
            shown = "  ".join([f"loss {step.loss:6.3f}", *(f"{name} {cost:>9}" for name, cost in costs.items())])
            of = f" of {step.epochs:.0f}" if step.share is None else f", {step.share:4.0%} of the phase"
            epoch = f"epoch {step.epoch:5.1f}{of}"
            console.remark(f"{step.phase:<9} {epoch}  {shown}  val {step.accuracy:6.1%}\n")
