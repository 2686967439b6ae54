"""An If whose condition is known when a file is read, replaced by the branch it takes.

Exporters write ``squeeze`` of an axis that may be longer than 1, and other questions about shapes, as an If. Once shapes are
static such a question has an answer. It works on protos, since the rest of a network doesn't know of graphs within nodes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper

from mcuprune.errors import ModelError, UnsupportedOperator


def is_if(node: NodeProto) -> bool:
    """Whether a node is ONNX's own If."""
    return node.op_type == "If" and not node.domain


def reads(node: NodeProto) -> list[str]:
    """The tensors that a node needs: its inputs, and what its subgraphs take from around it."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        for graph in _graphs(attribute):
            names += _captured(graph)
    return names


def _graphs(attribute: AttributeProto) -> Iterator[GraphProto]:
    if attribute.type == AttributeProto.GRAPH:
        yield attribute.g
    yield from attribute.graphs


def _captured(graph: GraphProto) -> list[str]:
    """Names that a subgraph uses and doesn't make."""
    own = _defined(graph)
    used = [name for node in graph.node for name in reads(node)] + [value.name for value in graph.output]
    return [name for name in dict.fromkeys(used) if name not in own]


def _defined(graph: GraphProto) -> dict[str, None]:
    """The names that belong to a subgraph, in its order."""
    inside = [value.name for value in graph.input] + [tensor.name for tensor in graph.initializer]
    return dict.fromkeys([*inside, *(name for node in graph.node for name in node.output if name)])


def apart(nodes: Sequence[NodeProto]) -> tuple[list[NodeProto], list[NodeProto]]:
    """The nodes that no If comes before, and the others, each in the given order."""
    ready: list[NodeProto] = []
    waiting: list[NodeProto] = []
    unknown: set[str] = set()
    for node in nodes:
        if is_if(node) or not unknown.isdisjoint(node.input):
            waiting.append(node)
            unknown.update(filter(None, node.output))
        else:
            ready.append(node)
    return ready, waiting


def resolved(
    nodes: Sequence[NodeProto], constants: Mapping[str, np.ndarray], taken: Collection[str], path: str
) -> tuple[list[NodeProto], list[NodeProto], list[TensorProto]] | None:
    """Every If whose condition is a constant replaced by its branch; None where there is no such If.

    taken: all names of tensors in the model. Returns the nodes, those among them that come from a branch, and the branches'
    initializers. Raises ModelError for a malformed If.
    """
    names = set(taken)
    remaining: list[NodeProto] = []
    inside: list[NodeProto] = []
    tensors: list[TensorProto] = []
    for node in nodes:
        condition = constants.get(node.input[0]) if is_if(node) and node.input else None
        if condition is None:
            remaining.append(node)
            continue
        where = f"{path}: node '{node.name or node.op_type}' (If)"
        if np.size(condition) != 1:
            raise ModelError(f"{where} has a condition of shape {list(np.shape(condition))}; it takes one value: export again")
        wanted = "then_branch" if bool(np.ravel(condition)[0]) else "else_branch"
        branch = next((a.g for a in node.attribute if a.name == wanted and a.type == AttributeProto.GRAPH), None)
        if branch is None or len(branch.output) != len(node.output):
            raise ModelError(f"{where} has no {wanted} with {len(node.output)} outputs; the file is damaged, export again")
        body, stored = _inlined(node, branch, names)
        remaining += body
        inside += body
        tensors += stored
    return (remaining, inside, tensors) if len(inside) or len(remaining) < len(nodes) else None


def _inlined(node: NodeProto, branch: GraphProto, taken: set[str]) -> tuple[list[NodeProto], list[TensorProto]]:
    """The nodes and initializers of a branch under names of their own; its results under the names of the If's outputs."""
    base = node.name or node.output[0]
    names = {}
    for name in _defined(branch):
        unique = f"{base}/{name}"
        while unique in taken:
            unique += "_"
        taken.add(unique)
        names[name] = unique
    computed = {name for inner in branch.node for name in inner.output}
    ends: list[NodeProto] = []
    for formal, target in zip(branch.output, node.output, strict=True):
        if formal.name in computed and names[formal.name] not in node.output:
            names[formal.name] = target or names[formal.name]
        elif target:  # what comes from around the If, a constant, or a result that is handed on twice
            ends.append(helper.make_node("Identity", [names.get(formal.name, formal.name)], [target], name=f"{base}/{target}"))
    body = [_renamed(inner, names, base) for inner in branch.node]
    stored = []
    for tensor in branch.initializer:
        copied = TensorProto()
        copied.CopyFrom(tensor)
        copied.name = names[tensor.name]
        stored.append(copied)
    return body + ends, stored


def _renamed(node: NodeProto, names: Mapping[str, str], base: str | None = None) -> NodeProto:
    """A copy of a node with tensors renamed, in its subgraphs too where they mean the same tensors."""
    copied = NodeProto()
    copied.CopyFrom(node)
    if base is not None:
        copied.name = f"{base}/{node.name or node.op_type}"
    copied.input[:] = [names.get(name, name) for name in node.input]
    copied.output[:] = [names.get(name, name) for name in node.output]
    for attribute in copied.attribute:
        for graph in _graphs(attribute):
            own = _defined(graph)
            outer = {old: new for old, new in names.items() if old not in own}
            inner = [_renamed(node_inside, outer) for node_inside in graph.node]
            del graph.node[:]
            graph.node.extend(inner)
            for value in graph.output:
                value.name = outer.get(value.name, value.name)
    return copied


def refusal(node: NodeProto, path: str) -> UnsupportedOperator:
    """For an If that only the data decides."""
    return UnsupportedOperator(
        f"{path}: node '{node.name or node.op_type}': If is control flow that '{node.input[0] if node.input else ''}' decides "
        "when the network runs; mcuprune handles feed-forward CNNs. If one branch is always taken, a simplifier "
        "(onnxsim, onnxslim) may remove the other; else export the network without the branch",
        tensor=node.output[0] if node.output else None,
    )
