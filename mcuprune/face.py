"""The public face: what ``import mcuprune`` offers, for scripts and notebooks. The commands call the same functions.

Whatever takes a network takes the path of an ONNX file too. Names, units and meanings are those of the command line; a user's
mistake raises a McupruneError, whose message says what to do. Nothing here imports torch or onnxruntime before it trains,
quantises or runs a network.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcuprune import places, units
from mcuprune.channels.labelling import label
from mcuprune.config import Wanted
from mcuprune.costs import resources
from mcuprune.costs.resources import RESOURCES, Basis, FlashModel, Profile, SramModel, Verdict
from mcuprune.deploy.boards import board_budget
from mcuprune.deploy.codesize import Runtime
from mcuprune.errors import MissingExtra, UsageError
from mcuprune.graph import network
from mcuprune.graph.network import Network
from mcuprune.operators import table as ops
from mcuprune.options import nearest
from mcuprune.places import Output
from mcuprune.report.drawings import Groups

if TYPE_CHECKING:
    from mcuprune.data.sets import Given
    from mcuprune.result import Result
    from mcuprune.run.verify import Verification
    from mcuprune.train.request import Request
    from mcuprune.train.task import Step

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
    shapes = {name: tuple(shape) for name, shape in (input_shapes or {}).items()}
    where = os.fspath(path)
    return network.load(where, input_shapes=shapes, outputs=outputs, accept=ops.accept(where))


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
    return resources.profile(_read(net), Basis(runtime=runtime, board=board))


def groups(net: Net) -> Groups:
    """The groups of channels that are pruned together, in the network's order, and why some can't be.

    >>> found = groups("models/resnet8_digits.onnx")
    >>> [len(group) for group in found.removable]
    [16, 16, 32, 32, 64, 64]
    """
    return Groups(resources.in_order(label(_read(net))))


@dataclass(frozen=True, init=False, repr=False)
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
        """What limits are held against: what was asked for; on a board, what its runtime needs; else peak and constants."""
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
        return dict(resources.budget(self.limits, _measured(net, basis).used(basis)).limits)


def _limit(name: str, value: LimitLike) -> units.Limit:
    if name not in RESOURCES:
        raise UsageError(f"Budget: no resource {name!r} can be limited; {nearest(name, RESOURCES)}")
    if isinstance(value, units.Limit):
        return value
    if isinstance(value, bool) or not isinstance(value, (str, int)):
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
    runtime: whose code that is, and whose speed; ``tflm`` by default. A profile has been made for one already.
    Raises UsageError for a budget without any limit, which would hold whatever a network costs.

    >>> verdict = check("models/resnet8_digits.onnx", Budget(sram="12KB", flash="64KB"))
    >>> verdict.ok, verdict.excess
    (False, {'flash': 14304})
    """
    limits = _budget(budget)
    if not limits.limits:
        raise UsageError("check: the budget has no limit; name one, as in Budget(sram='64KB')")
    basis = limits.basis(sram_model, flash_model, runtime)
    used = _measured(net, basis).used(basis)
    return resources.budget(limits.limits, used).check(used)


def _budget(budget: Budget | Mapping[str, LimitLike]) -> Budget:
    return budget if isinstance(budget, Budget) else Budget(board=None, **budget)


def _measured(net: Net | Profile, basis: Basis) -> Profile:
    return net if isinstance(net, Profile) else resources.profile(_read(net), basis)


def _read(net: Net) -> Network:
    return net if isinstance(net, Network) else load(net)


# ---------------------------------------------------------------------------------------------------------------- pruning


class Callback:
    """What a run calls while it trains; override what is wanted. ``prune`` takes a plain function too, as ``on_step``.

    >>> class Show(Callback):
    ...     def on_epoch(self, step):
    ...         print(step.phase, step.epoch, step.costs["macs"], step.accuracy)
    """

    def on_step(self, step: Step) -> None:
        """After every update of the widths, and at the end of every epoch. step: a line of the history."""

    def on_epoch(self, step: Step) -> None:
        """At the end of every epoch, where ``step.score`` is the figure on validation examples."""

    def on_end(self, result: Result) -> None:
        """When the file has been written and measured."""


def prune(
    net: Net,
    budget: Budget | Mapping[str, LimitLike],
    *,
    data: Given | None = None,
    output: str | os.PathLike[str] | None = None,
    sram_model: SramModel | None = None,
    flash_model: FlashModel | None = None,
    runtime: Runtime | None = None,
    callbacks: Iterable[Callback | Callable[[Step], None]] = (),
    **options: Any,
) -> Result:
    """Prune a network while it trains until it holds a budget; ``result.network`` is the int8 network as it was written.

    data: what to train and test on: the name of an embedded set, the path of an ``.npz`` archive, ``"module:function"``,
    ``Arrays`` or any mapping like them, or an object with these attributes (``Dataset``). Arrays reach the network as they are.
    sram_model, flash_model, runtime: what limits are held against, as for ``check``.
    output: where the file goes; without it nothing is left on disk.
    callbacks: ``Callback`` objects, or functions, which get what ``Callback.on_step`` gets.
    options: as the flags of ``mcuprune prune``, with underscores: ``method``, ``epochs``, ``seed``, ``keep`` and so on;
    ``train=False`` for ``--no-train``, ``int8=False`` for ``--float``. With a path, ``input_shapes`` and ``outputs`` are those
    of ``load``.

    Same network, data, options and ``seed``: same file. Raises a McupruneError, with nothing written, where no answer is
    possible: BudgetError for a budget that no selection of channels holds, DataError for data that doesn't fit, UsageError for
    an option that isn't known, MissingExtra without the packages that train.

    >>> result = prune("models/dscnn_digits.onnx", Budget(macs="50%"), train=False, int8=False)
    >>> result.ok, profile(result.network).macs <= result.before.macs // 2
    (True, True)
    """
    limits, watchers = _budget(budget), [_watcher(callback) for callback in callbacks]
    engine()
    from mcuprune import dropping
    from mcuprune.report import prune as outcome
    from mcuprune.train.request import Request

    _known(options, Request)
    if isinstance(bands := options.get("bands"), int) and not isinstance(bands, bool):
        options["bands"] = str(bands)
    if isinstance(net, Network) and (given := {"input_shapes", "outputs"} & options.keys()):
        raise UsageError(f"prune: {', '.join(sorted(given))}: for a path; give them to load, which has read this network")

    def on_step(step: Step) -> None:
        for watcher in watchers:
            watcher.on_step(step)
            if step.score is not None:
                watcher.on_epoch(step)

    name = f"{Path(net.path if isinstance(net, Network) else net).stem}-pruned.onnx"
    with _file(output, name) as path:
        request = Request(
            model=net.path if isinstance(net, Network) else os.fspath(net),
            limits=limits.limits,
            output=path,
            basis=limits.basis(sram_model, flash_model, runtime),
            **options,
        )
        spec = os.fspath(data) if isinstance(data, os.PathLike) else data
        if isinstance(spec, str):
            request, spec = replace(request, data=spec), None
        result: Result = dropping.prune(request, on_step, net=net if isinstance(net, Network) else None, data_set=spec)
        if request.report is not None:
            outcome.save(outcome.document(result), request.report)
    if output is None:  # the folder is gone: only the name is left to tell
        after, written = replace(result.after, path=name), replace(result.network, path=name)
        result = replace(result, after=after, network=written, request=replace(result.request, output=name))
    for watcher in watchers:
        watcher.on_end(result)
    return result


@dataclass(frozen=True)
class _Function(Callback):
    """A plain function as a callback."""

    function: Callable[[Step], None]

    def on_step(self, step: Step) -> None:
        self.function(step)


def _watcher(callback: Callback | Callable[[Step], None]) -> Callback:
    if isinstance(callback, Callback):
        return callback
    if not callable(callback):
        kind = type(callback).__name__
        raise UsageError(f"prune: a callback is a function or a mcuprune.Callback, not an object of type {kind}")
    return _Function(callback)


def _known(options: Mapping[str, Any], request: type[Request]) -> None:
    """Raise UsageError for an option that ``prune`` doesn't take."""
    taken = ("model", "limits", "output", "data", "basis", "configuration")
    names = [field.name for field in fields(request) if field.name not in taken]
    for option in options:
        if option not in names:
            raise UsageError(f"prune: no option {option!r}; {nearest(option, names)}")


@contextmanager
def _file(output: str | os.PathLike[str] | None, name: str) -> Iterator[str]:
    """A path to write to: ``output``, or a file that is gone afterwards."""
    if output is not None:
        yield os.fspath(output)
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


def export(net: Net, path: str | os.PathLike[str], *, data: Given | None = None, bands: str | int = "off") -> Path:
    """Write a network, in the format that the suffix of ``path`` names: ``.onnx``, ``.tflite``, ``.h`` or ``.c``.

    data: quantises a float network to int8 first, with ranges of these examples, as ``prune(train=False)`` does. Without it a
    float network becomes ``.onnx`` as it is.
    bands: row bands, ``"auto"`` for those with the least memory, or how many.
    Returns the path. Raises UsageError for another suffix, and for a float network that is to become anything but ``.onnx``
    without data; OutputError where the file can't be written; UnsupportedOperator for what no kernel on a
    microcontroller computes.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     load(export("models/resnet8_digits.onnx", f"{folder}/same.onnx")).inputs
    ('image',)
    """
    from mcuprune import exporting

    target, source = Path(path), net.path if isinstance(net, Network) else os.fspath(net)
    spec = os.fspath(data) if isinstance(data, os.PathLike) else data
    named, given = (spec, None) if isinstance(spec, str) else (None, spec)
    request = exporting.Request(source, output=str(target), data=named, bands=str(bands))
    places.settle([Output("export", str(target), make_folder=True)], exporting.sources(request))
    found = _read(net)
    if target.suffix == ".onnx" and data is None and bands == "off":
        network.write_model(found.to_proto(), target)
    else:
        exporting.export(request, net=found, data_set=given)
    return target


def verify(net: Net, *, data: Given | None = None, examples: int = 200, seed: int = 0) -> Verification:
    """Run an int8 network, or a ``.onnx`` or ``.tflite`` file, in a microcontroller's runtimes, and compare them.

    An ONNX network, as it would be exported, is compared with onnxruntime; so is a ``.tflite`` file whose ONNX file lies beside
    it. Any other is run: in its predicted arena, and alike in all runtimes.
    data: real examples, as for ``prune``: the accuracy in each runtime, and equal classes. examples: how many of them, and how
    many random inputs. ``ok`` is whether all computed the same.
    Raises MissingExtra where no runtime is installed, ModelError for a network that isn't int8.
    """
    from mcuprune.run.verify_tflite import verify_file as run

    if not isinstance(net, Network):
        return run(os.fspath(net), examples=examples, seed=seed, data=data)
    with _file(None, Path(net.path).name or "net.onnx") as path:
        net.save(path)
        return replace(run(path, examples=examples, seed=seed, data=data), path=net.path)
