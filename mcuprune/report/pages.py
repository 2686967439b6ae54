"""Answers as one page of HTML."""

from __future__ import annotations

from mcuprune import escape
from mcuprune.report import page
from mcuprune.report.answers import Answer, Refused, Report, table
from mcuprune.report.pictures import svg
from mcuprune.report.tables import html_table
from mcuprune.report.wording import arena, cells, hint, kib, proof, sram_limit, summary, without_kernels


def html(report: Report) -> str:
    """One page that needs nothing else."""
    return page.html(f"mcuprune {report.command}", html_body(report))


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
    parts = [f"<h2>{escape.markup(profile.path)}{state}</h2>", html_table(*summary(answer))]
    if memory.peak_node is not None:
        alive = ", ".join(f"{escape.markup(name)} {kib(size)}" for name, size in memory.peak_tensors)
        said = f"Peak of {kib(memory.peak)} at <b>{escape.markup(memory.peak_node)}</b>, alive there: {alive}. {proof(profile)}"
        parts.append(f"<p>{said}</p>")
    parts.append(f"<p>Arena of TensorFlow Lite Micro in the file's order: {arena(memory)}.</p>")
    if lacking := without_kernels(profile):
        parts.append(f"<p>{escape.markup(lacking)}.</p>")
    if profile.memory.timeline:
        parts.append(f"<figure>{svg(profile, limit=sram_limit(answer))}</figure>")
    if hint(answer):
        parts.append(f"<pre>{escape.markup(hint(answer))}</pre>")
    parts.append(html_table(*cells(table(answer, report.view), report.view, str)))
    if report.view.groups:
        rows = [[str(len(g)), g.name, g.why or ""] for g in profile.groups]
        parts.append(html_table(["channels", "group", "frozen because"], [">", "<", "<"], rows))
    parts += [section.html for section in answer.sections if section.html]
    return "\n".join(parts) + "\n"
