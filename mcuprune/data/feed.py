"""What is said of how examples are fed: by options that several commands share, and by the metadata of models."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mcuprune import options
from mcuprune.data import frontend
from mcuprune.data.preprocessing import COLOURS, LAYOUTS, RANGES, Preprocessing, from_metadata, layout_of
from mcuprune.data.trees import read_list
from mcuprune.errors import DataError, UsageError
from mcuprune.immutable import immutable
from mcuprune.options import nearest, option

_LAYOUTS = tuple(dict.fromkeys(name for pair in LAYOUTS.values() for name in pair))
#: Keys under which tools of others write class names, and the most characters that are read of them.
_NAMES, _LONGEST = ("names", "classes", "class_names", "labels"), 2**16


#: No number of a formula that anybody feeds by is larger, or, but for 0, smaller; beyond, single precision would overflow.
_MOST = 1e15


def _numbers(flag: str, text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(map(math.isfinite, values)) or len(values) > 4096:
        raise UsageError(f"{flag}: {text!r} is no list of numbers; write one, or one a channel: 0.485,0.456,0.406")
    if any(value and not 1 / _MOST <= abs(value) <= _MOST for value in values):
        raise UsageError(f"{flag}: {text!r} has a number that values would overflow by; write 0, or 1e-15 to 1e15")
    return values


def _mean(text: str) -> tuple[float, ...]:
    return _numbers("--mean", text)


def _std(text: str) -> tuple[float, ...]:
    deviations = _numbers("--std", text)
    if 0 in deviations:
        raise UsageError("--std: a deviation of 0 leaves nothing of the values")
    return deviations


def scale_and_mean(text: str) -> tuple[float, float]:
    """Scale and mean of a range's name, or of a number, whose mean is 0. Raises UsageError for anything else."""
    if text in RANGES:
        return RANGES[text]
    try:
        scale = float(text)
    except ValueError:
        scale = 0.0
    if not 1 / _MOST <= abs(scale) <= _MOST:
        raise UsageError(f"--scale: {text!r} is unknown; write {', '.join(RANGES)}, or what to multiply by, such as 0.00392")
    return scale, 0.0


@immutable(kw_only=True)
class Feed:
    """How raw values become the network's input, x = (raw * scale - mean) / std, as far as somebody says so."""

    scale: str | None = option(
        None,
        help="What pixels of 0...255 become, or the number that raw values are multiplied by; found by trial else.",
        group="Data",
        metavar=f"{'|'.join(RANGES)}|X",
        check=scale_and_mean,
        needs="data",
    )
    mean: str | None = option(
        None,
        help="Subtracted after scaling; one number, or one a channel.",
        group="Data",
        metavar="X,...",
        check=_mean,
        needs="data",
    )
    std: str | None = option(
        None, help="Divided by at last; as --mean.", group="Data", metavar="X,...", check=_std, needs="data"
    )
    layout: str | None = option(
        None, help="Of the model's input, where its shape doesn't tell.", group="Data", choices=_LAYOUTS, needs="data"
    )
    colours: str | None = option(
        None, help="The order that the model takes colours in.", group="Data", choices=COLOURS, needs="data"
    )
    classes: str | None = option(
        None, help="Names of the model's classes in their order, one a line.", group="Data", metavar="FILE", needs="data"
    )
    frontend: str | None = option(
        None,
        help="What turns sound into features: mfcc or logmel, and settings; found by the model's input else.",
        group="Data",
        metavar="mfcc,NAME=N,...",
        check=frontend.parsed,
        needs="data",
    )


def said(feed: Feed) -> dict[str, Any]:
    """The options of feeding that an object has, by the names of fields, to hand them on."""
    return {option.name: getattr(feed, option.name) for option in options.of(Feed)}


def of_keywords(function: str, given: Mapping[str, Any]) -> Feed:
    """What a script says by keywords of ``function``. Raises UsageError for one that isn't known, or has a wrong value."""
    known = [option.name for option in options.of(Feed)]
    for name in given:
        if name not in known:
            raise UsageError(f"{function}: no option {name!r}; {nearest(name, known)}")
    feed = Feed(**{**given, **options.plain(Feed, given)})
    options.check(feed)
    return feed


def flags_given(feed: Feed) -> list[str]:
    """The flags of what is said, as one types them."""
    return [option.flag for option in options.without_effect(Feed(**said(feed)), "data")]


def class_names(feed: Feed, metadata: Mapping[str, str]) -> tuple[str, ...]:
    """The names of a model's classes: of the file that is named, of our own metadata, or of what other tools write.

    Raises DataError for a file that is no list of names.
    """
    if feed.classes is not None:
        return read_list(Path(feed.classes))
    own = from_metadata(metadata)
    if own is not None and own.classes:
        return own.classes
    for key in _NAMES:
        if names := _names(metadata.get(key, "")):
            return names
    return ()


def _names(text: str) -> tuple[str, ...]:
    """Names in JSON, in a Python literal such as {0: 'cat'}, or between commas; nothing of what is none of them."""
    if not text or len(text) > _LONGEST:
        return ()
    parsed: Any = None
    for parse in (json.loads, ast.literal_eval):  # neither runs code that the text may hold
        try:
            parsed = parse(text)
            break
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
    if isinstance(parsed, Mapping):
        try:
            pairs = sorted((int(key), str(name)) for key, name in parsed.items())
        except (ValueError, TypeError):
            return ()
        return tuple(name for _, name in pairs) if [key for key, _ in pairs] == [*range(len(pairs))] else ()
    if isinstance(parsed, (list, tuple)) and all(isinstance(name, str) for name in parsed):
        return tuple(parsed)
    if parsed is None and "," in text:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return ()


def preprocessing(feed: Feed, metadata: Mapping[str, str], shape: tuple[int, ...]) -> Preprocessing | None:
    """What flags say, else what metadata say; None where neither does.

    shape: of the model's input without its batch axis. Raises UsageError for a layout of another number of axes, DataError for
    numbers a channel of other channels.
    """
    possible = LAYOUTS.get(len(shape) + 1, ())
    if feed.layout is not None and feed.layout not in possible:
        fits = f"its layout is {' or '.join(possible)}" if possible else "no layout has so many; leave --layout out"
        raise UsageError(f"--layout {feed.layout}: the model's input has {len(shape) + 1} axes, the batch among them: {fits}")
    stated = from_metadata(metadata) or _of_others(metadata)
    if stated is not None and not stated.layout:
        stated = replace(stated, layout=layout_of(shape))
    asked = (feed.scale, feed.mean, feed.std, feed.layout, feed.colours)
    if any(value is not None for value in asked):
        base = stated or Preprocessing()
        scale, mean = (base.scale, None) if feed.scale is None else scale_and_mean(feed.scale)
        default_mean = base.mean if mean is None else (mean,)
        stated = replace(
            base,
            layout=feed.layout or layout_of(shape),
            scale=scale,
            mean=_mean(feed.mean) if feed.mean is not None else default_mean,
            std=_std(feed.std) if feed.std is not None else (base.std if feed.scale is None else (1.0,)),
            colours=feed.colours or base.colours,
            found_by="flag",
        )
    if stated is None:
        return None
    channels = {"C": shape[-1]}.get(stated.layout[-1:], shape[0] if stated.layout else 0)
    for name, values in (("mean", stated.mean), ("std", stated.std)):
        if len(values) not in (1, channels):
            flag = f"--{name}" if stated.found_by == "flag" else f"the file's {name}"
            raise DataError(f"{flag} of {len(values)} numbers, but the model's input {list(shape)} has {channels} channels")
    return stated


def only_layout(feed: Feed) -> bool:
    """Whether flags leave open how values are scaled."""
    return (feed.scale, feed.mean, feed.std) == (None, None, None)


def _of_others(metadata: Mapping[str, str]) -> Preprocessing | None:
    """What keys of other tools say: Windows ML's image metadata, Ultralytics' exports, and mean, std and scale by name."""
    ranges = {"normalized_0_1": "0-1", "normalized_1_1": "-1-1", "nominalrange_0_255": "0-255"}
    named = ranges.get(metadata.get("Image.NominalPixelRange", "").lower())
    colours = metadata.get("Image.BitmapPixelFormat", "").upper()[:3]
    colours = colours if colours in COLOURS else ""
    if named is None and "ultralytics" in f"{metadata.get('author', '')}{metadata.get('description', '')}".lower():
        named = "0-1"
    try:
        mean, std = (_numbers(key, metadata[key].strip("[]() ")) if key in metadata else None for key in ("mean", "std"))
        scale = float(metadata["scale"]) if "scale" in metadata else None
    except (UsageError, ValueError):
        mean = std = scale = None
    if named is None and not (mean and std and all(std)):
        return None
    low, offset = RANGES[named or "0-1"]
    if mean and std and all(std):
        return Preprocessing("", scale or (low if max(map(abs, mean)) <= 1 else 1.0), mean, std, colours, "metadata")
    return Preprocessing("", low, (offset,), (1.0,), colours, "metadata")
