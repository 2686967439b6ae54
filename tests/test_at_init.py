"""Pruning at initialisation: what flow is, what a channel scores, which widths that gives, and what the weights become."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import thorough_but
from graphs import Graph
from hypothesis import given, settings
from hypothesis import strategies as st
from test_pruning import limits
from test_training import MODELS, normal

from mcuprune import pruning
from mcuprune.channels.labelling import Channels, label
from mcuprune.cli import main
from mcuprune.costs import widths
from mcuprune.costs.resources import Budget, CostModel
from mcuprune.costs.sensitivity import SHARES, Curve, Descent, Sensitivity, removed
from mcuprune.data.sets import Split
from mcuprune.errors import ModelError, UnsupportedOperator, UsageError
from mcuprune.graph import network
from mcuprune.graph.network import Network
from mcuprune.operators import table as ops
from mcuprune.operators.table import OPS, Mixer
from mcuprune.passes import batchnorm as folding
from mcuprune.pruning import Request
from mcuprune.report import prune as outcome
from mcuprune.train import at_init, flow
from mcuprune.train.flow import Flow
from mcuprune.train.rectify import rectified
from mcuprune.train.scores import RATINGS
from mcuprune.train.task import SCORES

torch.set_num_threads(1)

RESIDUAL = next(path for path in MODELS if path.stem == "resnet8_digits")
DSCNN = next(path for path in MODELS if path.stem == "dscnn_digits")


def loaded(path: Path) -> Channels:
    return label(network.load(path, accept=ops.accept(str(path))))


def positive(net: Network) -> Network:
    """Weights of layers by their absolute values, nothing added."""
    values = {}
    for name, value in net.constants.items():
        uses = [(node, index) for node in net.nodes for index, used in enumerate(node.inputs) if used == name]
        layer = any(isinstance(OPS[node.op], Mixer) and index == 1 for node, index in uses)
        adds = any(node.op == "Add" or (isinstance(OPS[node.op], Mixer) and index == 2) for node, index in uses)
        values[name] = np.abs(value) if layer else 0 * value if adds else value
    return net.with_constants(values)


def flow_in_onnxruntime(net: Network) -> float:
    """What a network of positive weights and ReLUs makes of ones."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(net.to_proto().SerializeToString(), options, providers=["CPUExecutionProvider"])
    return float(session.run(None, {name: np.ones(net.shapes[name], np.float32) for name in net.inputs})[0].sum())


# ------------------------------------------------------------------------------------------------------------------ flow


@pytest.mark.parametrize("path", [RESIDUAL, DSCNN], ids=lambda path: path.stem)
def test_curves_are_what_onnxruntime_loses_without_these_channels(path: Path) -> None:
    channels = loaded(path)
    one = Flow(channels)
    scores = one.scores()
    whole = flow_in_onnxruntime(positive(channels.network))
    for group, curve in zip(channels.groups, one.curves(scores), strict=True):
        ids = np.array(group.components)
        for point in (1, 5):
            keep = channels.keep_all()
            keep[ids[np.argsort(scores[ids], kind="stable")[: removed(len(ids))[point]]]] = False
            left = flow_in_onnxruntime(positive(channels.masked(keep))) / whole
            assert curve.lost[point] == pytest.approx(1 - left, rel=1e-3)


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_a_channel_scores_the_sum_over_every_weight_that_it_cuts(path: Path) -> None:
    """From activations as from the gradient of each weight; depthwise filters count once, not for both their sides."""
    channels = label(folding.folded(network.load(path)))
    one = Flow(channels)
    expected = np.zeros(channels.n_components + 1)
    for name, score in one.of_weights().items():
        for slot in channels.slots_of.get(name, ()):
            owner = np.broadcast_to(slot.spread(score.shape), score.shape)
            expected += np.bincount(owner.ravel(), score.ravel(), len(expected))
    np.testing.assert_allclose(one.scores()[1:], expected[1:], rtol=1e-9)


def test_every_layer_of_a_chain_carries_the_whole_flow() -> None:
    """Theorem 2 of SynFlow, with BatchNormalization restored."""
    for score in Flow(normal(DSCNN)).of_weights().values():
        assert score.sum() == pytest.approx(1.0, rel=1e-9)


def test_masked_channels_score_as_cut_ones() -> None:
    channels = loaded(RESIDUAL)
    keep = channels.keep_all()
    keep[1 : channels.n_components : 3] = False
    masked, cut = Flow(channels).scores(keep), Flow(channels.cut_channels(keep)).scores()
    np.testing.assert_allclose(masked[keep], cut, rtol=1e-9)
    assert not masked[~keep].any()


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_single_precision_tells_the_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large networks are computed so; branches must stay in proportion."""
    channels = normal(path)
    double = Flow(channels).scores()
    monkeypatch.setattr(flow, "LARGE", 0)
    single = Flow(channels)
    assert single.constant(single.source.nodes[0].inputs[1]).dtype == torch.float32
    np.testing.assert_allclose(single.scores(), double, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("small", [0, 10**9])
def test_forty_layers_of_large_weights_do_not_overflow(small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "LARGE", small)
    graph = Graph(1, 4, 4, 4)
    tensor = "x"
    for _ in range(40):
        tensor = graph.add("Conv", tensor, graph.value(np.full((4, 4, 3, 3), 9.0, np.float32)), pads=[1, 1, 1, 1])
    scores = Flow(label(graph.net(tensor))).scores()
    assert np.isfinite(scores).all()
    assert scores[1:] == pytest.approx(2 / 4)  # of both layers that it lies between a quarter


def test_weights_that_carry_nothing_are_refused() -> None:
    channels = loaded(DSCNN)
    values = {name: 0 * value for name, value in channels.network.constants.items()}
    with pytest.raises(ModelError, match="no signal"):
        at_init.sensitivity(channels.with_network(channels.network.with_constants(values)))


def test_what_no_flow_goes_through_is_named() -> None:
    graph = Graph()
    arg = graph.add("ArgMax", graph.conv("x", 3, 4), axis=1)
    with pytest.raises(UnsupportedOperator, match="ArgMax"):
        Flow(label(graph.net(arg)))


# --------------------------------------------------------------------------------------------------------------- scores


def component_scaled(channels: Channels, component: int, factor: float) -> Channels:
    """Every slice of one component by a factor."""
    values = dict(channels.network.constants)
    names = {slot.constant for slot in channels.slots}
    for name in names:
        for slot in channels.slots_of[name]:
            owner = np.broadcast_to(slot.spread(values[name].shape), values[name].shape)
            values[name] = np.where(owner == component, values[name] * np.float32(factor), values[name]).astype(np.float32)
    return channels.with_network(channels.network.with_constants(values))


def test_grasp_is_the_slope_of_the_squared_gradient_along_a_channel() -> None:
    """And so positive for a channel without which the gradient is smaller: the sign that is easily turned.

    Of a smooth network: where a ReLU bends, the gradient jumps, and no second derivative tells.
    """
    from mcuprune.train import scores

    graph = Graph(1, 2, 6, 6)
    tensor = graph.add("Tanh", graph.conv(graph.add("Tanh", graph.conv("x", 2, 4)), 4, 5))
    channels = label(graph.net(graph.classifier(tensor, 5, 3)))
    draw = np.random.default_rng(0)
    data = Split(draw.normal(size=(64, 2, 6, 6)).astype(np.float32), draw.integers(0, 3, 64))
    found = RATINGS["grasp"].score(channels, data, 0)

    def squared_gradient(of: Channels) -> float:
        learner = scores._Learner(of, data, 0)
        total: list[torch.Tensor] = []
        for batch in learner.batches:
            gradients = learner.gradients(learner.loss(batch, scores._TEMPERATURE))
            total = [g * len(batch) + (total[i] if total else 0) for i, g in enumerate(gradients)]
        return 0.5 * sum(float((g.double() ** 2).sum()) for g in total)

    step = 1e-2
    for component in range(1, channels.n_components + 1):
        up, down = (squared_gradient(component_scaled(channels, component, 1 + sign * step)) for sign in (1, -1))
        slope = (up - down) / (2 * step)
        assert found[component] == pytest.approx(slope, rel=0.02, abs=0.01 * np.abs(found).max())


def test_magnitude_is_counted_by_hand() -> None:
    graph = Graph(1, 1, 4, 4)
    first = np.zeros((2, 1, 1, 1), np.float32)
    first[:, 0, 0, 0] = 1, -2
    made = graph.add("Conv", "x", graph.value(first))
    second = np.zeros((3, 2, 1, 1), np.float32)
    second[:, 0], second[:, 1] = 0.5, -1
    found = RATINGS["magnitude"].score(label(graph.net(graph.add("Conv", made, graph.value(second)))), None, 0)
    assert found[1:].tolist() == [1 + 3 * 0.5, 2 + 3 * 1]


def test_the_names_of_scores_are_those_that_can_be_asked_for() -> None:
    assert tuple(RATINGS) == SCORES


# --------------------------------------------------------------------------------------------------------------- widths


def test_losses_start_at_nothing_and_rise_as_a_group_narrows() -> None:
    losses = Curve("g", 16, tuple(share**2 for share in SHARES)).losses()
    assert losses[16] == 0
    assert (np.diff(losses) < 0).all()
    assert losses[8] == pytest.approx(-np.log(1 - 0.25))


@given(channels=st.integers(1, 40), power=st.floats(0.3, 4))
def test_losses_are_finite_at_every_width(channels: int, power: float) -> None:
    losses = Curve("g", channels, tuple(share**power for share in SHARES)).losses()
    assert len(losses) == channels + 1
    assert np.isfinite(losses).all()
    assert (np.diff(losses) <= 1e-12).all()


def test_insensitive_groups_go_first() -> None:
    """Two groups alike but for their curves: the one that loses nothing is cut, the other stays whole while that is enough."""
    graph = Graph(1, 2, 4, 4)
    tensor = "x"
    for into, out in ((2, 16), (16, 16), (16, 2)):
        tensor = graph.add("Conv", tensor, graph.value(np.ones((out, into, 1, 1), np.float32)))
    model = CostModel(label(graph.net(tensor)))
    full = model.sums(model.full)["macs"]
    dull, sharp = (tuple(of * share for share in SHARES) for of in (0.01, 1.0))
    for order, whole in (((dull, sharp), 1), ((sharp, dull), 0)):
        curves = [Curve(group.name, 16, lost) for group, lost in zip(model.channels.groups, order, strict=True)]
        descent = Descent(model, curves)
        found = descent.to(Budget({"macs": int(0.8 * full)}))
        assert found[whole] == 16
        assert found[1 - whole] < 16
        assert descent.threshold is not None


@settings(max_examples=6, deadline=None)
@given(
    share=st.floats(0.08, 0.9),
    resource=st.sampled_from(["macs", "flash", "sram"]),
    multiple=st.sampled_from([1, 4]),
    score=st.sampled_from(["synflow", "magnitude", "random"]),
)
def test_a_plan_holds_its_budget_and_leaves_no_room(share: float, resource: str, multiple: int, score: str) -> None:
    model = CostModel(loaded(RESIDUAL))
    budget = Budget({resource: int(model.at(model.full)[resource] * max(share, 0.3 if resource == "sram" else 0))})
    model = widths.feasible(model.channels, budget, multiple=multiple)
    plan = at_init.plan(model, budget, score=score, multiple=multiple)
    found = model.channels.widths(plan.keep)
    assert widths.holds(model, found, budget)
    assert not widths.could_grow(model, found, budget, multiple)
    assert all(width % multiple == 0 or width == full for width, full in zip(found, model.full, strict=True))
    assert len(plan.sensitivity.curves) == len(model.channels.groups)


def test_a_network_that_fits_stays_whole() -> None:
    model = CostModel(loaded(DSCNN))
    plan = at_init.plan(model, Budget({"macs": 10**9}))
    assert plan.keep.all()
    assert plan.sensitivity.threshold is None


# ------------------------------------------------------------------------------------------------------------ rectifier


def halved(channels: Channels) -> np.ndarray:
    return channels.top(np.maximum(1, channels.widths(channels.keep_all()) // 2), np.arange(channels.n_components + 1.0))


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_untrained_layers_are_drawn_for_their_new_fan_in(path: Path) -> None:
    channels = normal(path)
    keep = halved(channels)
    plain = channels.cut(keep)
    found = rectified(channels, keep, trained=False, seed=3).network
    for node in found.nodes:
        entry = OPS[node.op]
        if not isinstance(entry, Mixer):
            continue
        name, axis = node.inputs[1], entry.weight_axes(node)[0]
        old, new = channels.network.shapes[name][axis], found.shapes[name][axis]
        if old == new:
            np.testing.assert_array_equal(found.constants[name], plain.constants[name])
            continue
        spread = np.sqrt((channels.network.constants[name] ** 2).mean() * old / new)
        assert found.constants[name].std() == pytest.approx(spread, rel=6 / np.sqrt(found.constants[name].size))
        norm = found.sole_consumer(node.outputs[0])
        if norm is not None and norm.op == "BatchNormalization":
            assert [found.constants[constant].mean() for constant in norm.inputs[1:5]] == [1, 0, 0, 1]
    again = rectified(channels, keep, trained=False, seed=3).network
    assert all(np.array_equal(value, again.constants[name]) for name, value in found.constants.items())
    other = rectified(channels, keep, trained=False, seed=4).network
    assert any(not np.array_equal(value, other.constants[name]) for name, value in found.constants.items())


def test_trained_layers_keep_their_weights_at_the_scale_of_their_new_fan_in() -> None:
    channels = loaded(RESIDUAL)
    keep = halved(channels)
    plain, found = channels.cut(keep), rectified(channels, keep, trained=True, seed=0).network
    for node in found.nodes:
        entry = OPS[node.op]
        if isinstance(entry, Mixer):
            name, axis = node.inputs[1], entry.weight_axes(node)[0]
            ratio = channels.network.shapes[name][axis] / found.shapes[name][axis]
            np.testing.assert_allclose(found.constants[name], plain.constants[name] * np.sqrt(ratio), rtol=1e-6)


# ------------------------------------------------------------------------------------------------------- whole commands


def request(tmp_path: Path, name: str = "o.onnx", **wishes: object) -> Request:
    wanted = {"train": False, "int8": False, "method": "at-init", "limits": limits(flash="30%", sram="70%"), **wishes}
    return Request(str(RESIDUAL), output=str(tmp_path / name), **wanted)  # type: ignore[arg-type]


@pytest.mark.parametrize("from_scratch", [False, True])
def test_without_training_the_cut_network_is_written_and_the_same_seed_gives_the_same_file(
    from_scratch: bool, tmp_path: Path
) -> None:
    one, two = (pruning.prune(request(tmp_path, name, from_scratch=from_scratch)) for name in ("1.onnx", "2.onnx"))
    assert one.ok
    assert (tmp_path / "1.onnx").read_bytes() == (tmp_path / "2.onnx").read_bytes()
    assert one.sensitivity == two.sensitivity
    assert not any("no effect" in note for note in one.notes)
    assert outcome.document(one)["method"] == "at-init"
    weights = network.load(tmp_path / "1.onnx", accept=ops.accept("1.onnx")).constants
    pruning.prune(request(tmp_path, "3.onnx", from_scratch=not from_scratch))
    others = network.load(tmp_path / "3.onnx", accept=ops.accept("3.onnx")).constants
    assert any(not np.array_equal(value, others[name]) for name, value in weights.items())


def test_the_report_shows_sensitivity_as_a_table_and_a_picture(tmp_path: Path) -> None:
    result = pruning.prune(request(tmp_path))
    found = outcome.document(result)
    assert result.sensitivity is not None
    assert Sensitivity.of_document(json.loads(json.dumps(found["sensitivity"]))).threshold == result.sensitivity.threshold
    told = outcome.markdown(found)
    assert all(f"`{group.name}`" in told.partition("## Sensitivity")[2] for group in result.groups)
    assert told.count("<svg") == 1
    assert "stroke-dasharray" in outcome.html(result)


@pytest.mark.thorough
def test_sensitivity_outlives_an_interruption_while_quantising(few_digits: str, tmp_path: Path) -> None:
    asked = replace(request(tmp_path, train=True, int8=True, epochs=2), model=str(DSCNN), data=few_digits)

    def stop(step: pruning.Step) -> None:
        if step.phase == "quantize":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pruning.prune(asked, stop)
    taken_up = pruning.prune(replace(asked, resume=True))
    assert taken_up.sensitivity is not None
    assert [curve.group for curve in taken_up.sensitivity.curves] == [group.name for group in taken_up.groups]
    assert taken_up.sensitivity.threshold is not None


@pytest.mark.parametrize("score", thorough_but(["snip", "grasp"], "snip"))
def test_scores_of_a_loss_need_examples(score: str, few_digits: str, tmp_path: Path) -> None:
    asked = replace(request(tmp_path, score=score, limits=limits(flash="60%")), model=str(DSCNN))
    with pytest.raises(UsageError, match="labelled examples"):
        pruning.prune(asked)
    assert pruning.prune(replace(asked, data=few_digits)).ok


def test_a_score_has_no_effect_on_other_methods(tmp_path: Path) -> None:
    result = pruning.prune(request(tmp_path, train=True, epochs=1, method="uniform", score="snip"))
    assert "no effect on method uniform: --score" in result.notes
    assert result.sensitivity is None


@pytest.mark.parametrize("kind", ["text", "markdown", "html", "json"])
def test_profile_shows_sensitivity_when_asked(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", str(RESIDUAL), "--sensitivity", "--format", kind]) == 0
    said = capsys.readouterr().out
    if kind == "json":
        found = json.loads(said)["models"][0]["sensitivity"]
        assert [group["channels"] for group in found["groups"]] == [len(group) for group in loaded(RESIDUAL).groups]
        assert all(0 <= share <= 1 for group in found["groups"] for share in group["lost"])
    else:
        assert "-1/8" in said
        assert "/stage3/conv2/conv/Conv" in said


def nothing_to_prune(*, weights: bool = True) -> Network:
    graph = Graph(1, 3, 8, 8)
    return graph.net(graph.add("GlobalAveragePool", graph.conv("x", 3, 5) if weights else graph.add("Relu", "x")))


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("score", ["synflow", "magnitude", "random"])
def test_a_network_without_a_channel_to_remove_is_written_as_it_is(score: str, weights: bool, tmp_path: Path) -> None:
    net = nothing_to_prune(weights=weights)
    for name, wishes in {"plain": {"method": "differentiable"}, "scored": {"score": score}}.items():
        asked = request(tmp_path, f"{name}.onnx", limits=limits(sram="100%"), int8=True, **wishes)
        assert pruning.prune(asked, net=net).ok
    assert (tmp_path / "scored.onnx").read_bytes() == (tmp_path / "plain.onnx").read_bytes()
    assert at_init.sensitivity(label(net)) == Sensitivity(())


@pytest.mark.parametrize("kind", ["text", "markdown", "html"])
def test_of_a_network_without_a_channel_to_remove_no_sensitivity_is_shown(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.onnx").write_bytes(nothing_to_prune().to_proto().SerializeToString())
    assert main(["profile", str(tmp_path / "m.onnx"), "--sensitivity", "--format", kind]) == 0
    assert "No channel can be removed" in capsys.readouterr().out
