"""A run that can be interrupted at any moment: its state in one file, written whole after every epoch.

Plain arrays in an uncompressed archive, read without unpickling. A checkpoint belongs to one request on one model: the
fingerprint in it says which, and any other request refuses to go on from it.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mcuprune.errors import UsageError
from mcuprune.network import write_bytes

_META = "meta"


@dataclass(frozen=True)
class Saved:
    """What was stored: named arrays, JSON values beside them, and what went along with every state."""

    arrays: Mapping[str, np.ndarray]
    values: Mapping[str, Any]
    also: Any


@dataclass(frozen=True)
class Checkpoint:
    """Where a run's state is kept.

    fingerprint: of the request; a file with another one is not this run's.
    also: gives JSON values that are stored with every state, whoever saves it.
    """

    path: Path
    fingerprint: str
    also: Callable[[], Any] = lambda: None

    def save(self, phase: str, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        """Replace the stored state. Raises OutputError where the file can't be written."""
        meta = json.dumps({"fingerprint": self.fingerprint, "phase": phase, "values": dict(values), "also": self.also()})
        content = io.BytesIO()
        members = {_META: np.frombuffer(meta.encode(), np.uint8), **{f"a/{name}": value for name, value in arrays.items()}}
        np.savez(content, **members)  # type: ignore[arg-type]
        write_bytes(content.getvalue(), self.path)

    def load(self, phase: str | None) -> Saved | None:
        """The state of an interrupted run in this phase (any, for None); None where there is none.

        Raises UsageError where it is the state of another request: to start anew would throw away what that has done.
        """
        try:
            with np.load(self.path, allow_pickle=False) as archive:
                meta = json.loads(bytes(archive[_META]))
                if meta["fingerprint"] != self.fingerprint:
                    raise UsageError(
                        f"{self.path}: is of another command, model or version of mcuprune; --resume needs the same; "
                        "leave --resume out to start anew"
                    )
                if phase not in (None, meta["phase"]):
                    return None
                arrays = {key[2:]: archive[key] for key in archive.files if key != _META}
                return Saved(arrays, meta["values"], meta["also"])
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            return None  # absent, or cut short by whatever ended the run: start again

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
