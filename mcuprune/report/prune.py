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

from mcuprune import console, escape, options, places, rerun, units
from mcuprune.bands.plan import region_document
from mcuprune.costs.resources import RESOURCES
from mcuprune.notebook import draws
from mcuprune.report import answered, layer_noise, prune_page
from mcuprune.report import bands as banding
from mcuprune.report import profile as report
from mcuprune.report import sensitivity as curves
from mcuprune.report.pruned import remarks, score, shown, stages, table, task_of
from mcuprune.result import Bands, Bisection, Figures, Result, Training
from mcuprune.train.methods import METHODS
from mcuprune.train.task import Step
from mcuprune.train.tasks.metrics import Metric


def document(result: Result) -> dict[str, Any]:
    """The outcome as JSON values: integers in base units, accuracies as shares of 1, None where there was no data."""
    request = result.request
    return console.document(
        "prune",
        ok=result.ok,
        seed=request.seed,
        method=request.method if request.train or METHODS[request.method].before_training else "no-train",
        options=options.document(request),
        training=_training(result.training) if result.training else None,
        **report.models(request.basis),
        weight_bits=request.weight_bits if request.int8 else None,
        data=result.data,
        preprocessing=None if result.preprocessing is None else result.preprocessing.document(),
        test_examples=result.test_examples,
        budget=dict(result.budget.limits),
        limits={
            name: {"used": used, "limit": result.budget.limits[name], "ok": used <= result.budget.limits[name]}
            for name, used in result.verdict.used.items()
        },
        before={**report.profile_document(result.before), "accuracy": result.accuracy},
        after={
            **report.profile_document(result.after),
            "accuracy_float": result.accuracy_float,
            "accuracy_int8": result.accuracy_int8,
            "accuracy_int8_default_session": result.accuracy_int8_default_session,
        },
        metric=_metric(result.figures) if result.figures else None,
        classes=list(result.classes) or None,
        bisection=None if result.bisection is None else _bisection(result.bisection),
        groups=[
            {"name": group.name, "before": group.before, "after": group.after, "kept": list(group.kept)}
            for group in result.groups
        ],
        sensitivity=result.sensitivity.document() if result.sensitivity else None,
        history=[step_document(step) for step in result.history],
        cost={
            "seconds": round(result.seconds, 1),
            "training_macs": result.training_macs,
            "full_training_macs": result.full_training_macs,
            "data_wait": _waited(result),
        },
        notes=list(result.notes),
        int8_layers=None if result.int8_layers is None else result.int8_layers.document(),
        bands=None if result.bands is None else _bands(result.bands),
        confusion=answered.confusion(result.figures) if result.figures else None,
        changed=answered.changed(result.figures) if result.figures else None,
        **{rerun.KEY: rerun.record(result)},
    )


def _bands(bands: Bands) -> dict[str, Any]:
    """How the written file runs in row bands, beside the same network without."""
    return {
        "plain": banding.numbers(bands.plain),
        "written": banding.numbers(bands.written),
        "regions": [region_document(choice) for choice in bands.choices],
        "embedded": list(bands.embedded),
        "endings": banding.endings_document(bands.endings),
        "rows": None if bands.rows is None else bands.rows.document(),
    }


def _metric(figures: Figures) -> dict[str, Any]:
    """The figures of the task: values by when they were measured, None for what is not int8."""
    before = figures.before

    def values(metric: Metric | None) -> dict[str, Any] | None:
        return None if metric is None else {"value": metric.value, **metric.more}

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


def _bisection(search: Bisection) -> dict[str, Any]:
    """The budgets that were tried, in their order, in base units."""
    return {
        "minimise": search.minimise,
        "max_drop": search.drop,
        "floor": search.floor,
        "best": search.best,
        "stages": [asdict(stage) for stage in search.stages],
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
        "widths": None if step.widths is None else list(step.widths),
    }


def write(content: Mapping[str, Any]) -> str:
    """What ``document`` gives, as ``report.json`` holds it."""
    return report.dumped(content)


def pages(content: Mapping[str, Any]) -> dict[str, bytes]:
    """What ``report.json``, ``report.md`` and ``report.html`` hold."""
    drawn = {"report.json": write, "report.md": markdown, "report.html": prune_page.html}
    return {name: draw(content).encode("utf-8", "backslashreplace") for name, draw in drawn.items()}


def save(content: Mapping[str, Any], folder: str | Path) -> tuple[Path, Path, Path]:
    """Write ``report.json``, ``report.md`` and ``report.html``; returns their paths. Raises OutputError."""
    written = pages(content)
    for name, page in written.items():
        places.write_bytes(page, Path(folder) / name)
    json, readable, shown = (Path(folder) / name for name in written)
    return json, readable, shown


def text(content: Mapping[str, Any]) -> str:
    """The table that ends a run."""
    paths = (escape.plain(content[when]["path"]) for when in ("before", "after"))
    lines = [f"{' -> '.join(paths)}: {'fits' if content['ok'] else 'DOES NOT FIT'}", ""]
    lines += report.align(table(content), "<>>>>>")
    if content.get("bisection"):
        lines += ["", *report.align(stages(content), "<>>>>")]
    lines += ["", *map(escape.plain, remarks(content))]
    return "\n".join(lines) + "\n"


def markdown(content: Mapping[str, Any]) -> str:
    """``report.md``."""
    head, *rows = table(content)
    lines = [
        f"# {escape.inline(content['before']['path'])}",
        "",
        f"Pruned to {escape.code(content['after']['path'])}: {'fits' if content['ok'] else '**does not fit**'}.",
        "",
    ]
    lines += report.markdown_table(head, ["<", ">", ">", ">", ">", ">"], rows)
    if content.get("bisection"):
        head, *rows = stages(content)
        lines += ["", "## Budgets that were tried", "", *report.markdown_table(head, ["<", ">", ">", ">", "<"], rows)]
    lines += ["", *(f"* {escape.inline(line)}" for line in remarks(content)), ""]
    lines += ["## Groups of channels", ""]
    groups = [[escape.code(g["name"]), str(g["before"]), str(g["after"])] for g in content["groups"]]
    lines += report.markdown_table(["group", "before", "after"], ["<", ">", ">"], groups)
    if content["sensitivity"]:
        lines += ["", "## Sensitivity", "", *curves.markdown(content["sensitivity"])]
    if noise := layer_noise.markdown(content):
        lines += ["", *noise]
    lines += ["", "## Options", ""]
    asked = [[escape.code(name), escape.inline(f"{value}")] for name, value in content["options"].items() if value is not None]
    lines += report.markdown_table(["option", "value"], ["<", "<"], asked)
    if content["training"]:
        lines += ["", "## Training", ""]
        settings = dict(content["training"])
        settings |= settings.pop("versions")
        said = [
            [name.replace("_", " "), "" if value is None else escape.inline(f"{value}")] for name, value in settings.items()
        ]
        lines += report.markdown_table(["setting", "value"], ["<", "<"], said)
    evaluated = [step for step in content["history"] if score(step) is not None]
    if evaluated:
        known = [name for name in RESOURCES if name in evaluated[0]]
        titles = [RESOURCES[name].title for name in known]
        figure = f"{(task_of(content) or {})['shown_as']} (validation)"
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
                    shown(task_of(content) or {}, score(step)),
                ]
                for step in evaluated
            ],
        )
    return "\n".join(lines) + "\n"


@draws(Result)
def html(result: Result) -> str:
    """What a notebook shows of a result: verdict, the table that ends a run, remarks, and memory over the schedule."""
    content = document(result)
    sensitive = f"{curves.html(content['sensitivity'])}\n" if content["sensitivity"] else ""
    state = "fits" if result.ok else "does not fit"
    return f"<p><b>{state}</b></p>\n{prune_page.outcome(content)}\n<figure>{report.svg(result.after)}</figure>\n{sensitive}"


__all__: Sequence[str] = ("document", "html", "markdown", "save", "step_document", "text", "write")
