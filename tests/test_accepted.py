"""What is accepted can be finished: every odd file is mended or refused before any work, and ours go through again."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import blocks
import numpy as np
import onnx
import onnxruntime
import pytest
import small_nets
from conftest import difference, feed, run, thorough_but
from graphs import Graph
from onnx import TensorProto, helper, numpy_helper

from mcuprune import preparing, pruning, units
from mcuprune.channels.labelling import label
from mcuprune.cli import main
from mcuprune.errors import BudgetError, McupruneError, ModelError, UnsupportedOperator
from mcuprune.graph import network
from mcuprune.graph.network import Network
from mcuprune.names import Names
from mcuprune.operators import table as ops
from mcuprune.passes import batchnorm as folding
from mcuprune.passes import canonical
from mcuprune.pruning import Request
from mcuprune.train import evaluate, rehearsal

# by their full names: the package has functions of the same names
export = import_module("mcuprune.deploy.qdq")

MODELS = Path(__file__).parents[1] / "models"


def pruned(path: Path, out: Path, macs: str = "60%", *, int8: bool = True) -> pruning.Result:
    return pruning.prune(Request(str(path), {"macs": units.parse(macs, "count")}, str(out), train=False, int8=int8))


def saved(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def block(name: str = "resnet") -> onnx.ModelProto:
    return onnx.load_from_string(blocks.exported(name, "torchscript"))


# ---------------------------------------------------------------------------------------------------------------- names


def test_a_free_name_is_the_wanted_one_or_a_numbered_one() -> None:
    names = Names(["a", "a_2"])
    assert [names.free(name) for name in ("b", "a", "a", "b")] == ["b", "a_3", "a_4", "b_2"]


def _all_names(model: onnx.ModelProto) -> Iterator[str]:
    for node in model.graph.node:
        yield from (node.name, *node.input, *node.output)
    yield from (one.name for part in (model.graph.initializer, model.graph.input, model.graph.output) for one in part)


def _with_names(model: onnx.ModelProto, taken: list[str]) -> onnx.ModelProto:
    """The network with a second output that is computed through tensors and nodes of these names."""
    last = model.graph.output[0].name
    for position, name in enumerate(taken):
        model.graph.node.append(helper.make_node("Relu", [last], [name], name=name if position % 2 else f"node {position}"))
        last = name
    model.graph.output.append(helper.make_tensor_value_info(last, TensorProto.FLOAT, None))
    return model


def _normalised() -> onnx.ModelProto:
    """Convolutions without a bias, each with a BatchNormalization; two layers share their shift; a clip limit is an input."""
    draw = np.random.default_rng(0)
    weights = {"w": draw.normal(size=(8, 3, 3, 3)), "v": draw.normal(size=(8, 8, 3, 3)), "u": draw.normal(size=(4, 8, 1, 1))}
    weights |= {"one": np.ones(8), "zero": np.zeros(8), "six": np.array(6.0)}
    norm = ["one", "zero", "zero", "one"]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "c1", pads=[1] * 4),
        helper.make_node("BatchNormalization", ["a", *norm], ["b"], "n1"),
        helper.make_node("Clip", ["b", "", "six"], ["c"], "relu"),
        helper.make_node("Conv", ["c", "v"], ["d"], "c2", pads=[1] * 4),
        helper.make_node("BatchNormalization", ["d", *norm], ["e"], "n2"),
        helper.make_node("Conv", ["e", "u"], ["y"], "c3"),
    ]
    floats = {name: value.astype(np.float32) for name, value in weights.items()}
    return small_nets.model(nodes, floats, {"x": [1, 3, 8, 8]}, {"y": [1, 4, 8, 8]})


NAMED = {
    "normalised": _normalised,
    "resnet": block,
    "gates": lambda: block("squeeze-excite, hard-swish"),
    "shuffle": lambda: block("convolutions and shuffle"),
}


@pytest.mark.parametrize(("name", "int8"), [("normalised", False), *((name, True) for name in NAMED)])
def test_every_name_that_is_made_differs_from_the_files_own(name: str, int8: bool, tmp_path: Path) -> None:
    """A file that has, as names of its own, every name that pruning it makes: the same network comes out under others."""
    plain = saved(NAMED[name](), tmp_path / "plain.onnx")
    pruned(plain, tmp_path / "once.onnx", int8=int8)
    made = sorted(set(_all_names(onnx.load(tmp_path / "once.onnx"))) - set(_all_names(onnx.load(plain))) - {""})
    assert made
    again = saved(_with_names(NAMED[name](), made), tmp_path / "again.onnx")
    pruned(again, tmp_path / "twice.onnx", int8=int8)
    one, other = onnx.load(tmp_path / "once.onnx"), onnx.load(tmp_path / "twice.onnx")
    found = run(other, feed(one))[0]
    assert difference([found], run(one, feed(one))[:1]) == 0
    assert set(made) <= set(_all_names(other))


def test_names_of_operators_that_are_rewritten_are_free_ones() -> None:
    """Integer operators become float ones between quantisers, in a file that has those tensors' usual names already."""
    uint8, scale, zero = TensorProto.UINT8, np.float32(0.05), np.uint8(128)
    weights = {"w": np.full((4, 3, 1, 1), 130, np.uint8), "v": np.full((4, 4, 1, 1), 126, np.uint8), "s": scale, "z": zero}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y/float"], "q"),
        helper.make_node("QLinearConv", ["y/float", "s", "z", "w", "s", "z", "s", "z"], ["y/float_0"], "y/float"),
        helper.make_node("QLinearConv", ["y/float_0", "s", "z", "v", "s", "z", "s", "z"], ["y"], "c"),
        helper.make_node("DequantizeLinear", ["y", "s", "z"], ["out"], "d"),
    ]
    model = small_nets.model(nodes, weights, {"x": [1, 3, 4, 4]}, {"out": [1, 4, 4, 4]})
    assert uint8 == model.graph.initializer[0].data_type
    net = network.from_proto(model, "m.onnx", accept=ops.accept("m.onnx"))
    assert difference(run(net, feed(model)), run(model, feed(model))) < 0.02


@pytest.mark.parametrize("name", ["resnet", "shufflenet v2 unit", "squeeze-excite, hard-swish", "learned scale", "prelu"])
def test_our_own_int8_file_goes_through_again(name: str, tmp_path: Path) -> None:
    """At 100 % it computes the same, to two steps of its output; at 60 % it is cut; a third time nothing has grown."""
    once, twice, thrice = (tmp_path / f"{count}.onnx" for count in (1, 2, 3))
    pruned(saved(block(name), tmp_path / "m.onnx"), once)
    again = pruned(once, twice, "100%")
    assert "ranges are those of the file's own quantisers" in " ".join(again.notes)
    step = max(numpy_helper.to_array(t).max() for t in onnx.load(once).graph.initializer if t.name == _last_scale(once))
    for seed in range(4):
        given = feed(onnx.load(once), seed=seed)
        assert np.abs(run(onnx.load(twice), given)[0] - run(onnx.load(once), given)[0]).max() <= 2.01 * step
    pruned(twice, thrice, "100%")
    assert len(onnx.load(thrice).graph.node) == len(onnx.load(twice).graph.node)
    assert set(network.load(once).outputs) == set(network.load(thrice).outputs)
    assert pruned(once, thrice, "60%").ok


def _last_scale(path: Path) -> str:
    model = onnx.load(path)
    last = next(node for node in model.graph.node if node.output[0] == model.graph.output[0].name)
    return str(last.input[1])


@pytest.mark.thorough
def test_our_own_int8_file_keeps_its_accuracy(tmp_path: Path) -> None:
    """With data: trained digits, written as int8, and read again."""
    limit = {"macs": units.parse("100%", "count")}
    first = Request(str(MODELS / "dscnn_digits.onnx"), limit, str(tmp_path / "1.onnx"), data="digits")
    one = pruning.prune(first)
    other = pruning.prune(Request(first.output, limit, str(tmp_path / "2.onnx"), data="digits"))
    assert one.accuracy_int8 is not None
    assert one.accuracy_int8 > 0.97
    assert other.accuracy_int8 == pytest.approx(one.accuracy_int8, abs=0.005)


# ------------------------------------------------------------------------------------------------- mended, or refused


def _weight(model: onnx.ModelProto, dtype: type[np.generic]) -> None:
    tensor = next(t for t in model.graph.initializer if len(t.dims) == 4)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name))


def _every_float(model: onnx.ModelProto, dtype: type[np.generic]) -> None:
    code = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name))
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.elem_type = code
    del model.graph.value_info[:]


def _listed(model: onnx.ModelProto) -> None:
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))


def _wrongly_declared(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 77


MENDED: dict[str, Callable[[onnx.ModelProto], object]] = {
    "no name": lambda model: model.graph.ClearField("name"),
    "a version to come": lambda model: setattr(model, "ir_version", 99),
    "an old version": _listed,
    "no version": lambda model: model.ClearField("ir_version"),
    "a wrong declaration": _wrongly_declared,
    "all of it float16": lambda model: _every_float(model, np.float16),
    "all of it float64": lambda model: _every_float(model, np.float64),
    "nodes of one name": lambda model: [setattr(node, "name", "n") for node in model.graph.node],
}


@pytest.mark.parametrize("int8", [True, False])
@pytest.mark.parametrize("change", MENDED)
def test_what_can_be_mended_is_finished(change: str, int8: bool, tmp_path: Path) -> None:
    model = block()
    MENDED[change](model)
    result = pruned(saved(model, tmp_path / "m.onnx"), tmp_path / "o.onnx", int8=int8)
    assert result.ok
    onnxruntime.InferenceSession(tmp_path / "o.onnx")


def _bytes_for(model: onnx.ModelProto, name: str) -> None:
    changed = model.SerializeToString().replace(name.encode(), b"\xff" + name.encode()[1:])
    model.ParseFromString(changed)


def _also_output(name: Callable[[onnx.ModelProto], str]) -> Callable[[onnx.ModelProto], None]:
    return lambda model: model.graph.output.append(helper.make_tensor_value_info(name(model), TensorProto.FLOAT, None))


def _with_metadata(model: onnx.ModelProto) -> None:
    model.metadata_props.add(key="author", value="somebody")
    _bytes_for(model, "somebody")


def _perm(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Transpose", [model.graph.output[0].name], ["t"], name="turn", perm=[0, 2, 1]))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("t", TensorProto.FLOAT, None))


def _text(model: onnx.ModelProto) -> None:
    """The input turned into text and clipped: a limit of the clip would be text, too."""
    first = model.graph.input[0].name
    for node in model.graph.node:
        node.input[:] = ["clipped" if name == first else name for name in node.input]
    model.graph.node.insert(0, helper.make_node("Clip", ["text", "six"], ["clipped"], name="clip"))
    model.graph.node.insert(0, helper.make_node("Cast", [first], ["text"], name="to text", to=TensorProto.STRING))
    model.graph.initializer.append(numpy_helper.from_array(np.array(6, np.float32), "six"))


REFUSED: dict[str, tuple[Callable[[onnx.ModelProto], object], str]] = {
    "one weight in float64": (lambda model: _weight(model, np.float64), "Conv.*double"),
    "one weight in int64": (lambda model: _weight(model, np.int64), "Conv.*int64"),
    "a node's name no text": (lambda model: _bytes_for(model, model.graph.node[0].name), "no UTF-8"),
    "a tensor's name no text": (lambda model: _bytes_for(model, model.graph.node[0].output[0]), "no UTF-8"),
    "an input's name no text": (lambda model: _bytes_for(model, model.graph.input[0].name), "no UTF-8"),
    "metadata no text": (_with_metadata, r"metadata_props\.value is b'\\xff"),
    "an output that is an input": (_also_output(lambda model: model.graph.input[0].name), "is an input too"),
    "an output that is a constant": (_also_output(lambda model: model.graph.initializer[0].name), "depend on any input"),
    "an output twice": (_also_output(lambda model: model.graph.output[0].name), "twice among the outputs"),
    "a constant twice": (lambda model: model.graph.initializer.append(model.graph.initializer[0]), "twice among the init"),
    "numbers as text": (_text, "text"),
    "axes that aren't there": (_perm, "turn"),
    "an input of text": (
        lambda model: model.graph.input.append(helper.make_tensor_value_info("words", TensorProto.STRING, [1])),
        "input 'words' is text",
    ),
}


@pytest.mark.parametrize("command", ["profile", "prune", "verify"])
@pytest.mark.parametrize("change", REFUSED)
def test_what_can_not_is_refused_by_every_command(
    change: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = block()
    REFUSED[change][0](model)
    path = saved(model, tmp_path / "m.onnx")
    more = ["--macs", "60%", "--no-train", "-o", str(tmp_path / "o.onnx")] if command == "prune" else []
    assert main([command, str(path), *more]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    with pytest.raises(ModelError, match=REFUSED[change][1]):
        network.load(path, accept=ops.accept(str(path)))
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.onnx"]


def _batch_less() -> onnx.ModelProto:
    """A network on one vector, without an axis for the batch."""
    draw = np.random.default_rng(0)
    weights = {"w": draw.normal(size=(8, 16)).astype(np.float32), "v": draw.normal(size=(16, 4)).astype(np.float32)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "v"], ["y"], "second"),
    ]
    return small_nets.model(nodes, weights, {"x": [8]}, {"y": [4]})


def _of_type(dtype: type[np.generic]) -> onnx.ModelProto:
    """A classifier of images whose values are of another type than the weights: choices for truth values, else a cast."""
    draw, truths = np.random.default_rng(0), dtype is np.bool_
    weights = {"most": np.array(1.0 if truths else 100.0), "none": np.array(0.0), "f.w": draw.normal(size=(8, 4))}
    nodes = [
        helper.make_node(*(("Where", ["x", "most", "none"]) if truths else ("Cast", ["x"])), ["r"], "it"),
        helper.make_node("Div", ["r", "most"], ["u"], "scale"),
        small_nets.conv("c1", "u", "a", 3, 8, weights),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        small_nets.conv("c2", "b", "c", 8, 8, weights),
        helper.make_node("GlobalAveragePool", ["c"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flat"),
        helper.make_node("MatMul", ["f", "f.w"], ["y"], "head"),
    ]
    if not truths:
        nodes[0].attribute.append(helper.make_attribute("to", TensorProto.FLOAT))
    weights |= {name: draw.normal(size=value.shape) for name, value in weights.items() if name.startswith("c")}
    floats = {name: value.astype(np.float32) for name, value in weights.items()}
    model = small_nets.model(nodes, floats, {"x": ["N", 3, 8, 8]}, {"y": ["N", 4]})
    model.graph.input[0].type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return model


_TYPES = (np.bool_, np.uint8, np.int8, np.uint16, np.int32, np.int64, np.float16, np.float64)


@pytest.mark.parametrize(
    ("dtype", "train"),
    thorough_but(itertools.product(_TYPES, (False, True)), (np.uint8, False), (np.bool_, True), (np.int64, True)),
)
def test_inputs_of_every_type_are_pruned_with_and_without_data(dtype: type[np.generic], train: bool, tmp_path: Path) -> None:
    """What is measured is what the file gives for examples of its own type; without data its type's ranges are met."""
    path, out = saved(_of_type(dtype), tmp_path / "m.onnx"), tmp_path / "o.onnx"
    draw = np.random.default_rng(0)
    low, high = {np.bool_: (0, 2), np.int8: (-120, 120)}.get(dtype, (0, 120))
    x = draw.integers(low, high, (240, 3, 8, 8)).astype(dtype)
    answers = onnxruntime.InferenceSession(path).run(None, {"x": x})[0]
    if not train:
        assert pruned(path, out, "100%").ok
        if np.dtype(dtype).itemsize == 1:
            found = evaluate.run(onnxruntime.InferenceSession(out), {"x": x.astype(np.float32)})[0]  # bytes may be floats now
            assert np.abs(found - answers).max() < 0.1 * np.abs(answers).max()
    y = answers.argmax(1)
    data = {"x_train": x[:160], "y_train": y[:160], "x_test": x[160:], "y_test": y[160:]}
    limit = {"macs": units.parse("70%", "count")}
    result = pruning.prune(Request(str(path), limit, str(out), train=train, epochs=1, keep_weights=True), data_set=data)
    assert result.accuracy == 1
    assert result.accuracy_int8 is not None


@pytest.mark.parametrize("int8", [True, False])
def test_an_input_that_is_one_number_without_axes_is_finished(int8: bool, tmp_path: Path) -> None:
    model = block()
    model.graph.input.append(helper.make_tensor_value_info("gain", TensorProto.FLOAT, []))
    model.graph.node.append(helper.make_node("Mul", [model.graph.output[0].name, "gain"], ["louder"], "mul"))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("louder", TensorProto.FLOAT, None))
    assert pruned(saved(model, tmp_path / "m.onnx"), tmp_path / "o.onnx", int8=int8).ok


@pytest.mark.parametrize("int8", [True, False])
def test_inputs_without_a_batch_are_finished_or_refused_before_the_work(
    int8: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = saved(_batch_less(), tmp_path / "m.onnx"), tmp_path / "o.onnx"
    began = []
    original = pruning._magnitude
    monkeypatch.setattr(pruning, "_magnitude", lambda *given: began.append(1) or original(*given))
    try:
        assert pruned(path, out, int8=int8).ok
    except McupruneError:
        assert not began


# ------------------------------------------------------------------------------------------------------ before the work


def _resize(axes: list[int] | None, *, sizes: bool) -> onnx.ModelProto:
    """A convolution, twice as large in height and width, and another convolution, as opset 19 may write it."""
    whole = [1, 8, 16, 16] if sizes else [1.0, 1.0, 2.0, 2.0]
    part = whole if axes is None else [whole[axis] for axis in axes]
    weights = {"t": np.array(part, np.int64 if sizes else np.float32)}
    nodes = [
        small_nets.conv("c1", "x", "a", 3, 8, weights),
        helper.make_node(
            "Resize", ["a", "", "", "t"] if sizes else ["a", "", "t"], ["b"], "up", **({} if axes is None else {"axes": axes})
        ),
        small_nets.conv("c2", "b", "c", 8, 8, weights),
        small_nets.conv("c3", "c", "y", 8, 4, weights),
    ]
    draw = np.random.default_rng(1)
    weights |= {name: draw.normal(size=value.shape).astype(np.float32) for name, value in weights.items() if name != "t"}
    return small_nets.model(nodes, weights, {"x": [1, 3, 8, 8]}, {"y": [1, 4, 16, 16]}, opset=19)


@pytest.mark.parametrize("sizes", [True, False])
@pytest.mark.parametrize("axes", [[2, 3], [3, 2], [-2, -1], [3]])
def test_a_resize_of_some_axes_is_written_as_one_of_all(axes: list[int], sizes: bool) -> None:
    model = _resize(axes, sizes=sizes)
    if axes == [3]:
        model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 8, 16]))
    net = network.from_proto(model, "m.onnx", accept=ops.accept("m.onnx"))
    written = net.to_proto()
    assert not any(a.name == "axes" for node in written.graph.node for a in node.attribute)
    from onnx.reference import ReferenceEvaluator

    given = feed(model)
    counted = _resize([axis % 4 for axis in axes], sizes=sizes)  # the reference knows no axes from the end
    assert difference(run(written, given), ReferenceEvaluator(counted).run(None, given)) < 1e-5


def _giving_more(op: str, count: int) -> onnx.ModelProto:
    """Two convolutions around an operator that gives all that it can, of which only the first output is read."""
    weights = {"one": np.ones(8), "zero": np.zeros(8)}
    more = {"LayerNormalization": (["a/last", "one", "zero"], {}), "MaxPool": (["a"], {"kernel_shape": [2, 2]})}
    inputs, attributes = more.get(op, (["a"], {}))
    turn = [helper.make_node("Transpose", ["a"], ["a/last"], "last", perm=[0, 2, 3, 1])] if "a/last" in inputs else []
    nodes = [
        small_nets.conv("c1", "x", "a", 3, 8, weights),
        *turn,
        helper.make_node(op, inputs, ["b", *(f"more {index}" for index in range(1, count))], "it", **attributes),
        *([helper.make_node("Transpose", ["b"], ["c"], "first", perm=[0, 3, 1, 2])] if turn else []),
        small_nets.conv("c2", "c" if turn else "b", "y", 8, 4, weights),
    ]
    draw = np.random.default_rng(1)
    weights |= {name: draw.normal(size=value.shape) for name, value in weights.items() if name not in ("one", "zero")}
    size = 7 if op == "MaxPool" else 8
    floats = {name: value.astype(np.float32) for name, value in weights.items()}
    return small_nets.model(nodes, floats, {"x": [1, 3, 8, 8]}, {"y": [1, 4, size, size]}, opset=17)


OPTIONAL = {
    op: len(schema.outputs)
    for op in ops.OPS
    for schema in [onnx.defs.get_schema(op)]
    if any(output.option == onnx.defs.OpSchema.FormalParameterOption.Optional for output in schema.outputs)
    and op != "BatchNormalization"  # which gives more only while it is trained, and is refused then
}


@pytest.mark.parametrize("op", OPTIONAL)
@pytest.mark.parametrize("int8", [True, False])
def test_outputs_that_an_operator_may_leave_out_and_nothing_reads_are_none(op: str, int8: bool, tmp_path: Path) -> None:
    path, out = saved(_giving_more(op, OPTIONAL[op]), tmp_path / "m.onnx"), tmp_path / "o.onnx"
    assert pruned(path, out, "100%", int8=int8).ok
    given = feed(onnx.load(path))
    assert difference(run(onnx.load(out), given), run(onnx.load(path), given)) < (0.1 if int8 else 1e-5)


def quantiser_scheme(net: Network) -> Network:
    plan = export.scheme(net)
    return export.quantized(net, plan, dict.fromkeys(plan.quantizer.values(), export.Quantizer(0.1, 0)))


@pytest.mark.parametrize("name", sorted(blocks.BLOCKS))
def test_the_default_session_runs_all_that_is_written(name: str) -> None:
    """Float and int8, of every block: the forms that reach a file are ones that onnxruntime has."""
    net = label(canonical.canonical(network.from_proto(block(name), "m.onnx", accept=ops.accept("m.onnx")))[0]).network
    small = folding.folded(net)
    for written in (net, small, quantiser_scheme(small)):
        proto = written.to_proto()
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        assert session.run(None, feed(proto))


def test_what_the_runtime_refuses_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the road would end at the runtime, nobody trains and nothing is written."""
    monkeypatch.setattr(preparing, "training_data", lambda *_, **__: pytest.fail("the work has begun"))

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("NOT_IMPLEMENTED: Could not find an implementation for Conv(22)\nmore")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    out = tmp_path / "o.onnx"
    for train in (True, False):
        request = Request(str(MODELS / "dscnn_digits.onnx"), {"macs": units.parse("60%", "count")}, str(out), train=train)
        with pytest.raises(ModelError, match=r"dscnn_digits\.onnx: onnxruntime can't run .* as float .*Conv\(22\)\);"):
            pruning.prune(request)
    assert not list(tmp_path.iterdir())


def test_an_error_of_the_runtime_while_it_measures_is_a_message() -> None:
    from mcuprune.train.evaluate import Model

    model = Model(small_nets.residual(batch=1).SerializeToString(), name="net.onnx")
    with pytest.raises(ModelError, match=r"net\.onnx: onnxruntime can't run it on examples of shape \[1, 5, 8, 8\]"):
        model(np.zeros((1, 5, 8, 8), np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_weights_that_make_no_finite_numbers_are_refused_before_the_work(value: float, tmp_path: Path) -> None:
    model = block()
    tensor = next(t for t in model.graph.initializer if len(t.dims) == 4)
    weights = np.array(numpy_helper.to_array(tensor))
    weights[:] = value
    tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
    path = saved(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"Conv.*no finite"):
        pruned(path, tmp_path / "o.onnx")
    assert not (tmp_path / "o.onnx").exists()


def test_a_quantiser_of_several_scales_is_refused_by_name(tmp_path: Path) -> None:
    model = small_nets.residual()
    scales, zeros = np.full(3, 0.1, np.float32), np.zeros(3, np.int8)
    model.graph.initializer.extend([numpy_helper.from_array(scales, "scales"), numpy_helper.from_array(zeros, "zeros")])
    quantisers = [
        helper.make_node("QuantizeLinear", ["x", "scales", "zeros"], ["xq"], "by channel", axis=1),
        helper.make_node("DequantizeLinear", ["xq", "scales", "zeros"], ["xd"], "back", axis=1),
    ]
    model.graph.node[0].input[0] = "xd"
    nodes = [*quantisers, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    with pytest.raises(UnsupportedOperator, match=r"'by channel' \(QuantizeLinear\).*float model"):
        pruned(saved(model, tmp_path / "m.onnx"), tmp_path / "o.onnx")


def test_integers_that_are_read_in_other_steps_are_rescaled() -> None:
    """A DequantizeLinear with another scale and zero point than its QuantizeLinear multiplies and shifts."""
    model = small_nets.residual()
    values = {"s1": np.float32(0.05), "z1": np.int8(3), "s2": np.float32(0.2), "z2": np.int8(-5)}
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in values.items())
    quantisers = [
        helper.make_node("QuantizeLinear", ["x", "s1", "z1"], ["xq"], "q"),
        helper.make_node("DequantizeLinear", ["xq", "s2", "z2"], ["xd"], "d"),
    ]
    model.graph.node[0].input[0] = "xd"
    nodes = [*quantisers, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    net = network.from_proto(model, "m.onnx")
    changed = canonical.dequantized(net)
    assert changed is not None
    assert "QuantizeLinear" not in {node.op for node in changed.nodes}
    assert difference(run(changed, feed(model)), run(model, feed(model))) < 0.02


def test_what_torch_cannot_compute_is_named_by_its_node() -> None:
    """Padding of channels with their own edge: onnxruntime computes it, torch has no such padding."""
    graph = Graph(1, 4, 6, 6)
    y = graph.add("Pad", graph.add("Relu", "x"), graph.value(np.array([0, 1, 0, 0, 0, 1, 0, 0])), mode="edge")
    channels = label(graph.net(graph.add("Conv", y, graph.constant(3, 6, 3, 3))))
    with pytest.raises(UnsupportedOperator, match=r"node 'pad\d' \(Pad\): torch can't compute it .*: --no-train --float"):
        rehearsal.rehearse(channels, int8=True, train=True)


def test_the_rehearsal_takes_a_moment() -> None:
    import time

    path = str(MODELS / "resnet8_digits.onnx")
    channels = label(canonical.canonical(network.load(path, accept=ops.accept(path)))[0])
    rehearsal.rehearse(channels, int8=True, train=True)  # imports
    started = time.process_time()
    rehearsal.rehearse(channels, int8=True, train=True)
    assert time.process_time() - started < 1


# ---------------------------------------------------------------------------------------------------- nothing to be cut


def _unprunable(batch: int | str = 1) -> onnx.ModelProto:
    draw = np.random.default_rng(0)
    weights = {"fc.w": draw.normal(size=(10, 256)).astype(np.float32) * 0.1, "fc.b": np.zeros(10, np.float32)}
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "fc.w", "fc.b"], ["y"], "fc", transB=1),
    ]
    return small_nets.model(nodes, weights, {"x": [batch, 1, 16, 16]}, {"y": [batch, 10]})


@pytest.mark.parametrize("int8", [True, False])
def test_a_network_that_fits_is_written_and_the_report_says_that_nothing_was_cut(int8: bool, tmp_path: Path) -> None:
    for model, why in ((_unprunable(), "reaches graph output 'y'"), (block(), "")):
        result = pruned(saved(model, tmp_path / "m.onnx"), tmp_path / "o.onnx", "100%", int8=int8)
        assert result.ok
        note = next(note for note in result.notes if "nothing had to be cut" in note)
        assert why in note
        assert result.before.total["macs"] == result.after.total["macs"]
        quantised = any(node.op_type == "QuantizeLinear" for node in onnx.load(tmp_path / "o.onnx").graph.node)
        assert quantised == int8


def test_nothing_prunable_over_its_budget_is_refused_with_the_least(tmp_path: Path) -> None:
    path = saved(_unprunable(), tmp_path / "m.onnx")
    with pytest.raises(BudgetError, match=r"MACs can't go below 2560 \(limit 1280\).*no prunable channel.*output 'y'"):
        pruned(path, tmp_path / "o.onnx", "50%")
    assert main(["prune", str(path), "--macs", "50%", "--no-train", "-o", str(tmp_path / "o.onnx")]) == 2
    assert not (tmp_path / "o.onnx").exists()


@pytest.mark.thorough
def test_a_trained_network_that_fits_is_not_trained_unless_asked(few_digits: str, tmp_path: Path) -> None:
    request = Request(
        str(MODELS / "dscnn_digits.onnx"), {"macs": units.parse("100%", "count")}, str(tmp_path / "o.onnx"), lr=0.1, batch=32
    )
    spared = pruning.prune(request)
    said = " ".join(spared.notes)
    assert "nothing had to be cut" in said
    assert "no effect without training: --batch, --lr" in said
    assert spared.history == ()
    assert spared.training_macs == 0
    assert spared.training is None
    assert spared.accuracy is not None
    assert spared.accuracy_int8 is not None
    assert spared.accuracy_int8 > spared.accuracy - 0.01
    asked = pruning.prune(Request(request.model, request.limits, request.output, data=few_digits, epochs=2))
    assert asked.history
    assert "no effect" not in " ".join(asked.notes)


def test_an_untrained_network_that_fits_is_trained(tmp_path: Path) -> None:
    path = saved(_unprunable("N"), tmp_path / "m.onnx")
    result = pruning.prune(
        Request(str(path), {"macs": units.parse("100%", "count")}, str(tmp_path / "o.onnx"), data="digits", epochs=3)
    )
    assert result.history
    assert "nothing had to be cut" in " ".join(result.notes)


def test_an_input_that_nothing_reads_is_refused_before_an_int8_file_is_made() -> None:
    g = Graph()
    y = g.conv("x", 3, 4)
    g.input("idle", 1, 5)
    channels = label(g.net(y))
    rehearsal.rehearse(channels, int8=False, train=False)
    with pytest.raises(ModelError, match="input 'idle': no node reads it"):
        rehearsal.rehearse(channels, int8=True, train=False)
