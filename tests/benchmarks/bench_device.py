"""Generated C on emulated microcontrollers: the same bytes as TensorFlow Lite Micro, and what it takes.

Each network is quantised, written as C, compiled for every core by Debian's gcc-arm-none-eabi, and run on real examples in
qemu-system-arm. Outputs are compared with TensorFlow Lite Micro's reference kernels (its wheel). Instructions are counted by
the emulator's clock, which is no cycle count: there is no model of pipelines, caches or flash behind it. Rows that are stored
are not measured again; ``--again`` does.

    make device-test
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mcuprune import exporting
from mcuprune.costs import resources
from mcuprune.data import loading as datasets
from mcuprune.deploy import c, tflite
from mcuprune.deploy.tflite import Converted
from mcuprune.graph import network
from mcuprune.operators import table as ops
from mcuprune.run import runners

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BOARD = HERE.parent / "device"
RESULTS, PAGE = HERE / "device.jsonl", HERE / "device.md"
COMPILER, SIZE = "arm-none-eabi-gcc", "arm-none-eabi-size"
NETWORKS = ("resnet8_digits", "dscnn_digits", "branchy_digits", "mbv2se_digits")
EXAMPLES = 40
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


def available() -> bool:
    """Whether the cross compiler and the emulator are installed."""
    return all(shutil.which(program) for program in (COMPILER, SIZE, "qemu-system-arm"))


def measured(converted: Converted, examples: np.ndarray[Any, Any], core: Core) -> dict[str, Any]:
    """Run a network of one input on examples, int8 in ONNX's order; bytes equal, instructions, memory.

    Raises CalledProcessError where it doesn't compile or the emulator fails.
    """
    source = c.generate(converted.program, "net")
    ins = [int(np.prod(port.shape)) for port in converted.inputs]
    outs = [int(np.prod(port.shape)) for port in converted.outputs]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "net.c").write_text(source.c)
        (place / "net.h").write_text(source.header)
        (place / "in.bin").write_bytes(examples.tobytes())
        compile_ = [COMPILER, *core.flags, "-mthumb", "-ffunction-sections", "-fdata-sections"]
        warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
        subprocess.run([*compile_, "-std=c99", "-O2", *warnings, "-c", "net.c", "-o", "net.o"], cwd=place, check=True)
        sizes = [f"-DIN_BYTES={sum(ins)}", f"-DOUT_BYTES={sum(outs)}"]
        sizes += [f"-DIN_SIZES={','.join(map(str, ins))}", f"-DOUT_SIZES={','.join(map(str, outs))}"]
        link = ["-nostartfiles", "--specs=nano.specs", "-T", str(BOARD / "board.ld")]
        link += ["-Wl,--gc-sections", "-Wl,--no-warn-rwx-segments"]
        link += [f"-Wl,--defsym=flash_start={core.flash}", f"-Wl,--defsym=ram_start={core.ram}"]
        sources = [str(BOARD / "start.c"), str(BOARD / "main.c"), "net.o"]
        command = [*compile_, "-std=gnu99", "-Os", *sizes, "-I", folder, *link, *sources, "-o", "app.elf"]
        subprocess.run(command, cwd=place, check=True)
        emulator = ["qemu-system-arm", "-M", core.machine, "-nographic", "-monitor", "none", "-serial", "none"]
        emulator += ["-semihosting-config", "enable=on,target=native", "-icount", "shift=0", "-kernel", "app.elf"]
        subprocess.run(emulator, cwd=place, check=True, timeout=600, stdin=subprocess.DEVNULL)
        count, stack, ticks = struct.unpack("<3I", (place / "report.bin").read_bytes())
        answers = np.frombuffer((place / "out.bin").read_bytes(), np.int8).reshape(count, -1)
        sections = _sections(place / "net.o")
    wanted = reference(converted, examples)
    return {
        "examples": count,
        "distinct": len({row.tobytes() for row in wanted}),
        "equal": int((answers == wanted).all(axis=1).sum()),
        "arena": source.arena,
        "peak": source.peak,
        "ram": sections[".bss"] + sections[".data"],
        "stack": stack,
        "code": sections[".text"],
        "constants": sections[".rodata"],
        "instructions": ticks * _INSTRUCTIONS_PER_SECOND // core.clock,
    }


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
    """A network of ``models/`` as a program, real examples for it, and what it costs."""
    path = ROOT / "models" / f"{name}.onnx"
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / f"{name}.onnx")
        exporting.export(exporting.Request(str(path), out, data="digits"))
        net = network.load(out, accept=ops.accept(out))
    converted, port = tflite.convert(net), tflite.convert(net).inputs[0]
    found = datasets.load("digits", input_shape=port.shape[1:], n_classes=10, seed=0).test.x[:EXAMPLES]
    examples = runners.stored(found, port).astype(np.int8)
    return converted, examples, dict(resources.profile(net).total)


def stored() -> list[dict[str, Any]]:
    """The rows of the result file."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def page(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows as a page of markdown."""
    lines = [
        "# Generated C on emulated microcontrollers",
        "",
        "Each network of `models/`, int8 at full width, as generated C (gcc -O2) in qemu-system-arm. *equal*: examples with",
        "the bytes of TensorFlow Lite Micro's reference kernels. RAM is all static memory, which is the arena; the stack",
        "stands beside it. Instructions are counted by the emulator, which knows nothing of pipelines, caches or waiting for",
        "flash: they are no cycles. `make device-test` makes this page.",
        "",
        "| network | core | equal | peak | RAM | stack | `total.flash` | constants | code | M instructions |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in sorted(rows, key=lambda row: (row["network"], row["core"])):
        bytes_ = " | ".join(f"{row[key]:,}" for key in ("peak", "ram", "stack", "flash", "constants", "code"))
        same, millions = f"{row['equal']} of {row['examples']}", f"{row['instructions'] / 1e6:.2f}"
        lines.append(f"| {row['network']} | {row['core']} | {same} | {bytes_} | {millions} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--again", action="store_true", help="measure rows anew that are stored")
    again = parser.parse_args().again
    if not available():
        raise SystemExit("needs gcc-arm-none-eabi, libnewlib-arm-none-eabi and qemu-system-arm (apt-get install them)")
    rows = [] if again else stored()
    known = {(row["network"], row["core"]) for row in rows}
    version = subprocess.run([COMPILER, "-dumpversion"], capture_output=True, text=True, check=True).stdout.strip()
    for name in NETWORKS:
        cores = [core for core in CORES if (name, core.name) not in known]
        if not cores:
            continue
        converted, examples, total = quantised(name)
        for core in cores:
            found = measured(converted, examples, core)
            wheel = importlib.metadata.version("tflite-micro")
            rows.append({"network": name, "core": core.name, "flash": total["flash"], "gcc": version, "tflm": wheel, **found})
            RESULTS.write_text("".join(json.dumps(row) + "\n" for row in rows))
            print(rows[-1], flush=True)
    PAGE.write_text(page(rows))


if __name__ == "__main__":
    main()
