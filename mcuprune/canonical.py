"""A network made fit for pruning: float32, without quantisers, free of a baked-in batch; and proof that it still computes
the same.

Each pass is run and compared with the network before it on random inputs, at batch 1 and 3, in onnxruntime or, where that
isn't installed, in ONNX's reference implementation. A pass that changes an output is left out, and a note says so. What
``network.load`` settles on its own (constants, identities, integer operators) isn't done again here. Names, metadata, opset,
declared inputs and outputs are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper

from mcuprune.errors import ModelError
from mcuprune.network import Network, Node, is_float, shapes_at_batch

#: The batch at which a network must still give what single examples give.
_BATCH = 3
_FLOAT = int(TensorProto.FLOAT)


def canonical(net: Network) -> tuple[Network, tuple[str, ...]]:
    """The network ready to be labelled, trained and cut, and notes for the user on what was left as it is."""
    notes: list[str] = []
    net = replace(net, stored={}) if net.stored else net  # cuts and training change the numbers, not the integers behind them
    examples = _examples(net)
    for step in _PASSES:
        changed = step.apply(net)
        if changed is None:
            continue
        difference = _difference(net, changed, examples)
        if difference <= step.tolerance:
            net = changed
        else:
            notes.append(f"{net.path}: {step.title} would change an output by {difference:.2g} of its size; left as it is")
    stuck = batch_fixed(net)
    if stuck:
        notes.append(stuck)
    return net, tuple(notes)


# ---------------------------------------------------------------------------------------------------------------- passes


def single_precision(net: Network) -> Network | None:
    """All floats as float32; inputs and outputs of another float type are cast at the border. None where all are."""
    others = {name for name, dtype in net.dtypes.items() if is_float(dtype) and dtype != _FLOAT}
    if not others:
        return None
    constants = {name: value.astype(np.float32) if name in others else value for name, value in net.constants.items()}
    inputs = {name: f"{name}/float32" for name in net.inputs if name in others}
    outputs = {name: f"{name}/float32" for name in net.outputs if name in others}
    renamed = {**inputs, **outputs}
    nodes = [Node(f"{new}/Cast", "Cast", (old,), (new,), {"to": _FLOAT}) for old, new in inputs.items()]
    for node in net.nodes:
        attrs = dict(node.attrs)
        if node.op == "Cast" and is_float(attrs["to"]):
            attrs["to"] = _FLOAT
        nodes.append(replace(_renamed(node, renamed), attrs=attrs))
    nodes += [Node(f"{new}/Cast", "Cast", (new,), (old,), {"to": net.dtypes[old]}) for old, new in outputs.items()]
    return _rebuilt(net, nodes, constants)


def dequantized(net: Network) -> Network | None:
    """Without quantisers: each leaves the Clip that its range implies. None where there are none.

    A quantiser folds the activation before it into its range, so that taking it out without a trace would be wrong.
    """
    if not any(node.op == "QuantizeLinear" for node in net.nodes):
        return None
    floated: dict[str, tuple[float, float]] = {}  # tensor that held integers -> their scale and zero point
    same: dict[str, str] = {}
    nodes: list[Node] = []
    for node in net.nodes:
        scales = [net.constants[name] for name in node.inputs[1:3] if net.is_constant(name)]
        if node.op == "QuantizeLinear" and scales and all(value.size == 1 for value in scales):
            scale, zero = float(scales[0].item()), float(scales[1].item()) if len(scales) > 1 else 0.0
            limits = np.iinfo(helper.tensor_dtype_to_np_dtype(net.dtypes[node.outputs[0]]))
            bounds = {"min": (limits.min - zero) * scale, "max": (limits.max - zero) * scale}
            source = same.get(node.inputs[0], node.inputs[0])
            if node.outputs[0] in net.outputs:
                nodes.append(_renamed(node, same))
                continue
            if _before_bias(net, node):
                same[node.outputs[0]] = source  # no activation hides in this range
            else:
                nodes.append(Node(node.name, "Clip", (source,), node.outputs, bounds))
            floated[node.outputs[0]] = (scale, zero)
        elif node.op == "DequantizeLinear" and node.inputs[0] in floated:
            source = same.get(node.inputs[0], node.inputs[0])
            if node.outputs[0] in net.outputs:
                nodes.append(Node(node.name, "Identity", (source,), node.outputs))
            else:
                same[node.outputs[0]] = source
        else:
            passing = [floated[name] for name in node.inputs if name in floated]
            if passing:
                for output in node.outputs:
                    floated[output] = passing[0]
                if node.op == "Pad" and "value" in node.attrs:
                    node = node.with_attrs(value=(float(node.attrs["value"]) - passing[0][1]) * passing[0][0])
            nodes.append(_renamed(node, same))
    return _rebuilt(net, nodes, net.constants)


def _before_bias(net: Network, quantizer: Node) -> bool:
    """Whether a quantiser stands between a matrix product or convolution and the Add of its bias."""
    maker = net.producer.get(quantizer.inputs[0])
    reader = net.sole_consumer(quantizer.outputs[0])
    add = reader and net.sole_consumer(reader.outputs[0])
    return bool(
        maker
        and maker.op in ("Conv", "ConvTranspose", "Gemm", "MatMul")
        and add
        and add.op == "Add"
        and any(map(net.is_constant, add.inputs))
    )


def scales_for_sizes(net: Network) -> Network | None:
    """Every Resize by factors instead of by sizes, which would fix the batch. None where none can be changed."""
    nodes = []
    for node in net.nodes:
        before, after = net.shapes.get(node.inputs[0], ()), net.shapes.get(node.outputs[0], ())
        if (
            node.op == "Resize"
            and node.attrs.get("sizes")
            and node.attrs.get("keep_aspect_ratio_policy", "stretch") == "stretch"
        ):
            axes = node.attrs.get("axes") or range(len(before))
            scales = tuple(float(np.float32(after[axis] / before[axis])) for axis in axes)
            if all(int(before[axis] * scale) == after[axis] for axis, scale in zip(axes, scales, strict=True)):
                attrs = {key: value for key, value in node.attrs.items() if key != "sizes"}
                node = Node(node.name, node.op, node.inputs, node.outputs, {**attrs, "scales": scales})
        nodes.append(node)
    return None if all(a is b for a, b in zip(nodes, net.nodes, strict=True)) else _rebuilt(net, nodes, net.constants)


def batch_free(net: Network) -> Network | None:
    """Reshapes that name the batch, or only sizes that follow from it, made to take any batch. None where none can be."""
    nodes = []
    for node in net.nodes:
        if node.op == "Reshape" and not node.attrs.get("allowzero"):
            before, after, target = net.shapes[node.inputs[0]], net.shapes[node.outputs[0]], node.attrs["shape"]
            if before and after and before[0] == after[0] == 1 and target[0] not in (0, -1):
                node = node.with_attrs(shape=(0, *target[1:]))
            elif before and after and -1 not in target and before[0] == 1 and after[0] > 1:
                node = node.with_attrs(shape=(-1, *after[1:]))  # the batch is merged into the first axis
        nodes.append(node)
    return None if all(a is b for a, b in zip(nodes, net.nodes, strict=True)) else _rebuilt(net, nodes, net.constants)


def _renamed(node: Node, names: Mapping[str, str]) -> Node:
    if not names:
        return node
    return replace(
        node,
        inputs=tuple(names.get(name, name) for name in node.inputs),
        outputs=tuple(names.get(name, name) for name in node.outputs),
    )


def _rebuilt(net: Network, nodes: Sequence[Node], constants: Mapping[str, np.ndarray]) -> Network | None:
    try:
        return net.rebuilt(nodes, constants)
    except ModelError:
        return None


@dataclass(frozen=True)
class _Pass:
    """tolerance: by how much, relative to an output's largest value, it may change outputs, rounding being all it changes."""

    title: str
    apply: Callable[[Network], Network | None]
    tolerance: float


_PASSES = (
    _Pass("computing in float32", single_precision, 2e-2),
    _Pass("taking the quantisers out", dequantized, 0.15),
    _Pass("resizing by factors", scales_for_sizes, 1e-4),
    _Pass("freeing reshapes of the batch", batch_free, 1e-4),
)


# ----------------------------------------------------------------------------------------------------------------- proof


def batch_fixed(net: Network) -> str | None:
    """Why the network takes one example at a time and can't be trained; None if it takes any batch."""
    try:
        shapes = shapes_at_batch(net, _BATCH)
    except ModelError as error:
        return f"{net.path}: works at batch 1 only, so it can't be trained ({str(error).removeprefix(net.path).lstrip(': ')})"
    for node in net.nodes:
        for name in node.outputs:
            alone, batched = net.shapes.get(name, ()), shapes.get(name, ())
            if name in net.shapes and prod(batched) != _BATCH * prod(alone):
                return f"{net.path}: node '{node.name}' ({node.op}) fixes the batch to 1, so it can't be trained"
    return None


def _examples(net: Network) -> list[dict[str, np.ndarray]]:
    """Random inputs of batch 1, smooth enough to look like data."""
    draw = np.random.default_rng(0)
    found = []
    for _ in range(_BATCH):
        example = {}
        for name in net.inputs:
            shape = net.shapes[name]
            dtype = helper.tensor_dtype_to_np_dtype(net.dtypes[name])
            if np.dtype(dtype).kind in "iub":
                top = 2 if np.dtype(dtype).kind == "b" else 100
                example[name] = draw.integers(0, top, shape).astype(dtype)
            else:
                example[name] = draw.normal(size=shape).astype(dtype)
        found.append(example)
    return found


def _difference(one: Network, other: Network, examples: Sequence[Mapping[str, np.ndarray]]) -> float:
    """How far the outputs of two networks lie apart, relative to their size: alone, and in a batch if ``other`` takes one."""
    try:
        expected = [_run(one, example, 1) for example in examples]
        found = [_run(other, example, 1) for example in examples]
        worst = max(_apart(a, b) for a, b in zip(found, expected, strict=True))
        if batch_fixed(other) is None:
            together = {name: np.concatenate([example[name] for example in examples]) for name in other.inputs}
            joined = [np.concatenate(parts) for parts in zip(*expected, strict=True)]
            worst = max(worst, _apart(_run(other, together, len(examples)), joined))
    except Exception:  # a runtime raises its own kinds; whatever it was, the pass isn't proven
        return float("inf")
    return worst


def _apart(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    worst = 0.0
    for a, b in zip(found, expected, strict=True):
        if a.shape != b.shape:
            return float("inf")
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        if not np.isfinite(b).all():
            continue
        worst = max(worst, float(np.abs(a - b).max(initial=0.0) / max(1e-3, np.abs(b).max(initial=0.0))))
    return worst


def _run(net: Network, inputs: Mapping[str, np.ndarray], batch: int) -> list[np.ndarray]:
    """Outputs of a network: by onnxruntime, or by ONNX's reference implementation."""
    model = _at_batch(net, batch)
    try:
        import onnxruntime
    except ImportError:
        from onnx.reference import ReferenceEvaluator

        return [np.asarray(value) for value in ReferenceEvaluator(model).run(None, dict(inputs))]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session: Any = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, dict(inputs))]


def _at_batch(net: Network, batch: int) -> ModelProto:
    """The model with inputs declared at ``batch``, outputs of any shape."""
    model = net.to_proto()
    for value in model.graph.input:
        shape = net.shapes[value.name]
        declared = helper.make_tensor_value_info(value.name, net.dtypes[value.name], [batch * shape[0], *shape[1:]])
        value.CopyFrom(declared)
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    return model
