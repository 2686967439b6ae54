"""From what a reader gives to a ``Data`` that fits one model: shapes, types, labels, and what is held out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mcuprune.data.arrays import array_of, input_column, labels, refuse_infinite
from mcuprune.data.columns import Fed, taken
from mcuprune.data.preprocessing import Preprocessing, layout_of, other_end
from mcuprune.data.raw import Part, Raw
from mcuprune.data.sets import Data, Split
from mcuprune.data.splitting import stratified
from mcuprune.errors import DataError
from mcuprune.immutable import immutable

_MAX_HELD_OUT = 2000  # more validation examples cost time at every epoch and hardly sharpen the estimate
#: A test set that nobody brings is the same for every seed, so that accuracies compare.
_TEST_SEED, _TEST_SHARE = 0, 0.2

#: (where, name, values as read) -> the targets of one output, checked: (n, ...). Raises DataError.
TargetCheck = Callable[[str, str, Any], np.ndarray[Any, Any]]


@immutable
class Wanted:
    """What a model takes and answers.

    inputs: the shape of each input without its batch axis. targets: the check of each output's targets; none where targets
    are left aside.
    n_classes: of the first output. seed: picks the validation examples where the data brings none.
    preprocessing: how raw values are fed, where that is known. classes: the model's names of classes, where it has them.
    unlabelled: whether examples without targets will do. frontend: settings that turn sound into features, as text.
    """

    inputs: tuple[tuple[int, ...], ...]
    targets: tuple[TargetCheck, ...]
    n_classes: int
    seed: int
    preprocessing: Preprocessing | None = None
    classes: tuple[str, ...] = ()
    unlabelled: bool = False
    frontend: str = ""


def classifier(input_shape: tuple[int, ...], n_classes: int, seed: int) -> Wanted:
    """What a classifier of one input takes."""
    return Wanted((input_shape,), (label_check(n_classes),), n_classes, seed)


def label_check(n_classes: int) -> TargetCheck:
    """The check of labels 0...n_classes-1, or one-hot rows of them: gives int64 (n,)."""
    return lambda where, name, values: labels(where, name, values, n_classes)


def fitted(raw: Raw, wanted: Wanted) -> Data:
    """The data set as the model takes it. Raises DataError where it doesn't fit."""
    raw = _renumbered(raw, wanted.classes)
    splits = {name: _split(raw, name, part, wanted) for name, part in raw.parts.items()}
    notes = list(raw.notes)
    if "test" not in splits:
        size = round(len(splits["train"]) * _TEST_SHARE)
        splits["train"], splits["test"] = _hold_out(raw.where, splits["train"], size, _TEST_SEED, "test")
        notes.append(f"no test set: {len(splits['test'])} examples, the same for every seed, were held out of {raw.where}")
    if "val" not in splits:
        size = min(len(splits["train"]) // 10, _MAX_HELD_OUT)
        splits["train"], splits["val"] = _hold_out(raw.where, splits["train"], size, wanted.seed, "validation")
    return Data(
        raw.where,
        splits["train"],
        splits["val"],
        splits["test"],
        wanted.n_classes,
        classes=raw.classes,
        kind=raw.kind,
        notes=tuple(notes),
        boxes=raw.boxes,
    )


def preprocessing_of(data: Data) -> Preprocessing | None:
    """How a data set's examples reach the first input; None where they lie in memory just as they are fed."""
    column: Any = data.train.x
    while not isinstance(column, Fed):
        column = getattr(column, "source", None)
        if column is None:
            return None
    return column.preprocessing


def refed(data: Data, preprocessing: Preprocessing) -> Data:
    """The same examples, fed otherwise to the first input."""
    train, val, test = (
        Split((_refed(split.x, preprocessing), *split.inputs[1:]), split.targets) for split in (data.train, data.val, data.test)
    )
    return replace(data, train=train, val=val, test=test)


def _refed(column: Any, preprocessing: Preprocessing) -> Any:
    if isinstance(column, Fed):
        return column.again(preprocessing)
    if hasattr(column, "indices"):
        return taken(_refed(column.source, preprocessing), column.indices)
    return Fed(column, column.shape[1:], preprocessing)


def _split(raw: Raw, name: str, part: Part, wanted: Wanted) -> Split:
    if len(part.inputs) != len(wanted.inputs):
        raise DataError(
            f"{raw.where}: has {len(part.inputs)} arrays of inputs; the model takes {len(wanted.inputs)}: "
            f"call them {', '.join(input_keys(len(wanted.inputs), name))}"
        )
    inputs = [
        _input(raw, key, values, shape, wanted.preprocessing if index == 0 else None)
        for index, (key, values, shape) in enumerate(
            zip(input_keys(len(part.inputs), name), part.inputs, wanted.inputs, strict=True)
        )
    ]
    if part.targets is None or not wanted.targets:
        if not wanted.unlabelled:
            raise DataError(f"{raw.where}: its examples have no labels")
        targets = None
    else:
        keys = [f"column {column!r}" for column in raw.columns] or input_keys(len(part.targets), name, "y")
        if len(keys) != len(wanted.targets) and raw.columns:
            raise DataError(
                f"{raw.where}: has {len(keys)} columns of targets ({', '.join(raw.columns)[:200]}); the model has "
                f"{len(wanted.targets)} outputs: give one for each, let the model teach with --unlabelled, or cut it without "
                "training: --no-train"
            )
        if len(keys) != len(wanted.targets):
            raise DataError(
                f"{raw.where}: has {len(keys)} arrays of targets; the model has {len(wanted.targets)} outputs: call them "
                f"{', '.join(input_keys(len(wanted.targets), name, 'y'))}, let the model teach with --unlabelled, or cut it "
                "without training: --no-train"
            )
        targets = _checked(raw, keys, part.targets, wanted)
    for key, column in zip(input_keys(len(inputs), name), inputs, strict=True):
        for other, target in zip(input_keys(len(targets or ()), name, "y"), targets or (), strict=True):
            if len(column) != len(target):
                raise DataError(
                    f"{raw.where}: {key} has {len(column)} examples but {other} {len(target)} labels; give one label each"
                )
    if len({len(column) for column in inputs}) > 1:
        raise DataError(f"{raw.where}: the inputs of {name} have {', '.join(str(len(column)) for column in inputs)} examples")
    return Split(inputs, targets)


def _checked(raw: Raw, keys: Sequence[str], targets: Sequence[Any], wanted: Wanted) -> list[np.ndarray[Any, Any]]:
    """The targets as the model's outputs take them."""
    try:
        return [check(raw.where, key, y) for check, key, y in zip(wanted.targets, keys, targets, strict=True)]
    except DataError as error:
        if not len(raw.classes) > wanted.n_classes > 1:
            raise
        what = "class folders" if raw.reader == "images" else "classes"
        raise DataError(
            f"{raw.where}: has {len(raw.classes)} {what} ({', '.join(raw.classes[:12])}{', ...' if raw.classes[12:] else ''}); "
            f"the model has {wanted.n_classes} outputs: leave out those that it doesn't know, or take a model of "
            f"{len(raw.classes)} outputs"
        ) from error


def input_keys(count: int, part: str, letter: str = "x") -> list[str]:
    """Names of the arrays of a part: ``x_train``, or ``x0_train``, ``x1_train`` where there are several."""
    return [f"{letter}_{part}"] if count == 1 else [f"{letter}{index}_{part}" for index in range(count)]


def _input(raw: Raw, name: str, values: Any, shape: tuple[int, ...], preprocessing: Preprocessing | None) -> Any:
    column, stored = input_column(raw.where, name, values, shape, raw.stored)
    refuse_infinite(raw.where, name, column)
    how = preprocessing or Preprocessing(layout=layout_of(shape), frontend=raw.frontend)
    if stored and not raw.stored:  # no reader said where channels lie, the shapes of the examples did
        how = replace(how, layout=other_end(stored))
    elif stored and not how.layout:
        how = replace(how, layout=layout_of(shape))
    as_stored = how.plain and not stored and how.colours != "BGR"
    if as_stored and isinstance(column, np.ndarray) and column.dtype == np.float32 and column.shape[1:] == shape:
        return np.ascontiguousarray(column) if not isinstance(column, np.memmap) else Fed(column, shape, how)
    return Fed(column, shape, how, stored)


def _hold_out(where: str, train: Split, size: int, seed: int, what: str) -> tuple[Split, Split]:
    """(train, held): ``size`` of the training examples or one for each class that they have, each class by its share."""
    groups = _groups(train)
    held = stratified(groups, max(size, len(np.unique(groups))), np.random.default_rng(seed))
    if not held.any():
        raise DataError(
            f"{where}: x_train has {len(train)} examples, too few to hold out any for {what} without "
            "emptying a class; give more, or x_val and y_val"
        )
    return _take(train, ~held), _take(train, held)


def _groups(split: Split) -> np.ndarray[Any, Any]:
    """What examples are held out by the share of: labels, or nothing where targets are no labels."""
    if split.targets is not None and len(split.targets) == 1:
        y = split.y
        if y.ndim == 1 and y.dtype.kind in "iu" and y.min(initial=0) >= 0:
            return y
    return np.zeros(len(split), np.int64)


def _take(split: Split, chosen: np.ndarray[Any, np.dtype[np.bool_]]) -> Split:
    targets = None if split.targets is None else [taken(column, chosen) for column in split.targets]
    return Split([taken(column, chosen) for column in split.inputs], targets)


def _renumbered(raw: Raw, names: tuple[str, ...]) -> Raw:
    """Labels numbered as the model numbers its classes, where both have the same names in another order.

    Raises DataError where the names are as many and not the same.
    """
    if not raw.classes or not names or raw.classes == names or not raw.labelled:
        return raw
    plain, wanted = [_plain(name) for name in raw.classes], [_plain(name) for name in names]
    if len(set(wanted)) < len(wanted) or not set(plain) <= set(wanted):
        stray = [name for name, bare in zip(raw.classes, plain, strict=True) if bare not in wanted]
        raise DataError(
            f"{raw.where}: the data has classes {', '.join(stray[:5]) or raw.classes} that the model doesn't name; it names "
            f"{', '.join(names[:12])}: rename the data's, or give their order in a file with --classes"
        )
    number = np.array([wanted.index(bare) for bare in plain], np.int64)
    parts: Mapping[str, Part] = {name: _by_number(raw.where, name, part, number) for name, part in raw.parts.items()}
    moved = [f"{name} {old} -> {new}" for old, (name, new) in enumerate(zip(raw.classes, number, strict=True)) if old != new]
    note = f"labels are numbered by the model's names of classes ({', '.join(moved[:6])}{', ...' if len(moved) > 6 else ''})"
    return replace(raw, parts=parts, classes=names, notes=(*raw.notes, *([note] if moved else [])))


def _by_number(where: str, name: str, part: Part, number: np.ndarray[Any, Any]) -> Part:
    assert part.targets is not None
    first = array_of(where, f"y_{name}", part.targets[0], kinds="iu", wanted="labels")
    return Part(part.inputs, (number[first], *part.targets[1:]))


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").replace("-", " ").lower().split())
