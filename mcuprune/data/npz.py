"""Archives of arrays, as ``numpy.savez`` writes them, read without unpickling and never beyond what is bounded first."""

from __future__ import annotations

import lzma
import math
import tokenize
import zipfile
import zlib
from typing import Any

import numpy as np

from mcuprune.data.arrays import bounded, known, one_line
from mcuprune.errors import DataError


def read(path: str) -> dict[str, np.ndarray[Any, Any]]:
    """The known arrays of an archive made by numpy.savez. Declared sizes are bounded before anything is read."""
    remedy = "write it with numpy.savez(path, x_train=..., y_train=..., x_test=..., y_test=...)"
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            wanted = {key: members[key] for key in known(path, members)}
            headers = {key: _header(path, archive, key, info) for key, info in wanted.items()}
            bounded(path, headers)
            return {key: _read_member(archive, info) for key, info in wanted.items()}
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; --data takes a name, the path of an .npz or module:function") from error
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
    """Shape and type of one array, held against the member's size: reading allocates what the header claims."""
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, _, dtype = np.lib.format.read_array_header_2_0(file)
        else:
            raise DataError(f"{path}: {key} is stored in .npy format {version}; it must hold plain numbers")
        if dtype.hasobject:
            raise DataError(f"{path}: {key} holds pickled Python objects, which are never read; save plain numbers")
        n_bytes, expected = info.file_size - file.tell(), math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or n_bytes != expected:
            raise DataError(
                f"{path}: {key} claims shape {shape} of {dtype}, {expected} bytes, but has {n_bytes}; write it again"
            )
    return tuple(shape), np.dtype(dtype)


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray[Any, Any]:
    with archive.open(info) as file:
        array: np.ndarray[Any, Any] = np.lib.format.read_array(file, allow_pickle=False)
    return array
