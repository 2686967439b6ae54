"""Batches of training examples, made while the step before is computed: converted and varied by a thread with a short queue.

Batches come in their order whoever makes them, and what chance does to one depends on the generator that it is asked
with alone; so a run with the thread and one without train the same network.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from mcuprune.data.augmenting import mixed
from mcuprune.data.columns import Lazy
from mcuprune.data.sets import Augment, Split
from mcuprune.immutable import immutable
from mcuprune.train import ranks

#: Batches that wait to be taken at most.
_AHEAD = 3

Array = np.ndarray[Any, Any]


@immutable
class Batch:
    """This rank's part of a batch.

    chosen: indices (part,) of its examples. inputs: an array (part, ...) for each input of the network.
    partners: indices (part,) of the examples that have been mixed into these; None where nothing was. share: of each example
    that is its own.
    """

    chosen: Array
    inputs: list[Array]
    partners: Array | None = None
    share: float = 1.0


class Waiting:
    """How long the trainer has waited for data: seconds, and those of the whole training."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._batches = 0
        self._started, self._until = 0.0, 0.0

    def fetch(self, make: Callable[[], Any]) -> Any:
        """What ``make`` gives, its time counted."""
        before = time.monotonic()
        if not self._batches:
            self._started = before
        fetched = make()
        self._batches += 1
        self._until = time.monotonic()
        self.seconds += self._until - before
        return fetched

    @property
    def share(self) -> float | None:
        """The share of the time since the first batch; None before there are two."""
        if self._batches < 2 or self._until <= self._started:
            return None
        return min(1.0, self.seconds / (self._until - self._started))


class Batches:
    """The examples of an epoch's batches, of each this rank's part.

    train: where they are. augment: varies them; None leaves them as they are. mixup: as ``augmenting.mixed`` takes it, 0 for
    none; of a network with one input.
    """

    def __init__(self, train: Split, augment: Augment | None, mixup: float = 0.0) -> None:
        self._train, self._augment, self._mixup = train, augment, mixup
        self._ahead = augment is not None or any(isinstance(column, Lazy) for column in train.inputs)
        self._coming: Iterator[Batch] | None = None
        self.waiting = Waiting()

    def start(self, order: Array, first: int, batch: int, random: np.random.Generator) -> None:
        """Begin at batch number ``first`` of an epoch. order: int64, its examples. random: what chance is drawn from."""
        if self._coming is not None:
            self._coming.close()  # type: ignore[attr-defined]
        chosen = [order[start : start + batch] for start in range(first * batch, len(order) - batch + 1, batch)]
        self._coming = self._threaded(chosen, random) if self._ahead else self._plain(chosen, random)

    def next(self) -> Batch:
        """Indices of the next examples, and each input of them."""
        assert self._coming is not None
        return self.waiting.fetch(lambda: next(self._coming))  # type: ignore[no-any-return,arg-type]

    def _batch(self, chosen: Array, random: np.random.Generator) -> Batch:
        own = ranks.part(len(chosen))
        if self._augment is None and not self._mixup:
            return Batch(chosen[own], [np.asarray(column[chosen[own]]) for column in self._train.inputs])
        # chance is drawn for the whole batch, so that an example is varied alike whatever the number of ranks
        inputs = [np.asarray(column[chosen]) for column in self._train.inputs]
        if self._augment is not None:
            inputs = [self._augment(x, random) for x in inputs]
        if not self._mixup:
            return Batch(chosen[own], [x[own] for x in inputs])
        (x,) = inputs
        x, partners, share = mixed(x, self._mixup, random)
        return Batch(chosen[own], [x[own]], chosen[partners[own]], share)

    def _plain(self, every: list[Array], random: np.random.Generator) -> Iterator[Batch]:
        for chosen in every:
            yield self._batch(chosen, random)

    def _threaded(self, every: list[Array], random: np.random.Generator) -> Iterator[Batch]:
        """The same by one thread, which makes them one after the other: they draw from one generator."""
        with ThreadPoolExecutor(1, "batches") as pool:
            queue: list[Future[Batch]] = []
            left = iter(every)
            try:
                while True:
                    while len(queue) < _AHEAD and (chosen := next(left, None)) is not None:
                        queue.append(pool.submit(self._batch, chosen, random))
                    if not queue:
                        return
                    yield queue.pop(0).result()
            finally:
                for future in queue:
                    future.cancel()
