"""``mcuprune check``: does a model fit."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from mcuprune import config, face
from mcuprune.cli import models, outputs
from mcuprune.cli.flags import Compared, Limited, Models, Reported, Shaped, Spoken, configuration, refuse_idle, wanted
from mcuprune.cli.parser import command
from mcuprune.config import Wanted
from mcuprune.costs import resources
from mcuprune.costs.resources import RESOURCES
from mcuprune.errors import UsageError
from mcuprune.immutable import immutable
from mcuprune.options import option
from mcuprune.report.profile import Answer, View


@immutable(kw_only=True)
class Flags(Spoken, Shaped, Reported, Compared, Limited, Models):
    """Options of ``check``."""

    max_growth: Fraction | None = option(
        None, help="With --against: no resource may grow by more.", group="Limits", metavar="%", parse=config.growth
    )


@command(Flags)
def check(flags: Flags) -> int:
    """Does a model fit? 0 if all limits hold, 1 if not."""
    places_of_answer = outputs.asked(flags.format, no_color=flags.no_color)
    settings = configuration(flags)
    paths = models.paths(flags.models, settings)
    repeated = (("--input-shape", flags.input_shape), ("--outputs", flags.outputs))
    same_flags = tuple(word for flag, texts in repeated for text in texts for word in (flag, text))
    asked = wanted(flags, flags.limits)
    every = {path: asked.over(settings.wanted(path)) for path in paths}
    models.settle(places_of_answer.files(), every, settings)
    refuse_idle(asked, [*every.values()])

    def answer(path: str) -> Answer:
        refuse_idle(settings.own(path), [every[path]], f"{settings.source}: model {path}: ")
        return _checked(path, every[path], same_flags)

    checked = models.answers("check", paths, answer, View(rows=flags.rows))
    return outputs.emit(checked, places_of_answer, quiet=flags.quiet)


def _checked(path: str, wanted: Wanted, flags: tuple[str, ...]) -> Answer:
    """One model against what it has to hold. Raises UsageError where that is nothing."""
    if wanted.max_growth is not None and wanted.against is None:
        raise UsageError(f"{path}: a largest growth needs the model to compare with; give --against OLD.onnx")
    if not wanted.limits and wanted.max_growth is None:
        raise UsageError(f"{path}: nothing to check; give a limit such as --sram 64KB, or a budget in mcuprune.toml")
    measured = models.measure(path, wanted)
    basis = wanted.gate
    meant: dict[str, Any] = {f"{name}_model": word for name, word in basis.models.items() if name in wanted.limits}
    verdict = face.check(measured, wanted.limits, **meant) if wanted.limits else None
    old = growth = None
    if wanted.against is not None:
        old = models.measure(wanted.against, wanted)
        if wanted.max_growth is not None:
            both = [name for name in RESOURCES if name in old.total and name in measured.total]
            most = {name: int(old.total[name] * (1 + wanted.max_growth)) for name in both}
            growth = resources.Budget(most).check(measured.total)
    if wanted.board and basis.sram == "peak":  # a hint without it would be held against the arena, as a board is
        flags = (*flags, "--sram-model", basis.sram)
    return Answer(measured, verdict, basis, old, growth, flags)
