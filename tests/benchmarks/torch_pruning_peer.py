"""Torch-Pruning (Fang et al., arXiv 2301.12900) as a method of the tool, so that the benchmark can hold it to the same terms.

Torch-Pruning says which channels go together (its dependency graph), which matter least (its importances), and takes them out
(its ``group.prune``), on the Conv2d, BatchNorm2d and Linear modules that onnx2torch makes of the task's network. Data, batches,
augmentation, optimiser, learning rate and number of epochs are those of the tool's own methods, for it is the tool's
``Trainer`` that trains between two cuts; budgets are counted by the tool's cost model.

A stock ``pruner.step()`` knows neither SRAM nor flash, so the loop around it is the benchmark's. Ten cuts between a quarter and
half of the steps (of a trained network: over the first half) bring every limited resource to its limit geometrically; each
takes channel by channel and stops at its target. A setting is an importance and a scope:

* ``bn``, |gamma| of BatchNormalization, with the sparsity term of network slimming in the gradient until the last cut;
  ``mag``, the sum of squares of the weights that go with a channel. Both are means over the layers of a group, and relative
  to the group's mean.
* ``local``, one ratio for all groups; ``mix``, the least important channel anywhere, no group below half of its uniform width.
  Where SRAM alone is over, only channels alive in steps that need more than the target go.

A cut makes new parameters, so momentum starts anew after it, as it would for a user of Torch-Pruning.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
import torch_pruning
from torch import nn

from mcuprune.channels.labelling import Channels
from mcuprune.costs import widths as allocation
from mcuprune.costs.resources import Budget
from mcuprune.operators.fusion import buffers
from mcuprune.schedule import search as memory
from mcuprune.train.converted import converter
from mcuprune.train.loop import Method
from mcuprune.train.methods import Kind
from mcuprune.train.task import Task
from mcuprune.train.trainer import Trainer

Importance = Callable[[Any], torch.Tensor | None]

IMPORTANCES: Mapping[str, Callable[[], Importance]] = {
    "bn": torch_pruning.importance.BNScaleImportance,
    "mag": partial(torch_pruning.importance.GroupMagnitudeImportance, p=2),
}
#: The subgradient of the sparsity term of network slimming (Liu et al. 2017, section 4.3: lambda of 1e-4 or 1e-5).
_SLIMMING = 1e-4
_START, _STOP, _EVENTS = 0.25, 0.5, 10
#: Where modules keep the constants that a node reads, from its second input on.
_ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "Conv": ("weight", "bias"),
    "Gemm": ("weight", "bias"),
    "BatchNormalization": ("weight", "bias", "running_mean", "running_var"),
}


class Peer:
    """A network in Torch-Pruning's hands. Selections are over the components of the whole network, as everywhere.

    module: the torch network, cut further by every ``cut``.
    """

    def __init__(self, channels: Channels) -> None:
        net = channels.network
        self._channels = channels
        self.module: nn.Module = converter()(net.to_proto(), attach_onnx_mapping=True)  # type: ignore[call-arg]
        made = {m.onnx_mapping.outputs[0]: m for m in self.module.children() if hasattr(m, "onnx_mapping")}
        self._homes: dict[str, tuple[nn.Module, str]] = {}
        for node in net.nodes:
            for attribute, name in zip(_ATTRIBUTES.get(node.op, ()), node.inputs[1:], strict=False):
                self._homes[name] = (made[node.outputs[0]], attribute)
        assert all(np.array_equal(value, net.constants[name]) for name, value in self.constants().items())
        example = torch.zeros(1, *net.shapes[net.inputs[0]][1:])
        self._graph = torch_pruning.DependencyGraph().build_dependency(self.module, example)
        self._roots = [(root, prune, ids) for root, prune, ids in self._found_roots() if ids is not None]
        covered = sorted(component for _, _, ids in self._roots for component in ids.tolist())
        assert covered == list(range(1, channels.n_components + 1)), "Torch-Pruning finds other groups than the tool"

    def _found_roots(self) -> list[tuple[nn.Module, Any, np.ndarray | None]]:
        """What each group of Torch-Pruning starts from, how it is pruned, and the component of each of its channels.

        No components where the tool lets no channel go, as of the classes.
        """
        names = {module: name for name, (module, attribute) in self._homes.items() if attribute == "weight"}
        found: list[tuple[nn.Module, Any, np.ndarray | None]] = []
        for group in self._graph.get_all_groups():
            root = group[0].dep.target.module
            slots = self._channels.slots_of.get(names[root], ())
            found.append((root, group[0].dep.handler, next((slot.components for slot in slots if slot.axis == 0), None)))
        return found

    def load(self, constants: Mapping[str, np.ndarray]) -> None:
        """Take up the values of a network of the same cut."""
        with torch.no_grad():
            for name, (module, attribute) in self._homes.items():
                tensor = getattr(module, attribute)
                assert tensor.shape == constants[name].shape, name
                tensor.copy_(torch.from_numpy(np.array(constants[name])))

    def constants(self) -> dict[str, np.ndarray]:
        """The values of the modules, under the names that constants have in the ONNX network."""
        return {name: getattr(module, key).detach().numpy().copy() for name, (module, key) in self._homes.items()}

    def scores(self, importance: Importance, keep: np.ndarray) -> np.ndarray:
        """float (n_components + 1,): how much each component that is still there matters; infinite for all others."""
        found = np.full(len(keep), np.inf)
        for root, prune, ids in self._roots:
            there = ids[keep[ids]]
            of_group = importance(self._graph.get_pruning_group(root, prune, list(range(len(there)))))
            assert of_group is not None, "a group without BatchNormalization"
            found[there] = of_group.numpy()
        return found

    def cut(self, keep: np.ndarray, fewer: np.ndarray) -> None:
        """From the selection ``keep`` to ``fewer``."""
        for root, prune, ids in self._roots:
            gone = np.flatnonzero(~fewer[ids[keep[ids]]])
            if len(gone):
                group = self._graph.get_pruning_group(root, prune, gone.tolist())
                assert self._graph.check_pruning_group(group)
                group.prune()


class TorchPruning(Method):
    """Train, cut in events, train on; the widths hold the budget.

    trained: whether the network comes trained, so that there is nothing to wait for before the first cut.
    """

    def __init__(self, task: Task, *, importance: str, scope: str, trained: bool) -> None:
        assert task.multiple_of == 1
        super().__init__(task)
        self._peer = Peer(task.channels)
        self._score, self._fewer_of = IMPORTANCES[importance](), SCOPES[scope]
        self._slims, self._trained = importance == "bn", trained

    def start(self, trainer: Trainer) -> None:
        start, self._stop = 0 if self._trained else trainer.length.at(_START), max(1, trainer.length.at(_STOP))
        self._events = [start + round((self._stop - start) * k / _EVENTS) for k in range(1, _EVENTS + 1)]
        if self._slims:
            _slim(trainer)

    def before_step(self, trainer: Trainer) -> None:
        self._passed = sum(event <= trainer.position for event in self._events)

    def after_step(self, trainer: Trainer) -> bool:
        passed = sum(event <= trainer.position for event in self._events)
        if passed == self._passed:
            return False
        self.last_cut = trainer.step
        task, peer, model = self.task, self._peer, self.task.model
        share = passed / _EVENTS
        peer.load(trainer.module.network().constants)
        goal = task.budget.approached(model.at(model.full), share)
        fewer = self._fewer_of(task, self.keep, peer.scores(self._score, self.keep), goal)
        peer.cut(self.keep, fewer)
        self.keep = fewer
        channels = task.channels.cut_channels(fewer)
        channels = channels.with_network(channels.network.with_constants(peer.constants()))
        trainer.restore({"steps": trainer.state()["steps"]}, channels)
        if self._slims and trainer.position < self._stop:
            _slim(trainer)
        return True


def _slim(trainer: Trainer) -> None:
    """Pull every scale of BatchNormalization towards zero in each step, until the trainer's module is replaced."""
    scales = {node.inputs[1] for node in trainer.module.source.nodes if node.op == "BatchNormalization"}
    for name, scale in trainer.module.named_weights():
        if name in scales:
            scale.register_hook(lambda gradient, scale=scale: gradient + _SLIMMING * torch.sign(scale.detach()))


def _local(task: Task, keep: np.ndarray, scores: np.ndarray, goal: Budget) -> np.ndarray:
    """``keep`` at the largest uniform widths that hold ``goal``, without the least important channels of each group."""
    widths = np.minimum(allocation.uniform(task.model, goal), task.channels.widths(keep))
    return task.channels.top(widths, np.where(keep, scores, -np.inf))


def _mix(task: Task, keep: np.ndarray, scores: np.ndarray, goal: Budget) -> np.ndarray:
    """``keep`` without the fewest of the least important channels anywhere that brings the network to ``goal``."""
    channels, model = task.channels, task.model
    floor = np.maximum(model.least, allocation.uniform(model, task.budget) // 2)
    owner = np.full(channels.n_components + 1, -1)
    for index, group in enumerate(channels.groups):
        owner[list(group.components)] = index
    order = [component for component in np.argsort(scores, kind="stable") if owner[component] >= 0]
    found = keep.copy()
    while over := goal.check(model.at(channels.widths(found))).excess:
        narrowable = channels.widths(found) > floor
        if list(over) == ["sram"] and (there := narrowable & _above(channels, found, goal.limits["sram"])).any():
            narrowable = there
        found[next(component for component in order if found[component] and narrowable[owner[component]])] = False
    return found


def _above(channels: Channels, keep: np.ndarray, limit: int) -> np.ndarray:
    """bool (groups,): which groups have channels alive while a step needs more than ``limit`` bytes."""
    plan = buffers(channels.cut(keep))
    steps = memory.schedule(plan.graph).steps
    alive = {plan.tensors[buffer] for step in steps if step.bytes > limit for buffer in step.buffers}
    touched = np.zeros(channels.n_components + 1, dtype=bool)
    for tensor in alive & channels.along.keys():
        touched[channels.along[tensor].labels] = True
    return np.array([touched[list(group.components)].any() for group in channels.groups])


#: Scope -> (task, selection, importance of each component, goal) -> the selection after an event.
SCOPES: Mapping[str, Callable[[Task, np.ndarray, np.ndarray, Budget], np.ndarray]] = {"local": _local, "mix": _mix}

NAMES = tuple(f"tp-{importance}-{scope}" for importance, scope in itertools.product(IMPORTANCES, SCOPES))


def methods(*, trained: bool) -> dict[str, Kind]:
    """Torch-Pruning's settings as methods of the tool, by name."""
    settings = itertools.product(IMPORTANCES, SCOPES)
    found = [partial(TorchPruning, importance=importance, scope=scope, trained=trained) for importance, scope in settings]
    return {name: Kind("Torch-Pruning", make) for name, make in zip(NAMES, found, strict=True)}
