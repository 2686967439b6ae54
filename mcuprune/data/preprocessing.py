"""How raw values become a network's input: layout, order of colours, scale, mean and deviation; as JSON data, never code.

    x = (raw * scale - mean) / std            with one mean and std, or one for each channel in the network's order

``raw`` is what a camera, a microphone or a file gives: pixels of 0...255. What is found once is written into the metadata
of the output, the report and the files for the firmware, so that the same values reach the network on the chip.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any

import numpy as np

from mcuprune.immutable import immutable

Array = np.ndarray[Any, Any]
#: The key of a model's metadata under which its preprocessing stands, as JSON.
KEY = "mcuprune.preprocessing"
#: The ranges that networks want pixels of 0...255 in -> scale and mean.
RANGES: Mapping[str, tuple[float, float]] = {
    "0-1": (1 / 255, 0.0),
    "0-255": (1.0, 0.0),
    "-1-1": (2 / 255, 1.0),
    "-128-127": (1.0, 128.0),
}
#: Layouts by the number of an input's axes, batch included: channels first, channels last.
LAYOUTS: Mapping[int, tuple[str, str]] = {4: ("NCHW", "NHWC"), 3: ("NCW", "NWC"), 2: ("NC", "NC")}
COLOURS = ("RGB", "BGR")
#: How many channels images have: grey, colours, colours and what is seen through.
IMAGE_CHANNELS = (1, 3, 4)
#: Metadata may be a stranger's: no more is read.
_LONGEST = 2**16


@immutable
class Preprocessing:
    """How raw values are fed. scale, mean, std: as above. layout: of the network's input, such as NCHW.

    colours: the order that the network takes colours in; "" where examples have no colours.
    found_by: "flag", "metadata", "trial", or "default" where nothing told. classes: names in the order of the outputs.
    reordered: (shape, order) of arrays whose elements lie in another order of axes: reshaped, then transposed.
    frontend: settings of what turns sound into features, by their names (``frontend.Settings``).
    """

    layout: str = ""
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    colours: str = ""
    found_by: str = "default"
    classes: tuple[str, ...] = ()
    reordered: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    frontend: Mapping[str, Any] = field(default_factory=dict)

    @property
    def plain(self) -> bool:
        """Whether values arrive as they are stored."""
        return (self.scale, set(self.mean), set(self.std)) == (1.0, {0.0}, {1.0}) and self.reordered is None

    @property
    def range(self) -> str:
        """The name of what pixels of 0...255 become, where it has one."""
        for name, (scale, mean) in RANGES.items():
            if math.isclose(scale, self.scale / self.std[0], rel_tol=1e-4) and all(
                math.isclose(mean, m / s, abs_tol=1e-3) for m, s in zip(self.mean, self.std, strict=False)
            ):
                return name
        return ""

    def document(self) -> dict[str, Any]:
        """JSON values."""
        values: dict[str, Any] = {
            "layout": self.layout,
            "scale": self.scale,
            "mean": list(self.mean),
            "std": list(self.std),
            "classes": list(self.classes),
            "found_by": self.found_by,
            "colours": self.colours,
            "range": self.range,
        }
        if self.reordered is not None:
            values["reordered"] = [list(part) for part in self.reordered]
        if self.frontend:
            values["frontend"] = dict(self.frontend)
        return values

    def text(self) -> str:
        """JSON text, for metadata."""
        return json.dumps(self.document(), separators=(",", ":"), allow_nan=False)

    def function(self, raw: tuple[int, ...], shape: tuple[int, ...], stored: str) -> Callable[[Array], Array]:
        """What turns raw examples (batch, *raw) into float32 (batch, *shape). stored: the layout of raw ones, if it differs."""
        last = self.layout.endswith("C")
        rank = len(raw) + 1
        order = None
        if stored and stored.endswith("C") != last and rank > 2:
            order = (0, *range(2, rank), 1) if last else (0, rank - 1, *range(1, rank - 1))
        flip = self.colours == "BGR"
        factor, offset = (np.asarray(each, np.float32) for each in self._affine())
        axes = (-1,) if last or not self.layout else (-1, *[1] * (len(shape) - 1))

        def apply(x: Array) -> Array:
            if self.reordered is not None:
                before, turn = self.reordered
                x = np.ascontiguousarray(x).reshape(len(x), *before).transpose(turn)
            if order is not None:
                x = x.transpose(order)
            x = np.ascontiguousarray(x).reshape(len(x), *shape)
            if flip:
                x = x[..., ::-1] if last else x[:, ::-1]
            with np.errstate(over="ignore"):  # what becomes infinite is refused when data is checked
                x = np.ascontiguousarray(x, dtype=np.float32)
            if (factor != 1).any() or (offset != 0).any():
                x = x * factor.reshape(axes) + offset.reshape(axes) if factor.size > 1 else x * factor[0] + offset[0]
            return x

        return apply

    def _affine(self) -> tuple[Array, Array]:
        """Factor and offset, one for all or one for each channel."""
        size = max(len(self.mean), len(self.std))
        mean, std = (np.broadcast_to(np.asarray(each, np.float64), size) for each in (self.mean, self.std))
        return self.scale / std, -mean / std


def layout_of(shape: tuple[int, ...]) -> str:
    """The likely layout of an input without its batch axis: channels are 1, 3 or 4 at one end, else they come first."""
    first, last = LAYOUTS.get(len(shape) + 1, ("", ""))
    if len(shape) == 3 and shape[-1] in IMAGE_CHANNELS and shape[0] not in IMAGE_CHANNELS:
        return last
    return first


def other_end(layout: str) -> str:
    """The layout that has its channels at the other end."""
    return next(pair[1 - pair.index(layout)] for pair in LAYOUTS.values() if layout in pair)


def from_document(document: Any, found_by: str = "metadata") -> Preprocessing | None:
    """The preprocessing that JSON values describe; None for anything that is none."""
    try:
        mean, std = (tuple(float(number) for number in document[key]) for key in ("mean", "std"))
        scale, layout = float(document["scale"]), str(document["layout"])
        classes = tuple(str(name)[:200] for name in document.get("classes", ()))
        colours = str(document.get("colours", ""))
        turned = document.get("reordered")
        reordered = None if turned is None else (tuple(map(int, turned[0])), tuple(map(int, turned[1])))
        frontend = document.get("frontend", {})
        frontend = {str(key): value for key, value in frontend.items() if isinstance(value, (int, float, str))}
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError):
        return None
    numbers = (*mean, *std, scale)
    if not (mean and std and all(map(math.isfinite, numbers)) and all(std) and scale):
        return None
    if layout not in ("", *(name for pair in LAYOUTS.values() for name in pair)) or colours not in ("", *COLOURS):
        return None
    return Preprocessing(layout, scale, mean, std, colours, found_by, classes, reordered, frontend)


def from_metadata(metadata: Mapping[str, str]) -> Preprocessing | None:
    """What a model's metadata say of its preprocessing under ``KEY``; None where they say nothing that can be read."""
    text = metadata.get(KEY, "")
    if not text or len(text) > _LONGEST:
        return None
    try:
        return from_document(json.loads(text))
    except (ValueError, RecursionError):
        return None
