"""Fake-quant training: gradients pass, ranges are learned and then stand still, the same every time."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper
from test_export import MODELS, calibrated, digits, simulated
from test_trainable import drawn, graph, inputs_of

from mcuprune.channels.labelling import label
from mcuprune.deploy.qdq import Quantizer, held, quantized, scheme
from mcuprune.errors import UsageError
from mcuprune.graph import network
from mcuprune.train.fake_quant import QuantTrainable
from mcuprune.train.module import Trainable

torch.set_num_threads(1)
_N = helper.make_node


def module_of(nodes: list[onnx.NodeProto], constants: dict[str, Any], shape: tuple[int, ...]) -> QuantTrainable:
    return QuantTrainable(label(network.from_proto(graph(nodes, constants, shape), "net.onnx")))


def relu_net() -> QuantTrainable:
    nodes = [_N("Conv", ["x", "w", "b"], ["a"], name="c"), _N("Relu", ["a"], ["d"]), _N("Conv", ["d", "v"], ["y"], name="e")]
    return module_of(nodes, {"w": drawn(5, 3, 3, 3), "b": drawn(5), "v": drawn(4, 5, 1, 1)}, (3, 6, 6))


def see(module: QuantTrainable, x: np.ndarray) -> None:
    with torch.no_grad():
        module.train()(torch.from_numpy(x))


def test_gradients_pass_the_roundings() -> None:
    """Straight through: close to the float network's own, and none of them zero."""
    module = relu_net()
    x = drawn(8, 3, 6, 6)
    module.simulating = False
    see(module, x)
    plain = Trainable(module.channels)
    module.simulating, module.observing = True, False
    for one in (module, plain):
        one(torch.from_numpy(x))[0].square().sum().backward()
    for (name, weight), (_, exact) in zip(module.named_weights(), plain.named_weights(), strict=True):
        assert weight.grad is not None, name
        apart = (weight.grad - exact.grad).norm() / exact.grad.norm()
        assert 0 < apart < 0.1, name


def test_values_that_overflow_are_a_message_and_no_crash() -> None:
    module = relu_net()
    module.simulating = False
    with pytest.raises(UsageError, match=r"tensor '\w+' has values that are no finite numbers.*lower --lr"):
        see(module, np.full((2, 3, 6, 6), 3e38, np.float32))


def test_calibration_covers_all_that_was_seen() -> None:
    module = relu_net()
    module.simulating = False
    for scale in (1.0, 5.0, 2.0):
        see(module, scale * drawn(8, 3, 6, 6))
    found = module.quantizers()["x"]
    x = 5 * drawn(8, 3, 6, 6)
    assert found.scale == pytest.approx((x.max() - x.min()) / 255, rel=1e-5)
    assert module.quantizers()["d"].zero_point == -128


def test_ranges_follow_slowly_in_training() -> None:
    module = relu_net()
    module.simulating = False
    x = drawn(8, 3, 6, 6)
    see(module, x)
    module.simulating = True
    before = module.quantizers()["x"].scale
    see(module, 2 * x)
    assert module.quantizers()["x"].scale == pytest.approx(before * (1 + module.momentum), rel=1e-5)


@pytest.mark.parametrize("how", ["evaluating", "told not to"])
def test_ranges_stand_still(how: str) -> None:
    module = relu_net()
    module.simulating = False
    see(module, drawn(8, 3, 6, 6))
    module.simulating = True
    before = module.quantizers()
    if how == "evaluating":
        module.eval()
    else:
        module.train()
        module.observing = False
    module(torch.from_numpy(9 * drawn(8, 3, 6, 6)))
    assert module.quantizers() == before


def test_what_lies_between_zero_and_one_has_a_fixed_scale() -> None:
    module = module_of([_N("Gemm", ["x", "w"], ["a"], name="g"), _N("Sigmoid", ["a"], ["y"])], {"w": drawn(3, 4)}, (3,))
    module.simulating = False
    see(module, drawn(8, 3))
    assert module.quantizers()["y"] == Quantizer(1 / 256, -128)


def test_tensors_that_share_a_quantiser_do_not_pull_at_its_range() -> None:
    """A slice of small values must not narrow the range that the whole tensor needs."""
    nodes = [
        _N("Relu", ["x"], ["a"]),
        _N("Slice", ["a", "zero", "one", "one"], ["b"]),
        _N("Gemm", ["b", "w"], ["c"], name="g"),
        _N("Gemm", ["a", "v"], ["d"], name="h"),
        _N("Add", ["c", "d"], ["y"]),
    ]
    constants = {"zero": np.int64([0]), "one": np.int64([1]), "w": drawn(1, 4), "v": drawn(3, 4)}
    module = module_of(nodes, constants, (3,))
    x = np.abs(drawn(16, 3)) * np.float32([0.1, 1, 1])
    module.simulating = False
    see(module, x)
    module.simulating = True
    for _ in range(50):
        see(module, x)
    assert module.scheme.quantizer["b"] == "a"
    assert module.quantizers()["a"].scale == pytest.approx(x.max() / 255, rel=0.01)


def test_the_state_of_its_ranges_can_be_stored_and_taken_up() -> None:
    module, again = relu_net(), relu_net()
    module.simulating = False
    see(module, drawn(8, 3, 6, 6))
    again.load_extra_state_arrays(module.extra_state_arrays())
    assert again.quantizers() == module.quantizers()
    module.simulating = True
    x = {"x": drawn(4, 3, 6, 6, seed=7)}
    assert np.array_equal(simulated(module.eval(), x)[0], simulated(again.eval(), x)[0])


def test_the_same_data_gives_the_same_quantisers() -> None:
    net, _, images = digits(MODELS[0])
    inputs = [inputs_of(net, 16, seed=seed) for seed in (0, 1)]
    one, other = calibrated(net, inputs), calibrated(net, inputs)
    assert one.quantizers() == other.quantizers()
    x = {net.inputs[0]: images[:16]}
    assert np.array_equal(simulated(one, x)[0], simulated(other, x)[0])


def test_gates_and_quantisers_go_together() -> None:
    module = relu_net()
    module.simulating = False
    see(module, drawn(8, 3, 6, 6))
    module.simulating = True
    module.eval()
    keep = module.channels.keep_all()
    keep[[1, 3]] = False
    module.gates = torch.from_numpy(keep.astype(np.float32))
    cut = QuantTrainable(module.channels.cut_channels(keep))
    cut.load_extra_state_arrays(module.extra_state_arrays())
    x = {"x": drawn(4, 3, 6, 6)}
    step = module.quantizers()["y"].scale
    assert np.abs(simulated(module, x)[0] - simulated(cut.eval(), x)[0]).max() <= 1.01 * step


MEANS: dict[str, tuple[str, dict[str, Any]]] = {
    "GlobalAveragePool": ("GlobalAveragePool", {}),
    "AveragePool": ("AveragePool", {"kernel_shape": [6, 5]}),
    "ReduceMean": ("ReduceMean", {"axes": [2, 3]}),
}


@pytest.mark.parametrize("behind", ["", "Relu"])
@pytest.mark.parametrize("mean", MEANS)
def test_a_mean_of_next_to_nothing_runs_in_an_ordinary_session(mean: str, behind: str) -> None:
    """A map without its mean has one of about 0, whose steps would be a millionth of the map's: onnxruntime refuses them."""
    op, attrs = MEANS[mean]
    nodes = [
        _N("Conv", ["x", "w"], ["a"]),
        _N("ReduceMean", ["a"], ["m"], axes=[2, 3], keepdims=1),
        _N("Sub", ["a", "m"], ["centred"]),
        _N(op, ["centred"], ["mean"], **attrs),
        *([_N(behind, ["mean"], ["held"])] if behind else []),
        _N("Conv", ["held" if behind else "mean", "v"], ["y"]),
    ]
    net = network.from_proto(graph(nodes, {"w": drawn(4, 3, 1, 1), "v": drawn(2, 4, 1, 1)}, (3, 6, 5)), "net.onnx")
    module = calibrated(net, [inputs_of(net, 8)])
    scales = {tensor: module.quantizers()[name].scale for tensor, name in module.scheme.quantizer.items()}
    if mean != "ReduceMean":
        assert scales["centred"] / scales["held" if behind else "mean"] == pytest.approx(128 * 30)
    written = quantized(*module.quantized_network())
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(written.to_proto().SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = inputs_of(net, 1, seed=1)
    (found,), (want,) = session.run(None, x), simulated(module, x)
    assert np.abs(found - want).max() <= 2 * scales["y"]


def test_only_what_kernels_round_first_is_held_to_coarser_steps() -> None:
    """A mean of zeros and of ordinary numbers keeps its range, however it is made."""
    nodes = [_N("Conv", ["x", "w"], ["a"]), _N("GlobalAveragePool", ["a"], ["mean"]), _N("Conv", ["mean", "v"], ["y"])]
    net = network.from_proto(graph(nodes, {"w": drawn(4, 3, 1, 1), "v": drawn(2, 4, 1, 1)}, (3, 6, 5)), "net.onnx")
    quantizers = calibrated(net, [inputs_of(net, 8)]).quantizers()
    plan = scheme(net)
    assert plan.finest == {"mean": {"a": 128 * 30}}
    for scale in (1e-3, quantizers["a"].scale / (128 * 30)):
        known = {**quantizers, "mean": Quantizer(scale, 5)}
        assert held(plan, "mean", known) is known["mean"]
    low, high = (Quantizer(1e-7, 5)).range
    coarse = held(plan, "mean", {**quantizers, "mean": Quantizer(1e-7, 5)})
    assert coarse.scale == pytest.approx(quantizers["a"].scale / (128 * 30))
    assert coarse.range[0] - coarse.scale <= low < high <= coarse.range[1]  # the end is a whole number of steps
