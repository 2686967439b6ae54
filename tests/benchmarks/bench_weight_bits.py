"""Weights of 8 bits against 7: accuracy as ONNX defines the file, and in a default session of onnxruntime.

``python tests/benchmarks/bench_weight_bits.py --data DIR --files OUT [--seeds 0 1 2]`` writes an int8 file for each case, with
either number of bits, into OUT, and a row for each into ``weight_bits.jsonl``; ``weight_bits.md`` is drawn from it. DIR holds
kws12-mfcc.npz.

``... --files OUT --processor NAME`` measures the same files again in a default session of the processor that it runs on, and
adds the accuracies under that name. An x86 processor without VNNI can be emulated (user mode of QEMU 7.2 or later):

    qemu-x86_64 -cpu Haswell python tests/benchmarks/bench_weight_bits.py --data DIR --files OUT --processor Haswell
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from rows import read, replace_all

from mcuprune.data import loading as data
from mcuprune.data.sets import Split
from mcuprune.deploy.qdq import WEIGHT_BITS
from mcuprune.train import evaluate

HERE = Path(__file__).resolve().parent
ROWS, PAGE = HERE / "weight_bits.jsonl", HERE / "weight_bits.md"
MODELS = HERE.parents[1] / "models"
#: Keyword spotting: the DS-CNN of bench_accuracy, from scratch to half its multiply-accumulates.
_KWS = {"macs": "50%", "epochs": 8, "batch": 64}


def runs(folder: Path, files: Path, seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Write every file that isn't there and yield its row."""
    import bench_accuracy

    from mcuprune import pruning, units

    def made(name: str, **asked: Any) -> Iterator[dict[str, Any]]:
        for bits in WEIGHT_BITS[::-1]:
            out = files / f"{name}-{bits}bit.onnx"
            limit = {"macs": units.parse(asked["macs"], "count")}
            more = {key: value for key, value in asked.items() if key != "macs"}
            result = pruning.prune(pruning.Request(limits=limit, output=str(out), weight_bits=bits, **more))
            yield {
                "file": out.name,
                "case": name.rpartition("-seed")[0] or name,
                "seed": asked.get("seed", 0),
                "bits": bits,
                "settings": {key: value for key, value in asked.items() if key not in ("model", "data", "seed")},
                "float": result.accuracy_float,
                "exact": result.accuracy_int8,
                "default": {},
                "test_examples": result.test_examples,
                "versions": {package: version(package) for package in ("torch", "onnxruntime", "onnx", "numpy")},
            }

    for path in sorted(MODELS.glob("*.onnx")):
        yield from made(path.stem, model=str(path), data="digits", macs="100%", train=False)
    for seed in seeds:
        model, archive = bench_accuracy.files("T2", seed, folder, files)
        yield from made(f"kws-dscnn-seed{seed}", model=str(model), data=str(archive), seed=seed, **_KWS)


def measured(files: Path, rows: Sequence[dict[str, Any]], processor: str) -> None:
    """Add the accuracies of a default session on this processor to the rows."""
    for row in rows:
        path = files / row["file"]
        digits = row["case"].endswith("digits")
        shape = tuple(d.dim_value for d in onnx.load(path).graph.input[0].type.tensor_type.shape.dim[1:])
        if digits:
            test = data.load("digits", input_shape=shape, n_classes=10, seed=0).test
        else:
            stored = np.load(files / "T2.npz")
            test = Split(stored["x_test"].astype(np.float32).reshape(-1, *shape), stored["y_test"])
        row["default"][processor] = evaluate.accuracy_of(path, test, "default")


def page(rows: Sequence[dict[str, Any]]) -> str:
    """weight_bits.md."""
    processors = sorted({name for row in rows for name in row["default"]})
    head = ["network", "seeds", "bits", "float", "int8, exact", *(f"int8, default session, {name}" for name in processors)]
    lines = [
        "# Weights of 8 bits and of 7",
        "",
        (__doc__ or "").split("\n\n")[1].replace("``", "`"),
        "",
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
    ]
    for case in dict.fromkeys(row["case"] for row in rows):
        for bits in WEIGHT_BITS[::-1]:
            those = [row for row in rows if row["case"] == case and row["bits"] == bits]
            seeds = ", ".join(str(row["seed"]) for row in those)
            shares = [np.mean([row[key] for row in those]) for key in ("float", "exact")]
            shares += [np.mean([row["default"].get(name, np.nan) for row in those]) for name in processors]
            lines.append(f"| {case} | {seeds} | {bits} | {' | '.join(f'{share:.1%}' for share in shares)} |")
    versions = ", ".join(f"{name} {number}" for name, number in rows[0]["versions"].items())
    tests = ", ".join(f"{n} examples" for n in sorted({row["test_examples"] for row in rows}))
    lines += ["", f"Test sets of {tests}; {versions}. Digits: trained networks of `models/`, quantised without training."]
    lines += [f"Keywords: DS-CNN trained from scratch, {_KWS['epochs']} epochs, `--macs {_KWS['macs']}`; means over seeds."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--files", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--processor", help="measure the files again, in a default session of this processor")
    given = parser.parse_args()
    given.files.mkdir(parents=True, exist_ok=True)
    rows = read(ROWS) if given.processor else list(runs(given.data, given.files, given.seeds))
    if given.processor:
        measured(given.files, rows, given.processor)
    replace_all(ROWS, rows)
    PAGE.write_text(page(rows))


if __name__ == "__main__":
    main()
