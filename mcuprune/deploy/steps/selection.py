"""The state of one walk over a program: the steps so far, and what the rules ask about its tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import NamedTuple, NoReturn

import numpy as np

from mcuprune.deploy.program import Constant as Content
from mcuprune.deploy.program import Operator, Program
from mcuprune.deploy.qdq import Quantizer
from mcuprune.deploy.steps.calls import ONE_BY_ONE, Array, Between, Call, Chain, Constant, Few, Place, Step, bytes_of
from mcuprune.deploy.tables import Table
from mcuprune.errors import UnsupportedOperator

#: The largest number of 16 bits.
_MOST_SHORT = 2**15 - 1


class Padded(NamedTuple):
    """What a PAD would write. pads: numbers before and after each axis, int (rank, 2), all of them ``number``.

    left_out: how many more a second PAD would write around these, in the same form, as the lowest number: padding that a
    maximum leaves out.
    """

    source: int
    pads: Array
    number: int
    left_out: Array


@dataclass
class Selection:
    """One walk over the operators of a program.

    views: computed tensor -> the one whose bytes it shares. turned: of those views the ones that have them in another order,
    and the axes that bring them into it and back. permuted: a tensor and a movement of all its bytes -> what has them so.
    largest_window: bytes of the largest window that ``conv_short`` copies. proven: whether the fast requantisation is exact
    for all sums. clamped: whether some output's range is narrower than a byte's.

    pads, tables: what is put off to be done by the operators that read it. Output of a PAD -> what it would write; output of a
    chain of operators that are one table -> the chain's input and the table.
    saved: tensors that are to have no place of their own in the arena, at the cost of time; could_save: all that need none.
    clashing: those of them that need one, because a step reads the same bytes in two orders. chained: what is put off to be
    computed a few numbers at a time with the operator that reads it: its calls, and what they may overwrite.
    stacked: what has no place in the arena, because it was computed so.
    taken: outputs of operators that another has computed on its way.
    outputs: tensors of the program's outputs. readers: tensor -> the operators that read it, in the program's order.
    """

    program: Program
    saved: frozenset[int] = frozenset()
    could_save: set[int] = field(default_factory=set)
    clashing: set[int] = field(default_factory=set)
    steps: list[Step] = field(default_factory=list)
    views: dict[int, int] = field(default_factory=dict)
    turned: dict[int, tuple[Constant, Constant]] = field(default_factory=dict)
    permuted: dict[tuple[int, tuple[tuple[int, int, int], ...]], int] = field(default_factory=dict)
    largest_window: int = 0
    proven: bool = True
    clamped: bool = False
    pads: dict[int, Padded] = field(default_factory=dict)
    tables: dict[int, tuple[int, Table]] = field(default_factory=dict)
    taken: set[int] = field(default_factory=set)
    chained: dict[int, tuple[list[Call], tuple[int, ...]]] = field(default_factory=dict)
    stacked: set[int] = field(default_factory=set)
    outputs: tuple[int, ...] = field(init=False)
    readers: dict[int, list[Operator]] = field(init=False)
    _contents: dict[int, Content | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.outputs = tuple(port.tensor for port in self.program.outputs)
        self.readers = {}
        for operator in self.program.operators:
            for tensor in dict.fromkeys(operator.inputs):
                self.readers.setdefault(tensor, []).append(operator)

    @cached_property
    def of_signals(self) -> bool:
        """Whether the network has no images, but signals alone: computed tensors (1, 1, steps, channels)."""
        computed = [self.shape(tensor) for tensor in self.program.computed]
        return all(shape[:2] == (1, 1) for shape in computed if len(shape) == 4)

    def arithmetic(self) -> list[str]:
        """What the kernels may rely on and must heed, as the C names it."""
        return [word for word, holds in (("PROVEN", self.proven), ("CLAMPED", self.clamped)) if holds]

    def refuse(self, operator: Operator, why: str) -> NoReturn:
        """Raise UnsupportedOperator, naming the node. why: follows on the operator's name."""
        where = f"{self.program.path}: node '{operator.node}'"
        raise UnsupportedOperator(f"{where}: {operator.name} {why} in C; export .tflite, or write the node in another way")

    def short(self, operator: Operator, numbers: Sequence[int]) -> tuple[int, ...]:
        """Sizes and places, which kernels keep in 16 bits. Raises UnsupportedOperator, naming the node, for larger ones."""
        if max(numbers, default=0) > _MOST_SHORT:
            self.refuse(operator, f"has a size above {_MOST_SHORT:,}, which kernels can't count to,")
        return tuple(numbers)

    # ------------------------------------------------------------------------------------------------------- tensors

    def root(self, tensor: int) -> int:
        """The tensor whose bytes this one is."""
        while tensor in self.views:
            tensor = self.views[tensor]
        return tensor

    def ordered_as(self, tensor: int) -> int:
        """The tensor in whose order the bytes are when this one is read: its root, or the last one that turned them."""
        while tensor in self.views and tensor not in self.turned:
            tensor = self.views[tensor]
        return tensor

    def turns(self, before: int, after: int) -> list[Call]:
        """What brings the bytes of two tensors, which share them, from the order of the one into that of the other."""
        away, towards = self._orders(before), self._orders(after)
        back = [self.turned[tensor][1] for tensor in away if tensor not in towards]
        forth = [self.turned[tensor][0] for tensor in reversed(towards) if tensor not in away]
        return [Call("turn", (Place(self.root(after)), axes)) for axes in (*back, *forth)]

    def _orders(self, tensor: int) -> list[int]:
        """The orders that a tensor's bytes have had, its own first and the one in which they were written last."""
        orders = [self.ordered_as(tensor)]
        while orders[-1] in self.views:
            orders.append(self.ordered_as(self.views[orders[-1]]))
        return orders

    def views_of(self, tensor: int) -> list[int]:
        """The tensors that share the bytes of this one, in the order in which it has them."""
        return [view for view in self.views if self.ordered_as(view) == tensor]

    def content(self, tensor: int) -> Content | None:
        """Numbers and scales of a constant; None for a computed tensor."""
        if tensor not in self._contents:
            read = self.program.tensors[tensor].content
            self._contents[tensor] = None if read is None else read()
        return self._contents[tensor]

    def constant(self, tensor: int) -> Array | None:
        """The numbers of a constant; None for a computed tensor."""
        content = self.content(tensor)
        return None if content is None else content.data

    def known(self, tensor: int) -> Array:
        """The numbers of a tensor that is a constant in every program: an axis, pads, a permutation."""
        numbers = self.constant(tensor)
        assert numbers is not None
        return numbers

    def scales(self, tensor: int) -> Array:
        """float64: one scale, or one for each channel of a weight."""
        content = self.content(tensor)
        own = self.program.tensors[tensor].quantizer
        scales = content.scales if content is not None else [own.scale if own is not None else 0.0]
        return np.asarray(scales, np.float64).reshape(-1)

    def quantizer(self, tensor: int) -> Quantizer:
        """Scale and zero point of a tensor that has one of each."""
        content = self.content(tensor)
        return self.program.tensors[tensor].only_quantizer() if content is None else content.quantizer()

    def shape(self, tensor: int) -> tuple[int, ...]:
        """Sizes of a tensor, channels last."""
        return tuple(self.program.tensors[tensor].shape)

    def size(self, tensor: int) -> int:
        """How many numbers a tensor has: its bytes."""
        return prod(self.shape(tensor))

    def place(self, tensor: int) -> Place | Constant:
        """Where a tensor's bytes are: in the arena or, for a constant, in flash."""
        data = self.constant(tensor)
        return Place(self.ordered_as(tensor)) if data is None else bytes_of(data)

    def arena_place(self, tensor: int, offset: int) -> Place:
        """A place within a computed tensor's bytes."""
        assert self.constant(tensor) is None
        return Place(self.ordered_as(tensor), offset)

    def sole_reader(self, tensor: int) -> Operator | None:
        """The only operator that reads a tensor; None where several do, or the program's outputs have it."""
        readers = self.readers.get(tensor, [])
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None

    def add(self, operator: Operator, calls: Sequence[Call], *, in_place: Sequence[int] = ()) -> None:
        """A step that makes the operator's outputs; in_place: what they may lie on.

        What one operator of a node leaves for the next alone is a part of that one's step, where it is to be saved.
        """
        earlier = [tensor for tensor in dict.fromkeys(operator.inputs) if tensor in self.chained]
        before = [self.chained.pop(tensor) for tensor in earlier]
        together = [call for part, _ in before for call in part] + list(calls)
        over = tuple(tensor for _, part in before for tensor in part) + tuple(in_place)
        if self._passes_on(operator, calls):
            self.could_save.add(operator.outputs[0])
            if operator.outputs[0] in self.saved:
                self.chained[operator.outputs[0]] = (together, over)
                self.stacked.add(operator.outputs[0])
                return
        writes = tuple(operator.outputs)
        reads = [a.tensor for call in together for a in call.arguments if isinstance(a, Place)]
        unique = tuple(dict.fromkeys(tensor for tensor in reads if tensor not in writes and tensor not in self.stacked))
        over = tuple(dict.fromkeys(self.ordered_as(t) for t in over if self.constant(t) is None))
        over = tuple(tensor for tensor in over if tensor in unique)
        for root in {self.root(tensor) for tensor in unique}:
            sharing = [tensor for tensor in unique if self.root(tensor) == root]
            turned = [tensor for tensor in sharing if tensor in self.turned]
            self.clashing |= set(turned if len(turned) < len(sharing) else turned[:-1])
        whole = (_chain(self.size(writes[0]), together),) if before else tuple(together)
        self.steps.append(Step(operator.name, operator.node, unique, writes, over, whole))

    def _passes_on(self, operator: Operator, calls: Sequence[Call]) -> bool:
        """Whether an operator computes, number by number, what the next operator of its node reads alone and does so with."""
        reader = self.sole_reader(operator.outputs[0])
        if len(calls) != 1 or calls[0].loops or calls[0].kernel not in ONE_BY_ONE or reader is None:
            return False
        tensors = (*operator.inputs, *reader.inputs) if calls[0].kernel != "table" else reader.inputs
        alike = all(self.shape(t) == self.shape(operator.outputs[0]) and self.constant(t) is None for t in tensors)
        return reader.node == operator.node and reader.name in ("ADD", "MAXIMUM", "MINIMUM") and alike


def _chain(count: int, calls: Sequence[Call]) -> Chain:
    """Calls that compute one by one. All outputs but the last lie on the stack, each where an earlier one is done with."""
    stacked: dict[int, Between] = {}
    used, free = 0, list[Between]()
    linked = []
    for call in calls:
        at = ONE_BY_ONE[call.kernel]
        *sources, target = call.arguments[:at]
        read = [stacked.pop(a.tensor) if isinstance(a, Place) and a.tensor in stacked else a for a in sources]
        free += [place for place in read if isinstance(place, Between)]
        if call is not calls[-1]:
            assert isinstance(target, Place)
            if not free:
                free, used = [Between(used)], used + 1
            stacked[target.tensor] = free.pop()
            target = stacked[target.tensor]
        linked.append(replace(call, arguments=(*read, target, Few(), *call.arguments[at + 1 :])))
    return Chain(count, tuple(linked))
