"""A schedule for a request: how long to train, and how much of it belongs to wide layers, where the user left it open."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from mcuprune import units
from mcuprune.errors import UsageError
from mcuprune.immutable import immutable
from mcuprune.train.request import Request, by_recipe, search_for
from mcuprune.train.task import Schedule, Search

#: Between which parts of all epochs channels go. What an untrained network learns wide is lost when it narrows: the sooner the
#: better. A trained one can begin at once.
WINDOWS = {"scratch": (Schedule.prune_start, Schedule.prune_stop), "trained": (0.0, 0.28)}
#: Plain training, which decides how much is enough where nobody says: so many steps, in so many epochs.
_STEPS, _EPOCHS = 700, (6, 60)
#: The part of a training step's time that doesn't shrink with the network: normalisation, augmentation, the optimiser.
_FIXED = 0.4
#: Fake-quant training's part of the whole, where epochs are not what is counted.
_QUANT = 0.1
#: So many examples a weight are what narrow layers learn from first, counted anew in every pass, and never fewer than so many
#: passes: with 12 of them DS-CNN was 1.3 points behind uniform scaling (T2 B1). Wide layers get what is left of the compute, at
#: most the second of these shares of it; less than the first is nothing, for what so few steps say of channels is noise (T1).
_SEEN_PER_WEIGHT, _LEAST_PASSES, _WIDE = 30.0, 40.0, (0.03, 0.6)
#: When channels begin to go, as a part of the wide phase.
_BEGIN = 1 / 6
#: A wide phase of at least the first of these shares is spent otherwise where the network can teach one of at most the second
#: of its cost: the third of it trains the network whole, all other compute prunes it as a trained one (studies.md, Trials).
_LONG, _SMALL, _WHOLE = 0.5, 0.5, 0.5
#: Where no step is spent wide, images are smaller in this share of float training. Where they can be, no step is, unless the
#: wide phase is long enough for a network that teaches: with compute for a short one ResNet-8 and MobileNetV1 were better
#: without it (T1 B2, T3 B1), but MobileNetV1 was worse without a long one (T3 B3; studies.md, Trials).
_SMALL_IMAGES = 0.5


@immutable
class Narrow:
    """A network that fits. macs: as a share of the whole one's. weights: about how many it has."""

    macs: float = 1.0
    weights: int = 1


_FULL = Narrow()


def schedule_for(
    request: Request,
    examples: int,
    *,
    warm: bool,
    narrow: Narrow = _FULL,
    teachable: bool = False,
    shrinkable: bool = False,
    step_seconds: float | None = None,
) -> Schedule:
    """A schedule for this much data, the last part of it quantised.

    warm: whether the network comes trained. The learning rate is the same: a lower one leaves it near what it was when wide.
    narrow: what is left of the network, about. teachable: whether the answers of the network, once it is trained, are of use to
    one that is pruned out of it. shrinkable: whether it learns from smaller images too. step_seconds: of a step of the whole
    network, which tells what a training of a given time can do; None where that isn't known.
    """
    from mcuprune.train.optimizers import OPTIMIZERS

    request = by_recipe(request)
    batch = min(request.batch, examples)
    per_epoch = max(1, examples // batch)
    epochs = request.epochs or 0
    quant = min(max(1, epochs // 6), epochs - 1) if request.int8 and epochs else 0
    compute = None if request.epochs or request.time else request.train_compute or _enough(per_epoch, narrow.macs)
    schedule = Schedule(
        epochs=epochs - quant,
        quant_epochs=quant,
        batch=batch,
        lr=request.lr or OPTIMIZERS[request.optimizer].lr,
        weight_decay=request.weight_decay,
        optimizer=request.optimizer,
        label_smoothing=request.label_smoothing,
        prune_every=request.prune_every,
        freeze=request.freeze_at_budget is not False,
        train_compute=compute,
        milliseconds=units.milliseconds(request.time) if request.time else None,
        quant_share=_QUANT if request.int8 and not epochs else 0.0,
        patience=request.patience,
    )
    timed = None if schedule.milliseconds is None or step_seconds is None else schedule.milliseconds / 1000 / step_seconds
    reach = compute if timed is None else _within(timed / per_epoch, narrow.macs)
    whole, default = _phases(request, reach, examples, narrow, warm=warm, teachable=teachable, shrinkable=shrinkable)
    if timed is not None and not warm:
        in_time = partial(_share_of_time, narrow=narrow.macs)
        whole, default = in_time(whole), (in_time(default[0]), in_time(default[1]))
    start, stop = window(request, default)
    at_once = shrinkable and (start, stop) == (0.0, 0.0)
    small = request.small_images if request.small_images is not None else _SMALL_IMAGES if at_once else 0.0
    schedule = replace(schedule, prune_start=start, prune_stop=stop, whole=whole, small_images=small)
    if not epochs or request.pace == "rate":  # a fixed rate goes as far as so many updates take it
        return schedule
    return replace(schedule, prune_every=schedule.updates(schedule.epochs * per_epoch))


def _phases(
    request: Request,
    reach: float | None,
    examples: int,
    narrow: Narrow,
    *,
    warm: bool,
    teachable: bool,
    shrinkable: bool,
) -> tuple[float, tuple[float, float]]:
    """The share of training in which the network is trained whole, and between which shares of what follows channels go.

    reach: the compute of the training, in epochs of the whole network; None where it isn't known. For the rest see
    ``schedule_for``.
    """
    by_epochs = bool(request.epochs)
    default = WINDOWS["trained" if warm else "scratch"] if by_epochs or warm else wide_phase(reach, examples, narrow)
    if shrinkable and default[1] < _LONG and request.method == Request.method and not (by_epochs or warm):
        default = (0.0, 0.0)  # more steps on smaller images are worth more than a short wide phase
    if default == (0.0, 0.0) and _led(request):  # what the user said of the way must have one
        default = _WIDE[0] * _BEGIN, _WIDE[0]
    asked = warm or by_epochs or request.prune_start is not None or request.prune_stop is not None
    if teachable and not asked and default[1] >= _LONG and narrow.macs <= _SMALL:
        return _WHOLE * default[1], WINDOWS["trained"]
    return 0.0, default


def _led(request: Request) -> bool:
    """Whether the user says how widths are to be found."""
    search = replace(search_for(request), score=Search.score)
    return search != Search() or request.freeze_at_budget is not None or request.prune_every != Schedule.prune_every


def _enough(per_epoch: int, narrow: float) -> float:
    """The compute that takes about as long as plain training of the whole network does, in its epochs.

    A step of the narrow network takes more of the time than of the multiply-accumulates.
    """
    return _within(float(np.clip(np.ceil(_STEPS / per_epoch), *_EPOCHS)), narrow)


def _within(epochs: float, narrow: float) -> float:
    """The compute of the narrow network, in epochs of the whole one, in the time that so many of these take."""
    return epochs * narrow / (_FIXED + (1 - _FIXED) * narrow)


def _share_of_time(share: float, narrow: float) -> float:
    """The share of time that wide layers take for this share of the multiply-accumulates: narrow ones take more for each."""
    return share / (share + (1 - share) * (_FIXED / narrow + 1 - _FIXED))


def wide_phase(compute: float | None, examples: int, narrow: Narrow) -> tuple[float, float]:
    """Between which shares of the multiply-accumulates an untrained network narrows; (0, 0): before its first step.

    What narrow layers could learn from more passes over few examples is little, so wide ones may have that compute; where
    examples are many, every step belongs to the network that stays.

    compute: in epochs of the whole network; None where only time is known. examples: of the training set.
    """
    least, most = _WIDE
    enough = max(_LEAST_PASSES, _SEEN_PER_WEIGHT * examples / max(1, narrow.weights))  # passes over the data
    if compute is None:
        return least * _BEGIN, least
    share = min(most, 1 - enough * narrow.macs / compute)
    return (share * _BEGIN, share) if share >= least else (0.0, 0.0)


def window(request: Request, default: tuple[float, float]) -> tuple[float, float]:
    """When pruning starts and stops, as parts of float training. Raises UsageError for shares that aren't in this order.

    default: where the user says nothing.
    """
    first, last = default
    if request.prune_start is None and request.prune_stop is None:
        return default
    start, stop = request.prune_start, request.prune_stop
    if start is None:
        start = first if stop is None else min(first, stop / 2)
    if stop is None:
        stop = max(last, min(1.0, start + max(last - first, _WIDE[0])))
    if not 0 <= start < stop <= 1:
        raise UsageError(
            f"--prune-start {start}, --prune-stop {stop}: two shares of the training, one after the other; "
            "write something like 0.1 and 0.45"
        )
    return start, stop
