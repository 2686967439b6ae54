"""Pruning for row bands: what a cut costs in bands, budgets that only bands hold, and the files that hold them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import CORPUS, difference, feed, run, thorough_but
from graphs import Graph, dscnn, resnet8
from test_bands import answers
from test_tflite import model_of

import mcuprune
from mcuprune import cli, pruning, units
from mcuprune.bands.plan import BandPlanner
from mcuprune.channels.labelling import label
from mcuprune.costs import banding, resources, widths
from mcuprune.costs.banded import BandedCosts
from mcuprune.costs.banding import Banding
from mcuprune.costs.resources import Basis, CostModel
from mcuprune.deploy.lower import lower
from mcuprune.errors import BudgetError, UsageError
from mcuprune.graph import network
from mcuprune.graph.network import Network
from mcuprune.operators.fusion import buffers
from mcuprune.pruning import Request, Result

MODELS = Path(__file__).resolve().parent.parent / "models"
RESNET = str(MODELS / "resnet8_digits.onnx")


def branching(*, squeezed: bool = False) -> Network:
    """Wide rows, branches that are concatenated, an inverted residual block, two strides; maybe squeeze-and-excite."""
    g = Graph(1, 2, 24, 20)
    x = g.add("Relu", g.conv("x", 2, 6))
    x = g.add("Concat", g.add("Relu", g.conv(x, 6, 5, 1)), g.conv(x, 6, 4, 5), axis=1)
    y = g.add("Relu", g.conv(x, 9, 24, 1))
    y = g.add("Relu", g.conv(y, 24, 24, group=24))
    x = g.add("Add", x, g.conv(y, 24, 9, 1))
    x = g.add("Relu", g.conv(x, 9, 12, strides=[2, 2]))
    if squeezed:
        gate = g.add("Sigmoid", g.conv(g.add("Relu", g.conv(g.add("GlobalAveragePool", x), 12, 4, 1)), 4, 12, 1))
        x = g.add("Mul", x, gate)
    x = g.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    return g.net(g.classifier(x, 12, 3))


NETWORKS: dict[str, Callable[[], Network]] = {
    "resnet8": resnet8,
    "dscnn": dscnn,
    "branching": branching,
    "squeezed": lambda: branching(squeezed=True),
}

#: "squeezed" is "branching" and more.
EACH = [pytest.param(name, marks=pytest.mark.slow) if name == "branching" else name for name in NETWORKS]


def limits_of(net: Network, model: banding.Model, **shares: float) -> dict[str, int]:
    used = resources.profile(net).used(model)
    return {name: int(used[name] * share) for name, share in shares.items()}


def random_widths(model: CostModel, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return np.maximum(model.least, np.ceil(model.full * draw.uniform(0.2, 1, len(model.full)))).astype(np.int64)


def cut_to(model: CostModel, chosen: np.ndarray) -> Network:
    return model.channels.cut(model.channels.top(chosen, np.zeros(model.channels.n_components + 1)))


def cut_and_written(costs: BandedCosts, chosen: np.ndarray) -> tuple[Network, bool]:
    """The network of these widths as it is written in the bands that its costs chose; and whether they changed anything."""
    form, _ = costs.pick(chosen)
    planner = BandPlanner(cut_to(costs, chosen))
    plan = banding.plan_of(planner, form.recipe)
    assert plan is not None
    return planner.written(plan), form.recipe.changes


def needs(net: Network, model: banding.Model) -> int:
    """Bytes in the order of the file: counted step by step, or laid out as TensorFlow Lite Micro does."""
    if model == "tflm":
        return lower(net).arena(offline=True).total
    return max(step.bytes for step in buffers(net).file_steps())


# ----------------------------------------------------------------------------------------------- costs, hard and soft


@pytest.mark.parametrize("model", ["peak", "tflm"])
@pytest.mark.parametrize("name", EACH)
def test_what_a_cut_costs_in_bands_is_what_the_cut_network_costs_when_it_is_written_in_them(name: str, model: Any) -> None:
    net = NETWORKS[name]()
    costs = BandedCosts(label(net), Banding(model, limits_of(net, model, sram=0.3, macs=0.7)))
    in_bands = 0
    for seed in range(3):
        chosen = random_widths(costs, seed)
        said, (written, changes) = costs.at(chosen), cut_and_written(costs, chosen)
        in_bands += changes
        assert banding.sums(written).items() <= said.items()
        assert said["sram"] == needs(written, model) or (not changes and said["sram"] < needs(written, model))
        assert banding.sram_of(written, model) <= said["sram"]
    assert in_bands or model == "tflm" or name == "dscnn"  # two of its tensors are the peak whatever runs in bands


BOARD = Basis(board="nucleo-f446re")


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "basis"),
    [
        ("branching", BOARD),
        pytest.param("branching", Basis(flash="image"), marks=pytest.mark.slow),
        pytest.param("resnet8", BOARD, marks=pytest.mark.slow),
        pytest.param("resnet8", Basis(flash="file"), marks=pytest.mark.slow),
    ],
)
def test_a_file_and_an_estimate_of_time_are_those_of_the_network_in_bands(name: str, basis: Basis) -> None:
    """Which no sum over nodes gives: bands add operators to the file, and may add work."""
    net = NETWORKS[name]()
    limited = "latency" if basis.board else "flash"
    limits = {**limits_of(net, "peak", sram=0.3), limited: 10**9}
    costs = BandedCosts(label(net), Banding("peak", limits, basis=basis))
    in_bands = 0
    for seed in range(2):
        chosen = random_widths(costs, seed)
        said, (written, changes) = costs.at(chosen), cut_and_written(costs, chosen)
        in_bands += changes
        assert said[limited] == resources.profile(written, basis).used(basis)[limited]
        assert costs.least_costs()[limited] <= said[limited]
        assert costs.gradient(limited, chosen).min() >= 0 < costs.gradient(limited, chosen).max()
    assert in_bands


@pytest.mark.slow
@pytest.mark.parametrize(
    "limit",
    [["--latency", "90%", "--board", "nucleo-f446re", "--sram-model", "peak"], ["--flash", "60KB", "--flash-model", "file"]],
)
def test_prune_holds_a_file_and_an_estimate_of_time_in_bands(limit: Sequence[str], tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "net.onnx"
    command = ["prune", RESNET, "--no-train", "--sram", "40%", *limit, "--bands", "auto", "-o", str(out), "--data", "digits"]
    assert cli.main([*command, "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["bands"]["regions"]
    basis = Basis(board="nucleo-f446re") if "--latency" in limit else Basis(flash="file")
    used = resources.profile(loaded(str(out)), basis).used(basis)
    assert all(used[name] <= most for name, most in document["budget"].items())


def test_the_gradient_in_bands_is_the_slope_between_widths_where_the_same_buffers_count() -> None:
    net = branching()
    costs = BandedCosts(label(net), Banding("peak", limits_of(net, "peak", sram=0.2)))
    checked = 0
    for seed in range(2):
        chosen = random_widths(costs, seed)
        slope, (form, here) = costs.gradient("sram", chosen), costs.pick(chosen)
        for group in range(len(chosen)):
            sizes = []
            for step in (-1, 1):
                near = chosen.copy()
                near[group] += step
                if (near < costs.least).any() or (near > costs.full).any() or costs.pick(near)[0] is not form:
                    break
                sizes.append(costs.pick(near)[1])
            if len(sizes) == 2 and sizes[1] - here == here - sizes[0]:  # no other step needs as much on either side
                checked += 1
                assert slope[group] == pytest.approx(sizes[1] - here)
    assert checked > 3


def test_bands_are_taken_only_where_the_limit_needs_them() -> None:
    channels = label(resnet8())
    costs = BandedCosts(channels, Banding("peak", {"sram": 20_000}))
    plain = CostModel(channels)
    narrow = np.maximum(costs.least, costs.full // 4)
    assert plain.at(costs.full)["sram"] > 20_000 >= plain.at(narrow)["sram"]
    assert costs.pick(costs.full)[0].recipe.parts
    assert not costs.pick(narrow)[0].recipe.changes
    assert costs.at(narrow) == plain.at(narrow)


@pytest.mark.slow
def test_bands_never_take_what_another_limit_has_not() -> None:
    net = branching()
    own = resources.profile(net).total["macs"]
    for model in ("peak", "tflm"):
        for spare in (0, 200, 2_000, 20_000):
            asked = Banding(model, {"sram": 1, "macs": own + spare})
            found = banding.in_bands(net, asked)
            assert resources.profile(found.network).total["macs"] <= own + spare
            costs = BandedCosts(label(net), asked)
            assert costs.at(costs.full)["macs"] <= own + spare


@pytest.mark.thorough
@pytest.mark.parametrize("model", thorough_but(["peak", "tflm"], "tflm"))
@pytest.mark.parametrize("name", EACH)
def test_nothing_undercuts_the_least_that_a_refusal_names(name: str, model: Any) -> None:
    costs = BandedCosts(label(NETWORKS[name]()), Banding(model, {"sram": 1}))
    bound = costs.functions["sram"].least()
    assert 0 < bound <= costs.at(costs.least)["sram"]
    assert bound <= min(costs.at(random_widths(costs, seed))["sram"] for seed in range(4))


@pytest.mark.thorough
@pytest.mark.parametrize("model", thorough_but(["peak", "tflm"], "tflm"))
@pytest.mark.parametrize("name", EACH)
def test_auto_costs_nothing_without_lowering_what_is_limited(name: str, model: Any) -> None:
    net = NETWORKS[name]()
    plain = resources.profile(net).used(model)
    for share in (1.0, 0.8, 0.3):
        found = banding.in_bands(net, Banding(model, {"sram": int(plain["sram"] * share)}))
        if found.choices:
            assert found.sram == banding.sram_of(found.network, model) < plain["sram"]
            assert share < 1
        else:
            assert found.network is net


# ------------------------------------------------------------------------------------------------------ whole prunes


def limits(**wanted: str) -> dict[str, units.Limit]:
    return {name: units.parse(text, resources.RESOURCES[name].unit) for name, text in wanted.items()}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("networks")
    found = {}
    for name, make in NETWORKS.items():
        onnx.save(make().to_proto(), folder / f"{name}.onnx")
        found[name] = str(folder / f"{name}.onnx")
    return found


def loaded(path: str) -> Network:
    return network.load(path)


@pytest.mark.parametrize("seed", [0, 1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.thorough)])
def test_random_budgets_that_need_bands_hold_in_the_written_file(files: dict[str, str], seed: int, tmp_path: Path) -> None:
    draw = np.random.default_rng(seed)
    name = list(NETWORKS)[seed % len(NETWORKS)]
    least = CostModel(label(loaded(files[name])))
    plain = least.at(least.full)["sram"]
    wanted = {"sram": f"{int(plain * draw.uniform(0.25, 0.6))}"}
    if draw.random() < 0.7:
        wanted["macs"] = f"{int(draw.uniform(30, 90))}%"
    output = str(tmp_path / "out.onnx")
    result = pruning.prune(Request(files[name], limits(**wanted), output, train=False, int8=bool(seed % 2), bands="auto"))
    assert result.ok
    assert resources.profile(loaded(output)).total == result.after.total
    onnx.checker.check_model(onnx.load(output), full_check=True)
    assert result.bands is not None
    if result.bands.choices:
        assert result.bands.plain.profile.total["sram"] > result.budget.limits["sram"]
        assert result.bands.plain.profile.total["flash"] == result.after.total["flash"]


@pytest.mark.parametrize("name", [name for name in EACH if name != "dscnn"])
def test_a_banded_file_makes_the_integers_of_the_plain_one(files: dict[str, str], name: str, tmp_path: Path) -> None:
    """Bands alone hold this budget, so that both files have the same weights."""
    made = {}
    for bands, sram in (("off", "100%"), ("auto", "75%")):
        output = str(tmp_path / f"{bands}.onnx")
        result = pruning.prune(Request(files[name], limits(sram=sram), output, train=False, bands=bands))
        assert result.ok
        assert all(group.before == group.after for group in result.groups)
        made[bands] = onnx.load(output)
    assert result.bands is not None
    assert result.bands.choices
    x = feed(made["off"], seed=3)
    for one, other in zip(run(made["auto"], x), run(made["off"], x), strict=True):
        assert np.array_equal(one, other)
    in_tflm = [answers(proto, x) for proto in made.values()]
    assert in_tflm[0] is None or np.array_equal(in_tflm[0], in_tflm[1])


@pytest.mark.thorough
def test_an_arena_that_needs_bands_holds_in_the_written_file(files: dict[str, str], tmp_path: Path) -> None:
    output = str(tmp_path / "out.onnx")
    before = resources.profile(loaded(files["branching"])).arena
    request = Request(files["branching"], limits(sram=f"{int(before * 0.6)}"), output, train=False, basis=Basis(sram="tflm"))
    result = pruning.prune(replace(request, bands="auto"))
    assert result.ok
    assert lower(loaded(output)).arena(offline=True).total == result.verdict.used["sram"]


@pytest.mark.thorough
@pytest.mark.parametrize("bands", ["off", "auto"])
def test_an_arena_that_holds_without_bands_holds_with_auto(bands: str, tmp_path: Path) -> None:
    """Kernels among zeros that the widths were chosen with are written, though what they cost may no longer pay."""
    request = Request(RESNET, limits(sram="16KB"), str(tmp_path / "o.onnx"), train=False, basis=Basis(sram="tflm"), bands=bands)
    result = pruning.prune(request)
    assert result.ok
    assert lower(loaded(str(tmp_path / "o.onnx"))).arena(offline=True).total <= 16 * 1024


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["resnet8", "branching"])
def test_no_number_of_bands_does_better_than_what_is_chosen_for_an_arena(name: str) -> None:
    net = NETWORKS[name]()
    own = resources.profile(net).macs
    least = banding.in_bands(net, Banding("tflm", {"sram": 1}))
    for count in (2, 3, 5, 8):
        counted = banding.in_bands(net, Banding("tflm", {}, count))
        assert least.sram <= counted.sram
        if counted.choices:
            chosen = banding.in_bands(net, Banding("tflm", {"sram": counted.sram}))
            assert chosen.sram <= counted.sram
            costs = [
                (max(own, resources.profile(run.network).macs), banding.operators(run.network)) for run in (chosen, counted)
            ]
            assert costs[0] <= costs[1]


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("share", thorough_but([0.95, 0.75], 0.75))
def test_no_cheaper_plan_holds_an_arena_than_the_first_one_that_is_found(name: str, share: float) -> None:
    """Plans are looked for one after the other, and no further than to the first that holds."""
    net = NETWORKS[name]()
    asked = Banding("tflm", {"sram": int(share * banding.sram_of(net, "tflm"))})
    found = banding.in_bands(net, asked)
    if found.sram > asked.limits["sram"]:
        pytest.skip("nothing holds so little")
    cost = BandPlanner(net).plan(found.choices).cost
    ways = banding.planners(net, asked)
    cheaper = [(plan, names) for of, plan, names in banding.by_cost(ways, asked, banding.sums(net)["macs"]) if of < cost]
    assert all(banding.sram_of(ways[names].written(plan), "tflm") > asked.limits["sram"] for plan, names in cheaper)


@pytest.mark.parametrize("limit", [147409, 143900])
def test_a_looser_limit_of_an_arena_takes_no_more_operators(limit: int) -> None:
    """Where arenas lie far above the peaks by which plans are looked for, neighbours of the first plan that fails may hold."""
    path = CORPUS / "mcunet_like_ts_qdq.onnx"
    if not path.exists():
        pytest.skip("needs a file of the shared models")
    net = loaded(str(path))
    found = banding.in_bands(net, Banding("tflm", {"sram": limit, "macs": 2 * banding.sums(net)["macs"]}))
    assert found.sram <= limit
    assert BandPlanner(net).plan(found.choices).cost <= (0, 26)


@pytest.mark.thorough
def test_fewer_operators_are_taken_where_their_best_order_holds_the_limit() -> None:
    """The bound of few bands lies above the limit, the peak of their best order does not."""
    net = resnet8()
    plain = banding.sram_of(net, "peak")
    limit = int(0.45 * plain)
    found = banding.in_bands(net, Banding("peak", {"sram": limit}))
    assert found.sram <= limit
    by_bound = BandPlanner(net).cheapest(limit)
    assert by_bound is not None
    assert BandPlanner(net).plan(found.choices).operators < by_bound.operators


def test_operators_of_an_arena_run_in_the_order_that_needs_less_of_it() -> None:
    net = resnet8()
    found = banding.in_bands(net, Banding("tflm", {}, 2))
    planner = BandPlanner(net)
    plan = banding.plan_of(planner, banding.recipe_of(found.choices))
    assert plan is not None
    assert found.sram == needs(found.network, "tflm") < needs(planner.written(plan), "tflm")


def test_where_the_limit_holds_as_it_is_the_file_is_that_without_bands(tmp_path: Path) -> None:
    written = []
    for bands in ("off", "auto"):
        output = str(tmp_path / f"{bands}.onnx")
        pruning.prune(Request(RESNET, limits(sram="100%", macs="50%"), output, train=False, bands=bands))
        written.append(Path(output).read_bytes())
    assert written[0] == written[1]


@pytest.mark.thorough
def test_bands_leave_more_channels_where_sram_binds(files: dict[str, str], tmp_path: Path) -> None:
    kept = []
    for bands in ("off", "auto"):
        request = Request(files["resnet8"], limits(sram="40%"), str(tmp_path / "o.onnx"), train=False, int8=False, bands=bands)
        result = pruning.prune(request)
        assert result.ok
        kept.append(sum(group.after for group in result.groups))
    assert kept[0] < kept[1]


@pytest.mark.thorough
def test_a_budget_that_no_width_holds_without_bands_is_held_in_them(tmp_path: Path) -> None:
    costs = CostModel(label(loaded(RESNET)))
    limit = costs.at(costs.least)["sram"] - 1
    output = str(tmp_path / "o.onnx")
    with pytest.raises(BudgetError, match=f"SRAM can't go below {limit + 1} .*--bands auto holds it"):
        pruning.prune(Request(RESNET, limits(sram=f"{limit}"), output, train=False))
    result = pruning.prune(Request(RESNET, limits(sram=f"{limit}"), output, train=False, bands="auto"))
    assert result.ok
    with pytest.raises(BudgetError, match=r"SRAM can't go below 256, and no cut was found below \d+ \(limit 200\); raise"):
        pruning.prune(Request(RESNET, limits(sram="200"), output, train=False, bands="auto"))
    with pytest.raises(BudgetError, match=r"no cut was found with SRAM below \d+ \(limit 300\); raise these limits$"):
        pruning.prune(Request(RESNET, limits(sram="300"), output, train=False, bands="auto"))


def test_so_many_bands_as_asked_for_or_none_at_all(tmp_path: Path) -> None:
    output = str(tmp_path / "o.onnx")
    result = pruning.prune(Request(RESNET, limits(macs="80%"), output, train=False, bands="3"))
    assert result.bands is not None
    assert {len(choice.tape.bands) for choice in result.bands.choices} == {3}
    assert result.after.sram < result.bands.plain.profile.sram
    with pytest.raises(UsageError, match=r"--bands 9000: no part of the network gains from 9000 bands"):
        pruning.prune(Request(str(MODELS / "dscnn_digits.onnx"), limits(macs="80%"), output, train=False, bands="9000"))


@pytest.fixture(scope="module")
def trained(few_digits: str, pruned: Callable[[Request], Result]) -> Result:
    """A short training under a limit of SRAM that full width exceeds threefold."""
    return pruned(Request(RESNET, limits(sram="30%", macs="60%"), "out.onnx", data=few_digits, epochs=2, bands="auto"))


@pytest.mark.thorough
def test_training_holds_a_budget_that_needs_bands(trained: Result) -> None:
    assert trained.ok
    assert trained.bands is not None
    assert trained.bands.choices
    assert trained.accuracy_int8 is not None
    assert trained.history[-1].costs["sram"] <= trained.budget.limits["sram"]  # of the file, not of what is trained
    assert all(step.costs["macs"] >= trained.after.macs for step in trained.history if step.phase == "quantize")


@pytest.mark.thorough
def test_the_report_names_bands_and_what_they_cost(files: dict[str, str], tmp_path: Path, capsys: Any) -> None:
    output = str(tmp_path / "o.onnx")
    command = ["prune", files["squeezed"], "--sram", "60%", "--no-train", "--bands", "auto", "-o", output]
    assert cli.main([*command, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["options"]["bands"] == "auto"
    bands = found["bands"]
    assert bands["written"]["peak"] == found["after"]["total"]["sram"] < bands["plain"]["peak"]
    added = bands["written"]["operators"] - bands["plain"]["operators"]
    assert added == sum(region["operators_added"] for region in bands["regions"]) > 0
    macs = bands["written"]["macs"] - bands["plain"]["macs"]
    assert macs == sum(region["macs_added"] for region in bands["regions"])
    assert bands["written"]["arena_tail"] > bands["plain"]["arena_tail"]
    assert "GlobalAveragePool" in {ending["op"] for ending in bands["endings"]}
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    assert f"row bands: {bands['regions'][0]['bands']} (" in said
    assert "its tail" in said
    assert "not in bands: GlobalAveragePool" in said


@pytest.mark.parametrize("wrong", ["some", "1", "-2", "2.5", "", "auto,2"])
def test_other_words_are_refused(wrong: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for command in (["prune", RESNET, "--macs", "50%", "--no-train"], ["export", RESNET]):
        assert cli.main([*command, f"--bands={wrong}", "-o", str(tmp_path / "o.onnx")]) == 2
        assert f"--bands {wrong}: write auto, off, or a number of bands" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_bands_need_a_model_of_sram_that_sees_them(tmp_path: Path) -> None:
    request = Request(
        RESNET, limits(sram="50%"), str(tmp_path / "o.onnx"), train=False, basis=Basis(sram="max-in-out"), bands="auto"
    )
    with pytest.raises(UsageError, match="max-in-out"):
        pruning.prune(request)


# --------------------------------------------------------------------------------------------- Python, and what is written


def test_a_number_of_bands_may_be_a_number_in_python() -> None:
    result = mcuprune.prune(RESNET, {"macs": "80%"}, train=False, int8=False, bands=2)
    assert result.bands is not None
    assert {choice.bands for choice in result.bands.choices} == {2}


@pytest.mark.thorough
def test_c_that_prune_writes_runs_its_bands_as_loops(tmp_path: Path, capsys: Any) -> None:
    out, plain = tmp_path / "net.c", tmp_path / "plain.onnx"
    command = ["prune", RESNET, "--no-train", "--sram", "35%", "--macs", "60%", "--bands", "auto", "--data", "digits"]
    assert cli.main([*command, "-o", str(out)]) == 0
    said = capsys.readouterr().err
    source, header = out.read_text(), out.with_suffix(".h").read_text()
    assert "operators row by row" in source
    arena = re.search(r"_ARENA_BYTES (\d+)", header)
    assert arena is not None
    limit = mcuprune.Budget(sram="35%").limits_of(RESNET)["sram"]
    assert int(arena[1]) <= limit
    assert f"in C, row by row: {units.show(int(arena[1]), 'bytes')} of RAM" in said
    banded = loaded(str(out.with_suffix(".onnx")))  # what runtimes of graphs take, measured in the report
    assert len(banded.nodes) > len(loaded(RESNET).nodes)
    assert source.count(" operators row by row") < source.count("case ") < 20  # each operator once, whatever the bands
    result = mcuprune.prune(RESNET, {"sram": "35%", "macs": "60%"}, train=False, bands="auto", data="digits")
    assert result.bands is not None
    result.bands.network.save(plain)
    assert cli.main(["export", str(plain), "-o", str(tmp_path / "same" / "net.c"), "--bands", "auto"]) == 0
    assert (tmp_path / "same" / "net.c").read_text() == source


def test_bands_that_c_can_t_run_are_refused_before_the_work(tmp_path: Path, capsys: Any) -> None:
    out = str(tmp_path / "net.c")
    command = ["prune", str(MODELS / "dscnn_digits.onnx"), "--no-train", "--macs", "60%", "--bands", "3000", "-o", out]
    assert cli.main(command) == 2
    assert "no part of the network gains from 3000 bands of rows" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


@pytest.fixture
def narrowing(tmp_path: Path) -> str:
    """Its wide layer gains from bands. Once that is cut, every other row needs most, which can't be taken in bands."""
    graph = Graph(1, 4, 12, 12)
    narrow = graph.conv(graph.conv("x", 4, 40), 40, 4)
    first, end, axis, step = (graph.value(np.array([number])) for number in (0, 12, 2, 2))
    model = str(tmp_path / "narrowing.onnx")
    onnx.save(model_of(graph, graph.add("Slice", narrow, first, end, axis, step)), model)
    return model


def test_bands_that_a_cut_network_gains_nothing_from_are_left_out_of_its_c(narrowing: str, tmp_path: Path, capsys: Any) -> None:
    """Before the cut they gain, so nothing could be refused; after it the work is done and must be reported."""
    out, folder = tmp_path / "net.c", tmp_path / "report"
    command = ["prune", narrowing, "--no-train", "--flash", "6%", "--bands", "3", "-o", str(out), "--report", str(folder)]
    assert cli.main(command) == 0
    shown = capsys.readouterr()
    said = "--bands 3: the network as it was cut gains nothing from them in C, and is written without"
    assert shown.out.count(said) == 1
    assert said not in shown.err
    report = json.loads((folder / "report.json").read_text())
    assert said in report["notes"]
    assert report["ok"]
    assert report["bands"]["rows"]["regions"] == []
    assert f"_ARENA_BYTES {report['bands']['rows']['arena']}\n" in out.with_suffix(".h").read_text()
    assert "row by row" not in out.read_text()


def test_what_bands_cost_of_a_network_that_is_not_cut_yet_refuses_none(narrowing: str, tmp_path: Path, capsys: Any) -> None:
    """Three bands make some rows twice: more of the limited MACs than the network has as it came, and not once it is cut."""
    out = str(tmp_path / "net.onnx")
    assert cli.main(["prune", narrowing, "--no-train", "--macs", "60%", "--bands", "3", "-o", out]) == 0
    assert "row bands: none, the limits hold without or no bands within them need less" in capsys.readouterr().out


@pytest.mark.thorough
def test_c_above_the_limit_is_no_yes_in_any_form(narrowing: str, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    """The ONNX file holds the limit; where C doesn't, code, report and text say so alike."""
    from mcuprune.deploy import rowreport

    priced = rowreport.priced
    monkeypatch.setattr(rowreport, "priced", lambda program, bands: replace(priced(program, bands), arena=10**6))
    command = ["prune", narrowing, "--no-train", "--sram", "3000", "--bands", "auto", "-o", str(tmp_path / "net.c")]
    assert cli.main([*command, "--format", "json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["ok"]
    assert report["limits"]["sram"]["ok"]
    assert any("needs more RAM than the limit of 2.9 KiB" in note for note in report["notes"])
    assert cli.main(command) == 1
    assert "DOES NOT FIT" in capsys.readouterr().out


def test_a_report_is_stored_where_only_the_export_fails(narrowing: str, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    from mcuprune import exporting
    from mcuprune.errors import OutputError

    def full(*_: Any, **__: Any) -> None:
        raise OutputError("net.c: no space left on device")

    monkeypatch.setattr(exporting, "export", full)
    folder = tmp_path / "report"
    command = ["prune", narrowing, "--no-train", "--macs", "60%", "-o", str(tmp_path / "net.c"), "--report", str(folder)]
    assert cli.main(command) == 2
    assert "no space left" in capsys.readouterr().err
    assert json.loads((folder / "report.json").read_text())["after"]["path"].endswith("net.onnx")


def test_a_node_without_a_kernel_in_c_is_refused_before_the_work(tmp_path: Path, capsys: Any) -> None:
    graph = Graph(1, 4, 9, 8)
    model = str(tmp_path / "net.onnx")
    turned = graph.add("Transpose", graph.conv("x", 4, 1), perm=[0, 1, 3, 2])
    onnx.save(model_of(graph, graph.add("MatMul", graph.conv(graph.conv("x", 4, 6), 6, 4), turned)), model)
    assert cli.main(["prune", model, "--no-train", "--macs", "60%", "-o", str(tmp_path / "net.c")]) == 2
    assert "BATCH_MATMUL that broadcasts or transposes has no kernel in C" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx"]


@pytest.mark.thorough
def test_a_pruner_finishes_in_bands(files: dict[str, str]) -> None:
    import torch

    budget = mcuprune.Budget(sram="35%", macs="60%")
    pruner = mcuprune.Pruner(files["resnet8"], budget, steps=4, bands="auto")
    (name,) = loaded(files["resnet8"]).inputs
    shape = loaded(files["resnet8"]).shapes[name][1:]
    x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    for _ in range(4):
        pruner.module(x)[0].sum().backward()
        pruner.step()
    written, plain = pruner.finish(), pruner.finish(in_bands=False)
    limit = budget.limits_of(files["resnet8"])["sram"]
    assert resources.profile(written).sram <= limit < resources.profile(plain).sram
    example = {name: x[:1].numpy()}
    assert difference(run(written, example), run(plain, example)) < 1e-5
    with pytest.raises(UsageError, match="--bands 9000"):
        mcuprune.Pruner(str(MODELS / "dscnn_digits.onnx"), {"macs": "50%"}, bands=9000)


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory, files: dict[str, str]) -> dict[str, str]:
    found = {name: str(tmp_path_factory.mktemp("int8") / f"{name}.onnx") for name in ("branching", "dscnn")}
    for name, output in found.items():
        pruning.prune(Request(files[name], limits(sram="100%"), output, train=False))
    return found


@pytest.fixture
def int8(quantised: dict[str, str]) -> str:
    return quantised["branching"]


@pytest.mark.parametrize("suffix", thorough_but([".onnx", ".tflite", ".h", ".c"], ".h", ".c"))
def test_export_writes_bands_that_need_less(int8: str, suffix: str, tmp_path: Path, capsys: Any) -> None:
    output = str(tmp_path / f"out{suffix}")
    assert cli.main(["export", int8, "-o", output, "--bands", "auto", "--format", "json"]) == 0
    said = json.loads(capsys.readouterr().out)
    if suffix == ".c":
        assert said["rows"]["regions"]
        return
    assert said["bands"]["regions"]
    if suffix == ".onnx":
        plain, written = loaded(int8), loaded(output)
        assert resources.profile(written).sram < resources.profile(plain).sram
        assert resources.profile(written).macs <= 1.1 * resources.profile(plain).macs
        x = feed(onnx.load(int8), seed=2)
        assert np.array_equal(run(onnx.load(output), x)[0], run(onnx.load(int8), x)[0])
    else:
        assert cli.main(["export", int8, "-o", str(tmp_path / f"plain{suffix}"), "--format", "json"]) == 0
        plain_said = json.loads(capsys.readouterr().out)
        assert plain_said["bands"] is None
        assert said["arena"]["tflm"] < plain_said["arena"]["tflm"]


def test_export_takes_a_number_of_bands_or_refuses_it(
    int8: str, quantised: dict[str, str], tmp_path: Path, capsys: Any
) -> None:
    output = str(tmp_path / "out.onnx")
    assert cli.main(["export", int8, "-o", output, "--bands", "2"]) == 0
    assert "row bands: 2 (" in capsys.readouterr().out
    assert cli.main(["export", quantised["dscnn"], "-o", str(tmp_path / "other.onnx"), "--bands", "5"]) == 2
    assert "no part of the network gains from 5 bands" in capsys.readouterr().err
    assert not (tmp_path / "other.onnx").exists()
    assert mcuprune.export(int8, tmp_path / "face.onnx", bands=2).read_bytes() == Path(output).read_bytes()


def test_widths_that_hold_in_bands_come_from_the_same_search() -> None:
    channels = label(resnet8())
    model = widths.feasible(
        channels,
        resources.Budget({"sram": 12_000}),
        make=lambda bounded: BandedCosts(bounded, Banding("peak", {"sram": 12_000})),
    )
    chosen = widths.uniform(model, resources.Budget({"sram": 12_000}))
    assert model.at(chosen)["sram"] <= 12_000 < CostModel(channels).at(chosen)["sram"]
