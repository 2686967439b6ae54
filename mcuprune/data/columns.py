"""Columns that are no arrays in memory: views that convert, choose or join examples when they are asked for."""

from __future__ import annotations

import hashlib
import mmap
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from mcuprune.data.preprocessing import Preprocessing
from mcuprune.data.sets import Column

Array = np.ndarray[Any, Any]
#: Bytes that are looked at or hashed at a time.
_CHUNK = 2**24


class Lazy(ABC):
    """A column that makes its examples when they are asked for. shape: (n, *shape). dtype: of what indexing gives."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, chosen: Any, /) -> Array:
        single = isinstance(chosen, (int, np.integer))
        rows = self._examples(np.arange(len(self))[[chosen] if single else chosen])
        return rows[0] if single else rows

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """All examples at once, for those who have the memory."""
        return np.asarray(self[:], dtype)

    @abstractmethod
    def _examples(self, indices: Array) -> Array:
        """The examples at whole numbers (batch,) from 0: (batch, *shape)."""

    def identify(self, digest: Any) -> None:
        """Tell a hash what the column holds."""
        for part in chunks(self):
            digest.update(np.ascontiguousarray(part).data)


class Fed(Lazy):
    """Raw examples as a network takes them: float32 (n, *shape), each batch converted when it is asked for."""

    def __init__(self, source: Column, shape: Sequence[int], preprocessing: Preprocessing, stored: str = "") -> None:
        self.source, self.preprocessing = source, preprocessing
        self.shape, self.dtype = (len(source), *shape), np.dtype(np.float32)
        self._apply = preprocessing.function(tuple(source.shape[1:]), tuple(shape), stored)
        self._stored = stored

    def _examples(self, indices: Array) -> Array:
        return self._apply(examples(self.source, indices))

    def again(self, preprocessing: Preprocessing) -> Fed:
        """The same examples, preprocessed otherwise."""
        return Fed(self.source, self.shape[1:], preprocessing, self._stored)

    def identify(self, digest: Any) -> None:
        digest.update(repr((self.shape, self.preprocessing, self._stored)).encode())
        identify(self.source, digest)


class Taken(Lazy):
    """Some examples of a column, without a copy of them. indices: int64 (n,)."""

    def __init__(self, source: Column, indices: Array) -> None:
        self.source, self.indices = source, np.asarray(indices, np.int64)
        self.shape, self.dtype = (len(self.indices), *source.shape[1:]), source.dtype

    def _examples(self, indices: Array) -> Array:
        return examples(self.source, self.indices[indices])

    def identify(self, digest: Any) -> None:
        digest.update(np.ascontiguousarray(self.indices).data)
        identify(self.source, digest)


class Joined(Lazy):
    """Columns of equal shape and type one after the other, such as the files of a set that comes in parts."""

    def __init__(self, sources: Sequence[Column]) -> None:
        self.sources = tuple(sources)
        self._starts = np.cumsum([0, *map(len, self.sources)])
        self.shape, self.dtype = (int(self._starts[-1]), *self.sources[0].shape[1:]), self.sources[0].dtype

    def _examples(self, indices: Array) -> Array:
        gathered = np.empty((len(indices), *self.shape[1:]), self.dtype)
        owner = np.searchsorted(self._starts, indices, side="right") - 1
        for number in np.unique(owner):
            chosen = owner == number
            gathered[chosen] = examples(self.sources[number], indices[chosen] - self._starts[number])
        return gathered


def examples(column: Column, chosen: Any) -> Array:
    """The examples of a column at an array of whole numbers, or of a slice, in memory of their own.

    Pages of a file that is mapped are given back at once, or the whole file would count as memory in use before an epoch is
    over. They stay in the system's cache, from where the next examples come as fast.
    """
    values = column[chosen]
    if isinstance(column, np.memmap):
        values = np.array(values)
        pages = getattr(column, "_mmap", None)
        if pages is not None and column.mode != "c" and hasattr(mmap, "MADV_DONTNEED"):
            pages.madvise(mmap.MADV_DONTNEED)
    return np.asarray(values)


def chunks(column: Column) -> Any:
    """A column in slices of a few megabytes each."""
    each = max(1, _CHUNK // max(1, prod(column.shape[1:]) * column.dtype.itemsize))
    for start in range(0, len(column), each):
        yield examples(column, slice(start, start + each))


def identify(column: Column, digest: Any) -> None:
    """Tell a hash what a column holds, without holding all of it."""
    digest.update(repr((tuple(column.shape), column.dtype.str)).encode())
    if isinstance(column, Lazy):
        column.identify(digest)
        return
    for part in chunks(column):
        digest.update(np.ascontiguousarray(part).data)


def taken(column: Column, indices: Array) -> Column:
    """Some examples of a column: of few bytes a copy, else a view. indices: bool (n,) or int64."""
    places = np.flatnonzero(indices) if indices.dtype == np.bool_ else indices
    if isinstance(column, np.ndarray) and not isinstance(column, np.memmap) and column.nbytes < _CHUNK:
        copied: Array = column[places]
        return copied
    return Taken(column, places)


def digest_of(columns: Sequence[Column]) -> str:
    """A hash of columns, in hexadecimal."""
    digest = hashlib.sha256()
    for column in columns:
        identify(column, digest)
    return digest.hexdigest()


#: How examples are changed: float32 (batch, ...) -> float32 (batch, ...).
Change = Callable[[Array], Array]
