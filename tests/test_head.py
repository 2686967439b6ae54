"""What tells a trained network from an untrained one that is right by luck: the weights of its last layer."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import thorough_but
from graphs import Graph
from scipy import stats
from test_pruning import limits

from mcuprune import pruning
from mcuprune.cli import main
from mcuprune.data.feed import Feed
from mcuprune.data.fitting import classifier
from mcuprune.graph.network import Network
from mcuprune.pruning import Request, Result
from mcuprune.report import prune as outcome
from mcuprune.train import evaluate, head, preprocess
from mcuprune.train.preprocess import Fed

#: Where the bright square of each class lies; the third has its place where the second one has it in a picture turned over.
PLACES = ((2, 2), (2, 9), (9, 2), (9, 9), (5, 5), (0, 5), (10, 6), (3, 8), (11, 0), (6, 11))
#: The same, where no class lies at another one's place when pictures are turned over.
UNLIKE = ((2, 9), (2, 2), (10, 4), (9, 9), (5, 5), (0, 5), (11, 7), (8, 2), (11, 0), (6, 11))


def squares(classes: int, n: int = 360, seed: int = 0, places: Sequence[tuple[int, int]] = PLACES) -> dict[str, np.ndarray]:
    """Pixels of easy pictures: noise and a bright square whose place is the class. Each class is one narrow cluster."""
    draw = np.random.default_rng(seed)
    y = np.arange(n) % classes
    x = draw.integers(0, 40, (n, 1, 16, 16))
    for i in range(n):
        row, column = np.clip(np.array(places[y[i]]) + draw.integers(-1, 2, 2), 0, 11)
        x[i, 0, row : row + 5, column : column + 5] += draw.integers(100, 200)
    pixels, test = x.clip(0, 255).astype(np.uint8), n * 2 // 3
    return {"x_train": pixels[:test], "y_train": y[:test], "x_test": pixels[test:], "y_test": y[test:]}


def weights(classes: int, seed: int, *, pooled: bool = False) -> list[np.ndarray]:
    """As torch draws them at first: uniform, within one over the root of how many numbers a sum has."""
    draw = np.random.default_rng(seed)
    shapes = ((8, 1, 3, 3), (12, 8, 3, 3), (classes, 12 if pooled else 192))
    found = []
    for shape in shapes:
        bound = 1 / np.sqrt(np.prod(shape[1:]))
        found += [draw.uniform(-bound, bound, size).astype(np.float32) for size in (shape, shape[:1])]
    return found


def net_of(arrays: list[np.ndarray], *, last_layer: str = "Gemm") -> Network:
    """Two convolutions with pooling between, and a last layer of one of three kinds."""
    g = Graph("batch", 1, 16, 16)  # type: ignore[arg-type]
    x = "x"
    for weight, bias in (arrays[:2], arrays[2:4]):
        x = g.add("Relu", g.add("Conv", x, g.value(weight), g.value(bias), pads=[1] * 4))
        x = g.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    last, bias = arrays[4:]
    if last.shape[1] == 12 and last_layer != "Conv":
        x = g.add("GlobalAveragePool", x)
    if last_layer == "Conv":  # each place answers, and the answers' mean is the network's
        y = g.add("Conv", x, g.value(last[:, :, None, None]), g.value(bias))
        return g.net(g.add("Softmax", g.add("Flatten", g.add("GlobalAveragePool", y))))
    if last_layer == "MatMul":
        y = g.add("MatMul", g.add("Flatten", x), g.value(np.ascontiguousarray(last.T)))
        return g.net(g.add("Softmax", g.add("Add", y, g.value(bias))))
    return g.net(g.add("Gemm", g.add("Flatten", x), g.value(last), g.value(bias), transB=1))


def trained(arrays: list[np.ndarray], data: dict[str, np.ndarray], epochs: int) -> list[np.ndarray]:
    """Weights after Adam on pixels of 0 to 1."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    found = [torch.tensor(array, requires_grad=True) for array in arrays]
    optimizer = torch.optim.Adam(found, 3e-3)
    x, y = torch.tensor(data["x_train"] / 255, dtype=torch.float32), torch.tensor(data["y_train"])
    for epoch in range(epochs):
        for some in torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch)).split(32):
            z = x[some]
            for weight, bias in (found[:2], found[2:4]):
                z = functional.max_pool2d(functional.relu(functional.conv2d(z, weight, bias, padding=1)), 2)
            z = z.mean((2, 3)) if found[4].shape[1] == 12 else z.flatten(1)
            optimizer.zero_grad()
            functional.cross_entropy(z @ found[4].T + found[5], y[some]).backward()
            optimizer.step()
    return [array.detach().numpy() for array in found]


def fed(net: Network, data: dict[str, np.ndarray], classes: int, **wishes: Any) -> Fed:
    return preprocess.opened(net, data, classifier((1, 16, 16), classes, 0), Feed(), 0, **wishes)


@pytest.mark.parametrize(
    ("classes", "seed"), thorough_but(itertools.product((2, 3), range(20)), *itertools.product((2, 3), range(6)))
)
@pytest.mark.parametrize("pooled", [False, True])
def test_an_untrained_network_is_fed_as_one_whatever_its_luck(classes: int, seed: int, pooled: bool) -> None:
    """Of few classes that are easy to tell apart a random network knows all in one of many ways, every second time."""
    found = fed(net_of(weights(classes, seed, pooled=pooled)), squares(classes), classes)
    assert found.preprocessing.found_by == "default"
    assert found.preprocessing.plain
    assert found.labels is None
    assert not any("numbered" in note for note in found.notes)


def stored(data: dict[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    """The same pictures as somebody else may have stored them, and their classes."""
    found = dict(data)
    for part in ("train", "test"):
        x, y = found[f"x_{part}"], found[f"y_{part}"]
        found[f"x_{part}"] = {"turned": x.transpose(0, 1, 3, 2), "inverted": 255 - x, "units": x / 255}.get(kind, x)
        found[f"y_{part}"] = (y + 1) % (int(data["y_train"].max()) + 1) if kind == "renumbered" else y
    return found


#: Two causes that look alike: light and dark exchanged for the labels of two classes, a network that is right often enough.
UNCLEAR = ((2, "renumbered"), (10, "turned"))


@pytest.fixture(
    scope="module", params=[(2, False), *[pytest.param(c, marks=pytest.mark.thorough) for c in ((3, True), (10, False))]]
)
def learned(request: pytest.FixtureRequest) -> tuple[int, dict[str, np.ndarray], list[np.ndarray]]:
    """Classes, their data, and weights of a few hundred steps."""
    classes, pooled = request.param
    data = squares(classes, n=600, places=UNLIKE)
    return classes, data, trained(weights(classes, 1, pooled=pooled), data, 60 if pooled else 5)


@pytest.mark.parametrize("last_layer", ["Gemm", "MatMul", "Conv"])
@pytest.mark.parametrize("kind", ["pixels", "turned", "inverted", "renumbered", "units"])
def test_a_trained_network_is_fed_as_it_was_trained(
    kind: str, last_layer: str, learned: tuple[int, dict[str, np.ndarray], list[np.ndarray]]
) -> None:
    classes, data, found = learned
    if (last_layer == "Conv" and found[4].shape[1] != 12) or (classes, kind) in UNCLEAR:
        return
    net = net_of(found, last_layer=last_layer)
    how = fed(net, stored(data, kind), classes)
    assert (how.labels is not None) == (kind == "renumbered")
    test = how.data.test
    labels = test.y if how.labels is None else np.array(how.labels.number)[test.y]
    model = evaluate.Model(bytes(net.to_proto().SerializeToString()))
    assert evaluate.accuracy(model(test.x), labels) > 0.95
    assert not any("luck" in note for note in how.notes)


@pytest.mark.parametrize(("ending", "dropped"), [(None, False), ("Softmax", False), (None, True)])
def test_classes_that_change_places_behind_the_last_layer_are_still_known(ending: str | None, dropped: bool) -> None:
    """The last layer's rows are those of other classes than the labels say; of some rows there may be no class at all."""
    data = squares(2, n=600, places=UNLIKE)
    arrays = trained(weights(2, 1), data, 5)
    if dropped:
        arrays[4], arrays[5] = (np.concatenate([array, array[:1] * 0]) for array in arrays[4:])
    g = Graph("batch", 1, 16, 16)  # type: ignore[arg-type]
    y = "x"
    for weight, bias in (arrays[:2], arrays[2:4]):
        y = g.add("Relu", g.add("Conv", y, g.value(weight), g.value(bias), pads=[1] * 4))
        y = g.add("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    y = g.add("Gemm", g.add("Flatten", y), g.value(arrays[4]), g.value(arrays[5]), transB=1)
    if ending:
        y = g.add(ending, y)
    net = g.net(g.add("Gather", y, g.value(np.array([1, 0])), axis=1))
    x, y_test = data["x_test"].astype(np.float32) / 255, 1 - data["y_test"]
    model = evaluate.Model(bytes(net.to_proto().SerializeToString()))
    assert evaluate.accuracy(model(x), y_test) > 0.95
    assert head.shows(net, x, y_test, 2)
    assert not head.shows(net, x, 1 - y_test, 2)


@pytest.mark.parametrize(("cosine", "dimensions"), list(itertools.product((0.1, 0.4, 0.9, 0.999), (2, 8, 30, 200))))
def test_the_chance_of_a_direction_is_a_bound_and_near_the_truth(cosine: float, dimensions: int) -> None:
    """By the distribution of Student's t that the cosine of a random direction has."""
    bound = head.log_chance(cosine, dimensions)
    truth = stats.t.logsf(cosine * np.sqrt((dimensions - 1) / (1 - cosine**2)), dimensions - 1)
    assert truth <= bound + 1e-9
    assert bound <= truth + np.log(3) or cosine**2 < 2 / dimensions


@pytest.mark.parametrize("classes", [2, 6])
def test_of_a_last_layer_that_cannot_be_read_few_classes_prove_nothing(classes: int) -> None:
    g = Graph("batch", classes, 1, 1)  # type: ignore[arg-type]
    net = g.net(g.add("Flatten", g.conv("x", classes, classes, 1, group=classes)))
    x, y = np.eye(classes, dtype=np.float32)[:, :, None, None], np.arange(classes)
    assert head.shows(net, x, y, classes)
    assert head.shows(net, x, y, classes, ways=9) == (classes == 6)


def _idx(folder: Path, data: dict[str, np.ndarray]) -> Path:
    """The same pictures as MNIST stores its own: those are images, of which a network is given more than numbers."""
    folder.mkdir()
    for part, stem in (("train", "train"), ("test", "t10k")):
        x, y = data[f"x_{part}"][:, 0], data[f"y_{part}"].astype(np.uint8)
        for name, array in ((f"{stem}-images-idx3-ubyte", x), (f"{stem}-labels-idx1-ubyte", y)):
            start = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
            (folder / name).write_bytes(start + array.tobytes())
    return folder


def test_images_reach_an_untrained_network_between_minus_one_and_one(tmp_path: Path) -> None:
    source = _idx(tmp_path / "idx", squares(2))
    for seed in range(6):
        found = preprocess.opened(net_of(weights(2, seed)), str(source), classifier((1, 16, 16), 2, 0), Feed(), 0)
        assert found.preprocessing.range == "-1-1"
        assert found.preprocessing.found_by == "default"


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[..., str]:
    def written(data: dict[str, np.ndarray]) -> str:
        np.savez(tmp_path / "d.npz", **data)
        return str(tmp_path / "d.npz")

    return written


def pruned(net: Network, data: str, folder: Path, **wishes: Any) -> Result:
    """After one epoch, with the report's document beside."""
    net.save(folder / "net.onnx")
    request = Request(str(folder / "net.onnx"), limits(macs="60%"), str(folder / "o.onnx"), data=data, epochs=1, int8=False)
    return pruning.prune(replace(request, **wishes))


@pytest.mark.parametrize(("classes", "seed"), thorough_but([(3, 9), (3, 5), (3, 18), (2, 5), (2, 6)], (3, 9), (2, 5)))
def test_an_untrained_network_is_trained_from_scratch_whatever_its_luck(
    classes: int, seed: int, tmp_path: Path, pictures: Callable[..., str]
) -> None:
    """Luck of other numbers of the classes (twice), of pixels in another range, and of the data as it is; renumbered again."""
    result = pruned(net_of(weights(classes, seed)), pictures(squares(classes)), tmp_path)
    assert result.training is not None
    assert not result.training.trained
    assert outcome.document(result)["preprocessing"]["found_by"] == "default"
    assert not any("numbered otherwise" in note for note in result.notes)


def test_from_scratch_nothing_is_taken_from_what_a_network_answers(tmp_path: Path, pictures: Callable[..., str]) -> None:
    """Trained on light and dark exchanged, it would have the data fed so; of labels numbered otherwise it would complain."""
    data = squares(3, places=UNLIKE)
    net = net_of(trained(weights(3, 1), stored(data, "inverted"), 4))
    assert fed(net, data, 3).preprocessing.found_by == "trial"
    for kind in ("inverted", "renumbered"):
        found = fed(net, stored(data, kind), 3, from_scratch=True)
        assert (found.preprocessing.plain, found.labels, found.notes) == (True, None, ())
    result = pruned(net, pictures(data), tmp_path, from_scratch=True)
    assert outcome.document(result)["preprocessing"]["found_by"] == "default"
    labelled = net.with_metadata("Image.NominalPixelRange", "Normalized_0_1")
    assert fed(labelled, data, 3, from_scratch=True).preprocessing.range == "0-1"


def test_the_data_command_does_not_take_luck_for_knowledge(
    tmp_path: Path, pictures: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    net_of(weights(3, 0)).save(tmp_path / "net.onnx")
    main(["data", str(tmp_path / "net.onnx"), pictures(squares(3)), "--format", "json"])
    seen = json.loads(capsys.readouterr().out)
    assert seen["model"]["accuracy"] > 0.5
    assert not seen["model"]["trained"]
    assert seen["labels"] is None
    assert seen["preprocessing"]["found_by"] == "default"


@pytest.mark.parametrize("n_classes", [2, 3, 4, 5])
def test_luck_is_what_a_count_of_all_random_answers_gives(n_classes: int) -> None:
    given = np.array(list(itertools.product(range(n_classes), repeat=n_classes)))
    shares = (given == np.arange(n_classes)).mean(1)
    for right in np.unique(shares):
        assert head.lucky(float(right), n_classes) == pytest.approx((shares >= right - 1e-9).mean())


def test_to_be_right_on_many_classes_needs_no_look_at_the_weights() -> None:
    """The last layer is random, as is that of a network of which only what lies before it was trained."""
    net = net_of(weights(10, 0))
    x, labels = np.zeros((50, 1, 16, 16), np.float32), np.arange(50) % 10
    assert not head.shows(net, x, labels, 10, right=0.3)
    assert head.shows(net, x, labels, 10, right=0.8)
    assert not head.shows(net, x, labels, 10, right=0.8, ways=30)
