"""The report of a prune: one document, and what is drawn from it alone.

``document`` is ``report.json``; ``text`` and ``markdown`` read nothing but that document, so whatever they say can be looked up
in it, and a stored one can be drawn again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mcuprune import __version__, escape, options, places, units
from mcuprune.bands.plan import embedded_line, region_document, region_line
from mcuprune.costs.resources import RESOURCES
from mcuprune.data.firmware import formula
from mcuprune.notebook import draws
from mcuprune.report import bands as banding
from mcuprune.report import profile as report
from mcuprune.report import sensitivity as curves
from mcuprune.result import Bands, Bisection, Figures, Result, Training
from mcuprune.train.request import AT_INIT
from mcuprune.train.task import Step
from mcuprune.train.tasks.metrics import Metric

#: How many of the operators that can't run in bands the text names.
_ENDINGS = 3
#: Format 1, 2026: the first.
FORMAT = 1
#: From this share of the time on it is worth a word that training waits for data.
_SLOW_DATA = 0.05


def document(result: Result) -> dict[str, Any]:
    """The outcome as JSON values: integers in base units, accuracies as shares of 1, None where there was no data."""
    request = result.request
    return {
        "format": FORMAT,
        "mcuprune": __version__,
        "command": "prune",
        "ok": result.ok,
        "seed": request.seed,
        "method": request.method if request.train or request.method == AT_INIT else "no-train",
        "options": options.document(request),
        "training": _training(result.training) if result.training else None,
        **report.models(request.basis),
        "weight_bits": request.weight_bits if request.int8 else None,
        "data": result.data,
        "preprocessing": None if result.preprocessing is None else result.preprocessing.document(),
        "test_examples": result.test_examples,
        "budget": dict(result.budget.limits),
        "limits": {
            name: {"used": used, "limit": result.budget.limits[name], "ok": used <= result.budget.limits[name]}
            for name, used in result.verdict.used.items()
        },
        "before": {**report.profile_document(result.before), "accuracy": result.accuracy},
        "after": {
            **report.profile_document(result.after),
            "accuracy_float": result.accuracy_float,
            "accuracy_int8": result.accuracy_int8,
            "accuracy_int8_default_session": result.accuracy_int8_default_session,
        },
        "metric": _metric(result.figures) if result.figures else None,
        "classes": list(result.classes) or None,
        "bisection": None if result.bisection is None else _bisection(result.bisection),
        "groups": [
            {"name": group.name, "before": group.before, "after": group.after, "kept": list(group.kept)}
            for group in result.groups
        ],
        "sensitivity": result.sensitivity.document() if result.sensitivity else None,
        "history": [step_document(step) for step in result.history],
        "cost": {
            "seconds": round(result.seconds, 1),
            "training_macs": result.training_macs,
            "full_training_macs": result.full_training_macs,
            "data_wait": _waited(result),
        },
        "notes": list(result.notes),
        "bands": None if result.bands is None else _bands(result.bands),
    }


def _bands(bands: Bands) -> dict[str, Any]:
    """How the written file runs in row bands, beside the same network without."""
    return {
        "plain": banding.numbers(bands.plain),
        "written": banding.numbers(bands.written),
        "regions": [region_document(choice) for choice in bands.choices],
        "embedded": list(bands.embedded),
        "endings": banding.endings_document(bands.endings),
    }


def _metric(figures: Figures) -> dict[str, Any]:
    """The figures of the task: values by when they were measured, None for what is not int8."""
    before = figures.before

    def values(found: Metric | None) -> dict[str, Any] | None:
        return None if found is None else {"value": found.value, **found.more}

    return {
        "task": figures.task,
        "title": figures.title,
        "against": "targets" if figures.labelled else "the model as it came",
        "name": before.name,
        "shown_as": before.title,
        "unit": before.unit,
        "better": before.better,
        "before": values(before),
        "after_float": values(figures.floats),
        "after_int8": values(figures.int8),
        "after_int8_default_session": values(figures.int8_default_session),
    }


def _bisection(found: Bisection) -> dict[str, Any]:
    """The budgets that were tried, in their order, in base units."""
    return {
        "minimise": found.minimise,
        "max_drop": found.drop,
        "floor": found.floor,
        "best": found.best,
        "stages": [asdict(stage) for stage in found.stages],
    }


def _waited(result: Result) -> float | None:
    """The share of its time that training stood still for want of data, over phases by their steps; None without training."""
    last = {step.phase: step for step in result.history if step.waited is not None}
    steps = {phase: sum(step.phase == phase for step in result.history) for phase in last}
    whole = sum(steps.values())
    return round(sum(float(last[phase].waited or 0) * count for phase, count in steps.items()) / whole, 4) if whole else None


def _training(training: Training) -> dict[str, Any]:
    """Settings by the names of their flags, where they have one."""
    settings = asdict(training.schedule)
    return {
        "from": "trained" if training.trained else "scratch",
        "distill": training.taught,
        "examples": training.examples,
        "epochs": (settings.pop("epochs") + settings["quant_epochs"]) or None,
        "freeze_at_budget": settings.pop("freeze"),
        **settings,
        **asdict(training.search),
        "augment": training.augment,
        "device": training.device,
        "versions": {name: version(name) for name in ("torch", "onnxruntime", "onnx", "numpy")},
    }


def step_document(step: Step) -> dict[str, Any]:
    """One line of the history."""
    return {
        "step": step.step,
        "epoch": round(step.epoch, 3),
        "phase": step.phase,
        "loss": round(step.loss, 5),
        **{name: step.costs[name] for name in RESOURCES if name in step.costs},
        "accuracy": None if step.accuracy is None else round(step.accuracy, 5),
        "metric": None if step.score is None else round(step.score, 5),
        "training_macs": step.training_macs,
    }


def write(found: Mapping[str, Any]) -> str:
    """The document as ``report.json`` holds it."""
    return report.dumped(found)


def save(found: Mapping[str, Any], folder: str | Path) -> tuple[Path, Path]:
    """Write ``report.json`` and ``report.md``; returns their paths. Raises OutputError."""
    json, readable = Path(folder) / "report.json", Path(folder) / "report.md"
    places.write_bytes(write(found).encode(), json)
    places.write_bytes(markdown(found).encode(), readable)
    return json, readable


def text(found: Mapping[str, Any]) -> str:
    """The table that ends a run."""
    paths = (escape.plain(found[when]["path"]) for when in ("before", "after"))
    lines = [f"{' -> '.join(paths)}: {'fits' if found['ok'] else 'DOES NOT FIT'}", ""]
    lines += report.align(_table(found), "<>>>>>")
    if found.get("bisection"):
        lines += ["", *report.align(_stages(found), "<>>>>")]
    lines += ["", *map(escape.plain, _remarks(found))]
    return "\n".join(lines) + "\n"


def markdown(found: Mapping[str, Any]) -> str:
    """``report.md``."""
    head, *rows = _table(found)
    lines = [
        f"# {escape.inline(found['before']['path'])}",
        "",
        f"Pruned to {escape.code(found['after']['path'])}: {'fits' if found['ok'] else '**does not fit**'}.",
        "",
    ]
    lines += report.markdown_table(head, ["<", ">", ">", ">", ">", ">"], rows)
    if found.get("bisection"):
        head, *rows = _stages(found)
        lines += ["", "## Budgets that were tried", "", *report.markdown_table(head, ["<", ">", ">", ">", "<"], rows)]
    lines += ["", *(f"* {escape.inline(line)}" for line in _remarks(found)), ""]
    lines += ["## Groups of channels", ""]
    groups = [[escape.code(g["name"]), str(g["before"]), str(g["after"])] for g in found["groups"]]
    lines += report.markdown_table(["group", "before", "after"], ["<", ">", ">"], groups)
    if found["sensitivity"]:
        lines += ["", "## Sensitivity", "", *curves.markdown(found["sensitivity"])]
    lines += ["", "## Options", ""]
    asked = [[escape.code(name), escape.inline(f"{value}")] for name, value in found["options"].items() if value is not None]
    lines += report.markdown_table(["option", "value"], ["<", "<"], asked)
    if found["training"]:
        lines += ["", "## Training", ""]
        settings = dict(found["training"])
        settings |= settings.pop("versions")
        said = [
            [name.replace("_", " "), "" if value is None else escape.inline(f"{value}")] for name, value in settings.items()
        ]
        lines += report.markdown_table(["setting", "value"], ["<", "<"], said)
    evaluated = [step for step in found["history"] if _score(step) is not None]
    if evaluated:
        known = [name for name in RESOURCES if name in evaluated[0]]
        titles = [RESOURCES[name].title for name in known]
        figure = f"{(_task(found) or {})['shown_as']} (validation)"
        head = ["phase", "epoch", "training MACs", "loss", *titles, figure]
        lines += ["", "## History", ""]
        lines += report.markdown_table(
            head,
            ["<", *[">"] * (len(head) - 1)],
            [
                [
                    step["phase"],
                    f"{step['epoch']:g}",
                    units.show(step.get("training_macs", 0), "count"),
                    f"{step['loss']:.4f}",
                    *(units.show(step[name], RESOURCES[name].unit) for name in known),
                    _value(_task(found) or {}, _score(step)),
                ]
                for step in evaluated
            ],
        )
    return "\n".join(lines) + "\n"


@draws(Result)
def html(result: Result) -> str:
    """What a notebook shows of a result: the table that ends a run, the remarks, and memory over the schedule."""
    found = document(result)
    head, *rows = _table(found)
    state = "fits" if result.ok else "does not fit"
    remarks = "".join(f"<li>{escape.markup(remark)}</li>" for remark in _remarks(found))
    table = report.html_table(head, "<>>>>>", rows)
    sensitive = f"{curves.html(found['sensitivity'])}\n" if found["sensitivity"] else ""
    return f"<p><b>{state}</b></p>\n{table}\n<ul>{remarks}</ul>\n<figure>{report.svg(result.after)}</figure>\n{sensitive}"


def _table(found: Mapping[str, Any]) -> list[list[str]]:
    """Head and one row for each resource and accuracy."""
    rows = [["", "before", "after", "", "limit", ""]]
    for name, resource in RESOURCES.items():
        if name not in found["after"]["total"]:
            continue
        before, after = _used(found, "before", name), _used(found, "after", name)
        limit = found["limits"].get(name)
        rows.append(
            [
                f"{resource.title} ({found[f'{name}_model']})"
                if resource.under(found.get(f"{name}_model")) is not resource
                else resource.title,
                units.show(before, resource.unit),
                units.show(after, resource.unit),
                f"{after / before:.0%}" if before else "",
                units.show(limit["limit"], resource.unit) if limit else "",
                "" if limit is None else "pass" if limit["ok"] else f"over by {after - limit['limit']}",
            ]
        )
    if (metric := _task(found)) is not None:
        before, floats, int8 = (metric[when] and metric[when]["value"] for when in ("before", "after_float", "after_int8"))
        rows.append([metric["shown_as"], _value(metric, before), _value(metric, floats), "", "", "float"])
        if int8 is not None:
            rows.append(["", "", _value(metric, int8), "", "", "int8"])
    return rows


def _stages(found: Mapping[str, Any]) -> list[list[str]]:
    """Head and one row for each budget that was tried, the one that was taken marked."""
    bisection, metric = found["bisection"], found["metric"]
    unit = RESOURCES[bisection["minimise"]].unit
    rows = [["", f"{RESOURCES[bisection['minimise']].title} limit", "used", metric["shown_as"], "floor"]]
    for stage in bisection["stages"]:
        if stage["used"] is None:
            rows.append(["", units.show(stage["limit"], unit), "", "", "no cut is so small"])
            continue
        taken = "> " if stage["number"] == bisection["best"] else ""
        limit = f"{units.show(stage['limit'], unit)} ({stage['share']:.0%})"
        above = "above" if stage["holds"] else "below"
        rows.append([taken, limit, units.show(stage["used"], unit), _value(metric, stage["figure"]), above])
    rows[1][-1] += f" {_value(metric, bisection['floor'])}"
    return rows


def _used(found: Mapping[str, Any], when: str, resource: str) -> int:
    """What a limit of this resource is held against: for SRAM, what was asked for."""
    limited = RESOURCES[resource].under(found.get(f"{resource}_model"))
    part, key = limited.place or ("total", limited.name)
    return int(found[when][part][key])


def _remarks(found: Mapping[str, Any]) -> list[str]:
    lines = []
    kept = sum(group["after"] for group in found["groups"])
    whole = sum(group["before"] for group in found["groups"])
    lines.append(f"channels: {kept} of {whole} kept, in {len(found['groups'])} groups")
    if (metric := _task(found)) is not None:
        exact = "; int8 without its graph optimisation" if metric["after_int8"] is not None else ""
        against = "" if metric["against"] == "targets" else ", against the answers of the model as it came"
        lines.append(
            f"{metric['shown_as']}: on {found['test_examples']} test examples of {found['data']}, "
            f"in onnxruntime{exact}{against}"
        )
        lines += _beside(metric)
    if found.get("sram_model", "peak") != "peak":
        memory = found["after"]["memory"]
        peak, arena = (units.show(memory[key], "bytes") for key in ("peak", "arena_tflm"))
        lines.append(f"memory: peak of activations {peak}, arena of TensorFlow Lite Micro {arena}")
    cost = found["cost"]
    if cost["full_training_macs"]:
        share = cost["training_macs"] / cost["full_training_macs"]
        before = ", after one forward pass of the teacher" if (found["training"] or {}).get("distill") else ""
        epochs = f"{_epochs(found):.3g} epochs of the whole model"
        lines.append(f"training: as many multiply-accumulates as {epochs}; {share:.0%} of the same steps at full width{before}")
    if found.get("bands") is not None:  # reports stored before there were bands have none
        lines += _in_bands(found["bands"])
    if cost.get("data_wait") is not None and cost["data_wait"] >= _SLOW_DATA:
        lines.append(f"data: training stood still for want of it {cost['data_wait']:.0%} of the time")
    if found.get("preprocessing"):
        how = found["preprocessing"]
        if how["found_by"] != "default" or how["scale"] != 1:
            lines.append(f"preprocessing: {formula(how)}; found by {how['found_by']}")
    return lines + [f"note: {note}" for note in found["notes"]]


def _in_bands(bands: Mapping[str, Any]) -> list[str]:
    """What runs in bands and what it costs; what can't, where SRAM is most."""
    before, after, lines = bands["plain"], bands["written"], []
    if not bands["regions"] and not bands["embedded"]:
        lines.append("row bands: none, the limits hold without or nothing needs less in them")
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
    return lines


def _task(found: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The figures of the task; of a document that was stored before there were any but accuracies, these."""
    if "metric" in found or found["before"]["accuracy"] is None:
        return found.get("metric")
    after = found["after"]
    int8 = None if after["accuracy_int8"] is None else {"value": after["accuracy_int8"]}
    known = {"name": "accuracy", "shown_as": "accuracy", "unit": "share", "against": "targets"}
    return {
        **known,
        "before": {"value": found["before"]["accuracy"]},
        "after_float": {"value": after["accuracy_float"]},
        "after_int8": int8,
    }


def _score(step: Mapping[str, Any]) -> float | None:
    """The figure on the validation examples at a line of the history."""
    found: float | None = step.get("metric", step["accuracy"])
    return found


def _value(metric: Mapping[str, Any], value: float | None) -> str:
    """A figure of the task for people."""
    if value is None:
        return ""
    return f"{value:.1%}" if metric["unit"] == "share" else f"{value:.4g}"


#: What is said of figures beside the first: name in JSON -> for people, and how.
_BESIDE = {"snr_db": ("SNR", "{:.1f} dB"), "r2": ("R2", "{:.3f}"), "pixel_accuracy": ("right places", "{:.1%}")}


def _beside(metric: Mapping[str, Any]) -> list[str]:
    """Other figures of the file that was written, of each output where there are several."""
    after, said = metric["after_int8"] or metric["after_float"], []
    for name, value in after.items():
        output, _, key = name.rpartition("/")
        if value is not None and (key in _BESIDE or (key == "accuracy" and metric["name"] != "accuracy")):
            title, shown = _BESIDE.get(key, ("accuracy", "{:.1%}"))
            said.append(f"{title} {shown.format(value)}{f' of {output}' if output else ''}")
    return [f"of the file written: {', '.join(said)}"] if said else []


def _epochs(found: Mapping[str, Any]) -> float:
    """What training cost in epochs of the whole model: the number that ``--train-compute`` takes."""
    training = found["training"]
    per_epoch = max(1, training["examples"] // training["batch"]) * training["batch"]
    return float(found["cost"]["training_macs"] / max(1, per_epoch * found["before"]["total"]["macs"]))


__all__: Sequence[str] = ("document", "html", "markdown", "save", "step_document", "text", "write")
