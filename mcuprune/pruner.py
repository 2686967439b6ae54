"""Pruning inside a training loop of your own: your data, your loss, your optimizer; widths follow the budget.

A ``Pruner`` brings the method of ``methods.differentiable`` into any PyTorch program. Its ``module`` is the network as a torch
module whose channels are masked, not cut, while it trains: parameters keep their shapes, so that an optimizer, a gradient
scaler or a checkpoint of yours goes on as if nothing happened. ``step`` moves the masks; ``finish`` cuts for good. A masked
network and the cut one compute the same.

How the loss feels each channel is measured without asking for the loss. When your backward pass reaches the outputs, the
gradient that arrives there is noted, and the inputs of that batch with it. At an update of the widths these inputs go through
the module once more, with BatchNormalization's statistics as constants, and the noted gradient is carried back to the masks.
Masks that took their gradient in your own backward pass would see almost nothing: there the statistics of a batch follow every
mask, and undo what it does to a whole group (the head of ``methods.differentiable`` says more). A loss scaled by a constant
gives the same widths.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mcuprune.channels.labelling import Channels, label
from mcuprune.channels.salience import salience
from mcuprune.costs import banding, resources
from mcuprune.costs import widths as allocation
from mcuprune.costs.banded import BandedCosts
from mcuprune.costs.resources import FlashModel, SramModel
from mcuprune.deploy.codesize import Runtime
from mcuprune.errors import DataError, UsageError
from mcuprune.face import Budget, LimitLike, Net, budget_of, load
from mcuprune.graph.network import Network
from mcuprune.passes import batchnorm as folding
from mcuprune.passes.canonical import canonical
from mcuprune.train.batchproof import prove
from mcuprune.train.methods.differentiable import Widths, of_multipliers, with_measured_masks
from mcuprune.train.module import Trainable
from mcuprune.train.narrowing import normalized, untrained
from mcuprune.train.rehearsal import rehearse
from mcuprune.train.task import Schedule

#: No count of a Pruner is as large: it fits every integer on the way.
_MOST = 2**31


@dataclass
class _Batch:
    """A batch that went through the module, and the gradient of the loss by each output that a backward pass has reached."""

    inputs: tuple[Tensor, ...]
    gradients: dict[int, Tensor] = field(default_factory=dict)


class MaskedModule(Trainable):
    """The network with masked channels, as a torch module: its inputs in the file's order -> a tuple of its outputs.

    Any batch size; float32 (batch, ...) for float inputs. ``state_dict`` holds weights and BatchNormalization's statistics; the
    masks belong to the ``Pruner``. A network that ends in Softmax gives probabilities; after ``want_logits()`` its first output
    is what the Softmax reads, as ``torch.nn.functional.cross_entropy`` wants it.
    """

    def __init__(self, channels: Channels) -> None:
        super().__init__(channels)
        self.watching = True
        self._last: _Batch | None = None
        self._original: tuple[MaskedModule] | None = None  # in a tuple, or torch would take it for a part of this module

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Outputs in the file's order; a pass with gradients is noted for the next update of the widths."""
        if self._original is not None:
            self.gates = self._original[0].gates
        if self.gates is not None and (like := next(self.parameters(), None)) is not None:
            self.gates = self.gates.to(like)  # where the module is now, in its precision
        outputs = super().forward(*inputs)
        if self.watching and torch.is_grad_enabled():
            batch = _Batch(tuple(x.detach() for x in inputs))
            for index, output in enumerate(outputs):
                if output.requires_grad:
                    output.register_hook(partial(self._note, batch, index))  # type: ignore[no-untyped-call]
        return outputs

    def _note(self, batch: _Batch, index: int, gradient: Tensor) -> None:
        """Called by a backward pass when it has the whole gradient by an output."""
        known = batch.gradients.get(index)
        batch.gradients[index] = gradient.detach() if known is None else known + gradient.detach()
        self._last = batch

    def again(self, batch: _Batch) -> tuple[Tensor, ...]:
        """The outputs of a noted batch, from a pass that is not noted itself."""
        watching, self.watching = self.watching, False
        try:
            outputs: tuple[Tensor, ...] = self(*batch.inputs)
        finally:
            self.watching = watching
        return outputs

    def __deepcopy__(self, memo: dict[int, Any]) -> MaskedModule:
        """A module of its own with the same weights, for a running average of them, say; its masks are this one's, always."""
        copy = MaskedModule(self.channels)
        if (like := next(self.parameters(), None)) is not None:
            copy.to(like)
        copy.load_state_dict(self.state_dict())
        for (_, ours), (_, theirs) in zip(self.named_parameters(), copy.named_parameters(), strict=True):
            theirs.requires_grad_(ours.requires_grad)
        copy.want_as(self)
        copy.norm_momentum = self.norm_momentum
        copy.watching, copy._original = False, self._original or (self,)
        return copy.train(self.training)

    def last_batch(self) -> _Batch | None:
        """The last batch that a backward pass went through since this was asked for; None where there was none."""
        batch, self._last = self._last, None
        return batch


class Pruner:
    """Brings a network into a budget while a loop of yours trains it. Refuses at once what can't be finished.

    >>> import mcuprune, torch
    >>> budget = mcuprune.Budget(flash="3KB", macs="400k")
    >>> pruner = mcuprune.Pruner("models/dscnn_digits.onnx", budget, steps=20)
    >>> optimizer = torch.optim.SGD(pruner.module.parameters(), lr=0.01)
    >>> for _ in range(20):
    ...     x, y = torch.randn(8, 1, 16, 16), torch.randint(10, (8,))  # your data
    ...     loss = torch.nn.functional.cross_entropy(pruner.module(x)[0], y)  # your loss
    ...     loss.backward()
    ...     optimizer.step()
    ...     optimizer.zero_grad()
    ...     _ = pruner.step()
    >>> small = pruner.finish()
    >>> mcuprune.check(small, budget).ok
    True
    >>> pruner.progress
    1.0

    module: what to train. Any loss of any of its outputs will do, any optimizer, any device (``pruner.module.to("cuda")``).
    Train it in one process: of several, each would choose masks of its own.
    notes: what the user should know about how it went.

    net: any network that mcuprune reads, or the path of its file, of one or several inputs and outputs; it stays as it is.
    budget: as ``mcuprune.prune`` takes it; shares are of what ``net`` costs.
    steps: training steps that are going to be made. Widths fall between ``start`` and ``stop``, shares of them, at every
        ``every``-th step, or oftener in a short training; what is left of the steps trains the network at its final widths.
    examples: float32 (examples, ...), one array for each input: a convolution that comes without a BatchNormalization gets
        one, with statistics measured on these, and ``finish`` folds it away. Recommended where BatchNormalization was
        folded, as most exporters do: training goes better, and scales tell which channels matter.
    keep: shell patterns over names of groups and nodes whose channels stay.
    min_channels, multiple_of: bounds of all other widths.
    sram_model, flash_model, runtime: what limits are held against, as for ``mcuprune.check``.
    bands: row bands that the network is to run in once it is finished: as many as the limit of SRAM needs (``"auto"``),
        or so many; ``module`` and its training are the same, and limits are held in bands.
    seed: of the choice among several limited resources.

    Raises BudgetError where no cut holds the budget; ModelError and UnsupportedOperator for a network that can't be trained
    in batches, or not at all; DataError for examples that don't fit its inputs; UsageError for settings that make no sense.
    """

    def __init__(
        self,
        net: Net,
        budget: Budget | Mapping[str, LimitLike],
        *,
        steps: int = 1000,
        start: float = Schedule.prune_start,
        stop: float = Schedule.prune_stop,
        every: int = Schedule.prune_every,
        examples: np.ndarray | Sequence[np.ndarray] | None = None,
        keep: Sequence[str] = (),
        min_channels: int = 1,
        multiple_of: int = 1,
        sram_model: SramModel | None = None,
        flash_model: FlashModel | None = None,
        runtime: Runtime | None = None,
        bands: str | int = "off",
        seed: int = 0,
    ) -> None:
        counts = {"steps": steps, "every": every, "min_channels": min_channels, "multiple_of": multiple_of}
        _refuse(counts, {"start": start, "stop": stop}, seed)
        self._schedule = Schedule(
            epochs=1, quant_epochs=0, batch=1, lr=1.0, prune_every=every, prune_start=start, prune_stop=stop
        )
        net = net if isinstance(net, Network) else load(net)
        wanted = budget_of(budget)
        if not wanted.limits:
            raise UsageError(f"a Pruner needs a budget with a limit: {', '.join(resources.RESOURCES)}")
        models: dict[str, Any] = {"sram_model": sram_model, "flash_model": flash_model, "runtime": runtime}
        limits = resources.Budget(wanted.limits_of(net, **models))
        prepared, notes = canonical(net)
        channels = label(prepared)
        bounds: dict[str, Any] = {"keep": _patterns(keep), "least": min_channels, "multiple": multiple_of}
        bounds["basis"] = wanted.basis(**models)
        self._banding = banding.banding_of(str(bands), bounds["basis"], limits.limits)
        if self._banding is not None:
            BandedCosts(channels, self._banding).refuse_idle()
            bounds["make"] = partial(BandedCosts, banding=self._banding)
        model = allocation.feasible(channels, limits, **bounds)
        rehearse(channels, int8=False, train=True)
        prove(channels, several_inputs=True)
        if examples is not None:
            normal = normalized(channels, _checked(examples, channels.network))
            model = allocation.feasible(label(normal), limits, **bounds)
        self._model, self._channels, self._budget = model, model.channels, limits
        self._outer = Widths(model, limits, multiple_of)
        self._steps, self._seed = steps, seed
        self._first, self._last = self._schedule.window(steps)
        self._every = self._schedule.updates(steps)
        self._taken = 0
        self._keep = self._channels.keep_all()
        self._settled = allocation.holds(model, model.full, limits)
        self.notes: list[str] = list(notes)
        self.module = MaskedModule(self._channels)
        self.notes += untrained(self.module)
        self.module.watching = not self._settled
        if self._settled:
            self._outer.progress = 1.0
            self.notes.append("nothing has to be cut: the network holds its budget as it is")

    def __repr__(self) -> str:
        sides = ", ".join(f"{name} {self.costs[name]} of {limit}" for name, limit in self._budget.limits.items())
        return f"<Pruner of {self._channels.network.path!r} after {self._taken} steps: {sides}>"

    @property
    def widths(self) -> dict[str, int]:
        """How many channels each group of channels has at this moment, by the group's name."""
        names = [group.name for group in self._channels.groups]
        return dict(zip(names, self._channels.widths(self._keep).tolist(), strict=True))

    @property
    def costs(self) -> dict[str, int]:
        """What the network costs at its widths of this moment: sram and flash in bytes, macs."""
        return self._model.at(self._channels.widths(self._keep))

    @property
    def progress(self) -> float:
        """How much of the way from full width to the budget is over: 0 to 1; from 1 on widths and channels stay."""
        return self._outer.progress

    def step(self) -> bool:
        """Count a training step; to be called after every step of your optimizer. Returns whether the widths have changed.

        Between updates it does next to nothing. An update takes one more forward and backward pass of the last batch.
        """
        self._taken += 1
        due = self._taken % self._every == 0 or self._taken >= self._last
        if self._settled or self._taken <= self._first or not due:
            return False
        note = self._update(min(1.0, (self._taken - self._first) / (self._last - self._first)))
        if self._settled and note:
            self.notes.append(note)
        return True

    def finish(self, *, in_bands: bool = True) -> Network:
        """The cut network with the weights that the module has now; it holds the budget, whenever this is called.

        in_bands: where bands were asked for, the network runs in them. Without, it needs more SRAM until ``mcuprune.export``
        writes it in bands: to be quantised it has to come without.

        Before the way to the budget is over, what is left of it is cut at once: train some more steps then, and finish again.
        The module is left as it is, masked as the network is cut, so that its outputs are those of the network.
        """
        if not self._settled:
            self._update(1.0)
            self.notes.append(
                f"finished after {self._taken} steps, {self._last} are the way to the budget: the rest was cut at once; "
                "train on for some steps and finish again, or make a Pruner with fewer steps"
            )
        network = folding.folded(self._channels.with_network(self.module.network()).cut(self._keep))
        if self._banding is not None and isinstance(self._model, BandedCosts):
            if not in_bands:
                return network
            network = banding.in_bands(network, self._banding, self._model.recipes).network
        used = resources.profile(network, self._model.basis).used(self._model.basis)
        if not self._budget.check(used).ok:
            raise AssertionError(f"a cut that costs {used} was to hold {dict(self._budget.limits)}")
        return network

    def state_dict(self) -> dict[str, Any]:
        """Where pruning stands, beside the module's and the optimizer's own states; ``torch.save`` takes it."""
        arrays, values = self._outer.state()
        tensors = {name: torch.from_numpy(np.array(array)) for name, array in (*arrays.items(), ("keep", self._keep))}
        stands = {"step": self._taken, "settled": self._settled, "notes": list(self.notes), "limits": self._limits()}
        return {**tensors, **values, **stands}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a stored ``state_dict`` of a Pruner that was made with the same arguments.

        Raises UsageError for one of another network or budget, and for what is no such state.
        """
        if not isinstance(state, Mapping) or (lacking := self.state_dict().keys() - state.keys()):
            what = f"lacks {', '.join(sorted(lacking))}" if isinstance(state, Mapping) else f"is of type {type(state).__name__}"
            raise UsageError(f"this is no state of a Pruner: it {what}; give what state_dict returned")
        arrays = {name: value.cpu().numpy() for name, value in state.items() if isinstance(value, Tensor)}
        shapes = {"keep": self._keep.shape, **dict.fromkeys(("v", "task", "widths"), self._outer.v.shape)}
        if {name: array.shape for name, array in arrays.items()} != shapes:
            raise UsageError(
                "this state is of a Pruner of another network; make one with the same arguments as the one it is of"
            )
        if state["limits"] != self._limits():
            raise UsageError(
                f"this state is of a Pruner with other limits, {state['limits']} in place of {self._limits()}; make one with "
                "the same arguments as the one it is of"
            )
        self._outer.restore(arrays, state)
        self._keep, self._taken = arrays["keep"], int(state["step"])
        self._settled, self.notes = bool(state["settled"]), list(state["notes"])
        self.module.watching = not self._settled
        self._mask()

    def _limits(self) -> dict[str, int]:
        """What a state has to agree in: the limits in base units, and the step of widths."""
        return {**self._budget.limits, "multiple_of": self._outer.multiple}

    def _update(self, progress: float) -> str | None:
        """Bring widths and masks to ``progress`` of the way. Returns a note for the user, where there is one."""
        random = np.random.default_rng((self._seed, self._taken))
        scores = salience(self._channels, self.module.network())
        if (measured := self._measured(scores)) is not None:
            self._outer.see_task(measured)
        note = self._outer.update(progress, self._model.full, random)
        self._keep = self._channels.top(self._outer.widths, scores)
        self._settled = progress >= 1
        self.module.watching = not self._settled
        self._mask()
        return note

    def _mask(self) -> None:
        self.module.gates = None if self._keep.all() else torch.from_numpy(self._keep.astype(np.float32))

    def _measured(self, scores: np.ndarray) -> np.ndarray | None:
        """The gradient of the loss of the last batch by each multiplier: float64 (groups,). None where it is not known.

        That is so without a backward pass since the last update, where no output depends on a mask, and where the gradient is
        no finite number, as may happen while a scaler of gradients looks for its scale.
        """
        batch = self.module.last_batch()
        if batch is None:
            return None
        with torch.enable_grad(), with_measured_masks(self.module, self._keep) as gates:
            outputs = self.module.again(batch)
            pairs = [(outputs[index], gradient) for index, gradient in batch.gradients.items() if outputs[index].requires_grad]
            if not pairs:
                return None
            of_outputs, gradients = zip(*pairs, strict=True)
            (of_mask,) = torch.autograd.grad(of_outputs, gates, gradients, allow_unused=True)
        if of_mask is None or not torch.isfinite(of_mask).all():
            return None
        return of_multipliers(of_mask.double().cpu().numpy(), self._channels, self._keep, scores)


def _refuse(counts: Mapping[str, Any], shares: Mapping[str, Any], seed: Any) -> None:
    """Raise UsageError for settings that make no sense. shares: start and stop of the way to the budget."""
    for name, count in {**counts, "seed": seed}.items():
        least = 0 if name == "seed" else 1
        if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or not least <= count < _MOST:
            raise UsageError(f"Pruner: {name} is {count!r}; give a whole number from {least} to {_MOST - 1}")
    numbers = [isinstance(share, (int, float)) and not isinstance(share, bool) for share in shares.values()]
    if not all(numbers) or not 0 <= shares["start"] < shares["stop"] <= 1:
        raise UsageError(
            f"Pruner: start {shares['start']!r}, stop {shares['stop']!r}: two shares of the steps, one after the other, "
            "such as 0.05 and 0.3"
        )


def _patterns(keep: Any) -> tuple[str, ...]:
    """The shell patterns, one or several. Raises UsageError for anything else."""
    patterns = (keep,) if isinstance(keep, str) or not isinstance(keep, Iterable) else tuple(keep)
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise UsageError(f"Pruner: keep is {keep!r}; give shell patterns, such as ['stem*']")
    return patterns


def _checked(examples: np.ndarray | Sequence[np.ndarray], net: Network) -> list[np.ndarray]:
    """One array (examples, ...) for each input, in its type. Raises DataError where they don't fit."""
    given = list(examples) if isinstance(examples, (list, tuple)) else [examples]
    if len(given) != len(net.inputs):
        names = ", ".join(net.inputs)
        raise DataError(f"{net.path}: has {len(net.inputs)} inputs ({names}), examples for {len(given)} were given")
    arrays = [np.asarray(array) for array in given]
    for name, array in zip(net.inputs, arrays, strict=True):
        shape = net.shapes[name]
        if array.shape[1:] != shape[1:] or not len(array):
            raise DataError(
                f"{net.path}: examples of shape {list(array.shape)} for input '{name}', of which one is {list(shape[1:])}"
            )
    if len({len(array) for array in arrays}) > 1:
        counts = [len(array) for array in arrays]
        raise DataError(f"{net.path}: every input takes the same number of examples, not {counts}")
    for name, array in zip(net.inputs, arrays, strict=True):
        if array.dtype.kind not in "fiub" or not np.isfinite(array).all():
            raise DataError(f"{net.path}: examples for input '{name}' hold what is no finite number; leave these out")
    return [array.astype(np.float32) if array.dtype.kind == "f" else array for array in arrays]
