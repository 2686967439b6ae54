"""What teaches beside the labels: the network as it came, or another one from a file."""

from __future__ import annotations

from math import prod

import numpy as np

from mcuprune.channels.labelling import Channels
from mcuprune.data.sets import Data
from mcuprune.errors import DataError, UsageError
from mcuprune.graph import network
from mcuprune.train import evaluate
from mcuprune.train.request import Request


def answers(request: Request, labelled: Channels, data: Data, accuracy: float, *, warm: bool) -> np.ndarray | None:
    """A teacher's logits for every training example, float32 (examples, classes); None where labels alone are to teach.

    labelled: the network before any channel goes. accuracy: its own, on the test set. warm: whether it comes trained.
    Raises UsageError where the user wants a teacher who knows nothing, DataError for one that doesn't go with the data.
    """
    if request.teacher is not None:
        return _of_file(request.teacher, data)
    if request.distill and not warm:
        raise UsageError(
            f"{request.model}: --distill needs a trained network to learn from; "
            f"this one is right on {accuracy:.1%} of the test set"
        )
    if not warm or request.distill is False:
        return None
    from mcuprune.train.trainer import answers_of

    return answers_of(labelled, data.train.x, request.device)


def _of_file(path: str, data: Data) -> np.ndarray:
    """Another network's logits, in onnxruntime. Raises ModelError for a file that can't be read or run."""
    net = network.load(path)
    if len(net.inputs) != 1 or not net.outputs:
        raise DataError(f"--teacher {path}: a teacher takes one input and answers with classes; its inputs: {net.inputs}")
    shape, answered = net.shapes[net.inputs[0]][1:], prod(net.shapes[net.outputs[0]][1:])
    if shape != data.train.x.shape[1:] or answered != data.n_classes:
        raise DataError(
            f"--teacher {path}: takes examples of {list(shape)} and knows {answered} classes; the data has examples of "
            f"{list(data.train.x.shape[1:])} and {data.n_classes} classes; name a network for the same data"
        )
    model = evaluate.Model(bytes(net.to_proto().SerializeToString()), name=path)
    found = np.asarray(model(data.train.x), np.float32).reshape(len(data.train.y), -1)
    if not np.isfinite(found).all():
        raise DataError(f"--teacher {path}: answers with values that are no finite numbers; name another network")
    frequent = float(np.bincount(data.train.y).max())
    if (right := int((found.argmax(1) == data.train.y).sum())) <= frequent:
        raise UsageError(
            f"--teacher {path}: right on {right / len(found):.1%} of the training examples, no more than naming the most "
            "frequent class; name a trained network, made for data that is scaled and ordered as yours is"
        )
    return found
