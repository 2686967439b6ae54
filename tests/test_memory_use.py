"""What training takes of a data set in files: as much as it looks at, never the whole."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mcuprune.data import cache
from mcuprune.data.columns import Fed, Joined, Taken, identify
from mcuprune.data.preprocessing import Preprocessing
from mcuprune.data.readers.views import Pixels
from mcuprune.data.sets import Column
from mcuprune.train.evaluate import Model, batch_of

STATUS = Path("/proc/self/status")
#: Bytes of the file, and of its pages that may be in memory once examples have been read.
SIZE, MOST = 96 * 2**20, 12 * 2**20
_BATCH = 64
SHAPE = (3, 32, 32)


def mapped_megabytes() -> float:
    """How much of the process's memory is pages of files."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("RssFile"))
    return int(line.split()[1]) / 1024


@pytest.fixture
def stored(tmp_path: Path) -> np.ndarray:
    """Images in a file that the system has in its cache, as after a look at it."""
    if not STATUS.exists() or "RssFile" not in STATUS.read_text():
        pytest.skip("this system doesn't say how much of a file is in memory")
    count = SIZE // int(np.prod(SHAPE))
    path = tmp_path / "x.npy"
    np.lib.format.open_memmap(path, "w+", np.uint8, (count, *SHAPE)).flush()
    path.read_bytes()
    found: np.ndarray = np.load(path, mmap_mode="r")
    return found


def fed(source: Column) -> Fed:
    return Fed(source, SHAPE, Preprocessing(layout="NCHW"))


COLUMNS: dict[str, Callable[[np.ndarray], Column]] = {
    "as it is": fed,
    "a part of it": lambda x: Taken(fed(x), np.arange(0, len(x), 2)),
    "fed a part": lambda x: fed(Taken(x, np.arange(1, len(x), 2))),
    "in pieces": lambda x: fed(Joined([x[: len(x) // 2], x[len(x) // 2 :]])),
    "records": lambda x: fed(Pixels(x.reshape(len(x), -1), SHAPE, 0)),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_nothing_of_a_file_is_held_between_batches(stored: np.ndarray, name: str) -> None:
    column = COLUMNS[name](stored)
    before, most = mapped_megabytes(), 0.0
    order = np.random.default_rng(0).permutation(len(column))
    for start in range(0, len(order), _BATCH):
        assert column[order[start : start + _BATCH]].shape[1:] == SHAPE
        most = max(most, mapped_megabytes() - before)
    assert most * 2**20 < MOST


def test_a_digest_reads_a_file_piece_by_piece(stored: np.ndarray) -> None:
    before = mapped_megabytes()
    digest, whole = hashlib.sha256(), hashlib.sha256()
    identify(stored, digest)
    assert (mapped_megabytes() - before) * 2**20 < MOST
    identify(np.array(stored), whole)
    assert digest.digest() == whole.digest()


def test_what_was_written_through_a_mapping_is_still_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages that nobody has written to the disk yet are not lost when they are given back."""
    monkeypatch.setattr(cache, "folder", lambda: None)
    items = np.random.default_rng(0).integers(0, 256, (16, 3 * 2**20), np.uint8)
    column = cache.cached(["test"], items, items.shape[1:], np.uint8, lambda item: item)
    assert isinstance(column, np.memmap)
    for _ in range(2):
        assert np.array_equal(Taken(column, np.arange(16)[::-1])[:], items[::-1])


def test_examples_are_run_together_by_their_size() -> None:
    assert [batch_of([shape]) for shape in ((1, 16, 16), (3, 96, 96), (3, 224, 224))] == [256, 37, 8]
    assert batch_of([(3, 96, 96), (3, 96, 96)]) == 18


def test_a_model_gives_the_same_whatever_number_is_run_together(tmp_path: Path) -> None:
    import small_nets

    path = small_nets.save(small_nets.residual(4, batch="N"), tmp_path / "n.onnx")
    x = np.random.default_rng(0).standard_normal((20, 3, 8, 8)).astype(np.float32)
    together, apart = Model(path), Model(path)
    apart._batch = 3
    np.testing.assert_allclose(together(x), apart(x), rtol=1e-5)


_STEPS = """
import resource, sys
import torch
from mcuprune.train import engine
if sys.argv[1] == "keep":
    engine.keep_memory()
def step():
    x = torch.ones(12 * 2**20)  # 48 MB
    for _ in range(4):
        x = x * 1.5
for _ in range(12):  # where small pieces lie decides when the largest step fits between them, mostly within five steps
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step(), step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.thorough
def test_large_tensors_take_the_memory_of_those_before_them() -> None:
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("another C library")

    def faults(how: str) -> int:
        words = [sys.executable, "-c", _STEPS, how]
        return int(
            subprocess.run(words, capture_output=True, check=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}).stdout
        )

    given_back = faults("give back")
    if given_back < 20_000:
        pytest.skip("this system has large pages to give: there is nothing to count")
    assert faults("keep") < given_back / 50
