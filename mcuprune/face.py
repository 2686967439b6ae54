"""The public face: what ``import mcuprune`` offers, for scripts and notebooks. The commands call the same functions.

Whatever takes a network takes the path of an ONNX file too. Names, units and meanings are those of the command line; a user's
mistake raises a McupruneError, whose message says what to do. Nothing here imports torch or onnxruntime before it trains,
quantises or runs a network.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcuprune import places, units
from mcuprune.channels.labelling import label
from mcuprune.config import FLASH_MODELS, RUNTIMES, SRAM_MODELS, Wanted
from mcuprune.costs import resources
from mcuprune.costs.resources import RESOURCES, Basis, FlashModel, Profile, SramModel, Verdict
from mcuprune.deploy.boards import board_budget
from mcuprune.deploy.codesize import Runtime
from mcuprune.errors import McupruneError, MissingExtra, UsageError
from mcuprune.graph import network
from mcuprune.graph.network import Network, Shape
from mcuprune.immutable import immutable
from mcuprune.operators import table as ops
from mcuprune.options import nearest
from mcuprune.places import Output
from mcuprune.report.drawings import Groups
from mcuprune.run.trial import Trial

if TYPE_CHECKING:
    from mcuprune.data.sets import Given
    from mcuprune.run.verification import Verification

#: A network, or the path of an ONNX file that holds one.
Net = Network | str | os.PathLike[str]
#: A limit: text as on the command line (``"64KB"``, ``"10M"``, ``"50%"``), or a whole number of bytes or counts.
LimitLike = str | int | units.Limit
_EXTRA = ("torch", "torchvision", "onnx2torch", "onnxruntime", "sklearn")


# ------------------------------------------------------------------------------------------- what a network is and costs


def load(
    path: str | os.PathLike[str], *, input_shapes: Mapping[str, Sequence[int]] | None = None, outputs: Sequence[str] = ()
) -> Network:
    """Read an ONNX file as a network of static shapes at batch 1.

    input_shapes: fixes the free dimensions of the inputs that it names.
    outputs: tensors at which the network ends, instead of the file's outputs: cuts a detector's tail off.
    Raises ModelError for a file that can't be read as such a network, UnsupportedOperator for an operator that isn't known.

    >>> net = load("models/resnet8_digits.onnx")
    >>> net.inputs, net.shapes["image"]
    (('image',), (1, 1, 16, 16))
    """
    if isinstance(path, Network):
        raise UsageError(f"load: the network of {path.path} has been read; what takes a network takes it as it is")
    where, ends = path_of(path), ends_of(outputs)
    return network.load(where, input_shapes=shapes_of(input_shapes or {}), outputs=ends, accept=ops.accept(where))


def path_of(net: Net) -> str:
    """The path of a network's file, or what messages call it. Raises UsageError for what is no network and no path."""
    if isinstance(net, Network):
        return net.path
    if isinstance(net, str | os.PathLike):
        return file_path("the path of a network", net)
    kind = type(net).__name__
    hint = {"Result": "; its network is result.network", "ModelProto": "; write it with onnx.save"}.get(kind, "")
    raise UsageError(f"an object of type {kind} is no network; give what load returns, or the path of an ONNX file{hint}")


def file_path(what: str, path: Any) -> str:
    """A path as text. what: what messages call it. Raises UsageError for what is none."""
    if not isinstance(path, str | os.PathLike):
        raise UsageError(f"{what} is {path!r}; give the path of a file")
    return os.fsdecode(path)


def shapes_of(input_shapes: Mapping[str, Sequence[int]]) -> dict[str, Shape]:
    """Shapes by the names of inputs. Raises UsageError for what isn't like ``{"x": (1, 3, 96, 96)}``."""
    shapes: dict[str, Shape] = {}
    for name, shape in input_shapes.items() if isinstance(input_shapes, Mapping) else [("", input_shapes)]:
        sizes = [] if isinstance(shape, str) or not isinstance(shape, Sequence) else [*shape]
        if not (name and sizes and all(isinstance(size, Integral) and int(size) > 0 for size in sizes)):
            raise UsageError(f"input_shapes = {input_shapes!r}: write shapes by inputs, like {{'x': (1, 3, 96, 96)}}")
        shapes[name] = tuple(map(int, sizes))
    return shapes


def ends_of(outputs: Sequence[str]) -> tuple[str, ...]:
    """Names of tensors at which a network ends. Raises UsageError for what isn't like ``["boxes", "scores"]``."""
    ends = (outputs,) if isinstance(outputs, str) else outputs
    if not isinstance(ends, Sequence) or not all(isinstance(name, str) for name in ends):
        raise UsageError(f"outputs = {outputs!r}: write names of tensors, like ['boxes', 'scores']")
    return tuple(ends)


def refuse_read(function: str, net: Net, input_shapes: object, outputs: object) -> None:
    """Raise UsageError where a network that has been read is to be read in another way. function: what the message names."""
    if isinstance(net, Network) and (given := [*["input_shapes"] * bool(input_shapes), *["outputs"] * bool(outputs)]):
        raise UsageError(f"{function}: {', '.join(given)}: for a path; give them to load, which has read this network")


def profile(net: Net, *, runtime: Runtime = "tflm", board: str | None = None) -> Profile:
    """What a network costs on a microcontroller, and where: bytes of SRAM and flash, multiply-accumulates.

    runtime: whose code ``total["image"]`` counts. board: where ``total["latency"]`` is estimated, in microseconds.
    Raises what ``load`` raises, and UnsupportedOperator for a node whose cost isn't known.

    >>> cost = profile("models/resnet8_digits.onnx")
    >>> cost.sram, cost.flash, cost.macs
    (12288, 79840, 3052160)
    >>> cost.memory.peak_node, cost.memory.exact
    ('/stage1/conv2/conv/Conv', True)
    """
    _known("runtime", runtime, RUNTIMES)
    if not isinstance(board, str | None):
        raise UsageError(f"board = {board!r} is no name of a board")
    return resources.profile(_read(net), Basis(runtime=runtime, board=board))


def groups(net: Net) -> Groups:
    """The groups of channels that are pruned together, in the network's order, and why some can't be.

    >>> coupled = groups("models/resnet8_digits.onnx")
    >>> [len(group) for group in coupled.removable]
    [16, 16, 32, 32, 64, 64]
    """
    return Groups(resources.in_order(label(_read(net))))


@immutable(init=False, repr=False)
class Budget:
    """Limits on what a network may cost, inclusive; resources that it doesn't name are free.

    limits: by the names of flags, such as ``sram``, ``flash`` and ``macs``: text as on the command line (sizes with ``KB`` of
    1,024 bytes, counts with ``k``, ``M`` and ``G`` of powers of 1,000), a whole number of bytes or counts, or a share of the
    network's own cost such as ``"50%"``.
    board: the name of a board, whose largest block of SRAM and whose flash are limits, unless ``limits`` says otherwise; see
    ``mcuprune boards``. On a board, SRAM has to hold the arena of TensorFlow Lite Micro.

    Raises UsageError for a resource or board that isn't known, and for text that is no size, count or share.

    >>> Budget(sram="64KB", macs="50%").limits_of("models/resnet8_digits.onnx")
    {'sram': 65536, 'macs': 1526080}
    """

    limits: Mapping[str, units.Limit]
    board: str | None = None

    def __init__(self, *, board: str | None = None, **limits: LimitLike) -> None:
        if not isinstance(board, str | None):
            raise UsageError(f"Budget: board = {board!r} is no name of a board")
        own = {name: _limit(name, value) for name, value in limits.items()}
        object.__setattr__(self, "limits", {**(board_budget(board) if board is not None else {}), **own})
        object.__setattr__(self, "board", board)

    def __repr__(self) -> str:
        shown = {
            name: f"'{float(limit.value * 100):.15g}%'" if limit.relative else f"{int(limit.value)}"
            for name, limit in self.limits.items()
        }
        words = [f"{name}={limit}" for name, limit in shown.items()] + ([f"board={self.board!r}"] if self.board else [])
        return f"Budget({', '.join(words)})"

    def basis(
        self, sram_model: SramModel | None = None, flash_model: FlashModel | None = None, runtime: Runtime | None = None
    ) -> Basis:
        """What limits are held against: what was asked for; on a board, what its runtime needs; else peak and constants.

        Raises UsageError for a word that isn't known.
        """
        _known("sram_model", sram_model, SRAM_MODELS)
        _known("flash_model", flash_model, FLASH_MODELS)
        _known("runtime", runtime, RUNTIMES)
        return Wanted(board=self.board, sram_model=sram_model, flash_model=flash_model, runtime=runtime).gate

    def limits_of(
        self,
        net: Net | Profile,
        *,
        sram_model: SramModel | None = None,
        flash_model: FlashModel | None = None,
        runtime: Runtime | None = None,
    ) -> dict[str, int]:
        """The limits for one network, in bytes and counts. Raises BudgetError where a share comes to nothing."""
        basis = self.basis(sram_model, flash_model, runtime)
        return dict(resources.budget(self.limits, self.measured(net, basis, runtime).used(basis)).limits)

    def measured(self, net: Net | Profile, basis: Basis, runtime: Runtime | None) -> Profile:
        """The profile of a network in this sense. Raises UsageError where one was made for another runtime or board."""
        if not isinstance(net, Profile):
            return resources.profile(_read(net), basis)
        if runtime is not None and runtime != net.basis.runtime:
            raise UsageError(
                f"runtime = {runtime!r}: the profile was made for {net.basis.runtime!r}; make it with runtime={runtime!r}, or "
                "give the network"
            )
        if "latency" in self.limits and self.board is not None and self.board != net.basis.board:
            raise UsageError(
                f"Budget: latency on {self.board}: the profile estimates {net.basis.board or 'no board'}; make it with "
                f"board={self.board!r}, or give the network"
            )
        return net


def _limit(name: str, value: LimitLike) -> units.Limit:
    if name not in RESOURCES:
        raise UsageError(f"Budget: no resource {name!r} can be limited; {nearest(name, RESOURCES)}")
    if isinstance(value, units.Limit):
        return value
    if isinstance(value, bool) or not isinstance(value, str | Integral):
        raise UsageError(f"Budget: {name} = {value!r} is neither text nor a whole number; write it like '64KB', 65536 or '50%'")
    try:
        return units.parse(str(value), RESOURCES[name].unit)
    except UsageError as error:
        raise UsageError(f"Budget: {name}: {error}") from None


def check(
    net: Net | Profile,
    budget: Budget | Mapping[str, LimitLike],
    *,
    sram_model: SramModel | None = None,
    flash_model: FlashModel | None = None,
    runtime: Runtime | None = None,
) -> Verdict:
    """Whether a network holds a budget: what it uses of each limited resource, and by how much it is over.

    sram_model: what a limit of SRAM is held against: the ``peak`` of activations, ``tflm``'s arena, or ``max-in-out``; by
    default the peak, and with a board the arena.
    flash_model: what a limit of flash is held against: constants as the ``paper`` counts them, the ``file`` that is written, or
    the ``image``, that and code; by default the paper's, and with a board the image.
    runtime: whose code that is, and whose speed; ``tflm`` by default, and of a profile what it was made for.
    Raises UsageError for a budget without any limit, which would hold whatever a network costs, for what a limit means that it
    hasn't got, and for a profile that was made for another runtime, or for time on another board.

    >>> verdict = check("models/resnet8_digits.onnx", Budget(sram="12KB", flash="64KB"))
    >>> verdict.ok, verdict.excess
    (False, {'flash': 14304})
    """
    limits = budget_of(budget)
    if not limits.limits:
        raise UsageError("check: the budget has no limit; name one, as in Budget(sram='64KB')")
    basis = limits.basis(sram_model, flash_model, runtime)
    for name, word in (("sram", sram_model), ("flash", flash_model)):
        if word is not None and name not in limits.limits:
            raise UsageError(f"check: {name}_model = {word!r}: the budget has no limit of {name}; add one, or leave it out")
    used = limits.measured(net, basis, runtime).used(basis)
    return resources.budget(limits.limits, used).check(used)


def budget_of(budget: Budget | Mapping[str, LimitLike]) -> Budget:
    """A budget that may be given as what ``Budget`` takes. Raises what it raises, and UsageError for anything else."""
    if isinstance(budget, Budget):
        return budget
    if not isinstance(budget, Mapping):
        raise UsageError(f"{budget!r} is no budget; write it like mcuprune.Budget(sram='64KB', macs='50%')")
    if strange := [name for name in budget if not isinstance(name, str)]:
        raise UsageError(f"{strange[0]!r} is no resource; write a budget like {{'sram': '64KB', 'macs': '50%'}}")
    return Budget(**budget)  # type: ignore[arg-type]


def _known(name: str, word: str | None, known: Sequence[str]) -> None:
    if word is not None and word not in known:
        raise UsageError(f"{name} = {word!r} is not known; {nearest(str(word), known)}")


def _read(net: Net) -> Network:
    return net if isinstance(net, Network) else load(path_of(net))


@contextmanager
def file_for(output: str | os.PathLike[str] | None, name: str) -> Iterator[str]:
    """A path to write to: ``output``, or a file that is gone afterwards."""
    if output is not None:
        yield file_path("output", output)
        return
    import tempfile

    with tempfile.TemporaryDirectory(prefix="mcuprune-") as folder:
        yield os.path.join(folder, name)


def engine() -> Any:
    """The module that prunes. Raises MissingExtra where a package that it needs is not installed."""
    try:
        from mcuprune import pruning
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in _EXTRA:
            raise
        raise MissingExtra(f"this command needs {error.name}; install it with pip install 'mcuprune[prune]'") from None
    return pruning


# --------------------------------------------------------------------------------------------------------- what is written


def export(
    net: Net,
    path: str | os.PathLike[str],
    *,
    data: Given | None = None,
    bands: str | int = "off",
    **feed: str | os.PathLike[str] | None,
) -> Path:
    """Write a network, in the format that the suffix of ``path`` names: ``.onnx``, ``.tflite``, ``.h`` or ``.c``.

    data: quantises a float network to int8 first, with ranges of these examples, as ``prune(train=False)`` does. Without it a
    float network becomes ``.onnx`` as it is.
    bands: row bands, ``"auto"`` for those with the least memory, or how many.
    feed: how these examples are fed, as for ``prune``: ``scale``, ``mean``, ``std``, ``layout``, ``colours``, ``classes`` and
    ``frontend``.
    Returns the path. Raises UsageError for another suffix, for a float network that is to become anything but ``.onnx``
    without data, for data that an int8 network doesn't need, and for ``feed`` where nothing is fed; OutputError where the file
    can't be written; UnsupportedOperator for what no kernel on a microcontroller computes.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     load(export("models/resnet8_digits.onnx", f"{folder}/same.onnx")).inputs
    ('image',)
    """
    from mcuprune import exporting
    from mcuprune.data.feed import flags_given, of_keywords, said

    fed = of_keywords("export", feed)
    target, source = Path(file_path("the path to export to", path)), path_of(net)
    spec = os.fspath(data) if isinstance(data, os.PathLike) else data
    named, given = (spec, None) if isinstance(spec, str) else (None, spec)
    request = exporting.Request(source, output=str(target), data=named, bands=str(bands), **said(fed))
    places.settle([Output("export", str(target), make_folder=True)], exporting.sources(request))
    read = _read(net)
    if target.suffix == ".onnx" and data is None and bands == "off":
        if idle := flags_given(fed):
            raise UsageError(f"export: {', '.join(idle)}: is about data, and none are given: add data=..., or leave it out")
        network.write_model(read.to_proto(), target)
    else:
        exporting.export(request, net=read, data_set=given)
    return target


def verify(
    net: Net,
    *,
    data: Given | None = None,
    task: str = Trial.task,
    examples: int = Trial.examples,
    seed: int = Trial.seed,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    outputs: Sequence[str] = (),
    **feed: str | os.PathLike[str] | None,
) -> Verification:
    """Run an int8 network, or a ``.onnx`` or ``.tflite`` file, in a microcontroller's runtimes, and compare them.

    An ONNX network, as it would be exported, is compared with onnxruntime; so is a ``.tflite`` file whose ONNX file lies beside
    it. Any other is run: in its predicted arena, and alike in all runtimes.
    data: real examples, as for ``prune``: the accuracy in each runtime, and equal classes. task: what targets are for, as for
    ``prune``. examples: how many of them, and how many random inputs. seed: which of them, and which numbers.
    feed: how real examples are fed, as for ``export``, where the file's metadata don't say; they do in what mcuprune writes.
    input_shapes, outputs: of a path, as for ``load``; of the ONNX file beside a ``.tflite``. ``ok`` is whether all computed the
    same.
    Raises MissingExtra where no runtime is installed, ModelError for a network that isn't int8, UsageError for shapes and
    outputs of a ``.tflite`` that has no ONNX file beside it.
    """
    from mcuprune.data.feed import of_keywords, said
    from mcuprune.run.verify_tflite import verify_file as run
    from mcuprune.train.tasks.choice import NAMES

    import_module("mcuprune.report.verified")  # which draws the answer in a notebook
    refuse_read("verify", net, input_shapes, outputs)
    _known("task", task, NAMES)
    shapes, ends, fed = shapes_of(input_shapes or {}), ends_of(outputs), said(of_keywords("verify", feed))
    trial = Trial(data=data, task=task, examples=examples, seed=seed, input_shapes=shapes, outputs=ends, **fed)
    if not isinstance(net, Network):
        return run(path_of(net), trial)
    with file_for(None, Path(net.path).name or "net.onnx") as path:
        net.save(path)
        try:
            return replace(run(path, trial), path=net.path)
        except McupruneError as error:  # it names the temporary file, which the user never saw
            raise type(error)(str(error).replace(path, net.path)) from None
