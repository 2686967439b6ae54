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

from mcuprune.data.columns import Lazy
from mcuprune.data.sets import Augment, Split
from mcuprune.train import ranks

#: Batches that wait to be taken at most.
_AHEAD = 3

Array = np.ndarray[Any, Any]
#: Indices (part of the batch,) of this rank's examples, and an array (batch, ...) for each input.
Made = tuple[Array, list[Array]]


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
        found = make()
        self._batches += 1
        self._until = time.monotonic()
        self.seconds += self._until - before
        return found

    @property
    def share(self) -> float | None:
        """The share of the time since the first batch; None before there are two."""
        if self._batches < 2 or self._until <= self._started:
            return None
        return min(1.0, self.seconds / (self._until - self._started))


class Batches:
    """The examples of an epoch's batches, of each this rank's part.

    train: where they are. augment: varies them; None leaves them as they are.
    """

    def __init__(self, train: Split, augment: Augment | None) -> None:
        self._train, self._augment = train, augment
        self._ahead = augment is not None or any(isinstance(column, Lazy) for column in train.inputs)
        self._coming: Iterator[Made] | None = None
        self.waiting = Waiting()

    def start(self, order: Array, first: int, batch: int, random: np.random.Generator) -> None:
        """Begin at batch number ``first`` of an epoch. order: int64, its examples. random: what chance is drawn from."""
        if self._coming is not None:
            self._coming.close()  # type: ignore[attr-defined]
        chosen = [order[start : start + batch] for start in range(first * batch, len(order) - batch + 1, batch)]
        self._coming = self._threaded(chosen, random) if self._ahead else self._plain(chosen, random)

    def next(self) -> Made:
        """Indices of the next examples, and each input of them."""
        assert self._coming is not None
        return self.waiting.fetch(lambda: next(self._coming))  # type: ignore[no-any-return,arg-type]

    def _made(self, chosen: Array, random: np.random.Generator) -> Made:
        own = ranks.part(len(chosen))
        if self._augment is None:
            return chosen[own], [np.asarray(column[chosen[own]]) for column in self._train.inputs]
        # chance is drawn for the whole batch, so that an example is varied alike whatever the number of ranks
        inputs = [np.asarray(column[chosen]) for column in self._train.inputs]
        return chosen[own], [self._augment(x, random)[own] for x in inputs]

    def _plain(self, every: list[Array], random: np.random.Generator) -> Iterator[Made]:
        for chosen in every:
            yield self._made(chosen, random)

    def _threaded(self, every: list[Array], random: np.random.Generator) -> Iterator[Made]:
        """The same by one thread, which makes them one after the other: they draw from one generator."""
        with ThreadPoolExecutor(1, "batches") as pool:
            queue: list[Future[Made]] = []
            left = iter(every)
            try:
                while True:
                    while len(queue) < _AHEAD and (chosen := next(left, None)) is not None:
                        queue.append(pool.submit(self._made, chosen, random))
                    if not queue:
                        return
                    yield queue.pop(0).result()
            finally:
                for future in queue:
                    future.cancel()
