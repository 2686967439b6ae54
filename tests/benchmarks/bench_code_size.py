"""The code of generated C on a Cortex-M4, kernel by kernel: the rows ``c`` of mcuprune/deploy/codesize.json.

Each kernel is compiled with the pieces that it stands on, at -Os, by Debian's gcc-arm-none-eabi; so what kernels share is
counted in each. What calls them is counted in the networks of models/: the bytes of the function that a user calls, for each
call in it.
Rows of other runtimes are measured elsewhere and stay as they are: nothing here builds fetched sources.

    make code-size
"""

from __future__ import annotations

import json
import math
import subprocess
import tempfile
from importlib import resources
from pathlib import Path

from bench_device import COMPILER, CORES, DIGITS, SIZE, quantised

from mcuprune.deploy import c
from mcuprune.deploy.steps.rules import select
from mcuprune.deploy.tflite import Converted

FLAGS = (*CORES[0].flags, "-mthumb", "-std=c99", "-Os", "-ffunction-sections", "-fdata-sections")
TABLE = Path(str(resources.files("mcuprune.deploy") / "codesize.json"))
_HEAD = """#include <stdint.h>
#include <string.h>
#define KERNEL
#define EFFECT __asm__ volatile("" ::: "memory")
#define NET_WINDOW 64
"""


def kernel_bytes(name: str) -> int:
    """Bytes of text of a kernel and of what it stands on."""
    source = _HEAD + "\n".join(c.piece(piece, "NET") for piece in c.pieces_of({name}))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "kernel.c").write_text(source)
        subprocess.run([COMPILER, *FLAGS, "-c", "kernel.c", "-o", "kernel.o"], cwd=place, check=True)
        listed = subprocess.run([SIZE, "-B", "kernel.o"], cwd=place, check=True, capture_output=True, text=True).stdout
    return int(listed.splitlines()[1].split()[0])


def call_bytes(converted: Converted) -> float:
    """Bytes of text for each call of a network's straight line."""
    source = c.generate(converted.program, "net")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "net.c").write_text(source.c)
        (place / "net.h").write_text(source.header)
        subprocess.run([COMPILER, *FLAGS, "-c", "net.c", "-o", "net.o"], cwd=place, check=True)
        listed = subprocess.run([SIZE, "-A", "net.o"], cwd=place, check=True, capture_output=True, text=True).stdout
    size = next(int(line.split()[1]) for line in listed.splitlines() if line.startswith(".text.net_invoke"))
    return size / sum(len(step.calls) for step in select(converted.program).steps)


def main() -> None:
    version = subprocess.run([COMPILER, "-dumpversion"], check=True, capture_output=True, text=True).stdout.strip()
    table = json.loads(TABLE.read_text())
    table["c"] = {
        "toolchain": f"{COMPILER} {version} -Os -mcpu=cortex-m4",
        "source": "the kernels of this package, each with the pieces that it stands on",
        "core": 0,
        "call": math.ceil(max(call_bytes(quantised(name)[0]) for name in DIGITS)),
        "operators": {name: kernel_bytes(name) for name in c.kernel_names()},
    }
    TABLE.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
