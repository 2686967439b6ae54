"""What a reader gives: examples as they are stored, before anybody asks whether they fit a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: The parts of a data set in their order.
PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Part:
    """Examples that come together. inputs: a column, or what becomes an array, for each input. targets: for each output.

    targets is None for examples without labels.
    """

    inputs: tuple[Any, ...]
    targets: tuple[Any, ...] | None = None


@dataclass(frozen=True)
class Raw:
    """A data set as it is stored.

    where: what messages call it. parts: by PARTS; where there is no test or val part it is held out of train.
    classes: names in the order of labels, where the data has names. kind: "image", "audio", "series" or "".
    stored: the layout of the examples with their batch axis, such as NHWC; "" where their shape must tell.
    frontend: settings that turned sound into features. reader: the name of what has read it. notes: for the user.
    """

    where: str
    parts: Mapping[str, Part]
    classes: tuple[str, ...] = ()
    kind: str = ""
    stored: str = ""
    reader: str = ""
    frontend: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def labelled(self) -> bool:
        """Whether every part has targets."""
        return all(part.targets is not None for part in self.parts.values())
