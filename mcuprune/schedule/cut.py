"""Least bytes alive between two states, by maximum flow, and the effort that all searching counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mcuprune.schedule.structure import Costs, members

#: More than any bytes.
UNBOUNDED = 1 << 80


@dataclass(slots=True)
class Effort:
    """Looks at arcs and operators that are still allowed. One at an arc of a flow counts ``flow``: it handles no sets."""

    left: int
    flow: float = 1.0

    def flow_looks(self, count: int) -> None:
        """Count looks at arcs of a flow."""
        self.left -= int(count * self.flow)


class Cut:
    """Least bytes alive over the states between two states, by maximum flow (Dinic 1970).

    A node for each operator between them (on the source's side: has run) and one for each buffer with several
    consumers. A buffer is cut, and costs its size, where its maker has run and some consumer has not.
    """

    def __init__(self, costs: Costs, effort: Effort, low: int, high: int) -> None:
        structure, sizes = costs.structure, costs.sizes
        inside = high & ~low
        self._ops = list(members(inside))
        node = {v: at for at, v in enumerate(self._ops)}
        self._source, self._sink = len(self._ops), len(self._ops) + 1
        self._head: list[int] = []
        self._room: list[int] = []
        self._arcs: list[list[int]] = [[] for _ in range(len(self._ops) + 2)]
        self._low = low
        self.value = costs.live(low)
        entering: set[int] = set()
        for v in self._ops:
            here = node[v]
            joined = 0
            for b in structure.ops[v].outputs:
                if b not in structure.lasting or not sizes[b]:
                    continue
                consumers = structure.consumers[b]
                if b in structure.pinned or consumers & ~high:
                    self._join(here, self._sink, sizes[b], 0)
                elif consumers & (consumers - 1) == 0:
                    # The consumer can't have run without the maker: the way back is unbounded.
                    self._join(here, node[consumers.bit_length() - 1], sizes[b], UNBOUNDED)
                    joined |= consumers
                else:
                    self._fan(here, sizes[b], (node[c] for c in members(consumers)))
            for w in members(structure.successors[v] & inside & ~joined):
                self._join(node[w], here, UNBOUNDED, 0)
            entering.update(
                b for b, _ in structure.dying[v] if structure.maker[b] not in node and not structure.consumers[b] & ~high
            )
        for b in sorted(entering):
            waiting = structure.consumers[b] & inside
            if not sizes[b]:
                continue
            # Alive at `low`, so already counted; only what the flow can save of it matters.
            self.value -= sizes[b]
            if waiting & (waiting - 1) == 0:
                self._join(self._source, node[waiting.bit_length() - 1], sizes[b], 0)
            else:
                self._fan(self._source, sizes[b], (node[c] for c in members(waiting)))
        effort.flow_looks(len(self._head) + len(structure.lifetimes) // 4)
        self._distance = self._run(effort)

    def _join(self, tail: int, head: int, room: int, back: int) -> None:
        self._arcs[tail].append(len(self._head))
        self._arcs[head].append(len(self._head) + 1)
        self._head += (head, tail)
        self._room += (room, back)

    def _fan(self, tail: int, room: int, heads: Iterator[int]) -> None:
        middle = len(self._arcs)
        self._arcs.append([])
        self._join(tail, middle, room, 0)
        for head in heads:
            self._join(middle, head, UNBOUNDED, 0)

    def _run(self, effort: Effort) -> list[int]:
        heads, room, arcs, source, sink = self._head, self._room, self._arcs, self._source, self._sink
        looks = 0
        while True:
            distance = [-1] * len(arcs)
            distance[sink] = 0
            reached = [sink]
            for at in reached:
                if at == source:
                    break
                further = distance[at] + 1
                looks += len(arcs[at])
                for arc in arcs[at]:
                    tail = heads[arc]
                    if distance[tail] < 0 and room[arc ^ 1]:
                        distance[tail] = further
                        reached.append(tail)
            if distance[source] < 0:
                effort.flow_looks(looks)
                return distance
            cursor = [0] * len(arcs)
            path: list[int] = []
            at = source
            while True:
                if at == sink:
                    pushed = min(room[arc] for arc in path)
                    self.value += pushed
                    saturated = 0
                    for place in range(len(path) - 1, -1, -1):
                        arc = path[place]
                        room[arc] -= pushed
                        room[arc ^ 1] += pushed
                        if not room[arc]:
                            saturated = place
                    at = heads[path[saturated] ^ 1]
                    looks += len(path)
                    del path[saturated:]
                    continue
                nearer = distance[at] - 1
                for place in range(cursor[at], len(arcs[at])):
                    arc = arcs[at][place]
                    if room[arc] and distance[heads[arc]] == nearer:
                        looks += place - cursor[at] + 1
                        cursor[at] = place
                        path.append(arc)
                        at = heads[arc]
                        break
                else:
                    if at == source:
                        break
                    distance[at] = -1
                    at = heads[path.pop() ^ 1]

    def largest(self) -> int:
        """The largest of the states with the least bytes alive."""
        return self._low | sum(1 << v for at, v in enumerate(self._ops) if self._distance[at] < 0)

    def smallest(self) -> int:
        """The smallest of the states with the least bytes alive."""
        seen = [False] * len(self._arcs)
        seen[self._source] = True
        reached = [self._source]
        for at in reached:
            for arc in self._arcs[at]:
                if self._room[arc] and not seen[self._head[arc]]:
                    seen[self._head[arc]] = True
                    reached.append(self._head[arc])
        return self._low | sum(1 << v for at, v in enumerate(self._ops) if seen[at])
