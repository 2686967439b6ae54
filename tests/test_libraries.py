"""Generated C that calls a chip maker's library: the bytes of our own kernels, and no more memory than it says.

Each library is a stand-in, ``cmsis_nn/`` and ``esp_nn/``, that computes by definition, stops at what the real one has no fast
code for, and wipes all of its scratch. Where the environment variable MCUPRUNE_CMSIS_NN or MCUPRUNE_ESP_NN names a checkout of
the real one, that is compared too.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from apart import apart
from conftest import feed, thorough_but
from graphs import Graph
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_bands import LAYERS, as_int8, loaded, stacks
from test_c import CASES, STRICT, case, invoked
from test_c_rows import ROOT, SIGNALS, examples, versions

from mcuprune import exporting
from mcuprune.deploy import c, kernels, tflite
from mcuprune.deploy.cplan import Planner
from mcuprune.deploy.fixedpoint import Factor
from mcuprune.deploy.libraries import ALIGNMENT, CMSIS_NN, ESP_NN, LIBRARIES, Library
from mcuprune.deploy.program import Program
from mcuprune.deploy.steps.calls import Call, Constant, Place, Window, bytes_of, words_of
from mcuprune.deploy.steps.rules import select
from mcuprune.errors import UnsupportedOperator
from mcuprune.graph import network
from mcuprune.operators import table as ops
from mcuprune.run import runners

if runners.compiler() is None:
    pytest.skip("no C compiler here", allow_module_level=True)

HERE = Path(__file__).parent
SANITIZED = ("-fsanitize=undefined", "-fno-sanitize-recover=all")
MODELS = sorted(path.stem for path in (ROOT / "models").glob("*.onnx"))
#: Two quick ones have the operators of all: squeeze-and-excitation, depthwise convolutions and a wide stem.
EACH = thorough_but(MODELS, "dscnn_digits", "mbv2se_digits")
MANY = settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
#: Where a library's sources lie in a checkout of it: what is compiled as plain C, and the folders of its headers.
SOURCES = {
    CMSIS_NN.macro: ("Source", r"(?<!_f16)(?<!_f32)(?<!_flt)\.c$", ("Include",)),
    ESP_NN.macro: ("src", r"_ansi\.c$", ("include", "src/common")),
}


@dataclass(frozen=True)
class Linked:
    """A library that is compiled. flags: of the compiler, for a program that calls it. counts: whether it counts its calls."""

    library: Library
    flags: tuple[str, ...]
    counts: bool


# ------------------------------------------------------------------------------------------------------------ libraries


@pytest.fixture(scope="module", params=LIBRARIES, ids=lambda library: library.name)
def stand_in(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Linked:
    folder = HERE / request.param.head
    built, (source,) = tmp_path_factory.mktemp("library") / "stand_in.o", folder.glob("*.c")
    flags = ["-std=c99", "-O1", *STRICT, *SANITIZED, "-fPIC", "-c"]
    subprocess.run([*(runners.compiler() or []), *flags, str(source), "-o", str(built)], check=True)
    return Linked(request.param, (f"-D{request.param.macro}", "-I", str(folder), str(built)), counts=True)


@pytest.fixture(scope="module", params=LIBRARIES, ids=lambda library: library.name)
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Linked:
    """A checkout of the library that an environment variable with the macro's name points to, as plain C."""
    macro = request.param.macro
    if macro not in os.environ:
        pytest.skip(f"{macro} names no checkout of {request.param.name}")
    root, (within, pattern, headers) = Path(os.environ[macro]), SOURCES[macro]
    folder = tmp_path_factory.mktemp("library")
    sources = [str(path) for path in sorted((root / within).rglob("*.c")) if re.search(pattern, path.name)]
    includes = [word for header in headers for word in ("-isystem", str(root / header))]
    command = [*(runners.compiler() or []), "-O2", "-fPIC", "-w", *includes, "-c", *sources]
    subprocess.run(command, cwd=folder, check=True)
    return Linked(request.param, (f"-D{macro}", *includes, *map(str, sorted(folder.glob("*.o")))), counts=False)


def functions(sources: dict[str, c.Source], folder: Path, *flags: str) -> tuple[ctypes.CDLL, dict[str, Any]]:
    """Several programs, compiled at once, as functions in this process."""
    folder.mkdir(exist_ok=True)
    for name, source in sources.items():
        (folder / f"{name}.c").write_text(source.c)
        (folder / f"{name}.h").write_text(source.header)
    files = [f"{name}.c" for name in sources]
    command = [*(runners.compiler() or []), "-std=c99", "-O1", *STRICT, *SANITIZED, "-shared", "-fPIC", *files, *flags]
    subprocess.run([*command, "-o", "nets.so"], cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "nets.so"))
    return library, {name: getattr(library, f"{name}_invoke") for name in sources}


def compare(program: Program, sources: dict[str, c.Source], folder: Path, linked: Linked) -> None:
    """With the library and without it every program gives the same outputs, one example after the other.

    Where the library counts its calls, there are some if a file says that there are.
    """
    _, plain = functions(sources, folder / "plain")
    library, called = functions(sources, folder / "library", *linked.flags)

    def run() -> tuple[list[str], int]:
        different = []
        for name in sources:
            for x in examples(program):
                wanted, found = (invoked(build[name], x, program.outputs) for build in (plain, called))
                different += [name for a, b in zip(found, wanted, strict=True) if not np.array_equal(a, b)]
        return different, ctypes.c_int32.in_dll(library, "calls").value if linked.counts else 0

    different, calls = apart(run)
    assert different == []
    if linked.counts:
        assert (calls > 0) == any(linked.library.macro in source.with_library for source in sources.values())


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Program]:
    """A network of ``models/`` as int8."""

    @cache
    def made(name: str) -> Program:
        out = str(tmp_path_factory.mktemp("int8") / "int8.onnx")
        exporting.export(exporting.Request(str(ROOT / "models" / f"{name}.onnx"), out, data="digits"))
        return tflite.convert(network.load(out, accept=ops.accept(out))).program

    return made


def whole_and_banded(program: Program) -> dict[str, c.Source]:
    return {"off": c.generate(program, "off"), "auto": c.generate(program, "auto", bands="auto")}


def check(model: onnx.ModelProto, seed: int, folder: Path, linked: Linked) -> None:
    try:
        program = tflite.convert(as_int8(loaded(model), feed(model, seed=1))).program
        sources = versions(program, random.Random(seed))
    except UnsupportedOperator:
        return
    compare(program, sources, folder, linked)


# ------------------------------------------------------------------------------------------------------- the same bytes


@pytest.mark.thorough
@pytest.mark.parametrize("name", EACH)
def test_a_network_computes_the_same_with_a_library(name, tmp_path, quantised, stand_in):
    sources = whole_and_banded(quantised(name))
    assert stand_in.library.macro in sources["off"].with_library
    compare(quantised(name), sources, tmp_path, stand_in)


@pytest.mark.slow  # minutes of compiling
@MANY
@given(stacks(LAYERS), st.integers(0, 10**6))
def test_random_stacks_compute_the_same_with_a_library(tmp_path_factory, stand_in, model, seed):
    check(model, seed, tmp_path_factory.mktemp("stack"), stand_in)


@pytest.mark.slow  # a compiler's minutes
@pytest.mark.parametrize(
    "name", [name for name in CASES if re.search(r"conv|wise|dimens|add|gemm|matmul", name, re.IGNORECASE)]
)
def test_an_operator_computes_the_same_with_a_library(name, tmp_path, once, stand_in):
    _, net = case(once, name)
    compare(net.program, {"net": c.generate(net.program, "net")}, tmp_path, stand_in)


@pytest.mark.thorough
@pytest.mark.parametrize("name", SIGNALS)
def test_signals_compute_the_same_with_a_library(name, tmp_path, stand_in):
    program = tflite.convert(as_int8(loaded(SIGNALS[name]), feed(SIGNALS[name], seed=1))).program
    compare(program, whole_and_banded(program), tmp_path, stand_in)


@pytest.mark.parametrize("name", MODELS)
def test_a_network_computes_the_same_with_a_real_library(name, tmp_path, quantised, real):
    compare(quantised(name), whole_and_banded(quantised(name)), tmp_path, real)


@settings(MANY, max_examples=15)
@given(stacks(LAYERS), st.integers(0, 10**6))
def test_random_stacks_compute_the_same_with_a_real_library(tmp_path_factory, real, model, seed):
    check(model, seed, tmp_path_factory.mktemp("stack"), real)


def test_cmsis_nn_asks_for_no_more_scratch_than_is_planned(tmp_path: Path, real: Linked) -> None:
    if real.library is not CMSIS_NN:
        pytest.skip("ESP-NN's plain C has no scratch")
    probe = """
#include "arm_nnfunctions.h"
int conv(int vectors, int h, int w, int c) {
  cmsis_nn_conv_params p = {0, 0, {1, 1}, {1, 1}, {1, 1}, {-128, 127}};
  cmsis_nn_dims in = {1, 20, 20, c}, filter = {8, h, w, c}, out = {1, 20, 20, 8};
  return vectors ? arm_convolve_wrapper_s8_get_buffer_size_mve(&p, &in, &filter, &out)
                 : arm_convolve_wrapper_s8_get_buffer_size_dsp(&p, &in, &filter, &out);
}
int depthwise(int vectors, int h, int w, int c) {
  cmsis_nn_dw_conv_params p = {0, 0, 1, {1, 1}, {0, 0}, {1, 1}, {-128, 127}};
  cmsis_nn_dims in = {1, 20, 20, c}, filter = {1, h, w, c}, out = {1, 20, 20, c};
  return vectors ? arm_depthwise_conv_wrapper_s8_get_buffer_size_mve(&p, &in, &filter, &out)
                 : arm_depthwise_conv_wrapper_s8_get_buffer_size_dsp(&p, &in, &filter, &out);
}
"""
    (tmp_path / "probe.c").write_text(probe)
    command = [*(runners.compiler() or []), "-shared", "-fPIC", "probe.c", *real.flags, "-o", "probe.so"]
    subprocess.run(command, cwd=tmp_path, check=True)
    library = ctypes.CDLL(str(tmp_path / "probe.so"))
    for height, width, channels in ((3, 3, 1), (3, 3, 16), (5, 1, 7), (1, 3, 130), (4, 4, 300), (3, 3, 400)):
        theirs = max(library.conv(vectors, height, width, channels) for vectors in (0, 1))
        assert kernels.most_of_conv(height * width * channels) == theirs
        theirs = max(library.depthwise(vectors, height, width, channels) for vectors in (0, 1))
        ours = kernels.most_of_depthwise(height * width, channels)
        assert theirs <= ours <= max(theirs, 2 * height * width * channels)


# -------------------------------------------------------------------------------------------------- what it is asked for


def window(kernel: tuple[int, int] = (3, 3), **changes: int) -> Window:
    """A 3 x 3 convolution of 4 channels over 8 x 8, all of it 1, with some of the struct's numbers changed."""
    numbers = {"height": 8, "width": 8, "channels": 4, "out_height": 8, "out_width": 8, "outs": 4}
    numbers |= {"kernel_h": kernel[0], "kernel_w": kernel[1], "stride_h": 1, "stride_w": 1, "pad_h": 1, "pad_w": 1}
    numbers |= {"dilation_h": 1, "dilation_w": 1, "groups": 1, "zero_in": 0, "zero_out": 0, "low": -128, "high": 127}
    numbers |= changes
    taps = kernel[0] * kernel[1]
    weights = bytes_of(np.ones(taps * numbers["outs"] * numbers["channels"] // numbers["groups"], np.int8))
    return Window(
        weights, words_of([0, 2**30] * numbers["outs"]), Constant("int8_t", (-1,) * numbers["outs"]), (*numbers.values(),)
    )


def depthwise(**changes: int) -> Window:
    made = window(**changes)
    outs = made.numbers[5]
    return replace(made, weights=bytes_of(np.ones(9 * outs, np.int8)))


def taken(kernel: str, window: Window, library: Library = CMSIS_NN) -> str | None:
    """The library's kernel that computes a call of ours."""
    form = library.instead(Call(kernel, (Place(0), Place(1), window, 0, window.numbers[3], window.numbers[0])))
    return None if form is None else form.kernel


def test_the_stack_that_is_stated_is_the_largest_that_was_measured() -> None:
    measured = map(json.loads, (HERE / "benchmarks" / "device_cmsis_nn.jsonl").read_text().splitlines())
    assert CMSIS_NN.stack == max(row["cmsis_nn"]["stack"] for row in measured)


def test_what_cmsis_nn_computes_and_what_stays_ours() -> None:
    one = {"pad_h": 0, "pad_w": 0}
    assert taken("conv", window()) == "cmsis_nn_conv"
    assert taken("conv", window(dilation_h=2)) == "cmsis_nn_conv"
    assert taken("conv_grouped", window(groups=2)) == "cmsis_nn_conv"
    assert taken("pointwise", window((1, 1), **one)) == "cmsis_nn_pointwise"
    assert taken("conv", window((1, 1), **one, stride_h=2, stride_w=2, out_height=4, out_width=4)) == "cmsis_nn_pointwise"
    assert taken("conv", window((1, 1), **one, out_width=9)) == "cmsis_nn_conv"  # beyond the image's edge
    assert taken("depthwise", depthwise()) == "cmsis_nn_depthwise"
    assert taken("depthwise", depthwise(dilation_w=2)) is None
    assert taken("depthwise", depthwise(outs=8)) is None
    assert taken("depthwise", depthwise(pad_w=0)) is None  # the last window has one column in the image
    assert taken("pool", window()) is None
    assert taken("conv_transpose", window()) is None


def test_what_esp_nn_computes_and_what_stays_ours() -> None:
    one, many = {"pad_h": 0, "pad_w": 0}, {"channels": 16, "outs": 16}
    halved = {"stride_h": 2, "stride_w": 2, "out_height": 4, "out_width": 4}
    assert taken("conv", window(channels=8), ESP_NN) == "esp_nn_conv"
    assert taken("conv", window(channels=8, **one, **halved), ESP_NN) == "esp_nn_conv"  # padded at the end alone
    assert taken("conv", window(channels=8, pad_h=0), ESP_NN) is None  # further over the lower edge than over the upper
    assert taken("conv", window(dilation_h=2), ESP_NN) is None
    assert taken("conv_grouped", window(groups=2), ESP_NN) is None
    assert taken("conv", window(outs=6), ESP_NN) is None
    assert taken("pointwise", window((1, 1), **one, channels=8), ESP_NN) == "esp_nn_conv"
    assert taken("pointwise", window((1, 1), **one), ESP_NN) is None  # of 4 channels
    assert taken("pointwise", window((1, 1), **one, channels=8, height=1, width=7, out_height=1, out_width=7), ESP_NN) is None
    assert taken("depthwise", depthwise(**many), ESP_NN) == "esp_nn_depthwise"
    assert taken("depthwise", depthwise(**many, **one, **halved), ESP_NN) == "esp_nn_depthwise"
    assert taken("depthwise", depthwise(**many, pad_h=0), ESP_NN) is None
    assert taken("depthwise", depthwise(), ESP_NN) is None  # of 4 channels
    assert taken("depthwise", depthwise(**many, height=60, width=60, out_height=60, out_width=60), ESP_NN) is None


@pytest.mark.parametrize(
    ("bias", "shift", "kept"), [(2**31 - 36 * 256, -1, False), (2**31 - 37 * 256, -1, True), (2**29, 2, False)]
)
def test_channels_that_may_overflow_stay_ours(bias: int, shift: int, kept: bool) -> None:
    plain = window()
    pairs = words_of([bias, 2**30] * 4)
    edged = replace(plain, bias_number=pairs, shift=Constant("int8_t", (shift,) * 4))
    assert (taken("conv", edged) is not None) == kept


def test_the_zero_point_is_taken_out_of_a_bias_that_has_it() -> None:
    """4 weights of 1 times a zero point of 5, subtracted from the bias before."""
    folded = replace(window((1, 1), pad_h=0, pad_w=0, zero_in=5), bias_number=words_of([7 - 4 * 5, 2**30] * 4))
    form = CMSIS_NN.instead(Call("pointwise", (Place(0), Place(1), folded, 0, 8, 8)))
    assert form is not None
    layer = form.arguments[2]
    assert isinstance(layer, Window)
    assert layer.bias_number == words_of([*[7] * 4, *[2**30] * 4, *[-1] * 4])
    assert Factor(2**30, -1) == Factor(*(layer.bias_number.values[place] for place in (4, 8)))


# ------------------------------------------------------------------------------------------------------------- the files


def test_the_arena_says_what_it_takes_in_each_build(tmp_path: Path, quantised: Any, stand_in: Linked) -> None:
    source, macro = c.generate(quantised("dscnn_digits"), "net"), stand_in.library.macro
    (tmp_path / "net.c").write_text(source.c)
    (tmp_path / "net.h").write_text(source.header)
    sizes = {}
    for build, flags in (("", ()), (macro, stand_in.flags[:-1])):
        command = [*(runners.compiler() or []), "-std=c99", "-O1", "-fno-pie", *STRICT, *flags, "-c", "net.c", "-o", "net.o"]
        subprocess.run(command, cwd=tmp_path, check=True)
        told = subprocess.run(["nm", "-S", "net.o"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
        sizes[build] = sum(int(line.split()[1], 16) for line in told.splitlines() if re.search(r" [bBdDC] ", line))
    assert sizes == {"": source.arena, macro: source.with_library[macro]}
    assert source.arena == source.peak < source.with_library[macro]


@pytest.mark.parametrize(("side", "all_aligned"), [(4, True), (5, False)])
def test_esp_nn_reads_and_writes_at_multiples_of_its_vectors(side: int, all_aligned: bool) -> None:
    """Three convolutions in a row, over images of 128 bytes, and of 200 bytes, which 16 doesn't divide."""
    graph = Graph(1, 8, side, side)
    model = graph.model(graph.conv(graph.conv(graph.conv("x", 8, 8), 8, 8), 8, 8))
    text = c.generate(tflite.convert(as_int8(loaded(model), feed(model, seed=1))).program, "net").c
    found = re.findall(r"^  esp_nn_conv\(arena \+ (\d+), arena \+ (\d+), &(\w+),", text, re.MULTILINE)
    assert (len(found) == text.count("\n  cmsis_nn_conv(") == 3) == all_aligned
    assert all(int(place) % ALIGNMENT == 0 for *places, _ in found for place in places)
    arrays = {array for *_, layer in found for array in re.findall(rf"window_t {layer} = {{(\w+), (\w+),", text)[0]}
    assert arrays == set(re.findall(rf" (\w+)\[\d+\] __attribute__\(\(aligned\({ALIGNMENT}\)\)\);", text))


def test_a_network_that_shares_its_arena_calls_no_library(quantised: Any) -> None:
    selection = select(quantised("dscnn_digits"))
    source = c.written(selection, Planner(selection).best("off"), "net", shared_arena="lent")
    assert not any(library.macro in source.c + source.header for library in LIBRARIES)
    assert source.with_library == {}
