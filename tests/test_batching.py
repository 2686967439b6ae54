"""Files made for one example train on batches of them, or are refused by the name of a node before any training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import difference
from onnx import TensorProto, helper, numpy_helper
from test_pruning import limits, refused
from test_trainable import by_example, drawn, inputs_of, outputs_of

from mcuprune import pruning
from mcuprune.channels.labelling import Channels, label
from mcuprune.errors import ModelError
from mcuprune.graph import network
from mcuprune.operators import table as ops
from mcuprune.passes.canonical import canonical
from mcuprune.pruning import Request
from mcuprune.train.batchproof import prove
from mcuprune.train.evaluate import Model
from mcuprune.train.module import Trainable

torch.set_num_threads(1)

_N = helper.make_node
IMAGE = (6, 4, 4)
SEQUENCE = (5, 8)


def for_one(
    nodes: Sequence[onnx.NodeProto], constants: Mapping[str, Any], shape: Sequence[int], *, batch: int | str = 1
) -> onnx.ModelProto:
    """A model of one input ``x`` (1, *shape), as an exporter traces it with one example."""
    made = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *shape])],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def shape(*sizes: int) -> np.ndarray:
    return np.array(sizes, np.int64)


def attention(heads: int = 2) -> tuple[list[onnx.NodeProto], dict[str, Any], tuple[int, ...]]:
    """Heads multiplied into the batch, as torch writes them: (batch, length, width) to (batch * heads, length, share)."""
    nodes = [_N("MatMul", ["x", name], [f"{name}x"], name=f"project_{name}") for name in "qkv"]
    for name in "qkv":
        nodes += [
            _N("Reshape", [f"{name}x", "split"], [f"{name}4"], name=f"split_{name}"),
            _N("Transpose", [f"{name}4"], [f"{name}t"], perm=[0, 2, 1, 3]),
            _N("Reshape", [f"{name}t", "merge"], [f"{name}m"], name=f"merge_{name}"),
        ]
    nodes += [
        _N("Transpose", ["km"], ["keys"], perm=[0, 2, 1]),
        _N("MatMul", ["qm", "keys"], ["score"], name="score"),
        _N("Add", ["score", "mask"], ["masked"]),
        _N("Softmax", ["masked"], ["p"], axis=-1),
        _N("MatMul", ["p", "vm"], ["o"], name="mix"),
        _N("Reshape", ["o", "unmerge"], ["o4"]),
        _N("Transpose", ["o4"], ["ot"], perm=[0, 2, 1, 3]),
        _N("Reshape", ["ot", "flat"], ["f"]),
        _N("MatMul", ["f", "out"], ["y"]),
    ]
    width = 8 // heads
    constants = {name: drawn(8, 8, seed=i) for i, name in enumerate("qkv")} | {"out": drawn(40, 3)}
    constants |= {"split": shape(1, 5, heads, width), "merge": shape(heads, 5, width), "unmerge": shape(1, heads, 5, width)}
    return nodes, constants | {"flat": shape(1, 40), "mask": drawn(heads, 5, 5)}, SEQUENCE


def classified(nodes: list[onnx.NodeProto], width: int, constants: Mapping[str, Any], data: Sequence[int] = IMAGE) -> Any:
    """``nodes`` from x to t (1, width, ...), then an average and three classes."""
    tail = [
        _N("GlobalAveragePool", ["t"], ["pool"]),
        _N("Reshape", ["pool", "row"], ["flat"], name="row"),
        _N("Gemm", ["flat", "fc"], ["y"], name="fc"),
    ]
    return [*nodes, *tail], {**constants, "row": shape(1, width), "fc": drawn(width, 3)}, data


TRAINS: dict[str, Any] = {
    "a grid of coordinates": lambda: classified(
        [_N("Concat", ["x", "grid"], ["g"], axis=1), _N("Conv", ["g", "w"], ["t"])],
        4,
        {"grid": drawn(1, 2, 4, 4), "w": drawn(4, 8, 1, 1)},
    ),
    "a grid in front": lambda: classified(
        [_N("Concat", ["grid", "x"], ["g"], axis=1), _N("Conv", ["g", "w"], ["t"])],
        4,
        {"grid": drawn(1, 2, 4, 4), "w": drawn(4, 8, 1, 1)},
    ),
    "a class token": lambda: (
        [
            _N("Concat", ["token", "x"], ["a"], axis=1),
            _N("Add", ["a", "position"], ["b"]),
            _N("Gather", ["b", "zero"], ["c"], axis=1),
            _N("MatMul", ["c", "w"], ["y"]),
        ],
        {"token": drawn(1, 1, 8), "position": drawn(1, 6, 8), "zero": np.int64(0), "w": drawn(8, 3)},
        SEQUENCE,
    ),
    "a constant added": lambda: classified([_N("Add", ["x", "c"], ["t"])], 6, {"c": drawn(1, *IMAGE)}),
    "a constant chosen": lambda: classified(
        [_N("Greater", ["x", "c"], ["m"]), _N("Where", ["m", "x", "c"], ["t"])], 6, {"c": drawn(1, *IMAGE)}
    ),
    "powers": lambda: classified([_N("Pow", ["c", "x"], ["t"])], 6, {"c": np.abs(drawn(1, *IMAGE)) + 1}),
    "channels shuffled": lambda: classified(
        [
            _N("Reshape", ["x", "five"], ["a"]),
            _N("Transpose", ["a"], ["b"], perm=[0, 2, 1, 3, 4]),
            _N("Reshape", ["b", "four"], ["t"]),
        ],
        6,
        {"five": shape(1, 2, 3, 4, 4), "four": shape(1, 6, 4, 4)},
    ),
    "groups in the batch": lambda: classified(
        [
            _N("Reshape", ["x", "apart"], ["a"]),
            _N("Conv", ["a", "w"], ["b"], pads=[1, 1, 1, 1]),
            _N("Reshape", ["b", "again"], ["t"]),
        ],
        8,
        {"apart": shape(2, 3, 4, 4), "w": drawn(4, 3, 3, 3), "again": shape(1, 8, 4, 4)},
    ),
    "channels in the batch": lambda: classified(
        [
            _N("Reshape", ["x", "apart"], ["a"]),
            _N("Conv", ["a", "w"], ["b"], pads=[1, 1, 1, 1]),
            _N("Reshape", ["b", "again"], ["t"]),
        ],
        12,
        {"apart": shape(6, 1, 4, 4), "w": drawn(2, 1, 3, 3), "again": shape(1, 12, 4, 4)},
    ),
    "groups in the batch, each with its constant": lambda: classified(
        [
            _N("Reshape", ["x", "apart"], ["a"]),
            _N("Mul", ["a", "factor"], ["b"]),
            _N("Concat", ["b", "grid"], ["c"], axis=1),
            _N("Reshape", ["c", "again"], ["t"]),
        ],
        8,
        {"apart": shape(2, 3, 4, 4), "factor": drawn(2, 3, 1, 1), "grid": drawn(2, 1, 4, 4), "again": shape(1, 8, 4, 4)},
    ),
    "heads in the batch": attention,
    "one head": lambda: attention(1),
    "steps first": lambda: (
        [
            _N("Transpose", ["x"], ["a"], perm=[1, 0, 2]),
            _N("Reshape", ["a", "rows"], ["b"]),
            _N("Gemm", ["b", "w", "bias"], ["c"]),
            _N("Reshape", ["c", "steps"], ["d"]),
            _N("Mul", ["d", "gain"], ["e"]),
            _N("Transpose", ["e"], ["f"], perm=[1, 0, 2]),
            _N("Flatten", ["f"], ["g"]),
            _N("Gemm", ["g", "fc"], ["y"]),
        ],
        {
            "rows": shape(5, 8),
            "w": drawn(8, 4),
            "bias": drawn(4),
            "steps": shape(5, 1, 4),
            "gain": drawn(5, 1, 4),
            "fc": drawn(20, 3),
        },
        SEQUENCE,
    ),
    "steps first, heads in the batch": lambda: (
        [
            _N("Transpose", ["x"], ["a"], perm=[1, 0, 2]),
            _N("Reshape", ["a", "heads"], ["b"]),
            _N("Transpose", ["b"], ["c"], perm=[1, 0, 2]),
            _N("Softmax", ["c"], ["d"], axis=-1),
            _N("Transpose", ["d"], ["e"], perm=[1, 0, 2]),
            _N("Reshape", ["e", "steps"], ["f"]),
            _N("Transpose", ["f"], ["g"], perm=[1, 0, 2]),
            _N("Flatten", ["g"], ["h"]),
            _N("Gemm", ["h", "fc"], ["y"]),
        ],
        {"heads": shape(5, 2, 4), "steps": shape(5, 1, 8), "fc": drawn(40, 3)},
        SEQUENCE,
    ),
    "the batch squeezed away and back": lambda: classified(
        [
            _N("Squeeze", ["x", "first"], ["a"]),
            _N("Mul", ["a", "factor"], ["b"]),
            _N("Unsqueeze", ["b", "first"], ["t"]),
        ],
        6,
        {"first": shape(0), "factor": drawn(6, 1, 1)},
    ),
    "the first example taken": lambda: classified(
        [_N("Gather", ["x", "zero"], ["a"], axis=0), _N("Relu", ["a"], ["b"]), _N("Unsqueeze", ["b", "first"], ["t"])],
        6,
        {"zero": np.int64(0), "first": shape(0)},
    ),
    "the first example sliced off": lambda: classified(
        [_N("Slice", ["x", "first", "one", "axes"], ["a"]), _N("Relu", ["a"], ["t"])],
        6,
        {"first": shape(0), "one": shape(1), "axes": shape(0)},
    ),
    "expanded to one example": lambda: classified(
        [_N("GlobalAveragePool", ["x"], ["a"]), _N("Expand", ["a", "to"], ["b"]), _N("Mul", ["b", "x"], ["t"])],
        6,
        {"to": shape(1, *IMAGE)},
    ),
    "tiled": lambda: classified([_N("Tile", ["x", "times"], ["t"])], 12, {"times": shape(1, 2, 1, 1)}),
    "flattened from the start": lambda: (
        [_N("Flatten", ["x"], ["a"], axis=0), _N("Gemm", ["a", "fc"], ["y"])],
        {"fc": drawn(96, 3)},
        IMAGE,
    ),
    "resized to sizes": lambda: classified(
        [_N("Resize", ["x", "", "", "to"], ["t"], mode="nearest")], 6, {"to": shape(1, 6, 8, 8)}
    ),
}

REFUSED: dict[str, tuple[Any, str]] = {
    "a mean over the batch": (
        lambda: classified([_N("ReduceMean", ["x"], ["a"], name="bad", axes=[0, 2, 3]), _N("Sub", ["x", "a"], ["t"])], 6, {}),
        "examples of one batch change each other's results",
    ),
    "a softmax over the batch": (
        lambda: classified([_N("Softmax", ["x"], ["t"], name="bad", axis=0)], 6, {}),
        "examples of one batch change each other's results",
    ),
    "a softmax over channels that hold the batch": (
        lambda: classified(
            [
                _N("Squeeze", ["x", "first"], ["a"]),
                _N("Softmax", ["a"], ["b"], name="bad", axis=0),
                _N("Unsqueeze", ["b", "first"], ["t"]),
            ],
            6,
            {"first": shape(0)},
        ),
        "examples of one batch change each other's results",
    ),
    "the batch tiled": (
        lambda: (
            [
                _N("Tile", ["x", "twice"], ["a"], name="tile"),
                _N("ReduceMax", ["a"], ["b"], name="bad", axes=[0], keepdims=1),
                _N("Flatten", ["b"], ["c"]),
                _N("Gemm", ["c", "fc"], ["y"]),
            ],
            {"twice": shape(2, 1, 1, 1), "fc": drawn(96, 3)},
            IMAGE,
        ),
        "examples of one batch change each other's results",
    ),
    "joined to a constant along the batch": (
        lambda: (
            [
                _N("Concat", ["x", "c"], ["a"], name="bad", axis=0),
                _N("Reshape", ["a", "row"], ["b"]),
                _N("Gemm", ["b", "fc"], ["y"]),
            ],
            {"c": drawn(1, *IMAGE), "row": shape(1, 192), "fc": drawn(192, 3)},
            IMAGE,
        ),
        "examples of one batch change each other's results",
    ),
}


def channels_of(make: Any, **more: Any) -> tuple[onnx.ModelProto, Channels]:
    """The file, and the network as ``prune`` trains it."""
    nodes, constants, data = make()
    model = for_one(nodes, constants, data, **more)
    return model, label(canonical(network.from_proto(model, "net.onnx", accept=ops.accept("net.onnx")))[0])


@pytest.mark.parametrize("name", TRAINS)
def test_a_batch_gives_what_the_file_gives_each_example(name: str) -> None:
    """In the torch module at batch 3; in onnxruntime, one example at a time."""
    model, channels = channels_of(TRAINS[name])
    prove(channels)
    inputs = inputs_of(channels.network, 3)
    assert difference(outputs_of(Trainable(channels), inputs), by_example(model, inputs)) <= 1e-4


@pytest.mark.parametrize("name", TRAINS)
def test_a_batch_gives_the_gradients_of_its_examples(name: str) -> None:
    _, channels = channels_of(TRAINS[name])
    module = Trainable(channels).eval()
    x = torch.from_numpy(inputs_of(channels.network, 3)["x"])

    def gradients(*batches: torch.Tensor) -> list[torch.Tensor]:
        module.zero_grad()
        for batch in batches:
            module(batch)[0].square().sum().backward()
        return [weight.grad.clone() for _, weight in module.named_weights()]

    for together, alone in zip(gradients(x), gradients(*x.split(1)), strict=True):
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4 * float(alone.abs().max() + 1e-6))


@pytest.mark.parametrize("name", REFUSED)
def test_what_mixes_examples_is_refused_by_its_node(name: str) -> None:
    make, reason = REFUSED[name]
    _, channels = channels_of(make)
    with pytest.raises(ModelError, match=r"net.onnx: node 'bad' .* is made for one example at a time") as caught:
        prove(channels)
    assert reason in str(caught.value)
    assert "--no-train" in str(caught.value)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    draw = np.random.default_rng(0)
    labels = np.arange(48) % 3
    x = draw.normal(size=(48, *IMAGE)).astype(np.float32) + labels[:, None, None, None]
    path = tmp_path_factory.mktemp("data") / "images.npz"
    x = x.astype(np.float32)
    np.savez(path, x_train=x[:32], y_train=labels[:32], x_test=x[32:], y_test=labels[32:])
    return str(path)


def coordinates() -> Any:
    nodes = [
        _N("Concat", ["x", "grid"], ["g"], axis=1),
        _N("Conv", ["g", "w"], ["c"], name="first", pads=[1, 1, 1, 1]),
        _N("Relu", ["c"], ["r"]),
        _N("Conv", ["r", "v"], ["t"], name="second"),
    ]
    return classified(nodes, 6, {"grid": drawn(1, 2, 4, 4), "w": drawn(8, 8, 3, 3), "v": drawn(6, 8, 1, 1)})


@pytest.mark.parametrize("batch", [1, "n"])
def test_a_file_for_one_example_is_pruned_and_stays_one(batch: int | str, images: str, tmp_path: Path) -> None:
    """Even one that says it takes any batch: what it says is measured, not believed."""
    model, _ = channels_of(coordinates, batch=batch)
    onnx.save(model, tmp_path / "net.onnx")
    request = Request(str(tmp_path / "net.onnx"), limits(macs="60%"), str(tmp_path / "o.onnx"), data=images, epochs=2, batch=8)
    result = pruning.prune(request)
    assert result.ok
    assert result.accuracy_int8 is not None
    x = np.load(images)["x_test"]
    model_of = Model(str(tmp_path / "o.onnx"))
    assert np.array_equal(model_of(x), np.concatenate([Model(str(tmp_path / "o.onnx"))(x[i : i + 1]) for i in range(len(x))]))


def test_a_network_that_mixes_examples_is_refused_before_it_is_trained(
    images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes, constants, data = coordinates()
    nodes.insert(0, _N("ReduceMean", ["x"], ["mean"], name="mean", axes=[0, 2, 3]))
    nodes.insert(1, _N("Sub", ["x", "mean"], ["centred"], name="centred"))
    nodes[2] = _N("Concat", ["centred", "grid"], ["g"], axis=1)
    onnx.save(for_one(nodes, constants, data), tmp_path / "net.onnx")
    command = ["prune", str(tmp_path / "net.onnx"), "--macs", "60%", "--data", images, "-o", str(tmp_path / "o.onnx")]
    message = refused(command, capsys)
    assert "node 'mean' (ReduceMean) is made for one example at a time" in message
    assert not (tmp_path / "o.onnx").exists()
