"""Where what is added in one place is found: a function for each of docs/examples/add_*.py, which asserts them.

Each runs in a process of its own, in a folder of its own with models/ (``test_one_place``): the examples change tables, some
of which are read once, when the command line is imported. Four places are asserted as far as they make sense: what one types
and reads, the JSON that programs read, what is drawn into docs/, and the files of ``--report`` and ``--format``.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESNET, DSCNN = "models/resnet8_digits.onnx", "models/dscnn_digits.onnx"
UNTRAINED = ("--no-train", "--float", "-q", "--report", "told", "-o", "out.onnx")


def run(*words: str, code: int = 0) -> tuple[str, str]:
    """What a command says on stdout and on stderr."""
    from mcuprune.cli import main

    answer, talk = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(answer), contextlib.redirect_stderr(talk):
        ended = main(words)
    assert ended == code, f"{' '.join(words)} ended with {ended}: {talk.getvalue()}"
    return answer.getvalue(), talk.getvalue()


def cli(*words: str, code: int = 0) -> str:
    """What a command says on both streams, every run of spaces as one."""
    return " ".join(" ".join(run(*words, code=code)).split())


def answer(*words: str, code: int = 0) -> Any:
    """The JSON that a command answers with."""
    return json.loads(run(*words, "--format", "json", code=code)[0])


def reported() -> tuple[Any, str, str]:
    """The report that a prune left: as JSON, markdown and HTML."""
    pages = [Path("told", f"report.{suffix}").read_text() for suffix in ("json", "md", "html")]
    return json.loads(pages[0]), pages[1], pages[2]


def options_of(command: str) -> Sequence[str]:
    """The rows of a command's options in docs/commands.md, as they are drawn."""
    from mcuprune.cli.reference import reference

    page = reference()
    return page[page.index(f"## {command}\n") :].partition("\n## ")[0].splitlines()


def row_of(flag: str, command: str) -> str:
    """The row of one option in docs/commands.md."""
    (row,) = (line for line in options_of(command) if line.startswith(f"| `{flag}`"))
    return row


def operator() -> None:
    """Sinh between two convolutions, whose channels it ties. No kernel computes it, so there is no int8 to export."""
    import add_operator  # noqa: F401
    import readme

    Path("sinh.onnx").write_bytes(_with_sinh())
    assert "Sinh sinh" in cli("profile", "sinh.onnx")
    assert "1 Sinh" in cli("profile", "sinh.onnx", "--by", "op")
    assert "Sinh has no int8 operator in TensorFlow Lite Micro" in cli("profile", "sinh.onnx")
    (model,) = answer("profile", "sinh.onnx")["models"]
    assert ("sinh", "Sinh") in [(layer["node"], layer["op"]) for layer in model["layers"]]
    assert "| Sinh |" in readme.operators()
    cli("profile", "sinh.onnx", "--format", "html=page.html", "--format", "markdown=page.md")
    assert all("Sinh" in Path(page).read_text() for page in ("page.html", "page.md"))
    cli("prune", "sinh.onnx", "--macs", "50%", *UNTRAINED)
    told, _, page = reported()
    assert ("sinh", "Sinh") in [(layer["node"], layer["op"]) for layer in told["after"]["layers"]]
    assert told["groups"][0]["after"] < told["groups"][0]["before"]
    assert "Sinh" in page


def _with_sinh() -> bytes:
    """Input (1, 1, 6, 6), a convolution to 8 channels, Sinh, a convolution to 2."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    draw = np.random.default_rng(0)
    weights = {"a": draw.normal(size=(8, 1, 3, 3)), "b": draw.normal(size=(2, 8, 1, 1))}
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["r"], "first"),
        helper.make_node("Sinh", ["r"], ["s"], "sinh"),
        helper.make_node("Conv", ["s", "b"], ["y"], "last"),
    ]
    shapes = {"x": [1, 1, 6, 6], "y": [1, 2, 4, 4]}
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items())
    constants = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content


def resource() -> None:
    """A flag, a key, a column, a total and a limit of every report."""
    import add_resource  # noqa: F401

    for command in ("check", "prune", "sweep", "portfolio"):
        assert "--written" in cli(command, "--help"), command
        assert "bytes of activations that one inference writes" in row_of("--written", command).lower(), command
    assert "MACs written" in cli("profile", RESNET)
    (model,) = answer("check", RESNET, "--written", "1KB", code=1)["models"]
    assert model["limits"]["written"] == {"used": model["total"]["written"], "limit": 1024, "ok": False} | {
        "over": model["total"]["written"] - 1024
    }
    Path("mcuprune.toml").write_text('budget = { written = "1KB" }\n')
    assert "FAIL written" in cli("check", RESNET, code=1)
    Path("mcuprune.toml").unlink()
    cli("prune", RESNET, "--written", "50%", *UNTRAINED)
    told, markdown, page = reported()
    assert told["limits"]["written"]["ok"]
    assert told["after"]["total"]["written"] == told["limits"]["written"]["used"] > 0
    assert "| written |" in markdown
    assert "written" in page


def option() -> None:
    """Flag, key, fingerprint, report and reference of one field more are asserted in ``test_options``; here its page runs."""
    import add_option  # noqa: F401


def reader() -> None:
    """A file of the new form is data like any other."""
    import add_reader
    import readme

    add_reader.rings("rings.libsvm")
    assert cli("data", DSCNN, "rings.libsvm", code=1).startswith("rings.libsvm for")
    Path("data.txt").write_text("1")
    assert "a .libsvm of labels and index:value pairs" in cli("data", DSCNN, "data.txt", code=2)
    told = answer("data", DSCNN, "rings.libsvm", code=1)
    assert (told["data"], told["splits"]["train"]["examples"]) == ("rings.libsvm", 144)
    assert "| a .libsvm of labels and index:value pairs |" in readme.readers()
    cli("prune", DSCNN, "--macs", "50%", "--data", "rings.libsvm", *UNTRAINED)
    told, markdown, page = reported()
    assert told["data"] == "rings.libsvm"
    assert told["test_examples"] == 40
    assert all("40 test examples of rings.libsvm" in text for text in (markdown, page))
    assert "--data rings.libsvm" in page, "the command that makes the same again"


def method() -> None:
    """A word of --method, which reports and comparisons of runs name."""
    import add_method  # noqa: F401

    assert "chance: channels by chance" in cli("prune", "--help")
    assert "chance: channels by chance" in row_of("--method", "prune")
    few = ("--data", "digits", "--macs", "50%", "--epochs", "1", "--float", "-q")
    cli("prune", DSCNN, "--method", "chance", *few, "--report", "told", "-o", "out.onnx")
    told, markdown, page = reported()
    assert told["method"] == "chance"
    assert all("chance" in text for text in (markdown, page))
    assert json.loads(cli("report", "told", "--format", "json"))["runs"][0]["method"] == "chance"
    assert "chance" in cli("report", "told")


def task() -> None:
    """A word of --task, and the name of what is measured."""
    import add_task  # noqa: F401

    for command in ("prune", "verify"):
        assert "grade" in cli(command, "--help"), command
        assert "grade" in row_of("--task", command), command
    few = ("--data", "digits", "--macs", "50%", "--task", "grade", *UNTRAINED)
    cli("prune", DSCNN, *few)
    told, markdown, page = reported()
    assert told["metric"]["task"] == "grade"
    assert all("| `task` | grade |" in markdown and "grade" in text for text in (markdown, page))


def board() -> None:
    """A row of the list, a name for --board and for the configuration, and limits of every report."""
    import add_board  # noqa: F401
    import readme

    limit = 96 * 1024
    assert "my-board STM32F401CE Cortex-M4 84 96.0 KiB" in cli("boards")
    assert "did you mean my-board?" in cli("check", RESNET, "--board", "my-bord", code=2)
    assert "my-board" in cli("profile", RESNET, "--board", "my-board")
    Path("mcuprune.toml").write_text('board = "my-board"\n')
    assert answer("check", RESNET)["models"][0]["limits"]["sram"]["limit"] == limit
    Path("mcuprune.toml").unlink()
    assert "my-board" in [row["name"] for row in answer("boards")["boards"]]
    assert answer("profile", RESNET, "--board", "my-board")["models"][0]["device"]["board"] == "my-board"
    assert "my-board" in readme.shown("boards", check=True)
    assert "$ mcuprune boards\n" in (readme.DOCS / "numbers.md").read_text(), "the page that lists them"
    cli("check", RESNET, "--board", "my-board", "--format", "html=page.html", "--format", "markdown=page.md")
    assert all("96.0 KiB" in Path(page).read_text() for page in ("page.html", "page.md"))
    cli("prune", RESNET, "--board", "my-board", *UNTRAINED)
    told, markdown, page = reported()
    assert told["run"]["basis"]["board"] == "my-board"
    assert told["limits"]["sram"]["limit"] == limit
    assert "96.0 KiB" in markdown
    assert "--board my-board" in page


def format() -> None:
    """A word of --format of both commands that have reports. It is a report itself, beside JSON."""
    import add_format  # noqa: F401

    for command in ("profile", "check"):
        assert "csv" in cli(command, "--help"), command
        assert "csv" in row_of("--format", command), command
    assert "did you mean 'csv'?" in cli("profile", RESNET, "--format", "cvs", code=2)
    rows = run("profile", RESNET, "--format", "csv")[0].splitlines()
    (model,) = answer("profile", RESNET)["models"]
    assert [row.split(",")[1] for row in rows[1:]] == [layer["node"] for layer in model["layers"]]
    cli("check", RESNET, "--macs", "1", "--format", "csv=layers.csv", code=1)
    assert Path("layers.csv").read_text().splitlines() == rows


def target() -> None:
    """A suffix for -o of two commands and of Python."""
    import add_target  # noqa: F401

    import mcuprune

    assert "OUT{.onnx,.tflite,.h,.c,.csv}" in cli("export", "--help")
    assert ".csv" in row_of("--output", "export")
    assert ".csv" in cli("export", RESNET, "--data", "digits", "-o", "out.xyz", code=2)
    assert "out.csv" in cli("export", RESNET, "--data", "digits", "-o", "out.csv")
    assert answer("export", RESNET, "--data", "digits", "-o", "out.csv")["files"] == ["out.csv"]
    assert mcuprune.export(RESNET, "python.csv", data="digits").read_text() == Path("out.csv").read_text()
    pruned = ("prune", RESNET, "--macs", "50%", "--data", "digits", "--no-train", "--report", "told", "-o", "small.csv")
    assert "small.csv" in cli(*pruned)
    assert Path("small.csv").read_text().startswith("tensor,offset,bytes")
    told, _, _ = reported()
    assert told["after"]["path"] == "small.onnx", "what a report is measured on lies beside"
