"""Training on smaller images first: which networks can, what steps cost then, and that a run ends with images as they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import pytest
import torch
from graphs import Graph
from hypothesis import given
from hypothesis import strategies as st
from test_pruning import MODELS, Interrupted, limits

from mcuprune import pruning
from mcuprune.channels.labelling import label
from mcuprune.cli import main
from mcuprune.costs.resources import macs
from mcuprune.data.sets import Split
from mcuprune.errors import UsageError
from mcuprune.graph.network import Network
from mcuprune.pruning import Request, Result
from mcuprune.train.length import Length
from mcuprune.train.schedules import Narrow, schedule_for
from mcuprune.train.smaller import proven, smaller
from mcuprune.train.trainer import Trainer

torch.set_num_threads(1)

SIDE = 24


def classifier(*, side: int = SIDE, colours: int = 3, classes: int = 4, width: int = 8, last: bool = False) -> Network:
    """Two convolutions, the second of stride 2, and a classifier of their mean. last: channels come last."""
    g = Graph(1, side, side, colours) if last else Graph(1, colours, side, side)
    x = g.add("Transpose", "x", perm=[0, 3, 1, 2]) if last else "x"
    x = g.add("Relu", g.norm(g.conv(x, colours, width, bias=False), width))
    x = g.add("Relu", g.norm(g.conv(x, width, width, strides=[2, 2], bias=False), width))
    return g.net(g.classifier(x, width, classes))


def of_its_size(ending: str) -> Network:
    """A network whose answer depends on the size of the image, or that can't take another one."""
    g = Graph(1, 3, SIDE, SIDE)
    x = g.conv("x", 3, 4, strides=[2, 2])
    if ending == "flattened":
        return g.net(g.dense(g.add("Flatten", x), 4 * 12 * 12, 4))
    if ending == "pooled by its size":
        return g.net(g.dense(g.add("Flatten", g.add("AveragePool", x, kernel_shape=[12, 12], strides=[12, 12])), 4, 4))
    if ending == "reshaped to its size":
        apart = g.add("Reshape", x, g.value(np.array([0, 2, 2, 12, 12])))
        whole = g.add("Reshape", g.add("Transpose", apart, perm=[0, 2, 1, 3, 4]), g.value(np.array([0, 4, 12, 12])))
        return g.net(g.classifier(whole, 4, 4))
    if ending == "an image":
        return g.net(x)
    return g.net(g.classifier(g.add("Add", x, g.value(np.ones((1, 4, 12, 12), np.float32))), 4, 4))


ENDINGS = ("flattened", "pooled by its size", "reshaped to its size", "an image", "added to a constant of its size")


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_network_that_takes_one_size_only_is_none_for_smaller_images(ending: str) -> None:
    assert proven(label(of_its_size(ending))) is None


@pytest.mark.parametrize("other", [graphs.dscnn(), graphs.autoencoder(), classifier(side=20), graphs.Graph(1, 3, 8, 8)])
def test_what_is_no_image_or_has_no_size_to_spare_stays_as_it_is(other: Network | Graph) -> None:
    net = other if isinstance(other, Network) else other.net(other.classifier(other.conv("x", 3, 4), 4, 2))
    assert proven(label(net)) is None


@pytest.mark.thorough
@given(side=st.integers(24, 80), last=st.booleans(), width=st.integers(1, 9))
def test_a_smaller_image_costs_what_the_network_made_for_that_size_does(side: int, last: bool, width: int) -> None:
    net = classifier(side=side, last=last, width=width)
    images = smaller(net)
    assert images is not None
    (height, across) = images.size
    assert height == across == 4 * (3 * side // 16)
    assert images.macs == macs(classifier(side=height, last=last, width=width)) < macs(net)
    assert proven(label(net)) == images
    shape = net.shapes["x"]
    shrunk = images(torch.full((2, *shape[1:]), 0.25))
    expected = [2, height, across, 3] if last else [2, 3, height, across]
    assert list(shrunk.shape) == expected
    assert shrunk.numpy() == pytest.approx(0.25)


def test_pixels_of_a_smaller_image_are_means_of_those_they_cover() -> None:
    """A half of black and a half of white stay so, and the mean of all pixels stays where it was."""
    images = smaller(classifier(side=32))
    assert images is not None
    picture = np.zeros((1, 3, 32, 32), np.float32)
    picture[..., 16:] = 1.0
    shrunk = images(torch.from_numpy(picture)).numpy()
    assert shrunk.mean() == pytest.approx(picture.mean(), abs=1e-6)
    assert (shrunk[..., :11] == 0).all()
    assert (shrunk[..., 13:] == 1).all()


def trainer_of(net: Network, *, steps: int = 8) -> Trainer:
    random = np.random.default_rng(0)
    data = Split(random.standard_normal((32, *net.shapes["x"][1:]), np.float32), np.arange(32) % 4)
    return Trainer(label(net), data, total=steps, batch=8, lr=0.01, weight_decay=0.0, seed=0)


@pytest.mark.parametrize("last", [False, True])
def test_training_sees_smaller_images_up_to_its_share_and_measures_on_whole_ones(last: bool) -> None:
    net = classifier(last=last)
    trainer = trainer_of(net)
    images = smaller(net)
    assert images is not None
    trainer.length = Length("macs", 4 * 8 * macs(net))
    trainer.begin_small(0.5)
    seen: list[tuple[int, ...]] = []

    def watch(tensor: str, value: torch.Tensor) -> torch.Tensor:
        if tensor == "x":
            seen.append(tuple(value.shape[2:] if not last else value.shape[1:3]))
        return value

    trainer.module.computed = watch  # type: ignore[method-assign]
    spent = [0]
    while not trainer.finished:
        before = len(seen)
        trainer.train_step()
        spent.append(trainer.training_macs)
        expected = images if 2 * spent[-2] < trainer.length.amount else None
        assert seen[before] == (images.size if expected else (SIDE, SIDE))
        assert spent[-1] - spent[-2] == 8 * (images.macs if expected else macs(net))
        trainer.measure(Split(np.zeros((3, *net.shapes["x"][1:]), np.float32), np.arange(3)))
        assert seen[-1] == (SIDE, SIDE)
    assert len(spent) > 5
    assert any("images were 16 x 16" in note for note in trainer.notes)


def test_a_cut_network_takes_smaller_images_for_what_its_own_widths_cost() -> None:
    trainer = trainer_of(classifier())
    trainer.begin_small(1.0)
    keep = trainer.module.channels.keep_all()
    keep[list(trainer.module.channels.groups[0].components)[2:]] = False
    trainer.shrink(keep)
    images = smaller(trainer.module.source)
    assert images is not None
    assert trainer.step_macs(3) == 3 * images.macs


def test_a_training_that_winds_down_sees_images_as_they_are() -> None:
    trainer = trainer_of(classifier(), steps=100)
    trainer.begin_small(1.0)
    trainer.train_step()
    assert trainer.images is not None
    trainer.wind_down()
    assert trainer.images is None


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A file of a network and one of images, whose class is the colour channel that is brightest."""
    folder = tmp_path_factory.mktemp("colours")
    random, arrays = np.random.default_rng(0), {}
    for part, count in (("train", 512), ("val", 64), ("test", 128)):
        y = np.arange(count) % 3
        x = random.standard_normal((count, 3, SIDE, SIDE), np.float32)
        x[np.arange(count), y] += 0.5
        arrays |= {f"x_{part}": x, f"y_{part}": y}
    np.savez(folder / "data.npz", **arrays)
    net = classifier(classes=3, width=16)
    net.save(folder / "net.onnx")
    return str(folder / "net.onnx"), str(folder / "data.npz")


def asked(colours: tuple[str, str], output: Path, **wishes: Any) -> Request:
    model, data = colours
    how: dict[str, Any] = {"train_compute": 2.0, "from_scratch": True, "batch": 32, "distill": False, **wishes}
    return Request(model, limits(macs="40%"), str(output), data=data, **how)


def small_note(result: Result) -> list[str]:
    return [note for note in result.notes if note.startswith("images were 16 x 16")]


@pytest.mark.thorough
def test_the_default_method_begins_small_where_compute_is_scarce_and_baselines_do_not(
    colours: tuple[str, str], tmp_path: Path
) -> None:
    """At equal compute it takes more steps for it, and says so; what it spends is what was asked for."""
    made = {
        name: pruning.prune(asked(colours, tmp_path / f"{name}.onnx", **wishes))
        for name, wishes in {
            "default": {},
            "whole": {"small_images": 0.0},
            "uniform": {"method": "uniform"},
            "asked": {"method": "uniform", "small_images": 0.5},
        }.items()
    }
    assert {name: bool(small_note(result)) for name, result in made.items()} == {
        "default": True,
        "whole": False,
        "uniform": False,
        "asked": True,
    }
    assert made["default"].training is not None
    assert made["default"].training.schedule.small_images == 0.5
    assert made["default"].history[-1].step > 1.2 * made["whole"].history[-1].step
    assert made["default"].training_macs == pytest.approx(made["whole"].training_macs, rel=0.05)
    assert all(result.ok for result in made.values())


@pytest.mark.thorough
def test_an_interrupted_run_on_small_images_resumes_to_the_same_file(colours: tuple[str, str], tmp_path: Path) -> None:
    through = pruning.prune(asked(colours, tmp_path / "a.onnx"))

    def interrupt(line: Any) -> None:
        if line.epoch >= 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        pruning.prune(asked(colours, tmp_path / "b.onnx"), interrupt)
    resumed = pruning.prune(asked(colours, tmp_path / "b.onnx", resume=True))
    assert small_note(resumed)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert resumed.training_macs == through.training_macs


def test_smaller_images_are_refused_for_a_network_that_takes_none_before_the_work(
    tmp_path: Path, few_digits: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = str(MODELS / "resnet8_digits.onnx"), tmp_path / "o.onnx"
    command = ["prune", model, "--macs", "50%", "--data", few_digits, "-o", str(out), "--from-scratch", "-q"]
    assert main([*command, "--small-images", "0.5"]) == 2
    assert (
        "--small-images 0.5: this network, which takes [1, 16, 16], can't learn from smaller images" in capsys.readouterr().err
    )
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="--small-images"):
        pruning.prune(replace(Request(model, limits(macs="50%"), str(out), data=few_digits), small_images=1.0))


@pytest.mark.parametrize(
    ("wishes", "how", "share"),
    [
        ({"train_compute": 3.0}, {}, 0.5),
        ({"train_compute": 3.0}, {"shrinkable": False}, 0.0),
        ({"train_compute": 3.0}, {"warm": True}, 0.0),
        ({"train_compute": 3.0, "small_images": 0.0}, {}, 0.0),
        ({"train_compute": 3.0, "prune_stop": 0.3}, {}, 0.0),
        ({"epochs": 3}, {}, 0.0),
        ({"epochs": 3, "small_images": 0.3}, {}, 0.3),
        ({"time": "10m"}, {}, 0.5),
        ({"train_compute": 20.0}, {}, 0.5),
        ({"train_compute": 20.0}, {"shrinkable": False}, 0.0),
        ({"train_compute": 20.0, "method": "magnitude", "small_images": 0.3}, {}, 0.3),
        ({"train_compute": 30.0}, {}, 0.0),  # more than half of it for wide layers
    ],
)
def test_images_are_smaller_where_no_step_is_spent_wide_or_where_it_was_asked_for(
    wishes: dict[str, Any], how: dict[str, Any], share: float
) -> None:
    request = Request("m.onnx", limits(macs="30%"), "o.onnx", **wishes)
    schedule = schedule_for(request, 1000, narrow=Narrow(0.3, 2000), **{"warm": False, "shrinkable": True, **how})
    assert schedule.small_images == share
    if share == 0.5:
        assert schedule.prune_stop == 0.0
