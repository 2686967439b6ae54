"""Files that are damaged or mean harm: one plain message or a right answer, in bounded memory and time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import blocks
import numpy as np
import onnx
import pytest
import small_nets
from onnx import TensorProto, helper, numpy_helper

from mcuprune import pruning, units
from mcuprune.channels.labelling import label
from mcuprune.cli import main
from mcuprune.costs.resources import profile
from mcuprune.errors import McupruneError, ModelError
from mcuprune.graph import network
from mcuprune.graph.external import files
from mcuprune.operators import table as ops
from mcuprune.pruning import Request

ROOT = Path(__file__).parents[1]


def content() -> bytes:
    return blocks.exported("resnet", "torchscript")


def refused(folder: Path, written: bytes) -> str:
    """The message with which a file is refused."""
    path = folder / "net.onnx"
    path.write_bytes(written)
    with pytest.raises(McupruneError) as caught:
        profile(network.load(path, accept=ops.accept(str(path))))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_file_cut_short_is_refused(share: float, tmp_path: Path) -> None:
    refused(tmp_path, content()[: int(len(content()) * share)])


@pytest.mark.parametrize("written", [b"", b"\x00" * 100, b"\xff" * 100, b"hello", b"PK\x03\x04", b"{}"])
def test_what_is_no_onnx_file_is_refused(written: bytes, tmp_path: Path) -> None:
    refused(tmp_path, written)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(McupruneError, match="can't be read"):
        network.load(tmp_path)


Change = Callable[[onnx.GraphProto], object]


def test_an_arena_is_planned_for_no_more_tensors_than_a_microcontroller_takes(capsys, tmp_path) -> None:
    """A plan takes the square of them: of 20,000 some gigabytes and a minute."""

    def split(parts: int) -> str:
        names = [f"y{i}" for i in range(parts)]
        nodes = [
            helper.make_node("Split", ["x"], names, axis=1, num_outputs=parts),
            helper.make_node("Concat", names, ["y"], axis=1),
        ]
        ports = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, parts, 2, 2])] for name in "xy"]
        graph = helper.make_graph(nodes, "g", *ports)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "split.onnx")
        return str(tmp_path / "split.onnx")

    assert main(["profile", split(5000)]) == 2
    message = capsys.readouterr().err
    assert "5,001 tensors are needed at once; an arena is planned for 4,096 at most" in message
    assert message.count("\n") == 1
    assert main(["profile", split(200), "-q"]) == 0


_DOUBLED = [("Concat", ["w" if i == 0 else f"d{i}"] * 2, f"d{i + 1}", {"axis": 2}) for i in range(23)]
_MATRICES = [("MatMul", ["v" if i == 0 else f"d{i}"] * 2, f"d{i + 1}", {}) for i in range(3)]


@pytest.mark.parametrize(
    ("nodes", "constants"),
    {
        "ConstantOfShape": ([("ConstantOfShape", ["s"], "k", {})], {"s": [2**27]}),
        "Concat": ([*_DOUBLED, ("Neg", ["d23"], "k", {})], {}),
        "Tile": ([("Tile", ["w", "s"], "k", {})], {"s": [1, 1, 2**11, 2**11]}),
        "Pad": ([("Pad", ["w", "s"], "k", {})], {"s": [0, 0, 0, 0, 0, 0, 2**12, 2**11]}),
        "Range": ([("Range", ["a", "b", "c"], "k", {})], {"a": 0, "b": 2**27, "c": 1}),
        "OneHot": ([("OneHot", ["s", "b", "t"], "k", {})], {"s": [1, 2, 3, 4], "b": 2**25, "t": [0, 1]}),
        "MatMul": ([("ConstantOfShape", ["s"], "v", {}), *_MATRICES, ("Neg", ["d3"], "k", {})], {"s": [3000, 3000]}),
        "Conv": (
            [("ConstantOfShape", ["s"], "v", {}), ("Conv", ["v", "w"], "k", {"kernel_shape": [3, 3]})],
            {"s": [1, 3, 900, 900]},
        ),
    }.values(),
    ids=lambda nodes: "",
)
def test_no_constant_is_computed_that_so_small_a_file_cannot_mean(nodes: list, constants: dict) -> None:
    made = [helper.make_node(op, read, [written], name=written, **attrs) for op, read, written, attrs in nodes]
    made += [
        helper.make_node("Cast", ["k"], ["f"], name="f", to=1),
        helper.make_node("ReduceMax", ["f"], ["m"], name="m", keepdims=0),
    ]
    made += [helper.make_node("Add", ["x", "m"], ["z"], name="z"), helper.make_node("Conv", ["z", "w"], ["y"], name="c")]
    stored = {name: numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants.items()}
    stored["w"] = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")
    x, y = (helper.make_tensor_value_info(name, 1, shape) for name, shape in (("x", (1, 3, 8, 8)), ("y", None)))
    model = helper.make_model(
        helper.make_graph(made, "g", [x], [y], stored.values()), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    assert len(model.SerializeToString()) < 3000
    with pytest.raises(McupruneError, match="so small a file"):
        network.from_proto(model, "net.onnx", accept=ops.accept("net.onnx"))


def _node(graph: onnx.GraphProto, op: str, which: int = 0) -> onnx.NodeProto:
    return [node for node in graph.node if node.op_type == op][which]


def _cyclic(graph: onnx.GraphProto) -> None:
    _node(graph, "Conv").input[0] = _node(graph, "Relu", 1).output[0]


def _dangling(graph: onnx.GraphProto) -> None:
    _node(graph, "Conv", 1).input[0] = "nothing"


def _made_twice(graph: onnx.GraphProto) -> None:
    _node(graph, "Relu", 1).output[0] = _node(graph, "Relu").output[0]


def _made_of_an_input(graph: onnx.GraphProto) -> None:
    _node(graph, "Relu").output[0] = graph.input[0].name


def _negative(graph: onnx.GraphProto) -> None:
    graph.initializer[0].dims[0] = -5


def _endless(graph: onnx.GraphProto) -> None:
    graph.initializer[0].dims[0] = 2**62


def _other_rank(graph: onnx.GraphProto) -> None:
    graph.initializer[0].dims[:] = [int(np.prod(graph.initializer[0].dims))]


def _wide_input(graph: onnx.GraphProto) -> None:
    graph.input[0].type.tensor_type.shape.dim[2].dim_value = 2**40


def _no_input(graph: onnx.GraphProto) -> None:
    del graph.input[:]


def _no_output(graph: onnx.GraphProto) -> None:
    del graph.output[:]


def _group(graph: onnx.GraphProto) -> None:
    _node(graph, "Conv", 1).attribute.append(helper.make_attribute("group", 3))


def _typed(graph: onnx.GraphProto) -> None:
    for attribute in _node(graph, "Conv").attribute:
        attribute.CopyFrom(helper.make_attribute(attribute.name, "text"))


DAMAGE: dict[str, tuple[Change, str]] = {
    "cycle": (_cyclic, "cycle"),
    "dangling input": (_dangling, "'nothing', which nothing makes"),
    "tensor made twice": (_made_twice, "made more than once"),
    "tensor that is an input too": (_made_of_an_input, "more than once"),
    "negative dimension": (_negative, "shape"),
    "endless dimension": (_endless, "shape"),
    "weights of another rank": (_other_rank, ""),
    "endless input": (_wide_input, ""),
    "no inputs": (_no_input, ""),
    "no outputs": (_no_output, "no outputs"),
    "groups that don't divide": (_group, ""),
    "attributes of another type": (_typed, "no valid Conv"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_graph_is_refused(damage: str, tmp_path: Path) -> None:
    change, message = DAMAGE[damage]
    model = onnx.load_from_string(content())
    del model.graph.value_info[:]
    for node in model.graph.node:
        if node.op_type == "Conv":
            kept = [attribute for attribute in node.attribute if attribute.name != "group"]
            del node.attribute[:]
            node.attribute.extend(kept)
    change(model.graph)
    assert message in refused(tmp_path, model.SerializeToString())


def test_nodes_of_one_name_are_told_apart() -> None:
    model = onnx.load_from_string(content())
    for node in model.graph.node:
        node.name = "same"
    names = [node.name for node in label(network.from_proto(model, "net.onnx")).network.nodes]
    assert len(set(names)) == len(names)


def external(location: str, **fields: str) -> bytes:
    """A model of which one tensor says to be in another file."""
    model = onnx.load_from_string(content())
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **fields}.items():
        tensor.external_data.add(key=key, value=value)
    return model.SerializeToString()


LOCATIONS = [
    *("../secret.bin", "/etc/passwd", "sub/../../secret.bin", "link.bin", "none.bin", "..", ".", "", "sub", "a\0b", "pipe"),
    *("x" * 300, "x" * 300 + "/y", "x/" * 3000 + "y", "C:\\secret.bin", "..\\secret.bin", "\\\\host\\secret.bin", "x" * 10**6),
]


@pytest.mark.parametrize("location", LOCATIONS, ids=lambda location: location[:20])
def test_external_data_may_not_leave_the_folder(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret.bin").write_bytes(b"\x00" * 10**6)
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    os.mkfifo(folder / "pipe")
    message = refused(folder, external(location))
    assert "external data" in message
    assert len(message) < 2100


@pytest.mark.parametrize("location", ["../secret.bin", "x" * 300, "none.bin"], ids=lambda location: location[:20])
@pytest.mark.parametrize(
    "command", [["profile"], ["check", "--sram", "1KB"], ["prune", "--macs", "50%", "--no-train", "-o", "o.onnx"], ["verify"]]
)
def test_every_command_says_so_in_one_message(
    location: str, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.onnx").write_bytes(external(location))
    for flags in ([], ["--tflite", "o.tflite"] if command == ["verify"] else []):
        assert main([command[0], "net.onnx", *command[1:], *flags]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("mcuprune: net.onnx: ")
        assert err.count("\n") == 1
    assert [path.name for path in Path().iterdir()] == ["net.onnx"]


@pytest.mark.parametrize(
    "fields",
    [
        {"length": "1000000000000"},
        {"length": "9" * 5000},
        {"offset": "9" * 5000},
        {"offset": "-1"},
        {"length": "-1"},
        {"offset": "many"},
        {},
        {"offset": "10000000000"},
    ],
    ids=str,
)
def test_external_data_are_read_within_the_bounds_of_their_shape(fields: dict[str, str], tmp_path: Path) -> None:
    """Of a file that claims terabytes and takes no room on the disk, nothing is read."""
    with open(tmp_path / "holes.bin", "wb") as file:
        file.truncate(2**40)
    assert "external data" in refused(tmp_path, external("holes.bin", **fields))


def test_links_are_told_with_the_way_out(tmp_path: Path) -> None:
    """Stores of downloaded models keep files under names of their own, and links to them elsewhere."""
    for folder in ("real", "links"):
        (tmp_path / folder).mkdir()
    model = onnx.load_from_string(content())
    onnx.external_data_helper.convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    onnx.save(model, tmp_path / "real" / "net.onnx")
    (tmp_path / "links" / "net.onnx").symlink_to("../real/net.onnx")
    with pytest.raises(ModelError, match=re.escape(f"name the model itself, {tmp_path / 'real' / 'net.onnx'}")):
        network.load(tmp_path / "links" / "net.onnx")
    (tmp_path / "links" / "weights.bin").symlink_to("../real/weights.bin")
    with pytest.raises(ModelError, match=r"weights\.bin is a symbolic link, which isn't followed; name the model where"):
        network.load(tmp_path / "links" / "net.onnx")


def test_what_external_data_say_beside_is_not_shown(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    fields = {"a key\nof their own": "x"}
    refused(tmp_path, external("none.bin", length="4", **fields))
    model = onnx.load_from_string(content())
    onnx.external_data_helper.convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    onnx.save(model, tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx", load_external_data=False)
    model.graph.initializer[0].external_data.add(key="a key\nof their own", value="x")
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    network.load(tmp_path / "net.onnx")
    assert not recwarn.list


def test_external_data_in_attributes_are_held_to_the_same(tmp_path: Path) -> None:
    model = onnx.load_from_string(content())
    tensor = onnx.load_from_string(external("../secret.bin")).graph.initializer[0]
    model.graph.node.append(helper.make_node("Constant", [], ["more"], value=tensor))
    assert "external data" in refused(tmp_path, model.SerializeToString())


def test_external_data_beside_the_model_are_read(tmp_path: Path) -> None:
    model = onnx.load_from_string(content())
    stored = onnx.load_from_string(content())
    (tmp_path / "sub").mkdir()
    onnx.external_data_helper.convert_model_to_external_data(stored, location="sub/weights.bin", size_threshold=0)
    onnx.save(stored, tmp_path / "net.onnx")
    found = network.load(tmp_path / "net.onnx")
    assert files(tmp_path / "net.onnx") == [str(tmp_path / "sub/weights.bin")]
    for name, value in network.from_proto(model, "net.onnx").constants.items():
        np.testing.assert_array_equal(found.constants[name], value)


@pytest.mark.parametrize("kind", ["initializer", "Constant"])
def test_weights_are_bounded_by_what_they_become_all_together(kind: str, tmp_path: Path) -> None:
    """Four bits an element stored are four bytes once they are dequantised. None is read: the bytes aren't even there."""
    model = onnx.load_from_string(content())
    for index in range(5):
        tensor = TensorProto(name=f"w{index}", data_type=TensorProto.INT4, dims=[2**14, 2**14])
        if kind == "initializer":
            model.graph.initializer.append(tensor)
        else:
            model.graph.node.append(helper.make_node("Constant", [], [f"w{index}"], value=tensor))
    assert "its weights are 13" in refused(tmp_path, model.SerializeToString())


def cast(value: float, to: type) -> bytes:
    """A network whose input is multiplied by a constant of its own, made a whole number."""
    nodes = [
        helper.make_node("Cast", ["value"], ["whole"], "to_whole", to=helper.np_dtype_to_tensor_dtype(np.dtype(to))),
        helper.make_node("Cast", ["whole"], ["n"], "to_float", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "n"], ["y"], "times"),
    ]
    constants = {"value": np.array([value], np.float64)}
    return small_nets.model(nodes, constants, {"x": [1, 4]}, {"y": [1, 4]}).SerializeToString()


@pytest.mark.parametrize(
    ("value", "to"),
    [(np.inf, np.int64), (np.nan, np.int64), (2.0**63, np.int64), (3e9, np.int32), (-1.0, np.uint8), (128.0, np.int8)],
)
def test_a_constant_that_processors_make_different_whole_numbers_of_is_refused(value: float, to: type, tmp_path: Path) -> None:
    """Infinity is the smallest int64 on x86 and the largest on Arm."""
    assert f"node 'to_whole' makes {np.dtype(to)} of {value}" in refused(tmp_path, cast(value, to))


@pytest.mark.parametrize(
    ("value", "to"),
    [(-(2.0**63), np.int64), (2.0**31 - 1, np.int32), (-0.75, np.uint8), (-128.9, np.int8)],
)
def test_a_constant_within_the_whole_numbers_is_cast(value: float, to: type) -> None:
    net = network.from_proto(onnx.load_from_string(cast(value, to)), "net.onnx")
    assert net.constants["n"] == np.float32(np.trunc(value))


def test_a_small_file_may_not_make_a_huge_constant(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ConstantOfShape", ["dims"], ["w"], name="bomb"),
        helper.make_node("Conv", ["x", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 2**20, 8, 8))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array([2**20, 2**20, 1, 1]), "dims")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    assert "bomb" in refused(tmp_path, model.SerializeToString())


@pytest.fixture(scope="module")
def damaged_files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Path]]:
    """What to damage for a command: float networks of several kinds and their int8 files."""
    folder = tmp_path_factory.mktemp("base")
    floats, stored = [], []
    for name in ("resnet", "shufflenet v2 unit", "squeeze-excite, hard-swish", "padded channels", "prelu"):
        floats.append(folder / f"{name}.onnx")
        floats[-1].write_bytes(blocks.exported(name, "torchscript"))
    for path in floats[:2]:
        stored.append(folder / f"int8 {path.name}")
        pruning.prune(Request(str(path), {"macs": units.parse("60%", "count")}, str(stored[-1]), train=False))
    return lambda command: stored if command == "verify" else [*floats, *stored]


@pytest.mark.parametrize(
    ("command", "count"),
    [("profile", 60), ("float", 15)]
    + [
        pytest.param(*each, marks=pytest.mark.thorough)
        for each in (("profile", 150), ("float", 60), ("int8", 40), ("verify", 8))
    ]
    + [pytest.param("verify", 80, marks=pytest.mark.slow)],
)
def test_random_damage_gives_a_message_or_an_answer(
    command: str, count: int, damaged_files: Callable[[str], list[Path]]
) -> None:
    files = [str(path) for path in damaged_files(command)]
    run = [sys.executable, str(ROOT / "tests" / "mutations.py"), command, "1000", str(count), *files]
    path = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    found = subprocess.run(run, capture_output=True, text=True, timeout=300, env=path, check=False)
    assert found.stdout == ""
    assert f"{count} cases of {command}" in found.stderr
    assert found.returncode == 0, found.stderr[-2000:]
