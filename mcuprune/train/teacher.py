"""What teaches beside the targets, or in their place: the network as it came, or another one from a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from mcuprune.channels.labelling import Channels
from mcuprune.data.sets import Split
from mcuprune.errors import DataError, UsageError
from mcuprune.graph import network
from mcuprune.train import evaluate
from mcuprune.train.goal import Goal, is_one_class
from mcuprune.train.module import Trainable, as_inputs
from mcuprune.train.tasks.heads import Head, answer_shape, heads, recognised
from mcuprune.train.tasks.objective import Objective

#: Bytes of answers that are kept; a teacher with more to say is asked anew at every step.
_KEPT = 2**30
#: The smallest positive number of float32 with all its digits, and its step below 1: no logarithm is taken nearer to 0.
_TINY, _EPSILON = np.finfo(np.float32).tiny, np.finfo(np.float32).epsneg


class Teacher:
    """Gives a batch's answers, of the tensors that losses are taken of.

    They are computed once, from examples as they are, where what augmentation does to an example changes no answer. Where it
    does (places that move), and where they would not fit in memory, the network is run on every batch as it is fed.

    examples: how many it has seen. misses: how wrong it is on all of them, summed; 0 where there are no targets.
    """

    def __init__(self, channels: Channels, train: Split, objective: Objective, *, varied: bool, device: str = "cpu") -> None:
        """varied: whether examples are varied before they are fed."""
        self._module = Trainable(channels).to(device).eval()
        self._module.want_answers(objective.heads)
        self._objective, self._device = objective, device
        self._stored: list[np.ndarray] | None = None
        self.misses = 0.0
        self.examples = len(train)
        size = sum(4 * self.examples * int(np.prod(kind.head.shape)) for kind in objective.kinds)
        keep = not (varied and objective.moves) and size <= _KEPT
        if not keep and train.targets is None:
            return
        parts: list[list[np.ndarray]] = [[] for _ in objective.kinds]
        for chosen in batches(self.examples, evaluate.batch_of([column.shape[1:] for column in train.inputs])):
            answers = self._asked([array[chosen] for array in train.inputs])
            if train.targets is not None:
                targets = [torch.from_numpy(np.asarray(array[chosen])).to(device) for array in train.targets]
                self.misses += objective.misses(answers, targets)
            if keep:
                for part, answer in zip(parts, answers, strict=True):
                    part.append(answer.cpu().numpy())
        if keep:
            self._stored = [np.concatenate(part) for part in parts]

    @classmethod
    def of_answers(cls, answers: Sequence[np.ndarray], train: Split, objective: Objective) -> Teacher:
        """A teacher of whom nothing is there but what it answered to every training example."""
        teacher = cls.__new__(cls)
        teacher._stored, teacher._objective, teacher._device, teacher.examples = list(answers), objective, "cpu", len(train)
        teacher.misses = 0.0
        if train.targets is not None:
            everything = [torch.from_numpy(np.asarray(array[np.arange(len(train))])) for array in train.targets]
            teacher.misses = objective.misses([torch.from_numpy(array) for array in answers], everything)
        return teacher

    @property
    def remembers(self) -> bool:
        """Whether it gives what it answered to examples as they are, whatever is fed."""
        return self._stored is not None

    def __call__(self, chosen: np.ndarray, inputs: Sequence[np.ndarray]) -> tuple[Tensor, ...]:
        """Its answers to a batch. chosen: which of the training examples. inputs: the same, as they are fed."""
        if self._stored is None:
            return self._asked(inputs)
        return tuple(torch.from_numpy(array[chosen]).to(self._device) for array in self._stored)

    @torch.no_grad()
    def _asked(self, inputs: Sequence[np.ndarray]) -> tuple[Tensor, ...]:
        return self._objective.answers(self._module(*as_inputs(self._module.source, inputs, self._device)))

    def sample(self, train: Split, count: int) -> list[np.ndarray]:
        """Its answers to some of the training examples, evenly taken."""
        chosen = np.unique(np.linspace(0, self.examples - 1, min(count, self.examples)).astype(np.int64))
        if self._stored is not None:
            return [array[chosen] for array in self._stored]
        size = evaluate.batch_of([column.shape[1:] for column in train.inputs])
        parts = [self._asked([array[chosen[i]] for array in train.inputs]) for i in batches(len(chosen), size)]
        return [torch.cat(each).cpu().numpy() for each in zip(*parts, strict=True)]


def batches(count: int, size: int) -> Iterator[np.ndarray]:
    """Indices of ``count`` examples in their order, ``size`` at a time."""
    for start in range(0, count, size):
        yield np.arange(start, min(count, start + size))


def of_file(path: str, aim: Goal) -> Teacher:
    """Another network as a teacher of classes: its logits for every training example, in onnxruntime.

    Raises ModelError for a file that can't be read or run, DataError for a network that doesn't go with the data, UsageError
    for one that knows nothing.
    """
    data = aim.data
    if not is_one_class(aim.objective) or not aim.labelled:
        raise DataError(f"--teacher {path}: another network teaches classifiers with labels; leave it out")
    net = network.load(path)
    if len(net.inputs) != 1 or not net.outputs:
        raise DataError(f"--teacher {path}: a teacher takes one input and answers with classes; its inputs: {net.inputs}")
    shape, answered = net.shapes[net.inputs[0]][1:], prod(answer_shape(net, net.outputs[0]))
    if shape != tuple(data.train.x.shape[1:]) or answered != data.n_classes:
        raise DataError(
            f"--teacher {path}: takes examples of {list(shape)} and knows {answered} classes; the data has examples of "
            f"{list(data.train.x.shape[1:])} and {data.n_classes} classes; name a network for the same data"
        )
    model = evaluate.Model(bytes(net.to_proto().SerializeToString()), name=path)
    answers = np.asarray(model(data.train.x), np.float32).reshape(len(data.train), -1)
    if not np.isfinite(answers).all():
        raise DataError(f"--teacher {path}: answers with values that are no finite numbers; name another network")
    frequent = float(np.bincount(data.train.y).max())
    if (right := int((answers.argmax(1) == data.train.y).sum())) <= frequent:
        raise UsageError(
            f"--teacher {path}: right on {right / len(answers):.1%} of the training examples, no more than naming the most "
            "frequent class; name a trained network, made for data that is scaled and ordered as yours is"
        )
    (head,) = recognised(heads(net)[:1], [answers.reshape(len(answers), *answer_shape(net, net.outputs[0]))])
    return Teacher.of_answers([_as_answers(aim.objective.heads[0], _logits(head, answers))], data.train, aim.objective)


def _logits(head: Head, outputs: np.ndarray) -> np.ndarray:
    """Logits of classes, (examples, classes), from what a network's output gives, as far as float32 kept them apart."""
    if head.ending in ("softmax", "shares"):
        return np.asarray(np.log(np.maximum(outputs, _TINY)))
    if head.ending in ("sigmoid", "units", "scores"):
        scores = np.clip(outputs, _TINY, 1 - _EPSILON)
        return np.asarray(np.log(scores) - np.log1p(-scores))
    return outputs


def _as_answers(head: Head, logits: np.ndarray) -> np.ndarray:
    """What a network with such an ending would answer, of the tensor that losses are taken of, with these logits."""
    if head.ending in ("shares", "scores", "units"):
        rows = torch.from_numpy(logits)
        return (rows.softmax(1) if head.ending == "shares" else rows.sigmoid()).numpy()
    return logits
