"""What is said of a prune, read off its document alone: tables, remarks, figures of the task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcuprune import units
from mcuprune.bands.plan import embedded_line, region_line
from mcuprune.costs.resources import RESOURCES
from mcuprune.data.firmware import how_fed
from mcuprune.deploy import rowreport

#: How many of the operators that can't run in bands the text names.
_ENDINGS = 3


#: From this share of the time on it is worth a word that training waits for data.
_SLOW_DATA = 0.05


#: What is said of figures beside the first: name in JSON -> for people, and how.
_BESIDE = {"snr_db": ("SNR", "{:.1f} dB"), "r2": ("R2", "{:.3f}"), "pixel_accuracy": ("right places", "{:.1%}")}


def table(document: Mapping[str, Any]) -> list[list[str]]:
    """Head and one row for each resource and accuracy."""
    rows = [["", "before", "after", "", "limit", ""]]
    for name, resource in RESOURCES.items():
        if name not in document["after"]["total"]:
            continue
        before, after = _used(document, "before", name), _used(document, "after", name)
        limit = document["limits"].get(name)
        rows.append(
            [
                f"{resource.title} ({document[f'{name}_model']})"
                if resource.under(document.get(f"{name}_model")) is not resource
                else resource.title,
                units.show(before, resource.unit),
                units.show(after, resource.unit),
                f"{after / before:.0%}" if before else "",
                units.show(limit["limit"], resource.unit) if limit else "",
                "" if limit is None else "pass" if limit["ok"] else f"over by {after - limit['limit']}",
            ]
        )
    if (metric := task_of(document)) is not None:
        before, floats, int8 = (metric[when] and metric[when]["value"] for when in ("before", "after_float", "after_int8"))
        rows.append([metric["shown_as"], shown(metric, before), shown(metric, floats), "", "", "float"])
        if int8 is not None:
            rows.append(["", "", shown(metric, int8), "", "", "int8"])
    return rows


def stages(document: Mapping[str, Any]) -> list[list[str]]:
    """Head and one row for each budget that was tried, the one that was taken marked."""
    bisection, metric = document["bisection"], document["metric"]
    unit = RESOURCES[bisection["minimise"]].unit
    rows = [["", f"{RESOURCES[bisection['minimise']].title} limit", "used", metric["shown_as"], "floor"]]
    for stage in bisection["stages"]:
        if stage["used"] is None:
            rows.append(["", units.show(stage["limit"], unit), "", "", "no cut is so small"])
            continue
        taken = "> " if stage["number"] == bisection["best"] else ""
        limit = f"{units.show(stage['limit'], unit)} ({stage['share']:.0%})"
        above = "above" if stage["holds"] else "below"
        rows.append([taken, limit, units.show(stage["used"], unit), shown(metric, stage["figure"]), above])
    rows[1][-1] += f" {shown(metric, bisection['floor'])}"
    return rows


def _used(document: Mapping[str, Any], when: str, resource: str) -> int:
    """What a limit of this resource is held against: for SRAM, what was asked for."""
    limited = RESOURCES[resource].under(document.get(f"{resource}_model"))
    part, key = limited.place or ("total", limited.name)
    return int(document[when][part][key])


def remarks(document: Mapping[str, Any]) -> list[str]:
    """What is to be said beside the table of a prune, a line each."""
    lines = []
    kept = sum(group["after"] for group in document["groups"])
    whole = sum(group["before"] for group in document["groups"])
    lines.append(f"channels: {kept} of {whole} kept, in {len(document['groups'])} groups")
    if (metric := task_of(document)) is not None:
        exact = "; int8 without its graph optimisation" if metric["after_int8"] is not None else ""
        against = "" if metric["against"] == "targets" else ", against the answers of the model as it came"
        lines.append(
            f"{metric['shown_as']}: on {document['test_examples']} test examples of {document['data']}, "
            f"in onnxruntime{exact}{against}"
        )
        lines += _beside(metric)
    if document.get("sram_model", "peak") != "peak":
        memory = document["after"]["memory"]
        peak, arena = (units.show(memory[key], "bytes") for key in ("peak", "arena_tflm"))
        lines.append(f"memory: peak of activations {peak}, arena of TensorFlow Lite Micro {arena}")
    cost = document["cost"]
    if cost["full_training_macs"]:
        share = cost["training_macs"] / cost["full_training_macs"]
        before = ", after one forward pass of the teacher" if (document["training"] or {}).get("distill") else ""
        epochs = f"{_epochs(document):.3g} epochs of the whole model"
        lines.append(f"training: as many multiply-accumulates as {epochs}; {share:.0%} of the same steps at full width{before}")
    if document.get("bands") is not None:  # reports stored before there were bands have none
        lines += _in_bands(document["bands"])
    if cost.get("data_wait") is not None and cost["data_wait"] >= _SLOW_DATA:
        lines.append(f"data: training stood still for want of it {cost['data_wait']:.0%} of the time")
    if document.get("preprocessing"):
        how = document["preprocessing"]
        if how["found_by"] != "default" or how["scale"] != 1:
            lines.append(f"preprocessing: {how_fed(how)}")
    return lines + [f"note: {note}" for note in document["notes"]]


def _in_bands(bands: Mapping[str, Any]) -> list[str]:
    """What runs in bands and what it costs; what can't, where SRAM is most."""
    before, after, lines = bands["plain"], bands["written"], []
    if not bands["regions"] and not bands["embedded"]:
        lines.append("row bands: none, the limits hold without or no bands within them need less")
    for region in bands["regions"]:
        lines.append(f"row bands: {region_line(region)}")
    if bands["embedded"]:
        lines.append(embedded_line(bands["embedded"]))
    if bands["regions"] or bands["embedded"]:
        changes = [("peak", "peak"), ("arena_tflm", "arena"), ("arena_tail", "its tail")]
        told = [f"{word} {units.show(before[key], 'bytes')} -> {units.show(after[key], 'bytes')}" for key, word in changes]
        lines.append(f"the same network without bands -> in them: {', '.join(told)}")
    for ending in sorted(bands["endings"], key=lambda ending: -ending["sram"])[:_ENDINGS]:
        size = units.show(ending["sram"], "bytes")
        lines.append(f"not in bands: {ending['op']} '{ending['node']}' {ending['why']}; {size} of SRAM around it")
    if bands.get("rows") is not None:
        lines += rowreport.lines(bands["rows"])
    return lines


def task_of(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The figures of the task; of a document that was stored before there were any but accuracies, these."""
    if "metric" in document or document["before"]["accuracy"] is None:
        return document.get("metric")
    after = document["after"]
    int8 = None if after["accuracy_int8"] is None else {"value": after["accuracy_int8"]}
    known = {"name": "accuracy", "shown_as": "accuracy", "unit": "share", "against": "targets"}
    return {
        **known,
        "before": {"value": document["before"]["accuracy"]},
        "after_float": {"value": after["accuracy_float"]},
        "after_int8": int8,
    }


def score(step: Mapping[str, Any]) -> float | None:
    """The figure on the validation examples at a line of the history."""
    score: float | None = step.get("metric", step["accuracy"])
    return score


def shown(metric: Mapping[str, Any], value: float | None) -> str:
    """A figure of the task for people."""
    return "" if value is None else units.figure(value, metric["unit"])


def _beside(metric: Mapping[str, Any]) -> list[str]:
    """Other figures of the file that was written, of each output where there are several."""
    after, said = metric["after_int8"] or metric["after_float"], []
    for name, value in after.items():
        output, _, key = name.rpartition("/")
        if value is not None and (key in _BESIDE or (key == "accuracy" and metric["name"] != "accuracy")):
            title, shown = _BESIDE.get(key, ("accuracy", "{:.1%}"))
            said.append(f"{title} {shown.format(value)}{f' of {output}' if output else ''}")
    return [f"of the file written: {', '.join(said)}"] if said else []


def _epochs(document: Mapping[str, Any]) -> float:
    """What training cost in epochs of the whole model: the number that ``--train-compute`` takes."""
    training = document["training"]
    per_epoch = max(1, training["examples"] // training["batch"]) * training["batch"]
    return float(document["cost"]["training_macs"] / max(1, per_epoch * document["before"]["total"]["macs"]))
