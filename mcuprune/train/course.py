"""What the course of a run depends on, in words and digests: whoever has the same may go on with it, or repeat it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from mcuprune import __version__, options
from mcuprune.data.columns import identify
from mcuprune.data.sets import Data
from mcuprune.errors import ModelError, UsageError, cause
from mcuprune.graph import external
from mcuprune.graph.network import Network
from mcuprune.train.request import Request
from mcuprune.units import Limit

#: What a course calls the digests of what was read.
MODEL, DATA = "content of the model", "content of the data"


def course(request: Request, net: Network | None, data: Data | None = None) -> dict[str, str]:
    """Everything that a run's course depends on, and nothing else, as texts by names that a person knows.

    Where it is computed is left out, though it changes last digits: what began on a GPU may go on where there is none, and
    every rank has a GPU of its own.

    net: of a network in memory. data: what was read; without it only how it was named counts.
    """
    texts = {"version of mcuprune": __version__}
    of = {option.name: option for option in options.of(Request)}
    for name, value in options.course_of(request):
        if name == "device":
            continue
        texts[of[name].flag if name in of else name.replace("_", " ")] = _told(value)
    texts[MODEL] = model_digest(request, net)
    texts[DATA] = data_digest(data)
    return texts


def model_digest(request: Request, net: Network | None) -> str:
    """A hash of the network that is pruned and of its teacher's file, external data included, in hexadecimal.

    Raises ModelError where a file can't be read.
    """
    model = hashlib.sha256()
    networks = [*([request.model] if net is None else []), *([request.teacher] if request.teacher else [])]
    for file in [file for path in networks for file in (path, *external.files(path))]:
        model.update(hashlib.sha256(_content(file)).digest())
    if net is not None:
        model.update(net.to_proto().SerializeToString(deterministic=True))
    return model.hexdigest()


def _content(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except (OSError, ValueError) as error:
        raise ModelError(f"{file}: can't be read ({cause(error)}); name a file that is there and may be read") from None


def data_digest(data: Data | None) -> str:
    """A hash of all examples and targets as they reach the network, in hexadecimal."""
    held = hashlib.sha256()
    for split in (data.train, data.val, data.test) if data else ():  # the test set says whether a network comes trained
        for column in (*split.inputs, *(split.targets or ())):
            identify(column, held)
    return held.hexdigest()


def contents(of: Mapping[str, str], data: Data | None) -> dict[str, str | None]:
    """The digests of a course by what they are of, ``model`` and ``data``; None for data where none was read."""
    return {"model": of[MODEL], "data": of[DATA] if data else None}


def refuse_changed(request: Request, net: Network | None, data: Data | None) -> None:
    """Raise UsageError where a run that is to be repeated would read another model or other data than it did."""
    if request.repeats is None:
        return
    wanted, report = request.repeats.contents, request.repeats.report
    if "model" in wanted and wanted["model"] != model_digest(request, net):
        raise UsageError(
            f"{request.model}: is not the model that {report} is about: its content is another; "
            "name it on the command line to prune it all the same"
        )
    if data is not None and "data" in wanted and wanted["data"] != data_digest(data):
        raise UsageError(
            f"{request.data}: is not the data that {report} is about: its content is another; "
            "give --data to take it all the same"
        )


def _told(value: object) -> str:
    """An option's value as people write it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_told(part)}" for name, part in value.items())
    if isinstance(value, Limit):
        return f"{value.value * 100}%" if value.relative else f"{value.value}"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
