"""--outputs: a network that ends before what a microcontroller has no use for, and the refusal that proposes it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import difference, feed, run
from graphs import Graph
from onnx import TensorProto, helper

from mcuprune.cli import main
from mcuprune.errors import ModelError, UnsupportedOperator
from mcuprune.graph import network
from mcuprune.graph.network import Network
from mcuprune.operators import table as ops


def detector(tail: str, *, names: tuple[str, str] = ("boxes", "scores"), extra: bool = False) -> onnx.ModelProto:
    """A small detector: boxes (1, 64, 4) and scores (1, 2, 64), and behind them one of the tails that exporters write."""
    g = Graph(1, 3, 32, 32)
    x = g.add("Relu", g.conv("x", 3, 8, strides=[2, 2]))
    x = g.add("Relu", g.conv(x, 8, 12, strides=[2, 2]))
    heads = g.add("Reshape", g.conv(x, 12, 4, 1), g.value(np.array([1, 4, -1])))
    named(g, "Transpose", [heads], names[0], perm=[0, 2, 1])
    named(g, "Reshape", [g.add("Sigmoid", g.conv(x, 12, 2, 1)), g.value(np.array([1, 2, -1]))], names[1])
    outputs = list(TAILS[tail](g, *names))
    if extra:
        outputs.append(g.classifier(x, 12, 5))
    declared = [helper.make_tensor_value_info(name, dtype, None) for name, dtype in outputs if isinstance(name, str)]
    graph = helper.make_graph(g.nodes, "g", g.inputs, declared, g.initializers)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", g.opset), helper.make_opsetid("vendor", 1)], ir_version=8
    )


def named(g: Graph, op: str, inputs: list[str], output: str, domain: str = "", **attrs: object) -> str:
    g.nodes.append(helper.make_node(op, inputs, [output], name=f"{op}_{output}", domain=domain, **attrs))
    return output


def suppressed(g: Graph, boxes: str, scores: str) -> list[tuple[str, int]]:
    limits = [g.value(np.array([5])), g.value(np.float32([0.5])), g.value(np.float32([0.01]))]
    return [(named(g, "NonMaxSuppression", [boxes, scores, *limits], "kept"), TensorProto.INT64)]


def gathered(g: Graph, boxes: str, scores: str) -> list[tuple[str, int]]:
    """Suppression, and the boxes that it keeps: what the network makes is read before and behind it."""
    ((kept, _),) = suppressed(g, boxes, scores)
    where = g.add("Squeeze", g.add("Slice", kept, *(g.value(np.array([n])) for n in (2, 3, 1))), g.value(np.array([1])))
    return [(g.add("Gather", boxes, where, axis=1), TensorProto.FLOAT), (kept, TensorProto.INT64)]


def nonzero(g: Graph, boxes: str, scores: str) -> list[tuple[str, int]]:
    """Truth values in front of the operator that is refused belong to the tail."""
    sure = g.add("Greater", scores, g.value(np.float32(0.5)))
    return [(g.add("NonZero", sure), TensorProto.INT64), (g.add("Mul", boxes, g.value(np.float32(32))), TensorProto.FLOAT)]


def scaled(g: Graph, boxes: str, scores: str) -> list[tuple[str, int]]:
    """Boxes in units of an image whose size is an input of its own, as YOLO's exports have it."""
    size = g.input("image_size", 1, 4)
    return suppressed(g, g.add("Mul", boxes, size), scores)


def counted(g: Graph, boxes: str, scores: str) -> list[tuple[str, int]]:
    """TopK of as many as the data say."""
    best = g.add("ReduceMax", scores, axes=[1], keepdims=0)
    sure = g.add("Cast", g.add("Greater", best, g.value(np.float32(0.5))), to=TensorProto.INT64)
    many = g.add("ReduceSum", sure, g.value(np.array([1])), keepdims=0)
    top = g.add("TopK", best, many, outputs=2)
    return [(top, TensorProto.FLOAT), (g.add("Identity", boxes), TensorProto.FLOAT)]


def looped(g: Graph, boxes: str, scores: str) -> list[tuple[str, int]]:
    """A loop that reads the scores from around it."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["carried", scores], ["sum"])],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, None),
        ],
    )
    start = g.value(np.zeros((1, 2, 64), np.float32))
    g.nodes.append(helper.make_node("Loop", [g.value(np.int64(3)), "", start], ["sums"], name="loop", body=body))
    return [("sums", TensorProto.FLOAT), (g.add("Neg", boxes), TensorProto.FLOAT)]


def vendor(g: Graph, boxes: str, scores: str) -> list[tuple[str, int]]:
    return [(named(g, "Detect", [boxes, scores], "found", domain="vendor"), TensorProto.FLOAT)]


def two(g: Graph, boxes: str, scores: str) -> list[tuple[str, int]]:
    """Two refused operators that don't follow each other."""
    return [*suppressed(g, boxes, scores), *nonzero(g, boxes, scores)]


TAILS = {
    "suppressed": suppressed,
    "gathered": gathered,
    "nonzero": nonzero,
    "scaled": scaled,
    "counted": counted,
    "looped": looped,
    "vendor": vendor,
    "two": two,
}


def loaded(model: onnx.ModelProto, *outputs: str) -> Network:
    return network.from_proto(model, "net.onnx", outputs=outputs, accept=ops.accept("net.onnx"))


def proposed(model: onnx.ModelProto) -> list[str]:
    """The words of the flag in the message that refuses the model."""
    with pytest.raises(UnsupportedOperator) as refusal:
        loaded(model)
    found = re.search(r"; (--outputs .*) ends the network before it", str(refusal.value))
    assert found, str(refusal.value)
    return shlex.split(found[1])


@pytest.mark.parametrize("tail", TAILS)
def test_the_proposed_command_prunes_the_detector(tail: str, tmp_path: Path, capsys) -> None:
    model = detector(tail)
    path, out = str(tmp_path / "net.onnx"), str(tmp_path / "out.onnx")
    onnx.save(model, path)
    flags = proposed(model)
    assert main(["profile", path]) == 2
    assert shlex.join(flags) in capsys.readouterr().err
    assert main(["profile", path, "-q", *flags]) == 0
    assert main(["check", path, "--sram", "1MB", *flags]) == 0
    float_ = [] if tail == "gathered" else ["--float"]
    assert main(["prune", path, "--macs", "60%", "--no-train", *float_, "-o", out, *flags]) == 0
    written = onnx.load(out)
    onnx.checker.check_model(written, full_check=True)
    names = [value.name for value in written.graph.output]
    assert names == flags[1].split(",")
    assert not {"NonMaxSuppression", "NonZero", "TopK", "Loop", "Detect"} & {node.op_type for node in written.graph.node}
    assert [array.dtype for array in run(written, feed(written))] == [np.float32] * len(names)


def test_the_proposal_names_what_the_tail_reads_and_outputs_that_it_leaves() -> None:
    assert proposed(detector("suppressed")) == ["--outputs", "boxes,scores"]
    assert proposed(detector("gathered")) == ["--outputs", "boxes,scores"]
    assert proposed(detector("vendor")) == ["--outputs", "boxes,scores"]
    (scaled,) = [name for name in proposed(detector("nonzero"))[1].split(",") if name != "scores"]
    assert scaled.startswith("mul")


def test_names_that_a_shell_or_a_list_would_split_are_quoted() -> None:
    model = detector("suppressed", names=("my boxes", "scores;0"))
    assert proposed(model) == ["--outputs", "my boxes,scores;0"]
    model = detector("suppressed", names=("boxes,0", "scores"))
    assert proposed(model) == ["--outputs", "boxes,0", "--outputs", "scores"]
    assert loaded(model, "boxes,0", "scores").outputs == ("boxes,0", "scores")


def test_a_refused_operator_with_layers_behind_it_is_no_tail() -> None:
    g = Graph(1, 3, 8, 8)
    x = g.add("Det", g.conv("x", 3, 8))
    x = g.conv(g.add("Reshape", x, g.value(np.array([1, 8, 1, 1]))), 8, 4, 1)
    graph = helper.make_graph(g.nodes, "g", g.inputs, [helper.make_tensor_value_info(x, 1, None)], g.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(UnsupportedOperator, match="no entry for operator Det") as refusal:
        loaded(model)
    assert "--outputs" not in str(refusal.value)


def test_a_cut_network_computes_what_the_whole_one_does_there() -> None:
    model = detector("gathered")
    net, inputs = loaded(model, "scores,boxes"), feed(model)
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    del whole.graph.output[:]
    whole.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("scores", "boxes"))
    assert net.outputs == ("scores", "boxes")
    assert difference(run(net, inputs), run(whole, inputs)) == 0
    assert [[dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in net.to_proto().graph.output] == [
        [1, 2, 64],
        [1, 64, 4],
    ]
    assert not {"NonMaxSuppression", "Gather", "Slice"} & {node.op for node in net.nodes}


def test_an_input_that_only_the_tail_reads_is_gone() -> None:
    net = loaded(detector("scaled"), "boxes", "scores")
    assert net.inputs == ("x",)
    assert len(net.to_proto().graph.input) == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("boxs", "did you mean 'boxes'"),
        ("x", "which no node computes"),
        ("nothing like it", "the last that it computes are .*kept"),
        (",", "names no tensor"),
    ],
)
def test_a_name_that_the_graph_does_not_compute_is_one_message(name: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        loaded(detector("suppressed"), name)


def test_the_configuration_names_the_outputs_of_each_model(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(detector("suppressed"), "net.onnx")
    Path("mcuprune.toml").write_text('budget = { sram = "1MB" }\n[[model]]\npath = "net.onnx"\noutputs = ["boxes", "scores"]\n')
    assert main(["check"]) == 0
    assert main(["prune", "net.onnx", "--macs", "60%", "--no-train", "--float", "-o", "out.onnx", "-q"]) == 0
    assert [value.name for value in onnx.load("out.onnx").graph.output] == ["boxes", "scores"]
    assert main(["profile", "net.onnx", "--outputs", "scores", "--format", "json=profile.json", "-q"]) == 0
    assert '"boxes"' not in Path("profile.json").read_text().split('"memory"')[0]
    Path("mcuprune.toml").write_text('[[model]]\npath = "net.onnx"\noutputs = "boxes"\n')
    assert main(["check"]) == 2


def test_the_hint_of_a_failed_check_keeps_the_outputs(tmp_path: Path, capsys) -> None:
    onnx.save(detector("suppressed"), tmp_path / "net.onnx")
    assert main(["check", str(tmp_path / "net.onnx"), "--sram", "1KB", "--outputs", "boxes,scores"]) == 1
    assert re.search(r"mcuprune prune .* --outputs boxes,scores", capsys.readouterr().out)


def test_nodes_in_the_best_order_end_at_the_outputs_too(tmp_path: Path) -> None:
    model = detector("suppressed")
    onnx.save(model, tmp_path / "net.onnx")
    out = str(tmp_path / "out.onnx")
    assert main(["profile", str(tmp_path / "net.onnx"), "-q", "--outputs", "boxes", "--write-order", out]) == 0
    assert [value.name for value in onnx.load(out).graph.output] == ["boxes"]
    assert difference(run(onnx.load(out), feed(model)), run(loaded(model, "boxes"), feed(model))) == 0
