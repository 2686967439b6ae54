"""The road of one ``prune``: load, label, train and cut, quantise, write, and measure what was written.

Numbers in a ``Result`` come from the file on disk: it is read again, profiled again, and run in onnxruntime.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from onnx import ModelProto

from mcuprune import __version__, evaluate, external, feeding, folding, network, ops, places, resources, widths
from mcuprune import data as datasets
from mcuprune.canonical import canonical, stored_ranges
from mcuprune.channels import Channels, label
from mcuprune.checkpoint import Checkpoint, Saved
from mcuprune.checkpoint import check as check_checkpoint
from mcuprune.data import Data
from mcuprune.errors import BudgetError, DataError, MissingExtra, UsageError
from mcuprune.export import WEIGHT_BITS, Scheme, quantized
from mcuprune.network import Network, Shape
from mcuprune.notebook import Drawn
from mcuprune.places import Output, Source
from mcuprune.rehearsal import rehearse
from mcuprune.resources import Budget, CostModel, Profile, SramModel, Verdict
from mcuprune.salience import salience
from mcuprune.task import LOSSES, OBJECTIVES, Candidate, History, OnStep, Schedule, Search, Step, Task
from mcuprune.units import Limit

if TYPE_CHECKING:
    from mcuprune.training import Trainer

#: Examples that ranges and BatchNormalization statistics are measured on.
_CALIBRATION = 512
#: Between which parts of all steps channels go. What an untrained network learns wide is lost when it narrows: the sooner the
#: better. A trained one can begin at once.
_PRUNING = {"scratch": (Schedule.prune_start, Schedule.prune_stop), "trained": (0.0, 0.28)}
#: Fake-quant training is by SGD: its learning rate where nobody asked for another, and for how much of it ranges still move.
#: Networks that quantise well lose less by a low rate (tests/benchmarks/quant_lr.md).
_QUANT_LR = 0.001
_OBSERVING = 0.7
#: What only a method whose widths follow gradients makes use of.
_LEADING = ("prune_every", "prune_start", "prune_stop", "freeze_at_budget", "loss", "objectives")
#: No count that a flag gives is larger: it fits every integer on the way.
_MOST = 2**31 - 1
#: A short run updates its widths oftener than it was asked to: at least so many times on the way to the budget.
_UPDATES = 20
#: After so many steps at its final width a network's BatchNormalization statistics have caught up with its weights.
_SETTLED = 50
#: Networks of fewer multiply-accumulates train faster on one thread than on several that wait for each other, and on a CPU.
_SMALL = 20_000_000
#: Threads for the others. Sums depend on how many threads share them, so that it is the same number on every machine.
_THREADS = 4


@dataclass(frozen=True)
class Request:
    """What the user asked for. Fields left None are derived from the data and the model.

    configuration: the file that some of it was read from, which no result may replace.
    """

    model: str
    limits: Mapping[str, Limit]
    output: str
    report: str | None = None
    data: str | None = None
    method: str = "differentiable"
    epochs: int | None = None
    batch: int = 64
    lr: float | None = None
    optimizer: str = "muon"
    weight_decay: float = Schedule.weight_decay
    label_smoothing: float = 0.0
    prune_every: int = Schedule.prune_every
    prune_start: float | None = None
    prune_stop: float | None = None
    freeze_at_budget: bool = True
    loss: str = LOSSES[0]
    objectives: str = OBJECTIVES[0]
    seed: int = 0
    train: bool = True
    int8: bool = True
    weight_bits: int = 8
    input_shapes: Mapping[str, Shape] = field(default_factory=dict)
    outputs: Sequence[str] = ()
    sram_model: SramModel = "peak"
    keep: Sequence[str] = ()
    min_channels: int = 1
    multiple_of: int = 1
    augment: str | None = None
    distill: bool | None = None
    from_scratch: bool = False
    keep_weights: bool = False
    resume: bool = False
    device: str = "auto"
    configuration: str | None = None


@dataclass(frozen=True)
class GroupResult:
    """A group before and after: widths, and the indices of the channels that stayed."""

    name: str
    before: int
    after: int
    kept: tuple[int, ...]


@dataclass(frozen=True)
class Training:
    """How a network was trained, with all that the user left open filled in.

    trained: whether it came trained. taught: whether it learned from the network as it came. examples: of the training set.
    """

    schedule: Schedule
    search: Search
    trained: bool
    taught: bool
    examples: int
    augment: str | None
    device: str


@dataclass(frozen=True)
class Result(Drawn):
    """A finished prune. Accuracies are shares of the test set in onnxruntime, None where there was no data for them.

    accuracy_int8: of the written file as ONNX defines it, on every processor (``evaluate``).
    accuracy_int8_default_session: in a session without options on this processor, where integer kernels may saturate.
    """

    request: Request
    budget: Budget
    before: Profile
    after: Profile
    verdict: Verdict
    accuracy: float | None
    accuracy_float: float | None
    accuracy_int8: float | None
    accuracy_int8_default_session: float | None
    groups: tuple[GroupResult, ...]
    history: tuple[Step, ...]
    seconds: float
    training_macs: int
    full_training_macs: int
    notes: tuple[str, ...]
    data: str | None
    test_examples: int
    training: Training | None
    network: Network = field(repr=False, compare=False)

    @property
    def ok(self) -> bool:
        """Whether the written file holds the budget."""
        return self.verdict.ok


def prune(
    request: Request,
    on_step: OnStep = lambda step: None,
    *,
    net: Network | None = None,
    data_set: datasets.Given | None = None,
) -> Result:
    """Do what ``request`` asks and measure the outcome. Writes ``request.output``; the report is the caller's.

    net: a network in memory, in place of the file ``request.model``, which is then only what messages call it.
    data_set: data in memory, in place of ``request.data``.

    Interrupted at any moment, it leaves a checkpoint beside the output; ``request.resume`` goes on from there.
    Raises a McupruneError, with nothing written, where no answer is possible: an unreadable or unsupported model, data that
    doesn't fit, a budget that can't be held, a place that can't be written, a missing package.
    """
    started = time.monotonic()
    _check_flags(request)
    outputs = _outputs(request)
    places.distinct(outputs, _sources(request))
    original = net or network.load(
        request.model, input_shapes=request.input_shapes, outputs=request.outputs, accept=ops.accept(request.model)
    )
    before = resources.profile(original)
    budget = resources.budget(request.limits, before.used(request.sram_model))
    if not budget.limits:
        *others, last = (f"--{name}" for name in resources.RESOURCES)
        raise UsageError(f"prune needs a limit: {', '.join(others)} or {last}")
    prepared, notes = canonical(original)
    labelled = label(prepared)
    fits = _fits(labelled, request, budget)
    model = _cost_model(_as_trained(labelled.network) if request.train and not fits else labelled.network, request, budget)
    for output in outputs:
        places.probe(output)
    if not request.resume:
        check_checkpoint(f"{request.output}.checkpoint")
    if request.train or request.int8:  # what takes seconds to import comes after all that can be refused without it
        _need_engine(request)
        _choose_threads(before.total["macs"])
        request = replace(request, device=_device(request, before.total["macs"]))
    elif (request.method, request.optimizer) != (Request.method, Request.optimizer):
        with suppress(ImportError):  # this run needs neither: checked only where the packages that know the names are there
            _check_engine(request)
    rehearse(labelled, int8=request.int8, train=request.train)
    data = _data(request, original, request.data if data_set is None else data_set)
    if request.train:
        _check_batch(labelled)
    accuracy = evaluate.accuracy_of(_bytes(original), data.test, "default", name=request.model) if data else None

    warm, unfit = _origin(request, original, data, accuracy)
    notes = (*notes, *unfit, *_needless(request, labelled, fits=fits, warm=warm))
    if fits and _spares_training(request, warm=warm):
        request = replace(request, train=False)
    answers = _answers(request, labelled, data, accuracy, warm=warm)

    history = History()
    earlier = 0.0
    checkpoint = Checkpoint(
        Path(f"{request.output}.checkpoint"),
        _fingerprint(request, data, net),
        lambda: {"history": history.document(), "seconds": earlier + time.monotonic() - started},
    )

    def seen(step: Step) -> None:
        history(step)
        on_step(step)

    if not request.resume:
        checkpoint.remove()
    elif (stored := checkpoint.load(None)) is not None:
        history.take_up(stored.also["history"])
        earlier = stored.also["seconds"]
    else:
        notes = (*notes, "--resume found no state of an interrupted run; this one started anew")
    done = checkpoint.load(_QUANTIZE)
    if done is not None:  # the float network of the interrupted run is ready
        candidate = _stored_candidate(done, request.model)
    elif request.train:
        assert data is not None
        candidate = _train(request, labelled, budget, data, checkpoint, answers, warm=warm, on_step=seen)
    else:
        candidate = _magnitude(labelled, model, budget, request.multiple_of)

    small = folding.folded(candidate.channels.network)
    candidate = replace(candidate, channels=label(small), notes=tuple(dict.fromkeys((*notes, *candidate.notes))))
    after_cutting = f"{request.model} after cutting"
    accuracy_float = evaluate.accuracy_of(_bytes(small), data.test, "default", name=after_cutting) if data else None
    if request.train and data is not None and accuracy_float is not None and not _has_learned(accuracy_float, data):
        note = (
            f"right on {accuracy_float:.1%} of the test set, where naming its most frequent class is on {_frequent(data):.1%}: "
            "it has learned next to nothing; try more --epochs, another --seed, a lower --lr or a larger budget"
        )
        candidate = replace(candidate, notes=(*candidate.notes, note))
    if request.int8:
        final, candidate = _quantize(
            request,
            candidate,
            labelled,
            before.total["macs"],
            data,
            checkpoint,
            answers,
            warm=warm,
            on_step=seen,
            original=original,
        )
    else:
        final = small
    final.save(request.output)
    written = network.load(request.output, input_shapes=request.input_shapes, accept=ops.accept(request.output))
    after = resources.profile(written)
    kept = labelled.kept(candidate.keep)
    int8 = evaluate.int8_accuracy(request.output, data.test) if data and request.int8 else None
    if int8 and int8.warning:
        candidate = replace(candidate, notes=(*candidate.notes, int8.warning))
    result = Result(
        request=request,
        budget=budget,
        before=before,
        after=after,
        verdict=budget.check(after.used(request.sram_model)),
        accuracy=accuracy,
        accuracy_float=accuracy_float,
        accuracy_int8=int8.exact if int8 else None,
        accuracy_int8_default_session=int8.default_session if int8 else None,
        groups=tuple(GroupResult(g.name, len(g), len(kept[g.name]), kept[g.name]) for g in labelled.groups),
        history=tuple(history.steps),
        seconds=earlier + time.monotonic() - started,
        training_macs=candidate.training_macs,
        full_training_macs=candidate.full_training_macs,
        notes=candidate.notes,
        data=data.name if data else None,
        test_examples=len(data.test.y) if data else 0,
        training=_training(request, data, warm=warm, taught=answers is not None),
        network=written,
    )
    checkpoint.remove()  # not before: what is measured here may take long, and be interrupted
    return result


def _training(request: Request, data: Data | None, *, warm: bool, taught: bool) -> Training | None:
    if not request.train:
        return None
    assert data is not None
    schedule, search = schedule_for(request, len(data.train.y), warm=warm), Search(request.loss, request.objectives)
    return Training(schedule, search, warm, taught, len(data.train.y), request.augment, request.device)


def _fingerprint(request: Request, data: Data | None, net: Network | None) -> str:
    """Changes with everything that a run's course depends on, and with nothing else. net: of a network in memory."""
    asked = repr((__version__, replace(request, output="", report=None, resume=False, configuration=None)))
    found = hashlib.sha256(asked.encode())
    for file in (request.model, *external.files(request.model)) if net is None else ():
        found.update(hashlib.sha256(Path(file).read_bytes()).digest())
    if net is not None:
        found.update(net.to_proto().SerializeToString(deterministic=True))
    for split in (data.train, data.val, data.test) if data else ():  # the test set tells whether a network comes trained
        for array in (split.x, split.y):
            found.update(repr((array.shape, array.dtype.str)).encode())
            found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def _origin(request: Request, net: Network, data: Data | None, accuracy: float | None) -> tuple[bool, tuple[str, ...]]:
    """Whether the network counts as trained, and what to say where it is right no oftener than chance.

    Raises DataError where it is because the data reaches it wrongly, as far as that can be known, and nobody said to train all
    the same: a night of training on such data would be lost.
    """
    if data is None or accuracy is None:
        return request.keep_weights, ()
    trained = _comes_trained(net, accuracy, data)
    if trained or request.from_scratch or request.keep_weights or feeding.looks_fresh(net):
        return (trained or request.keep_weights) and not request.from_scratch, ()
    said = (
        f"right on {accuracy:.1%} of the test set before any change, no more than chance can give: "
        "check scaling, axes and order of labels"
    )
    found = feeding.explanations(evaluate.Model(_bytes(net)), data.train, data.n_classes, request.seed)
    if found and found[0].clear:
        best = found[0]
        said += (
            f". It is right on {best.accuracy:.1%} of {best.examples} other examples if {best.cause}; to mend that: {best.fix}"
        )
        if request.train:
            raise DataError(
                f"{request.model}: {said}. To train on the data as it is give --from-scratch, or --keep-weights to start from "
                "what the model knows"
            )
        return False, (said,)
    if not request.train:
        return False, (said,)
    return False, (f"{said}; nothing simple explains it, so it was trained from scratch (--keep-weights treats it as trained)",)


def _comes_trained(net: Network, accuracy: float, data: Data) -> bool:
    """Whether a network of this accuracy knows the data's classes by their names (``feeding.Confusion.trained``)."""
    if not _has_learned(accuracy, data):
        return False
    few = np.random.default_rng(0).permutation(len(data.test.y))[:2000]
    logits = evaluate.Model(_bytes(net))(data.test.x[few])
    return feeding.Confusion.of(logits, data.test.y[few], data.n_classes).trained


def _has_learned(accuracy: float, data: Data) -> bool:
    """Whether an accuracy on the test set is more than chance gives (``feeding.learned``)."""
    n = len(data.test.y)
    return feeding.learned(round(accuracy * n), n, _frequent(data))


def _frequent(data: Data) -> float:
    """The share of the test set that its most frequent class is."""
    return float(np.bincount(data.test.y).max()) / len(data.test.y)


def _stored_candidate(saved: Saved, path: str) -> Candidate:
    """The float network that an interrupted run had trained when it began to quantise."""
    proto = ModelProto()
    proto.ParseFromString(saved.arrays["float"].tobytes())
    channels = label(network.from_proto(proto, path))
    macs, full = saved.values["macs"]
    notes, taught = tuple(saved.values["notes"]), saved.values["taught"]
    return Candidate(channels, saved.arrays["keep"], macs, full, 0, notes, taught)


def _need_engine(request: Request) -> None:
    """Raise MissingExtra unless everything that trains and quantises is installed, UsageError for a name that it doesn't know.

    Only here does torch get imported first.
    """
    try:
        import mcuprune.quantize  # noqa: F401

        _check_engine(request)
    except ImportError as error:
        raise MissingExtra(
            f"prune needs {error.name}, which isn't installed; pip install 'mcuprune[prune]' "
            "(--no-train --float works without it)"
        ) from None


def _check_engine(request: Request) -> None:
    """Raise UsageError for a name that only the modules know which import torch; ImportError where it isn't installed."""
    from mcuprune.methods import METHODS
    from mcuprune.optimizer import OPTIMIZERS

    _check_choice("method", request.method, tuple(METHODS))
    _check_choice("optimizer", request.optimizer, tuple(OPTIMIZERS))


def _check_batch(channels: Channels) -> None:
    """Raise ModelError for a network that mixes the examples of a batch, or that is made for one at a time."""
    from mcuprune.batchproof import prove

    prove(channels)


def _check_choice(flag: str, wanted: str, known: Sequence[str]) -> None:
    if wanted not in known:
        raise UsageError(f"--{flag} {wanted}: unknown; choose one of {', '.join(known)}")


def _choose_threads(macs: int) -> None:
    """As many threads as the network's size asks for, whatever the environment says: the same seed must give the same file."""
    import torch

    torch.set_num_threads(1 if macs < _SMALL else _THREADS)


def _check_device(request: Request) -> re.Match[str]:
    """What was asked for, N of cuda:N as its group. Raises UsageError for what no machine has."""
    found = re.fullmatch(r"auto|cpu|cuda(?::(0|[1-9]\d{0,3}))?", request.device, re.ASCII)
    if not found:
        raise UsageError(f"--device {request.device}: unknown; choose auto, cpu, cuda or cuda:N")
    return found


def _device(request: Request, macs: int) -> str:
    """Where torch is to compute. Raises UsageError for a device that isn't there."""
    import torch

    found = _check_device(request)
    if request.device == "cpu":
        return "cpu"
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if request.device == "auto":
        return _repeating("cuda") if there and request.train and macs >= _SMALL else "cpu"
    if not there:
        raise UsageError(
            f"--device {request.device}: torch {torch.__version__} finds no CUDA device; "
            "install a build of torch for CUDA and its driver, or choose --device cpu"
        )
    if int(found[1] or 0) >= there:
        raise UsageError(f"--device {request.device}: torch finds {there} CUDA device(s), the last is cuda:{there - 1}")
    return _repeating(request.device)


def _repeating(device: str) -> str:
    """``device``, with torch told to take the kernels there that give the same result every time, where it has some."""
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may add in another order each time
    warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return device


def _bytes(net: Network) -> bytes:
    return bytes(net.to_proto().SerializeToString())


def _check_flags(request: Request) -> None:
    """Refuse what makes no sense for any model, as far as that is known without the packages that train."""
    if request.lr is not None and not 0 < request.lr < np.inf:
        raise UsageError(f"--lr: {request.lr} is not a learning rate; write one above 0, such as 0.05")
    for flag in ("epochs", "batch", "min_channels", "multiple_of", "prune_every"):
        if (getattr(request, flag) or 0) > _MOST:
            raise UsageError(f"--{flag.replace('_', '-')}: {getattr(request, flag)} is too large; write at most {_MOST}")
    _check_device(request)
    for origin in _PRUNING:
        _window(request, origin)
    for flag, share in (("label-smoothing", request.label_smoothing), ("weight-decay", request.weight_decay)):
        if not 0 <= share < 1:
            raise UsageError(f"--{flag} {share}: write a number from 0 to below 1")
    if request.weight_bits not in WEIGHT_BITS:
        raise UsageError(f"--weight-bits {request.weight_bits}: choose one of {', '.join(map(str, WEIGHT_BITS))}")
    if request.from_scratch and request.keep_weights:
        raise UsageError("--from-scratch, --keep-weights: they contradict each other; give one of them")
    _check_choice("loss", request.loss, LOSSES)
    _check_choice("objectives", request.objectives, OBJECTIVES)
    if request.augment:
        datasets.augmentation(request.augment)


def _outputs(request: Request) -> list[Output]:
    """All that this run writes: the report is the caller's, but a place that it can't have is to be found before the work."""
    found = [
        Output("-o", request.output, make_folder=True),
        Output("the state for --resume", f"{request.output}.checkpoint", make_folder=True),
    ]
    if request.report is not None:
        found += [
            Output("--report", os.path.join(request.report, f"report.{kind}"), make_folder=True) for kind in ("json", "md")
        ]
    return found


def _sources(request: Request) -> list[Source]:
    """All that this run reads."""
    found = [Source("the model to prune", request.model)]
    found += [Source("external data of the model", file) for file in external.files(request.model)]
    found += [Source("the data", file) for file in datasets.files(request.data)]
    return found + ([] if request.configuration is None else [Source("the configuration", request.configuration)])


def _data(request: Request, net: Network, given: datasets.Given | None) -> Data | None:
    """The data set, if there is one to use. Raises UsageError where training needs one and none is named."""
    spec = datasets.named(net.metadata) if given is None else given
    if spec is None or (not request.train and given is None):
        if request.train:
            other = datasets.not_embedded(net.metadata)
            raise UsageError(
                f"{request.model}: what data should it train on? {f'{other}; ' if other else ''}"
                f"add --data NAME, --data FILE.npz or --data module:function (or cut without training: --no-train)"
            )
        return None
    n_classes = _classes(request, net)
    if len(net.inputs) != 1 or len(net.outputs) != 1:
        raise DataError(
            f"{request.model}: training takes a classifier with one input and one output of at least two classes; this one has "
            f"inputs {', '.join(net.inputs)} and outputs {', '.join(f'{o} {list(net.shapes[o])}' for o in net.outputs)}; "
            f"cut it without training: --no-train, and no --data"
        )
    found = datasets.load(spec, input_shape=net.shapes[net.inputs[0]][1:], n_classes=n_classes, seed=request.seed)
    return replace(found, augment=datasets.augmentation(request.augment)) if request.augment else found


def _classes(request: Request, net: Network) -> int:
    """How many classes a classifier's first output has. Raises DataError for what answers something else."""
    name = net.outputs[0]
    shape = net.shapes[name]
    if sum(size > 1 for size in shape[1:]) > 1:
        what = f"output '{name}' {list(shape)} is an answer for every place (segmentation, detection), not one for the example"
    elif int(np.prod(shape[1:])) == 1:
        what = f"output '{name}' {list(shape)} is a single number (regression, or one score for two classes)"
    else:
        return int(np.prod(shape[1:]))
    raise DataError(
        f"{request.model}: its {what}; what is trained and measured are classifiers of two classes or more. "
        "Cut and quantise it without training: --no-train, and no --data"
    )


def _why_none(channels: Channels) -> str:
    reasons = sorted({group.why for group in channels.frozen if group.why})
    return "; ".join(reasons[:3]) or "it has no convolution or fully connected layer"


def _cost_model(net: Network, request: Request, budget: Budget) -> CostModel:
    """The costs of a network's cuts within the bounds that were asked for. Raises BudgetError where no cut holds the budget."""
    channels = label(net)
    if channels.groups:
        channels = widths.bounded(channels, keep=request.keep, least=request.min_channels, multiple=request.multiple_of)
    try:
        return widths.settled(CostModel(channels, request.sram_model), budget, request.multiple_of)
    except BudgetError as error:
        if channels.groups:
            raise
        raise BudgetError(f"{error}; no prunable channel: {_why_none(channels)}") from None


def _fits(channels: Channels, request: Request, budget: Budget) -> bool:
    """Whether the network holds its budget with all its channels."""
    model = CostModel(channels, request.sram_model)
    return widths.holds(model, model.full, budget)


#: Flags that say how to train: no use where nothing is trained.
_TRAINING = (
    *("method", "batch", "lr", "optimizer", "weight_decay", "label_smoothing", "augment", "distill", "epochs"),
    *("prune_every", "prune_start", "prune_stop", "freeze_at_budget", "loss", "objectives"),
)


def _spares_training(request: Request, *, warm: bool) -> bool:
    """Whether training could only waste time for a network that fits: it comes trained, and nobody asked for epochs."""
    return request.train and warm and request.epochs is None


def _needless(request: Request, channels: Channels, *, fits: bool, warm: bool) -> list[str]:
    """What of a prune there was nothing to do for."""
    notes = []
    if fits:
        why = "" if channels.groups else f"; nothing could be: {_why_none(channels)}"
        notes.append(f"nothing had to be cut: the network holds its budget as it is{why}")
    spared = fits and _spares_training(request, warm=warm)
    if spared:
        notes.append("it comes trained, so it was not trained again; --epochs N trains it all the same")
    given = [name for name in _TRAINING if getattr(request, name) != getattr(Request, name)]
    if given and (spared or not request.train):
        notes.append(f"no effect without training: {', '.join('--' + name.replace('_', '-') for name in given)}")
    return notes


def _as_trained(net: Network) -> Network:
    """What training will make of a network, as far as costs go: a restored BatchNormalization gives its convolution a bias."""
    n_channels = {node.name: net.shapes[node.outputs[0]][1] for node in folding.candidates(net)}
    return folding.restored(net, {name: (np.zeros(n), np.ones(n)) for name, n in n_channels.items()})


def _magnitude(channels: Channels, model: CostModel, budget: Budget, multiple: int) -> Candidate:
    """Cut by weight magnitude alone: the largest uniform scaling that fits, grown into the slack it leaves."""
    chosen = widths.uniform(model, budget, multiple)
    chosen = widths.grow(model, chosen, budget, 1.0 / np.maximum(chosen, 1), multiple)
    keep = channels.top(chosen, salience(channels))
    return Candidate(channels.cut_channels(keep), keep, 0, 0, 0)


def _answers(
    request: Request, labelled: Channels, data: Data | None, accuracy: float | None, *, warm: bool
) -> np.ndarray | None:
    """What the network says of the training examples before any channel goes, to learn from: a trained one has that to teach.

    Raises UsageError where the user wants it of one that isn't trained.
    """
    if request.distill and not warm:
        raise UsageError(
            f"{request.model}: --distill needs a trained network to learn from; "
            f"this one is right on {accuracy or 0:.1%} of the test set"
        )
    if not (request.train and warm and request.distill is not False):
        return None
    from mcuprune.training import answers_of

    assert data is not None
    return answers_of(labelled, data.train.x, request.device)


def _train(
    request: Request,
    labelled: Channels,
    budget: Budget,
    data: Data,
    checkpoint: Checkpoint,
    answers: np.ndarray | None,
    *,
    warm: bool,
    on_step: OnStep,
) -> Candidate:
    """Restore BatchNormalization, run the method, and return its candidate."""
    from mcuprune.methods import METHODS
    from mcuprune.trainable import Trainable
    from mcuprune.training import output_moments, reestimated

    calibration = data.train.x[np.random.default_rng(request.seed).permutation(len(data.train.y))[:_CALIBRATION]]
    nodes = folding.candidates(labelled.network)
    module = Trainable(labelled).to(request.device)
    moments = output_moments(module, {node.outputs[0] for node in nodes}, calibration)
    normal = folding.restored(labelled.network, {node.name: moments[node.outputs[0]] for node in nodes})
    model = _cost_model(normal, request, budget)
    task = Task(
        model.channels,
        model,
        budget,
        data,
        schedule_for(request, len(data.train.y), warm=warm),
        request.seed,
        multiple_of=request.multiple_of,
        search=Search(request.loss, request.objectives),
        checkpoint=checkpoint,
        answers=answers,
        device=request.device,
    )
    candidate = METHODS[request.method](task, on_step)[0]
    if wider := widths.could_grow(model, model.channels.widths(candidate.keep), budget, request.multiple_of):
        names = [model.channels.groups[group].name for group in wider]
        note = (
            f"method {request.method} leaves some slack: {len(names)} of {len(model.full)} groups could be wider within the "
            f"budget: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
        )
        candidate = replace(candidate, notes=(*candidate.notes, note))
    if candidate.settled < _SETTLED:
        settled = reestimated(candidate.channels, calibration, task.schedule.batch, request.device)
        candidate = replace(candidate, channels=settled)
    if idle := _idle(request):
        candidate = replace(candidate, notes=(*candidate.notes, f"no effect on method {request.method}: {', '.join(idle)}"))
    if fixed := module.untrained():
        note = f"training leaves these constants as they are: {', '.join(fixed[:5])}{', ...' if len(fixed) > 5 else ''}"
        candidate = replace(candidate, notes=(*candidate.notes, note))
    return candidate


def _idle(request: Request) -> list[str]:
    """The flags that were given and lead the widths of the differentiable method only, where another runs."""
    if request.method == Request.method:
        return []
    given = [name for name in _LEADING if getattr(request, name) != getattr(Request, name)]
    return [f"--{name.replace('_', '-')}" for name in given]


def schedule_for(request: Request, examples: int, *, warm: bool) -> Schedule:
    """A schedule for this much data: about as many steps as plain training takes, the last sixth of them quantised.

    warm: whether the network comes trained. The learning rate is the same: a lower one leaves it near what it was when wide.
    """
    from mcuprune.optimizer import OPTIMIZERS

    batch = min(request.batch, examples)
    per_epoch = max(1, examples // batch)
    epochs = request.epochs or int(np.clip(np.ceil(700 / per_epoch), 6, 60))
    quant = min(max(1, epochs // 6), epochs - 1) if request.int8 else 0
    start, stop = _window(request, "trained" if warm else "scratch")
    found = Schedule(
        epochs=epochs - quant,
        quant_epochs=quant,
        batch=batch,
        lr=request.lr or OPTIMIZERS[request.optimizer].lr,
        weight_decay=request.weight_decay,
        optimizer=request.optimizer,
        label_smoothing=request.label_smoothing,
        prune_every=request.prune_every,
        prune_start=start,
        prune_stop=stop,
        freeze=request.freeze_at_budget,
    )
    first, last = found.window(found.epochs * per_epoch)
    return replace(found, prune_every=max(1, min(request.prune_every, (last - first) // _UPDATES)))


def _window(request: Request, origin: str) -> tuple[float, float]:
    """When pruning starts and stops, as parts of the float steps. Raises UsageError for shares that aren't in this order."""
    first, last = _PRUNING[origin]
    start, stop = request.prune_start, request.prune_stop
    if start is None:
        start = first if stop is None else min(first, stop / 2)
    if stop is None:
        stop = max(last, min(1.0, start + last - first))
    if not 0 <= start < stop <= 1:
        raise UsageError(
            f"--prune-start {start}, --prune-stop {stop}: two shares of the training, one after the other; "
            "write something like 0.1 and 0.45"
        )
    return start, stop


def _stored(plan: Scheme, ranges: Mapping[str, tuple[float, float]]) -> dict[str, np.ndarray]:
    """The ranges that a quantised file came with, by the quantisers of the new scheme; the widest of those that share one."""
    found: dict[str, np.ndarray] = {}
    for tensor, name in plan.quantizer.items():
        if tensor in ranges:
            low, high = ranges[tensor]
            old = found.get(name, np.array([low, high]))
            found[name] = np.array([min(low, old[0]), max(high, old[1])])
    return found


_QUANTIZE = "quantize"
_OWN_RANGES = "no data: int8 ranges are those of the file's own quantisers; where it has none, they come from random inputs"


def _calibration(request: Request, whole: Channels, data: Data | None) -> tuple[Sequence[tuple[np.ndarray, ...]], str | None]:
    """What int8 ranges are measured on, as batches of all inputs, and a note where that isn't data."""
    from mcuprune.synthetic import synthetic

    if data is None:
        made = synthetic(whole, request.seed)
        return made.batches, made.note
    found = data.train.x[:_CALIBRATION]
    return [(found[i : i + 128],) for i in range(0, len(found), 128)], None


def _quantize(
    request: Request,
    candidate: Candidate,
    whole: Channels,
    full_macs: int,
    data: Data | None,
    checkpoint: Checkpoint,
    answers: np.ndarray | None,
    *,
    warm: bool,
    on_step: OnStep,
    original: Network,
) -> tuple[Network, Candidate]:
    """Equalise, calibrate, train with fake quantisation, and write Q/DQ nodes. Training that made validation worse is undone.

    whole: the network as it came, which knows best what its inputs are like where there is no data. A learning rate that was
    asked for counts here by how far it is from the one that float training takes without being asked.

    Returns the int8 network, and the candidate with the account of this training added.
    """
    from mcuprune.equalize import equalized
    from mcuprune.optimizer import OPTIMIZERS
    from mcuprune.quantize import QuantTrainable, calibrate
    from mcuprune.training import Trainer

    net = candidate.channels.network
    batches, worth = _calibration(request, whole, data)
    known_ranges = stored_ranges(original) if data is None else {}
    if known_ranges:  # they fit the channels as they are
        channels, equal, worth = candidate.channels, None, _OWN_RANGES
    else:
        channels, equal = equalized(candidate.channels, batches, request.device)
    said = [note for note in (*candidate.notes, worth, equal) if note is not None]
    candidate = replace(candidate, notes=tuple(dict.fromkeys(said)))  # one that goes on has said it before
    if data is None:
        module = QuantTrainable(channels, request.weight_bits)
        calibrate(module, batches)
        module.load_extra_state_arrays(_stored(module.scheme, known_ranges))
        return quantized(*module.quantized_network()), candidate

    schedule = schedule_for(request, len(data.train.y), warm=warm)
    trainer = Trainer(
        channels,
        data.train,
        total=1,
        batch=schedule.batch,
        lr=_QUANT_LR * schedule.lr / OPTIMIZERS[schedule.optimizer].lr,
        weight_decay=0.0,
        optimizer="sgd",
        label_smoothing=schedule.label_smoothing,
        seed=request.seed,
        make=partial(QuantTrainable, weight_bits=request.weight_bits),
        warm_up=0.0,
        augment=data.augment,
        answers=answers if candidate.taught else None,
        device=request.device,
    )
    trainer.total = schedule.quant_epochs * trainer.steps_per_epoch if request.train else 0
    quant = trainer.module
    assert isinstance(quant, QuantTrainable)
    calibrate(quant, batches)
    calibrated, known = trainer.state(), trainer.accuracy(data.val)
    if saved := checkpoint.load(_QUANTIZE):
        trainer.restore(saved.arrays, channels)
        quant = trainer.module
        assert isinstance(quant, QuantTrainable)
    used = resources.profile(net).used(request.sram_model)
    at = {name: used[name] for name in resources.RESOURCES}
    while trainer.step < trainer.total:
        quant.observing = trainer.step < _OBSERVING * trainer.total
        loss = trainer.train_step()
        if trainer.step % trainer.steps_per_epoch == 0:
            line = trainer.line(loss, at, _QUANTIZE, data.val)
            before = schedule.epochs * trainer.steps_per_epoch
            epoch, epochs = (schedule.epochs + part for part in (line.epoch, line.epochs))
            on_step(replace(line, step=before + line.step, epoch=epoch, epochs=epochs))
            arrays = {**trainer.state(), "float": np.frombuffer(_bytes(net), np.uint8), "keep": candidate.keep}
            macs = candidate.training_macs, candidate.full_training_macs
            values = {"macs": macs, "notes": candidate.notes, "taught": candidate.taught}
            checkpoint.save(_QUANTIZE, arrays, values)
    account = replace(
        candidate,
        training_macs=candidate.training_macs + trainer.training_macs,
        full_training_macs=candidate.full_training_macs + full_macs * trainer.batch * trainer.total,
    )
    if undone := _undo_if_worse(trainer, calibrated, known, channels, data):
        account = replace(account, notes=(*account.notes, undone))
    assert isinstance(trainer.module, QuantTrainable)
    return quantized(*trainer.module.quantized_network()), account


def _undo_if_worse(
    trainer: Trainer, calibrated: Mapping[str, np.ndarray], known: float, channels: Channels, data: Data
) -> str | None:
    """Go back to the network as calibrated where training left it right on less of the validation examples; a note of it.

    calibrated, known: state and accuracy before training.
    """
    share = trainer.accuracy(data.val) if trainer.total else known
    if share >= known:
        return None
    trainer.restore(calibrated, channels)
    return (
        f"fake-quant training was undone: right on {share:.1%} of the validation examples after it, on {known:.1%} by "
        "calibration alone"
    )
