"""WAV files: whole numbers of 8 to 32 bits, or floats (Microsoft and IBM, "Multimedia Programming Interface", 1991).

The standard library's ``wave`` knows no floats, and the extensible form only from Python 3.12 on.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np

from mcuprune.data import trees
from mcuprune.errors import DataError, cause
from mcuprune.immutable import immutable

Array = np.ndarray[Any, Any]
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_OTHERS = {2: "ADPCM", 6: "A-law", 7: "mu-law", 0x11: "IMA ADPCM", 0x31: "GSM", 0x50: "MPEG", 0x55: "MP3"}
#: What follows the number of a format in its long name.
_LONG_NAME = b"\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71"
#: Floats of sound are from -1 to 1, and somewhat more where nothing has cut them; further out they are something else.
_LOUDEST = 64.0


@immutable
class Form:
    """What a file holds. floats: or whole numbers. width: bytes of a number. start: of the samples. total: how many."""

    floats: bool
    width: int
    channels: int
    rate: int
    start: int
    total: int


def form_of(path: Path) -> Form:
    """The form of a file's samples. Raises DataError, with the reason, for a file that isn't one of sound or is damaged."""
    _, size, _ = trees.stamp(path)
    try:
        with path.open("rb") as file:
            return _form(path, file, size)
    except OSError as error:
        raise _refusal(path, cause(error)) from error


def read(path: Path, first: int = 0, count: int | None = None) -> tuple[Array, int]:
    """(float64 (samples,) in -1...1, samples a second): channels are averaged.

    first, count: of the samples to read, a minute of them where count is None. Raises DataError for what is no such file.
    """
    form = form_of(path)
    first = min(first, form.total)
    wanted = min(form.total - first, count or 60 * form.rate) * form.channels
    try:
        with path.open("rb") as file:
            file.seek(form.start + first * form.channels * form.width)
            content = file.read(wanted * form.width)
    except OSError as error:
        raise _refusal(path, cause(error)) from error
    if len(content) < wanted * form.width:
        raise _refusal(path, "it became shorter while it was read")
    if form.floats:
        values = np.frombuffer(content, f"<f{form.width}").astype(np.float64)
        if not (np.abs(values) <= _LOUDEST).all():
            raise _refusal(path, f"a sample is no number, or beyond {_LOUDEST:g}", "write floats from -1 to 1, or remove it")
    elif form.width == 3:
        bytes_of = np.frombuffer(content, np.uint8).reshape(-1, 3).astype(np.int32)
        values = (bytes_of[:, 0] << 8 | bytes_of[:, 1] << 16 | bytes_of[:, 2] << 24).astype(np.float64) / 2**31
    elif form.width == 1:
        values = (np.frombuffer(content, np.uint8).astype(np.float64) - 128) / 128
    else:
        values = np.frombuffer(content, f"<i{form.width}").astype(np.float64) / 2.0 ** (8 * form.width - 1)
    return values.reshape(-1, form.channels).mean(1), form.rate


def _refusal(path: Path, reason: str, remedy: str = "write it as PCM, or remove it") -> DataError:
    return DataError(f"{path}: not a readable WAV file ({reason}); {remedy}")


def _form(path: Path, file: Any, size: int) -> Form:
    head = file.read(12)
    if not head:
        raise _refusal(path, "it is empty")
    if len(head) < 12 or head[:4] != b"RIFF" or head[8:] != b"WAVE":
        raise _refusal(path, f"it begins with {head!r}, not with RIFF and WAVE")
    layout: tuple[bool, int, int, int] | None = None
    while len(chunk := file.read(8)) == 8:
        name, length = struct.unpack("<4sI", chunk)
        if name == b"data":
            break
        if name == b"fmt ":
            layout = _layout(path, file.read(min(length, 40)))
            length -= min(length, 40)
        file.seek(length + length % 2, os.SEEK_CUR)
    else:
        raise _refusal(path, "no samples follow its head")
    if layout is None:
        raise _refusal(path, "its samples come before a word of their form")
    floats, width, channels, rate = layout
    start = file.tell()
    if length > size - start:
        raise _refusal(path, f"it claims {length} bytes of samples and has {size - start}: it is cut short")
    total: int = length // (width * channels)
    if not total:
        raise _refusal(path, "it has no samples", "record it again, or remove it")
    return Form(floats, width, channels, rate, start, total)


def _layout(path: Path, content: bytes) -> tuple[bool, int, int, int]:
    """(whether samples are floats, bytes of each, channels, samples a second)."""
    if len(content) < 16:
        raise _refusal(path, "its form is cut short")
    kind, channels, rate, _, block, bits = struct.unpack("<HHIIHH", content[:16])
    if kind == _EXTENSIBLE:
        if len(content) < 40 or content[26:40] != _LONG_NAME:
            raise _refusal(path, "its form is extensible, and of no kind that is known")
        kind = struct.unpack("<H", content[24:26])[0]
    if kind not in (_PCM, _FLOAT):
        raise _refusal(path, f"its samples are {_OTHERS.get(kind, 'of a kind that is unknown')}, format {kind}")
    width = (bits + 7) // 8
    if width not in ((4, 8) if kind == _FLOAT else (1, 2, 3, 4)) or not (1 <= channels <= 64 and 1000 <= rate <= 1_000_000):
        what = "floats of " if kind == _FLOAT else ""
        raise _refusal(path, f"{what}{bits} bits, {channels} channels at {rate} Hz are no sound that can be read")
    if block != width * channels:
        raise _refusal(path, f"it claims {block} bytes for {channels} samples of {bits} bits: its head contradicts itself")
    return kind == _FLOAT, width, channels, rate
