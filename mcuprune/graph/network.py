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
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, TensorShapeProto, ValueInfoProto, helper, numpy_helper

from mcuprune.errors import ModelError, UnsupportedOperator, cause
from mcuprune.graph import external, intake, qlinear, tails
from mcuprune.graph.folding import Folding
from mcuprune.graph.inference import array_of, declared, first_line, infer, literals, live, opset_of, takes_part, topological
from mcuprune.graph.node import Node, Shape, Stored, is_float
from mcuprune.graph.parameters import batch_free, node_protos, nodes_of, of_all_axes, read_alone
from mcuprune.graph.refusals import refuse_foreign, refuse_heavy, refuse_malformed, refuse_unsound
from mcuprune.immutable import immutable
from mcuprune.names import Names
from mcuprune.notebook import Drawn
from mcuprune.places import write_bytes

__all__ = ["Network", "Node", "Shape", "Stored", "from_proto", "is_float", "load", "shapes_at_batch", "write_model"]


@immutable
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
        own = {name: constant for name, constant in self.stored.items() if self.constants.get(name) is constant.value}
        object.__setattr__(self, "stored", own)

    def __repr__(self) -> str:
        ports = (", ".join(f"{name!r} {list(self.shapes[name])}" for name in names) for names in (self.inputs, self.outputs))
        return f"<Network {self.path!r}: {' -> '.join(ports)}, {len(self.nodes)} nodes>"

    @property
    def opset(self) -> int:
        """The version of ONNX's own operators."""
        return opset_of(self.header)

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Names of the graph's inputs, initializers that old files list among them left out."""
        return tuple(value.name for value in self.header.graph.input)

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, in the file's order."""
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
        """The file's properties, as text by name."""
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
        """Whether a tensor is known without an input."""
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
        needed = live(nodes, self.outputs)
        used = {name for node in needed for name in node.inputs} | set(self.outputs)
        kept = {name: value for name, value in constants.items() if name in used}
        inputs = {value.name: (self.shapes[value.name], value.type.tensor_type.elem_type) for value in self.header.graph.input}
        protos, extra = node_protos(needed, kept, self.opset, self.dtypes, self.inputs)
        shapes, dtypes = infer(self.path, protos, {**kept, **extra}, inputs, self.outputs, self.header)
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
            if takes_part(value):
                model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
            else:
                model.graph.input.append(declared(name, value))
        try:
            onnx.checker.check_model(model, full_check=True)
        except Exception as error:  # ValidationError, InferenceError, and what the C++ side lets through
            return first_line(error)
        return None

    def save(self, path: str | Path) -> None:
        """Write the network, whole or not at all. Raises OutputError where that isn't possible."""
        write_model(self.to_proto(), path)


def _with_integers(
    nodes: Sequence[NodeProto], constants: Mapping[str, np.ndarray], stored: Mapping[str, Stored], opset: int, names: Names
) -> tuple[list[NodeProto], dict[str, np.ndarray]]:
    """Nodes and initializers with stored integers, each behind a DequantizeLinear in front of its first reader."""
    kept, written, done = dict(constants), [], set()
    for node in nodes:
        for name in node.input:
            quantised = stored.get(name)
            along = quantised is not None and quantised.scale.size > 1
            if quantised is None or name in done or opset < (qlinear.AXIS_OPSET if along else qlinear.DEQUANTIZE_OPSET):
                continue
            done.add(name)
            del kept[name]
            scale = quantised.scale if along else quantised.scale.reshape(())
            # onnxruntime makes a QGemm of a Gemm only where zero points are written out
            source = [names.free(f"{name}/{part}") for part in (quantised.integers.dtype, "scale", "zero_point")]
            kept.update(zip(source, (quantised.integers, scale, np.zeros(scale.shape, quantised.integers.dtype)), strict=True))
            axis = {"axis": quantised.axis} if along else {}
            label = names.free(f"{name}/DequantizeLinear")
            written.append(helper.make_node("DequantizeLinear", source, [name], name=label, **axis))
        written.append(node)
    return written, kept


def write_model(model: ModelProto, path: str | Path) -> None:
    """Check ``model`` and write it beside ``path``, then rename it into place. Raises OutputError."""
    onnx.checker.check_model(model, full_check=True)
    write_bytes(model.SerializeToString(deterministic=True), path)


class Accept(Protocol):
    """What the reader of a file asks those who know operators."""

    def __call__(self, node: Node) -> None:
        """Raises UnsupportedOperator, naming the node, for one that is refused."""

    def apart(self, net: Network, count: int) -> Mapping[str, int] | None:
        """Tensor -> axis along which the examples lie, ``count`` along axis 0 of inputs and outputs; None where they meet."""


class _Anything:
    def __call__(self, node: Node) -> None:
        pass

    def apart(self, net: Network, count: int) -> Mapping[str, int] | None:
        return {}


_ANYTHING: Accept = _Anything()


def load(
    path: str | Path,
    *,
    input_shapes: Mapping[str, Shape] | None = None,
    outputs: Sequence[str] = (),
    accept: Accept = _ANYTHING,
) -> Network:
    """Read an ONNX file as a network of static shapes at batch 1.

    input_shapes: fixes the free dimensions of the inputs that it names.
    outputs: tensors at which the network ends, instead of the file's outputs; names, or several joined by commas.
    accept: what is known of operators: called with each node that is left after constants are folded.
    Raises ModelError for what is no ONNX model, or not one of static feed-forward shape.
    """
    return from_proto(_read(Path(path)), str(path), input_shapes=input_shapes, outputs=outputs, accept=accept)


def from_proto(
    model: ModelProto,
    path: str,
    *,
    input_shapes: Mapping[str, Shape] | None = None,
    outputs: Sequence[str] = (),
    accept: Accept = _ANYTHING,
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
    accept: Accept,
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


def _from_proto(model: ModelProto, path: str, input_shapes: Mapping[str, Shape] | None, accept: Accept) -> Network:
    if model.functions:
        model = _inlined(model, path)
    refuse_foreign(model, path)
    batch = _baked_batch(model)
    if batch > 1 and not input_shapes and (single := _one_of_fixed(model, path, batch, accept)) is not None:
        return single
    net = _network(model, path, input_shapes or {}, accept)
    return _one_of_given(net, model, input_shapes or {}, accept)


#: So many examples stand for a batch that a file fixes: few, whatever it fixes, and seldom a size of the network.
_SOME = 3


def _one_of_fixed(model: ModelProto, path: str, batch: int, accept: Accept) -> Network | None:
    """The network at batch 1, where the leading axis of the file's inputs, of this size, is a batch; else None.

    It declares the file's inputs and outputs where it can run at their sizes.
    """
    try:
        single, some = (_network(_at_batch(model, batch, size), path, {}, accept) for size in (1, _SOME))
    except ModelError:
        return None  # the leading axis is no batch, or the file has its size in other places too
    if not _is_one_of(single, some, _SOME, accept):
        return None
    header = ModelProto()
    header.CopyFrom(single.header)
    for kept, own in ((header.graph.input, model.graph.input), (header.graph.output, model.graph.output)):
        by_name = {value.name: value for value in own}
        for value in kept:
            value.CopyFrom(by_name[value.name])
    declared_so = replace(single, header=header)
    return declared_so if declared_so.fault() is None else single  # sizes of one example may stand in the file


def _one_of_given(net: Network, model: ModelProto, given: Mapping[str, Shape], accept: Accept) -> Network:
    """The network at batch 1 where the shapes that were given fix the batch at more, and it is one; else as it is."""
    batches = {given[name][0] if name in given and len(given[name]) > 1 else 1 for name in net.inputs}
    batch = batches.pop() if len(batches) == 1 else 1
    if batch == 1:
        return net
    try:
        single = _network(model, net.path, {name: (1, *shape[1:]) for name, shape in given.items()}, accept)
    except ModelError:
        return net  # the leading axis is no batch, or the file has its size in other places too
    return single if _is_one_of(single, net, batch, accept) else net


def _is_one_of(single: Network, net: Network, batch: int, accept: Accept) -> bool:
    """Whether ``net`` computes for each of so many examples, and for it alone, what ``single`` computes for one."""
    axes = accept.apart(net, batch)
    if axes is None:
        return False
    along = {**dict.fromkeys((*net.inputs, *net.outputs), 0), **axes}
    for name, axis in along.items():
        own = single.shapes.get(name, ())
        if not axis < len(own) or (*own[:axis], own[axis] * batch, *own[axis + 1 :]) != net.shapes[name]:
            return False
    return all(_repeats(value, single.constants.get(name, value)) for name, value in net.constants.items())


def _repeats(value: np.ndarray, of: np.ndarray) -> bool:
    """Whether a constant is another one, or that for each example: none may hang on how many there are."""
    if value.shape != of.shape and (
        value.ndim != of.ndim or any(o not in (1, v) for v, o in zip(value.shape, of.shape, strict=True))
    ):
        return False
    return np.array_equal(value, np.broadcast_to(of, value.shape), equal_nan=value.dtype.kind == "f")


def _inlined(model: ModelProto, path: str) -> ModelProto:
    """The model with calls of its own functions replaced by their bodies."""
    from onnx import inliner

    try:
        return inliner.inline_local_functions(model)
    except Exception as error:  # whatever the C++ side makes of a damaged function
        raise ModelError(f"{path}: its functions can't be inlined ({first_line(error)}); export without functions") from None


def _rank(value: ValueInfoProto) -> int:
    return len(value.type.tensor_type.shape.dim)


def _baked_batch(model: ModelProto) -> int:
    """The size of the leading axis that all inputs share, 1 where there is none."""
    stored = {initializer.name for initializer in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    sizes = {value.type.tensor_type.shape.dim[0].dim_value if _rank(value) > 1 else 1 for value in inputs}
    return sizes.pop() if len(sizes) == 1 else 1


def for_one_example(model: ModelProto, net: Network) -> ModelProto:
    """The model at the sizes that ``net`` has, which was read of it: with inputs of batch 1 where it has those of another."""
    batch = _baked_batch(model)
    alone = batch > 1 and all(net.shapes[name][:1] == (1,) for name in net.inputs)
    return _at_batch(model, batch, 1) if alone else model


def _at_batch(model: ModelProto, batch: int, size: int) -> ModelProto:
    """The model with inputs of batch ``size`` instead of ``batch``, and target shapes that name the batch as well."""
    single = ModelProto()
    single.CopyFrom(model)
    stored = {initializer.name: initializer for initializer in single.graph.initializer}
    names = Names(_all_names(single))
    literals = {node.output[0]: node for node in single.graph.node if node.op_type == "Constant" and node.output}
    for value in [*single.graph.input, *single.graph.output]:
        if value.name not in stored and _rank(value) and value.type.tensor_type.shape.dim[0].dim_value == batch:
            value.type.tensor_type.shape.dim[0].dim_value = size
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
        if any(attribute.name == "axes" and 0 not in attribute.ints for attribute in node.attribute):
            continue
        target = np.array(array_of(tensor, ""))
        merged = node.op_type == "Reshape"  # the batch may be one axis with others: rows of pixels, or of tokens
        if target.size and target[0] > 0 and (target[0] % batch == 0 if merged else target[0] == batch):
            target[0] = target[0] // batch * size
            node.input[where] = names.free(f"{name}/{node.output[0]}")
            single.graph.initializer.append(numpy_helper.from_array(target, node.input[where]))
    return single


def _all_names(model: ModelProto) -> Iterator[str]:
    """The names of all tensors and nodes of a graph."""
    graph = model.graph
    for part in (graph.input, graph.output, graph.initializer):
        yield from (item.name for item in part)
    for node in graph.node:
        yield node.name
        yield from node.input
        yield from node.output


def _network(model: ModelProto, path: str, input_shapes: Mapping[str, Shape], accept: Accept) -> Network:
    graph = model.graph
    refuse_heavy(model, path)
    constants = {}
    for initializer in graph.initializer:
        constants[initializer.name] = array_of(initializer, path)
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
    inputs = _static_inputs(header.graph.input, input_shapes, path)
    for value in (*header.graph.input, *header.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if _is_zero(dim):  # a free one, as some exporters write it; runtimes refuse it
                dim.ClearField("dim_value")

    known = {**constants, **literals(graph.node, path)}
    protos = topological(graph.node, set(inputs) | set(constants), path)
    protos, added = qlinear.floated(protos, known, opset_of(header), Names(_all_names(model)), path, outputs)
    constants |= added
    protos = topological(protos, set(inputs) | set(constants), path)
    protos = live(protos, outputs)
    refuse_malformed(protos, opset_of(header), header.ir_version, path)
    folding = Folding(path, header, inputs, outputs, constants)
    protos = folding.fold(protos)
    constants, shapes, dtypes = folding.constants, folding.shapes, folding.dtypes
    for name in outputs:
        if name in constants:
            raise ModelError(f"{path}: output '{name}' doesn't depend on any input; name the others with --outputs")

    for name in inputs:
        if dtypes[name] == TensorProto.STRING:
            raise UnsupportedOperator(f"{path}: input '{name}' is text; mcuprune handles numbers: export without it")
    nodes = nodes_of(protos, constants, opset_of(header), path)
    for node in nodes:
        accept(node)
    used = dict.fromkeys(name for node in nodes for name in node.inputs)
    _refuse_unsized([name for name in (*used, *outputs) if name], shapes, nodes, constants, path)
    for node in nodes:
        refuse_unsound(node, shapes, path)
        if any(dtypes.get(name) == TensorProto.STRING for name in (*node.inputs, *node.outputs)):
            raise UnsupportedOperator(f"{path}: node '{node.name}' ({node.op}) handles text; mcuprune handles numbers")
    nodes = tuple(of_all_axes(batch_free(read_alone(node, {*used, *outputs}), shapes), shapes) for node in nodes)
    kept = {name: value for name, value in constants.items() if name in used}
    for value in header.graph.output:
        if not value.type.tensor_type.elem_type:  # an output that the user chose, of whose type the file says nothing
            value.type.tensor_type.elem_type = dtypes[value.name]
    return Network(nodes, kept, shapes, dtypes, header, path, folding.stored)


def _refuse_unsized(
    names: Sequence[str], shapes: Mapping[str, Shape], nodes: Sequence[Node], constants: Mapping[str, np.ndarray], path: str
) -> None:
    """Raise ModelError for a tensor of no static shape, or of one that holds nothing."""
    for name in names:
        if all(size >= 1 for size in shapes.get(name, (0,))):
            continue
        maker = next((f"node '{node.name}' ({node.op})" for node in nodes if name in node.outputs), None)
        maker = maker or ("an initializer" if name in constants else "an input")
        what = (
            f"shape {list(shapes[name])}, which holds nothing; give a larger --input-shape, or export it again"
            if name in shapes
            else "no static shape; export with static shapes, or give --input-shape"
        )
        raise ModelError(f"{path}: tensor '{name}' of {maker} has {what}")


def _read(path: Path) -> ModelProto:
    try:
        status = os.stat(path)
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):  # a folder says so itself
            raise ModelError(f"{path}: can't be read (no regular file, but a device or a pipe); name a file")
        if status.st_size > external.MAX_FILE_BYTES:
            raise ModelError(f"{path}: {status.st_size} bytes; an ONNX file has at most {external.MAX_FILE_BYTES}")
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: can't be read ({cause(error)}); name a file that is there and may be read") from None
    model = ModelProto()
    try:
        model.ParseFromString(content)
    except Exception:  # protobuf raises its own DecodeError, and plain errors for bad text
        raise ModelError(f"{path}: not an ONNX file, or cut short; export it again") from None
    if not model.graph.node or not model.opset_import:
        raise ModelError(f"{path}: not an ONNX file (no graph in it); name a .onnx file")
    external.load(model, path)
    return model


def _set_opset(model: ModelProto, opset: int) -> None:
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", opset))
    model.ir_version = max(model.ir_version, 7)


def _static_inputs(values: Sequence[ValueInfoProto], wanted: Mapping[str, Shape], path: str) -> dict[str, tuple[Shape, int]]:
    """Shape and type of each input: batch 1, other free dimensions as the user fixes them, which ``values`` declare then."""
    names = [value.name for value in values]
    for name in wanted:
        if name not in names:
            raise ModelError(f"{path}: --input-shape names '{name}'; the inputs are {', '.join(names) or 'none'}")
    inputs: dict[str, tuple[Shape, int]] = {}
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
        if None in shape or not (value.name in wanted or tensor.HasField("shape")):
            raise ModelError(f"{path}: input '{value.name}' {_unfixed(value.name, tensor, shape)}")
        inputs[value.name] = (tuple(size for size in shape if size is not None), tensor.elem_type)
        if value.name in wanted:
            _declare(value, inputs[value.name][0])
    if not inputs:
        raise ModelError(f"{path}: the graph has no inputs; export a network with one")
    return inputs


def _declare(value: ValueInfoProto, shape: Shape) -> None:
    """Say of an input that it has these sizes: what is computed of them stands in the file. A free batch stays free."""
    dims = value.type.tensor_type.shape.dim
    if not dims:
        dims.extend([TensorShapeProto.Dimension()] * len(shape))
    for axis, (dim, size) in enumerate(zip(dims, shape, strict=True)):
        if axis or size > 1:
            dim.dim_value = size


def _free(tensor: Any) -> str:
    dims = tensor.shape.dim
    return ", ".join(str(dim.dim_value) if dim.dim_value > 0 or _is_zero(dim) else dim.dim_param or "?" for dim in dims)


def _is_zero(dim: Any) -> bool:
    return bool(dim.HasField("dim_value") and dim.dim_value == 0)


def _unfixed(name: str, tensor: Any, shape: Sequence[int | None]) -> str:
    """What is to be said of an input without all its sizes. shape: None for each that is missing."""
    if not shape:
        return f"has free sizes []; fix them with --input-shape {name}=1,3,96,96, your numbers in place of these"
    dims = [dim.dim_param if re.fullmatch(r"[A-Za-z_]\w{0,19}", dim.dim_param) else "?" for dim in tensor.shape.dim]
    missing = list(dict.fromkeys(dim for dim, size in zip(dims, shape, strict=True) if size is None))
    filled = _dims([dim if size is None else size for dim, size in zip(dims, shape, strict=True)])
    example = f"--input-shape {name}={filled}, a number in place of {' and '.join(missing)}"
    if any(_is_zero(dim) and size is None for dim, size in zip(tensor.shape.dim, shape, strict=True)):
        return f"[{_free(tensor)}] has a size of 0, which no data has; say which size is meant with {example}"
    return f"has free sizes [{_free(tensor)}]; fix them with {example}"


def _dims(shape: Sequence[object]) -> str:
    return ",".join(map(str, shape))


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
    if (fault := net.fault()) is not None:
        raise ModelError(f"{net.path}: no runtime takes it ({fault}); export it again")
    return net


def shapes_at_batch(net: Network, batch: int) -> dict[str, Shape]:
    """All shapes if the inputs' leading axes were ``batch`` times as long. Raises ModelError where they don't fit."""
    inputs = {
        name: ((batch * net.shapes[name][0], *net.shapes[name][1:]) if net.shapes[name] else (), net.dtypes[name])
        for name in net.inputs
    }
    protos, extra = node_protos(net.nodes, net.constants, net.opset, net.dtypes, net.inputs)
    shapes, _ = infer(net.path, protos, {**net.constants, **extra}, inputs, net.outputs, net.header)
    return shapes
