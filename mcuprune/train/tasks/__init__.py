"""Tasks: what a network is for. A kind a file, each with its loss, its check of targets, its figure and its name in reports.

``TASKS`` has them in the order in which ``--task auto`` tries them: the first whose targets fit an output is taken.
"""

from __future__ import annotations

from collections.abc import Mapping

from mcuprune.train.tasks.classify import Classify, Segment
from mcuprune.train.tasks.distill import Distill
from mcuprune.train.tasks.kind import Kind
from mcuprune.train.tasks.regress import Regress

TASKS: Mapping[str, type[Kind]] = {"classify": Classify, "segment": Segment, "regress": Regress, "distill": Distill}
