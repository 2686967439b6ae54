"""Write generated text into README.md, docs/ and the pages of benchmarks, or check (--check) that it is what stands behind it.

docs/operators.md is the operator table, docs/images/ has pictures of real profiles and runs. README.md and the pages of docs/
have generated blocks of these kinds:

* ``console``, first line ``$ mcuprune ...``: the command with its output;
* ``python``, first line ``# docs/examples/NAME.py``: that file, whose code the tests run;
* ``<!-- accuracy -->`` to ``<!-- end -->``: the table of measured accuracies;
* ``<!-- results -->`` to ``<!-- end -->``: four lines of results;
* ``<!-- commands -->`` to ``<!-- end -->``: every command with its options.

Accuracies and results, and the pages in tests/benchmarks, are drawn from the rows of the benchmarks.

Commands that answer at once are run again each time. ``prune`` trains, which other processors round differently, so its block
is drawn from the report of the run that ``python tests/readme.py`` made last (``tests/golden/demo.json``); --check draws it
again from there and holds the report against the model file that it is about.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

from mcuprune import units
from mcuprune.cli import main
from mcuprune.cli.reference import reference
from mcuprune.costs import banding, resources
from mcuprune.data.readers.table import READERS
from mcuprune.deploy import codesize
from mcuprune.deploy.kernels import KERNELS, MAX_TRANSPOSED
from mcuprune.deploy.lower import LOWERINGS
from mcuprune.graph import network
from mcuprune.operators import table as ops
from mcuprune.report import profile as report
from mcuprune.report import prune as outcome

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "benchmarks"))
import bench_accuracy  # noqa: E402
import bench_at_init  # noqa: E402
import bench_bands  # noqa: E402
import bench_budgets  # noqa: E402
import bench_compute  # noqa: E402
import bench_data  # noqa: E402
import bench_device  # noqa: E402
import bench_gpu  # noqa: E402
import bench_mutations  # noqa: E402
import bench_portfolio  # noqa: E402
import bench_quant_lr  # noqa: E402
import bench_runtimes  # noqa: E402
import bench_studies  # noqa: E402
import bench_sweep  # noqa: E402
import bench_tasks  # noqa: E402
import bench_weight_bits  # noqa: E402
from rows import read  # noqa: E402

README = ROOT / "README.md"
DOCS = ROOT / "docs"
OPERATORS = DOCS / "operators.md"
PICTURE, PICTURED = DOCS / "images" / "memory.svg", "models/branchy_digits.onnx"
BANDS, BANDED, BANDED_INTO = DOCS / "images" / "bands.svg", "models/resnet8_digits.onnx", 0.7
STORED = ROOT / "tests" / "golden" / "demo.json"
_BLOCK = re.compile(r"```console\n\$ mcuprune ([^\n]*(?:\\\n[^\n]*)*)\n(.*?)```", re.DOTALL)
BENCHES = (
    bench_accuracy,
    bench_at_init,
    bench_bands,
    bench_budgets,
    bench_compute,
    bench_data,
    bench_device,
    bench_gpu,
    bench_mutations,
    bench_portfolio,
    bench_quant_lr,
    bench_runtimes,
    bench_studies,
    bench_sweep,
    bench_tasks,
    bench_weight_bits,
)
_EXAMPLE = re.compile(r"```python\n# (docs/examples/\w+\.py)\n.*?```", re.DOTALL)
_MARKED = "(?<=<!-- {} -->\n).*?(?=\n<!-- end -->)"
_WIDTH = 128


def shown(command: str, *, check: bool) -> str:
    """What ``mcuprune command`` prints on stdout."""
    words = shlex.split(command.replace("\\\n", " "))
    if words[0] == "prune" and "--help" not in words:
        return _pruned(words, check=check)
    captured = io.StringIO()
    with contextlib.redirect_stdout(captured):
        code = main(words)
    if code not in (0, 1):
        raise SystemExit(f"`mcuprune {command}` ended with {code}")
    return captured.getvalue()


def _pruned(words: list[str], *, check: bool) -> str:
    if not check:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            main([*words, "--report", folder])
            STORED.parent.mkdir(exist_ok=True)
            STORED.write_text((Path(folder) / "report.json").read_text())
    found = json.loads(STORED.read_text())
    profile = resources.profile(network.load(words[1], accept=ops.accept(words[1])))
    if any(profile.total[name] != count for name, count in found["before"]["total"].items()):
        raise SystemExit(f"{STORED} is about another {words[1]}; run `make readme`")
    return outcome.text(found)


def rendered(text: str, *, check: bool) -> str:
    """``text`` with every generated block as it is now."""

    def block(match: re.Match[str]) -> str:
        return f"```console\n$ mcuprune {match[1]}\n{shown(match[1], check=check).rstrip()}\n```"

    def example(match: re.Match[str]) -> str:
        return f"```python\n# {match[1]}\n{(ROOT / match[1]).read_text().rstrip()}\n```"

    for name, drawn in (("accuracy", accuracies), ("results", results), ("commands", reference), ("readers", readers)):
        text = re.sub(_MARKED.format(name), lambda _, drawn=drawn: drawn(), text, flags=re.DOTALL)
    return _BLOCK.sub(block, _EXAMPLE.sub(example, text))


def accuracies() -> str:
    return bench_accuracy.summary(read(bench_accuracy.ROWS))


def readers() -> str:
    """docs/data.md: what ``--data`` reads."""
    rows = [[reader.what, reader.form] for reader in READERS]
    return "\n".join(report.markdown_table(["data", "form"], ["<", "<"], rows))


def results() -> str:
    """Four lines of README.md: what the committed rows of the benchmarks come to, where the tool is behind included."""
    _, _, *rows = (line.strip("| ").split(" | ") for line in accuracies().splitlines())
    peers = sorted((row for row in rows if row[4].strip()), key=_lead)
    ahead = sum(_lead(row) > 0 for row in peers)
    runs, compute = read(bench_budgets.ROWS), read(bench_compute.ROWS)
    held = [row["held"] for row in runs if row["seed"] < bench_budgets.REFUSALS]
    refused = [row["right"] for row in runs if row["seed"] >= bench_budgets.REFUSALS]
    graphs = json.loads((ROOT / "tests" / "benchmarks" / "memory.json").read_text())["graphs"]
    emulated = read(bench_device.ROWS)
    plain = [row for row in emulated if row["bands"] == "off"]
    same, examples = (sum(row[key] for row in emulated) for key in ("equal", "examples"))
    above = max(abs((row["code"] + row["constants"]) / row["image"] - 1) for row in plain)
    proven, better = (sum(test(row) for row in graphs) for test in (_exact, lambda row: row["peak"] < row["file_order"]))
    return "\n".join(
        [
            "* **Accuracy** of the int8 file at equal budget, data and epochs, beside Torch-Pruning trained by this tool's "
            f"optimiser: higher in {ahead} of {len(peers)} settings. The worst: {_told(peers[0])}; the best: "
            f"{_told(peers[-1])}. [All settings](docs/results.md)",
            "* **At equal training compute**, points ahead of uniform scaling, as narrow as which the default starts where "
            "compute is scarce beside the data or images can be smaller, and on smaller images first where they have colours: "
            f"{bench_compute.summary(compute)}. [All runs](tests/benchmarks/compute.md)",
            f"* **Budgets**: {sum(held)} of {len(held)} random ones on {len({row['model'] for row in runs})} networks held "
            f"in the written file, {sum(refused)} of {len(refused)} impossible ones refused before any training ([all budgets]"
            f"(tests/benchmarks/budgets.md)). **Schedule**: the least peak of SRAM proven for {proven} of {len(graphs)} "
            f"graphs, below that of the file's own order for {better} ([all graphs](tests/benchmarks/memory.md)).",
            f"* **On the chip**: generated C of {len({row['network'] for row in plain})} networks on emulated Cortex-M4, M7 "
            f"and M33 gave TensorFlow Lite Micro's bytes for {same:,} of {examples:,} examples, in static memory that is the "
            f"exact peak{_beyond(plain)}, at most {max(row['stack'] for row in emulated)} B of stack, and flash within "
            f"{above:.1%} of `total.image`. [All rows](tests/benchmarks/device.md)",
        ]
    )


def _beyond(rows: list[dict[str, Any]]) -> str:
    """What static memory takes at most beside the peak of activations."""
    most = max(row["ram"] - row["peak"] for row in rows)
    return f" and {most} B" if most else ""


def _exact(row: dict[str, Any]) -> bool:
    return bool(row["exact"])


def _lead(row: list[str]) -> float:
    """Points by which the tool is ahead of its peer, in a row of ``accuracies``."""
    return float(row[3].split()[0]) - float(row[4].split()[0])


def _told(row: list[str]) -> str:
    start = "from scratch" if row[1] == "scratch" else "from a trained network"
    return f"{row[3]} % against {row[4]} % ({row[0]}, {start}, budget {row[2]})"


def picture() -> str:
    """Memory over the schedule of an example network, with words around the bars that stay legible on light and on dark."""
    profile = resources.profile(network.load(PICTURED, accept=ops.accept(PICTURED)))
    memory, size = profile.memory, lambda value: units.show(value, "bytes").strip()
    bars = report.svg(profile, limit=memory.file_order, width=720, height=160).replace("<svg ", '<svg x="20" y="34" ', 1)
    level = 34 + 160 - 6 - memory.peak / memory.file_order * (160 - 12)
    label = f"{Path(PICTURED).stem}: SRAM over its {len(memory.timeline)} steps"
    words = [
        (20, 22, "start", label),
        (740, 22, "end", f"dashed: {size(memory.file_order)}, the peak in the file's own order"),
        (740, round(level) - 6, "end", f"peak {size(memory.peak)}" + (", and no order needs less" if memory.exact else "")),
    ]
    texts = "".join(f'<text x="{x}" y="{y}" text-anchor="{anchor}">{text}</text>' for x, y, anchor, text in words)
    style = "font:13px system-ui,sans-serif;fill:#808080"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 204" width="760" height="204" role="img" '
        f'aria-label="{label}"><g style="{style}">{texts}</g>{bars}</svg>\n'
    )


def bands_picture() -> str:
    """Memory over the schedule of an example network as it is, and in the row bands that a limit below its peak needs."""
    net = network.load(BANDED, accept=ops.accept(BANDED))
    plain = resources.profile(net)
    run = banding.in_bands(net, banding.Banding("peak", {"sram": int(plain.sram * BANDED_INTO)}))
    banded = resources.profile(run.network)
    before, after = (units.show(profile.sram, "bytes").strip() for profile in (plain, banded))
    label = f"{Path(BANDED).stem}: SRAM over the schedule, as it is and in row bands"
    more = banded.macs - plain.macs
    said = (
        f"as it is: {len(plain.memory.timeline)} steps, peak {before}",
        f"in row bands: {len(banded.memory.timeline)} steps, peak {after}, "
        + ("no more multiply-accumulates" if more <= 0 else f"{units.show(more, 'count').strip()} more MACs"),
    )
    panels, texts = [], []
    for row, (profile, text) in enumerate(zip((plain, banded), said, strict=True)):
        top = 34 + row * 150
        bars = report.svg(profile, limit=plain.sram, width=720, height=110)
        panels.append(bars.replace("<svg ", f'<svg x="20" y="{top}" ', 1))
        texts.append(f'<text x="20" y="{top - 12}">{text}</text>')
    texts.append(f'<text x="740" y="22" text-anchor="end">{Path(BANDED).stem}, one scale; dashed: {before}</text>')
    style = "font:13px system-ui,sans-serif;fill:#808080"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 304" width="760" height="304" role="img" '
        f'aria-label="{label}"><g style="{style}">{"".join(texts)}</g>{"".join(panels)}</svg>\n'
    )


def operators() -> str:
    """docs/operators.md: what the operator table knows."""
    return ops.table(LOWERINGS) + kernel_table()


def kernel_table() -> str:
    """The end of docs/operators.md: the kernels that int8 files call, and what each target makes of them."""
    code = codesize.table()["tflm"]
    rows = []
    for name, kernel in sorted(KERNELS.items()):
        steps = "its input's" if kernel.keeps else "" if kernel.writes is None else f"{kernel.writes.scale:.4g}"
        rows.append([name, f"{kernel.version}", f"{kernel.rank or ''}", steps, f"{code['operators'][name]:,}"])
    head, sides = ["Kernel", "Version", "Dimensions", "Steps of its output", "Code"], ["<", ">", ">", "<", ">"]
    told = [
        "What `export` writes calls these kernels of TensorFlow Lite. TensorFlow Lite Micro with its reference kernels, the "
        "same with CMSIS-NN, LiteRT and generated C run each of them. A node that takes none of them has no Kernel above: it "
        "is priced, pruned and written as `.onnx`; `export` to other files and `verify` refuse it by name. Of more dimensions "
        "than stand here, and for quotients that leave what DIV's shifts hold, a form is for generated C alone; the refusal "
        f"says so. Transposes are written with at most {MAX_TRANSPOSED} dimensions, which is what CMSIS-NN takes.",
        "Version: from which on a runtime computes this form in int8. Dimensions: how many TensorFlow Lite Micro takes, where "
        "files could have more. Steps: those that its output always has. Code: bytes on a Cortex-M4 "
        f"({code['toolchain']}), what kernels share counted in each, beside {code['core']:,} of the interpreter.",
    ]
    lines = [
        "",
        "## Kernels",
        *(line for paragraph in told for line in ("", *textwrap.wrap(paragraph, _WIDTH, break_long_words=False))),
        "",
        *report.markdown_table(head, sides, rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    import os

    os.chdir(ROOT)
    os.environ.update(COLUMNS=str(_WIDTH), NO_COLOR="1")
    check = "--check" in sys.argv
    pages = {OPERATORS: operators(), PICTURE: picture(), BANDS: bands_picture()}
    pages |= bench_compute.pictures(read(bench_compute.ROWS))
    pages |= {bench.PAGE: bench.page(stored) for bench in BENCHES if (stored := read(bench.ROWS))}
    if "--docs" not in sys.argv:
        pages[README] = rendered(README.read_text(), check=check)
    # after README.md, whose demo may have been trained anew; nothing is trained for docs/
    pages |= {page: rendered(page.read_text(), check=True) for page in sorted(DOCS.rglob("*.md")) if page != OPERATORS}
    for page, now in pages.items():
        if not check:
            page.parent.mkdir(exist_ok=True)
            page.write_text(now)
        elif not page.exists() or now != page.read_text():
            raise SystemExit(f"{page.relative_to(ROOT)} is stale; run `make readme docs` and look at the difference")
