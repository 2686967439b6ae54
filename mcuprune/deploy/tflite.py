"""An int8 QDQ network as a .tflite file, for TensorFlow Lite Micro and what else reads that format.

``deploy`` does the work: the network is lowered to a program, the program is written as a flatbuffer. The file's own integers
are kept, so that runtimes differ by the rounding of their kernels alone. What TFLite can't say is refused by the node's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from onnx import ModelProto, numpy_helper

from mcuprune.deploy.flatbuffer import serialised
from mcuprune.deploy.lower import lower
from mcuprune.deploy.lowering import QUANTISE_AGAIN
from mcuprune.deploy.program import Port, Program
from mcuprune.errors import ModelError
from mcuprune.graph import network
from mcuprune.graph.folding import symmetric
from mcuprune.graph.network import Network, Shape, Stored
from mcuprune.immutable import immutable
from mcuprune.operators import table as ops

__all__ = ["Converted", "Port", "Stored", "convert", "from_file", "stored_constants"]


@immutable
class Converted:
    """A .tflite file. operators: TFLite operators with the ONNX node that each is written for, in the order they run.

    program: what the file says. plan: the memory plan in it, empty where there is none (``Program.planned``).
    """

    content: bytes
    program: Program
    plan: tuple[int, ...]

    @property
    def file(self) -> bytes:
        """``content`` to be written. Raises UnsupportedOperator where TensorFlow Lite Micro couldn't prepare it."""
        self.program.check_forms()
        return self.content

    @property
    def inputs(self) -> tuple[Port, ...]:
        """The program's inputs in ONNX's order."""
        return self.program.inputs

    @property
    def outputs(self) -> tuple[Port, ...]:
        """The program's outputs in ONNX's order."""
        return self.program.outputs

    @property
    def operators(self) -> tuple[tuple[str, str], ...]:
        """TFLite operators with the ONNX node that each is written for, in the order they run."""
        return tuple((operator.name, operator.node) for operator in self.program.operators)


def stored_constants(model: ModelProto) -> dict[str, Stored]:
    """The name of each dequantised constant of an ONNX model -> its integers, where their zero point is 0.

    A network that is loaded has them as ``Network.stored``.
    """
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    constants: dict[str, Stored] = {}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and all(name in arrays for name in node.input if name):
            constants |= symmetric(node, {**arrays, node.output[0]: np.zeros(0)})
    return constants


def from_file(path: str | Path, *, input_shapes: Mapping[str, Shape] | None = None, outputs: Sequence[str] = ()) -> bytes:
    """An int8 ONNX file as a TensorFlow Lite file, with a plan of its memory where that beats the runtime's own.

    Raises what ``convert`` raises, and what ``network.load`` does.
    """
    net = network.load(path, input_shapes=input_shapes, outputs=outputs, accept=ops.accept(str(path)))
    return convert(net, offline=True).file


def convert(
    net: Network, stored: Mapping[str, Stored] | None = None, *, offline: bool = False, names: bool = False
) -> Converted:
    """The .tflite of an int8 network, as ``export.quantized`` makes it or as ``network.load`` reads it.

    stored: the integers behind the network's constants, where they aren't its own.
    offline: with a memory plan in the file, where a search finds one that takes less arena than the runtime's own planner.
    names: with the names of tensors, which no runtime needs.
    Raises UnsupportedOperator, naming the node, for what has no int8 operator in TensorFlow Lite Micro, ModelError for a
    network that isn't int8.
    """
    if not any(node.op == "QuantizeLinear" for node in net.nodes):
        raise ModelError(f"{net.path}: is a float model; a microcontroller's runtime takes int8: prune without --float")
    if stored is not None:
        own = {name: replace(stored_constant, value=net.constants.get(name)) for name, stored_constant in stored.items()}
        net = replace(net, stored=own)
    for name, integers in net.stored.items():
        if not (np.isfinite(integers.scale).all() and (integers.scale > 0).all()):
            raise ModelError(f"{net.path}: constant '{name}' is stored by scales that aren't all above 0; {QUANTISE_AGAIN}")
    program = lower(net)
    program.check()
    plan = program.planned() if offline else ()
    return Converted(serialised(program, plan, names=names), program, plan)
