"""A pruning method: cut at random, then train. Hooks on the one training loop."""

import json

import numpy as np

from mcuprune.cli import main
from mcuprune.costs import widths
from mcuprune.train import methods
from mcuprune.train.loop import Method
from mcuprune.train.trainer import Trainer


class Chance(Method):
    """Which channels stay is left to chance; how many, to uniform scaling. A baseline that any salience should beat."""

    def start(self, trainer: Trainer) -> None:
        """Called before the first step. ``task`` has the costs, the budget, the labelled network and the seed."""
        task = self.task
        chosen = widths.uniform(task.model, task.budget, task.multiple_of)
        draw = np.random.default_rng(task.seed)
        self.keep = task.channels.top(chosen, draw.random(task.channels.n_components + 1))
        trainer.shrink(self.keep)


# One row: --method chance.
methods.METHODS["chance"] = methods.Kind("channels by chance", Chance)

if __name__ == "__main__":
    words = "prune models/dscnn_digits.onnx --data digits --macs 50% --method chance --epochs 1 -o chance.onnx --report told"
    assert main(words.split()) == 0
    with open("told/report.json") as file:
        assert json.load(file)["method"] == "chance"
