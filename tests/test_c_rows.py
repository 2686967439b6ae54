"""Generated C that runs row by row: byte for byte what it computes as a whole, in less memory."""

from __future__ import annotations

import ctypes
import itertools
import json
import random
import re
import subprocess
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from apart import apart
from conftest import corpus, feed, thorough_but
from graphs import Graph
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from test_bands import LAYERS, as_int8, loaded, stacks
from test_c import CASES, SANITIZED, converted, int8, invoked
from test_tflite import model_of

from mcuprune import cli
from mcuprune.deploy import c, rowcalls, tflite
from mcuprune.deploy.cplan import Planner
from mcuprune.deploy.program import Program
from mcuprune.deploy.regions import Region
from mcuprune.deploy.steps.rules import select, thrifty
from mcuprune.errors import UnsupportedOperator
from mcuprune.run import runners

if runners.compiler() is None:
    pytest.skip("no C compiler here", allow_module_level=True)

ROOT = Path(__file__).parents[1]
STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")
BOUNDED = ("-fsanitize=undefined,bounds", "-fno-sanitize-recover=all")


def functions(sources: dict[str, c.Source], folder: Path, *flags: str) -> dict[str, Any]:
    """Several programs, compiled at once, as functions in this process."""
    for name, source in sources.items():
        (folder / f"{name}.c").write_text(source.c)
        (folder / f"{name}.h").write_text(source.header)
    files = [f"{name}.c" for name in sources]
    command = [*(runners.compiler() or []), "-std=c99", "-O0", *STRICT, "-shared", "-fPIC", *flags, *files, "-o", "nets.so"]
    subprocess.run(command, cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "nets.so"))
    return {name: getattr(library, f"{name}_invoke") for name in sources}


def examples(program: Program, count: int = 4) -> list[list[np.ndarray]]:
    draw = np.random.default_rng(0)
    spreads = [40 if turn % 2 else 300 for turn in range(count)]
    return [[np.clip(draw.normal(0, s, p.shape), -128, 127).astype(np.int8) for p in program.inputs] for s in spreads]


def alike(program: Program, plain: Any, others: Sequence[Any]) -> bool:
    """Whether all give the same outputs, one example after the other: nothing may be left of an earlier run."""

    def compare() -> bool:
        for x in examples(program):
            wanted = invoked(plain, x, program.outputs)
            for other in others:
                if any(not np.array_equal(a, b) for a, b in zip(invoked(other, x, program.outputs), wanted, strict=True)):
                    return False
        return True

    return apart(compare)


def at_random(planner: Planner, chance: random.Random, bands: Any) -> list[Region]:
    """Regions anywhere, wanted or not, in either direction."""
    rows = planner.rows_in(bands)
    found, place = [], 0
    while place < len(rows.ops):
        end = chance.randint(place + 1, min(len(rows.ops), place + 6))
        region = rows.region(place, end, upwards=chance.random() < 0.5) if chance.random() < 0.8 else None
        if region is not None:
            found.append(region)
        place = end if region is not None else place + 1
    return found


def versions(program: Program, chance: random.Random) -> dict[str, c.Source]:
    """One program as a whole, with the best regions, with so many bands, and with regions anywhere."""
    made = {"plain": c.generate(program, "plain")}
    made |= {f"bands{bands}": c.generate(program, f"bands{bands}", bands=bands) for bands in ("auto", 2, 5)}
    for turn, bands in enumerate(("auto", "auto", 3)):
        selection = thrifty(select(program)) if turn == 1 else select(program)
        planner = Planner(selection)
        regions = at_random(planner, chance, bands)
        made[f"any{turn}"] = c.written(selection, planner.plan(regions, tries=20), f"any{turn}")
    return made


def check(model: onnx.ModelProto, folder: Path, seed: int, *flags: str) -> bool:
    """Compare all versions of a network; False where it has an operator without a kernel."""
    try:
        program = tflite.convert(as_int8(loaded(model), feed(model, seed=1))).program
        made = versions(program, random.Random(seed))
    except UnsupportedOperator:
        return False
    assert made["bandsauto"].arena <= made["plain"].arena
    assert bool(made["bandsauto"].rows.regions) == (made["bandsauto"].arena < made["plain"].arena)
    if not made["bandsauto"].rows.regions:
        assert c.generate(program, "plain", bands="auto").c == made["plain"].c
    found = functions(made, folder, *flags)
    assert alike(program, found.pop("plain"), list(found.values()))
    return True


QUICK = settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
THOROUGH = settings(max_examples=500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.mark.thorough
@QUICK
@given(stacks(LAYERS), st.integers(0, 10**6))
def test_random_stacks_compute_the_same_row_by_row(tmp_path_factory, model, seed):
    check(model, tmp_path_factory.mktemp("rows"), seed, *SANITIZED)


@pytest.mark.parametrize(("op", "terms"), [("Sum", 4), ("Max", 2), ("Min", 3)])
def test_what_is_computed_a_few_numbers_at_a_time_goes_row_by_row(op: str, terms: int, tmp_path: Path) -> None:
    graph = Graph(1, 3, 6, 7)
    x = graph.conv("x", 3, 3, 3)
    y = graph.add(op, *(graph.conv(x, 3, 3, 3) for _ in range(terms - 1)), x)
    program = converted(int8(model_of(graph, graph.conv(y, 3, 2, 3), x), tmp_path / "int8.onnx")).program
    selection = thrifty(select(program))
    planner = Planner(selection)
    assert all(op is not None for op in planner.rows_in("auto").ops)
    made = {"plain": c.generate(program, "plain")}
    for seed in range(3):
        plan = planner.plan(at_random(planner, random.Random(seed), "auto"), tries=20)
        made[f"any{seed}"] = c.written(selection, plan, f"any{seed}")
    assert any("int8_t t0[" in source.c and "switch" in source.c for source in made.values())
    called = functions(made, tmp_path, *SANITIZED)
    assert alike(program, called["plain"], list(called.values()))


@pytest.mark.slow  # half an hour of compiling
@THOROUGH
@given(stacks(LAYERS), st.integers(0, 10**6))
def test_many_random_stacks_compute_the_same_row_by_row(tmp_path_factory, model, seed):
    check(model, tmp_path_factory.mktemp("rows"), seed, *SANITIZED)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_operator_computes_the_same_row_by_row(name: str, tmp_path: Path) -> None:
    net = converted(int8(CASES[name](), tmp_path / "net.onnx"))
    made = versions(net.program, random.Random(0))
    found = functions(made, tmp_path, *SANITIZED)
    assert alike(net.program, found.pop("plain"), list(found.values()))


@pytest.mark.slow  # minutes: every real network, quantised, written twice and run
@pytest.mark.parametrize("path", corpus(), ids=lambda path: path.stem)
def test_a_real_network_computes_the_same_row_by_row(path: Path, tmp_path: Path) -> None:
    from mcuprune import pruning, units
    from mcuprune.errors import McupruneError

    out = str(tmp_path / "int8.onnx")
    try:
        pruning.prune(pruning.Request(str(path), {"sram": units.parse("100%", "bytes")}, out, train=False))
        program = converted(out).program
        made = {"plain": c.generate(program, "plain"), "rows": c.generate(program, "rows", bands="auto")}
    except McupruneError as refusal:
        pytest.skip(f"refused: {refusal}")
    found = functions(made, tmp_path, *SANITIZED)
    assert alike(program, found["plain"], [found["rows"]])


# --------------------------------------------------------------------------------------------------- which steps have rows


def forms_of(model: onnx.ModelProto) -> dict[str, bool]:
    """For each operator of the C whether it can go row by row."""
    selection = select(tflite.convert(as_int8(loaded(model), feed(model, seed=1))).program)
    rows = Planner(selection).rows_in("auto")
    found: dict[str, bool] = {}
    for index, op in zip(rows.schedule.order, rows.ops, strict=True):
        node = selection.steps[index].node
        found[node] = found.get(node, True) and op is not None
    return found


def one(op: str, shape: Sequence[int], *constants: np.ndarray, opset: int = 17, **attrs: Any) -> onnx.ModelProto:
    """A convolution and one operator behind it."""
    draw = np.random.default_rng(0)
    channels = shape[1]
    names = [f"k{i}" for i in range(len(constants))]
    wide = draw.normal(size=(channels, channels, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "before", kernel_shape=[1, 1]),
        helper.make_node(op, ["a", *names], ["b"], "it", **attrs),
    ]
    weights = [onnx.numpy_helper.from_array(wide, "w")]
    weights += [onnx.numpy_helper.from_array(np.asarray(value), name) for value, name in zip(constants, names, strict=True)]
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "net", [value], [helper.make_empty_tensor_value_info("b")], weights)
    return onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    )


F = np.float32
#: Operator, its constants and attributes -> whether it goes row by row over (1, 4, 12, 6).
ROW_LOCAL = {
    "a pool": ("MaxPool", (), {"kernel_shape": [2, 2], "strides": [2, 2]}, True),
    "a mean of windows": ("AveragePool", (), {"kernel_shape": [3, 3]}, True),
    "a mean that counts padding": (
        "AveragePool",
        (),
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1},
        True,
    ),
    "a table": ("Sigmoid", (), {}, True),
    "a factor for each channel": ("Mul", (np.linspace(0.5, 2, 4, dtype=F).reshape(1, 4, 1, 1),), {}, True),
    "a factor for each column": ("Mul", (np.linspace(0.5, 2, 6, dtype=F).reshape(1, 1, 1, 6),), {}, True),
    "a factor for each row": ("Mul", (np.linspace(0.5, 2, 12, dtype=F).reshape(1, 1, 12, 1),), {}, False),
    "a mean of all": ("GlobalAveragePool", (), {}, False),
    "a mean over channels": ("ReduceMean", (), {"axes": [1], "keepdims": 1}, True),
    "some columns": ("Slice", (np.array([1]), np.array([5]), np.array([3])), {}, True),
    "some rows": ("Slice", (np.array([1]), np.array([9]), np.array([2])), {}, True),
    "every other row": ("Slice", (np.array([1]), np.array([9]), np.array([2]), np.array([2])), {}, False),
    "a softmax over columns": ("Softmax", (), {"axis": 3}, True),
    "logarithms of a softmax over columns": ("LogSoftmax", (), {"axis": 3}, True),
    "a softmax over rows": ("Softmax", (), {"axis": 2}, False),
    "between pixels": ("Resize", (np.array([], F), np.array([1, 1, 2, 2], F)), {"mode": "linear"}, True),
    "a transposed convolution": ("ConvTranspose", (np.ones((4, 2, 3, 3), F),), {"strides": [2, 2]}, True),
    "twice the size": (
        "Resize",
        (np.array([], F), np.array([1, 1, 2, 2], F)),
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
        True,
    ),
}


@pytest.mark.parametrize("name", ROW_LOCAL)
def test_what_goes_row_by_row(name: str) -> None:
    op, constants, attrs, local = ROW_LOCAL[name]
    found = forms_of(one(op, (1, 4, 12, 6), *constants, **attrs))
    assert found["before"]
    assert found["it"] == local


@pytest.mark.parametrize("shape", [(1, 9, 10, 1), (1, 3, 1, 5), (1, 1, 4, 4), (1, 4, 2, 4)], ids=str)
@pytest.mark.parametrize("perm", sorted(itertools.permutations((1, 2, 3)))[1:], ids=str)
def test_a_transposition_that_goes_row_by_row_reads_every_row(shape: tuple[int, ...], perm: tuple[int, ...]) -> None:
    """Also where it makes a single row, of which no advance from one to the next tells how many rows it reads."""
    graph = Graph(*shape)
    y = graph.add("Transpose", graph.conv("x", shape[1], shape[1], 1), perm=[0, *perm])
    model = model_of(graph, graph.conv(y, shape[perm[0]], 2, 1))
    selection = select(tflite.convert(as_int8(loaded(model), feed(model, seed=1))).program)
    for step in selection.steps:
        form = rowcalls.row_form(selection, step) if step.operator == "TRANSPOSE" else None
        if form is not None:
            (needs,), (source,) = form.op.needs, form.op.reads
            assert {row for need in needs for row in range(*need)} == set(range(rowcalls.rows_of(selection, source)))


def kernels() -> set[str]:
    """The names of all kernels that a call may name."""
    folder = resources.files("mcuprune.deploy") / "ckernels"
    found = [re.findall(r"^KERNEL void (\w+)\(", file.read_text(), re.MULTILINE) for file in folder.iterdir()]
    return {name for names in found for name in names}


def test_a_convolution_that_sees_nothing_but_padding_needs_no_rows(tmp_path: Path) -> None:
    graph = Graph(1, 2, 5, 8)
    y = graph.conv(graph.conv("x", 2, 4, (3, 3), pads=[1, 1, 1, 1]), 4, 2, (5, 1), strides=[5, 2])  # one row is left
    y = graph.conv(y, 2, 2, (3, 1), dilations=[2, 1], pads=[3, 0, 1, 0])  # whose taps lie above and below it
    program = converted(int8(model_of(graph, y), tmp_path / "int8.onnx")).program
    made = versions(program, random.Random(0))
    called = functions(made, tmp_path)
    assert made["bandsauto"].arena <= made["plain"].arena
    assert alike(program, called["plain"], list(called.values()))


def test_of_every_kernel_it_is_known_how_it_makes_a_row() -> None:
    """Those of ``whole`` read or make all rows at once; a new kernel has to be somewhere."""
    whole = {"matmul", "turn", "spread"}
    known = {*rowcalls._SLIDING, *rowcalls._REPEATED, "move", "bilinear"}
    assert not known & whole
    assert kernels() == known | whole


@pytest.mark.parametrize(
    ("mode", "sizes"),
    thorough_but(
        itertools.product(("half_pixel", "align_corners", "asymmetric"), ((5, 7), (4, 12), (9, 3))),
        *(("half_pixel", (4, 12)), ("align_corners", (9, 3)), ("asymmetric", (5, 7))),
    ),
)
def test_rows_between_rows_are_those_of_the_whole_image(sizes, mode, tmp_path):
    """Interpolation between rows of a ring, up and down in size, behind a convolution and in front of one."""
    draw = np.random.default_rng(1)
    scales = np.array([1, 1, 2, 2], F)
    model = one("Resize", (1, 3, *sizes), np.array([], F), scales, mode="linear", coordinate_transformation_mode=mode)
    weight = onnx.numpy_helper.from_array(draw.normal(size=(2, 3, 3, 3)).astype(F), "v")
    model.graph.initializer.append(weight)
    model.graph.node.append(helper.make_node("Conv", ["b", "v"], ["c"], "behind", kernel_shape=[3, 3]))
    model.graph.output[0].CopyFrom(helper.make_empty_tensor_value_info("c"))
    assert check(onnx.shape_inference.infer_shapes(model), tmp_path, 3, *SANITIZED)


# -------------------------------------------------------------------------------------------------------------- signals


def signals(*layers: tuple[int, int, int, tuple[int, int], int, int], steps: int = 23, cut: int = 0) -> onnx.ModelProto:
    """Convolutions of a signal with three channels: each (outputs, taps, stride, pads, dilation, groups), a Relu, and at last a
    shortcut around a pool of three. cut: steps that are sliced off in front behind the first of them."""
    graph, x, ins = Graph(1, 3, steps), "x", 3
    for index, (outs, taps, stride, pads, dilation, group) in enumerate(layers):
        weight, bias = graph.constant(outs, ins // group, taps), graph.constant(outs)
        x = graph.add("Conv", x, weight, bias, group=group, strides=[stride], pads=[*pads], dilations=[dilation])
        if cut and not index:
            first, end, axis = (graph.value(np.array([number])) for number in (cut, 10**6, 2))
            x = graph.add("Slice", x, first, end, axis)
        x, ins = graph.add("Relu", x), outs
    pooled = graph.add("MaxPool", x, kernel_shape=[3], pads=[1, 1])
    means = graph.add("AveragePool", x, kernel_shape=[2], strides=[2])
    return graph.model(graph.add("Add", x, pooled), means)


PLAIN = (12, 5, 1, (2, 2), 1, 1)
SIGNALS = {
    "plain": signals(PLAIN, (5, 3, 1, (1, 1), 1, 1)),
    "in steps": signals(PLAIN, (8, 4, 2, (1, 2), 1, 1), (4, 1, 1, (0, 0), 1, 1)),
    "dilated and causal": signals(PLAIN, (6, 3, 1, (8, 0), 4, 1)),
    "of each channel": signals(PLAIN, (12, 5, 1, (2, 2), 1, 12), (6, 3, 1, (1, 1), 1, 3)),
    "without its first steps": signals((12, 3, 1, (0, 4), 1, 1), (5, 3, 1, (1, 1), 1, 1), cut=4),
}


@pytest.mark.parametrize("name", SIGNALS)
def test_signals_go_step_by_step_to_the_same_bytes(name: str, tmp_path: Path) -> None:
    assert check(SIGNALS[name], tmp_path, 5, *SANITIZED)
    program = tflite.convert(as_int8(loaded(SIGNALS[name]), feed(SIGNALS[name], seed=1))).program
    assert c.generate(program, "net", bands="auto").arena < 0.9 * c.generate(program, "net").arena


def grey(*shape: int) -> onnx.ModelProto:
    """Three convolutions of a grey image of 30 x 24, which comes in this shape."""
    graph = Graph(*shape)
    x = graph.add("Reshape", "x", graph.value(np.array([1, 1, 30, 24]))) if len(shape) < 4 else "x"
    for ins, outs in ((1, 6), (6, 6), (6, 2)):
        x = graph.add("Relu", graph.conv(x, ins, outs))
    return graph.model(x)


def test_an_image_that_comes_as_a_row_of_numbers_is_read_row_by_row(tmp_path: Path) -> None:
    assert check(grey(1, 720), tmp_path, 3, *SANITIZED)
    arenas = [
        c.generate(tflite.convert(as_int8(loaded(model), feed(model, seed=1))).program, "net", bands="auto").arena
        for model in (grey(1, 720), grey(1, 1, 30, 24))
    ]
    assert arenas[0] == arenas[1]


# ------------------------------------------------------------------------------------------------------------- commands


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digits ResNet as an int8 file."""
    out = str(tmp_path_factory.mktemp("resnet") / "int8.onnx")
    assert cli.main(["export", str(ROOT / "models" / "resnet8_digits.onnx"), "--data", "digits", "-o", out]) == 0
    return out


def test_export_writes_c_that_runs_row_by_row_in_less_than_half_the_memory(resnet, tmp_path, capsys):
    arena = {}
    for bands in ("off", "4", "auto"):
        out = tmp_path / f"net{bands}.c"
        assert cli.main(["export", resnet, "-o", str(out), "--bands", bands, "--format", "json"]) == 0
        document = json.loads(capsys.readouterr().out)
        arena[bands] = document["arena"]["c"]
        assert f"_ARENA_BYTES {arena[bands]}\n" in out.with_suffix(".h").read_text()
        assert "_ARENA_BYTES];" in out.read_text()
        if bands == "off":
            assert document["rows"] is None
        else:
            assert document["rows"]["arena"] == arena[bands]
            assert document["rows"]["without"] == arena["off"]
            assert document["rows"]["regions"][0]["rings"][0]["kept"] < document["rows"]["regions"][0]["rings"][0]["of"]
    assert arena["auto"] + 400 <= 6600  # with 400 bytes of stack
    assert arena["auto"] < arena["4"] < arena["off"] == 12288


def test_a_file_in_no_bands_is_the_file_as_ever(resnet, tmp_path):
    for name, extra in (("a", []), ("b", ["--bands", "off"])):
        assert cli.main(["export", resnet, "-o", str(tmp_path / name / "net.c"), *extra]) == 0
    assert (tmp_path / "a" / "net.c").read_bytes() == (tmp_path / "b" / "net.c").read_bytes()


def test_bands_that_gain_nothing_are_refused_before_anything_is_written(tmp_path, capsys):
    model = one("GlobalAveragePool", (1, 4, 1, 1))
    int8_file = tmp_path / "small.onnx"
    as_int8(loaded(model), feed(model, seed=1)).save(int8_file)
    out = tmp_path / "net.c"
    assert cli.main(["export", str(int8_file), "-o", str(out), "--bands", "3"]) == 2
    assert "no part of the network gains from 3 bands of rows in C" in capsys.readouterr().err
    assert not out.exists()


def test_the_report_names_regions_and_the_rows_in_memory(resnet, tmp_path, capsys):
    assert cli.main(["export", resnet, "-o", str(tmp_path / "net.c"), "--bands", "auto"]) == 0
    said = capsys.readouterr().out
    assert "rows in C: 5.2 KiB of RAM, 12.0 KiB without:" in said
    assert "conv1/conv/Conv 3 of 16" in said


def test_a_profile_says_what_c_takes_row_by_row_for_floats_as_for_integers(resnet, capsys):
    arenas = []
    for path in (resnet, str(ROOT / "models" / "resnet8_digits.onnx")):
        assert cli.main(["profile", path, "--bands", "--format", "json"]) == 0
        arenas.append(json.loads(capsys.readouterr().out)["models"][0]["rows"]["arena"])
    assert arenas[0] == arenas[1]


def test_a_project_runs_row_by_row_and_gives_the_stored_answer(resnet, tmp_path):
    folder = tmp_path / "app"
    command = ["export", resnet, "--project", "cmake", str(folder), "--data", "digits", "--bands", "auto"]
    assert cli.main(command) == 0
    sources = sorted(path.name for path in folder.glob("*.c"))
    build = [*(runners.compiler() or []), "-std=c99", *BOUNDED, *sources, "-o", "run_one"]
    subprocess.run(build, cwd=folder, check=True)
    ran = subprocess.run([str(folder / "run_one")], capture_output=True, text=True, check=True)
    assert "as stored" in ran.stdout
    assert "switch (s0[i])" in (folder / "int8.c").read_text()


def test_addresses_are_checked_too(resnet, tmp_path):
    """In a process of its own: no byte beside the arena is touched."""
    assert cli.main(["export", resnet, "--project", "cmake", str(tmp_path / "app"), "--data", "digits", "--bands", "auto"]) == 0
    build = [*(runners.compiler() or []), "-std=c99", "-g", "-fsanitize=address,undefined", "main.c", "int8.c", "-o", "run_one"]
    if subprocess.run(build, cwd=tmp_path / "app", capture_output=True, check=False).returncode:
        pytest.skip("this compiler has no sanitizer of addresses")
    assert subprocess.run([str(tmp_path / "app" / "run_one")], capture_output=True, check=False).returncode == 0
