"""The training loop: every example once an epoch, one schedule, and a cut in the middle that changes nothing."""

from __future__ import annotations

import functools
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import random_selection
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper
from test_trainable import channels_of, drawn, graph

from mcuprune.channels.labelling import Channels, label
from mcuprune.channels.salience import salience
from mcuprune.costs import widths
from mcuprune.costs.resources import Budget, CostModel, profile
from mcuprune.data import loading as data
from mcuprune.data.sets import Data, Split
from mcuprune.errors import UnsupportedOperator
from mcuprune.graph import network
from mcuprune.passes import batchnorm as folding
from mcuprune.train import batches, loop
from mcuprune.train.fake_quant import QuantTrainable
from mcuprune.train.methods import METHODS
from mcuprune.train.module import Trainable
from mcuprune.train.optimizers import OPTIMIZERS
from mcuprune.train.rehearsal import rehearse
from mcuprune.train.task import History, Schedule, Task
from mcuprune.train.trainer import Trainer, answers_of, cosine, output_moments

torch.set_num_threads(1)

MODELS = sorted((Path(__file__).parents[1] / "models").glob("*.onnx"))


@functools.cache
def normal(path: Path) -> Channels:
    """A model of ours as it goes into training: BatchNormalization behind every convolution."""
    net = folding.folded(network.load(path))
    nodes = folding.candidates(net)
    x = digits().train.x[:128]
    moments = output_moments(Trainable(label(net)), {node.outputs[0] for node in nodes}, x)
    return label(folding.restored(net, {node.name: moments[node.outputs[0]] for node in nodes}))


@functools.cache
def digits() -> Data:
    return data.load("digits", input_shape=(1, 16, 16), n_classes=10, seed=0)


def trainer(channels: Channels, *, seed: int = 0, total: int = 20, examples: int = 128, **more: object) -> Trainer:
    train = digits().train
    few = Split(train.x[:examples], train.y[:examples])
    settings = {"batch": 32, "lr": 0.05, "weight_decay": 5e-4, **more}
    return Trainer(channels, few, total=total, seed=seed, **settings)  # type: ignore[arg-type]


def small() -> Channels:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["a"], strides=[4, 4]),
        helper.make_node("PRelu", ["a", "slope"], ["c"]),
        helper.make_node("Mul", ["c", "factor"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "v", "u"], ["y"]),
    ]
    constants = {"w": drawn(4, 1, 4, 4), "b": drawn(4), "slope": drawn(4, 1, 1), "factor": drawn(1, 4, 1, 1)}
    return channels_of(graph(nodes, {**constants, "v": drawn(64, 10), "u": drawn(1, 10)}, (1, 16, 16)))


def weights_of(one: Trainer) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy().copy() for name, value in one.module.named_weights()}


# ------------------------------------------------------------------------------------------------------------- schedule


@given(st.integers(1, 500), st.floats(0, 0.5), st.floats(1e-4, 10))
def test_the_learning_rate_rises_once_and_falls_to_almost_nothing(total: int, warm_up: float, peak: float) -> None:
    rates = [cosine(step, total, peak=peak, warm_up=warm_up) for step in range(total)]
    top = int(np.argmax(rates))
    assert max(rates) == pytest.approx(peak)
    assert all(rate > 0 for rate in rates)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert top <= max(1, warm_up * total)
    if total >= 100:
        assert rates[-1] < 0.01 * peak


def test_the_optimiser_follows_the_schedule() -> None:
    one = trainer(small(), total=10)
    for step in range(4):
        one.train_step()
        assert {group["lr"] for group in one._optimizer.param_groups} == {cosine(step, 10, peak=0.05)}


# ------------------------------------------------------------------------------------------------------ examples, seeds


def test_every_example_is_seen_once_an_epoch_in_an_order_of_its_own() -> None:
    seen: list[np.ndarray] = []

    def remember(x: np.ndarray, random: np.random.Generator) -> np.ndarray:
        seen.append(x[:, 0, 0, 0].copy())
        return x

    marked = Split(np.zeros((96, 1, 16, 16), np.float32), np.arange(96) % 10)
    marked.x[:, 0, 0, 0] = np.arange(96)
    one = Trainer(small(), marked, total=9, batch=32, lr=0.01, weight_decay=0.0, seed=0, augment=remember)
    for _ in range(9):
        one.train_step()
    epochs = [np.concatenate(seen[i : i + 3]) for i in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(96)) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])
    assert one.epoch == 3.0


def test_a_short_last_batch_is_dropped_and_a_small_set_is_one_batch() -> None:
    assert trainer(small(), examples=100).steps_per_epoch == 3
    few = trainer(small(), examples=20)
    assert (few.batch, few.steps_per_epoch) == (20, 1)


@pytest.mark.parametrize("make", [Trainable, QuantTrainable])
def test_the_same_seed_gives_the_same_weights(make: type[Trainable]) -> None:
    runs = []
    for seed in (3, 3, 4):
        one = trainer(normal(MODELS[-1]), seed=seed, make=make)
        for _ in range(3):
            one.train_step()
        runs.append(weights_of(one))
    assert all(np.array_equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert not all(np.array_equal(runs[0][name], runs[2][name]) for name in runs[0])


def test_training_learns() -> None:
    one = trainer(small(), total=60, examples=512, weight_decay=0.0)
    before = one.accuracy(digits().val)
    for _ in range(60):
        one.train_step()
    assert one.accuracy(digits().val) > before + 0.3


def test_accuracy_is_that_of_the_network_as_it_stands() -> None:
    one = trainer(label(network.load(MODELS[0])))
    one.module.eval()
    right = one.logits(digits().val.x).argmax(1).numpy() == digits().val.y
    assert one.accuracy(digits().val) == pytest.approx(right.mean())
    assert right.mean() > 0.9


# ---------------------------------------------------------------------------------------------------------- book-keeping


def test_multiply_accumulates_are_those_of_the_examples_at_the_width_of_the_moment() -> None:
    channels = normal(MODELS[0])
    one = trainer(channels)
    one.train_step()
    full = profile(channels.network).total["macs"]
    assert one.training_macs == 32 * full
    keep = random_selection(channels, 0.5, 0)
    one.shrink(keep)
    one.train_step()
    assert one.training_macs == 32 * (full + profile(channels.cut(keep)).total["macs"])


def test_weight_decay_spares_all_but_matrices() -> None:
    """Slopes and factors of channels have the shape (channel, 1, 1), and are no more to be decayed than a bias."""
    one = trainer(small(), weight_decay=0.5)
    by_group = [{id(p) for p in group["params"]} for group in one._optimizer.param_groups]
    decays = [group["weight_decay"] for group in one._optimizer.param_groups]
    found = {name: decays[[id(p) in ids for ids in by_group].index(True)] for name, p in one.module.named_weights()}
    assert found == {"w": 0.5, "v": 0.5, "b": 0.0, "slope": 0.0, "factor": 0.0, "u": 0.0}


def test_the_loss_is_taken_of_logits_where_the_network_ends_in_softmax() -> None:
    nodes = [
        helper.make_node("Flatten", ["x"], ["a"]),
        helper.make_node("Gemm", ["a", "w"], ["b"]),
        helper.make_node("Softmax", ["b"], ["y"]),
    ]
    one = trainer(channels_of(graph(nodes, {"w": drawn(256, 10)}, (1, 16, 16))))
    x = digits().val.x[:8]
    np.testing.assert_allclose(one.logits(x).detach().numpy(), x.reshape(8, -1) @ drawn(256, 10), rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------------------------------------- shrinking


def gated_and_cut(path: Path, seed: int, optimizer: str = "sgd") -> tuple[Trainer, Trainer, np.ndarray]:
    """Two trainers after the same three steps: one goes on gated, the other cut."""
    channels = normal(path)
    keep = random_selection(channels, 0.5, seed)
    pair = [trainer(channels, optimizer=optimizer, lr=0.01) for _ in range(2)]
    for one in pair:
        one.train_step()
        one.train_step()
        one.module.gates = torch.from_numpy(keep.astype(np.float32))
        one.train_step()
    pair[1].shrink(keep)
    return pair[0], pair[1], keep


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_a_cut_in_training_changes_no_output(path: Path) -> None:
    gated, cut, _ = gated_and_cut(path, 0)
    gated.module.eval()
    cut.module.eval()
    x = digits().val.x[:64]
    one, other = (t.logits(x).detach().numpy() for t in (gated, cut))
    assert np.abs(one - other).max() <= 1e-5 * np.abs(one).max()


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_the_step_after_a_cut_is_the_step_of_the_gated_network(path: Path) -> None:
    """Momentum, decay, clipping and BatchNormalization's running statistics included.

    By SGD: Muon's steps mix channels, and AdamW's make much of gradients that are rounding errors.
    """
    gated, cut, keep = gated_and_cut(path, 1)
    for one in (gated, cut):
        one.train_step()
    wide = gated.module.network().constants
    for name, value in cut.module.network().constants.items():
        expected = gated.module.channels.cut_constant(name, wide[name], keep)
        np.testing.assert_allclose(
            value, expected, rtol=2e-4, atol=2e-5 * max(1e-3, float(np.abs(expected).max())), err_msg=name
        )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_cut_leaves_the_optimizers_memory_of_what_stays(optimizer: str) -> None:
    gated, cut, keep = gated_and_cut(MODELS[0], 1, optimizer)
    kinds = {"moment/" + kind for kind in ("momentum_buffer", "exp_avg", "exp_avg_sq", "step")}
    before, after = ({k: v for k, v in one.state().items() if k.startswith("moment/")} for one in (gated, cut))
    assert set(before) == set(after)
    assert before
    for entry, value in after.items():
        kind = next(kind for kind in kinds if entry.startswith(f"{kind}/"))
        expected = before[entry]
        if expected.ndim:
            expected = gated.module.channels.cut_constant(entry.removeprefix(f"{kind}/"), expected, keep)
        np.testing.assert_array_equal(value, expected, err_msg=entry)


def test_a_cut_keeps_the_place_in_the_schedule_and_in_the_epoch() -> None:
    gated, cut, _ = gated_and_cut(MODELS[0], 2)
    assert (cut.step, cut.epoch, cut.length, cut.position) == (gated.step, gated.epoch, gated.length, gated.position)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_run_taken_up_at_an_epochs_start_is_the_run_that_went_on(optimizer: str) -> None:
    channels = normal(MODELS[-1])
    through, stopped, taken_up = (trainer(channels, optimizer=optimizer) for _ in range(3))
    for one in (through, stopped):
        for _ in range(one.steps_per_epoch):
            one.train_step()
    taken_up.restore(stopped.state(), channels)
    for one in (through, taken_up):
        one.train_step()
    assert taken_up.training_macs == through.training_macs
    one, other = weights_of(through), weights_of(taken_up)
    assert all(np.array_equal(one[name], other[name]) for name in one)


# --------------------------------------------------------------------------------------------------------------- uniform


def test_the_baseline_cuts_uniformly_by_salience_and_trains_what_is_left() -> None:
    channels = normal(MODELS[-1])
    model = CostModel(channels)
    budget = Budget({"macs": model.at(model.full)["macs"] // 4})
    few = Data("few", Split(digits().train.x[:128], digits().train.y[:128]), digits().val, digits().test, 10)
    task = Task(channels, model, budget, few, Schedule(epochs=2, quant_epochs=0, batch=32, lr=0.01), seed=0)
    history = History()
    candidate = loop.prune(METHODS["uniform"].make, task, history)
    chosen = widths.uniform(model, budget)
    assert np.array_equal(candidate.keep, channels.top(chosen.tolist(), salience(channels)))
    assert budget.check(profile(candidate.channels.network).total).ok
    assert candidate.training_macs == 8 * 32 * model.at(chosen)["macs"]
    assert candidate.full_training_macs == 8 * 32 * model.at(model.full)["macs"]
    assert [step.epoch for step in history.steps] == [1.0, 2.0]
    before = channels.cut(candidate.keep).constants
    after = candidate.channels.network.constants
    assert all(not np.array_equal(before[name], after[name]) for name in before if before[name].ndim > 1)


def test_a_teachers_answers_are_learned_beside_the_labels() -> None:
    """With a temperature of 2, half the cross-entropy and half of 4 times the divergence from the softened answers."""
    channels = small()
    teacher = np.random.default_rng(0).standard_normal((128, 10)).astype(np.float32)
    alone, taught = trainer(channels), trainer(channels, answers=teacher)
    chosen = taught._next_batch().chosen
    x, y = digits().train.x[chosen], digits().train.y[chosen]
    logits = taught.logits(x).detach().double().numpy()

    def log_softmax(z: np.ndarray) -> np.ndarray:
        return np.asarray(z - np.log(np.exp(z).sum(1, keepdims=True)))

    soft = log_softmax(teacher[chosen].astype(np.float64) / 2)
    apart = (np.exp(soft) * (soft - log_softmax(logits / 2))).sum(1).mean() * 4
    assert taught.train_step() == pytest.approx(0.5 * -log_softmax(logits)[range(32), y].mean() + 0.5 * apart, rel=1e-4)
    assert alone.train_step() == pytest.approx(-log_softmax(logits)[range(32), y].mean(), rel=1e-4)


def right_on(share: float) -> np.ndarray:
    """Answers to the first 128 examples, so many of them right."""
    answers = np.zeros((128, 10), np.float32)
    answers[range(128), (digits().train.y[:128] + (np.arange(128) >= share * 128)) % 10] = 5.0
    return answers


def test_a_teacher_that_knows_less_than_its_pupil_is_let_go() -> None:
    kept, gone = (trainer(normal(MODELS[0]), answers=right_on(share), total=12) for share in (1.0, 0.25))
    for one in (kept, gone):
        for _ in range(8):
            one.train_step()
    assert kept.taught
    assert kept.notes == ()
    assert not gone.taught
    (note,) = gone.notes
    assert "right on 25.0% of the training examples" in note
    chosen = gone._next_batch().chosen
    logits, y = gone.logits(digits().train.x[chosen]), torch.from_numpy(digits().train.y[chosen])
    assert torch.equal(gone._loss([logits], [y]), torch.nn.functional.cross_entropy(logits, y))


def test_a_teacher_that_was_let_go_stays_away_when_a_run_is_taken_up() -> None:
    channels = normal(MODELS[0])
    one, other = (trainer(channels, answers=right_on(0.25), total=12) for _ in range(2))
    for _ in range(8):
        one.train_step()
    other.restore(one.state(), channels)
    assert not other.taught
    assert other.notes == one.notes


def test_answers_are_the_logits_of_the_network_in_onnxruntime() -> None:
    net = network.load(MODELS[0])
    session = onnxruntime.InferenceSession(net.to_proto().SerializeToString())
    x = digits().train.x[:300]
    expected = np.concatenate([session.run(None, {net.inputs[0]: x[i : i + 1]})[0] for i in range(300)])
    np.testing.assert_allclose(answers_of(label(net), x), expected, rtol=1e-3, atol=1e-3)


def test_lower_precision_trains_the_same_network_in_float32_weights() -> None:
    channels = normal(MODELS[0])
    trainers = [trainer(channels, precision=precision) for precision in ("float32", "bfloat16")]
    whole, half = ([each.train_step() for _ in range(6)] for each in trainers)
    assert whole != half
    np.testing.assert_allclose(half, whole, rtol=0.1)
    assert all(weight.dtype == weight.grad.dtype == torch.float32 for _, weight in trainers[1].module.named_weights())


def test_a_network_that_lower_precision_cannot_compute_is_refused_before_the_work() -> None:
    """Whatever torch raises is a message."""
    channels = normal(MODELS[0])
    rehearse(channels, int8=True, train=True, precision="bfloat16")
    with pytest.raises(UnsupportedOperator, match="can't compute the network in no_such_type"):
        rehearse(channels, int8=True, train=True, precision="no_such_type")


def test_the_share_of_waiting_is_unknown_before_there_are_two_batches() -> None:
    waiting = batches.Waiting()
    assert waiting.share is None
    waiting.fetch(lambda: time.sleep(0.01))
    assert waiting.share is None
    waiting.fetch(lambda: None)
    assert waiting.share is not None
