"""A network made fit for pruning: float32, without quantisers, free of a baked-in batch; and proof that it still computes
the same.

Each pass is run and compared with the network before it on random inputs, at batch 1 and 3, in onnxruntime or, where that
isn't installed, in ONNX's reference implementation. A pass that changes an output is left out, and a note says so. What
``network.load`` settles on its own (constants, identities, integer operators) isn't done again here. Names, metadata, opset,
declared inputs and outputs are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper

from mcuprune.errors import ModelError
from mcuprune.graph.network import Network, Node, is_float, shapes_at_batch
from mcuprune.immutable import immutable
from mcuprune.operators import attributes
from mcuprune.passes.inputs import with_float_inputs

#: The batch at which a network must still give what single examples give.
_BATCH = 3
#: A tensor of more elements than this, 16 MB as int8, is far beyond any microcontroller, and too much to try passes on.
MAX_ELEMENTS = 2**24
_FLOAT = int(TensorProto.FLOAT)


def canonical(net: Network) -> tuple[Network, tuple[str, ...]]:
    """The network ready to be labelled, trained and cut, and notes for the user on what was left as it is.

    Raises ModelError for a network whose tensors are too large to be run here again and again.
    """
    for node in net.nodes:
        for name in node.outputs:
            if prod(net.shapes.get(name, ())) > MAX_ELEMENTS:
                raise ModelError(
                    f"{net.path}: node '{node.name}' ({node.op}) makes a tensor of {prod(net.shapes[name])} elements; "
                    f"prune takes up to {MAX_ELEMENTS}: export with a smaller input, or fix free sizes with --input-shape"
                )
    net, told = with_float_inputs(net)
    notes = list(told)
    net = replace(net, stored={}) if net.stored else net  # cuts and training change the numbers, not the integers behind them
    examples = _examples(net)
    for step in _PASSES:
        changed = step.apply(net)
        if changed is None:
            continue
        difference = _difference(net, changed, examples)
        if difference is None and step.exact:
            net = changed
            notes.append(f"{net.path}: nothing here runs the file as it is, so {step.title} is not compared with it")
        elif difference is not None and difference <= step.tolerance:
            net = changed
        elif difference is None:
            notes.append(f"{net.path}: nothing here runs the file as it is, so {step.title} is left out")
        elif step.otherwise is None:
            notes.append(f"{net.path}: {step.title} would change an output by {difference:.2g} of its size; left as it is")
    return net, tuple(notes)


# ---------------------------------------------------------------------------------------------------------------- passes


def single_precision(net: Network) -> Network | None:
    """All floats as float32; inputs and outputs of another float type are cast at the border. None where all are."""
    others = {name for name, dtype in net.dtypes.items() if is_float(dtype) and dtype != _FLOAT}
    if not others:
        return None
    constants = {name: value.astype(np.float32) if name in others else value for name, value in net.constants.items()}
    names = net.names()
    inputs = {name: names.free(f"{name}/float32") for name in net.inputs if name in others}
    outputs = {name: names.free(f"{name}/float32") for name in net.outputs if name in others}
    renamed = {**inputs, **outputs}
    nodes = [Node(names.free(f"{new}/Cast"), "Cast", (old,), (new,), {"to": _FLOAT}) for old, new in inputs.items()]
    for node in net.nodes:
        attrs = dict(node.attrs)
        if node.op == "Cast" and is_float(attrs["to"]):
            attrs["to"] = _FLOAT
        nodes.append(replace(_renamed(node, renamed), attrs=attrs))
    nodes += [Node(names.free(f"{new}/Cast"), "Cast", (new,), (old,), {"to": net.dtypes[old]}) for old, new in outputs.items()]
    return _rebuilt(net, nodes, constants)


def dequantized(net: Network) -> Network | None:
    """Without quantisers; where one may hide an activation, the Clip that its range implies stays. None where there are none.

    A quantiser takes a Relu or Clip before it into its range, so that taking it out without a trace would be wrong. That can't
    be where the range reaches below zero, or where the values are bounded without it.
    """
    return _without_quantizers(net, limits=False)


def saturating(net: Network) -> Network | None:
    """Without quantisers, each leaving the Clip that its range implies. None where there are none."""
    return _without_quantizers(net, limits=True)


def _without_quantizers(net: Network, *, limits: bool) -> Network | None:
    taken = _Dequantized(net, limits=limits)
    for node in net.nodes:
        taken.take(node)
    return taken.network() if taken.floated else None


class _Dequantized:
    """A network without quantisers in the making, node by node.

    floated: tensor that held integers -> their scale and zero point; it holds floats now.
    same: tensor that is gone -> the one that holds the same now.
    """

    def __init__(self, net: Network, *, limits: bool) -> None:
        self.net, self.limits = net, limits
        self.floated: dict[str, tuple[float, float]] = {}
        self.same: dict[str, str] = {}
        self.nodes: list[Node] = []
        self.constants, self.names = dict(net.constants), net.names()
        self._better: dict[str, str] = {}  # tensor -> the name that what is computed had behind its quantiser

    def take(self, node: Node) -> None:
        parameters = _parameters(self.net, node)
        if node.op == "QuantizeLinear" and parameters and node.outputs[0] not in self.net.outputs:
            self._quantize(node, *parameters)
        elif node.op == "DequantizeLinear" and parameters and node.inputs[0] in self.floated:
            self._dequantize(node, *parameters)
        else:
            passing = [self.floated[name] for name in node.inputs if name in self.floated]
            if passing and node.op != "QuantizeLinear":
                self.floated.update(dict.fromkeys(node.outputs, passing[0]))
                if node.op == "Pad" and "value" in node.attrs:
                    node = node.with_attrs(value=(float(node.attrs["value"]) - passing[0][1]) * passing[0][0])
            self.nodes.append(_renamed(node, self.same))

    def _quantize(self, node: Node, scale: float, zero: float) -> None:
        low, high = _range(self.net, node, scale, zero)
        source = self.same.get(node.inputs[0], node.inputs[0])
        hides = self.limits or (low >= 0 and not _bounded(self.net, node.inputs[0]))
        if hides and not _before_bias(self.net, node):
            self.nodes.append(Node(node.name, "Clip", (source,), node.outputs, {"min": low, "max": high}))
        else:
            self.same[node.outputs[0]] = source
        self.floated[node.outputs[0]] = (scale, zero)

    def _dequantize(self, node: Node, scale: float, zero: float) -> None:
        old_scale, old_zero = self.floated[node.inputs[0]]
        source, target = self.same.get(node.inputs[0], node.inputs[0]), node.outputs[0]
        if (scale, zero) != (old_scale, old_zero):  # the integers are read in other steps than they were written in
            factor, shift = self.names.free(f"{target}/factor"), self.names.free(f"{target}/shift")
            self.constants[factor] = np.array(scale / old_scale, np.float32)
            self.constants[shift] = np.array((old_zero - zero) * scale, np.float32)
            product = self.names.free(f"{target}/product")
            self.nodes.append(Node(self.names.free(f"{target}/Mul"), "Mul", (source, factor), (product,)))
            self.nodes.append(Node(node.name, "Add", (product, shift), (target,)))
            return
        free = source not in (*self.net.inputs, *self.net.outputs) and source not in self._better
        if free:
            self._better[source] = target
        if target in self.net.outputs and not free:
            self.nodes.append(Node(node.name, "Identity", (source,), (target,)))
        else:
            self.same[target] = source

    def network(self) -> Network | None:
        nodes = [_renamed(node, self._better) for node in self.nodes]
        return _rebuilt(self.net, nodes, self.constants)


def _parameters(net: Network, node: Node) -> tuple[float, float] | None:
    """Scale and zero point of a quantiser that has one of each, both constants."""
    if node.op not in ("QuantizeLinear", "DequantizeLinear") or not all(map(net.is_constant, filter(None, node.inputs[1:3]))):
        return None
    values = [net.constants[name] for name in node.inputs[1:3] if name]
    if any(value.size != 1 for value in values) or float(values[0].item()) <= 0:
        return None
    return float(values[0].item()), float(values[1].item()) if len(values) > 1 else 0.0


def _range(net: Network, node: Node, scale: float, zero: float) -> tuple[float, float]:
    """The least and the largest number that a QuantizeLinear can store."""
    limits = _stored_type(net, node)
    return (int(limits.min) - zero) * scale, (int(limits.max) - zero) * scale


def stored_ranges(net: Network) -> dict[str, tuple[float, float]]:
    """The range of each tensor that a quantiser of the file stores, under the name that it has without quantisers, too."""
    ranges: dict[str, tuple[float, float]] = {}
    for node in net.nodes:
        parameters = _parameters(net, node)
        if node.op == "QuantizeLinear" and parameters and _stored_type(net, node).bits <= 8:
            readers = [
                reader.outputs[0] for reader in net.consumers.get(node.outputs[0], ()) if reader.op == "DequantizeLinear"
            ]
            for name in (node.inputs[0], node.outputs[0], *readers):
                ranges[name] = _range(net, node, *parameters)
    return ranges


def _stored_type(net: Network, node: Node) -> Any:
    """numpy's account of the integers that a QuantizeLinear makes."""
    return np.iinfo(helper.tensor_dtype_to_np_dtype(net.dtypes[node.outputs[0]]))


#: What keeps its values within bounds of its own, and what passes on the bounds of what it reads.
_BOUNDING = ("Relu", "Clip", "Sigmoid", "HardSigmoid", "Softmax", "ThresholdedRelu", "Abs", "Exp", "Sqrt")
_PASSING = (
    *("QuantizeLinear", "DequantizeLinear", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean"),
    *("ReduceMax", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Slice", "Split", "Gather", "Pad"),
    *("Concat", "Add", "Mul", "Max", "Min", "Resize", "Upsample", "DepthToSpace", "SpaceToDepth", "Cast", "Dropout", "Expand"),
)


def _bounded(net: Network, tensor: str) -> bool:
    """Whether values lie above zero without a quantiser's help, as far as that can be told from the operators."""
    waiting, seen = [tensor], set()
    while waiting:
        name = waiting.pop()
        node = net.producer.get(name)
        if name in seen or node is None:  # a graph input's values are what the user says they are
            continue
        seen.add(name)
        if node.op in _BOUNDING:
            continue
        if node.op not in _PASSING:
            return False
        waiting += [other for other in node.inputs if other and not net.is_constant(other)]
    return True


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
        if node.op == "Resize" and node.get("sizes") and node.get("keep_aspect_ratio_policy") == "stretch":
            axes = attributes.axes(node, len(before))
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
        if node.op == "Reshape" and not node.get("allowzero"):
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


@immutable
class _Pass:
    """tolerance: by how much, relative to an output's largest value, it may change outputs, rounding being all it changes.

    exact: whether it is right by its construction, so that it is made where nothing can run the network before it.
    otherwise: the title of a later pass that stands in for this one where it changes too much.
    """

    title: str
    apply: Callable[[Network], Network | None]
    tolerance: float
    exact: bool = False
    otherwise: str | None = None


_PASSES = (
    _Pass("computing in float32", single_precision, 2e-2, exact=True),
    _Pass("taking the quantisers out", dequantized, 0.15, otherwise="keeping their limits"),
    _Pass("taking the quantisers out but for their limits", saturating, 0.5, exact=True),
    _Pass("resizing by factors", scales_for_sizes, 1e-4),
    _Pass("freeing reshapes of the batch", batch_free, 1e-4),
)


# ----------------------------------------------------------------------------------------------------------------- proof


def batch_fixed(net: Network) -> str | None:
    """Why the file takes one example at a time, which doesn't keep it from training; None if it takes any batch."""
    try:
        shapes = shapes_at_batch(net, _BATCH)
    except ModelError as error:
        return f"{net.path}: works at batch 1 only ({str(error).removeprefix(net.path).lstrip(': ')})"
    for node in net.nodes:
        for name in node.outputs:
            alone, batched = net.shapes.get(name, ()), shapes.get(name, ())
            if name in net.shapes and prod(batched) != _BATCH * prod(alone):
                return f"{net.path}: node '{node.name}' ({node.op}) fixes the batch to 1"
    return None


def _examples(net: Network) -> list[dict[str, np.ndarray]]:
    """Random inputs of batch 1, smooth enough to look like data."""
    draw = np.random.default_rng(0)
    ranges = stored_ranges(net)
    examples = []
    for _ in range(_BATCH):
        example = {}
        for name in net.inputs:
            shape = net.shapes[name]
            dtype = helper.tensor_dtype_to_np_dtype(net.dtypes[name])
            if np.dtype(dtype).kind in "iub":
                top = 2 if np.dtype(dtype).kind == "b" else 100
                example[name] = draw.integers(0, top, shape).astype(dtype)
            elif name in ranges:  # a range reaches to the extremes of real data, and most values lie far inside it
                low, high = ranges[name]
                example[name] = draw.normal((low + high) / 2, (high - low) / 8, shape).clip(low, high).astype(dtype)
            else:
                example[name] = draw.normal(size=shape).astype(dtype)
        examples.append(example)
    return examples


def _difference(first: Network, other: Network, examples: Sequence[Mapping[str, np.ndarray]]) -> float | None:
    """How far the outputs of two networks lie apart, relative to their size: alone, and in a batch if ``other`` takes one.

    None if nothing can run ``one``.
    """
    try:
        expected = [_run(first, example, 1) for example in examples]
    except Exception:  # a runtime raises its own kinds
        return None
    try:
        outputs = [_run(other, example, 1) for example in examples]
        worst = max(_apart(a, b) for a, b in zip(outputs, expected, strict=True))
        if batch_fixed(other) is None:
            together = {name: np.concatenate([example[name] for example in examples]) for name in other.inputs}
            joined = [np.concatenate(parts) for parts in zip(*expected, strict=True)]
            worst = max(worst, _apart(_run(other, together, len(examples)), joined))
    except Exception:  # whatever it was, the pass isn't proven
        return float("inf")
    return worst


def _apart(outputs: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    worst = 0.0
    for a, b in zip(outputs, expected, strict=True):
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
