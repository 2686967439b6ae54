"""What a network costs on a microcontroller: the face of this room, for all others.

A cost is written once, as arithmetic over the sizes of tensor axes (``nodes``). With integers it is the report (``profiles``);
with polynomials in group widths it is the budget (``model``), its value exact and its gradient at hand. ``rows`` has one object
for each resource, ``budgets`` the limits.
"""

from mcuprune.costs.basis import Basis, FlashModel, SramModel
from mcuprune.costs.budgets import Budget, Verdict, budget, least
from mcuprune.costs.functions import CostFunction
from mcuprune.costs.measured import Layer, Measured, Memory, Moment
from mcuprune.costs.model import CostModel
from mcuprune.costs.nodes import NodeCost, Terms, costs, macs
from mcuprune.costs.polynomials import Polynomial
from mcuprune.costs.profiles import Profile, in_order, profile
from mcuprune.costs.rows import PARAMS, RESOURCES, Additive, Resource, columns, totals
from mcuprune.operators.fusion import Buffers, buffers, is_bias

__all__ = [
    "PARAMS",
    "RESOURCES",
    "Additive",
    "Basis",
    "Budget",
    "Buffers",
    "CostFunction",
    "CostModel",
    "FlashModel",
    "Layer",
    "Measured",
    "Memory",
    "Moment",
    "NodeCost",
    "Polynomial",
    "Profile",
    "Resource",
    "SramModel",
    "Terms",
    "Verdict",
    "budget",
    "buffers",
    "columns",
    "costs",
    "in_order",
    "is_bias",
    "least",
    "macs",
    "profile",
    "totals",
]
