"""Kernels among zeros: the same integers without a PAD operator, where the arena falls by more than that costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import feed, run
from graphs import Graph
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from test_bands import answers, as_int8

from mcuprune import cli
from mcuprune.bands.integers import stored_again
from mcuprune.bands.kernels import embedded, rows_to_add
from mcuprune.channels.labelling import label
from mcuprune.costs import banding, resources
from mcuprune.costs.banded import BandedCosts
from mcuprune.costs.banding import Banding
from mcuprune.costs.embedding import worthwhile
from mcuprune.deploy.lower import lower
from mcuprune.graph import network
from mcuprune.graph.network import Network


@st.composite
def convolutions(draw: st.DrawFn) -> Network:
    """One convolution between two others, padded in any way that ONNX can say."""
    rows, columns = draw(st.integers(5, 12)), draw(st.integers(5, 12))
    kernel = (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    strides = [draw(st.integers(1, 3)), draw(st.integers(1, 3))]
    dilations = [draw(st.integers(1, 2)), draw(st.integers(1, 2))] if strides == [1, 1] else [1, 1]
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = [draw(st.integers(0, span - 1)) for span in (*spans, *spans)]
    g = Graph(1, 2, rows, columns)
    x = g.add("Relu", g.conv("x", 2, 4))
    group = draw(st.sampled_from([1, 4]))
    x = g.add("Relu", g.conv(x, 4, 4, kernel, group=group, strides=strides, dilations=dilations, pads=pads))
    return g.net(g.classifier(x, 4, 3))


def operators(net: Network) -> list[str]:
    return [operator.name for operator in lower(net).operators]


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(convolutions())
def test_embedded_kernels_make_the_same_integers_without_a_pad(net: Network) -> None:
    x = feed(net.to_proto(), seed=1)
    plain = as_int8(net, x)
    names = [node.name for node in plain.nodes if rows_to_add(node, plain)]
    made = embedded(plain, names)
    onnx.checker.check_model(made.to_proto(), full_check=True)
    assert made.shapes.keys() == plain.shapes.keys()
    assert all(made.shapes[output] == plain.shapes[output] for node in plain.nodes for output in node.outputs)
    assert np.array_equal(run(made, x)[0], run(plain, x)[0])
    if names:
        assert "PAD" in operators(plain)
        assert not {node.name for node in made.nodes if rows_to_add(node, made)}
        in_tflm = [answers(one.to_proto(), x) for one in (plain, made)]
        assert in_tflm[0] is None or np.array_equal(in_tflm[0], in_tflm[1])


def strided(*, size: int = 24, wide: int = 24, narrow: int = 8) -> Network:
    """A wide depthwise convolution with stride 2 at the worst moment of memory, and one that doesn't matter."""
    g = Graph(1, 3, size, size)
    x = g.add("Relu", g.conv("x", 3, narrow))
    x = g.add("Relu", g.conv(x, narrow, wide, 1))
    x = g.add("Relu", g.conv(x, wide, wide, group=wide, strides=[2, 2]))
    x = g.add("Relu", g.conv(x, wide, narrow, 1))
    x = g.add("Relu", g.conv(x, narrow, 16, strides=[2, 2]))
    return g.net(g.classifier(x, 16, 4))


def test_only_kernels_that_pay_are_embedded() -> None:
    net = strided()
    candidates = [node.name for node in net.nodes if rows_to_add(node, net)]
    assert len(candidates) == 2
    assert worthwhile(net, {}) == (candidates[0],)
    made = embedded(net, candidates[:1])
    before, after = resources.profile(net), resources.profile(made)
    assert after.flash - before.flash == 24 * (4 * 4 - 3 * 3)
    assert after.macs - before.macs == 12 * 12 * 24 * (4 * 4 - 3 * 3)
    assert before.arena - after.arena > 24 * 25 * 25 - 24 * 24 * 24  # the padded image is gone, and the room for both
    assert worthwhile(made, {}) == ()


def test_limits_of_the_user_decide() -> None:
    net = strided()
    own = resources.profile(net)
    for name, most in (("macs", own.macs + 100), ("flash", own.flash + 100)):
        assert worthwhile(net, {name: most}) == ()
        assert worthwhile(net, {name: most + 100_000})
        found = banding.in_bands(net, Banding("tflm", {"sram": 1, name: most}))
        assert not found.embedded
        assert resources.profile(found.network).total[name] <= most


def test_the_written_file_has_the_arena_that_was_chosen_by_and_makes_the_same_integers() -> None:
    net = strided()
    x = feed(net.to_proto(), seed=1)
    plain = as_int8(net, x)
    names = worthwhile(plain, {})
    made = embedded(plain, names)
    assert names == worthwhile(net, {})
    assert (
        resources.profile(made).arena == lower(embedded(net, names)).arena(offline=True).total < resources.profile(plain).arena
    )
    assert np.array_equal(run(made, x)[0], run(plain, x)[0])
    for share in (0.8, 0.6):  # with bands beside them, or instead of them
        limit = int(lower(plain).arena(offline=True).total * share)
        found = banding.in_bands(plain, Banding("tflm", {"sram": limit}))
        assert found.sram == lower(found.network).arena(offline=True).total <= limit
        assert np.array_equal(run(found.network, x)[0], run(plain, x)[0])


def test_a_recipe_embeds_the_kernels_of_any_form_of_a_network() -> None:
    net = strided()
    names = worthwhile(net, {})
    costs = BandedCosts(label(net), Banding("tflm", {"sram": 1}))
    form = costs._form(embedded(net, names), banding.Recipe((), names))
    assert form is not None
    for share in (1.0, 0.6):
        chosen = np.maximum(costs.least, np.floor(costs.full * share)).astype(np.int64)
        cut = costs.channels.cut(costs.channels.top(chosen, np.zeros(costs.channels.n_components + 1)))
        written = embedded(cut, names)
        assert form.sram(chosen) == lower(written).arena(offline=True).total
        assert form.sums(chosen).items() <= dict(resources.profile(written).total).items()


def test_a_kernel_that_two_convolutions_share_stays() -> None:
    g = Graph(1, 2, 8, 8)
    shared = g.constant(2, 2, 3, 3)
    a, b = (g.add("Conv", "x", shared, strides=[2, 2], pads=[1, 1, 1, 1]) for _ in range(2))
    net = g.net(g.add("Add", a, b))
    assert not any(rows_to_add(node, net) for node in net.nodes)


def kernels_stored_as(model: onnx.ModelProto, how: str) -> onnx.ModelProto:
    """A file of int8 whose kernels are stored otherwise; "shifted" and "uint8" have zero points, the others more nodes."""
    arrays = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in list(model.graph.node):
        if node.op_type != "DequantizeLinear" or len(arrays[node.input[0]].dims if node.input[0] in arrays else ()) != 4:
            continue
        integers, scale, zero = (numpy_helper.to_array(arrays[name]) for name in node.input)
        if how in ("shifted", "uint8"):
            zero = np.full(zero.shape, 3 if how == "shifted" else 128, np.int8 if how == "shifted" else np.uint8)
            bounds = np.iinfo(zero.dtype)
            integers = np.clip(integers.astype(np.int32) + zero.flat[0], bounds.min, bounds.max).astype(zero.dtype)
            arrays[node.input[2]].CopyFrom(numpy_helper.from_array(zero, node.input[2]))
            arrays[node.input[0]].CopyFrom(numpy_helper.from_array(integers, node.input[0]))
        elif how == "quantised in the graph":
            around = scale.reshape(-1, *[1] * (integers.ndim - 1))
            name = f"{node.input[0]}/floats"
            model.graph.initializer.append(numpy_helper.from_array((integers * around).astype(np.float32), name))
            quantizer = helper.make_node("QuantizeLinear", [name, *node.input[1:]], [node.input[0]])
            quantizer.attribute.extend(node.attribute)
            model.graph.initializer.remove(arrays[node.input[0]])
            model.graph.node.insert(0, quantizer)
        else:
            integers = np.ascontiguousarray(integers.transpose(0, 2, 3, 1))
            arrays[node.input[0]].CopyFrom(numpy_helper.from_array(integers, node.input[0]))
            name, node.output[0] = node.output[0], f"{node.output[0]}/last"
            place = list(model.graph.node).index(node)
            model.graph.node.insert(place + 1, helper.make_node("Transpose", node.output, [name], perm=[0, 3, 1, 2]))
    return model


@pytest.mark.parametrize("how", ["uint8", "shifted", "quantised in the graph", "channels last"])
def test_a_file_with_its_kernels_stored_in_any_way_makes_the_same_integers(how: str) -> None:
    """The constant that is written is the one that was embedded, not the file's of the same name."""
    x = feed(strided().to_proto(), seed=1)
    plain = kernels_stored_as(as_int8(strided(), x).to_proto(), how)
    net = network.from_proto(plain, "net.onnx")
    names = [node.name for node in net.nodes if rows_to_add(node, net)]
    assert len(names) == 2
    made = stored_again(embedded(net, names[:1]).to_proto(), plain)
    onnx.checker.check_model(made, full_check=True)
    assert np.array_equal(run(made, x)[0], run(plain, x)[0])
    arena = lower(embedded(net, names[:1])).arena(offline=True).total
    assert lower(network.from_proto(made, "made.onnx")).arena(offline=True).total == arena
    if how in ("shifted", "uint8"):
        stored = [{t.data_type for t in model.graph.initializer if len(t.dims) == 4} for model in (plain, made)]
        assert stored[0] == stored[1]


def test_kernels_that_a_limit_was_priced_with_are_those_that_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Embedding one more doesn't pay by itself, and the limit needs it."""
    monkeypatch.setattr(banding, "_ways_to_run", lambda *_, **__: [])  # no bands hold it
    net = strided()
    names = tuple(node.name for node in net.nodes if rows_to_add(node, net))
    arenas = [lower(embedded(net, chosen)).arena(offline=True).total for chosen in (worthwhile(net, {}), names)]
    assert arenas[1] < arenas[0]
    found = banding.in_bands(net, Banding("tflm", {"sram": arenas[1]}), [banding.Recipe((), names)])
    assert (found.embedded, found.sram) == (names, arenas[1])


def test_a_recipe_for_kernels_that_a_network_lacks_is_left_out() -> None:
    net = strided()
    asked = Banding("tflm", {"sram": lower(net).arena(offline=True).total - 1})
    found = banding.in_bands(net, asked, [banding.Recipe((), ("none of these",))])
    assert found.embedded != ("none of these",)


@pytest.mark.parametrize(
    ("share", "why"), [("95%", "kernels among zeros hold the limit"), ("10%", "no bands need less memory")]
)
def test_the_text_says_that_only_kernels_were_embedded(share: str, why: str, tmp_path: Path, capsys: Any) -> None:
    g = Graph(1, 3, 24, 24)
    x = g.add("Relu", g.conv(g.add("Mul", "x", g.add("Sigmoid", g.add("GlobalAveragePool", "x"))), 3, 24, 1))
    skip = g.conv(g.add("GlobalAveragePool", x), 24, 8, 1)  # alive beside all else, so that nothing runs in bands
    y = g.add("Relu", g.conv(x, 24, 24, group=24, strides=[2, 2]))
    y = g.add("Add", g.conv(y, 24, 8, 1), skip)
    onnx.save(g.net(g.classifier(y, 8, 4)).to_proto(), tmp_path / "net.onnx")
    command = ["bands", str(tmp_path / "net.onnx"), "--sram", share, "--sram-model", "tflm", "-o", str(tmp_path / "o.onnx")]
    assert cli.main(command) == int(share == "10%")
    said = capsys.readouterr().out
    (line,) = [line for line in said.splitlines() if line.startswith("nothing runs in bands: ")]
    assert why in line
    assert "kernels among zeros" in line
    assert "as it is" not in line
    assert "kernels among zeros, so that TensorFlow Lite needs no PAD operator for them: " in said
