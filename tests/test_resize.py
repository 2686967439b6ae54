"""Resize: the samples that onnxruntime takes, those that TensorFlow Lite's kernels take, and what is said where they differ."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from graphs import Graph
from onnx import TensorProto, helper, numpy_helper
from test_tflite import converted, int8, model_of, single

from mcuprune import exporting
from mcuprune.deploy import sampling
from mcuprune.deploy.lower import lower
from mcuprune.errors import UnsupportedOperator
from mcuprune.graph import network
from mcuprune.operators import attributes
from mcuprune.report import verified
from mcuprune.run import layerwise
from mcuprune.run.trial import Trial

verify = import_module("mcuprune.run.verify")

#: Ways to place samples that the lowering knows.
WAYS = ("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners")
ROUNDINGS = ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
#: Sizes small enough for all pairs of them, and some at which many places lie between two samples.
SIZES = (*range(1, 15), 20, 26, 37, 52, 64)


def answers(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What onnxruntime makes of constants, by nodes of one output each."""
    outputs = [helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None) for node in nodes]
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", [], outputs, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    made: list[np.ndarray] = session.run(None, {})
    return made


@pytest.mark.parametrize("way", WAYS)
def test_the_nearest_samples_are_those_of_onnxruntime(way: str) -> None:
    """Up and down, by sizes and by scales, whole and not; also where a place lies in the middle but for float32."""
    constants = {f"x{size}": np.arange(size, dtype=np.float32) for size in SIZES}
    nodes, wanted, cases = [], [], []
    for before, after in itertools.permutations(SIZES, 2):
        scale = np.float32(after / before)
        constants[f"to{after}"] = np.array([after])
        constants[f"by{before}/{after}"] = np.array([scale])
        by_scale = int(np.floor(np.float32(before) * scale))
        for rounding in ROUNDINGS:
            for inputs, out in ((["", f"to{after}"], after), ([f"by{before}/{after}"], by_scale)):
                if out < 1:
                    continue
                attrs = {"mode": "nearest", "coordinate_transformation_mode": way, "nearest_mode": rounding}
                nodes.append(helper.make_node("Resize", [f"x{before}", "", *inputs], [f"y{len(nodes)}"], **attrs))
                places = attributes.places(way, float(scale), before, out)
                assert places is not None
                wanted.append(attributes.nearest(rounding, places, before))
                cases.append((before, out, rounding))
    for case, expected, got in zip(cases, wanted, answers(nodes, constants), strict=True):
        assert np.array_equal(expected, got), case


def resized(
    before: tuple[int, int], after: tuple[int, int], mode: str, way: str, rounding: str | None = None
) -> Callable[[], onnx.ModelProto]:
    """A network that resizes two channels from one size to another."""
    attrs: dict[str, Any] = {} if rounding is None else {"nearest_mode": rounding}
    sizes = np.array([1, 2, *after])
    return single("Resize", None, None, sizes, shape=(1, 2, *before), mode=mode, coordinate_transformation_mode=way, **attrs)


@pytest.mark.parametrize("out", [5, 7])
def test_a_tie_that_tensorflow_lite_decides_otherwise_is_refused(out: int, tmp_path: Path) -> None:
    """From 12 pixels a place lies in the middle of two: ONNX's defaults take the lower one, that kernel the upper one."""
    where = attributes.places("half_pixel", out / 12, 12, out)
    assert where is not None
    picked = list(attributes.nearest("round_prefer_floor", where, 12))
    assert picked == {5: [1, 3, 5, 8, 10], 7: [0, 2, 4, 5, 7, 9, 11]}[out]
    path = int8(resized((12, 12), (12, out), "nearest", "half_pixel")(), tmp_path / "net.onnx")
    with pytest.raises(UnsupportedOperator, match=r"node 'resize0'.*picks other pixels than TensorFlow Lite's; export it in"):
        converted(path)


@pytest.mark.parametrize("way", ["tf_crop_and_resize", "half_pixel_symmetric"])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_places_that_are_not_known_are_no_half_pixels(mode: str, way: str) -> None:
    roi = np.array([0, 0, 0.2, 0.2, 1, 1, 0.9, 0.9], np.float32)
    sizes, attrs = np.array([1, 2, 8, 8]), {"mode": mode, "coordinate_transformation_mode": way}
    net = network.from_proto(single("Resize", roi, None, sizes, shape=(1, 2, 4, 4), **attrs)(), "net.onnx")
    with pytest.raises(UnsupportedOperator, match="picks other pixels"):
        lower(net).check()


@pytest.mark.parametrize(
    ("before", "after", "way"),
    [((12, 12), (1, 24), "pytorch_half_pixel"), ((3, 12), (6, 1), "pytorch_half_pixel"), ((1, 6), (106, 12), "asymmetric")],
)
def test_interpolation_elsewhere_is_refused(before: tuple[int, int], after: tuple[int, int], way: str, tmp_path: Path) -> None:
    """An axis of one sample, which ONNX takes from the edge; places of its own; places that the kernel takes from beyond."""
    path = int8(resized(before, after, "linear", way)(), tmp_path / "net.onnx")
    with pytest.raises(UnsupportedOperator, match=r"node 'resize0'.*TensorFlow Lite.*; (export it|resize by)"):
        converted(path)


@pytest.mark.parametrize(
    ("before", "after", "way"),
    [((12, 6), (1, 6), "pytorch_half_pixel"), ((1, 6), (1, 12), "pytorch_half_pixel"), ((1, 6), (106, 6), "align_corners")],
)
@pytest.mark.usefixtures("in_process")
def test_one_sample_of_an_axis_is_taken_where_it_is_the_same(
    before: tuple[int, int], after: tuple[int, int], way: str, tmp_path: Path
) -> None:
    found = verify.verify(int8(resized(before, after, "linear", way)(), tmp_path / "net.onnx"), Trial(examples=8))
    assert found.ok
    assert found.differences[0].max_lsb <= 1


FORMS = {"asymmetric": (False, False), "half_pixel": (False, True), "align_corners": (True, False)}


@pytest.mark.parametrize("way", FORMS)
def test_how_far_interpolation_goes_astray_is_what_its_kernel_takes_from_elsewhere(way: str) -> None:
    """Images of one bright pixel each: what onnxruntime makes of them is the share of each pixel in each answer."""
    pairs = [(12, 24), (12, 48), (12, 96), (12, 37), (12, 53), (24, 12), (37, 12), (5, 9), (7, 1), (1, 9), (30, 45)]
    constants: dict[str, np.ndarray] = {}
    nodes = []
    for before, after in pairs:
        constants |= {f"x{before}": np.eye(before, dtype=np.float32), f"to{before}/{after}": np.array([before, after])}
        attrs = {"mode": "linear", "coordinate_transformation_mode": way}
        nodes.append(helper.make_node("Resize", [f"x{before}", "", "", f"to{before}/{after}"], [f"y{len(nodes)}"], **attrs))
    for (before, after), right in zip(pairs, answers(nodes, constants), strict=True):
        low, high, place = np.array(sampling.between(*FORMS[way], before, after)).reshape(after, 3).T
        kernel = np.zeros((before, after))
        np.add.at(kernel, (low, range(after)), 1 - place / 1024)
        np.add.at(kernel, (high, range(after)), place / 1024)
        elsewhere = np.abs(kernel - right).sum(axis=0).max() / 2
        assert sampling.astray(*FORMS[way], before, after) == pytest.approx(elsewhere, abs=1e-5), (before, after)


@pytest.mark.parametrize("way", ["asymmetric", "half_pixel"])
def test_by_a_power_of_two_nothing_goes_astray(way: str) -> None:
    """What the note about other Resizes proposes."""
    for size, factor in itertools.product(range(1, 60), (2, 4, 8)):
        assert sampling.stays_inside(*FORMS[way], size, size * factor)
        assert sampling.astray(*FORMS[way], size, size * factor) == 0


@pytest.mark.usefixtures("in_process")
def test_a_resize_that_drifts_is_named_and_is_no_other_computation(tmp_path: Path) -> None:
    """The places of its kernel are off by up to 20 steps at twelve pixels in eight times as many; by no more, all the same."""
    path = int8(resized((12, 12), (96, 96), "linear", "align_corners")(), tmp_path / "net.onnx")
    found = verify.verify(path, Trial(examples=8))
    said = "node 'resize0': from 12 x 12 to 96 x 96 pixels RESIZE_BILINEAR is off by up to 20 of 255 steps"
    assert any(note.startswith(said) and "half_pixel or asymmetric" in note for note in found.notes)
    assert found.ok, verified.text(verified.document(found))
    (layer,) = found.runtimes[0].layers[-1:]
    assert layerwise.MAX_LSB < layer.max_lsb <= layer.drift + 1
    for suffix, told in ((".tflite", True), (".c", True), (".onnx", False)):
        notes = exporting.export(exporting.Request(path, str(tmp_path / f"out{suffix}"))).notes
        assert any(note.startswith(said) for note in notes) is told


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(("way", "drifting"), [("half_pixel", []), ("align_corners", ["resize0"])])
def test_what_does_not_drift_is_held_to_rounding(way: str, drifting: list[str], tmp_path: Path) -> None:
    """Neither a Resize by a factor of two has more room than others, nor a layer behind one that drifts."""
    graph = Graph(1, 2, 6, 6)
    sizes = graph.value(np.array([1, 2, 24, 24]))
    y = graph.add("Resize", "x", "", "", sizes, mode="linear", coordinate_transformation_mode=way)
    y = graph.add("AveragePool", graph.add("Relu", y), kernel_shape=[2, 2], strides=[2, 2])
    found = verify.verify(int8(model_of(graph, graph.conv(y, 2, 3)), tmp_path / "net.onnx"), Trial(examples=8))
    assert found.ok
    assert [note for note in found.notes if "RESIZE_BILINEAR" in note] == [] or drifting
    for side in found.runtimes:
        assert [layer.node for layer in side.layers if layer.drift] == drifting
        assert len(side.layers) == 3


def flat(graph: Graph, op: str, channels: int = 40) -> str:
    """Numbers of about 1/40 that hardly differ, in the fixed scale of what makes them."""
    weight = graph.value(np.random.default_rng(1).normal(size=(channels, 3, 1, 1)).astype(np.float32) / 10)
    bias = graph.value(np.full(channels, -3.7 if op == "Sigmoid" else 0, np.float32))
    return graph.add(op, graph.add("Conv", "x", weight, bias), **({} if op == "Sigmoid" else {"axis": 1}))


#: What hands a scale on, the padding of a pool or a movement.
HANDING_ON: dict[str, Callable[[Graph, str], str]] = {
    "nothing": lambda graph, y: y,
    "MaxPool": lambda graph, y: graph.add("MaxPool", y, kernel_shape=[2, 2]),
    "AveragePool": lambda graph, y: graph.add("AveragePool", y, kernel_shape=[3, 3], pads=[1] * 4),
    "Pad": lambda graph, y: graph.add("Pad", y, graph.value(np.array([0, 0, 1, 0, 0, 0, 0, 1]))),
    "Concat": lambda graph, y: graph.add("Concat", y, y, axis=2),
    "Slice": lambda graph, y: graph.add("Slice", y, *(graph.value(np.array([end])) for end in (3, 30, 1))),
    "another Resize": lambda graph, y: by_four(graph, y),
}


def by_four(graph: Graph, y: str) -> str:
    by = graph.value(np.array([1, 1, 4, 4], np.float32))
    return graph.add("Resize", y, "", by, mode="linear", coordinate_transformation_mode="half_pixel")


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("between", HANDING_ON)
@pytest.mark.parametrize("op", ["Softmax", "Sigmoid"])
def test_a_resize_of_flat_numbers_in_a_fixed_scale_stays_within_rounding(op: str, between: str, tmp_path: Path) -> None:
    """The kernel interpolates in steps of 1/256, and a range of its own behind it had many times finer ones."""
    graph = Graph(1, 3, 5, 4)
    path = int8(model_of(graph, by_four(graph, HANDING_ON[between](graph, flat(graph, op)))), tmp_path / "net.onnx")
    found = verify.verify(path, Trial(examples=6))
    assert found.ok, verified.text(verified.document(found))
    assert all(layer.max_lsb <= layerwise.MAX_LSB for side in found.runtimes for layer in side.layers)


def test_a_layer_may_be_off_by_its_own_drift_alone() -> None:
    assert layerwise.Layer("node", "y", layerwise.MAX_LSB + 4, 4).ok
    assert not layerwise.Layer("node", "y", layerwise.MAX_LSB + 5, 4).ok
    assert not layerwise.Layer("node", "y", layerwise.MAX_LSB + 1).ok
