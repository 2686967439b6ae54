"""A folder that mcuprune writes again and again: what it put there goes with it, what the user has there stays."""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest
from graphs import Graph
from test_tflite import int8, model_of

from mcuprune import exporting, handiwork
from mcuprune.deploy import project
from mcuprune.errors import OutputError
from mcuprune.run import runners

#: What two networks are written as, in folders that only one of them has, and in one that both have.
FIRST = {"README.md": b"first", "first.c": b"1", "arm/board.ld": b"board", "src/first.h": b"1h"}
SECOND = {"README.md": b"second", "src/second.c": b"2", "examples/run/run.ino": b"run"}


def content(folder: Path) -> dict[str, bytes]:
    """Relative path -> bytes of every file but the list; folders that hold none are there with a slash."""
    below = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))}
    files = {name: path.read_bytes() for name, path in below.items() if path.is_file() and name != handiwork.LIST}
    empty = (f"{name}/" for name, path in below.items() if path.is_dir() and not any(path.iterdir()))
    return {**files, **dict.fromkeys(empty, b"")}


def listed(folder: Path, files: Mapping[str, bytes]) -> None:
    """A list in a folder, as somebody else may have written it."""
    lines = (f"{hashlib.sha256(held).hexdigest()}  {name}\n" for name, held in files.items())
    (folder / handiwork.LIST).write_text("".join(lines))


def test_what_the_last_writer_put_there_goes_where_the_next_one_does_not_have_it(tmp_path: Path) -> None:
    assert handiwork.write(tmp_path, FIRST) == handiwork.Replaced((), ())
    (tmp_path / "src" / "mine.c").write_bytes(b"mine")
    mine = {"src/mine.c": b"mine"}
    assert handiwork.write(tmp_path, SECOND).removed == ("first.c", "arm/board.ld", "src/first.h")
    assert content(tmp_path) == {**SECOND, **mine}
    assert [line[66:] for line in (tmp_path / handiwork.LIST).read_text().splitlines()] == list(SECOND)
    retrained = {**FIRST, "first.c": b"retrained"}
    handiwork.refuse_theirs("--project", tmp_path, retrained)
    handiwork.write(tmp_path, retrained)
    assert content(tmp_path) == {**retrained, **mine}


def test_a_file_that_was_changed_since_stays_and_is_told(tmp_path: Path) -> None:
    handiwork.write(tmp_path, FIRST)
    (tmp_path / "first.c").write_bytes(b"1, and what I added")
    replaced = handiwork.write(tmp_path, SECOND)
    assert replaced.changed == ("first.c",)
    assert content(tmp_path) == {**SECOND, "first.c": b"1, and what I added"}
    with pytest.raises(OutputError, match=r"would replace first\.c, which mcuprune didn't write, or not as it is now"):
        handiwork.refuse_theirs("--project", tmp_path, FIRST)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no POSIX system")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_kill_at_any_moment_loses_no_file_of_the_user_and_leaves_nothing_that_is_refused(tmp_path: Path) -> None:
    """A child is killed before the first, the second, ... call that changes a folder, until it comes to its end."""
    retrained = {"README.md": b"again", "first.c": b"retrained", "src/first.h": b"1h"}
    folders = map(tmp_path.joinpath, map(str, itertools.count()))
    for calls, after in itertools.product(range(100), (SECOND, retrained, {**SECOND, "src/second.c": b"retrained"})):
        folder = next(folders)
        handiwork.write(folder, FIRST)
        theirs = {"src/mine.c": b"mine", "arm/board.ld": b"changed"}
        for name, held in theirs.items():
            (folder / name).write_bytes(held)
        ended = _killed_at(calls, folder)
        left = content(folder)
        assert {name: left[name] for name in theirs} == theirs
        handiwork.refuse_theirs("--project", folder, after)
        handiwork.write(folder, after)
        assert content(folder) == {**after, **theirs}
        if ended:
            assert calls > 2 * len(SECOND)
            return
    pytest.fail("the child never came to its end")


def _killed_at(calls: int, folder: Path) -> bool:
    """Whether a child that writes SECOND came to its end before it was killed at a call."""
    child = os.fork()
    if not child:
        left = [calls]

        def counted(change: object) -> object:
            def changes(*arguments: object, **options: object) -> object:
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1
                return change(*arguments, **options)  # type: ignore[operator]

            return changes

        for name in ("replace", "unlink", "rmdir", "mkdir"):
            setattr(os, name, counted(getattr(os, name)))
        code = 1
        try:
            handiwork.write(folder, SECOND)
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code == 0


@pytest.mark.parametrize(
    "name", ["../outside.txt", "sub/../../outside.txt", "{absolute}", "linked/outside.txt", "link.txt", "inner.txt"]
)
def test_nothing_outside_of_the_folder_of_a_list_is_removed_and_no_link(name: str, tmp_path: Path) -> None:
    """It comes with a folder that may be a stranger's, and so does every name in it."""
    outside, folder = tmp_path / "outside.txt", tmp_path / "folder"
    outside.write_bytes(b"mine")
    (folder / "sub").mkdir(parents=True)
    (folder / "linked").symlink_to(tmp_path)
    (folder / "link.txt").symlink_to(outside)
    (folder / "inner.txt").symlink_to("inside.txt")
    (folder / "inside.txt").write_bytes(b"mine")
    listed(folder, {name.format(absolute=outside): b"mine"})
    assert handiwork.write(folder, SECOND).removed == ()
    assert outside.read_bytes() == b"mine"
    assert all((folder / link).is_symlink() for link in ("link.txt", "inner.txt", "linked"))


@pytest.mark.parametrize("name", ["a\0b", "n" * 5000, "/", ".", "..", handiwork.LIST])
def test_a_list_with_names_that_no_file_has_is_taken_for_what_it_is(name: str, tmp_path: Path) -> None:
    listed(tmp_path, {name: b""})
    assert handiwork.write(tmp_path, SECOND).removed == ()
    assert content(tmp_path) == SECOND


def test_a_file_that_the_same_run_reads_or_writes_stays(tmp_path: Path) -> None:
    handiwork.write(tmp_path, FIRST)
    os.link(tmp_path / "first.c", tmp_path / "model")
    replaced = handiwork.write(tmp_path, SECOND, keeping=[tmp_path / "model", tmp_path / "not there"])
    assert "first.c" not in (*replaced.removed, *replaced.changed)
    assert (tmp_path / "first.c").read_bytes() == b"1"


def test_a_file_that_can_not_be_removed_is_one_message_and_stays_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handiwork.write(tmp_path, FIRST)
    unlink = os.unlink

    def refused(path: str, *rest: object, **options: object) -> None:
        if os.path.basename(path) == "first.c":
            raise PermissionError(1, "Operation not permitted")
        unlink(path, *rest, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", refused)
        with pytest.raises(OutputError, match=r"first\.c: can't be removed \(Operation not permitted\); remove it yourself"):
            handiwork.write(tmp_path, SECOND)
    handiwork.write(tmp_path, SECOND)
    assert content(tmp_path) == SECOND


@pytest.mark.skipif(runners.compiler() is None, reason="no C compiler here")
@pytest.mark.usefixtures("in_process")
def test_a_folder_holds_the_last_project_alone(tmp_path: Path) -> None:
    """A build system that takes every file of a folder, as Arduino's does, would compile both networks."""
    graph, out = Graph(1, 3, 6, 6), tmp_path / "out"
    model = int8(model_of(graph, graph.classifier(graph.conv("x", 3, 4), 4, 3)), tmp_path / "old.onnx")
    (tmp_path / "new.onnx").write_bytes(Path(model).read_bytes())
    for kind, name in (("cmake", "old"), ("zephyr", "new"), ("arduino", "old"), ("arduino", "new"), ("cmake", "old")):
        removes = out.exists()
        told = exporting.export(exporting.Request(str(tmp_path / f"{name}.onnx"), project=(kind, str(out))))
        assert set(content(out)) == set(project.paths(kind, name))
        assert any(note.startswith("removed what was left of an earlier project: ") for note in told.notes) == removes
    (out / "old.c").write_text("mine")
    told = exporting.export(exporting.Request(str(tmp_path / "new.onnx"), project=("zephyr", str(out))))
    assert any("old.c of an earlier project stays" in note for note in told.notes)
    assert (out / "old.c").read_text() == "mine"
