"""``mcuprune verify``: run an int8 file where it will run."""

from __future__ import annotations

from pathlib import Path

from mcuprune import config, face, places
from mcuprune.cli import models
from mcuprune.cli.flags import Shaped, TextOrJson, current_folder, shapes
from mcuprune.cli.outputs import show
from mcuprune.cli.parser import command
from mcuprune.config import Wanted
from mcuprune.console import NO, YES
from mcuprune.data.feed import Feed, said
from mcuprune.data.loading import sources
from mcuprune.errors import UsageError
from mcuprune.immutable import immutable
from mcuprune.options import argument, option
from mcuprune.places import Output
from mcuprune.report import profile as report
from mcuprune.run.trial import Draw, Trial
from mcuprune.train.tasks.choice import NAMES


@immutable(kw_only=True)
class Flags(Draw, Shaped, TextOrJson, Feed):
    """Options of ``verify``."""

    model: str = argument("MODEL.onnx|MODEL.tflite", help="The file.")
    data: str | None = option(
        None,
        help="Real examples: accuracy in each runtime, equal classes.",
        group="Data",
        metavar="NAME|PATH|module:function",
    )
    task: str = option(Trial.task, help="What the model is for; auto goes by outputs and targets.", group="Data", choices=NAMES)
    tflite: str | None = option(None, help="Also write the model as TensorFlow Lite.", group="Output", metavar="OUT.tflite")
    keep: str | None = option(None, help="As --tflite, but only where the answer is yes.", group="Output", metavar="OUT.tflite")

    @property
    def written(self) -> dict[str, str]:
        """Where the TensorFlow Lite file goes, by flag."""
        return {flag: path for flag, path in (("--tflite", self.tflite), ("--keep", self.keep)) if path is not None}


@command(Flags)
def verify(flags: Flags) -> int:
    """Run an exported int8 model, .onnx or .tflite, in a microcontroller's runtimes and compare them with onnxruntime."""
    current_folder()
    from mcuprune.report.verified import document, text

    if flags.written:
        destinations = [Output(flag, path) for flag, path in flags.written.items()]
        models.settle(destinations, {flags.model: Wanted()}, config.Config(), sources(flags.data, flags.classes))
    for flag, path in flags.written.items():
        if Path(path).suffix != ".tflite":
            raise UsageError(f"{flag} {path}: would be a .tflite file under another name; end it in .tflite")
    verified = face.verify(
        flags.model,
        data=flags.data,
        task=flags.task,
        examples=flags.examples,
        seed=flags.seed,
        input_shapes=shapes(flags.input_shape),
        outputs=flags.outputs,
        **said(flags),
    )
    for flag, path in flags.written.items():
        if verified.ok or flag == "--tflite":  # to look at what differs one needs the file
            places.write_bytes(verified.converted.file, path)
    told = document(verified)
    as_json = flags.format == "json"
    show(report.dumped(told) if as_json else text(told), fit=not as_json)
    return YES if verified.ok else NO
