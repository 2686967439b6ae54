"""Generated C on emulated microcontrollers: the same bytes as TensorFlow Lite Micro, and what it takes.

Each network is quantised, written as C, compiled for every core by Debian's gcc-arm-none-eabi, and run on real examples in
qemu-system-arm. Outputs are compared with TensorFlow Lite Micro's reference kernels (its wheel). Instructions are counted by
the emulator's clock, which is no cycle count: there is no model of pipelines, caches or flash behind it. Rows whose C is still
the same are not measured again; ``--again`` does. A row outside of what is promised makes it fail.

    make device-test
    python tests/benchmarks/bench_device.py --peer PYTHON    # beside bakenn, which PYTHON has (see peer_bakenn.py)
    python tests/benchmarks/bench_device.py --cmsis-nn INCLUDE ARCHIVE    # also with CMSIS-NN, built for a Cortex-M55
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import peer_bakenn
from rows import read, replace_all

from mcuprune import exporting, pruning, units
from mcuprune.costs import resources
from mcuprune.costs.resources import Basis
from mcuprune.data import loading as datasets
from mcuprune.deploy import c, tflite
from mcuprune.deploy.c import Source
from mcuprune.deploy.cplan import Bands
from mcuprune.deploy.libraries import CMSIS_NN
from mcuprune.deploy.tflite import Converted
from mcuprune.graph import network
from mcuprune.operators import table as ops
from mcuprune.run import runners

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BOARD = HERE.parent / "device"
BESIDE = ROOT.parent / "shared" / "models"
ROWS, PAGE, PEERS = HERE / "device.jsonl", HERE / "device.md", HERE / "device_bakenn.jsonl"
CALLED = HERE / "device_cmsis_nn.jsonl"
COMPILER, SIZE = "arm-none-eabi-gcc", "arm-none-eabi-size"
FLAGS = ("-mthumb", "-ffunction-sections", "-fdata-sections")
#: Networks trained on the digits, in ``models/``; others that this checkout may have beside it, whose inputs are noise.
DIGITS = ("resnet8_digits", "dscnn_digits", "branchy_digits", "mbv2se_digits")
CORPUS = ("resnet8_ts", "dscnn_ts", "mlperf_vww_96_float", "mbv2_035_ts", "emx_micro_kws_qdq")
EXAMPLES = 200
#: As a whole, and with what needs most memory row by row, which is measured on the first core.
BANDS: tuple[Bands, ...] = ("off", "auto")
#: Of the others on all cores but the first, and in bands: a run of minutes would tell no more.
FEWER = 8
#: Promised of every row, in bytes: what the RAM may have above the peak, the stack, and flash above ``total.flash``.
RAM_ABOVE, STACK, FLASH_ABOVE, FLASH_SHARE = 16, 400, 6 * 1024, 1.05
#: How far constants and code may lie from what ``total.image`` of ``profile --runtime c`` says of the network as a whole.
IMAGE_SHARE = 0.03
#: What flash may have above that where rows run in loops: sequences, and a call for each row.
FLASH_OF_BANDS = 2300
#: The emulator takes one nanosecond for an instruction.
_INSTRUCTIONS_PER_SECOND = 10**9


@dataclass(frozen=True)
class Core:
    """A core and the emulated board that has it. flash, ram: where these begin. clock: ticks of SysTick a second."""

    name: str
    flags: tuple[str, ...]
    machine: str
    flash: int = 0
    ram: int = 0x20000000
    clock: int = 25_000_000


CORES = (
    Core("Cortex-M4", ("-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"), "mps2-an386"),
    Core("Cortex-M7", ("-mcpu=cortex-m7", "-mfpu=fpv5-sp-d16", "-mfloat-abi=hard"), "mps2-an500"),
    Core("Cortex-M33", ("-mcpu=cortex-m33", "-mfloat-abi=soft"), "mps2-an505", 0x10000000, 0x38000000, 20_000_000),
)
#: A core with vector units, which CMSIS-NN's kernels use and ours don't.
VECTORS = Core("Cortex-M55", ("-mcpu=cortex-m55", "-mfloat-abi=hard"), "mps3-an547", 0x10000000, 0x31000000, 32_000_000)


def available() -> bool:
    """Whether the cross compiler and the emulator are installed."""
    return all(shutil.which(program) for program in (COMPILER, SIZE, "qemu-system-arm"))


@dataclass(frozen=True)
class Emulated:
    """What a run on a core gave. answers: int8 (example, elements); stack: bytes; sections: bytes of the object files."""

    answers: np.ndarray[Any, Any]
    stack: int
    instructions: int
    sections: Mapping[str, int]


def measured(source: Source, examples: np.ndarray[Any, Any], outputs: int, core: Core) -> Emulated:
    """Run generated C of one input on examples, int8 as it takes them. outputs: bytes of an answer.

    Raises CalledProcessError where it doesn't compile or the emulator fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "net.c").write_text(source.c)
        (place / "net.h").write_text(source.header)
        compile_ = [COMPILER, *core.flags, *FLAGS]
        warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
        subprocess.run([*compile_, "-std=c99", "-O2", *warnings, "-c", "net.c", "-o", "net.o"], cwd=place, check=True)
        return emulated(place, ["net.o"], examples, outputs, core)


def emulated(
    place: Path,
    objects: Sequence[str],
    examples: np.ndarray[Any, Any],
    outputs: int,
    core: Core,
    archives: Sequence[str] = (),
) -> Emulated:
    """Link objects in a folder, which has the ``net.h`` that they follow, with the board's files, and run that.

    archives: what is missing then is taken from these.
    """
    (place / "in.bin").write_bytes(examples.tobytes())
    inputs = examples[0].size
    sizes = [f"-DIN_BYTES={inputs}", f"-DOUT_BYTES={outputs}", f"-DIN_SIZES={inputs}", f"-DOUT_SIZES={outputs}"]
    link = ["-nostartfiles", "--specs=nano.specs", "-T", str(BOARD / "board.ld")]
    link += ["-Wl,--gc-sections", "-Wl,--no-warn-rwx-segments"]
    link += [f"-Wl,--defsym=flash_start={core.flash}", f"-Wl,--defsym=ram_start={core.ram}"]
    sources = [str(BOARD / "start.c"), str(BOARD / "main.c"), *objects]
    command = [
        COMPILER,
        *core.flags,
        *FLAGS,
        "-std=gnu99",
        "-Os",
        *sizes,
        "-I",
        ".",
        *link,
        *sources,
        *archives,
        "-o",
        "app.elf",
    ]
    subprocess.run(command, cwd=place, check=True)
    emulator = ["qemu-system-arm", "-M", core.machine, "-nographic", "-monitor", "none", "-serial", "none"]
    emulator += ["-semihosting-config", "enable=on,target=native", "-icount", "shift=0", "-kernel", "app.elf"]
    subprocess.run(emulator, cwd=place, check=True, timeout=600, stdin=subprocess.DEVNULL)
    count, stack, ticks = struct.unpack("<3I", (place / "report.bin").read_bytes())
    answers = np.frombuffer((place / "out.bin").read_bytes(), np.int8).reshape(count, -1)
    sections = [_sections(place / name) for name in objects]
    total = {kind: sum(each[kind] for each in sections) for kind in sections[0]}
    return Emulated(answers, stack, ticks * _INSTRUCTIONS_PER_SECOND // core.clock, total)


def row(name: str, source: Source, examples: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any], core: Core) -> dict[str, Any]:
    """Bytes equal to TensorFlow Lite Micro's, instructions, memory: a row of the result file."""
    ran = measured(source, examples, wanted.shape[1], core)
    return {
        "network": name,
        "core": core.name,
        "c": _digest(source),
        "examples": len(ran.answers),
        "distinct": len({answer.tobytes() for answer in wanted}),
        "equal": int((ran.answers == wanted).all(axis=1).sum()),
        "arena": source.arena,
        "peak": source.peak,
        "ram": ran.sections[".bss"] + ran.sections[".data"],
        "stack": ran.stack,
        "code": ran.sections[".text"],
        "constants": ran.sections[".rodata"],
        "instructions": ran.instructions,
    }


def _digest(source: Source) -> str:
    return hashlib.sha256((source.c + source.header).encode()).hexdigest()[:16]


def broken(row: Mapping[str, Any]) -> list[str]:
    """The promises that a row doesn't keep."""
    more = FLASH_OF_BANDS if row.get("bands", "off") != "off" else 0
    flash, limit = row["code"] + row["constants"], FLASH_SHARE * row["flash"] + FLASH_ABOVE + more
    kept = {
        f"{row['equal']} of {row['examples']} equal": row["equal"] == row["examples"],
        f"RAM {row['ram']} above the peak {row['peak']}": row["ram"] <= row["peak"] + RAM_ABOVE,
        f"stack {row['stack']}": row["stack"] <= STACK,
        f"flash {flash} above {limit:.0f}": flash <= limit,
    }
    if row.get("bands", "off") == "off" and "image" in row:  # which rows measured earlier don't have
        told = f"flash {flash} where {row['image']} is predicted"
        kept[told] = abs(row["image"] / flash - 1) <= IMAGE_SHARE
    return [f"{row['network']} on {row['core']}: {what}" for what, keeps in kept.items() if not keeps]


def _sections(file: Path) -> dict[str, int]:
    """Bytes of the kinds of sections of an object file."""
    listed = subprocess.run([SIZE, "-A", str(file)], capture_output=True, text=True, check=True).stdout
    found = dict.fromkeys((".text", ".rodata", ".data", ".bss"), 0)
    for line in listed.splitlines():
        name, size, *_ = [*line.split(), "0", "0"]
        for kind in found:
            if name == kind or name.startswith(f"{kind}."):
                found[kind] += int(size)
    return found


def reference(converted: Converted, examples: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """int8 (example, elements): what TensorFlow Lite Micro's wheel answers, in ONNX's order."""
    port = converted.inputs[0]
    reals = [{port.name: runners.real(x, port)} for x in examples]
    ran = runners.run("tflm", converted, reals, "net", limit=2**24)
    return np.concatenate([ran.outputs[p.name].reshape(len(examples), -1) for p in converted.outputs], axis=1)


def quantised(name: str) -> tuple[Converted, np.ndarray[Any, Any], dict[str, int]]:
    """A network as a program, examples for it, int8 in ONNX's order, and what it costs.

    Raises FileNotFoundError for a network that this checkout doesn't have beside it.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / f"{name}.onnx")
        if name in DIGITS:
            exporting.export(exporting.Request(str(ROOT / "models" / f"{name}.onnx"), out, data="digits"))
        else:
            path = BESIDE / f"{name}.onnx"
            everything = {"sram": units.parse("100%", "bytes")}
            pruning.prune(pruning.Request(str(path.resolve(strict=True)), everything, out, train=False))
        net = network.load(out, accept=ops.accept(out))
    converted, port = tflite.convert(net), tflite.convert(net).inputs[0]
    if name in DIGITS:
        found = datasets.load("digits", input_shape=port.shape[1:], n_classes=10, seed=0).test.x[:EXAMPLES]
        examples = runners.stored(found, port).astype(np.int8)
    else:
        draw = np.random.default_rng(0)
        spread = draw.uniform(5, 100, (EXAMPLES, *[1] * (len(port.shape) - 1)))
        noise = spread * draw.standard_normal((EXAMPLES, *port.shape[1:])) + draw.uniform(-60, 60, spread.shape)
        examples = np.clip(noise, -128, 127).astype(np.int8)
    return converted, examples, dict(resources.profile(net, Basis(runtime="c")).total)


def called(
    name: str, source: Source, examples: np.ndarray[Any, Any], outputs: int, include: str, archive: str
) -> dict[str, Any]:
    """Generated C on a core with vector units, all kernels ours and with CMSIS-NN: a row of the result file."""
    found: dict[str, Any] = {"network": name, "core": VECTORS.name, "c": _digest(source)}
    answers = []
    for build, flags in (("own", []), ("cmsis_nn", [f"-D{CMSIS_NN.macro}", "-isystem", include])):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            (place / "net.c").write_text(source.c)
            (place / "net.h").write_text(source.header)
            compile_ = [COMPILER, *VECTORS.flags, *FLAGS, "-std=c99", "-O2", *flags, "-c", "net.c", "-o", "net.o"]
            subprocess.run(compile_, cwd=place, check=True)
            ran = emulated(place, ["net.o"], examples, outputs, VECTORS, [archive] if flags else [])
            program = _sections(place / "app.elf")
        answers.append(ran.answers)
        ram = ran.sections[".bss"] + ran.sections[".data"]
        found[build] = {"ram": ram, "stack": ran.stack, "program": program[".text"], "instructions": ran.instructions}
    equal = int((answers[0] == answers[1]).all(axis=1).sum())
    return found | {"examples": len(examples), "equal": equal}


def page(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows as a page of markdown."""
    rows = sorted(rows, key=lambda row: (row["network"], row["core"]))
    lines = [
        "# Generated C on emulated microcontrollers",
        "",
        "Each network, int8 at full width, as generated C (gcc -O2) in qemu-system-arm. *equal*: examples with the bytes of",
        "TensorFlow Lite Micro's reference kernels; *distinct*: how many different answers these have. The inputs of networks",
        "named `_digits` are test images; those of all others are noise. RAM is all static memory, which is the arena; the",
        "stack stands beside it. Instructions are counted by the emulator, which knows nothing of pipelines, caches or waiting",
        "for flash: they are no cycles. *bands*: auto, where what needs most memory runs row by row. `make device-test` makes",
        "this page, and fails where bytes differ, RAM is more than "
        f"{RAM_ABOVE} B above the peak, the stack above {STACK} B, or flash (constants and code) above {FLASH_SHARE} times",
        f"`total.flash` and {FLASH_ABOVE // 1024} KiB, in bands {FLASH_OF_BANDS} B more, or further than {IMAGE_SHARE:.0%}",
        "from `total.image` of `profile --runtime c`, which counts no bands.",
        "",
        "| network | core | bands | equal | distinct | peak | RAM | stack | `total.flash` | `total.image` | constants "
        "| code | M instructions |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    columns = ("distinct", "peak", "ram", "stack", "flash", "image", "constants", "code")
    for row in rows:
        numbers = " | ".join(f"{row[key]:,}" if key in row else "-" for key in columns)
        same, millions = f"{row['equal']} of {row['examples']}", f"{row['instructions'] / 1e6:.2f}"
        lines.append(f"| {row['network']} | {row['core']} | {row.get('bands', 'off')} | {same} | {numbers} | {millions} |")
    return "\n".join([*lines, *_called_lines(), *_peer_lines(rows), ""])


def _called_lines() -> list[str]:
    """The comparison with CMSIS-NN in place of our kernels, where that has been measured."""
    if not read(CALLED):
        return []
    lines = [
        "",
        f"## With CMSIS-NN's kernels, on a {VECTORS.name}",
        "",
        f"The same file, compiled with and without `{CMSIS_NN.macro}`: CMSIS-NN computes with vector units, which our kernels",
        "don't use. *equal*: examples with the same bytes. RAM is all static memory, with the library's scratch in the arena.",
        "*program*: everything in flash, network, library and what the emulator's board needs, which is the same in both.",
        "",
        "| network | bands | equal | RAM | stack | program | M instructions | RAM with it | stack | program | M instructions |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in sorted(read(CALLED), key=lambda row: (row["network"], row["bands"])):
        parts = [
            f"{part['ram']:,} | {part['stack']:,} | {part['program']:,} | {part['instructions'] / 1e6:.2f}"
            for part in (row["own"], row["cmsis_nn"])
        ]
        lines.append(f"| {row['network']} | {row['bands']} | {row['equal']} of {row['examples']} | {' | '.join(parts)} |")
    return lines


def _peer_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The comparison with bakenn, where that has been measured."""
    if not PEERS.exists():
        return []
    peers = read(PEERS)
    own = {row["network"]: row for row in rows if row["core"] == CORES[0].name and row.get("bands", "off") == "off"}
    lines = [
        "",
        f"## Beside bakenn {peers[0]['bakenn']}",
        "",
        "The same integers on the same Cortex-M4, compiled with the same flags. bakenn refuses the `.tflite` files as they",
        "are, so it gets them with PAD's empty options written, a mean over the whole map as AVERAGE_POOL_2D, whose rounding",
        "differs, and no SOFTMAX at the end. RAM is static memory with the input and the output, which both leave to their",
        "caller; flash is code and constants.",
        "",
        "| network | kernels | RAM | flash | stack | M instructions | our RAM | our flash | our stack | our M instructions |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for peer in peers:
        if "refused" in peer:
            lines.append(f"| {peer['network']} | {peer['kernels']} | refused: {peer['refused']} |" + " |" * 7)
            continue
        ours = own[peer["network"]]
        flash, millions = ours["code"] + ours["constants"], f"{ours['instructions'] / 1e6:.2f}"
        theirs = f"{peer['ram'] + peer['io']:,} | {peer['flash']:,} | {peer['stack']:,} | {peer['instructions'] / 1e6:.2f}"
        here = f"{ours['ram'] + peer['io']:,} | {flash:,} | {ours['stack']:,} | {millions}"
        lines.append(f"| {peer['network']} | {peer['kernels']} | {theirs} | {here} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--again", action="store_true", help="measure rows anew that are stored")
    parser.add_argument("--peer", metavar="PYTHON", help="a Python that has bakenn, to measure that as well")
    parser.add_argument(
        "--cmsis-nn", nargs=2, metavar=("INCLUDE", "ARCHIVE"), help="its folder of headers, and it as built for a Cortex-M55"
    )
    asked = parser.parse_args()
    if not available():
        raise SystemExit("needs gcc-arm-none-eabi, libnewlib-arm-none-eabi and qemu-system-arm (apt-get install them)")
    rows = {(row["network"], row["core"], row.get("bands", "off")): row for row in read(ROWS)}
    version = subprocess.run([COMPILER, "-dumpversion"], capture_output=True, text=True, check=True).stdout.strip()
    about = {"gcc": version, "tflm": importlib.metadata.version("tflite-micro")}
    for name in (*DIGITS, *CORPUS):
        try:
            converted, examples, total = quantised(name)
        except FileNotFoundError as absent:
            print(f"{name}: left out, {absent.filename} isn't there")
            continue
        predicted = {"flash": total["flash"], "image": total["image"]}
        rows |= {of: stored | predicted for of, stored in rows.items() if of[0] == name}
        sources = {bands: c.generate(converted.program, "net", bands=bands) for bands in BANDS}
        missing = [
            (core, bands)
            for bands, source in sources.items()
            for core in (CORES if bands == "off" else CORES[:1])
            if asked.again or rows.get((name, core.name, bands), {}).get("c") != _digest(source)
        ]
        wanted = reference(converted, examples) if missing else np.zeros((0, 0), np.int8)
        for core, bands in missing:
            n = EXAMPLES if bands == "off" and (name in DIGITS or core is CORES[0]) else FEWER
            found = row(name, sources[bands], examples[:n], wanted[:n], core) | predicted | {"bands": bands} | about
            rows[name, core.name, bands] = found
            replace_all(ROWS, (rows[key] for key in sorted(rows)))
            print(found, flush=True)
        for bands, source in sources.items() if asked.cmsis_nn else ():
            sizes = sum(prod(port.shape) for port in converted.outputs)
            found = called(name, source, examples[:FEWER], sizes, *asked.cmsis_nn) | {"bands": bands}
            others = [kept for kept in read(CALLED) if (kept["network"], kept["bands"]) != (name, bands)]
            replace_all(CALLED, [*others, found])
            print(found, flush=True)
        if asked.peer:
            peer_bakenn.measure(asked.peer, name, converted, examples, CORES[0], PEERS, emulated)
    replace_all(ROWS, (rows[key] for key in sorted(rows)))
    PAGE.write_text(page(rows.values()))
    failures = [failure for row in rows.values() for failure in broken(row)]
    failures += [f"{row['network']}: CMSIS-NN differs" for row in read(CALLED) if row["equal"] != row["examples"]]
    if failures:
        raise SystemExit("\n".join(failures))


if __name__ == "__main__":
    main()
