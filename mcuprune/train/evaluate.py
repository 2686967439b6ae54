"""What a written model really answers: ONNX files run in onnxruntime on real examples.

onnxruntime is asked in one of two modes. ``exact`` switches graph optimisation off, so that every quantiser of an int8 file is
computed by itself, in floats, as ONNX defines it: the answer is the same on every processor, but for the last bit of a sum.
``default`` is a session without any option, which is what most people run. There, convolutions and products of int8 files
become integer kernels, and on x86 processors without VNNI (those with AVX2 only, and some with AVX-512) these kernels add two
products of a uint8 with an int8 in 16 bits: 2 x 255 x 127 doesn't fit, the sum saturates, and a network may lose everything.
A session option cures it (``REMEDIES``), and so do weights of 7 bits (``export.WEIGHT_BITS``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mcuprune.data.sets import Column, Split
from mcuprune.errors import MissingExtra, ModelError

Array = np.ndarray[Any, Any]
Mode = Literal["exact", "default"]

_BATCH = 256
#: Session options each of which keeps onnxruntime from saturating; both at once leave a QGemm without a kernel.
REMEDIES: Mapping[str, str] = {"session.x64quantprecision": "1", "session.qdqisint8allowed": "1"}
#: Integer kernels round a few sums the other way. Such differences change the class of one example in a few hundred and move an
#: output by some steps of 256; a saturated sum moves it by a good part of the range. More than these is no rounding.
_ROUNDED_CLASSES = 0.01
_ROUNDED_SHARE = 1 / 16


def session(source: str | Path | bytes, mode: Mode = "exact", *, name: str | None = None, **entries: str) -> Any:
    """An ``onnxruntime.InferenceSession`` on one thread of the processor.

    name: what messages call the model. entries: session options as onnxruntime names them (``session.``...).
    Raises ModelError if onnxruntime refuses the file, MissingExtra where it isn't installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtra("onnxruntime isn't installed; pip install 'mcuprune[prune]'") from None
    options = onnxruntime.SessionOptions()
    if mode == "exact":
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    options.log_severity_level = 4  # what it has to say comes with its exception
    options.intra_op_num_threads = 1
    content = source if isinstance(source, bytes) else str(source)
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises its own kinds, none of them public
        called = name or ("the model" if isinstance(source, bytes) else source)
        raise ModelError(f"{called}: onnxruntime can't load it ({str(error).splitlines()[0]})") from None


class Model:
    """An ONNX model in onnxruntime: float32 (batch, ...) -> its first output, (batch, classes).

    name: what messages call it, where ``source`` is no path. mode, entries: as for ``session``.
    Files whose batch is fixed are run at that batch, the last one filled up with zeros; those whose batch is free in name
    only are run one example at a time. Raises what ``session`` raises, and ModelError if onnxruntime stops in the middle.
    """

    def __init__(self, source: str | Path | bytes, mode: Mode = "exact", *, name: str | None = None, **entries: str) -> None:
        self._called = name or ("the model" if isinstance(source, bytes) else str(source))
        self._session = session(source, mode, name=name, **entries)
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

    def __call__(self, x: Array | Column) -> Array:
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


def accuracy(logits: Array, labels: Array) -> float:
    """The share of examples whose largest logit is their label."""
    return float((logits.reshape(len(logits), -1).argmax(1) == labels).mean())


def accuracy_of(source: str | Path | bytes, split: Split, mode: Mode = "exact", *, name: str | None = None) -> float:
    """Accuracy of an ONNX model on a split, in onnxruntime; ``name`` is what messages call it."""
    return accuracy(Model(source, mode, name=name)(split.x), split.y)


@dataclass(frozen=True)
class Int8Accuracy:
    """Accuracies of an int8 file, as shares of 1.

    exact: as ONNX defines the file. default_session: in a session of onnxruntime without options, on this processor.
    warning: what to do where the two differ by more than rounding; None where they don't.
    """

    exact: float
    default_session: float
    warning: str | None


def int8_accuracy(source: str | Path | bytes, split: Split) -> Int8Accuracy:
    """Accuracy of an int8 file in both modes.

    Where they differ by more than rounding, each remedy is tried. The warning names those that bring the default session near
    the exact answer; where none does, kernels don't saturate, but the network enlarges what rounding does.
    """
    exact, plain = (Model(source, mode)(split.x) for mode in ("exact", "default"))
    right, default = accuracy(exact, split.y), accuracy(plain, split.y)
    if is_rounding(plain, exact):
        return Int8Accuracy(right, default, None)
    said = f"right on {default:.1%} of the test set, where the file as ONNX defines it is on {right:.1%}"
    tried = {key: Model(source, "default", **{key: value})(split.x) for key, value in REMEDIES.items()}
    working = [f"{key} = {REMEDIES[key]}" for key, logits in tried.items() if _apart(logits, exact) < _apart(plain, exact) / 2]
    if working:
        option = f"set the session option {' or '.join(working)}"
        cause = f"its integer kernels saturate on this processor; {option}, or prune with --weight-bits 7"
    elif abs(default - right) > _ROUNDED_CLASSES:
        cause = "the network enlarges differences of rounding"
    else:
        return Int8Accuracy(right, default, None)
    return Int8Accuracy(right, default, f"a session of onnxruntime without options is {said}: {cause}")


def is_rounding(logits: Array, exact: Array) -> bool:
    """Whether outputs (batch, classes) differ from the exact ones by no more than rounding one way or the other does."""
    one, other = (x.reshape(len(x), -1) for x in (logits, exact))
    classes = int((one.argmax(1) != other.argmax(1)).sum())
    return classes <= max(1, _ROUNDED_CLASSES * len(one)) and _apart(logits, exact) <= _ROUNDED_SHARE * float(np.ptp(exact))


def _apart(one: Array, other: Array) -> float:
    return float(np.abs(one - other).max())
