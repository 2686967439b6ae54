"""Many image files decoded by several processes, as threads of one hardly use a second core for it.

A process is told names of files, a list in JSON a line, and answers with their pixels. It ends at the first that is no image:
whoever asked decodes those files again itself, and has the error.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from math import prod
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from mcuprune.data import cache, pictures

Array = np.ndarray[Any, Any]
#: From so many files on, starting processes takes less time than they save.
_WORTH_PROCESSES = 2000
#: Files that a process is told of at a time.
_TOLD = 16


def stream(files: Sequence[Path], size: tuple[int, int, int]) -> Iterator[Array]:
    """uint8 (height, width, channels) of each file, in their order. Raises what ``pictures.decoded`` raises."""
    if len(files) < _WORTH_PROCESSES or cache.workers() == 1:
        yield from cache.in_order(lambda file: pictures.decoded(file, *size, where=str(file)), files)
        return
    with ExitStack() as ending:
        idle: SimpleQueue[_Decoder] = SimpleQueue()
        for _ in range(cache.workers()):
            decoder = _Decoder(size)
            ending.callback(decoder.end)
            idle.put(decoder)

        def decoded(some: Sequence[Path]) -> Array:
            decoder = idle.get()
            try:
                return decoder.decoded(some)
            finally:
                idle.put(decoder)

        told = [files[start : start + _TOLD] for start in range(0, len(files), _TOLD)]
        for block in cache.in_order(decoded, told, ahead=4 * cache.workers()):
            yield from block


class _Decoder:
    """A process that decodes, used by one thread at a time."""

    def __init__(self, size: tuple[int, int, int]) -> None:
        self._size = size
        self._process: subprocess.Popen[bytes] | None = None
        known = os.pathsep.join(path or os.getcwd() for path in sys.path)
        with suppress(OSError):  # where no process can be started, this one decodes
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, *map(str, size)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": known, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )

    def decoded(self, files: Sequence[Path]) -> Array:
        """uint8 (files, height, width, channels)."""
        if self._process is not None:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            with suppress(OSError):
                self._process.stdin.write(json.dumps([str(file) for file in files]).encode() + b"\n")
                self._process.stdin.flush()
                content = self._process.stdout.read(len(files) * prod(self._size))
                if len(content) == len(files) * prod(self._size):
                    return np.frombuffer(content, np.uint8).reshape(len(files), *self._size)
            self.end()
        return np.stack([pictures.decoded(file, *self._size, where=str(file)) for file in files])

    def end(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            with suppress(OSError):  # the pipe may be broken with a request still unsent
                self._process.communicate()
            self._process = None


def main() -> None:
    """Decode what stdin names, to the size that the command line has."""
    height, width, channels = map(int, sys.argv[1:])
    for line in sys.stdin:
        for file in json.loads(line):
            pixels = pictures.decoded(Path(file), height, width, channels, where=file)
            sys.stdout.buffer.write(np.ascontiguousarray(pixels).data)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
