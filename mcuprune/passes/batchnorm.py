"""BatchNormalization out of a network, and back into one that was exported without.

``restored`` gives every convolution a BatchNormalization whose statistics are those of the data and whose scale and shift undo
it: the network computes the same, and training has what it needs. ``folded`` is its inverse: each BatchNormalization that
alone reads a convolution or matrix product goes into its weights, each constant bias likewise. Tensor and node names survive
the round trip.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from mcuprune.graph.network import Network, Node
from mcuprune.names import Names
from mcuprune.operators import attributes
from mcuprune.operators.fusion import folded_into, is_bias
from mcuprune.operators.table import OPS, Conv, Mixer

EPSILON = 1e-5


def candidates(net: Network) -> tuple[Node, ...]:
    """Where a BatchNormalization is missing: convolutions of unshared weights, or the Add behind one that is its bias."""
    convolutions = []
    for node in net.nodes:
        if not isinstance(OPS[node.op], Conv) or len(net.consumers[node.inputs[1]]) > 1:
            continue
        reader = net.sole_consumer(node.outputs[0])
        if reader is not None and reader.op == "Add" and is_bias(reader, node.outputs[0], node, net):
            node, reader = reader, net.sole_consumer(reader.outputs[0])
        if (reader is None or reader.op != "BatchNormalization") and node.outputs[0] not in net.outputs:
            convolutions.append(node)
    return tuple(convolutions)


def restored(net: Network, moments: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Network:
    """Put a BatchNormalization behind each node that ``moments`` names, without changing what the network computes.

    moments: node name -> mean and variance (channels,) of its output over data. scale = sqrt(variance + epsilon), not
    sqrt(variance), makes it the identity.
    """
    nodes: list[Node] = []
    constants, names = dict(net.constants), net.names()
    for node in net.nodes:
        if node.name not in moments:
            nodes.append(node)
            continue
        mean, variance = (moment.astype(np.float32) for moment in moments[node.name])
        name = names.free(f"{node.name}/BatchNormalization")
        values = {"scale": np.sqrt(variance + np.float32(EPSILON)), "shift": mean, "mean": mean.copy(), "variance": variance}
        inputs = [names.free(f"{node.outputs[0]}/unnormalized"), *(names.free(f"{name}/{key}") for key in values)]
        constants.update(zip(inputs[1:], values.values(), strict=True))
        nodes.append(replace(node, outputs=(inputs[0],)))
        nodes.append(Node(name, "BatchNormalization", tuple(inputs), node.outputs, {"epsilon": EPSILON}))
    return net.rebuilt(nodes, constants)


def as_restored(net: Network) -> Network:
    """The network as ``restored`` will make it, as far as costs go: a convolution without a bias gains one by it."""
    n_channels = {node.name: net.shapes[node.outputs[0]][1] for node in candidates(net)}
    return restored(net, {name: (np.zeros(n), np.ones(n)) for name, n in n_channels.items()})


def folded(net: Network) -> Network:
    """The network with every foldable BatchNormalization and every bias Add inside its convolution or matrix product.

    What is foldable, ``fusion`` says, so that the folded network costs what this one does. A MatMul that gains a bias becomes
    a Gemm where its data has two axes; other MatMuls keep their Add. A Gemm's alpha and beta go into its weights.
    """
    net = _with_plain_gemms(net)
    names = net.names()
    while True:
        tails = folded_into(net)
        merged: dict[str, Node] = {}
        gone: set[str] = set()
        constants = dict(net.constants)
        for node in net.nodes:
            reader = net.sole_consumer(node.outputs[0])
            foldable = reader is not None and tails.get(reader.name) == node.name
            change = _foldable(net, node, reader) if reader is not None and foldable else None
            if change is not None and reader is not None:
                merged[node.name], values = _merged(net, names, change[0], reader, *change[1:])
                gone.add(reader.name)
                constants.update(values)
        if not merged:
            return net
        net = net.rewired([merged.get(node.name, node) for node in net.nodes if node.name not in gone], constants)


def _with_plain_gemms(net: Network) -> Network:
    """The network with alpha and beta of every Gemm of constants of its own at 1: integer kernels know nothing else."""
    nodes, constants = list(net.nodes), dict(net.constants)
    for position, node in enumerate(nodes):
        factors = attributes.factors(node)
        own = [name for name in node.inputs[1:3] if net.is_constant(name) and len(net.consumers[name]) == 1]
        if node.op == "Gemm" and factors != (1.0, 1.0) and len(own) == len(node.inputs) - 1:
            for name, factor in zip(own, factors, strict=False):
                constants[name] = (constants[name] * factor).astype(constants[name].dtype)
            nodes[position] = node.with_attrs(alpha=1.0, beta=1.0)
    return replace(net, nodes=tuple(nodes), constants=constants)


def _foldable(net: Network, node: Node, reader: Node) -> tuple[Node, np.ndarray, np.ndarray] | None:
    """The node as it will be with ``reader`` folded into it, scale and shift (channels,); None where it can't be folded."""
    if not isinstance(OPS[node.op], Mixer) or not net.is_constant(node.inputs[1]) or len(net.consumers[node.inputs[1]]) > 1:
        return None
    if len(node.inputs) > 2 and node.inputs[2] and not net.is_constant(node.inputs[2]):
        return None
    if node.op == "MatMul":
        if len(net.shapes[node.inputs[0]]) != 2 or len(net.shapes[node.inputs[1]]) != 2:
            return None
        node = replace(node, op="Gemm", attrs={})
    if reader.op == "BatchNormalization":
        return (node, *_affine(net, reader))
    bias = next(net.constants[name] for name in reader.inputs if name != node.outputs[0]).reshape(-1)
    return node, np.ones_like(bias), bias


def _affine(net: Network, norm: Node) -> tuple[np.ndarray, np.ndarray]:
    """A BatchNormalization at inference as scale and shift, each (channels,)."""
    scale, shift, mean, variance = (net.constants[name].astype(np.float64) for name in norm.inputs[1:5])
    with np.errstate(invalid="ignore", divide="ignore"):  # a negative variance gives no number, here as in any runtime
        factor = scale / np.sqrt(variance + norm.get("epsilon"))
    return factor, shift - mean * factor


def _merged(
    net: Network, names: Names, node: Node, reader: Node, factor: np.ndarray, shift: np.ndarray
) -> tuple[Node, dict[str, np.ndarray]]:
    """``reader`` (x * factor + shift, per output channel) inside ``node``, which takes over its output; new constants."""
    entry = OPS[node.op]
    assert isinstance(entry, Mixer)
    weight = net.constants[node.inputs[1]]
    out = net.shapes[reader.outputs[0]][1]
    if entry.weight_axes(node)[1] == 1 and node.op == "ConvTranspose":
        # (in, out / group, ...): channel o of group g is at [in of g, o]
        group = node.get("group")
        rows = np.repeat(factor.reshape(group, -1), weight.shape[0] // group, axis=0)
        scaled = weight * rows.reshape(*rows.shape, *[1] * (weight.ndim - 2))
    else:
        shape = [1] * weight.ndim
        shape[entry.weight_axes(node)[1]] = -1
        scaled = weight * factor.reshape(shape)
    has_bias = len(node.inputs) > 2 and node.inputs[2]
    old = net.constants[node.inputs[2]] if has_bias else np.zeros(out)
    alpha, beta = attributes.factors(node)
    bias = (
        np.broadcast_to(np.asarray(old, np.float64) * beta, (1, out) if old.ndim > 1 else (out,)).reshape(-1) * factor + shift
    )
    bias_name = node.inputs[2] if has_bias and len(net.consumers[node.inputs[2]]) == 1 else names.free(f"{node.name}/bias")
    merged = replace(node, inputs=(*node.inputs[:2], bias_name), outputs=reader.outputs)
    if node.op == "Gemm":
        merged = merged.with_attrs(alpha=1.0, beta=1.0)
        scaled = scaled * alpha
    return merged, {node.inputs[1]: scaled.astype(weight.dtype), bias_name: bias.astype(weight.dtype)}
