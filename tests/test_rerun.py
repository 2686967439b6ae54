"""Runs that are repeated from their reports, and runs side by side: reports are strangers' files."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import small_nets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcuprune import options, rerun
from mcuprune.cli import main
from mcuprune.errors import McupruneError, UsageError
from mcuprune.report import compare
from mcuprune.train import tracking
from mcuprune.train.request import Request

FAST = ("--no-train", "--float")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, its data, and the report of a run on them."""
    monkeypatch.chdir(tmp_path)
    Path("net.onnx").write_bytes(small_nets.residual(8).SerializeToString())
    write_data(0)
    words = ["prune", "net.onnx", "--macs", "60%", "--sram", "64KB", *FAST, "--data", "d.npz", "--multiple-of", "2"]
    assert main([*words, "-o", "a.onnx", "--report", "a", "-q"]) == 0
    return tmp_path


def write_data(seed: int) -> None:
    random = np.random.default_rng(seed)
    parts = {}
    for split, count in (("train", 40), ("val", 20), ("test", 20)):
        parts[f"x_{split}"] = random.standard_normal((count, 3, 8, 8)).astype(np.float32)
        parts[f"y_{split}"] = random.integers(0, 10, count)
    np.savez("d.npz", **parts)


def stored() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("a/report.json").read_text())
    return found


def change(edit: Callable[[dict[str, Any]], object]) -> None:
    found = stored()
    edit(found)
    Path("a/report.json").write_text(json.dumps(found))


def test_a_repeated_run_writes_the_same_bytes(here):
    assert main(["prune", "--from", "a/report.json", "-o", "b.onnx", "--report", "b", "-q"]) == 0
    assert Path("a.onnx").read_bytes() == Path("b.onnx").read_bytes()
    first, second = stored(), json.loads(Path("b/report.json").read_text())
    assert first["run"]["contents"] == second["run"]["contents"]
    assert first["groups"] == second["groups"]


def test_the_stored_command_is_one_that_anybody_can_type(here):
    words = stored()["run"]["command"]
    assert words[0] == "mcuprune"
    kept = Path("a.onnx").read_bytes()
    Path("a.onnx").unlink()
    assert main([*words[1:], "-q"]) == 0
    assert Path("a.onnx").read_bytes() == kept
    assert words[words.index("--sram") : words.index("--sram") + 2] == ["--sram", "64KB"]


def test_a_command_that_was_given_what_is_usual_says_so_against_the_configuration(here):
    """Words that leave out what is as by default mean something else where a configuration has another value."""
    Path("mcuprune.toml").write_text("[prune]\nmultiple-of = 4\nbatch = 7\n")
    words = ["prune", "net.onnx", "--macs", "60%", *FAST, "--multiple-of", "1", "-o", "b.onnx", "--report", "b"]
    assert main([*words, "-q"]) == 0
    kept, run = Path("b.onnx").read_bytes(), json.loads(Path("b/report.json").read_text())["run"]
    Path("b.onnx").unlink()
    assert main([*run["command"][1:], "-q"]) == 0
    assert Path("b.onnx").read_bytes() == kept
    assert json.loads(Path("b/report.json").read_text())["run"]["options"] == run["options"]


def test_another_length_takes_the_place_of_the_one_that_was_recorded(here):
    assert main(["prune", "--from", "a/report.json", "--train-compute", "0.2", "-o", "b.onnx", "--report", "b", "-q"]) == 0
    assert main(["prune", "--from", "b/report.json", "--epochs", "1", "-o", "c.onnx", "--report", "c", "-q"]) == 0
    options = json.loads(Path("c/report.json").read_text())["run"]["options"]
    assert (options["epochs"], options["train_compute"], options["time"]) == (1, None, None)


def test_what_is_read_is_what_was_recorded(here):
    found, run = rerun.read("a/report.json"), stored()["run"]
    asked = {name: list(value) if isinstance(value, tuple) else value for name, value in found.asked.items()}
    written = {
        name: value for name, value in run["options"].items() if value is not None and name not in ("resume", "report", "track")
    }
    assert asked == written
    assert set(run["options"]) == {option.name for option in options.of(Request)}
    assert found.model == "net.onnx"


def test_flags_count_before_the_report(here):
    assert main(["prune", "--from", "a/report.json", "-o", "b.onnx", "--report", "b", "--macs", "80%", "-q"]) == 0
    before, after = stored(), json.loads(Path("b/report.json").read_text())
    assert after["run"]["limits"] == {"sram": "64KB", "macs": "80%"}
    assert after["budget"]["macs"] > before["budget"]["macs"]
    assert after["run"]["options"]["multiple_of"] == 2


def test_no_file_is_written_over_on_the_word_of_a_report(here, capsys):
    kept = Path("a.onnx").read_bytes()
    assert main(["prune", "--from", "a/report.json"]) == 2
    assert "give -o" in capsys.readouterr().err
    assert main(["prune", "--from", "a/report.json", "-o", "b.onnx", "--report", "a"]) == 2
    assert "the report to repeat" in capsys.readouterr().err
    assert Path("a.onnx").read_bytes() == kept


def test_another_model_is_refused_before_the_work_unless_it_is_named(here, capsys):
    Path("net.onnx").write_bytes(small_nets.residual(16).SerializeToString())
    assert main(["prune", "--from", "a/report.json", "-o", "b.onnx"]) == 2
    assert "net.onnx: is not the model that a/report.json is about" in capsys.readouterr().err
    assert not Path("b.onnx").exists()
    assert main(["prune", "net.onnx", "--from", "a/report.json", "-o", "b.onnx"]) == 0
    assert "another MODEL.onnx" in capsys.readouterr().err


def test_other_data_are_refused_before_the_work_unless_they_are_named(here, capsys):
    write_data(1)
    assert main(["prune", "--from", "a/report.json", "-o", "b.onnx"]) == 2
    assert "d.npz: is not the data that a/report.json is about" in capsys.readouterr().err
    assert not Path("b.onnx").exists()
    assert main(["prune", "--from", "a/report.json", "--data", "d.npz", "-o", "b.onnx", "-q"]) == 0


def test_a_report_runs_no_code(here, capsys):
    Path("trap.py").write_text("raise SystemExit('sprung')\ndef load(): ...\n")
    change(lambda found: found["run"]["options"].update(data="trap:load"))
    assert main(["prune", "--from", "a/report.json", "-o", "b.onnx"]) == 2
    said = capsys.readouterr().err
    assert "names code to run, 'trap:load'" in said
    assert "sprung" not in said


def test_a_report_sends_no_history_anywhere(here, monkeypatch):
    """Neither to a server nor into a folder; whoever repeats a run says where to."""
    told = []
    fake = Mock(side_effect=lambda place, settings: told.append(place) or Mock(), package="json")
    monkeypatch.setattr(tracking, "TRACKERS", {"tensorboard": fake, "wandb": fake})
    change(lambda found: found["run"]["options"].update(track=["tensorboard=/srv/logs", "wandb=theirs"]))
    assert main(["prune", "--from", "a/report.json", "-o", "b.onnx", "-q"]) == 0
    assert told == []
    assert main(["prune", "--from", "a/report.json", "-o", "c.onnx", "--track", "wandb=mine", "-q"]) == 0
    assert told == ["mine"]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda found: found.pop("run"), "didn't store how to repeat"),
        (lambda found: found.update(command="check"), "is no report"),
        (lambda found: found.update(format=2), "has format 2"),
        (lambda found: found["run"]["options"].update(epochs="many"), "'--epochs'"),
        (lambda found: found["run"]["options"].update(seed=-1), "'--seed'"),
        (lambda found: found["run"]["options"].update(keep="stem"), "'--keep'"),
        (lambda found: found["run"]["options"].update(magic=1), "unknown option 'magic'"),
        (lambda found: found["run"]["limits"].update(macs="lots"), "run.limits.macs"),
        (lambda found: found["run"]["limits"].update(love="1KB"), "'love'"),
        (lambda found: found["run"]["basis"].update(sram="guess"), "run.basis.sram"),
        (lambda found: found["run"]["input_shapes"].update(x=[0]), "run.input_shapes.x"),
        (lambda found: found["run"].update(outputs="y"), "run.outputs"),
        (lambda found: found["run"]["model"].update(path=7), "run.model.path"),
        (lambda found: found["run"].update(options=[]), "run.options"),
    ],
)
def test_what_no_run_can_be_is_named(here, edit, said, capsys):
    change(edit)
    assert main(["prune", "--from", "a/report.json", "-o", "b.onnx"]) == 2
    message = capsys.readouterr().err
    assert said in message
    assert "a/report.json" in message
    assert "Traceback" not in message


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"a": NaN}', b"\xff\xfe", b"[" * 100_000, b'{"command": "prune"}'])
def test_what_is_no_report_is_refused(tmp_path, content):
    path = tmp_path / "report.json"
    path.write_bytes(content)
    for reader in (rerun.read, lambda path: compare.read([path])):
        with pytest.raises(UsageError, match=r"report\.json"):
            reader(str(path))


def test_a_prune_needs_a_model_or_a_report(here, capsys):
    assert main(["prune", "--macs", "50%"]) == 2
    assert "missing argument 'MODEL.onnx'" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------------- side by side


def test_runs_stand_side_by_side_with_what_differs(here, capsys):
    assert main(["prune", "--from", "a/report.json", "-o", "b.onnx", "--report", "b", "--multiple-of", "4", "-q"]) == 0
    capsys.readouterr()
    assert main(["report", "a", "b/report.json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["a", "b"]
    (differing,) = (line for line in lines if line.startswith("--"))
    assert differing.split() == ["--multiple-of", "2", "4"]
    assert main(["report", "a", "b", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["differences"] == {"multiple_of": [2, 4]}
    for run in found["runs"]:
        total = json.loads(Path(run["path"]).read_text())["after"]["total"]
        assert run["total"] == {name: total[name] for name in run["total"]}
        assert {"sram", "flash", "macs"} <= run["total"].keys()


@pytest.mark.parametrize("form", ["text", "markdown", "json", "html"])
def test_runs_of_a_sweep_have_names_of_their_own_in_every_format(here, form, capsys):
    """Long ones that differ in the middle, as those of many budgets, and in their beginning."""
    limits = [f"sram-{sram}_flash-{flash}_macs-30pct_latency-1.5ms_differentiable_seed-0" for sram in "12" for flash in "34"]
    for name in limits:
        shutil.copytree("a", f"a/very/long/way/to/the/sweep/runs/{name}", ignore=lambda *_: ["very"])
    assert main(["report", "a/very/long/way/to/the/sweep", "--format", form]) == 0
    written = capsys.readouterr().out
    shown = set(re.findall(r"sram-[^\s|<\"]*", written.replace("\\", "")))
    assert len({name.removesuffix("/report.json") for name in shown}) == 4


@pytest.mark.parametrize("form", ["text", "markdown", "json", "html"])
def test_every_format_has_every_run_and_goes_to_a_file(here, form):
    assert main(["report", "a", "a", "--format", form, "-o", "out"]) == 0
    assert Path("out").read_text().count("net.onnx") >= 2
    kept = Path("a/report.json").read_bytes()
    assert main(["report", "a", "-o", "a/report.json"]) == 2
    assert Path("a/report.json").read_bytes() == kept


def test_a_comparison_takes_the_place_of_nothing_that_it_is_about(here, capsys):
    """Networks, and what a sweep can be gone on from."""
    Path("swept/runs").mkdir(parents=True)
    shutil.copytree("a", "swept/runs/one")
    Path("swept/sweep.json").write_text("{}")
    report = json.loads(Path("a/report.json").read_text())
    places = ["swept/sweep.json", "net.onnx", report["after"]["path"]]
    before = [Path(place).read_bytes() for place in places]
    for place in places:
        assert main(["report", "swept", "-o", place]) == 2
        assert f"-o {place}: is " in capsys.readouterr().err
    assert [Path(place).read_bytes() for place in places] == before
    report["before"]["path"], report["after"]["path"] = "x" * 5000, "x/" * 3000
    Path("a/report.json").write_text(json.dumps(report))
    assert main(["report", "a", "-o", "out"]) == 0, "a stranger's words"


def test_a_folder_without_runs_is_refused(here, capsys):
    Path("empty").mkdir()
    assert main(["report", "empty"]) == 2
    assert main(["report", "nowhere"]) == 2
    assert main(["report"]) == 2
    assert "Traceback" not in capsys.readouterr().err


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inside: st.lists(inside, max_size=2) | st.dictionaries(st.text(max_size=3), inside, max_size=2),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_report_is_read_or_refused_and_never_a_bug(here, data):
    """One value of a report, wherever it is, becomes anything at all."""
    found = stored()
    place: Any = found
    while True:
        keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        inside = place[key]
        if not isinstance(inside, (dict, list)) or not inside or data.draw(st.integers(0, 3)) == 0:
            place[key] = data.draw(values)
            break
        place = inside
    path = Path("damaged.json")
    path.write_text(json.dumps(found))
    for reader in (rerun.read, lambda path: [drawn(compare.read([path])) for drawn in compare.FORMATS.values()]):
        with contextlib.suppress(McupruneError):
            reader(str(path))
