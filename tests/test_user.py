"""What people type, and get wrong: one message that helps, nothing lost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import small_nets

from mcuprune import pruning, units
from mcuprune.cli import main


@pytest.fixture(autouse=True)
def net(tmp_path, monkeypatch):
    """``net.onnx`` in a folder of its own: SRAM 1536 bytes at c2, flash 1,720 bytes, 87,632 MACs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    small_nets.save(small_nets.residual(), tmp_path / "net.onnx")


def configure(text: str) -> None:
    Path("mcuprune.toml").write_text(f"[prune]\n{text}\n")


# ----------------------------------------------------------------------------------------------- [prune] of mcuprune.toml


def test_flags_that_take_no_value_are_settings_too(capsys):
    configure('no-train = true\nfloat = true\nreport = "told"\nkeep = ["stem"]')
    assert main(["prune", "net.onnx", "--macs", "50%", "-o", "small.onnx"]) == 0
    assert {node.op_type for node in onnx.load("small.onnx").graph.node}.isdisjoint({"QuantizeLinear"})
    (stem,) = (group for group in json.loads(Path("told/report.json").read_text())["groups"] if group["name"] == "stem")
    assert stem["before"] == stem["after"]


def test_a_flag_with_two_spellings_is_a_setting_that_either_overrules(monkeypatch):
    """By the first of its names: so what is true by default can be switched off, and on again."""
    asked = []

    def prune(request, on_step, **more):
        asked.append(request)
        raise KeyboardInterrupt

    monkeypatch.setattr(pruning, "prune", prune)
    configure("freeze-at-budget = false")
    for flags in ([], ["--freeze-at-budget"]):
        assert main(["prune", "net.onnx", "--macs", "50%", *flags]) == 130
    assert [request.freeze_at_budget for request in asked] == [False, True]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('epochs = "many"', "epochs = 'many' is not a whole number from 1"),
        ("epochs = 0", "epochs = 0 is not a whole number from 1"),
        ("epochs = 1.5", "epochs = 1.5 is not a whole number from 1"),
        ("seed = true", "seed = True is not a whole number from 0"),
        ('lr = "fast"', "lr = 'fast' is not a number"),
        ("output = 3", "output = 3 is not a string"),
        ('keep = "stem"', "keep = 'stem' is not a list of strings"),
        ('no-train = "yes"', "no-train = 'yes' is not true or false"),
        ('freeze-at-budget = "no"', "freeze-at-budget = 'no' is not true or false"),
        ("quiet = true", "unknown key 'quiet'"),
    ],
)
def test_a_setting_that_its_flag_would_not_take_is_one_message(line, said, capsys):
    configure(line)
    assert main(["prune", "net.onnx", "--macs", "50%", "--no-train", "-o", "small.onnx"]) == 2
    assert said in capsys.readouterr().err
    assert not Path("small.onnx").exists()


# --------------------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("flag", ["--sram=１２KB", "--macs=５0%", "--max-growth=２%", "--input-shape=x=1,3,８,8"])
def test_digits_are_those_of_ascii(flag, capsys):
    assert main(["check", "net.onnx", "--sram", "1MB", "--against", "net.onnx", flag]) == 2
    assert "write it like" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------- places


def test_a_folder_is_no_place_for_a_model(capsys):
    assert main(["profile", "net.onnx", "--write-order", "."]) == 2
    assert "mcuprune: .: is a folder" in capsys.readouterr().err
    assert [path.name for path in Path().iterdir()] == ["net.onnx"]


def test_the_model_itself_is_no_place_for_the_pruned_one(capsys):
    before = Path("net.onnx").read_bytes()
    assert main(["prune", "net.onnx", "--macs", "50%", "--no-train", "-o", "../" + Path().absolute().name + "/net.onnx"]) == 2
    assert "is the model to prune; name another file" in capsys.readouterr().err
    assert Path("net.onnx").read_bytes() == before


def test_a_name_too_long_for_a_file_is_found_before_the_work(capsys):
    assert main(["prune", "net.onnx", "--macs", "50%", "--no-train", "-o", "x" * 250 + ".onnx"]) == 2
    assert "can't be written (File name too long)" in capsys.readouterr().err


def test_a_refused_prune_leaves_no_folders(capsys):
    assert main(["prune", "net.onnx", "--macs", "1", "--no-train", "-o", "new/small.onnx", "--report", "told"]) == 2
    assert [path.name for path in Path().iterdir()] == ["net.onnx"]


# ---------------------------------------------------------------------------------------------------------- flags of prune


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--lr", "-1"], "--lr: -1.0 is not a learning rate"),
        (["--lr", "0"], "--lr: 0.0 is not a learning rate"),
        (["--lr", "nan"], "--lr: nan is not a learning rate"),
        (["--seed", "9" * 20], "--seed"),
        (["--method", "bogus"], "--method bogus: unknown"),
        (["--no-train", "--method", "bogus"], "--method bogus: unknown"),
        (["--no-train", "--augment", "bogus"], "--augment: 'bogus' is unknown"),
        (["--data", ""], "--data ''"),
    ],
)
def test_a_flag_that_makes_no_sense_is_one_message(flags, said, capsys):
    assert main(["prune", "net.onnx", "--macs", "50%", "-o", "small.onnx", *flags]) == 2
    message = capsys.readouterr().err
    assert said in message
    assert message.count("\n") == 1
    assert not Path("small.onnx").exists()


def test_training_that_diverges_is_one_message(tmp_path, capsys):
    save_data()
    flags = ["--data", "data.npz", "--lr", "1e30", "--epochs", "6"]
    assert main(["prune", "net.onnx", "--macs", "50%", "-o", "small.onnx", *flags]) == 2
    assert "training diverged" in capsys.readouterr().err.splitlines()[-1]
    assert not Path("small.onnx").exists()


def test_a_model_that_is_no_classifier_is_told_how_to_be_cut(capsys):
    save_data()
    heads = small_nets.residual()
    heads.graph.output.append(onnx.helper.make_tensor_value_info(heads.graph.node[-1].input[0], onnx.TensorProto.FLOAT, [1, 8]))
    small_nets.save(heads, "heads.onnx")
    assert main(["prune", "heads.onnx", "--macs", "50%", "--data", "data.npz", "-o", "small.onnx"]) == 2
    assert "cut it without training: --no-train" in capsys.readouterr().err
    assert main(["prune", "heads.onnx", "--macs", "50%", "--no-train", "-o", "small.onnx"]) == 0


def save_data() -> None:
    x, y = np.random.default_rng(0).standard_normal((64, 3, 8, 8), np.float32), np.arange(64) % 10
    np.savez("data.npz", x_train=x, y_train=y, x_test=x, y_test=y)


# ---------------------------------------------------------------------------------------------------- what the screen says


def test_the_table_shows_the_arena_where_that_is_limited(capsys):
    flags = ["--no-train", "--float", "--sram-model", "tflm", "--report", "told"]
    assert main(["prune", "net.onnx", "--sram", "90%", "-o", "small.onnx", *flags]) == 0
    out = capsys.readouterr().out
    found = json.loads(Path("told/report.json").read_text())
    (row,) = (line for line in out.splitlines() if line.startswith("SRAM"))
    arena = [units.show(found[when]["memory"]["arena_tflm"], "bytes") for when in ("before", "after")]
    assert row.startswith("SRAM (tflm)")
    assert all(size in row for size in arena)


def test_quiet_says_nothing_of_a_report_either(capsys):
    flags = ["--no-train", "--float", "--report", "told", "-q"]
    assert main(["prune", "net.onnx", "--macs", "50%", "-o", "small.onnx", *flags]) == 0
    assert capsys.readouterr() == ("", "")
    assert Path("told/report.json").exists()


def test_an_interrupt_before_the_first_epoch_promises_nothing(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("mcuprune.pruning.prune", interrupted)
    assert main(["prune", "net.onnx", "--macs", "50%", "-o", "small.onnx"]) == 130
    assert "--resume" not in capsys.readouterr().err


def test_check_against_an_older_model_shows_what_changed(capsys: pytest.CaptureFixture[str]) -> None:
    models = Path(__file__).resolve().parent.parent / "models"
    model, old = str(models / "resnet8_digits.onnx"), str(models / "branchy_digits.onnx")
    assert main(["check", model, "--sram", "64KB", "--against", old]) == 0
    shown = capsys.readouterr().out
    for title in ("SRAM change", "flash change", "MACs change"):
        assert title in shown
    assert "was 18.0 KiB" in shown
