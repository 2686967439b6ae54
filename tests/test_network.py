"""Loading: what a file's form hides is settled once; what mcuprune can't read is refused in one plain sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import blocks
import numpy as np
import onnx
import pytest
import small_nets
import torch
from conftest import difference, feed, random_selection, run
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from mcuprune import places
from mcuprune.channels.labelling import label
from mcuprune.costs.resources import profile
from mcuprune.errors import McupruneError, ModelError, OutputError, UnsupportedOperator
from mcuprune.graph import network
from mcuprune.graph.network import Network
from mcuprune.operators import table as ops
from mcuprune.passes.canonical import batch_fixed, canonical

PLAIN = "inverted residual"


def block(name: str = PLAIN, exporter: str = "torchscript") -> onnx.ModelProto:
    return onnx.load_from_string(blocks.exported(name, exporter))


def loaded(model: onnx.ModelProto, **options: dict) -> Network:
    return network.from_proto(model, "net.onnx", accept=ops.accept("net.onnx"), **options)


def graph(nodes: list, constants: dict | None = None, *, shape: tuple = (1, 3, 8, 8), opset: int = 17) -> onnx.ModelProto:
    """A model of one input x and one output y of unsaid shape."""
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    made.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


# ----------------------------------------------------------------------------------------------------- settled by loading


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 17, 20])
def test_every_opset_loads_and_costs_the_same(opset: int) -> None:
    torch.manual_seed(0)
    module = blocks.randomised(blocks.BLOCKS["resnet"](), 0)
    old = blocks.export(module, dynamo=False, opset=opset)
    assert profile(loaded(old)).total == profile(loaded(blocks.export(module, dynamo=False))).total
    assert difference(run(loaded(old), feed(old)), run(old, feed(old))) == 0


@pytest.mark.parametrize("declared", [("",), ("ai.onnx",), ("", "ai.onnx")], ids=str)
@pytest.mark.parametrize("nested", [False, True])
def test_the_domain_of_operators_may_have_its_long_name(declared: tuple[str, ...], nested: bool, tmp_path: Path) -> None:
    model = block()
    (opset,) = (entry.version for entry in model.opset_import)
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(domain, opset) for domain in declared)
    nodes = [*model.graph.node]
    if nested:  # the whole network in the branch of an If that is decided
        names = [output.name for output in model.graph.output]
        inner = helper.make_graph(nodes, "inner", [], model.graph.output)
        del model.graph.node[:]
        model.graph.initializer.append(numpy_helper.from_array(np.array(True), "decided"))
        branches = {"then_branch": inner, "else_branch": inner}
        model.graph.node.append(helper.make_node("If", ["decided"], [f"{name}/if" for name in names], "if", **branches))
        for output in model.graph.output:
            output.name += "/if"
        branch = model.graph.node[0].attribute
        nodes = [*model.graph.node, *(node for graph in branch for node in graph.g.node)]
    for node in nodes:
        node.domain = "ai.onnx"
    net = loaded(model)
    assert profile(net).total == profile(loaded(block())).total
    net.save(tmp_path / "net.onnx")
    written = onnx.load(tmp_path / "net.onnx")
    assert {entry.domain for entry in written.opset_import} == {node.domain for node in written.graph.node} == {""}


def test_parameters_are_attributes_whatever_the_opset() -> None:
    for opset, node, constants in (
        (9, helper.make_node("Clip", ["x"], ["y"], min=0.0, max=6.0), {}),
        (13, helper.make_node("Clip", ["x", "lo", "hi"], ["y"]), {"lo": np.float32(0), "hi": np.float32(6)}),
    ):
        (clip,) = loaded(graph([node], constants, opset=opset)).nodes
        assert (clip.attrs["min"], clip.attrs["max"]) == (0, 6)
        assert clip.inputs == ("x",)


def test_a_network_is_written_as_it_was_read() -> None:
    model = block("shufflenet v2 unit")
    model.metadata_props.add(key="author", value="someone")
    net = loaded(model)
    again = loaded(net.to_proto())
    assert again.nodes == net.nodes
    assert again.metadata == {"author": "someone"}
    assert difference(run(again, feed(model)), run(model, feed(model))) == 0


def test_an_output_of_unsaid_shape_is_written_so_that_the_checker_takes_it(tmp_path: Path) -> None:
    """Runtimes take such files; the checker, which writing asks, doesn't."""
    model = graph([helper.make_node("Conv", ["x", "w"], ["y"])], {"w": weight(4, 3, 1, 1)}, shape=("n", 3, 8, 8))
    loaded(model).save(tmp_path / "o.onnx")
    (written,) = onnx.load(tmp_path / "o.onnx").graph.output
    assert [dim.WhichOneof("value") for dim in written.type.tensor_type.shape.dim] == [None] * 4  # at any batch


def test_weights_behind_identity_and_constant_of_shape_are_constants() -> None:
    nodes = [
        helper.make_node("ConstantOfShape", ["dims"], ["made"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [0.5])),
        helper.make_node("Identity", ["made"], ["w"]),
        helper.make_node("Conv", ["x", "w"], ["y"]),
    ]
    net = loaded(graph(nodes, {"dims": np.array([4, 3, 1, 1])}))
    assert [node.op for node in net.nodes] == ["Conv"]
    assert net.constants[net.nodes[0].inputs[1]].shape == (4, 3, 1, 1)


def test_initializers_listed_as_inputs_are_no_inputs() -> None:
    model = block()
    for initializer in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(initializer.name, initializer.data_type, initializer.dims))
    assert loaded(model).inputs == loaded(block()).inputs


def test_a_cast_like_other_data_is_a_cast() -> None:
    nodes = [
        helper.make_node("CastLike", ["low", "x"], ["l"]),
        helper.make_node("Clip", ["x", "l"], ["c"]),
        helper.make_node("CastLike", ["c", "x"], ["y"]),
    ]
    net = loaded(graph(nodes, {"low": np.array(0, np.int64)}))
    assert [node.op for node in net.nodes] == ["Clip", "Cast"]
    assert net.nodes[0].attrs["min"] == 0


def test_functions_of_the_model_are_inlined() -> None:
    body = [helper.make_node("Conv", ["a", "b"], ["c"]), helper.make_node("Relu", ["c"], ["d"])]
    function = helper.make_function("mine", "ConvRelu", ["a", "b"], ["d"], body, [helper.make_opsetid("", 17)])
    model = graph([helper.make_node("ConvRelu", ["x", "w"], ["y"], domain="mine")], {"w": weight(4, 3, 1, 1)})
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.functions.append(function)
    assert [node.op for node in loaded(model).nodes] == ["Conv", "Relu"]


def test_external_data_is_read(tmp_path: Path) -> None:
    onnx.save(block(), tmp_path / "net.onnx", save_as_external_data=True, size_threshold=0, location="net.data")
    assert profile(network.load(tmp_path / "net.onnx")).total == profile(loaded(block())).total


def test_nodes_that_no_output_needs_are_dropped() -> None:
    model = block()
    model.graph.node.append(helper.make_node("Relu", [model.graph.input[0].name], ["unused"]))
    assert loaded(model).nodes == loaded(block()).nodes


@pytest.mark.parametrize(
    ("name", "dynamo"),
    [
        *((name, False) for name in ("view to linear", "shufflenet v1 unit", "squeeze-excite, linear")),
        ("shufflenet v1 unit", True),
        *(pytest.param(name, True, marks=pytest.mark.slow) for name in ("view to linear", "squeeze-excite, linear")),
    ],
)
def test_a_baked_batch_is_taken_as_one_example(name: str, dynamo: bool) -> None:
    torch.manual_seed(0)
    module = blocks.randomised(blocks.BLOCKS[name](), 0)
    four = blocks.export(module, dynamo=dynamo, batch=4)
    net = loaded(four)
    assert profile(net).total == profile(loaded(blocks.export(module, dynamo=dynamo))).total
    assert net.to_proto().graph.input == four.graph.input  # declared as it was
    channels = label(net)
    keep = random_selection(channels, 0.5, 0)
    assert difference(run(channels.cut(keep), feed(four)), run(channels.masked(keep), feed(four))) <= 1e-5


def test_free_sizes_are_fixed_on_request() -> None:
    model = block()
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    for dim, name in zip(model.graph.input[0].type.tensor_type.shape.dim, ("n", "", "h", "w"), strict=True):
        if name:
            dim.dim_param = name
    with pytest.raises(ModelError, match="--input-shape x=1,3,"):
        loaded(model)
    net = loaded(model, input_shapes={"x": (1, 3, 12, 12)})
    assert net.shapes["x"] == (1, 3, 12, 12)
    declared = [dim.dim_value or dim.dim_param for dim in net.to_proto().graph.input[0].type.tensor_type.shape.dim]
    assert declared == ["n", 3, 12, 12], "what was computed of these sizes may stand in the file, which says so"
    assert loaded(net.to_proto()).shapes == net.shapes
    model.graph.input[0].type.tensor_type.ClearField("shape")
    assert loaded(loaded(model, input_shapes={"x": (1, 3, 12, 12)}).to_proto()).shapes == net.shapes


def test_a_batch_that_is_fixed_on_request_is_counted_as_one_example() -> None:
    model = block()
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    sizes = tuple(dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:])
    one, four = (loaded(model, input_shapes={"x": (batch, *sizes)}) for batch in (1, 4))
    assert four.shapes == one.shapes
    rows = helper.make_model(
        helper.make_graph(
            [helper.make_node("MatMul", ["w", "x"], ["y"], "product")],
            "rows",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [5, 4])],
            [numpy_helper.from_array(np.ones((5, 7), np.float32), "w")],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    assert loaded(rows, input_shapes={"x": (7, 4)}).shapes["x"] == (7, 4)  # no batch: one row fits no weights


# ------------------------------------------------------------------------------------------------------- quantised files


def quantized(model: onnx.ModelProto, folder: Path, form: str) -> onnx.ModelProto:
    from onnxruntime import quantization as ort

    class Reader(ort.CalibrationDataReader):
        def __init__(self) -> None:
            self.inputs = iter([feed(model, seed=seed) for seed in range(4)])

        def get_next(self) -> dict | None:
            return next(self.inputs, None)

    source, target = folder / "float.onnx", folder / "int8.onnx"
    onnx.save(model, source)
    # weights of 7 bits: with 8 the integer kernels of onnxruntime, the oracle here, saturate on x86 processors without VNNI
    if form == "dynamic":
        ort.quantize_dynamic(source, target, reduce_range=True)
    else:
        style = ort.QuantFormat.QDQ if form == "qdq" else ort.QuantFormat.QOperator
        ort.quantize_static(source, target, Reader(), quant_format=style, per_channel=form == "qdq", reduce_range=True)
    return onnx.load(target)


@pytest.mark.parametrize("form", ["qdq", "qoperator", "dynamic"])
@pytest.mark.parametrize("name", ["inverted residual", "flatten to linear", "squeeze-excite, hard-swish"])
def test_a_quantised_file_counts_and_computes_as_its_float_one(name: str, form: str, tmp_path: Path) -> None:
    model = block(name)
    integer = quantized(model, tmp_path, form)
    net = loaded(integer)
    assert difference(run(net, feed(model)), run(integer, feed(model))) <= (5e-2 if form == "dynamic" else 1e-2)
    counted, expected = profile(net).total, profile(loaded(model)).total
    keys = ("macs",) if form == "dynamic" else ("macs", "params", "flash")
    assert {key: counted[key] for key in keys} == {key: expected[key] for key in keys}


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_taking_quantisers_out_leaves_the_clip_that_they_imply(form: str, tmp_path: Path) -> None:
    model = block("inverted residual")  # its ReLU6 hide in the quantisers' ranges
    net, notes = canonical(loaded(quantized(model, tmp_path, form)))
    assert notes == ()
    assert not [node for node in net.nodes if "Quantize" in node.op]
    assert difference(run(net, feed(model)), run(model, feed(model))) <= 0.1
    channels = label(net)
    keep = random_selection(channels, 0.5, 0)
    assert difference(run(channels.cut(keep), feed(model)), run(channels.masked(keep), feed(model))) <= 1e-5


# ------------------------------------------------------------------------------------------------------ canonicalisation


def halved(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in float16, inputs and outputs too."""
    half = onnx.ModelProto()
    half.CopyFrom(model)
    for initializer in half.graph.initializer:
        if initializer.data_type == TensorProto.FLOAT:
            initializer.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(initializer).astype(np.float16), initializer.name)
            )
    for value in [*half.graph.input, *half.graph.output]:
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    del half.graph.value_info[:]
    for node in half.graph.node:
        if node.op_type == "Constant" and node.attribute[0].t.data_type == TensorProto.FLOAT:
            node.attribute[0].t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(node.attribute[0].t).astype(np.float16)))
    return half


def test_half_precision_is_computed_in_float32_and_cast_at_the_border() -> None:
    model = halved(block("resnet"))
    original = loaded(model)
    net, notes = canonical(original)
    assert notes == ()
    assert net.inputs == original.inputs
    assert all(net.dtypes[name] == TensorProto.FLOAT for name in net.constants)
    assert run(net, feed(model))[0].dtype == np.float16
    assert profile(net).total["macs"] == profile(original).total["macs"]
    onnx.checker.check_model(net.to_proto(), full_check=True)


def test_a_resize_to_fixed_sizes_takes_any_batch() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Resize", ["c", "", "", "sizes"], ["y"], mode="nearest"),
    ]
    net = loaded(graph(nodes, {"w": weight(6, 3, 1, 1), "sizes": np.array([1, 6, 16, 16])}))
    assert batch_fixed(net) is not None
    free, notes = canonical(net)
    assert notes == ()
    assert batch_fixed(free) is None


def test_a_pass_that_changes_an_output_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from mcuprune.passes import canonical as module

    def spoil(net: Network) -> Network:
        return net.with_constants({name: value * 2 for name, value in net.constants.items() if value.dtype.kind == "f"})

    monkeypatch.setattr(module, "_PASSES", (module._Pass("spoiling", spoil, 1e-4),))
    net = loaded(block())
    same, notes = canonical(net)
    assert same is net
    assert "spoiling would change an output" in notes[0]


@pytest.mark.parametrize("name", blocks.BLOCKS)
def test_what_is_canonical_stays_as_it_is(name: str) -> None:
    net = loaded(block(name, "dynamic"))
    same, notes = canonical(net)
    assert notes == ()
    assert same is net


# --------------------------------------------------------------------------------------------------------------- refusals


def _if() -> onnx.ModelProto:
    branch = helper.make_graph([helper.make_node("Relu", ["x"], ["b"])], "b", [], [helper.make_empty_tensor_value_info("b")])
    return graph([helper.make_node("If", ["x"], ["y"], name="n", then_branch=branch, else_branch=branch)])


def _domain(name: str, op: str) -> onnx.ModelProto:
    model = graph([helper.make_node(op, ["x"], ["y"], name="n", domain=name)])
    model.opset_import.append(helper.make_opsetid(name, 1))
    return model


REFUSED = {
    "control flow": (_if(), "control flow"),
    "recurrent": (
        graph(
            [helper.make_node("LSTM", ["x", "w", "r"], ["y"], name="n", hidden_size=8)],
            {"w": weight(1, 32, 8), "r": weight(1, 32, 8)},
            shape=(4, 1, 8),
        ),
        "recurrent",
    ),
    "custom domain": (_domain("my.ops", "Fancy"), "custom operator"),
    "ORT-optimised": (_domain("com.microsoft", "FusedConv"), "export again without graph optimisation"),
    "batch norm in training": (
        graph(
            [helper.make_node("BatchNormalization", ["x", "s", "s", "s", "s"], ["y", "a", "b"], name="n", training_mode=1)],
            {"s": weight(3)},
            opset=15,
        ),
        "training mode",
    ),
    "dropout in training": (
        graph([helper.make_node("Dropout", ["x", "", "t"], ["y"], name="n")], {"t": np.array(True)}),
        "training mode",
    ),
    "dropout whose mask is read": (
        graph(
            [
                helper.make_node("Dropout", ["x"], ["d", "m"], name="n"),
                helper.make_node("Cast", ["m"], ["f"], to=1),
                helper.make_node("Add", ["d", "f"], ["y"]),
            ]
        ),
        "hands on its mask",
    ),
    "computed weights": (
        graph(
            [helper.make_node("Relu", ["x"], ["w"]), helper.make_node("Conv", ["x", "w"], ["y"], name="n")],
            shape=(3, 3, 3, 3),
        ),
        "computed at run time",
    ),
    "pooling indices": (
        graph(
            [
                helper.make_node("MaxPool", ["x"], ["p", "i"], kernel_shape=[2, 2], name="n"),
                helper.make_node("Cast", ["i"], ["f"], to=1),
                helper.make_node("Add", ["p", "f"], ["y"]),
            ]
        ),
        "indices",
    ),
    "unknown operator": (graph([helper.make_node("NonMaxSuppression", ["x", "x"], ["y"], name="n")]), "NonMaxSuppression"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refusals_name_the_file_the_node_and_the_reason(what: str) -> None:
    model, reason = REFUSED[what]
    with pytest.raises(UnsupportedOperator, match=reason) as caught:
        label(loaded(model))
    assert "net.onnx: node 'n'" in str(caught.value)


@pytest.mark.skipif(onnx.defs.onnx_opset_version() < 28, reason="SpaceToDepth has a mode from opset 28 on")
def test_blocks_whose_channels_come_in_another_order_are_refused() -> None:
    node = helper.make_node("SpaceToDepth", ["x"], ["y"], name="n", blocksize=2, mode="CRD")
    with pytest.raises(UnsupportedOperator, match="SpaceToDepth has mode CRD"):
        label(loaded(graph([node], opset=28)))


@pytest.mark.parametrize("opset", [6, 99])
def test_opsets_out_of_range_are_refused(opset: int) -> None:
    model = block()
    model.opset_import[0].version = opset
    with pytest.raises(ModelError, match=f"opset {opset}"):
        loaded(model)


def test_a_wrong_input_shape_names_the_inputs() -> None:
    with pytest.raises(ModelError, match="the inputs are x"):
        loaded(block(), input_shapes={"z": (1, 3, 8, 8)})


def test_a_network_without_convolutions_is_read() -> None:
    model = blocks.export(nn.Sequential(nn.Flatten(), nn.Linear(432, 8), nn.ReLU(), nn.Linear(8, 4)), dynamo=False)
    assert [len(group) for group in label(loaded(model)).groups] == [8]


# ---------------------------------------------------------------------------------------------------------------- writing


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="can't be written"):
        loaded(block()).save(tmp_path / "no" / "net.onnx")
    loaded(block()).save(tmp_path / "net.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    assert isinstance(network.load(tmp_path / "net.onnx"), Network)


def test_only_regular_files_are_replaced_and_a_link_stays_a_link(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="no regular file"):
        places.write_bytes(b"new", tmp_path / "pipe")
    assert not any(places.replaceable(path) for path in ("/dev/stdout", "/dev/fd/1", "/dev/null", tmp_path))
    assert places.replaceable(tmp_path / "new")
    (tmp_path / "there").write_bytes(b"old")
    (tmp_path / "link").symlink_to("there")
    (tmp_path / "link.partial").write_bytes(b"somebody's")
    places.write_bytes(b"new", tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there").read_bytes() == b"new"
    assert (tmp_path / "link.partial").read_bytes() == b"somebody's"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "link.partial", "pipe", "there"]


def test_reading_a_missing_file_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(McupruneError, match="can't be read"):
        network.load(tmp_path / "none.onnx")


def test_profiling_imports_no_runtime_and_no_torch() -> None:
    code = (
        "import sys; import mcuprune.graph.network, mcuprune.operators.table; "
        "import mcuprune.channels.labelling, mcuprune.costs.resources; "
        "print([m for m in ('torch', 'onnxruntime', 'onnx.reference', 'onnx2torch') if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
    )
    assert found.stdout.strip() == "[]"


def test_parameters_of_a_wrong_shape_are_refused_by_node() -> None:
    """Shape inference lets them through, and no runtime takes them."""
    for op, extra, said in (
        ("Clip", np.zeros(2, np.float32), "several numbers as its min"),
        ("Conv", np.zeros((3, 5), np.float32), r"a bias of shape \[3, 5\] for 3 channels"),
    ):
        weight = [numpy_helper.from_array(np.zeros((3, 2, 1, 1), np.float32), "w")] if op == "Conv" else []
        node = helper.make_node(op, ["x", *(tensor.name for tensor in weight), "extra"], ["y"], name="wrong")
        graph = helper.make_graph(
            [node],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 4, 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3 if op == "Conv" else 2, 4, 4])],
            [*weight, numpy_helper.from_array(extra, "extra")],
        )
        with pytest.raises(ModelError, match=rf"node 'wrong' \({op}\) has {said}"):
            loaded(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))


@pytest.mark.parametrize("opset", [12, 22])
@pytest.mark.parametrize(
    ("op", "attrs"),
    [
        ("MaxPool", {"kernel_shape": [2, 2], "strides": [3, 3], "pads": [1, 1, 1, 1]}),
        ("MaxPool", {"kernel_shape": [2, 2], "strides": [3, 3], "pads": [0, 1, 1, 0], "dilations": [2, 1]}),
        ("MaxPool", {"kernel_shape": [1, 2], "strides": [3, 4], "auto_pad": "VALID"}),
        ("MaxPool", {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
        ("AveragePool", {"kernel_shape": [3, 2], "strides": [2, 3], "pads": [1, 1, 1, 1]}),
        ("AveragePool", {"kernel_shape": [2, 2], "strides": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
        ("AveragePool", {"kernel_shape": [2, 3], "strides": [3, 2]}),
    ],
)
def test_no_window_of_a_pool_that_rounds_up_begins_in_the_padding(op: str, attrs: dict, opset: int) -> None:
    node = helper.make_node(op, ["x"], ["y"], name="p", ceil_mode=1, **attrs)
    for size in range(6, 12):
        model = graph([node], shape=(1, 1, size, size + 1), opset=opset)
        (expected,) = run(model, feed(model))
        assert loaded(model).shapes["y"] == expected.shape


@pytest.mark.parametrize("op", ["MaxPool", "Dropout"])
def test_what_nothing_reads_of_a_node_is_no_value(op: str) -> None:
    """Indices and masks: profile counted none, and a network that gives them can't be trained or written as int8."""
    attrs = {"kernel_shape": [2, 2], "strides": [2, 2]} if op == "MaxPool" else {}
    shapes = [(1, 3, 8, 8), (1, 3, 4, 4) if attrs else (1, 3, 8, 8)]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in zip("xy", shapes, strict=True)]
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y", "more"], op, **attrs)], "g", ports[:1], ports[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    assert loaded(model).nodes[0].outputs == ("y",)
    kind = TensorProto.INT64 if attrs else TensorProto.BOOL
    model.graph.output.append(helper.make_tensor_value_info("more", kind, shapes[1]))
    assert loaded(model).nodes[0].outputs == ("y", "more")


def test_a_leading_size_of_nothing_is_a_free_one() -> None:
    """As some exporters write a batch that is open; 0 examples at a time would be no network."""
    model = small_nets.residual()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 0
    net = network.from_proto(model, "net.onnx")
    written = net.to_proto()
    dim = written.graph.input[0].type.tensor_type.shape.dim[0]
    assert not dim.HasField("dim_value")
    assert profile(net).total == profile(network.from_proto(small_nets.residual(), "net.onnx")).total
    x = np.zeros((3, *net.shapes[net.inputs[0]][1:]), np.float32)
    assert len(run(written, {net.inputs[0]: x})[0]) == 3


def sized(*dims: int | str | None) -> onnx.ModelProto:
    """A network whose input declares these sizes: numbers, names, or None for one that is only free."""
    model = graph([helper.make_node("Relu", ["x"], ["y"])])
    del model.graph.input[:]
    model.graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, dims))
    return model


@pytest.mark.parametrize(
    ("dims", "said"),
    [
        (("N", 3, "H", "W"), "free sizes [N, 3, H, W]; fix them with --input-shape x=1,3,H,W, a number in place of H and W"),
        (("N", 3, "S", "S"), "free sizes [N, 3, S, S]; fix them with --input-shape x=1,3,S,S, a number in place of S"),
        (("N", 3, None, "W"), "free sizes [N, 3, ?, W]; fix them with --input-shape x=1,3,?,W, a number in place of ? and W"),
        (("b", 3, "a b", "x;y"), "free sizes [b, 3, a b, x;y]; fix them with --input-shape x=1,3,?,?, a number in place of ?"),
        (
            (1, 3, 0, 8),
            "'x' [1, 3, 0, 8] has a size of 0, which no data has; say which size is meant with --input-shape x=1,3,?,8, "
            "a number in place of ?",
        ),
        (("N", 0, 8, "W"), "'x' [N, 0, 8, W] has a size of 0, which no data has; say which size is meant with --input-shape"),
    ],
)
def test_of_missing_sizes_the_message_has_what_the_file_calls_them(dims: tuple[int | str | None, ...], said: str) -> None:
    with pytest.raises(ModelError) as refused:
        loaded(sized(*dims))
    assert said in str(refused.value)
    assert loaded(sized(*dims), input_shapes={"x": (1, 3, 8, 8)}).shapes["y"] == (1, 3, 8, 8)


def test_a_batch_of_0_is_a_free_one() -> None:
    net = loaded(sized(0, 3, 8, 8))
    assert net.shapes["x"] == (1, 3, 8, 8)
    assert not net.to_proto().graph.input[0].type.tensor_type.shape.dim[0].HasField("dim_value")


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ([helper.make_node("Slice", ["x", "at", "at", "axis"], ["y"])], "(Slice) has shape [1, 3, 0, 8], which holds nothing"),
        (
            [helper.make_node("Conv", ["x", "none"], ["y"])],
            "'none' of an initializer has shape [0, 3, 1, 1], which holds",
        ),
        (
            [helper.make_node("Conv", ["x", "wide"], ["y"])],
            "(Conv) has shape [1, 4, -1, -1], which holds nothing; give a larger",
        ),
    ],
)
def test_a_tensor_that_holds_nothing_is_said_to(nodes: list, said: str) -> None:
    constants = {"at": np.int64([3]), "axis": np.int64([2]), "none": np.zeros((0, 3, 1, 1), np.float32)}
    with pytest.raises(ModelError) as refused:
        loaded(graph(nodes, constants | {"wide": np.ones((4, 3, 10, 10), np.float32)}))
    assert said in str(refused.value)
