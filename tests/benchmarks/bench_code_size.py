"""The code of generated C on a Cortex-M4, kernel by kernel: the rows ``c`` of mcuprune/deploy/codesize.json.

Networks are compiled at -O2 by Debian's gcc-arm-none-eabi: those of models/, and small ones of layers drawn by chance, in which
every kernel appears. What the compiler makes of a kernel depends on its calls: what is the same number in all of them is no
argument any more. Above all it matters whether there is one call or several, so each kernel has two figures, the most that it
took in a network that calls it once, and in one that calls it more often. Where no network does that, it is compiled alone.
Rows of other runtimes are measured elsewhere and stay as they are: nothing here builds fetched sources.

    make code-size
"""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from statistics import quantiles

from bench_device import COMPILER, CORES, DIGITS, SIZE, quantised

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from conftest import feed
from layers import KINDS, Layers
from test_bands import as_int8, loaded

from mcuprune.deploy import c, codesize, tflite
from mcuprune.deploy.program import Program
from mcuprune.errors import UnsupportedOperator

FLAGS = (*CORES[0].flags, "-mthumb", "-std=c99", "-O2", "-ffunction-sections", "-fdata-sections")
TABLE = Path(str(resources.files("mcuprune.deploy") / "codesize.json"))
#: How many networks are drawn, of at most so many layers.
_DRAWN, _LAYERS = 600, 9
_HEAD = """#include <stdint.h>
#include <string.h>
#define KERNEL __attribute__((noinline))
#define EFFECT __asm__ volatile("" ::: "memory")
#define NET_WINDOW 64
"""


def functions(source: str, header: str = "") -> Counter[str]:
    """Bytes of code of each function of a C file that the compiler keeps; variants of one go by its name."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "net.c").write_text(source)
        (place / "net.h").write_text(header)
        subprocess.run([COMPILER, *FLAGS, "-c", "net.c", "-o", "net.o"], cwd=place, check=True)
        listed = subprocess.run([SIZE, "-A", "net.o"], cwd=place, check=True, capture_output=True, text=True).stdout
    found: Counter[str] = Counter()
    for section, size, *_ in (line.split() for line in listed.splitlines() if line.startswith(".text.")):
        found[section.split(".")[2]] += int(size)
    return found


def drawn(count: int, first: int = 0) -> Iterator[Program]:
    """Programs of networks that are drawn by chance, without those that have no C."""
    for seed in range(first, first + count):
        chance = random.Random(seed)
        kinds = [KINDS[seed % len(KINDS)] if at % 2 else chance.choice(KINDS) for at in range(1 + seed % _LAYERS)]
        model = Layers(seed).model(kinds)
        try:
            program = tflite.convert(as_int8(loaded(model), feed(model))).program
            c.generate(program, "net")
        except UnsupportedOperator:
            continue
        yield program


def main() -> None:
    version = subprocess.run([COMPILER, "-dumpversion"], check=True, capture_output=True, text=True).stdout.strip()
    once, often = (dict.fromkeys(c.kernel_names(), 0) for _ in range(2))
    ours = [quantised(name)[0].program for name in DIGITS]
    calls, beside = [], []
    for program in (*ours, *drawn(_DRAWN)):
        source, counted = c.generate(program, "net"), Counter(codesize.c_kernels(program))
        found = functions(source.c, source.header)
        invoked = found.pop("net_invoke")
        for name, size in found.items():
            seen = {1: once}.get(counted[name], often)
            seen[name] = max(seen[name], size)
        if program in ours:
            calls.append(invoked / counted.total())
        else:
            beside.append(invoked - max(calls) * counted.total())
    alone = {name: functions(_HEAD + "\n".join(c.piece(piece, "NET") for piece in c.pieces_of({name})))[name] for name in once}
    table = json.loads(TABLE.read_text())
    table["c"] = {
        "toolchain": f"{COMPILER} {version} -O2 -mcpu=cortex-m4",
        "source": "the kernels of this package, as networks of models/ and of drawn layers call them, at most",
        "core": max(0, math.ceil(quantiles(beside, n=20)[-1])),
        "call": math.ceil(max(calls)),
        "once": {name: once[name] or often[name] or alone[name] for name in once},
        "operators": {name: often[name] or alone[name] for name in often},
    }
    TABLE.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
