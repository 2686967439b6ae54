"""A folder's list of the files that mcuprune wrote into it, by which it knows them again and leaves those of the user alone.

The list is in the format of ``sha256sum``, which checks it too: ``sha256sum -c mcuprune.sha256``. While files are being written
it has them as they were and as they will be, so that an interrupted writer finds its own half-done work.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Set
from pathlib import Path

from mcuprune import places
from mcuprune.errors import OutputError

#: The name of the list.
LIST = "mcuprune.sha256"
#: A list is a line for each file of a project; what is longer is none.
_LONGEST = 2**20
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")

#: What files hold, by their paths below a folder, with ``/``.
Files = Mapping[str, bytes]
_Digests = Mapping[str, frozenset[str]]


def refuse_theirs(flag: str, folder: Path, contents: Files | Iterable[str]) -> None:
    """Raise OutputError where writing ``contents`` would replace a file that isn't as mcuprune wrote it.

    flag: what messages call the folder by. contents: names alone before the work that says what the files will hold.
    """
    known, new = _listed(folder), contents if isinstance(contents, Mapping) else {}
    digests = {name: {*known.get(name, ()), *([_digest(new[name])] if name in new else [])} for name in contents}
    theirs = [name for name, ours in digests.items() if _is_theirs(folder / name, ours)]
    if not theirs:
        return
    more = f" and {len(theirs) - 2} more" if len(theirs) > 2 else ""
    named = f"{' and '.join(theirs[:2]) if not more else ', '.join(theirs[:2])}{more}"
    away = "it" if len(theirs) == 1 else "them"
    raise OutputError(
        f"{flag} {folder}: would replace {named}, which mcuprune didn't write, or not as it is now; name another folder, or "
        f"move {away} away"
    )


def write(folder: Path, contents: Files) -> None:
    """Write files into a folder, each whole or not at all, and the list of them.

    Raises OutputError where one can't be written.
    """
    place, new = folder / LIST, {name: frozenset([_digest(content)]) for name, content in contents.items()}
    both = {name: _listed(folder).get(name, frozenset()) | digests for name, digests in new.items()}
    places.write_bytes(_lines(both), place, make_folder=True)
    for name, content in contents.items():
        places.write_bytes(content, folder / name, make_folder=True)
    places.write_bytes(_lines(new), place)


def _is_theirs(path: Path, ours: Set[str]) -> bool:
    """Whether something stands there that has none of our digests; also what may not be read."""
    if not os.path.lexists(path):
        return False
    try:
        digest = _digest(path.read_bytes()) if path.is_file() else ""
    except OSError:
        return True
    return digest not in ours


def _listed(folder: Path) -> _Digests:
    """The digests of each file that the list has; nothing where there is no list that can be read."""
    try:
        with open(folder / LIST, encoding="utf-8", errors="replace") as file:
            text = file.read(_LONGEST + 1)
    except OSError:
        return {}
    digests: dict[str, frozenset[str]] = {}
    for line in text.splitlines() if len(text) <= _LONGEST else ():
        if match := _LINE.fullmatch(line):
            digests[match[2]] = digests.get(match[2], frozenset()) | {match[1]}
    return digests


def _lines(digests: _Digests) -> bytes:
    return "".join(f"{digest}  {name}\n" for name in digests for digest in sorted(digests[name])).encode()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
