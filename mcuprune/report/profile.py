"""What was measured, written for people and for programs: text, markdown, html, json, junit, github annotations.

Everything here takes numbers and gives a string; nothing prints. All formats read the same ``Answer``s, and the tables of
all of them are the same ``Table``, so that a number can't differ between two formats. Invariants: every number that
some format shows is in the JSON (which has base units only), a TOTAL is the sum of the rows above it (for SRAM their
maximum), and a text that rounds falls back to exact numbers where rounding would hide an excess.

Names come from a stranger's file: ``escape`` has a way for each format.
"""

from __future__ import annotations

import json as jsonlib
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

from mcuprune import __version__, escape
from mcuprune.channels.labelling import Group
from mcuprune.console import JSON_FORMAT
from mcuprune.costs.resources import RESOURCES, Basis, Layer, Memory, Profile, Resource, Verdict, columns, totals
from mcuprune.deploy.boards import Board
from mcuprune.deploy.codesize import Runtime
from mcuprune.deploy.latency import Range
from mcuprune.report.width import elided
from mcuprune.units import Unit, show

#: Characters that a table leaves for the names at its end, on a narrow terminal.
_ROOM_FOR_A_NAME = 20
#: What a row of a cost table may stand for.
BY = ("node", "op", "group")

#: What the JSON of a layer calls its share of a resource, if not by the resource's own name.
_LAYER_KEYS = {"sram": "live"}


@dataclass(frozen=True)
class Device:
    """Estimates for one board: milliseconds and microjoules of an inference; None where nobody has measured its like."""

    board: Board
    runtime: Runtime
    latency: Range | None
    energy: Range | None


class Section(NamedTuple):
    """What a command adds to a profile: its key and value in JSON, its lines in text and in markdown, its HTML."""

    key: str
    document: Any
    lines: Sequence[str]
    markdown: Sequence[str] = ()
    html: str = ""


@dataclass(frozen=True)
class Answer:
    """What is known about one model.

    verdict: its limits, for ``check``. basis: what they are held against. old, growth: an earlier state of the model, and
    limits that follow from it.
    flags: what else on the command line ``prune`` needs to see the same model. sections: what else was asked for.
    """

    profile: Profile
    verdict: Verdict | None = None
    basis: Basis = field(default_factory=Basis)
    old: Profile | None = None
    growth: Verdict | None = None
    flags: tuple[str, ...] = ()
    device: Device | None = None
    sections: tuple[Section, ...] = ()

    @property
    def ok(self) -> bool:
        return all(verdict.ok for verdict in (self.verdict, self.growth) if verdict)


@dataclass(frozen=True)
class Refused:
    """What stands for one of several models that no answer could be given for. kind: the error's, as in the JSON."""

    path: str
    kind: str
    message: str
    ok: bool = False


@dataclass(frozen=True)
class View:
    """How much of a profile to show. rows: how many, 0 for all. sort: ``graph``, or the resource to have worst first."""

    by: str = "node"
    sort: str = "graph"
    rows: int = 20
    groups: bool = False
    ascii: bool = False
    width: int | None = None


@dataclass(frozen=True)
class Report:
    """The answers of one command, in the order of its models."""

    command: Literal["profile", "check"]
    answers: tuple[Answer | Refused, ...]
    view: View = field(default_factory=View)

    @property
    def ok(self) -> bool:
        return all(answer.ok for answer in self.answers)

    @property
    def refused(self) -> tuple[Refused, ...]:
        """The models without an answer."""
        return tuple(answer for answer in self.answers if isinstance(answer, Refused))


# --------------------------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True)
class Row:
    """One line of a table: what a node, an operator or a group costs, by the names of ``columns``, and what it cost before.

    count: of how many nodes. state: ``new`` or ``gone`` for what only one of two models has.
    """

    name: str
    used: Mapping[str, int]
    was: Mapping[str, int] | None = None
    op: str = ""
    shape: tuple[int, ...] = ()
    count: int = 1
    state: Literal["", "new", "gone"] = ""

    @property
    def change(self) -> dict[str, int]:
        return {key: self.used[key] - self.was[key] for key in columns()} if self.was is not None else {}


@dataclass(frozen=True)
class Table:
    """rows: those that are shown. others: the rest in one line, if any. total: of all."""

    rows: tuple[Row, ...]
    others: Row | None
    total: Row


def table(answer: Answer, view: View) -> Table:
    """The costs by node, operator or group; the worst ``view.rows`` of them, the rest folded."""
    rows = _rows(answer, view.by)
    total = _sum("TOTAL", rows)
    if view.sort != "graph":
        rows = sorted(rows, key=lambda row: -row.used[view.sort])
        shown = rows[: view.rows or None]
    else:
        worst = sorted(range(len(rows)), key=lambda index: _weight(rows[index], total), reverse=True)
        keep = set(worst[: view.rows or None])
        shown = [row for index, row in enumerate(rows) if index in keep]
    chosen = {id(row) for row in shown}
    rest = [row for row in rows if id(row) not in chosen]
    return Table(tuple(shown), _sum(f"{len(rest)} others", rest) if rest else None, total)


def _rows(answer: Answer, by: str) -> list[Row]:
    key = _key(answer.profile.groups, by)
    gathered = _gather(answer.profile.layers, key)
    if answer.old is None:
        return [_row(name, layers, by) for name, layers in gathered.items()]
    before = _gather(answer.old.layers, _key(answer.old.groups, by))
    rows = []
    for name, layers in {**gathered, **{name: [] for name in before if name not in gathered}}.items():
        old = before.get(name, [])
        row = _row(name, layers or old, by)
        used, was = (_fold(map(_used, part)) for part in (layers, old))
        rows.append(Row(name, used, was, row.op, row.shape, row.count, "" if layers and old else "new" if layers else "gone"))
    return rows


def _key(groups: Sequence[Group], by: str) -> Callable[[Layer], str]:
    if by == "group":
        group_of = {node: group.name for group in reversed(groups) for node in group.nodes}
        return lambda layer: group_of.get(layer.node, "(no channels of its own)")
    return lambda layer: layer.node if by == "node" else layer.op


def _gather(layers: Iterable[Layer], key: Callable[[Layer], str]) -> dict[str, list[Layer]]:
    gathered: dict[str, list[Layer]] = {}
    for layer in layers:
        gathered.setdefault(key(layer), []).append(layer)
    return gathered


def _row(name: str, layers: Sequence[Layer], by: str) -> Row:
    op, shape = (layers[0].op, layers[0].shape) if by == "node" else ("", ())
    return Row(name, _fold(map(_used, layers)), op=op, shape=shape, count=len(layers))


def _used(layer: Layer) -> dict[str, int]:
    return {key: layer.costs[key] for key in columns()}


def _fold(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    parts = list(parts)
    fold = {key: max if resource.share == "max" else sum for key, resource in columns().items()}
    return {key: together([0, *(part[key] for part in parts)]) for key, together in fold.items()}


def _sum(name: str, rows: Sequence[Row]) -> Row:
    was = [row.was for row in rows if row.was is not None]
    return Row(name, _fold(row.used for row in rows), _fold(was) if was else None, count=sum(row.count for row in rows))


def _weight(row: Row, total: Row) -> tuple[bool, float, float]:
    """What makes a row worth showing: it sets a total, its largest share of one it adds to, its share of the others."""
    shares = dict.fromkeys(columns(), 0.0)
    for part, whole in ((row.used, total.used), (row.was, total.was)):
        if part is not None and whole is not None:
            shares = {key: max(share, part[key] / whole[key] if whole[key] else 0.0) for key, share in shares.items()}
    largest = max(share for key, share in shares.items() if RESOURCES[key].share == "sum")
    return 1.0 in shares.values(), largest, max(shares.values())


# ----------------------------------------------------------------------------------------------------------- plain text


def text(report: Report) -> str:
    """For a terminal or a pipe: plain characters, no colours; no meaning hangs on the width."""
    write = _profile_text if report.command == "profile" else _check_text
    parts = [_refused_text(answer) if isinstance(answer, Refused) else write(answer, report.view) for answer in report.answers]
    if report.command == "check" and len(parts) > 1:
        fit = sum(answer.ok for answer in report.answers)
        without = f", {len(report.refused)} without an answer" if report.refused else ""
        parts.append(f"{fit} of {len(parts)} models pass{without}\n")
    return "\n".join(parts)


def _refused_text(refused: Refused) -> str:
    return f"{escape.plain(refused.path)}\nno answer  {escape.plain(refused.message)}\n"


def _profile_text(answer: Answer, view: View) -> str:
    profile = answer.profile
    lines = [f"{escape.plain(profile.path)}  (opset {profile.opset})"]
    lines += [
        f"  {role:<6}  {_shape(shape):<12}  {escape.plain(name)}"
        for role, tensors in (("input", profile.inputs), ("output", profile.outputs))
        for name, shape in tensors
    ]
    lines += ["", *_totals_text(answer), "", *_peak_text(profile)]
    lines += ["", *_device_text(answer.device)] if answer.device else []
    picture = chart(profile, width=min(64, view.width - 12) if view.width else 64, ascii=view.ascii)
    lines += ["", *picture] if picture else []
    lines += ["", *_table_text(table(answer, view), profile, view)]
    for section in answer.sections:
        lines += ["", *section.lines]
    if view.groups:
        lines += ["", *_groups_text(profile.groups)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _totals_text(answer: Answer) -> list[str]:
    profile, old = answer.profile, answer.old
    rows = [
        [
            resource.title,
            show(profile.total[key], resource.unit),
            _was(profile.total, old, key, resource.unit),
            resource.meaning,
        ]
        for key, resource in _known(totals(), profile).items()
    ]
    if not any(row[2] for row in rows):
        rows = [[row[0], row[1], row[3]] for row in rows]
    lines = align(rows, ["<", ">", *["<"] * (len(rows[0]) - 2)])
    if old is not None:
        lines.append(f"compared with {escape.plain(old.path)}")
    return lines


def _was(total: Mapping[str, int], old: Profile | None, key: str, unit: Unit) -> str:
    if old is None or key not in old.total:
        return ""
    if total[key] == old.total[key]:
        return "as before"
    before, now = show(old.total[key], unit), show(total[key], unit)
    return f"was {before if before != now else old.total[key]} ({_signed(total[key] - old.total[key], unit)})"


def _peak_text(profile: Profile) -> list[str]:
    memory = profile.memory
    proof = "no order needs less" if memory.exact else f"the best order found; every order needs {_kib(memory.lower_bound)}"
    lines = [f"{RESOURCES['sram'].title} of {_kib(memory.peak)}: {proof}"]
    lines.append(
        f"  the file's own order {_kib(memory.file_order)}; one operator's inputs and outputs {_kib(memory.max_in_out)}"
    )
    lines.append(f"  arena of TensorFlow Lite Micro in the file's order {_kib(memory.arena_tflm)}{_tail(memory)}")
    if memory.peak_node is not None:
        lines.append(f"peak at node '{escape.plain(memory.peak_node)}', alive there:")
        lines += align([["", _kib(size), escape.plain(name)] for name, size in memory.peak_tensors], ["<", ">", "<"])
    return lines


def _tail(memory: Memory) -> str:
    """Of what the arena consists beside activations and scratch, largest first, as the end of a line and another line."""
    if memory.tail is None:
        return ""
    causes = sorted(asdict(memory.tail).items(), key=lambda cause: -cause[1])
    rest = ", ".join(f"{name} {_kib(size)}" for name, size in causes)
    return f", {_kib(memory.arena_head)} of it activations and scratch;\n    the rest by cause: {rest}"


def _known(resources: Mapping[str, Resource], *profiles: Profile | None) -> dict[str, Resource]:
    """The resources that all these profiles could count."""
    return {key: r for key, r in resources.items() if all(profile is None or key in profile.total for profile in profiles)}


def models(basis: Basis) -> dict[str, str]:
    """What limits are held against, as JSON."""
    return {**{f"{key}_model": word for key, word in basis.models.items()}, "runtime": basis.runtime}


def _device_text(device: Device) -> list[str]:
    board = device.board
    return [
        f"on {board.name} ({board.core}, {board.mhz} MHz) in {device.runtime}; estimates, not measurements:",
        f"  latency  {_range(device.latency, 'ms')}",
        f"  energy   {_range(device.energy, 'uJ')}",
    ]


def _range(found: Range | None, unit: str) -> str:
    return "no data" if found is None else f"{found.likely:.1f} {unit}, between {found.low:.1f} and {found.high:.1f}"


_EIGHTHS = " ▁▂▃▄▅▆▇█"


def chart(profile: Profile, *, width: int = 64, height: int = 6, ascii: bool = False) -> list[str]:
    """A picture of memory over the schedule, in characters; columns are steps, or the worst of several."""
    values = [moment.bytes for moment in profile.memory.timeline]
    if not values:
        return []
    wide = max(1, min(4, width // len(values)))
    n_columns = min(len(values), width)
    columns = [
        max(values[i * len(values) // n_columns : max((i + 1) * len(values) // n_columns, i * len(values) // n_columns + 1)])
        for i in range(n_columns)
    ]
    peak = max(columns)
    filled = [column * height * 8 // peak for column in columns]
    label = _kib(peak)
    lines = []
    for level in range(height - 1, -1, -1):
        cells = [min(max(eighths - level * 8, 0), 8) for eighths in filled]
        drawn = "".join(("#" if cell >= 4 else " ") * wide if ascii else _EIGHTHS[cell] * wide for cell in cells)
        margin = label if level == height - 1 else ""
        lines.append(f"{margin:>{len(label)}} {'|' if ascii else '│'}{drawn}".rstrip())
    corner, dash = ("+", "-") if ascii else ("└", "─")
    lines.append(f"{'0':>{len(label)}} {corner}{dash * (wide * n_columns)}")
    lines.append(f"{'':>{len(label)}}  memory over the schedule, {len(values)} {'step' if len(values) == 1 else 'steps'}")
    return lines


def _table_text(found: Table, profile: Profile, view: View) -> list[str]:
    diff = found.total.was is not None
    head = [""]
    for resource in columns().values():
        head += [resource.title, "change"] if diff else [resource.title]
    by_node = view.by == "node"
    head += ["shape", "op"] if by_node else ["nodes"]
    head += [view.by]
    peak = profile.memory.peak_node
    cells = [head]
    for row in [*found.rows, *filter(None, [found.others]), found.total]:
        ends = row is found.others or row is found.total
        marks = {"new": "+", "gone": "-", "": ">" if by_node and row.name == peak and not ends else ""}
        line = [marks[row.state]]
        for key, resource in columns().items():
            line.append(show(row.used[key], resource.unit))
            if diff:
                line.append(_signed(row.change[key], resource.unit) if row.was is not None else "")
        line += [_shape(row.shape), row.op] if by_node else [str(row.count)]
        cells.append([*line, elided(escape.plain(row.name))])
    numbers = len(columns()) * (2 if diff else 1)
    sides = ["<", *[">"] * numbers, *(["<", "<"] if by_node else [">"]), "<"]
    while view.width and by_node and len(sides) > numbers + 2 and _before_names(cells) > view.width - _ROOM_FOR_A_NAME:
        sides.pop(numbers + 1)  # the shape goes first, then the operator: what is left is what the table is about
        cells = [[*line[: numbers + 1], *line[numbers + 2 :]] for line in cells]
    lines = align(cells, sides)
    lines.insert(len(lines) - 1, _rule(lines, numbers, cells))
    return lines


def _before_names(cells: Sequence[Sequence[str]]) -> int:
    """How many characters of a table stand before its last column."""
    return sum(max(map(len, column)) + 2 for column in list(zip(*cells, strict=True))[:-1])


def _rule(lines: Sequence[str], numbers: int, cells: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in cells) for column in range(numbers + 1)]
    return " " * widths[0] + "".join("  " + "-" * width for width in widths[1:])


def _groups_text(groups: Sequence[Group]) -> list[str]:
    rows = [["channels", "group", "nodes that bear them"]]
    for group in groups:
        nodes = ", ".join([*map(escape.plain, group.nodes[:3]), *(["..."] if len(group.nodes) > 3 else [])])
        rows.append(
            [
                str(len(group)),
                escape.plain(group.name),
                nodes if group.why is None else f"frozen: {escape.plain(group.why)}; {nodes}",
            ]
        )
    return align(rows, [">", "<", "<"])


def _check_text(answer: Answer, view: View) -> str:
    rows = []
    for key, used, limit in _limited(answer.verdict):
        title = _limit_title(key, answer)
        rows.append(["FAIL" if used > limit else "pass", title, _against_limit(key, used, limit, answer)])
    for key, used, limit in _limited(answer.growth):
        assert answer.old is not None
        old, unit = answer.old.total[key], RESOURCES[key].unit
        sizes = [show(used, unit), show(old, unit), show(limit, unit)]
        if used > limit and sizes[0] in sizes[1:]:
            sizes = [_exact(used, unit), _exact(old, unit), _exact(limit, unit)]
        said = f"{sizes[0]}, was {sizes[1]} ({_signed(used - old, unit)}); at most {sizes[2]}"
        rows.append(["FAIL" if used > limit else "pass", f"{RESOURCES[key].title} growth", said])
    if answer.old is not None and answer.growth is None:
        for key, resource in _known(RESOURCES, answer.profile, answer.old).items():
            used, old = answer.profile.total[key], answer.old.total[key]
            sizes = [show(used, resource.unit), show(old, resource.unit)]
            if used != old and sizes[0] == sizes[1]:
                sizes = [_exact(used, resource.unit), _exact(old, resource.unit)]
            rows.append(["", f"{resource.title} change", f"{sizes[0]}, was {sizes[1]} ({_signed(used - old, resource.unit)})"])
    lines = [escape.plain(answer.profile.path), *align(rows, ["<", "<", "<"]), f"      {both(answer.profile.memory)}"]
    command = hint(answer)
    if command:
        lines.append(f"hint  {command}")
    return "\n".join(line.rstrip() for line in lines) + "\n"


def both(memory: Memory) -> str:
    """The two sizes of memory that people mean, side by side: what any runtime needs at least, and what one needs."""
    return f"peak of activations {_kib(memory.peak)}, arena of TensorFlow Lite Micro {_kib(memory.arena_tflm)}"


def _limited(verdict: Verdict | None) -> list[tuple[str, int, int]]:
    """(resource, used, limit) of each limit."""
    return [(key, verdict.used[key], limit) for key, limit in verdict.limits.items()] if verdict else []


def _limit_title(key: str, answer: Answer) -> str:
    title, word = RESOURCES[key].title, answer.basis.models.get(key)
    return f"{title} ({word})" if RESOURCES[key].under(word) is not RESOURCES[key] else title


def _against_limit(key: str, used: int, limit: int, answer: Answer) -> str:
    unit = RESOURCES[key].unit
    one, other = show(used, unit), show(limit, unit)
    if used <= limit:
        return f"{one} of {other}"
    if one == other:
        return f"{_exact(used, unit)} of {_exact(limit, unit)}, over by {_exact(used - limit, unit)}{_where(key, answer)}"
    return f"{one} of {other}, over by {show(used - limit, unit)} ({used} > {limit}){_where(key, answer)}"


def _where(key: str, answer: Answer) -> str:
    """Where most of a resource goes: the peak's node and tensors, or the three worst nodes."""
    profile, unit = answer.profile, RESOURCES[key].unit
    if RESOURCES[key].share is None:
        return ""
    if RESOURCES[key].share == "max":
        if answer.basis.sram != "peak" or profile.memory.peak_node is None:
            return ""
        alive = ", ".join(f"{escape.plain(name)} {show(size, unit)}" for name, size in profile.memory.peak_tensors)
        return f", at '{escape.plain(profile.memory.peak_node)}' with {alive} alive"
    if RESOURCES[key].under(answer.basis.models.get(key)) is not RESOURCES[key]:
        return ""
    worst = sorted(profile.layers, key=lambda layer: -_used(layer)[key])[:3]
    return ", most in " + ", ".join(f"'{escape.plain(layer.node)}' {show(_used(layer)[key], unit)}" for layer in worst)


def hint(answer: Answer) -> str:
    """The command that makes a model fit its limits; empty where it does, or where only its growth is too large."""
    if answer.verdict is None or answer.verdict.ok:
        return ""
    path = answer.profile.path
    words = ["mcuprune", "prune", path]
    for key, _, limit in _limited(answer.verdict):
        words += [f"--{key}", _short(limit, RESOURCES[key].unit)]
    if answer.basis.board is not None and "latency" in answer.verdict.limits:
        words += ["--board", answer.basis.board]
    for key, word in answer.basis.models.items():
        if RESOURCES[key].under(word) is not RESOURCES[key]:
            words += [f"--{key}-model", word]
    if answer.basis.runtime != Basis().runtime:
        words += ["--runtime", answer.basis.runtime]
    words += [*answer.flags, "-o", f"{path.removesuffix('.onnx')}-pruned.onnx"]
    return " ".join(shlex.quote(escape.plain(word)) for word in words)


def _short(limit: int, unit: Unit) -> str:
    """A limit as one types it, without rounding."""
    steps: dict[Unit, tuple[tuple[str, int], ...]] = {
        "bytes": (("MB", 1024**2), ("KB", 1024), ("", 1)),
        "count": (("M", 10**6), ("k", 10**3), ("", 1)),
        "time": (("s", 10**6), ("ms", 10**3), ("us", 1)),
    }
    return next(f"{limit // step}{suffix}" for suffix, step in steps[unit] if limit % step == 0)


def _exact(value: int, unit: Unit) -> str:
    return {"bytes": f"{value} {'byte' if value == 1 else 'bytes'}", "count": str(value), "time": f"{value} us"}[unit]


def _signed(change: int, unit: Unit) -> str:
    return f"{'+' if change > 0 else '-'}{show(abs(change), unit)}" if change else "="


def _kib(size: int) -> str:
    return show(size, "bytes")


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def align(rows: Sequence[Sequence[str]], sides: Sequence[str]) -> list[str]:
    """Lines of a table of plain text; ``sides`` has ``<`` or ``>`` for each column."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(sides))] if rows else []
    return [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)).rstrip()
        for row in rows
    ]


# ----------------------------------------------------------------------------------------------------- markdown and html


def markdown(report: Report) -> str:
    """For a pull request or a job summary: GitHub's dialect. The picture is inline SVG, again as characters in the fold."""
    return "\n".join(
        f"### {escape.code(answer.path)}: **no answer**\n\n{escape.inline(answer.message)}\n"
        if isinstance(answer, Refused)
        else _markdown(answer, report)
        for answer in report.answers
    )


def _markdown(answer: Answer, report: Report) -> str:
    profile, memory = answer.profile, answer.profile.memory
    state = "" if report.command == "profile" else ": fits" if answer.ok else ": **does not fit**"
    lines = [f"### {escape.code(profile.path)}{state}", ""]
    head, sides, rows = _summary(answer)
    lines += markdown_table(head, sides, rows)
    if memory.peak_node is not None:
        alive = ", ".join(f"{escape.code(name)} {_kib(size)}" for name, size in memory.peak_tensors)
        lines += [
            "",
            f"Peak of {_kib(memory.peak)} at {escape.code(memory.peak_node)}, alive there: {alive}. {_proof(profile)}",
        ]
    lines += ["", f"Arena of TensorFlow Lite Micro in the file's order: {_kib(memory.arena_tflm)}."]
    if hint(answer):
        lines += ["", "```console", hint(answer), "```"]
    if profile.memory.timeline:
        lines += ["", svg(profile, limit=_sram_limit(answer))]
    lines += ["", f"<details><summary>Cost by {report.view.by}</summary>", ""]
    if profile.memory.timeline:
        lines += ["```text", *chart(profile), "```", ""]
    lines += [*markdown_table(*_cells(table(answer, report.view), report.view, escape.code)), "", "</details>"]
    if report.view.groups:
        rows = [[str(len(g)), escape.code(g.name), "" if g.why is None else escape.inline(g.why)] for g in profile.groups]
        lines += ["", *markdown_table(["channels", "group", "frozen because"], [">", "<", "<"], rows)]
    for section in answer.sections:
        lines += ["", *section.markdown] if section.markdown else []
    return "\n".join(lines) + "\n"


def _proof(profile: Profile) -> str:
    memory = profile.memory
    return "No order needs less." if memory.exact else f"Every order needs {_kib(memory.lower_bound)} at least."


def _sram_limit(answer: Answer) -> int | None:
    """The limit of the peak, if there is one."""
    return answer.verdict.limits.get("sram") if answer.verdict and answer.basis.sram == "peak" else None


def _summary(answer: Answer) -> tuple[list[str], list[str], list[list[str]]]:
    """Head, sides and rows of the table of totals, with limits and changes where there are some."""
    limits, old = answer.verdict, answer.old
    head = ["", "used", *(["limit", "verdict"] if limits else []), *(["before", "change"] if old else [])]
    head += ["most allowed"] if answer.growth else []
    rows = []
    for key, resource in _known(RESOURCES, answer.profile, old).items():
        used = (limits.used if limits and key in limits.used else answer.profile.total)[key]
        title = _limit_title(key, answer) if limits and key in limits.limits else resource.title
        row = [title, show(used, resource.unit)]
        if limits:
            limit = limits.limits.get(key)
            row += ["", ""] if limit is None else [show(limit, resource.unit), in_words(used, limit, resource.unit)]
        if old:
            now, before = answer.profile.total[key], old.total[key]
            row += [show(before, resource.unit), _signed(now - before, resource.unit)]
        if answer.growth:
            limit = answer.growth.limits[key]
            over = answer.growth.used[key] > limit
            row.append(f"{show(limit, resource.unit)}{' (exceeded)' if over else ''}")
        rows.append(row)
    return head, ["<", *[">"] * (len(head) - 1)], rows


def in_words(used: int, limit: int, unit: Unit) -> str:
    """The verdict of one limit; exact where a rounded number would hide that it is exceeded."""
    if used <= limit:
        return "fits"
    hidden = show(used, unit) == show(limit, unit)
    return f"over by {_exact(used - limit, unit) if hidden else show(used - limit, unit)}"


def _cells(found: Table, view: View, name: Callable[[str], str]) -> tuple[list[str], list[str], list[list[str]]]:
    """Head, sides and rows of a cost table; ``name`` writes a name in the format's way."""
    diff, by_node = found.total.was is not None, view.by == "node"
    head = [view.by, *(["op", "shape"] if by_node else ["nodes"])]
    sides = ["<", *(["<", "<"] if by_node else [">"])]
    for resource in columns().values():
        head += [resource.title, "change"] if diff else [resource.title]
    sides += [">"] * (len(head) - len(sides))
    rows = []
    for row in [*found.rows, *filter(None, [found.others]), found.total]:
        plain = row is found.others or row is found.total
        state = f" ({row.state})" if row.state else ""
        line = [row.name if plain else name(row.name) + state]
        line += [row.op, _shape(row.shape)] if by_node else [str(row.count)]
        for key, resource in columns().items():
            line.append(show(row.used[key], resource.unit))
            if diff:
                line.append(_signed(row.change[key], resource.unit) if row.was is not None else "")
        rows.append(line)
    return head, sides, rows


def markdown_table(head: Sequence[str], sides: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table of markdown; ``sides`` has ``<`` or ``>`` for each column, cells are escaped already."""
    rule = ["---:" if side == ">" else "---" for side in sides]
    return ["| " + " | ".join(cells) + " |" for cells in (head, rule, *rows)]


_TINTS = ("#4f8fba", "#75b2a2", "#c9a95b", "#8d86c9", "#5aa5d6", "#a3b565")


def svg(profile: Profile, *, limit: int | None = None, width: int = 720, height: int = 160) -> str:
    """Memory over the schedule as one line of SVG: a bar a step, made of the tensors alive; a dashed line at the limit.

    A tensor keeps its colour from bar to bar; steps that need the peak stand on a red foot. It holds no text: where SVG
    is stripped, nothing is left behind. ``aria-label`` says what it shows.
    """
    timeline = profile.memory.timeline
    ceiling = max([1, limit or 0, *(moment.bytes for moment in timeline)])
    pitch, room = width / max(1, len(timeline)), height - 12
    wide = max(pitch * 0.9, 0.2)
    colours: dict[str, str] = {}
    marks = []
    for index, moment in enumerate(timeline):
        x, y = index * pitch, float(height - 6)
        for name, size in moment.tensors:
            colour = colours.setdefault(name, _TINTS[len(colours) % len(_TINTS)])
            tall = size / ceiling * room
            y -= tall
            marks.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{tall:.1f}" fill="{colour}"/>')
        if moment.bytes == profile.memory.peak:
            marks.append(f'<rect x="{x:.1f}" y="{height - 5}" width="{wide:.1f}" height="4" fill="#d1495b"/>')
    label = f"memory over the schedule, {len(timeline)} steps, peak {profile.memory.peak} bytes"
    if limit:
        y = height - 6 - limit / ceiling * room
        marks.append(f'<path d="M0 {y:.1f}H{width}" stroke="#888" stroke-width="1.5" stroke-dasharray="6 4"/>')
        label += f", limit {limit} bytes"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{label}">{"".join(marks)}</svg>'
    )


def html(report: Report) -> str:
    """One page that needs nothing else."""
    style = (
        "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "table{border-collapse:collapse;margin:1rem 0}td,th{padding:.15rem .7rem;border-bottom:1px solid #ccc;text-align:left}"
        "td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}svg{max-width:100%;height:auto}"
        "tr:last-child td{font-weight:600}"
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>mcuprune {report.command}</title>'
        f"<style>{style}</style></head><body>\n{html_body(report)}</body></html>\n"
    )


def html_body(report: Report) -> str:
    """What the page shows, for a page of somebody else's."""
    return "".join(
        f"<h2>{escape.markup(answer.path)}: no answer</h2>\n<p>{escape.markup(answer.message)}</p>\n"
        if isinstance(answer, Refused)
        else _html(answer, report)
        for answer in report.answers
    )


def _html(answer: Answer, report: Report) -> str:
    profile, memory = answer.profile, answer.profile.memory
    state = "" if report.command == "profile" else ": fits" if answer.ok else ": does not fit"
    parts = [f"<h2>{escape.markup(profile.path)}{state}</h2>", html_table(*_summary(answer))]
    if memory.peak_node is not None:
        alive = ", ".join(f"{escape.markup(name)} {_kib(size)}" for name, size in memory.peak_tensors)
        said = (
            f"Peak of {_kib(memory.peak)} at <b>{escape.markup(memory.peak_node)}</b>, alive there: {alive}. {_proof(profile)}"
        )
        parts.append(f"<p>{said}</p>")
    parts.append(f"<p>Arena of TensorFlow Lite Micro in the file's order: {_kib(memory.arena_tflm)}.</p>")
    if profile.memory.timeline:
        parts.append(f"<figure>{svg(profile, limit=_sram_limit(answer))}</figure>")
    if hint(answer):
        parts.append(f"<pre>{escape.markup(hint(answer))}</pre>")
    parts.append(html_table(*_cells(table(answer, report.view), report.view, str)))
    if report.view.groups:
        rows = [[str(len(g)), g.name, g.why or ""] for g in profile.groups]
        parts.append(html_table(["channels", "group", "frozen because"], [">", "<", "<"], rows))
    parts += [section.html for section in answer.sections if section.html]
    return "\n".join(parts) + "\n"


def html_table(head: Sequence[str], sides: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of HTML; ``sides`` has ``<`` or ``>`` for each column, cells are escaped here."""

    def line(cells: Sequence[str], tag: str) -> str:
        kinds = [f'{tag} class="n"' if side == ">" else tag for side in sides]
        return "<tr>" + "".join(f"<{kind}>{escape.markup(c)}</{tag}>" for kind, c in zip(kinds, cells, strict=True)) + "</tr>"

    return "<table>\n" + "\n".join([line(head, "th"), *(line(row, "td") for row in rows)]) + "\n</table>"


# ------------------------------------------------------------------------------------------------------------------ json


def json(report: Report) -> str:
    """One document, integers in base units only."""
    document = {
        "format": JSON_FORMAT,
        "mcuprune": __version__,
        "command": report.command,
        "ok": report.ok,
        "models": [
            {"path": answer.path, "ok": False, "error": {"kind": answer.kind, "message": answer.message}}
            if isinstance(answer, Refused)
            else _json(answer, report)
            for answer in report.answers
        ],
    }
    return dumped(document)


def dumped(document: Mapping[str, Any]) -> str:
    """A JSON document as every command writes it."""
    return jsonlib.dumps(document, indent=1) + "\n"


def _json(answer: Answer, report: Report) -> dict[str, Any]:
    document: dict[str, Any] = {"path": answer.profile.path, "opset": answer.profile.opset, "ok": answer.ok}
    if answer.verdict:
        document |= models(answer.basis)
        document["limits"] = _json_verdict(answer.verdict)
        document["hint"] = hint(answer) or None
    document |= profile_document(answer.profile)
    if answer.device:
        ranges = {"latency_us": answer.device.latency, "energy_nj": answer.device.energy}
        named = {"board": answer.device.board.name, "runtime": answer.device.runtime}
        document["device"] = {**named, **{k: _json_range(found) for k, found in ranges.items()}}
    document |= {section.key: section.document for section in answer.sections}
    found = table(answer, report.view)
    document["table"] = {
        "by": report.view.by,
        "rows": [_json_row(row) for row in found.rows],
        "others": _json_row(found.others) if found.others else None,
        "total": _json_row(found.total),
    }
    if answer.old is not None:
        change = {key: value - answer.old.total[key] for key, value in answer.profile.total.items() if key in answer.old.total}
        document["against"] = {**profile_document(answer.old), "change": change}
        if answer.growth:
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
            "arena_tail": asdict(memory.tail) if memory.tail else None,
            "arena_extra": [
                {"node": copy.node, "operator": copy.operator, "bytes": int(copy.bytes), "reason": copy.reason}
                for copy in memory.copies
            ],
            "unsupported": list(memory.unsupported),
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
            }
            for layer in profile.layers
        ],
    }


def _json_tensors(tensors: Iterable[tuple[str, int]]) -> list[dict[str, Any]]:
    return [{"name": name, "bytes": size} for name, size in tensors]


def _json_verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        key: {"used": used, "limit": limit, "ok": used <= limit, "over": max(0, used - limit)}
        for key, used, limit in _limited(verdict)
    }


def _json_range(found: Range | None) -> dict[str, Any] | None:
    """In thousandths: microseconds of milliseconds, nanojoules of microjoules."""
    if found is None:
        return None
    ends = {key: round(value * 1000) for key, value in (("low", found.low), ("likely", found.likely), ("high", found.high))}
    return {**ends, "error": round(found.error, 3), "sources": list(found.sources)}


def _json_row(row: Row) -> dict[str, Any]:
    document: dict[str, Any] = {"name": row.name, "nodes": row.count, **row.used}
    if row.was is not None:
        document |= {"was": dict(row.was), "change": row.change, "state": row.state or "same"}
    return document


# -------------------------------------------------------------------------------------------------------- for CI servers


def junit(report: Report) -> str:
    """One test case a model and resource; of ``profile``, which has no limits, all pass."""
    cases, failures = [], 0
    for answer in report.answers:
        if isinstance(answer, Refused):
            said = escape.markup(answer.message)
            head = f'<testcase classname="{escape.markup(answer.path)}" name="answer">'
            cases.append(f'    {head}<error type="{escape.markup(answer.kind)}" message="{said}">{said}</error></testcase>')
            continue
        for name, said, bad in _findings(answer):
            failures += bad
            head = f'<testcase classname="{escape.markup(answer.profile.path)}" name="{escape.markup(name)}"'
            said = escape.markup(said)
            result = f'<failure message="{said}">{said}</failure>' if bad else f"<system-out>{said}</system-out>"
            cases.append(f"    {head}>{result}</testcase>")
    counts = f'tests="{len(cases)}" failures="{failures}" errors="{len(report.refused)}"'
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<testsuites {counts}>\n  <testsuite name="mcuprune {report.command}" {counts}>\n'
        + "\n".join(cases)
        + "\n  </testsuite>\n</testsuites>\n"
    )


def github(report: Report) -> str:
    """Workflow commands that annotate a model's file: an error for each limit that is exceeded, else one notice."""
    lines = []
    for answer in report.answers:
        if isinstance(answer, Refused):
            lines.append(annotation("error", answer.message, file=answer.path, title="no answer"))
            continue
        path = answer.profile.path
        bad = [(name, said) for name, said, failed in _findings(answer) if failed]
        for name, said in bad:
            lines.append(annotation("error", said, file=path, title=f"{name} over budget"))
        if not bad:
            said = "; ".join(f"{name} {said}" for name, said, _ in _findings(answer))
            lines.append(annotation("notice", said, file=path, title=f"mcuprune {report.command}"))
    return "".join(line + "\n" for line in lines)


def annotation(level: Literal["error", "notice"], said: str, **properties: str) -> str:
    """One workflow command, escaped as GitHub asks."""
    named = ",".join(f"{key}={escape.command(value, ':,')}" for key, value in properties.items())
    return f"::{level}{' ' if named else ''}{named}::{escape.command(said)}"


def _findings(answer: Answer) -> list[tuple[str, str, bool]]:
    """(title, exact numbers, whether it is exceeded) for each limit; of a profile, for each resource."""
    found = []
    for key, used, limit in _limited(answer.verdict):
        unit = RESOURCES[key].unit
        said = f"{used} of {_exact(limit, unit)}{_spot(key, answer) if used > limit else ''}"
        found.append((_limit_title(key, answer), said, used > limit))
    for key, used, limit in _limited(answer.growth):
        assert answer.old is not None
        said = f"{used} of {_exact(limit, RESOURCES[key].unit)}, was {answer.old.total[key]}"
        found.append((f"{RESOURCES[key].title} growth", said, used > limit))
    if not found:
        found = [
            (r.title, _exact(answer.profile.total[key], r.unit), False) for key, r in _known(RESOURCES, answer.profile).items()
        ]
    return found


def _spot(key: str, answer: Answer) -> str:
    """The node to look at first."""
    profile = answer.profile
    if RESOURCES[key].share is None:
        return ""
    if RESOURCES[key].share == "max":
        return f" at {profile.memory.peak_node}" if answer.basis.sram == "peak" and profile.memory.peak_node else ""
    if RESOURCES[key].under(answer.basis.models.get(key)) is not RESOURCES[key]:
        return ""
    worst = max(profile.layers, key=lambda layer: _used(layer)[key])
    return f", most in {worst.node}"


#: What ``--format`` takes.
FORMATS: Mapping[str, Callable[[Report], str]] = {
    "text": text,
    "markdown": markdown,
    "html": html,
    "json": json,
    "junit": junit,
    "github": github,
}


# ---------------------------------------------------------------------------------------------------------------- boards


def boards_text(boards: Iterable[Board]) -> str:
    rows = [["board", "chip", "core", "MHz", "SRAM", "largest block", "flash", "note", "source"]]
    for board in boards:
        source = board.source if board.verified else f"{board.source} (unverified)"
        sizes = [_kib(size) for size in (board.sram, board.block, board.flash)]
        rows.append([board.name, board.chip, board.core, str(board.mhz), *sizes, board.note, source])
    lines = align(rows, ["<", "<", "<", ">", ">", ">", ">", "<", "<"])
    gate = "--board limits the arena of the runtime to the largest block of SRAM, and the image, file and code, to the flash."
    return "\n".join([*lines, "", gate]) + "\n"


def boards_json(boards: Iterable[Board]) -> str:
    """Sizes in bytes, clocks in megahertz."""
    rows = [asdict(board) for board in boards]
    document = {"format": JSON_FORMAT, "mcuprune": __version__, "command": "boards", "ok": True, "boards": rows}
    return dumped(document)
