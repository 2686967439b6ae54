"""Peak memory against an oracle that works on sets of operators and buffers, straight from the definition."""

from __future__ import annotations

import functools
import itertools
import operator
import random
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcuprune.schedule import greedy, solver
from mcuprune.schedule.cut import Cut, Effort
from mcuprune.schedule.search import Graph, Op, Planner, max_in_out, schedule, walk
from mcuprune.schedule.structure import Costs, Structure


def need_of(graph: Graph, done: frozenset[int], v: int) -> int:
    """Bytes that operator ``v`` needs once the operators ``done`` have run."""
    op = graph.ops[v]
    made = set(graph.inputs).union(*(graph.ops[w].outputs for w in done))
    waiting = {b for w in range(len(graph.ops)) if w not in done for b in graph.ops[w].inputs}
    alive = {b for b in made if b in graph.outputs or b in waiting}
    need = sum(graph.sizes[b] for b in alive | set(op.outputs))
    if len(op.outputs) == 1:
        (out,) = op.outputs
        for candidate in op.in_place:
            others = [w for w, other in enumerate(graph.ops) if candidate in other.inputs and w != v]
            if graph.sizes[candidate] == graph.sizes[out] and candidate not in graph.outputs and all(w in done for w in others):
                return need - graph.sizes[out]
    return need


def resting(graph: Graph) -> int:
    """Bytes alive before anything runs."""
    used = {b for op in graph.ops for b in op.inputs} | set(graph.outputs)
    return sum(graph.sizes[b] for b in graph.inputs if b in used)


def can_run(graph: Graph, done: frozenset[int]) -> list[int]:
    made = set(graph.inputs).union(*(graph.ops[w].outputs for w in done))
    return [v for v, op in enumerate(graph.ops) if v not in done and made.issuperset(op.inputs)]


def least_peak(graph: Graph) -> int:
    """The optimum, from the least peak on the way to every set of operators that can have run."""
    level = {frozenset[int](): resting(graph)}
    for _ in graph.ops:
        following: dict[frozenset[int], int] = {}
        for done, peak in level.items():
            for v in can_run(graph, done):
                after = done | {v}
                reached = max(peak, need_of(graph, done, v))
                following[after] = min(reached, following.get(after, reached))
        level = following
    (peak,) = level.values()
    return peak


def least_peak_of_all_orders(graph: Graph) -> int:
    """The optimum again, one order at a time."""
    peaks = []
    for order in itertools.permutations(range(len(graph.ops))):
        done: frozenset[int] = frozenset()
        peak = resting(graph)
        for v in order:
            if v not in can_run(graph, done):
                break
            peak = max(peak, need_of(graph, done, v))
            done |= {v}
        else:
            peaks.append(peak)
    return min(peaks)


def random_graph(seed: int, *, least_ops: int = 0, most_ops: int = 12, in_place: bool = True) -> Graph:
    """Several inputs, shared and unused buffers, operators with several outputs, outputs that are used further."""
    rng = random.Random(seed)
    n_inputs = rng.randint(1, 3)
    n_ops = rng.randint(least_ops, max(least_ops, most_ops))
    reach = rng.choice((2, 4, 100))
    choices = rng.choice(((1, 2, 3), (4, 4, 4, 8, 16), (0, 1, 5, 20, 100), tuple(range(1, 30))))
    buffers = list(range(n_inputs))
    ops = []
    for _ in range(n_ops):
        n_read = min(len(buffers), rng.choice((1, 1, 1, 2, 2, 3)))
        pool = buffers[-reach:] + (buffers[:1] if rng.random() < 0.3 else [])
        read = tuple(dict.fromkeys(rng.choice(pool) for _ in range(n_read)))
        made = tuple(range(len(buffers), len(buffers) + rng.choice((1, 1, 1, 1, 2, 3))))
        buffers.extend(made)
        over = tuple(b for b in read if in_place and rng.random() < 0.6)
        ops.append(Op(read, made, over))
    sizes = tuple(rng.choice(choices) for _ in buffers)
    used = {b for op in ops for b in op.inputs}
    outputs = tuple(b for b in buffers if (rng.random() < 0.7 if b not in used else rng.random() < 0.1))
    return Graph(tuple(ops), sizes, tuple(range(n_inputs)), outputs)


def peak_of(graph: Graph, order: Sequence[int]) -> int:
    return max((step.bytes for step in walk(graph, order)), default=resting(graph))


def assert_agrees(graph: Graph) -> None:
    """`schedule` finds the optimum, its order really has that peak, and its bounds hold however little it may work."""
    optimum = least_peak(graph)
    found = schedule(graph)
    assert found.exact
    assert found.peak == found.lower_bound == optimum
    assert found.steps == walk(graph, found.order)
    assert peak_of(graph, found.order) == optimum
    for effort in (0.0, 1e-4, 5e-4):
        hurried = schedule(graph, cpu_seconds=effort)
        assert hurried.lower_bound <= optimum <= hurried.peak
        assert hurried.exact == (hurried.lower_bound == hurried.peak)
        assert peak_of(graph, hurried.order) == hurried.peak


SHORT_SEEDS, ALL_SEEDS = 1500, 10_000


@pytest.mark.parametrize("first", range(0, SHORT_SEEDS, 250))
def test_schedule_agrees_with_every_order_of_random_graphs(first: int) -> None:
    for seed in range(first, first + 250):
        assert_agrees(random_graph(seed, in_place=seed % 3 != 0))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(SHORT_SEEDS, ALL_SEEDS + SHORT_SEEDS, 500))
def test_schedule_agrees_with_every_order_of_many_random_graphs(first: int) -> None:
    for seed in range(first, first + 500):
        assert_agrees(random_graph(seed, least_ops=4, in_place=seed % 3 != 0))


@pytest.mark.parametrize("seed", range(0, 120, 2))
def test_the_oracle_over_sets_agrees_with_the_oracle_over_orders(seed: int) -> None:
    graph = random_graph(seed, most_ops=6)
    assert least_peak(graph) == least_peak_of_all_orders(graph)


# Each stage alone must be right, since the ones before it rarely leave it a small graph.
STAGES = ("_try_beams", "_split", "_cut_ops", "_search_briefly", "_cut_sets", "_try_wide_beam")


@pytest.mark.parametrize(
    "left_out",
    [
        ("_try_beams", "_try_wide_beam"),
        ("_try_beams", "_try_wide_beam", "_cut_ops", "_cut_sets"),
        ("_try_beams", "_try_wide_beam", "_cut_ops", "_cut_sets", "_split"),
        ("_search_briefly", "_cut_ops"),
    ],
    ids=["no_beams", "no_beams_or_cuts", "search_alone", "sets_first"],
)
def test_stages_agree_with_every_order_without_the_others(left_out: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    def skip(_: object, span: solver.Span) -> list[solver.Span]:
        span.stage += 1
        return [span]

    for stage in left_out:
        monkeypatch.setattr(solver.Solver, stage, skip)
    monkeypatch.setattr(Structure, "lower_bound", lambda _, sizes: 0)
    monkeypatch.setattr(solver, "list_schedules", lambda *_: ())
    for seed in range(400):
        graph = random_graph(seed, least_ops=6, in_place=seed % 3 != 0)
        found = schedule(graph)
        assert found.exact
        assert found.peak == least_peak(graph)


def test_bounds_that_need_no_search_never_exceed_the_optimum() -> None:
    for seed in range(600):
        graph = random_graph(seed, in_place=seed % 3 != 0)
        assert Structure(graph).lower_bound(graph.sizes) <= least_peak(graph)


def test_cuts_find_the_fewest_bytes_between_two_states() -> None:
    for seed in range(200):
        graph = random_graph(seed, most_ops=8)
        structure = Structure(graph)
        costs = Costs(structure, graph.sizes)
        states = [0]
        for done in states:
            ready = (v for v in range(len(graph.ops)) if not done >> v & 1 and not structure.predecessors[v] & ~done)
            states.extend(done | 1 << v for v in ready if done | 1 << v not in states)
        low, high = random.Random(seed).choice([(a, b) for a in states for b in states if a & b == a])
        between = [state for state in states if low & state == low and state & high == state]
        fewest = min(costs.live(state) for state in between)
        cut = Cut(costs, Effort(10**6), low, high)
        lightest = [state for state in between if costs.live(state) == fewest]
        assert cut.value == fewest
        assert cut.smallest() == functools.reduce(operator.and_, lightest)
        assert cut.largest() == functools.reduce(operator.or_, lightest)


def relabelled(graph: Graph, seed: int) -> Graph:
    """The same graph in another executable order, its buffers renumbered."""
    rng = random.Random(seed)
    done: frozenset[int] = frozenset()
    order = []
    while len(order) < len(graph.ops):
        order.append(rng.choice(can_run(graph, done)))
        done |= {order[-1]}
    names = list(range(len(graph.sizes)))
    rng.shuffle(names)

    def renamed(buffers: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted((names[b] for b in buffers), key=lambda b: (b * 7919 + seed) % 101))

    sizes = [0] * len(names)
    for old, new in enumerate(names):
        sizes[new] = graph.sizes[old]
    ops = (graph.ops[v] for v in order)
    return Graph(
        tuple(Op(renamed(op.inputs), renamed(op.outputs), renamed(op.in_place)) for op in ops),
        tuple(sizes),
        renamed(graph.inputs),
        renamed(graph.outputs),
    )


graphs = st.builds(random_graph, st.integers(0, 10**6), least_ops=st.just(3), most_ops=st.integers(3, 25))


@settings(max_examples=150, deadline=None)
@given(graphs, st.integers(0, 10**6))
def test_peak_survives_relabelling(graph: Graph, seed: int) -> None:
    assert schedule(relabelled(graph, seed)).peak == schedule(graph).peak


@settings(max_examples=150, deadline=None)
@given(graphs, st.data())
def test_one_more_consumer_never_lowers_the_peak(graph: Graph, data: st.DataObject) -> None:
    v = data.draw(st.integers(0, len(graph.ops) - 1))
    made = [b for op in graph.ops[:v] for b in op.outputs]
    buffer = data.draw(st.sampled_from([*graph.inputs, *made]))
    op = graph.ops[v]
    more = replace(op, inputs=(*op.inputs, *(() if buffer in op.inputs else (buffer,))))
    assert schedule(replace(graph, ops=(*graph.ops[:v], more, *graph.ops[v + 1 :]))).peak >= schedule(graph).peak


@settings(max_examples=150, deadline=None)
@given(graphs, st.data())
def test_a_larger_buffer_never_lowers_the_peak_without_writing_in_place(graph: Graph, data: st.DataObject) -> None:
    plain = replace(graph, ops=tuple(replace(op, in_place=()) for op in graph.ops))
    buffer = data.draw(st.integers(0, len(graph.sizes) - 1))
    sizes = tuple(size + 7 * (b == buffer) for b, size in enumerate(graph.sizes))
    before, after = schedule(plain).peak, schedule(replace(plain, sizes=sizes)).peak
    assert before <= after <= before + 7


@settings(max_examples=100, deadline=None)
@given(graphs)
def test_writing_in_place_never_raises_the_peak(graph: Graph) -> None:
    plain = replace(graph, ops=tuple(replace(op, in_place=()) for op in graph.ops))
    assert schedule(graph).peak <= schedule(plain).peak


@settings(max_examples=100, deadline=None)
@given(graphs, st.lists(st.integers(0, 10**6), min_size=1, max_size=4))
def test_planning_again_finds_what_scheduling_afresh_finds(graph: Graph, seeds: list[int]) -> None:
    planner = Planner(graph)
    for seed in seeds:
        rng = random.Random(seed)
        sizes = tuple(max(0, size - rng.choice((0, 0, 1, 2))) for size in graph.sizes)
        found = planner.plan(sizes, cpu_seconds=2.0)
        afresh = schedule(replace(graph, sizes=sizes))
        assert found.exact
        assert afresh.exact
        assert found.peak == afresh.peak
        assert found.steps == walk(replace(graph, sizes=sizes), found.order)


@settings(max_examples=60, deadline=None)
@given(graphs)
def test_the_same_graph_gives_the_same_schedule(graph: Graph) -> None:
    assert schedule(graph, cpu_seconds=2e-3) == schedule(graph, cpu_seconds=2e-3)


def test_planning_with_no_effort_keeps_true_bounds() -> None:
    for seed in range(200):
        graph = random_graph(seed, least_ops=6)
        planner = Planner(graph, cpu_seconds=0)
        rng = random.Random(seed)
        sizes = tuple(size + rng.randint(0, 9) for size in graph.sizes)
        found = planner.plan(sizes, cpu_seconds=0)
        changed = replace(graph, sizes=sizes)
        assert found.lower_bound <= least_peak(changed) <= found.peak == peak_of(changed, found.order)


def layered(n_ops: int, seed: int) -> Graph:
    """Too wide to solve in the time that tests have."""
    rng = random.Random(seed)
    ops: list[Op] = []
    for v in range(n_ops):
        ops.append(Op(tuple(sorted(rng.sample(range(max(0, v - 24), v + 1), min(v + 1, rng.randint(1, 3))))), (v + 1,)))
    sizes = tuple(rng.randint(1, 100) for _ in range(n_ops + 1))
    used = {b for op in ops for b in op.inputs}
    return Graph(tuple(ops), sizes, (0,), tuple(b for b in range(n_ops + 1) if b not in used))


def test_more_effort_never_gives_wider_bounds_or_contradicts_less() -> None:
    graph = layered(150, 1)
    found = [schedule(graph, cpu_seconds=effort) for effort in (0, 0.01, 0.1, 0.4)]
    assert max(one.lower_bound for one in found) <= min(one.peak for one in found)
    for one in found:
        assert peak_of(graph, one.order) == one.peak
    assert found[-1].peak <= found[0].peak
    assert found[-1].lower_bound >= found[0].lower_bound


# Orders by simple rules, which stand behind every search.


def alive_after(graph: Graph, done: frozenset[int]) -> int:
    """Bytes alive once the operators ``done`` have run, from the definition."""
    made = set(graph.inputs).union(*(graph.ops[w].outputs for w in done))
    waiting = {b for w in range(len(graph.ops)) if w not in done for b in graph.ops[w].inputs}
    return sum(graph.sizes[b] for b in made if b in graph.outputs or b in waiting)


def plain_list_schedule(graph: Graph, rule: greedy._Rule, *, backwards: bool) -> tuple[int, ...]:
    """What a rule chooses, every key computed anew at every step."""
    everything = frozenset(range(len(graph.ops)))
    done = everything if backwards else frozenset[int]()
    since: dict[int, int] = {}
    order: list[int] = []
    while len(order) < len(graph.ops):
        if backwards:
            needed = {b for w in done for b in graph.ops[w].inputs}
            ready = [v for v in done if not needed.intersection(graph.ops[v].outputs)]
        else:
            ready = can_run(graph, done)
        keys = []
        for v in ready:
            since.setdefault(v, len(order))
            after = done ^ {v}
            change = alive_after(graph, after) - alive_after(graph, done)
            made = sum(graph.sizes[b] for b in graph.ops[v].outputs)
            if backwards:  # what lies on top of what is alive behind the operator: its dying inputs and dead outputs
                made += change
            keys.append((rule(made, change, -v if backwards else v, since[v]), v))
        _, v = min(keys)
        order.append(v)
        done ^= {v}
    return tuple(reversed(order) if backwards else order)


def list_schedules(graph: Graph) -> list[tuple[int, ...]]:
    reads, makes = [op.inputs for op in graph.ops], [op.outputs for op in graph.ops]
    return list(greedy.list_schedules(reads, makes, graph.sizes, graph.outputs))


def test_rules_choose_what_they_say() -> None:
    for seed in range(80):
        graph = random_graph(seed, most_ops=20)
        expected = [
            plain_list_schedule(graph, rule, backwards=backwards) for rule in greedy._RULES for backwards in (False, True)
        ]
        assert list_schedules(graph) == expected


def test_a_search_without_effort_falls_back_to_the_best_of_the_file_and_the_rules() -> None:
    for seed in range(40):
        graph = random_graph(seed, least_ops=30, most_ops=60)
        orders = [tuple(range(len(graph.ops))), *list_schedules(graph)]
        assert schedule(graph, cpu_seconds=0).peak == min(peak_of(graph, order) for order in orders)


@pytest.mark.parametrize("effort", [0.0, 0.05])
def test_no_effort_is_worse_than_the_file_or_the_rules(effort: float) -> None:
    for n_ops, seed in ((80, 1), (200, 2), (1001, 3)):
        graph = layered(n_ops, seed)
        found = schedule(graph, cpu_seconds=effort)
        assert found.peak == peak_of(graph, found.order)
        assert found.lower_bound <= found.peak <= min(peak_of(graph, order) for order in list_schedules(graph))
        assert found.peak <= peak_of(graph, range(n_ops))


@pytest.mark.parametrize("n_ops", [1407, 2806])
def test_thousands_of_random_operators_are_near_their_bound_in_time(n_ops: int) -> None:
    graph = layered(n_ops, 1)
    seconds = []
    for _ in range(2):
        started = time.process_time()
        found = schedule(graph)
        seconds.append(time.process_time() - started)
        if seconds[-1] < 1.5:
            break
    assert found.peak <= 1.01 * found.lower_bound
    assert min(seconds) < 1.5


def test_outputs_alone_bound_the_peak() -> None:
    # Ten outputs of 8 bytes from one input of 1: all are alive at the end, whatever the order.
    graph = Graph(tuple(Op((0,), (v,)) for v in range(1, 11)), (1, *(8,) * 10), (0,), tuple(range(1, 11)))
    assert Structure(graph).lower_bound(graph.sizes) == 80


# Hand counts.


def test_a_shared_input_counts_once() -> None:
    # Whichever of the two readers comes second runs beside the input, its own output and the other's: 100 + 10 + 10.
    graph = Graph((Op((0,), (1,)), Op((0,), (2,)), Op((1, 2), (3,))), (100, 10, 10, 5), (0,), (3,))
    assert schedule(graph).peak == 120
    assert max_in_out(graph) == 110


def test_order_matters_where_a_large_branch_can_go_first() -> None:
    # 8 -> 40 -> 1 beside 8 -> 10: with the small branch first its 10 bytes wait while the large one runs.
    graph = Graph((Op((0,), (1,)), Op((0,), (2,)), Op((2,), (3,)), Op((1, 3), (4,))), (8, 10, 40, 1, 11), (0,), (4,))
    assert peak_of(graph, (0, 1, 2, 3)) == 58
    found = schedule(graph)
    assert found.order == (1, 2, 0, 3)
    assert found.peak == 8 + 40 + 1


def test_a_residual_add_writes_over_the_branch() -> None:
    # conv, conv, add: the add costs its two inputs.
    ops = (Op((0,), (1,)), Op((1,), (2,)), Op((2, 0), (3,), (2, 0)))
    graph = Graph(ops, (10, 10, 10, 10), (0,), (3,))
    assert [step.bytes for step in schedule(graph).steps] == [20, 30, 20]
    assert schedule(graph).steps[-1].buffers == (0, 2)
    assert max_in_out(graph) == 20


@pytest.mark.parametrize(
    ("sizes", "outputs", "need"),
    [((10, 10), (1,), 10), ((10, 9), (1,), 19), ((10, 10), (0, 1), 20)],
    ids=["same size", "other size", "candidate is an output"],
)
def test_a_graph_input_is_overwritten_only_where_it_dies_and_fits(
    sizes: tuple[int, ...], outputs: tuple[int, ...], need: int
) -> None:
    assert schedule(Graph((Op((0,), (1,), (0,)),), sizes, (0,), outputs)).peak == need


def test_only_the_last_of_two_consumers_writes_in_place() -> None:
    ops = (Op((0,), (1,), (0,)), Op((0,), (2,), (0,)))
    steps = schedule(Graph(ops, (10, 10, 10), (0,), (1, 2))).steps
    assert [step.bytes for step in steps] == [20, 20]
    assert [len(step.buffers) for step in steps] == [2, 2]


def test_several_outputs_are_never_written_in_place() -> None:
    assert schedule(Graph((Op((0,), (1, 2), (0,)),), (10, 10, 0), (0,), (1, 2))).peak == 20


def test_a_dead_output_costs_only_during_its_own_operator() -> None:
    graph = Graph((Op((0,), (1, 2)), Op((1,), (3,))), (1, 1, 50, 1), (0,), (3,))
    assert [step.bytes for step in walk(graph, (0, 1))] == [52, 2]


def test_an_unused_input_costs_nothing_and_an_output_that_is_an_input_stays() -> None:
    graph = Graph((Op((0,), (1,)), Op((1,), (2,))), (5, 1, 1, 1000), (0, 3), (2, 0))
    assert [step.bytes for step in walk(graph, (0, 1))] == [6, 7]


def test_an_output_that_is_read_further_lives_to_the_end() -> None:
    graph = Graph((Op((0,), (1,)), Op((1,), (2,), (1,)), Op((2,), (3,))), (1, 8, 8, 1), (0,), (1, 3))
    assert [step.bytes for step in walk(graph, (0, 1, 2))] == [9, 16, 17]


def test_a_graph_without_operators_holds_its_inputs_and_outputs() -> None:
    found = schedule(Graph((), (5, 7), (0, 1), (1,)))
    assert (found.order, found.peak, found.lower_bound, found.exact, found.peak_steps) == ((), 7, 7, True, ())
    assert schedule(Graph((), (), (), ())).peak == 0
    assert max_in_out(Graph((), (), (), ())) == 0


def test_peak_steps_are_all_that_tie() -> None:
    graph = Graph(tuple(Op((v,), (v + 1,)) for v in range(4)), (10, 20, 10, 20, 1), (0,), (4,))
    assert [step.op for step in schedule(graph).peak_steps] == [0, 1, 2]


def test_a_thousand_operators_in_a_row_are_no_trouble() -> None:
    n_ops = 1500
    graph = Graph(tuple(Op((v,), (v + 1,)) for v in range(n_ops)), (3,) * (n_ops + 1), (0,), (n_ops,))
    assert schedule(graph).peak == 6


@pytest.mark.parametrize("order", [(1, 0), (0,), (0, 0)], ids=["before its input", "one missing", "one twice"])
def test_walk_refuses_an_order_that_cannot_run(order: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"runs before|names every op once"):
        walk(Graph((Op((0,), (1,)), Op((1,), (2,))), (1, 1, 1), (0,), (2,)), order)


@pytest.mark.parametrize(
    "graph",
    [
        Graph((Op((1,), (2,)), Op((0,), (1,))), (1, 1, 1), (0,), (2,)),
        Graph((Op((0,), (1,)), Op((0,), (1,))), (1, 1), (0,), (1,)),
        Graph((Op((0,), (0,)),), (1,), (0,), (0,)),
        Graph((Op((0, 0), (1,)),), (1, 1), (0,), (1,)),
        Graph((Op((0,), (1,), (1,)),), (1, 1), (0,), (1,)),
        Graph((Op((0,), (1,)),), (1, 1, 1), (0,), (2,)),
    ],
    ids=["read before made", "made twice", "input made", "read twice", "overwrites what it doesn't read", "output unmade"],
)
def test_a_graph_that_breaks_the_rules_is_refused(graph: Graph) -> None:
    with pytest.raises(ValueError, match="buffer"):
        schedule(graph)


def test_the_planner_refuses_a_wrong_number_of_sizes() -> None:
    with pytest.raises(ValueError, match="3 sizes for 2 buffers"):
        Planner(Graph((Op((0,), (1,)),), (1, 1), (0,), (1,))).plan((1, 1, 1))
