"""The data set of a prune: which one it is, and that it goes with the network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mcuprune.data import loading as datasets
from mcuprune.data.augmenting import augmentation, default_for
from mcuprune.data.feed import Feed
from mcuprune.data.fitting import classifier
from mcuprune.data.named import DATASETS
from mcuprune.data.sets import Data, Given
from mcuprune.errors import DataError, UsageError
from mcuprune.graph.network import Network
from mcuprune.train import preprocess

_UNSAID = Feed()


def training_data(
    net: Network, given: Given | None, *, train: bool, seed: int, augment: str | None, feed: Feed = _UNSAID
) -> Data | None:
    """The data set, if there is one to use: the one that was given, or, to train on, the one that the network's file names.

    train: whether there is training to do. feed: what is said of preprocessing. seed: for splits.
    augment: as ``augmenting.augmentation`` takes it.
    Raises UsageError where training needs a data set and none is named, DataError where it doesn't go with the network.
    """
    named = datasets.named(net.metadata) if given is None else given
    if named is None or (not train and given is None):
        if train:
            other = datasets.not_embedded(net.metadata)
            raise UsageError(
                f"{net.path}: what data should it train on? {f'{other}; ' if other else ''}"
                f"add --data NAME, --data FOLDER, --data FILE.npz or --data module:function (or cut without training: "
                "--no-train)"
            )
        return None
    n_classes = _classes(net)
    if len(net.inputs) != 1 or len(net.outputs) != 1:
        raise DataError(
            f"{net.path}: training takes a classifier with one input and one output of at least two classes; this one has "
            f"inputs {', '.join(net.inputs)} and outputs {', '.join(f'{o} {list(net.shapes[o])}' for o in net.outputs)}; "
            f"cut it without training: --no-train, and no --data"
        )
    wanted = classifier(net.shapes[net.inputs[0]][1:], n_classes, seed)
    fed = preprocess.opened(net, named, wanted, feed, seed)
    varied = (
        default_for(fed.data.kind, wanted.inputs[0]) if augment in (None, "auto") and fed.data.name not in DATASETS else augment
    )
    return replace(fed.data, augment=augmentation(varied), varied=varied) if varied and varied != "none" else fed.data


def _classes(net: Network) -> int:
    """How many classes a classifier's first output has. Raises DataError for what answers something else."""
    name = net.outputs[0]
    shape = net.shapes[name]
    if sum(size > 1 for size in shape[1:]) > 1:
        what = f"output '{name}' {list(shape)} is an answer for every place (segmentation, detection), not one for the example"
    elif int(np.prod(shape[1:])) == 1:
        what = f"output '{name}' {list(shape)} is a single number (regression, or one score for two classes)"
    else:
        return int(np.prod(shape[1:]))
    raise DataError(
        f"{net.path}: its {what}; what is trained and measured are classifiers of two classes or more. "
        "Cut and quantise it without training: --no-train, and no --data"
    )
