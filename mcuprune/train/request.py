"""What may be asked of a ``prune``: one field an option (``options``).

Flags, keys of the configuration, the fingerprint of a run and its report are read off these fields; nothing else has to know of
a new one but the code that it changes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mcuprune import options
from mcuprune.costs.resources import SramModel
from mcuprune.data.augmenting import KINDS, augmentation
from mcuprune.data.feed import Feed
from mcuprune.deploy.qdq import WEIGHT_BITS
from mcuprune.errors import UsageError
from mcuprune.graph.network import Shape
from mcuprune.options import option, unasked
from mcuprune.train.task import LOSSES, OBJECTIVES, Schedule
from mcuprune.units import Limit

#: No count that a flag gives is larger: it fits every integer on the way.
_MOST = 2**31 - 1
#: The largest seed that every generator of random numbers takes.
_LARGEST_SEED = 2**63 - 1


def device_asked(device: str) -> re.Match[str]:
    """What device was asked for, N of cuda:N as its group. Raises UsageError for what no machine has."""
    asked = re.fullmatch(r"auto|cpu|cuda(?::(0|[1-9]\d{0,3}))?", device, re.ASCII)
    if not asked:
        raise UsageError(f"--device {device}: unknown; choose auto, cpu, cuda or cuda:N")
    return asked


def _learning_rate(rate: float) -> None:
    if not 0 < rate < math.inf:
        raise UsageError(f"--lr: {rate} is not a learning rate; write one above 0, such as 0.05")


@dataclass(frozen=True)
class Request(Feed):
    """What the user asked for. Options left None are derived from the data and the model.

    model: the path of its file. limits: by resource. sram_model: what a limit of SRAM means. input_shapes, outputs: as for
    ``network.load``. output: the path of the file to write; report: the folder of the report, which the caller writes.
    data: as ``data.load`` takes it. configuration: the file that some of it was read from, which no result may replace.
    """

    model: str
    limits: Mapping[str, Limit]
    output: str = option(
        help="Where the pruned model goes, .onnx, .tflite, .h or .c; by default MODEL-pruned.onnx.",
        group="Output",
        short="-o",
        metavar="OUT.onnx",
        changes_run=False,
    )
    report: str | None = option(
        None, help="Where report.json and report.md go.", group="Output", metavar="DIR", changes_run=False
    )
    data: str | None = option(None, help="What to train and test with.", group="Data", metavar="NAME|PATH|module:function")
    method: str = option(
        "differentiable",
        help="differentiable, or a baseline: magnitude, uniform.",
        group="Pruning",
        metavar="NAME",
        needs="training",
    )
    epochs: int | None = option(
        None,
        help="Passes over the data; by default some 700 steps, or none if a trained model fits.",
        group="Training",
        metavar="N",
        least=1,
        most=_MOST,
        needs="training",
    )
    batch: int = option(
        64, help="Examples of a training step.", group="Training", metavar="N", least=1, most=_MOST, needs="training"
    )
    lr: float | None = option(
        None, help="Peak learning rate.", group="Training", metavar="RATE", check=_learning_rate, needs="training"
    )
    optimizer: str = option(
        Schedule.optimizer, help="How weights train.", group="Training", metavar="muon|sgd|adamw", needs="training"
    )
    weight_decay: float = option(
        Schedule.weight_decay,
        help="Of weight matrices.",
        group="Training",
        metavar="RATE",
        least=0,
        below=1,
        needs="training",
    )
    label_smoothing: float = option(
        Schedule.label_smoothing,
        help="Part of a label spread over all classes.",
        group="Training",
        metavar="SHARE",
        least=0,
        below=1,
        needs="training",
    )
    prune_every: int = option(
        Schedule.prune_every,
        help="Most steps between two updates of the widths.",
        group="Pruning",
        metavar="N",
        least=1,
        most=_MOST,
        needs="gradients",
    )
    prune_start: float | None = option(
        None,
        help="When pruning starts, as a share of the training.",
        group="Pruning",
        metavar="SHARE",
        needs="gradients",
    )
    prune_stop: float | None = option(
        None, help="When the budget is to hold.", group="Pruning", metavar="SHARE", needs="gradients"
    )
    freeze_at_budget: bool = option(
        True,
        help="Whether channels are final once the budget holds.",
        group="Pruning",
        both_ways=True,
        needs="gradients",
    )
    loss: str = option(LOSSES[0], help="The gradients that lead widths.", group="Ablations", choices=LOSSES, needs="gradients")
    objectives: str = option(
        OBJECTIVES[0],
        help="One violated resource at a time, or their sum.",
        group="Ablations",
        choices=OBJECTIVES,
        needs="gradients",
    )
    seed: int = option(
        0,
        help="Fixes every random choice: same seed, same files.",
        group="Training",
        metavar="N",
        least=0,
        most=_LARGEST_SEED,
    )
    train: bool = option(True, help="Cut by weight magnitude, without data.", group="Training", key="no-train")
    int8: bool = option(True, help="Write float ONNX, not int8.", group="Output", key="float")
    weight_bits: int = option(
        8,
        help="Of int8 weights; with 7 no x86 processor's kernels saturate.",
        group="Output",
        choices=WEIGHT_BITS,
    )
    input_shapes: Mapping[str, Shape] = field(default_factory=dict)
    outputs: Sequence[str] = ()
    sram_model: SramModel = "peak"
    keep: Sequence[str] = option((), help="Leave this group whole; repeatable.", group="Pruning", metavar="GROUP")
    min_channels: int = option(1, help="The least width of a group.", group="Pruning", metavar="N", least=1, most=_MOST)
    multiple_of: int = option(1, help="Widths are multiples of this.", group="Pruning", metavar="N", least=1, most=_MOST)
    augment: str | None = option(
        None,
        help=f"Vary training examples: auto (by kind of data; the default), none, or any of "
        f"{', '.join(f'{name}{kind.takes} {kind.what}' for name, kind in KINDS.items())}.",
        group="Data",
        metavar="flip,cropN,...",
        check=augmentation,
        needs="training",
    )
    distill: bool | None = option(
        None,
        help="Learn from the model as it came, too; trained models do by default.",
        group="Training",
        both_ways=True,
        needs="training",
    )
    from_scratch: bool = option(False, help="Train the model as an untrained one, whatever it knows.", group="Training")
    keep_weights: bool = option(
        False, help="Train the model as a trained one, even if it is right by chance only.", group="Training"
    )
    resume: bool = option(
        False,
        help="Go on where an interrupted run of the same command stopped.",
        group="Training",
        in_config=False,
        changes_run=False,
    )
    device: str = option(
        "auto",
        help="Where to train; auto is a GPU, if any, for large models. On a GPU the same seed may give other files.",
        group="Training",
        metavar="auto|cpu|cuda[:N]",
        check=device_asked,
    )
    configuration: str | None = unasked(None, changes_run=False)


def check(request: Request) -> None:
    """Refuse options that make no sense for any model, as far as that is known without the packages that train."""
    options.check(request)
    if request.from_scratch and request.keep_weights:
        raise UsageError("--from-scratch, --keep-weights: they contradict each other; give one of them")
