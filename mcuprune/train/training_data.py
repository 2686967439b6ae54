"""The data set of a prune: which one it is, and that it goes with the network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mcuprune.data import loading as datasets
from mcuprune.data.augmenting import augmentation, default_for, mixup, refuse_beyond
from mcuprune.data.feed import Feed
from mcuprune.data.fitting import Wanted
from mcuprune.data.named import DATASETS
from mcuprune.data.sets import Data, Given
from mcuprune.errors import DataError, UsageError
from mcuprune.graph.network import Network
from mcuprune.options import AUTO
from mcuprune.train import preprocess
from mcuprune.train.goal import refuse_augmenting_several, target_checks, varied_by_default
from mcuprune.train.tasks.heads import answer_shape

_UNSAID = Feed()


def training_data(
    net: Network,
    given: Given | None,
    *,
    train: bool,
    seed: int,
    augment: str | None,
    feed: Feed = _UNSAID,
    task: str = AUTO,
    from_scratch: bool = False,
    unlabelled: bool = False,
) -> Data | None:
    """The data set, if there is one to use: the one that was given, or, to train on, the one that the network's file names.

    train: whether there is training to do. feed: what is said of preprocessing. seed: for splits.
    augment: as ``augmenting.augmentation`` takes it. task: of ``--task``.
    from_scratch: whether the network counts as untrained, so that its answers don't say how data is fed.
    unlabelled: whether targets that don't go with the network are left aside.
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
    refuse_augmenting_several(net, augment)
    wanted = wanted_of(net, seed=seed, task=task)
    fed = opened(net, named, wanted, feed, seed, from_scratch=from_scratch, unlabelled=unlabelled)
    varied = augment
    if augment in (None, "auto") and fed.data.name not in DATASETS:
        varied = default_for(fed.data.kind, wanted.inputs[0]) if varied_by_default(net) else None
    if not varied or varied == "none":
        return fed.data
    refuse_beyond(varied, wanted.inputs[0])
    return replace(fed.data, augment=augmentation(varied), varied=varied, mixup=mixup(varied))


def opened(
    net: Network, given: Given, wanted: Wanted, feed: Feed, seed: int, *, from_scratch: bool = False, unlabelled: bool = False
) -> preprocess.Fed:
    """What ``preprocess.opened`` gives; ``unlabelled``: without targets where these don't go with the network."""
    try:
        return preprocess.opened(net, given, wanted, feed, seed, from_scratch=from_scratch)
    except DataError:
        if not unlabelled:
            raise
    return preprocess.opened(net, given, replace(wanted, targets=()), feed, seed, from_scratch=from_scratch)


def wanted_of(net: Network, *, seed: int, task: str = AUTO) -> Wanted:
    """What a network takes and answers, for whoever reads data for it; targets may be missing.

    Raises DataError for a network whose inputs have no axis along which examples could lie.
    """
    for name in net.inputs:
        if len(shape := net.shapes[name]) > 1 and shape[0] != 1:
            raise DataError(
                f"{net.path}: input '{name}' {list(shape)} has no batch axis: its {shape[0]} rows are parts of one example, "
                "and data are fed example by example; export the model with a batch axis in front, or leave the data out"
            )
    return Wanted(
        inputs=tuple(net.shapes[name][1:] for name in net.inputs),
        targets=target_checks(net, task),
        n_classes=int(np.prod(answer_shape(net, net.outputs[0]))),
        seed=seed,
        unlabelled=True,
    )
