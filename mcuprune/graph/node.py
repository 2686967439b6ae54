"""The parts of a network: operators, and constants as a file stores them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any

import numpy as np
from onnx import TensorProto

from mcuprune.immutable import immutable

Shape = tuple[int, ...]

#: What an attribute or parameter is where a node doesn't say, for all operators that have it; None where it follows from shapes
#: or the opset (``operators.attributes`` says how) or where nothing is bounded.
_DEFAULTS: Mapping[str, Any] = {
    **dict.fromkeys(("axes", "dilations", "max", "min", "output_padding", "output_shape", "pads", "perm", "roi")),
    **dict.fromkeys(("scales", "sizes", "steps", "strides")),
    "allowzero": 0,
    "antialias": 0,
    "approximate": "none",
    "auto_pad": "NOTSET",
    "block_size": 0,
    "coordinate_transformation_mode": "half_pixel",
    "count_include_pad": 0,
    "cubic_coeff_a": -0.75,
    "epsilon": 1e-5,
    "exclude_outside": 0,
    "gamma": 1.05070102214813232421875,
    "group": 1,
    "keep_aspect_ratio_policy": "stretch",
    "keepdims": 1,
    "nearest_mode": "round_prefer_floor",
    "noop_with_empty_axes": 0,
    "p": 2,
    "round_mode": "up",
    "saturate": 1,
    "stash_type": 1,
    "training_mode": 0,
    "transA": 0,
    "transB": 0,
    "value": 0.0,
}
#: The same for attributes whose default is another for each operator.
_DEFAULTS_OF_OPERATORS: Mapping[str, Mapping[str, Any]] = {
    "alpha": {
        "Elu": 1.0,
        "Gemm": 1.0,
        "HardSigmoid": 0.2,
        "LeakyRelu": 0.01,
        "Selu": 1.67326319217681884765625,
        "Swish": 1.0,
        "ThresholdedRelu": 1.0,
    },
    "axis": {
        "ArgMax": 0,
        "ArgMin": 0,
        "DequantizeLinear": 1,
        "Gather": 0,
        "Hardmax": None,
        "LayerNormalization": -1,
        "LogSoftmax": None,
        "LpNormalization": -1,
        "QuantizeLinear": 1,
        "Softmax": None,
        "Split": 0,
        "TopK": -1,
    },
    "beta": {"Gemm": 1.0, "HardSigmoid": 0.5},
    "mode": {"DepthToSpace": "DCR", "Pad": "constant", "Resize": "nearest", "SpaceToDepth": "DCR", "Upsample": "nearest"},
}

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)


def default(op: str, name: str) -> Any:
    """What an operator's attribute or parameter is where a node doesn't say. Raises KeyError for one that it has to say."""
    return _DEFAULTS_OF_OPERATORS[name][op] if name in _DEFAULTS_OF_OPERATORS else _DEFAULTS[name]


@immutable
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

    def get(self, name: str) -> Any:
        """An attribute or parameter, its ``default`` where the node doesn't say."""
        return self.attrs[name] if name in self.attrs else default(self.op, name)

    def with_attrs(self, **attrs: Any) -> Node:
        """The same node with some attributes set anew."""
        return replace(self, attrs={**self.attrs, **attrs})


@immutable
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
