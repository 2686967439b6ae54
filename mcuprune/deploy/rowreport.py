"""What of generated C runs row by row, and what memory that takes, for reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from mcuprune import escape
from mcuprune.deploy.cplan import Bands, Plan, planned
from mcuprune.deploy.program import Program
from mcuprune.deploy.regions import Region
from mcuprune.deploy.rowcalls import rows_of
from mcuprune.deploy.steps.selection import Selection
from mcuprune.immutable import immutable
from mcuprune.units import show


@immutable
class Ring:
    """The rows that are in memory of a tensor inside a region. node: what makes it. kept: rows; of: rows that it has."""

    node: str
    kept: int
    of: int
    bytes: int


@immutable
class Banded:
    """A region. nodes: of its operators. rows: of its last tensor. sequence: bytes of flash that say which one goes on."""

    nodes: tuple[str, ...]
    rows: int
    sequence: int
    rings: tuple[Ring, ...]


@immutable
class RowReport:
    """The regions of a plan, the bytes of its arena, and those of the arena without regions."""

    arena: int
    whole: int
    regions: tuple[Banded, ...]

    def document(self) -> dict[str, Any]:
        """As JSON values, bytes."""
        regions = [
            {
                "from": region.nodes[0],
                "to": region.nodes[-1],
                "nodes": list(region.nodes),
                "rows": region.rows,
                "sequence": region.sequence,
                "rings": [vars(ring) for ring in region.rings],
            }
            for region in self.regions
        ]
        return {"arena": self.arena, "without": self.whole, "regions": regions}


def row_report(selection: Selection, plan: Plan) -> RowReport:
    """What runs row by row in a plan."""
    return RowReport(plan.arena, plan.whole, tuple(_banded(selection, plan, region) for region in plan.regions))


def priced(program: Program, bands: Bands) -> RowReport:
    """What a program takes in C, without writing it; a float network's as export would quantise it.

    Raises UnsupportedOperator, naming the node, for what no kernel does.
    """
    with np.errstate(all="ignore"):  # stand-ins for constants have no numbers
        return row_report(*planned(replace(program, problems=()), bands))


def _banded(selection: Selection, plan: Plan, region: Region) -> Banded:
    steps = [selection.steps[index] for index in plan.steps[region.first : region.end]]
    rings = []
    for step in steps:
        tensor = step.writes[0]
        rows, kept = rows_of(selection, tensor), plan.ring[tensor]
        if kept < rows:
            rings.append(Ring(step.node, kept, rows, kept * (selection.size(tensor) // rows)))
    nodes = tuple(dict.fromkeys(step.node for step in steps))
    return Banded(nodes, rows_of(selection, steps[-1].writes[0]), len(region.tape.sequence), tuple(rings))


def lines(document: Mapping[str, Any]) -> list[str]:
    """A ``RowReport.document`` for people."""
    if not document["regions"]:
        return [f"rows in C: {show(document['arena'], 'bytes')} of RAM; no operators row by row would need less"]
    said = [f"rows in C: {show(document['arena'], 'bytes')} of RAM, {show(document['without'], 'bytes')} without:"]
    for region in document["regions"]:
        count, first, last = len(region["nodes"]), escape.plain(region["from"]), escape.plain(region["to"])
        span = f"{count} nodes from {first} to {last}" if count > 1 else first
        rings = ", ".join(f"{escape.plain(ring['node'])} {ring['kept']} of {ring['of']}" for ring in region["rings"])
        said.append(f"  {span}, {region['rows']} rows, {region['sequence']} bytes of sequence")
        said += [f"    rows in memory: {rings}"] if rings else []
    return said
