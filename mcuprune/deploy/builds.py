"""The builds of one file of generated C: ours, and one for each library that computes some of its calls.

A build is named by the macro that chooses it, ours by ``OWN``. What some builds alone need stands between preprocessor lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from mcuprune.deploy.cplan import Plan, spare
from mcuprune.deploy.libraries import ALIGNMENT, Library, LibraryCall
from mcuprune.deploy.rowcalls import RowCall, RowChain
from mcuprune.deploy.steps.calls import Call, Chain, Place
from mcuprune.deploy.steps.selection import Selection

#: The build in which every kernel is ours.
OWN = ""
Names = frozenset[str]


class Placed(NamedTuple):
    """A library's call, and where in the arena of its build its scratch begins."""

    call: LibraryCall
    at: int


class Builds:
    """Which kernel makes each call in which build.

    libraries: those that compute anything. libraries_only, every: the names of their builds, and of all. arenas: bytes of the
    arena by build, scratch included.
    """

    def __init__(self, selection: Selection, plan: Plan, libraries: Iterable[Library]) -> None:
        offered = tuple(libraries)
        self._arena = plan.arena
        self._forms: dict[int, dict[str, Placed]] = {}
        self.arenas = {OWN: plan.arena}
        inside = {place for region in plan.regions for place in range(region.first, region.end)}
        for place, index in enumerate(plan.steps):
            for call in plan.forms[index].calls if place in inside else selection.steps[index].calls:
                if isinstance(call, Chain | RowChain):
                    continue
                forms = self._forms[id(call)] = {}
                for library in offered:
                    form = library.instead(call)
                    if form is not None and (not form.aligned or _aligned(form, selection, plan)):
                        at = spare(selection, plan, place, form.scratch, ALIGNMENT) if form.scratch else 0
                        forms[library.macro] = Placed(form, at)
                        self.arenas[library.macro] = max(self.arenas.get(library.macro, plan.arena), at + form.scratch)
        self.libraries = tuple(library for library in offered if library.macro in self.arenas)
        self.libraries_only = frozenset(library.macro for library in self.libraries)
        self.every = self.libraries_only | {OWN}

    def instead(self, call: Call | RowCall) -> Mapping[str, Placed]:
        """By build, what computes a call there in place of our kernel."""
        return self._forms[id(call)]

    def told(self) -> list[str]:
        """What each library does, as comments."""
        lines: list[str] = []
        for library in self.libraries:
            count = sum(library.macro in forms for forms in self._forms.values())
            more = self.arenas[library.macro] - self._arena
            scratch = f"in an arena {more} bytes larger for its scratch" if more else "in the same arena"
            lines.append(
                f"/* With {library.macro} defined {library.name} makes {count} of {len(self._forms)} calls, {scratch}. */"
            )
        return lines

    def guarded(self, builds: Names, lines: Sequence[str]) -> list[str]:
        """Lines that these builds alone compile."""
        absent = self.every - builds
        if not absent or not builds:
            return [*lines] if builds else []
        if OWN in builds:
            condition = " && ".join(f"!defined({macro})" for macro in sorted(absent))
        else:
            condition = " || ".join(f"defined({macro})" for macro in sorted(builds))
        return [f"#if {condition}", *lines, "#endif"]

    def chosen(self, own: Sequence[str], others: Mapping[str, Sequence[str]]) -> list[str]:
        """Lines of ours, and of the builds that have others in their place."""
        if not others:
            return [*own]
        lines: list[str] = []
        for macro, instead in others.items():
            lines += [f"#{'elif' if lines else 'if'} defined({macro})", *instead]
        return [*lines, "#else", *own, "#endif"]


def _aligned(form: LibraryCall, selection: Selection, plan: Plan) -> bool:
    """Whether the tensors of a call lie at multiples of the alignment."""
    places = [argument for argument in form.arguments if isinstance(argument, Place)]
    return all((plan.offsets[selection.root(place.tensor)] + place.offset) % ALIGNMENT == 0 for place in places)
