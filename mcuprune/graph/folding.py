"""Constant folding: what depends on constants and shapes alone is computed when a file is read.

That decides Ifs and opens simpler forms of operators, after which more may depend on constants alone: so it goes in rounds.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, helper, numpy_helper
from onnx.shape_inference import infer_shapes

from mcuprune.errors import ModelError
from mcuprune.graph import branches, qlinear
from mcuprune.graph import rewrite as lowering
from mcuprune.graph.inference import array_of, declared, first_line, infer, literals, live, opset_of, topological
from mcuprune.graph.node import Shape, Stored
from mcuprune.graph.refusals import MAX_ACTIVATIONS, refuse_foreign_nodes, refuse_malformed
from mcuprune.names import Names

#: So many elements are computed of any file, and so many more for each element that it stores: weights that are dequantised,
#: scaled, transposed. A file of a hundred bytes may ask for terabytes.
_LEAST_WORK, _WORK_AN_ELEMENT = 2**26, 16
#: So many products take the time of one element.
_PRODUCTS_AN_ELEMENT = 64


@dataclass
class Folding:
    """One graph while it is folded.

    path: what messages call the file. header: its model without nodes, for opset and version.
    inputs: shape and ONNX element type of each graph input. outputs: the graph's.
    constants: grow with every round. stored: the integers behind those of them that were dequantised.
    shapes, dtypes: of all tensors whose shape is static, as of the last round.
    left: how many more elements may be computed before it is too much for what the file stores.
    """

    path: str
    header: ModelProto
    inputs: Mapping[str, tuple[Shape, int]]
    outputs: Sequence[str]
    constants: dict[str, np.ndarray]
    stored: dict[str, Stored] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    dtypes: dict[str, int] = field(default_factory=dict)
    left: int = _LEAST_WORK

    def __post_init__(self) -> None:
        self.left += _WORK_AN_ELEMENT * sum(value.size for value in self.constants.values())

    def fold(self, nodes: list[NodeProto]) -> list[NodeProto]:
        """The nodes that are left when constants are computed, decided Ifs followed, operators written as simpler ones.

        Raises ModelError or UnsupportedOperator where the graph can't be computed or an If stays open.
        """
        while True:
            ready, waiting = branches.apart(nodes)
            known = {name for node in ready for name in node.output} | set(self.inputs) | set(self.constants)
            wanted = (*self.outputs, *(name for node in waiting for name in branches.reads(node)))
            held = list(dict.fromkeys(name for name in wanted if name in known))
            ready = self._computed(ready, held)
            used = (name for node in (*nodes, *ready, *waiting) for name in (*branches.reads(node), *node.output))
            taken = {*used, *self.constants}
            graph = lowering.Known(self.constants, self.shapes, taken, opset_of(self.header), self.path)
            simpler = lowering.lowered(ready, graph, held)
            if simpler is not None:
                ready = simpler[0]
                self.constants |= simpler[1]
            followed = self._followed(waiting, taken | set(self.constants))
            if simpler is None and followed is None:
                if waiting:
                    raise branches.refusal(next(node for node in waiting if branches.is_if(node)), self.path)
                return ready
            rest = waiting if followed is None else followed
            nodes = live(topological([*ready, *rest], set(self.inputs) | set(self.constants), self.path), self.outputs)

    def _followed(self, waiting: Sequence[NodeProto], taken: set[str]) -> list[NodeProto] | None:
        """The waiting nodes with each decided If replaced by its branch; None where none is decided."""
        resolved = branches.resolved(waiting, self.constants, taken, self.path)
        if resolved is None:
            return None
        rest, body, tensors = resolved
        refuse_foreign_nodes(body, self.path)
        self.constants |= {tensor.name: array_of(tensor, self.path) for tensor in tensors}
        names = Names(taken | set(self.constants))
        opset = opset_of(self.header)
        known = {**self.constants, **literals(body, self.path)}
        rest, added = qlinear.floated(rest, known, opset, names, self.path, self.outputs)
        refuse_malformed(body, opset, self.header.ir_version, self.path)
        self.constants |= added
        return rest

    def _computed(self, nodes: list[NodeProto], held: Sequence[str]) -> list[NodeProto]:
        """The nodes that depend on the data. An Identity of a constant is that constant.

        held: tensors that keep their names, though they be constants.
        """
        while True:
            self.shapes, self.dtypes = infer(self.path, nodes, self.constants, self.inputs, held, self.header)
            renamed: dict[str, str] = {}
            left: list[NodeProto] = []
            recast = False
            for node in nodes:
                node = _reading(node, renamed)
                if node.op_type == "Identity" and node.input[0] in self.constants and node.output[0] not in held:
                    renamed[node.output[0]] = node.input[0]
                elif node.op_type == "CastLike" and (to := self.dtypes.get(node.input[1])):
                    left.append(helper.make_node("Cast", node.input[:1], node.output, name=node.name, to=to))
                    recast = True
                elif node.op_type in ("Shape", "Size") and node.input[0] in self.shapes:
                    self.constants |= _evaluate(node, {node.input[0]: self._of_its_shape(node)}, self.header, self.path)
                elif all(name in self.constants for name in node.input if name):
                    self._spend(node)
                    self.constants |= _evaluate(node, self.constants, self.header, self.path)
                    if node.op_type == "DequantizeLinear":
                        self.stored |= symmetric(node, self.constants)
                else:
                    left.append(node)
            if len(left) == len(nodes) and not recast:
                return left
            nodes = left

    def _spend(self, node: NodeProto) -> None:
        """Raise ModelError before a constant is computed that takes more memory or time than a file of this size can mean."""
        if node.op_type == "Constant":
            return
        work, shape = _work(node, self.constants, self.header)
        self.left -= work
        if self.left < 0:
            raise ModelError(
                f"{self.path}: node '{node.name or node.op_type}' makes a constant of shape {shape}, of more elements than "
                "are computed of so small a file; a simplifier (onnxsim, onnxslim) may fold it, or the file is damaged"
            )

    def _of_its_shape(self, node: NodeProto) -> np.ndarray:
        """An array of the shape of a node's input, which takes no memory."""
        shape = self.shapes[node.input[0]]
        if prod(shape) > MAX_ACTIVATIONS:
            raise ModelError(
                f"{self.path}: node '{node.name or node.op_type}' reads a tensor of shape {list(shape)}; give a smaller "
                "--input-shape, or export the file again if it is damaged"
            )
        return np.broadcast_to(np.float32(0), shape)


def _reading(node: NodeProto, renamed: Mapping[str, str]) -> NodeProto:
    """The node, reading each renamed tensor by its new name."""
    if not any(name in renamed for name in node.input):
        return node
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [renamed.get(name, name) for name in node.input]
    return copy


def _evaluate(node: NodeProto, values: Mapping[str, np.ndarray], header: ModelProto, path: str) -> dict[str, np.ndarray]:
    """The outputs of one node, by ONNX's reference implementation."""
    if node.op_type == "Constant" and node.attribute and node.attribute[0].type == AttributeProto.TENSOR:
        return {node.output[0]: array_of(node.attribute[0].t, path)}
    if node.op_type == "DequantizeLinear":
        return {node.output[0]: _dequantized(node, values, path)}
    if node.op_type == "Cast":
        _refuse_beyond_whole(node, values[node.input[0]], path)
    from onnx.reference import ReferenceEvaluator  # only files that need folding pay for the import

    names = [name for name in dict.fromkeys(node.input) if name]
    try:
        model = _alone(node, {name: values[name] for name in names}, header)
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numbers too large for their type: runtimes say nothing either
            results = ReferenceEvaluator(model).run(None, {name: values[name] for name in names})
    except Exception as error:  # the reference raises anything at all on damaged parameters
        raise ModelError(
            f"{path}: node '{node.name or node.op_type}' can't be computed ({first_line(error)}); a simplifier (onnxsim, "
            "onnxslim) may fold it, else export it again"
        ) from None
    return dict(zip([name for name in node.output if name], map(np.asarray, results), strict=True))


def _alone(node: NodeProto, values: Mapping[str, np.ndarray], header: ModelProto) -> ModelProto:
    """A model of one node. values: of its inputs."""
    graph = helper.make_graph(
        [node],
        "constant",
        [declared(name, value) for name, value in values.items()],
        [helper.make_empty_tensor_value_info(name) for name in node.output if name],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset_of(header))])


def _work(node: NodeProto, values: Mapping[str, np.ndarray], header: ModelProto) -> tuple[int, list[int]]:
    """What a constant takes, in elements that are held or as many steps, and its shape; 0 where inference can't tell."""
    read = {name: values[name] for name in node.input if name}
    if node.op_type == "Range":  # inference counts its numbers in float32
        with np.errstate(all="ignore"):
            start, limit, step = (values[name].reshape(-1)[:1].astype(float) for name in node.input)
            count = np.nan_to_num((limit - start) / step, nan=2.0**62, posinf=2.0**62, neginf=0.0).clip(0, 2.0**62)
        return int(count.sum()), [int(count.sum())]
    model = _alone(node, read, header)
    small = [numpy_helper.from_array(np.asarray(value, order="C"), name) for name, value in read.items() if value.size <= 64]
    model.graph.initializer.extend(small)
    try:
        inferred = infer_shapes(model, data_prop=True)
    except Exception:  # InferenceError, and what the C++ side lets through: the evaluation finds out
        return 0, []
    sizes = [[dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in inferred.graph.output]
    most = max(sizes, key=prod, default=[])
    return sum(map(prod, sizes)) * _reach(node, read), most


def _reach(node: NodeProto, read: Mapping[str, np.ndarray]) -> int:
    """How many elements an element of the result takes while it is computed."""
    shapes = [value.shape for value in read.values()]
    if "Conv" in node.op_type and len(shapes) > 1:
        return int(prod(shapes[1][1:]))
    if node.op_type.endswith(("MatMul", "Gemm", "MatMulInteger")) and shapes[0]:
        return int(1 + max(shapes[0]) // _PRODUCTS_AN_ELEMENT)
    return int(prod(next((a.ints for a in node.attribute if a.name == "kernel_shape"), ())))


def _refuse_beyond_whole(node: NodeProto, x: np.ndarray, path: str) -> None:
    """Raise ModelError where a constant is cast to whole numbers that don't reach it: processors make different ones of it.

    Infinity becomes the smallest int64 on x86 and the largest on Arm, and a Slice that ends there keeps nothing or all.
    """
    to = np.dtype(helper.tensor_dtype_to_np_dtype(next(int(given.i) for given in node.attribute if given.name == "to")))
    if x.dtype.kind != "f" or to.kind not in "iu":
        return
    whole = np.trunc(x.astype(np.float64))
    held = (whole >= float(np.iinfo(to).min)) & (whole < float(np.iinfo(to).max) + 1)
    if not held.all():
        raise ModelError(
            f"{path}: node '{node.name or node.op_type}' makes {to} of {x[~held].flat[0]}, which none is: processors differ in "
            "what comes out; export it again with a number in its place that the type holds"
        )


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
        floats = qlinear.dequantized(x, scale, zero, axis, block)
        if floats.shape != x.shape:
            raise ValueError
    except (ValueError, IndexError):
        what = f" in blocks of {block} along axis {axis}" if block else ""
        raise ModelError(
            f"{path}: node '{node.name or node.op_type}' has scales {list(scale.shape)} that don't fit {list(x.shape)}{what}; "
            "the file is damaged, quantise again"
        ) from None
    wanted = given.get("output_dtype", 0)
    return floats.astype(helper.tensor_dtype_to_np_dtype(wanted)) if wanted else floats
