"""Damage files at random and hand them to the commands: a plain message or an answer must come of each.

``python tests/mutations.py COMMAND SEED COUNT FILE...`` prints what went wrong, if anything, and a line of counts. COMMAND is
profile, float, int8 (``prune --no-train`` with and without ``--float``) or verify.

Cases run in a worker process, which is forked anew after a crash: what damage does to C++ code ends that case alone. A case
is a fault if it raises, exits with another code than 0, 1 or 2, has no single message where it exits with 2, lets a character
of a name reach a terminal that is not printable, refuses after the work has begun, or takes more than 10 CPU seconds or 1 GB.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import resource
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mcuprune.operators import table as ops

MEMORY_BYTES, SECONDS = 2**30, 10.0
COMMANDS = ("profile", "float", "int8", "verify")
_SIZES = (-(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 7, 1000, 2**20, 2**31, 2**40, 2**62)
_FLOATS = (0.0, -0.0, 1e-45, 1e-30, -1.0, 0.5, 3e38, float("inf"), float("nan"))
_TYPES = (np.float32, np.float64, np.float16, np.int64, np.int32, np.int8, np.uint8, np.bool_)
NAMES = (
    "",
    "x",
    "a/b",
    "\x1b[2J\x1b[31m",
    "a\nb\r",
    "::error::x",
    "`code`|cell",
    "<b>&amp;",
    "\u202eevil",
    "a\x00b",
    "é" * 300,
)


# ------------------------------------------------------------------------------------------------------------ damaging


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
    """A well-formed file of a graph that, as a rule, makes no sense any more."""
    model = onnx.load_from_string(content)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        with contextlib.suppress(UnicodeDecodeError):  # an earlier change left a name that is no text
            draw.choice(CHANGES)(model, draw)
    return model.SerializeToString()


def _node(model: onnx.ModelProto, draw: random.Random, *operators: str) -> onnx.NodeProto:
    nodes = [node for node in model.graph.node if not operators or node.op_type in operators]
    return draw.choice(nodes or [onnx.NodeProto()])


def _tensor(model: onnx.ModelProto, draw: random.Random) -> onnx.TensorProto:
    return draw.choice(list(model.graph.initializer) or [onnx.TensorProto()])


def _tensor_names(model: onnx.ModelProto) -> list[str]:
    graph = model.graph
    found = [name for node in graph.node for name in node.output if name]
    return found + [tensor.name for tensor in graph.initializer] + [value.name for value in graph.input]


def _renamed(model: onnx.ModelProto, old: str, new: str) -> None:
    """Another name for a tensor, everywhere."""
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    for part in (model.graph.input, model.graph.output, model.graph.initializer):
        for one in part:
            if one.name == old:
                one.name = new


def _attribute(model: onnx.ModelProto, draw: random.Random) -> None:
    node = _node(model, draw)
    if not node.attribute:
        return
    attribute = draw.choice(node.attribute)
    if attribute.ints:
        attribute.ints[draw.randrange(len(attribute.ints))] = draw.choice(_SIZES)
    elif attribute.floats:
        attribute.floats[draw.randrange(len(attribute.floats))] = draw.choice(_FLOATS)
    elif attribute.type == onnx.AttributeProto.FLOAT:
        attribute.f = draw.choice(_FLOATS)
    elif attribute.type == onnx.AttributeProto.STRING:
        attribute.s = draw.choice((b"", b"SAME_LOWER", b"cubic", b"\xff", b"x" * 1000))
    else:
        attribute.i = draw.choice(_SIZES)


def _more_attributes(model: onnx.ModelProto, draw: random.Random) -> None:
    name = draw.choice(
        ("axis", "group", "perm", "pads", "axes", "blocksize", "kernel_shape", "to", "transA", "auto_pad", "alpha")
    )
    _node(model, draw).attribute.append(helper.make_attribute(name, draw.choice((1, -1, [1], [2, 2], 2.0, "SAME_UPPER"))))


def _fewer_attributes(model: onnx.ModelProto, draw: random.Random) -> None:
    node = _node(model, draw)
    if node.attribute:
        del node.attribute[draw.randrange(len(node.attribute))]


def _operator(model: onnx.ModelProto, draw: random.Random) -> None:
    _node(model, draw).op_type = draw.choice(sorted(ops.OPS))


def _swapped(model: onnx.ModelProto, draw: random.Random) -> None:
    one, other = _node(model, draw), _node(model, draw)
    if one.output and other.output:
        one.output[0], other.output[0] = other.output[0], one.output[0]


def _dims(model: onnx.ModelProto, draw: random.Random) -> None:
    tensor = _tensor(model, draw)
    tensor.dims[:] = [*tensor.dims[1:], draw.choice(_SIZES)]


def _retyped(model: onnx.ModelProto, draw: random.Random) -> None:
    """A constant of another type, its values kept as far as they go; or the tag alone changed."""
    tensor = _tensor(model, draw)
    if draw.random() < 0.3:
        tensor.data_type = draw.randrange(24)
        return
    with contextlib.suppress(Exception), np.errstate(all="ignore"):
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(draw.choice(_TYPES)), tensor.name))


def _all_retyped(model: onnx.ModelProto, draw: random.Random) -> None:
    """A whole network in another precision."""
    code, dtype = draw.choice(((TensorProto.FLOAT16, np.float16), (TensorProto.DOUBLE, np.float64)))
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            with contextlib.suppress(Exception), np.errstate(all="ignore"):
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name))
    for value in [*model.graph.input, *model.graph.output]:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = code
    del model.graph.value_info[:]


def _values(model: onnx.ModelProto, draw: random.Random) -> None:
    """Odd numbers in a constant: zero, huge, no number; or another shape of the same values."""
    tensor = _tensor(model, draw)
    with contextlib.suppress(Exception), np.errstate(all="ignore"):
        value = np.array(numpy_helper.to_array(tensor))
        if draw.random() < 0.3:
            value = value.reshape(draw.choice(((-1,), (1, *value.shape), (*value.shape, 1), value.shape[::-1])))
        elif value.dtype.kind == "f":
            value.reshape(-1)[draw.randrange(max(1, value.size))] = draw.choice(_FLOATS)
        else:
            value.reshape(-1)[draw.randrange(max(1, value.size))] = draw.choice((-128, -1, 0, 1, 3, 127))
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))


def _external(model: onnx.ModelProto, draw: random.Random) -> None:
    tensor = _tensor(model, draw)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    location = draw.choice(("", "none.bin", "../net.onnx", "net.onnx", "/etc/passwd", "a" * 300, "a\nb"))
    tensor.external_data.add(key=draw.choice(("location", "location", "other")), value=location)
    if draw.random() < 0.5:
        tensor.external_data.add(key=draw.choice(("offset", "length")), value=draw.choice(("-1", "0", "12", "x", "9" * 30)))


def _cut_short(model: onnx.ModelProto, draw: random.Random) -> None:
    tensor = _tensor(model, draw)
    tensor.raw_data = tensor.raw_data[: draw.choice((0, 1, len(tensor.raw_data) // 2))]


def _rewired(model: onnx.ModelProto, draw: random.Random) -> None:
    node = _node(model, draw)
    if node.input:
        node.input[draw.randrange(len(node.input))] = draw.choice([*_tensor_names(model), "", "nothing"])


def _fewer_inputs(model: onnx.ModelProto, draw: random.Random) -> None:
    node = _node(model, draw)
    if node.input:
        del node.input[draw.randrange(len(node.input))]


def _other_output(model: onnx.ModelProto, draw: random.Random) -> None:
    node = _node(model, draw)
    if node.output:
        node.output[0] = draw.choice([*_tensor_names(model), ""])


def _graph_output(model: onnx.ModelProto, draw: random.Random) -> None:
    """Another tensor, a constant, an input, nothing, or the same twice as a graph output; or a wrong declaration of it."""
    outputs = model.graph.output
    kind = draw.randrange(5)
    if kind == 0:
        outputs.append(helper.make_tensor_value_info(draw.choice(_tensor_names(model)), TensorProto.FLOAT, None))
    elif kind == 1 and outputs:
        draw.choice(outputs).name = draw.choice([*_tensor_names(model), "nothing"])
    elif kind == 2 and outputs:
        del outputs[draw.randrange(len(outputs))]
    elif kind == 3 and outputs and outputs[0].type.tensor_type.shape.dim:
        draw.choice(outputs[0].type.tensor_type.shape.dim).dim_value = draw.choice(_SIZES)
    elif outputs:
        outputs[0].type.tensor_type.elem_type = draw.randrange(24)


def _twice(model: onnx.ModelProto, draw: random.Random) -> None:
    model.graph.node.append(_node(model, draw))


def _gone(model: onnx.ModelProto, draw: random.Random) -> None:
    if model.graph.node:
        del model.graph.node[draw.randrange(len(model.graph.node))]


def _bypassed(model: onnx.ModelProto, draw: random.Random) -> None:
    """A node dropped, its readers fed with what it read."""
    node = _node(model, draw)
    if not node.input or not node.output:
        return
    source, target = node.input[0], node.output[0]
    for index, other in enumerate(model.graph.node):
        if other.output[:1] == [target]:
            del model.graph.node[index]
            break
    for other in model.graph.node:
        other.input[:] = [source if name == target else name for name in other.input]


def _put_in(model: onnx.ModelProto, draw: random.Random) -> None:
    """An elementwise or moving operator between a tensor and its readers."""
    name = draw.choice(_tensor_names(model))
    op = draw.choice(
        ("Identity", "Relu", "Sigmoid", "Abs", "Neg", "Softmax", "Flatten", "Transpose", "Cast", "Dropout", "Shape")
    )
    attrs: dict[str, Any] = {"to": draw.choice((1, 7, 10, 11))} if op == "Cast" else {}
    made = f"{name}/{op}"
    for node in model.graph.node:
        node.input[:] = [made if tensor == name else tensor for tensor in node.input]
    model.graph.node.insert(draw.randrange(len(model.graph.node) + 1), helper.make_node(op, [name], [made], name=made, **attrs))


def _input_shape(model: onnx.ModelProto, draw: random.Random) -> None:
    value = draw.choice(model.graph.input)
    shape = value.type.tensor_type.shape
    kind = draw.randrange(4)
    if kind == 0 and shape.dim:
        draw.choice(shape.dim).dim_value = draw.choice(_SIZES)
    elif kind == 1 and shape.dim:
        del shape.dim[0]
    elif kind == 2 and shape.dim:
        shape.dim[0].dim_param = draw.choice(("N", "", "batch"))
    else:
        shape.dim.add().dim_value = 1


def _input_type(model: onnx.ModelProto, draw: random.Random) -> None:
    draw.choice(model.graph.input).type.tensor_type.elem_type = draw.randrange(24)


def _opset(model: onnx.ModelProto, draw: random.Random) -> None:
    if draw.random() < 0.2:
        model.opset_import.add(domain=draw.choice(("", "ai.onnx", "com.microsoft", "x")), version=draw.randrange(0, 40))
    else:
        model.opset_import[0].version = draw.randrange(5, 30)


def _version(model: onnx.ModelProto, draw: random.Random) -> None:
    model.ir_version = draw.choice((0, 1, 3, 4, 7, 10, 13, 14, 99, 2**40))
    if draw.random() < 0.5:  # files of old versions list every initializer among the inputs
        for tensor in model.graph.initializer:
            model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))


def _node_name(model: onnx.ModelProto, draw: random.Random) -> None:
    others = [node.name for node in model.graph.node]
    _node(model, draw).name = draw.choice((*NAMES, *_generated(model, draw), draw.choice(others or [""])))


def _tensor_name(model: onnx.ModelProto, draw: random.Random) -> None:
    _renamed(
        model, draw.choice(_tensor_names(model)), draw.choice((*NAMES, *_generated(model, draw), draw.choice(NAMES) + "1"))
    )


def _generated(model: onnx.ModelProto, draw: random.Random) -> list[str]:
    """Names of the kind that we make ourselves."""
    stem = draw.choice(_tensor_names(model))
    endings = (
        "int8",
        "float",
        "scale",
        "zero_point",
        "dequantized",
        "QuantizeLinear",
        "DequantizeLinear",
        "bias",
        "int8/scale",
    )
    return [f"{stem}/{ending}" for ending in endings]


def _graph_name(model: onnx.ModelProto, draw: random.Random) -> None:
    model.graph.name = draw.choice(NAMES)
    model.doc_string = draw.choice(NAMES)
    model.metadata_props.add(key=draw.choice(NAMES), value=draw.choice((*NAMES, "digits", "os:system")))


def _not_text(model: onnx.ModelProto, draw: random.Random) -> None:
    """Bytes that are no UTF-8 in the place of a name: put in behind our back, since protobuf's setters refuse them."""
    name = draw.choice([name for name in _tensor_names(model) if name])
    changed = model.SerializeToString().replace(name.encode(), b"\xff" + name.encode()[1:])
    with contextlib.suppress(Exception):
        model.ParseFromString(changed)


def _quantizer(model: onnx.ModelProto, draw: random.Random) -> None:
    """Another scale or zero point of a quantiser, or another tensor in its place."""
    node = _node(model, draw, "QuantizeLinear", "DequantizeLinear")
    if len(node.input) < 2:
        return
    index = draw.randrange(1, len(node.input))
    found = [tensor for tensor in model.graph.initializer if tensor.name == node.input[index]]
    if not found or draw.random() < 0.2:
        node.input[index] = draw.choice(_tensor_names(model))
        return
    with contextlib.suppress(Exception), np.errstate(all="ignore"):
        value = numpy_helper.to_array(found[0])
        changed = draw.choice((value * 0, value + 1, -value, value * 2, np.stack([value] * 2), value * np.float32("nan")))
        name = f"{found[0].name}/{len(model.graph.initializer)}"
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(changed, value.dtype), name))
        node.input[index] = name


def _domain(model: onnx.ModelProto, draw: random.Random) -> None:
    _node(model, draw).domain = draw.choice(("ai.onnx", "com.microsoft", "my.domain", "\x1b[1m"))


CHANGES: tuple[Callable[[onnx.ModelProto, random.Random], None], ...] = (
    _attribute,
    _attribute,
    _more_attributes,
    _fewer_attributes,
    _operator,
    _swapped,
    _dims,
    _retyped,
    _all_retyped,
    _values,
    _external,
    _cut_short,
    _rewired,
    _rewired,
    _fewer_inputs,
    _other_output,
    _graph_output,
    _graph_output,
    _twice,
    _gone,
    _bypassed,
    _put_in,
    _put_in,
    _input_shape,
    _input_type,
    _opset,
    _version,
    _node_name,
    _tensor_name,
    _graph_name,
    _not_text,
    _quantizer,
    _quantizer,
    _domain,
)


def damaged(command: str, seed: int, turn: int, contents: Sequence[bytes]) -> tuple[int, bytes]:
    """Case ``turn`` of a seed: which file it was made of, and the damaged file. Cases don't depend on each other."""
    draw = random.Random(f"{command} {seed} {turn}")
    which = draw.randrange(len(contents))
    change = bytes_changed if draw.random() < (0.3 if command == "profile" else 0.05) else graph_changed
    return which, change(contents[which], draw)


# -------------------------------------------------------------------------------------------------------------- running

_FORMATS = ("text", "json", "markdown", "junit", "github", "html")


def _arguments(command: str, turn: int, path: str, out: str) -> list[str]:
    if command == "profile":
        return ["profile", path, "--groups", "--format", _FORMATS[turn % len(_FORMATS)]]
    if command == "verify":
        return ["verify", path, "--examples", "2", "--format", ("text", "json")[turn % 2]]
    budget = ("60%", "100%", "30%")[turn % 3]
    given = ["prune", path, "--macs", budget, "--no-train", "-o", out, "--format", ("text", "json")[turn // 3 % 2]]
    return [*given, "--float"] if command == "float" else given


@dataclass
class _Began:
    """Whether the last prune had begun to cut when it ended."""

    work: bool = False


def _watched() -> _Began:
    """Note when a prune has refused all that it can refuse and cuts."""
    from mcuprune import pruning

    began, original = _Began(), pruning._magnitude

    def magnitude(*given: Any) -> Any:
        began.work = True
        return original(*given)

    pruning._magnitude = magnitude
    return began


def _fault(command: str, turn: int, content: bytes, folder: Path, began: _Began) -> tuple[str, str | None]:
    """One case: its outcome, and what is wrong with it, if anything."""
    from mcuprune import cli

    path, out = folder / "net.onnx", folder / "out.onnx"
    path.write_bytes(content)
    stdout, stderr = io.StringIO(), io.StringIO()
    began.work = False
    arguments = _arguments(command, turn, str(path), str(out))
    try:
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            code = cli.main(arguments)
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return "raised", f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}: {str(error)[:200]}"
    said, message = stdout.getvalue(), stderr.getvalue()
    left = [entry.name for entry in folder.iterdir() if entry.name not in ("net.onnx", "out.onnx")]
    written = out.exists()
    for entry in folder.iterdir():
        if entry != path:
            entry.unlink() if entry.is_file() else entry.rmdir()
    wrong = _complaint(code, arguments, said, message, left)
    if wrong is None and code == 2 and command in ("float", "int8") and (began.work or written):
        wrong = f"refused after the work: {message.strip()[:300]}"
    return str(code), wrong


def _complaint(code: int, arguments: Sequence[str], said: str, message: str, left: Sequence[str]) -> str | None:
    """What is wrong with how a command ended, by its exit code and what it said."""
    if code not in (0, 1, 2):
        return f"exit code {code}"
    if "Traceback" in message:
        return f"a traceback: {message.strip().splitlines()[-1][:300]}"
    if code == 2 and (len(message.splitlines()) != 1 or arguments[1] not in message):
        return f"no single message that names the file: {message[:300]!r}"
    if left:
        return f"files left behind: {left}"
    if any(not c.isprintable() for c in (said + message).replace("\n", "")):
        return f"characters that are not printable: {[c for c in said + message if not c.isprintable() and c != chr(10)][:5]!r}"
    if "json" in arguments:
        try:
            json.loads(said)
        except ValueError:
            return f"no JSON: {said[:100]!r}"
    return None


@dataclass
class Tally:
    """What came of the cases so far. faults: one line each."""

    cases: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0
    bytes: int = 0


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _peak(*, reset: bool = False) -> int:
    """The most resident memory of this process since it was last reset, in bytes; 0 where the system doesn't say."""
    with contextlib.suppress(OSError):
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return 0


def _work(command: str, seed: int, turns: Sequence[int], contents: Sequence[bytes], pipe: int) -> None:
    """The worker: a line of JSON when a case begins, and one when it has ended."""
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    began = _watched() if command in ("float", "int8") else _Began()
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)  # what C++ code writes
    with tempfile.TemporaryDirectory() as name, os.fdopen(pipe, "w") as report:
        for turn in turns:
            print(json.dumps({"begins": turn}), file=report, flush=True)
            _, content = damaged(command, seed, turn, contents)
            resource.setrlimit(resource.RLIMIT_CPU, (int(_cpu() + 3 * SECONDS), hard))
            _peak(reset=True)
            started = _cpu()
            outcome, wrong = _fault(command, turn, content, Path(name), began)
            seconds, peak = _cpu() - started, _peak()
            if wrong is None and seconds > SECONDS:
                wrong = f"took {seconds:.1f} CPU s"
            if wrong is None and peak > MEMORY_BYTES:
                wrong = f"took {peak / 2**20:.0f} MB"
            line = {"ended": turn, "outcome": outcome, "wrong": wrong, "seconds": seconds, "bytes": peak}
            print(json.dumps(line), file=report, flush=True)


def _prepare(command: str) -> None:
    """Import and warm up what every case needs, so that it is not counted and is shared by all workers."""
    import mcuprune.cli

    if command != "profile":
        import mcuprune.pruning
        import mcuprune.run.verify
    if command == "int8":
        import mcuprune.train.fake_quant  # noqa: F401


def run(command: str, seed: int, turns: Sequence[int], contents: Mapping[str, bytes]) -> Tally:
    """Run cases of a seed on files by name."""
    _prepare(command)
    tally, names, waiting = Tally(), list(contents), list(turns)
    while waiting:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            with contextlib.suppress(BaseException):
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                _work(command, seed, waiting, list(contents.values()), writing)
            os._exit(0)
        os.close(writing)
        last = -1
        for line in _lines(reading):
            if "begins" in line:
                last = line["begins"]
                continue
            _count(tally, line, f"{command} {seed} {last} ({names[damaged(command, seed, last, list(contents.values()))[0]]})")
            waiting.remove(last)
            last = -1
        _, status = os.waitpid(child, 0)
        if last >= 0:
            how = f"killed by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "the worker ended"
            ended = {"outcome": "crash", "wrong": how, "seconds": 0.0, "bytes": 0}
            _count(tally, ended, f"{command} {seed} {last} ({names[damaged(command, seed, last, list(contents.values()))[0]]})")
            waiting.remove(last)
    return tally


def _lines(descriptor: int) -> Iterator[dict[str, Any]]:
    with os.fdopen(descriptor) as pipe:
        for line in pipe:
            with contextlib.suppress(ValueError):
                yield json.loads(line)


def _count(tally: Tally, line: Mapping[str, Any], where: str) -> None:
    tally.cases += 1
    tally.outcomes[line["outcome"]] += 1
    tally.seconds = max(tally.seconds, line["seconds"])
    tally.bytes = max(tally.bytes, line["bytes"])
    if line["wrong"]:
        tally.faults.append(f"{where}: {line['wrong']}")


def main(command: str, seed: str, count: str, *files: str) -> None:
    contents = {Path(name).name: Path(name).read_bytes() for name in files}
    tally = run(command, int(seed), range(int(count)), contents)
    for fault in tally.faults:
        print(fault)
    outcomes = ", ".join(f"{name}: {count}" for name, count in sorted(tally.outcomes.items()))
    print(
        f"{tally.cases} cases of {command}, seed {seed}: {len(tally.faults)} faults; {outcomes}; "
        f"at most {tally.seconds:.1f} CPU s and {tally.bytes / 2**20:.0f} MB",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
