"""Pruning methods by name. One is a class of hooks on the training loop (``loop.Method``); a new one is a file and a line."""

from collections.abc import Callable, Mapping

from mcuprune.train.loop import Method
from mcuprune.train.methods.at_init import AtInit
from mcuprune.train.methods.differentiable import Differentiable
from mcuprune.train.methods.magnitude import Magnitude
from mcuprune.train.methods.uniform import Uniform
from mcuprune.train.task import Task

METHODS: Mapping[str, Callable[[Task], Method]] = {
    "differentiable": Differentiable,
    "magnitude": Magnitude,
    "uniform": Uniform,
    "at-init": AtInit,
}
