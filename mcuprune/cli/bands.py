"""``mcuprune bands``: the same network in bands of rows."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

from mcuprune import places, units
from mcuprune.cli import models
from mcuprune.cli.flags import OneModel, Shaped, Spoken, TextOrJson, configuration, wanted
from mcuprune.cli.outputs import show
from mcuprune.cli.parser import command
from mcuprune.console import NO, YES
from mcuprune.costs.banding import MOST_BANDS
from mcuprune.costs.resources import RESOURCES
from mcuprune.errors import UsageError
from mcuprune.immutable import immutable
from mcuprune.options import option
from mcuprune.places import Output
from mcuprune.report import bands as banding
from mcuprune.report import profile as report


@immutable(kw_only=True)
class Flags(Spoken, Shaped, TextOrJson, OneModel):
    """Options of ``bands``."""

    sram: units.Limit | None = option(
        None,
        help="The limit to come under, of activations or of TFLM's arena.",
        group="Limits",
        metavar=RESOURCES["sram"].metavar,
        parse=partial(units.parse, unit="bytes"),
    )
    bands: int | None = option(
        None, help="How many, instead of a limit.", group="Limits", metavar="K", least=2, most=MOST_BANDS
    )
    sram_model: Literal["peak", "tflm"] = option("peak", help="What --sram limits.", group="Limits")
    output: str = option(help="Where the network goes.", group="Output", short="-o", metavar="OUT.onnx")


@command(Flags)
def bands(flags: Flags) -> int:
    """Write the same network in bands of rows: less SRAM, the same integers."""
    settings = configuration(flags)
    reads = wanted(flags).over(settings.wanted(flags.model))
    models.settle([Output("-o", flags.output)], {flags.model: reads}, settings)
    if Path(flags.output).suffix not in ("", ".onnx"):
        raise UsageError(
            f"-o {flags.output}: bands are written as ONNX; name a file that ends in .onnx, and give that to mcuprune export"
        )
    net = models.load(flags.model, reads)
    banded = banding.run(net, flags.output, limit=flags.sram, bands=flags.bands, model=flags.sram_model)
    places.write_bytes(banding.written(banded), flags.output)
    if flags.format == "json":
        show(report.dumped(banding.document(banded)))
    elif not (flags.quiet and banded.ok):
        show(banding.text(banded), fit=True)
    return YES if banded.ok else NO
