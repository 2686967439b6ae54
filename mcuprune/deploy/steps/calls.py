"""What the generated C consists of: calls of kernels with places in the arena, constants in flash, and loops around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mcuprune.immutable import immutable

Array = np.ndarray[Any, Any]


@immutable
class Constant:
    """An array that goes to flash. ctype: its element type in C."""

    ctype: str
    values: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Of the array in flash."""
        return len(self.values) * {"int8_t": 1, "int16_t": 2, "int32_t": 4}[self.ctype]


@immutable
class Place:
    """A computed tensor's bytes from ``offset`` on."""

    tensor: int
    offset: int = 0


@immutable
class Window:
    """The description of a sliding operator, as the C struct ``window_t`` has it: three arrays and the numbers after them."""

    weights: Constant | None
    bias_number: Constant | None
    shift: Constant | None
    numbers: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Of the struct: three pointers and its numbers, without the arrays."""
        return 3 * 4 + 2 * len(self.numbers)


@immutable
class Loop:
    """How often a call is repeated, and by how many bytes each of its places advances from one to the next."""

    count: int
    steps: tuple[int, ...]


@immutable
class Between:
    """A few numbers on the stack, which one call of a chain leaves for the next."""

    number: int


@immutable
class Few:
    """How many numbers a call of a chain computes at a time."""


@immutable
class Call:
    """One call of a kernel. arguments: places first, in the order of ``Loop.steps``."""

    kernel: str
    arguments: tuple[Place | Constant | Window | Between | Few | int, ...]
    loops: tuple[Loop, ...] = ()


@immutable
class Chain:
    """Calls that compute ``count`` numbers one by one, a few at a time: what lies between them takes no place in the arena.

    calls: arguments of theirs are also ``Between`` and ``Few``.
    """

    count: int
    calls: tuple[Call, ...]


#: Kernels that compute numbers one by one: the argument that counts them.
ONE_BY_ONE: Mapping[str, int] = {"add": 3, "add_proven": 3, "extremum": 3, "table": 2}


@immutable
class Step:
    """What one operator does.

    node: what the operator was written for. reads, writes: computed tensors. in_place: those of ``reads`` that ``writes``
    may lie on.
    """

    operator: str
    node: str
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    in_place: tuple[int, ...]
    calls: tuple[Call | Chain, ...]


def upright(window: Window) -> Window:
    """The same over an image that stands: each pair of sizes the other way round. The weights are the same, in their order."""
    height, width, channels, out_height, out_width, outs, *pairs, groups, zero_in, zero_out, low, high = window.numbers
    turned = [size for at in range(0, len(pairs), 2) for size in (pairs[at + 1], pairs[at])]
    numbers = (width, height, channels, out_width, out_height, outs, *turned, groups, zero_in, zero_out, low, high)
    return replace(window, numbers=numbers)


def bytes_of(data: Array) -> Constant:
    """int8 numbers as a constant."""
    return Constant("int8_t", tuple(np.asarray(data).astype(np.int8).reshape(-1).tolist()))


def words_of(data: Sequence[int]) -> Constant:
    """32-bit numbers as a constant."""
    return Constant("int32_t", tuple(int(value) for value in data))
