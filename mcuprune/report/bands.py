"""``mcuprune bands``: one network, a limit or a number of bands, and what came of it.

The plan comes from ``bands.plan``; what is reported is measured on the network that is written. Where the limit is on the peak,
nodes are written in the order of least peak; on the arena of TensorFlow Lite Micro, in that or in the order of the bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import onnx

from mcuprune import console, escape
from mcuprune.bands.integers import stored_again
from mcuprune.bands.plan import BandPlanner, Plan, embedded_line, region_document
from mcuprune.bands.rowgraph import Ending
from mcuprune.bands.tape import Choice
from mcuprune.costs.banding import Banding, Measured, Model, in_bands, in_best_order, measured, refuse_count
from mcuprune.deploy import rowreport
from mcuprune.deploy.lower import lower
from mcuprune.errors import UnsupportedOperator, UsageError
from mcuprune.graph.network import Network
from mcuprune.immutable import immutable
from mcuprune.report.answers import Section
from mcuprune.report.tables import align
from mcuprune.units import Limit, show


@immutable
class Banded:
    """The answer of the command.

    limit: bytes of what ``model`` means, None where a number of bands was asked for. choices: regions in bands, none where the
    network stays as it is. endings: operators that no region can contain. embedded: convolutions whose kernels lie among zeros.
    """

    path: str
    output: str
    model: Model
    limit: int | None
    choices: tuple[Choice, ...]
    before: Measured
    after: Measured
    endings: tuple[Ending, ...]
    network: Network
    embedded: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the limit holds in bands; without a limit it does."""
        return self.limit is None or self.after.sram(self.model) <= self.limit


def run(net: Network, output: str, *, limit: Limit | None, bands: int | None, model: Model = "peak") -> Banded:
    """Choose bands for a network and measure the result.

    limit: of SRAM, in bytes or as a share of what the network needs as it is. bands: how many, instead of a limit.
    Raises UsageError for both or neither, and where nothing can run in so many bands.
    """
    if (limit is None) == (bands is None):
        raise UsageError("give either a limit, as in --sram 64KB, or a number of bands, as in --bands 4")
    before = measured(net)
    most = None if limit is None else limit.of(before.sram(model))
    banding = Banding(model, {} if most is None else {"sram": most}, bands)
    best = in_bands(net, banding)
    if bands is not None and not best.choices:
        refuse_count(best.planner, bands)
    after = before if best.network is net else measured(best.network)
    if model == "peak" and best.network is net and after.profile.memory.file_order > after.profile.memory.peak:
        best = replace(best, network=in_best_order(net))
        after = measured(best.network)
    endings = best.planner.graph.endings()
    return Banded(net.path, output, model, most, best.choices, before, after, endings, best.network, best.embedded)


def written(banded: Banded) -> bytes:
    """The file: constants stored as the original stores them. Raises what onnx raises for an invalid model."""
    model = stored_again(banded.network.to_proto(), onnx.load(banded.path))
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


# -------------------------------------------------------------------------------------------------------------- output


def document(banded: Banded) -> dict[str, Any]:
    """The answer as JSON values."""
    return console.document(
        "bands",
        ok=banded.ok,
        path=banded.path,
        output=banded.output,
        sram_model=banded.model,
        limit=banded.limit,
        before=numbers(banded.before),
        after=numbers(banded.after),
        regions=[region_document(choice) for choice in banded.choices],
        embedded=list(banded.embedded),
        endings=endings_document(banded.endings),
    )


def numbers(measured: Measured) -> dict[str, Any]:
    """A measured network as JSON values."""
    memory_of = measured.profile.memory
    return {
        "peak": memory_of.peak,
        "exact": memory_of.exact,
        "file_order": memory_of.file_order,
        "arena_tflm": measured.arena.total,
        "arena_tail": measured.arena.tail,
        "flash": measured.profile.total["flash"],
        "macs": measured.profile.total["macs"],
        "operators": measured.operators,
    }


def endings_document(endings: Sequence[Ending]) -> list[dict[str, Any]]:
    """Operators that no region can contain, as JSON values. sram: bytes around each."""
    return [{"node": e.node, "op": e.op, "why": e.why, "sram": e.sram} for e in endings]


def plan_document(plan: Plan) -> dict[str, Any]:
    """A plan as JSON values; what it adds to the network as it is."""
    return {
        "peak": plan.peak,
        "macs_added": plan.macs,
        "operators_added": plan.operators,
        "regions": [region_document(choice) for choice in plan.choices],
    }


def text(banded: Banded) -> str:
    """The answer for people: costs before and after, regions, endings, the limit."""
    before, after = banded.before, banded.after
    rows = [
        ["peak of SRAM", *_change(before.profile.memory.peak, after.profile.memory.peak, "bytes")],
        ["arena of TensorFlow Lite Micro", *_change(before.arena.total, after.arena.total, "bytes")],
        ["  of it the tail", *_change(before.arena.tail, after.arena.tail, "bytes")],
        ["MACs", *_change(before.profile.total["macs"], after.profile.total["macs"], "count")],
        ["operators", str(before.operators), str(after.operators), _signed(after.operators - before.operators)],
    ]
    lines = [escape.plain(banded.path), *align([["", "as it is", "in bands", ""], *rows], ["<", ">", ">", ">"]), ""]
    if not banded.choices:
        lines.append(f"nothing runs in bands: {_without_bands(banded)}")
    else:
        lines += ["in bands of rows:", *_regions(banded.choices)]
    if banded.embedded:
        lines += ["", escape.plain(embedded_line(banded.embedded))]
    if banded.limit is not None:
        word = "holds" if banded.ok else "does NOT hold"
        what = "arena" if banded.model == "tflm" else "peak"
        lines += ["", f"the limit of {show(banded.limit, 'bytes')} ({banded.limit} bytes) on the {what} {word}"]
    lines += ["", *_endings(banded.endings)] if banded.endings else []
    lines += ["", f"written: {escape.plain(banded.output)}"]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _without_bands(banded: Banded) -> str:
    """Why nothing runs in bands, and what is done instead."""
    if banded.embedded:
        return "kernels among zeros hold the limit" if banded.ok else "with kernels among zeros no bands need less memory"
    if not banded.ok:
        return "no bands need less memory"
    if banded.after.profile.memory.file_order < banded.before.profile.memory.file_order:
        return "the limit holds in another order of the operators, in which they are written"
    return "the limit holds as it is"


def _regions(choices: Sequence[Choice]) -> list[str]:
    head = ["bands", "rows each", "how", "SRAM up to", "MACs", "operators", "from, to"]
    rows = []
    for choice in choices:
        sizes = sorted({end - first for first, end in choice.tape.bands})
        rows.append(
            [
                str(len(choice.tape.bands)),
                str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}",
                choice.mode,
                show(choice.price.peak, "bytes"),
                _more(choice.price.macs),
                _signed(choice.price.operators),
                f"{escape.plain(choice.region.start)}, {escape.plain(choice.region.end)}",
            ]
        )
    return align([["", *row] for row in [head, *rows]], ["<", ">", ">", "<", ">", ">", ">", "<"])


def _endings(endings: Sequence[Ending]) -> list[str]:
    rows = [["", e.op, f"'{escape.plain(e.node)}'", e.why, show(e.sram, "bytes")] for e in endings]
    return ["what can't run in bands, and the SRAM around it:", *align(rows, ["<", "<", "<", "<", ">"])]


def section(net: Network) -> Section:
    """What ``profile --bands`` adds: plans from the network as it is to the least memory, each dearer than the last."""
    plans = BandPlanner(net).pareto()
    head = ["", "SRAM", "MACs", "operators", "in bands"]
    rows = []
    for plan in plans:
        what = [f"{len(c.tape.bands)} ({c.mode}) up to {escape.plain(c.region.end)}" for c in plan.choices]
        rows.append(["", show(plan.peak, "bytes"), _more(plan.macs), _signed(plan.operators), "; ".join(what) or "nothing"])
    lines = ["SRAM in row bands, at most; `mcuprune bands` writes such a network:"]
    return Section("bands", list(map(plan_document, plans)), [*lines, *align([head, *rows], ["<", ">", ">", ">", "<"])])


def rows_section(net: Network) -> Section:
    """What ``profile --bands`` adds for generated C: its RAM where it runs row by row; why none where it can't be written."""
    try:
        document = rowreport.priced(lower(net), "auto").document()
    except UnsupportedOperator as refusal:
        return Section("rows", None, [f"rows in C: none, as {refusal}"])
    return Section("rows", document, [*rowreport.lines(document), "`mcuprune export -o OUT.c --bands auto` writes it."])


def _change(before: int, after: int, unit: Literal["bytes", "count"]) -> list[str]:
    share = f"{100 * (after - before) / before:+.1f} %" if before else ""
    return [show(before, unit), show(after, unit), share if after != before else "as before"]


def _more(macs: int) -> str:
    return f"{'-' if macs < 0 else '+'}{show(abs(macs), 'count')}" if macs else "0"


def _signed(value: int) -> str:
    return f"+{value}" if value > 0 else str(value)
