"""What may be asked of a ``prune``: one field an option (``options``).

Flags, keys of the configuration, the fingerprint of a run and its report are read off these fields; nothing else has to know of
a new one but the code that it changes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from functools import partial
from typing import Any

from mcuprune import options
from mcuprune.costs import banding
from mcuprune.costs.resources import RESOURCES, Basis
from mcuprune.data.augmenting import KINDS, augmentation
from mcuprune.data.feed import Feed
from mcuprune.deploy.qdq import WEIGHT_BITS
from mcuprune.errors import UsageError
from mcuprune.graph.network import Shape
from mcuprune.immutable import immutable
from mcuprune.options import AUTO, option, unasked
from mcuprune.train.methods import METHODS
from mcuprune.train.optimizers import OPTIMIZERS
from mcuprune.train.task import (
    CUTS,
    FEEDBACKS,
    FLOORS,
    LOSSES,
    OBJECTIVES,
    PACES,
    PRECISIONS,
    RECIPES,
    SCORES,
    SLACKS,
    Schedule,
    Search,
)
from mcuprune.train.tasks.choice import NAMES
from mcuprune.train.tracking import TRACKERS, refuse_lacking
from mcuprune.units import Limit, milliseconds

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


def drop(text: str) -> float:
    """How much a figure may fall, as a share of 1: ``1%`` is 0.01. Raises UsageError for anything else."""
    share = re.fullmatch(r"\s*(\d{1,2}(?:\.\d{1,6})?)\s*%\s*", text, re.ASCII)
    if not share:
        close = f"; did you mean {text.strip()}%" if re.fullmatch(r"\d{1,2}(\.\d{1,6})?", text.strip(), re.ASCII) else ""
        raise UsageError(f"--max-drop {text}: is not a share; write it like 1% or 0.5%{close}")
    return float(share[1]) / 100


def _known(flag: str, table: Mapping[str, Any], name: str) -> None:
    if name not in table:
        raise UsageError(f"--{flag} {name}: unknown; choose one of {', '.join(table)}")


def refuse_unknown_method(name: str) -> None:
    """Raise UsageError for a method that nobody knows."""
    _known("method", METHODS, name)


def _compute(epochs: float) -> None:
    if not 0 < epochs < _MOST:
        raise UsageError(f"--train-compute: {epochs} is no amount of training; write a number of epochs above 0, such as 10")


def _time(text: str) -> None:
    try:
        milliseconds(text)
    except UsageError as error:
        raise UsageError(f"--time: {error}") from None


def _switch(help: str, choices: tuple[str, ...]) -> Any:
    """A field for one departure from the paper: the default method's way first; None where the recipe decides."""
    return option(None, help=help, group="Ablations", choices=choices, needs="gradients")


def _learning_rate(rate: float, flag: str = "--lr") -> None:
    if not 0 < rate < math.inf:
        raise UsageError(f"{flag}: {rate} is not a learning rate; write one above 0, such as 0.05")


@immutable
class Repeats:
    """The run that a request repeats. report: the path of its report.

    contents: digests that the ``model`` and the ``data`` must have, of those that the user didn't name anew.
    """

    report: str
    contents: Mapping[str, str]


@immutable
class Subject:
    """What is pruned, on what data, to which limits, and where it goes: what a script says with objects of its own.

    model: the path of its file. limits: by resource. basis: what limits are held against. output: the path of the file to
    write. data: as ``data.load`` takes it. configuration: the file that some of it was read from, which no result may replace.
    repeats: the run that this one repeats, if it does.
    """

    model: str
    limits: Mapping[str, Limit]
    output: str = option(
        help="Where the pruned model goes, in any format of `mcuprune export`; by default MODEL-pruned.onnx.",
        group="Output",
        short="-o",
        metavar="OUT.onnx",
        changes_run=False,
    )
    data: str | None = option(None, help="What to train and test with.", group="Data", metavar="NAME|PATH|module:function")
    basis: Basis = field(default_factory=Basis)
    configuration: str | None = unasked(None, changes_run=False)
    repeats: Repeats | None = unasked(None, changes_run=False)


@immutable(kw_only=True)
class Choices:
    """The options of a ``prune`` that mean the same on the command line and in a script.

    report: the folder of the report, which the caller writes. input_shapes, outputs: as for ``network.load``.
    """

    report: str | None = option(
        None,
        help="Where report.json, report.md and report.html go.",
        group="Output",
        metavar="DIR",
        changes_run=False,
    )
    track: Sequence[str] = option(
        (),
        help=f"Send the history on to {', '.join(f'{name}{kind.takes}' for name, kind in TRACKERS.items())}; repeatable.",
        group="Output",
        metavar="NAME[=PLACE]",
        check=refuse_lacking,
        changes_run=False,
    )
    task: str = option(
        AUTO,
        help="What the network is for; auto goes by its outputs and the data's targets.",
        group="Data",
        choices=NAMES,
        needs="data",
    )
    unlabelled: bool = option(
        False, help="Use no targets, even if there are some: the model as it came teaches.", group="Data", needs="data"
    )
    loss_function: str | None = option(
        None,
        help="A loss of your own: function(output, target) of torch tensors.",
        group="Training",
        metavar="module:function",
        needs="training",
    )
    max_drop: str | None = option(
        None,
        help="Instead of a limit: the smallest network that loses no more, such as 1%.",
        group="Limits",
        metavar="SHARE",
        check=drop,
        needs="training",
        displaces=("train",),
    )
    minimise: str | None = option(
        None, help="What --max-drop makes small.", group="Limits", choices=tuple(RESOURCES), needs="training"
    )
    method: str = option(
        next(iter(METHODS)),
        help="; ".join(f"{name}: {kind.about}" for name, kind in METHODS.items()) + ".",
        group="Pruning",
        metavar="NAME",
        check=refuse_unknown_method,
        needs="training",
    )
    score: str = option(
        SCORES[0],
        help="What at-init ranks channels by; snip and grasp look at data.",
        group="Pruning",
        choices=SCORES,
        needs="scores",
    )
    epochs: int | None = option(
        None,
        help="Passes over the data, however much or little they cost at the widths of the time.",
        group="Training",
        metavar="N",
        least=1,
        most=_MOST,
        needs="training",
        displaces=("train_compute", "time", "train"),
    )
    train_compute: float | None = option(
        None,
        help="Train for as many multiply-accumulates as N epochs of the whole model take; by default for about as long as "
        "700 of its steps take, or not at all if a trained model fits.",
        group="Training",
        metavar="N",
        check=_compute,
        needs="training",
        displaces=("epochs", "time", "train"),
    )
    time: str | None = option(
        None,
        help="Train for so long: 90s, 30m, 2h. No two such runs give the same file.",
        group="Training",
        metavar="TIME",
        check=_time,
        needs="training",
        displaces=("epochs", "train_compute", "train"),
    )
    batch: int = option(
        64, help="Examples of a training step.", group="Training", metavar="N", least=1, most=_MOST, needs="training"
    )
    lr: float | None = option(
        None, help="Peak learning rate.", group="Training", metavar="RATE", check=_learning_rate, needs="training"
    )
    optimizer: str = option(
        Schedule.optimizer,
        help="How weights train.",
        group="Training",
        metavar="|".join(OPTIMIZERS),
        check=partial(_known, "optimizer", OPTIMIZERS),
        needs="training",
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
    freeze_at_budget: bool | None = option(
        None,
        help="Whether channels are final once the budget holds; by default they are.",
        group="Pruning",
        needs="gradients",
    )
    recipe: str = option(
        "default",
        help="What the options below are where they aren't given; paper is the method as it was published.",
        group="Ablations",
        choices=tuple(RECIPES),
        needs="gradients",
    )
    gradients: str = option(
        LOSSES[0], help="Whose gradients lead widths.", group="Ablations", choices=LOSSES, needs="gradients"
    )
    objectives: str = option(
        OBJECTIVES[0],
        help="One violated resource at a time, or their sum.",
        group="Ablations",
        choices=OBJECTIVES,
        needs="gradients",
    )
    pace: str | None = _switch("A schedule for the costs, or a fixed learning rate of the widths.", PACES)
    pi_lr: float = option(
        Search.rate,
        help="That rate; a multiplier falls by at most 0.025 of it at a time.",
        group="Ablations",
        metavar="RATE",
        check=lambda rate: _learning_rate(rate, "--pi-lr"),
        needs="gradients",
    )
    feedback: str | None = _switch("The loss protects by a running mean, or by each gradient.", FEEDBACKS)
    floor: str | None = _switch("The least width: half of uniform scaling's, or one channel.", FLOORS)
    slack: str | None = _switch("What whole widths leave of a limit: grow into it, or leave it.", SLACKS)
    cut: str | None = _switch("When channels go: on the way, or after float training.", CUTS)
    seed: int = option(
        0,
        help="Fixes every random choice: same seed, same files.",
        group="Training",
        metavar="N",
        least=0,
        most=_LARGEST_SEED,
    )
    train: bool = option(
        True,
        help="Cut by weight magnitude, or at-init, without training.",
        group="Training",
        key="no-train",
        displaces=("max_drop", "minimise"),
    )
    int8: bool = option(True, help="Write float ONNX, not int8.", group="Output", key="float")
    bands: str | int = option(
        "off",
        help="Write row bands: as many as the limit of SRAM needs (auto), or K; the limit is held in them.",
        group="Output",
        metavar="auto|off|K",
        check=banding.parsed,
    )
    weight_bits: int = option(
        8,
        help="Of int8 weights; with 7 no x86 processor's kernels saturate.",
        group="Output",
        choices=WEIGHT_BITS,
    )
    input_shapes: Mapping[str, Shape] = field(default_factory=dict)
    outputs: Sequence[str] = ()
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
        needs="training",
    )
    teacher: str | None = option(
        None,
        help="A trained network for the same data, which the pruned one learns from beside the labels.",
        group="Training",
        metavar="FILE.onnx",
        needs="training",
    )
    small_images: float | None = option(
        None,
        help="Train on images of three quarters of their size for this first share of the training; by default for half of it "
        "where images have colours and no step is spent wide, else never.",
        group="Training",
        metavar="SHARE",
        least=0,
        below=1,
        needs="training",
    )
    patience: int | None = option(
        None,
        help="End training early, once so many evaluations in a row were no better than the best before; by default never.",
        group="Training",
        metavar="N",
        least=1,
        most=_MOST,
        needs="training",
    )
    from_scratch: bool = option(
        False,
        help="Train the model as an untrained one, whatever it knows.",
        group="Training",
        needs="start",
        displaces=("keep_weights",),
    )
    keep_weights: bool = option(
        False,
        help="Train the model as a trained one, even if it is right by chance only.",
        group="Training",
        needs="start",
        displaces=("from_scratch",),
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
    precision: str = option(
        PRECISIONS[0],
        help="In which float training computes layers; bfloat16 is for GPUs, weights stay float32.",
        group="Training",
        choices=PRECISIONS,
        needs="training",
    )


@immutable
class Request(Choices, Subject, Feed):
    """What the user asked for. Options left None are derived from the data and the model."""


def by_recipe(request: Request) -> Request:
    """The request with its recipe's settings where it has none of its own."""
    recipe = RECIPES[request.recipe]
    return replace(request, **{name: value for name, value in recipe.items() if getattr(request, name) is None})


def search_for(request: Request) -> Search:
    """What leads the widths, by the request and its recipe."""
    asked = by_recipe(request)
    switches = {name: getattr(asked, name) for name in ("pace", "feedback", "floor", "slack", "cut")}
    given = {name: value for name, value in switches.items() if value is not None}
    return Search(asked.gradients, asked.objectives, asked.score, rate=asked.pi_lr, **given)


def long_as_asked(request: Request) -> bool:
    """Whether the user said how long to train."""
    return any(value is not None for value in (request.epochs, request.train_compute, request.time))


def alike_untrained(methods: Sequence[str]) -> list[str]:
    """Those of some methods that cut as magnitude does where nothing is trained."""
    return [name for name in methods if not METHODS[name].before_training]


def without_effect(request: Request, *, has_data: bool) -> dict[str, str]:
    """The flags that were given and have no effect where nothing is trained -> what they need. Empty for a training.

    has_data: whether data is read.
    """
    if request.train:
        return {}
    method = METHODS[request.method]
    missing = {"training": "training", "gradients": "training"}
    missing |= {} if method.led_by == "scores" else {"scores": "--method at-init"}
    missing |= {} if has_data else {"data": "data"}
    missing |= {} if has_data or method.before_training else {"start": "training"}
    idle = options.without_effect(request, *missing)
    return {
        option.typed(getattr(request, option.name)): missing[option.needs]
        for option in idle
        if option.name != "method" or not method.before_training
    }


def check(request: Request) -> None:
    """Refuse options that make no sense for any model, as far as that is known without the packages that train."""
    options.check(request)
    if request.unlabelled and request.task not in (AUTO, "distill") and request.loss_function is not None:
        raise UsageError("--unlabelled, --loss-function: a loss of your own needs targets; give one of them")
    if (request.max_drop is None) != (request.minimise is None):
        lone, other = ("--max-drop", "--minimise flash") if request.minimise is None else ("--minimise", "--max-drop 1%")
        raise UsageError(f"{lone} alone: give {other} too: the smallest network of what, losing how much?")
    if request.max_drop is not None and not request.train:
        raise UsageError(
            "--max-drop, --no-train: what a network loses is found by training smaller ones; leave one of them out"
        )
    if request.max_drop is not None and request.minimise in request.limits:
        raise UsageError(f"--minimise {request.minimise}, --{request.minimise}: one of them says how much; leave the limit out")
    lengths = {"--epochs": request.epochs, "--train-compute": request.train_compute, "--time": request.time}
    if len(given := [flag for flag, value in lengths.items() if value is not None]) > 1:
        raise UsageError(f"{', '.join(given)}: each says how long to train; give one of them")
    if request.teacher is not None and request.distill is False:
        raise UsageError("--teacher, --no-distill: they contradict each other; give one of them")
    if request.report == "":
        raise UsageError("--report: names no folder; name one, or leave it out")
    if request.from_scratch and request.keep_weights:
        raise UsageError("--from-scratch, --keep-weights: they contradict each other; give one of them")
