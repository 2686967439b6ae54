"""A format of files: LIBSVM's, one line an example, its label and then ``index:value`` for each value that isn't 0."""

import math
from pathlib import Path

import numpy as np

from mcuprune.data.raw import Asked, Part, Raw, Reader
from mcuprune.data.readers.table import READERS
from mcuprune.errors import DataError


def read(path: Path, asked: Asked) -> Raw:
    """Indices count from 1, in the order in which the model's input has its numbers. Without a test part it is held out."""
    lines = path.read_text().splitlines()
    x, y = np.zeros((len(lines), math.prod(asked.shape)), np.float32), np.zeros(len(lines), np.int64)
    try:
        for row, line in enumerate(lines):
            label, *values = line.split()
            y[row] = int(label)
            for index, value in (pair.split(":") for pair in values):
                x[row, int(index) - 1] = float(value)
    except (ValueError, IndexError) as error:
        raise DataError(f"{path}: line {row + 1} is no example for an input of {asked.shape} ({error})") from None
    return Raw(str(path), {"train": Part((x.reshape(-1, *asked.shape),), (y,))}, reader="libsvm")


# One row; the first reader that a path matches reads it.
READERS.append(Reader("libsvm", "a .libsvm of labels and index:value pairs", lambda path: path.suffix == ".libsvm", read))


def rings(path: str) -> None:
    """Write 200 images of 16 x 16 pixels, rings of ten sizes, as such a file."""
    draw, distance = np.random.default_rng(0), np.hypot(*(np.mgrid[:16, :16] - 7.5)).ravel()
    with open(path, "w") as file:
        for label in np.arange(200) % 10:
            ring = np.flatnonzero(abs(distance - label * 0.8) < 1)
            file.write(" ".join([f"{label}", *(f"{index + 1}:{draw.normal(1, 0.3):.3f}" for index in ring)]) + "\n")


if __name__ == "__main__":
    from mcuprune.cli import main

    rings("rings.libsvm")
    assert main(["data", "models/resnet8_digits.onnx", "rings.libsvm"]) == 1, "a model that was trained on digits"
