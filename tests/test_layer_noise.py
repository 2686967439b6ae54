"""What int8 costs in each layer, held against the file computed by hand in numpy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_nets
from onnx import TensorProto, helper, numpy_helper

from mcuprune.cli import main
from mcuprune.data.sets import Split
from mcuprune.deploy import qdq
from mcuprune.deploy.qdq import Quantizer
from mcuprune.graph import network
from mcuprune.graph.network import Network
from mcuprune.run.layer_noise import Int8Layers, layer_noise

_DRAW = np.random.default_rng(3)
WEIGHTS = [_DRAW.standard_normal(shape).astype(np.float32) for shape in ((6, 8), (8, 10), (10, 4))]
X = _DRAW.standard_normal((200, 6)).astype(np.float32)
#: Of the input and of what the three layers make.
QUANTIZERS = [Quantizer(0.03, 3), Quantizer(0.05, -128), Quantizer(0.12, -128), Quantizer(0.6, 10)]


def chain(batch: int | str = 1) -> Network:
    """Gemm-Relu, Gemm-Relu, Gemm, without biases."""
    nodes, tensor = [], "x"
    for index in range(3):
        nodes.append(helper.make_node("Gemm", [tensor, f"w{index}"], [f"g{index}"], name=f"gemm{index}"))
        tensor = f"g{index}"
        if index < 2:
            nodes.append(helper.make_node("Relu", [tensor], [f"r{index}"], name=f"relu{index}"))
            tensor = f"r{index}"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, n]) for name, n in (("x", 6), (tensor, 4))]
    weights = [numpy_helper.from_array(weight, f"w{index}") for index, weight in enumerate(WEIGHTS)]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return network.from_proto(model, "net.onnx")


def measured(folder: Path, quantizers: list[Quantizer], batch: int | str = 1, n: int = 200) -> Int8Layers:
    net = chain(batch)
    written = qdq.quantized(net, qdq.scheme(net), dict(zip(("x", "r0", "r1", "g2"), quantizers, strict=True)))
    path = folder / "int8.onnx"
    written.save(path)
    return layer_noise(path, network.load(str(path)), net, Split(X[:n]))


def by_hand(quantizers: list[Quantizer], x: np.ndarray) -> list[tuple[float, float]]:
    """(so far, alone) of each layer in dB, from the definitions of the quantisers and of the ratio."""

    def rounded(value: np.ndarray, of: Quantizer) -> np.ndarray:
        return (np.clip(np.rint(value / of.scale) + of.zero_point, -128, 127) - of.zero_point) * of.scale

    def ratio(signal: np.ndarray, value: np.ndarray) -> float:
        return float(10 * np.log10(signal.var() / ((value - signal) ** 2).mean()))

    exact, running = x.astype(np.float64), rounded(x.astype(np.float64), quantizers[0])
    given, found = running, []
    for index, weight in enumerate(WEIGHTS):
        step = np.abs(weight).max() / 127
        stored = np.rint(weight / step) * step
        outs = [
            exact @ weight,
            rounded(running @ stored, quantizers[index + 1]),
            rounded(given @ stored, quantizers[index + 1]),
        ]
        exact, running, alone = (np.maximum(out, 0) if index < 2 else out for out in outs)
        given = exact  # the next layer alone gets what the network has in floats
        found.append((ratio(exact, running), ratio(exact, alone)))
    return found


@pytest.mark.parametrize("batch", [1, 3, "N"])
def test_ratios_are_those_computed_by_hand(tmp_path: Path, batch: int | str) -> None:
    found = measured(tmp_path, QUANTIZERS, batch, n=100)
    assert [(layer.node, layer.tensor) for layer in found.layers] == [("gemm0", "r0"), ("gemm1", "r1"), ("gemm2", "g2")]
    assert found.examples == 100
    wanted = by_hand(QUANTIZERS, X[:100])
    assert [(layer.snr_db, layer.own_snr_db) for layer in found.layers] == [pytest.approx(one, abs=0.02) for one in wanted]


def test_examples_are_spread_over_the_set(tmp_path: Path) -> None:
    """Sets in the order of their classes count too: the first and the last example are among those taken."""
    found = measured(tmp_path, QUANTIZERS)
    chosen = np.unique(np.linspace(0, 199, 128).astype(int))
    assert (chosen[0], chosen[-1], found.examples) == (0, 199, 128)
    assert found.layers[2].snr_db == pytest.approx(by_hand(QUANTIZERS, X[chosen])[2][0], abs=0.02)


def test_the_layer_that_spoils_a_network_has_a_name(tmp_path: Path) -> None:
    """Alone, none but the second is worse for the second's coarse steps; in the file as it runs, all after it are."""
    spoiled = [*QUANTIZERS[:2], Quantizer(QUANTIZERS[2].scale * 12, -128), QUANTIZERS[3]]
    before, after = (measured(tmp_path, quantizers).layers for quantizers in (QUANTIZERS, spoiled))
    lost = [(was.snr_db - now.snr_db, was.own_snr_db - now.own_snr_db) for was, now in zip(before, after, strict=True)]  # type: ignore[operator]
    assert lost[0] == (0, 0)
    assert min(lost[1]) > 12
    assert lost[2][0] > 5
    assert lost[2][1] == 0


def test_a_layer_that_is_dead_or_exact_has_no_ratio(tmp_path: Path) -> None:
    """Nothing varies in zeros, and nothing differs where no step is lost."""
    net = chain()
    dead = network.from_proto(net.to_proto(), "net.onnx")
    dead = dead.rewired(dead.nodes, {**dead.constants, "w0": np.zeros_like(WEIGHTS[0])})
    plan = dict(zip(("x", "r0", "r1", "g2"), QUANTIZERS, strict=True))
    path = tmp_path / "dead.onnx"
    qdq.quantized(dead, qdq.scheme(dead), plan).save(path)
    found = layer_noise(path, network.load(str(path)), dead, Split(X))
    assert {(layer.snr_db, layer.own_snr_db) for layer in found.layers} == {(None, None)}


def pruned(folder: Path, *words: str) -> dict[str, Any]:
    small_nets.save(small_nets.residual(8), folder / "net.onnx")
    draw = np.random.default_rng(0)
    shape = network.load(str(folder / "net.onnx")).shapes["x"][1:]
    np.savez(folder / "d.npz", x_train=draw.standard_normal((60, *shape)).astype(np.float32))
    out = ["-o", str(folder / "out.onnx"), "--report", str(folder / "r"), "-q"]
    assert main(["prune", str(folder / "net.onnx"), "--no-train", *words, *out]) == 0
    found: dict[str, Any] = json.loads((folder / "r" / "report.json").read_text())
    return found


def test_a_prune_reports_every_layer_of_the_written_file(tmp_path: Path) -> None:
    found = pruned(tmp_path, "--macs", "60%", "--data", str(tmp_path / "d.npz"))
    layers = found["int8_layers"]["layers"]
    written = network.load(str(tmp_path / "out.onnx"))
    mixers = {node.name for node in written.nodes if node.op in ("Conv", "Gemm")}
    assert mixers <= {layer["node"] for layer in layers}
    assert all(10 < layer["snr_db"] <= layer["own_snr_db"] + 3 for layer in layers), layers
    for page in ("report.md", "report.html"):
        drawn = (tmp_path / "r" / page).read_text()
        assert "int8, layer by layer" in drawn
        assert all(f"{layer['own_snr_db']:.1f} dB" in drawn for layer in layers)


@pytest.mark.parametrize("words", [("--float", "--data", "{d}"), ()], ids=["float", "no data"])
def test_without_int8_or_data_there_is_nothing_to_measure(tmp_path: Path, words: tuple[str, ...]) -> None:
    found = pruned(tmp_path, "--macs", "60%", *(word.format(d=tmp_path / "d.npz") for word in words))
    assert found["int8_layers"] is None
    assert "layer by layer" not in (tmp_path / "r" / "report.html").read_text()
