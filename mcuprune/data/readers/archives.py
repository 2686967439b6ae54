"""Archives of arrays, as ``numpy.savez`` writes them, read without unpickling and never beyond what is bounded first."""

from __future__ import annotations

import lzma
import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from mcuprune.data.arrays import bounded, known
from mcuprune.data.raw import PARTS, Part, Raw, Reader
from mcuprune.errors import DataError
from mcuprune.usercode import one_line

#: Bytes that may become any number of times as many; beyond, real data grows no more than so many times.
_HARMLESS, _MOST_DENSE = 2**28, 100
#: Stored arrays of more bytes stay in the file.
_MAPPED = 2**22
#: Bytes of a member's own header before its name.
_LOCAL_HEADER = 30


def read(path: str) -> dict[str, np.ndarray[Any, Any]]:
    """The known arrays of an archive made by numpy.savez. Declared sizes are bounded before anything is read."""
    remedy = "write it with numpy.savez(path, x_train=..., y_train=..., x_test=..., y_test=...)"
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            wanted = {key: members[key] for key in known(path, members)}
            headers = {key: _header(path, archive, key, info) for key, info in wanted.items()}
            bounded(path, headers)
            for key, info in wanted.items():
                refuse_bomb(path, key, info.compress_size, info.file_size)
            return {key: _read_member(path, archive, info, headers[key]) for key, info in wanted.items()}
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; give a name, the path of a file or folder, or module:function") from error
    except IsADirectoryError as error:
        raise DataError(f"{path}: a folder, not an .npz archive; {remedy}") from error
    except MemoryError as error:
        raise DataError(f"{path}: its arrays don't fit in memory; use fewer examples or a smaller dtype") from error
    except (
        OSError,  # unreadable, and what bz2 raises on damage
        EOFError,
        ValueError,  # also offsets beyond any file
        RuntimeError,  # encrypted members, unknown compression, headers nested too deeply
        SyntaxError,  # this and the next two: array headers that make no sense
        TypeError,
        tokenize.TokenError,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
    ) as error:
        raise DataError(f"{path}: not a readable .npz archive ({one_line(error)}); {remedy}") from error


def _header(path: str, archive: zipfile.ZipFile, key: str, info: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of one array."""
    with archive.open(info) as file:
        return header(f"{path}: {key}", file, info.file_size)


def header(what: str, file: IO[bytes], size: int) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of an array in .npy format, held against the bytes that are there: reading allocates what is claimed.

    what: how a message begins. size: bytes of the whole file. Raises DataError for other than plain numbers, and for another
    size; what numpy raises where there is no header.
    """
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise DataError(f"{what} is stored in .npy format {version}; it must hold plain numbers")
    if dtype.hasobject:
        raise DataError(f"{what} holds pickled Python objects, which are never read; save plain numbers")
    n_bytes, expected = size - file.tell(), math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or n_bytes != expected:
        raise DataError(f"{what} claims shape {shape} of {dtype}, {expected} bytes, but has {n_bytes}; write it again")
    return tuple(shape), np.dtype(dtype)


def refuse_bomb(where: str, name: str, stored: int, becomes: int) -> None:
    """Raise DataError for what claims to grow as no data does, before it grows: bytes stored, and what they become."""
    if becomes > _HARMLESS and becomes > _MOST_DENSE * max(1, stored):
        raise DataError(
            f"{where}: {name} is {stored} bytes that would become {becomes}: no real data is that dense, so it is not "
            "unpacked; store it without compression (numpy.savez)"
        )


def _read_member(
    path: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo, header: tuple[tuple[int, ...], np.dtype[Any]]
) -> np.ndarray[Any, Any]:
    """One array: mapped into memory where it is stored as it is, else unpacked."""
    shape, dtype = header
    if info.compress_type == zipfile.ZIP_STORED and info.file_size > _MAPPED and not info.flag_bits & 1:
        return _mapped(path, archive, info, shape, dtype)
    with archive.open(info) as file:
        array: np.ndarray[Any, Any] = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _mapped(
    path: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> np.ndarray[Any, Any]:
    """An array that stays in the file: what stands before it are the member's own header and that of the array."""
    with open(path, "rb") as file:
        file.seek(info.header_offset)
        local = file.read(_LOCAL_HEADER)
        if local[:4] != b"PK\x03\x04":
            raise zipfile.BadZipFile("no member where the directory says")
        start = info.header_offset + _LOCAL_HEADER + sum(struct.unpack_from("<HH", local, 26))
        file.seek(start)
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        if read_header(file) != (shape, (order := _order(archive, info, version)), dtype):
            raise zipfile.BadZipFile("two headers contradict each other")
        offset = file.tell()
        if offset - start + math.prod(shape) * dtype.itemsize > os.path.getsize(path) - start:
            raise EOFError("the file ends before the array does")
    return np.memmap(path, dtype, "r", offset, shape, "F" if order else "C")


def _order(archive: zipfile.ZipFile, info: zipfile.ZipInfo, version: tuple[int, int]) -> bool:
    with archive.open(info) as file:
        np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return bool(read_header(file)[1])


def of_arrays(where: str, arrays: Mapping[str, Any], reader: str = "arrays") -> Raw:
    """A data set of the arrays ``x_train``, ``y_train`` and so on."""
    held = {key: value for key, value in arrays.items() if isinstance(value, np.ndarray) and not isinstance(value, np.memmap)}
    bounded(where, {key: (value.shape, value.dtype) for key, value in held.items()})
    parts = {part: Part(*_of_part(arrays, part)) for part in PARTS if _of_part(arrays, part)[0]}
    return Raw(where, parts, reader=reader)


def _of_part(arrays: Mapping[str, Any], part: str) -> tuple[tuple[Any, ...], tuple[Any, ...] | None]:
    """The inputs and the targets of a part: ``x_train``, or ``x0_train``, ``x1_train`` and so on."""
    inputs, targets = (
        tuple(
            arrays[key] for key in [f"{letter}_{part}", *(f"{letter}{index}_{part}" for index in range(100))] if key in arrays
        )
        for letter in "xy"
    )
    return inputs, targets or None


def _is(path: Path) -> bool:
    """Whether a path is called an archive of arrays, or holds one under another name."""
    if path.suffix.lower() == ".npz":
        return not path.is_dir()
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile):
        return False


READER = Reader(
    "npz",
    "an .npz of x_train, y_train, x_test, y_test",
    _is,
    lambda path, asked: of_arrays(str(path), read(str(path)), "npz"),
    form="`x_val`, `y_val` too; `x0_train`, `x1_train` for several inputs, `y0_train` for several outputs; without any `y` "
    "there are no labels. Saved by `numpy.savez` it stays on disk",
)
