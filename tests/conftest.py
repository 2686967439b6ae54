"""What many tests share: random legal selections, and onnxruntime as the oracle."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from mcuprune.channels import Channels
from mcuprune.network import Network

sys.path.insert(0, str(Path(__file__).parent))  # for the modules beside the tests, whatever pytest's import mode

CORPUS = Path(__file__).parents[1].parent / "shared" / "models"
#: Corpus files whose free sizes a user must fix.
CORPUS_SHAPES = {
    "mtcnn_pnet.onnx": {"input_1": (1, 48, 48, 3)},
    "unet_ts_dynhw.onnx": {"input": (1, 3, 32, 32)},
    "ppocr_cls_v2.onnx": {"x": (1, 3, 48, 192)},
}


def corpus() -> list[Path]:
    """Real files made by others, where this checkout has them."""
    return sorted(CORPUS.glob("*.onnx")) if CORPUS.is_dir() else []


def random_selection(channels: Channels, share: float, seed: int) -> np.ndarray:
    """A selection that keeps about ``1 - share`` of every group, and what each must keep."""
    draw = np.random.default_rng(seed)
    keep = channels.keep_all()
    for group in channels.groups:
        ids = np.array(group.components)
        width = max(group.minimum, round(len(ids) * (1 - share)))
        keep[draw.permutation(ids)[width:]] = False
    return keep


def feed(model: onnx.ModelProto, *, seed: int = 0, batch: int = 1, shapes: dict[str, tuple[int, ...]] | None = None) -> dict:
    """Random inputs of a model: free sizes are ``batch`` where ``shapes`` doesn't fix them."""
    draw = np.random.default_rng(seed)
    constants = {initializer.name for initializer in model.graph.initializer}
    values = {}
    for value in model.graph.input:
        if value.name in constants:
            continue
        tensor = value.type.tensor_type
        shape = (shapes or {}).get(value.name) or [dim.dim_value or batch for dim in tensor.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        values[value.name] = draw.normal(size=shape).astype(dtype)
    return values


def run(model: onnx.ModelProto | Network, inputs: dict) -> list[np.ndarray]:
    """The outputs by onnxruntime, unoptimised, on one thread."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    proto = model.to_proto() if isinstance(model, Network) else model
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def difference(one: list[np.ndarray], other: list[np.ndarray]) -> float:
    """The largest difference of two runs, relative to the size of each output."""
    worst = 0.0
    for a, b in zip(one, other, strict=True):
        assert a.shape == b.shape
        worst = max(worst, float(np.abs(a - b).max() / max(1e-3, np.abs(b).max())))
    return worst


@pytest.fixture(scope="session")
def corpus_folder() -> Path:
    if not CORPUS.is_dir():
        pytest.skip("no corpus of real files beside this checkout")
    return CORPUS
