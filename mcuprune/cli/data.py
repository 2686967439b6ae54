"""``mcuprune data``: what the data is, how it is fed, what the model says of it."""

from __future__ import annotations

from typing import Literal

from mcuprune import face
from mcuprune.cli import models
from mcuprune.cli.flags import Shaped, current_folder, shapes
from mcuprune.cli.outputs import show, write
from mcuprune.cli.parser import command
from mcuprune.config import Config, Wanted
from mcuprune.console import NO, YES
from mcuprune.data.feed import Feed
from mcuprune.data.loading import sources
from mcuprune.errors import MissingExtra, UsageError
from mcuprune.immutable import immutable
from mcuprune.options import argument, option
from mcuprune.places import Output


@immutable(kw_only=True)
class Flags(Shaped, Feed):
    """Options of ``data``."""

    model: str = argument("MODEL.onnx", help="The model.")
    data: str = argument("DATA", help="A folder, a file, the name of a data set, or module:function.")
    seed: int = option(0, help="Fixes the examples that are looked at.", group="Data", metavar="N", least=0, most=2**63 - 1)
    format: Literal["text", "markdown", "json", "html"] = option("text", help="How the answer is written.", group="Output")
    sheet: str | None = option(
        None, help="Write some examples of each class as one picture.", group="Output", metavar="FILE.png"
    )


@command(Flags)
def data(flags: Flags) -> int:
    """See what data is, how it is fed, and what the model says of it; nothing is trained."""
    current_folder()
    if flags.sheet is not None:
        if not flags.sheet.lower().endswith(".png"):
            raise UsageError(f"--sheet {flags.sheet}: is written as PNG; name it so: FILE.png")
        models.settle([Output("--sheet", flags.sheet)], {flags.model: Wanted()}, Config(), sources(flags.data, flags.classes))
    net = face.load(flags.model, input_shapes=shapes(flags.input_shape), outputs=flags.outputs)
    try:
        from mcuprune.inspecting import inspect
        from mcuprune.report import data as report
    except ModuleNotFoundError as error:
        raise MissingExtra(f"this command needs {error.name}; install it with pip install 'mcuprune[prune]'") from None
    seen = inspect(net, flags.data, flags, flags.seed)
    if flags.sheet is not None:
        write(report.png(seen), flags.sheet)
    show(report.FORMATS[flags.format](report.document(seen), seen))
    return YES if seen.ok else NO
