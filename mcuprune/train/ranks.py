"""Several processes that train one network, a rank each, as ``torchrun`` starts them.

Every rank runs the whole program on the same model and data, draws the same numbers, and computes its part of every batch
of training and of validation. What is summed over the batch (losses, gradients, statistics of BatchNormalization, gradients of
masks) is summed over ranks, so all of them make the same steps and the same decisions. Rank 0 alone writes files and says
something; what the others would write goes to a folder of their own that is thrown away.

With one process every function here gives back what it was given, and torch isn't imported.
"""

from __future__ import annotations

import gc
import hashlib
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mcuprune import console
from mcuprune.errors import McupruneError, RankLost, UsageError, lacking
from mcuprune.immutable import immutable

if TYPE_CHECKING:
    from torch import Tensor, nn

#: What torchrun says to each process.
_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
#: Seconds that a rank waits for the others. gloo notices at once that one has ended; this is for one that hangs, and for nccl.
_PATIENCE = 600
#: Seconds after which a rank says that it waits for others to join.
_SILENCE = 10.0
#: Seconds that the ranks wait for each other when they end with an error, so that it is said once.
_LAST_WORDS = 5.0


@immutable
class _Group:
    """This process among all: its rank of ``size``, its number on its machine, and where ranks leave notes for each other."""

    rank: int = 0
    size: int = 1
    local: int = 0
    store: Any = None


_group = _Group()


def size() -> int:
    """How many processes train together."""
    return _group.size


def first() -> bool:
    """Whether this process is the one that writes files: rank 0, or the only one."""
    return _group.rank == 0


# ------------------------------------------------------------------------------------------------------ coming and going


@contextmanager
def joined(patience: float = _PATIENCE) -> Iterator[None]:
    """Train together with the other ranks that the environment tells of; alone where it tells of none.

    patience: seconds to wait for them, at the beginning and later. Raises UsageError for an environment that makes no sense or
    ranks that can't be met, and RankLost, from inside, where another rank has ended.
    """
    global _group
    told = _told(os.environ)
    if told is None:
        yield
        return
    if told.rank:
        console.hush(answers=True, messages=True)
    _group = _met(told, patience)
    try:
        yield
        all_have(b"finished")
    except McupruneError as error:
        last_word = _has_the_last_word(error)
        console.hush(answers=not first(), messages=not last_word)
        raise
    finally:
        with suppress(RuntimeError, ValueError):
            _leave()
        _group = _Group()


def _told(environment: Mapping[str, str]) -> _Group | None:
    """What the environment says of this process; None where it is the only one. Raises UsageError for half of it."""
    given = {name: environment[name] for name in _VARIABLES if environment.get(name)}
    if len(given) < len(_VARIABLES):
        return None  # some batch systems set one or two of them
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    texts = [environment.get(name) or "0" for name in names]
    numbers = [int(text) if re.fullmatch(r"\d{1,6}", text, re.ASCII) else -1 for text in texts]
    rank, of, local = numbers
    if min(numbers) < 0 or not rank < of:
        said = ", ".join(f"{name}={text}" for name, text in zip(names, texts, strict=True))
        raise UsageError(f"{said}: make no rank; start all processes by torchrun, or unset these variables for one process")
    return None if of == 1 else _Group(rank, of, local)


def refuse_several(command: str) -> None:
    """Raise UsageError for a command that several ranks can't share."""
    told = _told(os.environ)
    if told is not None:
        raise UsageError(
            f"{command}: {told.size} processes were started to do it together, as only prune can; start it without torchrun"
        )


def _met(told: _Group, patience: float) -> _Group:
    where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    # torch's C++ side tells a lost connection with frames of its own, before whoever asked for it can say what it means
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    try:
        import torch
        import torch.distributed as dist
        from torch.distributed.rendezvous import rendezvous
    except (ImportError, OSError) as error:
        raise lacking("prune", error, "pip install 'mcuprune[prune]' on every machine") from None
    wait = timedelta(seconds=patience)
    os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")  # so that a lost rank is an error there too, later
    try:
        with _said_late(f"rank {told.rank} of {told.size} waits for the others at {where}, for {patience:.0f} s at most"):
            store, rank, of = next(iter(rendezvous("env://", timeout=wait)))
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
            dist.init_process_group(backend, store=store, rank=rank, world_size=of, timeout=wait)
    except (RuntimeError, ValueError) as error:
        console.hush(answers=bool(told.rank), messages=False)
        raise UsageError(
            f"rank {told.rank} of {told.size} can't meet the others at {where} ({_line(error)}); start all of them within "
            f"{patience:.0f} s of each other, with the same MASTER_ADDR and MASTER_PORT"
        ) from None
    return _Group(told.rank, told.size, told.local, dist.PrefixStore("mcuprune", store))  # type: ignore[attr-defined]


@contextmanager
def _said_late(message: str) -> Iterator[None]:
    """Say something, whichever rank this is, if the block takes longer than one waits without a word."""
    late = threading.Timer(_SILENCE, console.remark, [f"mcuprune: {message}\n"])
    late.daemon = True
    late.start()
    try:
        yield
    finally:
        late.cancel()


def _leave() -> None:
    """Part from the others, and end the threads that spoke to them: one that outlives Python aborts the process."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
        gc.collect()  # what an error on the way still refers to would keep them


def _has_the_last_word(error: McupruneError) -> bool:
    """Whether it is this rank that says what ended all: the first with an error of its own, or, without one, to have noticed.

    Where the notes went down with a lost rank, everyone speaks.
    """
    own = not isinstance(error, RankLost)
    text = hashlib.sha256(str(error).encode() if own else b"").hexdigest()
    try:
        if own:
            _group.store.add("errors", 1)
        says = _group.store.add(text, 1) == 1 and (own or _group.store.add("errors", 0) == 0)
        ended, until = _group.store.add("ended", 1), time.monotonic() + _LAST_WORDS
        while ended < _group.size and time.monotonic() < until:  # the notes may lie in this very process
            time.sleep(0.05)
            ended = _group.store.add("ended", 0)
    except (RuntimeError, ValueError):
        return True
    return says


@contextmanager
def own_place(output: str) -> Iterator[str]:
    """Where this rank writes what goes to ``output``: there, or, for all but rank 0, in a folder that is thrown away."""
    if first():
        yield output
        return
    with tempfile.TemporaryDirectory(prefix="mcuprune-rank") as folder:
        yield os.path.join(folder, f"{Path(output).stem or 'out'}.onnx")


def device(wanted: str) -> str:
    """Where this rank computes, for a device that all share the name of: ``cuda`` is one GPU for each rank of a machine.

    Raises UsageError where the machine has fewer, or one GPU is named for all.
    """
    if _group.size == 1 or wanted == "cpu":
        return wanted
    import torch

    if wanted != "cuda":
        raise UsageError(
            f"--device {wanted}: names one GPU for {_group.size} ranks; write --device cuda, which gives each its own"
        )
    if _group.local >= torch.cuda.device_count():
        raise UsageError(
            f"--device cuda: rank {_group.rank} is number {_group.local} on its machine, which has "
            f"{torch.cuda.device_count()} GPU(s); start no more ranks than that, or choose --device cpu"
        )
    torch.cuda.set_device(_group.local)
    return wanted


# ------------------------------------------------------------------------------------------------------ parts and their sum


def part(count: int) -> slice:
    """Which of a batch's ``count`` examples are this rank's; all of them where there are too few for everyone."""
    if count < _group.size:
        return slice(0, count)
    return slice(count * _group.rank // _group.size, count * (_group.rank + 1) // _group.size)


def share(count: int) -> float:
    """What a mean over this rank's ``part`` counts for in the sum over all ranks that is the mean over the batch."""
    if count < _group.size:
        return 1 / _group.size
    own = range(count)[part(count)]
    return len(own) / count


def summed(value: Tensor) -> Tensor:
    """The sum over ranks; every rank gets the same bits."""
    return _reduced(value, "SUM")


def highest(value: Tensor) -> Tensor:
    """The elementwise maximum over ranks."""
    return _reduced(value, "MAX")


def _reduced(value: Tensor, how: str) -> Tensor:
    if _group.size == 1:
        return value
    whole = value.detach().clone().contiguous()
    _run("sums are exchanged", lambda dist: dist.all_reduce(whole, getattr(dist.ReduceOp, how)))
    return whole


def gathered(own: np.ndarray, count: int) -> np.ndarray:
    """Rows of every rank's ``part`` of ``count`` as one array: (part, ...) -> (count, ...)."""
    if _group.size == 1 or count < _group.size:
        return own
    import torch

    whole = np.zeros((count, *own.shape[1:]), own.dtype)
    whole[part(count)] = own
    return np.asarray(summed(torch.from_numpy(whole)).numpy())


def sum_gradients(module: nn.Module) -> None:
    """Replace the gradients of a module's parameters by their sums over ranks."""
    if _group.size == 1:
        return
    import torch

    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    if not gradients:
        return
    whole = summed(torch.cat([gradient.reshape(-1) for gradient in gradients]))
    start = 0
    for gradient in gradients:
        gradient.copy_(whole[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()


def of_first(number: int) -> int:
    """Rank 0's whole number, for all."""
    if _group.size == 1:
        return number
    import torch

    held = torch.tensor([number])
    _run("rank 0 decides", lambda dist: dist.broadcast(held, 0))
    return int(held[0])


def bytes_of_first(read: Callable[[], bytes | None]) -> bytes | None:
    """What rank 0 reads, for all; None where it finds nothing."""
    if _group.size == 1:
        return read()
    import torch

    content = read() if first() else None
    length = of_first(-1 if content is None else len(content))
    if length < 0:
        return None
    held = torch.from_numpy(np.frombuffer(content, np.uint8).copy()) if content is not None else torch.empty(length).byte()
    _run("rank 0 tells what it has read", lambda dist: dist.broadcast(held, 0))
    return held.numpy().tobytes()


def all_have(content: bytes) -> bool:
    """Whether all ranks have the same; every rank gets the same answer."""
    if _group.size == 1:
        return True
    import torch

    digest = torch.tensor(list(hashlib.sha256(content).digest()), dtype=torch.int64)
    return bool((highest(digest) == -highest(-digest)).all())


def refuse_drift(step: int, learned: Callable[[], Mapping[str, np.ndarray]]) -> None:
    """Raise RuntimeError where ranks haven't learned the same: nobody has trained the network that would be written."""
    if _group.size == 1:
        return
    held, arrays = hashlib.sha256(), learned()
    for name in sorted(arrays):
        held.update(name.encode() + b"\0" + np.ascontiguousarray(arrays[name]).tobytes())
    if not all_have(held.digest()):
        raise RuntimeError(
            f"the ranks don't hold the same network after step {step}; they must run on processors of one kind with the same "
            "packages, and this is a bug if they do"
        )


def _run(when: str, collective: Callable[[Any], Any]) -> None:
    """One operation that all ranks take part in. Raises RankLost where one doesn't."""
    import torch.distributed as dist

    try:
        collective(dist)
    except (RuntimeError, ValueError) as error:
        raise RankLost(
            f"rank {_group.rank} of {_group.size}: another rank has ended or doesn't answer, where {when} ({_line(error)}); "
            "all end here; the same command with --resume goes on from the last finished epoch, on any number of ranks"
        ) from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
