"""The arena model against TensorFlow Lite Micro: measured arenas, its documented planner and, where installed, itself."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import CORPUS_SHAPES, corpus
from graphs import Graph, autoencoder, dscnn, mobilenet, resnet8
from hypothesis import given, settings
from hypothesis import strategies as st

from mcuprune.costs.resources import budget, profile
from mcuprune.deploy.boards import BOARDS, board, board_budget
from mcuprune.deploy.latency import ANCHORS, CLASSES, energy, latency, macs_by_class
from mcuprune.deploy.lower import lower
from mcuprune.deploy.planner import Lifetime, aligned, greedy_layout, overlaps
from mcuprune.errors import UsageError
from mcuprune.graph import network
from mcuprune.graph.network import Network
from mcuprune.operators import table as ops


def real(path) -> Network:
    return network.load(path, accept=ops.accept(str(path)), input_shapes=CORPUS_SHAPES.get(path.name))


def head(sizes: list[int], spans: list[tuple[int, int]], fixed: dict[int, int] | None = None) -> list[int]:
    return greedy_layout(sizes, overlaps([Lifetime(*span) for span in spans]), fixed)


# ------------------------------------------------------------------------------------------------------- measured arenas


@pytest.mark.parametrize(
    ("make", "reference", "cmsis", "arena"),
    [
        (autoencoder, 768, 768, 2_580),
        (dscnn, 16_000, 16_000, 22_708),
        (resnet8, 49_152, 49_728, 54_868),
        (mobilenet, 73_728, 73_728, 100_596),
    ],
    ids=["autoencoder", "ds-cnn", "resnet8", "mobilenet"],
)
def test_arenas_measured_on_cortex_m4_code(make, reference, cmsis, arena):
    """Of the files that we write for them; totals are rounded up: TFLM 90b983c2 with CMSIS-NN in QEMU's mps2-an386."""
    net = make()
    assert lower(net).arena(kernels="reference").head == reference
    found = lower(net).arena()
    assert found.head == cmsis
    assert arena <= found.total < arena + 16


@pytest.mark.parametrize("name", ["ad01_fp32", "kws_ref_model_float32", "pretrainedResnet", "vww_96_float"])
def test_files_of_the_benchmark_give_the_same_arena_as_their_description(name, corpus_folder):
    written = {"ad01_fp32": autoencoder, "kws_ref_model_float32": dscnn, "pretrainedResnet": resnet8, "vww_96_float": mobilenet}
    converted = real(corpus_folder / f"mlperf_{name}.onnx")
    assert profile(converted).memory.arena_tflm == profile(written[name]()).memory.arena_tflm
    operators = [operator.name for operator in lower(converted).operators]
    assert operators == [operator.name for operator in lower(written[name]()).operators]


def test_an_offline_plan_brings_the_head_down_to_the_peak():
    net = mobilenet()
    planned, greedy = lower(net).arena(offline=True), lower(net).arena()
    assert planned.head == planned.busiest == profile(net).memory.peak == 55_296
    assert greedy.total - planned.total == 73_728 - 55_296


# ---------------------------------------------------------------------------------------------------------- the planner


def test_large_buffers_are_placed_first():
    assert head([16, 32, 48], [(0, 0), (0, 0), (0, 0)]) == [80, 48, 0]


def test_of_equal_buffers_the_last_one_is_placed_first():
    assert head([16, 16, 16], [(0, 0), (0, 0), (0, 0)]) == [32, 16, 0]


def test_buffers_that_never_meet_share_their_place():
    assert head([32, 32], [(0, 1), (2, 3)]) == [0, 0]


def test_a_buffer_goes_into_the_first_gap_that_is_wide_enough():
    sizes = [64, 48, 32, 32]
    spans = [(0, 5), (0, 1), (0, 5), (3, 4)]
    assert head(sizes, spans) == [0, 64, 112, 64]


def test_the_greedy_planner_leaves_a_gap():
    """The ends are placed at 0 first, so that one of the middle stands on the other: at most 80 bytes are alive."""
    sizes = [48, 32, 32, 48]
    assert head(sizes, [(0, 1), (1, 2), (2, 3), (3, 4)]) == [0, 80, 48, 0]


def test_what_an_offline_plan_places_stays():
    assert head([64, 16], [(0, 1), (0, 1)], {1: 16}) == [32, 16]


buffers = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 12), st.integers(0, 6)), min_size=1, max_size=25)


@settings(max_examples=300, deadline=None)
@given(buffers)
def test_buffers_that_are_alive_together_never_overlap(drawn):
    sizes = [16 * size for size, _, _ in drawn]
    spans = [Lifetime(first, first + length) for _, first, length in drawn]
    offsets = greedy_layout(sizes, overlaps(spans))
    for i, near in enumerate(overlaps(spans)):
        for j in near:
            if sizes[i] and sizes[j]:
                assert offsets[i] + sizes[i] <= offsets[j] or offsets[j] + sizes[j] <= offsets[i]


@pytest.mark.parametrize("path", corpus(), ids=lambda path: path.stem)
def test_layouts_of_real_networks(path):
    found = lower(real(path))
    greedy, planned = found.arena(), found.arena(offline=True)
    for arena in (greedy, planned):
        assert arena.busiest <= arena.head
        spans = [Lifetime(buffer.first, buffer.last) for buffer in arena.buffers]
        for i, near in enumerate(overlaps(spans)):
            one = arena.buffers[i]
            for other in (arena.buffers[j] for j in near if j > i):
                apart = one.offset + one.bytes <= other.offset or other.offset + other.bytes <= one.offset
                assert apart or not one.bytes or not other.bytes
    assert planned.head <= greedy.head
    assert planned.head <= planned.busiest * 1.05
    assert sum(greedy.buffers[i].bytes for i in greedy.stack) == greedy.head
    assert found.bound(found.quantities) <= planned.total
    assert all(buffer.bytes % 16 == buffer.offset % 16 == 0 for buffer in greedy.buffers)


# ------------------------------------------------------------------------------------------------------- the conversion


def lowered(make, *shape: int) -> list[str]:
    g = Graph(*(shape or (1, 4, 8, 8)))
    return [operator.name for operator in lower(g.net(make(g))).operators]


def pool(g: Graph, op: str = "MaxPool", **attrs) -> str:
    return g.add(op, "x", kernel_shape=[3, 3], strides=[2, 2], **attrs)


@pytest.mark.parametrize(
    ("make", "operators"),
    [
        pytest.param(lambda g: g.conv("x", 4, 4), ["CONV_2D"], id="same padding"),
        pytest.param(lambda g: g.conv("x", 4, 4, pads=[0] * 4), ["CONV_2D"], id="no padding"),
        pytest.param(lambda g: g.conv("x", 4, 4, strides=[2, 2]), ["PAD", "CONV_2D"], id="pytorch's stride 2"),
        pytest.param(lambda g: g.conv("x", 4, 4, strides=[2, 2], pads=[0, 0, 1, 1]), ["CONV_2D"], id="tensorflow's stride 2"),
        pytest.param(lambda g: g.conv("x", 4, 4, pads=[2] * 4), ["PAD", "CONV_2D"], id="more than same"),
        pytest.param(
            lambda g: g.conv("x", 4, 4, auto_pad="SAME_LOWER", strides=[2, 2], pads=None), ["PAD", "CONV_2D"], id="lower"
        ),
        pytest.param(lambda g: g.conv("x", 4, 4, group=4), ["DEPTHWISE_CONV_2D"], id="depthwise"),
        pytest.param(lambda g: g.conv("x", 4, 4, group=2), ["CONV_2D"], id="grouped"),
        pytest.param(lambda g: pool(g), ["MAX_POOL_2D"], id="pool"),
        pytest.param(lambda g: pool(g, pads=[1] * 4), ["PADV2", "MAX_POOL_2D"], id="padded pool"),
        pytest.param(lambda g: pool(g, ceil_mode=1), ["MAX_POOL_2D"], id="ceil mode is same padding"),
        pytest.param(lambda g: pool(g, "AveragePool", pads=[0, 0, 1, 1]), ["AVERAGE_POOL_2D"], id="average without pads"),
        pytest.param(
            lambda g: g.add("AveragePool", "x", kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1),
            ["PAD", "DEPTHWISE_CONV_2D"],
            id="average over pads",
        ),
        pytest.param(lambda g: g.add("Relu", g.norm(g.conv("x", 4, 4), 4)), ["CONV_2D"], id="all in one"),
        pytest.param(lambda g: g.norm(g.add("Relu", "x"), 4), ["RELU", "DEPTHWISE_CONV_2D"], id="a batch norm that stays"),
        pytest.param(lambda g: g.add("HardSwish", g.conv("x", 4, 4)), ["CONV_2D", "HARD_SWISH"], id="activations of their own"),
        pytest.param(lambda g: g.add("Mul", "x", g.add("HardSigmoid", "x")), ["MUL", "ADD", "MUL"], id="in pieces"),
        pytest.param(lambda g: g.add("Sum", "x", "x", "x"), ["ADD", "ADD"], id="a sum of three"),
        pytest.param(
            lambda g: g.add("Concat", "x", g.conv("x", 4, 4), axis=1),
            ["CONV_2D", "QUANTIZE", "CONCATENATION"],
            id="concat of what it alone reads, and of the input",
        ),
        pytest.param(
            lambda g: g.add("Concat", *[g.add("Relu", g.conv("x", 4, 4)) for _ in range(2)], axis=1),
            ["CONV_2D", "CONV_2D", "CONCATENATION"],
            id="concat of activations has one scale",
        ),
        pytest.param(lambda g: g.classifier("x", 4, 2), ["MEAN", "FULLY_CONNECTED"], id="classifier"),
        pytest.param(lambda g: g.conv(g.add("Transpose", "x", perm=[0, 3, 1, 2]), 8, 4), ["CONV_2D"], id="layout"),
        pytest.param(lambda g: g.add("Transpose", "x", perm=[0, 1, 3, 2]), [], id="transpose"),
        pytest.param(
            lambda g: g.conv(g.add("Unsqueeze", g.add("Squeeze", "x", g.value(np.array([0]))), g.value(np.array([0]))), 4, 4),
            ["CONV_2D"],
            id="axes of size 1",
        ),
        pytest.param(
            lambda g: g.add("ConvTranspose", "x", g.constant(4, 4, 2, 2), strides=[2, 2]), ["TRANSPOSE_CONV"], id="transposed"
        ),
        pytest.param(
            lambda g: g.add("ConvTranspose", "x", g.constant(4, 4, 4, 4), strides=[2, 2], pads=[1] * 4),
            ["TRANSPOSE_CONV"],
            id="transposed, same",
        ),
        pytest.param(
            lambda g: g.add("ConvTranspose", "x", g.constant(4, 4, 3, 3), strides=[2, 2], pads=[1] * 4, output_padding=[1, 1]),
            ["TRANSPOSE_CONV", "SLICE"],
            id="transposed, cropped",
        ),
    ],
)
def test_what_is_written(make, operators):
    assert lowered(make) == operators


@pytest.mark.parametrize(
    ("make", "scratch"),
    [
        pytest.param(lambda g: g.conv("x", 4, 8), 2 * 2 * 36, id="two int16 columns"),
        pytest.param(lambda g: g.conv("x", 4, 8, 1), 0, id="pointwise"),
        pytest.param(lambda g: g.conv("x", 4, 8, 1, strides=[2, 2]), 0, id="pointwise with a stride"),
        pytest.param(lambda g: g.conv("x", 4, 4, group=4), 0, id="depthwise 3 x 3"),
        pytest.param(lambda g: g.conv("x", 4, 8, group=4), 0, id="depthwise with a multiplier"),
        pytest.param(lambda g: g.conv("x", 4, 4, 5, group=4), 2 * 25 * 4, id="depthwise 5 x 5"),
        pytest.param(
            lambda g: g.conv(g.add("Reshape", "x", g.value(np.array([2, 2, 8, 8]))), 2, 2, 5, group=2),
            0,
            id="depthwise of two images",
        ),
        pytest.param(lambda g: g.conv("x", 4, 4, group=2), 2 * 2 * 36, id="grouped"),
        pytest.param(lambda g: g.add("GlobalAveragePool", "x"), 3 * 16, id="accumulators and two lists of axes"),
        pytest.param(lambda g: pool(g, "AveragePool", pads=[0, 0, 1, 1]), 4 * 4, id="an accumulator for each channel"),
        pytest.param(lambda g: g.add("GlobalMaxPool", "x"), 0, id="max pool"),
    ],
)
def test_scratch_of_kernels(make, scratch):
    g = Graph(1, 4, 8, 8)
    found = lower(g.net(make(g)))
    assert sum(aligned(s.wanted.slope * s.wanted.quantity) for s in found.scratch) == aligned(scratch)


def test_a_pad_has_a_tensor_of_its_own():
    g = Graph(1, 4, 8, 8)
    arena = lower(g.net(g.conv("x", 4, 4, strides=[2, 2]))).arena()
    assert [buffer.bytes for buffer in arena.buffers] == [256, 400, 64, 144]
    assert arena.head == 256 + 400


def test_operators_that_tflm_has_no_kernel_for_are_named():
    g = Graph(1, 4, 8, 8)
    net = g.net(g.add("Erf", g.conv("x", 4, 4)))
    assert lower(net).missing == ("erf1",)
    assert lower(resnet8()).missing == ()


def test_another_order_has_another_arena():
    g = Graph(1, 4, 8, 8)
    wide = [g.conv("x", 4, 16) for _ in range(3)]
    net = g.net(g.add("Concat", *[g.add("Relu", g.conv(one, 16, 1)) for one in wide], axis=1))
    best = lower(net, order=profile(net).memory.order).arena()
    assert best.head < lower(net).arena().head


# ---------------------------------------------------------------------------------------- boards, latency and energy


def test_boards_are_plausible_and_sourced():
    assert len(BOARDS) >= 15
    for name, row in BOARDS.items():
        assert name == row.name == name.lower()
        assert 0 < row.block <= row.sram < row.flash
        assert row.source
        assert row.verified == ("from memory" not in row.source)


def test_a_board_is_a_budget():
    own = {"sram": 1, "flash": 1, "macs": 1}
    assert budget(board_budget("Nucleo-F767ZI"), own).limits == {"sram": 368 * 1024, "flash": 2048 * 1024}


def test_a_mistyped_board_is_answered_with_near_names():
    with pytest.raises(UsageError, match="no board 'nucleo-f767'; did you mean nucleo-f767zi"):
        board("nucleo-f767")
    with pytest.raises(UsageError, match="raspberry-pi-pico or raspberry-pi-pico-2"):
        board("pico")
    with pytest.raises(UsageError, match=r"mcuprune knows .*teensy"):
        board("zzz")


@pytest.mark.parametrize("anchor", ANCHORS, ids=lambda anchor: f"{anchor.runtime}, {anchor.source}, {anchor.mhz} MHz")
def test_published_times_and_energies_lie_in_the_range_of_their_runtime(anchor):
    on, macs = board(anchor.board), dict(zip(CLASSES, anchor.macs, strict=True))
    found = latency(macs, on, anchor.runtime)
    measured = anchor.cycles / (anchor.mhz * 1000)
    assert found.low <= measured <= found.high
    assert found.low < found.likely < found.high
    assert found.high / found.low < 2, "a range of a runtime is no range over all of them"
    assert anchor.source in found.sources
    if anchor.nanojoules is not None:
        drawn = energy(macs, on, anchor.runtime)
        assert drawn.low <= anchor.nanojoules / 1000 <= drawn.high


def test_the_paper_s_networks_take_the_time_and_energy_of_its_table():
    """Table 4, milliseconds and millijoules: VGG-16 of 22.38 M multiply-accumulates on two boards."""
    vgg = {"conv": 22_380_000, "depthwise": 0, "dense": 0}
    for name, milliseconds, millijoules in (("nucleo-f767zi", 324.02, 287.5), ("nucleo-h743zi2", 152.22, 169.7)):
        time, drawn = latency(vgg, board(name)), energy(vgg, board(name))
        assert time.likely == pytest.approx(milliseconds, rel=0.05)
        assert drawn.likely / 1000 == pytest.approx(millijoules, rel=0.1)


@pytest.mark.parametrize(("make", "name"), [(dscnn, 0), (resnet8, 1), (mobilenet, 2), (autoencoder, 3)])
def test_the_anchors_networks_are_those_of_the_benchmark(make, name):
    anchor = [anchor for anchor in ANCHORS if anchor.runtime == "microtvm"][name]
    assert tuple(macs_by_class(make()).values()) == anchor.macs


def test_slower_kernels_take_longer_and_own_code_about_as_long():
    macs, on = macs_by_class(resnet8()), board("nucleo-f767zi")
    found = {runtime: latency(macs, on, runtime) for runtime in ("tflm", "tflm-ref", "cube-ai", "c")}
    assert found["cube-ai"].likely < found["tflm"].likely < found["tflm-ref"].low
    assert found["c"].low < found["tflm"].likely < found["c"].high


def test_where_nobody_measured_there_is_no_estimate():
    macs = macs_by_class(resnet8())
    assert latency(macs, board("esp32-s3")) is None
    assert latency(macs, board("nucleo-f767zi"), "microtvm") is None
    assert energy(macs, board("teensy-4.1")) is None


def test_multiply_accumulates_by_class_sum_to_the_total():
    for make in (dscnn, resnet8, mobilenet, autoencoder):
        assert sum(macs_by_class(make()).values()) == profile(make()).total["macs"]
    assert macs_by_class(dscnn())["depthwise"] == 4 * 9 * 64 * 125
