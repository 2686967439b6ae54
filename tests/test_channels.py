"""Labels, groups and cuts: what lives and dies together, and that real files cut as their masks say."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import blocks
import numpy as np
import onnx
import pytest
import torch
from conftest import CORPUS_SHAPES, corpus, difference, feed, random_selection, run
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mcuprune.channels.labelling import Channels, balanced_blocks, label
from mcuprune.costs.resources import CostModel, profile
from mcuprune.graph import network
from mcuprune.operators import table as ops


def labelled(module: nn.Module, **export: bool) -> Channels:
    torch.manual_seed(0)
    model = blocks.export(blocks.randomised(module, 0), dynamo=False, **export)
    return label(network.from_proto(model, "net.onnx", accept=ops.accept("net.onnx")))


def widths(channels: Channels) -> list[int]:
    return [len(group) for group in channels.groups]


# ------------------------------------------------------------------------------------------------------------- groups


def test_a_residual_stream_is_one_group() -> None:
    net = nn.Sequential(blocks.stem(8), blocks.Residual(blocks.conv(8, 8)), blocks.Residual(blocks.conv(8, 8)), blocks.head(8))
    channels = labelled(net)
    assert widths(channels) == [8]
    assert len(channels.groups[0].nodes) == 3


def test_concatenated_branches_are_groups_of_their_own() -> None:
    net = nn.Sequential(blocks.stem(8), blocks.Concat(blocks.conv(8, 6), blocks.conv(8, 4)), blocks.conv(10, 5), blocks.head(5))
    assert widths(labelled(net)) == [8, 6, 4, 5]


def test_the_classifier_is_frozen_and_says_why() -> None:
    channels = labelled(nn.Sequential(blocks.stem(8), blocks.head(8)))
    (frozen,) = channels.frozen
    assert len(frozen) == 5
    assert "graph output" in str(frozen.why)


def test_a_gate_of_one_channel_stays_whole() -> None:
    class Spatial(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mask = nn.Conv2d(8, 1, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.sigmoid(self.mask(x))

    channels = labelled(nn.Sequential(blocks.stem(8), Spatial(), blocks.head(8)))
    assert widths(channels) == [8]


def test_layer_normalization_freezes_what_it_mixes() -> None:
    norm = nn.Sequential(blocks.Lambda(lambda x: x.mean((2, 3))), nn.LayerNorm(8), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    channels = labelled(nn.Sequential(blocks.stem(8), norm))
    assert widths(channels) == [6]
    assert any("mixes channels" in str(group.why) for group in channels.frozen)


# ---------------------------------------------------------------------------------------------------- grouped convolutions


def test_grouped_convolution_loses_one_channel_of_each_group_at_a_time() -> None:
    net = nn.Sequential(blocks.stem(16), blocks.conv(16, 16, groups=4), nn.ReLU(), blocks.conv(16, 12, 1), blocks.head(12))
    assert widths(labelled(net)) == [4, 4, 12]


def test_groups_of_a_cut_convolution_may_keep_different_places() -> None:
    """Behind a shuffle, what one group loses at its first place another loses at its last."""
    body = nn.Sequential(blocks.conv(20, 30, 1, groups=5), blocks.Shuffle(3), nn.ReLU(), blocks.conv(30, 20, 1, groups=2))
    channels = labelled(nn.Sequential(blocks.stem(20), blocks.Residual(body), blocks.head(20)))
    assert any(slot.by_group is not None and (slot.by_group != slot.by_group[0]).any() for slot in channels.slots), (
        "a case without different places tests nothing"
    )
    inputs = feed(channels.network.to_proto())
    for seed in range(5):
        keep = random_selection(channels, 0.5, seed)
        assert difference(run(channels.cut(keep), inputs), run(channels.masked(keep), inputs)) <= 1e-5


def test_a_shufflenet_with_three_groups_loses_half_its_macs() -> None:
    def unit(n: int, squeezed: int, new: int, join: type[nn.Module]) -> nn.Module:
        body = nn.Sequential(
            blocks.conv(n, squeezed, 1, groups=3),
            nn.ReLU(),
            blocks.Shuffle(3),
            blocks.conv(squeezed, squeezed, groups=squeezed),
            blocks.conv(squeezed, new, 1, groups=3),
        )
        return join(nn.Identity(), body)

    net = nn.Sequential(
        blocks.stem(24),
        unit(24, 30, 96, blocks.Concat),
        unit(120, 30, 120, blocks.Residual),
        unit(120, 60, 120, blocks.Concat),
        blocks.head(240),
    )
    channels = labelled(net)
    costs = CostModel(channels)
    assert costs.at(costs.least)["macs"] < 0.2 * costs.at(costs.full)["macs"]
    assert min(len(group) for group in channels.groups if group.minimum) >= 2  # nothing is all or nothing
    halves = np.array([max(group.minimum, len(group) // 2) for group in channels.groups])
    assert costs.at(halves)["macs"] < 0.5 * costs.at(costs.full)["macs"]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_balanced_blocks_part_everything_into_sets_that_sum_to_zero(data: st.DataObject) -> None:
    groups, per_group = data.draw(st.integers(2, 5)), data.draw(st.integers(1, 8))
    draw = np.random.default_rng(data.draw(st.integers(0, 1000)))
    constraints = []
    for _ in range(data.draw(st.integers(1, 3))):
        place = draw.permutation(np.repeat(np.arange(groups), per_group))
        constraints.append(groups * np.eye(groups, dtype=np.int64)[place] - 1)
    vectors = np.concatenate(constraints, axis=1)
    found, rest = balanced_blocks(vectors)
    assert rest == []
    assert sorted(row for block in found for row in block) == list(range(len(vectors)))
    assert all(not vectors[block].sum(axis=0).any() for block in found)
    if len(constraints) == 1:
        assert len(found) == per_group  # one row of each group: no smaller set sums to zero


def test_gates_of_the_trainable_module_mask_what_the_network_masks() -> None:
    from mcuprune.train.module import Trainable

    channels = labelled(blocks.BLOCKS["shufflenet v1 unit"]())
    keep = random_selection(channels, 0.5, 0)
    module = Trainable(channels).eval()
    module.gates = torch.from_numpy(keep.astype(np.float32))
    inputs = feed(channels.network.to_proto())
    with torch.no_grad():
        found = [value.numpy() for value in module(*(torch.from_numpy(value) for value in inputs.values()))]
    assert difference(found, run(channels.masked(keep), inputs)) <= 1e-4


# -------------------------------------------------------------------------------------------------------- shared constants


def test_a_bias_that_two_layers_share_by_accident_is_stored_apart() -> None:
    model = blocks.export(
        nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), blocks.head(6)), dynamo=False
    )
    first, second = (node for node in model.graph.node if node.op_type == "Conv")
    second.input[2] = first.input[2]
    channels = label(network.from_proto(model, "net.onnx"))
    assert widths(channels) == [6, 6]


def test_a_convolution_used_twice_keeps_one_weight() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(8, 8, 3, padding=1), blocks.head(8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.conv(torch.relu(self.conv(x))))

    channels = labelled(nn.Sequential(blocks.stem(8), Twice()))
    assert widths(channels) == [8]
    keep = random_selection(channels, 0.5, 0)
    cut = channels.cut(keep)
    shared = [node.inputs[1] for node in cut.nodes if node.op == "Conv"]
    assert shared[1] == shared[2]
    inputs = feed(cut.to_proto())
    assert difference(run(cut, inputs), run(channels.masked(keep), inputs)) <= 1e-5


# -------------------------------------------------------------------------------------------------------------- real files


@pytest.mark.parametrize("path", corpus(), ids=lambda path: path.stem)
def test_a_real_file_cut_equals_its_masked_original(path: Path) -> None:
    given = CORPUS_SHAPES.get(path.name)
    net = network.load(path, input_shapes=given, accept=ops.accept(str(path)))
    channels = label(net)
    model = onnx.load(path)
    inputs = feed(model, shapes=net.shapes)
    assert difference(run(channels.network, inputs), run(model, inputs)) <= 1e-5
    costs = CostModel(channels)
    for share in (0.4, 0.6):
        keep = random_selection(channels, share, 0)
        cut = channels.cut(keep)
        proto = cut.to_proto()
        onnx.checker.check_model(proto, full_check=True)
        assert list(proto.graph.output) == list(model.graph.output)
        # a saturated sigmoid of some ten thousandths is compared as if it were of one thousandth
        assert difference(run(proto, inputs), run(channels.masked(keep), inputs)) <= 1e-4
        total = profile(cut).total
        assert {key: total[key] for key in ("flash", "macs")} == costs.sums(channels.widths(keep))


# ------------------------------------------------------------------------------------------------------------------ speed


class Graph:
    """Builds large graphs whose weights take no room in the file."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.sizes: dict[str, np.ndarray] = {}

    def add(self, op: str, inputs: list[str], **attrs: object) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(op, inputs, [name], name=f"{op}_{len(self.nodes)}", **attrs))
        return name

    def weight(self, *shape: int) -> str:
        size = f"s{len(self.sizes)}"
        self.sizes[size] = np.array(shape)
        return self.add("ConstantOfShape", [size], value=onnx.helper.make_tensor("v", 1, [1], [0.01]))

    def conv(self, x: str, n_in: int, n_out: int, kernel: int = 1, stride: int = 1) -> str:
        pads = [kernel // 2] * 4
        return self.add("Conv", [x, self.weight(n_out, n_in, kernel, kernel)], pads=pads, strides=[stride, stride])

    def norm_relu(self, x: str, n: int) -> str:
        return self.add("Relu", [self.add("BatchNormalization", [x, *(self.weight(n) for _ in range(4))])])

    def pool(self, x: str) -> str:
        return self.add("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])

    def classified(self, x: str, n: int) -> onnx.ModelProto:
        flat = self.add("Flatten", [self.add("GlobalAveragePool", [x])])
        last = self.add("Gemm", [flat, self.weight(1000, n), self.weight(1000)], transB=1)
        make = onnx.helper.make_tensor_value_info
        graph = onnx.helper.make_graph(
            self.nodes,
            "large",
            [make("x", 1, [1, 3, 224, 224])],
            [make(last, 1, [1, 1000])],
            [onnx.numpy_helper.from_array(value, name) for name, value in self.sizes.items()],
        )
        return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def resnet50() -> onnx.ModelProto:
    graph = Graph()
    x, width = graph.pool(graph.norm_relu(graph.conv("x", 3, 64, 7, 2), 64)), 64
    for middle, blocks_of_stage, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for index in range(blocks_of_stage):
            step = stride if index == 0 else 1
            y = graph.norm_relu(graph.conv(x, width, middle), middle)
            y = graph.norm_relu(graph.conv(y, middle, middle, 3, step), middle)
            y = graph.conv(y, middle, 4 * middle)
            shortcut = graph.conv(x, width, 4 * middle, 1, step) if index == 0 else x
            x, width = graph.add("Relu", [graph.add("Add", [y, shortcut])]), 4 * middle
    return graph.classified(x, width)


def densenet121() -> onnx.ModelProto:
    graph = Graph()
    x, width = graph.pool(graph.norm_relu(graph.conv("x", 3, 64, 7, 2), 64)), 64
    for index, layers in enumerate((6, 12, 24, 16)):
        for _ in range(layers):
            y = graph.norm_relu(graph.conv(graph.norm_relu(x, width), width, 128), 128)
            x, width = graph.add("Concat", [x, graph.conv(y, 128, 32, 3)], axis=1), width + 32
        if index < 3:
            x, width = graph.pool(graph.conv(graph.norm_relu(x, width), width, width // 2)), width // 2
    return graph.classified(graph.norm_relu(x, width), width)


@pytest.mark.parametrize(("model", "n_groups"), [(resnet50, 37), (densenet121, 120)])
def test_large_networks_are_read_and_labelled_in_seconds(model: Callable[[], onnx.ModelProto], n_groups: int) -> None:
    proto = model()
    started = time.process_time()
    channels = label(network.from_proto(proto, "large.onnx", accept=ops.accept("large.onnx")))
    assert time.process_time() - started < 3
    assert len(channels.groups) == n_groups


def test_a_long_signal_makes_no_labels_for_its_every_step() -> None:
    module = nn.Sequential(nn.Conv1d(3, 8, 9, padding=4), nn.ReLU(), nn.Conv1d(8, 8, 9, padding=4), nn.AvgPool1d(1000))
    net = nn.Sequential(blocks.Lambda(lambda x: x.reshape(1, 3, -1).repeat(1, 1, 10000)), module)
    channels = labelled(net)
    assert sum(along.labels.size for along in channels.along.values()) < 100
