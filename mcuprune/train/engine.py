"""Torch as an engine: whether it is there, on how many threads it computes, and on which device.

Torch is imported inside the functions alone, so that what can be refused without it is refused at once.
"""

from __future__ import annotations

import ctypes
import os
import warnings

from mcuprune.errors import UsageError, lacking
from mcuprune.train import ranks
from mcuprune.train.request import device_asked

#: Networks of fewer multiply-accumulates train faster on one thread than on several that wait for each other, and on a CPU.
SMALL = 20_000_000
#: Threads for the others. Sums depend on how many threads share them, so that it is the same number on every machine.
_THREADS = 4
#: Of <malloc.h>: from which size on memory is asked of the system by itself, and how much may lie free before it is given back.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def need() -> None:
    """Raise MissingExtra unless everything that trains and quantises is installed. Only here does torch get imported first."""
    try:
        import mcuprune.train.fake_quant  # noqa: F401
    except (ImportError, OSError) as error:
        raise lacking("prune", error, "pip install 'mcuprune[prune]' (--no-train --float works without it)") from None


def choose_threads(macs: int) -> None:
    """As many threads as the network's size asks for, whatever the environment says: the same seed must give the same file."""
    import torch

    torch.set_num_threads(1 if macs < SMALL else _THREADS)


def keep_memory() -> None:
    """Let the C library keep freed memory for the next step, where it is glibc, instead of giving it back to the system.

    It gives back every tensor of more than 32 MB, and the system clears each page of the next one: a third of the time of a
    detector's step on images of 320 x 320. Smaller tensors are kept as it is. No more memory is taken than the largest step
    takes, but for a few per cent.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library; on Windows there is none of no name
        return
    mallopt(_M_MMAP_THRESHOLD, 2**30)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def device(wanted: str, *, train: bool, macs: int) -> str:
    """Where torch is to compute. Raises UsageError for a device that isn't there.

    train: whether there is training to do. macs: multiply-accumulates of one inference: ``auto`` leaves small networks where
    they are.
    """
    import torch

    asked = device_asked(wanted)
    if wanted == "cpu":
        return "cpu"
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto":
        return _repeating(ranks.device("cuda")) if there and train and macs >= SMALL else "cpu"
    if not there:
        raise UsageError(
            f"--device {wanted}: torch {torch.__version__} finds no CUDA device; "
            "install a build of torch for CUDA and its driver, or choose --device cpu"
        )
    if int(asked[1] or 0) >= there:
        raise UsageError(f"--device {wanted}: torch finds {there} CUDA device(s), the last is cuda:{there - 1}")
    return _repeating(ranks.device(wanted))


def _repeating(where: str) -> str:
    """``where``, with torch told to take the kernels there that give the same result every time, where it has some."""
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may add in another order each time
    warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_float32_matmul_precision("high")  # TF32, as in convolutions: half of a step on an H100 went into Muon's products
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return where
