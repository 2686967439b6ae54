"""``verify OUT.tflite``: the file on disk runs in its predicted arena, whoever wrote it; a damaged one is refused in words."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import thorough_but
from graphs import Graph
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from test_tflite import int8

import mcuprune
from mcuprune import exporting
from mcuprune.cli import main
from mcuprune.costs import banding
from mcuprune.deploy import tflite, tflite_reader
from mcuprune.errors import ModelError, UnsupportedOperator, UsageError
from mcuprune.graph import network
from mcuprune.report.verified import document, text
from mcuprune.run import runners
from mcuprune.run.verify import predicted

pytest.importorskip("tflite_micro")

MODELS = Path(__file__).parents[1] / "models"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, exported: Callable[[str], Path]) -> Path:
    """branchy_digits as int8 ONNX and, alone in a folder of its own, as .tflite."""
    folder = tmp_path_factory.mktemp("written")
    (folder / "alone").mkdir()
    shutil.copy(exported("branchy_digits"), folder / "net.onnx")
    exporting.export(exporting.Request(str(folder / "net.onnx"), str(folder / "alone" / "net.tflite")))
    return folder


def test_a_file_alone_runs_in_the_arena_that_is_predicted_for_it(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(written / "alone" / "net.tflite")
    assert main(["verify", path, "--data", "digits", "--examples", "60", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"]
    assert found["runtimes"]["onnxruntime"] is None
    assert found["runtimes"]["tflm"]["accuracy"] > 0.9
    assert found["arena"]["measured"] <= found["arena"]["predicted_same_pointers"] <= 1.02 * found["arena"]["measured"]
    assert found["arena"]["head_measured"] == found["arena"]["head_predicted"]
    assert found["tflite"]["bytes"] == Path(path).stat().st_size
    own = mcuprune.profile(written / "net.onnx")
    assert found["arena"]["predicted"] == own.arena
    assert mcuprune.verify(path, examples=4).ok


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("beyond", [1, 8, 15])
def test_what_is_measured_depends_on_no_limit(written: Path, beyond: int) -> None:
    """TensorFlow Lite Micro takes what lies behind the last whole multiple of 16 for used."""
    read = tflite_reader.read(written / "alone" / "net.tflite")
    inputs = [{port.name: np.zeros(port.shape, np.float32) for port in read.inputs}]
    arenas = [runners.run("tflm", read, inputs, "net", limit=2**21 + more).arena["total"] for more in (0, beyond)]
    assert arenas[0] == arenas[1] <= predicted(read).same_pointers


@pytest.mark.usefixtures("in_process")
def test_integers_that_stand_for_other_numbers_than_the_onnx_file_says_are_no_answer(written: Path, tmp_path: Path) -> None:
    """The file runs, and its largest score is where it was: alone nothing tells that it is wrong."""
    model = onnx.load(written / "net.onnx")
    last = next(node for node in model.graph.node if model.graph.output[0].name in node.output)
    (scale,) = (tensor for tensor in model.graph.initializer if tensor.name == last.input[1])
    scale.CopyFrom(numpy_helper.from_array(np.float32(100) * numpy_helper.to_array(scale), scale.name))
    onnx.save(model, tmp_path / "net.onnx")
    place = tmp_path / "net.tflite"
    exporting.export(exporting.Request(str(tmp_path / "net.onnx"), str(place)))
    assert mcuprune.verify(place, examples=4).ok
    shutil.copy(written / "net.onnx", tmp_path)
    with pytest.raises(
        ModelError, match=r"stores '\w+' with scale .*, and .*net\.onnx beside it gives scale .*: export it again"
    ):
        mcuprune.verify(place, examples=4)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("turned", [True, False])
def test_a_file_of_other_bytes_is_held_against_the_onnx_file_beside_it(written: Path, tmp_path: Path, turned: bool) -> None:
    """Turned: the kernel of a convolution has its sign changed. Else names are the only other bytes, and it is as good."""
    shutil.copy(written / "net.onnx", tmp_path)
    place = tmp_path / "net.tflite"
    content = (written / "alone" / "net.tflite").read_bytes()
    if turned:
        program = tflite_reader.read(written / "alone" / "net.tflite").program
        kernels = [program.tensors[op.inputs[1]].content for op in program.operators if op.name == "CONV_2D"]
        assert kernels[0] is not None
        kernel = kernels[0]().data.astype(np.int8)
        assert content.count(kernel.tobytes()) == 1
        content = content.replace(kernel.tobytes(), (-kernel).tobytes())
    else:
        assert content.count(b"mcuprune") == 1
        content = content.replace(b"mcuprune", b"Mcuprune")
    place.write_bytes(content)
    found = mcuprune.verify(place, examples=4)
    assert found.onnxruntime is not None
    assert "gives other bytes" in found.notes[0]
    assert found.ok is not turned
    assert any("it is damaged, or of another network; export it again" in note for note in found.notes) is turned


@pytest.mark.usefixtures("in_process")
def test_the_last_line_of_a_file_alone_says_which_of_its_two_faults_it_has(written: Path) -> None:
    verified = mcuprune.verify(written / "alone" / "net.tflite", examples=2)
    larger = replace(verified, memory=replace(verified.memory, measured=verified.memory.same_pointers + 1))
    assert text(document(larger)).endswith(
        "TOO LARGE: its arena is larger than predicted, though all runtimes compute the same\n"
    )
    other = replace(verified, runtimes=(replace(verified.runtimes[0], steady=False), *verified.runtimes[1:]))
    assert text(document(other)).endswith("held against the net.onnx that it was written from\n")


@pytest.mark.thorough
def test_a_file_alone_says_what_would_do_for_data_without_labels(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = np.zeros((30, 1, 16, 16), np.float32)
    np.savez(tmp_path / "x.npz", x_train=x, x_test=x)
    assert main(["verify", str(written / "alone" / "net.tflite"), "--data", str(tmp_path / "x.npz")]) == 2
    said = capsys.readouterr().err
    assert (
        "have no labels; a .tflite alone is taken for a classifier: put the net.onnx that it was exported from beside" in said
    )
    assert main(["verify", str(written / "net.onnx"), "--data", str(tmp_path / "x.npz"), "--examples", "2"]) == 0


@pytest.fixture(scope="module")
def of_pixels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file alone whose ONNX file takes pixels of 0 to 255 as 0 to 1, and with such pixels, most of them 0."""
    folder = tmp_path_factory.mktemp("pixels")
    g = Graph(1, 3, 8, 8)
    quadrant, draw, y = np.kron(np.eye(4), np.ones(16)).reshape(4, 2, 2, 4, 4), np.random.default_rng(0), np.arange(40) % 4
    masks = quadrant.transpose(0, 1, 3, 2, 4).reshape(4, 1, 8, 8)  # the class is the brightest quadrant
    weight = g.value(np.repeat(masks, 3, 1).astype(np.float32) / 48)
    onnx.save(g.model(g.add("Flatten", g.add("Conv", "x", weight))), folder / "float.onnx")
    x = ((draw.integers(20, 80, (40, 3, 8, 8)) + 120 * masks[y]) * (draw.random((40, 3, 8, 8)) < 0.5)).astype(np.uint8)
    np.savez(folder / "data.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    (folder / "alone").mkdir()
    asked = exporting.Request(str(folder / "float.onnx"), str(folder / "int8.onnx"), str(folder / "data.npz"), scale="0-1")
    exporting.export(asked)
    exporting.export(exporting.Request(str(folder / "int8.onnx"), str(folder / "alone" / "int8.tflite")))
    return folder


@pytest.mark.usefixtures("in_process")
def test_a_file_alone_is_never_judged_by_data_that_are_fed_otherwise_than_it_takes_them(
    of_pixels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["verify", str(of_pixels / "alone" / "int8.tflite"), "--data", str(of_pixels / "data.npz"), "--examples", "40"]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert re.search(
        r"\d\d% of the values of \S+ that aren't 0 are beyond -0\.00\d+ to 0\.\d+, all that its input stores", said
    )
    assert "Put the int8.onnx that it was exported from beside it, which says how, or say it with --scale" in said
    assert main([*command, "--scale", "0-1", "--format", "json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert not any("stored" in note for note in alone["notes"])
    assert main(["verify", str(of_pixels / "int8.onnx"), *command[2:], "--format", "json"]) == 0
    beside = json.loads(capsys.readouterr().out)
    assert alone["runtimes"]["tflm"]["accuracy"] == beside["runtimes"]["tflm"]["accuracy"]


@pytest.mark.usefixtures("in_process")
def test_a_file_alone_says_that_data_are_fed_as_they_are_stored(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["verify", str(written / "alone" / "net.tflite"), "--examples", "2", "--data", "digits"]
    fed = (
        "digits is fed as it is stored: scale, mean and std stand in the ONNX file: put the net.onnx beside it, or give --scale"
    )
    assert main(command) == 0
    assert fed in capsys.readouterr().out
    assert main(command[:-2]) == 0
    assert "fed as" not in capsys.readouterr().out


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("name", ["int8.onnx", "alone/int8.tflite"])
def test_how_data_are_fed_is_refused_where_there_are_none(
    name: str, of_pixels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(of_pixels / name), "--mean", "0.5"]) == 2
    assert f"{name}: --mean: is about data, and none are named: add --data" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"verify: no option 'scal'; did you mean 'scale'\?"):
        mcuprune.verify(of_pixels / name, data="digits", scal="0-1")


@pytest.mark.usefixtures("in_process")
def test_an_onnx_file_without_metadata_is_verified_with_its_data_fed_as_is_said(
    of_pixels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The flags that its advice names are flags of this command."""
    model = onnx.load(of_pixels / "int8.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    data = str(of_pixels / "data.npz")
    found = [mcuprune.verify(tmp_path / "bare.onnx", data=data, scale=scale) for scale in ("0-1", "0-255")]
    known = mcuprune.verify(of_pixels / "int8.onnx", data=data)
    assert found[0].accuracy == known.accuracy
    assert found[0].accuracy > found[1].accuracy


@pytest.mark.usefixtures("in_process")
def test_the_file_that_is_written_is_the_one_that_verify_of_its_onnx_judges(written: Path) -> None:
    """It has a memory plan, without which its head would be larger."""
    alone, source = written / "alone" / "net.tflite", written / "net.onnx"
    found = mcuprune.verify(source, examples=4)
    assert found.converted.content == alone.read_bytes()
    assert found.converted.plan
    assert found.memory.head_measured == found.memory.head_predicted
    assert found.memory.predicted == mcuprune.verify(alone, examples=4).memory.predicted


@pytest.mark.usefixtures("in_process")
def test_beside_its_onnx_file_it_is_compared_with_onnxruntime(written: Path, tmp_path: Path) -> None:
    for file in (written / "net.onnx", written / "alone" / "net.tflite"):
        shutil.copy(file, tmp_path)
    found = mcuprune.verify(tmp_path / "net.tflite", examples=4)
    assert found.ok
    assert found.onnxruntime is not None
    assert found.path.endswith("net.tflite")
    shutil.copy(MODELS / "dscnn_digits.onnx", tmp_path / "net.onnx")  # another model under the same name vouches for nothing
    assert mcuprune.verify(tmp_path / "net.tflite", examples=4).onnxruntime is None


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--outputs", "nope"], ["net.onnx: --outputs names 'nope', which no node computes", "{output}"]),
        (["--input-shape", "nope=1,1,16,16"], ["net.onnx: --input-shape names 'nope'; the inputs are {input}"]),
        (
            ["--input-shape", "{input}=1,1,8,8"],
            ["net.onnx: --input-shape {input}=1,1,8,8 doesn't fit the file's [", "1, 16, 16]"],
        ),
    ],
)
def test_flags_that_the_file_beside_it_can_not_follow_are_refused(
    flags: list[str], said: list[str], written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They were taken for those of another model, and nothing was compared, with 0 as the exit code."""
    for file in (written / "net.onnx", written / "alone" / "net.tflite"):
        shutil.copy(file, tmp_path)
    net = network.load(tmp_path / "net.onnx")
    names = {"input": net.inputs[0], "output": net.outputs[0]}
    asked = ["verify", str(tmp_path / "net.tflite"), "--examples", "2", *(word.format(**names) for word in flags)]
    assert main(asked) == 2
    refusal = capsys.readouterr().err
    assert refusal.count("\n") == 1
    assert all(words.format(**names) in refusal for words in said)
    (tmp_path / "net.onnx").unlink()
    assert main(asked) == 2
    refusal = capsys.readouterr().err
    assert f"net.tflite: {flags[0]} would be about the ONNX file" in refusal
    assert f"no net.onnx lies beside it: put it there, or leave {flags[0]} out" in refusal


@pytest.mark.usefixtures("in_process")
def test_flags_that_the_file_beside_it_follows_lead_to_a_comparison(written: Path, tmp_path: Path) -> None:
    """As the file was exported with them; without them the same .onnx gives other bytes, and the note says so."""
    source = shutil.copy(written / "net.onnx", tmp_path / "net.onnx")
    net = network.load(source)
    inner = next(node.inputs[0] for node in reversed(net.nodes) if node.op == "Gemm")
    exporting.export(exporting.Request(str(source), str(tmp_path / "net.tflite"), outputs=(inner,)))
    assert mcuprune.verify(tmp_path / "net.tflite", examples=2, outputs=[inner]).onnxruntime is not None
    bare = mcuprune.verify(tmp_path / "net.tflite", examples=2)
    assert bare.notes[0] == "not compared with onnxruntime: net.onnx beside it gives other bytes"
    other = mcuprune.verify(shutil.copy(written / "alone" / "net.tflite", tmp_path), examples=2, outputs=[inner])
    assert other.notes[0] == "not compared with onnxruntime: net.onnx beside it gives other bytes with --outputs"


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("beside", "why"),
    [
        (None, "no net.onnx lies beside it"),
        (b"ONNX", "the file beside it can't be read: .*net.onnx: "),
        ("branchy_digits.onnx", "the file beside it can't be what it was exported from: .*net.onnx: is a float model"),
    ],
)
def test_a_file_that_is_compared_with_nothing_says_why(
    beside: str | bytes | None, why: str, written: Path, tmp_path: Path
) -> None:
    shutil.copy(written / "alone" / "net.tflite", tmp_path)
    if beside is not None:
        (tmp_path / "net.onnx").write_bytes(beside if isinstance(beside, bytes) else (MODELS / beside).read_bytes())
    verified = mcuprune.verify(tmp_path / "net.tflite", examples=2)
    assert re.match(f"not compared with onnxruntime: {why}", verified.notes[0])
    assert f"note: {verified.notes[0]}" in text(document(verified))


@pytest.mark.usefixtures("in_process")
def test_a_file_in_row_bands_is_held_against_the_network_without_them(tmp_path: Path) -> None:
    """Where a band computes something else, though it is by so little that onnxruntime may be as far away, it isn't that."""
    g = Graph(1, 3, 32, 32)
    y = g.add("Relu", g.conv(g.add("Relu", g.conv("x", 3, 16)), 16, 16, strides=[2, 2]))
    source = int8(g.model(g.classifier(y, 16, 4)), tmp_path / "net.onnx")
    for name, bands in (("net", "4"), ("most", "auto")):
        shutil.copy(source, tmp_path / f"{name}.onnx") if name != "net" else None
        exporting.export(exporting.Request(source, str(tmp_path / f"{name}.tflite"), bands=bands))
        found = mcuprune.verify(tmp_path / f"{name}.tflite", examples=8)
        assert found.ok
        assert found.onnxruntime is not None
        assert "without row bands" in found.notes[0]
        assert found.converted.content == (tmp_path / f"{name}.tflite").read_bytes()
        assert [side.steady for side in found.runtimes] == [True] * len(found.runtimes)
        assert all(side.taken is None for side in found.runtimes)
    net = network.load(source)
    biases = [name for name in net.stored if net.stored[name].integers.ndim == 1]
    bias = max(biases, key=lambda name: net.stored[name].scale.max())
    integers = net.stored[bias].integers + 20
    constants = {**net.constants, bias: (integers * net.stored[bias].scale).astype(np.float32)}
    other = replace(net, constants=constants, stored={**net.stored, bias: replace(net.stored[bias], integers=integers)})
    banded = banding.least(other, "tflm", 4).network
    (tmp_path / "net.tflite").write_bytes(tflite.convert(banded, offline=True).file)
    found = mcuprune.verify(tmp_path / "net.tflite", examples=8)
    assert not found.ok
    assert any("aren't those of the network without row bands" in note for note in found.notes)
    assert all(difference.max_lsb <= 2 for side in found.runtimes for difference in side.differences)


@pytest.mark.parametrize(
    "name",
    thorough_but(["branchy_digits", "dscnn_digits", "mbv2se_digits", "resnet8_digits"], "branchy_digits", "dscnn_digits"),
)
def test_what_is_read_is_what_was_written(name: str, exported: Callable[[str], Path]) -> None:
    out = exported(name)
    for names in (False, True):
        made = tflite.convert(network.load(out), offline=True, names=names)
        read = tflite_reader.parsed(made.content, "net.tflite")
        assert read.plan == made.plan
        assert [operator.name for operator in read.program.operators] == [o.name for o in made.program.operators]
        assert read.program.arena(plan=read.plan).total == made.program.arena(plan=made.plan).total
        for one, other in zip(read.program.tensors, made.program.tensors, strict=True):
            assert (one.shape, one.dtype, one.quantizer) == (other.shape, other.dtype, other.quantizer)
            if one.content is not None and other.content is not None:
                assert np.array_equal(one.content().data, other.content().data)
                assert np.array_equal(one.content().scales, np.asarray(other.content().scales, np.float32))


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.tflite").write_bytes(b"ONNX" * 20)
    assert main(["verify", str(tmp_path / "net.tflite")]) == 2
    with pytest.raises(ModelError, match=r"no \.tflite file"):
        tflite_reader.read(tmp_path / "net.tflite")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_is_refused_in_words_or_read(written: Path, data: st.DataObject) -> None:
    content = bytearray((written / "alone" / "net.tflite").read_bytes())
    first = len(content) - 12_000  # tables lie in front of weights, and so does what can be broken
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.one_of(st.integers(8, 9_000), st.integers(first, len(content) - 1)))
        content[at] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(8, len(content) - 1)) :]
    with suppress(ModelError, UnsupportedOperator):  # anything else is a bug
        read = tflite_reader.parsed(bytes(content), "net.tflite")
        read.program.arena(plan=read.plan)
