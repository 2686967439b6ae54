"""Columns over records of files."""

from __future__ import annotations

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
