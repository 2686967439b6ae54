"""An immutable view of an ONNX file: load it, look at it, write it back.

The ONNX graph is the model. Nothing here rebuilds it: a ``Network`` keeps the file's names, metadata, opset and declared
inputs and outputs, and ``to_proto`` writes them back. What ``load`` settles once, so that nobody above has to:

* a quantised file's integer operators are float operators between quantisers (``qlinear``);
* an If that is decided already is the branch it takes (``branches``), Einsum and its like are simpler operators (``lowering``);
* a tail that nobody wants is gone (``tails``);
* what depends on constants alone, or on the shape of something, is a constant (the node is gone, its value stays);
* a *parameter* of a node (axes, pads, a target shape, clip limits) is in ``Node.attrs``, whether this opset writes it as an
  attribute or as a constant input; ``to_proto`` puts it back where the wanted opset has it;
* every tensor has a static shape, at batch 1;
* nodes that no graph output needs are dropped; every node has a name of its own.

It knows nothing of what operators mean for channels, costs or training; that is the operator table's.
"""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, TensorShapeProto, ValueInfoProto, helper, numpy_helper

from mcuprune.errors import ModelError, UnsupportedOperator
from mcuprune.graph import branches, external, intake, qlinear, tails
from mcuprune.graph import rewrite as lowering
from mcuprune.names import Names
from mcuprune.notebook import Drawn
from mcuprune.places import write_bytes

Shape = tuple[int, ...]

#: For each operator, the inputs that are parameters, by the name under which ``Node.attrs`` has them. Where an opset's
#: schema calls one differently (Pad's ``constant_value``, once ``value``), the other spelling follows after a slash.
PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "Clip": ("min", "max"),
    "Dropout": ("ratio", "training_mode"),
    "Expand": ("shape",),
    "Gather": ("indices",),
    "Pad": ("pads", "value/constant_value", "axes"),
    "ReduceL1": ("axes",),
    "ReduceL2": ("axes",),
    "ReduceLogSum": ("axes",),
    "ReduceLogSumExp": ("axes",),
    "ReduceMax": ("axes",),
    "ReduceMean": ("axes",),
    "ReduceMin": ("axes",),
    "ReduceProd": ("axes",),
    "ReduceSum": ("axes",),
    "ReduceSumSquare": ("axes",),
    "Reshape": ("shape",),
    "Resize": ("roi", "scales", "sizes"),
    "Slice": ("starts", "ends", "axes", "steps"),
    "Split": ("split",),
    "Squeeze": ("axes",),
    "Tile": ("repeats",),
    "TopK": ("k/K",),
    "Unsqueeze": ("axes",),
    "Upsample": ("scales",),
}

#: A constant of more elements than this is taken for a mistake or an attack, not for a weight.
MAX_ELEMENTS = 2**28
#: The same for all that a file stores.
MAX_STORED = 2**30
#: The same for a tensor that is computed.
MAX_ACTIVATIONS = 2**34
OLDEST_OPSET, NEWEST_OPSET = 7, onnx.defs.onnx_opset_version()
_DEFAULT_DOMAINS = ("", "ai.onnx")
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


@dataclass(frozen=True)
class Network(Drawn):
    """A feed-forward graph with static shapes at batch 1, nodes in a topological order (the file's, where it is one).

    constants: every tensor that is known before the network runs, weights included, as the numbers it computes with.
    stored: the integers behind those constants that a file keeps quantised, symmetric ones. A constant that is replaced
        loses its entry; ``to_proto`` writes the integers and a DequantizeLinear.
    shapes, dtypes: of every tensor, constants included; dtypes are ONNX's ``TensorProto`` codes.
    header: the file's ModelProto without nodes and initializers: metadata, opset, declared inputs and outputs.
    """

    nodes: tuple[Node, ...]
    constants: Mapping[str, np.ndarray]
    shapes: Mapping[str, Shape]
    dtypes: Mapping[str, int]
    header: ModelProto
    path: str
    stored: Mapping[str, Stored] = field(default_factory=dict)

    def __post_init__(self) -> None:
        own = {name: found for name, found in self.stored.items() if self.constants.get(name) is found.value}
        object.__setattr__(self, "stored", own)

    @property
    def opset(self) -> int:
        return _opset(self.header)

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Names of the graph's inputs, initializers that old files list among them left out."""
        return tuple(value.name for value in self.header.graph.input)

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        return tuple(value.name for value in self.header.graph.output)

    def with_metadata(self, key: str, value: str) -> Network:
        """The same network with one entry of its metadata set."""
        header = ModelProto()
        header.CopyFrom(self.header)
        kept = [(entry.key, entry.value) for entry in header.metadata_props if entry.key != key]
        del header.metadata_props[:]
        for name, text in (*kept, (key, value)):
            header.metadata_props.add(key=name, value=text)
        return replace(self, header=header)

    @property
    def metadata(self) -> Mapping[str, str]:
        return {entry.key: entry.value for entry in self.header.metadata_props}

    @cached_property
    def producer(self) -> Mapping[str, Node]:
        """The node that makes each computed tensor."""
        return {output: node for node in self.nodes for output in node.outputs if output}

    @cached_property
    def consumers(self) -> Mapping[str, tuple[Node, ...]]:
        """The nodes that read each tensor, once each, in graph order. Graph outputs don't count as readers."""
        readers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                if name:
                    readers.setdefault(name, []).append(node)
        return {name: tuple(nodes) for name, nodes in readers.items()}

    def sole_consumer(self, tensor: str) -> Node | None:
        """The one node that reads ``tensor``, or None if there are several, or none, or it is a graph output."""
        readers = self.consumers.get(tensor, ())
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None

    def is_constant(self, name: str) -> bool:
        return name in self.constants

    def names(self) -> Names:
        """Every name of a tensor or node, for whoever adds some."""
        parameters = (name for node in self.nodes for name in node.origins.values())
        own = (name for node in self.nodes for name in (node.name, *node.inputs, *node.outputs))
        return Names([*self.inputs, *self.outputs, *self.constants, *own, *parameters])

    def with_constants(self, constants: Mapping[str, np.ndarray]) -> Network:
        """The same graph with some constants replaced by others of the same shapes, as training does."""
        return replace(self, constants={**self.constants, **constants})

    def rebuilt(self, nodes: Sequence[Node], constants: Mapping[str, np.ndarray]) -> Network:
        """The network with other nodes and constants; shapes are inferred anew, unused constants dropped.

        Raises ModelError if the new graph is inconsistent.
        """
        needed = _live(nodes, self.outputs)
        used = {name for node in needed for name in node.inputs} | set(self.outputs)
        kept = {name: value for name, value in constants.items() if name in used}
        inputs = {value.name: (self.shapes[value.name], value.type.tensor_type.elem_type) for value in self.header.graph.input}
        protos, extra = node_protos(needed, kept, self.opset, self.dtypes, self.inputs)
        shapes, dtypes = _infer(self.path, protos, {**kept, **extra}, inputs, self.outputs, self.header)
        return Network(needed, kept, shapes, dtypes, self.header, self.path, self.stored)

    def rewired(
        self,
        nodes: Sequence[Node],
        constants: Mapping[str, np.ndarray],
        *,
        like: Mapping[str, str] | None = None,
        dtypes: Mapping[str, int] | None = None,
        stored: Mapping[str, Stored] | None = None,
    ) -> Network:
        """``rebuilt`` where every tensor that nodes make keeps its shape: nothing is inferred.

        like: new tensor -> the tensor whose shape, and type but where ``dtypes`` says otherwise, it has.
        stored: integers behind some of ``constants``, beside those known already.
        """
        used = {name for node in nodes for name in node.inputs} | set(self.outputs)
        kept = {name: value for name, value in constants.items() if name in used}
        new = like or {}
        shapes = {**self.shapes, **{name: self.shapes[known] for name, known in new.items()}}
        shapes |= {name: value.shape for name, value in kept.items()}
        types = {**self.dtypes, **{name: self.dtypes[known] for name, known in new.items()}, **(dtypes or {})}
        types |= {name: helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in kept.items()}
        behind = {**self.stored, **(stored or {})}
        return Network(tuple(nodes), kept, shapes, types, self.header, self.path, behind)

    def to_proto(self, *, opset: int | None = None) -> ModelProto:
        """The network as an ONNX model, in its own opset or, parameters moved to where that one has them, in ``opset``."""
        model, nodes, parameters = self._graph(opset)
        nodes, constants = _with_integers(nodes, self.constants, self.stored, opset or self.opset, self.names())
        model.graph.node.extend(nodes)
        for name, value in {**constants, **parameters}.items():
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return model

    def _graph(self, opset: int | None = None) -> tuple[ModelProto, list[NodeProto], dict[str, np.ndarray]]:
        """``to_proto`` without nodes and constants, its nodes, and the constants that hold parameters."""
        model = ModelProto()
        model.CopyFrom(self.header)
        model.ir_version = max(model.ir_version, 4)  # before 4 every initializer had to be a graph input too
        for value in model.graph.output:
            if not value.type.tensor_type.HasField("shape"):  # runtimes take that, the checker wants a rank at least
                value.type.tensor_type.shape.dim.extend([TensorShapeProto.Dimension()] * len(self.shapes[value.name]))
        if opset is not None:
            _set_opset(model, opset)
        nodes, parameters = node_protos(self.nodes, self.constants, opset or self.opset, self.dtypes, self.inputs)
        return model, nodes, parameters

    def fault(self) -> str | None:
        """Why ``save`` would refuse the network, whatever the values of its weights; None where it wouldn't."""
        model, nodes, parameters = self._graph()
        model.graph.node.extend(nodes)
        for name, value in {**self.constants, **parameters}.items():
            if _takes_part(value):
                model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
            else:
                model.graph.input.append(_declared(name, value))
        try:
            onnx.checker.check_model(model, full_check=True)
        except Exception as error:  # ValidationError, InferenceError, and what the C++ side lets through
            return _first_line(error)
        return None

    def save(self, path: str | Path) -> None:
        """Write the network, whole or not at all. Raises OutputError where that isn't possible."""
        write_model(self.to_proto(), path)


#: The first opsets with DequantizeLinear, and with its axis.
_DEQUANTIZE_OPSET, _AXIS_OPSET = 10, 13


def _with_integers(
    nodes: Sequence[NodeProto], constants: Mapping[str, np.ndarray], stored: Mapping[str, Stored], opset: int, names: Names
) -> tuple[list[NodeProto], dict[str, np.ndarray]]:
    """Nodes and initializers with stored integers, each behind a DequantizeLinear in front of its first reader."""
    kept, written, done = dict(constants), [], set()
    for node in nodes:
        for name in node.input:
            found = stored.get(name)
            along = found is not None and found.scale.size > 1
            if found is None or name in done or opset < (_AXIS_OPSET if along else _DEQUANTIZE_OPSET):
                continue
            done.add(name)
            del kept[name]
            scale = found.scale if along else found.scale.reshape(())
            # onnxruntime makes a QGemm of a Gemm only where zero points are written out
            source = [names.free(f"{name}/{part}") for part in (found.integers.dtype, "scale", "zero_point")]
            kept.update(zip(source, (found.integers, scale, np.zeros(scale.shape, found.integers.dtype)), strict=True))
            axis = {"axis": found.axis} if along else {}
            label = names.free(f"{name}/DequantizeLinear")
            written.append(helper.make_node("DequantizeLinear", source, [name], name=label, **axis))
        written.append(node)
    return written, kept


def write_model(model: ModelProto, path: str | Path) -> None:
    """Check ``model`` and write it beside ``path``, then rename it into place. Raises OutputError."""
    onnx.checker.check_model(model, full_check=True)
    write_bytes(model.SerializeToString(deterministic=True), path)


# ------------------------------------------------------------------------------------------------------------- loading


def load(
    path: str | Path,
    *,
    input_shapes: Mapping[str, Shape] | None = None,
    outputs: Sequence[str] = (),
    accept: Callable[[Node], None] = lambda node: None,
) -> Network:
    """Read an ONNX file as a network of static shapes at batch 1.

    input_shapes: fixes the free dimensions of the inputs that it names.
    outputs: tensors at which the network ends, instead of the file's outputs; names, or several joined by commas.
    accept: called with each node that is left after constants are folded; raises UnsupportedOperator for what it refuses.
    Raises ModelError for what is no ONNX model, or not one of static feed-forward shape.
    """
    return from_proto(_read(Path(path)), str(path), input_shapes=input_shapes, outputs=outputs, accept=accept)


def from_proto(
    model: ModelProto,
    path: str,
    *,
    input_shapes: Mapping[str, Shape] | None = None,
    outputs: Sequence[str] = (),
    accept: Callable[[Node], None] = lambda node: None,
) -> Network:
    """``load`` for a model that is in memory; ``path`` is what messages call it."""
    intake.settled(model, path)
    if outputs:
        model = tails.cut(model, outputs, path)
    try:
        net = _from_proto(model, path, input_shapes, accept)
    except UnsupportedOperator as error:
        flag = _proposal(model, error, path, input_shapes, accept)
        if flag is None:
            raise
        raise UnsupportedOperator(
            f"{error}; {flag} ends the network before it, if what follows may run elsewhere", tensor=error.tensor
        ) from None
    return _checked(net)


def _proposal(
    model: ModelProto,
    error: UnsupportedOperator,
    path: str,
    input_shapes: Mapping[str, Shape] | None,
    accept: Callable[[Node], None],
) -> str | None:
    """The flag that ends the network before what was refused, where it is a tail and the rest can be read."""

    def read(shorter: ModelProto) -> str | None:
        try:
            _from_proto(shorter, path, input_shapes, accept)
        except UnsupportedOperator as refused:
            return refused.tensor or ""
        except ModelError:
            return ""
        return None

    return None if error.tensor is None else tails.proposal(model, error.tensor, read)


def _from_proto(
    model: ModelProto, path: str, input_shapes: Mapping[str, Shape] | None, accept: Callable[[Node], None]
) -> Network:
    if model.functions:
        model = _inlined(model, path)
    _refuse_foreign(model, path)
    batch = _baked_batch(model)
    if batch > 1 and not input_shapes:
        try:
            single = _network(_at_batch_one(model, batch), path, {}, accept)
        except ModelError:
            return _network(model, path, {}, accept)  # the leading axis is no batch
        sizes = {v.name: v.type.tensor_type.shape.dim[0].dim_value for v in model.graph.output if _rank(v)}
        if all(single.shapes[name] and sizes.get(name) in (0, batch * single.shapes[name][0]) for name in single.outputs):
            for kept, declared in (
                (single.header.graph.input, model.graph.input),
                (single.header.graph.output, model.graph.output),
            ):
                by_name = {value.name: value for value in declared}
                for value in kept:
                    value.CopyFrom(by_name[value.name])
            return single
    return _network(model, path, input_shapes or {}, accept)


def _inlined(model: ModelProto, path: str) -> ModelProto:
    """The model with calls of its own functions replaced by their bodies."""
    from onnx import inliner

    try:
        return inliner.inline_local_functions(model)
    except Exception as error:  # whatever the C++ side makes of a damaged function
        raise ModelError(f"{path}: its functions can't be inlined ({_first_line(error)}); export without functions") from None


def _rank(value: ValueInfoProto) -> int:
    return len(value.type.tensor_type.shape.dim)


def _baked_batch(model: ModelProto) -> int:
    """The size of the leading axis that all inputs share, 1 where there is none."""
    stored = {initializer.name for initializer in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    sizes = {value.type.tensor_type.shape.dim[0].dim_value if _rank(value) > 1 else 1 for value in inputs}
    return sizes.pop() if len(sizes) == 1 else 1


def _at_batch_one(model: ModelProto, batch: int) -> ModelProto:
    """The model with inputs of batch 1 instead of ``batch``, and target shapes that name the batch freed of it."""
    single = ModelProto()
    single.CopyFrom(model)
    stored = {initializer.name: initializer for initializer in single.graph.initializer}
    names = Names(_all_names(single))
    literals = {node.output[0]: node for node in single.graph.node if node.op_type == "Constant" and node.output}
    for value in [*single.graph.input, *single.graph.output]:
        if value.name not in stored and _rank(value) and value.type.tensor_type.shape.dim[0].dim_value == batch:
            value.type.tensor_type.shape.dim[0].dim_value = 1
    for node in single.graph.node:
        where = {"Reshape": 1, "Expand": 1, "Resize": 3}.get(node.op_type, 0)
        if not where or len(node.input) <= where:
            continue
        name = node.input[where]
        tensor = stored.get(name)
        if tensor is None and name in literals and literals[name].attribute:
            tensor = literals[name].attribute[0].t
        if tensor is None or tensor.data_type != TensorProto.INT64 or len(tensor.dims) != 1:
            continue
        target = np.array(_array(tensor, ""))
        if target.size and target[0] == batch:
            target[0] = 1
            node.input[where] = names.free(f"{name}/{node.output[0]}")
            single.graph.initializer.append(numpy_helper.from_array(target, node.input[where]))
    return single


def _all_names(model: ModelProto) -> Iterator[str]:
    """The names of all tensors and nodes of a graph."""
    graph = model.graph
    for part in (graph.input, graph.output, graph.initializer):
        yield from (one.name for one in part)
    for node in graph.node:
        yield node.name
        yield from node.input
        yield from node.output


def _network(model: ModelProto, path: str, input_shapes: Mapping[str, Shape], accept: Callable[[Node], None]) -> Network:
    graph = model.graph
    _refuse_heavy(model, path)
    constants = {}
    for initializer in graph.initializer:
        constants[initializer.name] = _array(initializer, path)
    header = ModelProto()
    header.CopyFrom(model)
    for repeated in ("node", "initializer", "value_info", "sparse_initializer", "quantization_annotation"):
        header.graph.ClearField(repeated)
    real_inputs = [value for value in graph.input if value.name not in constants]
    del header.graph.input[:]
    header.graph.input.extend(real_inputs)
    outputs = tuple(value.name for value in graph.output)
    if not outputs:
        raise ModelError(f"{path}: the graph has no outputs; export it again, or name some with --outputs")
    inputs = _static_inputs(real_inputs, input_shapes, path)

    known = {**constants, **_literals(graph.node, path)}
    protos = _sorted(graph.node, set(inputs) | set(constants), path)
    protos, added = qlinear.floated(protos, known, _opset(header), Names(_all_names(model)), path)
    constants |= added
    protos = _sorted(protos, set(inputs) | set(constants), path)
    protos = _live(protos, outputs)
    _refuse_malformed(protos, _opset(header), header.ir_version, path)
    stored: dict[str, Stored] = {}
    protos, constants, shapes, dtypes = _fold(path, protos, constants, inputs, outputs, header, stored)
    for name in outputs:
        if name in constants:
            raise ModelError(f"{path}: output '{name}' doesn't depend on any input; name the others with --outputs")

    nodes = _nodes(protos, constants, _opset(header), path)
    for node in nodes:
        accept(node)
    used = {name for node in nodes for name in node.inputs}
    for name in [*used, *outputs]:
        if name and any(size < 1 for size in shapes.get(name, (0,))):
            maker = next((f"node '{node.name}' ({node.op})" for node in nodes if name in node.outputs), "an input")
            found = f"shape {list(shapes[name])}" if name in shapes else "no static shape"
            raise ModelError(
                f"{path}: tensor '{name}' of {maker} has {found}; export with static shapes, or give --input-shape"
            )
    for node in nodes:
        _refuse_unsound(node, shapes, path)
        if any(dtypes.get(name) == TensorProto.STRING for name in (*node.inputs, *node.outputs)):
            raise UnsupportedOperator(f"{path}: node '{node.name}' ({node.op}) handles text; mcuprune handles numbers")
    nodes = tuple(_of_all_axes(_batch_free(node, shapes), shapes) for node in nodes)
    kept = {name: value for name, value in constants.items() if name in used}
    for value in header.graph.output:
        if not value.type.tensor_type.elem_type:  # an output that the user chose, of whose type the file says nothing
            value.type.tensor_type.elem_type = dtypes[value.name]
    return Network(nodes, kept, shapes, dtypes, header, path, stored)


def _refuse_malformed(protos: Sequence[NodeProto], opset: int, ir_version: int, path: str) -> None:
    """Refuse nodes with more, fewer or other inputs and attributes than their operator has in this opset."""
    context = onnx.checker.C.CheckerContext()
    context.ir_version = max(ir_version, 3)
    context.opset_imports = dict.fromkeys(_DEFAULT_DOMAINS, opset)
    for index, proto in enumerate(protos):
        if branches.is_if(proto) or (proto.op_type == "GroupNormalization" and opset < lowering.PER_CHANNEL):
            continue  # the checker can't see the tensors around a branch, and calls this form of the other one deprecated
        try:
            onnx.checker.check_node(proto, context)
        except onnx.checker.ValidationError as error:
            name = proto.name or f"{proto.op_type}_{index}"
            raise ModelError(
                f"{path}: node '{name}' is no valid {proto.op_type} of opset {opset} ({_first_line(error)}); export it again"
            ) from None


def _refuse_unsound(node: Node, shapes: Mapping[str, Shape], path: str) -> None:
    """Refuse what shape inference lets through: absurd sizes, parameters and views of another number of elements."""
    counts = [prod(shapes[name]) for name in (*node.inputs, *node.outputs) if name in shapes]
    if any(count > MAX_ACTIVATIONS for count in counts):
        raise ModelError(
            f"{path}: node '{node.name}' ({node.op}) handles a tensor of {max(counts)} elements, more than {MAX_ACTIVATIONS}; "
            "give a smaller --input-shape, or export the file again if it is damaged"
        )
    perm = node.attrs.get("perm") if node.op == "Transpose" else None
    if perm and sorted(perm) != list(range(len(shapes[node.inputs[0]]))):
        shape = list(shapes[node.inputs[0]])
        raise ModelError(
            f"{path}: node '{node.name}' (Transpose) has perm {list(perm)} for shape {shape}; export the file again"
        )
    for bound in ("min", "max") if node.op == "Clip" else ():
        if not isinstance(node.attrs.get(bound, 0.0), (int, float)):
            raise ModelError(f"{path}: node '{node.name}' (Clip) has several numbers as its {bound}; export the file again")
    if node.op in ("Conv", "ConvTranspose") and len(node.inputs) > 2 and node.inputs[2]:
        bias, channels = shapes[node.inputs[2]], shapes[node.outputs[0]][1]
        if bias != (channels,):
            raise ModelError(
                f"{path}: node '{node.name}' ({node.op}) has a bias of shape {list(bias)} for {channels} channels; export the "
                "file again"
            )
    if node.op in ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"):
        before, after = shapes[node.inputs[0]], shapes[node.outputs[0]]
        if prod(before) != prod(after):
            raise ModelError(
                f"{path}: node '{node.name}' ({node.op}) can't make shape {list(after)} of {list(before)}; export again with "
                "static shapes, or give another --input-shape"
            )


def _read(path: Path) -> ModelProto:
    try:
        found = os.stat(path)
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):  # a folder says so itself
            raise ModelError(f"{path}: can't be read (no regular file, but a device or a pipe); name a file")
        if found.st_size > external.MAX_FILE_BYTES:
            raise ModelError(f"{path}: {found.st_size} bytes; an ONNX file has at most {external.MAX_FILE_BYTES}")
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ModelError(f"{path}: can't be read ({reason})") from None
    model = ModelProto()
    try:
        model.ParseFromString(content)
    except Exception:  # protobuf raises its own DecodeError, and plain errors for bad text
        raise ModelError(f"{path}: not an ONNX file, or cut short; export it again") from None
    if not model.graph.node or not model.opset_import:
        raise ModelError(f"{path}: not an ONNX file (no graph in it); name a .onnx file")
    external.load(model, path)
    return model


def _refuse_foreign(model: ModelProto, path: str) -> None:
    """Refuse what the graph's form alone rules out: opsets, custom operators, control flow, sparse weights."""
    versions = {entry.domain: entry.version for entry in model.opset_import}
    opset = max(versions.get("", 0), versions.get("ai.onnx", 0))
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise ModelError(
            f"{path}: opset {opset}; mcuprune reads {OLDEST_OPSET} to {NEWEST_OPSET}, export again with one of these"
        )
    _refuse_foreign_nodes(model.graph.node, path)
    if model.graph.sparse_initializer:
        raise ModelError(f"{path}: has sparse initializers; store the weights densely")


def _refuse_foreign_nodes(nodes: Sequence[NodeProto], path: str) -> None:
    """Refuse custom operators, and control flow other than an If, which may be decided already."""
    for index, node in enumerate(nodes):
        where = f"{path}: node '{node.name or f'{node.op_type}_{index}'}'"
        tensor = node.output[0] if node.output else None
        if qlinear.is_known(node.domain, node.op_type) or branches.is_if(node):
            continue
        if node.domain == "com.microsoft":
            raise UnsupportedOperator(
                f"{where}: {node.op_type} is ONNX Runtime's own operator (com.microsoft); "
                "export again without graph optimisation",
                tensor=tensor,
            )
        if node.domain not in _DEFAULT_DOMAINS:
            raise UnsupportedOperator(
                f"{where}: {node.op_type} is a custom operator of domain '{node.domain}'; "
                "export with ONNX's own operators in its place",
                tensor=tensor,
            )
        if any(attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for attribute in node.attribute):
            raise UnsupportedOperator(
                f"{where}: {node.op_type} is control flow; mcuprune handles feed-forward CNNs: "
                "export with the loop unrolled, or without it",
                tensor=tensor,
            )


def _refuse_heavy(model: ModelProto, path: str) -> None:
    """Refuse what all stored tensors together become, at up to 4 bytes an element, however few bits of it are stored."""
    literals = (attribute.t for node in model.graph.node if node.op_type == "Constant" for attribute in node.attribute)
    # one that is too large by itself is refused by name when it is read
    elements = sum(min(max(0, prod(tensor.dims)), MAX_ELEMENTS) for tensor in (*model.graph.initializer, *literals))
    if elements > MAX_STORED:
        raise ModelError(f"{path}: its weights are {elements} elements; at most {MAX_STORED} are read")


def _literals(nodes: Sequence[NodeProto], path: str) -> dict[str, np.ndarray]:
    """The tensors that Constant nodes hold."""
    found = {}
    for node in nodes:
        if node.op_type == "Constant" and node.output and node.attribute and node.attribute[0].type == AttributeProto.TENSOR:
            found[node.output[0]] = _array(node.attribute[0].t, path)
    return found


def _opset(model: ModelProto) -> int:
    return max(int(entry.version) for entry in model.opset_import if entry.domain in _DEFAULT_DOMAINS)


def _set_opset(model: ModelProto, opset: int) -> None:
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", opset))
    model.ir_version = max(model.ir_version, 7)


def _array(tensor: TensorProto, path: str) -> np.ndarray:
    elements = int(np.prod([float(size) for size in tensor.dims]))
    if elements > MAX_ELEMENTS or any(size < 0 for size in tensor.dims):
        raise ModelError(f"{path}: initializer '{tensor.name}' has shape {list(tensor.dims)}; the file is damaged")
    try:
        return np.asarray(numpy_helper.to_array(tensor))
    except Exception as error:  # onnx raises many kinds for bytes that don't fit the declared shape and type
        raise ModelError(f"{path}: initializer '{tensor.name}' is damaged ({_first_line(error)}); export it again") from None


def _static_inputs(values: Sequence[ValueInfoProto], wanted: Mapping[str, Shape], path: str) -> dict[str, tuple[Shape, int]]:
    """Shape and type of each input: batch 1, other free dimensions as the user fixes them."""
    names = [value.name for value in values]
    for name in wanted:
        if name not in names:
            raise ModelError(f"{path}: --input-shape names '{name}'; the inputs are {', '.join(names) or 'none'}")
    found: dict[str, tuple[Shape, int]] = {}
    for value in values:
        if value.type.WhichOneof("value") != "tensor_type":
            raise ModelError(f"{path}: input '{value.name}' is no tensor; export with tensors as inputs")
        tensor = value.type.tensor_type
        declared = [dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim]
        shape = list(declared)
        if value.name in wanted:
            given = wanted[value.name]
            if (tensor.HasField("shape") and len(given) != len(declared)) or any(
                d not in (None, g) for d, g in zip(declared, given, strict=False)
            ):
                raise ModelError(f"{path}: --input-shape {value.name}={_dims(given)} doesn't fit the file's [{_free(tensor)}]")
            shape = list(given)
        elif shape and shape[0] is None:
            shape[0] = 1
        if None in shape or not tensor.HasField("shape"):
            example = _dims(["N" if size is None else size for size in shape]) or "1,3,96,96"
            raise ModelError(
                f"{path}: input '{value.name}' has free sizes [{_free(tensor)}]; "
                f"fix them with --input-shape {value.name}={example}"
            )
        found[value.name] = (tuple(size for size in shape if size is not None), tensor.elem_type)
    if not found:
        raise ModelError(f"{path}: the graph has no inputs; export a network with one")
    return found


def _free(tensor: Any) -> str:
    return ", ".join(str(dim.dim_value) if dim.dim_value > 0 else dim.dim_param or "?" for dim in tensor.shape.dim)


def _dims(shape: Sequence[object]) -> str:
    return ",".join(map(str, shape))


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _sorted(nodes: Sequence[NodeProto], known: set[str], path: str) -> list[NodeProto]:
    """The nodes in a topological order, the given one where it is one already. Raises ModelError on cycles and loose ends."""
    made: set[str] = set()
    for node in nodes:
        for output in filter(None, node.output):
            if output in made or output in known:
                raise ModelError(f"{path}: tensor '{output}' is made more than once; the file is damaged, export it again")
            made.add(output)
    waiting: dict[str, list[int]] = {}
    missing = []
    for index, node in enumerate(nodes):
        unmet = {name for name in branches.reads(node) if name not in known}
        for name in unmet:
            if name not in made:
                raise ModelError(
                    f"{path}: node '{node.name or node.op_type}' reads '{name}', which nothing makes; the file is damaged, "
                    "export it again"
                )
            waiting.setdefault(name, []).append(index)
        missing.append(len(unmet))
    import heapq

    ready = [index for index, count in enumerate(missing) if count == 0]
    order: list[NodeProto] = []
    while ready:
        node = nodes[heapq.heappop(ready)]
        order.append(node)
        for name in node.output:
            for index in waiting.pop(name, ()):
                missing[index] -= 1
                if missing[index] == 0:
                    heapq.heappush(ready, index)
    if len(order) != len(nodes):
        raise ModelError(f"{path}: the graph has a cycle; the file is damaged, export it again")
    return order


def _live(nodes: Sequence[Any], outputs: Sequence[str]) -> Any:
    """The nodes that some graph output needs, in their order; NodeProtos and Nodes alike."""
    needed = set(outputs)
    kept = []
    for node in reversed(nodes):
        made = node.output if isinstance(node, NodeProto) else node.outputs
        if needed.intersection(made):
            kept.append(node)
            needed.update(branches.reads(node) if isinstance(node, NodeProto) else node.inputs)
    kept.reverse()
    return kept if nodes and isinstance(nodes[0], NodeProto) else tuple(kept)


def _infer(
    path: str,
    nodes: Sequence[NodeProto],
    constants: Mapping[str, np.ndarray],
    inputs: Mapping[str, tuple[Shape, int]],
    outputs: Sequence[str],
    header: ModelProto,
) -> tuple[dict[str, Shape], dict[str, int]]:
    """Shapes and types of all tensors whose shape is static. Large weights take part by their shape alone."""
    model = ModelProto()
    model.ir_version = max(header.ir_version, 8)
    model.opset_import.extend(header.opset_import)
    graph = model.graph
    graph.name = "shapes"
    graph.node.extend(map(_as_inferred, nodes))
    shapes = {name: shape for name, (shape, _) in inputs.items()}
    dtypes = {name: dtype for name, (_, dtype) in inputs.items()}
    for name, value in constants.items():
        shapes[name] = value.shape
        dtypes[name] = helper.np_dtype_to_tensor_dtype(value.dtype)
        if _takes_part(value):
            graph.initializer.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        else:
            graph.input.append(_declared(name, value))
    for name, (shape, dtype) in inputs.items():
        graph.input.append(helper.make_tensor_value_info(name, dtype, shape))
    for name in outputs:
        graph.output.append(helper.make_empty_tensor_value_info(name))
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True, strict_mode=True)
    except Exception as error:  # InferenceError, and what the C++ side lets through for damaged graphs
        raise ModelError(
            f"{path}: shapes don't fit together ({_first_line(error)}); give another --input-shape, or export it again"
        ) from None
    for value in [*inferred.graph.value_info, *inferred.graph.output]:
        tensor = value.type.tensor_type
        dtypes[value.name] = tensor.elem_type
        if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            shapes[value.name] = tuple(dim.dim_value for dim in tensor.shape.dim)
    return shapes, dtypes


def _as_inferred(node: NodeProto) -> NodeProto:
    """The node as shape inference takes it: it knows no GroupNormalization, which changes neither shape nor type."""
    if node.op_type != "GroupNormalization" or not node.input:
        return node
    return helper.make_node("Identity", node.input[:1], node.output[:1], name=node.name)


def _takes_part(value: np.ndarray) -> bool:
    """Whether shapes may depend on the value of a constant: weights take part by their shape alone."""
    return value.size <= 64 or value.dtype.kind in "iub"


def _declared(name: str, value: np.ndarray) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)


def _checked(net: Network) -> Network:
    """The network, known to be one that can be written. Outputs whose declaration contradicts the graph are declared anew.

    Raises ModelError for what no weights could make a valid file, such as operands of two types.
    """
    if net.fault() is None:
        return net
    header = ModelProto()
    header.CopyFrom(net.header)
    for value in header.graph.output:
        value.CopyFrom(helper.make_tensor_value_info(value.name, net.dtypes[value.name], [None] * len(net.shapes[value.name])))
    net = replace(net, header=header)
    if (found := net.fault()) is not None:
        raise ModelError(f"{net.path}: no runtime takes it ({found}); export it again")
    return net


def _fold(
    path: str,
    nodes: list[NodeProto],
    constants: dict[str, np.ndarray],
    inputs: Mapping[str, tuple[Shape, int]],
    outputs: Sequence[str],
    header: ModelProto,
    stored: dict[str, Stored],
) -> tuple[list[NodeProto], dict[str, np.ndarray], dict[str, Shape], dict[str, int]]:
    """Compute what depends on constants and shapes alone, follow Ifs that this decides, write operators as simpler ones.

    stored: gains the integers behind the constants that are dequantised here.
    """
    while True:
        ready, waiting = branches.apart(nodes)
        made = {name for node in ready for name in node.output} | set(inputs) | set(constants)
        wanted = (*outputs, *(name for node in waiting for name in branches.reads(node)))
        held = list(dict.fromkeys(name for name in wanted if name in made))
        ready, constants, shapes, dtypes = _computed(path, ready, constants, inputs, held, header, stored)
        taken = {name for node in (*nodes, *ready, *waiting) for name in (*branches.reads(node), *node.output)} | set(constants)
        known = lowering.Known(constants, shapes, taken, _opset(header), path)
        simpler = lowering.lowered(ready, known, held)
        if simpler is not None:
            ready = simpler[0]
            constants = {**constants, **simpler[1]}
        taken_branches = branches.resolved(waiting, constants, taken | set(constants), path)
        if taken_branches is not None:
            waiting, body, literals = taken_branches
            _refuse_foreign_nodes(body, path)
            constants = {**constants, **{tensor.name: _array(tensor, path) for tensor in literals}}
            known_names = Names(taken | set(constants))
            waiting, added = qlinear.floated(waiting, {**constants, **_literals(body, path)}, _opset(header), known_names, path)
            _refuse_malformed(body, _opset(header), header.ir_version, path)
            constants |= added
        if simpler is None and taken_branches is None:
            if waiting:
                raise branches.refusal(next(node for node in waiting if branches.is_if(node)), path)
            return ready, constants, shapes, dtypes
        nodes = _live(_sorted([*ready, *waiting], set(inputs) | set(constants), path), outputs)


def _computed(
    path: str,
    nodes: list[NodeProto],
    constants: dict[str, np.ndarray],
    inputs: Mapping[str, tuple[Shape, int]],
    outputs: Sequence[str],
    header: ModelProto,
    stored: dict[str, Stored],
) -> tuple[list[NodeProto], dict[str, np.ndarray], dict[str, Shape], dict[str, int]]:
    """Compute everything that depends on constants and shapes alone. An Identity of a constant is that constant.

    outputs: tensors that keep their names, though they be constants. stored: as for ``_fold``.
    """
    while True:
        shapes, dtypes = _infer(path, nodes, constants, inputs, outputs, header)
        same: dict[str, str] = {}
        left: list[NodeProto] = []
        recast = False
        for node in nodes:
            if any(name in same for name in node.input):
                renamed = NodeProto()
                renamed.CopyFrom(node)
                renamed.input[:] = [same.get(name, name) for name in node.input]
                node = renamed
            if node.op_type == "Identity" and node.input[0] in constants and node.output[0] not in outputs:
                same[node.output[0]] = node.input[0]
            elif node.op_type == "CastLike" and dtypes.get(node.input[1]):
                left.append(helper.make_node("Cast", node.input[:1], node.output, name=node.name, to=dtypes[node.input[1]]))
                recast = True
            elif node.op_type in ("Shape", "Size") and node.input[0] in shapes:
                if prod(shapes[node.input[0]]) > MAX_ACTIVATIONS:
                    raise ModelError(
                        f"{path}: node '{node.name or node.op_type}' reads a tensor of shape {list(shapes[node.input[0]])}; "
                        "give a smaller --input-shape, or export the file again if it is damaged"
                    )
                constants.update(
                    _evaluate(node, {node.input[0]: np.broadcast_to(np.float32(0), shapes[node.input[0]])}, header, path)
                )
            elif all(name in constants for name in node.input if name):
                values = _evaluate(node, constants, header, path)
                constants.update(values)
                if node.op_type == "DequantizeLinear":
                    stored |= symmetric(node, constants)
            else:
                left.append(node)
        if len(left) == len(nodes) and not recast:
            return left, constants, shapes, dtypes
        nodes = left


def _evaluate(node: NodeProto, values: Mapping[str, np.ndarray], header: ModelProto, path: str) -> dict[str, np.ndarray]:
    """The outputs of one node, by ONNX's reference implementation."""
    if node.op_type == "Constant" and node.attribute and node.attribute[0].type == AttributeProto.TENSOR:
        return {node.output[0]: _array(node.attribute[0].t, path)}
    if node.op_type == "DequantizeLinear":
        return {node.output[0]: _dequantized(node, values, path)}
    if node.op_type in ("ConstantOfShape", "Expand", "Tile"):
        target = values[node.input[-1]] if node.input else np.zeros(0)
        start = values[node.input[0]].size if node.op_type == "Tile" else 1
        if start * float(np.prod(target.astype(float))) > MAX_ELEMENTS:
            raise ModelError(
                f"{path}: node '{node.name or node.op_type}' makes a constant of shape {target.tolist()}, of more than "
                f"{MAX_ELEMENTS} elements; the file is damaged"
            )
    from onnx.reference import ReferenceEvaluator  # only files that need folding pay for the import

    names = [name for name in dict.fromkeys(node.input) if name]
    graph = helper.make_graph(
        [node],
        "constant",
        [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(values[n].dtype), values[n].shape) for n in names],
        [helper.make_empty_tensor_value_info(name) for name in node.output if name],
    )
    try:
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _opset(header))])
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numbers too large for their type: runtimes say nothing either
            results = ReferenceEvaluator(model).run(None, {name: values[name] for name in names})
    except Exception as error:  # the reference raises anything at all on damaged parameters
        raise ModelError(
            f"{path}: node '{node.name or node.op_type}' can't be computed ({_first_line(error)}); a simplifier (onnxsim, "
            "onnxslim) may fold it, else export it again"
        ) from None
    return dict(zip([name for name in node.output if name], map(np.asarray, results), strict=True))


def symmetric(node: NodeProto, values: Mapping[str, np.ndarray]) -> dict[str, Stored]:
    """The integers behind a dequantised constant, where they are int8 or int32 and their zero point is 0."""
    if any(attribute.name == "block_size" and attribute.i for attribute in node.attribute):
        return {}  # no integer kernel has a scale for a part of a channel
    integers, scale, *zero = (values[name] for name in node.input if name)
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    if integers.dtype not in (np.int8, np.int32) or any(part.any() for part in zero) or scale.ndim > 1:
        return {}
    factors = np.asarray(scale, np.float32).reshape(-1)
    name = node.output[0]
    return {name: Stored(integers, factors, axis % max(1, integers.ndim), values[name])}


def _dequantized(node: NodeProto, values: Mapping[str, np.ndarray], path: str) -> np.ndarray:
    """(x - zero point) * scale, per tensor, along an axis or in blocks; the reference implements it for new opsets alone."""
    x, scale = values[node.input[0]], values[node.input[1]]
    zero = values[node.input[2]] if len(node.input) > 2 and node.input[2] else np.zeros_like(scale)
    given = {attribute.name: int(attribute.i) for attribute in node.attribute}
    axis, block = given.get("axis", 1), given.get("block_size", 0)
    try:
        found = qlinear.dequantized(x, scale, zero, axis, block)
        if found.shape != x.shape:
            raise ValueError
    except (ValueError, IndexError):
        what = f" in blocks of {block} along axis {axis}" if block else ""
        raise ModelError(
            f"{path}: node '{node.name or node.op_type}' has scales {list(scale.shape)} that don't fit {list(x.shape)}{what}; "
            "the file is damaged, quantise again"
        ) from None
    wanted = given.get("output_dtype", 0)
    return found.astype(helper.tensor_dtype_to_np_dtype(wanted)) if wanted else found


# ------------------------------------------------------------------------------------------- parameters, in and out


def _nodes(protos: Sequence[NodeProto], constants: Mapping[str, np.ndarray], opset: int, path: str) -> tuple[Node, ...]:
    taken: set[str] = set()
    nodes = []
    for index, proto in enumerate(protos):
        name = proto.name or f"{proto.op_type}_{index}"
        while name in taken:
            name += "_"
        taken.add(name)
        try:
            attrs: dict[str, Any] = {a.name: _plain(helper.get_attribute_value(a)) for a in proto.attribute}
        except Exception as error:
            raise ModelError(f"{path}: node '{name}' has a damaged attribute ({_first_line(error)}); export it again") from None
        inputs = list(proto.input)
        origins = {}
        for parameter, index_in in _parameter_inputs(proto.op_type, opset).items():
            if index_in >= len(inputs) or not inputs[index_in]:
                continue
            origin = inputs[index_in]
            if origin not in constants:
                raise UnsupportedOperator(
                    f"{path}: node '{name}' ({proto.op_type}) computes its {parameter} from the data; mcuprune takes fixed "
                    "ones: export with static shapes, or with a constant in its place",
                    tensor=proto.output[0],
                )
            attrs[parameter] = _plain(constants[origin])
            if isinstance(attrs[parameter], np.ndarray) and parameter != "indices":
                shape = list(constants[origin].shape)
                raise ModelError(f"{path}: node '{name}' ({proto.op_type}) has {parameter} of shape {shape}, not a list")
            origins[parameter] = origin
            inputs[index_in] = ""
        while inputs and not inputs[-1]:
            inputs.pop()
        nodes.append(Node(name, proto.op_type, tuple(inputs), tuple(proto.output), attrs, origins))
    return tuple(nodes)


def _parameter_inputs(op: str, opset: int) -> dict[str, int]:
    """Where this opset keeps an operator's parameters among its inputs: name in ``attrs`` -> index."""
    if op not in PARAMETERS:
        return {}
    schema = onnx.defs.get_schema(op, opset, "")
    index = {formal.name: position for position, formal in enumerate(schema.inputs)}
    places = {spec.split("/")[0]: [index[n] for n in spec.split("/") if n in index] for spec in PARAMETERS[op]}
    return {name: found[0] for name, found in places.items() if found}


def _plain(value: Any) -> Any:
    """An attribute as Python: bytes to str, lists to tuples, 0-d arrays to numbers, 1-d arrays to tuples."""
    if isinstance(value, TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if isinstance(value, np.ndarray):
        return value.item() if value.ndim == 0 else tuple(value.tolist()) if value.ndim == 1 else value
    if isinstance(value, (list, tuple)) or type(value).__name__.startswith("Repeated"):
        return tuple(_plain(item) for item in value)
    return value


def node_protos(
    nodes: Sequence[Node],
    constants: Mapping[str, np.ndarray],
    opset: int,
    dtypes: Mapping[str, int],
    graph_inputs: Sequence[str] = (),
) -> tuple[list[NodeProto], dict[str, np.ndarray]]:
    """The nodes as this opset writes them, and the constants that hold their parameters."""
    taken = {*graph_inputs, *constants}
    for node in nodes:
        taken.update(node.inputs, node.outputs)
    protos = []
    parameters: dict[str, np.ndarray] = {}
    for node in nodes:
        attrs = dict(node.attrs)
        inputs = list(node.inputs)
        for parameter, index in _parameter_inputs(node.op, opset).items():
            if parameter not in attrs:
                continue
            value = _typed(node, parameter, attrs.pop(parameter), dtypes)
            inputs.extend([""] * (index + 1 - len(inputs)))
            inputs[index] = _place(node, parameter, value, taken, parameters)
        proto = helper.make_node(node.op, inputs, node.outputs, name=node.name)
        proto.attribute.extend(helper.make_attribute(key, value) for key, value in sorted(attrs.items()) if _writable(value))
        protos.append(proto)
    return protos, parameters


def _writable(value: Any) -> bool:
    return not (isinstance(value, tuple) and not value)  # an empty list has no type to write


def _typed(node: Node, parameter: str, value: Any, dtypes: Mapping[str, int]) -> np.ndarray:
    if parameter in ("min", "max", "value"):
        return np.asarray(value, helper.tensor_dtype_to_np_dtype(dtypes.get(node.inputs[0], TensorProto.FLOAT)))
    if parameter in ("scales", "roi", "ratio"):
        return np.asarray(value, np.float32)
    if parameter == "training_mode":
        return np.asarray(value, np.bool_)
    array = np.asarray(value, np.int64)
    return array.reshape(1) if parameter == "k" else array


def _place(node: Node, parameter: str, value: np.ndarray, taken: set[str], parameters: dict[str, np.ndarray]) -> str:
    """The name of the constant that holds a parameter: its own of old, unless a tensor or another value has that name.

    taken: names of tensors.
    """
    wanted = f"{node.name}/{parameter}"
    for name in (node.origins.get(parameter), wanted):
        if name and name not in taken and (name not in parameters or _same(parameters[name], value)):
            parameters[name] = value
            return name
    name = Names([*taken, *parameters]).free(wanted)
    parameters[name] = value
    return name


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and np.array_equal(one, other)


def _batch_free(node: Node, shapes: Mapping[str, Shape]) -> Node:
    """A Reshape that writes the batch's size 1 out says "as it was" (0) instead, so that it works at any batch size."""
    if node.op != "Reshape":
        return node
    if node.attrs.get("allowzero"):
        if 0 in node.attrs["shape"]:
            return node
        node = node.with_attrs(allowzero=0)  # without a zero in the shape it says nothing
    target, before = node.attrs["shape"], shapes.get(node.inputs[0], ())
    if target and before and target[0] == 1 and before[0] == 1:
        return node.with_attrs(shape=(0, *target[1:]))
    return node


def _of_all_axes(node: Node, shapes: Mapping[str, Shape]) -> Node:
    """A Resize of some axes says what becomes of every axis: the form that runtimes have, and older opsets too."""
    axes = node.attrs.get("axes") if node.op == "Resize" else None
    if not axes or node.attrs.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        return node
    before = shapes[node.inputs[0]]
    rank = len(before)
    places = [axis % rank for axis in axes]
    attrs = {key: value for key, value in node.attrs.items() if key != "axes"}
    for key, neutral in (("scales", [1.0] * rank), ("sizes", list(before))):
        if given := attrs.get(key):
            for place, value in zip(places, given, strict=True):
                neutral[place] = value
            attrs[key] = tuple(neutral)
    if given := attrs.get("roi"):
        ends = [0.0] * rank + [1.0] * rank
        for index, place in enumerate(places):
            ends[place], ends[rank + place] = given[index], given[len(places) + index]
        attrs["roi"] = tuple(ends)
    return replace(node, attrs=attrs, origins={})


def shapes_at_batch(net: Network, batch: int) -> dict[str, Shape]:
    """All shapes if the inputs' leading axes were ``batch`` times as long. Raises ModelError where they don't fit."""
    inputs = {
        name: ((batch * net.shapes[name][0], *net.shapes[name][1:]) if net.shapes[name] else (), net.dtypes[name])
        for name in net.inputs
    }
    protos, extra = node_protos(net.nodes, net.constants, net.opset, net.dtypes, net.inputs)
    shapes, _ = _infer(net.path, protos, {**net.constants, **extra}, inputs, net.outputs, net.header)
    return shapes


def is_float(dtype: int) -> bool:
    """Whether an ONNX element type is a floating-point one."""
    return dtype in _FLOATS
