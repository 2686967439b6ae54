"""What people type, and get wrong: one message that helps, nothing lost."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import small_nets

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
        ("quiet = true", "unknown key 'quiet'"),
    ],
)
def test_a_setting_that_its_flag_would_not_take_is_one_message(line, said, capsys):
    configure(line)
    assert main(["prune", "net.onnx", "--macs", "50%", "--no-train", "-o", "small.onnx"]) == 2
    assert said in capsys.readouterr().err
    assert not Path("small.onnx").exists()
