"""One question about several models: which they are, what is read and written, and the answer of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from mcuprune import config, console, face, places
from mcuprune.cli.flags import current_folder
from mcuprune.config import Wanted
from mcuprune.costs import resources
from mcuprune.errors import McupruneError, UsageError
from mcuprune.graph import external, network
from mcuprune.places import Output, Source
from mcuprune.report.profile import Answer, Refused, Report, View


def paths(models: Sequence[str], settings: config.Config) -> list[str]:
    """The models to answer for: those that are named, else those of the configuration. Raises UsageError for none."""
    every = list(models or (path for path, _ in settings.models))
    if not every:
        where = f"; {settings.source} names none" if settings.source else ""
        raise UsageError(f"name a model: MODEL.onnx{where}")
    return every


def refuse_several(flag: str, value: object, paths: Sequence[str]) -> None:
    """Raise UsageError for a flag that is given and can only be about one model, where there are several."""
    if value is not None and len(paths) != 1:
        raise UsageError(f"{flag} goes with one model, not with {len(paths)}")


def load(path: str, wanted: Wanted) -> network.Network:
    """The network of a file as its wishes have it read."""
    return face.load(path, input_shapes=wanted.input_shapes, outputs=wanted.outputs)


def measure(path: str, wanted: Wanted) -> resources.Profile:
    """The costs of a file's network."""
    return face.profile(load(path, wanted), runtime=wanted.gate.runtime, board=wanted.gate.board)


def answers(command: Literal["profile", "check"], paths: Sequence[str], answer: Callable[[str], Answer], view: View) -> Report:
    """The answers of all models. One that is refused doesn't keep the others from theirs, nor any format from saying so."""
    every: list[Answer | Refused] = []
    for path in paths:
        try:
            every.append(answer(path))
        except McupruneError as error:
            every.append(Refused(path, type(error).__name__, str(error)))
            console.say(str(error))
        except Exception as error:  # a bug, which may be this model's alone
            every.append(Refused(path, *console.bug(error)))
    return Report(command, tuple(every), view)


def settle(
    outputs: Sequence[Output], wanted: Mapping[str, Wanted], settings: config.Config, others: Sequence[Source] = ()
) -> None:
    """Refuse outputs that would destroy a model, what it is compared with, the configuration, or others. Raises OutputError."""
    if outputs:
        current_folder()
        old = [Source("the model to compare with", asked.against) for asked in wanted.values() if asked.against is not None]
        models = [Source("a model of this command", path) for path in wanted] + old
        beside = [Source("external data of a model", file) for model in models for file in external.files(model.path)]
        places.settle(outputs, [*models, *beside, *_configured(settings), *others])


def _configured(settings: config.Config) -> list[Source]:
    """The configuration, and the models in it, whichever of them this command is about."""
    if settings.source is None:
        return []
    files = [path for path, _ in settings.models]
    return [
        Source("the configuration", str(settings.source)),
        *(Source("a model of the configuration", file) for file in files),
    ]
