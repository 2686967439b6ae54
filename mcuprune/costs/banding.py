"""Which row bands a network is to run in under a budget.

A *recipe* says which regions run in bands and how, by the names of operators, so that it fits any cut of a network, in floats
or integers. ``in_bands`` takes the cheapest that holds the limits; where none does, the one that needs least.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field, replace
from itertools import count, product
from typing import Literal, NamedTuple, NoReturn

from mcuprune.bands.kernels import embedded, rows_to_add
from mcuprune.bands.plan import COUNTS, WORK, BandPlanner, Cost, Plan
from mcuprune.bands.rowgraph import RowGraph
from mcuprune.bands.tape import MODES, Choice, Mode
from mcuprune.costs import resources
from mcuprune.costs.embedding import sums, worthwhile
from mcuprune.costs.profiles import full_order
from mcuprune.costs.resources import RESOURCES, Additive, Basis, Profile
from mcuprune.deploy.lower import lower
from mcuprune.deploy.program import Arena
from mcuprune.errors import UsageError
from mcuprune.graph.network import Network
from mcuprune.immutable import immutable
from mcuprune.operators.fusion import buffers
from mcuprune.operators.table import OPS, Quantization
from mcuprune.schedule import search as memory

#: What of a network can be held against a limit in bands: the best schedule's peak, or TensorFlow Lite Micro's arena.
Model = Literal["peak", "tflm"]
#: A larger number of bands is taken for a slip: every band has operators of its own.
MOST_BANDS = 10_000
#: By how much the bound of a plan may lie above a limit that the best order of its operators may still hold.
_NEAR = (1.04, 1.08, 1.15, 1.25)
#: Numbers of bands whose arenas are compared. Every operator stays in memory there, so that many bands never pay.
_FEW = (2, 3, 4, 5, 6, 8)
#: Steps of tapes that may be written for one of an arena's plans, of which many are looked for.
_WORK = WORK // 8
#: By which factor each of them has less peak than the one before: an arena may hold a limit just below one that doesn't.
_CLOSE = 0.97
#: An arena that is so many times the least one yet may fall below it in another order.
_WORTH_ORDERING = 1.25
#: By how much less than in the order of its bands a network may need in another order, at most about.
_REORDERED = 1.15
#: About how many bytes of an arena each operator takes for itself at least.
_OPERATOR = 90
#: Without a limit: how many more multiply-accumulates bands may take, and how near to the least SRAM is near enough.
_MOST_MACS, _ENOUGH = 1.1, 1.03
#: The share of another plan's operators that is clearly fewer.
_FEWER = 0.8
#: CPU seconds for the best order of one plan's operators.
_ORDERING = 0.5
#: The same where only the arena of what comes of it counts, for each of many plans.
_REORDERING = 0.05
#: A region by the operators that make its first and its last tensor ("" for a graph's input), how many bands, and the mode.
Part = tuple[str, str, int, Mode]
#: MACs and operators more than as it is, a plan, and the convolutions whose kernels are embedded.
_Priced = tuple[Cost, Plan, tuple[str, ...]]
#: What a plan costs, or costs at least while it is still looked for.
_Found = tuple[Cost, _Priced | None]


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
    if text.isascii() and text.isdecimal() and 2 <= int(text[:6]) <= MOST_BANDS:
        return int(text[:6])
    raise UsageError(f"--bands {text}: write auto, off, or a number of bands from 2 to {MOST_BANDS}, as in --bands 4")


@immutable
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

    thorough: of an arena, plans of each number of bands by itself too, as ``_ways_to_run`` gives them.
    """
    limit, counts = banding.sram, COUNTS if banding.count is None else (banding.count,)
    if banding.model == "tflm":
        ways = _ways_to_run(banding, thorough=thorough)
        plans = [plan for only, mode in ways for plan in planner.pareto(counts=only, modes=(mode,), work=_WORK)]
    elif limit is not None and banding.count is None:
        plan = planner.cheapest(limit)
        plans = [planner.least() if plan is None else plan]
        near = [planner.cheapest(int(limit * factor), modes=("cache",)) for factor in _NEAR]
        # with the best order of its operators a cheaper one may do
        plans += [other for other in near if other is not None and (plan is None or _clearly_cheaper(other, plan))]
        if (plan is None or plan.macs > 0) and any(name != "sram" for name in banding.limits):
            plans.append(planner.least(modes=("cache",)))  # another limit may leave no room for anything
    else:
        plans = [planner.least(counts=counts), planner.least(counts=counts, modes=("cache",))]
    unlike = {recipe_of(alternative.choices): alternative for alternative in plans}
    return sorted(unlike.values(), key=lambda plan: plan.cost)


def _clearly_cheaper(plan: Plan, than: Plan) -> bool:
    """Whether a plan is so much cheaper that it is worth looking for a better order of its operators."""
    return max(0, plan.macs) < max(0, than.macs) or (plan.cost < than.cost and plan.operators <= _FEWER * than.operators)


def _ways_to_run(banding: Banding, *, thorough: bool = True) -> list[tuple[tuple[int, ...], Mode]]:
    """Numbers of bands and modes of which plans for an arena are looked for, each by itself.

    thorough: each number of bands by itself too. An arena's size isn't the peak that plans are looked for by, so that one
    number alone may do better than what is best of all by peak.
    """
    few = _FEW if banding.count is None else (banding.count,)
    sets = dict.fromkeys([few, *((number,) for number in few if thorough)])
    return list(product(sets, MODES))


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


@immutable
class Measured:
    """A network in numbers: bytes of peak and arena, multiply-accumulates, operators without quantisers."""

    profile: Profile
    arena: Arena
    operators: int

    def sram(self, model: Model) -> int:
        """Bytes of SRAM in this meaning: the arena, or the peak of activations."""
        return self.arena.total if model == "tflm" else self.profile.memory.peak


def measured(net: Network, profile: Profile | None = None) -> Measured:
    """profile: the network's, where it is known. Raises what ``resources.profile`` does."""
    return Measured(profile or resources.profile(net), lower(net).arena(offline=True), operators(net))


# ------------------------------------------------------------------------------------------------- a network, in bands


@immutable
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
    return replace(best, network=in_best_order(best.network))


def _chosen(net: Network, banding: Banding, recipes: Iterable[Recipe] = ()) -> Run:
    """``in_bands``; where the peak is limited in the order of the bands, for an arena in the one that needs less of it."""
    plain = sram_of(net, banding.model)
    if banding.count is None and (banding.sram is None or plain <= banding.sram):
        return Run(net, (), plain, BandPlanner(net))
    search = _Search(net, banding, plain, planners(net, banding))
    known = search.known(recipes)
    if banding.model == "tflm" and banding.count is None and search.among(search.for_arena(known)):
        return search.best
    search.among(search.in_turn(known))
    return search.best


class _Search:
    """The best way found to run one network in bands.

    plain: bytes of SRAM that the network needs as it is. ways: what plans its bands, by the embedded convolutions.
    best: holds the limit of SRAM at the least cost, or needs least.
    """

    def __init__(self, net: Network, banding: Banding, plain: int, ways: dict[tuple[str, ...], BandPlanner]) -> None:
        self.net, self.banding, self.ways, self.plain = net, banding, ways, plain
        self.own = banding.costs(net)
        self.limit = banding.sram if banding.count is None else None
        self.best = Run(net, (), plain, ways[()])
        self._least = (plain, (0, 0))
        self._floors = {names: _Floor(way, banding.model) for names, way in ways.items()}
        self._seen: set[Recipe] = set()

    def known(self, recipes: Iterable[Recipe]) -> list[_Priced]:
        """What recipes that are known to be good are for this network."""
        priced = []
        for recipe in recipes:
            if recipe.embedded not in self.ways and _embeddable(self.ways[()].net, recipe.embedded):
                way = BandPlanner(embedded(self.ways[()].net, recipe.embedded))
                self.ways[recipe.embedded], self._floors[recipe.embedded] = way, _Floor(way, self.banding.model)
            priced.append(_as_known(self.ways, recipe, self.own["macs"]))
        return [entry for entry in priced if entry is not None]

    def for_arena(self, known: Iterable[_Priced]) -> Iterator[_Priced]:
        """Plans that may hold the limit of an arena, about the cheapest first, each looked for when it is its turn."""
        assert self.limit is not None
        own = self.own["macs"]
        plain = [_priced(way, way.plain, names, own) for names, way in self.ways.items() if names]
        ready = sorted([entry for entry in (*known, *plain) if self._may_hold(entry)], key=_cost)
        order = count()
        # what a stream's next plan costs at least, a tie-breaker, the stream, and the plan once it is found
        queue: list[tuple[Cost, int, Iterator[_Found], _Priced | None]] = [
            ((0, 0), next(order), ((entry[0], entry) for entry in ready), None)
        ]
        for names, planner in self.ways.items():
            most = min(self._floors[names].most(self.limit), planner.plain.peak - 1)
            for counts, mode in _ways_to_run(self.banding):
                steps = planner.descending(most, most, counts=counts, modes=(mode,), work=_WORK, factor=_CLOSE)
                queue.append(((0, 0), next(order), self._with_costs(steps, names), None))
        while queue:
            _, place, stream, entry = heapq.heappop(queue)
            if entry is not None and self._may_hold(entry):
                yield entry
            if (following := next(stream, None)) is not None:
                heapq.heappush(queue, (following[0], place, stream, following[1]))

    def _with_costs(self, steps: Iterable[Plan | Cost], names: tuple[str, ...]) -> Iterator[_Found]:
        own = self.own["macs"]
        (macs, _), _, _ = _priced(self.ways[names], self.ways[names].plain, names, own)
        for plan in steps:
            if isinstance(plan, Plan):
                entry = _priced(self.ways[names], plan, names, own)
                yield entry[0], entry
            else:
                yield (macs + plan[0], plan[1]), None

    def _may_hold(self, entry: _Priced) -> bool:
        _, plan, names = entry
        return self.limit is not None and self._floors[names](plan) <= self.limit

    def in_turn(self, known: Iterable[_Priced]) -> list[_Priced]:
        """All plans in the order in which they are worth writing: those that may hold the limit, then those that need least."""
        plans = sorted([*by_cost(self.ways, self.banding, self.own["macs"]), *known], key=_cost)
        holding = [entry for entry in plans if self._may_hold(entry)]
        others = [entry for entry in plans if not self._may_hold(entry)]
        return holding + sorted(others, key=lambda entry: (self._floors[entry[2]](entry[1]), entry[0]))

    def among(self, plans: Iterable[_Priced]) -> bool:
        """Write one plan after the other and keep the best, until one holds the limit: whether one does."""
        for cost, plan, names in plans:
            recipe = recipe_of(plan.choices, names)
            if recipe in self._seen or self._floors[names](plan) > self._least[0]:
                continue
            self._seen.add(recipe)
            self._try(cost, plan, names)
            if self.limit is not None and self.best.network is not self.net and self.best.sram <= self.limit:
                return True
        return False

    def _try(self, cost: Cost, plan: Plan, names: tuple[str, ...]) -> None:
        banding = self.banding
        written = self.ways[names].written(plan)
        if not banding.admits(sums(written), self.own):
            return
        size = sram_of(written, banding.model)
        if banding.model == "tflm" and plan.choices and size < self._least[0] * _WORTH_ORDERING:
            size, written = _reordered(written, size)
        if size >= self.plain or (size, cost) >= self._least:
            return
        if not banding.whole or banding.admits(banding.costs(written), self.own):
            self.best, self._least = Run(written, plan.choices, size, self.ways[()], names), (size, cost)


def _cost(entry: _Priced) -> Cost:
    return entry[0]


class _Floor:
    """About how many bytes of SRAM a plan needs at least when it is written, without writing it; 0 where that can't be told.

    An arena holds what its operators and tensors take beside their data. Another order may need less than the plan's peak.
    """

    def __init__(self, planner: BandPlanner, model: Model) -> None:
        arena = lower(planner.net).arena(offline=True) if model == "tflm" else None
        # None too where the runtime leaves out some of the data
        self._tail = None if arena is None or arena.total < planner.plain.peak + arena.tail else arena.tail
        self._plain = planner.plain.peak

    def __call__(self, plan: Plan) -> int:
        if self._tail is None:
            return 0
        return int(plan.peak / _REORDERED) + self._tail + _OPERATOR * max(0, plan.operators)

    def most(self, limit: int) -> int:
        """Bytes of peak with which a plan may need no more than ``limit``."""
        return self._plain if self._tail is None else max(0, int((limit - self._tail) * _REORDERED))


def by_cost(ways: Mapping[tuple[str, ...], BandPlanner], banding: Banding, own: int, *, thorough: bool = True) -> list[_Priced]:
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
        return lower(net).arena(offline=True).total
    plan = buffers(net)
    in_file_order = max((step.bytes for step in plan.file_steps()), default=0)
    return min(in_file_order, memory.known(plan.graph, _ORDERING).peak)


def in_best_order(net: Network) -> Network:
    """The same network, its nodes in the order of least peak that ``profile`` will find of it as well.

    Where a search has to stop early, it may find still less from the order that it found before.
    """
    better = _in_better_order(net, 2.0)
    while better is not net:
        net, better = better, _in_better_order(better, 2.0)
    return net


def _in_better_order(net: Network, cpu_seconds: float) -> Network:
    """The same network, its nodes in the order of least peak found from their own; as it is where that needs no more."""
    plan = buffers(net)
    in_file_order = max((step.bytes for step in plan.file_steps()), default=0)
    best = memory.known(plan.graph, cpu_seconds)
    if best.peak >= in_file_order:
        return net
    return in_order(net, full_order(net, plan, best.order))


def _reordered(net: Network, arena: int) -> tuple[int, Network]:
    """The same network in the order of least peak, and its arena in bytes; as it is where that isn't less than ``arena``."""
    other = _in_better_order(net, _REORDERING)
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
