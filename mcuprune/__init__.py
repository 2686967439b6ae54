"""mcuprune makes a convolutional network in an ONNX file fit a microcontroller.

    >>> import mcuprune
    >>> net = mcuprune.load("models/resnet8_digits.onnx")
    >>> cost = mcuprune.profile(net)
    >>> cost.sram, cost.flash, cost.macs
    (12288, 79840, 3052160)
    >>> mcuprune.check(net, mcuprune.Budget(sram="64KB", macs="10M")).ok
    True

    result = mcuprune.prune(net, mcuprune.Budget(macs="50%"), data="digits", seed=0)
    result.network, result.accuracy_int8
    mcuprune.export(result.network, "net.tflite")
    mcuprune.verify(result.network).ok

Importing the package imports none of its modules: a name here brings what it needs when it is first used, and only what trains
or runs a network brings torch or onnxruntime.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcuprune.asking import Callback as Callback
    from mcuprune.asking import prune as prune
    from mcuprune.channels.labelling import Group as Group
    from mcuprune.costs.resources import Profile as Profile
    from mcuprune.costs.resources import Verdict as Verdict
    from mcuprune.data.sets import Arrays as Arrays
    from mcuprune.data.sets import Dataset as Dataset
    from mcuprune.errors import BudgetError as BudgetError
    from mcuprune.errors import DataError as DataError
    from mcuprune.errors import McupruneError as McupruneError
    from mcuprune.errors import MissingExtra as MissingExtra
    from mcuprune.errors import ModelError as ModelError
    from mcuprune.errors import OutputError as OutputError
    from mcuprune.errors import UnsupportedOperator as UnsupportedOperator
    from mcuprune.errors import UsageError as UsageError
    from mcuprune.face import Budget as Budget
    from mcuprune.face import check as check
    from mcuprune.face import export as export
    from mcuprune.face import groups as groups
    from mcuprune.face import load as load
    from mcuprune.face import profile as profile
    from mcuprune.face import verify as verify
    from mcuprune.graph.network import Network as Network
    from mcuprune.portfolio.serving import Portfolio as Portfolio
    from mcuprune.pruner import Pruner as Pruner
    from mcuprune.report.drawings import Groups as Groups
    from mcuprune.result import Result as Result
    from mcuprune.run.verification import Verification as Verification
    from mcuprune.train.task import Step as Step

__version__ = "0.1.0"

#: Module -> the names that the package takes from it.
_HOMES = {
    "asking": ("Callback", "prune"),
    "channels.labelling": ("Group",),
    "data.sets": ("Arrays", "Dataset"),
    "errors": (
        "BudgetError",
        "DataError",
        "McupruneError",
        "MissingExtra",
        "ModelError",
        "OutputError",
        "UnsupportedOperator",
        "UsageError",
    ),
    "face": (
        "Budget",
        "check",
        "export",
        "groups",
        "load",
        "profile",
        "verify",
    ),
    "graph.network": ("Network",),
    "portfolio.serving": ("Portfolio",),
    "pruner": ("Pruner",),
    "result": ("Result",),
    "costs.resources": ("Profile", "Verdict"),
    "report.drawings": ("Groups",),
    "train.task": ("Step",),
    "run.verification": ("Verification",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted([*_HOME_OF, "__version__"])


if not TYPE_CHECKING:  # a type checker would take any name for one of the package's

    def __getattr__(name: str) -> Any:
        """Import what a public name needs, once. Raises AttributeError for any other name."""
        if name not in _HOME_OF:
            raise AttributeError(f"module 'mcuprune' has no attribute {name!r}")
        value = getattr(import_module(f"mcuprune.{_HOME_OF[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
