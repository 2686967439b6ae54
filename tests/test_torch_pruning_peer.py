"""Torch-Pruning in the accuracy benchmark: what it cuts is what the tool counts, and a run of it is a run like any other.

Skipped, but for one, where Torch-Pruning isn't installed: only the benchmark needs it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from conftest import difference, feed, random_selection, run
from torch import nn

from mcuprune import pruning, units
from mcuprune.channels.labelling import Channels, label
from mcuprune.costs import resources, widths
from mcuprune.costs.resources import Budget, CostModel
from mcuprune.data import loading as data
from mcuprune.graph import network
from mcuprune.operators import table as ops
from mcuprune.passes import batchnorm as folding
from mcuprune.passes.canonical import canonical
from mcuprune.train import loop, methods
from mcuprune.train.module import Trainable
from mcuprune.train.task import Candidate, Schedule, Step, Task
from mcuprune.train.trainer import Trainer, output_moments, trainer_for

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
import bench_accuracy as bench

torch.set_num_threads(1)


def small_residual() -> nn.Module:
    stem = [nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    blocks = [bench.Residual(8, 8, 1), bench.Residual(8, 16, 2)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))


def small_separable() -> nn.Module:
    layers: list[nn.Module] = [nn.ZeroPad2d((0, 1, 1, 1)), nn.Conv2d(3, 12, 3, 2, bias=False), nn.BatchNorm2d(12), nn.ReLU()]
    for _ in range(2):
        layers += [nn.Conv2d(12, 12, 3, 1, 1, groups=12, bias=False), nn.BatchNorm2d(12), nn.ReLU()]
        layers += [nn.Conv2d(12, 12, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4))


def patterns(folder: Path) -> dict[str, np.ndarray]:
    """Four classes of noisy images (3, 8, 8), each around a pattern of its own."""
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(4, 3, 8, 8)).astype(np.float32)
    arrays = {}
    for split, count in (("train", 256), ("val", 64), ("test", 64)):
        y = draw.integers(0, 4, count)
        arrays[f"x_{split}"] = centres[y] + draw.normal(size=(count, 3, 8, 8)).astype(np.float32)
        arrays[f"y_{split}"] = y.astype(np.int64)
    return arrays


NETWORKS = {
    "residual": bench.Task(small_residual, (3, 8, 8), 4, 4, 16, "noise0.1", patterns),
    "separable": bench.Task(small_separable, (3, 8, 8), 4, 4, 16, "noise0.1", patterns),
    **bench.TASKS,
}


@pytest.fixture
def peer() -> Iterator[ModuleType]:
    """The module under test; methods that a test adds to the tool's table, which others hold too, are gone after it."""
    pytest.importorskip("torch_pruning")
    import torch_pruning_peer

    own = dict(methods.METHODS)
    yield torch_pruning_peer
    methods.METHODS.clear()
    methods.METHODS.update(own)


def labelled(name: str, folder: Path, *, folded: bool = False) -> Channels:
    """A network as a method gets it, with random statistics, so that every channel matters.

    folded: as it is stored after a training, so that every BatchNormalization is a restored one.
    """
    bench.untrained(NETWORKS[name], 0, folder / "net.onnx")
    net, _ = canonical(network.load(str(folder / "net.onnx"), accept=ops.accept("net.onnx")))
    net = label(net).network  # equal constants, which the exporter merges, are apart from here on
    draw = np.random.default_rng(1)
    constants = {constant for node in net.nodes if node.op == "BatchNormalization" for constant in node.inputs[1:]}
    net = net.with_constants({c: draw.uniform(0.5, 1.5, net.shapes[c]).astype(np.float32) for c in sorted(constants)})
    channels = label(folding.folded(net) if folded else net)
    missing = folding.candidates(channels.network)
    x = draw.normal(size=(64, *NETWORKS[name].shape)).astype(np.float32)
    moments = output_moments(Trainable(channels), {node.outputs[0] for node in missing}, x)
    return label(folding.restored(channels.network, {node.name: moments[node.outputs[0]] for node in missing}))


def task_of(name: str, channels: Channels, budget: Budget, folder: Path) -> Task:
    np.savez(folder / "data.npz", **patterns(folder))
    splits = data.load(str(folder / "data.npz"), input_shape=NETWORKS[name].shape, n_classes=4, seed=0)
    return Task(channels, CostModel(channels), budget, splits, Schedule(2, 0, 16, 0.1), 0)


@pytest.fixture
def halved(tmp_path: Path) -> Task:
    """A short training of the small residual network towards half of everything."""
    channels = labelled("residual", tmp_path)
    model = CostModel(channels)
    return task_of("residual", channels, Budget({name: used // 2 for name, used in model.at(model.full).items()}), tmp_path)


@pytest.mark.parametrize("folded", [False, True], ids=["untrained", "folded"])
@pytest.mark.parametrize("name", NETWORKS)
def test_torch_pruning_takes_out_what_the_tool_would(name: str, folded: bool, peer: ModuleType, tmp_path: Path) -> None:
    channels = labelled(name, tmp_path, folded=folded)
    some = random_selection(channels, 0.3, seed=0)
    fewer = some & random_selection(channels, 0.5, seed=1)
    hands = peer.Peer(channels)
    hands.cut(channels.keep_all(), some)
    hands.cut(some, fewer)
    cut = channels.cut(fewer)
    for constant, value in hands.constants().items():
        np.testing.assert_array_equal(value, cut.constants[constant], constant)
    inputs = feed(cut.to_proto(), batch=2)
    assert difference([outputs(hands.module, *inputs.values())], run(cut, inputs)) < 1e-4


@torch.no_grad()
def outputs(module: nn.Module, x: np.ndarray) -> np.ndarray:
    found: torch.Tensor = module.eval()(torch.from_numpy(x))
    return found.numpy()


@pytest.mark.parametrize(
    "trained", [pytest.param(False, id="scratch"), pytest.param(True, id="trained", marks=pytest.mark.thorough)]
)
@pytest.mark.parametrize(
    ("name", "method"), [("residual", "tp-bn-mix"), ("residual", "tp-mag-local"), ("separable", "tp-mag-mix")]
)
def test_a_run_holds_its_budget_and_agrees_with_the_torch_network(
    name: str, method: str, trained: bool, peer: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = NETWORKS[name]
    bench.untrained(task, 0, tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", **task.arrays(tmp_path))
    hands: list[Any] = []
    candidates: list[Candidate] = []
    make = peer.Peer

    def watched_make(channels: Channels) -> Any:
        hands.append(make(channels))
        return hands[-1]

    monkeypatch.setattr(peer, "Peer", watched_make)
    bench.add_peers(trained=trained)
    inner = loop.prune

    def watched(*given: Any) -> Candidate:
        candidates.append(inner(*given))
        return candidates[-1]

    monkeypatch.setattr(loop, "prune", watched)
    wanted = {"macs": "45%", "flash": "45%", "sram": "75%"}
    request = pruning.Request(
        str(tmp_path / "net.onnx"),
        {resource: units.parse(text, resources.RESOURCES[resource].unit) for resource, text in wanted.items()},
        str(tmp_path / "out.onnx"),
        data=str(tmp_path / "data.npz"),
        method=method,
        epochs=task.epochs,
        batch=task.batch,
        augment=task.augment,
    )
    result = pruning.prune(request)
    (hand,), (candidate,) = hands, candidates
    small = candidate.channels.network

    assert result.ok
    assert result.accuracy_int8 is not None
    assert result.accuracy_int8 > 0.75
    convolutions = [node for node in small.nodes if node.op == "Conv"]
    assert [small.shapes[node.outputs[0]][1] for node in convolutions] == [
        module.out_channels for module in hand.module.modules() if isinstance(module, nn.Conv2d)
    ]
    removed = sum(len(indices) for _, _, indices in hand._graph.pruning_history())
    assert removed == sum(group.before - group.after for group in result.groups) > 0

    cuts = [step.step for step in result.history if step.phase == "prune"]
    assert (cuts[0] < cuts[-1] / 2) == trained  # from scratch, half of the way to the last cut is plain training
    hand.load(small.constants)
    x = task.arrays(tmp_path)["x_test"]
    assert difference([outputs(hand.module, x)], run(small, {small.inputs[0]: x})) < 1e-4


def test_importances_are_those_of_the_channels_that_are_left(peer: ModuleType, tmp_path: Path) -> None:
    channels = labelled("T2", tmp_path)
    keep = random_selection(channels, 0.5, seed=0)
    hands = peer.Peer(channels)
    hands.cut(channels.keep_all(), keep)
    scores = hands.scores(peer.IMPORTANCES["bn"](), keep)
    net, (*_, last) = channels.network, channels.groups  # its channels have one BatchNormalization, and importance is relative
    scale = np.abs(next(net.constants[node.inputs[1]] for node in reversed(net.nodes) if node.op == "BatchNormalization"))
    left = keep[list(last.components)]
    np.testing.assert_allclose(scores[list(last.components)][left], scale[left] / scale[left].mean(), rtol=1e-5)
    assert np.isinf(scores[~keep]).all()


def test_a_cut_keeps_what_was_learned(peer: ModuleType, halved: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    restore, cuts = Trainer.restore, 0

    def watched(trainer: Trainer, state: Mapping[str, np.ndarray], now: Channels) -> None:
        nonlocal cuts
        before = trainer.module.network().constants
        restore(trainer, state, now)
        for name, value in trainer.module.network().constants.items():
            assert np.isin(value, before[name]).all(), name
        cuts += 1

    monkeypatch.setattr(Trainer, "restore", watched)
    loop.prune(peer.methods(trained=False)["tp-mag-mix"].make, halved, lambda step: None)
    assert cuts


def test_local_ends_at_uniform_widths(peer: ModuleType, halved: Task) -> None:
    candidate = loop.prune(peer.methods(trained=False)["tp-bn-local"].make, halved, lambda step: None)
    assert halved.channels.widths(candidate.keep).tolist() == widths.uniform(halved.model, halved.budget).tolist()


def test_scales_are_pulled_to_zero_until_the_last_cut(peer: ModuleType, halved: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[Step] = []
    pulled: list[int] = []
    monkeypatch.setattr(peer, "_slim", lambda trainer: pulled.append(trainer.step))
    loop.prune(peer.methods(trained=False)["tp-bn-mix"].make, halved, lines.append)
    cuts = [line.step for line in lines if line.phase == "prune"]
    assert pulled == [0, *cuts[:-1]]


def test_where_sram_alone_is_over_only_channels_at_the_bottleneck_go(peer: ModuleType, tmp_path: Path) -> None:
    channels = labelled("T1", tmp_path)
    model = CostModel(channels)
    goal = Budget({"sram": model.at(model.full)["sram"] * 3 // 4, "flash": 10**6})
    task = Task(channels, model, goal, None, None, 0)  # type: ignore[arg-type]
    importance = np.random.default_rng(0).uniform(size=channels.n_components + 1)
    keep = peer.SCOPES["mix"](task, channels.keep_all(), importance, goal)
    found = channels.widths(keep)
    assert widths.holds(model, found, goal)
    np.testing.assert_array_equal(keep, channels.top(found, importance))  # of each group, the least important
    by_name = dict(zip([group.name for group in channels.groups], zip(found, model.full, strict=True), strict=True))
    assert {name for name, (now, before) in by_name.items() if now < before} <= {"/0/Conv", "/3/conv1/Conv"}


def test_the_sparsity_term_is_in_the_gradient_of_every_scale_and_of_nothing_else(peer: ModuleType, tmp_path: Path) -> None:
    channels = labelled("residual", tmp_path)
    task = task_of("residual", channels, Budget({}), tmp_path)
    plain, slim = trainer_for(task, channels), trainer_for(task, channels)
    peer._slim(slim)
    signs = {name: np.sign(parameter.detach().numpy()) for name, parameter in slim.module.named_weights()}
    plain.train_step()
    slim.train_step()
    scales = {node.inputs[1] for node in channels.network.nodes if node.op == "BatchNormalization"}
    for (name, one), (_, other) in zip(plain.module.named_weights(), slim.module.named_weights(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        term = 1e-4 * signs[name] if name in scales else 0
        np.testing.assert_allclose((other.grad - one.grad).numpy(), term, atol=2e-6, err_msg=name)


def test_without_torch_pruning_its_methods_are_refused_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    monkeypatch.delitem(sys.modules, "torch_pruning_peer", raising=False)
    monkeypatch.setattr(sys, "argv", ["bench_accuracy.py", "--methods", "uniform", "tp-bn-local"])
    with pytest.raises(SystemExit):
        bench.main()
    assert "torch_pruning: pip install 'mcuprune[bench]'" in capsys.readouterr().err
