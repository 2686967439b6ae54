"""Time grows nearly in proportion to the number of nodes."""

from __future__ import annotations

import gc
import json
import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from conftest import thorough_but
from graphs import Graph

from mcuprune import foreign
from mcuprune.channels.labelling import label
from mcuprune.costs import resources
from mcuprune.costs.resources import CostModel, SramModel
from mcuprune.deploy import planner
from mcuprune.graph.network import Network
from mcuprune.schedule import search

#: Answers that are kept for who asks again: nothing of an earlier turn may be left where time is taken.
KEPT = (search.known, planner.searched_layout)


def chain(n_nodes: int) -> Network:
    """Convolutions with activations in a row, an Add over every fourth."""
    g = Graph(1, 3, 8, 8)
    x = g.conv("x", 3, 4, 1)
    while len(g.nodes) < n_nodes - 3:
        y = g.add("Relu", g.conv(x, 4, 4, 1))
        x = g.add("Add", x, y) if len(g.nodes) % 4 == 0 else y
    return g.net(g.classifier(x, 4, 10))


def evaluate(net: Network, sram_model: SramModel) -> None:
    """What every step of a prune asks."""
    model = CostModel(label(net), sram_model)
    for resource in model.at(model.full):
        model.gradient(resource, model.full)


WORK: dict[str, Callable[[Network], object]] = {
    "label": label,
    "profile": resources.profile,
    "cost model of the peak": lambda net: evaluate(net, "peak"),
    "cost model of the arena": lambda net: evaluate(net, "tflm"),
}


@pytest.fixture(scope="module")
def chains() -> tuple[Network, Network]:
    return chain(1000), chain(4000)


@pytest.mark.thorough
@pytest.mark.parametrize("name", thorough_but(WORK, "profile", "cost model of the peak"))
def test_four_times_the_nodes_take_little_more_than_four_times_as_long(name: str, chains: tuple[Network, Network]) -> None:
    # A quadratic part as large as a fifth of the rest at 1,000 nodes would be more than 4^1.3. Python's search for garbage
    # is not the work's: it goes through all that other tests have left in this process, more often the more is made.
    limit = 4**1.3
    least = [float("inf")] * 2
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            for index, net in enumerate(chains):
                for kept in KEPT:
                    kept.cache_clear()
                started = time.process_time()
                WORK[name](net)
                least[index] = min(least[index], time.process_time() - started)
            if least[1] < limit * least[0]:
                break
    finally:
        gc.enable()
    assert least[1] < limit * least[0]


def test_neighbours_of_buffers_are_those_that_live_at_the_same_time() -> None:
    spans = [planner.Lifetime(first, first + (first * 7 + k) % 5) for first in range(30) for k in range(3)][::-1]
    found = planner.overlaps(spans)
    for i, a in enumerate(spans):
        together = (j for j, b in enumerate(spans) if j != i and set(range(a[0], a[1] + 1)) & set(range(b[0], b[1] + 1)))
        assert found[i] == tuple(together)


def test_a_search_for_a_layout_ends_where_thousands_of_buffers_are_alive_together(monkeypatch: pytest.MonkeyPatch) -> None:
    draw, looks, fit = random.Random(0), 0, planner.first_fit

    def counting(*args: Any) -> list[int]:
        nonlocal looks
        _, neighbours, order, _ = args
        looks += sum(len(neighbours[buffer]) for buffer in order)
        return fit(*args)

    monkeypatch.setattr(planner, "first_fit", counting)
    spans = tuple(planner.Lifetime(first, first + draw.randrange(2000)) for first in range(1500))
    sizes = tuple(16 * draw.randrange(1, 9) for _ in spans)
    neighbours = planner.overlaps(spans)
    once = sum(map(len, neighbours))
    assert planner.head_of(sizes, planner.searched_layout(sizes, spans, neighbours, len(sizes))) >= planner.most_alive(
        sizes, spans
    )
    assert once < looks <= planner._LOOKS + once


def test_a_long_document_is_written_on_one_line() -> None:
    few, many = {"live": [1.5, None]}, {"live": [float("nan"), *range(1_000_000)]}
    assert foreign.dumped(few).count("\n") == 6
    assert foreign.dumped(many).count("\n") == 1
    assert json.loads(foreign.dumped(many))["live"] == [None, *range(1_000_000)]
