"""Differentiable network pruning during training (Liberis & Lane, arXiv 2110.08350).

While the weights train, one width multiplier pi per group of tied channels is lowered by gradient steps every few training
steps: away from the budget (the gradient of the costs, section 3.1) and against the loss that the removed channels cause (the
gradient of the masks, Eq. 5-9). The most salient channels of each group stay unmasked. When the budget holds, the network is
cut and training goes on with the small one.

Where a plain reading of the paper leaves the result to chance, this goes its own way, for reasons that were measured:

* *Pace.* The paper's fixed learning rate either saturates the clip (then all groups shrink alike: uniform scaling) or stalls
  before the budget. Here the gradients give the direction, and each update goes just as far as the schedule asks: every
  limited resource falls geometrically from its full cost to its limit over ``prune_share`` of the training.
* *Task gradient* in evaluation mode of BatchNormalization: with batch statistics the loss does not feel a group's scale and
  Eq. 9 nearly cancels. One batch is noisy, so a running mean over updates is used.
* *Protection only.* The task gradient shields groups from shrinking; it never asks a group to shrink. Its sign is noise more
  often than not, and one group that loses by chance loses for ever: layers collapsed to one channel.
* *Floor.* No group falls below half of what uniform scaling would leave it, for the same reason.
* *Overshoot.* The last update lands on the budget from above, and slack that integer widths leave is grown back.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from mcuprune import widths as allocation
from mcuprune.resources import Budget
from mcuprune.salience import salience
from mcuprune.task import Candidate, OnStep, Step, Task
from mcuprune.training import Trainer, trainer_for

#: Upper end of the clip of a multiplier's gradient (section 4), and the share of it that the task loss gets (r = 2/3).
_CLIP = 0.025
_TASK_SHARE = 2 / 3
_TASK_MEMORY = 0.8
_TASK_BATCH = 256


class Widths:
    """The state of the outer optimisation.

    v: float (groups,); a group's multiplier is pi = exp(v), v <= 0 (section 3.4).
    task: float (groups,); the running mean of dP_TSK / dpi, each measurement scaled to a largest entry of 1.
    """

    def __init__(self, task: Task) -> None:
        self.model, self.budget, self.multiple = task.model, task.budget, task.multiple_of
        model, budget = task.model, task.budget
        self.v = np.zeros(len(model.full))
        self.task = np.zeros(len(model.full))
        self._start = model.at(model.full)
        self._floor = np.maximum(model.least, (allocation.uniform(model, budget, self.multiple) + 1) // 2)

    def current(self, v: np.ndarray | None = None) -> np.ndarray:
        """n = max(1, floor(pi C)): int64 (groups,)."""
        widths = allocation.floor(self.model, np.exp(self.v if v is None else v), self.multiple)
        return np.asarray(np.maximum(widths, self._floor))

    def targets(self, progress: float) -> Budget:
        """What each resource should cost at this share of the pruning phase."""
        return Budget(
            {
                name: int(limit * max(1.0, self._start[name] / limit) ** (1 - progress))
                for name, limit in self.budget.limits.items()
            }
        )

    def see_task(self, gradient: np.ndarray) -> None:
        """Take in a new measurement of dP_TSK / dpi (groups,), weighted against those before it."""
        size = np.abs(gradient).max(initial=0.0)
        if size > 0:
            self.task = _TASK_MEMORY * self.task + (1 - _TASK_MEMORY) * gradient / size

    def update(self, progress: float, random: np.random.Generator) -> None:
        """Lower the multipliers until every resource is at its target for this moment (Eq. 1 and 2)."""
        goal = self.targets(progress)
        for _ in range(8 * len(goal.limits)):
            over = goal.check(self.model.at(self.current())).excess
            if not over:
                return
            # Random scalarisation, Eq. 2: lambda ~ 1 / U(0, 1) chooses the objective, biased to what is violated most.
            ratios = goal.ratios(self.model.at(self.current()))
            draws = {name: ratios[name] / max(random.random(), 1e-9) for name in over}
            self._towards(max(draws, key=lambda name: draws[name]), goal)

    def _towards(self, resource: str, goal: Budget) -> None:
        """One step along the combined gradient, just long enough to bring ``resource`` to its goal."""
        n = self.current()
        of_resource = self.model.gradient(resource, n) * self.model.full / self.budget.limits[resource]
        of_resource = np.where(n > self._floor, of_resource, 0.0)
        if not of_resource.any():
            return
        scale = _CLIP / of_resource.max()
        protection = np.minimum(self.task, 0.0)
        combined = np.clip(scale * of_resource + _TASK_SHARE * _CLIP * protection, 0.0, _CLIP)
        combined[of_resource <= 0] = 0.0  # focus regime: bystanders of a bottleneck stay as they are
        if not combined.any():
            combined = scale * of_resource
        direction = combined * np.exp(self.v) / _CLIP
        far = 1.0
        single = Budget({resource: goal.limits[resource]})
        while not allocation.holds(self.model, self.current(self.v - far * direction), single):
            far *= 2
            if far > 1e4:
                break
        near = 0.0
        for _ in range(24):
            middle = (near + far) / 2
            if allocation.holds(self.model, self.current(self.v - middle * direction), single):
                far = middle
            else:
                near = middle
        self.v = self.v - far * direction


def task_gradient(trainer: Trainer, keep: np.ndarray, scores: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """dP_TSK / dpi by Eq. 9, float64 (groups,): the loss on (x, y) through the masks, spread by M(s, s0) = s / (s + s0)."""
    module = trainer.module
    module.eval()
    gates = torch.from_numpy(keep.astype(np.float32)).requires_grad_()
    previous, module.gates = module.gates, gates
    loss = F.cross_entropy(trainer.logits(x), torch.from_numpy(y))
    (of_mask,) = torch.autograd.grad(loss, gates)
    module.gates = previous
    per_component = of_mask.double().numpy()
    found = np.zeros(len(module.channels.groups))
    for index, group in enumerate(module.channels.groups):
        ids = np.array(group.components)
        s = np.maximum(scores[ids], 1e-12)
        kept = np.sort(s[keep[ids]])
        s0 = kept[0] if len(kept) else s.max()  # the threshold: the least salient channel that stays
        slope = s / (s + s0) ** 2  # |dM / ds0|
        found[index] = len(ids) * float((per_component[ids] * slope).sum() / slope.sum())
    return found


_PHASE = "float"


def prune(task: Task, on_step: OnStep) -> tuple[Candidate, ...]:
    """Prune while training; the candidate's widths hold the budget and no single channel more would."""
    model, data = task.model, task.data
    trainer = trainer_for(task, task.channels)
    outer = Widths(task)
    last = max(1, int(task.schedule.prune_share * trainer.total))
    every = max(1, min(task.schedule.prune_every, last // 20))
    keep = task.channels.keep_all()
    cut = allocation.holds(model, model.full, task.budget)
    notes: list[str] = []

    saved = task.checkpoint.load(_PHASE) if task.checkpoint else None
    if saved:
        keep, cut, notes = saved.arrays["keep"], bool(saved.values["cut"]), list(saved.values["notes"])
        outer.v, outer.task = saved.arrays["v"], saved.arrays["task"]
        trainer.restore(saved.arrays, task.channels.cut_channels(keep) if cut else task.channels)
        trainer.module.gates = None if cut else torch.from_numpy(keep.astype(np.float32))
    at = model.at(task.channels.widths(keep))

    while trainer.step < trainer.total:
        loss = trainer.train_step()
        if not cut and (trainer.step % every == 0 or trainer.step >= last):
            scores = salience(task.channels, trainer.module.network())
            random = np.random.default_rng((task.seed, trainer.step))
            chosen = random.choice(len(data.val.y), min(_TASK_BATCH, len(data.val.y)), replace=False)
            outer.see_task(task_gradient(trainer, keep, scores, data.val.x[chosen], data.val.y[chosen]))
            outer.update(min(1.0, trainer.step / last), random)
            n = outer.current()
            cut = trainer.step >= last
            if cut:
                n, note = _settle(task, n)
                notes += note
            keep = task.channels.top(n, scores)
            at = model.at(n)
            trainer.module.gates = torch.from_numpy(keep.astype(np.float32))
            on_step(Step(trainer.step, trainer.epoch, loss, **at, phase="prune", epochs=trainer.epochs))
            if cut:
                trainer.module.gates = None
                trainer.shrink(keep)
        if trainer.step % trainer.steps_per_epoch == 0:
            accuracy = trainer.accuracy(data.val)
            on_step(
                Step(
                    trainer.step,
                    trainer.epoch,
                    loss,
                    **at,
                    accuracy=accuracy,
                    phase="train" if cut else "prune",
                    epochs=trainer.epochs,
                )
            )
            if task.checkpoint:
                arrays = {**trainer.state(), "keep": keep, "v": outer.v, "task": outer.task}
                task.checkpoint.save(_PHASE, arrays, {"cut": cut, "notes": notes})
    channels = trainer.module.channels.with_network(trainer.module.network())
    full = model.sums(model.full)["macs"] * trainer.batch * trainer.total
    return (Candidate(channels, keep, trainer.training_macs, full, tuple(notes)),)


def _settle(task: Task, n: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Widths on the budget: a greedy cut should the gradient steps have ended above it, then growth into what is left."""
    notes = []
    model, budget, multiple = task.model, task.budget, task.multiple_of
    if not allocation.holds(model, n, budget):
        notes.append("the gradient steps ended above the budget; a greedy cut brought the network inside it")
        n = allocation.cut_into(model, n, budget, np.ones(len(n)), multiple)
    # A channel is worth what it adds to its group's width: narrow groups gain most.
    return allocation.grow(model, n, budget, 1.0 / np.maximum(n, 1), multiple), notes
