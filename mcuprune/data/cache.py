"""What is decoded once and read often: large arrays of bytes on disk, used without being in memory.

A folder of images is decoded to pixels of the model's size once; the next run finds them. Files that have not been used for
longest go when all of them together are more than ``MOST``. The folder is ``MCUPRUNE_CACHE``, or ``mcuprune`` in the user's
cache folder; it can be deleted at any time.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mcuprune import __version__, console
from mcuprune.errors import DataError

Array = np.ndarray[Any, Any]
#: Bytes of all cached arrays together.
MOST = 32 * 1024**3
#: Arrays of fewer bytes are made in memory, at every run.
_SMALL = 2**25
#: Examples that threads may be ahead of the one that is stored next.
_AHEAD = 256
#: From so many on, decoding takes long enough to say so.
_WORTH_A_WORD = 3000
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def folder() -> Path | None:
    """Where cached arrays are; None where nothing can be written."""
    named = os.environ.get("MCUPRUNE_CACHE")
    base = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mcuprune"
    try:
        base.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=base):
            return base
    except (OSError, RuntimeError):
        return None


def cached(
    identity: Sequence[object], items: Sequence[_Item], shape: tuple[int, ...], dtype: Any, make: Callable[[_Item], Array]
) -> Array:
    """``stored`` of what ``make`` makes of each item, called by several threads at once."""
    return stored(identity, items, shape, dtype, lambda items: in_order(make, items))


def stored(
    identity: Sequence[object],
    items: Sequence[_Item],
    shape: tuple[int, ...],
    dtype: Any,
    stream: Callable[[Sequence[_Item]], Iterator[Array]],
) -> Array:
    """An array (items, *shape) of what ``stream`` makes of all items, in their order; large ones are mapped from the disk.

    identity: all that the values depend on. Raises DataError where the disk has no room, and what ``stream`` raises.
    """
    whole, kind = (len(items), *shape), np.dtype(dtype)
    size = prod(whole) * kind.itemsize
    if size < _SMALL:
        array = np.empty(whole, kind)
        _fill(array, items, stream)
        return array
    key = sha256(repr((__version__, whole, kind.str, *identity)).encode()).hexdigest()[:40]
    home = folder()
    if home is None:
        return _temporary(whole, kind, items, stream)
    place = home / f"{key}.npy"
    if (known := _mapped(place, whole, kind)) is not None:
        return known
    _need_room(home, size)
    _make_room(home, size)
    handle, name = tempfile.mkstemp(suffix=".part", dir=home)
    os.close(handle)
    try:
        array = np.lib.format.open_memmap(name, "w+", kind, whole)
        _fill(array, items, stream, where=str(home))
        array.flush()
        del array
        os.replace(name, place)
    finally:
        with suppress(OSError):
            os.unlink(name)
    again = _mapped(place, whole, kind)
    assert again is not None
    return again


def _mapped(place: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array | None:
    try:
        array: Array = np.load(place, mmap_mode="r", allow_pickle=False)
        os.utime(place)
    except (OSError, ValueError, EOFError):
        return None
    return array if (array.shape, array.dtype) == (shape, dtype) else None


def _temporary(
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    items: Sequence[_Item],
    stream: Callable[[Sequence[_Item]], Iterator[Array]],
) -> Array:
    """The array in a file without a name, which is gone when nobody uses it any more."""
    _need_room(Path(tempfile.gettempdir()), prod(shape) * dtype.itemsize)
    with tempfile.TemporaryFile() as file:
        array: Array = np.memmap(file, dtype, "w+", shape=shape)
    _fill(array, items, stream, where=tempfile.gettempdir())
    return array


def growing(dtype: np.dtype[Any], shape: tuple[int, ...], blocks: Iterator[Array]) -> Array:
    """Blocks (some, *shape) of unknown number one after the other, in a file without a name."""
    count = 0
    with tempfile.TemporaryFile() as file:
        for block in blocks:
            count += len(block)
            _need_room(Path(tempfile.gettempdir()), block.nbytes)
            file.write(np.ascontiguousarray(block, dtype).data)
        file.flush()
        if not count:
            return np.empty((0, *shape), dtype)
        return np.memmap(file, dtype, "r", shape=(count, *shape))


def _fill(target: Array, items: Sequence[_Item], stream: Callable[[Sequence[_Item]], Iterator[Array]], where: str = "") -> None:
    if where and len(items) >= _WORTH_A_WORD:
        console.say(f"decoding {len(items):,} examples once; they are kept in {where}")
    for index, value in enumerate(stream(items)):
        target[index] = value


def workers() -> int:
    """How many threads or processes decode: one a core, eight at most."""
    return max(1, min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))


def in_order(make: Callable[[_Item], _Result], items: Sequence[_Item], *, ahead: int = _AHEAD) -> Iterator[_Result]:
    """What threads make of items, in their order; a bounded number waits to be taken."""
    if workers() == 1 or len(items) < 2 * workers():
        yield from map(make, items)
        return
    with ThreadPoolExecutor(workers()) as pool:
        waiting = deque(pool.submit(make, item) for item in items[:ahead])
        try:
            for index in range(len(items)):
                result = waiting.popleft().result()
                if index + ahead < len(items):
                    waiting.append(pool.submit(make, items[index + ahead]))
                yield result
        finally:
            for future in waiting:
                future.cancel()


def _need_room(where: Path, size: int) -> None:
    free = shutil.disk_usage(where).free
    if free < size + 2**28:
        raise DataError(
            f"{where}: {size} bytes of decoded examples have no room there, {free} are free; "
            "name another folder in the environment variable MCUPRUNE_CACHE"
        )


def _make_room(home: Path, size: int) -> None:
    """Delete what was not used for longest while all would be more than MOST."""
    files = []
    for file in home.glob("*.npy"):
        with suppress(OSError):
            files.append((file.stat().st_mtime, file.stat().st_size, file))
    total = size + sum(each for _, each, _ in files)
    for _, each, file in sorted(files):
        if total <= MOST:
            return
        with suppress(OSError):
            file.unlink()
            total -= each
