"""``mcuprune export``: a model as what a microcontroller's project takes."""

from __future__ import annotations

from collections.abc import Sequence

from mcuprune import escape, exporting, options
from mcuprune.cli.flags import Shaped, TextOrJson, current_folder, shapes
from mcuprune.cli.outputs import show
from mcuprune.cli.parser import command
from mcuprune.console import YES
from mcuprune.costs import banding
from mcuprune.data.feed import Feed, said
from mcuprune.deploy.project import PROJECTS
from mcuprune.errors import UsageError
from mcuprune.immutable import immutable
from mcuprune.options import argument, option
from mcuprune.report import profile as report


@immutable(kw_only=True)
class Flags(Shaped, TextOrJson, Feed):
    """Options of ``export``."""

    paths: Sequence[str] = argument("MODEL.onnx [DIR]", default=(), help="The model; with --project the folder to write.")
    data: str | None = option(
        None,
        help="What int8 ranges of a float model are measured on, and where a project's example comes from.",
        group="Data",
        metavar="NAME|PATH|module:function",
    )
    seed: int = option(0, help="Fixes every random choice.", group="Data", metavar="N", least=0, most=2**63 - 1)
    output: str | None = option(
        None,
        help=f"The file to write; its suffix says the format: {', '.join(exporting.EXPORTS)}.",
        group="Output",
        metavar=f"OUT{{{','.join(exporting.EXPORTS)}}}",
        short="-o",
    )
    project: str | None = option(
        None,
        help="A folder that builds around the generated C, with one example and its answer: --project KIND DIR.",
        group="Output",
        metavar=f"{'|'.join(PROJECTS)} DIR",
    )
    bands: str = option(
        "off",
        help="Write row bands: those with the least memory (auto), or K.",
        group="Output",
        metavar="auto|off|K",
        check=banding.parsed,
    )
    channels_last: bool = option(
        False,
        help="Generated C (.c, --project) takes and gives data with channels last, as its kernels have them.",
        group="Output",
    )
    names: bool = option(False, help="Keep the names of tensors in .tflite and .h, which no runtime needs.", group="Output")


@command(Flags)
def export(flags: Flags) -> int:
    """Write a model as int8 ONNX, TensorFlow Lite, a C array of that, or C of our own."""
    current_folder()
    options.check(flags)
    model, folder = _paths(flags)
    request = exporting.Request(
        model=model,
        output=flags.output,
        data=flags.data,
        project=None if flags.project is None else (flags.project, folder),
        channels_last=flags.channels_last,
        bands=flags.bands,
        names=flags.names,
        input_shapes=shapes(flags.input_shape),
        outputs=tuple(flags.outputs),
        seed=flags.seed,
        **said(flags),
    )
    exported = exporting.export(request)
    document = exporting.document(exported)
    as_json = flags.format == "json"
    show(report.dumped(document) if as_json else escape.lines(exporting.text(document)), fit=not as_json)
    return YES


def _paths(flags: Flags) -> tuple[str, str]:
    """The model, and the folder of a project. Raises UsageError where one is missing or too much."""
    wanted = 1 if flags.project is None else 2
    if len(flags.paths) != wanted:
        example = "mcuprune export MODEL.onnx -o OUT.tflite"
        if flags.project is not None:
            example = f"mcuprune export MODEL.onnx --project {flags.project} DIR"
        raise UsageError(f"give {'a model' if wanted == 1 else 'a model and a folder'}, as in {example}")
    paths = sorted(flags.paths, key=lambda path: not path.endswith(".onnx"))
    return paths[0], paths[-1]
