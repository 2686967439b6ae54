"""The arena of generated C is the exact peak of the network, whatever its layers, and the bytes are those of the runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from conftest import feed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from layers import KINDS, Layers, layers_of
from test_bands import as_int8, loaded
from test_c import DSP, SANITIZED, answered, by_reference, drawn

from mcuprune import cli
from mcuprune.costs import resources
from mcuprune.deploy import c, tflite
from mcuprune.deploy.tflite import Converted
from mcuprune.errors import UnsupportedOperator
from mcuprune.graph import network
from mcuprune.operators import table as ops
from mcuprune.run import runners

pytest.importorskip("tflite_micro")
if runners.compiler() is None:
    pytest.skip("no C compiler here", allow_module_level=True)


def in_the_peak(model: onnx.ModelProto) -> Converted | None:
    """The network as a file, once its C was found to take no more than its peak; None where an operator has no kernel."""
    net = as_int8(loaded(model), feed(model))
    try:
        made = tflite.convert(net)
        source = c.generate(made.program, "net")
    except UnsupportedOperator:
        return None
    assert source.arena <= resources.profile(net).memory.peak + 16
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_of_layer_takes_more_than_the_peak(kind: str) -> None:
    found = [in_the_peak(layers_of(seed, kind, 1 + seed % 4)) for seed in range(8)]
    assert sum(made is not None for made in found) > 4


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_of_layer_takes_more_than_the_peak_in_many_networks(kind: str) -> None:
    found = [in_the_peak(layers_of(seed, kind, 1 + seed % 7)) for seed in range(100, 250)]
    assert sum(made is not None for made in found) > 75


def test_a_layout_without_gaps_is_found_for_what_draws_of_orders_do_not_find(exported: Any, tmp_path: Path) -> None:
    """Of a network in bands, which has many tensors of a few sizes: drawn orders left gaps of 512 bytes."""
    path = str(tmp_path / "bands.onnx")
    assert cli.main(["bands", str(exported("resnet8_digits")), "--bands", "4", "-o", path]) == 0
    net = network.load(path, accept=ops.accept(path))
    source = c.generate(tflite.convert(net, net.stored).program, "net")
    assert source.arena == source.peak


def compare(model: onnx.ModelProto, folder: Path, *flags: str) -> None:
    """The bytes of the C, as a whole and row by row, with those of TensorFlow Lite Micro."""
    made = in_the_peak(model)
    if made is None:
        return
    inputs = drawn(made, 3)
    wanted = by_reference(made, inputs)
    for bands in ("off", "auto"):
        place = folder / bands
        place.mkdir()
        found = answered(made, c.generate(made.program, "net", bands=bands), place, inputs, "-O0", *SANITIZED, *flags)
        assert all((a == b).all() for x, y in zip(found, wanted, strict=True) for a, b in zip(x, y, strict=True)), bands


SETTINGS: dict[str, Any] = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}
DRAWN = st.tuples(st.integers(0, 2**32), st.lists(st.sampled_from(KINDS), min_size=1, max_size=9))


@settings(max_examples=3, **SETTINGS)
@given(DRAWN, st.sampled_from([(), DSP]))
def test_random_layers_compute_the_same_bytes_in_the_peak(tmp_path_factory: Any, drawn: Any, code: tuple[str, ...]) -> None:
    compare(Layers(drawn[0]).model(drawn[1]), tmp_path_factory.mktemp("layers"), *code)


@pytest.mark.thorough
@settings(max_examples=60, **SETTINGS)
@given(DRAWN, st.sampled_from([(), DSP]))
def test_many_random_layers_compute_the_same_bytes_in_the_peak(
    tmp_path_factory: Any, drawn: Any, code: tuple[str, ...]
) -> None:
    compare(Layers(drawn[0]).model(drawn[1]), tmp_path_factory.mktemp("layers"), *code)
