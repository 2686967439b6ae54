"""What a network knows of its data, and why it may know nothing: the tests of chance, and the cause that is named."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import each_with_one_network_and_slowly_with_the_other
from graphs import Graph, resnet8
from scipy import optimize, stats

from mcuprune.data.loading import load
from mcuprune.data.sets import Data, Split
from mcuprune.graph.network import Network
from mcuprune.train import feeding, origin
from mcuprune.train.evaluate import Model
from mcuprune.train.tasks.metrics import Metric

MODELS = Path(__file__).resolve().parent.parent / "models"
TRAINED = ("dscnn_digits", "resnet8_digits")


@pytest.fixture(scope="module")
def digits() -> Data:
    return load("digits", input_shape=(1, 16, 16), n_classes=10, seed=0)


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    return {name: Model(MODELS / f"{name}.onnx") for name in TRAINED}


# -------------------------------------------------------------------------------------------------------------- chance


def test_the_tail_is_scipys() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        n, chance = int(random.integers(1, 5000)), float(random.uniform(0, 1))
        right = int(random.integers(0, n + 1))
        np.testing.assert_allclose(feeding.tail(right, n, chance), stats.binom.sf(right - 1, n, chance), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(("right", "n", "chance"), [(0, 10, 0.3), (10, 10, 0.3), (5, 10, 0.0), (5, 10, 1.0)])
def test_the_tail_at_its_ends(right: int, n: int, chance: float) -> None:
    assert feeding.tail(right, n, chance) == pytest.approx(stats.binom.sf(right - 1, n, chance))


@pytest.mark.parametrize("n", [100, 500, 5000])
@pytest.mark.parametrize("frequent", [0.1, 0.5])
def test_a_constant_answer_with_luck_is_seldom_taken_for_learning(n: int, frequent: float) -> None:
    luck = np.random.default_rng(1).binomial(n, frequent, 4000)
    assert np.mean([feeding.learned(int(right), n, frequent) for right in luck]) < 0.004


def test_how_much_must_be_right_depends_on_how_many_are_asked() -> None:
    """A third more than a constant answer is nothing on fifty examples, and a lot on five thousand."""
    assert not feeding.learned(7, 50, 0.1)
    assert feeding.learned(700, 5000, 0.1)


@pytest.mark.parametrize("counts", [(500, 500), (960, 40), (400, 300, 200, 100)])
def test_answers_that_do_not_look_are_seldom_taken_for_telling_classes_apart(counts: tuple[int, ...]) -> None:
    draw, labels, n = np.random.default_rng(3), np.repeat(np.arange(len(counts)), counts), len(counts)
    found = []
    for _ in range(3000):
        answers = draw.permutation(np.repeat(np.arange(n), draw.multinomial(len(labels), draw.dirichlet(np.ones(n)))))
        found.append(feeding.tells_apart(np.bincount(labels * n + answers, minlength=n * n).reshape(n, n)))
    assert np.mean(found) < 0.004
    assert not feeding.tells_apart(np.diag(counts) @ np.eye(n)[np.zeros(n, int)].astype(int))  # the most frequent, every time


@pytest.mark.parametrize(
    ("found", "alarms", "trained"),
    [(35, 100, True), (20, 20, True), (2, 1, False), (0, 0, False), (5, 115, False)],
)
def test_a_rare_class_that_is_found_makes_a_trained_network(found: int, alarms: int, trained: bool) -> None:
    """Of 960 and 40: right on fewer examples than an answer that never names the rare class, and worth more."""
    confusion = feeding.Confusion(np.array([[960 - alarms, alarms], [40 - found, found]]))
    assert confusion.accuracy <= confusion.frequent + 0.001
    assert confusion.trained == trained


def _confusion(n: int, classes: int, right: float) -> feeding.Confusion:
    """A network that is right on this share and wrong anywhere."""
    random = np.random.default_rng(2)
    labels = np.arange(n) % classes
    answers = np.where(random.random(n) < right, labels, random.integers(0, classes, n))
    return feeding.Confusion.of(np.eye(classes)[answers], labels, classes)


def test_a_weak_network_is_trained_if_it_names_classes_rightly() -> None:
    weak = _confusion(2000, 12, 0.13)
    assert weak.accuracy == pytest.approx(0.2, abs=0.03)
    assert weak.trained


def test_a_network_that_tells_classes_apart_by_luck_is_not_trained() -> None:
    """Two classes out of ten by their right names, and not by knowing them: one of them is most of its answers."""
    labels = np.arange(3000) % 10
    answers = np.select([labels == 0, labels == 1, labels < 5], [0, 1, 9], 1)
    lucky = feeding.Confusion.of(np.eye(10)[answers], labels, 10)
    assert feeding.learned(lucky.right, lucky.n, lucky.frequent)
    assert not lucky.trained


@pytest.mark.parametrize("seed", range(6))
def test_random_weights_are_not_trained_and_nothing_explains_them(seed: int, digits: Data) -> None:
    g = Graph("batch", 1, 16, 16)  # type: ignore[arg-type]
    g.draw = np.random.default_rng(seed)
    x = g.add("Relu", g.conv(g.add("Relu", g.conv("x", 1, 8, strides=[2, 2])), 8, 12, strides=[2, 2]))
    model = Model(g.model(g.dense(g.add("Flatten", x), 192, 10)).SerializeToString())
    assert not feeding.Confusion.of(model(digits.train.x), digits.train.y, 10).trained
    assert not feeding.explanations(model, digits.train, 10)[0].clear


def test_what_was_never_trained_can_be_seen() -> None:
    assert not feeding.looks_fresh(resnet8())
    norm = resnet8(norm=True)
    assert not feeding.looks_fresh(norm)
    means = {node.inputs[3] for node in norm.nodes if node.op == "BatchNormalization"}
    fresh = {name: 0 * value if name in means else value for name, value in norm.constants.items()}
    assert feeding.looks_fresh(norm.with_constants(fresh))


LAYERS = {
    "Conv": lambda: torch.nn.Conv2d(6, 9, (3, 2), groups=3),
    "one dimension": lambda: torch.nn.Conv1d(5, 8, 7),
    "ConvTranspose": lambda: torch.nn.ConvTranspose2d(6, 8, 3, groups=2),
    "Gemm": lambda: torch.nn.Linear(40, 10),
    "Gemm of the other order": lambda: torch.nn.Linear(40, 10),
}


def with_layer(form: str, layer: torch.nn.Module) -> Network:
    """A network of this layer alone."""
    weight, bias = (value.detach().numpy() for value in (layer.weight, layer.bias))
    g = Graph(1, {"one dimension": 5}.get(form, 6), *([12] if form == "one dimension" else [12, 12]))
    if isinstance(layer, torch.nn.Linear):
        g = Graph(1, layer.in_features)
        order = form == "Gemm"
        y = g.add("Gemm", "x", g.value(weight if order else weight.T.copy()), g.value(bias), transB=int(order))
    else:
        op = "ConvTranspose" if form == "ConvTranspose" else "Conv"
        y = g.add(op, "x", g.value(weight), g.value(bias), group=layer.groups)
    return g.net(y)


@pytest.mark.parametrize("form", LAYERS)
def test_layers_as_torch_draws_them_look_fresh_and_not_once_they_learned(form: str) -> None:
    fresh = learned = scaled = 0
    for seed in range(15):
        torch.manual_seed(seed)
        layer = LAYERS[form]()
        fresh += feeding.looks_fresh(with_layer(form, layer))
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.05)
        shape = (16, layer.in_features) if isinstance(layer, torch.nn.Linear) else (16, layer.in_channels, 9, 9)
        x = torch.randn(shape[:-1] if form == "one dimension" else shape)
        for _ in range(20):
            optimizer.zero_grad()
            y = layer(x).flatten(1)
            torch.nn.functional.cross_entropy(y, torch.arange(16) % y.shape[1] % 7).backward()
            optimizer.step()
        learned += feeding.looks_fresh(with_layer(form, layer))
        with torch.no_grad():
            torch.manual_seed(seed)
            layer = LAYERS[form]()
            layer.weight *= 1.1
        scaled += feeding.looks_fresh(with_layer(form, layer))
    assert fresh >= 14
    assert learned <= 1
    assert scaled == 0


# -------------------------------------------------------------------------------------------------------- explanations


def test_an_assignment_is_the_best_of_all() -> None:
    random = np.random.default_rng(0)
    for n in (1, 2, 5, 5, 6, 40, 40):
        counts = random.integers(0, 30, (n, n))
        rows, columns = optimize.linear_sum_assignment(-counts)
        found = feeding.assignment(counts)
        assert sorted(found.tolist()) == list(range(n))
        assert counts[np.arange(n), found].sum() == counts[rows, columns].sum()


def _unit(digits: Data) -> np.ndarray:
    x = digits.train.x
    return (x - x.min()) / (x.max() - x.min())


#: Examples on which one explanation is clearly the best, a third of all there are.
ENOUGH = 400
SCALES = {
    "0...1": lambda unit: unit,
    "0...255": lambda unit: 255 * unit,
    "-1...1": lambda unit: 2 * unit - 1,
    "0...16": lambda unit: 16 * unit,
    "exchanged": lambda unit: 1 - unit,
    "as trained": None,
}


@pytest.mark.parametrize(
    ("scale", "turned", "renumbered", "name"),
    each_with_one_network_and_slowly_with_the_other(itertools.product(SCALES, (False, True), (False, True)), TRAINED),
)
def test_the_cause_is_named_and_its_mend_mends(
    scale: str, turned: bool, renumbered: bool, name: str, digits: Data, models: dict[str, Model]
) -> None:
    """Trained networks fed with values of another scale, axes exchanged, labels numbered otherwise, and all of it together."""
    make = SCALES[scale]
    x = (digits.train.x if make is None else make(_unit(digits)).astype(np.float32))[:ENOUGH]
    x = np.ascontiguousarray(x.transpose(0, 1, 3, 2)) if turned else x
    number = np.random.default_rng(0).permutation(10) if renumbered else np.arange(10)
    data, model = Split(x, number[digits.train.y[:ENOUGH]]), models[name]
    if feeding.Confusion.of(model(data.x), data.y, 10).trained:
        return  # digits of -1...1 are near enough to what these networks were trained on
    best = feeding.explanations(model, data, 10)[0]
    assert best.clear
    assert best.accuracy > 0.95
    assert ("height and width" in best.cause) == turned
    assert ("labels are numbered otherwise" in best.cause) == renumbered
    if scale not in ("as trained", "-1...1"):
        assert "the network wants values of mean 0 and deviation 1" in best.cause
    space = {"numpy": np, "x": data.x, "y": data.y}
    exec(best.fix, space)
    mended = np.asarray(space["x"], np.float32)
    assert feeding.Confusion.of(model(mended), np.asarray(space["y"]), 10).accuracy > 0.95


@pytest.mark.parametrize("kind", ["last for first", "first for last", "colours", "colours, last"])
def test_the_order_of_channels_is_named(kind: str) -> None:
    """A network that answers by which of three colours is strongest where."""
    random = np.random.default_rng(0)
    last = kind in ("first for last", "colours, last")
    y = np.arange(800) % 6
    x = random.normal(0, 0.3, (800, 3, 5, 4))
    x[np.arange(800), y % 3, :, 2 * (y // 3)] += 1.5
    right = x.transpose(0, 2, 3, 1) if last else x

    def model(given: np.ndarray) -> np.ndarray:
        planes = given.transpose(0, 3, 1, 2) if last else given
        return np.concatenate([planes[:, :, :, 0].mean(2), planes[:, :, :, 2].mean(2)], 1)

    fed = {
        "last for first": lambda: x.transpose(0, 2, 3, 1).reshape(x.shape),
        "first for last": lambda: x.reshape(right.shape),
        "colours": lambda: x[:, ::-1],
        "colours, last": lambda: right[..., ::-1],
    }[kind]()
    assert feeding.Confusion.of(model(right), y, 6).accuracy > 0.95
    best = feeding.explanations(model, Split(np.ascontiguousarray(fed, np.float32), y), 6)[0]
    assert best.clear
    wanted = {"last for first": "channels-last, reshaped", "first for last": "channels-first, reshaped"}.get(kind, "BGR")
    assert wanted in best.cause
    space = {"numpy": np, "x": np.ascontiguousarray(fed, np.float32)}
    exec(best.fix, space)
    np.testing.assert_allclose(space["x"], right, rtol=1e-5, atol=1e-6)


def test_photographs_are_tried_with_imagenets_colours() -> None:
    causes = [change.cause for change in feeding.rescalings(np.random.default_rng(0).uniform(0, 255, (50, 3, 8, 8)))]
    assert any("ImageNet" in cause for cause in causes)
    assert all("0...255" in cause for cause in causes)


@pytest.mark.parametrize(
    ("labels", "accuracy", "said"),
    [
        (np.arange(20) % 7, 0.45, "20 examples are too few to tell whether that is more than chance"),
        (np.arange(500) % 7, 0.15, "it has learned next to nothing; try more --epochs"),
        (np.zeros(50, int), 1.0, "all labels of the test set are of one class, so nothing tells what was learned"),
    ],
)
def test_a_note_says_next_to_nothing_only_where_that_can_be_told(
    labels: np.ndarray, accuracy: float, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(origin, "is_one_class", lambda objective: True)
    goal: Any = SimpleNamespace(labelled=True, objective=None, data=SimpleNamespace(test=SimpleNamespace(y=labels)))
    note = origin.learned_nothing(goal, Metric("accuracy", "accuracy", accuracy), learned=False)
    assert note is not None
    assert said in note


def test_a_trained_network_that_training_spoiled_is_not_sent_to_train_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origin, "is_one_class", lambda objective: True)
    labels = SimpleNamespace(test=SimpleNamespace(y=np.arange(500) % 7))
    goal: Any = SimpleNamespace(labelled=True, objective=None, data=labels)
    after, came = (Metric("accuracy", "accuracy", value) for value in (0.15, 0.9))
    note = origin.learned_nothing(goal, after, learned=False, came=came)
    assert note is not None
    assert "it came trained, with 90.0%, and training lost that; try less of it" in note
    assert "more --epochs" not in note
