"""Single nodes as the modules that onnx2torch makes of them."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from functools import lru_cache
from itertools import chain
from types import ModuleType
from typing import Any

import onnx
from onnx import helper, numpy_helper
from torch import nn

from mcuprune.errors import lacking
from mcuprune.graph.network import Network, Node
from mcuprune.graph.parameters import node_protos
from mcuprune.operators import attributes
from mcuprune.train.kernels import NEWER_ATTRIBUTES, Kernel, refuse_newer, untrainable

#: The opset that nodes are handed to onnx2torch in.
_KERNEL_OPSET = 17


@lru_cache(maxsize=1)
def converter() -> Callable[[Any], nn.Module]:
    """onnx2torch's ``convert``.

    onnx2torch imports torchvision for two detection operators that mcuprune never hands it, and torchvision fails to import
    wherever its compiled operators don't match the installed torch. Placeholders stand in for it then, during the import.
    """
    try:
        import torchvision.ops  # noqa: F401

        placeholders = {}
    except Exception:  # ImportError where it is absent; torch's operator registry raises RuntimeError for a mismatched build
        broken = [name for name in sys.modules if name.split(".")[0] == "torchvision"]
        for name in broken:
            del sys.modules[name]
        ops = ModuleType("torchvision.ops")
        ops.roi_align = None  # type: ignore[attr-defined]
        root = ModuleType("torchvision")
        root.ops = ops  # type: ignore[attr-defined]
        placeholders = {"torchvision": root, "torchvision.ops": ops}
    sys.modules.update(placeholders)
    try:
        from onnx2torch import convert
    except (ImportError, OSError) as error:
        raise lacking("training", error, "pip install 'mcuprune[prune]'") from None
    finally:
        for name in placeholders:
            del sys.modules[name]
    return convert  # type: ignore[no-any-return]


def converted(node: Node, net: Network) -> Kernel:
    """The module that onnx2torch makes of a single node. Its operands, constants too, are the module's inputs."""
    convert, content = converter(), _alone(_lowered(node, net), net)
    try:
        module = _module(convert, content)
    except Exception as error:  # onnx2torch raises NotImplementedError and, for odd attributes, whatever comes up
        reason = str(error).strip().splitlines()
        raise untrainable(node, net, why=f"({reason[0] if reason else type(error).__name__})") from None
    if next(chain(module.parameters(), module.buffers()), None) is not None:
        module = copy.deepcopy(module)  # what it holds moves with the network that it is a part of
    operands = _operands(node)
    position = [operands.index(name) for name in node.inputs if name]
    if len(operands) == len(position):
        return module
    return lambda *values: module(*[values[position.index(index)] for index in range(len(operands))])


def _operands(node: Node) -> list[str]:
    return list(dict.fromkeys(name for name in node.inputs if name))


def _alone(node: Node, net: Network) -> bytes:
    """A model of one node, with names of its own: whatever computes the same from the same shapes has the same content.

    onnx2torch makes names into attributes of modules, which may not be called "forward" or ".".
    """
    operands = _operands(node)
    called = {"": "", **{name: f"operand{index}" for index, name in enumerate(operands)}}
    results = tuple(f"result{index}" if name else "" for index, name in enumerate(node.outputs))
    renamed = Node("node", node.op, tuple(called[name] for name in node.inputs), results, node.attrs, {})
    dtypes = {called[name]: net.dtypes[name] for name in operands}
    protos, parameters = node_protos([renamed], {}, _KERNEL_OPSET, dtypes)
    inputs = []
    for name in operands:
        shape: list[int | str] = list(net.shapes[name])
        if shape and not net.is_constant(name):
            shape[0] = "batch"
        inputs.append(helper.make_tensor_value_info(called[name], net.dtypes[name], shape))
    outputs = [helper.make_empty_tensor_value_info(name) for name in results if name]
    graph = helper.make_graph(protos, "node", inputs, outputs, [numpy_helper.from_array(v, n) for n, v in parameters.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _KERNEL_OPSET)], ir_version=8)
    return bytes(model.SerializeToString(deterministic=True))


@lru_cache(maxsize=512)
def _module(convert: Callable[[Any], nn.Module], content: bytes) -> nn.Module:
    """What onnx2torch makes of a model; once for all nodes that are alike, as every network is built a dozen times in a run."""
    return convert(onnx.load_model_from_string(content))


def _lowered(node: Node, net: Network) -> Node:
    """The node in terms that opset 17 has."""
    refuse_newer(node, net)
    attrs = {name: value for name, value in node.attrs.items() if name not in NEWER_ATTRIBUTES.get(node.op, ())}
    rank = len(net.shapes[node.inputs[0]]) if node.inputs else 0
    if node.op == "Split":
        axis = attributes.axis(node, rank)
        attrs["split"] = tuple(net.shapes[name][axis] for name in node.outputs)
        attrs.pop("num_outputs", None)
    elif node.op == "Pad" and node.get("axes"):
        attrs["pads"] = attributes.flat(attributes.pads_of_all_axes(node, rank))
        del attrs["axes"]
    elif node.op.startswith("Reduce") and not node.get("axes"):
        attrs.pop("axes", None)
    return Node(node.name, node.op, node.inputs, node.outputs, attrs, {})
