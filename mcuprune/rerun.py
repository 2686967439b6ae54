"""A run that can be repeated: what a report stores of how it came about, and the request that is made of it again.

``record`` and ``read`` are each other's inverse. A report is a stranger's file: what is read from it is checked as what is
typed is, it names no code that is run, and no file that is there is written over on its word.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_args, get_type_hints

from mcuprune import __version__, foreign, options, units
from mcuprune.console import JSON_FORMAT
from mcuprune.costs.resources import RESOURCES, Basis
from mcuprune.data.feed import Feed
from mcuprune.data.named import DATASETS
from mcuprune.errors import UsageError, cause
from mcuprune.graph.network import Shape
from mcuprune.immutable import immutable
from mcuprune.result import Result
from mcuprune.train.request import Request
from mcuprune.units import Limit, Unit

#: The key of a report, and the packages whose versions it has.
KEY, _PACKAGES = "run", ("torch", "onnxruntime", "onnx", "numpy")
#: What a repeated run doesn't take over: where its report and its history go and whether it goes on with another are its own
#: affair. A stranger's report may name a server, or a folder of somebody's.
_OWN = ("resume", "report", "track")
#: Options of which data and their split depend; where one of them is given anew, other data are expected.
_OF_DATA = {"data", "task", "unlabelled", "seed", *(option.name for option in options.of(Feed))}
#: What a command that says all by itself has: typed again, or begun after one was written, it reads no configuration.
NO_CONFIGURATION = ("--config", os.devnull)
#: Options that name code of the user's.
_CODE = ("data", "loss_function")
_STEPS: Mapping[Unit, Sequence[tuple[str, int]]] = {
    "bytes": (("MB", 1024**2), ("KB", 1024)),
    "count": (("M", 10**6), ("k", 10**3)),
    "time": (("s", 10**6), ("ms", 10**3)),
}


# ------------------------------------------------------------------------------------------------------------- recording


def record(result: Result) -> dict[str, Any]:
    """How a result came about, as JSON values: model, options, limits as they are typed, contents, versions, machine."""
    request = result.asked or result.request
    return {
        "command": command(request),
        "model": {"path": request.model, "sha256": _sha256(request.model)},
        **_asked(request),
        "contents": dict(result.contents),
        "versions": {"mcuprune": __version__, "python": platform.python_version(), **_versions()},
        "machine": machine(),
    }


def _asked(request: Request) -> dict[str, Any]:
    """What was asked of a model, as JSON values."""
    return {
        "input_shapes": {name: list(shape) for name, shape in request.input_shapes.items()},
        "outputs": list(request.outputs),
        "limits": {name: typed(limit, RESOURCES[name].unit) for name, limit in request.limits.items()},
        "basis": {part.name: getattr(request.basis, part.name) for part in fields(Basis)},
        "options": {option.name: _plain(getattr(request, option.name)) for option in options.of(Request)},
    }


def differences(run: Mapping[str, Any], request: Request) -> list[str]:
    """In what a stored ``record`` is of another request, for people; empty where the same files would come out of both.

    run: of a stranger's report; what isn't there counts as another value. The contents of files are not looked at.
    """
    without_effect = {option.name for option in options.of(Request) if not option.changes_run}
    model = run.get("model")
    pairs: list[tuple[str, Any, Any]] = [("model", model.get("path") if isinstance(model, dict) else model, request.model)]
    for part, asked in _asked(request).items():
        stored = run.get(part)
        if not isinstance(asked, dict) or not isinstance(stored, dict):
            pairs.append((part, stored, asked))
            continue
        names = [name for name in {**asked, **stored} if part != "options" or name not in without_effect]
        pairs += [(f"{part}.{name}", stored.get(name), asked.get(name)) for name in names]
    return [f"{name} was {then!r:.60}, is {now!r:.60}" for name, then, now in pairs if then != now]


def refuse_other(path: str, report: Mapping[str, Any], request: Request) -> None:
    """Raise UsageError where a report, which stands at ``path`` for a run of ``request``, is of another command."""
    if differing := differences(report[KEY], request):
        raise UsageError(
            f"{path}: is of another command ({'; '.join(differing[:5])}); move it away, and the run is done anew, or name "
            "another -o"
        )


def command(request: Request) -> list[str]:
    """The words to type for a request, without what is as by default."""
    words = ["mcuprune", "prune", request.model, *(NO_CONFIGURATION if request.configuration is not None else ())]
    for name, shape in request.input_shapes.items():
        words += ["--input-shape", f"{name}={','.join(map(str, shape))}"]
    for name in request.outputs:
        words += ["--outputs", name]
    for name, limit in request.limits.items():
        words += [f"--{name}", typed(limit, RESOURCES[name].unit)]
    usual = Basis()
    words += ["--sram-model", request.basis.sram] if request.basis.sram != usual.sram or request.basis.board else []
    words += ["--flash-model", request.basis.flash] if request.basis.flash != usual.flash or request.basis.board else []
    words += ["--runtime", request.basis.runtime] if request.basis.runtime != usual.runtime else []
    words += ["--board", request.basis.board] if request.basis.board else []
    given = {
        option.name: getattr(request, option.name)
        for option in options.of(Request)
        if option.name != "resume" and _plain(getattr(request, option.name)) != _plain(option.default)
    }
    return [*words, *options.words(Request, given)]


def typed(limit: Limit, unit: Unit) -> str:
    """A limit as one types it: ``64KB`` for 65536 bytes, ``50%`` for a share."""
    if not limit.relative and limit.value.denominator == 1:
        for suffix, step in _STEPS[unit]:
            if limit.value % step == 0:
                return f"{limit.value // step}{suffix}"
    return units.write(limit)


def machine() -> dict[str, Any]:
    """What this machine is: system, processor and how many cores of it this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": _processor(),
        "cores": cores,
    }


def _processor() -> str | None:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            match = re.search(r"^model name\s*:\s*(.+)$", file.read(2**16), re.MULTILINE)
    except OSError:
        match = None
    return match[1].strip() if match else platform.processor() or None


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions


def _sha256(path: str) -> str | None:
    """Of a file, as ``sha256sum`` gives it; None of a network that was in memory alone."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        return None


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (tuple, list)) else value


# --------------------------------------------------------------------------------------------------------------- reading


@immutable
class Rerun:
    """What a report says of its run, checked. asked: values of options by the names of ``Request``'s fields."""

    report: str
    model: str
    limits: Mapping[str, Limit]
    input_shapes: Mapping[str, Shape]
    outputs: tuple[str, ...]
    basis: Basis
    asked: Mapping[str, Any]
    contents: Mapping[str, str]
    version: str

    def contents_expected(self, given: Mapping[str, Any], *, same_model: bool) -> dict[str, str]:
        """The digests that must be the same where ``given`` options, and perhaps the model, were named anew."""
        own_model = not same_model or "teacher" in given
        data = same_model and not _OF_DATA & given.keys()
        kept = {"model": not own_model, "data": data}
        return {name: digest for name, digest in self.contents.items() if kept.get(name)}

    def refuse_code(self, given: Mapping[str, Any]) -> None:
        """Raise UsageError where the report names code that would run, and ``given`` options don't name it anew."""
        for name in _CODE:
            value = self.asked.get(name)
            if name in given or not isinstance(value, str) or ":" not in value or value in DATASETS or os.path.lexists(value):
                continue
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{self.report}: names code to run, {value!r}; if you trust it, say so: {flag} {value}")

    def refuse_overwriting(self) -> None:
        """Raise UsageError where a file is in the place that the run wrote to: it would be lost on the report's word."""
        place = self.asked.get("output")
        if place is None or os.path.lexists(place):
            said = "it names no place for the network" if place is None else f"{place} is there already"
            raise UsageError(f"{self.report}: {said}; give -o to say where the repeated run writes")


def stored(path: str | Path, *commands: str) -> dict[str, Any]:
    """A report as it was stored by one of these commands. Raises UsageError for anything else."""
    try:
        document = foreign.read(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: can't be read as a report ({cause(error)}); name one that mcuprune wrote") from None
    if not isinstance(document, dict) or document.get("command") not in commands:
        raise UsageError(f"{path}: is no report of {' or '.join(f'`mcuprune {name}`' for name in commands)}")
    if document.get("format") != JSON_FORMAT:
        said = f"has format {document.get('format')!r}; this mcuprune {__version__} reads format {JSON_FORMAT}"
        raise UsageError(f"{path}: {said}")
    return document


def read(path: str) -> Rerun:
    """The run that a report is about. Raises UsageError for a file that is no report, or that says what no run can be."""
    document = stored(path, "prune")
    if KEY not in document:
        raise UsageError(f"{path}: was written by mcuprune {document.get('mcuprune')}, which didn't store how to repeat a run")
    check = _Reader(path)
    run = foreign.Values(path).table(document[KEY], KEY)
    shapes = check.table(run.get("input_shapes"), "input_shapes")
    limits = check.table(run.get("limits"), "limits")
    return Rerun(
        report=path,
        model=check.text(check.table(run.get("model"), "model").get("path"), "model.path"),
        limits={check.one_of(name, RESOURCES, "limits"): check.limit(name, text) for name, text in limits.items()},
        input_shapes={name: check.shape(shape, name) for name, shape in shapes.items()},
        outputs=check.texts(run.get("outputs"), "outputs"),
        basis=check.basis(run.get("basis")),
        asked=check.options(run.get("options")),
        contents={
            name: check.text(digest, f"contents.{name}")
            for name, digest in check.table(run.get("contents"), "contents").items()
            if digest is not None
        },
        version=check.text(document.get("mcuprune"), "mcuprune"),
    )


class _Reader(foreign.Values):
    """Values of the run of one report."""

    def __init__(self, path: str) -> None:
        super().__init__(path, f"{KEY}.")

    def limit(self, name: str, text: Any) -> Limit:
        key = f"limits.{name}"
        try:
            return units.parse(self.text(text, key), RESOURCES[name].unit)
        except UsageError as error:
            raise UsageError(f"{self._path}: {KEY}.{key}: {error}") from None

    def shape(self, value: Any, name: str) -> Shape:
        sizes = value if isinstance(value, list) else []
        if not sizes or not all(type(size) is int and 0 < size < 2**31 for size in sizes):
            self.refuse(f"input_shapes.{name}", value, "a shape")
        return tuple(sizes)

    def basis(self, value: Any) -> Basis:
        table, hints = self.table(value, "basis"), get_type_hints(Basis)
        parts: dict[str, Any] = {}
        for part in fields(Basis):
            choices, word = get_args(hints[part.name]), table.get(part.name)
            if all(isinstance(choice, str) for choice in choices):
                parts[part.name] = self.one_of(word, choices, f"basis.{part.name}")
            else:
                parts[part.name] = None if word is None else self.text(word, f"basis.{part.name}")
        return Basis(**parts)

    def options(self, value: Any) -> dict[str, Any]:
        known = {option.name: option for option in options.of(Request)}
        asked: dict[str, Any] = {}
        for name, given in self.table(value, "options").items():
            if name not in known:
                raise UsageError(f"{self._path}: {KEY}.options: unknown option {name!r}; was it written by a newer mcuprune?")
            if name in _OWN or given is None:
                continue
            option = known[name]
            try:
                option.refuse(given)
            except UsageError as error:
                raise UsageError(f"{self._path}: {KEY}.options: {error}") from None
            asked[name] = tuple(given) if option.repeated else given
        return asked
