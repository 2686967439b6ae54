"""Accuracy is what onnxruntime answers, whatever batch a file was written for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from test_trainable import drawn, graph

from mcuprune.data import Split
from mcuprune.errors import ModelError
from mcuprune.evaluate import Model, accuracy, accuracy_of


def classifier(batch: int | str) -> onnx.ModelProto:
    """Six numbers to three classes, by an average over the batch's own row alone."""
    model = graph([helper.make_node("Gemm", ["x", "w"], ["y"])], {"w": drawn(6, 3)}, (6,))
    for value in (*model.graph.input, *model.graph.output):
        dim = value.type.tensor_type.shape.dim[0]
        dim.Clear()
        if isinstance(batch, int):
            dim.dim_value = batch
        else:
            dim.dim_param = batch
    return model


@pytest.mark.parametrize("count", [1, 4, 7, 600])
@pytest.mark.parametrize("batch", [1, 4, "n", "batch"])
def test_every_example_is_answered_once(batch: int | str, count: int) -> None:
    x = drawn(count, 6)
    found = Model(classifier(batch).SerializeToString())(x)
    np.testing.assert_allclose(found, x @ drawn(6, 3), rtol=1e-4, atol=1e-5)


def test_accuracy_is_the_share_of_right_labels(tmp_path: Path) -> None:
    x = drawn(50, 6)
    best = (x @ drawn(6, 3)).argmax(1)
    wrong = (best + (np.arange(50) % 5 == 0)) % 3
    (tmp_path / "net.onnx").write_bytes(classifier(8).SerializeToString())
    assert accuracy_of(tmp_path / "net.onnx", Split(x, best.astype(np.int64))) == 1.0
    assert accuracy_of(str(tmp_path / "net.onnx"), Split(x, wrong.astype(np.int64))) == 0.8


def test_maps_of_one_pixel_are_classes_too() -> None:
    assert accuracy(np.array([[[[1.0]], [[2.0]]], [[[3.0]], [[0.0]]]]), np.array([1, 1])) == 0.5


def test_a_file_that_onnxruntime_refuses_is_named(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"net.onnx: onnxruntime can't load it"):
        Model(tmp_path / "net.onnx")


def test_int8_activations_stay_int8_where_several_nodes_read_them(tmp_path: Path) -> None:
    """onnxruntime keeps them in float unless it is told; the integers that are measured must be those that are deployed."""
    import collections

    import onnxruntime
    from test_export import MODELS, written

    wanted: list[onnxruntime.SessionOptions] = []
    make = onnxruntime.InferenceSession

    def spy(source: bytes, options: onnxruntime.SessionOptions, **more: object) -> onnxruntime.InferenceSession:
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        wanted.append(options)
        return make(source, options, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime, "InferenceSession", spy)
        Model(written(MODELS[-1]).SerializeToString())
    assert wanted
    ops = collections.Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert ops["QLinearConv"]
    assert not ops["Conv"]
    assert not ops["Add"]
