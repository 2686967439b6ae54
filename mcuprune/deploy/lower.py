"""A network as a program: the one place where ONNX nodes become operators of TensorFlow Lite.

``lower`` takes a network with quantisers as it is, in memory or from a file. A float network is quantised for it as export
would: folded, in the scheme of ``export``, with one stand-in for each quantiser that calibration will find. So the operators
predicted for a float network are those of the file that is written from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
from onnx import TensorProto

from mcuprune.deploy import elementwise, moves, windows
from mcuprune.deploy.lowering import Lower, Lowering, bounds
from mcuprune.deploy.program import Program
from mcuprune.deploy.qdq import FIXED, QDQ_OPSET, Quantizer, Scheme, annotated, quantizer, raised, scheme, stores_bias
from mcuprune.errors import UnsupportedOperator
from mcuprune.graph.network import Network, Node, Stored, is_float
from mcuprune.operators.table import OPS, Dim, Mixer
from mcuprune.passes import batchnorm as folding

LOWERINGS: Mapping[str, Lower] = {
    "Abs": elementwise.activation("ABS"),
    "Add": elementwise.arithmetic,
    "AveragePool": windows.pool,
    "BatchNormalization": windows.batch_normalization,
    "Cast": moves.passing,
    "Clip": moves.clamp,
    "Concat": moves.concat,
    "Conv": windows.conv,
    "ConvTranspose": windows.conv_transpose,
    "DepthToSpace": moves.depth_to_space,
    "DequantizeLinear": moves.dequantize,
    "Div": elementwise.arithmetic,
    "Dropout": moves.passing,
    "Elu": elementwise.elu,
    "Flatten": moves.reshape,
    "Gather": moves.gather,
    "Gemm": windows.dense,
    "GlobalAveragePool": windows.global_pool,
    "GlobalMaxPool": windows.global_pool,
    "HardSigmoid": elementwise.hard_sigmoid,
    "HardSwish": elementwise.activation("HARD_SWISH"),
    "Identity": moves.passing,
    "LeakyRelu": elementwise.leaky_relu,
    "LogSoftmax": elementwise.softmax,
    "MatMul": windows.dense,
    "Max": elementwise.extremum,
    "MaxPool": windows.pool,
    "Min": elementwise.extremum,
    "Mul": elementwise.arithmetic,
    "Neg": elementwise.neg,
    "PRelu": elementwise.prelu,
    "Pad": moves.pad,
    "Pow": elementwise.pow_,
    "QuantizeLinear": moves.quantize,
    "ReduceMax": windows.reduce,
    "ReduceMean": windows.reduce,
    "ReduceMin": windows.reduce,
    "ReduceSum": windows.reduce,
    "Relu": moves.clamp,
    "Reshape": moves.reshape,
    "Resize": moves.resize,
    "Sigmoid": elementwise.activation("LOGISTIC"),
    "Slice": moves.slice_,
    "Softmax": elementwise.softmax,
    "SpaceToDepth": moves.depth_to_space,
    "Split": moves.split,
    "Squeeze": moves.reshape,
    "Sub": elementwise.arithmetic,
    "Sum": elementwise.sum_,
    "Swish": elementwise.swish,
    "Tanh": elementwise.activation("TANH"),
    "Transpose": moves.transpose,
    "Unsqueeze": moves.reshape,
}


def lower(net: Network, *, order: Sequence[str] | None = None, dim: Dim | None = None) -> Program:
    """The operators of TensorFlow Lite that a network becomes, batch 1, int8, channels last.

    order: node names in the order to run in; the network's own without it.
    dim: sizes of axes, integers by default; with functions of widths the program is one for every cut of the network that has
        the same views.

    Nothing is refused: a node that TensorFlow Lite Micro has no int8 kernel for becomes one operator that says why, and
    ``Program.check`` raises it.
    """
    if order is not None:
        by_name = {node.name: node for node in net.nodes}
        net = replace(net, nodes=tuple(by_name[name] for name in order))
    if any(node.op == "QuantizeLinear" for node in net.nodes):
        return Lowering(net, dim, LOWERINGS).run()
    quantised, origin = _with_stand_ins(net)
    return replace(Lowering(quantised, dim, LOWERINGS, origin).run(), measured=False)


def _with_stand_ins(net: Network) -> tuple[Network, dict[str, str]]:
    """A float network as export will write it, but for scales; new tensor -> the tensor of ``net`` that it is."""
    floats = {name: int(TensorProto.FLOAT) for name, dtype in net.dtypes.items() if is_float(dtype)}
    net = folding.folded(replace(net, dtypes={**net.dtypes, **floats}))
    with suppress(UnsupportedOperator):  # the lowering of the node in question says so
        net = raised(net, QDQ_OPSET)
    plan = scheme(net)
    return annotated(net, plan, _stand_ins(net, plan), lambda net, node: _stand_in_constants(net, node, plan))


def _stand_ins(net: Network, plan: Scheme) -> dict[str, Quantizer]:
    """A quantiser for each name of the scheme, no two alike but those that are fixed.

    Each holds what its tensors are known to lie between, so that what a Relu or Clip leaves to be clamped is what calibration
    leaves. Where one of them knows no limit, it reaches beyond the limits of the others, as its range may.
    """
    known = _limits(net)
    members: dict[str, list[tuple[float, float]]] = {}
    for tensor, name in plan.quantizer.items():
        members.setdefault(name, []).append(known[tensor])
    quantizers = {}
    for index, (name, limits) in enumerate(members.items()):
        if name in plan.fixed:
            quantizers[name] = plan.fixed[name]
            continue
        ends = [end for pair in limits for end in pair if np.isfinite(end)]
        beyond = 2 * max(map(abs, ends), default=0.0) + 1
        low, high = min(least for least, _ in limits), max(most for _, most in limits)
        q = quantizer(low if np.isfinite(low) else -beyond, high if np.isfinite(high) else beyond)
        quantizers[name] = Quantizer(q.scale * (1 + 1e-6 * index), q.zero_point)
    return quantizers


def _limits(net: Network) -> dict[str, tuple[float, float]]:
    """What each tensor is known to lie between whatever the data, but for zeros that are padded."""
    known = dict.fromkeys(net.inputs, (-np.inf, np.inf))
    for node in net.nodes:
        kind = OPS[node.op].scale(node, net)
        read = [_ends(net, known, name) for name in node.inputs if name]
        low, high = -np.inf, np.inf
        if kind in FIXED:
            low, high = FIXED[kind].range
        elif kind == "same" and read:
            low, high = read[0]
            if node.op == "Pad":
                low, high = min(low, float(node.get("value") or 0)), max(high, float(node.get("value") or 0))
        elif kind == "clamp":
            least, most = bounds(node)
            low, high = (float(min(max(end, least), most)) for end in read[0])
        elif OPS[node.op].numbers(node) != "new":
            low, high = min(end for end, _ in read), max(end for _, end in read)
        known.update((name, (low, high)) for name in node.outputs if name)
    return known


def _ends(net: Network, known: Mapping[str, tuple[float, float]], name: str) -> tuple[float, float]:
    """The limits of a tensor, or the extremes of a constant."""
    if name in known:
        return known[name]
    value = net.constants.get(name)
    return (-np.inf, np.inf) if value is None or not value.size else (float(value.min()), float(value.max()))


def _stand_in_constants(net: Network, node: Node, plan: Scheme) -> dict[int, Stored]:
    """How export stores the constants of a node, without their numbers."""
    entry = OPS[node.op]
    if isinstance(entry, Mixer) and net.is_constant(node.inputs[1]):
        if node.inputs[0] not in plan.quantizer:
            return {}
        stored = {1: windows.blank_weight(node, net)}
        scales = stored[1].scale.size
        bias = net.constants.get(node.inputs[2]) if len(node.inputs) > 2 else None
        if bias is not None and stores_bias(bias.size, scales):
            stored[2] = windows.blank(bias, np.int32, scales, 0)
        return stored
    data = [i for i in range(len(node.inputs)) if (node.name, i) in plan.data]
    return {i: windows.blank(net.constants[node.inputs[i]], np.int8, 1, 0) for i in data}
