"""The runs of a sweep: every combination of budget, method and seed, each one command line of ``mcuprune prune``.

A run is that command line and a folder for its files. Whoever types it gets the same network, so a sweep is never more than a
way to start runs, to go on with them and to compare them.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from mcuprune import units
from mcuprune.costs.resources import RESOURCES
from mcuprune.errors import UsageError
from mcuprune.immutable import immutable
from mcuprune.train import tracking

#: More runs than this are taken for a slip of the pen.
MAX_RUNS = 10_000
#: Names of the files in a run's folder: the network, the state of an interrupted run, what the run said on the way.
NETWORK, STATE, LOG = "net.onnx", "net.onnx.checkpoint", "log.txt"


@immutable
class Cell:
    """What is compared with its like: a budget and a method, whatever the seed. limits: by resource, as they are typed."""

    limits: tuple[tuple[str, str], ...]
    method: str


@immutable
class Run:
    """One prune.

    name: of its folder, unique in the sweep. folder: where its files go, with ``/``, relative to where the command is run or
    absolute. words: what is typed after ``mcuprune``. also: folders of other files that it writes.
    """

    name: str
    cell: Cell
    seed: int
    folder: str
    words: tuple[str, ...]
    also: tuple[str, ...] = ()

    def file(self, name: str) -> str:
        """The path of one of its files."""
        return f"{self.folder}/{name}"


@immutable
class Grid:
    """What the runs of a sweep have in common, and what they differ in.

    model: its path. options: words that every run gets. limits: by resource, the values to combine, as they are typed.
    track: where histories go on to, which is another place for each run.
    """

    model: str
    folder: str
    options: tuple[str, ...]
    limits: Mapping[str, Sequence[str]]
    methods: Sequence[str]
    seeds: Sequence[int]
    track: Sequence[str] = ()

    def runs(self) -> tuple[Run, ...]:
        """All combinations; seeds vary fastest, then methods. Raises UsageError for too many, or for a value given twice."""
        meant = {name: [units.parse(text, RESOURCES[name].unit) for text in texts] for name, texts in self.limits.items()}
        for what, values in (*meant.items(), ("method", self.methods), ("seeds", self.seeds)):
            counts = Counter(values)
            if repeated := [at for at, value in enumerate(values) if counts[value] > 1]:
                said = self.limits.get(what, values)[repeated[-1]]
                raise UsageError(f"--{what}: {said} is given twice; give each value once")
        runs = tuple(itertools.islice(self._combined(), MAX_RUNS + 1))
        if len(runs) > MAX_RUNS:
            raise UsageError(f"these are more than {MAX_RUNS} runs; give fewer values")
        return runs

    def command(self) -> list[str]:
        """What to type for all of them at once; who runs them is another matter."""
        words = ["mcuprune", "sweep", self.model, *self.options]
        words += [word for text in self.track for word in ("--track", text)]
        words += [word for name, texts in self.limits.items() for word in (f"--{name}", ",".join(texts))]
        return [*words, "--method", ",".join(self.methods), "--seeds", f"{','.join(map(str, self.seeds))},", "-o", self.folder]

    def budgets(self) -> Iterator[tuple[tuple[str, str], ...]]:
        """Every combination of limits: resource and limit as it is typed."""
        return itertools.product(*([(name, text) for text in texts] for name, texts in self.limits.items()))

    def _combined(self) -> Iterator[Run]:
        for limits, method, seed in itertools.product(self.budgets(), self.methods, self.seeds):
            yield self.run(Cell(limits, method), seed)

    def run(self, cell: Cell, seed: int) -> Run:
        """The run of a cell and a seed, of this grid or of what it may grow to."""
        parts = [*(f"{name}-{text}" for name, text in cell.limits), cell.method, f"seed-{seed}"]
        name = "_".join(re.sub(r"[^0-9A-Za-z.-]+", "-", part.replace("%", "pct")) for part in parts)
        folder = f"{self.folder.rstrip('/') or '/'}/runs/{name}"
        return run_of(name, cell, seed, folder, ("prune", self.model, *self.options), self.track)


def run_of(name: str, cell: Cell, seed: int, folder: str, words: Sequence[str], track: Sequence[str]) -> Run:
    """One of several runs that begin with the same words. track: where the histories of all go."""
    own = tracking.of_several(track, name, folder)
    words = [
        *words,
        *itertools.chain.from_iterable(("--track", text) for text in own),
        *itertools.chain.from_iterable((f"--{resource}", text) for resource, text in cell.limits),
        *("--method", cell.method, "--seed", f"{seed}", "-o", f"{folder}/{NETWORK}", "--report", folder),
    ]
    return Run(name, cell, seed, folder, tuple(words), tuple(tracking.folders(own)))


def seeds(text: str) -> tuple[int, ...]:
    """``3`` is the seeds 0, 1, 2; ``0,4,7`` are these. Raises UsageError for anything else."""
    if re.fullmatch(r"[1-9]\d{0,3}", text, re.ASCII):
        return tuple(range(int(text)))
    if re.fullmatch(r"\d{1,18}(,\d{1,18})+,?|\d{1,18},", text, re.ASCII):
        return tuple(int(part) for part in text.split(",") if part)
    raise UsageError(f"{text!r} are no seeds; write how many, as 3, or which ones, as 0,4,7")
