"""A portfolio that answers: one of its variants at a time, another one whenever somebody says so.

Requests take no lock: each reads one reference, to the variant that is active at that moment, and is answered by it whatever
happens meanwhile. ``switch`` has the new session ready before it changes the reference; the old session ends with its last
reader, by the count of references to it.
"""

from __future__ import annotations

import ctypes
import math
import os
import re
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import field
from numbers import Real
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np

from mcuprune import foreign, rerun, units
from mcuprune.costs.resources import RESOURCES
from mcuprune.errors import BudgetError, DataError, ModelError, UsageError, cause
from mcuprune.immutable import immutable
from mcuprune.options import nearest
from mcuprune.portfolio import manifest
from mcuprune.train import evaluate
from mcuprune.usercode import one_line

Array = np.ndarray[Any, Any]
#: Which variants have a session: ``all`` of them, or the ``active`` one alone.
Resident = Literal["all", "active"]
#: Answers that a latency is the median of.
_TRIALS = 15


class _File:
    """A file that can be read as often as wanted, after its name has gone too; its bytes take no memory meanwhile.

    Raises ModelError, on construction and when it is read, where it isn't what it was.
    """

    def __init__(self, path: Path, digest: str) -> None:
        self._path, self._digest, self._lock = path, digest, threading.Lock()
        self._opened = path.open("rb")
        weakref.finalize(self, self._opened.close)
        self.read()

    def read(self) -> bytes:
        """The content."""
        with self._lock:
            self._opened.seek(0)
            content = self._opened.read()
        if manifest.digest_of(content) != self._digest:
            raise ModelError(f"{self._path}: is not the file that {manifest.DOCUMENT} is about; make the portfolio again")
        return content


@immutable
class Variant:
    """A network of a portfolio.

    used: what it costs, by the names of resources, in base units; SRAM as the portfolio's limits were meant.
    accuracy: of the int8 file on the test set, as a share of 1; None for what is no classifier. score: its figure, so that more
    is better. pareto: whether no other variant beats it. title, unit, better: of the figure that ``pick`` goes by.
    """

    name: str
    used: Mapping[str, int]
    accuracy: float | None
    score: float
    pareto: bool
    file: _File = field(repr=False, compare=False)
    title: str = "accuracy"
    unit: str = "share"
    better: str = "higher"

    def reaches(self, figure: float) -> bool:
        """Whether its accuracy, or the figure of its task, is as good as this one."""
        if self.accuracy is not None:
            return self.accuracy >= figure
        return self.score >= (figure if self.better == "higher" else -figure)


class Answer(dict[str, Array]):
    """Outputs by their names. variant: the name of the variant that gave them."""

    def __init__(self, variant: str, outputs: Mapping[str, Array]) -> None:
        super().__init__(outputs)
        self.variant = variant


class _Served:
    """A variant with a session."""

    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        # without this option the integer kernels of some processors saturate, and answers are wrong there
        option = {"session.x64quantprecision": "1"}
        self.session = evaluate.session(variant.file.read(), "default", name=variant.name, **option)
        if hasattr(self.session, "_model_bytes"):
            self.session._model_bytes = None  # kept for another device to fall back to, and as large as the file
        self.inputs = {port.name: port for port in self.session.get_inputs()}
        self.outputs = [port.name for port in self.session.get_outputs()]
        _give_back()

    def answer(self, inputs: Mapping[str, Any]) -> Answer:
        if not isinstance(inputs, Mapping):
            example = ", ".join(f"'{name}': ..." for name in self.inputs)
            raise DataError(f"run: takes arrays by the names of inputs, {{{example}}}, not a {type(inputs).__name__}")
        if inputs.keys() != self.inputs.keys():
            raise DataError(f"run: the networks take {', '.join(self.inputs)}, not {', '.join(map(str, inputs)) or 'nothing'}")
        fed = {name: _numbers(name, value) for name, value in inputs.items()}
        try:
            outputs = self.session.run(self.outputs, fed)
        except Exception as error:  # onnxruntime raises its own kinds, none of them public
            shapes = {name: list(self.inputs[name].shape) for name in fed}
            given = {name: list(value.shape) for name, value in fed.items()}
            raise DataError(
                f"run: {self.variant.name} takes arrays of shape {shapes}, not {given} ({str(error).splitlines()[0]})"
            ) from None
        return Answer(self.variant.name, dict(zip(self.outputs, outputs, strict=True)))


def _numbers(name: str, value: Any) -> Array:
    try:
        return np.asarray(value, np.float32)
    except (TypeError, ValueError) as error:  # text, lists of several lengths, objects
        said = f"an object of type {type(value).__name__}, is no array of numbers ({one_line(error)})"
        raise DataError(f"run: what is given for input '{name}', {said}; give an array (batch, ...)") from None


def _give_back() -> None:
    """Let the system have the memory that building a session needed and has freed, a third of a session and more."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):  # glibc alone has it
        trim(0)


class Portfolio:
    """The networks that ``mcuprune portfolio`` made, one of which answers. All methods may be called from any thread.

    >>> family = Portfolio(folder)  # of mcuprune portfolio models/dscnn_digits.onnx --data digits --macs 20%,50% -o FOLDER
    >>> family.switch(family.pick(macs="30%"))
    >>> family.run({"image": np.zeros((1, 1, 16, 16))}).variant
    'macs-20pct'

    variants: by their names, in the order in which they were asked for.
    """

    def __init__(self, path: str | os.PathLike[str], *, active: str | None = None, resident: Resident = "all") -> None:
        """Read a portfolio from its folder, or from ``portfolio.json`` in it. Files may go afterwards.

        active: the variant that answers first; by default the most accurate one.
        resident: ``all`` variants have a session ready, so that a switch takes no time; with ``active`` only the one that
        answers has, the others are open files, and a switch builds a session.
        Raises UsageError for what is no path, for a folder without a portfolio and for a name that no variant has, ModelError
        for a file that isn't what it was.
        """
        if not isinstance(path, str | os.PathLike):
            raise UsageError(f"Portfolio: {path!r} is no path; give that of a folder that `mcuprune portfolio` has written")
        if resident not in ("all", "active"):
            raise UsageError(f"Portfolio: resident is {resident!r}; choose all or active")
        self.variants: Mapping[str, Variant]
        self.variants, self._whole = _read(Path(os.fsdecode(path)))
        self._resident = resident
        self._switching = threading.Lock()
        self._ready: dict[str, _Served] = {}
        self._latency: dict[str, float] = {}
        if resident == "all":
            self._ready = {name: _Served(variant) for name, variant in self.variants.items()}
        best = max(self.variants.values(), key=lambda variant: variant.score).name
        self._active = self._served(best if active is None else active)

    def __repr__(self) -> str:
        return f"<Portfolio: {', '.join(self.variants)}; {self.active!r} answers>"

    @property
    def active(self) -> str:
        """The name of the variant that answers a request that begins now."""
        return self._active.variant.name

    def run(self, inputs: Mapping[str, Any]) -> Answer:
        """The outputs for inputs (batch, ...) by their names, by the variant that is active when this is called.

        Raises DataError for inputs that the network doesn't take.
        """
        return self._active.answer(inputs)  # one read of one reference: what it holds stays alive until it has answered

    def switch(self, name: str) -> None:
        """Let another variant answer from now on. Requests that have begun are answered by the one that they began with.

        Raises UsageError for a name that no variant has.
        """
        if self._known(name).name == self.active:
            return
        with self._switching:  # of two that switch at once, the later one counts; nobody who runs waits for either
            self._active = self._served(name)

    def pick(self, *, latency: str | float | None = None, accuracy: str | float | None = None, **limits: str | int) -> str:
        """The name of the most accurate variant within limits; of several the one of fewest multiply-accumulates.

        limits: by the names of resources, as for ``mcuprune.Budget``; shares are of the network that the portfolio is of.
        latency: of one answer, ``"2ms"`` or in seconds: as estimated for the board that the portfolio was made for, or else on
        this machine, measured when it is first asked for.
        accuracy: the least, as a share of 1 or as ``"98%"``; the variant of fewest multiply-accumulates is then picked. Of what
        is no classifier the figure of its task counts: the least, or, of errors, the most that is allowed.
        Raises BudgetError where no variant is within them, UsageError for a limit that isn't known or makes no sense.
        """
        within = [variant for variant in self.variants.values() if self._holds(variant, limits)]
        if latency is not None:
            most = _seconds(latency)
            within = [variant for variant in within if self._time(variant) <= most]
        if accuracy is not None:
            wanted_figure = _figure(accuracy, next(iter(self.variants.values())))
            within = [variant for variant in within if variant.reaches(wanted_figure)]
        if not within:
            asked = {**limits, **({"latency": latency} if latency is not None else {})}
            parts = [f"{asked}"] if asked else []
            if accuracy is not None:
                kind = next(iter(self.variants.values()))
                bound = "least" if kind.better == "higher" else "most"
                parts.append(f"{kind.title} of at {bound} {units.figure(wanted_figure, kind.unit)}")
            wanted = " and ".join(parts)
            cheapest = {
                name: units.show(min(variant.used[name] for variant in self.variants.values()), RESOURCES[name].unit)
                for name in limits
            }
            least = f"; the least are {cheapest}" if cheapest else ""
            raise BudgetError(f"pick: no variant holds {wanted}{least}; allow more, or make a portfolio with a smaller variant")
        if accuracy is not None:
            return min(within, key=lambda variant: (variant.used["macs"], -variant.score)).name
        return max(within, key=lambda variant: (variant.score, -variant.used["macs"])).name

    def _time(self, variant: Variant) -> float:
        """Seconds for an answer: on the board that the portfolio is for, or else here."""
        return variant.used["latency"] / 1e6 if "latency" in variant.used else self.latency(variant.name)

    def latency(self, name: str) -> float:
        """Seconds that a variant takes for one answer on this machine: the median of some, measured once.

        Raises UsageError for a name that no variant has.
        """
        variant = self._known(name)
        if name not in self._latency:
            served = self._ready.get(name) or _Served(variant)
            inputs = {
                port.name: np.zeros([size if isinstance(size, int) else 1 for size in port.shape], np.float32)
                for port in served.inputs.values()
            }
            times = []
            for _ in range(_TRIALS + 1):
                began = time.perf_counter()
                served.answer(inputs)
                times.append(time.perf_counter() - began)
            self._latency[name] = median(times[1:])  # the first one allocates
        return self._latency[name]

    def follow(self, policy: Callable[[Portfolio], str]) -> str:
        """Switch to the variant that a policy names (``mcuprune.portfolio.policies`` has some). Returns its name."""
        name = policy(self)
        self.switch(name)
        return name

    @contextmanager
    def following(self, policy: Callable[[Portfolio], str], *, every: float = 1.0) -> Iterator[None]:
        """Follow a policy in a thread of its own while the block runs. every: seconds between two looks.

        What the policy raises ends the following, and is raised at the end of the block.
        """
        done, errors = threading.Event(), list[BaseException]()

        def look() -> None:
            try:
                while not done.is_set():
                    self.follow(policy)
                    done.wait(every)
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=look, name="mcuprune-portfolio", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
        if errors:
            raise errors[0]

    def _known(self, name: str) -> Variant:
        if not isinstance(name, str) or name not in self.variants:
            raise UsageError(f"no variant {name!r}; {nearest(str(name), self.variants)}")
        return self.variants[name]

    def _served(self, name: str) -> _Served:
        """A variant with a session: the one that is ready, or a new one."""
        variant = self._known(name)
        return self._ready[name] if self._resident == "all" else _Served(variant)

    def _holds(self, variant: Variant, limits: Mapping[str, str | int]) -> bool:
        for name, text in limits.items():
            if name not in self._whole:
                raise UsageError(f"pick: no resource {name!r} can be limited; {nearest(name, self._whole)}")
            try:
                limit = units.parse(str(text), RESOURCES[name].unit)
            except UsageError as error:
                raise UsageError(f"pick: {name}: {error}") from None
            if variant.used[name] > limit.of(self._whole[name]):
                return False
        return True


def _seconds(latency: str | float) -> float:
    if isinstance(latency, str):
        try:
            limit = units.parse(latency, "time")
        except UsageError as error:
            raise UsageError(f"pick: latency: {error}, or as a number of seconds") from None
        if limit.relative:
            raise UsageError(f"pick: latency: {latency!r} is a share; write a time, like 2ms")
        return float(limit.value) / 1e6
    if isinstance(latency, bool) or not isinstance(latency, Real) or math.isnan(latency):
        raise UsageError(f"pick: latency: {latency!r} is no time; write it like 2ms, or as a number of seconds")
    return float(latency)


def _figure(text: Any, variant: Variant) -> float:
    """A figure of variants as it is asked for: a number, or a text of one; of a share also in per cent. Raises UsageError."""
    share = variant.unit == "share"
    written = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*(%?)\s*", text, re.ASCII) if isinstance(text, str) else None
    number: float | None = None
    if written and (share or not written[2]):
        number = float(written[1]) / (100 if written[2] else 1)
    elif isinstance(text, (int, float, np.number)) and not isinstance(text, bool):
        number = float(text)
    if number is None or not math.isfinite(number) or (share and not 0 <= number <= 1):
        how = "a share of 1, such as 0.98 or 98%" if share else "a number"
        raise UsageError(f"pick: accuracy: {text!r} is no {variant.title}; write {how}")
    return number


def _read(path: Path) -> tuple[dict[str, Variant], Mapping[str, int]]:
    """The variants of a portfolio with the contents of their files, and what the network costs that they are of."""
    place = path / manifest.DOCUMENT if path.is_dir() else path
    document = rerun.stored(place, "portfolio")
    check = foreign.Values(place, hint="make the portfolio again")
    before = check.table(document.get("before"), "before", needs=("used",))
    variants: dict[str, Variant] = {}
    for index, entry in enumerate(check.items(document.get("variants"), "variants")):
        variant = _variant(entry, place.parent, foreign.Values(place, f"variants[{index}]: ", "make the portfolio again"))
        variants[variant.name] = variant
    if not variants:
        raise UsageError(f"{place}: has no variants; make the portfolio again")
    return variants, _used(check, before["used"], "before.used")


def _used(check: foreign.Values, value: Any, key: str) -> dict[str, int]:
    table = check.table(value, key, needs=("macs",))
    return {name: check.whole(amount, f"{key}.{name}") for name, amount in table.items() if name in RESOURCES}


def _variant(entry: Any, folder: Path, check: foreign.Values) -> Variant:
    """A variant by its entry, of whose keys every message names the wrong one."""
    said = check.table(entry, "entry", needs=("name", "path", "files", "used", "accuracy_int8", "metric", "pareto"))
    name, file = check.text(said["name"], "name"), check.text(said["path"], "path")
    if Path(file).name != file or file in (".", ".."):
        check.refuse("path", file, "a file in the folder")
    try:
        opened = _File(folder / file, check.text_by_name(said["files"], "files").get(file, ""))
    except OSError as error:
        raise UsageError(
            f"{folder / file}: can't be read ({cause(error)}), and {manifest.DOCUMENT} has it; make the portfolio again"
        ) from None
    accuracy = check.unless_none(check.number, said["accuracy_int8"], "accuracy_int8")
    metric = check.table(said["metric"], "metric", needs=("title", "unit", "better", "int8"))
    title, unit = check.text(metric["title"], "metric.title"), check.text(metric["unit"], "metric.unit")
    figure = title, unit, check.one_of(metric["better"], ("higher", "lower"), "metric.better")
    check.number(metric["int8"], "metric.int8")
    used, pareto = _used(check, said["used"], "used"), check.truth(said["pareto"], "pareto")
    figure = figure if accuracy is None else ("accuracy", "share", "higher")
    return Variant(name, used, accuracy, manifest.score(said), pareto, opened, *figure)
