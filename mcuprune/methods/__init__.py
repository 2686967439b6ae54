"""Pruning methods by name. One is a class of hooks on the training loop (``loop.Method``); a new one is a file and a line."""

from collections.abc import Callable, Mapping

from mcuprune.loop import Method
from mcuprune.methods.differentiable import Differentiable
from mcuprune.methods.magnitude import Magnitude
from mcuprune.methods.uniform import Uniform
from mcuprune.task import Task

METHODS: Mapping[str, Callable[[Task], Method]] = {
    "differentiable": Differentiable,
    "magnitude": Magnitude,
    "uniform": Uniform,
}
