"""No command writes over what it reads, or over another of its results; files are written whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import small_nets
from PIL import Image

from mcuprune import places, pruning
from mcuprune.cli import main
from mcuprune.data import loading
from mcuprune.errors import OutputError
from mcuprune.places import Output, Source

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A model with external data, an older one, data in a file and in a module, and a configuration."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("NO_COLOR", "1")
    onnx.save(small_nets.residual(), "net.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    small_nets.save(small_nets.residual(9), here / "old.onnx")
    x, y = np.random.default_rng(0).standard_normal((40, 3, 8, 8), np.float32), np.arange(40) % 10
    np.savez("data.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    Path("feed.py").write_text("import numpy\n\ndef load():\n    return numpy.load('data.npz')\n")
    for name in ("a", "b"):
        Path("photos", name).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(f"photos/{name}/0.png")
    Path("list.csv").write_text("file,label\nphotos/a/0.png,a\nphotos/b/0.png,b\n")
    Path("names.txt").write_text("a\nb\n")
    Path("mcuprune.toml").write_text('budget = { macs = "90%" }\n')
    return here


def snapshot() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(Path().rglob("*")) if path.is_file()}


PRUNE = ["prune", "net.onnx", "--macs", "50%", "--no-train", "--float"]
#: The same, for a format that holds int8.
PRUNED = PRUNE[:-1]
#: For each flag that names a file to write: the command around it, and what of it must be left alone.
WRITERS = {
    "prune -o": ([*PRUNE, "-o", "{}"], ("net.onnx", "weights.bin", "mcuprune.toml")),
    "prune -o, data": ([*PRUNE, "--data", "data.npz", "-o", "{}"], ("data.npz",)),
    "prune -o, function": ([*PRUNE, "--data", "feed:load", "-o", "{}"], ("feed.py",)),
    "profile --write-order": (
        ["profile", "net.onnx", "--against", "old.onnx", "--write-order", "{}"],
        ("net.onnx", "weights.bin", "old.onnx", "mcuprune.toml"),
    ),
    **{
        f"{command} --format {name}": (
            [command, "net.onnx", "--against", "old.onnx", "--format", f"{name}={{}}"],
            ("net.onnx", "weights.bin", "old.onnx", "mcuprune.toml"),
        )
        for command in ("profile", "check")
        for name in ("json", "markdown")
    },
    "check --format, second": (
        ["check", "net.onnx", "--against", "old.onnx", "--format", "json=answer.json", "--format=text={}"],
        ("net.onnx", "weights.bin", "old.onnx", "mcuprune.toml"),
    ),
    "prune -o, folder": ([*PRUNE, "--data", "photos", "-o", "{}"], ("photos/a/0.png",)),
    "prune -o, classes": ([*PRUNE, "--data", "photos", "--classes", "names.txt", "-o", "{}"], ("names.txt",)),
    "data --sheet, of a table": (["data", "net.onnx", "list.csv", "--sheet", "{}"], ("photos/a/0.png",)),
    "data --sheet": (
        ["data", "net.onnx", "photos", "--classes", "names.txt", "--sheet", "{}"],
        ("net.onnx", "weights.bin", "photos/a/0.png", "names.txt"),
    ),
    "verify --keep": (["verify", "net.onnx", "--keep", "{}"], ("net.onnx", "weights.bin")),
    "verify --tflite": (["verify", "net.onnx", "--tflite", "{}"], ("net.onnx", "weights.bin")),
    "verify --tflite, data": (["verify", "net.onnx", "--data", "photos", "--tflite", "{}"], ("photos/a/0.png",)),
}


def same(path: str) -> str:
    return path


def by_another_way(path: str) -> str:
    return os.path.join("..", "here", ".", path)


def absolute(path: str) -> str:
    return os.path.abspath(path)


def by_link(path: str) -> str:
    Path("link").symlink_to(path)
    return "link"


def by_hard_link(path: str) -> str:
    os.link(path, "hard")
    return "hard"


def by_linked_folder(path: str) -> str:
    Path("../there").symlink_to("here")
    return os.path.join("..", "there", path)


WAYS = (same, by_another_way, absolute, by_link, by_hard_link, by_linked_folder)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize(
    ("command", "source"), [(command, source) for command, sources in WRITERS.values() for source in sources], ids=str
)
def test_no_flag_destroys_what_its_command_reads(command, source, way, capsys):
    place = way(source)
    before = snapshot()
    assert main([word.format(place) for word in command]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{place}: is " in err
    assert err.count("\n") == 1
    assert {path: content for path, content in snapshot().items() if path != "answer.json"} == before


@pytest.mark.parametrize("place", [".", "photos", "photos/../.", str(Path(os.sep))])
def test_a_folder_in_the_place_of_a_file_is_called_one(place, capsys):
    assert main([*PRUNE, "-o", place]) == 2
    assert f"{place}: is a folder; name another place to write" in capsys.readouterr().err


def test_what_was_written_into_a_folder_of_data_may_be_written_anew():
    """A network is no example: that of the last run is replaced. A new picture takes nobody's place. Links may lead back."""
    Path("photos/a/back").symlink_to("..")
    Path("photos/out.onnx").write_bytes(b"of the last run")
    places.settle([Output("-o", "photos/out.onnx"), Output("--sheet", "photos/new.png")], loading.sources("photos"))
    with pytest.raises(OutputError, match="is a file of the data"):
        places.settle([Output("--sheet", "photos/a/back/b/0.png")], loading.sources("photos"))


@pytest.mark.parametrize(
    "command",
    [
        [*PRUNE, "-o", "rep/report.json", "--report", "rep"],
        [*PRUNE, "-o", "rep/../rep/report.md", "--report", "./rep"],
        [*PRUNE, "-o", "REP/Report.json", "--report", "rep"],
        [*PRUNE, "-o", "rep", "--report", "rep"],
        [*PRUNE, "-o", "rep/report.json/net.onnx", "--report", "rep"],
        [*PRUNED, "-o", "rep.c", "--report", "rep.h"],
        [*PRUNED, "-o", "rep.c", "--report", "rep.c"],
        [*PRUNED, "-o", "rep.tflite", "--report", "rep.onnx"],
        [*PRUNED, "-o", "rep.h", "--report", "rep.onnx.checkpoint"],
        ["profile", "net.onnx", "--format", "json=out", "--format", "markdown=out"],
        ["profile", "net.onnx", "--format", "json=out", "--format", "markdown=./out"],
        ["profile", "net.onnx", "--format", "json=out", "--format", "markdown=OUT"],
        ["profile", "net.onnx", "--format", "json=out.onnx", "--write-order", "out.onnx"],
        ["check", "net.onnx", "--format", "json=out", "--format", "text=link"],
    ],
    ids=" ".join,
)
def test_no_two_results_take_one_place(command, capsys):
    Path("link").symlink_to("out")
    before = snapshot()
    assert main(command) == 2
    assert "name another file to write" in capsys.readouterr().err
    assert {path: content for path, content in snapshot().items() if path not in ("out", "link")} == before
    assert not list(Path().glob("rep*"))


def test_the_state_for_resuming_replaces_neither_a_source_nor_a_file_of_another_kind(capsys):
    os.rename("old.onnx", "new.onnx.checkpoint")
    before = snapshot()
    words = ["prune", "new.onnx.checkpoint", "--macs", "50%", "--no-train", "--float", "-o", "new.onnx"]
    assert main(words) == 2
    assert "the state for --resume new.onnx.checkpoint: is the model to prune" in capsys.readouterr().err
    assert main([*PRUNE, "-o", "new.onnx"]) == 2
    assert "a file of another kind is there" in capsys.readouterr().err
    assert snapshot() == before


def test_an_error_in_json_takes_the_place_of_an_answer_and_of_nothing_else(capsys):
    for name in ("net.onnx", "weights.bin", "data.npz", "feed.py", "mcuprune.toml", "old.onnx"):
        before = snapshot()
        assert main(["check", "net.onnx", "--sram", "none", "--format", f"json={name}"]) == 2
        assert main(["check", "--srm", "--format", f"json={name}"]) == 2
        assert snapshot() == before


def test_a_function_of_the_api_keeps_the_same_promise():
    before = snapshot()
    for output in ("net.onnx", "weights.bin", "data.npz"):
        request = pruning.Request("net.onnx", {}, output, data="data.npz", train=False, int8=False)
        with pytest.raises(OutputError, match="name another file to write"):
            pruning.prune(request)
    assert snapshot() == before


def test_what_is_written_beside_a_named_file_replaces_nothing_but_its_own_kind(capsys):
    """The ONNX file beside a C file, and its header: neither is named by the user, who may have another of that name."""
    shutil.copy("net.onnx", "small.onnx")
    command = ["prune", "net.onnx", "--macs", "60%", "--no-train", "-q", "-o"]
    before = snapshot()
    assert main([*command, "small.c"]) == 2
    assert "would replace small.onnx too" in capsys.readouterr().err
    assert snapshot() == before
    for _ in range(2):  # what a run of the same command left is its own
        assert main([*command, "own.c"]) == 0
    Path("mine.h").write_text("int of_mine;")
    before = snapshot()
    for output, said in (
        ("mine.c", "would replace mine.h too"),
        ("own.h", "is the header of own.c"),
        ("string.c", "string.h would hide"),
        ("Stdint.h", "Stdint.h would hide"),
    ):
        assert main(["export", "own.onnx", "-o", output]) == 2
        assert said in capsys.readouterr().err
        assert snapshot() == before
    assert main(["export", "own.onnx", "-o", "own.c"]) == 0
    assert main(["export", "own.onnx", "-o", "mine.h"]) == 0, "the one that is named is replaced"
    capsys.readouterr()
    assert main(["export", "own.onnx", "-o", "mine.c"]) == 0, "and is ours now"
    assert "mine.h was the C array of an earlier export, and is the header of mine.c now" in capsys.readouterr().out
    assert main(["export", "own.onnx", "-o", "mine.c"]) == 0
    assert "an earlier export" not in capsys.readouterr().out


def test_verify_keeps_its_file_under_a_name_that_says_what_it_is(capsys):
    """Under .onnx or .bin it would end a model, or the weights of one, that the command doesn't read."""
    shutil.copy("weights.bin", "others.bin")
    before = snapshot()
    for name in ("others.bin", "other.onnx"):
        for flag in ("--tflite", "--keep"):
            assert main(["verify", "net.onnx", flag, name]) == 2
            assert f"{flag} {name}: would be a .tflite file under another name; end it in .tflite" in capsys.readouterr().err
            assert snapshot() == before


def test_devices_take_any_number_of_results(capfd):
    flags = [word for name in ("json", "markdown") for word in ("--format", f"{name}=/dev/stderr")]
    assert main(["profile", "net.onnx", *flags, "-q"]) == 0
    assert capfd.readouterr().err.count("net.onnx") > 1


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (["profile", "net.onnx", "--format", "json=/dev/stdout"], ('"format": 1', "TOTAL")),
        (
            ["check", "net.onnx", "--sram", "1B", "--format", "text", "--format", "github=/dev/stderr"],
            ("::error", "FAIL", "hi"),
        ),
    ],
)
def test_a_stream_that_goes_to_a_file_keeps_all_that_is_written_to_it(flags, wanted):
    """Opened anew, it would begin elsewhere in that file, and be overwritten by what comes next."""
    with open("log", "wb") as log:
        log.write(b"hi\n")
        log.flush()
        subprocess.run([sys.executable, "-m", "mcuprune", *flags], stdout=log, stderr=log, check=False)
    told = Path("log").read_text()
    assert all(words in told for words in wanted)


@pytest.mark.skipif(os.name != "posix", reason="files have no modes here")
def test_a_file_that_is_written_anew_keeps_who_may_read_it():
    Path("own.onnx").write_bytes(b"secret")
    os.chmod("own.onnx", 0o600)
    places.write_bytes(b"secret still", "own.onnx")
    assert os.stat("own.onnx").st_mode & 0o777 == 0o600
    assert Path("own.onnx").read_bytes() == b"secret still"


def test_a_stream_that_is_a_source_is_none():
    with open("old.onnx", "ab") as stream:
        output = Output("--format json", f"/dev/fd/{stream.fileno()}", stream=True)
        with pytest.raises(OutputError, match="is the model"):
            places.settle([output], [Source("the model", "old.onnx")])


# ------------------------------------------------------------------------------------------------------------ refused early


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("no/such/file", "No such file"),
        ("net.onnx/file", "Not a directory"),
        ("x" * 300, "File name too long"),
        ("d/" * 3000 + "x", "File name too long"),
        ("loop", "symbolic links"),
        ("/proc/nothing", ""),
        (".", ""),
    ],
)
@pytest.mark.parametrize("flag", ["--format=json=", "--write-order="])
def test_a_place_that_no_file_can_take_is_one_message_before_the_work(place, said, flag, monkeypatch, capsys):
    Path("loop").symlink_to("loop")
    monkeypatch.setattr("mcuprune.graph.network.load", None)  # any work would be a traceback
    before = snapshot()
    assert main(["profile", "net.onnx", flag + place]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert said in message
    assert snapshot() == before


def test_a_zero_byte_in_a_path_is_one_message(capsys):
    Path("mcuprune.toml").write_text('[prune]\noutput = "a\\u0000b"\n')
    assert main(PRUNE) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_protected_file_is_left_alone(monkeypatch):
    Path("kept").write_bytes(b"kept")
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("kept"))  # root may write anything
    with pytest.raises(OutputError, match="write-protected"):
        places.write_bytes(b"new", "kept")
    with pytest.raises(OutputError, match="write-protected"):
        places.settle([Output("-o", "kept")], [])
    assert Path("kept").read_bytes() == b"kept"


# ------------------------------------------------------------------------------------------------------- whole or not at all


class Full:
    """A file on a disk that takes a few bytes."""

    def __init__(self, stream):
        self._stream = stream

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, content):
        self._stream.write(content[:3])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("there", [None, b"old"], ids=["new file", "old file"])
@pytest.mark.parametrize("fault", ["full disk", "rename", "interrupt", "exit"])
def test_a_write_that_fails_leaves_what_was_there_and_nothing_more(fault, there, monkeypatch):
    if there is not None:
        Path("out").write_bytes(there)
    before = snapshot()
    if fault == "full disk":
        opened = open
        monkeypatch.setattr(places, "open", lambda *a, **k: Full(opened(*a, **k)), raising=False)
    else:
        error = {"rename": OSError(errno.EROFS, "Read-only file system"), "interrupt": KeyboardInterrupt, "exit": SystemExit}

        def replace(old, new):
            raise error[fault]

        monkeypatch.setattr(os, "replace", replace)
    expected = {"interrupt": KeyboardInterrupt, "exit": SystemExit}.get(fault, OutputError)
    with pytest.raises(expected):
        places.write_bytes(b"content", "out")
    assert snapshot() == before


def test_what_a_killed_run_left_is_removed_by_the_next_and_what_a_living_one_writes_is_not():
    code = (
        "import os, sys; from pathlib import Path; from mcuprune import places\n"
        "with places._partial(Path('out')):\n    print('there', flush=True)\n    sys.stdin.read()"
    )
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    names = ("out.mcuprune-mine.partial", "out.partial", "other.mcuprune-00000000.partial")
    for name in names:
        Path(name).write_bytes(b"somebody's")
    with subprocess.Popen(command, env=environment, **pipes) as process:
        assert process.stdout.readline() == b"there\n"
        left = set(Path().glob("out.mcuprune-????????.partial"))
        assert len(left) == 1
        places.settle([Output("-o", "out")], [])
        assert all(path.exists() for path in left)
        process.kill()
        process.wait()
    places.settle([Output("-o", "out")], [])
    assert not any(path.exists() for path in left)
    assert all(Path(name).read_bytes() == b"somebody's" for name in names)
