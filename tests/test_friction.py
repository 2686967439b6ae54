"""What a newcomer meets first: signs of life, spelling, narrow terminals, completion, and what a resumed run says."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_pruning import MODELS, Interrupted, interrupt, limits

from mcuprune import __version__, face, options, pruning, units
from mcuprune.cli import COMMANDS, main
from mcuprune.data.spelling import refuse_unknown
from mcuprune.errors import DataError, UsageError
from mcuprune.pruning import Request
from mcuprune.report.pictures import chart
from mcuprune.report.width import elided, fitted

ROOT = Path(__file__).parents[1]
MODEL = MODELS / "dscnn_digits.onnx"
LONG = "StatefulPartitionedCall/" + "/".join(f"functional_1/block_{i}/depthwise_conv" for i in range(12)) + "/Conv2D:0"


def fake_torch(folder: Path) -> dict[str, str]:
    """An environment in which torch tells that it is imported, and can't be."""
    (folder / "fake" / "torch").mkdir(parents=True)
    (folder / "fake" / "torch" / "__init__.py").write_text(
        "import sys\nprint('TORCH IMPORTED', file=sys.stderr)\nraise ImportError('none here', name='torch')\n"
    )
    return {**os.environ, "PYTHONPATH": f"{folder / 'fake'}{os.pathsep}{ROOT}", "TERM": "xterm", "COLUMNS": "100"}


# ---------------------------------------------------------------------------------------------------------------- spelling


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("digit", "did you mean 'digits'"),
        ("photos/tarin.npz", "did you mean 'photos/train.npz'"),
        ("nowhere.npz", "no such file"),
        ("mydata.py:load", "without .py: --data mydata:load"),
        ("nomodule_here:load", "no module 'nomodule_here'"),
    ],
)
def test_a_typo_in_data_is_answered_before_anything_heavy_is_imported(data: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "train.npz").write_bytes(b"")
    words = [sys.executable, "-m", "mcuprune", "prune", str(MODEL), "--macs", "50%", "--data", data]
    done = subprocess.run(words, cwd=tmp_path, env=fake_torch(tmp_path), capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert said in done.stderr
    assert "TORCH" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_what_is_there_is_left_to_whoever_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here_only_of_tests.py").write_text("raise SystemExit('it ran')\n")
    for spec in ("digits", str(tmp_path), "here_only_of_tests:load", "json:loads", None, {"x_train": [1]}):
        refuse_unknown(spec)
    with pytest.raises(DataError):
        refuse_unknown("here_only_of_test:load")


@pytest.mark.parametrize(
    ("text", "unit", "meant"),
    [
        ("64K", "bytes", "64KB"),
        ("64kb", "bytes", "64KB"),
        ("1.5mib", "bytes", "1.5MB"),
        ("10m", "count", "10M"),
        ("5K", "count", "5k"),
    ],
)
def test_a_unit_that_is_none_is_told_which_was_meant(text: str, unit: units.Unit, meant: str) -> None:
    with pytest.raises(UsageError, match=rf"did you mean {re.escape(meant)}\?"):
        units.parse(text, unit)
    assert units.parse(meant, unit).value > 0


@pytest.mark.parametrize(
    ("text", "unit", "least"),
    [
        ("0.1us", "time", "1us, the least time"),
        ("0.5", "time", "1us, the least time"),
        ("0.0001ms", "time", "1us, the least time"),
        ("0.0001k", "count", "1, the least count"),
        ("0.0001K", "count", "1, the least count"),
        ("0.0001KB", "bytes", "1 byte, the least size"),
        ("0.0001kb", "bytes", "1 byte, the least size"),
        ("0.9", "bytes", "1 byte, the least size"),
    ],
)
def test_less_than_the_smallest_unit_is_told_as_that(text: str, unit: units.Unit, least: str) -> None:
    with pytest.raises(UsageError, match=f"{re.escape(text)}' is less than {least}; write it like"):
        units.parse(text, unit)


@pytest.mark.parametrize("text", ["0kb", "64 apples", "K", "1.5.2K"])
def test_what_is_no_size_at_all_gets_examples(text: str) -> None:
    with pytest.raises(UsageError, match="write it like"):
        units.parse(text, "bytes")


# ----------------------------------------------------------------------------------------------------------- signs of life


def test_a_terminal_sees_a_sign_of_life_before_torch_is_imported(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    words = [sys.executable, "-m", "mcuprune", "prune", str(MODEL), "--macs", "50%", "--data", "digits"]
    words += ["-o", str(tmp_path / "o.onnx")]
    environment = {
        name: value for name, value in fake_torch(tmp_path).items() if name != "CI"
    }  # where CI is set, no bar is shown
    process = subprocess.Popen(words, env=environment, stdout=theirs, stderr=theirs, stdin=subprocess.DEVNULL)
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        seen += part
    os.close(ours)
    assert process.wait(60) == 2
    before, torch, _ = seen.decode(errors="replace").partition("TORCH IMPORTED")
    assert torch
    assert "mcuprune ..." in before
    assert "reading" in before


def test_each_epoch_tells_how_long_the_phase_will_take(
    capsys: pytest.CaptureFixture[str], few_digits: str, tmp_path: Path
) -> None:
    words = ["prune", str(MODEL), "--macs", "50%", "--data", few_digits, "--epochs", "4", "-o", str(tmp_path / "o.onnx")]
    assert main(words) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train")]
    assert re.search(r"left \d+:\d\d$", lines[1])
    assert "left" not in lines[-1]


# ---------------------------------------------------------------------------------------------------------------- resuming


def test_resume_says_which_option_differs(few_digits: str, tmp_path: Path) -> None:
    request = Request(str(MODEL), limits(macs="50%"), str(tmp_path / "o.onnx"), epochs=3, data=few_digits)
    with pytest.raises(Interrupted):
        pruning.prune(request, interrupt)
    for wishes, said in (
        ({"seed": 1}, "--seed was 0, is 1"),
        ({"epochs": 4}, "--epochs was 3, is 4"),
        ({"limits": limits(macs="40%")}, "limits was macs 50%, is macs 40%"),
    ):
        with pytest.raises(UsageError, match=re.escape(said)) as caught:
            pruning.prune(Request(**{**vars(request), **wishes, "resume": True}))
        assert "content of" not in str(caught.value)


# -------------------------------------------------------------------------------------------------------------- wide, narrow


def shown(words: list[str], columns: int) -> list[str]:
    """What a terminal of this width shows of a command."""
    ours, theirs = pty.openpty()
    import fcntl
    import struct
    import termios

    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-m", "mcuprune", *words], env={**environment, "NO_COLOR": "1"}, stdout=theirs, stdin=theirs
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:
            break
        if not part:
            break
        seen += part
    os.close(ours)
    assert process.wait(60) == 0
    return seen.decode().replace("\r\n", "\n").splitlines()


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_profile_is_no_wider_than_the_terminal(columns: int) -> None:
    lines = shown(["profile", str(MODELS / "resnet8_digits.onnx"), "--groups"], columns)
    assert max(map(len, lines)) <= columns
    assert any("TOTAL" in line for line in lines)
    whole = "/stage1/conv1/conv/Conv" in "\n".join(lines)
    assert whole or columns < 200


@pytest.mark.parametrize("most", [20, 60, 100, 300])
def test_a_long_name_loses_its_middle_and_keeps_both_ends(most: int) -> None:
    short = elided(LONG, most)
    assert len(short) == most
    head, _, tail = short.partition("...")
    assert LONG.startswith(head)
    assert LONG.endswith(tail)
    assert elided("conv1", most) == "conv1"


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=300), st.integers(40, 200))
def test_fitting_never_loses_a_line_that_is_short_enough(text: str, width: int) -> None:
    assert fitted("x" + text[: width - 1], width) == "x" + text[: width - 1]
    for line in fitted(f"the {LONG} is a name in a sentence that goes on for a while", width).split("\n"):
        assert len(line) <= width


@given(st.integers(1, 60), st.integers(0, 30), st.lists(st.text("ab", min_size=1, max_size=9), min_size=1, max_size=9))
def test_text_is_fitted_to_terminals_of_any_width(width: int, indent: int, words: list[str]) -> None:
    """Narrower than the indent of what goes on below, too: it ends, and no word is lost."""
    line = " " * indent + " ".join(words)
    assert fitted(line, width).split() == words
    table = f"name    12  {line}"
    assert fitted(table, width).split() == table.split()


@pytest.mark.parametrize("width", [-11, 0, 1, 8])
def test_memory_is_drawn_whatever_a_terminal_leaves_for_it(width: int) -> None:
    assert "memory over the schedule" in chart(face.profile(str(MODELS / "dscnn_digits.onnx")), width=width)[-1]


# -------------------------------------------------------------------------------------------------------------- completion


def completed(line: str, script: str) -> list[str]:
    """What bash offers for a line that has been typed so far."""
    words = line.split(" ")
    quoted = " ".join(f"'{word}'" for word in words)
    code = f"{script}\nCOMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _mcuprune; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.split()


def test_bash_completes_commands_flags_and_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion"]) == 0
    script = capsys.readouterr().out
    assert set(completed("mcuprune ", script)) >= set(COMMANDS)
    assert completed("mcuprune pru", script) == ["prune"]
    assert "--max-drop" in completed("mcuprune prune --ma", script)
    assert completed("mcuprune prune --task se", script) == ["segment"]
    assert completed("mcuprune prune some", script) == []  # then bash goes on with files


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_every_flag_of_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "--shell", shell]) == 0
    script = capsys.readouterr().out
    assert all(name in script for name in COMMANDS)
    assert "max-drop" in script


def test_the_version_has_a_short_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-V"]) == 0
    assert capsys.readouterr().out == f"mcuprune {__version__}\n"


def own_options(command: str) -> list[options.Option]:
    kind, *_ = getattr(import_module(f"mcuprune.cli.{command}"), command).reads
    return list(options.each(kind))


@pytest.mark.parametrize("command", COMMANDS)
def test_each_word_that_a_command_needs_is_asked_for(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """First what it works on, then every option without a default, with what it is for."""
    given = {"MODEL.onnx": str(MODEL), "DATA": "digits"}
    needed = [option for option in own_options(command) if option.required and not option.entries]
    typed: list[str] = []
    for option in sorted(needed, key=lambda option: not option.positional):
        assert main([command, *typed]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert (option.metavar if option.positional else option.flag) in said
        value = given.get(option.placeholder, "somewhere")
        typed += [value] if option.positional else [option.flag, value]


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--multiple-of", "1000"], "ask for less by --multiple-of: without it it holds"),
        (["--min-channels", "60", "--keep", "stage*"], "ask for less by --keep and --min-channels: without them it holds"),
    ],
)
def test_a_budget_that_flags_keep_out_of_reach_names_them(flags, named, tmp_path, capsys):
    model = str(MODELS / "resnet8_digits.onnx")
    command = ["prune", model, "--no-train", "--float", "--macs", "30%", *flags, "-o", str(tmp_path / "out.onnx")]
    assert main(command) == 2
    assert named in capsys.readouterr().err
    assert main([*command[:5], "0.001%", *flags, "-o", str(tmp_path / "out.onnx")]) == 2
    assert "ask for less" not in capsys.readouterr().err, "nothing holds this one"
