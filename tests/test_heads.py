"""What stands behind a last Softmax or Sigmoid: losses are taken of logits that give the outputs, or of these."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tasks_data
import torch
from conftest import thorough_but
from graphs import Graph
from onnx import TensorProto, helper, numpy_helper
from tasks_data import Layers
from test_pruning import limits

from mcuprune import pruning
from mcuprune.channels.labelling import label
from mcuprune.data.sets import Split
from mcuprune.graph import network
from mcuprune.graph.network import Network
from mcuprune.pruning import Request
from mcuprune.train import evaluate
from mcuprune.train.module import Trainable
from mcuprune.train.scores import RATINGS
from mcuprune.train.tasks.choice import chosen
from mcuprune.train.tasks.heads import Head, heads, last_layer, recognised
from mcuprune.train.tasks.regress import Regress

torch.set_num_threads(1)
BATCH = 3


def answered(net: Network, x: np.ndarray) -> list[np.ndarray]:
    """The outputs of a network for examples, one by one, in onnxruntime without graph optimisation."""
    model = evaluate.Model(net.to_proto().SerializeToString())
    each = [model.outputs([example[None]]) for example in x]
    return [np.concatenate(parts) for parts in zip(*each, strict=True)]


def by_logits(net: Network, x: np.ndarray) -> list[np.ndarray]:
    """What the endings make of the tensors that losses are taken of."""
    module = Trainable(label(net)).eval()
    module.want_answers(heads(net))
    with torch.no_grad():
        answers = module(torch.from_numpy(x))
    return [ended(head, answer).numpy() for head, answer in zip(heads(net), answers, strict=True)]


def ended(head: Head, answer: torch.Tensor) -> torch.Tensor:
    if head.ending == "sigmoid":
        return answer.sigmoid()
    if head.ending == "softmax":
        return answer.softmax(1 + head.axis)
    return answer.log_softmax(1 + head.axis) if head.ending == "log_softmax" else answer


# ---------------------------------------------------------------------------------------------------------------- logits


class Tails:
    """Nodes by chance behind a tensor; the batch stays the first axis."""

    def __init__(self, graph: Graph, shape: tuple[int, ...], seed: int) -> None:
        self.graph, self.shape, self.draw = graph, shape, np.random.default_rng(seed)

    def ints(self, *values: Any) -> str:
        return self.graph.value(np.array([*values], np.int64))

    def behind(self, tensor: str) -> tuple[str, ...]:
        """The outputs of one to four nodes."""
        kinds = ["transpose", "slice", "turned", "gather", "permuted", "reshape", "flatten", "unsqueeze", "identity", "split"]
        kinds += ["one", "pad", "max", "largest"]
        for kind in self.draw.choice(kinds, self.draw.integers(1, 5)):
            if len(self.shape) > 1 or kind in ("reshape", "unsqueeze", "flatten", "identity"):
                tensor = getattr(self, kind)(tensor)
        return (tensor,)

    def axis(self) -> int:
        return int(self.draw.integers(1, len(self.shape)))

    def sized(self, axis: int, size: int) -> None:
        self.shape = (*self.shape[:axis], size, *self.shape[axis + 1 :])

    def identity(self, x: str) -> str:
        return self.graph.add("Identity", x)

    def transpose(self, x: str) -> str:
        perm = [0, *(1 + self.draw.permutation(len(self.shape) - 1)).tolist()]
        self.shape = tuple(self.shape[axis] for axis in perm)
        return self.graph.add("Transpose", x, perm=perm)

    def slice(self, x: str) -> str:
        axis = self.axis()
        start = int(self.draw.integers(0, self.shape[axis]))
        self.sized(axis, self.shape[axis] - start)
        return self.graph.add("Slice", x, self.ints(start), self.ints(9999), self.ints(axis))

    def turned(self, x: str) -> str:
        return self.graph.add("Slice", x, self.ints(-1), self.ints(-9999), self.ints(self.axis()), self.ints(-1))

    def gather(self, x: str) -> str:
        axis = self.axis()
        picked = self.draw.integers(0, self.shape[axis], int(self.draw.integers(1, 5)))
        self.sized(axis, len(picked))
        return self.graph.add("Gather", x, self.ints(*picked), axis=axis)

    def permuted(self, x: str) -> str:
        axis = self.axis()
        return self.graph.add("Gather", x, self.ints(*self.draw.permutation(self.shape[axis])), axis=axis)

    def one(self, x: str) -> str:
        axis = self.axis()
        if len(self.shape) == 2:
            return x
        index = int(self.draw.integers(0, self.shape[axis]))
        self.shape = (*self.shape[:axis], *self.shape[axis + 1 :])
        return self.graph.add("Gather", x, self.graph.value(np.int64(index)), axis=axis)

    def split(self, x: str) -> str:
        axis = self.axis()
        if self.shape[axis] < 2:
            return x
        first = int(self.draw.integers(1, self.shape[axis]))
        made = self.graph.add("Split", x, self.ints(first, self.shape[axis] - first), outputs=2, axis=axis)
        self.sized(axis, self.shape[axis] - first)
        return f"{made}.1"

    def reshape(self, x: str) -> str:
        whole = int(np.prod(self.shape))
        sizes = [size for size in range(1, whole + 1) if whole % size == 0]
        first = int(self.draw.choice(sizes))
        self.shape = (1, first, whole // first)
        return self.graph.add("Reshape", x, self.ints(0, first, whole // first))

    def flatten(self, x: str) -> str:
        self.shape = (1, int(np.prod(self.shape)))
        return self.graph.add("Flatten", x)

    def unsqueeze(self, x: str) -> str:
        self.shape = (*self.shape, 1)
        return self.graph.add("Unsqueeze", x, self.ints(len(self.shape) - 1))

    def pad(self, x: str) -> str:
        axis = self.axis()
        pads = [0] * (2 * len(self.shape))
        pads[axis] = 1
        self.sized(axis, self.shape[axis] + 1)
        return self.graph.add("Pad", x, self.ints(*pads))

    def max(self, x: str) -> str:
        axis = self.axis()
        self.sized(axis, 1)
        return self.graph.add("ReduceMax", x, axes=[axis], keepdims=1)

    def largest(self, x: str) -> str:
        if len(self.shape) != 3:
            return x
        self.sized(2, 1)
        return self.graph.add("GlobalMaxPool", x)


@pytest.mark.parametrize("ending", ["Softmax", "LogSoftmax", "Sigmoid"])
def test_of_any_tail_the_logits_give_what_the_file_answers(ending: str) -> None:
    x = np.random.default_rng(1).standard_normal((BATCH, 3, 6)).astype(np.float32)
    found, untouched = 0, 0
    for seed in range(60):
        graph = Graph(1, 3, 6)
        conv = graph.add("Conv", "x", graph.constant(4, 3, 3), graph.constant(4), pads=[1, 1])
        given = graph.add(ending, conv, **({} if ending == "Sigmoid" else {"axis": 1 + seed % 2}))
        net = graph.net(*Tails(graph, (1, 4, 6), seed).behind(given))
        found += all(head.tensor == conv for head in heads(net))
        untouched += all(head.tensor == head.output for head in heads(net))
        for got, want in zip(by_logits(net, x), answered(net, x), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5, err_msg=f"{ending}, seed {seed}")
    assert found > 10
    assert untouched > 5


def ints(graph: Graph, *values: int) -> str:
    return graph.value(np.array([*values], np.int64))


#: A tail of (1, 4, 6) -> its outputs, and how it ends behind a Softmax over the axis of 4, and behind a Sigmoid.
KINDS: dict[str, tuple[Callable[[Graph, str], str], str, str]] = {
    "permuted": (lambda g, x: g.add("Gather", x, ints(g, 2, 0, 3, 1), axis=1), "softmax", "sigmoid"),
    "turned": (lambda g, x: g.add("Slice", x, ints(g, -1), ints(g, -99), ints(g, 1), ints(g, -1)), "softmax", "sigmoid"),
    "channels last": (lambda g, x: g.add("Transpose", x, perm=[0, 2, 1]), "softmax", "sigmoid"),
    "last place": (lambda g, x: g.add("Gather", x, g.value(np.int64(5)), axis=2), "softmax", "sigmoid"),
    "some places": (lambda g, x: g.add("Slice", x, ints(g, 2), ints(g, 5), ints(g, 2)), "softmax", "sigmoid"),
    "dropped class": (lambda g, x: g.add("Slice", x, ints(g, 1), ints(g, 4), ints(g, 1)), "scores", "sigmoid"),
    "class twice": (lambda g, x: g.add("Gather", x, ints(g, 0, 0, 1, 2), axis=1), "scores", "sigmoid"),
    "one class": (lambda g, x: g.add("Gather", x, g.value(np.int64(1)), axis=1), "scores", "sigmoid"),
    "largest place": (lambda g, x: g.add("GlobalMaxPool", x), "scores", "sigmoid"),
    "mean place": (lambda g, x: g.add("ReduceMean", x, axes=[2]), "scores", "scores"),
    "pooled": (lambda g, x: g.add("AveragePool", x, kernel_shape=[3], strides=[2], pads=[1, 1]), "scores", "scores"),
    "padded": (lambda g, x: g.add("Pad", x, ints(g, 0, 1, 0, 0, 0, 0)), "scores", "scores"),
    "padded far": (lambda g, x: g.add("Pad", x, ints(g, 0, 1, 0, 0, 0, 0), g.value(np.float32(3))), "none", "none"),
    "flat": (lambda g, x: g.add("Flatten", x), "scores", "sigmoid"),
    "log": (lambda g, x: g.add("Log", x), "none", "none"),
}


@pytest.mark.parametrize("ending", ["Softmax", "Sigmoid"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_ending_of_a_tail(kind: str, ending: str) -> None:
    make, *endings = KINDS[kind]
    graph = Graph(1, 3, 6)
    given = graph.add("Conv", "x", graph.constant(4, 3, 3), pads=[1, 1])
    given = graph.add(ending, given, **({"axis": 1} if ending == "Softmax" else {}))
    net = graph.net(make(graph, given))
    (head,) = heads(net)
    assert head.ending == endings[ending == "Sigmoid"]
    if head.ending == "softmax":
        assert head.shape[head.axis] == 4


def test_what_a_softmax_is_averaged_to_is_known_for_shares_by_its_values() -> None:
    (head,) = recognised((Head("y", (3,), "y", "scores"),), [np.array([[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]], np.float32)])
    assert head.ending == "shares"
    (head,) = recognised((Head("y", (3,), "y", "scores"),), [np.array([[0.2, 0.3, 0.1], [0.1, 0.1, 0.8]], np.float32)])
    assert head.ending == "scores"


def test_scores_at_initialisation_are_of_the_classes_as_the_file_numbers_them() -> None:
    """A permutation behind the Softmax, and labels permuted alike, leave the loss as it is."""
    order = np.array([2, 0, 3, 1])

    def net(*, turned: bool) -> Network:
        graph = Graph(1, 3, 8, 8)
        y = graph.add("Relu", graph.conv("x", 3, 6))
        y = graph.add("Softmax", graph.classifier(y, 6, 4), axis=1)
        return graph.net(graph.add("Gather", y, ints(graph, *order), axis=1) if turned else graph.add("Identity", y))

    x = np.random.default_rng(0).standard_normal((20, 3, 8, 8)).astype(np.float32)
    y = np.arange(20) % 4
    plain = RATINGS["snip"].score(label(net(turned=False)), Split([x], [y]), 0)
    turned = RATINGS["snip"].score(label(net(turned=True)), Split([x], [np.argsort(order)[y]]), 0)
    np.testing.assert_allclose(turned, plain, rtol=1e-5)


# ----------------------------------------------------------------------------------------------------------- whole prunes


def four_classes(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows, and which of four mixtures of their numbers is the largest."""
    x = tasks_data.rows(count, seed)
    return x, (x @ tasks_data._MIX).argmax(1)


Tail = Callable[[Layers, str], str]


def whole(values: Layers, *numbers: int) -> str:
    return values.constant(np.array([*numbers], np.int64))


#: How many numbers the last layer gives, their shape at the ending, the tail, and the shape of the output.
TRAINED: dict[str, tuple[tuple[int, ...], Tail, tuple[int, ...]]] = {
    "permuted": ((4,), lambda n, x: n.add("Gather", [x, whole(n, 3, 0, 1, 2)], axis=1), (4,)),
    "turned": ((4,), lambda n, x: n.add("Slice", [x, whole(n, -1), whole(n, -9), whole(n, 1), whole(n, -1)]), (4,)),
    "dropped": ((5,), lambda n, x: n.add("Slice", [x, whole(n, 1), whole(n, 5), whole(n, 1)]), (4,)),
    "padded": ((4,), lambda n, x: n.add("Pad", [x, whole(n, 0, 0, 0, 1)]), (5,)),
    "one": ((2,), lambda n, x: n.add("Gather", [x, whole(n, 1)], axis=1), (1,)),
    "last frame": ((4, 3), lambda n, x: n.add("Gather", [x, n.constant(np.int64(2))], axis=2), (4,)),
    "largest frame": ((4, 3), lambda n, x: n.add("Flatten", [n.add("GlobalMaxPool", [x])]), (4,)),
    "mean frame": ((4, 3), lambda n, x: n.add("ReduceMean", [x], axes=[2], keepdims=0), (4,)),
}


def tailed(kind: str, ending: str) -> Network:
    given, tail, shape = TRAINED[kind]
    layers = Layers()
    y = layers.dense(layers.dense("x", 8, 24, relu=True), 24, int(np.prod(given)))
    if len(given) > 1:
        y = layers.add("Reshape", [y, whole(layers, 0, *given)])
    y = layers.add(ending, [y], **({"axis": 1} if ending == "Softmax" else {}))
    return layers.net({"x": [8]}, {"y": (tail(layers, y), [*shape])})


def run(net: Network, arrays: dict[str, np.ndarray], folder: Path, macs: str, **wishes: Any) -> pruning.Result:
    asked = Request("net.onnx", limits(macs=macs), str(folder / "o.onnx"), batch=16, seed=1, **wishes)
    return pruning.prune(asked, net=net, data_set=arrays)


def targets_of(kind: str, ending: str) -> Callable[[int, int], tuple[np.ndarray, np.ndarray]]:
    """Examples: yes or no of a single score, one class of a Softmax, several labels of a Sigmoid."""

    def make(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        x, y = tasks_data.several_labels(count, seed)
        return x, np.concatenate([y, np.zeros_like(y[:, :1])], 1) if kind == "padded" else y

    if kind == "one":
        return tasks_data.yes_or_no
    return make if ending == "Sigmoid" else four_classes


def right(path: Path, arrays: dict[str, np.ndarray]) -> float:
    """The share of right answers, of several labels each for itself."""
    outputs, y = evaluate.Model(path)(arrays["x_test"]), arrays["y_test"]
    if outputs.shape[1] == 1 or y.ndim > 1:
        return float(((outputs > 0.5) == y.reshape(outputs.shape)).mean())
    return float((outputs.argmax(1) == y).mean())


CASES = [(kind, ending, int8) for kind in TRAINED for ending in ("Softmax", "Sigmoid") for int8 in (False, True)]
QUICK = [("permuted", "Softmax", True), ("largest frame", "Sigmoid", True)]


@pytest.mark.parametrize(("kind", "ending", "int8"), thorough_but(CASES, *QUICK))
def test_a_network_learns_and_teaches_itself_through_any_tail(kind: str, ending: str, int8: bool, tmp_path: Path) -> None:
    arrays = tasks_data.split(targets_of(kind, ending), 512, 256)
    learned = run(tailed(kind, ending), arrays, tmp_path, "100%", epochs=12, int8=False)
    assert right(tmp_path / "o.onnx", arrays) > 0.85
    run(learned.network, arrays, tmp_path, "60%", epochs=6, int8=int8)
    assert right(tmp_path / "o.onnx", arrays) > 0.82
    inputs = {key: x for key, x in arrays.items() if key.startswith("x")}
    taught = run(learned.network, inputs, tmp_path, "60%", epochs=6, int8=int8)
    assert taught.figures is not None
    assert taught.figures.after.more["explained"] > 0.7  # type: ignore[operator]


# ------------------------------------------------------------------------------------------------------------ last layers


def regressor(kind: str) -> Network:
    """Ends in three numbers of a last layer of three, or four, in another order; "two heads" are two of them, and one."""
    graph = Graph(1, 6)
    outs = 4 if kind == "dropped" else 3
    if kind == "added behind":
        y = graph.add("MatMul", "x", graph.constant(6, outs))
        y = graph.add("Add", graph.add("Gather", y, ints(graph, 2, 0, 1), axis=1), graph.constant(3))
        return graph.net(y)
    if kind == "added":
        y = graph.add("Add", graph.add("MatMul", "x", graph.constant(6, outs)), graph.constant(3))
    else:
        y = graph.dense("x", 6, outs)
    if kind == "two heads":
        made = graph.add("Split", y, ints(graph, 1, 2), outputs=2, axis=1)
        return graph.net(f"{made}.1", made)
    if kind == "dropped":
        return graph.net(graph.add("Slice", y, ints(graph, 1), ints(graph, 4), ints(graph, 1)))
    if kind == "turned":
        return graph.net(graph.add("Slice", y, ints(graph, -1), ints(graph, -9), ints(graph, 1), ints(graph, -1)))
    return graph.net(graph.add("Gather", y, ints(graph, 2, 0, 1), axis=1))


@pytest.mark.parametrize("kind", ["permuted", "turned", "dropped", "added", "added behind", "two heads"])
def test_a_fresh_last_layer_answers_in_units_of_its_own_targets(kind: str) -> None:
    net = regressor(kind)
    draw = np.random.default_rng(0)
    targets = [
        draw.normal((10, -500, 0.01)[: size or 3], (2, 100, 0.001)[: size or 3], (50, size))
        for size in ([2, 1] if kind == "two heads" else [3])
    ]
    objective, _ = chosen(net, heads(net), "regress", "data", {"train": targets})
    x = draw.normal(size=(BATCH, 6)).astype(np.float32)
    for before, after, wanted in zip(answered(net, x), answered(objective.begun(net), x), targets, strict=True):
        np.testing.assert_allclose(after, before * wanted.std(0) + np.median(wanted, 0), rtol=1e-4)
    for name, unit in objective.units(net).items():
        assert np.broadcast_shapes(unit.shape, net.shapes[name]) == net.shapes[name]


SCALES: dict[str, Callable[[Graph, str], str]] = {
    "one for all": lambda g, y: g.add("Add", g.add("Mul", y, g.value(np.float32(40))), g.value(np.float32(20))),
    "each its own": lambda g, y: g.add(
        "Add", g.add("Mul", y, g.value(np.float32([2, 300, -0.1]))), g.value(np.float32([1, 2, 3]))
    ),
    "divided, taken from": lambda g, y: g.add("Sub", g.value(np.float32(5)), g.add("Div", y, g.value(np.float32([4, 8, 0.5])))),
    "behind a shape and a turn": lambda g, y: g.add(
        "Gather",
        g.add("Sub", g.add("Mul", y, g.value(np.float32([1, 2, 3]))), g.value(np.float32([7, 8, 9]))),
        ints(g, 2, 0, 1),
        axis=1,
    ),
}


@pytest.mark.parametrize("kind", SCALES)
def test_a_fresh_last_layer_answers_in_units_of_its_targets_whatever_scale_is_behind_it(kind: str) -> None:
    """Steps are as large as they are where the scale is in the targets: with a scale of 40 every one was 40 times too large."""
    graph, draw = Graph(1, 6), np.random.default_rng(0)
    net = graph.net(SCALES[kind](graph, graph.dense("x", 6, 3)))
    targets = draw.normal((10, -500, 0.01), (2, 100, 0.001), (50, 3))
    objective, _ = chosen(net, heads(net), "regress", "data", {"train": [targets]})
    x = draw.normal(size=(BATCH, 6)).astype(np.float32)
    layer = last_layer(net, net.outputs[0])
    assert layer is not None
    (before,), (after,) = answered(net, x), answered(objective.begun(net), x)
    own = (before - layer.offset) / layer.gain  # what the layer itself answers
    in_units = (after - np.median(targets, 0)) / targets.std(0)
    np.testing.assert_allclose(in_units, own * np.sign(layer.gain), rtol=1e-3, atol=1e-2)  # of 20 and a thousandth in a float32


def test_a_scale_of_nothing_hides_the_layer() -> None:
    graph = Graph(1, 6)
    net = graph.net(graph.add("Mul", graph.dense("x", 6, 3), graph.value(np.float32([1, 0, 1]))))
    assert last_layer(net, net.outputs[0]) is None


@pytest.mark.parametrize("op", ["Pow", "Mul"])
def test_an_error_that_the_network_measures_itself_is_no_probability(op: str) -> None:
    """However small it is on the first examples."""
    graph = Graph(1, 6)
    wrong = graph.add("Sub", "x", graph.dense(graph.add("Relu", graph.dense("x", 6, 3)), 3, 6))
    square = graph.add("Pow", wrong, graph.value(np.float32(2))) if op == "Pow" else graph.add("Mul", wrong, wrong)
    (head,) = heads(graph.net(graph.add("ReduceMean", square, axes=[1])))
    assert head.free
    assert recognised((head,), [np.full((8, 1), 0.01, np.float32)]) == (head,)


def test_a_layer_behind_which_numbers_are_made_gives_no_output() -> None:
    graph = Graph(1, 6)
    net = graph.net(graph.add("Pad", graph.dense("x", 6, 3), ints(graph, 0, 1, 0, 0)))
    assert last_layer(net, net.outputs[0]) is None
    assert Regress(heads(net)[0]).units(net) == {}


# ------------------------------------------------------------------------------------- outputs without an axis for the batch


def flat_ending(kind: str, *, shape: tuple[int, ...]) -> Network:
    """A network for one example alone, whose output has no axis for the batch, or no other."""
    layers = Layers()
    y = layers.dense(layers.dense("x", 8, 24, relu=True), 24, 4 if shape == (4,) else 1)
    y = layers.add("Squeeze", [y] if shape == () else [y, whole(layers, 0)] if shape == (4,) else [y, whole(layers, 1)])
    y = layers.add(kind, [y]) if kind else y
    nodes = [*layers.nodes, helper.make_node("Identity", [y], ["y"], "to_y")]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [*shape])],
        [numpy_helper.from_array(value, name) for name, value in layers.weights.items()],
    )
    return network.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "net.onnx")


FLAT = [("", ()), ("Sigmoid", ()), ("Sigmoid", (1,)), ("Softmax", (1,)), ("", (4,)), ("Sigmoid", (4,)), ("Softmax", (4,))]


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize(("kind", "shape"), FLAT)
def test_an_output_without_an_axis_for_the_batch_is_measured(
    kind: str, shape: tuple[int, ...], labelled: bool, tmp_path: Path
) -> None:
    net = flat_ending(kind, shape=shape)
    arrays = tasks_data.split(four_classes if shape == (4,) else tasks_data.yes_or_no, 64, 32)
    if not labelled:
        arrays = {key: x for key, x in arrays.items() if key.startswith("x")}
    result = run(net, arrays, tmp_path, "100%", train=False)
    each = [evaluate.run(evaluate.session(tmp_path / "o.onnx"), {"x": x[None]})[0] for x in arrays["x_test"]]
    outputs = evaluate.Model(tmp_path / "o.onnx")(arrays["x_test"])
    assert outputs.shape == (32, *(() if shape == (1,) else shape))
    np.testing.assert_array_equal(outputs.reshape(32, -1), np.stack(each).reshape(32, -1))
    assert result.figures is not None
    if labelled:
        named = outputs.argmax(1) if shape == (4,) else (outputs > (0.5 if kind else 0)).astype(int)
        assert result.figures.after.accuracy == pytest.approx((named == arrays["y_test"]).mean())
    elif (kind, shape) != ("Softmax", (1,)):  # of one number that is always 1 nothing varies
        assert result.figures.after.value > 0.9


def test_a_row_without_an_axis_for_the_batch_is_learned(tmp_path: Path) -> None:
    run(flat_ending("", shape=(4,)), tasks_data.split(four_classes, 512, 256), tmp_path, "80%", epochs=10)
    x, y = four_classes(256, 3)
    assert (evaluate.Model(tmp_path / "o.onnx")(x).argmax(1) == y).mean() > 0.82
