"""A verification as JSON, and as text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mcuprune import console, escape
from mcuprune.deploy.tflite import Port
from mcuprune.notebook import draws
from mcuprune.report.tables import html_table
from mcuprune.run import layerwise, runners
from mcuprune.run.verification import MAX_LSB, MIN_AGREEMENT, Compared, Verification
from mcuprune.train.tasks.metrics import Metric


def document(verified: Verification) -> dict[str, Any]:
    """The verification as JSON; sizes in bytes, shares of 1."""
    operators = [operator for operator, _ in verified.converted.operators]
    memory = verified.memory
    return console.document(
        "verify",
        ok=verified.ok,
        path=verified.path,
        examples=dict(verified.examples),
        limits={"max_lsb": MAX_LSB, "layer_max_lsb": layerwise.MAX_LSB, "agreement": MIN_AGREEMENT},
        runtimes={
            "onnxruntime": None
            if verified.onnxruntime is None
            else {
                "version": verified.onnxruntime,
                "accuracy": verified.accuracy,
                "default_session_accuracy": verified.default_session_accuracy,
                "metric": _metric(verified.metric),
            },
            **{compared.key: _compared(compared) for compared in verified.runtimes},
        },
        arena={
            "predicted": memory.predicted,
            "measured": memory.measured,
            "head_predicted": memory.head_predicted,
            "head_on_device": memory.head_on_device,
            "start_on_device": memory.start_on_device,
            "head_measured": memory.head_measured,
            "pointer_bytes": memory.pointer_bytes,
            "predicted_same_pointers": memory.same_pointers,
        },
        tflite={
            "bytes": len(verified.converted.content),
            "operators": {name: operators.count(name) for name in sorted(set(operators))},
        },
        inputs=[_port(port) for port in verified.converted.inputs],
        outputs=[_port(port) for port in verified.converted.outputs],
        diverges_at=next((c.diverges_at for c in verified.runtimes if c.diverges_at is not None), None),
        notes=list(verified.notes),
    )


def _metric(metric: Metric | None) -> dict[str, Any] | None:
    return None if metric is None else {"name": metric.name, "shown": f"{metric.title} {metric.shown()}", "value": metric.value}


def _right(runtime: Mapping[str, Any]) -> str:
    """The figure of a runtime in brackets; empty without one."""
    metric = runtime.get("metric")  # a document that was stored before there were any but accuracies has none
    if metric is None:
        return "" if runtime["accuracy"] is None else f" ({runtime['accuracy']:.1%} right)"
    return f" ({runtime['accuracy']:.1%} right)" if metric["name"] == "accuracy" else f" ({metric['shown']})"


def _port(port: Port) -> dict[str, Any]:
    return {
        "name": port.name,
        "shape": list(port.shape),
        "scale": port.quantizer.scale,
        "zero_point": port.quantizer.zero_point,
    }


def _compared(compared: Compared) -> dict[str, Any]:
    agreements = [difference.agreement for difference in compared.differences if difference.agreement is not None]
    return {
        "name": runners.RUNNERS[compared.key].title,
        "version": compared.version,
        "ok": compared.ok,
        "max_lsb": max((difference.max_lsb for difference in compared.differences), default=None),
        "agreement": min(agreements, default=None),
        "accuracy": compared.accuracy,
        "metric": _metric(compared.metric),
        "layers": len(compared.layers),
        "layer_max_lsb": max((layer.max_lsb for layer in compared.layers), default=None),
        "diverges_at": compared.diverges_at,
        "arena": None
        if compared.taken is None
        else {"predicted": compared.taken.peak, "measured": compared.taken.arena, "ok": compared.taken.ok},
        "outputs": [
            {
                "name": difference.output,
                "ok": difference.ok,
                "max_lsb": difference.max_lsb,
                "exact": difference.exact,
                "agreement": difference.agreement,
                "interval": None if difference.interval is None else list(difference.interval),
            }
            for difference in compared.differences
        ],
    }


def _port_lines(content: Mapping[str, Any]) -> list[str]:
    """How numbers are stored on the way in and out."""
    return [
        f"{kind} {port['name']}: int8 {' x '.join(map(str, port['shape']))}, scale {port['scale']:.6g}, "
        f"zero point {port['zero_point']}"
        for kind in ("input", "output")
        for port in content[f"{kind}s"]
    ]


def text(content: Mapping[str, Any]) -> str:
    """What ``document`` gives, for people: a table for each runtime, then memory and the verdict."""
    counts = " + ".join(f"{count} {name}" for name, count in content["examples"].items())
    reference = content["runtimes"]["onnxruntime"]
    said = f"{content['path']}, {counts} examples"
    if reference is not None:
        said += f", against onnxruntime {reference['version']}{_right(reference)}"
    lines = [said]
    for runtime in [shown for key, shown in content["runtimes"].items() if key != "onnxruntime"]:
        lines += ["", f"{runtime['name']} {runtime['version']}{_right(runtime)}"]
        rows = [("max LSB", "exact", "same class", "95 % interval", "output")] if runtime["outputs"] else []
        for output in runtime["outputs"]:
            agreement = "-" if output["agreement"] is None else f"{output['agreement']:.1%}"
            interval = "-" if output["interval"] is None else "{:.1%} to {:.1%}".format(*output["interval"])
            rows.append((str(output["max_lsb"]), f"{output['exact']:.1%}", agreement, interval, output["name"]))
        lines += [f"{lsb:>9}  {exact:>6}  {same:>10}  {among:>15}  {name}" for lsb, exact, same, among, name in rows]
        if runtime["layers"]:
            lines.append(f"{runtime['layer_max_lsb']:>9}  in any of {runtime['layers']} layers, given the same inputs")
    lines += ["", *_port_lines(content), "", *_memory_lines(content)]
    lines += [
        f"{content['tflite']['bytes']:>9,} bytes of .tflite, {sum(content['tflite']['operators'].values())} operators",
        *(f"note: {note}" for note in content["notes"]),
        "",
        _verdict(content),
    ]
    return "\n".join(map(escape.plain, lines)) + "\n"


@draws(Verification)
def html(verified: Verification) -> str:
    """What a notebook shows: the verdict, and each runtime's distance from what it is held against."""
    content = document(verified)
    rows = []
    for key, runtime in content["runtimes"].items():
        if runtime is not None and key != "onnxruntime":
            worst = "" if runtime["max_lsb"] is None else str(runtime["max_lsb"])
            same = "" if runtime["agreement"] is None else f"{runtime['agreement']:.1%}"
            rows.append([f"{runtime['name']} {runtime['version']}", worst, same, _right(runtime).strip(" ()")])
    table = html_table(["runtime", "max LSB", "same class", ""], "<>><", rows)
    notes = "".join(f"<li>{escape.markup(line)}</li>" for line in (*_memory_lines(content), *content["notes"]))
    return f"<p><b>{escape.markup(_verdict(content))}</b></p>\n{table}\n<ul>{notes}</ul>"


def _verdict(content: Mapping[str, Any]) -> str:
    """The last line."""
    held = content["runtimes"]["onnxruntime"] is not None
    sides = [side for side in content["runtimes"].values() if side and "ok" in side]
    if not content["ok"] and all(side["ok"] for side in sides):
        of_c = (content["runtimes"].get("c") or {}).get("arena")
        above = "larger than predicted" if of_c is None or of_c["ok"] else "in generated C above the network's peak"
        right = "what it computes is what onnxruntime does" if held else "all runtimes compute the same"
        return f"TOO LARGE: its arena is {above}, though {right}"
    if held:
        return (
            "EQUAL: as onnxruntime computes it, but for rounding" if content["ok"] else "DIFFERS: not what onnxruntime computes"
        )
    if not content["ok"]:
        beside = Path(content["path"]).with_suffix(".onnx").name
        return (
            f"DIFFERS: the runtimes don't agree; layer by layer they can be held against the {beside} that it was written from"
        )
    several = sum(runtime is not None for runtime in content["runtimes"].values()) > 1
    return f"RUNS: in the arena that is predicted{', equally in all runtimes' if several else ''}"


def _memory_lines(content: Mapping[str, Any]) -> list[str]:
    arena, own = content["arena"], (content["runtimes"].get("c") or {}).get("arena")
    lines = [
        f"{arena['predicted']:>9,} bytes of arena predicted on a device (32-bit, CMSIS-NN), "
        f"{arena['head_on_device']:,} of them activations and scratch"
    ]
    if arena["start_on_device"] > arena["predicted"]:
        lines.append(f"{arena['start_on_device']:>9,} bytes at most that its interpreter needs there to start")
    if arena["measured"] is not None:
        lines.insert(
            0,
            f"{arena['measured']:>9,} bytes of arena measured here ({8 * arena['pointer_bytes']}-bit, reference kernels; "
            f"{arena['predicted_same_pointers']:,} predicted), {arena['head_measured']:,} of them activations",
        )
    if own is not None:
        lines.append(f"{own['measured']:>9,} bytes of arena in generated C; the peak of the network is {own['predicted']:,}")
    return lines
