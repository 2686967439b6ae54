"""Pruning methods by name. One is a class of hooks on the training loop (``loop.Method``); a new one is a file and a row here.

Options name the methods, so the table imports no torch: a row imports its class where a run begins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from mcuprune.immutable import immutable

if TYPE_CHECKING:
    from mcuprune.train.loop import Method
    from mcuprune.train.task import Task


@immutable
class Kind:
    """A pruning method. about: a few words for ``--help``. make: the hooks of one run.

    led_by: what ``needs`` of options calls what leads its widths, "gradients" or "scores"; "" for neither, so that options
    which say how have no effect. before_training: whether it has chosen its widths before the first step, and so needs none.
    """

    about: str
    make: Callable[[Task], Method]
    led_by: Literal["gradients", "scores", ""] = ""
    before_training: bool = False


def _differentiable(task: Task) -> Method:
    from mcuprune.train.methods.differentiable import Differentiable

    return Differentiable(task)


def _at_init(task: Task) -> Method:
    from mcuprune.train.methods.at_init import AtInit

    return AtInit(task)


def _magnitude(task: Task) -> Method:
    from mcuprune.train.methods.magnitude import Magnitude

    return Magnitude(task)


def _uniform(task: Task) -> Method:
    from mcuprune.train.methods.uniform import Uniform

    return Uniform(task)


METHODS: dict[str, Kind] = {
    "differentiable": Kind("prunes while it trains", _differentiable, led_by="gradients"),
    "at-init": Kind("widths in seconds, before training", _at_init, led_by="scores", before_training=True),
    "magnitude": Kind("a baseline, the smallest weights on the way", _magnitude),
    "uniform": Kind("a baseline, one share of all widths", _uniform),
}
