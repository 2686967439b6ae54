"""An accuracy floor instead of a budget: the smallest network that loses no more than was allowed.

Budgets of the resource to minimise are bisected. Each stage is a whole prune to one budget, begun from the smallest network so
far that stays above the floor and taught by the network as it came; its figure is that of the written file on the test set.
Several networks are held against one floor on the same examples, so the one that is taken is a little worse on others, on
average.

Every stage's files stay in the folder ``OUTPUT.stages``, and what is known of them in ``stages.json`` there: a search that was
interrupted goes on with the stage, and inside it with the epoch, where it stopped.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from mcuprune import foreign, places, preparing, pruning
from mcuprune.costs import resources
from mcuprune.data.sets import Given
from mcuprune.errors import BudgetError, OutputError, UsageError
from mcuprune.graph import network
from mcuprune.graph.network import Network
from mcuprune.immutable import immutable
from mcuprune.operators import table as ops
from mcuprune.pruning import OnStart
from mcuprune.result import Bisection, GroupResult, Result, Stage, Start
from mcuprune.run.layer_noise import Int8Layers
from mcuprune.train import ranks, tracking
from mcuprune.train.checkpoint import differences
from mcuprune.train.course import course
from mcuprune.train.request import Request, check, drop
from mcuprune.train.task import OnStep
from mcuprune.units import Limit

#: The search ends where the smallest budget that is known to hold is within this factor of the largest that is known not to,
#: and after so many stages at the latest.
_CLOSE, _STAGES = 1.1, 8
#: The state of a search, in the folder of its stages.
_STATE = "stages.json"

#: What is told when a stage begins: its number and its limit.
OnStage = Callable[[int, int], None]


def prune(
    request: Request,
    on_step: OnStep = lambda step: None,
    *,
    net: Network | None = None,
    data_set: Given | None = None,
    on_stage: OnStage = lambda number, limit: None,
    on_start: OnStart = lambda budget, used: None,
) -> Result:
    """What ``pruning.prune`` does, and with ``request.max_drop`` the search for the smallest network above the floor.

    The trackers of ``request.track`` follow all of it; on_step: what is told each step before them.
    on_stage, on_start: told when a stage of the search begins, and before the work of each prune.
    Raises what ``pruning.prune`` and ``tracking.following`` raise; BudgetError where no stage of a search could be finished.
    """
    with tracking.following(request, on_step) as tell:
        return _pruned(request, tell, net, data_set, on_stage, on_start)


def _pruned(
    request: Request, on_step: OnStep, net: Network | None, data_set: Given | None, on_stage: OnStage, on_start: OnStart
) -> Result:
    """What ``prune`` returns, without trackers."""
    if request.max_drop is None or request.minimise is None:
        return pruning.prune(request, on_step, net=net, data_set=data_set, on_start=on_start)
    check(request)
    if request.resume and ranks.size() > 1:
        raise UsageError("--max-drop, --resume: a search is resumed by one process; start it without torchrun")
    return _Bisecting(request, on_step, on_stage, on_start, net, data_set).result()


@immutable
class _Tried:
    """A finished stage, and what the next can start from: the float network's file, and what is left of the groups."""

    stage: Stage
    groups: tuple[GroupResult, ...]
    floats: str | None
    training_macs: int = 0
    full_training_macs: int = 0
    history: Sequence[Any] = ()
    notes: Sequence[str] = ()
    int8_layers: Mapping[str, Any] | None = None


class _Bisecting:
    def __init__(
        self,
        request: Request,
        on_step: OnStep,
        on_stage: OnStage,
        on_start: OnStart,
        net: Network | None,
        data_set: Given | None,
    ) -> None:
        assert request.minimise is not None
        assert request.max_drop is not None
        self._request, self._on_step, self._on_stage, self._data = request, on_step, on_stage, data_set
        self._on_start = on_start
        self._minimise, self._drop = request.minimise, drop(request.max_drop)
        self._net = net or network.load(
            request.model, input_shapes=request.input_shapes, outputs=request.outputs, accept=ops.accept(request.model)
        )
        self._own = resources.profile(self._net, request.basis).used(request.basis)[request.minimise]
        self._folder = Path(f"{request.output}.stages")
        self._tried: list[_Tried] = []
        self._results: dict[int, Result] = {}
        self._floor: float | None = None
        self._score: Callable[[float], float] = lambda value: value
        self._seconds = 0.0
        self._began = time.monotonic()

    def result(self) -> Result:
        """Search, copy the network that was found to the output, and tell how it was found."""
        outputs = preparing.planned(self._request)
        places.distinct(outputs, preparing.sources(self._request))
        for output in outputs:
            places.probe(output)
        self._take_up()
        while (limit := self._next()) is not None:
            self._try(limit)
        held = [tried for tried in self._tried if tried.stage.holds]
        finished = [tried for tried in self._tried if tried.stage.used is not None]
        if not finished:
            raise BudgetError(f"{self._request.model}: no stage of the search could be finished")
        best = min(held, key=lambda tried: tried.stage.used or 0) if held else max(finished, key=self._quality)
        taken = self._measured(best)
        places.write_bytes(Path(str(best.stage.path)).read_bytes(), self._request.output)
        assert self._floor is not None
        stages = [tried.stage for tried in self._tried]
        bisection = Bisection(self._minimise, self._drop, self._floor, stages, best.stage.number if held else None)
        after, written = replace(taken.after, path=self._request.output), replace(taken.network, path=self._request.output)
        seconds = self._seconds + time.monotonic() - self._began
        notes = taken.notes
        if not held:
            notes = (*notes, "no network that was tried is above the floor; try more --epochs, or a larger --max-drop")
        return replace(
            taken,
            request=self._request,
            asked=self._request,
            after=after,
            network=written,
            bisection=bisection,
            seconds=seconds,
            training_macs=sum(tried.training_macs for tried in self._tried),
            full_training_macs=sum(tried.full_training_macs for tried in self._tried),
            notes=notes,
        )

    def _quality(self, tried: _Tried) -> float:
        return self._score(tried.stage.figure or 0.0)

    def _next(self) -> int | None:
        """The limit to try next, in base units; None where the search has ended."""
        holds = [tried.stage.used for tried in self._tried if tried.stage.holds and tried.stage.used is not None]
        high = min(holds, default=self._own)
        low = max((tried.stage.limit for tried in self._tried if not tried.stage.holds), default=0)
        if not self._tried:
            return self._own  # quantised and not cut: whether the floor can be held at all
        if len(self._tried) >= _STAGES or low >= high or (low and high <= _CLOSE * low):
            return None
        middle = round(math.sqrt(low * high)) if low else high // 2
        return middle if 0 < middle < high else None

    def _try(self, limit: int) -> None:
        number = len(self._tried) + 1
        self._on_stage(number, limit)
        smallest = min((t for t in self._tried if t.stage.holds), key=lambda t: t.stage.used or 0, default=None)
        try:
            result = self._pruned(number, limit, smallest)
        except BudgetError:
            if limit == self._own:
                raise
            self._keep(_Tried(Stage(number, limit / self._own, limit, None, None, False, None), (), None))
            return
        if result.figures is None:
            raise UsageError(f"{self._request.model}: --max-drop needs --data: what a network loses is measured on it")
        before, after = result.figures.before, result.figures.after
        if before.unit == "share" and before.floor(self._drop) <= 0:
            raise UsageError(
                f"{self._request.model}: --max-drop {self._request.max_drop}: {before.title} of the model as it came is "
                f"{before.shown()}, so that every network holds; allow less, or train it first"
            )
        sign = 1.0 if before.better == "higher" else -1.0
        self._score = lambda value: sign * value
        self._floor = sign * before.floor(self._drop)
        floats = self._folder / f"stage-{number}.float.onnx"
        result.float_network.save(floats)
        used = result.after.used(self._request.basis)[self._minimise]
        holds = after.score >= before.floor(self._drop) and result.ok
        stage = Stage(number, limit / self._own, limit, used, after.value, holds, str(self._folder / f"stage-{number}.onnx"))
        self._results[number] = result
        cost = result.training_macs, result.full_training_macs
        history = [asdict(step) for step in result.history]
        layers = None if result.int8_layers is None else result.int8_layers.document()
        self._keep(_Tried(stage, result.groups, str(floats), *cost, history, result.notes, layers))

    def _pruned(self, number: int, limit: int, smallest: _Tried | None) -> Result:
        """One stage's prune."""
        out = str(self._folder / f"stage-{number}.onnx")
        request = replace(
            self._request,
            limits={**self._request.limits, self._minimise: Limit(Fraction(limit), relative=False)},
            output=out,
            report=None,
            max_drop=None,
            minimise=None,
            resume=self._request.resume and os.path.exists(f"{out}.checkpoint"),
        )
        start = None
        if smallest is not None and smallest.floats is not None and smallest.stage.number > 1:
            start = Start(network.load(smallest.floats, accept=ops.accept(smallest.floats)), smallest.groups)
        return pruning.prune(request, self._on_step, net=self._net, data_set=self._data, start=start, on_start=self._on_start)

    def _measured(self, best: _Tried) -> Result:
        """The result of the stage that was taken; one of an earlier sitting is measured again, which trains nothing."""
        number = best.stage.number
        if number in self._results:
            return self._results[number]
        assert best.floats is not None
        start = Start(network.load(best.floats, accept=ops.accept(best.floats)), best.groups)
        request = replace(
            self._request,
            limits={**self._request.limits, self._minimise: Limit(Fraction(best.stage.limit), relative=False)},
            output=str(best.stage.path),
            report=None,
            max_drop=None,
            minimise=None,
            resume=False,
        )
        return pruning.remeasured(
            request,
            net=self._net,
            data_set=self._data,
            start=start,
            history=best.history,
            notes=best.notes,
            int8_layers=None if best.int8_layers is None else Int8Layers.of_document(best.int8_layers),
        )

    # ------------------------------------------------------------------------------------------------------------- state

    def _identity(self) -> dict[str, str]:
        return course(self._request, self._net)

    def _keep(self, tried: _Tried) -> None:
        self._tried.append(tried)
        state: dict[str, Any] = {
            "mcuprune": "bisection",
            "of": self._identity(),
            "floor": self._floor,
            "better": "higher" if self._score(1.0) > 0 else "lower",
            "seconds": self._seconds + time.monotonic() - self._began,
            "tried": [asdict(attempt) for attempt in self._tried],
        }
        places.write_bytes(foreign.dumped(state).encode(), self._folder / _STATE)

    def _take_up(self) -> None:
        """The stages of an interrupted search with ``--resume``; without it they are cleared away."""
        state = _state_in(self._folder)
        if not self._request.resume:
            _clear(self._folder, state)
            return
        place = self._folder / _STATE
        anew = "leave --resume out to start anew"
        if state is None:
            if os.path.lexists(place):
                raise UsageError(f"{place}: is no whole record of a search; {anew}")
            return
        try:
            differing = differences(state["of"], self._identity())
            floor, seconds = float(state["floor"]), float(state["seconds"])
            sign = 1.0 if state["better"] == "higher" else -1.0
            earlier = [_tried_before(tried) for tried in state["tried"]]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            said = f"{type(error).__name__}: {error}"
            raise UsageError(f"{place}: is no whole record of a search ({said}); {anew}") from None
        if differing:
            raise UsageError(f"{place}: is of another search: {differing}; {anew}")
        self._floor, self._seconds, self._score = floor, seconds, lambda value: sign * value
        self._tried += earlier


def _tried_before(tried: Mapping[str, Any]) -> _Tried:
    """A stage as it was stored. Raises KeyError, TypeError or ValueError where it is none."""
    groups = tuple(GroupResult(g["name"], g["before"], g["after"], tuple(g["kept"])) for g in tried["groups"])
    return _Tried(**{**tried, "stage": Stage(**tried["stage"]), "groups": groups})


def _state_in(folder: Path) -> dict[str, Any] | None:
    """What an earlier search left in a folder; None where there is none. Raises OutputError for a folder of something else."""
    if not os.path.lexists(folder):
        return None
    try:
        state = foreign.read(folder / _STATE)
        if state["mcuprune"] == "bisection":
            return dict(state)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    if folder.is_dir() and all(_is_ours(path) for path in folder.iterdir()):
        return None  # the first stage was interrupted
    raise OutputError(f"{folder}: stages of this search go there, and something else is there; move it, or name another -o")


def _is_ours(path: Path) -> bool:
    return path.name == _STATE or (path.name.startswith("stage-") and ".onnx" in path.name)


def _clear(folder: Path, state: dict[str, Any] | None) -> None:
    if folder.exists():
        files: Sequence[Path] = [path for path in folder.iterdir() if _is_ours(path) and path.is_file()]
        for path in files:
            path.unlink()
