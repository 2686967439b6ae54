"""Generated C on emulated microcontrollers, a short run of ``make device-test``: where its compiler and the emulator are."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcuprune.deploy import c
from mcuprune.deploy.cplan import Bands
from mcuprune.deploy.tflite import Converted

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
import bench_device

pytest.importorskip("tflite_micro")
if not bench_device.available():
    pytest.skip("no compiler for Arm, or no emulator of its cores", allow_module_level=True)

#: An emulated core takes a second for some of them.
EXAMPLES = 4
RUNS = [*((core, "off") for core in bench_device.CORES), (bench_device.CORES[0], "auto")]


@pytest.fixture(scope="module")
def known() -> tuple[Converted, np.ndarray[Any, Any], np.ndarray[Any, Any], dict[str, int]]:
    """A network trained on the digits, test images, what TensorFlow Lite Micro answers to them, and what the network costs."""
    net, examples, total = bench_device.quantised("dscnn_digits")
    return net, examples[:EXAMPLES], bench_device.reference(net, examples[:EXAMPLES]), total


@pytest.mark.parametrize(("core", "bands"), RUNS, ids=lambda value: getattr(value, "name", value))
def test_a_core_gives_the_bytes_and_takes_the_memory_that_are_promised(core: Any, bands: Bands, known: Any) -> None:
    net, examples, wanted, total = known
    source = c.generate(net.program, "net", bands=bands)
    row = bench_device.row("dscnn_digits", source, examples, wanted, core)
    assert bench_device.broken({**row, "flash": total["flash"], "image": total["image"], "bands": bands}) == []
