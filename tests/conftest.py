"""What many tests share: random legal selections, and onnxruntime as the oracle."""

from __future__ import annotations

import fcntl
import gc
import hashlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import settings

from mcuprune.channels.labelling import Channels
from mcuprune.graph.network import Network

if TYPE_CHECKING:
    from _pytest.mark import ParameterSet

    from mcuprune.pruning import Request, Result

T = TypeVar("T")

sys.path.insert(0, str(Path(__file__).parent))  # for the modules beside the tests, whatever pytest's import mode

# A shell makes what it runs in the background deaf to interrupts, and nohup to the end of a terminal; so would be every process
# that a test interrupts.
for _number, _default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _default)

# A call takes as long as the machine lets it: on a busy one a test of no more than arithmetic took a quarter of a second once.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

CORPUS = Path(__file__).parents[1].parent / "shared" / "models"
#: Corpus files whose free sizes a user must fix.
CORPUS_SHAPES = {
    "mtcnn_pnet.onnx": {"input_1": (1, 48, 48, 3)},
    "unet_ts_dynhw.onnx": {"input": (1, 3, 32, 32)},
    "ppocr_cls_v2.onnx": {"x": (1, 3, 48, 192)},
}


def pytest_collection_finish() -> None:
    """Python's search for garbage leaves out what imports and collection made, which stays to the end, and comes less often.

    It took a tenth of the time of all tests, mostly in modules of torch and in thousands of tests that wait for their turn.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def corpus() -> list[Path]:
    """Real files made by others, where this checkout has them."""
    return sorted(CORPUS.glob("*.onnx")) if CORPUS.is_dir() else []


def thorough_but(cases: Iterable[T], *quick: T) -> list[ParameterSet]:
    """Parameters of a test: every case, all but the ``quick`` ones marked as thorough. Those stand for the others' kinds."""
    cases = list(cases)
    assert set(quick) <= set(cases), f"no such case: {quick}"
    marks = {case: () if case in quick else pytest.mark.thorough for case in cases}
    return [pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=marks[case]) for case in cases]


def each_with_one_network_and_slowly_with_the_other(
    cases: Iterable[tuple[Any, ...]], names: tuple[str, str]
) -> list[ParameterSet]:
    """Parameters of a test: every case with a network's name behind it. Each case is run often with one of the two, and each of
    the two with half of the cases; the other half is slow. One case of three is quick, the others are thorough."""
    found = []
    for index, case in enumerate(cases):
        first = (index + index // 2 + index // 4) % 2  # the other one where any one parameter of two values is the other
        often = pytest.mark.thorough if index % 3 else ()
        found += [pytest.param(*case, names[first], marks=often), pytest.param(*case, names[1 - first], marks=pytest.mark.slow)]
    return found


def random_selection(channels: Channels, share: float, seed: int) -> np.ndarray:
    """A selection that keeps about ``1 - share`` of every group, and what each must keep."""
    draw = np.random.default_rng(seed)
    keep = channels.keep_all()
    for group in channels.groups:
        ids = np.array(group.components)
        width = max(group.minimum, round(len(ids) * (1 - share)))
        keep[draw.permutation(ids)[width:]] = False
    return keep


def feed(model: onnx.ModelProto, *, seed: int = 0, batch: int = 1, shapes: dict[str, tuple[int, ...]] | None = None) -> dict:
    """Random inputs of a model: free sizes are ``batch`` where ``shapes`` doesn't fix them."""
    draw = np.random.default_rng(seed)
    constants = {initializer.name for initializer in model.graph.initializer}
    values = {}
    for value in model.graph.input:
        if value.name in constants:
            continue
        tensor = value.type.tensor_type
        shape = (shapes or {}).get(value.name) or [dim.dim_value or batch for dim in tensor.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        values[value.name] = draw.normal(size=shape).astype(dtype)
    return values


def session(model: onnx.ModelProto | Network) -> onnxruntime.InferenceSession:
    """onnxruntime, unoptimised, on one thread."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    proto = model.to_proto() if isinstance(model, Network) else model
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto | Network, inputs: dict) -> list[np.ndarray]:
    """The outputs by onnxruntime."""
    return session(model).run(None, inputs)


def difference(one: list[np.ndarray], other: list[np.ndarray]) -> float:
    """The largest difference of two runs, relative to the size of each output."""
    worst = 0.0
    for a, b in zip(one, other, strict=True):
        assert a.shape == b.shape
        worst = max(worst, float(np.abs(a - b).max() / max(1e-3, np.abs(b).max())))
    return worst


@pytest.fixture(scope="session")
def corpus_folder() -> Path:
    if not CORPUS.is_dir():
        pytest.skip("no corpus of real files beside this checkout")
    return CORPUS


class Once:
    """What many tests need and takes long to make: made once a run of pytest, whichever worker asks first.

    Values lie pickled in a folder of the run that all workers of pytest-xdist share, one folder a key.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, key: object, make: Callable[[Path], T]) -> T:
        """What ``make`` returns for a folder that it may write into. ``key``: all that the value depends on, by its repr."""
        folder = self._folder / hashlib.sha256(repr(key).encode()).hexdigest()[:24]
        folder.mkdir(parents=True, exist_ok=True)
        stored = folder / "value.pickle"
        with open(folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not stored.exists():
                content = pickle.dumps(make(folder))
                stored.with_suffix(".partial").write_bytes(content)
                stored.with_suffix(".partial").rename(stored)
            return pickle.loads(stored.read_bytes())


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Once:
    base = tmp_path_factory.getbasetemp()
    in_worker = hasattr(request.config, "workerinput")
    return Once((base.parent if in_worker else base) / "once")


@pytest.fixture(scope="session")
def pruned(once: Once) -> Callable[[Request], Result]:
    """``pruning.prune`` for tests that only look at its result: equal requests are run once. Its file is ``request.output``."""

    from mcuprune import pruning  # imports torch, which most tests do without

    def run(request: Request) -> Result:
        def make(folder: Path) -> Result:
            report = None if request.report is None else str(folder / "report")
            return pruning.prune(replace(request, output=str(folder / "out.onnx"), report=report))

        content = hashlib.sha256(Path(request.model).read_bytes()).hexdigest()
        return once(("prune", content, replace(request, output="", report=request.report and "report")), make)

    return run


@pytest.fixture(scope="session")
def exported(once: Once) -> Callable[[str], Path]:
    """The int8 file of a model in models/, calibrated on the digits, which takes a second, for tests that look at it."""
    from mcuprune import exporting

    def path_of(name: str) -> Path:
        def make(folder: Path) -> Path:
            model = Path(__file__).parents[1] / "models" / f"{name}.onnx"
            exporting.export(exporting.Request(str(model), str(folder / "net.onnx"), data="digits"))
            return folder / "net.onnx"

        return once(("exported", name), make)

    return path_of


@pytest.fixture(scope="session")
def few_digits(once: Once) -> str:
    """The embedded digits as an archive: 192 to train with, three steps an epoch at the usual batch, and 64 for each look.

    For tests of what a run does on the way, which is the same in the first steps: a fifth of the time of all of them.
    """
    from mcuprune.data import loading

    def make(folder: Path) -> str:
        digits = loading.load("digits", input_shape=(1, 16, 16), n_classes=10, seed=0)
        arrays = {}
        for name, split, count in (("train", digits.train, 192), ("val", digits.val, 64), ("test", digits.test, 64)):
            arrays |= {f"x_{name}": split.x[:count], f"y_{name}": split.y[:count]}
        np.savez(folder / "digits.npz", **arrays)
        return str(folder / "digits.npz")

    return once("few digits", make)


@contextmanager
def runtimes_here() -> Iterator[None]:
    """Runtimes run in this process: a new one for each of hundreds of small runs takes half a second, and minutes in all.

    What they write to stderr is read as from another process. What breaks off ends the tests: not for damaged files.
    """
    from mcuprune.run import runners

    start = subprocess.run

    def run(command: Any, **more: Any) -> Any:
        if list(command[1:3]) != ["-m", runners.__name__]:
            return start(command, **more)
        code, kept = 0, os.dup(2)
        with tempfile.TemporaryFile() as said:
            os.dup2(said.fileno(), 2)
            try:
                runners.work(*command[3:])
            except Exception:
                code = 1
                os.write(2, traceback.format_exc().encode())
            finally:
                os.dup2(kept, 2)
                os.close(kept)
            said.seek(0)
            return subprocess.CompletedProcess(command, code, "", said.read().decode(errors="replace"))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(subprocess, "run", run)
        yield


@pytest.fixture
def in_process() -> Iterator[None]:
    with runtimes_here():
        yield


def in_our_build(source: str) -> str:
    """Generated C without the lines that stand behind the macro of a library."""
    kept, outside = [], [True]
    for line in source.splitlines():
        if line.startswith("#if"):
            outside.append(not line.startswith("#if defined(MCUPRUNE_"))
        elif line.startswith("#else"):
            outside[-1] = True
        elif line.startswith("#endif"):
            outside.pop()
        if all(outside):
            kept.append(line)
    return "\n".join(kept)
