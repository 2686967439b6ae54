"""The same seed gives the same file, however many threads the environment offers.

Sums over a batch depend, in their last bits, on how many threads share them: the gradient of a convolution's weights, the
statistics of BatchNormalization.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from mcuprune.cli import main
from mcuprune.costs.resources import profile
from mcuprune.graph import network
from mcuprune.train import engine

ROOT = Path(__file__).parents[1]


def model_file(folder: Path, width: int, size: int) -> Path:
    """Two convolutions, a BatchNormalization after the first, and four classes: ``width`` channels, ``size`` squared."""
    draw = np.random.default_rng(0)
    weights = {
        "w": draw.normal(size=(width, 3, 3, 3)) / 5,
        "v": draw.normal(size=(width, width, 3, 3)) / (3 * width**0.5),
        "fc": draw.normal(size=(width, 4)),
        **{name: np.full(width, value) for name, value in (("gain", 1), ("shift", 0), ("mean", 0), ("variance", 1))},
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["a", "gain", "shift", "mean", "variance"], ["b"], "norm"),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Conv", ["c", "v"], ["d"], "second", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["d"], ["e"]),
        helper.make_node("GlobalAveragePool", ["e"], ["f"]),
        helper.make_node("Flatten", ["f"], ["g"]),
        helper.make_node("Gemm", ["g", "fc"], ["y"], "fc"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, size, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    path = folder / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    labels = np.arange(48) % 4
    x = (draw.normal(size=(48, 3, size, size)) + labels[:, None, None, None]).astype(np.float32)
    np.savez(folder / "data.npz", x_train=x[:32], y_train=labels[:32], x_test=x[32:], y_test=labels[32:])
    return path


@pytest.mark.parametrize(
    ("width", "size"),
    [
        pytest.param(16, 16, id="small", marks=pytest.mark.thorough),
        pytest.param(64, 32, id="large", marks=pytest.mark.thorough),
    ],
)
def test_the_number_of_threads_in_the_environment_changes_no_byte(width: int, size: int, tmp_path: Path) -> None:
    model = model_file(tmp_path, width, size)
    assert (profile(network.load(model)).total["macs"] >= engine.SMALL) == (width == 64)
    command = ["prune", str(model), "--macs", "70%", "--data", str(tmp_path / "data.npz"), "--epochs", "3", "--batch", "16"]
    here = torch.get_num_threads()
    try:
        assert main([*command, "-q", "-o", str(tmp_path / "here.onnx")]) == 0
    finally:
        torch.set_num_threads(here)
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    others = "2" if os.environ.get(names[0]) == "1" else "1"
    subprocess.run(
        [sys.executable, "-m", "mcuprune", *command, "-o", str(tmp_path / "there.onnx")],
        env={**os.environ, **dict.fromkeys(names, others), "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
    )
    assert (tmp_path / "here.onnx").read_bytes() == (tmp_path / "there.onnx").read_bytes()


@pytest.mark.parametrize(("macs", "threads"), [(10**6, 1), (10**9, 4)])
def test_threads_follow_the_size_of_the_network_alone(macs: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    try:
        engine.choose_threads(macs)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
