"""The oldest release of each library that pyproject.toml allows, as constraints for pip: ``make test-oldest`` installs them.

A lower bound that nothing runs with is a promise that nobody kept. Bounds are those of the package and of the extras that the
tests ask for; a tool of development may be any. A library without a lower bound stays free.

    python tests/oldest.py prune verify > constraints.txt
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

_BOUND = re.compile(r"([A-Za-z0-9._-]+)(?:\[.*?\])?\s*>=\s*([0-9.]+)")


def oldest(project: str, extras: Iterable[str]) -> list[str]:
    """``name==version`` of what a project's text asks for at least, itself and in its ``extras``.

    Raises KeyError for an extra that isn't there, ValueError for one library with two bounds.
    """
    tables = tomllib.loads(project)["project"]
    wanted = [*tables["dependencies"], *(line for extra in extras for line in tables["optional-dependencies"][extra])]
    bounds: dict[str, str] = {}
    for line in wanted:
        bound = _BOUND.match(line)
        if bound is not None and bounds.setdefault(bound[1], bound[2]) != bound[2]:
            raise ValueError(f"{bound[1]}: at least {bounds[bound[1]]} and at least {bound[2]}")
    return [f"{name}=={version}" for name, version in bounds.items()]


if __name__ == "__main__":
    print(*oldest((Path(__file__).parents[1] / "pyproject.toml").read_text(), sys.argv[1:]), sep="\n")
