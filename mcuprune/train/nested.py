"""One training for several networks: each is a part of the next, its channels the first ones of every group.

The whole network trains for a short while; then its channels are put in an order by salience, once and for all, and every
budget gets its widths, by the same gradients that lead the widths of ``prune``. Network k is the first channels of each group
in that order. What no network needs is cut; what is left, the *whole* of the family, trains alone for a while, since narrow
networks gain little from a wide one that knows nothing (DeltaEpsilon-Shrinking, arXiv 2407.06167). From then on every step
trains the whole, the narrowest and one of the others by chance (the sandwich rule of Yu and Huang, "Universally slimmable
networks and improved training techniques", 2019, section 4.1), the latter two beside the labels on the soft answers of the
whole (in-place distillation, section 4.2).

Weights, scales and shifts are shared. The statistics of BatchNormalization aren't: a narrow network has others, and those of
each are measured when training is over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from torch import Tensor
from torch.func import functional_call

from mcuprune.channels.labelling import Channels
from mcuprune.channels.salience import salience
from mcuprune.costs import resources
from mcuprune.costs import widths as allocation
from mcuprune.costs.resources import Budget, CostModel
from mcuprune.errors import BudgetError
from mcuprune.immutable import immutable
from mcuprune.train.checkpoint import Saved
from mcuprune.train.loop import Hooks, State
from mcuprune.train.methods.differentiable import Widths, task_gradient
from mcuprune.train.module import Trainable, as_inputs
from mcuprune.train.task import Search, Task
from mcuprune.train.trainer import Lesson, Trainer

#: After these shares of the training channels are ordered, and the narrow networks join.
ORDERED, JOINED = 0.07, 0.3
#: Batches of validation examples that the loss is asked on which groups it needs, and updates on the way to a budget.
_BATCHES, _UPDATES = 4, 8


@immutable
class _Part:
    """A part of the whole that trains with it.

    module: its graph and statistics; the weights in it are not used. indices: for each weight, which elements of the whole's
    flattened weight are its own, in the order of its shape.
    """

    module: Trainable
    indices: Mapping[str, Tensor]
    macs: int


class FamilyTrainer(Trainer):
    """Trains a network and, once they have joined, parts of it: the narrowest and one by chance in every step."""

    _parts: Sequence[_Part] = ()

    def join(self, selections: Sequence[np.ndarray]) -> None:
        """Train parts from here on. selections: bool (components + 1,) of the network as it is now, the narrowest first."""
        whole = self.module.channels.with_network(self.module.network())
        self._parts = [self._part(whole, keep) for keep in selections]

    def _part(self, whole: Channels, keep: np.ndarray) -> _Part:
        channels = whole.cut_channels(keep)
        module = Trainable(channels).to(self._device)
        module.want_answers(self.objective.heads)
        indices = {}
        for name, _ in module.named_weights():
            shape = whole.network.constants[name].shape
            numbers = np.arange(int(np.prod(shape, dtype=np.int64))).reshape(shape)
            indices[name] = self.tensor(whole.cut_constant(name, numbers, keep).ravel().astype(np.int64))
        return _Part(module, indices, resources.macs(channels.network))

    def _present(self) -> Sequence[_Part]:
        """The parts that train in this step."""
        if len(self._parts) < 2:
            return self._parts
        others = np.random.default_rng((self._seed, self.step, 1)).integers(1, len(self._parts))
        return [self._parts[0], self._parts[int(others)]]

    def step_macs(self, examples: int) -> int:
        return super().step_macs(examples) + examples * sum(part.macs for part in self._present())

    def _pass(self, inputs: Sequence[np.ndarray], lessons: Sequence[Lesson]) -> tuple[tuple[Tensor, ...], Tensor]:
        answers, loss = super()._pass(inputs, lessons)
        soft = [answer.detach() for answer in answers]
        of_whole = [replace(lesson, taught=soft) for lesson in lessons]
        for part in self._present():
            loss = loss + self._taught_loss(self._computed(partial(self._of_part, part), inputs), of_whole)
        return answers, loss

    def _of_part(self, part: _Part, inputs: Sequence[np.ndarray]) -> tuple[Tensor, ...]:
        """The answers of a part, by the weights that the whole has at this moment."""
        part.module.train()
        shapes = part.module.source.shapes
        weights = {
            f"params.{part.module.key(name)}": self.module.constant(name).reshape(-1)[index].reshape(shapes[name])
            for name, index in part.indices.items()
        }
        outputs: tuple[Tensor, ...] = functional_call(part.module, weights, as_inputs(self.module.source, inputs, self._device))
        return self.objective.answers(outputs)


@immutable
class Plan:
    """What a training of a family is to come to, beside its task.

    models, budgets: of every network, in the order in which they were asked for. The models are of the task's channels, each
    with minimums that hold its budget.
    """

    models: Sequence[CostModel]
    budgets: Sequence[Budget]


class Nested(Hooks):
    """Orders the channels, gives every budget its widths, and lets the parts join.

    widths: int64 (networks, groups); keeps: bool (networks, components + 1), selections of the task's components. Both are
    known from the moment on when channels are ordered.
    """

    stage = "nested"

    def __init__(self, task: Task, plan: Plan) -> None:
        self.task, self.plan = task, plan
        self.widths: np.ndarray | None = None
        self._scores = np.zeros(task.channels.n_components + 1)
        self._joined = False

    @property
    def phase(self) -> str:
        return "warm-up" if self.widths is None else "together" if self._joined else "train"

    @property
    def settled(self) -> bool:
        return self._joined

    @property
    def keeps(self) -> np.ndarray:
        """bool (networks, components + 1): the selection that each network is."""
        assert self.widths is not None
        return np.stack([self.task.channels.top(widths, self._scores) for widths in self.widths])

    @property
    def whole(self) -> np.ndarray:
        """bool (components + 1,): what some network needs."""
        return self.task.channels.keep_all() if self.widths is None else np.asarray(self.keeps.any(axis=0))

    def costs(self) -> Mapping[str, int]:
        return self.task.model.at(self.task.channels.widths(self.whole))

    def after_step(self, trainer: Trainer) -> bool:
        assert isinstance(trainer, FamilyTrainer)
        share = trainer.length.share(trainer.position)
        if self.widths is None and (share >= ORDERED or trainer.finished):
            self._order(trainer)
            return True
        if not self._joined and share >= JOINED and not trainer.finished:
            self._join(trainer)
        return False

    def _order(self, trainer: FamilyTrainer) -> None:
        task = self.task
        self._scores = salience(trainer.module.channels, trainer.module.network())
        random, val = np.random.default_rng((task.seed, trainer.step)), task.data.val
        assert val.targets is not None
        gradients = []
        for _ in range(_BATCHES):
            chosen = random.choice(len(val), min(trainer.batch, len(val)), replace=False)
            inputs, targets = ([np.asarray(array[chosen]) for array in arrays] for arrays in (val.inputs, val.targets))
            gradients.append(task_gradient(trainer, task.channels.keep_all(), self._scores, inputs, targets))
        self.widths = nested_widths(self.plan, np.mean(gradients, axis=0), task.seed, task.multiple_of, task.search)
        trainer.shrink(self.whole)

    def _join(self, trainer: FamilyTrainer) -> None:
        """Parts that differ from the whole join, the one of fewest multiply-accumulates first."""
        self._joined = True
        assert self.widths is not None
        whole = self.whole
        macs = [self.task.model.sums(widths)["macs"] for widths in self.widths]
        order = sorted(range(len(macs)), key=lambda index: (macs[index], index))
        selections = {keep[whole].tobytes(): keep[whole] for keep in self.keeps[order] if (keep != whole).any()}
        trainer.join([*selections.values()])

    def state(self) -> State:
        widths = np.zeros((0, 0), np.int64) if self.widths is None else self.widths
        return {"widths": widths, "scores": self._scores}, {"joined": self._joined}

    def restore(self, trainer: Trainer, saved: Saved) -> None:
        assert isinstance(trainer, FamilyTrainer)
        widths = saved.arrays["widths"]
        self.widths, self._scores = (widths if widths.size else None), saved.arrays["scores"]
        trainer.restore(saved.arrays, self.task.channels.cut_channels(self.whole))
        if saved.values["joined"]:
            self._join(trainer)

    def networks(self, trainer: Trainer) -> list[Channels]:
        """The trained networks. Statistics of BatchNormalization are still those of the whole."""
        whole, trained = self.whole, trainer.module.channels.with_network(trainer.module.network())
        return [trained.cut_channels(keep[whole]) for keep in self.keeps]


def nested_widths(plan: Plan, gradient: np.ndarray, seed: int, multiple: int = 1, search: Search | None = None) -> np.ndarray:
    """Widths for every budget, int64 (networks, groups), none wider than those of a budget that allows as much of everything.

    gradient: float (groups,), dLoss / dpi. Each budget gets what ``prune`` would give it by this gradient; where that is wider
    somewhere than the network of a larger budget, it is narrowed to that, and what this leaves of the budget goes elsewhere.
    Raises BudgetError where minimums that hold a budget keep a network from being a part of a larger one.
    """
    chosen: dict[int, np.ndarray] = {}
    for index in sorted(range(len(plan.budgets)), key=lambda index: (-_size(plan.budgets[index]), index)):
        model, budget = plan.models[index], plan.budgets[index]
        outer = Widths(model, budget, multiple, search)
        outer.see_task(gradient)
        for update in range(1, _UPDATES + 1):
            outer.update(update / _UPDATES, model.full, np.random.default_rng((seed, index, update)))
        most = model.full
        for other, widths in chosen.items():
            if _allows(plan.budgets[other], budget):
                most = np.minimum(most, widths)
        n = np.minimum(outer.widths, most)
        n = allocation.grow(model, n, budget, 1.0 / np.maximum(n, 1), multiple, most=most)
        if (n > most).any():
            group = model.channels.groups[int((n > most).argmax())].name
            raise BudgetError(
                f"{model.channels.network.path}: to hold {dict(budget.limits)}, group {group} has to be wider than in the "
                "network of a larger budget, so that one can't be a part of the other; --independent trains each for itself"
            )
        chosen[index] = n
    return np.stack([chosen[index] for index in range(len(plan.budgets))])


def _size(budget: Budget) -> float:
    return float(np.sum(np.log([*budget.limits.values()])))


def _allows(larger: Budget, smaller: Budget) -> bool:
    """Whether one budget allows at least as much as another of everything that it limits."""
    return all(name in smaller.limits and smaller.limits[name] <= limit for name, limit in larger.limits.items())
