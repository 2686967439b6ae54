"""What a classifier answered before and after, as JSON: confusion matrices, and the examples whose class has changed."""

from __future__ import annotations

from typing import Any

import numpy as np

from mcuprune.result import Figures
from mcuprune.train.tasks.metrics import Answers

#: Of more classes than these a matrix is too large to store: then each class by itself, and the most frequent mistakes.
MOST_CLASSES = 64
_MISTAKES = 100
#: The most examples that are named one by one.
_EXAMPLES = 1000


def confusion(figures: Figures) -> dict[str, Any] | None:
    """Of each target (row) how often each answer (column): counts on the test set, None for what is no classifier.

    ``before``: the network as it came, in a session of onnxruntime without options; ``after``: the file that was written, int8
    as ONNX defines it. With more than ``MOST_CLASSES`` classes ``mistakes`` stands for the matrix: [target, answer, count].
    """
    before, after = figures.before.answers, figures.after.answers
    if before is None or after is None:
        return None
    return {"classes": len(before.counts), "before": _counted(before), "after": _counted(after)}


def _counted(answers: Answers) -> dict[str, Any]:
    counts = answers.counts
    hits = np.diag(counts)
    counted: dict[str, Any] = {
        "targets": counts.sum(1).tolist(),
        "named": counts.sum(0).tolist(),
        "right": hits.tolist(),
    }
    if len(counts) <= MOST_CLASSES:
        return {**counted, "counts": counts.tolist()}
    wrong = counts - np.diag(hits)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MISTAKES]
    rows, columns = np.unravel_index(order, wrong.shape)
    triples = [[int(row), int(column), int(wrong[row, column])] for row, column in zip(rows, columns, strict=True)]
    return {**counted, "mistakes": [triple for triple in triples if triple[2]]}


def changed(figures: Figures) -> dict[str, Any] | None:
    """Examples of the test set, by their index from 0, that the written file names another class for than the original.

    None for what doesn't name one class an example. ``examples`` has the first ones, those that became wrong before others.
    """
    before, after = figures.before.answers, figures.after.answers
    if before is None or after is None or before.named is None or after.named is None or before.targets is None:
        return None
    index = np.flatnonzero(before.named != after.named)
    was, now, target = before.named[index], after.named[index], before.targets[index]
    lost, gained = (was == target), (now == target)
    order = np.argsort(np.where(lost, 0, np.where(gained, 1, 2)), kind="stable")[:_EXAMPLES]
    return {
        "of": len(before.named),
        "count": len(index),
        "became_wrong": int(lost.sum()),
        "became_right": int(gained.sum()),
        "examples": [
            {"index": int(index[i]), "target": int(target[i]), "before": int(was[i]), "after": int(now[i])} for i in order
        ],
    }
