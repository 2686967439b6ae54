"""A model as what a microcontroller's project takes: int8 ONNX, TensorFlow Lite, a C array of that, or C of our own.

The suffix of the output says which: EXPORTS has one function for each. An int8 file is written with its own integers. A float
one is quantised first, by the same road as ``prune`` takes with a budget that the model holds already, on ranges measured on
the user's data. A folder that builds around the generated C is one of ``deploy.project.PROJECTS``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from mcuprune import places
from mcuprune.deploy import c, tflite
from mcuprune.deploy.project import PROJECTS, Contents, Example, project
from mcuprune.deploy.tflite import Converted
from mcuprune.errors import DataError, MissingExtra, UsageError
from mcuprune.graph import external, network
from mcuprune.graph.network import Network, Shape
from mcuprune.operators import table as ops
from mcuprune.places import Output, Source
from mcuprune.run import runners
from mcuprune.train import data as datasets
from mcuprune.units import Limit

Array = np.ndarray[Any, Any]
#: What ``prune`` notes of a network that fits, which says nothing here.
_NOTHING_CUT = "nothing had to be cut"
#: Relative file name -> content.
Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Request:
    """What to export, and as what.

    model: a path. output: a file whose suffix is in EXPORTS; None with a project alone. data: as ``prune`` takes it; what
    ranges are measured on, and where a project's example comes from. project: (a kind in PROJECTS, the folder to write).
    channels_last: generated C takes and gives data with channels last, as its kernels have them.
    """

    model: str
    output: str | None = None
    data: str | None = None
    project: tuple[str, str] | None = None
    channels_last: bool = False
    input_shapes: Mapping[str, Shape] = field(default_factory=dict)
    outputs: Sequence[str] = ()
    seed: int = 0


@dataclass(frozen=True)
class Exported:
    """What was written. files: paths. bytes: of all of them. arena: what the target needs; notes: for the user."""

    request: Request
    files: tuple[str, ...]
    bytes: int
    arena: Mapping[str, int]
    notes: tuple[str, ...]


def export(request: Request, *, net: Network | None = None, data_set: datasets.Given | None = None) -> Exported:
    """Write what ``request`` asks for, each file whole or not at all.

    net: a network in memory, in place of the file ``request.model``. data_set: data in memory, in place of ``request.data``.

    Raises UsageError for a suffix or kind that is unknown and for a float model without data, UnsupportedOperator for a node
    that the target has no kernel for, and what loading, data and writing raise.
    """
    _check(request)
    read = sources(request)
    places.distinct(planned(request), read)
    if net is None:
        net = network.load(
            request.model, input_shapes=request.input_shapes, outputs=request.outputs, accept=ops.accept(request.model)
        )
    notes: tuple[str, ...] = ()
    if not is_quantized(net):
        net, notes = _quantized(request, net, data_set)
    written: dict[Path, bytes] = {}
    if request.output is not None:
        place = Path(request.output)
        made = EXPORTS[place.suffix](net, place.stem, request)
        written |= {place.parent / name: content for name, content in made.items()}
    if request.project is not None:
        kind, folder = request.project
        made = _project(kind, net, request, data_set)
        written |= {Path(folder) / name: content for name, content in made.items()}
    places.distinct([Output("--project", str(place)) for place in written], read)
    for place, content in written.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        places.write_bytes(content, place)
    files = tuple(map(str, written))
    return Exported(request, files, sum(map(len, written.values())), _arena(net, request), notes)


def document(exported: Exported) -> dict[str, Any]:
    """What was written, as JSON; sizes in bytes."""
    return {
        "format": 1,
        "command": "export",
        "ok": True,
        "path": exported.request.model,
        "files": list(exported.files),
        "bytes": exported.bytes,
        "arena": dict(exported.arena),
        "notes": list(exported.notes),
    }


def text(document: Mapping[str, Any]) -> str:
    """The document for people."""
    lines = [f"{document['path']} -> {file}" for file in document["files"]]
    lines.append(f"{document['bytes']:>10,} bytes written")
    titles = {"tflm": "of arena in TensorFlow Lite Micro (32-bit, CMSIS-NN)", "c": "of RAM in generated C, beside its stack"}
    lines += [f"{size:>10,} bytes {titles[runtime]}" for runtime, size in document["arena"].items()]
    return "\n".join([*lines, *(f"note: {note}" for note in document["notes"])]) + "\n"


def is_quantized(net: Network) -> bool:
    """Whether the network holds quantisers, so that its integers are written as they are."""
    return any(node.op == "QuantizeLinear" for node in net.nodes)


def planned(request: Request) -> list[Output]:
    """The files and folders that will be written, for whoever compares them with what is read."""
    outputs = [] if request.output is None else [Output("-o", request.output)]
    if request.output is not None and Path(request.output).suffix == ".c":
        outputs.append(Output("-o", str(Path(request.output).with_suffix(".h"))))
    return outputs


def _check(request: Request) -> None:
    if request.output is None and request.project is None:
        raise UsageError(f"{request.model}: say what to write: -o OUT{{{','.join(EXPORTS)}}}, or --project KIND DIR")
    if request.output is not None and Path(request.output).suffix not in EXPORTS:
        raise UsageError(f"-o {request.output}: the suffix says the format; it is one of {', '.join(EXPORTS)}")
    if request.project is not None and request.project[0] not in PROJECTS:
        raise UsageError(f"--project {request.project[0]}: unknown; choose one of {', '.join(PROJECTS)}")


def _quantized(request: Request, net: Network, data_set: datasets.Given | None) -> tuple[Network, tuple[str, ...]]:
    """The int8 network of a float model, as ``prune`` would write it were nothing to cut."""
    if request.data is None and data_set is None and datasets.named(net.metadata) is None:
        raise UsageError(
            f"{request.model}: is a float model, and int8 ranges are measured on data: add --data NAME, --data FILE.npz or "
            "--data module:function"
        )
    try:
        from mcuprune import pruning
        from mcuprune.train.request import Request as Asked
    except ModuleNotFoundError as error:
        raise MissingExtra(f"quantising needs {error.name}; install it with pip install 'mcuprune[prune]'") from None
    with tempfile.TemporaryDirectory() as folder:
        written = str(Path(folder) / "int8.onnx")
        asked = Asked(
            model=request.model,
            limits={"sram": Limit(Fraction(1), relative=True)},
            output=written,
            data=None if data_set is not None else request.data or datasets.named(net.metadata),
            train=False,
            seed=request.seed,
        )
        result = pruning.prune(asked, net=net, data_set=data_set)
        return result.network, tuple(note for note in result.notes if not note.startswith(_NOTHING_CUT))


def _arena(net: Network, request: Request) -> dict[str, int]:
    """Bytes of memory by runtime, as far as the network can be lowered for it."""
    converted = tflite.convert(net, offline=True)
    arena = {"tflm": converted.program.arena(plan=converted.plan).total}
    if request.project is not None or (request.output or "").endswith(".c"):
        arena["c"] = c.generate(converted.program, "net").arena
    return arena


# --------------------------------------------------------------------------------------------------------------- formats


def _onnx(net: Network, stem: str, request: Request) -> Files:
    return {f"{stem}.onnx": net.to_proto().SerializeToString(deterministic=True)}


def _tflite(net: Network, stem: str, request: Request) -> Files:
    return {f"{stem}.tflite": tflite.convert(net, offline=True).content}


def _array(net: Network, stem: str, request: Request) -> Files:
    """The .tflite as a C++ header: the bytes, the size of the arena, and the operators to register."""
    converted, name = tflite.convert(net, offline=True), c.identifier(stem)
    arena = converted.program.arena(plan=converted.plan).total
    operators = sorted({operator for operator, _ in converted.operators})
    numbers = ",".join(map(str, converted.content))
    lines = [
        f"// {name}: made by mcuprune for TensorFlow Lite Micro.",
        "#pragma once",
        "#include <cstdint>",
        "",
        f"constexpr int k{_camel(name)}TensorArenaSize = {_rounded(arena)};  // on a 32-bit core with CMSIS-NN",
        *(f"constexpr {line};" for line in _ports(converted, name)),
        f"alignas(16) constexpr unsigned char {name}_model[] = {{{numbers}}};",
        f"constexpr unsigned int {name}_model_len = {len(converted.content)};",
        "",
        "// Registers what the model needs: declare tflite::MicroMutableOpResolver<"
        f"{len(operators)}> resolver and call {name}_register(resolver).",
        "template <typename Resolver>",
        f"inline void {name}_register(Resolver &resolver) {{",
        *(f"  resolver.Add{_registered(operator)};" for operator in operators),
        "}",
        "",
    ]
    return {f"{stem}.h": "\n".join(lines).encode()}


def _rounded(size: int, step: int = 16) -> int:
    return -(-size // step) * step


def _camel(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def _ports(converted: Converted, name: str) -> list[str]:
    lines = []
    for kind, ports in (("input", converted.inputs), ("output", converted.outputs)):
        for index, port in enumerate(ports):
            lines.append(f"float {name}_{kind}_{index}_scale = {float(np.float32(port.quantizer.scale))!r}f")
            lines.append(f"int {name}_{kind}_{index}_zero_point = {port.quantizer.zero_point}")
    return lines


#: How TensorFlow Lite Micro's resolver calls an operator where that isn't its name in capitals and small letters; those with
#: an INT8 registration take it, which leaves the other types' kernels out of the image.
_INT8_REGISTRATIONS = {
    "CONV_2D": "Conv2D(tflite::Register_CONV_2D_INT8())",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2D(tflite::Register_DEPTHWISE_CONV_2D_INT8())",
    "FULLY_CONNECTED": "FullyConnected(tflite::Register_FULLY_CONNECTED_INT8())",
    "AVERAGE_POOL_2D": "AveragePool2D(tflite::Register_AVERAGE_POOL_2D_INT8())",
    "MAX_POOL_2D": "MaxPool2D(tflite::Register_MAX_POOL_2D_INT8())",
    "SOFTMAX": "Softmax(tflite::Register_SOFTMAX_INT8())",
}


def _registered(operator: str) -> str:
    words = (word.capitalize() if not word[:1].isdigit() else word.upper() for word in operator.split("_"))
    return _INT8_REGISTRATIONS.get(operator, "".join(words).replace("Padv2", "PadV2").replace("SplitV", "SplitV") + "()")


def _c(net: Network, stem: str, request: Request) -> Files:
    source = c.generate(tflite.convert(net).program, stem, channels_last=request.channels_last)
    name = c.identifier(stem)
    return {
        f"{stem}.c": source.c.replace(f'#include "{name}.h"', f'#include "{stem}.h"').encode(),
        f"{stem}.h": source.header.encode(),
    }


#: The suffix of an output -> what makes its files.
EXPORTS: Mapping[str, Callable[[Network, str, Request], Files]] = {
    ".onnx": _onnx,
    ".tflite": _tflite,
    ".h": _array,
    ".c": _c,
}


# -------------------------------------------------------------------------------------------------------------- projects


def _project(kind: str, net: Network, request: Request, data_set: datasets.Given | None) -> Files:
    """The folder around the generated C, with one example and the answer that the same C gives here."""
    converted = tflite.convert(net)
    name = c.identifier(Path(request.model).stem)
    source = c.generate(converted.program, name)
    example, where, label = example_of(net, request, data_set)
    if runners.compiler() is None:
        raise MissingExtra("a project stores what its C answers, and no C compiler was found here (cc, gcc or clang)")
    ran = runners.run("c", converted, [example], request.model, limit=0)
    inputs = [runners.stored(example[port.name], port).astype(np.int8) for port in converted.inputs]
    outputs = [ran.outputs[port.name][0] for port in converted.outputs]
    contents = Contents(name, source, converted.inputs, converted.outputs, Example(inputs, outputs, where, label))
    return {path: text.encode() for path, text in project(kind, contents).items()}


def example_of(net: Network, request: Request, data_set: datasets.Given | None) -> tuple[dict[str, Array], str, int | None]:
    """One input for each of the network's, where it comes from, and its class where that is known."""
    spec: datasets.Given | None = request.data or datasets.named(net.metadata) if data_set is None else data_set
    if spec is not None and len(net.inputs) == 1:
        shape, classes = net.shapes[net.inputs[0]], int(np.prod(net.shapes[net.outputs[0]][1:]))
        try:
            found = datasets.load(spec, input_shape=shape[1:], n_classes=classes, seed=request.seed)
            return {net.inputs[0]: found.test.x[:1]}, f"the test set of {found.name}", int(found.test.y[0])
        except DataError:
            if request.data is not None or data_set is not None:
                raise
    draw = np.random.default_rng(request.seed)
    return {name: draw.standard_normal(net.shapes[name]).astype(np.float32) for name in net.inputs}, "random numbers", None


def sources(request: Request) -> list[Source]:
    """What is read, for whoever compares it with what will be written."""
    found = [Source("the model", request.model)]
    found += [Source("external data of the model", file) for file in external.files(request.model)]
    return found + [Source("the data", file) for file in datasets.files(request.data)]
