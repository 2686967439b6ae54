"""Trackers: each by a fake of its package, refused before the work where it lacks, and never a reason to stop."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import small_nets

from mcuprune.cli import main
from mcuprune.errors import MissingExtra, UsageError
from mcuprune.train import tracking
from mcuprune.train.request import Request
from mcuprune.train.task import Step

STEP = Step(7, 1.5, 0.25, {"sram": 100, "macs": 2000}, accuracy=0.75, score=0.75, training_macs=9)
VALUES = {"loss": 0.25, "epoch": 1.5, "training_macs": 9, "sram": 100, "macs": 2000, "validation": 0.75, "accuracy": 0.75}


def request(*track: str) -> Request:
    return Request("net.onnx", {}, "o.onnx", seed=3, track=track)


def test_tensorboard_gets_a_scalar_for_each_number(monkeypatch):
    module = Mock()
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setitem(sys.modules, "tensorboard", Mock())
    with tracking.following(request("tensorboard=logs")) as track:
        track(STEP)
    module.SummaryWriter.assert_called_once_with("logs")
    writer = module.SummaryWriter.return_value
    assert {call.args[0]: call.args[1] for call in writer.add_scalar.call_args_list} == VALUES
    assert {call.args[2] for call in writer.add_scalar.call_args_list} == {7}
    writer.close.assert_called_once_with()


def test_mlflow_gets_the_options_and_the_metrics(monkeypatch):
    module = Mock()
    monkeypatch.setitem(sys.modules, "mlflow", module)
    with tracking.following(request("mlflow=http://server")) as track:
        track(STEP)
    module.set_tracking_uri.assert_called_once_with("http://server")
    assert module.log_params.call_args.args[0]["seed"] == 3
    module.log_metrics.assert_called_once_with(VALUES, step=7)
    module.end_run.assert_called_once_with()


def test_wandb_gets_the_options_and_the_metrics(monkeypatch):
    module = Mock()
    monkeypatch.setitem(sys.modules, "wandb", module)
    with tracking.following(request("wandb")) as track:
        track(STEP)
    assert module.init.call_args.kwargs["project"] == "mcuprune"
    assert module.init.call_args.kwargs["config"]["model"] == "net.onnx"
    module.init.return_value.log.assert_called_once_with(VALUES, step=7)
    module.init.return_value.finish.assert_called_once_with()


PACKAGES = ["tensorboard", "mlflow", "wandb"]


# ------------------------------------------------------------------------------------- the packages themselves, if installed


def test_tensorboard_itself_reads_what_was_sent(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with tracking.following(request(f"tensorboard={tmp_path}")) as track:
        track(STEP)
    stored = events.EventAccumulator(str(tmp_path)).Reload()
    assert {name: stored.Scalars(name)[0].value for name in VALUES} == VALUES
    assert stored.Scalars("loss")[0].step == 7


def test_mlflow_itself_keeps_what_was_sent(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    place = f"sqlite:///{tmp_path / 'm.db'}"
    with tracking.following(request(f"mlflow={place}")) as track:
        track(STEP)
    (run,) = mlflow.MlflowClient(place).search_runs(["0"])
    assert run.data.metrics == VALUES
    assert run.data.params["seed"] == "3"
    assert run.info.status == "FINISHED"


def test_wandb_itself_keeps_a_run_without_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    with tracking.following(request("wandb")) as track:
        track(STEP)
    assert [file for file in tmp_path.rglob("*.wandb") if file.stat().st_size]


# -------------------------------------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_that_lacks_is_told_with_its_extra(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=rf"pip install 'mcuprune\[{name}\]'"), tracking.following(request(name)):
        raise AssertionError("the work has begun")


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize(
    "words",
    [
        ("prune", "--macs", "60%", "--epochs", "1", "-o", "out/o.onnx"),
        ("prune", "--macs", "60%", "--no-train", "--float", "-o", "out/o.onnx"),
        ("sweep", "--macs", "60%,80%", "--no-train", "--float", "-o", "out"),
        ("portfolio", "--macs", "60%,80%", "--epochs", "1", "--independent", "-o", "out"),
    ],
)
def test_a_package_that_lacks_is_told_before_there_is_any_file(monkeypatch, tmp_path, capsys, name, words):
    """Those of the trackers before it too, and of the command itself."""
    monkeypatch.chdir(tmp_path)
    begun = Mock(package="json", of_several=lambda place, name, folder: place, folder=lambda place: None)
    monkeypatch.setattr(tracking, "TRACKERS", {"fake": begun, **tracking.TRACKERS})
    monkeypatch.setitem(sys.modules, name, None)
    Path("net.onnx").write_bytes(small_nets.residual(8).SerializeToString())
    assert main([words[0], "net.onnx", *words[1:], "--data", "digits", "--track", "fake", "--track", name]) == 2
    said = capsys.readouterr().err
    assert f"pip install 'mcuprune[{name}]'" in said
    assert said.count("\n") == 1
    begun.assert_not_called()
    assert os.listdir() == ["net.onnx"]


def test_each_of_several_runs_has_a_place_of_its_own():
    of = partial(tracking.of_several, name="run", folder="out/runs/run")
    assert of(["tensorboard=logs"]) == ["tensorboard=logs/run"]
    assert of(["tensorboard=/logs/"]) == ["tensorboard=/logs/run"]
    assert of(["tensorboard"]) == ["tensorboard=out/runs/run"], (
        "its own folder is the only place that is known to be of the run"
    )
    assert of(["mlflow=http://server", "wandb"]) == ["mlflow=http://server", "wandb"], "servers tell runs apart"
    assert of(["nothing=x"]) == ["nothing=x"]


def test_an_extra_stands_in_the_project_for_each_tracker():
    import tomllib

    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert tracking.TRACKERS.keys() <= project["project"]["optional-dependencies"].keys()


def test_a_misspelt_tracker_is_refused():
    with pytest.raises(UsageError, match="did you mean 'wandb'"), tracking.following(request("wandbb")):
        raise AssertionError("the work has begun")


class Broken(tracking.Tracker):
    package = "json"
    ended = 0

    def __init__(self, place: str | None, settings: Any) -> None: ...

    def log(self, step: int, values: Any) -> None:
        raise OSError("no route to host")

    def end(self) -> None:
        Broken.ended += 1


def test_a_tracker_that_fails_is_left_out_and_the_run_goes_on(monkeypatch, capsys):
    monkeypatch.setattr(tracking, "TRACKERS", {"broken": Broken})
    with tracking.following(request("broken")) as track:
        track(STEP)
        track(STEP)
    assert capsys.readouterr().err.count("no route to host") == 1
    assert Broken.ended == 1


def test_it_ends_with_a_run_that_is_refused(monkeypatch, tmp_path, capsys):
    tracker = Mock(package="json")
    monkeypatch.setattr(tracking, "TRACKERS", {"fake": tracker})
    monkeypatch.chdir(tmp_path)
    Path("net.onnx").write_bytes(small_nets.residual(8).SerializeToString())
    assert main(["prune", "net.onnx", "--macs", "1", "--no-train", "--track", "fake"]) == 2
    tracker.return_value.end.assert_called_once_with()
    assert tracker.call_args.args[0] is None
