"""The int8 file: QuantizeLinear and DequantizeLinear around the nodes of the user's own graph.

Affine int8 as TensorFlow Lite and the vendors' tools read it: activations per tensor, weights symmetric in [-127, 127]
([-63, 63] where 7 bits are asked for), of convolutions per output channel and of fully connected layers per tensor, biases
int32 with scale = input scale x weight scale. ``scheme`` decides, from the operator table alone, which tensors are quantised
and which share a quantiser; ``quantized`` gives the network its nodes and the integers behind its constants
(``Network.stored``). Fake-quant training (``quantize``) reads the same scheme and the same ``mixer_scale``, so what it
simulates is what the file computes. Inputs and outputs stay float, and every tensor keeps its name: it now holds the
dequantised value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import field, replace
from math import prod

import numpy as np
from onnx import TensorProto

from mcuprune.errors import UnsupportedOperator
from mcuprune.graph.network import Network, Node, Stored
from mcuprune.immutable import immutable
from mcuprune.operators import attributes
from mcuprune.operators.fusion import is_bias
from mcuprune.operators.table import OPS, Int8, MatMul, Mixer

#: The first opset in which DequantizeLinear has an axis.
QDQ_OPSET = 13
LOW, HIGH = -128, 127
#: Bits that weights may take. With 7 the sum of two products with a uint8 fits 16 bits (2 x 255 x 63 < 2^15), so that no kernel
#: for x86 processors without VNNI saturates.
WEIGHT_BITS = (7, 8)
#: By how much an output's steps may be finer than those of the input to which a kernel rounds first: half a step of the input
#: and the output's own rounding then make two steps, the most that one layer may differ by.
FINER = 4
#: By how much the steps of a mean over space may be finer than those that its cells add up to; from 256 on onnxruntime's
#: kernel refuses them. Nothing but noise is told apart by them.
_FINEST_MEAN = 128
#: What the name of a tensor's integers ends in.
_INTEGERS = "/int8"


@immutable
class Quantizer:
    """real = scale * (stored - zero_point), stored in [-128, 127]."""

    scale: float
    zero_point: int

    @property
    def range(self) -> tuple[float, float]:
        """The least and the largest number that it stores."""
        return (LOW - self.zero_point) * self.scale, (HIGH - self.zero_point) * self.scale


#: TensorFlow Lite's rule for what lies in [0, 1].
UNIT = Quantizer(1 / 256, LOW)
#: The quantisers that TensorFlow Lite's kernels give their outputs, whatever the data.
FIXED: Mapping[Int8, Quantizer] = {"unit": UNIT, "signed unit": Quantizer(1 / 128, 0), "log": Quantizer(16 / 256, HIGH)}


#: A kernel whose steps are so many times those of its output's int8 is off by more than ``verify`` takes for rounding.
_COARSER = 3


def lost(who: str, kernel: Quantizer, network: Quantizer) -> str:
    """What a kernel with a quantiser of its own can't store of what a network gives, and what to do; "" for nothing.

    who: the node and its operator. network: the quantiser of what the network gives there, as measured.
    """
    least, lower, times = kernel.range[0], network.range[0], kernel.scale / network.scale
    if kernel == FIXED["log"] and lower < least - kernel.scale:  # what others give lies within their ranges
        return (
            f"{who} stores nothing below {least:.4g}, and the network gives down to {lower:.4g} there: classes keep their "
            "order down to that. Where smaller logarithms count, take the node off the end (--outputs with the tensor that "
            "it reads) and compute it behind the network"
        )
    if times > _COARSER:
        return (
            f"{who} stores steps of {kernel.scale:.4g}, {times:.1f} times those that int8 has for what the network gives "
            "there: finer ones are lost. The accuracy of the int8 file has it; a network whose numbers there take more of the "
            "operator's range loses less"
        )
    return ""


@immutable
class Scheme:
    """Which tensors are quantised, and with whose range.

    quantizer: tensor -> the name of its quantiser; tensors of one name share it.
    fixed: the quantisers that are so whatever the data, by name.
    data: (node, input index) of constants other than weights and biases that are stored as int8.
    largest: the largest integer of a weight, and without its sign the smallest.
    finest: quantiser -> another one -> by how many times its steps may be finer than that one's.
    """

    quantizer: Mapping[str, str]
    fixed: Mapping[str, Quantizer]
    data: frozenset[tuple[str, int]]
    largest: int = HIGH
    finest: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


#: What is said of an input that an int8 file has no use for.
UNREAD = "no node reads it, so no int8 file can say how it is stored; take it off the graph's inputs and export again"


def scheme(net: Network, *, weight_bits: int = 8) -> Scheme:
    """How to quantise a network whose BatchNormalizations are folded; weight_bits: one of ``WEIGHT_BITS``.

    What a clamp (Relu, Clip) alone reads has no quantiser of its own: the clamp's does the work. Movements and max pools share
    their input's. A Concat shares its range with those of its inputs that nothing else reads: they are rounded to it anyway,
    and so only once. It shares it with all where all come out of clamps, or all have one fixed scale. Others would lose steps
    for their other readers. What only picks among numbers of one quantiser (a Concat of a tensor with itself, the Max of two
    that share) has no number that this one doesn't store, and shares it.
    """
    parent = {name: name for name in net.inputs if net.dtypes[name] == TensorProto.FLOAT}

    def root(tensor: str) -> str:
        while parent[tensor] != tensor:
            tensor = parent[tensor]
        return tensor

    kinds, picking = dict[str, Int8](), set[str]()
    for node in net.nodes:
        kind = OPS[node.op].scale(node, net)
        for output in node.outputs:
            if not output or net.dtypes.get(output) != TensorProto.FLOAT:
                continue
            reader = net.sole_consumer(output)
            if kind == "own" and reader is not None and OPS[reader.op].scale(reader, net) == "clamp":
                continue
            parent[output] = output
            if kind == "same" and node.inputs[0] in parent:
                parent[output] = root(node.inputs[0])
            elif kind in FIXED:
                kinds[output] = kind
        if node.op == "Concat" and node.outputs[0] in parent:
            shared = _shared(net, node)
            if shared is not None and shared in FIXED:
                kinds[node.outputs[0]] = shared
            for name in node.inputs if shared is not None else ():
                parent[root(name)] = root(node.outputs[0])
    for node in net.nodes:
        picked = (
            {root(name) if name in parent else "" for name in node.inputs} if OPS[node.op].numbers(node) == "picked" else set()
        )
        if len(picked) == 1 and "" not in picked and node.outputs[0] in parent:
            parent[root(node.outputs[0])] = picked.pop()
            picking.add(node.name)
    fixed = {root(tensor) for tensor in kinds}
    classes: dict[str, list[str]] = {}
    for tensor in parent:
        classes.setdefault(root(tensor), []).append(tensor)
    for node in reversed(net.nodes):  # so that of a chain of Concats all come to share the last one's
        for name in node.inputs if node.op == "Concat" and node.outputs[0] in parent else ():
            own, joined = (root(tensor) if tensor in parent else "" for tensor in (name, node.outputs[0]))
            if own in ("", joined) or fixed & {own, joined}:
                continue
            if all(_moved_or(node, net, tensor, picking) for tensor in classes[own]):
                parent[own] = joined
                classes[joined] += classes.pop(own)
    names = {tensor: root(tensor) for tensor in parent}
    quantizers = _within(net, names, {names[tensor]: FIXED[kind] for tensor, kind in kinds.items()})
    return Scheme(names, quantizers, _data(net), 2 ** (weight_bits - 1) - 1, _finest(net, names, quantizers))


def _within(net: Network, names: Mapping[str, str], fixed: Mapping[str, Quantizer]) -> dict[str, Quantizer]:
    """The fixed quantisers, less those that the value of a Pad lies beyond: it shares its input's, which is measured then."""
    beyond = set[str]()
    for node in net.nodes:
        name = names.get(node.outputs[0]) if node.op == "Pad" and node.get("mode") == "constant" else None
        if name is not None and name in fixed:
            (low, high), value = fixed[name].range, float(node.get("value") or 0)
            beyond |= set() if low - fixed[name].scale <= value <= high + fixed[name].scale else {name}
    return {name: quantizer for name, quantizer in fixed.items() if name not in beyond}


def _data(net: Network) -> frozenset[tuple[str, int]]:
    """``Scheme.data``."""
    return frozenset(
        (node.name, index)
        for node in net.nodes
        if OPS[node.op].memory_kind == "in place" and node.op != "BatchNormalization"
        for index, name in enumerate(node.inputs)
        if net.is_constant(name) and net.constants[name].size > 1 and net.constants[name].dtype == np.float32
        if not any(is_bias(node, other, net.producer[other], net) for other in node.inputs if _is_product(net, other))
    )


def _finest(net: Network, names: Mapping[str, str], fixed: Collection[str]) -> dict[str, dict[str, float]]:
    """``Scheme.finest``. names: tensor -> its quantiser; fixed: of these, the fixed ones."""
    finest: dict[str, dict[str, float]] = {}
    for node in net.nodes:
        times = _finer(node, net)
        source, target = names.get(node.inputs[0]), None if times is None else _ends_in(node, net, names)
        if times is not None and source is not None and target not in (None, source) and target not in fixed:
            known = finest.setdefault(target, {})
            known[source] = min(times, known.get(source, times))
    return finest


def _finer(node: Node, net: Network) -> float | None:
    """By how many times a node's steps may be finer than its input's; None where its kernels take any."""
    if OPS[node.op].scale(node, net) != "own":
        return None
    if node.op in ("Resize", "Upsample"):  # the kernel interpolates in the steps of what it reads
        return FINER
    if node.op in ("AveragePool", "GlobalAveragePool"):
        sizes = net.shapes[node.inputs[0]][2:]
        taps = sizes if node.op == "GlobalAveragePool" else attributes.kernel(node, net)
        return _FINEST_MEAN * prod(sizes) if taps == sizes else None
    return None


def held(plan: Scheme, name: str, quantizers: Mapping[str, Quantizer]) -> Quantizer:
    """The quantiser of a name, with steps no finer than kernels take beside those of the others."""
    q = quantizers[name]
    others = plan.finest.get(name, {}).items()
    least = max((quantizers[other].scale / times for other, times in others if other in quantizers), default=0.0)
    return q if q.scale >= least else quantizer(*q.range, least)


def _moved_or(node: Node, net: Network, tensor: str, picking: Collection[str]) -> bool:
    """Whether all that reads the tensor is ``node``, or moves it within one scale, as those named in ``picking`` do."""
    readers = net.consumers.get(tensor, ())
    return tensor not in net.outputs and all(
        reader is node or reader.name in picking or OPS[reader.op].scale(reader, net) == "same" for reader in readers
    )


def _shared(net: Network, node: Node) -> Int8 | None:
    """What gave all inputs of a Concat their scales, if that lets them share one: clamps, or a kernel that fixes it."""
    origins = {_origin(net, name) for name in node.inputs}
    origin = origins.pop() if len(origins) == 1 else None
    return origin if origin == "clamp" or origin in FIXED else None


def _origin(net: Network, tensor: str) -> Int8 | None:
    """What gave the tensor its scale, before it was moved; None where it is an input or a constant."""
    maker = net.producer.get(tensor)
    while maker is not None and OPS[maker.op].scale(maker, net) == "same":
        maker = net.producer.get(maker.inputs[0])
    return None if maker is None else OPS[maker.op].scale(maker, net)


def _is_product(net: Network, tensor: str) -> bool:
    return tensor in net.producer and isinstance(OPS[net.producer[tensor].op], Mixer)


def quantizer(low: float, high: float, least: float = 1e-8) -> Quantizer:
    """The int8 quantiser of a range; zero is always represented exactly. What is always 0 has that of [0, 1].

    least: its steps are no finer. Kernels can't multiply from the scales of other tensors to one of next to nothing.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        high = 1.0
    scale = np.float32(max((high - low) / (HIGH - LOW), least))
    return Quantizer(float(scale), int(np.clip(np.round(LOW - low / scale), LOW, HIGH)))


def weight_axis(node: Node, net: Network) -> int | None:
    """The axis of a mixer's weight along which scales differ; None where one scale serves all, or users want different axes."""
    axes = {_own_weight_axis(user, net) for user in weight_users(node, net)}
    return axes.pop() if len(axes) == 1 else None


def weight_users(node: Node, net: Network) -> tuple[Node, ...]:
    """The mixers that use the weight of ``node``, itself among them: it is stored once, at one scale."""
    name = node.inputs[1]
    return tuple(user for user in net.consumers[name] if isinstance(OPS[user.op], Mixer) and user.inputs[1] == name)


def _own_weight_axis(node: Node, net: Network) -> int | None:
    entry = OPS[node.op]
    assert isinstance(entry, Mixer)
    shape = net.shapes[node.inputs[1]]
    if node.op == "ConvTranspose" and node.get("group") > 1:
        return 0 if shape[0] == node.get("group") and shape[1] == 1 else None  # else inputs share an output, and its scale
    if node.op == "Gemm" or isinstance(entry, MatMul):
        return None  # kernels of fully connected layers keep two factors in RAM for each output of a weight of several scales
    return entry.weight_axes(node)[1] if len(shape) > 1 else None


def weight_scale(
    weight: np.ndarray,
    axis: int | None,
    bias: np.ndarray | None,
    input_scale: float,
    largest: int = HIGH,
    output_scale: float | None = None,
) -> np.ndarray:
    """float32 scales of a weight: (channels,) along ``axis``, or (). Of a shared weight, the largest of its users' counts.

    largest: the integer that the largest weight becomes (``Scheme``).
    output_scale: of the tensor that the products end in; None where it has none.
    Never so large that one step of the input takes the output through its whole range: a larger weight is cut to that. Where
    training has left a channel next to no variance, folding its BatchNormalization makes a weight of thousands, and steps of
    the bias (input scale x scale) as coarse as the output's range would round the bias away that the channel consists of.
    Never so small that a live bias of an almost dead channel overflows its int32 (|bias| / (input scale x scale) < 2^30).
    """
    others = tuple(a for a in range(weight.ndim) if a != axis)
    reach = np.abs(weight).max(others)
    if output_scale is not None:
        reach = np.minimum(reach, np.float32((HIGH - LOW) * output_scale / input_scale))
    scale: np.ndarray = np.maximum(reach / np.float32(largest), np.float32(1e-12))
    if bias is not None:
        needed = np.abs(bias.reshape(-1)) / np.float32(input_scale * 2.0**30)
        scale = np.maximum(scale, needed if axis is not None else needed.max())
    return np.asarray(scale, np.float32)


def mixer_scale(
    node: Node,
    net: Network,
    plan: Scheme,
    quantizers: Mapping[str, Quantizer],
    weight: np.ndarray,
    bias: Callable[[Node], np.ndarray | None],
) -> np.ndarray:
    """The float32 scales of a mixer's weight, ``weight_scale`` for all its users. bias: of each of them, where it has one."""
    axis = weight_axis(node, net)
    scales = []
    for user in weight_users(node, net):
        input_scale, ends = quantizers[plan.quantizer[user.inputs[0]]].scale, _ends_in(user, net, plan.quantizer)
        # None also in training, which asks before it has seen the range of the output
        output_scale = quantizers[ends].scale if ends and ends in quantizers else None
        scales.append(weight_scale(weight, axis, bias(user), input_scale, plan.largest, output_scale))
    return np.asarray(np.max(scales, axis=0))


def _ends_in(node: Node, net: Network, names: Mapping[str, str]) -> str | None:
    """The quantiser of the tensor that a node's results are rounded in: its own, or that of the clamp behind it.

    names: tensor -> its quantiser.
    """
    tensor = node.outputs[0]
    while tensor not in names:
        reader = net.sole_consumer(tensor)
        if reader is None:
            return None
        tensor = reader.outputs[0]
    return names[tensor]


def quantized(net: Network, plan: Scheme, quantizers: Mapping[str, Quantizer]) -> Network:
    """The network with QuantizeLinear and DequantizeLinear nodes, in its own opset or 13 if that is newer.

    quantizers: for each quantiser name of the scheme; steps finer than kernels take are made coarser.
    Raises UnsupportedOperator for a mixer whose input has no quantiser.
    """
    quantizers = dict(quantizers)
    for tensor in plan.quantizer:  # in the order in which they are computed: one may hold the next
        name = plan.quantizer[tensor]
        quantizers[name] = held(plan, name, quantizers)

    def integers(net: Network, node: Node) -> dict[int, Stored]:
        if isinstance(OPS[node.op], Mixer) and net.is_constant(node.inputs[1]):
            return _stored_weights(net, node, plan, quantizers)
        return {i: _stored_data(net, node, i) for i in range(len(node.inputs)) if (node.name, i) in plan.data}

    return annotated(raised(net, QDQ_OPSET), plan, quantizers, integers)[0]


def annotated(
    net: Network,
    plan: Scheme,
    quantizers: Mapping[str, Quantizer],
    integers: Callable[[Network, Node], Mapping[int, Stored]],
) -> tuple[Network, dict[str, str]]:
    """The network with quantisers around its nodes: a tensor ``x`` is computed as ``x/float`` and keeps its name behind them.

    integers: input index -> how the constant there is stored, for each node.
    Returns the network and, for every tensor or constant that is new in it, the one of ``net`` that it is in another form.
    """
    constants, names = dict(net.constants), net.names()
    nodes: list[Node] = []
    current = {name: name for name in net.inputs}
    like: dict[str, str] = {}
    dtypes: dict[str, int] = {}
    stored: dict[str, Stored] = {}
    written: dict[str, dict[tuple[bytes, bytes], str]] = {}

    def write(tensor: str, source: str, target: str) -> None:
        quantizer = quantizers[plan.quantizer[tensor]]
        parameters = (names.free(f"{tensor}/scale"), names.free(f"{tensor}/zero_point"))
        constants[parameters[0]] = np.array(quantizer.scale, np.float32)
        constants[parameters[1]] = np.array(quantizer.zero_point, np.int8)
        integer = names.free(f"{tensor}{_INTEGERS}")
        for op, read, output in (("QuantizeLinear", source, integer), ("DequantizeLinear", integer, target)):
            nodes.append(Node(names.free(f"{tensor}/{op}"), op, (read, *parameters), (output,)))
        like.update({source: tensor, target: tensor, integer: tensor})
        dtypes[integer] = TensorProto.INT8

    for name in net.inputs:
        if name in plan.quantizer:
            current[name] = names.free(f"{name}/dequantized")
            write(name, name, current[name])
    for node in net.nodes:
        inputs = [current.get(name, name) for name in node.inputs]
        for index, weights in integers(net, node).items():
            name = node.inputs[index]
            known = written.setdefault(name, {})
            shared = len(net.consumers[name]) > 1
            content = (weights.integers.tobytes(), weights.scale.tobytes()) if shared else (b"", b"")
            if content not in known:  # one stored constant serves all users that store it alike
                known[content] = name if not known else names.free(f"{name}/{node.name}")
                stored[known[content]] = weights
                assert weights.value is not None
                constants[known[content]] = weights.value
                like.setdefault(known[content], name)
            inputs[index] = known[content]
        floats = {name: names.free(f"{name}/float") for name in node.outputs if name in plan.quantizer}
        outputs = tuple(floats.get(name, name) for name in node.outputs)
        nodes.append(replace(node, inputs=tuple(inputs), outputs=outputs))
        for name, floating in floats.items():
            write(name, floating, name)
    return net.rewired(nodes, constants, like=like, dtypes=dtypes, stored=stored), like


def is_ours(node: Node) -> bool:
    """Whether a QuantizeLinear is called as ``annotated`` calls them; a name that was taken has a number behind."""
    return re.fullmatch(rf".*{_INTEGERS}(_\d+)?", node.outputs[0], re.DOTALL) is not None


def stores_bias(n_biases: int, n_scales: int) -> bool:
    """Whether a bias is stored as int32: it needs a number for each scale."""
    return n_scales in (1, n_biases)


def _dequantized(integers: np.ndarray, scale: np.ndarray, axis: int | None) -> Stored:
    """Integers with the numbers that they stand for. scale: (channels,) along ``axis``, or ()."""
    shape = [1] * integers.ndim
    if axis is not None:
        shape[axis] = -1
    value = integers.astype(np.float32) * scale.reshape(shape)
    return Stored(integers, scale.reshape(-1), 0 if axis is None else axis, np.asarray(value, np.float32))


def _stored_weights(net: Network, node: Node, plan: Scheme, quantizers: Mapping[str, Quantizer]) -> dict[int, Stored]:
    """Input index -> how it is stored, for a mixer's weight and bias. One number for all channels stays a float."""
    if node.inputs[0] not in plan.quantizer:
        raise UnsupportedOperator(f"{net.path}: node '{node.name}' ({node.op}): its input isn't quantised; write --float")
    input_scale = quantizers[plan.quantizer[node.inputs[0]]].scale
    weight = net.constants[node.inputs[1]]
    bias = _bias(node, net)
    axis = weight_axis(node, net)
    scale = mixer_scale(node, net, plan, quantizers, weight, lambda user: _bias(user, net))
    shape = [1] * weight.ndim
    if axis is not None:
        shape[axis] = -1
    integers = np.clip(np.round(weight / scale.reshape(shape)), -plan.largest, plan.largest).astype(np.int8)
    stored = {1: _dequantized(integers, scale, axis)}
    if bias is not None and stores_bias(bias.size, scale.size):
        product = np.asarray(np.float32(input_scale) * scale, np.float32)
        wide = np.round(bias.astype(np.float64) / product).clip(-(2**31) + 1, 2**31 - 1).astype(np.int32)
        stored[2] = _dequantized(wide, product, bias.ndim - 1 if product.ndim else None)
    return stored


def _bias(node: Node, net: Network) -> np.ndarray | None:
    return net.constants[node.inputs[2]] if len(node.inputs) > 2 and node.inputs[2] else None


def _stored_data(net: Network, node: Node, index: int) -> Stored:
    """A constant operand of an elementwise operator as symmetric int8, one scale for all."""
    value = net.constants[node.inputs[index]]
    scale = weight_scale(value, None, None, 1.0)
    return _dequantized(np.clip(np.round(value / scale), -HIGH, HIGH).astype(np.int8), scale, None)


def raised(net: Network, opset: int) -> Network:
    """The network in at least this opset (13), for files older than it. Raises UnsupportedOperator where meanings differ."""
    if net.opset >= opset:
        return net
    nodes = []
    for node in net.nodes:
        if node.op in ("Softmax", "LogSoftmax"):
            shape = net.shapes[node.inputs[0]]
            axes = attributes.softmax_axes(node, net)
            wide = [axis for axis in axes if shape[axis] > 1]
            if len(wide) > 1:
                raise UnsupportedOperator(
                    f"{net.path}: node '{node.name}': {node.op} over several axes (opset {net.opset}); "
                    f"export with opset {opset}"
                )
            node = node.with_attrs(axis=wide[0] if wide else axes[0])
        elif node.op == "Upsample" or (node.op == "Resize" and net.opset < 11):
            scales, mode = node.attrs["scales"], node.get("mode")
            down = {scale < 1 for scale in scales if scale != 1}
            if mode == "nearest" and len(down) > 1:
                raise UnsupportedOperator(
                    f"{net.path}: node '{node.name}': {node.op} both up and down (opset {net.opset}); export with opset {opset}"
                )
            where, rounding = attributes.coordinates(node, net), attributes.rounding(node, net, min(scales))
            attrs = {"scales": scales, "mode": mode, "coordinate_transformation_mode": where, "nearest_mode": rounding}
            node = replace(node, op="Resize", attrs=attrs, origins={})
        elif node.op == "BatchNormalization" and "spatial" in node.attrs:
            node = replace(node, attrs={key: value for key, value in node.attrs.items() if key != "spatial"})
        elif node.op == "Dropout":
            node = replace(node, attrs={}, origins={}, outputs=node.outputs[:1])
        elif "consumed_inputs" in node.attrs:
            node = replace(node, attrs={key: value for key, value in node.attrs.items() if key != "consumed_inputs"})
        nodes.append(node)
    header = type(net.header)()
    header.CopyFrom(net.header)
    for entry in header.opset_import:
        if not entry.domain:
            entry.version = opset
    header.ir_version = max(header.ir_version, 7)
    return replace(net, header=header).rewired(nodes, net.constants)
