"""One program for all who read it: what is predicted for a float network is what its int8 file says and what runs.

The oracle is TensorFlow Lite Micro's own interpreter, with its reference kernels and 8-byte pointers: it says what its arena
takes. No network is calibrated here: which operators are written, and how large they are, depends on no weight.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from apart import apart
from conftest import CORPUS_SHAPES, corpus
from graphs import Graph, autoencoder, mobilenet
from hypothesis import given, settings
from hypothesis import strategies as st
from layers import KINDS, layers_of
from test_resources import MODELS

from mcuprune.costs.resources import profile
from mcuprune.deploy import tflite, windows
from mcuprune.deploy.lower import lower
from mcuprune.deploy.lowering import bounds
from mcuprune.deploy.planner import Lifetime, greedy_layout, head_of, overlaps
from mcuprune.deploy.program import Program
from mcuprune.errors import McupruneError
from mcuprune.graph import network
from mcuprune.graph.network import Network
from mcuprune.operators import table as ops
from mcuprune.operators.table import OPS
from mcuprune.passes import batchnorm as folding
from mcuprune.run.trial import Trial

# by its full name: the package has a function of the same name
export = import_module("mcuprune.deploy.qdq")


def load(path: Path) -> Network:
    return network.load(path, accept=ops.accept(str(path)), input_shapes=CORPUS_SHAPES.get(path.name))


def int8(net: Network, seed: int = 0) -> Network:
    """A float network as export writes it, with ranges that are drawn within what its activations leave."""
    net = folding.folded(net)
    plan, draw = export.scheme(net), np.random.default_rng(seed)
    ranges = dict.fromkeys(plan.quantizer.values(), (0.0, 0.0))
    for node in net.nodes:
        name = plan.quantizer.get(node.outputs[0])
        if name is not None and OPS[node.op].int8 != "same":
            low, high = bounds(node) if OPS[node.op].int8 == "clamp" else (-9.0, 9.0)
            drawn = max(low, -draw.uniform(0.5, 3)), min(high, draw.uniform(0.5, 3))
            ranges[name] = min(ranges[name][0], drawn[0]), max(ranges[name][1], drawn[1])
    for name, found in ranges.items():
        if found == (0.0, 0.0):
            ranges[name] = -draw.uniform(0.5, 3), draw.uniform(0.5, 3)
    quantizers = {name: plan.fixed.get(name) or export.quantizer(*found) for name, found in ranges.items()}
    return export.quantized(net, plan, quantizers)


def is_quantised(net: Network) -> bool:
    return any(node.op == "QuantizeLinear" for node in net.nodes)


def operators(program: Program) -> list[tuple[str, str]]:
    return [(operator.name, operator.node) for operator in program.operators]


def measured(contents: Sequence[bytes]) -> list[tuple[int, int]]:
    """(total, head) bytes of arena that the interpreter takes for each .tflite file."""
    runtime = pytest.importorskip("tflite_micro").runtime

    def allocations() -> list[str]:
        texts = []
        for content in contents:
            with tempfile.TemporaryFile() as said:
                os.dup2(said.fileno(), 2)
                runtime.Interpreter.from_bytes(content, arena_size=1 << 25).print_allocations()
                said.seek(0)
                texts.append(said.read().decode())
        return texts

    found = [re.findall(r"Arena allocation (?:total|head) (\d+) bytes", text) for text in apart(allocations)]
    return [(int(total), int(head)) for total, head in found]


# ------------------------------------------------------------------------------------------ predicted, written, measured


@pytest.mark.parametrize("path", [*MODELS, *corpus()], ids=lambda path: path.stem)
def test_predicted_is_written_is_measured(path: Path) -> None:
    net = load(path)
    predicted = lower(net)
    if is_quantised(net) or predicted.problems:
        pytest.skip("is in int8 as it is" if is_quantised(net) else str(predicted.problems[0]))
    quantised = int8(net)
    files = [tflite.convert(quantised, offline=offline) for offline in (False, True)]
    assert operators(predicted) == operators(files[0].program)
    assert predicted.arena().total == files[0].program.arena().total
    for found, (total, head) in zip(files, measured([found.content for found in files]), strict=True):
        arena = found.program.arena(kernels="reference", pointer=8, plan=found.plan)
        assert arena.head == head
        assert total <= arena.total < total + 16  # which it is rounded up to


def of_layers(seed: int, kind: str, layers: int) -> tflite.Converted:
    return tflite.convert(int8(network.from_proto(layers_of(seed, kind, layers), f"{kind}.onnx")))


def starts(contents: Sequence[tuple[bytes, int]]) -> None:
    """The interpreter allocates tensors and runs, for each .tflite file and bytes of arena. Raises where it doesn't."""
    runtime = pytest.importorskip("tflite_micro").runtime

    def started() -> None:
        for content, size in contents:
            runtime.Interpreter.from_bytes(content, arena_size=size).invoke()

    apart(started)


def test_an_interpreter_starts_in_the_arena_that_is_enough() -> None:
    """Not always in what it keeps: while it makes its plan it needs more than the activations of a small network do."""
    files = [of_layers(seed, kind, 1 + seed % 5) for seed, kind in enumerate(KINDS)] + [tflite.convert(int8(autoencoder()))]
    arenas = [file.program.arena(kernels="reference", pointer=8) for file in files]
    starts([(file.content, arena.enough) for file, arena in zip(files, arenas, strict=True)])
    assert sum(arena.enough == arena.total for arena in arenas) > 5
    assert arenas[-1].enough > arenas[-1].total
    with pytest.raises((RuntimeError, AssertionError)):  # it refuses, or breaks off
        starts([(files[-1].content, arenas[-1].total)])


@pytest.mark.parametrize("row", json.loads((Path(__file__).parent / "golden" / "arenas.json").read_text())["arenas"], ids=str)
def test_the_arena_is_what_a_cortex_m4_measures(row: Mapping[str, Any]) -> None:
    """``used``: what the interpreter said there, by what ``arenas.json`` names. ``least``: in a multiple of 16 it started."""
    program = of_layers(row["seed"], row["kind"], row["layers"]).program
    assert " ".join(operator.name for operator in program.operators) == row["operators"], "another network: measure anew"
    arena = program.arena()
    assert row["used"] <= arena.total < row["used"] + 16
    assert row["least"] <= arena.enough
    assert row["least_on_vectors"] <= program.enough_on_vectors()


#: Layers that keep the shape (1, 4, 8, 8), by the kernel that they become.
LAYERS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "ABS": ("Abs", {}),
    "AVERAGE_POOL_2D": ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    "ELU": ("Elu", {}),
    "HARD_SWISH": ("HardSwish", {}),
    "LEAKY_RELU": ("LeakyRelu", {}),
    "LOGISTIC": ("Sigmoid", {}),
    "LOG_SOFTMAX": ("LogSoftmax", {"axis": 1}),
    "MAX_POOL_2D": ("MaxPool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    "MUL": ("Neg", {}),
    "SOFTMAX": ("Softmax", {"axis": 1}),
    "TANH": ("Tanh", {}),
}


@pytest.mark.parametrize("kernel", LAYERS)
def test_what_a_kernel_keeps_is_what_eight_of_it_take_more(kernel: str) -> None:
    """So that the bytes of one kernel don't hide in what others leave over."""
    op, attrs = LAYERS[kernel]
    files = []
    for count in (0, 8):
        graph = Graph(1, 4, 8, 8)
        x = "x"
        for at in range(8):
            x = graph.conv(x, 4, 4)
            x = graph.add(op, x, **attrs) if at < count else x
        files.append(tflite.convert(int8(graph.net(x))))
    assert [operator.name for operator in files[1].program.operators].count(kernel) == 8
    over = []
    for file, (total, head) in zip(files, measured([file.content for file in files]), strict=True):
        arena = file.program.arena(kernels="reference", pointer=8)
        assert arena.head == head
        over.append(arena.total - total)
    assert 0 <= min(over) <= max(over) < 16  # the alignment of the whole


def test_what_kernels_ask_for_when_they_are_prepared_lies_behind_what_they_keep_from_the_start() -> None:
    """Each piece is aligned, so that their order counts: 4 B above the prediction were told as a wrong file."""
    files = []
    for size in range(18, 34):
        for op in ("Sub", "Sigmoid", "Softmax"):
            graph = Graph(1, size)
            x = graph.add("LogSoftmax", "x", axis=1)
            x = graph.add("Sub", x, graph.value(np.float32(0.3))) if op == "Sub" else graph.add(op, x)
            files.append(tflite.convert(int8(graph.net(x))))
        graph = Graph(1, 3, size)
        files.append(tflite.convert(int8(graph.net(graph.add("MatMul", graph.add("Transpose", "x", perm=[0, 2, 1]), "x")))))
    arenas = [file.program.arena(kernels="reference", pointer=8) for file in files]
    for arena, (total, head) in zip(arenas, measured([file.content for file in files]), strict=True):
        assert arena.head == head
        assert 0 <= arena.total - total < 16


def test_a_network_in_memory_is_what_its_file_is(tmp_path: Path) -> None:
    net = int8(load(MODELS[0]))
    net.save(tmp_path / "net.onnx")
    read = load(tmp_path / "net.onnx")
    assert profile(net).memory == profile(read).memory
    assert profile(net).total == profile(read).total
    assert tflite.convert(net).content == tflite.convert(read).content
    assert read.stored.keys() == net.stored.keys()
    assert all(np.array_equal(read.stored[name].integers, net.stored[name].integers) for name in net.stored)


def test_stored_integers_are_written_again() -> None:
    proto = int8(load(MODELS[0])).to_proto()
    again = network.from_proto(proto, "net.onnx").to_proto()
    arrays = [{tensor.name: tensor for tensor in model.graph.initializer} for model in (proto, again)]
    assert arrays[0].keys() == arrays[1].keys()
    assert all(arrays[0][name].raw_data == arrays[1][name].raw_data for name in arrays[0])


def test_a_constant_that_is_replaced_loses_its_integers() -> None:
    net = int8(load(MODELS[0]))
    name = next(iter(net.stored))
    changed = net.with_constants({name: net.constants[name] + 1})
    assert name not in changed.stored
    assert name in {tensor.name for tensor in changed.to_proto().graph.initializer}


# --------------------------------------------------------------------------------------------- what costs no memory there


def pads(*sizes: int) -> np.ndarray:
    return np.array([0, 0, *sizes[:2], 0, 0, *sizes[2:]])


def padded_conv(*sizes: int, size: int = 8, **attrs: int | list[int]) -> Network:
    g = Graph(1, 4, size, size)
    padded = g.add("Pad", "x", g.value(pads(*sizes)))
    return g.net(g.conv(padded, 4, 4, pads=attrs.pop("pads", [0] * 4), **attrs))


@pytest.mark.parametrize(
    ("net", "wanted"),
    [
        (padded_conv(1, 1, 1, 1), ["CONV_2D"]),
        (padded_conv(0, 0, 1, 1, strides=[2, 2]), ["CONV_2D"]),
        (padded_conv(1, 1, 1, 1, strides=[2, 2], size=9), ["CONV_2D"]),
        (padded_conv(1, 0, 1, 0, pads=[0, 1, 0, 1]), ["CONV_2D"]),
        (padded_conv(1, 1, 1, 1, strides=[2, 2]), ["PAD", "CONV_2D"]),
        (padded_conv(2, 2, 2, 2), ["PAD", "CONV_2D"]),
    ],
)
def test_a_zero_pad_is_part_of_the_convolution(net: Network, wanted: list[str]) -> None:
    assert [operator.name for operator in lower(net).operators] == wanted
    program = lower(int8(net))
    assert [operator.name for operator in program.operators] == wanted
    assert [copy.operator for copy in program.copies] == wanted[:-1]
    if len(wanted) == 1:
        assert program.arena(kernels="reference").head < profile(net).memory.peak + 2 * 16  # two buffers, aligned


def test_what_the_file_copies_says_why() -> None:
    g = Graph(1, 4, 8, 8)
    parts = g.conv("x", 4, 4), g.conv("x", 4, 4, 1)
    end = g.conv(g.add("Concat", *parts, axis=1), 8, 4, strides=[2, 2])
    found = profile(g.net(end, g.add("Add", *parts))).memory.copies  # what else reads the parts keeps their scales apart
    assert [(copy.operator, copy.bytes) for copy in found] == [("QUANTIZE", 256), ("QUANTIZE", 256), ("PAD", 8 * 100)]
    assert all(copy.reason and copy.node for copy in found)


def test_a_channel_shuffle_transposes_four_dimensions_at_most() -> None:
    g = Graph(1, 12, 6, 6)
    y = g.conv("x", 12, 12, 1, group=3)
    y = g.add("Transpose", g.add("Reshape", y, g.value(np.array([1, 3, 4, 6, 6]))), perm=[0, 2, 1, 3, 4])
    net = g.net(g.conv(g.add("Reshape", y, g.value(np.array([1, 12, 6, 6]))), 12, 12, group=12))
    program = lower(net)
    assert [operator.name for operator in program.operators] == [
        "CONV_2D",
        "RESHAPE",
        "TRANSPOSE",
        "RESHAPE",
        "DEPTHWISE_CONV_2D",
    ]
    moved = next(operator for operator in program.operators if operator.name == "TRANSPOSE")
    assert all(len(program.tensors[index].shape) <= 4 for index in (moved.inputs[0], *moved.outputs))


def test_an_average_over_all_of_space_needs_no_convolution() -> None:
    g = Graph(1, 4, 5, 6)
    net = g.net(g.add("AveragePool", g.add("Relu", g.conv("x", 4, 4)), kernel_shape=[5, 6]))
    assert [operator.name for operator in lower(net).operators] == ["CONV_2D", "MEAN"]


def test_a_fully_connected_layer_keeps_no_factors_for_its_outputs() -> None:
    g = Graph(1, 16)
    narrow = lower(g.net(g.dense("x", 16, 8))).arena().tail
    g = Graph(1, 16)
    wide = lower(g.net(g.dense("x", 16, 800))).arena().tail
    assert wide == narrow


def test_a_view_may_stand_before_the_first_quantiser() -> None:
    g = Graph(1, 9, 7, 2)
    net = int8(g.net(g.conv(g.add("Transpose", "x", perm=[0, 3, 1, 2]), 2, 4)))
    early = [node for node in net.nodes if node.op not in ("QuantizeLinear", "DequantizeLinear") or "x" not in node.name]
    assert lower(net).problems == ()
    assert {node.op for node in early} >= {"Transpose", "Conv"}
    moved = [replace(node, inputs=("x",)) if node.op == "Transpose" else node for node in early]
    program = lower(net.rewired(moved, net.constants))
    assert program.problems == ()
    assert [operator.name for operator in program.operators] == ["CONV_2D"]


def test_a_keras_input_keeps_its_layout() -> None:
    g = Graph(1, 9, 7, 1)
    net = g.net(g.conv(g.add("Reshape", "x", g.value(np.array([1, 1, 9, 7]))), 1, 4))
    (port,) = lower(net).inputs
    assert [operator.name for operator in lower(net).operators] == ["CONV_2D"]
    assert port.to_tflite(np.zeros((1, 9, 7, 1))).shape == (1, 9, 7, 1)


# ------------------------------------------------------------------------------------------------------ plans and problems


def test_a_plan_makes_room_for_scratch(tmp_path: Path) -> None:
    """CMSIS-NN's kernels ask for memory while they run: the plan leaves it a gap, and its head is the runtime's."""
    program = lower(mobilenet())
    plan = program.planned()
    sizes = [buffer.bytes for buffer in program.arena().buffers]
    spans = [Lifetime(buffer.first, buffer.last) for buffer in program.arena().buffers]
    fixed = dict(enumerate(plan[index] for index in program.computed))
    assert program.arena(plan=plan).head == head_of(sizes, greedy_layout(sizes, overlaps(spans), fixed))
    assert program.arena(plan=plan).head == program.arena().busiest


def test_a_node_without_a_kernel_is_priced_and_not_written() -> None:
    g = Graph(1, 4, 8, 8)
    net = g.net(g.conv(g.add("Erf", g.conv("x", 4, 4)), 4, 4))
    program = lower(net)
    assert [operator.name for operator in program.operators] == ["CONV_2D", "Erf", "CONV_2D"]
    assert program.missing == ("erf1",)
    assert len(profile(net).memory.unsupported) == 1
    assert program.arena().head == 2 * 256 + 2 * 2 * 36
    with pytest.raises(McupruneError, match="node 'erf1': Erf has no int8 operator"):
        program.check()


@pytest.mark.usefixtures("in_process")
def test_a_dequantizer_with_another_scale_means_it(tmp_path: Path) -> None:
    """The integers are the quantiser's, what they stand for is the dequantiser's: no step of difference."""
    pytest.importorskip("tflite_micro")
    verify = import_module("mcuprune.run.verify")

    g = Graph(1, 4, 6, 6)
    proto = int8(g.net(g.add("Relu", g.conv("x", 4, 4)))).to_proto()
    arrays = {tensor.name: tensor for tensor in proto.graph.initializer}
    node = next(node for node in proto.graph.node if node.op_type == "DequantizeLinear" and node.input[0] == "x/int8")
    scale = onnx.numpy_helper.to_array(arrays[node.input[1]])
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(scale * np.float32(0.7)), "other"))
    node.input[1] = "other"
    path = tmp_path / "net.onnx"
    onnx.save(proto, path)
    (found,) = verify.verify(path, Trial(examples=10)).differences
    assert found.max_lsb <= 1


# ------------------------------------------------------------------------------------------------- transposed convolutions


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_a_transposed_convolution_is_one_that_every_runtime_computes(data: Any) -> None:
    """As its arm_transpose_conv_s8 is written: rows that it writes, where its windows end, and its room for a row.

    And as LiteRT counts the windows of an output.
    """

    def pair(least: int, most: int) -> tuple[int, int]:
        return data.draw(st.tuples(*[st.integers(least, most)] * 2))

    kernel, strides, sizes, before = pair(1, 6), pair(1, 4), pair(1, 7), pair(0, 5)
    full = [(i - 1) * s + k for i, s, k in zip(sizes, strides, kernel, strict=True)]
    picture = tuple(data.draw(st.integers(1, n + s - 1)) for n, s in zip(full, strides, strict=True))
    taps, whole, same = windows.transposed(kernel, strides, sizes, picture, before)
    pads = [max(0, (i - 1) * s + k - o) // 2 if same else 0 for i, s, k, o in zip(sizes, strides, taps, whole, strict=True)]
    assert sizes[0] * strides[0] - pads[0] <= whole[0]
    ends = [o + pad for o, pad in zip(whole, pads, strict=True)]
    assert all(n <= (i - 1) * s + max(k, s) for n, i, s, k in zip(ends, sizes, strides, taps, strict=True))
    assert strides[1] <= max(taps[1], strides[0])
    counted = [-(-o // s) if same else (o - k + s) // s for o, s, k in zip(whole, strides, taps, strict=True)]
    assert tuple(counted) == sizes
    assert all(k <= t for k, t in zip(kernel, taps, strict=True))
    assert (
        (tuple(pads), whole) == (before, picture)
        if same
        else all(b + o <= n for b, o, n in zip(before, picture, whole, strict=True))
    )
