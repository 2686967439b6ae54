"""Labelled examples for pruning: ``--data NAME|PATH|module:function`` -> inputs and labels that fit the model.

All three forms, and arrays that are in memory already, end in the same six arrays (``x_train``, ``y_train``, ``x_val``,
``y_val``, ``x_test``, ``y_test``; the two of validation are optional) and pass the same checks, so whatever ``load`` returns
can be fed to the model as it stands. Values are never rescaled: an array of 0...255 pixels reaches the model as
0.0...255.0, because only its maker knows what it was trained on. Archives are read without unpickling, so a data file can't
run code; ``module:function`` does run code, the user's own.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import lzma
import math
import os
import re
import sys
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NotRequired, Protocol, TypedDict

import numpy as np
from numpy.typing import ArrayLike

from mcuprune.errors import DataError, MissingExtra, UsageError

#: The metadata key under which a model file may say which data set it was made for.
METADATA_KEY = "mcuprune.data"
_REQUIRED = ("x_train", "y_train", "x_test", "y_test")
_OPTIONAL = ("x_val", "y_val")
_NEEDED = "it needs x_train, y_train, x_test, y_test, and may have x_val, y_val"
_MAX_BYTES = 8 * 1024**3  # no microcontroller's data set is larger; a damaged or hostile header easily says so
_MAX_HELD_OUT = 2000  # more validation examples cost time at every epoch and hardly sharpen the estimate
_DIGITS_SPLIT_SEED = 0
_DIGITS_VAL, _DIGITS_TEST = 200, 497


#: Examples float32 (batch, ...) and a source of chance -> varied examples of the same shape.
Augment = Callable[[np.ndarray[Any, Any], np.random.Generator], np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Split:
    """Examples that belong together.

    x: float32 (n, *the model's input shape without the batch axis).
    y: int64 (n,), labels 0...n_classes-1.
    """

    x: np.ndarray[Any, np.dtype[np.float32]]
    y: np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Data:
    """A data set that fits one model: every split is non-empty, finite, and of the model's input shape.

    augment: varies training examples, batch by batch; None leaves them as they are.
    """

    name: str
    train: Split
    val: Split
    test: Split
    n_classes: int
    augment: Augment | None = None


class Arrays(TypedDict):
    """A data set in memory: examples (n, *shape) and labels (n,) of each split.

    Without ``x_val`` and ``y_val`` some of the examples to train on are held out for validation.

    >>> import numpy as np
    >>> x, y = np.zeros((20, 1, 16, 16), np.float32), np.arange(20) % 10
    >>> data = Arrays(x_train=x, y_train=y, x_test=x, y_test=y)
    """

    x_train: ArrayLike
    y_train: ArrayLike
    x_test: ArrayLike
    y_test: ArrayLike
    x_val: NotRequired[ArrayLike]
    y_val: NotRequired[ArrayLike]


class Dataset(Protocol):
    """Any object with these attributes; it may have ``x_val`` and ``y_val`` too."""

    @property
    def x_train(self) -> ArrayLike:
        """Examples to train on: (n, *shape)."""

    @property
    def y_train(self) -> ArrayLike:
        """Their labels: (n,)."""

    @property
    def x_test(self) -> ArrayLike:
        """Examples to measure accuracy on: (n, *shape)."""

    @property
    def y_test(self) -> ArrayLike:
        """Their labels: (n,)."""


#: What ``load`` takes: a name, a path or ``module:function`` as text, or what is in memory.
Given = str | os.PathLike[str] | Mapping[str, Any] | Dataset
#: What a data set in memory is called.
IN_MEMORY = "arrays"


def load(spec: Given, *, input_shape: tuple[int, ...], n_classes: int, seed: int) -> Data:
    """The data set that ``spec`` names, checked against the model.

    spec: a name in DATASETS, the path of an ``.npz`` archive, or ``module:function``; a name wins over a file of the
    same name (``./digits`` means the file). Or ``Arrays``, or a ``Dataset``.
    input_shape: the model's input without its batch axis, e.g. (1, 16, 16).
    n_classes: the number of the model's logits.
    seed: picks the validation examples where the data brings none; a ``module:function`` that takes ``seed`` gets it.

    Raises DataError on a set that can't be read or doesn't fit, MissingExtra where a named set needs another package.
    """
    if isinstance(spec, os.PathLike):
        spec = os.fspath(spec)
    if not input_shape or min(input_shape) < 1:
        where = spec if isinstance(spec, str) else IN_MEMORY
        raise DataError(f"--data {where}: the model's input shape is {input_shape}; fix every axis with --input-shape")
    arrays: Mapping[str, Any]
    if not isinstance(spec, str):
        return _assemble(IN_MEMORY, _in_memory(spec), input_shape=input_shape, n_classes=n_classes, seed=seed)
    if spec in DATASETS:
        return DATASETS[spec](input_shape, n_classes, seed)
    if os.path.exists(spec) or spec.endswith(".npz"):
        if os.path.exists(spec) and not os.path.isfile(spec) and not os.path.isdir(spec):
            raise DataError(f"--data {spec}: no regular file, but a device or a pipe; give the path of an .npz archive")
        arrays = _read_npz(spec)
    elif re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", spec):
        arrays = _call(spec, seed)
    else:
        raise DataError(
            f"--data {spec!r}: no such file and no such data set; give a name ({', '.join(DATASETS)}), "
            "the path of an .npz archive, or module:function"
        )
    return _assemble(spec, arrays, input_shape=input_shape, n_classes=n_classes, seed=seed)


def named(metadata: Mapping[str, str]) -> str | None:
    """The embedded data set that a model's metadata names; None where it names none, or anything else.

    Metadata are a stranger's words: they may choose from DATASETS, and are never taken for a file or for code.
    """
    name = metadata.get(METADATA_KEY)
    return name if name in DATASETS else None


def not_embedded(metadata: Mapping[str, str]) -> str:
    """What to say where metadata name data that aren't embedded; empty where they don't."""
    name = metadata.get(METADATA_KEY)
    if name is None or name in DATASETS:
        return ""
    shown = name if len(name) <= 80 else f"{name[:77]}..."
    return f"the file's metadata name {shown!r}, which is no embedded data set ({', '.join(DATASETS)}) and so is not opened"


def files(spec: Given | None) -> list[str]:
    """The files that ``spec`` of ``load`` may read, for the sake of those who mustn't write there."""
    spec = os.fspath(spec) if isinstance(spec, os.PathLike) else spec
    if not isinstance(spec, str) or spec in DATASETS:
        return []
    module, colon, _ = spec.partition(":")
    path = module.replace(".", os.sep)
    return [spec, *([f"{path}.py", os.path.join(path, "__init__.py")] if colon else [])]


# --- from six arrays to a Data ----------------------------------------------------------------------------------------


def _assemble(where: str, arrays: Mapping[str, Any], *, input_shape: tuple[int, ...], n_classes: int, seed: int) -> Data:
    shapes = {key: (np.shape(value), value.dtype) for key, value in arrays.items() if isinstance(value, np.ndarray)}
    _bounded(where, shapes)

    def split(part: str) -> Split:
        x = _inputs(where, f"x_{part}", arrays[f"x_{part}"], input_shape)
        y = _labels(where, f"y_{part}", arrays[f"y_{part}"], n_classes)
        if len(x) != len(y):
            raise DataError(f"{where}: x_{part} has {len(x)} examples but y_{part} {len(y)} labels; give one label each")
        return Split(x, y)

    train, test = split("train"), split("test")
    train, val = (train, split("val")) if "x_val" in arrays else _hold_out(where, train, n_classes, seed)
    return Data(where, train, val, test, n_classes)


def _known(where: str, names: Iterable[object]) -> list[str]:
    """Those of the six keys that ``names`` holds. Raises DataError where that is not a whole data set."""
    found = sorted(map(str, names))
    for key in _REQUIRED:
        if key not in found:
            raise DataError(f"{where}: no array {key!r} (found: {', '.join(found[:10]) or 'nothing'}); {_NEEDED}")
    for alone, other in (_OPTIONAL, _OPTIONAL[::-1]):
        if alone in found and other not in found:
            raise DataError(f"{where}: {alone} without {other}; give both, or neither to hold out a part of x_train")
    return [key for key in (*_REQUIRED, *_OPTIONAL) if key in found]


def _array(where: str, name: str, values: Any, *, kinds: str, wanted: str) -> np.ndarray[Any, Any]:
    try:
        array = np.asarray(values)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # unequal lengths, tensors elsewhere: whatever the user's objects raise
        raise DataError(f"{where}: {name} can't be turned into an array: {_one_line(error)}") from error
    if array.dtype.kind not in kinds:
        raise DataError(f"{where}: {name} has dtype {array.dtype}; it must hold {wanted}")
    if array.ndim == 0 or len(array) == 0:
        raise DataError(f"{where}: {name} is empty (shape {array.shape}); every split needs at least one example")
    return array


def _inputs(where: str, name: str, values: Any, input_shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """float32 (n, *input_shape). Missing axes of size 1 are added; nothing is ever transposed or rescaled."""
    array = _array(where, name, values, kinds="fiub", wanted="plain numbers")
    shape = array.shape[1:]
    if shape != input_shape:
        only_lacks_ones = len(shape) < len(input_shape) and _without_ones(shape) == _without_ones(input_shape)
        if not only_lacks_ones:
            wanted = ", ".join(map(str, ("n", *input_shape)))
            hint = _shape_hint(name, shape, input_shape)
            raise DataError(f"{where}: {name} has shape {array.shape}; the model wants ({wanted}): {hint}")
    with np.errstate(over="ignore"):  # an overflow becomes inf and is reported below
        x = np.ascontiguousarray(array, dtype=np.float32).reshape(len(array), *input_shape)
    finite = np.isfinite(x).reshape(len(x), -1).all(axis=1)
    if not finite.all():
        raise DataError(
            f"{where}: {name} has NaN or infinite values (as float32) in {np.count_nonzero(~finite)} of {len(x)} "
            f"examples, the first at index {int(np.argmin(finite))}; remove or repair them"
        )
    return x


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _shape_hint(name: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """What would mend a wrong shape, where the two shapes give it away."""
    n_axes = len(shape)
    if n_axes == len(wanted) and n_axes > 1:
        rest = range(1, n_axes)
        if wanted == (shape[-1], *shape[:-1]):
            return f"the data is channels-last, use {name}.transpose{(0, n_axes, *rest)}"
        if wanted == (*shape[1:], shape[0]):
            return f"the data is channels-first, use {name}.transpose{(0, *(axis + 1 for axis in rest), 1)}"
    if _without_ones(shape) == _without_ones(wanted):
        return f"use {name}.reshape{(-1, *wanted)}"
    return f"bring every example to shape {wanted}"


def _labels(where: str, name: str, values: Any, n_classes: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """int64 (n,). A column (n, 1) is flattened and one-hot rows (n, n_classes) are read as the index of their 1."""
    wanted = f"whole-number labels from 0 to {n_classes - 1}"
    array = _array(where, name, values, kinds="fiub", wanted=wanted)
    if array.ndim == 2 and array.shape[1] == n_classes > 1:
        if not (np.isin(array, (0, 1)).all() and (array.sum(axis=1, dtype=np.int64) == 1).all()):
            raise DataError(
                f"{where}: {name} has shape {array.shape} but its rows aren't one-hot (a single 1, else 0); "
                f"give one-hot rows or {wanted}, e.g. {name}.argmax(1)"
            )
        return np.asarray(array.argmax(axis=1), dtype=np.int64)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise DataError(f"{where}: {name} has shape {array.shape}; it must be (n,) {wanted}, or one-hot rows (n, {n_classes})")
    if array.dtype.kind == "f" and not np.equal(array, np.round(array)).all():
        raise DataError(
            f"{where}: {name} has fractions, as targets of a regression have; what is trained and measured are classifiers, "
            f"so it must hold {wanted}"
        )
    if array.dtype.kind == "f":
        raise DataError(f"{where}: {name} has dtype {array.dtype}; it must hold {wanted}: use {name}.astype('int64')")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= n_classes:
        raise DataError(
            f"{where}: {name} has labels from {low} to {high}; the model has {n_classes} outputs and wants {wanted}"
        )
    return array.astype(np.int64)


def _hold_out(where: str, train: Split, n_classes: int, seed: int) -> tuple[Split, Split]:
    """(train, val): a tenth of the training examples, at least ``n_classes`` and at most 2,000, stratified by label."""
    size = max(n_classes, min(len(train.y) // 10, _MAX_HELD_OUT))
    held = _stratified(train.y, size, np.random.default_rng(seed))
    if not held.any():
        raise DataError(
            f"{where}: x_train has {len(train.y)} examples, too few to hold out any for validation without "
            "emptying a class; give more, or x_val and y_val"
        )
    return _take(train, ~held), _take(train, held)


def _take(split: Split, chosen: np.ndarray[Any, np.dtype[np.bool_]]) -> Split:
    return Split(split.x[chosen], split.y[chosen])


def _stratified(
    y: np.ndarray[Any, np.dtype[np.int64]], size: int, rng: np.random.Generator
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Mask (n,) of ``size`` examples, each class by its share. The last example of a class is never taken.

    Fewer than ``size`` where the classes are too small for it.
    """
    counts = np.bincount(y)
    spare = np.maximum(counts - 1, 0)
    share = size * counts / len(y)
    quota = np.minimum(share.astype(np.int64), spare)
    for label in np.argsort(quota - share, kind="stable"):  # those that rounding cut most come first
        if quota.sum() < size and quota[label] < spare[label]:
            quota[label] += 1
    mask = np.zeros(len(y), dtype=np.bool_)
    for label, n in enumerate(quota):
        mask[rng.permutation(np.flatnonzero(y == label))[:n]] = True
    return mask


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


# --- in memory --------------------------------------------------------------------------------------------------------


def _in_memory(given: Mapping[str, Any] | Dataset) -> dict[str, Any]:
    """The known arrays of a mapping, or of an object that has them as attributes."""
    keys = (*_REQUIRED, *_OPTIONAL)
    if not isinstance(given, Mapping):
        given = {key: getattr(given, key) for key in keys if getattr(given, key, None) is not None}
    return {key: given[key] for key in _known(IN_MEMORY, [key for key in given if given[key] is not None])}


# --- archives ---------------------------------------------------------------------------------------------------------


def _read_npz(path: str) -> dict[str, np.ndarray[Any, Any]]:
    """The known arrays of an archive made by numpy.savez. Declared sizes are bounded before anything is read."""
    remedy = "write it with numpy.savez(path, x_train=..., y_train=..., x_test=..., y_test=...)"
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            wanted = {key: members[key] for key in _known(path, members)}
            headers = {key: _header(path, archive, key, info) for key, info in wanted.items()}
            _bounded(path, headers)
            return {key: _read_member(archive, info) for key, info in wanted.items()}
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; --data takes a name, the path of an .npz or module:function") from error
    except IsADirectoryError as error:
        raise DataError(f"{path}: a folder, not an .npz archive; {remedy}") from error
    except MemoryError as error:
        raise DataError(f"{path}: its arrays don't fit in memory; use fewer examples or a smaller dtype") from error
    except (
        OSError,  # unreadable, and what bz2 raises on damage
        EOFError,
        ValueError,  # also offsets beyond any file
        RuntimeError,  # encrypted members, unknown compression, headers nested too deeply
        SyntaxError,  # this and the next two: array headers that make no sense
        TypeError,
        tokenize.TokenError,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
    ) as error:
        raise DataError(f"{path}: not a readable .npz archive ({_one_line(error)}); {remedy}") from error


def _header(path: str, archive: zipfile.ZipFile, key: str, info: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of one array, held against the member's size: reading allocates what the header claims."""
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, _, dtype = np.lib.format.read_array_header_2_0(file)
        else:
            raise DataError(f"{path}: {key} is stored in .npy format {version}; it must hold plain numbers")
        if dtype.hasobject:
            raise DataError(f"{path}: {key} holds pickled Python objects, which are never read; save plain numbers")
        n_bytes, expected = info.file_size - file.tell(), math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or n_bytes != expected:
            raise DataError(
                f"{path}: {key} claims shape {shape} of {dtype}, {expected} bytes, but has {n_bytes}; write it again"
            )
    return tuple(shape), np.dtype(dtype)


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray[Any, Any]:
    with archive.open(info) as file:
        array: np.ndarray[Any, Any] = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _bounded(where: str, headers: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]) -> None:
    """Raise DataError for arrays that become too large, however small they are stored.

    headers: shape and type of each array by its key. Inputs become float32 and labels int64, beside what they are made of;
    and what is held out for validation is a copy.
    """
    total = 0
    for key, (shape, dtype) in headers.items():
        elements = math.prod(shape)
        becomes = elements * (4 if key.startswith("x_") else 8)
        copied = becomes if key == "x_train" and "x_val" not in headers else 0
        total += elements * dtype.itemsize + copied + (0 if dtype == np.float32 and key.startswith("x_") else becomes)
    if total > _MAX_BYTES:
        raise DataError(
            f"{where}: its arrays would take {total} bytes as float32, with what they are made of; "
            f"at most {_MAX_BYTES} are used: give fewer or smaller examples"
        )


# --- module:function --------------------------------------------------------------------------------------------------


def _call(spec: str, seed: int) -> Mapping[str, Any]:
    """What the user's function returns. The current directory comes first on the import path while it runs.

    What it prints goes to stderr: stdout belongs to the answer.
    """
    module_name, function_name = spec.split(":")
    try:
        here = os.getcwd()
    except OSError as error:
        raise DataError(f"--data {spec}: the current folder can't be entered ({error.strerror}); change to another") from None
    with _first_on_the_import_path(here), contextlib.redirect_stdout(sys.stderr):
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
                raise DataError(
                    f"--data {spec}: no module {error.name!r} here ({here}) or among the installed packages"
                ) from error
            raise DataError(f"--data {spec}: importing {module_name!r} raised {_one_line(error)}") from error
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit, and kinds of their own
            raise DataError(f"--data {spec}: importing {module_name!r} raised {_one_line(error)}") from error
        origin = getattr(module, "__file__", None) or "built in"
        if not hasattr(module, function_name):
            raise DataError(f"--data {spec}: module {module_name!r} ({origin}) has no {function_name!r}")
        function = getattr(module, function_name)
        if not callable(function):
            kind = type(function).__name__
            raise DataError(f"--data {spec}: {function_name!r} in {origin} is of type {kind}, not a function")
        keywords = _keywords(spec, function, seed)
        try:
            arrays = function(**keywords)
            if isinstance(arrays, Mapping):
                # an open .npz reads, and may fail, only when asked for its arrays
                return {key: arrays[key] for key in _known(spec, arrays)}
        except (DataError, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise DataError(f"--data {spec}: the function raised {_one_line(error)}") from error
    kind = type(arrays).__name__
    raise DataError(f"--data {spec}: the function returned an object of type {kind}, not a mapping; {_NEEDED}")


def _keywords(spec: str, function: Callable[..., Any], seed: int) -> dict[str, int]:
    """``{"seed": seed}`` where the function takes it, else nothing."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # some compiled functions don't tell
        return {}
    for keywords in ({"seed": seed}, {}):
        with contextlib.suppress(TypeError):
            signature.bind(**keywords)
            return keywords
    raise DataError(f"--data {spec}: the function takes {signature}; it is called without arguments, or with seed=...")


@contextlib.contextmanager
def _first_on_the_import_path(here: str) -> Iterator[None]:
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the user's code may have taken it out already
            sys.path.remove(here)


# --- sets known by name -----------------------------------------------------------------------------------------------


def _digits(input_shape: tuple[int, ...], n_classes: int, seed: int) -> Data:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, resized to the model's input: 1,100 / 200 / 497.

    Pixels are divided by 16, resized bilinearly, standardised with the mean and deviation of the 8 x 8 training pixels,
    and repeated over the channels. The split is the same for every ``seed``, so that accuracies compare.
    """
    if n_classes != 10:
        raise DataError(f"--data digits: ten classes, but the model has {n_classes} outputs; use a model with 10")
    if len(input_shape) != 3:
        raise DataError(
            f"--data digits: images, but the model's input without its batch axis is {input_shape}; "
            "use a model with (channel, height, width)"
        )
    if 2 * 4 * 1797 * math.prod(input_shape) > _MAX_BYTES:  # resized, and once more when it is split
        raise DataError(f"--data digits: too large for memory at the model's input {input_shape}; use a smaller input")
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise MissingExtra("--data digits needs scikit-learn: pip install 'mcuprune[prune]'") from error
    bunch = load_digits()
    pixels, y = bunch.images.astype(np.float32) / 16, bunch.target.astype(np.int64)

    rng = np.random.default_rng(_DIGITS_SPLIT_SEED)
    test = _stratified(y, _DIGITS_TEST, rng)
    rest = np.flatnonzero(~test)
    val = np.zeros_like(test)
    val[rest[_stratified(y[rest], _DIGITS_VAL, rng)]] = True
    train = ~(test | val)

    channels_last = input_shape[0] not in (1, 3) and input_shape[2] in (1, 3)
    height, width, n_channels = input_shape if channels_last else (*input_shape[1:], input_shape[0])
    mean, deviation = pixels[train].mean(), pixels[train].std()
    images = (_bilinear(8, height) @ pixels @ _bilinear(8, width).T - mean) / deviation
    x = np.repeat(np.expand_dims(images, -1 if channels_last else 1), n_channels, axis=-1 if channels_last else 1)
    whole = Split(x, y)
    return Data("digits", _take(whole, train), _take(whole, val), _take(whole, test), n_classes)


def _bilinear(old: int, new: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """float32 (new, old): the matrix that resizes one axis linearly; pixel centres at half coordinates."""
    centre = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    left = np.minimum(centre.astype(np.int64), old - 2)
    matrix = np.zeros((new, old), dtype=np.float32)
    matrix[np.arange(new), left] = 1 - (centre - left)
    matrix[np.arange(new), left + 1] = centre - left
    return matrix


DATASETS: dict[str, Callable[[tuple[int, ...], int, int], Data]] = {"digits": _digits}


# ---------------------------------------------------------------------------------------------------------- augmentation


def augmentation(spec: str) -> Augment:
    """The variation that ``spec`` describes, such as ``flip,crop4``: its parts one after the other.

    ``flip`` mirrors the last axis of half of the examples; ``cropN`` shifts every example by up to N places along each of its
    axes after the first, ``shiftN`` along the second alone, both filling with zeros; ``noiseX`` adds Gaussian noise of standard
    deviation X. Raises UsageError for anything else.
    """
    steps: list[Augment] = []
    for part in map(str.strip, spec.split(",")):
        found = re.fullmatch(r"(flip)|(crop|shift)([1-9]\d{0,2})|(noise)(\d*\.?\d+)", part)
        if not found:
            raise UsageError(f"--augment: {part!r} is unknown; write flip, crop4, shift5 or noise0.1, or several: flip,crop4")
        if found[1]:
            steps.append(_flip)
        elif found[2]:
            steps.append(_moved(int(found[3]), every_axis=found[2] == "crop"))
        else:
            deviation = float(found[5])
            if not math.isfinite(deviation):
                raise UsageError(f"--augment: {part[:20]!r}... is no deviation that a number can have; write noise0.1")
            steps.append(_noisy(deviation))

    def vary(x: np.ndarray[Any, Any], random: np.random.Generator) -> np.ndarray[Any, Any]:
        for step in steps:
            x = step(x, random)
        return x

    return vary


def _flip(x: np.ndarray[Any, Any], random: np.random.Generator) -> np.ndarray[Any, Any]:
    chosen = random.random(len(x)) < 0.5
    found = x.copy()
    found[chosen] = found[chosen][..., ::-1]
    return found


def _noisy(deviation: float) -> Augment:
    return lambda x, random: x + deviation * random.standard_normal(x.shape, np.float32)


def _moved(reach: int, *, every_axis: bool) -> Augment:
    def vary(x: np.ndarray[Any, Any], random: np.random.Generator) -> np.ndarray[Any, Any]:
        axes = range(2, x.ndim if every_axis else min(3, x.ndim))
        padded = np.pad(x, [(0, 0), (0, 0), *((reach, reach) for _ in axes), *((0, 0) for _ in range(2 + len(axes), x.ndim))])
        starts = random.integers(0, 2 * reach + 1, (len(x), len(axes)))
        found = np.empty_like(x)
        for index, start in enumerate(starts):
            window = tuple(slice(int(s), int(s) + x.shape[axis]) for s, axis in zip(start, axes, strict=True))
            found[index] = padded[index][(slice(None), *window)]
        return found

    return vary
