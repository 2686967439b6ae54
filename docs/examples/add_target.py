"""An export target: a header for TensorFlow Lite Micro with the size of the arena and the operators to register."""

from mcuprune.deploy.lower import lower
from mcuprune.graph import network
from mcuprune.graph.network import Network
from mcuprune.operators import table as ops


def header(net: Network) -> bytes:
    """Read off the program, which is what the .tflite file is written from. Raises UnsupportedOperator, naming the node."""
    program = lower(net)
    program.check()
    names = sorted({operator.name for operator in program.operators})
    lines = [
        "#pragma once",
        f"constexpr int kTensorArenaSize = {program.arena().total};",
        f"constexpr int kOperators = {len(names)};",
        *(f"// resolver.Add{''.join(_word(part) for part in name.split('_'))}();" for name in names),
    ]
    return ("\n".join(lines) + "\n").encode()


def _word(part: str) -> str:
    """CONV -> Conv, 2D -> 2D: as methods of MicroMutableOpResolver are called."""
    return part if part[0].isdigit() else part.capitalize()


if __name__ == "__main__":
    path = "models/dscnn_digits.onnx"
    net = network.load(path, accept=ops.accept(path))
    with open("net.h", "wb") as file:
        file.write(header(net))
    assert b"resolver.AddDepthwiseConv2D();" in header(net)
