"""How a command ends: its exit code tells yes, no, no answer and interrupted apart, and nothing is left behind."""

from __future__ import annotations

import builtins
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import small_nets

from mcuprune import console
from mcuprune.cli import main

ROOT = Path(__file__).parents[1]
HUGE = "9" * 5000

needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


@pytest.fixture(autouse=True)
def net(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    small_nets.save(small_nets.residual(), tmp_path / "net.onnx")


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def shell(line: str, *args: str, **kwargs) -> subprocess.CompletedProcess:
    """A line of bash in which ``$@`` is the command."""
    command = ["bash", "-c", line, "bash", sys.executable, "-m", "mcuprune", *args]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=60, **kwargs)


# ----------------------------------------------------------------------------------------------------------------- streams


def closed():
    return None


def full():
    return open("/dev/full", "w")


def left():
    """A pipe that nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


def shut():
    """A stream that somebody's code has closed."""
    stream = open(os.devnull, "w")  # noqa: SIM115
    stream.close()
    return stream


ANSWERS = {
    "profile": ["profile", "net.onnx"],
    "profile json": ["profile", "net.onnx", "--format", "json"],
    "check yes": ["check", "net.onnx", "--sram", "64KB"],
    "check no": ["check", "net.onnx", "--sram", "1KB"],
    "boards": ["boards"],
    "prune": ["prune", "net.onnx", "--macs", "50%", "--no-train", "--float"],
    "version": ["--version"],
    "help": ["--help"],
    "help of a command": ["check", "-h"],
}


@needs_full
@pytest.mark.parametrize("stream", [closed, full, shut], ids=lambda stream: stream.__name__)
@pytest.mark.parametrize("args", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_that_cannot_be_written_is_no_answer(args, stream, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", stream())
    assert main(args) == 2
    message = capsys.readouterr().err
    assert message.startswith("mcuprune: stdout can't be written (")
    assert message.count("\n") == 1


@pytest.mark.parametrize("args", ANSWERS.values(), ids=ANSWERS)
def test_a_reader_that_has_left_changes_no_answer(args, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", left())
    assert main(args) == (1 if "1KB" in args else 0)
    assert capsys.readouterr().err == ""


@needs_full
@pytest.mark.parametrize("stream", [closed, full, shut, left], ids=lambda stream: stream.__name__)
@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["check", "net.onnx", "--sram", "64KB", "-v"], 0),
        (["check", "net.onnx", "--sram", "1KB"], 1),
        (["check", "none.onnx", "--sram", "1KB"], 2),
        (["check", "net.onnx", "--sram", "none"], 2),
        (["prune", "net.onnx", "--macs", "50%", "--no-train", "--float", "--report", "rep"], 0),
    ],
)
def test_a_message_that_nobody_can_read_changes_nothing(args, code, stream, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream())
    assert main(args) == code


@needs_full
def test_a_bug_that_nobody_can_read_of_is_no_answer(monkeypatch):
    for stdout in (closed, full, left):
        monkeypatch.setattr("mcuprune.costs.resources.profile", None)
        monkeypatch.setattr(sys, "stdout", stdout())
        monkeypatch.setattr(sys, "stderr", full())
        assert main(["profile", "net.onnx", "--format", "json"]) == 2


@pytest.mark.parametrize(
    ("line", "code", "out", "err"),
    [
        ('"$@" >&-', 2, "", "mcuprune: stdout can't be written (it is closed)\n"),
        ('"$@" -q >&- 2>&- <&-', 0, "", ""),
        ('"$@" --format json=out.json -q >&-', 0, "", ""),
        ('"$@" 2>&- | head -c 8', 0, "net.onnx", ""),
    ],
)
def test_closed_streams_of_a_process(line, code, out, err):
    found = shell(f"set -o pipefail; {line}", "check", "net.onnx", "--sram", "64KB")
    assert (found.returncode, found.stdout, found.stderr) == (code, out, err)
    if "out.json" in line:  # no file that was opened got the number of a closed stream
        assert json.loads(Path("out.json").read_text())["ok"] is True


@pytest.mark.parametrize("args", [["profile", "net.onnx"], ["verify", "net.onnx"], ["check", "--sram", "1KB"]], ids=" ".join)
def test_a_current_folder_that_is_gone_is_one_message(args):
    found = shell('mkdir gone && cd gone && rmdir ../gone && exec "$@"', *args)
    assert found.returncode == 2
    assert found.stderr.startswith("mcuprune: the current folder can't be entered")
    assert found.stderr.count("\n") == 1


# --------------------------------------------------------------------------------------------------------------- interrupts


WAITING = """if True:
    import os, sys, time
    from mcuprune.__main__ import main
    def replace(old, new):
        sys.stderr.write("here\\n")
        sys.stderr.flush()
        time.sleep(60)
    os.replace = replace
    sys.exit(main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_an_interrupt_in_the_middle_of_a_write_leaves_nothing_behind(number):
    """A request to end is taken as Ctrl-C is: the contract knows one code for both."""
    Path("out.json").write_text("the old answer")
    command = [sys.executable, "-c", WAITING, "profile", "net.onnx", "--format", "json=out.json"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stderr.readline() == "here\n"
        assert len(list(Path().glob("*.partial"))) == 1
        process.send_signal(number)
        assert process.wait(30) == 130
        assert process.stderr.read() == "mcuprune: interrupted\n"
    assert sorted(path.name for path in Path().iterdir()) == ["net.onnx", "out.json"]
    assert Path("out.json").read_text() == "the old answer"


def test_a_signal_that_somebody_else_takes_is_left_to_them():
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with console.interruptible():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("error", ["ImportError", "RuntimeError", "SystemExit", "MemoryError"])
def test_what_escapes_from_an_import_is_no_answer(error):
    code = f"""if True:
        import sys
        class Finder:
            def find_spec(self, name, path=None, target=None):
                if name == "mcuprune.cli":
                    raise {error}(0)
        sys.meta_path.insert(0, Finder())
        from mcuprune.__main__ import main
        sys.exit(main())
    """
    command = [sys.executable, "-c", code, "profile", "net.onnx", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=60)
    assert done.returncode == 2
    assert json.loads(done.stdout) == {"format": 1, "error": {"kind": error, "message": "0"}}
    assert done.stderr.startswith("Traceback")


@pytest.mark.parametrize("raised", ["SystemExit(0)", "SystemExit(1)", "Own('no')", "RecursionError()"])
@pytest.mark.parametrize("where", ["import", "call", "array"])
def test_what_a_users_module_raises_is_one_message(raised, where, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "feed", raising=False)
    lines = ["class Own(BaseException):", "    pass", "class Lazy:", "    def __array__(self, *args, **kwargs):"]
    lines += [f"        raise {raised}", "def load():"]
    lines += [
        "    return dict.fromkeys(['x_train', 'y_train', 'x_test', 'y_test'], Lazy())" if where == "array" else "    pass"
    ]
    lines += [f"    raise {raised}"] if where == "call" else [f"raise {raised}"] if where == "import" else []
    Path("feed.py").write_text("\n".join(lines))
    assert main(["prune", "net.onnx", "--macs", "50%", "--no-train", "--float", "--data", "feed:load"]) == 2
    message = capsys.readouterr().err
    assert "raised" in message or "can't be turned into an array" in message
    assert message.count("\n") == 1


# --------------------------------------------------------------------------------------------------------- absurd arguments


FLAGS = {
    "profile": ["--rows", "--input-shape=x=1,3,8,"],
    "check": ["--sram", "--flash", "--macs", "--max-growth", "--rows", "--input-shape=x=1,3,8,", "--board", "--format"],
    "prune": [
        *("--sram", "--flash", "--macs", "--min-channels", "--multiple-of", "--seed", "--epochs", "--batch", "--prune-every"),
        *("--lr", "--weight-decay", "--label-smoothing", "--prune-start", "--prune-stop", "--device=cuda:", "--method"),
        *("--augment=crop", "--augment=noise", "--input-shape=x=1,3,8,", "--data", "--config", "--objectives"),
    ],
    "verify": ["--examples", "--seed", "--input-shape=x=1,3,8,"],
}
AROUND = {"check": ["--sram", "64KB"], "prune": ["--macs", "50%", "-o", "out.onnx"]}


@pytest.mark.parametrize(("command", "flag"), [(command, flag) for command, flags in FLAGS.items() for flag in flags])
@pytest.mark.parametrize(
    "value", [HUGE, "1" * 4000, f"{HUGE}%", f"0.{HUGE}", f"-{HUGE}"], ids=lambda value: value[:1] + value[-1:]
)
def test_a_number_of_thousands_of_digits_is_one_message(command, flag, value, capsys):
    if command == "verify" and value == "1" * 4000 and flag == "--examples":
        pytest.skip("as many examples as memory holds")
    words = [flag + value] if flag.endswith((",", ":", "crop", "noise")) else [flag, value]
    code = main([command, "net.onnx", *AROUND.get(command, []), *words])
    message = capsys.readouterr().err
    assert "Traceback" not in message
    assert code == 2 or (flag == "--rows" and not message)  # any number of rows is one that can be shown
    assert message.count("\n") == (code == 2)
    assert len(message) < 12_000


@pytest.mark.parametrize(
    "text",
    [
        "tool = 3 # mcuprune",
        "tool.mcuprune = 3",
        "[[tool.mcuprune]]",
        "tool = []#mcuprune",
        f"[tool.mcuprune]\nmax-growth = {'[' * 5000}{']' * 5000}",
        f"[tool.mcuprune]\nmax-growth = {'{a=' * 5000}1{'}' * 5000}",
        f"[tool.mcuprune]\nbudget.sram{'.a' * 3000} = 1",
        f"[tool.mcuprune]\nbudget.sram = {HUGE}",
        f"[tool.mcuprune]\nbudget.sram = 0x{'f' * 5000}",
        f"[tool.mcuprune]\nbudget.sram = '{HUGE}KB'",
        f"[tool.mcuprune]\nmax-growth = '{HUGE}%'",
        f"[tool.mcuprune]\ninput-shape.x = [1, 3, 8, 0x{'f' * 5000}]",
        f"[tool.mcuprune]\ninput-shape.x = '1,3,8,{HUGE}'",
        f"[tool.mcuprune.prune]\nepochs = 0x{'f' * 5000}",
        f"[[tool.mcuprune.model]]\npath = '{'x' * 5000}'",
        '[[tool.mcuprune.model]]\npath = "a\\u0000b"',
        '[[tool.mcuprune.model]]\npath = "a\\u0000*"',
        f"[tool.mcuprune]\nagainst = '{'x' * 5000}'",
        '[tool.mcuprune]\nagainst = "a\\u0000b"',
    ],
    ids=lambda text: text[:40],
)
@pytest.mark.parametrize("command", ["check", "profile", "prune"])
def test_a_configuration_of_absurd_values_is_one_message(command, text, capsys):
    Path("pyproject.toml").write_text(text)
    code = main([command, "net.onnx", *AROUND.get(command, []), *(["--no-train", "--float"] if command == "prune" else [])])
    message = capsys.readouterr().err
    assert code == 2 or (command == "prune" and "against" in text)  # to which prune pays no heed
    assert message.count("\n") <= 1
    assert "Traceback" not in message


@pytest.mark.parametrize("name", ["mcuprune.toml", "pyproject.toml", "given.toml"])
def test_a_configuration_that_cannot_be_read_is_one_message(name, monkeypatch, capsys):
    Path(name).write_text("[tool.mcuprune]")
    opened = open

    def refusing(path, *args, **kwargs):
        if str(path).endswith(name):
            raise PermissionError(13, "Permission denied")
        return opened(path, *args, **kwargs)

    monkeypatch.setattr("builtins.open", refusing)  # root may read anything
    flags = ["--config", name] if name == "given.toml" else []
    assert main(["check", "net.onnx", "--sram", "1KB", *flags]) == 2
    message = capsys.readouterr().err
    assert message.endswith(f"{name}: can't be read (Permission denied); name a file that is there and may be read\n")
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    "command", [["profile"], ["check", "--sram", "1KB"], ["prune", "--macs", "50%", "--no-train"], ["verify"]]
)
@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "long name", "loop", "socket", "empty name"])
def test_what_is_no_file_is_no_model(kind, command, capsys):
    name = {"device": "/dev/zero", "long name": "x" * 300, "empty name": ""}.get(kind, "odd.onnx")
    if kind == "folder":
        Path(name).mkdir()
    elif kind == "pipe":
        os.mkfifo(name)
    elif kind == "socket":
        os.mknod(name, 0o140644)
    elif kind == "loop":
        Path(name).symlink_to(name)
    assert main([command[0], name, *command[1:]]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"mcuprune: {name or '.'}: can't be read (")
    assert message.count("\n") == 1


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "loop", "long name"])
def test_what_is_no_file_is_no_data(kind, capsys):
    name = {"device": "/dev/zero", "long name": "x" * 300 + ".npz"}.get(kind, "odd.npz")
    if kind == "folder":
        Path(name).mkdir()
    elif kind == "pipe":
        os.mkfifo(name)
    elif kind == "loop":
        Path(name).symlink_to(name)
    assert main(["prune", "net.onnx", "--macs", "50%", "--no-train", "--float", "--data", name]) == 2
    message = capsys.readouterr().err
    assert name[:100] in message
    assert message.count("\n") == 1


#: Why a package can't be imported, and what is said of it.
LACKING = [
    (ModuleNotFoundError("No module named 'torch'", name="torch"), "needs torch, which isn't installed; pip install"),
    (ImportError("libtorch_cpu.so: cannot open shared object file"), "(libtorch_cpu.so: cannot open shared object file)"),
    (ImportError("cannot import name 'fx' from 'torch'", name="torch"), "(cannot import name 'fx' from 'torch')"),
    (ImportError(), "(ImportError)"),
    (OSError("libcudart.so.13: no such file\nand more"), "(libcudart.so.13: no such file)"),  # as torch loads libraries
]
#: By command, what can't be imported.
NEEDED = {
    "prune net.onnx --sram 90% --no-train": "mcuprune.train.fake_quant",
    "profile net.onnx --sensitivity": "mcuprune.train.at_init",
    "prune net.onnx --sram 90% --no-train --float --data digits": "onnxruntime",
}


@pytest.mark.parametrize(("error", "said"), LACKING)
@pytest.mark.parametrize("command", NEEDED)
def test_a_package_that_cannot_be_imported_is_told_in_its_own_words(
    command: str, error: Exception, said: str, monkeypatch, capsys
):
    usual, hidden = builtins.__import__, NEEDED[command]
    if hidden == "onnxruntime" and isinstance(error, OSError):
        pytest.skip("its libraries are those of one extension module")

    def imported(name: str, *rest: Any) -> Any:
        if hidden in (name, *(f"{name}.{part}" for part in (rest[2] if len(rest) > 2 else None) or ())):
            raise error
        return usual(name, *rest)

    monkeypatch.setattr(builtins, "__import__", imported)
    assert main(command.split()) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "None" not in told
