"""Widths that hold a budget, for any budget, and leave none of it unused."""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcuprune.channels.labelling import label
from mcuprune.costs import widths
from mcuprune.costs.resources import RESOURCES, Budget, CostModel, profile
from mcuprune.errors import BudgetError, UsageError
from mcuprune.graph import network

MODELS = sorted((Path(__file__).parents[1] / "models").glob("*.onnx"))
NAMES = ("sram", "flash", "macs")


@functools.cache
def model_of(path: Path, sram_model: str = "peak") -> CostModel:
    return CostModel(label(network.load(path)), sram_model)


@st.composite
def budgets(draw: st.DrawFn) -> tuple[CostModel, Budget]:
    """One of our models and limits on some resources between what it costs at least and at most."""
    model = model_of(draw(st.sampled_from(MODELS)))
    least, most = model.at(model.least), model.at(model.full)
    names = draw(st.sets(st.sampled_from(NAMES), min_size=1))
    shares = {name: draw(st.floats(0.0, 1.0)) for name in sorted(names)}
    return model, Budget({name: int(least[name] + share**2 * (most[name] - least[name])) for name, share in shares.items()})


quick = settings(max_examples=25, deadline=None, derandomize=True)


def random_widths(model: CostModel, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(model.least, model.full + 1)


def legal(model: CostModel, found: np.ndarray) -> bool:
    return found.dtype == np.int64 and bool((found >= model.least).all() and (found <= model.full).all())


@quick
@given(budgets())
def test_uniform_holds_every_budget_that_can_be_held(case: tuple[CostModel, Budget]) -> None:
    model, budget = case
    found = widths.uniform(model, budget)
    assert legal(model, found)
    assert budget.check(model.at(found)).ok


@quick
@given(budgets(), st.integers(0, 9))
def test_cutting_holds_every_budget_that_can_be_held(case: tuple[CostModel, Budget], seed: int) -> None:
    model, budget = case
    start = random_widths(model, seed)
    value = np.random.default_rng(seed).uniform(0.1, 1, len(start))
    found = widths.cut_into(model, start, budget, value)
    assert legal(model, found)
    assert (found <= start).all()
    assert budget.check(model.at(found)).ok


@quick
@given(budgets(), st.integers(0, 9))
def test_growth_holds_the_budget_whatever_it_was_given_and_leaves_no_room(case: tuple[CostModel, Budget], seed: int) -> None:
    model, budget = case
    found = widths.grow(model, random_widths(model, seed), budget, np.random.default_rng(seed).uniform(0.1, 1, len(model.full)))
    assert legal(model, found)
    assert budget.check(model.at(found)).ok
    for group in np.flatnonzero(found < model.full):
        wider = found.copy()
        wider[group] += 1
        assert not widths.holds(model, wider, budget)


@quick
@given(budgets())
def test_growth_from_uniform_only_widens(case: tuple[CostModel, Budget]) -> None:
    model, budget = case
    start = widths.uniform(model, budget)
    assert (widths.grow(model, start, budget, 1.0 / np.maximum(start, 1)) >= start).all()


@quick
@given(budgets(), st.integers(0, 9))
def test_between_two_allocations_lies_one_in_the_budget_that_leaves_no_room(case: tuple[CostModel, Budget], seed: int) -> None:
    model, budget = case
    one, other = (widths.grow(model, random_widths(model, seed + i), budget, np.ones(len(model.full))) for i in range(2))
    found = widths.between(model, one, other, budget)
    assert legal(model, found)
    assert widths.holds(model, found, budget)
    assert not widths.could_grow(model, found, budget)
    assert np.array_equal(widths.between(model, one, one, budget), one)


@quick
@given(budgets(), st.integers(1, 10**7))
def test_a_budget_that_compute_affords_holds_uniform_widths_and_no_more_macs_than_asked(
    case: tuple[CostModel, Budget], macs: int
) -> None:
    model, budget = case
    afforded, scaled = widths.affordable(model, budget, macs), widths.uniform(model, budget)
    assert np.array_equal(widths.uniform(model, afforded), scaled)
    assert afforded.limits["macs"] <= max(macs, model.at(scaled)["macs"])
    assert all(afforded.limits[name] <= limit for name, limit in budget.limits.items())


@quick
@given(budgets(), st.floats(1.0, 2.0))
def test_a_larger_budget_never_gives_narrower_widths(case: tuple[CostModel, Budget], factor: float) -> None:
    model, budget = case
    larger = Budget({name: int(limit * factor) for name, limit in budget.limits.items()})
    assert (widths.uniform(model, larger) >= widths.uniform(model, budget)).all()


@quick
@given(budgets(), st.integers(0, 9))
def test_a_budget_holds_just_where_its_verdict_says_so(case: tuple[CostModel, Budget], seed: int) -> None:
    model, budget = case
    here = random_widths(model, seed)
    assert widths.holds(model, here, budget) == budget.check(model.at(here)).ok


@quick
@given(budgets(), st.sampled_from([4, 8]), st.integers(0, 9))
def test_multiples_are_kept(case: tuple[CostModel, Budget], multiple: int, seed: int) -> None:
    full, budget = case
    model = CostModel(widths.bounded(full.channels, multiple=multiple))
    if not widths.holds(model, model.least, budget):
        return
    value = np.random.default_rng(seed).uniform(0.1, 1, len(model.full))
    for found in (
        widths.uniform(model, budget, multiple),
        widths.cut_into(model, model.full, budget, value, multiple),
        widths.grow(model, model.least, budget, value, multiple),
        widths.grow(model, random_widths(model, seed), budget, value, multiple),
        widths.grow(model, model.least, budget, value, multiple, most=random_widths(model, seed)),
        widths.between(model, random_widths(model, seed), random_widths(model, seed + 1), budget, multiple),
    ):
        assert widths.holds(model, found, budget)
        assert ((found % multiple == 0) | (found == model.full)).all()


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_the_limits_are_inclusive(path: Path) -> None:
    model = model_of(path)
    exact = Budget(model.at(model.full))
    assert np.array_equal(widths.uniform(model, exact), model.full)
    tight = Budget({name: used - 1 for name, used in exact.limits.items()})
    assert not np.array_equal(widths.uniform(model, tight), model.full)


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_uniform_is_the_largest_common_fraction(path: Path) -> None:
    """To one channel of the widest group: the next larger fraction that differs breaks the budget."""
    model = model_of(path)
    budget = Budget({"macs": model.at(model.full)["macs"] // 3})
    found = widths.uniform(model, budget)
    fractions = np.linspace(0, 1, 20 * int(model.full.max()) + 1)
    candidates = [widths.floor(model, np.array(fraction)) for fraction in fractions]
    best = max((c for c in candidates if widths.holds(model, c, budget)), key=lambda c: int(c.sum()))
    assert found.sum() >= best.sum() - len(best)


@pytest.mark.parametrize("seed", [3, 5, 15])
@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_an_arena_is_held_too(path: Path, seed: int) -> None:
    """Though its size may fall where a group grows: buffers find other places."""
    model = model_of(path, "tflm")
    draw = np.random.default_rng(seed)
    at_least, at_most = model.at(model.least)["sram"], model.at(model.full)["sram"]
    budget = Budget({"sram": int(at_least + draw.random() ** 2 * (at_most - at_least))})
    found = widths.grow(model, random_widths(model, seed), budget, draw.uniform(0.1, 1, len(model.full)))
    assert widths.holds(model, found, budget)
    for group in np.flatnonzero(found < model.full):
        wider = found.copy()
        wider[group] += 1
        assert not widths.holds(model, wider, budget)


@pytest.mark.parametrize("sram_model", ["peak", "tflm"])
def test_a_budget_that_nothing_holds_is_refused_with_the_least_of_what_is_over(sram_model: str) -> None:
    model = model_of(MODELS[1], sram_model)
    least = model.at(model.least)
    assert widths.settled(model, Budget(least)) is model
    for name in NAMES:
        said = rf"held: {RESOURCES[name].title} can't go below {least[name]} \(limit [^;]*; raise"
        with pytest.raises(BudgetError, match=said):
            widths.settled(model, Budget({**least, name: least[name] - 1}))


@pytest.mark.parametrize(("name", "least", "multiple"), [("branchy_digits", 1, 8), ("dscnn_digits", 6, 1)])
def test_an_arena_smaller_than_that_of_the_narrowest_cut_is_found(name: str, least: int, multiple: int) -> None:
    """Its buffers lie better where some group is wider; whatever starts from the minimums holds the limit then."""
    channels = label(network.load(Path(__file__).parents[1] / "models" / f"{name}.onnx"))
    model = CostModel(widths.bounded(channels, least=least, multiple=multiple), "tflm")
    found = widths.narrowest(model, Budget({"sram": 1}), multiple)
    arena = model.at(found)["sram"]
    assert model.least_costs()["sram"] <= arena <= model.at(model.least)["sram"]  # equal where a memory plan leaves no gap
    limit = Budget({"sram": arena})
    settled = widths.settled(model, limit, multiple)
    assert np.array_equal(settled.least, found)
    for got in (widths.uniform(settled, limit, multiple), widths.grow(settled, settled.full, limit, settled.full, multiple)):
        assert widths.holds(settled, got, limit)
        assert ((got % multiple == 0) | (got == settled.full)).all()
    narrow = model.at(model.least)
    if arena == narrow["sram"]:
        return
    with pytest.raises(BudgetError, match=rf"no cut was found with SRAM below {narrow['sram']} \(limit {arena}\)"):
        widths.settled(model, Budget({"sram": arena, "flash": narrow["flash"]}), multiple)  # flash lets nothing be wider


def test_a_refused_arena_comes_with_what_no_layout_undercuts_and_the_smallest_found() -> None:
    model = model_of(MODELS[0], "tflm")
    bound, found = model.least_costs()["sram"], model.at(model.least)["sram"]
    further = f", and no cut was found below {found}" if bound < found else ""
    with pytest.raises(BudgetError, match=rf"SRAM can't go below {bound}{further} \(limit 9\)"):
        widths.settled(model, Budget({"sram": 9}))
    if bound == found:  # a memory plan leaves no gap
        assert widths.holds(model, widths.settled(model, Budget({"sram": bound})).least, Budget({"sram": bound}))
        return
    with pytest.raises(BudgetError, match=rf"no cut was found with SRAM below {found} \(limit {bound}\)"):
        widths.settled(model, Budget({"sram": bound}))


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_what_was_promised_is_what_the_cut_file_costs(path: Path) -> None:
    model = model_of(path)
    budget = Budget({name: used // 2 for name, used in model.at(model.full).items()})
    found = widths.uniform(model, budget)
    found = widths.grow(model, found, budget, 1.0 / np.maximum(found, 1))
    keep = model.channels.top(found.tolist(), np.zeros(model.channels.n_components + 1))
    measured = profile(model.channels.cut(keep)).total
    assert {name: measured[name] for name in NAMES} == model.at(found)
    assert budget.check(measured).ok


def test_fractions_are_floored_but_for_what_rounding_did_to_them() -> None:
    model = model_of(MODELS[0])
    assert np.array_equal(widths.floor(model, model.full / model.full), model.full)
    assert np.array_equal(widths.floor(model, np.zeros(len(model.full))), model.least)
    for n in range(1, int(model.full[0]) + 1):
        assert widths.floor(model, np.full(len(model.full), n / model.full[0]))[0] == max(n, model.least[0])


def test_groups_that_the_user_keeps_stay_whole() -> None:
    channels = label(network.load(MODELS[0]))
    name = channels.groups[1].name
    found = {group.name: group for group in widths.bounded(channels, keep=[name], least=3).groups}
    assert found[name].minimum == len(found[name])
    assert all(group.minimum >= min(3, len(group)) for group in found.values() if channels.groups[0].minimum)


def test_a_pattern_that_names_no_group_is_a_mistake() -> None:
    with pytest.raises(UsageError, match="no removable group"):
        widths.bounded(label(network.load(MODELS[0])), keep=["nothing*"])


def test_patterns_need_not_begin_with_an_exporters_slash() -> None:
    channels = label(network.load(next(path for path in MODELS if path.stem == "resnet8_digits")))
    assert any(group.name.startswith("/stem") for group in channels.groups)
    assert widths.bounded(channels, keep=["stem*"]) == widths.bounded(channels, keep=["/stem*"])


def test_least_widths_hold_for_groups_that_could_go_as_a_whole() -> None:
    channels = label(network.load(MODELS[0]))
    groups = tuple(replace(group, minimum=0) for group in channels.groups)
    free = replace(channels, groups=groups)
    assert {group.minimum for group in widths.bounded(free).groups} == {0}
    assert {group.minimum for group in widths.bounded(free, least=4).groups} == {4}


def test_a_refusal_says_the_least_of_every_limited_resource() -> None:
    model = model_of(MODELS[0])
    least = model.least_costs()
    with pytest.raises(BudgetError) as caught:
        widths.settled(model, Budget({"sram": 1, "flash": 10**6, "macs": 10**9}))
    for name in NAMES:
        assert re.search(rf"{RESOURCES[name].title} (can't go below )?{least[name]}\b", str(caught.value))
