"""Generated C: byte for byte what TensorFlow Lite Micro's reference kernels compute, in an arena of the exact peak."""

from __future__ import annotations

import ctypes
import hashlib
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import blocks
import numpy as np
import onnx
import pytest
from apart import apart
from conftest import Once, corpus, in_our_build
from graphs import Graph
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_tflite import CASES, case, converted, int8, model_of

from mcuprune.costs import resources
from mcuprune.deploy import c
from mcuprune.deploy.fixedpoint import factor, high_product, scaled, shift_right
from mcuprune.deploy.flatbuffer import serialised
from mcuprune.deploy.program import Operator, Port, Program, Tensor
from mcuprune.deploy.qdq import Quantizer
from mcuprune.deploy.steps.arithmetic import WITH_ONE_CONSTANT
from mcuprune.deploy.steps.rules import select
from mcuprune.deploy.tables import TABLES, table
from mcuprune.deploy.tflite import Converted
from mcuprune.errors import ModelError, UnsupportedOperator
from mcuprune.graph import network
from mcuprune.operators import table as ops
from mcuprune.run import runners

micro: Any = pytest.importorskip("tflite_micro")
if runners.compiler() is None:
    pytest.skip("no C compiler here", allow_module_level=True)

ROOT = Path(__file__).parents[1]
SANITIZED = ("-fsanitize=undefined", "-fno-sanitize-recover=all")
#: The code for cores with DSP instructions, on a host that has none: acle/arm_acle.h computes what these do.
DSP = ("-D__ARM_FEATURE_DSP=1", "-I", str(ROOT / "tests" / "acle"))
CODES = pytest.mark.parametrize("code", [(), DSP], ids=["portable", "dsp"])


def by_turns_in_either_code(names: Iterable[str]) -> pytest.MarkDecorator:
    """Every name with every code; quick is one of the two, by turns, and the other one thorough."""
    return pytest.mark.parametrize(
        ("name", "code"),
        [
            pytest.param(name, code, id=f"{name}-{which}", marks=pytest.mark.thorough if (index + turn) % 2 else ())
            for index, name in enumerate(names)
            for turn, (which, code) in enumerate((("portable", ()), ("dsp", DSP)))
        ],
    )


STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")


def compiled(source: c.Source, folder: Path, *flags: str) -> Any:
    """The network as a function in this process."""
    (folder / "net.c").write_text(source.c)
    (folder / "net.h").write_text(source.header)
    command = [*(runners.compiler() or []), "-std=c99", *STRICT, "-shared", "-fPIC", *flags, "net.c", "-o", "net.so"]
    subprocess.run(command, cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "net.so")).net_invoke


def answered(
    net: Converted, source: c.Source, folder: Path, inputs: Sequence[Sequence[np.ndarray]], *flags: str
) -> list[list[np.ndarray]]:
    """The outputs of each example, of C that may break off."""
    function = compiled(source, folder, *flags)
    return apart(lambda: [invoked(function, x, net.outputs) for x in inputs])


def by_reference(net: Converted, inputs: Sequence[Sequence[np.ndarray]]) -> list[list[np.ndarray]]:
    """The same of TensorFlow Lite Micro, whose checks end the process where a file isn't what they want."""

    def run() -> list[list[np.ndarray]]:
        interpreter = micro.runtime.Interpreter.from_bytes(net.content, arena_size=16_000_000)
        answers = []
        for example in inputs:
            for index, (x, port) in enumerate(zip(example, net.inputs, strict=True)):
                interpreter.set_input(port.to_tflite(x), index)
            interpreter.invoke()
            answers.append([port.to_onnx(np.array(interpreter.get_output(i))) for i, port in enumerate(net.outputs)])
        return answers

    return apart(run)


def invoked(function: Any, inputs: Sequence[np.ndarray], outputs: Sequence[Port]) -> list[np.ndarray]:
    results = [np.zeros(port.shape, np.int8) for port in outputs]
    function(*((ctypes.c_void_p * len(side))(*(x.ctypes.data for x in side)) for side in (inputs, results)))
    return results


def drawn(net: Converted, examples: int) -> list[list[np.ndarray]]:
    """Inputs by turns at the ends of the range, mostly, and within it."""
    draw = np.random.default_rng(0)
    spreads = [40 if turn % 2 else 300 for turn in range(examples)]
    return [
        [np.clip(draw.normal(0, spread, port.shape), -128, 127).astype(np.int8) for port in net.inputs] for spread in spreads
    ]


def differing(
    net: Converted, folder: Path, *flags: str, examples: int = 10, edit: Callable[[str], str] = str, once: Once | None = None
) -> tuple[int, c.Source]:
    """On how many examples some output isn't TFLM's, and the C.

    edit: a change to the C before it is compiled. once: where TFLM's answers are kept, for other flags and edits.
    """
    source = c.generate(net.program, "net")
    source = replace(source, c=edit(source.c))
    inputs = drawn(net, examples)
    found = answered(net, source, folder, inputs, *flags)
    if once is None:
        wanted = by_reference(net, inputs)
    else:
        ports = net.inputs, net.outputs  # ONNX's layouts, which two networks of one file may differ in
        key = ("reference", hashlib.sha256(net.content).hexdigest(), ports, examples)
        wanted = once(key, lambda _: by_reference(net, inputs))
    wrong = sum(
        any(not np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True))
        for mine, theirs in zip(found, wanted, strict=True)
    )
    return wrong, source


#: TFLite operators that have no kernel in C, by the case of test_tflite that has them.
@by_turns_in_either_code(CASES)
def test_an_operator_computes_what_tensorflow_lite_micro_computes(
    name: str, code: Sequence[str], tmp_path: Path, once: Once
) -> None:
    _, net = case(once, name)
    wrong, source = differing(net, tmp_path, "-O0", *code, once=once)
    assert wrong == 0
    assert source.arena <= source.peak + 16


#: Whose padding counts: an average by its own attribute, others behind a Pad, which the peak takes for a part of them.
PADDED = ("counted", "AveragePool", "MaxPool", "GlobalAveragePool", "GlobalMaxPool")


@st.composite
def padded_pools(draw: st.DrawFn) -> onnx.ModelProto:
    """A pool whose padding counts, between other layers or alone."""
    size = st.integers(1, 9)
    channels, height, width = (draw(size) for _ in range(3))
    kind, first, last = draw(st.sampled_from(PADDED)), draw(st.booleans()), draw(st.booleans())
    graph = Graph(1, channels, height, width)
    x = graph.conv("x", channels, channels, 1) if first else "x"
    kernel = [draw(st.integers(1, 4)) for _ in range(2)]
    strides = [draw(st.integers(1, 3)) for _ in range(2)]
    least = [max(0, -(-(k - n) // 2)) for k, n in zip(kernel * 2, (height, width) * 2, strict=True)]
    if kind == "counted":
        pads = [draw(st.integers(lacking, k - 1)) for lacking, k in zip(least, kernel * 2, strict=True)]
        x = graph.add("AveragePool", x, kernel_shape=kernel, strides=strides, pads=pads, count_include_pad=1)
    else:
        pads = [draw(st.integers(lacking, 5)) for lacking in least]
        for part in (pads, [draw(st.integers(0, 2)) for _ in pads])[: draw(st.integers(1, 2))]:
            x = graph.add("Pad", x, graph.value(np.array([0, 0, *part[:2], 0, 0, *part[2:]])))
        own = [draw(st.integers(0, k - 1)) for k in kernel * 2]  # of a mean it counts, too; a maximum leaves it out
        counted = {} if kind == "MaxPool" else {"count_include_pad": 1}
        more = {"kernel_shape": kernel, "strides": strides, "pads": own, **counted}
        x = graph.add(kind, x, **({} if kind.startswith("Global") else more))
    return model_of(graph, graph.conv(x, channels, 2, 1) if last else graph.add("Relu", x))


@pytest.mark.thorough
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(padded_pools(), st.sampled_from([(), DSP]))
def test_padding_that_counts_takes_no_memory(tmp_path_factory: Any, model: onnx.ModelProto, code: Sequence[str]) -> None:
    folder = tmp_path_factory.mktemp("pool")
    path = int8(model, folder / "net.onnx")
    wrong, source = differing(converted(path), folder, "-O0", *SANITIZED, *code, examples=4)
    assert wrong == 0
    assert source.arena <= resources.profile(network.load(path, accept=ops.accept(path))).memory.peak + 16


def through(*layers: tuple[str, Sequence[Any], dict[str, Any]], shape: tuple[int, ...] = (1, 4, 6, 7)) -> onnx.ModelProto:
    """One operator behind the other: its name, its constants, its attributes."""
    graph, x = Graph(*shape), "x"
    for op, constants, attrs in layers:
        x = graph.add(op, x, *(graph.value(np.asarray(each)) for each in constants), **attrs)
    return model_of(graph, x)


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def together(op: str, terms: int) -> onnx.ModelProto:
    """An operator of the outputs of so many convolutions, all but the last of which are outputs of the network, too."""
    graph = Graph(1, 1, 5, 7)
    parts = [graph.conv("x", 1, 3, 1) for _ in range(terms)]
    return model_of(graph, graph.add(op, *parts), *parts[:-1])


def flattened(*shape: int) -> onnx.ModelProto:
    """A Reshape of what lies with channels last, and a convolution behind it."""
    graph = Graph(1, 4, 6, 7)
    x = graph.add("Reshape", graph.norm("x", 4), graph.value(np.array((1, *shape))))
    return model_of(graph, graph.conv(x, shape[0], 2, 1))


def in_bands_of_rows(graph: Graph, x: str, *shape: int) -> str:
    """A normalisation of each half of the rows of a channel, and what it normalises added to it, as BC-ResNet has them."""
    channels, height, width = shape
    y = graph.conv(x, channels, channels, 3, group=channels)
    y = graph.add("Reshape", y, graph.value(np.array((1, 2 * channels, height // 2, width))))
    y = graph.add("Reshape", graph.norm(y, 2 * channels), graph.value(np.array((1, *shape))))
    return graph.add("Add", y, x)


def in_two_orders() -> onnx.ModelProto:
    """What is read with channels last and as a Reshape leaves it."""
    graph = Graph(1, 4, 10, 7)
    x = graph.add("Reshape", graph.add("Relu", "x"), graph.value(np.array([1, 7, 4, 10])))
    gate = graph.conv(graph.add("GlobalAveragePool", x), 7, 7, 1)
    return model_of(graph, graph.add("Mul", x, gate))


def beside_itself() -> onnx.ModelProto:
    """Blocks of bands of rows, of a large image and of a small one."""
    graph = Graph(1, 3, 8, 9)
    x = in_bands_of_rows(graph, in_bands_of_rows(graph, graph.conv("x", 3, 4, 3), 4, 8, 9), 4, 8, 9)
    small = graph.add("MaxPool", x, kernel_shape=[2, 3], strides=[2, 3])
    return model_of(graph, in_bands_of_rows(graph, in_bands_of_rows(graph, small, 4, 4, 3), 4, 4, 3))


def padded_in_another_order() -> onnx.ModelProto:
    """Channels of zeros around a transposed image, in front of a convolution."""
    graph = Graph(1, 2, 4, 5)
    x = graph.add("Transpose", graph.add("Relu", "x"), perm=[0, 2, 3, 1])
    return model_of(graph, graph.conv(graph.add("Pad", x, graph.value(np.array([0, 2, 1, 1, 0, 1, 1, 2]))), 7, 2, 3))


def joined_in_another_order() -> onnx.ModelProto:
    """Rows of what bands of rows make, joined twice with what has another scale and another order of axes."""
    graph = Graph(1, 5, 3, 2)
    y = graph.add("Reshape", "x", graph.value(np.array((1, 15, 1, 2))))
    return model_of(graph, graph.add("Concat", graph.norm(y, 15), y, y, axis=2))


#: What the peak counts as one step, or as none, and TensorFlow Lite has as several operators.
SEVERAL: dict[str, Callable[[], onnx.ModelProto]] = {
    "a transposed convolution that crops": lambda: through(
        ("ConvTranspose", [weights(4, 3, 3, 4)], {"pads": [1, 2, 0, 1], "strides": [2, 1]})
    ),
    "a transposed convolution that crops unevenly": lambda: through(
        ("ConvTranspose", [weights(4, 3, 3, 4)], {"pads": [2, 0, 1, 3], "strides": [2, 3]})
    ),
    "a maximum behind two Pads": lambda: through(
        ("Pad", [[0, 0, 1, 0, 0, 0, 0, 2]], {}),
        ("Pad", [[0, 0, 2, 0, 0, 0, 1, 1]], {}),
        ("MaxPool", [], {"kernel_shape": [3, 2], "pads": [1, 1, 2, 0]}),
    ),
    "a sum of three": lambda: together("Sum", 3),
    "a sum of six": lambda: together("Sum", 6),
    "the largest of two scales": lambda: together("Max", 2),
    "the least of four scales": lambda: together("Min", 4),
    "a reshape of channels to columns": lambda: flattened(6, 7, 4),
    "a reshape to other channels": lambda: flattened(8, 3, 7),
    "an image in two orders of its axes": in_two_orders,
    "bands of rows beside the image": beside_itself,
    "a Pad of channels in another order of axes": padded_in_another_order,
    "rows joined in another order of axes": joined_in_another_order,
    "a convolution behind a Pad of channels": lambda: through(
        ("Pad", [[0, 1, 1, 0, 0, 2, 0, 2]], {}), ("Conv", [weights(3, 7, 2, 2)], {})
    ),
    "a depthwise convolution behind a Pad of channels": lambda: through(
        ("Pad", [[0, 1, 1, 0, 0, 2, 0, 2]], {}), ("Conv", [weights(7, 1, 3, 2), weights(7)], {"group": 7}), ("Relu", [], {})
    ),
    "several outputs a channel behind a Pad of channels": lambda: through(
        ("Pad", [[0, 2, 0, 0, 0, 0, 0, 0]], {}), ("Conv", [weights(18, 1, 3, 2), weights(18)], {"group": 6})
    ),
    "one channel behind a Pad of channels": lambda: through(
        ("Pad", [[0, 1, 0, 0, 0, 1, 0, 0]], {}), ("Conv", [weights(6, 1, 3, 2)], {"group": 3}), shape=(1, 1, 6, 7)
    ),
    "a grouped convolution behind a Pad of channels": lambda: through(
        ("Pad", [[0, 2, 1, 0, 0, 4, 0, 1]], {}), ("Conv", [weights(15, 2, 3, 2), weights(15)], {"group": 5})
    ),
    "a mean of windows behind a Pad of channels": lambda: through(
        ("Pad", [[0, 3, 0, 0, 0, 1, 0, 0]], {}), ("AveragePool", [], {"kernel_shape": [3, 2]})
    ),
    "a counted mean behind a Pad of channels": lambda: through(
        ("Pad", [[0, 0, 1, 2, 0, 5, 0, 1]], {}),
        ("AveragePool", [], {"kernel_shape": [3, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ),
    "a maximum behind a Pad of channels": lambda: through(
        ("Pad", [[0, 3, 2, 0, 0, 1, 1, 0]], {}),
        ("MaxPool", [], {"kernel_shape": [3, 2], "pads": [2, 1, 0, 1], "strides": [2, 1]}),
    ),
    "a mean of all behind a Pad of channels": lambda: through(
        ("Pad", [[0, 2, 2, 0, 0, 3, 1, 0]], {}), ("GlobalAveragePool", [], {})
    ),
}


@by_turns_in_either_code(SEVERAL)
def test_what_the_peak_counts_as_one_step_takes_no_more_in_c(name: str, code: Sequence[str], tmp_path: Path) -> None:
    path = int8(SEVERAL[name](), tmp_path / "net.onnx")
    wrong, source = differing(converted(path), tmp_path, "-O0", *SANITIZED, *code, examples=4)
    assert wrong == 0
    assert source.arena <= resources.profile(network.load(path, accept=ops.accept(path))).memory.peak + 16


def test_no_more_is_turned_where_it_lies_than_the_peak_asks_for(tmp_path: Path) -> None:
    source = c.generate(converted(int8(beside_itself(), tmp_path / "net.onnx")).program, "net")
    large, small = source.c.split("/* MAX_POOL_2D")
    assert " turn(" in large
    assert " turn(" not in small
    assert " move(" in small


@CODES
@pytest.mark.parametrize("channels", [2, 5, 8])
def test_a_normalisation_that_stays_is_computed_in_place(channels: int, code: Sequence[str], tmp_path: Path) -> None:
    graph = Graph(1, 1, 6, 7)
    y = graph.norm(graph.add("Relu", graph.conv("x", 1, channels)), channels)
    path = int8(model_of(graph, graph.add("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])), tmp_path / "net.onnx")
    wrong, source = differing(converted(path), tmp_path, "-O0", *SANITIZED, *code, examples=4)
    assert wrong == 0
    assert source.arena <= resources.profile(network.load(path, accept=ops.accept(path))).memory.peak


#: What strict projects ask for, in C and in C++, whose compilers take generated C, too.
WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror", "-fsyntax-only")
LANGUAGES: dict[str, tuple[str, ...]] = {
    "C99": ("gcc", "-std=c99", *DSP),
    "C99, portable": ("gcc", "-std=c99"),
    "C++17": ("g++", "-std=c++17", "-x", "c++", *DSP),
    "C++17, portable": ("g++", "-std=c++17", "-x", "c++"),
    "C99 on Arm": ("arm-none-eabi-gcc", "-std=c99", "-mcpu=cortex-m4", "-mthumb"),
}


def programs_of_every_kernel(once: Once) -> Iterator[Program]:
    """Programs that call all kernels between them."""
    unproven = [Quantizer(scale, 0) for scale in (1.0, 1.0, 2.0**-30)]
    yield on_sides("ADD", unproven, [64] * 3, {}).program
    for name in SEVERAL:
        path = once(("several", name), lambda folder, name=name: int8(SEVERAL[name](), folder / "net.onnx"))
        yield converted(path).program
    for name in CASES:
        yield case(once, name)[1].program


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_kernel_compiles_without_a_warning(language: str, tmp_path: Path, once: Once) -> None:
    compiler, *flags = LANGUAGES[language]
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler} here")
    missing = set(c.kernel_names())
    for program in programs_of_every_kernel(once):
        try:
            source = c.generate(program, "net")
        except UnsupportedOperator:
            continue
        found = missing & set(re.findall(r"^KERNEL void (\w+)\(", source.c, re.MULTILINE))
        if found:
            missing -= found
            (tmp_path / "net.c").write_text(source.c)
            (tmp_path / "net.h").write_text(source.header)
            subprocess.run([compiler, *WARNINGS, *flags, "net.c"], cwd=tmp_path, check=True)
        if not missing:
            return
    assert not missing


@pytest.mark.slow  # a compiler's minute: the sanitizers see what the fast test computes right by luck
@by_turns_in_either_code(CASES)
def test_no_operator_overflows_or_reads_beside_its_data(name: str, code: Sequence[str], tmp_path: Path, once: Once) -> None:
    _, net = case(once, name)
    assert differing(net, tmp_path, "-O1", *SANITIZED, *code, once=once)[0] == 0


@pytest.mark.thorough
@pytest.mark.parametrize("name", [name for name in blocks.BLOCKS if name != "group norm"])
def test_a_block_computes_what_tensorflow_lite_micro_computes(name: str, tmp_path: Path) -> None:
    try:
        net = converted(int8(onnx.load_from_string(blocks.exported(name, "torchscript")), tmp_path / "net.onnx"))
    except UnsupportedOperator:
        pytest.skip("has an operator that TensorFlow Lite Micro doesn't have")
    wrong, source = differing(net, tmp_path, "-O1", *SANITIZED)
    assert wrong == 0
    # what is alive may not fit without a gap: of two halves of a channel shuffle that live on at either end of the arena
    assert source.arena <= (source.peak + 16 if name != "shufflenet v2 unit" else 1.25 * source.peak)


#: Real networks that TensorFlow Lite Micro breaks off at, and why.
BREAK_OFF = {"light_squeezenet": "512 or more classes of its softmax are alike, as all of its weights are"}


@pytest.mark.slow  # minutes: every real network, written, compiled and run
@pytest.mark.parametrize("path", corpus(), ids=lambda path: path.stem)
def test_a_real_network_computes_what_tensorflow_lite_micro_computes(path: Path, tmp_path: Path) -> None:
    from mcuprune import pruning, units

    out = str(tmp_path / "int8.onnx")
    try:
        pruning.prune(pruning.Request(str(path), {"sram": units.parse("100%", "bytes")}, out, train=False))
        net = converted(out)
        wrong, source = differing(net, tmp_path, "-O1", *SANITIZED)
    except (UnsupportedOperator, ModelError) as refusal:  # of free sizes too
        pytest.skip(f"refused: {refusal}")
    except AssertionError as broke_off:
        if path.stem in BREAK_OFF and "signal 6" in str(broke_off):
            pytest.xfail(f"in TensorFlow Lite Micro: {BREAK_OFF[path.stem]}")
        raise
    assert wrong == 0
    assert source.arena <= source.peak + 16


# ------------------------------------------------------------------------------------------------- tables and arithmetic


def one_operator(name: str, source: Quantizer, target: Quantizer, options: dict[str, Any]) -> Program:
    tensors = tuple(Tensor(label, (1, 256), (1, 256), "int8", q) for label, q in (("x", source), ("y", target)))
    ports = [Port(label, (1, 256), (None, 1), q, index) for index, (label, q) in enumerate((("x", source), ("y", target)))]
    return Program(tensors, (Operator(name, (0,), (1,), options, "node"),), (ports[0],), (ports[1],))


@pytest.mark.parametrize("name", [name for name in TABLES if name not in ("RELU_N1_TO_1", "RELU6")])
def test_a_table_holds_what_the_reference_kernel_computes(name: str) -> None:
    draw = np.random.default_rng(1)
    for _ in range(60):
        source = Quantizer(float(np.float32(10 ** draw.uniform(-4, 0.5))), int(draw.integers(-128, 128)))
        target = Quantizer(float(np.float32(source.scale * 10 ** draw.uniform(-1, 1))), int(draw.integers(-128, 128)))
        target = {"LOGISTIC": Quantizer(1 / 256, -128), "TANH": Quantizer(1 / 128, 0)}.get(name, target)
        options = {"alpha": float(np.float32(draw.uniform(0, 1)))} if name == "LEAKY_RELU" else {}
        content = serialised(one_operator(name, source, target, options))
        interpreter = micro.runtime.Interpreter.from_bytes(content, arena_size=100_000)
        interpreter.set_input(np.arange(-128, 128).astype(np.int8).reshape(1, 256), 0)
        interpreter.invoke()
        assert np.array_equal(np.array(interpreter.get_output(0)).reshape(-1), table(name, source, target, options))


@pytest.mark.parametrize("name", [name for name in TABLES if name not in ("LOGISTIC", "TANH")])  # of fixed range
def test_a_table_whose_output_is_almost_nothing_is_made_all_the_same(name: str) -> None:
    """As of a branch that is dead on all examples."""
    values = table(name, Quantizer(0.05, 3), Quantizer(1e-8, -128), {"alpha": 0.1})
    assert values[3 + 128] == -128


def on_sides(name: str, quantizers: Sequence[Quantizer], sizes: Sequence[int], options: dict[str, Any]) -> Converted:
    """A file of one operator; quantizers and elements of its inputs and, last, of its output."""
    labels = [*"ab"[: len(sizes) - 1], "y"]
    tensors = tuple(
        Tensor(label, (1, size), (1, size), "int8", q) for label, size, q in zip(labels, sizes, quantizers, strict=True)
    )
    ports = [
        Port(tensor.name, tensor.shape, (None, 1), q, i) for i, (tensor, q) in enumerate(zip(tensors, quantizers, strict=True))
    ]
    last = len(tensors) - 1
    operator = Operator(name, tuple(range(last)), (last,), options, "node")
    program = Program(tensors, (operator,), tuple(ports[:last]), tuple(ports[last:]))
    return Converted(serialised(program), program, ())


@pytest.mark.parametrize(("name", "bits"), [("ADD", 3), ("SUB", 3), ("MUL", 3), ("MUL", 20), ("MUL", 27), ("MUL", 30)])
def test_a_factor_above_one_is_applied_as_the_reference_kernels_do(name: str, bits: int, tmp_path: Path) -> None:
    """Bits that don't fit are lost."""
    scales = (1.0, 1.0, 2.0**-bits * 0.7)
    net = on_sides(name, [Quantizer(scale, zero) for scale, zero in zip(scales, (3, -5, -128), strict=True)], [64] * 3, {})
    assert differing(net, tmp_path, "-O1", *SANITIZED)[0] == 0


@pytest.mark.parametrize("bits", [32, 40, 80])
def test_a_factor_that_no_kernel_can_apply_keeps_nothing_nothing(bits: int, tmp_path: Path) -> None:
    """An output whose range is almost nothing; what the reference kernel then does C leaves undefined."""
    net = on_sides("MUL", [Quantizer(scale, 0) for scale in (1.0, 1.0, 2.0**-bits)], [256] * 3, {})
    x = np.arange(-128, 128).astype(np.int8)[None]
    ((found,),) = answered(net, c.generate(net.program, "net"), tmp_path, [[x, 0 * x + 1]], "-O1", *SANITIZED)
    assert found[0, 128] == 0
    assert found.any()


@pytest.mark.parametrize("classes", [2, 255, 256, 511, 512, 600, 1000, 4000, 8191])
def test_a_softmax_over_many_classes_alike_gives_each_its_share(classes: int, tmp_path: Path) -> None:
    """Of 512 or more that are alike the reference kernel shifts by 32 bits, which C leaves undefined."""
    unit = Quantizer(1 / 256, -128)
    net = on_sides("SOFTMAX", (Quantizer(0.01, 0), unit), [classes] * 2, {"beta": 1.0})
    few = np.zeros((1, classes), np.int8)
    few[0, :2] = 127
    rows = [np.zeros((1, classes), np.int8), few, np.full((1, classes), -128, np.int8)]
    answers = answered(net, c.generate(net.program, "net"), tmp_path, [[x] for x in rows], "-O1", *SANITIZED)
    for x, (found,) in zip(rows, answers, strict=True):
        powers = np.exp(0.01 * x.astype(np.float64))
        exact = 256 * powers / powers.sum() - 128
        assert np.abs(found - np.clip(exact, -128, 127)).max() <= 0.51


@pytest.mark.parametrize("scale", [1e-8, 5e-9, 1e-12, 1e-20])
@pytest.mark.parametrize("name", ["SOFTMAX", "LOG_SOFTMAX"])
def test_a_softmax_of_almost_nothing_takes_all_classes_for_alike(name: str, scale: float, tmp_path: Path) -> None:
    """As of a file of somebody else: TensorFlow Lite Micro breaks off, and generating C ended in a traceback."""
    net = on_sides(name, (Quantizer(scale, 0), Quantizer(1 / 256, -128)), [4] * 2, {"beta": 1.0} if name == "SOFTMAX" else {})
    x = np.array([[-128, 0, 100, 127]], np.int8)
    ((found,),) = answered(net, c.generate(net.program, "net"), tmp_path, [[x]], "-O1", *SANITIZED)
    assert (found == (256 / 4 - 128 if name == "SOFTMAX" else 127 - round(16 * np.log(4)))).all()


def test_where_a_runtime_breaks_off_the_node_that_may_be_why_is_named() -> None:
    net = on_sides("SOFTMAX", (Quantizer(0.01, 0), Quantizer(1 / 256, -128)), [512] * 2, {"beta": 1.0})
    alike = {"a": np.zeros((1, 512), np.float32)}
    with pytest.raises(ModelError, match=r"can't run it.* maybe at node 'node': .* SOFTMAX has 512 here"):
        runners.run("tflm", net, [alike], "net.onnx", limit=100_000)
    assert (runners.run("c", net, [alike], "net.onnx", limit=0).outputs["y"] < -126).all()


@pytest.mark.parametrize(("name", "classes"), [("SOFTMAX", 8192), ("LOG_SOFTMAX", 4096)])
def test_a_softmax_over_more_classes_than_its_sum_can_hold_is_refused(name: str, classes: int) -> None:
    net = on_sides(name, (Quantizer(0.01, 0), Quantizer(1 / 256, -128)), [classes] * 2, {"beta": 1.0})
    with pytest.raises(UnsupportedOperator, match=f"node 'node': {name} over {classes:,} classes has no kernel in C"):
        c.generate(net.program, "net")


@pytest.mark.parametrize("scale", [1e-5, 0.01, 0.1, 1.0, 20.0])
@pytest.mark.parametrize("classes", [1, 2, 10, 257, 4095])
def test_logarithms_of_a_softmax_are_those_of_the_reference_kernel(classes: int, scale: float, tmp_path: Path) -> None:
    """Of classes that lie together and far apart; the last of these scales reaches what the kernel doesn't count any more."""
    draw = np.random.default_rng(classes)
    zero = int(draw.integers(-128, 128))
    net = on_sides("LOG_SOFTMAX", (Quantizer(float(np.float32(scale)), zero), Quantizer(1 / 16, 127)), [classes] * 2, {})
    spread = np.repeat([0, 1, 5, 20, 60, 200], 6)[:, None]
    drawn = np.clip(draw.normal(draw.uniform(-100, 100, spread.shape), spread, (36, classes)), -128, 127).astype(np.int8)
    inputs = [[row[None]] for row in drawn]
    found = answered(net, c.generate(net.program, "net"), tmp_path, inputs, "-O1", *SANITIZED)
    assert np.array_equal(found, by_reference(net, inputs))


#: Quantisers of a dividend, of what it is divided by and of the quotient, which the reference kernel computes with.
QUOTIENTS = [
    ((0.02, 3), (0.01, -128), (0.02, -7)),
    ((0.02, -128), (0.01, -128), (0.015, -128)),
    ((0.5, 127), (0.004, 127), (0.9, 10)),
    ((1.0, 0), (0.02, -20), (0.001, 0)),
    ((300.0, -60), (0.001, 60), (0.3, -128)),
]
#: The same where it shifts by more bits than there are.
BEYOND = [((0.012, -128), (0.004, -128), (0.8, -128)), ((0.012, 3), (0.004, -5), (0.8, 9)), ((1e-4, 0), (1.0, 0), (1.0, 0))]
#: Every pair of a dividend and a divisor.
PAIRS = [numbers.reshape(1, -1).astype(np.int8) for numbers in np.meshgrid(np.arange(-128, 128), np.arange(-128, 128))]


def of_quotients(quantizers: Sequence[tuple[float, int]]) -> Converted:
    known = [Quantizer(float(np.float32(scale)), zero) for scale, zero in quantizers]
    return on_sides("DIV", known, [2**16] * 3, {})


@pytest.mark.parametrize("quantizers", QUOTIENTS)
def test_quotients_are_those_of_the_reference_kernel(quantizers: Sequence[tuple[float, int]], tmp_path: Path) -> None:
    net = of_quotients(quantizers)
    net.program.check_forms()
    nothing = PAIRS[1] == quantizers[1][1]  # which that kernel can't divide by
    inputs = [[PAIRS[0], np.where(nothing, np.int8(1 if quantizers[1][1] != 1 else 2), PAIRS[1])]]
    found = answered(net, c.generate(net.program, "net"), tmp_path, inputs, "-O1", *SANITIZED)
    assert np.array_equal(found, by_reference(net, inputs))


@pytest.mark.parametrize("quantizers", [*QUOTIENTS, *BEYOND])
def test_quotients_are_right_within_a_step_and_saturate_where_nothing_divides(
    quantizers: Sequence[tuple[float, int]], tmp_path: Path
) -> None:
    net = of_quotients(quantizers)
    ((found,),) = answered(net, c.generate(net.program, "net"), tmp_path, [PAIRS], "-O1", *SANITIZED)
    (sa, za), (sb, zb), (sy, zy) = quantizers
    a, b = (sa * (PAIRS[0].astype(float) - za), sb * (PAIRS[1].astype(float) - zb))
    with np.errstate(divide="ignore", invalid="ignore"):
        right = np.clip(np.nan_to_num(a / b, nan=0.0, posinf=np.inf, neginf=-np.inf) / sy + zy, -128, 127)
    right[b == 0] = np.select([a[b == 0] > 0, a[b == 0] < 0], [127, -128], zy)
    assert np.abs(found - right).max() < 1


@pytest.mark.parametrize("quantizers", BEYOND)
def test_quotients_that_the_reference_kernel_gets_wrong_are_for_c_alone(quantizers: Sequence[tuple[float, int]]) -> None:
    net = of_quotients(quantizers)
    with pytest.raises(
        UnsupportedOperator, match=r"node 'node': DIV of these ranges shifts .*: export \.c, or keep the divisor"
    ):
        _ = net.file
    net.program.check()


@pytest.mark.parametrize("quantizers", [*QUOTIENTS, *BEYOND])
def test_a_table_of_quotients_holds_what_the_kernel_computes(quantizers: Sequence[tuple[float, int]], tmp_path: Path) -> None:
    """Of a constant that is divided, by what the network computes."""
    net = of_quotients(quantizers)
    of_two = WITH_ONE_CONSTANT["DIV"](select(net.program), net.program.operators[0])
    ((found,),) = answered(net, c.generate(net.program, "net"), tmp_path, [PAIRS])
    assert [of_two(int(a), int(b)) for a, b in zip(*(side[0, ::7] for side in PAIRS), strict=True)] == found[0, ::7].tolist()


@pytest.mark.parametrize("size", [2**15 - 1, 2**15])
@pytest.mark.parametrize("op", ["Gemm", "Conv", "MaxPool", "Resize"])
def test_sizes_that_kernels_count_to_are_computed_and_larger_ones_refused(op: str, size: int, tmp_path: Path) -> None:
    """Sizes have 16 bits: one more was a negative number."""
    last = op == "Resize"  # counts to the last place, not to the size
    graph = Graph(1, size) if op == "Gemm" else Graph(1, 1, 1, size + last)
    if op == "Gemm":
        y = graph.add("Gemm", "x", graph.constant(size, 2))
    elif op == "Conv":
        y = graph.conv("x", 1, 1, (1, 3), pads=[0, 1, 0, 1], strides=[1, 2])
    elif op == "MaxPool":
        y = graph.add("MaxPool", "x", kernel_shape=[1, 5], strides=[1, 5])
    else:
        y = graph.add("Resize", "x", "", graph.value(np.float32([1, 1, 2, 1])), mode="linear")
    net = converted(int8(model_of(graph, y), tmp_path / "net.onnx"))
    if size >= 2**15:
        with pytest.raises(
            UnsupportedOperator, match=r"node '.*': \w+ has a size above 32,767, which kernels can't count to, in C"
        ):
            c.generate(net.program, "net")
    else:
        assert differing(net, tmp_path, "-O1", *SANITIZED, "-Werror=overflow", examples=2)[0] == 0


@pytest.mark.parametrize("last", [32767, 32768])
def test_entries_of_an_axis_are_picked_right_or_refused(last: int, tmp_path: Path) -> None:
    """Indices have 16 bits: one beyond read memory before the arena."""
    graph = Graph(1, 1, last + 1)
    picked = graph.add("Gather", "x", graph.value(np.array([0, last, 5])), axis=2)
    net = converted(int8(model_of(graph, picked), tmp_path / "net.onnx"))
    if last >= 2**15:
        with pytest.raises(UnsupportedOperator, match="GATHER picks entries beyond the first 32,768 of an axis in C"):
            c.generate(net.program, "net")
        return
    x = np.random.default_rng(0).integers(-128, 128, (1, 1, last + 1)).astype(np.int8)
    (found,) = answered(net, c.generate(net.program, "net"), tmp_path, [[x]], "-O1", *SANITIZED)
    assert found[0].ravel().tolist() == x.ravel()[[0, last, 5]].tolist()


@given(st.integers(-(2**31), 2**31 - 1), st.integers(0, 31))
def test_shifting_right_rounds_to_nearest_and_halves_away_from_zero(value: int, bits: int) -> None:
    exact = abs(value) / 2**bits
    nearest = int(exact + 0.5) if bits < 53 else 0
    assert shift_right(value, bits) == (nearest if value >= 0 else -nearest)


@given(st.integers(-(2**20), 2**20), st.floats(1e-6, 100.0))
@settings(max_examples=200)
def test_a_factor_scales_within_half_a_step(value: int, real: float) -> None:
    assert abs(scaled(value, factor(real)) - value * real) <= 1 + abs(value * real) * 2**-28


def test_the_largest_product_saturates() -> None:
    assert high_product(-(2**31), -(2**31)) == 2**31 - 1


# ------------------------------------------------------------------------------------------------------------- the files


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    return converted(
        int8(
            CASES["conv with relu"]() if "conv with relu" in CASES else next(iter(CASES.values()))(),
            tmp_path_factory.mktemp("c") / "net.onnx",
        )
    )


def _whole_resize(g: Graph, y: str, mode: str, factor: int = 2) -> str:
    return g.add(
        "Resize",
        y,
        "",
        g.value(np.array([1, 1, factor, factor], np.float32)),
        mode=mode,
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


#: What works on several images, as a Reshape makes them of groups of channels.
ON_IMAGES: dict[str, Callable[[Graph, str], str]] = {
    "conv": lambda g, y: g.conv(y, 4, 6, 3),
    "conv of stride 2 with padding": lambda g, y: g.add("Conv", y, g.constant(4, 4, 3, 3), strides=[2, 2], pads=[1] * 4),
    "pointwise": lambda g, y: g.conv(y, 4, 5, 1),
    "grouped": lambda g, y: g.conv(y, 4, 4, 3, group=2),
    "depthwise": lambda g, y: g.conv(y, 4, 4, 3, group=4),
    "depthwise of one tap": lambda g, y: g.conv(y, 4, 4, 1, group=4),
    "transposed": lambda g, y: g.add("ConvTranspose", y, g.constant(4, 4, 2, 2), strides=[2, 2]),
    "max pool": lambda g, y: g.add("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2]),
    "average pool with padding": lambda g, y: g.add(
        "AveragePool", y, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4, count_include_pad=1
    ),
    "global maximum": lambda g, y: g.add("GlobalMaxPool", y),
    "global mean": lambda g, y: g.add("GlobalAveragePool", y),
    "padding": lambda g, y: g.add("Relu", g.add("Pad", y, g.value(np.array([0, 0, 1, 2, 0, 0, 0, 1])))),
    "reflection": lambda g, y: g.add("Pad", g.conv(y, 4, 4, 3), g.value(np.array([0, 0, 1, 2, 0, 0, 2, 1])), mode="reflect"),
    "nearest": lambda g, y: _whole_resize(g, y, "nearest"),
    "nearest to fewer": lambda g, y: g.add(
        "Resize",
        y,
        "",
        "",
        g.value(np.array([2, 4, 5, 7])),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    ),
    "linear": lambda g, y: _whole_resize(g, y, "linear"),
    "depth to space": lambda g, y: g.add("DepthToSpace", y, blocksize=2),
    "space to depth": lambda g, y: g.add("SpaceToDepth", y, blocksize=2),
    "concatenation": lambda g, y: g.add("Concat", y, g.add("Relu", y), axis=1),
    "slice": lambda g, y: g.add("Slice", y, g.value(np.array([1])), g.value(np.array([9])), g.value(np.array([2]))),
    "softmax": lambda g, y: g.add("Softmax", y, axis=1),
}


@by_turns_in_either_code(ON_IMAGES)
def test_channels_that_are_folded_into_the_batch_give_the_bytes_of_tflm(
    name: str, code: tuple[str, ...], once: Once, tmp_path: Path
) -> None:
    """Kernels know one image; of several only the first was computed, and nothing said so."""

    def made(folder: Path) -> str:
        g = Graph(1, 8, 10, 14)
        y = g.add("Reshape", g.conv("x", 8, 8, 3), g.value(np.array([2, 4, 10, 14])))
        y = g.add("Relu", ON_IMAGES[name](g, y))
        return int8(model_of(g, y), folder / "net.onnx")

    net = converted(once(("images", name), made))
    assert differing(net, tmp_path, *SANITIZED, *code, once=once)[0] == 0
    whole, rows = (c.generate(net.program, "net", bands=bands) for bands in ("off", "auto"))
    inputs = drawn(net, 3)
    for example, banded in zip(*(answered(net, source, tmp_path, inputs, *code) for source in (whole, rows)), strict=True):
        np.testing.assert_array_equal(example, banded)


@pytest.mark.parametrize(
    ("stem", "name"), [("my-net 2", "my_net_2"), ("é", "net"), ("_", "net"), ("__a", "a"), ("_Net", "Net"), ("1_", "net_1")]
)
def test_names_in_c_are_no_names_of_the_compiler(stem: str, name: str) -> None:
    assert c.identifier(stem) == name


def test_the_header_says_how_data_come_and_go(small: Converted) -> None:
    source = c.generate(small.program, "my-net 2")
    port = small.inputs[0]
    for line in (
        f"#define MY_NET_2_ARENA_BYTES {source.arena}",
        "#define MY_NET_2_INPUTS 1",
        f"#define MY_NET_2_INPUT_0_BYTES {int(np.prod(port.shape))}",
        f"#define MY_NET_2_INPUT_0_ZERO_POINT ({port.quantizer.zero_point})",
    ):
        assert line in source.header
    scale = re.search(r"MY_NET_2_INPUT_0_SCALE (\S+)f", source.header)
    assert scale is not None
    assert np.float32(float(scale[1])) == np.float32(port.quantizer.scale)
    assert "void my_net_2_invoke(const int8_t *const inputs[" in source.header
    included = set(re.findall(r"#include [<\"]([^>\"]+)", in_our_build(source.c) + source.header))
    assert included <= {"stdint.h", "string.h", "arm_acle.h", "my_net_2.h"}
    assert not re.search(r"\b(malloc|calloc|alloca|printf|float|double)\b", re.sub(r"/\*.*?\*/", "", source.c, flags=re.S))


def refused_by(compiler: Sequence[str], folder: Path, main: str) -> str:
    """What a compiler says against a file that it doesn't take."""
    (folder / "main.c").write_text(main)
    done = subprocess.run([*compiler, "-c", "main.c", "-o", "main.o"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    return done.stderr


def test_headers_whose_macros_are_the_same_are_refused_together(small: Converted, tmp_path: Path) -> None:
    """The second was left out, and its network called with the sizes of the first."""
    for name in ("net", "Net"):
        (tmp_path / f"{name}_of.h").write_text(c.generate(small.program, name).header)
    both = '#include "net_of.h"\n#include "Net_of.h"\n'
    assert "Net.h: another header has the same macros; call" in refused_by(runners.compiler() or ["cc"], tmp_path, both)


def test_a_compiler_whose_int_has_16_bits_is_refused(small: Converted, tmp_path: Path) -> None:
    if shutil.which("avr-gcc") is None:
        pytest.skip("no compiler with an int of 16 bits here")
    source = c.generate(small.program, "net")
    (tmp_path / "net.h").write_text(source.header)
    assert "needs_int_of_32_bits" in refused_by(["avr-gcc", "-mmcu=atmega2560"], tmp_path, source.c)


def test_a_name_from_the_file_cannot_leave_its_comment(small: Converted) -> None:
    evil = '*/ int main(void) { return 1; } /* \n#include "x"'
    operators = tuple(Operator(o.name, o.inputs, o.outputs, o.options, evil) for o in small.program.operators)
    program = Program(small.program.tensors, operators, small.program.inputs, small.program.outputs)
    assert "int main" not in c.generate(program, "net").c


def test_the_same_network_twice_is_the_same_file(small: Converted) -> None:
    assert c.generate(small.program, "net") == c.generate(small.program, "net")
