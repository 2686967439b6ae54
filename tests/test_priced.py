"""A float network is priced as the file that is written from it, before any range is measured.

Where what makes a tensor leaves no doubt that its range is another one's, nothing converts between the two, in the price as in
the file. Where only the data can tell, the price is the larger one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from conftest import feed
from graphs import Graph
from layers import KINDS, Layers
from test_bands import as_int8, loaded
from test_tflite import model_of

from mcuprune.costs.resources import profile
from mcuprune.deploy.lower import lower
from mcuprune.deploy.program import Program

SHAPES = ((8, 8), (9, 6), (3, 5))
CHANNELS = 4
#: Adds layers behind a tensor of ``CHANNELS`` channels, and gives the tensors that the network ends in.
Build = Callable[[Graph, str], tuple[str, ...]]


def keeping(op: str, *constants: Any, channels: int = CHANNELS, **attrs: Any) -> Build:
    """One operator that something else reads than the tensor that it reads."""

    def build(graph: Graph, x: str) -> tuple[str, ...]:
        kept = graph.add(op, x, *(graph.value(np.array(value)) if value is not None else "" for value in constants), **attrs)
        return (graph.conv(kept, channels, 2), graph.conv(x, CHANNELS, 3))

    return build


def resized(mode: str, times: float, **attrs: Any) -> Build:
    return keeping("Resize", None, np.array([1, 1, times, times], np.float32), mode=mode, **attrs)


def corners(graph: Graph, x: str) -> tuple[str, ...]:
    height, width = (int(size.dim_value) for size in graph.inputs[0].type.tensor_type.shape.dim[2:])
    sizes = np.array([1, CHANNELS, 2 * height - 1, 3 * width - 2])
    return keeping("Resize", None, None, sizes, mode="linear", coordinate_transformation_mode="align_corners")(graph, x)


def joined(times: int, axis: int, rounds: int = 1) -> Build:
    """A tensor joined with itself, and the result with itself again."""

    def build(graph: Graph, x: str) -> tuple[str, ...]:
        whole = x
        for _ in range(rounds):
            whole = graph.add("Concat", *[whole] * times, axis=axis)
        return (graph.conv(whole, CHANNELS * times**rounds if axis == 1 else CHANNELS, 2), graph.conv(x, CHANNELS, 3))

    return build


def above_zero(build: Build) -> Build:
    """The same behind a Relu."""
    return lambda graph, x: build(graph, graph.add("Relu", x))


def parts(graph: Graph, x: str) -> tuple[str, ...]:
    """Two halves in another order."""
    first = graph.add("Split", x, graph.value(np.array([1, CHANNELS - 1])), outputs=2, axis=1)
    return (graph.conv(graph.add("Concat", f"{first}.1", first, axis=1), CHANNELS, 2), graph.conv(x, CHANNELS, 3))


def of_two(op: str, *clips: tuple[float, float]) -> Build:
    """Relus and Clips that a Concat joins and ``op`` takes too."""

    def build(graph: Graph, x: str) -> tuple[str, ...]:
        ends = [[graph.value(np.array(end, np.float32)) for end in clip] for clip in clips]
        held = [graph.add("Clip", graph.conv(x, CHANNELS, CHANNELS), *pair) for pair in ends]
        held += [graph.add("Relu", graph.conv(x, CHANNELS, CHANNELS)) for _ in range(2 - len(held))]
        whole = graph.add("Concat", *held, axis=1)
        return (graph.conv(whole, 2 * CHANNELS, 2), graph.conv(graph.add(op, *held), CHANNELS, 3))

    return build


def pooled_in_zeros(pool: str) -> Build:
    """A max pool over zeros that are padded around what is never below zero."""

    def build(graph: Graph, x: str) -> tuple[str, ...]:
        mean = graph.add(pool, graph.add("Relu", x), kernel_shape=[2, 2], strides=[1, 1])
        around = graph.add("Pad", mean, graph.value(np.array([0, 0, 1, 1, 0, 0, 1, 1])))
        return (graph.add("MaxPool", around, kernel_shape=[2, 2], strides=[2, 2]),)

    return build


def mean_of(make: Callable[[Graph, str], str]) -> Build:
    """A mean over space of a map of one value, whose range is the map's."""
    return lambda graph, x: (
        graph.conv(graph.add("GlobalAveragePool", make(graph, x)), CHANNELS, 2, 1),
        graph.conv(x, CHANNELS, 3),
    )


def of_one_cell(graph: Graph, x: str) -> str:
    cell = graph.conv(graph.add("GlobalAveragePool", x), CHANNELS, CHANNELS, 1)
    return graph.add("Resize", cell, "", graph.value(np.array([1, 1, 3, 3], np.float32)), mode="nearest")


def unheard(graph: Graph, x: str) -> str:
    """What no data gets through a Relu."""
    return graph.add("Relu", graph.add("Sub", graph.add("Sigmoid", x), graph.value(np.float32(2))))


CASES: Mapping[str, Build] = {
    "concat itself": joined(2, 1),
    "concat itself twice": joined(2, 1, rounds=2),
    "concat itself along rows": joined(3, 2),
    "concat one": joined(1, 1),
    "max one": keeping("Max"),
    "min one": keeping("Min"),
    "sum one": keeping("Sum"),
    "parts": parts,
    "depth to space": keeping("DepthToSpace", channels=1, blocksize=2),
    "gather": keeping("Gather", np.array([3, 1, 0, 2]), axis=1),
    "identity": keeping("Identity"),
    "max pool": keeping("MaxPool", kernel_shape=[2, 2]),
    "pad": keeping("Pad", np.array([0, 0, 1, 2, 0, 0, 0, 1])),
    "pool of one": keeping("AveragePool", kernel_shape=[1, 1]),
    "reduce max": keeping("ReduceMax", axes=[2, 3]),
    "reduce max above zero": above_zero(keeping("ReduceMax", axes=[2, 3])),
    "reduce max of rows": keeping("ReduceMax", axes=[2]),
    "reduce min": keeping("ReduceMin", axes=[2, 3]),
    "reshape": keeping("Reshape", np.array([1, 2, -1, 2]), channels=2),
    "resize nearest": resized("nearest", 2, coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    "resize linear": resized("linear", 2, coordinate_transformation_mode="asymmetric"),
    "resize linear by three": resized("linear", 3, coordinate_transformation_mode="half_pixel"),
    "resize linear to corners": corners,
    "slice": keeping("Slice", np.array([1]), np.array([3]), np.array([1]), channels=2),
    "transpose": keeping("Transpose", perm=[0, 1, 3, 2]),
    "mean of one cell": mean_of(of_one_cell),
    "mean of nothing": mean_of(lambda graph, x: graph.add("Sub", x, x)),
    "mean of the unheard": mean_of(unheard),
    "max of joined": of_two("Max"),
    "min of joined": of_two("Min"),
    "clips and joined": of_two("Max", (0.0, 4.0), (0.0, 4.0)),
    "clips below and joined": of_two("Min", (-0.5, 0.7), (-0.5, 0.7)),
    "clip and relu": of_two("Add", (0.0, 0.5)),
    "max pool of maxima in zeros": pooled_in_zeros("MaxPool"),
    "max pool of means in zeros": pooled_in_zeros("AveragePool"),
}


def calls(program: Program) -> list[tuple[str, str]]:
    return [(operator.name, operator.node) for operator in program.operators]


@pytest.mark.parametrize("size", SHAPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_ranges_that_are_equal_by_construction_are_priced_as_they_are_written(case: str, size: tuple[int, int]) -> None:
    graph = Graph(1, 3, *size)
    ends = CASES[case](graph, graph.conv("x", 3, CHANNELS))
    model = model_of(graph, *ends)
    net = loaded(model)
    priced = profile(net)
    for seed in range(2):
        written = as_int8(net, feed(model, seed=seed))
        assert not lower(written).problems
        assert calls(lower(net)) == calls(lower(written))
        assert priced.memory.arena_tflm == profile(written).memory.arena_tflm
        assert priced.total["file"] == profile(written).total["file"]


def test_over_one_cell_an_average_hands_it_on() -> None:
    averages: list[tuple[str, dict[str, Any]]] = [
        ("GlobalAveragePool", {}),
        ("ReduceMean", {"axes": [2, 3]}),
        ("ReduceSum", {}),
    ]
    for op, attrs in averages:
        graph = Graph(1, 3, 6, 5)
        cell = graph.add("GlobalAveragePool", graph.conv("x", 3, CHANNELS))
        axes = [graph.value(np.array([2, 3]))] if op == "ReduceSum" else []
        model = model_of(graph, graph.conv(graph.add(op, cell, *axes, **attrs), CHANNELS, 2))
        net = loaded(model)
        assert calls(lower(net)) == calls(lower(as_int8(net, feed(model))))
        assert len(calls(lower(net))) == 3


@pytest.mark.parametrize("mode", ["half_pixel", "pytorch_half_pixel"])
def test_between_pixels_a_resize_has_a_range_of_its_own(mode: str) -> None:
    graph = Graph(1, 3, 6, 5)
    ends = resized("linear", 2, coordinate_transformation_mode=mode)(graph, graph.conv("x", 3, CHANNELS))
    assert "QUANTIZE" in [operator.name for operator in lower(loaded(model_of(graph, *ends))).operators]


def never_below(kind: str, seed: int) -> None:
    chance = random.Random(seed)
    kinds = [kind if at % 2 == seed % 2 else chance.choice(KINDS) for at in range(1 + seed % 4)]
    model = Layers(seed).model(kinds)
    net = loaded(model)
    if lower(net).problems:
        return
    written = profile(as_int8(net, feed(model)))
    assert profile(net).memory.arena_tflm >= written.memory.arena_tflm
    assert profile(net).total["file"] >= written.total["file"]


@pytest.mark.parametrize("kind", KINDS)
def test_no_layers_are_priced_below_what_is_written(kind: str) -> None:
    for seed in range(12):
        never_below(kind, seed)
