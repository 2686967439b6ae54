"""What a file is run with when it is verified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mcuprune.data.feed import Feed
from mcuprune.immutable import immutable
from mcuprune.options import AUTO, option

if TYPE_CHECKING:
    from mcuprune.data.sets import Given
    from mcuprune.graph.network import Network, Shape


@immutable(kw_only=True)
class Draw:
    """How much a file is run with. Random inputs are drawn evenly from what the input's quantiser can store."""

    examples: int = option(
        200, help="How many random inputs and how many test examples.", group="Data", metavar="N", least=1, most=2**31 - 1
    )
    seed: int = option(
        0, help="Fixes the random inputs, and which test examples.", group="Data", metavar="N", least=0, most=2**63 - 1
    )

    def chosen(self, count: int) -> np.ndarray[Any, Any]:
        """Which of so many test examples are looked at, int (examples,) ascending: drawn, for data may lie class by class."""
        return np.sort(np.random.default_rng(self.seed).permutation(count)[: self.examples])


@immutable(kw_only=True)
class Trial(Draw, Feed):
    """What a file is run with, how that is fed, and where its network begins and ends.

    input_shapes, outputs: as for ``network.load``: sizes of the inputs' free dimensions, and where the network ends.
    data: as ``data.load`` takes it; without it, what the file's metadata name, if that is one of ``data.DATASETS``.
    task: what the network is for, as ``--task`` of ``prune``; without targets nothing but equality is told.
    """

    input_shapes: Mapping[str, Shape] | None = None
    outputs: Sequence[str] = ()
    data: Given | None = None
    task: str = AUTO


def of_one_example(net: Network, input_shapes: Mapping[str, Shape]) -> tuple[str, ...]:
    """What to say where a batch was asked for of a network that is read, as all are, for one example at a time."""
    batches = {
        name: shape[0]
        for name, shape in input_shapes.items()
        if len(shape) > 1 and shape[0] > 1 and net.shapes.get(name) == (1, *shape[1:])
    }
    said = [f"--input-shape asks for {batch} examples of '{name}'" for name, batch in batches.items()]
    return tuple(f"{words} at a time: numbers and files here are of one" for words in said)
