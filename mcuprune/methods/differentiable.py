"""Differentiable network pruning during training (Liberis & Lane, arXiv 2110.08350).

While the weights train, one width multiplier pi per group of tied channels is lowered by gradient steps every few training
steps: away from the budget (the gradient of the costs, section 3.1) and against the loss that the removed channels cause (the
gradient of the masks, Eq. 5-9). The most salient channels of each group stay unmasked; those masked for good are cut out on
the way, so that training costs less as the network shrinks.

Where a plain reading of the paper leaves the result to chance, this goes its own way, for reasons that were measured:

* *Pace.* The paper's fixed learning rate either saturates the clip (then all groups shrink alike: uniform scaling) or stalls
  before the budget. Here the gradients give the direction, and each update goes just as far as the schedule asks: every
  limited resource falls geometrically from its full cost to its limit over a part of the training.
* *Task gradient* in evaluation mode of BatchNormalization, with the statistics of the batch that it is taken on: were they to
  follow the gates, the loss would not feel a group's scale and Eq. 9 would nearly cancel; and the running ones lag behind
  the weights, so that at first a lower scale of anything lowers the loss, and no group seems worth its channels.
* *Protection by degrees.* The task gradient slows the shrinking of groups that it shields; it neither stops it nor asks others
  to shrink. One batch is noise more often than not, and one group that loses by chance loses for ever: a DS-CNN ended with one
  channel in a layer. So a running mean over updates counts, for as much as lasts: what changes its sign averages out. Half of
  every step is shared alike, and no group's multiplier falls below half of what uniform scaling would leave it. How much is
  shared alike matters little: with all of it (loss ``task``) a ResNet-8 and a DS-CNN come out within a point, ahead at one
  budget and behind at the next (studies.md, Losses and Trials).
* *Early.* On an untrained network most of the training belongs to the narrow network: what wide layers have learned is mostly
  lost when they narrow, the more the later it happens (tests/benchmarks/studies.md, Trials). A trained one starts at once.
* *Slack.* Every update lands on its targets from above, and what integer widths and bottlenecks leave is grown back at once.

Tried and not kept, for it came to the same widths or the same accuracy within noise (studies.md, Trials): channels chosen by
their Taylor expansion of the loss instead of the scale of BatchNormalization; multipliers of an augmented Lagrangian in place
of the random choice among violated resources; protection in full for whichever group the loss shields most, or shields most
beyond what it does to all groups alike. Where several steps tie at the peak, its gradient is the mean over them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from mcuprune import widths as allocation
from mcuprune.resources import Budget
from mcuprune.salience import salience
from mcuprune.task import Candidate, OnStep, Task
from mcuprune.training import Trainer, candidate, trainer_for

#: How much of a step the loss can take back from the group that it protects most (section 3.2: r, typically 2/3).
_TASK_SHARE = 2 / 3
#: The part of a step that all groups in focus share alike; the rest goes where a channel saves most.
_EVEN = 0.5
_TASK_MEMORY = 0.9
#: How often channels are physically cut during the pruning phase.
_EVENTS = 10
#: Where widths are not frozen at the budget, channels are chosen for the last time after this part of all steps.
_LAST_CHOICE = 0.8
#: Until the last cut, one masked channel in this many (and one more) stays, should its group be widened again.
_MARGIN = 4


class Widths:
    """The state of the outer optimisation.

    v: float (groups,); a group's multiplier is pi = exp(v), v <= 0 (section 3.4).
    widths: int64 (groups,); what the multipliers and the slack come to.
    progress: how much of the pruning phase is over, from 0 to 1.
    task: float (groups,); the running mean of dP_TSK / dpi, each measurement scaled to a largest entry of 1.
    """

    def __init__(self, task: Task) -> None:
        self.model, self.budget, self.multiple, self.search = task.model, task.budget, task.multiple_of, task.search
        model, budget = task.model, task.budget
        self.v = np.zeros(len(model.full))
        self.task = np.zeros(len(model.full))
        self.progress = 0.0
        self.widths = model.full
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

    def update(self, progress: float, present: np.ndarray, random: np.random.Generator) -> str | None:
        """Bring every resource to its target for this moment (Eq. 1 and 2): lower multipliers, then use the slack.

        present: int64 (groups,), channels that are still there; no group grows beyond. Returns a note for the user if the
        gradient steps alone did not get there.
        """
        self.progress = progress
        goal = self.targets(progress)
        note = None
        self._descend(goal, random)
        n = self.current()
        if not allocation.holds(self.model, n, goal):
            note = "the gradient steps ended above the budget; a greedy cut brought the network inside it"
        # A channel is worth what it adds to its group's width, more where the loss protects: narrow groups gain most.
        value = (1 + self._protection()) / np.maximum(n, 1)
        n = allocation.grow(self.model, n, goal, value, self.multiple, most=present)
        self.v = np.where(n == self.current(), self.v, np.log(np.maximum(n, 0.5) / np.maximum(self.model.full, 1)))
        self.widths = n
        return note

    def _descend(self, goal: Budget, random: np.random.Generator) -> None:
        """Steps along the gradients until every resource is at its goal."""
        for _ in range(8 * len(goal.limits)):
            over = goal.check(self.model.at(self.current())).excess
            if not over:
                return
            # Random scalarisation, Eq. 2: lambda ~ 1 / U(0, 1) chooses the objective, biased to what is violated most.
            ratios = goal.ratios(self.model.at(self.current()))
            draws = {name: ratios[name] / max(random.random(), 1e-9) for name in over}
            chosen = [max(draws, key=lambda name: draws[name])]
            self._towards(list(over) if self.search.objectives == "sum" else chosen, goal)

    def _protection(self) -> np.ndarray:
        """How much the loss shields each group, from 0 to 1 for one that it always shields most: float (groups,)."""
        return np.maximum(-self.task, 0.0) if self.search.loss != "resource" else np.zeros(len(self.task))

    def _towards(self, objectives: Sequence[str], goal: Budget) -> None:
        """One step along the combined gradient, just long enough to bring ``objectives`` to their goal."""
        n = self.current()
        # dP_RES / dv = dP_RES / dpi * pi, each resource in units of its goal
        of_resource = np.sum([self.model.gradient(name, n) * n / goal.limits[name] for name in objectives], axis=0)
        of_resource = np.where(n > self._floor, of_resource, 0.0)
        if not of_resource.any():
            return
        focus = of_resource > 0  # bystanders of a bottleneck stay as they are
        pull = _EVEN + (1 - _EVEN) * of_resource / of_resource.max()
        if self.search.loss == "task":
            pull = np.ones(len(n))
        share = 1.0 if self.search.loss == "task" else _TASK_SHARE
        direction = np.where(focus, pull * (1 - share * self._protection()), 0.0)
        far = 1.0
        single = Budget({name: goal.limits[name] for name in objectives})
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
    """dP_TSK / dpi by Eq. 9, float64 (groups,): the loss on (x, y) through the masks, spread by M(s, s0) = s / (s + s0).

    keep: bool (components,), what the masks leave. scores: float (components,), each one's salience.
    """
    module = trainer.module
    module.eval()
    module.norm_of_batch = True
    gates = trainer.tensor(keep.astype(np.float32)).requires_grad_()
    previous, module.gates = module.gates, gates
    loss = F.cross_entropy(trainer.logits(x), trainer.tensor(y))
    (of_mask,) = torch.autograd.grad(loss, gates)
    module.gates, module.norm_of_batch = previous, False
    per_component = of_mask.double().cpu().numpy()
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
    """Prune while training; the candidate's widths hold the budget and no single channel more would.

    Channels are masked at every update and physically gone at every ``_EVENTS``-th part of the pruning phase; between two
    cuts the masks follow salience, so a channel that recovers comes back.
    """
    model, data, schedule, multiple = task.model, task.data, task.schedule, task.multiple_of
    trainer = trainer_for(task, task.channels)
    outer = Widths(task)
    first, last = schedule.window(trainer.total)
    final = last if schedule.freeze else max(last, int(_LAST_CHOICE * trainer.total))
    keep = alive = task.channels.keep_all()  # what the masks leave, and what is physically there
    cut = allocation.holds(model, model.full, task.budget)
    notes: list[str] = []

    saved = task.checkpoint.load(_PHASE) if task.checkpoint else None
    if saved:
        keep, alive = saved.arrays["keep"], saved.arrays["alive"]
        cut, notes = bool(saved.values["cut"]), list(saved.values["notes"])
        outer.v, outer.task, outer.widths = (saved.arrays[name] for name in ("v", "task", "widths"))
        outer.progress = saved.values["progress"]
        trainer.restore(saved.arrays, task.channels.cut_channels(alive))
        trainer.module.gates = None if cut else trainer.tensor(keep[alive].astype(np.float32))
    at = model.at(task.channels.widths(keep))

    while trainer.step < trainer.total:
        loss = trainer.train_step()
        if not cut and trainer.step > first and (trainer.step % schedule.prune_every == 0 or trainer.step >= final):
            scores = np.zeros(len(keep))
            scores[alive] = salience(trainer.module.channels, trainer.module.network())
            random = np.random.default_rng((task.seed, trainer.step))
            chosen = random.choice(len(data.val.y), min(trainer.batch, len(data.val.y)), replace=False)
            outer.see_task(task_gradient(trainer, keep[alive], scores[alive], data.val.x[chosen], data.val.y[chosen]))
            before = outer.progress
            note = outer.update(min(1.0, (trainer.step - first) / (last - first)), task.channels.widths(alive), random)
            n = outer.widths
            cut = trainer.step >= final
            if cut:
                notes += [note] if note else []
            keep = task.channels.top(n, np.where(alive, scores, -np.inf))
            at = model.at(n)
            if cut or int(outer.progress * _EVENTS) > int(before * _EVENTS):
                spare = n if cut else np.minimum(-(-(n + n // _MARGIN + 1) // multiple) * multiple, task.channels.widths(alive))
                stay = task.channels.top(spare, np.where(alive, scores, -np.inf))
                trainer.shrink(stay[alive])
                alive = stay
            trainer.module.gates = None if cut else trainer.tensor(keep[alive].astype(np.float32))
            on_step(trainer.line(loss, at, "prune"))
        if trainer.step % trainer.steps_per_epoch == 0:
            phase = "train" if cut else "prune"
            on_step(trainer.line(loss, at, phase, data.val))
            if task.checkpoint:
                arrays = {
                    **trainer.state(),
                    "keep": keep,
                    "alive": alive,
                    "v": outer.v,
                    "task": outer.task,
                    "widths": outer.widths,
                }
                task.checkpoint.save(_PHASE, arrays, {"cut": cut, "notes": notes, "progress": outer.progress})
    return (candidate(trainer, task, keep, final, notes),)
