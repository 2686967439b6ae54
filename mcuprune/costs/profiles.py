"""The profile of a network: all its costs as integers, and where they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field

from mcuprune.channels.labelling import Channels, Group, label
from mcuprune.costs.basis import Basis, SramModel
from mcuprune.costs.measured import Layer, Measured, Memory, Moment
from mcuprune.costs.nodes import Terms
from mcuprune.costs.rows import RESOURCES, Additive, Resource, totals
from mcuprune.deploy.lower import lower
from mcuprune.deploy.program import Program
from mcuprune.errors import BudgetError, McupruneError
from mcuprune.graph.network import Network, Node, Shape
from mcuprune.immutable import immutable
from mcuprune.notebook import Drawn
from mcuprune.operators.fusion import Buffers, buffers
from mcuprune.schedule import search


@immutable
class Profile(Drawn):
    """What a network costs and where. ``total`` has sram, flash, macs and params, whose rows sum to it (sram: their maximum),
    and what is known of file, image and latency.

    alternatives: by name, the resources that a limit may be held against instead (``Resource.models``).
    unknown: by name, why a resource isn't known of this network.
    basis: the runtime and board that it was counted for.
    """

    path: str
    opset: int
    inputs: tuple[tuple[str, Shape], ...]
    outputs: tuple[tuple[str, Shape], ...]
    total: Mapping[str, int]
    memory: Memory
    groups: tuple[Group, ...]
    layers: tuple[Layer, ...]
    alternatives: Mapping[str, int]
    unknown: Mapping[str, str] = field(default_factory=dict)
    basis: Basis = field(default_factory=Basis)

    def __repr__(self) -> str:
        return f"<Profile of {self.path!r}: {', '.join(f'{name} {value}' for name, value in self.total.items())}>"

    @property
    def sram(self) -> int:
        """Bytes: the peak memory of activations, over the best execution order."""
        return self.total["sram"]

    @property
    def flash(self) -> int:
        """Bytes: weights, biases, scales and other constants, as int8 stores them."""
        return self.total["flash"]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return self.total["macs"]

    @property
    def params(self) -> int:
        """Weights and biases."""
        return self.total["params"]

    @property
    def arena(self) -> int:
        """Bytes of arena that TensorFlow Lite Micro with CMSIS-NN needs on a 32-bit core."""
        return self.memory.arena_tflm

    def used(self, basis: Basis | SramModel = "peak") -> dict[str, int]:
        """What a budget is checked against: ``total``, with ``sram`` and ``flash`` as ``basis`` wants them.

        Asking it for what isn't known of this network raises BudgetError with the reason.
        """
        used, known = _Used(self.total), {**self.total, **self.alternatives}
        for name, resource in RESOURCES.items():
            under = resource.under(Basis.of(basis).models.get(name)).name
            if under in known:
                used[name] = known[under]
            else:
                used.pop(name, None)
                why = self.unknown.get(under, "nobody counted it").removeprefix(f"{self.path}: ")
                used.unknown[name] = f"{self.path}: no limit of {resource.title} can be held: {why}"
        return used


class _Used(dict[str, int]):
    """Costs by resource, and of those that aren't known the reason."""

    def __init__(self, known: Mapping[str, int]) -> None:
        super().__init__(known)
        self.unknown: dict[str, str] = {}

    def __missing__(self, name: str) -> int:
        raise BudgetError(self.unknown[name]) if name in self.unknown else KeyError(name)


def profile(net: Network, basis: Basis | SramModel = "peak") -> Profile:
    """Measure a network, for the runtime and the board of ``basis``.

    Raises UnsupportedOperator for a node whose cost or channels are unknown.
    """
    basis = Basis.of(basis)
    channels = label(net)  # first: it refuses nodes whose shapes don't fit together
    seen = buffers(net)
    schedule = search.known(seen.graph)
    program = lower(net)
    plan = program.planned()
    memory = _memory(net, seen, schedule, program, plan)
    layers = _layers(net, {moment.node: moment.bytes for moment in memory.timeline})
    measured = Measured(
        network=net,
        layers=layers,
        program=program,
        memory=memory,
        plan=plan,
        basis=basis,
    )
    others = {other.name: other for resource in RESOURCES.values() for other in resource.models.values()}
    unknown: dict[str, str] = {}
    total = _counted(totals(), measured, unknown)
    alternatives = _counted(others, measured, unknown)
    return Profile(
        path=net.path,
        opset=net.opset,
        inputs=tuple((name, net.shapes[name]) for name in net.inputs),
        outputs=tuple((name, net.shapes[name]) for name in net.outputs),
        total=total,
        memory=memory,
        groups=in_order(channels),
        layers=layers,
        alternatives=alternatives,
        unknown=unknown,
        basis=basis,
    )


def _memory(net: Network, seen: Buffers, schedule: search.Schedule, program: Program, plan: Sequence[int]) -> Memory:
    """What is alive when, in the order of the schedule, and the arena of the program. plan: as the program gives it."""
    timeline = tuple(
        Moment(
            net.nodes[seen.nodes[step.op]].name,
            step.bytes,
            tuple((seen.tensors[b], seen.graph.sizes[b]) for b in step.buffers),
        )
        for step in schedule.steps
    )
    worst = next((moment for moment in timeline if moment.bytes == schedule.peak), None)
    arena = program.arena(plan=plan)
    return Memory(
        peak=schedule.peak,
        exact=schedule.exact,
        lower_bound=schedule.lower_bound,
        file_order=max((step.bytes for step in seen.file_steps()), default=schedule.peak),
        max_in_out=search.max_in_out(seen.graph),
        order=full_order(net, seen, schedule.order),
        peak_node=worst.node if worst else None,
        peak_tensors=worst.tensors if worst else (),
        timeline=timeline,
        arena_tflm=arena.total,
        arena_head=arena.head,
        arena_start=arena.start,
        tail=program.tail_by_cause(),
        copies=program.copies,
        unsupported=tuple(operator.why for operator in program.operators if operator.why),
        only_c=program.only_c(),
    )


def _counted(resources: Mapping[str, Resource], measured: Measured, unknown: dict[str, str]) -> dict[str, int]:
    """The costs that are known; ``unknown`` gets the reasons for the others."""
    costs: dict[str, int] = {}
    for name, resource in resources.items():
        if lacking := resource.lacks(measured.basis):
            unknown[name] = lacking
            continue
        try:
            costs[name] = resource.measure(measured)
        except McupruneError as error:
            unknown[name] = str(error)
    return costs


def in_order(channels: Channels) -> tuple[Group, ...]:
    """All groups, those that can't be cut too, in the order of the nodes that bear their channels."""
    position = {node.name: index for index, node in enumerate(channels.network.nodes)}
    groups = (*channels.groups, *channels.frozen)
    return tuple(sorted(groups, key=lambda group: min((position[node] for node in group.nodes), default=0)))


def _layers(net: Network, live: Mapping[str, int]) -> tuple[Layer, ...]:
    """A row for each node. live: bytes alive while a node runs, by its name."""
    terms = Terms(net, lambda tensor, axis: net.shapes[tensor][axis])
    shares = {name: resource.shares(terms) for name, resource in totals().items() if isinstance(resource, Additive)}

    def of_node(node: Node) -> dict[str, int]:
        return {"sram": live.get(node.name, 0), **{name: int(share.get(node.name, 0)) for name, share in shares.items()}}

    maker = {output: node.name for node in net.nodes for output in node.outputs}

    def reads(node: Node) -> tuple[str, ...]:
        return tuple(dict.fromkeys(maker[tensor] for tensor in node.inputs if tensor in maker))

    return tuple(Layer(node.name, node.op, net.shapes[node.outputs[0]], of_node(node), reads(node)) for node in net.nodes)


def full_order(net: Network, plan: Buffers, order: Iterable[int]) -> tuple[str, ...]:
    """All nodes in the order of the schedule, those that it leaves out right before their first reader."""
    scheduled = [plan.nodes[op] for op in order]
    position = {output: index for index, node in enumerate(net.nodes) for output in node.outputs if output}
    done: set[int] = set()
    names: list[str] = []
    for index in [*scheduled, *range(len(net.nodes))]:
        stack = [index]
        while stack:
            top = stack[-1]
            unmet = [position[name] for name in net.nodes[top].inputs if name in position and position[name] not in done]
            if top in done:
                stack.pop()
            elif unmet:
                stack.extend(unmet)
            else:
                done.add(stack.pop())
                names.append(net.nodes[top].name)
    return tuple(names)
