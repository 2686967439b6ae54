"""Answers as JSON: one document, integers in base units only. Every number that some format shows is in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from math import ceil, floor
from typing import Any

from mcuprune import console
from mcuprune.costs.resources import Basis, Profile, Verdict
from mcuprune.deploy.latency import Range
from mcuprune.foreign import dumped as dumped
from mcuprune.report.answers import Answer, Refused, Report, Row, table
from mcuprune.report.wording import hint, limited

#: What the JSON of a layer calls its share of a resource, if not by the resource's own name.
_LAYER_KEYS = {"sram": "live"}


def json(report: Report) -> str:
    """One document, integers in base units only."""
    if report.refusal is not None:
        return console.json_error(report.refusal.kind, report.refusal.message)
    models = [
        {"path": answer.path, "ok": False, "error": _error(answer)} if isinstance(answer, Refused) else _json(answer, report)
        for answer in report.answers
    ]
    refused = [_error(answer) for answer in report.answers if isinstance(answer, Refused)]
    # whoever only asks whether there was an answer to everything finds it where it is in any other document of exit code 2
    error = {"error": refused[0]} if refused else {}
    return dumped(console.document(report.command, ok=report.ok, models=models, **error))


def _error(answer: Refused) -> dict[str, str]:
    return {"kind": answer.kind, "message": answer.message}


def models(basis: Basis) -> dict[str, str]:
    """What limits are held against, as JSON."""
    return {**{f"{key}_model": word for key, word in basis.models.items()}, "runtime": basis.runtime}


def _json(answer: Answer, report: Report) -> dict[str, Any]:
    document: dict[str, Any] = {"path": answer.profile.path, "opset": answer.profile.opset, "ok": answer.ok}
    if answer.verdict is not None or answer.growth is not None:
        document |= models(answer.basis)
        document["limits"] = {} if answer.verdict is None else _json_verdict(answer.verdict)
        document["hint"] = hint(answer) or None
    document |= profile_document(answer.profile)
    if answer.device:
        ranges = {"latency_us": answer.device.latency, "energy_nj": answer.device.energy}
        named = {"board": answer.device.board.name, "runtime": answer.device.runtime}
        document["device"] = {**named, **{k: _json_range(estimate) for k, estimate in ranges.items()}}
    document |= {section.key: section.document for section in answer.sections}
    shown = table(answer, report.view)
    document["table"] = {
        "by": report.view.by,
        "rows": [_json_row(row) for row in shown.rows],
        "others": _json_row(shown.others) if shown.others else None,
        "total": _json_row(shown.total),
    }
    if answer.old is not None:
        change = {key: value - answer.old.total[key] for key, value in answer.profile.total.items() if key in answer.old.total}
        document["against"] = {**profile_document(answer.old), "change": change}
        if answer.growth is not None:
            document["growth"] = _json_verdict(answer.growth)
    return document


def profile_document(profile: Profile) -> dict[str, Any]:
    """All that a profile knows, as JSON values."""
    memory = profile.memory
    return {
        "path": profile.path,
        "opset": profile.opset,
        "inputs": [{"name": name, "shape": list(shape)} for name, shape in profile.inputs],
        "outputs": [{"name": name, "shape": list(shape)} for name, shape in profile.outputs],
        "total": {**dict.fromkeys(profile.unknown.keys() & {"file", "image"}), **profile.total},
        "unknown": dict(profile.unknown),
        "memory": {
            "peak": memory.peak,
            "exact": memory.exact,
            "lower_bound": memory.lower_bound,
            "file_order": memory.file_order,
            "max_in_out": memory.max_in_out,
            "order": list(memory.order),
            "peak_node": memory.peak_node,
            "peak_tensors": _json_tensors(memory.peak_tensors),
            "arena_tflm": memory.arena_tflm,
            "arena_head": memory.arena_head,
            "arena_start": memory.arena_start,
            "arena_tail": asdict(memory.tail) if memory.tail else None,
            "arena_extra": [
                {"node": copy.node, "operator": copy.operator, "bytes": int(copy.bytes), "reason": copy.reason}
                for copy in memory.copies
            ],
            "unsupported": list(memory.unsupported),
            "only_c": memory.only_c or None,
            "timeline": [
                {"node": moment.node, "bytes": moment.bytes, "tensors": _json_tensors(moment.tensors)}
                for moment in memory.timeline
            ],
        },
        "groups": [
            {
                "name": group.name,
                "channels": len(group),
                "removable": group.removable,
                "minimum": group.minimum,
                "why": group.why,
                "nodes": list(group.nodes),
            }
            for group in profile.groups
        ],
        "layers": [
            {
                "node": layer.node,
                "op": layer.op,
                "shape": list(layer.shape),
                **{_LAYER_KEYS.get(key, key): share for key, share in layer.costs.items()},
                "reads": list(layer.reads),
            }
            for layer in profile.layers
        ],
    }


def _json_tensors(tensors: Iterable[tuple[str, int]]) -> list[dict[str, Any]]:
    return [{"name": name, "bytes": size} for name, size in tensors]


def _json_verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        key: {"used": used, "limit": limit, "ok": used <= limit, "over": max(0, used - limit)}
        for key, used, limit in limited(verdict)
    }


def _json_range(estimate: Range | None) -> dict[str, Any] | None:
    """In thousandths, outwards: microseconds of milliseconds, nanojoules of microjoules; limits hold the upper end."""
    if estimate is None:
        return None
    low, likely, high = (1000 * value for value in (estimate.low, estimate.likely, estimate.high))
    ends = {"low": floor(low), "likely": round(likely), "high": ceil(high)}
    return {**ends, "error": round(estimate.error, 3), "sources": list(estimate.sources)}


def _json_row(row: Row) -> dict[str, Any]:
    document: dict[str, Any] = {"name": row.name, "nodes": row.count, **row.used}
    if row.was is not None:
        document |= {"was": dict(row.was), "change": row.change, "state": row.state or "same"}
    return document
