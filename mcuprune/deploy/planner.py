"""Where buffers lie in the arena: the greedy planner of TensorFlow Lite Micro (TFLM), and a search for a better layout.

TFLM's planner is repeated step by step, so that a predicted head is the measured one. All sizes and offsets are in bytes.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

#: Every buffer of the arena starts at, and its size is rounded up to, a multiple of this (MicroArenaBufferAlignment).
ALIGNMENT = 16
#: A search for a layout looks at no more neighbours of buffers than this: two CPU seconds or so.
_LOOKS = 20_000_000


def aligned(size: int) -> int:
    """``size`` rounded up to the alignment of arena buffers, in bytes."""
    return -(-size // ALIGNMENT) * ALIGNMENT


class Lifetime(NamedTuple):
    """The first and last operator, both included, during which a buffer is alive. Graph inputs start at 0, operators at 1."""

    first: int
    last: int


def overlaps(lifetimes: Sequence[Lifetime]) -> tuple[tuple[int, ...], ...]:
    """For each buffer, the others that are alive at some time together with it."""
    neighbours: list[list[int]] = [[] for _ in lifetimes]
    alive: list[int] = []
    for i in sorted(range(len(lifetimes)), key=lambda i: lifetimes[i].first):
        alive = [j for j in alive if lifetimes[j].last >= lifetimes[i].first]
        neighbours[i] += alive
        for j in alive:
            neighbours[j].append(i)
        alive.append(i)
    return tuple(tuple(sorted(others)) for others in neighbours)


def greedy_layout(
    sizes: Sequence[int], neighbours: Sequence[Sequence[int]], fixed: Mapping[int, int] | None = None
) -> list[int]:
    """Offsets in bytes of TFLM's GreedyMemoryPlanner for buffers of ``sizes`` bytes, in the order that they are added in.

    Large buffers come first; of equal ones the one added last, since the planner fills its list from the end and sorts it
    stably. Each goes into the lowest gap between the placed buffers that are alive with it.
    fixed: buffers that an offline plan has placed; they come before all others.
    """
    fixed = fixed or {}
    order = sorted((i for i in range(len(sizes)) if i not in fixed), key=lambda i: (-sizes[i], -i))
    return first_fit(sizes, neighbours, order, fixed)


def first_fit(
    sizes: Sequence[int], neighbours: Sequence[Sequence[int]], order: Sequence[int], fixed: Mapping[int, int]
) -> list[int]:
    """Offsets in bytes when buffers are put one after the other into the lowest gap that is wide enough."""
    placed = {buffer: (offset, offset + sizes[buffer]) for buffer, offset in fixed.items()}
    for buffer in order:
        size, offset = sizes[buffer], 0
        for start, end in sorted(filter(None, map(placed.get, neighbours[buffer]))):
            if start - offset >= size:
                break
            if end > offset:
                offset = end
        placed[buffer] = (offset, offset + size)
    return [placed[buffer][0] if buffer in placed else -1 for buffer in range(len(sizes))]


def most_alive(sizes: Sequence[int], lifetimes: Sequence[Lifetime]) -> int:
    """What is alive at the worst operator, in bytes: no layout takes less."""
    change = [0] * (2 + max((span.last for span in lifetimes), default=0))
    for size, span in zip(sizes, lifetimes, strict=True):
        change[span.first] += size
        change[span.last + 1] -= size
    most = now = 0
    for step in change:
        now += step
        most = max(most, now)
    return most


@lru_cache(maxsize=64)  # one command asks for the same program several times: predicted, written and read again
def searched_layout(
    sizes: tuple[int, ...],
    lifetimes: tuple[Lifetime, ...],
    neighbours: tuple[tuple[int, ...], ...],
    placed: int,
    *,
    tries: int = 200,
) -> tuple[int, ...]:
    """The best layout of a short local search over orders of placement; deterministic. Offsets of all buffers.

    placed: how many of the buffers, from the first, a plan in the file may place; the runtime's planner puts the rest, which
    are kernels' scratch, around them.
    A buffer that sticks out on top is placed first in the next try; where that goes round in circles, two swap. Where thousands
    of buffers are alive together, as of a graph with hundreds of outputs, there are fewer tries.
    """
    tries = min(tries, _LOOKS // max(1, 2 * sum(map(len, neighbours))))
    wanted = most_alive(sizes, lifetimes)
    shuffle = random.Random(0)
    order = sorted(range(len(sizes)), key=lambda i: (-sizes[i], -i))
    best: list[int] = greedy_layout(sizes, neighbours)
    least = head_of(sizes, best)
    for _ in range(tries):
        if least == wanted:
            break
        offsets = first_fit(sizes, neighbours, order, {})
        ends = [offset + size for offset, size in zip(offsets, sizes, strict=True)]
        actual = greedy_layout(sizes, neighbours, dict(enumerate(offsets[:placed])))
        head = head_of(sizes, actual)
        if head < least:
            best, least = actual, head
        top = max(range(len(ends)), key=lambda i: ends[i])
        order.remove(top)
        order.insert(0, top)
        if shuffle.random() < 0.5:
            i, j = shuffle.randrange(len(order)), shuffle.randrange(len(order))
            order[i], order[j] = order[j], order[i]
    return tuple(best)


def head_of(sizes: Sequence[int], offsets: Sequence[int]) -> int:
    """The end of the highest buffer, in bytes."""
    return max((offset + size for offset, size in zip(offsets, sizes, strict=True)), default=0)
