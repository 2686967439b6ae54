"""Sweeps: the grid, what is known of runs by their files, early stopping, and executors against single runs."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import tasks_data
from conftest import thorough_but
from hypothesis import given, settings
from hypothesis import strategies as st
from killing import kill_a_worker

from mcuprune import __version__, escape, options, units
from mcuprune.cli import main
from mcuprune.errors import UsageError
from mcuprune.report import page
from mcuprune.report import sweep as report
from mcuprune.sweep import cluster, executors
from mcuprune.sweep import outcome as outcomes
from mcuprune.sweep.executors import Ended
from mcuprune.sweep.follow import Halving
from mcuprune.sweep.grid import Cell, Grid, Run, seeds
from mcuprune.sweep.outcome import Finished, Outcome, document
from mcuprune.train import checkpoint
from mcuprune.train.request import Request
from mcuprune.units import Limit

MODEL = Path(__file__).parents[1] / "models" / "dscnn_digits.onnx"
#: Runs without training and without quantisation take a second.
FAST = ("--no-train", "--float")
SWEEP = ("sweep", "net.onnx", *FAST, "-o", "out")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model in it, as the current one."""
    (tmp_path / "net.onnx").write_bytes(MODEL.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(MODEL.parents[1]))
    return tmp_path


def with_one_run(folder: Path, *words: str) -> Path:
    """A folder with a model, a data set and a sweep whose only run is done. words: more of the command."""
    (folder / "net.onnx").write_bytes(MODEL.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYTHONPATH", str(MODEL.parents[1]))
        small_set("set.npz", seed=0)
        assert main([*SWEEP, *words, "--sram", "60%"]) == 0
    return folder


@pytest.fixture(scope="module")
def one_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep with one run that is done."""
    return with_one_run(tmp_path_factory.mktemp("begun")) / "out"


@pytest.fixture
def begun(here: Path, one_run: Path) -> Path:
    """A folder with a model, and with a sweep of it whose only run is done."""
    shutil.copytree(one_run, here / "out")
    return here


# ------------------------------------------------------------------------------------------------------------------ grid


def grid(**changes) -> Grid:
    standard = {
        "model": "net.onnx",
        "folder": "out",
        "options": ("--epochs", "3"),
        "limits": {"sram": ("32KB", "46%"), "macs": ("2M", "5M", "10M")},
        "methods": ("differentiable", "uniform"),
        "seeds": (0, 1, 2),
    }
    return Grid(**{**standard, **changes})


def test_every_combination_is_one_run_with_a_name_of_its_own():
    runs = grid().runs()
    assert len(runs) == 2 * 3 * 2 * 3
    assert len({run.name for run in runs}) == len(runs)
    asked = {(*dict(run.cell.limits).values(), run.cell.method, run.seed) for run in runs}
    assert asked == set(itertools.product(("32KB", "46%"), ("2M", "5M", "10M"), ("differentiable", "uniform"), (0, 1, 2)))


def test_a_run_is_a_command_that_anybody_can_type():
    run = next(run for run in grid().runs() if run.seed == 2)
    assert run.words == (
        *("prune", "net.onnx", "--epochs", "3", "--sram", "32KB", "--macs", "2M", "--method", "differentiable", "--seed", "2"),
        *("-o", f"out/runs/{run.name}/net.onnx", "--report", f"out/runs/{run.name}"),
    )


def test_each_run_is_tracked_in_a_place_of_its_own():
    runs = grid(track=("tensorboard=logs", "wandb=mine")).runs()
    tracked = [[run.words[at + 1] for at, word in enumerate(run.words) if word == "--track"] for run in runs]
    assert tracked == [[f"tensorboard=logs/{run.name}", "wandb=mine"] for run in runs]
    assert [run.also for run in runs] == [(f"logs/{run.name}",) for run in runs]


@pytest.mark.parametrize(
    "changes",
    [
        {"seeds": (1, 1)},
        {"methods": ("uniform", "uniform")},
        {"limits": {"sram": ("1KB", "2KB", "1024")}},
        {"limits": {"macs": ("50%", "50.0%")}},
        {"seeds": range(9999)},
    ],
)
def test_a_slip_of_the_pen_is_refused(changes):
    with pytest.raises(UsageError):
        grid(**changes).runs()


@pytest.mark.parametrize(("text", "meant"), [("1", (0,)), ("3", (0, 1, 2)), ("0,4,7", (0, 4, 7)), ("5,", (5,))])
def test_seeds_are_a_number_of_them_or_a_list(text, meant):
    assert seeds(text) == meant


@pytest.mark.parametrize("text", ["", "0", "-1", "x", "1,,x", "1.5", "٣", "1-3"])
def test_what_are_no_seeds_is_refused(text):
    with pytest.raises(UsageError, match="no seeds"):
        seeds(text)


@given(st.integers(1, 10**9), st.integers(0, 6), st.booleans())
def test_a_limit_is_written_as_it_is_read(number, places, relative):
    limit = Limit(Fraction(number, 10**places) + 1, relative)
    assert units.parse(units.write(limit), "count") == limit


def other_value(option: options.Option):
    """A value that an option takes and that isn't its default."""
    if option.choices:
        return next(value for value in option.choices if value != option.default)
    if option.repeated:
        return ("a", "b c")
    if option.kind is bool:
        return not option.default
    if option.kind is str:
        return {"augment": "flip,crop2", "device": "cpu"}.get(option.name, "word")
    return option.kind((option.least or 0) + 0.25) if option.kind is float else int(option.least or 0) + 3


@pytest.mark.parametrize("option", options.of(Request), ids=lambda option: option.key)
def test_the_words_of_an_option_are_read_as_its_value(option):
    value = other_value(option)
    words = options.words(Request, {option.name: value})
    assert words[0] in (option.flag, f"--no-{option.key}")
    if option.kind is bool:
        read = option.of_words(words == [option.flag])
    else:
        assert words[::2] == [option.flag] * (len(words) // 2)
        read = option.of_words(words[1::2] if option.repeated else words[1])
    assert read == value


# --------------------------------------------------------------------------------------------------------------- outcome


def figure(value: float | None, *, accuracy: float | None = None, name: str = "accuracy", **changes: str) -> dict[str, object]:
    """``metric`` of a report, of a float network. accuracy: beside another figure."""
    beside = {} if accuracy is None else {"accuracy": accuracy}
    described = {"name": name, "shown_as": name, "unit": "share", "better": "higher", **changes}
    return {**described, "after_float": {"value": value, **beside}, "after_int8": None}


def finished(
    name: str, accuracy: float | None, sram: int, *, limit: int = 100, used: int = 90, state="done", metric=None
) -> Finished:
    run = Run(name, Cell((("sram", "1KB"),), "uniform"), 0, f"out/{name}", ("prune",))
    total = {"sram": sram, "flash": 7, "macs": 5}
    after = {"accuracy_int8": accuracy, "accuracy_float": None, "total": total}
    limits = {"sram": {"used": used, "limit": limit, "ok": used <= limit}, "macs": {"used": 5, "limit": 10, "ok": True}}
    found = {"ok": used <= limit, "after": after, "limits": limits, "budget": {"sram": limit}, "cost": {}, "seed": 0}
    found["metric"] = metric or figure(accuracy)
    found["run"] = {"contents": {"model": "1", "data": "2"}}
    return Finished(run, state, found if state == "done" else None, None if state == "done" else ("BudgetError", "too small"))


points = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=9)


@given(points)
def test_a_front_holds_those_that_no_other_beats(points):
    runs = tuple(finished(f"r{i}", accuracy / 10, sram) for i, (sram, accuracy) in enumerate(points))
    front = Outcome("m", "out", runs).front("sram")
    values = {(sram, accuracy / 10) for sram, accuracy in points}

    def is_beaten(sram, accuracy):
        return any(s <= sram and a >= accuracy and (s, a) != (sram, accuracy) for s, a in values)

    expected = sorted(point for point in values if not is_beaten(*point))
    assert [(run.used("sram"), run.accuracy) for run in front] == expected


def errors(*values: float) -> Outcome:
    """Runs of a task whose figure is an error, the first the cheapest."""
    mae = [figure(value, name="mae", unit="value", better="lower") for value in values]
    return Outcome("m", "out", tuple(finished(f"r{i}", None, 10 + i, metric=each) for i, each in enumerate(mae)))


def test_a_front_of_errors_has_the_least():
    outcome = errors(0.5, 0.7, 0.25)
    assert [run.run.name for run in outcome.front("sram")] == ["r0", "r2"]
    found = document(outcome)
    assert found["fronts"]["sram"] == ["r0", "r2"]
    assert [run["metric"]["value"] for run in found["runs"]] == [0.5, 0.7, 0.25]
    assert found["cells"][0]["metric"]["mean"] == pytest.approx(1.45 / 3)
    assert found["cells"][0]["accuracy"] is None
    assert (found["runs"][0]["metric"]["name"], found["runs"][0]["metric"]["better"]) == ("mae", "lower")


def test_a_figure_that_is_no_share_is_shown_in_its_own_unit():
    outcome = errors(12.5, 3.25)
    written = report.text(outcome)
    assert "mae" in written.splitlines()[0]
    assert "accuracy" not in written
    assert "front of mae against SRAM: 12.5 at 10 B, 3.25 at 11 B" in written
    assert "%" not in report.html(outcome).split("<svg", 1)[1]
    assert "r0: 12.5, " in report.html(outcome)


def test_runs_are_compared_by_one_figure():
    """Few test examples may be uneven for one seed, whose report has F1 first, and even for another."""
    one, other = figure(0.5, name="f1", accuracy=0.75), figure(0.625)
    outcome = Outcome("m", "out", (finished("a", None, 20, metric=other), finished("b", None, 10, metric=one)))
    assert [run.run.name for run in outcome.front("sram")] == ["b"]
    assert [run["metric"]["value"] for run in document(outcome)["runs"]] == [0.625, 0.75]


def test_the_resource_nearest_to_its_limit_binds():
    assert finished("r", 0.5, 10).binding == ("sram",)
    assert finished("r", 0.5, 10, used=50).binding == ("sram", "macs")


def test_a_refused_run_is_told_with_its_message_and_is_no_yes():
    outcome = Outcome("m", "out", (finished("a", 0.5, 10), finished("b", None, 0, state="refused")))
    assert outcome.refused
    assert document(outcome)["ok"] is False
    assert document(outcome)["runs"][1]["error"] == {"kind": "BudgetError", "message": "too small"}
    assert "no answer for b: too small" in report.text(outcome)


def test_the_page_begins_with_the_verdict_and_ends_with_the_command():
    command = grid(folder="a folder").command()
    fits, over, refused = (finished("a", 0.5, 10), finished("b", 0.5, 10, used=101), finished("c", None, 0, state="refused"))
    for runs, said in (
        ((fits, fits), "✓ 2 of 2 networks fit"),
        ((fits, over, over), "✗ 1 of 3 networks fits; 2 over the budget"),
        ((fits, refused), "✗ 1 of 2 networks fits; 1 refused"),
    ):
        written = report.html(Outcome("m", "out", runs, command=command))
        assert f">{said}</p>" in written
        assert written.index(said) < written.index("<table")
        assert escape.markup(shlex.join(command)) in written


@pytest.mark.thorough
def test_the_command_of_a_sweep_is_one_that_anybody_can_type(here, capsys):
    assert main([*SWEEP, "--sram", "60%,90%", "--seeds", "2"]) == 0
    found = json.loads(Path("out/sweep.json").read_text())
    Path("out").rename("before")
    assert main(found["repeat"][1:]) == 0
    assert [run["command"] for run in json.loads(Path("out/sweep.json").read_text())["runs"]] == [
        run["command"] for run in found["runs"]
    ]
    assert len(found["runs"]) == 4


def test_hostile_names_stay_text_on_the_page():
    outcome = Outcome("<script>alert(1)</script>", "out", (finished("<b>", 0.5, 10), finished("c", 0.7, 20)))
    written = report.html(outcome)
    assert "<script>" not in written
    assert "<b>" not in written
    assert "http" not in written.replace("http-equiv", ""), "the page needs nothing else"
    assert 'name="viewport"' in written
    assert "prefers-color-scheme:dark" in written


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=5), st.lists(st.floats(0, 1), min_size=5, max_size=5))
def test_points_lie_within_their_drawing(xs, ys):
    drawn = page.scatter([page.Point(x, y, "k", "l") for x, y in zip(xs, ys, strict=False)], [], str)
    for part in drawn.split("<circle ")[1:]:
        x, y = (float(part.split(f'{name}="')[1].split('"')[0]) for name in ("cx", "cy"))
        assert 0 <= x <= 640
        assert 0 <= y <= 320


# --------------------------------------------------------------------------------------------------------------- halving


def run_of(name: str, limit: str = "1KB") -> Run:
    return Run(name, Cell((("sram", limit),), "uniform"), 0, name, ())


def history(*accuracies: float, epochs: float = 8.0) -> list[dict[str, object]]:
    return [
        {"epoch": float(i + 1), "epochs": epochs, "accuracy": value, "score": value, "better": "higher"}
        for i, value in enumerate(accuracies)
    ]


def test_the_worse_half_ends_at_the_first_rung():
    halving = Halving()
    assert halving.goes_on(run_of("a"), history(0.5, 0.6))
    assert halving.goes_on(run_of("b"), history(0.5)), "it hasn't come to a quarter"
    assert not halving.goes_on(run_of("b"), history(0.5, 0.5))
    assert halving.goes_on(run_of("c"), history(0.5, 0.7))
    assert halving.goes_on(run_of("d"), history(0.5, 0.65)), "second of four"
    assert not halving.goes_on(run_of("e"), history(0.5, 0.1))


def test_runs_of_any_task_are_halved_by_their_figure():
    def errors(*values: float) -> list[dict[str, object]]:
        return [{**line, "accuracy": None, "better": "lower"} for line in history(*values)]

    halving = Halving()
    assert halving.goes_on(run_of("a"), errors(0.5, 0.5))
    assert not halving.goes_on(run_of("b"), errors(0.5, 0.6))
    assert halving.goes_on(run_of("c"), errors(0.5, 0.4))


def test_a_run_is_judged_once_a_rung_and_among_its_own_budget():
    halving = Halving()
    assert halving.goes_on(run_of("a"), history(0.5, 0.6))
    assert halving.goes_on(run_of("b", "9KB"), history(0.1, 0.1))
    assert halving.goes_on(run_of("c"), history(0.5, 0.7))
    assert halving.goes_on(run_of("a"), history(0.5, 0.6, 0.6)), "what came later doesn't change a judgement"


# --------------------------------------------------------------------------------------------------------------- running


@pytest.mark.thorough
def test_a_sweep_leaves_the_files_of_single_runs(here, capsys):
    code = main(
        ["sweep", "net.onnx", *FAST, "--sram", "60%,90%", "--flash", "40%", "--seeds", "2", "-o", "out", "--format", "json"]
    )
    found = json.loads(capsys.readouterr().out)
    assert code == 0
    assert found == json.loads(Path("out/sweep.json").read_text())
    assert [run["state"] for run in found["runs"]] == ["done"] * 4
    for run in found["runs"]:
        written = {path.name: path.read_bytes() for path in Path(run["folder"]).iterdir() if path.name != "log.txt"}
        for name in written:
            Path(run["folder"], name).unlink()
        assert main(run["command"][1:]) == 0
        again = {path.name: path.read_bytes() for path in Path(run["folder"]).iterdir() if path.name != "log.txt"}
        assert written["net.onnx"] == again["net.onnx"]
        first, second = (json.loads(files["report.json"]) for files in (written, again))
        assert {**first, "cost": None} == {**second, "cost": None}
        capsys.readouterr()


@pytest.mark.thorough
def test_an_impossible_budget_is_told_and_the_others_are_answered(here, capsys):
    assert main(["sweep", "net.onnx", *FAST, "--sram", "60%,10", "-o", "out"]) == 2
    done, refused = json.loads(Path("out/sweep.json").read_text())["runs"]
    assert (done["state"], refused["state"]) == ("done", "refused")
    assert refused["error"]["kind"] == "BudgetError"
    assert "1 refused" in capsys.readouterr().out


@pytest.mark.thorough
def test_a_sweep_reads_a_model_as_its_runs_do(here):
    """With the shapes that its inputs are given."""
    net = onnx.load("net.onnx")
    for axis in (2, 3):
        net.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = "side"
    onnx.save(net, "net.onnx")
    shape = f"{net.graph.input[0].name}=1,1,16,16"
    assert main(["sweep", "net.onnx", *FAST, "--input-shape", shape, "--sram", "60%", "-o", "out"]) == 0


@pytest.mark.thorough
def test_runs_are_told_all_that_the_configuration_says_and_read_none(here, capsys):
    """Whichever lies nearest: that of the sweep is another one, and words typed again later must not meet either."""
    Path("mine.toml").write_text(
        'budget = { flash = "70%" }\nruntime = "c"\n[prune]\nmultiple-of = 4\nfloat = true\nno-train = true'
    )
    Path("mcuprune.toml").write_text('budget = { flash = "20%", macs = "30%" }\n[prune]\nmultiple-of = 8\nkeep = ["nothing"]')
    assert main(["sweep", "net.onnx", "--config", "mine.toml", "--sram", "60%,90%", "-o", "out"]) == 0
    runs = json.loads(Path("out/sweep.json").read_text())["runs"]
    for run in runs:
        asked = json.loads(Path(run["folder"], "report.json").read_text())["run"]
        assert (asked["options"]["multiple_of"], asked["options"]["keep"], asked["basis"]["runtime"]) == (4, [], "c")
        assert set(asked["limits"]) == {"sram", "flash"}
        network = Path(run["folder"], "net.onnx")
        kept = network.read_bytes()
        for words in (run["command"], asked["command"], ["mcuprune", "prune", "--from", f"{run['folder']}/report.json"]):
            network.unlink()
            assert main([*words[1:], *(["--report", "again"] if "--from" in words else [])]) == 0
            assert network.read_bytes() == kept


@pytest.mark.thorough
def test_a_configuration_that_comes_later_changes_no_run(here):
    """Those that begin after it was written would have other limits than those before, and nothing would tell."""
    command = ["sweep", "net.onnx", *FAST, "--sram", "60%", "-o", "out"]
    assert main(command) == 0
    (run,) = json.loads(Path("out/sweep.json").read_text())["runs"]
    network = Path(run["folder"], "net.onnx")
    kept = network.read_bytes()
    Path("mcuprune.toml").write_text('budget = { macs = "30%" }\n[prune]\nmultiple-of = 8')
    network.unlink()
    assert main(run["command"][1:]) == 0
    assert network.read_bytes() == kept
    assert main([*command, "--config", os.devnull, "--resume"]) == 0, "it says what held when the sweep began"
    Path("other.onnx").touch()
    Path("mcuprune.toml").write_text('[[model]]\npath = "other.onnx"\nbudget = { macs = "30%" }')
    assert main([*command, "--resume"]) == 0, "it says nothing of this model"


@pytest.mark.parametrize("missing", thorough_but(["report.json", "net.onnx"], "net.onnx"))
def test_a_sweep_goes_on_with_what_is_missing(here, capsys, missing):
    command = ["sweep", "net.onnx", *FAST, "--sram", "60%,90%", "-o", "out"]
    assert main(command) == 0
    first, second = (Path(run["folder"]) for run in json.loads(Path("out/sweep.json").read_text())["runs"])
    kept = (first / "report.json").stat().st_mtime_ns
    (second / missing).unlink()
    assert main(command) == 2, "the folder is in use"
    assert "--resume goes on with it" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    assert (first / "report.json").stat().st_mtime_ns == kept
    assert (second / missing).exists()
    assert main([*command, "--resume", "--multiple-of", "2"]) == 2, "other options are another sweep"
    assert "was another command" in capsys.readouterr().err


def small_set(path: str, *, seed: int) -> None:
    """A data set of squares that the model takes."""
    draw = np.random.default_rng(seed)
    x, y = draw.random((60, 1, 16, 16), np.float32), np.arange(60) % 10
    np.savez(path, x_train=x[:40], y_train=y[:40], x_test=x[40:], y_test=y[40:])


def change_data() -> None:
    small_set("set.npz", seed=1)


def change_model() -> None:
    net = onnx.load("net.onnx")
    net.doc_string = "another"
    onnx.save(net, "net.onnx")


class InProcess:
    """An executor that runs commands here, one after the other. between: what is done after each."""

    def __init__(self, between=lambda: None) -> None:
        self._between = between

    def run(self, runs, goes_on):
        for run in runs:
            code = main([*run.words, "-q"])
            self._between()
            yield Ended(run, code)


@pytest.mark.parametrize(("change", "what"), [(change_data, "data"), (change_model, "model")])
@pytest.mark.parametrize("left", [0, 1])
@pytest.mark.thorough
def test_a_sweep_goes_on_with_the_model_and_the_data_that_it_began_with_alone(here, capsys, change, what, left):
    """Whether runs are left to do or not: a table of runs on two data sets compares nothing."""
    small_set("set.npz", seed=0)
    command = ["sweep", "net.onnx", "--data", "set.npz", *FAST, "--sram", "60%,90%", "--seeds", "3,4", "-o", "out"]
    assert main(command) == 0
    for path in sorted(Path("out").glob("runs/*/report.json"))[:left]:
        path.unlink()
    before = Path("out/sweep.json").read_bytes()
    change()
    assert main([*command, "--resume"]) == 2
    assert f"another content of the {what} than the sweep began with" in capsys.readouterr().err
    assert Path("out/sweep.json").read_bytes() == before


@pytest.mark.thorough
def test_what_a_sweep_began_with_is_known_by_the_digests_that_reports_of_runs_have(here, capsys):
    small_set("set.npz", seed=0)
    assert main(["sweep", "net.onnx", "--data", "set.npz", *FAST, "--sram", "10,60%", "--seeds", "2", "-o", "out"]) == 2
    found = json.loads(Path("out/sweep.json").read_text())
    report = json.loads(Path(found["runs"][2]["folder"], "report.json").read_text())
    assert report["seed"] == 0
    assert found["contents"] == report["run"]["contents"]
    assert None not in found["contents"].values()


def test_data_that_change_while_a_sweep_goes_on_are_told(here, capsys, monkeypatch):
    monkeypatch.setattr("mcuprune.cli.sweep.Processes", lambda jobs: InProcess(change_data))
    small_set("set.npz", seed=0)
    assert main(["sweep", "net.onnx", "--data", "set.npz", *FAST, "--sram", "60%,90%", "-o", "out"]) == 0
    assert "the data changed while the sweep went on: sram-90pct" in capsys.readouterr().out
    assert "the data changed" in Path("out/sweep.md").read_text()


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda: Path("out").write_text("mine"), "is no folder"),
        (lambda: (Path("out").mkdir(), Path("out/mine.txt").write_text("mine")), "holds files already"),
    ],
)
def test_a_sweep_takes_no_place_of_the_users_files(here, capsys, prepare, said):
    prepare()
    assert main(["sweep", "net.onnx", *FAST, "--sram", "60%", "-o", "out"]) == 2
    assert said in capsys.readouterr().err
    assert not Path("out/sweep.json").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-o", "out"], "needs a limit"),
        (["--sram", "60%,60%", "-o", "out"], "given twice"),
        (["--sram", "60%,x", "-o", "out"], "--sram: 'x' is not a size"),
        (["--sram", ",", "-o", "out"], "names no value"),
        (["--sram", "60%", "--seeds", "none", "-o", "out"], "--seeds: 'none' are no seeds"),
        (["--sram", "60%", "--address", "auto", "-o", "out"], "--address goes with --executor ray"),
        (["--sram", "60%", "--executor", "ray", "--track", "mlflow=here.db", "-o", "out"], "stay behind on the workers"),
        (["--sram", "60%", "--data", "nowhere.npz", "-o", "out"], "nowhere.npz"),
        (["--sram", "60%", "--method", "uniform,foo", "-o", "out"], "--method foo: unknown"),
        (["--sram", "60%", "--mean", "1,2,3,4", "-o", "out"], "mean"),
    ],
)
def test_a_mistake_is_one_message(here, capsys, words, said):
    """And leaves nothing behind that the right command would stumble over."""
    before = sorted(here.iterdir())
    assert main(["sweep", "net.onnx", *[word.replace("out", "new/out") for word in words]]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert sorted(here.iterdir()) == before


@pytest.mark.parametrize("resume", [(), ("--resume",)])
@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("a" * 300, "can't be written"),
        ("x/" * 3000 + "out", "can't be written"),
        ("", "-o: names no folder"),
        ("net.onnx/out", "can't be written"),
    ],
    ids=["a long name", "a long path", "no name", "below a file"],
)
def test_a_place_where_no_folder_can_be_is_one_message(here, capsys, place, said, resume):
    before = sorted(os.listdir())
    assert main(["sweep", "net.onnx", *FAST, "--sram", "60%", "-o", place, *resume]) == 2
    written = capsys.readouterr().err
    assert said in written
    assert written.count("\n") == 1
    assert sorted(os.listdir()) == before


@pytest.fixture
def of_nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The current folder is everybody's, and this process may do no more than others: the superuser may do all."""
    if not hasattr(os, "seteuid"):
        pytest.skip("no POSIX system")
    own = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.chdir(folder)
        Path("net.onnx").write_bytes(MODEL.read_bytes())
        Path(folder).chmod(0o777)
        main(["sweep", "net.onnx", *FAST, "--sram", "60%", "-o", "net.onnx/out"])  # imports what others may not be let to read
        if own == 0:
            os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(own)
            monkeypatch.undo()


@pytest.mark.parametrize("mode", [0o000, 0o400, 0o600, 0o500])
@pytest.mark.parametrize("place", ["locked", "locked/out"])
@pytest.mark.parametrize("resume", [(), ("--resume",)])
def test_a_folder_that_may_not_be_entered_is_one_message(of_nobody, capsys, mode, place, resume):
    Path("locked").mkdir()
    Path("locked").chmod(mode)
    try:
        code = main(["sweep", "net.onnx", *FAST, "--sram", "60%", "-o", place, *resume])
    finally:
        Path("locked").chmod(0o700)
    written = capsys.readouterr().err
    assert (code, written.count("\n")) == (2, 1)
    assert "locked" in written
    assert "can't be written (Permission denied)" in written


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "mcuprune", *words]


TRAINED = ("sweep", "net.onnx", "--data", "digits", "--macs", "40%", "--method", "uniform", "--seeds", "2", "--epochs", "6")


@pytest.mark.slow
def test_an_interrupted_sweep_gives_the_same_files_when_it_is_gone_on_with(here):
    subprocess.run(command(*TRAINED, "-o", "whole"), check=True, capture_output=True)
    going = subprocess.Popen(command(*TRAINED, "-o", "out"), stderr=subprocess.PIPE)
    until = time.monotonic() + 600
    while not list(Path("out").glob("runs/*/*.checkpoint")) and time.monotonic() < until:
        time.sleep(0.1)
    going.send_signal(signal.SIGINT)
    assert b"--resume" in going.communicate(timeout=120)[1]
    assert going.returncode == 130
    assert list(Path("out").glob("runs/*/*.checkpoint")), "the runs have kept their state"
    subprocess.run(command(*TRAINED, "-o", "out", "--resume"), check=True, capture_output=True)
    for network in Path("whole").glob("runs/*/net.onnx"):
        assert network.read_bytes() == Path("out", *network.parts[1:]).read_bytes()


#: A process that starts a run.
STARTER = """
from mcuprune.sweep.executors import Processes
from mcuprune.sweep.grid import Cell, Run
words = ("prune", "net.onnx", "--macs", "60%", "--data", "waits:load", "-o", "out/one/net.onnx")
for ended in Processes(1).run([Run("one", Cell((), "uniform"), 0, "out/one", words)], lambda run, history: True):
    pass
"""
#: Data that tell which process reads them, and never come.
WAITS = """
import os, pathlib, time
def load():
    pathlib.Path("begun").write_text(f"{os.getpid()}")
    pathlib.Path("begun").rename("reader")
    time.sleep(60)
"""


@pytest.mark.thorough
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_runs_of_a_sweep_that_is_killed_end_with_it(here):
    """Else a sweep that is gone on with would do the same runs once more beside them, in the same files."""
    Path("waits.py").write_text(WAITS)
    going = subprocess.Popen([sys.executable, "-c", STARTER])
    try:
        until = time.monotonic() + 60
        while not Path("reader").exists() and time.monotonic() < until:
            time.sleep(0.05)
        run = Path("/proc", Path("reader").read_text(), "stat")
    finally:
        going.kill()
        going.wait()
    until = time.monotonic() + 10
    while is_alive(run) and time.monotonic() < until:
        time.sleep(0.05)
    alive = is_alive(run)
    if alive:
        os.kill(int(run.parent.name), signal.SIGKILL)
    assert not alive


def is_alive(stat: Path) -> bool:
    """Whether the process that a file of /proc is about does anything still; one that nobody has buried doesn't."""
    with suppress(OSError):
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.parametrize("deadly", thorough_but([signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM], signal.SIGKILL))
def test_a_run_whose_process_is_killed_is_told_apart_from_refused_ones_and_goes_on(here, capsys, monkeypatch, deadly):
    """Whatever kills it, as a machine without memory left does: nothing was refused, and the same command goes on."""
    words_of = executors.words_of
    kill = [sys.executable, "-c", f"import os; print('Traceback'); os.kill(os.getpid(), {int(deadly)})"]
    monkeypatch.setattr(
        executors, "words_of", lambda run, *, resume: kill if "60pct" in run.name else words_of(run, resume=resume)
    )
    command = ["sweep", "net.onnx", *FAST, "--sram", "10,60%,90%", "-o", "out"]
    assert main(command) == 2
    refused, killed, done = json.loads(Path("out/sweep.json").read_text())["runs"]
    assert [run["state"] for run in (refused, killed, done)] == ["refused", "killed", "done"]
    assert killed["error"]["kind"] == "RunKilled"
    written = capsys.readouterr()
    for said in (written.out, written.err, Path("out/sweep.md").read_text()):
        assert f"killed by {deadly.name}" in said
        assert "--resume goes on" in said
    assert "1 refused" in written.out
    assert "1 killed" in written.out
    monkeypatch.undo()
    monkeypatch.chdir(here)
    monkeypatch.setenv("PYTHONPATH", str(MODEL.parents[1]))
    assert main([*command, "--resume"]) == 2, "the budget that no cut holds"
    assert [run["state"] for run in json.loads(Path("out/sweep.json").read_text())["runs"]] == ["refused", "done", "done"]


TASKS = tasks_data.of_each_task()


@pytest.mark.parametrize("name", TASKS)
def test_a_sweep_compares_the_figure_of_any_task(here, capsys, monkeypatch, name):
    net, arrays = TASKS[name]
    net.save("task.onnx")
    np.savez("task.npz", **arrays)
    monkeypatch.setattr("mcuprune.cli.sweep.Processes", lambda jobs: InProcess())
    words = ["sweep", "task.onnx", "--data", "task.npz", "--flash", "60%,90%", "--epochs", "1", "--method", "uniform"]
    assert main([*words, "-o", "out"]) == 0
    found = json.loads(Path("out/sweep.json").read_text())
    for run in found["runs"]:
        figure = json.loads(Path(run["folder"], "report.json").read_text())["metric"]
        assert run["metric"]["value"] == figure["after_int8"]["value"]
        assert run["metric"]["name"] == name == figure["name"]
        assert run["metric"]["better"] == figure["better"]
    assert found["cells"][0]["metric"]["mean"] == found["runs"][0]["metric"]["value"]
    assert found["fronts"]["flash"]
    title = figure["shown_as"]
    captured = capsys.readouterr()
    assert f"front of {title} against flash: " in captured.out
    assert f"fits, {title} " in captured.err
    assert "<svg" in Path("out/sweep.html").read_text()


# ------------------------------------------------------------------------------------------------------------- going on


@pytest.mark.parametrize(
    ("then", "said"),
    [
        (("--sram", "90%", "--multiple-of", "2"), "was another command there, without --multiple-of 2;"),
        (("--sram", "90%"), "runs that this command doesn't ask for"),
        (("--sram", "60%", "--flash", "90%"), "runs that this command doesn't ask for"),
        (("--sram", "60%", "--seeds", "1,"), "runs that this command doesn't ask for"),
        (("--sram", "60%", "--method", "at-init"), "runs that this command doesn't ask for"),
    ],
)
def test_no_run_is_lost_to_a_sweep_that_is_gone_on_with_otherwise(begun, capsys, then, said):
    """Whether the other command shares a run with the sweep in the folder or not."""
    before = Path("out/sweep.json").read_bytes()
    capsys.readouterr()
    assert main([*SWEEP, *then, "--resume"]) == 2
    written = capsys.readouterr()
    assert said in written.err
    assert written.err.count("\n") == 1
    assert "another -o" in written.err
    assert Path("out/sweep.json").read_bytes() == before


@pytest.mark.thorough
def test_a_sweep_may_grow(begun):
    first = next(Path("out/runs").iterdir()) / "report.json"
    kept = first.stat().st_mtime_ns
    assert main([*SWEEP, "--sram", "60%,90%", "--seeds", "2", "--resume"]) == 0
    assert first.stat().st_mtime_ns == kept
    assert [run["state"] for run in json.loads(Path("out/sweep.json").read_text())["runs"]] == ["done"] * 4


@pytest.mark.thorough
@pytest.mark.parametrize("words", [("--multiple-of", "4"), pytest.param(("--sram-model", "tflm"), marks=pytest.mark.thorough)])
def test_a_report_of_another_command_is_not_taken_for_a_run(here, capsys, words):
    """As where somebody has repeated a run by hand, otherwise."""
    command = [*SWEEP, "--sram", "60%,90%"]
    assert main(command) == 0
    run = json.loads(Path("out/sweep.json").read_text())["runs"][0]["command"][1:]
    assert main([*run, *words]) == 0
    before = Path("out/sweep.json").read_bytes()
    capsys.readouterr()
    assert main([*command, "--resume"]) == 2
    written = capsys.readouterr().err
    assert "report.json: is of another command" in written
    assert words[0].strip("-").split("-")[0] in written
    assert Path("out/sweep.json").read_bytes() == before


@pytest.mark.parametrize("first", ["done", "stopped"])
def test_runs_of_an_earlier_sitting_are_compared_with_as_well(here, monkeypatch, first):
    """Else whoever comes first after an interruption has nobody to be compared with, and goes on however hopeless."""
    worth: dict[int, bool] = {}

    class Halved:
        def run(self, runs, goes_on):
            for run in runs:
                worth[run.seed] = goes_on(run, history(0.1, 0.9 - run.seed / 10))
                if first == "done":
                    yield from InProcess().run([run], goes_on)
                else:
                    yield Ended(run, 130, stopped=True)

    monkeypatch.setattr("mcuprune.cli.sweep.Processes", lambda jobs: Halved())
    command = [*SWEEP, "--sram", "60%", "--halving"]
    assert main([*command, "--seeds", "1"]) == 0
    assert main([*command, "--seeds", "3", "--resume"]) == 0
    assert worth == {0: True, 1: False, 2: False}
    runs = json.loads(Path("out/sweep.json").read_text())["runs"]
    assert [run["rungs"]["0.25"] for run in runs] == pytest.approx([0.9, 0.8, 0.7])


def test_a_sweep_of_another_version_is_not_gone_on_with(begun, capsys):
    """The same command may give other files there, and other words for the same runs."""
    found = json.loads(Path("out/sweep.json").read_text())
    found["runs"][0]["command"].remove("--config")
    Path("out/sweep.json").write_text(json.dumps({**found, "mcuprune": "0.0.1"}))
    capsys.readouterr()
    assert main([*SWEEP, "--sram", "60%,90%", "--resume"]) == 2
    written = capsys.readouterr().err
    assert f"out/sweep.json: was begun by mcuprune 0.0.1, and this is {__version__}" in written
    assert written.count("\n") == 1


def overflowing(path: str) -> None:
    """A network of weights so large that its answers are infinite, and a data set of numbers to guess."""
    net = onnx.load(MODEL)
    for weight in net.graph.initializer:
        array = onnx.numpy_helper.to_array(weight)
        if array.ndim > 1 and array.dtype == np.float32:
            weight.CopyFrom(onnx.numpy_helper.from_array(array * np.float32(1e25), weight.name))
    onnx.save(net, path)
    draw = np.random.default_rng(0)
    x, y = draw.random((60, 1, 16, 16), np.float32), draw.random((60, 10), np.float32)
    np.savez("set.npz", x_train=x[:40], y_train=y[:40], x_test=x[40:], y_test=y[40:])


def strict(path: Path) -> object:
    """What a file of JSON holds that any parser takes."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{path} holds {word}")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_figures_that_are_no_finite_numbers_are_null_in_every_document(here, capsys):
    """Else nobody can read them any more: neither a strict parser nor ``--resume`` and ``report``."""
    overflowing("net.onnx")
    command = [*SWEEP, "--data", "set.npz", "--task", "regress", "--sram", "60%"]
    assert main(command) == 0, capsys.readouterr().err
    documents = [Path("out/sweep.json"), *Path("out/runs").glob("*/report.json")]
    assert len(documents) == 2
    for path in documents:
        strict(path)
    report_of_run = json.loads(documents[1].read_text())
    assert report_of_run["metric"]["after_float"]["value"] is None, "it is infinite"
    assert main([*command, "--resume"]) == 0, capsys.readouterr().err
    assert main(["report", "out", "--format", "html", "-o", "page.html"]) == 0


def test_a_run_whose_figure_is_no_number_is_the_worst_and_a_sweep_of_it_goes_on(here, monkeypatch):
    halving = Halving()
    assert halving.goes_on(run_of("a"), history(0.5, 0.1))
    assert not halving.goes_on(run_of("b"), history(0.5, float("nan")))

    class Halved:
        def run(self, runs, goes_on):
            for run in runs:
                goes_on(run, history(0.1, float("nan")))
                yield from InProcess().run([run], goes_on)

    monkeypatch.setattr("mcuprune.cli.sweep.Processes", lambda jobs: Halved())
    command = [*SWEEP, "--sram", "60%", "--halving"]
    assert main(command) == 0
    assert strict(Path("out/sweep.json"))["runs"][0]["rungs"] == {"0.25": None}
    assert main([*command, "--seeds", "2", "--resume"]) == 0
    assert [run["rungs"] for run in strict(Path("out/sweep.json"))["runs"]] == [{"0.25": None}] * 2


@pytest.mark.parametrize("there", [False, True])
def test_to_go_on_with_nothing_is_told_and_begins(here, capsys, there):
    """As a single run does, in its report."""
    if there:
        Path("out").mkdir()
    assert main([*SWEEP, "--sram", "60%", "--resume", "-q"]) == 0
    assert capsys.readouterr().err == "mcuprune: -o out: --resume found no sweep there; this one begins anew\n"
    assert main([*SWEEP, "--sram", "60%", "--resume", "-q"]) == 0
    assert capsys.readouterr().err == ""


def test_a_folder_of_other_files_is_no_sweep_to_go_on_with(begun, capsys):
    Path("out/sweep.json").rename("out/mine.json")
    assert main([*SWEEP, "--sram", "60%", "--resume"]) == 2
    assert "no sweep.json" in capsys.readouterr().err
    assert not Path("out/sweep.json").exists()


@pytest.mark.thorough
@pytest.mark.parametrize("resume", [pytest.param((), marks=pytest.mark.thorough), ("--resume",)])
def test_two_sweeps_do_not_share_a_folder(here, capsys, resume):
    fcntl = pytest.importorskip("fcntl")
    if resume:
        assert main([*SWEEP, "--sram", "60%"]) == 0
    Path("out").mkdir(exist_ok=True)
    held = os.open("out", os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert main([*SWEEP, "--sram", "60%,90%", *resume]) == 2
    finally:
        os.close(held)
    assert "another mcuprune is at work there" in capsys.readouterr().err
    assert main([*SWEEP, "--sram", "60%,90%", *resume]) == 0


@pytest.mark.parametrize("name", ["sweep.json", "runs/sram-60pct_differentiable_seed-0/report.json"])
@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        "[" * 500 + "]" * 500,
        "{" * 5,
        '{"command": "sweep", "runs": [7]}',
        '{"command": "prune", "seed": 0, "run": {"contents": {}}}',
    ],
)
def test_damaged_files_of_a_sweep_are_one_message(begun, capsys, name, content):
    Path("out", name).write_text(content)
    capsys.readouterr()
    assert main([*SWEEP, "--sram", "60%", "--resume"]) == 2
    written = capsys.readouterr().err
    assert f"out/{name}: " in written
    assert written.count("\n") == 1


JUNK = st.sampled_from([None, 7, -1.5, 10**30, "x", "", [], {}, True, [{}], {"x": []}])


def damaged(value, draw):
    """A JSON value with one place of it taken out or replaced."""
    places = [(value, key) for key in (value if isinstance(value, dict) else range(len(value)))]
    inside = [held[key] for held, key in places if isinstance(held[key], (dict, list)) and held[key]]
    if inside and draw(st.booleans()):
        damaged(draw(st.sampled_from(inside)), draw)
        return
    held, key = draw(st.sampled_from(places))
    if draw(st.booleans()):
        del held[key]
    else:
        held[key] = draw(JUNK)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep with one run, and beside it what its files held."""
    return with_one_run(tmp_path_factory.mktemp("swept"), "--data", "set.npz")


@pytest.mark.parametrize("name", ["sweep.json", "report.json"])
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_what_a_sweep_has_left_is_read_or_refused_and_never_a_bug(swept, name, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(swept)
        run = grid(options=FAST, limits={"sram": ("60%",)}, methods=("differentiable",), seeds=(0,)).runs()[0]
        path = Path("out/sweep.json" if name == "sweep.json" else run.file(name))
        whole = json.loads(path.read_text())
        changed = json.loads(path.read_text())
        damaged(changed, data.draw)
        other = path.with_name("damaged.json")
        other.write_text(json.dumps(changed))
        with suppress(UsageError):
            if name == "sweep.json":
                outcomes.recorded(other)
            else:
                found = outcomes.stored_report(other, run)
                outcome = Outcome("m", "out", (Finished(run, "done", found),))
                for page in report.PAGES.values():
                    page(outcome)
        assert whole == json.loads(path.read_text())


# ------------------------------------------------------------------------------------------------------------------- ray


class FakeRay:
    """Tasks that are begun as soon as they are handed over, as those of Ray are while others wait for a value."""

    def __init__(self, cores: int) -> None:
        self.cores, self.most, self.going = cores, 0, []

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": float(self.cores)}

    def remote(self, **how):
        return lambda what: SimpleNamespace(remote=self._home if isinstance(what, type) else self._begun)

    def _home(self) -> SimpleNamespace:
        nothing = SimpleNamespace(remote=lambda *given: {})  # of which nothing is ever taken
        return SimpleNamespace(store=nothing, taken=nothing, stop=nothing)

    def _begun(self, run: Run, *rest: object) -> str:
        self.going.append(run.name)
        self.most = max(self.most, len(self.going))
        return run.name

    def wait(self, references, **how):
        self.going.remove(references[-1])
        return [references[-1]], references[:-1]

    def get(self, value):
        return value


@pytest.mark.parametrize(("cores", "jobs", "most"), [(2, None, 2), (8, 3, 3), (2, 5, 2)])
def test_on_ray_no_more_runs_go_on_at_once_than_there_are_places(here, monkeypatch, cores, jobs, most):
    pytest.importorskip("ray")
    runs = grid(folder=str(here / "out")).runs()[:12]
    sweep = cluster.Cluster([], lambda report: {}, jobs=jobs)
    sweep._ray = FakeRay(cores)
    monkeypatch.setattr(sweep, "_ended", lambda run, reference: run.name)
    assert sorted(sweep._run(runs, lambda run, history: True)) == sorted(run.name for run in runs)
    assert sweep._ray.most == most


class InlineRay:
    """Does in this process, at once, what it is asked for; what a task raises is raised when its value is."""

    def remote(self, **how):
        return lambda what: SimpleNamespace(remote=partial(self._actor if isinstance(what, type) else self._task, what))

    def _actor(self, kind, *given):
        held = kind(*given)
        return SimpleNamespace(
            **{name: SimpleNamespace(remote=getattr(held, name)) for name in dir(held) if not name.startswith("__")}
        )

    def _task(self, what, *given):
        return InlineValue(what, given)

    def init(self, **how):
        return None

    def shutdown(self):
        return None

    def cluster_resources(self):
        return {"CPU": 1.0}

    def put(self, value):
        return value

    def get(self, value):
        return value.get() if isinstance(value, InlineValue) else value

    def wait(self, references, **how):
        with suppress(cluster.WorkerLost):
            references[0].get()
        return references[:1], references[1:]


class InlineValue:
    """What a task gives back, once it is asked for; an exception again and again."""

    def __init__(self, what, given) -> None:
        self.get = cache(lambda: what(*given))


@pytest.fixture
def inline_ray(monkeypatch: pytest.MonkeyPatch) -> InlineRay:
    ray = InlineRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    return ray


def without_cost(folder: Path) -> dict[str, object]:
    """What the files of a sweep hold, but for how long it took."""
    held: dict[str, object] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.suffix == ".json":
            read = json.loads(content)
            for each in (read, *read.get("runs", ())):
                each["cost"] = None
            content = json.dumps(read).encode()
        if path.suffix not in (".html", ".md", ".txt"):
            held[f"{path.relative_to(folder)}"] = content
        assert b"orMcuprune" not in content
    return held


@pytest.mark.parametrize(
    ("model", "out"),
    [
        pytest.param("{here}/net.onnx", "{here}/out", marks=pytest.mark.thorough),
        pytest.param("sub/../../net.onnx", "{here}/out", marks=pytest.mark.thorough),
        pytest.param("./net.onnx", "../out/of", marks=pytest.mark.thorough),
        pytest.param("../net.onnx", "out", marks=pytest.mark.thorough),
    ],
)
def test_wherever_files_lie_runs_on_ray_leave_what_processes_leave(here, capsys, monkeypatch, inline_ray, model, out):
    """And repeat from there: the paths in a report are those of the machine that the sweep was started on."""
    Path("in/sub").mkdir(parents=True)
    (here / "in" / "net.onnx").write_bytes((here / "net.onnx").read_bytes())
    small_set("set.npz", seed=0)
    monkeypatch.chdir("in")
    model, out = (text.format(here=here) for text in (model, out))
    command = ["sweep", model, "--data", f"{here}/set.npz", *FAST, "--sram", "60%", "-o", out]
    found = []
    for executor in ("local", "ray"):
        assert main([*command, "--executor", executor]) == 0, capsys.readouterr().err
        found.append(without_cost(Path(out)))
        run = json.loads(Path(out, "sweep.json").read_text())["runs"][0]
        again = ["prune", "--from", f"{run['folder']}/report.json", "-o", "again.onnx", "--report", "again"]
        assert main(again) == 0
        assert Path("again.onnx").read_bytes() == Path(run["folder"], "net.onnx").read_bytes()
        shutil.rmtree(out)
    assert found[0] == found[1]


def pictures(folder: Path) -> list[tuple[Path, str]]:
    """Files of random images below a folder, a subfolder for each of ten classes, and the names of their classes."""
    image = pytest.importorskip("PIL.Image")
    files = [(folder / "abcdefghij"[number % 10] / f"{number}.png", "abcdefghij"[number % 10]) for number in range(60)]
    for number, (file, _) in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(np.random.default_rng(number).integers(0, 255, (16, 16), np.uint8)).save(file)
    return files


def table_of(files: list[tuple[Path, str]], base: Path) -> str:
    """A table with a head. base: where its paths start."""
    return "\n".join(["file,label", *(f"{base / file},{label}" for file, label in files)])


def on_both(capsys, *words: str) -> None:
    """Do a sweep here and on Ray, and hold what they have left against each other."""
    found = []
    for executor in ("local", "ray"):
        assert main(["sweep", "net.onnx", *FAST, "--sram", "60%", "-o", "out", *words, "--executor", executor]) == 0, (
            capsys.readouterr().err
        )
        found.append(without_cost(Path("out")))
        shutil.rmtree("out")
    assert found[0] == found[1]


@pytest.mark.thorough
@pytest.mark.parametrize("data", ["set/table.csv", pytest.param("{here}/set/table.csv", marks=pytest.mark.thorough)])
def test_runs_on_ray_get_the_files_that_a_table_names(here, capsys, inline_ray, data):
    """And the order of the classes from beside it."""
    files = pictures(Path("img"))
    Path("set").mkdir()
    Path("set/table.csv").write_text(table_of(files, Path("..")))
    Path("set/classes.txt").write_text("\n".join("jihgfedcba"))
    on_both(capsys, "--data", data.format(here=here))


@pytest.mark.thorough
def test_runs_on_ray_get_what_lies_in_a_folder_by_a_link(here, capsys, inline_ray):
    pictures(Path("set"))
    Path("set/b").rename("elsewhere")
    for link, to in (("set/b", "../elsewhere"), ("set/a/round", "../../set"), ("set/.lock", "nowhere")):
        Path(link).symlink_to(to)
    on_both(capsys, "--data", "set")


def test_a_table_whose_files_workers_cannot_find_is_refused_before_the_work(here, capsys, inline_ray):
    Path("table.csv").write_text(table_of(pictures(Path("img")), here))
    command = ["sweep", "net.onnx", "--data", "table.csv", *FAST, "--sram", "60%", "-o", "out"]
    assert main([*command, "--executor", "ray"]) == 2
    written = capsys.readouterr().err
    assert f"table.csv names '{here}/img/a/0.png' by a path from the root" in written
    assert written.count("\n") == 1
    assert not Path("out").exists()
    assert main(command) == 0, "on this machine they are there"


@pytest.mark.thorough
def test_a_loss_of_the_users_own_goes_along_to_ray(here, capsys, inline_ray):
    small_set("set.npz", seed=0)
    Path("mine.py").write_text("def loss(output, target):\n    return (output.logsumexp(1) - output[:, 0]).mean()\n")
    words = ["--loss-function", "mine:loss", "--data", "set.npz", "--epochs", "1", "--method", "uniform", "--macs", "60%"]
    assert main(["sweep", "net.onnx", *words, "--float", "--executor", "ray", "-o", "out"]) == 0, capsys.readouterr()


def test_what_a_refused_run_on_ray_says_has_the_paths_of_this_machine(here, capsys, inline_ray):
    assert main(["sweep", f"{here}/net.onnx", *FAST, "--sram", "10", "--executor", "ray", "-o", f"{here}/out"]) == 2
    (run,) = json.loads(Path("out/sweep.json").read_text())["runs"]
    assert "orMcuprune" not in run["error"]["message"]
    assert "orMcuprune" not in Path(run["folder"], "log.txt").read_text()


def test_what_a_killed_run_on_ray_has_said_is_kept(here, monkeypatch, inline_ray):
    """Of every try: whoever wants to know why it was killed has nothing else."""
    say = "import os, sys, time; print('said', os.getcwd(), file=sys.stderr, flush=True); os.kill(os.getpid(), 9)"
    monkeypatch.setattr(cluster, "words_of", lambda run, *, resume: [sys.executable, "-c", say])
    assert main(["sweep", "net.onnx", *FAST, "--sram", "60%", "--executor", "ray", "-o", "out"]) == 2
    (run,) = json.loads(Path("out/sweep.json").read_text())["runs"]
    assert run["state"] == "killed"
    assert "said " in Path(run["folder"], "log.txt").read_text()


@pytest.mark.parametrize("place", ["logs", "../logs", "{here}/logs"])
def test_files_that_a_run_on_ray_writes_elsewhere_come_home(here, monkeypatch, inline_ray, place):
    Path("in").mkdir()
    (here / "in" / "net.onnx").write_bytes((here / "net.onnx").read_bytes())
    monkeypatch.chdir("in")
    place = place.format(here=here)
    write = """import os, sys
folder = sys.argv[sys.argv.index("--track") + 1].partition("=")[2]
os.makedirs(f"{folder}/deep")
open(f"{folder}/deep/events", "w").write("mine")
sys.exit(2)
"""
    monkeypatch.setattr(cluster, "words_of", lambda run, *, resume: [sys.executable, "-c", write, *run.words])
    words = ["sweep", "net.onnx", *FAST, "--sram", "60%", "--executor", "ray", "--track", f"tensorboard={place}", "-o", "out"]
    monkeypatch.setitem(sys.modules, "tensorboard", SimpleNamespace())
    assert main(words) == 2
    (events,) = Path(place).glob("*/deep/events")
    assert events.read_text() == "mine"


def test_a_state_goes_on_wherever_it_was_stored(here, inline_ray):
    """On a worker files at the root have other names; what a state says of them is what they are called where it lies."""
    state = checkpoint.Checkpoint(Path("state"), {"--data": f"{here}/set.npz", "--epochs": "3"})
    state.save("train", {"w": np.arange(3)}, {"x": 1})
    there = cluster.Cluster([f"{here}/set.npz"], lambda report: {})
    sent = there._sent(Path("state").read_bytes())
    Path("there").write_bytes(sent)
    with pytest.raises(UsageError, match="another command"):
        checkpoint.Checkpoint(Path("there"), state.of).load("train")
    Path("back").write_bytes(there._came(sent))
    back = checkpoint.Checkpoint(Path("back"), state.of).load("train")
    assert (back.arrays["w"].tolist(), back.values) == ([0, 1, 2], {"x": 1})
    assert there._sent(b"damaged") == b"damaged", "which the run refuses"


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port where something listens and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("kind", ["nobody", pytest.param("silent", marks=pytest.mark.thorough), "no address"])
def test_a_cluster_that_does_not_answer_is_told_soon_and_before_there_is_any_file(here, capsys, monkeypatch, silent_port, kind):
    pytest.importorskip("ray")
    monkeypatch.setattr(cluster, "_PATIENCE", 6.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    address = {"nobody": f"127.0.0.1:{closed}", "silent": f"127.0.0.1:{silent_port}", "no address": "no such place"}[kind]
    began = time.monotonic()
    assert main(["sweep", "net.onnx", *FAST, "--sram", "60%", "--executor", "ray", "--address", address, "-o", "out"]) == 2
    assert time.monotonic() < began + 30
    written = capsys.readouterr().err
    assert f"--address {address}: no cluster answers there" in written
    assert "ray start --head" in written
    assert written.count("\n") == 1
    assert not Path("out").exists()


#: A cluster that lets in whoever has the token of its environment. It says where it is, and ends when it is told to.
GUARDED = "import ray, sys; print(ray.init('local', num_cpus=1, include_dashboard=False)['gcs_address'], flush=True); input()"


@pytest.mark.slow
@pytest.mark.parametrize("given", [{}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "b" * 64}])
def test_a_cluster_that_wants_a_token_says_how_to_give_it(here, given):
    pytest.importorskip("ray")
    nobody = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {"HOME": str(here)}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64}
    with subprocess.Popen(
        [sys.executable, "-c", GUARDED], env=nobody | token, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as guarded:
        address = guarded.stdout.readline().strip()
        words = command("sweep", "net.onnx", *FAST, "--sram", "60%", "--executor", "ray", "--address", address, "-o", "out")
        refused = subprocess.run(words, env=nobody | given, capture_output=True, text=True, check=False)
        taken = subprocess.run(words, env=nobody | token, capture_output=True, text=True, check=False)
        guarded.communicate("\n")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    assert f"--address {address}: the cluster there wants a token" in refused.stderr
    assert all(name in refused.stderr for name in ("RAY_AUTH_MODE=token", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    assert taken.returncode == 0, taken.stderr


@pytest.mark.thorough
@pytest.mark.parametrize("ends", [True, False])
def test_a_token_that_is_wanted_is_told_however_long_ray_tries(here, capsys, monkeypatch, ends):
    said = "gcs_client.cc:210: Failed to get cluster ID from GCS server: Unauthenticated: RPC error: InvalidAuthToken"
    end = "sys.exit('ConnectionError: Failed to connect')" if ends else "time.sleep(60)"
    monkeypatch.setattr(cluster, "_JOIN", f"import sys, time; print({said!r}, file=sys.stderr, flush=True); {end}")
    monkeypatch.setattr(cluster, "_PATIENCE", 2.0)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace())
    assert main([*SWEEP, "--sram", "60%", "--executor", "ray", "--address", "auto"]) == 2
    assert "--address auto: the cluster there wants a token" in capsys.readouterr().err


@pytest.mark.slow
def test_ray_gives_the_files_of_processes_even_when_workers_are_killed(here):
    pytest.importorskip("ray")
    subprocess.run(command(*TRAINED, "-o", "whole"), check=True, capture_output=True)
    going = subprocess.Popen(command(*TRAINED, "-o", "out", "--executor", "ray", "--jobs", "2"), stderr=subprocess.PIPE)
    killed: set[int] = set()
    until = time.monotonic() + 900
    while len(killed) < 2 and going.poll() is None and time.monotonic() < until:
        if list(Path("out").glob("runs/*/*.checkpoint")):
            killed |= kill_a_worker(going.pid, sparing=killed)
        time.sleep(0.2)
    assert len(killed) == 2, "the test has killed two workers"
    assert going.wait(timeout=900) == 0, going.stderr.read()
    for network in Path("whole").glob("runs/*/net.onnx"):
        assert network.read_bytes() == Path("out", *network.parts[1:]).read_bytes()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_the_worker_that_a_test_kills_belongs_to_its_own_cluster():
    start = ["bash", "-c", "(exec -a ray::_on_worker sleep 60) & echo $!; wait"]
    clusters = [subprocess.Popen(start, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    workers = [int(cluster.stdout.readline()) for cluster in clusters]
    try:
        for worker in workers:
            until = time.monotonic() + 10
            while not Path(f"/proc/{worker}/cmdline").read_bytes().startswith(b"ray") and time.monotonic() < until:
                time.sleep(0.01)
        last = int(workers[1] > workers[0])  # of the process that is looked at after the other
        assert kill_a_worker(clusters[last].pid, sparing=set()) == {workers[last]}
        assert kill_a_worker(clusters[last].pid, sparing={workers[last]}) == set()
        assert kill_a_worker(os.getpid(), sparing=set(workers)) == set()
    finally:
        for worker in workers:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        for cluster in clusters:
            cluster.communicate(timeout=10)


def test_without_ray_the_message_says_what_to_install(here, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["sweep", "net.onnx", *FAST, "--sram", "60%", "--executor", "ray", "-o", "out"]) == 2
    assert "pip install 'mcuprune[ray]'" in capsys.readouterr().err


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--method", "uniform,magnitude"], "no effect without training: --method, as uniform and magnitude cut alike"),
        (["--method", "uniform,at-init", "--halving"], "no effect without training: --halving"),
        (["--method", "at-init,magnitude"], None),
    ],
)
def test_a_sweep_without_training_says_what_has_no_effect(flags, said, here, capsys):
    assert main([*SWEEP, "--macs", "60%", *flags]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "no effect" in line]
    assert told == ([] if said is None else [f"mcuprune: {said}"])
