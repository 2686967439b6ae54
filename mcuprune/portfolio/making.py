"""The road of one ``portfolio``: its networks by one of three roads, their exports, and the document and pages about them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Any, Literal

from mcuprune import exporting, places, preparing, rerun
from mcuprune.costs import resources
from mcuprune.errors import UnsupportedOperator, UsageError, cause
from mcuprune.graph import network
from mcuprune.immutable import immutable
from mcuprune.operators import table as ops
from mcuprune.places import Output, Source
from mcuprune.portfolio import independent, manifest, nested, onchip, sparse
from mcuprune.portfolio.wanted import Variant
from mcuprune.report import portfolio as report
from mcuprune.sweep.executors import Executor
from mcuprune.sweep.outcome import OnRun
from mcuprune.train import tracking
from mcuprune.train.checkpoint import Checkpoint, differences
from mcuprune.train.request import Request as Pruning
from mcuprune.train.task import OnStep

Mode = Literal["nested", "sparse", "independent"]
#: What variants are exported as, beside ONNX.
EXPORTS = ("tflite", "c")


@immutable
class Request:
    """What the user asked for.

    pruning: what all variants have in common; its limits and places don't count. folder: where everything goes.
    export: of EXPORTS. words, executor: for separate runs. sources: further files that nothing may replace.
    """

    pruning: Pruning
    variants: Sequence[Variant]
    folder: str
    mode: Mode = "nested"
    export: Sequence[str] = ()
    words: Sequence[str] = ()
    executor: Executor | None = None
    sources: Sequence[Source] = field(default_factory=tuple)


def make(request: Request, on_step: OnStep = lambda step: None, on_run: OnRun = lambda run, left: None) -> Mapping[str, Any]:
    """Make the networks, write all files into the folder, and return what ``portfolio.json`` says.

    Raises a McupruneError where no answer is possible, and leaves no new folder then that holds nothing: what ``pruning.prune``
    raises; UsageError for a folder that holds something else. A portfolio that was finished by the same request is kept as it
    is, and one by another refused.
    """
    with places.leaving_none_empty(request.folder):
        return _make(request, Path(request.folder), on_step, on_run)


def _make(request: Request, folder: Path, on_step: OnStep, on_run: OnRun) -> Mapping[str, Any]:
    tracking.refuse_lacking(request.pruning.track)
    _settle(request, folder)
    if request.pruning.resume and os.path.exists(folder / manifest.DOCUMENT):
        return _kept(request, folder)
    if request.export:
        _refuse_export(request)
    if request.mode == "independent":
        assert request.executor is not None
        portfolio = independent.make(request.pruning, request.variants, folder, request.words, request.executor, on_run)
    else:
        train = sparse.sparse if request.mode == "sparse" else nested.nested
        with tracking.following(request.pruning, on_step) as tell:
            portfolio = nested.make(request.pruning, request.variants, folder, tell, train)
    exported = _export(request, folder, portfolio.variants)
    portfolio = replace(
        portfolio,
        variants=[_with_files(entry, exported[entry["name"]]) for entry in portfolio.variants],
        course=_whole_course(portfolio.course, request),
    )
    document = manifest.document(
        portfolio,
        model=request.pruning.model,
        mode=request.mode,
        seed=request.pruning.seed,
        basis=request.pruning.basis,
        bytes_in=_bytes_by_suffix(folder, portfolio.variants),
    )
    for name, page in reversed([*report.PAGES.items()]):  # the document last: where it is, all is
        places.write_bytes(page(document).encode(), folder / name)
    _remove_states(folder)
    return document


def _whole_course(course: Mapping[str, str], request: Request) -> dict[str, str]:
    return {**course, "--export": ",".join(sorted(request.export))}


def _remove_states(folder: Path) -> None:
    for state in folder.glob("*.checkpoint"):
        Checkpoint(state, {}).remove()


def _kept(request: Request, folder: Path) -> Mapping[str, Any]:
    """What ``portfolio.json`` says, where it is of the same request, and its files are as they were. Raises UsageError."""
    path = folder / manifest.DOCUMENT
    document = rerun.stored(path, "portfolio")
    try:
        for page in report.PAGES.values():
            page(document)
        course = {name: str(text) for name, text in document["course"].items()}
        digests = {str(file): digest for entry in document["variants"] for file, digest in entry["files"].items()}
        files = [*digests, *(str(file) for entry in document["variants"] for file in entry["exported"])]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
        said = f"{type(error).__name__}: {error}"
        raise UsageError(f"{path}: is no whole record of a portfolio ({said}); name another -o to make it again") from None
    run, budgets = nested.prepared(request.pruning, request.variants, folder)
    now = _whole_course(nested.course_of(run, request.variants, budgets, request.mode), request)
    if differing := differences(course, now):
        raise UsageError(
            f"{path}: is of another command, model or data ({differing}); --resume needs the same; name another -o"
        )
    for file in files:
        if not (folder / file).is_file():
            raise UsageError(f"{folder / file}: is missing of a finished portfolio; name another -o to make it again")
    for file, digest in digests.items():
        if manifest.digest(folder / file) != digest:
            raise UsageError(f"{folder / file}: is not the file that {path} is about; name another -o")
    _remove_states(folder)
    return document


def _settle(request: Request, folder: Path) -> None:
    """Refuse a folder that the work would destroy something in."""
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise UsageError(f"-o {folder}: is no folder; name one for the networks")
    held = []
    if os.path.isdir(folder):
        try:
            held = os.listdir(folder)
        except OSError as error:
            raise UsageError(f"-o {folder}: can't be read ({cause(error)}); name another folder") from None
    earlier = any(name == manifest.DOCUMENT or name.endswith(".checkpoint") for name in held)
    if not (request.pruning.resume and earlier) and held:
        hint = "--resume goes on with it" if earlier else "name an empty one, or a new one"
        raise UsageError(f"-o {folder}: holds {'a portfolio' if earlier else 'files'} already; {hint}")
    suffixes = ["onnx", *(["tflite"] if "tflite" in request.export else [])]
    names = [*report.PAGES, *(f"{variant.name}.{suffix}" for variant in request.variants for suffix in suffixes)]
    outputs = [Output("-o", str(folder / name), make_folder=True) for name in names]
    places.settle(
        outputs, [*preparing.sources(replace(request.pruning, output=str(folder / nested.TRAINING))), *request.sources]
    )


def _refuse_export(request: Request) -> None:
    """Raise UsageError or UnsupportedOperator, before the work, for what can't be exported at its end."""
    asked = request.pruning
    for kind in request.export:
        if kind not in EXPORTS:
            raise UsageError(f"--export {kind}: unknown; choose one of {', '.join(EXPORTS)}, or both with a comma")
    net = network.load(asked.model, input_shapes=asked.input_shapes, outputs=asked.outputs, accept=ops.accept(asked.model))
    if lacking := resources.profile(net).memory.unsupported:
        raise UnsupportedOperator(f"{asked.model}: --export: {lacking[0].removeprefix(f'{net.path}: ')}, or leave --export out")
    if "c" in request.export:
        onchip.need_compiler()


def _export(request: Request, folder: Path, entries: Sequence[Mapping[str, Any]]) -> Mapping[str, Sequence[str]]:
    """Write what was asked for beside ONNX; paths within the folder, by variant."""
    written: dict[str, list[str]] = {entry["name"]: [] for entry in entries}
    if "tflite" in request.export:
        for name, files in written.items():
            exporting.export(exporting.Request(str(folder / f"{name}.onnx"), str(folder / f"{name}.tflite")))
            files.append(f"{name}.tflite")
    if "c" in request.export:
        files_of = onchip.write(folder, [entry["name"] for entry in entries], request.pruning)
        for name, files in written.items():
            files += files_of[name]
    return written


def _with_files(entry: Mapping[str, Any], folder_files: Sequence[str]) -> dict[str, Any]:
    return dict(entry) | {"exported": list(folder_files)}


def _bytes_by_suffix(folder: Path, entries: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Bytes of all files of the variants together, by suffix."""
    total: dict[str, int] = {}
    for entry in entries:
        for file in (entry["path"], *entry["exported"]):
            suffix = Path(file).suffix
            total[suffix] = total.get(suffix, 0) + (folder / file).stat().st_size
    return total
