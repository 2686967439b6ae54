"""The parts of a network: operators, and constants as a file stores them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from onnx import TensorProto

Shape = tuple[int, ...]

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)


@dataclass(frozen=True)
class Node:
    """One operator of the graph.

    inputs: tensor names; ``""`` is an absent optional input. Parameters are not among them.
    attrs: attributes and parameters under ONNX's names: ints, floats, strings, tuples of them, or a numpy array.
    origins: for a parameter that the file keeps in a constant, that constant's name.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)

    def with_attrs(self, **attrs: Any) -> Node:
        """The same node with some attributes set anew."""
        return replace(self, attrs={**self.attrs, **attrs})


@dataclass(frozen=True)
class Stored:
    """A constant as a file stores it: value = scale * integers, one scale or one for each index along ``axis``.

    integers: int8 or int32. scale: float32 (1,) or (channels,). value: float32, what the network computes with.
    """

    integers: np.ndarray
    scale: np.ndarray
    axis: int
    value: np.ndarray | None = None


def is_float(dtype: int) -> bool:
    """Whether an ONNX element type is a floating-point one."""
    return dtype in _FLOATS
