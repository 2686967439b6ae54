"""One walk over a quantised network: what its nodes' lowerings share.

ONNX keeps channels first, TFLite last. Each computed TFLite tensor is a ``Value`` that knows which ONNX axis each of its
dimensions is; an ONNX Transpose only renames axes, and a TRANSPOSE is written where an operator needs its data in another order
than it has. Axes of size 1 have no place of their own: a RESHAPE is written where an operator insists on one.

What is decided here depends on shapes, attributes and on which quantisers are the same, never on weights: contents of constants
are computed when a file is written. So a float network, with one quantiser for each that export will make, gives the operators
that the exported file has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import isfinite, isinf, prod
from typing import Any

import numpy as np

from mcuprune.deploy.kernels import KERNELS, MAX_TRANSPOSED
from mcuprune.deploy.program import Axes, Constant, Operator, Port, Program, Storage, Tensor
from mcuprune.deploy.qdq import HIGH, LOW, UNREAD, Quantizer
from mcuprune.errors import McupruneError, ModelError, UnsupportedOperator
from mcuprune.graph.network import Network, Node, Shape, Stored
from mcuprune.immutable import immutable
from mcuprune.operators import attributes
from mcuprune.operators.table import OPS, Dim, MatMul

Array = np.ndarray[Any, Any]
Dims = tuple[Any, ...]

SAME, VALID = 0, 1
#: Fused activations, by the bounds that they hold.
FUSED: Mapping[tuple[float, float], int] = {(-np.inf, np.inf): 0, (0.0, np.inf): 1, (-1.0, 1.0): 2, (0.0, 6.0): 3}
#: What stands for a quantiser where a file has none.
_NO_QUANTIZER = Quantizer(1.0, 0)
#: What a graph input must be so that it has one quantiser, and what to do otherwise.
_ONE_QUANTISER = (
    "must be a float that one QuantizeLinear reads, or 8-bit integers that DequantizeLinear reads with one scale; quantise the "
    "model again with a float input"
)
#: What to do about a file that somebody else quantised in a way that no kernel computes in.
QUANTISE_AGAIN = "quantise again from the float model: mcuprune export FLOAT.onnx --data DATA"
#: Operators that normalise by what they find in the data, and what to do about them.
_NORMALISATIONS = ("GroupNormalization", "InstanceNormalization", "LRN", "LayerNormalization", "LpNormalization")
_TRAIN_OTHERWISE = "train it with BatchNormalization in its place, which convolutions take in"
_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


# ------------------------------------------------------------------------------------------------------------ layouts


def sizes_of(axes: Axes, shape: Shape) -> Shape:
    """The sizes that a tensor has in a layout; None stands for an axis of size 1."""
    return tuple(1 if axis is None else shape[axis] for axis in axes)


def without_ones(axes: Sequence[int | None], shape: Shape) -> Axes:
    """A layout in which None stands for every axis of size 1."""
    return tuple(None if axis is None or shape[axis] == 1 else axis for axis in axes)


def channels_last(rank: int) -> tuple[int, ...]:
    """The axes (batch, channel, ...) of a rank with channels at the end."""
    return (0, *range(2, rank), 1) if rank > 2 else tuple(range(rank))


def image(shape: Shape) -> Axes:
    """The axes of a tensor (batch, channel, [height,] width) as kernels of images want them; without a height it is 1."""
    order: Sequence[int | None] = (0, 2, 3, 1) if len(shape) == 4 else (0, None, 2, 1)
    return without_ones(order, shape)


@immutable
class Value:
    """A computed ONNX tensor in the program.

    shape, dims: ONNX's, as numbers and as functions of widths. axes: what the dimensions of TFLite's tensor are.
    shuffle: for a flattened tensor whose elements stand in another order than ONNX's: TFLite position -> ONNX position.
    pads: (before, after) of each axis of space, zeros that the only reader of this tensor is to add by itself.
    """

    tensor: int
    shape: Shape
    dims: Dims
    axes: Axes
    shuffle: Array | None = None
    pads: tuple[tuple[int, int], ...] = ()


@immutable
class Literal:
    """A constant operand as symmetric int8 with one scale. shape, dims: ONNX's, as numbers and as functions of widths."""

    shape: Shape
    dims: Dims
    stored: Callable[[], Stored]


@immutable
class Target:
    """What an operator must make: a tensor of this name and quantiser, clamped to [low, high]."""

    name: str
    shape: Shape
    dims: Dims
    quantizer: Quantizer
    low: float = -np.inf
    high: float = np.inf

    @property
    def fused(self) -> int:
        """The activation that the operator can do by itself; 0 where there is none for these bounds."""
        return FUSED.get((self.low, self.high), 0)


Lower = Callable[["Lowering", Node], None]


@dataclass
class Lowering:
    """One walk over the nodes. ``values`` has what was made under ONNX's names, quantised and dequantised names alike.

    dim: sizes of axes of the network's tensors as functions of widths; None for integers. origin: tensor -> the tensor that
    ``dim`` knows it by.
    """

    net: Network
    dim: Dim | None
    lowerings: Mapping[str, Lower]
    origin: Mapping[str, str] = field(default_factory=dict)
    tensors: list[Tensor] = field(default_factory=list)
    operators: list[Operator] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)
    done: dict[str, None] = field(default_factory=dict)
    rearranged: dict[tuple[int, Axes, Axes, Shape], Value] = field(default_factory=dict)
    reshapes: dict[int, int] = field(default_factory=dict)
    weights: dict[tuple[str, str], int] = field(default_factory=dict)
    quantizers: dict[tuple[str, ...], Quantizer] = field(default_factory=dict)
    problems: list[McupruneError] = field(default_factory=list)
    node: Node | None = None

    def run(self) -> Program:
        """The whole network as a program; what has no operator in TFLM is among its problems."""
        inputs = [self.graph_input(name) for name in self.net.inputs]
        for node in self.net.nodes:
            self.node = node
            if node.name not in self.done:
                self.lowered(node)
        self.node = None
        outputs = [self.graph_output(name) for name in self.net.outputs]
        ports = [
            tuple(Port(name, value.shape, value.axes, self.quantizer(value), value.tensor) for name, value in pairs)
            for pairs in (zip(self.net.inputs, inputs, strict=True), zip(self.net.outputs, outputs, strict=True))
        ]
        program = Program(tuple(self.tensors), tuple(self.operators), ports[0], ports[1], tuple(self.problems), self.net.path)
        return _needed(program)

    def lowered(self, node: Node) -> None:
        """The node as operators; one operator that stands for it where TFLM has none."""
        before = len(self.tensors), len(self.operators), len(self.done)
        try:
            if node.op not in self.lowerings:
                self.refuse("has no int8 operator in TensorFlow Lite Micro", self._instead_of(node))
            OPS[node.op].check(node, self.net)
            self.lowerings[node.op](self, node)
        except UnsupportedOperator as error:
            del self.tensors[before[0] :], self.operators[before[1] :]
            self.done = dict.fromkeys(list(self.done)[: before[2]])
            self.weights = {key: tensor for key, tensor in self.weights.items() if tensor < before[0]}
            self.rearranged = {key: value for key, value in self.rearranged.items() if value.tensor < before[0]}
            self.reshapes = {key: value for key, value in self.reshapes.items() if key < before[0]}
            self.problems.append(error)
            self.placeholder(node, str(error))

    def _instead_of(self, node: Node) -> str:
        """What to do about a node without an operator."""
        if node.op in _NORMALISATIONS:
            return _TRAIN_OTHERWISE
        others = f"write it with some of the {len(self.lowerings)} that do, which docs/operators.md marks"
        if all(name in self.net.outputs or not self.net.consumers[name] for name in node.outputs) and node.inputs[0]:
            return f"end the network before it and do the rest in your own code, --outputs {node.inputs[0]}, or {others}"
        return others

    def placeholder(self, node: Node, why: str) -> None:
        """One operator that stands for a node without a kernel: it reads and writes the node's tensors. why: of its refusal."""
        read = [self.values[name].tensor for name in dict.fromkeys(node.inputs) if name in self.values]
        written = []
        for name in node.outputs:
            if name:
                shape = self.net.shapes[name]
                axes = without_ones(channels_last(len(shape)), shape)
                quantizer = None
                with suppress(UnsupportedOperator):
                    quantizer = self.behind(name)
                value = self.computed(name, shape, self.dims(name), axes, quantizer or _NO_QUANTIZER)
                self.values[name] = value
                written.append(value.tensor)
        self.operators.append(Operator(node.op, tuple(read), tuple(written), {}, node.name, why))

    def refuse(self, what: str, instead: str) -> Any:
        """Raise UnsupportedOperator for the node at hand. what: follows on the operator's name. instead: what to do."""
        node = self.node
        assert node is not None
        raise UnsupportedOperator(f"{self.net.path}: node '{node.name}': {node.op} {what}; {instead}")

    def problem(self, what: str, instead: str) -> None:
        """Note what keeps the program from being written and what to do, and go on."""
        self.problems.append(UnsupportedOperator(f"{self.net.path}: {what}; {instead}"))

    # ------------------------------------------------------------------------------------------------------------- ports

    def graph_input(self, name: str) -> Value:
        """The input in the order in which its readers want it."""
        shape = self.net.shapes[name]
        quantizer = _NO_QUANTIZER
        try:
            quantizers = self.first_quantizers(name)
            if len(quantizers) != 1 or None in quantizers:
                unread = not self.net.consumers.get(name) and name not in self.net.outputs
                what = f": {UNREAD}" if unread else f" {_ONE_QUANTISER}"
                raise ModelError(f"{self.net.path}: input '{name}'{what}")
            quantizer = next(iter(quantizers)) or _NO_QUANTIZER
        except (ModelError, UnsupportedOperator) as error:
            self.problems.append(error)
        order = self.layout(name)
        axes = without_ones(order, shape)
        if len(shape) == 3 and order == channels_last(3):  # one-dimensional convolutions are two-dimensional ones of height 1
            axes = (axes[0], None, *axes[1:])
        value = self.computed(name, shape, self.dims(name), axes, quantizer)
        self.values[name] = value
        return value

    def first_quantizers(self, name: str) -> set[Quantizer | None]:
        """The quantisers that a graph input goes through first, behind views and casts; None where a reader has none.

        Of an input of integers it is the one that they are read with.
        """
        quantizers: set[Quantizer | None] = set()
        for reader in self.net.consumers.get(name, ()):
            if reader.op in ("QuantizeLinear", "DequantizeLinear"):
                quantizers.add(self.parameters(reader))
            elif reader.op in ("Cast", "Transpose", *_RESHAPES):
                quantizers |= self.first_quantizers(reader.outputs[0])
            else:
                quantizers.add(None)
        return quantizers | ({None} if name in self.net.outputs else set())

    def layout(self, name: str) -> tuple[int, ...]:
        """The order of axes in which the readers of a graph input want it: channels last, once ONNX's views are looked through.

        Where they want different ones, or none cares, it is channels last.
        """
        usual = channels_last(len(self.net.shapes[name]))
        wanted = {self._wanted(name, reader) for reader in self.readers(name) if not self._passes(name, reader)}
        wanted |= self._wanted_behind(name)
        wanted.discard(None)
        return (wanted.pop() or usual) if len(wanted) == 1 else usual

    def _wanted(self, name: str, reader: Node) -> tuple[int, ...] | None:
        """The order of axes in which one reader of a tensor wants it; None where any will do.

        What a view merges, such as a flattened image, is read in ONNX's own order, and so are the rows of matrix products.
        """
        rank = len(self.net.shapes[name])
        if reader.op == "Transpose":
            perm = attributes.permutation(reader, rank)
            return tuple(perm[axis] for axis in self.layout(reader.outputs[0]))
        if reader.op == "MatMul":
            return tuple(range(rank))
        if reader.op.startswith("Reduce") or reader.op in ("ArgMax", "Softmax", "LogSoftmax"):
            return None
        return self._wanted_by_view(name, reader) if reader.op in _RESHAPES else channels_last(rank)

    def _passes(self, name: str, node: Node) -> bool:
        """Whether a node works on a tensor number by number, or at the ends of axes: in whatever order they lie."""
        same_rank = len(self.net.shapes[name]) == len(self.net.shapes.get(node.outputs[0], ()))
        return same_rank and (OPS[node.op].memory_kind == "in place" or node.op in ("Pad", "Slice"))

    def _wanted_behind(self, name: str) -> set[tuple[int, ...] | None]:
        """What is wanted behind nodes that pass: by a Transpose or a product its own order, by all else channels last."""
        wanted, seen, todo = set[tuple[int, ...] | None](), {name}, [name]
        while todo:
            tensor = todo.pop()
            for reader in self.readers(tensor):
                if self._passes(tensor, reader):
                    output = reader.outputs[0]
                    todo += [] if output in seen else [output]
                    seen.add(output)
                elif tensor != name:
                    views = reader.op in _RESHAPES
                    wanted.add(channels_last(len(self.net.shapes[name])) if views else self._wanted(tensor, reader))
        return wanted

    def _wanted_by_view(self, name: str, reader: Node) -> tuple[int, ...]:
        shape, after = self.net.shapes[name], self.net.shapes[reader.outputs[0]]
        rank = len(shape)
        before, now = ([axis for axis, size in enumerate(sizes) if size > 1] for sizes in (shape, after))
        if [shape[axis] for axis in before] != [after[axis] for axis in now]:
            return tuple(range(rank))
        kept = [before[now.index(axis)] for axis in self.layout(reader.outputs[0]) if axis in now]
        for order in (channels_last(rank), tuple(range(rank))):
            if [axis for axis in order if axis in kept] == kept:
                return order
        return (*(axis for axis in range(rank) if axis not in kept), *kept)

    def graph_output(self, name: str) -> Value:
        """An output of the network in ONNX's order; a problem where it isn't quantised."""
        if name not in self.values:
            self.problem(f"output '{name}' isn't quantised", QUANTISE_AGAIN)
            return next(iter(self.values.values()))
        value = self.ordered(self.padding_done(self.values[name]))
        flat = len(value.shape) <= 2
        return self.arranged(value, without_ones(range(len(value.shape)), value.shape)) if flat else value

    def readers(self, tensor: str) -> list[Node]:
        """Who reads a tensor, looking through quantisation."""
        readers = []
        for node in self.net.consumers.get(tensor, ()):
            readers += self.readers(node.outputs[0]) if node.op in ("QuantizeLinear", "DequantizeLinear") else [node]
        return readers

    # ------------------------------------------------------------------------------------------- tensors and operators

    def dims(self, name: str) -> Dims:
        """Sizes of an ONNX tensor, as ``dim`` has them."""
        if self.dim is None:
            return self.net.shapes[name]
        known = self.origin.get(name, name)
        return tuple(self.dim(known, axis) for axis in range(len(self.net.shapes[name])))

    def computed(self, name: str, shape: Shape, dims: Dims, axes: Axes, quantizer: Quantizer) -> Value:
        """A new tensor; ``shape`` and ``dims`` in ONNX's order."""
        own = [1 if axis is None else dims[axis] for axis in axes]
        for axis, size in enumerate(dims):
            if axis not in axes and not isinstance(size, int):  # of size 1 in this network, but not in every cut of it
                place = max((place for place, known in enumerate(axes) if known is None), default=len(own) - 1)
                own[place] = own[place] * size
        self.tensors.append(Tensor(name, tuple(own), sizes_of(axes, shape), quantizer=quantizer))
        return Value(len(self.tensors) - 1, shape, dims, axes)

    def constant(
        self, name: str, shape: Shape, dims: Dims, dtype: str, stored: Storage, content: Callable[[], Constant]
    ) -> int:
        """A constant tensor. dims: its sizes as functions of widths. stored: what ``content`` will be, without its numbers."""
        self.tensors.append(Tensor(name, dims, shape, dtype, content=content, stored=stored))
        return len(self.tensors) - 1

    def weight(self, name: str, form: str, shape: Shape, dims: Dims, stored: Storage, content: Callable[[], Constant]) -> int:
        """A weight; one that several operators read in the same form is stored once."""
        if (name, form) not in self.weights:
            self.weights[name, form] = self.constant(name, shape, dims, "int8", stored, content)
        return self.weights[name, form]

    def integers(self, *values: int) -> int:
        """A constant list of numbers, such as a shape."""
        return self.numbers(np.array(values, np.int32))

    def numbers(self, values: Array, count: Any = None) -> int:
        """Plain int32 numbers of any shape. count: how many, where that depends on widths."""
        none = np.zeros(0)
        name = "/".join(map(str, values.reshape(-1).tolist())) if values.size <= 8 else "numbers"
        dims = values.shape if count is None else (count,)
        return self.constant(name, values.shape, dims, "int32", Storage(), lambda: Constant(values, none, none))

    def scalar(self, name: str, number: int, quantizer: Quantizer) -> int:
        """One int8 number with this quantiser."""
        content = Constant(np.full((1,), number, np.int8), *_scale_of(quantizer))
        return self.constant(name, (1,), (1,), "int8", Storage(1, symmetric=False), lambda: content)

    def emit(self, operator: str, inputs: Sequence[int], outputs: Sequence[int], **options: Any) -> None:
        """Add an operator. inputs, outputs: tensors of the program, by number."""
        node = self.node.name if self.node else ""
        self.operators.append(Operator(operator, tuple(inputs), tuple(outputs), options, node))

    def name(self, value: Value) -> str:
        """What the value's tensor is called in the program."""
        return self.tensors[value.tensor].name

    def quantizer(self, value: Value) -> Quantizer:
        """Scale and zero point of the value's integers."""
        return self.tensors[value.tensor].quantizer or _NO_QUANTIZER

    def parameters(self, node: Node) -> Quantizer:
        """The quantiser of a QuantizeLinear or DequantizeLinear, for int8; unsigned integers are the same numbers less 128."""
        known = self.quantizers.get(node.inputs[1:3])
        if known is None:
            known = self.quantizers[node.inputs[1:3]] = self._parameters(node)
        return known

    def _parameters(self, node: Node) -> Quantizer:
        constants = [self.net.constants.get(name) for name in node.inputs[1:3]]
        if any(value is None or value.size != 1 for value in constants):
            raise UnsupportedOperator(
                f"{self.net.path}: node '{node.name}': {node.op} of data must have one constant scale and zero point; "
                f"{QUANTISE_AGAIN}"
            )
        scale, zero = np.asarray(constants[0]), np.asarray(constants[1] if len(constants) > 1 else np.uint8(0))
        if zero.dtype not in (np.int8, np.uint8):
            raise UnsupportedOperator(
                f"{self.net.path}: node '{node.name}': {node.op} to {zero.dtype}, not int8; {QUANTISE_AGAIN}"
            )
        if not 0 < float(np.float32(scale.item())) < np.inf:
            raise UnsupportedOperator(
                f"{self.net.path}: node '{node.name}': {node.op} by a scale of {scale.item()}, not above 0; {QUANTISE_AGAIN}"
            )
        return Quantizer(float(np.float32(scale.item())), int(zero.item()) - (128 if zero.dtype == np.uint8 else 0))

    def behind(self, name: str) -> Quantizer | None:
        """The quantiser that a tensor goes through, None where some reader takes it as it is."""
        readers = self.net.consumers.get(name, ())
        if not readers or name in self.net.outputs or any(reader.op != "QuantizeLinear" for reader in readers):
            return None
        return self.parameters(readers[0])

    def target(self, node: Node, *, index: int = 0, same: Value | None = None) -> Target:
        """What the node's output must be: a clamp right behind it included, with the quantiser behind that.

        same: where nothing quantises the output, it keeps this value's quantiser.
        """
        name, low, high = node.outputs[index], -np.inf, np.inf
        reader = self.net.sole_consumer(name)
        if reader is not None and OPS[reader.op].scale(reader, self.net) == "clamp":
            low, high = bounds(reader)
            self.done[reader.name] = None
            name = reader.outputs[0]
        quantizer = self.behind(name)
        if quantizer is None and same is not None:
            quantizer = self.quantizer(same)
        if quantizer is None:
            self.problem(f"node '{node.name}': {node.op} makes a tensor that isn't quantised", QUANTISE_AGAIN)
            quantizer = _NO_QUANTIZER
        return Target(name, self.net.shapes[name], self.dims(name), quantizer, low, high)

    def make(self, target: Target, axes: Axes, quantizer: Quantizer | None = None) -> Value:
        """The tensor of a target, with another quantiser where the operator writes another."""
        return self.computed(target.name, target.shape, target.dims, axes, quantizer or target.quantizer)

    def finish(self, target: Target, value: Value, *, fused: int = 0) -> None:
        """Take ``value`` for the target: requantised where it must be, clamped where the operator didn't do it (``fused``)."""
        if self.quantizer(value) != target.quantizer:
            value = self.requantized(value, target.quantizer)
        clamped = fused and fused == target.fused
        for operator, bound in (("MAXIMUM", target.low), ("MINIMUM", target.high)):
            number = stored_number(bound, target.quantizer)
            if clamped or isinf(bound) or number == (LOW if operator == "MAXIMUM" else HIGH):
                continue
            limit = self.scalar(f"{bound:g}", number, target.quantizer)
            bounded = self.like(value, f"{target.name}/{operator.lower()}", target.quantizer)
            self.emit(operator, [value.tensor, limit], [bounded.tensor])
            value = bounded
        self.values[target.name] = replace(value, shape=target.shape, dims=target.dims)

    def like(self, value: Value, name: str, quantizer: Quantizer | None = None) -> Value:
        """A new tensor in the layout of ``value``."""
        result = self.computed(name, value.shape, value.dims, value.axes, quantizer or self.quantizer(value))
        return replace(result, shuffle=value.shuffle, pads=value.pads)

    def requantized(self, value: Value, quantizer: Quantizer, why: str = "another scale") -> Value:
        """The value with another quantiser, by a QUANTIZE. why: for the report of copies."""
        result = self.like(value, f"{self.name(value)}/requantized", quantizer)
        self.emit("QUANTIZE", [value.tensor], [result.tensor], copy=why)
        return result

    def unary(self, operator: str, value: Value, target: Target, **options: Any) -> Value:
        """An operator of one input whose output has the same sizes, in the target's quantiser or the kernel's own."""
        result = self.like(value, target.name, KERNELS[operator].writes or target.quantizer)
        self.emit(operator, [value.tensor], [result.tensor], **options)
        return result

    # ------------------------------------------------------------------------------------------------- bringing in order

    def data(self, node: Node, index: int = 0) -> Value:
        """An input that is computed."""
        name = node.inputs[index] if index < len(node.inputs) else ""
        if name not in self.values:
            self.refuse(f"reads '{name}', which isn't quantised", QUANTISE_AGAIN)
        return self.values[name]

    def arranged(self, value: Value, axes: Axes) -> Value:
        """The value with these dimensions, axes of size 1 as None: transposed and reshaped where it isn't so already."""
        value = self.ordered(value)
        if value.axes == axes:
            return value
        key = (value.tensor, value.axes, axes, value.shape)  # of one tensor there may be views whose axes differ
        if key not in self.rearranged:
            self.rearranged[key] = self._arrange(value, axes)
        return self.rearranged[key]

    def _arrange(self, value: Value, axes: Axes) -> Value:
        wanted = [axis for axis in axes if axis is not None]
        kept = [axis for axis in value.axes if axis is not None]
        assert sorted(kept) == sorted(wanted), f"{axes} of {value}"
        if kept != wanted:
            value = self._transposed(value, kept, wanted)
        return value if value.axes == axes else self.reshaped(value, value.shape, value.dims, axes)

    def _transposed(self, value: Value, kept: Sequence[int], wanted: Sequence[int]) -> Value:
        """The value with its axes in another order. Axes that stay side by side move as one: kernels transpose up to 4."""
        many = len(value.axes) > MAX_TRANSPOSED
        runs: list[list[int]] = []
        for axis in wanted:
            if many and runs and kept.index(runs[-1][-1]) + 1 == kept.index(axis):
                runs[-1].append(axis)
            else:
                runs.append([axis])
        ones: list[int] = []
        source, name = value, f"{self.name(value)}/transposed"
        if many:
            if len(runs) > MAX_TRANSPOSED:
                self.refuse(
                    f"needs a transposition of {len(runs)} axes; the runtime transposes {MAX_TRANSPOSED}",
                    "write it with fewer axes, or in two steps",
                )
            before = sorted(runs, key=lambda run: kept.index(run[0]))
            merged = [(prod(value.shape[a] for a in run), _product(value.dims[a] for a in run)) for run in before]
            source = self._raw(value, f"{self.name(value)}/merged", merged)
            perm = [before.index(run) for run in runs]
        else:
            ones = [place for place, axis in enumerate(value.axes) if axis is None]
            perm = [*ones, *(value.axes.index(run[0]) for run in runs)]
        order = self.integers(*perm)
        sizes = [(self.tensors[source.tensor].shape[p], self.tensors[source.tensor].dims[p]) for p in perm]
        transposed = Tensor(name, tuple(d for _, d in sizes), tuple(s for s, _ in sizes), quantizer=self.quantizer(value))
        self.tensors.append(transposed)
        self.emit("TRANSPOSE", [source.tensor, order], [len(self.tensors) - 1], copy="another order of axes")
        moved = replace(value, tensor=len(self.tensors) - 1, axes=(*(None for _ in ones), *wanted))
        if many:  # its tensor has fewer dimensions than axes: give it one for each
            moved = self.reshaped(moved, value.shape, value.dims, tuple(wanted))
        return moved

    def _raw(self, value: Value, name: str, sizes: Sequence[tuple[int, Any]]) -> Value:
        """A RESHAPE to dimensions that aren't axes of ONNX's tensor; the caller gives the result its axes."""
        raw = Tensor(name, tuple(d for _, d in sizes), tuple(s for s, _ in sizes), quantizer=self.quantizer(value))
        self.tensors.append(raw)
        tensor = len(self.tensors) - 1
        self.reshape(value.tensor, tensor)
        return replace(value, tensor=tensor)

    def reshape(self, source: int, target: int, why: str = "another shape") -> None:
        """A RESHAPE of what the last RESHAPE read: one of two in a row is enough, and nothing reads the other then."""
        source = self.reshapes.get(source, source)
        if self.tensors[source].quantizer == self.tensors[target].quantizer:
            self.reshapes[target] = source
        shape = self.tensors[target].shape
        self.emit("RESHAPE", [source, self.integers(*shape)], [target], new_shape=shape, copy=why)

    def ordered(self, value: Value) -> Value:
        """The value with its elements in ONNX's order; a fully connected layer needs that not, others do."""
        if value.shuffle is None:
            return value
        place = self.numbers(np.argsort(value.shuffle).astype(np.int32), _product(value.dims))
        ordered = replace(self.like(value, f"{self.name(value)}/ordered"), shuffle=None)
        axis = next(i for i, a in enumerate(value.axes) if a is not None)
        self.emit("GATHER", [value.tensor, place], [ordered.tensor], axis=axis, copy="another order of elements")
        return ordered

    def reshaped(self, value: Value, shape: Shape, dims: Dims, axes: Axes, shuffle: Array | None = None) -> Value:
        """A RESHAPE: the same bytes under another shape and other axes."""
        result = self.computed(f"{self.name(value)}/reshaped", shape, dims, axes, self.quantizer(value))
        self.reshape(value.tensor, result.tensor)
        return replace(result, shuffle=shuffle)

    def reinterpreted(self, value: Value, quantizer: Quantizer) -> Value:
        """The same integers read with another quantiser: a RESHAPE, which copies bytes, to a tensor that has it."""
        result = self.like(value, f"{self.name(value)}/reinterpreted", quantizer)
        self.reshape(value.tensor, result.tensor, "a scale that differs between QuantizeLinear and DequantizeLinear")
        return result

    def spatial(self, value: Value) -> Value:
        """A tensor (batch, channel, [height,] width) as (batch, height, width, channel)."""
        rank = len(value.shape)
        if rank not in (3, 4):
            self.refuse(f"works on {rank - 2} axes of space", "write it with 1 or 2, which TensorFlow Lite Micro has")
        return self.arranged(value, image(value.shape))

    def order(self, value: Value) -> tuple[int, ...]:
        """All ONNX axes in the order in which the value has them; those of size 1 where channels last has them."""
        usual = channels_last(len(value.shape))
        kept = [axis for axis in value.axes if axis is not None]
        if [axis for axis in usual if axis in kept] == kept:
            return usual
        return (*(axis for axis in usual if axis not in kept), *kept)

    def padded(self, value: Value, pads: Sequence[tuple[int, int]], fill: int | None = None) -> Value:
        """A PAD of height and width in front of an operator; fill: an int8 number instead of the zero point."""
        rank = len(value.shape)
        shape, dims = list(value.shape), list(value.dims)
        for axis, pair in zip(range(2, rank), pads[4 - rank :], strict=True):
            shape[axis] += sum(pair)
            dims[axis] = dims[axis] + sum(pair)
        axes = image(tuple(shape))
        result = self.computed(f"{self.name(value)}/padded", tuple(shape), tuple(dims), axes, self.quantizer(value))
        table = self.numbers(np.array([(0, 0), *pads, (0, 0)], np.int32))
        self.pad(value, table, result, fill, copy="padding that the kernel doesn't do by itself")
        return result

    def padding_done(self, value: Value) -> Value:
        """The value with the zeros that it carries as ``pads`` written out."""
        if not any(map(any, value.pads)):
            return value
        pads = value.pads if len(value.pads) == 2 else ((0, 0), *value.pads)
        return self.padded(self.spatial(replace(value, pads=())), pads)

    def pad(self, value: Value, table: int, result: Value, fill: int | None, **options: Any) -> None:
        """fill: an int8 number, written where the zero point isn't meant."""
        if fill is None:
            self.emit("PAD", [value.tensor, table], [result.tensor], **options)
        else:
            number = self.scalar("fill", fill, self.quantizer(value))
            self.emit("PADV2", [value.tensor, table, number], [result.tensor], **options)


def _product(sizes: Any) -> Any:
    total: Any = 1
    for size in sizes:
        total = total * size
    return total


def _scale_of(quantizer: Quantizer) -> tuple[Array, Array]:
    return np.array([quantizer.scale], np.float32), np.array([quantizer.zero_point])


def stored_number(value: float, quantizer: Quantizer) -> int:
    """What a quantiser stores for a number; the lowest for one that isn't finite."""
    if not isfinite(value):
        return LOW
    return min(max(round(value / quantizer.scale) + quantizer.zero_point, LOW), HIGH)


def bounds(clamp: Node) -> tuple[float, float]:
    """What a Relu or Clip holds its input in."""
    if clamp.op == "Relu":
        return 0.0, np.inf
    low, high = clamp.get("min"), clamp.get("max")
    largest = float(np.finfo(np.float32).max)  # old exporters write "no limit" so
    low = -np.inf if low is None or low <= -largest else float(low)
    return low, np.inf if high is None or high >= largest else float(high)


def is_dense(node: Node, net: Network) -> bool:
    """Whether a node is a fully connected layer."""
    entry = OPS[node.op]
    return node.op == "Gemm" or (isinstance(entry, MatMul) and entry.is_layer(node, net))


def _needed(program: Program) -> Program:
    """The program without operators that nothing reads, and without their tensors."""
    read = {port.tensor for port in (*program.inputs, *program.outputs)}
    kept = []
    for operator in reversed(program.operators):
        if operator.why or read.intersection(operator.outputs):
            kept.append(operator)
            read |= {*operator.inputs, *operator.outputs}
    if len(kept) == len(program.operators) and len(read) == len(program.tensors):
        return program
    place = {old: new for new, old in enumerate(index for index in range(len(program.tensors)) if index in read)}
    operators = tuple(
        replace(o, inputs=tuple(place[i] for i in o.inputs), outputs=tuple(place[i] for i in o.outputs)) for o in reversed(kept)
    )
    inputs, outputs = (
        tuple(replace(port, tensor=place[port.tensor]) for port in ports) for ports in (program.inputs, program.outputs)
    )
    return replace(
        program, tensors=tuple(program.tensors[i] for i in place), operators=operators, inputs=inputs, outputs=outputs
    )
