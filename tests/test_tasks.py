"""Kinds of tasks: what targets each takes, its loss and its figure against hand counts, and whole prunes of each."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tasks_data
import torch
from conftest import thorough_but
from graphs import Graph
from sklearn.metrics import r2_score
from test_pruning import limits

from mcuprune import pruning
from mcuprune.data import loading
from mcuprune.data.fitting import Wanted
from mcuprune.data.sets import Data
from mcuprune.errors import DataError, UsageError
from mcuprune.graph.network import Network
from mcuprune.pruning import Request
from mcuprune.report import prune as outcome
from mcuprune.run.trial import Trial
from mcuprune.run.verify import verify
from mcuprune.train import evaluate, teacher
from mcuprune.train.goal import goal, target_checks
from mcuprune.train.tasks.choice import chosen, distilled
from mcuprune.train.tasks.classify import Classify, Segment
from mcuprune.train.tasks.distill import Distill
from mcuprune.train.tasks.heads import Head, heads, recognised
from mcuprune.train.tasks.kind import Kind
from mcuprune.train.tasks.metrics import Agreement, Classes, Errors, Labels, Metric, Overlap, several
from mcuprune.train.tasks.regress import Regress

torch.set_num_threads(1)
DRAW = np.random.default_rng(0)


def pruned(net: Network, arrays: dict[str, np.ndarray], folder: Path, macs: str = "50%", **wishes: Any) -> pruning.Result:
    return pruning.prune(Request("net.onnx", limits(macs=macs), str(folder / "o.onnx"), **wishes), net=net, data_set=arrays)


def opened(parts: Any) -> Data:
    """Data in memory, for a network of vectors."""
    wanted = Wanted(((8,),), target_checks(tasks_data.vector_net(2), "auto"), 2, 0, unlabelled=True)
    return loading.opened(parts, wanted)


def kind_of(net: Network, task: str, targets: np.ndarray) -> Kind:
    """The kind that is chosen for the targets of a network's only output."""
    return chosen(net, heads(net), task, "data", {"train": [targets]})[0].kinds[0]


# ------------------------------------------------------------------------------------------------------------ recognised


@pytest.mark.parametrize(
    ("net", "targets", "name", "form"),
    [
        (tasks_data.vector_net(4), np.arange(8) % 4, "classify", "one"),
        (tasks_data.vector_net(4, "Softmax"), np.eye(4)[np.arange(8) % 4], "classify", "one"),
        (tasks_data.vector_net(4, "Sigmoid"), (DRAW.random((8, 4)) > 0.4).astype(int), "classify", "labels"),
        (tasks_data.vector_net(1, "Sigmoid"), np.arange(8) % 2, "classify", "binary"),
        (tasks_data.vector_net(1), np.arange(8) % 2, "classify", "binary"),
        (tasks_data.vector_net(1), np.arange(8.0) % 2, "classify", "binary"),
        (tasks_data.vector_net(1), np.linspace(0, 1, 8), "regress", None),
        (tasks_data.vector_net(3), DRAW.random((8, 3)), "regress", None),
        (tasks_data.unet(), tasks_data.shapes(8)[1], "segment", "one"),
        (tasks_data.unet(classes=1, ending="Sigmoid"), tasks_data.shapes(8)[1] > 0, "segment", "binary"),
        (tasks_data.unet(classes=2), (DRAW.random((8, 2, 16, 16)) > 0.5), "segment", "labels"),
        (tasks_data.unet(classes=2), DRAW.random((8, 2, 16, 16)), "regress", None),
    ],
)
def test_the_task_is_what_outputs_and_targets_say(net: Network, targets: np.ndarray, name: str, form: str | None) -> None:
    kind = kind_of(net, "auto", np.asarray(targets))
    assert (kind.name, getattr(kind, "form", None)) == (name, form)


def test_what_one_split_shows_of_labels_holds_for_all() -> None:
    """Rows with one label each may be one of several labels at once: the training examples tell."""
    net, ones = tasks_data.vector_net(4, "Sigmoid"), np.eye(4, dtype=int)
    objective, taken = chosen(net, heads(net), "auto", "data", {"val": [ones], "train": [1 - ones]})
    assert isinstance(objective.kinds[0], Classify)
    assert objective.kinds[0].form == "labels"
    np.testing.assert_array_equal(taken["val"][0], ones)


@pytest.mark.parametrize("ending", ["softmax", "sigmoid", "none"])
def test_probabilities_are_recognised_by_their_values_whatever_makes_them(ending: str) -> None:
    logits = DRAW.standard_normal((20, 5))
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    values = {"softmax": shares, "sigmoid": 1 / (1 + np.exp(-logits)), "none": logits}[ending]
    (head,) = recognised((Head("y", (5,), "y", "none"),), [values.astype(np.float32)])
    assert head.ending == {"softmax": "shares", "sigmoid": "units", "none": "none"}[ending]


#: What a last layer gives as it is, and what can't leave 0...1, by nodes that no rule has by name.
OPEN: dict[str, Any] = {
    "bare": lambda layers, y: y,
    "halved": lambda layers, y: layers.add("Div", [y, layers.constant(np.full(1, 2, np.float32))]),
    "Swish": lambda layers, y: layers.add("Mul", [y, layers.add("Sigmoid", [y])]),
    "Relu": lambda layers, y: layers.add("Relu", [y]),
    "shifted": lambda layers, y: layers.add("Add", [layers.constant(np.full(1, 0.1, np.float32)), y]),
}
CLOSED: dict[str, Any] = {
    "HardSigmoid": lambda layers, y: layers.add("HardSigmoid", [y]),
    "Clip": lambda layers, y: layers.add("Clip", [y, *(layers.constant(np.float32(x)) for x in (0, 1))]),
    "1 - Sigmoid": lambda layers, y: layers.add("Sub", [layers.constant(np.ones(1, np.float32)), layers.add("Sigmoid", [y])]),
    "by hand": lambda layers, y: layers.add("Mul", [layers.add("Tanh", [y]), layers.constant(np.full(1, 0.5, np.float32))]),
}


@pytest.mark.parametrize("name", [*OPEN, *CLOSED])
def test_logits_that_lie_between_0_and_1_by_chance_are_no_probabilities(name: str) -> None:
    """An untrained network gives nearly the same to all examples; where that is 0.1, its loss had no gradient."""
    layers = tasks_data.Layers()
    y = layers.dense("x", 8, 1)
    layers.weights = {key: value * 0.01 + 0.1 * (value.ndim == 1) for key, value in layers.weights.items()}
    net = layers.net({"x": [8]}, {"y": ({**OPEN, **CLOSED}[name](layers, y), [1])})
    answers = evaluate.Model(bytes(net.to_proto().SerializeToString())).outputs([np.eye(8, dtype=np.float32)])
    assert 0 < answers[0].min() < answers[0].max() < 1
    (head,) = recognised(heads(net), answers)
    assert head.ending == ("none" if name in OPEN else "units")


def test_a_chain_of_sums_that_closes_on_itself_is_looked_at_once() -> None:
    layers = tasks_data.Layers()
    y = layers.add("Sigmoid", ["x"])
    for _ in range(1500):
        y = layers.add("Add", [y, y])
    assert not heads(layers.net({"x": [1]}, {"y": (y, [1])}))[0].free


def test_a_loss_of_probabilities_is_that_of_the_logits_behind_them() -> None:
    logits = torch.randn(6, 5, dtype=torch.float64)
    target = torch.arange(6) % 5
    by_logits = Classify(Head("y", (5,), "y", "none")).loss(logits, target, 0.0)
    by_shares = Classify(Head("y", (5,), "y", "shares")).loss(logits.softmax(1), target, 0.0)
    assert float(by_shares) == pytest.approx(float(by_logits), rel=1e-9)
    one = torch.randn(6, 1, dtype=torch.float64)
    binary = [Classify(Head("y", (1,), "y", ending)) for ending in ("none", "units")]
    pair = [float(kind.loss(x, target % 2, 0.0)) for kind, x in zip(binary, (one, one.sigmoid()), strict=True)]
    assert pair[0] == pytest.approx(pair[1], rel=1e-9)


# ---------------------------------------------------------------------------------------------------------------- losses


def test_the_loss_of_places_counts_each_known_place_once() -> None:
    kind = Segment(Head("y", (3, 4, 5), "y", "none"))
    logits, target = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randint(-1, 3, (2, 4, 5))
    rows = logits.permute(0, 2, 3, 1).reshape(-1, 3).log_softmax(1)
    known = target.flatten() >= 0
    by_hand = -rows[known, target.flatten()[known]].mean()
    assert float(kind.loss(logits, target, 0.0)) == pytest.approx(float(by_hand), rel=1e-9)


@pytest.mark.parametrize("shape", [(3,), (3, 4, 5)])
def test_scores_of_classes_count_each_by_itself_as_well(shape: tuple[int, ...]) -> None:
    """A Sigmoid is no Softmax: where all scores are nearly 1, int8 scores don't say which is the largest."""
    make = Segment if len(shape) > 1 else Classify
    shared, kind = (make(Head("y", shape, "y", ending)) for ending in ("none", "sigmoid"))
    logits = torch.randn(2, *shape, dtype=torch.float64)
    target = torch.randint(0, 3, (2, *shape[1:]))
    by_hand = []
    for at in np.ndindex(*target.shape):
        own = logits[(at[0], slice(None), *at[1:])].sigmoid()
        by_hand.append(-sum(float((p if c == target[at] else 1 - p).log()) for c, p in enumerate(own)))
    expected = (float(shared.loss(logits, target, 0.0)) + np.mean(by_hand)) / 2
    assert float(kind.loss(logits, target, 0.0)) == pytest.approx(expected, rel=1e-9)
    assert float(kind.loss(logits + 20, target, 0.0)) > float(kind.loss(logits, target, 0.0)) + 10
    # the mean of labels that are smoothed is that of labels of all classes
    every = np.mean([float(kind.loss(logits, torch.full_like(target, c), 0.0)) for c in range(3)])
    smooth = 0.9 * float(kind.loss(logits, target, 0.0)) + 0.1 * every
    assert float(kind.loss(logits, target, 0.1)) == pytest.approx(smooth, rel=1e-6)


def test_classes_of_places_may_lie_on_the_last_axis() -> None:
    first, last = Segment(Head("y", (3, 8, 9), "y", "none")), Segment(Head("y", (8, 9, 3), "y", "none"))
    logits, target = torch.randn(2, 3, 8, 9), torch.randint(0, 3, (2, 8, 9))
    assert torch.allclose(first.loss(logits, target, 0.0), last.loss(logits.permute(0, 2, 3, 1), target, 0.0))


@pytest.mark.parametrize(
    ("shape", "places", "axis"),
    [((10, 6, 6), (6, 6), 0), ((6, 6, 10), (6, 6), 2), ((36, 10), (36,), 1), ((10, 36), (36,), 0), ((6, 6, 6), (6, 6), 0)],
)
@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("task", ["auto", "segment"])
def test_classes_of_places_lie_where_the_targets_say(
    shape: tuple[int, ...], places: tuple[int, ...], axis: int, one_hot: bool, task: str
) -> None:
    """With more classes than columns the smaller axis isn't that of classes."""
    layers = tasks_data.Layers()
    net = layers.net({"x": [*shape]}, {"y": (layers.add("Neg", ["x"]), [*shape])})
    numbers = np.random.default_rng(0).integers(0, shape[axis], (20, *places))
    targets = np.moveaxis(np.eye(shape[axis])[numbers], -1, 1 + axis) if one_hot else numbers
    objective, taken = chosen(net, heads(net), task, "data", {"train": [targets]})
    (kind,) = objective.kinds
    assert isinstance(kind, Segment)
    assert (kind.axis, kind.form) == (axis, "one")
    np.testing.assert_array_equal(taken["train"][0], numbers)


def test_masks_of_0_and_255_are_no_background_that_nobody_knows() -> None:
    """As pictures have them, where 255 means that nobody knows: all that was left to learn was right from the beginning."""
    net = tasks_data.unet(classes=1, ending="Sigmoid")
    masks = (tasks_data.shapes(8)[1] > 0).astype(np.uint8)
    with pytest.raises(DataError, match=r"know only the background.*a mask of 0 and 255 divided by 255"):
        kind_of(net, "auto", masks * np.uint8(255))
    ignored = masks.copy()
    ignored[:, :2] = 255
    assert kind_of(net, "auto", ignored).name == "segment"
    splits = {"train": [ignored], "val": [np.where(masks, 255, 0)]}  # by chance one split may know no more
    assert chosen(net, heads(net), "auto", "data", splits)[0].task == "segment"


#: Outputs that don't move with what they are made of, and the tensor before.
STEPPED: dict[str, Any] = {
    "ArgMax": lambda layers, y: layers.add("ArgMax", [y], axis=1, keepdims=0),
    "threshold": lambda layers, y: layers.add("Greater", [y, layers.constant(np.float32(0))]),
    "as numbers": lambda layers, y: layers.add("Cast", [layers.add("Greater", [y, layers.constant(np.float32(0))])], to=1),
    "whole": lambda layers, y: layers.add("Cast", [y], to=2),
    "rounded": lambda layers, y: layers.add("Round", [y]),
}


@pytest.mark.parametrize("name", STEPPED)
def test_outputs_that_go_in_steps_are_refused_before_the_work_with_the_tensor_before_them(name: str, tmp_path: Path) -> None:
    """Deployed networks end so. Training ended in a traceback, or in the advice of a lower learning rate."""
    net, before = _stepped(name)
    arrays = tasks_data.split(_blobs, 64, 64)
    inputs = {key: value for key, value in arrays.items() if key.startswith("x")}
    advice = rf"output 'y' goes in steps .*--outputs {before}$"
    for wishes in ({}, {"task": "classify"}, {"keep_weights": True, "unlabelled": True}):
        with pytest.raises(DataError, match=advice):
            pruned(net, arrays, tmp_path, epochs=1, **wishes)
    with pytest.raises(DataError, match=advice):
        pruned(net, inputs, tmp_path, epochs=1, keep_weights=True)
    with pytest.raises(DataError, match=r"--outputs \w+, or leave the targets aside with --unlabelled"):
        pruned(net, arrays, tmp_path, train=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", STEPPED)
@pytest.mark.parametrize("data", [False, True])
def test_what_goes_in_steps_is_cut_and_compared_without_training(name: str, data: bool, tmp_path: Path) -> None:
    net, _ = _stepped(name)
    x = _blobs(64, 1)[0]
    if not data:
        pruning.prune(Request("net.onnx", limits(macs="90%"), str(tmp_path / "o.onnx"), train=False), net=net)
        return
    result = pruned(net, {f"x_{part}": x for part in ("train", "val", "test")}, tmp_path, "90%", train=False)
    document = outcome.document(result)
    answers = [evaluate.Model(bytes(net.to_proto().SerializeToString())), evaluate.Model(tmp_path / "o.onnx")]
    same = np.mean(np.equal(*(model.outputs([x])[0] for model in answers)))
    assert document["metric"]["shown_as"] == "same value as the original"
    assert document["metric"]["after_int8"]["value"] == pytest.approx(same)


def _stepped(name: str) -> tuple[Network, str]:
    layers = tasks_data.Layers()
    y = layers.dense(layers.dense("x", 8, 24, relu=True), 24, 4)
    output = STEPPED[name](layers, y)
    dtype = {"ArgMax": 7, "threshold": 9, "whole": 2}.get(name, 1)
    return layers.net({"x": [8]}, {"y": (output, [] if name == "ArgMax" else [4])}, dtype=dtype), y


def test_an_error_is_measured_in_units_of_the_targets_own_spread() -> None:
    kind = Regress(Head("y", (2,), "y", "none"))
    targets = np.array([[0.0, 0.0], [2.0, 200.0]], np.float32)
    kind.prepare(targets)
    loss = kind.loss(torch.tensor([[1.0, 100.0]]), torch.zeros(1, 2), 0.0)
    assert float(loss) == pytest.approx(1.0)  # each is one standard deviation off


@pytest.mark.parametrize(
    ("form", "spreads"),
    [("map", 1), ("two maps", 2), ("turned", 2), ("through a skip", 1), ("matrix", 32), ("row", 4), ("through Tanh", 4)],
)
def test_numbers_that_share_their_weights_share_their_spread(form: str, spreads: int) -> None:
    """A corner of a map that hardly changes had a spread of its own, and ruled the weights of all places."""
    graph = Graph(1, 3, 4, 4)
    x = graph.add("Relu", graph.conv("x", 3, 4))
    flat = graph.add("Flatten", x)
    made: dict[str, Callable[[], str]] = {
        "map": lambda: graph.conv(x, 4, 1),
        "two maps": lambda: graph.conv(x, 4, 2),
        "turned": lambda: graph.add("Transpose", graph.conv(x, 4, 2), perm=[0, 2, 3, 1]),
        "through a skip": lambda: graph.add("Add", graph.conv(x, 4, 3), "x"),
        "matrix": lambda: graph.add("Reshape", graph.dense(flat, 64, 32), graph.value(np.array([1, 2, 4, 4]))),
        "row": lambda: graph.dense(flat, 64, 4),
        "through Tanh": lambda: graph.add("Tanh", graph.dense(flat, 64, 4)),
    }
    (head,) = heads(graph.net(made[form]()))
    kind, draw = Regress(head), np.random.default_rng(0)
    targets = draw.standard_normal((20, *head.shape)) * draw.uniform(1e-4, 1, head.shape)
    kind.prepare(targets.astype(np.float32))
    ones = torch.from_numpy(np.eye(targets[0].size, dtype=np.float32).reshape(-1, *head.shape))
    losses = [float(kind.loss(one, torch.zeros_like(one), 0.0)) for one in ones]
    assert len({f"{loss:.6g}" for loss in losses}) == spreads


@pytest.mark.parametrize("ending", ["softmax", "sigmoid", "none"])
@pytest.mark.parametrize("shape", [(5,), (5, 4, 4)])
def test_a_network_that_answers_as_its_teacher_has_no_loss_and_full_agreement(ending: Any, shape: tuple[int, ...]) -> None:
    kind = Distill(Head("y", shape, "y", ending))
    answer = torch.randn(16, *shape)
    kind.prepare(answer.numpy())
    other = answer + 0.5 * torch.randn(16, *shape)
    assert abs(float(kind.teach(answer, answer))) < 1e-5
    assert float(kind.teach(other, answer)) > 0.01
    output = kind.output(answer)
    assert abs(float(kind.loss(answer, output, 0.0))) < 1e-4  # targets are outputs, losses are taken of logits
    tally = kind.tally()
    tally.add(kind.measured(output.numpy()), kind.truth(output.numpy()))
    assert tally.metric().value == 1.0


def test_no_output_drowns_the_others() -> None:
    """Losses of numbers are divided by what the best constant answer has, whatever their unit."""
    small, large = Distill(Head("a", (4, 2), "a", "none"), alone=False), Distill(Head("b", (4, 2), "b", "none"), alone=False)
    answers = torch.randn(64, 4, 2)
    small.prepare(answers.numpy())
    large.prepare(1000 * answers.numpy())
    wrong = torch.zeros(64, 4, 2)
    assert float(small.teach(wrong, answers)) == pytest.approx(float(large.teach(wrong, 1000 * answers)), rel=1e-4)


# --------------------------------------------------------------------------------------------------------------- figures


def test_figures_of_classes_are_those_counted_by_hand() -> None:
    outputs, targets = np.array([0, 0, 1, 1, 2, 0]), np.array([0, 1, 1, 1, -1, 2])
    tally = Classes(3)
    tally.add(outputs[:3], targets[:3])
    tally.add(outputs[3:], targets[3:])
    assert tally.accuracy == 3 / 5
    # class 0: 1 hit, 2 false alarms, 0 misses; class 1: 2 hits, 0, 1; class 2: 0, 0, 1
    np.testing.assert_allclose(tally.f1(), [2 / 4, 4 / 5, 0.0])
    np.testing.assert_allclose(tally.iou(), [1 / 3, 2 / 3, 0.0])
    masks = Overlap(3)
    masks.add(outputs, targets)
    assert masks.metric().value == pytest.approx((1 / 3 + 2 / 3 + 0) / 3)


@pytest.mark.parametrize(("counts", "name"), [((50, 50), "accuracy"), ((90, 10), "f1"), ((30, 35, 35), "accuracy")])
def test_uneven_classes_are_measured_by_f1_and_their_accuracy_goes_along(counts: tuple[int, ...], name: str) -> None:
    tally, labels = Classes(len(counts)), np.repeat(np.arange(len(counts)), counts)
    tally.add(np.zeros_like(labels), labels)
    metric = tally.metric()
    assert metric.name == name
    assert metric.accuracy == counts[0] / sum(counts)
    assert not tally.learned()


def test_rare_labels_and_places_that_are_found_are_learned_and_constant_answers_are_not() -> None:
    """Right on fewer places than an answer that never names them, as networks are that were trained with weights."""
    truth = np.zeros((100, 100), np.int64)
    truth[:, 0] = 1
    generous = truth.copy()
    generous[:, 1] = 1  # twice as many as there are
    for answers, learned in ((generous, True), (np.zeros_like(truth), False), (np.ones_like(truth), False)):
        masks, labels = Overlap(2), Labels(2)
        masks.add(answers, truth)
        both = np.stack([answers.ravel(), answers[::-1].ravel()], 1), np.stack([truth.ravel(), truth[::-1].ravel()], 1)
        labels.add(*both)
        assert masks.learned() == labels.learned() == learned


def test_numbers_that_are_mostly_zero_are_learned_by_their_squares() -> None:
    draw = np.random.default_rng(0)
    targets = np.where(draw.random((500, 1)) < 0.7, 0, draw.uniform(5, 10, (500, 1)))
    answers = np.where(targets > 0, 6.0, 2.0) + draw.normal(0, 0.1, targets.shape)  # off by 2 where the median is right
    for outputs, learned in ((answers, True), (np.full_like(targets, targets.mean()), False), (0 * targets, False)):
        errors = Errors(0.0, targets.mean())
        errors.add(outputs, targets)
        assert errors.learned() == learned


def test_r2_is_the_mean_over_numbers_of_a_unit_of_their_own() -> None:
    """Pooled, a pressure of 101,325 hid that nothing of a temperature was known."""
    kind = Regress(Head("y", (2,), "y", "none", alike=(0, 1)))
    draw = np.random.default_rng(1)
    targets = np.stack([draw.normal(101325, 50, 400), draw.normal(20, 3, 400)], 1)
    kind.prepare(targets.astype(np.float32))
    outputs = targets + np.stack([np.zeros(400), draw.normal(0, 6, 400)], 1)
    tally = kind.tally()
    for part in (slice(0, 100), slice(100, 400)):
        tally.add(outputs[part], targets[part])
    assert tally.metric().more["r2"] == pytest.approx(r2_score(targets, outputs), abs=1e-6)
    assert tally.metric().more["rmse"] == pytest.approx(np.sqrt(((outputs - targets) ** 2).mean()))
    constant = kind.tally()  # of a number that never changes there is nothing to explain
    targets[:, 1] = np.float32(37.2)
    for part in (slice(0, 64), slice(64, 123)):
        constant.add(np.stack([targets[part, 0], np.full_like(targets[part, 0], 36)], 1), targets[part])
    assert constant.metric().more["r2"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("shape", "targets", "said"),
    [
        ((1,), [-1, 1, 1, -1], r"are -1 and 1; .* y = \(y \+ 1\) // 2, or give --task regress"),
        ((1,), [-1.0, 1.0, 1.0, -1.0], r"are -1 and 1"),
        ((3,), [[0.8, 0.1, 0.1], [0.1, 0.5, 0.4]], r"are shares of classes, .* y = y.argmax\(1\), or give --task regress"),
        ((1,), [-1, 0, 1, -1], None),
        ((3,), [[0.8, 0.3, 0.1], [0.1, 0.5, 0.4]], None),
        ((3,), [[0, 1, 0], [1, 0, 0]], None),
    ],
)
def test_classes_in_a_form_that_no_loss_takes_are_refused_with_what_mends_them(
    shape: tuple[int, ...], targets: Any, said: str | None
) -> None:
    graph = Graph(1, 6)
    net = graph.net(graph.dense("x", 6, shape[0]))
    y = np.asarray(targets, None if np.asarray(targets).dtype.kind == "i" else np.float32)
    given = {"train": [y], "test": [y]}
    if said is None:
        chosen(net, heads(net), "auto", "d.npz", given)
        return
    with pytest.raises(DataError, match=said):
        chosen(net, heads(net), "auto", "d.npz", given)
    assert chosen(net, heads(net), "regress", "d.npz", given)[0].kinds[0].name == "regress"


def test_figures_of_several_labels_and_of_numbers_are_those_counted_by_hand() -> None:
    labels = Labels(2)
    labels.add(np.array([[1, 0], [1, 1], [0, 0]]), np.array([[1, 1], [0, 1], [0, 0]]))
    assert labels.metric().value == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert labels.metric().more["label_accuracy"] == pytest.approx(4 / 6)
    errors = Errors(2.0)
    errors.add(np.array([[1.0], [2.0], [6.0]]), np.array([[1.0], [3.0], [5.0]]))
    found = errors.metric()
    assert found.value == pytest.approx(2 / 3)
    assert found.more["r2"] == pytest.approx(1 - 2 / 8)
    assert found.floor(0.1) == pytest.approx(-(2 / 3) * 1.1)


def test_agreement_is_the_explained_share_of_the_originals_variance() -> None:
    original = DRAW.standard_normal((1000, 4))
    tally = Agreement(None, scores=False)
    tally.add(original + 0.1 * DRAW.standard_normal((1000, 4)), original)
    metric = tally.metric()
    assert metric.value == pytest.approx(0.99, abs=0.002)
    assert metric.more["snr_db"] == pytest.approx(20, abs=1)


def test_one_figure_of_several_outputs_is_their_mean_as_shares() -> None:
    found = several({"a": Metric("accuracy", "", 0.9), "b": Metric("mae", "", 3.0, "value", "lower", {"r2": 0.5})})
    assert found.value == pytest.approx(0.7)
    assert found.more["b/mae"] == 3.0


# -------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("net", "task", "targets", "said"),
    [
        (tasks_data.vector_net(4), "classify", np.array([0, 4]), "labels from 0 to 4"),
        (tasks_data.vector_net(4), "classify", np.array([0.5, 1.0]), "--task regress"),
        (tasks_data.vector_net(3), "regress", np.zeros((2, 4)), r"wants numbers of shape \(n, 3\)"),
        (tasks_data.vector_net(3), "regress", np.full((2, 3), np.nan), "NaN or infinite values in 2 of 2"),
        (tasks_data.unet(), "segment", np.zeros((2, 8, 8), int), r"classes of places \[16, 16\]"),
        (tasks_data.unet(), "auto", np.zeros((2, 8, 8), int), "--unlabelled"),
        (tasks_data.unet(), "segment", np.full((2, 16, 16), 3), "labels from 3 to 3"),
        (tasks_data.unet(), "classify", np.zeros(2, int), "--task segment"),
        (tasks_data.unet(), "auto", np.full((2, 16, 16), 255), "the class of no place"),
        (tasks_data.unet(), "segment", np.full((2, 16, 16), -1), "the class of no place"),
        (tasks_data.vector_net(4), "auto", np.array(["a", "b"]), "dtype"),
    ],
)
def test_targets_that_do_not_go_with_the_output_are_refused(net: Network, task: str, targets: np.ndarray, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        kind_of(net, task, targets)
    assert str(caught.value).startswith("data: ")


def test_places_that_nobody_knows_may_be_255_or_minus_1() -> None:
    targets = tasks_data.shapes(4)[1].astype(np.uint8)
    targets[0, :3] = 255
    kind = kind_of(tasks_data.unet(), "auto", targets)
    assert (kind.taken("data", targets)[0, :3] == -1).all()


def test_a_batch_in_which_no_place_is_known_teaches_nothing() -> None:
    """Others may know some: the loss is 0 there, and not 0 / 0."""
    kind = kind_of(tasks_data.unet(), "auto", tasks_data.shapes(4)[1])
    answer = torch.randn(2, 3, 16, 16, requires_grad=True)
    kind.loss(answer, torch.full((2, 16, 16), -1), 0.1).backward()  # type: ignore[no-untyped-call]
    assert answer.grad is not None
    assert (answer.grad == 0).all()


@pytest.mark.parametrize("bare", ["train", "test", "val and test"])
def test_labels_of_some_parts_alone_are_a_slip(bare: str, tmp_path: Path) -> None:
    """Unless the network is to teach itself, and then they may be anywhere."""
    x, y = tasks_data.curves(64, 0)
    parts = {part: [(x[i], y[i]) for i in range(len(x))] for part in ("train", "val", "test")}
    for part in bare.split(" and "):
        parts[part] = [pair[:1] for pair in parts[part]]
    with pytest.raises(DataError, match=f"{bare} without labels.*--unlabelled"):
        pruned(tasks_data.vector_net(2), parts, tmp_path, epochs=1)
    aim = goal(tasks_data.vector_net(2), opened(parts), task="auto", unlabelled=True)
    assert not aim.labelled


def test_a_task_that_is_asked_for_needs_labels() -> None:
    x, _ = tasks_data.curves(64, 0)
    data = opened({part: [(one,) for one in x] for part in ("train", "test")})
    with pytest.raises(DataError, match="has no labels, and --task classify"):
        goal(tasks_data.vector_net(2), data, task="classify", unlabelled=False)
    assert not goal(tasks_data.vector_net(2), data, task="classify", unlabelled=True).labelled


def test_an_example_without_a_label_among_others_is_a_slip() -> None:
    x, y = tasks_data.curves(64, 0)
    for some in (1, 2, 63):
        pairs = [(x[i], None if i and i % some == some - 1 else y[i]) for i in range(64)]
        with pytest.raises(DataError, match="some examples have a label and others have none"):
            opened({"train": pairs, "test": pairs})


def test_names_are_as_many_as_classes(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    arrays = tasks_data.split(tasks_data.yes_or_no, 64, 32)
    for count, good in ((1, False), (2, True), (3, False)):
        names.write_text("".join(f"class {n}\n" for n in range(count)))
        asked = {"classes": str(names), "train": False, "int8": False}
        if good:
            assert pruned(tasks_data.vector_net(1, "Sigmoid"), arrays, tmp_path, macs="90%", **asked).ok
            continue
        with pytest.raises(DataError, match=rf"{count} classes have names \(class 0.* tells 2 apart"):
            pruned(tasks_data.vector_net(1, "Sigmoid"), arrays, tmp_path, macs="90%", **asked)


def test_moving_what_is_in_an_input_but_not_its_mask_is_refused(tmp_path: Path) -> None:
    arrays = tasks_data.split(lambda n, seed: tasks_data.shapes(n, seed=seed), 32, 16)
    with pytest.raises(UsageError, match=r"--augment flip: moves .* segmentation"):
        pruned(tasks_data.unet(), arrays, tmp_path, augment="flip,noise0.1", epochs=1)


@pytest.mark.parametrize("wishes", [{"from_scratch": True}, {"distill": False}])
def test_without_targets_there_must_be_something_to_learn_from(wishes: dict[str, Any], tmp_path: Path) -> None:
    arrays = tasks_data.split(tasks_data.curves, 64, 32)
    with pytest.raises((DataError, UsageError), match="to learn from"):
        pruned(tasks_data.vector_net(2), arrays, tmp_path, unlabelled=True, epochs=1, **wishes)
    assert not list(tmp_path.iterdir())


def test_targets_for_too_few_outputs_are_refused_with_the_way_out() -> None:
    layers = tasks_data.Layers()
    body = layers.dense("x", 8, 8, relu=True)
    outputs = {name: (layers.dense(body, 8, 2), [2]) for name in ("a", "b")}
    net = layers.net({"x": [8]}, outputs)
    with pytest.raises(DataError, match=r"1 output\(s\), the model has 2 \(a, b\).*--unlabelled"):
        chosen(net, heads(net), "auto", "data", {"train": [np.zeros(4, int)]})


# ----------------------------------------------------------------------------------------------------------- whole prunes


@pytest.mark.parametrize(
    ("net", "make", "epochs", "name", "worst"),
    [
        (tasks_data.vector_net(2), tasks_data.curves, 12, "mae", 0.3),
        (tasks_data.vector_net(1, "Sigmoid"), tasks_data.yes_or_no, 12, "accuracy", 0.9),
        (tasks_data.vector_net(4, "Sigmoid"), tasks_data.several_labels, 12, "f1", 0.9),
        (tasks_data.unet(width=6), lambda n, seed: tasks_data.shapes(n, seed=seed), 3, "miou", 0.7),
    ],
    ids=["regress", "sigmoid", "labels", "segment"],
)
def test_every_kind_is_trained_pruned_quantised_and_measured(
    net: Network, make: Any, epochs: int, name: str, worst: float, tmp_path: Path
) -> None:
    arrays = tasks_data.split(make, 256, 128)
    result = pruned(net, arrays, tmp_path, epochs=epochs, batch=16, seed=1)
    document = outcome.document(result)
    metric = document["metric"]
    assert result.ok
    assert metric["name"] == name
    assert document["after"]["accuracy_int8"] == (metric["after_int8"]["value"] if name == "accuracy" else None)
    value = metric["after_int8"]["value"]
    assert value < worst if metric["better"] == "lower" else value > worst
    # what is reported is what the file computes: counted anew from its outputs
    outputs = evaluate.Model(tmp_path / "o.onnx")(arrays["x_test"])
    y = arrays["y_test"]
    if name == "mae":
        assert value == pytest.approx(np.abs(outputs - y).mean(), rel=1e-5)
    if name == "accuracy":
        assert value == pytest.approx(((outputs[:, 0] > 0.5) == y).mean())
    if name == "miou":
        named = outputs.argmax(1)
        iou = [((named == c) & (y == c)).sum() / ((named == c) | (y == c)).sum() for c in range(3)]
        assert value == pytest.approx(np.mean(iou))
    assert metric["shown_as"] in outcome.text(document)
    assert [step["metric"] for step in document["history"] if step["metric"] is not None]
    json.dumps(document)


@pytest.mark.parametrize(("unit", "zero"), [(80.0, 105.0), (1e5, -3e5), (1e-3, 5e-3), ((1e3, 0.1), (7e3, 0.0))])
def test_a_regression_is_learned_whatever_the_unit_of_its_targets(unit: Any, zero: Any, tmp_path: Path) -> None:
    arrays = tasks_data.split(tasks_data.curves, 256, 128)
    for part in ("train", "val", "test"):
        if f"y_{part}" in arrays:
            arrays[f"y_{part}"] = arrays[f"y_{part}"] * np.array(unit) + np.array(zero)
    int8 = isinstance(unit, float)  # of two outputs in one tensor of int8 the smaller would be lost
    pruned(tasks_data.vector_net(2), arrays, tmp_path, epochs=12, batch=16, seed=1, int8=int8)
    outputs, y = evaluate.Model(tmp_path / "o.onnx")(arrays["x_test"]), arrays["y_test"]
    unexplained = ((outputs - y) ** 2).mean(0) / y.var(0)
    assert unexplained.mean() < 0.15


@pytest.mark.parametrize("form", ["Gemm", "MatMul and Add", "Conv", "bounded"])
def test_a_fresh_last_layer_answers_in_units_of_the_targets(form: str) -> None:
    g = Graph(1, 3, 4, 4) if form == "Conv" else Graph(1, 6)
    if form == "Conv":
        y = g.add("Flatten", g.conv("x", 3, 2, 4, pads=[0] * 4))
    elif form == "MatMul and Add":
        y = g.add("Add", g.add("MatMul", "x", g.constant(6, 2)), g.constant(2))
    else:
        y = g.dense("x", 6, 2)
    net = g.net(g.add("Sigmoid", y) if form == "bounded" else y)
    kind = Regress(heads(net)[0])
    targets = np.array([[10.0, -300.0], [14.0, 100.0], [12.0, 500.0]], np.float32)
    kind.prepare(targets)
    x = np.random.default_rng(0).normal(size=(1, 3, 4, 4) if form == "Conv" else (1, 6)).astype(np.float32)
    before, after = (evaluate.Model(some.to_proto().SerializeToString())(x) for some in (net, kind.begun(net)))
    wanted = before if form == "bounded" else before * targets.std(0) + np.median(targets, 0)
    np.testing.assert_allclose(after, wanted, rtol=1e-4)


@pytest.mark.thorough
def test_a_network_of_two_inputs_is_pruned_and_verified_on_both(tmp_path: Path) -> None:
    arrays = tasks_data.fused(256, 128)
    result = pruned(tasks_data.fusion(), arrays, tmp_path, epochs=10, batch=16)
    assert result.ok
    assert result.accuracy_int8 is not None
    assert result.accuracy_int8 > 0.8
    found = verify(result.network.path, Trial(data=arrays, examples=16))
    assert found.ok
    assert found.metric is not None
    assert found.examples["arrays"] == 16


def test_a_network_teaches_itself_without_targets(tmp_path: Path) -> None:
    """Trained first with targets; then pruned without any, and held against its own answers."""
    arrays = tasks_data.split(tasks_data.yes_or_no, 256, 128)
    trained = pruned(
        tasks_data.vector_net(1, "Sigmoid"), arrays, tmp_path, macs="100%", epochs=10, batch=16, int8=False
    ).network
    inputs = {key: x for key, x in arrays.items() if key.startswith("x")}
    result = pruned(trained, inputs, tmp_path, epochs=10, batch=16)
    assert result.figures is not None
    assert (result.figures.task, result.figures.labelled) == ("distill", False)
    assert result.figures.before.value == 1.0
    assert result.figures.after.value > 0.7
    assert result.accuracy is None
    same = (evaluate.Model(tmp_path / "o.onnx")(arrays["x_test"]) > 0.5) == arrays["y_test"][:, None]
    assert same.mean() > 0.85


def test_inputs_without_targets_calibrate_where_nothing_is_trained(tmp_path: Path) -> None:
    arrays = tasks_data.split(tasks_data.curves, 256, 128)
    inputs = {key: x for key, x in arrays.items() if key.startswith("x")}
    result = pruned(tasks_data.vector_net(2), inputs, tmp_path, macs="100%", train=False)
    assert result.figures is not None
    assert result.figures.after.value > 0.97  # eight bits, ranges of the examples
    assert not any("no data" in note for note in result.notes)


def test_several_outputs_have_a_task_each(tmp_path: Path) -> None:
    layers = tasks_data.Layers()
    body = layers.dense(layers.dense("x", 8, 24, relu=True), 24, 16, relu=True)
    net = layers.net({"x": [8]}, {"side": (layers.dense(body, 16, 2), [2]), "size": (layers.dense(body, 16, 2), [2])})
    arrays: dict[str, np.ndarray] = {}
    for part, count, seed in (("train", 256, 1), ("val", 64, 2), ("test", 64, 3)):
        arrays[f"x_{part}"], arrays[f"y0_{part}"] = tasks_data.yes_or_no(count, seed)
        arrays[f"y1_{part}"] = tasks_data.curves(count, seed)[1]
    result = pruned(net, arrays, tmp_path, epochs=10, batch=16)
    assert result.figures is not None
    assert result.figures.task == "several"
    assert result.figures.after.more["side/accuracy"] > 0.8  # type: ignore[operator]
    assert result.figures.after.more["size/mae"] < 0.5  # type: ignore[operator]


@pytest.mark.parametrize(
    ("shape", "ending"),
    thorough_but(
        itertools.product(((1, 4), (1, 1, 4), (1, 4, 1), (4, 1, 1)), (None, "Softmax", "Sigmoid")),
        ((1, 1, 4), "Softmax"),
        ((1, 4), "Sigmoid"),
        ((4, 1, 1), None),
    ),
)
def test_classes_are_told_apart_wherever_axes_of_one_number_lie(
    shape: tuple[int, ...], ending: str | None, tmp_path: Path
) -> None:
    layers = tasks_data.Layers()
    y = layers.dense(layers.dense("x", 8, 24, relu=True), 24, 4)
    y = layers.add("Reshape", [y, layers.constant(np.array([-1, *shape]))])
    if ending:
        y = layers.add(ending, [y], **({"axis": shape.index(4) + 1} if ending == "Softmax" else {}))
    net = layers.net({"x": [8]}, {"y": (y, [*shape])})
    arrays = tasks_data.split(_blobs, 256, 128)
    result = pruned(net, arrays, tmp_path, epochs=3, batch=16)
    named = evaluate.Model(tmp_path / "o.onnx").outputs([arrays["x_test"]])[0].reshape(128, 4).argmax(1)
    assert outcome.document(result)["after"]["accuracy_int8"] == pytest.approx((named == arrays["y_test"]).mean())
    assert (named == arrays["y_test"]).mean() > 0.9


def _centres() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((4, 8)) * 2


def _blobs(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points around four centres, and which centre it is."""
    draw = np.random.default_rng(seed)
    y = draw.integers(0, 4, n)
    x = _centres()[y] + draw.standard_normal((n, 8)) * 0.5
    return x.astype(np.float32), y


def _nearest(ending: str | None) -> Network:
    """Which centre of ``_blobs`` is nearest: right without any training. "shares": a Softmax that no rule knows."""
    centres = _centres().astype(np.float32)
    layers = tasks_data.Layers()
    bias = layers.constant((-(centres**2).sum(1) / 10).astype(np.float32))
    y = layers.add("Gemm", ["x", layers.constant(centres.T / 5), bias])
    if ending == "shares":
        up = layers.add("Exp", [y])
        y = layers.add("Div", [up, layers.add("ReduceSum", [up, layers.constant(np.array([1]))])])
    elif ending:
        y = layers.add(ending, [y])
    return layers.net({"x": [8]}, {"y": (y, [4])})


@pytest.mark.parametrize("pupil", [None, "Softmax", "Sigmoid", "shares"])
@pytest.mark.parametrize("ending", ["Softmax", "LogSoftmax", "Sigmoid", "shares"])
def test_what_a_file_teaches_does_not_depend_on_its_ending(ending: str, pupil: str | None, tmp_path: Path) -> None:
    """Probabilities taken for logits differ by 1 at most: every class would seem nearly as likely as the right one."""
    net, parts = _nearest(pupil), tasks_data.split(_blobs, 64, 64)
    wanted = Wanted(((8,),), target_checks(net, "auto"), 2, 0, unlabelled=True)
    aim = goal(net, loading.opened(parts, wanted), task="auto", unlabelled=False)
    taught = []
    for each in (None, ending):
        path = tmp_path / f"{each}.onnx"
        path.write_bytes(_nearest(each).to_proto().SerializeToString())
        taught.append(torch.from_numpy(teacher.of_file(str(path), aim).sample(aim.data.train, 64)[0]))
    answers = torch.from_numpy(DRAW.random((64, 4)).astype(np.float32))
    if pupil == "shares":
        answers = answers / answers.sum(1, keepdim=True)
    losses = [float(aim.objective.teach([answers], [each])) for each in taught]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_scores_that_have_all_risen_to_one_come_apart_again(tmp_path: Path) -> None:
    """As int8 numbers they were the same, and which class is right was told by the float file alone."""
    layers = tasks_data.Layers()
    hidden = layers.dense("x", 8, 24, relu=True)
    w = layers.constant((layers.draw.standard_normal((24, 4)) * 0.3).astype(np.float32))
    y = layers.add("Sigmoid", [layers.add("Gemm", [hidden, w, layers.constant(np.full(4, 14, np.float32))])])
    net = layers.net({"x": [8]}, {"y": (y, [4])})
    result = pruned(net, tasks_data.split(_blobs, 256, 128), tmp_path, epochs=12, batch=16)
    after = outcome.document(result)["after"]
    assert after["accuracy_float"] > 0.9
    assert after["accuracy_int8"] > after["accuracy_float"] - 0.03


def test_distillation_needs_no_idea_of_what_outputs_mean() -> None:
    net = tasks_data.unet(ending="Sigmoid")
    objective = distilled(heads(net))
    assert objective.taught_only
    assert objective.moves
    assert [head.tensor for head in objective.heads] != [*net.outputs]  # losses are taken of what the Sigmoid reads


# -------------------------------------------------------------------------------------------------------- a loss of one's own


def test_a_loss_of_ones_own_trains_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mylosses_of_tests.py").write_text(
        "import torch\ncalls = []\ndef pinball(output, target):\n    calls.append(output.shape)\n"
        "    apart = target - output\n    return torch.maximum(0.9 * apart, -0.1 * apart).mean()\n"
    )
    arrays = tasks_data.split(lambda n, seed: (tasks_data.rows(n, seed), tasks_data.rows(n, seed + 9, 1)), 256, 128)
    request = Request("net.onnx", limits(macs="60%"), "o.onnx", epochs=10, loss_function="mylosses_of_tests:pinball")
    result = pruning.prune(request, net=tasks_data.vector_net(1), data_set=arrays)
    assert result.ok
    above = (evaluate.Model("o.onnx")(arrays["x_train"]) > arrays["y_train"]).mean()
    assert 0.8 < above < 0.97  # the 0.9 quantile, which no other loss here would find


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return output", "returned .*must return one number"),
        ("return 1.0", "returned float"),
        ("return (output - target[:, :3]).missing()", "raised AttributeError.*called with float32"),
        ("return (output * float('nan')).sum()", "must be finite"),
    ],
)
def test_a_loss_that_is_none_is_refused_before_the_work(
    body: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"loss{abs(hash(body))}"
    Path(f"{name}.py").write_text(f"def loss(output, target):\n    {body}\n")
    arrays = tasks_data.split(tasks_data.curves, 64, 32)
    request = Request("net.onnx", limits(macs="50%"), "o.onnx", epochs=1, loss_function=f"{name}:loss")
    with pytest.raises(UsageError, match=said):
        pruning.prune(request, net=tasks_data.vector_net(2), data_set=arrays)
    assert not Path("o.onnx").exists()


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("nolosses:mse", "no module 'nolosses'"),
        ("json:nothing", "has no 'nothing'"),
        ("mine.py:loss", "without .py: --loss-function mine:loss"),
        ("loss", "module:function"),
    ],
)
def test_a_loss_that_is_not_there_is_told(spec: str, said: str, tmp_path: Path) -> None:
    arrays = tasks_data.split(tasks_data.curves, 64, 32)
    with pytest.raises(UsageError, match=said):
        pruned(tasks_data.vector_net(2), arrays, tmp_path, loss_function=spec, epochs=1)
