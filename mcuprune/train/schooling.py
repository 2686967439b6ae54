"""An untrained network is trained whole for the first part of the compute, and teaches what is then pruned out of it.

What wide layers learn is mostly lost where they narrow before they have finished. The answers of a network that has finished
stay, for every example, at the price of running it once over the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from onnx import ModelProto

from mcuprune.channels.labelling import Channels
from mcuprune.data.sets import Data
from mcuprune.graph import network
from mcuprune.graph.network import Network
from mcuprune.train import loop
from mcuprune.train.checkpoint import Saved
from mcuprune.train.loop import Hooks
from mcuprune.train.task import Candidate, OnStep, Task
from mcuprune.train.tasks.objective import Objective
from mcuprune.train.teacher import Teacher
from mcuprune.train.trainer import Trainer, trainer_for

#: What states keep of it from its last step on: the network that teaches, as ONNX, and the account of its training.
_NETWORK, _ACCOUNT = "whole", "whole account"


class Whole(Hooks):
    """The network as it is, which just trains."""

    stage = "whole"

    def __init__(self, task: Task) -> None:
        self._task = task

    def costs(self) -> Mapping[str, int]:
        return self._task.model.at(self._task.model.full)

    def restore(self, trainer: Trainer, saved: Saved) -> None:
        trainer.restore(saved.arrays, self._task.channels)


@dataclass(frozen=True)
class Schooled:
    """A network that was trained whole, labelled, and the steps and forward multiply-accumulates that this took."""

    channels: Channels
    steps: int
    training_macs: int

    def left(self, task: Task) -> Task:
        """What is left of a task: to prune a trained network, which teaches. task: with its objective."""
        assert task.objective is not None
        kept = {**stored(self.channels.network), _ACCOUNT: np.array([self.steps, self.training_macs])}
        return replace(
            task,
            channels=self.channels,
            trained=True,
            answers=teacher(self.channels, task.data, task.objective, task.device),
            checkpoint=None if task.checkpoint is None else replace(task.checkpoint, kept=kept),
        )

    def accounted(self, candidate: Candidate, task: Task) -> Candidate:
        """What was pruned out of it, with this training in its account and a note of it. task: as ``left`` gave it."""
        assert isinstance(task.answers, Teacher)
        known = 1 - task.answers.misses / max(1, task.answers.examples)
        note = (
            f"trained whole for the first {task.schedule.whole:.0%} of float training, until it was right on {known:.1%} of "
            "the training examples; it then taught the network that was pruned out of it"
        )
        return replace(
            candidate,
            training_macs=candidate.training_macs + self.training_macs,
            full_training_macs=candidate.full_training_macs + self.training_macs,
            steps=candidate.steps + self.steps,
            notes=(note, *candidate.notes),
            teacher=self.channels.network,
        )


def school(task: Task, on_step: OnStep) -> Schooled:
    """Train the task's network whole; one that an interrupted run had trained so is taken from its state."""
    if task.checkpoint is not None and (saved := task.checkpoint.load(loop.Method.stage)) is not None:
        known = of_state(saved.arrays, str(task.checkpoint.path))
        assert known is not None
        steps, macs = (int(value) for value in saved.arrays[_ACCOUNT])
        return Schooled(task.channels.with_network(known), steps, macs)
    trainer = trainer_for(task, task.channels, stage="whole")
    loop.train(trainer, Whole(task), task.data.val, on_step, task.checkpoint)
    return Schooled(task.channels.with_network(trainer.module.network()), trainer.step, trainer.training_macs)


def stored(whole: Network | None) -> dict[str, np.ndarray]:
    """What a state keeps of a network that was trained whole; nothing where none was."""
    return {} if whole is None else {_NETWORK: np.frombuffer(whole.to_proto().SerializeToString(), np.uint8)}


def of_state(arrays: Mapping[str, np.ndarray], path: str) -> Network | None:
    """The network that ``stored`` gave; None where there is none. path: of the state, for messages."""
    if _NETWORK not in arrays:
        return None
    proto = ModelProto()
    proto.ParseFromString(arrays[_NETWORK].tobytes())
    return network.from_proto(proto, path)


def teacher(channels: Channels, data: Data, objective: Objective, device: str) -> Teacher:
    """A network as a teacher of what is pruned out of it."""
    return Teacher(channels, data.train, objective, varied=data.augment is not None, device=device)
