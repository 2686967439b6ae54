"""Pruning methods. One is a function ``prune(task, on_step) -> tuple[Candidate, ...]``; a new one is a file and a line here."""

from collections.abc import Mapping

from mcuprune.methods import differentiable, magnitude, uniform
from mcuprune.task import Method

METHODS: Mapping[str, Method] = {
    "differentiable": differentiable.prune,
    "magnitude": magnitude.prune,
    "uniform": uniform.prune,
}
