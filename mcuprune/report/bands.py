"""``mcuprune bands``: one network, a limit or a number of bands, and what came of it.

The plan comes from ``bandplan``; what is reported is measured on the network that is written. Where the limit is on the peak,
nodes are written in the order of least peak; on the arena of TensorFlow Lite Micro, in the order of the bands.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import onnx

from mcuprune import escape
from mcuprune.bands.integers import stored_again
from mcuprune.bands.plan import COUNTS, BandPlanner, Plan
from mcuprune.bands.rewrite import MODES, Choice
from mcuprune.bands.rowgraph import Ending
from mcuprune.costs import resources
from mcuprune.costs.resources import Profile
from mcuprune.deploy import boards as runtimes
from mcuprune.errors import UsageError
from mcuprune.graph.network import Network
from mcuprune.operators.fusion import buffers
from mcuprune.operators.table import OPS, Quantization
from mcuprune.report.profile import Section, align
from mcuprune.schedule import search as memory
from mcuprune.units import Limit, show

Model = Literal["peak", "tflm"]
SRAM_MODELS: tuple[Model, ...] = ("peak", "tflm")
#: By how much the bound of a plan may lie above a limit that the best order of its operators may still hold.
_NEAR = (1.04, 1.08, 1.15, 1.25)
#: Numbers of bands whose arenas are compared. Every operator stays in memory there, so that many bands never pay.
_FEW = (2, 3, 4, 6, 8)


@dataclass(frozen=True)
class Measured:
    """A network in numbers: bytes of peak and arena, multiply-accumulates, operators without quantisers."""

    profile: Profile
    arena: runtimes.Arena
    operators: int

    def sram(self, model: Model) -> int:
        return self.arena.total if model == "tflm" else self.profile.memory.peak


@dataclass(frozen=True)
class Banded:
    """The answer of the command.

    limit: bytes of what ``model`` means, None where a number of bands was asked for. choices: regions in bands, none where the
    network stays as it is. endings: operators that no region can contain.
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

    @property
    def ok(self) -> bool:
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
    planner = BandPlanner(net)
    if most is not None and before.sram(model) <= most:
        found, after, choices = net, before, tuple[Choice, ...]()
    else:
        plans = _candidates(planner, most, bands, model)
        found, after, choices = _best(planner, plans, most, model)
        if bands is not None and not choices:
            raise UsageError(f"{net.path}: --bands {bands}: {_why_not(planner, bands)}")
        if bands is None and after.sram(model) >= before.sram(model):
            found, after, choices = net, before, ()
    if model == "peak" and after.profile.memory.file_order > after.profile.memory.peak:
        found = _in_order(found, after.profile.memory.order)
        after = measured(found)
    return Banded(net.path, output, model, most, choices, before, after, planner.graph.endings(), found)


def measured(net: Network) -> Measured:
    """Raises what ``resources.profile`` does."""
    operators = sum(not isinstance(OPS[node.op], Quantization) for node in net.nodes)
    return Measured(resources.profile(net), runtimes.arena_tflm(net), operators)


def _why_not(planner: BandPlanner, bands: int) -> str:
    endings = planner.graph.endings()
    named = f"; {endings[0].op} '{endings[0].node}' {endings[0].why}" if endings else ""
    return f"no part of the network gains from {bands} bands of rows{named}: give another number, or a limit with --sram"


def _candidates(planner: BandPlanner, limit: int | None, bands: int | None, model: Model) -> list[Plan]:
    """Plans that may be the answer, the cheapest first."""
    counts = COUNTS if bands is None else (bands,)
    if model == "tflm":
        few: Sequence[int] = _FEW if bands is None else (bands,)
        found = [plan for mode in MODES for plan in planner.pareto(counts=few, modes=(mode,))]
    elif limit is not None:
        plan = planner.cheapest(limit)
        found = [planner.least() if plan is None else plan]
        if plan is None or plan.macs > 0:  # with the best order of its operators a cheaper one may do
            near = [planner.cheapest(int(limit * factor), modes=("cache",)) for factor in _NEAR]
            found += [one for one in near if one is not None and (plan is None or one.cost < plan.cost)]
    else:
        found = [planner.least(counts=counts), planner.least(counts=counts, modes=("cache",))]
    unlike = {tuple((c.region.start, c.region.end, c.bands, c.mode) for c in one.choices): one for one in found}
    return sorted(unlike.values(), key=lambda plan: plan.cost)


def _best(
    planner: BandPlanner, plans: Iterable[Plan], limit: int | None, model: Model
) -> tuple[Network, Measured, tuple[Choice, ...]]:
    """The first plan that holds the limit; where none does, the one that needs least."""
    best: tuple[int, Network, tuple[Choice, ...]] | None = None
    for plan in plans:
        net = planner.written(plan)
        if model == "tflm":
            sram = runtimes.arena_tflm(net).total
        else:
            sram = min(plan.peak, memory.schedule(buffers(net).graph, cpu_seconds=0.5).peak)
        if best is None or sram < best[0]:
            best = (sram, net, plan.choices)
        if limit is not None and sram <= limit:
            break
    assert best is not None
    return best[1], measured(best[1]), best[2]


def _in_order(net: Network, order: Sequence[str]) -> Network:
    by_name = {node.name: node for node in net.nodes}
    return replace(net, nodes=tuple(by_name[name] for name in order))


def written(found: Banded) -> bytes:
    """The file: constants stored as the original stores them. Raises what onnx raises for an invalid model."""
    model = stored_again(found.network.to_proto(), onnx.load(found.path))
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


# -------------------------------------------------------------------------------------------------------------- output


def document(found: Banded) -> dict[str, Any]:
    """The answer as JSON values."""
    return {
        "path": found.path,
        "output": found.output,
        "ok": found.ok,
        "sram_model": found.model,
        "limit": found.limit,
        "before": _numbers(found.before),
        "after": _numbers(found.after),
        "regions": [region_document(choice) for choice in found.choices],
        "endings": [{"node": e.node, "op": e.op, "why": e.why, "sram": e.sram} for e in found.endings],
    }


def _numbers(one: Measured) -> dict[str, Any]:
    memory_of = one.profile.memory
    return {
        "peak": memory_of.peak,
        "exact": memory_of.exact,
        "file_order": memory_of.file_order,
        "arena_tflm": one.arena.total,
        "arena_tail": one.arena.tail,
        "flash": one.profile.total["flash"],
        "macs": one.profile.total["macs"],
        "operators": one.operators,
    }


def region_document(choice: Choice) -> dict[str, Any]:
    """A region in bands, as JSON values. rows: of its last tensor, first and end of each band."""
    return {
        "from": choice.region.start,
        "to": choice.region.end,
        "mode": choice.mode,
        "bands": len(choice.tape.bands),
        "rows": [list(band) for band in choice.tape.bands],
        "peak": choice.price.peak,
        "macs_added": choice.price.macs,
        "operators_added": choice.price.operators,
    }


def plan_document(plan: Plan) -> dict[str, Any]:
    """A plan as JSON values; what it adds to the network as it is."""
    return {
        "peak": plan.peak,
        "macs_added": plan.macs,
        "operators_added": plan.operators,
        "regions": [region_document(choice) for choice in plan.choices],
    }


def text(found: Banded) -> str:
    before, after = found.before, found.after
    rows = [
        ["peak of SRAM", *_change(before.profile.memory.peak, after.profile.memory.peak, "bytes")],
        ["arena of TensorFlow Lite Micro", *_change(before.arena.total, after.arena.total, "bytes")],
        ["  of it the tail", *_change(before.arena.tail, after.arena.tail, "bytes")],
        ["MACs", *_change(before.profile.total["macs"], after.profile.total["macs"], "count")],
        ["operators", str(before.operators), str(after.operators), _signed(after.operators - before.operators)],
    ]
    lines = [escape.plain(found.path), *align([["", "as it is", "in bands", ""], *rows], ["<", ">", ">", ">"]), ""]
    if not found.choices:
        lines.append("nothing runs in bands: " + ("the limit holds as it is" if found.ok else "no bands need less memory"))
    else:
        lines += ["in bands of rows:", *_regions(found.choices)]
    if found.limit is not None:
        word = "holds" if found.ok else "does NOT hold"
        what = "arena" if found.model == "tflm" else "peak"
        lines += ["", f"the limit of {show(found.limit, 'bytes')} ({found.limit} bytes) on the {what} {word}"]
    lines += ["", *_endings(found.endings)] if found.endings else []
    lines += ["", f"written: {escape.plain(found.output)}"]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _regions(choices: Sequence[Choice]) -> list[str]:
    head = ["bands", "rows each", "how", "SRAM", "MACs", "operators", "from, to"]
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


def _change(before: int, after: int, unit: Literal["bytes", "count"]) -> list[str]:
    share = f"{100 * (after - before) / before:+.1f} %" if before else ""
    return [show(before, unit), show(after, unit), share if after != before else "as before"]


def _more(macs: int) -> str:
    return f"{'-' if macs < 0 else '+'}{show(abs(macs), 'count')}" if macs else "0"


def _signed(value: int) -> str:
    return f"+{value}" if value > 0 else str(value)
