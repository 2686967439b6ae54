"""Reports: numbers agree between formats and with the JSON, sums hold, strangers' names do no harm, golden text.

Rewrite the golden files with ``MCUPRUNE_GOLDEN=1 pytest tests/test_report.py``, then look at the diff.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import pytest
import small_nets

from mcuprune import units
from mcuprune.costs import resources
from mcuprune.costs.resources import RESOURCES, Profile, Verdict, columns
from mcuprune.graph import network
from mcuprune.operators import table as ops
from mcuprune.report import profile as report
from mcuprune.report.profile import Answer, Report, View

GOLDEN = Path(__file__).parent / "golden"


def measured(proto, path: str = "net.onnx") -> Profile:
    return resources.profile(network.from_proto(proto, path, accept=ops.accept(path)))


@pytest.fixture(scope="module")
def narrow() -> Profile:
    return measured(small_nets.residual(8))


@pytest.fixture(scope="module")
def wide() -> Profile:
    return measured(small_nets.residual(16), "wide.onnx")


@pytest.fixture(scope="module")
def branches() -> Profile:
    return measured(small_nets.branches(), "branches.onnx")


def checked(profile: Profile, **limits: int) -> Answer:
    return Answer(profile, Verdict({name: profile.total[name] for name in limits}, limits))


def compared(new: Profile, old: Profile) -> Answer:
    limited = [name for name in RESOURCES if name in old.total]
    most = {name: old.total[name] for name in limited}
    return Answer(new, old=old, growth=Verdict({name: new.total[name] for name in limited}, most))


# ---------------------------------------------------------------------------------------------------------- golden text


def golden_cases(narrow, wide, branches) -> dict[str, str]:
    failing = checked(narrow, sram=1024, flash=65536, macs=50_000)
    return {
        "profile.txt": report.text(Report("profile", (Answer(narrow),), View(groups=True))),
        "profile_ascii.txt": report.text(Report("profile", (Answer(branches),), View(ascii=True))),
        "profile_against.txt": report.text(Report("profile", (Answer(narrow, old=wide),), View(rows=5))),
        "profile_by_op.txt": report.text(Report("profile", (Answer(wide),), View(by="op", sort="flash"))),
        "check.txt": report.text(Report("check", (failing, checked(wide, sram=65536), compared(wide, narrow)))),
        "check.md": report.markdown(Report("check", (failing,), View(rows=4))),
        "check.html": report.html(Report("check", (failing,), View(rows=4, groups=True))),
        "check.junit.xml": report.junit(Report("check", (failing, compared(wide, narrow)))),
        "check.github.txt": report.github(Report("check", (failing, checked(wide, sram=65536)))),
    }


GOLDEN_NAMES = (
    "profile.txt",
    "profile_ascii.txt",
    "profile_against.txt",
    "profile_by_op.txt",
    "check.txt",
    "check.md",
    "check.html",
    "check.junit.xml",
    "check.github.txt",
)


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_golden_text(name, narrow, wide, branches):
    written = golden_cases(narrow, wide, branches)[name]
    if os.environ.get("MCUPRUNE_GOLDEN"):
        GOLDEN.mkdir(exist_ok=True)
        (GOLDEN / name).write_text(written, encoding="utf-8")
    assert written == (GOLDEN / name).read_text(encoding="utf-8")


# --------------------------------------------------------------------------------------------------------------- numbers


def integers(document) -> set[int]:
    if isinstance(document, dict):
        document = list(document.values())
    if isinstance(document, list):
        return set().union(*map(integers, document)) if document else set()
    return {document} if isinstance(document, int) else set()


def shown(document) -> set[str]:
    """Every way in which a text may write a number of the JSON."""
    words = set()
    for number in integers(document):
        words |= {str(abs(number)), units.show(abs(number), "bytes"), units.show(abs(number), "count")}
    return words


QUANTITY = re.compile(r"(?<![\w./])\d+(?:\.\d+)?(?: (?:KiB|MiB|B|k|M|G)\b)?(?!\w|\.\d)")


@pytest.mark.parametrize("view", [View(), View(rows=3), View(by="op", groups=True), View(by="group", sort="macs")], ids=str)
@pytest.mark.parametrize("kind", ["profile", "against", "check", "growth"])
@pytest.mark.parametrize("written", [report.text, report.markdown, report.html, report.junit, report.github])
def test_every_number_shown_is_in_the_json(written, kind, view, narrow, wide):
    answer = {
        "profile": Answer(narrow),
        "against": Answer(narrow, old=wide),
        "check": checked(narrow, sram=1000, flash=70_000, macs=10**6),
        "growth": compared(wide, narrow),
    }[kind]
    result = Report("profile" if kind in ("profile", "against") else "check", (answer,), view)
    known = shown(json.loads(report.json(result)))
    known |= {"0", str(len(narrow.memory.timeline)), "1"}  # the picture's axis and caption, counts of test cases
    known |= {str(n) for n in range(2, 7)}
    text = re.sub(r"<svg.*?</svg>|<style>.*?</style>|<\?xml.*?\?>|</?h\d", "", unescape(written(result)))
    strange = set(QUANTITY.findall(text)) - known
    assert not strange


@pytest.mark.parametrize("by", report.BY)
@pytest.mark.parametrize("sort", ["graph", *columns()])
@pytest.mark.parametrize("rows", [0, 1, 3, 100])
def test_the_total_is_the_sum_of_the_rows(by, sort, rows, narrow, wide):
    for answer in (Answer(narrow), Answer(narrow, old=wide)):
        found = report.table(answer, View(by=by, sort=sort, rows=rows))
        parts = [*found.rows, *([found.others] if found.others else [])]
        for key in columns():
            together = max if key == "sram" else sum
            assert together(row.used[key] for row in parts) == found.total.used[key] == narrow.total[key]
            if answer.old:
                assert together(row.was[key] for row in parts) == found.total.was[key] == wide.total[key]
        assert sum(row.count for row in parts) == len(narrow.layers)


def test_rows_that_are_folded_are_the_least(narrow):
    found = report.table(Answer(narrow), View(rows=3))
    assert [row.name for row in found.rows] == ["stem", "c1", "c2"]
    assert found.others.count == 6


def test_the_row_of_the_peak_is_never_folded(narrow):
    (row,) = report.table(Answer(narrow), View(rows=1)).rows
    assert row.name == narrow.memory.peak_node


def test_a_diff_has_rows_for_what_came_and_went(narrow, branches):
    found = report.table(Answer(narrow, old=branches), View(rows=0))
    states = {row.name: row.state for row in found.rows}
    assert states["stem"] == "new"
    assert states["a1"] == "gone"
    gone = next(row for row in found.rows if row.name == "a1")
    assert gone.used["macs"] == 0
    assert gone.change["macs"] < 0


@pytest.mark.parametrize("limit", [12 * 1024 - 1, 12 * 1024 - 40])
def test_text_falls_back_to_bytes_where_rounding_would_hide_an_excess(narrow, limit):
    answer = Answer(narrow, Verdict({"sram": 12 * 1024}, {"sram": limit}))
    over = 12 * 1024 - limit
    assert f"12288 bytes of {limit} bytes, over by {over} byte" in report.text(Report("check", (answer,)))
    for written in (report.markdown, report.html):
        assert f"over by {over} byte" in written(Report("check", (answer,)))


def test_a_growth_that_rounding_would_hide_is_in_bytes(narrow):
    old = replace(narrow, total={**narrow.total, "sram": 1530})
    said = report.text(Report("check", (Answer(narrow, old=old, growth=Verdict({"sram": 1536}, {"sram": 1535})),)))
    assert "FAIL  SRAM growth  1536 bytes, was 1530 bytes (+6 B); at most 1535 bytes" in said


def test_a_change_that_rounding_would_hide_is_exact(narrow):
    old = replace(narrow, total={**narrow.total, "sram": 1530})
    assert "was 1530 (+6 B)" in report.text(Report("profile", (Answer(narrow, old=old),)))


def test_equal_is_within():
    assert report.text(Report("check", ())) == ""
    assert Verdict({"sram": 10}, {"sram": 10}).ok


def test_a_bound_that_is_not_proven_is_not_called_least(narrow):
    memory = replace(narrow.memory, exact=False, lower_bound=1024)
    answer = Answer(replace(narrow, memory=memory))
    for written in (report.text, report.markdown, report.html):
        said = written(Report("profile", (answer,)))
        assert "o order needs less" not in said
        assert "very order needs 1.0 KiB" in said


# ------------------------------------------------------------------------------------------------------------------ json


def test_json_keeps_the_promised_keys(narrow):
    document = json.loads(report.json(Report("check", (checked(narrow, sram=2048),))))
    assert document["format"] == 1
    (model,) = document["models"]
    assert {"path", "opset", "ok", "inputs", "outputs", "total", "limits", "memory", "groups", "layers"} <= set(model)
    assert set(model["total"]) == {"sram", "flash", "macs", "params", "file", "image"}
    assert {
        "peak",
        "exact",
        "lower_bound",
        "file_order",
        "max_in_out",
        "order",
        "peak_node",
        "peak_tensors",
        "arena_tflm",
        "arena_head",
        "arena_start",
        "arena_tail",
        "arena_extra",
        "unsupported",
    } <= set(model["memory"])
    assert model["memory"]["peak_tensors"] == [{"name": name, "bytes": 512} for name in ("r", "ar", "b")]
    assert all({"name", "channels", "removable", "nodes"} <= set(group) for group in model["groups"])
    assert all(set(layer) == {"node", "op", "shape", "macs", "flash", "params", "live", "reads"} for layer in model["layers"])


def test_the_timeline_is_the_peak_step_by_step(branches):
    (model,) = json.loads(report.json(Report("profile", (Answer(branches),))))["models"]
    steps = model["memory"]["timeline"]
    assert max(step["bytes"] for step in steps) == model["total"]["sram"]
    assert all(sum(tensor["bytes"] for tensor in step["tensors"]) == step["bytes"] for step in steps)
    assert [step["node"] for step in steps] == model["memory"]["order"]


# --------------------------------------------------------------------------------------------------- strangers' names

NASTY = "a|b`c<i>&\"'\x1b[2J\n::error::x%,:]]>"


@pytest.fixture(scope="module")
def nasty() -> Profile:
    proto = small_nets.residual()
    proto.graph.node[4].name = NASTY
    return measured(proto, f"{NASTY}.onnx")


@pytest.mark.parametrize("written", list(report.FORMATS.values()))
def test_no_format_lets_control_characters_through(written, nasty):
    said = written(Report("check", (checked(nasty, sram=1),), View(groups=True)))
    assert "\x1b" not in said
    assert not any(line.startswith("::error::x") for line in said.splitlines())


def test_xml_and_html_stay_well_formed(nasty):
    result = Report("check", (checked(nasty, sram=1, flash=1),), View(groups=True))
    assert len(ElementTree.fromstring(report.junit(result).encode()).findall(".//failure")) == 2
    page = report.html(result).removeprefix("<!doctype html>\n").replace('<meta charset="utf-8">', "")
    assert "<i>" not in page
    ElementTree.fromstring(page)


def test_markdown_tables_keep_their_columns(nasty):
    for line in report.markdown(Report("check", (checked(nasty, sram=1),))).splitlines():
        if line.startswith("| ") and "op" not in line:
            assert len(re.findall(r"(?<!\\)\|", line)) in (5, 7)


def test_annotations_escape_as_github_asks():
    said = report.annotation("error", "50% of\r\nit", file="a,b:c.onnx", title="x")
    assert said == "::error file=a%2Cb%3Ac.onnx,title=x::50%25 of%0D%0Ait"


def test_the_hint_is_quoted_for_a_shell(nasty):
    import shlex

    words = shlex.split(report.hint(checked(nasty, sram=1)))
    assert words[:2] == ["mcuprune", "prune"]
    assert words[3:5] == ["--sram", "1"]


# -------------------------------------------------------------------------------------------------------------- pictures


def test_the_picture_is_as_high_as_the_peak(branches):
    lines = report.chart(branches, height=4)
    assert lines[0].startswith(units.show(branches.memory.peak, "bytes"))
    assert "█" in lines[0]
    assert f"{len(branches.memory.timeline)} steps" in lines[-1]


@pytest.mark.parametrize("n_steps", [1, 2, 63, 64, 65, 128, 1000])
def test_the_picture_fits_its_width_and_keeps_the_peak(branches, n_steps):
    moment = branches.memory.timeline[0]
    timeline = [moment._replace(bytes=1)] * (n_steps - 1) + [moment._replace(bytes=1000)]
    profile = replace(branches, memory=replace(branches.memory, timeline=tuple(timeline), peak=1000))
    first, *_, axis, _ = report.chart(profile, width=64)
    assert first.count("█") >= 1
    assert max(map(len, [first, axis])) <= len("1000 B │") + 64


def test_the_svg_is_one_line_without_text(branches):
    said = report.svg(branches, limit=3000)
    assert "\n" not in said
    root = ElementTree.fromstring(said)
    assert not "".join(root.itertext()).strip()
    assert "peak 1280 bytes, limit 3000 bytes" in root.get("aria-label")
    bars = [float(mark.get("height")) for mark in root if mark.tag.endswith("rect")]
    assert all(0 <= bar <= 160 for bar in bars)


@pytest.mark.parametrize("command", ["profile", "check"])
@pytest.mark.parametrize("kind", ["text", "markdown", "html", "github"])
def test_an_operator_without_a_kernel_is_named_in_every_format(kind, command, wide):
    """The arena is that of the others then, and no file of TensorFlow Lite is written."""
    memory = replace(wide.memory, unsupported=("net.onnx: node 'e': Exp has no int8 operator", "net.onnx: node 'f': Exp"))
    profile = replace(wide, memory=memory, path="net.onnx")
    answer = Answer(profile) if command == "profile" else checked(profile, sram=1 << 30)
    if command == "check":
        answer = replace(answer, basis=replace(answer.basis, sram="tflm"))
    said = unescape(report.FORMATS[kind](Report(command, [answer], View())))
    assert "because of 2 nodes, and the arena is that of the other operators; the first is node 'e': Exp" in said
    assert "node 'e'" not in unescape(report.FORMATS[kind](Report(command, [replace(answer, profile=wide)], View())))


def test_a_network_that_does_nothing_is_reported():
    from onnx import helper

    proto = small_nets.model([helper.make_node("Flatten", ["x"], ["y"], "flat")], {}, {"x": [1, 2, 2]}, {"y": [1, 4]})
    profile = measured(proto)
    for written in report.FORMATS.values():
        assert written(Report("profile", (Answer(profile),)))
