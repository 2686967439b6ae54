"""What a channel is worth before it has been trained: by its weights' scores, summed over all slices that it cuts.

Scores of single weights are those of pruning at initialisation: SynFlow (arXiv 2006.05467), SNIP (arXiv 1810.02340), GraSP
(arXiv 2002.07376), the size of the weight, or chance. A channel of a group cuts slices of several constants: of the convolution
that makes it, its BatchNormalization, a depthwise filter, everything that reads it. It is worth the sum over all of them, each
constant once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from mcuprune.channels.labelling import Channels
from mcuprune.data.sets import Split
from mcuprune.errors import UsageError
from mcuprune.immutable import immutable
from mcuprune.train.flow import Flow
from mcuprune.train.module import Trainable, as_inputs
from mcuprune.train.tasks.heads import heads
from mcuprune.train.tasks.kind import log_shares

#: Labelled examples that SNIP and GraSP see, and how many at a time.
_EXAMPLES, _BATCH = 256, 128
#: What GraSP divides logits by, so that its loss is far from certain of anything.
_TEMPERATURE = 200.0


@immutable
class Rating:
    """A way to score channels. iterations: how often they are scored anew on the way to a budget.

    score: the labelled network, as far as it is cut, and labelled examples -> float64 (components + 1,), more for channels that
    should stay. labelled: whether it needs the examples.
    """

    score: Callable[[Channels, Split | None, int], np.ndarray]
    iterations: int
    labelled: bool = False


def _of_weights(module: Trainable, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """Scores of weights, by the names of their constants, summed for every component: float64 (components + 1,)."""
    channels = module.channels
    scores = np.zeros(channels.n_components + 1)
    for name, value in values.items():
        for slot in channels.slots_of.get(name, ()):
            owner = np.broadcast_to(slot.spread(value.shape), value.shape)
            scores += np.bincount(owner.ravel(), value.astype(np.float64).ravel(), len(scores))
    scores[0] = 0.0
    return scores


def _synflow(channels: Channels, examples: Split | None, seed: int) -> np.ndarray:
    return Flow(channels).scores()


def _magnitude(channels: Channels, examples: Split | None, seed: int) -> np.ndarray:
    module = Trainable(channels)
    return _of_weights(module, {name: np.abs(weight.detach().numpy()) for name, weight in module.named_weights()})


def _random(channels: Channels, examples: Split | None, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(channels.n_components + 1)


class _Learner:
    """A network about to learn: losses of its first batches, BatchNormalization by the statistics of each batch."""

    def __init__(self, channels: Channels, examples: Split | None, seed: int) -> None:
        assert examples is not None
        self.module = Trainable(channels).train()
        self.module.norm_momentum = 0.0
        self._heads = heads(self.module.source)
        self.module.want_answers(self._heads)
        self.weights = dict(self.module.named_weights())
        few = np.random.default_rng(seed).permutation(len(examples.y))[:_EXAMPLES]
        self.batches = [few[start : start + _BATCH] for start in range(0, len(few), _BATCH)]
        self._examples = examples

    def loss(self, batch: np.ndarray, temperature: float = 1.0) -> Tensor:
        """The cross-entropy of some examples."""
        (answers, *_) = self.module(*as_inputs(self.module.source, self._examples.x[batch]))
        logits = log_shares(self._heads[0], answers).flatten(1)
        return F.cross_entropy(logits / temperature, torch.from_numpy(self._examples.y[batch]))

    def gradients(self, loss: Tensor, *, again: bool = False) -> list[Tensor]:
        """By every weight, zeros where it has none. again: whether they are to be differentiated once more."""
        weights = list(self.weights.values())
        gradients = torch.autograd.grad(loss, weights, create_graph=again, allow_unused=True)
        return [torch.zeros_like(w) if g is None else g for w, g in zip(weights, gradients, strict=True)]


def _snip(channels: Channels, examples: Split | None, seed: int) -> np.ndarray:
    """|w dL/dw|: how much the loss changes without the weight (Eq. 6 of SNIP, before it is normalised)."""
    learner = _Learner(channels, examples, seed)
    total = {name: np.zeros(weight.shape) for name, weight in learner.weights.items()}
    for batch in learner.batches:
        for (name, weight), gradient in zip(learner.weights.items(), learner.gradients(learner.loss(batch)), strict=True):
            total[name] += (weight.detach() * gradient).abs().numpy() * len(batch)
    return _of_weights(learner.module, total)


def _grasp(channels: Channels, examples: Split | None, seed: int) -> np.ndarray:
    """w Hg: how much the squared gradient shrinks without the weight (Eq. 8 of GraSP with its sign turned).

    GraSP removes the largest of -w Hg, which let the gradient grow; here more is worth more. Scores may be below 0.
    """
    learner = _Learner(channels, examples, seed)
    weights = list(learner.weights.values())
    fixed = [torch.zeros_like(weight) for weight in weights]
    for batch in learner.batches:
        gradients = learner.gradients(learner.loss(batch, _TEMPERATURE))
        fixed = [total + g * len(batch) for total, g in zip(fixed, gradients, strict=True)]
    total = {name: np.zeros(weight.shape) for name, weight in learner.weights.items()}
    for batch in learner.batches:
        gradients = learner.gradients(learner.loss(batch, _TEMPERATURE), again=True)
        product = torch.stack([(g * known).sum() for g, known in zip(gradients, fixed, strict=True)]).sum()
        for (name, weight), twice in zip(learner.weights.items(), learner.gradients(product), strict=True):
            total[name] += (weight * twice).detach().numpy() * len(batch)
    return _of_weights(learner.module, total)


#: By name, as in ``task.SCORES``.
RATINGS: Mapping[str, Rating] = {
    "synflow": Rating(_synflow, 100),
    "snip": Rating(_snip, 10, labelled=True),
    "grasp": Rating(_grasp, 10, labelled=True),
    "magnitude": Rating(_magnitude, 20),
    "random": Rating(_random, 1),
}


def refuse_without_examples(score: str, examples: Split | None) -> None:
    """Raise UsageError for a score that needs labelled examples where there are none."""
    if RATINGS[score].labelled and examples is None:
        raise UsageError(f"--score {score}: it needs labelled examples: add --data, or choose synflow, magnitude or random")
