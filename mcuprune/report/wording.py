"""Numbers, limits and verdicts in words: what several formats say alike.

A text that rounds falls back to exact numbers where rounding would hide an excess.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence

from mcuprune import escape
from mcuprune.costs.resources import RESOURCES, Basis, Memory, Profile, Resource, Verdict, columns
from mcuprune.report.answers import Answer, Table, View
from mcuprune.units import Unit, show


def known(resources: Mapping[str, Resource], *profiles: Profile | None) -> dict[str, Resource]:
    """The resources that all these profiles could count."""
    return {key: r for key, r in resources.items() if all(profile is None or key in profile.total for profile in profiles)}


def limited(verdict: Verdict | None) -> list[tuple[str, int, int]]:
    """(resource, used, limit) of each limit."""
    return [(key, verdict.used[key], limit) for key, limit in verdict.limits.items()] if verdict is not None else []


def limit_title(key: str, answer: Answer) -> str:
    """What is limited, with the model that it is held against where that isn't the usual one."""
    title, word = RESOURCES[key].title, answer.basis.models.get(key)
    return f"{title} ({word})" if RESOURCES[key].under(word) is not RESOURCES[key] else title


def in_words(used: int, limit: int, unit: Unit) -> str:
    """The verdict of one limit; exact where a rounded number would hide that it is exceeded."""
    if used <= limit:
        return "fits"
    hidden = show(used, unit) == show(limit, unit)
    return f"over by {exact(used - limit, unit) if hidden else show(used - limit, unit)}"


def arena(memory: Memory) -> str:
    """The arena of TensorFlow Lite Micro, and what its interpreter needs to start where that is more."""
    more = f" (up to {kib(memory.arena_start)} while it starts)" if memory.arena_start > memory.arena_tflm else ""
    return kib(memory.arena_tflm) + more


def both(memory: Memory) -> str:
    """The two sizes of memory that people mean, side by side: what any runtime needs at least, and what one needs."""
    return f"peak of activations {kib(memory.peak)}, arena of TensorFlow Lite Micro {arena(memory)}"


def without_kernels(profile: Profile) -> str:
    """That no .tflite can be written, and why; empty where every operator has an int8 kernel that takes its ranks."""
    if profile.memory.only_c and not profile.memory.unsupported:
        return f"no .tflite can be written: {profile.memory.only_c.removeprefix(f'{profile.path}: ')}"
    reasons = [reason.removeprefix(f"{profile.path}: ") for reason in profile.memory.unsupported]
    if not reasons:
        return ""
    nodes, first = (f" because of {len(reasons)} nodes", "; the first is") if len(reasons) > 1 else ("", ":")
    return f"no .tflite can be written{nodes}, and the arena is that of the other operators{first} {reasons[0]}"


def proof(profile: Profile) -> str:
    """What is proven of the order: that no other needs less, or what each needs at least."""
    memory = profile.memory
    return "No order needs less." if memory.exact else f"Every order needs {kib(memory.lower_bound)} at least."


def sram_limit(answer: Answer) -> int | None:
    """The limit of the peak, if there is one."""
    return answer.verdict.limits.get("sram") if answer.verdict is not None and answer.basis.sram == "peak" else None


def summary(answer: Answer) -> tuple[list[str], list[str], list[list[str]]]:
    """Head, sides and rows of the table of totals, with limits and changes where there are some."""
    limits, old = answer.verdict, answer.old
    head = ["", "used", *(["limit", "verdict"] if limits is not None else []), *(["before", "change"] if old else [])]
    head += ["most allowed"] if answer.growth is not None else []
    rows = []
    for key, resource in known(RESOURCES, answer.profile, old).items():
        used = (limits.used if limits is not None and key in limits.used else answer.profile.total)[key]
        title = limit_title(key, answer) if limits is not None and key in limits.limits else resource.title
        row = [title, show(used, resource.unit)]
        if limits is not None:
            limit = limits.limits.get(key)
            row += ["", ""] if limit is None else [show(limit, resource.unit), in_words(used, limit, resource.unit)]
        if old:
            now, before = answer.profile.total[key], old.total[key]
            row += [show(before, resource.unit), signed(now - before, resource.unit)]
        if answer.growth is not None:
            limit = answer.growth.limits[key]
            over = answer.growth.used[key] > limit
            row.append(f"{show(limit, resource.unit)}{' (exceeded)' if over else ''}")
        rows.append(row)
    return head, ["<", *[">"] * (len(head) - 1)], rows


def cells(shown: Table, view: View, name: Callable[[str], str]) -> tuple[list[str], list[str], list[list[str]]]:
    """Head, sides and rows of a cost table; ``name`` writes a name in the format's way."""
    diff, by_node = shown.total.was is not None, view.by == "node"
    head = [view.by, *(["op", "shape"] if by_node else ["nodes"])]
    sides = ["<", *(["<", "<"] if by_node else [">"])]
    for resource in columns().values():
        head += [resource.title, "change"] if diff else [resource.title]
    sides += [">"] * (len(head) - len(sides))
    rows = []
    for row in [*shown.rows, *filter(None, [shown.others]), shown.total]:
        plain = row is shown.others or row is shown.total
        state = f" ({row.state})" if row.state else ""
        line = [row.name if plain else name(row.name) + state]
        line += [row.op, dimensions(row.shape)] if by_node else [str(row.count)]
        for key, resource in columns().items():
            line.append(show(row.used[key], resource.unit))
            if diff:
                line.append(signed(row.change[key], resource.unit) if row.was is not None else "")
        rows.append(line)
    return head, sides, rows


def hint(answer: Answer) -> str:
    """The command that makes a model fit its limits; empty where it does, or where only its growth is too large."""
    if answer.verdict is None or answer.verdict.ok:
        return ""
    path = answer.profile.path
    path = f"./{path}" if path.startswith("-") else path  # no flag
    words = ["mcuprune", "prune", path]
    for key, _, limit in limited(answer.verdict):
        words += [f"--{key}", short(limit, RESOURCES[key].unit)]
    if answer.basis.board is not None and "latency" in answer.verdict.limits:
        words += ["--board", answer.basis.board]
    for key, word in answer.basis.models.items():
        if key in answer.verdict.limits and RESOURCES[key].under(word) is not RESOURCES[key]:
            words += [f"--{key}-model", word]
    if answer.basis.runtime != Basis().runtime:
        words += ["--runtime", answer.basis.runtime]
    words += [*answer.flags, "-o", f"{path.removesuffix('.onnx')}-pruned.onnx"]
    return " ".join(shlex.quote(escape.plain(word)) for word in words)


def short(limit: int, unit: Unit) -> str:
    """A limit as one types it, without rounding."""
    steps: dict[Unit, tuple[tuple[str, int], ...]] = {
        "bytes": (("MB", 1024**2), ("KB", 1024), ("", 1)),
        "count": (("M", 10**6), ("k", 10**3), ("", 1)),
        "time": (("s", 10**6), ("ms", 10**3), ("us", 1)),
    }
    return next(f"{limit // step}{suffix}" for suffix, step in steps[unit] if limit % step == 0)


def exact(value: int, unit: Unit) -> str:
    """A number that isn't rounded, with its unit."""
    return {"bytes": f"{value} {'byte' if value == 1 else 'bytes'}", "count": str(value), "time": f"{value} us"}[unit]


def signed(change: int, unit: Unit) -> str:
    """A change with its sign; ``=`` for none."""
    return f"{'+' if change > 0 else '-'}{show(abs(change), unit)}" if change else "="


def kib(size: int) -> str:
    """Bytes as people read them."""
    return show(size, "bytes")


def dimensions(shape: Sequence[int]) -> str:
    """A shape as ``1x3x32x32``."""
    return "x".join(map(str, shape))
