"""The end of a model that isn't for a microcontroller cut off: at tensors that the user names, or that a refusal proposes.

Detectors often end in what decodes and selects boxes (NonMaxSuppression, NonZero, TopK, loops). That runs on the host, or as
a few lines of C; the network ends at the tensors that it reads. It works on protos, before anything else is read.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Callable, Collection, Sequence

import onnx
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto

from mcuprune.errors import ModelError
from mcuprune.graph.branches import reads

#: Operators with weights: what holds one of these is more than a tail.
_LAYERS = frozenset(
    ("Conv", "ConvTranspose", "Gemm", "LSTM", "GRU", "RNN", "QLinearConv", "ConvInteger", "QGemm", "FusedConv", "FusedGemm")
)
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
#: How often a proposal is tried again with more operators refused.
_TRIES = 8


def cut(model: ModelProto, wanted: Sequence[str], path: str) -> ModelProto:
    """The model with other outputs, and without the nodes, inputs and initializers that these don't need.

    wanted: names of tensors, or several joined by commas. Raises ModelError for a name that the graph doesn't compute.
    """
    graph = model.graph
    computed = dict.fromkeys(name for node in graph.node for name in node.output if name)
    names = _split(wanted, computed)
    if not names:
        raise ModelError(f"{path}: --outputs names no tensor; write --outputs NAME or --outputs NAME,NAME")
    known = {value.name: value for value in (*graph.value_info, *graph.output)}
    for name in names:
        if name not in computed:
            raise ModelError(f"{path}: --outputs names '{name}', which no node computes; {_near(name, list(computed))}")
    if any(not _typed(known.get(name)) for name in names):
        known |= {value.name: value for value in _inferred(model)}
    shorter = ModelProto()
    shorter.CopyFrom(model)
    del shorter.graph.output[:]
    for name in names:
        value = known.get(name)
        shorter.graph.output.append(value if value is not None else ValueInfoProto(name=name))
    needed, kept = set(names), []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(reads(node))
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(kept)]
    del shorter.graph.node[:]
    shorter.graph.node.extend(copies)
    for values in (shorter.graph.input, shorter.graph.initializer):
        for index in reversed(range(len(values))):
            if values[index].name not in needed:
                del values[index]
    return shorter


def _split(wanted: Sequence[str], computed: Collection[str]) -> list[str]:
    """Single names; one that holds a comma itself is taken whole."""
    parts = [part for text in wanted for part in ([text] if text in computed else text.split(","))]
    return list(dict.fromkeys(part if part in computed else part.strip() for part in parts if part.strip()))


def _near(name: str, computed: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, computed, 3) or [other for other in computed if name.lower() in other.lower()][:3]
    if close:
        return f"did you mean {' or '.join(repr(other) for other in close)}?"
    return f"the last that it computes are {', '.join(computed[-5:])}"


def _typed(value: ValueInfoProto | None) -> bool:
    return value is not None and value.type.tensor_type.elem_type != 0 and value.type.tensor_type.HasField("shape")


def _inferred(model: ModelProto) -> list[ValueInfoProto]:
    """What shape inference says of every tensor, as far as it gets."""
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # whatever the C++ side makes of a damaged graph; reading it says what is wrong
        return []
    return [*inferred.graph.value_info, *inferred.graph.output]


# ------------------------------------------------------------------------------------------------------------- proposals


def proposal(model: ModelProto, refused: str, read: Callable[[ModelProto], str | None]) -> str | None:
    """The words of a flag that cuts off the tail which begins where a node is refused; None where it isn't a mere tail.

    refused: the first output of that node. read: tries to read a model, and returns the first output of the node that it
    refuses, an empty string for another failure, None if it can.
    """
    tail: set[str] = {refused}
    dtypes = {value.name: value.type.tensor_type.elem_type for value in _inferred(model)}
    for _ in range(_TRIES):
        names = _frontier(model.graph, tail, dtypes)
        if not names:
            return None
        following = read(cut(model, names, ""))
        if following is None:
            return _flag(names)
        if not following or following in tail:
            return None
        tail.add(following)
    return None


def _flag(names: Sequence[str]) -> str:
    if any("," in name for name in names):
        return " ".join(f"--outputs {shlex.quote(name)}" for name in names)
    return f"--outputs {shlex.quote(','.join(names))}"


def _frontier(graph: GraphProto, refused: set[str], dtypes: dict[str, int]) -> list[str]:
    """Float tensors that the network makes and only the tail reads, in the graph's order; none where the tail has layers."""
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    readers: dict[str, list[int]] = {}
    for index, node in enumerate(graph.node):
        for name in dict.fromkeys(reads(node)):
            readers.setdefault(name, []).append(index)
    tail: set[int] = set()
    todo = [makers[name] for name in refused if name in makers]
    depending = _depending(graph)
    outputs = {value.name for value in graph.output}
    while True:
        while todo:
            index = todo.pop()
            if index not in tail:
                tail.add(index)
                todo += [reader for name in graph.node[index].output for reader in readers.get(name, ())]
        if any(graph.node[index].op_type in _LAYERS for index in tail):
            return []
        border = []
        for index, node in enumerate(graph.node):
            if index in tail:
                continue
            for name in node.output:
                ends = readers.get(name, [])
                read_by_tail = bool(ends) and all(reader in tail for reader in ends)
                if name in depending and (read_by_tail or name in outputs):
                    border.append((index, name))
        unfit = [index for index, name in border if name not in outputs and dtypes.get(name, TensorProto.FLOAT) not in _FLOATS]
        if not unfit:
            return list(dict.fromkeys(name for _, name in border))
        todo = unfit  # an integer or a truth value is the tail's business too


def _depending(graph: GraphProto) -> set[str]:
    """Tensors whose values follow from the inputs' values, and not from their shapes alone."""
    stored = {tensor.name for tensor in graph.initializer}
    depending = {value.name for value in graph.input} - stored
    for node in graph.node:
        if node.op_type not in ("Shape", "Size") and not depending.isdisjoint(reads(node)):
            depending.update(filter(None, node.output))
    return depending
