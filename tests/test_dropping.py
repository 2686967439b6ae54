"""The smallest network above a floor: bisection, what is kept of it, and going on after an interrupt."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tasks_data

from mcuprune import dropping, pruning
from mcuprune.errors import BudgetError, OutputError, UsageError
from mcuprune.pruning import Request
from mcuprune.report import prune as outcome
from mcuprune.result import Figures, Result
from mcuprune.run.layer_noise import Int8Layers, LayerNoise
from mcuprune.train.tasks.metrics import Metric

NET = tasks_data.vector_net(2)
ARRAYS = tasks_data.split(tasks_data.curves, 64, 32)

LAYERS = Int8Layers(32, (LayerNoise("fc", "y", 40.0, None),))


def request(folder: Path, **wishes: Any) -> Request:
    return Request("net.onnx", {}, str(folder / "o.onnx"), **{"max_drop": "1%", "minimise": "macs", "epochs": 1, **wishes})


def figure(value: float) -> Metric:
    return Metric("accuracy", "accuracy", value)


class Runs:
    """Prunes whose accuracy depends on the limit alone: right up to ``floor`` MACs, and no cut below ``least``."""

    def __init__(self, floor: int, least: int = 0) -> None:
        self.floor, self.least = floor, least
        self.limits: list[int] = []
        self.starts: list[Any] = []

    def __call__(self, asked: Request, *given: Any, start: Any = None, **more: Any) -> Result:
        limit = int(asked.limits["macs"].value)
        self.limits.append(limit)
        self.starts.append(start)
        if limit < self.least:
            raise BudgetError("no cut is so small")
        plain = replace(asked, train=False, max_drop=None, minimise=None, data=None)
        result = pruning_prune(plain, net=NET)
        used = result.after.total["macs"]
        after = figure(0.95 if used >= self.floor else 0.5)
        figures = Figures("classify", "", True, figure(0.95), after, after, after)
        return replace(result, figures=figures, data="d", int8_layers=LAYERS)


pruning_prune = pruning.prune


def searched(runs: Runs, folder: Path, monkeypatch: pytest.MonkeyPatch, **wishes: Any) -> Result:
    monkeypatch.setattr(pruning, "prune", runs)
    return dropping.prune(request(folder, **wishes), net=NET, data_set=ARRAYS)


def test_a_drop_to_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"accuracy of the model as it came is 95.0%, so that every network holds"):
        searched(Runs(500), tmp_path, monkeypatch, max_drop="96%")


@pytest.mark.parametrize("share", [0.2, 0.4, 0.7, 0.95])
def test_the_smallest_network_above_the_floor_is_found(share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = 608
    runs = Runs(round(share * whole))
    result = searched(runs, tmp_path, monkeypatch)
    assert result.ok
    assert result.bisection is not None
    used = result.after.total["macs"]
    assert runs.floor <= used <= 1.25 * runs.floor  # close, and the widths are integers
    below = [stage.limit for stage in result.bisection.stages if not stage.holds]
    assert all(limit < used for limit in below)
    best = next(stage for stage in result.bisection.stages if stage.number == result.bisection.best)
    assert Path(str(best.path)).read_bytes() == Path(result.request.output).read_bytes()


def test_stages_start_from_the_smallest_network_that_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs(120)
    searched(runs, tmp_path, monkeypatch)
    assert runs.limits[:3] == [608, 304, runs.limits[2]]
    assert runs.starts[0] is None
    assert runs.starts[1] is None  # the whole network is nothing to start from
    assert runs.starts[2] is not None
    assert pruning.resources.profile(runs.starts[2].network).total["macs"] <= 304


def test_a_budget_that_no_cut_holds_is_a_bound_and_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = searched(Runs(0, least=200), tmp_path, monkeypatch)
    assert result.ok
    assert result.bisection is not None
    assert [stage for stage in result.bisection.stages if stage.used is None]
    assert "no cut is so small" in outcome.text(outcome.document(result))


def test_where_nothing_is_above_the_floor_the_answer_is_no(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = searched(Runs(10_000), tmp_path, monkeypatch)
    assert not result.ok
    assert result.bisection is not None
    assert result.bisection.best is None
    assert any("above the floor" in note for note in result.notes)
    assert Path(result.request.output).exists()


def test_a_search_goes_on_with_the_stage_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Runs(200)
    expected = searched(whole, tmp_path / "a", monkeypatch)
    first = Runs(200)

    class Stopped(Exception):
        pass

    def stopping(asked: Request, *given: Any, **more: Any) -> Result:
        if len(first.limits) == 3:
            raise Stopped
        return first(asked, *given, **more)

    monkeypatch.setattr(pruning, "prune", stopping)
    with pytest.raises(Stopped):
        dropping.prune(request(tmp_path / "b"), net=NET, data_set=ARRAYS)
    rest = Runs(200)
    result = searched(rest, tmp_path / "b", monkeypatch, resume=True)
    assert first.limits + rest.limits == whole.limits
    assert result.bisection is not None
    assert expected.bisection is not None
    assert [s.limit for s in result.bisection.stages] == [s.limit for s in expected.bisection.stages]
    assert Path(result.request.output).read_bytes() == Path(expected.request.output).read_bytes()


def test_what_was_measured_in_an_earlier_sitting_is_in_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searched(Runs(200), tmp_path, monkeypatch)
    result = searched(Runs(200), tmp_path, monkeypatch, resume=True)  # nothing is left to do but to measure
    assert result.int8_layers == LAYERS


def test_another_search_is_not_taken_up_and_says_what_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searched(Runs(200), tmp_path, monkeypatch)
    with pytest.raises(UsageError, match="--max-drop was 1%, is 2%"):
        searched(Runs(200), tmp_path, monkeypatch, max_drop="2%", resume=True)


@pytest.mark.parametrize(
    "content",
    ["", "[" * 100_000, '{"mcuprune": "bisection"}', '{"mcuprune": "bisection", "of": 7}', "CHANGED"],
    ids=["empty", "deep", "no keys", "no table", "a stage without its groups"],
)
def test_a_damaged_record_is_a_message_and_no_work_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    searched(Runs(200), tmp_path, monkeypatch)
    (place,) = (tmp_path / "o.onnx.stages").glob("*.json")
    if content == "CHANGED":
        found = json.loads(place.read_text())
        del found["tried"][0]["groups"]
        content = json.dumps(found)
    place.write_text(content)
    runs = Runs(200)
    with pytest.raises(UsageError, match=r"is no whole record of a search.*leave --resume out"):
        searched(runs, tmp_path, monkeypatch, resume=True)
    assert runs.limits == []
    assert place.read_text() == content


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "o.onnx.stages").mkdir()
    (tmp_path / "o.onnx.stages" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="something else is there"):
        searched(Runs(200), tmp_path, monkeypatch)
    assert (tmp_path / "o.onnx.stages" / "thesis.txt").exists()


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        ({"minimise": None}, "--max-drop alone: give --minimise flash too"),
        ({"max_drop": None}, "--minimise alone: give --max-drop 1% too"),
        ({"max_drop": "1"}, "did you mean 1%"),
        ({"max_drop": "a bit"}, "is not a share"),
        ({"train": False}, "--max-drop, --no-train"),
    ],
)
def test_half_a_wish_is_refused(wishes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        dropping.prune(request(tmp_path, **wishes), net=NET, data_set=ARRAYS)
    assert not list(tmp_path.iterdir())


def test_a_whole_search_trains_and_tells_how_it_went(tmp_path: Path) -> None:
    arrays = tasks_data.split(tasks_data.yes_or_no, 128, 64)
    asked = request(tmp_path, max_drop="20%", epochs=2, batch=16, report=str(tmp_path / "told"))
    result = dropping.prune(asked, net=tasks_data.vector_net(1, "Sigmoid"), data_set=arrays)
    document = outcome.document(result)
    bisection = document["bisection"]
    assert len(bisection["stages"]) >= 3
    held = [stage["used"] for stage in bisection["stages"] if stage["holds"]]
    assert document["after"]["total"]["macs"] == min(held)
    widths = {group["name"]: group for group in document["groups"]}
    assert all(group["before"] in (16, 24) for group in widths.values())  # of the network as it came, not of a stage's
    assert all(len(group["kept"]) == group["after"] for group in widths.values())
    assert all(min(group["kept"]) >= 0 and max(group["kept"]) < group["before"] for group in widths.values())
    text = outcome.text(document)
    assert all(f"{stage['share']:.0%}" in text for stage in bisection["stages"] if stage["used"])
    assert "Budgets that were tried" in outcome.markdown(document)
    assert np.isfinite(json.loads(json.dumps(bisection))["floor"])
