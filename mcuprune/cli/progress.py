"""Training on stderr: a bar with the latest numbers on a terminal, a line an epoch anywhere else."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from typing import Any

from mcuprune import console, units
from mcuprune.costs.resources import RESOURCES
from mcuprune.train.task import Step

#: Of a terminal, in characters: a narrower one has room for the numbers alone, and numbers that are cut off say nothing.
_ROOM_FOR_A_BAR = 130


class Progress:
    """Shows the steps of a history as they come, and on a terminal what is being done before them; nothing where ``quiet``."""

    def __init__(self, *, quiet: bool, no_color: bool) -> None:
        self._quiet, self._no_color = quiet, no_color
        self._bar: Any = None
        self._tasks: dict[str, Any] = {}
        self._began: dict[str, tuple[float, float]] = {}  # phase -> when its first step was seen, and at which epoch
        self._doing: Any = None
        self._stage = ""
        self._stack = ExitStack()

    def __enter__(self) -> Progress:
        if not self._quiet and console.is_terminal(sys.stderr):
            console.remark("mcuprune ...\r")  # until what draws the bar has been imported
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            terminal = Console(stderr=True, no_color=self._no_color or None)
            what, numbers = TextColumn("{task.description}"), TextColumn("{task.fields[shown]}")
            wide = terminal.width > _ROOM_FOR_A_BAR
            columns = (what, BarColumn(), numbers, TimeElapsedColumn()) if wide else (what, numbers)
            self._bar = Progress(*columns, console=terminal)
            self._bar.start()
            self._stack.enter_context(console.listening(self._now))
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()
        if self._bar is not None:
            self._done()
            self._bar.stop()

    def _now(self, what: str) -> None:
        """Show what is being done, in place of what was."""
        if self._doing is None:
            self._doing = self._bar.add_task("", total=None, shown="")
        self._bar.update(self._doing, description=console.printable(what), shown="...")
        self._bar.refresh()  # what comes next may keep the thread that draws from its turn

    def _done(self) -> None:
        if self._doing is not None:
            self._bar.remove_task(self._doing)
            self._doing = None

    def stage(self, number: int, limit: int) -> None:
        """Begin another prune of a search: its number, and the limit of what is minimised, in base units."""
        self._tasks, self._began, self._stage = {}, {}, f"stage {number} "
        if not self._quiet and self._bar is None:
            console.say(f"stage {number}: a limit of {limit:,}")

    def show(self, step: Step) -> None:
        """Take in one step of the history."""
        if self._quiet:
            return
        costs = {
            name: units.show(step.costs[name], resource.unit) for name, resource in RESOURCES.items() if name in step.costs
        }
        left = self._left(step)
        if self._bar is not None:
            self._done()
            at = f"{step.epoch:.1f}/{step.epochs:.0f}" if step.share is None else f"{step.share:4.0%}"
            shown = " ".join([at, f"loss {step.loss:.3f}", *(f"{name} {cost}" for name, cost in costs.items())])
            if step.phase not in self._tasks:
                total = step.epochs if step.share is None else 100
                name = f"{self._stage}{step.phase:8}"
                self._tasks[step.phase] = self._bar.add_task(name, total=total, shown=shown)
            figure = "" if step.score is None else f" val {_figure(step)}"
            completed = step.epoch if step.share is None else 100 * step.share
            self._bar.update(self._tasks[step.phase], completed=completed, shown=f"{shown}{figure}{left}")
        elif step.score is not None:
            shown = "  ".join([f"loss {step.loss:6.3f}", *(f"{name} {cost:>9}" for name, cost in costs.items())])
            of = f" of {step.epochs:.0f}" if step.share is None else f", {step.share:4.0%} of the phase"
            epoch = f"epoch {step.epoch:5.1f}{of}"
            console.remark(f"{step.phase:<9} {epoch}  {shown}  val {_figure(step):>6}{left}\n")

    def _left(self, step: Step) -> str:
        """How long the phase will still take if it goes on as it has gone; empty where nothing can be said yet, or is left."""
        now = time.monotonic()
        at, end = (step.epoch, step.epochs) if step.share is None else (step.share, 1.0)
        since, first = self._began.setdefault("" if step.phase != "quantize" else step.phase, (now, at))
        if at <= first or at >= end:
            return ""
        seconds = round((now - since) / (at - first) * (end - at))
        hours, minutes = seconds // 3600, seconds // 60 % 60
        return f"  left {hours}:{minutes:02}:{seconds % 60:02}" if hours else f"  left {minutes}:{seconds % 60:02}"


def _figure(step: Step) -> str:
    """The figure on validation examples; of a classifier the share of right classes."""
    if step.accuracy is not None:
        return f"{step.accuracy:.1%}"
    return f"{step.score:.4g}"
