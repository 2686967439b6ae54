"""Columns over records of files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mcuprune.data.columns import Array, Lazy, examples, identify


class Pixels(Lazy):
    """Examples that are a part of records (n, bytes): uint8 (n, *shape), from byte ``start`` of each."""

    def __init__(self, records: Array, shape: tuple[int, ...], start: int) -> None:
        self._records, self._start = records, start
        self.shape, self.dtype = (len(records), *shape), np.dtype(np.uint8)

    def _examples(self, indices: Array) -> Array:
        return examples(self._records, indices)[:, self._start :].reshape(len(indices), *self.shape[1:])

    def identify(self, digest: Any) -> None:
        identify(self._records, digest)


class Mapped(Lazy):
    """Examples that a function makes of items, one by one: such as items of a torch Dataset."""

    def __init__(self, items: Sequence[Any], make: Callable[[Any], Array], shape: tuple[int, ...], dtype: Any) -> None:
        self._items, self._make = items, make
        self.shape, self.dtype = (len(items), *shape), np.dtype(dtype)

    def _examples(self, indices: Array) -> Array:
        gathered = np.empty((len(indices), *self.shape[1:]), self.dtype)
        for place, index in enumerate(indices):
            gathered[place] = self._make(self._items[int(index)])
        return gathered
