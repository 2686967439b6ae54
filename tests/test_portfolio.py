"""Portfolios: what is wanted, networks that are parts of one another, files that hold their budgets, and switching."""

from __future__ import annotations

import doctest
import functools
import gc
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tasks_data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import mcuprune
from mcuprune import exporting, units
from mcuprune.channels.labelling import Channels, label
from mcuprune.cli import main
from mcuprune.costs import resources, widths
from mcuprune.costs.resources import Budget
from mcuprune.data import loading as data
from mcuprune.data.sets import Data
from mcuprune.errors import BudgetError, DataError, McupruneError, ModelError, UsageError
from mcuprune.graph import network
from mcuprune.passes.canonical import canonical
from mcuprune.portfolio import independent, manifest, onchip, policies, serving, wanted
from mcuprune.portfolio.wanted import Variant
from mcuprune.pruning import STARTED_ANEW
from mcuprune.run import runners
from mcuprune.sweep.executors import Ended
from mcuprune.train import loop, narrowing, tracking
from mcuprune.train.module import Trainable
from mcuprune.train.nested import FamilyTrainer, Plan, nested_widths
from mcuprune.train.request import Request
from mcuprune.train.trainer import Trainer

torch.set_num_threads(1)

MODEL = Path(__file__).parents[1] / "models" / "dscnn_digits.onnx"
RESNET = MODEL.with_name("resnet8_digits.onnx")
SHARES = ("20%", "50%")


@functools.cache
def digits() -> Data:
    return data.load("digits", input_shape=(1, 16, 16), n_classes=10, seed=0)


@functools.cache
def normal(path: Path) -> Channels:
    channels = label(canonical(network.load(path))[0])
    return label(narrowing.normalized(channels, digits().train.x[:128]))


@functools.cache
def plan(path: Path, shares: tuple[tuple[float, float], ...]) -> Plan:
    """Budgets of (sram, macs) as shares of the network's own cost."""
    own = resources.profile(network.load(path)).used()
    budgets = [Budget({"sram": int(own["sram"] * sram), "macs": int(own["macs"] * macs)}) for sram, macs in shares]
    return Plan([widths.feasible(normal(path), budget) for budget in budgets], budgets)


# ---------------------------------------------------------------------------------------------------------- what is wanted


def test_flags_make_variants_of_their_values_in_turn_and_a_single_value_counts_for_all():
    found = wanted.of_flags({"sram": ("32KB", "64KB"), "flash": ("100kB",)})
    assert [variant.name for variant in found] == ["sram-32KB", "sram-64KB"]
    assert [{name: int(limit.value) for name, limit in variant.limits.items()} for variant in found] == [
        {"sram": 32768, "flash": 100_000},
        {"sram": 65536, "flash": 100_000},
    ]


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"sram": ("1KB", "2KB"), "macs": ("1M", "2M", "3M")}, "--sram has 2, --macs has 3"),
        ({"sram": ("1KB", "1024")}, "the same limits"),
        ({"sram": ("1KB", "1kb ")}, "not a size"),
    ],
)
def test_flags_that_make_no_sense_are_refused(limits, said):
    with pytest.raises(UsageError, match=said):
        wanted.of_flags(limits)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no variant"),
        ("[a\n", "is no TOML"),
        ("a = 3\n", "is no table"),
        ("[a]\n", "is no table"),
        ("[a]\nram = '3KB'\n", "no resource 'ram'"),
        ("[a]\nsram = true\n", "neither text nor"),
        ("[a]\nsram = '3 lightyears'\n", "not a size"),
        ("['../a']\nsram = 3000\n", "no name for a variant"),
        ("[a]\nsram = 3000\n[A]\nsram = 4000\n", "would be one file"),
    ],
)
def test_a_file_of_budgets_that_makes_no_sense_is_refused(tmp_path, text, said):
    (tmp_path / "budgets.toml").write_text(text)
    with pytest.raises(UsageError, match=said):
        wanted.of_file(str(tmp_path / "budgets.toml"))


def test_a_file_of_budgets_names_variants(tmp_path):
    (tmp_path / "budgets.toml").write_text("[tiny]\nsram = '2KB'\nmacs = '10%'\n[large]\nflash = 9000\n")
    tiny, large = wanted.of_file(str(tmp_path / "budgets.toml"))
    assert tiny == Variant("tiny", {"sram": units.parse("2KB", "bytes"), "macs": units.parse("10%", "count")})
    assert large.limits == {"flash": units.parse("9000", "bytes")}


# -------------------------------------------------------------------------------------------------------------- widths


@settings(max_examples=6, deadline=None)
@given(st.data())
def test_widths_hold_every_budget_and_a_smaller_budget_is_nowhere_wider(draw):
    path = draw.draw(st.sampled_from([MODEL, RESNET]))
    shares = ((0.3, 0.1), (0.5, 0.2), (0.5, 0.6), (0.8, 0.4))
    found = plan(path, shares)
    n = len(found.models[0].full)
    gradient = np.array(draw.draw(st.lists(st.floats(-1, 1), min_size=n, max_size=n)))
    chosen = nested_widths(found, gradient, seed=draw.draw(st.integers(0, 5)))
    for model, budget, row in zip(found.models, found.budgets, chosen, strict=True):
        assert budget.check(model.at(row)).ok
    for one, small in enumerate(shares):
        for other, large in enumerate(shares):
            if small[0] <= large[0] and small[1] <= large[1]:
                assert (chosen[one] <= chosen[other]).all()


# ------------------------------------------------------------------------------------------------------- shared weights


def family_trainer(path: Path, precision: str = "float32") -> tuple[FamilyTrainer, np.ndarray]:
    channels = normal(path)
    setting = {"lr": 0.1, "weight_decay": 0.0, "seed": 0, "optimizer": "sgd", "precision": precision}
    trainer = FamilyTrainer(channels, digits().train, total=4, batch=16, **setting)
    keep = channels.top([max(1, len(group) // 2) for group in channels.groups], np.arange(channels.n_components + 1.0))
    return trainer, keep


@pytest.mark.parametrize("path", [MODEL, RESNET], ids=["dscnn", "resnet8"])
def test_a_part_computes_what_the_cut_network_does_and_moves_no_weight_but_its_own(path):
    trainer, keep = family_trainer(path)
    trainer.join([keep])
    (part,) = trainer._present()
    x = digits().train.x[:16]
    (logits,) = trainer._of_part(part, [x])
    alone = Trainable(trainer.module.channels.with_network(trainer.module.network()).cut_channels(keep)).train()
    alone.want_logits()
    np.testing.assert_allclose(logits.detach(), alone(torch.from_numpy(x))[0].flatten(1).detach(), atol=1e-5)
    logits.square().sum().backward()
    channels = trainer.module.channels
    for name, weight in trainer.module.named_weights():
        inside = np.zeros(weight.numel(), bool)
        inside[channels.cut_constant(name, np.arange(weight.numel()).reshape(weight.shape), keep).ravel()] = True
        gradient = np.zeros(weight.shape) if weight.grad is None else weight.grad.numpy()
        assert not gradient.ravel()[~inside].any(), name
    assert any(weight.grad is not None and weight.grad.any() for _, weight in trainer.module.named_weights())


def test_a_step_costs_the_whole_the_narrowest_part_and_one_of_the_others():
    trainer, keep = family_trainer(MODEL)
    whole = trainer.step_macs(16)
    wider = keep.copy()
    wider[[group.components[0] for group in trainer.module.channels.groups]] = True
    trainer.join([keep, wider])
    costs = [resources.profile(trainer.module.channels.cut(one)).macs * 16 for one in (keep, wider)]
    assert trainer.step_macs(16) == whole + sum(costs)
    before = trainer.training_macs
    trainer.train_step()
    assert trainer.training_macs - before == whole + sum(costs)


def test_without_parts_a_family_trains_as_a_network_does():
    one, _ = family_trainer(MODEL)
    other = Trainer(normal(MODEL), digits().train, total=4, batch=16, lr=0.1, weight_decay=0.0, seed=0, optimizer="sgd")
    assert [one.train_step() for _ in range(2)] == [other.train_step() for _ in range(2)]


# --------------------------------------------------------------------------------------------------------------- making


@pytest.fixture(scope="module")
def made(tmp_path_factory, few_digits) -> Path:
    """A portfolio of two variants, made by the command with all that it exports."""
    folder = tmp_path_factory.mktemp("family") / "out"
    words = ["portfolio", str(MODEL), "--data", few_digits, "--macs", ",".join(SHARES), "--epochs", "3", "--export", "tflite,c"]
    if runners.compiler() is None:
        words[-1] = "tflite"
    assert main([*words, "-q", "-o", str(folder)]) == 0
    return folder


def document(folder: Path) -> dict:
    return json.loads((folder / "portfolio.json").read_bytes())


def test_every_variant_holds_its_budget_by_the_written_file(made):
    found, own = document(made), resources.profile(network.load(MODEL)).macs
    assert found["ok"]
    assert found["mode"] == "nested"
    for entry, share in zip(found["variants"], SHARES, strict=True):
        profile = resources.profile(network.load(made / entry["path"]))
        assert entry["total"]["macs"] == profile.macs <= own * int(share[:-1]) // 100 == entry["budget"]["macs"]
        assert entry["files"][entry["path"]] == manifest.digest(made / entry["path"])
        assert entry["accuracy_int8"] > 0.5
        assert entry["test_examples"] == 64


def test_the_channels_of_a_small_variant_are_among_those_of_a_large_one(made):
    small, large = document(made)["variants"]
    for one, other in zip(small["groups"], large["groups"], strict=True):
        assert set(one["kept"]) <= set(other["kept"])
        assert 0 < one["after"] <= other["after"] <= one["before"]


def test_training_costs_less_than_one_and_a_half_of_the_whole_network(made):
    cost = document(made)["cost"]
    assert 0 < cost["training_macs"] <= 1.5 * cost["one_training_macs"]


def test_everything_that_is_said_to_be_written_is(made):
    for entry in document(made)["variants"]:
        for file in (entry["path"], *entry["exported"]):
            assert (made / file).stat().st_size > 100
    assert not list(made.glob("*.checkpoint"))
    assert "<svg" in (made / "portfolio.html").read_text()
    assert "macs-20pct" in (made / "portfolio.md").read_text()


def test_a_folder_with_files_is_refused(made, capsys):
    words = ["portfolio", str(MODEL), "--data", "digits", "--macs", "20%,50%", "-o", str(made)]
    assert main(words) == 2
    assert "holds a portfolio already" in capsys.readouterr().err


def test_without_targets_the_network_as_it_came_teaches_all_variants(tmp_path, few_digits):
    words = ["portfolio", str(MODEL), "--data", few_digits, "--unlabelled", "--macs", "60%", "--epochs", "2", "-q"]
    assert main([*words, "-o", str(tmp_path / "out")]) == 0
    (entry,) = document(tmp_path / "out")["variants"]
    assert entry["metric"]["int8"] > 0.5
    assert mcuprune.Portfolio(tmp_path / "out").pick() == "macs-60pct"


@pytest.mark.parametrize("mode", [[], ["--sparse"]])
def test_a_family_trains_as_its_flags_say(tmp_path, few_digits, monkeypatch, mode):
    """What a method of prune would get: one that forgot a flag would train without it and say nothing."""
    tasks = []

    def stopped(trainer, hooks, *rest):
        tasks.append(hooks.task)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "train", stopped)
    words = ["portfolio", str(MODEL), "--data", few_digits, "--macs", "50%", "--epochs", "2", "-o", str(tmp_path / "out")]
    assert main([*words, *mode, "--precision", "bfloat16", "--seed", "7", "--multiple-of", "2"]) == 130
    assert [(task.precision, task.seed, task.multiple_of) for task in tasks] == [("bfloat16", 7, 2)]


def test_a_tracker_follows_the_training_of_a_family(tmp_path, few_digits, monkeypatch, capsys):
    steps = []

    class Kept(tracking.Tracker):
        package = "json"

        def __init__(self, place, settings):
            assert (place, settings["seed"]) == ("here", 3)

        def log(self, step, values):
            steps.append((step, values["loss"]))

        def end(self):
            steps.append("end")

    monkeypatch.setattr(tracking, "TRACKERS", {"kept": Kept})
    words = ["portfolio", str(MODEL), "--data", few_digits, "--macs", "60%", "--epochs", "1", "--seed", "3", "-q"]
    assert main([*words, "--track", "kept=here", "-o", str(tmp_path / "out")]) == 0
    assert [step["step"] for step in document(tmp_path / "out")["history"]] == [*dict.fromkeys(step for step, _ in steps[:-1])]
    assert steps[-1] == "end"
    assert main([*words, "--track", "other", "-o", str(tmp_path / "no")]) == 2
    assert "--track other: unknown" in capsys.readouterr().err


def test_parts_are_computed_in_the_precision_of_the_whole(monkeypatch):
    seen = []

    def look(answers, lessons):
        seen.append(answers[0].detach())
        return answers[0].sum()

    for precision in ("float32", "bfloat16"):
        trainer, keep = family_trainer(MODEL, precision)
        monkeypatch.setattr(trainer, "_taught_loss", look)
        trainer.join([keep])
        trainer.train_step()
    whole, part, whole_in_half, part_in_half = seen
    assert 0 < (whole - whole_in_half).abs().max() < 0.1
    assert 0 < (part - part_in_half).abs().max() < 0.1


def test_sparse_networks_are_measured_against_the_same_budgets(tmp_path, few_digits):
    words = ["portfolio", str(MODEL), "--data", few_digits, "--macs", "50%", "--epochs", "2", "--sparse", "-q"]
    code = main([*words, "-o", str(tmp_path / "out")])
    (entry,) = document(tmp_path / "out")["variants"]
    written = resources.profile(network.load(tmp_path / "out" / entry["path"]))
    assert entry["total"]["macs"] == written.macs
    assert entry["ok"] == (written.macs <= entry["budget"]["macs"]) == (code == 0)
    assert any(" parameters are physically left of " in note for note in document(tmp_path / "out")["notes"])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "a portfolio needs limits"),
        (["--macs", "1%,2%", "--budgets", "x.toml"], "each says what is wanted"),
        (["--macs", "10%,50%", "--independent", "--sparse"], "contradict"),
        (["--macs", "10%,50%", "--jobs", "2"], "--jobs goes with --independent"),
        (["--macs", "10%,50%", "--export", "exe"], "--export exe: unknown"),
        (["--sram", "10,20KB"], "variant sram-10: "),
        (["--sram", "6KB,,4KB"], "--sram: '6KB,,4KB' has an empty value"),
        (["--sram", "6KB,4KB,"], "has an empty value"),
        (["--macs", "10%,50%", "--export", "c,,tflite"], "has an empty value"),
    ],
)
def test_what_makes_no_sense_is_refused_before_the_work(tmp_path, capsys, flags, said):
    assert main(["portfolio", str(MODEL), "--data", "digits", *flags, "-o", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--input-shape", "image=1,3,5,5"], "image"),
        (["--input-shape", "nobody=1,1,16,16"], "nobody"),
        (["--teacher", "nope"], "--teacher nope: is no file"),
        (["--outputs", "nobody"], "nobody"),
    ],
)
def test_what_is_refused_leaves_no_folder(tmp_path, capsys, flags, said):
    """Not even those above it."""
    words = ["portfolio", str(MODEL), "--data", "digits", "--macs", "10%,50%"]
    for more in ([], ["--independent"]):
        assert main([*words, *flags, *more, "-o", str(tmp_path / "new" / "out")]) == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "new").exists()
    (tmp_path / "there").mkdir()
    assert main([*words, *flags, "-o", str(tmp_path / "there" / "out")]) == 2
    assert [*tmp_path.iterdir()] == [tmp_path / "there"]


@pytest.mark.thorough
def test_an_interrupted_training_goes_on_to_the_same_files(made, few_digits, tmp_path, monkeypatch):
    """Interrupted twice: in the training together, and between the two variants."""
    from mcuprune.portfolio import nested

    words = ["portfolio", str(MODEL), "--data", few_digits, "--macs", ",".join(SHARES), "--epochs", "3", "-q"]
    words += ["-o", str(tmp_path / "out")]
    train, write = FamilyTrainer.train_step, nested._written

    def interrupted(trainer):
        if trainer.step == trainer.steps_per_epoch + 2:
            raise KeyboardInterrupt
        return train(trainer)

    def once(*arguments):
        if arguments[1] == 1:
            raise KeyboardInterrupt
        return write(*arguments)

    monkeypatch.setattr(FamilyTrainer, "train_step", interrupted)
    assert main(words) == 130
    monkeypatch.setattr(FamilyTrainer, "train_step", train)
    monkeypatch.setattr(nested, "_written", once)
    assert main([*words, "--resume"]) == 130
    monkeypatch.setattr(nested, "_written", write)
    assert main([*words, "--resume"]) == 0
    hashes = [[entry["files"] for entry in document(folder)["variants"]] for folder in (made, tmp_path / "out")]
    assert hashes[0] == hashes[1]


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """All files of a folder, and when they were written."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def command_of_made(few_digits: str, folder: Path) -> list[str]:
    exported = "tflite" if runners.compiler() is None else "tflite,c"
    words = ["portfolio", str(MODEL), "--data", few_digits, "--macs", ",".join(SHARES), "--epochs", "3", "--export", exported]
    return [*words, "-q", "-o", str(folder), "--resume"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--epochs", "1"], "--epochs was 3, is 1"),
        (["--macs", "30%,60%"], "variant macs-20pct"),
        (["--sparse"], "road was nested, is sparse"),
        (["--independent"], "road was nested, is independent"),
        (["--seed", "4"], "--seed was 0, is 4"),
        (["--export", "tflite"], "--export was c,tflite, is tflite"),
        (["--data", "digits"], "--data was "),
    ],
)
def test_a_finished_portfolio_is_not_written_over_with_other_options(made, few_digits, tmp_path, capsys, words, said):
    folder = shutil.copytree(made, tmp_path / "out")
    before = contents(folder)
    assert main([*command_of_made(few_digits, folder), *words]) == 2
    assert said in capsys.readouterr().err or runners.compiler() is None
    assert contents(folder) == before


def test_a_finished_portfolio_is_kept_by_the_same_command(made, few_digits, tmp_path, capsys):
    folder = shutil.copytree(made, tmp_path / "out")
    before = contents(folder)
    command = command_of_made(few_digits, folder)
    assert main([*command, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == document(folder)
    assert contents(folder) == before
    (folder / "macs-50pct.onnx").unlink()
    assert main(command) == 2
    assert "macs-50pct.onnx: is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [{"variants": 7}, {"variants": [{}]}, {"course": []}, {"cost": None}],
    ids=lambda change: next(iter(change)),
)
def test_a_damaged_record_of_a_portfolio_is_one_message(made, few_digits, tmp_path, capsys, change):
    folder = shutil.copytree(made, tmp_path / "out")
    (folder / "portfolio.json").write_text(json.dumps({**document(made), **change}))
    before = contents(folder)
    assert main(command_of_made(few_digits, folder)) == 2
    said = capsys.readouterr().err
    assert contents(folder) == before
    assert said.count("\n") == 1
    assert "is no whole record of a portfolio" in said


@pytest.mark.parametrize("place", ["", "a" * 300, "net.onnx/out"])
def test_a_place_where_no_portfolio_can_be_is_one_message(tmp_path, monkeypatch, few_digits, capsys, place):
    monkeypatch.chdir(tmp_path)
    Path("net.onnx").write_bytes(MODEL.read_bytes())
    for resume in ([], ["--resume"]):
        assert main(["portfolio", "net.onnx", "--data", few_digits, "--macs", "40%,60%", "-o", place, *resume]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert os.listdir() == ["net.onnx"]


def test_a_portfolio_goes_on_in_no_folder_of_other_files(few_digits, tmp_path, capsys):
    (tmp_path / "macs-20pct.onnx").write_bytes(b"mine")
    assert main(command_of_made(few_digits, tmp_path)) == 2
    assert "holds files already" in capsys.readouterr().err
    assert (tmp_path / "macs-20pct.onnx").read_bytes() == b"mine"


@pytest.mark.thorough
def test_separate_runs_go_on_with_what_they_began_with_alone(few_digits, tmp_path, monkeypatch, capsys):
    class Interrupted:
        def run(self, runs, goes_on):
            yield from InProcess().run(runs[:1], goes_on)
            raise KeyboardInterrupt

    monkeypatch.setattr("mcuprune.sweep.executors.Processes", lambda jobs: Interrupted())
    kept = tmp_path / "set.npz"
    shutil.copy(few_digits, kept)
    words = ["portfolio", str(MODEL), "--data", str(kept), "--macs", ",".join(SHARES), "--epochs", "1", "--independent", "-q"]
    words += ["-o", str(tmp_path / "out")]
    assert main(words) == 130
    monkeypatch.setattr("mcuprune.sweep.executors.Processes", lambda jobs: InProcess())
    assert main([*words, "--resume", "--epochs", "2"]) == 2
    assert "--epochs was 1, is 2" in capsys.readouterr().err
    with np.load(few_digits) as arrays:
        np.savez(kept, **{**arrays, "x_test": arrays["x_test"][::-1], "y_test": arrays["y_test"][::-1]})
    assert main([*words, "--resume"]) == 2
    assert "content of the data" in capsys.readouterr().err
    shutil.copy(few_digits, kept)
    report = tmp_path / "out" / "runs" / "macs-20pct" / "report.json"
    written = report.read_text()
    report.write_text(written.replace('"multiple_of": 1', '"multiple_of": 2'))
    assert main([*words, "--resume"]) == 2
    assert f"{report}: is of another command (options.multiple_of was 2, is 1)" in capsys.readouterr().err
    report.write_text(written)
    assert main([*words, "--resume"]) == 0
    assert not list((tmp_path / "out").glob("*.checkpoint"))
    assert document(tmp_path / "out")["notes"] == []


def test_separate_runs_are_told_what_the_configuration_says_and_read_none(few_digits, tmp_path, monkeypatch):
    runs = []

    class Seen:
        def run(self, given, goes_on):
            runs.extend(given)
            raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mcuprune.sweep.executors.Processes", lambda jobs: Seen())
    words = ["portfolio", str(MODEL), "--data", str(few_digits), "--macs", "40%,60%", "--epochs", "1", "--independent"]
    assert main([*words, "-o", "without"]) == 130
    for run in runs:
        assert run.words[run.words.index("--config") + 1] == os.devnull, "one that comes later"
    runs.clear()
    Path("mine.toml").write_text("[prune]\nmultiple-of = 4\n")
    Path("mcuprune.toml").write_text("[prune]\nmultiple-of = 8\n")
    assert main([*words, "--config", "mine.toml", "-o", "out"]) == 130
    for run in runs:
        assert run.words[run.words.index("--multiple-of") + 1] == "4"
        assert run.words[run.words.index("--config") + 1] == os.devnull
    assert len(runs) == 2


class InProcess:
    """An executor that runs commands here, one after the other."""

    def run(self, runs, goes_on) -> Iterator[Ended]:
        for run in runs:
            yield Ended(run, main([*run.words, "-q"]))


@pytest.mark.thorough
def test_separate_runs_are_those_of_prune(tmp_path, few_digits):
    asked = Request(model=str(MODEL), limits={}, output="", data=few_digits)
    variants = wanted.of_flags({"macs": SHARES})
    words = ["--data", few_digits, "--no-train"]
    ended: list[str] = []
    made = independent.make(asked, variants, tmp_path, words, InProcess(), lambda run, left: ended.append(run.run.name))
    assert ended == ["macs-20pct", "macs-50pct"]
    for entry, share in zip(made.variants, SHARES, strict=True):
        alone = tmp_path / "alone.onnx"
        assert main(["prune", str(MODEL), *words, "--macs", share, "-q", "-o", str(alone)]) == 0
        one, other = (network.load(path).to_proto().graph for path in (alone, tmp_path / entry["path"]))
        assert one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True)


def test_separate_runs_that_there_is_nothing_to_go_on_with_of_say_so(tmp_path, few_digits):
    asked = Request(model=str(MODEL), limits={}, output="", data=few_digits, resume=True)
    words = ["--data", few_digits, "--no-train"]
    made = independent.make(asked, wanted.of_flags({"macs": ("50%",)}), tmp_path, words, InProcess(), lambda *_: None)
    assert made.notes == (STARTED_ANEW,)


def test_a_separate_run_without_an_answer_is_named(tmp_path):
    asked = Request(model=str(MODEL), limits={}, output="", data="digits")
    with pytest.raises(BudgetError, match="variant macs-10: "):
        independent.make(asked, wanted.of_flags({"macs": ("10",)}), tmp_path, ["--no-train"], InProcess(), lambda *_: None)


def test_the_front_leaves_out_what_another_variant_beats():
    def entry(name: str, accuracy: float, cost: int) -> dict:
        figure = {"int8": accuracy, "better": "higher"}
        return {"name": name, "metric": figure, "used": dict.fromkeys(("sram", "flash", "macs"), cost)}

    entries = [entry("a", 0.8, 10), entry("b", 0.7, 20), entry("c", 0.9, 20), entry("d", 0.9, 20)]
    assert manifest.pareto(entries) == {"a", "c", "d"}


# ------------------------------------------------------------------------------------------------------------ switching


def references(folder: Path, x: np.ndarray) -> dict[str, np.ndarray]:
    """What each variant answers, in a session of its own without graph optimisation."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    found = {}
    for entry in document(folder)["variants"]:
        session = onnxruntime.InferenceSession(str(folder / entry["path"]), options, providers=["CPUExecutionProvider"])
        found[entry["name"]] = session.run(None, {"image": x})[0]
    return found


@pytest.mark.parametrize("resident", ["all", "active"])
def test_under_load_every_answer_is_of_the_variant_that_it_is_tagged_with(made, resident):
    x = digits().test.x[:1]
    family = mcuprune.Portfolio(made, resident=resident)
    right = references(made, x)
    names = [*family.variants]
    apart = np.abs(right[names[0]] - right[names[1]]).max()
    done, wrong, counts = threading.Event(), [], [0] * 8

    def ask(index: int) -> None:
        while not done.is_set():
            answer = family.run({"image": x})
            if np.abs(answer["logits"] - right[answer.variant]).max() > apart / 4:
                wrong.append(answer.variant)
            counts[index] += 1

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    switches, until = 0, time.monotonic() + 60
    while (switches < 10 or not all(counts)) and time.monotonic() < until:
        family.switch(names[switches % 2])
        switches += 1
        time.sleep(0.05)
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert all(counts)
    assert switches >= 10


def test_an_old_session_ends_with_its_last_reader(made):
    family = mcuprune.Portfolio(made, active="macs-20pct", resident="active")
    reader = family._active  # what a request holds while it is answered
    old = weakref.ref(reader.session)
    family.switch("macs-50pct")
    assert reader.answer({"image": digits().test.x[:1]}).variant == "macs-20pct"
    assert old() is not None
    del reader
    gc.collect()
    assert old() is None


def test_files_may_go_and_take_no_memory_until_a_switch_reads_them(made, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(made, folder)
    family = mcuprune.Portfolio(folder, active="macs-20pct", resident="active")
    contents = [path.read_bytes() for path in folder.glob("*.onnx")]
    shutil.rmtree(folder)
    gc.collect()
    held = [value for value in gc.get_referents(*_reachable(family)) if isinstance(value, bytes)]
    assert not {*held} & {*contents}
    family.switch("macs-50pct")
    assert family.run({"image": digits().test.x[:1]}).variant == "macs-50pct"


def _reachable(root: object) -> list[object]:
    """Containers that an object leads to, modules and classes left out."""
    seen: dict[int, object] = {}
    waiting = [root]
    while waiting:
        value = waiting.pop()
        if id(value) not in seen and not isinstance(value, (type, type(sys))):
            seen[id(value)] = value
            waiting += gc.get_referents(value)
    return [*seen.values()]


def test_a_file_that_changes_under_an_open_portfolio_is_refused_at_the_switch(made, tmp_path):
    shutil.copytree(made, tmp_path / "copy")
    family = mcuprune.Portfolio(tmp_path / "copy", active="macs-20pct", resident="active")
    file = tmp_path / "copy" / "macs-50pct.onnx"
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size // 2)
    with pytest.raises(ModelError, match="is not the file"):
        family.switch("macs-50pct")
    assert family.run({"image": digits().test.x[:1]}).variant == "macs-20pct"


def test_a_portfolio_picks_the_most_accurate_variant_within_limits(made):
    family = mcuprune.Portfolio(made / "portfolio.json")
    small, large = family.variants.values()
    assert family.pick() == max(family.variants.values(), key=lambda variant: variant.accuracy).name
    assert family.pick(sram=small.used["sram"]) == "macs-20pct"
    assert family.pick(macs="20%") == "macs-20pct"
    assert family.pick(accuracy=small.accuracy) == "macs-20pct"
    assert family.pick(latency="10s", flash=large.used["flash"]) in family.variants
    with pytest.raises(BudgetError, match="no variant holds"):
        family.pick(sram=small.used["sram"] - 1)
    with pytest.raises(BudgetError, match="no variant holds"):
        family.pick(latency=1e-12)
    for wrong in ({"ram": 3}, {"sram": "much"}, {"latency": "soon"}):
        with pytest.raises(UsageError):
            family.pick(**wrong)


def with_figure(made: Path, folder: Path, values: list[float], **described: str) -> mcuprune.Portfolio:
    """A portfolio as ``made``, of another task. values: of its figure, by variant."""
    shutil.copytree(made, folder)
    changed = document(folder)
    for entry, value in zip(changed["variants"], values, strict=True):
        entry["metric"] = {**entry["metric"], **described, "float": value, "int8": value}
        entry["accuracy_int8"] = None
    (folder / "portfolio.json").write_text(json.dumps(changed))
    return mcuprune.Portfolio(folder)


def test_where_lower_figures_are_better_the_most_that_is_allowed_is_picked_by(made, tmp_path):
    described = {"name": "mae", "title": "mean absolute error", "unit": "value", "better": "lower"}
    family = with_figure(made, tmp_path / "copy", [0.5, 0.25], **described)
    assert family.pick() == "macs-50pct"
    assert family.pick(accuracy=0.5) == "macs-20pct", "the cheapest that is as good"
    assert family.pick(accuracy=0.3) == "macs-50pct"
    with pytest.raises(BudgetError, match=r"mean absolute error of at most 0\.2"):
        family.pick(accuracy=0.2)
    for wrong in ("30%", "good", True, float("nan"), [0.3]):
        with pytest.raises(UsageError, match=r"pick: accuracy: .* mean absolute error"):
            family.pick(accuracy=wrong)


def test_a_share_may_be_asked_for_in_per_cent(made, tmp_path):
    family = with_figure(made, tmp_path / "copy", [0.5, 0.75], name="miou", title="mIoU")
    assert family.pick(accuracy="50%") == family.pick(accuracy=0.5) == "macs-20pct"
    assert family.pick(accuracy="62.5 %") == "macs-50pct"
    with pytest.raises(BudgetError, match=r"no variant holds .*mIoU of at least 98\.0%"):
        family.pick(accuracy="98%")
    for wrong in ("much", "1e999%", True, float("nan"), [0.3], "98%%", 98):
        with pytest.raises(UsageError, match=r"pick: accuracy: .* mIoU"):
            family.pick(accuracy=wrong)


def test_a_file_that_is_missing_of_a_portfolio_is_named(made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "copy")
    (folder / "macs-50pct.onnx").unlink()
    with pytest.raises(UsageError, match=r"macs-50pct\.onnx: can't be read \(No such file"):
        mcuprune.Portfolio(folder)


def test_the_example_in_the_reference_runs(made):
    found = doctest.testmod(serving, extraglobs={"folder": made})
    assert found.attempted > 2
    assert not found.failed


def test_policies_name_variants(made):
    family = mcuprune.Portfolio(made)
    small, large = family.variants.values()
    assert family.follow(policies.by_memory(lambda: small.used["sram"])) == "macs-20pct" == family.active
    assert family.follow(policies.by_memory(lambda: 1)) == "macs-20pct"
    assert family.follow(policies.by_deadline(lambda: 60.0)) == family.pick()
    assert family.follow(policies.by_deadline(lambda: 1e-12)) in family.variants
    if small.pareto and large.pareto:
        assert family.follow(policies.by_battery(lambda: 0.1)) == "macs-20pct"
        assert family.follow(policies.by_battery(lambda: 1.0)) == "macs-50pct"


def test_a_policy_is_followed_until_the_block_ends_and_its_error_is_raised(made):
    family = mcuprune.Portfolio(made, active="macs-20pct")
    looked = threading.Event()

    def policy(portfolio):
        looked.set()
        return "macs-50pct"

    with family.following(policy, every=0.01):
        assert looked.wait(5)
        time.sleep(0.05)
    assert family.active == "macs-50pct"
    with pytest.raises(UsageError, match="no variant 'none'"), family.following(lambda portfolio: "none", every=0.01):
        time.sleep(0.05)


def test_inputs_that_the_network_does_not_take_are_named(made):
    family = mcuprune.Portfolio(made)
    with pytest.raises(DataError, match="take image, not x"):
        family.run({"x": np.zeros((1, 1, 16, 16))})
    with pytest.raises(DataError, match=r"\[1, 3, 16, 16\]"):
        family.run({"image": np.zeros((1, 3, 16, 16))})
    with pytest.raises(DataError, match=r"by the names of inputs, \{'image': \.\.\.\}, not a ndarray"):
        family.run(np.zeros((1, 1, 16, 16)))
    for strange in ("abc", [[1], [1, 2]], object(), {"a": 1}):
        with pytest.raises(
            DataError, match=r"run: what is given for input 'image', an object of type .*; give an array \(batch"
        ):
            family.run({"image": strange})
    for strange in ("macs-21pct", 5, None, ["macs-20pct"]):
        for ask in (family.switch, family.latency, lambda name: mcuprune.Portfolio(made, active=name or 7)):
            with pytest.raises(UsageError, match="no variant"):
                ask(strange)
    for strange in ([2], object(), True, float("nan")):
        with pytest.raises(UsageError, match=r"pick: latency: .* is no time"):
            family.pick(latency=strange)


@pytest.mark.parametrize("place", [5, None, ["folder"]])
def test_what_is_no_path_is_no_portfolio(place):
    with pytest.raises(UsageError, match=r"Portfolio: .* is no path; give that of a folder"):
        mcuprune.Portfolio(place)


def test_a_changed_file_is_refused(made, tmp_path):
    shutil.copytree(made, tmp_path / "copy")
    file = tmp_path / "copy" / "macs-20pct.onnx"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(ModelError, match="is not the file"):
        mcuprune.Portfolio(tmp_path / "copy")


@pytest.mark.parametrize(
    "change",
    [
        {"command": "prune"},
        {"format": 2},
        {"variants": []},
        {"variants": 3},
        {"variants": [{"name": "a", "path": "../x.onnx"}]},
        {"variants": [{"name": "a", "path": "/etc/passwd"}]},
        {"before": None},
        {"before": {"used": {"macs": float("inf")}}},
    ],
)
def test_a_document_that_is_no_portfolio_is_refused(made, tmp_path, change):
    (tmp_path / "portfolio.json").write_text(json.dumps({**document(made), **change}))
    with pytest.raises(UsageError, match="portfolio"):
        mcuprune.Portfolio(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("name", value) for value in ("", 3, "a\0b")),
        *(("path", value) for value in ("", "..", "no/such", [])),
        *(("used", value) for value in ({}, {"macs": 1e999}, {"macs": -1}, {"macs": "3"}, [])),
        *(("accuracy_int8", value) for value in ("0.9", 1e999, True)),
        *(("metric", value) for value in (None, {}, {"title": "t", "unit": "u", "better": "louder", "int8": 1})),
        ("pareto", "yes"),
        ("files", {}),
    ],
    ids=str,
)
def test_a_wrong_value_of_a_variant_is_one_message_that_names_the_document(made, tmp_path, key, value):
    folder = shutil.copytree(made, tmp_path / "copy")
    changed = document(folder)
    changed["variants"][0][key] = value
    (folder / "portfolio.json").write_text(json.dumps(changed))
    with pytest.raises(McupruneError, match="portfolio"):
        mcuprune.Portfolio(folder)


# ------------------------------------------------------------------------------------------------------------- on a chip


@pytest.mark.skipif(runners.compiler() is None, reason="no C compiler")
def test_c_selects_a_variant_at_run_time_in_one_arena(made, tmp_path):
    chip = made / "chip"
    command = [*(runners.compiler() or []), "-std=c99", "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*command, "-o", tmp_path / "run_all", *sorted(chip.glob("*.c"))], check=True)
    told = subprocess.run([tmp_path / "run_all"], check=True, capture_output=True, text=True).stdout.splitlines()
    assert told == [f"macs-{share}: as stored" for share in ("20pct", "50pct", "50pct", "20pct")]
    (tmp_path / "sizes.c").write_text(
        '#include <stdio.h>\n#include "mcuprune.h"\nextern int8_t mcuprune_arena[];\nint main(void) {\n'
        "  int most = 0;\n  for (int k = 0; k < MCUPRUNE_VARIANTS; k++)\n    if (mcuprune_variants[k].arena_bytes > most) "
        'most = mcuprune_variants[k].arena_bytes;\n  printf("%d %d %d %d %d\\n", most, MCUPRUNE_ARENA_BYTES, '
        "mcuprune_select(-1), mcuprune_select(2), mcuprune_selected());\n  return 0;\n}\n"
    )
    sources = [path for path in sorted(chip.glob("*.c")) if path.name != "main.c"]
    subprocess.run([*command, f"-I{chip}", "-o", tmp_path / "sizes", tmp_path / "sizes.c", *sources], check=True)
    most, arena, low, high, selected = map(int, subprocess.run([tmp_path / "sizes"], capture_output=True).stdout.split())
    assert most == arena == document(made)["sram"]["largest"]
    assert (low, high, selected) == (-1, -1, 0)


TASKS = tasks_data.of_each_task()


@pytest.mark.thorough
@pytest.mark.skipif(runners.compiler() is None, reason="no C compiler")
@pytest.mark.parametrize("name", TASKS)
def test_a_portfolio_of_any_task_is_made_and_written_as_c(tmp_path, name):
    """By outputs and targets, without --task, as prune goes by them: in the training and for the example of the C."""
    net, arrays = TASKS[name]
    net.save(tmp_path / "net.onnx")
    np.savez(tmp_path / "set.npz", **arrays)
    words = ["portfolio", str(tmp_path / "net.onnx"), "--data", str(tmp_path / "set.npz"), "--flash", "60%,90%"]
    assert main([*words, "--epochs", "1", "--export", "c", "-q", "-o", str(tmp_path / "out")]) == 0
    assert {entry["metric"]["name"] for entry in document(tmp_path / "out")["variants"]} == {name}
    sources = sorted((tmp_path / "out" / "chip").glob("*.c"))
    subprocess.run([*(runners.compiler() or []), "-std=c99", "-o", tmp_path / "run_all", *sources], check=True)
    subprocess.run([tmp_path / "run_all"], check=True)


@pytest.mark.parametrize("name", TASKS)
def test_an_example_for_firmware_is_of_the_data_whatever_the_task(name):
    net, arrays = TASKS[name]
    example, where, told = exporting.example_of(net, exporting.Request("net.onnx"), arrays)
    np.testing.assert_array_equal(example["x"], arrays["x_test"][:1])
    assert (where, told) == ("the test set of arrays", None)


def test_the_example_of_several_inputs_is_one_of_the_test_set() -> None:
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 3)) for name in ("left", "right")]
    answer = helper.make_tensor_value_info("z", TensorProto.FLOAT, (1, 3))
    graph = helper.make_graph([helper.make_node("Add", ["left", "right"], ["z"])], "both", ports, [answer])
    net = network.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), "net.onnx")
    left, right = (np.arange(start, start + 60, dtype=np.float32).reshape(20, 3) for start in (0, 500))
    arrays = {"x0_train": left, "x1_train": right, "y0_train": np.arange(20) % 3}
    arrays |= {"x0_test": left, "x1_test": right, "y0_test": np.arange(20) % 3}
    example, where, _ = exporting.example_of(net, exporting.Request("net.onnx"), arrays)
    assert where == "the test set of arrays"
    assert example.keys() == {"left", "right"}
    np.testing.assert_array_equal(example["left"], left[:1])
    np.testing.assert_array_equal(example["right"], right[:1])


#: Names of variants that are those of files, macros or functions that all variants of a chip have in common; headers of C; and
#: such as are the same identifier, or the same macro.
NAMES = (
    *("main", "example", "mcuprune", "inputs", "outputs", "variants", "arena_bytes", "H", "Mcuprune_x", "x_inputs", "x"),
    *("example_output", "string", "stdint", "int", "1a", "net_1a", "a.b", "a-b", "A_b", "a_b_1", "net_main", "arena", "kernel"),
)


@pytest.mark.thorough
@pytest.mark.skipif(runners.compiler() is None, reason="no C compiler")
def test_whatever_variants_are_called_their_c_compiles_and_answers(made, tmp_path):
    for name in NAMES:
        shutil.copy(made / "macs-20pct.onnx", tmp_path / f"{name}.onnx")
    asked = replace(Request(model=str(MODEL), limits={}, output=""), data="digits")
    files = onchip.write(tmp_path, NAMES, asked)
    chip = tmp_path / "chip"
    assert len({file.casefold() for names in files.values() for file in names}) == 2 * len(NAMES)
    assert len(list(chip.glob("*.c"))) == len(NAMES) + 2
    command = [*(runners.compiler() or []), "-std=c99", "-O0", "-Wall", "-Wextra", "-Werror", f"-I{chip}"]
    subprocess.run([*command, "-o", tmp_path / "run_all", *sorted(chip.glob("*.c"))], check=True)
    told = subprocess.run([tmp_path / "run_all"], check=True, capture_output=True, text=True).stdout.splitlines()
    assert told == [f"{name}: as stored" for name in (*NAMES, *reversed(NAMES))]
