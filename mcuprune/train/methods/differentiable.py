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
  Where compute is scarce beside the data, no step is spent wide at all: widths are halfway between uniform ones, grown into
  what these leave of the budget as far as compute allows, and those of ``at_init``, weights are drawn anew for them
  (``rectify``), and images are smaller at first (``smaller``; compute.md).
* *Slack.* Every update lands on its targets from above, and what integer widths and bottlenecks leave is grown back at once.

Tried and not kept, for it came to the same widths or the same accuracy within noise (studies.md, Trials): channels chosen by
their Taylor expansion of the loss instead of the scale of BatchNormalization; multipliers of an augmented Lagrangian in place
of the random choice among violated resources; protection in full for whichever group the loss shields most, or shields most
beyond what it does to all groups alike. Where several steps tie at the peak, its gradient is the mean over them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mcuprune.channels.labelling import Channels
from mcuprune.channels.salience import salience
from mcuprune.costs import widths as allocation
from mcuprune.costs.resources import Budget, CostModel
from mcuprune.errors import ModelError
from mcuprune.train import at_init, ranks
from mcuprune.train.checkpoint import Saved
from mcuprune.train.loop import Method, State
from mcuprune.train.module import Trainable
from mcuprune.train.task import UPDATES, Search, Task
from mcuprune.train.trainer import Trainer

#: How much of a step the loss can take back from the group that it protects most (section 3.2: r, typically 2/3).
_TASK_SHARE = 2 / 3
#: The part of a step that all groups in focus share alike; the rest goes where a channel saves most.
_EVEN = 0.5
_TASK_MEMORY = 0.9
#: Where multipliers fall at a fixed rate: the largest gradient (appendix A).
_CLIP = 0.025
#: How often channels are physically cut during the pruning phase.
_EVENTS = 10
#: Where widths are not frozen at the budget, channels are chosen for the last time after this part of all steps.
_LAST_CHOICE = 0.8
#: Until the last cut, one masked channel in this many (and one more) stays, should its group be widened again.
_MARGIN = 4
#: A network that is narrow from its first step on is grown as far as it gets so many steps: a ResNet-8 whose SRAM binds was
#: 1.8 points ahead of uniform widths with 1,500 of them and 2 behind with 400, a MobileNetV1 3 behind with 600 (studies.md,
#: Trials).
_STEPS_TO_LEARN = 1500


class Widths:
    """The state of the outer optimisation.

    v: float (groups,); a group's multiplier is pi = exp(v), v <= 0 (section 3.4).
    widths: int64 (groups,); what the multipliers and the slack come to.
    progress: how much of the pruning phase is over, from 0 to 1.
    task: float (groups,); the running mean of dP_TSK / dpi, each measurement scaled to a largest entry of 1.
    """

    def __init__(self, model: CostModel, budget: Budget, multiple: int = 1, search: Search | None = None) -> None:
        self.model, self.budget, self.multiple, self.search = model, budget, multiple, search or Search()
        self.v = np.zeros(len(model.full))
        self.task = np.zeros(len(model.full))
        self.progress = 0.0
        self.widths = model.full
        self._start = model.at(model.full)
        half = (allocation.uniform(model, budget, self.multiple) + 1) // 2
        self._floor = np.maximum(model.least, half) if self.search.floor == "uniform" else model.least
        self.alpha = (0.0, 0.0)

    def state(self) -> State:
        """What ``restore`` takes up."""
        values = {"progress": self.progress, "alpha": self.alpha}
        return {"v": self.v, "task": self.task, "widths": self.widths}, values

    def restore(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        """Go on from a stored ``state``."""
        self.v, self.task, self.widths = (arrays[name] for name in ("v", "task", "widths"))
        self.progress, self.alpha = values["progress"], (values["alpha"][0], values["alpha"][1])

    def current(self, v: np.ndarray | None = None) -> np.ndarray:
        """n = max(1, floor(pi C)): int64 (groups,)."""
        widths = allocation.floor(self.model, np.exp(self.v if v is None else v), self.multiple)
        return np.asarray(np.maximum(widths, self._floor))

    @property
    def final(self) -> bool:
        """Whether multipliers fall no further: the budget holds, and at a pace by schedule its targets have come to it."""
        over = self.search.pace == "rate" or self.progress >= 1
        return over and allocation.holds(self.model, self.widths, self.budget)

    def targets(self, progress: float) -> Budget:
        """What each resource should cost at this share of the pruning phase."""
        return self.budget.approached(self._start, progress)

    def see_task(self, gradient: np.ndarray, loss: float = 0.0) -> None:
        """Take in a new measurement of dP_TSK / dpi (groups,), weighted against those before it.

        loss: P_TSK, which counts at a fixed rate alone.
        """
        if self.search.pace == "rate":
            self._see_first(gradient, loss)
            self.task = gradient if self.search.feedback == "each" else _mixed(self.task, gradient)
            return
        size = np.abs(gradient).max(initial=0.0)
        if size > 0:
            self.task = gradient / size if self.search.feedback == "each" else _mixed(self.task, gradient / size)

    def _see_first(self, of_task: np.ndarray, loss: float) -> None:
        """Set both alphas by the first losses (section 3.2), so that the largest first cost gradient is the clip (appendix A).

        The paper gives their ratio, and that the first gradients should be of the order of the clip.
        """
        ratios = self.budget.ratios(self.model.at(self.model.full))
        excess = max(ratios.values()) - 1
        if self.alpha[0] > 0 or excess <= 0:
            return
        of_resource = max(np.abs(self._resource_gradient([name])).max() for name, ratio in ratios.items() if ratio > 1)
        resource = _CLIP / max(of_resource, 1e-12)
        self.alpha = resource, resource * _TASK_SHARE * excess / max(loss, 1e-12) if of_task.any() else 0.0

    def _resource_gradient(self, objectives: Sequence[str]) -> np.ndarray:
        """dP_RES / dpi at the widths as they are, each resource in units of its limit: float64 (groups,)."""
        n = self.current()
        parts = [self.model.gradient(name, n) * self.model.full / self.budget.limits[name] for name in objectives]
        return np.asarray(np.sum(parts, axis=0))

    def update(self, progress: float, present: np.ndarray, random: np.random.Generator) -> str | None:
        """Bring every resource to its target for this moment (Eq. 1 and 2): lower multipliers, then use the slack.

        present: int64 (groups,), channels that are still there; no group grows beyond. Returns a note for the user if the
        gradient steps alone did not get there.
        """
        self.progress = progress
        if self.search.pace == "rate":
            return self._at_fixed_rate(present, random)
        goal = self.targets(progress)
        note = None
        self._descend(goal, random)
        n = self.current()
        if not allocation.holds(self.model, n, goal):
            note = "the gradient steps ended above the budget; a greedy cut brought the network inside it"
        n = self._settled(n, goal, present)
        self.v = np.where(n == self.current(), self.v, np.log(np.maximum(n, 0.5) / np.maximum(self.model.full, 1)))
        self.widths = n
        return note

    def _settled(self, n: np.ndarray, goal: Budget, present: np.ndarray) -> np.ndarray:
        """Widths ``n`` inside ``goal``, and grown into what they leave of it unless that is to be left."""
        # A channel is worth what it adds to its group's width, more where the loss protects: narrow groups gain most.
        value = (1 + self._protection()) / np.maximum(n, 1)
        if self.search.slack == "leave":
            return allocation.cut_into(self.model, n, goal, value, self.multiple)
        return allocation.grow(self.model, n, goal, value, self.multiple, most=present)

    def _at_fixed_rate(self, present: np.ndarray, random: np.random.Generator) -> str | None:
        """One update of the paper's own kind: pi' = pi - rate * clip(gradient, 0, 0.025) (appendix A).

        Section 3.4 has the step taken by what pi is an exponential of, in which narrow groups fall slower: pi^2 times as much.
        The formula of appendix A, and algorithm 1, are taken at their word; a group that is as narrow as it may be stays.
        lambda picks one of all objectives; one that is within its limit asks for nothing (Eq. 2, clipped at 0). At the end of
        the pruning phase the budget is held as ever.
        """
        ratios = self.budget.ratios(self.model.at(self.current()))
        draws = {name: ratio / max(random.random(), 1e-9) for name, ratio in ratios.items()}
        chosen = [max(draws, key=lambda name: draws[name])] if self.search.objectives == "random" else list(ratios)
        active = [name for name in chosen if ratios[name] > 1]
        if active:
            of_resource = self._resource_gradient(active)
            of_task = self.task if self.search.loss != "resource" else np.zeros(len(self.v))
            led = of_resource if self.search.loss != "task" else np.full(len(self.v), of_resource.max())
            clipped = np.clip(self.alpha[0] * led + self.alpha[1] * of_task, 0.0, _CLIP)
            step = self.search.rate * np.where(of_resource > 0, clipped, 0.0)
            narrowest = np.maximum(self._floor, 0.5) / np.maximum(self.model.full, 1)
            self.v = np.where(step > 0, np.log(np.maximum(np.exp(self.v) - step, narrowest)), self.v)
        n, note = self.current(), None
        held = allocation.holds(self.model, n, self.budget)
        if self.progress >= 1 and not held:
            note = "the fixed rate of the widths ended above the budget; a last greedy cut brought the network inside it"
            self._descend(self.budget, random)
            n = self.current()
        if self.progress >= 1 or (held and self.search.slack == "grow"):
            n = self._settled(n, self.budget, present)
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
        task = self.task / max(1.0, np.abs(self.task).max(initial=0.0))
        return np.maximum(-task, 0.0) if self.search.loss != "resource" else np.zeros(len(task))

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


def _mixed(mean: np.ndarray, new: np.ndarray) -> np.ndarray:
    """The running mean after one more measurement."""
    return np.asarray(_TASK_MEMORY * mean + (1 - _TASK_MEMORY) * new)


#: A batch: an array (batch, ...) for each input or output, or the only one.
Batch = np.ndarray | Sequence[np.ndarray]


def task_gradient(trainer: Trainer, keep: np.ndarray, scores: np.ndarray, x: Batch, y: Batch) -> np.ndarray:
    """dP_TSK / dpi alone, of ``task_loss``."""
    return task_loss(trainer, keep, scores, x, y)[0]


def task_loss(
    trainer: Trainer, keep: np.ndarray, scores: np.ndarray, inputs: Batch, targets: Batch
) -> tuple[np.ndarray, float]:
    """dP_TSK / dpi by Eq. 9, float64 (groups,), and P_TSK: the loss of the task on a batch through the masks.

    keep: bool (components,), what the masks leave. scores: float (components,), each one's salience.
    """
    x, y = ([columns] if isinstance(columns, np.ndarray) else list(columns) for columns in (inputs, targets))
    own, share = ranks.part(len(x[0])), ranks.share(len(x[0]))
    with with_measured_masks(trainer.module, keep) as gates:
        of_inputs, of_targets = ([column[own] for column in columns] for columns in (x, y))
        loss = trainer.objective.loss(trainer.answers(of_inputs), trainer.tensors(of_targets))
        if ranks.size() > 1:
            loss = loss * share
        (of_mask,) = torch.autograd.grad(loss, gates)
    of_mask, loss = ranks.summed(of_mask.double()), ranks.summed(loss.detach())
    return of_multipliers(of_mask.cpu().numpy(), trainer.module.channels, keep, scores), float(loss)


@contextmanager
def with_measured_masks(module: Trainable, keep: np.ndarray) -> Iterator[Tensor]:
    """A module in the state in which the loss is to be differentiated by its masks, and masks that take a gradient.

    Evaluation mode, BatchNormalization by the statistics of the batch as constants (the reason stands at the top of this
    module). Afterwards the module is as it was before; no gradient of its parameters is touched.
    """
    gates, training = module.gates, module.training
    module.eval()
    module.norm_of_batch = True
    module.gates = torch.from_numpy(keep.astype(np.float32)).to(module.device).requires_grad_()
    try:
        yield module.gates
    finally:
        module.gates, module.norm_of_batch = gates, False
        module.train(training)


def of_multipliers(of_mask: np.ndarray, channels: Channels, keep: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Eq. 9: from the gradient by every mask to that by every multiplier, spread by M(s, s0) = s / (s + s0).

    of_mask: float64 (components,), dLoss / dMask. keep, scores: as for ``task_gradient``. Returns float64 (groups,).
    """
    gradient = np.zeros(len(channels.groups))
    for index, group in enumerate(channels.groups):
        ids = np.array(group.components)
        s = np.maximum(scores[ids], 1e-12)
        kept = np.sort(s[keep[ids]])
        s0 = kept[0] if len(kept) else s.max()  # the threshold: the least salient channel that stays
        slope = s / (s + s0) ** 2  # |dM / ds0|
        gradient[index] = len(ids) * float((of_mask[ids] * slope).sum() / slope.sum())
    return gradient


class Differentiable(Method):
    """Prune while training; the widths that result hold the budget and no single channel more would.

    Channels are masked at every update and physically gone at every ``_EVENTS``-th part of the pruning phase; between two
    cuts the masks follow salience, so a channel that recovers comes back.

    keep: what the masks leave. alive: bool (components + 1,), what is physically there.
    cut: whether widths and channels are final.
    """

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.alive = task.channels.keep_all()
        self.outer = Widths(task.model, task.budget, task.multiple_of, task.search)
        self.cut = allocation.holds(task.model, task.model.full, task.budget)

    @property
    def phase(self) -> str:
        return "train" if self.cut else "prune"

    @property
    def settled(self) -> bool:
        """Masks may still follow salience: they are cut out when training ends, whenever that is."""
        return self.cut or self.outer.final

    def start(self, trainer: Trainer) -> None:
        schedule, length = self.task.schedule, trainer.length
        self._first, self._last = schedule.window(length.amount)
        last_choice = 1.0 if self.task.search.cut == "at-end" else _LAST_CHOICE
        self._final = self._last if schedule.freeze else max(self._last, length.at(last_choice))
        self._counts_steps = length.fixed
        if length.fixed:
            self.last_cut = self._final
        if not schedule.prune_stop and not self.cut:
            self._begin_narrow(trainer)

    def _begin_narrow(self, trainer: Trainer) -> None:
        """Widths from the first step on: an untrained network shows too little of its channels to wait for what they tell.

        Halfway between uniform widths, grown into what they leave of the budget, and those of ``at_init``, as far as steps
        remain that so wide a network could learn in.
        """
        task, length = self.task, trainer.length
        model, budget, multiple = task.model, task.budget, task.multiple_of
        if length.unit == "macs":
            most = length.amount // (trainer.batch * _STEPS_TO_LEARN)
            budget = allocation.affordable(model, budget, most, multiple)
        within = " as far as compute allows," if length.unit == "macs" else ""
        self.outer.progress = 1.0
        self.outer.widths = allocation.uniform_grown(model, budget, multiple)
        description = "uniform widths, grown into what they leave of the budget,"
        try:
            plan = at_init.plan(model, budget, multiple=multiple, seed=task.seed)
        except ModelError:  # some operator, or weights, that at-init can't follow: uniform widths do without
            pass
        else:
            chosen = task.channels.widths(plan.keep)
            self.outer.widths = allocation.between(model, self.outer.widths, chosen, budget, multiple)
            description = f"widths between {description} and those of --method at-init,"
        self.keep = self.alive = task.channels.top(self.outer.widths, salience(task.channels))
        self.begin_cut(trainer)
        self.cut, self.last_cut = True, 0
        self.notes.append(
            f"{description}{within} from the first step on: in so short a training of so many examples every step "
            "belongs to the network that stays; --prune-stop 0.3 narrows it on the way"
        )

    def after_step(self, trainer: Trainer) -> bool:
        if self.cut or trainer.position <= self._first:
            return False
        progress = min(1.0, (trainer.position - self._first) / (self._last - self._first))
        final = trainer.position >= self._final or trainer.finished
        if not (trainer.step % self.task.schedule.prune_every == 0 or final or self._late(progress)):
            return False
        channels, random = self.task.channels, np.random.default_rng((self.task.seed, trainer.step))
        scores = np.zeros(len(self.keep))
        scores[self.alive] = salience(trainer.module.channels, trainer.module.network())
        self.outer.see_task(*self._measured(trainer, scores, random))
        before = self.outer.progress
        note = self.outer.update(progress, channels.widths(self.alive), random)
        self.cut = final
        self.last_cut = trainer.step if self.cut else self.last_cut
        if self.cut and note:
            self.notes.append(note)
        scores = np.where(self.alive, scores, -np.inf)
        self.keep = channels.top(self.outer.widths, scores)
        on_the_way = self.task.search.cut == "on-the-way" and int(self.outer.progress * _EVENTS) > int(before * _EVENTS)
        if self.cut or on_the_way:
            stay = channels.top(self._spare(), scores)
            trainer.shrink(stay[self.alive])
            self.alive = stay
        self._mask(trainer)
        return True

    def _late(self, progress: float) -> bool:
        """Whether the window runs out faster than steps alone would tell: wide ones count for more than narrow ones."""
        return not self._counts_steps and self.task.search.pace == "schedule" and progress - self.outer.progress >= 1 / UPDATES

    def _measured(self, trainer: Trainer, scores: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, float]:
        """The task gradient on a batch of validation examples, float64 (groups,), and the loss."""
        val = self.task.data.val
        assert val.targets is not None
        chosen = random.choice(len(val), min(trainer.batch, len(val)), replace=False)
        inputs, targets = ([np.asarray(array[chosen]) for array in arrays] for arrays in (val.inputs, val.targets))
        return task_loss(trainer, self.keep[self.alive], scores[self.alive], inputs, targets)

    def _spare(self) -> np.ndarray:
        """How many channels of each group outlive a cut: int64 (groups,)."""
        n, multiple = self.outer.widths, self.task.multiple_of
        if self.cut:
            return n
        spare = -(-(n + n // _MARGIN + 1) // multiple) * multiple
        return np.asarray(np.minimum(spare, self.task.channels.widths(self.alive)))

    def _mask(self, trainer: Trainer) -> None:
        trainer.module.gates = None if self.cut else trainer.tensor(self.keep[self.alive].astype(np.float32))

    def state(self) -> State:
        (arrays, values), (widths, progress) = super().state(), self.outer.state()
        return {**arrays, **widths, "alive": self.alive}, {**values, **progress, "cut": self.cut}

    def restore(self, trainer: Trainer, saved: Saved) -> None:
        self._take_up(saved)
        self.alive, self.cut = saved.arrays["alive"], bool(saved.values["cut"])
        self.outer.restore(saved.arrays, saved.values)
        trainer.restore(saved.arrays, self.task.channels.cut_channels(self.alive))
        self._mask(trainer)
