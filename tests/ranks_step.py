"""One rank of a training on several, or the only one: a few steps on a tiny network, and what came out as an archive.

``python tests/ranks_step.py FILE``; what makes it a rank stands in the environment, as torchrun sets it.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper

from mcuprune.channels.labelling import Channels, label
from mcuprune.channels.salience import salience
from mcuprune.data.sets import Split
from mcuprune.graph import network
from mcuprune.train import ranks
from mcuprune.train.fake_quant import QuantTrainable, calibrate
from mcuprune.train.methods.differentiable import task_loss
from mcuprune.train.module import Trainable
from mcuprune.train.trainer import Trainer

BATCH, EXAMPLES, CLASSES = 9, 36, 4


def tiny() -> Channels:
    """Two convolutions with BatchNormalization, and a classifier of what their channels are on average."""
    draw = np.random.default_rng(3)
    constants = {
        "w": draw.standard_normal((6, 2, 3, 3)) / 4,
        "v": draw.standard_normal((5, 6, 3, 3)) / 7,
        "fc": draw.standard_normal((5, CLASSES)) / 2,
        "c": draw.standard_normal(CLASSES),
    }
    nodes = []
    source = "x"
    for index, (weight, width) in enumerate((("w", 6), ("v", 5))):
        names = [f"{part}{index}" for part in ("gain", "shift", "mean", "variance")]
        values = (draw.uniform(0.5, 2, width), draw.standard_normal(width), np.zeros(width), np.ones(width))
        constants |= dict(zip(names, values, strict=True))
        nodes.append(helper.make_node("Conv", [source, weight], [f"a{index}"], f"conv{index}", pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("BatchNormalization", [f"a{index}", *names], [f"b{index}"], f"norm{index}"))
        nodes.append(helper.make_node("Relu", [f"b{index}"], [f"r{index}"], f"relu{index}"))
        source = f"r{index}"
    nodes.append(helper.make_node("GlobalAveragePool", [source], ["p"], "pool"))
    nodes.append(helper.make_node("Flatten", ["p"], ["f"], "flat"))
    nodes.append(helper.make_node("Gemm", ["f", "fc", "c"], ["y"], "gemm"))
    drawn = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 5, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", CLASSES])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    return label(network.from_proto(helper.make_model(drawn, opset_imports=[helper.make_opsetid("", 17)]), "tiny.onnx"))


def split() -> Split:
    draw = np.random.default_rng(4)
    labels = np.arange(EXAMPLES) % CLASSES
    x = draw.standard_normal((EXAMPLES, 2, 5, 5)) + labels[:, None, None, None] * 0.3
    return Split(x.astype(np.float32), labels)


def shifted(x: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Every example by a number of its own."""
    return np.asarray(x + random.standard_normal((len(x), 1, 1, 1)).astype(np.float32) * 0.1)


def trained(make: type[Trainable], steps: int, precision: str = "float32") -> dict[str, np.ndarray]:
    """All that the training has become, its losses, and the gradient that widths would follow."""
    channels, data = tiny(), split()
    teacher = np.random.default_rng(5).standard_normal((EXAMPLES, CLASSES)).astype(np.float32)
    settings = {
        "batch": BATCH,
        "lr": 0.05,
        "weight_decay": 5e-4,
        "seed": 1,
        "make": make,
        "augment": shifted,
        "precision": precision,
    }
    trainer = Trainer(channels, data, total=20, answers=teacher, **settings)  # type: ignore[arg-type]
    if isinstance(trainer.module, QuantTrainable):
        calibrate(trainer.module, [(data.x,)])
    losses = [trainer.train_step() for _ in range(steps)]
    scores = salience(trainer.module.channels, trainer.module.network())
    keep = channels.keep_all()
    keep[[1, 8]] = False
    gradient, loss = task_loss(trainer, keep, scores, data.x[:10], data.y[:10])
    found = trainer.state() | {"losses": np.array(losses), "gradient": gradient, "loss": np.array(loss)}
    found["accuracy"] = np.array(trainer.accuracy(replace(data)))
    trainer.shrink(keep)
    ranks.refuse_drift(trainer.step, trainer.learned)
    found["losses of the cut"] = np.array([trainer.train_step() for _ in range(2)])
    return found


def both() -> dict[str, np.ndarray]:
    """Of a float training and of a fake-quantised one."""
    parts = {"float": trained(Trainable, 6), "int8": trained(QuantTrainable, 3)}
    return {f"{kind} {name}": value for kind, found in parts.items() for name, value in found.items()}


def halved() -> dict[str, np.ndarray]:
    """Of a training in lower precision: its losses and its weights."""
    found = trained(Trainable, 3, "bfloat16")
    return {f"half {name}": value for name, value in found.items()}


def main() -> None:
    torch.set_num_threads(1)
    with ranks.joined(60):
        found = both() | halved()
        if ranks.size() == 2:
            try:  # of two ranks with other numbers, both say so
                ranks.refuse_drift(7, lambda: {"w": np.array([ranks.part(2).start])})
            except RuntimeError:
                found["drift"] = np.array(1)
        np.savez(f"{sys.argv[1]}-{ranks.part(ranks.size()).start}.npz", **found)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
