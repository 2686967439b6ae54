"""Answers as plain text, for a terminal or a pipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from mcuprune import escape
from mcuprune.channels.labelling import Group
from mcuprune.costs.resources import RESOURCES, Memory, Profile, columns, totals
from mcuprune.deploy.latency import Range
from mcuprune.report.answers import Answer, Device, Refused, Report, Table, View, table, used_by
from mcuprune.report.pictures import chart
from mcuprune.report.tables import align
from mcuprune.report.width import elided
from mcuprune.report.wording import (
    arena,
    both,
    dimensions,
    exact,
    hint,
    kib,
    known,
    limit_title,
    limited,
    signed,
    without_kernels,
)
from mcuprune.units import Unit, show

#: Characters that a table leaves for the names at its end, on a narrow terminal.
_ROOM_FOR_A_NAME = 20


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
        f"  {role:<6}  {dimensions(shape):<12}  {escape.plain(name)}"
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
        for key, resource in known(totals(), profile).items()
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
    return f"was {before if before != now else old.total[key]} ({signed(total[key] - old.total[key], unit)})"


def _peak_text(profile: Profile) -> list[str]:
    memory = profile.memory
    proof = "no order needs less" if memory.exact else f"the best order found; every order needs {kib(memory.lower_bound)}"
    lines = [f"{RESOURCES['sram'].title} of {kib(memory.peak)}: {proof}"]
    lines.append(f"  the file's own order {kib(memory.file_order)}; one operator's inputs and outputs {kib(memory.max_in_out)}")
    lines.append(f"  arena of TensorFlow Lite Micro in the file's order {arena(memory)}{_tail(memory)}")
    if lacking := without_kernels(profile):
        lines.append(f"  {escape.plain(lacking)}")
    if memory.peak_node is not None:
        lines.append(f"peak at node '{escape.plain(memory.peak_node)}', alive there:")
        lines += align([["", kib(size), escape.plain(name)] for name, size in memory.peak_tensors], ["<", ">", "<"])
    return lines


def _tail(memory: Memory) -> str:
    """Of what the arena consists beside activations and scratch, largest first, as the end of a line and another line."""
    if memory.tail is None:
        return ""
    causes = sorted(asdict(memory.tail).items(), key=lambda cause: -cause[1])
    rest = ", ".join(f"{name} {kib(size)}" for name, size in causes)
    return f", {kib(memory.arena_head)} of it activations and scratch;\n    the rest by cause: {rest}"


def _device_text(device: Device) -> list[str]:
    board = device.board
    return [
        f"on {board.name} ({board.core}, {board.mhz} MHz) in {device.runtime}; estimates, not measurements:",
        f"  latency  {_range(device.latency, 'ms')}",
        f"  energy   {_range(device.energy, 'uJ')}",
    ]


def _range(estimate: Range | None, unit: str) -> str:
    return (
        "no data" if estimate is None else f"{estimate.likely:.1f} {unit}, between {estimate.low:.1f} and {estimate.high:.1f}"
    )


def _table_text(shown: Table, profile: Profile, view: View) -> list[str]:
    diff = shown.total.was is not None
    head = [""]
    for resource in columns().values():
        head += [resource.title, "change"] if diff else [resource.title]
    by_node = view.by == "node"
    head += ["shape", "op"] if by_node else ["nodes"]
    head += [view.by]
    peak = profile.memory.peak_node
    cells = [head]
    for row in [*shown.rows, *filter(None, [shown.others]), shown.total]:
        ends = row is shown.others or row is shown.total
        marks = {"new": "+", "gone": "-", "": ">" if by_node and row.name == peak and not ends else ""}
        line = [marks[row.state]]
        for key, resource in columns().items():
            line.append(show(row.used[key], resource.unit))
            if diff:
                line.append(signed(row.change[key], resource.unit) if row.was is not None else "")
        line += [dimensions(row.shape), row.op] if by_node else [str(row.count)]
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
    for key, used, limit in limited(answer.verdict):
        title = limit_title(key, answer)
        rows.append(["FAIL" if used > limit else "pass", title, _against_limit(key, used, limit, answer)])
    for key, used, limit in limited(answer.growth):
        assert answer.old is not None
        old, unit = answer.old.total[key], RESOURCES[key].unit
        sizes = [show(used, unit), show(old, unit), show(limit, unit)]
        if used > limit and sizes[0] in sizes[1:]:
            sizes = [exact(used, unit), exact(old, unit), exact(limit, unit)]
        said = f"{sizes[0]}, was {sizes[1]} ({signed(used - old, unit)}); at most {sizes[2]}"
        rows.append(["FAIL" if used > limit else "pass", f"{RESOURCES[key].title} growth", said])
    if answer.old is not None and answer.growth is None:
        for key, resource in known(RESOURCES, answer.profile, answer.old).items():
            used, old = answer.profile.total[key], answer.old.total[key]
            sizes = [show(used, resource.unit), show(old, resource.unit)]
            if used != old and sizes[0] == sizes[1]:
                sizes = [exact(used, resource.unit), exact(old, resource.unit)]
            rows.append(["", f"{resource.title} change", f"{sizes[0]}, was {sizes[1]} ({signed(used - old, resource.unit)})"])
    lines = [escape.plain(answer.profile.path), *align(rows, ["<", "<", "<"]), f"      {both(answer.profile.memory)}"]
    if lacking := without_kernels(answer.profile):
        lines.append(f"      {escape.plain(lacking)}")
    command = hint(answer)
    if command:
        lines.append(f"hint  {command}")
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _against_limit(key: str, used: int, limit: int, answer: Answer) -> str:
    unit = RESOURCES[key].unit
    used_text, other = show(used, unit), show(limit, unit)
    if used <= limit:
        return f"{used_text} of {other}"
    if used_text == other:
        return f"{exact(used, unit)} of {exact(limit, unit)}, over by {exact(used - limit, unit)}{_where(key, answer)}"
    return f"{used_text} of {other}, over by {show(used - limit, unit)} ({used} > {limit}){_where(key, answer)}"


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
    worst = sorted(profile.layers, key=lambda layer: -used_by(layer)[key])[:3]
    return ", most in " + ", ".join(f"'{escape.plain(layer.node)}' {show(used_by(layer)[key], unit)}" for layer in worst)
