"""A loss of the user's own: ``--loss-function module:function``.

It is called as the losses of torch are, ``function(output, target)``, with tensors of a batch: of a network with several
outputs with two tuples. Where the network ends in Softmax or Sigmoid it gets the logits before that. It returns one number to
make small.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Any

from mcuprune.errors import UsageError
from mcuprune.immutable import immutable
from mcuprune.usercode import from_here, named_function

if TYPE_CHECKING:
    from torch import Tensor


@immutable
class OwnLoss:
    """spec: as it was given. function: what it names."""

    spec: str
    function: Callable[..., Any] = field(compare=False)

    def __call__(self, answers: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        """The loss of a batch. Raises UsageError for whatever the function does wrong."""
        import torch

        several = len(answers) > 1
        try:
            loss = self.function(tuple(answers), tuple(targets)) if several else self.function(answers[0], targets[0])
        except KeyboardInterrupt:
            raise
        except Exception as error:  # the user's own code
            said = " ".join(f"{type(error).__name__}: {error}".split())
            shapes = f"{_shapes(answers)} and {_shapes(targets)}"
            raise UsageError(f"--loss-function {self.spec}: raised {said}; it was called with {shapes}") from error
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1 or not loss.requires_grad:
            what = list(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__
            raise UsageError(
                f"--loss-function {self.spec}: returned {what}; it must return one number as a tensor that depends on the "
                "output, such as ((output - target) ** 2).mean()"
            )
        return loss.reshape(())


def _shapes(tensors: Sequence[Tensor]) -> str:
    shown = [f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}" for x in tensors]
    return shown[0] if len(shown) == 1 else f"({', '.join(shown)})"


def own_loss(spec: str) -> OwnLoss:
    """The loss that ``module:function`` names. Raises UsageError where there is none."""
    if not re.fullmatch(r"[^\W\d][\w./]*:[^\W\d]\w*", spec):
        raise UsageError(f"--loss-function {spec}: write it as module:function, such as mylosses:weighted")
    with from_here("--loss-function", spec, UsageError):
        return OwnLoss(spec, named_function("--loss-function", spec, UsageError))
