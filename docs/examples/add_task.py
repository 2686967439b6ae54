"""A kind of task: classes that are grades in an order, where the wrong neighbour is a smaller mistake than a far one."""

import json

from torch import Tensor
from torch.nn import functional

from mcuprune.train.tasks import TASKS
from mcuprune.train.tasks.classify import Classify
from mcuprune.train.tasks.metrics import Errors, Tally


class Grade(Classify):
    """One of several classes in their order. Targets, teacher and answers are those of ``Classify``."""

    name = "grade"
    title = "grades in order"

    def loss(self, answer: Tensor, target: Tensor, smoothing: float) -> Tensor:
        """The squared earth mover's distance between shares of classes (Hou et al. 2016, arXiv 1611.05916)."""
        wanted = functional.one_hot(target, self.classes).to(answer.dtype)
        apart = answer.softmax(1).cumsum(1) - wanted.cumsum(1)
        return apart.square().sum(1).mean()

    def tally(self) -> Tally:
        """The figure: by how many grades an answer is wrong, on average."""
        return Errors()


# One row: --task grade. It comes before the command line is imported, which reads the names of tasks once.
TASKS["grade"] = Grade

if __name__ == "__main__":
    from mcuprune.cli import main

    words = "prune models/dscnn_digits.onnx --data digits --macs 60% --task grade --epochs 2 -o grade.onnx --report told"
    assert main(words.split()) == 0
    with open("told/report.json") as file:
        metric = json.load(file)["metric"]
    assert (metric["task"], metric["name"]) == ("grade", "mae")
    assert metric["after_int8"]["value"] < 2.5, "a constant answer is wrong by 2.5 grades of ten"
