"""``mcuprune.prune``: what a script may ask of it, each option with its type, and what it calls while it runs.

The options are fields: ``Choices`` and ``Feed`` have those that the command line has too, ``Asked`` adds the objects of a
script. A type checker takes the function's parameters from these fields, and so does ``help``.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field, fields, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from mcuprune import options
from mcuprune.costs.resources import FlashModel, SramModel
from mcuprune.data.feed import Feed
from mcuprune.deploy.codesize import Runtime
from mcuprune.errors import UsageError
from mcuprune.face import Budget, LimitLike, Net, budget_of, engine, file_for, path_of, refuse_read, shapes_of
from mcuprune.graph.network import Network
from mcuprune.immutable import immutable
from mcuprune.options import nearest
from mcuprune.train.request import Choices, Request

if TYPE_CHECKING:
    from mcuprune.data.sets import Given
    from mcuprune.result import Result
    from mcuprune.train.task import Step

P = ParamSpec("P")
A = TypeVar("A")
R = TypeVar("R")


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


@immutable(kw_only=True)
class Asked(Choices, Feed):
    """What a script asks of ``prune``, whose docstring says what each means; the options of the command line come first."""

    net: Net = field(kw_only=False)
    budget: Budget | Mapping[str, LimitLike] = field(kw_only=False)
    data: Given | None = None
    output: str | os.PathLike[str] | None = None
    sram_model: SramModel | None = None
    flash_model: FlashModel | None = None
    runtime: Runtime | None = None
    callbacks: Iterable[Callback | Callable[[Step], None]] = ()

    @property
    def in_memory(self) -> Network | None:
        """The network, where it isn't the path of one."""
        return self.net if isinstance(self.net, Network) else None

    @property
    def model(self) -> str:
        """The path of the network's file, or what messages call it."""
        return path_of(self.net)

    @property
    def data_set(self) -> Given | None:
        """The data; a path as text."""
        return os.fspath(self.data) if isinstance(self.data, os.PathLike) else self.data

    def request(self, output: str) -> Request:
        """The same as the command line would ask it, the file to be written at ``output``. Raises UsageError."""
        refuse_read("prune", self.net, self.input_shapes, self.outputs)
        budget, data = budget_of(self.budget), self.data_set
        choices = {option.name: getattr(self, option.name) for kind in (Choices, Feed) for option in fields(kind)}
        choices |= {"bands": str(self.bands), "input_shapes": shapes_of(self.input_shapes)}
        return Request(
            model=self.model,
            limits=budget.limits,
            output=output,
            basis=budget.basis(self.sram_model, self.flash_model, self.runtime),
            data=data if isinstance(data, str) else None,
            **{**choices, **options.plain(Request, choices)},
        )


#: Flags of the command whose option has another name in Python.
_OPPOSITES = {"float": "write int8=False", "no_train": "write train=False"}


def _asking(kind: Callable[P, A]) -> Callable[[Callable[[A], R]], Callable[P, R]]:
    """Make a function of one object take the fields of the object's class as its parameters."""

    def decorated(function: Callable[[A], R]) -> Callable[P, R]:
        result = inspect.signature(function).return_annotation
        signature = inspect.signature(kind).replace(return_annotation=result)

        @wraps(function)
        def asked_with(*args: P.args, **given: P.kwargs) -> R:
            for name in given:
                if name not in signature.parameters:
                    meant = _OPPOSITES.get(name) or nearest(name, signature.parameters)
                    raise UsageError(f"{function.__name__}: no option {name!r}; {meant}")
            signature.bind(*args, **given)  # its messages don't name a class that the caller doesn't know
            return function(kind(*args, **given))

        asked_with.__signature__ = signature  # type: ignore[attr-defined]
        return asked_with

    return decorated


@_asking(Asked)
def prune(asked: Asked) -> Result:
    """Prune a network while it trains until it holds a budget; ``result.network`` is the int8 network as it was written.

    data: what to train and test on: the name of an embedded set, the path of an ``.npz`` archive, ``"module:function"``,
    ``Arrays`` or any mapping like them, or an object with these attributes (``Dataset``). Arrays reach the network as they are.
    sram_model, flash_model, runtime: what limits are held against, as for ``check``.
    output: where the ONNX file goes; without it nothing is left on disk. Other formats: give ``result.network`` to ``export``.
    callbacks: ``Callback`` objects, or functions, which get what ``Callback.on_step`` gets.
    All other options are the flags of ``mcuprune prune``, with underscores: ``method``, ``epochs``, ``seed``, ``keep`` and so
    on; ``train=False`` for ``--no-train``, ``int8=False`` for ``--float``. With a path, ``input_shapes`` and ``outputs`` are
    those of ``load``.

    Same network, data, options and ``seed``: same file. Raises a McupruneError, with nothing written, where no answer is
    possible: BudgetError for a budget that no selection of channels holds, DataError for data that doesn't fit, UsageError for
    an option that isn't known, MissingExtra without the packages that train.

    >>> result = prune("models/dscnn_digits.onnx", Budget(macs="50%"), train=False, int8=False)
    >>> result.ok, profile(result.network).macs <= result.before.macs // 2
    (True, True)
    """
    if not isinstance(asked.callbacks, Iterable):
        raise UsageError("prune: callbacks is a list of functions and mcuprune.Callback objects")
    watchers = [_watcher(callback) for callback in asked.callbacks]
    engine()
    from mcuprune import dropping
    from mcuprune.report import prune as outcome

    def tell(step: Step) -> None:
        for watcher in watchers:
            watcher.on_step(step)
            if step.score is not None:
                watcher.on_epoch(step)

    name = f"{Path(asked.model).stem}-pruned.onnx"
    with file_for(asked.output, name) as path:
        if (suffix := Path(path).suffix) not in ("", ".onnx"):
            raise UsageError(
                f"prune: output = {path!r}: what is written is ONNX; name a file that ends in .onnx, and for {suffix} give "
                "result.network to mcuprune.export"
            )
        request = asked.request(path)
        options.check(request)  # before trackers are opened for what may be no list of names
        in_memory = None if request.data is not None else asked.data_set
        result = dropping.prune(request, tell, net=asked.in_memory, data_set=in_memory)
        if request.report is not None:
            outcome.save(outcome.document(result), request.report)
    if asked.output is None:  # the folder is gone: only the name is left to tell
        after, written = replace(result.after, path=name), replace(result.network, path=name)
        result = replace(result, after=after, network=written, request=replace(result.request, output=name))
    for watcher in watchers:
        watcher.on_end(result)
    return result


@immutable
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
