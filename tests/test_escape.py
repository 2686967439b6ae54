"""Names of strangers in every output of every command: shown, but never as more than text."""

from __future__ import annotations

import json
import re
import unicodedata
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from xml.etree import ElementTree

import onnx
import pytest
import small_nets
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mcuprune import escape, pruning, units
from mcuprune.cli import main
from mcuprune.pruning import Request
from mcuprune.report import profile as report
from mcuprune.report import prune as outcome
from mcuprune.report import prune_page

#: Characters that mean something somewhere, and every kind of character that isn't one for people to read.
_HOSTILE = (
    "\x00\x07\x08\t\n\r\x1b\x7f\x85\x9b\u200b\u200e\u202a\u202e\u2066\u2069\u2028\u2029\ufeff\ufffe|`*_[]()<>&\"'\\#!~@:%,;{}$/"
)
NAMES = st.one_of(
    st.text(alphabet=st.sampled_from(_HOSTILE + "abc 12"), min_size=1, max_size=40),
    st.text(min_size=1, max_size=20).filter(lambda name: all(not 0xD800 <= ord(c) < 0xE000 for c in name)),
)
WORST = (
    "\x1b[2J\x1b]0;owned\x07",
    "a\n::error file=x::owned",
    "::set-output name=x::y",
    "##[error]owned",
    "`` ` ``` <script>alert(1)</script>",
    "cell | cell \\| cell \\\\| cell",
    "![image](https://evil.example/x.png) [link](http://evil.example) @everyone www.evil.example",
    "]]></system-out><failure/>\x01\ufffe",
    "\u202egnp.exe\u2066",
    "</code></details><h1>owned</h1>",
    "&#60;b&#62; &lt;b&gt;",
    "# head\n* point\n1. one\n---\n> quote",
)

# by their full names: the package has functions of the same names
verified = import_module("mcuprune.report.verified")


class _Tags(HTMLParser):
    """The tags of a page or of markdown, and what is left as text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)


def _is_for_people(text: str) -> bool:
    return all(c == "\n" or unicodedata.category(c)[0] not in "CZ" or c == " " for c in text)


def _commands(text: str) -> list[str]:
    """Lines that a CI server takes for commands."""
    return [line for line in text.splitlines() if line.lstrip().startswith("::") or "##[" in line]


def _is_plain(text: str, expected: int) -> None:
    assert _is_for_people(text)
    assert not _commands(text)
    assert len(text.splitlines()) == expected


#: The tags that we write into markdown ourselves.
_OURS = {"details", "summary", "svg", "rect", "path", "code"}


def _is_safe_markdown(text: str) -> None:
    assert _is_for_people(text)
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    outside = re.sub(r"`[^`\n]*`", "", outside)  # code spans; a name in one has no back-tick
    assert "`" not in outside
    assert set(_Tags(outside).tags) <= _OURS
    assert not re.search(r"\]\(|://|www\.|@\w", re.sub(r"<svg.*?</svg>", "", outside))
    for block in re.findall(r"(?:^\|.*\n?)+", outside, flags=re.MULTILINE):  # a table: every row has as many cells
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1, block


@pytest.mark.parametrize("name", WORST)
def test_what_is_written_for_a_kind_of_output_is_text_there(name: str) -> None:
    _is_plain(escape.plain(name), 1)
    for written in (escape.code(name), escape.inline(name)):
        _is_safe_markdown(f"| {written} | {written} |\n| --- | --- |\n")
    assert ElementTree.fromstring(f'<a b="{escape.markup(name)}">{escape.markup(name)}</a>').text == escape.plain(name)
    assert escape.command(name, ":,").isprintable()
    assert not set(escape.command(name, ":,")) & set(":,")


def test_ordinary_names_stay_as_they_are() -> None:
    for name in ("/layer1/layer1.0/Conv_output_0", "StatefulPartitionedCall:0", "conv1", "Größe 2", "a-b_c.d"):
        assert escape.plain(name) == name
        assert escape.code(name) == f"`{name}`"
        assert escape.markup(name) == name


def _named(name: str) -> onnx.ModelProto:
    """A small network with this name, or something that contains it, wherever a file has names."""
    model = small_nets.residual()
    for node in model.graph.node:
        node.name = f"{name}{node.name}"
        node.input[:] = [f"{name}{tensor}" for tensor in node.input]
        node.output[:] = [f"{name}{tensor}" for tensor in node.output]
    for part in (model.graph.input, model.graph.output, model.graph.initializer):
        for one in part:
            one.name = f"{name}{one.name}"
    model.graph.name = model.producer_name = model.doc_string = name
    model.metadata_props.add(key=name, value=name)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("names")


_QUICK = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
    derandomize=True,
)


def _is_safe_page(said: str) -> None:
    """A page has one heading of its own, and nothing of a name is a tag of it."""
    tags = _Tags(said).tags
    assert not set(tags) & {"script", "i", "img", "a", "failure"}
    assert tags.count("h1") == 1


def _judged(form: str, said: str, name: str) -> None:
    """Whether an output of ``profile`` or ``check`` shows the name as text of its own kind."""
    if form == "json":
        assert f"{name}stem" in [layer["node"] for layer in json.loads(said)["models"][0]["layers"]]
        assert said.isascii()
        return
    assert _is_for_people(said)
    if form == "junit":
        ElementTree.fromstring(said.encode())
    elif form == "html":
        _is_safe_page(said)
    elif form == "github":
        assert all(line.startswith(("::error ", "::notice ")) for line in said.splitlines())
    elif form == "markdown":
        _is_safe_markdown(said)
    else:
        assert not _commands(said)


@_QUICK
@given(name=NAMES)
@example(name=WORST[0])
@example(name=WORST[1])
@example(name=WORST[4])
@example(name=WORST[5])
@example(name=WORST[7])
@example(name=WORST[9])
def test_no_name_is_more_than_text_in_any_format(name: str, folder: Path) -> None:
    from mcuprune.costs import resources
    from mcuprune.graph import network

    profile = resources.profile(network.from_proto(_named(name), f"{name}.onnx"))
    used = profile.used("peak")
    verdict = resources.Budget({"sram": 1, "macs": 1}).check(used)
    for command, answer in (("profile", report.Answer(profile)), ("check", report.Answer(profile, verdict))):
        for by in report.BY:
            view = report.View(groups=True, by=by)
            for form, write in report.FORMATS.items():
                _judged(form, write(report.Report(command, (answer,), view)), name)


@pytest.mark.parametrize("name", WORST)
def test_no_name_is_more_than_text_in_what_prune_and_verify_write(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The report of a prune, its table and its notes, verify's text, and the messages of both."""
    path = folder / "net.onnx"
    path.write_bytes(_named(name).SerializeToString())
    result = pruning.prune(Request(str(path), {"macs": units.parse("60%", "count")}, str(folder / "o.onnx"), train=False))
    found = outcome.document(result)
    found["notes"] = [*found["notes"], f"a note on '{name}'"]
    found["before"]["path"] = found["after"]["path"] = found["data"] = name
    assert json.loads(outcome.write(found))["groups"][0]["name"] == f"{name}stem"
    assert _is_for_people(outcome.text(found))
    assert not _commands(outcome.text(found))
    _is_safe_markdown(outcome.markdown(found))
    assert _is_for_people(prune_page.html(found))
    _is_safe_page(prune_page.html(found))
    output = {"name": name, "max_lsb": 1, "exact": 1.0, "agreement": None, "interval": None}
    shown = {
        "path": name,
        "ok": False,
        "examples": {name: 1},
        "runtimes": {
            "onnxruntime": {"version": "1", "accuracy": None, "default_session_accuracy": None},
            "tflm": {
                "name": name,
                "version": "1",
                "ok": False,
                "accuracy": None,
                "outputs": [output],
                "layers": 1,
                "layer_max_lsb": 1,
                "diverges_at": name,
            },
        },
        "arena": dict.fromkeys(
            ("predicted", "head_on_device", "start_on_device", "measured", "head_measured", "predicted_same_pointers"), 1
        )
        | {"pointer_bytes": 8},
        "tflite": {"bytes": 1, "operators": {name: 1}},
        "inputs": [{"name": name, "shape": [1, 8], "scale": 0.5, "zero_point": 3}],
        "outputs": [{"name": name, "shape": [1], "scale": 0.5, "zero_point": 3}],
        "diverges_at": name,
        "notes": [f"output '{name}' moves"],
    }
    assert _is_for_people(verified.text(shown))
    assert not _commands(verified.text(shown))
    for arguments in (
        ["prune", str(path), "--macs", "60%", "--no-train", "-o", str(folder / "o.onnx"), "--keep", name],
        ["profile", str(path), "--input-shape", f"{name}=1,2", "--verbose"],
        ["check", str(path), "--sram-model", name],
        ["verify", str(path)],
    ):
        capsys.readouterr()
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert _is_for_people(said)
        assert not _commands(said)
