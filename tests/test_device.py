"""Training on another device than the CPU, on a machine that has none.

``Elsewhere`` stands in for a GPU: torch takes it for a device of its own, its tensors refuse to become numpy arrays or to meet
the CPU's, as a GPU's do, and its kernels are the CPU's. So whatever is made or left in the wrong place raises, and what runs
through must give the CPU's results. What a GPU's own kernels make of it, this can't tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_pruning import MODELS, limits, refused
from test_trainable import CASES, channels_of, inputs_of
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from mcuprune import pruning
from mcuprune.data import loading as data
from mcuprune.errors import UsageError
from mcuprune.face import Budget
from mcuprune.pruner import Pruner
from mcuprune.pruning import Request
from mcuprune.train import batch_norm, engine
from mcuprune.train.module import Trainable, as_inputs
from mcuprune.train.task import Step

torch.set_num_threads(1)

PLACE = "elsewhere"
#: Older releases of torch know no device that is written in Python; there its tests are skipped.
STAND_IN = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")
if STAND_IN:
    backend_registration._setup_privateuseone_for_python_backend(PLACE)  # now: torch's autograd counts devices but once
needs_stand_in = pytest.mark.skipif(not STAND_IN, reason=f"torch {torch.__version__} has no devices written in Python")


class Elsewhere(torch.Tensor):
    """A tensor of the other device. here: where it really is, on the CPU."""

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> Elsewhere:
        return torch.Tensor._make_wrapper_subclass(
            cls, here.shape, strides=here.stride(), dtype=here.dtype, device=f"{PLACE}:0"
        )

    def __init__(self, here: torch.Tensor) -> None:
        self.here = here

    def tolist(self) -> Any:
        return self.here.tolist()  # which a GPU's tensors know, and torch forbids to subclasses

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return computed(func, args, kwargs or {})


class Dispatch(TorchDispatchMode):
    """Sees the calls that no tensor takes part in, too: those that make one."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return computed(func, args, kwargs or {})


def computed(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, Elsewhere)]
    wanted = kwargs.get("device")
    if func is torch.ops.aten.copy_.default:
        stays = isinstance(args[0], Elsewhere)
    else:
        stays = bool(there) if wanted is None else torch.device(wanted).type == PLACE
        moves = func is torch.ops.aten._to_copy.default
        if there and not moves and any(tensor.ndim for tensor in tensors if not isinstance(tensor, Elsewhere)):
            raise RuntimeError(f"{func} of tensors on two devices")  # but for scalars, as with CUDA

    def here(leaf: Any) -> Any:
        return leaf.here if isinstance(leaf, Elsewhere) else torch.device("cpu") if isinstance(leaf, torch.device) else leaf

    found = func(*tree_map(here, args), **tree_map(here, kwargs))
    if not stays:
        return found
    known = {id(tensor.here): tensor for tensor in there}  # what works in place returns its argument

    def placed(leaf: Any) -> Any:
        return known[id(leaf)] if id(leaf) in known else Elsewhere(leaf) if isinstance(leaf, torch.Tensor) else leaf

    return tree_map(placed, found)


@pytest.fixture
def elsewhere() -> Iterator[str]:
    with Dispatch():
        yield PLACE


# ------------------------------------------------------------------------------------------------------ the stand-in itself


@needs_stand_in
def test_the_other_device_is_as_strict_as_a_gpu(elsewhere: str) -> None:
    x = torch.ones(3).to(elsewhere)
    assert x.device.type == elsewhere
    assert (x * 2 + torch.tensor(1.0)).cpu().tolist() == [3.0, 3.0, 3.0]
    assert torch.zeros_like(x).device == torch.zeros(1, device=elsewhere).device == x.device
    with pytest.raises(RuntimeError, match="two devices"):
        x + torch.ones(3)
    with pytest.raises(RuntimeError, match=r"numpy\(\)"):
        x.numpy()
    with pytest.raises(RuntimeError, match="two devices"):
        torch.ones(3, 3)[torch.tensor([0, 1]).to(elsewhere)]


# ----------------------------------------------------------------------------------------------------- what runs there


def outputs_and_gradients(make: Callable[[], Any], device: str) -> list[np.ndarray]:
    channels = channels_of(make())
    module = Trainable(channels).to(device)
    module.gates = torch.linspace(0.5, 1.0, channels.n_components + 1).to(device).requires_grad_()
    (x,) = inputs_of(channels.network, 2).values()
    (x,) = as_inputs(channels.network, x, device)
    outputs = module(x.requires_grad_())
    sum(y.double().square().sum() for y in outputs).backward()
    gradients = [tensor.grad for tensor in (x, *module.parameters()) if tensor.grad is not None]
    return [tensor.detach().cpu().numpy() for tensor in (*outputs, *gradients)]


@needs_stand_in
@pytest.mark.parametrize("name", CASES)
def test_an_operator_computes_on_the_device_of_its_input(name: str, elsewhere: str) -> None:
    """All but to the last bit: the gradient of Mish has a kernel on the CPU alone."""
    there, here = (outputs_and_gradients(CASES[name], device) for device in (elsewhere, "cpu"))
    for one, other in zip(there, here, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@needs_stand_in
@pytest.mark.parametrize(
    ("model", "asked"),
    [
        ("dscnn_digits", {"method": "differentiable", "distill": True}),
        pytest.param(
            "resnet8_digits",
            {"method": "magnitude", "optimizer": "adamw", "augment": "flip,crop2"},
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            "mbv2se_digits", {"method": "magnitude", "optimizer": "adamw", "augment": "flip,crop2"}, marks=pytest.mark.slow
        ),
        pytest.param("branchy_digits", {"method": "uniform", "optimizer": "sgd"}, marks=pytest.mark.thorough),
    ],
)
def test_a_prune_elsewhere_writes_the_file_that_it_writes_here(
    model: str, asked: dict[str, Any], few_digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Restored BatchNormalization, training, task gradient, cuts, checkpoints, fake quantisation: to the last bit."""
    monkeypatch.setattr(batch_norm, "_faster_here", lambda x: False)  # a kernel for CPUs alone, which rounds otherwise
    request = Request(
        str(MODELS / f"{model}.onnx"),
        limits(flash="50%", macs="50%"),
        str(tmp_path / "here.onnx"),
        data=few_digits,
        epochs=2,
        **asked,
    )
    here = pruning.prune(request)
    monkeypatch.setattr(engine, "device", lambda wanted, train, macs: PLACE)
    with Dispatch():
        there = pruning.prune(replace(request, output=str(tmp_path / "there.onnx")))
    assert there.request.device == PLACE
    assert there.history == here.history
    assert (tmp_path / "there.onnx").read_bytes() == (tmp_path / "here.onnx").read_bytes()


@pytest.mark.thorough
@needs_stand_in
def test_a_run_that_began_elsewhere_goes_on_here_and_says_so(
    few_digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, moved = (
        Request(str(MODELS / "dscnn_digits.onnx"), limits(macs="50%"), str(tmp_path / name), data=few_digits, epochs=3)
        for name in ("whole.onnx", "moved.onnx")
    )
    pruning.prune(whole)

    def stop(step: Step) -> None:
        if step.epoch > 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as there:
        there.setattr(engine, "device", lambda wanted, train, macs: PLACE)
        with Dispatch(), pytest.raises(KeyboardInterrupt):
            pruning.prune(moved, stop)
    result = pruning.prune(replace(moved, resume=True))
    assert [note for note in result.notes if f"moved from {PLACE} to cpu" in note]
    assert result.training is not None
    assert result.training.device == f"{PLACE} to cpu"
    assert (tmp_path / "moved.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()  # the stand-in rounds alike


@needs_stand_in
def test_a_loop_of_ones_own_prunes_elsewhere_as_here(elsewhere: str) -> None:
    """Masks follow the module, and the gradient comes back from where it is."""
    examples = data.load("digits", input_shape=(1, 16, 16), n_classes=10, seed=0).train
    ends = []
    for device in ("cpu", elsewhere):
        pruner = Pruner(MODELS / "dscnn_digits.onnx", Budget(macs="40%"), steps=8, start=0.0, stop=0.5)
        pruner.module.to(device)
        optimizer = torch.optim.SGD(pruner.module.parameters(), lr=0.01)
        for step in range(4):
            x, y = (torch.from_numpy(array[16 * step : 16 * step + 16]).to(device) for array in (examples.x, examples.y))
            torch.nn.functional.cross_entropy(pruner.module(x)[0], y).backward()
            optimizer.step()
            optimizer.zero_grad()
            pruner.step()
        assert pruner._outer.task.any()
        ends.append((pruner.widths, pruner.finish().constants))
    assert ends[0][0] == ends[1][0]
    for name, value in ends[0][1].items():
        np.testing.assert_allclose(ends[1][1][name], value, rtol=1e-5, atol=1e-6, err_msg=name)


# ------------------------------------------------------------------------------------------------------ which device it is


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(engine, "_repeating", lambda device: device)


@pytest.mark.parametrize(
    ("wanted", "count", "macs", "found"),
    [
        ("auto", 0, 10**9, "cpu"),
        ("auto", 1, 10**9, "cuda"),
        ("auto", 1, 10**6, "cpu"),  # the way there costs more than the work
        ("cpu", 1, 10**9, "cpu"),
        ("cuda", 1, 10**6, "cuda"),
        ("cuda:1", 2, 10**6, "cuda:1"),
    ],
)
def test_a_large_network_trains_on_a_gpu_unless_told_otherwise(
    wanted: str, count: int, macs: int, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(monkeypatch, count)
    assert engine.device(wanted, train=True, macs=macs) == found


def test_what_does_not_train_needs_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 1)
    assert engine.device("auto", train=False, macs=10**9) == "cpu"


@pytest.mark.parametrize("wanted", ["gpu", "cuda:", "cuda:one", "cuda:٣", "cuda:01", "CUDA", ""])
def test_a_word_that_names_no_device_is_refused(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 4)
    with pytest.raises(UsageError, match="choose auto, cpu, cuda or cuda:N"):
        engine.device(wanted, train=True, macs=1)


@pytest.mark.parametrize(
    ("count", "wanted", "said"), [(0, "cuda", "finds no CUDA device"), (2, "cuda:2", "the last is cuda:1")]
)
def test_a_gpu_that_is_not_there_is_refused(
    count: int, wanted: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpus(monkeypatch, count)
    model = str(MODELS / "dscnn_digits.onnx")
    message = refused(["prune", model, "--macs", "50%", "--device", wanted, "-o", str(tmp_path / "o.onnx")], capsys)
    assert f"--device {wanted}: " in message
    assert said in message
    assert not list(tmp_path.iterdir())
