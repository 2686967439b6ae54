"""Training on stderr: a line an epoch, which is also the log; on a terminal a live display below the lines.

The display has what is being done, a bar for each limit that falls to its mark, loss, figure and the time that is left. Where
nobody watches, in a pipe or on a CI server, the lines are all there is.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

from mcuprune import console, units
from mcuprune.costs.resources import RESOURCES, Budget
from mcuprune.train.task import Step

#: Of a terminal, in characters: a narrower one has room for the numbers alone, and numbers that are cut off say nothing.
_ROOM_FOR_A_BAR = 130
#: Of a bar of the budget, in characters.
_BAR = 40
#: How often the display is drawn, a second: each time takes milliseconds from the training.
_PER_SECOND = 2


class Progress:
    """Shows the steps of a history as they come, and on a terminal what is being done before them; nothing where ``quiet``."""

    def __init__(self, *, quiet: bool, no_color: bool | None) -> None:
        self._quiet, self._no_color = quiet, no_color
        self._stream = sys.stderr  # while the display is there, rich has a file of its own in that place, without an encoding
        self._bar: Any = None
        self._tasks: dict[str, Any] = {}
        self._began: dict[str, tuple[float, float]] = {}  # phase -> when its first step was seen, and at which epoch
        self._doing: Any = None
        self._stage = ""
        self._limits: Mapping[str, int] = {}
        self._own: Mapping[str, int] = {}
        self._used: Mapping[str, int] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Progress:
        if not self._quiet and console.is_terminal(sys.stderr) and not os.environ.get("CI"):
            console.remark("mcuprune ...\r")  # until what draws the bar has been imported
            self._bar = self._display()
            self._bar.start()
            self._stack.enter_context(console.listening(self._now))
        return self

    def _display(self) -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.text import Text

        terminal = Console(stderr=True, no_color=self._no_color)
        what, numbers = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[shown]}", markup=False)
        columns = (what, BarColumn(), numbers, TimeElapsedColumn()) if terminal.width > _ROOM_FOR_A_BAR else (what, numbers)
        budget = self.budget

        class Display(Progress):
            def get_renderables(self) -> Iterator[Any]:
                yield from super().get_renderables()
                yield from (Text(line, no_wrap=True, overflow="ellipsis") for line in budget())

        return Display(*columns, console=terminal, refresh_per_second=_PER_SECOND)

    def __exit__(self, *exception: object) -> None:
        self._stack.close()
        if self._bar is not None:
            self._done()
            self._bar.stop()

    def budget(self) -> list[str]:
        """A line for each limit: a bar of what is used, with a mark where the limit is, both as shares of the network's own."""
        full, mark, rest = ("█", "│", "·") if console.can_encode(self._stream, "█│·") else ("#", "|", ".")
        lines = []
        for name, limit in self._limits.items():
            if (used := self._used.get(name)) is None:
                continue
            scale = max(1, limit, used, self._own.get(name, 0))
            cells = [full if index < round(_BAR * used / scale) else rest for index in range(_BAR)]
            cells[min(_BAR - 1, round(_BAR * limit / scale))] = mark
            unit = RESOURCES[name].unit
            state = "holds" if used <= limit else "over"
            said = f"{units.show(used, unit)} of {units.show(limit, unit)}"
            lines.append(f"{name:<8} {''.join(cells)} {said}, {state}")
        return lines

    def _now(self, what: str) -> None:
        """Show what is being done, in place of what was."""
        if self._doing is None:
            self._doing = self._bar.add_task("", total=None, shown="")
        self._bar.update(self._doing, description=console.printable(what), shown="...")
        self._bar.refresh()  # at once: the work that follows may not let the drawing thread run

    def _done(self) -> None:
        if self._doing is not None:
            self._bar.remove_task(self._doing)
            self._doing = None

    def start(self, budget: Budget, used: Mapping[str, int]) -> None:
        """Take in what is to be held, and what the network as it came uses."""
        self._limits, self._own, self._used = budget.limits, used, used

    def stage(self, number: int, limit: int) -> None:
        """Begin another prune of a search: its number, and the limit of what is minimised, in base units."""
        self._tasks, self._began, self._stage = {}, {}, f"stage {number} "
        if not self._quiet:
            self._say(f"mcuprune: stage {number}: a limit of {limit:,}")

    def show(self, step: Step) -> None:
        """Take in one step of the history."""
        if self._quiet:
            return
        self._used = step.costs
        left = self._left(step)
        if self._bar is not None:
            self._done()
            self._move(step, left)
        if step.score is not None:
            self._say(_line(step, left))

    def _move(self, step: Step, left: str) -> None:
        """Bring the display to this step."""
        at = f"{step.epoch:.1f}/{step.epochs:.0f}" if step.share is None else f"{step.share:4.0%}"
        figure = "" if step.score is None else f" val {_figure(step)}"
        shown = f"{at} loss {step.loss:.3f}{figure}{left}"
        if step.phase not in self._tasks:
            total = step.epochs if step.share is None else 100
            self._tasks[step.phase] = self._bar.add_task(f"{self._stage}{step.phase:8}", total=total, shown=shown)
        self._bar.update(self._tasks[step.phase], completed=step.epoch if step.share is None else 100 * step.share, shown=shown)

    def _say(self, line: str) -> None:
        """A line of the log: above the display, where there is one."""
        if self._bar is None:
            console.remark(f"{line}\n")
        else:
            self._bar.console.print(console.encodable(line, self._stream), markup=False, highlight=False, soft_wrap=True)

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


def _line(step: Step, left: str) -> str:
    """One line of the log."""
    costs = {name: units.show(step.costs[name], resource.unit) for name, resource in RESOURCES.items() if name in step.costs}
    shown = "  ".join([f"loss {step.loss:6.3f}", *(f"{name} {cost:>9}" for name, cost in costs.items())])
    of = f" of {step.epochs:.0f}" if step.share is None else f", {step.share:4.0%} of the phase"
    return f"{step.phase:<9} epoch {step.epoch:5.1f}{of}  {shown}  val {_figure(step):>6}{left}"


def _figure(step: Step) -> str:
    """The figure on validation examples; of a classifier the share of right classes."""
    if step.accuracy is not None:
        return f"{step.accuracy:.1%}"
    return f"{step.score:.4g}"
