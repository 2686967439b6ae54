"""A sweep on a cluster of Ray: one on this machine, or one that is there.

Nothing is shared but what Ray carries. The model and the data go as bytes, each content once, and are laid out for a run in a
folder of its own under the names that its command line has; so the same command gives the same files as on this machine. Where
such a name leads out of the current folder, that one is deep enough inside the folder of the run; where it begins at the root
of the file system, another word stands for that, and is taken out again of all that comes home. A run sends home what it says,
and its state after every epoch, to an actor that lives where the sweep was started: if a worker dies, Ray runs the task again,
elsewhere perhaps, and it goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from mcuprune import places
from mcuprune.console import INTERRUPTED, NO_ANSWER
from mcuprune.errors import MissingExtra, UsageError, cause
from mcuprune.sweep.executors import GOES_ON, KILLED, Ended, GoesOn, error_of, started, words_of
from mcuprune.sweep.grid import LOG, NETWORK, STATE, Run
from mcuprune.train import checkpoint
from mcuprune.train.tracking import TRACKERS

#: Times that a run is begun again after its worker died.
_RETRIES = 5
#: Seconds between two looks of a worker at its run, which cost next to nothing.
_LOOK = 0.2
#: Seconds between two questions over the cluster, where several processes wake up for each.
_ASK = 1.0
#: Seconds that a cluster has to answer: Ray itself would ask one that isn't there for a quarter of an hour.
_PATIENCE = 30.0
#: What joins a cluster, in a process that can be ended when it takes too long.
_JOIN = "import logging, sys, ray; ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)"
#: What stands on a worker for the root of the file system. Letters alone: no format of a report writes them otherwise.
_ROOT = "rootOfThisMachineForMcuprune"
#: The document of a run's report, of which its pages are drawn; no other of its files has paths in it.
_REPORT = "report.json"


class Cluster:
    """Tasks of Ray, one core each. inputs: files that a run reads, as its command line names them.

    draw: the pages of a report, by their names, from its document: those that come from a worker may have cut a path in two.
    address: of a cluster that is there ("auto": the one that this machine is part of); None starts one here, for this sweep.
    Raises MissingExtra where Ray isn't installed, and UsageError, on ``run``, for a cluster that isn't there.
    """

    def __init__(
        self,
        inputs: Sequence[str],
        draw: Callable[[Mapping[str, Any]], Mapping[str, bytes]],
        *,
        address: str | None = None,
        jobs: int | None = None,
    ) -> None:
        try:
            import ray
        except ImportError:
            raise MissingExtra("--executor ray needs ray, which isn't installed; pip install 'mcuprune[ray]'") from None
        self._ray, self._inputs, self._draw, self._address, self._jobs = ray, inputs, draw, address, jobs

    def run(self, runs: Sequence[Run], goes_on: GoesOn) -> Iterator[Ended]:
        """Run all. Interrupted, it cancels the tasks; what they had sent home stays in the folders."""
        if not runs:
            return iter(())
        self._connect()  # not when the first run is asked for: a cluster that isn't there is refused before the work
        return self._to_the_end(runs, goes_on)

    def _to_the_end(self, runs: Sequence[Run], goes_on: GoesOn) -> Iterator[Ended]:
        try:
            yield from self._run(runs, goes_on)
        finally:
            self._ray.shutdown()

    def _connect(self) -> None:
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray tells its makers of every use unless this is off
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            if self._address is None:
                self._ray.init(address="local", num_cpus=self._jobs, include_dashboard=False, **quiet)
            else:
                _refuse_unanswered(self._address)
                self._ray.init(address=self._address, **quiet)
        except (ConnectionError, OSError, ValueError, RuntimeError) as error:
            raise _nobody(self._address or "local", str(error) or type(error).__name__) from None

    def _run(self, runs: Sequence[Run], goes_on: GoesOn) -> Iterator[Ended]:
        ray = self._ray
        stored: dict[str, Any] = {}
        layout: dict[str, str] = {}
        for file in dict.fromkeys(file for path in self._inputs for file in _files(path)):
            try:
                content = Path(file).read_bytes()
            except OSError as error:
                raise UsageError(f"{file}: can't be read ({cause(error)}), so no worker gets it; move it away") from None
            digest = layout[_there(file)] = hashlib.sha256(content).hexdigest()
            if digest not in stored:
                stored[digest] = ray.put(content)
        depth = max(
            [_above(path) for path in (*self._inputs, *(folder for run in runs for folder in _written(run)))], default=0
        )
        home = ray.remote(num_cpus=0, max_restarts=0)(_Home).remote()
        task = ray.remote(num_cpus=1, max_retries=_RETRIES, retry_exceptions=[WorkerLost])(_on_worker)
        by_name = {run.name: run for run in runs}
        for run in runs:
            with suppress(OSError):  # nothing there: it starts anew
                ray.get(home.store.remote(run.name, self._sent(Path(run.file(STATE)).read_bytes())))
        waiting, going = list(runs), dict[Any, Run]()
        while waiting or going:
            while waiting and len(going) < self._places():
                run = waiting.pop(0)
                there = _run_there(run, self._inputs)
                going[task.remote(there, depth, layout, list(stored), list(stored.values()), home)] = run
            ready, _ = ray.wait(list(going), num_returns=1, timeout=_ASK)
            for name, (state, said) in ray.get(home.taken.remote()).items():
                self._keep(by_name[name], state, said, goes_on, home)
            for reference in ready:
                yield self._ended(going.pop(reference), reference)

    def _sent(self, state: bytes) -> bytes:
        """A stored state as a worker needs it."""
        names = {path: _there(path) for path in self._inputs if os.path.isabs(path)}
        with suppress(UsageError):  # a damaged one is refused by the run itself
            return checkpoint.renamed(state, lambda text: names.get(text, text)) if names else state
        return state

    def _came(self, state: bytes) -> bytes:
        """A state from a worker as it is stored here."""
        absolute = any(os.path.isabs(path) for path in self._inputs)
        return checkpoint.renamed(state, lambda text: text.replace(f"{_ROOT}/", "/")) if absolute else state

    def _places(self) -> int:
        """How many runs may go on at once: one a core, as many as were asked for at most.

        Ray can't be left to see to it: whenever a task asks for a value, its core counts as free, and another task begins.
        """
        ray: Any = self._ray
        cores = int(ray.cluster_resources().get("CPU", 1))
        return max(1, cores if self._jobs is None else min(cores, self._jobs))

    def _of_here(self, files: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Files from a worker with the paths that this machine has."""
        if _REPORT not in files:
            return files
        return {**files, **self._draw(json.loads(_here(files[_REPORT])))}

    def _keep(self, run: Run, state: bytes | None, said: bytes, goes_on: GoesOn, home: Any) -> None:
        """Store in a run's folder what it has sent, and end it where it isn't worth going on with."""
        Path(run.folder).mkdir(parents=True, exist_ok=True)
        with open(run.file(LOG), "ab") as stream:
            stream.write(_here(said))
        if state is None:
            return
        places.write_bytes(self._came(state), run.file(STATE))
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
        for folder, written in zip(_written(run), files, strict=True):
            for name, content in self._of_here(written).items():
                place = Path(folder, name)
                place.parent.mkdir(parents=True, exist_ok=True)
                places.write_bytes(content, place)
        if code in (0, 1):
            Path(run.file(STATE)).unlink(missing_ok=True)
        if stopped and code == INTERRUPTED:
            return Ended(run, code, stopped=True)
        stated = error_of(code, _here(answer), _here(log).decode("utf-8", "replace"))
        return Ended(run, code if code in (0, 1) else NO_ANSWER, error=stated)


def _refuse_unanswered(address: str) -> None:
    """Raise UsageError where no cluster answers at an address within a short time."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():  # most mistakes are found by this, at once
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE).close()
    try:
        joined = subprocess.run(
            [sys.executable, "-c", _JOIN, address], stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE
        )
    except subprocess.TimeoutExpired as late:
        raise _nobody(address, f"nothing in {_PATIENCE:.0f} s", late.stderr or b"") from None
    if joined.returncode:
        said = joined.stderr.decode("utf-8", "replace").strip() or "it said nothing"
        raise _nobody(address, said.splitlines()[-1], joined.stderr)


def _nobody(address: str, said: str, log: bytes = b"") -> UsageError:
    """What to say of a cluster that can't be joined. log: all that Ray has said of it, as the reason comes before the end."""
    if b"AuthenticationError" in log or b"Unauthenticated" in log:
        return UsageError(
            f"--address {address}: the cluster there wants a token, and was given none or another; set RAY_AUTH_MODE=token, "
            "and give its token in RAY_AUTH_TOKEN, in a file that RAY_AUTH_TOKEN_PATH names, or in ~/.ray/auth_token"
        )
    reason = said.strip().splitlines()[0]
    return UsageError(
        f"--address {address}: no cluster answers there ({reason}); start one by `ray start --head`, give the address that it "
        "tells, or leave --address out for one on this machine"
    )


def _files(path: str, above: Collection[str] = ()) -> list[str]:
    """A file, or all files of a folder, also by way of links. above: what it lies in: a link may lead round in a circle."""
    if os.path.isfile(path):
        return [path]
    real = os.path.realpath(path)
    if real in above or not os.path.isdir(path):
        return []
    return [file for name in sorted(os.listdir(path)) for file in _files(os.path.join(path, name), [*above, real])]


def _there(path: str) -> str:
    """What a path of this machine is called in the current folder of a run on a worker."""
    return f"{_ROOT}{path}" if os.path.isabs(path) else path


def _here(text: bytes) -> bytes:
    """What a run on a worker has written, with the paths that this machine has."""
    return text.replace(f"{_ROOT}/".encode(), b"/")


def _above(path: str) -> int:
    """How many folders above the current one a path leads to."""
    level, highest = 0, 0
    for part in () if os.path.isabs(path) else Path(path).parts:
        level += -1 if part == ".." else 1
        highest = min(highest, level)
    return -highest


def _written(run: Run) -> tuple[str, ...]:
    """The folders that a run writes to."""
    return (run.folder, *run.also)


def _run_there(run: Run, inputs: Sequence[str]) -> Run:
    """A run as a worker does it."""
    names = {path: _there(path) for path in (*inputs, *_written(run), *(run.file(name) for name in (NETWORK, STATE, LOG)))}
    names |= {f"{tracker}={folder}": f"{tracker}={_there(folder)}" for tracker in TRACKERS for folder in run.also}
    words, also = (tuple(names.get(word, word) for word in texts) for texts in (run.words, run.also))
    return replace(run, folder=_there(run.folder), words=words, also=also)


class WorkerLost(Exception):
    """The process of a run was killed; another try may succeed."""


class _Home:
    """Where runs send their state: an actor on the machine that started the sweep."""

    def __init__(self) -> None:
        self._states: dict[str, bytes] = {}
        self._new: set[str] = set()
        self._said: dict[str, bytes] = {}
        self._stopped: set[str] = set()

    def store(self, name: str, state: bytes) -> None:
        self._states[name] = state

    def put(self, name: str, state: bytes) -> None:
        self._states[name] = state
        self._new.add(name)

    def hear(self, name: str, said: bytes) -> bool:
        """Take in what a run has said on the way; whether it is to go on."""
        self._said[name] = self._said.get(name, b"") + said
        return name not in self._stopped

    def get(self, name: str) -> bytes | None:
        return self._states.get(name)

    def taken(self) -> dict[str, tuple[bytes | None, bytes]]:
        """By the names of runs, the states that came since this was last asked for, and what was said since."""
        names = self._new | {name for name, said in self._said.items() if said}
        taken = {name: (self._states[name] if name in self._new else None, self._said.get(name, b"")) for name in names}
        self._new.clear()
        self._said.clear()
        return taken

    def stop(self, name: str) -> None:
        self._stopped.add(name)


#: What a task gives back: exit code, whether it was stopped as hopeless, stdout, stderr, files of each folder by their names.
_Given = tuple[int, bool, bytes, bytes, list[dict[str, bytes]]]


def _on_worker(run: Run, depth: int, layout: Mapping[str, str], digests: list[str], contents: list[Any], home: Any) -> _Given:
    """Do one run on a worker, in a folder that is gone afterwards.

    depth: how many folders above the current one belong to the run. layout: the digest of every file by its path from there.
    digests, contents: what they name, by reference: Ray fetches what is asked for.
    """
    import ray

    by_digest = dict(zip(digests, contents, strict=True))
    with tempfile.TemporaryDirectory(prefix="mcuprune-") as folder:
        current = Path(folder, "of-the-run", *["in"] * depth)
        for path, digest in layout.items():
            place = current / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(ray.get(by_digest[digest]))
        out = current / run.folder
        out.mkdir(parents=True, exist_ok=True)
        state = ray.get(home.get.remote(run.name))
        if state is not None:
            (out / STATE).write_bytes(state)
        code, stopped, said, logged = _watched(run, Path(folder), current, home, resume=state is not None)
        return code, stopped, said, logged, [_found(current / place) for place in _written(run)]


def _found(folder: Path) -> dict[str, bytes]:
    """The files of a folder, by their names in it, without what has come home already."""
    files = (Path(file) for file in _files(f"{folder}"))
    return {f"{file.relative_to(folder)}": file.read_bytes() for file in files if file.name not in (STATE, LOG)}


def _watched(run: Run, folder: Path, current: Path, home: Any, *, resume: bool) -> tuple[int, bool, bytes, bytes]:
    """Run the command, sending home every new state, and what it says. folder: for what isn't the run's own."""
    import ray

    state, logged = current / run.file(STATE), folder / LOG
    with open(folder / "stdout", "w+b") as answer, open(logged, "wb") as log:
        process = started(words_of(run, resume=resume), cwd=current, stdout=answer, stderr=log)
        seen, stopped, told = (_changed(state) if resume else 0), False, 0
        asked = time.monotonic()
        while True:
            code = process.poll()
            changed = _changed(state)
            if changed not in (0, seen):
                seen = changed
                with suppress(OSError):  # it has just been removed
                    ray.get(home.put.remote(run.name, state.read_bytes()))
            if code is not None or time.monotonic() > asked + _ASK:
                said = logged.read_bytes()[told:]
                # a line that is being written may end within a path, which is called otherwise at home
                said = said if code is not None else said[: said.rfind(b"\n") + 1]
                goes_on, asked, told = ray.get(home.hear.remote(run.name, said)), time.monotonic(), told + len(said)
                if not goes_on and not stopped and code is None:
                    stopped = True
                    process.send_signal(signal.SIGINT)
            if code is not None:
                break
            time.sleep(_LOOK)
        answer.seek(0)
        answered = answer.read()
    if code < 0:
        raise WorkerLost(f"{run.name}: its process was ended by signal {-code}")
    return code, stopped, answered, logged.read_bytes()


def _changed(path: Path) -> int:
    """When a file was last replaced, 0 where there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


__all__ = ["Cluster", "WorkerLost"]
