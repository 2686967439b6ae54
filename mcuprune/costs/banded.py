"""What the cuts of a network cost that is written in row bands.

Training and cutting work on the plain network; its file is written in bands, and computes the same. So a limit on SRAM is held
against what the network needs in bands: then pruning spends its channels where bands can't help.

``BandedCosts`` knows a few recipes: the plans that are best at some uniform scalings of the widths. Which of them counts, at
any widths, is the same rule as for a file that is written. When the widths are final, ``banding.in_bands`` plans once more for
them, and takes one of the recipes only where nothing cheaper holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import product

import numpy as np

from mcuprune.bands.kernels import embedded
from mcuprune.bands.plan import BandPlanner
from mcuprune.channels.labelling import Channels, label
from mcuprune.costs.banding import Banding, Model, Recipe, by_cost, operators, plan_of, planners, recipe_of, refuse_count
from mcuprune.costs.embedding import sums
from mcuprune.costs.functions import CostFunction, Regrouped
from mcuprune.costs.resources import CostModel, Terms
from mcuprune.deploy.lower import lower
from mcuprune.graph.network import Network
from mcuprune.immutable import immutable
from mcuprune.schedule import search as memory

#: Shares of all full widths for which plans are made before anything is cut.
_SCALES: Mapping[Model, tuple[float, ...]] = {"peak": (1.0, 0.75, 0.5, 0.35, 0.2), "tflm": (1.0, 0.5)}


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


@immutable
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
        program = lower(planner.net)
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
            for _, plan, names in by_cost(planners(cut, self.banding), self.banding, own, thorough=False):
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
