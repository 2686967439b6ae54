"""Networks from one training whose weights vanish on the way: what unstructured sparsity leaves of whole channels.

The road of DNNShifter (Eccles et al., "DNNShifter: an efficient DNN pruning system for edge computing", 2024), in one training
in place of one for each sparsity: the smallest weights anywhere, but in the classifier, are set to zero, more of them after
every few steps (the cubic schedule of Zhu and Gupta, "To prune, or not to prune", 2017, section 3); channels that nothing but
constants depend on are removed exactly (``channels.deadwood``). Each budget gets the network of the moment at which what is
left first holds it. It stands here to be compared with ``nested``: channels die late.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from onnx import ModelProto
from torch import Tensor

from mcuprune.channels.deadwood import readings, removable
from mcuprune.channels.labelling import Channels, label
from mcuprune.costs import resources
from mcuprune.costs.resources import Budget
from mcuprune.graph import network
from mcuprune.graph.network import Network
from mcuprune.immutable import immutable
from mcuprune.operators.table import OPS
from mcuprune.passes import batchnorm as folding
from mcuprune.train.checkpoint import Saved
from mcuprune.train.loop import Hooks, State
from mcuprune.train.module import Trainable, as_inputs
from mcuprune.train.task import Task
from mcuprune.train.trainer import Trainer, reestimated

#: Between these shares of the training weights vanish, up to this share of them, in so many steps.
_START, _STOP, _FINAL, _EVENTS = 0.1, 0.9, 0.998, 60
#: Examples on which it is looked at what is constant.
_LOOKED_AT = 64


@immutable
class Snapshot:
    """A cut network and the moment that it is of.

    kept: by the name of a group, the channels that stay. sparsity: of the weights that may vanish, as a share of 1.
    """

    network: Network
    kept: Mapping[str, tuple[int, ...]]
    sparsity: float


@torch.no_grad()
def cut_dead(
    channels: Channels, examples: Sequence[np.ndarray], batch: int, device: str = "cpu"
) -> tuple[Network, dict[str, tuple[int, ...]]]:
    """The network without its dead channels, BatchNormalization folded, and the channels that stay by the names of groups.

    examples: one array (examples, ...) for each input, on which the statistics of BatchNormalization are measured, and what is
    constant.
    """
    whole = label(folding.folded(reestimated(channels, examples, batch, device).network))
    module, wanted = Trainable(whole).to(device).eval(), readings(whole)
    ranges: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def watch(tensor: str, value: Tensor) -> Tensor:
        if tensor in wanted:
            axes = [axis for axis in range(value.ndim) if axis != whole.along[tensor].axis]
            low, high = value.amin(axes).cpu().numpy(), value.amax(axes).cpu().numpy()
            before = ranges.get(tensor, (low, high))
            ranges[tensor] = np.minimum(low, before[0]), np.maximum(high, before[1])
        return value

    module.computed = watch  # type: ignore[method-assign]
    module(*as_inputs(whole.network, [x[:_LOOKED_AT] for x in examples], device))
    keep, carried = removable(whole, ranges)
    return whole.with_network(carried).cut(keep), whole.kept(keep)


class Sparse(Hooks):
    """Sets weights to zero and catches, for each budget, the network that first holds it.

    budgets: largest first or not; caught: the snapshot of each, None while nothing held it.
    """

    stage = "sparse"

    def __init__(self, task: Task, budgets: Sequence[Budget], examples: Sequence[np.ndarray]) -> None:
        self.task, self.budgets, self._examples = task, budgets, examples
        self.caught: list[Snapshot | None] = [None] * len(budgets)
        self._masks: dict[str, Tensor] = {}
        self._event = 0

    def costs(self) -> Mapping[str, int]:
        return self.task.model.at(self.task.model.full)

    def after_step(self, trainer: Trainer) -> bool:
        progress = (trainer.length.share(trainer.position) - _START) / (_STOP - _START)
        event = int(_EVENTS * min(1.0, max(0.0, progress)))
        if trainer.finished:
            event = _EVENTS
        if event > self._event:
            self._event = event
            self._mask(trainer, _FINAL * (1 - (1 - event / _EVENTS) ** 3))
            self._clear(trainer)
            if not all(self.caught):
                self._catch(trainer)
        else:
            self._clear(trainer)
        return False

    @torch.no_grad()
    def _mask(self, trainer: Trainer, sparsity: float) -> None:
        """Let the smallest weights vanish until ``sparsity`` of all have."""
        weights = dict(vanishing(trainer))
        sizes = torch.cat([weight.abs().flatten() for weight in weights.values()])
        count = int(sparsity * sizes.numel())
        threshold = sizes.kthvalue(count).values if count else sizes.new_tensor(-1.0)
        self._masks = {name: weight.abs() > threshold for name, weight in weights.items()}

    @torch.no_grad()
    def _clear(self, trainer: Trainer) -> None:
        for name, mask in self._masks.items():
            trainer.module.constant(name).mul_(mask)

    def sparsity(self) -> float:
        """The share of the weights that have vanished."""
        every = sum(mask.numel() for mask in self._masks.values())
        return 1 - sum(int(mask.sum()) for mask in self._masks.values()) / every if every else 0.0

    def snapshot(self, trainer: Trainer) -> Snapshot:
        """The network as it is now, without its dead channels."""
        now = trainer.module.channels.with_network(trainer.module.network())
        cut, kept = cut_dead(now, self._examples, trainer.batch, self.task.device)
        return Snapshot(cut, kept, self.sparsity())

    def _catch(self, trainer: Trainer) -> None:
        snapshot = self.snapshot(trainer)
        basis = self.task.model.basis
        used = resources.profile(snapshot.network, basis).used(basis)
        for index, budget in enumerate(self.budgets):
            if self.caught[index] is None and budget.check(used).ok:
                self.caught[index] = snapshot

    def state(self) -> State:
        arrays = {f"mask/{name}": mask.cpu().numpy() for name, mask in self._masks.items()}
        values = []
        for index, caught in enumerate(self.caught):
            if caught is not None:
                arrays[f"caught/{index}"] = np.frombuffer(caught.network.to_proto().SerializeToString(), np.uint8)
            values.append(
                None if caught is None else {"kept": {k: list(v) for k, v in caught.kept.items()}, "sparsity": caught.sparsity}
            )
        return arrays, {"event": self._event, "caught": values}

    def restore(self, trainer: Trainer, saved: Saved) -> None:
        trainer.restore(saved.arrays, self.task.channels)
        masks = {name: value for name, value in saved.arrays.items() if name.startswith("mask/")}
        self._masks = {name.removeprefix("mask/"): trainer.tensor(value) for name, value in masks.items()}
        self._event = saved.values["event"]
        for index, told in enumerate(saved.values["caught"]):
            if told is not None:
                proto = ModelProto()
                proto.ParseFromString(saved.arrays[f"caught/{index}"].tobytes())
                kept = {name: tuple(indices) for name, indices in told["kept"].items()}
                self.caught[index] = Snapshot(
                    network.from_proto(proto, self.task.channels.network.path), kept, told["sparsity"]
                )


def vanishing(trainer: Trainer) -> list[tuple[str, Tensor]]:
    """The weights that may vanish, by name: those of every convolution and matrix product but the last, the classifier."""
    net = trainer.module.source
    names = [name for node in net.nodes for i, name in enumerate(node.inputs) if OPS[node.op].role(node, i) == "weight"]
    trained = dict(trainer.module.named_weights())
    return [(name, trained[name]) for name in dict.fromkeys(names[:-1]) if name in trained and name != names[-1]]
