"""How fast and how close `mcuprune.schedule` is on 47 generated graphs and 18 large ones, written to memory.json and memory.md.

    python tests/benchmarks/bench_memory.py [--only NAME ...] [--baseline SECONDS | --keep-baseline] [--seed N] [--out DIR]

The graphs follow the published descriptions of the architectures; names ending in ``_like`` keep the style of a
topology but not its exact wiring. Sizes are int8 elements. Times are CPU seconds of this process, so a busy machine
matters little. The baseline is the plain backward dynamic programme over sets of live tensors.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mcuprune.schedule.greedy import list_schedules
from mcuprune.schedule.search import Graph, Op, Planner, Schedule, max_in_out, schedule, walk
from mcuprune.schedule.sides import Side

HERE = Path(__file__).resolve().parent
DEFAULT_SEED = 0


class Map(NamedTuple):
    """A feature map: its buffer, channels and height (= width)."""

    buffer: int
    channels: int
    side: int


class Builder:
    """Collects operators in file order."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.sizes: list[int] = []
        self.inputs: list[int] = []
        self.outputs: list[int] = []

    def buffer(self, channels: int, side: int) -> Map:
        self.sizes.append(channels * side * side)
        return Map(len(self.sizes) - 1, channels, side)

    def input(self, channels: int, side: int) -> Map:
        made = self.buffer(channels, side)
        self.inputs.append(made.buffer)
        return made

    def output(self, *maps: Map) -> None:
        self.outputs.extend(found.buffer for found in maps)

    def op(self, reads: Sequence[Map], channels: int, side: int, *, in_place: bool = False) -> Map:
        buffers = tuple(dict.fromkeys(found.buffer for found in reads))
        made = self.buffer(channels, side)
        self.ops.append(Op(buffers, (made.buffer,), buffers if in_place else ()))
        return made

    def conv(self, x: Map, channels: int, stride: int = 1) -> Map:
        """A convolution with its activation, or a pool."""
        return self.op([x], channels, -(-x.side // stride))

    def pool(self, x: Map, stride: int = 2) -> Map:
        return self.conv(x, x.channels, stride)

    def depthwise(self, x: Map, stride: int = 1) -> Map:
        return self.conv(x, x.channels, stride)

    def separable(self, x: Map, channels: int, stride: int = 1) -> Map:
        return self.conv(self.depthwise(x, stride), channels)

    def act(self, x: Map) -> Map:
        """A unary element-wise operator of its own."""
        return self.op([x], x.channels, x.side, in_place=True)

    def add(self, *maps: Map) -> Map:
        """An element-wise operator over maps of one shape (the first's, where one is broadcast)."""
        return self.op(maps, maps[0].channels, maps[0].side, in_place=True)

    def concat(self, *maps: Map) -> Map:
        return self.op(maps, sum(found.channels for found in maps), maps[0].side)

    def resize(self, x: Map, side: int) -> Map:
        return self.op([x], x.channels, side)

    def split(self, x: Map, parts: int = 2) -> list[Map]:
        made = [self.buffer(x.channels // parts, x.side) for _ in range(parts)]
        self.ops.append(Op((x.buffer,), tuple(part.buffer for part in made)))
        return made

    def classify(self, x: Map, classes: int = 10) -> None:
        self.output(self.conv(self.conv(x, x.channels, x.side), classes))

    def graph(self) -> Graph:
        if not self.outputs:
            used = {buffer for op in self.ops for buffer in op.inputs}
            self.outputs = [b for b in range(len(self.sizes)) if b not in used]
        return Graph(tuple(self.ops), tuple(self.sizes), tuple(self.inputs), tuple(self.outputs))


def chain(channels: Sequence[int], strides: Sequence[int], side: int, depthwise: bool = False) -> Graph:
    net = Builder()
    x = net.input(3, side)
    for width, stride in zip(channels, strides, strict=True):
        x = net.separable(x, width, stride) if depthwise else net.conv(x, width, stride)
    net.classify(x)
    return net.graph()


def resnet(blocks: Sequence[int], *, bottleneck: bool, side: int = 224, width: int = 64, cifar: bool = False) -> Graph:
    """He et al. 2016."""
    net = Builder()
    x = net.conv(net.input(3, side), width, 1 if cifar else 2)
    if not cifar:
        x = net.pool(x)
    for stage, repeats in enumerate(blocks):
        inner = width << stage
        outer = inner * 4 if bottleneck else inner
        for block in range(repeats):
            stride = 2 if stage and not block else 1
            y = net.conv(x, inner, 1 if bottleneck else stride)
            y = net.conv(net.conv(y, inner, stride), outer) if bottleneck else net.conv(y, outer)
            shortcut = net.conv(x, outer, stride) if x.channels != outer or stride != 1 else x
            x = net.act(net.add(y, shortcut))
    net.classify(x, 1000)
    return net.graph()


def inverted(net: Builder, x: Map, channels: int, stride: int, expand: int, excite: bool = False) -> Map:
    inner = x.channels * expand
    y = net.conv(x, inner) if expand > 1 else x
    y = net.depthwise(y, stride)
    if excite:
        y = net.add(y, net.act(y))
        gate = net.conv(net.conv(net.conv(y, inner, y.side), max(1, x.channels // 4)), inner)
        y = net.add(y, net.act(gate))
    y = net.conv(y, channels)
    return net.add(y, x) if stride == 1 and x.channels == channels else y


def mobilenet_v2(alpha: float, side: int) -> Graph:
    """Sandler et al. 2018, table 2."""

    def width(channels: float) -> int:
        return max(8, int(channels * alpha + 4) // 8 * 8)

    net = Builder()
    x = net.conv(net.input(3, side), width(32), 2)
    table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expand, channels, repeats, stride in table:
        for block in range(repeats):
            x = inverted(net, x, width(channels), stride if not block else 1, expand)
    net.classify(net.conv(x, 1280))
    return net.graph()


def efficientnet_b0() -> Graph:
    """Tan and Le 2019, table 1, with squeeze-and-excitation and SiLU as Sigmoid and Mul."""
    net = Builder()
    x = net.conv(net.input(3, 224), 32, 2)
    table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 40, 2, 2), (6, 80, 3, 2), (6, 112, 3, 1), (6, 192, 4, 2), (6, 320, 1, 1))
    for expand, channels, repeats, stride in table:
        for block in range(repeats):
            x = inverted(net, x, channels, stride if not block else 1, expand, excite=True)
    net.classify(net.conv(x, 1280), 1000)
    return net.graph()


def densenet(blocks: Sequence[int] = (6, 12, 24, 16), growth: int = 32) -> Graph:
    """Huang et al. 2017: normalisation and activation are operators of their own, in front of the convolutions."""
    net = Builder()
    x = net.pool(net.conv(net.input(3, 224), 2 * growth, 2))
    for stage, layers in enumerate(blocks):
        for _ in range(layers):
            y = net.conv(net.act(net.act(x)), 4 * growth)
            x = net.concat(x, net.conv(net.act(y), growth))
        if stage < len(blocks) - 1:
            x = net.pool(net.conv(net.act(net.act(x)), x.channels // 2))
    net.classify(net.act(net.act(x)), 1000)
    return net.graph()


def inception(*, second: bool = False) -> Graph:
    """Szegedy et al. 2015, table 1; ``second`` replaces the 5x5 by two 3x3."""
    net = Builder()
    x = net.pool(net.conv(net.input(3, 224), 64, 2))
    x = net.pool(net.conv(net.conv(x, 64), 192))
    table = (
        (64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64), None,
        (192, 96, 208, 16, 48, 64), (160, 112, 224, 24, 64, 64), (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64), (256, 160, 320, 32, 128, 128), None,
        (256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128),
    )  # fmt: skip
    for row in table:
        if row is None:
            x = net.pool(x)
            continue
        one, reduce3, three, reduce5, five, projected = row
        a = net.conv(x, one)
        b = net.conv(net.conv(x, reduce3), three)
        c = net.conv(net.conv(x, reduce5), five)
        if second:
            c = net.conv(c, five)
        x = net.concat(a, b, c, net.conv(net.pool(x, 1), projected))
    net.classify(x, 1000)
    return net.graph()


def squeezenet() -> Graph:
    """Iandola et al. 2016, v1.1."""
    net = Builder()
    x = net.pool(net.conv(net.input(3, 224), 64, 2))
    for fire, squeeze in enumerate((16, 16, 32, 32, 48, 48, 64, 64)):
        if fire in (2, 4):
            x = net.pool(x)
        y = net.conv(x, squeeze)
        x = net.concat(net.conv(y, 4 * squeeze), net.conv(y, 4 * squeeze))
    net.classify(net.conv(x, 1000), 1000)
    return net.graph()


def shufflenet_v1() -> Graph:
    """Zhang et al. 2018: grouped convolutions, a shuffle, and a pooled shortcut that is concatenated."""
    net = Builder()
    x = net.pool(net.conv(net.input(3, 224), 24, 2))
    for channels, repeats in ((240, 4), (480, 8), (960, 4)):
        for block in range(repeats):
            down = block == 0
            made = channels - x.channels if down else channels
            y = net.conv(net.conv(x, channels // 4), channels // 4)
            y = net.conv(net.depthwise(y, 2 if down else 1), made)
            x = net.act(net.concat(net.pool(x), y)) if down else net.act(net.add(x, y))
    net.classify(x, 1000)
    return net.graph()


def shufflenet_v2() -> Graph:
    """Ma et al. 2018, 1.0x: channel split, and a shuffle that moves memory."""
    net = Builder()
    x = net.pool(net.conv(net.input(3, 224), 24, 2))
    for channels, repeats in ((116, 4), (232, 8), (464, 4)):
        half = channels // 2
        for block in range(repeats):
            if block == 0:
                a = net.conv(net.depthwise(x, 2), half)
                b = net.conv(net.depthwise(net.conv(x, half), 2), half)
            else:
                a, b = net.split(x)
                b = net.conv(net.depthwise(net.conv(b, half)), half)
            x = net.conv(net.concat(a, b), channels)
    net.classify(net.conv(x, 1024), 1000)
    return net.graph()


def unet(side: int = 128, width: int = 16, depth: int = 4) -> Graph:
    """Ronneberger et al. 2015."""
    net = Builder()
    x = net.input(3, side)
    skips = []
    for level in range(depth):
        x = net.conv(net.conv(x, width << level), width << level)
        skips.append(x)
        x = net.pool(x)
    x = net.conv(net.conv(x, width << depth), width << depth)
    for level in reversed(range(depth)):
        x = net.conv(net.resize(x, skips[level].side), width << level)
        x = net.conv(net.conv(net.concat(skips[level], x), width << level), width << level)
    net.output(net.conv(x, 2))
    return net.graph()


def unet_plus_plus(side: int = 96, width: int = 16, depth: int = 4) -> Graph:
    """Zhou et al. 2018: every node reads all nodes of its row and the one below it, resized."""
    net = Builder()
    x = net.input(3, side)
    nodes: dict[tuple[int, int], Map] = {}
    for level in range(depth + 1):
        x = net.conv(net.conv(x if not level else net.pool(x), width << level), width << level)
        nodes[level, 0] = x
    for column in range(1, depth + 1):
        for level in range(depth + 1 - column):
            row = [nodes[level, before] for before in range(column)]
            below = net.resize(nodes[level + 1, column - 1], row[0].side)
            nodes[level, column] = net.conv(net.concat(*row, below), width << level)
    net.output(net.conv(nodes[0, depth], 2))
    return net.graph()


def hrnet_like(branches: int = 4, side: int = 48, width: int = 18) -> Graph:
    """Wang et al. 2020: parallel resolutions that exchange by strided convolutions and resizing, then add."""
    net = Builder()
    maps = [net.conv(net.conv(net.input(3, 4 * side), 64, 2), width, 2)]
    for stage in range(1, branches):
        maps.append(net.conv(maps[-1], width << stage, 2))
        maps = [net.add(net.conv(net.conv(x, x.channels), x.channels), x) for x in maps]
        fused = []
        for at, goal in enumerate(maps):
            total = goal
            for source, x in enumerate(maps):
                if source > at:
                    total = net.add(total, net.resize(net.conv(x, goal.channels), goal.side))
                while source < at:
                    source += 1
                    x = net.conv(x, width << source, 2)
                    if source == at:
                        total = net.add(total, x)
            fused.append(total)
        maps = fused
    everything = [maps[0], *(net.resize(x, maps[0].side) for x in maps[1:])]
    net.output(net.conv(net.concat(*everything), 17))
    return net.graph()


def bifpn(repeats: int = 3, width: int = 64, side: int = 64) -> Graph:
    """Tan et al. 2020, figure 3: five levels, top-down then bottom-up, with skips from the input."""
    net = Builder()
    x = net.conv(net.input(3, 2 * side), 16, 2)
    levels = []
    for channels in (40, 80, 112, 192, 320):
        x = net.separable(x, channels, 2)
        levels.append(net.conv(x, width // 2))
    for _ in range(repeats):
        middle = list(levels)
        for at in range(3, -1, -1):
            up = net.resize(middle[at + 1], levels[at].side)
            middle[at] = net.separable(net.add(levels[at], up), levels[at].channels)
        outs = [middle[0]]
        for at in range(1, 5):
            down = net.pool(outs[-1])
            parts = (levels[at], middle[at], down) if at < 4 else (levels[at], down)
            outs.append(net.separable(net.add(*parts), levels[at].channels))
        levels = outs
    for level in levels:
        net.output(net.conv(net.depthwise(level), 36))
    return net.graph()


def cell_op(net: Builder, name: str, x: Map, channels: int, stride: int) -> Map:
    if name == "skip":
        return x if stride == 1 else net.conv(x, channels, 2)
    if name == "pool":
        return net.pool(x, stride)
    if name == "dil":
        return net.separable(x, channels, stride)
    return net.separable(net.separable(x, channels, stride), channels)


def cells(
    normal: Sequence[tuple[str, int, str, int]],
    reduce: Sequence[tuple[str, int, str, int]],
    plan: str,
    *,
    width: int,
    side: int,
    join_all: bool = False,
) -> Graph:
    """Cells of two inputs, each node adding two operations on earlier nodes; all or the unused are concatenated."""
    net = Builder()
    stem = net.conv(net.input(3, side), 3 * width)
    before, now = stem, stem
    for kind in plan:
        stride = 2 if kind == "r" else 1
        width *= stride
        rows = reduce if kind == "r" else normal
        first = net.conv(before, width, before.side // now.side)
        states = [first, net.conv(now, width)]
        used = set()
        for left, a, right, b in rows:
            used.update((a, b))
            states.append(
                net.add(
                    cell_op(net, left, states[a], width, stride if a < 2 else 1),
                    cell_op(net, right, states[b], width, stride if b < 2 else 1),
                )
            )
        loose = [found for at, found in enumerate(states) if at not in used and found.side == states[-1].side]
        before, now = now, net.concat(*(states[2:] if join_all else loose))
    net.classify(now)
    return net.graph()


def darts() -> Graph:
    """Liu et al. 2019, second order, eight cells of width 16; every node of a cell is concatenated."""
    normal = (("sep", 0, "sep", 1), ("sep", 0, "sep", 1), ("sep", 1, "skip", 0), ("skip", 0, "dil", 2))
    reduce = (("pool", 0, "pool", 1), ("skip", 2, "pool", 1), ("pool", 0, "skip", 2), ("skip", 2, "pool", 1))
    return cells(normal, reduce, "nnrnnrnn", width=16, side=32, join_all=True)


NASNET_NORMAL = (
    ("sep", 1, "skip", 1),
    ("sep", 0, "sep", 1),
    ("pool", 1, "skip", 0),
    ("pool", 0, "pool", 0),
    ("sep", 0, "sep", 0),
)
NASNET_REDUCE = (
    ("sep", 0, "sep", 1),
    ("pool", 1, "sep", 0),
    ("pool", 1, "sep", 0),
    ("skip", 3, "pool", 2),
    ("sep", 2, "pool", 1),
)
AMOEBA_NORMAL = (
    ("pool", 0, "skip", 1),
    ("sep", 0, "skip", 1),
    ("sep", 2, "sep", 3),
    ("pool", 0, "sep", 1),
    ("sep", 4, "pool", 0),
)
AMOEBA_REDUCE = (
    ("pool", 0, "sep", 1),
    ("sep", 0, "pool", 1),
    ("sep", 2, "skip", 3),
    ("pool", 1, "sep", 0),
    ("sep", 4, "skip", 2),
)


def nasnet(plan: str, width: int, side: int) -> Graph:
    """Zoph et al. 2018, NASNet-A: `plan` lists normal and reduction cells."""
    return cells(NASNET_NORMAL, NASNET_REDUCE, plan, width=width, side=side)


def swiftnet_like(seed: int) -> Graph:
    """Three cells of irregular wiring, as hardware-aware searches find them."""
    rng = random.Random(seed)
    net = Builder()
    x = net.conv(net.input(3, 112), 16, 2)
    for channels in (16, 32, 64):
        states = [net.conv(x, channels), net.conv(x, channels)]
        for _ in range(6):
            reads = rng.sample(states, rng.choice((1, 2, 2)))
            y = reads[0] if len(reads) == 1 else net.add(*reads)
            states.append(net.separable(y, channels) if rng.random() < 0.5 else net.conv(y, channels))
        used = {buffer for op in net.ops for buffer in op.inputs}
        x = net.conv(net.concat(*(found for found in states if found.buffer not in used)), channels, 2)
    net.classify(x)
    return net.graph()


def randwire_stage(net: Builder, x: Map, n_nodes: int, channels: int, seed: int, *, fused: bool) -> Map:
    """Xie et al. 2019: Watts-Strogatz (n, 4, 0.75), edges from lower to higher number, the first stride two."""
    rng = random.Random(seed)
    edges = {(v, (v + hop) % n_nodes) for v in range(n_nodes) for hop in (1, 2)}
    for hop in (1, 2):
        for v in range(n_nodes):
            if rng.random() < 0.75:
                free = [w for w in range(n_nodes) if w != v and (v, w) not in edges and (w, v) not in edges]
                edges.discard((v, (v + hop) % n_nodes))
                edges.add((v, rng.choice(free)))
    sources: list[list[int]] = [[] for _ in range(n_nodes)]
    for a, b in sorted(edges):
        sources[max(a, b)].append(min(a, b))
    made: list[Map] = []
    for v in range(n_nodes):
        reads = [made[w] for w in sorted(set(sources[v]))]
        if fused:
            made.append(net.op(reads, channels, reads[0].side) if reads else net.conv(x, channels, 2))
            continue
        y = net.add(*reads) if len(reads) > 1 else reads[0] if reads else x
        made.append(net.separable(y, channels, 1 if reads else 2))
    last = [made[v] for v in range(n_nodes) if not any(v in found for found in sources)]
    return net.add(*last) if len(last) > 1 else last[0]


def randwire(seeds: Sequence[int], n_nodes: int, *, fused: bool = False) -> Graph:
    net = Builder()
    channels = 78
    x = net.conv(net.input(3, 112), channels // 2, 2)
    for seed in seeds:
        x = randwire_stage(net, x, n_nodes, channels, seed, fused=fused)
        channels *= 2
    net.classify(x, 1000)
    return net.graph()


def attention(n_heads: int = 12, *, tokens: int, width: int, residual: bool) -> Graph:
    """Attention whose heads are separate operators: three projections, scores, softmax and values for each."""
    net = Builder()
    x = net.input(tokens * width, 1)
    size = tokens * width // n_heads
    heads = []
    for _ in range(n_heads):
        query, key, value = (net.op([x], size, 1) for _ in range(3))
        scores = net.op([net.op([query, key], tokens**2, 1)], tokens**2, 1)
        heads.append(net.op([scores, value], size, 1))
    y = net.op([net.op(heads, tokens * width, 1)], tokens * width, 1)
    net.output(net.add(y, x) if residual else y)
    return net.graph()


def tiny_vit(blocks: int = 2, n_heads: int = 3, tokens: int = 64, width: int = 96) -> Graph:
    net = Builder()
    x = net.op([net.input(3, 64)], tokens * width, 1)
    for _ in range(blocks):
        y = net.op([x], tokens * width, 1)
        heads = []
        for _ in range(n_heads):
            query, key, value = (net.op([y], tokens * width // n_heads, 1) for _ in range(3))
            scores = net.op([net.op([net.op([query, key], tokens**2, 1)], tokens**2, 1, in_place=True)], tokens**2, 1)
            heads.append(net.op([scores, value], tokens * width // n_heads, 1))
        x = net.add(net.op([net.op(heads, tokens * width, 1)], tokens * width, 1), x)
        y = net.act(net.op([net.op([x], tokens * width, 1)], 2 * tokens * width, 1))
        x = net.add(net.op([y], tokens * width, 1), x)
    net.output(net.op([x], 10, 1))
    return net.graph()


def random_layered(n_ops: int, seed: int) -> Graph:
    """Operators in layers of about ten, each reading one to three maps of the last few layers; sizes differ freely."""
    rng = random.Random(seed)
    net = Builder()
    layers = [[net.input(16, 16)]]
    while len(net.ops) < n_ops:
        pool = [found for layer in layers[-3:] for found in layer]
        layer = []
        for _ in range(min(rng.randint(4, 12), n_ops - len(net.ops))):
            reads = rng.sample(pool, min(len(pool), rng.randint(1, 3)))
            layer.append(net.op(reads, rng.randint(4, 64), 16))
        layers.append(layer)
    return net.graph()


def wide(branches: int, depth: int, cross: int = 0, seed: int = 0) -> Graph:
    """Branches of one input, concatenated; ``cross`` operators read a neighbouring branch as well."""
    rng = random.Random(seed)
    net = Builder()
    x = net.conv(net.input(3, 64), 16, 2)
    fronts = [x] * branches
    crossing = set(rng.sample(range(branches * (depth - 1)), cross)) if cross else set()
    for layer in range(depth):
        following = []
        for branch in range(branches):
            reads = [fronts[branch]]
            if layer and (layer - 1) * branches + branch in crossing:
                reads.append(fronts[(branch + 1) % branches])
            following.append(net.op(reads, 8 + (branch * 5) % 9 if layer < depth - 1 else 8, 32))
        fronts = following
    net.classify(net.conv(net.concat(*fronts), 32))
    return net.graph()


def wide_heads(n_heads: int = 44) -> Graph:
    """Heads of different widths that all read one map, which dies with the last; each makes a graph output."""
    net = Builder()
    x = net.conv(net.input(3, 32), 24, 2)
    for head in range(n_heads):
        y = net.conv(net.conv(x, 8 + (head * 7) % 13), 4 + (head * 5) % 11)
        net.output(net.conv(y, 1 + head % 3))
    return net.graph()


def resnext(branches: int = 32, blocks: int = 2) -> Graph:
    """Xie et al. 2017, figure 3a: branches that a chain of additions sums up, listed layer by layer."""
    net = Builder()
    x = net.conv(net.input(3, 32), 64, 2)
    for _ in range(blocks):
        inner = [net.conv(x, 4) for _ in range(branches)]
        inner = [net.conv(y, 4) for y in inner]
        outer = [net.conv(y, 64) for y in inner]
        total = x
        for y in outer:
            total = net.add(total, y)
        x = total
    net.classify(x)
    return net.graph()


def ssd_heads() -> Graph:
    """Liu et al. 2016: six scales, a box and a class head on each, gathered in two outputs."""
    net = Builder()
    x = net.conv(net.input(3, 96), 8, 2)
    boxes, classes = [], []
    for scale, channels in enumerate((16, 32, 64, 96, 128, 128)):
        x = net.separable(x, channels, 2)
        if scale > 4:
            x = net.conv(x, channels)
        boxes.append(net.op([net.depthwise(x)], 24 * x.side**2, 1))
        classes.append(net.op([net.depthwise(x)], 126 * x.side**2, 1))
    net.output(net.concat(*boxes), net.op([net.concat(*classes)], sum(found.channels for found in classes), 1))
    return net.graph()


def two_inputs() -> Graph:
    net = Builder()
    a, b = net.input(4, 32), net.input(8, 32)
    x, y = net.conv(a, 16), net.conv(b, 8)
    z = net.concat(net.conv(x, 4), net.conv(y, 8), a)
    net.output(net.add(net.conv(z, 8), y), net.conv(b, 2))
    return net.graph()


VGG19 = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))


def vgg(table: Sequence[tuple[int, int]], side: int) -> Graph:
    net = Builder()
    x = net.input(3, side)
    for channels, repeats in table:
        for _ in range(repeats):
            x = net.conv(x, channels)
        x = net.pool(x)
    net.classify(x)
    return net.graph()


GRAPHS: dict[str, Callable[[], Graph]] = {
    "chain_dscnn": lambda: chain((64,) * 5, (2, 1, 1, 1, 1), 32, depthwise=True),
    "vgg11": lambda: vgg(((64, 1), (128, 1), (256, 2), (512, 2), (512, 2)), 32),
    "vgg19": lambda: vgg(VGG19, 224),
    "resnet8_cifar": lambda: resnet((1, 1, 1), bottleneck=False, side=32, width=16, cifar=True),
    "resnet18": lambda: resnet((2, 2, 2, 2), bottleneck=False),
    "resnet50": lambda: resnet((3, 4, 6, 3), bottleneck=True),
    "mobilenetv2": lambda: mobilenet_v2(0.35, 96),
    "efficientnet_b0_se": efficientnet_b0,
    "densenet121": densenet,
    "inception_v1": inception,
    "inception_v2": lambda: inception(second=True),
    "squeezenet": squeezenet,
    "shufflenet_v1": shufflenet_v1,
    "shufflenet_v2_split": shufflenet_v2,
    "unet_128": unet,
    "unet_plus_plus_96": unet_plus_plus,
    "hrnet_like": hrnet_like,
    "bifpn_3x": bifpn,
    "darts_v2": darts,
    "nasnet_a_cifar_n2": lambda: nasnet("nnrnnrnn", 32, 32),
    "nasnet_a_cifar_n6": lambda: nasnet("nnnnnnrnnnnnnrnnnnnn", 32, 32),
    "nasnet_a_mobile": lambda: nasnet("nnnnrnnnnrnnnn", 44, 56),
    "amoebanet_like": lambda: cells(AMOEBA_NORMAL, AMOEBA_REDUCE, "nnrnnrnn", width=24, side=32),
    "swiftnet_like_0": lambda: swiftnet_like(0),
    "swiftnet_like_1": lambda: swiftnet_like(1),
    "swiftnet_like_2": lambda: swiftnet_like(2),
    "randwire_n32_s0": lambda: randwire([0], 32),
    "randwire_n32_s1": lambda: randwire([1], 32),
    "randwire_n32_s2": lambda: randwire([2], 32),
    "randwire_n32_s3": lambda: randwire([3], 32),
    "randwire_n32_s4": lambda: randwire([4], 32),
    "randwire_fused_n32_s7": lambda: randwire([7], 32, fused=True),
    "randwire_n64_s3": lambda: randwire([3], 64),
    "randwire_3x32": lambda: randwire([10, 11, 12], 32),
    "attention_12_heads": lambda: attention(tokens=96, width=96, residual=True),
    "attention_12_heads_bare": lambda: attention(tokens=48, width=192, residual=False),
    "tiny_vit": tiny_vit,
    "random_layered_40": lambda: random_layered(40, 1),
    "random_layered_80": lambda: random_layered(80, 2),
    "random_layered_120": lambda: random_layered(120, 3),
    "wide_40x4": lambda: wide(40, 4),
    "wide_44x3_cross12": lambda: wide(44, 3, 12),
    "wide_48x2": lambda: wide(48, 2),
    "wide_heads_44": wide_heads,
    "resnext_32_branches": resnext,
    "ssd_6_scales": ssd_heads,
    "two_inputs": two_inputs,
}


@dataclass(frozen=True)
class Baseline:
    """What the plain dynamic programme found: states kept, CPU seconds, and the peak unless it ran out of time."""

    states: int
    cpu_seconds: float
    peak: int | None


def plain_dynamic_programme(graph: Graph, cap_seconds: float) -> Baseline | None:
    """Least peak without in-place writing, by taking back operators from the end; None for several-output operators.

    One state for each set of live buffers, nothing pruned: the scheme of Liberis and Lane 2019 ("Neural networks on
    microcontrollers: saving memory at inference via operator reordering"), with an input counted once however many
    operators read it.
    """
    if any(len(op.outputs) != 1 for op in graph.ops):
        return None
    maker = {op.outputs[0]: v for v, op in enumerate(graph.ops)}
    before = [0] * len(graph.ops)
    for v, op in enumerate(graph.ops):
        for buffer in op.inputs:
            if buffer in maker:
                before[v] |= before[maker[buffer]] | 1 << maker[buffer]
    started = time.process_time()
    first = frozenset(graph.outputs)
    known: dict[frozenset[int], int] = {}
    waiting: list[tuple[frozenset[int], list[tuple[int, frozenset[int]]] | None]] = [(first, None)]
    while waiting:
        live, ways = waiting.pop()
        if live in known:
            continue
        if ways is None:
            made = [buffer for buffer in live if buffer in maker]
            ways = []
            for buffer in made:
                v = maker[buffer]
                if any(before[maker[other]] >> v & 1 for other in made):
                    continue
                present = live.union(graph.ops[v].inputs)
                ways.append((sum(graph.sizes[b] for b in present), present - {buffer}))
            if ways:
                waiting.append((live, ways))
                waiting.extend((earlier, None) for _, earlier in ways if earlier not in known)
                continue
        known[live] = min((max(need, known[earlier]) for need, earlier in ways), default=sum(graph.sizes[b] for b in live))
        if len(known) % 256 == 0 and time.process_time() - started > cap_seconds:
            return Baseline(len(known), time.process_time() - started, None)
    return Baseline(len(known), time.process_time() - started, known[first])


def states_met(graph: Graph) -> int:
    """States that `schedule` looks at, in searches and in beams together."""
    count = 0
    look = Side.forced

    def counting(*args: object) -> object:
        nonlocal count
        count += 1
        return look(*args)

    Side.forced = counting
    try:
        schedule(graph)
    finally:
        Side.forced = look
    return count


def without_in_place(graph: Graph) -> Graph:
    return replace(graph, ops=tuple(replace(op, in_place=()) for op in graph.ops))


def measure(name: str, graph: Graph, cap_seconds: float, kept: dict[str, object] | None) -> dict[str, object]:
    """kept: what an earlier run stored for the graph, for the plain programme's part in it."""
    seconds = []
    for _ in range(3):
        started = time.process_time()
        found = schedule(graph)
        seconds.append(time.process_time() - started)
        if sum(seconds) > 1:
            break
    given = max(step.bytes for step in walk(graph, range(len(graph.ops))))
    row: dict[str, object] = {
        "graph": name,
        "ops": len(graph.ops),
        "peak": found.peak,
        "lower_bound": found.lower_bound,
        "exact": found.exact,
        "cpu_ms": round(1e3 * sorted(seconds)[len(seconds) // 2], 2),
        "file_order": given,
        "max_in_out": max_in_out(graph),
        "tied_steps": len(found.peak_steps),
        "states": states_met(graph),
    }
    if cap_seconds:
        plain = without_in_place(graph)
        if kept is None:
            old = plain_dynamic_programme(plain, cap_seconds)
            row["baseline"] = None if old is None else vars(old) | {"cpu_seconds": round(old.cpu_seconds, 2)}
        else:
            row["baseline"] = kept["baseline"]
        new = schedule(plain)
        row["no_in_place"] = {"peak": new.peak, "exact": new.exact, "states": states_met(plain)}
        peak = row["baseline"] and row["baseline"]["peak"]
        if peak is not None and new.exact and peak != new.peak:
            raise AssertionError(f"{name}: the baseline finds {peak}, schedule {new.peak}")
    return row


def skipping_chain(n_ops: int, seed: int) -> Graph:
    """A chain of which every fourth operator also reads a map made up to twelve operators earlier."""
    rng = random.Random(seed)
    net = Builder()
    maps = [net.input(3, 16)]
    while len(net.ops) < n_ops:
        skips = [rng.choice(maps[-12:-1])] if len(maps) > 3 and rng.random() < 0.25 else []
        maps.append(net.op([maps[-1], *skips], rng.randint(4, 64), 16))
    return net.graph()


def pooled_layers(n_ops: int, seed: int) -> Graph:
    """``random_layered`` with one output: what nobody reads is pooled to a short vector, and the vectors are summed up."""
    layers = random_layered(n_ops * 4 // 5, seed)
    net = Builder()
    net.ops, net.sizes, net.inputs = list(layers.ops), list(layers.sizes), list(layers.inputs)
    total: Map | None = None
    for buffer in layers.outputs:
        pooled = net.conv(Map(buffer, 4, 16), 4, 16)
        total = pooled if total is None else net.op([total, pooled], 4, 1)
    assert total is not None
    net.output(total)
    return net.graph()


LARGE: dict[str, Callable[[int], Graph]] = {
    "random_layered": lambda n: random_layered(n, 1),
    "pooled_layers": lambda n: pooled_layers(n, 1),
    "nasnet_cells": lambda n: nasnet("n" * (n // 31), 8, 32),
    "amoebanet_cells": lambda n: cells(AMOEBA_NORMAL, AMOEBA_REDUCE, "n" * (n // 31), width=8, side=32),
    "skipping_chain": lambda n: skipping_chain(n, 1),
    "randwire": lambda n: randwire([1], n // 3),
}
LARGE_SIZES = (700, 1407, 2806)


def measure_large(name: str, n_ops: int) -> dict[str, object]:
    graph = LARGE[name](n_ops)
    started = time.process_time()
    found = schedule(graph)
    seconds = time.process_time() - started
    orders = list_schedules([op.inputs for op in graph.ops], [op.outputs for op in graph.ops], graph.sizes, graph.outputs)
    return {
        "graph": name,
        "ops": len(graph.ops),
        "file_order": max(step.bytes for step in walk(graph, range(len(graph.ops)))),
        "rules": min(max(step.bytes for step in walk(graph, order)) for order in orders),
        "peak": found.peak,
        "lower_bound": found.lower_bound,
        "cpu_s": round(seconds, 2),
    }


def pruned_sizes(graph: Graph, sizes: Sequence[int], peak_buffers: set[int], rng: random.Random) -> list[int]:
    """Sizes a pruning step later: those at the peak lose up to 12 %, a fifth of the others 2 %.

    Buffers written in place keep the size of their partner, concatenations the sum of their parts.
    """
    group = list(range(len(sizes)))
    for op in graph.ops:
        for buffer in op.in_place:
            if graph.sizes[buffer] == graph.sizes[op.outputs[0]]:
                old, new = group[op.outputs[0]], group[buffer]
                group = [new if found == old else found for found in group]
    factor: dict[int, float] = {}
    for buffer in range(len(sizes)):
        if buffer in graph.inputs:
            factor[group[buffer]] = 1
        elif buffer in peak_buffers:
            factor.setdefault(group[buffer], 1 - rng.random() * 0.12)
    for buffer in range(len(sizes)):
        factor.setdefault(group[buffer], 0.98 if rng.random() < 0.2 else 1)
    after = [max(1, int(size * factor[group[buffer]])) for buffer, size in enumerate(sizes)]
    for op in graph.ops:
        joined = sum(graph.sizes[buffer] for buffer in op.inputs)
        if len(op.inputs) > 1 and not op.in_place and graph.sizes[op.outputs[0]] == joined:
            after[op.outputs[0]] = sum(after[buffer] for buffer in op.inputs)
    return after


def measure_planner(name: str, graph: Graph, seed: int, n_steps: int = 25) -> dict[str, object]:
    rng = random.Random(seed)
    planner = Planner(graph)
    found: Schedule = planner.plan(graph.sizes)
    sizes: Sequence[int] = graph.sizes
    milliseconds, exact, reordered = [], 0, 0
    for _ in range(n_steps):
        sizes = pruned_sizes(graph, sizes, {b for step in found.peak_steps for b in step.buffers}, rng)
        order = found.order
        started = time.process_time()
        found = planner.plan(sizes)
        milliseconds.append(1e3 * (time.process_time() - started))
        exact += found.exact
        reordered += found.order != order
    return {
        "graph": name,
        "steps": n_steps,
        "exact": exact,
        "reordered": reordered,
        "mean_ms": round(sum(milliseconds) / n_steps, 2),
        "max_ms": round(max(milliseconds), 2),
    }


REPLANNED = (
    "mobilenetv2",
    "resnet18",
    "resnet50",
    "efficientnet_b0_se",
    "densenet121",
    "inception_v1",
    "shufflenet_v1",
    "unet_plus_plus_96",
    "bifpn_3x",
    "darts_v2",
    "nasnet_a_cifar_n2",
    "amoebanet_like",
    "randwire_n32_s0",
    "randwire_n32_s2",
)


def table(result: dict[str, object]) -> str:
    rows = result["graphs"]
    assert isinstance(rows, list)
    close = sum(row["peak"] <= 1.05 * row["lower_bound"] for row in rows)
    lines = [
        "# Least peak memory: speed and proof",
        "",
        f"`{result['command']}`, seed {result['seed']}, Python {result['python']}.",
        f"{sum(row['exact'] for row in rows)} of {len(rows)} graphs exact, {close} within 5 % of the lower bound."
        " Bytes are int8 elements; times are CPU time of one process (median of up to three); `states` counts sets of operators"
        " looked at by beams and searches (none where bounds that need no search prove the order).",
        "",
        "| graph | ops | peak | lower bound | gap | file order / peak | max in+out / peak | tied steps | states | CPU ms |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        peak = row["peak"]
        gap = "exact" if row["exact"] else f"{peak / row['lower_bound'] - 1:.1%}"
        lines.append(
            f"| {row['graph']} | {row['ops']} | {peak} | {row['lower_bound']} | {gap} | {row['file_order'] / peak:.3f} |"
            f" {row['max_in_out'] / peak:.3f} | {row['tied_steps']} | {row['states']} | {row['cpu_ms']:.1f} |"
        )
    compared = [row for row in rows if "baseline" in row]
    if compared:
        lines += [
            "",
            "## Beside the plain backward dynamic programme, without in-place writing",
            "",
            f"Capped at {result['baseline_cap_s']} CPU seconds; a dash: it has no form for operators with several outputs.",
            "",
            "| graph | peak | exact | states | plain: states | plain: CPU s | plain: peak |",
            "|---|--:|---|--:|--:|--:|--:|",
        ]
        for row in compared:
            new, old = row["no_in_place"], row["baseline"]
            plain = "- | - | -" if old is None else f"{old['states']} | {old['cpu_seconds']} | {old['peak'] or 'out of time'}"
            lines.append(f"| {row['graph']} | {new['peak']} | {'yes' if new['exact'] else 'no'} | {new['states']} | {plain} |")
    plans = result["planner"]
    assert isinstance(plans, list)
    if plans:
        lines += [
            "",
            "## Planning again while sizes shrink",
            "",
            "Buffers at the peak lose up to 12 % a step, a fifth of the others 2 %.",
            "",
            "| graph | steps | exact | order changed | mean CPU ms | most CPU ms |",
            "|---|--:|--:|--:|--:|--:|",
        ]
        lines += [
            f"| {row['graph']} | {row['steps']} | {row['exact']} | {row['reordered']} | {row['mean_ms']} | {row['max_ms']} |"
            for row in plans
        ]
    large = result["large"]
    assert isinstance(large, list)
    if large:
        lines += [
            "",
            "## Large graphs",
            "",
            "Too many operators for a search over all of them within the effort: orders by simple rules come first, then beams"
            " over windows around the neediest one, then cuts for the bound. `best rule`: the best of the rules' orders alone.",
            "",
            "| graph | ops | file order | best rule | peak | lower bound | peak / bound | CPU s |",
            "|---|--:|--:|--:|--:|--:|--:|--:|",
        ]
        lines += [
            f"| {row['graph']} | {row['ops']} | {row['file_order']} | {row['rules']} | {row['peak']} | {row['lower_bound']} |"
            f" {row['peak'] / row['lower_bound']:.3f} | {row['cpu_s']:.2f} |"
            for row in large
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=GRAPHS, metavar="NAME", default=list(GRAPHS))
    parser.add_argument("--baseline", type=float, default=0.0, metavar="SECONDS", help="also run the plain programme, so long")
    parser.add_argument(
        "--keep-baseline", action="store_true", help="take the plain programme's answers, which nothing here changes, as stored"
    )
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help="of the simulated pruning")
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    rows, plans, kept = [], [], {}
    if args.keep_baseline:
        stored = json.loads((HERE / "memory.json").read_text())
        args.baseline, kept = stored["baseline_cap_s"], {row["graph"]: row for row in stored["graphs"]}
    for name in args.only:
        graph = GRAPHS[name]()
        rows.append(measure(name, graph, args.baseline, kept.get(name)))
        print(rows[-1], flush=True)
        if name in REPLANNED:
            plans.append(measure_planner(name, graph, args.seed))
            print(plans[-1], flush=True)
    large = [measure_large(name, n_ops) for name in LARGE for n_ops in LARGE_SIZES] if args.only == list(GRAPHS) else []
    command = " ".join(["python", "tests/benchmarks/bench_memory.py", *sys.argv[1:]])
    result: dict[str, object] = {
        "command": command,
        "python": f"{platform.python_version()} ({platform.machine()})",
        "seed": args.seed,
        "baseline_cap_s": args.baseline,
        "graphs": rows,
        "planner": plans,
        "large": large,
    }
    (args.out / "memory.json").write_text(json.dumps(result, indent=1) + "\n")
    (args.out / "memory.md").write_text(table(result))


if __name__ == "__main__":
    main()
