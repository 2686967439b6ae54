"""Who runs the runs of a sweep.

An executor takes runs and yields how each ended, in any order. It must leave the files of a run in its folder, go on with what
an interrupted one has stored there, and end everything that it has started when it is interrupted itself.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from mcuprune import console
from mcuprune.console import INTERRUPTED, NO_ANSWER
from mcuprune.immutable import immutable
from mcuprune.sweep.grid import LOG, STATE, Run
from mcuprune.train import checkpoint

#: Seconds between two looks at what runs.
_LOOK = 0.1
#: Seconds that a run has to store what it must when it is interrupted.
_GRACE = 20.0

#: The kind of error of a run whose process died, which says nothing about what was asked for; and what to do about it.
KILLED, GOES_ON = "RunKilled", "the same command with --resume goes on"

History = Sequence[Mapping[str, Any]]
#: Asked whenever a run has finished an epoch: whether it is worth going on with.
GoesOn = Callable[[Run, History], bool]


@immutable
class Ended:
    """How a run ended.

    code: its exit code. stopped: whether it was ended on purpose, as hopeless. error: kind and message, where it has no answer.
    """

    run: Run
    code: int
    stopped: bool = False
    error: tuple[str, str] | None = None


class Executor(Protocol):
    """What a sweep hands its runs to."""

    def run(self, runs: Sequence[Run], goes_on: GoesOn) -> Iterator[Ended]:
        """Run all, as many at a time as it sees fit."""


def words_of(run: Run, *, resume: bool) -> list[str]:
    """The command line of a run, for whoever starts it; its answer is JSON then."""
    resuming = ["--resume"] if resume else []
    return [sys.executable, "-m", "mcuprune", *run.words, "--format", "json", *resuming]


def error_of(code: int, answer: bytes, log: str) -> tuple[str, str] | None:
    """Kind and message of a run that ended without an answer; None for the others. code: negative, the signal that ended it.

    answer: what it wrote to stdout. log: what it said on stderr.
    """
    if code in (0, 1):
        return None
    if code < 0:
        hint = ", as by a machine that is out of memory" if -code == signal.SIGKILL else ""
        return KILLED, f"its process was killed by {_signal(-code)}{hint}; {GOES_ON}"
    with suppress(ValueError, KeyError, TypeError):
        stated = json.loads(answer)["error"]
        return str(stated["kind"]), str(stated["message"])
    last = log.strip().splitlines()[-1:] or ["it said nothing"]
    return "RunFailed", f"ended with code {code}: {last[0]}"


def _signal(number: int) -> str:
    """What a signal is called."""
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def started(words: Sequence[str], **how: Any) -> subprocess.Popen[bytes]:
    """A command that ends with this process, however that ends: else a sweep that is gone on with would do the same runs beside
    those of before, in the same files. It takes the end of its stdin for a sign.
    """
    environment = {**os.environ, console.WATCHED: "1"}
    return subprocess.Popen(words, stdin=subprocess.PIPE, env=environment, **how)


class _Process:
    """A run as a process of its own on this machine."""

    def __init__(self, run: Run) -> None:
        self.run, self.stopped = run, False
        folder = Path(run.folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._state = folder / STATE
        self._seen = 0
        self._log = folder / LOG
        with open(self._log, "ab") as log:
            self._process = started(
                words_of(run, resume=self._state.exists()),
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is passed on once, by us
            )
        self._answer = b""
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)

    def ended(self) -> Ended | None:
        """How the run ended, None while it goes on."""
        self._read()
        code = self._process.poll()
        if code is None:
            return None
        self._read()
        if self.stopped and code == INTERRUPTED:
            return Ended(self.run, code, stopped=True)
        log = self._log.read_text(encoding="utf-8", errors="replace")
        return Ended(self.run, code if code in (0, 1) else NO_ANSWER, error=error_of(code, self._answer, log))

    def _read(self) -> None:
        assert self._process.stdout is not None
        with suppress(OSError, ValueError):
            while chunk := self._process.stdout.read(1 << 16):
                self._answer += chunk

    def new_history(self) -> History | None:
        """The history, where an epoch has ended since it was last asked for."""
        try:
            changed = self._state.stat().st_mtime_ns
        except OSError:
            return None
        if changed == self._seen:
            return None
        self._seen = changed
        return checkpoint.history(self._state)

    def stop(self) -> None:
        """End the run on purpose. What it has stored stays."""
        self.stopped = True
        self.interrupt()

    def interrupt(self) -> None:
        with suppress(OSError):
            self._process.send_signal(signal.SIGINT)

    def end(self, until: float) -> None:
        """Wait until it has ended, by force from a moment on (``time.monotonic``)."""
        try:
            self._process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Processes:
    """Processes on this machine, ``jobs`` at a time."""

    def __init__(self, jobs: int | None = None) -> None:
        self._jobs = jobs or _cores()

    def run(self, runs: Sequence[Run], goes_on: GoesOn) -> Iterator[Ended]:
        """Run all. Interrupted, it interrupts the processes and waits until they have stored their state."""
        waiting, going = list(runs), list[_Process]()
        try:
            while waiting or going:
                while waiting and len(going) < self._jobs:
                    going.append(_Process(waiting.pop(0)))
                time.sleep(_LOOK)
                for process in list(going):
                    if (ended := process.ended()) is not None:
                        going.remove(process)
                        yield ended
                        continue
                    history = process.new_history()
                    if history is not None and not process.stopped and not goes_on(process.run, history):
                        process.stop()
        finally:
            for process in going:
                process.interrupt()
            until = time.monotonic() + _GRACE
            for process in going:
                process.end(until)
