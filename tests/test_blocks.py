"""Every block that CNNs are made of, as both of torch's exporters write it: masked = sliced, and the file stays sound."""

from __future__ import annotations

from collections.abc import Callable

import blocks
import numpy as np
import onnx
import pytest
from conftest import Once, difference, feed, random_selection, run

from mcuprune.channels.labelling import Channels, label
from mcuprune.costs.resources import CostModel, profile
from mcuprune.graph import network
from mcuprune.operators import table as ops

EXPORTERS = ("torchscript", "dynamo", "dynamic")
TOLERANCE = 1e-5


#: Every block as every exporter writes it; the slow one of torch's exporters writes every other block.
WRITTEN = [
    pytest.param(name, exporter, marks=pytest.mark.slow if exporter == "dynamo" and index % 2 else ())
    for index, name in enumerate(blocks.BLOCKS)
    for exporter in EXPORTERS
]
Labelled = Callable[[str, str], tuple[onnx.ModelProto, Channels]]


@pytest.fixture
def labelled(once: Once) -> Labelled:
    """A block as an exporter writes it, and its channels. The export takes ten times as long as any test of it."""

    def load(name: str, exporter: str) -> tuple[onnx.ModelProto, Channels]:
        if exporter == "dynamo":
            pytest.importorskip("onnxscript")
        model = onnx.load_from_string(once(("block", name, exporter), lambda _: blocks.exported(name, exporter)))
        return model, label(network.from_proto(model, f"{name}.onnx", accept=ops.accept(f"{name}.onnx")))

    return load


@pytest.mark.parametrize(("name", "exporter"), WRITTEN)
def test_masked_equals_sliced(name: str, exporter: str, labelled: Labelled) -> None:
    model, channels = labelled(name, exporter)
    inputs = feed(model)
    whole = run(model, inputs)
    assert difference(run(channels.network, inputs), whole) <= TOLERANCE
    assert channels.groups
    for share in (0.4, 0.6):
        for seed in range(3):
            keep = random_selection(channels, share, seed)
            assert not keep.all()
            masked = run(channels.masked(keep), inputs)
            assert difference(run(channels.cut(keep), inputs), masked) <= TOLERANCE
            assert difference(masked, whole) > 1e-4  # or the equality would prove nothing


@pytest.mark.parametrize(("name", "exporter"), WRITTEN)
def test_a_cut_file_is_sound_and_keeps_its_interface(name: str, exporter: str, labelled: Labelled) -> None:
    model, channels = labelled(name, exporter)
    model.metadata_props.add(key="author", value="someone")
    channels = label(network.from_proto(model, "net.onnx"))
    after = channels.cut(random_selection(channels, 0.5, 0)).to_proto()
    onnx.checker.check_model(after, full_check=True)
    onnx.shape_inference.infer_shapes(after, strict_mode=True, data_prop=True)
    assert list(after.graph.input) == list(model.graph.input)
    assert list(after.graph.output) == list(model.graph.output)
    assert after.metadata_props == model.metadata_props
    assert after.opset_import == model.opset_import
    assert {n.name for n in after.graph.node} <= {n.name for n in model.graph.node}


@pytest.mark.parametrize(("name", "exporter"), WRITTEN)
def test_costs_at_widths_are_those_of_the_cut_network(name: str, exporter: str, labelled: Labelled) -> None:
    _, channels = labelled(name, exporter)
    costs = CostModel(channels)
    for seed in range(2):
        keep = random_selection(channels, 0.5, seed)
        measured = profile(channels.cut(keep)).total
        predicted = costs.at(channels.widths(keep))
        assert predicted == {key: measured[key] for key in predicted}


@pytest.mark.parametrize("name", blocks.BLOCKS)
def test_a_cut_of_a_dynamic_batch_works_at_batch_three(name: str, labelled: Labelled) -> None:
    model, channels = labelled(name, "dynamic")
    keep = random_selection(channels, 0.5, 0)
    inputs = feed(model, batch=3)
    assert difference(run(channels.cut(keep), inputs), run(channels.masked(keep), inputs)) <= TOLERANCE


@pytest.mark.parametrize(("name", "exporter"), WRITTEN)
def test_keeping_all_is_the_identity(name: str, exporter: str, labelled: Labelled) -> None:
    _, channels = labelled(name, exporter)
    assert channels.cut(channels.keep_all()) is channels.network
    assert np.array_equal(channels.widths(channels.keep_all()), [len(group) for group in channels.groups])
