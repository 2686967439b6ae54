"""Where in one arena each place of generated C lies, so that what is needed at the same time never shares a byte.

A place is a body of one or more parts that move together, each with the spans of time in which its bytes are needed: a tensor
is one part as a rule; where it is filled or emptied row by row, each row is a part of its own, and another tensor may take the
rows that are done with. All sizes and offsets are in bytes; spans of time include both ends.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, groupby

from mcuprune.immutable import immutable

Span = tuple[int, int]
#: How many placements are tried at most for an arena of the wanted size, and meetings of two bodies that are looked at.
TRIES, _WORK = 2000, 2_000_000
#: How many of these orders are drawn by chance.
_DRAWN = 200


@immutable
class Part:
    """Bytes of a body from ``offset`` on, and when they are needed."""

    offset: int
    size: int
    spans: tuple[Span, ...]


@immutable
class Body:
    """Parts that move together."""

    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """Bytes from its lowest part's beginning to its highest part's end."""
        return max((part.offset + part.size for part in self.parts), default=0)

    @property
    def last(self) -> int:
        """The last time at which some part is needed."""
        return max((span[1] for part in self.parts for span in part.spans), default=0)

    @classmethod
    def whole(cls, size: int, *spans: Span) -> Body:
        """A place that is needed or not as one."""
        return cls((Part(0, size, spans),))

    @classmethod
    def of_rows(cls, row: int, spans: Sequence[Span]) -> Body:
        """Rows of ``row`` bytes one behind the other, and when each is needed."""
        parts, at = [], 0
        for span, alike in groupby(spans):
            count = len(list(alike))
            parts.append(Part(at * row, count * row, (span,)))
            at += count
        return cls(tuple(parts))

    def with_parts_of(self, other: Body) -> Body:
        """Both in one place."""
        return Body((*self.parts, *other.parts))


def most_alive(bodies: Sequence[Body]) -> int:
    """The most bytes that are needed at one time, which no layout can undercut."""
    changes: dict[int, int] = {}
    for body in bodies:
        for part in body.parts:
            for first, last in part.spans:
                changes[first] = changes.get(first, 0) + part.size
                changes[last + 1] = changes.get(last + 1, 0) - part.size
    most = alive = 0
    for time in sorted(changes):
        alive += changes[time]
        most = max(most, alive)
    return most


def laid_out(bodies: Mapping[int, Body], wanted: int, *, tries: int = TRIES) -> tuple[int, dict[int, int]]:
    """The bytes that all bodies take, and the offset of each.

    By first fit, in an order that a search varies until all fit into ``wanted`` bytes or ``tries`` orders are looked at; fewer
    where many bodies meet. Orders are drawn at first; from then on the body that sticks out on top comes first in the next one,
    and now and then two change places.
    """
    distances = _distances(bodies)
    chance = random.Random(0)
    by_size = sorted(bodies, key=lambda body: (-bodies[body].size, body))
    backwards = sorted(bodies, key=lambda body: (-bodies[body].last, -bodies[body].size, body))
    climbing = by_size
    best: tuple[int, dict[int, int]] | None = None
    for attempt in range(min(tries, 2 + _WORK // max(1, sum(map(len, distances.values()))))):
        if attempt < 2:
            order = (by_size, backwards)[attempt]
        elif attempt >= _DRAWN:
            order = climbing
        elif attempt % 2:
            order = chance.sample(by_size, len(by_size))
        else:
            order = sorted(bodies, key=lambda body: -bodies[body].size * chance.uniform(0.5, 1))
        offsets = _first_fit(order, distances)
        top = max((offsets[body] + bodies[body].size for body in bodies), default=0)
        if best is None or top < best[0]:
            best = top, offsets
        if best[0] <= wanted:
            break
        if attempt >= _DRAWN:
            highest = max(order, key=lambda body: (offsets[body] + bodies[body].size, body))
            climbing = [highest, *(body for body in order if body != highest)]
            if chance.random() < 0.5:
                i, j = chance.randrange(len(order)), chance.randrange(len(order))
                climbing[i], climbing[j] = climbing[j], climbing[i]
    assert best is not None
    return best


#: For each body the others that are needed at some time together with it, and how far apart the two may not begin: open
#: intervals, in ascending order, that the other's offset less its own can't lie in.
_Distances = Mapping[int, Mapping[int, Sequence[Span]]]


def _distances(bodies: Mapping[int, Body]) -> _Distances:
    masks = {name: [_mask(part) for part in body.parts] for name, body in bodies.items()}
    ever = {name: _union(spans) for name, spans in masks.items()}
    distances: dict[int, dict[int, Sequence[Span]]] = {name: {} for name in bodies}
    for (a, first), (b, other) in combinations(bodies.items(), 2):
        if ever[a] & ever[b]:
            forbidden = _merged(
                (p.offset - q.offset - q.size, p.offset + p.size - q.offset)
                for p, when in zip(first.parts, masks[a], strict=True)
                for q, then in zip(other.parts, masks[b], strict=True)
                if when & then and p.size and q.size
            )
            if forbidden:
                distances[a][b] = forbidden
                distances[b][a] = [(-high, -low) for low, high in reversed(forbidden)]
    return distances


def _mask(part: Part) -> int:
    """The times of a part as the bits of a number."""
    return _union([((1 << (last - first + 1)) - 1) << first for first, last in part.spans])


def _union(masks: Sequence[int]) -> int:
    union = 0
    for mask in masks:
        union |= mask
    return union


def _merged(intervals: Iterable[Span]) -> list[Span]:
    """Open intervals, joined where they overlap; those that only touch leave the point between them free."""
    merged: list[Span] = []
    for low, high in sorted(intervals):
        if merged and low < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return merged


def _first_fit(order: Sequence[int], distances: _Distances) -> dict[int, int]:
    offsets: dict[int, int] = {}
    for body in order:
        taken = [
            (offsets[other] - high, offsets[other] - low)
            for other, forbidden in distances[body].items()
            if other in offsets
            for low, high in forbidden
        ]
        taken.sort()
        at = 0
        for low, high in taken:
            if low >= at:
                break
            at = max(at, high)
        offsets[body] = at
    return offsets
