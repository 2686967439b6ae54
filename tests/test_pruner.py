"""Pruning inside somebody's own training loop: budgets, exactness, what the loss tells, and going on later."""

from __future__ import annotations

import doctest
import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import small_nets
import torch
from conftest import run
from onnx import helper
from test_pruning import MODELS
from test_training import digits, normal, trainer
from torch.nn import functional

import mcuprune.pruner
from mcuprune.channels.labelling import label
from mcuprune.channels.salience import salience
from mcuprune.costs import resources
from mcuprune.costs.resources import Budget
from mcuprune.errors import BudgetError, DataError, McupruneError, UsageError
from mcuprune.graph import network
from mcuprune.graph.network import Network
from mcuprune.operators import table as ops
from mcuprune.pruner import Pruner
from mcuprune.train.methods.differentiable import task_gradient

torch.set_num_threads(1)


def load(name: str) -> Network:
    return network.load(MODELS / f"{name}.onnx", accept=ops.accept(name))


def share(net: Network, **wanted: float) -> dict[str, int]:
    """Limits: shares of what a network costs."""
    total = resources.profile(net).total
    return {name: int(part * total[name]) for name, part in wanted.items()}


def train(pruner: Pruner, steps: int, *, lr: float = 0.05, seed: int = 0, scale: float = 1.0) -> list[dict[str, int]]:
    """A loop as anyone writes it, on digits; the widths after every step."""
    optimizer = torch.optim.SGD(pruner.module.parameters(), lr=lr, momentum=0.9)
    random, data, widths = np.random.default_rng(seed), digits().train, []
    pruner.module.train()
    for _ in range(steps):
        chosen = random.choice(len(data.y), 64, replace=False)
        x, y = torch.from_numpy(data.x[chosen]), torch.from_numpy(data.y[chosen])
        loss = functional.cross_entropy(pruner.module(x)[0], y)
        (scale * loss).backward()
        for parameter in pruner.module.parameters():
            if parameter.grad is not None:
                parameter.grad /= scale
        optimizer.step()
        optimizer.zero_grad()
        pruner.step()
        widths.append(pruner.widths)
    return widths


def outputs(pruner: Pruner, *inputs: np.ndarray) -> list[np.ndarray]:
    """Of the masked module, in evaluation mode."""
    pruner.module.eval()
    with torch.no_grad():
        return [value.numpy() for value in pruner.module(*map(torch.from_numpy, inputs))]


# -------------------------------------------------------------------------------------------------------- the whole road


@pytest.mark.parametrize(
    "name", [pytest.param("dscnn_digits", marks=pytest.mark.thorough), pytest.param("resnet8_digits", marks=pytest.mark.slow)]
)
def test_a_loop_of_ones_own_ends_with_a_small_network_that_knows_its_task(name: str, tmp_path: Path) -> None:
    net = load(name)
    budget = share(net, sram=0.5, flash=0.25, macs=0.25)
    pruner = Pruner(net, budget, steps=100, examples=digits().train.x[:256])
    before = [(id(parameter), parameter.shape) for parameter in pruner.module.parameters()]
    widths = train(pruner, 100)
    assert [(id(parameter), parameter.shape) for parameter in pruner.module.parameters()] == before
    assert pruner.progress == 1.0
    assert widths[0] != widths[-1] == widths[35] == pruner.widths

    small = pruner.finish()
    small.save(tmp_path / "small.onnx")
    written = network.load(tmp_path / "small.onnx", accept=ops.accept("small"))
    cost = resources.profile(written)
    assert Budget(budget).check(cost.total).ok
    assert {name: cost.total[name] for name in pruner.costs} == pruner.costs
    assert {group.name: len(group) for group in label(written).groups} == pruner.widths
    assert small.outputs == net.outputs
    test = digits().test
    (logits,) = run(onnx.load(tmp_path / "small.onnx"), {"image": test.x})
    (masked,) = outputs(pruner, test.x)
    np.testing.assert_allclose(logits, masked, rtol=1e-5, atol=1e-5 * float(np.abs(masked).max()))
    assert float((logits.argmax(1) == test.y).mean()) > 0.9
    assert not pruner.notes


@pytest.mark.parametrize(
    ("name", "seed"),
    [
        # one, two or three limits, whole multiples or not
        *(("dscnn_digits", 0), ("dscnn_digits", 1), ("resnet8_digits", 2), ("resnet8_digits", 3), ("mbv2se_digits", 1)),
        *(pytest.param("mbv2se_digits", seed, marks=pytest.mark.slow) for seed in (0, 2, 3)),
        *(pytest.param("dscnn_digits", seed, marks=pytest.mark.slow) for seed in (2, 3)),
        *(pytest.param("resnet8_digits", seed, marks=pytest.mark.slow) for seed in (0, 1)),
    ],
)
def test_a_budget_holds_whenever_a_loop_stops(name: str, seed: int) -> None:
    net, draw = load(name), np.random.default_rng(seed)
    wanted = {
        resource: float(draw.uniform(0.3, 0.9)) for resource in draw.permutation(["sram", "flash", "macs"])[: 1 + seed % 3]
    }
    budget = share(net, **wanted)
    pruner = Pruner(net, budget, steps=100, seed=seed, multiple_of=1 + seed % 2)
    train(pruner, 4 * seed)  # the way to the budget has 30
    small = pruner.finish()
    assert Budget(budget).check(resources.profile(small).total).ok
    assert Budget(budget).check(pruner.costs).ok
    assert any("was cut at once" in note for note in pruner.notes)
    x = digits().val.x[:16]
    (masked,) = outputs(pruner, x)
    np.testing.assert_allclose(run(small, {"image": x})[0], masked, rtol=1e-4, atol=1e-4 * float(np.abs(masked).max()))


def test_after_an_early_finish_training_goes_on_at_the_final_widths() -> None:
    net = load("dscnn_digits")
    pruner = Pruner(net, share(net, macs=0.4), steps=100)
    pruner.finish()
    widths = pruner.widths
    assert train(pruner, 40)[-1] == widths
    assert resources.profile(pruner.finish()).total["macs"] == pruner.costs["macs"]


def test_a_network_that_fits_is_trained_as_it_is() -> None:
    net = load("dscnn_digits")
    pruner = Pruner(net, share(net, macs=1.0), steps=10)
    assert (pruner.progress, pruner.step()) == (1.0, False)
    assert {group.name: len(group) for group in label(net).groups} == pruner.widths
    assert ["nothing has to be cut" in note for note in pruner.notes] == [True]
    x = digits().val.x[:8]
    np.testing.assert_allclose(run(pruner.finish(), {"image": x})[0], run(net, {"image": x})[0], rtol=1e-4, atol=1e-4)


def test_the_example_of_the_docstring_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(MODELS.parent)
    result = doctest.testmod(mcuprune.pruner)
    assert result.attempted > 5
    assert result.failed == 0


# ---------------------------------------------------------------------------------------------- several inputs, outputs


def two_and_two() -> Network:
    """Image and vector to a mask of the image's size, and a number that no channel of the mask's branch takes part in."""
    draw = np.random.default_rng(0)
    shapes = {"w": (16, 3, 3, 3), "v": (8, 16, 3, 3), "m": (1, 8, 1, 1), "a": (6, 24), "b": (24, 8), "c": (8, 1)}
    weights = {
        name: (draw.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32) for name, shape in shapes.items()
    }
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["h"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "v"], ["k"], "second", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["k"], ["q"], "relu2"),
        helper.make_node("Conv", ["q", "m"], ["mask"], "mask"),
        helper.make_node("MatMul", ["vector", "a"], ["d"], "third"),
        helper.make_node("Relu", ["d"], ["e"], "relu3"),
        helper.make_node("MatMul", ["e", "b"], ["f"], "fourth"),
        helper.make_node("Relu", ["f"], ["g"], "relu4"),
        helper.make_node("MatMul", ["g", "c"], ["number"], "fifth"),
    ]
    floats = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "net",
        [
            helper.make_tensor_value_info("image", floats, ["n", 3, 8, 8]),
            helper.make_tensor_value_info("vector", floats, ["n", 6]),
        ],
        [
            helper.make_tensor_value_info("mask", floats, ["n", 1, 8, 8]),
            helper.make_tensor_value_info("number", floats, ["n", 1]),
        ],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return network.from_proto(model, "two.onnx")


@pytest.mark.parametrize("restored", [True, False])
def test_any_loss_of_any_outputs_leads_the_widths(restored: bool) -> None:
    net, draw = two_and_two(), np.random.default_rng(0)
    images, vectors = draw.standard_normal((64, 3, 8, 8)).astype(np.float32), draw.standard_normal((64, 6)).astype(np.float32)
    budget = share(net, flash=0.5)
    pruner = Pruner(net, budget, steps=60, examples=(images, vectors) if restored else None)
    optimizer = torch.optim.Adam(pruner.module.parameters(), lr=0.01)
    for _ in range(60):
        mask, number = pruner.module(torch.from_numpy(images), torch.from_numpy(vectors))
        (functional.mse_loss(mask, torch.from_numpy(images[:, :1])) + (number**2).mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
        pruner.step()
    small = pruner.finish()
    assert Budget(budget).check(resources.profile(small).total).ok
    for found, masked in zip(run(small, {"image": images, "vector": vectors}), outputs(pruner, images, vectors), strict=True):
        np.testing.assert_allclose(found, masked, rtol=1e-4, atol=1e-5)


def test_an_output_that_the_loss_leaves_out_says_nothing_of_its_channels() -> None:
    """Here every channel of an output's branch makes the loss less: those of the output in the loss stay, others make room."""
    net, draw = two_and_two(), np.random.default_rng(0)
    images, vectors = (torch.from_numpy(draw.standard_normal(shape).astype(np.float32)) for shape in ((32, 3, 8, 8), (32, 6)))
    widths = []
    for first, second in ((1.0, 0.0), (0.0, 1.0)):
        pruner = Pruner(net, share(net, flash=0.5), steps=60)
        for _ in range(20):
            mask, number = pruner.module(images, vectors)
            (-first * (mask**2).mean() - second * (number**2).mean()).backward()
            pruner.step()
        widths.append(pruner.widths)
    assert widths[0]["first"] + widths[0]["second"] > widths[1]["first"] + widths[1]["second"]
    assert widths[0]["third"] + widths[0]["fourth"] < widths[1]["third"] + widths[1]["fourth"]


# ---------------------------------------------------------------------------------------------------------- the gradient


def test_what_the_backward_pass_tells_is_the_task_gradient_of_equation_9() -> None:
    """The gradient that ``methods.differentiable`` takes of the loss itself, which has its own tests."""
    channels = normal(MODELS / "resnet8_digits.onnx")
    pruner = Pruner(channels.network, share(channels.network, macs=0.5), steps=10)
    x, y = digits().val.x[:64], digits().val.y[:64]
    scores, keep = salience(pruner.module.channels), pruner.module.channels.keep_all()
    functional.cross_entropy(pruner.module(torch.from_numpy(x))[0], torch.from_numpy(y)).backward()
    found = pruner._measured(scores)
    expected = task_gradient(trainer(pruner.module.channels), keep, scores, x, y)
    assert found is not None
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-3 * float(np.abs(expected).max()))
    assert pruner.module.training
    assert pruner._measured(scores) is None


def test_measuring_changes_neither_weights_nor_gradients_nor_statistics() -> None:
    net = load("resnet8_digits")
    pruner = Pruner(net, share(net, macs=0.5), steps=10, examples=digits().train.x[:64])
    x, y = (torch.from_numpy(array[:32]) for array in (digits().val.x, digits().val.y))
    functional.cross_entropy(pruner.module(x)[0], y).backward()
    state = {name: value.clone() for name, value in pruner.module.state_dict().items()}
    gradients = [parameter.grad.clone() for parameter in pruner.module.parameters() if parameter.grad is not None]
    assert pruner._measured(salience(pruner.module.channels)) is not None
    assert all(torch.equal(value, state[name]) for name, value in pruner.module.state_dict().items())
    after = [parameter.grad for parameter in pruner.module.parameters() if parameter.grad is not None]
    assert gradients
    assert all(torch.equal(one, other) for one, other in zip(gradients, after, strict=True))


def test_the_size_of_the_loss_changes_no_width() -> None:
    net = load("dscnn_digits")
    runs = [train(Pruner(net, share(net, macs=0.4), steps=60, start=0.0), 20, scale=scale, lr=0.0) for scale in (1.0, 1024.0)]
    assert runs[0] == runs[1]


def test_without_a_backward_pass_and_with_an_endless_one_resources_alone_lead() -> None:
    net = load("dscnn_digits")
    budget = share(net, macs=0.4)
    silent, endless, led = (Pruner(net, budget, steps=60, start=0.0) for _ in range(3))
    x = torch.from_numpy(digits().train.x[:64])
    for _ in range(20):
        silent.step()
        (endless.module(x)[0].sum() * float("inf")).backward()
        endless.step()
    train(led, 20, lr=0.0)
    assert silent.widths == endless.widths != led.widths
    assert Budget(budget).check(silent.costs).ok


def test_validation_in_between_does_not_hide_the_training_batch() -> None:
    net = load("dscnn_digits")
    pruner = Pruner(net, share(net, macs=0.4), steps=60)
    functional.cross_entropy(
        pruner.module(torch.from_numpy(digits().train.x[:8]))[0], torch.zeros(8, dtype=torch.long)
    ).backward()
    pruner.module(torch.from_numpy(digits().val.x[:100]))  # somebody forgot torch.no_grad
    outputs(pruner, digits().val.x[:100])
    batch = pruner.module.last_batch()
    assert batch is not None
    assert len(batch.inputs[0]) == 8


@pytest.mark.thorough
def test_masks_follow_the_module_to_another_precision() -> None:
    net = load("dscnn_digits")
    pruner = Pruner(net, share(net, macs=0.4), steps=60, start=0.0)
    pruner.module.double()
    x, y = torch.from_numpy(digits().train.x[:32]).double(), torch.from_numpy(digits().train.y[:32])
    for _ in range(20):
        functional.cross_entropy(pruner.module(x)[0], y).backward()
        pruner.step()
    assert pruner.progress == 1.0
    assert pruner.module(x)[0].dtype == torch.float64


def test_a_running_average_of_the_weights_has_the_masks_of_the_moment() -> None:
    net = load("dscnn_digits")
    pruner = Pruner(net, share(net, macs=0.4), steps=60, start=0.0)
    average = torch.optim.swa_utils.AveragedModel(pruner.module, avg_fn=lambda old, new, count: new)
    average.update_parameters(pruner.module)
    train(pruner, 20)
    x = torch.from_numpy(digits().val.x[:8])
    average.eval()
    pruner.module.eval()
    with torch.no_grad():
        assert not torch.equal(average(x)[0], pruner.module(x)[0])
        average.update_parameters(pruner.module)
        average.module.load_state_dict(pruner.module.state_dict())  # BatchNormalization's statistics too
        assert torch.equal(average(x)[0], pruner.module(x)[0])


def test_a_path_and_a_budget_in_words_are_those_of_the_public_face() -> None:
    path = MODELS / "dscnn_digits.onnx"
    budget = mcuprune.Budget(macs="40%", sram="80%")
    pruner = mcuprune.Pruner(path, budget, sram_model="tflm")
    small = pruner.finish()
    limits = budget.limits_of(path, sram_model="tflm")
    assert mcuprune.check(small, mcuprune.Budget(**limits), sram_model="tflm").ok
    assert mcuprune.profile(small).arena == pruner.costs["sram"]


# -------------------------------------------------------------------------------------------------------------- going on


@pytest.mark.thorough
def test_a_loop_that_is_taken_up_goes_where_it_would_have_gone() -> None:
    net = load("dscnn_digits")
    budget = share(net, macs=0.4, sram=0.7)

    def fresh() -> Pruner:
        return Pruner(net, budget, steps=60, stop=0.5)

    through, stopped, resumed = fresh(), fresh(), fresh()
    train(through, 12, lr=0.02)
    train(stopped, 12, lr=0.02)
    stored = io.BytesIO()
    torch.save({"pruner": stopped.state_dict(), "module": stopped.module.state_dict()}, stored)
    stored.seek(0)
    state = torch.load(stored, weights_only=True)
    resumed.load_state_dict(state["pruner"])
    resumed.module.load_state_dict(state["module"])
    assert resumed.widths == stopped.widths
    assert (resumed.progress, resumed.costs) == (stopped.progress, stopped.costs)
    assert train(through, 24, lr=0.02, seed=1) == train(resumed, 24, lr=0.02, seed=1)
    x = digits().val.x[:16]
    np.testing.assert_array_equal(outputs(through, x)[0], outputs(resumed, x)[0])
    assert resumed.notes == through.notes


def test_a_state_of_another_network_is_refused() -> None:
    one, other = (Pruner(net, share(net, macs=0.4)) for net in (load("dscnn_digits"), load("resnet8_digits")))
    with pytest.raises(UsageError, match="of another network"):
        one.load_state_dict(other.state_dict())


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("more", [{}, {"keep": ("*",)}, {"min_channels": 64}], ids=str)
def test_a_budget_that_no_cut_holds_is_refused_at_once(more: dict[str, Any]) -> None:
    net = load("resnet8_digits")
    budget = {"flash": 200} if not more else share(net, flash=0.5)
    with pytest.raises(BudgetError, match="flash can't go below"):
        Pruner(net, budget, **more)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"every": 0}, "every is 0"),
        ({"multiple_of": -1}, "multiple_of is -1"),
        ({"min_channels": 0}, "min_channels is 0"),
        ({"start": 0.5, "stop": 0.4}, "start 0.5, stop 0.4"),
        ({"start": -0.1}, "start -0.1"),
        ({"keep": ("nothing*",)}, r"nothing\*"),
        ({"examples": np.zeros((8, 1, 8, 8), np.float32)}, r"examples of shape \[8, 1, 8, 8\] for input 'image'"),
        ({"examples": np.zeros((0, 1, 16, 16), np.float32)}, "examples of shape"),
        ({"examples": (np.zeros((4, 1, 16, 16)), np.zeros(4))}, "examples for 2 were given"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_to_give(more: dict[str, Any], said: str) -> None:
    net = load("dscnn_digits")
    with pytest.raises((UsageError, DataError), match=said):
        Pruner(net, share(net, macs=0.5), **more)


def test_no_limit_is_refused() -> None:
    with pytest.raises(UsageError, match="a limit: sram, flash, macs"):
        Pruner(load("dscnn_digits"), {})


def test_a_network_made_for_one_example_at_a_time_is_refused_with_its_node() -> None:
    weights: dict[str, np.ndarray] = {}
    nodes = [
        small_nets.conv("first", "x", "a", 3, 8, weights),
        small_nets.conv("second", "a", "b", 8, 4, weights),
        helper.make_node("ReduceMean", ["b"], ["y"], "over all", axes=[0, 2, 3], keepdims=1),
    ]
    net = network.from_proto(small_nets.model(nodes, weights, {"x": [1, 3, 8, 8]}, {"y": [1, 4, 1, 1]}), "one.onnx")
    with pytest.raises(McupruneError, match="over all"):
        Pruner(net, {"flash": 200})


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 2.5},
        {"steps": True},
        {"steps": "20"},
        {"steps": float("nan")},
        {"every": 2.5},
        {"multiple_of": 2.5},
        {"min_channels": 2.5},
        {"seed": -1},
        {"seed": "a"},
        {"start": None},
        {"stop": "0.3"},
        {"start": float("nan")},
        {"keep": 3},
        {"keep": [3]},
    ],
    ids=str,
)
def test_settings_of_the_wrong_kind_are_refused_at_once(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(UsageError, match=f"Pruner: .*{name}"):
        Pruner(MODELS / "dscnn_digits.onnx", mcuprune.Budget(macs="50%"), **wrong)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_examples_that_are_no_finite_numbers_are_refused_at_once(number: float) -> None:
    examples = np.full((4, 1, 16, 16), number, np.float32)
    with pytest.raises(DataError, match="no finite number"):
        Pruner(MODELS / "dscnn_digits.onnx", mcuprune.Budget(macs="50%"), examples=examples)


def test_one_pattern_may_stand_alone() -> None:
    pattern = "*"
    kept = Pruner(MODELS / "dscnn_digits.onnx", mcuprune.Budget(macs="100%"), keep=pattern)
    assert kept.costs == Pruner(MODELS / "dscnn_digits.onnx", mcuprune.Budget(macs="100%"), keep=[pattern]).costs


def test_a_state_of_another_budget_or_of_nothing_is_refused() -> None:
    model = MODELS / "dscnn_digits.onnx"
    one = Pruner(model, mcuprune.Budget(macs="50%"))
    with pytest.raises(UsageError, match="other limits"):
        one.load_state_dict(Pruner(model, mcuprune.Budget(macs="40%")).state_dict())
    with pytest.raises(UsageError, match="other limits"):
        one.load_state_dict(Pruner(model, mcuprune.Budget(macs="50%"), multiple_of=4).state_dict())
    state = one.state_dict()
    del state["step"]
    with pytest.raises(UsageError, match="lacks step"):
        one.load_state_dict(state)
    with pytest.raises(UsageError, match="NoneType"):
        one.load_state_dict(None)  # type: ignore[arg-type]
    one.load_state_dict(one.state_dict())
