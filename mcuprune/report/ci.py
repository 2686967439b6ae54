"""Answers for CI servers: JUnit, and annotations of GitHub."""

from __future__ import annotations

from typing import Literal

from mcuprune import escape
from mcuprune.costs.resources import RESOURCES
from mcuprune.report.answers import Answer, Refused, Report, used_by
from mcuprune.report.wording import exact, known, limit_title, limited, without_kernels


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
        if (lacking := without_kernels(answer.profile)) and (answer.verdict is None or answer.basis.sram == "tflm"):
            lines.append(annotation("warning", lacking, file=path, title="no int8 kernel"))
    return "".join(line + "\n" for line in lines)


def annotation(level: Literal["error", "notice", "warning"], said: str, **properties: str) -> str:
    """One workflow command, escaped as GitHub asks."""
    named = ",".join(f"{key}={escape.command(value, ':,')}" for key, value in properties.items())
    return f"::{level}{' ' if named else ''}{named}::{escape.command(said)}"


def _findings(answer: Answer) -> list[tuple[str, str, bool]]:
    """(title, exact numbers, whether it is exceeded) for each limit; of a profile, for each resource."""
    findings = []
    for key, used, limit in limited(answer.verdict):
        unit = RESOURCES[key].unit
        said = f"{used} of {exact(limit, unit)}{_spot(key, answer) if used > limit else ''}"
        findings.append((limit_title(key, answer), said, used > limit))
    for key, used, limit in limited(answer.growth):
        assert answer.old is not None
        said = f"{used} of {exact(limit, RESOURCES[key].unit)}, was {answer.old.total[key]}"
        findings.append((f"{RESOURCES[key].title} growth", said, used > limit))
    if not findings:
        findings = [
            (r.title, exact(answer.profile.total[key], r.unit), False) for key, r in known(RESOURCES, answer.profile).items()
        ]
    return findings


def _spot(key: str, answer: Answer) -> str:
    """The node to look at first."""
    profile = answer.profile
    if RESOURCES[key].share is None:
        return ""
    if RESOURCES[key].share == "max":
        return f" at {profile.memory.peak_node}" if answer.basis.sram == "peak" and profile.memory.peak_node else ""
    if RESOURCES[key].under(answer.basis.models.get(key)) is not RESOURCES[key]:
        return ""
    worst = max(profile.layers, key=lambda layer: used_by(layer)[key])
    return f", most in {worst.node}"
