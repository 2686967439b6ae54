"""What a written model really answers: ONNX files run in onnxruntime on real examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mcuprune.data import Split
from mcuprune.errors import MissingExtra, ModelError

_BATCH = 256


class Model:
    """An ONNX model in onnxruntime: float32 (batch, ...) -> its first output, (batch, classes).

    name: what messages call it, where ``source`` is no path.
    Files whose batch is fixed are run at that batch, the last one filled up with zeros; those whose batch is free in name
    only are run one example at a time. Raises ModelError if onnxruntime refuses the file, or stops in the middle of it.
    """

    def __init__(self, source: str | Path | bytes, name: str | None = None) -> None:
        self._called = name or ("the model" if isinstance(source, bytes) else str(source))
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtra("onnxruntime isn't installed; pip install 'mcuprune[prune]'") from None
        options = onnxruntime.SessionOptions()
        # int8 activations stay int8: without it the default session keeps tensors of several readers in float
        options.add_session_config_entry("session.qdqisint8allowed", "1")
        options.log_severity_level = 4  # what it has to say comes with its exception
        options.intra_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(
                source if isinstance(source, bytes) else str(source), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises its own kinds, none of them public
            raise ModelError(f"{self._called}: onnxruntime can't load it ({str(error).splitlines()[0]})") from None
        first = self._session.get_inputs()[0]
        self._name: str = first.name
        self._fixed = isinstance(first.shape[0], int)
        self._batch: int = first.shape[0] if self._fixed else _BATCH
        if not self._fixed and not self._takes_batches(first.shape[1:]):
            self._batch = 1

    def _takes_batches(self, shape: list[int | str]) -> bool:
        """Whether a file that declares a free batch really gives two examples what it gives each: constants may hold a 1."""
        import onnxruntime

        sizes = [size for size in shape if isinstance(size, int)]
        if len(sizes) < len(shape) or self._session.get_inputs()[0].type != "tensor(float)":
            return True  # what it is really fed will tell
        quiet = onnxruntime.RunOptions()
        quiet.log_severity_level = 4
        pair = np.random.default_rng(0).standard_normal((2, *sizes), np.float32)
        try:
            together = self._session.run(None, {self._name: pair}, quiet)[0]
            alone = [self._session.run(None, {self._name: pair[i : i + 1]}, quiet)[0] for i in range(2)]
        except Exception:  # onnxruntime raises its own kinds; a file that can't run at all says so at its first example
            return False
        if any(len(each) != 1 for each in alone) or len(together) != 2:
            return False
        return bool(np.abs(together - np.concatenate(alone)).max() <= 1e-2 * np.abs(together).max())

    def __call__(self, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        outputs = []
        for start in range(0, len(x), self._batch):
            part = x[start : start + self._batch]
            if self._fixed and len(part) < self._batch:
                part = np.concatenate([part, np.zeros((self._batch - len(part), *x.shape[1:]), x.dtype)])
            try:
                outputs.append(self._session.run(None, {self._name: part})[0])
            except Exception as error:
                raise ModelError(
                    f"{self._called}: onnxruntime can't run it on examples of shape {list(part.shape)} "
                    f"({str(error).splitlines()[0]}); export the model again, with a free batch or another opset"
                ) from None
        return np.concatenate(outputs)[: len(x)]


def accuracy(logits: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> float:
    """The share of examples whose largest logit is their label."""
    return float((logits.reshape(len(logits), -1).argmax(1) == labels).mean())


def accuracy_of(source: str | Path | bytes, split: Split, name: str | None = None) -> float:
    """Accuracy of an ONNX model on a split, in onnxruntime; ``name`` is what messages call it."""
    return accuracy(Model(source, name)(split.x), split.y)
