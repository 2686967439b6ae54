"""What is wanted of the networks of a portfolio: a name and a budget for each."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from mcuprune import units
from mcuprune.costs.resources import RESOURCES
from mcuprune.errors import UsageError, cause
from mcuprune.immutable import immutable
from mcuprune.options import nearest

#: More networks than this are taken for a slip of the pen.
MAX_VARIANTS = 64
#: Names of variants are names of files, and of identifiers in C.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


@immutable
class Variant:
    """A network that is wanted. limits: by resource."""

    name: str
    limits: Mapping[str, units.Limit]


def of_flags(limits: Mapping[str, Sequence[str]]) -> tuple[Variant, ...]:
    """Variants from flags, each called after its limits. limits: by resource, values as they were typed.

    The first values of all flags make the first variant, and so on; a single value counts for all variants.
    Raises UsageError for flags of several values that differ in how many, and for two variants of the same limits.
    """
    counts = {name: len(texts) for name, texts in limits.items() if len(texts) > 1}
    if len({*counts.values()}) > 1:
        told = ", ".join(f"--{name} has {count}" for name, count in counts.items())
        raise UsageError(f"{told} values; give each flag one for every variant, or a single one for all")
    variants = []
    for index in range(max(counts.values(), default=1)):
        texts = {name: each[index] if len(each) > 1 else each[0] for name, each in limits.items()}
        varied = {name: text for name, text in texts.items() if name in counts} or texts
        name = "_".join(f"{resource}-{text.strip().replace('%', 'pct')}" for resource, text in varied.items())
        variants.append(Variant(_name(name, name), {n: units.parse(text, RESOURCES[n].unit) for n, text in texts.items()}))
    return _checked(variants)


def of_file(path: str) -> tuple[Variant, ...]:
    """Variants from a TOML file: a table for each, called as the variant, of limits as they are typed.

    Raises UsageError, naming the file and the table.
    """
    try:
        with open(path, "rb") as file:
            tables = tomllib.load(file)
    except OSError as error:
        raise UsageError(f"--budgets {path}: can't be read ({cause(error)}); name a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--budgets {path}: is no TOML ({error})") from None
    return _checked([Variant(_name(name, f"--budgets {path}"), _limits(table, path, name)) for name, table in tables.items()])


def _limits(table: Any, path: str, variant: str) -> dict[str, units.Limit]:
    where = f"--budgets {path}: {variant}"
    if not isinstance(table, dict) or not table:
        raise UsageError(f'{where}: is no table of limits; write [{variant}] and below it lines such as sram = "32KB"')
    limits = {}
    for name, value in table.items():
        if name not in RESOURCES:
            raise UsageError(f"{where}: no resource {name!r} can be limited; {nearest(name, RESOURCES)}")
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise UsageError(f'{where}: {name} = {value!r} is neither text nor a whole number; write it like "32KB"')
        try:
            limits[name] = units.parse(str(value), RESOURCES[name].unit)
        except UsageError as error:
            raise UsageError(f"{where}: {name}: {error}") from None
    return limits


def _name(name: str, where: str) -> str:
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{where}: {name!r} is no name for a variant; use letters, digits, dots, - and _, and begin with none of these"
        )
    return name


def _checked(variants: Sequence[Variant]) -> tuple[Variant, ...]:
    if not variants:
        raise UsageError("no variant is wanted; give a limit several values, as in --sram 32KB,64KB, or tables in --budgets")
    if len(variants) > MAX_VARIANTS:
        raise UsageError(f"these are {len(variants)} variants, more than {MAX_VARIANTS}; give fewer")
    names: dict[str, str] = {}
    limits: dict[tuple[tuple[str, units.Limit], ...], str] = {}
    for variant in variants:
        folded = variant.name.casefold()
        if folded in names:
            raise UsageError(f"variants {names[folded]} and {variant.name} would be one file; give each budget once")
        key = tuple(sorted(variant.limits.items(), key=lambda item: item[0]))
        if key in limits:
            raise UsageError(f"variants {limits[key]} and {variant.name} have the same limits; give each budget once")
        names[folded] = limits[key] = variant.name
    return tuple(variants)
