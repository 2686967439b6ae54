"""Cross-layer equalisation: exact in floats on every kind of path, silent where scaling is not free, and worth its while."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import difference, feed, run
from graphs import Graph

from mcuprune.channels.labelling import Channels, label
from mcuprune.data.loading import load
from mcuprune.graph import network
from mcuprune.operators import table as ops
from mcuprune.passes import batchnorm as folding
from mcuprune.passes.canonical import canonical
from mcuprune.train import evaluate
from mcuprune.train.equalize import _Scaling, equalized, scaled
from mcuprune.train.fake_quant import QuantTrainable, calibrate

# by their full names: the package has functions of the same names
export = import_module("mcuprune.deploy.qdq")

torch.set_num_threads(1)
MODELS = Path(__file__).resolve().parent.parent / "models"


def channels_of(model: onnx.ModelProto) -> Channels:
    return label(folding.folded(canonical(network.from_proto(model, "net.onnx", accept=ops.accept("net.onnx")))[0]))


def distorted(channels: Channels, seed: int, span: float = 4.0) -> tuple[Channels, int]:
    """The same function with every free label scaled by a random power of two, up to 2^span either way; how many they are."""
    flow = _Scaling(channels.network)
    flow.run()
    roots = {int(one) for along in flow.along.values() for one in flow.roots(along.labels) if one}
    random = np.random.default_rng(seed)
    factors = {root: 2.0 ** int(random.integers(-span, span + 1)) for root in sorted(roots)}
    return channels.with_network(scaled(channels.network, flow, factors)), len(roots)


def _chain(g: Graph, act: Callable[[str], str]) -> str:
    return g.classifier(g.conv(act(g.conv("x", 3, 5)), 5, 6), 6, 4)


def _residual(g: Graph) -> str:
    x = g.add("Relu", g.conv("x", 3, 6))
    y = g.conv(g.add("Relu", g.conv(x, 6, 5)), 5, 6)
    return g.classifier(g.add("Relu", g.add("Add", y, x)), 6, 4)


def _depthwise(g: Graph) -> str:
    x = g.add("Relu", g.conv("x", 3, 6))
    return g.classifier(g.conv(g.add("Relu", g.conv(x, 6, 12, group=6)), 12, 5, 1), 5, 4)


def _grouped(g: Graph) -> str:
    x = g.add("Relu", g.conv("x", 3, 6))
    return g.classifier(g.add("Relu", g.conv(x, 6, 9, group=3)), 9, 4)


def _transposed(g: Graph) -> str:
    x = g.add("Relu", g.conv("x", 3, 4))
    x = g.add("ConvTranspose", x, g.constant(4, 3, 2, 2), g.constant(6), group=2, strides=[2, 2])
    return g.classifier(g.add("LeakyRelu", x, alpha=0.1), 6, 4)


def _concat(g: Graph) -> str:
    x = g.add("Relu", g.conv("x", 3, 5))
    y = g.add("MaxPool", g.add("Concat", x, g.conv("x", 3, 4), "x", axis=1), kernel_shape=[2, 2], strides=[2, 2])
    return g.classifier(g.conv(y, 12, 6), 6, 4)


def _split(g: Graph) -> str:
    x = g.conv("x", 3, 8)
    one, other = g.add("Split", x, outputs=2, axis=1), f"split{len(g.nodes) - 1}.1"
    return g.classifier(g.conv(g.add("Sub", g.add("Relu", one), other), 4, 5), 5, 4)


def _flattened(g: Graph) -> str:
    """Each channel fills many columns of the fully connected layer behind it."""
    x = g.add("AveragePool", g.add("PRelu", g.conv("x", 3, 5), g.constant(5, 1, 1)), kernel_shape=[2, 2], strides=[2, 2])
    return g.dense(g.add("Relu", g.dense(g.add("Flatten", x), 80, 7)), 7, 4)


def _gate(g: Graph) -> str:
    """A squeeze and excitation: the data may be scaled, its gate not."""
    x = g.add("Relu", g.conv("x", 3, 6))
    squeezed = g.add("Relu", g.conv(g.add("GlobalAveragePool", x), 6, 3, 1))
    gate = g.add("Sigmoid", g.conv(squeezed, 3, 6, 1))
    return g.classifier(g.conv(g.add("Mul", x, gate), 6, 5), 5, 4)


def _shared(g: Graph) -> str:
    """One weight for two layers."""
    weight = g.constant(5, 5, 1, 1)
    x = g.conv("x", 3, 5)
    for _ in range(2):
        x = g.add("Conv", g.add("Relu", x), weight)
    return g.classifier(x, 5, 4)


def _matrix(g: Graph) -> str:
    x = g.add("Flatten", g.add("GlobalMaxPool", g.conv("x", 3, 5)))
    x = g.add("Add", g.add("MatMul", x, g.constant(5, 6)), g.constant(6))
    return g.dense(g.add("Mul", g.add("Relu", x), g.constant(6)), 6, 4)


FREE = {
    "relu": lambda g: _chain(g, lambda x: g.add("Relu", x)),
    "leaky": lambda g: _chain(g, lambda x: g.add("LeakyRelu", x, alpha=0.2)),
    "abs": lambda g: _chain(g, lambda x: g.add("Abs", x)),
    "clip at zero": lambda g: _chain(g, lambda x: g.add("Clip", x, g.value(np.float32(0)))),
    "residual": _residual,
    "depthwise": _depthwise,
    "grouped": _grouped,
    "transposed, grouped": _transposed,
    "concat": _concat,
    "split": _split,
    "flattened": _flattened,
    "gate": _gate,
    "shared weight": _shared,
    "matrix": _matrix,
}
#: Nothing may be scaled in front of these.
BOUND = {
    "relu6": lambda g, x: g.add("Clip", x, g.value(np.float32(0)), g.value(np.float32(6))),
    "sigmoid": lambda g, x: g.add("Sigmoid", x),
    "hardswish": lambda g, x: g.add("HardSwish", x),
    "tanh": lambda g, x: g.add("Tanh", x),
    "elu": lambda g, x: g.add("Elu", x),
    "swish by hand": lambda g, x: g.add("Mul", x, g.add("Sigmoid", x)),
    "normalisation": lambda g, x: g.norm(g.add("Relu", x), 5),
    "added number": lambda g, x: g.add("Add", x, g.value(np.float32(0.5))),
    "one bias for all": lambda g, x: g.add("Add", x, g.constant(1, 1, 8, 8)),
    "square": lambda g, x: g.add("Mul", x, x),
    "maximum with a number": lambda g, x: g.add("Max", x, g.value(np.float32(0.3))),
    "softmax": lambda g, x: g.add("Softmax", x, axis=1),
    "padding by ones": lambda g, x: g.add("Pad", x, g.value(np.int64([0, 0, 1, 1, 0, 0, 1, 1])), g.value(np.float32(1))),
    "meets the input": lambda g, x: g.add("Add", g.conv(g.add("Sigmoid", x), 5, 3), "x"),
}


@pytest.mark.parametrize("name", FREE)
def test_scaled_channels_leave_the_function_as_it_is(name: str) -> None:
    g = Graph(1, 3, 8, 8)
    model = g.model(FREE[name](g))
    channels = channels_of(model)
    changed, count = distorted(channels, seed=3)
    assert count >= 3
    inputs = feed(model, seed=1)
    assert difference(run(changed.network, inputs), run(channels.network, inputs)) < 1e-5
    moved = [k for k, v in changed.network.constants.items() if not np.array_equal(v, channels.network.constants[k])]
    assert moved


@pytest.mark.parametrize("name", BOUND)
def test_what_reaches_another_kind_of_operator_is_not_scaled(name: str) -> None:
    g = Graph(1, 3, 8, 8)
    made = BOUND[name](g, g.conv("x", 3, 5))
    width = 3 if name == "meets the input" else 5
    model = g.model(g.classifier(made, width, 4))
    channels = channels_of(model)
    changed, _ = distorted(channels, seed=3)
    first = channels.network.nodes[0]
    for constant in first.inputs[1:]:
        np.testing.assert_array_equal(changed.network.constants[constant], channels.network.constants[constant])
    inputs = feed(model, seed=1)
    assert difference(run(changed.network, inputs), run(channels.network, inputs)) < 1e-5


def int8_accuracy(channels: Channels, batches: list[tuple[np.ndarray, ...]]) -> float:
    module = QuantTrainable(channels)
    calibrate(module, batches)
    proto = export.quantized(*module.quantized_network()).to_proto().SerializeToString()
    return evaluate.accuracy_of(proto, load("digits", input_shape=(1, 16, 16), n_classes=10, seed=0).test)


@pytest.mark.parametrize("name", ["resnet8_digits", "dscnn_digits", "mbv2se_digits"])
def test_unequal_channels_cost_no_accuracy(name: str) -> None:
    """Trained networks, each channel multiplied by up to 2^4 or divided by it, which the next layer undoes."""
    plain = channels_of(onnx.load(MODELS / f"{name}.onnx"))
    x = load("digits", input_shape=(1, 16, 16), n_classes=10, seed=0).train.x
    batches = [(x[:128],)]
    wanted = int8_accuracy(plain, batches)
    unequal, _ = distorted(plain, seed=0)
    found, note = equalized(unequal, batches)
    assert int8_accuracy(unequal, batches) < wanted - 0.01
    assert int8_accuracy(found, batches) > wanted - 0.005
    assert note is not None
    inputs = {found.network.inputs[0]: x[:8]}
    assert difference(run(found.network, inputs), run(unequal.network, inputs)) < 1e-5


@pytest.mark.parametrize("name", ["resnet8_digits", "dscnn_digits", "mbv2se_digits"])
def test_a_network_that_quantises_well_is_left_as_it_is(name: str) -> None:
    plain = channels_of(onnx.load(MODELS / f"{name}.onnx"))
    x = load("digits", input_shape=(1, 16, 16), n_classes=10, seed=0).train.x
    found, note = equalized(plain, [(x[:128],)])
    assert found is plain
    assert note is None


def test_a_change_that_is_not_exact_is_thrown_away_and_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    g = Graph(1, 3, 8, 8)
    channels, _ = distorted(channels_of(g.model(FREE["relu"](g))), seed=0, span=8)

    def wrong(net: network.Network, *more: object) -> network.Network:
        return net.with_constants({name: value * np.float32(1.01) for name, value in net.constants.items()})

    monkeypatch.setattr("mcuprune.train.equalize.scaled", wrong)
    random = np.random.default_rng(0)
    found, note = equalized(channels, [(random.standard_normal((16, 3, 8, 8)).astype(np.float32),)])
    assert found is channels
    assert note is not None
    assert "left as unequal" in note
