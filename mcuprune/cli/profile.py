"""``mcuprune profile``: what a model costs, and where."""

from __future__ import annotations

import sys

from mcuprune import console, face, places
from mcuprune.cli import models, outputs
from mcuprune.cli.flags import Compared, Models, Reported, Run, Shaped, Spoken, configuration, wanted
from mcuprune.cli.parser import command
from mcuprune.costs import resources
from mcuprune.immutable import immutable
from mcuprune.options import option
from mcuprune.passes.reorder import reordered
from mcuprune.places import Output
from mcuprune.report import profile as report
from mcuprune.report.profile import Answer, View, device


@immutable(kw_only=True)
class Flags(Spoken, Shaped, Compared, Run, Reported, Models):
    """Options of ``profile``."""

    by: str = option("node", help="What a row of the table stands for.", group="Output", choices=tuple(report.BY))
    sort: str = option(
        "graph", help="Order of rows: the graph's, or worst first.", group="Output", choices=("graph", *resources.columns())
    )
    groups: bool = option(False, help="List the groups of channels, and why some can't be cut.", group="Output")
    bands: bool = option(False, help="List what row bands would need; see `mcuprune bands`.", group="Output")
    sensitivity: bool = option(
        False, help="Measure what each group loses with its channels, as `prune --method at-init` does.", group="Output"
    )
    board: str | None = option(
        None, help="Estimate latency and energy on it; see `mcuprune boards`.", group="Output", metavar="NAME"
    )
    write_order: str | None = option(
        None, help="Write the model with its nodes in the best order.", group="Output", metavar="OUT.onnx"
    )


@command(Flags)
def profile(flags: Flags) -> int:
    """What a model costs, and where: SRAM, flash, MACs."""
    places_of_answer = outputs.asked(flags.format, no_color=flags.no_color)
    settings = configuration(flags)
    paths = models.paths(flags.models, settings)
    models.refuse_several("--write-order", flags.write_order, paths)
    view = View(by=flags.by, sort=flags.sort, rows=flags.rows, groups=flags.groups)
    asked = wanted(flags)
    every = {path: asked.over(settings.wanted(path)) for path in paths}
    written = [] if flags.write_order is None else [Output("--write-order", flags.write_order)]
    models.settle([*written, *places_of_answer.files()], every, settings)

    def measured(path: str) -> Answer:
        own = every[path]
        gate = own.gate
        net = models.load(path, own)
        old = models.measure(own.against, own) if own.against else None
        cost = face.profile(net, runtime=gate.runtime, board=gate.board)
        if flags.write_order is not None:
            places.write_bytes(reordered(net, own.outputs, cost.memory.order), flags.write_order)
        sections: tuple[report.Section, ...] = ()
        if flags.bands:
            from mcuprune.report import bands as banding  # which a plain profile needn't wait for

            sections = (banding.section(net), banding.rows_section(net))
        if flags.sensitivity:
            from mcuprune.report import sensitivity as curves  # which needs torch

            sections = (*sections, curves.section(net, ascii=not console.can_encode(sys.stdout, curves.BARS)))
        return Answer(cost, old=old, device=device(net, gate), sections=sections)

    return outputs.emit(models.answers("profile", paths, measured, view), places_of_answer, quiet=flags.quiet)
