"""C kernels from the inside: both codes of each, rings of rows, sizes that nothing divides, bounds of the arithmetic."""

from __future__ import annotations

import ctypes
import functools
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Once
from graphs import Graph
from hypothesis import given, settings
from hypothesis import strategies as st
from test_c import CODES, DSP, SANITIZED, STRICT, by_turns_in_either_code, differing
from test_tflite import CASES, case, converted, int8, model_of

from mcuprune.deploy import c, sums
from mcuprune.deploy.fixedpoint import Factor, clamped, factor, scaled
from mcuprune.deploy.program import Constant, Operator, Port, Program, Storage, Tensor
from mcuprune.deploy.qdq import Quantizer
from mcuprune.deploy.steps.rules import select
from mcuprune.deploy.sums import Sums
from mcuprune.deploy.tflite import Converted
from mcuprune.run import runners

pytest.importorskip("tflite_micro")
if runners.compiler() is None:
    pytest.skip("no C compiler here", allow_module_level=True)

# ---------------------------------------------------------------------------------------------------------------- sizes


def sliding(seed: int, kind: str) -> onnx.ModelProto:
    """A convolution or pool of sizes drawn by chance; kind: what its kernel is called."""
    draw = np.random.default_rng(seed)
    one, height, width = (int(n) for n in draw.integers((1, 3, 1), (19, 9, 9)))
    ins = {"conv": 6, "conv_short": 1, "conv_grouped": 2}.get(kind, 1) * one if kind != "conv_short" else 1 + one % 3
    outs, group = int(draw.integers(1, 10)), 1
    kernel = [int(n) for n in draw.integers(2, 5, 2)]
    if kind == "pointwise":
        kernel = [1, 1]
    if kind == "conv_grouped":
        group, outs = 2, 2 * outs
    if kind == "depthwise":
        group = outs = ins = ins + 1
    if kind.startswith("pool"):  # whose kernel takes four channels at a time
        ins += 4
    pads = [int(n) for n in draw.integers(0, np.tile(kernel, 2))]
    strides = [1, 1] if kind == "pointwise" else [int(n) for n in draw.integers(1, 4, 2)]
    height, width = (max(size, n) for size, n in zip((height, width), kernel, strict=True))
    graph = Graph(1, ins, height, width)
    if kind == "pool":
        largest = seed % 2 == 0
        padded: dict[str, Any] = {"pads": pads} if largest else {"auto_pad": "SAME_UPPER"}  # others are depthwise convolutions
        y = graph.add("MaxPool" if largest else "AveragePool", "x", kernel_shape=kernel, strides=strides, **padded)
    elif kind == "scale":
        y = graph.norm("x", ins)
    elif kind == "pool_counting":
        own = [n // 2 for n in pads] if seed % 4 == 0 else [0] * 4  # of a maximum, which doesn't count
        pads[0] += 2 * kernel[0]  # of some windows there is nothing else
        y = graph.add("Pad", "x", graph.value(np.array([0, 0, *pads[:2], 0, 0, *pads[2:]])))
        y = graph.add(("MaxPool", "AveragePool")[seed % 2], y, kernel_shape=kernel, strides=strides, pads=own)
    elif kind == "conv_transpose":
        y = graph.add("ConvTranspose", "x", graph.constant(ins, outs, *kernel), graph.constant(outs), strides=strides)
    else:
        y = graph.conv("x", ins, outs, (kernel[0], kernel[1]), group=group, strides=strides, pads=pads)
    return model_of(graph, graph.add("Relu", y) if seed % 3 else y)


def by_rows(text: str) -> str:
    """Each sliding kernel called for one row of its output at a time, on a ring of as many rows as its window covers."""
    kernels = "conv|conv_grouped|conv_short|conv_transpose|depthwise|pointwise|pool|pool_counting|scale"
    found = re.compile(rf"^  ({kernels})\((.*)\);$", re.MULTILINE)
    assert found.search(text), "no sliding kernel to take apart"
    helper = """
static int8_t ring[1 << 16];
#define BY_ROWS(kernel, first, last, size, x, y, p, begin, until, height_, ...) { \\
  for (int r = begin; r < until; r++) { \\
    const int rows = (size) < (p)->height ? (size) : (p)->height, bytes = (p)->width * (p)->channels; \\
    memset(ring, 99, sizeof ring); \\
    for (int i = (first) < 0 ? 0 : (first); i <= (last) && i < height_; i++) \\
      memcpy(ring + i % rows * bytes, (x) + i * bytes, (size_t)bytes); \\
    kernel(ring, (y) + (r - begin) * (p)->out_width * (p)->out_channels, p, r, r + 1, rows __VA_ARGS__); \\
  } }
"""

    def rows(match: re.Match[str]) -> str:
        kernel, arguments = match[1], match[2].split(", ")
        p = arguments[2]
        if kernel == "conv_transpose":
            last = f"(r + ({p})->pad_h) / ({p})->stride_h"
            size = f"(({p})->kernel_h + ({p})->stride_h - 1) / ({p})->stride_h"
            first = f"{last} - ({size}) + 1"
        else:
            size = f"(({p})->kernel_h - 1) * ({p})->dilation_h + 1"
            first = f"r * ({p})->stride_h - ({p})->pad_h"
            last = f"{first} + {size} - 1"
        more = "".join(f", {argument}" for argument in arguments[6:])
        return f"  BY_ROWS({kernel}, {first}, {last}, {size}, {', '.join(arguments[:6])}, {more})"

    return found.sub(rows, text).replace("static int8_t arena[", helper + "static int8_t arena[", 1)


@functools.cache
def small(kind: str, seed: int) -> Converted:
    with tempfile.TemporaryDirectory() as folder:
        return converted(int8(sliding(seed, kind), Path(folder) / "net.onnx"))


KINDS = ("conv", "conv_short", "conv_grouped", "conv_transpose", "depthwise", "pointwise", "pool", "pool_counting", "scale")


#: Each kernel as it is called once for all rows, and row by row; quick is one of them, by turns.
FORMS = [
    pytest.param(kind, edit, id=f"{kind}-{name}", marks=pytest.mark.thorough if (index + turn) % 2 else ())
    for index, kind in enumerate(KINDS)
    for turn, (name, edit) in enumerate((("whole", str), ("by rows", by_rows)))
]


@CODES
@pytest.mark.parametrize(("kind", "edit"), FORMS)
def test_sizes_that_nothing_divides(
    kind: str, edit: Callable[[str], str], code: Sequence[str], tmp_path: Path, once: Once
) -> None:
    used = set()
    for seed in range(4):
        folder = tmp_path / str(seed)  # a library is loaded once for each path
        folder.mkdir()
        net = small(kind, seed)
        used |= {call.kernel for step in select(net.program).steps for call in step.calls}
        assert differing(net, folder, "-O0", *SANITIZED, *code, examples=4, edit=edit, once=once)[0] == 0, seed
    assert kind in used


@pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="no compiler for Arm")
@pytest.mark.parametrize(("height", "width"), [(4, 2), (3, 2), (4, 4)])
def test_a_compiler_that_optimises_leaves_no_call_out(height: int, width: int, tmp_path: Path) -> None:
    """GCC 12 took the convolution of these for a function without effects, as all of its arguments are constants."""
    graph = Graph(1, 1, height, width)
    net = converted(int8(model_of(graph, graph.conv("x", 1, 1, (1, 1), strides=[1, width])), tmp_path / "net.onnx"))
    source = c.generate(net.program, "net")
    (tmp_path / "net.c").write_text(source.c)
    (tmp_path / "net.h").write_text(source.header)
    command = ["arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb", "-O2", "-std=c99", *STRICT, "-S", "net.c"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert re.search(r"^\s+bl?\s+conv\b", (tmp_path / "net.s").read_text(), re.MULTILINE)


@pytest.mark.slow  # a compiler's minute
@by_turns_in_either_code(CASES)
def test_no_operator_reads_beside_its_weights_and_inputs(name: str, code: Sequence[str], tmp_path: Path, once: Once) -> None:
    _, net = case(once, name)
    stays_inside(net, code, tmp_path)


@CODES
@pytest.mark.parametrize("ins", [1, 3, 6])
def test_padding_wider_than_a_kernel_stays_inside(ins: int, code: Sequence[str], tmp_path: Path) -> None:
    """Some windows have nothing but padding, at every side."""
    graph = Graph(1, ins, 4, 5)
    model = model_of(graph, graph.conv("x", ins, 3, (2, 2), pads=[5, 4, 3, 6]))
    stays_inside(converted(int8(model, tmp_path / "net.onnx")), code, tmp_path)


def stays_inside(net: Converted, code: Sequence[str], tmp_path: Path) -> None:
    """Run as a program of its own: the address sanitizer must be there from the start."""
    source = c.generate(net.program, "net")
    (tmp_path / "net.c").write_text(source.c)
    (tmp_path / "net.h").write_text(source.header)
    buffers = [
        f"malloc(NET_{side}_{i}_BYTES)"
        for side, ports in (("INPUT", net.inputs), ("OUTPUT", net.outputs))
        for i in range(len(ports))
    ]
    main = f"""#include <stdlib.h>
#include <string.h>
#include "net.h"
int main(void) {{
  int8_t *all[] = {{{", ".join(buffers)}}};
{"".join(f"  memset(all[{i}], {40 * i - 80}, NET_INPUT_{i}_BYTES);" for i in range(len(net.inputs)))}
  net_invoke((const int8_t *const *)all, all + NET_INPUTS);
  for (int i = 0; i < NET_INPUTS + NET_OUTPUTS; i++) free(all[i]);
  return 0;
}}
"""
    (tmp_path / "main.c").write_text(main)
    flags = ["-std=c99", "-O1", *STRICT, "-fsanitize=address,undefined", "-fno-sanitize-recover=all", *code]
    subprocess.run([*(runners.compiler() or []), *flags, "net.c", "main.c", "-o", "net"], cwd=tmp_path, check=True)
    ran = subprocess.run(["./net"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


# ----------------------------------------------------------------------------------------------------------- arithmetic


def kernel_text(*pieces: str) -> str:
    folder = resources.files("mcuprune.deploy") / "ckernels"
    return "\n".join((folder / f"{piece}.c").read_text().replace("NAME_", "NET_") for piece in pieces)


def built(text: str, folder: Path, *flags: str) -> Any:
    (folder / "probe.c").write_text(f"#include <stdint.h>\n#include <string.h>\n#define KERNEL\n#define EFFECT (void)0\n{text}")
    command = [*(runners.compiler() or []), "-std=c99", *SANITIZED, *flags, "-shared", "-fPIC", "probe.c", "-o", "probe.so"]
    subprocess.run(command, cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "probe.so"))


@CODES
def test_the_fast_requantisation_is_the_reference_wherever_it_is_proven(code: Sequence[str], tmp_path: Path) -> None:
    probe = """
void probe(const int32_t *rows, int8_t *y, int n) {
  for (; n--; rows += 4) {
    window_t p = {0};
    p.zero_out = (int16_t)rows[3];
    *y++ = finished(rows[0], rows[1], rows[2], OFFSET(&p), &p);
  }
}
"""
    library = built("#define NET_PROVEN 1\n" + kernel_text("prelude", "base", "window") + probe, tmp_path, *code)
    draw, most = np.random.default_rng(0), 2**30 - 1
    size = 20_000
    bits = draw.integers(0, 31, size)
    values = np.clip(draw.integers(-(2**30), 2**30, size) >> bits, -most, most)
    values[:4] = (most, -most, 0, -1)
    numbers = draw.choice([*draw.integers(2**30, 2**31, 50), 2**30, 2**31 - 1], size)
    shifts, zeros = draw.choice(np.array(sums._SHIFTS), size), draw.choice([-128, 127, 0, 5, -77], size)
    middle = draw.integers(-128, 128, size)  # most products of such numbers saturate; some are brought into the byte's range
    near = np.clip(((middle - zeros) * 2.0**31 / numbers * 2.0**-shifts).astype(np.int64), -most, most)
    values = np.where(draw.random(size) < 0.5, near, values)
    rows = np.ascontiguousarray(np.stack([values, numbers, shifts, zeros], 1).astype(np.int32))
    found = np.zeros(size, np.int8)
    library.probe(rows.ctypes.data_as(ctypes.c_void_p), found.ctypes.data_as(ctypes.c_void_p), size)
    wanted = [clamped(scaled(int(v), Factor(int(n), int(s))) + int(z)) for v, n, s, z in rows]
    assert found.tolist() == wanted
    assert len(set(wanted)) == 256


@CODES
def test_the_fast_addition_is_the_reference_for_every_pair_of_bytes(code: Sequence[str], tmp_path: Path) -> None:
    library = built(kernel_text("prelude", "base", "add", "add_proven"), tmp_path, *code)
    a, b = (
        np.ascontiguousarray(x) for x in np.stack(np.meshgrid(*[np.arange(-128, 128)] * 2), 0).reshape(2, -1).astype(np.int8)
    )
    draw, kernels = np.random.default_rng(0), set()
    for turn in range(12):
        one, other, out = (float(np.float32(x)) for x in 10 ** draw.uniform(-3, 0, 3))
        other = one if turn % 4 == 0 else one / 2**turn if turn % 4 == 1 else other
        common = 2 * max(one, other)
        factors = [n for real in (one / common, other / common, common / (2**20 * out)) for n in factor(real)]
        parameters = [*draw.integers(-128, 128, 3).tolist(), *factors, -128, 127, 1 - 2 * (turn % 2)]
        name, fast = sums.addition(parameters)
        kernels.add(name)
        results = []
        for kernel, numbers in (("add", parameters), (name, fast)):
            y = np.zeros(65536, np.int8)
            words = np.array(numbers, np.int32)
            arrays = [ctypes.c_void_p(x.ctypes.data) for x in (a, b, y)]
            getattr(library, kernel)(*arrays, 65536, 1, 1, ctypes.c_void_p(words.ctypes.data))
            results.append(y)
        assert np.array_equal(*results), parameters
    assert "add_proven" in kernels


def test_an_addition_outside_the_bounds_takes_the_general_kernel() -> None:
    half, large = factor(0.5), factor(0.75)
    parameters = [0, 0, 0, *half, *half, *large, -128, 127, 1]
    assert sums.addition(parameters)[0] == "add"
    assert sums.addition([*parameters[:7], *factor(2.0**-19), *parameters[9:]])[0] == "add_proven"


channel = st.tuples(
    st.lists(st.integers(-127, 127), min_size=3, max_size=3),
    st.one_of(st.integers(-(2**12), 2**12), st.integers(-(2**31), 2**31 - 1)),
    st.floats(-12, 3),
)


@given(st.lists(channel, min_size=1, max_size=4), st.integers(-128, 127), st.integers(0, 2**32 - 1))
@settings(max_examples=200)
def test_a_channel_that_is_written_anew_gives_what_it_gave(channels: list[Any], zero: int, seed: int) -> None:
    weights, bias, exponents = (np.array(part) for part in zip(*channels, strict=True))
    added = Sums(weights.astype(np.int8), 0, bias.astype(np.int64), tuple(factor(10.0**x) for x in exponents))
    steady, bounds = added.steadied(zero, (-128, 127)), (-128, 127)
    folded = steady.folded(zero)
    inputs = np.random.default_rng(seed).integers(-128, 128, (20, 3))
    for index, by in enumerate(added.factors):
        totals = (inputs - zero) @ weights[index] + bias[index]
        changed = steady.weights[index] @ (inputs - zero).T + steady.bias[index]
        if not added._provable()[index] and by.shift > 0 and abs(totals).max() * 2**by.shift >= 2**31:
            continue  # the reference overflows
        for before, after in zip(totals, changed, strict=True):
            one, other = scaled(int(before), by), scaled(int(after), steady.factors[index])
            assert clamped(one + zero, *bounds) == clamped(other + zero, *bounds)
        if added._provable()[index]:
            assert np.array_equal(steady.weights[index], added.weights[index])
            assert np.array_equal(inputs @ folded.weights[index] + folded.bias[index], totals)


def convolution_program(bias: Sequence[int], scales: Sequence[float], fused: int = 1) -> Program:
    """A pointwise convolution of three channels in, one out for each bias, with ReLU."""
    outs = len(bias)
    weights = np.random.default_rng(3).integers(-127, 128, (outs, 1, 1, 3)).astype(np.int8)
    x, y = Quantizer(0.05, -3), Quantizer(0.07, -128)
    content = Constant(weights, np.array(scales), np.zeros(outs, np.int64))
    numbers = Constant(np.array(bias, np.int32), 0.05 * np.array(scales), np.zeros(outs, np.int64))
    tensors = (
        Tensor("x", (1, 4, 5, 3), (1, 4, 5, 3), "int8", x),
        Tensor("w", weights.shape, weights.shape, "int8", None, lambda: content, Storage(outs)),
        Tensor("b", (outs,), (outs,), "int32", None, lambda: numbers, Storage(outs)),
        Tensor("y", (1, 4, 5, outs), (1, 4, 5, outs), "int8", y),
    )
    options = {"padding": 1, "stride_h": 1, "stride_w": 1, "fused": fused, "dilation_h": 1, "dilation_w": 1, "before": (0, 0)}
    operator = Operator("CONV_2D", (0, 1, 2), (3,), options, "node")
    ports = [
        Port(tensor.name, (1, tensor.shape[3], 4, 5), (0, 2, 3, 1), tensor.quantizer, i)
        for i, tensor in ((0, tensors[0]), (3, tensors[3]))
    ]
    return Program(tensors, (operator,), (ports[0],), (ports[1],))


@CODES
@pytest.mark.parametrize(
    ("bias", "scales", "proven"),
    [
        ((10, -20, 30), (0.01, 0.02, 0.01), True),
        ((10, -(2**30), 2**30), (0.01, 0.02, 0.01), True),  # always the least, always the most
        ((10, 2**30, 30), (0.01, 1e-12, 0.01), True),  # a factor so small that nothing is left
        ((10, -20, 30), (0.01, 30.0, 0.01), False),  # a factor above 1
    ],
)
def test_biases_and_factors_beyond_the_bounds_give_the_reference_kernels_bytes(
    bias: Sequence[int], scales: Sequence[float], proven: bool, code: Sequence[str], tmp_path: Path
) -> None:
    from mcuprune.deploy.flatbuffer import serialised

    program = convolution_program(bias, scales)
    assert select(program).proven is proven
    net = Converted(serialised(program), program, ())
    assert differing(net, tmp_path, *SANITIZED, *code)[0] == 0


def test_the_code_for_dsp_instructions_is_the_one_that_runs(tmp_path: Path) -> None:
    """The stand-in for the instructions is in use: without them the same file doesn't compile."""
    net = converted(int8(CASES["conv"](), tmp_path / "net.onnx"))
    broken = tmp_path / "acle"
    broken.mkdir()
    (broken / "arm_acle.h").write_text("#error in use\n")
    with pytest.raises(subprocess.CalledProcessError):
        differing(net, tmp_path, DSP[0], "-I", str(broken))
    assert differing(net, broken, DSP[0], "-I", str(broken), "-DNET_PORTABLE=1")[0] == 0
