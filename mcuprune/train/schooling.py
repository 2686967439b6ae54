"""An untrained network is trained whole for the first part of the compute, and teaches what is then pruned out of it.

What wide layers learn is mostly lost where they narrow before they have finished. The answers of a network that has finished
stay, for every example, at the price of running it once over the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from onnx import ModelProto

from mcuprune.channels.labelling import Channels
from mcuprune.data.sets import Data
from mcuprune.graph import network
from mcuprune.graph.network import Network
from mcuprune.immutable import immutable
from mcuprune.train import loop
from mcuprune.train.checkpoint import Saved
from mcuprune.train.loop import Hooks, State
from mcuprune.train.task import Candidate, OnStep, Step, Task
from mcuprune.train.tasks.objective import Objective
from mcuprune.train.teacher import Teacher
from mcuprune.train.trainer import Trainer, trainer_for

#: What states keep of it from its last step on: the network that teaches, as ONNX, and the account of its training.
_NETWORK, _ACCOUNT = "whole", "whole account"
#: A network that, after the first of these shares of its training, is wrong on more than the second of what the most frequent
#: class would be wrong on learns slowly. MobileNetV1 on persons does (0.45 to 0.59): while it became a teacher all the same,
#: what was pruned out of it was behind uniform scaling. DS-CNN on keywords doesn't (0.15 to 0.27).
_HALF, _WRONG = 0.5, 1 / 3
#: By then of the rest the narrow network has its widths.
_AT_ONCE = 0.05


class Whole(Hooks):
    """The network as it is, which just trains, until it turns out that it will not be worth the compute.

    slow: whether it is: from half of its training on it is wrong oftener than a teacher may be.
    """

    stage = "whole"

    def __init__(self, task: Task) -> None:
        self._task = task
        self._wrong = _WRONG * (1 - float(np.bincount(task.data.val.y).max()) / len(task.data.val))
        self.slow = False

    @property
    def over(self) -> bool:
        return self.slow

    def evaluated(self, trainer: Trainer, line: Step) -> None:
        assert line.accuracy is not None
        self.slow = trainer.length.share(trainer.position) >= _HALF and 1 - line.accuracy > self._wrong

    def state(self) -> State:
        return {}, {"slow": self.slow}

    def costs(self) -> Mapping[str, int]:
        return self._task.model.at(self._task.model.full)

    def restore(self, trainer: Trainer, saved: Saved) -> None:
        self.slow = saved.values["slow"]
        trainer.restore(saved.arrays, self._task.channels)


@immutable
class Schooled:
    """A network that was trained whole, labelled, and the steps and forward multiply-accumulates that this took.

    share: of that training's length, after which it ended. teaches: whether it learned fast enough for that.
    """

    channels: Channels
    steps: int
    training_macs: int
    share: float
    teaches: bool

    def left(self, task: Task) -> Task:
        """What is left of a task: to prune a trained network, which teaches where it can. task: with its objective."""
        assert task.objective is not None
        account = np.array([self.steps, self.training_macs, self.share, self.teaches], np.float64)
        kept = {**stored(self.channels.network), _ACCOUNT: account}
        checkpoint = None if task.checkpoint is None else replace(task.checkpoint, kept=kept)
        rest = replace(task, channels=self.channels, trained=True, checkpoint=checkpoint)
        if self.teaches:
            return replace(rest, answers=teacher(self.channels, task.data, task.objective, task.device))
        followed = replace(task.schedule, whole=self.share * task.schedule.whole, prune_start=0.0, prune_stop=_AT_ONCE)
        return replace(rest, schedule=followed)

    def accounted(self, candidate: Candidate, task: Task) -> Candidate:
        """What was pruned out of it, with this training in its account and a note of it. task: as ``left`` gave it."""
        note = f"trained whole for the first {task.schedule.whole:.0%} of float training, "
        if isinstance(task.answers, Teacher):
            known = 1 - task.answers.misses / max(1, task.answers.examples)
            note += f"until it was right on {known:.1%} of the training examples; it then taught what was pruned out of it"
        else:
            note += "where it learned too slowly to be worth more; nobody taught what was pruned out of it"
        return replace(
            candidate,
            training_macs=candidate.training_macs + self.training_macs,
            full_training_macs=candidate.full_training_macs + self.training_macs,
            steps=candidate.steps + self.steps,
            notes=(note, *candidate.notes),
            teacher=self.channels.network if self.teaches else None,
            schedule=task.schedule,
        )


def school(task: Task, on_step: OnStep) -> Schooled:
    """Train the task's network whole; one that an interrupted run had trained so is taken from its state."""
    if task.checkpoint is not None and (saved := task.checkpoint.load(loop.Method.stage)) is not None:
        known = of_state(saved.arrays, str(task.checkpoint.path))
        assert known is not None
        steps, macs, share, teaches = saved.arrays[_ACCOUNT].tolist()
        return Schooled(task.channels.with_network(known), int(steps), int(macs), share, bool(teaches))
    trainer, hooks = trainer_for(task, task.channels, stage="whole"), Whole(task)
    loop.train(trainer, hooks, task.data.val, on_step, task.checkpoint)
    share, channels = trainer.length.share(trainer.position), task.channels.with_network(trainer.module.network())
    return Schooled(channels, trainer.step, trainer.training_macs, share, not hooks.slow)


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
