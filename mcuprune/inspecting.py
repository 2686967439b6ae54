"""What a data set is to a network, without any training: counts, ranges, how it will be fed, what the network says of it."""

from __future__ import annotations

from contextlib import suppress
from math import prod
from typing import Any

import numpy as np

from mcuprune.data.columns import Fed as FedColumn
from mcuprune.data.columns import Taken, taken
from mcuprune.data.feed import Feed
from mcuprune.data.fitting import Wanted
from mcuprune.data.preprocessing import LAYOUTS
from mcuprune.data.sets import Given
from mcuprune.errors import MissingExtra
from mcuprune.graph.network import Network
from mcuprune.immutable import immutable
from mcuprune.options import AUTO
from mcuprune.passes.inputs import with_float_inputs
from mcuprune.train import evaluate, feeding, head, preprocess
from mcuprune.train.goal import goal, is_one_class, target_checks
from mcuprune.train.preprocess import Fed
from mcuprune.train.tasks.heads import answer_shape

Array = np.ndarray[Any, Any]
#: Examples that ranges are taken of, and that the network is asked about.
_RANGED, _ASKED = 2000, 1000
#: Of a contact sheet: rows, examples of a row, and the least size of one in pixels.
_ROWS, _COLUMNS, _LEAST = 12, 10, 48
_GAP = 2


@immutable
class Range:
    """Of values, over at most so many examples; mean and std one for each channel where there are channels."""

    low: float
    high: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


@immutable
class Inspection:
    """A data set as one network takes it.

    path: the network's file. stored: values as they are stored, of type ``dtype``; fed: as they reach the network.
    counts: by part the number of examples, and of each class where there are labels.
    accuracy: of the network on ``asked`` test examples; None where it gives no classes or there are no labels.
    task: what the targets are for, as training would take them; None where there are none.
    confusion: int64 (classes, classes). trained: whether the network knows the classes; fresh: whether it was never trained.
    """

    path: str
    input: str
    shape: tuple[int, ...]
    opened: Fed
    dtype: str
    stored: Range
    fed: Range
    counts: dict[str, tuple[int, tuple[int, ...] | None]]
    accuracy: float | None
    asked: int
    task: str | None
    confusion: Array | None
    trained: bool
    fresh: bool
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against training on this data: a trained network knows it, and by the same numbers."""
        return self.opened.labels is None and (self.trained or self.fresh or self.accuracy is None)


def inspect(net: Network, given: Given, feed: Feed, seed: int = 0) -> Inspection:
    """Look at a data set with the eyes of a network. Raises what opening it raises; nothing is trained, nothing is written."""
    net, retyped = with_float_inputs(net)
    shape = net.shapes[net.inputs[0]][1:]
    classes = _classes(net)
    inputs = tuple(net.shapes[name][1:] for name in net.inputs)
    wanted = Wanted(inputs, target_checks(net, AUTO), classes or prod(answer_shape(net, net.outputs[0])), seed, unlabelled=True)
    opened = preprocess.opened(net, given, wanted, feed, seed)
    data = opened.data
    task = None
    with suppress(MissingExtra):  # without the packages that train the network isn't asked
        aim = goal(net, data, task=AUTO, unlabelled=False)  # refuses what training would
        classes = classes if aim.labelled and is_one_class(aim.objective) else 0
        task = aim.objective.title if aim.labelled else None
    some = np.sort(np.random.default_rng(seed).permutation(len(data.train))[:_RANGED])
    raw, column = _raw(data.train.x)
    counts = {
        name: (len(split), _counted(split, classes))
        for name, split in (("train", data.train), ("val", data.val), ("test", data.test))
    }
    confusion, notes = _asked(net, opened, classes) if classes and len(net.inputs) == 1 else (None, ())
    return Inspection(
        path=net.path,
        input=net.inputs[0],
        shape=shape,
        opened=opened,
        dtype=str(column.dtype),
        stored=_range(np.asarray(raw[some]), column.shape[-1] in (1, 3) and len(column.shape) == 4),
        fed=_range(data.train.x[some], opened.preprocessing.layout == LAYOUTS[4][1]),
        counts=counts,
        accuracy=None if confusion is None else confusion.accuracy,
        asked=0 if confusion is None else confusion.n,
        task=task,
        confusion=None if confusion is None else confusion.counts,
        trained=confusion is not None and confusion.trained and _shows(net, opened, confusion.accuracy),
        fresh=feeding.looks_fresh(net),
        notes=(*retyped, *opened.notes, *notes),
    )


def _classes(net: Network) -> int:
    """How many classes the only output names; 0 where outputs are something else."""
    shape = answer_shape(net, net.outputs[0])
    count = prod(shape)
    return count if len(net.outputs) == 1 and count > 1 and max(shape) == count else 0


def _raw(column: Any) -> tuple[Any, Any]:
    """A column of examples as they are stored, and the column that they lie in."""
    if isinstance(column, FedColumn):
        return column.source, column.source
    if isinstance(column, Taken):
        inner, stored = _raw(column.source)
        return _At(inner, column.indices), stored
    return column, column


class _At:
    """Stored examples at chosen places."""

    def __init__(self, inner: Any, indices: Array) -> None:
        self._inner, self._indices = inner, indices

    def __getitem__(self, chosen: Any) -> Array:
        return np.asarray(self._inner[self._indices[chosen]])


def _counted(split: Any, classes: int) -> tuple[int, ...] | None:
    if split.targets is None or not classes:
        return None
    return tuple(np.bincount(split.y, minlength=classes).tolist())


def _range(x: Array, channels_last: bool) -> Range:
    axes = tuple(range(x.ndim - 1)) if channels_last else (0, *range(2, x.ndim)) if x.ndim > 2 and x.shape[1] <= 4 else None
    mean, std = (np.ravel(getattr(x, name)(axes, dtype=np.float64)) for name in ("mean", "std"))
    return Range(float(x.min()), float(x.max()), tuple(mean.tolist()), tuple(std.tolist()))


def _asked(net: Network, opened: Fed, classes: int) -> tuple[feeding.Confusion | None, tuple[str, ...]]:
    test = opened.data.test
    if test.targets is None:
        return None, ()
    some = np.sort(np.random.default_rng(0).permutation(len(test))[:_ASKED])
    try:
        model = evaluate.Model(bytes(net.to_proto().SerializeToString()), name=net.path)
    except MissingExtra as error:
        return None, (f"what the model says of it is left out: {error}",)
    return feeding.Confusion.of(model(taken(test.x, some)), test.y[some], classes), ()


def _shows(net: Network, opened: Fed, right: float) -> bool:
    """Whether the network's weights say, too, that it knows the classes (``head.shows``)."""
    test = opened.data.test
    some = np.sort(np.random.default_rng(0).permutation(len(test))[: head.EXAMPLES])
    return head.shows(net, np.asarray(taken(test.x, some)[:]), test.y[some], opened.data.n_classes, right=right)


def sheet(seen: Inspection) -> Array:
    """uint8 (height, width, 3): a contact sheet of training examples as they are stored, one row a class."""
    train = seen.opened.data.train
    raw, _ = _raw(train.x)
    if train.targets is not None and seen.counts["train"][1] is not None:
        rows = [np.flatnonzero(train.y == label)[:_COLUMNS] for label in range(min(_ROWS, seen.opened.data.n_classes))]
    else:
        first = np.arange(min(len(train), _ROWS * _COLUMNS))
        rows = [first[start : start + _COLUMNS] for start in range(0, len(first), _COLUMNS)]
    low, span = seen.stored.low, max(seen.stored.high - seen.stored.low, 1e-9)
    tiles = [[_tile((np.asarray(raw[np.array([at])])[0] - low) / span) for at in row] for row in rows]
    height, width = next(tile.shape[:2] for row in tiles for tile in row)
    whole = np.full((len(tiles) * (height + _GAP), _COLUMNS * (width + _GAP), 3), 255, np.uint8)
    for y, row in enumerate(tiles):
        for x, tile in enumerate(row):
            top, left = y * (height + _GAP), x * (width + _GAP)
            whole[top : top + height, left : left + width] = tile
    return whole


def _tile(example: Array) -> Array:
    """One example in 0...1 as a picture: colours as they are, a series as a map of grey, drawn larger where it is small."""
    example = np.squeeze(example)
    if example.ndim == 3 and example.shape[0] == 3 != example.shape[-1]:
        example = example.transpose(1, 2, 0)
    if example.ndim == 3 and example.shape[-1] != 3:
        example = example[..., 0] if example.shape[-1] < example.shape[0] else example[0]
    if example.ndim < 2:
        example = np.atleast_2d(example).repeat(16, 0)[:, :512]
    pixels = example if example.ndim == 3 else np.repeat(example[..., None], 3, -1)
    times = max(1, -(-_LEAST // max(pixels.shape[:2])))
    tile = np.clip(np.round(pixels * 255), 0, 255).astype(np.uint8)
    return tile.repeat(times, 0).repeat(times, 1)
