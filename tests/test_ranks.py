"""Training on several processes is training on one: the same steps, the same widths; nobody waits for one that is lost."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from mcuprune.errors import UsageError
from mcuprune.train import ranks

ROOT = Path(__file__).parents[1]


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """That of one rank, as torchrun sets it."""
    own = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    path = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **{name: str(value) for name, value in own.items()}}


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def started(size: int, words: Sequence[str]) -> list[subprocess.Popen[str]]:
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, *words],
            env=environment(rank, size, port),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def ended(processes: Sequence[subprocess.Popen[str]], within: float = 120) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each."""
    until = time.monotonic() + within
    try:
        said = [process.communicate(timeout=max(0.1, until - time.monotonic())) for process in processes]
        return [(process.returncode, *each) for process, each in zip(processes, said, strict=True)]
    finally:
        for process in processes:
            process.kill()


def states(folder: Path, size: int) -> list[Mapping[str, np.ndarray]]:
    """What every rank of so many has made of the tiny network."""
    for code, _, said in ended(started(size, [str(ROOT / "tests" / "ranks_step.py"), str(folder / str(size))])):
        assert code == 0, said
    return [dict(np.load(folder / f"{size}-{rank}.npz")) for rank in range(size)]


def test_two_ranks_make_the_steps_of_one_process(tmp_path: Path) -> None:
    """BatchNormalization, gradients, a teacher, variation, fake quantisation, the gradient of the masks; bit by bit on both."""
    (alone,) = states(tmp_path, 1)
    one, other = states(tmp_path, 2)
    assert one.pop("drift") == other.pop("drift") == 1
    assert alone.keys() == one.keys() == other.keys()
    assert len(alone) > 50
    for name, value in alone.items():
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)
        np.testing.assert_allclose(one[name], value, rtol=2e-3, atol=2e-4, err_msg=name)
