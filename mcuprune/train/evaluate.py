"""What a written model really answers: ONNX files run in onnxruntime on real examples.

onnxruntime is asked in one of two modes. ``exact`` switches graph optimisation off, so that every quantiser of an int8 file is
computed by itself, in floats, as ONNX defines it: the answer is the same on every processor, but for the last bit of a sum.
``default`` is a session without any option, which is what most people run. There, convolutions and products of int8 files
become integer kernels, and on x86 processors without VNNI (those with AVX2 only, and some with AVX-512) these kernels add two
products of a uint8 with an int8 in 16 bits: 2 x 255 x 127 doesn't fit, the sum saturates, and a network may lose everything.
A session option cures it (``REMEDIES``), and so do weights of 7 bits (``export.WEIGHT_BITS``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod, sqrt
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mcuprune.data.sets import Column, Split
from mcuprune.errors import ModelError, lacking
from mcuprune.immutable import immutable
from mcuprune.train.tasks.metrics import Metric, Tally
from mcuprune.train.tasks.objective import Objective

Array = np.ndarray[Any, Any]
Mode = Literal["exact", "default"]

#: Examples that are run together: so many, or as many as take so many bytes as inputs; what layers make of them is a multiple.
_BATCH, _BATCH_BYTES = 256, 4 * 2**20
#: Session options each of which keeps onnxruntime from saturating; both at once leave a QGemm without a kernel.
REMEDIES: Mapping[str, str] = {"session.x64quantprecision": "1", "session.qdqisint8allowed": "1"}
#: Integer kernels round a few sums the other way. Such differences change the class of one example in a few hundred and move an
#: output by some steps of 256; a saturated sum moves it by a good part of the range. More than these is no rounding.
_ROUNDED_CLASSES = 0.01
_ROUNDED_SHARE = 1 / 16
#: What an int8 file may lose without a word: so many points of a share, or so much of an error.
_LOST, _LOST_OF_ERROR = 0.03, 0.1


#: What onnxruntime calls inputs of the other float types, and of whole numbers and truth values.
_FLOATS = {"tensor(float16)": np.float16, "tensor(double)": np.float64}
_WHOLE = {
    f"tensor({'' if sign else 'u'}int{bits})": np.dtype(f"{'i' if sign else 'u'}{bits // 8}")
    for sign in (0, 1)
    for bits in (8, 16, 32, 64)
}
_TYPES: Mapping[str, Any] = {**_FLOATS, **_WHOLE, "tensor(bool)": np.bool_}


def run(session: Any, fed: Mapping[str, Array], options: Any = None) -> list[Array]:
    """All outputs of a session for these inputs, as reals: a file in another type gets float32 here, one of floats gives it.

    Reals for a file that takes whole numbers are rounded to the nearest that its type has.
    """
    types = {given.name: np.dtype(_TYPES[given.type]) for given in session.get_inputs() if given.type in _TYPES}
    inputs = {name: _typed(x, types[name]) if name in types and x.dtype == np.float32 else x for name, x in fed.items()}
    outputs = session.run(None, inputs) if options is None else session.run(None, inputs, options)
    return [np.asarray(x).astype(np.float32) if np.asarray(x).dtype in _FLOATS.values() else np.asarray(x) for x in outputs]


def _signed(output: Array) -> Array:
    """Truth values and numbers without a sign as int64: those of two files can be subtracted."""
    return output.astype(np.int64) if output.dtype.kind in "bu" else output


def _typed(x: Array, dtype: np.dtype[Any]) -> Array:
    """Reals as another type; whole numbers no larger than doubles are exact for."""
    if dtype.kind not in "iu":
        return np.asarray(x != 0 if dtype.kind == "b" else x.astype(dtype))
    limits = np.iinfo(dtype)
    return np.clip(np.rint(x.astype(np.float64)), max(limits.min, -(2**53)), min(limits.max, 2**53)).astype(dtype)


def session(source: str | Path | bytes, mode: Mode = "exact", *, name: str | None = None, **entries: str) -> Any:
    """An ``onnxruntime.InferenceSession`` on one thread of the processor.

    name: what messages call the model. entries: session options as onnxruntime names them (``session.``...).
    Raises ModelError if onnxruntime refuses the file, MissingExtra where it isn't installed.
    """
    try:
        import onnxruntime
    except (ImportError, OSError) as error:
        raise lacking("running a model", error, "pip install 'mcuprune[prune]'") from None
    options = onnxruntime.SessionOptions()
    if mode == "exact":
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    options.log_severity_level = 4  # what it has to say comes with its exception
    options.intra_op_num_threads = 1
    content = source if isinstance(source, bytes) else _nameable(source)
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises its own kinds, none of them public
        called = name or ("the model" if isinstance(source, bytes) else source)
        raise ModelError(f"{called}: onnxruntime can't load it ({str(error).splitlines()[0]})") from None


def _nameable(path: str | Path) -> str | bytes:
    """A path as onnxruntime takes it; the file's bytes where its name is no UTF-8, which onnxruntime can't take."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return Path(path).read_bytes()
    return str(path)


def batch_of(sizes: Sequence[Sequence[int]]) -> int:
    """How many examples to run together. sizes: the shape of each input of one example."""
    return max(8, min(_BATCH, _BATCH_BYTES // max(1, 4 * sum(prod(size) for size in sizes))))


class Model:
    """An ONNX model in onnxruntime: float32 (batch, ...) -> its first output, (batch, classes); ``outputs`` gives all of them.

    name: what messages call it, where ``source`` is no path. mode, entries: as for ``session``.
    Files whose batch is fixed are run at that batch, the last one filled up with zeros; those whose batch is free in name
    only are run one example at a time. Raises what ``session`` raises, and ModelError if onnxruntime stops in the middle.
    """

    def __init__(self, source: str | Path | bytes, mode: Mode = "exact", *, name: str | None = None, **entries: str) -> None:
        self._called = name or ("the model" if isinstance(source, bytes) else str(source))
        self._session = session(source, mode, name=name, **entries)
        self._given = self._session.get_inputs()
        first = self._given[0]
        self._fixed = isinstance(first.shape[0], int)
        self._batch: int = first.shape[0] if self._fixed else 0  # 0: by the size of what it is fed
        if not self._fixed and not self._takes_batches():
            self._batch = 1

    def _takes_batches(self) -> bool:
        """Whether a file that declares a free batch really gives two examples what it gives each: constants may hold a 1."""
        import onnxruntime

        shapes = [given.shape[1:] for given in self._given]
        sized = all(isinstance(size, int) for shape in shapes for size in shape)
        if not sized or any(given.type not in ("tensor(float)", *_FLOATS) for given in self._given):
            return True  # it can't be tried on drawn numbers; the first real examples show whether it runs
        quiet = onnxruntime.RunOptions()
        quiet.log_severity_level = 4
        draw = np.random.default_rng(0)
        pairs = {
            given.name: draw.standard_normal((2, *shape), np.float32) for given, shape in zip(self._given, shapes, strict=True)
        }
        try:
            together, *alone = (
                [_signed(answer) for answer in run(self._session, {name: x[part] for name, x in pairs.items()}, quiet)]
                for part in (slice(2), slice(1), slice(1, 2))
            )
        except Exception:  # onnxruntime raises its own kinds; a file that can't run at all says so at its first example
            return False
        for both, *each in zip(together, *alone, strict=True):
            if any(answer.shape[:1] != (1,) for answer in each) or both.shape[:1] != (2,):
                return False
            if not np.abs(both - np.concatenate(each)).max(initial=0) <= 1e-2 * np.abs(both).max(initial=0):
                return False
        return True

    def __call__(self, x: Array | Column) -> Array:
        return self.outputs([x])[0]

    def outputs(self, inputs: Sequence[Array | Column]) -> list[Array]:
        """Every output for examples (n, ...) of each input: one array (n, ...) each."""
        batch = self._batch or batch_of([x.shape[1:] for x in inputs])
        parts = [self._run([x[start : start + batch] for x in inputs]) for start in range(0, len(inputs[0]), batch)]
        return [np.concatenate(each)[: len(inputs[0])] for each in zip(*parts, strict=True)]

    def batches(self, split: Split) -> Iterator[tuple[Array, list[Array]]]:
        """Which examples of a split, and every output for them, so many at a time as ``batch_of`` says."""
        size = batch_of([column.shape[1:] for column in split.inputs])
        for start in range(0, len(split), size):
            chosen = np.arange(start, min(len(split), start + size))
            yield chosen, self.outputs([x[chosen] for x in split.inputs])

    def _run(self, parts: Sequence[Array]) -> list[Array]:
        fed = {}
        for given, part in zip(self._given, parts, strict=True):
            whole = np.asarray(part)
            if self._fixed and len(whole) < self._batch:
                whole = np.concatenate([whole, np.zeros((self._batch - len(whole), *whole.shape[1:]), whole.dtype)])
            fed[given.name] = whole
        count = len(next(iter(fed.values())))
        try:
            return [self._by_example(_signed(output), count) for output in run(self._session, fed)]
        except ModelError:
            raise
        except Exception as error:
            shapes = ", ".join(str(list(x.shape)) for x in fed.values())
            raise ModelError(
                f"{self._called}: onnxruntime can't run it on examples of shape {shapes} "
                f"({str(error).splitlines()[0]}); export the model again, with a free batch or another opset"
            ) from None

    def _by_example(self, output: Array, count: int) -> Array:
        """An output with an axis of so many examples in front; a file made for one example may give it none of its own."""
        if output.shape[:1] == (count,):
            return output
        if output.size % count or (output.ndim == 0 and count > 1):
            raise ModelError(
                f"{self._called}: an output of shape {list(output.shape)} isn't made of as much for each of {count} examples; "
                "export the model again, with a free batch"
            )
        each = output.shape[:1] if count == 1 else (-1,)
        return output.reshape(count, *each, *output.shape[1:])


def accuracy(logits: Array, labels: Array) -> float:
    """The share of examples whose largest logit is their label."""
    return float((logits.reshape(len(logits), -1).argmax(1) == labels).mean())


def accuracy_of(source: str | Path | bytes, split: Split, mode: Mode = "exact", *, name: str | None = None) -> float:
    """Accuracy of an ONNX model on a split, in onnxruntime; ``name`` is what messages call it."""
    return accuracy(Model(source, mode, name=name)(split.x), split.y)


def tallied(
    source: str | Path | bytes, split: Split, objective: Objective, mode: Mode = "exact", *, name: str | None = None
) -> list[Tally]:
    """What an ONNX model's outputs on a split come to, in onnxruntime; ``objective.metric`` makes a figure of it."""
    assert split.targets is not None
    tallies = objective.tallies()
    for chosen, outputs in Model(source, mode, name=name).batches(split):
        objective.count(tallies, outputs, [np.asarray(column[chosen]) for column in split.targets])
    return tallies


@immutable
class Int8Metric:
    """Figures of an int8 file.

    exact: as ONNX defines the file. default_session: in a session of onnxruntime without options, on this processor.
    warning: what to do where the two differ by more than rounding; None where they don't.
    """

    exact: Metric
    default_session: Metric
    warning: str | None


def int8_metric(source: str | Path | bytes, split: Split, objective: Objective) -> Int8Metric:
    """The figure of an int8 file in both modes.

    Where they differ by more than rounding, each remedy is tried. The warning names those that bring the default session near
    the exact answer; where none does, kernels don't saturate, but the network enlarges what rounding does.
    """
    assert split.targets is not None
    exact, plain = (Model(source, mode).outputs(split.inputs) for mode in ("exact", "default"))

    def figure(outputs: Sequence[Array]) -> Metric:
        tallies = objective.tallies()
        objective.count(tallies, outputs, [np.asarray(column[:]) for column in split.targets or ()])
        return objective.metric(tallies)

    right, default = figure(exact), figure(plain)
    if _is_rounding(objective, plain, exact):
        return Int8Metric(right, default, None)
    if right.name == "accuracy":
        said = f"right on {default.value:.1%} of the test set, where the file as ONNX defines it is on {right.value:.1%}"
    else:
        said = f"at {default.shown()} {right.title} on the test set, where the file as ONNX defines it is at {right.shown()}"
    tried = {key: Model(source, "default", **{key: value}).outputs(split.inputs) for key, value in REMEDIES.items()}
    working = [f"{key} = {REMEDIES[key]}" for key, remedied in tried.items() if _far(remedied, exact) < _far(plain, exact) / 2]
    if working:
        option = f"set the session option {' or '.join(working)}"
        cause = f"its integer kernels saturate on this processor; {option}, or prune with --weight-bits 7"
    elif abs(default.value - right.value) > _ROUNDED_CLASSES * (1 if right.unit == "share" else abs(right.value)):
        cause = "the network enlarges differences of rounding"
    else:
        return Int8Metric(right, default, None)
    return Int8Metric(right, default, f"a session of onnxruntime without options is {said}: {cause}")


def rounding_loss(of_float: Metric, of_int8: Metric, examples: int) -> str | None:
    """What to say of an int8 file that is clearly worse than the network it was rounded from; None where it is not.

    Clearly: by _LOST, and by three times what chance makes of a share of so many examples.
    """
    lost = max(_LOST, 3 * sqrt(0.25 / max(1, examples))) if of_float.unit == "share" else _LOST_OF_ERROR
    if of_int8.score >= of_float.floor(lost):
        return None
    return (
        f"rounding to int8 cost much: {of_int8.title} {of_int8.shown()} on the test set, {of_float.shown()} before; another "
        "--seed or a longer training may round better, --float writes the network without that loss"
    )


def _is_rounding(objective: Objective, outputs: Sequence[Array], exact: Sequence[Array]) -> bool:
    """Whether outputs differ from the exact ones by no more than rounding one way or the other does."""
    for kind, given, other in zip(objective.kinds, outputs, exact, strict=False):
        named = [kind.measured(x) for x in (given, other)]
        if named[0].dtype.kind in "iu" and _other(*named) > max(1, _ROUNDED_CLASSES * named[0].size):
            return False
    return all(_apart(x, y) <= _ROUNDED_SHARE * float(np.ptp(y)) for x, y in zip(outputs, exact, strict=True))


def is_rounding(logits: Array, exact: Array) -> bool:
    """The same of outputs (batch, classes) of a classifier."""
    given, other = (x.reshape(len(x), -1) for x in (logits, exact))
    classes = _other(given.argmax(1), other.argmax(1))
    return classes <= max(1, _ROUNDED_CLASSES * len(given)) and _apart(logits, exact) <= _ROUNDED_SHARE * float(np.ptp(exact))


def _other(given: Array, other: Array) -> int:
    return int((given != other).sum())


def _far(outputs: Sequence[Array], exact: Sequence[Array]) -> float:
    """The largest difference of any output, as a share of its range."""
    return max(_apart(x, y) / max(1e-12, float(np.ptp(y))) for x, y in zip(outputs, exact, strict=True))


def _apart(given: Array, other: Array) -> float:
    return float(np.abs(given - other).max())
