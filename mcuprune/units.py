"""Quantities as people write them: ``"64KB"`` <-> 65536 bytes, ``"10M"`` <-> 10_000_000 counts, ``"50%"`` of one's own.

``K`` in a size is 1,024 whether written ``KB`` or ``KiB`` (a microcontroller's "64 KB SRAM" is 65,536 bytes); a lower-case
``kB`` is 1,000; ``MB`` and ``MiB`` are 1,048,576. Counts use powers of 1,000. A bare number is bytes, or a count. A bare
time is microseconds: ``"40ms"`` <-> 40,000.
"""

from __future__ import annotations

import re
from decimal import Decimal, Inexact, localcontext
from fractions import Fraction
from typing import Literal

from mcuprune.errors import UsageError
from mcuprune.immutable import immutable

Unit = Literal["bytes", "count", "time"]

_FACTORS: dict[Unit, dict[str, int]] = {
    "bytes": {"": 1, "B": 1, "kB": 1000, "KB": 1024, "KiB": 1024, "MB": 1024**2, "MiB": 1024**2},
    "count": {"": 1, "k": 10**3, "M": 10**6, "G": 10**9},
    "time": {"": 1, "us": 1, "ms": 10**3, "s": 10**6},
}
_EXAMPLES: dict[Unit, tuple[str, str]] = {
    "bytes": ("size", "64KB, 64KiB, 65536, 1.5MB or 50%"),
    "count": ("count", "10M, 500k, 10000000 or 50%"),
    "time": ("time", "40ms, 1.5s, 800us or 50%"),
}
_LEAST: dict[Unit, str] = {"bytes": "1 byte", "count": "1", "time": "1us"}
_QUANTITY = re.compile(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([A-Za-z]*|%)\s*", re.ASCII)
#: The larger units that numbers are shown in, and what stands behind one that is smaller than all of them.
_STEPS: dict[Unit, tuple[tuple[str, int], ...]] = {
    "bytes": (("MiB", 1024**2), ("KiB", 1024)),
    "count": (("G", 10**9), ("M", 10**6), ("k", 10**3)),
    "time": (("s", 10**6), ("ms", 10**3)),
}
_BASES: dict[Unit, str] = {"bytes": " B", "count": "", "time": " us"}
_DURATION = re.compile(r"\s*" + "".join(rf"(?:(\d{{1,9}}(?:\.\d{{1,9}})?){unit})?" for unit in "dhms") + r"\s*", re.ASCII)
#: No limit is larger: it fits the integers that costs are counted in.
_MOST = 2**62


@immutable
class Limit:
    """What a user asked for: an absolute number, or a share of the model's own cost.

    value: base units (bytes, a count or microseconds), or a fraction of 1 where ``relative``.
    """

    value: Fraction
    relative: bool

    def of(self, own: int) -> int:
        """The limit in base units for a model that costs ``own``. Fractions of a unit are dropped: limits are inclusive."""
        return min(int(self.value * own) if self.relative else int(self.value), _MOST)


def parse(text: str, unit: Unit) -> Limit:
    """Read a size (``unit="bytes"``), a count or a time. Raises UsageError on anything else, naming what would be accepted."""
    quantity = _QUANTITY.fullmatch(text)
    if quantity:
        number, suffix = Fraction(quantity[1]), quantity[2]
        if suffix == "%" and number > 0:
            return Limit(number / 100, relative=True)
        factor = _FACTORS[unit].get(suffix)
        if factor and number * factor >= 1:
            return Limit(number * factor, relative=False)
    what, examples = _EXAMPLES[unit]
    if quantity and number > 0:
        close = suffix if factor else _meant(suffix, unit)
        if close is not None and number * _FACTORS[unit][close] < 1:
            raise UsageError(f"{text!r} is less than {_LEAST[unit]}, the least {what}; write it like {examples}")
        if close:
            raise UsageError(f"{text!r} is not a {what}; did you mean {quantity[1]}{close}?")
    raise UsageError(f"{text!r} is not a {what}; write it like {examples}")


def _meant(suffix: str, unit: Unit) -> str | None:
    """The suffix that somebody may have meant by another: ``64K``, ``64kb`` and ``64 kByte`` are 64KB, ``10m`` is 10M."""
    known = [spelling for spelling in _FACTORS[unit] if spelling]
    if unit != "bytes":
        return next((spelling for spelling in known if spelling.lower() == suffix.lower()), None)
    letter = suffix[:1].upper()
    return f"{letter}B" if letter in ("K", "M") and re.fullmatch(r"i?(b|bytes?)?", suffix[1:], re.IGNORECASE) else None


def milliseconds(text: str) -> int:
    """Read a time such as ``90s``, ``30m``, ``1.5h`` or ``1h30m``. Raises UsageError on anything else, and on none at all."""
    duration = _DURATION.fullmatch(text)
    parts = zip(duration.groups(), (86400, 3600, 60, 1), strict=True) if duration else ()
    total = sum(int(Fraction(number) * seconds * 1000) for number, seconds in parts if number)
    if not 0 < total < _MOST:
        raise UsageError(f"{text!r} is not a time; write it like 90s, 30m, 2h or 1h30m")
    return total


def write(limit: Limit) -> str:
    """A limit as ``parse`` reads it, exactly. Raises ValueError for one that no text of ``parse`` gives."""
    value = limit.value * 100 if limit.relative else limit.value
    with localcontext(prec=80) as context:
        context.traps[Inexact] = True
        try:
            exact = Decimal(value.numerator) / Decimal(value.denominator)
        except Inexact:
            raise ValueError(f"{value} has no end as a decimal number") from None
        return f"{exact.normalize():f}{'%' if limit.relative else ''}"


def figure(value: float, unit: str) -> str:
    """A figure of a task for people. unit: a ``"share"`` of 1 is shown in per cent, any other value in four digits."""
    return f"{value:.1%}" if unit == "share" else f"{value:.4g}"


def show(value: int, unit: Unit) -> str:
    """A number for people, three or four significant digits: ``12.5 KiB``, ``1.79 M``. Never used in machine output."""
    steps = _STEPS[unit]
    for suffix, step in steps:
        if value >= step:
            scaled = value / step
            return f"{scaled:.{2 if scaled < 10 and unit == 'count' else 1}f} {suffix}"
    return f"{value}{_BASES[unit]}"
