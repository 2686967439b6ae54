"""Convolutions train without harm to memory, and rightly, in whatever layout and on whatever processor.

The walk runs in a process of its own, which says to oneDNN, torch and OpenBLAS that the processor has AVX2 and no AVX-512, with
the C library's checks of its heap switched on: kernels that write past their buffers end it. Gradients are compared with those
of double precision, which torch computes by other code.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CORPUS
from onnx import helper
from test_trainable import channels_of, graph
from torch import Tensor

from mcuprune.train.module import Trainable, by_pixel

ROOT = Path(__file__).parents[1]
AVX2 = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "DNNL_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "OPENBLAS_CORETYPE": "Haswell",
    "OMP_NUM_THREADS": "1",
}
HEAP_CHECKS = {"LD_PRELOAD": "libc_malloc_debug.so.0", "MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "165"}
WIDTHS = (1, 3, 4, 7, 8, 12)
TIMES = 2


def forms() -> list[tuple[str, tuple[int, ...], tuple[int, ...], int, int, int, tuple[int, ...]]]:
    """(operator, kernel, strides, pad, channels in, groups, size) of every convolution that is tried."""
    flat = itertools.product(["Conv"], [(1, 1), (3, 3), (1, 3)], [(1, 1), (2, 2), (1, 2)], [0, 1], WIDTHS, [1, 2, -1], [(8, 8)])
    line = itertools.product(["Conv"], [(1,), (3,)], [(1,), (2,)], [0, 1], WIDTHS, [1, -1], [(16,)])
    spread = itertools.product(["ConvTranspose"], [(1, 1), (3, 3)], [(1, 1), (2, 2)], [0], WIDTHS, [1, -1], [(8, 8)])
    deep = itertools.product(["Conv"], [(1, 1, 1)], [(2, 2, 2)], [0, 1], [3, 8], [1], [(4, 4, 4)])
    found = []
    for op, kernel, strides, pad, width, split, size in itertools.chain(flat, line, spread, deep):
        groups = width if split == -1 else split
        if not (split != 1 and (width == 1 or width % groups)):
            found.append((op, kernel, strides, pad, width, groups, size))
    return found


def walk() -> None:
    """Train every form for a few steps, in both layouts; print what is wrong."""
    torch.set_num_threads(1)
    for form in forms():
        op, kernel, strides, pad, width, groups, size = form
        out = 8 if groups <= 2 else 2 * groups
        shape = (out, width // groups, *kernel) if op == "Conv" else (width, out // groups, *kernel)
        draw = np.random.default_rng(0)
        weight, data = (draw.normal(size=s).astype(np.float32) for s in (shape, (4, width, *size)))
        node = helper.make_node(op, ["x", "w"], ["y"], name="c", strides=strides, pads=[pad] * 2 * len(kernel), group=groups)
        module = Trainable(channels_of(graph([node], {"w": weight}, (width, *size)))).train()
        wanted = reference(op, data, weight, strides, pad, groups)
        for last, _ in itertools.product((False, True)[: 2 if len(kernel) == 2 else 1], range(TIMES)):
            x = torch.from_numpy(data)
            x = (by_pixel(x).clone() if last else x.clone()).requires_grad_()
            module.zero_grad()
            (y,) = module(x)
            y.square().sum().backward()
            (w,) = module.parameters()
            for name, one, other in zip(("output", "of data", "of weights"), (y.detach(), x.grad, w.grad), wanted, strict=True):
                apart = float((one.double() - other).abs().max() / other.abs().max().clamp(min=1e-3))
                if not apart < 1e-4:
                    print(form, "channels last" if last else "channels first", name, apart, flush=True)
    print("walked", flush=True)


def reference(op: str, data: np.ndarray, weight: np.ndarray, strides: tuple, pad: int, groups: int) -> tuple[Tensor, ...]:
    """Output and gradients of its sum of squares, in double precision."""
    x, w = (torch.from_numpy(array).double().requires_grad_() for array in (data, weight))
    names = {"Conv": "conv{}d", "ConvTranspose": "conv_transpose{}d"}
    function = getattr(torch.nn.functional, names[op].format(len(strides)))
    y = function(x, w, None, strides, pad, groups=groups)
    y.square().sum().backward()
    return y.detach(), x.grad, w.grad


def on_avx2(*command: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **AVX2, **more, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment)


@pytest.mark.thorough
def test_every_convolution_trains_rightly_without_avx512() -> None:
    """Also 1x1 with a stride on 1 to 7 channels-last channels, where oneDNN's own gradient writes past its buffer."""
    checks = HEAP_CHECKS if sys.platform == "linux" else {}
    done = on_avx2(__file__, **checks)
    assert done.returncode == 0, f"died with {done.returncode}: {done.stderr[-500:]}"
    assert done.stdout == "walked\n"


@pytest.mark.thorough
@pytest.mark.skipif(not (CORPUS / "resnet8_ts.onnx").exists(), reason="no corpus of real files beside this checkout")
def test_a_resnet_narrower_than_a_vector_is_pruned_without_avx512(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    arrays = {
        f"{kind}_{part}": draw.normal(size=(n, 3, 32, 32)).astype(np.float32) if kind == "x" else np.arange(n) % 10
        for part, n in (("train", 64), ("test", 20))
        for kind in "xy"
    }
    np.savez(tmp_path / "rgb.npz", **arrays)
    done = on_avx2(
        *("-m", "mcuprune", "prune", str(CORPUS / "resnet8_ts.onnx"), "--macs", "20%", "--data", str(tmp_path / "rgb.npz")),
        *("--epochs", "2", "--batch", "16", "-o", str(tmp_path / "o.onnx")),
    )
    assert done.returncode == 0, done.stderr[-500:]


if __name__ == "__main__":
    walk()
