"""What a function of the user's returns, or what is in memory: arrays, torch Datasets, DataLoaders, iterators.

torch isn't imported for it: a Dataset is what has a length and items, a DataLoader what has a ``dataset`` and is iterated over.
What is no array is gone through once and kept in a file without a name; so random changes that a Dataset makes are made once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import numpy as np

from mcuprune.data import cache, trees
from mcuprune.data.arrays import NEEDED, known
from mcuprune.data.raw import PARTS, Asked, Part, Raw
from mcuprune.data.readers.archives import of_arrays
from mcuprune.errors import DataError
from mcuprune.usercode import one_line

_X = ("image", "img", "x", "input", "inputs", "pixel_values", "features")
_Y = ("label", "labels", "y", "target", "targets")
#: Examples that are stored at a time.
_BLOCK = 256
_SOME = "some examples have a label and others have none; give all of them one, or none of them"
_FORMS = (
    "return a mapping or an object of x_train, y_train, x_test, y_test; a tuple of these four, or of two pairs (x, y); a torch "
    "Dataset, a DataLoader or an iterator of (x, y); or a mapping of such by train, val, test"
)


def read(where: str, given: Any, asked: Asked) -> Raw:
    """The data set that an object is. Raises DataError for one of another kind."""
    if isinstance(given, Mapping):
        parts = {part: value for key, value in given.items() if (part := trees.part_named(str(key)))}
        if parts:
            return _of_parts(where, parts, asked)
        return of_arrays(where, {key: given[key] for key in known(where, [key for key in given if given[key] is not None])})
    if isinstance(given, (tuple, list)):
        return _of_tuple(where, given, asked)
    keys = [f"{letter}_{part}" for part in PARTS for letter in "xy"]
    attributes = {key: getattr(given, key) for key in keys if getattr(given, key, None) is not None}
    if attributes:
        return of_arrays(where, {key: attributes[key] for key in known(where, attributes)})
    if isinstance(given, (str, bytes, int, float, type(None))) or not _is_examples(given):
        raise DataError(f"{where}: an object of type {type(given).__name__}, not a mapping; {NEEDED}; or {_FORMS}")
    return _of_parts(where, {"train": given}, asked)


def _is_examples(given: Any) -> bool:
    return (
        isinstance(given, np.ndarray)
        or hasattr(given, "__iter__")
        or (hasattr(given, "__len__") and hasattr(given, "__getitem__"))
    )


def _of_tuple(where: str, given: Any, asked: Asked) -> Raw:
    kinds = [isinstance(element, (tuple, list)) and len(element) == 2 for element in given]
    if len(given) == 4 and not all(kinds):
        return of_arrays(where, dict(zip(("x_train", "y_train", "x_test", "y_test"), given, strict=True)))
    if len(given) in (2, 3) and all(kinds):
        names = ("train", "test") if len(given) == 2 else PARTS
        pairs = dict(zip(names, given, strict=True))
        return of_arrays(where, {f"{'xy'[index]}_{name}": pair[index] for name, pair in pairs.items() for index in (0, 1)})
    if len(given) in (2, 3) and all(_is_examples(element) and not hasattr(element, "dtype") for element in given):
        return _of_parts(where, dict(zip(("train", "test") if len(given) == 2 else PARTS, given, strict=True)), asked)
    if len(given) == 2 and all(hasattr(element, "shape") for element in given):
        return Raw(where, {"train": Part((np.asarray(given[0]),), (np.asarray(given[1]),))}, reader="arrays")
    raise DataError(
        f"{where}: a {type(given).__name__} of {len(given)} ({', '.join(type(element).__name__ for element in given[:6])}"
        f"{', ...' if len(given) > 6 else ''}); {_FORMS}; examples (x, y) in a list are an iterator as iter(...) of it"
    )


def _of_parts(where: str, parts: Mapping[str, Any], asked: Asked) -> Raw:
    if "train" not in parts:
        raise DataError(f"{where}: examples of {', '.join(parts)}, and none to train on; give a part train")
    opened: dict[str, Part] = {}
    classes: tuple[str, ...] = ()
    for name, given in parts.items():
        if isinstance(given, np.ndarray):
            opened[name] = Part((given,))
        elif isinstance(given, (tuple, list)) and len(given) == 2 and all(hasattr(element, "shape") for element in given):
            opened[name] = Part((np.asarray(given[0]),), (np.asarray(given[1]),))
        else:
            opened[name] = _stored(f"{where}: {name}", given, asked)
            names = getattr(getattr(given, "dataset", given), "classes", None)
            classes = classes or (tuple(map(str, names)) if isinstance(names, (list, tuple)) else ())
    return Raw(where, opened, classes, reader="objects")


def _stored(where: str, given: Any, asked: Asked) -> Part:
    """The examples of an iterable, on disk. Batches are told from examples by the shape of the model's input."""
    blocks = _blocks(where, _items(given), asked)
    try:
        first = next(blocks)
    except StopIteration:
        raise DataError(f"{where}: no examples in it") from None
    labels: list[np.ndarray[Any, Any]] = []

    def inputs() -> Iterator[np.ndarray[Any, Any]]:
        for x, y in chain([first], blocks):
            if x.shape[1:] != first[0].shape[1:]:
                raise DataError(
                    f"{where}: examples of shape {x.shape[1:]} after ones of {first[0].shape[1:]}; bring them to one"
                )
            if (y is None) != (first[1] is None):
                raise DataError(f"{where}: {_SOME}")
            if y is not None:
                labels.append(y)
            yield x

    x = cache.growing(first[0].dtype, first[0].shape[1:], inputs())
    return Part((x,), (np.concatenate(labels),) if labels else None)


def _items(given: Any) -> Iterable[Any]:
    """Items of a Dataset by their numbers, which end at its length; of anything else as it gives them."""
    if hasattr(given, "__getitem__") and hasattr(given, "__len__") and not hasattr(given, "dataset"):
        return (given[index] for index in range(len(given)))
    return given  # type: ignore[no-any-return]


def _blocks(where: str, items: Iterable[Any], asked: Asked) -> Iterator[tuple[np.ndarray[Any, Any], Any]]:
    """(inputs (some, ...), labels (some,) or None), of examples or of batches."""
    waiting: list[tuple[np.ndarray[Any, Any], Any]] = []
    for item in items:
        x, y = _pair(where, item)
        if x.ndim == len(asked.shape) + 1 or (y is not None and y.ndim >= 1 and len(y) == len(x) and x.ndim > 1 and y.size > 1):
            yield x, y
            continue
        waiting.append((x, y))
        if len(waiting) == _BLOCK:
            yield _stacked(where, waiting)
            waiting = []
    if waiting:
        yield _stacked(where, waiting)


def _stacked(where: str, items: list[tuple[np.ndarray[Any, Any], Any]]) -> tuple[np.ndarray[Any, Any], Any]:
    try:
        x = np.stack([x for x, _ in items])
        labelled = [y for _, y in items if y is not None]
        if 0 < len(labelled) < len(items):
            raise DataError(f"{where}: {_SOME}")
        return x, np.stack(labelled) if labelled else None
    except ValueError as error:
        raise DataError(f"{where}: examples of different shapes ({error}); bring them to one") from error


def _pair(where: str, item: Any) -> tuple[np.ndarray[Any, Any], Any]:
    """(input, label or None) of an item: a pair, a mapping by usual names, or an input alone."""
    x, y = item, None
    if isinstance(item, Mapping):
        x, y = (next((item[key] for key in keys if key in item), None) for keys in (_X, _Y))
        if x is None:
            raise DataError(f"{where}: items have {', '.join(map(str, item))[:200]}; call the input x")
    elif isinstance(item, (tuple, list)) and len(item) >= 1 and not np.isscalar(item[0]):
        x, y = item[0], item[1] if len(item) > 1 else None
    try:
        return np.asarray(x), None if y is None else np.asarray(y)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever the user's objects raise
        raise DataError(f"{where}: an item can't be turned into an array: {one_line(error)}") from error
