"""What was measured, before it is written: answers about models, and the tables that all formats share.

All formats read the same ``Answer``s, and their tables are the same ``Table``, so that a number can't differ between two of
them. A TOTAL is the sum of the rows above it (for SRAM their maximum).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from typing import Any, Literal, NamedTuple

from mcuprune.channels.labelling import Group
from mcuprune.costs.resources import RESOURCES, Basis, Layer, Profile, Verdict, columns
from mcuprune.deploy.boards import Board, board
from mcuprune.deploy.codesize import Runtime
from mcuprune.deploy.latency import Range, energy, latency, macs_by_class
from mcuprune.graph.network import Network
from mcuprune.immutable import immutable

#: What a row of a cost table may stand for.
BY = ("node", "op", "group")


@immutable
class Device:
    """Estimates for one board: milliseconds and microjoules of an inference; None where nobody has measured its like."""

    board: Board
    runtime: Runtime
    latency: Range | None
    energy: Range | None


def device(net: Network, basis: Basis) -> Device | None:
    """What a network takes on the board of ``basis``, in its runtime; None without a board."""
    if basis.board is None:
        return None
    on, macs = board(basis.board), macs_by_class(net)
    return Device(on, basis.runtime, latency(macs, on, basis.runtime), energy(macs, on, basis.runtime))


class Section(NamedTuple):
    """What a command adds to a profile: its key and value in JSON, its lines in text and in markdown, its HTML."""

    key: str
    document: Any
    lines: Sequence[str]
    markdown: Sequence[str] = ()
    html: str = ""


@immutable
class Answer:
    """What is known about one model.

    verdict: its limits, for ``check``. basis: what they are held against. old, growth: an earlier state of the model, and
    limits that follow from it.
    flags: what else on the command line ``prune`` needs to see the same model. sections: what else was asked for.
    """

    profile: Profile
    verdict: Verdict | None = None
    basis: Basis = field(default_factory=Basis)
    old: Profile | None = None
    growth: Verdict | None = None
    flags: tuple[str, ...] = ()
    device: Device | None = None
    sections: tuple[Section, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether its limits hold, if it has any."""
        return all(verdict.ok for verdict in (self.verdict, self.growth) if verdict is not None)


@immutable
class Refused:
    """What stands for a model that no answer could be given for. kind: the error's, as in the JSON."""

    path: str
    kind: str
    message: str
    ok: bool = False


@immutable
class View:
    """How much of a profile to show. rows: how many, 0 for all. sort: ``graph``, or the resource to have worst first."""

    by: str = "node"
    sort: str = "graph"
    rows: int = 20
    groups: bool = False
    ascii: bool = False
    width: int | None = None


@immutable
class Report:
    """The answers of one command, in the order of its models."""

    command: Literal["profile", "check"]
    answers: tuple[Answer | Refused, ...]
    view: View = field(default_factory=View)

    @property
    def ok(self) -> bool:
        """Whether every model has an answer that is right."""
        return all(answer.ok for answer in self.answers)

    @property
    def refused(self) -> tuple[Refused, ...]:
        """The models without an answer."""
        return tuple(answer for answer in self.answers if isinstance(answer, Refused))

    @property
    def refusal(self) -> Refused | None:
        """That of the only model, where there is one: then there is no answer at all."""
        return self.refused[0] if self.refused and len(self.answers) == 1 else None


@immutable
class Row:
    """One line of a table: what a node, an operator or a group costs, by the names of ``columns``, and what it cost before.

    count: of how many nodes. state: ``new`` or ``gone`` for what only one of two models has.
    """

    name: str
    used: Mapping[str, int]
    was: Mapping[str, int] | None = None
    op: str = ""
    shape: tuple[int, ...] = ()
    count: int = 1
    state: Literal["", "new", "gone"] = ""

    @property
    def change(self) -> dict[str, int]:
        """Cost by cost, how much more than before; empty where there is no before."""
        return {key: self.used[key] - self.was[key] for key in columns()} if self.was is not None else {}


@immutable
class Table:
    """rows: those that are shown. others: the rest in one line, if any. total: of all."""

    rows: tuple[Row, ...]
    others: Row | None
    total: Row


def table(answer: Answer, view: View) -> Table:
    """The costs by node, operator or group; the worst ``view.rows`` of them, the rest folded."""
    rows = _rows(answer, view.by)
    total = _sum("TOTAL", rows)
    if view.sort != "graph":
        rows = sorted(rows, key=lambda row: -row.used[view.sort])
        shown = rows[: view.rows or None]
    else:
        worst = sorted(range(len(rows)), key=lambda index: _weight(rows[index], total), reverse=True)
        keep = set(worst[: view.rows or None])
        shown = [row for index, row in enumerate(rows) if index in keep]
    chosen = {id(row) for row in shown}
    rest = [row for row in rows if id(row) not in chosen]
    return Table(tuple(shown), _sum(f"{len(rest)} others", rest) if rest else None, total)


def _rows(answer: Answer, by: str) -> list[Row]:
    key = _key(answer.profile.groups, by)
    gathered = _gather(answer.profile.layers, key)
    if answer.old is None:
        return [_row(name, layers, by) for name, layers in gathered.items()]
    before = _gather(answer.old.layers, _key(answer.old.groups, by))
    rows = []
    for name, layers in {**gathered, **{name: [] for name in before if name not in gathered}}.items():
        old = before.get(name, [])
        row = _row(name, layers or old, by)
        used, was = (_fold(map(used_by, part)) for part in (layers, old))
        rows.append(Row(name, used, was, row.op, row.shape, row.count, "" if layers and old else "new" if layers else "gone"))
    return rows


def _key(groups: Sequence[Group], by: str) -> Callable[[Layer], str]:
    if by == "group":
        group_of = {node: group.name for group in reversed(groups) for node in group.nodes}
        return lambda layer: group_of.get(layer.node, "(no channels of its own)")
    return lambda layer: layer.node if by == "node" else layer.op


def _gather(layers: Iterable[Layer], key: Callable[[Layer], str]) -> dict[str, list[Layer]]:
    gathered: dict[str, list[Layer]] = {}
    for layer in layers:
        gathered.setdefault(key(layer), []).append(layer)
    return gathered


def _row(name: str, layers: Sequence[Layer], by: str) -> Row:
    op, shape = (layers[0].op, layers[0].shape) if by == "node" else ("", ())
    return Row(name, _fold(map(used_by, layers)), op=op, shape=shape, count=len(layers))


def used_by(layer: Layer) -> dict[str, int]:
    """The costs of a layer that have a column."""
    return {key: layer.costs[key] for key in columns()}


def _fold(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    parts = list(parts)
    fold = {key: max if resource.share == "max" else sum for key, resource in columns().items()}
    return {key: together([0, *(part[key] for part in parts)]) for key, together in fold.items()}


def _sum(name: str, rows: Sequence[Row]) -> Row:
    was = [row.was for row in rows if row.was is not None]
    return Row(name, _fold(row.used for row in rows), _fold(was) if was else None, count=sum(row.count for row in rows))


def _weight(row: Row, total: Row) -> tuple[bool, float, float]:
    """What makes a row worth showing: it sets a total, its largest share of one it adds to, its share of the others."""
    shares = dict.fromkeys(columns(), 0.0)
    for part, whole in ((row.used, total.used), (row.was, total.was)):
        if part is not None and whole is not None:
            shares = {key: max(share, part[key] / whole[key] if whole[key] else 0.0) for key, share in shares.items()}
    largest = max(share for key, share in shares.items() if RESOURCES[key].share == "sum")
    return 1.0 in shares.values(), largest, max(shares.values())
