"""Generated C compiled for this computer and run here: the source that a microcontroller gets, as a runtime to compare with.

It is compiled by the compiler that CC names, or the first of cc, gcc and clang. The compiled network runs in a process of its
own: where it breaks off, that is a message and no crash.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mcuprune.errors import MissingExtra, ModelError

Array = np.ndarray[Any, Any]
_NAME = "net"


def compiler() -> list[str] | None:
    """The command of this computer's C compiler; None where there is none."""
    named = shlex.split(os.environ.get("CC", ""))
    for candidate in [named] if named else [["cc"], ["gcc"], ["clang"]]:
        if candidate and shutil.which(candidate[0]):
            return candidate
    return None


def run(
    source: str, header: str, name: str, inputs: Sequence[Sequence[Array]], sizes: Sequence[int], *, flags: Sequence[str] = ()
) -> list[list[Array]]:
    """Run generated C on examples.

    source, header: of a network called ``name``. inputs: for each example an int8 array for each input, in the order that the
    source takes. sizes: elements of each output. flags: more for the compiler, such as sanitizers.
    Returns for each example a flat int8 array for each output. Raises MissingExtra where there is no compiler, ModelError where
    it refuses the source or the network breaks off.
    """
    command = compiler()
    if command is None:
        raise MissingExtra("no C compiler found (cc, gcc or clang); install one, or name it in the environment as CC")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / f"{name}.c").write_text(source)
        (place / f"{name}.h").write_text(header)
        library = place / f"{_NAME}.so"
        build = [*command, "-std=c99", "-O2", "-shared", "-fPIC", *flags, f"{name}.c", "-o", library.name]
        done = subprocess.run(build, cwd=place, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            raise ModelError(f"{command[0]} refuses the generated C ({_last(done.stderr)})")
        for index in range(len(inputs[0])):
            np.save(place / f"in{index}.npy", np.stack([np.ascontiguousarray(example[index], np.int8) for example in inputs]))
        work = [sys.executable, "-m", "mcuprune.deploy.host", folder, name, *map(str, sizes)]
        environment = {**os.environ, **_preloaded(command, flags), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        ran = subprocess.run(work, capture_output=True, text=True, errors="replace", env=environment, check=False)
        if ran.returncode:
            raise ModelError(f"the generated C breaks off ({_last(ran.stderr)})")
        outputs = [np.load(place / f"out{index}.npy") for index in range(len(sizes))]
        return [[part[example] for part in outputs] for example in range(len(inputs))]


def _preloaded(command: Sequence[str], flags: Sequence[str]) -> Mapping[str, str]:
    """The address sanitizer's library must be there before Python is."""
    if not any("address" in flag for flag in flags):
        return {}
    found = subprocess.run([*command, "-print-file-name=libasan.so"], capture_output=True, text=True, check=False)
    return {"LD_PRELOAD": found.stdout.strip(), "ASAN_OPTIONS": "detect_leaks=0"}


def _last(text: str) -> str:
    return " ".join((text.strip().splitlines() or ["no reason given"])[-1].split())


def _work(folder: str, name: str, *sizes: str) -> None:
    """The other process: every example in ``folder`` through the compiled network."""
    place = Path(folder)
    invoke = getattr(ctypes.CDLL(str(place / f"{_NAME}.so")), f"{name}_invoke")
    invoke.restype = None
    inputs = [np.load(place / f"in{index}.npy") for index in range(len(list(place.glob("in*.npy"))))]
    outputs: list[list[Array]] = [[] for _ in sizes]
    for example in zip(*inputs, strict=True):
        given = [np.ascontiguousarray(x) for x in example]
        results = [np.zeros(int(size), np.int8) for size in sizes]
        invoke(_pointers(given), _pointers(results))
        for kept, result in zip(outputs, results, strict=True):
            kept.append(result)
    for index, kept in enumerate(outputs):
        np.save(place / f"out{index}.npy", np.stack(kept))


def _pointers(arrays: Sequence[Array]) -> Any:
    return (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))


if __name__ == "__main__":
    _work(*sys.argv[1:])
