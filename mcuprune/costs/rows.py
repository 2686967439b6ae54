"""The resources that a network costs and a budget limits: one object each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import field
from math import ceil
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from mcuprune.costs.basis import Basis
from mcuprune.costs.functions import ArenaSize, CBytes, CostFunction, Cuts, FileBytes, LargestStep, Time
from mcuprune.costs.measured import Measured
from mcuprune.costs.nodes import Terms
from mcuprune.deploy import codesize
from mcuprune.deploy.boards import board
from mcuprune.deploy.latency import CLASSES, coefficients, macs_by_class
from mcuprune.immutable import immutable
from mcuprune.schedule import search as memory
from mcuprune.units import Unit


class Model(Cuts, Protocol):
    """What a resource needs of the cost model."""

    basis: Basis

    def schedule(self, widths: np.ndarray) -> memory.Schedule:
        """The best schedule found at these widths."""

    def sum_of(self, resource: Additive) -> CostFunction:
        """The function of one of the resources that add up."""


@immutable(kw_only=True)
class Resource(ABC):
    """Something that a network costs: what it is called, how it is measured, and how it follows from the widths.

    An object in RESOURCES is all that a limit takes: the flag, the key of a configuration's budget, the columns of reports, the
    fields of JSON and of the history, and the gradient that pruning follows come from it.

    name: as in the flag ``--NAME``. title: as in a table. meaning: a phrase that says what is counted.
    models: what a limit on it may be held against instead, by the words that ``--NAME-model`` takes for that.
    place: where the JSON of a profile has it; None for ``total.NAME``.
    share: how the shares of nodes make the whole, their sum or their maximum; None where single nodes have none.
    """

    name: str
    unit: Unit
    title: str
    meaning: str
    models: Mapping[str, Resource] = field(default_factory=dict, compare=False)
    place: tuple[str, str] | None = None
    share: ClassVar[Literal["sum", "max"] | None] = None

    @property
    def metavar(self) -> str:
        """What the help of its flag writes for a value."""
        return {"bytes": "SIZE|%", "count": "COUNT|%", "time": "TIME|%"}[self.unit]

    def under(self, model: str | None) -> Resource:
        """What a limit is held against where ``--NAME-model`` is ``model``: one of ``models``, or else the resource itself."""
        return self if model is None else self.models.get(model, self)

    def lacks(self, basis: Basis) -> str:
        """What is missing for it to be known at all; "" where nothing is."""
        return ""

    @abstractmethod
    def measure(self, measured: Measured) -> int:
        """What a network costs, in base units. Raises a McupruneError, with the reason, where that isn't known."""

    @abstractmethod
    def function(self, model: Model) -> CostFunction:
        """What the cuts of a network cost."""


@immutable(kw_only=True)
class Additive(Resource):
    """A resource that adds up over nodes.

    shares: what each node has of it, by the node's name, of ``Terms`` in integers or in polynomials; nodes without any may be
    left out. It multiplies and adds sizes and integers, at most two sizes in a product, and compares nothing.
    """

    shares: Callable[[Terms], Mapping[str, Any]] = field(compare=False)
    share = "sum"

    def measure(self, measured: Measured) -> int:
        return sum(layer.costs[self.name] for layer in measured.layers)

    def function(self, model: Model) -> CostFunction:
        return model.sum_of(self)


@immutable(kw_only=True)
class _Peak(Resource):
    """The peak of the best schedule."""

    share = "max"

    def measure(self, measured: Measured) -> int:
        return measured.memory.peak

    def function(self, model: Model) -> CostFunction:
        return LargestStep(model, lambda structure, widths: model.schedule(widths).peak_steps)


@immutable(kw_only=True)
class _Arena(Resource):
    """The arena of TensorFlow Lite Micro in the file's order; unknown where no file can be written for it."""

    def measure(self, measured: Measured) -> int:
        measured.program.check()
        measured.program.check_forms()
        return measured.memory.arena_tflm

    def function(self, model: Model) -> CostFunction:
        return ArenaSize(model)


@immutable(kw_only=True)
class _MaxInOut(Resource):
    """The largest inputs and outputs of one operator."""

    def measure(self, measured: Measured) -> int:
        return measured.memory.max_in_out

    def function(self, model: Model) -> CostFunction:
        return LargestStep(model, lambda at, widths: memory.widest(at.graph, at.sizes.values(widths).tolist()))


@immutable(kw_only=True)
class _File(Resource):
    """What export writes for the runtime: the .tflite file, or the constants of generated C; with ``runs`` the code too.

    Of a float network, the constants of C are those of the int8 one, but for arrays that turn out equal and are stored once.
    """

    runs: bool = False

    def measure(self, measured: Measured) -> int:
        program, runtime = measured.program, measured.basis.runtime
        program.check()
        if runtime == "c":
            quantised = any(node.op == "QuantizeLinear" for node in measured.network.nodes)
            return codesize.of_c(program, known=quantised, runs=self.runs)
        program.check_forms()
        return measured.file + (codesize.of_program(program, runtime) if self.runs else 0)

    def function(self, model: Model) -> CostFunction:
        if model.basis.runtime == "c":
            return CBytes(model, runs=self.runs)
        return FileBytes(model, model.basis.runtime if self.runs else None)


@immutable(kw_only=True)
class _Latency(Resource):
    """The upper end of the estimate of time, in microseconds. It needs a board, and data for the runtime on its core."""

    def lacks(self, basis: Basis) -> str:
        if basis.board is None:
            return "an estimate of time needs a board; add --board NAME"
        on = board(basis.board)
        if coefficients(basis.runtime, on.core) is None:
            return f"nobody published how fast {basis.runtime} is on a {on.core}; choose another --runtime or --board"
        return ""

    def measure(self, measured: Measured) -> int:
        counted = macs_by_class(measured.network)
        return ceil(float(self._weights(measured.basis) @ np.array([counted[name] for name in CLASSES])))

    def function(self, model: Model) -> CostFunction:
        return Time(model, self._weights(model.basis))

    def _weights(self, basis: Basis) -> np.ndarray:
        """Microseconds for one multiply-accumulate of each of CLASSES."""
        assert basis.board is not None
        on = board(basis.board)
        speed = coefficients(basis.runtime, on.core)
        assert speed is not None
        return np.array([(cycles or 0.0) * speed.high / on.mhz for cycles in speed.cycles])


_ARENA = _Arena(
    name="arena",
    unit="bytes",
    title="arena",
    meaning="arena of TensorFlow Lite Micro with CMSIS-NN on a 32-bit core",
    place=("memory", "arena_tflm"),
)
_MAX_IN_OUT = _MaxInOut(
    name="max_in_out",
    unit="bytes",
    title="largest operator",
    meaning="inputs and outputs of the largest operator",
    place=("memory", "max_in_out"),
)
FILE = _File(name="file", unit="bytes", title="file", meaning="the .tflite that export writes, or the constants of C")
IMAGE = _File(
    name="image",
    unit="bytes",
    title="image",
    meaning="what is flashed: constants as they are written, and code of the runtime",
    runs=True,
)
#: What every profile counts, and no budget limits.
PARAMS = Additive(
    name="params",
    unit="count",
    title="params",
    meaning="weights and biases",
    shares=lambda terms: {node: cost.params for node, cost in terms.costs.items()},
)
#: What a budget can limit, by name.
RESOURCES: dict[str, Resource] = {
    resource.name: resource
    for resource in (
        _Peak(
            name="sram",
            unit="bytes",
            title="SRAM",
            meaning="peak memory of activations, over the best execution order",
            models={"tflm": _ARENA, "max-in-out": _MAX_IN_OUT},
        ),
        Additive(
            name="flash",
            unit="bytes",
            title="flash",
            meaning="weights, biases, scales and other constants, as int8 stores them",
            shares=lambda terms: {node: cost.flash for node, cost in terms.costs.items()},
            models={"file": FILE, "image": IMAGE},
        ),
        Additive(
            name="macs",
            unit="count",
            title="MACs",
            meaning="multiply-accumulates of one inference",
            shares=lambda terms: {node: cost.macs for node, cost in terms.costs.items()},
        ),
        _Latency(
            name="latency",
            unit="time",
            title="estimated latency",
            meaning="time of one inference on a board, the upper end of an estimate",
        ),
    )
}


def totals() -> dict[str, Resource]:
    """All that a profile counts of a whole network, by name: RESOURCES, and what no budget limits by that name."""
    return {**RESOURCES, **{resource.name: resource for resource in (PARAMS, FILE, IMAGE)}}


def columns() -> dict[str, Resource]:
    """The resources that nodes have a share of, by name."""
    return {name: resource for name, resource in RESOURCES.items() if resource.share is not None}
