"""Trackers: where else the history of a run goes. One row of ``TRACKERS`` each; the packages are extras.

A tracker that can't be had is refused before the work; one that fails on the way is left out from then on, with a message: no
training ends because a server can't be reached.
"""

from __future__ import annotations

import importlib.util
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, Protocol

from mcuprune import console, options
from mcuprune.errors import MissingExtra, UsageError, lacking
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

    takes: how a place is written after the name, for ``--help``. package: what has to be installed.
    """

    takes: ClassVar[str]
    package: ClassVar[str]

    @abstractmethod
    def __init__(self, place: str | None, settings: Mapping[str, Any]) -> None: ...

    @classmethod
    def of_several(cls, place: str | None, name: str, folder: str) -> str | None:
        """The place for one of several runs, by its name. folder: where its other files go."""
        return place

    @classmethod
    def folder(cls, place: str | None) -> str | None:
        """The folder that its files go to; None where it isn't known, or where there are none."""
        return None

    @classmethod
    def forgets(cls, place: str | None) -> bool:
        """Whether what it is told is lost with the folder that the run is made in, and the files of ``folder`` aren't all."""
        return False

    @abstractmethod
    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take in a line of the history."""

    @abstractmethod
    def end(self) -> None:
        """The run has ended, in whatever way."""


class TensorBoard(Tracker):
    """place: the folder of event files."""

    takes, package = "=DIR", "tensorboard"

    @classmethod
    def of_several(cls, place: str | None, name: str, folder: str) -> str | None:
        return folder if place is None else f"{place.rstrip('/') or '/'}/{name}"

    @classmethod
    def folder(cls, place: str | None) -> str | None:
        return place

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

    takes, package = "[=URI]", "mlflow"

    @classmethod
    def forgets(cls, place: str | None) -> bool:
        return not (place or os.environ.get("MLFLOW_TRACKING_URI", "")).startswith(("http:", "https:", "databricks"))

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

    takes, package = "[=PROJECT]", "wandb"

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
    refuse_lacking(request.track)
    settings = {name: value for name, value in options.document(request).items() if value not in (None, [])}
    opened: dict[str, Tracker] = {}
    try:
        for text in request.track:
            opened[text] = _opened(*_parts(text), {"model": request.model, **settings})

        def tell(step: Step) -> None:
            on_step(step)
            _log(opened, step)

        yield tell
    finally:
        for text, tracker in opened.items():
            _guarded(text, tracker.end)


def refuse_lacking(track: Sequence[str]) -> None:
    """Raise UsageError for a tracker that nobody knows, MissingExtra for one whose package isn't there. Nothing is begun."""
    for name, _ in map(_parts, track):
        if name not in TRACKERS:
            raise UsageError(f"--track {name}: unknown; {nearest(name, TRACKERS)}")
        try:
            if importlib.util.find_spec(TRACKERS[name].package) is None:
                raise MissingExtra(f"--track {name} needs {TRACKERS[name].package}, which isn't installed; {_install(name)}")
        except ValueError:  # it is imported already, and doesn't say from where
            continue


def _install(name: str) -> str:
    return f"pip install 'mcuprune[{name}]'"


def refuse_forgetful(track: Sequence[str], where: str) -> None:
    """Raise UsageError for a tracker that forgets what runs on other machines tell it. where: what sends them there."""
    for text in track:
        name, place = _parts(text)
        if name in TRACKERS and TRACKERS[name].forgets(place):
            raise UsageError(
                f"--track {text}: its files stay behind on the workers of {where}; name a server, {name}=http://..."
            )


def of_several(track: Sequence[str], name: str, folder: str) -> list[str]:
    """Trackers for one of several runs that all have these, so that none writes among the files of another.

    name, folder: of the run. Names of trackers that nobody knows are left as they are.
    """
    texts = []
    for text in track:
        tracker, place = _parts(text)
        own = TRACKERS[tracker].of_several(place, name, folder) if tracker in TRACKERS else place
        texts.append(tracker if own is None else f"{tracker}={own}")
    return texts


def folders(track: Sequence[str]) -> list[str]:
    """The folders that files of these trackers go to, as far as they are known."""
    known = [TRACKERS[name].folder(place) for name, place in map(_parts, track) if name in TRACKERS]
    return [folder for folder in known if folder is not None]


def _parts(text: str) -> tuple[str, str | None]:
    """Name and place of a tracker."""
    name, _, place = text.partition("=")
    return name, place or None


def _opened(name: str, place: str | None, settings: Mapping[str, Any]) -> Tracker:
    try:
        return TRACKERS[name](place, settings)
    except ImportError as error:
        raise lacking(f"--track {name}", error, _install(name)) from None
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


__all__: Sequence[str] = (
    "TRACKERS",
    "Tracker",
    "folders",
    "following",
    "of_several",
    "refuse_forgetful",
    "refuse_lacking",
    "values_of",
)
