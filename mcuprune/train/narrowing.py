"""The float half of a prune: BatchNormalization restored, a pruning method run, statistics settled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mcuprune.channels.labelling import Channels
from mcuprune.costs import widths
from mcuprune.graph.network import Network
from mcuprune.passes import batchnorm as folding
from mcuprune.train import loop, methods, schooling
from mcuprune.train.module import Trainable
from mcuprune.train.task import Candidate, OnStep, Task
from mcuprune.train.trainer import output_moments, reestimated

#: After so many steps at its final width a network's BatchNormalization statistics have caught up with its weights.
_SETTLED = 50


def normalized(channels: Channels, examples: np.ndarray | Sequence[np.ndarray], device: str = "cpu") -> Network:
    """The network with a BatchNormalization behind every convolution that has none; it computes the same.

    examples: float32 (examples, ...), one array for each input, on which the statistics are measured.
    """
    nodes = folding.candidates(channels.network)
    moments = output_moments(Trainable(channels).to(device), {node.outputs[0] for node in nodes}, examples)
    return folding.restored(channels.network, {node.name: moments[node.outputs[0]] for node in nodes})


def narrowed(method: str, task: Task, calibration: Sequence[np.ndarray], on_step: OnStep) -> Candidate:
    """What a method makes of a task, ready to be folded.

    method: of ``methods.METHODS``. calibration: examples (examples, ...) for each input, to measure BatchNormalization's
    statistics on where the method left too few steps after its last cut for them to follow.
    """
    model = task.model
    candidate = (
        _taught(method, task, on_step) if task.schedule.whole else loop.prune(methods.METHODS[method].make, task, on_step)
    )
    if wider := widths.could_grow(model, model.channels.widths(candidate.keep), task.budget, task.multiple_of):
        names = [model.channels.groups[group].name for group in wider]
        note = (
            f"method {method} leaves some slack: {len(names)} of {len(model.full)} groups could be wider within the "
            f"budget: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
        )
        candidate = replace(candidate, notes=(*candidate.notes, note))
    if candidate.settled < _SETTLED:
        settled = reestimated(candidate.channels, calibration, task.schedule.batch, task.device)
        candidate = replace(candidate, channels=settled)
    return candidate


def _taught(method: str, task: Task, on_step: OnStep) -> Candidate:
    """What a method makes of a network that is trained whole first, and then teaches."""
    known = schooling.school(task, on_step)
    task = known.left(task)
    per_epoch = max(1, len(task.data.train) // task.schedule.batch)
    counted = loop.counted_on(on_step, known.steps, known.training_macs, per_epoch)
    candidate = loop.prune(methods.METHODS[method].make, task, counted, known.steps)
    return known.accounted(candidate, task)


def untrained(module: Trainable) -> list[str]:
    """A note, where there is something to note, on constants that training leaves as they are."""
    fixed = module.untrained()
    more = ", ..." if len(fixed) > 5 else ""
    return [f"training leaves these constants as they are: {', '.join(fixed[:5])}{more}"] if fixed else []
