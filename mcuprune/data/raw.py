"""What a reader gives: examples as they are stored, before anybody asks whether they fit a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

from mcuprune.data.sets import Boxes
from mcuprune.immutable import immutable

#: The parts of a data set in their order.
PARTS = ("train", "val", "test")


@immutable
class Part:
    """Examples that come together. inputs: a column, or what becomes an array, for each input. targets: for each output.

    targets is None for examples without labels.
    """

    inputs: tuple[Any, ...]
    targets: tuple[Any, ...] | None = None


@immutable
class Raw:
    """A data set as it is stored.

    where: what messages call it. parts: by PARTS; where there is no test or val part it is held out of train.
    classes: names in the order of labels, where the data has names. kind: "image", "audio", "series" or "".
    stored: the layout of the examples with their batch axis, such as NHWC; "" where their shape must tell.
    frontend: settings that turned sound into features. reader: the name of what has read it. notes: for the user.
    boxes: objects in the images of each part, where a detector's data has them. columns: what the data calls its targets, where
    it is a table.
    """

    where: str
    parts: Mapping[str, Part]
    classes: tuple[str, ...] = ()
    kind: str = ""
    stored: str = ""
    reader: str = ""
    frontend: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    boxes: Mapping[str, Boxes] = field(default_factory=dict)
    columns: tuple[str, ...] = ()

    @property
    def labelled(self) -> bool:
        """Whether every part has targets."""
        return all(part.targets is not None for part in self.parts.values())


@immutable
class Asked:
    """What a reader may know of the model and of what the user asked for.

    shape: of the model's first input without its batch axis. n_classes: of its first output. classes: the names of the
    model's classes, where they are known. seed: for what a reader draws. frontend: settings asked for that turn sound into
    features, as text.
    """

    shape: tuple[int, ...]
    n_classes: int
    classes: tuple[str, ...] = ()
    seed: int = 0
    frontend: str = ""


@immutable
class Reader:
    """One format. what: in words, for messages and docs. matches: whether a path holds it, by names alone.

    read: (path, asked) -> Raw. Raises DataError for what can't be read, MissingExtra where a package is needed.
    form: what else a user has to know, for docs alone, as markdown. names: the files that a file tells of, as it names them.
    """

    name: str
    what: str
    matches: Callable[[Path], bool]
    read: Callable[[Path, Asked], Raw]
    form: str = ""
    names: Callable[[Path], Sequence[str]] = lambda path: ()
