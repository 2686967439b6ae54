"""Muon: momentum whose update of a weight matrix goes equally far along all its directions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

#: How far a weight matrix moves along each of its directions, relative to the learning rate; a tall one further, by the root
#: of how many times more rows than columns it has.
_STRIDE = 0.25
#: Newton-Schulz iteration (Jordan et al. 2024, "Muon"): these coefficients bring singular values near 1 in five steps.
_COEFFICIENTS, _ITERATIONS = (3.4445, -4.7750, 2.0315), 5
#: Matrices of no more numbers are levelled together: with so few, a step takes as long as it has operations.
_SMALL = 1 << 14


def levelled(matrices: Tensor) -> Tensor:
    """Each matrix with its singular vectors kept and its singular values brought to about 1: (..., rows, columns).

    A matrix of zeros stays zero.
    """
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-12)
    if x.shape[-2] == 1:  # a row has one singular value, its norm, by which it was just divided
        value = 1.0
        for _ in range(_ITERATIONS):
            value = a * value + b * value**3 + c * value**5
        x = x * value
    else:
        for _ in range(_ITERATIONS):
            gram = x @ x.mT
            x = a * x + (b * gram + c * gram @ gram) @ x
    matrix: Tensor = x.mT if tall else x
    return matrix


def levelled_together(stacks: Sequence[Tensor]) -> list[Tensor]:
    """Each stack of matrices (count, rows, columns) ``levelled``, small ones of about a size in one batch.

    They are filled up with rows and columns of zeros, which leave singular values and vectors as they are.
    """
    upright = [stack if stack.shape[1] <= stack.shape[2] else stack.mT for stack in stacks]
    alike: dict[tuple[int, ...], list[int]] = {}
    for index, (_, rows, columns) in enumerate(stack.shape for stack in upright):
        size = ((rows - 1).bit_length(), (columns - 1).bit_length()) if rows * columns <= _SMALL else (index,)
        alike.setdefault(size, []).append(index)
    results = list(stacks)
    for indices in alike.values():
        few = [upright[index] for index in indices]
        filled = few[0] if len(few) == 1 else _filled_up(few)
        parts = torch.split(levelled(filled), [len(stack) for stack in few])
        for index, part in zip(indices, parts, strict=True):
            part = part[:, : upright[index].shape[1], : upright[index].shape[2]]
            results[index] = part if upright[index] is stacks[index] else part.mT
    return results


def _filled_up(stacks: Sequence[Tensor]) -> Tensor:
    """Stacks of matrices as one, of the most rows and columns among them."""
    rows, columns = (max(stack.shape[axis] for stack in stacks) for axis in (1, 2))
    filled = stacks[0].new_zeros(sum(map(len, stacks)), rows, columns)
    for place, stack in zip(torch.split(filled, [len(stack) for stack in stacks]), stacks, strict=True):
        place[:, : stack.shape[1], : stack.shape[2]] = stack
    return filled


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose updates to weight matrices are orthogonalised (Jordan et al. 2024).

    Parameter groups take ``lr``, ``weight_decay`` and ``blocks``: into how many matrices each parameter splits along its
    first axis (a grouped convolution is one matrix a group, a depthwise one has a row each); 0 for what is no matrix and
    moves as by SGD.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, momentum: float) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0, "blocks": 0})
        self._momentum = momentum
        self._recorded: _Recorded | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of all weights; returns the closure's loss, if there is a closure."""
        loss = None if closure is None else closure()
        moving = [
            _Moving(weight, weight.grad, index, group["weight_decay"], group["blocks"])
            for index, group in enumerate(self.param_groups)
            for weight in group["params"]
            if weight.grad is not None
        ]
        if not moving:
            return loss
        rates = [group["lr"] for group in self.param_groups]
        fresh = [part for part in moving if "momentum_buffer" not in self.state[part.weight]]
        for part in fresh:
            self.state[part.weight]["momentum_buffer"] = torch.zeros_like(part.weight)
        if fresh or not all(part.weight.is_cuda for part in moving):
            self._move(moving, rates)
        else:
            if self._recorded is None or not self._recorded.fits(moving, self._momenta(moving)):
                self._recorded = _Recorded(moving, self._momenta(moving), len(rates), self._move)
            self._recorded.replay(moving, rates)
        return loss

    def _momenta(self, moving: Sequence[_Moving]) -> list[Tensor]:
        return [self.state[part.weight]["momentum_buffer"] for part in moving]

    def _move(self, moving: Sequence[_Moving], rates: Sequence[float] | Tensor) -> None:
        """Move weights by their gradients. rates: the learning rate of each parameter group."""
        weights, gradients = [part.weight for part in moving], [part.gradient for part in moving]
        momenta = self._momenta(moving)
        torch._foreach_mul_(momenta, self._momentum)
        torch._foreach_add_(momenta, gradients)
        updates = list(torch._foreach_add(gradients, momenta, alpha=self._momentum))
        matrices = {
            index: updates[index].reshape(part.blocks, part.weight.shape[0] // part.blocks, -1)
            for index, part in enumerate(moving)
            if part.blocks
        }
        for (index, stack), level in zip(matrices.items(), levelled_together(list(matrices.values())), strict=True):
            tall = max(1.0, stack.shape[1] / stack.shape[2]) ** 0.5
            updates[index] = (level * (_STRIDE * tall)).reshape(weights[index].shape)
        for group in {part.group for part in moving}:
            chosen = [index for index, part in enumerate(moving) if part.group == group]
            here, rate = [weights[index] for index in chosen], rates[group]
            torch._foreach_mul_(here, 1 - rate * moving[chosen[0]].weight_decay)
            torch._foreach_sub_(here, torch._foreach_mul([updates[index] for index in chosen], rate))


class _Moving(NamedTuple):
    """A weight, its gradient, and what is told of its parameter group: its position, weight decay and blocks."""

    weight: Tensor
    gradient: Tensor
    group: int
    weight_decay: float
    blocks: int


class _Recorded:
    """A step as a CUDA graph: the same kernels on the same memory, so that gradients are copied to where they were first.

    groups: how many learning rates there are. move: what is recorded; it takes weights with gradients, and the rates.
    """

    def __init__(
        self,
        moving: Sequence[_Moving],
        momenta: Sequence[Tensor],
        groups: int,
        move: Callable[[Sequence[_Moving], Tensor], None],
    ) -> None:
        self._of = self._memory(moving, momenta)
        self._rates = torch.zeros(groups, device=moving[0].weight.device)
        self._gradients = [torch.empty_like(part.gradient) for part in moving]
        copies = [part._replace(gradient=copy) for part, copy in zip(moving, self._gradients, strict=True)]
        self._graph = torch.cuda.CUDAGraph()
        # another thread may pin memory for a batch meanwhile, which does not concern this graph
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            move(copies, self._rates)

    @staticmethod
    def _memory(moving: Sequence[_Moving], momenta: Sequence[Tensor]) -> list[tuple[int, int]]:
        return [(part.weight.data_ptr(), momentum.data_ptr()) for part, momentum in zip(moving, momenta, strict=True)]

    def fits(self, moving: Sequence[_Moving], momenta: Sequence[Tensor]) -> bool:
        """Whether these are at the addresses at which they were when the step was recorded. Cut weights are other tensors."""
        return self._of == self._memory(moving, momenta)

    def replay(self, moving: Sequence[_Moving], rates: Sequence[float]) -> None:
        """The recorded step, with these gradients and learning rates."""
        self._rates.copy_(torch.tensor(rates))
        torch._foreach_copy_(self._gradients, [part.gradient for part in moving])
        self._graph.replay()
