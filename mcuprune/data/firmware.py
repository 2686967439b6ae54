"""Preprocessing in words, and as constants that firmware in C takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mcuprune.data.preprocessing import Preprocessing


def formula(how: Mapping[str, Any]) -> str:
    """Preprocessing in words: layout, order of colours, and the arithmetic."""
    words = [how["layout"] or "as it lies", *([how["colours"]] if how["colours"] else [])]
    if (how["scale"], how["mean"], how["std"]) == (1.0, [0.0], [1.0]):
        words.append("values as they are stored")
    else:
        scaled = f"raw * {how['scale']:.6g}" if how["scale"] != 1 else "raw"
        shifted = f"({scaled} - {few(how['mean'])})" if any(how["mean"]) else scaled
        words.append(f"x = {shifted}" + (f" / {few(how['std'])}" if any(deviation != 1 for deviation in how["std"]) else ""))
    if how["range"] and how["scale"] != 1:
        words.append(f"range {how['range']}")
    if how.get("reordered"):
        shape, order = how["reordered"]
        words.append(f"reshaped to {shape} and transposed by {order}")
    return ", ".join(words)


def how_fed(how: Mapping[str, Any]) -> str:
    """Preprocessing in words, and what it was found by."""
    return f"{formula(how)}; found by {how['found_by']}"


def few(values: Sequence[float]) -> str:
    """A number, or the first of several."""
    shown = ", ".join(f"{value:.4g}" for value in values[:4])
    return f"[{shown}{', ...' if len(values) > 4 else ''}]" if len(values) > 1 else shown


def c_lines(how: Preprocessing, prefix: str, comment: str = "//", *, layout: str | None = None) -> list[str]:
    """Preprocessing as constants for firmware in C: NAME_RAW_SCALE and so on, mean and std a channel, names of classes.

    layout: of the input as the code takes it, where that isn't the one that the data has.
    """
    document = how.document()
    if layout is not None:
        document["layout"] = layout
    channels = max(len(how.mean), len(how.std))
    mean, std = ([*values] * (channels if len(values) == 1 else 1) for values in (how.mean, how.std))

    def numbers(values: list[float]) -> str:
        return ", ".join(f"{value!r}f" if math.isfinite(value) else "0.0f" for value in values)

    lines = [f"{comment} input: {formula(document)}"]
    lines += [
        f"#define {prefix}_RAW_SCALE {how.scale!r}f",
        f"#define {prefix}_RAW_CHANNELS {channels}",
        f"#define {prefix}_RAW_MEAN {{{numbers(mean)}}}",
        f"#define {prefix}_RAW_STD {{{numbers(std)}}}",
    ]
    if how.colours:
        lines.append(f'#define {prefix}_RAW_COLOURS "{how.colours}"')
    lines += [
        f"#define {prefix}_FRONTEND_{key.upper()} " + (f'"{value}"' if isinstance(value, str) else repr(value))
        for key, value in how.frontend.items()
        if key.isidentifier() and key.isascii() and (not isinstance(value, str) or value.isidentifier())
    ]
    if how.classes:
        lines.append(f"#define {prefix}_CLASSES {{{', '.join(map(c_string, how.classes))}}}")
    return lines


def c_string(text: str) -> str:
    """Text as a literal of C in UTF-8: what isn't plain ASCII as three octal digits, which none after them can lengthen."""
    plain = {byte for byte in range(32, 127) if chr(byte) not in '"\\?'}  # two ? may begin a trigraph
    return '"' + "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in text.encode("utf-8", "replace")) + '"'
