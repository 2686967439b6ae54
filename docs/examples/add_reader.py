"""Data of your own. Without touching mcuprune: ``--data add_reader:rings``. With a name for everybody: a row of DATASETS."""

from collections.abc import Mapping

import numpy as np

from mcuprune.data import loading as data


def rings(seed: int = 0) -> Mapping[str, np.ndarray]:
    """Images (1, 16, 16) of ten sizes of rings. Any source will do: a folder, a database, another library."""
    draw = np.random.default_rng(seed)
    distance = np.hypot(*(np.mgrid[:16, :16] - 7.5))

    def examples(count: int) -> tuple[np.ndarray, np.ndarray]:
        y = np.arange(count) % 10
        x = (np.abs(distance - y[:, None, None] * 0.8) < 1) + draw.normal(0, 0.3, (count, 16, 16))
        return x[:, None].astype(np.float32), y

    (x_train, y_train), (x_test, y_test) = examples(200), examples(50)
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


if __name__ == "__main__":
    loaded = data.load("add_reader:rings", input_shape=(1, 16, 16), n_classes=10, seed=0)
    assert len(loaded.train.y) + len(loaded.val.y) == 200, "a part was held out for validation"
