"""A sweep on a cluster of Ray: one on this machine, or one that is there.

Nothing is shared but what Ray carries. The model and the data go as bytes, each content once, and are laid out for a run in a
folder of its own under the names that its command line has; so the same command gives the same files as on this machine. A run
sends its state home after every epoch, to an actor that lives where the sweep was started: if a worker dies, Ray runs the task
again, elsewhere perhaps, and it goes on from there.
"""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from mcuprune import places
from mcuprune.console import INTERRUPTED, NO_ANSWER
from mcuprune.errors import MissingExtra, UsageError
from mcuprune.sweep.executors import GOES_ON, KILLED, Ended, GoesOn, error_of, words_of
from mcuprune.sweep.grid import LOG, STATE, Run
from mcuprune.train import checkpoint

#: Times that a run is begun again after its worker died.
_RETRIES = 5
#: Seconds between two looks of a worker at its run, which cost next to nothing.
_LOOK = 0.2
#: Seconds between two questions over the cluster, where several processes wake up for each.
_ASK = 1.0


class Cluster:
    """Tasks of Ray, one core each. inputs: files that a run reads, as its command line names them.

    address: of a cluster that is there ("auto": the one that this machine is part of); None starts one here, for this sweep.
    Raises MissingExtra where Ray isn't installed, and UsageError, on ``run``, for a cluster that isn't there.
    """

    def __init__(self, inputs: Sequence[str], *, address: str | None = None, jobs: int | None = None) -> None:
        try:
            import ray
        except ImportError:
            raise MissingExtra("--executor ray needs ray, which isn't installed; pip install 'mcuprune[ray]'") from None
        self._ray, self._inputs, self._address, self._jobs = ray, inputs, address, jobs

    def run(self, runs: Sequence[Run], goes_on: GoesOn) -> Iterator[Ended]:
        """Run all. Interrupted, it cancels the tasks; what they had sent home stays in the folders."""
        self._connect()
        try:
            yield from self._run(runs, goes_on)
        finally:
            self._ray.shutdown()

    def _connect(self) -> None:
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anybody
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            if self._address is None:
                self._ray.init(num_cpus=self._jobs, include_dashboard=False, **quiet)
            else:
                self._ray.init(address=self._address, **quiet)
        except (ConnectionError, OSError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise UsageError(f"--address {self._address or 'local'}: no cluster there ({reason[0]})") from None

    def _run(self, runs: Sequence[Run], goes_on: GoesOn) -> Iterator[Ended]:
        ray = self._ray
        stored: dict[str, Any] = {}
        layout: dict[str, str] = {}
        for file in dict.fromkeys(file for path in self._inputs for file in _files(path)):
            content = Path(file).read_bytes()
            digest = layout[_within(file)] = hashlib.sha256(content).hexdigest()
            if digest not in stored:
                stored[digest] = ray.put(content)
        words = {path: _within(path) for path in self._inputs}
        home = ray.remote(num_cpus=0, max_restarts=0)(_Home).remote()
        task = ray.remote(num_cpus=1, max_retries=_RETRIES, retry_exceptions=[WorkerLost])(_on_worker)
        by_name = {run.name: run for run in runs}
        for run in runs:
            with suppress(OSError):  # nothing there: it starts anew
                ray.get(home.store.remote(run.name, Path(run.file(STATE)).read_bytes()))
        waiting, going = list(runs), dict[Any, Run]()
        while waiting or going:
            while waiting and len(going) < self._places():
                run = waiting.pop(0)
                going[task.remote(run, words, layout, list(stored), list(stored.values()), home)] = run
            ready, _ = ray.wait(list(going), num_returns=1, timeout=_ASK)
            for name, state in ray.get(home.taken.remote()).items():
                self._keep(by_name[name], state, goes_on, home)
            for reference in ready:
                yield self._ended(going.pop(reference), reference)

    def _places(self) -> int:
        """How many runs may go on at once: one a core, as many as were asked for at most.

        Ray can't be left to see to it: whenever a task asks for a value, its core counts as free, and another task begins.
        """
        ray: Any = self._ray
        cores = int(ray.cluster_resources().get("CPU", 1))
        return max(1, cores if self._jobs is None else min(cores, self._jobs))

    def _keep(self, run: Run, state: bytes, goes_on: GoesOn, home: Any) -> None:
        """Store the state of a run in its folder, and end it where it isn't worth going on with."""
        Path(run.folder).mkdir(parents=True, exist_ok=True)
        places.write_bytes(state, run.file(STATE))
        history = checkpoint.history(run.file(STATE))
        if history is not None and not goes_on(run, history):
            self._ray.get(home.stop.remote(run.name))

    def _ended(self, run: Run, reference: Any) -> Ended:
        """Write the files of a finished run."""
        try:
            code, stopped, answer, log, files = self._ray.get(reference)
        except Exception as error:  # Ray wraps whatever a task or its worker dies of
            reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            said = f"its worker was killed more than {_RETRIES} times ({reason[0]}); {GOES_ON}"
            return Ended(run, NO_ANSWER, error=(KILLED, said))
        Path(run.folder).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            places.write_bytes(content, run.file(name))
        with open(run.file(LOG), "ab") as stream:
            stream.write(log)
        if code in (0, 1):
            Path(run.file(STATE)).unlink(missing_ok=True)
        if stopped and code == INTERRUPTED:
            return Ended(run, code, stopped=True)
        stated = error_of(code, answer, log.decode("utf-8", "replace"))
        return Ended(run, code if code in (0, 1) else NO_ANSWER, error=stated)


def _files(path: str) -> list[str]:
    """A file, or all files of a folder."""
    if os.path.isfile(path):
        return [path]
    return sorted(os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)


def _within(path: str) -> str:
    """What a path is called in the folder of a run: the same, but where it leads out of the current folder."""
    outside = os.path.isabs(path) or ".." in Path(path).parts
    return os.path.abspath(path).lstrip("/") if outside else os.path.normpath(path)


class WorkerLost(Exception):
    """The process of a run was killed; another try may succeed."""


class _Home:
    """Where runs send their state: an actor on the machine that started the sweep."""

    def __init__(self) -> None:
        self._states: dict[str, bytes] = {}
        self._new: set[str] = set()
        self._stopped: set[str] = set()

    def store(self, name: str, state: bytes) -> None:
        self._states[name] = state

    def put(self, name: str, state: bytes) -> None:
        self._states[name] = state
        self._new.add(name)

    def goes_on(self, name: str) -> bool:
        return name not in self._stopped

    def get(self, name: str) -> bytes | None:
        return self._states.get(name)

    def taken(self) -> dict[str, bytes]:
        """The states that came since this was last asked for."""
        new = {name: self._states[name] for name in self._new}
        self._new.clear()
        return new

    def stop(self, name: str) -> None:
        self._stopped.add(name)


#: What a task gives back: exit code, whether it was stopped as hopeless, stdout, stderr, files by name.
_Given = tuple[int, bool, bytes, bytes, dict[str, bytes]]


def _on_worker(
    run: Run, words: Mapping[str, str], layout: Mapping[str, str], digests: list[str], contents: list[Any], home: Any
) -> _Given:
    """Do one run on a worker, in a folder that is gone afterwards.

    words: what inputs are called there, by what the command line calls them. layout: the digest of every file by its path.
    digests, contents: what they name, by reference: Ray fetches what is asked for.
    """
    import ray

    by_digest = dict(zip(digests, contents, strict=True))
    with tempfile.TemporaryDirectory(prefix="mcuprune-") as folder:
        for path, digest in layout.items():
            place = Path(folder, path)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(ray.get(by_digest[digest]))
        out = Path(folder, run.folder.lstrip("/"))
        out.mkdir(parents=True, exist_ok=True)
        state = ray.get(home.get.remote(run.name))
        if state is not None:
            (out / STATE).write_bytes(state)
        local = replace(run, words=tuple(_local(word, run, words) for word in run.words))
        return _watched(local, folder, out, home, resume=state is not None)


def _local(word: str, run: Run, inputs: Mapping[str, str]) -> str:
    """A word of a run's command line as it is in its folder on a worker."""
    return word.lstrip("/") if word.startswith(run.folder) else inputs.get(word, word)


def _watched(run: Run, folder: str, out: Path, home: Any, *, resume: bool) -> _Given:
    """Run the command, sending every new state home."""
    import ray

    with open(out / "stdout", "w+b") as answer, open(out / LOG, "w+b") as log:
        process = subprocess.Popen(
            words_of(run, resume=resume),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=answer,
            stderr=log,
            preexec_fn=_die_with_parent,
        )
        seen, stopped = (_changed(out / STATE) if resume else 0), False
        asked = time.monotonic()
        while True:
            code = process.poll()
            changed = _changed(out / STATE)
            if changed not in (0, seen):
                seen = changed
                with suppress(OSError):  # it has just been removed
                    ray.get(home.put.remote(run.name, (out / STATE).read_bytes()))
            if code is not None:
                break
            if not stopped and time.monotonic() > asked + _ASK:
                stopped, asked = not ray.get(home.goes_on.remote(run.name)), time.monotonic()
                if stopped:
                    process.send_signal(signal.SIGINT)
            time.sleep(_LOOK)
        answer.seek(0)
        log.seek(0)
        said, logged = answer.read(), log.read()
    if code < 0:
        raise WorkerLost(f"{run.name}: its process was ended by signal {-code}")
    names = [name for name in os.listdir(out) if name not in (STATE, LOG, "stdout")]
    return code, stopped, said, logged, {name: (out / name).read_bytes() for name in names if (out / name).is_file()}


def _changed(path: Path) -> int:
    """When a file was last replaced, 0 where there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _die_with_parent() -> None:
    """In a new process: end when the worker does. Linux only; elsewhere the orphan's files are never read."""
    if sys.platform == "linux":
        import ctypes

        parent_death = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>
        ctypes.CDLL(None).prctl(parent_death, signal.SIGKILL)


__all__ = ["Cluster", "WorkerLost"]
