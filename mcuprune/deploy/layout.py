"""Where in one arena each place of generated C lies, so that what is needed at the same time never shares a byte.

A place is a body of one or more parts that move together, each with the spans of time in which its bytes are needed: a tensor
is one part as a rule; where it is filled or emptied row by row, each row is a part of its own, and another tensor may take the
rows that are done with. All sizes and offsets are in bytes; spans of time include both ends.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

Span = tuple[int, int]
#: How many placements are tried at most for an arena of the wanted size, and pairs of bodies looked at for it.
_TRIES, _WORK = 2000, 4_000_000


@dataclass(frozen=True)
class Part:
    """Bytes of a body from ``offset`` on, and when they are needed."""

    offset: int
    size: int
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Body:
    """Parts that move together."""

    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
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


def laid_out(bodies: Mapping[int, Body], wanted: int) -> tuple[int, dict[int, int]]:
    """The bytes that all bodies take, and the offset of each.

    By first fit, in an order that a search varies until all fit into ``wanted`` bytes or its effort is spent.
    """
    between = _Distances(bodies)
    chance = random.Random(0)
    by_size = sorted(bodies, key=lambda body: (-bodies[body].size, body))
    backwards = sorted(bodies, key=lambda body: (-bodies[body].last, -bodies[body].size, body))
    best: tuple[int, dict[int, int]] | None = None
    for attempt in range(min(_TRIES, 2 + _WORK // max(1, len(bodies) ** 2))):
        if attempt < 2:
            order = (by_size, backwards)[attempt]
        elif attempt % 2:
            order = chance.sample(by_size, len(by_size))
        else:
            order = sorted(bodies, key=lambda body: -bodies[body].size * chance.uniform(0.5, 1))
        offsets = _first_fit(order, between)
        top = max((offsets[body] + bodies[body].size for body in bodies), default=0)
        if best is None or top < best[0]:
            best = top, offsets
        if best[0] <= wanted:
            break
    assert best is not None
    return best


class _Distances:
    """How far apart two bodies may not begin: for a pair (a, b) the open intervals that offset(b) - offset(a) can't lie in."""

    def __init__(self, bodies: Mapping[int, Body]) -> None:
        self._bodies = bodies
        self._masks = {name: [_mask(part) for part in body.parts] for name, body in bodies.items()}
        self._all = {name: _union(masks) for name, masks in self._masks.items()}
        self._known: dict[tuple[int, int], list[Span]] = {}

    def between(self, a: int, b: int) -> list[Span]:
        """In ascending order; empty where the two are never needed together."""
        if (a, b) not in self._known:
            found = self._found(a, b)
            self._known[a, b] = found
            self._known[b, a] = [(-high, -low) for low, high in reversed(found)]
        return self._known[a, b]

    def _found(self, a: int, b: int) -> list[Span]:
        if not self._all[a] & self._all[b]:
            return []
        ones, others = self._bodies[a].parts, self._bodies[b].parts
        forbidden = [
            (one.offset - other.offset - other.size, one.offset + one.size - other.offset)
            for one, when in zip(ones, self._masks[a], strict=True)
            for other, then in zip(others, self._masks[b], strict=True)
            if when & then and one.size and other.size
        ]
        return _merged(forbidden)


def _mask(part: Part) -> int:
    """The times of a part as the bits of a number."""
    return _union([((1 << (last - first + 1)) - 1) << first for first, last in part.spans])


def _union(masks: Sequence[int]) -> int:
    found = 0
    for mask in masks:
        found |= mask
    return found


def _merged(intervals: Sequence[Span]) -> list[Span]:
    """Open intervals, joined where they overlap; those that only touch leave the point between them free."""
    found: list[Span] = []
    for low, high in sorted(intervals):
        if found and low < found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], high))
        else:
            found.append((low, high))
    return found


def _first_fit(order: Sequence[int], distances: _Distances) -> dict[int, int]:
    offsets: dict[int, int] = {}
    for body in order:
        taken = sorted((at + low, at + high) for other, at in offsets.items() for low, high in distances.between(other, body))
        at = 0
        for low, high in taken:
            if low >= at:
                break
            at = max(at, high)
        offsets[body] = at
    return offsets
