"""Real networks in every runtime: does each compute the same, in the arena that is predicted?

    python tests/benchmarks/bench_runtimes.py [--only NAME ...] [--again] [--table]

Every ONNX file of a folder is cut to 60 % of its MACs without training, or quantised as it is where it can't be cut so far, and
run in all runtimes of ``verify`` on the same random inputs. Rows whose files are still the same are not measured again;
``--again`` does. ``runtimes.md`` is drawn from the rows. A row outside of what is promised makes it fail.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from rows import read, replace_all

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from conftest import CORPUS_SHAPES, corpus

from mcuprune import __version__, pruning, units
from mcuprune.costs import resources
from mcuprune.deploy import tflite
from mcuprune.deploy.tflite import Converted
from mcuprune.errors import McupruneError, UnsupportedOperator
from mcuprune.graph import network
from mcuprune.operators import table as ops
from mcuprune.run import runners
from mcuprune.run.verify import predicted

HERE = Path(__file__).parent
ROWS, PAGE = HERE / "runtimes.jsonl", HERE / "runtimes.md"
#: What every network is cut to, and where that is refused.
LIMITS = {"60 % of MACs": {"macs": units.parse("60%", "count")}, "whole": {"sram": units.parse("100%", "bytes")}}
#: Promised: by how many steps outputs differ, how far the arena's prediction lies above, and how many of all files run.
STEPS, ABOVE, RUN = 1, 1.02, 0.90
#: Examples of a network: as many as so many MACs allow.
EXAMPLES, MACS = 40, 2e9


def int8(path: Path, folder: Path) -> tuple[str, network.Network]:
    """Which of ``LIMITS`` a file was quantised under, and what came of it. Raises McupruneError where none of them works."""
    refused: McupruneError | None = None
    for name, limits in LIMITS.items():
        out = str(folder / "int8.onnx")
        try:
            shapes = CORPUS_SHAPES.get(path.name, {})
            pruning.prune(pruning.Request(str(path), limits, out, train=False, input_shapes=shapes))
            return name, network.load(out, accept=ops.accept(out), input_shapes=shapes)
        except McupruneError as error:
            refused = error
    assert refused is not None
    raise refused


def row(path: Path, known: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a file does in the runtimes; the known row where nothing has changed since."""
    about: dict[str, Any] = {"network": path.stem, "mcuprune": __version__}
    try:
        with tempfile.TemporaryDirectory() as folder:
            limits, net = int8(path, Path(folder))
        converted = tflite.convert(net, offline=True)
    except McupruneError as error:
        return about | {"refused": _said(error)}
    files, without = [], {}
    for key in runners.available():
        try:
            files += [content for _, content in sorted(runners.RUNNERS[key].files(converted).items())]
        except UnsupportedOperator as error:
            without[key] = _said(error)
    digest = hashlib.sha256(b"".join(files)).hexdigest()[:16]
    if known is not None and known.get("files") == digest:
        return dict(known)
    profile = resources.profile(net)
    count = max(2, min(EXAMPLES, int(MACS / profile.total["macs"])))
    keys = [key for key in runners.available() if key not in without]
    about |= {"limits": limits, "files": digest, "macs": profile.total["macs"], "without": without}
    return about | ran(keys, converted, count, path.stem)


def _said(error: McupruneError) -> str:
    """What is refused, without the place of the file."""
    return str(error).rpartition(".onnx: ")[2]


def ran(keys: Sequence[str], converted: Converted, count: int, name: str) -> dict[str, Any]:
    """Every runtime on ``count`` examples: how far the outputs of any two are apart, and the arena."""
    draw = np.random.default_rng(0)
    inputs = [
        {
            port.name: runners.real(np.clip(draw.normal(0, (40, 300)[turn % 2], port.shape), -128, 127).astype(np.int8), port)
            for port in converted.inputs
        }
        for turn in range(count)
    ]
    memory = predicted(converted)
    answers, arena, failed = {}, {}, {}
    for key in keys:
        try:
            found = runners.run(key, converted, inputs, name, limit=8 * memory.predicted + 2**22)
        except McupruneError as error:
            failed[key] = str(error)
            continue
        answers[key] = np.concatenate([found.outputs[port.name].reshape(count, -1) for port in converted.outputs], axis=1)
        arena = arena or (dict(found.arena) if runners.RUNNERS[key].reads_tflite else {})
    apart = {f"{a} {b}": int(np.abs(answers[a].astype(int) - answers[b]).max()) for a, b in combinations(answers, 2)}
    first = next(iter(answers.values()))
    return {
        "examples": count,
        "distinct": len({answer.tobytes() for answer in first}),
        "steps": apart,
        "failed": failed,
        "operators": len(converted.program.operators),
        "planned": bool(converted.plan),
        "arena": memory.predicted,
        "predicted": memory.same_pointers,
        "measured": arena.get("total"),
        "head_predicted": memory.head_predicted,
        "head_measured": arena.get("head"),
        "versions": {key: runners.RUNNERS[key].version() for key in answers},
    }


def broken(row: Mapping[str, Any]) -> list[str]:
    """The promises that a row doesn't keep."""
    if "refused" in row:
        return []
    found = [f"{runtime}: {why}" for runtime, why in row["failed"].items()]
    found += [f"{pair.replace(' ', ' and ')} are {steps} steps apart" for pair, steps in row["steps"].items() if steps > STEPS]
    if row["measured"] is not None and not row["measured"] <= row["predicted"] <= ABOVE * row["measured"]:
        found.append(f"arena {row['predicted']} predicted, {row['measured']} measured")
    return [f"{row['network']}: {what}" for what in found]


def share(rows: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """How many of the files that are written run alike everywhere, and how many are written."""
    written = [row for row in rows if "refused" not in row]
    return sum(not broken(row) and not row["without"] for row in written), len(written)


def page(rows: Iterable[Mapping[str, Any]]) -> str:
    """``runtimes.md``."""
    rows = sorted(rows, key=lambda row: row["network"])
    written = [row for row in rows if "refused" not in row]
    alike, count = share(rows)
    versions = {f"{runners.RUNNERS[key].title} {number}" for row in written for key, number in row["versions"].items()}
    lines = [
        "# Real networks in every runtime",
        "",
        "Each file cut to 60 % of its MACs without training, written, and run on the same random inputs in",
        f"{', '.join(sorted(versions))}. *apart*: the largest difference of any two of them, in steps of the output. The",
        "arena is that of TensorFlow Lite Micro here: pointers of 8 bytes, reference kernels; *device* is what is predicted",
        f"for 4 bytes and CMSIS-NN. `make bench-runtimes` makes this page, and fails where fewer than {RUN:.0%} are at most",
        f"{STEPS} step apart everywhere, or a predicted arena is too small or {ABOVE - 1:.0%} too large.",
        "",
        f"{alike} of {count} files that are written run in all runtimes, at most {STEPS} step apart.",
        "",
        "| network | cut to | operators | examples | distinct | apart | predicted | measured | above | head | device |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in written:
        apart = max(row["steps"].values(), default="-")
        known = row["measured"] is not None
        measured = f"{row['measured']:,}" if known else "-"
        above = f"{row['predicted'] / row['measured'] - 1:.2%}" if known else "-"
        head = "-" if not known else "exact" if row["head_predicted"] == row["head_measured"] else f"{row['head_measured']:,}"
        cells = [row["network"], row["limits"], row["operators"], row["examples"], row["distinct"], apart]
        cells += [f"{row['predicted']:,}", measured, above, head, f"{row['arena']:,}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    exceptions = [f"{row['network']}: {row['refused']}" for row in rows if "refused" in row]
    exceptions += [f"{row['network']}: {why}" for row in written for why in row["without"].values()]
    exceptions += [what for row in written for what in broken(row)]
    lines += ["", "Not in all of them, or further apart:", "", *(f"* {what}" for what in exceptions)]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="the stems of these files")
    parser.add_argument("--again", action="store_true", help="measure rows anew that are stored")
    parser.add_argument("--table", action="store_true", help="only draw the page")
    given = parser.parse_args()
    rows = {row["network"]: row for row in read(ROWS)}
    for path in [] if given.table else corpus():
        if given.only and path.stem not in given.only:
            continue
        begun = time.perf_counter()
        rows[path.stem] = row(path, None if given.again else rows.get(path.stem))
        replace_all(ROWS, (rows[key] for key in sorted(rows)))
        print(f"{time.perf_counter() - begun:.0f} s", rows[path.stem], flush=True)
    PAGE.write_text(page(rows.values()))
    alike, count = share(list(rows.values()))
    failures = [what for row in rows.values() for what in broken(row) if "arena" in what]
    if failures or alike < RUN * count:
        raise SystemExit("\n".join([*failures, f"{alike} of {count} run alike"]))


if __name__ == "__main__":
    main()
