"""Memory over the schedule as a picture: in characters, and as one line of SVG."""

from __future__ import annotations

from mcuprune.costs.resources import Profile
from mcuprune.report.wording import kib

_EIGHTHS = " ▁▂▃▄▅▆▇█"


def chart(profile: Profile, *, width: int = 64, height: int = 6, ascii: bool = False) -> list[str]:
    """A picture of memory over the schedule, in characters; columns are steps, or the worst of several, and one at least."""
    values, width = [moment.bytes for moment in profile.memory.timeline], max(1, width)
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
    label = kib(peak)
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
