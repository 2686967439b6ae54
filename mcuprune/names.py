"""Names that are still free in a graph.

A file's own names are anything at all, ours of an earlier run among them. Whoever adds a tensor or a node asks for its name
here, so that it differs from all names that are there.
"""

from __future__ import annotations

from collections.abc import Iterable


class Names:
    """The names of tensors and nodes that are taken."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)

    def free(self, wanted: str) -> str:
        """``wanted``, or ``wanted`` with the first number that makes it new; taken from now on."""
        name, count = wanted, 1
        while name in self._taken:
            count += 1
            name = f"{wanted}_{count}"
        self._taken.add(name)
        return name
