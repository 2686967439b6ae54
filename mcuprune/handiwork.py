"""A folder's list of the files that mcuprune wrote into it, by which it knows them again and leaves those of the user alone.

The list is in the format of ``sha256sum``, which checks it too: ``sha256sum -c mcuprune.sha256``. While files are being written
it has them as they were and as they will be, so that an interrupted writer finds its own half-done work. It may come with a
folder that is a stranger's, so that nothing outside of the folder is removed, whatever it names.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import suppress
from pathlib import Path

from mcuprune import places
from mcuprune.errors import OutputError, cause
from mcuprune.immutable import immutable

#: The name of the list.
LIST = "mcuprune.sha256"
#: A list is a line for each file of a project; what is longer is none.
_LONGEST = 2**20
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")

#: What files hold, by their paths below a folder, with ``/``.
Files = Mapping[str, bytes]
_Digests = Mapping[str, frozenset[str]]


@immutable
class Replaced:
    """What became of the files that the list had and that aren't written any more, by their names in it.

    removed: gone now. changed: not as mcuprune wrote them, so that they stay.
    """

    removed: tuple[str, ...]
    changed: tuple[str, ...]


def refuse_theirs(flag: str, folder: Path, contents: Files | Iterable[str]) -> None:
    """Raise OutputError where writing ``contents`` would replace a file that isn't as mcuprune wrote it.

    flag: what messages call the folder by. contents: names alone before the work that says what the files will hold.
    """
    known, new = _listed(folder), contents if isinstance(contents, Mapping) else {}
    digests = {name: {*known.get(name, ()), *([_digest(new[name])] if name in new else [])} for name in contents}
    theirs = [name for name, ours in digests.items() if _is_theirs(folder / name, ours)]
    if not theirs:
        return
    away = "it" if len(theirs) == 1 else "them"
    raise OutputError(
        f"{flag} {folder}: would replace {few(theirs)}, which mcuprune didn't write, or not as it is now; name another folder, "
        f"or move {away} away"
    )


def few(names: Sequence[str]) -> str:
    """Names as a sentence has them: two, and how many more."""
    return " and ".join(names) if len(names) <= 2 else f"{', '.join(names[:2])} and {len(names) - 2} more"


def write(folder: Path, contents: Files, *, keeping: Iterable[Path] = ()) -> Replaced:
    """Write files into a folder, each whole or not at all, and the list of them, in place of those that the list had.

    What the list had and ``contents`` hasn't is removed where it is as mcuprune wrote it, with folders that become empty.
    keeping: files that stay all the same, as the caller reads or has written them. They need not exist.
    Raises OutputError where one can't be written or removed; the list then still has all of them.
    """
    place, listed = folder / LIST, _listed(folder)
    new = {name: frozenset([_digest(content)]) for name, content in contents.items()}
    earlier = {name: digests for name, digests in listed.items() if name not in new}
    both = {**earlier, **{name: listed.get(name, frozenset()) | digests for name, digests in new.items()}}
    for name in (LIST, *new):
        places.remove_leftovers(folder / name)
    places.write_bytes(_lines(both), place, make_folder=True)
    for name, content in contents.items():
        places.write_bytes(content, folder / name, make_folder=True)
    replaced = _remove(folder, earlier, [place, *(folder / name for name in new), *keeping])
    places.write_bytes(_lines(new), place)
    return replaced


def _remove(folder: Path, earlier: _Digests, keeping: Sequence[Path]) -> Replaced:
    """Remove files by the names and digests that the list had of them, but none that is one of ``keeping``."""
    removed, changed = list[str](), list[str]()
    for name, digests in earlier.items():
        path = folder / name
        if any(_is_same(path, other) for other in keeping):
            continue
        is_there, is_below = os.path.lexists(path), _is_below(folder, name)
        if is_there and (not is_below or _is_theirs(path, digests)):
            changed.append(name)
        elif is_there:
            try:
                os.unlink(path)
            except OSError as error:
                raise OutputError(f"{path}: can't be removed ({cause(error)}); remove it yourself") from None
            removed.append(name)
        if not is_below:
            continue
        places.remove_leftovers(path)  # a killed run may also have left a folder without the file
        for parent in path.relative_to(folder).parents[:-1]:
            with suppress(OSError):  # it isn't there, or holds something
                os.rmdir(folder / parent)
    return Replaced(tuple(removed), tuple(changed))


def _is_below(folder: Path, name: str) -> bool:
    """Whether a name of the list is that of a place below the folder, by no way around and through no link."""
    root = Path(os.path.realpath(folder))
    try:
        place = Path(os.path.realpath(root / name))
    except (OSError, ValueError):  # a name that no file can have
        return False
    return place == root / name and root in place.parents


def _is_same(path: Path, other: Path) -> bool:
    """Whether both are one file, by whatever names: on some systems these differ in case alone."""
    try:
        return os.path.samefile(path, other)
    except (OSError, ValueError):  # one of them isn't there
        return False


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
