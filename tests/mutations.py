"""Damage files at random and read them: ``python tests/mutations.py SEED COUNT FILE...`` prints what went wrong, if anything.

A process of its own, with bounded memory: what damage does to C++ code must not take the test run along.
"""

from __future__ import annotations

import random
import resource
import sys
import tempfile
import time
from pathlib import Path

import onnx
from onnx import helper

from mcuprune import network, ops, resources
from mcuprune.errors import McupruneError

MEMORY_BYTES, SECONDS = 3 * 2**30, 10.0
_SIZES = (-(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 7, 1000, 2**20, 2**31, 2**40, 2**62)


def bytes_changed(content: bytes, draw: random.Random) -> bytes:
    """Some bytes replaced, dropped or put in; mostly near the ends, where graphs rather than weights lie."""
    damaged = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        edge = min(len(damaged), 3000)
        where = draw.choice((draw.randrange(len(damaged)), draw.randrange(edge), len(damaged) - 1 - draw.randrange(edge)))
        kind = draw.random()
        if kind < 0.6:
            damaged[where] = draw.randrange(256)
        elif kind < 0.8:
            del damaged[where : where + draw.choice((1, 2, 8))]
        else:
            damaged[where:where] = draw.randbytes(draw.choice((1, 4)))
    return bytes(damaged)


def graph_changed(content: bytes, draw: random.Random) -> bytes:
    """A well-formed file of a graph that makes no sense any more."""
    model = onnx.load_from_string(content)
    graph = model.graph
    node = draw.choice(graph.node)
    names = [name for other in graph.node for name in other.output] + [tensor.name for tensor in graph.initializer]
    kind = draw.choice(("attribute", "operator", "dims", "input", "output", "twice", "gone", "shape", "type", "extra", "opset"))
    if kind == "attribute" and node.attribute:
        attribute = draw.choice(node.attribute)
        if attribute.ints:
            attribute.ints[draw.randrange(len(attribute.ints))] = draw.choice(_SIZES)
        else:
            attribute.i = draw.choice(_SIZES)
    elif kind == "operator":
        node.op_type = draw.choice(sorted(ops.OPS))
    elif kind == "dims" and graph.initializer:
        tensor = draw.choice(graph.initializer)
        tensor.dims[:] = [*tensor.dims[1:], draw.choice(_SIZES)]
    elif kind == "input" and node.input:
        node.input[draw.randrange(len(node.input))] = draw.choice([*names, "", "nothing"])
    elif kind == "output":
        node.output[0] = draw.choice([*names, ""])
    elif kind == "twice":
        graph.node.append(node)
    elif kind == "gone":
        graph.node.remove(node)
    elif kind == "shape" and graph.input[0].type.tensor_type.shape.dim:
        draw.choice(graph.input[0].type.tensor_type.shape.dim).dim_value = draw.choice(_SIZES)
    elif kind == "type":
        graph.input[0].type.tensor_type.elem_type = draw.randrange(24)
    elif kind == "extra":
        name = draw.choice(("axis", "group", "perm", "pads", "axes", "blocksize", "kernel_shape", "to", "transA"))
        node.attribute.append(helper.make_attribute(name, draw.choice((1, -1, [1], [2, 2], 2.0, "SAME_UPPER"))))
    elif kind == "opset":
        model.opset_import[0].version = draw.randrange(5, 28)
    return model.SerializeToString()


def main(seed: str, count: str, *files: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    draw = random.Random(int(seed))
    contents = {name: Path(name).read_bytes() for name in files}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(int(count)):
            name = draw.choice(files)
            path = Path(folder, "net.onnx")
            path.write_bytes((bytes_changed, graph_changed)[turn % 2](contents[name], draw))
            started = time.monotonic()
            try:
                resources.profile(network.load(path, accept=ops.accept(str(path))))
            except McupruneError as error:
                if "\n" in str(error) or str(path) not in str(error):
                    print(f"{turn} {name}: a message that names no file, or has several lines: {error}")
            except Exception as error:
                print(f"{turn} {name}: {type(error).__name__}: {error}")
            if time.monotonic() - started > SECONDS:
                print(f"{turn} {name}: took {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
