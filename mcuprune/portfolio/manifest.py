"""``portfolio.json``: what a portfolio's networks cost and know, by their files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mcuprune import console
from mcuprune.costs import resources
from mcuprune.costs.resources import RESOURCES, Basis, Budget, Profile
from mcuprune.graph import network
from mcuprune.immutable import immutable
from mcuprune.operators import table as ops
from mcuprune.report import profile as report
from mcuprune.train import evaluate
from mcuprune.train.goal import Goal
from mcuprune.train.tasks.metrics import Metric

#: The file that says what is in a folder.
DOCUMENT = "portfolio.json"


@immutable
class Networks:
    """A portfolio's networks, and what making them took. variants: entries of the document, as ``measured`` gives them.

    course: what all depended on, texts by names for people.
    before: the network as it came; metric: its own figure. one_training_macs: of one training of the whole network, as long
    as this was to be; None where that isn't known. full_training_macs: of the steps that were taken, at full width.
    """

    variants: Sequence[Mapping[str, Any]]
    course: Mapping[str, str]
    before: Profile
    metric: Metric | None
    data: str | None
    test_examples: int
    seconds: float
    training_macs: int
    full_training_macs: int
    one_training_macs: int | None
    history: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()


def measured(path: Path, name: str, budget: Budget, basis: Basis, goal: Goal | None, of_float: Metric | None) -> dict[str, Any]:
    """The entry of a variant, by its file: it is read again, profiled again, and run in onnxruntime.

    of_float: its figure before it was quantised. Without a goal nothing is run, and what figures there are stays open.
    """
    written = network.load(str(path), accept=ops.accept(str(path)))
    after = resources.profile(written, basis)
    int8 = evaluate.int8_metric(str(path), goal.data.test, goal.objective) if goal is not None else None
    used = after.used(basis)
    verdict = budget.check(used)
    return {
        "name": name,
        "ok": verdict.ok,
        "path": path.name,
        "budget": dict(budget.limits),
        "limits": {
            name: {"used": used[name], "limit": limit, "ok": used[name] <= limit} for name, limit in budget.limits.items()
        },
        "total": dict(after.total),
        "used": _used(after, basis),
        "arena_tflm": after.memory.arena_tflm,
        "accuracy_float": None if of_float is None else of_float.accuracy,
        "accuracy_int8": None if int8 is None else int8.exact.accuracy,
        "accuracy_int8_default_session": None if int8 is None else int8.default_session.accuracy,
        "metric": None if int8 is None or of_float is None else figure(int8.exact, of_float),
        "test_examples": 0 if goal is None else len(goal.data.test),
        "files": {path.name: digest(path)},
        "notes": [int8.warning] if int8 is not None and int8.warning else [],
    }


def figure(int8: Metric, floats: Metric) -> dict[str, Any]:
    """The figure of the task, as JSON values."""
    return {
        "name": int8.name,
        "title": int8.title,
        "unit": int8.unit,
        "better": int8.better,
        "float": floats.value,
        "int8": int8.value,
    }


def digest(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    return digest_of(Path(path).read_bytes())


def digest_of(content: bytes) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def document(
    portfolio: Networks, *, model: str, mode: str, seed: int, basis: Basis, bytes_in: Mapping[str, int]
) -> dict[str, Any]:
    """The whole document as JSON values. bytes_in: of all files together, by their suffix."""
    front = pareto(portfolio.variants)
    variants = [{**entry, "pareto": entry["name"] in front} for entry in portfolio.variants]
    return console.document(
        "portfolio",
        ok=all(entry["ok"] for entry in variants),
        model=model,
        mode=mode,
        seed=seed,
        course=dict(portfolio.course),
        **report.models(basis),
        data=portfolio.data,
        test_examples=portfolio.test_examples,
        before={
            **report.profile_document(portfolio.before),
            "used": _used(portfolio.before, basis),
            "accuracy": None if portfolio.metric is None else portfolio.metric.accuracy,
        },
        variants=variants,
        flash={"sum": sum(entry["total"]["flash"] for entry in variants), "files": dict(bytes_in)},
        sram={"largest": max(entry["total"]["sram"] for entry in variants)},
        cost={
            "seconds": round(portfolio.seconds, 1),
            "training_macs": portfolio.training_macs,
            "full_training_macs": portfolio.full_training_macs,
            "one_training_macs": portfolio.one_training_macs,
        },
        history=[dict(line) for line in portfolio.history],
        notes=list(portfolio.notes),
    )


def _used(profile: Profile, basis: Basis) -> dict[str, int]:
    """What limits are held against, as far as it is known."""
    used = profile.used(basis)
    return {name: used[name] for name in RESOURCES if name in used}


def score(entry: Mapping[str, Any]) -> float:
    """How good a variant is, so that more is better: by the figure of its task, of the file as it is written."""
    value = float(entry["metric"]["int8"])
    return value if entry["metric"]["better"] == "higher" else -value


def pareto(entries: Sequence[Mapping[str, Any]]) -> set[str]:
    """The names of variants that no other one beats: at least as good, nowhere dearer, and better in something."""

    def beats(first: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        pairs = [(first["used"][name], other["used"][name]) for name in first["used"]]
        no_worse = score(first) >= score(other) and all(mine <= others for mine, others in pairs)
        return no_worse and (score(first) > score(other) or any(mine < others for mine, others in pairs))

    return {entry["name"] for entry in entries if not any(beats(other, entry) for other in entries)}
