"""What a data set is: splits of examples, each a column of examples for every input and of targets for every output.

A ``Column`` is anything that gives the examples at given indices as one array. An array in memory is one; so is a view of a
file on disk that is decoded, converted and laid out only when asked (``columns``), so that no data set has to fit in memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any, NotRequired, Protocol, TypedDict

import numpy as np
from numpy.typing import ArrayLike

from mcuprune.data.preprocessing import Preprocessing
from mcuprune.immutable import immutable

#: Examples float32 (batch, ...) and a source of chance -> varied examples of the same shape.
Augment = Callable[[np.ndarray[Any, Any], np.random.Generator], np.ndarray[Any, Any]]
#: What a data set in memory is called.
IN_MEMORY = "arrays"


class Column(Protocol):
    """One value for each example, such as an image: like an array (n, *shape) of which only indexing can be asked."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, *shape)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what indexing gives."""

    def __len__(self) -> int:
        """How many examples there are."""

    def __getitem__(self, chosen: Any, /) -> Any:
        """The examples at an array of whole numbers, or of a slice: (batch, *shape) in memory."""


def _columns(given: Any) -> tuple[Column, ...]:
    return tuple(given) if isinstance(given, (tuple, list)) else (given,)


@immutable(init=False)
class Split:
    """Examples that belong together.

    inputs: one column for each input of the model, float32 (n, *the input's shape without the batch axis).
    targets: one column for each output, of a classifier int64 (n,) with labels 0...n_classes-1; None without labels.
    A column alone may be given for a tuple of one.
    """

    inputs: tuple[Column, ...]
    targets: tuple[Column, ...] | None

    def __init__(self, inputs: Column | Sequence[Column], targets: Column | Sequence[Column] | None = None) -> None:
        object.__setattr__(self, "inputs", _columns(inputs))
        object.__setattr__(self, "targets", None if targets is None else _columns(targets))

    def __len__(self) -> int:
        return len(self.inputs[0])

    @property
    def x(self) -> Column:
        """The column of the first input."""
        return self.inputs[0]

    @property
    def y(self) -> np.ndarray[Any, Any]:
        """The column of the first output: of a classifier int64 (n,), in memory."""
        assert self.targets is not None, "these examples have no labels"
        column = self.targets[0]
        return column if isinstance(column, np.ndarray) else column[:]


@immutable
class Boxes:
    """Objects in images: image and kind int64 (k,), the numbers of example and class; corners float32 (k, 4), left, top,
    right and bottom as shares of the image's width and height."""

    image: np.ndarray[Any, Any]
    kind: np.ndarray[Any, Any]
    corners: np.ndarray[Any, Any]


@immutable
class Data:
    """A data set that fits one model: every split is non-empty, finite, and of the model's input shapes.

    n_classes: how many classes labels name. classes: their names in the order of labels, where they are known.
    augment: varies training examples, batch by batch; None leaves them as they are. varied: how, as an option says it.
    mixup: how strongly training examples are mixed with each other, as ``augmenting.mixed`` takes it; 0 for not at all.
    kind: what examples are: "image", "audio", "series" or "" where nobody can tell. notes: what the user should know.
    boxes: objects in the images of each part that was stored ("train", "val", "test"), where a detector's data has them.
    preprocessing: how raw values become the first input, where it is known.
    """

    name: str
    train: Split
    val: Split
    test: Split
    n_classes: int
    augment: Augment | None = None
    classes: tuple[str, ...] = ()
    kind: str = ""
    notes: tuple[str, ...] = ()
    boxes: Mapping[str, Boxes] = field(default_factory=dict)
    preprocessing: Preprocessing | None = None
    varied: str = ""
    mixup: float = 0.0


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


#: What ``loading.load`` takes: a name, a path or ``module:function`` as text, or what is in memory.
Given = str | os.PathLike[str] | Mapping[str, Any] | Dataset
