"""Layers that have died begin anew.

A few channels and a Relu can die together: once what they give is zero for every example, no gradient reaches them or anything
before them, and a network without skips stays at chance for good. A MobileNetV1 whose first layers kept two and four channels
did so in one of three runs: the shift of a normalisation, which moves by plain momentum, ran far below zero while the learning
rate rose. Wide networks are safe, as some channel always lives.
"""

from __future__ import annotations

import torch

from mcuprune.graph.network import Network
from mcuprune.operators.table import OPS, Mixer
from mcuprune.train.module import Trainable

#: Steps between two looks: momentum may bring a layer back by itself, and a look costs a pass over all gradients.
EVERY = 32
#: The part of a training in which layers may begin anew: later there is no time left to learn.
UNTIL = 0.5


@torch.no_grad()
def revive(module: Trainable, optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    """Give the normalisations of dead layers scale 1 and shift 0, and forget the momentum of all that is dead.

    Dead is a trained constant whose whole gradient is exactly zero, while others have one. Nothing is done unless all weights
    that read the network's inputs are dead: then it learns nothing from them, while a branch beside a living one may rest.
    To be called between a backward pass and the optimizer's step. Returns the names of the nodes that begin anew, in the order
    of the network.
    """
    graded = {name: weight for name, weight in module.named_weights() if weight.grad is not None}
    dead = {name for name, weight in graded.items() if not weight.grad.any()}  # type: ignore[union-attr]
    first = _reading_inputs(module.source) & graded.keys()
    if not first or not first <= dead or len(dead) == len(graded):
        return ()
    nodes = [node for node in module.source.nodes if node.op == "BatchNormalization" and dead.issuperset(node.inputs[1:3])]
    for node in nodes:
        module.constant(node.inputs[1]).fill_(1.0)
        module.constant(node.inputs[2]).fill_(0.0)
    for name in dead if nodes else ():
        optimizer.state.pop(graded[name], None)
    return tuple(node.name for node in nodes)


def _reading_inputs(net: Network) -> set[str]:
    """Weights of the first convolutions and matrix products behind the network's inputs."""
    before_weights, weights = set(net.inputs), set()
    for node in net.nodes:
        if before_weights.isdisjoint(node.inputs):
            continue
        if isinstance(OPS[node.op], Mixer) and net.is_constant(node.inputs[1]):
            weights.add(node.inputs[1])
        else:
            before_weights.update(node.outputs)
    return weights
