"""What is known of one network before its costs are counted: rows of nodes, memory over time, the program of the chip."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

from mcuprune.costs.basis import Basis
from mcuprune.deploy.flatbuffer import file_size
from mcuprune.deploy.program import Copy, Program, Tail
from mcuprune.graph.network import Network, Shape
from mcuprune.immutable import immutable


@immutable
class Layer:
    """One node's row of a profile. costs: its share of each resource that has shares, by the resource's name.

    Of ``sram`` the share is the bytes alive while the node runs, 0 for a node that does nothing at run time.
    reads: names of the nodes whose outputs it takes, in the order of its inputs.
    """

    node: str
    op: str
    shape: Shape
    costs: Mapping[str, int]
    reads: tuple[str, ...] = ()

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return self.costs["macs"]

    @property
    def flash(self) -> int:
        """Bytes of constants."""
        return self.costs["flash"]

    @property
    def params(self) -> int:
        """Weights and biases."""
        return self.costs["params"]

    @property
    def live(self) -> int:
        """Bytes alive while the node runs."""
        return self.costs["sram"]


class Moment(NamedTuple):
    """What is alive, in bytes, while one node runs. An output written in place isn't listed, the tensor under it is."""

    node: str
    bytes: int
    tensors: tuple[tuple[str, int], ...]


@immutable
class Memory:
    """Peak SRAM in bytes. ``peak`` is achieved by ``order``; ``lower_bound`` holds for every order; equal where ``exact``.

    file_order: the peak of the file's own order. max_in_out: the largest inputs plus outputs of one operator, which
    under-estimates. peak_tensors: what is alive at the first step that needs the peak.
    timeline: for each step of ``order`` that runs at all its node, the bytes alive, and the tensors that they belong to.
    arena_tflm: what TensorFlow Lite Micro with CMSIS-NN needs on a 32-bit core for the file that export writes of the network.
    arena_head: of it, activations and scratch; tail: the rest, by cause. arena_start: what its interpreter needs to start, an
    upper bound, which is more where activations are few.
    copies: tensors that the file for it makes for what the peak counts as free, each with its node and the reason.
    unsupported: why the network can't run there as it is: nodes without an int8 kernel. only_c: the first node of a form
    that the kernel there doesn't take and generated C does. Empty where there is none.
    """

    peak: int
    exact: bool
    lower_bound: int
    file_order: int
    max_in_out: int
    order: tuple[str, ...]
    peak_node: str | None
    peak_tensors: tuple[tuple[str, int], ...]
    timeline: tuple[Moment, ...]
    arena_tflm: int
    copies: tuple[Copy, ...] = ()
    unsupported: tuple[str, ...] = ()
    only_c: str = ""
    arena_head: int = 0
    arena_start: int = 0
    tail: Tail | None = None


@immutable
class Measured:
    """What the resources of one network are measured on.

    program: what TensorFlow Lite Micro would run of it. plan: the memory plan in its file. basis: what limits mean.
    """

    network: Network
    layers: tuple[Layer, ...]
    program: Program
    memory: Memory
    plan: tuple[int, ...]
    basis: Basis

    @cached_property
    def file(self) -> int:
        """Bytes of the .tflite file that export writes. Raises what keeps the program from being written."""
        self.program.check()
        return file_size(self.program, planned=bool(self.plan)).at(())
