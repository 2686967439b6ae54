"""Mixed examples: what is fed, what it is held against, and that the same happens on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tasks_data
import torch
from torch.nn import functional

from mcuprune.channels.labelling import label
from mcuprune.data.augmenting import KINDS, augmentation, mixed, mixup
from mcuprune.data.sets import Split
from mcuprune.errors import UsageError
from mcuprune.graph.network import Network
from mcuprune.options import AUTO
from mcuprune.pruning import Request, prune
from mcuprune.train import ranks
from mcuprune.train.batches import Batches
from mcuprune.train.tasks.choice import chosen
from mcuprune.train.tasks.heads import heads
from mcuprune.train.tasks.objective import Objective
from mcuprune.train.trainer import Trainer
from mcuprune.units import parse

torch.set_num_threads(1)
ALPHA = 0.8


def objective_of(net: Network, targets: np.ndarray) -> tuple[Objective, np.ndarray]:
    every = {part: [targets] for part in ("train", "val", "test")}
    objective, taken = chosen(net, heads(net), AUTO, "arrays", every, None)
    return objective, taken["train"][0]


def trainers(net: Network, x: np.ndarray, y: np.ndarray, count: int = 2, **wishes: Any) -> list[Trainer]:
    objective, targets = objective_of(net, y)
    how: dict[str, Any] = {"total": 8, "batch": 16, "lr": 0.01, "weight_decay": 0.0, "seed": 5, "mixup": ALPHA}
    return [Trainer(label(net), Split(x, targets), **{**how, **wishes, "objective": objective}) for _ in range(count)]


def one_of_several() -> tuple[Network, np.ndarray, np.ndarray]:
    return tasks_data.vector_net(4), tasks_data.rows(64), np.arange(64) % 4


def softmax_of_several() -> tuple[Network, np.ndarray, np.ndarray]:
    return tasks_data.vector_net(4, "Softmax"), tasks_data.rows(64), np.arange(64) % 4


def yes_or_no() -> tuple[Network, np.ndarray, np.ndarray]:
    return tasks_data.vector_net(1, "Sigmoid"), *tasks_data.yes_or_no(64)


def several_labels() -> tuple[Network, np.ndarray, np.ndarray]:
    return tasks_data.vector_net(4), *tasks_data.several_labels(64)


def by_soft_labels(logits: torch.Tensor, one: torch.Tensor, other: torch.Tensor, share: float) -> torch.Tensor:
    """What torch itself makes of labels that are shares of classes."""
    if logits.shape[1] == 1 or one.ndim > 1:
        soft = share * one.reshape(logits.shape).float() + (1 - share) * other.reshape(logits.shape).float()
        return functional.binary_cross_entropy_with_logits(logits, soft)
    hot = [functional.one_hot(each, logits.shape[1]).float() for each in (one, other)]
    return functional.cross_entropy(logits, share * hot[0] + (1 - share) * hot[1])


@pytest.mark.parametrize("case", [one_of_several, softmax_of_several, yes_or_no, several_labels])
def test_the_loss_of_a_mixed_batch_is_that_of_torch_for_soft_labels(
    case: Callable[[], tuple[Network, np.ndarray, np.ndarray]],
) -> None:
    net, x, y = case()
    one, other = trainers(net, x, y)
    made = one._next_batch()
    assert made.partners is not None
    assert 0 < made.share < 1
    assert made.inputs[0] == pytest.approx(made.share * x[made.chosen] + (1 - made.share) * x[made.partners], abs=1e-6)
    targets = torch.from_numpy(y)
    with torch.no_grad():
        logits = other.answers(made.inputs)[0].reshape(16, -1)
    wanted = by_soft_labels(logits, targets[made.chosen], targets[made.partners], made.share)
    assert other.train_step() == pytest.approx(float(wanted), rel=1e-5)


def test_what_a_teacher_remembers_is_mixed_by_the_same_share() -> None:
    net, x, y = one_of_several()
    answers = np.random.default_rng(1).standard_normal((64, 4)).astype(np.float32)
    one, other = trainers(net, x, y, answers=answers, label_smoothing=0.1)
    made = one._next_batch()
    with torch.no_grad():
        logits = other.answers(made.inputs)
        halves = [
            float(other._loss(logits, [torch.from_numpy(y[i])], [torch.from_numpy(answers[i])]))
            for i in (made.chosen, made.partners)
        ]
    assert abs(halves[0] - halves[1]) > 1e-3
    assert other.train_step() == pytest.approx(made.share * halves[0] + (1 - made.share) * halves[1], rel=1e-5)


def test_shares_are_of_the_beta_distribution_and_partners_are_the_batch() -> None:
    """Mean 1/2, variance 1 / (4 (2 alpha + 1))."""
    x, random, shares = np.arange(6, dtype=np.float32)[:, None], np.random.default_rng(0), []
    for _ in range(4000):
        _, partners, share = mixed(x, ALPHA, random)
        assert sorted(partners) == list(range(6))
        shares.append(share)
    assert np.mean(shares) == pytest.approx(0.5, abs=0.02)
    assert np.var(shares) == pytest.approx(1 / (4 * (2 * ALPHA + 1)), rel=0.05)


def test_ranks_mix_as_one_process_does(monkeypatch: pytest.MonkeyPatch) -> None:
    x = tasks_data.rows(40)

    def first(part: Callable[[int], slice]) -> Any:
        monkeypatch.setattr(ranks, "part", part)
        batches = Batches(Split(x), augmentation("noise0.1"), ALPHA)
        batches.start(np.random.default_rng(2).permutation(40), 0, 10, np.random.default_rng(3))
        return batches.next()

    whole = first(lambda n: slice(0, n))
    parts = [first(lambda n, r=r: slice(n * r // 2, n * (r + 1) // 2)) for r in range(2)]  # type: ignore[misc]
    for name in ("chosen", "partners"):
        assert np.concatenate([getattr(part, name) for part in parts]).tolist() == getattr(whole, name).tolist()
    assert np.array_equal(np.concatenate([part.inputs[0] for part in parts]), whole.inputs[0])
    assert [part.share for part in parts] == [whole.share] * 2


def test_without_it_nothing_is_mixed() -> None:
    net, x, y = one_of_several()
    (one,) = trainers(net, x, y, 1, mixup=0.0)
    made = one._next_batch()
    assert made.partners is None
    assert np.array_equal(made.inputs[0], x[made.chosen])


def test_a_prune_mixes_where_it_is_asked_for_and_says_so(tmp_path: Any) -> None:
    arrays = tasks_data.split(tasks_data.yes_or_no, 96, 64)
    request = Request("n.onnx", {"macs": parse("80%", "count")}, str(tmp_path / "o.onnx"), epochs=2, augment="mixup0.2")
    result = prune(request, net=tasks_data.vector_net(1, "Sigmoid"), data_set=arrays)
    assert result.training is not None
    assert result.training.augment == "mixup0.2"


def test_without_labels_there_is_nothing_to_mix(tmp_path: Any) -> None:
    arrays = {name: x for name, x in tasks_data.split(tasks_data.yes_or_no, 96, 64).items() if name.startswith("x")}
    request = Request("n.onnx", {"macs": parse("80%", "count")}, str(tmp_path / "o.onnx"), epochs=2, augment="mixup0.2")
    with pytest.raises(UsageError, match="mixes labels, and here the network teaches itself"):
        prune(request, net=tasks_data.vector_net(1, "Sigmoid"), data_set=arrays)


def test_its_strength_is_read_off_the_option() -> None:
    assert (mixup("flip,mixup0.2"), mixup("flip"), mixup("auto"), mixup("none")) == (0.2, 0.0, 0.0, 0.0)
    assert "Beta" in KINDS["mixup"].what
    for wrong in ("mixup", "mixup0", "mixup101"):
        with pytest.raises(UsageError, match="--augment"):
            mixup(wrong)
    x = tasks_data.rows(4)
    assert np.array_equal(augmentation("mixup0.2")(x, np.random.default_rng(0)), x)
