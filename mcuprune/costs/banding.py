"""Which row bands a network is to run in under a budget, and what its cuts cost in them.

Training and cutting work on the plain network; its file is written in bands, and computes the same. So a limit on SRAM is held
against what the network needs in bands: then pruning spends its channels where bands can't help.

A *recipe* says which regions run in bands and how, by the names of operators, so that it fits any cut of a network, in floats
or integers. ``BandedCosts`` knows a few: the plans that are best at some uniform scalings of the widths. Which of them counts,
at any widths, is the same rule as for a file that is written: the cheapest one that holds the limits; where none does, the one
that needs least. When the widths are final, ``in_bands`` plans once more for them, and takes one of the recipes only where
nothing cheaper holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Literal, NamedTuple, NoReturn

import numpy as np

from mcuprune.bands.kernels import embedded, rows_to_add
from mcuprune.bands.plan import COUNTS, BandPlanner, Plan
from mcuprune.bands.rowgraph import RowGraph
from mcuprune.bands.tape import MODES, Choice, Mode
from mcuprune.channels.labelling import Channels, label
from mcuprune.costs import resources
from mcuprune.costs.embedding import sums, worthwhile
from mcuprune.costs.functions import CostFunction, Regrouped
from mcuprune.costs.profiles import full_order
from mcuprune.costs.resources import RESOURCES, Additive, Basis, CostModel, Profile, Terms
from mcuprune.deploy import boards as runtimes
from mcuprune.errors import UsageError
from mcuprune.graph.network import Network
from mcuprune.operators.fusion import buffers
from mcuprune.operators.table import OPS, Quantization
from mcuprune.schedule import search as memory

#: What of a network can be held against a limit in bands: the best schedule's peak, or TensorFlow Lite Micro's arena.
Model = Literal["peak", "tflm"]
#: By how much the bound of a plan may lie above a limit that the best order of its operators may still hold.
_NEAR = (1.04, 1.08, 1.15, 1.25)
#: Numbers of bands whose arenas are compared. Every operator stays in memory there, so that many bands never pay.
_FEW = (2, 3, 4, 5, 6, 8)
#: By how much less than in the order of its bands a network may need in another order, at most about.
_REORDERED = 1.15
#: About how many bytes of an arena each operator takes for itself at least.
_OPERATOR = 90
#: Shares of all full widths for which plans are made before anything is cut.
_SCALES: Mapping[Model, tuple[float, ...]] = {"peak": (1.0, 0.75, 0.5, 0.35, 0.2), "tflm": (1.0, 0.5)}
#: Without a limit: how many more multiply-accumulates bands may take, and how near to the least SRAM is near enough.
_MOST_MACS, _ENOUGH = 1.1, 1.03
#: CPU seconds for the best order of one plan's operators.
_ORDERING = 0.5
#: The same where only the arena of what comes of it counts, for each of many plans.
_REORDERING = 0.05
#: A region by the operators that make its first and its last tensor ("" for a graph's input), how many bands, and the mode.
Part = tuple[str, str, int, Mode]
#: MACs and operators more than as it is, a plan, and the convolutions whose kernels are embedded.
_Priced = tuple[tuple[int, int], Plan, tuple[str, ...]]


class Recipe(NamedTuple):
    """How a network is written, for any form of it. parts: the regions in bands. embedded: convolutions (``bands.kernels``)."""

    parts: tuple[Part, ...] = ()
    embedded: tuple[str, ...] = ()

    @property
    def changes(self) -> bool:
        """Whether anything is written otherwise than the network is."""
        return bool(self.parts or self.embedded)


def parsed(bands: str | int) -> int | Literal[False] | None:
    """``--bands``: False for "off", None for "auto", or how many. Raises UsageError."""
    text = str(bands)
    if text in ("off", "auto"):
        return None if text == "auto" else False
    if text.isascii() and text.isdecimal() and 2 <= int(text[:6]) <= 10_000:
        return int(text[:6])
    raise UsageError(f"--bands {text}: write auto, off, or a number of bands from 2, as in --bands 4")


@dataclass(frozen=True)
class Banding:
    """How row bands may be used.

    model: what SRAM means. limits: by resource, in base units. count: so many bands where they lower SRAM most, limit or not;
    None for as few as the limits need, and none where they hold without. basis: what the other limits are held against.
    """

    model: Model
    limits: Mapping[str, int]
    count: int | None = None
    basis: Basis = field(default_factory=Basis)

    @property
    def sram(self) -> int | None:
        """The limit of SRAM in bytes."""
        return self.limits.get("sram")

    @property
    def counted(self) -> Basis:
        """What every limit is held against."""
        return replace(self.basis, sram=self.model)

    @property
    def whole(self) -> tuple[str, ...]:
        """The limited resources beside SRAM that no sum over nodes gives: a file's size, an estimate of time."""
        limited = {name: RESOURCES[name].under(self.basis.models.get(name)) for name in self.limits if name != "sram"}
        return tuple(name for name, resource in limited.items() if not isinstance(resource, Additive))

    def costs(self, net: Network) -> dict[str, int]:
        """What a network costs of all that may be limited beside SRAM."""
        whole = resources.profile(net, self.counted).used(self.counted) if self.whole else {}
        return sums(net) | {name: whole[name] for name in self.whole}

    def admits(self, costs: Mapping[str, int], plain: Mapping[str, int]) -> bool:
        """Whether bands may make these costs of a network's: each holds its limit, or is no more than ``plain``."""
        return all(costs[name] <= max(limit, plain[name]) for name, limit in self.limits.items() if name in costs)


def banding_of(bands: str | int, basis: Basis, limits: Mapping[str, int]) -> Banding | None:
    """What ``--bands`` asks for under these limits; None for no bands. Raises UsageError for what can't be had together."""
    count = parsed(bands)
    if count is False:
        return None
    if basis.sram == "max-in-out":
        raise UsageError("--bands: --sram-model max-in-out looks at one operator at a time; bands need peak or tflm")
    return Banding(basis.sram, limits, count, basis)


# ------------------------------------------------------------------------------------------------------ plans, by cost


def candidates(planner: BandPlanner, banding: Banding, *, thorough: bool = True) -> list[Plan]:
    """Plans of one network that may be the answer, the cheapest first.

    thorough: of an arena, those with each number of bands too. Its size isn't the peak that plans are looked for by, so that
    one number alone may do better than what is best of all by peak.
    """
    limit, counts = banding.sram, COUNTS if banding.count is None else (banding.count,)
    if banding.model == "tflm":
        few: Sequence[int] = _FEW if banding.count is None else counts
        sets = dict.fromkeys([tuple(few), *((number,) for number in few if thorough)])
        plans = [plan for only in sets for mode in MODES for plan in planner.pareto(counts=only, modes=(mode,))]
    elif limit is not None and banding.count is None:
        plan = planner.cheapest(limit)
        plans = [planner.least() if plan is None else plan]
        if plan is None or plan.macs > 0:  # with the best order of its operators a cheaper one may do
            near = [planner.cheapest(int(limit * factor), modes=("cache",)) for factor in _NEAR]
            plans += [other for other in near if other is not None and (plan is None or other.cost < plan.cost)]
            if any(name != "sram" for name in banding.limits):  # another limit may leave no room for anything
                plans.append(planner.least(modes=("cache",)))
    else:
        plans = [planner.least(counts=counts), planner.least(counts=counts, modes=("cache",))]
    unlike = {recipe_of(alternative.choices): alternative for alternative in plans}
    return sorted(unlike.values(), key=lambda plan: plan.cost)


def recipe_of(choices: Iterable[Choice], embedded: tuple[str, ...] = ()) -> Recipe:
    """Which regions run in bands and how, for another form of the same network."""
    parts = ((_maker(c.region.graph, c.region.start), _maker(c.region.graph, c.region.end), c.bands, c.mode) for c in choices)
    return Recipe(tuple(parts), embedded)


def _maker(graph: RowGraph, value: str) -> str:
    node = graph.values[value].maker
    return "" if node is None else node.name


def planners(net: Network, banding: Banding) -> dict[tuple[str, ...], BandPlanner]:
    """What plans bands of the network as it is, and as its kernels may be embedded; by the names of these convolutions."""
    planner_of: dict[tuple[str, ...], BandPlanner] = {(): BandPlanner(net)}
    if banding.model == "tflm" and (names := worthwhile(planner_of[()].net, banding.limits)):
        planner_of[names] = BandPlanner(embedded(planner_of[()].net, names))
    return planner_of


def plan_of(planner: BandPlanner, recipe: Recipe) -> Plan | None:
    """The plan that a recipe is for this network, its kernels embedded already; None where it lacks one of the regions."""
    place = {_maker(planner.graph, name): index for index, name in enumerate(planner.graph.cuts)}
    choices = []
    for start, end, bands, mode in recipe.parts:
        if start not in place or end not in place or place[end] not in planner.ends(place[start]):
            return None
        choice = planner.choice(place[start], place[end], bands, mode)
        if choice is None:
            return None
        choices.append(choice)
    return planner.plan(choices)


def operators(net: Network) -> int:
    """How many operators run, without quantisers."""
    return sum(not isinstance(OPS[node.op], Quantization) for node in net.nodes)


@dataclass(frozen=True)
class Measured:
    """A network in numbers: bytes of peak and arena, multiply-accumulates, operators without quantisers."""

    profile: Profile
    arena: runtimes.Arena
    operators: int

    def sram(self, model: Model) -> int:
        """Bytes of SRAM in this meaning: the arena, or the peak of activations."""
        return self.arena.total if model == "tflm" else self.profile.memory.peak


def measured(net: Network, profile: Profile | None = None) -> Measured:
    """profile: the network's, where it is known. Raises what ``resources.profile`` does."""
    return Measured(profile or resources.profile(net), runtimes.arena_tflm(net, offline=True), operators(net))


# ------------------------------------------------------------------------------------------------- a network, in bands


@dataclass(frozen=True)
class Run:
    """A network as it runs in bands.

    choices: the regions, none where it stays as it is. sram: bytes, at most. planner: of the network as it is.
    embedded: convolutions whose kernels lie among zeros (``bands.kernels``).
    """

    network: Network
    choices: tuple[Choice, ...]
    sram: int
    planner: BandPlanner
    embedded: tuple[str, ...] = ()


def in_bands(net: Network, banding: Banding, recipes: Iterable[Recipe] = ()) -> Run:
    """The network with the cheapest bands that hold the limits; where none do, with those that need least.

    It stays as it is where it holds the limits so, unless a number of bands is asked for, and where nothing needs less.
    recipes: bands that are known to be good for networks like this one.
    """
    best = _chosen(net, banding, recipes)
    if banding.model == "tflm" or best.network is net:
        return best
    return replace(best, network=_in_best_order(best.network))


def _chosen(net: Network, banding: Banding, recipes: Iterable[Recipe] = ()) -> Run:
    """``in_bands``; where the peak is limited in the order of the bands, for an arena in the one that needs less of it."""
    plain = sram_of(net, banding.model)
    if banding.count is None and (banding.sram is None or plain <= banding.sram):
        return Run(net, (), plain, BandPlanner(net))
    known, own = tuple(recipes), banding.costs(net)
    ways = planners(net, banding)
    planner = ways[()]
    plans = _by_cost(ways, banding, own["macs"])
    for recipe in known:
        if recipe.embedded not in ways and _embeddable(planner.net, recipe.embedded):
            ways[recipe.embedded] = BandPlanner(embedded(planner.net, recipe.embedded))
    plans += [priced for recipe in known if (priced := _as_known(ways, recipe, own["macs"])) is not None]
    limit = banding.sram if banding.count is None else None
    floors = {names: _floor(way, banding.model) for names, way in ways.items()}
    best: Run | None = None
    least: tuple[int, tuple[int, int]] = (plain, (0, 0))
    for cost, plan, names in _in_turn(plans, floors, limit):
        if floors[names](plan) > least[0]:
            continue
        written = ways[names].written(plan)
        if not banding.admits(sums(written), own):
            continue
        size = sram_of(written, banding.model)
        if banding.model == "tflm" and plan.choices and size < least[0] * _NEAR[-1]:
            size, written = _reordered(written, size)
        if size < plain and (size, cost) < least and (not banding.whole or banding.admits(banding.costs(written), own)):
            best, least = Run(written, plan.choices, size, planner, names), (size, cost)
        if limit is not None and best is not None and best.sram <= limit:
            break
    return Run(net, (), plain, planner) if best is None else best


def _floor(planner: BandPlanner, model: Model) -> Callable[[Plan], int]:
    """About how many bytes of SRAM a plan needs at least when it is written, known without writing it; 0 where that isn't.

    An arena holds what its operators and tensors take beside their data. Another order may need less than the plan's peak.
    """
    if model == "peak":
        return lambda plan: 0
    arena = runtimes.arena_tflm(planner.net, offline=True)
    if arena.total < planner.plain.peak + arena.tail:
        return lambda plan: 0  # the runtime leaves out some of the data
    return lambda plan: int(plan.peak / _REORDERED) + arena.tail + _OPERATOR * max(0, plan.operators)


def _in_turn(
    plans: Iterable[_Priced], floors: Mapping[tuple[str, ...], Callable[[Plan], int]], limit: int | None
) -> list[_Priced]:
    """Plans in the order in which they are worth writing: those that may hold a limit, the cheapest first, then the others."""

    def turn(entry: _Priced) -> tuple[bool, int, tuple[int, int]]:
        cost, plan, names = entry
        floor = floors[names](plan)
        return (False, 0, cost) if limit is not None and floor <= limit else (True, floor, cost)

    return sorted(plans, key=turn)


def _by_cost(
    ways: Mapping[tuple[str, ...], BandPlanner], banding: Banding, own: int, *, thorough: bool = True
) -> list[_Priced]:
    """Plans with the kernels that they go with, the cheapest first. own: MACs of the network as it is."""
    priced: list[_Priced] = []
    for names, planner in ways.items():
        plans = candidates(planner, banding, thorough=thorough)
        if names and banding.count is None:
            plans.append(planner.plain)
        unlike = {recipe_of(plan.choices): plan for plan in plans if plan.choices or names}
        priced += [_priced(planner, plan, names, own) for plan in unlike.values()]
    return sorted(priced, key=lambda entry: entry[0])


def _priced(planner: BandPlanner, plan: Plan, names: tuple[str, ...], own: int) -> _Priced:
    return (max(0, plan.macs + sums(planner.net)["macs"] - own), plan.operators), plan, names


def _as_known(ways: Mapping[tuple[str, ...], BandPlanner], recipe: Recipe, own: int) -> _Priced | None:
    """A recipe for this network, with just the kernels that it was priced with; None where the network lacks any of it."""
    planner = ways.get(recipe.embedded)
    plan = None if planner is None else plan_of(planner, recipe)
    return None if planner is None or plan is None else _priced(planner, plan, recipe.embedded, own)


def _embeddable(net: Network, names: Iterable[str]) -> bool:
    """Whether all of these are convolutions whose kernels may lie among zeros."""
    by_name = {node.name: node for node in net.nodes}
    return all(name in by_name and rows_to_add(by_name[name], net) for name in names)


def least(net: Network, model: Model, count: int | None = None) -> Run:
    """The network in the bands that need about the least SRAM, without a limit to say how much is enough.

    A few more bytes are nothing against many more operators, and nor are any against many more multiply-accumulates.
    count: so many bands, or as many as it takes.
    """
    macs = {"macs": int(sums(net)["macs"] * _MOST_MACS)}
    if count is not None:
        return in_bands(net, Banding(model, macs, count))
    run = _chosen(net, Banding(model, {**macs, "sram": 0}))
    return in_bands(net, Banding(model, {**macs, "sram": int(run.sram * _ENOUGH)}))


def sram_of(net: Network, model: Model) -> int:
    """Bytes that a network needs: the peak in the best order found with little effort, or the arena."""
    if model == "tflm":
        return runtimes.arena_tflm(net, offline=True).total
    plan = buffers(net)
    in_file_order = max((step.bytes for step in plan.file_steps()), default=0)
    return min(in_file_order, memory.known(plan.graph, _ORDERING).peak)


def _in_best_order(net: Network, cpu_seconds: float = 2.0) -> Network:
    """The same network, its nodes in the order of least peak where their own needs more."""
    plan = buffers(net)
    in_file_order = max((step.bytes for step in plan.file_steps()), default=0)
    best = memory.known(plan.graph, cpu_seconds)
    if best.peak >= in_file_order:
        return net
    return in_order(net, full_order(net, plan, best.order))


def _reordered(net: Network, arena: int) -> tuple[int, Network]:
    """The same network in the order of least peak, and its arena in bytes; as it is where that isn't less than ``arena``."""
    other = _in_best_order(net, _REORDERING)
    size = arena if other is net else sram_of(other, "tflm")
    return (size, other) if size < arena else (arena, net)


def in_order(net: Network, order: Iterable[str]) -> Network:
    """The network with its nodes in this order, by their names."""
    by_name = {node.name: node for node in net.nodes}
    return replace(net, nodes=tuple(by_name[name] for name in order))


def refuse_count(planner: BandPlanner, count: int) -> NoReturn:
    """Raise UsageError: nothing gains from so many bands."""
    endings = planner.graph.endings()
    named = f"; {endings[0].op} '{endings[0].node}' {endings[0].why}" if endings else ""
    raise UsageError(
        f"{planner.net.path}: --bands {count}: no part of the network gains from {count} bands of rows{named}: give "
        "another number"
    )


# ---------------------------------------------------------------------------------------------- costs as functions of widths


class _Plain:
    """The network as it is."""

    recipe = Recipe()
    operators = 0

    def __init__(self, model: BandedCosts) -> None:
        self._model, self._function = model, model.functions["sram"]

    def sram(self, widths: np.ndarray) -> int:
        return self._function.value(widths)

    def gradient(self, widths: np.ndarray) -> np.ndarray:
        return self._function.gradient(widths)

    def sums(self, widths: np.ndarray) -> dict[str, int]:
        return self._model.sums(widths)

    def cost(self, name: str) -> CostFunction:
        return self._model.of_plain[name]


class _InBands:
    """All cuts of a network that runs in the same bands. Copies of an operator share its weights, and so its channels.

    Of the peak it is the order of the bands that counts. The best order of the file that is written needs no more.
    """

    def __init__(self, plain: BandedCosts, net: Network, recipe: Recipe, added: int) -> None:
        """net: the network in bands, at its full widths. Raises ValueError where its groups aren't those of ``plain``."""
        channels = label(net)
        self.recipe, self.operators = recipe, added
        self._groups = _same_groups(plain.channels, channels)
        self._n = len(plain.channels.groups)
        least = plain.least[self._groups]
        bounded = tuple(replace(g, minimum=int(width)) for g, width in zip(channels.groups, least, strict=True))
        self._model = CostModel(replace(channels, groups=bounded), plain.basis)
        terms = Terms(net, self._model.dim)
        self._additive = plain.additive()
        self._sums = self._model.compiled([sum(resource.shares(terms).values()) for resource in self._additive.values()])

    def sram(self, widths: np.ndarray) -> int:
        own = widths[self._groups]
        if self._model.basis.sram == "tflm":
            return self._model.functions["sram"].value(own)
        return self._steps(own)[0].bytes

    def gradient(self, widths: np.ndarray) -> np.ndarray:
        own = widths[self._groups]
        if self._model.basis.sram == "tflm":
            slope = self._model.functions["sram"].gradient(own)
        else:
            structure, steps = self._model.structure(own), self._steps(own)
            weight = np.zeros(structure.sizes.count)
            for step in steps:
                weight[list(step.buffers)] += 1 / len(steps)
            slope = structure.sizes.gradient(own, weight)
        return np.bincount(self._groups, slope, self._n)

    def sums(self, widths: np.ndarray) -> dict[str, int]:
        return dict(zip(self._additive, map(int, self._sums.values(widths[self._groups])), strict=True))

    def cost(self, name: str) -> CostFunction:
        """Of one of the resources that no sum gives."""
        return Regrouped(self._model.functions[name], self._groups, self._n)

    def _steps(self, own: np.ndarray) -> Sequence[memory.Step]:
        structure = self._model.structure(own)
        sizes = structure.sizes.values(own).tolist()
        return structure.in_file_order.peak_steps(sizes)


def _same_groups(plain: Channels, banded: Channels) -> np.ndarray:
    """For each group of the network in bands the one that it is in the plain network: int64 (groups,).

    Both read the same constants under the same names; channels that cut the same slices of them are the same.
    """
    owner = {component: index for index, group in enumerate(plain.groups) for component in group.components}
    of_slice = {
        (slot.constant, slot.axis, place): owner.get(int(component), -1)
        for slot in plain.slots
        if slot.by_group is None
        for place, component in enumerate(slot.components)
    }
    ours = {component: index for index, group in enumerate(banded.groups) for component in group.components}
    met: dict[int, set[int]] = {}
    for slot in banded.slots:
        for place, component in enumerate(slot.components if slot.by_group is None else ()):
            theirs = of_slice.get((slot.constant, slot.axis, place))
            if theirs is not None and int(component) in ours:
                met.setdefault(ours[int(component)], set()).add(theirs)
    if len(met) != len(banded.groups) or len(met) != len(plain.groups) or any(len(same) != 1 for same in met.values()):
        raise ValueError("other groups of channels")
    order = [next(iter(met[index])) for index in range(len(banded.groups))]
    sizes = [len(plain.groups[index]) for index in order]
    if sorted(order) != list(range(len(plain.groups))) or sizes != [len(group) for group in banded.groups]:
        raise ValueError("other groups of channels")
    return np.array(order, dtype=np.int64)


@dataclass(frozen=True)
class _OfPicked:
    """A cost other than SRAM in the bands that the rule picks at the widths. Other widths may be run otherwise."""

    model: BandedCosts
    name: str
    monotone = False

    def value(self, widths: np.ndarray) -> int:
        return self.model.pick(widths)[0].cost(self.name).value(widths)

    def gradient(self, widths: np.ndarray) -> np.ndarray:
        return self.model.pick(widths)[0].cost(self.name).gradient(widths)

    def least(self) -> int:
        """Without bands, which add to everything but SRAM."""
        return self.model.of_plain[self.name].least()


class _BandedSram:
    """SRAM in the bands that the rule picks at the widths. What it takes to hold a limit grows with every width."""

    def __init__(self, model: BandedCosts, *, monotone: bool) -> None:
        self._model, self._monotone = model, monotone

    @property
    def monotone(self) -> bool:
        return self._monotone

    def value(self, widths: np.ndarray) -> int:
        return self._model.pick(widths)[1]

    def gradient(self, widths: np.ndarray) -> np.ndarray:
        return self._model.pick(widths)[0].gradient(widths)

    def least(self) -> int:
        """Every input of the network and every part that can't run in bands, each group at its minimum."""
        return self._model.least_conceivable


class BandedCosts(CostModel):
    """The resources of every cut of a labelled network that is written in row bands.

    banding: how they may be used; its limits say which bands count at which widths.
    """

    def __init__(self, channels: Channels, banding: Banding) -> None:
        super().__init__(channels, banding.counted)
        self.banding = banding
        self.of_plain = self.functions
        self._plain = _Plain(self)
        self._picked: dict[bytes, tuple[_Plain | _InBands, int]] = {}
        monotone = self.functions["sram"].monotone
        picked = {name: _OfPicked(self, name) for name in banding.whole}
        self.functions = {**self.functions, **picked, "sram": _BandedSram(self, monotone=monotone)}

    def of(self, channels: Channels) -> BandedCosts:
        return BandedCosts(channels, self.banding)

    def at(self, widths: np.ndarray) -> dict[str, int]:
        form, size = self.pick(widths)
        return {**super().at(widths), **form.sums(widths), **self._whole(form, widths), "sram": size}

    def _whole(self, form: _Plain | _InBands, widths: np.ndarray) -> dict[str, int]:
        """The limited costs that no sum gives; they take longest."""
        return {name: form.cost(name).value(widths) for name in self.banding.whole}

    def refuse_idle(self) -> None:
        """Raise UsageError where a number of bands is asked for that helps at no sample of widths, the full ones among them.

        Other limits have no say here: what bands cost beside SRAM may well hold them once the network is cut.
        """
        if self.banding.count is None:
            return
        if not any(form.sram(widths) < self._plain.sram(widths) for form in self._forms for widths in self._samples):
            refuse_count(BandPlanner(self.channels.network), self.banding.count)

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """The bands that are known for the cuts of this network."""
        return tuple(form.recipe for form in self._forms)

    def pick(self, widths: np.ndarray) -> tuple[_Plain | _InBands, int]:
        """How the network runs at these widths, and the SRAM that it takes, in bytes."""
        key = widths.tobytes()
        if key not in self._picked:
            self._picked[key] = self._pick(widths)
        return self._picked[key]

    def _pick(self, widths: np.ndarray) -> tuple[_Plain | _InBands, int]:
        banding, limit = self.banding, self.banding.sram
        best: tuple[_Plain | _InBands, int] = (self._plain, self._plain.sram(widths))
        if banding.count is None and (limit is None or best[1] <= limit):
            return best
        own = self.sums(widths)
        whole = self._whole(self._plain, widths)
        forms = sorted(self._forms, key=lambda form: (max(0, form.sums(widths)["macs"] - own["macs"]), form.operators))
        for form in forms:
            if not banding.admits(form.sums(widths), own):
                continue
            size = form.sram(widths)
            if size < best[1] and banding.admits(self._whole(form, widths), whole):
                best = (form, size)
            if banding.count is None and limit is not None and best[1] <= limit:
                break
        return best

    @cached_property
    def least_conceivable(self) -> int:
        """Bytes that no widths and no bands undercut."""
        planner = BandPlanner(self.cut(self.least))
        if self.banding.model == "peak":
            return planner.least_conceivable()
        program = runtimes.program(planner.net)
        return planner.least_conceivable() + program.tail(program.quantities)

    @cached_property
    def _samples(self) -> list[np.ndarray]:
        """Widths for which plans are made, the full ones first."""
        scaled = [np.maximum(self.least, (self.full * share).astype(np.int64)) for share in _SCALES[self.banding.model]]
        return list({widths.tobytes(): widths for widths in (*scaled, self.least)}.values())

    @cached_property
    def _forms(self) -> tuple[_InBands, ...]:
        """The network in every band that the rule may pick at one of the samples."""
        plain = BandPlanner(self.channels.network).net
        whole: dict[tuple[str, ...], BandPlanner] = {}
        forms: dict[Recipe, _InBands | None] = {}
        for widths in self._samples:
            cut = self.cut(widths)
            own = sums(cut)["macs"]
            for _, plan, names in _by_cost(planners(cut, self.banding), self.banding, own, thorough=False):
                recipe = recipe_of(plan.choices, names)
                if recipe in forms:
                    continue
                if names not in whole:
                    whole[names] = BandPlanner(embedded(plain, names))
                fitted = plan_of(whole[names], recipe)
                forms[recipe] = None if fitted is None else self._form(whole[names].written(fitted), recipe)
        usable = [form for form in forms.values() if form is not None]
        useful = self._useful(usable)
        return tuple(form for form in usable if form in useful)

    def _form(self, net: Network, recipe: Recipe) -> _InBands | None:
        """None where the channels of the network in bands aren't those of the plain one."""
        try:
            return _InBands(self, net, recipe, operators(net) - operators(self.channels.network))
        except ValueError:
            return None

    def _useful(self, forms: Sequence[_InBands]) -> set[_InBands]:
        """The forms that are the rule's pick at some sample, whether or not the other limits leave room for more MACs."""
        useful: set[_InBands] = set()
        for widths, spare in product(self._samples, (True, False)):
            own = self.sums(widths)["macs"]
            more = {form: max(0, form.sums(widths)["macs"] - own) for form in forms}
            allowed = [form for form in forms if spare or not more[form]]
            sizes = {form: form.sram(widths) for form in allowed}
            holding = [form for form in allowed if self.banding.sram is not None and sizes[form] <= self.banding.sram]
            if holding:
                useful.add(min(holding, key=lambda form: (more[form], form.operators)))
            if allowed:
                useful.add(min(allowed, key=lambda form: (sizes[form], more[form], form.operators)))
        return useful
