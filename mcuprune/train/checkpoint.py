"""A run that can be interrupted at any moment: its state in one file, written whole after every epoch.

Plain arrays in an uncompressed archive, read without unpickling, then a line with the checksum of all that stands before it.
Nothing of a file is believed before its checksum is right: one that was cut short or changed is refused as a whole.

A checkpoint belongs to one request on one model: it says which, and any other request refuses to go on and names what differs.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

import numpy as np

from mcuprune.errors import OutputError, UsageError, cause
from mcuprune.immutable import immutable
from mcuprune.places import write_bytes
from mcuprune.train import ranks

_META = "meta"
#: What to do about a state that nothing can be done with.
_ANEW = "remove it or leave --resume out to start anew"


@immutable
class Saved:
    """What was stored: named arrays, JSON values beside them, and what went along with every state."""

    arrays: Mapping[str, np.ndarray]
    values: Mapping[str, Any]
    also: Any


@immutable
class Checkpoint:
    """Where a run's state is kept.

    of: what the run's course depends on, texts by names for people; a file with others is not this run's.
    also: gives JSON values that are stored with every state, whoever saves it. kept: arrays that are.
    """

    path: Path
    of: Mapping[str, str]
    also: Callable[[], Any] = lambda: None
    kept: Mapping[str, np.ndarray] = field(default_factory=dict)

    def save(self, phase: str, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        """Replace the stored state; of several ranks the first does. Raises OutputError where the file can't be written."""
        if not ranks.first():
            return
        meta = {"of": dict(self.of), "phase": phase, "values": dict(values), "also": self.also()}
        write_bytes(_packed({**self.kept, **arrays}, meta), self.path)

    def load(self, phase: str | None) -> Saved | None:
        """The state of an interrupted run in this phase (any, for None); None where there is none.

        Raises UsageError where it is damaged, or of another request: to start anew would throw away what that has done.
        """
        stored = self.read()
        if stored is None:
            return None
        arrays, meta = stored
        if differing := differences(meta["of"], self.of):
            raise UsageError(
                f"{self.path}: is of another command, model or version of mcuprune ({differing}); --resume needs the same; "
                f"{_ANEW}"
            )
        if phase not in (None, meta["phase"]):
            return None
        return Saved(arrays, meta["values"], meta["also"])

    def read(self) -> tuple[Mapping[str, np.ndarray], Mapping[str, Any]] | None:
        """The arrays of a stored state and what is said of them, whoever's it is; None where there is none.

        Of several ranks the first reads it for all. Raises UsageError where it is damaged.
        """
        content = ranks.bytes_of_first(self._content)
        return None if content is None else self.unpacked(content)

    def unpacked(self, content: bytes) -> tuple[Mapping[str, np.ndarray], Mapping[str, Any]]:
        """The same, of what such a file holds."""
        stored = content[: -len(_seal(b""))]
        if content != stored + _seal(stored):
            raise self._damaged("cut short, or changed since it was written")
        try:
            with zipfile.ZipFile(io.BytesIO(stored)) as members:
                if any(member.compress_type != zipfile.ZIP_STORED for member in members.infolist()):
                    raise self._damaged("its arrays are compressed, as none of ours are")
            with np.load(io.BytesIO(stored), allow_pickle=False) as archive:
                meta = json.loads(bytes(archive[_META]))
                meta = {key: meta[key] for key in ("of", "phase", "values", "also")}
                return {key[2:]: archive[key] for key in archive.files if key != _META}, meta
        except UsageError:
            raise
        except Exception as error:  # whatever an archive that somebody has sealed anew makes numpy and zipfile raise
            raise self._damaged(f"{type(error).__name__}: {error}") from None

    def _content(self) -> bytes | None:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UsageError(f"{self.path}: can't be read ({cause(error)}); {_ANEW}") from None

    def _damaged(self, how: str) -> UsageError:
        return UsageError(f"{self.path}: is no whole state of a run ({how}); nothing of it is used: {_ANEW}")

    def remove(self) -> None:
        """Remove the stored state. Raises OutputError where the file is none: it is somebody else's then."""
        check(self.path)
        self.path.unlink(missing_ok=True)


def differences(stored: Mapping[str, str], now: Mapping[str, str]) -> str:
    """In what two runs differ, for people; empty where they are the same."""
    said = []
    for name in dict.fromkeys([*stored, *now]):
        then, here = str(stored.get(name, "not given")), str(now.get(name, "not given"))
        if then != here:
            values = f"{name} was {then or 'not given'}, is {here or 'not given'}"
            said.append(name if name.startswith("content of") else values)
    return "; ".join(said[:5])


def check(path: str | Path) -> None:
    """Raise OutputError where a file is at ``path`` that a checkpoint must not replace, for it is none, whole or not."""
    try:
        with open(path, "rb") as file:
            begin = file.read(64)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise OutputError(
            f"{path}: this run's state goes there, and what is there can't be read ({cause(error)}); move it"
        ) from None
    if begin and not (begin.startswith(b"PK") and f"{_META}.npy".encode() in begin):
        raise OutputError(
            f"{path}: this run's state goes there, but a file of another kind is there; move it, or name another -o"
        )


def _packed(arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> bytes:
    """What a file holds for these arrays and what is said of them."""
    members = {_META: np.frombuffer(json.dumps(meta).encode(), np.uint8)}
    content = io.BytesIO()
    np.savez(content, **members, **{f"a/{name}": value for name, value in arrays.items()})  # type: ignore[arg-type]
    return content.getvalue() + _seal(content.getvalue())


def renamed(content: bytes, name: Callable[[str], str]) -> bytes:
    """A stored state as it would be where files are called otherwise. Raises UsageError where it is damaged.

    name: what a text by which the state tells whose it is, such as the path of the data, is there.
    """
    arrays, meta = Checkpoint(Path("a state"), {}).unpacked(content)
    return _packed(arrays, {**meta, "of": {what: name(text) for what, text in meta["of"].items()}})


def _seal(content: bytes) -> bytes:
    """The line that ends a checkpoint: the checksum of all before it."""
    return f"\nmcuprune sha256 {hashlib.sha256(content).hexdigest()}\n".encode()


def history(path: str | Path) -> list[dict[str, Any]] | None:
    """The lines of history in the state of whatever run, to look at; None where there is no whole one."""
    try:
        stored = Checkpoint(Path(path), {}).read()
    except UsageError:
        return None
    return None if stored is None else list(stored[1]["also"]["history"])
