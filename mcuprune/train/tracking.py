"""Trackers: where else the history of a run goes. One row of ``TRACKERS`` each; the packages are extras.

A tracker that can't be had is refused before the work; one that fails on the way is left out from then on, with a message: no
training ends because a server can't be reached.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, Protocol

from mcuprune import console, options
from mcuprune.errors import MissingExtra, UsageError
from mcuprune.options import nearest
from mcuprune.train.task import OnStep, Step


class Tracked(Protocol):
    """The options of a run, a dataclass."""

    @property
    def track(self) -> Sequence[str]:
        """Which trackers: each ``NAME`` or ``NAME=PLACE``."""

    @property
    def model(self) -> str:
        """The path of the model."""


class Tracker(ABC):
    """Takes in the history of one run. place: what stands after ``=``, None for the package's own default.

    takes: how a place is written after the name, for ``--help``.
    """

    takes: ClassVar[str]

    @abstractmethod
    def __init__(self, place: str | None, settings: Mapping[str, Any]) -> None: ...

    @abstractmethod
    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take in a line of the history."""

    @abstractmethod
    def end(self) -> None:
        """The run has ended, in whatever way."""


class TensorBoard(Tracker):
    """place: the folder of event files."""

    takes = "=DIR"

    def __init__(self, place: str | None, settings: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(place)
        self._writer.add_text("options", "  \n".join(f"{name}: {value}" for name, value in settings.items()))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def end(self) -> None:
        self._writer.close()


class MLflow(Tracker):
    """place: the tracking URI."""

    takes = "[=URI]"

    def __init__(self, place: str | None, settings: Mapping[str, Any]) -> None:
        import mlflow

        self._mlflow: Any = mlflow
        if place is not None:
            mlflow.set_tracking_uri(place)
        mlflow.start_run()
        mlflow.log_params(dict(settings))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(values), step=step)

    def end(self) -> None:
        self._mlflow.end_run()


class WeightsAndBiases(Tracker):
    """place: the project."""

    takes = "[=PROJECT]"

    def __init__(self, place: str | None, settings: Mapping[str, Any]) -> None:
        import wandb

        self._run: Any = wandb.init(project=place or "mcuprune", config=dict(settings))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def end(self) -> None:
        self._run.finish()


#: What ``--track`` takes before ``=``; each is an extra of the same name.
TRACKERS: Mapping[str, type[Tracker]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WeightsAndBiases}


@contextmanager
def following(request: Tracked, on_step: OnStep = lambda step: None) -> Iterator[OnStep]:
    """What tells each step to ``on_step`` and to the trackers that were asked for, which end with the block.

    Raises UsageError for one that nobody knows, MissingExtra for one whose package isn't there.
    """
    settings = {name: value for name, value in options.document(request).items() if value not in (None, [])}
    opened: dict[str, Tracker] = {}
    try:
        for text in request.track:
            name, _, place = text.partition("=")
            opened[text] = _opened(name, place or None, {"model": request.model, **settings})

        def tell(step: Step) -> None:
            on_step(step)
            _log(opened, step)

        yield tell
    finally:
        for text, tracker in opened.items():
            _guarded(text, tracker.end)


def _opened(name: str, place: str | None, settings: Mapping[str, Any]) -> Tracker:
    if name not in TRACKERS:
        raise UsageError(f"--track {name}: unknown; {nearest(name, TRACKERS)}")
    try:
        return TRACKERS[name](place, settings)
    except ImportError as error:
        lacking = error.name or name
        raise MissingExtra(f"--track {name} needs {lacking}, which isn't installed; pip install 'mcuprune[{name}]'") from None
    except Exception as error:  # of a package of others: a server that can't be reached, a project that may not be written
        raise UsageError(f"--track {name}: can't be begun ({_line(error)})") from None


def values_of(step: Step) -> dict[str, float]:
    """The numbers of a line of the history, by the names that trackers show."""
    values: dict[str, float] = {"loss": step.loss, "epoch": step.epoch, "training_macs": step.training_macs, **step.costs}
    figures = {"validation": step.score, "accuracy": step.accuracy}
    return values | {name: value for name, value in figures.items() if value is not None}


def _log(opened: dict[str, Tracker], step: Step) -> None:
    for text in [text for text, tracker in opened.items() if not _guarded(text, tracker.log, step.step, values_of(step))]:
        failed = opened.pop(text)
        with suppress(Exception):
            failed.end()


def _guarded(text: str, call: Callable[..., None], *arguments: Any) -> bool:
    """Whether a call of somebody else's package went well; what went wrong is said, and no more."""
    try:
        call(*arguments)
    except Exception as error:
        console.say(f"--track {text}: failed ({_line(error)}); the run goes on without it")
        return False
    return True


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


__all__: Sequence[str] = ("TRACKERS", "Tracker", "following", "values_of")
