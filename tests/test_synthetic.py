"""Inputs for a network without data: all different, of the scale that its BatchNormalizations tell, and harmless to it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from graphs import Graph
from onnx import numpy_helper

from mcuprune import pruning
from mcuprune.channels.labelling import Channels, label
from mcuprune.graph import network
from mcuprune.operators import table as ops
from mcuprune.pruning import Request
from mcuprune.train import quantizing, synthetic
from mcuprune.train.module import Trainable
from mcuprune.units import parse

# by their full names: the package has functions of the same names
export = import_module("mcuprune.deploy.qdq")

torch.set_num_threads(1)


def preactivation(scale: float = 1.0, *, norm: bool = True) -> onnx.ModelProto:
    """Convolutions behind BatchNormalizations that nothing folds, with statistics of inputs of this size."""
    g = Graph(1, 2, 8, 8)
    x = g.conv("x", 2, 6)
    for _ in range(2):
        y = g.norm(x, 6) if norm else x
        x = g.add("Add", x, g.conv(g.add("Relu", y), 6, 6))
    model = g.model(g.classifier(x, 6, 4))
    if norm:
        _learn_statistics(model, scale)
    return model


def _learn_statistics(model: onnx.ModelProto, scale: float) -> None:
    """Put into the file the statistics of noise of this scale, in the order of the nodes."""
    channels = label(network.from_proto(model, "net.onnx"))
    module = Trainable(channels).train()
    module.norm_momentum = 1.0
    module(torch.from_numpy((scale * np.random.default_rng(5).standard_normal((64, 2, 8, 8))).astype(np.float32)))
    learned = module.network().constants
    for initializer in model.graph.initializer:
        if initializer.name in learned:
            initializer.CopyFrom(numpy_helper.from_array(np.array(learned[initializer.name]), initializer.name))


def channels_of(model: onnx.ModelProto) -> Channels:
    return label(network.from_proto(model, "net.onnx"))


def test_no_two_examples_are_alike() -> None:
    batches = synthetic.synthetic(channels_of(preactivation(norm=False)), seed=0).batches
    assert len({x.tobytes() for (x,) in batches}) == len(batches) == synthetic.COUNT
    assert all(x.shape == (1, 2, 8, 8) and x.dtype == np.float32 and np.isfinite(x).all() for (x,) in batches)


@pytest.mark.parametrize("scale", [1 / 64, 1.0, 100.0])
def test_inputs_have_the_scale_that_batch_normalisation_was_trained_on(scale: float) -> None:
    batches = synthetic.synthetic(channels_of(preactivation(scale)), seed=0).batches
    assert scale / 4 < np.std(np.concatenate([x for (x,) in batches])) < scale * 4


def test_the_note_tells_what_the_ranges_are_worth() -> None:
    known = synthetic.synthetic(channels_of(preactivation()), seed=0).note
    guessed = synthetic.synthetic(channels_of(preactivation(norm=False)), seed=0).note
    assert "random inputs" in known
    assert "BatchNormalization" in known
    assert "a guess" in guessed


def test_a_large_input_gets_few_examples() -> None:
    g = Graph(1, 1, 2048, 1024)
    batches = synthetic.synthetic(channels_of(g.model(g.conv("x", 1, 2, 1))), seed=0).batches
    assert 4 <= len(batches) <= 8


def statistics(net: network.Network) -> dict[str, np.ndarray]:
    names = [name for node in net.nodes if node.op == "BatchNormalization" for name in node.inputs[3:5]]
    return {name: net.constants[name] for name in names}


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("macs", ["100%", "70%"])
def test_no_statistic_changes_without_data(int8: bool, macs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is written without data has the statistics of the file, or those of the channels that stay."""
    model = preactivation(3.0)
    onnx.save(model, tmp_path / "m.onnx")
    floats: list[network.Network] = []
    write = export.quantized
    monkeypatch.setattr(quantizing, "quantized", lambda net, *more: floats.append(net) or write(net, *more))
    limits = {"macs": parse(macs, "count")}
    pruning.prune(Request(str(tmp_path / "m.onnx"), limits, str(tmp_path / "o.onnx"), train=False, int8=int8))
    before = statistics(network.from_proto(model, "m.onnx"))
    after = statistics(floats[0] if int8 else network.load(tmp_path / "o.onnx", accept=ops.accept("o")))
    assert after.keys() == before.keys()
    for name, value in after.items():
        assert np.isin(value, before[name]).all(), name


def test_calibration_with_data_changes_no_statistic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = preactivation(3.0)
    onnx.save(model, tmp_path / "m.onnx")
    random = np.random.default_rng(0)
    arrays = {f"x_{part}": random.standard_normal((80, 2, 8, 8)).astype(np.float32) for part in ("train", "test")}
    np.savez(tmp_path / "d.npz", **arrays, y_train=np.arange(80) % 4, y_test=np.arange(80) % 4)
    floats: list[network.Network] = []
    write = export.quantized
    monkeypatch.setattr(quantizing, "quantized", lambda net, *more: floats.append(net) or write(net, *more))
    request = Request(
        str(tmp_path / "m.onnx"),
        {"macs": parse("100%", "count")},
        str(tmp_path / "o.onnx"),
        data=str(tmp_path / "d.npz"),
        train=False,
    )
    pruning.prune(request)
    before = statistics(network.from_proto(model, "m.onnx"))
    for name, value in statistics(floats[0]).items():
        np.testing.assert_array_equal(value, before[name])
