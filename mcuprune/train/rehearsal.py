"""The road of a prune, walked once with the network as it came: what can't be done is refused before any work.

The network is folded, quantised with ranges that nobody measured, checked, loaded by onnxruntime's default session and run on
one example, just as the cut and trained one will be. Where that fails, the same would have failed at the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper

from mcuprune.channels.labelling import Channels, label
from mcuprune.deploy.qdq import UNREAD, Quantizer, quantized, scheme
from mcuprune.errors import ModelError, UnsupportedOperator
from mcuprune.graph.network import Network, is_float
from mcuprune.passes import batchnorm as folding
from mcuprune.train.task import PRECISIONS

#: Any range will do: what is tried here doesn't depend on it.
_ANY = Quantizer(2**-5, 0)


def rehearse(channels: Channels, *, int8: bool, train: bool, precision: str = PRECISIONS[0]) -> None:
    """Raise ModelError or UnsupportedOperator, with the node and the reason, for what can't be finished.

    int8, train: whether it is to be quantised and trained; both need float32 and finite weights. precision: of
    PRECISIONS, in which it is to be trained.
    """
    net = channels.network
    if int8 or train:
        _refuse_unquantizable(net)
        _refuse_no_number(net)
    small = folding.folded(net)
    _refuse_unwritable(small, "as float")
    _refuse_unrunnable(small, "as float")
    if int8 or train:
        _refuse_unknown_to_torch(small)
    if train and precision != PRECISIONS[0]:
        _refuse_without_half(small, precision)
    if int8:
        _refuse_unread(net)
        quantizers = dict.fromkeys(scheme(small).quantizer.values(), _ANY)
        written = quantized(small, scheme(small), quantizers)
        _refuse_unwritable(written, "as int8")
        _refuse_unrunnable(written, "as int8")


def _refuse_unquantizable(net: Network) -> None:
    for node in net.nodes:
        if node.op in ("QuantizeLinear", "DequantizeLinear"):
            raise UnsupportedOperator(
                f"{net.path}: node '{node.name}' ({node.op}): this quantiser can't be taken out, and a quantised network can't "
                "be trained or quantised again; prune the float model that the file was made from"
            )
        for name in (*node.inputs, *node.outputs) if node.op != "Cast" else ():
            dtype = net.dtypes.get(name, TensorProto.FLOAT)
            if name and is_float(dtype) and dtype != TensorProto.FLOAT:
                raise ModelError(
                    f"{net.path}: node '{node.name}' ({node.op}): tensor '{name}' is "
                    f"{TensorProto.DataType.Name(dtype).lower()} and could not be made float32; export the model in float32"
                )


def _refuse_unread(net: Network) -> None:
    for name in net.inputs:
        if not net.consumers.get(name) and name not in net.outputs:
            raise ModelError(f"{net.path}: input '{name}': {UNREAD}")


def _refuse_no_number(net: Network) -> None:
    for node in net.nodes:
        for name in node.inputs:
            if net.is_constant(name) and not np.isfinite(net.constants[name].astype(np.float32, copy=False)).all():
                raise ModelError(
                    f"{net.path}: node '{node.name}' ({node.op}): constant '{name}' holds values that are no finite float32 "
                    "numbers; mend its weights, or cut it as it is: --no-train --float"
                )


def _refuse_unwritable(net: Network, how: str) -> None:
    if (fault := net.fault()) is not None:
        raise ModelError(f"{net.path}: can't be written {how} ({fault}); export it again")


def _refuse_unrunnable(net: Network, how: str) -> None:
    """Refuse what onnxruntime's default session doesn't load or run; without onnxruntime nothing is known, or needed."""
    try:
        import onnxruntime
    except ImportError:
        return
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session: Any = onnxruntime.InferenceSession(
            net.to_proto().SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        given = {value.name: value.shape for value in session.get_inputs()}
        session.run(None, {name: _example(net, name, given[name]) for name in net.inputs if name in given})
    except Exception as error:  # onnxruntime raises its own kinds, none of them public
        raise ModelError(
            f"{net.path}: onnxruntime can't run the network {how} ({str(error).splitlines()[0]}); "
            "export it again, with another opset or without this node"
        ) from None


def _example(net: Network, name: str, declared: Any) -> np.ndarray:
    """Ones in an input's shape; its batch is as declared, where it is."""
    shape = [size if isinstance(size, int) else known for size, known in zip(declared, net.shapes[name], strict=True)]
    return np.ones(shape, helper.tensor_dtype_to_np_dtype(net.dtypes[name]))


def _refuse_unknown_to_torch(net: Network) -> None:
    """Refuse what fake-quant training can't compute."""
    import torch

    from mcuprune.train.batchproof import drawn
    from mcuprune.train.fake_quant import QuantTrainable

    module = QuantTrainable(label(net))
    module.simulating = module.observing = False
    draw = np.random.default_rng(0)
    endless: list[str] = []
    done: set[str] = set()

    def computed(tensor: str, value: torch.Tensor) -> torch.Tensor:
        done.add(tensor)
        if value.is_floating_point() and not torch.isfinite(value).all():
            endless.append(tensor)
        return value

    module.computed = computed  # type: ignore[method-assign]
    examples = [torch.from_numpy(drawn(net, name, draw)) for name in net.inputs]
    try:
        with torch.no_grad():
            module.eval()(*examples)
    except Exception as error:  # torch and onnx2torch raise whatever their kernels do
        left = next((node for node in net.nodes if done.isdisjoint(node.outputs)), net.nodes[-1])
        raise UnsupportedOperator(
            f"{net.path}: node '{left.name}' ({left.op}): torch can't compute it ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}), and training and int8 need that; cut it as it is: --no-train --float"
        ) from None
    if endless:
        maker = net.producer[endless[0]]
        raise ModelError(
            f"{net.path}: node '{maker.name}' ({maker.op}): '{endless[0]}' is no finite number on ordinary inputs: it has no "
            "range to quantise or train in; mend its weights, or cut it as it is: --no-train --float"
        )


def _refuse_without_half(net: Network, precision: str) -> None:
    """Refuse what can't be computed in a lower precision."""
    import torch

    from mcuprune.train.batchproof import drawn
    from mcuprune.train.module import Trainable

    draw = np.random.default_rng(0)
    try:
        with torch.no_grad(), torch.autocast("cpu", getattr(torch, precision)):
            Trainable(label(net)).eval()(*[torch.from_numpy(drawn(net, name, draw)) for name in net.inputs])
    except Exception as error:  # torch raises whatever its kernels do
        raise UnsupportedOperator(
            f"{net.path}: torch can't compute the network in {precision} ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}); leave --precision out"
        ) from None
