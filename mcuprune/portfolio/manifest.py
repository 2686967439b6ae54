"""``portfolio.json``: what a portfolio's networks cost and know, by their files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcuprune import __version__
from mcuprune.costs import resources
from mcuprune.costs.resources import RESOURCES, Budget, Profile, SramModel
from mcuprune.graph import network
from mcuprune.operators import table as ops
from mcuprune.report import profile as report
from mcuprune.train import evaluate
from mcuprune.train.data import Split

#: The file that says what is in a folder.
DOCUMENT = "portfolio.json"
#: Format 1, 2026: the first.
FORMAT = 1


@dataclass(frozen=True)
class Made:
    """What a road has made. variants: entries of the document, as ``measured`` gives them.

    before: the network as it came; accuracy: its own. one_training_macs: of one training of the whole network, as long as this
    was to be; None where that isn't known. full_training_macs: of the steps that were taken, at full width.
    """

    variants: Sequence[Mapping[str, Any]]
    before: Profile
    accuracy: float | None
    data: str | None
    test_examples: int
    seconds: float
    training_macs: int
    full_training_macs: int
    one_training_macs: int | None
    history: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()


def measured(
    path: Path, name: str, budget: Budget, sram_model: SramModel, test: Split | None, accuracy_float: float | None
) -> dict[str, Any]:
    """The entry of a variant, by its file: it is read again, profiled again, and run in onnxruntime."""
    written = network.load(str(path), accept=ops.accept(str(path)))
    after = resources.profile(written)
    int8 = evaluate.int8_accuracy(str(path), test) if test is not None else None
    used = after.used(sram_model)
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
        "used": used,
        "arena_tflm": after.memory.arena_tflm,
        "accuracy_float": accuracy_float,
        "accuracy_int8": None if int8 is None else int8.exact,
        "accuracy_int8_default_session": None if int8 is None else int8.default_session,
        "test_examples": 0 if test is None else len(test.y),
        "files": {path.name: digest(path)},
        "notes": [int8.warning] if int8 is not None and int8.warning else [],
    }


def digest(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    return digest_of(Path(path).read_bytes())


def digest_of(content: bytes) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def document(
    made: Made, *, model: str, mode: str, seed: int, sram_model: SramModel, bytes_in: Mapping[str, int]
) -> dict[str, Any]:
    """The whole document as JSON values. bytes_in: of all files together, by their suffix."""
    front = pareto(made.variants)
    variants = [{**entry, "pareto": entry["name"] in front} for entry in made.variants]
    return {
        "format": FORMAT,
        "mcuprune": __version__,
        "command": "portfolio",
        "ok": all(entry["ok"] for entry in variants),
        "model": model,
        "mode": mode,
        "seed": seed,
        "sram_model": sram_model,
        "data": made.data,
        "test_examples": made.test_examples,
        "before": {
            **report.profile_document(made.before),
            "used": made.before.used(sram_model),
            "accuracy": made.accuracy,
        },
        "variants": variants,
        "flash": {"sum": sum(entry["total"]["flash"] for entry in variants), "files": dict(bytes_in)},
        "sram": {"largest": max(entry["total"]["sram"] for entry in variants)},
        "cost": {
            "seconds": round(made.seconds, 1),
            "training_macs": made.training_macs,
            "full_training_macs": made.full_training_macs,
            "one_training_macs": made.one_training_macs,
        },
        "history": [dict(line) for line in made.history],
        "notes": list(made.notes),
    }


def accuracy(entry: Mapping[str, Any]) -> float:
    """What a variant knows: of the file as it is written, on the test set; 0 where there was none."""
    return float(entry["accuracy_int8"] or 0.0)


def pareto(entries: Sequence[Mapping[str, Any]]) -> set[str]:
    """The names of variants that no other one beats: at least as accurate, nowhere dearer, and better in something."""

    def beats(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        pairs = [(one["total"][name], other["total"][name]) for name in RESOURCES]
        no_worse = accuracy(one) >= accuracy(other) and all(mine <= others for mine, others in pairs)
        return no_worse and (accuracy(one) > accuracy(other) or any(mine < others for mine, others in pairs))

    return {entry["name"] for entry in entries if not any(beats(other, entry) for other in entries)}
