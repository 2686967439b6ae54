"""A model as what a microcontroller's project takes: int8 ONNX, TensorFlow Lite, a C array of that, or C of our own.

The suffix of the output says which: EXPORTS has one function for each. An int8 file is written with its own integers. A float
one is quantised first, by the same road as ``prune`` takes with a budget that the model holds already, on ranges measured on
the user's data. A folder that builds around the generated C is one of ``deploy.project.PROJECTS``.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from mcuprune import console, handiwork, places
from mcuprune.bands.plan import embedded_line, region_document, region_line
from mcuprune.bands.rewrite import is_banded
from mcuprune.costs import banding, resources
from mcuprune.data import feed
from mcuprune.data import loading as datasets
from mcuprune.data.feed import Feed
from mcuprune.data.firmware import c_lines, how_fed
from mcuprune.data.preprocessing import Preprocessing, from_metadata, other_end
from mcuprune.data.sets import Given
from mcuprune.deploy import c, cplan, qdq, rowreport, tflite
from mcuprune.deploy.cplan import Bands
from mcuprune.deploy.lower import lower
from mcuprune.deploy.project import PROJECTS, Contents, Example, name_of, paths, project
from mcuprune.deploy.rowreport import RowReport
from mcuprune.deploy.tflite import Converted, Port
from mcuprune.errors import DataError, McupruneError, MissingExtra, OutputError, UnsupportedOperator, UsageError
from mcuprune.graph import external, network
from mcuprune.graph.network import Network, Shape
from mcuprune.immutable import immutable
from mcuprune.operators import table as ops
from mcuprune.options import AUTO
from mcuprune.passes.inputs import with_float_inputs
from mcuprune.places import Output, Source
from mcuprune.run import runners
from mcuprune.run.trial import of_one_example
from mcuprune.units import Limit

Array = np.ndarray[Any, Any]
#: What ``prune`` notes of a network that fits, which says nothing here.
_NOTHING_CUT = "nothing had to be cut"
#: Relative file name -> content.
Files = Mapping[str, bytes]


@immutable
class Request(Feed):
    """What to export, and as what; of a float model, how data are fed, too.

    model: a path. output: a file whose suffix is in EXPORTS; None with a project alone. data: as ``prune`` takes it; what
    ranges are measured on, and where a project's example comes from. project: (a kind in PROJECTS, the folder to write).
    channels_last: generated C takes and gives data with channels last, as its kernels have them.
    bands: row bands: "off", how many, or "auto", those with the least of what the format's runtime needs.
    names: a .tflite file has the names of its tensors, which no runtime needs. task: of ``--task``, what targets are for.
    """

    model: str
    output: str | None = None
    data: str | None = None
    project: tuple[str, str] | None = None
    channels_last: bool = False
    bands: str = "off"
    names: bool = False
    input_shapes: Mapping[str, Shape] = field(default_factory=dict)
    outputs: Sequence[str] = ()
    seed: int = 0
    task: str = AUTO


@immutable
class Exported:
    """What was written. files: paths. bytes: of all of them. arena: what the target needs; notes: for the user.

    bands: how the file's network runs in row bands; None where no bands were asked for. rows: the same of generated C.
    preprocessing: how the data were fed that ranges of a float model were measured on; None of an int8 one.
    """

    request: Request
    files: tuple[str, ...]
    bytes: int
    arena: Mapping[str, int]
    notes: tuple[str, ...]
    bands: banding.Run | None = None
    rows: RowReport | None = None
    preprocessing: Preprocessing | None = None


def export(
    request: Request, *, net: Network | None = None, data_set: Given | None = None, refuse_idle: bool = True
) -> Exported:
    """Write what ``request`` asks for, each file whole or not at all.

    net: a network in memory, in place of the file ``request.model``. data_set: data in memory, in place of ``request.data``.
    refuse_idle: whether a number of bands that gain nothing in C is a mistake; if not, C is written without, which notes say.

    Raises UsageError for a suffix or kind that is unknown and for a float model without data, UnsupportedOperator for a node
    that the target has no kernel for, and what loading, data and writing raise.
    """
    _check(request)
    read = sources(request)
    places.distinct(planned(request), read)
    if request.project is not None:
        places.check_folder("--project", request.project[1])
        if runners.compiler() is None:
            raise MissingExtra("a project stores what its C answers, and no C compiler was found here (cc, gcc or clang)")
    if net is None:
        net = network.load(
            request.model, input_shapes=request.input_shapes, outputs=request.outputs, accept=ops.accept(request.model)
        )
    notes: tuple[str, ...] = ()
    how = None
    if is_quantized(net):
        notes = _unused(request, data_set)
    else:
        _refuse_places(request)
        refuse_early(request, net)
        net, how, notes = _quantized(request, net, data_set)
    run, rows = _in_bands(net, request), _rows(net, request)
    if rows is not None and _idle(rows, request):
        if refuse_idle:
            _refuse_idle(request)
        notes += (f"--bands {request.bands}: the network as it was cut gains nothing from them in C, and is written without",)
    notes += (*_remarks(net, request, rows), *of_one_example(net, request.input_shapes))
    written: dict[Path, bytes] = {}
    built: Files = {}
    if request.output is not None:
        place = Path(request.output)
        contents = EXPORTS[place.suffix](net if run is None else run.network, place.stem, request)
        written |= {place.parent / name: content for name, content in contents.items()}
    if request.project is not None:
        kind, folder = request.project
        built = _project(kind, net, request, data_set)
        handiwork.refuse_theirs("--project", Path(folder), built)
    below = [Path(request.project[1]) / name for name in (*built, handiwork.LIST)] if request.project is not None else []
    places.distinct([*(Output("-o", str(p)) for p in written), *(Output("--project", str(p)) for p in below)], read)
    for place, content in written.items():
        places.write_bytes(content, place, make_folder=True)
    if request.project is not None:
        keeping = [*written, *(Path(source.path) for source in read)]
        notes += _of_an_earlier_project(handiwork.write(Path(request.project[1]), built, keeping=keeping))
    files = tuple(map(str, (*written, *below)))
    size = sum(map(len, (*written.values(), *built.values())))
    arena, to_start = _memory(net if run is None else run.network, rows, request)
    return Exported(request, files, size, arena, notes + to_start, run, None if request.bands == "off" else rows, how)


def _remarks(net: Network, request: Request, rows: RowReport | None) -> tuple[str, ...]:
    """What the user should know of the int8 network in the forms that are written, and of what these replace."""
    remarks: tuple[str, ...] = ()
    if rows is not None and not rows.regions and not is_banded(net):
        above = cplan.above_peak(lower(net), rows.arena, resources.profile(net).memory.peak)
        remarks += (above,) if above else ()
    if request.project is not None or Path(request.output or "").suffix != ".onnx":
        remarks += lower(net).remarks
    elif lacking := resources.profile(net).memory.unsupported:
        remarks += (f"it has no arena, and no C can be written of it: {lacking[0].removeprefix(f'{net.path}: ')}",)
    return remarks + _replaced_array(request)


def _of_an_earlier_project(replaced: handiwork.Replaced) -> tuple[str, ...]:
    """What became of its files, for the user."""
    notes = [f"removed what was left of an earlier project: {handiwork.few(replaced.removed)}"] if replaced.removed else []
    for name in replaced.changed:
        notes.append(f"{name} of an earlier project stays, for it isn't as mcuprune wrote it: remove it where nothing needs it")
    return tuple(notes)


def document(exported: Exported) -> dict[str, Any]:
    """What was written, as JSON; sizes in bytes."""
    return console.document(
        "export",
        ok=True,
        path=exported.request.model,
        files=list(exported.files),
        bytes=exported.bytes,
        arena=dict(exported.arena),
        bands=None if exported.bands is None else _bands(exported.bands),
        rows=None if exported.rows is None else exported.rows.document(),
        preprocessing=None if exported.preprocessing is None else exported.preprocessing.document(),
        notes=list(exported.notes),
    )


def _bands(run: banding.Run) -> dict[str, Any]:
    return {"regions": [region_document(choice) for choice in run.choices], "embedded": list(run.embedded)}


def text(content: Mapping[str, Any]) -> str:
    """What ``document`` gives, for people."""
    lines = [f"{content['path']} -> {file}" for file in content["files"]]
    lines.append(f"{content['bytes']:>10,} bytes written")
    titles = {"tflm": "of arena in TensorFlow Lite Micro (32-bit, CMSIS-NN)", "c": "of RAM in generated C, beside its stack"}
    lines += [f"{size:>10,} bytes {titles[runtime]}" for runtime, size in content["arena"].items()]
    if content["bands"] is not None:
        regions, embedded = content["bands"]["regions"], content["bands"]["embedded"]
        lines += [f"row bands: {region_line(region)}" for region in regions] or ["row bands: none, nothing needs less in them"]
        lines += [embedded_line(embedded)] if embedded else []
    if content["rows"] is not None:
        lines += rowreport.lines(content["rows"])
    if content["preprocessing"] is not None:
        lines.append(f"preprocessing: {how_fed(content['preprocessing'])}")
    return "\n".join([*lines, *(f"note: {note}" for note in content["notes"])]) + "\n"


def is_quantized(net: Network) -> bool:
    """Whether the network holds quantisers, so that its integers are written as they are."""
    return any(node.op == "QuantizeLinear" for node in net.nodes)


def _in_bands(net: Network, request: Request) -> banding.Run | None:
    """The network in the row bands that were asked for; None where none were, or where the format runs rows by itself."""
    count = banding.parsed(request.bands)
    if count is False or request.output is None or (suffix := Path(request.output).suffix) in ROWS_OF_THEIR_OWN:
        return None
    model: banding.Model = "peak" if suffix == ".onnx" else "tflm"
    run = banding.least(net, model, count)
    if count is not None and not run.choices:
        banding.refuse_count(run.planner, count)
    return run


def refuse_early(request: Request, net: Network) -> None:
    """Refuse what ``export`` would refuse of a network that is still to be cut and quantised, before that work.

    Raises UnsupportedOperator for a node without a kernel, UsageError for bands that gain nothing in C.
    """
    suffix = "" if request.output is None else Path(request.output).suffix
    if request.project is None and suffix in ("", ".onnx"):
        return
    net, _ = with_float_inputs(net)
    if lacking := resources.profile(net).memory.unsupported:
        wanted = f"-o {request.output}" if request.project is None else f"--project {request.project[0]}"
        raise UnsupportedOperator(
            f"{request.model}: {wanted}: {lacking[0].removeprefix(f'{net.path}: ')}, or name a file that ends in .onnx"
        )
    if suffix not in ("", ".onnx", *ROWS_OF_THEIR_OWN):
        lower(net).check_forms()
    if (request.project is not None or suffix in ROWS_OF_THEIR_OWN) and _idle(
        rowreport.priced(lower(net), _c_bands(request)), request
    ):
        _refuse_idle(request)


def planned(request: Request) -> list[Output]:
    """The files and folders that will be written, for whoever compares them with what is read.

    Raises OutputError where that would be the end of a file of the user's which isn't named.
    """
    outputs = [] if request.output is None else [Output("-o", request.output, make_folder=True)]
    if request.output is not None and Path(request.output).suffix == ".h":
        _refuse_header_of_c(Path(request.output))
    if request.output is not None and Path(request.output).suffix == ".c":
        header = Path(request.output).with_suffix(".h")
        refuse_loss(request.output, header)
        outputs.append(Output("-o", str(header), make_folder=True))
    return outputs


def _refuse_places(request: Request) -> None:
    """Raise OutputError, before the work, for files that couldn't be written, and for ones of the user that would be lost."""
    for output in planned(request):
        places.probe(output)
    if request.project is not None:
        kind, folder = request.project
        handiwork.refuse_theirs("--project", Path(folder), paths(kind, name_of(Path(request.model).stem)))


def _check(request: Request) -> None:
    if request.output is None and request.project is None:
        raise UsageError(f"{request.model}: say what to write: -o OUT{{{','.join(EXPORTS)}}}, or --project KIND DIR")
    if request.output and Path(request.output).suffix not in EXPORTS:
        raise UsageError(f"-o {request.output}: the suffix says the format; it is one of {', '.join(EXPORTS)}")
    if request.output is not None:
        check_name(Path(request.output))
    if request.project is not None and request.project[0] not in PROJECTS:
        raise UsageError(f"--project {request.project[0]}: unknown; choose one of {', '.join(PROJECTS)}")
    _refuse_idle_flags(request)


def _refuse_idle_flags(request: Request) -> None:
    """Raise UsageError for a flag that nothing which is written takes: the user would believe that it had been heeded."""
    written = {} if request.output is None else {f"-o {request.output}": Path(request.output).suffix}
    written |= {} if request.project is None else {f"--project {request.project[0]}": ".c"}
    asked = {"--names": request.names, "--channels-last": request.channels_last}
    for flag in (flag for flag in asked if asked[flag] and TAKEN_BY[flag].isdisjoint(written.values())):
        kinds = " or ".join(sorted(TAKEN_BY[flag]))
        raise UsageError(
            f"{flag}: is about files that end in {kinds}, and none is written by {' and '.join(written)}: leave {flag} out, or "
            "write such a file"
        )


def _unused(request: Request, data_set: Given | None) -> tuple[str, ...]:
    """A note of data that nothing is taken from, for the model is int8. Raises UsageError for how they would be fed."""
    if given := feed.flags_given(request):
        raise UsageError(
            f"{request.model}: {', '.join(given)}: is about data that ranges of a float model are measured on, and this one is "
            "int8: leave it out"
        )
    idle = request.project is None and (request.data is not None or data_set is not None)
    return ("no effect: --data, for the model is int8 and brings its ranges; they were not read",) if idle else ()


#: How the first line of a C array ends, by which a later export knows it.
_ARRAY = "made by mcuprune for TensorFlow Lite Micro."
#: What no ``#include "..."`` can say: the end of the name, the end of the line, what C says differently, a trigraph.
_NOT_IN_INCLUDES = re.compile(r'["\\\x00-\x1f\x7f]|\?\?[=/\'()!<>-]')


def check_name(output: Path) -> None:
    """Raise UsageError for the name of a C file whose header it couldn't include."""
    if output.suffix == ".c" and (word := _NOT_IN_INCLUDES.search(output.stem)) is not None:
        raise UsageError(f"-o {output}: no #include can name a header with {word[0]!r} in its name; choose another name")
    if output.suffix in (".c", ".h") and output.stem.casefold() in c.STANDARD_HEADERS:
        raise UsageError(f"-o {output}: {output.stem}.h would hide the header of C's own library; choose another name")


def refuse_loss(named: str, beside: str | Path) -> None:
    """Raise OutputError where a file that is written unasked, beside the one that is named, would replace somebody else's.

    Ours are int8 networks whose tensors are called as mcuprune calls them, headers of generated C, and C arrays.
    """
    place = Path(beside)
    if os.path.lexists(place) and not _OURS[place.suffix](place):
        raise OutputError(
            f"-o {named}: would replace {place} too, which mcuprune didn't write for such a file; name another -o, or move it "
            "away"
        )


def _is_our_int8(place: Path) -> bool:
    try:
        nodes = network.load(str(place), accept=ops.accept(str(place))).nodes
    except McupruneError:
        return False
    return any(node.op == "QuantizeLinear" and qdq.is_ours(node) for node in nodes)  # those of bands have names of their own


def _is_our_header(place: Path) -> bool:
    """Of generated C."""
    return re.search(rf"^#define {c.identifier(place.stem).upper()}_ARENA_BYTES ", _text(place), re.MULTILINE) is not None


def _is_our_array(place: Path) -> bool:
    """A .tflite file as a C array."""
    return _text(place).partition("\n")[0].endswith(_ARRAY)


def _text(place: Path) -> str:
    """What a file says; nothing where it can't be read."""
    try:
        return place.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _is_our_h(place: Path) -> bool:
    return _is_our_header(place) or _is_our_array(place)


_OURS = {".onnx": _is_our_int8, ".h": _is_our_h}


def _replaced_array(request: Request) -> tuple[str, ...]:
    """What becomes of the C array of an earlier export where the header of generated C takes its name, for the user."""
    if request.output is None or Path(request.output).suffix != ".c":
        return ()
    header = Path(request.output).with_suffix(".h")
    replaced = f"{header} was the C array of an earlier export, and is the header of {request.output} now"
    return (replaced,) if _is_our_array(header) else ()


def _refuse_header_of_c(place: Path) -> None:
    if os.path.lexists(place.with_suffix(".c")) and _is_our_header(place):
        raise OutputError(f"-o {place}: is the header of {place.with_suffix('.c')}, which needs it; name another -o")


def _quantized(request: Request, net: Network, data_set: Given | None) -> tuple[Network, Preprocessing | None, tuple[str, ...]]:
    """The int8 network of a float model, as ``prune`` would write it were nothing to cut; how it was fed; and notes."""
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
            **feed.said(request),
        )
        notes: tuple[str, ...] = ()
        try:
            result = pruning.prune(asked, net=net, data_set=data_set)
        except DataError as error:  # ranges need no labels: where these were the fault, inputs alone will do
            result = pruning.prune(replace(asked, unlabelled=True), net=net, data_set=data_set)
            unfit, *_ = str(error).split(";")
            notes = (f"ranges are measured on inputs alone, for labels don't go with the model: {unfit}",)
        int8 = replace(result.network, path=request.model)  # which messages name, not the temporary file
        told = tuple(note for note in result.notes if not note.startswith(_NOTHING_CUT))
        return int8, result.preprocessing, (*notes, *told)


def _memory(net: Network, rows: RowReport | None, request: Request) -> tuple[dict[str, int], tuple[str, ...]]:
    """Bytes of memory by runtime, of those that take the network, and what is to be said where one needs more to start.

    rows: of generated C, where that is written.
    """
    of_c = {} if rows is None else {"c": rows.arena}
    if resources.profile(net).memory.unsupported:
        return of_c, ()  # an ONNX file is for other runtimes too
    converted = tflite.convert(net, offline=True)
    if converted.program.only_c():
        return of_c, ()
    arena = converted.program.arena(plan=converted.plan)
    notes: tuple[str, ...] = ()
    if arena.start > arena.total and Path(request.output or "").suffix == ".tflite":
        notes = (
            f"TensorFlow Lite Micro keeps {arena.total:,} bytes of arena, but needs up to {arena.start:,} to start: give its "
            "interpreter those",
        )
    return {"tflm": arena.total, **of_c}, notes


def _rows(net: Network, request: Request) -> RowReport | None:
    """What of generated C runs row by row, where that is written."""
    if request.project is None and not (request.output or "").endswith(".c"):
        return None
    return rowreport.priced(tflite.convert(net).program, _c_bands(request))


def _idle(rows: RowReport, request: Request) -> bool:
    """Whether a number of bands is asked for that gains nothing in C."""
    return request.bands not in ("auto", "off") and not rows.regions


def _refuse_idle(request: Request) -> NoReturn:
    raise UsageError(
        f"{request.model}: --bands {request.bands}: no part of the network gains from {request.bands} bands of rows in C: "
        "give another number, or --bands auto"
    )


def _c_bands(request: Request) -> Bands:
    """``--bands`` as generated C takes it."""
    count = banding.parsed(request.bands)
    return "off" if count is False else "auto" if count is None else count


# --------------------------------------------------------------------------------------------------------------- formats


def _onnx(net: Network, stem: str, request: Request) -> Files:
    return {f"{stem}.onnx": net.to_proto().SerializeToString(deterministic=True)}


def _tflite(net: Network, stem: str, request: Request) -> Files:
    return {f"{stem}.tflite": tflite.convert(net, offline=True, names=request.names).file}


def _array(net: Network, stem: str, request: Request) -> Files:
    """The .tflite as a C++ header: the bytes, the size of the arena, and the operators to register."""
    converted, name = tflite.convert(net, offline=True, names=request.names), c.identifier(stem)
    arena = converted.program.arena(plan=converted.plan).enough
    on_vectors = converted.program.enough_on_vectors(converted.plan)
    operators = sorted({operator for operator, _ in converted.operators})
    numbers = ",".join(map(str, converted.file))
    lines = [
        f"// {name}: {_ARRAY}",
        "#pragma once",
        "#include <cstdint>",
        '#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"',
        "",
        "#if defined(__ARM_FEATURE_MVE)",
        f"constexpr int k{_camel(name)}TensorArenaSize = {on_vectors};  // at most, with vector units (Cortex-M55, M85)",
        "#else",
        f"constexpr int k{_camel(name)}TensorArenaSize = {arena};  // on a 32-bit core with CMSIS-NN",
        "#endif",
        *(f"constexpr {line};" for line in _ports(converted, name)),
        *_constants(net, stem, converted.inputs[0]),
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
#: an INT8 registration take it, which leaves the other types' kernels out of the image. Those that came after 2022 (of MAXIMUM,
#: PAD, TRANSPOSE and others) aren't used: a header has to compile with the runtime that people have.
_INT8_REGISTRATIONS = {
    "ADD": "Add(tflite::Register_ADD_INT8())",
    "CONV_2D": "Conv2D(tflite::Register_CONV_2D_INT8())",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2D(tflite::Register_DEPTHWISE_CONV_2D_INT8())",
    "FULLY_CONNECTED": "FullyConnected(tflite::Register_FULLY_CONNECTED_INT8())",
    "MUL": "Mul(tflite::Register_MUL_INT8())",
    "AVERAGE_POOL_2D": "AveragePool2D(tflite::Register_AVERAGE_POOL_2D_INT8())",
    "MAX_POOL_2D": "MaxPool2D(tflite::Register_MAX_POOL_2D_INT8())",
    "SOFTMAX": "Softmax(tflite::Register_SOFTMAX_INT8())",
}


def _registered(operator: str) -> str:
    words = (word.capitalize() if not word[:1].isdigit() else word.upper() for word in operator.split("_"))
    return _INT8_REGISTRATIONS.get(operator, "".join(words).replace("Padv2", "PadV2").replace("Matmul", "MatMul") + "()")


def _c(net: Network, stem: str, request: Request) -> Files:
    converted = tflite.convert(net)
    source, name = _source(net, converted, stem, request), c.identifier(stem)
    return {
        f"{stem}.c": os.fsencode(source.c.replace(f'#include "{name}.h"', f'#include "{stem}.h"')),
        f"{stem}.h": source.header.encode(),
    }


def _source(net: Network, converted: Converted, stem: str, request: Request) -> c.Source:
    """The generated C, whose header has what firmware does to raw values too."""
    source = c.generate(converted.program, stem, channels_last=request.channels_last, bands=_c_bands(request))
    lines = _constants(net, stem, converted.inputs[0] if request.channels_last else None)
    return replace(source, header=_with_lines(source.header, lines))


def _with_lines(header: str, lines: list[str]) -> str:
    """A header with more lines before the one that ends its guard."""
    if not lines:
        return header
    before, end, after = header.rpartition("#endif")
    return f"{before}{chr(10).join(lines)}\n\n{end}{after}"


#: Suffixes of formats whose writer runs rows in a loop, and gets the network as it is.
ROWS_OF_THEIR_OWN = frozenset({".c"})
#: Flags of some formats alone -> the suffixes of these. A project is its generated C.
TAKEN_BY: Mapping[str, frozenset[str]] = {"--names": frozenset({".tflite", ".h"}), "--channels-last": frozenset({".c"})}
#: The suffix of an output -> what makes its files.
EXPORTS: Mapping[str, Callable[[Network, str, Request], Files]] = {
    ".onnx": _onnx,
    ".tflite": _tflite,
    ".h": _array,
    ".c": _c,
}


# -------------------------------------------------------------------------------------------------------------- projects


def _project(kind: str, net: Network, request: Request, data_set: Given | None) -> Files:
    """The folder around the generated C, with one example and the answer that the same C gives here."""
    converted = tflite.convert(net)
    name = name_of(Path(request.model).stem)
    source = _source(net, converted, name, request)
    example, where, label = example_of(net, request, data_set)
    ran = runners.run("c", converted, [example], request.model, limit=0)
    inputs = [runners.stored(example[port.name], port).astype(np.int8) for port in converted.inputs]
    outputs = [ran.outputs[port.name][0] for port in converted.outputs]
    if request.channels_last:
        inputs, outputs = (
            [port.to_tflite(array) for port, array in zip(ports, arrays, strict=True)]
            for ports, arrays in ((converted.inputs, inputs), (converted.outputs, outputs))
        )
    how = from_metadata(net.metadata)
    classes = () if how is None else how.classes
    stored = Example(inputs, outputs, where, label)
    contents = Contents(name, source, converted.inputs, converted.outputs, stored, classes, request.channels_last)
    return {path: text.encode() for path, text in project(kind, contents).items()}


def example_of(net: Network, request: Request, data_set: Given | None) -> tuple[dict[str, Array], str, int | None]:
    """One input for each of the network's, where it comes from, and its class where that is known."""
    spec: Given | None = request.data or datasets.named(net.metadata) if data_set is None else data_set
    if spec is not None:
        try:
            return _fed(net, spec, request)
        except DataError:
            if request.data is not None or data_set is not None:
                raise
    draw = np.random.default_rng(request.seed)
    return {name: draw.standard_normal(net.shapes[name]).astype(np.float32) for name in net.inputs}, "random numbers", None


def _fed(net: Network, spec: Given, request: Request) -> tuple[dict[str, Array], str, int | None]:
    """An example of the test set as the network's metadata say that it takes it, where it comes from, and its class."""
    from mcuprune.train import preprocess
    from mcuprune.train.training_data import opened, wanted_of

    wanted = wanted_of(net, seed=request.seed, task=request.task)
    data = opened(net, spec, wanted, request, request.seed, unlabelled=True).data
    named = int(data.test.y[0]) if preprocess.names_classes(net, data.test) else None
    inputs = {name: np.asarray(column[:1]) for name, column in zip(net.inputs, data.test.inputs, strict=True)}
    return inputs, f"the test set of {data.name}", named


def _constants(net: Network, stem: str, port: Port | None) -> list[str]:
    """What firmware has to do to raw values, as constants in C; nothing where the network's metadata don't say.

    port: the input as the file stores it; None where it is stored in ONNX's order.
    """
    how = from_metadata(net.metadata)
    if how is None:
        return []
    kept = [] if port is None else [axis for axis in port.axes if axis is not None]
    layout = other_end(how.layout) if how.layout and kept != sorted(kept) else None
    return c_lines(how, c.identifier(stem).upper(), layout=layout)


def sources(request: Request) -> list[Source]:
    """What is read, for whoever compares it with what will be written."""
    files = [Source("the model", request.model)]
    files += [Source("external data of the model", file) for file in external.files(request.model)]
    return files + datasets.sources(request.data, request.classes)
