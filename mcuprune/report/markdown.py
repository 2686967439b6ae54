"""Answers as markdown, in GitHub's dialect."""

from __future__ import annotations

from mcuprune import escape
from mcuprune.report.answers import Answer, Refused, Report, table
from mcuprune.report.pictures import chart, svg
from mcuprune.report.tables import markdown_table
from mcuprune.report.wording import arena, cells, hint, kib, proof, sram_limit, summary, without_kernels


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
    head, sides, rows = summary(answer)
    lines += markdown_table(head, sides, rows)
    if memory.peak_node is not None:
        alive = ", ".join(f"{escape.code(name)} {kib(size)}" for name, size in memory.peak_tensors)
        lines += [
            "",
            f"Peak of {kib(memory.peak)} at {escape.code(memory.peak_node)}, alive there: {alive}. {proof(profile)}",
        ]
    lines += ["", f"Arena of TensorFlow Lite Micro in the file's order: {arena(memory)}."]
    if lacking := without_kernels(profile):
        lines += ["", f"**Note**: {escape.inline(lacking)}"]
    if hint(answer):
        lines += ["", "```console", hint(answer), "```"]
    if profile.memory.timeline:
        lines += ["", svg(profile, limit=sram_limit(answer))]
    lines += ["", f"<details><summary>Cost by {report.view.by}</summary>", ""]
    if profile.memory.timeline:
        lines += ["```text", *chart(profile), "```", ""]
    lines += [*markdown_table(*cells(table(answer, report.view), report.view, escape.code)), "", "</details>"]
    if report.view.groups:
        rows = [[str(len(g)), escape.code(g.name), "" if g.why is None else escape.inline(g.why)] for g in profile.groups]
        lines += ["", *markdown_table(["channels", "group", "frozen because"], [">", "<", "<"], rows)]
    for section in answer.sections:
        lines += ["", *section.markdown] if section.markdown else []
    return "\n".join(lines) + "\n"
