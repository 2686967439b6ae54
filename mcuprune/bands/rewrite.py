"""A network in row bands, written: the same integers with less SRAM, as a rewrite of the graph.

What runs in bands, and how, is a ``Choice`` of ``bands.tape``. Here its steps become nodes. Before anything is chosen, zero
Pads become the padding of the convolutions behind them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from onnx import helper

from mcuprune.bands.rowgraph import Value
from mcuprune.bands.rowlocal import in_band
from mcuprune.bands.tape import Choice, Step
from mcuprune.graph.network import Network, Node
from mcuprune.names import Names
from mcuprune.operators import attributes
from mcuprune.operators.fusion import sole_reader
from mcuprune.operators.table import OPS, Pad

#: How the names of nodes in bands end: so, and the number of the band.
_SUFFIX = "/band"


def is_banded(net: Network) -> bool:
    """Whether ``banded`` has written parts of the network."""
    return any(node.name.rpartition(_SUFFIX)[2].isdecimal() and _SUFFIX in node.name for node in net.nodes)


def banded(net: Network, choices: Sequence[Choice]) -> Network:
    """The network with regions in bands. ``net`` is the network that the regions are of.

    Original nodes are copied under their names with ``_SUFFIX`` and the number of the band; weights are shared. Outside the
    regions nothing changes, names of tensors included.
    """
    names, constants = net.names(), dict(net.constants)
    writers = {choice.region.nodes[-1].name: _Writer(net, choice, names, constants) for choice in choices}
    dropped = {name for writer in writers.values() for name in writer.replaced}
    nodes: list[Node] = []
    for node in net.nodes:
        if node.name in writers:
            nodes += writers[node.name].run()
        elif node.name not in dropped:
            nodes.append(node)
    return net.rebuilt(nodes, constants)


@dataclass
class _Writer:
    """Turns the tape of one region into nodes. names, constants: of the network that is written, for all writers together."""

    net: Network
    choice: Choice
    names: Names
    constants: dict[str, np.ndarray]
    nodes: list[Node] = field(default_factory=list)

    def __post_init__(self) -> None:
        region = self.choice.region
        self.values = region.graph.values
        self.replaced = {node.name for node in region.nodes}
        for tensors in region.outputs.values():
            for name in tensors:
                value = self.values[name]
                kept = value.quantizers if name == region.end else ()
                self.replaced |= {node.name for node in (*value.chain, *value.twins)} - {node.name for node in kept}
                if name == region.end:
                    self.replaced -= {node.name for node in value.twins}

    def run(self) -> list[Node]:
        region, tape = self.choice.region, self.choice.tape
        self.tensor: dict[int, str] = {0: self.values[region.start].read}
        for step in tape.steps[:-1]:
            suffix = f"{_SUFFIX}{step.band}"
            if step.node is not None:
                self._copy(step, suffix)
            else:
                self._move(step, suffix)
        self._join(tape.steps[-1])
        return self.nodes

    def _copy(self, step: Step, suffix: str) -> None:
        node, region = step.node, self.choice.region
        assert node is not None
        at = region.local[node.name]
        fitted = in_band(node, self.net, at, step.out_rows, step.in_rows)
        if step.spoiled:
            pads, i = list(at.pads), region.axes[step.value] - 2
            pads[i], pads[len(pads) // 2 + i] = at.before, at.after
            fitted = replace(fitted, attrs={**fitted.attrs, "pads": tuple(pads)})
        sources = iter(step.inputs)
        inputs = tuple(self.tensor[next(sources)] if name in region.graph.of else name for name in node.inputs)
        outputs = iter(step.outputs)
        copies = []
        tails = []
        for name in node.outputs:
            if name not in self.values:  # nothing reads it
                copies.append("")
                continue
            copies.append(self.names.free(name + suffix))
            tails.append((next(outputs), self.values[name], copies[-1]))
        while not copies[-1]:
            copies.pop()
        self.nodes.append(replace(fitted, name=self.names.free(node.name + suffix), inputs=inputs, outputs=tuple(copies)))
        for tensor, value, name in tails:
            self.tensor[tensor] = self._rewritten(value.chain, value, name, suffix)

    def _rewritten(self, chain: Iterable[Node], value: Value, tensor: str, suffix: str) -> str:
        """Copies of the nodes behind an operator, from ``tensor`` on; returns what the last makes."""
        for node in chain:
            output = self.names.free(node.outputs[0] + suffix)
            inputs = tuple(tensor if name in self.choice.region.graph.of else name for name in node.inputs)
            self.nodes.append(replace(node, name=self.names.free(node.name + suffix), inputs=inputs, outputs=(output,)))
            tensor = output
        return tensor

    def _move(self, step: Step, suffix: str) -> None:
        """A Slice or a Concat of rows, behind the quantiser of the value."""
        region = self.choice.region
        value = self.values[step.value]
        axis = region.axes[step.value]
        inputs = tuple(self.tensor[tensor] for tensor in step.inputs)
        what = "rows" if len(inputs) == 1 else "joined"
        moved = self.names.free(f"{value.read}{suffix}/{what}")
        name = self.names.free(f"{value.read}{suffix}/{'Slice' if len(inputs) == 1 else 'Concat'}")
        if len(inputs) == 1:
            end = step.first + step.out_rows[1] - step.out_rows[0]
            attrs = {"starts": (step.first,), "ends": (end,), "axes": (axis,)}
            self.nodes.append(Node(name, "Slice", inputs, (moved,), attrs))
        else:
            self.nodes.append(Node(name, "Concat", inputs, (moved,), {"axis": axis}))
        self.tensor[step.outputs[0]] = self._requantized(value, moved, f"{suffix}/{what}")

    def _requantized(self, value: Value, tensor: str, suffix: str) -> str:
        """``tensor``, rows of what ``value`` is read as, behind that value's quantiser again."""
        for node in self._quantizers(value):
            output = self.names.free(node.outputs[0] + suffix)
            name = self.names.free(node.name + suffix)
            self.nodes.append(replace(node, name=name, inputs=(tensor, *node.inputs[1:]), outputs=(output,)))
            tensor = output
        return tensor

    def _quantizers(self, value: Value) -> tuple[Node, ...]:
        """The quantiser of a value as a pair of nodes, nothing for a tensor that is read as it is made."""
        if len(value.quantizers) != 1:
            return value.quantizers
        (last,) = value.quantizers  # it dequantises integers that come into the graph, or that an operator makes
        parameters = list(last.inputs[1:])
        if len(parameters) == 1:  # without a zero point QuantizeLinear makes unsigned integers
            parameters.append(self.names.free(f"{last.name}/zero_point"))
            dtype = helper.tensor_dtype_to_np_dtype(self.net.dtypes[last.inputs[0]])
            self.constants[parameters[1]] = np.zeros(self.net.shapes[parameters[0]], dtype)
        name = f"{last.name}/QuantizeLinear"
        attrs = {"axis": last.attrs["axis"]} if "axis" in last.attrs else {}
        return Node(name, "QuantizeLinear", (last.inputs[0], *parameters), (last.inputs[0],), attrs), last

    def _join(self, step: Step) -> None:
        """All rows of the region's last tensor, under its own name and in front of its own quantiser."""
        region = self.choice.region
        value = self.values[region.end]
        inputs = tuple(self.tensor[tensor] for tensor in step.inputs)
        name = self.names.free(f"{value.read}/bands")
        attrs = {"axis": region.axes[region.end]}
        if len(value.quantizers) != 1:
            self.nodes.append(Node(name, "Concat", inputs, (value.body,), attrs))
            return
        joined = self.names.free(f"{value.body}/bands")
        first = self._quantizers(value)[0]
        quantizer = replace(first, name=self.names.free(first.name), inputs=(joined, *first.inputs[1:]), outputs=(value.body,))
        self.nodes += [Node(name, "Concat", inputs, (joined,), attrs), quantizer]


# --------------------------------------------------------------------------------------------------------- preparation


def without_pads(net: Network) -> Network:
    """The network with zero Pads as the padding of the convolutions behind them, through quantisers: the same numbers.

    Zero is always represented exactly, so that a quantiser between the two changes nothing.
    """
    while True:
        match = next((pair for node in net.nodes if (pair := _padded_conv(node, net)) is not None), None)
        if match is None:
            return net
        pad, conv, pads = match
        data = pad.inputs[0]
        tensor = pad.outputs[0]
        dropped = {pad.name}
        while (reader := net.sole_consumer(tensor)) is not None and reader.name != conv.name:
            dropped.add(reader.name)  # a quantiser between the two, which from now on reads what the Pad read
            tensor = reader.outputs[0]
        quantised = len(dropped) > 1
        nodes = []
        for node in net.nodes:
            if node.name == pad.name:
                continue
            if node.name in dropped and quantised:
                nodes.append(replace(node, inputs=(data, *node.inputs[1:])) if pad.outputs[0] in node.inputs else node)
            elif node.name == conv.name:
                source = tensor if quantised else data
                attrs = {key: value for key, value in node.attrs.items() if key != "auto_pad"}
                nodes.append(replace(node, inputs=(source, *node.inputs[1:]), attrs={**attrs, "pads": pads}))
            else:
                nodes.append(node)
        net = net.rebuilt(nodes, net.constants)


def _padded_conv(node: Node, net: Network) -> tuple[Node, Node, tuple[int, ...]] | None:
    """A zero Pad, the convolution that alone reads it, and the padding of both together."""
    entry = OPS[node.op]
    if not isinstance(entry, Pad) or not entry.is_zero(node, net):
        return None
    reader = sole_reader(node.outputs[0], net)
    if reader is None or reader[0].op != "Conv" or reader[1] != reader[0].inputs[0]:
        return None
    conv = reader[0]
    if attributes.pads_by_size(conv):
        return None
    batch, channels, *outer = attributes.pads_of_all_axes(node, len(net.shapes[node.inputs[0]]))
    if any((*batch, *channels)) or min(amount for pair in outer for amount in pair) < 0:
        return None
    own = attributes.pads(conv, net)
    both = [(a + c, b + d) for (a, b), (c, d) in zip(own, outer, strict=True)]
    return node, conv, attributes.flat(both)
